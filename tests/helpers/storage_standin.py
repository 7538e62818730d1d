"""Stand-ins for a web server and for S3 on 127.0.0.1: real HTTP, spoken to by the real clients.

They keep files in memory, count what is asked of them and how much of it at once, and fail on request.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable


class WebStandIn(ThreadingHTTPServer):
    """A web server; use it in a with statement.

    Attributes:
        files: Content by path.
        faults: By path, what goes wrong with its next requests: a status, or something done instead.
        seconds: How long every request takes.
        requests: Method and path of each.
        ranges: What was asked for of each path, in turn; None for all of it.
        most_at_once: The most requests that were in work at the same time.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, handler: type[WebHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or WebHandler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.seconds = 0.0
        self.has_tags = True
        self.requests: list[tuple[str, str]] = []
        self.queries: list[str] = []
        self.logins: list[str | None] = []
        self.ranges: dict[str, list[str | None]] = defaultdict(list)
        self.bytes_sent = 0
        self.most_at_once = self._at_once = 0
        self.lock = threading.Lock()
        self.ends = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, method: str) -> int:
        return sum(request[0] == method for request in self.requests)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, *_: Any) -> None:
        """Clients may leave whenever they like."""

    def enter(self, handler: WebHandler, path: str) -> None:
        with self.lock:
            self.requests.append((handler.command, path))
            self.queries.append(urlsplit(handler.path).query)
            self.logins.append(handler.headers["Authorization"])
            self.ranges[path].append(handler.headers["Range"])
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def leave(self) -> None:
        with self.lock:
            self._at_once -= 1


class WebHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.enter(self, path)
        try:
            self.server.ends.wait(self.server.seconds)
            with self.server.lock:
                faults = self.server.faults.get(path)
                fault = faults.pop(0) if faults else None
            if isinstance(fault, int):
                self.answer(fault)
            elif fault is not None:
                fault(self)
            else:
                self.serve(path)
        finally:
            self.server.leave()

    def serve(self, path: str) -> None:
        if path not in self.server.files:
            self.answer(404)
            return
        self.send_file(self.server.files[path])

    def send_file(self, data: bytes) -> None:
        headers = {"ETag": tag(data)} if self.server.has_tags else {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if asked is None:
            self.answer(200, data, headers)
            return
        begin, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
        if begin >= len(data):
            self.answer(416, error("InvalidRange"))
            return
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        self.answer(206, data[begin:end], headers)

    def answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.send(data)

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        with self.server.lock:
            self.server.bytes_sent += len(data)


def tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


def reset(handler: WebHandler) -> None:
    """Cut the connection the hard way."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.rfile.close()
    handler.connection.close()


def to(place: str) -> Callable[[WebHandler], None]:
    """Send the client on."""

    def act(handler: WebHandler) -> None:
        handler.answer(302, headers={"Location": place})

    return act


def silent(handler: WebHandler) -> None:
    """Say nothing until the server ends."""
    handler.server.ends.wait(60)
    handler.close_connection = True


def cut(
    size: int, sent: bytes, ends: threading.Event | threading.Barrier | None = None
) -> Callable[[WebHandler], None]:
    """State a size, and send less than that; break off once ``ends`` lets it."""

    def act(handler: WebHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        if handler.command == "GET":
            handler.send(sent)
            handler.wfile.flush()
            if ends is not None:
                ends.wait(20)
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

    return act


def unstated(data: bytes, *, endless: bool = False) -> Callable[[WebHandler], None]:
    """Send without stating a size, in chunks."""

    def act(handler: WebHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while handler.command == "GET" and not handler.server.ends.is_set():
            handler.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            if not endless:
                handler.send(b"0\r\n\r\n")
                break

    return act


def drip(data: bytes, seconds: float) -> Callable[[WebHandler], None]:
    """Send a byte at a time."""

    def act(handler: WebHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for byte in data if handler.command == "GET" else b"":
            handler.send(bytes([byte]))
            handler.wfile.flush()
            if handler.server.ends.wait(seconds):
                return

    return act


class BucketStandIn(WebStandIn):
    """S3 as far as reading goes: lists in pages, headers and ranges. ``files`` are ``/bucket/key``."""

    def __init__(self, page: int = 1000) -> None:
        super().__init__(BucketHandler)
        self.page = page
        self.pages = 0


class BucketHandler(WebHandler):
    def serve(self, path: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        bucket, _, key = path.removeprefix("/").partition("/")
        if not any(name.startswith(f"/{bucket}/") for name in self.server.files):
            self.answer(404, error("NoSuchBucket"))
        elif query.get("list-type") == "2":
            self._list(bucket, query)
        elif path not in self.server.files:
            self.answer(404, error("NoSuchKey"))
        else:
            assert key
            self.send_file(self.server.files[path])

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        self.server.pages += 1
        entries = listing(self.server.files, f"/{bucket}/", query.get("prefix", ""), query.get("delimiter"))
        begin = int(query.get("continuation-token", "0"))
        end = begin + min(self.server.page, int(query.get("max-keys", "1000")))
        parts = [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if data is None
            else f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size>"
            f"<ETag>{escape(tag(data))}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, data in entries[begin:end]
        ]
        is_cut = end < len(entries)
        token = f"<NextContinuationToken>{end}</NextContinuationToken>" if is_cut else ""
        text = (
            f"<?xml version='1.0'?><ListBucketResult><IsTruncated>{str(is_cut).lower()}</IsTruncated>"
            f"<KeyCount>{len(parts)}</KeyCount>{token}{''.join(parts)}</ListBucketResult>"
        )
        self.answer(200, text.encode(), {"Content-Type": "application/xml"})


class GoogleStandIn(WebStandIn):
    """Google's store, as far as reading goes, in its JSON; ``files`` are ``/bucket/key``."""

    def __init__(self, page: int = 1000) -> None:
        super().__init__(GoogleHandler)
        self.page = page


class GoogleHandler(WebHandler):
    def serve(self, path: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        asked = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o(?:/(.+))?", path, re.DOTALL)
        if asked is None or not any(name.startswith(f"/{asked[1]}/") for name in self.server.files):
            self._say(404, {"error": {"code": 404, "message": "Not Found"}})
        elif asked[2] is None:
            self._list(asked[1], query)
        elif (data := self.server.files.get(f"/{asked[1]}/{asked[2]}")) is None:
            self._say(404, {"error": {"code": 404, "message": "Not Found"}})
        elif query.get("alt") == "media":
            self.send_file(data)
        else:
            self._say(200, _resource(asked[1], asked[2], data))

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        entries = listing(self.server.files, f"/{bucket}/", query.get("prefix", ""), query.get("delimiter"))
        begin = int(query.get("pageToken", "0"))
        end = begin + min(self.server.page, int(query.get("maxResults", "1000")))
        found = entries[begin:end]
        answer: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [_resource(bucket, name, data) for name, data in found if data is not None],
            "prefixes": [name for name, data in found if data is None],
        }
        if end < len(entries):
            answer["nextPageToken"] = str(end)
        self._say(200, answer)

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        self.answer(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})


def _resource(bucket: str, name: str, data: bytes) -> dict[str, Any]:
    generation = str(int.from_bytes(hashlib.md5(data, usedforsecurity=False).digest()[:6], "big"))
    time = "2026-01-01T00:00:00.000Z"
    known = {"bucket": bucket, "name": name, "size": str(len(data)), "generation": generation}
    return {**known, "etag": generation, "timeCreated": time, "updated": time}


def listing(
    files: dict[str, bytes], bucket: str, prefix: str, delimiter: str | None
) -> list[tuple[str, bytes | None]]:
    """Names below a prefix, in the order of their bytes; None for those that stand for what is below them."""
    found: dict[str, bytes | None] = {}
    for path in sorted(files, key=lambda path: path.encode()):
        key = path.removeprefix(bucket)
        if key == path or not key.startswith(prefix):
            continue
        head, sign, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        if sign:
            found[f"{prefix}{head}{sign}"] = None
        else:
            found[key] = files[path]
    return list(found.items())
