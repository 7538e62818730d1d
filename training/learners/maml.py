"""MAML (Finn, Abbeel and Levine 2017), second and first order.

theta_i' = theta - alpha grad L_support(theta), S times;
theta <- theta - beta times the mean of grad_theta L_query(theta_i').
First order takes the gradient at theta_i' in place of the one with respect to theta.
Running statistics are measured, not descended: the prior takes over the mean of what the tasks made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.checks import NOT_NEGATIVE, check_settings
from piaa_sdk.finetune.full import seeded
from piaa_sdk.finetune.network import BATCH_NORMS, Params, is_statistic, mode
from training.inner_loop import descend_sgd, loss_of
from training.learners.base import Decay, FineTunedLearner, MetaStep, finite, naming
from training.learners.outer import OUTER_OPTIMIZERS, OuterStep
from training.network import learning_rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.tasks import Task


@dataclass(frozen=True, slots=True)
class MamlConfig:
    """Settings of MAML.

    Attributes:
        steps: S, inner steps.
        backbone_rate: alpha of the convolutional layers.
        head_rate: alpha of the fully connected layers.
        first_order: Leave second derivatives out.
        batch_norm: ``frozen`` or ``support``, see :func:`piaa_sdk.finetune.network.mode`.
        outer_optimizer: ``sgd`` or ``adam``.
        outer_backbone_rate: beta of the convolutional layers.
        outer_head_rate: beta of the fully connected layers.
        adam: Constants, if that is the outer optimizer.
        decay: Of inner and outer rates.
    """

    steps: int = 5
    backbone_rate: float = 1e-3
    head_rate: float = 1e-2
    first_order: bool = False
    batch_norm: str = "support"
    outer_optimizer: str = "sgd"
    outer_backbone_rate: float = 1e-3
    outer_head_rate: float = 1e-2
    adam: AdamSettings = AdamSettings()
    decay: Decay = Decay()

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ModelFormatError: One of them does.
        """
        check_settings(
            self,
            steps=NOT_NEGATIVE,
            backbone_rate=NOT_NEGATIVE,
            head_rate=NOT_NEGATIVE,
            batch_norm=BATCH_NORMS,
            outer_optimizer=OUTER_OPTIMIZERS,
            outer_backbone_rate=NOT_NEGATIVE,
            outer_head_rate=NOT_NEGATIVE,
        )


@dataclass(slots=True, eq=False)
class Maml(FineTunedLearner):
    """MAML on users' tasks.

    Attributes:
        config: Its constants.
    """

    config: MamlConfig
    _outer: OuterStep = field(init=False)

    def __post_init__(self) -> None:
        """Make the outer optimizer."""
        self._outer = OuterStep(self.config.outer_optimizer, Adam(self.config.adam))

    def meta_step(self, prior: Params, tasks: Sequence[Task], iteration: int) -> MetaStep:
        """Do one iteration: adapt to each support set, and descend the losses on the query sets."""
        factor = self.config.decay.at(iteration)
        gradients, statistics, support_losses, query_losses = [], [], [], []
        for task in tasks:
            with naming(task, iteration):
                gradient, moved, support_loss, query_loss = self._gradient(prior, task, factor)
            gradients.append(gradient)
            statistics.append(moved)
            support_losses.append(support_loss)
            query_losses.append(query_loss)
        rates = learning_rates(
            prior,
            backbone=self.config.outer_backbone_rate * factor,
            head=self.config.outer_head_rate * factor,
        )
        updated = self._outer.step(prior, self.average.mean(gradients), rates)
        if statistics[0]:
            updated |= self.average.mean(statistics)
        return MetaStep(
            updated, self.average.mean_number(support_losses), self.average.mean_number(query_losses)
        )

    def state(self) -> Params:
        """Return the moments of the outer optimizer."""
        return self._outer.state()

    def load_state(self, state: Params) -> None:
        """Go on from what :meth:`state` returned."""
        self._outer.load_state(state)

    def _gradient(self, prior: Params, task: Task, factor: float) -> tuple[Params, Params, float, float]:
        """Return the gradient of one task's query loss, the statistics it moved, and both losses."""
        config = self.config
        learned = [name for name in prior if not is_statistic(name)]
        start = dict(prior) | {name: prior[name].detach().requires_grad_() for name in learned}
        inner = learning_rates(prior, backbone=config.backbone_rate * factor, head=config.head_rate * factor)
        with seeded(task.seed, task.support.inputs.device):
            adapted, support_loss = descend_sgd(
                self.network,
                start,
                task.support,
                config.steps,
                inner,
                batch_norm=config.batch_norm,
                keep_graph=not config.first_order,
            )
            if config.first_order:
                adapted |= {name: adapted[name].requires_grad_() for name in learned}
            with mode(self.network, adapting=True, batch_norm=config.batch_norm):
                loss = loss_of(self.network, adapted, task.query)
        at = adapted if config.first_order else start
        found = torch.autograd.grad(loss, [at[name] for name in learned])
        moved = {name: value.detach() for name, value in adapted.items() if is_statistic(name)}
        return dict(zip(learned, found, strict=True)), moved, support_loss, finite(loss, "query loss")
