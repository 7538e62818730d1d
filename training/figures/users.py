"""Fig. 4: what adaptation gives each user, prior against personalized SROCC.

Choices: a user's SROCC is the mean over the repeats in which it is defined; a user for whom it never is, by
equal ratings, is not drawn but counted. Users stand in the order of the first method's prior, the same order
in every panel, so that one column is one user. The means in the legend are those of the tables.
"""

from __future__ import annotations

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

_COLORS = {True: "#0072B2", False: "#D55E00"}


@dataclass(frozen=True, slots=True, eq=False)
class UserLevels:
    """SROCC of each user by one method, U users.

    Attributes:
        method: Its name.
        prior: (U,) before adaptation.
        personal: (U,) after it.
        means: Of prior and personal, as the tables have them.
        undefined: Users without any correlation, who are not among the U.
    """

    method: str
    prior: FloatArray
    personal: FloatArray
    means: tuple[float, float]
    undefined: int


def levels_of(evaluation: Evaluation, shots: int, name: str) -> FloatArray:
    """Return the mean over repeats of each user's SROCC, (U,); nan for a user without any.

    Args:
        evaluation: Of U users.
        shots: M.
        name: ``prior``, ``personal`` or ``shuffled``.
    """
    values = evaluation.result(shots).judged.correlations[name]
    counts = (~np.isnan(values)).sum(axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def user_levels(evaluations: Sequence[Evaluation], shots: int) -> list[UserLevels]:
    """Find SROCC by user, in the order of the first evaluation's prior.

    Args:
        evaluations: One per method, on the same users.
        shots: M.

    Raises:
        RatingError: M was not judged, not on the same users and splits, two methods have one name, or no
            user has an SROCC by all methods.
    """
    check_methods(evaluations)
    found = [
        (levels_of(evaluation, shots, "prior"), levels_of(evaluation, shots, "personal"))
        for evaluation in evaluations
    ]
    is_known = ~np.isnan(np.array(found)).any(axis=(0, 1))
    if not is_known.any():
        raise RatingError(
            f"none of the {len(is_known)} users has an SROCC with M = {shots}, because the ratings of every "
            "query set are equal: there is nobody to draw; take an evaluation on users whose ratings differ"
        )
    order = np.flatnonzero(is_known)[np.argsort(found[0][0][is_known], kind="stable")]
    made = []
    for evaluation, (prior, personal) in zip(evaluations, found, strict=True):
        figures = evaluation.result(shots).figures
        means = figures["prior"].mean, figures["personal"].mean
        undefined = int((~is_known).sum())
        made.append(UserLevels(evaluation.method, prior[order], personal[order], means, undefined))
    return made


def draw_users(evaluations: Sequence[Evaluation], shots: int) -> Drawing:
    """Draw one panel per method, all with the same axes.

    Args:
        evaluations: See :func:`user_levels`.
        shots: M.
    """
    found = user_levels(evaluations, shots)
    with style.drawing():
        figure, panels = style.new_drawing(0.5 + 2.2 * len(found), rows=len(found), sharex=True, sharey=True)
        for axes, levels in zip(panels, found, strict=True):
            _draw_panel(axes, levels, shots)
        left_out = f", {found[0].undefined} undefined" if found[0].undefined else ""
        _number_users(panels[-1], len(found[0].prior))
        upper = "upper " if len(found) > 1 else ""
        panels[-1].set_xlabel(f"user, in the order of the {upper}prior's SROCC{left_out}")
    return figure


def _number_users(axes: Axes, users: int) -> None:
    """Let the axis begin at the first user, with room for half a marker at either end."""
    from matplotlib.ticker import MaxNLocator

    room = 0.5 + 0.02 * users
    axes.set_xlim(1 - room, users + room)
    inner = MaxNLocator(nbins=8, integer=True).tick_values(1, users)
    axes.set_xticks(sorted({1, *(round(tick) for tick in inner if 1 < tick <= users)}))


def _draw_panel(axes: Axes, levels: UserLevels, shots: int) -> None:
    places = np.arange(1, len(levels.prior) + 1)
    size = float(np.clip(600 / max(len(places), 1), 4, 14))
    is_better = levels.personal >= levels.prior
    for better, color in _COLORS.items():
        chosen = is_better == better
        axes.vlines(
            places[chosen], levels.prior[chosen], levels.personal[chosen], color=color, lw=0.5, alpha=0.6
        )
    prior, personal = levels.means
    axes.scatter(
        places,
        levels.prior,
        s=size,
        facecolors="white",
        edgecolors=style.PRIOR_COLOR,
        linewidths=0.6,
        zorder=2,
        clip_on=False,
        label=f"prior, mean {prior:.3f}",
    )
    labels = {
        True: f"personal, M = {shots}, mean {personal:.3f}",
        False: f"personal, below the prior: {int((~is_better).sum())}",
    }
    for better, color in _COLORS.items():
        chosen = is_better == better
        if chosen.any() or better:
            marker = "o" if better else "v"
            axes.scatter(
                places[chosen],
                levels.personal[chosen],
                s=size,
                color=color,
                marker=marker,
                linewidths=0,
                zorder=3,
                clip_on=False,
                label=labels[better],
            )
    _finish_panel(axes, levels.method)


def _finish_panel(axes: Axes, method: str) -> None:
    axes.axhline(0, color="#999999", lw=0.5, zorder=0)
    axes.set_ylabel("SROCC")
    # Above the axes, where there are no data.
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        borderaxespad=0.1,
        handletextpad=0.2,
        title=method,
        alignment="left",
    )
