"""The prior of the embedded model: a projection, a generic head and kernels, fitted without gradients.

1. The directions of the embedding: :mod:`training.directions`.
2. The generic head regresses what most people like (GIAA), the mean rank that people gave a picture, on an
   arc-cosine kernel, a hidden layer of infinitely many ReLU units (Cho and Saul 2009), read at cluster
   centres of the views (the subset of regressors of Quinonero-Candela and Rasmussen 2005), so that no
   training picture's own vector is kept.
3. The kernels and the grid of adaptation read the same embedding; their constants come from the
   configuration.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from piaa_sdk.head import AdaptationGrid, Prior, arc_cosine_kernel
from training.backbone_weights import load_backbone_weights, pretrained_statistics_network
from training.data.images import collect_statistics, keep_statistics, settings_digest
from training.directions import embed, fit_embedding, with_taste_axes
from training.views import VIEW_RULE, altered_view, full_pixels, view_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.statistics_network import EmbeddingNetwork, StatisticsNetwork
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.kernel_config import AdaptationConfig, GenericConfig, KernelPriorConfig

    Float64Array = npt.NDArray[np.float64]

_LLOYD_STEPS = 20

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
    backbone = pretrained_statistics_network(config.embedding.readouts)
    pictures = collect_statistics(
        table.paths(), backbone, config.preprocessing, cache=cache, progress=progress
    )
    views = view_statistics(table, backbone, config, cache=cache, progress=progress)
    classifier = None
    if config.embedding.class_directions:
        classifier = load_backbone_weights(with_classifier=True)["classifier.weight"].numpy()
    network = fit_embedding(backbone, pictures, views, config.embedding, classifier)
    prior, network, generic = fit_prior(network, pictures, views, table, scale, config)
    _LOG.info("generic head: ridge %g, cross-validated error %.4f", generic.strength, generic.error)
    return KernelPriorFit(network, prior, generic.strength, generic.error)


def fit_prior(
    network: EmbeddingNetwork,
    pictures: FloatArray,
    views: FloatArray,
    table: RatingTable,
    scale: RatingScale,
    config: KernelPriorConfig,
) -> tuple[Prior, EmbeddingNetwork, GenericFit]:
    """Fit all that reads the embedding, and add the embedding's taste axes.

    Args:
        network: From pixels to the embedding, without taste axes.
        pictures: (N, F) statistics of the training pictures.
        views: (V, F) statistics of their views.
        table: Who rated which of the N pictures how.
        scale: Units of the ratings.
        config: All constants.
    """
    embeddings, seen = embed(network, pictures), embed(network, views)
    metrics = [
        fit_metric(embeddings, seen, config.embedding.principal_directions, power)
        for power in (config.generic.curved_power, config.generic.metric_power)
    ]
    targets = rank_targets(table, scale)
    generic = fit_generic(
        embeddings * metrics[1], seen * metrics[1], targets, config.generic, config.embedding.seed
    )
    people = [(images, scale.to_unit(ratings)) for _, images, ratings in table.by_user()]
    network = with_taste_axes(network, embeddings, people, generic.held_out, config.embedding)
    embeddings = embed(network, pictures)
    linear_scale = 1 / float(np.mean(np.sum(embeddings**2, axis=1)))
    prior = _prior(metrics, linear_scale, generic, config.adaptation, embeddings.shape[1])
    return prior, network, generic


def rank_targets(table: RatingTable, scale: RatingScale) -> Float64Array:
    """Return what the generic head learns of each image (N,): its mean rank, spread like the mean ratings.

    A rank is the place among the images that a person rated, ties sharing theirs: how generously a person
    spreads ratings over the scale does not count.
    """
    sums = np.zeros(len(table.images))
    for _, images, ratings in table.by_user():
        sums[images] += (rankdata(ratings) - 0.5) / len(ratings)
    ranks = sums / np.bincount(table.image_index, minlength=len(sums))
    means = scale.to_unit(table.mean_ratings())
    return np.asarray(means.mean() + (ranks - ranks.mean()) * (means.std() / max(ranks.std(), 1e-12)))


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


def fit_metric(
    embeddings: Float64Array, views: Float64Array, principal_directions: int, power: float
) -> Float64Array:
    """Weigh the axes (D,) by a power of their variance, mean squared length of the pictures 1."""
    variances = np.mean(views**2, axis=0)
    # Random directions hold what the principal ones left over: none of them is a direction of its own.
    variances[principal_directions:] = variances[:principal_directions].min()
    metric = (variances / variances.mean()) ** power
    scaled: Float64Array = metric / np.sqrt(np.mean(np.sum((embeddings * metric) ** 2, axis=1)))
    return scaled


@dataclass(frozen=True, slots=True, eq=False)
class GenericFit:
    """A fitted generic head: see :class:`piaa_sdk.head.Prior` for the names.

    ``held_out`` are standardized scores (N,) of the training pictures by heads that had not seen them.
    """

    centers: FloatArray
    center_weights: Float64Array
    center_offset: float
    arc_bias: float
    mean: float
    std: float
    strength: float
    error: float
    held_out: Float64Array


def fit_generic(
    pictures: Float64Array, views: Float64Array, means: FloatArray, config: GenericConfig, seed: int
) -> GenericFit:
    """Regress what most people like on pictures.

    Args:
        pictures: (N, D) in the metric.
        views: (V, D) in the metric, those of one picture together: where the centres come from, and pictures
            that are liked as theirs is.
        means: (N,) what to regress, [0, 1].
        config: Constants.
        seed: Of the clustering and of the folds.
    """
    rng = np.random.default_rng(seed)
    centers = _cluster_centers(views, config.centers, rng).astype(np.float16)
    wide = centers.astype(np.float64)
    kernel = arc_cosine_kernel(pictures, wide, config.arc_bias)
    among = arc_cosine_kernel(wide, wide, config.arc_bias)
    # A view is worth what its picture is: all views of one together count ``view_weight`` times as much.
    count = len(views) // len(pictures)
    rows = np.concatenate([kernel, arc_cosine_kernel(views, wide, config.arc_bias)])
    owners = np.concatenate([np.arange(len(means)), np.repeat(np.arange(len(means)), count)])
    shares = np.repeat([1.0, config.view_weight / max(1, count)], [len(kernel), len(views)])
    shares /= 1 + config.view_weight
    folds = rng.permutation(len(means)) % config.folds
    held = {}
    for strength in config.strengths:
        held_out = np.zeros(len(means))
        for fold in range(config.folds):
            rest = folds[owners] != fold
            weights, offset = _ridge(rows[rest], among, means[owners[rest]], shares[rest], strength)
            held_out[folds == fold] = kernel[folds == fold] @ weights + offset
        held[strength] = held_out
    errors = {strength: float(np.mean((scores - means) ** 2)) for strength, scores in held.items()}
    strength = min(errors, key=errors.__getitem__)
    weights, offset = _ridge(rows, among, means[owners], shares, strength)
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
        held_out=(held[strength] - held[strength].mean()) / std,
    )


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
    kernel: Float64Array, among: Float64Array, targets: FloatArray, shares: Float64Array, strength: float
) -> tuple[Float64Array, float]:
    """Regress targets (R,), each counting by its share, on a kernel (R, J) at J centres."""
    offset = float(shares @ targets / shares.sum())
    weighted = kernel * shares[:, None]
    system = strength * among + weighted.T @ kernel + 1e-6 * np.eye(len(among))
    return np.asarray(np.linalg.solve(system, weighted.T @ (targets - offset)), dtype=np.float64), offset


def _prior(
    metrics: Sequence[Float64Array],
    linear_scale: float,
    generic: GenericFit,
    settings: AdaptationConfig,
    embedding_dim: int,
) -> Prior:
    """Make the prior; its metrics and centres look away from the taste axes, which are the last ones."""
    taste_axes = embedding_dim - len(metrics[0])
    curved, general = (np.append(metric, np.zeros(taste_axes)).astype(np.float32) for metric in metrics)
    return Prior(
        curved_metric=curved,
        generic_metric=general,
        linear_scale=linear_scale,
        length_scale=settings.length_scale,
        centers=np.pad(generic.centers, ((0, 0), (0, taste_axes))),
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
