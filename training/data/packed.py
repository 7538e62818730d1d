"""Pictures decoded once, as pixels on disk that training maps into memory.

::

    index.json          which preprocessing, which files, in which row their pixels are
    pixels-00000.npy    (at most 256, S, S, 3) uint8; further rows in pixels-00001.npy and so on

Files of pixels are only ever added and appear whole, so a run that was stopped, by Ctrl-C or a full disk,
loses at most the last 256 pictures and goes on from there. Pictures of equal content share a row.
"""

from __future__ import annotations

import contextlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np

from piaa_sdk.bundle import Preprocessing
from piaa_sdk.devices import cpu_count
from piaa_sdk.errors import ImageError, ModelFormatError, OutputError, PiaaError
from piaa_sdk.files import write_atomically
from piaa_sdk.images import load_image, printable, read_bytes
from training.data.ratings import picture_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from piaa_sdk.array_types import PixelArray

FORMAT_VERSION = 1
INDEX_NAME = "index.json"

_LOCK_NAME = ".lock"
_SHARD_PICTURES = 256
_AGAIN = "delete the folder and pack the pictures again"


@dataclass(frozen=True, slots=True, eq=False)
class PackedImages:
    """Packed pictures, in an order of the caller's.

    Attributes:
        folder: Where they are.
        preprocessing: How they became pixels of S x S.
        digests: (N,) :func:`training.data.ratings.picture_digest` of each picture's file.
        rows: (N,) where its pixels are, counted over all files of pixels.
        shards: Files of pixels, each (at most 256, S, S, 3) uint8, mapped from disk.
    """

    folder: Path
    preprocessing: Preprocessing
    digests: tuple[str, ...]
    rows: npt.NDArray[np.intp]
    shards: tuple[PixelArray, ...]

    @classmethod
    def open(cls, folder: Path) -> PackedImages:
        """Open all pictures that a folder holds, in the order in which they were packed.

        Raises:
            ModelFormatError: The folder is damaged, of a newer version, or holds no packed pictures.
        """
        index = _Index.read(folder)
        if index is None:
            raise ModelFormatError(f"{printable(str(folder))} holds no packed pictures; pack them first")
        return _opened(folder, index, range(len(index.digests)))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> PixelArray:
        """Read the pixels of some pictures.

        Args:
            indices: (n,) positions among the N pictures, in any order, repeated ones included.

        Returns:
            (n, S, S, 3) uint8 RGB, a copy.

        Raises:
            IndexError: A position is negative or not below N.
        """
        positions = np.asarray(indices, dtype=np.intp)
        if positions.size and (positions.min() < 0 or positions.max() >= len(self.rows)):
            raise IndexError(f"positions must be 0 to {len(self.rows) - 1}")
        size = self.preprocessing.size
        pixels = np.empty((len(positions), size, size, 3), dtype=np.uint8)
        starts = np.cumsum([0, *map(len, self.shards)])
        rows = self.rows[positions]
        for place, (row, shard) in enumerate(
            zip(rows, np.searchsorted(starts, rows, side="right") - 1, strict=True)
        ):
            pixels[place] = self.shards[shard][row - starts[shard]]
        return pixels


def pack(
    paths: Sequence[Path],
    folder: Path,
    preprocessing: Preprocessing,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackedImages:
    """Decode pictures into a folder, those that are there already left out.

    A file is known again by its path, size and time of change, or else by its content. Only one process
    packs into a folder at a time; others wait and find the work done.

    Args:
        paths: N picture files.
        folder: Made if it is not there; holds pictures of one preprocessing.
        preprocessing: How a picture becomes pixels.
        workers: Threads that decode; None takes the cores that this process may use.
        progress: Called with the pictures done and all pictures that have to be read.

    Returns:
        The N pictures, in the order of ``paths``.

    Raises:
        ImageError: A picture cannot be read; those before it are kept.
        ModelFormatError: The folder is damaged or holds pictures of another preprocessing.
        OutputError: The folder cannot be written.
    """
    with _locked(folder):
        index = _Index.read(folder)
        if index is None:
            index = _Index(preprocessing)
            index.write(folder)
        if index.preprocessing != preprocessing:
            raise ModelFormatError(
                f"{printable(str(folder))} holds pictures packed with {index.preprocessing.to_json()}, not "
                f"{preprocessing.to_json()}; name another folder"
            )
        _opened(folder, index, [])  # what is damaged should be found before hours of work are added
        todo = [path for path in dict.fromkeys(paths) if index.row_of(path) is None]
        with ThreadPoolExecutor(workers or cpu_count()) as pool:
            for start in range(0, len(todo), _SHARD_PICTURES):
                part = todo[start : start + _SHARD_PICTURES]
                _add(folder, index, pool, part)
                if progress is not None:
                    progress(start + len(part), len(todo))
        return _opened(folder, index, [index.files[_key(path)][2] for path in paths])


@dataclass(slots=True)
class _Index:
    """What ``index.json`` holds.

    Attributes:
        preprocessing: Of all pixels.
        digests: Of the content of the file behind each row.
        lengths: Rows of each file of pixels.
        files: Size, time of change and row of each file, by its absolute path.
    """

    preprocessing: Preprocessing
    digests: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> _Index | None:
        """Read the index of a folder; None if it has none.

        Raises:
            ModelFormatError: It is damaged or newer than this version.
        """
        path = folder / INDEX_NAME
        try:
            data = json.loads(path.read_bytes())
            found = data["format_version"]
            if found not in range(1, FORMAT_VERSION + 1):
                raise ModelFormatError(
                    f"{printable(str(path))}: format_version is {found!r}, this version reads 1 to "
                    f"{FORMAT_VERSION}; {_AGAIN}"
                )
            index = cls(
                preprocessing=Preprocessing.from_json(data["preprocessing"]),
                digests=[str(digest) for digest in data["digests"]],
                lengths=[int(length) for length in data["lengths"]],
                files={
                    name: (int(size), int(time), int(row))
                    for name, (size, time, row) in data["files"].items()
                },
            )
            is_whole = sum(index.lengths) == len(index.digests)
            if not is_whole or any(not 0 <= row < len(index.digests) for _, _, row in index.files.values()):
                raise ValueError("the numbers of rows contradict each other")
        except FileNotFoundError:
            return None
        except ModelFormatError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelFormatError(f"{printable(str(path))} is damaged ({error!r}); {_AGAIN}") from error
        return index

    def write(self, folder: Path) -> None:
        data = {
            "format_version": FORMAT_VERSION,
            "preprocessing": self.preprocessing.to_json(),
            "lengths": self.lengths,
            "digests": self.digests,
            "files": self.files,
        }
        write_atomically(folder / INDEX_NAME, json.dumps(data).encode())

    def row_of(self, path: Path) -> int | None:
        """Return the row of a file that is as it was when it was packed."""
        size, time, row = self.files.get(_key(path), (-1, -1, -1))
        return row if (size, time) == _stamp(path) else None


def _add(folder: Path, index: _Index, pool: ThreadPoolExecutor, paths: Sequence[Path]) -> None:
    """Decode files, and write one more file of pixels and the index."""
    rows = {digest: row for row, digest in enumerate(index.digests)}
    stamps = [_stamp(path) for path in paths]  # taken first: a file that changes meanwhile is read again

    def read(path: Path) -> tuple[str, PixelArray | None]:
        data = read_bytes(path)
        digest = picture_digest(data)
        return digest, None if digest in rows else load_image(data, index.preprocessing, str(path))

    fresh: dict[str, PixelArray] = {}
    for path, stamp, (digest, pixels) in zip(paths, stamps, pool.map(read, paths), strict=True):
        if pixels is not None and digest not in fresh:
            rows[digest] = len(index.digests) + len(fresh)
            fresh[digest] = pixels
        index.files[_key(path)] = (*stamp, rows[digest])
    if fresh:
        buffer = io.BytesIO()
        np.save(buffer, np.stack(list(fresh.values())), allow_pickle=False)
        write_atomically(folder / _shard_name(len(index.lengths)), buffer.getvalue())
        index.lengths.append(len(fresh))
        index.digests += fresh
    index.write(folder)


def _opened(folder: Path, index: _Index, rows: Sequence[int]) -> PackedImages:
    """Map the files of pixels; ``rows`` are those of the pictures wanted."""
    size = index.preprocessing.size
    shards = []
    for number, length in enumerate(index.lengths):
        path = folder / _shard_name(number)
        try:
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
            if shard.shape != (length, size, size, 3) or shard.dtype != np.uint8:
                raise ValueError(f"{shard.dtype} {shard.shape} in the place of {length} pictures")
        except (OSError, ValueError, EOFError) as error:
            raise ModelFormatError(f"{printable(str(path))} is damaged ({error}); {_AGAIN}") from error
        shards.append(shard)
    return PackedImages(
        folder=folder,
        preprocessing=index.preprocessing,
        digests=tuple(index.digests[row] for row in rows),
        rows=np.array(rows, dtype=np.intp),
        shards=tuple(shards),
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from packing into a folder; what the disk refuses meanwhile is our error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / _LOCK_NAME):
            yield
    except PiaaError:
        raise
    except OSError as error:
        raise OutputError(
            f"{printable(str(folder))}: pictures cannot be packed: {error.strerror or error}"
        ) from error


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of change of a picture file."""
    try:
        status = path.stat()
    except OSError as error:
        raise ImageError(printable(str(path)), f"cannot be read: {error.strerror or error}") from error
    return status.st_size, status.st_mtime_ns


def _key(path: Path) -> str:
    return str(path.absolute())


def _shard_name(number: int) -> str:
    return f"pixels-{number:05}.npy"
