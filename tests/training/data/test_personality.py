"""Pictures with the personality of those who like them, read from ``image,O,C,E,A,N``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.personality import read_personality

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "image,O,C,E,A,N"
FIRST, SECOND = "b.jpg,5,1,2,3,4", "sub/a.jpg,3,3,3,3,5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("b.jpg", "sub/a.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, *lines: str) -> Path:
    path = folder / "personality.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_range_found_becomes_minus_one_to_one(folder: Path) -> None:
    """1 is the least and 5 the most of all ten numbers, so 2 and 4 lie half way to the middle, 3."""
    table = read_personality(write(folder, HEADER, FIRST, SECOND))
    assert table.images == ("b.jpg", "sub/a.jpg")
    assert table.paths() == [folder / "b.jpg", folder / "sub/a.jpg"]
    np.testing.assert_allclose(table.traits, [[1.0, -1.0, -0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert (table.scale.low, table.scale.high) == (1, 5)


def test_a_stated_scale_counts_instead(folder: Path) -> None:
    """On 0 to 10, 5 is the middle."""
    table = read_personality(write(folder, HEADER, FIRST, SECOND), RatingScale(0, 10))
    np.testing.assert_allclose(table.traits, [[0, -0.8, -0.6, -0.4, -0.2], [-0.4, -0.4, -0.4, -0.4, 0]])


def test_a_folder_will_do_and_columns_may_stand_in_any_order(folder: Path) -> None:
    """Columns are found by name; one more is no matter."""
    expected = read_personality(write(folder, HEADER, FIRST, SECOND)).traits
    write(folder, "user,N,A,E,C,O,image", "x,4,3,2,1,5,b.jpg", "y,5,3,3,3,3,sub/a.jpg")
    np.testing.assert_array_equal(read_personality(folder).traits, expected)


def test_several_people_who_like_a_picture_are_averaged(folder: Path) -> None:
    """1 and 5 make 3, the middle; the scale is that of the people, not of the means."""
    table = read_personality(write(folder, HEADER, "b.jpg,1,1,1,1,1", "b.jpg,5,5,5,5,1"))
    np.testing.assert_allclose(table.traits, [[0, 0, 0, 0, -1]])


def test_absent_pictures_are_left_out_and_counted(folder: Path) -> None:
    table = read_personality(write(folder, HEADER, "gone.jpg,1,1,1,1,1", FIRST))
    assert (table.images, table.absent) == (("b.jpg",), 1)
    assert str(table) == "1 pictures with personality traits on 1 to 5; 1 lines without a picture left out"


def test_the_digest_follows_names_and_traits(folder: Path) -> None:
    digests = {
        read_personality(write(folder, HEADER, *lines), RatingScale(1, 5)).digest()
        for lines in ((FIRST, SECOND), (FIRST,), ("b.jpg,5,1,2,3,3", SECOND))
    }
    assert len(digests) == 3
    again = read_personality(write(folder, HEADER, SECOND, FIRST), RatingScale(1, 5)).digest()
    assert again in digests


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (("image,O,C,E,A", "b.jpg,1,1,1,1"), r"personality\.csv: no column 'N'"),
        ((HEADER, FIRST, "b.jpg,1,x,1,1,1"), r"personality\.csv, line 3: C is 'x', must be a number"),
        ((HEADER, "b.jpg,1,1,nan,1,1"), r"personality\.csv, line 2: E is 'nan', must be finite"),
        ((HEADER, "b.jpg,1,1,,1,1"), r"personality\.csv, line 2: E is empty"),
        ((HEADER, "b.jpg,1,1,1,9,1"), r"personality\.csv, line 2: A is 9, must lie on the scale 1 to 5"),
        ((HEADER, "../b.jpg,1,1,1,1,1"), r"line 2: image '\.\./b\.jpg' must be a path inside the folder"),
        ((HEADER, "gone.jpg,1,1,1,1,1"), r"no picture is left \(1 lines name pictures"),
    ],
)
def test_an_error_names_file_and_line(folder: Path, lines: tuple[str, ...], found: str) -> None:
    write(folder, *lines)
    with pytest.raises(RatingError, match=found):
        read_personality(folder, RatingScale(1, 5))


def test_equal_traits_have_no_range(folder: Path) -> None:
    with pytest.raises(RatingError, match="every trait of every picture is 3, which teaches nothing"):
        read_personality(write(folder, HEADER, "b.jpg,3,3,3,3,3"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RatingError, match=r"personality\.csv"):
        read_personality(tmp_path)
