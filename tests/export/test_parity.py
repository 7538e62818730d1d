"""A graph that differs from the network is noticed, whatever the difference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from export.checking import Checked, compare_users
from export.parity import Parity, ParityError, measure_parity
from export.torch_model import TorchModel
from piaa_sdk.head import Prior
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable

if TYPE_CHECKING:
    from piaa_sdk.array_types import PixelArray
    from training.checkpoints import Checkpoint

SCALE = RatingScale(1, 7)


def measure(
    checkpoint: Checkpoint,
    bundle: Path,
    photos: PixelArray,
    *,
    backbone: Path | None = None,
    head: Path | None = None,
) -> Parity:
    return measure_parity(
        TorchModel(checkpoint.network()),
        Prior.load(bundle / "prior.safetensors"),
        SCALE,
        backbone or bundle / "onnx" / "backbone.onnx",
        head or bundle / "onnx" / "head.onnx",
        photos,
    )


def scaled(source: Path, target: Path, name: str, factor: float) -> Path:
    """Copy a graph, one of its tensors multiplied."""
    proto = onnx.load(source)
    item = next(item for item in proto.graph.initializer if item.name == name)
    values = onnx.numpy_helper.to_array(item)
    item.CopyFrom(onnx.numpy_helper.from_array((values * factor).astype(values.dtype), name))
    onnx.save_model(proto, target)
    return target


def test_what_was_exported_passes(checkpoint: Checkpoint, bundle_folder: Path, photos: PixelArray) -> None:
    parity = measure(checkpoint, bundle_folder, photos)
    parity.check()
    assert parity.pictures == 5
    assert 0 < parity.embedding < 1e-5
    assert parity.score < 1e-4


def test_a_changed_weight_is_refused(
    checkpoint: Checkpoint, bundle_folder: Path, photos: PixelArray, tmp_path: Path
) -> None:
    """One of 245 tensors off by half a percent."""
    name = "backbone.blocks.3.1.conv_dw.weight"
    broken = scaled(bundle_folder / "onnx" / "backbone.onnx", tmp_path / "broken.onnx", name, 1.005)
    parity = measure(checkpoint, bundle_folder, photos, backbone=broken)
    with pytest.raises(ParityError, match="ONNX and torch disagree on 5 pictures"):
        parity.check()


def test_a_changed_head_is_refused(
    checkpoint: Checkpoint, bundle_folder: Path, photos: PixelArray, tmp_path: Path
) -> None:
    broken = scaled(bundle_folder / "onnx" / "head.onnx", tmp_path / "broken.onnx", "generic.offset", 1.001)
    parity = measure(checkpoint, bundle_folder, photos, head=broken)
    assert parity.embedding < 1e-5
    with pytest.raises(ParityError, match=r"scores by 0\.0\d+ rating units"):
        parity.check()


def test_a_graph_that_does_not_run_is_refused(
    checkpoint: Checkpoint, bundle_folder: Path, photos: PixelArray, tmp_path: Path
) -> None:
    (tmp_path / "torn.onnx").write_bytes((bundle_folder / "onnx" / "backbone.onnx").read_bytes()[:10_000])
    with pytest.raises(ParityError, match="onnxruntime cannot run"):
        measure(checkpoint, bundle_folder, photos, backbone=tmp_path / "torn.onnx")
    with pytest.raises(ParityError, match="onnxruntime cannot run"):
        measure(checkpoint, bundle_folder, np.zeros((1, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "parity",
    [Parity(5, 1e-4, 0), Parity(5, 0, 1e-3), Parity(5, math.nan, 0), Parity(5, 0, math.nan), Parity(0, 0, 0)],
)
def test_limits_are_exclusive_and_nothing_is_not_enough(parity: Parity) -> None:
    with pytest.raises(ParityError):
        parity.check()


def test_users_who_differ_in_opposite_ways_do_not_cancel() -> None:
    """What makes Ann's correlation worse by 0.2 makes Bob's better by as much: their mean tells nothing.

    Ann ranks four pictures as the scores do, Bob the other way round. With the last two exchanged rho is
    1 - 6 * 2 / (4 * 15) = 0.8 for her and -0.8 for him.
    """
    names = tuple(f"{number}.jpg" for number in range(4))
    ratings = np.array([1.0, 2, 3, 4, 4, 3, 2, 1])
    table = RatingTable(
        Path(), ("ann", "bob"), ("all", "all"), names, np.repeat([0, 1], 4), np.tile(np.arange(4), 2), ratings
    )
    scores, exchanged = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3])
    checked = Checked()
    compare_users(checked, table, scores, scores, scores, exchanged)
    assert checked.figures["sdk_srocc"] == pytest.approx(0.2)
    [wrong] = checked.wrong
    assert wrong.startswith("torch and SDK: SROCC of 2 users")
