"""Evaluations written by hand: three people in two repeats."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from training.evaluation_record import Conditions, Evaluation, Judged, ShotsResult
from training.intervals import summarize

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

PEOPLE, GROUPS = ("ann", "bob", "cat"), ("a", "a", "b")
CONDITIONS = Conditions(
    data="some-photographs",
    groups=("a", "b"),
    users=3,
    pictures=40,
    ratings=120,
    table="0123",
    rating_scale=(1, 7),
    shots=(10,),
    repeats=2,
    seed=0,
    drawn_users=None,
    curve=False,
)


def make_evaluation(
    method: str,
    personal: npt.ArrayLike,
    *,
    prior: npt.ArrayLike = 0.1,
    without_blocks: npt.ArrayLike = 0.5,
    facts: Mapping[str, Any] | None = None,
    **conditions: Any,
) -> Evaluation:
    """An evaluation of three people in two repeats, alike for every M."""
    values = {
        "prior": np.broadcast_to(np.asarray(prior, dtype=float), (2, 3)),
        "personal": np.broadcast_to(np.asarray(personal, dtype=float), (2, 3)),
        "shuffled": np.full((2, 3), 0.25),
    }
    blocks = {name: np.broadcast_to(np.asarray(without_blocks, dtype=float), 10) for name in values}
    is_undefined = np.isnan(values["personal"])
    levels = values | {
        "personal-prior": values["personal"] - values["prior"],
        "personal-shuffled": values["personal"] - values["shuffled"],
    }
    nothing = np.zeros(10)
    known = replace(CONDITIONS, **conditions)
    result = ShotsResult(
        shots=10,
        users=3,
        left_out=0,
        uncontrolled=2,
        undefined=0,
        undefined_people=(),
        constant_support=0,
        collapsed=1,
        figures={
            name: summarize(level, blocks.get(name, nothing), is_undefined, GROUPS)
            for name, level in levels.items()
        },
        measures={},
        coverage=0.9054,
        coverage_quantiles=(0.8, 0.85, 0.9, 0.95, 1.0),
        calibration=1.0,
        seconds_to_adapt=0.01234,
        judged=Judged(PEOPLE, GROUPS, values, blocks),
    )
    results = tuple(replace(result, shots=shots) for shots in known.shots)
    return Evaluation(method, known, results, facts or {})
