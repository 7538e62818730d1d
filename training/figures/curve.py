"""The learning curve: SROCC over the number of support pictures M, from M = 0, for several methods.

Choices: M = 0 is the prior on the same query sets; bands are the 95 % bootstrap intervals over users, paler
the more methods there are. The axis of M is straight up to the smallest M and logarithmic beyond it, because
what a picture adds falls with their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError
from training.comparison import check_alike
from training.figures import style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.evaluation_record import Evaluation


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One method's.

    Attributes:
        method: Its name.
        shots: M, from 0.
        means: (len(shots),) SROCC, mean over users.
        lows: Lower ends of the 95 % intervals over users.
        highs: Upper ends.
    """

    method: str
    shots: tuple[int, ...]
    means: FloatArray
    lows: FloatArray
    highs: FloatArray


def learning_curves(evaluations: Sequence[Evaluation]) -> list[Curve]:
    """Find the curves.

    Args:
        evaluations: Judged as curves on the same users and splits, one per method.

    Raises:
        RatingError: One was not judged as a curve, or on others.
    """
    curves = []
    for evaluation in evaluations:
        if not evaluation.conditions.curve:
            raise RatingError(
                f"{evaluation.method} was not judged as a curve: its query sets differ from M to M; judge it "
                "again with --curve and several --shots: python -m training table, judge or evaluate"
            )
        check_alike(evaluations[0], evaluation)
        results = sorted(evaluation.results, key=lambda result: result.shots)
        figures = [results[0].figures["prior"], *(result.figures["personal"] for result in results)]
        curves.append(
            Curve(
                evaluation.method,
                (0, *(result.shots for result in results)),
                np.array([figure.mean for figure in figures]),
                np.array([figure.interval.low for figure in figures]),
                np.array([figure.interval.high for figure in figures]),
            )
        )
    return curves


def draw_curves(evaluations: Sequence[Evaluation]) -> Drawing:
    """Draw a line with a band for each method.

    Args:
        evaluations: See :func:`learning_curves`.
    """
    curves = learning_curves(evaluations)
    shots = curves[0].shots
    with style.drawing():
        figure, [axes] = style.new_drawing(2.4 + 0.14 * len(curves))
        alpha = max(0.03, 0.15 / len(curves) ** 0.5)
        for index, curve in enumerate(curves):
            how = style.look(index)
            axes.plot(curve.shots, curve.means, label=curve.method, clip_on=False, **how)
            axes.fill_between(curve.shots, curve.lows, curve.highs, color=how["color"], alpha=alpha, lw=0)
        axes.set_xscale("symlog", linthresh=shots[1], linscale=0.6)
        axes.set_xticks(shots, [str(count) for count in shots])
        axes.minorticks_off()
        axes.set_xlim(left=0)
        axes.set_xlabel("support pictures M")
        axes.set_ylabel("SROCC, mean over users")
        axes.grid(axis="y", lw=0.3, color="#cccccc")
        style.put_legend(figure, axes)
    return figure
