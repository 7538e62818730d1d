"""Methods against each other, on evaluations written by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from evaluations import make_evaluation

from piaa_sdk.errors import RatingError
from training import meta_commands
from training.comparison import compare
from training.evaluation_record import to_text

if TYPE_CHECKING:
    from pathlib import Path


def test_differences_by_hand() -> None:
    """Repeats: (0.2 + 0 + 0.1) / 3 = 0.1 and (0.2 + 0.4 + 0) / 3 = 0.2, so 0.15 +- sqrt(2 * 0.05^2).

    Users: 0.2, 0.2 and 0.05; drawn again inside their groups they never change, so the interval is a point.
    Blocks: 0.5 + 0.03 b less 0.4 + 0.02 b; the squared deviations of 0.01 b add up to 82.5e-4.
    """
    blocks = np.arange(10)
    base = make_evaluation("BA", [[0.1, 0.5, 0.3], [0.4, 0.2, 0.6]], without_blocks=0.4 + 0.02 * blocks)
    ours = make_evaluation("BLG", [[0.3, 0.5, 0.4], [0.6, 0.6, 0.6]], without_blocks=0.5 + 0.03 * blocks)
    comparison = compare([base, ours], "BA")
    assert list(comparison.differences) == ["BLG"], "the baseline is not compared with itself"
    figure = comparison.differences["BLG"][10]
    assert figure.mean == pytest.approx(0.15)
    assert figure.std == pytest.approx(math.sqrt(2 * 0.05**2))
    assert figure.interval == pytest.approx((0.15, 0.15))
    assert figure.picture_error == pytest.approx(math.sqrt(0.9 * 82.5e-4))
    stored = json.loads(json.dumps(comparison.to_json()))
    assert stored["differences"]["BLG"][0]["shots"] == 10
    assert stored["differences"]["BLG"][0]["mean"] == pytest.approx(0.15)


def test_pairs_tell_what_levels_hide() -> None:
    """People differ by 0.6, the methods by 0.01 to 0.03 on every one of them: paired, that is certain."""
    base = np.array([[0.1, 0.7, 0.4]] * 2)
    ours = base + np.array([0.03, 0.01, 0.02])
    figure = compare([make_evaluation("BA", base), make_evaluation("BLG", ours)], "BA").differences["BLG"][10]
    assert figure.interval == pytest.approx((0.04 / 3, 0.08 / 3))
    assert figure.mean == pytest.approx(0.02)


def test_undefined_tasks_are_left_out_of_both() -> None:
    base = make_evaluation("BA", [[0.1, math.nan, 0.3], [0.1, math.nan, 0.3]])
    ours = make_evaluation("BLG", [[0.3, math.nan, 0.5], [0.3, math.nan, 0.5]])
    figure = compare([base, ours], "BA").differences["BLG"][10]
    assert figure.mean == pytest.approx(0.2)
    assert figure.mean_with_zeros == pytest.approx(0.4 / 3)


def test_what_is_not_defined_is_stored_as_none() -> None:
    nobody = [make_evaluation(name, math.nan, without_blocks=math.nan) for name in ("BA", "BLG")]
    [stored] = compare(nobody, "BA").to_json()["differences"]["BLG"]
    assert (stored["mean"], stored["interval"]) == (None, [None, None])


def test_priors_are_compared_on_request() -> None:
    base, ours = make_evaluation("BA", 0.5, prior=0.1), make_evaluation("BLG", 0.5, prior=0.4)
    assert compare([base, ours], "BA", judged="prior").differences["BLG"][10].mean == pytest.approx(0.3)
    assert compare([base, ours], "BA").differences["BLG"][10].mean == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("table", "4567"),
        ("rating_scale", (1, 5)),
        ("shots", (10, 100)),
        ("repeats", 3),
        ("seed", 1),
        ("drawn_users", 2),
        ("curve", True),
    ],
)
def test_other_splits_are_refused(name: str, value: Any) -> None:
    base, ours = make_evaluation("BA", 0.5), make_evaluation("BLG", 0.5, **{name: value})
    with pytest.raises(RatingError, match=f"BLG and BA cannot be compared: their {name} differ"):
        compare([base, ours], "BA")


def test_the_same_ratings_in_another_folder_are_the_same() -> None:
    base, ours = make_evaluation("BA", 0.5), make_evaluation("BLG", 0.5, data="a copy")
    assert compare([base, ours], "BA").differences["BLG"][10].mean == 0


def test_other_people_are_refused() -> None:
    base, ours = make_evaluation("BA", 0.5), make_evaluation("BLG", 0.5)
    [result] = ours.results
    others = replace(result, judged=replace(result.judged, people=("ann", "bob", "dan")))
    with pytest.raises(RatingError, match="with M = 10 they were judged on other people"):
        compare([base, replace(ours, results=(others,))], "BA")


def test_names_decide_who_is_who() -> None:
    base = make_evaluation("BA", 0.5)
    with pytest.raises(RatingError, match="two evaluations are called 'BA'"):
        compare([base, base], "BA")
    with pytest.raises(RatingError, match="no evaluation is called 'MAML'; there are BA"):
        compare([base], "MAML")


def test_a_baseline_is_refused_where_a_table_has_no_place_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "BA.json", tmp_path / "BLG.json"]
    for path in paths:
        path.write_text(to_text(make_evaluation(path.stem, 0.5).to_json()), encoding="utf-8")
    meta_commands.compare(paths, baseline="BA", shape="methods")
    assert "own - BA, M = 10" in capsys.readouterr().out
    with pytest.raises(RatingError, match="--baseline is for the shape methods, not databases"):
        meta_commands.compare(paths, baseline="BA", shape="databases")
    meta_commands.compare(paths, shape="databases")
    assert "| database | method | M = 10 |" in capsys.readouterr().out
