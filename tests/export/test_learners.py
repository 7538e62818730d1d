"""Bundles of meta-learned runs: every learner becomes one that scores as it does, or is refused.

Backbones are random and see few pixels; what is tested is that the bundle says what the run's network says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from quick_runs import build, data, make_run, photos

from export.torch_model import torch_model_of
from export.trained import open_trained
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ModelFormatError, ModelNotFoundError
from piaa_sdk.finetune.network import predict
from piaa_sdk.manifest import WEIGHTS_NAME
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.scorer import Scorer
from training.data.datasets import read_dataset
from training.network import make_network
from training.sources import pack_images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.data.ratings import RatingTable
    from training.runs import Run

__all__ = ["data", "make_run", "photos"]  # fixtures

LEARNERS = ("blg_as_paper", "blg_as_released", "maml", "reptile", "ba", "closed_form")


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
    report = build(run, photos, tmp_path / "bundle")
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
    report = build(run, photos, tmp_path / "bundle", torch_weights=False, bundle_id="mine", license="mit")
    assert (report.bundle.bundle_id, report.bundle.license) == ("mine", "mit")
    with pytest.raises(ModelFormatError, match=r"holds no model\.safetensors"):
        torch_model_of(ModelBundle.load(report.bundle.folder))
    assert WEIGHTS_NAME not in report.bundle.checksums
