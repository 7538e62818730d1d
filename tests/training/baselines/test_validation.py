"""Settings are chosen on people and pictures that were not fitted on, and the better one is taken."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    scores: FloatArray
    name: str = ""

    def generic(self, images: IntArray) -> FloatArray:
        return self.scores[images]

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
        return _Fitted(chosen["sign"])


def _features(table: RatingTable) -> PictureFeatures:
    numbers = np.arange(len(table.images), dtype=np.float64)[:, None]
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
    assert seen == [(done, 6) for done in range(1, 7)]


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
