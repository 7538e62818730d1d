"""From embeddings to scores: the generic head, the kernels of the prior and one person's head.

A person's rating of picture x, mapped to [0, 1] by the person's scale, is modelled as

    r(x) = m + s b p(x) + f(x) + e

with p(x) the standardized score of the generic head, b how far the person follows it, f a Gaussian process
over embeddings (a straight part and a curved part) and e rating noise. Everything the many taught stands in
:class:`Prior`; everything one person taught stands in :class:`PersonalHead`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import safetensors
import safetensors.numpy

from piaa_sdk.errors import ModelFormatError, ProfileFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

    Float64Array = npt.NDArray[np.float64]

_LARGEST_WEIGHT = 1e9  # of a stored head; ratings on [0, 1] give weights and variances far below
_BLOCK = 64
"""Pictures scored at once. A last block is filled up, because a matrix product of another shape may differ in
its last bit: so a picture's score does not depend on the company it is scored in."""


@dataclass(frozen=True, slots=True, eq=False)
class AdaptationGrid:
    """What a person's own ratings choose from, each combination weighted by its evidence.

    Attributes:
        linear_shares: (A,) share of the straight kernel in the process f, the rest is the curved one.
        slopes: (B, 2) of b, how far the person follows the generic score: its mean, and the variance of s b
            in units of the variance of f.
        noises: (C,) variance of the rating noise e, in units of the variance of f.
    """

    linear_shares: FloatArray
    slopes: FloatArray
    noises: FloatArray

    def __post_init__(self) -> None:
        shapes = self.linear_shares.shape, self.slopes.shape, self.noises.shape
        if [len(shape) for shape in shapes] != [1, 2, 1] or 0 in sum(shapes, ()) or shapes[1][1] != 2:
            raise ModelFormatError(
                "the grid of the prior must hold linear_shares (A,), slopes (B, 2), noises (C,), "
                f"not {', '.join(map(str, shapes))}"
            )
        if (self.noises <= 0).any():
            raise ModelFormatError("every noise of the grid of the prior must be above 0")


@dataclass(frozen=True, eq=False)
class Prior:
    """What many people's ratings taught, before a person has rated anything.

    The generic head is a sum of kernels at its centres and a straight line, either of which may be empty.

    Attributes:
        curved_metric: (D,) weights of the embedding's axes in the curved kernel; in this metric the mean
            squared length of the training pictures is 1.
        generic_metric: (D,) the same for the generic head.
        linear_scale: Factor that gives the straight kernel a mean of 1 over the training pictures.
        length_scale: Squared length scale of the curved kernel, in its metric.
        centers: (J, D) float16, in the generic metric; cluster centres, no picture's own vector. J may be 0.
        center_weights: (J,) weights of the generic head's kernels.
        center_offset: Its constant.
        arc_bias: Bias of its arc-cosine kernel.
        generic_mean: Mean generic score of the training pictures, [0, 1].
        generic_std: Its standard deviation over them.
        grid: What evidence chooses from.
        slope_unit: s, the spread of people's ratings on the [0, 1] scale.
        offset_mean: Mean of m.
        offset_variance: Variance of m, in units of the variance of f.
        variance_scale: Typical variance of f, [0, 1] units squared.
        variance_degrees: How many ratings that typical variance is worth.
        std_factor: Calibration of the standard deviation on validation people.
        linear_weights: (D,) weights of the generic head's straight line; zeros if left away.
        is_squashed: Whether the generic head's sum is the logit of the score on [0, 1]. If not, it is the
            standardized score itself.
    """

    curved_metric: FloatArray
    generic_metric: FloatArray
    linear_scale: float
    length_scale: float
    centers: FloatArray
    center_weights: FloatArray
    center_offset: float
    arc_bias: float
    generic_mean: float
    generic_std: float
    grid: AdaptationGrid
    slope_unit: float
    offset_mean: float
    offset_variance: float
    variance_scale: float
    variance_degrees: float
    std_factor: float
    linear_weights: FloatArray = field(default_factory=lambda: np.zeros(0))
    is_squashed: bool = False

    def __post_init__(self) -> None:
        if self.linear_weights.shape == (0,):
            object.__setattr__(self, "linear_weights", np.zeros(self.generic_metric.shape))
        fits = self.centers.shape == self.center_weights.shape + self.generic_metric.shape
        rows = {self.curved_metric.shape, self.generic_metric.shape, self.linear_weights.shape}
        if not fits or self.centers.ndim != 2 or len(rows) > 1:
            raise ModelFormatError(
                f"metrics {self.curved_metric.shape} and {self.generic_metric.shape}, linear_weights "
                f"{self.linear_weights.shape}, centers {self.centers.shape} and center_weights "
                f"{self.center_weights.shape} of the prior do not fit together"
            )
        for name, tensor in self.to_tensors().items():
            if not np.isfinite(tensor).all():
                raise ModelFormatError(f"tensor {name!r} of the prior holds values that are not finite")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ModelFormatError(f"{name} of the prior is {getattr(self, name):g}, must be above 0")

    @property
    def embedding_dim(self) -> int:
        """D."""
        return len(self.generic_metric)

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read ``prior.safetensors``.

        Raises:
            ModelFormatError: Not such a file, or a tensor is missing or of another shape.
        """
        try:
            tensors = safetensors.numpy.load(path.read_bytes())
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"{path}: not a safetensors file ({error})") from error
        return cls.from_tensors(tensors)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> Prior:
        """Make the prior from its tensors by name; other names are ignored.

        A generic head without a straight line, or not squashed, needs no tensors that say so.

        Raises:
            ModelFormatError: A tensor is missing, not finite or of another shape.
        """
        if _FORMER_METRIC in tensors:  # one metric for both, as the first bundles had
            former = tensors[_FORMER_METRIC]
            tensors = {"curved_metric": former, "generic_metric": former, **tensors}
        try:
            grid = AdaptationGrid(
                **{part.name: _wide(tensors[f"grid.{part.name}"]) for part in fields(AdaptationGrid)}
            )
            values: dict[str, Any] = {name: tensors[name] for name in _ARRAYS}
            numbers: dict[str, Any] = {name: tensors[name] for name in _NUMBERS}
            numbers["is_squashed"] = tensors.get("is_squashed", np.zeros(()))
        except KeyError as error:
            raise ModelFormatError(f"the prior lacks the tensor {error}; fetch the bundle again") from error
        for name, tensor in numbers.items():
            if tensor.size != 1:
                raise ModelFormatError(
                    f"tensor {name!r} of the prior is {tensor.shape}, must be one number; "
                    "fetch the bundle again"
                )
            values[name] = float(tensor.item())
        if values["is_squashed"] not in (0, 1):
            raise ModelFormatError(f"is_squashed of the prior is {values['is_squashed']:g}, must be 0 or 1")
        values["is_squashed"] = bool(values["is_squashed"])
        if "linear_weights" in tensors:
            values["linear_weights"] = tensors["linear_weights"]
        return cls(grid=grid, **values)

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the tensors that :meth:`from_tensors` reads."""
        tensors = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        tensors |= {name: np.array(getattr(self, name), dtype=np.float64) for name in _NUMBERS}
        # Left away where they say nothing, so that the files of such heads stay as they were.
        if self.linear_weights.any():
            tensors["linear_weights"] = np.asarray(self.linear_weights)
        if self.is_squashed:
            tensors["is_squashed"] = np.array(1, dtype=np.float64)
        return tensors | {
            f"grid.{part.name}": getattr(self.grid, part.name) for part in fields(AdaptationGrid)
        }

    def generic(self, embeddings: FloatArray) -> Float64Array:
        """Score pictures for nobody in particular.

        Args:
            embeddings: (N, D).

        Returns:
            (N,), [0, 1] units of the bundle's scale, not clipped.
        """
        return self.generic_of(self.raw(embeddings))

    def generic_of(self, raw: FloatArray) -> Float64Array:
        """Turn the sums of :meth:`raw`, (N,), into what :meth:`generic` gives for the same pictures."""
        sums = _wide(raw)
        return _sigmoid(sums) if self.is_squashed else self.generic_mean + self.generic_std * sums

    def standardized(self, embeddings: FloatArray) -> Float64Array:
        """Compute p, the generic score with mean 0 and standard deviation 1 over the training pictures.

        Args:
            embeddings: (N, D).

        Returns:
            (N,).
        """
        return self.standardized_of(self.raw(embeddings))

    def standardized_of(self, raw: FloatArray) -> Float64Array:
        """Turn the sums of :meth:`raw`, (N,), into what :meth:`standardized` gives for the same pictures."""
        sums = _wide(raw)
        return (_sigmoid(sums) - self.generic_mean) / self.generic_std if self.is_squashed else sums

    def raw(self, embeddings: FloatArray) -> Float64Array:
        """Compute the sum of the generic head: p, or the logit of the score if it is squashed.

        The kernels are a hidden layer of infinitely many ReLU units, which is the arc-cosine kernel of
        order 1 (Cho and Saul 2009), read at the centres.

        Args:
            embeddings: (N, D).

        Returns:
            (N,).
        """
        metric, centers, weights, line = self._generic_tensors
        sums = np.zeros(len(embeddings))
        for rows, block in _blocks(embeddings):
            kernels = arc_cosine_kernel(block * metric, centers, self.arc_bias)
            sums[rows] = (kernels @ weights + block @ line)[: len(sums[rows])]
        return sums + self.center_offset

    @cached_property
    def _generic_tensors(self) -> tuple[Float64Array, ...]:
        """The generic head's metric, centres, weights and line as float64, converted once."""
        stored = (self.generic_metric, self.centers, self.center_weights, self.linear_weights)
        return tuple(map(_wide, stored))

    def kernels(self, first: FloatArray, second: FloatArray) -> tuple[Float64Array, Float64Array]:
        """Compare pictures.

        Args:
            first: (N, D) embeddings.
            second: (K, D) embeddings.

        Returns:
            The straight kernel and the curved kernel, (N, K) each, both around 1 for a picture with itself.
        """
        first, second = _wide(first), _wide(second)
        straight = (first @ second.T) * self.linear_scale
        first, second = first * _wide(self.curved_metric), second * _wide(self.curved_metric)
        distances = _squared_lengths(first)[:, None] + _squared_lengths(second) - 2 * first @ second.T
        return straight, np.exp(np.maximum(distances, 0) / (-2 * self.length_scale))


_ARRAYS = ("curved_metric", "generic_metric", "centers", "center_weights")
_FORMER_METRIC = "metric"
_OPTIONAL = ("linear_weights", "is_squashed")
_NUMBERS = tuple(part.name for part in fields(Prior) if part.name not in {*_ARRAYS, *_OPTIONAL, "grid"})
_POSITIVE = (
    "linear_scale",
    "generic_std",
    "length_scale",
    "arc_bias",
    "variance_scale",
    "variance_degrees",
    "std_factor",
)


@dataclass(frozen=True, eq=False)
class PersonalHead:
    """What one person's ratings taught: a mixture of Gaussian processes, in closed form.

    Attributes:
        prior: What it was learned on top of.
        embeddings: (K, D) of the rated pictures.
        components: (G, 5) of each kept combination of the grid: share of the straight kernel, mean and
            variance of the slope as in the grid, noise, weight; the weights add up to 1.
        weights: (G, K) dual weights of the rated pictures.
        variances: (G,) variance of f, [0, 1] units squared, its uncertainty included.
    """

    prior: Prior
    embeddings: FloatArray
    components: FloatArray
    weights: FloatArray
    variances: FloatArray

    def predict(
        self, embeddings: FloatArray, raw: FloatArray | None = None
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Score pictures for this person.

        Args:
            embeddings: (N, D).
            raw: (N,) what ``prior.raw`` gives for them, where it is known: several persons share it.

        Returns:
            Score, predictive standard deviation with rating noise, and its part without, (N,) each, in
            [0, 1] units of the person's scale; not clipped.
        """
        mean, latent, noise = np.zeros((3, len(embeddings)))
        generic = self.prior.standardized_of(self.prior.raw(embeddings) if raw is None else raw)
        for rows, block in _blocks(embeddings):
            padded = np.pad(generic[rows], (0, len(block) - len(generic[rows])))
            for whole, part in zip((mean, latent, noise), self._predict(block, padded), strict=True):
                whole[rows] = part[: len(whole[rows])]
        factor = self.prior.std_factor
        return mean, factor * np.sqrt(latent + noise), factor * np.sqrt(latent)

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return what :meth:`from_tensors` needs besides the prior and the rated pictures."""
        return {"components": self.components, "weights": self.weights, "variances": self.variances}

    @classmethod
    def from_tensors(
        cls, prior: Prior, embeddings: FloatArray, tensors: Mapping[str, npt.NDArray[Any]]
    ) -> Self:
        """Make a stored head again.

        Args:
            prior: The prior it was learned with.
            embeddings: (K, D) of the rated pictures.
            tensors: As :meth:`to_tensors` gave them.

        Raises:
            ProfileFormatError: A tensor is missing, of another shape or impossible.
        """
        try:
            components, weights, variances = (
                _wide(tensors[name]) for name in ("components", "weights", "variances")
            )
        except KeyError as error:
            raise ProfileFormatError(
                f"the stored head lacks the tensor {error}; refit the profile"
            ) from error
        count, shots = variances.size, len(embeddings)
        if (
            count == 0
            or components.shape != (count, 5)
            or weights.shape != (count, shots)
            or variances.shape != (count,)
            or embeddings.shape != (shots, prior.embedding_dim)
        ):
            raise ProfileFormatError(
                "the stored head does not fit its rated pictures and the model; refit the profile"
            )
        share, _, slope_variance, noise, weight = components.T
        is_sound = (
            ((share >= 0) & (share <= 1) & (slope_variance >= 0) & (noise > 0) & (weight >= 0)).all()
            and (variances > 0).all()
            and math.isclose(float(weight.sum()), 1, abs_tol=1e-6)
            and float(np.abs(weights).max()) < _LARGEST_WEIGHT
            and float(variances.max()) < _LARGEST_WEIGHT
        )
        if not is_sound:
            raise ProfileFormatError("the stored head holds impossible numbers; refit the profile")
        return cls(prior, embeddings, components, weights, variances)

    def _predict(
        self, embeddings: Float64Array, generic: Float64Array
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        prior = self.prior
        straight, curved = prior.kernels(embeddings, self.embeddings)
        own_straight = _squared_lengths(embeddings) * prior.linear_scale
        shares = self.components[:, 4]
        means, latents = np.empty((2, len(self.components), len(embeddings)))
        for rows in self._blends:  # components differ in noise more than in share and slope
            share, slope, slope_variance, _, _ = self.components[rows[0]]
            values, vectors = self.spectrum_of(share, slope_variance)
            offset = prior.offset_variance
            cross = _blend(straight, curved, share, slope_variance, offset, generic, self.known_generic)
            own = share * own_straight + (1 - share) + slope_variance * generic**2 + offset
            explained = (1 / (values + self.components[rows, 3, None])) @ ((cross @ vectors) ** 2).T
            means[rows] = self.weights[rows] @ cross.T + (
                prior.offset_mean + prior.slope_unit * slope * generic
            )
            latents[rows] = self.variances[rows, None] * np.maximum(own - explained, 0)
        mean = shares @ means
        spread = shares @ (means - mean) ** 2
        noise = float(shares @ (self.variances * self.components[:, 3]))
        return mean, shares @ latents + spread, np.full(len(embeddings), noise)

    @cached_property
    def _blends(self) -> list[npt.NDArray[np.intp]]:
        """The components that share their covariance: rows of each share, slope and variance of the slope."""
        _, numbers = np.unique(self.components[:, :3], axis=0, return_inverse=True)
        numbers = numbers.reshape(-1)
        return [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]

    @cached_property
    def known_generic(self) -> Float64Array:
        """Standardized generic scores of the rated pictures, (K,)."""
        return self.prior.standardized(self.embeddings)

    @cached_property
    def _spectra(self) -> dict[tuple[float, float], tuple[Float64Array, Float64Array]]:
        return {}

    def spectrum_of(self, share: float, slope_variance: float) -> tuple[Float64Array, Float64Array]:
        """Decompose the covariance of the rated pictures once for all noises: values (K,), vectors (K, K)."""
        key = (float(share), float(slope_variance))
        if key not in self._spectra:
            straight, curved = self.prior.kernels(self.embeddings, self.embeddings)
            generic, offset = self.known_generic, self.prior.offset_variance
            self._spectra[key] = spectrum(
                _blend(straight, curved, share, slope_variance, offset, generic, generic)
            )
        return self._spectra[key]


def covariance(prior: Prior, embeddings: FloatArray) -> CovarianceParts:
    """Compare rated pictures with each other, once for the whole grid.

    Args:
        prior: What many taught.
        embeddings: (K, D).
    """
    straight, curved = prior.kernels(embeddings, embeddings)
    return CovarianceParts(straight, curved, prior.standardized(embeddings), prior.offset_variance)


@dataclass(frozen=True, slots=True, eq=False)
class CovarianceParts:
    """How K rated pictures compare; any share and slope blends from it.

    Attributes:
        straight: (K, K) straight kernel.
        curved: (K, K) curved kernel.
        generic: (K,) standardized generic scores.
        offset_variance: Variance of the offset m.
    """

    straight: Float64Array
    curved: Float64Array
    generic: Float64Array
    offset_variance: float

    def blend(self, share: float, slope_variance: float) -> Float64Array:
        """Return the covariance of m + s b p + f, (K, K), in units of the variance of f."""
        return _blend(
            self.straight,
            self.curved,
            share,
            slope_variance,
            self.offset_variance,
            self.generic,
            self.generic,
        )

    def part(self, rows: npt.NDArray[np.intp]) -> CovarianceParts:
        """Return the same of some of the pictures."""
        block = np.ix_(rows, rows)
        return CovarianceParts(
            self.straight[block], self.curved[block], self.generic[rows], self.offset_variance
        )


def spectrum(matrix: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the eigenvalues (K,), no lower than 0, and eigenvectors (K, K) of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return np.maximum(values, 0), vectors


def _blend(
    straight: Float64Array,
    curved: Float64Array,
    share: float,
    slope_variance: float,
    offset_variance: float,
    first_generic: Float64Array,
    second_generic: Float64Array,
) -> Float64Array:
    process = share * straight + (1 - share) * curved
    return process + slope_variance * np.outer(first_generic, second_generic) + offset_variance


def arc_cosine_kernel(first: Float64Array, second: Float64Array, bias: float) -> Float64Array:
    """Compare (N, D) with (J, D) by the arc-cosine kernel of order 1 (Cho and Saul 2009): (N, J)."""
    lengths = np.outer(np.sqrt(_squared_lengths(first) + bias), np.sqrt(_squared_lengths(second) + bias))
    cosine = first @ second.T
    cosine += bias
    cosine /= lengths
    np.clip(cosine, -1, 1, out=cosine)
    sine = np.sqrt((1 - cosine) * (1 + cosine))
    product: Float64Array = np.arccos(-cosine)  # pi minus the angle
    product *= cosine
    product += sine
    product *= lengths
    product /= np.pi
    return product


def _sigmoid(logits: Float64Array) -> Float64Array:
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


def _squared_lengths(vectors: Float64Array) -> Float64Array:
    squares: Float64Array = np.einsum("nd,nd->n", vectors, vectors)
    return squares


def _wide(array: npt.NDArray[Any]) -> Float64Array:
    return np.asarray(array, dtype=np.float64)


def _blocks(embeddings: FloatArray) -> Iterator[tuple[slice, Float64Array]]:
    """Yield where each block stands and its embeddings (_BLOCK, D), the last one filled up with zeros."""
    for start in range(0, len(embeddings), _BLOCK):
        block = _wide(embeddings[start : start + _BLOCK])
        yield slice(start, start + len(block)), np.pad(block, ((0, _BLOCK - len(block)), (0, 0)))
