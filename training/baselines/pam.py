"""PAM (Ren et al., ICCV 2017): a person's rating is the generic score and a residual that an SVR learns.

Known: the residual of picture j is r_j = y_j - generic(x_j) over the M support pictures; a regressor learns
it, and a picture scores generic(x) + r(x). The three rows of the table differ in what the regressor reads:
aesthetic attributes, content, or both. Not visible to us in the original, and so choices of our own, in line
with what others report of it: the regressor is an SVR with an RBF kernel, and content is a vector of ten
numbers, the softmax of a classifier that was taught the classes of k-means.

- The generic score is a ridge regression on content, the same one that USAR has.
- Content: the embeddings of the training pictures are standardized and reduced to principal components,
  which k-means divides into ten classes. A multinomial logistic regression of these classes gives every
  picture its ten memberships, which sum to 1. It is held back so far (:data:`_SOFTNESS`) that memberships
  are soft: a hard class would make all pictures of a class one point to the kernel.
- Attributes and memberships are standardized over the training pictures; then each of the two blocks is
  divided by the square root of its numbers, and both together by the square root of two. So in every row a
  training picture has a mean squared length of 1, both blocks count alike, and one scale of the kernel
  exp(-scale d^2) means the same in every row.
- The SVR keeps its own offset: a person who rates everything lower is no matter of the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVR

from piaa_sdk.errors import ModelFormatError
from training.baselines.base import combinations
from training.baselines.features import Standardizer, check_inputs
from training.baselines.generic_score import GenericScore

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

_SOFTNESS = 0.01
"""Inverse strength of the logistic regression: see the module's docstring."""

_RESTARTS = 4


@dataclass(frozen=True, slots=True)
class PamConfig:
    """The settings of PAM; a tuple offers values to choose among on validation users.

    Attributes:
        inputs: ``attribute``, ``content`` or ``both``: what the residual is learned from.
        costs: C of the SVR, for residuals on the [0, 1] scale of ratings.
        scales: Of the kernel exp(-scale d^2), d^2 between pictures of a mean squared length of 1.
        tubes: epsilon of the SVR: residuals that far off cost nothing.
        clusters: Classes of k-means, and numbers of a content vector.
        components: Principal components of the embedding that k-means sees.
    """

    inputs: str
    costs: tuple[float, ...] = (0.1, 0.3, 1.0)
    scales: tuple[float, ...] = (0.03, 0.1, 0.3)
    tubes: tuple[float, ...] = (0.1,)
    clusters: int = 10
    components: int = 64

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be fitted with.

        Raises:
            ModelFormatError: One is out of its range.
        """
        check_inputs(self.inputs)
        for name in ("costs", "scales", "tubes"):
            values = getattr(self, name)
            least = min(values, default=-1.0)
            if least < 0 or (least == 0 and name != "tubes"):
                raise ModelFormatError(
                    f"{name} of PAM is {values}, must be at least one number, each above 0"
                    f"{' or 0' if name == 'tubes' else ''}"
                )
        if self.clusters < 2 or self.components < 1:
            raise ModelFormatError(
                f"PAM has {self.clusters} clusters in {self.components} components, must have at least 2 in 1"
            )

    def candidates(self) -> list[Mapping[str, Any]]:
        """Return every combination of cost, scale and tube."""
        return combinations(cost=self.costs, scale=self.scales, tube=self.tubes)

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> FittedPam:
        """Learn the generic score and the classes of content from training users.

        Args:
            table: Training users and their pictures.
            scale: Units of the ratings.
            features: Of the N pictures of the table.
            chosen: One of :meth:`candidates`.
            seed: Of k-means.

        Raises:
            ModelFormatError: There are fewer pictures than classes.
        """
        generic = GenericScore.fit(features.content, scale.to_unit(table.mean_ratings()))
        content = attributes = None
        if self.inputs != "attribute":
            content = ContentClasses.fit(features.content, self.clusters, self.components, seed=seed)
        if self.inputs != "content":
            attributes = Standardizer.fit(features.attributes)
        memberships = None if content is None else Standardizer.fit(content.memberships(features.content))
        return FittedPam(generic, content, memberships, attributes, Regression(**chosen))


@dataclass(frozen=True, slots=True)
class Regression:
    """How the residual is learned.

    Attributes:
        cost: C of the SVR.
        scale: Of the kernel exp(-scale d^2).
        tube: epsilon of the SVR.
    """

    cost: float
    scale: float
    tube: float


@dataclass(frozen=True, slots=True, eq=False)
class ContentClasses:
    """What a picture shows, as soft memberships in classes of training pictures.

    Attributes:
        standardizer: Of the embedding.
        axes: (D, P) from the standardized embedding to its principal components.
        mean: (P,) of the components, for the classifier.
        weights: (P, G) of the classifier for G classes.
        offsets: (G,).
    """

    standardizer: Standardizer
    axes: Float64Array
    mean: Float64Array
    weights: Float64Array
    offsets: Float64Array

    @classmethod
    def fit(cls, content: FloatArray, clusters: int, components: int, *, seed: int) -> Self:
        """Divide pictures into classes, and teach a classifier these.

        Args:
            content: (N, D) embeddings.
            clusters: G.
            components: P at most; no more than there are pictures or numbers.
            seed: Of k-means.

        Raises:
            ModelFormatError: There are fewer than G different pictures.
        """
        standardizer = Standardizer.fit(content)
        standardized = standardizer.apply(content)
        different = len(np.unique(standardized, axis=0))
        if different < clusters:
            raise ModelFormatError(
                f"{different} different pictures cannot be divided into {clusters} classes of content; "
                "train on more pictures or set fewer clusters"
            )
        found = PCA(min(components, *standardized.shape), svd_solver="full").fit(standardized)
        # A mean squared entry of 1, whatever D is: what the strength of the regression refers to.
        axes = found.components_.T / np.sqrt(found.explained_variance_.mean())
        reduced = standardized @ axes
        mean = reduced.mean(axis=0)
        classes = KMeans(clusters, n_init=_RESTARTS, random_state=seed).fit(reduced).labels_
        classifier = LogisticRegression(C=_SOFTNESS, max_iter=1000).fit(reduced - mean, classes)
        weights, offsets = classifier.coef_.T, classifier.intercept_
        if clusters == 2:  # the library then stores the second class against the first
            weights, offsets = weights * [[-0.5, 0.5]], offsets * [-0.5, 0.5]
        return cls(standardizer, axes, mean, weights, offsets)

    def memberships(self, content: FloatArray) -> Float64Array:
        """Return how far embeddings (N, D) belong to each class, (N, G); rows sum to 1."""
        reduced = self.standardizer.apply(content) @ self.axes - self.mean
        logits = reduced @ self.weights + self.offsets
        return np.asarray(softmax(logits, axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class FittedPam:
    """PAM after its training users.

    Attributes:
        generic: What most people like.
        content: Classes of content; None where only attributes are read.
        memberships: Standardizes memberships; None with ``content``.
        attributes: Standardizes attributes; None where only content is read.
        regression: How a person's residual is learned.
    """

    generic: GenericScore
    content: ContentClasses | None
    memberships: Standardizer | None
    attributes: Standardizer | None
    regression: Regression

    def describe(self, features: PictureFeatures) -> Float64Array:
        """Return what the residual is learned from, (N, F), at a mean squared length of 1 in training.

        Raises:
            ModelFormatError: There are other attributes than in training.
        """
        blocks = []
        if self.attributes is not None:
            if features.attributes.shape[1] != len(self.attributes.mean):
                raise ModelFormatError(
                    f"PAM was fitted to {len(self.attributes.mean)} attributes and is given "
                    f"{features.attributes.shape[1]}; take both from one source"
                )
            blocks.append(self.attributes.apply(features.attributes))
        if self.content is not None and self.memberships is not None:
            blocks.append(self.memberships.apply(self.content.memberships(features.content)))
        joined = np.concatenate([block / np.sqrt(block.shape[1]) for block in blocks], axis=1)
        return np.asarray(joined / np.sqrt(len(blocks)), dtype=np.float64)

    def personalizer(self, name: str, features: PictureFeatures) -> PamPersonalizer:
        """Make what evaluation needs, for the pictures of another table.

        Args:
            name: What tables call it.
            features: Of the N pictures of the table that is judged.
        """
        return PamPersonalizer(
            name, self.generic.score(features.content), self.describe(features), self.regression
        )


@dataclass(frozen=True, slots=True, eq=False)
class PamPersonalizer:
    """PAM on the pictures of one table.

    Attributes:
        name: What tables call it.
        scores: (N,) generic scores, about [0, 1].
        descriptors: (N, F) what the residual is learned from.
        regression: How.
    """

    name: str
    scores: Float64Array
    descriptors: Float64Array
    regression: Regression

    def generic(self, images: IntArray) -> FloatArray:
        """Score pictures (N,) for nobody, (N,)."""
        return self.scores[images]

    def personalize(self, support: Support) -> _PamPredictor:
        """Learn the person's residual.

        Raises:
            SupportSetError: Fewer than two ratings, or all equal.
        """
        support.check_difference()
        how = self.regression
        regressor = SVR(kernel="rbf", C=how.cost, gamma=how.scale, epsilon=how.tube)
        regressor.fit(self.descriptors[support.images], support.ratings - self.scores[support.images])
        return _PamPredictor(self, regressor)


@dataclass(frozen=True, slots=True, eq=False)
class _PamPredictor:
    method: PamPersonalizer
    regressor: SVR

    def predict(self, images: IntArray) -> tuple[FloatArray, FloatArray | None]:
        residual = self.regressor.predict(self.method.descriptors[images])
        return self.method.scores[images] + residual, None
