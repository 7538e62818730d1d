"""A meta-learned prior as evaluation knows methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from piaa_sdk.finetune.full import Examples

if TYPE_CHECKING:
    from collections.abc import Callable

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
        return self.score(self.prior, images)

    def personalize(self, support: Support) -> AdaptedPredictor:
        """Adapt the prior to one user.

        Raises:
            SupportSetError: There are fewer than two images.
        """
        return AdaptedPredictor(self, self.adapt(self.prior, support))

    def adapt(
        self, start: Params, support: Support, *, on_epoch: Callable[[int, Params], None] | None = None
    ) -> Params:
        """Adapt tensors to one user, as the learner adapts its prior.

        Args:
            start: The prior, or other tensors by its names.
            support: The user's rated images.
            on_epoch: See :meth:`training.learners.base.Learner.adapt`.

        Raises:
            SupportSetError: There are fewer than two images.
        """
        support.check_pair()
        examples = Examples(
            self.source.take(support.images, None).to(self.device),
            torch.tensor(self._to_target(support.ratings), dtype=self._dtype, device=self.device),
        )
        return self.learner.adapt(start, examples, seed=support.seed, on_epoch=on_epoch)

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.prior.values())).dtype

    def score(self, params: Params, images: IntArray) -> FloatArray:
        """Score images (N,) by the prior or by adapted tensors: (N,), [0, 1]."""
        parts = [
            self.learner.predict(
                params, self.source.take(images[start : start + _BATCH], None).to(self.device)
            )
            for start in range(0, len(images), _BATCH)
        ]
        return self.from_target(torch.cat(parts).double().cpu().numpy())

    def _to_target(self, ratings: FloatArray) -> FloatArray:
        if self.target == "unit":
            return ratings
        return np.asarray(self.scale.from_unit(ratings) / self.scale.high)

    def from_target(self, scores: FloatArray) -> FloatArray:
        """Bring scores (N,) from the units that the learner knows to [0, 1]."""
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
        return self.personalizer.score(self.params, images), None
