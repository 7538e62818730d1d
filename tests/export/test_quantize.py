"""Lighter graphs: how far they are from the one they come from, and what is not written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image

from export import quantize
from export.lighter_graphs import calibrate, half_stored, relative_error, run_graph
from export.quantize import RatedSet, write_variants
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable

from .conftest import FACTS

if TYPE_CHECKING:
    from pathlib import Path

    from export.bundle_writer import BundleReport
    from piaa_sdk.array_types import PixelArray


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty parts of real photographs."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        whole = getattr(skimage.data, name)()
        for number in range(5):
            start = 30 * number
            path = folder / f"{name}{number}.png"
            Image.fromarray(whole[start : start + 150, start : start + 200]).save(path)
            paths.append(path)
    return paths


@pytest.fixture(scope="module")
def rated(crops: list[Path]) -> RatedSet:
    rng = np.random.default_rng(0)
    table = RatingTable(
        folder=crops[0].parent,
        users=("a", "b"),
        groups=("all", "all"),
        images=tuple(path.name for path in crops),
        user_index=np.repeat([0, 1], len(crops)),
        image_index=np.tile(np.arange(len(crops)), 2),
        ratings=rng.integers(1, 8, 2 * len(crops)).astype(float),
    )
    return RatedSet(table, RatingScale(1, 7))


def test_half_the_size_and_almost_the_same(report: BundleReport, photos: PixelArray) -> None:
    proto = onnx.load(report.bundle.backbone_path)
    halved = half_stored(proto)
    assert halved.ByteSize() < 0.6 * proto.ByteSize()
    error = relative_error(run_graph(halved, photos), run_graph(proto, photos))
    assert 0 < error < 5e-3
    assert {item.key for item in halved.metadata_props} == {"bundle_id", "license", "revision"}
    [pixels], [embedding] = halved.graph.input, halved.graph.output
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert embedding.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_what_is_left_out_is_not_quantized(report: BundleReport, photos: PixelArray) -> None:
    """With all kinds of layers left in single precision, only additions are rounded."""
    calibrated = calibrate(report.bundle.backbone_path, photos)
    assert set(calibrated.groups) == {"stem", "depthwise", "early", "middle", "late"}
    assert len(calibrated.groups["stem"]) == 1
    expected = run_graph(onnx.load(report.bundle.backbone_path), photos)
    whole, none = (calibrated.quantized(left_out) for left_out in ([], list(calibrated.groups)))
    errors = [relative_error(run_graph(proto, photos), expected) for proto in (none, whole)]
    assert errors[0] < errors[1] < 1
    assert whole.ByteSize() < 0.7 * none.ByteSize()
    assert "QuantizeLinear" in {node.op_type for node in whole.graph.node}


def test_variants_are_told_of_and_run(
    report: BundleReport, crops: list[Path], rated: RatedSet, tmp_path: Path
) -> None:
    said: list[str] = []
    found = write_variants(
        report.bundle, tmp_path / "light", crops, rated, FACTS, accept_loss=True, report=said.append
    )
    assert [figures.name for figures in found] == ["fp16", "quantized"]
    config = json.loads((tmp_path / "light" / "config.json").read_text())
    variants = config["graphs"]["backbone"]["variants"]
    for figures in found:
        entry = variants[figures.name]
        assert entry["time_ratio"] > 0
        assert entry["measured_on"] == {"users": 2, "pictures": 20}
        assert -2 <= entry["srocc_difference"] <= 2
        bundle = ModelBundle.load(tmp_path / "light", variant=figures.name)
        embedding = Backbone(bundle, device="cpu").embed(np.zeros((1, 64, 64, 3), dtype=np.uint8))
        assert embedding.shape == (1, 16)
        assert config["files"][entry["file"]]["size"] == figures.size
    card = (tmp_path / "light" / "README.md").read_text(encoding="utf-8")
    assert "| fp16 | `onnx/backbone_fp16.onnx` |" in card
    assert "| quantized | `onnx/backbone_quantized.onnx` |" in card
    assert any(line.startswith("quantized without stem: embeddings differ by") for line in said)


def test_what_loses_too_much_or_who_knows_is_not_written(
    report: BundleReport, crops: list[Path], rated: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    write_variants(report.bundle, tmp_path / "light", crops, None, FACTS, names=["fp16"], report=said.append)
    assert said[-1].startswith("fp16 is not written: an unknown loss (give --ratings)")
    qualities = iter([(0.5, None), (0.494, None)])
    monkeypatch.setattr(quantize, "_quality", lambda *_: next(qualities))
    write_variants(report.bundle, tmp_path / "light", crops, rated, FACTS, names=["fp16"], report=said.append)
    assert said[-1].startswith("fp16 is not written: a loss of 0.0060 SROCC, allowed is 0.005")
    assert not (tmp_path / "light").exists()


def test_what_makes_no_sense_is_refused(report: BundleReport, crops: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="no variant 'tiny' is known, there are fp16, quantized"):
        write_variants(report.bundle, tmp_path / "light", crops, None, FACTS, names=["tiny"])
    with pytest.raises(ModelFormatError, match="measured on 3 pictures, 16 are the least"):
        write_variants(report.bundle, tmp_path / "light", crops[:3], None, FACTS)
