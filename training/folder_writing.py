"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.errors import OutputError, PiaaError
from piaa_sdk.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, and the folders it lies in.

    Raises:
        OutputError: The disk refuses; what stood there before stands there still.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Make a folder that results shall lie in, and see that it can be written to, before work begins.

    Raises:
        OutputError: The disk refuses, or something else is there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written to: {error.strerror or error}; name another folder"
        ) from error


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a folder out of sight and move it into place at the end.

    If the body raises, nothing of it is left and what stood at ``path`` is untouched. Whatever stops the
    program while the two folders change places, Ctrl-C included, one of them is at ``path`` afterwards.

    Args:
        path: Where the folder shall be.
        replace: Whether a folder that is there already may be replaced.

    Yields:
        An empty folder beside ``path`` to fill.

    Raises:
        OutputError: Something is at ``path`` and may not be replaced, or the disk refuses, be it in the body.
    """
    if path.exists() and not replace:
        raise OutputError(f"{path} exists already; name another folder, or replace it with --force")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder; only a folder is replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    fresh, old = scratch / "new", scratch / "old"
    try:
        fresh.mkdir()
        yield fresh
        _put_in_place(fresh, path, old)
    except PiaaError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {_reason(error, scratch)}") from error
    finally:
        # What could not be put back is all there is of the old folder.
        if path.exists() or not old.exists():
            shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(fresh: Path, path: Path, old: Path) -> None:
    try:
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    except BaseException as error:
        # Ctrl-C may come between the two steps, when there is nothing at ``path``.
        if old.exists() and not path.exists():
            _put_back(old, path, error)
        raise


def _put_back(old: Path, path: Path, cause: BaseException) -> None:
    try:
        old.rename(path)
    except OSError as error:
        raise OutputError(
            f"{path} was moved away and cannot be put back: {error.strerror or error}; it is in {old}"
        ) from cause


def _reason(error: OSError, scratch: Path) -> str:
    """Say what the system said, and of which file if it is not one of ours."""
    reason = str(error.strerror or error)
    named = error.filename
    is_other = isinstance(named, str) and not Path(named).is_relative_to(scratch)
    return f"{named}: {reason}" if is_other else reason
