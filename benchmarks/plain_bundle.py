"""A plain bundle to measure speed with: one pass of EfficientNet-Lite0 at 224 px and a head of usual size.

The weights are ImageNet's. The generic head is drawn at random and knows nobody's taste: its scores mean
nothing, but computing them takes as long as computing others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.pictures import load_photographs
from export.bundle_writer import Making, write_bundle
from export.model_card import CardFacts
from export.trained import of_checkpoint
from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from piaa_sdk.head import AdaptationGrid, Prior
from piaa_sdk.images import load_image
from training.backbone_weights import pretrained_statistics_network
from training.checkpoints import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 224
NAME = "plain"
LABEL = f"{NAME}, {SIZE} px"
READOUTS = ("last.mean",)
DIM = 512
CENTERS = 512
SMALLEST_DEVIATION = 0.1

_PREPROCESSING = Preprocessing(
    size=SIZE,
    fit="squash",
    resample="bilinear",
    draft_factor=2,
    background=(255, 255, 255),
    decoding_rule=DECODING_RULE,
)


def make_plain_bundle(workspace: Path) -> Path:
    """Make the bundle, with the code that makes published ones, and return its folder.

    Args:
        workspace: Existing folder; it gets ``plain-checkpoint`` and ``plain-224``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several threads wait for each other, for minutes
    try:
        return _make(workspace)
    finally:
        torch.set_num_threads(threads)


def _make(workspace: Path) -> Path:
    run = {
        "rating_scale": [1, 5],
        "preprocessing": _PREPROCESSING.to_json(),
        "data": {"groups": []},
        "people": [],
        "pictures": [],
    }
    save_checkpoint(workspace / "plain-checkpoint", _network(), _prior().to_tensors(), run)
    trained = of_checkpoint(load_checkpoint(workspace / "plain-checkpoint"))
    folder = workspace / "plain-224"
    write_bundle(trained, folder, facts=CardFacts(), making=Making(bundle_id=NAME, golden=2))
    return folder


def _network() -> EmbeddingNetwork:
    """Project what the last layer says, on average over the picture, to ``DIM`` random directions."""
    backbone = pretrained_statistics_network(READOUTS)
    pixels = np.stack([load_image(photograph, _PREPROCESSING) for photograph in load_photographs()])
    with torch.inference_mode():
        statistics = backbone.raw_statistics(torch.from_numpy(pixels)).numpy()
    count = backbone.statistic_count
    directions = np.random.default_rng(0).standard_normal((count, DIM)) / np.sqrt(count)
    deviations = np.maximum(statistics.std(axis=0), SMALLEST_DEVIATION)
    return EmbeddingNetwork.from_parts(backbone, statistics.mean(axis=0), deviations, directions)


def _prior() -> Prior:
    random = np.random.default_rng(1)
    return Prior(
        curved_metric=np.full(DIM, 1 / np.sqrt(DIM), dtype=np.float32),
        generic_metric=np.full(DIM, 1 / np.sqrt(DIM), dtype=np.float32),
        linear_scale=1 / DIM,
        length_scale=0.5,
        centers=random.standard_normal((CENTERS, DIM)).astype(np.float16),
        center_weights=random.standard_normal(CENTERS) / CENTERS,
        center_offset=0.0,
        arc_bias=0.1,
        generic_mean=0.5,
        generic_std=0.15,
        grid=AdaptationGrid(
            linear_shares=np.array([0.5, 0.0]),
            slopes=np.array([[0.4, 0.1], [0.2, 0.05]]),
            noises=np.array([0.5, 1.0, 2.0]),
        ),
        slope_unit=0.2,
        offset_mean=0.5,
        offset_variance=2.0,
        variance_scale=0.03,
        variance_degrees=4.0,
        std_factor=1.0,
    )
