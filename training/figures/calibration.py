"""Whether predicted standard deviations are right: what central intervals promise against what they hold.

Choices: the intervals are those of a normal distribution around the personal score; the line is the mean over
users and repeats of the share of left-out ratings inside, the band reaches from the 5 % to the 95 % quantile
over users. Below the diagonal a method is too sure of itself, above it not sure enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.errors import RatingError
from training.comparison import check_methods
from training.figures import style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.evaluation_record import Evaluation


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """One method's intervals, L levels.

    Attributes:
        method: Its name.
        levels: (L,) nominal, in (0, 1).
        shares: (L,) of the ratings inside.
        lows: (L,) 5 % quantiles over users.
        highs: (L,) 95 % quantiles over users.
    """

    method: str
    levels: FloatArray
    shares: FloatArray
    lows: FloatArray
    highs: FloatArray


def calibration_of(evaluation: Evaluation, shots: int) -> Calibration:
    """Return how many ratings the intervals held.

    Args:
        evaluation: Of a method that predicts standard deviations.
        shots: M.

    Raises:
        RatingError: M was not judged, the method predicts none, or the record is of a version that kept the
            coverage at 90 % alone.
    """
    result = evaluation.result(shots)
    if not result.coverage_by_level and math.isnan(result.coverage):
        raise RatingError(
            f"{evaluation.method} predicts no standard deviations: nothing can be calibrated; take the "
            "evaluation of a method that does: python -m training evaluate BUNDLE RATINGS --output FILE"
        )
    if not result.coverage_by_level:
        raise RatingError(
            f"the evaluation of {evaluation.method} holds the coverage at 90 % alone, this figure needs all "
            "levels; run python -m training evaluate (or judge) again with the same options and --output"
        )
    found = [[each.level, each.share, each.low, each.high] for each in result.coverage_by_level]
    return Calibration(evaluation.method, *np.array(found).T)


def draw_calibration(evaluations: Sequence[Evaluation], shots: int) -> Drawing:
    """Draw a line with a band for each method, and the diagonal.

    Args:
        evaluations: See :func:`calibration_of`.
        shots: M.

    Raises:
        RatingError: They were not judged alike, two have one name, or there is nothing to calibrate.
    """
    check_methods(evaluations)
    found = [calibration_of(evaluation, shots) for evaluation in evaluations]
    with style.drawing():
        figure, [axes] = style.new_drawing(3.1 + 0.14 * len(found))
        axes.plot([0, 100], [0, 100], color="#444444", lw=0.8, ls=(0, (4, 2)), label="as promised")
        for index, calibration in enumerate(found):
            how = style.look(index)
            percent = 100 * calibration.levels
            axes.plot(percent, 100 * calibration.shares, label=calibration.method, ms=3, **_without_gaps(how))
            axes.fill_between(
                percent,
                100 * calibration.lows,
                100 * calibration.highs,
                color=how["color"],
                alpha=0.18,
                lw=0,
                label=f"5 to 95 % of users{'' if len(found) == 1 else f', {calibration.method}'}",
            )
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
        axes.set_aspect("equal")
        axes.set_xlabel(f"nominal level of the interval (%), M = {shots}")
        axes.set_ylabel("left-out ratings inside (%)")
        axes.grid(lw=0.3, color="#cccccc")
        style.put_legend(figure, axes)
    return figure


def _without_gaps(how: dict[str, Any]) -> dict[str, Any]:
    """Draw lines through: with 19 markers, strokes only blur."""
    return {**how, "linestyle": "-", "linewidth": 0.9}
