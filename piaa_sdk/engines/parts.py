"""A job in parts: how its photos are split, what one part holds, and the folder its results go to.

The split depends on the input and on nothing else, so that a run that goes on finds the parts of the run
before it. Every photo is in exactly one part: parts are consecutive slices of one list. A list in a Parquet
file is split by its rows and read where a part is scored; photos and folders are listed where the job is
started.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piaa_sdk.engines.batch_scorer import picture_of
from piaa_sdk.errors import EngineError, ImageError, MissingDependencyError
from piaa_sdk.images import find_images, is_remote, printable, shown_url
from piaa_sdk.row_formats import path_field, path_from_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from piaa_sdk.array_types import ImageInput
    from piaa_sdk.images import RemotePicture

PHOTO_LIST_SUFFIX = ".parquet"
"""How the names of files that list photos end."""

PART_PREFIX = "part-"
"""How the names of files with results begin."""

_NAMES = ("path", "uri", "id")
_BYTES = "bytes"
_ROWS_AT_ONCE = 64
_DIGEST_CHARACTERS = 16
_FOOTER_END = 8  # bytes: the length of the footer and the magic number


@dataclass(frozen=True, slots=True)
class Part:
    """Photos that are scored together and become one file.

    Attributes:
        index: Its place, from 0.
        count: Photos in it.
        base: Folder that relative paths begin at; empty if there are none.
        photos: For each its path, as rows show it, and why it cannot be read, if that is known already.
        file: Instead of ``photos``: a Parquet file that lists them.
        footer: Digest of that file's footer, hex.
        columns: The columns to read: what rows show, then the bytes if there are any.
        groups: Row groups to read, the first and the one after the last.
        skipped: Rows to leave out at their beginning.
    """

    index: int
    count: int
    base: str
    photos: tuple[tuple[str, str | None], ...] = ()
    file: str = ""
    footer: str = ""
    columns: tuple[str, ...] = ()
    groups: tuple[int, int] = (0, 0)
    skipped: int = 0

    def to_json(self) -> str:
        """Return it as one line of text, to be sent to a worker."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Part:
        """Return the part that `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        data["photos"] = tuple((name, reason) for name, reason in data["photos"])
        data["columns"], data["groups"] = tuple(data["columns"]), tuple(data["groups"])
        return cls(**data)

    @property
    def digest(self) -> str:
        """What tells the part from all others, hex; of addresses what is shown, as signatures change."""
        shown = tuple((shown_url(name), reason) for name, reason in self.photos)
        return hashlib.sha256(replace(self, photos=shown).to_json().encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """Name of the file with its results."""
        return f"{PART_PREFIX}{self.index:06d}-{self.digest[:_DIGEST_CHARACTERS]}.parquet"

    def pictures(self) -> Iterator[tuple[str | None, ImageInput | ImageError]]:
        """Yield for each photo the path that its row gets, and the picture.

        Raises:
            EngineError: The file that lists them cannot be read here, or is another one.
        """
        if not self.file:
            for name, reason in self.photos:
                if reason is None:
                    yield picture_of(name, None, self.base)
                else:
                    yield name, ImageError(printable(name), reason)
            return
        yield from islice(self._listed(), self.skipped, self.skipped + self.count)

    def _listed(self) -> Iterator[tuple[str | None, ImageInput | ImageError]]:
        import pyarrow.parquet as pq

        with _reading_list(self.file):
            if _footer_digest(self.file) != self.footer:
                raise EngineError(
                    f"{printable(self.file)}: is another file than where the job was started; every machine "
                    "must see the same list"
                )
            with pq.ParquetFile(self.file) as file:
                batches = file.iter_batches(_ROWS_AT_ONCE, range(*self.groups), list(self.columns))
                for batch in batches:
                    names = batch.column(self.columns[0]).to_pylist()
                    data = batch.column(_BYTES).to_pylist() if _BYTES in self.columns else [None] * len(names)
                    for name, content in zip(names, data, strict=True):
                        yield picture_of(None if name is None else str(name), content, self.base)


def split(photos: Sequence[str], part_size: int, *, recursive: bool = True) -> Iterator[Part]:
    """Split what a job is to score into parts.

    Args:
        photos: Photos, folders and Parquet files that list photos. Relative paths begin at the current
            folder; those inside a list at the folder of the list.
        part_size: Photos in a part; the last one of each list has fewer.
        recursive: Whether to look into the folders inside folders.

    Raises:
        EngineError: A list cannot be read, or has no column for paths.
        MissingDependencyError: There is a list, and pyarrow is not installed.
        ValueError: ``part_size`` is below 1.
    """
    if part_size < 1:
        raise ValueError(f"part_size is {part_size}, must be at least 1")
    index = 0
    lists = [place for place in photos if place.lower().endswith(PHOTO_LIST_SUFFIX)]
    others = [place for place in photos if place not in lists]
    found = find_images(others, recursive=recursive)
    while chunk := tuple(_entry(item) for item in islice(found, part_size)):
        is_relative = any(_is_relative(path_from_field(name)) for name, _ in chunk)
        yield Part(index, len(chunk), base=os.fspath(Path.cwd()) if is_relative else "", photos=chunk)
        index += 1
    for place in lists:
        for part in _split_list(place, part_size, index):
            yield part
            index += 1


def _is_relative(place: str) -> bool:
    return not (is_remote(place) or Path(place).is_absolute())


def _entry(found: Path | RemotePicture | ImageError) -> tuple[str, str | None]:
    if isinstance(found, ImageError):
        return path_field(found.source), found.reason
    return path_field(os.fspath(found)), None


def _split_list(place: str, part_size: int, first_index: int) -> Iterator[Part]:
    """Split the rows of a Parquet file; a part never reaches beyond the row groups it begins and ends in."""
    _require_pyarrow()
    import pyarrow.parquet as pq

    path = Path(place).absolute()
    with _reading_list(place):
        footer = _footer_digest(path)
        with pq.ParquetFile(path) as file:
            columns = _columns(place, file.schema_arrow.names)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    for number, begin in enumerate(range(0, starts[-1], part_size)):
        end = min(begin + part_size, starts[-1])
        first = bisect_right(starts, begin) - 1  # the last group to begin there is not empty
        after = bisect_left(starts, end)
        yield Part(
            first_index + number,
            end - begin,
            base=os.fspath(path.parent),
            file=os.fspath(path),
            footer=footer,
            columns=columns,
            groups=(first, after),
            skipped=begin - starts[first],
        )


def _columns(place: str, names: Iterable[str]) -> tuple[str, ...]:
    """Choose the columns to read: what a row is called, and the bytes."""
    known = set(names)
    name = next((candidate for candidate in _NAMES if candidate in known), None)
    has_bytes = _BYTES in known
    if name is None or (name == "id" and not has_bytes):
        raise EngineError(
            f"{_shown(place)}: has the columns {', '.join(sorted(known))!r:.300}; a list of photos needs "
            "path (or uri), or bytes and a path or id to call them by"
        )
    return (name, _BYTES) if has_bytes else (name,)


def _shown(place: str) -> str:
    return printable(shown_url(place))


def _footer_digest(path: str | Path) -> str:
    """Digest the footer of a Parquet file, which says where all else is, and the size of the file."""
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FOOTER_END))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - _FOOTER_END - length))
        return hashlib.sha256(f"{size} ".encode() + file.read()).hexdigest()


@contextmanager
def _reading_list(place: str) -> Iterator[None]:
    """Turn what the system or pyarrow says of a list into an EngineError."""
    import pyarrow as pa

    try:
        yield
    except EngineError:
        raise
    except FileNotFoundError as error:
        raise EngineError(f"{_shown(place)}: no such file; name a list of photos that is there") from error
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition("\n")[
            0
        ]  # less the name of the file
        raise EngineError(f"{_shown(place)}: cannot be read as a list of photos: {reason:.300}") from error


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("a list of photos in Parquet", "parquet") from error
