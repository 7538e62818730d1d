"""Rows kept on disk while a run goes on, and the ranks and percentiles that are known when it is over.

The file is JSON Lines: a header, then one line per row, each written at once, so that whatever stops a run
leaves whole rows. In memory there are three numbers per row.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from piaa_sdk import __version__
from piaa_sdk.choices import Order
from piaa_sdk.errors import OutputError, PiaaError
from piaa_sdk.images import printable
from piaa_sdk.row_formats import Row, jsonl_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.rating_scale import RatingScale
    from piaa_sdk.row_formats import Rows

PARTIAL_FORMAT_VERSION = 2
"""Layout of ``FILE.partial``."""


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


class RowFile:
    """Rows on disk, in the order they came: a header line, then one line of JSON per row.

    Args:
        path: A new file; None for a temporary one that nobody sees.
        run: What the rows are made with: the header.

    Raises:
        OutputError: The file cannot be made.
    """

    def __init__(self, path: Path | None, run: RunRecord) -> None:
        self._path = path
        self._name = "temporary file" if path is None else printable(str(path))
        self._is_complete = False
        # Unbuffered: a row that was taken is in the file, and one that does not fit fails here and now.
        with writing_to(self._name):
            self._file: IO[bytes] = (
                tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open until `close`
                if path is None
                else path.open("x+b", buffering=0)
            )
        self._end = 0
        self._count = 0
        self._write(jsonl_line(run.to_json()))
        self._start = self._end

    def append(self, row: Row) -> None:
        """Write one row.

        Raises:
            OutputError: It cannot be written; the rows before it are kept.
        """
        kept = "" if self._path is None else f"; {self._count} complete rows are kept"
        self._write(jsonl_line(row), kept)
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
                yield json.loads(reader.readline())
        finally:
            reader.detach()

    def remove(self) -> None:
        """Take the file away once its rows are somewhere else."""
        self._is_complete = True
        self.close()

    def close(self) -> None:
        """Close the file; it stays where it is if it holds rows that are nowhere else."""
        if self._file.closed:
            return
        opened = os.fstat(self._file.fileno())
        self._file.close()
        if self._path is None or (self._count and not self._is_complete):
            return
        # Another run may have set this file aside and begun its own under the same name.
        with writing_to(self._name):
            if self._path.exists() and os.path.samestat(opened, self._path.stat()):
                self._path.unlink()

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
        offsets = np.zeros(self._count, dtype=np.int64)
        values = np.full(self._count, np.nan)
        people = np.zeros(self._count, dtype=np.int64)
        numbers: dict[str | None, int] = {}
        reader = io.BufferedReader(cast("io.RawIOBase", self._file))
        try:
            offset = reader.seek(self._start)
            for position, line in enumerate(reader):
                row = json.loads(line)
                value = row["generic"] if row["personal"] is None else row["personal"]
                offsets[position] = offset
                values[position] = np.nan if value is None else value
                people[position] = numbers.setdefault(row["user"], len(numbers))
                offset += len(line)
        finally:
            reader.detach()
        return RowIndex(offsets, values, people)


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


@contextmanager
def writing_to(name: str, kept: str = "") -> Iterator[None]:
    """Say in one line what could not be written; a reader that went away is for the caller to notice."""
    try:
        yield
    except (PiaaError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(f"{name}: cannot be written: {error.strerror or error}{kept}") from error
