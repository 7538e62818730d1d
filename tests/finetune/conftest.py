"""A bundle whose network can be fine-tuned in a second: EfficientNet-Lite0 at random, on 32 x 32 pixels."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from priors import tiny_prior

from piaa_sdk.bundle import Preprocessing, write_config
from piaa_sdk.finetune.network import BATCH_COUNTER
from piaa_sdk.finetune.onnx import network_graph
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from piaa_sdk.graphs import encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from piaa_sdk.head import Prior

SIZE, DIM = 32, 12
READOUTS = ("stage1.mean", "stage2.mean", "last.mean")


def save_photo(path: Path, warmth: float, seed: int) -> Path:
    """Write a picture of soft patches that is red as far as ``warmth`` is 1, blue as far as it is 0."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(60, 200, size=(5, 7, 3)).astype(np.float64)
    patches[..., 0] += 55 * warmth
    patches[..., 2] += 55 * (1 - warmth)
    image = Image.fromarray(patches.astype(np.uint8))
    image.resize((56, 40), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunable") / "bundle"
    (folder / "onnx").mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = EmbeddingNetwork(DIM, READOUTS)
        pixels = torch.randint(0, 256, (32, SIZE, SIZE, 3), dtype=torch.uint8)
        projection = torch.randn(network.statistic_count, DIM) / network.statistic_count**0.5
    with torch.inference_mode():
        statistics = network.raw_statistics(pixels).double()
    tensors = dict(network.tensors())
    tensors["statistics.mean"] = statistics.mean(0).float()
    tensors["statistics.std"] = statistics.std(0).clamp_min(1e-3).float()
    tensors["projection"] = projection.half()
    tensors = {name: value for name, value in tensors.items() if not name.endswith(BATCH_COUNTER)}
    network = EmbeddingNetwork.from_tensors(tensors, READOUTS)
    proto = network_graph(network, network.tensors(), size=SIZE, metadata={})
    (folder / "onnx" / "backbone.onnx").write_bytes(encoded(proto))
    preprocessing = Preprocessing(SIZE, "squash", "bicubic", 2, (255, 255, 255), 1)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing.to_json()))
    (folder / "prior.safetensors").write_bytes(safetensors.numpy.save(tiny_prior(dim=DIM).to_tensors()))
    write_config(
        folder,
        {
            "model_type": "piaa",
            "format_version": 1,
            "bundle_id": "piaa-tunable",
            "embedding_dim": DIM,
            "rating_scale": [1, 7],
            "license": "apache-2.0",
            "graphs": {"backbone": {"file": "onnx/backbone.onnx", "input": "pixels", "output": "embedding"}},
            "network": {"kind": "statistics", "readouts": list(READOUTS)},
            "fine_tuning": {"learning_rate": 1e-3, "epochs": 6},
        },
    )
    return folder


@pytest.fixture
def bundle_folder(_template: Path, tmp_path: Path) -> Path:
    """A fresh copy of the bundle, which a test may damage."""
    return Path(shutil.copytree(_template, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Twenty-four pictures, by path, and what somebody gives them who likes warm colours."""
    folder = tmp_path_factory.mktemp("rated")
    warmths = np.random.default_rng(1).permutation(np.linspace(0, 1, 24))
    return {
        str(save_photo(folder / f"{number:02d}.png", warmth, number)): round(1 + 6 * warmth, 1)
        for number, warmth in enumerate(warmths)
    }


@pytest.fixture(scope="session")
def build_prior() -> Callable[..., Prior]:
    """``tiny_prior`` for this network, for tests that compute with it."""
    return partial(tiny_prior, dim=DIM)
