"""What people gave their photos: read from a CSV file or taken from Python, checked, told apart by person.

Whatever the ratings come as, the way is the same: rows, each with its place; the photo of each found; what
is said twice checked. So a bad row is named by its line in the file, or by its position in a list.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import stat
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np

from piaa_sdk.errors import RatingError
from piaa_sdk.files import read_regular_file
from piaa_sdk.images import display_name, identity_of, is_remote, printable
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.terminal import count_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from piaa_sdk.array_types import ImageInput, PathInput

_MAX_BYTES = 64 << 20
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_IMAGE_COLUMNS = ("image", "path")
_RATING_COLUMNS = ("rating", "score")
_OUTPUT_COLUMNS = ("generic", "personal", "std")
_KNOWN_COLUMNS = frozenset({*_IMAGE_COLUMNS, *_RATING_COLUMNS, "user"})
_EXAMPLE = "the first line must name the columns, for example: image,rating"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?(?=\r|\n|$)', re.IGNORECASE)
_LINE_BREAK = re.compile(r"\r\n?|\n")
_MAX_LISTED = 10
_MAX_COUNTED = 10


class Table(Protocol):
    """A pandas or polars data frame, or anything that gives its columns by name."""

    @property
    def columns(self) -> Iterable[Any]: ...  # noqa: D102

    def __getitem__(self, column: Any, /) -> Iterable[Any]: ...


@dataclass(frozen=True, slots=True)
class Rating:
    """What one person gave one picture.

    Attributes:
        image: The picture: for a file, its absolute path as it was found; else what was given, such as an
            address.
        rating: In the person's units.
        line: Line of the CSV file, from 1; None if the ratings do not come from a file.
        where: What to call the row in a message: ``ratings.csv, line 12`` or ``rating 3``.
        name: What to call the picture: its path, its address without what gives access to it, or
            ``image 3`` for one that has neither.
    """

    image: ImageInput
    rating: float
    line: int | None
    where: str
    name: str


@dataclass(frozen=True, slots=True)
class RatingTable:
    """Ratings by person; each picture once per person, in the order given.

    Attributes:
        ratings: By the name of the person; the one key None where no column names persons.
    """

    ratings: Mapping[str | None, tuple[Rating, ...]]

    def of_user(self, user: str | None = None) -> tuple[Rating, ...]:
        """Return one person's ratings.

        Args:
            user: Whose. None is enough where the ratings are of one person only.

        Raises:
            RatingError: The ratings are of several persons and ``user`` is None, or of others only.
        """
        if None in self.ratings:
            return self.ratings[None]
        if user is None:
            if len(self.ratings) == 1:
                return next(iter(self.ratings.values()))
            raise RatingError(
                f"the ratings are of {len(self.ratings)} persons ({_listed(map(str, self.ratings))}); "
                "say whose to take with user=..., or give the rows of one person"
            )
        name = _clean_user(user)
        if name not in self.ratings:
            raise RatingError(
                f"no ratings of {printable(name)!r}; the user column names {_listed(map(str, self.ratings))}"
            )
        return self.ratings[name]


RatingsInput: TypeAlias = "PathInput | RatingTable | Table | Mapping[Any, Any] | Iterable[Any]"
"""Ratings as a caller may give them: a CSV file, a data frame, a mapping picture -> rating or pairs."""


def read_ratings(path: PathInput, *, photos: PathInput | None = None) -> RatingTable:
    """Read ratings from a CSV file.

    The first line names the columns: ``image`` (or ``path``), ``rating`` (or ``score``) and, for several
    persons, ``user``; others are ignored. Separated by comma, semicolon or tab, whatever the first line
    shows; UTF-8, or UTF-16 with its byte order mark. Blank lines are skipped, and a rating that is repeated
    unchanged counts once.

    Args:
        path: The CSV file.
        photos: Folder that the names of the images are relative to; by default the folder of the file.

    Raises:
        RatingError: The file cannot be read, or a row cannot be understood, names no image or contradicts
            another row; file and line are named.
    """
    source = printable(os.fspath(path))
    rows = list(_read_rows(_read_text(path, source), source))
    if not rows:
        raise RatingError(f"{source}: no ratings, nothing but the first line with the names of the columns")
    if photos is not None:
        return _make_table(rows, _photo_folder(photos), "the folder given for the photos (--photos)")
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 (resolve() would follow links)
    return _make_table(rows, folder, "the folder of the CSV file; name another one with --photos")


def collect_ratings(ratings: RatingsInput, *, photos: PathInput | None = None) -> RatingTable:
    """Take ratings in any form a Python caller has them in.

    Args:
        ratings: Path of a CSV file; a mapping from picture to rating; (picture, rating) pairs; or a data
            frame with the columns ``image`` (or ``path``), ``rating`` (or ``score``) and perhaps ``user``.
            A picture is anything that can be scored: a path, the bytes of a file, a Pillow image, an array.
        photos: Folder that paths are relative to; by default the folder of the CSV file, else the current
            one.

    Raises:
        RatingError: The ratings cannot be understood, name no image or contradict each other.
    """
    if isinstance(ratings, RatingTable):
        return ratings
    if isinstance(ratings, (str, os.PathLike)):
        return read_ratings(ratings, photos=photos)
    if isinstance(ratings, Mapping):
        pairs: Iterable[Any] = ratings.items()
        rows = list(_pair_rows(pairs))
    elif hasattr(ratings, "columns") and hasattr(ratings, "__getitem__"):
        rows = list(_frame_rows(cast("Table", ratings)))
    elif isinstance(ratings, Iterable) and not isinstance(ratings, (bytes, bytearray, memoryview)):
        rows = list(_pair_rows(ratings))
    else:
        raise RatingError(
            f"ratings cannot be taken from {type(ratings).__name__}; give the path of a CSV file, a mapping, "
            "(picture, rating) pairs or a data frame"
        )
    if not rows:
        raise RatingError("no ratings were given")
    if photos is not None:
        return _make_table(rows, _photo_folder(photos), "the folder given as photos=")
    return _make_table(rows, Path.cwd(), "the current folder; name another one with photos=")


def choose_scale(ratings: Sequence[Rating], stated: tuple[float, float] | RatingScale | None) -> RatingScale:
    """Return the units of a person's ratings.

    Args:
        ratings: One or more, of one person.
        stated: The scale the person rates on, or its two ends; None finds the shortest common one.

    Raises:
        RatingError: A rating is outside the stated scale, or no common scale holds all; its place is named.
    """
    if stated is None:
        try:
            return RatingScale.guess([rating.rating for rating in ratings])
        except RatingError as error:
            if not ratings:
                raise
            # The rating farthest from the others is the one that may be a slip.
            middle = statistics.median(rating.rating for rating in ratings)
            odd = max(ratings, key=lambda rating: abs(rating.rating - middle))
            raise RatingError(f"{error} (look at {odd.where}: {odd.rating:.12g})") from error
    scale = stated if isinstance(stated, RatingScale) else RatingScale(*stated)
    for rating in ratings:
        if rating.rating not in scale:
            raise RatingError(
                f"{rating.where}: rating {rating.rating:.12g} is outside the scale {scale}; "
                "correct it or state another scale"
            )
    return scale


def summarize(ratings: Sequence[Rating]) -> str:
    """Say in one line what was read, for example ``57 photos: 4x1 9x2 20x3 18x4 6x5``.

    Where more than ten different ratings were given, the range and the median are said instead.
    """
    values = [rating.rating for rating in ratings]
    photos = count_of(len(values), "photo")
    counts = Counter(f"{value:.12g}" for value in values)
    if not values:
        return photos
    if len(counts) > _MAX_COUNTED:
        lowest, middle, highest = (f"{f(values):.4g}" for f in (min, statistics.median, max))
        return f"{photos} rated {lowest} to {highest}, median {middle}"
    return f"{photos}: {' '.join(f'{counts[value]}x{value}' for value in sorted(counts, key=float))}"


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    line: int | None
    position: int
    user: str | None
    image: Any
    rating: float


@dataclass(frozen=True, slots=True)
class _Columns:
    image: int
    rating: int
    user: int | None
    width: int

    @classmethod
    def find(cls, header: Sequence[str], where: str) -> _Columns:
        """Find the columns by their names, whatever their case.

        Args:
            header: Names as given.
            where: The place of the header, for the message.
        """
        names = [name.strip().casefold() for name in header]
        image = next((name for name in _IMAGE_COLUMNS if name in names), None)
        rating = next((name for name in _RATING_COLUMNS if name in names), None)
        own = [name for name in _OUTPUT_COLUMNS if name in names]
        found = _listed(repr(printable(name.strip())[:40]) for name in header)
        if rating != "rating" and own:
            raise RatingError(
                f"{where}: these are scores made by piaa (columns {', '.join(own)}), not a person's ratings; "
                "give the ratings in a column named rating"
            )
        if image is None or rating is None:
            missing = "image" if image is None else "rating"
            raise RatingError(f"{where}: no column named {missing}; found {found}; {_EXAMPLE}")
        for name in (image, rating, "user"):
            if names.count(name) > 1:
                raise RatingError(f"{where}: more than one column is named {name}; found {found}")
        user = names.index("user") if "user" in names else None
        return cls(names.index(image), names.index(rating), user, len(names))


def _read_text(path: PathInput, source: str) -> str:
    try:
        data = read_regular_file(path, _MAX_BYTES)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RatingError(f"{source}: {reason}; expected a CSV file with the columns image,rating") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        if wide:
            raise RatingError(f"{source}: damaged UTF-16 text; save the file as UTF-8") from error
        line = _line_number(data[: error.start].decode())
        raise RatingError(
            f"{source}, line {line}: not UTF-8 text (byte 0x{data[error.start]:02X}); save the file as UTF-8 "
            "(in Excel: the file type CSV UTF-8)"
        ) from error
    if "\0" in text:
        line = _line_number(text[: text.index("\0")])
        raise RatingError(
            f"{source}, line {line}: a NUL character, so this is no text file, or UTF-16 without its mark; "
            "save the file as UTF-8"
        )
    return text


def _line_number(before: str) -> int:
    return len(_LINE_BREAK.findall(before)) + 1


def _read_rows(text: str, source: str) -> Iterator[_Row]:
    if stated := _SEPARATOR_LINE.match(text):  # Excel's own hint, a line before the header
        text = text[stated.end() :]
    delimiter = max(_DELIMITERS, key=lambda delimiter: _known_columns(text, delimiter))
    records = _split(text, delimiter, source)
    line, header = next(records, (1, []))
    if not header:
        raise RatingError(f"{source}: the file is empty; {_EXAMPLE}")
    columns = _Columns.find(header, f"{source}, line {line}")
    for position, (line, fields) in enumerate(records, start=1):
        where = f"{source}, line {line}"
        _check_width(fields, columns, delimiter, where)
        image = fields[columns.image]
        if not image.strip():
            raise RatingError(f"{where}: no image is named")
        user = None if columns.user is None else _parse_user(fields[columns.user], where)
        yield _Row(where, line, position, user, image, _parse_rating(fields[columns.rating], where))


def _split(text: str, delimiter: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of each record that is not blank; strict, or one open quote eats the rest."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RatingError(
                f"{source}, line {line}: cannot be split into columns ({error}); check the quotes"
            ) from error
        if any(field.strip() for field in fields):
            yield line, fields


def _known_columns(text: str, delimiter: str) -> int:
    """Count the column names that the first line shows if it is split at ``delimiter``."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next((fields for fields in reader if any(field.strip() for field in fields)), [])
    except csv.Error:
        return 0
    return len({name.strip().casefold() for name in header} & _KNOWN_COLUMNS)


def _check_width(fields: Sequence[str], columns: _Columns, delimiter: str, where: str) -> None:
    surplus = any(field.strip() for field in fields[columns.width :])
    needed = max(columns.image, columns.rating, columns.user or 0)
    if surplus or len(fields) <= needed:
        raise RatingError(
            f"{where}: {len(fields)} {'value' if len(fields) == 1 else 'values'} where the first line names "
            f"{columns.width} columns separated by {_DELIMITERS[delimiter]}; put names that hold a "
            f"{_DELIMITERS[delimiter]} in double quotes and write decimals with a point"
        )


def _pair_rows(pairs: Iterable[Any]) -> Iterator[_Row]:
    for position, pair in enumerate(pairs, start=1):
        where = f"rating {position}"
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise RatingError(f"{where}: expected a (picture, rating) pair, not {type(pair).__name__}")
        yield _Row(where, None, position, None, pair[0], _parse_rating(pair[1], where))


def _frame_rows(frame: Table) -> Iterator[_Row]:
    names = list(frame.columns)
    columns = _Columns.find([str(name) for name in names], "the data frame")
    images, ratings = list(frame[names[columns.image]]), list(frame[names[columns.rating]])
    users = [None] * len(images) if columns.user is None else list(frame[names[columns.user]])
    for position, (image, rating, user) in enumerate(zip(images, ratings, users, strict=True), start=1):
        where = f"rating {position}"
        known = None if columns.user is None else _parse_user(user, where)
        yield _Row(where, None, position, known, image, _parse_rating(rating, where))


def _parse_rating(value: object, where: str) -> float:
    shown = printable(str(value))[:40]
    if isinstance(value, str):
        text = value.strip()
        if not text:
            raise RatingError(f"{where}: no rating; write a number or leave the whole line out")
        if _DECIMAL_COMMA.fullmatch(text):
            raise RatingError(f"{where}: rating {shown!r}: write the decimals with a point, as in 4.5")
        if not (_NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text)):
            raise RatingError(f"{where}: rating {shown!r} is not a number")
        number = float(text)
    elif isinstance(value, (Real, Decimal, np.bool_)):
        try:
            number = float(value)
        except (ValueError, OverflowError) as error:
            raise RatingError(f"{where}: rating {shown} is not a finite number") from error
    else:
        raise RatingError(f"{where}: rating {shown} ({type(value).__name__}) is not a number")
    if not np.isfinite(number):
        raise RatingError(f"{where}: rating {shown} is not a finite number")
    return number


def _parse_user(value: object, where: str) -> str:
    user = _clean_user(str(value)) if isinstance(value, (str, Integral)) else ""
    if not user:
        raise RatingError(f"{where}: no user is named, although there is a user column")
    return user


def _clean_user(user: str) -> str:
    return unicodedata.normalize("NFC", user.strip())


def _photo_folder(photos: PathInput) -> Path:
    folder = Path(os.path.abspath(photos))  # noqa: PTH100 (resolve() would follow links)
    if not folder.is_dir():
        raise RatingError(f"{printable(os.fspath(photos))}: no such folder; name the folder of the photos")
    return folder


def _make_table(rows: Sequence[_Row], folder: Path, relative_to: str) -> RatingTable:
    """Find the image of every row and keep each once per person.

    Args:
        rows: One or more.
        folder: Absolute; where relative paths start.
        relative_to: What to call the folder in a message.
    """
    table: dict[str | None, dict[Hashable, Rating]] = {}
    missing: list[str] = []
    for row in rows:
        try:
            image, identity = _find_image(row.image, folder)
        except _MissingImageError as error:
            missing.append(f"{row.where}: no such image: {error}")
            continue
        name = display_name(image, row.position - 1) if isinstance(image, str) else f"image {row.position}"
        rating = Rating(image, row.rating, row.line, row.where, name)
        known = table.setdefault(row.user, {}).setdefault(identity, rating)
        if known.rating != rating.rating:
            raise RatingError(
                f"{rating.where}: {printable(name)} is rated {rating.rating:.12g} here but "
                f"{known.rating:.12g} in {known.where}; keep one of the two"
            )
    if missing:
        others = f" ({len(missing)} of {len(rows)} images are missing)" if len(missing) > 1 else ""
        raise RatingError(f"{missing[0]}{others}; paths are relative to {relative_to}")
    return RatingTable(MappingProxyType({user: tuple(photos.values()) for user, photos in table.items()}))


class _MissingImageError(Exception):
    """The message names the path tried and the reason."""


def _find_image(image: Any, folder: Path) -> tuple[ImageInput, Hashable]:
    """Return a picture, a path made absolute, and what makes it the same picture as another one."""
    if not isinstance(image, (str, os.PathLike)):
        return image, ("given", id(image))
    if is_remote(image):  # whether it is there shows when it is read
        return os.fspath(image), ("address", identity_of(os.fspath(image)))
    name = os.fsdecode(image)
    if not name.strip():
        raise _MissingImageError("the name is empty")
    reason = "no such file"
    for spelling in _spellings(name):
        path = folder / spelling
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error.strerror or str(error)
        except ValueError:
            reason = "not a possible file name"
        else:
            if stat.S_ISDIR(status.st_mode):
                reason = "a folder"
                continue
            # The same file under another name, or its name in another case, is the same photo.
            return str(path), (status.st_dev, status.st_ino) if status.st_ino else os.path.normcase(path)
    raise _MissingImageError(f"tried {printable(str(folder / name))} ({reason})")


def _spellings(name: str) -> Iterator[str]:
    """Yield a name as given, then as other systems spell it: stripped, with slashes, in NFC and NFD.

    macOS stores accents decomposed, Windows writes back-slashes; both are tried last, so that a file that
    really has such a name is found first.
    """
    seen = set()
    for text in (name, name.strip()):
        for path in (text, text.replace("\\", "/")):
            for spelling in (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path)):
                if spelling not in seen:
                    seen.add(spelling)
                    yield spelling


def _listed(names: Iterable[str]) -> str:
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - _MAX_LISTED} more" if len(shown) > _MAX_LISTED else ""
    return ", ".join(shown[:_MAX_LISTED]) + more
