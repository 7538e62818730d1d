"""Options that several commands of ``python -m training`` share, and how they report."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.evaluation_record import to_text
from training.folder_writing import write_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.meta_config import MetaConfig

Folder = Annotated[Path, typer.Argument(help="Folder with the ratings and the images.")]
Format = Annotated[
    str,
    typer.Option(
        "--format", help="How the data set is laid out: table (user,image,score), flickr-aes, aadb, real-cur."
    ),
]
TrainOn = Annotated[
    Path | None,
    typer.Option(
        help="Other data set to train on, as REAL-CUR needs it; --train-groups are then its groups."
    ),
]
TrainFormat = Annotated[str, typer.Option(help="Its layout.")]
Attributes = Annotated[
    Path | None,
    typer.Option(help="Checkpoint of the attribute predictor; without, attributes are computed by hand."),
]
AttributeWeights = Annotated[
    Path | None, typer.Option(help="File of the weights that the attribute predictor was trained with.")
]
Personality = Annotated[
    Path | None, typer.Option(help="CSV file image,O,C,E,A,N for PA_IAA; without, its row is marked.")
]
PersonalityScale = Annotated[
    tuple[float, float] | None,
    typer.Option(help="The ends of the questionnaire's scale. Those of the numbers found by default."),
]
Groups = Annotated[
    list[str] | None,
    typer.Option("--groups", help="Group of users.csv to take; may be repeated. All by default."),
]
TrainGroups = Annotated[
    list[str] | None, typer.Option("--train-groups", help="Group of users.csv to train on; may be repeated.")
]
TestGroups = Annotated[
    list[str] | None, typer.Option("--test-groups", help="Group to test on; may be repeated.")
]
ValidationGroups = Annotated[
    list[str] | None, typer.Option("--validation-groups", help="Group to validate on; may be repeated.")
]
ValidationUsers = Annotated[
    int, typer.Option(min=0, help="Training users to set aside for validation, with their images.")
]
KeepLeak = Annotated[
    bool,
    typer.Option("--keep-leak", help="Train on images of test users too, as published figures did; says so."),
]
Scale = Annotated[tuple[float, float], typer.Option(help="The ends of the rating scale, for tables.")]
Mode = Annotated[
    str, typer.Option(help="head: on embeddings of a frozen backbone; full: the whole network on pixels.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting put on top, section.name=value; may be repeated."),
]
Weights = Annotated[
    Path | None, typer.Option(help="File of backbone weights, instead of the library's download.")
]
Untrained = Annotated[
    bool, typer.Option("--untrained", help="Start from a random backbone: for trying things out.")
]
Cache = Annotated[Path, typer.Option(help="Folder that keeps what was read of pictures.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or, of several, cuda:0, cuda:1, ...")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Let the backbone compute in bfloat16.")]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Keep pictures with the colours last in memory.")
]
Threads = Annotated[
    int, typer.Option(min=1, help="Threads of torch; results may depend on it in the last bits.")
]
AllowSeen = Annotated[
    bool,
    typer.Option("--allow-seen", help="Even if a method was trained on these people or pictures."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
Shots = Annotated[list[int], typer.Option("--shots", min=1, help="Support pictures M; may be repeated.")]
Repeats = Annotated[int, typer.Option(min=1, help="Random support sets per person.")]
ControlRepeats = Annotated[
    int | None, typer.Option(min=0, help="Of those, how many with the shuffled-user control. All by default.")
]
Users = Annotated[int | None, typer.Option(min=1, help="People to judge, drawn by the seed. All by default.")]
Curve = Annotated[bool, typer.Option("--curve", help="One query set for all M: a learning curve.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn, but for test users.")]

DEFAULT_CACHE = Path("runs/cache")


def show_progress(what: str) -> Callable[[int, int], None]:
    """Return what shows progress with the time left on a terminal, and nothing elsewhere."""
    begun = time.monotonic()

    def show(done: int, total: int) -> None:
        if total:
            _show_line(f"{done:,} of {total:,} {what}", done, total, begun)

    return show


def show_training(config: MetaConfig) -> Callable[[int, int, float, float | None], None]:
    """Return what shows how far meta-training is, with loss, validation SROCC and time left.

    A terminal shows it at each iteration; elsewhere, as in the log of a job, each checkpoint has a line.
    """
    every = config.schedule.checkpoint_every
    begun, first = time.monotonic(), [0]

    def show(done: int, total: int, loss: float, validation: float | None) -> None:
        first[0] = first[0] or done
        seen = "" if validation is None else f", validation SROCC {validation:.3f}"
        text = f"{config.title}: {done:,} of {total:,} iterations, loss {loss:.4f}{seen}"
        if sys.stderr.isatty():
            _show_line(text, done - first[0] + 1, total - first[0] + 1, begun)
        elif done % every == 0 or done == total:
            say(f"{text}, after {time.monotonic() - begun:.0f} s")

    return show


def say(text: str) -> None:
    """Tell the person at the terminal; results go elsewhere."""
    typer.echo(text, err=True)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all.

    Raises:
        OutputError: The disk refuses.
    """
    write_file(path, to_text(record))


def _show_line(text: str, done: int, total: int, begun: float) -> None:
    if not sys.stderr.isatty():
        return
    left = (time.monotonic() - begun) / max(done, 1) * (total - done)
    end = "\n" if done >= total else ""
    sys.stderr.write(f"\r{text}, {left:.0f} s left \x1b[K{end}")
    sys.stderr.flush()
