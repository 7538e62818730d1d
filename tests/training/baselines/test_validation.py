"""Settings are chosen on people and pictures that were not fitted on, and the better one is taken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.baselines.features import PictureFeatures
from training.baselines.validation import divide, fit_chosen
from training.data.ratings import RatingTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from piaa_sdk.array_types import FloatArray
    from training.personalizers import IntArray, Support

UNIT = RatingScale(0, 1)


ADVICE = "train on more people, or give every setting one value"


def make_table(users: int, images: int, *, each: int | None = None, groups: int = 1) -> RatingTable:
    """Ratings are the picture's number, so that a score may be known to be right; groups share no picture."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        own = np.arange(images) if each is None else np.sort(rng.permutation(images)[:each])
        own = own[own % groups == user % groups]
        rows += [(user, image) for image in own]
    user_index, image_index = np.array(rows).T
    return RatingTable(
        folder=Path("people"),
        users=tuple(f"{user:03}" for user in range(users)),
        groups=tuple("abc"[user % groups] for user in range(users)),
        images=tuple(f"{image:05}.png" for image in range(images)),
        user_index=user_index,
        image_index=image_index,
        ratings=image_index / images,
    )


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Whoever is nobody is scored the wrong way round, so that the prior must not be what counts."""

    scores: FloatArray
    name: str = ""

    def generic(self, images: IntArray) -> FloatArray:
        return -self.scores[images]

    def personalize(self, support: Support) -> _Scorer:
        return self

    def predict(self, images: IntArray) -> tuple[FloatArray, None]:
        return self.scores[images], None


@dataclass(frozen=True, slots=True)
class _Fitted:
    sign: float

    def personalizer(self, name: str, features: PictureFeatures) -> _Scorer:
        return _Scorer(self.sign * features.content[:, 0], name)


@dataclass(frozen=True, slots=True)
class _System:
    """Scores by the picture's number times a sign: -1 ranks the wrong way round."""

    signs: tuple[float, ...] = (-1.0, 1.0, 0.5)
    tables: list[RatingTable] = field(default_factory=list)
    tried: list[Mapping[str, Any]] = field(default_factory=list)

    def candidates(self) -> Sequence[Mapping[str, Any]]:
        return [{"sign": sign} for sign in self.signs]

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> _Fitted:
        # Whoever hands over features of other pictures than the table's is found out here.
        assert [f"{number:05.0f}.png" for number in features.content[:, 0]] == list(table.images)
        self.tables.append(table)
        self.tried.append(chosen)
        return _Fitted(chosen["sign"])


def _features(table: RatingTable) -> PictureFeatures:
    numbers = np.array([[float(name.removesuffix(".png"))] for name in table.images])
    return PictureFeatures(numbers, numbers, "numbers")


def test_the_setting_that_ranks_best_is_chosen_and_fitted_to_all() -> None:
    """Of settings that rank alike the first is taken: +1 and +0.5 give one order."""
    table, system, seen = make_table(20, 300, groups=2), _System(), []
    choice = fit_chosen(
        system, table, UNIT, _features(table), seed=0, progress=lambda done, total: seen.append((done, total))
    )
    assert choice.chosen == {"sign": 1.0}
    assert choice.srocc == pytest.approx((-1.0, 1.0, 1.0))
    assert system.tables[-1] is table
    assert system.tried[-1] == {"sign": 1.0}
    assert seen == [(done, 6) for done in range(1, 7)]


def with_ratings(table: RatingTable, group: str, ratings: FloatArray | float) -> RatingTable:
    """Give the people of one group other ratings."""
    is_theirs = (np.array(table.groups) == group)[table.user_index]
    return replace(table, ratings=np.where(is_theirs, ratings, table.ratings))


@dataclass(frozen=True, slots=True)
class _Torn(_System):
    """Whether pictures are scored by their number or by its negative depends on which are learned from."""

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> _Fitted:
        assert features.content.shape == (len(table.images), 1)
        return _Fitted(chosen["by_group"][sorted(set(table.groups))[0]])

    def candidates(self) -> Sequence[Mapping[str, Any]]:
        # Each is a sign by the first group that is learned from: b where a is for validation.
        return [
            {"by_group": {"b": 1.0, "a": -1.0}},
            {"by_group": {"b": 1.0, "a": 1.0}},
            {"by_group": {"b": -1.0, "a": 1.0}},
        ]


def test_the_mean_over_the_folds_decides() -> None:
    """Pencil: SROCC of the three candidates is (1, -1), (1, 1), (-1, 1) in two folds: means 0, 1, 0."""
    table = make_table(6, 120, groups=2)
    choice = fit_chosen(_Torn(), table, UNIT, _features(table), seed=0)
    assert choice.srocc == pytest.approx((0.0, 1.0, 0.0))
    assert choice.chosen == _Torn().candidates()[1]


@pytest.mark.parametrize("group", ["a", "b"])
def test_a_fold_of_constant_ratings_does_not_decide(group: str) -> None:
    """Constant ratings cannot be ordered; the other fold can, whichever of the two comes first."""
    table, system = make_table(6, 120, groups=2), _System()
    choice = fit_chosen(system, with_ratings(table, group, 0.5), UNIT, _features(table), seed=0)
    assert choice.chosen == {"sign": 1.0}
    assert choice.srocc == pytest.approx((-1.0, 1.0, 1.0))


def test_constant_ratings_alone_choose_nothing() -> None:
    table = make_table(6, 120, groups=2)
    constant = replace(table, ratings=np.full(len(table), 0.5))
    with pytest.raises(RatingError, match=f"all alike, in each of 2 folds of the training users; {ADVICE}"):
        fit_chosen(_System(), constant, UNIT, _features(table), seed=0)


def test_groups_that_cannot_be_judged_are_not_judged() -> None:
    """Of 3 groups one has 5 ratings each, 15 pictures of its own: it is fitted on, never chosen by."""
    table, system = make_table(9, 45, groups=3), _System()
    is_few = (np.array(table.groups) == "b")[table.user_index] & (table.image_index >= 15)
    table = table.keep(~is_few)
    assert [set(fold.validation.groups) for fold in divide(table, seed=0)] == [{"a"}, {"c"}]
    assert fit_chosen(system, table, UNIT, _features(table), seed=0).chosen == {"sign": 1.0}


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(make_table(10, 20), id="twenty common pictures, ten for each side"),
        pytest.param(make_table(9, 24, groups=3), id="groups of eight pictures"),
    ],
)
def test_people_who_keep_too_few_to_be_judged_by_say_so(table: RatingTable) -> None:
    """The message must tell of training users and settings, not of people to be judged."""
    with pytest.raises(RatingError, match=f"training users .* must keep 12 ratings; {ADVICE}"):
        fit_chosen(_System(), table, UNIT, _features(table), seed=0)


def test_one_setting_needs_no_choice() -> None:
    table, system = make_table(1, 12), _System(signs=(-1.0,))
    choice = fit_chosen(system, table, UNIT, _features(table), seed=0)
    assert (choice.srocc, len(system.tables)) == ((), 1)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(make_table(9, 90, groups=3), id="groups"),
        pytest.param(make_table(10, 60), id="all rated the same pictures"),
        pytest.param(make_table(40, 4000, each=60), id="each rated a few of many"),
    ],
)
def test_folds_share_neither_people_nor_pictures(table: RatingTable) -> None:
    folds = divide(table, seed=1)
    assert len(folds) == len(set(table.groups)) if len(set(table.groups)) > 1 else len(folds) == 1
    for fold in folds:
        assert not set(fold.train.users) & set(fold.validation.users)
        assert not set(fold.train.images) & set(fold.validation.images)
        assert len(fold.train.users) + len(fold.validation.users) == len(table.users)


def test_a_busy_user_does_not_take_all_pictures_away() -> None:
    """One who rated 3,000 of 4,000 pictures is judged on 180 of them, and the others are left."""
    table = make_table(12, 4000, each=3000)
    [fold] = divide(table, seed=0)
    assert np.bincount(fold.validation.user_index).max() == 180
    assert len(fold.train.images) > 3500


def test_too_few_people_or_ratings_say_so() -> None:
    with pytest.raises(RatingError, match="1 training users, of whom 1 have 20 ratings"):
        divide(make_table(1, 50), seed=0)
    with pytest.raises(RatingError, match="5 training users, of whom 0 have 20 ratings"):
        divide(make_table(5, 12), seed=0)
