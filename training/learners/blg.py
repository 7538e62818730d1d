"""BLG-PIAA: the prior by bilevel gradient optimization (Algorithm 1, eqs. 3 to 8).

Two configurations are kept, ``blg_as_paper.toml`` (eqs. 3 to 8 with the printed constants) and
``blg_as_released.toml`` (what the authors' code does). They differ in

================================  =============================  =============================================
setting                           as_paper                       as_released
================================  =============================  =============================================
network.classifier                false: pooled maps             true: the 1000 ImageNet logits
network.head.hidden               128                            1024, 512
network.head.output               linear                         sigmoid
network.head.standardize          true                           false
tasks.pool                        100 ratings per user           0: all ratings
tasks.users                       random: 4 users                shuffled: every user once per epoch, in fours
tasks.target                      unit: rating in [0, 1]         share: rating / 5
tasks.alter_query                 true                           false: only support pictures are cropped
blg.batch_norm                    frozen: the prior's            support: statistics of the batch
blg.moments                       reset before each level        carried through the whole run
blg.statistics                    averaged like the weights      carried from task to task, never reset
blg.outer_rule                    mean: eq. 8, beta = 0.01       sequential: 1/4 of the way, task by task
blg.result                        prior                          adapted: the network as the last task left it
blg.adam.second_decay             0.99                           0.999
blg.adam.weight_decay             1e-5                           0
blg.adam.bias_correction          false: eqs. 4 to 7 as printed  true: torch's Adam
blg.decay.every                   100 iterations                 42 iterations: an epoch of 165 users
blg.decay.rule                    power: 0.9^p                   compounding: 0.9^p on the rate at hand
fine_tuning.batch_norm            frozen                         support
fine_tuning.epochs                20                             19
fine_tuning.adam.second_decay     0.99                           0.999
fine_tuning.adam.weight_decay     1e-5                           0
fine_tuning.adam.bias_correction  false                          true
schedule.iterations               1000                           2100: 50 epochs
================================  =============================  =============================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.checks import NOT_NEGATIVE, check_settings
from piaa_sdk.finetune.full import Examples, descend, squared_error
from piaa_sdk.finetune.network import BATCH_NORMS, Params, is_statistic
from training.learners.base import (
    Decay,
    FineTunedLearner,
    MetaStep,
    finite,
    load_optimizer,
    naming,
    optimizer_state,
    part_of,
    scale,
    subtract,
)
from training.network import learning_rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.tasks import Task

OUTER_RULES = ("mean", "sequential")
MOMENTS = ("reset", "carried")
RUNNING_STATISTICS = ("averaged", "carried")
RESULTS = ("prior", "adapted")


@dataclass(frozen=True, slots=True)
class BlgConfig:
    """Settings of Algorithm 1.

    Attributes:
        steps: S, inner steps on each level.
        levels: 2 adapts to the support set and then to the query set; 1 to the support set alone, which is
            m_q = 0 in Fig. 5: the query set then only tells how good the adaptation is.
        backbone_rate: alpha of the convolutional layers.
        head_rate: alpha of the fully connected layers.
        adam: Constants of the inner optimizer.
        moments: ``reset`` to zero before each level, or ``carried`` through the whole run.
        batch_norm: ``frozen`` or ``support``, see :func:`piaa_sdk.finetune.network.mode`.
        statistics: What becomes of batch normalization's running statistics: ``averaged`` like the weights
            (eq. 8), or ``carried`` from one task to the next.
        outer_rule: ``mean`` is eq. 8; ``sequential`` moves the prior to each task's result in turn, by 1/k of
            the way, so that the last task counts most.
        outer_rate: beta of eq. 8; not used by ``sequential``.
        result: What is kept at the end: the ``prior``, or the tensors as the last task ``adapted`` them.
        decay: Of inner and outer rates.
    """

    steps: int = 5
    levels: int = 2
    backbone_rate: float = 1e-4
    head_rate: float = 1e-3
    adam: AdamSettings = AdamSettings()
    moments: str = "reset"
    batch_norm: str = "support"
    statistics: str = "averaged"
    outer_rule: str = "mean"
    outer_rate: float = 1e-2
    result: str = "prior"
    decay: Decay = Decay()

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ModelFormatError: One of them does.
        """
        check_settings(
            self,
            steps=NOT_NEGATIVE,
            levels=(1, 2),
            backbone_rate=NOT_NEGATIVE,
            head_rate=NOT_NEGATIVE,
            moments=MOMENTS,
            batch_norm=BATCH_NORMS,
            statistics=RUNNING_STATISTICS,
            outer_rule=OUTER_RULES,
            outer_rate=NOT_NEGATIVE,
            result=RESULTS,
        )


@dataclass(slots=True, eq=False)
class BilevelGradient(FineTunedLearner):
    """Algorithm 1.

    Attributes:
        config: Its constants.
        tasks_per_batch: k, for the rule ``sequential``.
    """

    config: BlgConfig
    tasks_per_batch: int = 4
    _optimizer: Adam | None = None
    _statistics: Params = field(default_factory=dict)
    _adapted: Params = field(default_factory=dict)

    def meta_step(self, prior: Params, tasks: Sequence[Task], iteration: int) -> MetaStep:
        """Do one iteration of Algorithm 1 (lines 4 to 11)."""
        rate_factor = self.config.decay.at(iteration)
        differences, support_losses, query_losses = [], [], []
        for task in tasks:  # line 5; eq. 4, then eq. 7
            with naming(task, iteration):
                start = prior | self._statistics
                adapted, support_loss = self._descend(start, task.support, rate_factor, task.seed)  # line 7
                query_losses.append(self._loss(adapted, task.query))
                if self.config.levels == 2:
                    adapted, _ = self._descend(adapted, task.query, rate_factor, task.seed + 1)  # line 9
            differences.append(subtract(prior, adapted))
            support_losses.append(support_loss)
            self._remember(adapted)
        return MetaStep(
            prior=subtract(prior, self._outer_step(differences, rate_factor)),  # line 11, eq. 8
            support_loss=self.average.mean_number(support_losses),
            query_loss=self.average.mean_number(query_losses),
        )

    def result(self, prior: Params) -> Params:
        """Return what the configuration says is kept."""
        if self.config.result == "adapted" and self._adapted:
            return self._adapted
        return prior | self._statistics

    def state(self) -> Params:
        """Return moments and running statistics that are carried from task to task."""
        # Copied, because the two share tensors, which safetensors does not store.
        state = {f"statistics.{name}": value.clone() for name, value in self._statistics.items()}
        if self.config.result == "adapted":
            state |= {f"adapted.{name}": value.clone() for name, value in self._adapted.items()}
        if self._optimizer is not None:
            state |= optimizer_state(self._optimizer)
        return state

    def load_state(self, state: Params) -> None:
        """Go on from what :meth:`state` returned."""
        self._statistics = part_of(state, "statistics.")
        self._adapted = part_of(state, "adapted.")
        self._optimizer = load_optimizer(self.config.adam, state) if "optimizer.steps" in state else None

    def _descend(
        self, start: Params, examples: Examples, rate_factor: float, seed: int
    ) -> tuple[Params, float]:
        config = self.config
        if config.moments == "reset":
            optimizer = Adam(config.adam)
        else:
            optimizer = self._optimizer = self._optimizer or Adam(config.adam)
        rates = learning_rates(
            start, backbone=config.backbone_rate * rate_factor, head=config.head_rate * rate_factor
        )
        return descend(
            self.network,
            start,
            examples,
            config.steps,
            optimizer,
            rates,
            batch_norm=config.batch_norm,
            seed=seed,
        )

    def _loss(self, params: Params, examples: Examples) -> float:
        return finite(squared_error(self.predict(params, examples.inputs), examples.ratings), "query loss")

    def _remember(self, adapted: Params) -> None:
        if self.config.statistics == "carried":
            self._statistics = {name: value for name, value in adapted.items() if is_statistic(name)}
        if self.config.result == "adapted":
            self._adapted = adapted

    def _outer_step(self, differences: list[Params], rate_factor: float) -> Params:
        """Return what eq. 8 takes from the prior, or what the sequential rule takes."""
        if self.config.outer_rule == "mean":
            return scale(self.average.mean(differences), self.config.outer_rate * rate_factor)
        share = 1 / self.tasks_per_batch
        taken = scale(differences[0], 0.0)
        # theta <- theta + share (theta_i - theta), where theta is what the tasks before have made of it.
        for difference in differences:
            taken = {name: value + share * (difference[name] - value) for name, value in taken.items()}
        return taken
