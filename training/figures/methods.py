"""What figures of several methods ask of their evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piaa_sdk.errors import RatingError
from training.comparison import check_alike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.evaluation_record import Evaluation


def check_methods(evaluations: Sequence[Evaluation]) -> None:
    """Refuse evaluations that one figure cannot tell apart or compare.

    Args:
        evaluations: One per method.

    Raises:
        RatingError: Two have one name, or they were not judged on the same people, pictures and splits.
    """
    names = [evaluation.method for evaluation in evaluations]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RatingError(
            f"two evaluations are called {twice[0]!r}, a figure shows every method once; name each file "
            "once, and give every method a name of its own"
        )
    for other in evaluations[1:]:
        check_alike(evaluations[0], other)
