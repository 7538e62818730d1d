"""What comes out of a run: rows collected as they come, a report written at the end.

Rows go to ``FILE.partial`` first (JSON Lines: a header, then one line per photo and person, each written at
once) and become ``FILE`` in one step at the end. Whatever stops a run, the rows so far are whole, and there
is no half-written ``FILE``. How good a score is within the run (rank, percentile) is only known at the end,
so reports that can be written row by row to standard output go without.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TextIO

from piaa_sdk.choices import Order, ReportFormat
from piaa_sdk.errors import OutputError
from piaa_sdk.files import sync_folder
from piaa_sdk.images import printable, refuse_photo_name
from piaa_sdk.partial_file import set_aside, writing_to
from piaa_sdk.row_file import GOING_ON, RowFile, RunRecord
from piaa_sdk.row_formats import (
    FIELDS,
    TableStyle,
    csv_line,
    jsonl_line,
    require_parquet,
    table_lines,
    to_row,
    write_csv,
    write_jsonl,
    write_parquet,
)
from piaa_sdk.terminal import can_show, columns_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from piaa_sdk.array_types import ImageInput
    from piaa_sdk.errors import ImageError
    from piaa_sdk.rating_scale import RatingScale
    from piaa_sdk.results import Score
    from piaa_sdk.row_formats import Rows

_WRITERS = {
    ReportFormat.CSV: write_csv,
    ReportFormat.JSONL: write_jsonl,
    ReportFormat.PARQUET: write_parquet,
}
_SUFFIXES = {
    ".csv": ReportFormat.CSV,
    ".jsonl": ReportFormat.JSONL,
    ".ndjson": ReportFormat.JSONL,
    ".parquet": ReportFormat.PARQUET,
    ".txt": ReportFormat.TABLE,
}


class Report(Protocol):
    """Somewhere rows go to; a context manager that closes it.

    Attributes:
        partial: Where the rows wait for the end; None if nobody can find them there.
        set_aside: Where the rows of an earlier run that was stopped are now; None without any.
        left_over: Where the rows that were not asked for are at the end; None without any.
        is_resumed: Whether this goes on with the rows of an interrupted run.
    """

    partial: Path | None
    set_aside: Path | None
    left_over: Path | None
    is_resumed: bool

    @property
    def photos_kept(self) -> int:
        """How many photos have rows of an interrupted run."""

    @property
    def photos_left(self) -> int:
        """How many of them were not among those that went through `pending`."""

    def pending(self, images: Iterable[ImageInput | ImageError]) -> Iterator[ImageInput | ImageError]:
        """Leave out the photos that have rows; the others' rows are then added in this order."""

    def add(self, score: Score) -> None:
        """Take one row.

        Raises:
            OutputError: It cannot be written.
        """

    def finish(self) -> None:
        """Write what is written at the end.

        Raises:
            OutputError: It cannot be written.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def format_for(output: Path) -> ReportFormat | None:
    """Tell from the end of a file's name how it is to be written; None if it does not say."""
    return _SUFFIXES.get(output.suffix.lower())


_PEEK = 65536  # bytes that show what a file is


def open_report(
    run: RunRecord,
    report_format: ReportFormat,
    *,
    stdout: TextIO,
    output: Path | None = None,
    order: Order | None = None,
    top: int | None = None,
    replace: bool = False,
    resume: bool = False,
    latest_only: bool = False,
) -> Report:
    """Prepare a report, so that what would keep it from being written shows before the work, not after.

    Args:
        run: What the rows are made with.
        report_format: How they are written.
        stdout: Where they are written without ``output``.
        output: File to write at the end; one that an earlier run wrote is replaced.
        order: None for best first in a table and with ``top``, else as the photos came.
        top: Only this many best photos of each person; None for all.
        replace: Whether a file that no run has written may be replaced.
        resume: Whether to go on with the rows that an interrupted run has left for ``output``.
        latest_only: Whether a photo that has several rows appears with the newest alone.

    Raises:
        OutputError: ``output`` cannot be written, or is a file that somebody else has written; another run is
            writing it; or there are rows to go on with that were made in another way.
        MissingDependencyError: The format needs a package that is not installed.
    """
    if report_format is ReportFormat.PARQUET:
        require_parquet()
    if order is None:
        order = Order.INPUT if report_format is not ReportFormat.TABLE and top is None else Order.SCORE
    is_by_row = report_format in (ReportFormat.CSV, ReportFormat.JSONL)
    if output is None and is_by_row and order is Order.INPUT and top is None:
        return _StreamedReport(run, report_format, stdout)
    checked = None if output is None else _checked_output(output, replace=replace)
    partial = None if checked is None else checked.with_name(f"{checked.name}.partial")
    earlier = None if partial is None or resume else set_aside(partial)
    rows = RowFile(partial, run, resume=resume and partial is not None, latest_only=latest_only)
    report = _CollectedReport(run, report_format, stdout, checked, (order, top), rows)
    report.set_aside = earlier
    return report


class _StreamedReport:
    """Rows written to standard output as they come, without percentiles."""

    def __init__(self, run: RunRecord, report_format: ReportFormat, stdout: TextIO) -> None:
        self.partial: Path | None = None
        self.set_aside: Path | None = None
        self.left_over: Path | None = None
        self.is_resumed = False
        self.photos_kept = self.photos_left = 0
        self._run = run
        self._is_csv = report_format is ReportFormat.CSV
        self._file = stdout.buffer
        if self._is_csv:
            self._write(csv_line(list(FIELDS)))

    def pending(self, images: Iterable[ImageInput | ImageError]) -> Iterator[ImageInput | ImageError]:
        yield from images

    def add(self, score: Score) -> None:
        row = to_row(score, self._run.bundle_id, self._run.bundle_revision)
        self._write(csv_line([row[name] for name in FIELDS]) if self._is_csv else jsonl_line(row))

    def finish(self) -> None:
        """Do nothing: every row is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _write(self, line: bytes) -> None:
        with writing_to("standard output"):
            self._file.write(line)
            self._file.flush()


class _CollectedReport:
    """Rows kept in a file until all are known."""

    def __init__(
        self,
        run: RunRecord,
        report_format: ReportFormat,
        stdout: TextIO,
        output: Path | None,
        selection: tuple[Order, int | None],
        rows: RowFile,
    ) -> None:
        self._run, self._format, self._stdout = run, report_format, stdout
        self._order, self._top = selection
        self._output, self._rows = output, rows
        self.partial = rows.path
        self.set_aside: Path | None = None
        self.left_over: Path | None = None
        self.is_resumed = rows.is_resumed

    @property
    def photos_kept(self) -> int:
        return self._rows.photos_kept

    @property
    def photos_left(self) -> int:
        return self._rows.photos_left

    def pending(self, images: Iterable[ImageInput | ImageError]) -> Iterator[ImageInput | ImageError]:
        return self._rows.pending(images)

    def add(self, score: Score) -> None:
        self._rows.append(to_row(score, self._run.bundle_id, self._run.bundle_revision))

    def finish(self) -> None:
        is_table = self._format is ReportFormat.TABLE
        rows = self._rows.select(self._order, self._top, scored_only=is_table)
        if self._output is None:
            self._write_stdout(rows)
            return
        with writing_to(printable(str(self._output)), self._kept()), _replacing(self._output) as file:
            self._write_file(rows, file)
        self.left_over = self._rows.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def _write_file(self, rows: Rows, file: BinaryIO) -> None:
        if self._format is ReportFormat.TABLE:
            for line in table_lines(rows, TableStyle(self._decimals)):
                file.write(f"{line}\n".encode())
        else:
            _WRITERS[self._format](rows, file)

    def _write_stdout(self, rows: Rows) -> None:
        with writing_to("standard output"):
            if self._format is not ReportFormat.TABLE:
                _WRITERS[self._format](rows, self._stdout.buffer)
            elif len(rows):
                is_ascii = not can_show(self._stdout, "★☆±…")
                style = TableStyle(self._decimals, columns_of(self._stdout), is_ascii)
                for line in table_lines(rows, style):
                    self._stdout.write(f"{line}\n")
            self._stdout.flush()

    @property
    def _decimals(self) -> int:
        return max(decimals_for(person.scale) for person in self._run.people)

    def _kept(self) -> str:
        if self.partial is None:
            return ""
        kept = printable(str(self.partial))
        return f"; the rows are kept in {kept}, {GOING_ON}"


def decimals_for(scale: RatingScale) -> int:
    """Choose how many digits of a score are worth showing on a scale."""
    if scale.span <= 2:
        return 3
    return 1 if scale.span >= 50 else 2


def _checked_output(output: Path, *, replace: bool) -> Path:
    """Refuse what must not or cannot be replaced; follow links, so that they stay."""
    name = printable(str(output))
    with writing_to(name):
        refuse_photo_name(output)
        resolved = Path(os.path.realpath(output))  # Path.resolve() may raise a RuntimeError
        if resolved.is_symlink():
            raise OutputError(f"{name}: is a link that leads in a circle; remove it or name another file")
        if not resolved.parent.is_dir():
            raise OutputError(f"{name}: there is no folder {printable(str(resolved.parent))}; make it first")
        if resolved.exists() and not resolved.is_file():
            raise OutputError(f"{name}: is a folder or a device; name a file, or none to write to the screen")
        if not replace and resolved.exists() and not _is_own(resolved):
            raise OutputError(
                f"{name}: is there already, and no earlier run of piaa score wrote it; name another file, or "
                "write over it with --force"
            )
    return resolved


def _is_own(path: Path) -> bool:
    """Tell whether a file is empty or a report in any format; ratings and all else are not ours."""
    with path.open("rb") as file:
        head = file.read(_PEEK)
        file.seek(max(0, path.stat().st_size - _PEEK))
        tail = file.read()
    if not head or head.startswith(csv_line(list(FIELDS))):
        return True
    if head.startswith(b"PAR1"):
        return all(name.encode() in tail for name in FIELDS)
    first = head.partition(b"\n")[0]
    words = first.split()
    return words[:1] + words[-1:] == [b"rank", b"photo"] or _is_row(first)


def _is_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and list(row) == list(FIELDS)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside the old one and put it in its place only when it is whole and on the disk.

    Only one run works on a file at a time: what another one has left half written is of no use to anybody.
    """
    start = f".piaa-{hashlib.blake2b(os.fsencode(path.name), digest_size=6).hexdigest()}-"
    for left in path.parent.glob(f"{start}*.tmp"):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f"{start}{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
