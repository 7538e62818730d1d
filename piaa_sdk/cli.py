"""The command ``piaa``: parse, call, print.

Results go to standard output; progress, messages and warnings to standard error. Exit codes: 0 done, 1 an
error or some photos that could not be scored, 2 a command that was not understood, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from piaa_sdk import __version__, cli_score, cli_stored
from piaa_sdk.announcements import listening
from piaa_sdk.choices import Method
from piaa_sdk.cli_options import (
    Add,
    Bf16,
    DemoFolder,
    Device,
    Epochs,
    LearningMethod,
    Model,
    NoCache,
    PhotoFolder,
    Rater,
    Ratings,
    Replace,
    Scale,
    StopsEarly,
    Workers,
)
from piaa_sdk.cli_runs import ARGUMENTS
from piaa_sdk.errors import PiaaError, ProfileNotFoundError
from piaa_sdk.terminal import STOPPED, Console, silence, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from piaa_sdk.fine_tuned import FineTuneOptions, FineTuningProgress
    from piaa_sdk.profiles import UserProfile
    from piaa_sdk.ratings import Rating, RatingTable
    from piaa_sdk.scorer import Scorer

DEFAULT_USER = "default"
"""Whose ratings they are if nobody says."""

_READER_LEFT = 141  # what they report for one whose output nobody reads any more


class _Program(TyperGroup):
    """All commands, with one place where errors become messages."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        console = ctx.obj = Console(sys.stderr)
        with console.captured_warnings(), listening(console.say, wants_progress=console.shows_progress):
            try:
                return super().invoke(ctx)
            except PiaaError as error:
                console.say(f"error: {error}")
                code = 1
            except KeyboardInterrupt:
                console.say("stopped")
                code = STOPPED
            except BrokenPipeError:
                code = _READER_LEFT
            except MemoryError:
                console.say("error: there is not enough memory; close other programs, or try --workers 1")
                code = 1
        for stream in (sys.stdout, sys.stderr):
            silence(stream)
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "\b\n"
        "See it work:            piaa demo\n"
        "Score a folder:         piaa score holiday/\n"
        "Teach it your taste:    piaa personalize ratings.csv --user mira\n"
        "Score with your taste:  piaa score holiday/ --user mira"
    ),
)
app.command(epilog="Example: piaa score holiday/ --user mira --top 20")(cli_score.score)
app.add_typer(cli_stored.users, name="users")
app.add_typer(cli_stored.model, name="model")
app.add_typer(cli_stored.cache, name="cache")


def main() -> None:
    """Run the program with the arguments it was started with."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell has closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - until the end
        getattr(sys, name).reconfigure(errors="backslashreplace")  # for names its encoding lacks
    # What libraries log is not for our user.
    logging.getLogger().addHandler(logging.NullHandler())
    app(prog_name="piaa")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        tell(f"piaa-sdk {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Score photos: for most people, or for one person's taste.

    Photos are only ever read: never changed, moved or uploaded.
    """


@app.command(epilog="Example: piaa personalize ratings.csv --user mira --photos holiday/ --scale 1 5")
def personalize(
    context: typer.Context,
    ratings: Ratings,
    user: Rater = None,
    photos: PhotoFolder = None,
    scale: Scale = None,
    add: Add = False,
    replace: Replace = False,
    model: Model = None,
    device: Device = "auto",
    workers: Workers = None,
    no_cache: NoCache = False,
    method: LearningMethod = Method.CLOSED_FORM,
    epochs: Epochs = None,
    stop_early: StopsEarly = False,
    bf16: Bf16 = False,
) -> None:
    """Learn a person's taste from photos that the person has rated.

    10 to 100 rated photos are usual. The table is a CSV file whose first line is image,rating; a third
    column, user, may tell several people apart. How well the taste was learned is checked on ratings that
    were left out, and said.
    """
    if add and replace:
        raise typer.BadParameter("add to the stored ratings or replace them, not both", param_hint="--add")
    if method is Method.CLOSED_FORM and (epochs is not None or stop_early or bf16):
        raise typer.BadParameter("only fine-tuning has it; add --method finetune", param_hint="--epochs")
    from piaa_sdk.fine_tuned import FineTuneOptions, check_finetune

    if method is not Method.CLOSED_FORM:
        check_finetune()
    from piaa_sdk.ratings import read_ratings
    from piaa_sdk.scorer import Scorer

    console: Console = context.obj
    people = _people_in(read_ratings(ratings, photos=photos), user)
    scorer = Scorer.from_pretrained(model, device=device, cache=not no_cache, workers=workers)
    if len(people) > 1:
        _rehearse(scorer, people, scale, add=add, replace=replace, method=method)
    options = FineTuneOptions(
        epochs=epochs, stops_early=stop_early, bf16=bf16, progress=_fine_tuning_lines(console)
    )
    for name, rows in people.items():
        if console.shows_progress and not no_cache:
            # Fills the cache, which is what takes long; the closed form takes no time.
            for _ in console.track(scorer.iter_scores([row.image for row in rows]), len(rows)):
                pass
        _learn(scorer, name, rows, scale, add=add, replace=replace, method=method, options=options)


def _learn(
    scorer: Scorer,
    name: str,
    rows: tuple[Rating, ...],
    scale: tuple[float, float] | None,
    *,
    add: bool,
    replace: bool,
    method: Method,
    options: FineTuneOptions,
) -> None:
    """Learn one person's taste and tell what came of it."""
    from piaa_sdk.explanations import describe_adaptation, describe_addition, describe_comparison
    from piaa_sdk.images import printable
    from piaa_sdk.profiles import ProfileStore
    from piaa_sdk.ratings import RatingTable, summarize

    tell(f"{printable(name)}: {summarize(rows)}")
    before = None if replace else _stored(name)
    personal = scorer.personalize(
        RatingTable({None: rows}),
        user=name,
        scale=scale,
        add=add,
        replace=replace,
        method=method,
        options=options,
    )
    origin = "as stated" if scale else "as before" if before else "recognized; state another with --scale"
    tell(f"scale {personal.scale} ({origin})")
    if add and before is not None and personal.profile is not None:
        tell(describe_addition(before, personal.profile, len(rows)))
    if personal.comparison is not None:
        tell(*describe_comparison(personal.comparison, method, name))
    elif personal.adaptation is not None:
        tell(*describe_adaptation(personal.adaptation))
    tell(f"Stored in {printable(str(ProfileStore().folder))}. To score with it:")
    tell(f"  piaa score PHOTOS --user {shlex.quote(name)}", "")


def _fine_tuning_lines(console: Console) -> Callable[[FineTuningProgress], None]:
    """Tell of each fit's epochs on one line at a terminal, and of each fit's end elsewhere."""

    def show(progress: FineTuningProgress) -> None:
        is_last = progress.epoch == progress.epochs
        epoch = f"epoch {progress.epoch} of {progress.epochs}"
        line = f"fine-tuning, fit {progress.run} of {progress.runs}, {epoch}: loss {progress.loss:.4f}"
        if console.shows_progress:
            console.show_state("" if is_last and progress.run == progress.runs else line)
        elif is_last:
            console.say(line)

    return show


def _people_in(table: RatingTable, user: str | None) -> dict[str, tuple[Rating, ...]]:
    """Return the ratings of each person, those who are stored already first."""
    from piaa_sdk.profiles import ProfileStore

    if None in table.ratings or user is not None:
        return {DEFAULT_USER if user is None else user: table.of_user(user)}
    stored = set(ProfileStore().names())
    people = {str(name): rows for name, rows in table.ratings.items()}
    return dict(sorted(people.items(), key=lambda one: one[0] not in stored))


def _stored(name: str) -> UserProfile | None:
    from piaa_sdk.profiles import ProfileStore

    try:
        return ProfileStore().load(name)
    except ProfileNotFoundError:
        return None


def _rehearse(
    scorer: Scorer,
    people: dict[str, tuple[Rating, ...]],
    scale: tuple[float, float] | None,
    *,
    add: bool,
    replace: bool,
    method: Method,
) -> None:
    """Learn without storing: what is wrong with one person's ratings shows before another's are stored."""
    from piaa_sdk.fine_tuned import check_shots
    from piaa_sdk.profiles import ProfileStore, check_same_ratings, check_scale
    from piaa_sdk.rating_scale import RatingScale
    from piaa_sdk.ratings import RatingTable

    stated = None if scale is None else RatingScale(*scale)
    for name, rows in people.items():
        before = ProfileStore().load(name) if add else None if replace else _stored(name)
        if before is not None:
            check_scale(before, stated)
        if method is not Method.CLOSED_FORM:
            known = before.support.images if add and before is not None else ()
            check_shots(len({*known, *(row.name for row in rows)}))
        if add and before is not None:
            if method is Method.CLOSED_FORM:
                _rehearse_addition(scorer, before, rows)
            continue
        if before is not None:
            check_same_ratings(before, [row.name for row in rows], [row.rating for row in rows])
        scorer.personalize(RatingTable({None: rows}), scale=before.scale if before else scale)


def _rehearse_addition(scorer: Scorer, before: UserProfile, rows: tuple[Rating, ...]) -> None:
    """Do as if ratings were added, whose number may be one: nothing can be learned from them alone."""
    import numpy as np

    from piaa_sdk.profiles import check_model, merge_ratings
    from piaa_sdk.ratings import choose_scale
    from piaa_sdk.results import SupportSet
    from piaa_sdk.scorer import KIND

    choose_scale(rows, before.scale)
    check_model(before, scorer.bundle, kind=KIND, only_embeddings=True)
    names, values = [row.name for row in rows], np.array([row.rating for row in rows], dtype=np.float64)
    merged = merge_ratings(before, names, values, scorer.embed([row.image for row in rows]))
    SupportSet(merged.embeddings, before.scale.to_unit(merged.ratings), merged.images)  # may be all equal now


@app.command(epilog="Example: piaa doctor")
def doctor() -> None:
    """Check that everything works on this computer.

    Looks at the programs that piaa needs, computes scores that are known, and says what to do where
    something is missing. Sends nothing anywhere.
    """
    from piaa_sdk.doctor import Status, check_lines, examine

    failed = 0
    for check in examine():
        failed += check.status is Status.FAIL
        tell(*check_lines(check))
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: piaa demo --folder piaa-demo")
def demo(folder: DemoFolder = None) -> None:
    """See it work on real photographs.

    Puts openly licensed photographs in the order that most people would like them, then learns the taste
    of a made-up person from a few ratings and shows what changes. Stores nothing.
    """
    from piaa_sdk.demo import copy_photos, show

    if folder is not None:
        copy_photos(folder)
        shown = shlex.quote(str(folder))
        tell(f"Photos, {shown}/ratings.csv and credits are in {shown}. Now try:")
        tell(f"  piaa score {shown}", f"  piaa personalize {shown}/ratings.csv --user mira")
        tell(f"  piaa score {shown} --user mira")
        return
    for line in show():
        tell(line)
