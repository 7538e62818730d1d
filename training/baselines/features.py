"""What the compared systems know of a picture: its content and its aesthetic attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import ModelFormatError
from training.standard_deviation import floored_std

if TYPE_CHECKING:
    from typing import Self

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from training.tasks import IntArray

    Float64Array = npt.NDArray[np.float64]

INPUTS = ("attribute", "content", "both")
"""Which features a system reads: the paper's "only attribute", "only content", "content and attribute"."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureFeatures:
    """Features of the N pictures of a table.

    Attributes:
        content: (N, D) embedding by the frozen backbone, as it comes from it.
        attributes: (N, A) aesthetic attributes, as their source gives them.
        attribute_source: What the attributes come from, as tables name it; never two in one table.
    """

    content: FloatArray
    attributes: FloatArray
    attribute_source: str

    def __post_init__(self) -> None:
        """Refuse features of different pictures.

        Raises:
            ModelFormatError: There is not one row of each for every picture.
        """
        if len(self.content) != len(self.attributes):
            raise ModelFormatError(
                f"there are contents of {len(self.content)} pictures and attributes of "
                f"{len(self.attributes)}; both must be of the same pictures"
            )

    def take(self, images: IntArray) -> Self:
        """Return the features of some pictures, by position (K,)."""
        return type(self)(self.content[images], self.attributes[images], self.attribute_source)


@dataclass(frozen=True, slots=True, eq=False)
class Standardizer:
    """Takes columns (N, F) to mean 0 and deviation 1 over the pictures that it was fitted on.

    Attributes:
        mean: (F,).
        std: (F,), floored, see :func:`training.standard_deviation.floored_std`.
    """

    mean: Float64Array
    std: Float64Array

    @classmethod
    def fit(cls, columns: FloatArray) -> Self:
        """Measure columns (N, F)."""
        wide = np.asarray(columns, dtype=np.float64)
        return cls(wide.mean(axis=0), floored_std(wide, correction=0))

    def apply(self, columns: FloatArray) -> Float64Array:
        """Standardize columns (N, F)."""
        return np.asarray((columns - self.mean) / self.std, dtype=np.float64)


def check_inputs(inputs: str) -> None:
    """Refuse a choice of features that there is not.

    Raises:
        ModelFormatError: It is none of :data:`INPUTS`.
    """
    if inputs not in INPUTS:
        raise ModelFormatError(f"inputs is {inputs!r}, must be one of {', '.join(INPUTS)}")
