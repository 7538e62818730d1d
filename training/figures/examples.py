"""Fig. 6: pictures with a user's rating and the scores of two methods.

Choices: half of the pictures are those where the first method comes nearest to the rating in comparison with
the second (by the difference of their absolute errors), half those where it is the other way round, so that
neither method is shown by its best pictures alone. Pictures are squashed to squares of one size, so that
they line up; a network may read them at another size and in another fit. Ratings and scores are in the units
of the ratings, with one digit after the point, or two where the scale is shorter than 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.errors import RatingError
from piaa_sdk.images import load_image
from training.figures import style

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.user_scores import UserScores

_MOST_COLUMNS = 4
_LONG_SCALE = 2
_SQUARE = Preprocessing(
    size=256,
    fit="squash",
    resample="lanczos",
    draft_factor=2,
    background=(255, 255, 255),
    decoding_rule=DECODING_RULE,
)


def choose_pictures(
    ratings: FloatArray, one: FloatArray, other: FloatArray, count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Choose the pictures where two methods differ most in how far they are from the rating.

    Args:
        ratings: (Q,) a user's.
        one: (Q,) scores of one method, same units.
        other: (Q,) scores of the other.
        count: How many to choose, half for either method; fewer where a method is nowhere nearer.

    Returns:
        Positions where the one is nearer, and where the other is, the largest difference first.
    """
    gain = np.abs(other - ratings) - np.abs(one - ratings)
    order = np.argsort(-gain, kind="stable")
    half = count // 2
    nearer, further = order[:half], order[::-1][:half]
    return nearer[gain[nearer] > 0], further[gain[further] < 0]


def draw_examples(one: UserScores, other: UserScores, folder: Path, count: int) -> Drawing:
    """Draw a contact sheet.

    Args:
        one: Of one method.
        other: Of another, for the same user and query set.
        folder: What the images' names are relative to.
        count: See :func:`choose_pictures`.

    Raises:
        RatingError: The two are not of the same user and query set, or do not differ.
        ImageError: A picture cannot be read.
    """
    _check_same(one, other)
    chosen = choose_pictures(one.ratings, one.scores, other.scores, count)
    names = (f"A nearer to the rating: {one.method}", f"B nearer to the rating: {other.method}")
    parts = [(name, part) for name, part in zip(names, chosen, strict=True) if len(part)]
    if not parts:
        raise RatingError(f"{one.method} and {other.method} score all pictures alike; compare two methods")
    columns = min(_MOST_COLUMNS, max(len(part) for _, part in parts))
    rows = [-(-len(part) // columns) for _, part in parts]
    with style.drawing():
        # A row is a picture and the lines above and below it.
        height = 0.3 + sum(rows) * (style.WIDTH / columns + 0.45)
        figure, panels = style.new_drawing(height, rows=sum(rows), columns=columns)
        first = 0
        for (name, part), row_count in zip(parts, rows, strict=True):
            places = panels[first * columns : (first + row_count) * columns]
            _draw_part(places, name, part, one, other, folder)
            first += row_count
        low, high = one.rating_scale
        about = f"query pictures of user {one.user}, M = {one.shots}, ratings from {low:g} to {high:g}"
        figure.suptitle(about, fontsize=7)
    return figure


def _draw_part(
    panels: Sequence[Axes],
    name: str,
    part: npt.NDArray[np.intp],
    one: UserScores,
    other: UserScores,
    folder: Path,
) -> None:
    for axes in panels:
        axes.set_axis_off()
    # The name is longer than a picture is wide: only its height is left free.
    panels[0].set_title(" ", fontsize=7)
    title = panels[0].annotate(
        name, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=7
    )
    title.set_in_layout(False)
    low, high = one.rating_scale
    digits = 1 if high - low >= _LONG_SCALE else 2
    for axes, position in zip(panels, part, strict=False):
        axes.set_axis_on()
        axes.imshow(load_image(folder / one.images[position], _SQUARE))
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_visible(False)
        rating, first, second = (part[position] for part in (one.ratings, one.scores, other.scores))
        told = f"rated {rating:.{digits}f}\nA {first:.{digits}f}, B {second:.{digits}f}"
        axes.set_xlabel(told, fontsize=7, labelpad=2)


def _check_same(one: UserScores, other: UserScores) -> None:
    for part in ("table", "rating_scale", "user", "shots", "repeat", "seed", "images"):
        first, second = getattr(one, part), getattr(other, part)
        if first != second:
            shown = f": {first} and {second}" if isinstance(first, int) else ""
            raise RatingError(
                f"the scores of {one.method} and {other.method} are not of the same pictures, their {part} "
                f"differ{shown}; write both with the same options of python -m training scores"
            )
