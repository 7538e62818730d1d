"""The closed form against a Gaussian process in numpy, and its meta-gradient against finite differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from piaa_sdk.errors import DivergenceError, ModelFormatError
from piaa_sdk.finetune.full import Examples, FineTuning
from piaa_sdk.finetune.network import (
    AestheticHead,
    AestheticNetwork,
    HeadConfig,
    Params,
    is_statistic,
    params_of,
)
from training.learners.base import Average
from training.learners.closed_form import (
    LINEAR,
    LOG_LINEAR,
    LOG_NOISE,
    ClosedForm,
    ClosedFormConfig,
    ranking_loss,
)
from training.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

EMBEDDING_DIM, HIDDEN = 5, 7
CONFIG = ClosedFormConfig(input_dropout=0.0, offset_variance=0.3, linear=0.7, noise=0.2, ranking_weight=0.4)


class Recorder(Average):
    """The mean over tasks, kept to be looked at: it is the gradient that the outer step descends."""

    def __init__(self) -> None:
        self.last: Params = {}

    def mean(self, parts: Sequence[Params]) -> Params:
        self.last = super().mean(parts)
        return self.last


@pytest.fixture
def learner() -> ClosedForm:
    """Make a learner whose network has statistics and standardization unlike 0 and 1."""
    torch.manual_seed(3)
    network = AestheticNetwork(AestheticHead(EMBEDDING_DIM, HeadConfig((HIDDEN,), dropout=0.5))).double()
    network.head.mean.copy_(torch.randn(EMBEDDING_DIM))
    network.head.std.copy_(torch.rand(EMBEDDING_DIM) + 0.5)
    batch_norm = network.head.hidden[1]
    assert isinstance(batch_norm, torch.nn.BatchNorm1d)
    assert batch_norm.running_mean is not None
    assert batch_norm.running_var is not None
    batch_norm.running_mean.copy_(torch.randn(HIDDEN))
    batch_norm.running_var.copy_(torch.rand(HIDDEN) + 0.5)
    return ClosedForm(network, FineTuning(), CONFIG, average=Recorder())


def _examples(count: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, EMBEDDING_DIM, generator=generator, dtype=torch.float64)
    return Examples(inputs, torch.rand(count, generator=generator, dtype=torch.float64))


def _posterior_mean(learner: ClosedForm, prior: Params, support: Examples, inputs: torch.Tensor) -> Array:
    """Return m(x) + k(x, X) (K + n I)^-1 (y - m(X)), written out in numpy from the tensors of the prior."""
    own = {name: value.numpy() for name, value in prior.items()}
    head = learner.network.head

    def hidden_and_embedding(x: Array) -> tuple[Array, Array]:
        embeddings = (x - head.mean.numpy()) / head.std.numpy()
        units = embeddings @ own["head.hidden.0.weight"].T + own["head.hidden.0.bias"]
        units = (units - own["head.hidden.1.running_mean"]) / np.sqrt(own["head.hidden.1.running_var"] + 1e-5)
        units = units * own["head.hidden.1.weight"] + own["head.hidden.1.bias"]
        return np.where(units > 0, units, own["head.hidden.2.weight"] * units), embeddings

    def prior_mean(units: Array) -> Array:
        return np.asarray(units @ own["head.output.weight"][0] + own["head.output.bias"])

    units, embeddings = hidden_and_embedding(support.inputs.numpy())
    new_units, new_embeddings = hidden_and_embedding(inputs.numpy())
    gain = math.exp(own[LOG_LINEAR]) / EMBEDDING_DIM
    covariance = units @ units.T / HIDDEN + 0.3 + gain * embeddings @ embeddings.T
    cross = new_units @ units.T / HIDDEN + 0.3 + gain * new_embeddings @ embeddings.T
    noise = math.exp(own[LOG_NOISE]) * np.eye(len(units))
    solution = np.linalg.solve(covariance + noise, support.ratings.numpy() - prior_mean(units))
    return prior_mean(new_units) + cross @ solution


@pytest.mark.parametrize("count", [1, 2, 30])
def test_adapted_scores_are_the_posterior_mean(learner: ClosedForm, count: int) -> None:
    """Fewer and more ratings than dimensions; adapted tensors are weights, yet score as the process does."""
    prior = learner.first_prior(params_of(learner.network))
    assert float(prior[LOG_LINEAR].exp()) == pytest.approx(0.7)
    assert float(prior[LOG_NOISE].exp()) == pytest.approx(0.2)
    support, query = _examples(count, 1), _examples(300, 2)
    adapted = learner.adapt(prior, support)
    expected = _posterior_mean(learner, prior, support, query.inputs)
    np.testing.assert_allclose(learner.predict(adapted, query.inputs).numpy(), expected, rtol=1e-10)
    assert np.abs(expected - learner.predict(prior, query.inputs).numpy()).max() > 0.01


def test_much_noise_leaves_the_prior_and_none_meets_the_ratings(learner: ClosedForm) -> None:
    """Limits of the noise: n -> infinity gives the prior's scores, n -> 0 the ratings themselves."""
    prior = learner.first_prior(params_of(learner.network))
    support = _examples(4, 1)
    deaf = prior | {LOG_NOISE: torch.tensor(60.0, dtype=torch.float64)}
    scores = learner.predict(learner.adapt(deaf, support), support.inputs)
    torch.testing.assert_close(scores, learner.predict(prior, support.inputs))
    trusting = prior | {LOG_NOISE: torch.tensor(-25.0, dtype=torch.float64)}
    scores = learner.predict(learner.adapt(trusting, support), support.inputs)
    torch.testing.assert_close(scores, support.ratings, rtol=0, atol=1e-8)


def _meta_loss(learner: ClosedForm, prior: Params, tasks: Sequence[Task]) -> float:
    """Return what the outer step descends, through adapt and predict."""
    losses = []
    for task in tasks:
        scores = learner.predict(learner.adapt(prior, task.support), task.query.inputs)
        ranking = ranking_loss(scores, task.query.ratings, CONFIG.ranking_sharpness)
        losses.append(float((scores - task.query.ratings).square().mean() + 0.4 * ranking))
    return sum(losses) / len(losses)


def test_meta_gradient_through_the_solve_is_that_of_finite_differences(learner: ClosedForm) -> None:
    """Central differences in float64, in every tensor along a random direction: two solves, one product."""
    prior = learner.first_prior(params_of(learner.network))
    tasks = [Task("user", _examples(9, seed), _examples(6, seed + 10), seed) for seed in (1, 2)]
    step = learner.meta_step(prior, tasks, 0)
    assert isinstance(learner.average, Recorder)
    gradient = learner.average.last
    assert sorted(gradient) == sorted(name for name in prior if not is_statistic(name))
    generator = torch.Generator().manual_seed(5)
    width = 1e-5
    for name, value in gradient.items():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (
            _meta_loss(learner, prior | {name: prior[name] + sign * width * direction}, tasks)
            for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * width)
        assert float((value * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-9), name
        assert abs(expected) > 1e-8, f"{name} does not matter here, so nothing was tested"
    # Against the gradient is down.
    assert _meta_loss(learner, step.prior, tasks) < _meta_loss(learner, prior, tasks)


def test_ranking_loss_by_pencil() -> None:
    """Ratings 0.9, 0.5, 0.5, 0.1: five ordered pairs, the two equal ones make none.

    With sharpness 2 and scores 1, 0, 0.5, 0 the differences higher - lower are 1, 0.5, 1, 0, 0.5; the loss is
    (2 ln(1 + e^-2) + 2 ln(1 + e^-1) + ln 2) / 5 = (0.25385604 + 0.62652338 + 0.69314718) / 5 = 0.31470532.
    """
    ratings = torch.tensor([0.9, 0.5, 0.5, 0.1], dtype=torch.float64)
    scores = torch.tensor([1.0, 0.0, 0.5, 0.0], dtype=torch.float64)
    assert float(ranking_loss(scores, ratings, 2.0)) == pytest.approx(0.31470532, abs=1e-8)


def test_ranking_loss_of_equal_ratings_is_nothing_with_a_gradient_of_nothing() -> None:
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([0.5, 0.5]), 10.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2))


def test_a_squashed_output_cannot_be_solved_for() -> None:
    network = AestheticNetwork(AestheticHead(EMBEDDING_DIM, HeadConfig((HIDDEN,), output="sigmoid")))
    with pytest.raises(ModelFormatError, match="output = 'linear'"):
        ClosedForm(network, FineTuning(), CONFIG)


def test_divergence_names_the_iteration(learner: ClosedForm) -> None:
    """A nan in the weights makes the factorization fail; that is said as for every other learner."""
    prior = learner.first_prior(params_of(learner.network))
    prior["head.hidden.0.weight"][0, 0] = math.nan
    task = Task("user", _examples(4, 1), _examples(4, 2), 0)
    with pytest.raises(DivergenceError, match=r"iteration 7, task of user .* lower the learning rates"):
        learner.meta_step(prior, [task], 7)


def test_weights_of_the_embedding_belong_to_adapted_tensors_alone(learner: ClosedForm) -> None:
    prior = learner.first_prior(params_of(learner.network))
    adapted = learner.adapt(prior, _examples(3, 1))
    assert adapted.keys() - prior.keys() == {LINEAR}
    assert adapted[LINEAR].shape == (EMBEDDING_DIM,)


class _Backbone(torch.nn.Module):
    """Colours to five numbers; notes how many pictures came, and whether gradients were wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(3, EMBEDDING_DIM)
        self.seen: list[tuple[int, bool]] = []

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.mix(pictures.mean((2, 3)))
        self.seen.append((len(pictures), embeddings.requires_grad))
        return embeddings


def _full(backbone_rate: float) -> tuple[ClosedForm, _Backbone]:
    torch.manual_seed(4)
    backbone = _Backbone()
    head = AestheticHead(EMBEDDING_DIM, HeadConfig((HIDDEN,)))
    network = AestheticNetwork(head, backbone, (120.0,) * 3, (20.0,) * 3).double()
    config = replace(CONFIG, backbone_rate=backbone_rate)
    return ClosedForm(network, FineTuning(), config, average=Recorder()), backbone


def _pictures(count: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, 4, 4, 3), generator=generator, dtype=torch.uint8)
    return Examples(inputs, torch.rand(count, generator=generator, dtype=torch.float64))


def test_a_backbone_that_learns_nothing_is_asked_for_no_gradients() -> None:
    """It embeds in batches, and all else is as with a rate too small to matter."""
    tasks = [Task("user", _pictures(70, 1), _pictures(150, 2), 0)]
    still, backbone = _full(0.0)
    prior = still.first_prior(params_of(still.network))
    step = still.meta_step(prior, tasks, 0)
    assert backbone.seen == [(64, False), (6, False), (64, False), (64, False), (22, False)]
    moving, seeing = _full(1e-30)
    other = moving.meta_step(prior, tasks, 0)
    assert seeing.seen == [(70, True), (150, True)]
    assert isinstance(still.average, Recorder)
    assert isinstance(moving.average, Recorder)
    gradient = still.average.last
    assert {name for name in moving.average.last if name not in gradient} == {
        "backbone.mix.weight",
        "backbone.mix.bias",
    }
    for name, value in gradient.items():
        torch.testing.assert_close(value, moving.average.last[name], rtol=1e-9, atol=1e-12)
    for name, value in step.prior.items():
        torch.testing.assert_close(value, other.prior[name], rtol=1e-6, atol=1e-9)
    assert torch.equal(step.prior["backbone.mix.weight"], prior["backbone.mix.weight"])
    assert not [name for name in still.state() if "backbone" in name]


def test_adapting_needs_no_gradients_of_the_backbone_either() -> None:
    learner, backbone = _full(1e-3)
    learner.adapt(learner.first_prior(params_of(learner.network)), _pictures(70, 1))
    assert backbone.seen == [(64, False), (6, False)]
