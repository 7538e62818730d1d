"""The steps of the learners by pencil, on a score that is w1 x1 + w2 x2 + b: three weights, exact numbers.

Written z = (x1, x2, 1) and theta = (w1, w2, b), the squared error of one picture has the gradient 2 r z with
r = theta z - y, and the Hessian 2 z z'. All numbers are in float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from piaa_sdk.finetune.adam import AdamSettings
from piaa_sdk.finetune.full import Examples, FineTuning, fine_tune
from piaa_sdk.finetune.network import params_of
from training.learners.base import Decay
from training.learners.blg import BilevelGradient, BlgConfig
from training.learners.generic import Generic, GenericConfig
from training.learners.maml import Maml, MamlConfig
from training.learners.reptile import Reptile, ReptileConfig
from training.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from piaa_sdk.finetune.network import Params

NO_DECAY = Decay(every=0)
PRINTED = AdamSettings(epsilon=1e-15, weight_decay=0.0)
SECOND_STEP = 0.14 / math.sqrt(0.0124)
"""Adam's second step in alpha, if its gradient is half the first: (0.09 + 0.05) / sqrt(0.0099 + 0.0025)."""


class Line(nn.Module):
    """w1 x1 + w2 x2 + b."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1, dtype=torch.float64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(inputs).squeeze(1)
        return scores


@pytest.fixture
def line() -> Any:
    return Line()


def _prior(w1: float = 0.0, w2: float = 0.0, b: float = 0.0) -> Params:
    return {
        "head.weight": torch.tensor([[w1, w2]], dtype=torch.float64),
        "head.bias": torch.tensor([b], dtype=torch.float64),
    }


def _weights(params: Params) -> list[float]:
    return [*params["head.weight"][0].tolist(), *params["head.bias"].tolist()]


def _one(x1: float, x2: float, y: float) -> Examples:
    return Examples(torch.tensor([[x1, x2]], dtype=torch.float64), torch.tensor([y], dtype=torch.float64))


def _several(rows: Sequence[tuple[float, float, float]]) -> Examples:
    table = torch.tensor(rows, dtype=torch.float64)
    return Examples(table[:, :2], table[:, 2])


def _task(support: Examples, query: Examples, seed: int = 0) -> Task:
    return Task("user", support, query, seed)


def _close(numbers: Sequence[float], places: float = 1e-12) -> Any:
    return pytest.approx(list(numbers), abs=places)


def _blg(line: Any, **settings: Any) -> BilevelGradient:
    settings = {"head_rate": 0.1, "adam": PRINTED, "decay": NO_DECAY} | settings
    return BilevelGradient(line, FineTuning(), BlgConfig(**settings))


def test_one_step_of_algorithm_1_by_pencil(line: Any) -> None:
    """S = 1, k = 2, alpha = 0.1, beta = 0.5, theta = 0.

    Adam's first step as printed is alpha sign(g): 0.1 g / sqrt(0.01 g^2).
    Task 1. Support z = (1, 2, 1), y = -0.8: r = 0.8, all signs +, theta' = (-0.1, -0.1, -0.1).
    Query z = (-1, 1, 1), y = 1: theta' z = -0.1, r = -1.1, signs (+, -, -), theta_1 = (-0.2, 0, 0).
    Task 2. Support z = (1, 1, 1), y = 0.8: r = -0.8, theta' = (0.1, 0.1, 0.1).
    Query z = (2, -1, 1), y = 0: theta' z = 0.2, signs (+, -, +), theta_2 = (0, 0.2, 0).
    Eq. 8: theta = 0.5 * mean = 0.5 * (-0.1, 0.1, 0) = (-0.05, 0.05, 0).
    Losses: support 0.64 and 0.64; query after the support 1.21 and 0.04, mean 0.625.
    """
    tasks = [_task(_one(1, 2, -0.8), _one(-1, 1, 1)), _task(_one(1, 1, 0.8), _one(2, -1, 0))]
    step = _blg(line, steps=1, outer_rate=0.5).meta_step(_prior(), tasks, 0)
    assert _weights(step.prior) == _close([-0.05, 0.05, 0.0])
    assert step.support_loss == pytest.approx(0.64, abs=1e-12)
    assert step.query_loss == pytest.approx(0.625, abs=1e-12)


def test_two_steps_on_each_level_by_pencil(line: Any) -> None:
    """S = 2, one task, alpha = 0.1, beta = 1, theta = 0, moments set back between the levels.

    Support z = (1, 2, 1), y = -0.8: r = 0.8. A step of length s in alpha along the signs lowers r by
    0.1 s (1 + 2 + 1). After the first r = 0.4: half the gradient, so the second step is
    c = 0.14 / sqrt(0.0124) = 1.25723... long. theta' = -0.1 (1 + c) in each weight.
    Query z = (-1, 1, 1): theta' z = theta'_1; with y = theta' z + 0.6, r = -0.6, then -0.3: half again, so
    again steps of 1 and c, signs (+, -, -). theta_1 = (-0.2 (1 + c), 0, 0).
    """
    reached = -0.1 * (1 + SECOND_STEP)
    assert reached == pytest.approx(-0.22572371, abs=1e-8)
    task = _task(_one(1, 2, -0.8), _one(-1, 1, reached + 0.6))
    step = _blg(line, steps=2, outer_rate=1.0).meta_step(_prior(), [task], 0)
    assert _weights(step.prior) == _close([2 * reached, 0.0, 0.0])


def test_carried_moments_make_the_query_step_a_second_step(line: Any) -> None:
    """S = 1, the query set equal to the support set: carried moments take the steps of S = 2 on one set.

    Reset, the second step is alpha again: theta_1 = -0.2 in each weight. The next task, the same again,
    starts from theta = 0 with gradient g in a run that has had g and g / 2: m = 0.9 * 0.14 g + 0.1 g,
    v = 0.99 * 0.0124 g^2 + 0.01 g^2 = 0.022276 g^2. Its step of 1.51422 leaves r = 0.8 - 0.60569 = 0.19431.
    """
    same = _one(1, 2, -0.8)
    reset = _blg(line, steps=1, outer_rate=1.0).meta_step(_prior(), [_task(same, same)], 0)
    assert _weights(reset.prior) == _close([-0.2] * 3)
    carried = _blg(line, steps=1, outer_rate=1.0, moments="carried")
    step = carried.meta_step(_prior(), [_task(same, same)], 0)
    assert _weights(step.prior) == _close([-0.1 * (1 + SECOND_STEP)] * 3)
    third = 0.226 / math.sqrt(0.022276)
    again = carried.meta_step(_prior(), [_task(same, same)], 0)
    assert again.query_loss == pytest.approx((0.8 - 0.4 * third) ** 2, abs=1e-12)


def test_sequential_rule_counts_later_tasks_more(line: Any) -> None:
    """Theta + (theta_i - theta) / 4 task by task: weights 0.316 of theta, then 0.105, 0.141, 0.188, 0.250.

    The weights are read off: tasks move one weight each. With S = 1 and r > 0 on both levels a task whose
    pictures are z = (1, 0, 1) moves w1 and b by -2 alpha, and so on; a task alone in its meta-batch still
    goes a quarter of the way.
    """
    moves_w1, moves_w2 = _one(1, 0, -9), _one(0, 1, -9)
    tasks = [_task(moves_w1, moves_w1), _task(moves_w2, moves_w2)]
    tasks += [_task(_one(0, 0, -9), _one(0, 0, -9)), _task(_one(0, 0, 9), _one(0, 0, 9))]
    learner = _blg(line, steps=1, outer_rule="sequential", head_rate=0.5)
    quarters = [0.75**4, 0.25 * 0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25]
    assert quarters == pytest.approx([0.316, 0.105, 0.141, 0.188, 0.250], abs=6e-4)
    prior, first, second, third, fourth = quarters
    step = learner.meta_step(_prior(10, 20, 0), tasks, 0)
    # r is above 0 wherever y = -9, and theta_4 alone moves b up: by 2 alpha = 1.
    expected = [10 - first, 20 - second, -first - second - third + fourth]
    assert _weights(step.prior) == _close(expected)
    assert prior + first + second + third + fourth == pytest.approx(1)
    alone = learner.meta_step(_prior(10, 20, 0), tasks[:1], 0)
    assert _weights(alone.prior) == _close([10 - 0.25, 20, -0.25])


def test_rates_of_blg_decay_inside_and_outside(line: Any) -> None:
    """At iteration 200 both rates are 0.81 of the first: theta = 0.81 beta times -0.81 alpha * 2."""
    learner = _blg(line, steps=1, outer_rate=0.5, decay=Decay(0.9, 100))
    step = learner.meta_step(_prior(), [_task(_one(1, 2, -0.8), _one(1, 2, -0.8))], 200)
    assert _weights(step.prior) == _close([-0.81 * 0.5 * 0.81 * 0.2] * 3)


MAML_TASK = _task(_one(1, 2, 1), _one(1, 0, 0))


def _maml(line: Any, **settings: Any) -> Maml:
    settings = {"head_rate": 0.1, "outer_head_rate": 0.5, "decay": NO_DECAY} | settings
    return Maml(line, FineTuning(), MamlConfig(**settings))


def test_maml_of_second_order_by_pencil(line: Any) -> None:
    """S = 1, alpha = 0.1, beta = 0.5, theta = 0: the gradient is (I - alpha H) g_query(theta').

    Support z = (1, 2, 1), y = 1: g = -2 z, theta' = 0.2 z = (0.2, 0.4, 0.2).
    Query z = (1, 0, 1), y = 0: theta' z = 0.4, g_query = (0.8, 0, 0.8).
    alpha H = 0.2 z z' with the support's z, and z g_query = 1.6, so the gradient is
    (0.8, 0, 0.8) - 0.32 (1, 2, 1) = (0.48, -0.64, 0.48).
    """
    step = _maml(line, steps=1).meta_step(_prior(), [MAML_TASK], 0)
    assert _weights(step.prior) == _close([-0.24, 0.32, -0.24])
    assert step.support_loss == pytest.approx(1.0)
    assert step.query_loss == pytest.approx(0.16)


def test_maml_through_two_steps_by_pencil(line: Any) -> None:
    """S = 2: theta'' = 0.2 z - 0.1 * 2 * 0.2 z = 0.16 z; (I - alpha H) twice on g_query = (0.64, 0, 0.64).

    Once: (0.64, 0, 0.64) - 0.2 * 1.28 z = (0.384, -0.512, 0.384).
    Twice: that + 0.2 * 0.256 z = (0.4352, -0.4096, 0.4352).
    """
    step = _maml(line, steps=2).meta_step(_prior(), [MAML_TASK], 0)
    assert _weights(step.prior) == _close([-0.2176, 0.2048, -0.2176])


def test_maml_of_first_order_by_pencil(line: Any) -> None:
    """The gradient is g_query(theta') itself, (0.8, 0, 0.8)."""
    step = _maml(line, steps=1, first_order=True).meta_step(_prior(), [MAML_TASK], 0)
    assert _weights(step.prior) == _close([-0.4, 0.0, -0.4])


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_without_inner_steps_descends_the_query_loss(line: Any, first_order: bool) -> None:
    """S = 0: the gradient is that of the query losses at theta: here (-2, 0, -2) and (0, -4, -4)."""
    tasks = [_task(_one(5, 5, 5), _one(1, 0, 1)), _task(_one(7, 7, 7), _one(0, 1, 2))]
    step = _maml(line, steps=0, first_order=first_order).meta_step(_prior(), tasks, 0)
    assert _weights(step.prior) == _close([0.5, 1.0, 1.5])
    assert math.isnan(step.support_loss)


def test_reptile_with_one_step_is_a_joint_gradient_step(line: Any) -> None:
    """S = 1: minus epsilon alpha times the mean of the tasks' gradients, each on support and query merged.

    Task 1: (1, 0), y = 1 and (0, 1), y = 2: g = ((-2, 0, -2) + (0, -4, -4)) / 2 = (-1, -2, -3).
    Task 2: (1, 1), y = -1 and (2, 0), y = 0: g = (2, 2, 2) / 2 = (1, 1, 1).
    Mean (0, -0.5, -1), times -0.5 * 0.1: (0, 0.025, 0.05).
    """
    config = ReptileConfig(steps=1, head_rate=0.1, outer_rate=0.5, decay=NO_DECAY)
    tasks = [_task(_one(1, 0, 1), _one(0, 1, 2)), _task(_one(1, 1, -1), _one(2, 0, 0))]
    step = Reptile(line, FineTuning(), config).meta_step(_prior(), tasks, 0)
    assert _weights(step.prior) == _close([0.0, 0.025, 0.05])
    assert step.support_loss == pytest.approx((2.5 + 0.5) / 2)


def test_reptile_with_two_steps_goes_where_descent_goes(line: Any) -> None:
    """One task, z = (1, 2, 1), y = 1 in both sets, alpha = 0.1: r = -1, then -1 + 0.2 * 6 = 0.2.

    theta_i = 0.2 z - 0.04 z = 0.16 z, and half of the way with epsilon = 0.5: 0.08 z.
    """
    config = ReptileConfig(steps=2, head_rate=0.1, outer_rate=0.5, decay=NO_DECAY)
    task = _task(_one(1, 2, 1), _one(1, 2, 1))
    step = Reptile(line, FineTuning(), config).meta_step(_prior(), [task], 0)
    assert _weights(step.prior) == _close([0.08, 0.16, 0.08])


def test_generic_takes_adams_steps_on_the_mean_over_batches(line: Any) -> None:
    """Batches with gradients (-2, 0, -2) and (0, 2, 2) have the mean (-1, 1, 0): steps alpha (1, -1, 0).

    The second iteration goes on with the moments: with half the gradient its step is 1.25723 alpha.
    """
    config = GenericConfig(head_rate=0.1, adam=AdamSettings(weight_decay=0.0), decay=NO_DECAY)
    learner = Generic(line, FineTuning(), config)
    unused = _one(9, 9, 9)
    tasks = [_task(_one(1, 0, 1), unused), _task(_one(0, 1, -1), unused)]
    step = learner.meta_step(_prior(), tasks, 0)
    assert _weights(step.prior) == _close([0.1, -0.1, 0.0], 1e-7)
    tasks = [_task(_one(1, 0, 0.5), unused), _task(_one(0, 1, -0.5), unused)]
    step = learner.meta_step(_prior(), tasks, 1)
    assert _weights(step.prior) == _close([0.1 * SECOND_STEP, -0.1 * SECOND_STEP, 0.0], 1e-7)
    assert math.isnan(step.query_loss)


def test_fine_tuning_by_pencil(line: Any) -> None:
    """Eqs. 9 to 11, P = 2, alpha_f = 0.1, two pictures, both (1, 2), y = -0.8: steps of 1 and 1.25723."""
    support = _several([(1, 2, -0.8), (1, 2, -0.8)])
    tuned = fine_tune(line, _prior(), support, FineTuning(0.1, 2, PRINTED))
    assert _weights(tuned) == _close([-0.1 * (1 + SECOND_STEP)] * 3)
    learner = _blg(line)
    learner.fine_tuning = FineTuning(0.1, 2, PRINTED)
    assert _weights(learner.adapt(_prior(), support)) == _weights(tuned)


def test_networks_own_weights_are_not_read(line: Any) -> None:
    """All starts from the prior: whatever the module was made with, the result is the same."""
    task = _task(_one(1, 2, -0.8), _one(-1, 1, 1))
    first = _blg(line, steps=2).meta_step(_prior(), [task], 0)
    with torch.no_grad():
        line.head.weight += 5
    own = params_of(line)
    second = _blg(line, steps=2).meta_step(_prior(), [task], 0)
    assert _weights(first.prior) == _weights(second.prior)
    assert all(torch.equal(value, own[name]) for name, value in params_of(line).items())
