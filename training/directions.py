"""The directions that an embedding keeps of the statistics of a picture.

1. Principal directions of the training pictures and of altered views of them. Beside the readouts themselves,
   what ImageNet's classifier tells classes by counts in them: the main directions of its weights, read from
   the last layer (an idea of a metric, not of classes: the classifier itself is not needed afterwards).
2. Random directions of what those leave over (Johnson and Lindenstrauss 1984): they keep distances between
   pictures unlike the training ones.
3. Taste axes: the linear functions of the embedding that training people's tastes differ in, once the generic
   score is taken out. They are directions of the embedding itself, added a second time so that the straight
   kernel of adaptation looks there first.

Everything is linear in the statistics, so it is folded into one projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import eigh

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from training.standard_deviation import floored_std

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.statistics_network import StatisticsNetwork
    from training.kernel_config import EmbeddingConfig

    Float64Array = npt.NDArray[np.float64]
    Person = tuple[npt.NDArray[np.intp], FloatArray]

_CLASS_LAYER = "last.mean"
_SLOPE_RIDGE = 20.0  # keeps a person with few ratings from following the generic score by accident


def fit_embedding(
    backbone: StatisticsNetwork,
    pictures: FloatArray,
    views: FloatArray,
    config: EmbeddingConfig,
    classifier: FloatArray | None = None,
) -> EmbeddingNetwork:
    """Find the principal and the random directions.

    Args:
        backbone: What measured the statistics.
        pictures: (N, F) statistics of the training pictures.
        views: (V, F) statistics of their views.
        config: How many directions, and what counts how much.
        classifier: (1000, 1280) weights of ImageNet's classifier, if class directions are wanted.

    Raises:
        ModelFormatError: More principal directions than statistics, or none; or class directions of a network
            that does not read ``last.mean`` out.
    """
    mean, std = pictures.mean(axis=0, dtype=np.float64), floored_std(pictures)
    standardized = (pictures - mean) / std
    combined = _combination(backbone, standardized, std, config, classifier)
    if not 1 <= config.principal_directions <= combined.shape[1]:
        raise ModelFormatError(
            f"principal_directions is {config.principal_directions}, must be 1 to {combined.shape[1]}, "
            "the number of statistics that count"
        )
    # Pictures and views count the same in all.
    copies = np.sqrt(len(views) / len(pictures))
    rows = np.concatenate([(views - mean) / std @ combined, standardized @ combined * copies])
    principal = _principal_directions(rows, config.principal_directions)
    rng = np.random.default_rng(config.seed)
    random = rng.standard_normal((len(principal), config.random_directions))
    random /= np.sqrt(max(1, config.random_directions))
    random -= principal @ (principal.T @ random)
    projection = combined @ np.concatenate([principal, random], axis=1)
    return EmbeddingNetwork.from_parts(backbone, mean, std, projection)


def with_taste_axes(
    network: EmbeddingNetwork,
    embeddings: Float64Array,
    people: Sequence[Person],
    generic: Float64Array,
    config: EmbeddingConfig,
) -> EmbeddingNetwork:
    """Add the axes that training people's tastes differ in.

    Each person's ratings, less what the generic score explains, become a linear function of the embedding by
    ridge regression. The axes are the directions that these functions spread most in, each as long as they
    spread.

    Args:
        network: From pixels to the embedding so far.
        embeddings: (N, D) of the training pictures.
        people: Positions of the images that each has rated, and the ratings.
        generic: (N,) generic scores of the training pictures by heads that had not seen them.
        config: How many axes.
    """
    if not config.taste_axes:
        return network
    scale = 1 / np.mean(np.sum(embeddings**2, axis=1))
    functions = np.stack(
        [
            _residual_function(embeddings[images], ratings, generic[images], scale, config.taste_noise)
            for images, ratings in people
        ]
    )
    _, spreads, directions = np.linalg.svd(functions, full_matrices=False)
    axes = (directions[: config.taste_axes] * spreads[: config.taste_axes, None]).T
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    axes = axes * np.where(signs == 0, 1, signs)
    lengths = np.mean(np.sum((embeddings @ axes) ** 2, axis=1)) * scale
    axes *= np.sqrt(config.taste_share / (1 - config.taste_share) / max(lengths, 1e-12))
    projection = network.projection.double().numpy()
    return EmbeddingNetwork.from_parts(
        network,
        network.statistics.mean.numpy(),
        network.statistics.std.numpy(),
        np.concatenate([projection, projection @ axes], axis=1),
    )


def embed(network: EmbeddingNetwork, statistics: FloatArray) -> Float64Array:
    """Project statistics (N, F) as the served graph does: (N, D), values that float16 can hold."""
    with torch.inference_mode():
        embeddings = network.project(torch.from_numpy(np.asarray(statistics, dtype=np.float32))).numpy()
    return embeddings.astype(np.float16).astype(np.float64)


def _residual_function(
    embeddings: Float64Array, ratings: FloatArray, generic: Float64Array, scale: float, noise: float
) -> Float64Array:
    """Return the weights (D,) of one person's taste beyond the generic score."""
    generic = generic - generic.mean()
    rest = ratings - ratings.mean()
    rest = rest - (rest @ generic) / (generic @ generic + _SLOPE_RIDGE) * generic
    covariance = embeddings @ embeddings.T * scale + noise * np.eye(len(rest))
    weights: Float64Array = embeddings.T @ np.linalg.solve(covariance, rest) * scale
    return weights


def _combination(
    backbone: StatisticsNetwork,
    pictures: Float64Array,
    std: Float64Array,
    config: EmbeddingConfig,
    classifier: FloatArray | None,
) -> Float64Array:
    """Return what makes the numbers that count (F, C) of standardized statistics."""
    weights = np.ones(pictures.shape[1])
    for readout, weight in config.readout_weights.items():
        weights[backbone.where(readout)] = np.sqrt(weight)
    direct = np.diag(weights)[:, weights > 0]
    if not config.class_directions:
        return direct
    if _CLASS_LAYER not in backbone.readouts or classifier is None:
        raise ModelFormatError(
            f"class directions need the readout {_CLASS_LAYER} and the classifier's weights"
        )
    part = backbone.where(_CLASS_LAYER)
    directions = std[part, None] * _class_directions(classifier, config.class_directions)
    found = pictures[:, part] @ directions
    directions /= np.sqrt(floored_std(found))  # half way to counting all the same
    found = pictures[:, part] @ directions
    classes = np.zeros((len(weights), config.class_directions))
    classes[part] = directions * np.sqrt(config.class_weight / np.mean(found**2))
    return np.concatenate([direct, classes], axis=1)


def _class_directions(classifier: FloatArray, count: int) -> Float64Array:
    """Return the main directions (1280, count) of a classifier's weights, by the root of what they tell."""
    wide = np.asarray(classifier, dtype=np.float64)
    _, singular, directions = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    return np.asarray(directions[:count].T * np.sqrt(singular[:count] / singular[0]))


def _principal_directions(rows: Float64Array, count: int) -> Float64Array:
    """Return the directions (F, count) that rows (R, F) spread most in, the largest first."""
    gram = rows.T @ rows / len(rows)
    length = len(gram)
    _, vectors = eigh(gram, subset_by_index=(length - count, length - 1))
    directions = vectors[:, ::-1]
    # Eigenvectors have no sign of their own: the largest entry is made positive.
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(count)])
    return np.asarray(directions * signs)
