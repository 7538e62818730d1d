"""The prior of a bundle whose network was meta-learned: a straight line on the last hidden layer.

What f_theta of the paper's eq. 1 does after its last hidden layer is one linear layer, perhaps squashed. So
with the hidden units h(x) as the bundle's embedding, the generic score is exactly the network's score, and
the closed form of the SDK adapts on units that were learned for it.

The kernels of that adaptation are scaled over pictures, so that f has the variance that the constants of the
adaptation were chosen for: over the pictures, the straight kernel has a mean of 1 and so has the squared
distance in the curved one, both from the mean picture. What all pictures share in h is left out of that
measure, because after a rectifier it can be most of h, and a person's offset takes it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.bundle import MAX_EMBEDDING_DIM
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.head import AdaptationGrid, Prior
from piaa_sdk.rating_scale import RatingScale

if TYPE_CHECKING:
    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.network import AestheticHead
    from training.kernel_config import KernelPriorConfig

LEAST_PICTURES = 8
"""Fewer tell too little of how far pictures are apart."""

_LEAST_SPREAD = 1e-9
"""Of generic scores and of hidden units over pictures."""


def scale_of_scores(head: AestheticHead, target: str, scale: RatingScale) -> RatingScale:
    """Return the scale on which a network's scores are rating units.

    A squashed output that learned shares of the high end covers everything from 0 up to it, the low end of
    the ratings notwithstanding; a line fits any scale.
    """
    is_from_zero = target == "share" and head.config.output == "sigmoid"
    return RatingScale(0.0, scale.high) if is_from_zero else scale


def learned_prior(
    head: AestheticHead, units: FloatArray, target: str, scale: RatingScale, settings: KernelPriorConfig
) -> Prior:
    """Make the prior that scores hidden units as the network does.

    Args:
        head: The learned layers.
        units: (N, H) what the last hidden layer puts out for pictures like those to be scored.
        target: What ratings were learned as, see :attr:`training.tasks.TaskConfig.target`.
        scale: Of the bundle's scores, see :func:`scale_of_scores`.
        settings: Constants of the adaptation.

    Raises:
        ModelFormatError: There are too few pictures or too many hidden units, or the network scores all
            pictures alike.
    """
    units = np.asarray(units, dtype=np.float64)
    pictures, width = units.shape
    if pictures < LEAST_PICTURES:
        raise ModelFormatError(
            f"the kernels of the adaptation are measured on {pictures} pictures, {LEAST_PICTURES} are the "
            "least; give the run's pictures with --data or others with --photos"
        )
    if width > MAX_EMBEDDING_DIM:
        raise ModelFormatError(
            f"the last hidden layer has {width} units, an embedding has {MAX_EMBEDDING_DIM} at most; "
            "meta-train with a narrower one (--set network.head.hidden=[1024])"
        )
    spread = float(np.mean(np.sum((units - units.mean(axis=0)) ** 2, axis=1)))
    weights, offset = _output_line(head, target, scale)
    is_squashed = head.config.output == "sigmoid"
    scores = units @ weights + offset
    if is_squashed:
        scores = 0.5 + 0.5 * np.tanh(0.5 * scores)
    mean, std = float(scores.mean()), float(scores.std())
    if not (std > _LEAST_SPREAD and spread > _LEAST_SPREAD):
        raise ModelFormatError(
            f"the network scores all {pictures} pictures alike (standard deviation {std * scale.span:.2g} "
            "rating units); meta-train it for longer, or give other pictures"
        )
    if not is_squashed:
        weights, offset = weights / std, (offset - mean) / std
    metric = np.full(width, 1 / np.sqrt(spread), dtype=np.float32)
    return Prior(
        curved_metric=metric,
        generic_metric=metric,
        linear_scale=1 / spread,
        centers=np.zeros((0, width), dtype=np.float16),
        center_weights=np.zeros(0),
        center_offset=offset,
        arc_bias=settings.generic.arc_bias,
        generic_mean=mean,
        generic_std=std,
        **_constants(settings),
        linear_weights=weights,
        is_squashed=is_squashed,
    )


def _output_line(head: AestheticHead, target: str, scale: RatingScale) -> tuple[FloatArray, float]:
    """Return weights (H,) and offset of the output layer, [0, 1] units of the scale, before squashing."""
    weights: FloatArray = head.output.weight.detach().cpu().numpy()[0].astype(np.float64)
    offset = float(head.output.bias.detach().cpu().numpy()[0])
    if target == "share" and head.config.output != "sigmoid":  # rating = high * output
        weights *= scale.high / scale.span
        offset = (offset * scale.high - scale.low) / scale.span
    return weights, offset


def _constants(settings: KernelPriorConfig) -> dict[str, Any]:
    """Return the constants of the adaptation by the names the prior gives them."""
    own = settings.adaptation
    grid = AdaptationGrid(
        linear_shares=np.array(own.linear_shares), slopes=np.array(own.slopes), noises=np.array(own.noises)
    )
    names = """
        length_scale slope_unit offset_mean offset_variance variance_scale variance_degrees std_factor
    """
    return {"grid": grid, **{name: getattr(own, name) for name in names.split()}}
