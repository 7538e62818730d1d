"""AADB in the format of its release: a batch export with ten pictures per line."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

from piaa_sdk.errors import RatingError
from training.data.aadb import FLAGGED, UNRATED, picture_name, read_aadb
from training.data.dataset import ABSENT, MERGED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADDRESS = "https://farm1.staticflickr.com/280/{number}_x_b.jpg"
NUMBERS = range(1, 11)


def write(folder: Path, *rows: Mapping[str, str]) -> None:
    """Write lines in which all ten pictures, 1 to 10, are rated 3 where the row does not say otherwise."""
    columns = ["WorkerId", *(f"Input.image_url{number}" for number in NUMBERS)]
    columns += [f"Answer.overallScore{number}" for number in (1, 10, *range(2, 10))]
    usual = {"WorkerId": "ANN1"}
    usual |= {f"Input.image_url{number}": ADDRESS.format(number=number) for number in NUMBERS}
    usual |= {f"Answer.overallScore{number}": "3" for number in NUMBERS}
    with (folder / "AllinAll.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows({**usual, **row} for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "datasetImages_originalSize").mkdir()
    for number in NUMBERS:
        (tmp_path / "datasetImages_originalSize" / f"farm1_280_{number}_x_b.jpg").touch()
    return tmp_path


def test_the_release_is_read(aadb_folder: Path) -> None:
    """Every rating is found again in the raw file by its own, slower, way."""
    with (aadb_folder / "AllinAll.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    expected, flagged, unrated, absent = {}, 0, 0, 0
    counts: dict[str, int] = {}
    for line in lines:
        for number in NUMBERS:
            host, server, name = line[f"Input.image_url{number}"].split("/")[2:]
            image = f"datasetImages_originalSize/{host.split('.')[0]}_{server}_{name}"
            text = line[f"Answer.overallScore{number}"]
            if text in {"", "0"}:
                flagged, unrated = flagged + (text == "0"), unrated + (text == "")
                continue
            counts[line["WorkerId"]] = counts.get(line["WorkerId"], 0) + 1
            if (aadb_folder / image).exists():
                expected[line["WorkerId"], image] = float(text)
            else:
                absent += 1
    dataset = read_aadb(aadb_folder)
    table = dataset.table
    found = {
        (table.users[user], table.images[image]): rating
        for user, image, rating in zip(table.user_index, table.image_index, table.ratings, strict=True)
    }
    assert found == expected
    assert dataset.raw_counts == counts
    assert dataset.report.dropped == {ABSENT: absent, MERGED: 0, FLAGGED: flagged, UNRATED: unrated}
    assert (flagged, unrated) == (1, 1)
    assert absent > 1


def test_columns_are_found_by_name_not_by_place(folder: Path) -> None:
    """The export sorts 10 before 2: read in order, nine of ten pictures would get another's rating."""
    given = {f"Answer.overallScore{number}": str(1 + number % 5) for number in NUMBERS}
    write(folder, given)
    table = read_aadb(folder).table
    found = dict(zip(table.images, table.ratings, strict=True))
    assert found == {
        f"datasetImages_originalSize/farm1_280_{number}_x_b.jpg": 1 + number % 5 for number in NUMBERS
    }


def test_a_picture_rated_twice_counts_once(folder: Path) -> None:
    write(folder, {}, {f"Answer.overallScore{number}": "5" for number in NUMBERS})
    dataset = read_aadb(folder)
    assert dataset.table.ratings.tolist() == [4] * 10
    assert dataset.raw_counts == {"ANN1": 10}
    assert dataset.report.dropped[MERGED] == 10


def test_flags_and_gaps_are_no_ratings(folder: Path) -> None:
    """Neither drops a person's mean to 0, nor counts when test users are chosen."""
    write(folder, {"Answer.overallScore1": "0", "Answer.overallScore2": "", "Input.image_url2": ""})
    dataset = read_aadb(folder)
    assert dataset.table.ratings.tolist() == [3] * 8
    assert dataset.raw_counts == {"ANN1": 8}
    assert (dataset.report.dropped[FLAGGED], dataset.report.dropped[UNRATED]) == (1, 1)


def test_pictures_may_lie_in_any_of_the_released_folders(folder: Path) -> None:
    write(folder, {})
    for home, number in (("AADB_newtest_originalSize", 1), ("datasetImages_warp256", 2)):
        (folder / home).mkdir()
        original = folder / "datasetImages_originalSize" / f"farm1_280_{number}_x_b.jpg"
        (folder / home / original.name).touch()
        if number == 1:
            original.unlink()
    images = read_aadb(folder).table.images
    assert images[0] == "AADB_newtest_originalSize/farm1_280_1_x_b.jpg"
    assert "datasetImages_originalSize/farm1_280_2_x_b.jpg" in images, "the original is preferred"
    assert len(images) == 10


def test_names_of_pictures() -> None:
    address = "https://farm1.staticflickr.com/280/19980_x_b.jpg"
    assert picture_name(address, "here") == "farm1_280_19980_x_b.jpg"
    with pytest.raises(RatingError, match="here: 'none' is not the address of a picture"):
        picture_name("none", "here")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Answer.overallScore3": "6"}, "line 2: score 6 lies outside the scale 1 to 5"),
        ({"Answer.overallScore3": "0.5"}, "line 2: score 0.5 lies outside the scale 1 to 5"),
        ({"Answer.overallScore3": "n"}, "line 2: score 'n' is not a number"),
        ({"WorkerId": " "}, "line 2: WorkerId is empty"),
        ({"Input.image_url4": ""}, "line 2: '' is not the address of a picture"),
    ],
)
def test_lines_that_do_not_fit_are_named(folder: Path, row: dict[str, str], message: str) -> None:
    write(folder, row)
    with pytest.raises(RatingError, match=message):
        read_aadb(folder)


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(RatingError, match=r"no file AllinAll\.csv or AADB_AllinAll\.csv"):
        read_aadb(folder)
    (folder / "AllinAll.csv").write_text('"HITId","WorkerId"\n')
    with pytest.raises(
        RatingError, match=r"no column 'Input\.image_url1'; its first line must name the column"
    ):
        read_aadb(folder)
