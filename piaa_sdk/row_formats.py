"""Rows of a report and how they are written: table, CSV, JSON Lines, Parquet.

A path is written as it is. Only a path that is not valid Unicode, or that begins with ``file:`` itself, is
written as ``file:`` and its bytes percent-encoded; `path_from_field` turns both back.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import quote, unquote_to_bytes

from piaa_sdk import __version__
from piaa_sdk.errors import MissingDependencyError
from piaa_sdk.images import printable
from piaa_sdk.terminal import display_width, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piaa_sdk.results import Score

FIELDS = (
    "path",
    "user",
    "generic",
    "personal",
    "std",
    "stars",
    "percentile",
    "bundle_id",
    "bundle_revision",
    "sdk_version",
    "error",
)
"""Columns of a row, in every format but the table."""

_ROW_GROUP = 10_000
_ROWS_AT_ONCE = 500
_CSV_LINE_END = "\r\n"
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_PATH_MARK = "file:"
_LEAST_PHOTO_COLUMNS = 20

Row = dict[str, Any]
"""One photo and one person: `FIELDS`, and ``rank`` where the whole run is known."""


class Rows(Protocol):
    """Rows that can be gone through more than once."""

    def __iter__(self) -> Iterator[Row]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TableStyle:
    """How a table is laid out.

    Attributes:
        decimals: Digits after the point of a score.
        columns: Width of the terminal; None where nothing has to fit.
        is_ascii: Whether stars and dashes are to be avoided.
    """

    decimals: int = 2
    columns: int | None = None
    is_ascii: bool = False


def path_field(path: str) -> str:
    """Write a path so that any reader of UTF-8 can take it and `path_from_field` gives it back."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _PATH_MARK + quote(os.fsencode(path))
    return _PATH_MARK + quote(os.fsencode(path)) if path.startswith(_PATH_MARK) else path


def path_from_field(field: str) -> str:
    """Return the path that `path_field` wrote."""
    if not field.startswith(_PATH_MARK):
        return field
    return os.fsdecode(unquote_to_bytes(field.removeprefix(_PATH_MARK)))


def to_row(score: Score, bundle_id: str, bundle_revision: str) -> Row:
    """Make a row of one score; its texts hold nothing that UTF-8 cannot say.

    A figure that is not finite is none: JSON has no way to write it, and it orders nothing.

    Args:
        score: What was scored, or why it could not be.
        bundle_id: Name of the bundle that scored it.
        bundle_revision: Its revision.
    """
    return {
        "path": path_field(score.image),
        "user": None if score.user is None else clean(score.user),
        "generic": _finite(score.generic),
        "personal": _finite(score.personal),
        "std": _finite(score.std),
        "stars": score.stars,
        "percentile": _finite(score.percentile),
        "bundle_id": bundle_id,
        "bundle_revision": bundle_revision,
        "sdk_version": __version__,
        "error": None if score.error is None else clean(score.error.reason),
    }


def jsonl_line(record: Row) -> bytes:
    """Encode one record as one line of JSON.

    Raises:
        ValueError: A number is not finite.
    """
    return _JSON.encode(record).encode() + b"\n"


def row_of(line: bytes) -> Row:
    """Decode what :func:`jsonl_line` has written.

    Raises:
        ValueError: It is something else.
    """
    row: Row = json.loads(str(line, "utf-8"))
    return row


def csv_line(values: list[Any]) -> bytes:
    """Encode one line of CSV (RFC 4180): numbers as precise as they are, nothing for None."""
    line = io.StringIO()
    csv.writer(line, lineterminator=_CSV_LINE_END).writerow(values)
    return line.getvalue().encode()


def write_csv(rows: Rows, file: BinaryIO) -> None:
    """Write rows as CSV with a header, UTF-8."""
    file.write(csv_line(list(FIELDS)))
    remaining = iter(rows)
    values = itemgetter(*FIELDS)
    while batch := list(islice(remaining, _ROWS_AT_ONCE)):
        text = io.StringIO()
        csv.writer(text, lineterminator=_CSV_LINE_END).writerows(map(values, batch))
        file.write(text.getvalue().encode())


def write_jsonl(rows: Rows, file: BinaryIO) -> None:
    """Write rows as JSON Lines, UTF-8."""
    for row in rows:
        file.write(jsonl_line({name: row[name] for name in FIELDS}))


def write_parquet(rows: Rows, file: BinaryIO) -> None:
    """Write rows as Parquet with a typed schema, some thousands at a time.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    require_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema()
    remaining = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(islice(remaining, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def parquet_schema() -> Any:
    """Return the columns of a Parquet file of rows, a pyarrow schema; pyarrow must be installed."""
    import pyarrow as pa

    numbers = dict.fromkeys(("generic", "personal", "std", "percentile"), pa.float64())
    types = {**numbers, "stars": pa.int8()}
    return pa.schema([pa.field(name, types.get(name, pa.string()), name != "path") for name in FIELDS])


def require_parquet() -> None:
    """Check that Parquet can be written.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("Parquet output", "parquet") from error


def table_lines(rows: Rows, style: TableStyle) -> Iterator[str]:
    """Lay rows out for reading, best or first one first, under a header.

    Args:
        rows: Scored pictures, with ``rank``.
        style: How to lay them out.
    """
    has_users = len({row["user"] for row in rows}) > 1
    header = ["rank", *(["person"] if has_users else []), "score", "stars", "percentile"]
    widths = [display_width(cell) for cell in header]
    for row in rows:
        cells = _cells(row, has_users, style)
        widths = [max(width, display_width(cell)) for width, cell in zip(widths, cells, strict=True)]
    yield _table_line(header, widths, "photo", style)
    for row in rows:
        photo = printable(path_from_field(row["path"]))
        yield _table_line(_cells(row, has_users, style), widths, photo, style)


def _cells(row: Row, has_users: bool, style: TableStyle) -> list[str]:
    score = row["generic"] if row["personal"] is None else row["personal"]
    text = f"{score:.{style.decimals}f}"
    if row["std"] is not None:
        text += f" {'+/-' if style.is_ascii else '±'} {row['std']:.{style.decimals}f}"
    full, empty = ("*", "-") if style.is_ascii else ("★", "☆")
    stars = full * row["stars"] + empty * (5 - row["stars"])
    user = [printable(row["user"] or "")] if has_users else []
    return [str(row["rank"]), *user, text, stars, f"{row['percentile']:.0f}"]


def _table_line(cells: list[str], widths: list[int], photo: str, style: TableStyle) -> str:
    padded = [" " * (width - display_width(cell)) + cell for cell, width in zip(cells, widths, strict=True)]
    start = "  ".join(padded) + "  "
    if style.columns is None:
        return start + photo
    ellipsis = "..." if style.is_ascii else "…"
    return start + shorten(photo, max(_LEAST_PHOTO_COLUMNS, style.columns - display_width(start)), ellipsis)


def _finite(figure: float | None) -> float | None:
    return figure if figure is not None and math.isfinite(figure) else None


def clean(text: str) -> str:
    """Escape what UTF-8 has no bytes for."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
