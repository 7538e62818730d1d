"""The two graphs of a bundle as files: pixels to embedding, embedding to generic score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piaa_sdk.finetune.onnx import network_graph
from piaa_sdk.graphs import encoded, head_graph

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
    from piaa_sdk.head import Prior
    from piaa_sdk.rating_scale import RatingScale


def export_backbone(network: EmbeddingNetwork, path: Path, *, size: int, metadata: Mapping[str, str]) -> None:
    """Write the graph ``pixels`` (N, S, S, 3) uint8 RGB -> ``embedding`` (N, D) float32, N free.

    Args:
        network: From pixels to embedding.
        path: The file to write; weights are inside.
        size: S, pixels.
        metadata: Written into the file as metadata properties.

    Raises:
        ModelFormatError: See :func:`piaa_sdk.finetune.onnx.network_graph`.
    """
    path.write_bytes(encoded(network_graph(network, network.tensors(), size=size, metadata=metadata)))


def export_head(prior: Prior, scale: RatingScale, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the graph ``embedding`` (N, D) float32 -> ``score`` (N,) float32, rating units, not clipped.

    Args:
        prior: Whose generic head.
        scale: Rating units of the scores.
        path: The file to write.
        metadata: Written into the file as metadata properties.
    """
    path.write_bytes(encoded(head_graph(prior, scale, metadata=metadata)))
