"""Few-shot adaptation: from K rated pictures to one person's head, in closed form, in milliseconds.

For each combination of the prior's grid (how straight the person's taste is, how far it follows the generic
score, how noisy the ratings are) the posterior is a Gaussian process with known covariance, up to a variance
with a conjugate prior; its marginal likelihood, the evidence, says how well the combination explains the
ratings. The head averages all combinations by evidence: what many people taught is trusted as far as this
person's own ratings support it (Rasmussen and Williams 2006, chapters 2 and 5).

How well that worked is judged on pairs of ratings which no fit has seen.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.devices import single_threaded_products
from piaa_sdk.errors import SupportSetError
from piaa_sdk.head import CovarianceParts, PersonalHead, covariance, spectrum
from piaa_sdk.results import Adaptation, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from piaa_sdk.head import Prior
    from piaa_sdk.results import Comparison, SupportSet

    Float64Array = npt.NDArray[np.float64]
    Rows = npt.NDArray[np.intp]

_KEPT_WEIGHT = 0.999  # combinations that share the last thousandth of the evidence are dropped
MAX_SHOTS = 2000
"""Time grows with the cube of the ratings, and there is little left to learn."""

_SWEEP_SHOTS = 512  # more ratings than this choose among the combinations by a sample of them
_PAIR_SHOTS = 16  # up to so many ratings every pair is left out in turn
_FOLDS = 5
_REPEATS = 10
_JUDGED_SHOTS = 400  # more ratings than this are judged on a sample of them
_FEWEST_SHOTS = 6
_Z90 = 1.6448536269514722


def adapt(prior: Prior, support: SupportSet) -> PersonalHead:
    """Learn one person's head.

    Args:
        prior: What many people taught.
        support: K rated pictures, K >= 2.

    Raises:
        SupportSetError: More than 2000 ratings, or embeddings of another size than the prior reads.
    """
    if len(support) > MAX_SHOTS:
        raise SupportSetError(
            f"{len(support)} rated photos are more than the {MAX_SHOTS} that can be learned from at once; "
            "keep the latest, or some of each rating"
        )
    if support.embeddings.shape[1] != prior.embedding_dim:
        raise SupportSetError(
            f"embeddings have {support.embeddings.shape[1]} numbers, the model reads {prior.embedding_dim}; "
            "embed the pictures with this model"
        )
    with _threads_for(len(support)):
        return _adapted(prior, support)


def _threads_for(shots: int) -> AbstractContextManager[None]:
    """Let matrices that are worth it take several threads; with others they only wait for each other."""
    return single_threaded_products if shots <= _SWEEP_SHOTS else nullcontext()


def _adapted(prior: Prior, support: SupportSet) -> PersonalHead:
    ratings = np.asarray(support.ratings, dtype=np.float64)
    parts = covariance(prior, support.embeddings)
    if len(ratings) > _SWEEP_SHOTS:
        rows = _sample(len(ratings), _SWEEP_SHOTS)
        kept = _kept(_fit_grid(prior, parts.part(rows), ratings[rows]))
        fits = _fit_all(
            prior, parts, ratings, [(fit.share, fit.slope, fit.slope_variance, (fit.noise,)) for fit in kept]
        )
    else:
        kept = fits = _kept(_fit_grid(prior, parts, ratings))
    weights = _normalized(kept)
    return PersonalHead(
        prior=prior,
        embeddings=support.embeddings,
        components=np.array(
            [
                (fit.share, fit.slope, fit.slope_variance, fit.noise, weight)
                for fit, weight in zip(fits, weights, strict=True)
            ]
        ),
        weights=np.array([fit.weights for fit in fits]),
        # The variance of Student's t: the spread of f itself is only known from these ratings.
        variances=np.array([fit.variance for fit in fits])
        * _student_factor(prior.variance_degrees + len(ratings)),
    )


def judge(prior: Prior, support: SupportSet, *, seed: int = 0) -> Adaptation:
    """Ask whether the personal head orders a person's left-out pictures better than the generic prior.

    Up to 16 ratings, every pair is left out in turn; above, pairs inside the left-out fifth of repeated
    splits are judged. Nothing of a left-out rating enters the fit, its centring or its weights. The interval
    is a delete-one jackknife over pictures, because pairs that share a picture are not independent.

    Args:
        prior: What many people taught.
        support: K rated pictures.
        seed: Of the splits.
    """
    shots = len(support)
    rows = _sample(shots, _JUDGED_SHOTS) if shots > _JUDGED_SHOTS else np.arange(shots)
    ratings = np.asarray(support.ratings, dtype=np.float64)[rows]
    if len(rows) < _FEWEST_SHOTS:
        return Adaptation(shots, 0, None, None, None, Verdict.NOT_ENOUGH)
    with _threads_for(len(rows)):
        parts = covariance(prior, support.embeddings[rows])
        personal, generic, judged = _judge_pairs(prior, parts, ratings, np.random.default_rng(seed))
    pairs = judged > 0
    count = int(np.triu(pairs).sum())
    if count == 0:
        return Adaptation(shots, 0, None, None, None, Verdict.NOT_ENOUGH)
    personal, generic = personal / np.maximum(judged, 1), generic / np.maximum(judged, 1)
    interval = jackknife_interval(personal - generic, pairs)
    return Adaptation(
        shots=shots,
        pairs=count,
        prior_accuracy=float(generic[pairs].mean()),
        personal_accuracy=float(personal[pairs].mean()),
        interval=interval,
        verdict=verdict_of(interval),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """One combination of the grid, fitted; ``weights`` (K,), ``variance`` in [0, 1] units squared."""

    share: float
    slope: float
    slope_variance: float
    noise: float
    evidence: float
    weights: Float64Array
    variance: float


def _fit_grid(prior: Prior, parts: CovarianceParts, ratings: Float64Array) -> list[_Fit]:
    grid = prior.grid
    pairs = product(grid.linear_shares.tolist(), grid.slopes.tolist())
    return _fit_all(prior, parts, ratings, [(share, *slope, grid.noises.tolist()) for share, slope in pairs])


def _fit_all(
    prior: Prior,
    parts: CovarianceParts,
    ratings: Float64Array,
    blends: Iterable[tuple[float, float, float, Sequence[float]]],
) -> list[_Fit]:
    """Fit each (share, mean and variance of the slope, noises); a covariance is decomposed once."""
    fits = []
    spectra: dict[tuple[float, float], tuple[Float64Array, Float64Array]] = {}
    for share, slope, slope_variance, noises in blends:
        key = (share, slope_variance)
        if key not in spectra:
            spectra[key] = spectrum(parts.blend(*key))
        fits += _fit(prior, parts, ratings, share, slope, slope_variance, noises, spectra[key])
    return fits


def _fit(
    prior: Prior,
    parts: CovarianceParts,
    ratings: Float64Array,
    share: float,
    slope: float,
    slope_variance: float,
    noises: Sequence[float],
    decomposed: tuple[Float64Array, Float64Array],
) -> list[_Fit]:
    """Fit one blend of kernels under each noise.

    With C the covariance in units of the unknown variance v of f, r - mean ~ N(0, v C) and v inverse-gamma,
    the evidence is that of a multivariate Student's t: log p = -1/2 log|C| - (d + K)/2 log(d v0 + r' C^-1 r)
    plus a constant that all combinations share.
    """
    values, vectors = decomposed
    residual = ratings - prior.offset_mean - prior.slope_unit * slope * parts.generic
    rotated = vectors.T @ residual
    degrees, shots = prior.variance_degrees, len(ratings)
    fits = []
    for noise in noises:
        spread = values + noise
        squares = degrees * prior.variance_scale + float(rotated @ (rotated / spread))
        evidence = -0.5 * float(np.log(spread).sum()) - 0.5 * (degrees + shots) * math.log(squares)
        weights = vectors @ (rotated / spread)
        variance = squares / (degrees + shots)
        fits.append(_Fit(share, slope, slope_variance, noise, evidence, weights, variance))
    return fits


def _normalized(fits: list[_Fit]) -> Float64Array:
    return _softmax(np.array([fit.evidence for fit in fits]))


def _softmax(evidence: Float64Array) -> Float64Array:
    weights: Float64Array = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    return weights


def _kept(fits: list[_Fit]) -> list[_Fit]:
    """Drop the combinations that the ratings have ruled out."""
    return [fits[row] for row in _kept_rows(np.array([fit.evidence for fit in fits]))]


def _kept_rows(evidence: Float64Array) -> Rows:
    """Return the combinations that the ratings have not ruled out, the likeliest first."""
    weights = _softmax(evidence)
    order = np.argsort(-weights, kind="stable")
    return order[: int(np.searchsorted(np.cumsum(weights[order]), _KEPT_WEIGHT)) + 1]


def _student_factor(degrees: float) -> float:
    return degrees / (degrees - 2)


def _sample(count: int, size: int) -> Rows:
    return np.sort(np.random.default_rng(0).permutation(count)[:size])


def _judge_pairs(
    prior: Prior, parts: CovarianceParts, ratings: Float64Array, rng: np.random.Generator
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Judge left-out pairs: how often personal and generic order them right, and how often they were judged.

    Returns:
        Three symmetric matrices (K, K); pairs with equal ratings are never judged.
    """
    shots = len(ratings)
    differs = ratings[:, None] != ratings
    generic_right = pair_agreement(parts.generic, ratings)
    personal, judged = np.zeros((shots, shots)), np.zeros((shots, shots))
    rest = _LeaveOut(prior, parts, ratings)
    for left_out in _left_out(shots, rng):
        if np.ptp(ratings[left_out]) == 0:
            continue
        scores = rest.scores(left_out)
        block = np.ix_(left_out, left_out)
        personal[block] += np.where(differs[block], pair_agreement(scores, ratings[left_out]), 0)
        judged[block] += differs[block]
    return personal, generic_right * judged, judged


def _left_out(shots: int, rng: np.random.Generator) -> Iterator[Rows]:
    if shots <= _PAIR_SHOTS:
        yield from (np.array(pair) for pair in combinations(range(shots), 2))
        return
    for _ in range(_REPEATS):
        yield from np.array_split(rng.permutation(shots), _FOLDS)


class _LeaveOut:
    """Predictions of left-out ratings from all others, without fitting anew each time.

    With P = (C + noise)^-1 of all ratings r and a = P (r - mean), what the rest predicts for the left-out
    rows L is r_L - P_LL^-1 a_L; the determinant and the square of the rest, and so its evidence, follow from
    |P_LL| and a_L' P_LL^-1 a_L in the same way (inverse of a partitioned matrix).

    Args:
        prior: What many people taught.
        parts: Of the K rated pictures.
        ratings: (K,), [0, 1] units.
    """

    def __init__(self, prior: Prior, parts: CovarianceParts, ratings: Float64Array) -> None:
        self._prior, self._generic, self._shots = prior, parts.generic, len(ratings)
        grid = prior.grid
        pairs = list(product(grid.linear_shares.tolist(), grid.slopes.tolist()))
        keys = list(dict.fromkeys((share, slope_variance) for share, (_, slope_variance) in pairs))
        noises = grid.noises
        self._inverses = np.empty((len(keys) * len(noises), self._shots, self._shots))
        log_determinants = np.empty(len(self._inverses))
        for number, key in enumerate(keys):
            values, vectors = spectrum(parts.blend(*key))
            for place, noise in enumerate(noises.tolist(), start=number * len(noises)):
                self._inverses[place] = (vectors / (values + noise)) @ vectors.T
                log_determinants[place] = np.log(values + noise).sum()
        # One row for each combination of the grid, G in all; several share an inverse.
        first = [keys.index((share, slope_variance)) * len(noises) for share, (_, slope_variance) in pairs]
        self._places = (np.array(first)[:, None] + np.arange(len(noises))).ravel()
        self._log_determinants = log_determinants[self._places]
        self._slopes = np.repeat([slope for _, (slope, _) in pairs], len(noises))
        self._residuals = (
            ratings - prior.offset_mean - prior.slope_unit * self._slopes[:, None] * self._generic
        )
        self._dual = np.einsum("gij,gj->gi", self._inverses[self._places], self._residuals)
        self._squares = np.einsum("gi,gi->g", self._residuals, self._dual)

    def scores(self, left_out: Rows) -> Float64Array:
        """Predict the ratings of the given rows from all others.

        Args:
            left_out: L rows, fewer than K.

        Returns:
            (L,), [0, 1] units, less the mean of the offset, which orders nothing.
        """
        prior = self._prior
        blocks = self._inverses[:, left_out[:, None], left_out]
        dual = self._dual[:, left_out]
        errors = np.linalg.solve(blocks[self._places], dual[:, :, None])[:, :, 0]
        log_determinants = self._log_determinants + np.linalg.slogdet(blocks)[1][self._places]
        shots = self._shots - len(left_out)
        squares = np.maximum(self._squares - (dual * errors).sum(axis=1), 0)
        degrees = prior.variance_degrees
        squares += degrees * prior.variance_scale
        evidence = -0.5 * log_determinants - 0.5 * (degrees + shots) * np.log(squares)
        kept = _kept_rows(evidence)
        means = self._residuals[kept][:, left_out] - errors[kept]
        means += prior.slope_unit * self._slopes[kept, None] * self._generic[left_out]
        scores: Float64Array = _softmax(evidence[kept]) @ means
        return scores


def verdict_of(interval: tuple[float, float] | None) -> Verdict:
    """Say what follows from the interval of personal minus generic accuracy."""
    if interval is not None and interval[0] > 0:
        return Verdict.LEARNED
    return Verdict.WORSE if interval is not None and interval[1] < 0 else Verdict.NOT_ENOUGH


def adaptation_of(comparison: Comparison) -> Adaptation:
    """Return what a comparison of methods says of the fine-tuned network against the generic score."""
    return Adaptation(
        shots=comparison.shots,
        pairs=comparison.pairs,
        prior_accuracy=comparison.generic_accuracy,
        personal_accuracy=comparison.fine_tuned_accuracy,
        interval=comparison.generic_interval,
        verdict=verdict_of(comparison.generic_interval),
    )


def pair_agreement(scores: Float64Array, ratings: Float64Array) -> Float64Array:
    """Tell for every pair of pictures whether scores order it as ratings do.

    Args:
        scores: (Q,).
        ratings: (Q,).

    Returns:
        (Q, Q): 1 where they do, 0 where they do not, 0.5 where the scores are equal; of pairs with equal
        ratings it says nothing.
    """
    order = np.sign(ratings[:, None] - ratings)
    agreement: Float64Array = (np.sign(scores[:, None] - scores) * order + 1) / 2
    return agreement


def jackknife_interval(difference: Float64Array, pairs: npt.NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return the 90 % interval of the mean of ``difference`` (K, K) over pairs.

    None if all pairs share one picture: then nothing is known about the spread.
    """
    total, count = np.where(pairs, difference, 0).sum() / 2, pairs.sum() / 2
    without_total = total - np.where(pairs, difference, 0).sum(axis=1)
    without_count = count - pairs.sum(axis=1)
    if (without_count <= 0).any():
        return None
    shots = len(difference)
    estimates = without_total / without_count
    if np.ptp(estimates) == 0:  # every pair alike: that is too few pairs, not certainty
        return None
    error = math.sqrt((shots - 1) / shots * float(((estimates - estimates.mean()) ** 2).sum()))
    mean, reach = total / count, _student_quantile(shots - 1) * error
    return float(mean - reach), float(mean + reach)


def _student_quantile(degrees: int) -> float:
    """Return the 95 % quantile of Student's t (Cornish and Fisher's expansion, 0.03 off at 3 degrees)."""
    z = _Z90
    first = (z**3 + z) / (4 * degrees)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return z + first + second + third
