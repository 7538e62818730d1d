"""Bundles of meta-learned runs: of every learner and the paper's backbones, of heads and of whole networks.

Backbones are random and see few pixels; what is tested is that the bundle says what the run's network says.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import torch

from export.bundle_writer import BundleReport, Making, read_pictures, write_bundle
from export.checking import check_bundle
from export.model_card import CardFacts
from export.parity import ParityError
from export.torch_model import torch_model_of
from export.trained import open_torch_model, open_trained
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ModelFormatError, ModelNotFoundError
from piaa_sdk.finetune.network import predict
from piaa_sdk.manifest import WEIGHTS_NAME
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.scorer import Scorer
from training.data.datasets import read_dataset
from training.data.splits import split as split_dataset
from training.experiment import Backbone, Workshop, train
from training.meta_config import MetaConfig
from training.network import make_network
from training.sources import pack_images

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from training.data.ratings import RatingTable
    from training.runs import Run

SIZE = 32
LEARNERS = ("blg_as_paper", "blg_as_released", "maml", "reptile", "ba", "closed_form")
QUICK = (
    "network.backbone=timm/test_resnet",
    f"network.size={SIZE}",
    "network.head.hidden=[8]",
    "network.head.standardize=false",
    "schedule.iterations=2",
    "tasks.tasks=2",
    "tasks.support=[10]",
    "tasks.query=10",
    "fine_tuning.epochs=1",
)


def miniatures() -> ModuleType:
    """Return the small data sets of the training tests, which are no part of a package."""
    path = Path(__file__).parents[1] / "training" / "miniatures.py"
    spec = importlib.util.spec_from_file_location("miniatures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ratings") / "table"
    miniatures().write_table(folder, groups=("a", "b"), users=4, images=24)
    return folder


@pytest.fixture(scope="module")
def make_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Return what meta-trains for two iterations on random weights."""
    place = tmp_path_factory.mktemp("runs")

    def make(config: str = "blg_as_paper", *settings: str, mode: str = "head") -> Run:
        number = len(list(place.glob("run*")))
        dataset = read_dataset("table", data, scale=RatingScale(1, 7))
        split = split_dataset(dataset, test_groups=["b"])
        workshop = Workshop(mode, place / "cache", Backbone(untrained=True))
        loaded = MetaConfig.load(config, [*QUICK, *settings])
        return train(loaded, split, place / f"run{number}", workshop)

    return make


@pytest.fixture(scope="module")
def photos(data: Path) -> list[Path]:
    return sorted((data / "images").glob("*.jpg"))


def _build(run: Run, photos: list[Path], folder: Path, **making: Any) -> BundleReport:
    trained = open_trained(run.folder, pictures=photos)
    settings = Making(**{"golden": 2, **making})
    return write_bundle(trained, folder, facts=CardFacts(), photos=photos[:3], making=settings)


def _scores_of_run(run: Run, photos: list[Path], table: RatingTable, cache: Path) -> np.ndarray[Any, Any]:
    """Score with what the run itself keeps, by the commands of training: rating units."""
    config, state = run.config, run.load()
    assert state is not None
    network = make_network(config.network, untrained=True, seed=config.seed)
    network.load_state_dict(
        {name: value for name, value in state.constants.items() if name.startswith("head.")}, strict=False
    )
    params = {name: value for name, value in state.prior.items() if not name.startswith("closed_form.")}
    source = pack_images(table, config.network.size, cache, for_training=False)
    inputs = source.take(np.arange(len(table.images)), None)
    scores = predict(network, params, inputs).numpy().astype(np.float64)
    by_name = dict(zip(table.images, scores, strict=True))
    found = np.array([by_name[f"images/{photo.name}"] for photo in photos])
    return 7 * found if config.tasks.target == "share" else 1 + 6 * found


@pytest.mark.parametrize("config", LEARNERS)
def test_every_learner_becomes_a_bundle_that_scores_as_it_does(
    config: str, make_run: Callable[..., Run], data: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Squashed outputs, shares of the scale and what only the closed form learns included."""
    run = make_run(config)
    report = _build(run, photos, tmp_path / "bundle")
    bundle = report.bundle
    assert bundle.bundle_id == f"piaa-test-resnet-{run.config.learner.replace('_', '-')}"
    table = read_dataset("table", data, scale=RatingScale(1, 7)).table
    expected = _scores_of_run(run, photos, table, tmp_path / "cache")
    found = [score.generic for score in Scorer.from_pretrained(bundle.folder, cache=False).score(photos)]
    np.testing.assert_allclose(np.array(found, dtype=float), expected, atol=1e-3)
    assert np.ptp(expected) > 1e-5
    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert "timm/test_resnet" in card
    assert "random weights" in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("alexnet", 63), ("resnet18", 32), ("inception_v3", 75), ("timm/tf_efficientnet_lite0", 32)],
)
def test_every_backbone_becomes_a_graph(
    backbone: str, size: int, make_run: Callable[..., Run], photos: list[Path], tmp_path: Path
) -> None:
    run = make_run(
        "maml",
        f"network.backbone={backbone}",
        f"network.size={size}",
        "network.head.standardize=true",
        "schedule.iterations=0",
    )
    bundle = _build(run, photos, tmp_path / "bundle").bundle
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
    return run, _build(run, photos, folder, largest_graph=1000)


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


def test_what_cannot_become_a_bundle_is_refused(
    make_run: Callable[..., Run], photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="holds neither"):
        open_trained(tmp_path)
    run = make_run("reptile")
    with pytest.raises(ModelFormatError, match="at least 8, found 3; give the run's data with --data"):
        open_trained(run.folder, pictures=photos[:3])
    with pytest.raises(ModelFormatError, match="scores all 8 pictures alike"):
        open_trained(run.folder, pictures=photos[:1] * 8)
    other = tmp_path / "weights.pth"
    torch.save({}, other)
    with pytest.raises(ModelFormatError, match="was learned on a backbone with the weights random"):
        open_trained(run.folder, pictures=photos, weights=other)
    run.write_record(finished=False)
    with pytest.raises(ModelFormatError, match="is not finished"):
        open_trained(run.folder, pictures=photos)


def test_a_bundle_without_torch_weights_says_what_it_lacks(
    make_run: Callable[..., Run], photos: list[Path], tmp_path: Path
) -> None:
    run = make_run("ba")
    report = _build(run, photos, tmp_path / "bundle", torch_weights=False, bundle_id="mine", license="mit")
    assert (report.bundle.bundle_id, report.bundle.license) == ("mine", "mit")
    with pytest.raises(ModelFormatError, match=r"holds no model\.safetensors"):
        torch_model_of(ModelBundle.load(report.bundle.folder))
    assert WEIGHTS_NAME not in report.bundle.checksums
