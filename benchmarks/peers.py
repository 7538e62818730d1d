"""Another program for the same job, where a person has it with its weights; nothing is downloaded."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from typing import TYPE_CHECKING, NoReturn
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PEER = "peer: pyiqa's NIMA, one by one"
_FAILURES = (OSError, RuntimeError, ValueError, ImportError, AttributeError, LookupError)


def find_peer() -> tuple[Callable[[Sequence[Path]], None] | None, str]:
    """Open the peer.

    Returns:
        What gets through all pictures once, None if there is no peer; and one line that says what was found.
    """
    try:
        import pyiqa
    except ImportError:
        return None, "peer: pyiqa is not installed, so there is no row for it"
    try:
        with without_network(), contextlib.redirect_stdout(io.StringIO()):
            metric = pyiqa.create_metric("nima", device="cpu")
    except _FAILURES as error:
        return None, f"peer: pyiqa is installed, its NIMA cannot be opened from disk ({type(error).__name__})"

    def score(paths: Sequence[Path]) -> None:
        for path in paths:
            metric(str(path))

    return score, "peer: pyiqa's default NIMA, with the weights that were on disk"


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Let nothing here connect to anywhere inside the block: weights on disk are found, others are not."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("benchmarks download nothing")

    with (
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
        mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}),
    ):
        yield
