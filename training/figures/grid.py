"""Fig. 5: SROCC over the tasks of a meta-batch k and the inner steps S, for each split of support and query.

Choices: a heat map per split, all on one colour scale from the lowest to the highest SROCC found; cells have
their value written in where it fits; a cell that was not run stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import ModelFormatError
from training.comparison import check_alike
from training.figures import style
from training.tables import grid_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.evaluation_record import Evaluation

_SETTINGS = ("m_s", "m_q", "k", "S")
_MOST_COLUMNS = 2
_MOST_STEPS_WITH_VALUES = 5  # in a panel 1.3 inches wide


@dataclass(frozen=True, slots=True, eq=False)
class GridLevels:
    """SROCC by setting.

    Attributes:
        splits: P pairs of m_s and m_q, those with the most support first.
        tasks: T values of k, from small to large.
        steps: Values of S, from small to large.
        values: (P, T, S) mean SROCC; nan where a setting was not run.
    """

    splits: tuple[tuple[int, int], ...]
    tasks: tuple[int, ...]
    steps: tuple[int, ...]
    values: FloatArray


def grid_levels(evaluations: Sequence[Evaluation], shots: int) -> GridLevels:
    """Sort evaluations into the grid.

    Args:
        evaluations: At most one of each setting, on the same users; their facts tell m_s, m_q, k and S.
        shots: M.

    Raises:
        RatingError: A fact is missing, two are of one setting, or they were judged on other users.
        ModelFormatError: A fact is no whole number.
    """
    for evaluation in evaluations:
        _check_settings(evaluation)
    for other in evaluations[1:]:
        check_alike(evaluations[0], other)
    cells = grid_cells(evaluations, shots)
    splits = tuple(sorted({(support, query) for support, query, _, _ in cells}, reverse=True))
    tasks = tuple(sorted({tasks for _, _, tasks, _ in cells}))
    steps = tuple(sorted({steps for _, _, _, steps in cells}))
    values = np.full((len(splits), len(tasks), len(steps)), np.nan)
    for (support, query, count, inner), figure in cells.items():
        values[splits.index((support, query)), tasks.index(count), steps.index(inner)] = figure.mean
    return GridLevels(splits, tasks, steps, values)


def _check_settings(evaluation: Evaluation) -> None:
    """Refuse settings that cannot be sorted; that none is missing is seen elsewhere."""
    for name in _SETTINGS:
        value = evaluation.facts.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelFormatError(
                f"the evaluation of {evaluation.method} says that {name} is {value!r}, must be a whole "
                "number; judge the run again with python -m training judge or grid"
            )


def draw_grid(evaluations: Sequence[Evaluation], shots: int) -> Drawing:
    """Draw a heat map for each split.

    Args:
        evaluations: See :func:`grid_levels`.
        shots: M.
    """
    found = grid_levels(evaluations, shots)
    columns = min(_MOST_COLUMNS, len(found.splits))
    rows = -(-len(found.splits) // columns)
    low, high = float(np.nanmin(found.values)), float(np.nanmax(found.values))
    height = 0.9 + rows * max(1.0, 0.35 + 0.2 * len(found.tasks))
    with style.drawing():
        figure, panels = style.new_drawing(height, rows=rows, columns=columns, sharex=True, sharey=True)
        for position, axes in enumerate(panels):
            if position >= len(found.splits):
                axes.set_visible(False)
                continue
            _draw_panel(axes, found, position, (low, high))
        images = panels[0].get_images()
        bar = figure.colorbar(images[0], ax=panels, location="top", aspect=30, shrink=0.9)
        bar.set_label(f"SROCC, M = {shots}, mean over users")
        bar.outline.set_linewidth(0.4)
        figure.supxlabel("inner steps S", fontsize=8)
        figure.supylabel("tasks of a meta-batch k", fontsize=8)
    return figure


def _draw_panel(axes: Axes, found: GridLevels, position: int, limits: tuple[float, float]) -> None:
    low, high = limits
    values = found.values[position]
    axes.imshow(values, cmap=style.COLOR_MAP, vmin=low, vmax=high, aspect="auto", origin="lower")
    axes.set_xticks(range(len(found.steps)), [str(count) for count in found.steps])
    axes.set_yticks(range(len(found.tasks)), [str(count) for count in found.tasks])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    support, query = found.splits[position]
    axes.set_title(f"$m_s$ = {support}, $m_q$ = {query}", pad=3)
    if len(found.steps) > _MOST_STEPS_WITH_VALUES:
        return
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            is_dark = value < low + 0.55 * (high - low)
            axes.text(
                column,
                row,
                f"{value:.3f}".replace("0.", "."),
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if is_dark else "black",
            )
