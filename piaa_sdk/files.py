"""Read and write whole files so that nothing hangs and nothing is left half written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piaa_sdk.array_types import PathInput

PARTIAL_SUFFIX = ".partial"
"""How the names of files end that are not complete yet; their names begin with a dot."""

_FAR_AWAY = 1 << 40  # a byte that no file of ours has: Windows lets nobody else read what is locked
_REPLACE_ATTEMPTS = 50
_SECONDS_BETWEEN_ATTEMPTS = 0.02


def read_regular_file(path: PathInput, limit: int) -> bytes:
    """Read a file whole; never waits for a FIFO and never touches a device.

    Args:
        path: The file.
        limit: Largest size that is read, bytes.

    Raises:
        OSError: It is not there, cannot be read, is no regular file or is larger than ``limit``;
            ``strerror`` says so in words.
    """
    try:
        _check_regular(Path(path).stat())  # before opening: opening a device can already do something
        # Without O_NONBLOCK, opening a FIFO that was put there meanwhile would wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags | getattr(os, "O_CLOEXEC", 0)), "rb") as file:  # noqa: PTH123 (a descriptor)
            _check_regular(os.fstat(file.fileno()))
            data = file.read(limit + 1)
    except ValueError as error:  # a NUL character, or one that no file name can hold
        raise OSError(errno.EINVAL, "not a possible file name") from error
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit >> 20} MB")
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that whoever opens it finds the old content or the new one, never a part.

    On any failure, a full disk and Ctrl-C included, the old file is untouched.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def lock(descriptor: int) -> bool:
    """Try to be the only process that works on a file, for as long as it is open or the process lives.

    Args:
        descriptor: Of the file, open for writing.

    Returns:
        False if another one does. Where the file system knows no locks, everybody is told True.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _FAR_AWAY, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
    return True


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _replace(temporary: Path, path: Path) -> None:
    """Rename over ``path``; Windows refuses for as long as somebody has the old file open."""
    for _ in range(_REPLACE_ATTEMPTS):
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
        else:
            return
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be opened at all (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
