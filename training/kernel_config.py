"""The configuration of the embedded model's prior."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  read at run time by build()
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.errors import ModelFormatError
from training.config import CONFIG_FOLDER, build, check_names, read_toml

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class EmbeddingConfig:
    """From statistics (N, F) to embeddings (N, D), D = principal + random directions + taste axes.

    Attributes:
        readouts: What the network reads out.
        readout_weights: Weight of a readout in squared distances; 1 if not named.
        class_directions: Directions of ``last.mean`` that ImageNet's classifier tells classes by, which count
            beside the readouts.
        class_weight: Their weight in squared distances, all together against one readout's number.
        principal_directions: Kept of the training pictures and their views.
        random_directions: Added from what those leave over.
        taste_axes: Added for what training people's tastes differ in beyond the generic score.
        taste_noise: Rating noise of the functions they come from, in units of the straight kernel.
        taste_share: Their share of the straight kernel.
        views: Altered views per picture.
        seed: Of views and random directions.
    """

    readouts: tuple[str, ...]
    readout_weights: Mapping[str, float]
    class_directions: int
    class_weight: float
    principal_directions: int
    random_directions: int
    taste_axes: int
    taste_noise: float
    taste_share: float
    views: int
    seed: int


@dataclass(frozen=True, slots=True)
class GenericConfig:
    """The generic head.

    Attributes:
        metric_power: Power of a direction's variance that it counts by in the generic head.
        curved_power: The same in the curved kernel of adaptation.
        centers: J.
        arc_bias: Bias of the arc-cosine kernel.
        view_weight: Weight of all views of a picture together, against 1 of the picture.
        strengths: Ridge strengths that cross-validation chooses from.
        folds: Of the cross-validation over pictures.
    """

    metric_power: float
    curved_power: float
    centers: int
    arc_bias: float
    view_weight: float
    strengths: tuple[float, ...]
    folds: int


@dataclass(frozen=True, slots=True)
class AdaptationConfig:
    """What goes into the prior as it stands; see :class:`piaa_sdk.head.Prior`."""

    linear_shares: tuple[float, ...]
    length_scale: float
    slopes: tuple[tuple[float, float], ...]
    noises: tuple[float, ...]
    slope_unit: float
    offset_mean: float
    offset_variance: float
    variance_scale: float
    variance_degrees: float
    std_factor: float


@dataclass(frozen=True, slots=True)
class KernelPriorConfig:
    """All that the closed-form prior is made by.

    Attributes:
        preprocessing: From files to pixels.
        embedding: From pixels to embeddings.
        generic: From embeddings to the generic score.
        adaptation: What a person's ratings choose from.
        source: The file's content, to be kept with the result.
    """

    preprocessing: Preprocessing
    embedding: EmbeddingConfig
    generic: GenericConfig
    adaptation: AdaptationConfig
    source: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path | None = None) -> KernelPriorConfig:
        """Read a TOML file; None reads the configuration of the embedded model.

        Raises:
            ModelFormatError: The file cannot be read, lacks a setting or has one too many.
        """
        path = path or CONFIG_FOLDER / "kernel_prior.toml"
        data = read_toml(path)
        check_names({"preprocessing", "embedding", "generic", "adaptation"}, data, f"{path}: sections")
        return cls(
            preprocessing=_preprocessing(data["preprocessing"], path),
            embedding=build(EmbeddingConfig, data["embedding"], f"{path}: embedding", complete=True),
            generic=build(GenericConfig, data["generic"], f"{path}: generic", complete=True),
            adaptation=build(AdaptationConfig, data["adaptation"], f"{path}: adaptation", complete=True),
            source=data,
        )


def _preprocessing(values: Mapping[str, Any], path: Path) -> Preprocessing:
    names = {part.name for part in fields(Preprocessing)} - {"decoding_rule"}
    check_names(names, values, f"{path}: preprocessing")
    try:
        return Preprocessing.from_json({**values, "format_version": 1, "decoding_rule": DECODING_RULE})
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from error
