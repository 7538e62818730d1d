"""The command ``piaa score``: photos in, rows out."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import typer

from piaa_sdk.choices import Engine, ReportFormat
from piaa_sdk.cli_options import (
    Address,
    BatchSize,
    Device,
    Force,
    Format,
    Model,
    NoCache,
    Output,
    PartSize,
    Photos,
    Recursive,
    RowOrder,
    ScoringEngine,
    Top,
    Users,
    Workers,
)
from piaa_sdk.terminal import STOPPED, count_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from piaa_sdk.errors import ImageError
    from piaa_sdk.reports import Report
    from piaa_sdk.scorer import Scorer
    from piaa_sdk.terminal import Console


def score(
    context: typer.Context,
    photos: Photos,
    user: Users = None,
    model: Model = None,
    report_format: Format = None,
    output: Output = None,
    top: Top = None,
    order: RowOrder = None,
    recursive: Recursive = True,
    device: Device = "auto",
    batch_size: BatchSize = 8,
    workers: Workers = None,
    no_cache: NoCache = False,
    force: Force = False,
    engine: ScoringEngine = Engine.LOCAL,
    address: Address = None,
    part_size: PartSize = None,
) -> None:
    """Score photos and list the best first.

    Without --user the score is what most people would give. With --user it is what that person would
    give, on that person's scale, with the uncertainty after the ± sign. Several --user are scored in one
    pass, with a row for each. A photo that cannot be read is named and left out; all others are scored.

    A table is best first. Rows of csv and jsonl come as the photos do; on the screen each is written at
    once, so its percentile, the place among all photos, is empty. --output or --order score fills it in.
    """
    if engine is Engine.RAY:
        from piaa_sdk.cli_cluster import score_on_cluster

        score_on_cluster(context, _listed(photos))
        return
    if address is not None or part_size is not None:
        raise typer.BadParameter("only --engine ray has it; add that", param_hint="--address, --part-size")
    report_format = _settled_format(report_format, output)
    from piaa_sdk.images import find_images, printable
    from piaa_sdk.reports import open_report
    from piaa_sdk.row_file import PersonRecord, RunRecord
    from piaa_sdk.row_formats import path_field
    from piaa_sdk.scorer import Scorer

    console: Console = context.obj
    first, *others = dict.fromkeys(user) if user else [None]
    scorer = Scorer.from_pretrained(
        model, user=first, device=device, cache=not no_cache, workers=workers, batch_size=batch_size
    )
    scorers = [scorer, *(scorer.for_user(name) for name in others if name is not None)]
    paths = _listed(photos)
    settings: dict[str, Any] = {"model": model, "recursive": recursive, "top": top}
    settings["photos"] = [path_field(path) for path in photos]
    people = [PersonRecord(one.user, one.scale, one.scorer_id) for one in scorers]
    record = RunRecord.of(scorer.bundle, people, settings)
    count = _Count(find_images(paths, recursive=recursive)) if console.shows_progress else None
    with open_report(
        record, report_format, stdout=sys.stdout, output=output, order=order, top=top, replace=force
    ) as report:
        if report.set_aside:
            earlier = printable(str(report.set_aside))
            console.warn(f"rows of an earlier run that was stopped are kept in {earlier}")
        _score_into(report, scorers, find_images(paths, recursive=recursive), console, count, output)


class _Count:
    """Counts photos while they are scored already: a large library takes a while to walk through."""

    def __init__(self, photos: Iterable[object]) -> None:
        self._total: int | None = None
        self._photos = photos
        threading.Thread(target=self._run, name="piaa-count", daemon=True).start()

    def __call__(self) -> int | None:
        """Return how many there are; None as long as nobody knows."""
        return self._total

    def _run(self) -> None:
        self._total = sum(1 for _ in self._photos)


def _score_into(
    report: Report,
    scorers: Sequence[Scorer],
    images: Iterable[Path | ImageError],
    console: Console,
    total: Callable[[], int | None] | None,
    output: Path | None,
) -> None:
    from piaa_sdk.images import printable
    from piaa_sdk.scorer import score_each

    scored = failed = 0
    try:
        for scores in console.track(score_each(scorers, images), total):
            for score in scores:
                report.add(score)
            error = next((score.error for score in scores if score.error is not None), None)
            if error is None:
                scored += 1
            else:
                failed += 1
                console.say(f"skipped: {printable(scores[0].image)}: {printable(error.reason)}")
        if not scored + failed:
            console.say("error: no photos found; name photos, or folders that hold some")
            raise typer.Exit(1)
        report.finish()
    except KeyboardInterrupt:
        has_rows = report.partial is not None and scored + failed > 0
        kept = f"; their rows are kept in {printable(str(report.partial))}" if has_rows else ""
        console.say(f"stopped after {count_of(scored + failed, 'photo')}{kept}")
        raise typer.Exit(STOPPED) from None
    counted = f"{scored:,} of {count_of(scored + failed, 'photo')}" if failed else count_of(scored, "photo")
    console.say(
        f"scored {counted} {_for_whom(scorers)}"
        + (f"; {failed:,} could not be read" if failed else "")
        + (f"; wrote {printable(str(output))}" if output else "")
    )
    if failed:
        raise typer.Exit(1)


def _for_whom(scorers: Sequence[Scorer]) -> str:
    from piaa_sdk.images import printable

    if scorers[0].user is None:
        return f"the way most people would, scale {scorers[0].scale}"
    return "for " + " and ".join(f"{printable(str(one.user))}, scale {one.scale}" for one in scorers)


def _settled_format(stated: ReportFormat | None, output: Path | None) -> ReportFormat:
    """Settle how to write, from what was stated and the name of the file."""
    if output is None:
        if stated is ReportFormat.PARQUET:
            raise typer.BadParameter(
                "Parquet is not for the screen; add --output FILE", param_hint="--format"
            )
        return stated or ReportFormat.TABLE
    from piaa_sdk.reports import format_for

    known = stated or format_for(output)
    if known is None:
        raise typer.BadParameter(
            f"{output.name!r} does not end in .csv, .jsonl, .parquet or .txt; state the format with --format",
            param_hint="--output",
        )
    return known


def _listed(photos: list[str]) -> list[str]:
    """Put the paths from standard input where ``-`` stands."""
    return [path for given in photos for path in (_paths_from_input() if given == "-" else [given])]


def _paths_from_input() -> list[str]:
    data = sys.stdin.buffer.read()
    separator = b"\0" if b"\0" in data else b"\n"
    lines = data.split(separator)
    if separator == b"\n" and all(line.endswith(b"\r") for line in lines[:-1]):
        lines = [line.removesuffix(b"\r") for line in lines]  # a list written on Windows
    return [os.fsdecode(line) for line in lines if line]
