"""Keep what libraries say about a picture off the user's screen, without silencing the host program.

Pillow and its friends warn about odd metadata through ``warnings``; libtiff and LibRaw print on damaged data.
A user sees one line per picture that cannot be scored instead. ``warnings.catch_warnings`` is no help: it
swaps the filters of the whole process, and pictures are decoded in several threads.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
import warnings
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _DecodingHere(threading.local):
    """Stand where a warnings filter has its module pattern; match only in a thread that is decoding."""

    depth = 0

    def match(self, module: str) -> bool:
        return self.depth > 0


_decoding_here = _DecodingHere()
_FILTER = ("ignore", None, Warning, _decoding_here, 0)
_filters_lock = threading.Lock()

_STANDARD_ERROR = 2
_LIBRAW_LINES = re.compile(
    rb"(?:unknown file: |Corrupt JPEG|Premature end of JPEG|Warning: unknown JFIF|Unknown Adobe color"
    rb"|Inconsistent progression|Invalid SOS)[^\n]*\n"
)
_standard_error_lock = threading.Lock()

_libtiff_lock = threading.Lock()
_libtiff_users = 0
_libtiff_handlers: list[int | None] = []


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Ignore every warning of this thread inside the block; other threads keep theirs.

    The process keeps one filter, which is inert outside such blocks.
    """
    filters = _filters()
    if not filters or filters[0] is not _FILTER:
        _install_filter()
    _decoding_here.depth += 1
    try:
        yield
    finally:
        _decoding_here.depth -= 1


@contextmanager
def quiet_libtiff() -> Iterator[None]:
    """Stop libtiff from printing to standard error inside the block, where it is a shared library."""
    setters = _libtiff_setters()
    _mute_libtiff(setters)
    try:
        yield
    finally:
        _restore_libtiff(setters)


@contextmanager
def quiet_libraw() -> Iterator[None]:
    """Take what LibRaw prints about damaged data out of standard error inside the block.

    LibRaw leaves no other way: what the process writes meanwhile is held back, and passed on without
    LibRaw's lines. For short blocks; they wait for each other.
    """
    with _standard_error_lock, tempfile.TemporaryFile() as held:
        try:
            original = os.dup(_STANDARD_ERROR)
        except OSError:  # a process without one
            yield
            return
        try:
            os.dup2(held.fileno(), _STANDARD_ERROR)
            yield
        finally:
            os.dup2(original, _STANDARD_ERROR)
            os.close(original)
            held.seek(0)
            if rest := _LIBRAW_LINES.sub(b"", held.read()):
                os.write(_STANDARD_ERROR, rest)


def _install_filter() -> None:
    """Put the filter first again: the host may have put others before it, or have reset them all."""
    with _filters_lock:
        filters = _filters()
        if _FILTER in filters:
            filters.remove(_FILTER)
        filters.insert(0, _FILTER)


def _filters() -> list[Any]:
    return cast("list[Any]", warnings.filters)


@cache
def _libtiff_setters() -> tuple[Callable[[int | None], int | None], ...]:
    """Find libtiff's two handler setters in what Pillow has loaded; none if libtiff is built into it."""
    try:
        spec = find_spec("PIL._imaging")
        library = ctypes.CDLL(spec.origin if spec else None)
        setters = (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler)
    except (AttributeError, OSError, TypeError):
        return ()
    for setter in setters:
        setter.argtypes = [ctypes.c_void_p]
        setter.restype = ctypes.c_void_p
    return setters


def _mute_libtiff(setters: tuple[Callable[[int | None], int | None], ...]) -> None:
    global _libtiff_users
    with _libtiff_lock:
        if not _libtiff_users:
            _libtiff_handlers[:] = [setter(None) for setter in setters]
        _libtiff_users += 1


def _restore_libtiff(setters: tuple[Callable[[int | None], int | None], ...]) -> None:
    global _libtiff_users
    with _libtiff_lock:
        _libtiff_users -= 1
        if not _libtiff_users:
            for setter, handler in zip(setters, _libtiff_handlers, strict=True):
                setter(handler)
