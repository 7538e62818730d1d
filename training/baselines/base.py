"""What a compared system is: settings to choose among, a fit to training users, and a ``Personalizer``."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from piaa_sdk.rating_scale import RatingScale
    from training.baselines.features import PictureFeatures
    from training.data.ratings import RatingTable
    from training.personalizers import Personalizer


def combinations(**offered: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Return every combination of one value of each setting, the last setting changing fastest."""
    return [dict(zip(offered, values, strict=True)) for values in product(*offered.values())]


class FittedBaseline(Protocol):
    """A system that has learned what it learns from training users."""

    def personalizer(self, name: str, features: PictureFeatures) -> Personalizer:
        """Make what evaluation needs, for the pictures of another table.

        Args:
            name: What tables call it.
            features: Of the pictures of the table that is judged.
        """


class Baseline(Protocol):
    """The settings of one system; a frozen dataclass that a section of a TOML file fills.

    A field that is a tuple of numbers offers these values; :meth:`candidates` is every combination.
    """

    def candidates(self) -> Sequence[Mapping[str, Any]]:
        """Return the settings that are tried on validation users, one combination each."""

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> FittedBaseline:
        """Learn from training users.

        Args:
            table: Training users and their pictures.
            scale: Units of the ratings.
            features: Of the N pictures of the table.
            chosen: One of :meth:`candidates`.
            seed: Of whatever is drawn.
        """
