"""What the paper prints, and the order found beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evaluations import make_evaluation

from training.printed import TABLE_1, Order, printed_cell, printed_row
from training.published import TABLE_METHODS, load_methods


def test_every_row_of_table_1_is_a_method_of_the_table() -> None:
    """The default methods cover the fourteen printed rows, in their order, and one that is not printed."""
    rows = [printed_row(config.title) for config in load_methods(TABLE_METHODS)]
    assert list(dict.fromkeys(row for row in rows if row)) == list(TABLE_1)
    assert rows[-1] is None


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("FPMF (only content)", "FPMF (only content)"),
        ("PA_IAA (without personality labels)", "PA_IAA"),
        ("BLG-PIAA (as released, same network)", "BLG-PIAA"),
        ("closed form, learned layer", None),
        ("FPMF", None),
    ],
)
def test_a_remark_in_brackets_does_not_change_the_row(method: str, row: str | None) -> None:
    assert printed_row(method) == row


def test_printed_cells() -> None:
    assert printed_cell("BLG-PIAA (as paper)", 100) == "0.669 ± 0.013"
    assert printed_cell("BLG-PIAA (as paper)", 50) is None
    assert printed_cell("closed form", 100) is None


def test_the_order_by_hand() -> None:
    """In print BLG > PA_IAA > BA at M = 10 (0.561, 0.543, 0.524); here PA_IAA > BLG > BA, the last unsure.

    Every user has PA_IAA 0.1 above BLG, so that contradicts; BLG lies above BA by 0.2, -0.1 and 0.05, whose
    interval holds 0. Two rows of one printed method are no pair. Of three pairs two are concordant: tau 1/3.
    """
    people = np.array([0.5, 0.6, 0.4])
    judged = [
        make_evaluation("PA_IAA", people + 0.1),
        make_evaluation("BA-PIAA", people - np.array([0.2, -0.1, 0.05])),
        make_evaluation("BLG-PIAA (as paper)", people),
        make_evaluation("closed form", people + 0.3),
    ]
    order = Order.of(judged, 10)
    assert {(pair.first, pair.second): pair.verdict for pair in order.pairs} == {
        ("PA_IAA", "BA-PIAA"): "agrees",
        ("PA_IAA", "BLG-PIAA (as paper)"): "contradicts",
        ("BA-PIAA", "BLG-PIAA (as paper)"): "undecided",
    }
    assert order.tau == pytest.approx(1 / 3)
    assert str(order).startswith(
        "M = 10: of 3 pairs of methods, 1 agree with the printed order, 1 contradict it, 1 are undecided, 0 "
    )
    assert "| PA_IAA | BA-PIAA | +0.019 | +0.150 [" in order.table().to_markdown()
    two = [judged[2], make_evaluation("BLG-PIAA (tuned)", people + 0.1)]
    assert Order.of(two, 10).pairs == ()


def test_what_is_tied_in_print_has_no_order() -> None:
    """0.516 twice at M = 100."""
    judged = [
        make_evaluation(f"FPMF (only {what})", level, shots=(100,))
        for what, level in (("attribute", 0.3), ("content", 0.5))
    ]
    [pair] = Order.of(judged, 100).pairs
    assert pair.verdict == "tied in print"


def test_methods_that_are_not_printed_have_no_order() -> None:
    order = Order.of([make_evaluation("closed form", 0.5)], 10)
    assert order.pairs == ()
    assert math.isnan(order.tau)
