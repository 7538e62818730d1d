"""What projecting the statistics to the embedding costs: rank correlation with and without it.

Fits the prior to one group of raters and judges another one, once on the projected embedding and once on the
statistics themselves (which no cache would want to hold), that is with as many principal directions as there
are statistics. The metric's power is 0 in both: it would weigh directions that only one of them has.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import typer

from piaa_sdk.finetune.readouts import LAYER_CHANNELS, READINGS
from piaa_sdk.finetune.statistics_network import StatisticsNetwork
from piaa_sdk.rating_scale import RatingScale
from training import kernel_prior
from training.backbone_weights import load_backbone_weights
from training.data.images import collect_statistics
from training.data.ratings import read_rating_table
from training.directions import embed, fit_embedding
from training.evaluation import evaluate
from training.kernel_config import EmbeddingConfig, KernelPriorConfig
from training.personalizers import KernelPersonalizer


def main(
    ratings: Annotated[Path, typer.Argument(help="Folder with ratings.csv, users.csv and the images.")],
    fit: Annotated[str, typer.Option(help="Group to fit the prior to.")] = "a",
    judge: Annotated[str, typer.Option(help="Group to judge by.")] = "b",
    shots: Annotated[int, typer.Option(min=2, help="Support pictures M.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Random support sets per person.")] = 1,
    cache: Annotated[Path, typer.Option(help="Folder that keeps statistics.")] = Path("runs/cache"),
) -> None:
    """Print the mean rank correlation over users with and without the projection."""
    torch.set_num_threads(2)
    settings = KernelPriorConfig.load()
    generic = dataclasses.replace(settings.generic, metric_power=0.0, curved_power=0.0)
    settings = dataclasses.replace(settings, generic=generic)
    scale = RatingScale(1, 7)
    backbone = StatisticsNetwork.pretrained(settings.embedding.readouts)
    learned, judged = (read_rating_table(ratings, [group], scale=scale) for group in (fit, judge))
    pictures = collect_statistics(learned.paths(), backbone, settings.preprocessing, cache=cache)
    views = kernel_prior.view_statistics(learned, backbone, settings, cache=cache)
    others = collect_statistics(judged.paths(), backbone, settings.preprocessing, cache=cache)
    classifier = load_backbone_weights(with_classifier=True)["classifier.weight"].numpy()
    for name, directions in (
        ("projected", settings.embedding),
        ("not projected", _all_of(settings.embedding)),
    ):
        network = fit_embedding(backbone, pictures, views, directions, classifier)
        whole = dataclasses.replace(settings, embedding=directions)
        prior, network, _ = kernel_prior.fit_prior(network, pictures, views, learned, scale, whole)
        embedded = embed(network, others)
        (result,) = evaluate(
            KernelPersonalizer(name, prior, embedded), judged, scale, shots=[shots], repeats=repeats
        ).results
        figures = ", ".join(f"{key} {figure.mean:.4f}" for key, figure in result.figures.items())
        typer.echo(f"{fit} to {judge}, M = {shots}, {name} ({embedded.shape[1]} numbers): {figures}")


def _all_of(directions: EmbeddingConfig) -> EmbeddingConfig:
    """Return the settings that keep every direction."""
    count = sum(
        LAYER_CHANNELS[layer] * READINGS[reading]
        for layer, reading in (readout.split(".") for readout in directions.readouts)
        if directions.readout_weights.get(f"{layer}.{reading}", 1)
    )
    return dataclasses.replace(
        directions, principal_directions=count + directions.class_directions, random_directions=0
    )


if __name__ == "__main__":
    typer.run(main)
