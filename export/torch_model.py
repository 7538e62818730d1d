"""What was trained as torch computes it: the side that graphs and SDK are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.bundle_network import (
    STATISTICS,
    HiddenUnits,
    bare_network,
    kind_of,
    load_named,
    statistics_network,
    stored_tensors,
)
from piaa_sdk.finetune.scoring_network import tensors_of
from piaa_sdk.manifest import WEIGHTS_NAME
from training.tasks import TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.finetune.network import AestheticNetwork, Params
    from piaa_sdk.head import Prior
    from piaa_sdk.rating_scale import RatingScale

_BATCH = 8


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


def aesthetic_model(network: AestheticNetwork, target: str) -> TorchModel:
    """Make the model of f_theta with its backbone."""
    network.eval()
    return TorchModel(HiddenUnits(network).eval(), network, target)


def torch_model_of(bundle: ModelBundle) -> TorchModel:
    """Make the network again that a bundle holds.

    Raises:
        ModelFormatError: ``config.json`` does not say which network it is, or the weights do not fit it.
    """
    tensors = stored_tensors(bundle)
    if kind_of(bundle) == STATISTICS:
        return TorchModel(statistics_network(bundle, tensors))
    if WEIGHTS_NAME not in bundle.checksums:
        raise ModelFormatError(
            f"{bundle.name}: holds no {WEIGHTS_NAME}, and the output layer stands nowhere else; give what it "
            "was made from with --checkpoint"
        )
    network = bare_network(bundle, tensors)
    load_named(network, tensors, str(bundle.folder / WEIGHTS_NAME))
    told = bundle.config.get("fine_tuning")
    target = told.get("target") if isinstance(told, dict) else None
    if target not in TARGETS:
        raise ModelFormatError(
            f"{bundle.name}: fine_tuning.target in config.json is {target!r:.80}, must be one of "
            f"{', '.join(TARGETS)}"
        )
    return aesthetic_model(network, target)


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors; equal ones become equal bytes."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(tensors.items())}
    path.write_bytes(safetensors.torch.save(plain))
