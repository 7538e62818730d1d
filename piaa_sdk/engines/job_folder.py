"""The folder that a job writes: one Parquet file per part, and a record of what the job is.

What makes every photo come out exactly once, whatever is run twice or dies:

* a photo is in exactly one part (`piaa_sdk.engines.parts`);
* a part has one file, whose name follows from its content and from nothing else;
* the file is written by one process, the one the job was started in, whole or not at all, and only if there
  is a row for each of its photos; a part whose file is there is not scored again.

Workers write nothing. So no machine but the one that starts the job needs the folder, and a task that an
engine runs again after a machine has died gives the same rows for the same file.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from piaa_sdk import __version__
from piaa_sdk.engines.parts import PART_PREFIX
from piaa_sdk.errors import EngineError, OutputError
from piaa_sdk.files import PARTIAL_SUFFIX, read_regular_file, write_atomically
from piaa_sdk.images import printable
from piaa_sdk.partial_file import writing_to
from piaa_sdk.row_formats import write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from piaa_sdk.engines.batch_scorer import BatchScorer
    from piaa_sdk.engines.parts import Part
    from piaa_sdk.row_formats import Row

FORMAT_VERSION = 1
"""Layout of the record."""

RECORD_NAME = "_job.json"
"""Readers of a folder of Parquet files leave out what begins so."""

_TYPE = "piaa-job"
_MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a job is: with another one, its parts must not be mixed.

    Attributes:
        bundle_id: Name of the bundle.
        bundle_revision: Its revision, hex.
        user: Whose scores; None for most people's.
        scorer_id: Digest of all that decides the scores, hex.
        input_id: Digest of the list of photos and of how it is split, hex.
        photos: How many there are.
        parts: In how many parts.
        part_size: Photos in a part.
    """

    bundle_id: str
    bundle_revision: str
    user: str | None
    scorer_id: str
    input_id: str
    photos: int
    parts: int
    part_size: int

    @classmethod
    def of(cls, scorer: BatchScorer, parts: Iterable[Part], part_size: int) -> JobRecord:
        """Make the record of a job; goes through its parts once and keeps nothing of them but a digest."""
        digest = hashlib.sha256()
        photos = count = 0
        for part in parts:
            digest.update(part.digest.encode())
            photos, count = photos + part.count, count + 1
        return cls(
            bundle_id=scorer.bundle_id,
            bundle_revision=scorer.bundle_revision,
            user=scorer.user,
            scorer_id=scorer.scorer_id,
            input_id=digest.hexdigest(),
            photos=photos,
            parts=count,
            part_size=part_size,
        )

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        data = {"type": _TYPE, "format_version": FORMAT_VERSION, "sdk_version": __version__}
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(data | fields, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> JobRecord:
        """Read a record.

        Raises:
            OutputError: It is none, damaged, or of a newer version.
        """
        try:
            data: dict[str, Any] = json.loads(content)
            if data["type"] != _TYPE:
                raise ValueError(f"type is {data['type']!r:.80}, must be {_TYPE!r}")
            version = data["format_version"]
            if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
                raise ValueError(
                    f"format_version is {version!r:.80}, this version reads up to {FORMAT_VERSION}"
                )
            return cls(**{name: data[name] for name in cls.__slots__})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise OutputError(f"{RECORD_NAME} is not the record of a job that can go on: {error}") from error

    def check_same(self, earlier: JobRecord, folder: Path) -> None:
        """Refuse to go on with a job that is another one.

        Raises:
            OutputError: It is; the message says in what.
        """
        if self == earlier:
            return
        if self.bundle_revision != earlier.bundle_revision:
            what = f"with the model {earlier.bundle_id} {earlier.bundle_revision[:12]}"
        elif self.scorer_id != earlier.scorer_id:
            what = (
                f"for {_whose(earlier.user)}"
                if self.user != earlier.user
                else "before the person's ratings changed"
            )
        elif self.part_size != earlier.part_size:
            what = f"in parts of {earlier.part_size} photos"
        else:
            what = f"for another list of {earlier.photos:,} photos (this one has {self.photos:,})"
        raise OutputError(
            f"{printable(str(folder))}: holds parts of a job that was started {what}; name another "
            "folder, or start the same job again to go on with it"
        )


@dataclass(frozen=True, slots=True)
class PartCounts:
    """What became of the photos of one part.

    Attributes:
        photos: All of them.
        failed: Those that could not be scored.
    """

    photos: int
    failed: int


class JobFolder:
    """Where the parts of one job go.

    Args:
        folder: A new or empty folder, that of the same job, or that of any job of which no part was done.
        record: What the job is.

    Raises:
        OutputError: The folder cannot be used; nothing was written.
    """

    def __init__(self, folder: Path, record: JobRecord) -> None:
        self.folder, self._record = folder, record
        self._has_written = False
        name = printable(str(folder))
        with writing_to(name):
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{name}: is a file; name a folder to write the parts to")
            if not folder.parent.is_dir():
                raise OutputError(
                    f"{name}: there is no folder {printable(str(folder.parent))}; make it first"
                )
            folder.mkdir(exist_ok=True)
            self._claim()

    def finished(self, part: Part) -> PartCounts | None:
        """Count the photos of a part that an earlier run has finished; None if none has.

        Raises:
            OutputError: Its file cannot be read.
        """
        path = self.folder / part.file_name
        if not path.exists():
            return None
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            errors = pq.read_table(path, columns=["error"]).column("error")
        except (OSError, pa.ArrowException, KeyError) as error:
            raise OutputError(
                f"{printable(str(path))}: is damaged; remove it, and its photos are scored again"
            ) from error
        return PartCounts(len(errors), len(errors) - errors.null_count)

    def write(self, part: Part, data: bytes) -> None:
        """Write the results of a part, whole or not at all.

        Raises:
            OutputError: They cannot be written, or another job has begun to write to the folder meanwhile.
        """
        with writing_to(printable(str(self.folder)), "; the parts before it are kept"):
            if not self._has_written:
                self._claim()
            write_atomically(self.folder / part.file_name, data)
        self._has_written = True

    def _claim(self) -> None:
        """Leave the record, unless parts of another job are there, or what no job has written.

        A job that ended before its first part has left a record at most, and does not stand in the way.

        Raises:
            OutputError: Something is there.
        """
        names = [path.name for path in self.folder.iterdir()]
        others = [name for name in names if not (name.startswith(".") and name.endswith(PARTIAL_SUFFIX))]
        if others:
            earlier = self._earlier()
            if any(name.startswith(PART_PREFIX) for name in others):
                self._record.check_same(earlier, self.folder)
            if earlier == self._record:
                return
        write_atomically(self.folder / RECORD_NAME, self._record.to_bytes())

    def _earlier(self) -> JobRecord:
        path = self.folder / RECORD_NAME
        if not path.exists():
            name = printable(str(self.folder))
            raise OutputError(f"{name}: is not empty, and no job has written it; name a new folder")
        return JobRecord.parse(read_regular_file(path, _MAX_RECORD_BYTES))


def encode_rows(rows: list[Row], part: Part) -> bytes:
    """Return the Parquet file of a part.

    Args:
        rows: One for each of its photos.
        part: Which they are of.

    Raises:
        EngineError: There are more or fewer rows than photos.
    """
    if len(rows) != part.count:
        raise EngineError(
            f"part {part.index} has {part.count} photos, {len(rows)} were found; the list of photos has "
            "changed while the job ran: start it again with another folder"
        )
    file = io.BytesIO()
    write_parquet(rows, file)
    return file.getvalue()


def _whose(user: str | None) -> str:
    return "most people" if user is None else printable(user)
