"""f_theta of eq. 1 as a bundle holds it: the network up to the embedding, and the generic head of the prior.

It scores as :meth:`piaa_sdk.head.Prior.generic` does on the embedding, so that fine-tuning starts from
exactly what was scored before. The straight line of the head is zero in a bundle that has none, and free to
become a person's own.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from piaa_sdk.finetune.network import BATCH_COUNTER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piaa_sdk.finetune.network import Params
    from piaa_sdk.head import Prior

_EMBEDDING = "embedding."
_HEAD = "generic."
_LARGEST_COSINE = 1 - 1e-6  # the slope of acos is infinite at 1


class GenericHead(nn.Module):
    """From embeddings (N, D) to scores (N,), [0, 1]: the generic head of a prior.

    Args:
        prior: Whose; its numbers are where fine-tuning starts.
        is_output_layer: Whether the weights are learned in units of the score, as the output layer of a
            network has them, and not in those of the standardized score. A squashed head has the former.
    """

    center_weights: nn.Parameter
    linear_weights: nn.Parameter
    center_offset: nn.Parameter
    metric: torch.Tensor
    centers: torch.Tensor

    def __init__(self, prior: Prior, *, is_output_layer: bool = False) -> None:
        super().__init__()
        self.prior = prior
        self.unit = prior.generic_std if is_output_layer and not prior.is_squashed else 1.0
        for name in ("center_weights", "linear_weights", "center_offset"):
            value = np.asarray(getattr(prior, name), dtype=np.float64) * self.unit
            self.register_parameter(name, nn.Parameter(_single(value)))
        self.register_buffer("metric", _single(prior.generic_metric))
        self.register_buffer("centers", _single(prior.centers))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Score embeddings (N, D): (N,), [0, 1] units of the scale."""
        raw = embeddings @ self.linear_weights + self.center_offset
        if len(self.center_weights):
            raw = raw + self._kernels(embeddings) @ self.center_weights
        if self.prior.is_squashed:
            return torch.sigmoid(raw)
        return self.prior.generic_mean + (self.prior.generic_std / self.unit) * raw

    def _kernels(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Compare (N, D) with the centres by the arc-cosine kernel of order 1: (N, J)."""
        scaled, bias = embeddings * self.metric, self.prior.arc_bias
        squared = scaled.square().sum(1, keepdim=True) + bias
        lengths = torch.sqrt(squared * (self.centers.square().sum(1) + bias))
        cosine = (scaled @ self.centers.T + bias) / lengths
        angle = torch.acos(cosine.clamp(-_LARGEST_COSINE, _LARGEST_COSINE))
        return lengths * (torch.sin(angle) + (torch.pi - angle) * cosine) / torch.pi

    def prior_with(self, tensors: Mapping[str, torch.Tensor]) -> Prior:
        """Return the prior whose generic head has these tensors, by the names of this module."""
        values = {
            name: tensors[name].detach().cpu().double().numpy() / self.unit
            for name in ("center_weights", "linear_weights", "center_offset")
        }
        return dataclasses.replace(
            self.prior,
            center_weights=values["center_weights"],
            linear_weights=values["linear_weights"],
            center_offset=float(values["center_offset"]),
        )


class ScoringNetwork(nn.Module):
    """From pixels (N, S, S, 3) uint8 to scores (N,), [0, 1].

    Args:
        embedding: From pixels to embeddings (N, D).
        generic: From these to scores.

    Attributes:
        autocast: As of :class:`piaa_sdk.finetune.network.AestheticNetwork`.
    """

    def __init__(self, embedding: nn.Module, generic: GenericHead) -> None:
        super().__init__()
        self.embedding = embedding
        self.generic = generic
        self.autocast: torch.dtype | None = None
        self.eval()

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pixels (N, S, S, 3) uint8, RGB, as (N, D) float32."""
        if self.autocast is None:
            embeddings: torch.Tensor = self.embedding(pixels)
            return embeddings
        with torch.autocast(pixels.device.type, dtype=self.autocast):
            embeddings = self.embedding(pixels)
        return embeddings.float()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Score pixels (N, S, S, 3) uint8, RGB: (N,), [0, 1] units of the scale."""
        scores: torch.Tensor = self.generic(self.embed(pixels))
        return scores

    def parts_with(self, params: Params) -> tuple[nn.Module, Prior]:
        """Return the network up to the embedding and the prior that adapted tensors are.

        Args:
            params: Tensors of this network by name, as :func:`piaa_sdk.finetune.full.fine_tune` gives them.
        """
        embedding = copy.deepcopy(self.embedding).cpu().eval()
        own = {
            name.removeprefix(_EMBEDDING): value.detach().cpu()
            for name, value in params.items()
            if name.startswith(_EMBEDDING)
        }
        embedding.load_state_dict(own, strict=False)
        head = {name.removeprefix(_HEAD): value for name, value in params.items() if name.startswith(_HEAD)}
        return embedding, self.generic.prior_with(head)


def tensors_of(network: nn.Module) -> Params:
    """Return a network's tensors by name, without the counters of batch normalization."""
    return {name: value for name, value in network.state_dict().items() if not name.endswith(BATCH_COUNTER)}


def _single(values: object) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)
