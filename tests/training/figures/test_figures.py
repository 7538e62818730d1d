"""The numbers behind each figure, on results whose shape is known because it was made up; then the files."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.errors import MissingDependencyError, OutputError, RatingError
from piaa_sdk.rating_scale import RatingScale
from training import __main__ as program
from training.data.ratings import read_rating_table
from training.evaluation import evaluate
from training.evaluation_record import Evaluation, to_text
from training.figures import style
from training.figures.calibration import calibration_of, draw_calibration
from training.figures.curve import draw_curves, learning_curves
from training.figures.grid import draw_grid, grid_levels
from training.figures.hard_users import agreements, draw_hard_users, hard_users, hard_users_table
from training.figures.users import draw_users, user_levels

from .made_evaluations import (
    Sure,
    grid_of,
    judged_people,
    make_evaluation,
    make_table,
    some_coverage,
    some_users,
)

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure as Drawing


SVG = "{http://www.w3.org/2000/svg}"


def test_users_stand_in_the_order_of_the_prior() -> None:
    """By pencil: means over the repeats that are defined; a user without any is counted, not drawn."""
    prior = np.array([[0.4, 0.1, math.nan, 0.2], [0.6, 0.3, math.nan, math.nan]])
    personal = np.array([[0.5, 0.6, math.nan, 0.1], [0.7, 0.8, math.nan, math.nan]])
    [found] = user_levels([make_evaluation({100: personal}, prior)], 100)
    np.testing.assert_allclose(found.prior, [0.2, 0.2, 0.5])
    np.testing.assert_allclose(found.personal, [0.7, 0.1, 0.6], err_msg="ties keep the table's order")
    assert found.undefined == 1


def test_two_methods_share_the_order_of_the_first() -> None:
    """A column is one user: the second method's prior need not rise."""
    one = make_evaluation({100: np.array([[0.5, 0.6, 0.7]])}, np.array([[0.3, 0.1, 0.2]]), method="one")
    two = make_evaluation({100: np.array([[0.8, 0.9, 1.0]])}, np.array([[0.1, 0.2, 0.3]]), method="two")
    first, second = user_levels([one, two], 100)
    assert (first.prior.tolist(), second.prior.tolist()) == ([0.1, 0.2, 0.3], [0.2, 0.3, 0.1])
    assert (first.personal.tolist(), second.personal.tolist()) == ([0.6, 0.7, 0.5], [0.9, 1.0, 0.8])
    assert first.means == pytest.approx((0.2, 0.6)), "as the tables have them"
    with pytest.raises(RatingError, match="one and BLG cannot be compared: their users differ"):
        user_levels([one, some_users(4)], 100)
    with pytest.raises(RatingError, match="not judged with M = 50; it was with 10, 100"):
        user_levels([some_users(4)], 50)


def test_the_grid_is_sorted_and_holes_stay_open() -> None:
    evaluations = grid_of([(50, 50), (100, 0)], [4, 1], [5, 1, 3])
    found = grid_levels(evaluations[1:], 100)
    assert (found.splits, found.tasks, found.steps) == (((100, 0), (50, 50)), (1, 4), (1, 3, 5))
    assert math.isnan(found.values[1, 1, 2]), "the one that was left away"
    np.testing.assert_allclose(found.values[0], [[0.33, 0.37, 0.41], [0.36, 0.40, 0.44]])
    np.testing.assert_allclose(found.values[1, 0], [0.23, 0.27, 0.31])
    with pytest.raises(RatingError, match="two evaluations are of 50, 50, 4, 5"):
        grid_levels([*evaluations, evaluations[0]], 100)
    with pytest.raises(RatingError, match="does not tell its m_s"):
        grid_levels([some_users(4)], 100)
    with pytest.raises(RatingError, match="cannot be compared: their users differ"):
        grid_levels([evaluations[0], some_users(5)], 100)


def test_a_learning_curve_begins_at_the_prior() -> None:
    evaluation = make_evaluation(
        {50: np.full((2, 3), 0.5), 10: np.full((2, 3), 0.4)}, np.full((2, 3), 0.3), curve=True
    )
    [found] = learning_curves([evaluation])
    assert found.shots == (0, 10, 50)
    np.testing.assert_allclose(found.means, [0.3, 0.4, 0.5])
    np.testing.assert_allclose(found.lows, [0.25, 0.35, 0.45])
    np.testing.assert_allclose(found.highs, [0.37, 0.47, 0.57])
    with pytest.raises(RatingError, match="again with --curve and several --shots: python -m training table"):
        learning_curves([some_users(4)])


@pytest.mark.parametrize(("factor", "side"), [(1.0, 0), (0.5, -1), (2.0, 1)])
def test_right_intervals_lie_on_the_diagonal_and_those_too_sure_below(factor: float, side: int) -> None:
    """Normal ratings of known spread: at half the true deviation, half of a 68 % interval's width is kept."""
    ratings = np.random.default_rng(0).normal(0.5, 0.1, (12, 300))
    evaluation = evaluate(
        Sure(0.1 * factor), make_table(ratings), RatingScale(0, 1), shots=[10], repeats=2, control_repeats=0
    )
    found = calibration_of(Evaluation.from_json(evaluation.to_json()), 10)
    middle = (found.levels > 0.25) & (found.levels < 0.85)
    distance = (found.shares - found.levels)[middle]
    if side == 0:
        np.testing.assert_allclose(found.shares, found.levels, atol=0.03)
        assert (found.lows < found.levels).all()
        assert (found.highs > found.levels).all()
    else:
        assert (np.sign(distance) == side).all()
        assert np.abs(distance).min() > 0.08


def test_without_levels_calibration_says_what_to_run() -> None:
    with pytest.raises(
        RatingError, match=r"predicts no standard deviations.*evaluate BUNDLE RATINGS --output"
    ):
        calibration_of(some_users(4), 100)
    evaluation = some_users(4)
    old = replace(evaluation, results=tuple(replace(part, coverage=0.9) for part in evaluation.results))
    with pytest.raises(RatingError, match=r"at 90 % alone.*run python -m training evaluate"):
        calibration_of(old, 100)


def test_agreement_by_hand() -> None:
    """Ann and Bob agree, Cat has the reverse order; a fourth rated only what nobody else did."""
    order = np.arange(12.0)
    ratings = np.full((4, 24), np.nan)
    ratings[0, :12], ratings[1, :12], ratings[2, :12] = order, 2 * order, -order
    ratings[3, 12:] = order
    found = agreements(make_table(ratings))
    assert found[:3].tolist() == [1.0, 0.0, -1.0], "Bob: Ann and Cat cancel out to a constant"
    assert math.isnan(found[3])


def test_the_hard_user_is_found_with_low_agreement() -> None:
    evaluation, table = judged_people()
    found = hard_users(evaluation, table, 10)
    assert found.ranked == 8
    assert found.personal[0] < -0.7
    assert (found.agreement[0], found.agreement[1] > 0.7) == (found.agreement[:8].min(), True)
    assert found.agreement[0] < -0.7
    assert (found.spread[8], found.commonest[8]) == (0, 1), "the constant user stands last"
    assert np.isnan([found.agreement[8], found.prior[8], found.personal[8]]).all()
    assert (np.diff(found.personal[:8]) >= 0).all()
    np.testing.assert_allclose(found.spread[0], table.ratings[table.user_index == 2].std())


def test_the_table_of_hard_users_names_nobody() -> None:
    evaluation, table = judged_people()
    found = hard_users(evaluation, table, 10)
    rows = hard_users_table(found, 2).rows
    assert [row[1] for row in rows] == ["hardest", "hardest", "easiest", "easiest", "no SROCC"]
    assert (rows[0][0], rows[4][0]) == ("3", "6"), "users 2 and 5, counted from 1 as scores --user does"
    assert [row[0] for row in rows] == [str(found.numbers[place]) for place in (0, 1, 6, 7, 8)]
    assert rows[0][7] == f"{found.personal[0]:.3f}"
    assert rows[4][2:] == ("60", "0.00", "100%", "-", "-", "-")
    text = hard_users_table(found, 99).to_markdown()
    assert text.count("hardest") == text.count("easiest") == 4, "nobody stands at both ends"
    assert not any(user in text for user in (*table.users, *table.person_digests()))


def test_other_ratings_than_those_judged_on_are_refused() -> None:
    evaluation, table = judged_people()
    other = replace(table, ratings=table.ratings[::-1].copy())
    with pytest.raises(RatingError, match="holds other ratings than sure was judged on"):
        hard_users(evaluation, other, 10)


def test_the_user_without_an_srocc_is_inside_the_figure() -> None:
    """At a spread of 0, far from all others: the axis must reach there."""
    evaluation, table = judged_people()
    figure = draw_hard_users(hard_users(evaluation, table, 10), 10, 2)
    assert figure.axes[0].get_xlim()[0] < 0 < figure.axes[0].get_xlim()[1]


def drawings() -> dict[str, tuple[Drawing, list[str]]]:
    """Each figure as large as it gets, and the words on its axes."""
    evaluation, table = judged_people()
    splits = [(100, 0), (90, 10), (80, 20), (70, 30), (60, 40), (50, 50)]
    methods = [some_users(20, seed, method=f"method {seed}", curve=True) for seed in range(12)]
    over, under = some_coverage(1.4), some_coverage(0.8)
    calibrated = [some_users(9, coverage=over), some_users(9, coverage=under, method="other")]
    return {
        "users": (draw_users([some_users(145)], 100), ["SROCC", "user, in the order of the prior's SROCC"]),
        "two": (
            draw_users([some_users(145), some_users(145, 1, method="other")], 100),
            ["SROCC", "user, in the order of the upper prior's SROCC"],
        ),
        "grid": (
            draw_grid(grid_of(splits, [1, 2, 4, 6, 8], [1, 2, 3, 4, 5]), 100),
            ["inner steps S", "tasks of a meta-batch k", "SROCC, M = 100, mean over users"],
        ),
        "curve": (
            draw_curves(methods),
            ["support pictures M (grey: the other methods)", "SROCC, mean and 95 % interval over users"],
        ),
        "calibration": (
            draw_calibration(calibrated, 100),
            ["nominal level of the interval (%), M = 100", "left-out ratings inside (%)"],
        ),
        "hard": (
            draw_hard_users(hard_users(evaluation, table, 10), 10, 2),
            ["personal SROCC, M = 10", "no SROCC, ratings equal: 1"],
        ),
    }


def test_figures_are_files_of_half_a_page_with_words_in_them(tmp_path: Path) -> None:
    """Each as large as it gets: many users, methods and settings. Text stays text in an SVG."""
    for name, (figure, words) in drawings().items():
        png, svg = style.save(figure, tmp_path / f"{name}.png")
        with Image.open(png) as picture:
            picture.load()
            assert picture.width == round(style.WIDTH * style.DPI) == 1020, name
            assert picture.height == round(figure.get_figheight() * style.DPI) < 1600, name
            assert len(set(picture.convert("L").tobytes())) > 20, "not an empty page"
        texts = ["".join(part.itertext()).strip() for part in ET.parse(svg).iter(f"{SVG}text")]
        assert set(words) <= set(texts), (name, texts)
        assert "<dc:date>" not in svg.read_text(encoding="utf-8")


def test_the_same_numbers_are_the_same_bytes(tmp_path: Path) -> None:
    """Lines and markers, pictures with a bar, and a band: what matplotlib gives random names by default."""
    for turn in ("one", "two"):
        calibrated = [some_users(9, coverage=some_coverage(1.4))]
        style.save(draw_users([some_users(9)], 100), tmp_path / turn / "users")
        style.save(draw_grid(grid_of([(80, 20)], [1, 2], [1, 2]), 100), tmp_path / turn / "grid")
        style.save(draw_calibration(calibrated, 100), tmp_path / turn / "calibration")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / turn).iterdir()} for turn in ("one", "two")
    )
    assert first == second
    assert len(first) == 6


def test_the_settings_of_the_machine_do_not_matter(tmp_path: Path) -> None:
    import matplotlib as mpl

    style.save(draw_users([some_users(5)], 100), tmp_path / "here")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        style.save(draw_users([some_users(5)], 100), tmp_path / "there")
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"here{suffix}").read_bytes() == (tmp_path / f"there{suffix}").read_bytes()


def test_only_suffixes_of_figures_are_taken_off(tmp_path: Path) -> None:
    png, svg = style.save(draw_users([some_users(5)], 100), tmp_path / "new" / "blg.v2")
    assert (png.name, svg.name) == ("blg.v2.png", "blg.v2.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        style.save(draw_users([some_users(5)], 100), tmp_path / "file" / "blg")


def test_the_first_lines_all_look_different() -> None:
    looks = [style.look(index) for index in range(57)]
    assert len({(how["color"], how["marker"], how["linestyle"]) for how in looks}) == 56
    assert looks[56] == looks[0]
    assert len({how["color"] for how in looks[:7]}) == 7


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    return int(ended.value.code or 0)


def store(path: Path, evaluation: Evaluation) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_text(evaluation.to_json()), encoding="utf-8")
    return path


def test_commands_draw_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = store(tmp_path / "one.json", some_users(9, curve=True, coverage=some_coverage(1.2)))
    for index, evaluation in enumerate(grid_of([(80, 20)], [1, 2], [1, 2])):
        store(tmp_path / "grid" / f"{index}.json", evaluation)
    for name, source in (("users", one), ("grid", tmp_path / "grid"), ("curve", one), ("calibration", one)):
        assert run(monkeypatch, "figure", name, source, tmp_path / "out" / name) == 0
        assert f"{name}.png and" in capsys.readouterr().err
        assert {path.name for path in (tmp_path / "out").glob(f"{name}.*")} == {f"{name}.png", f"{name}.svg"}
    other = store(tmp_path / "other.json", make_evaluation({20: np.full((2, 9), 0.5)}, np.full((2, 9), 0.2)))
    assert run(monkeypatch, "figure", "users", one, other, tmp_path / "apart") == 1
    assert "no M in common" in capsys.readouterr().err
    assert run(monkeypatch, "figure", "users", other, tmp_path / "ten") == 0, "the M it was judged with"
    assert run(monkeypatch, "figure", "users", one, one, one, tmp_path / "three") == 1
    assert "place for one or two" in capsys.readouterr().err


def test_hard_users_are_joined_with_the_folder_by_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, table = judged_people()
    lines = [
        f"{table.users[user]},{table.images[image]},{rating}"
        for user, image, rating in zip(table.user_index, table.image_index, table.ratings, strict=True)
    ]
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "ratings.csv").write_text("\n".join(["user,image,score", *lines]) + "\n", encoding="utf-8")
    for image in table.images:
        (folder / image).write_bytes(b"never opened")
    read = read_rating_table(folder, scale=RatingScale(1, 7))
    evaluation = evaluate(Sure(0.1), read, RatingScale(1, 7), shots=[10], repeats=1, control_repeats=0)
    stored = store(tmp_path / "one.json", evaluation)
    assert run(monkeypatch, "figure", "hard-users", stored, folder, tmp_path / "hard", "--shots", 10) == 0
    captured = capsys.readouterr()
    listed = captured.out
    assert (tmp_path / "hard.md").read_text(encoding="utf-8") == listed
    assert "| 6 | no SROCC | 60 | 0.00 | 100% |" in listed
    assert "| all | spread | 8 |" in listed
    assert captured.err.index("hard.md") < captured.err.index("hard.png"), "both are named"
    assert (tmp_path / "hard.png").is_file()
    (folder / "ratings.csv").write_text("\n".join(["user,image,score", *lines[1:]]) + "\n", encoding="utf-8")
    assert run(monkeypatch, "figure", "hard-users", stored, folder, tmp_path / "hard", "--shots", 10) == 1
    said = capsys.readouterr().err
    assert "540 ratings of 60 pictures by 9 users; here are 539, 60 and 9" in said
    assert "the test users of a release, such as validation users, cannot be drawn" in said


def test_what_cannot_be_drawn_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, "figure", "grid", tmp_path / "empty", tmp_path / "out") == 1
    assert "holds no evaluation" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{}")
    assert run(monkeypatch, "figure", "users", tmp_path / "bad.json", tmp_path / "out") == 1
    assert "holds no evaluation; make one with" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "command",
    [
        ("users", "one.json", "two.json"),
        ("users", "one.json", "two.json", "three.JSON"),
        ("grid", "grid", "two.json"),
        ("curve", "one.json", "two.json"),
        ("calibration", "one.json", "two.json"),
        ("hard-users", "one.json", "photographs", "two.json"),
        ("examples", "one.json", "two.json", "photographs", "three.json"),
        ("losses", "one.json", "two.json"),
        ("gradients", "one.safetensors", "two.json"),
    ],
    ids=" ".join,
)
def test_a_record_is_no_name_for_a_figure(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who forgets the figure's name has the last record taken for it: said before anything is read."""
    assert run(monkeypatch, "figure", *command) == 1
    assert (
        f"the figure would be called {command[-1]}, which is the name of a record" in capsys.readouterr().err
    )


def test_a_record_is_not_overwritten_by_a_figure(tmp_path: Path) -> None:
    with pytest.raises(RatingError, match="name it behind the records"):
        style.save(draw_users([some_users(5)], 100), tmp_path / "one.json")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installation without the extra finds no matplotlib: None in sys.modules has the import fail so."""
    one = store(tmp_path / "one.json", some_users(9))
    loaded = [name for name in sys.modules if name.startswith("matplotlib.")]
    for name in ("matplotlib", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"drawing figures.*train"):
        draw_users([some_users(5)], 100)
    assert run(monkeypatch, "figure", "users", one, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "drawing figures needs an optional package" in said
    assert "[train]" in said
    assert not list(tmp_path.glob("out*"))
