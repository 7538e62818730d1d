"""Files and folders: which pictures there are, and their bytes. Nothing here can hang."""

from __future__ import annotations

import os
import re
import stat
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.errors import ImageError, OutputError
from piaa_sdk.images.formats import HEADER_BYTES, IMAGE_SUFFIXES, UNKNOWN_FORMAT, recognize
from piaa_sdk.images.limits import MAX_FILE_BYTES
from piaa_sdk.images.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from piaa_sdk.array_types import PathInput

# Not every system has every flag; O_NONBLOCK keeps a pipe put in the place of a file from blocking.
_OPEN_FLAGS = sum(
    getattr(os, flag, 0) for flag in ("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
_DIGITS = re.compile("([0-9]+)")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
STRETCH = 10_000
"""Entries of a folder that are put in order together."""

FOLDER_NAMED_LIKE_A_PICTURE = "a folder, not a picture"
"""Said of a folder whose name is one for a picture."""


def find_files(paths: Iterable[PathInput], *, recursive: bool = True) -> Iterator[Path | ImageError]:
    """Find the pictures that paths lead to, folder by folder, while they are being asked for.

    A file that is named is taken whatever its suffix. In a folder the files with a suffix of
    ``IMAGE_SUFFIXES`` are taken, in the order of their names (``img2`` before ``img10``), then those of its
    folders. A folder of more than ten thousand files comes in stretches that are each in order. Names that
    begin with a dot are left out: hidden files, and the ``._`` companions of macOS. Links to folders are
    followed, but each folder is read once per path that was given.

    Args:
        paths: Files and folders.
        recursive: Also look into the folders of a folder.

    Yields:
        Paths, as given or beginning with a folder as given; an ImageError in the place of what cannot be
        read: a missing file, a folder without permission, a link that leads nowhere, a folder named like a
        picture (its content is looked at nevertheless).
    """
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        name = os.fsdecode(path)
        try:
            mode = _mode(name)
        except (OSError, ValueError) as error:
            yield ImageError(printable(name), _why(error))
            continue
        if stat.S_ISDIR(mode):
            if has_image_suffix(name):
                yield ImageError(printable(name), FOLDER_NAMED_LIKE_A_PICTURE)
            yield from _walk(Path(name), recursive)
        else:
            yield Path(name)


def refuse_photo_name(path: Path) -> None:
    """Refuse to write to what is called like a photo, itself or where a link leads.

    Raises:
        OutputError: It is.
    """
    if {path.suffix.lower(), Path(os.path.realpath(path)).suffix.lower()} & IMAGE_SUFFIXES:
        raise OutputError(
            f"{printable(str(path))}: this is a name for a photo; give the file another one, as in scores.csv"
        )


def read_file(path: PathInput) -> bytes:
    """Read a picture file; a file that does not begin like a picture is not read further.

    Args:
        path: A file. A pipe, socket or device is refused without being read, so that nothing hangs.

    Returns:
        Its content.

    Raises:
        ImageError: No regular file, unreadable, empty, not a picture, or longer than ``MAX_FILE_BYTES``.
    """
    name = os.fsdecode(path)
    source = printable(name)
    try:
        _check_regular(_mode(name), source)
        with os.fdopen(os.open(name, _OPEN_FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(status.st_mode, source)  # it may have been exchanged since
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(
                    source, f"too large: a file of {status.st_size / 1e9:.1f} GB; at most 1 GB is read"
                )
            start = file.read(HEADER_BYTES)
            if not start:
                raise ImageError(source, "the file is empty")
            if recognize(start) is None:
                raise ImageError(source, UNKNOWN_FORMAT)
            file.seek(0)
            return file.read(status.st_size)
    except ImageError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(source, _why(error)) from error


def _walk(folder: Path, recursive: bool) -> Iterator[Path | ImageError]:
    """List a folder and, with a stack of our own, what is below: paths can be deeper than Python's calls."""
    waiting = [folder]
    seen: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.pop()
        folders = []
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for name, is_folder in _entries(folder):
                if is_folder and recursive:
                    folders.append(folder / name)
                if has_image_suffix(name):
                    path = folder / name
                    yield (
                        ImageError(printable(str(path)), FOLDER_NAMED_LIKE_A_PICTURE) if is_folder else path
                    )
        except OSError as error:
            yield ImageError(printable(str(folder)), _why(error))
        waiting.extend(reversed(folders))


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield what lies in a folder and is not hidden, in the order of the names: name, whether a folder.

    A very large folder comes in stretches that are each in order, so that the first picture does not wait
    for the last one's name to be read.
    """
    with os.scandir(folder) as entries:
        while stretch := list(islice(entries, STRETCH)):
            named = [(sort_key(entry.name), entry.name, _is_folder(entry)) for entry in stretch]
            for _, name, is_folder in sorted(named):
                if not name.startswith("."):
                    yield name, is_folder


def _mode(name: str) -> int:
    if not name:
        raise ValueError("the path is empty")
    return Path(name).stat().st_mode


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: whoever reads it says so
        return False


def has_image_suffix(name: str) -> bool:
    """Tell whether a name ends as those of pictures do."""
    # os.path costs a fifth of what Path does, which shows in a folder of a million.
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def sort_key(name: str) -> tuple[str | int, ...]:
    """Order names regardless of case, numbers by value."""
    return tuple(
        int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(name.casefold()))
    )


def _check_regular(mode: int, source: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        raise ImageError(source, f"{kind}, not a picture file")


def _why(error: Exception) -> str:
    """Say in a few words why the system refuses a path."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MemoryError):
        return "not enough memory to read it"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text[:1].lower() + text[1:])
