"""Data sets by the name of their format, and the report on what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.datasets import READERS, read_dataset
from training.data.ratings import read_rating_table

if TYPE_CHECKING:
    from pathlib import Path


def test_a_table_is_read_as_before(table_folder: Path) -> None:
    dataset = read_dataset("table", table_folder)
    table = read_rating_table(table_folder)
    assert (dataset.table.users, dataset.table.images) == (table.users, table.images)
    assert dataset.table.ratings.tolist() == table.ratings.tolist()
    assert dataset.scale == RatingScale(1, 7), "the smallest common scale that holds all ratings"
    assert dataset.raw_counts == dict.fromkeys(table.users, 40)


def test_a_table_can_be_cut_to_groups(table_folder: Path) -> None:
    dataset = read_dataset("table", table_folder, groups=["a", "c"], scale=RatingScale(0, 10))
    assert set(dataset.table.groups) == {"a", "c"}
    assert dataset.raw_counts.keys() == set(dataset.table.users)
    assert (dataset.report.users, dataset.report.images, dataset.report.ratings) == (12, 80, 480)
    assert dataset.scale == RatingScale(0, 10)


def test_the_report_is_one_table(table_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("1", "2"):
        (folder / "images" / f"{name}.jpg").touch()
    (folder / "ratings.csv").write_text(
        "user,image,score\nA2XYZ,images/1.jpg,1\nA2XYZ,images/1.jpg,3\nA2XYZ,images/2.jpg,5\n"
        "B3XYZ,images/2.jpg,4\nB3XYZ,images/3.jpg,4\n"
    )
    assert str(read_dataset("table", folder).report) == (
        "| table | |\n"
        "|---|---:|\n"
        "| users | 2 |\n"
        "| images | 2 |\n"
        "| ratings | 3 |\n"
        "| ratings per user: least, median, most | 1, 1.5, 2 |\n"
        "| left out: picture not in the folder | 1 |\n"
        "| left out: picture rated again by the same person, merged to the mean | 1 |"
    )


@pytest.mark.parametrize("name", ["flickr-aes", "aadb", "real-cur"])
def test_nobody_is_named_in_a_report(name: str, request: pytest.FixtureRequest) -> None:
    dataset = read_dataset(name, request.getfixturevalue(f"{name.replace('-', '_')}_folder"))
    assert dataset.name == name
    assert not any(user in str(dataset.report) for user in dataset.raw_counts)


def test_messages_do_not_show_all_of_an_id(table_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,image,score\nA2SECRETID,1.jpg,3\n")
    (tmp_path / "users.csv").write_text("user,group\nA2OTHER,a\n")
    with pytest.raises(RatingError, match=r"user 'A2SE\.\.\.' is not in users\.csv"):
        read_dataset("table", tmp_path)


def test_what_a_format_does_not_have_is_refused(flickr_aes_folder: Path) -> None:
    assert read_dataset("flickr-aes", flickr_aes_folder, scale=RatingScale(1, 5)).scale == RatingScale(1, 5)
    with pytest.raises(RatingError, match="rated from 1 to 5, not from 1 to 7; leave the scale out"):
        read_dataset("flickr-aes", flickr_aes_folder, scale=RatingScale(1, 7))
    with pytest.raises(RatingError, match="flickr-aes has no groups of users"):
        read_dataset("flickr-aes", flickr_aes_folder, groups=["a"])
    with pytest.raises(RatingError, match="no reader for 'ava'; there are table, flickr-aes, aadb, real-cur"):
        read_dataset("ava", flickr_aes_folder)
    assert set(READERS) == {"table", "flickr-aes", "aadb", "real-cur"}
