"""What projecting the statistics to the embedding costs: rank correlation with and without it.

Fits the prior to one group of raters and judges another one, once on the projected embedding and once on the
statistics themselves (which no cache would want to hold). The metric's power is 0 in both, because without a
projection there are no principal directions to weigh.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from piaa_sdk.rating_scale import RatingScale
from training import kernel_prior
from training.data.images import collect_statistics
from training.data.ratings import read_rating_table
from training.embedding_network import StatisticsNetwork
from training.evaluation import evaluate
from training.kernel_config import KernelPriorConfig
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
    settings = dataclasses.replace(settings, generic=dataclasses.replace(settings.generic, metric_power=0.0))
    scale = RatingScale(1, 7)
    backbone = StatisticsNetwork.pretrained(settings.embedding.readouts)
    learned, judged = (read_rating_table(ratings, [group], scale=scale) for group in (fit, judge))
    pictures = collect_statistics(learned.paths(), backbone, settings.preprocessing, cache=cache)
    views = kernel_prior.view_statistics(learned, backbone, settings, cache=cache)
    others = collect_statistics(judged.paths(), backbone, settings.preprocessing, cache=cache)
    network = kernel_prior.fit_embedding(backbone, pictures, views, settings)
    mean, std = network.statistics.mean.numpy(), network.statistics.std.numpy()
    weights = np.ones(len(mean))
    for readout, weight in settings.embedding.readout_weights.items():
        weights[backbone.where(readout)] = np.sqrt(weight)
    for name, embed in (
        ("projected", lambda values: kernel_prior.embed(network, values)),
        ("not projected", lambda values: (values - mean) / std * weights),
    ):
        embedded = embed(pictures), embed(views), embed(others)
        prior, _ = kernel_prior.fit_prior(*embedded[:2], scale.to_unit(learned.mean_ratings()), settings)
        method = KernelPersonalizer(name, prior, embedded[2])
        (result,) = evaluate(method, judged, scale, shots=[shots], repeats=repeats).results
        figures = ", ".join(f"{key} {figure.mean:.4f}" for key, figure in result.figures.items())
        typer.echo(f"{fit} to {judge}, M = {shots}, {name} ({embedded[2].shape[1]} numbers): {figures}")


if __name__ == "__main__":
    typer.run(main)
