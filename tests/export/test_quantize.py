"""Lighter graphs: how far they are from the one they come from, and what is not written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image

from export.bundle_writer import read_pictures
from export.lighter_graphs import calibrate, half_stored, relative_error, run_graph
from export.quantize import Figures, RatedSet, why_not, write_variants
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.head import Prior
from piaa_sdk.metrics import srocc
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


def generic_quality(bundle: ModelBundle, rated: RatedSet) -> float:
    """Return the mean SROCC over the two people, by the SDK itself."""
    embeddings = Backbone(bundle, device="cpu").embed(
        read_pictures(rated.table.paths(), bundle.preprocessing)
    )
    scores = Prior.load(bundle.prior_path).generic(embeddings)
    # Both have rated all pictures.
    return float(np.mean([srocc(ratings, scores[images]) for _, images, ratings in rated.table.by_user()]))


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
        assert entry["time_ratio"] == pytest.approx(figures.time / figures.reference_time, abs=5e-4)
        assert entry["measured_on"] == {"users": 2, "pictures": 20}
        bundle = ModelBundle.load(tmp_path / "light", variant=figures.name)
        expected = generic_quality(bundle, rated) - generic_quality(report.bundle, rated)
        assert entry["srocc_difference"] == pytest.approx(expected, abs=1e-5)
        embedding = Backbone(bundle, device="cpu").embed(np.zeros((1, 64, 64, 3), dtype=np.uint8))
        assert embedding.shape == (1, 16)
        assert config["files"][entry["file"]]["size"] == figures.size
    card = (tmp_path / "light" / "README.md").read_text(encoding="utf-8")
    assert "| fp16 | `onnx/backbone_fp16.onnx` |" in card
    assert "| quantized | `onnx/backbone_quantized.onnx` |" in card
    assert any(line.startswith("quantized without stem: embeddings differ by") for line in said)


def test_what_nobody_knows_the_loss_of_is_not_written(
    report: BundleReport, crops: list[Path], tmp_path: Path
) -> None:
    said: list[str] = []
    write_variants(report.bundle, tmp_path / "light", crops, None, FACTS, names=["fp16"], report=said.append)
    assert said[-1].startswith("fp16 is not written: an unknown loss (give --ratings), allowed is 0.005;")
    assert not (tmp_path / "light").exists()


@pytest.mark.parametrize(
    ("generic", "personal", "reason"),
    [
        (None, None, "an unknown loss (give --ratings), allowed is 0.005"),
        (-0.005, None, ""),
        (0.1, -0.005, ""),
        (-0.006, None, "a loss of 0.0060 SROCC, allowed is 0.005"),
        (0.1, -0.006, "a loss of 0.0060 SROCC, allowed is 0.005"),
        (-0.006, 0.1, "a loss of 0.0060 SROCC, allowed is 0.005"),
        (float("nan"), None, "a loss of nan SROCC, allowed is 0.005"),
    ],
)
def test_the_larger_loss_decides(generic: float | None, personal: float | None, reason: str) -> None:
    assert why_not(Figures("fp16", 1, 0.1, 1, 1, generic, personal, 2, 20, "")) == reason


def test_what_makes_no_sense_is_refused(report: BundleReport, crops: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="no variant 'tiny' is known, there are fp16, quantized"):
        write_variants(report.bundle, tmp_path / "light", crops, None, FACTS, names=["tiny"])
    with pytest.raises(ModelFormatError, match="measured on 3 pictures, 16 are the least"):
        write_variants(report.bundle, tmp_path / "light", crops[:3], None, FACTS)
