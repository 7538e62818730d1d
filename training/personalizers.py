"""What an evaluation knows of a method: it scores pictures for nobody, and after some ratings for somebody.

Every learner and every baseline is judged through these two protocols, so that all meet the same people, the
same support sets and the same query sets. Ratings and scores are on [0, 1] throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from piaa_sdk.adaptation import adapt
from piaa_sdk.errors import SupportSetError
from piaa_sdk.results import SupportSet

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.head import PersonalHead, Prior

    IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """One person's rated pictures, to adapt to.

    Attributes:
        images: (K,) positions in the table's images.
        ratings: (K,) on [0, 1].
        seed: Of whatever the adaptation draws.
    """

    images: IntArray
    ratings: FloatArray
    seed: int = 0

    def check_pair(self) -> None:
        """Refuse fewer than two ratings.

        Raises:
            SupportSetError: There are fewer.
        """
        if len(self.images) < 2:
            raise SupportSetError(f"{len(self.images)} rated pictures; at least 2 are needed")

    def check_difference(self) -> None:
        """Refuse ratings that no order can be learned from.

        Raises:
            SupportSetError: There are fewer than two, or all are equal.
        """
        if len(self.images) < 2 or np.ptp(self.ratings) == 0:
            raise SupportSetError(
                f"{len(self.images)} ratings without a difference between them teach nothing; "
                "two different ones are the least"
            )


class Predictor(Protocol):
    """What scores pictures for one person."""

    def predict(self, images: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """Score pictures.

        Args:
            images: (Q,) positions in the table's images.

        Returns:
            Scores (Q,) and their standard deviations (Q,), None where the method knows none.
        """


class Personalizer(Protocol):
    """A method: a prior and a way to adapt it."""

    @property
    def name(self) -> str:
        """What tables call the method."""

    def generic(self, images: IntArray) -> FloatArray:
        """Score pictures by the prior alone, the paper's M = 0.

        Args:
            images: (N,) positions in the table's images.

        Returns:
            (N,); the score of a picture does not depend on the others.
        """

    def personalize(self, support: Support) -> Predictor:
        """Adapt the prior to one person.

        Raises:
            SupportSetError: Nothing can be learned from these ratings.
        """


@dataclass(frozen=True, slots=True, eq=False)
class KernelPersonalizer:
    """The closed-form adaptation that the SDK ships.

    Attributes:
        name: What tables call it.
        prior: What adaptation starts from.
        embeddings: (N, D) of the table's images.
    """

    name: str
    prior: Prior
    embeddings: FloatArray

    def generic(self, images: IntArray) -> FloatArray:
        """Score pictures (N,) by the generic head, (N,)."""
        return self.prior.generic(self.embeddings[images])

    def personalize(self, support: Support) -> Predictor:
        """Learn the person's head.

        Raises:
            SupportSetError: Fewer than two ratings, all equal, or more than the SDK learns from at once.
        """
        support.check_difference()
        names = tuple(map(str, support.images))
        ratings = np.asarray(support.ratings, dtype=np.float64)
        head = adapt(self.prior, SupportSet(self.embeddings[support.images], ratings, names))
        return _KernelPredictor(head, self.embeddings)


@dataclass(frozen=True, slots=True, eq=False)
class _KernelPredictor:
    head: PersonalHead
    embeddings: FloatArray

    def predict(self, images: IntArray) -> tuple[FloatArray, FloatArray | None]:
        mean, std, _ = self.head.predict(self.embeddings[images])
        return mean, std
