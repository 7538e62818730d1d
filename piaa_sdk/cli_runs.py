"""Runs of ``piaa score`` that go on: with what an interrupted one has left, and with what arrives."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

import typer

from piaa_sdk.terminal import STOPPED, count_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from piaa_sdk.reports import Report
    from piaa_sdk.results import Score
    from piaa_sdk.scorer import Scorer
    from piaa_sdk.terminal import Console

_LONGEST_COMMAND = 1000  # letters that are shown of it

ARGUMENTS = "piaa_sdk.arguments"
"""Where the context keeps what the program was called with."""


class Tally:
    """Hands the scores of a run to a report, counts them, and names what could not be scored.

    Args:
        report: Where the scores go.
        console: Where what could not be scored is named.
        latest_only: Whether a photo that comes again counts once, as what became of it the last time.

    Attributes:
        scored: Photos that have scores.
        failed: Photos that have none.
    """

    def __init__(self, report: Report, console: Console, *, latest_only: bool = False) -> None:
        self.scored = self.failed = 0
        self._report = report
        self._console = console
        self._latest: dict[str, bool] | None = {} if latest_only else None

    def add(self, scores: Sequence[Score]) -> bool:
        """Take the scores of one photo; tell whether it could be scored.

        Raises:
            OutputError: They cannot be written.
        """
        from piaa_sdk.images import printable

        for score in scores:
            self._report.add(score)
        error = next((score.error for score in scores if score.error is not None), None)
        self._count(scores[0].image, is_scored=error is None)
        if error is None:
            return True
        self._console.say(f"skipped: {printable(scores[0].image)}: {printable(error.reason)}")
        return False

    def _count(self, image: str, *, is_scored: bool) -> None:
        if self._latest is not None:
            before = self._latest.get(image)
            self._latest[image] = is_scored
            self.scored -= before is True
            self.failed -= before is False
        self.scored += is_scored
        self.failed += not is_scored

    @property
    def earlier(self) -> int:
        """How many photos had their scores from an interrupted run."""
        return self._report.photos_kept - self._report.photos_left

    @property
    def photos(self) -> int:
        """How many there were."""
        return self.earlier + self.scored + self.failed

    def stopped(self, context: typer.Context) -> str:
        """Say how far a run was when it was stopped, and how to go on.

        Args:
            context: Of the command.
        """
        from piaa_sdk.images import printable

        text = f"stopped after {count_of(self.photos, 'photo')}"
        if self._report.partial is None or not self._report.photos_kept + self.scored + self.failed:
            return text
        kept = printable(str(self._report.partial))
        return f"{text}; their rows are kept in {kept}. To go on: {command_to_go_on(context)}"

    def summary(self) -> str:
        """Say how many photos were scored."""
        scored = self.earlier + self.scored
        text = f"{scored:,} of {count_of(self.photos, 'photo')}" if self.failed else count_of(scored, "photo")
        return text + (f" ({self.earlier:,} of them before)" if self.earlier else "")

    def tell_of_rows_left(self) -> None:
        """Say where the rows are that an interrupted run has left and this one had no use for."""
        from piaa_sdk.images import printable

        left = self._report.left_over
        if left is not None:
            self._console.warn(
                f"the interrupted run had scored {count_of(self._report.photos_left, 'photo')} that this run "
                f"was not given; all its rows are kept in {printable(str(left))}"
            )


def command_to_go_on(context: typer.Context) -> str:
    """Say which command goes on where this one was stopped; one with secrets or many photos in few words."""
    from piaa_sdk.images import display_name, printable

    arguments = list(context.meta.get(ARGUMENTS, ()))
    if "--resume" not in arguments:
        arguments.insert(1 if "--" in arguments else len(arguments), "--resume")
    command = printable(shlex.join(["piaa", *arguments]))
    is_shown_whole = all(display_name(one, 0) == one for one in arguments)
    return (
        command if is_shown_whole and len(command) <= _LONGEST_COMMAND else "the same command with --resume"
    )


def check_settings(photos: Sequence[str], output: Path | None, *, resume: bool, watch: bool) -> None:
    """Refuse to go on with rows that no run has kept, and to watch what is no folder.

    Raises:
        BadParameter: It was asked for.
    """
    if resume and output is None:
        raise typer.BadParameter(
            "goes on with the rows kept for a file; name it with --output", param_hint="--resume"
        )
    for name in photos if watch else ():
        if not os.path.isdir(name):  # noqa: PTH112 (Path.is_dir raises where a name is too long, or forbidden)
            raise typer.BadParameter(
                f"{name!r} is not a folder that is there; --watch takes folders", param_hint="PHOTOS"
            )


def tell_of_earlier_rows(report: Report, output: Path | None, console: Console, *, resume: bool) -> None:
    """Say what became of the rows that an interrupted run has left."""
    from piaa_sdk.images import printable

    if report.set_aside:
        kept = printable(str(report.set_aside))
        console.warn(
            f"rows of an earlier run that was stopped are kept in {kept}; "
            "the command that made them goes on with them if --resume is added"
        )
    if not resume or output is None:
        return
    if report.is_resumed:
        console.say(
            f"going on after {count_of(report.photos_kept, 'photo')} that an interrupted run has scored"
        )
    elif output.exists():
        console.say(f"nothing to go on with: {printable(str(output))} is complete; scoring all photos again")
    else:
        console.say(
            f"nothing to go on with: there is no {printable(str(report.partial))}; scoring all photos"
        )


@contextmanager
def telling_how_to_go_on(tally: Tally, console: Console, context: typer.Context) -> Iterator[None]:
    """Where Ctrl-C ends the work, say how far it was, what is kept of it, and how to go on.

    Raises:
        Exit: It was.
    """
    try:
        yield
    except KeyboardInterrupt:
        console.say(tally.stopped(context))
        raise typer.Exit(STOPPED) from None


def score_arrivals(
    report: Report,
    scorers: Sequence[Scorer],
    folders: Sequence[str],
    console: Console,
    context: typer.Context,
    *,
    recursive: bool,
) -> Tally:
    """Score the photos in folders, and those that arrive, until Ctrl-C."""
    from piaa_sdk.images import printable
    from piaa_sdk.scorer import score_each
    from piaa_sdk.watching import FolderWatch

    tally = Tally(report, console, latest_only=True)
    console.say(f"watching {' and '.join(map(printable, folders))}; Ctrl-C ends it")
    with telling_how_to_go_on(tally, console, context):
        with _stop_signals() as stop:
            watch = FolderWatch(folders, recursive=recursive, stop=stop, tell=console.say)
            for photos in watch:
                results = cast(
                    "Generator[tuple[Score, ...], None, None]", score_each(scorers, report.pending(photos))
                )
                with closing(results):
                    for scores in results:
                        if not tally.add(scores):
                            watch.failed(scores[0].image)
                        console.show_state(f"scored {tally.summary()}, watching")
                        if stop.is_set():
                            break
        console.show_state("")
        if tally.photos:  # else there is nothing to put in the place of what an earlier run has written
            report.finish()
    return tally


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C, and whoever ends services, sets; a second one ends the program at once."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(*_: object) -> None:
        stop.set()
        restore()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        restore()
