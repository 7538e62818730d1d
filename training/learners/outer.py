"""The outer step of learners that descend a gradient: SGD or Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.learners.base import load_optimizer, optimizer_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piaa_sdk.finetune.adam import Adam
    from piaa_sdk.finetune.network import Params

OUTER_OPTIMIZERS = ("sgd", "adam")


@dataclass(slots=True, eq=False)
class OuterStep:
    """Moves the prior against a gradient.

    Attributes:
        optimizer: ``sgd`` or ``adam``.
        adam: Constants and moments of the latter.
    """

    optimizer: str
    adam: Adam

    def step(self, prior: Params, gradient: Params, rates: Mapping[str, float]) -> Params:
        """Return the prior after one step; tensors without a gradient stay as they are."""
        if self.optimizer == "sgd":
            return prior | {name: prior[name] - rates[name] * value for name, value in gradient.items()}
        moved = {name: value.detach().clone() for name, value in prior.items()}
        self.adam.step(moved, gradient, rates)
        return moved

    def state(self) -> Params:
        """Return the moments as tensors by name."""
        return {} if self.optimizer == "sgd" else optimizer_state(self.adam)

    def load_state(self, state: Params) -> None:
        """Go on from what :meth:`state` returned."""
        if self.optimizer != "sgd":
            self.adam = load_optimizer(self.adam.settings, state)
