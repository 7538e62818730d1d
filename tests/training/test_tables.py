"""Tables, letter by letter."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from typing import Any

import pytest

from piaa_sdk.errors import RatingError
from training.comparison import Comparison
from training.evaluation_record import Conditions, Evaluation, Judged, ShotsResult
from training.intervals import Figure, Interval
from training.tables import (
    backbones_table,
    crossed_table,
    curve_table,
    databases_table,
    grid_table,
    methods_table,
    one_method,
)

NOWHERE = Figure(math.nan, math.nan, Interval(math.nan, math.nan), math.nan, math.nan)


def figure(mean: float) -> Figure:
    return Figure(mean, 0.004, Interval(mean - 0.02, mean + 0.02), 0.011, mean)


def evaluation(
    method: str,
    levels: dict[int, float],
    *,
    data: str = "photographs",
    curve: bool = False,
    **facts: Any,
) -> Evaluation:
    """A method by the level of its personal scores for each M; its prior is 0.25 below that."""
    conditions = Conditions(data, ("a",), 3, 40, 120, "0", (1, 7), tuple(levels), 2, 0, None, curve)
    return Evaluation(
        method, conditions, tuple(result(shots, level) for shots, level in levels.items()), facts
    )


def result(shots: int, level: float) -> ShotsResult:
    return ShotsResult(
        shots=shots,
        users=3,
        left_out=0,
        uncontrolled=2,
        undefined=0,
        undefined_people=(),
        constant_support=0,
        collapsed=1,
        figures={
            "prior": figure(level - 0.25),
            "personal": figure(level),
            "shuffled": figure(level - 0.125),
            "personal-prior": figure(0.25),
            "personal-shuffled": figure(0.125),
        },
        measures={},
        coverage=0.9054,
        coverage_quantiles=(0.8, 0.85, 0.9, 0.95, 1.0),
        calibration=1.0,
        seconds_to_adapt=0.012345,
        judged=Judged((), (), {}, {}),
    )


def test_one_method_shows_every_figure() -> None:
    header, rule, row, blank, *legend, remark = one_method(evaluation("BLG", {7: 0.625})).splitlines()
    assert not blank
    assert "conditional on these pictures" in " ".join(legend)
    assert remark == "M = 7: 2 tasks without a control, 1 tasks with equal scores, counted as 0."
    assert header.count("|") == rule.count("|") == row.count("|")
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "7",
        "3",
        "0.375 ± 0.004 [0.355, 0.395] (0.011)",
        "0.625 ± 0.004 [0.605, 0.645] (0.011)",
        "0.500 ± 0.004 [0.480, 0.520] (0.011)",
        "+0.250 [+0.230, +0.270] (0.011)",
        "+0.125 [+0.105, +0.145] (0.011)",
        "90.5% (users 80% to 100%)",
    ]


def test_what_is_not_known_is_a_dash() -> None:
    known = evaluation("BLG", {7: 0.625})
    [found] = known.results
    figures = {**found.figures, "shuffled": NOWHERE, "personal-shuffled": NOWHERE}
    bare = replace(found, figures=figures, coverage=math.nan, seconds_to_adapt=math.nan)
    row = one_method(replace(known, results=(bare,))).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")][4:] == [
        "-",
        "+0.250 [+0.230, +0.270] (0.011)",
        "-",
        "-",
    ]
    table = methods_table([replace(known, results=(bare,))])
    assert table.to_markdown().splitlines()[2].endswith("| - | - | - |")
    assert table.to_csv().splitlines()[1].endswith(",,,,,,,")


def test_one_repeat_has_no_spread_to_show() -> None:
    once = replace(figure(0.5), std=math.nan)
    known = evaluation("BLG", {7: 0.625})
    [found] = known.results
    known = replace(known, results=(replace(found, figures={**found.figures, "personal": once}),))
    assert "| 0.500 [0.480, 0.520] (0.011) |" in one_method(known)
    assert databases_table([known]).to_markdown().splitlines()[2] == "| photographs | BLG | 0.500 |"
    assert databases_table([known]).to_csv().splitlines()[1] == (
        "photographs,BLG,0.500000,,0.480000,0.520000,0.011000"
    )
    unsure = replace(once, picture_error=math.nan)
    known = replace(known, results=(replace(found, figures={**found.figures, "personal": unsure}),))
    assert "| 0.500 [0.480, 0.520] |" in one_method(known)


def test_table_one() -> None:
    methods = [
        evaluation("BA", {10: 0.5, 100: 0.5625}),
        evaluation("BLG", {10: 0.53125, 100: 0.625}, seconds_per_iteration=1.5),
    ]
    comparison = Comparison("BA", "personal", {"BLG": {10: figure(0.03125), 100: figure(0.0625)}})
    header, _, base, ours = methods_table(methods, comparison).to_markdown().splitlines()
    assert header == (
        "| method | M = 10 | M = 100 | prior, query of M = 10 | prior, query of M = 100 "
        "| own - shuffled, M = 10 | own - shuffled, M = 100 | own - BA, M = 10 | own - BA, M = 100 "
        "| s per iteration | s to adapt, M = 100 |"
    )
    assert base == (
        "| BA | 0.500 ± 0.004 [0.480, 0.520] (0.011) | 0.562 ± 0.004 [0.542, 0.583] (0.011) "
        "| 0.250 ± 0.004 | 0.312 ± 0.004 | +0.125 [+0.105, +0.145] (0.011) "
        "| +0.125 [+0.105, +0.145] (0.011) | - | - | - | 0.0123 |"
    )
    assert ours.endswith(
        "| +0.031 [+0.011, +0.051] (0.011) | +0.062 [+0.042, +0.083] (0.011) | 1.5 | 0.0123 |"
    )
    assert "own - BA" not in methods_table(methods).to_markdown()


def test_csv_has_a_column_for_every_number() -> None:
    [header, row] = csv.reader(io.StringIO(methods_table([evaluation('B, "A"', {10: 0.5})]).to_csv()))
    assert header[:6] == [
        "method",
        "M = 10",
        "M = 10 std",
        "M = 10 low",
        "M = 10 high",
        "M = 10 picture error",
    ]
    assert row[:6] == ['B, "A"', "0.500000", "0.004000", "0.480000", "0.520000", "0.011000"]
    assert header[-2:] == ["s per iteration", "s to adapt, M = 10"]
    assert row[-2:] == ["", "0.012345"]
    assert len(header) == len(row) == 1 + 3 * 5 + 2


def test_table_two_and_three() -> None:
    rows = [
        evaluation("BA", {10: 0.5, 50: 0.5}, backbone="AlexNet"),
        evaluation("BLG", {50: 0.625, 10: 0.53125}, backbone="ResNet18", data="others"),
    ]
    assert backbones_table(rows).to_markdown() == (
        "| backbone | method | M = 10 | M = 50 |\n"
        "|---|---|---|---|\n"
        "| AlexNet | BA | 0.500 ± 0.004 | 0.500 ± 0.004 |\n"
        "| ResNet18 | BLG | 0.531 ± 0.004 | 0.625 ± 0.004 |"
    )
    assert databases_table(rows).to_markdown().splitlines()[2:] == [
        "| photographs | BA | 0.500 ± 0.004 | 0.500 ± 0.004 |",
        "| others | BLG | 0.531 ± 0.004 | 0.625 ± 0.004 |",
    ]
    with pytest.raises(RatingError, match="evaluation of MAML does not tell its backbone; it tells nothing"):
        backbones_table([evaluation("MAML", {10: 0.5})])


def test_only_common_shots_are_columns() -> None:
    table = databases_table([evaluation("BA", {10: 0.5, 100: 0.5}), evaluation("BLG", {10: 0.5, 50: 0.5})])
    assert [column.title for column in table.columns] == ["database", "method", "M = 10"]
    for nothing in ([], [evaluation("BA", {10: 0.5}), evaluation("BLG", {50: 0.5})]):
        with pytest.raises(RatingError, match="at least one M that all of them share"):
            databases_table(nothing)


def test_table_four() -> None:
    """A pair that was not judged is a dash; one that was judged twice has no place."""
    judged = [
        evaluation("BLG", {10: 0.1, 100: 0.625}, data="flickr", trained_on="flickr"),
        evaluation("BLG", {10: 0.1, 100: 0.5}, data="aadb", trained_on="flickr"),
        evaluation("BLG", {10: 0.1, 100: 0.5625}, data="aadb", trained_on="aadb"),
    ]
    assert crossed_table(judged, 100).to_markdown() == (
        "| trained on | flickr | aadb |\n"
        "|---|---|---|\n"
        "| flickr | 0.625 ± 0.004 | 0.500 ± 0.004 |\n"
        "| aadb | - | 0.562 ± 0.004 |"
    )
    assert crossed_table(judged[:1], 100).to_csv() == (
        "trained on,flickr,flickr std,flickr low,flickr high,flickr picture error\n"
        "flickr,0.625000,0.004000,0.605000,0.645000,0.011000\n"
    )
    with pytest.raises(RatingError, match="two evaluations are of flickr, aadb"):
        crossed_table([*judged, judged[1]], 100)


def test_shots_that_were_not_judged_are_refused() -> None:
    judged = [evaluation("BLG", {10: 0.5, 50: 0.5}, trained_on="flickr", m_s=80, m_q=20, k=4, S=5)]
    for lay_out in (crossed_table, grid_table):
        with pytest.raises(RatingError, match="BLG was not judged with M = 100; it was with 10, 50"):
            lay_out(judged, 100)


def test_learning_curve_begins_with_the_prior() -> None:
    table = curve_table([evaluation("BLG", {5: 0.5, 20: 0.625, 10: 0.5625}, curve=True)])
    assert table.to_markdown() == (
        "| method | M = 0 | M = 5 | M = 10 | M = 20 |\n"
        "|---|---|---|---|---|\n"
        "| BLG | 0.250 ± 0.004 | 0.500 ± 0.004 | 0.562 ± 0.004 | 0.625 ± 0.004 |"
    )
    with pytest.raises(RatingError, match="BLG was not judged as a curve"):
        curve_table([evaluation("BLG", {5: 0.5})])


def test_figure_five() -> None:
    """The inner steps go across in their order, the other settings down in theirs."""
    settings = [(80, 20, 4, 10, 0.625), (80, 20, 4, 5, 0.5), (50, 50, 8, 5, 0.375), (50, 50, 4, 10, 0.25)]
    judged = [
        evaluation("BLG", {100: level}, m_s=m_s, m_q=m_q, k=k, S=steps)
        for m_s, m_q, k, steps, level in settings
    ]
    assert grid_table(judged, 100).to_markdown() == (
        "| m_s | m_q | k | S = 5 | S = 10 |\n"
        "|---|---|---|---|---|\n"
        "| 50 | 50 | 4 | - | 0.250 ± 0.004 |\n"
        "| 50 | 50 | 8 | 0.375 ± 0.004 | - |\n"
        "| 80 | 20 | 4 | 0.500 ± 0.004 | 0.625 ± 0.004 |"
    )


def test_a_name_cannot_break_a_table() -> None:
    row = databases_table([evaluation("a|b", {10: 0.5})]).to_markdown().splitlines()[2]
    assert row == "| photographs | a\\|b | 0.500 ± 0.004 |"
