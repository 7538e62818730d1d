"""The one place that talks to the Hugging Face Hub, through its own client.

Whatever the client or the network raises becomes an error of ours that says what to do, a token is never
part of it, and what the client would log or draw on its own is kept back.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from piaa_sdk import __version__
from piaa_sdk.announcements import is_progress_wanted
from piaa_sdk.errors import HubError, ModelNotFoundError, PiaaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from piaa_sdk.hub_cache import HubName

    Result = TypeVar("Result")
    Token = str | bool | None

SECONDS_BEFORE_RETRIES = (0.5, 1.0, 2.0)
"""How long is waited before each new attempt after the Hub failed or a connection broke."""

LOG_IN = "log in with: hf auth login (or pass token=, or set HF_TOKEN)"

_LIBRARY = "piaa-sdk"
_SECRET = re.compile(r"(?i)(bearer\s+|\bhf_|\bapi_org_)[^\s'\"\\]+")
_MAX_REASON = 300


class HubUnavailableError(HubError):
    """The Hub cannot answer now; what is in the cache may do."""


class HubUnreachableError(HubUnavailableError):
    """There is no way to the Hub: no network, no such host, nothing that answers.

    Attributes:
        reason: The same as a clause, without a name and without advice.
    """

    def __init__(self, name: HubName, reason: str) -> None:
        super().__init__(f"{name}: {reason}; check the network, or HF_ENDPOINT if you have set it")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[HubUnreachableError], tuple[HubName, str]]:
        return type(self), (self.name, self.reason)


class HubFileNotFoundError(ModelNotFoundError):
    """The repository and the revision are there, the file is not."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the Hub says about a file before it is fetched.

    Attributes:
        commit: The commit that the revision stands for, 40 hex digits.
        size: Bytes; None if the Hub does not say.
    """

    commit: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Commit:
    """What the Hub answers to an upload.

    Attributes:
        url: Where the commit, or the pull request, can be seen.
        commit: 40 hex digits.
    """

    url: str
    commit: str


def look_up(name: HubName, file: str, token: Token) -> RemoteFile:
    """Ask the Hub about one file, once.

    Raises:
        HubFileNotFoundError: The revision has no such file.
        ModelNotFoundError: No such repository or revision, or none that this token may see.
        HubUnavailableError: There is no network, or the Hub fails.
        HubError: It refuses.
    """
    from huggingface_hub import constants

    def ask() -> RemoteFile:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(name.repository, file, revision=name.revision)
        found = get_hf_file_metadata(url, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        if found.commit_hash is None or re.fullmatch("[0-9a-f]{40}", found.commit_hash) is None:
            raise HubError(
                f"{constants.ENDPOINT} answers, but not as the Hub does: it names no commit. Check the proxy "
                "and HF_ENDPOINT"
            )
        return RemoteFile(found.commit_hash, found.size)

    return _call(name, ask, token)


def download(name: HubName, file: str, cache: Path, token: Token, *, force: bool) -> Path:
    """Fetch one file into the Hub's cache and return where it lies.

    Raises:
        ModelNotFoundError: The repository, the revision or the file is not there.
        HubError: The Hub refuses or fails, or the file cannot be stored.
    """

    def fetch() -> Path:
        from huggingface_hub import hf_hub_download

        found = hf_hub_download(
            name.repository,
            file,
            revision=name.revision,
            cache_dir=cache,
            token=token,
            force_download=force,
            library_name=_LIBRARY,
            library_version=__version__,
        )
        return Path(found)

    return _call(name, fetch, token)


def read(name: HubName, file: str, limit: int, token: Token) -> bytes | None:
    """Read a small file as it is there now, past the cache.

    Args:
        name: The repository at a revision.
        file: Its file.
        limit: Largest size that is read, bytes.
        token: As for all functions here.

    Returns:
        Its content; None if there is no such file, or if it is larger.

    Raises:
        ModelNotFoundError: No such repository or revision.
        HubError: The Hub refuses or fails, or nothing can be written here.
    """
    try:
        found = look_up(name, file, token)
        if found.size is None or found.size > limit:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return download(name.at(found.commit), file, Path(scratch), token, force=False).read_bytes()
    except HubFileNotFoundError:
        return None
    except ModelNotFoundError:  # it is an OSError too
        raise
    except OSError as error:
        raise HubError(f"{name}: {file} cannot be read: {error.strerror or error}") from error


def is_public(name: HubName, token: Token) -> bool | None:
    """Tell whether anybody can read a repository; None if there is no such repository.

    Raises:
        HubError: The Hub refuses or fails.
    """

    def ask() -> bool:
        return not _api(token).repo_info(name.repository).private

    try:
        return _call(name, ask, token)
    except ModelNotFoundError:
        return None


def has_tag(name: HubName, tag: str, token: Token) -> bool:
    """Tell whether a repository has a tag of that name.

    Raises:
        ModelNotFoundError: There is no such repository.
        HubError: The Hub refuses or fails.
    """

    def ask() -> bool:
        return any(found.name == tag for found in _api(token).list_repo_refs(name.repository).tags)

    return _call(name, ask, token)


def create_repository(name: HubName, *, private: bool, token: Token) -> None:
    """Make a repository for a model.

    Raises:
        HubError: The Hub refuses or fails.
    """

    def create() -> None:
        _api(token).create_repo(name.repository, private=private, exist_ok=False)

    _call(name, create, token, is_writing=True)


def create_branch(name: HubName, token: Token) -> None:
    """Make the branch that ``name`` names, unless it is there.

    Raises:
        HubError: The Hub refuses or fails.
    """

    def create() -> None:
        _api(token).create_branch(name.repository, branch=name.revision, exist_ok=True)

    _call(name, create, token, is_writing=True)


def create_tag(name: HubName, tag: str, token: Token) -> None:
    """Give the commit that ``name`` names a tag.

    Raises:
        HubError: The Hub refuses or fails.
    """

    def create() -> None:
        _api(token).create_tag(name.repository, tag=tag, revision=name.revision)

    _call(name, create, token, is_writing=True)


def commit(
    name: HubName,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    create_pr: bool,
    token: Token,
) -> Commit:
    """Put files into a repository in one commit.

    Args:
        name: The repository at a branch.
        files: What to put there, by name; each a file or its content.
        message: First line of the commit.
        create_pr: Whether to open a pull request instead of changing the branch.
        token: As for all functions here: the text of one, None for the stored one, False for none.

    Raises:
        HubError: The Hub refuses or fails, or a file cannot be read.
    """

    def send() -> Commit:
        from huggingface_hub import CommitOperationAdd

        operations = [
            CommitOperationAdd(file, content if isinstance(content, bytes) else str(content))
            for file, content in files.items()
        ]
        made = _api(token).create_commit(
            name.repository,
            operations,
            commit_message=message,
            revision=name.revision,
            create_pr=create_pr,
        )
        return Commit(url=made.pr_url or str(made.commit_url), commit=made.oid)

    return _call(name, send, token, is_writing=True)


def _api(token: Token) -> Any:
    from huggingface_hub import HfApi, constants

    return HfApi(endpoint=constants.ENDPOINT, token=token, library_name=_LIBRARY, library_version=__version__)


def _call(name: HubName, work: Callable[[], Result], token: Token, *, is_writing: bool = False) -> Result:
    """Do something with the client, again if the Hub fails on the way, and translate what it raises."""
    _check_token(token)
    with _quiet():
        for seconds in (*SECONDS_BEFORE_RETRIES, None):
            try:
                return work()
            except PiaaError:
                raise
            except _failures() as error:
                # A commit whose answer was lost may have been made: to send it again could make it twice.
                if seconds is None or is_writing or not _is_passing(error):
                    raise _translated(name, error, token, is_writing=is_writing) from _harmless(error, token)
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def _check_token(token: Token) -> None:
    # The HTTP library would put a token that is no header into its message.
    if isinstance(token, str) and not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError(
            f"the token given has {len(token)} characters, some of which no token has (white space, "
            f"letters outside ASCII); {LOG_IN}"
        )


def _failures() -> tuple[type[Exception], ...]:
    """Name everything that the client and its HTTP library raise, whichever library that is."""
    import sys

    from huggingface_hub import errors

    own = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    library = sys.modules[_http_error().__module__.partition(".")[0]]
    # The client takes an answer apart without a look at it: one that is not as expected ends in any of these.
    malformed = (ValueError, LookupError, TypeError, AttributeError)
    return (*own, _http_error(), library.InvalidURL, OSError, RuntimeError, *malformed)


def _http_error() -> type[Exception]:
    from huggingface_hub.errors import HfHubHTTPError

    for base in HfHubHTTPError.__mro__:
        if base.__name__ == "HTTPError":
            return base
    raise AssertionError("errors of the Hub are errors of an HTTP library")


def _status_of(error: BaseException | None) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from: the client wraps the one that tells."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_transport(error: BaseException) -> bool:
    """Tell whether there was no answer at all."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    names = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, OfflineModeIsEnabled) or "TransportError" in names


def _is_passing(error: Exception) -> bool:
    """Tell whether another attempt may go better: the Hub failed, or a connection broke in the middle."""
    for one in _chain(error):
        status = _status_of(one)
        if status is not None:
            return status >= 500 or status == 408
        names = {base.__name__ for base in type(one).__mro__}
        if names & {"RemoteProtocolError", "ReadError", "WriteError", "CloseError"}:
            return True
    return "Consistency check failed" in str(error)


def _translated(name: HubName, error: Exception, token: Token, *, is_writing: bool) -> PiaaError:
    from huggingface_hub import constants, errors

    for one in _chain(error):
        if isinstance(one, errors.GatedRepoError):
            return HubError(
                f"{name}: its owner lets in only whom they know; ask for access on "
                f"{constants.ENDPOINT}/{name.repository} and {LOG_IN}"
            )
        if isinstance(one, errors.RevisionNotFoundError):
            return ModelNotFoundError(f"{name}: {name.repository} has no revision {name.revision!r}")
        if isinstance(one, errors.EntryNotFoundError) and _status_of(one) == 404:
            return HubFileNotFoundError(f"{name}: the Hub has no such file in this revision")
        if isinstance(one, errors.RepositoryNotFoundError) and not is_writing:
            return _no_repository(name)
        status = _status_of(one)
        if status is not None:
            return _refused(name, one, status, token, is_writing=is_writing)
        if _is_transport(one):
            reason = f"the Hub at {constants.ENDPOINT} cannot be reached ({_reason(one, token)})"
            return HubUnreachableError(name, reason)
    if isinstance(error, OSError) and error.errno is not None:
        return HubError(f"{name}: the cache of the Hub cannot be written: {error.strerror or error.errno}")
    return HubError(f"{name}: the client of the Hub failed: {_reason(error, token)}")


def _no_repository(name: HubName) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"there is no folder {name.repository!r} here, and the Hub has no model of that name, or it is "
        f"private: check the spelling, or {LOG_IN}"
    )


def _refused(
    name: HubName, error: BaseException, status: int, token: Token, *, is_writing: bool
) -> PiaaError:
    what = "may not be written" if is_writing else "may not be read"
    said = _reason(error, token)
    if status in (401, 403):
        return HubError(f"{name}: {what} with the token at hand, or without one ({status}): {LOG_IN}")
    if status == 404 and not is_writing:
        return _no_repository(name)
    if status == 429:
        seconds = _seconds_to_wait(error)
        wait = f"try again in {seconds} seconds" if seconds is not None else "try again in some minutes"
        return HubUnavailableError(f"{name}: the Hub asks for fewer requests (429): {wait}, or {LOG_IN}")
    if status >= 500:
        times = "" if is_writing else f" {len(SECONDS_BEFORE_RETRIES) + 1} times in a row"
        return HubUnavailableError(f"{name}: the Hub failed{times} ({status}); try again later")
    return HubError(f"{name}: the Hub refused ({status}): {said}")


def _seconds_to_wait(error: BaseException) -> int | None:
    headers = getattr(getattr(error, "response", None), "headers", {})
    stated = str(headers.get("Retry-After", "")).strip()
    if stated.isdigit():
        return int(stated)
    limit = re.search(r"\bt\s*=\s*(\d+)", str(headers.get("ratelimit", "")))
    return int(limit.group(1)) if limit else None


def _reason(error: BaseException, token: Token) -> str:
    """Say in one line what the client said, without a token and without the Hub's request number."""
    server = getattr(error, "server_message", None)
    text = str(server or error) or type(error).__name__
    for secret in _secrets(token):
        text = text.replace(secret, "***")
    text = _SECRET.sub("***", text)
    return " ".join(re.sub(r"\(Request ID: [^)]*\)", "", text).split())[:_MAX_REASON]


def _harmless(error: Exception, token: Token) -> Exception | None:
    """Keep an error as the cause of ours only if no traceback of it can show a token."""
    secrets = _secrets(token)
    told = [str(one) for one in _chain(error)]
    has_secret = any(_SECRET.search(text) or any(secret in text for secret in secrets) for text in told)
    return None if has_secret else error


def _secrets(token: Token) -> tuple[str, ...]:
    """List the tokens that the client may have sent, the longest first; not all begin as the Hub's own do."""
    from huggingface_hub import get_token

    stored = None
    with contextlib.suppress(OSError, ValueError):
        stored = get_token()
    return tuple(
        sorted({one for one in (token, stored) if isinstance(one, str) and one}, key=len, reverse=True)
    )


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_state = contextlib.ExitStack()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the client says on its own: our errors tell it, and a bar needs somebody to watch it.

    What that takes belongs to the whole process, so of several threads the first in changes it, and the last
    out puts it back.
    """
    global _quiet_depth
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_state.enter_context(_silenced())
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_state.close()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    # The environment variable has the last word, and the client warns whoever overrules it.
    hides_bars = (
        constants.HF_HUB_DISABLE_PROGRESS_BARS is None
        and not is_progress_wanted()
        and not are_progress_bars_disabled()
    )
    logger.setLevel(logging.CRITICAL)
    if hides_bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if hides_bars:
            enable_progress_bars()
