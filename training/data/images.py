"""Pictures to statistics: the preprocessing of the SDK, one pass of the network, kept in a folder.

The pass costs tens of milliseconds per picture and is the same for every prior that is fitted on its
result, so what it gives is kept: in files that only ever are added, keyed by the content of the pictures
and by everything the numbers depend on.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from piaa_sdk.images import load_image
from training.data.kept_rows import keep_rows
from training.data.ratings import digest_of_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.bundle import Preprocessing


class PictureReader(Protocol):
    """Reads numbers out of pictures; for example the statistics network of piaa_sdk.finetune.

    Attributes:
        readouts: What is read out; tells apart numbers that must not be mixed.
        statistic_count: F.
        backbone: Whose weights tell them apart too.
    """

    readouts: tuple[str, ...]
    backbone: torch.nn.Module

    @property
    def statistic_count(self) -> int: ...  # noqa: D102

    def raw_statistics(self, pixels: torch.Tensor) -> torch.Tensor:
        """Read numbers (N, F) out of pixels (N, S, S, 3) uint8."""


STATISTICS_RULE = 1
"""Raised whenever the same pixels and weights become other statistics."""


def collect_statistics(
    paths: Sequence[Path],
    network: PictureReader,
    preprocessing: Preprocessing,
    *,
    cache: Path | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> FloatArray:
    """Measure the raw statistics of picture files, in the order of the paths.

    Args:
        paths: N picture files.
        network: Whose statistics.
        preprocessing: How a picture becomes pixels.
        cache: Folder that keeps what was measured; None keeps nothing.
        batch_size: Pictures per pass of the network.
        progress: Called with the pictures done and all pictures to do, those kept from before left out.

    Returns:
        (N, F) float32.

    Raises:
        ImageError: A picture cannot be read.
        OutputError: The cache cannot be written.
    """
    return keep_statistics(
        [digest_of_file(path) for path in paths],
        lambda position: load_image(paths[position], preprocessing),
        network,
        folder=None if cache is None else cache / settings_digest(network, preprocessing),
        batch_size=batch_size,
        progress=progress,
    )


def keep_statistics(
    keys: Sequence[str],
    load: Callable[[int], PixelArray],
    network: PictureReader,
    *,
    folder: Path | None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> FloatArray:
    """Measure the raw statistics of whatever has a key, and keep them: pictures, or altered views of them.

    Args:
        keys: N hex digests of 64 characters; equal keys have equal pixels.
        load: Gives the pixels (S, S, 3) uint8 of a position in ``keys``.
        network: Whose statistics.
        folder: Where they are kept; one folder for each :func:`settings_digest`. None keeps nothing.
        batch_size: Pictures per pass of the network.
        progress: As for :func:`collect_statistics`.

    Returns:
        (N, F) float32.
    """

    def measure(positions: Sequence[int]) -> FloatArray:
        return measure_statistics(network, np.stack([load(position) for position in positions]))

    return keep_rows(
        keys, measure, network.statistic_count, folder=folder, batch_size=batch_size, progress=progress
    )


def measure_statistics(network: PictureReader, pixels: PixelArray) -> FloatArray:
    """Measure the raw statistics (N, F) float32 of pixels (N, S, S, 3) uint8."""
    with torch.inference_mode():
        statistics: FloatArray = network.raw_statistics(torch.from_numpy(pixels)).numpy()
    return statistics


def settings_digest(network: PictureReader, preprocessing: Preprocessing) -> str:
    """Return what tells apart statistics that must not be mixed: hex, 16 characters.

    Weights, readouts, preprocessing and the versions of the packages that decode and compute go in.
    """
    digest = hashlib.sha256()
    settings = {
        "rule": STATISTICS_RULE,
        "preprocessing": preprocessing.to_json(),
        "readouts": network.readouts,
        "versions": {package: version(package) for package in ("pillow", "timm", "torch")},
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(network.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
