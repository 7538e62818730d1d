"""Ratings read from files as people really save them, and taken from Python."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import unicodedata
from collections import UserDict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.ratings import Rating, RatingTable, choose_scale, collect_ratings, read_ratings, summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[..., Path]
    Form = Literal["NFC", "NFD"]

SECONDS_UNTIL_IT_HANGS = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that ratings can name; what is in them is nobody's business here."""
    for name in ("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not looked at")
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    def write_csv(content: str | bytes, name: str = "ratings.csv") -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_csv


def given_to(table: RatingTable, user: str | None = None) -> dict[str, float]:
    return {Path(str(rating.image)).name: rating.rating for rating in table.ratings[user]}


def message_of(path: Path, **options: Any) -> str:
    with pytest.raises(RatingError) as caught:
        read_ratings(path, **options)
    return str(caught.value)


PLAIN = "image,rating\na.jpg,4\nb.jpg,2.5\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip("\n"),
        PLAIN + "\n\n  \r\n\n",
        "\n\n" + PLAIN,
        "image,rating\n\na.jpg,4\n   \nb.jpg,2.5\n",
        PLAIN + ",\n,\n",  # empty rows of a spreadsheet
        PLAIN.replace("image", " Image ").replace("rating", "RATING"),
        PLAIN.replace("image", "path"),
        PLAIN.replace("rating", "score"),
        '"image","rating"\n"a.jpg","4"\n"b.jpg","2.5"\n',
        '"image";"rating"\n"a.jpg";"4"\n"b.jpg";"2.5"\n',
        "rating,image\n4,a.jpg\n2.5,b.jpg\n",
        "image,rating\n a.jpg , 4 \nb.jpg,+2.50e0\n",
        "image,rating,\na.jpg,4,\nb.jpg,2.5,,,\n",  # one comma too many on every line
        "image,rating,comment\na.jpg,4,good\nb.jpg,2.5\n",
        "image,rating,score\na.jpg,4,99\nb.jpg,2.5,98\n",  # rating is meant, whatever score is
        "image,rating,generic,std\na.jpg,4,3.1,0.2\nb.jpg,2.5,3.2,0.2\n",  # our output with a column added
        "sep=;\nimage;rating\na.jpg;4\nb.jpg;2.5\n",
        '"sep=,"\r\nimage,rating\r\na.jpg,4\r\nb.jpg,2.5\r\n',
        PLAIN + "a.jpg,4.0\n",
        PLAIN + "./a.jpg,4\nsub/../b.jpg,2.5\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_can_be_understood_safely_is_accepted(write: Write, content: str, encoding: str) -> None:
    """utf-16 with its mark is what Excel saves as "Unicode text"."""
    assert given_to(read_ratings(write(content.encode(encoding)))) == {"a.jpg": 4, "b.jpg": 2.5}


def test_images_are_absolute_paths_that_exist(
    write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a profile made today still names its photos when it is refined from another folder."""
    write(f"image,rating\na.jpg,1\nsub/d.jpg,2\n{folder / 'b.jpg'},3\n")
    monkeypatch.chdir(folder)
    ratings = read_ratings("ratings.csv").ratings[None]
    assert [rating.image for rating in ratings] == [
        str(folder / name) for name in ("a.jpg", "sub/d.jpg", "b.jpg")
    ]
    assert [rating.name for rating in ratings] == [rating.image for rating in ratings]


def test_every_rating_knows_its_line(write: Write) -> None:
    """Blank lines count, and so do the lines within quotes: people look it up in an editor."""
    path = write('\nimage,rating,note\n\na.jpg,1,"two\nlines"\nb.jpg,2,\n')
    ratings = read_ratings(path).ratings[None]
    assert [rating.line for rating in ratings] == [4, 6]
    assert [rating.where for rating in ratings] == [f"{path}, line 4", f"{path}, line 6"]


def test_photos_may_be_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("desk") / "ratings.csv"
    path.write_text(PLAIN)
    assert "no such image" in message_of(path)
    ratings = read_ratings(path, photos=folder).ratings[None]
    assert [rating.image for rating in ratings] == [str(folder / "a.jpg"), str(folder / "b.jpg")]
    assert "no such folder" in message_of(path, photos=folder / "nowhere")
    assert "no such folder" in message_of(path, photos=folder / "a.jpg")


def test_photos_elsewhere_that_are_shown_alike_are_two() -> None:
    """Nothing that gives access is shown, and what is hidden still tells them apart."""
    urls = ["https://host/a?key=1.jpg", "https://host/a?key=2.jpg", "https://host/design1.jpg"]
    ratings = collect_ratings([(url, number) for number, url in enumerate(urls, 1)])
    assert [rating.image for rating in ratings.ratings[None]] == urls
    assert [rating.name for rating in ratings.ratings[None]][:2] == ["https://host/a?key=***"] * 2
    with pytest.raises(RatingError, match="is rated 2 here but 1"):
        collect_ratings([(urls[0], 1), (urls[0], 2)])


def test_a_user_column_tells_people_apart(write: Write) -> None:
    """The same photo by two people is no contradiction; a name in two Unicode spellings is one person."""
    decomposed = unicodedata.normalize("NFD", "Zoë")
    path = write(f"user,image,rating\nZoë,a.jpg,1\nbob,a.jpg,5\n {decomposed} ,b.jpg,2\nbob,b.jpg,3\n")
    table = read_ratings(path)
    assert list(table.ratings) == ["Zoë", "bob"]
    assert given_to(table, "Zoë") == {"a.jpg": 1, "b.jpg": 2}
    assert given_to(table, "bob") == {"a.jpg": 5, "b.jpg": 3}
    assert table.of_user(decomposed) == table.ratings["Zoë"]


def test_one_person_is_chosen_from_several(write: Write) -> None:
    table = read_ratings(write("user,image,rating\nann,a.jpg,1\nbob,a.jpg,5\n"))
    with pytest.raises(RatingError, match=r"2 persons \(ann, bob\).*user="):
        table.of_user()
    with pytest.raises(RatingError, match=r"no ratings of 'eve'; the user column names ann, bob"):
        table.of_user("eve")
    alone = read_ratings(write("user,image,rating\nann,a.jpg,1\n"))
    assert alone.of_user() == alone.ratings["ann"]
    unnamed = read_ratings(write(PLAIN))
    assert unnamed.of_user() == unnamed.of_user("anybody") == unnamed.ratings[None]


BAD_FILES = [
    # content, words of the message
    ("", ["empty", "image,rating"]),
    ("\n \n\r\n", ["empty"]),
    ("image,rating\n", ["no ratings"]),
    ("image,rating\n\n,,\n", ["no ratings"]),
    ("photo,stars\na.jpg,4\n", ["line 1", "no column named image", "'photo', 'stars'"]),
    ("\nimage,stars\na.jpg,4\n", ["line 2", "no column named rating", "'image', 'stars'"]),
    ("a.jpg,4\nb.jpg,5\n", ["line 1", "no column named image", "'a.jpg'", "first line must name"]),
    ("image|rating\na.jpg|4\n", ["line 1", "no column named image", "image|rating"]),
    ("image,image,rating\na.jpg,b.jpg,4\n", ["line 1", "more than one column is named image"]),
    ("image,rating,Rating\na.jpg,1,4\n", ["line 1", "more than one column is named rating"]),
    ("image,score,generic\na.jpg,4,3\n", ["line 1", "made by piaa", "generic", "rating"]),
    ("image,user,generic,personal,std\na.jpg,,4,3,1\n", ["made by piaa", "generic, personal, std"]),
    ("image;rating\na.jpg,4\nb.jpg,5\n", ["line 2", "1 value where", "2 columns separated by semicolon"]),
    ("image,rating\na.jpg;4\n", ["line 2", "separated by comma"]),
    ("image,rating\na.jpg,4,5\n", ["line 2", "3 values", "double quotes", "point"]),
    ("image,rating\na, b.jpg,4\n", ["line 2", "3 values", "double quotes"]),
    ("image;rating\na.jpg;4,5\n", ["line 2", "'4,5'", "4.5"]),
    ("image,rating\na.jpg,4\nb.jpg,good\n", ["line 3", "'good'", "not a number"]),
    ("image,rating\na.jpg,4 stars\n", ["line 2", "'4 stars'", "not a number"]),
    ("image,rating\na.jpg,1_0\n", ["line 2", "'1_0'", "not a number"]),
    ("image,rating\na.jpg,0x10\n", ["line 2", "not a number"]),
    ("image,rating\na.jpg,\n", ["line 2", "no rating", "leave the whole line out"]),
    ("image,rating\na.jpg,NaN\n", ["line 2", "NaN", "finite"]),
    ("image,rating\na.jpg,-inf\n", ["line 2", "finite"]),
    ("image,rating\na.jpg,Infinity\n", ["line 2", "finite"]),
    ("image,rating\na.jpg,1e999\n", ["line 2", "finite"]),
    ("image,rating\n ,4\n", ["line 2", "no image is named"]),
    ("user,image,rating\n,a.jpg,4\n", ["line 2", "no user is named"]),
    ("image,rating\na.jpg,4\nb.jpg,2\na.jpg,5\n", ["line 4", "a.jpg is rated 5 here but 4", "line 2"]),
    ("image,rating\na.jpg,4\n./a.jpg,5\n", ["line 3", "line 2"]),
    ("image,rating\na.jpg,4\nsub/../a.jpg,5\n", ["line 3", "line 2"]),
    ("user,image,rating\nx,a.jpg,4\ny,a.jpg,5\nx,a.jpg,3\n", ["line 4", "line 2"]),
    ("image,rating\na.jpg,4\nnone.jpg,2\n", ["line 3", "no such image", "none.jpg", "--photos"]),
    ("image,rating\nx.jpg,4\na.jpg,1\ny.jpg,2\n", ["line 2", "x.jpg", "2 of 3 images are missing"]),
    ("image,rating\nsub,4\n", ["line 2", "no such image", "a folder"]),
    ("image,rating\na.jpg/x.jpg,4\n", ["line 2", "no such image"]),
    (f"image,rating\n{'x' * 5000}.jpg,4\n", ["line 2", "no such image", "too long"]),
    ('image,rating\na.jpg,4\n"b.jpg,5\nc.jpg,3\n', ["line 3", "quotes"]),
    ('image,rating\n"a.jpg"x,4\n', ["line 2", "quotes"]),
    (f"image,rating\na.jpg,4\n{'x' * 200_000},5\n", ["line 3", "field larger than"]),
    (b"image,rating\na.jpg,4\ncaf\xe9.jpg,5\n", ["line 3", "0xE9", "UTF-8"]),
    (b"image,rating\r\na.jpg,4\r\n\r\ncaf\xe9.jpg,5\r\n", ["line 4", "0xE9"]),
    (b"\xef\xbb\xbfimage,rating\rcaf\xe9.jpg,5\r", ["line 2", "0xE9"]),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", ["line 1", "not UTF-8", "0xFF"]),
    (b"image,rating\na.jpg,4\nb\x00.jpg,2\n", ["line 3", "NUL"]),
    ("image,rating\na.jpg,4\n".encode("utf-16-le"), ["line 1", "NUL", "UTF-16"]),
    (b"\xff\xfei\x00m\x00a\x00\x00\xd8", ["damaged UTF-16", "save the file as UTF-8"]),
    ("image,rating\na.jpg,4\n".encode("utf-32"), ["NUL"]),
]


@pytest.mark.parametrize(("content", "words"), BAD_FILES)
def test_a_bad_file_is_one_clear_line(write: Write, content: str | bytes, words: list[str]) -> None:
    path = write(content)
    message = message_of(path)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < 6000
    for word in words:
        assert word in message


def test_a_message_never_carries_control_characters(write: Write) -> None:
    """A file name that clears the terminal or fakes a line of output is shown as escapes."""
    for content in (
        'image,rating\n"a\x1b[2J\n.jpg",4\n',
        "image,rating\na.jpg,\x1b[31m4\n",
        "\x07image,x\n1,2\n",
    ):
        assert message_of(write(content)).isprintable()
    assert message_of(write("", name="odd\nname.csv")).isprintable()


@pytest.mark.parametrize("name", ["folder", "missing.csv", "nul\0.csv", "x" * 300, "a.jpg/ratings.csv"])
def test_what_is_no_file_is_an_error(folder: Path, name: str) -> None:
    (folder / "folder").mkdir()
    with pytest.raises(RatingError, match="expected a CSV file"):
        read_ratings(folder / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    """Nobody ever writes to it: whoever opens it to read waits forever. Hence another process."""
    os.mkfifo(folder / "pipe.csv")
    code = "import sys; from piaa_sdk.ratings import read_ratings; read_ratings(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder / "pipe.csv")],
        capture_output=True,
        text=True,
        timeout=SECONDS_UNTIL_IT_HANGS,
        check=False,
    )
    assert run.returncode == 1
    assert "not a regular file" in run.stderr


def test_a_device_is_refused(folder: Path) -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no such device on this system")
    with pytest.raises(RatingError, match="not a regular file"):
        read_ratings("/dev/zero")


def test_a_huge_file_is_refused_without_reading_it_all(folder: Path) -> None:
    """A film given by mistake; the file is sparse and takes no space."""
    path = folder / "film.csv"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    assert "larger than 64 MB" in message_of(path)


def test_unreadable_file(write: Write) -> None:
    path = write(PLAIN)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "ermission denied" in message_of(path)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_accents_are_found_however_they_are_stored(
    write: Write, folder: Path, stored: Form, written: Form
) -> None:
    """The file system of macOS stores names decomposed; a CSV written elsewhere has them composed."""
    name = "Málaga où.jpg"
    (folder / unicodedata.normalize(stored, name)).touch()
    path = write(f"image,rating\n{unicodedata.normalize(written, name)},4\n")
    (rating,) = read_ratings(path).ratings[None]
    assert Path(str(rating.image)).exists()


def test_back_slashes_of_windows_are_understood(write: Write) -> None:
    assert given_to(read_ratings(write("image,rating\nsub\\d.jpg,4\n"))) == {"d.jpg": 4}


@pytest.mark.skipif(os.name == "nt", reason="a back-slash is a separator there")
def test_a_name_that_really_has_a_back_slash_or_a_space_wins(write: Write, folder: Path) -> None:
    (folder / "sub\\d.jpg").touch()
    (folder / " a.jpg").touch()
    ratings = read_ratings(write('image,rating\nsub\\d.jpg,4\n" a.jpg",1\na.jpg,2\n')).ratings[None]
    assert [rating.image for rating in ratings] == [
        str(folder / "sub\\d.jpg"),
        str(folder / " a.jpg"),
        str(folder / "a.jpg"),
    ]


@pytest.mark.parametrize(
    "name", ["with space.jpg", "émoji 🌅.jpg", 'quo"te.jpg', "comma, name.jpg", "#1;.jpg", "-r.jpg"]
)
def test_names_of_all_kinds(write: Write, folder: Path, name: str) -> None:
    (folder / name).touch()
    quoted = name.replace('"', '""')
    assert given_to(read_ratings(write(f'image,rating\n"{quoted}",4\n'))) == {name: 4}


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_is_the_photo_it_leads_to(write: Write, folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    assert given_to(read_ratings(write("image,rating\na.jpg,4\nlink.jpg,4\n"))) == {"a.jpg": 4}
    assert "line 3" in message_of(write("image,rating\na.jpg,4\nlink.jpg,5\n"))
    assert "no such image" in message_of(write("image,rating\nloop.jpg,4\n"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(b'"')
@example(b"image,rating\n")
@example(b"sep=")
@example("\ufeffimage\trating\na.jpg\t4".encode("utf-16"))
@given(
    content=st.one_of(
        st.binary(max_size=80), st.text('image,rating;\t\n\r"4.5a.jpg\0é', max_size=80).map(str.encode)
    )
)
def test_any_bytes_give_ratings_or_a_rating_error(write: Write, content: bytes) -> None:
    try:
        table = read_ratings(write(content))
    except RatingError as error:
        message = str(error)
    else:
        message = summarize(table.ratings[None])
    assert message.isprintable()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_through_exactly(write: Write, number: float) -> None:
    assert given_to(read_ratings(write(f"image,rating\na.jpg,{number!r}\n"))) == {"a.jpg": number}


class DataFrame:
    """The part of pandas and polars that is used: ``columns`` and ``frame[column]``."""

    def __init__(self, **columns: list[Any]) -> None:
        self.data = columns

    @property
    def columns(self) -> list[str]:
        return list(self.data)

    def __getitem__(self, column: str) -> list[Any]:
        return self.data[column]


def test_every_form_a_caller_may_have(write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    forms: list[Any] = [
        {"a.jpg": 4, "b.jpg": 2.5},
        UserDict({"a.jpg": 4, Path("b.jpg"): 2.5}),
        [("a.jpg", 4), ["b.jpg", 2.5]],
        zip(["a.jpg", "b.jpg"], [4, 2.5], strict=True),
        (pair for pair in [(folder / "a.jpg", np.int64(4)), ("b.jpg", np.float32(2.5))]),
        [("a.jpg", Decimal(4)), ("b.jpg", Fraction(5, 2))],
        [("a.jpg", "4"), ("b.jpg", " 2.5 ")],
        str(write(PLAIN)),
        write(PLAIN),
        DataFrame(image=["a.jpg", "b.jpg"], rating=[4, 2.5]),
        DataFrame(Path=[Path("a.jpg"), "b.jpg"], Score=[4, 2.5], more=[None, None]),
        read_ratings(write(PLAIN)),
    ]
    for form in forms:
        assert given_to(collect_ratings(form)) == {"a.jpg": 4, "b.jpg": 2.5}


def test_pictures_without_a_path_are_kept_as_they_are(folder: Path) -> None:
    """Two equal arrays are two pictures; the same object twice is one."""
    array, twin, data = np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), b"bytes of a file"
    table = collect_ratings([(array, 1), (twin, 2), (folder / "a.jpg", 3), (data, 4), (array, 1)])
    ratings = table.ratings[None]
    assert ratings[0].image is array
    assert ratings[1].image is twin
    assert ratings[3].image is data
    assert [rating.name for rating in ratings] == ["image 1", "image 2", str(folder / "a.jpg"), "image 4"]
    assert [rating.where for rating in ratings] == ["rating 1", "rating 2", "rating 3", "rating 4"]
    assert all(rating.line is None for rating in ratings)
    with pytest.raises(RatingError, match="rating 2: image 2 is rated 5 here but 1 in rating 1"):
        collect_ratings([(array, 1), (array, 5)])


def test_a_data_frame_with_a_user_column(folder: Path) -> None:
    frame = DataFrame(user=["ann", 7], image=["a.jpg", "a.jpg"], rating=[1, 5])
    table = collect_ratings(frame, photos=folder)
    assert given_to(table, "ann") == {"a.jpg": 1}
    assert given_to(table, "7") == {"a.jpg": 5}
    with pytest.raises(RatingError, match="user="):
        table.of_user()
    with pytest.raises(RatingError, match="rating 1: no user is named"):
        collect_ratings(DataFrame(user=[math.nan], image=["a.jpg"], rating=[1]), photos=folder)


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ({}, "no ratings"),
        ([], "no ratings"),
        (DataFrame(image=[], rating=[]), "no ratings"),
        (DataFrame(file=["a.jpg"], rating=[1]), "no column named image; found 'file', 'rating'"),
        (DataFrame(image=["a.jpg"], score=[1], std=[1]), "made by piaa"),
        (None, "NoneType"),
        (5, "int"),
        (b"image,rating\n", "bytes"),
        (["a.jpg"], r"rating 1: expected a \(picture, rating\) pair, not str"),
        (["ab"], "pair, not str"),
        ([("a.jpg", 1, 2)], "pair"),
        ({"a.jpg": None}, "rating 1: rating None .* is not a number"),
        ({"a.jpg": 1j}, "not a number"),
        ({"a.jpg": [4]}, "not a number"),
        ({"a.jpg": np.array([4.0])}, "not a number"),
        ({"a.jpg": math.nan}, "finite"),
        ({"a.jpg": Decimal("sNaN")}, "finite"),
        ({"a.jpg": 10**400}, "finite"),
        ({"a.jpg": "4,5"}, "4.5"),
        ({"a.jpg": 1, "none.jpg": 2}, "rating 2: no such image: .*none.jpg.*photos="),
        ({"": 1}, "no such image"),
        ({"a\0.jpg": 1}, "not a possible file name"),
        ({"a.jpg": 1, "./a.jpg": 2}, "rating 2: .* is rated 2 here but 1 in rating 1"),
    ],
)
def test_bad_ratings_from_python(folder: Path, ratings: Any, message: str) -> None:
    with pytest.raises(RatingError, match=message):
        collect_ratings(ratings, photos=folder)


def rated(*ratings: float) -> list[Rating]:
    return [
        Rating(f"{number}.jpg", rating, number + 1, f"ratings.csv, line {number + 1}", f"{number}.jpg")
        for number, rating in enumerate(ratings, start=1)
    ]


def test_a_stated_scale_wins() -> None:
    assert choose_scale(rated(1, 2), (0, 100)) == RatingScale(0, 100)
    assert choose_scale(rated(1, 2), RatingScale(1, 4)) == RatingScale(1, 4)
    assert choose_scale(rated(1, 6), None) == RatingScale(1, 7)
    with pytest.raises(RatingError, match="low below high"):
        choose_scale(rated(1), (5, 1))


def test_a_rating_outside_the_scale_is_named_by_its_line() -> None:
    with pytest.raises(RatingError, match=r"ratings\.csv, line 3: rating 6 is outside the scale 1 to 5"):
        choose_scale(rated(1, 6, 5), (1, 5))


def test_a_slip_that_fits_no_scale_is_named_by_its_line() -> None:
    with pytest.raises(RatingError, match=r"state it.*ratings.csv, line 4: 444"):
        choose_scale(rated(4, 3, 444, 2), None)
    with pytest.raises(RatingError, match=r"ratings.csv, line 2: -4"):
        choose_scale(rated(-4, 3, 4, 2), None)
    with pytest.raises(RatingError, match="one or more"):
        choose_scale([], None)


@pytest.mark.parametrize(
    ("ratings", "summary"),
    [
        ([], "0 photos"),
        ([4], "1 photo: 1x4"),
        ([5, 1, 1, 10, 5, 1], "6 photos: 3x1 2x5 1x10"),
        ([0.5, 0.1 + 0.2, 0.3], "3 photos: 2x0.3 1x0.5"),
        ([-1, 1], "2 photos: 1x-1 1x1"),
        (list(range(1, 11)), "10 photos: " + " ".join(f"1x{number}" for number in range(1, 11))),
        ([number / 10 for number in range(11)], "11 photos rated 0 to 1, median 0.5"),
        ([3.33333, *range(1, 11)], "11 photos rated 1 to 10, median 5"),
    ],
)
def test_the_summary_says_what_was_read(ratings: list[float], summary: str) -> None:
    assert summarize(rated(*ratings)) == summary
