"""What networks are given for the images of a table: embeddings kept beforehand, or packed pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.finetune.network import embed_pixels
from training.backbone_weights import digest_of_tensors
from training.data.augmentation import random_flip_and_crop
from training.data.images import collect_statistics
from training.data.packed import pack
from training.network import make_backbone, measure_embedding_dim

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from training.data.packed import PackedImages
    from training.data.ratings import RatingTable
    from training.network import NetworkConfig
    from training.tasks import IntArray


class Pictures(Protocol):
    """A table of pictures; for example of ratings."""

    def paths(self) -> list[Path]:
        """Return where they are."""


def packed_size(size: int) -> int:
    """Return the edge of the pictures that training crops from, for crops of a size: 256 for 224."""
    return round(size * 256 / 224)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingSource:
    """Embeddings of the images of a table, by a frozen backbone.

    Attributes:
        embeddings: (N, D).
        backbone_digest: Of the tensors of that backbone, see
            :func:`training.backbone_weights.digest_of_tensors`; empty if it is not known.
    """

    embeddings: torch.Tensor
    backbone_digest: str = ""

    def take(self, images: IntArray, rng: np.random.Generator | None) -> torch.Tensor:
        """Return embeddings (K, D); ``rng`` is not used."""
        return self.embeddings[torch.from_numpy(images)]


@dataclass(frozen=True, slots=True, eq=False)
class PictureSource:
    """Pixels of the images of a table, from packed stores on disk.

    Attributes:
        scored: The N pictures as the SDK prepares them, size S.
        cropped: The same, larger, for training to flip and crop at random; None gives training the others.
        size: S.
    """

    scored: PackedImages
    cropped: PackedImages | None
    size: int

    def take(self, images: IntArray, rng: np.random.Generator | None) -> torch.Tensor:
        """Return pixels (K, S, S, 3) uint8."""
        if rng is None or self.cropped is None:
            return torch.from_numpy(self.scored.take(images))
        return torch.from_numpy(random_flip_and_crop(self.cropped.take(images), self.size, rng))


def preprocessing_of(size: int) -> Preprocessing:
    """Return the SDK's preprocessing at a size: squashed to a square, bicubic."""
    return Preprocessing.from_json(
        {
            "format_version": 1,
            "size": size,
            "fit": "squash",
            "resample": "bicubic",
            "draft_factor": 2,
            "background": [255, 255, 255],
            "decoding_rule": DECODING_RULE,
        }
    )


class BackboneReadout(nn.Module):
    """A frozen backbone as something that statistics of pictures are collected from.

    Args:
        config: Which network.
        weights: See :func:`training.network.make_backbone`.
        untrained: See there.
    """

    def __init__(
        self, config: NetworkConfig, *, weights: Path | None = None, untrained: bool = False
    ) -> None:
        super().__init__()
        self.backbone, mean, std = make_backbone(config, weights=weights, untrained=untrained)
        self.readouts: tuple[str, ...] = (
            f"{config.backbone}.{'classes' if config.classifier else 'pooled'}",
        )
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        self.eval()
        self.statistic_count = measure_embedding_dim(self.backbone, config.size)

    def raw_statistics(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) of pixels (N, S, S, 3) uint8."""
        return embed_pixels(self.backbone, pixels, self._mean, self._std)


def embed_images(
    table: Pictures,
    config: NetworkConfig,
    *,
    weights: Path | None = None,
    untrained: bool = False,
    seed: int = 0,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddingSource:
    """Embed the images of a table with a frozen backbone, and keep the result.

    Args:
        table: Whose images.
        config: Which network.
        weights: See :func:`training.network.make_network`.
        untrained: See there.
        seed: Of random weights, the same as for a network of the full mode.
        cache: Folder that keeps embeddings.
        progress: Called with the pictures done and to do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BackboneReadout(config, weights=weights, untrained=untrained)
    found = collect_statistics(
        table.paths(), backbone, preprocessing_of(config.size), cache=cache, progress=progress
    )
    return EmbeddingSource(torch.from_numpy(found), digest_of_tensors(backbone.backbone.state_dict()))


def pack_images(
    table: RatingTable,
    size: int,
    folder: Path,
    *,
    for_training: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> PictureSource:
    """Decode the images of a table once, in the size that is scored and in the one that training crops from.

    Args:
        table: Whose images.
        size: S.
        folder: Keeps the packed stores of all sizes.
        for_training: Whether they are to be cropped from too.
        progress: Called with the pictures done and to do, for each size.
    """
    edges = (size, packed_size(size)) if for_training else (size,)
    packed = [
        pack(table.paths(), folder / f"{edge}px", preprocessing_of(edge), progress=progress) for edge in edges
    ]
    return PictureSource(packed[0], packed[1] if for_training else None, size)
