"""The program in processes that can be killed, without the second that each start of an interpreter takes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path


@contextlib.contextmanager
def started(
    folder: Path, *arguments: object, stdin: bytes = b"", prepare: Callable[[], object] | None = None
) -> Iterator[ForkServerProcess]:
    """Start the program; it does not outlive the block.

    Args:
        folder: Where what it tells is written: ``told``.
        arguments: What it is called with.
        stdin: What it can read.
        prepare: Called in its process first.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked_program", "piaa_sdk.cli", "piaa_sdk.reports", "piaa_sdk.scorer"])
    (folder / "stdin").write_bytes(stdin)
    (folder / "told").unlink(missing_ok=True)
    words = [str(argument) for argument in arguments]
    process = context.Process(target=_run, args=(words, dict(os.environ), folder, prepare))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def _run(
    arguments: list[str], environ: dict[str, str], folder: Path, prepare: Callable[[], object] | None
) -> None:
    from piaa_sdk.cli import main

    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["piaa", *arguments]
    for name, number, flags in (
        ("stdin", 0, os.O_RDONLY),
        ("told", 2, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        descriptor = os.open(folder / name, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - another process began it
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if prepare is not None:
        prepare()
    main()
