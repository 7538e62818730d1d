"""The demo: real photographs, credited, and an honest illustration of what the program does."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from typer.testing import CliRunner

from piaa_sdk.cli import app
from piaa_sdk.demo import CREDITS_NAME, PHOTOS, RATINGS_NAME, SCALE, copy_photos, find_photos, show
from piaa_sdk.errors import MissingDependencyError, OutputError
from piaa_sdk.ratings import read_ratings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    find_spec("skimage") is None or find_spec("sklearn") is None, reason="the extra demo is not installed"
)


def test_every_photograph_is_here_credited_and_free_to_use() -> None:
    for photo, path in find_photos().items():
        with Image.open(path) as image:
            assert min(image.size) >= 300
        assert ";" in photo.credit
        assert photo.source.startswith("http")
        assert photo.license in {"CC0", "CC BY 2.0", "public domain", "no known copyright restrictions"}
    assert len({photo.name for photo in PHOTOS}) == len(PHOTOS)


def test_what_is_compared_was_not_rated() -> None:
    rated = [photo for photo in PHOTOS if photo.rating is not None]
    assert 5 <= len(rated) < len(PHOTOS)
    assert all(SCALE[0] <= photo.rating <= SCALE[1] for photo in rated if photo.rating is not None)


@pytest.mark.parametrize("package", ["skimage", "sklearn"])
def test_without_the_photographs_it_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match="pip install scikit-image scikit-learn"):
        next(show())
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_it_ranks_personalizes_and_stores_nothing(piaa_home: Path) -> None:
    started = time.monotonic()
    result = CliRunner().invoke(app, ["demo"])
    assert time.monotonic() - started < 20
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    text = result.stdout
    assert all(photo.credit in text for photo in PHOTOS)
    ranking = text[text.index("1. In the order") : text.index("2. ")].splitlines()[1:]
    scores = [float(line.split()[1]) for line in ranking if line]
    assert len(scores) == len(PHOTOS)
    assert scores == sorted(scores, reverse=True)
    compared = text[text.index("3. The photos") :]
    for photo in PHOTOS:
        assert (compared.count(f"  {photo.name}") == 2) == (photo.rating is None)
    assert "made up" in text
    assert list(piaa_home.iterdir()) == []


def test_the_ratings_change_the_order_the_way_they_say() -> None:
    """She rates black and white high and colour low: of the photos not rated, gray ones rise."""
    compared = "\n".join(show()).split("3. The photos")[1].split("  Places gained: ")
    gained = compared[1].split(" Places lost: ")[0]
    assert "grass.png" in gained or "gravel.png" in gained


def test_photos_and_ratings_can_be_copied_to_try_commands_on(tmp_path: Path) -> None:
    folder = tmp_path / "a folder" / "demo"
    told = CliRunner().invoke(app, ["demo", "--folder", str(folder)])
    assert told.exit_code == 0, told.stderr
    assert f"piaa score '{folder}'" in told.stdout
    names = {path.name for path in folder.iterdir()}
    assert names == {photo.name for photo in PHOTOS} | {RATINGS_NAME, CREDITS_NAME}
    credits = (folder / CREDITS_NAME).read_text()
    assert all(photo.credit in credits and photo.source in credits for photo in PHOTOS)
    ratings = read_ratings(folder / RATINGS_NAME).of_user()
    assert [rating.rating for rating in ratings] == [
        photo.rating for photo in PHOTOS if photo.rating is not None
    ]


def test_nothing_in_a_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / RATINGS_NAME).write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        copy_photos(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RATINGS_NAME]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        copy_photos(tmp_path / "file" / "below")
