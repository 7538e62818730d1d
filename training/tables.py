"""Evaluations as tables, Markdown and CSV, in the shape of the paper's Tables I to IV and of its Fig. 5."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import RatingError
from training.evaluation_record import METHODS
from training.intervals import Figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from training.comparison import Comparison
    from training.evaluation_record import Evaluation, ShotsResult

LEGEND = (
    "SROCC, mean over users; after ± its standard deviation over repeats; [95 % bootstrap interval over",
    "users, stratified by group, conditional on these pictures]; (standard error by a jackknife over ten",
    "blocks of query pictures).",
)
_LEGEND_OF_COVERAGE = "Behind the share of ratings inside 90 % intervals, 5 to 95 % of users."
_NOTHING = "-"


class Kind(Enum):
    """How the cells of a column are written."""

    TEXT = "text"
    LEVEL = "mean and spread over repeats"
    SURE_LEVEL = "the same, with its interval and error"
    DIFFERENCE = "signed mean with its interval and error"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Column:
    """What a column is called and how its cells are written."""

    title: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and rows with one value for each: a :class:`Figure`, a number, a text, or None."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_markdown(self) -> str:
        """Write the table for reading."""
        lines = [_line(column.title for column in self.columns), "|---" * len(self.columns) + "|"]
        for row in self.rows:
            cells = zip(self.columns, row, strict=True)
            lines.append(_line(_cell(column.kind, value) for column, value in cells))
        return "\n".join(lines)

    def to_csv(self) -> str:
        """Write the table for computing: a figure takes five columns, what is not known is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([title for column in self.columns for title in _csv_titles(column)])
        for row in self.rows:
            cells = zip(self.columns, row, strict=True)
            writer.writerow([part for column, value in cells for part in _csv_values(column.kind, value)])
        return text.getvalue()


def one_method(evaluation: Evaluation) -> str:
    """Return everything about one method as Markdown, with a legend and what was left out."""
    lines = [
        "| M | users | prior | personal | shuffled control | own - prior | own - shuffled "
        "| in 90 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in evaluation.results:
        cells = [str(result.shots), str(result.users)]
        cells += [_cell(Kind.SURE_LEVEL, result.figures[name]) for name in METHODS]
        cells += [
            _cell(Kind.DIFFERENCE, result.figures[name]) for name in ("personal-prior", "personal-shuffled")
        ]
        lines.append(_line([*cells, _coverage(result)]))
    legend = [*LEGEND[:-1], f"{LEGEND[-1]} {_LEGEND_OF_COVERAGE}"]
    return "\n".join([*lines, "", *legend, *filter(None, map(_remark, evaluation.results))])


def methods_table(evaluations: Sequence[Evaluation], comparison: Comparison | None = None) -> Table:
    """Make Table I, method by M, and beside it what the paper leaves out.

    That is: the prior on the same query sets, own minus shuffled, the paired difference to the baseline if a
    comparison is given, and seconds where they are known.
    """
    shots = _common_shots(evaluations)
    columns = [Column("method"), *(Column(f"M = {count}", Kind.SURE_LEVEL) for count in shots)]
    columns += [Column(f"prior, query of M = {count}", Kind.LEVEL) for count in shots]
    columns += [Column(f"own - shuffled, M = {count}", Kind.DIFFERENCE) for count in shots]
    if comparison is not None:
        columns += [Column(f"own - {comparison.baseline}, M = {count}", Kind.DIFFERENCE) for count in shots]
    columns += [Column("s per iteration", Kind.SECONDS), Column(f"s to adapt, M = {shots[-1]}", Kind.SECONDS)]
    rows = []
    for evaluation in evaluations:
        results = [evaluation.result(count) for count in shots]
        row: list[Any] = [evaluation.method]
        for name in ("personal", "prior", "personal-shuffled"):
            row += [result.figures[name] for result in results]
        if comparison is not None:
            differences = comparison.differences.get(evaluation.method, {})
            row += [differences.get(count) for count in shots]
        row += [evaluation.facts.get("seconds_per_iteration"), results[-1].seconds_to_adapt]
        rows.append(tuple(row))
    return Table(tuple(columns), tuple(rows))


def backbones_table(evaluations: Sequence[Evaluation]) -> Table:
    """Make Table II: backbone and method by M; each evaluation's facts name its ``backbone``."""
    return _two_names("backbone", [_fact(evaluation, "backbone") for evaluation in evaluations], evaluations)


def databases_table(evaluations: Sequence[Evaluation]) -> Table:
    """Make Table III: database and method by M."""
    return _two_names("database", [evaluation.conditions.data for evaluation in evaluations], evaluations)


def crossed_table(evaluations: Sequence[Evaluation], shots: int) -> Table:
    """Make Table IV: trained on by judged on; each evaluation's facts name what it was ``trained_on``.

    Args:
        evaluations: One method's, at most one of each pair of databases.
        shots: M.

    Raises:
        RatingError: Two evaluations of one pair, or facts without ``trained_on``.
    """
    cells: dict[tuple[Any, ...], Figure] = {}
    for evaluation in evaluations:
        pair = str(_fact(evaluation, "trained_on")), evaluation.conditions.data
        _put(cells, pair, evaluation.result(shots).figures["personal"])
    return _crossed(("trained on",), cells, "{}")


def curve_table(evaluations: Sequence[Evaluation]) -> Table:
    """Make the learning curve: method by M, from M = 0, all on one query set.

    Raises:
        RatingError: An evaluation is none of a curve.
    """
    for evaluation in evaluations:
        if not evaluation.conditions.curve:
            raise RatingError(
                f"{evaluation.method} was not judged as a curve: its query sets differ from M to M; evaluate "
                "it with one query set for all"
            )
    shots = sorted(_common_shots(evaluations))
    columns = (Column("method"), *(Column(f"M = {count}", Kind.LEVEL) for count in (0, *shots)))
    rows = [
        (
            evaluation.method,
            evaluation.result(shots[0]).figures["prior"],
            *(evaluation.result(count).figures["personal"] for count in shots),
        )
        for evaluation in evaluations
    ]
    return Table(columns, tuple(rows))


def grid_table(evaluations: Sequence[Evaluation], shots: int) -> Table:
    """Make Fig. 5: m_s, m_q and k by the inner steps S, all of them among the evaluations' facts.

    Args:
        evaluations: At most one of each combination.
        shots: M.

    Raises:
        RatingError: Two evaluations of one combination, or facts without one of the four.
    """
    cells = dict(sorted(grid_cells(evaluations, shots).items()))
    return _crossed(("m_s", "m_q", "k"), cells, "S = {}")


def grid_cells(evaluations: Sequence[Evaluation], shots: int) -> dict[tuple[Any, ...], Figure]:
    """Return the personal SROCC by m_s, m_q, k and S; see :func:`grid_table`."""
    cells: dict[tuple[Any, ...], Figure] = {}
    for evaluation in evaluations:
        settings = tuple(_fact(evaluation, name) for name in ("m_s", "m_q", "k", "S"))
        _put(cells, settings, evaluation.result(shots).figures["personal"])
    return cells


def _two_names(title: str, names: Sequence[Any], evaluations: Sequence[Evaluation]) -> Table:
    shots = _common_shots(evaluations)
    levels = (Column(f"M = {count}", Kind.LEVEL) for count in shots)
    rows = [
        (name, evaluation.method, *(evaluation.result(count).figures["personal"] for count in shots))
        for name, evaluation in zip(names, evaluations, strict=True)
    ]
    return Table((Column(title), Column("method"), *levels), tuple(rows))


def _crossed(titles: tuple[str, ...], cells: dict[tuple[Any, ...], Figure], title: str) -> Table:
    """Lay out figures with the last part of each key across and the other parts down."""
    down = list(dict.fromkeys(key[:-1] for key in cells))
    across = list(dict.fromkeys(key[-1] for key in cells))
    if all(isinstance(value, int) for value in across):
        across.sort()
    columns = [*map(Column, titles), *(Column(title.format(value), Kind.LEVEL) for value in across)]
    rows = [(*names, *(cells.get((*names, value)) for value in across)) for names in down]
    return Table(tuple(columns), tuple(rows))


def _put(cells: dict[tuple[Any, ...], Figure], key: tuple[Any, ...], figure: Figure) -> None:
    if key in cells:
        raise RatingError(
            f"two evaluations are of {', '.join(map(str, key))}; a table has one place for them"
        )
    cells[key] = figure


def _common_shots(evaluations: Sequence[Evaluation]) -> tuple[int, ...]:
    """Return the values of M that all have, in the order of the first.

    Raises:
        RatingError: There is none.
    """
    judged = [evaluation.conditions.shots for evaluation in evaluations]
    common = tuple(count for count in (judged or [()])[0] if all(count in shots for shots in judged))
    if not common:
        raise RatingError("a table needs evaluations with at least one M that all of them share")
    return common


def _fact(evaluation: Evaluation, name: str) -> Any:
    if name not in evaluation.facts:
        known = ", ".join(evaluation.facts) or "nothing"
        raise RatingError(f"the evaluation of {evaluation.method} does not tell its {name}; it tells {known}")
    return evaluation.facts[name]


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _cell(kind: Kind, value: Any) -> str:
    if _is_unknown(value):
        return _NOTHING
    if kind is Kind.TEXT:
        return str(value)
    if kind is Kind.SECONDS:
        return f"{value:.3g}"
    low, high = value.interval
    spread = "" if math.isnan(value.std) else f" ± {value.std:.3f}"
    error = "" if math.isnan(value.picture_error) else f" ({value.picture_error:.3f})"
    if kind is Kind.LEVEL:
        return f"{value.mean:.3f}{spread}"
    if kind is Kind.SURE_LEVEL:
        return f"{value.mean:.3f}{spread} [{low:.3f}, {high:.3f}]{error}"
    return f"{value.mean:+.3f} [{low:+.3f}, {high:+.3f}]{error}"


def _is_unknown(value: Any) -> bool:
    if isinstance(value, Figure):
        return math.isnan(value.mean)
    return value is None or (isinstance(value, float) and math.isnan(value))


_PARTS = ("", " std", " low", " high", " picture error")


def _csv_titles(column: Column) -> list[str]:
    if column.kind in (Kind.TEXT, Kind.SECONDS):
        return [column.title]
    return [column.title + part for part in _PARTS]


def _csv_values(kind: Kind, value: Any) -> list[Any]:
    if kind in (Kind.TEXT, Kind.SECONDS):
        return ["" if _is_unknown(value) else value]
    if _is_unknown(value):
        return [""] * len(_PARTS)
    parts = (value.mean, value.std, *value.interval, value.picture_error)
    return ["" if math.isnan(part) else f"{part:.6f}" for part in parts]


def _coverage(result: ShotsResult) -> str:
    if math.isnan(result.coverage):
        return _NOTHING
    low, high = result.coverage_quantiles[0], result.coverage_quantiles[-1]
    return f"{result.coverage:.1%} (users {low:.0%} to {high:.0%})"


def _remark(result: ShotsResult) -> str:
    """Say what was left out of a row, if anything."""
    counts = {
        "users with too few ratings": result.left_out,
        "tasks without a control": result.uncontrolled,
        "tasks with equal query ratings, left out": result.undefined,
        "tasks with equal support ratings, judged by the prior": result.constant_support,
        "tasks with equal scores, counted as 0": result.collapsed,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"M = {result.shots}: {', '.join(parts)}." if parts else ""
