"""Configurations: TOML files, read into frozen records that refuse what they do not know."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_FOLDER = Path(__file__).parent / "configs"

_Section = TypeVar("_Section", bound="EmbeddingConfig | GenericConfig | AdaptationConfig")


@dataclass(frozen=True, slots=True)
class EmbeddingConfig:
    """From statistics (N, F) to embeddings (N, D), D = principal + random directions.

    Attributes:
        readouts: What the network reads out.
        readout_weights: Weight of a readout in squared distances; 1 if not named.
        principal_directions: Kept of the training pictures and their views.
        random_directions: Added from what those leave over.
        views: Altered views per picture.
        seed: Of views and random directions.
    """

    readouts: tuple[str, ...]
    readout_weights: Mapping[str, float]
    principal_directions: int
    random_directions: int
    views: int
    seed: int


@dataclass(frozen=True, slots=True)
class GenericConfig:
    """The generic head.

    Attributes:
        metric_power: Power of a direction's variance that it counts by.
        centers: J.
        arc_bias: Bias of the arc-cosine kernel.
        strengths: Ridge strengths that cross-validation chooses from.
        folds: Of the cross-validation over pictures.
    """

    metric_power: float
    centers: int
    arc_bias: float
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
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelFormatError(f"{path}: not a configuration ({error})") from error
        sections = {"preprocessing", "embedding", "generic", "adaptation"}
        if data.keys() != sections:
            raise ModelFormatError(f"{path}: has the sections {sorted(data)}, must have {sorted(sections)}")
        return cls(
            preprocessing=_preprocessing(data["preprocessing"], path),
            embedding=_section(EmbeddingConfig, data["embedding"], path),
            generic=_section(GenericConfig, data["generic"], path),
            adaptation=_section(AdaptationConfig, data["adaptation"], path),
            source=data,
        )


def _preprocessing(values: Mapping[str, Any], path: Path) -> Preprocessing:
    _check_names({part.name for part in fields(Preprocessing)} - {"decoding_rule"}, values, path)
    try:
        return Preprocessing.from_json({**values, "format_version": 1, "decoding_rule": DECODING_RULE})
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from error


def _section(kind: type[_Section], values: Mapping[str, Any], path: Path) -> _Section:
    _check_names({part.name for part in fields(kind)}, values, path)
    return kind(**{name: _frozen(value) for name, value in values.items()})


def _check_names(wanted: set[str], values: Mapping[str, Any], path: Path) -> None:
    if odd := sorted(wanted ^ values.keys()):
        raise ModelFormatError(f"{path}: settings missing or not known: {', '.join(odd)}")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
