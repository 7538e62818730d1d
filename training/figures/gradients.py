"""Figs. 7, 8 and 10: pictures with the gradient maps of the prior and of users' networks below them.

Three layouts, each with the pictures in the first row:

- ``pictures``: columns are pictures, rows the epochs of one user's adaptation (Fig. 8).
- ``users``: columns are users, rows the epochs, all of one picture (Fig. 7).
- ``scratch``: columns are users, rows a network adapted from the prior and one from scratch, after the last
  epoch, of one picture (Fig. 10).

Below each map stands the network's score in the units of the ratings, below a picture the user's own rating
where there is one. At most six columns are drawn.

Choices: a map is averaged over squares, so that it has as many points as can be told apart at its size. All
maps of a figure share one scale, because a larger gradient is a larger influence; it ends at the 99th
percentile of what is drawn. ``each`` divides each map by its own 99th percentile instead, to compare where
networks look that differ in how much they look, such as one from scratch: the layout ``scratch`` is drawn so
where nothing else is asked for, since on a shared scale the row from the prior is nearly black.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.rating_scale import RatingScale
from training.figures.style import COLOR_MAP, WIDTH, drawing, new_drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.gradient_record import GradientMaps

LAYOUTS = ("pictures", "users", "scratch")
SCALINGS = ("shared", "each")

_MOST_COLUMNS = 6
_POINTS = 75  # of a map along its edge, at most
_PERCENTILE = 99
_TEXT = 6.5
_LABELS = 0.55  # inches, left of the maps


@dataclass(frozen=True, slots=True)
class _Cell:
    """One map: of network, of picture."""

    network: int
    picture: int


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What stands where.

    Attributes:
        titles: Above each column.
        pictures: (columns,) which picture stands above.
        raters: (columns,) whose rating of it stands below it.
        names: Left of each row of maps.
        cells: Rows of maps.
        about: What all maps have in common, for the caption.
    """

    titles: Sequence[str]
    pictures: Sequence[int]
    raters: Sequence[int]
    names: Sequence[str]
    cells: Sequence[Sequence[_Cell]]
    about: str


def draw_gradients(
    stored: GradientMaps,
    layout: str = "pictures",
    *,
    user: int = 1,
    picture: int = 1,
    scaling: str | None = None,
) -> Drawing:
    """Draw gradient maps.

    Args:
        stored: The maps.
        layout: ``pictures``, ``users`` or ``scratch``.
        user: Whose, counted from 1; of the layout ``pictures``.
        picture: Of which, counted from 1; of the other layouts.
        scaling: ``shared`` or ``each``; None is ``each`` for the layout ``scratch``, else ``shared``.

    Raises:
        ModelFormatError: There is no such layout, scaling, user, picture or map.
        MissingDependencyError: matplotlib is not installed.
    """
    scaling = scaling or ("each" if layout == "scratch" else "shared")
    for name, chosen, allowed in (("layout", layout, LAYOUTS), ("scaling", scaling, SCALINGS)):
        if chosen not in allowed:
            raise ModelFormatError(f"{name} is {chosen!r}, must be one of {', '.join(allowed)}")
    for name, value, last in (("user", user, len(stored.people)), ("picture", picture, len(stored.pictures))):
        if not 1 <= value <= last:
            raise ModelFormatError(f"{name} is {value}, must be 1 to {last}")
    plan = _plan(stored, layout, user - 1, picture - 1)
    maps = np.array(
        [[_thinned(stored.maps[cell.network, cell.picture]) for cell in row] for row in plan.cells]
    )
    shown, most, told = _scaled(maps, scaling)
    with drawing():
        return _draw(stored, plan, shown, most, told)


def _plan(stored: GradientMaps, layout: str, user: int, picture: int) -> _Plan:
    last = stored.epochs[-1]
    if layout == "pictures":
        pictures = range(len(stored.pictures))[:_MOST_COLUMNS]
        return _Plan(
            [f"picture {position + 1}" for position in pictures],
            pictures,
            [user] * len(pictures),
            [_epoch_name(epoch) for epoch in stored.epochs],
            [
                [_Cell(stored.find(user, "prior", epoch), position) for position in pictures]
                for epoch in stored.epochs
            ],
            f"user {user + 1}",
        )
    users = range(len(stored.people))[:_MOST_COLUMNS]
    rows = (
        {_epoch_name(epoch): ("prior", epoch) for epoch in stored.epochs}
        if layout == "users"
        else {f"from {start},\nepoch {last}": (start, last) for start in ("prior", "scratch")}
    )
    return _Plan(
        [f"user {position + 1}" for position in users],
        [picture] * len(users),
        users,
        list(rows),
        [
            [_Cell(stored.find(position, start, epoch), picture) for position in users]
            for start, epoch in rows.values()
        ],
        f"picture {picture + 1}",
    )


def _epoch_name(epoch: int) -> str:
    return f"epoch {epoch}" if epoch else "prior"


def _scaled(maps: FloatArray, scaling: str) -> tuple[FloatArray, float, str]:
    """Bring maps (rows, columns, P, P) to the numbers of the colour bar.

    Returns:
        The maps, where the bar ends, and what the numbers are.
    """
    where = (2, 3) if scaling == "each" else None
    top = np.percentile(maps, _PERCENTILE, axis=where, keepdims=True)
    top = np.where(top > 0, top, maps.max(axis=where, keepdims=True))
    if scaling == "each":
        # A map without any gradient stays 0.
        return maps / np.where(top > 0, top, 1.0), 1.0, f"share of each map's {_PERCENTILE}th percentile"
    end = float(top.item()) or 1.0
    exponent = int(np.floor(np.log10(end)))
    told = f"change of the [0, 1] score per level, in $10^{{{exponent}}}$"
    return maps / 10.0**exponent, end / 10.0**exponent, told


def _draw(stored: GradientMaps, plan: _Plan, maps: FloatArray, most: float, told: str) -> Drawing:
    rows, columns = len(plan.cells) + 1, len(plan.titles)
    edge = min((WIDTH - _LABELS) / columns, 1.1)
    figure, axes = new_drawing(rows * (edge + 0.14) + 0.75, rows, columns)
    scale = RatingScale(*stored.conditions.rating_scale)
    for column, (panel, position) in enumerate(zip(axes, plan.pictures, strict=False)):
        panel.imshow(stored.pictures[position])
        panel.set_title(plan.titles[column], fontsize=_TEXT + 0.5, pad=2)
        rating = stored.ratings[plan.raters[column], position]
        _bare(panel, "" if np.isnan(rating) else f"rated {scale.from_unit(rating):.1f}")
    image: Any = None
    for row, cells in enumerate(plan.cells, start=1):
        for column, cell in enumerate(cells):
            panel = axes[row * columns + column]
            image = panel.imshow(maps[row - 1, column], cmap=COLOR_MAP, vmin=0, vmax=most)
            _bare(panel, f"{scale.from_unit(stored.scores[cell.network, cell.picture]):.2f}")
        axes[row * columns].set_ylabel(plan.names[row - 1], fontsize=_TEXT + 0.5, labelpad=2)
    axes[0].set_ylabel("picture", fontsize=_TEXT + 0.5, labelpad=2)
    bar = figure.colorbar(image, ax=axes, location="bottom", extend="max", aspect=35, fraction=0.03, pad=0.01)
    bar.set_label(
        f"largest |gradient| over colours:\n{told}\n"
        f"{plan.about}, {stored.kind} gradients; below each map its score, {scale.low:g} to {scale.high:g}",
        fontsize=_TEXT,
    )
    bar.ax.tick_params(labelsize=_TEXT, length=2, pad=1)
    return figure


def _bare(panel: Axes, text: str) -> None:
    """Leave an image without ticks and frame, and a line of text below it."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_xlabel(text, fontsize=_TEXT, labelpad=1)


def _thinned(values: FloatArray) -> FloatArray:
    """Average a map (S, S) over squares of equal size, so that no more than so many points are left."""
    factor = -(-len(values) // _POINTS)
    kept = len(values) // factor * factor
    squares = values[:kept, :kept].reshape(kept // factor, factor, kept // factor, factor)
    return np.asarray(squares.mean(axis=(1, 3)), dtype=np.float64)
