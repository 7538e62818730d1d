"""Where the attributes of a table's pictures come from: formulas, or what AADB's labels teach."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError
from training.attributes.hand_computed import ATTRIBUTE_NAMES, RULE, measure_attributes
from training.attributes.predictor import AttributePredictor
from training.data.kept_rows import keep_rows
from training.evaluation import count_seen
from training.views import full_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from piaa_sdk.array_types import FloatArray
    from training.data.ratings import RatingTable


@dataclass(frozen=True, slots=True, eq=False)
class AttributeSource:
    """Gives the attributes of pictures; by formulas where there is no predictor.

    Attributes:
        predictor: What AADB's labels taught; None computes by :mod:`training.attributes.hand_computed`.
        weights: File of the weights of the predictor's backbone, if it was trained with one.
    """

    predictor: AttributePredictor | None = None
    weights: Path | None = None

    @classmethod
    def load(cls, checkpoint: Path, *, weights: Path | None = None) -> Self:
        """Read the predictor that ``python -m training attributes`` made.

        Args:
            checkpoint: Its folder.
            weights: See the class.

        Raises:
            ModelNotFoundError: There is none.
            ModelFormatError: It is damaged or of a newer format.
        """
        return cls(AttributePredictor.load(checkpoint), weights)

    @property
    def name(self) -> str:
        """Return what tables call the source."""
        return "hand-computed" if self.predictor is None else f"AADB predictor {self.predictor.digest()[:8]}"

    def digest(self) -> str:
        """Return what the attributes depend on besides the pictures: the rule of the formulas, or weights."""
        return f"rule {RULE}" if self.predictor is None else self.predictor.digest()

    def refuse_seen(self, table: RatingTable) -> None:
        """Refuse to judge on pictures whose labels taught the predictor: they are means of people's ratings.

        Raises:
            RatingError: There are some, how many is said; or the predictor does not say what it learned from.
        """
        if self.predictor is None:
            return
        if self.predictor.pictures is None:
            raise RatingError(
                "the attribute predictor does not say which pictures it learned from; make it anew: "
                "python -m training attributes AADB CHECKPOINT"
            )
        _, pictures = count_seen(table, (), self.predictor.pictures)
        if pictures:
            raise RatingError(
                f"the attribute predictor learned from {pictures} of the {len(table.images)} pictures to "
                "judge on; make one that did not: python -m training attributes AADB CHECKPOINT --without "
                "RATINGS --without-format FORMAT"
            )

    def collect(
        self,
        table: RatingTable,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FloatArray:
        """Return the attributes of the N pictures of a table; see :meth:`measure`."""
        return self.measure(table.paths(), table.picture_digests(), cache, progress)

    def measure(
        self,
        paths: Sequence[Path],
        digests: Sequence[str],
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FloatArray:
        """Return the attributes of N pictures, (N, A) float32, and keep what was measured.

        Args:
            paths: Of the pictures.
            digests: :func:`training.data.ratings.digest_of_file` of each.
            cache: Folder that keeps the attributes; None keeps nothing.
            progress: Called with the pictures done and to do, those kept from before left out.

        Raises:
            ImageError: A picture cannot be read.
            OutputError: The cache cannot be written.
            ModelFormatError: The backbone is not the one that the predictor was trained on.
        """
        if self.predictor is not None:
            return self.predictor.predict_pictures(
                paths, weights=self.weights, cache=cache, progress=progress
            )
        return keep_rows(
            digests,
            lambda positions: np.stack(
                [measure_attributes(full_pixels(paths[place])) for place in positions]
            ),
            len(ATTRIBUTE_NAMES),
            folder=None if cache is None else cache / f"attributes-{RULE}-{_versions_digest()}",
            progress=progress,
        )


def _versions_digest() -> str:
    """Return what tells apart attributes of other packages, which must not be mixed: hex, 16 characters."""
    versions = {package: version(package) for package in ("pillow", "scikit-image", "scipy")}
    return hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:16]
