"""Rows kept on disk while a run goes on, and the ranks and percentiles that are known when it is over.

The file is JSON Lines: a header, then one line per row, each written at once, so that whatever stops a run
leaves whole rows, and another run can go on with them. In memory there are three numbers per row.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from piaa_sdk import __version__
from piaa_sdk.choices import Order
from piaa_sdk.errors import ImageError, OutputError
from piaa_sdk.images import display_name, hides_part, printable
from piaa_sdk.kept_rows import FoundRows, KeptRows, RowDigests
from piaa_sdk.partial_file import close_and_remove, open_alone, set_aside, writing_to
from piaa_sdk.row_formats import Row, clean, jsonl_line, path_field, row_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from piaa_sdk.array_types import ImageInput
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.rating_scale import RatingScale
    from piaa_sdk.row_formats import Rows

PARTIAL_FORMAT_VERSION = 2
"""Layout of ``FILE.partial``."""

GOING_ON = "and once there is room, the same command with --resume goes on"
"""What to do after a row could not be written."""

_MAX_HEADER_BYTES = 16 << 20
_BUFFER_BYTES = 1 << 16
_HEADER_START = b'{"format_version":'
_MODEL = ("bundle_id", "bundle_revision", "embedding_id")


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """Whose scores the rows of a run hold.

    Attributes:
        user: Name of the person, None for the generic score alone.
        scale: Units of the scores.
        scorer_id: Digest of all that decides the scores, hex.
    """

    user: str | None
    scale: RatingScale
    scorer_id: str

    def to_json(self) -> Row:
        """Return this part of the header of ``FILE.partial``."""
        scale = [self.scale.low, self.scale.high]
        return {"user": self.user, "rating_scale": scale, "scorer_id": self.scorer_id}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What the rows of a run were made with: the header of ``FILE.partial``.

    Attributes:
        bundle_id: Name of the bundle.
        bundle_revision: Its revision, hex.
        embedding_id: What its embeddings can be compared with, hex.
        people: Whose scores, in the order of the rows of one picture; at least one.
        settings: How the run was called; JSON values.
    """

    bundle_id: str
    bundle_revision: str
    embedding_id: str
    people: tuple[PersonRecord, ...]
    settings: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(
        cls, bundle: ModelBundle, people: Iterable[PersonRecord], settings: Mapping[str, object]
    ) -> RunRecord:
        """Make the record of a run with a bundle, for some persons."""
        return cls(bundle.bundle_id, bundle.bundle_revision, bundle.embedding_id, tuple(people), settings)

    def to_json(self) -> Row:
        """Return the header of ``FILE.partial``."""
        return {
            "format_version": PARTIAL_FORMAT_VERSION,
            "sdk_version": __version__,
            "bundle_id": self.bundle_id,
            "bundle_revision": self.bundle_revision,
            "embedding_id": self.embedding_id,
            "people": [person.to_json() for person in self.people],
            "settings": dict(self.settings),
        }

    @property
    def users(self) -> tuple[str | None, ...]:
        """Whose rows each photo has, as the rows name them."""
        return tuple(None if one.user is None else clean(one.user) for one in self.people)

    def difference(self, header: Row) -> str | None:
        """Say why rows under a header cannot be put beside rows of this run.

        Args:
            header: Of a ``FILE.partial``.

        Returns:
            What differs, in words; None if they can. The photos, and how the rows are to be written, may
            differ.
        """
        own = self.to_json()
        if any(header.get(name) != own[name] for name in _MODEL):
            then, now = (
                f"{one.get('bundle_id')} {str(one.get('bundle_revision'))[:12]}" for one in (header, own)
            )
            changed = f"the model was {then} and is {now}"
            return printable(changed) if then != now else "the model saw photos in another way"
        people = header.get("people")
        if people == own["people"]:
            return None
        listed = [one for one in people if isinstance(one, dict)] if isinstance(people, list) else []
        if [one.get("user") for one in listed] != [one.user for one in self.people]:
            then, now = _names(one.get("user") for one in listed), _names(one.user for one in self.people)
            return printable(f"they are scores for {then}, these are for {now}")
        others = [now.user for then, now in zip(listed, self.people, strict=True) if then != now.to_json()]
        return printable(
            f"the scores for {_names(others)} were made in another way (ratings, scale or previews)"
        )


class RowFile:
    """Rows on disk, in the order they came: a header line, then one line of JSON per row.

    Args:
        path: The file; None for a temporary one that nobody sees.
        run: What the rows are made with: the header.
        resume: Whether to go on with the rows of an interrupted run, if the file is there.
        latest_only: Whether the newest row of each photo and person is chosen, in the order they came,
            whatever went through `pending`: photos come and go.

    Raises:
        OutputError: The file cannot be made; it is there without ``resume``; another process works on it; or
            its rows are no rows of this run, and the message says why.
    """

    def __init__(
        self, path: Path | None, run: RunRecord, *, resume: bool = False, latest_only: bool = False
    ) -> None:
        self.path = path
        self._name = "temporary file" if path is None else printable(str(path))
        self._users = run.users
        self._people = len(run.people)
        self._own = _GrowingIndex(self._users)
        self._latest_only = latest_only
        self._is_complete = False
        self._end = self._start = self._count = 0
        self._kept: KeptRows | None = None
        # Number of the first row of each photo, in the order of the input; below 0 while it is not known.
        self._order: array[int] = array("q")
        self._due = self._first_own = 0
        # Unbuffered: a row that was taken is in the file, and one that does not fit fails here and now.
        with writing_to(self._name):
            if path is None:
                self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - until `close`
            else:
                self._file = open_alone(path, printable(str(path)), resume=resume)
        try:
            if resume:
                self._take_up(run)
            if not self._start:
                self._write(jsonl_line(run.to_json()))
                self._start = self._end
        except BaseException:
            self._file.close()
            raise

    @property
    def is_resumed(self) -> bool:
        """Whether this goes on with the rows of an interrupted run."""
        return self._kept is not None

    @property
    def photos_kept(self) -> int:
        """How many photos have rows of the interrupted run."""
        return 0 if self._kept is None else self._kept.photos

    @property
    def photos_left(self) -> int:
        """How many of them were not among the photos that went through `pending`, and have no use."""
        return 0 if self._kept is None or self._latest_only else self._kept.photos_left

    def pending(self, images: Iterable[ImageInput | ImageError]) -> Iterator[ImageInput | ImageError]:
        """Leave out the photos that have rows; the others' rows must then come in this order.

        Args:
            images: What is to be scored, in the order that the rows are to have in the end.
        """
        if self._kept is None:
            yield from images
            return
        for image in images:
            path = path_field(image.source if isinstance(image, ImageError) else display_name(image, 0))
            first = self._kept.take(path, once=self._latest_only)
            if first is not None and hides_part(image):
                first = None  # the row may be that of another photo, which is shown alike
            self._order.append(-1 if first is None else first)
            if first is None:
                yield image

    def append(self, row: Row) -> None:
        """Write one row.

        Raises:
            OutputError: It cannot be written; the rows before it are kept.
        """
        kept = "" if self.path is None else f"; {self._count} complete rows are kept, {GOING_ON}"
        begin = self._end
        self._write(jsonl_line(row), kept)
        self._own.add(begin, row)
        if self._kept is not None:
            self._note()
        self._count += 1

    def select(self, order: Order, top: int | None, *, scored_only: bool) -> Rows:
        """Choose rows and give them rank and percentile.

        Args:
            order: How they come.
            top: Only this many best of each person; None for all.
            scored_only: Whether pictures that could not be scored are left out.
        """
        index = self._index()
        return _SelectedRows(self, index, index.choose(order, top, scored_only=scored_only))

    def rows_at(self, offsets: npt.NDArray[np.int64]) -> Iterator[Row]:
        """Read the rows that begin at the given bytes, (N,)."""
        reader = io.BufferedReader(cast("io.RawIOBase", self._file))
        try:
            for offset in offsets.tolist():
                reader.seek(offset)
                yield row_of(reader.readline())
        finally:
            reader.detach()

    def remove(self) -> Path | None:
        """Take the file away once its rows are somewhere else.

        Returns:
            Where it is kept if rows of an interrupted run were not among those asked for; else None.
        """
        self._is_complete = not self.photos_left
        self.close()
        return None if self._is_complete or self.path is None else set_aside(self.path)

    def close(self) -> None:
        """Close the file; it stays where it is if it holds rows that are nowhere else."""
        if self._file.closed:
            return
        if self.path is None or (self._count and not self._is_complete):
            self._file.close()
        else:
            with writing_to(self._name):
                close_and_remove(self._file, self.path)

    def _take_up(self, run: RunRecord) -> None:
        """Find out what is there, and cut off what is torn."""
        with writing_to(self._name):
            reader = io.BufferedReader(cast("io.RawIOBase", self._file), _BUFFER_BYTES)
            try:
                line = reader.readline(_MAX_HEADER_BYTES)
                if _is_torn_header(line):
                    self._file.truncate(0)  # stopped before its first row
                    return
                self._check_header(line, run)
                self._start = len(line)
                found = FoundRows(reader, run.users)
            finally:
                reader.detach()
            self._file.truncate(found.end)
        self._kept, self._count, self._end = found.kept, found.rows, found.end
        self._first_own = found.rows

    def _check_header(self, line: bytes, run: RunRecord) -> None:
        try:
            header = json.loads(line)
        except (ValueError, RecursionError):
            header = None
        version = header.get("format_version") if isinstance(header, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise OutputError(
                f"{self._name}: does not hold the rows of an interrupted run; remove it, or leave --resume "
                "away, which puts it aside"
            )
        if version != PARTIAL_FORMAT_VERSION:
            raise OutputError(
                f"{self._name}: was written by another version of piaa (layout {version}, this one reads "
                f"{PARTIAL_FORMAT_VERSION}); go on with that one, or leave --resume away, which puts it aside"
            )
        difference = run.difference(header)
        if difference is not None:
            raise OutputError(
                f"{self._name}: its rows do not go with those of this run: {difference}. Go on as it was "
                "begun, or leave --resume away: the rows are then put aside, and all photos scored anew"
            )

    def _note(self) -> None:
        """Note where the next row belongs, if it is the first one of a photo."""
        if (self._count - self._first_own) % self._people:
            return
        while self._due < len(self._order) and self._order[self._due] >= 0:
            self._due += 1
        if self._due == len(self._order):
            self._order.append(self._count)
        else:
            self._order[self._due] = self._count

    def _write(self, line: bytes, kept: str = "") -> None:
        try:
            with writing_to(self._name, kept):
                self._file.seek(self._end)
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:])
        except OutputError:
            # What fails here must not hide why the row could not be written.
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(line)

    def _index(self) -> RowIndex:
        index = _GrowingIndex(self._users)
        digests = RowDigests()
        # What an interrupted run has left is read now; of what this run has added all is known.
        read = self._count if self._latest_only else self._first_own
        reader = io.BufferedReader(cast("io.RawIOBase", self._file))
        try:
            offset = reader.seek(self._start)
            for line in islice(reader, read):
                row = row_of(line)
                index.add(offset, row)
                if self._latest_only:
                    digests.add(row["path"], row["user"])
                offset += len(line)
        finally:
            reader.detach()
        if not self._latest_only:
            index.extend(self._own)
        offsets, values, people = index.columns()
        chosen = np.arange(self._count)
        if self._latest_only:
            chosen = np.sort(digests.newest()[0])
        elif self._kept is not None:
            firsts = np.array(self._order, dtype=np.int64)
            chosen = (firsts[firsts >= 0, np.newaxis] + np.arange(self._people)).reshape(-1)
        return RowIndex(offsets[chosen], values[chosen], people[chosen])


class _GrowingIndex:
    """Where rows begin, what they are sorted by, and whose they are, while they come.

    Args:
        users: Whose rows are expected: they are numbered in this order.
    """

    def __init__(self, users: Iterable[str | None]) -> None:
        self._numbers: dict[str | None, int] = {user: number for number, user in enumerate(users)}
        self._offsets, self._values, self._people = array("q"), array("d"), array("q")

    def add(self, offset: int, row: Row) -> None:
        """Take a row that begins at a byte."""
        value = row["generic"] if row["personal"] is None else row["personal"]
        self._offsets.append(offset)
        self._values.append(math.nan if value is None else value)
        self._people.append(self._numbers.setdefault(row["user"], len(self._numbers)))

    def extend(self, other: _GrowingIndex) -> None:
        """Take the rows of another one, made for the same users, behind these."""
        self._offsets.extend(other._offsets)
        self._values.extend(other._values)
        self._people.extend(other._people)

    def columns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the offsets, values and numbers of persons, (N,) each."""
        return (
            np.array(self._offsets, dtype=np.int64),
            np.array(self._values, dtype=np.float64),
            np.array(self._people, dtype=np.int64),
        )


def _is_torn_header(line: bytes) -> bool:
    written = line.strip(b"\0")  # a crash of the computer may leave zeros
    return not line.endswith(b"\n") and (
        _HEADER_START.startswith(written) or written.startswith(_HEADER_START)
    )


def _names(users: Iterable[object]) -> str:
    """Say for whom scores are."""
    return " and ".join("most people" if user is None else str(user) for user in users) or "nobody known"


@dataclass(frozen=True, slots=True, eq=False)
class RowIndex:
    """Where the rows of a file are and how good they are; 24 bytes per row, all that is held in memory.

    Attributes:
        offsets: (N,) byte at which each row begins.
        values: (N,) score to sort by, rating units; nan where there is none.
        people: (N,) number of the person, from 0 in order of appearance.
    """

    offsets: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    people: npt.NDArray[np.int64]

    def choose(self, order: Order, top: int | None, *, scored_only: bool) -> npt.NDArray[np.int64]:
        """Choose rows; return their positions, in the order they are to come."""
        by_score = np.lexsort((-self.values, self.people))
        chosen = by_score
        if top is not None or scored_only:
            chosen = chosen[~np.isnan(self.values[chosen])]
        if top is not None:
            chosen = chosen[self.ranks()[chosen] <= top]
        return chosen if order is Order.SCORE else np.sort(chosen)

    def ranks(self) -> npt.NDArray[np.int64]:
        """Number the rows of each person from 1 = best, (N,); what has no score comes last."""
        ranks = np.empty(len(self.values), dtype=np.int64)
        by_score = np.lexsort((-self.values, self.people))
        first = np.searchsorted(self.people[by_score], self.people[by_score], side="left")
        ranks[by_score] = np.arange(len(by_score)) - first + 1
        return ranks

    def percentiles(self) -> npt.NDArray[np.float64]:
        """Return the share of the same person's rows that score no higher, (N,), 0 to 100, or nan."""
        percentiles = np.full(len(self.values), np.nan)
        for person in np.unique(self.people):
            mine = np.flatnonzero((self.people == person) & ~np.isnan(self.values))
            no_higher = np.searchsorted(np.sort(self.values[mine]), self.values[mine], side="right")
            percentiles[mine] = no_higher * 100 / max(1, len(mine))
        return percentiles


class _SelectedRows:
    """Rows of a file, read again each time they are gone through."""

    def __init__(self, file: RowFile, index: RowIndex, positions: npt.NDArray[np.int64]) -> None:
        self._file = file
        self._offsets = index.offsets[positions]
        self._ranks = index.ranks()[positions]
        self._percentiles = index.percentiles()[positions]

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[Row]:
        for row, rank, percentile in zip(
            self._file.rows_at(self._offsets), self._ranks.tolist(), self._percentiles.tolist(), strict=True
        ):
            has_score = not np.isnan(percentile)
            yield row | {"rank": rank if has_score else None, "percentile": percentile if has_score else None}
