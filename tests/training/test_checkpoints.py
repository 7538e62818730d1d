"""Checkpoint folders: whole or not at all, equal bytes for equal runs, nothing of the machine in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, OutputError
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork, StatisticsNetwork
from training.checkpoints import (
    RUN_NAME,
    TENSORS_NAME,
    git_commit,
    load_checkpoint,
    save_checkpoint,
    versions,
)

if TYPE_CHECKING:
    from pathlib import Path

PRIOR = {
    "hidden.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "noise": np.array(0.25),
    "turned": np.arange(6.0).reshape(2, 3).T,
}
RUN: dict[str, Any] = {"rating_scale": [1, 7], "configuration": {"seed": 4, "groups": ["a", "b"]}}


@pytest.fixture(scope="module")
def network() -> EmbeddingNetwork:
    torch.manual_seed(0)
    statistics = StatisticsNetwork(["last.mean", "stage5.deviation"])
    count = statistics.statistic_count
    return EmbeddingNetwork.from_parts(
        statistics, np.zeros(count), np.ones(count), np.full((count, 2), 0.125)
    )


@pytest.fixture
def folder(network: EmbeddingNetwork, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run", network, PRIOR, RUN)
    return tmp_path / "run"


def test_what_is_saved_is_loaded(network: EmbeddingNetwork, folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(checkpoint.network()(pixels), network(pixels))
    assert checkpoint.prior_tensors().keys() == PRIOR.keys()
    for name, tensor in PRIOR.items():
        found = checkpoint.prior_tensors()[name]
        assert found.dtype == tensor.dtype
        assert np.array_equal(found, tensor)
    assert checkpoint.run["configuration"] == RUN["configuration"]
    assert checkpoint.run["versions"] == versions()
    assert checkpoint.run["git_commit"] == git_commit()


def test_names_are_those_of_the_state_dict(network: EmbeddingNetwork, folder: Path) -> None:
    names = load_checkpoint(folder).tensors.keys()
    assert names == {name for name in network.state_dict() if "num_batches" not in name} | {
        "prior.hidden.weight",
        "prior.noise",
        "prior.turned",
    }


def test_equal_runs_are_equal_bytes(network: EmbeddingNetwork, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {TENSORS_NAME, RUN_NAME}
    save_checkpoint(folder, network, dict(reversed(PRIOR.items())), RUN, replace=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_is_not_replaced_by_accident(network: EmbeddingNetwork, folder: Path) -> None:
    before = (folder / TENSORS_NAME).read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_checkpoint(folder, network, {}, RUN)
    assert (folder / TENSORS_NAME).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "run", [{"data": "/home/somebody/ratings"}, {"figures": [float("nan")]}], ids=["path", "nan"]
)
def test_what_must_not_be_stored_leaves_nothing(
    network: EmbeddingNetwork, run: dict[str, Any], tmp_path: Path
) -> None:
    """A path of the machine would be published with the checkpoint; NaN is not JSON."""
    with pytest.raises(ValueError, match=r"paths of this machine|JSON"):
        save_checkpoint(tmp_path / "run", network, PRIOR, run)
    assert list(tmp_path.iterdir()) == []


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no checkpoint\.safetensors"):
        load_checkpoint(tmp_path)


def test_a_story_without_readouts_is_refused(folder: Path) -> None:
    """The tensors alone do not say which statistics they stand for."""
    story = json.loads((folder / RUN_NAME).read_text())
    assert story.pop("readouts") == ["last.mean", "stage5.deviation"]
    (folder / RUN_NAME).write_text(json.dumps(story))
    with pytest.raises(ModelFormatError, match="what the network reads out"):
        load_checkpoint(folder)


def test_newer_format_is_refused(folder: Path) -> None:
    story = json.loads((folder / RUN_NAME).read_text())
    (folder / RUN_NAME).write_text(json.dumps(story | {"format_version": 2}))
    with pytest.raises(ModelFormatError, match="format_version is 2, this version reads 1 to 1"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [TENSORS_NAME, RUN_NAME])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe{"])
def test_damaged_checkpoint_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFormatError, match="cannot be read as a checkpoint"):
        load_checkpoint(folder)
