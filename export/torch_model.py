"""What was trained as torch computes it: the side that graphs and SDK are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from export.card_story import AESTHETIC, STATISTICS
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.network import BATCH_COUNTER, AestheticNetwork, HeadConfig, embed_pixels
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from training.network import NetworkConfig, make_network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.finetune.network import AestheticHead, Params
    from piaa_sdk.head import Prior
    from piaa_sdk.rating_scale import RatingScale

WEIGHTS_NAME = "model.safetensors"
_BATCH = 8


class HiddenUnits(nn.Module):
    """From pixels to the units of the last hidden layer, which are a bundle's embedding.

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


@dataclass(frozen=True, slots=True, eq=False)
class TorchModel:
    """A trained network, in evaluation mode.

    Attributes:
        network: From pixels (N, S, S, 3) uint8 to the bundle's embedding (N, D).
        scorer: f_theta, where the score is the network's own; None where the prior's generic head gives it.
        target: What ratings f_theta learned, see :attr:`training.tasks.TaskConfig.target`.
    """

    network: nn.Module
    scorer: AestheticNetwork | None = None
    target: str = "unit"

    @property
    def tensors(self) -> Params:
        """Tensors of all of it by name, without the counters of batch normalization."""
        return tensors_of(self.network if self.scorer is None else self.scorer)

    @property
    def embedding_tensors(self) -> Params:
        """Those that the embedding may depend on."""
        return {
            name: value
            for name, value in tensors_of(self.network).items()
            if not name.startswith("head.output.")
        }

    def embed(self, pixels: PixelArray) -> FloatArray:
        """Embed pixels (N, S, S, 3) uint8 as (N, D) float32."""
        with torch.inference_mode():
            parts = [self.network(part) for part in torch.split(torch.from_numpy(pixels), _BATCH)]
        embeddings: FloatArray = torch.cat(parts).numpy()
        return embeddings

    def scores(self, embeddings: FloatArray, prior: Prior, scale: RatingScale) -> FloatArray:
        """Score embeddings (N, D) as torch does: (N,) rating units.

        Args:
            embeddings: Of this network.
            prior: Whose generic head scores where the network has none of its own.
            scale: Units of the bundle's scores.
        """
        if self.scorer is None:
            return scale.from_unit(prior.generic(embeddings))
        head = self.scorer.head
        with torch.inference_mode():
            outputs = head.output(torch.from_numpy(np.asarray(embeddings, dtype=np.float32))).squeeze(1)
            if head.config.output == "sigmoid":
                outputs = torch.sigmoid(outputs)
        found: FloatArray = outputs.numpy().astype(np.float64)
        return scale.high * found if self.target == "share" else scale.from_unit(found)


def tensors_of(network: nn.Module) -> Params:
    """Return a network's tensors by name, without the counters of batch normalization."""
    return {name: value for name, value in network.state_dict().items() if not name.endswith(BATCH_COUNTER)}


def aesthetic_model(network: AestheticNetwork, target: str) -> TorchModel:
    """Make the model of f_theta with its backbone."""
    network.eval()
    return TorchModel(HiddenUnits(network).eval(), network, target)


def torch_model_of(bundle: ModelBundle) -> TorchModel:
    """Make the network again that a bundle holds.

    What the weights are read from is ``model.safetensors``, or without it the graph, whose initializers have
    the same names.

    Raises:
        ModelFormatError: ``config.json`` does not say which network it is, or the weights do not fit it.
    """
    config: Any = bundle.config
    told = config.get("network") or {}
    # The first bundles did not say what else could not be.
    kind = told.get("kind", STATISTICS)
    if kind == STATISTICS:
        readouts = told.get("readouts") or config.get("training", {}).get("readouts")
        if not readouts:
            raise ModelFormatError(f"{bundle.name}: config.json does not say what the network reads out")
        tensors = _stored_tensors(bundle)
        names = {
            name for name in tensors if name == "projection" or name.startswith(("backbone.", "statistics."))
        }
        return TorchModel(
            EmbeddingNetwork.from_tensors({name: tensors[name] for name in sorted(names)}, readouts)
        )
    if kind != AESTHETIC:
        raise ModelFormatError(
            f"{bundle.name}: network.kind is {kind!r:.80}, must be {STATISTICS} or {AESTHETIC}"
        )
    if WEIGHTS_NAME not in bundle.checksums:
        raise ModelFormatError(
            f"{bundle.name}: holds no {WEIGHTS_NAME}, and the output layer stands nowhere else; give what it "
            "was made from with --checkpoint"
        )
    try:
        head = HeadConfig(**{**told["head"], "hidden": tuple(told["head"]["hidden"])})
        settings = NetworkConfig(told["backbone"], told["classifier"], bundle.preprocessing.size, head)
        target = config["fine_tuning"]["target"]
    except (KeyError, TypeError) as error:
        raise ModelFormatError(
            f"{bundle.name}: config.json does not describe the network ({error})"
        ) from error
    network = make_network(settings, untrained=True)
    load_named(network, _stored_tensors(bundle), str(bundle.folder / WEIGHTS_NAME))
    return aesthetic_model(network, target)


def load_named(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load tensors by name, all that the network has.

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


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors; equal ones become equal bytes."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(tensors.items())}
    path.write_bytes(safetensors.torch.save(plain))


def _stored_tensors(bundle: ModelBundle) -> Params:
    if WEIGHTS_NAME in bundle.checksums:
        path = bundle.path(WEIGHTS_NAME)
        try:
            return safetensors.torch.load_file(path)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise ModelFormatError(f"{path} cannot be read as tensors: {error}") from error
    import onnx_ir

    path = bundle.path("onnx/backbone.onnx")
    try:
        initializers = onnx_ir.load(path).graph.initializers
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read as a graph: {error}") from error
    return {
        name: torch.from_numpy(np.array(value.const_value.numpy()))
        for name, value in initializers.items()
        if value.const_value is not None
    }
