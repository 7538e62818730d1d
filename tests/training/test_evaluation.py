"""The protocol behind every figure, on people whose taste is known because it was made up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piaa_sdk.bundle import DECODING_RULE, ModelBundle, Preprocessing
from piaa_sdk.errors import RatingError
from piaa_sdk.head import AdaptationGrid, Prior, arc_cosine_kernel
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable, person_digest, picture_digest
from training.evaluation import (
    ShotsResult,
    _adapted,
    _figure,
    _Judged,
    _ratings_of_other,
    _summarize,
    check_unseen,
    evaluate,
    to_json,
    to_markdown,
)

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
        metric=np.ones(DIM, dtype=np.float32),
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
        scores=matrix[user_index, image_index],
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


def run(
    ratings: Sequence[FloatArray] | FloatArray,
    embeddings: FloatArray,
    groups: Sequence[str] | None = None,
    *,
    shots: Sequence[int] = (12,),
    repeats: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[ShotsResult]:
    table = make_table(ratings, groups)
    return evaluate(
        make_prior(), table, embeddings, UNIT, shots=shots, repeats=repeats, seed=seed, progress=progress
    )


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
    [seven] = evaluate(make_prior(), stretched, embeddings, RatingScale(1, 7), shots=[12], repeats=3)
    assert seven.coverage == pytest.approx(unit.coverage)
    assert seven.figures["personal"].mean == pytest.approx(unit.figures["personal"].mean)


def test_a_seed_decides_everything() -> None:
    embeddings = make_embeddings(40)
    ratings = people_with_taste(embeddings, 3)
    first, again, other = (run(ratings, embeddings, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first[0].figures["personal"].mean != other[0].figures["personal"].mean


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
    assert result.figures == without.figures
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
    scores, std = _adapted(make_prior(), embeddings, np.arange(5), np.full(5, 0.5), embeddings)
    assert std is None
    assert np.array_equal(scores, make_prior().generic(embeddings))


def test_somebody_alone_in_a_group_has_no_control() -> None:
    embeddings = make_embeddings(40)
    [result] = run(people_with_taste(embeddings, 1), embeddings)
    assert math.isnan(result.figures["shuffled"].mean)
    assert math.isnan(result.figures["personal-shuffled"].interval.low)
    assert math.isfinite(result.figures["personal"].mean)
    [stored] = to_json([result])
    assert stored["figures"]["shuffled"] == {
        "mean": None,
        "std": None,
        "interval": [None, None],
        "picture_error": None,
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
    [result] = run(ratings, embeddings, repeats=4)
    assert (result.users, result.uncontrolled) == (2, 4)
    assert math.isfinite(result.figures["shuffled"].mean)
    assert "4 tasks without a control" in to_markdown([result])


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
    evaluate(prior, table, embeddings, UNIT, shots=[shots], repeats=2, seed=seed)
    assert prior.met
    for query, support in prior.met:
        assert len(query) >= 10
        assert len(support) == shots, "a control with fewer would be weaker than what it controls for"
        assert not np.isin(query[:, 0], support[:, 0]).any()


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


def test_figures_by_hand() -> None:
    """Two repeats, three users, one of them undefined in the second repeat.

    Means inside the repeats (0.1 + 0.3 + 0.8) / 3 = 0.4 and (0.5 + 0.7) / 2 = 0.6; their mean 0.5, their
    standard deviation sqrt(2 * 0.1^2 / 1) = 0.1414. Left out in turn, block b gives 0.5 + 0.01 b for b = 0
    to 9, whose squared deviations add up to 82.5e-4: the jackknife gives sqrt(9 / 10 * 82.5e-4).
    """
    whole = np.array([[0.1, 0.3, 0.8], [0.5, 0.7, np.nan]])
    blocks = np.broadcast_to(0.5 + 0.01 * np.arange(10), (2, 3, 10))
    figure = _figure(np.concatenate([whole[:, :, None], blocks], axis=2), ["a", "a", "b"], 0)
    assert figure.mean == pytest.approx(0.5)
    assert figure.std == pytest.approx(math.sqrt(0.02))
    assert figure.picture_error == pytest.approx(math.sqrt(0.9 * 82.5e-4))
    # Users' means are 0.3, 0.5 and 0.8; drawn inside their groups, the first two change, the third does not.
    assert figure.interval == pytest.approx(((0.3 + 0.3 + 0.8) / 3, (0.5 + 0.5 + 0.8) / 3))


def test_one_repeat_has_no_spread() -> None:
    figure = _figure(np.full((1, 2, 11), 0.25), ["a", "a"], 0)
    assert (figure.mean, figure.std, figure.picture_error) == (0.25, 0.0, 0.0)


def test_a_repeat_or_a_block_without_any_correlation_is_left_out() -> None:
    """One person, undefined in one repeat and without one block: no warning of numpy, no lost mean."""
    values = np.full((2, 1, 11), 0.5)
    values[1] = np.nan
    values[:, :, 4] = np.nan
    figure = _figure(values, ["a"], 0)
    assert (figure.mean, figure.std) == (0.5, 0.0)
    assert math.isnan(figure.picture_error)


def judged(correlations: tuple[float, float, float], errors: Sequence[float]) -> _Judged:
    found = np.array(errors, dtype=float)
    coverage = float(np.mean(found <= 1.6448536)) if len(found) else math.nan
    return _Judged(np.repeat(np.array(correlations)[:, None], 11, axis=1), coverage, found, True)


def test_counts_and_coverage_by_hand() -> None:
    """Coverage is a mean over users of their means over repeats: (0.75 + 0.5) / 2, not 4 of 6 ratings.

    Calibration pools all errors 0.2, 0.4, ..., 2.0 in standard deviations; nine tenths lie below 1.82.
    """
    ann = [judged((0.1, 0.4, 0.2), [0.2, 0.4, 0.6, 2.0]), judged((0.3, 0.6, 0.2), [0.8, 1.8])]
    bob = [judged((0.5, 0.5, 0.2), []), judged((math.nan, math.nan, math.nan), [1.0, 1.2, 1.4, 1.6])]
    cat = [judged((0.3, 0.1, 0.2), []), judged((0.3, 0.1, 0.2), [])]
    result = _summarize(
        7, [[row[repeat] for row in (ann, bob, cat)] for repeat in (0, 1)], ["a", "a", "b"], 2, 0
    )
    assert (result.shots, result.users, result.left_out) == (7, 3, 2)
    assert (result.uncontrolled, result.undefined, result.constant_support) == (0, 1, 3)
    assert result.figures["prior"].mean == pytest.approx(((0.1 + 0.5 + 0.3) / 3 + (0.3 + 0.3) / 2) / 2)
    assert result.figures["personal-prior"].mean == pytest.approx(((0.3 + 0 - 0.2) / 3 + (0.3 - 0.2) / 2) / 2)
    # Ann 3 of 4 and 1 of 2, Bob 4 of 4; Cat has no interval to be inside of.
    assert result.coverage == pytest.approx(((0.75 + 0.5) / 2 + 1) / 2)
    assert result.coverage_quantiles == pytest.approx(
        tuple(np.quantile([0.625, 1.0], (0.05, 0.25, 0.5, 0.75, 0.95)))
    )
    assert result.calibration == pytest.approx(1.82 / 1.6448536)


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
        tmp_path, made.users, made.groups, made.images, made.user_index, made.image_index, made.scores
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


def test_the_table_shows_every_figure() -> None:
    result = ShotsResult(
        shots=7,
        users=3,
        left_out=0,
        uncontrolled=2,
        undefined=0,
        constant_support=0,
        figures={
            name: _figure(np.full((2, 3, 11), value), ["a"] * 3, 0)
            for name, value in (
                ("prior", 0.5),
                ("personal", 0.625),
                ("shuffled", 0.5625),
                ("personal-prior", 0.125),
                ("personal-shuffled", -0.0625),
            )
        },
        coverage=0.9054,
        coverage_quantiles=(0.8, 0.85, 0.9, 0.95, 1.0),
        calibration=1.0,
    )
    header, rule, row, blank, *legend, remark = to_markdown([result]).splitlines()
    assert not blank
    assert "conditional on these pictures" in " ".join(legend)
    assert remark == "M = 7: 2 tasks without a control."
    assert header.count("|") == rule.count("|") == row.count("|")
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "7",
        "3",
        "0.500 ± 0.000 [0.500, 0.500] (0.000)",
        "0.625 ± 0.000 [0.625, 0.625] (0.000)",
        "0.562 ± 0.000 [0.562, 0.562] (0.000)",
        "+0.125 [+0.125, +0.125] (0.000)",
        "-0.062 [-0.062, -0.062] (0.000)",
        "90.5% (users 80% to 100%)",
    ]
