"""Does the exported graph say what the trained network says? A bundle that differs is never written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from piaa_sdk.devices import runtime_errors
from piaa_sdk.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from export.torch_model import TorchModel
    from piaa_sdk.array_types import FloatArray, PixelArray
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


@dataclass(frozen=True, slots=True, eq=False)
class BothSides:
    """What torch and the graphs say of the same pictures.

    Attributes:
        expected: Embeddings by torch, (N, D).
        found: Embeddings by the graph, (N, D).
        scores: By the head's graph, of its own embeddings, (N,), rating units.
    """

    expected: FloatArray
    found: FloatArray
    scores: FloatArray

    def parity(self, expected_scores: FloatArray) -> Parity:
        """Measure how far they are apart.

        Args:
            expected_scores: By torch, of its own embeddings, (N,), rating units.
        """
        norms = np.maximum(np.linalg.norm(self.expected, axis=1), np.finfo(np.float32).tiny)
        relative = np.abs(self.found - self.expected).max(axis=1) / norms
        score = float(np.abs(self.scores - expected_scores).max())
        return Parity(len(relative), float(relative.max()), score)


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
    starts = range(0, len(pixels), batch_size)
    sides = run_both(
        model, backbone_path, head_path, (pixels[start : start + batch_size] for start in starts)
    )
    return sides.parity(model.scores(sides.expected, prior, scale))


def run_both(
    model: TorchModel, backbone_path: Path, head_path: Path, batches: Iterable[PixelArray]
) -> BothSides:
    """Embed pictures with torch and with a graph, and score the latter with the head's graph.

    Args:
        model: Sees one picture at a time, so that the two sides meet in other batches.
        backbone_path: The graph ``pixels`` -> ``embedding``.
        head_path: The graph ``embedding`` -> ``score``.
        batches: (N, S, S, 3) uint8 each, RGB; read one after the other. There must be one at least.

    Raises:
        ParityError: A graph does not run.
    """
    backbone, head = _session(backbone_path), _session(head_path)
    expected, found = [], []
    for pixels in batches:
        expected += [model.embed(one[np.newaxis]) for one in pixels]
        found.append(_run(backbone, "embedding", {"pixels": pixels}))
    embeddings = np.concatenate(found)
    return BothSides(np.concatenate(expected), embeddings, _run(head, "score", {"embedding": embeddings}))


def _session(path: Path) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except runtime_errors(onnxruntime) as error:
        raise _cannot_run(error) from error


def _run(session: onnxruntime.InferenceSession, output: str, inputs: dict[str, Any]) -> FloatArray:
    # Nothing but the graph runs in here: onnxruntime's errors are ValueErrors too, as that of a photo is.
    try:
        found: FloatArray = session.run([output], inputs)[0]
    except runtime_errors(onnxruntime) as error:
        raise _cannot_run(error) from error
    return found


def _cannot_run(error: Exception) -> ParityError:
    return ParityError(f"onnxruntime cannot run what was exported: {error}")
