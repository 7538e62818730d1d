"""What to rate next: the protocol keeps its promises, and criteria choose what their rules say."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import piaa_sdk
from piaa_sdk.errors import ModelFormatError, RatingError, SupportSetError
from piaa_sdk.head import AdaptationGrid, Prior
from piaa_sdk.rating_scale import RatingScale
from training import __main__ as program
from training.active_commands import _pam_contest
from training.active_record import ActiveSelection
from training.active_selection import (
    Contest,
    RandomChoice,
    ResidualCriterion,
    VarianceCriterion,
    select_actively,
)
from training.attributes.source import AttributeSource
from training.baselines.pam import PamPersonalizer
from training.data.datasets import read_dataset
from training.data.ratings import RatingTable, picture_digest
from training.experiment import Backbone, Workshop
from training.personalizers import KernelPersonalizer, Support
from training.published import load_methods

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from training.active_record import Track
    from training.tasks import IntArray

    Float64Array = npt.NDArray[np.float64]

UNIT = RatingScale(0, 1)
DEFAULT_BUNDLE = Path(piaa_sdk.__file__).parent / "default_model"


def as_table(ratings: Float64Array, groups: tuple[str, ...] = ()) -> RatingTable:
    """People by their ratings (U, N); nan where a person rated nothing."""
    user_index, image_index = np.nonzero(~np.isnan(ratings))
    return RatingTable(
        folder=Path(),
        users=tuple(f"user {user}" for user in range(len(ratings))),
        groups=groups or ("a",) * len(ratings),
        images=tuple(f"{image:04}.png" for image in range(ratings.shape[1])),
        user_index=user_index,
        image_index=image_index,
        ratings=ratings[user_index, image_index],
    )


def random_table(users: int = 3, images: int = 80, seed: int = 0) -> RatingTable:
    return as_table(np.random.default_rng(seed).random((users, images)))


@dataclass(eq=False)
class NearestRating:
    """Scores a picture as the nearest rated one, sure of it by the distance; notes what it is asked."""

    places: Float64Array
    name: str = "nearest"
    asked: list[tuple[Support, IntArray]] = field(default_factory=list)

    def generic(self, images: IntArray) -> FloatArray:
        return self.places[images]

    def personalize(self, support: Support) -> NearestPredictor:
        if len(support.images) < 2 or np.ptp(support.ratings) == 0:
            raise SupportSetError("ratings without a difference")
        return NearestPredictor(self, support)


@dataclass(frozen=True, eq=False)
class NearestPredictor:
    method: NearestRating
    support: Support

    def predict(self, images: IntArray) -> tuple[FloatArray, FloatArray | None]:
        self.method.asked.append((self.support, images))
        places = self.method.places
        distances = np.abs(places[images][:, None] - places[self.support.images])
        return self.support.ratings[distances.argmin(axis=1)], distances.min(axis=1)


@dataclass(frozen=True)
class FirstChoice:
    """Always the first candidate: what another criterion than the built-in ones looks like."""

    name: str = "first"

    def choose(self, rated: Support, candidates: IntArray) -> int:
        return 0


def nearest(images: int = 80) -> NearestRating:
    return NearestRating(np.random.default_rng(4).random(images))


def track_of(found: ActiveSelection, criterion: str, method: str | None = None) -> Track:
    [track] = [
        track for track in found.tracks if track.criterion == criterion and method in (None, track.method)
    ]
    return track


def test_random_choice_is_uniform() -> None:
    """Over 3000 seeds each of 6 candidates comes about 500 times: five deviations are 100."""
    rated, candidates = np.arange(3), np.arange(10, 16)
    places = [RandomChoice().choose(Support(rated, np.zeros(3), seed), candidates) for seed in range(3000)]
    assert np.abs(np.bincount(places, minlength=6) - 500).max() < 100


def test_no_rated_and_no_query_picture_is_ever_chosen() -> None:
    """Each support set holds one more picture than the last, none twice and none of the query set."""
    method = nearest()
    contest = Contest(method, (VarianceCriterion(method),))
    select_actively([contest], random_table(), UNIT, shots=[5, 20], repeats=2)
    queries = [(support, images) for support, images in method.asked if len(images) == 40]
    assert len(queries) == 3 * 2 * 2 * 2  # people, repeats, criteria, numbers of ratings
    for support, images in queries:
        assert len(np.unique(support.images)) == len(support.images) in (5, 20)
        assert not np.isin(support.images, images).any()
    walks = [(support, images) for support, images in method.asked if len(images) != 40]
    assert walks
    for support, candidates in walks:
        assert not np.isin(support.images, candidates).any()
        assert len(support.images) + len(candidates) == 40


def test_start_and_query_are_the_same_for_all_criteria_and_methods() -> None:
    """What makes the differences paired; the pictures chosen later differ."""
    first, second = nearest(), replace(nearest(), name="another", asked=[])
    contests = [Contest(first, (FirstChoice(),)), Contest(second, (VarianceCriterion(second),))]
    found = select_actively(contests, random_table(), UNIT, shots=[3, 10], repeats=2)

    def judged(asked: list[tuple[Support, IntArray]], count: int) -> list[tuple[tuple[int, ...], ...]]:
        kept = [(support.images, images) for support, images in asked if len(images) == 40]
        return [
            (tuple(images.tolist()), tuple(query.tolist())) for images, query in kept if len(images) == count
        ]

    starts = judged(first.asked, 3), judged(second.asked, 3)
    assert starts[0] == starts[1]
    assert starts[0][:6] == starts[0][6:]  # random choice, then the criterion
    ends = judged(first.asked, 10), judged(second.asked, 10)
    assert [query for _, query in ends[0]] == [query for _, query in ends[1]]
    assert ends[0][:6] == ends[1][:6]  # random choice does not depend on the method
    assert ends[0][6:] != ends[1][6:]
    for track in found.tracks:  # nothing was chosen yet
        assert found.difference(track, 3).mean == 0


def test_criteria_see_what_was_rated_and_each_step_has_a_seed_of_its_own() -> None:
    """Ratings given are those of the table."""
    method, table = nearest(), random_table(users=1)
    select_actively([Contest(method, ())], table, UNIT, shots=[4, 6, 9], repeats=1)
    for support, _ in method.asked:
        np.testing.assert_array_equal(support.ratings, table.ratings[support.images])
    assert len({support.seed for support, _ in method.asked}) == 3


def test_the_residual_criterion_chooses_the_far_and_wrong() -> None:
    """Pencil: rated at 0 and 10 on a line, residuals 0.1 and 0.4, scale 1.

    Candidates 1, 9 and 7: novelty 1, 1, 3 (mean 5/3). The nearest rated picture has all the weight within
    exp(-20) or less: residuals 0.1, 0.4, 0.4 (mean 0.3). Scores: 0.6 x 1/3, 0.6 x 4/3, 1.8 x 4/3.
    """
    descriptors = np.array([[0.0], [10.0], [1.0], [9.0], [7.0]])
    criterion = ResidualCriterion(descriptors, np.full(5, 0.5), scale=1.0)
    rated = Support(np.array([0, 1]), np.array([0.6, 0.1]))
    scores = criterion.scores(rated, np.array([2, 3, 4]))
    np.testing.assert_allclose(scores, [0.2, 0.8, 2.4], atol=1e-7)
    assert criterion.choose(rated, np.array([2, 3, 4])) == 2
    assert criterion.choose(rated, np.array([2, 3])) == 1  # as far, but near the larger residual
    assert criterion.choose(rated, np.array([3, 4, 2])) == 1  # a place among the candidates, no picture


def test_the_residual_criterion_does_not_depend_on_units() -> None:
    """Ratings and residuals ten times as small, and descriptors with the scale to match: the same scores."""
    rng = np.random.default_rng(0)
    descriptors, generic, ratings = rng.normal(size=(30, 4)), rng.random(30), rng.random(6)
    rated, candidates = Support(np.arange(6), ratings), np.arange(6, 30)
    expected = ResidualCriterion(descriptors, generic, 0.3).scores(rated, candidates)
    small = Support(np.arange(6), ratings / 10)
    found = ResidualCriterion(descriptors * 5, generic / 10, 0.3 / 25).scores(small, candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_without_a_residual_or_a_distance_the_other_decides() -> None:
    """Limits: a generic score that is right everywhere, and candidates that are copies of rated pictures."""
    descriptors = np.array([[0.0], [1.0], [0.5], [4.0]])
    right = ResidualCriterion(descriptors, np.array([0.2, 0.7, 0.5, 0.5]), 1.0)
    assert right.choose(Support(np.array([0, 1]), np.array([0.2, 0.7])), np.array([2, 3])) == 1
    copies = ResidualCriterion(np.array([[0.0], [50.0], [0.0], [50.0]]), np.full(4, 0.5), 1.0)
    assert copies.choose(Support(np.array([0, 1]), np.array([0.5, 0.9])), np.array([2, 3])) == 1


def test_far_from_all_rated_pictures_the_residual_criterion_stays_finite() -> None:
    """exp(-scale d^2) is 0 in floating point at d = 1000; weights are taken against the nearest picture."""
    descriptors = np.array([[0.0], [1.0], [1000.0], [999.0]])
    criterion = ResidualCriterion(descriptors, np.full(4, 0.5), 1.0)
    scores = criterion.scores(Support(np.array([0, 1]), np.array([0.1, 0.8])), np.array([2, 3]))
    assert np.isfinite(scores).all()
    assert scores[0] > scores[1] > 0


def linear_prior(dim: int, noise: float) -> Prior:
    """A prior that holds taste for a straight line, whatever all like: f(x) = w x, w standard normal."""
    return Prior(
        curved_metric=np.ones(dim, dtype=np.float32),
        generic_metric=np.ones(dim, dtype=np.float32),
        linear_scale=1.0,
        length_scale=1.0,
        centers=np.zeros((0, dim), dtype=np.float16),
        center_weights=np.zeros(0),
        center_offset=0.0,
        arc_bias=0.1,
        generic_mean=0.5,
        generic_std=0.1,
        grid=AdaptationGrid(np.array([1.0]), np.array([[0.0, 0.0]]), np.array([noise])),
        slope_unit=0.2,
        offset_mean=0.5,
        offset_variance=0.1,
        variance_scale=0.01,
        variance_degrees=4.0,
        std_factor=1.0,
    )


def test_variance_chooses_the_picture_farthest_out_on_a_line() -> None:
    """Pencil: the variance of w x is that of w times x squared, less what ratings near 0 taught of w."""
    places = np.array([[0.1], [0.2], [1.0], [3.0], [-5.0]])
    criterion = VarianceCriterion(KernelPersonalizer("line", linear_prior(1, 1.0), places))
    rated = Support(np.array([0, 1]), np.array([0.4, 0.6]))
    assert criterion.choose(rated, np.array([2, 3, 4])) == 2
    assert criterion.choose(rated, np.array([3, 2])) == 0


def test_equal_ratings_let_variance_choose_at_random() -> None:
    """They teach the method nothing; the choice then follows the seed alone, and is not always the same."""
    criterion = VarianceCriterion(nearest())
    supports = [Support(np.arange(3), np.full(3, 0.5), seed) for seed in range(20)]
    found = [criterion.choose(support, np.arange(3, 9)) for support in supports]
    assert found == [RandomChoice().choose(support, np.arange(3, 9)) for support in supports]
    assert len(set(found)) > 2


def test_a_method_without_deviations_cannot_choose_by_variance() -> None:
    @dataclass(frozen=True)
    class Certain:
        name: str = "certain"

        def generic(self, images: IntArray) -> FloatArray:
            return np.zeros(len(images))

        def personalize(self, support: Support) -> Certain:
            return self

        def predict(self, images: IntArray) -> tuple[FloatArray, FloatArray | None]:
            return np.zeros(len(images)), None

    with pytest.raises(RatingError, match="certain knows no standard deviations"):
        VarianceCriterion(Certain()).choose(Support(np.arange(2), np.array([0.1, 0.9])), np.arange(2, 4))


def test_uncertainty_sampling_helps_where_few_pictures_tell_much() -> None:
    """Of 120 pictures most lie near the middle, where a straight taste hardly shows above the noise.

    Pictures far out show it ten times as well and the predictive variance, which grows with the squared
    distance, finds them; random choice meets few. Prior and people are of one making, so this must show.
    """
    rng = np.random.default_rng(0)
    dim, people = 6, 16
    lengths = np.where(rng.random(120) < 0.2, 3.0, 0.3)
    embeddings = rng.normal(size=(120, dim)) / np.sqrt(dim) * lengths[:, None]
    tastes = rng.normal(size=(people, dim))
    ratings = 0.5 + 0.1 * tastes @ embeddings.T + rng.normal(0, 0.1, (people, 120))
    method = KernelPersonalizer("line", linear_prior(dim, 1.0), embeddings)
    contest = Contest(method, (VarianceCriterion(method),))
    found = select_actively([contest], as_table(ratings), UNIT, shots=[8], repeats=1)
    gain = found.difference(track_of(found, "variance"), 8)
    assert gain.mean > 0.05
    assert gain.interval.low > 0


def test_the_same_seed_gives_the_same_record_and_another_one_another() -> None:
    method = nearest()
    contest = Contest(method, (VarianceCriterion(method),))
    records = [
        select_actively([contest], random_table(), UNIT, shots=[8], repeats=2, seed=seed).to_json()
        for seed in (1, 1, 2)
    ]
    assert records[0] == records[1]
    assert records[0]["tracks"] != records[2]["tracks"]


def test_users_are_drawn_by_the_seed_with_the_tasks_that_they_have_among_all() -> None:
    """So that a run on some people can be set beside one on all."""
    contest = Contest(nearest(), ())
    every = select_actively([contest], random_table(6), UNIT, shots=[8], repeats=2, seed=3)
    some = select_actively([contest], random_table(6), UNIT, shots=[8], repeats=2, seed=3, users=2)
    assert len(some.people) == 2
    places = [every.people.index(person) for person in some.people]
    np.testing.assert_array_equal(some.tracks[0].correlations, every.tracks[0].correlations[:, :, places])


@pytest.mark.parametrize(("images", "query"), [(200, 100), (90, 39), (82, 31), (70, 19), (61, 10)])
def test_the_query_set_is_half_but_leaves_more_candidates_than_are_chosen(images: int, query: int) -> None:
    """With 50 to choose at most: of 90 pictures 51 are candidates; of 61 as many, and 10 to judge by."""
    found = select_actively(
        [Contest(nearest(images), ())], random_table(2, images), UNIT, shots=[10, 50], repeats=1
    )
    assert found.query_sizes == (query, query)
    assert found.candidates == (images - query, images - query)


def test_equal_ratings_so_far_are_judged_by_the_prior() -> None:
    """A person who rates 0.5 but for one picture: as long as that one is not met, the prior stands in."""
    ratings = np.full((1, 60), 0.5)
    ratings[0, 7] = 1.0
    method = nearest(60)
    found = select_actively([Contest(method, ())], as_table(ratings), UNIT, shots=[3], repeats=40)
    values = found.tracks[0].correlations[0, :, 0]
    assert np.isnan(values).any()  # the picture is a candidate: all query ratings are equal
    assert (np.abs(values[~np.isnan(values)]) > 0).any()  # it is a query picture: the prior orders them
    assert not method.asked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": [2]}, r"numbers of ratings are \[2\] and 3 are rated at first"),
        ({"shots": []}, "at least one number"),
        ({"shots": [5], "start": 0}, "of which there must be one"),
        ({"shots": [70]}, "nobody has rated 81 pictures: 70 to choose, one to spare and 10"),
        ({"shots": [5], "users": 4}, "4 people cannot be drawn: 3 have"),
    ],
)
def test_numbers_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RatingError, match=message):
        select_actively([Contest(nearest(), ())], random_table(), UNIT, repeats=1, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judged() -> ActiveSelection:
    method = nearest()
    contest = Contest(method, (VarianceCriterion(method),))
    table = as_table(np.random.default_rng(0).random((4, 80)), ("a", "a", "b", "b"))
    found = select_actively([contest], table, UNIT, shots=[5, 12], repeats=2)
    return replace(found, facts={"chosen": {"cost": 1.0}})


def test_a_record_comes_back_as_it_was(judged: ActiveSelection, tmp_path: Path) -> None:
    """Every user and repeat, and so every figure; names of people are nowhere."""
    path = tmp_path / "active.json"
    path.write_text(json.dumps(judged.to_json(), allow_nan=False))
    assert "user 1" not in path.read_text()
    back = ActiveSelection.load(path)
    assert back.to_json() == judged.to_json()
    assert back.to_markdown() == judged.to_markdown()
    for track, other in zip(judged.tracks, back.tracks, strict=True):
        assert judged.figure(track, 12) == back.figure(other, 12)
    assert back.people == judged.people


def test_a_figure_is_the_mean_over_users_and_the_difference_is_paired(judged: ActiveSelection) -> None:
    """By hand from the correlations."""
    random, variance = track_of(judged, "random"), track_of(judged, "variance")
    assert judged.figure(variance, 12).mean == pytest.approx(variance.correlations[1].mean())
    expected = (variance.correlations[1] - random.correlations[1]).mean()
    assert judged.difference(variance, 12).mean == pytest.approx(expected)
    with pytest.raises(RatingError, match="nothing was judged after 7 ratings; it was after 5, 12"):
        judged.figure(random, 7)
    alone = replace(judged, tracks=(variance,))
    with pytest.raises(RatingError, match="random choice was not judged for nearest"):
        alone.difference(variance, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "of format 2, this version reads"),
        ({"kind": None}, "no record of format 1"),
        ({"tracks": [{"method": "a"}]}, "no complete record"),
        ({"start": "many"}, "no complete record"),
        ({"repeats": 9}, "not \\(2, 9, 4\\)"),
    ],
)
def test_a_record_of_something_else_is_refused(
    judged: ActiveSelection, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        ActiveSelection.from_json(judged.to_json() | change)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "active.json"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"active\.json"):
        ActiveSelection.load(path)


def run(*arguments: object) -> int:
    """Run ``python -m training active`` here; returns its exit code."""
    before = sys.argv
    sys.argv = ["training", "active", *map(str, arguments)]
    try:
        program.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


QUICK = (
    *("--untrained", "--threads", "1", "--set", "network.size=32", "--shots", "5", "--shots", "8"),
    *("--set", "pam.costs=[0.1, 1.0]", "--set", "pam.scales=[0.1]"),
)


def test_the_command_compares_criteria_on_a_miniature(
    table_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both methods on group c, PAM fitted to a and b: four tracks, a table and a record that loads."""
    output = tmp_path / "active.json"
    groups = ("--groups", "c", "--train-on", table_folder, "--train-groups", "a", "--train-groups", "b")
    few = ("--repeats", "1", "--users", "2", "--cache", tmp_path, "--output", output)
    assert run(table_folder, *groups, "--bundle", DEFAULT_BUNDLE, *few, *QUICK) == 0
    said = capsys.readouterr()
    found = ActiveSelection.load(output)
    assert [(track.method, track.criterion) for track in found.tracks] == [
        ("PAM (content and attribute)", "random"),
        ("PAM (content and attribute)", "residual"),
        ("closed form", "random"),
        ("closed form", "variance"),
    ]
    assert all(np.isfinite(track.correlations).all() for track in found.tracks)
    assert found.conditions.groups == ("c",)
    assert len(found.people) == 2
    assert found.facts["pam"]["chosen"].keys() == {"cost", "scale", "tube"}
    assert "| PAM (content and attribute) | residual |" in said.out
    assert "own - random, after 8" in said.out


def test_the_command_refuses_a_bundle_that_knows_the_people(
    table_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle that was trained on one of the people would look too good; on request it is judged."""
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    person = read_dataset("table", table_folder, groups=["c"]).table.person_digests()[0]
    config["training"] = {"people": [person], "pictures": [picture_digest(b"another")]}
    (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
    few = ("--groups", "c", "--bundle", bundle, "--cache", tmp_path, "--users", "2", "--repeats", "1")
    assert run(table_folder, *few, "--shots", "5") == 1
    assert "error: the bundle was trained on 1 of these 6 people and 0 of" in capsys.readouterr().err
    assert run(table_folder, *few, "--shots", "5", "--allow-seen") == 0
    assert "| closed form | variance |" in capsys.readouterr().out


def test_the_residual_criterion_has_the_scale_of_pam_s_kernel(table_folder: Path, tmp_path: Path) -> None:
    """And its descriptors and generic scores, of the pictures that are chosen among."""
    dataset, judged = (read_dataset("table", table_folder, groups=groups) for groups in (["a", "b"], ["c"]))
    [config] = load_methods(["pam_attribute"], ["network.size=32", "pam.costs=[1.0]", "pam.scales=[0.07]"])
    workshop = Workshop("head", tmp_path, Backbone(untrained=True))
    contest, facts = _pam_contest(
        config, dataset, judged.table, workshop, AttributeSource(), allow_seen=False
    )
    [criterion] = contest.criteria
    assert isinstance(criterion, ResidualCriterion)
    assert facts["chosen"]["scale"] == criterion.scale == 0.07
    method = contest.method
    assert isinstance(method, PamPersonalizer)
    np.testing.assert_array_equal(criterion.generic, method.generic(np.arange(len(judged.table.images))))
    np.testing.assert_array_equal(criterion.descriptors, method.descriptors)


def test_the_command_refuses_people_seen_and_no_method(
    table_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PAM fitted to the very people would look too good."""
    seen = ("--groups", "c", "--train-on", table_folder, "--cache", tmp_path)
    assert run(table_folder, *seen, *QUICK) == 1
    assert "error: the method PAM was trained on 6 of these 6 people" in capsys.readouterr().err
    assert run(table_folder, "--groups", "c") == 1
    assert "give --train-on" in capsys.readouterr().err
    other = ("--groups", "c", "--train-on", table_folder, "--train-groups", "a", "--config", "blg")
    assert run(table_folder, *other) == 1
    assert "there is no configuration 'blg'; there are ba," in capsys.readouterr().err
