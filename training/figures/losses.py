"""Fig. 9: errors, or rank correlations, on support and query after each epoch of fine-tuning.

Up to nine users have a panel each. More are drawn faintly in two panels, one per set, with the mean over the
users on top, which leaves out the numbers that are not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import ModelFormatError
from training.figures.style import drawing, look, new_drawing, put_legend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.adaptation_trace import AdaptationTrace

MEASURES = {"error": "squared error on [0, 1]", "srocc": "SROCC"}
SETS = ("support", "query")

_MOST_PANELS = 9
_PANEL_HEIGHT = 1.2  # inches
_MARKED = 5  # a marker at every so many epochs


def draw_losses(trace: AdaptationTrace, measure: str = "error") -> Drawing:
    """Draw what fine-tuning does to the users of a trace.

    Args:
        trace: Of one method.
        measure: ``error`` or ``srocc``.

    Raises:
        ModelFormatError: There is no such measure.
        MissingDependencyError: matplotlib is not installed.
    """
    if measure not in MEASURES:
        raise ModelFormatError(f"measure is {measure!r}, must be {' or '.join(MEASURES)}")
    curves = {name: np.array([getattr(user, f"{name}_{measure}") for user in trace.users]) for name in SETS}
    with drawing():
        draw = _draw_all if len(trace.users) > _MOST_PANELS else _draw_each
        figure, panels = draw(curves, MEASURES[measure])
        for panel in panels:
            panel.set_xlim(-0.05 * max(trace.epochs, 1), 1.05 * max(trace.epochs, 1))
            panel.locator_params(axis="x", integer=True, nbins=5)
            panel.locator_params(axis="y", nbins=4)
            if measure == "error":
                panel.set_ylim(bottom=0)
    return figure


def _draw_each(curves: dict[str, FloatArray], label: str) -> tuple[Drawing, Sequence[Axes]]:
    """Draw a panel per user, support and query in each."""
    users = len(curves["query"])
    columns = min(users, 2 if users <= 4 else 3)
    rows = -(-users // columns)
    figure, panels = new_drawing(0.6 + _PANEL_HEIGHT * rows, rows, columns, sharex=True, sharey=True)
    for user, panel in enumerate(panels[:users]):
        for index, name in enumerate(SETS):
            values = curves[name][user]
            panel.plot(np.arange(len(values)), values, label=name, markevery=_MARKED, **look(index))
        panel.set_title(f"user {user + 1}")
    for panel in panels[users:]:
        panel.set_axis_off()
    for panel in panels[max(users - columns, 0) : users]:
        panel.tick_params(labelbottom=True)
    put_legend(figure, panels[0], columns=len(SETS))
    figure.supxlabel("epochs of fine-tuning", fontsize=8)
    figure.supylabel(label, fontsize=8)
    return figure, panels[:users]


def _draw_all(curves: dict[str, FloatArray], label: str) -> tuple[Drawing, Sequence[Axes]]:
    """Draw a panel per set, all users faint and their mean bold in each."""
    figure, panels = new_drawing(2.0, 1, len(SETS), sharex=True, sharey=True)
    for index, (name, panel) in enumerate(zip(SETS, panels, strict=True)):
        epochs = np.arange(curves[name].shape[1])
        color = look(index)["color"]
        for values in curves[name]:
            panel.plot(epochs, values, color=color, alpha=0.25, linewidth=0.6)
        panel.plot(epochs, _mean(curves[name]), markevery=_MARKED, **(look(index) | {"linewidth": 2.0}))
        panel.set_title(f"{name}, {len(curves[name])} users")
    figure.supxlabel("epochs of fine-tuning (bold: mean over users)", fontsize=8)
    figure.supylabel(label, fontsize=8)
    return figure, panels


def _mean(curves: FloatArray) -> FloatArray:
    """Return the mean of the known of curves (U, P + 1) in each epoch, nan where none is known."""
    known = np.isfinite(curves)
    counts = known.sum(0)
    sums = np.where(known, curves, 0.0).sum(0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
