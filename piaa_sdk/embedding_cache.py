"""Embeddings of the photos seen so far, so that a second person or a second run decodes nothing.

One SQLite file: ``vectors`` holds the embeddings in the order they came; ``keys`` finds them by what a file
holds, or by where a file is, how large and how old. Keys are 16-byte hashes that include the
``embedding_id``: embeddings of another model are never found, and no path is stored.

The cache only ever saves time. Whatever is wrong with it is one ``PiaaWarning``, and the run goes on.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import threading
import warnings
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
import xxhash

from piaa_sdk import cache_file
from piaa_sdk.cache_file import DamagedFileError, ForeignFileError
from piaa_sdk.errors import OutputError, PiaaWarning
from piaa_sdk.folders import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray, PathInput

CACHE_NAME = f"embeddings{cache_file.SUFFIX}"
DEFAULT_MAX_BYTES = 1 << 30

_KEY_BYTES = 16
_KEYS_PER_QUERY = 256
_EVICTED_SHARE = 0.1
_FAILURES = (sqlite3.Error, OSError, DamagedFileError, ForeignFileError)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Where a file is, how large and how old: while they stay the same, the file is taken to be unchanged.

    Attributes:
        path: Absolute path.
        size: Bytes.
        mtime_ns: Time of the last change, nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: PathInput) -> FileStamp | None:
        """Stamp a file; None if it cannot be seen or is no regular file."""
        try:
            status = os.stat(path)  # noqa: PTH116 (a Path costs as much again, for every photo of a run)
            if not stat.S_ISREG(status.st_mode):
                return None
            absolute = os.path.abspath(path)  # noqa: PTH100 (as above)
        except (OSError, ValueError):
            return None
        return cls(absolute, status.st_size, status.st_mtime_ns)

    @classmethod
    def of_remote(cls, url: str, size: int, version: str) -> FileStamp:
        """Stamp a file elsewhere, by what its server says of it.

        Args:
            url: Its address, without what gives access to it.
            size: Bytes.
            version: What changes with the content: an ETag, a generation or a time.
        """
        return cls(f"{url} {version}", size, 0)  # no absolute path begins like an address


@dataclass(frozen=True, slots=True, eq=False)
class CacheEntry:
    """What is stored for one picture.

    Attributes:
        content_key: ``content_key()`` of the file.
        embedding: (D,), values that float16 can hold.
        stamp: The file it came from, None if it came from no file.
    """

    content_key: bytes
    embedding: FloatArray
    stamp: FileStamp | None = None


@dataclass(frozen=True, slots=True)
class CacheSummary:
    """What a cache file holds.

    Attributes:
        files: The file and those beside it that belong to it, as far as they exist.
        bytes: Their size.
        limit: Size that the file is kept below, bytes.
        embeddings: Number of embeddings by ``embedding_id``.
        problem: Why the file cannot be read, None if it can or is not there.
    """

    files: tuple[Path, ...]
    bytes: int
    limit: int
    embeddings: dict[str, int]
    problem: str | None = None


class EmbeddingCache:
    """Finds and stores embeddings; safe to use from several threads and several processes at once.

    Args:
        path: The file; made if it is not there. A damaged file is set aside as ``NAME.corrupt`` if its name
            ends in ``.sqlite``; a file that is not ours is never touched.
        embedding_id: Which embeddings: those of other models in the file are not found.
        embedding_dim: D.
        max_bytes: Size that the file is kept below; the oldest tenth makes room.
    """

    def __init__(
        self, path: Path, embedding_id: str, embedding_dim: int, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self.path = path
        self.embedding_id = embedding_id
        self.embedding_dim = embedding_dim
        self.max_bytes = max_bytes
        self._salt = hashlib.blake2b(embedding_id.encode(), digest_size=32).digest()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._space = 0
        self._is_writable = True
        try:
            self._open()
        except _FAILURES as error:
            warnings.warn(self._give_up(error), PiaaWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:
            self.close()

    @property
    def is_usable(self) -> bool:
        """Whether anything can be found; False once the file has failed or is closed."""
        return self._connection is not None

    def close(self) -> None:
        """Close the file; whatever is asked afterwards is not found."""
        with self._lock:
            self._disconnect()

    def find_stamp(self, stamp: FileStamp) -> FloatArray | None:
        """Find the embedding, (D,) float32, of a file that has not changed, without opening it."""
        return self.find_stamps([stamp])[0]

    def find_stamps(self, stamps: Sequence[FileStamp]) -> list[FloatArray | None]:
        """Find the embeddings, (D,) float32 each, of files that have not changed; None for the others."""
        return self._find([self._stamp_key(stamp) for stamp in stamps])

    def find_content(self, content_key: bytes) -> FloatArray | None:
        """Find the embedding, (D,) float32, of what a file holds."""
        return self._find([self._content_key(content_key)])[0]

    def store(self, entries: Sequence[CacheEntry]) -> None:
        """Store embeddings in one transaction; of content that is known only the stamp is noted."""
        if entries:
            self._guarded(partial(self._store, entries), None, writing=True)

    def remember_stamp(self, stamp: FileStamp, content_key: bytes) -> None:
        """Note that a file has this content, which has been stored before."""
        self.remember_stamps([(stamp, content_key)])

    def remember_stamps(self, seen: Sequence[tuple[FileStamp, bytes]]) -> None:
        """Note which files have which content, in one transaction; unknown content is passed over."""
        if seen:
            self._guarded(partial(self._remember, seen), None, writing=True)

    def _content_key(self, content_key: bytes) -> bytes:
        return self._key(content_key, b"content xxh3")

    def _stamp_key(self, stamp: FileStamp) -> bytes:
        return self._key(b"%d %d %b" % (stamp.size, stamp.mtime_ns, os.fsencode(stamp.path)), b"stamp")

    def _key(self, data: bytes, kind: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=_KEY_BYTES, key=self._salt, person=kind).digest()

    def _find(self, keys: list[bytes]) -> list[FloatArray | None]:
        found: dict[bytes, FloatArray] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            nothing: list[tuple[bytes, bytes]] = []
            rows = self._guarded(partial(_select, keys[start : start + _KEYS_PER_QUERY]), nothing)
            found.update(_decoded(rows, self.embedding_dim))
        return [found.get(key) for key in keys]

    def _store(self, entries: Sequence[CacheEntry], connection: sqlite3.Connection) -> None:
        added = 0
        with _transaction(connection):
            for entry in entries:
                key = self._content_key(entry.content_key)
                row = connection.execute("SELECT vector FROM keys WHERE key = ?", (key,)).fetchone()
                if row is None:
                    row = self._insert(connection, entry.embedding)
                    connection.execute("INSERT INTO keys VALUES (?, ?)", (key, *row))
                    added += 1
                if entry.stamp is not None:
                    stamp_key = self._stamp_key(entry.stamp)
                    connection.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (stamp_key, *row))
            connection.execute("UPDATE spaces SET count = count + ? WHERE id = ?", (added, self._space))
            _make_room(connection, self.max_bytes)

    def _insert(self, connection: sqlite3.Connection, embedding: FloatArray) -> tuple[int | None]:
        blob = np.asarray(embedding).astype("<f2").tobytes()
        query = "INSERT INTO vectors (space, embedding) VALUES (?, ?)"
        return (connection.execute(query, (self._space, blob)).lastrowid,)

    def _remember(self, seen: Sequence[tuple[FileStamp, bytes]], connection: sqlite3.Connection) -> None:
        with _transaction(connection):
            connection.executemany(
                "INSERT OR REPLACE INTO keys SELECT ?, vector FROM keys WHERE key = ?",
                [(self._stamp_key(stamp), self._content_key(content)) for stamp, content in seen],
            )
            _make_room(connection, self.max_bytes)

    def _guarded(
        self, action: Callable[[sqlite3.Connection], _Answer], default: _Answer, *, writing: bool = False
    ) -> _Answer:
        """Do something with the file; on failure warn once, give the file up and return ``default``."""
        with self._lock:
            if self._connection is None or (writing and not self._is_writable):
                return default
            try:
                return action(self._connection)
            except _FAILURES as error:
                problem = self._give_up(error, writing=writing)
        warnings.warn(problem, PiaaWarning, stacklevel=4)
        return default

    def _open(self) -> None:
        self._connection = cache_file.open_file(self.path)
        query = "SELECT id FROM spaces WHERE embedding_id = ?"
        row = self._connection.execute(query, (self.embedding_id,)).fetchone()
        if row is None:  # only now, so that a second run need not wait for a writer
            new = "INSERT OR IGNORE INTO spaces SELECT ?, 1 + coalesce(max(id), 0), 0 FROM spaces"
            self._connection.execute(new, (self.embedding_id,))
            row = self._connection.execute(query, (self.embedding_id,)).fetchone()
        self._space = int(row[0])

    def _give_up(self, error: Exception, *, writing: bool = False) -> str:
        """Do without the file, or without writing to it; return what to tell the user."""
        if isinstance(error, DamagedFileError) or (
            isinstance(error, sqlite3.Error) and cache_file.is_damage(error)
        ):
            self._disconnect()
            return self._start_anew(error)
        if writing:
            self._is_writable = False  # what is there can still be found
            return f"the cache {self.path} cannot be written ({error}); going on without storing embeddings"
        self._disconnect()
        return f"the cache {self.path} cannot be used ({error}); going on without it"

    def _start_anew(self, error: Exception) -> str:
        """Set a damaged file aside and make a new one; return what to tell the user."""
        aside = _aside(self.path)
        try:
            if cache_file.is_foreign(self.path):
                return f"{self.path} is no cache of embeddings ({error}); it is left alone, going on without"
            self.path.replace(aside)
            for extra in cache_file.extra_files(self.path):
                extra.unlink(missing_ok=True)
            self._open()
        except _FAILURES as second:
            self._disconnect()
            return f"the cache {self.path} is damaged and cannot be made anew ({second}); going on without it"
        return f"the cache {self.path} was damaged ({error}); it is kept as {aside.name} and a new one begun"

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def content_key(data: bytes) -> bytes:
    """Hash what a file holds, 16 bytes.

    XXH3 reads a photo in a tenth of a millisecond, where a cryptographic hash takes 2 to 4: a twentieth of
    all the work on it. Files do not meet by accident in 128 bits; whoever makes two that do gets the one's
    score for the other, and nothing else.
    """
    return xxhash.xxh3_128_digest(data)


def default_path() -> Path:
    """Return where the cache is if nobody says otherwise."""
    return cache_folder() / CACHE_NAME


def summarize(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> CacheSummary:
    """Tell what a cache file holds; a file that is not there is not made."""
    sizes = _sizes(path)
    files, size = tuple(sizes), sum(sizes.values())
    if path not in files:
        return CacheSummary(files, size, max_bytes, {})
    query = "SELECT embedding_id, count FROM spaces WHERE count > 0"
    try:
        with closing(cache_file.open_file(path, make=False)) as connection:
            return CacheSummary(files, size, max_bytes, dict(connection.execute(query).fetchall()))
    except _FAILURES as error:
        return CacheSummary(files, size, max_bytes, {}, problem=str(error))


def clear(path: Path) -> int:
    """Remove a cache file and those beside it that belong to it; return how many bytes that freed.

    Raises:
        OutputError: It belongs to another program, or cannot be removed.
    """
    freed = 0
    try:
        if path.is_file() and cache_file.is_foreign(path):
            raise OutputError(f"{path} is no cache of embeddings; it is left alone")
        for file, size in _sizes(path).items():
            file.unlink(missing_ok=True)
            freed += size
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: the cache cannot be removed: {error.strerror or error}") from error
    return freed


def _sizes(path: Path) -> dict[Path, int]:
    # SQLite removes the log beside a cache when the last connection closes, which may be right now, in
    # another thread or program.
    sizes = {}
    for file in _own_files(path):
        with suppress(FileNotFoundError):
            found = file.stat()
            if stat.S_ISREG(found.st_mode):
                sizes[file] = found.st_size
    return sizes


def _own_files(path: Path) -> Iterator[Path]:
    yield path
    yield from cache_file.extra_files(path)
    yield _aside(path)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.corrupt")


def _select(keys: list[bytes], connection: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
    # Queries of two lengths only, so that SQLite prepares each of them once.
    length = 1 if len(keys) == 1 else _KEYS_PER_QUERY
    marks = ",".join("?" * length)
    query = (
        f"SELECT k.key, v.embedding FROM keys k JOIN vectors v ON v.id = k.vector WHERE k.key IN ({marks})"
    )
    return connection.execute(query, [*keys, *[None] * (length - len(keys))]).fetchall()


def _decoded(rows: list[tuple[bytes, bytes]], dim: int) -> dict[bytes, FloatArray]:
    """Turn rows of key and float16 bytes into (D,) float32 by key; what is no embedding is left out."""
    rows = [row for row in rows if isinstance(row[1], bytes) and len(row[1]) == 2 * dim]
    if not rows:
        return {}
    stored = np.frombuffer(b"".join(embedding for _, embedding in rows), dtype="<f2")
    embeddings = stored.reshape(len(rows), dim).astype(np.float32)
    are_sound = np.logical_and.reduce(np.isfinite(embeddings), axis=1).tolist()
    found = zip(rows, embeddings, are_sound, strict=True)
    return {key: embedding for (key, _), embedding, is_sound in found if is_sound}


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # after a full disk SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _make_room(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Drop the oldest tenth until the rest fits; the pages they leave are used again."""
    while cache_file.used_bytes(connection) > max_bytes:
        oldest, newest = connection.execute("SELECT min(id), max(id) FROM vectors").fetchone()
        if oldest is None:
            return
        last = oldest + int((newest - oldest) * _EVICTED_SHARE)
        counts = "SELECT count(*), space FROM vectors WHERE id <= ? GROUP BY space"
        gone = connection.execute(counts, (last,)).fetchall()
        connection.executemany("UPDATE spaces SET count = count - ? WHERE id = ?", gone)
        connection.execute("DELETE FROM keys WHERE vector <= ?", (last,))
        connection.execute("DELETE FROM vectors WHERE id <= ?", (last,))
