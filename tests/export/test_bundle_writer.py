"""Bundle folders: complete, loadable, the same again, and never written where torch and ONNX disagree."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from export import bundle_writer
from export.bundle_writer import BundleReport, Making, write_bundle
from export.model_card import CardFacts
from export.parity import ParityError
from export.torch_model import TorchModel
from export.trained import of_checkpoint, preprocessing_of, rating_scale
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ImageError, ModelFormatError, OutputError
from piaa_sdk.head import Prior
from training.evaluation_record import without_people

from .conftest import FACTS, RECORD, make_prior

if TYPE_CHECKING:
    from pathlib import Path

    from piaa_sdk.array_types import PixelArray
    from training.checkpoints import Checkpoint


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_folder_holds_what_a_bundle_holds(report: BundleReport, bundle_folder: Path) -> None:
    names = set(contents(bundle_folder))
    assert names - {name for name in names if name.startswith("golden/")} == {
        "README.md",
        "config.json",
        "golden.json",
        "metrics.json",
        "onnx/backbone.onnx",
        "onnx/head.onnx",
        "preprocessor_config.json",
        "prior.safetensors",
    }
    assert set(report.bundle.checksums) == names - {"config.json"}
    assert report.size == sum(map(len, contents(bundle_folder).values()))
    assert report.parity.pictures == 7


def test_config_tells_who_and_what_was_trained_on(bundle_folder: Path) -> None:
    """Sorted, so that the order of the digests says nothing about the table."""
    config = json.loads((bundle_folder / "config.json").read_text())
    assert (config["embedding_dim"], config["rating_scale"], config["license"]) == (16, [1, 7], "apache-2.0")
    assert config["training"]["groups"] == ["a", "b"]
    assert config["training"]["people"] == ["a" * 64, "c" * 64]
    assert config["training"]["pictures"] == ["b" * 64]
    assert config["graphs"]["backbone"]["opset"] == 20


def test_metrics_tell_what_was_measured_on_what(bundle_folder: Path) -> None:
    metrics = json.loads((bundle_folder / "metrics.json").read_text())
    parity = metrics.pop("parity")
    assert parity["pictures"] == 7
    assert 0 <= parity["embedding"] < 1e-4
    assert CardFacts.of(metrics.pop("card"), "card") == FACTS
    assert metrics == {"format_version": 1, "measured": FACTS.measured, "records": [RECORD]}


def test_what_single_people_were_found_to_be_like_is_not_published() -> None:
    [result] = RECORD["results"]
    judged = {"judged": {"people": ["a" * 64]}, "undefined_people": ["b" * 64]}
    assert without_people({**RECORD, "results": [result | judged]}) == RECORD


def test_the_sdk_embeds_as_the_network_does(
    report: BundleReport, checkpoint: Checkpoint, photos: PixelArray
) -> None:
    """From the checkpoint to what scoring uses, through every file in between."""
    found = Backbone(report.bundle, device="cpu").embed(photos)
    expected = TorchModel(checkpoint.network()).embed(photos)
    # What is cached has the precision of float16.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_prior_is_the_one_of_the_checkpoint(report: BundleReport) -> None:
    stored, expected = Prior.load(report.bundle.prior_path).to_tensors(), make_prior().to_tensors()
    assert stored.keys() == expected.keys()
    assert all(np.array_equal(stored[name], expected[name]) for name in expected)


def test_making_it_again_gives_the_same_bytes(
    checkpoint: Checkpoint, bundle_folder: Path, tmp_path: Path
) -> None:
    """Also where a bundle is replaced, of which nothing may stay."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    (folder / "old-file").touch()
    write_bundle(
        of_checkpoint(checkpoint), folder, records=[RECORD], facts=FACTS, making=Making(replace=True)
    )
    assert contents(folder) == contents(bundle_folder)


def test_a_bundle_is_not_replaced_by_accident(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        write_bundle(of_checkpoint(checkpoint), tmp_path / "bundle", records=[RECORD], facts=FACTS)


@pytest.mark.usefixtures("quick_export")
def test_a_photo_that_cannot_be_read_stops_the_writing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        write_bundle(
            of_checkpoint(checkpoint),
            tmp_path / "bundle",
            records=[RECORD],
            facts=FACTS,
            photos=[tmp_path / "bad.jpg"],
        )
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jpg"]


@pytest.fixture
def quick_export(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graph that was exported once instead of exporting it again, which takes seconds."""

    def export(_network: object, path: Path, **_settings: object) -> None:
        shutil.copy(bundle_folder / "onnx" / "backbone.onnx", path)

    monkeypatch.setattr(bundle_writer, "export_backbone", export)


def test_a_corrupted_weight_blocks_the_writing(
    checkpoint: Checkpoint, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind, and a bundle that was there stays as it was."""

    def export(_network: object, path: Path, **_settings: object) -> None:
        proto = onnx.load(bundle_folder / "onnx" / "backbone.onnx")
        item = next(item for item in proto.graph.initializer if item.name == "backbone.conv_head.weight")
        values = onnx.numpy_helper.to_array(item).copy()
        values[0, 0] += 1
        item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
        onnx.save_model(proto, path)

    monkeypatch.setattr(bundle_writer, "export_backbone", export)
    with pytest.raises(ParityError, match="disagree"):
        write_bundle(of_checkpoint(checkpoint), tmp_path / "bundle", records=[RECORD], facts=FACTS)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "precious").touch()
    with pytest.raises(ParityError, match="disagree"):
        write_bundle(
            of_checkpoint(checkpoint),
            tmp_path / "bundle",
            records=[RECORD],
            facts=FACTS,
            making=Making(replace=True),
        )
    assert list(contents(tmp_path)) == ["bundle/precious"]


@pytest.mark.usefixtures("quick_export")
def test_a_bundle_that_is_too_large_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"the bundle has 1\d\.\d MB, allowed are 1 MB"):
        write_bundle(
            of_checkpoint(checkpoint), tmp_path / "bundle", facts=FACTS, making=Making(max_bytes=1_000_000)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick_export")
def test_fewer_golden_pictures(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_bundle(
        of_checkpoint(checkpoint), tmp_path / "bundle", records=[RECORD], facts=FACTS, making=Making(golden=2)
    )
    golden = json.loads((tmp_path / "bundle" / "golden.json").read_text())
    names = [picture["file"] for picture in golden["pictures"]]
    assert names == sorted(name for name in contents(tmp_path / "bundle") if name.startswith("golden/"))
    assert len(names) == 2
    ModelBundle.load(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({}, "rating_scale"),
        ({"rating_scale": [7, 1]}, "rating_scale"),
        ({"rating_scale": "1-7"}, "rating_scale"),
        ({"rating_scale": [1, 7]}, "preprocessing"),
        ({"rating_scale": [1, 7], "preprocessing": {"format_version": 1}}, "decoding_rule"),
    ],
)
def test_a_story_that_lacks_what_a_bundle_needs_is_refused(run: dict[str, Any], message: str) -> None:
    read = rating_scale if message == "rating_scale" else preprocessing_of
    with pytest.raises(ModelFormatError, match=message):
        read(run)
