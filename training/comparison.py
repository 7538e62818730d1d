"""Methods against one of them, on the same people and the same splits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError
from training.evaluation_record import Conditions, to_plain
from training.intervals import summarize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from training.evaluation_record import Evaluation, ShotsResult
    from training.intervals import Figure


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far methods lie above one of them.

    Attributes:
        baseline: The method that the others are compared with.
        judged: What is compared: ``personal``, or ``prior`` for M = 0.
        differences: By method and M, the mean of its correlations minus the baseline's, task by task.
    """

    baseline: str
    judged: str
    differences: Mapping[str, Mapping[int, Figure]]

    def to_json(self) -> dict[str, Any]:
        """Return what json can store; what is not defined is None."""
        differences = {
            method: [{"shots": shots, **asdict(figure)} for shots, figure in by_shots.items()]
            for method, by_shots in self.differences.items()
        }
        record: dict[str, Any] = to_plain(
            {"baseline": self.baseline, "judged": self.judged, "differences": differences}
        )
        return record


def compare(evaluations: Sequence[Evaluation], baseline: str, *, judged: str = "personal") -> Comparison:
    """Compare methods in pairs: every task of a method with the same task of the baseline.

    Args:
        evaluations: One per method.
        baseline: Name of the method to compare with.
        judged: What to compare: ``personal``, or ``prior`` for M = 0.

    Raises:
        RatingError: They were not judged alike, two have one name, or there is no such baseline.
    """
    names = _names(evaluations)
    if baseline not in names:
        raise RatingError(f"no evaluation is called {baseline!r}; there are {', '.join(names)}")
    against = evaluations[names.index(baseline)]
    for evaluation in evaluations:
        check_alike(evaluation, against)
    return Comparison(
        baseline,
        judged,
        {
            evaluation.method: {
                result.shots: _difference(result, other, judged, evaluation.conditions.seed)
                for result, other in zip(evaluation.results, against.results, strict=True)
            }
            for evaluation in evaluations
            if evaluation is not against
        },
    )


def check_methods(evaluations: Sequence[Evaluation]) -> None:
    """Refuse evaluations that cannot be told apart, or not be compared.

    Args:
        evaluations: One per method.

    Raises:
        RatingError: Two have one name, or they were not judged on the same people, pictures and splits.
    """
    _names(evaluations)
    for other in evaluations[1:]:
        check_alike(evaluations[0], other)


def check_alike(first: Evaluation, second: Evaluation) -> None:
    """Refuse to compare what was not judged on the same people, pictures and splits.

    Raises:
        RatingError: It was not; what differs is named.
    """
    for part in fields(Conditions):
        one, other = getattr(first.conditions, part.name), getattr(second.conditions, part.name)
        if one != other and part.name != "data":  # the same ratings may lie in folders of two names
            raise RatingError(
                f"{first.method} and {second.method} cannot be compared: their {part.name} differ, {one} and "
                f"{other}; evaluate both on the same ratings with the same options"
            )
    for result, counterpart in zip(first.results, second.results, strict=True):
        if result.judged.people != counterpart.judged.people:
            raise RatingError(
                f"{first.method} and {second.method} cannot be compared: with M = {result.shots} they were "
                "judged on other people; evaluate both again"
            )


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what the methods are called; no two have one name."""
    names = [evaluation.method for evaluation in evaluations]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RatingError(
            f"two evaluations are called {twice[0]!r}; name each file once, and give every method a name of "
            "its own"
        )
    return names


def _difference(result: ShotsResult, baseline: ShotsResult, judged: str, seed: int) -> Figure:
    values, others = result.judged.correlations[judged], baseline.judged.correlations[judged]
    without_blocks = result.judged.without_blocks[judged] - baseline.judged.without_blocks[judged]
    difference = values - others
    return summarize(difference, without_blocks, np.isnan(difference), result.judged.groups, seed=seed)
