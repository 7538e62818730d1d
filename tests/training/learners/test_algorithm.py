"""Iterations of Algorithm 1 against plain numpy in float64, both configurations; and the decay rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.adam import AdamSettings
from piaa_sdk.finetune.full import Examples, FineTuning
from training.learners.base import Decay
from training.learners.blg import BilevelGradient, BlgConfig
from training.tasks import Task

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[np.float64]]

STEPS, BACKBONE_RATE, HEAD_RATE, OUTER_RATE = 5, 0.01, 0.03, 0.2


class TwoLayers(nn.Module):
    """a (B x): a linear backbone and a linear head, so that both learning rates are used."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 3, bias=False)
        self.head = nn.Linear(3, 1, bias=False)
        self.double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.backbone(inputs)).squeeze(1)
        return scores


@dataclass
class NumpyAdam:
    """Eqs. 4 to 6, or with ``corrected`` Kingma and Ba's."""

    second_decay: float
    weight_decay: float
    corrected: bool
    steps: int = 0
    first: Arrays = field(default_factory=dict)
    second: Arrays = field(default_factory=dict)

    def step(self, name: str, weight: Any, gradient: Any, rate: float) -> Any:
        gradient = gradient + self.weight_decay * weight
        self.first[name] = 0.9 * self.first.get(name, 0.0) + 0.1 * gradient
        self.second[name] = (
            self.second_decay * self.second.get(name, 0.0) + (1 - self.second_decay) * gradient**2
        )
        first, second = self.first[name], self.second[name]
        if self.corrected:
            first = first / (1 - 0.9**self.steps)
            second = second / (1 - self.second_decay**self.steps)
        return weight - rate * first / (np.sqrt(second) + 1e-8)


def _descend(start: Arrays, inputs: Any, ratings: Any, optimizer: NumpyAdam, factor: float) -> Arrays:
    first, last = start["backbone.weight"], start["head.weight"]
    for _ in range(STEPS):
        embeddings = inputs @ first.T
        residual = (embeddings @ last.T)[:, 0] - ratings
        to_last = 2 / len(ratings) * residual[None, :] @ embeddings
        to_first = 2 / len(ratings) * last.T @ residual[None, :] @ inputs
        optimizer.steps += 1
        first = optimizer.step("backbone.weight", first, to_first, BACKBONE_RATE * factor)
        last = optimizer.step("head.weight", last, to_last, HEAD_RATE * factor)
    return {"backbone.weight": first, "head.weight": last}


def _draw(seed: int) -> tuple[Arrays, list[list[list[tuple[Any, Any]]]]]:
    """Draw a prior, and three meta-batches of 4, 4 and 1 tasks, each with a support and a query set."""
    rng = np.random.default_rng(seed)
    prior = {"backbone.weight": rng.normal(size=(3, 4)), "head.weight": rng.normal(size=(1, 3))}
    return prior, [
        [[(rng.normal(size=(size, 4)), rng.random(size)) for size in (8, 3)] for _ in range(tasks)]
        for tasks in (4, 4, 1)
    ]


def _learned(prior: Arrays, batches: Any, config: BlgConfig) -> Arrays:
    learner = BilevelGradient(TwoLayers(), FineTuning(), config)  # type: ignore[arg-type]
    params = {name: torch.tensor(value) for name, value in prior.items()}
    for iteration, batch in enumerate(batches):
        tasks = [
            Task("user", *(Examples(torch.tensor(x), torch.tensor(y)) for x, y in sets), seed=0)
            for sets in batch
        ]
        params = learner.meta_step(params, tasks, iteration).prior
    return {name: value.numpy() for name, value in params.items()}


def test_configuration_as_paper() -> None:
    """Eqs. 3 to 8: moments from 0 on each level, no correction, mean over tasks; here 0.9 per iteration."""
    prior, batches = _draw(1)
    expected = prior
    for iteration, batch in enumerate(batches):
        factor = 0.9**iteration
        reached = []
        for support, query in batch:
            adapted = _descend(expected, *support, NumpyAdam(0.99, 1e-2, corrected=False), factor)
            reached.append(_descend(adapted, *query, NumpyAdam(0.99, 1e-2, corrected=False), factor))
        expected = {
            name: value - OUTER_RATE * factor * np.mean([value - own[name] for own in reached], axis=0)
            for name, value in expected.items()
        }
    config = BlgConfig(
        steps=STEPS,
        backbone_rate=BACKBONE_RATE,
        head_rate=HEAD_RATE,
        adam=AdamSettings(weight_decay=1e-2),
        outer_rate=OUTER_RATE,
        decay=Decay(0.9, 1),
    )
    found = _learned(prior, batches, config)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10)
        assert np.abs(value - prior[name]).max() > 0.01


def test_configuration_as_released() -> None:
    """Torch's Adam with moments carried through all levels, tasks and iterations, and the sequential rule."""
    prior, batches = _draw(2)
    expected = prior
    optimizer = NumpyAdam(0.999, 0.0, corrected=True)
    for iteration, batch in enumerate(batches):
        factor = 0.9 ** (iteration * (iteration + 1) / 2)
        start = expected
        for support, query in batch:
            adapted = _descend(start, *support, optimizer, factor)
            adapted = _descend(adapted, *query, optimizer, factor)
            expected = {name: value + (adapted[name] - value) / 4 for name, value in expected.items()}
    config = BlgConfig(
        steps=STEPS,
        backbone_rate=BACKBONE_RATE,
        head_rate=HEAD_RATE,
        adam=AdamSettings(second_decay=0.999, weight_decay=0.0, bias_correction=True),
        moments="carried",
        outer_rule="sequential",
        decay=Decay(0.9, 1, "compounding"),
    )
    found = _learned(prior, batches, config)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10)
        assert np.abs(value - prior[name]).max() > 0.01


def test_power_decay_falls_once_per_period() -> None:
    """0.9 every 100 iterations: 1 to iteration 99, and 0.9^9 = 0.387 in the last hundred of a thousand."""
    decay = Decay(0.9, 100)
    found = [decay.at(iteration) for iteration in (0, 99, 100, 199, 200, 999)]
    assert found == pytest.approx([1, 1, 0.9, 0.9, 0.81, 0.387420489])


def test_compounding_decay_falls_faster_each_epoch() -> None:
    """The rate at hand is multiplied by 0.9^epoch after each, here of 42 iterations: 0.9^(e (e + 1) / 2)."""
    decay = Decay(0.9, 42, "compounding")
    rate, expected = 1.0, []
    for epoch in range(11):
        rate *= 0.9**epoch
        expected.append(rate)
    assert [decay.at(42 * epoch) for epoch in range(11)] == pytest.approx(expected, rel=1e-12)
    assert decay.at(42 * 5) == pytest.approx(0.21, abs=0.005)
    assert decay.at(42 * 6) == pytest.approx(0.11, abs=0.005)
    assert decay.at(42 * 10) == pytest.approx(0.003, abs=0.0005)
    assert decay.at(42 * 6 - 1) == decay.at(42 * 5)


def test_no_period_means_no_decay() -> None:
    assert Decay(0.9, 0).at(10**6) == 1.0


def test_settings_that_there_are_not_are_named() -> None:
    with pytest.raises(ModelFormatError, match="rule is 'linear', must be one of power, compounding"):
        Decay(rule="linear")
    with pytest.raises(ModelFormatError, match="outer_rule is 'median', must be one of mean, sequential"):
        BlgConfig(outer_rule="median")
