"""The learning curve: SROCC over the number of support pictures M, from M = 0, for several methods.

Choices: M = 0 is the prior on the same query sets; bands are the 95 % bootstrap intervals over users. Up to
four methods share a panel; more stand three to a panel in the order given, each panel with a legend of its
own and all other methods as thin grey lines for comparison, because more bands than that hide each other. The
axis of M is straight up to the smallest M and logarithmic beyond it, because what a picture adds falls with
their number.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError
from training.comparison import check_methods
from training.figures import style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.evaluation_record import Evaluation

_MOST_IN_ONE_PANEL = 4
_IN_A_SMALL_PANEL = 3
_COLUMNS = 2
_PANEL_HEIGHT = 1.65  # inches, with a legend of three methods
_BAND_ALPHA = 0.18
_OTHERS_COLOR = "#cccccc"
_LABEL = "SROCC, mean and\n95 % interval over users"


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
        RatingError: One was not judged as a curve, they were not judged alike, or two have one name.
    """
    check_methods(evaluations)
    curves = []
    for evaluation in evaluations:
        if not evaluation.conditions.curve:
            raise RatingError(
                f"{evaluation.method} was not judged as a curve: its query sets differ from M to M; judge it "
                "again with --curve and several --shots: python -m training table, judge or evaluate"
            )
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
    """Draw a line with a band for each method, in one panel or in several.

    Args:
        evaluations: See :func:`learning_curves`.
    """
    curves = learning_curves(evaluations)
    with style.drawing():
        draw = _draw_together if len(curves) <= _MOST_IN_ONE_PANEL else _draw_apart
        return draw(curves)


def _draw_together(curves: Sequence[Curve]) -> Drawing:
    figure, [axes] = style.new_drawing(2.4 + 0.14 * len(curves))
    _draw_panel(axes, curves, wrap=46)
    axes.set_xlabel("support pictures M")
    axes.set_ylabel(_LABEL)
    style.put_legend(figure, axes)
    return figure


def _draw_apart(curves: Sequence[Curve]) -> Drawing:
    parts = [curves[first : first + _IN_A_SMALL_PANEL] for first in range(0, len(curves), _IN_A_SMALL_PANEL)]
    rows = -(-len(parts) // _COLUMNS)
    figure, panels = style.new_drawing(0.4 + _PANEL_HEIGHT * rows, rows, _COLUMNS, sharex=True, sharey=True)
    for axes, part in zip(panels, parts, strict=False):
        for other in curves:
            if other not in part:
                axes.plot(other.shots, other.means, color=_OTHERS_COLOR, linewidth=0.5, zorder=1)
        _draw_panel(axes, part, wrap=24)
        axes.legend(
            loc="lower left",  # above the axes, where there are no data
            bbox_to_anchor=(-0.03, 1.0),
            borderaxespad=0.1,
            borderpad=0.1,
            labelspacing=0.2,
            handletextpad=0.5,
            handlelength=style.HANDLE_LENGTH,
            fontsize=6,
        )
    for axes in panels[len(parts) :]:
        axes.set_axis_off()
    for axes in panels[len(parts) - _COLUMNS : len(parts)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("support pictures M (grey: the other methods)", fontsize=8)
    # One row is not as high as the label is long.
    figure.supylabel(_LABEL if rows == 1 else _LABEL.replace("\n", " "), fontsize=8)
    return figure


def _draw_panel(axes: Axes, curves: Sequence[Curve], wrap: int) -> None:
    shots = curves[0].shots
    for index, curve in enumerate(curves):
        how = style.look(index)
        label = textwrap.fill(curve.method, wrap)
        axes.plot(curve.shots, curve.means, label=label, clip_on=False, **how)
        axes.fill_between(curve.shots, curve.lows, curve.highs, color=how["color"], alpha=_BAND_ALPHA, lw=0)
    axes.set_xscale("symlog", linthresh=shots[1], linscale=0.6)
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.minorticks_off()
    axes.set_xlim(left=0)
    axes.grid(axis="y", lw=0.3, color="#cccccc")
