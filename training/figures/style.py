"""How figures look, in one place, and how they are stored.

Choices: half a page's width, 3.4 inches, with 8-point text that is readable at that width; the colours of
Okabe and Ito (Color Universal Design, 2008), which people with any colour vision tell apart, without their
yellow, too pale for lines on white; each line has a marker and a stroke of its own as well. What is measured
on a scale is coloured by cividis, made for colour-blind readers. Text in an SVG stays text, so that it can be
searched: a reader without the font DejaVu Sans sees it in another, narrower one.

Nothing depends on the day, the machine's settings or a display: the same numbers give the same bytes with the
same matplotlib.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import MissingDependencyError, RatingError
from training.folder_writing import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

WIDTH = 3.4
"""Inches."""
DPI = 300
PRIOR_COLOR = "#666666"
COLOR_MAP = "cividis"
HANDLE_LENGTH = 3.0
"""Of lines in a legend, in font sizes: long enough that strokes can be told apart."""

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STROKES = ("-", "--", "-.", ":")
_SUFFIXES = (".png", ".svg")
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.hashsalt": "piaa-sdk",
    "svg.fonttype": "none",
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw in the body by these settings alone, whatever the machine's are.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.style
    except ImportError as error:
        raise MissingDependencyError("drawing figures", "train") from error
    with matplotlib.style.context(["default", _SETTINGS]):
        yield


def new_drawing(height: float, rows: int = 1, columns: int = 1, **shared: Any) -> tuple[Drawing, list[Axes]]:
    """Make an empty drawing; inside :func:`drawing`.

    Args:
        height: Inches.
        rows: Of axes.
        columns: Of axes.
        shared: ``sharex`` and ``sharey``, as matplotlib knows them.

    Returns:
        The drawing, and its axes row by row.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def look(index: int) -> dict[str, Any]:
    """Return colour, marker and stroke of the index-th line; no two of the first 56 share all of them."""
    return {
        "color": _COLORS[index % len(_COLORS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _STROKES[index % len(_STROKES)],
    }


def put_legend(
    figure: Drawing, axes: Axes, *, columns: int = 1, handle_length: float = HANDLE_LENGTH
) -> None:
    """Put the legend of one of the axes above all, where there are no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=handle_length)


def stem_of(output: Path) -> Path:
    """Return a figure's path without the suffix of a figure.

    Raises:
        RatingError: It has the suffix of a record, so that most likely the figure's name was forgotten.
    """
    if output.suffix.lower() == ".json":
        raise RatingError(
            f"the figure would be called {output}, which is the name of a record: the last argument names "
            "the figure, without a suffix or with .png or .svg; name it behind the records"
        )
    return output.with_suffix("") if output.suffix.lower() in _SUFFIXES else output


def save(figure: Drawing, output: Path) -> tuple[Path, Path]:
    """Store a drawing as PNG and as SVG.

    Args:
        figure: What :func:`new_drawing` made.
        output: Where, without a suffix or with that of either.

    Returns:
        The two files; each is written whole or not at all.

    Raises:
        RatingError: The output is called like a record.
        OutputError: The disk refuses.
    """
    stem = stem_of(output)
    pixels, strokes = io.BytesIO(), io.StringIO()
    with drawing():
        figure.savefig(pixels, format="png", dpi=DPI, metadata={"Software": None})
        figure.savefig(strokes, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    png, svg = (stem.with_name(f"{stem.name}{suffix}") for suffix in _SUFFIXES)
    write_file(png, pixels.getvalue())
    write_file(svg, strokes.getvalue())
    return png, svg
