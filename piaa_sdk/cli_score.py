"""The command ``piaa score``: photos in, rows out."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import typer

from piaa_sdk.choices import ReportFormat, RunsOn
from piaa_sdk.cli_cluster import runs_on_cluster, score_on_cluster
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
    Previews,
    Recursive,
    Resume,
    RowOrder,
    ScoringEngine,
    Top,
    Users,
    Watch,
    Workers,
)
from piaa_sdk.cli_runs import (
    Tally,
    check_settings,
    score_arrivals,
    tell_of_earlier_rows,
    telling_how_to_go_on,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from piaa_sdk.errors import ImageError
    from piaa_sdk.images import RemotePicture
    from piaa_sdk.reports import Report
    from piaa_sdk.row_file import RunRecord
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
    batch_size: BatchSize = None,
    workers: Workers = None,
    previews: Previews = False,
    no_cache: NoCache = False,
    force: Force = False,
    resume: Resume = False,
    watch: Watch = False,
    engine: ScoringEngine = RunsOn.LOCAL,
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
    given = dict(locals())  # all as annotated; what the context holds depends on the version of typer
    if runs_on_cluster(given):
        score_on_cluster(context, given, _listed(photos))
        return
    check_settings(photos, output, resume=resume, watch=watch)
    report_format = _settled_format(report_format, output)
    from piaa_sdk.reports import open_report

    console: Console = context.obj
    scorers = _scorers(given)
    paths = _listed(photos)
    settings = {"model": model, "recursive": recursive, "top": top, "previews": previews}
    record = _record(scorers, photos, settings)
    choice: dict[str, Any] = {"output": output, "order": order, "top": top, "replace": force}
    with open_report(
        record, report_format, stdout=sys.stdout, resume=resume, latest_only=watch, **choice
    ) as report:
        tell_of_earlier_rows(report, output, console, resume=resume)
        if watch:
            tally = score_arrivals(report, scorers, paths, console, context, recursive=recursive)
        else:
            tally = _score_found(report, scorers, paths, console, context, recursive=recursive)
    _tell(tally, scorers, console, output)
    raise typer.Exit(1 if tally.failed and not watch else 0)


def _score_found(
    report: Report,
    scorers: Sequence[Scorer],
    paths: Sequence[str],
    console: Console,
    context: typer.Context,
    *,
    recursive: bool,
) -> Tally:
    from piaa_sdk.images import find_images, is_remote

    # What is elsewhere is listed once: that takes a while, and may cost.
    is_counted = console.shows_progress and not any(map(is_remote, paths))
    count = _Count(find_images(paths, recursive=recursive)) if is_counted else None
    return _score_into(report, scorers, find_images(paths, recursive=recursive), console, count, context)


def _scorers(given: dict[str, Any]) -> list[Scorer]:
    from piaa_sdk.scorer import Scorer

    first, *others = dict.fromkeys(given["user"]) if given["user"] else [None]
    settings = {name: given[name] for name in ("device", "workers", "batch_size", "previews")}
    scorer = Scorer.from_pretrained(given["model"], user=first, cache=not given["no_cache"], **settings)
    people = {scorer.user: scorer}
    for name in others:
        assert name is not None, "nobody is among several only where nobody was named"
        other = scorer.for_user(name)
        people.setdefault(other.user, other)  # the store knows a person by several spellings of the name
    return list(people.values())


def _record(scorers: Sequence[Scorer], photos: Sequence[str], settings: dict[str, Any]) -> RunRecord:
    from piaa_sdk.images import display_name
    from piaa_sdk.row_file import PersonRecord, RunRecord
    from piaa_sdk.row_formats import path_field

    people = [PersonRecord(one.user, one.scale, one.scorer_id) for one in scorers]
    return RunRecord.of(
        scorers[0].bundle,
        people,
        settings | {"photos": [path_field(display_name(path, 0)) for path in photos]},
    )


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
    images: Iterable[Path | RemotePicture | ImageError],
    console: Console,
    total: Callable[[], int | None] | None,
    context: typer.Context,
) -> Tally:
    from piaa_sdk.scorer import score_each

    tally = Tally(report, console)

    def to_do() -> int | None:
        count = total() if total is not None else None
        return None if count is None else max(0, count - report.photos_kept)

    with telling_how_to_go_on(tally, console, context):
        for scores in console.track(score_each(scorers, report.pending(images)), to_do):
            tally.add(scores)
        if not tally.photos:
            console.say("error: no photos found; name photos, or folders that hold some")
            raise typer.Exit(1)
        report.finish()
    return tally


def _tell(tally: Tally, scorers: Sequence[Scorer], console: Console, output: Path | None) -> None:
    from piaa_sdk.images import printable

    tally.tell_of_rows_left()
    console.say(
        f"scored {tally.summary()} {_for_whom(scorers)}"
        + (f"; {tally.failed:,} could not be read" if tally.failed else "")
        + (f"; wrote {printable(str(output))}" if output and tally.photos else "")
    )


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
