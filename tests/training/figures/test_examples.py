"""Scores of one user, stored and drawn beside the pictures."""

from __future__ import annotations

import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.errors import ImageError, ModelFormatError, RatingError
from piaa_sdk.metrics import srocc
from piaa_sdk.rating_scale import RatingScale
from training import __main__ as program
from training.data.ratings import RatingTable
from training.evaluation import evaluate
from training.evaluation_record import to_text
from training.figures.examples import choose_pictures, draw_examples
from training.figures.style import save
from training.user_scores import UserScores, score_user

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from training.personalizers import Support

SCALE = RatingScale(1, 7)


@dataclass(frozen=True)
class Nearest:
    """Scores a picture by the support picture nearest in number, plus a bias; knows nothing before."""

    bias: float = 0.0
    name: str = "nearest"

    def generic(self, images: npt.NDArray[np.intp]) -> FloatArray:
        return np.full(len(images), 0.5)

    def personalize(self, support: Support) -> NearestPredictor:
        return NearestPredictor(support, self.bias)


@dataclass(frozen=True)
class NearestPredictor:
    support: Support
    bias: float

    def predict(self, images: npt.NDArray[np.intp]) -> tuple[FloatArray, None]:
        nearest = np.abs(images[:, None] - self.support.images).argmin(axis=1)
        return self.support.ratings[nearest] + self.bias * np.cos(images), None


def make_table(folder: Path = Path(), users: int = 3, images: int = 40) -> RatingTable:
    ratings = np.round(np.random.default_rng(0).uniform(1, 7, (users, images)))
    user_index, image_index = np.nonzero(ratings)
    return RatingTable(
        folder=folder,
        users=tuple(f"user {user}" for user in range(users)),
        groups=("a",) * users,
        images=tuple(f"{image:02}.png" for image in range(images)),
        user_index=user_index,
        image_index=image_index,
        ratings=ratings.ravel(),
    )


def test_scores_are_those_that_the_evaluation_judged() -> None:
    """The same sets, so the same SROCC, for every user and repeat; ratings are the user's own."""
    table = make_table()
    judged = evaluate(Nearest(), table, SCALE, shots=[12], repeats=2, seed=4, control_repeats=0)
    for user in range(3):
        for repeat in range(2):
            found = score_user(Nearest(), table, SCALE, user=user, shots=12, repeat=repeat, seed=4)
            value = judged.results[0].judged.correlations["personal"][repeat, user]
            assert srocc(found.ratings, found.scores) == value
            whole = table.ratings.reshape(3, 40)[user]
            assert found.ratings.tolist() == [whole[int(name[:2])] for name in found.images]
            assert (found.user, len(found.images), found.prior.tolist()) == (user + 1, 28, [4.0] * 28)


def test_who_cannot_be_scored_is_said() -> None:
    table = make_table()
    with pytest.raises(RatingError, match="no user 4; they are numbered from 1 to 3"):
        score_user(Nearest(), table, SCALE, user=3, shots=12)
    few = table.keep(~((table.user_index == 1) & (table.image_index >= 20)))
    with pytest.raises(RatingError, match="user 2 has rated 20 pictures; 12 and 10 more"):
        score_user(Nearest(), few, SCALE, user=1, shots=12)


def test_scores_are_stored_and_read_again(tmp_path: Path) -> None:
    found = score_user(Nearest(0.1), make_table(), SCALE, user=1, shots=12)
    path = tmp_path / "scores.json"
    path.write_text(to_text(found.to_json() | {"more": 1}), encoding="utf-8")
    read = UserScores.load(path)
    assert read.to_json() == found.to_json()
    assert isinstance(read.images, tuple)
    record = found.to_json()
    assert "user 1" not in json.dumps(record), "nobody is named"
    for wrong in ({"format_version": 2}, {"ratings": [1.0]}, {"scores": [math.nan] * 28}, {"user": None}):
        if wrong == {"user": None}:
            record.pop("user")
        with pytest.raises(ModelFormatError, match="python -m training scores"):
            UserScores.from_json(record | {name: part for name, part in wrong.items() if part is not None})
    path.write_text("[]")
    with pytest.raises(ModelFormatError, match="no object"):
        UserScores.load(path)


def test_pictures_are_chosen_for_both_methods() -> None:
    """By pencil: errors of A are 0, 1, 3, 0, 2, of B 2, 1, 0, 1, 0."""
    ratings = np.array([4.0, 4, 4, 4, 4])
    one, other = np.array([4.0, 5, 1, 4, 6]), np.array([2.0, 3, 4, 3, 4])
    nearer, further = choose_pictures(ratings, one, other, 4)
    assert (nearer.tolist(), further.tolist()) == ([0, 3], [2, 4])
    nearer, further = choose_pictures(ratings, one, other, 10)
    assert (nearer.tolist(), further.tolist()) == ([0, 3], [2, 4]), "a tie is for neither"


def with_pictures(folder: Path) -> RatingTable:
    table = make_table(folder)
    for index, path in enumerate(table.paths()):
        Image.new("RGB", (60, 40), (6 * index, 255 - 6 * index, 90)).save(path)
    return table


def test_a_contact_sheet_is_drawn_twice_alike(tmp_path: Path) -> None:
    table = with_pictures(tmp_path)
    one = score_user(Nearest(), table, SCALE, user=1, shots=12)
    other = score_user(Nearest(0.4, "biased"), table, SCALE, user=1, shots=12)
    files = save(draw_examples(one, other, tmp_path, 8), tmp_path / "sheet")
    words = [element.text for element in ET.parse(files[1]).iter() if element.text]
    nearer, _ = choose_pictures(one.ratings, one.scores, other.scores, 8)
    assert "A nearer to the rating: nearest" in words
    assert "B nearer to the rating: biased" in words
    assert f"A {one.scores[nearer[0]]:.1f}, B {other.scores[nearer[0]]:.1f}" in words
    before = [path.read_bytes() for path in files]
    save(draw_examples(one, other, tmp_path, 8), tmp_path / "sheet")
    assert [path.read_bytes() for path in files] == before
    with pytest.raises(RatingError, match="score all pictures alike"):
        draw_examples(one, one, tmp_path, 8)
    for part, value in {"user": 3, "repeat": 1, "shots": 9, "table": "x", "images": ()}.items():
        with pytest.raises(RatingError, match=f"their {part} differ"):
            draw_examples(one, replace(other, **{part: value}), tmp_path, 8)
    (tmp_path / one.images[nearer[0]]).unlink()
    with pytest.raises(ImageError):
        draw_examples(one, other, tmp_path, 8)


def test_pictures_stand_with_their_own_rating_and_scores(tmp_path: Path) -> None:
    """Each panel shows the chosen picture, told by its colour, and the rating and scores of it."""
    one = score_user(Nearest(), with_pictures(tmp_path), SCALE, user=1, shots=12)
    other = score_user(Nearest(0.4, "biased"), make_table(tmp_path), SCALE, user=1, shots=12)
    drawing = draw_examples(one, other, tmp_path, 8)
    assert "ratings from 1 to 7" in drawing.get_suptitle()
    chosen = np.concatenate(choose_pictures(one.ratings, one.scores, other.scores, 8))
    panels = [axes for axes in drawing.axes if axes.images]
    for axes, position in zip(panels, chosen, strict=True):
        number = int(one.images[position][:2])
        pixels = np.asarray(axes.images[0].get_array())
        assert (pixels == (6 * number, 255 - 6 * number, 90)).all()
        scores = f"A {one.scores[position]:.1f}, B {other.scores[position]:.1f}"
        assert axes.get_xlabel() == f"rated {one.ratings[position]:.1f}\n{scores}"
    # On a scale from 0 to 1, one digit would not tell scores apart.
    unit = [
        replace(part, rating_scale=(0.0, 1.0), ratings=part.ratings / 10, scores=part.scores / 10)
        for part in (one, other)
    ]
    label = next(axes for axes in draw_examples(*unit, tmp_path, 8).axes if axes.images).get_xlabel()
    assert re.fullmatch(r"rated \d\.\d\d\nA -?\d\.\d\d, B -?\d\.\d\d", label)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    return int(ended.value.code or 0)


def test_of_what_has_no_model_no_scores_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever gives the folder of a table, or PAM's evaluation in it, reads which folders hold a model."""
    for name in ("ba-piaa", "maml"):
        (tmp_path / "table" / name).mkdir(parents=True)
        (tmp_path / "table" / name / "run.json").write_text("{}")
    (tmp_path / "table" / "pam.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    runs = f"one of {tmp_path / 'table' / 'ba-piaa'}, {tmp_path / 'table' / 'maml'}"
    for given, said in (("table", runs), ("table/pam.json", runs), ("empty", "of a run or of a bundle")):
        assert run(monkeypatch, "scores", tmp_path / given, tmp_path, tmp_path / "a.json") == 1
        message = " ".join(capsys.readouterr().err.split())
        assert "(FPMF, PAM, USAR, PA_IAA) keep no model" in message
        assert f"give the folder: {said}" in message


def test_a_run_and_a_bundle_meet_in_one_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From people in a folder to the drawing, by commands alone; the bundle is the one that is shipped."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    table = with_pictures(folder)
    lines = [
        f"{table.users[user]},{table.images[image]},{rating}"
        for user, image, rating in zip(table.user_index, table.image_index, table.ratings, strict=True)
    ]
    (folder / "ratings.csv").write_text("\n".join(["user,image,score", *lines]) + "\n", encoding="utf-8")
    quick = ("--untrained", "--cache", tmp_path / "cache", "--threads", 1)
    settings = ("network.size=32", "network.head.hidden=[8]", "network.head.standardize=false")
    options = [part for text in (*settings, "schedule.iterations=1") for part in ("--set", text)]
    users = [f"user,group\n{table.users[0]},b\n{table.users[1]},a\n{table.users[2]},a\n"]
    (folder / "users.csv").write_text(users[0], encoding="utf-8")
    trained = ("meta-train", "ba", folder, tmp_path / "run", "--train-groups", "b", "--test-groups", "a")
    assert run(monkeypatch, *trained, "--keep-leak", *quick, *options) == 0
    common = ("--groups", "a", "--user", 2, "--shots", 12, "--threads", 1)
    of_run = ("scores", tmp_path / "run", folder, tmp_path / "a.json", *common, *quick[:3])
    assert run(monkeypatch, *of_run) == 1
    assert "was trained on 0 of these 2 people and 40" in capsys.readouterr().err
    assert run(monkeypatch, *of_run, "--allow-seen") == 0
    bundle = Path(program.__file__).parents[1] / "piaa_sdk" / "default_model"
    assert run(monkeypatch, "scores", bundle, folder, tmp_path / "b.json", *common) == 0
    drawn = ("figure", "examples", tmp_path / "a.json", tmp_path / "b.json", folder, tmp_path / "sheet")
    assert run(monkeypatch, *drawn, "--pictures", 4) == 0
    assert (tmp_path / "sheet.svg").is_file()
