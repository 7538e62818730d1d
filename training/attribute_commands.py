"""The command of ``python -m training`` that learns to predict AADB's attributes."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from piaa_sdk.errors import OutputError
from training import cli_options as options
from training.attributes.predictor import AttributePredictor, FrozenBackbone
from training.attributes.source import AttributeSource
from training.command_inputs import people_to_judge
from training.data.aadb_attributes import read_training_labels
from training.data.datasets import read_dataset
from training.network import NetworkConfig

if TYPE_CHECKING:
    from training.data.aadb_attributes import AttributeLabels


def attributes(
    aadb: Annotated[Path, typer.Argument(help="Folder of AADB with imgListFiles_label and the pictures.")],
    checkpoint: Annotated[Path, typer.Argument(help="Folder that the predictor shall be.")],
    backbone: Annotated[
        str, typer.Option(help="Frozen backbone: a name of torchvision, or else of timm.")
    ] = "resnet18",
    size: Annotated[int, typer.Option(help="Edge of the pictures in pixels.")] = 224,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    seed: Annotated[int, typer.Option(min=0, help="Of random weights.")] = 0,
    threads: options.Threads = 2,
    without: Annotated[
        Path | None,
        typer.Option(help="Data set that will be judged on: the pictures of its test users are left out."),
    ] = None,
    without_format: Annotated[str, typer.Option(help="Its layout; of a table, all is left out.")] = "aadb",
    force: options.Force = False,
) -> None:
    """Learn the eleven attributes from AADB's labels, and judge them on the release's test pictures."""
    torch.set_num_threads(threads)
    if checkpoint.exists() and not force:
        raise OutputError(f"{checkpoint} exists already; name another folder, or replace it with --force")
    frozen = FrozenBackbone(NetworkConfig(backbone=backbone, size=size), weights, untrained, seed)
    training, held_out = read_training_labels(aadb)
    if without is not None:
        judged = people_to_judge(read_dataset(without_format, without))
        training = training.without_files(judged.picture_digests())
    for labels in (training, held_out):
        options.say(_describe(labels))
    predictor = AttributePredictor.fit(
        training, held_out, frozen, cache=cache, progress=options.show_progress("pictures")
    )
    predictor.save(checkpoint, replace=force)
    typer.echo(_table(predictor, held_out))
    options.say(f"wrote {checkpoint}: {AttributeSource(predictor).name}")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(attributes)


def _describe(labels: AttributeLabels) -> str:
    absent = f"; {labels.absent} that are not in the folder left out" if labels.absent else ""
    return f"list {labels.name}: {len(labels.paths)} labelled pictures{absent}"


def _table(predictor: AttributePredictor, held_out: AttributeLabels) -> str:
    rows = zip(predictor.srocc.items(), predictor.strengths, strict=True)
    lines = [
        f"| attribute | SROCC on {len(held_out.paths)} pictures of {held_out.name} | ridge strength |",
        "|---|---:|---:|",
        *(f"| {name} | {value:.3f} | {strength:.3g} |" for (name, value), strength in rows),
    ]
    return "\n".join(lines)
