"""BA-PIAA: the prior is a generic network (GIAA), trained on everybody's mean ratings.

Running statistics are measured, not descended: they move with the batches, whatever the learning rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.checks import NOT_NEGATIVE, check_settings
from piaa_sdk.finetune.full import seeded
from piaa_sdk.finetune.network import BATCH_NORMS, Params, is_statistic, mode
from training.inner_loop import loss_of
from training.learners.base import Decay, FineTunedLearner, MetaStep, finite, naming
from training.learners.outer import OuterStep
from training.network import learning_rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.tasks import Task, TaskSampler


@dataclass(frozen=True, slots=True)
class GenericConfig:
    """Settings of the generic network.

    Attributes:
        backbone_rate: Learning rate of the convolutional layers.
        head_rate: Learning rate of the fully connected layers.
        adam: Constants of the optimizer.
        batch_norm: ``frozen``, or ``support`` for the statistics of the batch.
        decay: Of the rates.
    """

    backbone_rate: float = 1e-4
    head_rate: float = 1e-3
    adam: AdamSettings = AdamSettings()
    batch_norm: str = "support"
    decay: Decay = Decay()

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ModelFormatError: One of them does.
        """
        check_settings(self, backbone_rate=NOT_NEGATIVE, head_rate=NOT_NEGATIVE, batch_norm=BATCH_NORMS)


@dataclass(slots=True, eq=False)
class Generic(FineTunedLearner):
    """Adam on the mean ratings of batches of images.

    Attributes:
        config: Its constants.
    """

    config: GenericConfig
    _outer: OuterStep = field(init=False)

    def __post_init__(self) -> None:
        """Make the optimizer."""
        self._outer = OuterStep("adam", Adam(self.config.adam))

    def tasks(self, sampler: TaskSampler, iteration: int, places: range | None = None) -> list[Task]:
        """Draw batches of images with their mean ratings; what is called the query set is not used."""
        return sampler.draw_means(iteration, places)

    def meta_step(self, prior: Params, tasks: Sequence[Task], iteration: int) -> MetaStep:
        """Do one step on the squared error of mean ratings."""
        gradients, statistics, losses = [], [], []
        learned = [name for name in prior if not is_statistic(name)]
        for task in tasks:
            params = dict(prior) | {name: prior[name].detach().requires_grad_() for name in learned}
            with (
                seeded(task.seed, task.support.inputs.device),
                mode(self.network, adapting=True, batch_norm=self.config.batch_norm),
            ):
                loss = loss_of(self.network, params, task.support)
            found = torch.autograd.grad(loss, [params[name] for name in learned])
            gradients.append(dict(zip(learned, found, strict=True)))
            statistics.append({name: value for name, value in params.items() if is_statistic(name)})
            with naming(task, iteration):
                losses.append(finite(loss, "loss"))
        factor = self.config.decay.at(iteration)
        rates = learning_rates(
            prior, backbone=self.config.backbone_rate * factor, head=self.config.head_rate * factor
        )
        updated = self._outer.step(prior, self.average.mean(gradients), rates)
        if statistics[0]:
            updated |= self.average.mean(statistics)
        return MetaStep(updated, self.average.mean_number(losses), math.nan)

    def state(self) -> Params:
        """Return the moments of the optimizer."""
        return self._outer.state()

    def load_state(self, state: Params) -> None:
        """Go on from what :meth:`state` returned."""
        self._outer.load_state(state)
