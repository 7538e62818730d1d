"""What holds for every learner: limits, nothing changed in place, the same seed twice, going on from a state.

All runs are in float32 with dropout and with batch normalization on the batch, as meta-training runs are.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

from piaa_sdk.errors import DivergenceError
from piaa_sdk.finetune.adam import AdamSettings
from piaa_sdk.finetune.full import Examples, FineTuning
from piaa_sdk.finetune.network import (
    AestheticHead,
    AestheticNetwork,
    HeadConfig,
    Params,
    is_statistic,
    params_of,
)
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable
from training.inner_loop import descend_sgd
from training.learners.base import Decay
from training.learners.blg import BilevelGradient, BlgConfig
from training.learners.closed_form import ClosedForm, ClosedFormConfig
from training.learners.generic import Generic, GenericConfig
from training.learners.maml import Maml, MamlConfig
from training.learners.reptile import Reptile, ReptileConfig
from training.tasks import Task, TaskConfig, TaskSampler

if TYPE_CHECKING:
    from collections.abc import Callable

EMBEDDING_DIM = 6
FINE_TUNING = FineTuning(learning_rate=0.01, epochs=3, batch_norm="support")
STILL = Decay(every=0)
CORRECTED = AdamSettings(second_decay=0.999, weight_decay=0.0, bias_correction=True)

# Outer rate at will; None is the one of the learner's settings.
LEARNERS: dict[str, Callable[[AestheticNetwork, float | None], Any]] = {
    "blg as paper": lambda network, rate: BilevelGradient(
        network, FINE_TUNING, BlgConfig(steps=2, outer_rate=0.3 if rate is None else rate)
    ),
    "blg as released": lambda network, _: BilevelGradient(
        network,
        FINE_TUNING,
        BlgConfig(
            steps=2,
            adam=CORRECTED,
            moments="carried",
            statistics="carried",
            outer_rule="sequential",
            result="adapted",
            decay=Decay(0.9, 1, "compounding"),
        ),
    ),
    "maml": lambda network, rate: Maml(
        network,
        FINE_TUNING,
        MamlConfig(steps=2, outer_optimizer="adam", outer_head_rate=0.01 if rate is None else rate),
    ),
    "maml, first order": lambda network, rate: Maml(
        network,
        FINE_TUNING,
        MamlConfig(steps=2, first_order=True, outer_head_rate=0.1 if rate is None else rate),
    ),
    "reptile": lambda network, rate: Reptile(
        network, FINE_TUNING, ReptileConfig(steps=2, outer_rate=0.3 if rate is None else rate)
    ),
    "generic": lambda network, rate: Generic(
        network, FINE_TUNING, GenericConfig(head_rate=0.01 if rate is None else rate)
    ),
    "closed form": lambda network, rate: ClosedForm(
        network, FINE_TUNING, ClosedFormConfig(head_rate=0.01 if rate is None else rate)
    ),
}
MEASURE_STATISTICS = {"maml", "maml, first order", "generic"}
"""Learners whose running statistics follow the batches, not the outer rate."""


@pytest.fixture(params=LEARNERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def network() -> AestheticNetwork:
    torch.manual_seed(0)
    return AestheticNetwork(AestheticHead(EMBEDDING_DIM, HeadConfig((8,), dropout=0.5)))


@pytest.fixture(scope="module")
def sampler() -> TaskSampler:
    """Make 5 users with 12 ratings each, and tasks of them: 4 and 1 by turns."""
    rng = np.random.default_rng(0)
    users, images = 5, 30
    table = RatingTable(
        folder=Path(),
        users=tuple(f"user {user}" for user in range(users)),
        groups=("all",) * users,
        images=tuple(f"{image:02}.jpg" for image in range(images)),
        user_index=np.repeat(np.arange(users), 12),
        image_index=np.concatenate([np.sort(rng.permutation(images)[:12]) for _ in range(users)]),
        ratings=rng.integers(1, 6, 12 * users).astype(np.float64),
    ).keep(np.ones(12 * users, dtype=np.bool_))  # drops images that nobody rated
    embeddings = torch.from_numpy(rng.normal(size=(images, EMBEDDING_DIM)).astype(np.float32))

    class Source:
        def take(self, chosen: Any, rng: np.random.Generator | None) -> torch.Tensor:
            return embeddings[torch.from_numpy(chosen)]

    config = TaskConfig(tasks=4, support=(6,), query=4, pool=0, users="shuffled")
    return TaskSampler(table, RatingScale(1, 5), Source(), config, seed=1)


def _start(learner: Any) -> Params:
    prior: Params = learner.first_prior(params_of(learner.network))
    return prior


def _run(learner: Any, prior: Params, sampler: TaskSampler, iterations: range) -> Params:
    for iteration in iterations:
        prior = learner.meta_step(prior, learner.tasks(sampler, iteration), iteration).prior
    return prior


def _assert_same(left: Params, right: Params) -> None:
    assert left.keys() == right.keys()
    for tensor, value in left.items():
        assert torch.equal(value, right[tensor]), tensor


def _copy(params: Params) -> Params:
    return {tensor: value.clone() for tensor, value in params.items()}


def test_three_iterations_are_two_and_one(
    name: str, network: AestheticNetwork, sampler: TaskSampler, tmp_path: Path
) -> None:
    """Bit for bit, through files, into a learner made anew; the loss figures and the result as well."""
    whole = LEARNERS[name](network, None)
    straight = _run(whole, _start(whole), sampler, range(2))
    last = whole.meta_step(straight, whole.tasks(sampler, 2), 2)

    first = LEARNERS[name](network, None)
    prior = _run(first, _start(first), sampler, range(2))
    safetensors.torch.save_file(prior, tmp_path / "prior.safetensors")
    safetensors.torch.save_file(first.state(), tmp_path / "state.safetensors")

    second = LEARNERS[name](network, None)
    second.load_state(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    prior = safetensors.torch.load_file(tmp_path / "prior.safetensors")
    again = second.meta_step(prior, second.tasks(sampler, 2), 2)
    _assert_same(again.prior, last.prior)
    _assert_same(second.result(again.prior), whole.result(last.prior))
    np.testing.assert_equal([again.support_loss, again.query_loss], [last.support_loss, last.query_loss])
    # A state left out must show, for the learners that have one.
    if first.state():
        without = LEARNERS[name](network, None)
        other = without.meta_step(prior, without.tasks(sampler, 2), 2).prior
        assert any(not torch.equal(other[tensor], value) for tensor, value in last.prior.items())


def test_a_state_taken_does_not_move_with_the_learner(
    name: str, network: AestheticNetwork, sampler: TaskSampler
) -> None:
    """It may still be in memory, waiting to be written, when the next iteration begins."""
    learner = LEARNERS[name](network, None)
    prior = _run(learner, _start(learner), sampler, range(1))
    state = learner.state()
    before = _copy(state)
    _run(learner, prior, sampler, range(1, 2))
    _assert_same(state, before)


def test_prior_and_network_are_never_changed_in_place(
    name: str, network: AestheticNetwork, sampler: TaskSampler
) -> None:
    """Every user starts from the same prior; what torch draws elsewhere is not touched either."""
    learner = LEARNERS[name](network, None)
    prior = _start(learner)
    before, own = _copy(prior), _copy(dict(network.state_dict()))
    tasks = learner.tasks(sampler, 0)
    sets = [(task.support.inputs.clone(), task.support.ratings.clone()) for task in tasks]
    drawn = torch.get_rng_state()
    learner.meta_step(prior, tasks, 0)
    adapted = learner.adapt(prior, tasks[0].support, seed=1)
    scores = learner.predict(prior, tasks[0].query.inputs)
    learner.predict(adapted, tasks[0].query.inputs)
    _assert_same(prior, before)
    assert all(not value.requires_grad for value in [*prior.values(), *adapted.values(), scores])
    _assert_same(dict(network.state_dict()), own)  # what counts batches as well
    assert all(module.training for module in network.modules()), "the mode was not put back"
    assert torch.equal(torch.get_rng_state(), drawn)
    for task, (inputs, ratings) in zip(tasks, sets, strict=True):
        assert torch.equal(task.support.inputs, inputs)
        assert torch.equal(task.support.ratings, ratings)


def test_same_seed_gives_the_same_bits(name: str, network: AestheticNetwork, sampler: TaskSampler) -> None:
    priors = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)  # what else draws in the process must not matter
        learner = LEARNERS[name](network, None)
        priors.append(_run(learner, _start(learner), sampler, range(2)))
        priors.append(learner.adapt(priors[-1], learner.tasks(sampler, 3)[0].support, seed=4))
    _assert_same(priors[0], priors[2])
    _assert_same(priors[1], priors[3])


def test_dropout_follows_the_seed_of_the_task(
    name: str, network: AestheticNetwork, sampler: TaskSampler
) -> None:
    learner = LEARNERS[name](network, None)
    prior = _start(learner)
    task = learner.tasks(sampler, 0)[0]
    reached = []
    for seed in (0, 1):
        fresh = LEARNERS[name](network, None)
        again = Task(task.user, task.support, task.query, seed)
        reached.append(fresh.meta_step(prior, [again], 0).prior["head.hidden.0.weight"])
    assert not torch.equal(*reached)


@pytest.mark.parametrize("limited", sorted(LEARNERS.keys() - {"blg as released"}))
def test_outer_rate_0_keeps_the_prior(limited: str, network: AestheticNetwork, sampler: TaskSampler) -> None:
    """Bit for bit, statistics included, unless the learner says that it measures them."""
    learner = LEARNERS[limited](network, 0.0)
    prior = _start(learner)
    found = _run(learner, prior, sampler, range(2))
    for tensor, value in prior.items():
        if is_statistic(tensor) and limited in MEASURE_STATISTICS:
            assert not torch.equal(found[tensor], value)
        else:
            assert torch.equal(found[tensor], value), tensor


@pytest.mark.parametrize("steps", [1, 4])
def test_outer_rate_1_and_one_task_is_the_adapted_network_of_blg(
    network: AestheticNetwork, sampler: TaskSampler, steps: int
) -> None:
    """Eq. 8 gives theta_1, statistics included; by hand it is fine-tuned to the support, then to the query.

    Dropout is off, because the two ways draw from other seeds.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rates = FineTuning(learning_rate=1e-3, epochs=steps, batch_norm="support")
    config = BlgConfig(steps=steps, outer_rate=1.0, decay=STILL)
    learner = BilevelGradient(network, rates, config)
    prior, task = _start(learner), sampler.draw(0)[0]
    by_hand = learner.adapt(learner.adapt(prior, task.support), task.query)
    found = learner.meta_step(prior, [task], 0).prior
    for tensor, value in by_hand.items():
        torch.testing.assert_close(found[tensor], value, rtol=1e-6, atol=1e-7)
        assert not torch.equal(found[tensor], prior[tensor]), tensor


def test_outer_rate_1_and_one_task_is_the_adapted_network_of_reptile(
    network: AestheticNetwork, sampler: TaskSampler
) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    config = ReptileConfig(steps=3, head_rate=0.01, outer_rate=1.0, decay=STILL)
    learner = Reptile(network, FINE_TUNING, config)
    prior, task = _start(learner), sampler.draw(0)[0]
    rates = {tensor: 0.01 for tensor in prior if not is_statistic(tensor)}
    by_hand, _ = descend_sgd(network, prior, task.merged(), 3, rates, batch_norm="support")
    found = learner.meta_step(prior, [task], 0).prior
    for tensor, value in by_hand.items():
        torch.testing.assert_close(found[tensor], value, rtol=1e-6, atol=1e-7)


def test_no_inner_steps_keep_the_prior(network: AestheticNetwork, sampler: TaskSampler) -> None:
    """S = 0 leaves theta_i = theta for the learners that average what tasks reach."""
    blg = BilevelGradient(network, FINE_TUNING, BlgConfig(steps=0, outer_rate=1.0))
    reptile = Reptile(network, FINE_TUNING, ReptileConfig(steps=0, outer_rate=1.0))
    for learner in (blg, reptile):
        prior = _start(learner)
        step = learner.meta_step(prior, sampler.draw(0), 0)
        _assert_same(step.prior, prior)
        assert math.isnan(step.support_loss)


def test_statistics_of_the_released_code_are_carried_from_task_to_task(
    network: AestheticNetwork, sampler: TaskSampler
) -> None:
    """They end where the batches of all tasks in a row lead, over iterations as well, not at a mean.

    With inner rate 0 the weights stay, so each of the S = 1 steps on each level moves the running mean by a
    tenth towards the mean of its batch behind the first layer.
    """
    tensor = "head.hidden.1.running_mean"
    config = BlgConfig(steps=1, head_rate=0.0, statistics="carried", outer_rule="sequential")
    learner = BilevelGradient(network, FINE_TUNING, config)
    prior = _start(learner)
    expected = prior[tensor]
    reached = prior
    for iteration in range(2):
        tasks = sampler.draw(iteration)
        for task in tasks:
            for part in (task.support, task.query):
                batch = network.head.hidden[0](part.inputs).mean(0).detach()
                expected = 0.9 * expected + 0.1 * batch
        reached = learner.meta_step(reached, tasks, iteration).prior
    torch.testing.assert_close(learner.result(reached)[tensor], expected)
    assert not torch.allclose(reached[tensor], expected, atol=1e-4)


def test_result_of_the_released_code_is_what_the_last_task_left(
    network: AestheticNetwork, sampler: TaskSampler
) -> None:
    """Before the first task it is the prior, then theta_1; the prior itself goes a quarter of the way."""
    learner = LEARNERS["blg as released"](network, None)
    prior, tasks = _start(learner), sampler.draw(0)
    _assert_same(learner.result(prior), prior)
    step = learner.meta_step(prior, tasks[:1], 0)
    kept = learner.result(step.prior)
    torch.testing.assert_close(
        kept["head.output.weight"] - prior["head.output.weight"],
        4 * (step.prior["head.output.weight"] - prior["head.output.weight"]),
        rtol=1e-3,
        atol=1e-6,
    )


def test_the_two_levels_leave_out_other_units(network: AestheticNetwork, sampler: TaskSampler) -> None:
    """Equal dropout on support and query would train half a network twice."""
    kept: list[torch.Tensor] = []
    network.head.hidden[3].register_forward_hook(
        lambda module, _, output: kept.append(output != 0) if module.training else None
    )
    drawn = sampler.draw(0)[0]
    task = Task(drawn.user, drawn.support, drawn.support, 0)
    config = BlgConfig(steps=1, head_rate=0.0)
    BilevelGradient(network, FINE_TUNING, config).meta_step(params_of(network), [task], 0)
    assert len(kept) == 2
    assert not torch.equal(*kept)


def test_divergence_is_named(name: str, network: AestheticNetwork, sampler: TaskSampler) -> None:
    """An infinite rating stands for whatever leaves the finite numbers; the user's name is not printed."""
    learner = LEARNERS[name](network, None)
    task = learner.tasks(sampler, 0)[0]
    ratings = torch.full_like(task.support.ratings, math.inf)
    broken = Task(task.user, Examples(task.support.inputs, ratings), task.query, 0)
    with pytest.raises(DivergenceError, match="iteration 5, task of user") as caught:
        learner.meta_step(_start(learner), [broken], 5)
    assert task.user not in str(caught.value)


def test_looking_at_each_epoch_changes_nothing(
    name: str, network: AestheticNetwork, sampler: TaskSampler
) -> None:
    """With a look that scores in between, with dropout on, the adapted tensors are the same bit for bit.

    What is seen in the last epoch is what comes back; scores with gradients are those without.
    """
    learner = LEARNERS[name](network, None)
    prior = _start(learner)
    support = learner.tasks(sampler, 0)[0].support
    seen: list[tuple[int, Params]] = []

    def look(epoch: int, params: Params) -> None:
        learner.predict(params, support.inputs)
        seen.append((epoch, {tensor: value.clone() for tensor, value in params.items()}))

    adapted = learner.adapt(prior, support, seed=4, on_epoch=look)
    _assert_same(learner.adapt(prior, support, seed=4), adapted)
    _assert_same(seen[-1][1], adapted)
    assert [epoch for epoch, _ in seen] == ([1] if name == "closed form" else [1, 2, 3])
    for params in (prior, adapted):
        predicted = learner.predict(params, support.inputs)
        torch.testing.assert_close(learner.scores(params, support.inputs).detach(), predicted)
