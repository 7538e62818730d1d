"""Photos elsewhere are fetched before their turn comes, so that the processor never waits for the network.

Threads fetch, in the order of the photos and many at a time, into a buffer that is bounded in photos and in
bytes. What has arrived is handed on at once, whatever came before it: so whoever decodes takes what is there,
and the buffer empties even while one photo keeps everybody waiting for its place in the order.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from piaa_sdk.devices import cpu_count
from piaa_sdk.embedding_cache import FileStamp
from piaa_sdk.errors import DeviceError
from piaa_sdk.images import (
    Calls,
    RemotePicture,
    StoppedError,
    examine_remote,
    hides_part,
    read_remote,
    shown_url,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from piaa_sdk.array_types import FloatArray

_THREADS_PER_CORE = 4
_FEWEST_THREADS = 16
_PHOTOS_PER_THREAD = 4

NO_THREAD = "can't start new thread"
"""What Python says where the system gives it none."""

_open: weakref.WeakSet[ReadAhead] = weakref.WeakSet()


@dataclass(slots=True, eq=False)
class Fetch:
    """One photo on its way.

    Attributes:
        picture: Which.
        arrived: Called with this when it is fetched, known or failed, in the thread that fetched it.
        data: Its content, once it is there.
        embedding: (D,) float32, if it turned out to be known; then nothing was fetched.
        error: Why it cannot be read.
        stamp: What it is known by, None as long as its server does not say.
    """

    picture: RemotePicture
    arrived: Callable[[Fetch], None] = field(repr=False)
    data: bytes | None = None
    embedding: FloatArray | None = None
    error: Exception | None = None
    stamp: FileStamp | None = None
    _room: _Room | None = field(default=None, repr=False)

    def release(self) -> None:
        """Let go of the content: what holds it is free for another photo."""
        self.data = None
        if self._room is not None:
            self._room.leave()
            self._room = None


def stamp_of(picture: RemotePicture) -> FileStamp | None:
    """Stamp a photo elsewhere; None if not enough is known of it."""
    if picture.size is None or picture.version is None:
        return None
    if hides_part(picture) and '"' not in picture.version:
        return None  # a time and a size alone: that may be another photo, which is shown alike
    return FileStamp.of_remote(shown_url(picture.url), picture.size, picture.version)


class ReadAhead:
    """Fetches photos, the first given first.

    Args:
        find: Looks a stamp up; None to fetch everything.
        max_bytes: Of what has been fetched and not been released. A larger photo is fetched when it is alone;
            one at a time whose server states no size, and that turns out to be large, comes on top.
        threads: How many are fetched at once; by default four per core, and 16 at least.
    """

    def __init__(
        self,
        find: Callable[[FileStamp], FloatArray | None] | None,
        max_bytes: int,
        threads: int | None = None,
    ) -> None:
        self._find = find
        self._threads = threads or max(_FEWEST_THREADS, _THREADS_PER_CORE * cpu_count())
        self._buffer = _Buffer(_PHOTOS_PER_THREAD * self._threads, max_bytes)
        self._calls = Calls()
        self._lock = threading.Lock()
        self._pending: deque[Fetch] = deque()
        self._running: set[threading.Thread] = set()
        self._is_stopped = False
        _open.add(self)

    def add(self, fetches: list[Fetch]) -> None:
        """Take on photos to fetch.

        Raises:
            DeviceError: Not one thread could be started.
        """
        if not fetches:
            return
        with self._lock:
            self._pending.extend(fetches)
            for _ in range(min(self._threads - len(self._running), len(self._pending))):
                # Daemons: a program that ends does not wait for servers.
                thread = threading.Thread(target=self._work, name="piaa-fetch", daemon=True)
                try:
                    thread.start()  # it waits for the lock before it does anything
                except RuntimeError as error:
                    is_ending = NO_THREAD not in str(error)
                    if self._running or is_ending:  # those that could be started go on alone
                        break
                    raise DeviceError(
                        f"cpu: no thread could be started ({error}): there is not enough memory; "
                        "close other programs"
                    ) from error
                self._running.add(thread)

    def stop(self) -> None:
        """Give up what is on its way; return when no thread is left."""
        if sys.is_finalizing():  # it was stopped before; and whoever holds a lock by now never lets go of it
            return
        with self._lock:
            self._is_stopped = True
            self._pending.clear()
            running = list(self._running)
        self._calls.stop()
        self._buffer.lift()
        for thread in running:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    self._running.discard(threading.current_thread())
                    return
                fetch = self._pending.popleft()
            room = fetch._room = _Room(self._buffer)
            try:
                room.enter()
                self._fetch(fetch, room)
            except StoppedError:
                pass
            except Exception as error:  # noqa: BLE001 (raised where the result is taken)
                fetch.error = error
            if fetch.data is None:
                fetch.release()
            if not self._is_stopped:
                fetch.arrived(fetch)

    def _fetch(self, fetch: Fetch, room: _Room) -> None:
        """Fetch a photo, unless what its server says of it shows that it is known.

        Raises:
            ImageError: It cannot be read.
            StoppedError: Nobody wants it any more.
        """
        fetch.stamp = stamp_of(fetch.picture)  # looked up before, if it is there
        if self._find is not None and fetch.stamp is None:
            fetch.picture = examine_remote(fetch.picture.url, self._calls)
            fetch.stamp = stamp_of(fetch.picture)
            fetch.embedding = None if fetch.stamp is None else self._find(fetch.stamp)
            if fetch.embedding is not None:
                return
        data, version = read_remote(fetch.picture, self._calls, room.hold)
        if fetch.stamp is not None and (
            len(data) != fetch.picture.size or version not in (None, fetch.picture.version)
        ):
            fetch.stamp = None  # it has changed meanwhile
        room.hold(len(data))
        fetch.data = data


@atexit.register
def _stop_all() -> None:
    """Stop what a program that ends has left running, while its threads still can."""
    for ahead in list(_open):
        ahead.stop()


class _Buffer:
    """Bounds the photos that are fetched and not decoded, in number and in bytes.

    Nobody waits for ever. Who holds no bytes may wait for all others. Who holds some, and finds there are to
    be more, waits for room or for its turn to go beyond the bound; whose turn it is waits for nobody.
    """

    def __init__(self, max_photos: int, max_bytes: int) -> None:
        self._max_photos, self._max_bytes = max_photos, max_bytes
        self._photos = self._bytes = 0
        self._is_open = False
        self._beyond: _Room | None = None  # whose turn it is, until it has left or begins again
        self._changed = threading.Condition()

    def wait_for_place(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._photos < self._max_photos)
            self._photos += 1

    def exchange(self, room: _Room, held: int, wanted: int) -> None:
        """Hold other bytes than before; wait where they are more."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_open
                    or wanted <= held
                    or self._bytes - held + wanted <= self._max_bytes
                    or (self._beyond in (None, room) if held else not self._bytes)
                )
            )
            self._bytes += wanted - held
            if held and wanted > held and self._bytes > self._max_bytes:
                self._beyond = room
            elif not wanted:
                self._end_turn(room)
            self._changed.notify_all()

    def give_back(self, room: _Room, held: int) -> None:
        with self._changed:
            self._photos -= 1
            self._bytes -= held
            self._end_turn(room)
            self._changed.notify_all()

    def _end_turn(self, room: _Room) -> None:
        if self._beyond is room:
            self._beyond = None

    def lift(self) -> None:
        """Let everybody pass."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()


class _Room:
    """What one photo takes of the buffer."""

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer = buffer
        self._bytes = 0
        self._is_inside = False

    def enter(self) -> None:
        self._buffer.wait_for_place()
        self._is_inside = True

    def hold(self, size: int) -> None:
        """Hold so many bytes, instead of what was held before."""
        self._buffer.exchange(self, self._bytes, size)
        self._bytes = size

    def leave(self) -> None:
        if self._is_inside:
            self._buffer.give_back(self, self._bytes)
            self._is_inside = False
