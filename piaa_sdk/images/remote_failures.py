"""What can go wrong between here and a server, in a few words; nothing of a library escapes.

What a library says is not repeated: it names the address, with whatever gives access to it.
"""

from __future__ import annotations

import sys

from piaa_sdk.images.failures import LIBRARY_ERRORS

_BROKEN_OFF = "the connection broke off"
_NO_CREDENTIALS = "no valid credentials for it; log in with the provider's own program"

# By the name of the exception, the most special first: the libraries need not be installed to be named.
_REASONS: dict[str, tuple[str, bool]] = {
    "FileNotFoundError": ("no such file or folder there", False),
    "PermissionError": ("no permission to read it", False),
    "NoCredentialsError": (f"{_NO_CREDENTIALS}, or set FSSPEC_S3_ANON=true for a public bucket", False),
    "PartialCredentialsError": (_NO_CREDENTIALS, False),
    "CredentialRetrievalError": (_NO_CREDENTIALS, False),
    "TokenRetrievalError": (_NO_CREDENTIALS, False),
    "ProfileNotFound": ("AWS_PROFILE names a profile that is not set up", False),
    "GoogleAuthError": (_NO_CREDENTIALS, False),
    "ClientConnectorDNSError": ("there is no host of that name", False),
    "ClientConnectorCertificateError": ("the certificate of the server cannot be trusted", False),
    "ClientSSLError": ("no safe connection to the server can be made", False),
    "SSLError": ("no safe connection to the server can be made", False),
    "ProxyConnectionError": ("the proxy cannot be reached", False),
    "ClientProxyConnectionError": ("the proxy cannot be reached", False),
    "ClientConnectorError": ("the server cannot be reached", False),
    "EndpointConnectionError": ("the server cannot be reached", False),
    "ServerTimeoutError": ("the server does not answer in time", False),
    "ConnectTimeoutError": ("the server does not answer in time", False),
    "ReadTimeoutError": ("the server does not answer in time", False),
    "FSTimeoutError": ("the server does not answer in time", False),
    "TimeoutError": ("the server does not answer in time", False),
    "TooManyRedirects": ("the server sends one in circles", False),
    "InvalidURL": ("not a possible address", False),
    "NonHttpUrlRedirectClientError": ("the server sends one to what is no web address", False),
    "ParamValidationError": ("not a possible address", False),
    "ClientPayloadError": (_BROKEN_OFF, True),
    "ServerDisconnectedError": (_BROKEN_OFF, True),
    "ClientOSError": (_BROKEN_OFF, True),
    "ConnectionError": (_BROKEN_OFF, True),
    "ConnectionClosedError": (_BROKEN_OFF, True),
    "ResponseStreamingError": (_BROKEN_OFF, True),
    "IncompleteRead": (_BROKEN_OFF, True),
    "HTTPClientError": (_BROKEN_OFF, True),
    "ChecksumError": (_BROKEN_OFF, True),
    "MemoryError": ("not enough memory to read it", False),
}
_BASES = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
)
_TOO_MANY_REQUESTS = 429
_SERVER_FAULTS = 500


class RemoteFailure(Exception):
    """A request failed.

    Attributes:
        reason: Why, in a few words.
        is_passing: Whether asking again may help.
        status: What an HTTP server answered, None if it is not that.
    """

    def __init__(self, reason: str, *, is_passing: bool = False, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_passing = is_passing
        self.status = status


class StoppedError(Exception):
    """Nobody waits for the answer any more."""


def library_errors() -> tuple[type[BaseException], ...]:
    """Name everything that the client libraries raise, as far as they are loaded."""
    found = [getattr(sys.modules.get(module), name, None) for module, name in _BASES]
    return (*LIBRARY_ERRORS, MemoryError, *(error for error in found if isinstance(error, type)))


def failure_of_status(status: int) -> RemoteFailure:
    """Tell what an answer other than 200 means."""
    if status in (404, 410):
        return RemoteFailure("no such file on the server", status=status)
    if status in (401, 403, 407):
        return RemoteFailure(f"no permission to read it (the server answers {status})", status=status)
    is_passing = status == _TOO_MANY_REQUESTS or status >= _SERVER_FAULTS
    reason = "has too much to do" if status == _TOO_MANY_REQUESTS else "fails"
    said = f"the server {reason} ({status})" if is_passing else f"the server answers {status}, not a file"
    return RemoteFailure(said, is_passing=is_passing, status=status)


def failure_of(error: BaseException) -> RemoteFailure:
    """Tell what an exception of a client library means."""
    if type(error).__name__ == "EndpointConnectionError":  # whatever befell a connection to a bucket
        inner = getattr(error, "kwargs", {}).get("error")
        if isinstance(inner, Exception):
            return failure_of(inner)
    for kind in type(error).__mro__:
        if kind.__name__ in _REASONS:
            reason, is_passing = _REASONS[kind.__name__]
            return RemoteFailure(reason, is_passing=is_passing)
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # how gcsfs says it
        return RemoteFailure("no permission to read it")
    status = _status_of(error)
    if status is not None:
        return failure_of_status(status)
    return RemoteFailure(f"cannot be read ({type(error).__name__})")


def _status_of(error: BaseException) -> int | None:
    """Find the HTTP status in an error of gcsfs, or in the cause of one that s3fs has translated."""
    for link in (error, error.__cause__, error.__context__):
        response = getattr(link, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        for status in (metadata.get("HTTPStatusCode"), getattr(link, "code", None)):
            if isinstance(status, int) and 300 <= status <= 599:
                return status
    return None
