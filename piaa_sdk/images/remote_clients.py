"""Asking servers, through the clients of fsspec: one per protocol and process, made when it is first needed.

The clients run in one event loop, in a thread of fsspec's. Here are its waiting rooms: every call from
another thread ends when the answer is there, when the time is up, or when nobody wants it any more.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from piaa_sdk import __version__
from piaa_sdk.errors import MissingDependencyError
from piaa_sdk.images.remote_failures import (
    RemoteFailure,
    StoppedError,
    failure_of,
    failure_of_status,
    library_errors,
)
from piaa_sdk.images.urls import RemotePicture, protocol_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Iterator

CONNECT_SECONDS = 10.0
"""How long a server may take to be reached."""

SILENT_SECONDS = 30.0
"""How long it may say nothing."""

REQUEST_SECONDS = 300.0
"""How long one request may take in all, and again for every further stretch of a large file."""

_BYTES_IN_TIME = 8 << 20  # such a stretch

SECONDS_BEFORE_RETRIES = (0.5, 2.0)
"""How long is waited before a request is made again that failed for what may pass."""

_POLL_SECONDS = 0.2  # Windows delivers Ctrl-C only between waits
_CONNECTIONS = 1024  # never the limit: the callers are
_VERSIONS = ("generation", "ETag", "etag", "Last-Modified")
_NOTHING_THERE = 416  # the answer to who asks for what is behind the end
_FIRST_BYTES = 1 << 20  # the first part that is asked of a bucket, enough for most small pictures

_Answer = TypeVar("_Answer")


class Calls:
    """The calls that somebody waits for; they are given up together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._stopped = threading.Event()

    def run(
        self, work: Coroutine[Any, Any, _Answer], loop: asyncio.AbstractEventLoop, size: int = 0
    ) -> _Answer:
        """Have work done in an event loop and wait for its answer.

        Args:
            work: What is to be done.
            loop: Where.
            size: Bytes that it fetches, as far as that is known.

        Raises:
            RemoteFailure: It failed.
            StoppedError: Nobody wants the answer any more.
        """
        import asyncio  # takes as long to import as typer, and most photos are on a disk

        with self._lock:
            if self._stopped.is_set():
                work.close()
                raise StoppedError
            running = asyncio.run_coroutine_threadsafe(_outcome(work, size), loop)
            self._running.add(running)
        try:
            while not wait((running,), _POLL_SECONDS).done:
                pass
            answers, failure = running.result()
        except CancelledError:
            raise StoppedError from None
        finally:
            running.cancel()  # after Ctrl-C it is still running
            with self._lock:
                self._running.discard(running)
        if failure is not None:
            raise failure
        return answers[0]

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            StoppedError: Nobody wants the answer any more.
        """
        if self._stopped.wait(seconds):
            raise StoppedError

    def stop(self) -> None:
        """Give up all that is running, and all that may come."""
        with self._lock:
            self._stopped.set()
            running = list(self._running)
        for call in running:
            call.cancel()


async def _outcome(
    work: Coroutine[Any, Any, _Answer], size: int
) -> tuple[list[_Answer], RemoteFailure | None]:
    """Return what comes of work: were it raised, asyncio would report whatever nobody waits for any more."""
    import asyncio

    try:
        seconds = REQUEST_SECONDS * max(1.0, size / _BYTES_IN_TIME)
        return [await asyncio.wait_for(work, seconds)], None
    except RemoteFailure as failure:
        return [], failure
    except library_errors() as error:
        # The error itself is not kept: what it says, and what it holds, is the address with its secrets.
        return [], failure_of(error)


class Body(Protocol):
    """What is in a file elsewhere, read from its beginning.

    Attributes:
        size: Bytes that the server states; None if it states nothing.
        version: As of :class:`RemotePicture`.
    """

    size: int | None
    version: str | None

    def read(self, size: int) -> list[bytes]:
        """Read on, in pieces to be joined; less than ``size`` only at the end.

        Raises:
            RemoteFailure, StoppedError: As of :meth:`Calls.run`.
        """


class Page(NamedTuple):
    """Part of a listing: pictures, each with whether it is a folder, and what to ask for the next part with.

    The addresses of folders end in a slash.
    """

    entries: list[tuple[RemotePicture, bool]]
    token: str | None


class Client(Protocol):
    """What can be asked of every kind of source. All of it raises as :meth:`Calls.run` does."""

    def examine(self, url: str, calls: Calls) -> RemotePicture | None:
        """Find out size and version of a file; None if it is a folder."""

    def opened(self, picture: RemotePicture, calls: Calls) -> Any:
        """Return a context manager that gives the :class:`Body`."""

    def page(self, url: str, token: str | None, calls: Calls) -> Page:
        """List the next part of what is directly in a folder, whose address ends in a slash."""


class WebClient:
    """Web servers: ``https`` and ``http``."""

    def __init__(self) -> None:
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        async def session(**settings: Any) -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CONNECTIONS), **settings)

        timeout = _patience()
        # Content that is packed for the way says nothing about its size.
        headers = {"User-Agent": f"piaa-sdk/{__version__}", "Accept-Encoding": "identity"}
        self._system = HTTPFileSystem(
            skip_instance_cache=True,
            get_client=session,
            client_kwargs={"timeout": timeout, "headers": headers, "trust_env": True},
        )

    def examine(self, url: str, calls: Calls) -> RemotePicture | None:
        """Ask for the headers alone; a server that does not like that is not asked again."""
        response = calls.run(self._request("HEAD", url), self._system.loop)
        try:
            if response.status in (404, 410):
                raise failure_of_status(response.status)
            if response.status != 200:
                return RemotePicture(url)
            return RemotePicture(url, _stated_size(response), _version(response.headers))
        finally:
            self._system.loop.call_soon_threadsafe(response.close)

    @contextmanager
    def opened(self, picture: RemotePicture, calls: Calls) -> Iterator[Body]:
        """Ask for the file; what has not been read at the end is not sent."""
        response = calls.run(self._request("GET", picture.url), self._system.loop)
        try:
            if response.status != 200:
                raise failure_of_status(response.status)
            yield _WebBody(response, calls, self._system.loop)
        finally:
            self._system.loop.call_soon_threadsafe(response.close)

    def page(self, url: str, token: str | None, calls: Calls) -> Page:
        """Say that there is nothing: web servers have no listings, every address is one picture."""
        return Page([], None)

    async def _request(self, method: str, url: str) -> Any:
        import yarl

        session = await self._system.set_session()
        # What is signed must arrive as it was given; what a person has typed may need encoding.
        try:
            address = yarl.URL(url, encoded=url.isascii() and " " not in url)
            is_possible = bool(address.host and address.port)
        except ValueError:
            is_possible = False
        if not is_possible:
            raise RemoteFailure("not a possible address")
        return await session.request(method, address, allow_redirects=True)


class _WebBody:
    def __init__(self, response: Any, calls: Calls, loop: asyncio.AbstractEventLoop) -> None:
        self.size = _stated_size(response)
        self.version = _version(response.headers)
        self._response, self._calls, self._loop = response, calls, loop

    def read(self, size: int) -> list[bytes]:
        return self._calls.run(self._read(size), self._loop, size)

    async def _read(self, size: int) -> list[bytes]:
        parts = []
        while size > 0 and (part := await self._response.content.read(size)):
            parts.append(part)
            size -= len(part)
        return parts


class BucketClient:
    """Object stores: ``s3`` and ``gs``, with the credentials that their own programs use."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._system: Any = _s3() if protocol == "s3" else _gs()

    def examine(self, url: str, calls: Calls) -> RemotePicture | None:
        """Ask for size and version of an object."""
        info = calls.run(self._system._info(_place(url)), self._system.loop)
        return None if info["type"] == "directory" else self._picture(info, url)

    @contextmanager
    def opened(self, picture: RemotePicture, calls: Calls) -> Iterator[Body]:
        """Read an object in two parts at most: what turns out to be no picture is not fetched whole."""
        yield _BucketBody(self._system, picture, calls)

    def page(self, url: str, token: str | None, calls: Calls) -> Page:
        """List what lies directly under a prefix: of s3 a thousand objects, of gs all at once."""
        place = _place(url)
        bucket, _, prefix = place.partition("/")
        if self._protocol == "gs":
            infos = calls.run(self._system._ls(place.rstrip("/"), detail=True), self._system.loop)
            # An object that stands for the folder is listed as the folder in itself.
            return Page([self._entry(info) for info in infos if info["name"] != place.rstrip("/")], None)
        question = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        if token is not None:
            question["ContinuationToken"] = token
        answer = calls.run(self._system._call_s3("list_objects_v2", **question), self._system.loop)
        files, folders = answer.get("Contents", []), answer.get("CommonPrefixes", [])
        if prefix and token is None and not files and not folders:
            raise RemoteFailure("no such file or folder there")
        entries = [(RemotePicture(f"s3://{bucket}/{one['Prefix']}"), True) for one in folders]
        for one in files:
            if not one["Key"].endswith("/"):  # that stands for a folder
                url = f"s3://{bucket}/{one['Key']}"
                entries.append((RemotePicture(url, int(one["Size"]), _version(one)), False))
        return Page(entries, answer.get("NextContinuationToken"))

    def _entry(self, info: dict[str, Any]) -> tuple[RemotePicture, bool]:
        is_folder = info["type"] == "directory"
        url = f"{self._protocol}://{info['name']}"
        return self._picture(info, f"{url}/" if is_folder else url), is_folder

    def _picture(self, info: dict[str, Any], url: str) -> RemotePicture:
        return RemotePicture(url, int(info["size"] or 0), _version(info))


def _s3() -> Any:
    from s3fs import S3FileSystem

    system = S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENT_SECONDS,
            "max_pool_connections": _CONNECTIONS,
            "retries": {"total_max_attempts": 1, "mode": "standard"},  # requests are made again elsewhere
        },
    )
    system.retries = 1
    return system


def _gs() -> Any:
    # Not the class of fsspec's registry: it asks another service of Google's about every bucket first.
    from gcsfs.core import GCSFileSystem

    return GCSFileSystem(skip_instance_cache=True, use_listings_cache=False, requests_timeout=_patience())


def _patience() -> Any:
    """Return how long aiohttp waits for a server that is silent; how long in all, is up to who asks."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)


class _BucketBody:
    def __init__(self, system: Any, picture: RemotePicture, calls: Calls) -> None:
        self.size, self.version = picture.size, picture.version
        self._system, self._place, self._calls = system, _place(picture.url), calls
        self._held = b""
        self._end = 0
        self._is_at_end = False

    def read(self, size: int) -> list[bytes]:
        parts = [self._held] if self._held else []
        size -= len(self._held)
        if size > 0 and not self._is_at_end:
            parts.append(self._part(self._end, self._end + max(size, _FIRST_BYTES)))
            size -= len(parts[-1])
        self._held = b""
        if size < 0:  # the last piece goes beyond what was asked for
            parts[-1], self._held = parts[-1][:size], parts[-1][size:]
        return parts

    def _part(self, begin: int, end: int) -> bytes:
        try:
            work = self._system._cat_file(self._place, start=begin, end=end)
            part: bytes = self._calls.run(work, self._system.loop, end - begin)
        except RemoteFailure as failure:
            if failure.status != _NOTHING_THERE:
                raise
            part = b""
        self._end += len(part)
        if len(part) < end - begin:
            self._is_at_end = True
            self.size = self._end  # it may be another by now than it was listed with
        return part


_clients: dict[tuple[int, str], Client] = {}
_lock = threading.Lock()


def client_for(url: str) -> Client:
    """Return the client of an address.

    Raises:
        RemoteFailure: Its packages are not installed, or it cannot be set up.
    """
    protocol = protocol_of(url).replace("https", "http")
    key = (os.getpid(), protocol)  # after a fork the loop of the parent is of no use
    with _lock:
        if key not in _clients:
            try:
                _clients[key] = WebClient() if protocol == "http" else BucketClient(protocol)
            except ImportError:
                missing = MissingDependencyError(f"reading {protocol_of(url)}://", "remote")
                raise RemoteFailure(str(missing)) from None
            except library_errors() as error:
                raise failure_of(error) from None
        return _clients[key]


def forget_clients() -> None:
    """Close all connections; settings of the environment are looked at again with the next request."""
    with _lock:
        _clients.clear()  # each closes its connections when it is gone


def _place(url: str) -> str:
    return url.partition("://")[2]


def _stated_size(response: Any) -> int | None:
    is_packed = response.headers.get("Content-Encoding", "identity") not in ("", "identity")
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and not is_packed else None


def _version(info: Any) -> str | None:
    return next((str(info[name]) for name in _VERSIONS if info.get(name)), None)
