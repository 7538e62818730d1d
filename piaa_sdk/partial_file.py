"""Files that one run at a time works on, from its first row to its last: ``FILE.partial``."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from piaa_sdk.errors import OutputError, PiaaError
from piaa_sdk.files import lock
from piaa_sdk.images import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TRIES = 5


@contextmanager
def writing_to(name: str, kept: str = "") -> Iterator[None]:
    """Say in one line what could not be written; a reader that went away is for the caller to notice."""
    try:
        yield
    except (PiaaError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(f"{name}: cannot be written: {error.strerror or error}{kept}") from error


def set_aside(path: Path) -> Path | None:
    """Give what an earlier run left another name, so that it is not lost.

    Returns:
        The new name; None if there was nothing.

    Raises:
        OutputError: Another process works on it, or it cannot be renamed.
    """
    name = printable(str(path))
    with writing_to(name):
        if not os.path.lexists(path):
            return None
        file = _existing(path) if path.is_file() else None
        try:
            if file is not None and not lock(file.fileno()):
                raise _busy(name)
            if file is not None and sys.platform == "win32":
                file.close()  # what is open has its name for good there
            number = 1
            while os.path.lexists(free := path.with_name(f"{path.name}.{number}")):
                number += 1
            return path.rename(free)
        finally:
            if file is not None:
                file.close()


def open_alone(path: Path, name: str, *, resume: bool) -> IO[bytes]:
    """Open a file that no other process works on, a new one if there is none.

    Raises:
        OutputError: Another process does.
    """
    for _ in range(_TRIES):
        file = _existing(path) if resume else None
        if file is None:
            try:
                file = path.open("x+b", buffering=0)
            except FileExistsError:
                if not resume:
                    raise
                continue
        if not lock(file.fileno()):
            file.close()
            raise _busy(name)
        # The other run may have been done, and have taken its file away, between the two steps.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()
    raise _busy(name)


def close_and_remove(file: IO[bytes], path: Path) -> None:
    """Take a file away that `open_alone` has opened.

    Raises:
        OSError: The system refuses.
    """
    opened = os.fstat(file.fileno())
    if sys.platform == "win32":
        file.close()  # what is open stays there
    try:
        # While it is locked: whoever waits for it must not begin to write what is about to go. And somebody
        # may have moved it, and another run have begun under its name.
        if path.exists() and os.path.samestat(opened, path.stat()):
            path.unlink()
    finally:
        file.close()


def _existing(path: Path) -> IO[bytes] | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return path.open("r+b", buffering=0)
    except FileNotFoundError:
        return None


def _busy(name: str) -> OutputError:
    return OutputError(
        f"{name}: another run of piaa is writing it; wait until that one is done, or name another --output"
    )
