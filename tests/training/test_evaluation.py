"""The protocol behind every figure, on people whose taste is known because it was made up."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piaa_sdk.bundle import DECODING_RULE, ModelBundle, Preprocessing
from piaa_sdk.errors import DivergenceError, ModelFormatError, RatingError, SupportSetError
from piaa_sdk.head import AdaptationGrid, Prior, arc_cosine_kernel
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable, person_digest, picture_digest
from training.evaluation import (
    _Draw,
    _JudgedTask,
    _People,
    _ratings_of_other,
    _summarize,
    check_unseen,
    count_seen,
    draw_tasks,
    evaluate,
    refuse_seen,
    support_and_query,
)
from training.evaluation_record import Evaluation, ShotsResult, to_text
from training.personalizers import KernelPersonalizer, Support
from training.tables import one_method

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

DIM = 6
UNIT = RatingScale(0, 1)
SomePrior = TypeVar("SomePrior", bound=Prior)
SHARE, SLOPE, NOISE, SLOPE_UNIT = 0.5, 0.45, 1.0, 0.2


def make_embeddings(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Pictures of a mean squared length of 1."""
    return np.asarray(np.random.default_rng(seed).normal(size=(count, DIM)) / np.sqrt(DIM))


def make_prior(kind: type[SomePrior] = Prior) -> SomePrior:  # type: ignore[assignment]
    """A prior that knows how the people below are made; its generic score has the spread it says."""
    rng = np.random.default_rng(5)
    pictures, centers = make_embeddings(500, seed=6), rng.normal(size=(4, DIM)).astype(np.float16)
    weights = rng.normal(size=4)
    scores = arc_cosine_kernel(pictures, centers.astype(np.float64), 0.1) @ weights
    return kind(
        curved_metric=np.ones(DIM, dtype=np.float32),
        generic_metric=np.ones(DIM, dtype=np.float32),
        linear_scale=1.0,
        length_scale=0.5,
        centers=centers,
        center_weights=weights / scores.std(),
        center_offset=-scores.mean() / scores.std(),
        arc_bias=0.1,
        generic_mean=0.5,
        generic_std=0.1,
        grid=AdaptationGrid(np.array([SHARE, 0.0]), np.array([[SLOPE, 0.0]]), np.array([0.25, NOISE, 4.0])),
        slope_unit=SLOPE_UNIT,
        offset_mean=0.5,
        offset_variance=1.0,
        variance_scale=0.03,
        variance_degrees=4.0,
        std_factor=1.0,
    )


def make_table(
    ratings: Sequence[FloatArray] | FloatArray, groups: Sequence[str] | None = None
) -> RatingTable:
    """People by their ratings (N,) of all N pictures; nan where a person rated nothing."""
    matrix = np.array(ratings)
    user_index, image_index = np.nonzero(~np.isnan(matrix))
    return RatingTable(
        folder=Path(),
        users=tuple(f"user {user}" for user in range(len(matrix))),
        groups=tuple(groups or ["a"] * len(matrix)),
        images=tuple(f"{image}.png" for image in range(matrix.shape[1])),
        user_index=user_index,
        image_index=image_index,
        ratings=matrix[user_index, image_index],
    )


def people_with_taste(embeddings: FloatArray, count: int, seed: int = 1) -> list[FloatArray]:
    """Generic score plus a straight taste of each person's own plus noise."""
    rng = np.random.default_rng(seed)
    prior: Prior = make_prior()
    generic = prior.standardized(embeddings)
    people: list[FloatArray] = []
    for _ in range(count):
        own = embeddings @ rng.normal(size=DIM)
        people.append(0.5 + 0.05 * generic + 0.2 * own + rng.normal(scale=0.05, size=len(embeddings)))
    return people


def judge(
    ratings: Sequence[FloatArray] | FloatArray,
    embeddings: FloatArray,
    groups: Sequence[str] | None = None,
    *,
    shots: Sequence[int] = (12,),
    repeats: int = 3,
    **options: Any,
) -> Evaluation:
    personalizer = KernelPersonalizer("closed form", make_prior(), embeddings)
    table = make_table(ratings, groups)
    return evaluate(personalizer, table, UNIT, shots=shots, repeats=repeats, **options)


def run(
    ratings: Sequence[FloatArray] | FloatArray,
    embeddings: FloatArray,
    groups: Sequence[str] | None = None,
    **options: Any,
) -> tuple[ShotsResult, ...]:
    return judge(ratings, embeddings, groups, **options).results


def without_clock(evaluation: Evaluation) -> dict[str, Any]:
    record = evaluation.to_json()
    for result in record["results"]:
        del result["seconds_to_adapt"]
    return record


@dataclass(frozen=True, eq=False)
class Told:
    """A method that scores what it is told to, and notes what it was given.

    ``learn`` makes a person's scores (N,) of all pictures from a support set.
    """

    prior: FloatArray
    learn: Callable[[Support], FloatArray]
    supports: list[Support] = field(default_factory=list)
    queries: list[list[int]] = field(default_factory=list)
    name: str = "told"

    def generic(self, images: npt.NDArray[np.intp]) -> FloatArray:
        return self.prior[images]

    def personalize(self, support: Support) -> ToldPredictor:
        self.supports.append(support)
        return ToldPredictor(self.learn(support), self.queries)


@dataclass(frozen=True, eq=False)
class ToldPredictor:
    scores: FloatArray
    queries: list[list[int]]

    def predict(self, images: npt.NDArray[np.intp]) -> tuple[FloatArray, None]:
        self.queries.append(sorted(images.tolist()))
        return self.scores[images], None


def test_a_taste_of_ones_own_is_found() -> None:
    embeddings = make_embeddings(60)
    [result] = run(people_with_taste(embeddings, 8), embeddings, shots=[20])
    figures = {name: figure.mean for name, figure in result.figures.items()}
    assert figures["personal"] > 0.8
    assert figures["personal"] > figures["prior"] + 0.3
    assert result.figures["personal-prior"].interval.low > 0
    assert result.figures["personal-shuffled"].interval.low > 0
    assert figures["personal-shuffled"] == pytest.approx(figures["personal"] - figures["shuffled"])
    assert figures["personal-prior"] == pytest.approx(figures["personal"] - figures["prior"])


def test_taste_that_all_share_is_not_personal() -> None:
    """The control exists for this: it beats the prior as far as the own head does."""
    embeddings = make_embeddings(60)
    shared = people_with_taste(embeddings, 1)[0]
    noise = np.random.default_rng(2).normal(scale=0.05, size=(8, 60))
    [result] = run(shared + noise, embeddings, shots=[20])
    assert result.figures["shuffled"].mean > result.figures["prior"].mean + 0.3
    assert abs(result.figures["personal-shuffled"].mean) < 0.05


def test_on_pure_noise_nothing_is_above_chance() -> None:
    """A rating that leaked from query to support would show here: noise cannot be learned, only seen.

    12 people with 48 query pictures each: one mean correlation has a standard error of about 0.04.
    """
    embeddings = make_embeddings(60)
    ratings = np.random.default_rng(3).random((12, 60))
    [result] = run(ratings, embeddings)
    for name in ("prior", "personal", "shuffled"):
        assert abs(result.figures[name].mean) < 0.12, name


def test_the_scale_of_the_ratings_does_not_matter() -> None:
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 3)
    [unit] = run(ratings, embeddings)
    stretched = make_table([1 + 6 * person for person in ratings])
    method = KernelPersonalizer("closed form", make_prior(), embeddings)
    [seven] = evaluate(method, stretched, RatingScale(1, 7), shots=[12], repeats=3).results
    for name in ("prior", "personal"):
        in_sevenths = seven.measures["mean_absolute_error"][name]
        assert in_sevenths == pytest.approx(6 * unit.measures["mean_absolute_error"][name])
        assert seven.measures["plcc"][name] == pytest.approx(unit.measures["plcc"][name])
    assert seven.coverage == pytest.approx(unit.coverage)
    assert seven.figures["personal"].mean == pytest.approx(unit.figures["personal"].mean)


def test_a_seed_decides_everything() -> None:
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 3)
    first, again, other = (judge(ratings, embeddings, seed=seed) for seed in (4, 4, 5))
    assert without_clock(first) == without_clock(again)
    assert first.results[0].figures["personal"].mean != other.results[0].figures["personal"].mean


def test_progress_counts_every_task() -> None:
    embeddings = make_embeddings(40)
    told: list[tuple[int, int]] = []
    run(
        people_with_taste(embeddings, 2),
        embeddings,
        shots=[5, 12],
        repeats=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 8) for done in range(1, 9)]


def test_people_with_too_few_ratings_are_left_out_and_counted() -> None:
    """A query set has at least ten pictures: with M = 12, somebody with 21 ratings is one short."""
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 4)
    ratings[0][21:] = np.nan
    ratings[1][22:] = np.nan
    few, many = run(ratings, embeddings, shots=[12, 13])
    assert (few.shots, few.users, few.left_out) == (12, 3, 1)
    assert (many.shots, many.users, many.left_out) == (13, 2, 2)
    with pytest.raises(RatingError, match="nobody has rated 31 pictures and 10 more"):
        run(ratings, embeddings, shots=[31])


def test_constant_query_ratings_are_left_out_and_counted() -> None:
    """No rank correlation exists for them. The constant person is a group alone, to be nobody's control."""
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 3)
    [without] = run(ratings, embeddings)
    [result] = run([*ratings, np.full(40, 0.7)], embeddings, ["a", "a", "a", "z"])
    assert (result.users, result.undefined, result.constant_support) == (4, 3, 3)
    assert (without.users, without.undefined, without.constant_support) == (3, 0, 0)
    assert result.undefined_people == (person_digest("user 3"),)
    assert without.undefined_people == ()
    for name, figure in result.figures.items():
        assert replace(figure, mean_with_zeros=0.0) == replace(without.figures[name], mean_with_zeros=0.0)
        assert figure.mean_with_zeros == pytest.approx(0.75 * figure.mean), "one of four people counts as 0"
        assert without.figures[name].mean_with_zeros == without.figures[name].mean
    assert result.coverage == without.coverage


def test_constant_support_ratings_are_judged_by_the_prior() -> None:
    """One odd rating of 40: in the query it leaves a constant support, in the support a constant query.

    Of one person alone, repeats without any correlation must leave the mean defined.
    """
    embeddings = make_embeddings(40)
    ratings = np.full(40, 0.5)
    ratings[7] = 0.9
    [result] = run([ratings], embeddings, repeats=8)
    assert result.constant_support > 0
    assert result.undefined > 0
    assert result.constant_support + result.undefined == 8
    assert result.figures["personal-prior"].mean == 0
    assert math.isfinite(result.figures["personal"].mean)
    assert result.collapsed == 0


def test_only_equal_ratings_excuse_a_method_from_learning() -> None:
    """What refuses ratings that differ is broken, and the prior must not stand in for it."""

    def refuse(support: Support) -> FloatArray:
        raise SupportSetError("cannot")

    table = make_table(np.random.default_rng(0).random((1, 30)))
    with pytest.raises(SupportSetError, match="cannot"):
        evaluate(Told(np.zeros(30), refuse), table, UNIT, shots=[5], repeats=1)
    method = KernelPersonalizer("closed form", make_prior(), make_embeddings(30))
    with pytest.raises(SupportSetError, match="5 ratings without a difference"):
        method.personalize(Support(np.arange(5), np.full(5, 0.5)))


@pytest.mark.parametrize("repeats", [1, 3])
def test_adaptation_that_diverges_counts_as_zero(repeats: int) -> None:
    """One support in many can: what was judged before is not lost, and the method is not spared either."""

    def diverge(support: Support) -> FloatArray:
        if len(method.supports) == 1:
            raise DivergenceError("the loss is nan")
        return np.arange(40.0)

    table = make_table(np.tile(np.arange(40) / 40, (2, 1)))
    method = Told(np.arange(40.0), diverge)
    [result] = evaluate(method, table, UNIT, shots=[12], repeats=repeats, control_repeats=0).results
    assert (result.collapsed, result.constant_support, result.undefined) == (1, 0, 0)
    assert result.judged.correlations["personal"].ravel().tolist() == [0.0, *[1.0] * (2 * repeats - 1)]
    assert result.measures["pairwise_accuracy"]["personal"] == pytest.approx(1 - 0.5 / (2 * repeats))
    assert math.isfinite(result.seconds_to_adapt)


def test_a_control_that_diverges_counts_as_zero() -> None:
    def diverge(support: Support) -> FloatArray:
        if len(method.supports) == 2:
            raise DivergenceError("the loss is nan")
        return np.arange(40.0)

    method = Told(np.arange(40.0), diverge)
    table = make_table(np.tile(np.arange(40) / 40, (2, 1)))
    [result] = evaluate(method, table, UNIT, shots=[12], repeats=1).results
    assert (result.collapsed, result.uncontrolled) == (0, 0)
    assert result.judged.correlations["shuffled"].tolist() == [[0.0, 1.0]]


def test_a_method_that_learns_from_equal_ratings_is_asked_to() -> None:
    """Gradient descent can: nothing is put in the place of its scores."""
    table = make_table(np.where(np.arange(40) == 7, 0.9, 0.5)[None])
    method = Told(np.zeros(40), lambda support: np.arange(40.0))
    [result] = evaluate(method, table, UNIT, shots=[12], repeats=8).results
    assert result.constant_support == 0
    assert len(method.supports) == 8


def test_somebody_alone_in_a_group_has_no_control() -> None:
    embeddings = make_embeddings(40)
    evaluation = judge(people_with_taste(embeddings, 1), embeddings)
    [result] = evaluation.results
    assert math.isnan(result.figures["shuffled"].mean)
    assert math.isnan(result.figures["personal-shuffled"].interval.low)
    assert math.isfinite(result.figures["personal"].mean)
    [stored] = evaluation.to_json()["results"]
    assert stored["figures"]["shuffled"] == {
        "mean": None,
        "std": None,
        "interval": [None, None],
        "picture_error": None,
        "mean_with_zeros": None,
    }
    assert json.loads(json.dumps(stored, allow_nan=False))["figures"]["personal"]["mean"] == pytest.approx(
        result.figures["personal"].mean
    )


def test_a_control_with_too_few_ratings_is_left_out_and_counted() -> None:
    """The second person has rated 22 of the first one's 40 pictures: 28 of those 40 are query pictures.

    The other way round 18 pictures are left that were never in question, and those of the support besides.
    """
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 2)
    ratings[1][22:] = np.nan
    evaluation = judge(ratings, embeddings, repeats=4)
    [result] = evaluation.results
    assert (result.users, result.uncontrolled) == (2, 4)
    assert math.isfinite(result.figures["shuffled"].mean)
    assert result.figures["shuffled"].mean_with_zeros == result.figures["shuffled"].mean
    assert "4 tasks without a control" in one_method(evaluation)


class WatchedPrior(Prior):
    """A prior that notes which pictures meet in its kernels: a head's query with its support."""

    met: list[tuple[FloatArray, FloatArray]]

    def kernels(self, first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:  # type: ignore[override]
        if first is not second:
            self.met.append((first[first.any(axis=1)], second))
        return super().kernels(first, second)


@settings(max_examples=20, deadline=None)
@given(
    pictures=st.integers(16, 30),
    shots=st.integers(2, 6),
    seed=st.integers(0, 1000),
    share=st.floats(0.6, 1),
)
def test_support_and_query_never_meet(pictures: int, shots: int, seed: int, share: float) -> None:
    """Neither a person's own head nor the control may learn from a picture that it is judged on."""
    rng = np.random.default_rng(seed)
    embeddings = make_embeddings(pictures, seed)
    ratings = np.where(rng.random((4, pictures)) < share, rng.random((4, pictures)), np.nan)
    if (np.isfinite(ratings).sum(axis=1) < shots + 10).all():
        ratings[:2] = rng.random((2, pictures))
    prior = make_prior(WatchedPrior)
    object.__setattr__(prior, "met", [])
    table = make_table(ratings, ["a", "a", "a", "b"])
    method = KernelPersonalizer("closed form", prior, embeddings)
    evaluate(method, table, UNIT, shots=[shots], repeats=2, seed=seed)
    assert prior.met
    for query, support in prior.met:
        assert len(query) >= 10
        assert len(support) == shots, "a control with fewer would be weaker than what it controls for"
        assert not np.isin(query[:, 0], support[:, 0]).any()


def test_one_user_s_sets_are_those_of_the_tasks() -> None:
    """Of four people the second rated too little to be judged; each of the others has sets of their own."""
    ratings = np.random.default_rng(0).random((4, 30))
    ratings[1, 8:] = np.nan
    table = make_table(ratings, ["a", "a", "b", "b"])
    tasks = draw_tasks(table, UNIT, shots=5, seed=3, repeat=1)
    assert [task.person for task in tasks] == [person_digest(f"user {user}") for user in (0, 2, 3)]
    for user, task in zip((0, 2, 3), tasks, strict=True):
        support, query = support_and_query(table, UNIT, user=user, shots=5, repeat=1, seed=3)
        np.testing.assert_array_equal(query, task.query)
        np.testing.assert_array_equal(support.images, task.support.images)
        np.testing.assert_array_equal(support.ratings, ratings[user, support.images])
        assert (len(support.images), len(query), support.seed) == (5, 25, task.support.seed)
    assert tasks[0].query.tolist() != tasks[1].query.tolist()
    with pytest.raises(RatingError, match="user 2 has rated 8 pictures"):
        support_and_query(table, UNIT, user=1, shots=5)


@given(
    rated=st.sets(st.integers(0, 19)),
    support=st.sets(st.integers(0, 9)),
    query=st.sets(st.integers(10, 19)),
    shots=st.integers(1, 8),
)
def test_the_control_prefers_the_same_pictures_and_never_takes_query_pictures(
    rated: set[int], support: set[int], query: set[int], shots: int
) -> None:
    images = np.array(sorted(rated), dtype=np.intp)
    chosen, ratings = _ratings_of_other(
        (images, images / 20),
        np.array(sorted(support), dtype=np.intp),
        np.array(sorted(query), dtype=np.intp),
        shots,
        np.random.default_rng(0),
    )
    taken = set(chosen.tolist())
    assert len(taken) == len(chosen) == min(shots, len(rated - query))
    assert taken <= rated - query
    assert len(taken & support) == min(shots, len(rated & support))
    assert ratings.tolist() == (chosen / 20).tolist(), "each picture keeps its own rating"


def judged(correlations: tuple[float, float, float], errors: Sequence[float]) -> _JudgedTask:
    """One task, without a block as with it; the method could not learn where there are no errors."""
    return _JudgedTask(
        correlations=np.repeat(np.array(correlations)[:, None], 11, axis=1),
        measures=np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]) * len(errors),
        errors=np.array(errors, dtype=float),
        seconds=float(len(errors)) if errors else math.nan,
    )


def test_counts_and_coverage_by_hand() -> None:
    """Coverage is a mean over users of their means over repeats: (0.75 + 0.5) / 2, not 4 of 6 ratings.

    Calibration pools all errors 0.2, 0.4, ..., 2.0 in standard deviations; nine tenths lie below 1.82.
    """
    ann = [judged((0.1, 0.4, 0.2), [0.2, 0.4, 0.6, 2.0]), judged((0.3, 0.6, 0.2), [0.8, 1.8])]
    bob = [judged((0.5, 0.5, 0.2), []), judged((math.nan, math.nan, math.nan), [1.0, 1.2, 1.4, 1.6])]
    cat = [judged((0.3, 0.1, 0.2), []), judged((0.3, 0.1, 0.2), [])]
    ratings = np.random.default_rng(0).random((5, 17))
    ratings[3:, 0] = np.nan
    draw = _Draw(_People(make_table(ratings, ["a", "a", "b", "a", "a"]), UNIT), 7, 7, 0, None)
    result = _summarize(draw, [[row[repeat] for row in (ann, bob, cat)] for repeat in (0, 1)])
    assert (result.shots, result.users, result.left_out) == (7, 3, 2)
    assert (result.uncontrolled, result.undefined, result.constant_support) == (0, 1, 3)
    assert result.undefined_people == (), "Bob is undefined once only"
    prior, difference = result.figures["prior"], result.figures["personal-prior"]
    assert prior.mean == pytest.approx(((0.1 + 0.5 + 0.3) / 3 + (0.3 + 0.3) / 2) / 2)
    assert prior.mean_with_zeros == pytest.approx(((0.1 + 0.5 + 0.3) / 3 + (0.3 + 0 + 0.3) / 3) / 2)
    assert difference.mean == pytest.approx(((0.3 + 0 - 0.2) / 3 + (0.3 - 0.2) / 2) / 2)
    # Ann 3 of 4 and 1 of 2, Bob 4 of 4; Cat has no interval to be inside of.
    assert result.coverage == pytest.approx(((0.75 + 0.5) / 2 + 1) / 2)
    assert result.coverage_quantiles == pytest.approx(
        tuple(np.quantile([0.625, 1.0], (0.05, 0.25, 0.5, 0.75, 0.95)))
    )
    # Half of the ratings lie within 0.674 standard deviations: Ann 3 of 4 and none, Bob none of 4.
    half = next(found for found in result.coverage_by_level if found.level == 0.5)
    assert (half.share, half.low, half.high) == pytest.approx((0.1875, 0.01875, 0.35625))
    assert result.calibration == pytest.approx(1.82 / 1.6448536)
    assert result.seconds_to_adapt == 4, "the middle of 2, 4 and 4"
    assert result.measures["plcc"] == pytest.approx({"prior": 1 / 6, "personal": 4 / 6})
    assert result.measures["mean_absolute_error"] == pytest.approx({"prior": 3 / 6, "personal": 1.0})
    assert result.judged.groups == ("a", "a", "b")
    assert result.judged.people == tuple(person_digest(f"user {user}") for user in range(3))


def test_the_matrix_of_correlations_by_hand() -> None:
    """Pictures 0 to 11 in this order of ratings; M = 2 leaves ten, so d^2 by pencil gives every cell.

    The prior scores backwards, -1. Ann's own model swaps the highest pair of the query, whose ranks differ by
    one twice: 1 - 6 * 2 / (10 * 99). Bob's is right, 1.
    """
    table = make_table(np.array([np.arange(12.0), np.arange(12.0) + 0.5]) / 12)

    def learn(support: Support) -> FloatArray:
        scores = np.arange(12.0)
        if round(12 * support.ratings[0]) == 12 * support.ratings[0]:  # Ann's
            high = np.setdiff1d(np.arange(12), support.images)[-2:]
            scores[high] = scores[high[::-1]]
        return scores

    result = evaluate(Told(-np.arange(12.0), learn), table, UNIT, shots=[2], repeats=2).results[0]
    by_name = result.judged.correlations
    np.testing.assert_allclose(by_name["prior"], [[-1, -1], [-1, -1]])
    np.testing.assert_allclose(by_name["personal"], [[1 - 12 / 990, 1]] * 2)
    assert result.figures["personal"].mean == pytest.approx(1 - 6 / 990)
    assert result.measures["pairwise_accuracy"] == pytest.approx({"prior": 0, "personal": 1 - 0.5 / 45})
    assert math.isnan(result.coverage), "a method without standard deviations has no intervals"
    assert result.coverage_by_level == ()


@pytest.mark.parametrize("value", [0.25, math.nan, math.inf])
def test_collapsed_scores_count_as_zero(value: float) -> None:
    """A model that broke down must not be left out of the mean: that would reward breaking down."""
    table = make_table(np.random.default_rng(0).random((2, 30)))

    def learn(support: Support) -> FloatArray:
        return np.full(30, value) if len(method.supports) % 2 else table.ratings[:30]

    method = Told(np.zeros(30), learn)
    [result] = evaluate(method, table, UNIT, shots=[5], repeats=3, control_repeats=0).results
    assert result.undefined == 0
    assert result.collapsed == 3
    assert result.judged.correlations["personal"][:, 0].tolist() == [0, 0, 0]
    assert result.figures["prior"].mean == 0
    json.dumps(result.figures["personal"].mean, allow_nan=False)


def test_a_curve_has_one_query_set_and_support_sets_inside_each_other() -> None:
    table = make_table(np.random.default_rng(0).random((3, 40)))
    method = Told(np.zeros(40), lambda support: np.arange(40.0))
    options: dict[str, Any] = {"shots": [5, 20, 10], "repeats": 2, "control_repeats": 0}
    evaluation = evaluate(method, table, UNIT, curve=True, **options)
    of_five, of_twenty, of_ten = (method.supports[start : start + 6] for start in (0, 6, 12))
    for small, middle, large, *queries in zip(
        of_five, of_ten, of_twenty, *(method.queries[start : start + 6] for start in (0, 6, 12)), strict=True
    ):
        assert middle.images[:5].tolist() == small.images.tolist()
        assert large.images[:10].tolist() == middle.images.tolist()
        assert queries[0] == queries[1] == queries[2]
        assert sorted([*queries[0], *large.images.tolist()]) == list(range(40))
        assert small.seed == middle.seed == large.seed
    assert len({tuple(query) for query in method.queries[:6]}) == 6, "each person and repeat has its own"
    priors = [result.judged.correlations["prior"] for result in evaluation.results]
    np.testing.assert_array_equal(priors[0], priors[1])
    # The largest M is what it is without a curve.
    [alone] = evaluate(method, table, UNIT, shots=[20], repeats=2, control_repeats=0).results
    np.testing.assert_array_equal(
        alone.judged.correlations["personal"], evaluation.results[1].judged.correlations["personal"]
    )


def test_the_control_is_the_own_model_where_all_are_one_person() -> None:
    """A limit: everybody has the same ratings of the same pictures."""
    embeddings = make_embeddings(40)
    one = people_with_taste(embeddings, 1)[0]
    for curve in (False, True):
        for result in run([one] * 4, embeddings, shots=[12, 20], curve=curve):
            assert result.uncontrolled == 0
            np.testing.assert_allclose(
                result.judged.correlations["shuffled"], result.judged.correlations["personal"], atol=1e-9
            )
            assert abs(result.figures["personal-shuffled"].mean) < 1e-9


def test_own_and_control_draw_alike() -> None:
    """One seed for both, another one for each task: no difference comes from an adaptation's own draws."""
    table = make_table(np.random.default_rng(0).random((3, 40)))
    method = Told(np.zeros(40), lambda support: np.arange(40.0))
    evaluate(method, table, UNIT, shots=[5], repeats=2)
    seeds = [support.seed for support in method.supports]
    assert seeds[::2] == seeds[1::2]
    assert len(set(seeds)) == 6


def test_without_a_control_the_rest_is_the_same() -> None:
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 3)
    [with_it], [without] = run(ratings, embeddings), run(ratings, embeddings, control_repeats=0)
    assert without.uncontrolled == 9
    assert without.figures["personal"] == with_it.figures["personal"]
    assert math.isnan(without.figures["shuffled"].mean)


def test_drawn_people_are_the_same_for_all_methods_with_the_tasks_they_always_have() -> None:
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 6)
    ratings[2][20:] = np.nan  # too few for M = 12: never drawn, though judged with M = 5
    told = Told(np.zeros(40), lambda support: np.arange(40.0))
    options: dict[str, Any] = {"shots": [5, 12], "repeats": 2, "users": 3, "seed": 1}
    drawn, whole = (
        judge(ratings, embeddings, **options),
        judge(ratings, embeddings, **options | {"users": None}),
    )
    other = evaluate(told, make_table(ratings), UNIT, **options)
    for result, same_people, everybody in zip(drawn.results, other.results, whole.results, strict=True):
        assert result.users == 3
        assert result.judged.people == same_people.judged.people
        rows = [everybody.judged.people.index(person) for person in result.judged.people]
        for name, values in result.judged.correlations.items():
            np.testing.assert_array_equal(values, everybody.judged.correlations[name][:, rows])
    assert drawn.results[0].judged.people == drawn.results[1].judged.people
    assert drawn.conditions.drawn_users == 3
    again = [judge(ratings, embeddings, **options | {"seed": seed}) for seed in range(2, 8)]
    assert {evaluation.results[0].judged.people for evaluation in again} != {drawn.results[0].judged.people}
    with pytest.raises(RatingError, match="6 people cannot be drawn: 5 have rated 12 pictures and 10 more"):
        judge(ratings, embeddings, **options | {"users": 6})


def test_no_shots_are_judged_beside_every_m_and_not_alone() -> None:
    with pytest.raises(RatingError, match="from 1; M = 0 is judged beside"):
        run(people_with_taste(make_embeddings(40), 2), make_embeddings(40), shots=[0, 10])


def test_what_is_stored_is_read_again(tmp_path: Path) -> None:
    """Everything, undefined people and a missing control included."""
    embeddings = make_embeddings(40)
    ratings = [*people_with_taste(embeddings, 2), np.full(40, 0.7)]
    facts = {"backbone": "some network", "S": 5}
    evaluation = judge(ratings, embeddings, ["a", "a", "z"], shots=[5, 12], curve=True, facts=facts)
    path = tmp_path / "evaluation.json"
    text = to_text(evaluation.to_json() | {"bundle_id": "a further key"})
    path.write_text(text, encoding="utf-8")
    read = Evaluation.load(path)
    assert read.to_json() == evaluation.to_json()
    assert read.conditions == evaluation.conditions
    assert read.result(12).figures["personal"] == evaluation.result(12).figures["personal"]
    assert one_method(read) == one_method(evaluation)
    assert '"shots": [5, 12],' in text, "a row of numbers is one line"


def test_a_record_without_further_levels_is_read_and_stored_as_it_was() -> None:
    """Versions before kept the coverage at 90 % alone, in the same format; nothing single is added to it."""
    embeddings = make_embeddings(40)
    record = judge(people_with_taste(embeddings, 2), embeddings).to_json()
    assert [sorted(level) for level in record["results"][0]["coverage_by_level"]] == [
        ["high", "level", "low", "share"]
    ] * 19
    del record["results"][0]["coverage_by_level"]
    read = Evaluation.from_json(record)
    assert read.results[0].coverage_by_level == ()
    assert read.to_json() == record
    record["results"][0]["coverage_by_level"] = [{"level": 0.5}]
    with pytest.raises(ModelFormatError, match="no complete evaluation"):
        Evaluation.from_json(record)


def test_one_repeat_is_stored_without_a_spread() -> None:
    embeddings = make_embeddings(40)
    evaluation = judge(people_with_taste(embeddings, 2), embeddings, repeats=1)
    record = json.loads(to_text(evaluation.to_json()))
    figure = record["results"][0]["figures"]["personal"]
    assert figure["std"] is None
    assert figure["mean"] is not None
    assert math.isnan(Evaluation.from_json(record).result(12).figures["personal"].std)


def test_shots_that_were_not_judged_are_refused() -> None:
    embeddings = make_embeddings(40)
    evaluation = judge(people_with_taste(embeddings, 2), embeddings, shots=[5, 12])
    with pytest.raises(RatingError, match="closed form was not judged with M = 7; it was with 5, 12"):
        evaluation.result(7)


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    embeddings = make_embeddings(40)
    record = judge(people_with_taste(embeddings, 2), embeddings).to_json()
    with pytest.raises(ModelFormatError, match="format 2, this version reads 1; evaluate again"):
        Evaluation.from_json(record | {"format_version": 2})
    with pytest.raises(ModelFormatError, match=r"no complete evaluation \(KeyError: 'repeats'\)"):
        Evaluation.from_json({name: value for name, value in record.items() if name != "repeats"})
    with pytest.raises(ModelFormatError, match=r"correlations of prior are \(3, 2\), not \(4, 2\)"):
        Evaluation.from_json(record | {"repeats": 4})
    for content in (b"[1]", b"{", b"\xff"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ModelFormatError, match=r"bad\.json"):
            Evaluation.load(tmp_path / "bad.json")


def people_of_the_prior(
    prior: Prior, embeddings: FloatArray, count: int, noise: float = NOISE
) -> list[FloatArray]:
    """Draw people from the model itself: r = m + s b p + f + e, with a variance of f of their own."""
    rng = np.random.default_rng(8)
    straight, curved = prior.kernels(embeddings, embeddings.copy())
    values, vectors = np.linalg.eigh(SHARE * straight + (1 - SHARE) * curved)
    root = vectors * np.sqrt(np.maximum(values, 0))
    degrees = prior.variance_degrees
    people = []
    for _ in range(count):
        spread = math.sqrt(degrees * prior.variance_scale / rng.chisquare(degrees))
        own = root @ rng.normal(size=len(embeddings)) + rng.normal(
            scale=math.sqrt(noise), size=len(embeddings)
        )
        offset = rng.normal(scale=math.sqrt(prior.offset_variance))
        generic = SLOPE_UNIT * SLOPE * prior.standardized(embeddings)
        people.append(0.5 + generic + spread * (offset + own))
    return people


def test_intervals_hold_nine_tenths_of_the_ratings_of_people_as_modelled() -> None:
    """A limit: where the model is true, its 90 % intervals are, and calibration has nothing to change."""
    embeddings = make_embeddings(60)
    ratings = people_of_the_prior(make_prior(), embeddings, 20)
    for result in run(ratings, embeddings, shots=[10, 30], repeats=2):
        assert result.coverage == pytest.approx(0.9, abs=0.03)
        assert result.calibration == pytest.approx(1, abs=0.1)
        low, _, median, _, high = result.coverage_quantiles
        assert low < median < high
        for found in result.coverage_by_level:
            assert found.share == pytest.approx(found.level, abs=0.06)
            assert found.low < found.share < found.high
        ninety = result.coverage_by_level[17]
        assert (ninety.share, ninety.low) == pytest.approx((result.coverage, low)), "one figure, not two"


def test_people_unlike_the_model_show_in_the_coverage() -> None:
    """Shows that the test above can fail: a noise the grid does not know makes intervals too wide."""
    embeddings = make_embeddings(60)
    ratings = people_of_the_prior(make_prior(), embeddings, 10, noise=0.0)
    [result] = run(ratings, embeddings, shots=[30], repeats=1)
    assert result.coverage > 0.94
    assert result.calibration < 0.9


def bundle_trained_on(people: list[str], pictures: list[str]) -> ModelBundle:
    return ModelBundle(
        folder=Path(),
        bundle_id="some",
        bundle_revision="0",
        embedding_id="0",
        embedding_dim=DIM,
        rating_scale=UNIT,
        preprocessing=Preprocessing(32, "squash", "bicubic", 2, (255, 255, 255), DECODING_RULE),
        license="apache-2.0",
        checksums={},
        config={"training": {"people": people, "pictures": pictures}},
    )


def test_seen_people_and_seen_pictures_are_refused(tmp_path: Path) -> None:
    for image in range(3):
        (tmp_path / f"{image}.png").write_bytes(bytes([image]))
    made = make_table(np.full((2, 3), 0.5))
    table = RatingTable(
        tmp_path, made.users, made.groups, made.images, made.user_index, made.image_index, made.ratings
    )
    strangers = [person_digest("somebody else")], [picture_digest(b"another")]
    check_unseen(bundle_trained_on(*strangers), table)
    with pytest.raises(RatingError, match=r"on 1 of these 2 people and 0 of these 3 pictures.*--allow-seen"):
        check_unseen(bundle_trained_on([*strangers[0], person_digest("user 1")], strangers[1]), table)
    seen = [picture_digest(bytes([image])) for image in (0, 2)]
    with pytest.raises(RatingError, match="on 0 of these 2 people and 2 of these 3 pictures"):
        check_unseen(bundle_trained_on(strangers[0], seen), table)
    with pytest.raises(RatingError, match="does not say which people and pictures"):
        check_unseen(bundle_trained_on([], []), table)
    people, pictures = [person_digest("user 1")], [picture_digest(bytes([2])), picture_digest(b"another")]
    assert count_seen(table, *strangers) == (0, 0)
    assert count_seen(table, people, pictures) == (1, 1)
    refuse_seen(table, *strangers, what="run")
    with pytest.raises(RatingError, match="the run was trained on 1 of these 2 people and 1 of these 3 pic"):
        refuse_seen(table, people, pictures, what="run")
