"""Fig. 11: the users that are hard to learn, and why: a narrow use of the scale, or a taste far from others'.

Choices: hard is a low personalized SROCC, mean over repeats. Spread is the standard deviation of all ratings
of a user; agreement is the SROCC of a user's ratings with the mean of all others', on the pictures that
somebody else rated too, unknown with fewer than ten of them. A user without any SROCC, by equal ratings, is
marked at the lower edge and stands in no order. Users are numbered as the command ``scores`` does, by name.

How SROCC goes with spread and agreement is told by rank correlations within each group of users: pooled over
groups that differ in both they tell of the groups, not of the users. Of fewer than five users none is told.
"""

from __future__ import annotations

import textwrap
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
_LEAST_RELATED = 5
_COLORS = {"hardest": "#D55E00", "easiest": "#009E73", "others": "#56B4E9"}


@dataclass(frozen=True, slots=True, eq=False)
class HardUsers:
    """U users from the hardest to the easiest, those without any SROCC last.

    Attributes:
        method: Name of the method that they are hard for.
        groups: (U,) the group of each.
        numbers: (U,) their places among the people of the table, from 1.
        ratings: (U,) how many they gave.
        spread: (U,) standard deviation of these, in the units of the ratings.
        commonest: (U,) share of the rating that the user gave most often.
        agreement: (U,) SROCC with the mean of the others; nan where it is not defined.
        prior: (U,) SROCC before adaptation; nan where it is not defined.
        personal: (U,) SROCC after it; nan where it is not defined.
    """

    method: str
    groups: npt.NDArray[np.str_]
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


@dataclass(frozen=True, slots=True)
class Relation:
    """How users' personal SROCC goes with something else that is known of them.

    Attributes:
        group: Of the users.
        trait: ``spread`` or ``agreement``.
        users: In whom both are known.
        correlation: Rank correlation over these; nan for fewer than five, or where one does not vary.
    """

    group: str
    trait: str
    users: int
    correlation: float

    @property
    def is_known(self) -> bool:
        """Whether there is a correlation."""
        return not np.isnan(self.correlation)


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
            f"{len(table)}, {len(table.images)} and {len(table.users)}); name the folder and --format of "
            "then; what was judged on others than the people of a table or the test users of a release, "
            "such as validation users, cannot be drawn"
        )
    judged = evaluation.result(shots).judged
    positions = {digest: position for position, digest in enumerate(table.person_digests())}
    users = np.array([positions[person] for person in judged.people])
    personal = levels_of(evaluation, shots, "personal")
    order = np.argsort(personal, kind="stable")  # nan comes last
    users = users[order]
    ratings = [given for _, _, given in table.by_user()]
    return HardUsers(
        method=evaluation.method,
        groups=np.array(judged.groups)[order],
        numbers=users + 1,
        ratings=np.array([len(ratings[user]) for user in users]),
        spread=np.array([ratings[user].std() for user in users]),
        commonest=np.array([np.unique(ratings[user], return_counts=True)[1].max() for user in users])
        / np.array([len(ratings[user]) for user in users]),
        agreement=agreements(table)[users],
        prior=levels_of(evaluation, shots, "prior")[order],
        personal=personal[order],
    )


def relations(found: HardUsers) -> list[Relation]:
    """Correlate personal SROCC with spread and agreement, within each group of users.

    Args:
        found: All users.

    Returns:
        For each group in the order of their names, spread and then agreement.
    """
    made = []
    for group in np.unique(found.groups):
        for trait in ("spread", "agreement"):
            values = getattr(found, trait)
            is_known = (found.groups == group) & ~np.isnan(found.personal) & ~np.isnan(values)
            users = int(is_known.sum())
            levels, others = found.personal[is_known], values[is_known]
            correlation = float("nan")
            if users >= _LEAST_RELATED and np.ptp(levels) > 0 and np.ptp(others) > 0:
                correlation = srocc(levels, others)
            made.append(Relation(str(group), trait, users, correlation))
    return made


def relations_table(found: HardUsers) -> Table:
    """Lay out :func:`relations`: what stands above the panels of the figure, and of how many users."""
    titles = ("group", "personal SROCC with", "users", "rank correlation")
    rows = [
        (each.group, each.trait, str(each.users), _signed(each.correlation) if each.is_known else "-")
        for each in relations(found)
    ]
    return Table(tuple(map(Column, titles)), tuple(rows))


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
        for axes, trait in ((left, "spread"), (right, "agreement")):
            _draw_panel(axes, found, getattr(found, trait), count)
            axes.set_title(_told(found, trait), fontsize=7, pad=3, parse_math=False)
        left.set_xlabel("spread of the ratings\n(std, rating units)")
        right.set_xlabel("agreement with others\n(SROCC)")
        left.set_ylabel(f"personal SROCC, M = {shots}")
        style.put_legend(figure, left, columns=2, handle_length=1)
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
    axes.grid(lw=0.3, color="#dddddd")
    axes.set_axisbelow(True)


def _told(found: HardUsers, trait: str) -> str:
    """Return the rank correlations that stand above a panel, with their groups where there are several."""
    known = [each for each in relations(found) if each.trait == trait and each.is_known]
    if not known:
        return ""
    if len(np.unique(found.groups)) == 1:
        return f"rank correlation {_signed(known[0].correlation)}"
    # A group and its number stay on one line.
    parts = [f"{each.group}\N{NO-BREAK SPACE}{_signed(each.correlation)}" for each in known]
    return "\n".join(["rank correlation", *textwrap.wrap(", ".join(parts), 26)])


def _signed(number: float) -> str:
    rounded = round(number, 2) + 0.0  # no minus before 0.00
    return f"{rounded:+.2f}".replace("-", "\N{MINUS SIGN}")
