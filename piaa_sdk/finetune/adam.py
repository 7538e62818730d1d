"""Adam as the paper prints it (eqs. 4 to 6 and 11), over named tensors.

torch's own Adam divides both moments by what their start at zero takes from them; the paper's formulas do
not. Both are here, because the difference is large at 5 or 20 steps: with decay rates of 0.9 and 0.99 the
second step is 1.35 times as long without the correction, the twentieth about twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from piaa_sdk.finetune.checks import NOT_NEGATIVE, SHARE, check_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piaa_sdk.finetune.network import Params


@dataclass(frozen=True, slots=True)
class AdamSettings:
    """Constants of Adam.

    Attributes:
        first_decay: mu_1 of eq. 5.
        second_decay: mu_2 of eq. 6.
        epsilon: Added to the root of the second moment.
        weight_decay: Times the weight, added to its gradient.
        bias_correction: Divide the moments by 1 - mu^j (Kingma and Ba 2015); eqs. 4 and 11 do not.
    """

    first_decay: float = 0.9
    second_decay: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 1e-5
    bias_correction: bool = False

    def __post_init__(self) -> None:
        """Refuse constants that mean nothing.

        Raises:
            ModelFormatError: One of them does.
        """
        check_settings(
            self, first_decay=SHARE, second_decay=SHARE, epsilon=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE
        )


@dataclass(slots=True, eq=False)
class Adam:
    """Moments of the gradients, and the step they lead to.

    Attributes:
        settings: Constants.
        steps: j, the steps taken so far.
        first: m of eq. 5 by name; empty before the first step, which means zero.
        second: v of eq. 6 by name.
    """

    settings: AdamSettings
    steps: int = 0
    first: Params = field(default_factory=dict)
    second: Params = field(default_factory=dict)

    def step(self, params: Params, gradients: Params, rates: Mapping[str, float]) -> None:
        """Take one step, changing ``params`` in place.

        Args:
            params: Parameters by name; those without a gradient stay as they are.
            gradients: Gradients by name.
            rates: Learning rate of each name that has a gradient.
        """
        self.steps += 1
        for name in gradients:
            if name not in self.first:
                self.first[name] = torch.zeros_like(params[name])
                self.second[name] = torch.zeros_like(params[name])
        for rate, names in _names_by_rate(gradients, rates).items():
            self._step_group(
                [params[name] for name in names],
                [gradients[name] for name in names],
                [self.first[name] for name in names],
                [self.second[name] for name in names],
                rate,
            )

    def _step_group(
        self,
        weights: list[torch.Tensor],
        gradients: list[torch.Tensor],
        first: list[torch.Tensor],
        second: list[torch.Tensor],
        rate: float,
    ) -> None:
        own = self.settings
        with torch.no_grad():
            if own.weight_decay:
                gradients = list(torch._foreach_add(gradients, weights, alpha=own.weight_decay))
            torch._foreach_mul_(first, own.first_decay)
            torch._foreach_add_(first, gradients, alpha=1 - own.first_decay)  # eq. 5
            torch._foreach_mul_(second, own.second_decay)
            torch._foreach_addcmul_(second, gradients, gradients, 1 - own.second_decay)  # eq. 6
            first_scale = second_scale = 1.0
            if own.bias_correction:
                first_scale = 1 - own.first_decay**self.steps
                second_scale = 1 - own.second_decay**self.steps
            roots = torch._foreach_sqrt(second)
            torch._foreach_div_(roots, second_scale**0.5)
            torch._foreach_add_(roots, own.epsilon)
            torch._foreach_addcdiv_(weights, first, list(roots), -rate / first_scale)  # eqs. 4, 7 and 11


def _names_by_rate(gradients: Params, rates: Mapping[str, float]) -> dict[float, list[str]]:
    names: dict[float, list[str]] = {}
    for name in gradients:
        names.setdefault(rates[name], []).append(name)
    return names
