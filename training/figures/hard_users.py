"""Fig. 11: the users that are hard to learn, and why: a narrow use of the scale, or a taste far from others'.

Choices: hard is a low personalized SROCC, mean over repeats. Spread is the standard deviation of all ratings
of a user; agreement is the SROCC of a user's ratings with the mean of all others', on the pictures that
somebody else rated too, unknown with fewer than ten of them. A user without any SROCC, by equal ratings, is
marked at the lower edge and stands in no order. Users are numbered as the command ``scores`` does, by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError
from piaa_sdk.metrics import srocc
from training.evaluation_record import digest_of_table
from training.figures import style
from training.figures.users import levels_of
from training.tables import Column, Table

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from piaa_sdk.array_types import FloatArray
    from training.data.ratings import RatingTable
    from training.evaluation_record import Evaluation

_LEAST_SHARED = 10
_COLORS = {"hardest": "#D55E00", "easiest": "#009E73", "others": "#56B4E9"}


@dataclass(frozen=True, slots=True, eq=False)
class HardUsers:
    """U users from the hardest to the easiest, those without any SROCC last.

    Attributes:
        method: Name of the method that they are hard for.
        numbers: (U,) their places among the people of the table, from 1.
        ratings: (U,) how many they gave.
        spread: (U,) standard deviation of these, in the units of the ratings.
        commonest: (U,) share of the rating that the user gave most often.
        agreement: (U,) SROCC with the mean of the others; nan where it is not defined.
        prior: (U,) SROCC before adaptation; nan where it is not defined.
        personal: (U,) SROCC after it; nan where it is not defined.
    """

    method: str
    numbers: npt.NDArray[np.intp]
    ratings: npt.NDArray[np.intp]
    spread: FloatArray
    commonest: FloatArray
    agreement: FloatArray
    prior: FloatArray
    personal: FloatArray

    @property
    def ranked(self) -> int:
        """How many have an SROCC."""
        return int((~np.isnan(self.personal)).sum())


def agreements(table: RatingTable) -> FloatArray:
    """Return each user's SROCC with the mean of all others, (U,); nan where it is not defined."""
    sums = np.bincount(table.image_index, weights=table.ratings, minlength=len(table.images))
    counts = np.bincount(table.image_index, minlength=len(table.images))
    found = []
    for _, images, ratings in table.by_user():
        is_shared = counts[images] > 1
        if is_shared.sum() < _LEAST_SHARED:
            found.append(np.nan)
            continue
        shared, own = images[is_shared], ratings[is_shared]
        found.append(srocc(own, (sums[shared] - own) / (counts[shared] - 1)))
    return np.array(found)


def hard_users(evaluation: Evaluation, table: RatingTable, shots: int) -> HardUsers:
    """Bring users into the order of how hard they are.

    Args:
        evaluation: Of one method.
        table: The ratings that it was judged on.
        shots: M.

    Raises:
        RatingError: M was not judged, or the ratings are others.
    """
    if digest_of_table(table) != evaluation.conditions.table:
        raise RatingError(
            f"{table.folder} holds other ratings than {evaluation.method} was judged on "
            f"({evaluation.conditions.data}: {evaluation.conditions.ratings} ratings of "
            f"{evaluation.conditions.pictures} pictures by {evaluation.conditions.users} users; here are "
            f"{len(table)}, {len(table.images)} and {len(table.users)}); name the folder and --format of then"
        )
    positions = {digest: position for position, digest in enumerate(table.person_digests())}
    users = np.array([positions[person] for person in evaluation.result(shots).judged.people])
    personal = levels_of(evaluation, shots, "personal")
    order = np.argsort(personal, kind="stable")  # nan comes last
    users = users[order]
    ratings = [given for _, _, given in table.by_user()]
    return HardUsers(
        method=evaluation.method,
        numbers=users + 1,
        ratings=np.array([len(ratings[user]) for user in users]),
        spread=np.array([ratings[user].std() for user in users]),
        commonest=np.array([np.unique(ratings[user], return_counts=True)[1].max() for user in users])
        / np.array([len(ratings[user]) for user in users]),
        agreement=agreements(table)[users],
        prior=levels_of(evaluation, shots, "prior")[order],
        personal=personal[order],
    )


def hard_users_table(found: HardUsers, count: int) -> Table:
    """Lay out the hardest and the easiest users, and what those have in common who stand in no order.

    Args:
        found: All users.
        count: How many of either end.
    """
    titles = ("user", "", "ratings", "spread", "commonest rating", "agreement", "prior", "personal")
    ranked = found.ranked
    count = min(count, ranked // 2)
    rows = []
    for position in [*range(count), *range(ranked - count, ranked), *range(ranked, len(found.ratings))]:
        place = "no SROCC" if position >= ranked else "hardest" if position < count else "easiest"
        numbers = (found.agreement[position], found.prior[position], found.personal[position])
        rows.append(
            (
                str(found.numbers[position]),
                place,
                str(found.ratings[position]),
                f"{found.spread[position]:.2f}",
                f"{found.commonest[position]:.0%}",
                *("-" if np.isnan(number) else f"{number:.3f}" for number in numbers),
            )
        )
    return Table(tuple(map(Column, titles)), tuple(rows))


def draw_hard_users(found: HardUsers, shots: int, count: int) -> Drawing:
    """Draw SROCC against the spread of the ratings, and against the agreement with the others.

    Args:
        found: All users.
        shots: M.
        count: How many of the hardest and of the easiest are marked.
    """
    count = min(count, found.ranked // 2)
    with style.drawing():
        figure, [left, right] = style.new_drawing(2.7, columns=2, sharey=True)
        for axes, values in ((left, found.spread), (right, found.agreement)):
            _draw_panel(axes, found, values, count)
        left.set_xlabel("spread of the ratings\n(std, rating units)")
        right.set_xlabel("agreement with others\n(SROCC)")
        left.set_ylabel(f"personal SROCC, M = {shots}")
        style.put_legend(figure, left, columns=2)
    return figure


def _draw_panel(axes: Axes, found: HardUsers, values: FloatArray, count: int) -> None:
    ranked = found.ranked
    parts = {
        "others": ("o", slice(count, ranked - count), "other users"),
        "hardest": ("v", slice(0, count), f"{count} hardest"),
        "easiest": ("^", slice(ranked - count, ranked), f"{count} easiest"),
    }
    for name, (marker, part, label) in parts.items():
        axes.scatter(
            values[part],
            found.personal[part],
            s=12,
            marker=marker,
            color=_COLORS[name],
            edgecolors="black",
            linewidths=0.3,
            label=label,
        )
    unranked = values[ranked:]
    if len(unranked):
        axes.plot(
            unranked,
            np.full(len(unranked), 0.03),
            linestyle="none",
            marker="x",
            color="black",
            markeredgewidth=0.8,
            transform=axes.get_xaxis_transform(),  # at the lower edge, whatever the SROCC of others
            label=f"no SROCC, ratings equal: {len(unranked)}",
        )
    is_known = ~np.isnan(values[:ranked])
    if is_known.sum() > 1:
        relation = srocc(found.personal[:ranked][is_known], values[:ranked][is_known])
        if not np.isnan(relation):
            text = f"rank correlation {relation:+.2f}".replace("-", "\N{MINUS SIGN}")
            axes.set_title(text, fontsize=7, pad=3)
    axes.grid(lw=0.3, color="#dddddd")
    axes.set_axisbelow(True)
