"""Where pictures come from: a disk, a bucket or a web server, found and read by the same two functions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from piaa_sdk.errors import ImageError
from piaa_sdk.images.files import find_files, read_file
from piaa_sdk.images.names import printable
from piaa_sdk.images.remote import find_remote, read_remote
from piaa_sdk.images.urls import RemotePicture, foreign_protocol, is_remote, shown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from piaa_sdk.array_types import PathInput


def find_images(
    paths: PathInput | Iterable[PathInput], *, recursive: bool = True
) -> Iterator[Path | RemotePicture | ImageError]:
    """Find the pictures that paths and addresses lead to, while they are being asked for.

    Args:
        paths: Files, folders, and addresses as of :func:`piaa_sdk.images.remote.find_remote`.
        recursive: Also look into the folders of a folder.

    Yields:
        Paths, as given or beginning with a folder as given; pictures elsewhere; an ImageError in the place of
        what cannot be read.
    """
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if isinstance(path, RemotePicture):
            yield path
        elif is_remote(path):
            yield from find_remote(os.fspath(path), recursive=recursive)
        elif (reason := _refusal(path)) is not None:
            yield ImageError(printable(shown_name(path)), reason)
        else:
            yield from find_files([path], recursive=recursive)


def read_bytes(path: PathInput) -> bytes:
    """Read a picture file; a file that does not begin like a picture is not read further.

    Args:
        path: A file or an address. A pipe, socket or device is refused without being read, so that nothing
            hangs.

    Returns:
        Its content.

    Raises:
        ImageError: No regular file, unreadable, empty, not a picture, or longer than ``MAX_FILE_BYTES``.
    """
    if is_remote(path):
        return read_remote(path if isinstance(path, RemotePicture) else RemotePicture(path))[0]
    reason = _refusal(path)
    if reason is not None:
        raise ImageError(printable(shown_name(path)), reason)
    return read_file(path)


def _refusal(path: PathInput) -> str | None:
    """Say why a path is none, if it is not there and looks like an address of an unknown kind."""
    reason = foreign_protocol(path)
    return None if reason is None or os.path.lexists(path) else reason
