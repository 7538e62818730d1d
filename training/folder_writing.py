"""Folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a folder out of sight and move it into place at the end.

    If the body raises, nothing of it is left and what stood at ``path`` is untouched.

    Args:
        path: Where the folder shall be.
        replace: Whether a folder that is there already may be replaced.

    Yields:
        An empty folder beside ``path`` to fill.

    Raises:
        OutputError: Something is at ``path`` and may not be replaced, or the disk refuses.
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
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        yield fresh
        _put_in_place(fresh, path, scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(fresh: Path, path: Path, old: Path) -> None:
    try:
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
