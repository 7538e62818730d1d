"""The torch network of a bundle, made again from what the bundle holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from google.protobuf.message import DecodeError
from torch import nn

from piaa_sdk.bundle import MAX_EMBEDDING_DIM
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.backbones import bare_backbone
from piaa_sdk.finetune.full import AUGMENTATIONS, FineTuning
from piaa_sdk.finetune.network import (
    BATCH_NORMS,
    AestheticHead,
    AestheticNetwork,
    HeadConfig,
    embed_pixels,
)
from piaa_sdk.finetune.scoring_network import GenericHead, ScoringNetwork, tensors_of
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from piaa_sdk.manifest import BACKBONE_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.finetune.network import Params
    from piaa_sdk.head import Prior

STATISTICS, AESTHETIC = "statistics", "aesthetic"
"""Kinds of networks: statistics of a frozen backbone's layers, and f_theta of the paper's eq. 1."""

MAX_EPOCHS = 10_000

_OUTPUT_LAYER = "head.output."


class HiddenUnits(nn.Module):
    """From pixels to the units of the last hidden layer of f_theta, which are a bundle's embedding.

    Its tensors have the names that they have in the whole network.

    Args:
        network: f_theta with its backbone; what is made shares its tensors.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, network: AestheticNetwork) -> None:
        super().__init__()
        assert network.backbone is not None
        self.backbone: nn.Module = network.backbone
        self.head: AestheticHead = network.head
        self.register_buffer("pixel_mean", network.pixel_mean)
        self.register_buffer("pixel_std", network.pixel_std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pixels (N, S, S, 3) uint8, RGB, as (N, H) float32."""
        embeddings = embed_pixels(self.backbone, pixels, self.pixel_mean, self.pixel_std)
        return self.head.hidden_units(self.head.standardize(embeddings))


def scoring_network_of(bundle: ModelBundle, prior: Prior) -> ScoringNetwork:
    """Make the network from pixels to the generic score that a bundle holds, ready to be fine-tuned.

    Args:
        bundle: Whose network.
        prior: The bundle's.

    Raises:
        ModelFormatError: ``config.json`` does not say which network it is, or the weights do not fit it.
    """
    tensors = stored_tensors(bundle)
    if kind_of(bundle) == STATISTICS:
        return ScoringNetwork(statistics_network(bundle, tensors), GenericHead(prior))
    # The output layer stands in the prior.
    embedding = HiddenUnits(bare_network(bundle, tensors))
    del embedding.head.output
    own = {name: value for name, value in tensors.items() if not name.startswith(_OUTPUT_LAYER)}
    load_named(embedding, own, bundle.name)
    return ScoringNetwork(embedding, GenericHead(prior, is_output_layer=True))


def kind_of(bundle: ModelBundle) -> str:
    """Return which kind of network a bundle holds.

    Raises:
        ModelFormatError: It is none that this version knows.
    """
    kind = _told(bundle).get("kind", STATISTICS)  # the first bundles did not say what else could not be
    if kind not in (STATISTICS, AESTHETIC):
        raise ModelFormatError(
            f"{bundle.name}: network.kind is {kind!r:.80}, must be {STATISTICS} or {AESTHETIC}"
        )
    return str(kind)


def statistics_network(bundle: ModelBundle, tensors: Params) -> EmbeddingNetwork:
    """Make the network whose embedding is statistics of its layers.

    Args:
        bundle: Whose.
        tensors: As :func:`stored_tensors` gives them.

    Raises:
        ModelFormatError: ``config.json`` does not say what is read out, or the tensors do not fit.
    """
    training = bundle.config.get("training")
    former = training.get("readouts") if isinstance(training, dict) else None
    readouts = _told(bundle).get("readouts") or former
    if not isinstance(readouts, list) or not readouts or not all(isinstance(one, str) for one in readouts):
        raise ModelFormatError(f"{bundle.name}: config.json does not say what the network reads out")
    names = [
        name for name in tensors if name == "projection" or name.startswith(("backbone.", "statistics."))
    ]
    return EmbeddingNetwork.from_tensors({name: tensors[name] for name in sorted(names)}, readouts)


def bare_network(bundle: ModelBundle, tensors: Params) -> AestheticNetwork:
    """Make f_theta as ``config.json`` describes it, with random weights.

    Args:
        bundle: Whose.
        tensors: Its weights, which tell how wide the backbone's embedding is.

    Raises:
        ModelFormatError: It is not described, or there is no such backbone.
    """
    told = _told(bundle)
    try:
        head = HeadConfig(**{**told["head"], "hidden": tuple(told["head"]["hidden"])})
        if not all(type(units) is int and units <= MAX_EMBEDDING_DIM for units in head.hidden):
            raise TypeError(f"hidden is {list(head.hidden)!r:.80}")
        backbone = bare_backbone(str(told["backbone"]), classifier=bool(told["classifier"]))
        return AestheticNetwork(AestheticHead(len(tensors["head.mean"]), head), backbone)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFormatError(
            f"{bundle.name}: config.json does not describe the network ({error})"
        ) from error


def fine_tuning_of(bundle: ModelBundle) -> FineTuning | None:
    """Return how a bundle says that it is fine-tuned to a person; None if it does not say.

    Raises:
        ModelFormatError: It says something that means nothing.
    """
    from piaa_sdk.finetune.adam import AdamSettings

    told = bundle.config.get("fine_tuning")
    if told is None:
        return None
    try:
        if not isinstance(told, dict) or type(told["epochs"]) is not int or told["epochs"] > MAX_EPOCHS:
            raise TypeError(f"needs epochs, a whole number up to {MAX_EPOCHS}")
        adam = AdamSettings(**told.get("adam", {}))
        return FineTuning(
            learning_rate=told["learning_rate"],
            epochs=told["epochs"],
            adam=adam,
            batch_norm=told.get("batch_norm", BATCH_NORMS[0]),
            augmentation=told.get("augmentation", AUGMENTATIONS[0]),
        )
    except (KeyError, TypeError, AttributeError, ModelFormatError) as error:
        raise ModelFormatError(
            f"{bundle.name}: fine_tuning in config.json is {told!r:.200}, which means nothing ({error})"
        ) from error


def stored_tensors(bundle: ModelBundle) -> Params:
    """Read the weights of a bundle's network, by the names of its state dict.

    They are in ``model.safetensors``, or without it in the graph, whose initializers have the same names.

    Raises:
        ModelFormatError: They cannot be read.
        ModelNotFoundError: ``model.safetensors`` was left out when the bundle was fetched.
    """
    if WEIGHTS_NAME in bundle.checksums:
        path = bundle.path(WEIGHTS_NAME)
        try:
            return safetensors.torch.load_file(path)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise ModelFormatError(f"{path} cannot be read as tensors: {error}") from error
    import onnx_ir

    path = bundle.path(BACKBONE_NAME)
    try:
        initializers = onnx_ir.load(path).graph.initializers
        return {
            name: torch.from_numpy(np.array(value.const_value.numpy()))
            for name, value in initializers.items()
            if value.const_value is not None
        }
    except (OSError, ValueError, TypeError, DecodeError) as error:
        raise ModelFormatError(f"{path} cannot be read as a graph: {error}") from error


def load_named(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load tensors by name, all that the network has and no others.

    Raises:
        ModelFormatError: One is missing, too many or of another shape.
    """
    own = tensors_of(network)
    if odd := sorted(own.keys() ^ tensors.keys()):
        raise ModelFormatError(
            f"{source}: {len(odd)} tensors are missing or too many for the network, the first is {odd[0]}; "
            "make it again with this version"
        )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise ModelFormatError(
                f"{source}: {name} has shape {tuple(value.shape)}, must be {tuple(own[name].shape)}"
            )
    network.load_state_dict(dict(tensors), strict=False)


def _told(bundle: ModelBundle) -> dict[str, Any]:
    told = bundle.config.get("network")
    return told if isinstance(told, dict) else {}
