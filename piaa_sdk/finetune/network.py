"""f_theta of eq. 1: a convolutional backbone, global average pooling and fully connected layers to a score.

::

    pixels (N, S, S, 3) uint8
      -> (pixels - mean) / std          what the backbone's weights were trained with
      -> backbone                       embedding (N, D)
      -> FC -> BN -> activation -> dropout     once per width in ``hidden``
      -> FC                             score (N,)

A network made without a backbone takes embeddings instead of pixels: the same head on what a frozen backbone
saw. Its tensors are handled outside the module, as :data:`Params`, because every user starts from the same
ones.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.checks import SHARE, check_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Params = dict[str, torch.Tensor]
"""Tensors by name: parameters, and the running statistics of batch normalization (``running_mean``, ...)."""

BATCH_COUNTER = "num_batches_tracked"
"""How names of tensors end that count batches; nothing that scores reads them, and they are never stored."""

STATISTICS = ("running_mean", "running_var")
"""How the names of batch normalization's statistics end; they are measured, not learned by gradients."""

ACTIVATIONS = {"relu": nn.ReLU, "prelu": nn.PReLU}
OUTPUTS = ("linear", "sigmoid")
BATCH_NORMS = ("frozen", "support")


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The fully connected layers.

    Attributes:
        hidden: Width of each hidden layer; the paper's two layers are one hidden layer and the output.
        activation: ``relu`` or ``prelu``.
        dropout: Share of hidden units left out while adapting.
        output: ``linear``, or ``sigmoid`` to squash scores into (0, 1).
        standardize: Whether the embedding is standardized first, by the mean and deviation over the training
            pictures, so that no channel counts by its size alone.
    """

    hidden: tuple[int, ...] = (256,)
    activation: str = "prelu"
    dropout: float = 0.5
    output: str = "linear"
    standardize: bool = False

    def __post_init__(self) -> None:
        """Refuse what no layers can be made of.

        Raises:
            ModelFormatError: A setting has a value that is not allowed.
        """
        if not self.hidden or min(self.hidden) < 1:
            raise ModelFormatError(
                f"hidden is {list(self.hidden)}, must hold one width or more, each above 0"
            )
        check_settings(self, activation=ACTIVATIONS, output=OUTPUTS, dropout=SHARE)


class AestheticHead(nn.Module):
    """From embeddings (N, D) to scores (N,).

    Args:
        embedding_dim: D.
        config: The layers.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, embedding_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("std", torch.ones(embedding_dim))
        layers: list[nn.Module] = []
        width = embedding_dim
        for units in config.hidden:
            layers += [nn.Linear(width, units), nn.BatchNorm1d(units), ACTIVATIONS[config.activation]()]
            layers.append(nn.Dropout(config.dropout))
            width = units
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(width, 1)

    def standardize(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) as the first layer takes them."""
        return (embeddings - self.mean) / self.std

    def hidden_units(self, standardized: torch.Tensor) -> torch.Tensor:
        """Return what the last hidden layer puts out for standardized embeddings (N, D): (N, H)."""
        units: torch.Tensor = self.hidden(standardized)
        return units

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Score embeddings (N, D): (N,), rating units of [0, 1]."""
        scores: torch.Tensor = self.output(self.hidden_units(self.standardize(embeddings))).squeeze(1)
        return torch.sigmoid(scores) if self.config.output == "sigmoid" else scores


class AestheticNetwork(nn.Module):
    """f_theta of eq. 1.

    Args:
        head: The fully connected layers.
        backbone: From normalized pictures (N, 3, S, S) to (N, D); None if embeddings come in.
        pixel_mean: Of each colour, in units of 0 to 255.
        pixel_std: Of each colour.

    Attributes:
        autocast: Type that the backbone computes in where it may be less exact, for example
            ``torch.bfloat16``; None computes in the type of the weights.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        head: AestheticHead,
        backbone: nn.Module | None = None,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean))
        self.register_buffer("pixel_std", torch.tensor(pixel_std))
        self.autocast: torch.dtype | None = None

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) of pixels (N, S, S, 3) uint8, or embeddings as they came in."""
        if self.backbone is None:
            return inputs
        if self.autocast is None:
            return embed_pixels(self.backbone, inputs, self.pixel_mean, self.pixel_std)
        with torch.autocast(inputs.device.type, dtype=self.autocast):
            embeddings = embed_pixels(self.backbone, inputs, self.pixel_mean, self.pixel_std)
        return embeddings.to(self.pixel_mean.dtype)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Score pixels (N, S, S, 3) uint8, or embeddings (N, D) if there is no backbone: (N,)."""
        scores: torch.Tensor = self.head(self.embed(inputs))
        return scores


def embed_pixels(
    backbone: nn.Module, pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> torch.Tensor:
    """Return embeddings (N, D) of pixels (N, S, S, 3) uint8, given mean and deviation (3,) of the colours."""
    embeddings: torch.Tensor = backbone(((pixels - mean) / std).permute(0, 3, 1, 2))
    return embeddings


def params_of(network: nn.Module) -> Params:
    """Copy the tensors of a network that adaptation may change."""
    statistics = {name: value for name, value in network.named_buffers() if is_statistic(name)}
    return {
        name: value.detach().clone() for name, value in [*network.named_parameters(), *statistics.items()]
    }


def is_statistic(name: str) -> bool:
    """Tell whether a name is that of a running statistic of batch normalization."""
    return name.rpartition(".")[2] in STATISTICS


def scores_of(network: nn.Module, params: Params, inputs: torch.Tensor) -> torch.Tensor:
    """Score inputs with other tensors than the network's own, in the mode that the network is in: (N,).

    Running statistics in ``params`` are updated in place if batch normalization is in training mode.
    """
    scores: torch.Tensor = functional_call(network, params, (inputs,))
    return scores


def part_with(
    network: nn.Module,
    params: Params,
    part: Callable[[Any, torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
) -> torch.Tensor:
    """Do a part of what a network does with other tensors than its own.

    Args:
        network: The network.
        params: Its tensors, by the names they have in it.
        part: Is called with the network and the inputs.
        inputs: Whatever the part takes.
    """
    own = {f"network.{name}": value for name, value in params.items()}
    found: torch.Tensor = functional_call(_Part(network, part), own, (inputs,))
    return found


class _Part(nn.Module):
    """A network whose forward pass is a part of its own; tensors can be put in place for that alone."""

    def __init__(self, network: nn.Module, part: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self.part = part

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.part(self.network, inputs)


def predict(
    network: nn.Module, params: Params, inputs: torch.Tensor, *, batch_size: int = 256
) -> torch.Tensor:
    """Score inputs (N, ...) without dropout and with running statistics: (N,), no gradients."""
    with torch.no_grad(), mode(network, adapting=False):
        device = next(iter(params.values())).device
        parts = [scores_of(network, params, part.to(device)) for part in torch.split(inputs, batch_size)]
    return torch.cat(parts)


@contextlib.contextmanager
def mode(network: nn.Module, *, adapting: bool, batch_norm: str = "frozen") -> Iterator[None]:
    """Put a network in the mode of adaptation or of scoring, and back, its counters of batches too.

    Args:
        network: The network.
        adapting: Dropout is on while adapting.
        batch_norm: While adapting, whether batch normalization uses its running statistics (``frozen``) or
            those of the batch, which then also move the running ones (``support``).
    """
    before = [(module, module.training) for module in network.modules()]
    normalizing = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    counters = [module.num_batches_tracked for module in normalizing]
    network.train(adapting)
    for normalization, counter in zip(normalizing, counters, strict=True):
        if batch_norm == "frozen":
            normalization.eval()
        elif counter is not None:
            normalization.num_batches_tracked = counter.clone()  # it counts up in place
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
        for normalization, counter in zip(normalizing, counters, strict=True):
            normalization.num_batches_tracked = counter
