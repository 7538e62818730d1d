"""Adam of eqs. 4 to 6: as printed by pencil, and with bias correction as torch has it."""

from __future__ import annotations

import math

import pytest
import torch

from piaa_sdk.finetune.adam import Adam, AdamSettings

AS_PRINTED = AdamSettings(epsilon=0.0, weight_decay=0.0)


def _step(optimizer: Adam, weight: torch.Tensor, gradient: float, rate: float = 0.1) -> float:
    params = {"head.weight": weight}
    optimizer.step(params, {"head.weight": torch.full_like(weight, gradient)}, {"head.weight": rate})
    return float(weight)


def test_equations_4_to_6_by_pencil() -> None:
    """Two steps with mu = 0.9 and 0.99, alpha = 0.1, from 0, gradients 2 and -1.

    j = 1: m = 0.1 * 2 = 0.2, v = 0.01 * 4 = 0.04, step 0.2 / 0.2 = 1, so theta = -0.1.
    j = 2: m = 0.18 - 0.1 = 0.08, v = 0.0396 + 0.01 = 0.0496, step 0.08 / 0.22271057 = 0.35921060,
    so theta = -0.13592106.
    With the correction the second step would be (0.08 / 0.19) / sqrt(0.0496 / 0.0199) = 0.26669943.
    """
    weight = torch.zeros((), dtype=torch.float64)
    optimizer = Adam(AS_PRINTED)
    assert _step(optimizer, weight, 2.0) == pytest.approx(-0.1, abs=1e-15)
    assert float(optimizer.first["head.weight"]) == pytest.approx(0.2, abs=1e-15)
    assert float(optimizer.second["head.weight"]) == pytest.approx(0.04, abs=1e-15)
    assert _step(optimizer, weight, -1.0) == pytest.approx(-0.13592106, abs=1e-8)
    assert float(optimizer.first["head.weight"]) == pytest.approx(0.08, abs=1e-15)
    assert float(optimizer.second["head.weight"]) == pytest.approx(0.0496, abs=1e-15)

    corrected, weight = Adam(AdamSettings(epsilon=0.0, weight_decay=0.0, bias_correction=True)), weight * 0
    first = _step(corrected, weight, 2.0)
    assert (first - _step(corrected, weight, -1.0)) / 0.1 == pytest.approx(0.26669943, abs=1e-8)


@pytest.mark.parametrize(("steps", "ratio"), [(2, 1.35), (20, 2.06)])
def test_steps_are_longer_without_the_correction_by_the_stated_ratio(steps: int, ratio: float) -> None:
    """The corrected step is alpha if the gradient stays; the printed one (1 - mu_1^j) / sqrt(1 - mu_2^j).

    j = 2: 0.19 / sqrt(0.0199) = 1.347; j = 20: 0.8784 / sqrt(0.1821) = 2.059.
    """
    weight = torch.zeros((), dtype=torch.float64)
    optimizer = Adam(AS_PRINTED)
    for _ in range(steps - 1):
        _step(optimizer, weight, 3.0)
    before = float(weight)
    length = (before - _step(optimizer, weight, 3.0)) / 0.1
    assert length == pytest.approx((1 - 0.9**steps) / math.sqrt(1 - 0.99**steps), rel=1e-12)
    assert length == pytest.approx(ratio, abs=0.005)


def test_epsilon_is_added_to_the_root_of_the_uncorrected_moment() -> None:
    """With gradient 1 and epsilon 0.1 the first step is 0.1 / (0.1 + 0.1) = 1/2 of alpha."""
    weight = torch.zeros((), dtype=torch.float64)
    found = _step(Adam(AdamSettings(epsilon=0.1, weight_decay=0.0)), weight, 1.0)
    assert found == pytest.approx(-0.05, abs=1e-15)


def test_weight_decay_joins_the_gradient_before_the_moments() -> None:
    """Theta = 4, gradient 0, decay 0.5: the gradient becomes 2, m = 0.2, v = 0.04."""
    weight = torch.full((), 4.0, dtype=torch.float64)
    optimizer = Adam(AdamSettings(epsilon=0.0, weight_decay=0.5))
    assert _step(optimizer, weight, 0.0) == pytest.approx(3.9, abs=1e-15)
    assert float(optimizer.first["head.weight"]) == pytest.approx(0.2, abs=1e-15)
    assert float(optimizer.second["head.weight"]) == pytest.approx(0.04, abs=1e-15)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_corrected_adam_is_torchs(weight_decay: float) -> None:
    """Ten steps with random gradients, two tensors with rates of their own: torch.optim.Adam in float64."""
    generator = torch.Generator().manual_seed(0)
    start = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in [("backbone.weight", (4, 3)), ("head.weight", (1, 4))]
    }
    rates = {"backbone.weight": 1e-2, "head.weight": 0.1}
    own = {name: value.clone() for name, value in start.items()}
    theirs = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = Adam(
        AdamSettings(second_decay=0.999, epsilon=1e-3, weight_decay=weight_decay, bias_correction=True)
    )
    reference = torch.optim.Adam(
        [{"params": [theirs[name]], "lr": rate} for name, rate in rates.items()],
        eps=1e-3,
        weight_decay=weight_decay,
    )
    for _ in range(10):
        gradients = {
            name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for name, value in start.items()
        }
        for name, value in theirs.items():
            value.grad = gradients[name].clone()
        reference.step()
        optimizer.step(own, gradients, rates)
    for name, value in own.items():
        torch.testing.assert_close(value, theirs[name].detach(), rtol=1e-12, atol=1e-14)


def test_tensors_without_a_gradient_stay() -> None:
    params = {"head.weight": torch.ones(2), "head.running_mean": torch.ones(2)}
    Adam(AdamSettings()).step(params, {"head.weight": torch.ones(2)}, {"head.weight": 0.5})
    assert torch.equal(params["head.running_mean"], torch.ones(2))
    assert not torch.equal(params["head.weight"], torch.ones(2))


def test_moments_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros of every tensor at every step would cost as much memory as the step itself."""
    made = []
    zeros_like = torch.zeros_like
    monkeypatch.setattr(torch, "zeros_like", lambda value: made.append(value.shape) or zeros_like(value))
    weight, optimizer = torch.zeros(3), Adam(AdamSettings())
    for _ in range(4):
        optimizer.step({"head.weight": weight}, {"head.weight": torch.ones(3)}, {"head.weight": 0.1})
    assert made == [(3,), (3,)]
