"""Reptile (Nichol, Achiam and Schulman 2018).

theta_i = S steps of SGD on all of a task's images, support and query merged;
theta <- theta + epsilon mean of (theta_i - theta).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from piaa_sdk.finetune.checks import NOT_NEGATIVE, check_settings
from piaa_sdk.finetune.full import seeded
from piaa_sdk.finetune.network import BATCH_NORMS, Params
from training.inner_loop import descend_sgd
from training.learners.base import Decay, FineTunedLearner, MetaStep, naming, scale, subtract
from training.network import learning_rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.tasks import Task


@dataclass(frozen=True, slots=True)
class ReptileConfig:
    """Settings of Reptile.

    Attributes:
        steps: S, inner steps.
        backbone_rate: alpha of the convolutional layers.
        head_rate: alpha of the fully connected layers.
        batch_norm: ``frozen`` or ``support``, see :func:`piaa_sdk.finetune.network.mode`.
        outer_rate: epsilon, the outer learning rate.
        decay: Of inner and outer rates.
    """

    steps: int = 10
    backbone_rate: float = 1e-3
    head_rate: float = 1e-2
    batch_norm: str = "support"
    outer_rate: float = 0.1
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
            outer_rate=NOT_NEGATIVE,
        )


@dataclass(slots=True, eq=False)
class Reptile(FineTunedLearner):
    """Reptile on users' tasks.

    Attributes:
        config: Its constants.
    """

    config: ReptileConfig

    def meta_step(self, prior: Params, tasks: Sequence[Task], iteration: int) -> MetaStep:
        """Do one iteration: move the prior towards where plain descent on each task ends."""
        config = self.config
        factor = config.decay.at(iteration)
        rates = learning_rates(prior, backbone=config.backbone_rate * factor, head=config.head_rate * factor)
        differences, losses = [], []
        for task in tasks:
            with naming(task, iteration), seeded(task.seed, task.support.inputs.device):
                adapted, loss = descend_sgd(
                    self.network, prior, task.merged(), config.steps, rates, batch_norm=config.batch_norm
                )
            differences.append(subtract(prior, adapted))
            losses.append(loss)
        step = scale(self.average.mean(differences), config.outer_rate * factor)
        return MetaStep(subtract(prior, step), self.average.mean_number(losses), math.nan)
