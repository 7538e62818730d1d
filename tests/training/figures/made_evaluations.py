"""Evaluations whose shape is known because it was made up, for figures to be drawn of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable
from training.evaluation import evaluate
from training.evaluation_record import METHODS, Conditions, Evaluation, Judged, LevelCoverage, ShotsResult
from training.intervals import Figure, Interval

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from training.personalizers import Support


def figure_of(values: FloatArray) -> Figure:
    mean = float(np.nanmean(values))
    return Figure(mean, 0.01, Interval(mean - 0.05, mean + 0.07), 0.02, mean)


def make_evaluation(
    personal: dict[int, FloatArray],
    prior: FloatArray,
    *,
    method: str = "BLG",
    curve: bool = False,
    coverage: tuple[LevelCoverage, ...] = (),
    **facts: Any,
) -> Evaluation:
    """A method by its correlations (R, U) for each M."""
    repeats, users = prior.shape
    people = tuple(f"{user:064x}" for user in range(users))
    conditions = Conditions(
        "photographs", ("a",), users, 40, 120, "0", (1, 7), tuple(personal), repeats, 0, None, curve
    )
    results = tuple(
        ShotsResult(
            shots=shots,
            users=users,
            left_out=0,
            uncontrolled=0,
            undefined=0,
            undefined_people=(),
            constant_support=0,
            collapsed=0,
            figures={"prior": figure_of(prior), "personal": figure_of(values)},
            measures={},
            coverage=0.9 if coverage else math.nan,
            coverage_quantiles=(),
            calibration=1.0,
            seconds_to_adapt=0.1,
            judged=Judged(
                people,
                ("a",) * users,
                {"prior": prior, "personal": values, "shuffled": np.full_like(prior, np.nan)},
                dict.fromkeys(METHODS, np.zeros(10)),
            ),
            coverage_by_level=coverage,
        )
        for shots, values in personal.items()
    )
    return Evaluation(method, conditions, results, facts)


def some_users(count: int, seed: int = 0, **options: Any) -> Evaluation:
    rng = np.random.default_rng(seed)
    prior = np.clip(rng.normal(0.3, 0.2, count) + rng.normal(0, 0.03, (3, count)), -1, 1)
    gains = np.abs(rng.normal(0.1, 0.1, count)) - 0.02
    return make_evaluation({10: prior + gains / 2, 100: prior + gains}, prior, **options)


def some_coverage(power: float) -> tuple[LevelCoverage, ...]:
    levels = [percent / 100 for percent in range(5, 100, 5)]
    return tuple(LevelCoverage(at, at**power, 0.9 * at**power, at ** (power / 2)) for at in levels)


def grid_of(splits: list[tuple[int, int]], tasks: list[int], steps: list[int]) -> list[Evaluation]:
    """SROCC grows with k and S and falls with m_q."""
    return [
        make_evaluation(
            {100: np.full((2, 4), 0.3 + 0.01 * k + 0.02 * s - 0.002 * query)},
            np.full((2, 4), 0.2),
            method=f"{support}-{query}-{k}-{s}",
            m_s=support,
            m_q=query,
            k=k,
            S=s,
        )
        for support, query in splits
        for k in tasks
        for s in steps
    ]


class Sure:
    """Scores everything 0.5 and says with which standard deviation the ratings lie around that."""

    def __init__(self, std: float) -> None:
        self.name, self.std = "sure", std

    def generic(self, images: npt.NDArray[np.intp]) -> FloatArray:
        return np.full(len(images), 0.5)

    def personalize(self, support: Support) -> Sure:
        return self

    def predict(self, images: npt.NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
        return np.full(len(images), 0.5), np.full(len(images), self.std)


def make_table(ratings: FloatArray, folder: Path = Path()) -> RatingTable:
    """Everybody (U) rated every picture (N); nan where not."""
    user_index, image_index = np.nonzero(~np.isnan(ratings))
    return RatingTable(
        folder=folder,
        users=tuple(f"user {user:03}" for user in range(len(ratings))),
        groups=("a",) * len(ratings),
        images=tuple(f"{image:03}.png" for image in range(ratings.shape[1])),
        user_index=user_index,
        image_index=image_index,
        ratings=ratings[user_index, image_index],
    )


def judged_people(folder: Path = Path()) -> tuple[Evaluation, RatingTable]:
    """Seven share a taste; user 2 has the opposite one, user 5 gives one rating to everything.

    The method knows the shared taste alone, so user 2 is the hardest by construction.
    """
    rng = np.random.default_rng(3)
    taste = rng.random(60)
    ratings = np.clip(np.round(1 + 6 * taste + rng.normal(0, 0.8, (9, 60))), 1, 7)
    ratings[2] = 8 - ratings[2]
    ratings[5] = 4

    class Shared(Sure):
        def generic(self, images: npt.NDArray[np.intp]) -> FloatArray:
            return taste[images]

        def predict(self, images: npt.NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
            return taste[images], np.full(len(images), self.std)

    table = make_table(ratings, folder)
    return evaluate(Shared(0.1), table, RatingScale(1, 7), shots=[10], repeats=3, control_repeats=0), table
