"""Text for people: lines of output, messages, warnings and progress, whatever the terminal can show."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
import unicodedata
import warnings
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from piaa_sdk.errors import OutputError, PiaaWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")

STOPPED = 130
"""The exit code that shells report for a program ended by Ctrl-C."""

_SECONDS_BETWEEN_UPDATES = 0.2
_SECONDS_BEFORE_FORECAST = 2.0
_PLAIN = str.maketrans({"★": "*", "☆": "-", "±": "+/-", "…": "..."})


def display_width(text: str) -> int:
    """Count the columns that text takes on a terminal; East Asian letters and emoji take two."""
    return sum(_character_width(character) for character in text)


def shorten(text: str, width: int, ellipsis: str = "…") -> str:
    """Keep the end of text that is wider than ``width`` columns: the end of a path tells most."""
    if display_width(text) <= width:
        return text
    room = width - display_width(ellipsis)
    kept: list[str] = []
    for character in reversed(text):
        room -= _character_width(character)
        if room < 0:
            break
        kept.append(character)
    return ellipsis + "".join(reversed(kept))


def can_show(stream: TextIO, text: str) -> bool:
    """Tell whether a stream's encoding has all characters of ``text``."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def columns_of(stream: TextIO) -> int | None:
    """Return how wide the terminal behind a stream is, in columns; None if there is no terminal."""
    if not is_terminal(stream):
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person is reading the stream; one that was closed has no reader."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def tell(*lines: str) -> None:
    """Write lines of the result to standard output; stars become plain letters where there are no others.

    Raises:
        OutputError: They cannot be written, for example because the disk is full.
        BrokenPipeError: Nobody reads them any more.
    """
    try:
        for line in lines:
            sys.stdout.write(f"{line if can_show(sys.stdout, line) else line.translate(_PLAIN)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot be written: {error.strerror or error}") from error


def silence(stream: TextIO) -> None:
    """Drop what a stream still holds if it cannot be written, so that nobody complains later."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


class Console:
    """Messages on one stream, in whole lines, whatever thread they come from.

    A progress line is wiped before a message and drawn again after it. It is shown on a terminal only.

    Args:
        stream: Where to write: standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._columns = columns_of(stream)
        self._lock = threading.RLock()
        self._drawn = ""
        self._warned: set[str] = set()

    @property
    def stream(self) -> TextIO:
        """Where it writes."""
        return self._stream

    @property
    def shows_progress(self) -> bool:
        """Whether there is a terminal that a progress line can be drawn on."""
        return self._columns is not None

    def say(self, text: str) -> None:
        """Write one message; it ends its line itself."""
        with self._lock, contextlib.suppress(OSError):  # whom could we tell?
            drawn = self._drawn
            self._draw("")
            self._stream.write(f"{text}\n")
            self._draw(drawn)
            self._stream.flush()

    def warn(self, text: str) -> None:
        """Write a warning, unless the same was written before."""
        with self._lock:
            if text not in self._warned:
                self._warned.add(text)
                self.say(f"warning: {text}")

    def track(
        self, items: Iterable[Item], total: int | Callable[[], int | None] | None, what: str = "photos"
    ) -> Iterator[Item]:
        """Pass items through and show how many there were, how fast, and how long the rest takes.

        Args:
            items: What is waited for.
            total: How many there will be, or who to ask each time; None if nobody knows.
            what: What they are, plural.
        """
        if not self.shows_progress:
            yield from items
            return
        started, updated = time.monotonic(), 0.0
        try:
            for count, item in enumerate(items, start=1):
                now = time.monotonic()
                if now - updated >= _SECONDS_BETWEEN_UPDATES:
                    updated = now
                    expected = total() if callable(total) else total
                    self._show(progress_text(count, expected, now - started, what))
                yield item
        finally:
            self._show("")

    def show_state(self, text: str) -> None:
        """Show how far the work is in the place of what was shown before; nothing where nobody watches."""
        if self.shows_progress:
            self._show(text)

    @contextlib.contextmanager
    def captured_warnings(self) -> Iterator[None]:
        """Show warnings of this package as messages, and those of libraries not at all."""

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            self.warn(str(message))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", PiaaWarning)
            warnings.showwarning = show
            yield

    def _show(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._draw(text)
            self._stream.flush()

    def _draw(self, text: str) -> None:
        if self._columns is None or text == self._drawn:
            return
        text = text[: self._columns - 1]  # a line that is full wraps, and then no longer goes away
        padding = " " * (len(self._drawn) - len(text))
        self._stream.write(f"\r{text}{padding}" if text else f"\r{padding}\r")
        self._drawn = text


def progress_text(count: int, total: int | None, seconds: float, what: str) -> str:
    """Describe how far a run is.

    Args:
        count: Items done, at least 1.
        total: Items in all; None if nobody knows.
        seconds: Since the run began.
        what: What the items are, plural.
    """
    rate = count / seconds if seconds > 0 else 0.0
    parts = [f"{count:,} of {total:,} {what}" if total else f"{count:,} {what}"]
    if seconds >= _SECONDS_BEFORE_FORECAST:
        parts.append(f"{rate:.1f} per second")
        if total and rate > 0:
            parts.append(f"{duration(max(0, total - count) / rate)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Say a time span the way a clock does: ``0:07``, ``12:40``, ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count_of(count: int, noun: str) -> str:
    """Say how many there are: ``1 photo``, ``2,000 photos``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: int) -> str:
    """Say a number of bytes the way file managers do: ``512 bytes``, ``14.2 MB``."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
