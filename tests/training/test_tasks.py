"""Tasks: whose, which images, how many; and a draw depends on seed, iteration and place alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable
from training.tasks import Task, TaskConfig, TaskSampler, as_target, count_people

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALE = RatingScale(1, 5)


class Positions:
    """Gives an image's position as its input, so that a test can see which images were drawn."""

    def take(self, images: Any, rng: np.random.Generator | None) -> torch.Tensor:
        return torch.from_numpy(np.asarray(images, dtype=np.int64))[:, None]


class Altered:
    """Gives inputs that were altered at random, as augmentation does."""

    def take(self, images: Any, rng: np.random.Generator | None) -> torch.Tensor:
        assert rng is not None
        return torch.from_numpy(rng.random((len(images), 2)))


def _table(counts: Sequence[int], *, seed: int = 0) -> RatingTable:
    """Make users with so many ratings each; all of the images of somebody are rated by those with more."""
    rng = np.random.default_rng(seed)
    return RatingTable(
        folder=Path(),
        users=tuple(f"user {user:03}" for user in range(len(counts))),
        groups=("all",) * len(counts),
        images=tuple(f"{image:04}.jpg" for image in range(max(counts))),
        user_index=np.repeat(np.arange(len(counts)), counts),
        image_index=np.concatenate([np.arange(count) for count in counts]),
        ratings=rng.integers(1, 6, sum(counts)).astype(np.float64),
    )


def _sampler(counts: Sequence[int], seed: int = 0, **config: Any) -> TaskSampler:
    return TaskSampler(_table(counts), SCALE, Positions(), TaskConfig(**config), seed=seed)


def _images(task: Task) -> tuple[list[int], list[int]]:
    return task.support.inputs[:, 0].tolist(), task.query.inputs[:, 0].tolist()


def _all(task: Task) -> list[int]:
    support, query = _images(task)
    return support + query


def _same(left: Sequence[Task], right: Sequence[Task]) -> bool:
    return len(left) == len(right) and all(
        one.user == other.user and _images(one) == _images(other) and one.seed == other.seed
        for one, other in zip(left, right, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(6, 60), min_size=1, max_size=6),
    support=st.one_of(
        st.tuples(st.integers(1, 60)),
        st.tuples(st.integers(1, 8), st.integers(8, 60)),
    ),
    query=st.integers(0, 30),
    pool=st.sampled_from([0, 2, 5, 20, 100]),
    users=st.sampled_from(["random", "shuffled"]),
    iteration=st.integers(0, 1000),
    seed=st.integers(0, 2**31),
)
def test_support_and_query_never_meet(
    counts: list[int],
    support: tuple[int, ...],
    query: int,
    pool: int,
    users: str,
    iteration: int,
    seed: int,
) -> None:
    """Whatever the sizes: both sets hold images, once, no more than asked for, with the user's ratings."""
    sampler = _sampler(counts, seed, tasks=3, support=support, query=query, pool=pool, users=users)
    table = _table(counts)
    ratings = {user: dict(zip(images, values, strict=True)) for user, images, values in table.by_user()}
    tasks = sampler.draw(iteration)
    assert len({task.user for task in tasks}) == len(tasks) > 0
    for task in [*tasks, *sampler.draw_means(iteration)]:
        first, second = _images(task)
        assert not set(first) & set(second)
        assert len(set(first)) == len(first)
        assert len(set(second)) == len(second)
        assert 1 <= len(first) <= support[-1]
        assert bool(query or task in tasks) <= len(second) <= (query or math.inf)
        if task in tasks:
            drawn = [*task.support.ratings.tolist(), *task.query.ratings.tolist()]
            expected = [(ratings[task.user][image] - 1) / 4 for image in first + second]
            assert drawn == pytest.approx(expected)
            assert pool == 0 or len(first) + len(second) <= pool


def test_a_draw_depends_on_seed_iteration_and_place_alone() -> None:
    """Another sampler, another order of draws, a part of the places: the same tasks come out."""
    first, second = (_sampler([30] * 9, 5, support=(8,), query=4) for _ in range(2))
    straight = [first.draw(iteration) for iteration in range(4)]
    backwards = {iteration: second.draw(iteration) for iteration in (3, 1, 0, 2)}
    for iteration, tasks in enumerate(straight):
        assert _same(tasks, backwards[iteration])
        halves = [*first.draw(iteration, range(2)), *first.draw(iteration, range(2, 4))]
        assert _same(tasks, halves)
    assert not _same(straight[0], straight[1])
    assert not _same(straight[0], _sampler([30] * 9, 6, support=(8,), query=4).draw(0))
    # Users with as many ratings draw other images, and other seeds for what chance decides later.
    assert len({task.seed for tasks in straight for task in tasks}) == 16
    assert _images(straight[0][0]) != _images(straight[0][1])
    alone = _sampler([30], 5, support=(8,), query=4)
    assert _images(alone.draw(0)[0]) != _images(alone.draw(1)[0])


def test_what_the_source_draws_is_drawn_again() -> None:
    """Augmentation takes from the task's own generator: the same seed alters pictures the same way."""
    first, second = (
        TaskSampler(_table([20] * 4), SCALE, Altered(), TaskConfig(support=(5,), query=3), seed=1)
        for _ in range(2)
    )
    second.draw(0)
    for one, other in zip(first.draw(2), second.draw(2), strict=True):
        assert torch.equal(one.support.inputs, other.support.inputs)
        assert torch.equal(one.query.inputs, other.query.inputs)


def test_shuffled_visits_everybody_once_per_round() -> None:
    """9 users in fours: meta-batches of 4, 4 and 1; the next round has another order."""
    sampler = _sampler([20] * 9, support=(5,), query=3, users="shuffled")
    rounds = []
    for round_ in range(2):
        batches = [sampler.draw(3 * round_ + batch) for batch in range(3)]
        assert [len(batch) for batch in batches] == [4, 4, 1]
        rounds.append([task.user for batch in batches for task in batch])
        assert sorted(rounds[-1]) == [f"user {user:03}" for user in range(9)]
    assert rounds[0] != rounds[1]


def test_places_beyond_a_small_last_batch_are_empty() -> None:
    """The process whose tasks are the last two of four gets none when only one is left."""
    sampler = _sampler([20] * 5, support=(5,), query=3, users="shuffled")
    assert len(sampler.draw(1, range(2))) == 1
    assert sampler.draw(1, range(2, 4)) == []


def test_random_users_are_drawn_evenly_and_never_twice_in_a_batch() -> None:
    sampler = _sampler([10] * 8, support=(4,), query=2, users="random")
    visits: Counter[str] = Counter()
    for iteration in range(400):
        names = [task.user for task in sampler.draw(iteration)]
        assert len(set(names)) == 4
        visits.update(names)
    # 200 visits each are expected, with a standard deviation of 10.
    assert all(abs(count - 200) < 50 for count in visits.values())
    assert len(_sampler([10] * 3, support=(4,), query=2).draw(0)) == 3


def test_the_pool_is_fixed() -> None:
    """Only 12 of a user's 60 ratings are all that is ever drawn; without a pool everything comes up."""
    sampler = _sampler([60], support=(8,), query=4, pool=12)
    seen = {
        image for iteration in range(50) for part in _images(sampler.draw(iteration)[0]) for image in part
    }
    assert len(seen) == 12
    everything = _sampler([60], support=(8,), query=4, pool=0)
    seen = {image for it in range(100) for part in _images(everything.draw(it)[0]) for image in part}
    assert len(seen) == 60
    other = _sampler([60], 1, support=(8,), query=4, pool=12)
    assert set(_all(other.draw(0)[0])) != set(_all(sampler.draw(0)[0]))


@pytest.mark.parametrize(
    ("ratings", "support", "query"),
    [
        (200, 80, 20),
        (100, 80, 20),
        (99, 79, 20),
        (96, 76, 20),
        (50, 40, 10),
        (10, 8, 2),
        (6, 4, 2),
    ],
)
def test_small_users_are_cut_four_to_one(ratings: int, support: int, query: int) -> None:
    """floor(0.8 n) to the support set of who has fewer than m_s + m_q, as the released code does."""
    task = _sampler([ratings], support=(80,), query=20, pool=0).draw(0)[0]
    assert (len(task.support), len(task.query)) == (support, query)


def test_a_small_user_gets_no_more_support_than_asked_for() -> None:
    """With m_s = 10, m_q = 100 and 60 ratings the query set falls short, the support set does not grow."""
    task = _sampler([60], support=(10,), query=100, pool=0).draw(0)[0]
    assert (len(task.support), len(task.query)) == (10, 50)


def test_query_0_takes_what_is_left() -> None:
    task = _sampler([50], support=(10,), query=0, pool=0).draw(0)[0]
    assert (len(task.support), len(task.query)) == (10, 40)


def test_support_sizes_of_a_range_are_log_uniform() -> None:
    """P(K) = ln((K + 1) / K) / ln((most + 1) / least), within 4 standard errors of 2000 draws.

    From 1 to 3: 0.5, 0.292 and 0.208. From 5 to 80: P(K <= 20) = ln(21 / 5) / ln(81 / 5) = 0.515.
    """
    sampler = _sampler([100], tasks=1, support=(1, 3), query=20)
    counts = Counter(len(sampler.draw(iteration)[0].support) for iteration in range(2000))
    shares = [counts[size] / 2000 for size in (1, 2, 3)]
    assert shares == pytest.approx([0.5, 0.292, 0.208], abs=0.045)
    assert counts.keys() == {1, 2, 3}
    sampler = _sampler([100], tasks=1, support=(5, 80), query=20)
    sizes = np.array([len(sampler.draw(iteration)[0].support) for iteration in range(2000)])
    assert sizes.min() == 5
    assert 75 <= sizes.max() <= 80
    assert np.mean(sizes <= 20) == pytest.approx(math.log(21 / 5) / math.log(81 / 5), abs=0.045)


def test_generic_tasks_hold_mean_ratings() -> None:
    """Image 1 is rated 2 and 4 by two users, image 0 by one: means 3 and 5 of 1 to 5."""
    table = RatingTable(
        folder=Path(),
        users=("a", "b"),
        groups=("all", "all"),
        images=("0.jpg", "1.jpg"),
        user_index=np.array([0, 0, 1]),
        image_index=np.array([0, 1, 1]),
        ratings=np.array([5.0, 2.0, 4.0]),
    )
    sampler = TaskSampler(table, SCALE, Positions(), TaskConfig(tasks=2, support=(1,), query=1))
    tasks = sampler.draw_means(0)
    assert len(tasks) == 2
    for task in tasks:
        means = {part.inputs[0, 0].item(): part.ratings[0].item() for part in (task.support, task.query)}
        assert means == pytest.approx({0: 1.0, 1: 0.5})
    assert _same(sampler.draw_means(3), sampler.draw_means(3))
    assert len(sampler.draw_means(3, range(1))) == 1
    alone = TaskSampler(table, SCALE, Positions(), TaskConfig(tasks=2, support=(2,), query=0))
    for task in alone.draw_means(0):
        assert sorted(task.support.inputs[:, 0].tolist()) == [0, 1]
        assert len(task.query) == len(task.query.inputs) == 0


def test_targets() -> None:
    """``unit`` maps the scale to [0, 1]; ``share`` is rating / 5, so 1 becomes 0.2."""
    ratings = np.array([1.0, 2.0, 5.0])
    np.testing.assert_allclose(as_target(ratings, SCALE, "unit"), [0.0, 0.25, 1.0])
    np.testing.assert_allclose(as_target(ratings, SCALE, "share"), [0.2, 0.4, 1.0])
    task = _sampler([20], support=(10,), query=5, target="share").draw(0)[0]
    assert {round(5 * value, 4) for value in task.support.ratings.tolist()} <= {1, 2, 3, 4, 5}


def test_merged_is_support_then_query() -> None:
    task = _sampler([20], support=(10,), query=5).draw(0)[0]
    merged = task.merged()
    assert merged.inputs[:, 0].tolist() == _all(task)
    assert torch.equal(merged.ratings, torch.cat([task.support.ratings, task.query.ratings]))


def test_ratings_come_in_the_type_asked_for() -> None:
    sampler = TaskSampler(_table([9]), SCALE, Positions(), TaskConfig(), dtype=torch.float64)
    assert sampler.draw(0)[0].support.ratings.dtype == torch.float64


def test_who_rated_fewer_than_six_images_has_no_tasks() -> None:
    """Four and two: with a single image in a set, batch normalization on it would have nothing to measure."""
    sampler = _sampler([5, 9, 1], support=(4,), query=2)
    assert [task.user for task in sampler.draw(0)] == ["user 001"]
    assert count_people(_table([5, 9, 1])) == 1
    assert count_people(_table([6, 9, 5])) == 2
    with pytest.raises(RatingError, match="nobody has rated 6 images"):
        _sampler([5, 5]).draw(0)


@pytest.mark.parametrize(
    "config",
    [
        {"tasks": 0},
        {"query": -1},
        {"pool": 1},
        {"support": ()},
        {"support": (0,)},
        {"support": (9, 5)},
        {"support": (1, 2, 3)},
        {"users": "alphabetical"},
        {"target": "rank"},
    ],
)
def test_settings_that_draw_nothing_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(RatingError, match="must be"):
        TaskConfig(**config)
