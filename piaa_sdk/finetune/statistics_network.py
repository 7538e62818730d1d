"""The network whose one pass makes the embedding.

::

    pixels (N, S, S, 3) uint8
      -> (pixels - 127) / 128                       the normalization the weights were trained with
      -> 7 stages, the hidden layer of the 7th and the last layer, each can be read out in several ways
      -> statistics (N, F)
      -> (statistics - mean) / std @ projection     embedding (N, D)

Everything stands in the network, so the exported graph takes raw pixels and no caller can get a step wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm
import torch
from torch import nn

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.network import BATCH_COUNTER
from piaa_sdk.finetune.readouts import DEFAULT_READOUTS, LAYER_CHANNELS, read_out, slices_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from piaa_sdk.array_types import FloatArray

ARCHITECTURE = "tf_efficientnet_lite0"
"""timm's name of the backbone."""


class StatisticsNetwork(nn.Module):
    """EfficientNet-Lite0 without its classifier, read out along the way.

    The weights are random until they are loaded. The network is always in evaluation mode.

    Args:
        readouts: What to read out, ``layer.reading`` each; in this order the statistics stand.

    Raises:
        ModelFormatError: There is no such layer or reading.
    """

    def __init__(self, readouts: Sequence[str] = DEFAULT_READOUTS) -> None:
        super().__init__()
        self.readouts = tuple(readouts)
        self._slices = slices_of(self.readouts)
        self.backbone: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
        self.eval()

    @property
    def statistic_count(self) -> int:
        """F."""
        return sum(part.stop - part.start for part in self._slices.values())

    def where(self, readout: str) -> slice:
        """Return where among the statistics a readout stands."""
        return self._slices[readout]

    def raw_statistics(self, pixels: torch.Tensor) -> torch.Tensor:
        """Read the network out in one pass.

        Args:
            pixels: (N, S, S, 3) uint8, RGB.

        Returns:
            (N, F) float32, in the order of the readouts.

        Raises:
            ValueError: Pixels of another shape or type, for example already scaled to [0, 1].
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(f"expected uint8 pixels (N, S, S, 3), not {pixels.dtype} {tuple(pixels.shape)}")
        found = {}
        for layer, maps in zip(LAYER_CHANNELS, self._layers(pixels), strict=True):
            for readout in self.readouts:
                if readout.startswith(f"{layer}."):
                    found[readout] = read_out(maps, readout.removeprefix(f"{layer}."))
        return torch.cat([found[readout] for readout in self.readouts], dim=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Measure the statistics of pixels (N, S, S, 3) uint8, see :meth:`raw_statistics`."""
        return self.raw_statistics(pixels)

    def _layers(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield what each layer puts out, (N, C, H, W), in the order of the pass."""
        network = self.backbone
        maps = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
        maps = network.bn1(network.conv_stem(maps))  # type: ignore[operator]
        *stages, last = network.blocks  # type: ignore[misc]
        for stage in stages:
            maps = stage(maps)
            yield maps
        (block,) = last  # without a shortcut: its layers one after the other
        maps = block.bn1(block.conv_pw(maps))
        maps = block.bn2(block.conv_dw(maps))
        yield maps
        maps = block.bn3(block.conv_pwl(maps))
        yield maps
        yield network.bn2(network.conv_head(maps))  # type: ignore[operator]


class EmbeddingNetwork(StatisticsNetwork):
    """From pixels to the embedding: the statistics standardized and projected.

    Its state dict is what a checkpoint and the initializers of the exported graph hold: ``backbone.*``,
    ``statistics.mean`` and ``statistics.std`` (F,) float32, ``projection`` (F, D) float16.

    Args:
        embedding_dim: D.
        readouts: What to read out, see :class:`StatisticsNetwork`.
    """

    projection: torch.Tensor

    def __init__(self, embedding_dim: int, readouts: Sequence[str] = DEFAULT_READOUTS) -> None:
        super().__init__(readouts)
        self.statistics = Standardization(self.statistic_count)
        projection = torch.zeros(self.statistic_count, embedding_dim, dtype=torch.float16)
        self.register_buffer("projection", projection)
        self.eval()

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], readouts: Sequence[str] = DEFAULT_READOUTS
    ) -> EmbeddingNetwork:
        """Make the network that a checkpoint holds.

        Args:
            tensors: The state dict, without the counters of batch normalization.
            readouts: What the network reads out.

        Raises:
            ModelFormatError: A tensor is missing, too many, of another shape, not finite, or a standard
                deviation is not positive.
        """
        projection = tensors.get("projection")
        if projection is None or projection.ndim != 2:
            raise ModelFormatError("the network has no projection (F, D); make the checkpoint again")
        network = cls(projection.shape[1], readouts)
        load_tensors(network, tensors)
        if not bool((network.statistics.std > 0).all()):
            raise ModelFormatError("statistics.std must be above 0 everywhere; it divides")
        return network

    @classmethod
    def from_parts(
        cls, network: StatisticsNetwork, mean: FloatArray, std: FloatArray, projection: FloatArray
    ) -> EmbeddingNetwork:
        """Join a backbone with what was fitted on its statistics.

        Args:
            network: Whose statistics.
            mean: (F,) of the statistics over the training pictures.
            std: (F,), above 0.
            projection: (F, D); rounded to float16.

        Raises:
            ModelFormatError: They do not fit together.
        """
        tensors = {f"backbone.{name}": value for name, value in network.backbone.state_dict().items()}
        tensors = {name: value for name, value in tensors.items() if not name.endswith(BATCH_COUNTER)}
        tensors["statistics.mean"] = torch.tensor(mean, dtype=torch.float32)
        tensors["statistics.std"] = torch.tensor(std, dtype=torch.float32)
        tensors["projection"] = torch.tensor(projection, dtype=torch.float16)
        return cls.from_tensors(tensors, network.readouts)

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.projection.shape[1]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state dict without the counters of batch normalization."""
        return {
            name: tensor for name, tensor in self.state_dict().items() if not name.endswith(BATCH_COUNTER)
        }

    def project(self, statistics: torch.Tensor) -> torch.Tensor:
        """Turn raw statistics (N, F) into embeddings (N, D), float32."""
        standardized: torch.Tensor = self.statistics(statistics)
        return standardized @ self.projection.float()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pixels (N, S, S, 3) uint8, RGB, as (N, D) float32."""
        return self.project(self.raw_statistics(pixels))


class Standardization(nn.Module):
    """Subtract a mean and divide by a standard deviation, both fixed beforehand.

    Args:
        length: F.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("std", torch.ones(length))

    def forward(self, statistics: torch.Tensor) -> torch.Tensor:
        """Standardize statistics (N, F)."""
        return (statistics - self.mean) / self.std


def load_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load a state dict without counters, and leave no tensor as it was."""
    wanted = {name: value for name, value in module.state_dict().items() if not name.endswith(BATCH_COUNTER)}
    if missing := sorted(wanted.keys() ^ tensors.keys()):
        raise ModelFormatError(
            f"{len(missing)} tensors are missing or too many, the first is {missing[0]}; "
            "make the checkpoint again with this version"
        )
    for name, value in tensors.items():
        if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
            raise ModelFormatError(
                f"{name} is {value.dtype} {tuple(value.shape)}, "
                f"must be {wanted[name].dtype} {tuple(wanted[name].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ModelFormatError(f"{name} holds values that are not finite")
    module.load_state_dict(dict(tensors), strict=False)
