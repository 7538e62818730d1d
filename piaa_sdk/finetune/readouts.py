"""What is kept of a pass of the network: statistics of its layers over the positions of the picture.

A readout is named ``layer.reading``, for example ``stage5.mean``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYER_CHANNELS = {
    "stage1": 16,
    "stage2": 24,
    "stage3": 40,
    "stage4": 80,
    "stage5": 112,
    "stage6": 192,
    "stage7hidden": 1152,
    "stage7": 320,
    "last": 1280,
}
"""Channels of what can be read out: the last block of each stage, the wide hidden layer inside the block of
stage 7 (after its depthwise convolution), and the last layer."""

READINGS = {"mean": 1, "deviation": 1, "thirds": 6}
"""Numbers per channel of each way to read a layer out.

``mean`` and ``deviation`` (population standard deviation) go over all positions. ``thirds`` are means over
the cells of a 3 x 3 grid, left and right cells averaged so that a picture and its mirror image are one: the
middle column from top to bottom, then the outer ones.
"""

DEFAULT_READOUTS = tuple(
    f"{layer}.{reading}"
    for layer in LAYER_CHANNELS
    if layer != "stage7hidden"
    for reading in ("mean", "deviation")
)
"""4128 numbers; ``last.mean`` is what is usually called the feature of the network."""

_VARIANCE_FLOOR = 1e-6  # keeps the square root differentiable where a channel is constant


def slices_of(readouts: Sequence[str]) -> dict[str, slice]:
    """Return where each readout stands among the statistics, by its name.

    Raises:
        ModelFormatError: There is no such layer or reading, or one is named twice.
    """
    slices: dict[str, slice] = {}
    start = 0
    for readout in readouts:
        layer, _, reading = readout.partition(".")
        if layer not in LAYER_CHANNELS or reading not in READINGS or readout in slices:
            raise ModelFormatError(
                f"cannot read out {readout!r}: expected, each once, one of {', '.join(LAYER_CHANNELS)}, "
                f"a dot and one of {', '.join(READINGS)}"
            )
        slices[readout] = slice(start, start + LAYER_CHANNELS[layer] * READINGS[reading])
        start = slices[readout].stop
    return slices


def read_out(maps: torch.Tensor, reading: str) -> torch.Tensor:
    """Reduce what a layer puts out.

    Args:
        maps: (N, C, H, W).
        reading: One of :data:`READINGS`.

    Returns:
        (N, C x numbers per channel).
    """
    if reading == "thirds":
        # A product with constants, because adaptive pooling has no ONNX operator where cells overlap.
        rows, columns = _thirds(maps.shape[2]), _thirds(maps.shape[3])
        sides = torch.stack([columns[1], (columns[0] + columns[2]) / 2])
        return (sides @ (maps.transpose(2, 3) @ rows.T)).flatten(1)
    if reading == "mean":
        return maps.mean((2, 3))
    variance = (maps - maps.mean((2, 3), keepdim=True)).square().mean((2, 3))
    return torch.sqrt(variance + _VARIANCE_FLOOR)


def _thirds(length: int) -> torch.Tensor:
    """Return the weights (3, length) that average each third of a line; neighbours may share a position."""
    weights = torch.zeros(3, length)
    for third in range(3):
        start, end = third * length // 3, -(-(third + 1) * length // 3)
        weights[third, start:end] = 1 / (end - start)
    return weights
