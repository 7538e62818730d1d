"""The torch network of a bundle scores as the bundle does, and its tensors become a bundle's again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from piaa_sdk import Scorer
from piaa_sdk.bundle import ModelBundle, write_config
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.bundle_network import fine_tuning_of, scoring_network_of, stored_tensors
from piaa_sdk.finetune.full import Examples, FineTuning, fine_tune
from piaa_sdk.finetune.network import params_of, predict
from piaa_sdk.finetune.scoring_network import GenericHead, ScoringNetwork
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MakePrior = "Callable[..., Prior]"


@pytest.mark.parametrize("is_output_layer", [False, True])
@pytest.mark.parametrize("is_squashed", [False, True])
@pytest.mark.parametrize("has_centers", [False, True])
def test_head_is_the_generic_head_of_the_prior(
    build_prior: Callable[..., Prior], has_centers: bool, is_squashed: bool, is_output_layer: bool
) -> None:
    rng = np.random.default_rng(3)
    changes: dict[str, Any] = {"is_squashed": is_squashed, "linear_weights": rng.normal(size=12) / 5}
    if not has_centers:
        changes |= {"centers": np.zeros((0, 12), dtype=np.float16), "center_weights": np.zeros(0)}
    prior = build_prior(**changes)
    embeddings = rng.normal(size=(9, 12)).astype(np.float32)
    head = GenericHead(prior, is_output_layer=is_output_layer)
    found = head(torch.from_numpy(embeddings)).detach().numpy()
    np.testing.assert_allclose(found, prior.generic(embeddings), atol=2e-6)
    again = head.prior_with(dict(head.named_parameters()))
    np.testing.assert_allclose(again.generic(embeddings), prior.generic(embeddings), atol=1e-6)


def test_slope_stays_finite_at_a_centre(build_prior: Callable[..., Prior]) -> None:
    """Acos has an infinite slope where a picture lies in the direction of a centre."""
    prior = build_prior()
    at_centre = torch.tensor(prior.centers[:2].astype(np.float32) / prior.generic_metric, requires_grad=True)
    GenericHead(prior)(at_centre).sum().backward()
    assert at_centre.grad is not None
    assert bool(torch.isfinite(at_centre.grad).all())


def test_network_scores_as_the_bundle_does(bundle_folder: Path, rated: dict[str, float]) -> None:
    """With the weights read back from the graph's initializers."""
    scorer = Scorer.from_pretrained(bundle_folder, cache=False)
    bundle = scorer.bundle
    network = scoring_network_of(bundle, Prior.load(bundle.prior_path))
    pixels = np.stack([load_image(path, bundle.preprocessing) for path in rated])
    found = predict(network, params_of(network), torch.from_numpy(pixels)).numpy()
    expected = [bundle.rating_scale.to_unit(np.array([one.generic]))[0] for one in scorer.score(list(rated))]
    np.testing.assert_allclose(found, expected, atol=5e-4)
    assert np.ptp(expected) > 0.01, "all pictures score alike: the test shows nothing"


def test_without_epochs_the_parts_are_the_bundle(bundle_folder: Path) -> None:
    bundle = ModelBundle.load(bundle_folder)
    prior = Prior.load(bundle.prior_path)
    network = scoring_network_of(bundle, prior)
    examples = Examples(torch.zeros(3, 32, 32, 3, dtype=torch.uint8), torch.rand(3))
    params = fine_tune(network, params_of(network), examples, FineTuning(epochs=0))
    embedding, head = network.parts_with(params)
    stored = stored_tensors(bundle)
    for name, value in embedding.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, stored[name]), name
    np.testing.assert_allclose(head.center_weights, prior.center_weights, rtol=1e-6)


def test_all_of_the_network_is_tuned(bundle_folder: Path) -> None:
    """Every convolution and the head move, and nothing of the network that was given does."""
    bundle = ModelBundle.load(bundle_folder)
    network = scoring_network_of(bundle, Prior.load(bundle.prior_path))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pixels = torch.randint(0, 256, (4, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    examples = Examples(pixels.to(torch.uint8), torch.tensor([0.0, 0.3, 0.6, 1.0]))
    theta = params_of(network)
    params = fine_tune(network, theta, examples, FineTuning(learning_rate=1e-3, epochs=1))
    still = [name for name in params if torch.equal(params[name], theta[name])]
    assert all(name.endswith(("running_mean", "running_var")) for name in still), still
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class _Reds(torch.nn.Module):
    """From pixels to the mean red of each picture, (N, 1)."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[..., :1].float().mean((1, 2)) / 255


def test_one_step_by_pencil(build_prior: Callable[..., Prior]) -> None:
    """One picture of full red (embedding 1) rated 1, score w + b with w = b = 0.

    The error is 1, d/dw = d/db = -2 (w + b - 1) * -1 = -2; the first moment is 0.1 * -2 and the second
    0.01 * 4, so without correction Adam's first step is rate * 0.2 / (0.2 + epsilon) = rate.
    """
    prior = build_prior(
        dim=1,
        centers=np.zeros((0, 1), dtype=np.float16),
        center_weights=np.zeros(0),
        center_offset=0.0,
        generic_mean=0.0,
        generic_std=1.0,
        linear_weights=np.zeros(1),
    )
    network = ScoringNetwork(_Reds(), GenericHead(prior))
    red = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    red[..., 0] = 255
    examples = Examples(red, torch.ones(1))
    params = fine_tune(network, params_of(network), examples, FineTuning(learning_rate=0.25, epochs=1))
    _, tuned = network.parts_with(params)
    assert tuned.linear_weights[0] == pytest.approx(0.25, abs=1e-5)
    assert tuned.center_offset == pytest.approx(0.25, abs=1e-5)


def _changed(folder: Path, **changes: object) -> ModelBundle:
    config = json.loads((folder / "config.json").read_text())
    write_config(folder, {**config, **changes})
    return ModelBundle.load(folder)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"kind": "transformer"}, "must be statistics or aesthetic"),
        ({"kind": "statistics", "readouts": ["stage9.mean"]}, "cannot read out"),
        ({"kind": "statistics", "readouts": ["stage1.mean"]}, "must be"),
        ({"kind": "statistics"}, "does not say what the network reads out"),
        ({"kind": "statistics", "readouts": 5}, "does not say what the network reads out"),
        ({"kind": "aesthetic"}, "does not describe the network"),
        (
            {"kind": "aesthetic", "backbone": "resnet18", "classifier": False, "head": {"hidden": [10**15]}},
            "does not describe the network",
        ),
    ],
)
def test_network_that_is_not_described_is_our_error(
    bundle_folder: Path, told: dict[str, object], message: str
) -> None:
    bundle = _changed(bundle_folder, network=told)
    with pytest.raises(ModelFormatError, match=message):
        scoring_network_of(bundle, Prior.load(bundle.prior_path))


@pytest.mark.parametrize(
    "told",
    [
        [],
        {},
        5,
        {"learning_rate": 1e-4, "epochs": 3.5},
        {"learning_rate": -1, "epochs": 3},
        {"learning_rate": 1e-5, "epochs": 2, "adam": {"x": 1}},
    ],
)
def test_fine_tuning_that_means_nothing_is_our_error(bundle_folder: Path, told: object) -> None:
    with pytest.raises(ModelFormatError, match="means nothing"):
        fine_tuning_of(_changed(bundle_folder, fine_tuning=told))


def test_bundle_says_how_it_is_tuned(bundle_folder: Path) -> None:
    told = {"learning_rate": 1e-4, "epochs": 9, "batch_norm": "support", "augmentation": "mirror"}
    bundle = _changed(bundle_folder, fine_tuning={**told, "target": "unit", "alter_query": True})
    assert fine_tuning_of(bundle) == FineTuning(**told)  # type: ignore[arg-type]
