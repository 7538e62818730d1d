"""Lines for whoever waits for a download; nobody hears them unless somebody listens, as the program does."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class _Listener:
    say: Callable[[str], None]
    wants_progress: bool


_LISTENER: ContextVar[_Listener | None] = ContextVar("piaa_listener", default=None)


@contextlib.contextmanager
def listening(say: Callable[[str], None], *, wants_progress: bool) -> Iterator[None]:
    """Hear what is announced in the body.

    Args:
        say: Gets each line.
        wants_progress: Whether a person watches a terminal that progress of downloads can be drawn on.
    """
    token = _LISTENER.set(_Listener(say, wants_progress))
    try:
        yield
    finally:
        _LISTENER.reset(token)


def announce(text: str) -> None:
    """Say one line to whoever listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener.say(text)


def is_progress_wanted() -> bool:
    """Tell whether somebody watches the progress of downloads."""
    listener = _LISTENER.get()
    return listener is not None and listener.wants_progress
