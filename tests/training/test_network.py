"""The networks: every kind of backbone with random weights, weights from files, and parameter groups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError
from piaa_sdk.finetune.network import HeadConfig, is_statistic, params_of, predict, scores_of
from training.backbone_weights import digest_of_tensors, load_backbone_weights
from training.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NetworkConfig,
    learning_rates,
    make_backbone,
    make_network,
)
from training.sources import BackboneReadout

if TYPE_CHECKING:
    from pathlib import Path

HEAD = HeadConfig((8,))
SMALL = "mobilenet_v3_small"


def _pixels(count: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("backbone", "size", "embedding_dim"),
    [
        ("alexnet", 64, 256),
        ("resnet18", 64, 512),
        ("inception_v3", 80, 2048),
        ("tf_efficientnet_lite0", 64, 1280),
        (SMALL, 64, 576),
        ("googlenet", 64, 1024),
        ("timm/resnet10t", 64, 512),
        ("timm/resnet18", 64, 512),
        ("test_vit", 160, 64),
    ],
)
def test_backbones_are_cut_before_the_classifier(backbone: str, size: int, embedding_dim: int) -> None:
    """The paper's three, the default one, others of both libraries: (N, S, S, 3) uint8 -> D -> (N,).

    Both modes are run, because auxiliary heads change what a network returns while it trains.
    """
    network = make_network(NetworkConfig(backbone, size=size, head=HEAD), untrained=True)
    pixels = _pixels(2, size)
    network.eval()
    with torch.no_grad():
        assert network.embed(pixels).shape == (2, embedding_dim)
        assert network(pixels).shape == (2,)
        network.train()
        assert network(pixels).shape == (2,)
    names = params_of(network)
    assert not [name for name in names if "aux" in name.lower()]
    assert not [name for name in names if name.startswith(("backbone.fc.", "backbone.classifier."))]
    # What is not learned by gradient is left out of the rates, and each part has its own.
    rates = learning_rates(names, backbone=1e-4, head=1e-3)
    assert set(rates) == {name for name in names if not is_statistic(name)}
    assert {rates[name] for name in rates if name.startswith("backbone.")} == {1e-4}
    assert {rates[name] for name in rates if name.startswith("head.")} == {1e-3}
    assert all(name.startswith(("backbone.", "head.")) for name in names)


def test_gap_is_the_mean_over_places() -> None:
    """AlexNet's own classifier takes 6 x 6 places; here 256 means over whatever places there are."""
    backbone, mean, std = make_backbone(NetworkConfig("alexnet"), untrained=True)
    backbone.eval()
    pictures = torch.randn(2, 3, 96, 128)
    features = backbone.get_submodule("features")
    with torch.no_grad():
        maps = features(pictures)
        assert maps.shape[2] != maps.shape[3]
        torch.testing.assert_close(backbone(pictures), maps.sum((2, 3)) / (maps.shape[2] * maps.shape[3]))
    assert (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_densenet_is_rectified_before_it_is_pooled() -> None:
    """As its own forward pass in torchvision does between the layers and the classifier."""
    backbone, _, _ = make_backbone(NetworkConfig("densenet121"), untrained=True)
    backbone.eval()
    with torch.no_grad():
        assert float(backbone(torch.randn(1, 3, 64, 64)).min()) >= 0


def test_pixels_are_normalized_as_the_backbone_expects() -> None:
    """Pictures are normalized per colour before the backbone sees them; Lite0 has one mean for all."""
    network = make_network(NetworkConfig(SMALL, size=32, head=HEAD), untrained=True).eval()
    pixels = _pixels(2, 32)
    by_hand = (pixels.float() - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert network.backbone is not None
    with torch.no_grad():
        expected = network.backbone(by_hand.permute(0, 3, 1, 2))
        torch.testing.assert_close(network.embed(pixels), expected)
    _, mean, std = make_backbone(NetworkConfig("timm/tf_efficientnet_lite0"), untrained=True)
    assert (mean, std) == ((127.0,) * 3, (128.0,) * 3)
    _, mean, std = make_backbone(NetworkConfig("timm/resnet10t"), untrained=True)
    assert mean == pytest.approx(IMAGENET_MEAN)
    assert std == pytest.approx(IMAGENET_STD)


def test_inception_turns_the_pixels_as_its_weights_want() -> None:
    """Its weights in torchvision expect pixels on [-1, 1], which it sees to itself, but only if downloaded.

    So weights from a file must switch that on too.
    """
    for name in ("inception_v3", "googlenet"):
        backbone, _, _ = make_backbone(NetworkConfig(name), untrained=True)
        assert backbone.transform_input is True


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("backbone", [SMALL, "timm/resnet10t", "inception_v3"])
def test_weights_from_a_file(tmp_path: Path, backbone: str, suffix: str) -> None:
    """The library's state dict, classifier and auxiliary head included, gives the library's outputs."""
    name = backbone.removeprefix("timm/")
    torch.manual_seed(5)
    model: Any
    if name != backbone:
        model = timm.create_model(name, pretrained=False)
    elif name == "inception_v3":
        model = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True)
    else:
        model = torchvision.models.get_model(name, weights=None)
    for value in model.buffers():
        if value.dtype == torch.float32:
            value.uniform_(0.5, 1.5)  # running statistics must come along
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    size = 80 if name == "inception_v3" else 32
    own, _, _ = make_backbone(NetworkConfig(backbone, size=size), weights=path)
    whole, _, _ = make_backbone(NetworkConfig(backbone, classifier=True, size=size), weights=path)
    pictures = torch.randn(2, 3, size, size)
    for module in (model, own, whole):
        module.eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(pictures), model(pictures))
        if name == SMALL:
            model.classifier = nn.Identity()
        else:
            model.fc = nn.Identity()
        torch.testing.assert_close(own(pictures), model(pictures))


def test_lite0_with_its_classifier_is_timms() -> None:
    """The 1000 logits that the released code's network stands on, from the installed weights."""
    network = make_network(NetworkConfig("tf_efficientnet_lite0", classifier=True, size=64, head=HEAD)).eval()
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(load_backbone_weights(with_classifier=True), strict=False)
    model.eval()
    pixels = _pixels(2, 64)
    with torch.no_grad():
        logits = network.embed(pixels)
        assert logits.shape == (2, 1000)
        expected = model(((pixels.float() - 127) / 128).permute(0, 3, 1, 2))
        torch.testing.assert_close(logits, expected)
    without = make_network(NetworkConfig("tf_efficientnet_lite0", size=64, head=HEAD)).eval()
    with torch.no_grad():
        pooled = model.forward_head(
            model.forward_features(((pixels.float() - 127) / 128).permute(0, 3, 1, 2)), pre_logits=True
        )
        torch.testing.assert_close(without.embed(pixels), pooled)


def _small_state() -> dict[str, torch.Tensor]:
    return dict(torchvision.models.get_model(SMALL, weights=None).state_dict())


def _make(path: Path, **config: Any) -> nn.Module:
    return make_backbone(NetworkConfig(SMALL, **config), weights=path)[0]


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = _small_state()
    path = tmp_path / "weights.pth"
    lacking = {name: value for name, value in state.items() if name != "features.0.0.weight"}
    torch.save(lacking, path)
    with pytest.raises(ModelFormatError, match=r"1 tensors are missing, the first is features\.0\.0\.weight"):
        _make(path)
    torch.save(state | {"features.0.0.weight": torch.zeros(16, 3, 5, 5)}, path)
    with pytest.raises(ModelFormatError, match=r"has shape \(16, 3, 5, 5\), must be \(16, 3, 3, 3\)"):
        _make(path)
    torch.save(state | {"features.0.0.weight": 3}, path)
    with pytest.raises(ModelFormatError, match=r"'features\.0\.0\.weight' is a int, not a tensor"):
        _make(path)
    torch.save(state["features.0.0.weight"], path)
    with pytest.raises(ModelFormatError, match="holds a Tensor, not tensors by name"):
        _make(path)
    torch.save({name: value for name, value in state.items() if "classifier" not in name}, path)
    _make(path)  # nothing of the classifier is needed
    with pytest.raises(ModelFormatError, match="the first is classifier"):
        _make(path, classifier=True)


class _Payload:
    """Would write a file if it were unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"features.0.0.weight": _Payload(str(trace))}, path)
    with pytest.raises(ModelFormatError, match="cannot be read as weights"):
        _make(path)
    # The same by hand, without torch's envelope: call builtins.open with the two strings, and stop.
    path.write_bytes(f"cbuiltins\nopen\n(V{trace}\nVw\ntR.".encode())
    with pytest.raises(ModelFormatError, match="cannot be read as weights"):
        _make(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_damaged_and_absent_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(ModelNotFoundError, match="no such file of weights"):
        _make(path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(ModelFormatError, match="cannot be read as weights"):
        _make(path)


@pytest.mark.parametrize("name", ["resnet1800", "timm/alexnet", ""])
def test_unknown_backbones_are_refused(name: str) -> None:
    with pytest.raises(ModelFormatError, match="neither torchvision nor timm has a backbone"):
        make_backbone(NetworkConfig(name), untrained=True)


@pytest.mark.parametrize("name", ["swin_t", "vit_b_16", "mnasnet0_5"])
def test_backbones_whose_classifier_is_not_found_are_refused(name: str) -> None:
    """Swin's maps have the channels last: a mean over the wrong axes would go unnoticed."""
    with pytest.raises(ModelFormatError, match=f"try timm/{name}"):
        make_backbone(NetworkConfig(name), untrained=True)


def test_pictures_too_small_for_the_backbone_are_refused() -> None:
    with pytest.raises(ModelFormatError, match="cannot take pictures of 32 pixels"):
        make_network(NetworkConfig("alexnet", size=32, head=HEAD), untrained=True)
    with pytest.raises(ModelFormatError, match="cannot take pictures of 32 pixels"):
        BackboneReadout(NetworkConfig("inception_v3", size=32), untrained=True)


def test_a_frozen_backbone_reads_what_the_network_embeds() -> None:
    config = NetworkConfig(SMALL, size=32, head=HEAD)
    torch.manual_seed(0)
    readout = BackboneReadout(config, untrained=True)
    network = make_network(config, untrained=True).eval()
    assert network.backbone is not None
    network.backbone.load_state_dict(readout.backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(readout.raw_statistics(_pixels(2, 32)), network.embed(_pixels(2, 32)))
    assert readout.statistic_count == 576


def test_random_weights_follow_the_seed_and_touch_nothing_else() -> None:
    config = NetworkConfig(SMALL, size=32, head=HEAD)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = params_of(make_network(config, untrained=True, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    again = params_of(make_network(config, untrained=True, seed=3))
    other = params_of(make_network(config, untrained=True, seed=4))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.output.weight"], other["head.output.weight"])


def test_network_without_a_backbone_takes_embeddings() -> None:
    network = make_network(NetworkConfig(head=HEAD), embedding_dim=12)
    params = params_of(network)
    assert predict(network, params, torch.randn(5, 12)).shape == (5,)
    assert set(learning_rates(params, backbone=1.0, head=2.0).values()) == {2.0}


def test_float64_goes_all_the_way() -> None:
    """Comparisons to the last digits need it: pixels are normalized in the network's type."""
    network = make_network(NetworkConfig(SMALL, size=32, head=HEAD), untrained=True).double().eval()
    params = params_of(network)
    with torch.no_grad():
        assert scores_of(network, params, _pixels(2, 32)).dtype == torch.float64


@pytest.mark.parametrize("name", [SMALL, "inception_v3", "densenet121"])
def test_downloads_are_checked_and_hold_tensors_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What the library would fetch is loaded as it names it; DenseNet's files have names of long ago."""
    torch.manual_seed(2)
    extra: dict[str, Any] = {"init_weights": False} if name == "inception_v3" else {}
    state = dict(torchvision.models.get_model(name, weights=None, **extra).state_dict())
    files = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", old): new for old, new in state.items()}
    asked: list[dict[str, Any]] = []

    def load(url: str, **options: Any) -> dict[str, torch.Tensor]:
        assert url.startswith("https://download.pytorch.org/models/")
        asked.append(options)
        return dict(files)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    backbone, _, _ = make_backbone(NetworkConfig(name))
    assert asked == [{"progress": True, "check_hash": True, "weights_only": True}]
    own = backbone.state_dict()
    assert len(own) > 100
    for tensor, value in own.items():
        assert torch.equal(value, state[tensor]), tensor
    assert (name == "densenet121") == (files.keys() != state.keys())


def test_a_downloaded_pickle_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the library's cache already is not fetched, so not checked by its digest either."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    url = torchvision.models.get_model_weights(SMALL).DEFAULT.url
    path, trace = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2], tmp_path / "ran"
    path.parent.mkdir(parents=True)
    for damaged in (False, True):
        torch.save({"features.0.0.weight": _Payload(str(trace))}, path)
        if damaged:
            path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ModelNotFoundError, match="give them as a file with --weights"):
            make_backbone(NetworkConfig(SMALL))
        assert not trace.exists()


def test_digest_of_tensors_tells_weights_apart() -> None:
    """By names, types, shapes and values; neither by their order nor by what counts batches."""
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2)}
    found = digest_of_tensors(tensors)
    counted = {"b": tensors["b"], "a": tensors["a"], "num_batches_tracked": torch.tensor(3)}
    assert found == digest_of_tensors(counted)
    others = [
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"].reshape(2, 2), "b": tensors["b"]},
        {"a": tensors["a"].double(), "b": tensors["b"]},
        {"a": tensors["a"] + 1, "b": tensors["b"]},
    ]
    assert len({found, *map(digest_of_tensors, others)}) == 5
