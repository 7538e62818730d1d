"""The prior of the embedded model: a projection, a generic head and kernels, fitted without gradients.

1. Statistics of the training pictures and of altered views of them give the directions that pictures vary in;
   random directions are added for what those leave over (Johnson and Lindenstrauss 1984).
2. The generic head regresses the mean ratings of the pictures (GIAA) on an arc-cosine kernel, a hidden layer
   of infinitely many ReLU units (Cho and Saul 2009), read at cluster centres of the views (the subset of
   regressors of Quinonero-Candela and Rasmussen 2005), so that no training picture's own vector is kept.
3. The kernels and the grid of adaptation read the same embedding; their constants come from the
   configuration.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import eigh

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.head import AdaptationGrid, Prior, arc_cosine_kernel
from training.data.images import collect_statistics, keep_statistics, settings_digest
from training.embedding_network import EmbeddingNetwork, StatisticsNetwork
from training.views import VIEW_RULE, altered_view, full_pixels, view_rng

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.kernel_config import AdaptationConfig, GenericConfig, KernelPriorConfig

    Float64Array = npt.NDArray[np.float64]

_LLOYD_STEPS = 20
_SMALLEST_STD = 0.05  # of the median over the statistics

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class KernelPriorFit:
    """A fitted prior and what it was fitted on.

    Attributes:
        network: From pixels to the embedding.
        prior: What adaptation starts from.
        strength: Ridge strength of the generic head that cross-validation chose.
        generic_error: Its cross-validated mean squared error, [0, 1] units squared.
    """

    network: EmbeddingNetwork
    prior: Prior
    strength: float
    generic_error: float


def fit(
    table: RatingTable,
    scale: RatingScale,
    config: KernelPriorConfig,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KernelPriorFit:
    """Fit the prior to a table of ratings.

    Args:
        table: Who rated what.
        scale: Units of the ratings.
        config: All constants.
        cache: Folder that keeps the statistics of pictures and views.
        progress: Called with the pictures done and to do, for each pass over pictures.
    """
    backbone = StatisticsNetwork.pretrained(config.embedding.readouts)
    pictures = collect_statistics(
        table.paths(), backbone, config.preprocessing, cache=cache, progress=progress
    )
    views = view_statistics(table, backbone, config, cache=cache, progress=progress)
    network = fit_embedding(backbone, pictures, views, config)
    means = scale.to_unit(table.mean_ratings())
    prior, generic = fit_prior(embed(network, pictures), embed(network, views), means, config)
    _LOG.info("generic head: ridge %g, cross-validated error %.4f", generic.strength, generic.error)
    return KernelPriorFit(network, prior, generic.strength, generic.error)


def fit_prior(
    pictures: Float64Array, views: Float64Array, means: FloatArray, config: KernelPriorConfig
) -> tuple[Prior, GenericFit]:
    """Fit all that reads the embedding.

    Args:
        pictures: (N, D) embeddings of the training pictures.
        views: (V, D) embeddings of their views.
        means: (N,) mean ratings, [0, 1].
        config: All constants.
    """
    metric = fit_metric(pictures, views, config)
    generic = fit_generic(pictures * metric, views * metric, means, config.generic, config.embedding.seed)
    linear_scale = 1 / float(np.mean(np.sum(pictures**2, axis=1)))
    return _prior(metric, linear_scale, generic, config.adaptation), generic


def view_statistics(
    table: RatingTable,
    backbone: StatisticsNetwork,
    config: KernelPriorConfig,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FloatArray:
    """Measure the statistics of altered views, (N x views, F), views of one picture together."""
    count, seed = config.embedding.views, config.embedding.seed
    digests = table.picture_digests()
    paths = table.paths()

    def load(position: int) -> npt.NDArray[np.uint8]:
        picture, view = divmod(position, count)
        rng = view_rng(seed, digests[picture], view)
        return altered_view(full_pixels(paths[picture]), config.preprocessing.size, rng)

    keys = [
        f"{digest[:48]}{seed:08x}{VIEW_RULE:04x}{view:04x}" for digest in digests for view in range(count)
    ]
    folder = None if cache is None else cache / "views" / settings_digest(backbone, config.preprocessing)
    return keep_statistics(keys, load, backbone, folder=folder, progress=progress)


def fit_embedding(
    backbone: StatisticsNetwork, pictures: FloatArray, views: FloatArray, config: KernelPriorConfig
) -> EmbeddingNetwork:
    """Find the directions of the embedding.

    Args:
        backbone: What measured the statistics.
        pictures: (N, F) statistics of the training pictures.
        views: (V, F) statistics of their views.
        config: How many directions.

    Raises:
        ModelFormatError: More principal directions than statistics, or none.
    """
    settings = config.embedding
    if not 1 <= settings.principal_directions <= pictures.shape[1]:
        raise ModelFormatError(
            f"principal_directions is {settings.principal_directions}, must be 1 to {pictures.shape[1]}, "
            "the number of statistics that the readouts give"
        )
    mean, std = pictures.mean(axis=0, dtype=np.float64), pictures.std(axis=0, dtype=np.float64) + 1e-6
    # A channel silent in these few pictures may speak in others: divided by almost 0, it would shout.
    std = np.maximum(std, _SMALLEST_STD * np.median(std))
    weights = np.ones(pictures.shape[1])
    for readout, weight in settings.readout_weights.items():
        weights[backbone.where(readout)] = np.sqrt(weight)
    # Pictures and views count the same in all.
    copies = np.sqrt(len(views) / len(pictures))
    rows = np.concatenate([(views - mean) / std * weights, (pictures - mean) / std * weights * copies])
    principal = _principal_directions(rows, settings.principal_directions)
    rng = np.random.default_rng(settings.seed)
    random = rng.standard_normal((len(weights), settings.random_directions)) / np.sqrt(
        max(1, settings.random_directions)
    )
    random -= principal @ (principal.T @ random)
    projection = weights[:, None] * np.concatenate([principal, random], axis=1)
    return EmbeddingNetwork.from_parts(backbone, mean, std, projection)


def embed(network: EmbeddingNetwork, statistics: FloatArray) -> Float64Array:
    """Project statistics (N, F) as the served graph does: (N, D), values that float16 can hold."""
    with torch.inference_mode():
        embeddings = network.project(torch.from_numpy(np.asarray(statistics, dtype=np.float32))).numpy()
    return embeddings.astype(np.float16).astype(np.float64)


def fit_metric(embeddings: Float64Array, views: Float64Array, config: KernelPriorConfig) -> Float64Array:
    """Weigh the axes (D,) by a power of their variance, mean squared length of the pictures 1."""
    variances = np.mean(views**2, axis=0)
    # Random directions hold what the principal ones left over: none of them is a direction of its own.
    principal = config.embedding.principal_directions
    variances[principal:] = variances[:principal].min()
    metric = (variances / variances.mean()) ** config.generic.metric_power
    scaled: Float64Array = metric / np.sqrt(np.mean(np.sum((embeddings * metric) ** 2, axis=1)))
    return scaled


@dataclass(frozen=True, slots=True, eq=False)
class GenericFit:
    """A fitted generic head: see :class:`piaa_sdk.head.Prior` for the names."""

    centers: FloatArray
    center_weights: Float64Array
    center_offset: float
    arc_bias: float
    mean: float
    std: float
    strength: float
    error: float


def fit_generic(
    pictures: Float64Array, views: Float64Array, means: FloatArray, config: GenericConfig, seed: int
) -> GenericFit:
    """Regress mean ratings on pictures.

    Args:
        pictures: (N, D) in the metric.
        views: (V, D) in the metric: where the centres come from.
        means: (N,) mean ratings, [0, 1].
        config: Constants.
        seed: Of the clustering and of the folds.
    """
    rng = np.random.default_rng(seed)
    centers = _cluster_centers(views, config.centers, rng).astype(np.float16)
    wide = centers.astype(np.float64)
    kernel = arc_cosine_kernel(pictures, wide, config.arc_bias)
    among = arc_cosine_kernel(wide, wide, config.arc_bias)
    folds = rng.permutation(len(means)) % config.folds
    errors = {}
    for strength in config.strengths:
        held_out = np.zeros(len(means))
        for fold in range(config.folds):
            rest = folds != fold
            weights, offset = _ridge(kernel[rest], among, means[rest], strength)
            held_out[~rest] = kernel[~rest] @ weights + offset
        errors[strength] = float(np.mean((held_out - means) ** 2))
    strength = min(errors, key=errors.__getitem__)
    weights, offset = _ridge(kernel, among, means, strength)
    scores = kernel @ weights
    mean, std = float(scores.mean()), float(scores.std())
    return GenericFit(
        centers=centers,
        center_weights=weights / std,
        center_offset=-mean / std,
        arc_bias=config.arc_bias,
        mean=mean + offset,
        std=std,
        strength=strength,
        error=errors[strength],
    )


def _principal_directions(rows: Float64Array, count: int) -> Float64Array:
    """Return the directions (F, count) that rows (R, F) spread most in, the largest first."""
    gram = rows.T @ rows / len(rows)
    length = len(gram)
    _, vectors = eigh(gram, subset_by_index=(length - count, length - 1))
    directions = vectors[:, ::-1]
    # Eigenvectors have no sign of their own: the largest entry is made positive.
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(count)])
    return np.asarray(directions * signs)


def _cluster_centers(rows: Float64Array, count: int, rng: np.random.Generator) -> Float64Array:
    """Find ``count`` cluster centres of rows (R, D) by Lloyd's k-means, R of them if there are no more rows.

    An empty cluster keeps its centre.
    """
    count = min(count, len(rows))
    lengths = np.sum(rows**2, axis=1)
    centers = rows[rng.permutation(len(rows))[:count]]
    for _ in range(_LLOYD_STEPS):
        distances = lengths[:, None] + np.sum(centers**2, axis=1) - 2 * rows @ centers.T
        members = np.eye(count)[distances.argmin(axis=1)]
        sizes = members.sum(axis=0)[:, None]
        centers = np.where(sizes > 0, members.T @ rows / np.maximum(sizes, 1), centers)
    return centers


def _ridge(
    kernel: Float64Array, among: Float64Array, ratings: FloatArray, strength: float
) -> tuple[Float64Array, float]:
    offset = float(ratings.mean())
    system = strength * among + kernel.T @ kernel + 1e-6 * np.eye(len(among))
    return np.asarray(np.linalg.solve(system, kernel.T @ (ratings - offset)), dtype=np.float64), offset


def _prior(
    metric: Float64Array, linear_scale: float, generic: GenericFit, settings: AdaptationConfig
) -> Prior:
    return Prior(
        metric=metric.astype(np.float32),
        linear_scale=linear_scale,
        length_scale=settings.length_scale,
        centers=generic.centers,
        center_weights=generic.center_weights,
        center_offset=generic.center_offset,
        arc_bias=generic.arc_bias,
        generic_mean=generic.mean,
        generic_std=generic.std,
        grid=AdaptationGrid(
            linear_shares=np.array(settings.linear_shares),
            slopes=np.array(settings.slopes),
            noises=np.array(settings.noises),
        ),
        slope_unit=settings.slope_unit,
        offset_mean=settings.offset_mean,
        offset_variance=settings.offset_variance,
        variance_scale=settings.variance_scale,
        variance_degrees=settings.variance_degrees,
        std_factor=settings.std_factor,
    )
