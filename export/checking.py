"""Torch, the graphs and the SDK on the same real pictures: a bundle on which they differ is not published.

Three things are compared. Torch computes with what was trained, or with the weights that the bundle holds.
The graphs are run as any program runs them, in batches. The SDK reads the picture files and does all of its
own: opening, resizing, embedding, rounding the embedding to float16 as its cache keeps it, and scoring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from export.bundle_writer import HEAD_NAME, read_pictures
from export.golden import compare_golden
from export.parity import (
    MAX_EMBEDDING_DIFFERENCE,
    MAX_SCORE_DIFFERENCE,
    BothSides,
    ParityError,
    run_both,
)
from piaa_sdk.bundle import BACKBONE_NAME
from piaa_sdk.head import Prior
from piaa_sdk.metrics import srocc
from piaa_sdk.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from export.torch_model import TorchModel
    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.bundle import ModelBundle
    from training.data.ratings import RatingTable

MAX_SROCC_DIFFERENCE = 1e-4
"""Of every single user: torch against the graphs, and torch against the SDK on the embeddings of the SDK.

On embeddings of their own the two cannot be as close, even if both are rounded to float16: numbers that
differ by a millionth are now and then rounded to neighbours, and pictures with almost equal scores change
places. On 256 photos and 37 people that moved SROCC by 0.00007 in the mean and 0.0003 at most; among 20
pictures a single change can be 0.0015 and more. So the embeddings are compared as numbers, and the ranks on
the same ones.
"""

MAX_SDK_DIFFERENCE = 0.002
"""Of the span of the scale: the SDK's scores against torch's. Rounding embeddings to float16 moves scores by
about a tenth of it; another decoder, resize or normalization by far more."""

MAX_SDK_EMBEDDING_DIFFERENCE = MAX_EMBEDDING_DIFFERENCE + 2**-11
"""Of the norm of the embedding: what the graphs may differ by, and rounding to the 11 bits of float16."""

_BATCH = 3


@dataclass(slots=True)
class Checked:
    """What a check found.

    Attributes:
        figures: What was measured, by name.
        wrong: What is too far apart, a sentence each.
        missing: What a full check lacks, a sentence each.
    """

    figures: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def raise_if_wrong(self) -> None:
        """Refuse the bundle if anything is too far apart.

        Raises:
            ParityError: Something is; all of it is said.
        """
        if self.wrong:
            raise ParityError("; ".join(self.wrong))

    def expect(self, name: str, found: float, allowed: float, what: str) -> None:
        """Note a figure, and what is wrong if it is not below what is allowed."""
        self.figures[name] = found
        if not found < allowed:  # nan is wrong too
            self.wrong.append(f"{what} differ by {found:.2g}, allowed is less than {allowed:.2g}")


def check_bundle(
    bundle: ModelBundle,
    model: TorchModel | None,
    photos: Sequence[Path] = (),
    table: RatingTable | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Compare golden scores and then, on real pictures, torch with the graphs and with the SDK.

    Args:
        bundle: Whose files were found unchanged.
        model: The network in torch; None if its weights are not to be had.
        photos: More real pictures.
        table: Rated pictures: they are compared too, and the SROCC of every user on them. Without them the
            check is not a full one.
        progress: Called with the pictures done and to do.

    Raises:
        ModelFormatError: A golden score is another one.
        ImageError: A picture cannot be read.
        ParityError: A graph does not run.
    """
    checked = Checked()
    checked.figures["golden_score"] = compare_golden(bundle)
    rated = [] if table is None else table.paths()
    paths = [*rated, *photos]
    if model is None:
        checked.missing.append("torch weights; give what the bundle was made from with --checkpoint")
    if table is None:
        checked.missing.append("rated pictures, on which SROCC is the same; give some with --ratings")
    if model is None or not paths:
        return checked
    prior, scale = Prior.load(bundle.prior_path), bundle.rating_scale
    sides = run_both(
        model, bundle.path(BACKBONE_NAME), bundle.path(HEAD_NAME), _batches(bundle, paths, progress)
    )
    expected = model.scores(sides.expected, prior, scale)
    parity = sides.parity(expected)
    checked.figures["pictures"] = len(paths)
    on = f"torch and ONNX on {len(paths)} pictures:"
    checked.expect(
        "onnx_embedding", parity.embedding, MAX_EMBEDDING_DIFFERENCE, f"{on} embeddings (of their norm)"
    )
    checked.expect("onnx_score", parity.score, MAX_SCORE_DIFFERENCE, f"{on} scores (rating units)")
    rounded, own = _compare_sdk(checked, bundle, paths, sides, expected)
    if table is not None:
        compare_users(checked, table, expected, sides.scores, model.scores(rounded, prior, scale), own)
    return checked


def _compare_sdk(
    checked: Checked, bundle: ModelBundle, paths: Sequence[Path], sides: BothSides, expected: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Compare torch with the SDK; return the SDK's embeddings (N, D) and scores (N,), rating units."""
    scorer = Scorer.from_pretrained(bundle.folder, device="cpu", cache=False)
    rounded = scorer.embed(paths)
    own = scorer.score_embeddings(rounded)
    with_sdk = f"torch and SDK on {len(paths)} pictures:"
    checked.expect(
        "sdk_embedding",
        BothSides(sides.expected, rounded, own).parity(expected).embedding,
        MAX_SDK_EMBEDDING_DIFFERENCE,
        f"{with_sdk} embeddings (of their norm)",
    )
    checked.expect(
        "sdk_score",
        float(np.abs(own - expected).max()),
        MAX_SDK_DIFFERENCE * bundle.rating_scale.span,
        f"{with_sdk} scores (rating units)",
    )
    return rounded, own


def user_correlations(table: RatingTable, scores: FloatArray) -> FloatArray:
    """Return the SROCC of each user's ratings and scores (N,) of the table's images; nan where undefined."""
    return np.array(
        [
            srocc(ratings, scores[images]) if len(images) > 1 else np.nan
            for _, images, ratings in table.by_user()
        ]
    )


def compare_users(
    checked: Checked,
    table: RatingTable,
    by_torch: FloatArray,
    by_onnx: FloatArray,
    by_torch_rounded: FloatArray,
    by_sdk: FloatArray,
) -> None:
    """Compare the SROCC of every user; those of two users who differ in opposite ways do not cancel.

    Args:
        checked: Where it is noted.
        table: Who rated what.
        by_torch: Scores by torch (N,), of the table's images first; the others too.
        by_onnx: By the graphs.
        by_torch_rounded: By torch, of the embeddings of the SDK.
        by_sdk: By the SDK, of the same.
    """
    count = len(table.images)
    torch, onnx, rounded, sdk = (
        user_correlations(table, scores[:count]) for scores in (by_torch, by_onnx, by_torch_rounded, by_sdk)
    )
    is_defined = np.isfinite(torch)
    if not is_defined.any():
        checked.missing.append("a user with two different ratings")
        return
    torch, onnx, rounded, sdk = (part[is_defined] for part in (torch, onnx, rounded, sdk))
    checked.figures |= {"users": len(torch), "srocc": float(torch.mean())}
    users = f"SROCC of {len(torch)} users (the largest)"
    checked.expect(
        "onnx_srocc", float(np.abs(onnx - torch).max()), MAX_SROCC_DIFFERENCE, f"torch and ONNX: {users}"
    )
    checked.expect(
        "sdk_srocc", float(np.abs(sdk - rounded).max()), MAX_SROCC_DIFFERENCE, f"torch and SDK: {users}"
    )
    checked.figures["sdk_srocc_rounding"] = float(np.abs(sdk - torch).mean())


def _batches(
    bundle: ModelBundle, paths: Sequence[Path], progress: Callable[[int, int], None] | None
) -> Iterator[PixelArray]:
    """Read pictures a few at a time; one is done when the next ones are asked for."""
    for start in range(0, len(paths), _BATCH):
        pixels = read_pictures(paths[start : start + _BATCH], bundle.preprocessing)
        yield pixels
        if progress is not None:
            progress(start + len(pixels), len(paths))
