"""Pictures elsewhere: which there are under an address, and their bytes. Nothing here can hang for good."""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from piaa_sdk.errors import ImageError
from piaa_sdk.images.files import FOLDER_NAMED_LIKE_A_PICTURE, STRETCH, has_image_suffix, sort_key
from piaa_sdk.images.formats import HEADER_BYTES, UNKNOWN_FORMAT, recognize
from piaa_sdk.images.limits import MAX_FILE_BYTES
from piaa_sdk.images.names import display_name, printable
from piaa_sdk.images.remote_clients import SECONDS_BEFORE_RETRIES, Calls, Page, client_for
from piaa_sdk.images.remote_failures import RemoteFailure
from piaa_sdk.images.urls import RemotePicture, protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_UNSTATED_BYTES = 64 << 20  # of a file whose server does not state its size
_FIRST_UNSTATED_BYTES = 8 << 20  # that room is made for first, enough for most; then twice as much each time
_WEB_PAGE_MARKS = (b"<!doctype html", b"<html")
_Answer = TypeVar("_Answer")
_Entry: TypeAlias = "tuple[tuple[str | int, ...], str, bool, RemotePicture]"


def find_remote(
    url: str, *, recursive: bool = True, calls: Calls | None = None
) -> Iterator[RemotePicture | ImageError]:
    """Find the pictures that an address leads to, folder by folder, while they are being asked for.

    A web address is one picture. In a bucket, what ends in a slash is a folder, what ends like a picture is
    one, and the server is asked about all else. Folders are listed as :func:`find_images` lists those of a
    disk: by the same suffixes, in the same order, without what begins with a dot.

    Args:
        url: One address.
        recursive: Also look into the folders of a folder.
        calls: What the requests belong to; None for some of their own.

    Yields:
        Pictures, with size and version where a listing told them; an ImageError in the place of what cannot
        be listed.
    """
    if protocol_of(url) in ("http", "https"):
        yield RemotePicture(url)
        return
    calls = Calls() if calls is None else calls
    place = url.partition("://")[2]
    url = f"{protocol_of(url)}://{place}"
    if not place.strip("/"):
        yield ImageError(printable(url), "names no bucket")
        return
    is_folder = place.endswith("/") or "/" not in place
    if not is_folder and has_image_suffix(place):
        yield RemotePicture(url)
        return
    if not is_folder:
        try:
            picture = _asked(lambda: client_for(url).examine(url, calls), calls)
        except RemoteFailure as failure:
            yield ImageError(printable(url), failure.reason)
            return
        if picture is not None:
            yield picture
            return
    yield from _walk(url if url.endswith("/") else f"{url}/", recursive, calls)


def examine_remote(url: str, calls: Calls | None = None) -> RemotePicture:
    """Find out size and version of a picture without reading it, as far as its server tells.

    Raises:
        ImageError: It is not there, or a folder.
        StoppedError: ``calls`` were stopped.
    """
    calls = Calls() if calls is None else calls
    try:
        picture = _asked(lambda: client_for(url).examine(url, calls), calls)
    except RemoteFailure as failure:
        if failure.status in (404, 410):
            raise _error(url, failure.reason) from None
        return RemotePicture(url)  # reading it tells what is wrong
    if picture is None:
        raise _error(url, "a folder, not a picture file; end its address in a slash")
    return picture


def read_remote(
    picture: RemotePicture, calls: Calls | None = None, make_room: Callable[[int], None] | None = None
) -> tuple[bytes, str | None]:
    """Read a picture; a file that does not begin like a picture is not read further.

    Args:
        picture: Which; its size is asked for if it is not known.
        calls: What the requests belong to; None for some of their own.
        make_room: Called with the bytes that are about to be held in all, before they are; may wait. With 0
            where nothing is held: at the beginning, and before what failed is tried again.

    Returns:
        Its content, and its version as far as the server told while it was read.

    Raises:
        ImageError: It cannot be reached, or is empty, not a picture, or longer than ``MAX_FILE_BYTES``.
        StoppedError: ``calls`` were stopped.
    """
    calls = Calls() if calls is None else calls
    try:
        return _asked(lambda: _read(picture, calls, make_room), calls)
    except RemoteFailure as failure:
        raise _error(picture.url, failure.reason) from None
    except MemoryError as error:
        raise _error(picture.url, "not enough memory to read it") from error


def _read(
    picture: RemotePicture, calls: Calls, make_room: Callable[[int], None] | None
) -> tuple[bytes, str | None]:
    if picture.size is not None and picture.size > MAX_FILE_BYTES:
        raise _too_large(picture.url, picture.size)
    if make_room is not None:
        make_room(0)
    with client_for(picture.url).opened(picture, calls) as body:
        if body.size is not None and body.size > MAX_FILE_BYTES:
            raise _too_large(picture.url, body.size)
        start = b"" if body.size == 0 else b"".join(body.read(HEADER_BYTES))
        if not start:
            raise _error(picture.url, "the file is empty")
        if recognize(start) is None:
            is_page = start[:1024].lstrip().lower().startswith(_WEB_PAGE_MARKS)
            raise _error(picture.url, "a web page, not a picture" if is_page else UNKNOWN_FORMAT)
        limit = _MAX_UNSTATED_BYTES if body.size is None else body.size
        room = limit if body.size is not None else min(_FIRST_UNSTATED_BYTES, limit)
        parts, count = [start], len(start)
        while count <= limit:
            if make_room is not None:
                make_room(room)
            more = body.read(room + 1 - count)
            parts += more
            count += sum(map(len, more))
            if count <= room:
                return b"".join(parts), body.version
            room = min(2 * room, limit)
        if body.size is None:
            raise _error(picture.url, f"longer than {limit >> 20} MB, and its server does not state its size")
        raise _error(picture.url, "it has become longer since it was listed; try again")


def _asked(ask: Callable[[], _Answer], calls: Calls) -> _Answer:
    """Ask, and once or twice more if what went wrong may pass."""
    for seconds in SECONDS_BEFORE_RETRIES:
        try:
            return ask()
        except RemoteFailure as failure:
            if not failure.is_passing:
                raise
        calls.pause(seconds)
    return ask()


def _walk(folder: str, recursive: bool, calls: Calls) -> Iterator[RemotePicture | ImageError]:
    """List a folder, whose address ends in a slash, and, with a stack of our own, what is below."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        folders = []
        try:
            for stretch in _stretches(folder, calls):
                for _, name, is_folder, picture in sorted(stretch, key=itemgetter(0, 1, 2)):
                    if is_folder and recursive:
                        folders.append(picture.url)
                    if has_image_suffix(name):
                        error = ImageError(printable(picture.url), FOLDER_NAMED_LIKE_A_PICTURE)
                        yield error if is_folder else picture
        except RemoteFailure as failure:
            yield ImageError(printable(folder), failure.reason)
        waiting.extend(reversed(folders))


def _stretches(folder: str, calls: Calls) -> Iterator[list[_Entry]]:
    """Yield what is in a folder and not hidden, thousands at a time, so that a large one starts at once.

    Raises:
        RemoteFailure: It cannot be listed, or not to its end.
    """
    entries: list[_Entry] = []
    token = None
    while True:
        try:
            page = _asked(partial(_page, folder, token, calls), calls)
        except RemoteFailure:
            yield entries
            raise
        for picture, is_folder in page.entries:
            name = picture.url.removeprefix(folder).rstrip("/")
            if not name.startswith("."):
                entries.append((sort_key(name), name, is_folder, picture))
        token = page.token
        if token is None or len(entries) >= STRETCH:
            yield entries
            entries = []
        if token is None:
            return


def _page(url: str, token: str | None, calls: Calls) -> Page:
    return client_for(url).page(url, token, calls)


def _error(url: str, reason: str) -> ImageError:
    return ImageError(printable(display_name(url, 0)), reason)


def _too_large(url: str, size: int) -> ImageError:
    return _error(url, f"too large: a file of {size / 1e9:.1f} GB; at most 1 GB is read")
