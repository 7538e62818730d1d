"""Runs that are meta-trained for a moment on random weights, and the bundles made of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from export.bundle_writer import BundleReport, Making, write_bundle
from export.model_card import CardFacts
from export.trained import open_trained
from piaa_sdk.rating_scale import RatingScale
from training.data.datasets import read_dataset
from training.data.splits import split as split_dataset
from training.experiment import Backbone, Workshop, train
from training.meta_config import MetaConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from training.runs import Run

SIZE = 32
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


def build(run: Run, photos: list[Path], folder: Path, **making: Any) -> BundleReport:
    trained = open_trained(run.folder, pictures=photos)
    settings = Making(**{"golden": 2, **making})
    return write_bundle(trained, folder, facts=CardFacts(), photos=photos[:3], making=settings)
