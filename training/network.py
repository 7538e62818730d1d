"""The networks of meta-training: which backbone, which weights, which learning rate for which part.

What a network is and does stands in :mod:`piaa_sdk.finetune.network`; here it only gets its weights.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import nn

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, PiaaError
from piaa_sdk.finetune.backbones import (
    TIMM_PREFIX,
    bare_backbone,
    bare_torchvision,
    is_lite0,
    is_torchvision,
    without_auxiliary_heads,
    without_classifier,
)
from piaa_sdk.finetune.checks import Interval, check_settings
from piaa_sdk.finetune.network import AestheticHead, AestheticNetwork, HeadConfig, is_statistic
from piaa_sdk.finetune.statistics_network import ARCHITECTURE
from training.backbone_weights import load_backbone_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from piaa_sdk.finetune.network import Params

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


_OLD_DENSE_NAMES = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
"""How DenseNet's tensors are named in torchvision's files; the networks name them without the second dot."""

SMALLEST_SIZE = 16


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Which network meta-training learns.

    Attributes:
        backbone: A name of torchvision, or else of timm; ``timm/`` in front asks timm first.
        classifier: Whether the backbone keeps its ImageNet classifier, whose 1000 numbers are then the
            embedding.
        size: S, the edge of the pictures in pixels.
        head: The fully connected layers.
    """

    backbone: str = "resnet18"
    classifier: bool = False
    size: int = 224
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        """Refuse pictures that no backbone can take.

        Raises:
            ModelFormatError: They are too small.
        """
        check_settings(self, size=Interval(SMALLEST_SIZE))


def make_network(
    config: NetworkConfig,
    *,
    embedding_dim: int | None = None,
    weights: Path | None = None,
    untrained: bool = False,
    seed: int = 0,
) -> AestheticNetwork:
    """Make f_theta of eq. 1 with an ImageNet backbone and a random head.

    Args:
        config: Which network.
        embedding_dim: D; makes a network without a backbone, which takes embeddings.
        weights: File of backbone weights (a state dict by the library's names); by default those of the
            installed package for EfficientNet-Lite0, for others the library's download.
        untrained: Leave the backbone at random weights. Never done unless asked for.
        seed: Of the random weights.

    Raises:
        ModelFormatError: There is no such backbone, or the weights do not fit it.
        ModelNotFoundError: The weights can be neither read nor downloaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if embedding_dim is not None:
            return AestheticNetwork(AestheticHead(embedding_dim, config.head))
        backbone, mean, std = make_backbone(config, weights=weights, untrained=untrained)
        dim = measure_embedding_dim(backbone, config.size)
        return AestheticNetwork(AestheticHead(dim, config.head), backbone, mean, std)


def make_backbone(
    config: NetworkConfig, *, weights: Path | None = None, untrained: bool = False
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """Make a backbone (N, 3, S, S) -> (N, D) and find the mean and deviation of the pixels it expects.

    See :func:`make_network` for arguments and errors.
    """
    name = config.backbone
    if is_lite0(name):
        return _lite0(config, weights, untrained), (127.0,) * 3, (128.0,) * 3
    if is_torchvision(name):
        return _torchvision(config, weights, untrained), IMAGENET_MEAN, IMAGENET_STD
    return _timm(name.removeprefix(TIMM_PREFIX), config, weights, untrained)


def learning_rates(params: Params, *, backbone: float, head: float) -> dict[str, float]:
    """Give each tensor its learning rate: one for the backbone, one for the fully connected layers."""
    return {
        name: backbone if name.startswith("backbone.") else head for name in params if not is_statistic(name)
    }


def _lite0(config: NetworkConfig, weights: Path | None, untrained: bool) -> nn.Module:
    backbone = bare_backbone(ARCHITECTURE, classifier=config.classifier)
    if weights is not None:
        _load_file(backbone, weights)
    elif not untrained:
        _load(backbone, load_backbone_weights(with_classifier=config.classifier), ARCHITECTURE)
    return backbone


def _torchvision(config: NetworkConfig, weights: Path | None, untrained: bool) -> Any:
    name = config.backbone
    download = weights is None and not untrained
    model = bare_torchvision(name, auxiliary=download)
    if download:
        _downloaded(lambda: model.load_state_dict(_torchvision_weights(name)), name)
    without_auxiliary_heads(model, name)
    backbone = model if config.classifier else without_classifier(model, name)
    if weights is not None:
        _load_file(backbone, weights)
    return backbone


def _torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    """Download torchvision's weights of a network; what is no tensor is not unpickled."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    tensors: dict[str, torch.Tensor] = weights.get_state_dict(
        progress=True, check_hash=True, weights_only=True
    )
    for old in [old for old in tensors if _OLD_DENSE_NAMES.match(old)]:
        tensors[_OLD_DENSE_NAMES.sub(r"\1\2", old)] = tensors.pop(old)
    return tensors


def _timm(
    name: str, config: NetworkConfig, weights: Path | None, untrained: bool
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    if not timm.is_model(name):
        raise ModelFormatError(
            f"neither torchvision nor timm has a backbone {name!r}; timm.list_models() tells"
        )
    download = weights is None and not untrained
    extra: dict[str, Any] = {} if config.classifier else {"num_classes": 0}
    model: Any = _downloaded(lambda: timm.create_model(name, pretrained=download, **extra), name)
    if weights is not None:
        _load_file(model, weights)
    settings = model.pretrained_cfg
    mean = tuple(255 * value for value in settings["mean"])
    return model, mean, tuple(255 * value for value in settings["std"])


def _downloaded(make: Callable[[], Any], name: str) -> Any:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the library tells there what it downloads
            return make()
    except PiaaError:
        raise
    except Exception as error:  # a damaged download raises whatever it makes its reader raise
        raise ModelNotFoundError(
            f"the weights of {name} cannot be downloaded ({error}); give them as a file with --weights, take "
            f"the installed ones of another backbone with --set network.backbone={ARCHITECTURE}, or start "
            "from random ones with --untrained"
        ) from error


def _load_file(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            tensors = safetensors.torch.load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file of weights") from error
    except Exception as error:  # torch.load raises whatever the damaged file makes it raise
        reason = str(error).strip().split(".")[0].split("\n")[0]  # torch adds advice that does not apply
        raise ModelFormatError(
            f"{path} cannot be read as weights: {reason}; give a state dict (safetensors, or of torch)"
        ) from error
    if not isinstance(tensors, dict):
        raise ModelFormatError(f"{path} holds a {type(tensors).__name__}, not tensors by name")
    if odd := [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        raise ModelFormatError(f"{path}: {odd[0]!r} is a {type(tensors[odd[0]]).__name__}, not a tensor")
    _load(model, tensors, str(path))


def _load(model: nn.Module, tensors: Params, source: str) -> None:
    """Load a state dict; what the model has no place for (a classifier, an auxiliary head) is left out."""
    own = model.state_dict()
    if missing := sorted(name for name in own.keys() - tensors.keys() if "num_batches_tracked" not in name):
        raise ModelFormatError(f"{source}: {len(missing)} tensors are missing, the first is {missing[0]}")
    fitting = {name: tensors[name] for name in own if name in tensors}
    if odd := [name for name, value in fitting.items() if value.shape != own[name].shape]:
        raise ModelFormatError(
            f"{source}: {odd[0]} has shape {tuple(fitting[odd[0]].shape)}, must be {tuple(own[odd[0]].shape)}"
        )
    model.load_state_dict(fitting, strict=False)


def measure_embedding_dim(backbone: nn.Module, size: int) -> int:
    """Measure D of a backbone on an empty picture.

    Raises:
        ModelFormatError: It cannot take pictures (S, S), or gives no embeddings (N, D) for them.
    """
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            found = backbone(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelFormatError(f"the backbone cannot take pictures of {size} pixels: {error}") from error
    backbone.train(was_training)
    if found.ndim != 2:
        raise ModelFormatError(f"the backbone gives {tuple(found.shape)} for one picture, must give (1, D)")
    return math.prod(found.shape[1:])
