"""What is drawn where, read back from the figures: points, lines, bands and texts against the numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import same_color, to_rgba

from piaa_sdk.errors import ModelFormatError, RatingError
from training.figures.calibration import calibration_of, draw_calibration
from training.figures.curve import draw_curves, learning_curves
from training.figures.grid import draw_grid, grid_levels
from training.figures.hard_users import (
    HardUsers,
    draw_hard_users,
    hard_users,
    relations,
    relations_table,
)
from training.figures.users import draw_users

from .made_evaluations import grid_of, judged_people, make_evaluation, some_coverage, some_users

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from piaa_sdk.array_types import FloatArray


def points_of(axes: Axes) -> dict[str, FloatArray]:
    """Scattered points (N, 2) by label."""
    found = (each for each in axes.collections if isinstance(each, PathCollection))
    return {str(each.get_label()): np.asarray(each.get_offsets()) for each in found}


def line_of(axes: Axes, label: str) -> FloatArray:
    [line] = [each for each in axes.lines if each.get_label() == label]
    return np.asarray(line.get_xydata())


def bands_of(axes: Axes) -> list[tuple[FloatArray, FloatArray, Any]]:
    """Lower and upper edge (N,) of each band, from left to right, and its colour with alpha."""
    found = []
    for each in axes.collections:
        if isinstance(each, PolyCollection):
            corners = np.asarray(each.get_paths()[0].vertices)
            places = np.unique(corners[:, 0])
            edges = [corners[corners[:, 0] == place, 1] for place in places]
            found.append(
                (
                    np.array([edge.min() for edge in edges]),
                    np.array([edge.max() for edge in edges]),
                    each.get_facecolor()[0],  # type: ignore[index]
                )
            )
    return found


def test_each_user_has_a_ring_at_the_prior_and_a_point_after_adaptation() -> None:
    """By pencil: of three users in the order of the prior the second falls, from 0.2 to 0.15."""
    evaluation = make_evaluation({100: np.array([[0.15, 0.6, 0.5]])}, np.array([[0.2, 0.1, 0.4]]))
    figure = draw_users([evaluation], 100)
    [axes] = figure.axes
    prior, better, worse = points_of(axes).items()
    assert (prior[0], better[0], worse[0]) == (
        "prior, mean 0.233",
        "personal, M = 100, mean 0.417",
        "personal, below the prior: 1",
    )
    np.testing.assert_allclose(prior[1], [[1, 0.1], [2, 0.2], [3, 0.4]])
    np.testing.assert_allclose(better[1], [[1, 0.6], [3, 0.5]])
    np.testing.assert_allclose(worse[1], [[2, 0.15]])
    up, down = (each for each in axes.collections if isinstance(each, LineCollection))
    np.testing.assert_allclose(up.get_segments(), [[[1, 0.1], [1, 0.6]], [[3, 0.4], [3, 0.5]]])
    np.testing.assert_allclose(down.get_segments(), [[[2, 0.2], [2, 0.15]]])


@pytest.mark.parametrize("users", [1, 2, 37, 145])
def test_users_are_numbered_from_one_to_the_last(users: int) -> None:
    """With room for half a marker at either end, and none cut off."""
    [axes] = draw_users([some_users(users)], 100).axes
    ticks = [float(tick) for tick in axes.get_xticks()]
    assert ticks[0] == 1
    assert all(tick.is_integer() and 1 <= tick <= users for tick in ticks)
    assert axes.get_xlim()[0] <= 0.5
    assert axes.get_xlim()[1] >= users + 0.5
    assert not any(each.get_clip_on() for each in axes.collections if isinstance(each, PathCollection))


def test_a_figure_of_nobody_is_refused() -> None:
    nothing = np.full((2, 4), math.nan)
    evaluation = some_users(4)
    judged = replace(evaluation.results[0].judged, correlations={"prior": nothing, "personal": nothing})
    evaluation = replace(evaluation, results=(replace(evaluation.results[0], judged=judged),))
    with pytest.raises(RatingError, match="none of the 4 users has an SROCC with M = 10"):
        draw_users([evaluation], 10)


def test_a_method_stands_once_and_is_judged_as_the_others() -> None:
    """Two files of one name cannot be told apart in a legend; other users cannot be compared."""
    one = some_users(4, curve=True, coverage=some_coverage(1.2))
    other = some_users(5, method="other", curve=True, coverage=some_coverage(1.2))
    for draw in (
        lambda evaluations: draw_users(evaluations, 100),
        lambda evaluations: draw_calibration(evaluations, 100),
        draw_curves,
    ):
        with pytest.raises(RatingError, match="two evaluations are called 'BLG'"):
            draw([one, one])
        with pytest.raises(RatingError, match="BLG and other cannot be compared: their users differ"):
            draw([one, other])


def test_cells_of_the_grid_say_their_own_value() -> None:
    """SROCC is 0.3 + 0.01 k + 0.02 S - 0.002 m_q here: what stands written at (S, k), and its colour."""
    evaluations = grid_of([(80, 20), (50, 50)], [1, 4], [1, 2, 3])
    figure = draw_grid(evaluations, 100)
    levels = grid_levels(evaluations, 100)
    for position, (axes, queries) in enumerate(zip(figure.axes, (20, 50), strict=False)):
        assert axes.get_title() == f"$m_s$ = {100 - queries}, $m_q$ = {queries}"
        np.testing.assert_array_equal(axes.images[0].get_array(), levels.values[position])
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
        written = {text.get_position(): text.get_text() for text in axes.texts}
        for column, steps in enumerate([1, 2, 3]):
            for row, tasks in enumerate([1, 4]):
                value = 0.3 + 0.01 * tasks + 0.02 * steps - 0.002 * queries
                assert written.pop((column, row)) == f"{value:.3f}"[1:]
        assert not written


@pytest.mark.parametrize(("name", "value"), [("S", "x"), ("k", [1]), ("m_s", None), ("m_q", True)])
def test_a_setting_of_the_grid_is_a_number(name: str, value: Any) -> None:
    one, other = grid_of([(80, 20)], [1], [1, 2])
    broken = replace(other, facts={**other.facts, name: value})
    with pytest.raises(ModelFormatError, match=rf"80-20-1-2 says that {name} is .*must be a whole number"):
        draw_grid([one, broken], 100)


def test_few_curves_share_a_panel_with_bands_that_can_be_seen() -> None:
    """Lines go through the means, bands from end to end of the interval, in the colour of the line."""
    evaluations = [some_users(9, seed, method=f"method {seed}", curve=True) for seed in range(4)]
    [axes] = draw_curves(evaluations).axes
    bands = bands_of(axes)
    assert len(bands) == 4
    for line, (low, high, color), curve in zip(axes.lines, bands, learning_curves(evaluations), strict=True):
        assert line.get_label() == curve.method
        np.testing.assert_allclose(np.asarray(line.get_xydata()).T, [curve.shots, curve.means])
        np.testing.assert_allclose(low, curve.lows)
        np.testing.assert_allclose(high, curve.highs)
        assert same_color(to_rgba(line.get_color())[:3], color[:3])  # type: ignore[arg-type]
        assert 0.15 <= color[3] <= 0.2
    assert "95 % interval over users" in axes.get_ylabel()


def test_many_curves_stand_three_to_a_panel_before_all_others() -> None:
    """Eight methods: three, three and two in the order given, each panel with all eight lines in it."""
    evaluations = [
        some_users(9, seed, method=f"method {seed} of a name that needs two lines", curve=True)
        for seed in range(8)
    ]
    figure = draw_curves(evaluations)
    curves = learning_curves(evaluations)
    panels = [axes for axes in figure.axes if axes.axison]
    assert figure.get_figwidth() == 3.4
    for axes, chosen in zip(panels, ([0, 1, 2], [3, 4, 5], [6, 7]), strict=True):
        legend = axes.get_legend()
        assert legend is not None
        labels = [text.get_text() for text in legend.get_texts()]
        assert [label.split()[1] for label in labels] == [str(index) for index in chosen]
        assert all(label.count("\n") == 1 for label in labels)
        others = len(curves) - len(chosen)
        grey, own = axes.lines[:others], axes.lines[others:]
        bands = bands_of(axes)
        assert len(own) == len(bands) == len(chosen)
        for line, (low, high, color), index in zip(own, bands, chosen, strict=True):
            np.testing.assert_allclose(line.get_ydata(), curves[index].means)
            np.testing.assert_allclose([low, high], [curves[index].lows, curves[index].highs])
            assert 0.15 <= color[3] <= 0.2
        shown = [curve.means for index, curve in enumerate(curves) if index not in chosen]
        np.testing.assert_allclose([line.get_ydata() for line in grey], shown)
        assert len({str(line.get_color()) for line in grey}) == 1
        assert len({line.get_linestyle() for line in own}) == len(own)
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels] == [False, True, True]


@pytest.mark.parametrize("methods", [1, 5, 16])
def test_nothing_of_a_curve_is_cut_off(methods: int) -> None:
    """All labels and legends lie on the page, however high it is."""
    evaluations = [some_users(9, seed, method=f"method {seed}", curve=True) for seed in range(methods)]
    figure = draw_curves(evaluations)
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]
    labels = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    for text in (*figure.texts, *labels, *(text for legend in legends for text in legend.get_texts())):
        if text.get_text():
            extent = text.get_window_extent()
            assert page.contains(extent.x0, extent.y0), text
            assert page.contains(extent.x1, extent.y1), text


def test_calibration_draws_the_share_inside_its_band() -> None:
    evaluations = [
        some_users(9, coverage=some_coverage(1.4)),
        some_users(9, coverage=some_coverage(0.8), method="other"),
    ]
    [axes] = draw_calibration(evaluations, 100).axes
    np.testing.assert_array_equal(line_of(axes, "as promised"), [[0, 0], [100, 100]])
    for (low, high, _), evaluation, power in zip(bands_of(axes), evaluations, (1.4, 0.8), strict=True):
        levels = calibration_of(evaluation, 100).levels
        expected = 100 * np.array([levels, levels**power]).T
        np.testing.assert_allclose(line_of(axes, evaluation.method), expected)
        np.testing.assert_allclose(low, 90 * levels**power)
        np.testing.assert_allclose(high, 100 * levels ** (power / 2))


def test_hard_users_stand_at_their_spread_and_their_agreement() -> None:
    evaluation, table = judged_people()
    found = hard_users(evaluation, table, 10)
    left, right = draw_hard_users(found, 10, 2).axes
    for axes, label, values in ((left, "spread", found.spread), (right, "agreement", found.agreement)):
        assert axes.get_xlabel().startswith(label)
        points = points_of(axes)
        for name, part in (
            ("2 hardest", slice(0, 2)),
            ("other users", slice(2, 6)),
            ("2 easiest", slice(6, 8)),
        ):
            np.testing.assert_allclose(points[name], np.array([values[part], found.personal[part]]).T)
    assert line_of(left, "no SROCC, ratings equal: 1")[0, 0] == 0, "the constant user's spread"


def two_groups() -> HardUsers:
    """Five of group a, whose SROCC rises with the spread and falls with the agreement; four of b; one nan."""
    ranks = np.array([1.0, 2, 3, 4, 5])
    return HardUsers(
        method="BLG",
        groups=np.array(["a"] * 5 + ["b"] * 5),
        numbers=np.arange(1, 11),
        ratings=np.full(10, 60),
        spread=np.concatenate([ranks, 10 - ranks]),
        commonest=np.full(10, 0.2),
        agreement=np.concatenate([-ranks / 10, ranks / 10]),
        prior=np.zeros(10),
        personal=np.concatenate([ranks / 10, ranks[:4] / 8, [math.nan]]),
    )


def test_correlations_are_those_within_groups_of_five() -> None:
    """By pencil: in group a the orders are equal and opposite; b has four users with an SROCC, too few."""
    found = two_groups()
    told = [(each.group, each.trait, each.users, each.is_known) for each in relations(found)]
    assert told == [
        ("a", "spread", 5, True),
        ("a", "agreement", 5, True),
        ("b", "spread", 4, False),
        ("b", "agreement", 4, False),
    ]
    assert relations_table(found).to_markdown().splitlines()[2:] == [
        "| a | spread | 5 | +1.00 |",
        "| a | agreement | 5 | \N{MINUS SIGN}1.00 |",
        "| b | spread | 4 | - |",
        "| b | agreement | 4 | - |",
    ]
    titles = [axes.get_title().split() for axes in draw_hard_users(found, 10, 2).axes]
    assert titles == [["rank", "correlation", "a", f"{sign}1.00"] for sign in ("+", "\N{MINUS SIGN}")]


def test_several_groups_are_not_pooled() -> None:
    """All ten have an SROCC: b's falls as its spread does not, which one number for both would hide."""
    whole = replace(two_groups(), personal=np.tile([0.1, 0.2, 0.3, 0.4, 0.5], 2))
    left, right = draw_hard_users(whole, 10, 2).axes
    minus, space = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
    assert left.get_title() == f"rank correlation\na{space}+1.00, b{space}{minus}1.00"
    assert right.get_title() == f"rank correlation\na{space}{minus}1.00, b{space}+1.00"
    one = replace(whole, groups=np.array(["a"] * 10))
    assert draw_hard_users(one, 10, 2).axes[1].get_title().startswith("rank correlation +")
    equal = replace(whole, spread=np.ones(10), agreement=np.full(10, math.nan))
    assert [axes.get_title() for axes in draw_hard_users(equal, 10, 2).axes] == ["", ""]
