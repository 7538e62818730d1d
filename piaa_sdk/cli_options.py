"""Arguments and options of the commands, each with its help, in the words of people who take photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piaa_sdk.choices import Method, Order, ReportFormat, RunsOn


def complete_user(incomplete: str) -> list[str]:
    """List the stored persons whose names begin so, for the shell."""
    from piaa_sdk.errors import PiaaError
    from piaa_sdk.profiles import ProfileStore

    try:
        return [name for name in ProfileStore().names() if name.startswith(incomplete)]
    except PiaaError:
        return []


Photos = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTOS",
        help="Photos and folders, also at s3://, gs://, https://; - reads names from the input.",
    ),
]
Users = Annotated[
    list[str] | None,
    typer.Option(
        "--user",
        "-u",
        metavar="NAME",
        help="Whose taste; may be repeated; none: most people's.",
        autocompletion=complete_user,
    ),
]
Format = Annotated[
    ReportFormat | None,
    typer.Option("--format", "-f", help="How to write the scores; follows from the name of --output."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the scores to this file.")
]
Top = Annotated[
    int | None, typer.Option("--top", "-n", metavar="N", min=1, help="Only this many best photos.")
]
RowOrder = Annotated[
    Order | None,
    typer.Option("--order", help="Best first, or as the photos come in."),
]
Recursive = Annotated[
    bool, typer.Option("--recursive/--no-recursive", help="Look into the folders inside folders too.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on where a run that was stopped left off: photos that have scores are not looked at again.",
    ),
]
Watch = Annotated[
    bool,
    typer.Option("--watch", help="Score what is in the folders, then what arrives in them, until Ctrl-C."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        max=1024,
        help="Photos computed in one go; follows from the device.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="Photos opened at the same time; follows from the processor."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to compute: auto, cpu, cuda or another that is there (piaa doctor lists).",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Another model than piaa's own: a folder, or org/name[@revision] on the Hugging Face Hub.",
    ),
]
Previews = Annotated[
    bool,
    typer.Option(
        "--previews",
        help="Score camera JPEGs and HEICs by their embedded previews where these are large enough: faster, "
        "scores move a little.",
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Look at every photo afresh and remember nothing.")]
ScoringEngine = Annotated[
    RunsOn,
    typer.Option(
        "--engine",
        help="ray spreads the work over a cluster, or the cores of this machine, and writes a folder of "
        "Parquet files (extra ray).",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to use, such as 10.0.0.5:6379, or auto; without, or local, this machine alone.",
    ),
]
PartSize = Annotated[
    int | None, typer.Option("--part-size", metavar="N", min=1, help="Photos in each file that ray writes.")
]
Ratings = Annotated[
    Path, typer.Argument(metavar="RATINGS.CSV", help="Table with the columns image and rating.")
]
Rater = Annotated[
    str | None,
    typer.Option(
        "--user",
        "-u",
        metavar="NAME",
        help="Whose ratings they are; default if left away.",
        autocompletion=complete_user,
    ),
]
PhotoFolder = Annotated[
    Path | None,
    typer.Option("--photos", metavar="FOLDER", help="Where the photos are; beside the table if left away."),
]
Scale = Annotated[
    tuple[float, float] | None,
    typer.Option("--scale", metavar="LOW HIGH", help="Lowest and highest rating there is, such as 1 5."),
]
Add = Annotated[bool, typer.Option("--add", help="Add to the ratings that are stored.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace what is stored under the name; a backup of it is kept.")
]
LearningMethod = Annotated[
    Method,
    typer.Option(
        "--method",
        help="closed-form takes milliseconds; finetune tunes the whole network in minutes (extra finetune); "
        "auto keeps what is tuned only where left-out ratings prove that it is better.",
    ),
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Epochs of fine-tuning; by default as the model says.")
]
StopsEarly = Annotated[
    bool,
    typer.Option(
        "--stop-early", help="Choose the epochs of fine-tuning on a fifth of the ratings, left out."
    ),
]
Bf16 = Annotated[
    bool,
    typer.Option(
        "--bf16", help="Fine-tune in bfloat16: faster on recent graphics cards, slow on processors."
    ),
]
DemoFolder = Annotated[
    Path | None,
    typer.Option("--folder", metavar="DIR", help="Copy the photos and ratings here, to try commands on."),
]
ExportFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="File to write: .onnx for a graph that other programs run, anything else for piaa users import.",
    ),
]
Person = Annotated[str, typer.Argument(metavar="NAME", help="Whose.", autocompletion=complete_user)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ProfileOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="File to write, or folder to write it to."),
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]
ProfileFile = Annotated[Path, typer.Argument(metavar="FILE", help="A file that piaa users export wrote.")]
NewName = Annotated[
    str | None, typer.Option("--user", "-u", metavar="NAME", help="Another name for the person.")
]
ModelName = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Folder of a model, or org/name[@revision] on the Hub; left away: the one that comes with piaa.",
    ),
]
Published = Annotated[
    list[str] | None,
    typer.Option("--user", "-u", metavar="NAME", help="Person published with the model; may be repeated."),
]
Whole = Annotated[
    bool, typer.Option("--all", help="All files, those for retraining too; else those that scoring needs.")
]
Again = Annotated[bool, typer.Option("--force", help="Fetch again what is here already.")]
