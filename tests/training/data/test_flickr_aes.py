"""FLICKR-AES in the format of its release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.flickr_aes import read_flickr_aes

if TYPE_CHECKING:
    from pathlib import Path

LABELS = "FLICKR-AES_image_labeled_by_each_worker.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "40K").mkdir()
    for number in (1, 2):
        (tmp_path / "40K" / f"farm{number}_7_a_b.jpg").touch()
    (tmp_path / LABELS).write_text("worker, imagePair, score\nANN1234,farm1_7_a_b.jpg,4\n")
    return tmp_path


def test_the_release_is_read(flickr_aes_folder: Path) -> None:
    """The report tells exactly what was kept and dropped, as counted in the raw file by hand."""
    rows = [line.split(",") for line in (flickr_aes_folder / LABELS).read_text().splitlines()[1:]]
    there = {path.name for path in (flickr_aes_folder / "40K").iterdir()}
    kept = {(user, name): int(rating) for user, name, rating in rows if name in there}
    dataset = read_flickr_aes(flickr_aes_folder)
    table = dataset.table
    found = {
        (table.users[user], table.images[image].removeprefix("40K/")): rating
        for user, image, rating in zip(table.user_index, table.image_index, table.ratings, strict=True)
    }
    assert found == kept
    assert len(there) == len(table.images) == 397
    assert dataset.scale == RatingScale(1, 5)
    assert dataset.raw_counts == {
        user: sum(row[0] == user for row in rows) for user in {row[0] for row in rows}
    }
    absent = sum(name not in there for _, name, _ in rows)
    assert absent > 0
    assert (dataset.report.users, dataset.report.images, dataset.report.ratings) == (49, 397, len(kept))
    assert list(dataset.report.dropped.values()) == [absent, 1]
    assert set(dataset.table.groups) == {"all"}


def test_pictures_look_the_way_people_rate_them(flickr_aes_folder: Path) -> None:
    """What other tests learn from is there: bright pictures are rated higher by most."""
    table = read_flickr_aes(flickr_aes_folder).table
    brightness = [np.asarray(Image.open(path).convert("L")).mean() for path in table.paths()]
    assert np.corrcoef(brightness, table.mean_ratings())[0, 1] > 0.5


@pytest.mark.parametrize(
    "header", ["worker, imagePair, score", "worker,imagePair,score", "worker , imagePair ,score"]
)
def test_spaces_do_not_matter(folder: Path, header: str) -> None:
    """One name with and without a space would be two people or a picture that is not there."""
    (folder / LABELS).write_text(f"{header}\n ANN1, farm1_7_a_b.jpg, 4\nANN1 ,farm2_7_a_b.jpg ,5\n")
    table = read_flickr_aes(folder).table
    assert table.users == ("ANN1",)
    assert table.images == ("40K/farm1_7_a_b.jpg", "40K/farm2_7_a_b.jpg")
    assert table.ratings.tolist() == [4, 5]


def test_the_short_name_of_the_label_file_is_known(folder: Path) -> None:
    (folder / LABELS).rename(folder / "image_labeled_by_each_worker.csv")
    assert len(read_flickr_aes(folder).table) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("ANN1,farm1_7_a_b.jpg,6", "line 3: score 6 lies outside the scale 1 to 5"),
        ("ANN1,farm1_7_a_b.jpg,0", "line 3: score 0 lies outside the scale 1 to 5"),
        ("ANN1,farm1_7_a_b.jpg,good", "line 3: score 'good' is not a number"),
        ("ANN1,farm1_7_a_b.jpg", "line 3: score is empty"),
        (",farm1_7_a_b.jpg,3", "line 3: worker is empty"),
        ("ANN1,../secret.jpg,3", "line 3: image '../secret.jpg' must be a path inside"),
    ],
)
def test_lines_that_do_not_fit_are_named(folder: Path, rows: str, message: str) -> None:
    with (folder / LABELS).open("a") as file:
        file.write(rows + "\n")
    with pytest.raises(RatingError, match=message):
        read_flickr_aes(folder)


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / LABELS).write_text("worker;imagePair;score\n")
    with pytest.raises(
        RatingError, match=r"no column 'worker'; its first line must be worker,imagePair,score"
    ):
        read_flickr_aes(folder)
    (folder / LABELS).write_text("worker, imagePair, score\nANN1,other.jpg,3\n")
    with pytest.raises(RatingError, match=r"no rating is left \(1 name pictures that are not in"):
        read_flickr_aes(folder)
    (folder / LABELS).unlink()
    with pytest.raises(RatingError, match=f"no file {LABELS} or image_labeled"):
        read_flickr_aes(folder)
    (folder / LABELS).write_text("worker, imagePair, score\n")
    (folder / "40K").rename(folder / "images")
    with pytest.raises(RatingError, match="no folder 40K; put the released pictures there"):
        read_flickr_aes(folder)
