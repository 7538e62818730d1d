"""Settings of the compared systems, chosen on people and pictures that they were not fitted on.

The training users themselves are divided: a table with groups of people by its groups, each once for
validation; any other by drawing a fifth of the users. Nobody and nothing that is tested on is looked at. A
setting is judged as the systems themselves are, by SROCC after M ratings, averaged over the values of M that
the validation users have ratings enough for, and over the folds; the first of equals is taken. Folds in
which nobody can be judged, or nothing can be ordered as all ratings are equal, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.errors import RatingError
from training.evaluation import evaluate
from training.intervals import mean_of_known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from piaa_sdk.rating_scale import RatingScale
    from training.baselines.base import Baseline, FittedBaseline
    from training.baselines.features import PictureFeatures
    from training.data.ratings import RatingTable

SHOTS = (10, 100)
"""Values of M that settings are judged by."""

_USERS = 40
_SHARE = 0.2
_MOST_RATINGS = 180
_QUERY = 10
_LEAST_RATINGS = 2 + _QUERY
_ADVICE = "train on more people, or give every setting one value"


@dataclass(frozen=True, slots=True, eq=False)
class FittedChoice:
    """A system with its settings chosen.

    Attributes:
        fitted: To all training users, with the settings chosen.
        chosen: These.
        srocc: Mean on validation users, by the place of each combination among the candidates; empty where
            there was nothing to choose.
    """

    fitted: FittedBaseline
    chosen: Mapping[str, Any]
    srocc: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Training users divided; the parts share no user and no picture."""

    train: RatingTable
    validation: RatingTable


def fit_chosen(
    system: Baseline,
    table: RatingTable,
    scale: RatingScale,
    features: PictureFeatures,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> FittedChoice:
    """Choose a system's settings on validation users and fit it to all training users.

    Args:
        system: What there is to choose among.
        table: Training users and their pictures.
        scale: Units of the ratings.
        features: Of the N pictures of the table.
        seed: Of folds, supports and of what the system draws.
        progress: Called with the fits done and to do.

    Raises:
        RatingError: The training users are too few, or have rated too little or all alike, to choose by.
    """
    candidates = system.candidates()
    if len(candidates) == 1:
        return FittedChoice(system.fit(table, scale, features, candidates[0], seed=seed), candidates[0], ())
    folds = divide(table, seed=seed)
    found = np.zeros((len(folds), len(candidates)))
    for row, fold in enumerate(folds):
        seen, unseen = (
            features.take(np.searchsorted(table.images, part.images))
            for part in (fold.train, fold.validation)
        )
        for column, chosen in enumerate(candidates):
            fitted = system.fit(fold.train, scale, seen, chosen, seed=seed)
            found[row, column] = _judge(fitted, fold.validation, scale, unseen, seed)
            if progress is not None:
                progress(row * len(candidates) + column + 1, found.size)
    srocc = _mean_over_folds(found, table)
    best = candidates[int(srocc.argmax())]
    fitted = system.fit(table, scale, features, best, seed=seed)
    return FittedChoice(fitted, best, tuple(map(float, srocc)))


def _mean_over_folds(found: npt.NDArray[np.float64], table: RatingTable) -> npt.NDArray[np.float64]:
    """Average SROCC (folds, candidates) over the folds in which it is defined.

    Raises:
        RatingError: There is none.
    """
    # Where constant ratings leave a correlation undefined, they do so for every candidate.
    is_known = ~np.isnan(found).any(axis=1)
    if not is_known.any():
        raise RatingError(
            f"{table.folder}: settings cannot be chosen, as those who would be judged rate the pictures that "
            f"they would be judged by all alike, in each of {len(found)} folds of the training users; "
            + _ADVICE
        )
    return np.asarray(found[is_known].mean(axis=0))


def divide(table: RatingTable, *, seed: int) -> list[Fold]:
    """Divide training users into people to fit on and people to choose by, without a common picture.

    Args:
        table: Training users.
        seed: Of what is drawn.

    Raises:
        RatingError: Nobody has rated enough to choose by, or nobody would be left to fit on.
    """
    groups = sorted(set(table.groups))
    if len(groups) > 1:
        names = np.array(table.groups)
        folds = [_fold(table, names == group, seed) for group in groups]
        return _possible(table, folds)
    able = np.flatnonzero(np.bincount(table.user_index) >= 2 * _QUERY)
    if not len(able) or len(table.users) < 2:
        raise RatingError(
            f"settings cannot be chosen on {len(table.users)} training users, of whom {len(able)} have "
            f"{2 * _QUERY} ratings; {_ADVICE}"
        )
    drawn = np.random.default_rng(seed).permutation(able)[: max(1, round(_SHARE * len(table.users)))]
    is_validation = np.zeros(len(table.users), bool)
    is_validation[drawn[: len(table.users) - 1]] = True
    return _possible(table, [_fold(table, is_validation, seed)])


def _possible(table: RatingTable, folds: list[Fold | None]) -> list[Fold]:
    """Return the folds that settings can be chosen by.

    Raises:
        RatingError: There is none.
    """
    found = [fold for fold in folds if fold is not None]
    if not found:
        raise RatingError(
            f"{table.folder}: {len(table.users)} training users with {len(table.images)} pictures cannot be "
            "divided into people and pictures to fit on and others to choose settings by, of whom one must "
            f"keep {_LEAST_RATINGS} ratings; {_ADVICE}"
        )
    return found


def _fold(table: RatingTable, is_validation: npt.NDArray[np.bool_], seed: int) -> Fold | None:
    """Divide a table by its users; None where nothing is left to fit on, or nobody can be judged."""
    rng = np.random.default_rng(seed)
    is_theirs = is_validation[table.user_index]
    kept = is_theirs & _within_cap(table, rng)
    rest = ~is_theirs & ~np.isin(table.image_index, table.image_index[kept])
    if rest.sum() < (~is_theirs).sum() / 2:  # all rated the same pictures, which both sides must share then
        half = rng.permutation(len(table.images)) % 2 == 0
        kept, rest = kept & half[table.image_index], ~is_theirs & ~half[table.image_index]
    if not rest.any() or np.bincount(table.user_index[kept], minlength=1).max() < _LEAST_RATINGS:
        return None
    return Fold(table.keep(rest), table.keep(kept))


def _within_cap(table: RatingTable, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Keep so many ratings of each user at most, drawn: all pictures of a busy one would be too many."""
    order = rng.permutation(len(table))
    order = order[np.argsort(table.user_index[order], kind="stable")]
    starts = np.searchsorted(table.user_index, np.arange(len(table.users)))
    is_kept = np.zeros(len(table), bool)
    is_kept[order[np.arange(len(table)) - starts[table.user_index] < _MOST_RATINGS]] = True
    return is_kept


def _judge(
    fitted: FittedBaseline, table: RatingTable, scale: RatingScale, features: PictureFeatures, seed: int
) -> float:
    """Return the mean SROCC over the values of M, each on those with ratings enough for it; or nan."""
    counts = np.bincount(table.user_index)
    shots = [count for count in SHOTS if (counts >= count + _QUERY).mean() >= 0.5]
    shots = shots or [max(2, int(counts.max()) - _QUERY)]
    users = min(_USERS, int((counts >= max(shots) + _QUERY).sum()))
    found = evaluate(
        fitted.personalizer("", features),
        table,
        scale,
        shots=shots,
        repeats=1,
        seed=seed,
        users=users,
        control_repeats=0,
    )
    return mean_of_known(np.array([result.figures["personal"].mean for result in found.results]))
