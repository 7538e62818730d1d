"""What the paper prints in Table I, and which order of the methods is found here too.

The printed figures are SROCC on 37 test users of FLICKR-AES, mean and standard deviation over 50 repeats.
They were measured on other people, other pictures and other features: only their order can be compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from scipy.stats import kendalltau

from training.comparison import compare
from training.tables import Column, Kind, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.evaluation_record import Evaluation
    from training.intervals import Figure

TABLE_1: dict[str, dict[int, tuple[float, float]]] = {
    "FPMF (only attribute)": {10: (0.511, 0.004), 100: (0.516, 0.003)},
    "FPMF (only content)": {10: (0.512, 0.002), 100: (0.516, 0.010)},
    "FPMF (content and attribute)": {10: (0.513, 0.003), 100: (0.524, 0.007)},
    "PAM (only attribute)": {10: (0.518, 0.003), 100: (0.539, 0.013)},
    "PAM (only content)": {10: (0.515, 0.004), 100: (0.535, 0.017)},
    "PAM (content and attribute)": {10: (0.520, 0.003), 100: (0.553, 0.012)},
    "USAR_PPR": {10: (0.521, 0.002), 100: (0.544, 0.007)},
    "USAR_PAD": {10: (0.520, 0.003), 100: (0.537, 0.003)},
    "USAR_PPR&PAD": {10: (0.525, 0.004), 100: (0.552, 0.015)},
    "PA_IAA": {10: (0.543, 0.003), 100: (0.639, 0.011)},
    "PIAA (MAML)": {10: (0.520, 0.005), 100: (0.569, 0.010)},
    "PIAA (Reptile)": {10: (0.529, 0.006), 100: (0.598, 0.015)},
    "BA-PIAA": {10: (0.524, 0.004), 100: (0.583, 0.014)},
    "BLG-PIAA": {10: (0.561, 0.005), 100: (0.669, 0.013)},
}
"""Table I of Zhu et al. 2020: by method and M, mean and standard deviation."""

NOTE = (
    "Printed: Table I of Zhu et al. 2020, 37 users of FLICKR-AES; other people, pictures and features than "
    "here, so that only the order of methods can be compared."
)
"""What has to stand under any table with printed figures."""

_AGREES, _CONTRADICTS, _UNDECIDED, _TIED = "agrees", "contradicts", "undecided", "tied in print"


def printed_row(method: str) -> str | None:
    """Return the row of Table I that a method's title stands for; a remark in brackets may follow it."""
    if method in TABLE_1:
        return method
    name = method.partition(" (")[0]
    return name if name in ("PA_IAA", "BLG-PIAA", "BA-PIAA") else None


def printed_cell(method: str, shots: int) -> str | None:
    """Return what Table I prints for a method and M, as ``0.511 ± 0.004``; None if nothing."""
    row = printed_row(method)
    if row is None or shots not in TABLE_1[row]:
        return None
    mean, std = TABLE_1[row][shots]
    return f"{mean:.3f} ± {std:.3f}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two methods, in print and here.

    Attributes:
        first: One.
        second: The other.
        printed: Mean of the first minus that of the second in Table I.
        found: The same here, task by task.
        verdict: ``agrees`` or ``contradicts`` where the 95 % interval over users leaves 0 out, ``undecided``
            where it does not, ``tied in print`` where Table I gives both the same mean.
    """

    first: str
    second: str
    printed: float
    found: Figure
    verdict: str


@dataclass(frozen=True, slots=True)
class Order:
    """How the order of methods here goes with the printed one, for one M.

    Attributes:
        shots: M.
        pairs: Every two methods of different rows of Table I.
        tau: Kendall's rank correlation of the means here with the printed ones.
    """

    shots: int
    pairs: tuple[Pair, ...]
    tau: float

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation], shots: int) -> Order:
        """Compare evaluations, those in Table I among them, with its order.

        Args:
            evaluations: Judged alike.
            shots: M.

        Raises:
            RatingError: They were not judged alike, or not with this M.
        """
        rows = {one.method: printed_row(one.method) for one in evaluations}
        told = [one for one in evaluations if (row := rows[one.method]) and shots in TABLE_1[row]]
        printed = {one.method: TABLE_1[str(rows[one.method])][shots][0] for one in told}
        pairs = []
        for first, second in combinations(told, 2):
            if rows[first.method] != rows[second.method]:
                difference = printed[first.method] - printed[second.method]
                found = compare([first, second], second.method).differences[first.method][shots]
                verdict = _verdict(difference, found)
                pairs.append(Pair(first.method, second.method, difference, found, verdict))
        means = [one.result(shots).figures["personal"].mean for one in told]
        tau = float(kendalltau(means, list(printed.values())).statistic) if len(told) > 1 else float("nan")
        return cls(shots, tuple(pairs), tau)

    def __str__(self) -> str:
        counts = Counter(pair.verdict for pair in self.pairs)
        parts = ", ".join(
            f"{counts[verdict]} {what}"
            for verdict, what in (
                (_AGREES, "agree with the printed order"),
                (_CONTRADICTS, "contradict it"),
                (_UNDECIDED, "are undecided"),
                (_TIED, "are tied in print"),
            )
        )
        return (
            f"M = {self.shots}: of {len(self.pairs)} pairs of methods, {parts} (95 % interval over users of "
            f"the paired difference); Kendall's tau with the printed means {self.tau:.2f}."
        )

    def table(self) -> Table:
        """Lay out every pair."""
        columns = (
            Column("method"),
            Column("other"),
            Column("printed difference"),
            Column(f"here, M = {self.shots}", Kind.DIFFERENCE),
            Column("order"),
        )
        rows = [
            (pair.first, pair.second, f"{pair.printed:+.3f}", pair.found, pair.verdict) for pair in self.pairs
        ]
        return Table(columns, tuple(rows))


def _verdict(printed: float, found: Figure) -> str:
    if abs(printed) < 5e-4:
        return _TIED
    low, high = found.interval
    if not (low > 0 or high < 0):
        return _UNDECIDED
    return _AGREES if (found.mean > 0) == (printed > 0) else _CONTRADICTS
