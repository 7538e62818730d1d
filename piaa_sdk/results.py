"""Frozen records that the SDK hands to its caller."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.choices import Method
from piaa_sdk.errors import SupportSetError

if TYPE_CHECKING:
    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.errors import ImageError


@dataclass(frozen=True, slots=True)
class Score:
    """What the model says of one picture, for one person or for nobody in particular.

    Scores are in rating units: the person's own where there is a person, else the bundle's. They are
    never clipped or rounded; only ``stars`` is.

    Attributes:
        image: The path as it was given, or a name such as ``image 3`` for a picture without one.
        user: Name of the person, None for the generic score alone.
        generic: Score of the generic prior, mapped to the person's scale; None for a person with a network of
            their own.
        personal: Score for the person; None without one.
        std: Predictive standard deviation of ``personal``, rating noise included, rating units.
        latent_std: The part of ``std`` that more ratings could remove, rating units.
        stars: ``personal`` (else ``generic``) rounded to 1 to 5.
        percentile: Share of this call's pictures that score no higher, 0 to 100; None when streaming.
        error: Why the picture could not be scored; every figure is then None.
    """

    image: str
    user: str | None = None
    generic: float | None = None
    personal: float | None = None
    std: float | None = None
    latent_std: float | None = None
    stars: int | None = None
    percentile: float | None = None
    error: ImageError | None = None

    @property
    def value(self) -> float | None:
        """The score to sort by: personal where there is one, else generic."""
        return self.generic if self.personal is None else self.personal


@dataclass(frozen=True, slots=True)
class Prediction:
    """Scores of N embeddings, float64, rating units.

    Attributes:
        generic: (N,); None for a person with a network of their own, which knows no generic score.
        personal: (N,), None without a person.
        std: (N,) predictive standard deviation of ``personal``, rating noise included.
        latent_std: (N,) its part that more ratings could remove.
    """

    generic: FloatArray | None
    personal: FloatArray | None = None
    std: FloatArray | None = None
    latent_std: FloatArray | None = None

    @property
    def value(self) -> FloatArray:
        """The scores to sort by, (N,): personal where there are any, else generic."""
        value = self.generic if self.personal is None else self.personal
        assert value is not None, "neither a generic nor a personal score"
        return value


@dataclass(frozen=True, slots=True, eq=False)
class SupportSet:
    """The rated pictures that adaptation learns from.

    Attributes:
        embeddings: (K, D) float32, as the cache stores them (rounded to float16).
        ratings: (K,) float64, mapped to [0, 1] by the person's scale.
        images: K names: paths as they were given.

    Raises:
        SupportSetError: Lengths differ, a value is not finite, fewer than two ratings, or all equal.
    """

    embeddings: FloatArray
    ratings: FloatArray
    images: tuple[str, ...]

    def __post_init__(self) -> None:
        shots = len(self.images)
        if self.embeddings.ndim != 2 or not len(self.embeddings) == len(self.ratings) == shots:
            raise SupportSetError(
                f"embeddings {self.embeddings.shape}, ratings {self.ratings.shape} and {shots} images "
                "do not match"
            )
        if not (np.isfinite(self.embeddings).all() and np.isfinite(self.ratings).all()):
            raise SupportSetError("embeddings and ratings must be finite numbers")
        if shots < 2:
            raise SupportSetError(
                f"taste cannot be learned from {shots} rated photo; rate at least 2, better 10 to 100"
            )
        if np.ptp(self.ratings) == 0:
            raise SupportSetError(
                f"all {shots} ratings are equal; taste shows in differences: rate some higher, some lower"
            )

    def __len__(self) -> int:
        return len(self.images)


class Verdict(StrEnum):
    """What left-out pairs of a person's ratings say about the personal head."""

    LEARNED = "learned"
    NOT_ENOUGH = "not-enough-ratings"
    WORSE = "worse-than-prior"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Generic, closed-form and fine-tuned scores on ratings that neither fits nor stopping have seen.

    Attributes:
        shots: K, rated pictures.
        pairs: Left-out pairs with different ratings that were judged.
        generic_accuracy: Share of them that the generic score orders as the person does, 0 to 1.
        closed_form_accuracy: The same for the closed-form head.
        fine_tuned_accuracy: The same for the fine-tuned network.
        interval: 90 % interval of fine-tuned minus closed-form accuracy; None where pairs are too few.
        generic_interval: The same of fine-tuned minus generic accuracy.
        std: Root mean square of left-out rating minus fine-tuned score, [0, 1] units.
    """

    shots: int
    pairs: int
    generic_accuracy: float
    closed_form_accuracy: float
    fine_tuned_accuracy: float
    interval: tuple[float, float] | None
    generic_interval: tuple[float, float] | None
    std: float

    @property
    def recommended(self) -> Method:
        """Fine-tuning only where it is proved better than the closed form, and not worse than generic."""
        is_better = self.interval is not None and self.interval[0] > 0
        is_worse = self.generic_interval is not None and self.generic_interval[1] < 0
        return Method.FINETUNE if is_better and not is_worse else Method.CLOSED_FORM


@dataclass(frozen=True, slots=True)
class Adaptation:
    """An honest answer to "did it learn me?", judged on pairs of ratings that no fit has seen.

    Attributes:
        shots: K, rated pictures learned from.
        pairs: Left-out pairs with different ratings that were judged.
        prior_accuracy: Share of them that the generic prior orders as the person does, 0 to 1.
        personal_accuracy: The same for the personal head.
        interval: 90 % interval of personal minus prior accuracy.
        verdict: What follows.

    The three figures are None where the ratings are too few to leave any out.
    """

    shots: int
    pairs: int
    prior_accuracy: float | None
    personal_accuracy: float | None
    interval: tuple[float, float] | None
    verdict: Verdict

    @property
    def difference(self) -> float | None:
        """Personal minus prior accuracy."""
        if self.personal_accuracy is None or self.prior_accuracy is None:
            return None
        return self.personal_accuracy - self.prior_accuracy
