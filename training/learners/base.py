"""What all learners share: tensors as vectors, the mean over tasks, decaying rates, and the protocol."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from piaa_sdk.errors import DivergenceError
from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.checks import NOT_NEGATIVE, Interval, check_settings
from piaa_sdk.finetune.full import fine_tune
from piaa_sdk.finetune.network import mode, predict, scores_of
from training.data.ratings import person_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from piaa_sdk.finetune.full import Examples, FineTuning
    from piaa_sdk.finetune.network import AestheticNetwork, Params
    from training.tasks import Task, TaskSampler

DECAY_RULES = ("power", "compounding")


@dataclass(frozen=True, slots=True)
class Decay:
    """How learning rates fall.

    Attributes:
        factor: What they are multiplied by after every so many iterations.
        every: Those iterations; 0 never.
        rule: ``power``: factor^p in period p. ``compounding``: factor^(p (p + 1) / 2), which is what comes
            out if the rate at hand, not the first one, is multiplied by factor^p.
    """

    factor: float = 0.9
    every: int = 100
    rule: str = "power"

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ModelFormatError: One of them does.
        """
        check_settings(self, factor=Interval(0, 1, without_least=True), every=NOT_NEGATIVE, rule=DECAY_RULES)

    def at(self, iteration: int) -> float:
        """Return the factor on the first rates at an iteration, counted from 0."""
        if not self.every:
            return 1.0
        period = iteration // self.every
        return float(self.factor ** (period if self.rule == "power" else period * (period + 1) / 2))


@dataclass(frozen=True, slots=True, eq=False)
class MetaStep:
    """What one iteration of meta-training gave.

    Attributes:
        prior: theta after the outer step.
        support_loss: Mean over tasks of the squared error on the support set, before adaptation.
        query_loss: Mean over tasks of the squared error on the query set, after adaptation to the support
            set; nan for learners that have no such thing.
    """

    prior: Params
    support_loss: float
    query_loss: float


class Learner(Protocol):
    """A way to meta-learn a prior and to adapt it.

    Attributes:
        network: f_theta. Of its own tensors only those are read that no prior holds (``head.mean``,
            ``pixel_mean`` and their deviations); none is changed.
        average: Takes means over the tasks of all processes.
    """

    network: AestheticNetwork
    average: Average

    def first_prior(self, params: Params) -> Params:
        """Return what meta-training starts from, given the network's own tensors."""
        ...

    def tasks(self, sampler: TaskSampler, iteration: int, places: range | None = None) -> list[Task]:
        """Draw the meta-batch of an iteration: the tasks at some places of it, or all."""
        ...

    def meta_step(self, prior: Params, tasks: Sequence[Task], iteration: int) -> MetaStep:
        """Do one iteration of meta-training; ``prior`` is not changed."""
        ...

    def adapt(
        self,
        prior: Params,
        support: Examples,
        *,
        seed: int = 0,
        on_epoch: Callable[[int, Params], None] | None = None,
    ) -> Params:
        """Adapt the prior to one user, as meta-testing does.

        Args:
            prior: theta; not changed.
            support: The user's rated pictures.
            seed: Of dropout and augmentation.
            on_epoch: Called after each epoch with its number, counted from 1, and the tensors after it, which
                must not be changed and change with the next one. What solves at once has one epoch.
        """
        ...

    def predict(self, params: Params, inputs: torch.Tensor) -> torch.Tensor:
        """Score inputs (N, ...) with adapted tensors or with the prior: (N,)."""
        ...

    def scores(self, params: Params, inputs: torch.Tensor) -> torch.Tensor:
        """Score inputs as :meth:`predict` does, all at once, so that gradients can be taken of it."""
        ...

    def result(self, prior: Params) -> Params:
        """Return what is kept after the last iteration."""
        ...

    def state(self) -> Params:
        """Return all that must be kept beside the prior to go on after an interruption."""
        ...

    def load_state(self, state: Params) -> None:
        """Go on from what :meth:`state` returned."""
        ...


@dataclass(slots=True, eq=False)
class FineTunedLearner:
    """What learners have in common whose prior is fine-tuned to a user by eqs. 9 to 11.

    Attributes:
        network: f_theta. Of its own tensors only those are read that no prior holds (``head.mean``,
            ``pixel_mean`` and their deviations); none is changed.
        fine_tuning: Rates and epochs of meta-testing.
        average: Takes means over the tasks of all processes.
    """

    network: AestheticNetwork
    fine_tuning: FineTuning
    average: Average = field(default_factory=lambda: Average(), kw_only=True)

    def first_prior(self, params: Params) -> Params:
        """Return what meta-training starts from, given the network's own tensors."""
        return params

    def tasks(self, sampler: TaskSampler, iteration: int, places: range | None = None) -> list[Task]:
        """Sample a batch of users' tasks (Algorithm 1, line 4)."""
        return sampler.draw(iteration, places)

    def adapt(
        self,
        prior: Params,
        support: Examples,
        *,
        seed: int = 0,
        on_epoch: Callable[[int, Params], None] | None = None,
    ) -> Params:
        """Fine-tune the prior to one user (Algorithm 1, line 14)."""
        on_step = None if on_epoch is None else lambda step, _, params: on_epoch(step, params)
        return fine_tune(self.network, prior, support, self.fine_tuning, seed=seed, on_step=on_step)

    def predict(self, params: Params, inputs: torch.Tensor) -> torch.Tensor:
        """Score inputs (Algorithm 1, line 15)."""
        return predict(self.network, params, inputs)

    def scores(self, params: Params, inputs: torch.Tensor) -> torch.Tensor:
        """Score inputs without dropout and with running statistics, with gradients."""
        with mode(self.network, adapting=False):
            return scores_of(self.network, params, inputs)

    def result(self, prior: Params) -> Params:
        """Return the prior, which is what is kept."""
        return prior

    def state(self) -> Params:
        """Return nothing: an iteration knows all from the prior."""
        return {}

    def load_state(self, state: Params) -> None:
        """Go on from what :meth:`state` returned."""


class Average:
    """Means over the tasks of this process; :class:`training.distributed.AverageOverRanks` goes over all."""

    def mean(self, parts: Sequence[Params]) -> Params:
        """Return the mean of tensors by name over tasks; every task counts the same."""
        return scale(total(parts), 1 / len(parts))

    def mean_number(self, values: Sequence[float]) -> float:
        """Return the mean of one number per task."""
        return sum(values) / len(values)


@contextlib.contextmanager
def naming(task: Task, iteration: int) -> Iterator[None]:
    """Add to a divergence which task of which iteration it happened in.

    Raises:
        DivergenceError: The body did.
    """
    try:
        yield
    except DivergenceError as error:
        user = person_digest(task.user)[:8]
        raise DivergenceError(f"iteration {iteration}, task of user {user}: {error}") from error


def finite(loss: torch.Tensor, what: str) -> float:
    """Return a loss as a number.

    Raises:
        DivergenceError: It is not finite.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DivergenceError(f"the {what} is {value}; lower the learning rates")
    return value


def subtract(left: Params, right: Params) -> Params:
    """Return left - right, by name."""
    return {name: value - right[name] for name, value in left.items()}


def scale(params: Params, factor: float) -> Params:
    """Return all tensors times a factor."""
    return {name: value * factor for name, value in params.items()}


def total(parts: Sequence[Params]) -> Params:
    """Return the sum over tasks, by name."""
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def optimizer_state(optimizer: Adam) -> Params:
    """Return the moments of an optimizer as tensors by name."""
    return {
        "optimizer.steps": torch.tensor(optimizer.steps),
        # Copied, because the optimizer's next step changes its own in place.
        **{f"optimizer.first.{name}": value.clone() for name, value in optimizer.first.items()},
        **{f"optimizer.second.{name}": value.clone() for name, value in optimizer.second.items()},
    }


def load_optimizer(settings: AdamSettings, state: Params) -> Adam:
    """Make an optimizer that goes on from what :func:`optimizer_state` returned."""
    return Adam(
        settings,
        steps=int(state["optimizer.steps"]),
        first=part_of(state, "optimizer.first."),
        second=part_of(state, "optimizer.second."),
    )


def part_of(state: Params, prefix: str) -> Params:
    """Return the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value.clone() for name, value in state.items() if name.startswith(prefix)
    }
