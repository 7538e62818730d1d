"""Which names are addresses of pictures elsewhere, and what of an address may be shown.

Only what is written as an address is one: ``s3://...`` given as text. A ``Path`` never is, since it has lost
its second slash, and neither is a drive of Windows nor a file that is really called ``s3:``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import urlsplit

PROTOCOLS = ("s3", "gs", "https", "http")
"""What is read from. ``http`` is among them for servers on one's own network; nothing is read from anywhere
unless its address is given. Protocols of fsspec that chain, cache or run others are not."""

_ADDRESS = re.compile(rf"({'|'.join(PROTOCOLS)})://", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # two letters or more: C:// is a drive
_SECRET = re.compile(
    r"sig|sign|token|secret|credential|passw|pwd|api-?_?key|accesskey|key-pair|auth|policy|hmac|code|session",
    re.IGNORECASE,
)
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class RemotePicture:
    """A picture elsewhere, with what its listing told of it; a path as far as Python is concerned.

    Attributes:
        url: Its address.
        size: Bytes, None if that is not known.
        version: What changes when the content does: an ETag, a generation or a time; None if not known.
    """

    url: str
    size: int | None = None
    version: str | None = None

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return shown_url(self.url)


def is_remote(image: object) -> TypeGuard[str | RemotePicture]:
    """Tell whether a picture, or a folder of pictures, is given by its address."""
    return isinstance(image, RemotePicture) or (isinstance(image, str) and _ADDRESS.match(image) is not None)


def protocol_of(url: str) -> str:
    """Return the protocol of an address, lower case."""
    return url.partition(":")[0].lower()


def foreign_protocol(name: object) -> str | None:
    """Say why a name that looks like an address is none that can be read; None if it looks like a path."""
    found = _SCHEME.match(name) if isinstance(name, str) else None
    if found is None or is_remote(name):
        return None
    if found[1].lower() == "file":
        return "an address of a file on this computer; give its path instead"
    known = ", ".join(f"{protocol}://" for protocol in PROTOCOLS)
    return f"{found[1]}:// cannot be read from; paths, {known} can"


def shown_url(url: str) -> str:
    """Take out of an address what gives access: user, password, and values of a query that sign or log in.

    Args:
        url: Any text; a path comes back as it is.

    Returns:
        What stands in reports, messages, profiles and the cache. Doing it twice changes nothing more.
    """
    if _ADDRESS.match(url) is None or protocol_of(url) not in ("http", "https"):
        return url  # a key in a bucket is no secret, and may hold any character
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{protocol_of(url)}://{_HIDDEN}"
    host = parts.netloc.rpartition("@")[2]
    fields = [_without_value(field) for field in parts.query.split("&")] if parts.query else []
    query = f"?{'&'.join(fields)}" if fields else ""
    return f"{parts.scheme}://{host}{parts.path}{query}"


def shown_name(path: str | os.PathLike[str]) -> str:
    """Return a path as it was given, or what of an address may be shown."""
    return shown_url(os.fsdecode(path)) if is_remote(path) else os.fsdecode(path)


def _without_value(field: str) -> str:
    name, sign, _ = field.partition("=")
    return f"{name}={_HIDDEN}" if sign and _SECRET.search(field) else field
