"""What records have in common, and what is no such record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from piaa_sdk.errors import ModelFormatError
from training.active_record import ActiveSelection, Track
from training.adaptation_trace import AdaptationTrace, UserTrace
from training.evaluation_record import Conditions, Evaluation
from training.user_scores import UserScores

if TYPE_CHECKING:
    from collections.abc import Callable

CONDITIONS = Conditions("made up", ("all",), 2, 3, 6, "0" * 64, (1, 5), (10,), 1, 0, None, False)
DAMAGES = (
    *(("shots", []), ("shots", 5), ("shots", [0]), ("shots", ["10"]), ("shots", [True])),
    *(
        ("rating_scale", [1]),
        ("rating_scale", [1, 10**309]),
        ("rating_scale", [5, 1]),
        ("rating_scale", "15"),
        ("rating_scale", [1, None]),
    ),
)


def _trace() -> dict[str, Any]:
    curve = np.array([0.1, 0.2])
    user = UserTrace("a" * 64, "all", 20, curve, curve, curve, curve)
    return AdaptationTrace("MAML", CONDITIONS, (user,), {}).to_json()


def _active() -> dict[str, Any]:
    track = Track("PAM", "random", np.full((1, 1, 1), 0.5), np.full((1, 10), 0.5))
    return ActiveSelection(CONDITIONS, 1, ("a" * 64,), ("all",), (20,), (30,), (track,)).to_json()


def _scores() -> dict[str, Any]:
    values = np.array([1.0, 2.0])
    return UserScores(
        "BA", "0" * 64, (1, 5), 1, 10, 0, 0, ("x.jpg", "y.jpg"), values, values, values
    ).to_json()


def _read(
    read: Callable[[dict[str, Any]], object], record: dict[str, Any], place: dict[str, Any], change: Any
) -> None:
    """Read a record as it is, then with one value changed."""
    read(json.loads(json.dumps(record)))
    name, value = change
    assert name in place, "nothing is damaged"
    place[name] = value
    with pytest.raises(ModelFormatError, match=f"complete .*{name}"):
        read(json.loads(json.dumps(record)))


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_damaged_conditions_are_a_damaged_record(damage: tuple[str, Any]) -> None:
    """What would be an IndexError or a TypeError far from the file is refused where the file is read."""
    trace = _trace()
    _read(AdaptationTrace.from_json, trace, trace["conditions"], damage)
    active = _active()
    _read(ActiveSelection.from_json, active, active, damage)
    evaluation = {"format_version": 1, "method": "MAML", "results": [], "facts": {}, **_trace()["conditions"]}
    _read(Evaluation.from_json, evaluation, evaluation, damage)


@pytest.mark.parametrize(
    "damage",
    [
        *(("rating_scale", [1]), ("rating_scale", None), ("images", [1, 2]), ("images", "xy")),
        *(("user", 0), ("user", "1"), ("shots", 1.5), ("repeat", None), ("seed", -1)),
    ],
    ids=str,
)
def test_damaged_scores_of_a_user_are_refused(damage: tuple[str, Any]) -> None:
    """Names of pictures that are no names would be looked for as files."""
    record = _scores()
    _read(UserScores.from_json, record, record, damage)
