"""MAML's second-order term on the real head, against central finite differences in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from piaa_sdk.finetune.full import Examples, FineTuning
from piaa_sdk.finetune.network import AestheticHead, AestheticNetwork, HeadConfig, Params, params_of, predict
from training.inner_loop import descend_sgd
from training.learners.base import Average, Decay
from training.learners.maml import Maml, MamlConfig
from training.network import learning_rates
from training.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS, RATE = 3, 0.05


class Recorder(Average):
    """The mean over tasks, kept to be looked at: the first one taken is the gradient."""

    def __init__(self) -> None:
        self.seen: list[Params] = []

    def mean(self, parts: Sequence[Params]) -> Params:
        self.seen.append(super().mean(parts))
        return self.seen[-1]


@pytest.fixture
def network() -> AestheticNetwork:
    torch.manual_seed(0)
    head = HeadConfig((8, 4), activation="prelu", dropout=0.0, output="sigmoid")
    return AestheticNetwork(AestheticHead(6, head)).double()


@pytest.fixture
def tasks() -> list[Task]:
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Examples:
        inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        return Examples(inputs, torch.rand(count, generator=generator, dtype=torch.float64))

    return [Task("user", draw(8), draw(5), seed) for seed in range(2)]


def _gradient(
    network: AestheticNetwork, tasks: list[Task], *, first_order: bool, steps: int = STEPS
) -> Params:
    recorder = Recorder()
    config = MamlConfig(
        steps=steps,
        head_rate=RATE,
        first_order=first_order,
        batch_norm="frozen",
        outer_head_rate=1.0,
        decay=Decay(every=0),
    )
    prior = params_of(network)
    step = Maml(network, FineTuning(), config, average=recorder).meta_step(prior, tasks, 0)
    gradient = recorder.seen[0]
    for name, value in gradient.items():
        torch.testing.assert_close(prior[name] - step.prior[name], value, rtol=0, atol=1e-14)
    return gradient


def _query_loss(network: AestheticNetwork, prior: Params, tasks: list[Task]) -> float:
    """Adapt without a graph, then judge: what MAML's outer step descends."""
    losses = []
    for task in tasks:
        rates = learning_rates(prior, backbone=RATE, head=RATE)
        adapted, _ = descend_sgd(network, prior, task.support, STEPS, rates)
        error = predict(network, adapted, task.query.inputs) - task.query.ratings
        losses.append(float(error.square().mean()))
    return sum(losses) / len(losses)


def test_second_order_gradient_is_that_of_finite_differences(
    network: AestheticNetwork, tasks: list[Task]
) -> None:
    """Every tensor along a random direction, through three inner steps, batch norm frozen, no dropout."""
    prior = params_of(network)
    generator = torch.Generator().manual_seed(2)
    width = 1e-5
    for name, value in _gradient(network, tasks, first_order=False).items():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (
            _query_loss(network, prior | {name: prior[name] + sign * width * direction}, tasks)
            for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * width)
        assert float((value * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-10), name


def test_first_order_leaves_something_out(network: AestheticNetwork, tasks: list[Task]) -> None:
    """Otherwise the test before could not tell the two apart; without inner steps they are one."""
    second, first = (_gradient(network, tasks, first_order=order) for order in (False, True))
    assert max(float((second[name] - first[name]).abs().max()) for name in first) > 1e-4
    second, first = (_gradient(network, tasks, first_order=order, steps=0) for order in (False, True))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-12, atol=1e-15)


def test_graph_is_kept_through_batch_statistics(network: AestheticNetwork, tasks: list[Task]) -> None:
    """Running statistics move at each step with the support's; the graph so far must survive that."""
    prior = params_of(network)
    config = MamlConfig(steps=2, batch_norm="support", decay=Decay(every=0))
    step = Maml(network, FineTuning(), config).meta_step(prior, tasks, 0)
    name = "head.hidden.1.running_mean"
    moved = []
    for task in tasks:
        # Two inner steps and the query set: three batches, each with a share of 0.1.
        rates = learning_rates(prior, backbone=1e-3, head=1e-2)
        adapted, _ = descend_sgd(network, prior, task.support, 2, rates, batch_norm="support")
        batch = torch.nn.functional.linear(
            task.query.inputs, adapted["head.hidden.0.weight"], adapted["head.hidden.0.bias"]
        ).mean(0)
        moved.append(0.9 * adapted[name] + 0.1 * batch)
    torch.testing.assert_close(step.prior[name], torch.stack(moved).mean(0))
