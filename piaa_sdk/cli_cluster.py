"""``piaa score --engine ray``: check what was asked for, run the job, tell how it goes."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from piaa_sdk.announcements import listening
from piaa_sdk.choices import ReportFormat, RunsOn
from piaa_sdk.terminal import STOPPED, Console, count_of, progress_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from piaa_sdk.engines import BatchScorer
    from piaa_sdk.engines.ray_data import JobProgress

_SHOWN_FAILURES = 20


_GO_WITH_IT = frozenset(
    {
        "photos",
        "user",
        "model",
        "report_format",
        "output",
        "recursive",
        "device",
        "batch_size",
        "previews",
        "resume",  # which a job does unasked
        "workers",
        "no_cache",  # workers have none
        "engine",
        "address",
        "part_size",
    }
)
"""Parameters of ``piaa score`` that mean something for a cluster."""


def runs_on_cluster(given: Mapping[str, Any]) -> bool:
    """Tell whether ``piaa score`` was called for a cluster.

    Args:
        given: Its arguments, by name.

    Raises:
        typer.BadParameter: It was not, but what only a cluster has was given.
    """
    if given["engine"] is RunsOn.RAY:
        return True
    for option, name in (("--address", "address"), ("--part-size", "part_size")):
        if given[name] is not None:
            raise typer.BadParameter("only --engine ray has it; add that", param_hint=option)
    return False


def score_on_cluster(context: typer.Context, given: Mapping[str, Any], photos: Sequence[str]) -> None:
    """Run ``piaa score --engine ray``.

    Args:
        context: Of the command.
        given: The arguments of ``piaa score``, by name.
        photos: Photos, folders and lists of photos.

    Raises:
        typer.BadParameter: The command asks for something that there is not.
        PiaaError: The job cannot be run.
        typer.Exit: Some photos could not be scored, or it was stopped.
    """
    _check_options(context, given)
    from piaa_sdk.engines import BatchScorer
    from piaa_sdk.engines.ray_data import PART_SIZE, score_on_ray
    from piaa_sdk.images import printable

    console: Console = context.obj
    scorer = BatchScorer(
        given["model"],
        user=given["user"][0] if given["user"] else None,
        device=given["device"],
        workers=given["workers"],
        batch_size=given["batch_size"],
        previews=given["previews"],
    )
    folder = printable(str(given["output"]))
    with _own_stream(console) as own:
        teller = _Teller(own, folder)
        try:
            end = score_on_ray(
                photos,
                given["output"],
                scorer,
                address=given["address"],
                part_size=given["part_size"] or PART_SIZE,
                recursive=given["recursive"],
                on_part=teller,
            )
        except KeyboardInterrupt:
            own.show_state("")
            own.say(
                f"stopped after {count_of(teller.done, 'photo')}; their parts are kept in {folder}. To "
                "go on, start the same command again"
            )
            raise typer.Exit(STOPPED) from None
        finally:
            own.show_state("")
    _tell_end(console, end, scorer, folder)


def _check_options(context: typer.Context, given: Mapping[str, Any]) -> None:
    """Refuse what does not go with a cluster.

    Raises:
        typer.BadParameter: Something was given that does not.
    """
    if given["output"] is None:
        raise typer.BadParameter("--engine ray writes a folder; add --output DIR", param_hint="--output")
    if given["report_format"] not in (None, ReportFormat.PARQUET):
        raise typer.BadParameter("--engine ray writes Parquet; leave --format away", param_hint="--format")
    if len(given["user"] or ()) > 1:
        raise typer.BadParameter(
            "--engine ray scores for one person at a time; start it once for each", param_hint="--user"
        )
    for parameter in context.command.params:
        if parameter.name in _GO_WITH_IT or given.get(str(parameter.name)) == parameter.default:
            continue
        option = parameter.opts[0]
        raise typer.BadParameter(f"does not go with --engine ray; leave {option} away", param_hint=option)


def _tell_end(console: Console, end: JobProgress, scorer: BatchScorer, folder: str) -> None:
    from piaa_sdk.images import printable

    scored = end.photos - end.failed
    counted = f"{scored:,} of {count_of(end.photos, 'photo')}" if end.failed else count_of(scored, "photo")
    whose = "the way most people would" if scorer.user is None else f"for {printable(scorer.user)}"
    before = f", {end.earlier:,} of them in an earlier run" if end.earlier else ""
    console.say(
        f"scored {counted} {whose}, scale {scorer.scale}{before}"
        + (f"; {end.failed:,} could not be read, see the column error" if end.failed else "")
        + f"; wrote {folder}"
    )
    if end.failed:
        raise typer.Exit(1)


class _Teller:
    """Says how far a job is."""

    def __init__(self, console: Console, folder: str) -> None:
        self._console, self._folder = console, folder
        self._shown = 0
        self._began = time.monotonic()
        self.done = 0

    def __call__(self, progress: JobProgress) -> None:
        from piaa_sdk.images import printable

        if progress.earlier and not self.done:
            earlier = count_of(progress.earlier, "photo")
            self._console.say(f"going on in {self._folder}, where {earlier} of {progress.photos:,} are done")
        self.done = progress.done
        for path, reason in progress.failures[: max(0, _SHOWN_FAILURES - self._shown)]:
            self._console.say(f"skipped: {printable(path)}: {printable(reason)}")
        self._shown += len(progress.failures)
        if progress.is_all_failed:
            self._console.warn(
                "of some parts no photo could be read; must the workers see the photos under other names?"
            )
        if progress.done < progress.photos:
            now = progress.done - progress.earlier
            seconds = time.monotonic() - self._began
            left = progress.photos - progress.earlier
            self._console.show_state(progress_text(now, left, seconds, "photos") if now else "starting Ray")


@contextmanager
def _own_stream(console: Console) -> Iterator[Console]:
    """Keep what Ray writes to the screen, from C++ and from threads of its own, away from our messages.

    Yields:
        Where messages go meanwhile, as do warnings and announcements of this package.
    """
    stream = console.stream
    try:
        target = os.dup(stream.fileno())
    except (OSError, ValueError):  # not a file: nothing to keep apart
        yield console
        return
    saved = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with os.fdopen(target, "w", encoding=stream.encoding, errors="backslashreplace") as own:
            stream.flush()
            for number in saved:
                os.dup2(nowhere, number)
            console = Console(own)
            with console.captured_warnings(), listening(console.say, wants_progress=console.shows_progress):
                yield console
    finally:
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
