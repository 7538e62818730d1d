"""A bundle that is real in every respect but its size, and pictures to score with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from priors import TINY_DIM, tiny_prior

from piaa_sdk.bundle import Preprocessing, write_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from piaa_sdk.head import Prior

TINY_SIZE = 32


def build_tiny_bundle(
    folder: Path, *, seed: int = 0, graph_size: int = TINY_SIZE, graph_dim: int = TINY_DIM
) -> Path:
    """Write a bundle with a network of one convolution: 32 x 32 pixels -> patches -> mean -> 16 numbers."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "backbone.onnx").write_bytes(tiny_graph(seed=seed, size=graph_size, dim=graph_dim))
    preprocessing = Preprocessing(
        size=TINY_SIZE,
        fit="squash",
        resample="bicubic",
        draft_factor=2,
        background=(255, 255, 255),
        decoding_rule=1,
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing.to_json()))
    (folder / "prior.safetensors").write_bytes(safetensors.numpy.save(tiny_prior().to_tensors()))
    write_config(
        folder,
        {
            "model_type": "piaa",
            "format_version": 1,
            "bundle_id": "piaa-tiny",
            "embedding_dim": TINY_DIM,
            "rating_scale": [1, 7],
            "license": "apache-2.0",
            "graphs": {
                "backbone": {
                    "file": "onnx/backbone.onnx",
                    "input": "pixels",
                    "output": "embedding",
                    "opset": 20,
                }
            },
        },
    )
    return folder


def tiny_graph(
    *, seed: int = 0, size: int = TINY_SIZE, dim: int = TINY_DIM, kind: str = "uint8", gain: float = 1.0
) -> bytes:
    """Build the graph pixels (N, size, size, 3) -> embedding (N, dim) with random weights."""
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(seed)
    constants = {
        "centre": np.float32(127),
        "spread": np.float32(128),
        "kernels": rng.normal(size=(24, 3, 4, 4)).astype(np.float32) / 4,
        "projection": np.float32(gain) * rng.normal(size=(24, dim)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["as_float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["as_float", "centre"], ["centred"]),
            helper.make_node("Div", ["centred", "spread"], ["normalized"]),
            helper.make_node("Transpose", ["normalized"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "kernels"], ["patches"], strides=[4, 4]),
            helper.make_node("Relu", ["patches"], ["rectified"]),
            helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "projection"], ["embedding"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pixels", getattr(TensorProto, kind.upper()), ["N", size, size, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", dim])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()


def save_photo(path: Path, seed: int, *, size: tuple[int, int] = (64, 48)) -> Path:
    """Write a picture that differs from those of other seeds; the suffix chooses the format."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="session")
def _tiny_bundle_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def tiny_bundle(_tiny_bundle_template: Path, tmp_path: Path) -> Path:
    """A fresh copy of the tiny bundle, which a test may damage."""
    return Path(shutil.copytree(_tiny_bundle_template, tmp_path / "tiny-bundle"))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Twelve different pictures in a folder of their own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return [save_photo(folder / f"{number:02d}.png", number) for number in range(12)]


@pytest.fixture(scope="session")
def build_bundle() -> Callable[..., Path]:
    """``build_tiny_bundle``, for tests that need another network."""
    return build_tiny_bundle


@pytest.fixture(scope="session")
def build_prior() -> Callable[..., Prior]:
    """``tiny_prior``, for tests that compute with it or need another one."""
    return tiny_prior


@pytest.fixture(scope="session")
def build_graph() -> Callable[..., bytes]:
    """``tiny_graph``, for tests that need one that does not fit."""
    return tiny_graph


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Path]:
    """``save_photo``, for tests that need more pictures."""
    return save_photo
