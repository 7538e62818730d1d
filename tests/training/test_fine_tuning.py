"""The network of eq. 1 and its fine-tuning (eqs. 9 to 11), shared by meta-testing and a person's own run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from piaa_sdk.errors import DivergenceError, ModelFormatError, SupportSetError
from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.full import Examples, FineTuning, descend, fine_tune, squared_error
from piaa_sdk.finetune.network import (
    AestheticHead,
    AestheticNetwork,
    HeadConfig,
    is_statistic,
    mode,
    params_of,
    predict,
    scores_of,
)
from training.network import NetworkConfig, make_network

EMBEDDING_DIM = 6


@pytest.fixture
def network() -> AestheticNetwork:
    torch.manual_seed(0)
    return AestheticNetwork(AestheticHead(EMBEDDING_DIM, HeadConfig((8,), dropout=0.5)))


def _examples(count: int, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(
        torch.randn(count, EMBEDDING_DIM, generator=generator), torch.rand(count, generator=generator)
    )


def _plain(**config: Any) -> AestheticNetwork:
    torch.manual_seed(1)
    return AestheticNetwork(AestheticHead(EMBEDDING_DIM, HeadConfig(**config)))


def test_squared_error_by_pencil() -> None:
    """(0.1^2 + 0.3^2) / 2 = 0.05."""
    found = squared_error(torch.tensor([0.5, 0.2]), torch.tensor([0.4, 0.5]))
    assert float(found) == pytest.approx(0.05)


def test_layers_stand_in_the_documented_order(network: AestheticNetwork) -> None:
    kinds = [type(layer) for layer in network.head.hidden]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.PReLU, nn.Dropout]
    deep = _plain(hidden=(8, 4), activation="relu", output="sigmoid")
    assert [type(layer) for layer in deep.head.hidden][4:] == [
        nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout,
    ]  # fmt: skip
    scores = predict(deep, params_of(deep), 100 * torch.randn(50, EMBEDDING_DIM))
    assert bool(((scores >= 0) & (scores <= 1)).all())


def test_embeddings_are_standardized(network: AestheticNetwork) -> None:
    """Embeddings with means and deviations of their own score as their standardized selves did before."""
    params = params_of(network)
    inputs = torch.randn(20, EMBEDDING_DIM)
    before = predict(network, params, inputs)
    mean, std = torch.arange(6.0), torch.arange(1.0, 7.0)
    network.head.mean.copy_(mean)
    network.head.std.copy_(std)
    torch.testing.assert_close(predict(network, params, inputs * std + mean), before, rtol=1e-4, atol=1e-5)
    assert not {"head.mean", "head.std"} & params.keys(), "adaptation must leave them alone"


def test_no_epochs_give_the_prior(network: AestheticNetwork) -> None:
    prior = params_of(network)
    tuned = fine_tune(network, prior, _examples(5), FineTuning(epochs=0))
    assert all(torch.equal(value, prior[name]) for name, value in tuned.items())
    assert all(value is not prior[name] for name, value in tuned.items())
    tuned = fine_tune(network, prior, _examples(5), FineTuning(learning_rate=0.0))
    assert all(torch.equal(value, prior[name]) for name, value in tuned.items())


@pytest.mark.parametrize("batch_norm", ["frozen", "support"])
def test_statistics_move_only_where_the_batch_is_normalized_by_itself(
    network: AestheticNetwork, batch_norm: str
) -> None:
    """``support``: P batches leave 0.9^P of the prior's mean; ``frozen``: statistics stay, bit for bit."""
    prior, support = params_of(network), _examples(10)
    name = "head.hidden.1.running_mean"
    prior[name] = torch.full_like(prior[name], 7.0)
    settings = FineTuning(learning_rate=0.0, epochs=4, batch_norm=batch_norm)
    tuned = fine_tune(network, prior, support, settings)
    assert is_statistic(name)
    if batch_norm == "frozen":
        assert all(torch.equal(tuned[own], value) for own, value in prior.items() if is_statistic(own))
    else:
        batch = network.head.hidden[0](support.inputs).mean(0)
        expected = 7 * 0.9**4 + batch * (1 - 0.9**4)
        torch.testing.assert_close(tuned[name], expected.detach())


def test_statistics_decide_how_pictures_are_normalized(network: AestheticNetwork) -> None:
    """Scores while adapting depend on the other pictures with ``support`` only; when scoring never."""
    params, inputs = params_of(network), torch.randn(6, EMBEDDING_DIM)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    found = {}
    for batch_norm in ("frozen", "support"):
        with torch.no_grad(), mode(network, adapting=True, batch_norm=batch_norm):
            alone = scores_of(network, dict(params), inputs[:2])
            together = scores_of(network, dict(params), inputs)[:2]
        found[batch_norm] = torch.allclose(alone, together, atol=1e-6)
    assert found == {"frozen": True, "support": False}
    parts = torch.cat([predict(network, params, part) for part in torch.split(inputs, 1)])
    torch.testing.assert_close(predict(network, params, inputs, batch_size=4), parts)


def test_mode_is_put_back_after_an_error(network: AestheticNetwork) -> None:
    network.head.output.eval()
    before = [module.training for module in network.modules()]
    with pytest.raises(KeyError), mode(network, adapting=False):
        raise KeyError
    assert [module.training for module in network.modules()] == before


def test_dropout_follows_the_seed(network: AestheticNetwork) -> None:
    prior, support = params_of(network), _examples(10)
    settings = FineTuning(learning_rate=0.01)
    first, again, other = (
        fine_tune(network, prior, support, settings, seed=seed)["head.output.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fine_tuning_descends(network: AestheticNetwork) -> None:
    """With a rate that learns, the error on the support set falls by more than half."""
    prior, support = params_of(network), _examples(10)
    tuned = fine_tune(network, prior, support, FineTuning(learning_rate=0.02, epochs=40))
    before = squared_error(predict(network, prior, support.inputs), support.ratings)
    after = squared_error(predict(network, tuned, support.inputs), support.ratings)
    assert float(after) < 0.5 * float(before)


def test_moments_given_go_on(network: AestheticNetwork) -> None:
    """Three steps are one and two with the same optimizer, without dropout; the loss is the first one."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    prior, support = params_of(network), _examples(10)
    rates = dict.fromkeys((name for name in prior if not is_statistic(name)), 0.01)
    straight, loss = descend(network, prior, support, 3, Adam(AdamSettings()), rates)
    optimizer = Adam(AdamSettings())
    middle, _ = descend(network, prior, support, 1, optimizer, rates)
    end, _ = descend(network, middle, support, 2, optimizer, rates)
    assert all(torch.equal(value, end[name]) for name, value in straight.items())
    expected = squared_error(predict(network, prior, support.inputs), support.ratings)
    assert loss == pytest.approx(float(expected), rel=1e-6)


def test_one_picture_cannot_normalize_itself(network: AestheticNetwork) -> None:
    prior = params_of(network)
    with pytest.raises(SupportSetError, match="needs 2 pictures or more, got 1"):
        fine_tune(network, prior, _examples(1), FineTuning(batch_norm="support"))
    tuned = fine_tune(network, prior, _examples(1), FineTuning(learning_rate=0.01))
    assert not torch.equal(tuned["head.output.bias"], prior["head.output.bias"])


def test_divergence_names_the_step(network: AestheticNetwork) -> None:
    support = Examples(_examples(4).inputs, torch.tensor([0.1, math.nan, 0.2, 0.3]))
    with pytest.raises(DivergenceError, match="step 1 is nan"):
        fine_tune(network, params_of(network), support, FineTuning())
    settings = FineTuning(learning_rate=1e30, epochs=9)
    with pytest.raises(DivergenceError, match=r"the loss of step [23] is (inf|nan); lower"):
        fine_tune(network, params_of(network), _examples(4), settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FineTuning(batch_norm="batch"), "batch_norm is 'batch', must be one of frozen, support"),
        (lambda: FineTuning(epochs=-1), "epochs is -1, must be at least 0"),
        (lambda: FineTuning(learning_rate=-0.1), "learning_rate is -0.1, must be at least 0"),
        (lambda: FineTuning(learning_rate=math.nan), "learning_rate is nan, must be at least 0"),
        (lambda: AdamSettings(first_decay=1.0), "first_decay is 1.0, must be at least 0 and below 1"),
        (lambda: AdamSettings(second_decay=-0.1), "second_decay is -0.1"),
        (lambda: AdamSettings(epsilon=-1e-8), "epsilon is -1e-08, must be at least 0"),
        (lambda: AdamSettings(weight_decay=math.inf), "weight_decay is inf"),
        (lambda: HeadConfig(hidden=()), "hidden is"),
        (lambda: HeadConfig(hidden=(8, 0)), "hidden is"),
        (lambda: HeadConfig(activation="tanh"), "activation is 'tanh'"),
        (lambda: HeadConfig(output="softmax"), "output is 'softmax'"),
        (lambda: HeadConfig(dropout=1.0), "dropout is 1.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        make()


def test_reduced_precision_is_near_and_not_the_same() -> None:
    """bfloat16 in the backbone: 8 bits of mantissa, so scores within some hundredths; the head stays exact.

    Fine-tuned with the same steps, both networks must still agree, and all tensors must still be float32.
    """
    config = NetworkConfig("timm/resnet10t", size=32, head=HeadConfig((8,), dropout=0.0))
    network = make_network(config, untrained=True)
    rng = np.random.default_rng(0)
    support = Examples(
        torch.from_numpy(rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)),
        torch.from_numpy(rng.random(6).astype(np.float32)),
    )
    prior = params_of(network)
    settings = FineTuning(learning_rate=1e-3, epochs=3, batch_norm="support")
    found = {}
    for autocast in (None, torch.bfloat16):
        network.autocast = autocast
        tuned = fine_tune(network, prior, support, settings)
        assert {value.dtype for value in tuned.values()} == {torch.float32}
        found[autocast] = (
            predict(network, prior, support.inputs),
            predict(network, tuned, support.inputs),
        )
        assert float((found[autocast][0] - found[autocast][1]).abs().max()) > 0.01
    for exact, reduced in zip(found[None], found[torch.bfloat16], strict=True):
        assert reduced.dtype == torch.float32
        assert not torch.equal(exact, reduced)
        torch.testing.assert_close(reduced, exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("batch_norm", ["frozen", "support"])
def test_the_network_keeps_its_own_tensors(network: AestheticNetwork, batch_norm: str) -> None:
    """All of them, what counts batches included, and as the same tensors."""
    own = dict(network.named_buffers()) | dict(network.named_parameters())
    before = {name: value.clone() for name, value in own.items()}
    fine_tune(network, params_of(network), _examples(5), FineTuning(epochs=2, batch_norm=batch_norm))
    after = dict(network.named_buffers()) | dict(network.named_parameters())
    assert all(after[name] is own[name] for name in own)
    assert all(torch.equal(after[name], value) for name, value in before.items())
