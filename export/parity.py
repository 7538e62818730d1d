"""Does the exported graph say what the trained network says? A bundle that differs is never written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from piaa_sdk.devices import runtime_errors
from piaa_sdk.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from export.torch_model import TorchModel
    from piaa_sdk.array_types import PixelArray
    from piaa_sdk.head import Prior
    from piaa_sdk.rating_scale import RatingScale

MAX_EMBEDDING_DIFFERENCE = 1e-4
"""Of the norm of the embedding."""

MAX_SCORE_DIFFERENCE = 1e-3
"""Rating units."""


class ParityError(ModelError):
    """The exported graphs and the trained network disagree."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the exported graphs are from the trained network.

    Attributes:
        pictures: N pictures that were compared.
        embedding: Largest difference of a number of an embedding, as a share of that embedding's norm.
        score: Largest difference of a generic score, rating units.
    """

    pictures: int
    embedding: float
    score: float

    def check(self) -> None:
        """Refuse graphs that are too far from the network.

        Raises:
            ParityError: A difference is not below its limit, or nothing was compared.
        """
        if self.pictures == 0:
            raise ParityError("parity was measured on no picture; give some with --photos")
        # Written so that nan, which compares false with everything, is refused.
        if not (self.embedding < MAX_EMBEDDING_DIFFERENCE and self.score < MAX_SCORE_DIFFERENCE):
            raise ParityError(
                f"ONNX and torch disagree on {self.pictures} pictures: embeddings by {self.embedding:.2g} of "
                f"their norm (allowed {MAX_EMBEDDING_DIFFERENCE:g}), scores by {self.score:.2g} rating units "
                f"(allowed {MAX_SCORE_DIFFERENCE:g}); export again with the versions of the extra train"
            )


def measure_parity(
    model: TorchModel,
    prior: Prior,
    scale: RatingScale,
    backbone_path: Path,
    head_path: Path,
    pixels: PixelArray,
    batch_size: int = 3,
) -> Parity:
    """Compare torch and numpy on one side with the two graphs in onnxruntime on the other.

    Args:
        model: From pixels to embedding and, if it has a head of its own, to the score.
        prior: Gives the generic score where it has none, numpy.
        scale: Rating units of the scores.
        backbone_path: The graph ``pixels`` -> ``embedding``.
        head_path: The graph ``embedding`` -> ``score``.
        pixels: (N, S, S, 3) uint8, RGB.
        batch_size: Pictures per run of the graphs; the network sees one at a time.

    Raises:
        ParityError: A graph does not run.
    """
    if not len(pixels):
        return Parity(0, math.nan, math.nan)
    # One at a time: so the two sides meet in other batches.
    expected = np.concatenate([model.embed(one[np.newaxis]) for one in pixels])
    expected_scores = model.scores(expected, prior, scale)
    try:
        backbone, head = _session(backbone_path), _session(head_path)
        batches = [pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size)]
        found = np.concatenate([backbone.run(["embedding"], {"pixels": batch})[0] for batch in batches])
        scores = head.run(["score"], {"embedding": found})[0]
    except runtime_errors(onnxruntime) as error:
        raise ParityError(f"onnxruntime cannot run what was exported: {error}") from error
    norms = np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)
    relative = np.abs(found - expected).max(axis=1) / norms
    return Parity(len(pixels), float(relative.max()), float(np.abs(scores - expected_scores).max()))


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
