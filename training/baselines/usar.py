"""USAR (Lv et al., ACM Multimedia 2018): ranking by what one person prefers, in three forms.

Known: from a few pictures that a user prefers, the most similar ones are retrieved to build a training set of
the user's own, and a ranker is learned on it (PPR, primary personalized ranking); the user corrects the
ranking shown; a user-specific aesthetic distribution over hand-designed attributes (PAD) is joined with it.
Ranker, distribution and fusion are not visible to us. Our choices:

- Interaction: in an offline benchmark nobody can correct a ranking. The user's ratings of the support set
  stand for it, and both modules learn from all of them at once.
- PPR: :mod:`training.baselines.preference_ranking`, linear in principal components of the standardized
  embedding (a total variance of 1) and in the generic score, the same as that of PAM (variance 1).
  The loss is the sum over the pairs, so that ten times the ratings weigh a hundred times as much against
  the penalty: of the two rotations that settings were looked at on, both ask for that.
- Pool of unrated pictures: the pictures of the training users. The user has rated none of them, and with the
  pictures that are judged in it, the score of a picture would depend on which others are asked for.
- PAD: :mod:`training.baselines.aesthetic_distribution`, of the attributes (a total variance of 1), the
  generic score (variance 1) and a constant.
- What few ratings fall back to: weights have a Gaussian prior. For PPR its mean is the generic score alone,
  by the factor that fits pairs of training users' ratings; for PAD it is the distribution of all training
  users' ratings, each picture counting by its ratings but a mean picture as one, since what attributes
  leave unexplained in a picture is common to its ratings. M = 0 is these means.
- The generic scores of the pool, which these means and all scales are learned from, are those of regressions
  on other pictures (three folds), as the score of a picture knows its own ratings otherwise.
- PPR&PAD: the mean of both z-scores. z is taken over at most a thousand pictures of the pool, so that the
  score of a picture does not depend on what else is scored.
- Ranks have no unit. A z-score becomes a rating by the mean and the standard deviation of the support's
  ratings; the deviation is multiplied by the mean correlation of training users' ratings with the generic
  score, because a score that explains a part of ratings must vary as much less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.special import expit

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.metrics import plcc
from training.baselines.aesthetic_distribution import (
    expected_ratings,
    learn_distribution,
    spread_over_levels,
)
from training.baselines.base import combinations
from training.baselines.components import ContentComponents
from training.baselines.features import Standardizer
from training.baselines.generic_score import GenericScore
from training.baselines.newton import minimize
from training.baselines.preference_ranking import Neighbors, Pairs, learn_ranking

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.baselines.features import PictureFeatures
    from training.data.ratings import RatingTable
    from training.personalizers import Support
    from training.tasks import IntArray

    Float64Array = npt.NDArray[np.float64]

FORMS = ("ppr", "pad", "both")

_FOLDS = 3
_REFERENCE_PICTURES = 1000
_PAIRS_PER_USER = 200
_FACTOR_STRENGTH = 1e-3
_POPULATION_STRENGTH = 1.0
_LEAST_AGREEMENT = 0.1
_SMALLEST_STD = 1e-9


@dataclass(frozen=True, slots=True)
class UsarConfig:
    """The settings of USAR; a tuple offers values to choose among on validation users.

    Attributes:
        form: ``ppr``, ``pad`` or ``both``.
        ranking_strengths: Penalties on how far the ranker of a user is from the generic one.
        neighbors: Pictures of the pool that inherit the rating of a support picture.
        distribution_strengths: Penalties on how far a user's distribution is from everybody's.
        components: Principal components of the embedding.
        levels: L, of ratings.
    """

    form: str
    ranking_strengths: tuple[float, ...] = (10.0, 30.0, 100.0)
    neighbors: tuple[int, ...] = (0, 3)
    distribution_strengths: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
    components: int = 64
    levels: int = 5

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be fitted with.

        Raises:
            ModelFormatError: One is out of its range.
        """
        if self.form not in FORMS:
            raise ModelFormatError(f"form of USAR is {self.form!r}, must be one of {', '.join(FORMS)}")
        for name in ("ranking_strengths", "distribution_strengths"):
            values = getattr(self, name)
            if min(values, default=0) <= 0:
                raise ModelFormatError(f"{name} of USAR is {values}, must be at least one number above 0")
        if min(self.neighbors, default=-1) < 0:
            raise ModelFormatError(
                f"neighbors of USAR is {self.neighbors}, must be at least one number, each 0 or above"
            )
        if self.components < 1 or self.levels < 2:
            raise ModelFormatError(
                f"USAR has {self.components} components and {self.levels} levels, must have at least 1 and 2"
            )

    def candidates(self) -> list[Mapping[str, Any]]:
        """Return every combination of what the form has settings for."""
        offered: dict[str, tuple[float, ...]] = {}
        if self.form != "pad":
            offered |= {"ranking_strength": self.ranking_strengths, "neighbors": self.neighbors}
        if self.form != "ppr":
            offered |= {"distribution_strength": self.distribution_strengths}
        return combinations(**offered)

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> FittedUsar:
        """Learn the generic score, what users start from, and the pool.

        Args:
            table: Training users and their pictures.
            scale: Units of the ratings.
            features: Of the N pictures of the table.
            chosen: One of :meth:`candidates`.
            seed: Of folds, pairs and the pictures that z-scores are taken over.
        """
        rng = np.random.default_rng(seed)
        means = scale.to_unit(table.mean_ratings())
        crowd = Crowd.fit(table, scale, _left_out_scores(features.content, means, rng))
        reference = np.sort(rng.permutation(len(means))[:_REFERENCE_PICTURES])
        modules: list[RankingModule | DistributionModule] = []
        if self.form != "pad":
            factor = _generic_factor(table, scale, crowd.standardized, rng)
            modules.append(RankingModule.fit(features, crowd, self, chosen, factor, reference))
        if self.form != "ppr":
            modules.append(DistributionModule.fit(table, scale, features, crowd, self, chosen, reference))
        return FittedUsar(GenericScore.fit(features.content, means), crowd, tuple(modules))


def _left_out_scores(content: FloatArray, means: FloatArray, rng: np.random.Generator) -> Float64Array:
    """Score pictures (N,) by generic scores that were fitted to other pictures."""
    folds = rng.permutation(len(means)) % _FOLDS
    scores = np.empty(len(means))
    for fold in range(_FOLDS):
        is_left_out = folds == fold
        if is_left_out.any():
            scores[is_left_out] = GenericScore.fit(content[~is_left_out], means[~is_left_out]).score(
                content[is_left_out]
            )
    return scores


def _generic_factor(
    table: RatingTable, scale: RatingScale, standardized: Float64Array, rng: np.random.Generator
) -> float:
    """Return the factor of the generic score that fits pairs of training users' ratings best."""
    chosen, differences = [], []
    for _, images, ratings in table.by_user():
        pairs = rng.integers(len(images), size=(2, _PAIRS_PER_USER))
        unit = scale.to_unit(ratings)[pairs]
        chosen.append(images[pairs])
        differences.append(unit[0] - unit[1])
    first, second = np.concatenate(chosen, axis=1)
    gaps = np.concatenate(differences)
    margins = np.sign(gaps) * (standardized[first] - standardized[second])
    gaps = np.abs(gaps)

    def local(point: Float64Array) -> tuple[float, Float64Array, Float64Array]:
        missed = expit(-point[0] * margins)
        value = gaps @ np.logaddexp(0.0, -point[0] * margins) + 0.5 * _FACTOR_STRENGTH * point[0] ** 2
        gradient = -(gaps * missed) @ margins + _FACTOR_STRENGTH * point[0]
        bend = (gaps * missed * (1 - missed)) @ margins**2 + _FACTOR_STRENGTH
        return float(value), np.array([gradient]), np.array([[bend]])

    return float(minimize(local, np.zeros(1))[0])


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """What training users have in common.

    Attributes:
        scores: (P,) generic scores of their pictures by regressions on the other ones.
        score_mean: Of these.
        score_std: Of these.
        rating_mean: Of all ratings, [0, 1].
        rating_std: Mean over the users of the standard deviation of their ratings.
        agreement: Mean correlation of a user's ratings with the scores; what is below 0.1 counts as 0.1.
    """

    scores: Float64Array
    score_mean: float
    score_std: float
    rating_mean: float
    rating_std: float
    agreement: float

    @classmethod
    def fit(cls, table: RatingTable, scale: RatingScale, scores: Float64Array) -> Self:
        """Measure training users, given scores (P,) of their pictures."""
        deviations, correlations = [], []
        for _, images, ratings in table.by_user():
            unit = scale.to_unit(ratings)
            deviations.append(float(unit.std()))
            if np.ptp(unit) > 0 and np.ptp(scores[images]) > 0:
                correlations.append(plcc(unit, scores[images]))
        return cls(
            scores=scores,
            score_mean=float(scores.mean()),
            score_std=max(float(scores.std()), _SMALLEST_STD),
            rating_mean=float(scale.to_unit(table.ratings).mean()),
            rating_std=float(np.mean(deviations)),
            agreement=max(float(np.mean(correlations)) if correlations else 0.0, _LEAST_AGREEMENT),
        )

    @property
    def standardized(self) -> Float64Array:
        """The scores (P,) of the pool, standardized."""
        return self.standardize(self.scores)

    def standardize(self, scores: FloatArray) -> Float64Array:
        """Take generic scores (N,) to mean 0 and deviation 1 over the pool."""
        return np.asarray((scores - self.score_mean) / self.score_std, dtype=np.float64)


def _standardize_over(scores: Float64Array, reference: Float64Array) -> Float64Array:
    """Return z-scores of (N,), taken over (R,)."""
    return np.asarray((scores - reference.mean()) / max(float(reference.std()), _SMALLEST_STD))


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """What one module thinks of pictures, in no unit.

    Attributes:
        pictures: (N,) scores of those of the judged table.
        reference: (R,) scores of those of the pool that z-scores are taken over.
    """

    pictures: Float64Array
    reference: Float64Array

    def standardized(self) -> Self:
        """Return both as z-scores."""
        return type(self)(
            _standardize_over(self.pictures, self.reference),
            _standardize_over(self.reference, self.reference),
        )


@dataclass(frozen=True, slots=True, eq=False)
class RankingModule:
    """PPR after the training users.

    Attributes:
        components: Of the embedding.
        pool: (P, F) pictures of the pool: the standardized generic score and the components.
        reference: (R,) positions in the pool.
        prior: (F,) the generic ranker.
        strength: Penalty.
        neighbors: k.
    """

    components: ContentComponents
    pool: Float64Array
    reference: IntArray
    prior: Float64Array
    strength: float
    neighbors: int

    @classmethod
    def fit(
        cls,
        features: PictureFeatures,
        crowd: Crowd,
        config: UsarConfig,
        chosen: Mapping[str, Any],
        factor: float,
        reference: IntArray,
    ) -> Self:
        """Reduce the pool; ``factor`` is that of the generic score in the generic ranker."""
        components = ContentComponents.fit(features.content, config.components)
        pool = np.column_stack([crowd.standardized, components.apply(features.content)])
        prior = np.zeros(pool.shape[1])
        prior[0] = factor
        return cls(
            components, pool, reference, prior, float(chosen["ranking_strength"]), int(chosen["neighbors"])
        )

    def describe(self, features: PictureFeatures, standardized: Float64Array) -> RankingPictures:
        """Describe the N pictures of another table, whose generic scores are standardized."""
        reduced = self.components.apply(features.content)
        # What a picture shows decides what is like it, not how well it is liked.
        neighbors = Neighbors.find(reduced, self.pool[:, 1:], self.neighbors)
        return RankingPictures(self, np.column_stack([standardized, reduced]), neighbors)


@dataclass(frozen=True, slots=True, eq=False)
class RankingPictures:
    """PPR on the pictures of one table: (N, F), with their neighbours in the pool."""

    module: RankingModule
    pictures: Float64Array
    neighbors: Neighbors

    def learn(self, support: Support | None) -> Ranked:
        """Rank for one person, or for nobody."""
        weights = self.module.prior
        if support is not None:
            pairs = Pairs.collect(
                self.pictures[support.images],
                np.asarray(support.ratings, dtype=np.float64),
                self.module.pool[self.neighbors.positions[support.images]],
                self.neighbors.weights[support.images],
            )
            weights = learn_ranking(pairs, weights, self.module.strength)
        return Ranked(self.pictures @ weights, self.module.pool[self.module.reference] @ weights)


@dataclass(frozen=True, slots=True, eq=False)
class DistributionModule:
    """PAD after the training users.

    Attributes:
        standardizer: Of the attributes.
        reference: (R, F) pictures of the pool: 1, the standardized generic score, the attributes.
        prior: (L, F) the distribution of all training users' ratings.
        strength: Penalty.
    """

    standardizer: Standardizer
    reference: Float64Array
    prior: Float64Array
    strength: float

    @classmethod
    def fit(
        cls,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        crowd: Crowd,
        config: UsarConfig,
        chosen: Mapping[str, Any],
        reference: IntArray,
    ) -> Self:
        """Learn the distribution of all training users' ratings; ``reference`` (R,) are positions."""
        standardizer = Standardizer.fit(features.attributes)
        described = _join(crowd.standardized, standardizer.apply(features.attributes))
        counts = np.bincount(table.image_index, minlength=len(described)).astype(np.float64)
        targets = np.zeros((len(described), config.levels))
        np.add.at(targets, table.image_index, spread_over_levels(scale.to_unit(table.ratings), config.levels))
        prior = learn_distribution(
            described,
            targets / counts[:, None],
            counts / counts.mean(),
            np.zeros((config.levels, described.shape[1])),
            _POPULATION_STRENGTH,
        )
        return cls(standardizer, described[reference], prior, float(chosen["distribution_strength"]))

    def describe(self, features: PictureFeatures, standardized: Float64Array) -> DistributionPictures:
        """Describe the N pictures of another table, whose generic scores are standardized.

        Raises:
            ModelFormatError: There are other attributes than in training.
        """
        if features.attributes.shape[1] != len(self.standardizer.mean):
            raise ModelFormatError(
                f"USAR was fitted to {len(self.standardizer.mean)} attributes and is given "
                f"{features.attributes.shape[1]}; take both from one source"
            )
        return DistributionPictures(self, _join(standardized, self.standardizer.apply(features.attributes)))


def _join(standardized: Float64Array, attributes: Float64Array) -> Float64Array:
    """Return 1, generic scores (N,) and attributes (N, A), these of a total variance of 1, (N, 2 + A)."""
    return np.column_stack(
        [np.ones(len(standardized)), standardized, attributes / np.sqrt(attributes.shape[1])]
    )


@dataclass(frozen=True, slots=True, eq=False)
class DistributionPictures:
    """PAD on the pictures of one table, (N, F)."""

    module: DistributionModule
    pictures: Float64Array

    def learn(self, support: Support | None) -> Ranked:
        """Find the expected ratings by one person, or by everybody."""
        weights = self.module.prior
        if support is not None:
            weights = learn_distribution(
                self.pictures[support.images],
                spread_over_levels(support.ratings, len(weights)),
                np.ones(len(support.images)),
                weights,
                self.module.strength,
            )
        return Ranked(
            expected_ratings(self.pictures, weights), expected_ratings(self.module.reference, weights)
        )


@dataclass(frozen=True, slots=True, eq=False)
class FittedUsar:
    """USAR after its training users.

    Attributes:
        generic: What most people like.
        crowd: What training users have in common.
        modules: One, or both to be fused.
    """

    generic: GenericScore
    crowd: Crowd
    modules: tuple[RankingModule | DistributionModule, ...]

    def personalizer(self, name: str, features: PictureFeatures) -> UsarPersonalizer:
        """Make what evaluation needs, for the pictures of another table.

        Args:
            name: What tables call it.
            features: Of the N pictures of the table that is judged.
        """
        standardized = self.crowd.standardize(self.generic.score(features.content))
        described = tuple(module.describe(features, standardized) for module in self.modules)
        return UsarPersonalizer(name, self.crowd, described)


@dataclass(frozen=True, slots=True, eq=False)
class UsarPersonalizer:
    """USAR on the pictures of one table.

    Attributes:
        name: What tables call it.
        crowd: What training users have in common.
        modules: One, or both to be fused, on these pictures.
    """

    name: str
    crowd: Crowd
    modules: tuple[RankingPictures | DistributionPictures, ...]

    def generic(self, images: IntArray) -> FloatArray:
        """Score pictures (N,) for nobody, (N,), in the mean and the spread of training users' ratings."""
        spread = self.crowd.rating_std * self.crowd.agreement
        return self.crowd.rating_mean + spread * self._fused(None)[images]

    def personalize(self, support: Support) -> UsarPredictor:
        """Learn what the person prefers.

        Raises:
            SupportSetError: Fewer than two ratings, or all equal.
        """
        support.check_difference()
        fused = self._fused(support)
        spread = float(np.std(support.ratings)) * self.crowd.agreement
        return UsarPredictor(
            float(np.mean(support.ratings)) + spread * (fused - fused[support.images].mean())
        )

    def _fused(self, support: Support | None) -> Float64Array:
        """Return z-scores of all pictures of the table, (N,), for one person or for nobody."""
        ranked = [module.learn(support).standardized() for module in self.modules]
        mean = Ranked(
            np.mean([each.pictures for each in ranked], axis=0),
            np.mean([each.reference for each in ranked], axis=0),
        )
        return mean.standardized().pictures


@dataclass(frozen=True, slots=True, eq=False)
class UsarPredictor:
    """One person's scores (N,) of all pictures of the table."""

    scores: Float64Array

    def predict(self, images: IntArray) -> tuple[FloatArray, None]:
        """Score pictures (Q,); USAR knows no standard deviations."""
        return self.scores[images], None
