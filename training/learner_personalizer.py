"""A meta-learned prior as evaluation knows methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from piaa_sdk.errors import SupportSetError
from piaa_sdk.finetune.full import Examples

if TYPE_CHECKING:
    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.network import Params
    from piaa_sdk.rating_scale import RatingScale
    from training.learners.base import Learner
    from training.personalizers import Support
    from training.tasks import InputSource, IntArray

_BATCH = 256


@dataclass(slots=True, eq=False)
class LearnerPersonalizer:
    """A learner's prior, adapted as the learner adapts.

    Attributes:
        name: What tables call it.
        learner: Adapts and scores.
        prior: theta.
        source: Inputs of the table's images.
        scale: Units of the ratings.
        target: What ratings are learned as, see :attr:`training.tasks.TaskConfig.target`.
        device: Where the network computes.
    """

    name: str
    learner: Learner
    prior: Params
    source: InputSource
    scale: RatingScale
    target: str = "unit"
    device: str = "cpu"

    def generic(self, images: IntArray) -> FloatArray:
        """Score images (N,) by the prior alone: (N,), [0, 1]."""
        return self._score(self.prior, images)

    def personalize(self, support: Support) -> AdaptedPredictor:
        """Adapt the prior to one user.

        Raises:
            SupportSetError: There are fewer than two images.
        """
        if len(support.images) < 2:
            raise SupportSetError(f"{len(support.images)} rated pictures; at least 2 are needed")
        examples = Examples(
            self.source.take(support.images, None).to(self.device),
            torch.tensor(self._to_target(support.ratings), dtype=self._dtype, device=self.device),
        )
        return AdaptedPredictor(self, self.learner.adapt(self.prior, examples, seed=support.seed))

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.prior.values())).dtype

    def _score(self, params: Params, images: IntArray) -> FloatArray:
        parts = [
            self.learner.predict(
                params, self.source.take(images[start : start + _BATCH], None).to(self.device)
            )
            for start in range(0, len(images), _BATCH)
        ]
        return self._from_target(torch.cat(parts).double().cpu().numpy())

    def _to_target(self, ratings: FloatArray) -> FloatArray:
        if self.target == "unit":
            return ratings
        return np.asarray(self.scale.from_unit(ratings) / self.scale.high)

    def _from_target(self, scores: FloatArray) -> FloatArray:
        if self.target == "unit":
            return scores
        return np.asarray(self.scale.to_unit(scores * self.scale.high))


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedPredictor:
    """A network adapted to one user.

    Attributes:
        personalizer: What it comes from.
        params: theta_te.
    """

    personalizer: LearnerPersonalizer
    params: Params

    def predict(self, images: IntArray) -> tuple[FloatArray, None]:
        """Score images (Q,): (Q,), [0, 1]; the network knows no standard deviations."""
        return self.personalizer._score(self.params, images), None
