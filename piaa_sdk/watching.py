"""Folders that photos keep arriving in.

They are looked at again and again. What a system can tell of changes by itself, it does not tell of shares in
a network, and a look costs little beside scoring what it finds.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.errors import ImageError
from piaa_sdk.images import printable
from piaa_sdk.images.files import find_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from piaa_sdk.array_types import PathInput

_INTERVAL_SECONDS = 1.0
_SETTLE_SECONDS = 2.0
_RESTS_PER_LOOK = 4  # a folder whose listing takes long is not listed all the time
_OLD_SECONDS = 600.0  # who changed a file so long ago is done with it
_POLL_SECONDS = 0.2  # Windows delivers Ctrl-C only between waits


class FolderWatch:
    """The photos in folders: those that are there, and then those that arrive.

    Going through it gives one iterator of paths per look at the folders, without an end; each has to be gone
    through before the next is asked for. A file that is being written is held back until its size and time
    have stood still for a moment. A file that was changed or replaced comes again. Folders may come and go:
    what returns unchanged does not come again.

    Example:
        ``for photos in FolderWatch(["incoming"]): scores = scorer.iter_scores(photos)``

    Args:
        folders: Where to look.
        recursive: Whether to look into the folders inside them too.
        stop: Ends the watch once it is set; None to go on until the caller leaves.
        tell: Called with a line of text when a folder is away, or back, or holds what cannot be looked at;
            once for each.
        interval: Seconds between two looks, at least.
        settle: Seconds that a file has to stand still.
    """

    def __init__(
        self,
        folders: Iterable[PathInput],
        *,
        recursive: bool = True,
        stop: threading.Event | None = None,
        tell: Callable[[str], None] | None = None,
        interval: float = _INTERVAL_SECONDS,
        settle: float = _SETTLE_SECONDS,
    ) -> None:
        self._folders = [Path(os.fsdecode(folder)) for folder in folders]
        self._names = {printable(str(folder)) for folder in self._folders}
        self._recursive = recursive
        self._stop = stop or threading.Event()
        self._tell = tell or (lambda text: None)
        self._interval = interval
        self._settle = settle
        self._given: dict[bytes, int] = {}  # what came out, and how it was then
        self._held_back: dict[bytes, tuple[int, float]] = {}  # how it was, and since when
        self._troubles: dict[str, str] = {}
        self._look_seconds = 0.0

    def __iter__(self) -> Iterator[Iterator[Path]]:
        while not self._stop.is_set():
            yield self._look()
            self._wait()

    def failed(self, image: str) -> None:
        """Take note that a photo could not be read; if it is not there any more, it comes again when it is.

        Args:
            image: Its path, as it came.
        """
        if _state(image) is None:
            self._given.pop(_key(image), None)

    def _look(self) -> Iterator[Path]:
        """Go through the folders once."""
        held_back: dict[bytes, tuple[int, float]] = {}
        troubles: dict[str, str] = {}
        spent, begin = 0.0, time.monotonic()
        for image in find_files(self._folders, recursive=self._recursive):
            if self._stop.is_set():
                return
            if isinstance(image, ImageError):
                troubles[image.source] = image.reason
            elif isinstance(image, Path) and self._is_due(str(image), held_back):
                spent += time.monotonic() - begin
                yield image
                begin = time.monotonic()
        self._held_back = held_back
        self._look_seconds = spent + time.monotonic() - begin
        self._report(troubles)

    def _is_due(self, path: str, held_back: dict[bytes, tuple[int, float]]) -> bool:
        """Tell whether a photo is new and at rest, and keep in mind what is not yet."""
        status = _state(path)
        if status is None:  # it went away meanwhile
            return False
        key, state = _key(path), hash((status.st_size, status.st_mtime_ns))
        if self._given.get(key) == state:
            return False
        now = time.monotonic()
        earlier, since = self._held_back.get(key, (None, now))
        if earlier != state:
            since = now
        if now - since < self._settle and time.time() - status.st_mtime < _OLD_SECONDS:
            held_back[key] = (state, since)
            return False
        self._given[key] = state
        return True

    def _report(self, troubles: dict[str, str]) -> None:
        for source, reason in troubles.items():
            if source in self._troubles:
                continue
            if source in self._names:
                self._tell(f"warning: {source}: {reason}; going on when it is back")
            else:
                self._tell(f"skipped: {source}: {reason}")
        for source in self._troubles.keys() - troubles.keys():
            if source in self._names:
                self._tell(f"{source} is back")
        self._troubles = troubles

    def _wait(self) -> None:
        seconds = max(self._interval, _RESTS_PER_LOOK * self._look_seconds)
        if self._held_back:
            seconds = min(seconds, max(self._settle / 2, self._look_seconds))
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._stop.wait(min(left, _POLL_SECONDS)):
            pass


def _state(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except (OSError, ValueError):
        return None


def _key(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()
