"""Which names are addresses of pictures elsewhere, and what of an address may be shown.

Only what is written as an address is one: ``s3://...`` given as text. A ``Path`` never is, since it has lost
its second slash, and neither is a drive of Windows nor a file that is really called ``s3:``.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOLS = ("s3", "gs", "https", "http")
"""What is read from. ``http`` is among them for servers on one's own network; nothing is read from anywhere
unless its address is given. Protocols of fsspec that chain, cache or run others are not."""

_ADDRESS = re.compile(rf"({'|'.join(PROTOCOLS)})://", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # two letters or more: C:// is a drive
_LOGIN = re.compile(r"(://)[^/?#]*@")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRETS = frozenset(
    {
        *("accesskey", "accesstoken", "ak", "apikey", "auth", "authkey", "authorization", "authtoken"),
        *("bearer", "code", "cred", "credential", "credentials", "creds", "hash", "hdnea", "hdnts", "hmac"),
        *("jsessionid", "jwt", "key", "keys", "md5", "oh", "otp", "pass", "passcode", "passphrase", "passwd"),
        *("password", "phpsessid", "pin", "policy", "pw", "pwd", "rlkey", "secret", "secretkey", "sessid"),
        *("session", "sessionid", "sid", "sig", "sign", "signature", "signatures", "signed", "st", "ticket"),
        *("tok", "token", "tokens"),
    }
)
_NESTED = re.compile(r"[=@?%]")  # of a value: there is another address or query in it
_PATH_FIELD = re.compile(r";([^/;=]*=[^/;]*)")
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
        url: Any text; a path comes back as it is. What cannot be read from, as ``ftp://``, is treated alike.

    Returns:
        What stands in reports, messages, profiles and the cache. Doing it twice changes nothing more.
    """
    return _shown(url)[0]


def hides_part(image: object) -> bool:
    """Tell whether an address is shown without a part of it, so that others may be shown alike."""
    return is_remote(image) and _shown(os.fspath(image))[1]


def shown_hides_part(shown: str) -> bool:
    """Tell whether what is shown is an address without a part of it, as far as that can be seen."""
    return is_remote(shown) and protocol_of(shown) in ("http", "https") and _HIDDEN in shown


def identity_of(url: str) -> str:
    """Return what makes an address the same as another: as it is shown, and a digest of what is not."""
    shown, is_hidden = _shown(url)
    if not is_hidden:
        return shown
    return f"{shown} {hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}"


def shown_name(path: str | os.PathLike[str]) -> str:
    """Return a path as it was given, or what of an address may be shown."""
    is_path = isinstance(path, os.PathLike) and not isinstance(path, RemotePicture)
    return os.fsdecode(path) if is_path else shown_url(os.fsdecode(path))


def _shown(url: str) -> tuple[str, bool]:
    """Return what may be shown of an address, and whether anything of it is not."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url, False
    if protocol_of(url) in ("s3", "gs"):  # a key in a bucket is no secret, and may hold any character
        shown = _LOGIN.sub(r"\1", url, count=1)
        return shown, shown != url
    try:
        parts = urlsplit(url if is_remote(url) else _LOGIN.sub(r"\1", url))  # of others, one may hold another
    except ValueError:
        return f"{scheme[1].lower()}://{_HIDDEN}", True
    host = parts.netloc.rpartition("@")[2]
    port = host.rpartition("]")[2].partition(":")[2]
    if port and not port.isdecimal():  # what follows is then a password with a slash in it
        return f"{parts.scheme}://{_HIDDEN}", True
    path = _PATH_FIELD.sub(lambda field: f";{_shown_field(field[1])}", parts.path)
    query = "&".join(map(_shown_field, parts.query.split("&")))
    is_hidden = (host, path, query) != (parts.netloc, parts.path, parts.query) or _HIDDEN in query + path
    return f"{parts.scheme}://{host}{path}{f'?{query}' if query else ''}", is_hidden


def _shown_field(field: str) -> str:
    """Return one field of a query, less its value if that may sign or log in, less itself if it is bare."""
    name, sign, value = field.partition("=")
    if not sign:
        return _HIDDEN if field else field
    is_secret = not _SECRETS.isdisjoint(_words(unquote(name))) or _NESTED.search(unquote(value))
    return f"{name}={_HIDDEN}" if is_secret and value else field


def _words(name: str) -> Iterator[str]:
    """Yield the words of a name, and each two that follow each other as one."""
    words = [name.lower(), *(word.lower() for word in _WORD.findall(name))]
    yield from words
    yield from map("".join, pairwise(words[1:]))
