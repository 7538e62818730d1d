"""The SQLite file behind the embedding cache: opening it, telling it from other files, its tables."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT_VERSION = 1
SUFFIX = ".sqlite"

_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID = 0x50494141  # "PIAA", in the header of every cache file
_PAGE_BYTES = 16384  # nine embeddings of 896 numbers fill a page to 99 %; 4 KB pages would waste an eighth
_CHECKPOINT_PAGES = 256
_BUSY_SECONDS = 5.0
_SECONDS_BETWEEN_ATTEMPTS = 0.02

# Vectors lie in the order they came: pages fill up, and the oldest leave whole pages free. Counts are kept,
# because counting would read the whole file. A key is the hash of a content or of a stamp.
_SCHEMA = (
    "CREATE TABLE spaces (embedding_id TEXT PRIMARY KEY, id INTEGER NOT NULL, count INTEGER NOT NULL) "
    "WITHOUT ROWID",
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, space INTEGER NOT NULL, embedding BLOB NOT NULL)",
    "CREATE TABLE keys (key BLOB PRIMARY KEY, vector INTEGER NOT NULL) WITHOUT ROWID",
)
_PROBES = (
    "SELECT embedding_id, id, count FROM spaces LIMIT 0",
    "SELECT id, space, embedding FROM vectors LIMIT 0",
    "SELECT key, vector FROM keys LIMIT 0",
)
_DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DamagedFileError(Exception):
    """The file is ours, or garbage in the place of ours, and cannot be read."""


class ForeignFileError(Exception):
    """The file is not ours to touch: another program's, or a newer version's."""


def open_file(path: Path, *, make: bool = True) -> sqlite3.Connection:
    """Open a cache file.

    Args:
        path: The file.
        make: Make it if it is not there, and set it up for writing.

    Raises:
        DamagedFileError: It is garbage, or its tables are not as they should be.
        ForeignFileError: It belongs to another program or to a newer version.
        sqlite3.Error: It cannot be opened or is locked.
        OSError: Its folder cannot be made.
    """
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
    _check_beginning(path)
    connection = _connect(path, make)
    try:
        if make:
            _set_up(connection)
        else:
            _check(connection)
    except sqlite3.Error as error:
        connection.close()
        if is_damage(error):
            raise DamagedFileError(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file itself is broken."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE_CODES


def is_foreign(path: Path) -> bool:
    """Whether a file must not be removed: it is another program's, or garbage of another name."""
    header = _beginning(path)
    if header.startswith(_MAGIC):
        return header[68:72] != _APPLICATION_ID.to_bytes(4, "big")
    return path.suffix != SUFFIX


def extra_files(path: Path) -> Iterator[Path]:
    """Yield the files that SQLite may keep beside one."""
    for ending in ("-wal", "-shm", "-journal"):
        yield path.with_name(path.name + ending)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Tell how much of the file is in use, free pages left out."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _beginning(path: Path) -> bytes:
    if not path.is_file():  # opening a pipe would wait forever
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        return file.read(100)


def _check_beginning(path: Path) -> None:
    """Refuse what SQLite would not: it takes a very short file for an empty one and writes over it."""
    if "\0" in str(path):  # everything behind it would be cut off
        raise OSError("not a possible file name")
    if path.exists():
        header = _beginning(path)
        if header and not header.startswith(_MAGIC):
            raise DamagedFileError("file is not a database")


def _connect(path: Path, make: bool) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rwc' if make else 'rw'}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,  # transactions are begun and ended in so many words
        check_same_thread=False,  # the cache has a lock of its own
    )


def _set_up(connection: sqlite3.Connection) -> None:
    """Choose the journal and make the tables; patient with other processes that do the same."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            if _version(connection) is None:
                connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                _create(connection)
            choose_journal(connection)  # after the tables: the file itself, not a log, says whose it is
            break
        except sqlite3.OperationalError as error:
            is_busy = (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)  # changing the journal does not wait for others by itself
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_PAGES * _PAGE_BYTES}")
    _check(connection)


def choose_journal(connection: sqlite3.Connection) -> str:
    """Use a write-ahead log where the file system can, else a rollback journal; return which."""
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    except sqlite3.OperationalError as error:
        # What SQLite says where there is no shared memory, as on some network file systems.
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in (
            sqlite3.SQLITE_PROTOCOL,
            sqlite3.SQLITE_IOERR,
        ):
            raise
        mode = ""
    if mode != "wal":
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    return str(mode)


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) is None:  # nobody was faster
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int | None:
    """Read the format version; None for a file without any table.

    Raises:
        ForeignFileError: The file belongs to another program.
    """
    # One statement sees one state of the file, also while another process is making the tables.
    query = (
        "SELECT a.application_id, v.user_version, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_application_id a, pragma_user_version v"
    )
    application, version, tables = connection.execute(query).fetchone()
    if application == _APPLICATION_ID:
        return int(version)
    if application or version or tables:
        raise ForeignFileError("it is a database of another program")
    return None


def _check(connection: sqlite3.Connection) -> None:
    version = _version(connection)
    if version is None or version < 1:
        raise DamagedFileError("it has no format version")
    if version > FORMAT_VERSION:
        raise ForeignFileError(
            f"it has format version {version}, this piaa-sdk knows {FORMAT_VERSION}; upgrade with: "
            "pip install --upgrade piaa-sdk, or remove it with: piaa cache clear"
        )
    for probe in _PROBES:
        try:
            with closing(connection.execute(probe)):
                pass
        except sqlite3.OperationalError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) != sqlite3.SQLITE_ERROR:
                raise
            raise DamagedFileError(f"its tables are not as they should be: {error}") from error
