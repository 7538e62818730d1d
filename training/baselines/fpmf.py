"""FPMF (O'Donovan, Agarwala and Hertzmann 2014): probabilistic matrix factorization on features.

Known: a rating of picture i by user u is mu + b_u + b_i + p_u^T q_i, where q_i = W x_i is a linear function
of the picture's features, so that a picture that nobody has rated has a vector too. Users' vectors, W and
biases have Gaussian priors. Ren et al. (2017) ran it for personal aesthetics on attributes,
on content and on both. How they fitted users that were not in training is not visible to us; a ridge
regression on the frozen item side is what the model itself says. Our choices:

- Features x: attributes are standardized and content is principal components of the standardized embedding;
  each source is scaled to a total variance of 1, then both together to 1, so that they count alike.
- The bias of a picture is a linear function a^T x of the same features; else there would be none for a new
  picture.
- Training is by alternating least squares, each step an exact minimum of the whole objective (:meth:`Factors.
  objective`): vectors (b_u, p_u) of all users; the mean of these, which they are drawn towards; (a, W). The
  steps need the ratings only as a matrix of moments per user, F x F for F features, so that sparse and dense
  tables cost the same and nothing has the size of users times pictures. All begins with the singular
  vectors of each user's own ridge regression, so that nothing is drawn.
- The penalties on p_u and on W are one number: only their product matters, as p and W can trade a factor.
  That of b_u is one imagined rating. That of a comes from leave-one-out regression of the mean
  ratings on x, for what x leaves unexplained in a picture is common to all its ratings; with both sources,
  attributes have a penalty of their own, 1 to 1000 times that of content.
- A new user has the mean and the covariance of the training users' (b_u, p_u) as a Gaussian prior and the
  training users' residual variance as noise, so that the ridge is a Bayesian linear regression. The
  prior's weight is multiplied by a strength that is chosen on validation users. M = 0 is the prior's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import RidgeCV

from piaa_sdk.errors import ModelFormatError
from training.baselines.base import combinations
from training.baselines.components import ContentComponents
from training.baselines.features import Standardizer, check_inputs

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

_OFFSET_STRENGTH = 1.0
_BIAS_STRENGTHS = np.logspace(-3, 4, 29)
_ATTRIBUTE_RATIOS = (1.0, 10.0, 100.0, 1000.0)
_SMALLEST_NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class FpmfConfig:
    """The settings of FPMF; a tuple offers values to choose among on validation users.

    Attributes:
        inputs: ``attribute``, ``content`` or ``both``: what x is.
        dimensions: d, numbers of a user's vector.
        item_strengths: Penalty on users' vectors and on W in training.
        strengths: Weight of the prior for a new user; 1 is what the training users say.
        components: Principal components of the embedding.
        sweeps: Rounds of alternating least squares.
    """

    inputs: str
    dimensions: tuple[int, ...] = (5, 10, 20)
    item_strengths: tuple[float, ...] = (0.5, 2.0, 8.0)
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    components: int = 64
    sweeps: int = 15

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be fitted with.

        Raises:
            ModelFormatError: One is out of its range.
        """
        check_inputs(self.inputs)
        for name in ("dimensions", "item_strengths", "strengths"):
            values = getattr(self, name)
            if min(values, default=0) <= 0:
                raise ModelFormatError(f"{name} of FPMF is {values}, must be at least one number above 0")
        if self.components < 1 or self.sweeps < 1:
            raise ModelFormatError(
                f"FPMF has {self.components} components and {self.sweeps} sweeps, must have at least 1"
            )

    def candidates(self) -> list[Mapping[str, Any]]:
        """Return every combination of dimensions, penalty in training and weight of the prior."""
        return combinations(
            dimensions=self.dimensions, item_strength=self.item_strengths, strength=self.strengths
        )

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> FittedFpmf:
        """Learn the item side and the prior of a user from training users.

        Args:
            table: Training users and their pictures.
            scale: Units of the ratings.
            features: Of the N pictures of the table.
            chosen: One of :meth:`candidates`.
            seed: Not used; nothing is drawn.
        """
        inputs = InputFeatures.fit(features, self.inputs, self.components)
        described = inputs.describe(features)
        moments = Moments.collect(table, scale, described)
        item_bias, bias_penalty = _regress_means(table, scale, described, inputs.attribute_columns)
        factors = Factors.start(
            moments, item_bias, chosen["dimensions"], chosen["item_strength"], bias_penalty
        )
        for _ in range(self.sweeps):
            factors = factors.sweep(moments)
        return FittedFpmf.summarize(inputs, moments, factors.with_users(moments), chosen["strength"])


def _regress_means(
    table: RatingTable, scale: RatingScale, described: Float64Array, attributes: int
) -> tuple[Float64Array, Float64Array]:
    """Return weights (F,) of the mean ratings, and their penalties (F,) in the sum over all ratings.

    The first ``attributes`` of the columns (N, F) may have another penalty than the others.
    """
    means, each = scale.to_unit(table.mean_ratings()), len(table) / len(table.images)
    is_both = 0 < attributes < described.shape[1]
    tried = []
    for ratio in _ATTRIBUTE_RATIOS if is_both else (1.0,):
        ratios = np.ones(described.shape[1])
        ratios[:attributes] = ratio
        found = RidgeCV(alphas=_BIAS_STRENGTHS).fit(described / np.sqrt(ratios), means)
        tried.append((float(found.best_score_), found.coef_ / np.sqrt(ratios), found.alpha_ * each * ratios))
    _, weights, penalties = max(tried, key=lambda one: one[0])
    return np.asarray(weights, dtype=np.float64), np.asarray(penalties, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class InputFeatures:
    """What a picture is to FPMF: one vector x of both sources or of one of them.

    Attributes:
        attributes: Standardizes attributes; None where only content is read.
        content: Reduces embeddings; None where only attributes are read.
    """

    attributes: Standardizer | None
    content: ContentComponents | None

    @classmethod
    def fit(cls, features: PictureFeatures, inputs: str, components: int) -> Self:
        """Measure the training pictures."""
        return cls(
            None if inputs == "content" else Standardizer.fit(features.attributes),
            None if inputs == "attribute" else ContentComponents.fit(features.content, components),
        )

    @property
    def attribute_columns(self) -> int:
        """How many of the numbers of x are attributes; they come first."""
        return 0 if self.attributes is None else len(self.attributes.mean)

    def describe(self, features: PictureFeatures) -> Float64Array:
        """Return x of pictures, (N, F); mean 0 and a total variance of 1 over the training pictures.

        Raises:
            ModelFormatError: There are other attributes than in training.
        """
        blocks = []
        if self.attributes is not None:
            if features.attributes.shape[1] != len(self.attributes.mean):
                raise ModelFormatError(
                    f"FPMF was fitted to {len(self.attributes.mean)} attributes and is given "
                    f"{features.attributes.shape[1]}; take both from one source"
                )
            attributes = self.attributes.apply(features.attributes)
            blocks.append(attributes / np.sqrt(attributes.shape[1]))
        if self.content is not None:
            blocks.append(self.content.apply(features.content))
        return np.asarray(np.concatenate(blocks, axis=1) / np.sqrt(len(blocks)), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """All that least squares needs of the ratings of U users; a picture is (1, x), 1 + F numbers.

    Attributes:
        mean: mu, the mean rating on [0, 1]; it is taken off all ratings here.
        grams: (U, 1 + F, 1 + F) sums over a user's pictures of their products.
        products: (U, 1 + F) sums of pictures times ratings.
        squares: (U,) sums of squared ratings.
    """

    mean: float
    grams: Float64Array
    products: Float64Array
    squares: Float64Array

    @classmethod
    def collect(cls, table: RatingTable, scale: RatingScale, described: Float64Array) -> Self:
        """Sum up the ratings of a table, whose pictures are described by (N, F)."""
        mean = float(scale.to_unit(table.ratings).mean())
        pictures = np.column_stack([np.ones(len(described)), described])
        size = pictures.shape[1]
        grams, products = np.empty((len(table.users), size, size)), np.empty((len(table.users), size))
        squares = np.empty(len(table.users))
        for user, (_, images, ratings) in enumerate(table.by_user()):
            rated, values = pictures[images], scale.to_unit(ratings) - mean
            grams[user], products[user], squares[user] = rated.T @ rated, values @ rated, values @ values
        return cls(mean, grams, products, squares)

    def squared_error(self, weights: Float64Array) -> float:
        """Return the sum of squared errors of linear scores, weights (U, 1 + F) for each user."""
        fitted = np.einsum("uf,ufg,ug->", weights, self.grams, weights, optimize=True)
        return float(self.squares.sum() - 2 * np.sum(weights * self.products) + fitted)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Users and item side while they are learned.

    Attributes:
        users: (U, 1 + d) the vectors (b_u, p_u).
        user_mean: (1 + d,) what they are drawn towards.
        item_bias: (F,) a.
        item_map: (d, F) W.
        strength: Penalty on p_u and on W.
        bias_penalty: (F,) on a.
    """

    users: Float64Array
    user_mean: Float64Array
    item_bias: Float64Array
    item_map: Float64Array
    strength: float
    bias_penalty: Float64Array

    @classmethod
    def start(
        cls,
        moments: Moments,
        item_bias: Float64Array,
        dimensions: int,
        strength: float,
        bias_penalty: Float64Array,
    ) -> Self:
        """Begin with the main directions of the users' own ridge regressions.

        Args:
            moments: Of the ratings.
            item_bias: (F,).
            dimensions: d; no more than there are users or features.
            strength: Penalty on users' vectors and on W.
            bias_penalty: (F,) on the bias of pictures.
        """
        residual = moments.products - moments.grams[:, :, 1:] @ item_bias
        penalty = np.diag(np.r_[_OFFSET_STRENGTH, np.full(len(item_bias), strength)])
        own = np.linalg.solve(moments.grams + penalty, residual[:, :, None])[:, 1:, 0]
        _, sizes, directions = np.linalg.svd(own - own.mean(axis=0), full_matrices=False)
        item_map = np.sqrt(sizes[:dimensions, None]) * directions[:dimensions]
        count = 1 + len(item_map)
        return cls(np.zeros((len(own), count)), np.zeros(count), item_bias, item_map, strength, bias_penalty)

    def sweep(self, moments: Moments) -> Self:
        """Go once through all steps; :meth:`objective` never rises."""
        factors = self.with_users(moments)
        return factors.with_items(moments)

    def objective(self, moments: Moments) -> float:
        """Return the squared errors of all ratings and what users and item side pay for their size."""
        weights = self.users[:, 1:] @ self.item_map + self.item_bias
        error = moments.squared_error(np.column_stack([self.users[:, 0], weights]))
        deviations = ((self.users - self.user_mean) ** 2).sum(axis=0) @ self._user_penalty()
        items = self.strength * np.sum(self.item_map**2) + float(self.bias_penalty @ self.item_bias**2)
        return float(error + deviations + items)

    def normal_equations(self, moments: Moments) -> tuple[Float64Array, Float64Array]:
        """Return the matrices (U, 1 + d, 1 + d) and right sides (U, 1 + d) of users' vectors, no penalty."""
        mapped = np.zeros((1 + len(self.item_map), 1 + self.item_map.shape[1]))
        mapped[0, 0], mapped[1:, 1:] = 1.0, self.item_map
        residual = moments.products - moments.grams[:, :, 1:] @ self.item_bias
        return mapped @ moments.grams @ mapped.T, residual @ mapped.T

    def with_users(self, moments: Moments) -> Self:
        """Solve for all users' vectors, then for their mean."""
        matrices, right = self.normal_equations(moments)
        penalty = self._user_penalty()
        right = right + penalty * self.user_mean
        found = np.linalg.solve(matrices + np.diag(penalty), right[:, :, None])
        users = np.asarray(found[:, :, 0], dtype=np.float64)
        return type(self)(
            users, users.mean(axis=0), self.item_bias, self.item_map, self.strength, self.bias_penalty
        )

    def with_items(self, moments: Moments) -> Self:
        """Solve for a and W at once: (1 + d) F unknowns."""
        count, size = self.users.shape[1], len(self.item_bias)
        unknowns = count * size
        roles = np.column_stack([np.ones(len(self.users)), self.users[:, 1:]])
        outer = (roles[:, :, None] * roles[:, None, :]).reshape(len(roles), -1)
        grams = np.ascontiguousarray(moments.grams[:, 1:, 1:]).reshape(len(roles), -1)
        blocks = (outer.T @ grams).reshape(count, count, size, size)
        matrix = blocks.transpose(0, 2, 1, 3).reshape(unknowns, unknowns)
        penalty = np.concatenate([self.bias_penalty, np.full(unknowns - size, self.strength)])
        matrix[np.diag_indices_from(matrix)] += penalty
        residual = moments.products[:, 1:] - moments.grams[:, 1:, 0] * self.users[:, :1]
        found = cho_solve(cho_factor(matrix), (roles.T @ residual).ravel()).reshape(count, size)
        return type(self)(self.users, self.user_mean, found[0], found[1:], self.strength, self.bias_penalty)

    def noise(self, moments: Moments) -> float:
        """Return the variance of a rating about its user's score; a user's own numbers are counted off."""
        matrices, _ = self.normal_equations(moments)
        hats = np.linalg.solve(matrices + np.diag(self._user_penalty()), matrices)
        used = float(np.trace(hats, axis1=1, axis2=2).sum())
        ratings = float(moments.grams[:, 0, 0].sum())
        weights = self.users[:, 1:] @ self.item_map + self.item_bias
        error = moments.squared_error(np.column_stack([self.users[:, 0], weights]))
        return max(error / max(ratings - used, 1.0), _SMALLEST_NOISE)

    def _user_penalty(self) -> Float64Array:
        return np.concatenate([[_OFFSET_STRENGTH], np.full(len(self.item_map), self.strength)])


@dataclass(frozen=True, slots=True, eq=False)
class FittedFpmf:
    """FPMF after its training users.

    Attributes:
        inputs: What x is.
        mean: mu with the users' mean offset, [0, 1].
        weights: (F,) of the mean user: a and the mean of p_u through W.
        loadings: (1 + d, 1 + d) a square root of the covariance of (b_u, p_u).
        item_map: (d, F) W.
        noise: Variance of a rating about its score.
        strength: Weight of the prior.
    """

    inputs: InputFeatures
    mean: float
    weights: Float64Array
    loadings: Float64Array
    item_map: Float64Array
    noise: float
    strength: float

    @classmethod
    def summarize(cls, inputs: InputFeatures, moments: Moments, factors: Factors, strength: float) -> Self:
        """Make the prior of a new user from training users."""
        away = factors.users - factors.user_mean
        variances, directions = np.linalg.eigh(away.T @ away / len(away))
        return cls(
            inputs=inputs,
            mean=moments.mean + float(factors.user_mean[0]),
            weights=factors.item_bias + factors.user_mean[1:] @ factors.item_map,
            loadings=directions * np.sqrt(np.maximum(variances, 0.0)),
            item_map=factors.item_map,
            noise=factors.noise(moments),
            strength=strength,
        )

    def personalizer(self, name: str, features: PictureFeatures) -> FpmfPersonalizer:
        """Make what evaluation needs, for the pictures of another table.

        Args:
            name: What tables call it.
            features: Of the N pictures of the table that is judged.
        """
        described = self.inputs.describe(features)
        vectors = np.column_stack([np.ones(len(described)), described @ self.item_map.T])
        return FpmfPersonalizer(
            name, self.mean + described @ self.weights, vectors @ self.loadings, self.noise, self.strength
        )


@dataclass(frozen=True, slots=True, eq=False)
class FpmfPersonalizer:
    """FPMF on the pictures of one table.

    Attributes:
        name: What tables call it.
        scores: (N,) of the mean user, about [0, 1].
        vectors: (N, 1 + d) of pictures, in units in which a user's deviation has variance 1 in each.
        noise: Variance of a rating about its score.
        strength: Weight of the prior.
    """

    name: str
    scores: Float64Array
    vectors: Float64Array
    noise: float
    strength: float

    def generic(self, images: IntArray) -> FloatArray:
        """Score pictures (N,) for the mean user, (N,)."""
        return self.scores[images]

    def personalize(self, support: Support) -> FpmfPredictor:
        """Find the person's vector by ridge regression.

        Raises:
            SupportSetError: Fewer than two ratings, or all equal.
        """
        support.check_difference()
        vectors = self.vectors[support.images]
        matrix = vectors.T @ vectors
        matrix[np.diag_indices_from(matrix)] += self.strength * self.noise
        inverse = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        residual = support.ratings - self.scores[support.images]
        deviation = np.asarray(inverse @ (vectors.T @ residual), dtype=np.float64)
        return FpmfPredictor(self, deviation, inverse)


@dataclass(frozen=True, slots=True, eq=False)
class FpmfPredictor:
    """One person's scores.

    Attributes:
        method: What is the same for all.
        deviation: (1 + d,) of the person from the mean user.
        inverse: (1 + d, 1 + d) its covariance divided by the noise.
    """

    method: FpmfPersonalizer
    deviation: Float64Array
    inverse: Float64Array

    def predict(self, images: IntArray) -> tuple[FloatArray, FloatArray]:
        """Score pictures (Q,): scores and the standard deviations of ratings about them, (Q,) each."""
        vectors = self.method.vectors[images]
        spread = 1 + np.einsum("qd,de,qe->q", vectors, self.inverse, vectors, optimize=True)
        scores = self.method.scores[images] + vectors @ self.deviation
        return scores, np.sqrt(self.method.noise * spread)
