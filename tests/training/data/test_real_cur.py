"""REAL-CUR: albums whose folders are scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from piaa_sdk.errors import RatingError
from training.data.dataset import ABSENT, MERGED
from training.data.real_cur import NOT_A_PICTURE, read_real_cur

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ann/1/a.jpg", "ann/5/b.JPG", "bob/3/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_the_release_is_read(real_cur_folder: Path) -> None:
    dataset = read_real_cur(real_cur_folder)
    table = dataset.table
    assert len(table.users) == 14
    assert len(table.images) == len(table) == 14 * 30
    for user, image, rating in zip(table.user_index, table.image_index, table.ratings, strict=True):
        album, score, _ = table.images[image].split("/")
        assert album == table.users[user]
        assert (rating == float(score)) or album == "album01"
    assert dataset.report.dropped == {ABSENT: 0, MERGED: 1, NOT_A_PICTURE: 1}
    assert dataset.raw_counts == {**dict.fromkeys(table.users, 30), "album01": 31}


def test_albums_may_lie_in_a_folder_of_images(folder: Path, tmp_path: Path) -> None:
    inner = tmp_path / "moved" / "images"
    inner.mkdir(parents=True)
    for album in ("ann", "bob"):
        (folder / album).rename(inner / album)
    assert read_real_cur(tmp_path / "moved").table.images == (
        "images/ann/1/a.jpg",
        "images/ann/5/b.JPG",
        "images/bob/3/a.jpg",
    )


def test_an_album_called_images_is_an_album(folder: Path) -> None:
    (folder / "bob").rename(folder / "images")
    assert read_real_cur(folder).table.users == ("ann", "images")


def test_a_picture_under_two_scores_is_one_picture(folder: Path) -> None:
    """Otherwise one copy could be in the support set and the other in the query set."""
    (folder / "ann" / "5" / "a.jpg").write_bytes((folder / "ann" / "1" / "a.jpg").read_bytes())
    table = read_real_cur(folder).table
    assert table.images == ("ann/1/a.jpg", "ann/5/b.JPG", "bob/3/a.jpg")
    assert table.ratings.tolist() == [3, 5, 3]
    assert (table.report.merged, table.report.contradictory) == (1, 1)


def test_other_pictures_of_one_name_stay_apart(folder: Path) -> None:
    """Cameras begin again at IMG_0001."""
    (folder / "ann" / "5" / "a.jpg").write_bytes(b"another picture")
    assert read_real_cur(folder).table.images == ("ann/1/a.jpg", "ann/5/a.jpg", "ann/5/b.JPG", "bob/3/a.jpg")


def test_what_is_no_picture_is_counted_or_passed_over(folder: Path) -> None:
    (folder / "readme.txt").touch()
    (folder / "ann" / "notes.txt").touch()
    (folder / "ann" / "1" / "Thumbs.db").touch()
    (folder / "ann" / "1" / "._a.jpg").touch()
    (folder / ".Trash").mkdir()
    dataset = read_real_cur(folder)
    assert len(dataset.table) == 3
    assert dataset.report.dropped[NOT_A_PICTURE] == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [("6", "score 6 lies outside the scale 1 to 5"), ("best", "score 'best' is not a number")],
)
def test_folders_that_are_no_score_are_named(folder: Path, name: str, message: str) -> None:
    (folder / "bob" / name).mkdir()
    with pytest.raises(RatingError, match=f"{name}, a folder named after a score: {message}"):
        read_real_cur(folder)


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(RatingError, match="no pictures; name the folder of the albums"):
        read_real_cur(folder / "ann" / "1")
    with pytest.raises(RatingError, match="cannot be read: No such file"):
        read_real_cur(folder / "nowhere")
