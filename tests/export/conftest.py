"""A checkpoint that is real in every respect but its size, and the bundle made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skimage.data
import torch

from export.bundle_writer import BundleReport, write_bundle
from export.model_card import CardFacts, Source
from export.trained import of_checkpoint
from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from piaa_sdk.head import AdaptationGrid, Prior
from piaa_sdk.images import load_image
from training.backbone_weights import pretrained_statistics_network
from training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piaa_sdk.array_types import PixelArray

SIZE = 64
DIM = 16
CENTERS = 12

PREPROCESSING = Preprocessing(SIZE, "squash", "bicubic", 2, (255, 255, 255), DECODING_RULE)


def figure(mean: float) -> dict[str, Any]:
    return {"mean": mean, "std": 0.004, "interval": [mean - 0.02, mean + 0.02], "picture_error": 0.011}


UNDEFINED = {"mean": None, "std": None, "interval": [None, None], "picture_error": None}

RECORD = {
    "data": "some-photographs",
    "groups": ["c", "d"],
    "repeats": 10,
    "results": [
        {
            "shots": 10,
            "users": 140,
            "figures": {
                "prior": figure(0.5),
                "personal": figure(0.5625),
                "shuffled": UNDEFINED,
                "personal-prior": figure(0.06),
                "personal-shuffled": UNDEFINED,
            },
            "coverage": 0.905,
            "coverage_quantiles": [0.75, 0.86, 0.91, 0.95, 0.99],
        }
    ],
}
"""As ``python -m training evaluate`` writes it."""

FACTS = CardFacts(
    base_model="timm/tf_efficientnet_lite0.in1k",
    measured="The figures are those of a sibling.",
    taste="Five people were asked what they like.",
    limits=("They are not everybody.",),
    sources=(Source("Ratings", "Nobody (2020). Nothing.", "https://example.org/1", "public domain"),),
    commands=("python -m training fit A B",),
)


def make_prior(seed: int = 0) -> Prior:
    rng = np.random.default_rng(seed)
    return Prior(
        curved_metric=(rng.random(DIM) / DIM).astype(np.float32),
        generic_metric=(rng.random(DIM) / DIM).astype(np.float32),
        linear_scale=0.1,
        length_scale=0.5,
        centers=rng.normal(size=(CENTERS, DIM)).astype(np.float16),
        center_weights=rng.normal(size=CENTERS),
        center_offset=0.3,
        arc_bias=0.1,
        generic_mean=0.55,
        generic_std=0.125,
        grid=AdaptationGrid(np.array([1.0, 0.5]), np.array([[0.45, 0.1]]), np.array([0.5, 2.0])),
        slope_unit=0.22,
        offset_mean=0.5,
        offset_variance=2.0,
        variance_scale=0.03,
        variance_degrees=4.0,
        std_factor=1.0,
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """On pictures of 64 pixels, threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    backbone = pretrained_statistics_network(
        ["last.mean", "stage2.mean", "stage5.deviation", "stage7.thirds"]
    )
    count = backbone.statistic_count
    network = EmbeddingNetwork.from_parts(
        backbone,
        rng.normal(size=count),
        rng.random(count) + 0.5,
        rng.normal(size=(count, DIM)) / np.sqrt(count),
    )
    run = {
        "rating_scale": [1, 7],
        "preprocessing": PREPROCESSING.to_json(),
        "data": {"groups": ["a", "b"]},
        "people": ["c" * 64, "a" * 64],
        "pictures": ["b" * 64],
    }
    folder = tmp_path_factory.mktemp("training") / "checkpoint"
    save_checkpoint(folder, network, make_prior().to_tensors(), run)
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoint_folder: Path) -> Checkpoint:
    return load_checkpoint(checkpoint_folder)


@pytest.fixture(scope="session")
def report(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> BundleReport:
    """A finished bundle, made once for all tests; they must not change it."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    return write_bundle(of_checkpoint(checkpoint), folder, records=[RECORD], facts=FACTS)


@pytest.fixture(scope="session")
def bundle_folder(report: BundleReport) -> Path:
    return report.bundle.folder


@pytest.fixture(scope="session")
def photos() -> PixelArray:
    """Five real photographs, (5, S, S, 3)."""
    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
    return np.stack([load_image(getattr(skimage.data, name)(), PREPROCESSING) for name in names])
