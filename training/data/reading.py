"""What the readers of label files share: rows of CSV files, ratings, and the names of pictures."""

from __future__ import annotations

import csv
import math
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from piaa_sdk.errors import RatingError
from piaa_sdk.images import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from piaa_sdk.rating_scale import RatingScale


def read_rows(
    path: Path, columns: tuple[str, ...], *, may_be_empty: bool = False
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Read some columns of a CSV file; spaces around names of columns and around values are left out.

    Args:
        path: A CSV file, UTF-8, with a line of names.
        columns: The wanted ones.
        may_be_empty: Whether a value may be empty or missing.

    Yields:
        Number of the line, and the values of the wanted columns.

    Raises:
        RatingError: The file cannot be read, has no such column, or a value is empty that may not be.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if missing := [column for column in columns if column not in header]:
                raise RatingError(f"{path}: no column {missing[0]!r}; its first line must {_demand(columns)}")
            positions = [header.index(column) for column in columns]
            for row in reader:
                if not row:
                    continue
                values = tuple(row[place].strip() if place < len(row) else "" for place in positions)
                if not may_be_empty and "" in values:
                    raise RatingError(f"{path}, line {reader.line_num}: {columns[values.index('')]} is empty")
                yield reader.line_num, values
    except FileNotFoundError as error:
        raise RatingError(f"{path}: no such file; a folder of ratings holds {path.name}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RatingError(f"{path} cannot be read as UTF-8 CSV: {error}") from error


def _demand(columns: tuple[str, ...]) -> str:
    return f"be {','.join(columns)}" if len(columns) <= 6 else f"name the column {columns[0]} and the others"


def parse_rating(text: str, scale: RatingScale | None, place: str) -> float:
    """Read one rating.

    Args:
        text: As it stands in the file.
        scale: What it has to lie on; None accepts any finite number.
        place: File and line, for the message.

    Raises:
        RatingError: It is not a finite number on the scale.
    """
    try:
        rating = float(text)
    except ValueError as error:
        raise RatingError(f"{place}: score {text!r} is not a number") from error
    if not math.isfinite(rating):
        raise RatingError(f"{place}: score {text!r} is not finite")
    if scale is not None and rating not in scale:
        raise RatingError(f"{place}: score {rating:g} lies outside the scale {scale}")
    return rating


def image_name(name: str, place: str) -> str:
    """Return a picture's path inside its folder, with ``/``.

    Raises:
        RatingError: It leads out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise RatingError(f"{place}: image {name!r} must be a path inside the folder")
    return path.as_posix()


def shorten_user(user: str) -> str:
    """Return what may be shown of a person's id: enough to find it in the file, not all of it."""
    return user if len(user) <= 4 else f"{user[:4]}..."


def find_label_file(folder: Path, names: Sequence[str]) -> Path:
    """Find the one file of a release that holds the ratings.

    Args:
        folder: Of the data set.
        names: Under which the file goes about; the first one found is taken.

    Raises:
        RatingError: It is not there.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise RatingError(
        f"{printable(str(folder))}: no file {' or '.join(names)}; name the folder that holds the ratings and "
        "the pictures as they were released"
    )


def find_picture_folders(folder: Path, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """List the files in the folders of a release that hold its pictures.

    Args:
        folder: Of the data set.
        names: Of folders in it that may hold pictures, the preferred ones first.

    Returns:
        Names of files, by the name of each folder that is there, in the order of ``names``.

    Raises:
        RatingError: None of them is there, or one cannot be read.
    """
    found = {}
    try:
        for name in names:
            if (folder / name).is_dir():
                found[name] = frozenset(path.name for path in (folder / name).iterdir())
    except OSError as error:
        raise RatingError(f"{printable(str(folder))} cannot be read: {error.strerror or error}") from error
    if not found:
        raise RatingError(
            f"{printable(str(folder))}: no folder {' or '.join(names)}; put the released pictures there"
        )
    return found
