"""Bundles of meta-learned runs: of the paper's backbones, and of whole networks.

Backbones are random and see few pixels; what is tested is that the bundle says what the run's network says.
"""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import torch
from quick_runs import build, data, make_run, photos

from export.bundle_writer import BundleReport, read_pictures
from export.checking import check_bundle
from export.parity import ParityError
from export.torch_model import torch_model_of
from export.trained import open_torch_model
from piaa_sdk.rating_scale import RatingScale
from training.data.datasets import read_dataset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.runs import Run

__all__ = ["data", "make_run", "photos"]  # fixtures


@pytest.mark.parametrize(("backbone", "size"), [("alexnet", 63), ("inception_v3", 75)])
def test_every_backbone_becomes_a_graph(
    backbone: str, size: int, make_run: Callable[..., Run], photos: list[Path], tmp_path: Path
) -> None:
    """The other two, resnet18 and EfficientNet-Lite0, go the whole way in the tests of integration."""
    run = make_run(
        "maml",
        f"network.backbone={backbone}",
        f"network.size={size}",
        "network.head.standardize=true",
        "schedule.iterations=0",
    )
    bundle = build(run, photos, tmp_path / "bundle").bundle
    assert gc.isenabled(), "an export does without the collector, and gives it back"
    proto = onnx.load(bundle.backbone_path)
    stored = {item.name for item in proto.graph.initializer}
    weights = safetensors.numpy.load_file(bundle.folder / "model.safetensors")
    assert weights.keys() - stored == {"head.output.weight", "head.output.bias"}
    again = torch_model_of(bundle)
    pixels = read_pictures(photos[:2], bundle.preprocessing)
    assert np.array_equal(again.embed(pixels), open_torch_model(run.folder).embed(pixels))


@pytest.fixture(scope="module")
def full(
    make_run: Callable[..., Run], photos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, BundleReport]:
    """A run that learned the whole network, and its bundle with weights beside the graph."""
    run = make_run("blg_as_paper", "network.head.hidden=[16, 8]", mode="full")
    folder = tmp_path_factory.mktemp("full") / "bündel"
    return run, build(run, photos, folder, largest_graph=1000)


def test_weights_that_are_too_large_lie_beside_the_graph(full: tuple[Run, BundleReport]) -> None:
    bundle = full[1].bundle
    assert "onnx/backbone.onnx.data" in bundle.checksums
    graph, data = bundle.folder / "onnx" / "backbone.onnx", bundle.folder / "onnx" / "backbone.onnx.data"
    assert data.stat().st_size > graph.stat().st_size
    found = {item.key: item.value for item in onnx.load(graph, load_external_data=False).metadata_props}
    assert found["bundle_id"] == "piaa-test-resnet-blg"
    assert "`onnx/*.data`" in (bundle.folder / "README.md").read_text(encoding="utf-8")


def test_config_tells_how_to_make_the_network_again(
    full: tuple[Run, BundleReport], photos: list[Path]
) -> None:
    run, report = full
    config = json.loads((report.bundle.folder / "config.json").read_text())
    assert config["network"] == {
        "kind": "aesthetic",
        "backbone": "timm/test_resnet",
        "classifier": False,
        "head": {
            "hidden": [16, 8],
            "activation": "prelu",
            "dropout": 0.5,
            "output": "linear",
            "standardize": False,
        },
    }
    told = config["fine_tuning"]
    assert (told["learning_rate"], told["epochs"], told["batch_norm"]) == (1e-5, 1, "frozen")
    assert (told["target"], told["alter_query"]) == ("unit", True)
    assert told["adam"]["second_decay"] == 0.99
    assert config["embedding_dim"] == 8
    assert config["training"]["people"] == sorted(run.record["people"])
    assert "train" not in config["training"]["split"]
    pixels = read_pictures(photos[:2], report.bundle.preprocessing)
    again = torch_model_of(report.bundle)
    assert np.array_equal(again.embed(pixels), open_torch_model(run.folder).embed(pixels))
    [score] = torch_model_of(report.bundle).scorer(torch.from_numpy(pixels[:1])).detach().numpy()  # type: ignore[misc]
    head = onnxruntime.InferenceSession(str(report.bundle.folder / "onnx" / "head.onnx"))
    [found] = head.run(["score"], {"embedding": again.embed(pixels[:1])})
    assert found[0] == pytest.approx(1 + 6 * score, abs=1e-5)


def test_a_full_check_passes_and_a_changed_weight_does_not(
    full: tuple[Run, BundleReport], data: Path, photos: list[Path]
) -> None:
    bundle = full[1].bundle
    table = read_dataset("table", data, scale=RatingScale(1, 7)).table
    model = torch_model_of(bundle)
    checked = check_bundle(bundle, model, photos[:2], table)
    assert (checked.wrong, checked.missing) == ([], [])
    assert checked.figures["users"] == 8
    assert checked.figures["pictures"] == 50
    assert checked.figures["onnx_srocc"] < 1e-4
    assert model.scorer is not None
    with torch.no_grad():
        model.scorer.head.output.weight.mul_(-1)
    checked = check_bundle(bundle, model, photos[:2], table)
    assert any(wrong.startswith("torch and ONNX on 50 pictures: scores") for wrong in checked.wrong)
    assert any(wrong.startswith("torch and SDK on 50 pictures: scores") for wrong in checked.wrong)
    assert any(wrong.startswith("torch and ONNX: SROCC of 8 users") for wrong in checked.wrong)
    with pytest.raises(ParityError, match="allowed is less than"):
        checked.raise_if_wrong()


def test_what_a_check_lacks_is_said(full: tuple[Run, BundleReport], photos: list[Path]) -> None:
    """Pictures that nobody has rated are compared, and do not tell that SROCC is the same."""
    bundle = full[1].bundle
    torch_weights, ratings = check_bundle(bundle, None).missing
    assert "--checkpoint" in torch_weights
    assert "--ratings" in ratings
    checked = check_bundle(bundle, torch_model_of(bundle), photos[:2])
    assert checked.figures["pictures"] == 2
    assert (checked.wrong, checked.missing) == ([], [ratings])
