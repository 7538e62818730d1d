"""Where the attributes of a table's pictures come from: formulas, or what AADB's labels teach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.attributes.hand_computed import ATTRIBUTE_NAMES, RULE, measure_attributes
from training.attributes.predictor import AttributePredictor
from training.data.aadb_attributes import ATTRIBUTES
from training.data.kept_rows import keep_rows
from training.data.ratings import digest_of_file
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

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Return the names of the A attributes."""
        return ATTRIBUTE_NAMES if self.predictor is None else ATTRIBUTES

    def collect(
        self,
        table: RatingTable,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FloatArray:
        """Return the attributes of the N pictures of a table, (N, A) float32, and keep what was measured.

        Args:
            table: Whose pictures.
            cache: Folder that keeps them; None keeps nothing.
            progress: Called with the pictures done and to do, those kept from before left out.

        Raises:
            ImageError: A picture cannot be read.
            OutputError: The cache cannot be written.
            ModelFormatError: The backbone is not the one that the predictor was trained on.
        """
        paths = table.paths()
        if self.predictor is not None:
            return self.predictor.predict_pictures(
                paths, weights=self.weights, cache=cache, progress=progress
            )
        return _measure(paths, table.picture_digests(), cache, progress)


def attribute_features(
    paths: Sequence[Path],
    source: AttributeSource,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FloatArray:
    """Return the attributes of N picture files, (N, A) float32; as :meth:`AttributeSource.collect`."""
    if source.predictor is not None:
        return source.predictor.predict_pictures(
            paths, weights=source.weights, cache=cache, progress=progress
        )
    return _measure(paths, [digest_of_file(path) for path in paths], cache, progress)


def _measure(
    paths: Sequence[Path],
    digests: Sequence[str],
    cache: Path | None,
    progress: Callable[[int, int], None] | None,
) -> FloatArray:
    return keep_rows(
        digests,
        lambda positions: np.stack([measure_attributes(full_pixels(paths[place])) for place in positions]),
        len(ATTRIBUTE_NAMES),
        folder=None if cache is None else cache / f"attributes-{RULE}",
        progress=progress,
    )
