"""The prior and the personal head: a brute-force twin, numbers by hand, limits, and what must not matter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piaa_sdk.adaptation import adapt
from piaa_sdk.errors import ModelFormatError, ProfileFormatError
from piaa_sdk.head import AdaptationGrid, PersonalHead, Prior, arc_cosine_kernel
from piaa_sdk.results import SupportSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]
    Figures = tuple[Float64Array, Float64Array, Float64Array]
    MakePrior = Callable[..., Prior]

# The fixtures of these tests hold no state that one example could leave behind for the next.
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rated(shots: int, *, seed: int = 0, dim: int = 16, is_clear: bool = False) -> SupportSet:
    """Rate random pictures at random, or clearly by what the first axis of the embedding says."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(shots, dim)).astype(np.float16).astype(np.float32)
    ratings = 0.5 + 0.3 * embeddings[:, 0].astype(np.float64) if is_clear else rng.uniform(size=shots)
    return SupportSet(embeddings, ratings, tuple(f"{number}.jpg" for number in range(shots)))


def pictures(count: int, *, seed: int = 99, dim: int = 16) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float16).astype(np.float32)


def one_blend(
    *, share: float = 0.5, slope: float = 0.0, slope_variance: float = 0.0, noise: float = 1.0
) -> AdaptationGrid:
    return AdaptationGrid(np.array([share]), np.array([[slope, slope_variance]]), np.array([noise]))


def squashed_line(build_prior: MakePrior, **changes: object) -> Prior:
    """The generic head of a network of one hidden layer: no centres, a straight line, squashed."""
    values: dict[str, object] = {
        "centers": np.zeros((0, 16), dtype=np.float16),
        "center_weights": np.zeros(0, dtype=np.float32),
        "linear_weights": np.linspace(-0.3, 0.4, 16, dtype=np.float32),
        "is_squashed": True,
    }
    return build_prior(**values | changes)


def brute_generic(prior: Prior, embedding: Float64Array) -> float:
    """Sum over the axes and the centres, one picture and one number at a time; squashed if it must be."""
    total = prior.center_offset + sum(
        float(weight) * float(value) for weight, value in zip(prior.linear_weights, embedding, strict=True)
    )
    for center, weight in zip(prior.centers, prior.center_weights, strict=True):
        x = np.append(prior.generic_metric.astype(np.float64) * embedding, math.sqrt(prior.arc_bias))
        c = np.append(center.astype(np.float64), math.sqrt(prior.arc_bias))
        lengths = math.sqrt((x @ x) * (c @ c))
        angle = math.acos(min(1.0, max(-1.0, (x @ c) / lengths)))
        total += float(weight) * lengths / math.pi * (math.sin(angle) + (math.pi - angle) * math.cos(angle))
    if prior.is_squashed:
        return (1 / (1 + math.exp(-total)) - prior.generic_mean) / prior.generic_std
    return total


def brute_covariance(
    prior: Prior, first: Float64Array, second: Float64Array, share: float, slope_variance: float
) -> Float64Array:
    values = np.empty((len(first), len(second)))
    for row, x in enumerate(first):
        for column, y in enumerate(second):
            apart = prior.curved_metric.astype(np.float64) * (x - y)
            curved = math.exp(-(apart @ apart) / (2 * prior.length_scale))
            process = share * prior.linear_scale * (x @ y) + (1 - share) * curved
            slopes = slope_variance * brute_generic(prior, x) * brute_generic(prior, y)
            values[row, column] = process + slopes + prior.offset_variance
    return values


def brute_predict(prior: Prior, support: SupportSet, embeddings: npt.NDArray[np.float32]) -> Figures:
    """Average the Gaussian processes of the whole grid with dense solves, in float64."""
    known, new = support.embeddings.astype(np.float64), embeddings.astype(np.float64)
    shots, degrees = len(known), prior.variance_degrees
    generic = np.array([brute_generic(prior, x) for x in known])
    new_generic = np.array([brute_generic(prior, x) for x in new])
    fits = []
    for share in prior.grid.linear_shares:
        for slope, slope_variance in prior.grid.slopes:
            clean = brute_covariance(prior, known, known, share, slope_variance)
            cross = brute_covariance(prior, new, known, share, slope_variance)
            own = np.array(
                [brute_covariance(prior, x[None], x[None], share, slope_variance)[0, 0] for x in new]
            )
            for noise in prior.grid.noises:
                matrix = clean + noise * np.eye(shots)
                residual = support.ratings - prior.offset_mean - prior.slope_unit * slope * generic
                squares = degrees * prior.variance_scale + residual @ np.linalg.solve(matrix, residual)
                evidence = -0.5 * np.linalg.slogdet(matrix)[1] - (degrees + shots) / 2 * math.log(squares)
                variance = squares / (degrees + shots - 2)  # the mean of an inverse gamma
                mean = prior.offset_mean + prior.slope_unit * slope * new_generic
                mean = mean + cross @ np.linalg.solve(matrix, residual)
                explained = np.sum(cross * np.linalg.solve(matrix, cross.T).T, axis=1)
                fits.append((evidence, mean, variance * (own - explained), variance * noise))
    evidences = np.array([fit[0] for fit in fits])
    weights = np.exp(evidences - evidences.max())
    weights /= weights.sum()
    kept, held = [], 0.0
    for index in sorted(range(len(fits)), key=lambda index: -weights[index]):
        if held < 0.999:
            kept.append(index)
            held += weights[index]
    weights = weights[kept] / weights[kept].sum()
    means = np.array([fits[index][1] for index in kept])
    mean = weights @ means
    latent = weights @ np.array([fits[index][2] for index in kept]) + weights @ (means - mean) ** 2
    noises = weights @ np.array([fits[index][3] for index in kept])
    return mean, prior.std_factor * np.sqrt(latent + noises), prior.std_factor * np.sqrt(latent)


@pytest.mark.parametrize("shots", [2, 10, 40])
@pytest.mark.parametrize(("seed", "is_clear"), [(0, False), (1, True)])
def test_predict_is_its_float64_twin(build_prior: MakePrior, shots: int, seed: int, is_clear: bool) -> None:
    """Loops and dense solves instead of shared eigenvectors: the same mixture, cut at 0.999."""
    prior, support, new = build_prior(seed=seed), rated(shots, seed=seed, is_clear=is_clear), pictures(9)
    head = adapt(prior, support)
    for found, expected in zip(head.predict(new), brute_predict(prior, support, new), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("is_squashed", [False, True])
@pytest.mark.parametrize("has_centers", [False, True])
def test_predict_is_its_float64_twin_on_every_generic_head(
    build_prior: MakePrior, is_squashed: bool, has_centers: bool
) -> None:
    """The person is learned on top of the standardized generic score, however that is computed."""
    kept = {} if not has_centers else {"centers": build_prior().centers, "center_weights": np.ones(7) / 7}
    prior = squashed_line(build_prior, is_squashed=is_squashed, **kept)
    support, new = rated(10), pictures(9)
    scores = prior.generic_mean + prior.generic_std * np.array([brute_generic(prior, x) for x in new])
    np.testing.assert_allclose(prior.generic(new), scores, rtol=1e-12)
    for found, expected in zip(
        adapt(prior, support).predict(new), brute_predict(prior, support, new), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_ruled_out_combinations_are_dropped(build_prior: MakePrior) -> None:
    """A cut that drops nothing would leave the twin above blind to it."""
    prior = build_prior()
    combinations = len(prior.grid.linear_shares) * len(prior.grid.slopes) * len(prior.grid.noises)
    head = adapt(prior, rated(40, seed=1, is_clear=True))
    assert 1 <= len(head.components) < combinations
    assert head.components[:, 4].sum() == pytest.approx(1, abs=1e-12)
    assert (np.diff(head.components[:, 4]) <= 0).all()


def test_generic_score_by_hand(build_prior: MakePrior) -> None:
    """One centre c = (sqrt 3, 0), bias 1: |c|^2 + 1 = 4.

    x = c: angle 0, kernel 4. x = (-1/sqrt 3, 0): x.c + 1 = 0, angle 90 degrees, lengths sqrt(4/3 * 4), kernel
    4/(sqrt 3 pi). x = 0: lengths 2, cosine 1/2, angle pi/3, kernel 2/pi (sqrt 3/2 + (2 pi/3)/2).
    The score is 0.5 + 0.1 (2 kernel - 1).
    """
    prior = build_prior(
        dim=2,
        curved_metric=np.ones(2, dtype=np.float32),
        generic_metric=np.ones(2, dtype=np.float32),
        centers=np.array([[math.sqrt(3), 0]]),
        center_weights=np.array([2.0]),
        center_offset=-1.0,
        arc_bias=1.0,
        generic_mean=0.5,
        generic_std=0.1,
    )
    kernels = np.array(
        [4, 4 / (math.sqrt(3) * math.pi), 2 / math.pi * (math.sqrt(3) / 2 + math.pi / 3)], dtype=np.float64
    )
    points = np.array([[math.sqrt(3), 0], [-1 / math.sqrt(3), 0], [0, 0]])
    np.testing.assert_allclose(arc_cosine_kernel(points, prior.centers, 1.0)[:, 0], kernels, rtol=1e-7)
    np.testing.assert_allclose(prior.standardized(points), 2 * kernels - 1, rtol=1e-7)
    np.testing.assert_allclose(prior.generic(points), 0.5 + 0.1 * (2 * kernels - 1), rtol=1e-7)


def test_straight_line_by_hand(build_prior: MakePrior) -> None:
    """Without centres: 1 + (2, -1) . x is 0 at (0, 1), log 3 at ((log 3 - 1) / 2, 0), 3 at (1, 0).

    Squashed, that is a score of 1/2, 3/4 and 1/(1 + e^-3); with mean 0.5 and deviation 0.1 the standardized
    scores are 0 and 2.5. Not squashed, it is the standardized score itself.
    """
    changes = {
        "dim": 2,
        "curved_metric": np.ones(2, dtype=np.float32),
        "generic_metric": np.ones(2, dtype=np.float32),
        "centers": np.zeros((0, 2), dtype=np.float16),
        "linear_weights": np.array([2.0, -1.0]),
        "center_offset": 1.0,
        "generic_mean": 0.5,
        "generic_std": 0.1,
    }
    points = np.array([[0, 1], [(math.log(3) - 1) / 2, 0], [1, 0]])
    sums = np.array([0, math.log(3), 3])
    squashed = squashed_line(build_prior, **changes)
    np.testing.assert_allclose(squashed.raw(points), sums, atol=1e-12)
    np.testing.assert_allclose(squashed.generic(points), [0.5, 0.75, 1 / (1 + math.exp(-3))], rtol=1e-12)
    np.testing.assert_allclose(squashed.standardized(points)[:2], [0, 2.5], atol=1e-12)
    straight = squashed_line(build_prior, **changes, is_squashed=False)
    np.testing.assert_allclose(straight.standardized(points), sums, atol=1e-12)
    np.testing.assert_allclose(straight.generic(points), 0.5 + 0.1 * sums, rtol=1e-12)


def test_squashed_score_stays_on_the_scale(build_prior: MakePrior) -> None:
    """Also far out, and without a warning of an overflow: warnings are errors here."""
    prior = squashed_line(build_prior, linear_weights=np.full(16, 1e4))
    scores = prior.generic(np.array([[1.0] * 16, [-1.0] * 16]))
    np.testing.assert_array_equal(scores, [1.0, 0.0])


def test_empty_straight_line_changes_no_bit(build_prior: MakePrior) -> None:
    """The heads of the first bundles have none, and must score as they did."""
    prior, new = build_prior(), pictures(70)
    kernels = arc_cosine_kernel(
        np.pad(new.astype(np.float64), ((0, 58), (0, 0)))[:64] * prior.generic_metric.astype(np.float64),
        prior.centers.astype(np.float64),
        prior.arc_bias,
    )
    expected = kernels @ prior.center_weights.astype(np.float64) + prior.center_offset
    np.testing.assert_array_equal(prior.standardized(new)[:64], expected)
    zeros = build_prior(linear_weights=np.zeros(16))
    np.testing.assert_array_equal(zeros.generic(new), prior.generic(new))


def test_two_ratings_by_hand(build_prior: MakePrior) -> None:
    """Pencil. Pictures e1 and e2, straight kernel = identity, offset variance 1, noise 1, generic score 0.

    C = I + 11' + I = [[3, 1], [1, 3]], C^-1 = [[3, -1], [-1, 3]] / 8. Ratings 0.9 and 0.1 around 0.5:
    residual (0.4, -0.4), dual weights (0.2, -0.2), r'C^-1 r = 0.16. With 4 degrees of 0.03:
    variance (4 * 0.03 + 0.16) / (4 + 2 - 2) = 0.07.
    At e1: c = (2, 1): mean 0.5 + 0.4 - 0.2 = 0.7; own 2, explained (3*4 - 2*2 + 3*1)/8 = 11/8.
    At 0: c = (1, 1): mean 0.5; own 1, explained (3 - 2 + 3)/8 = 1/2.
    """
    prior = build_prior(
        dim=2,
        linear_scale=1.0,
        center_weights=np.zeros(7),
        center_offset=0.0,
        offset_variance=1.0,
        offset_mean=0.5,
        variance_scale=0.03,
        variance_degrees=4.0,
        std_factor=2.0,
        grid=one_blend(share=1.0, noise=1.0),
    )
    head = adapt(prior, SupportSet(np.eye(2, dtype=np.float32), np.array([0.9, 0.1]), ("a", "b")))
    np.testing.assert_allclose(head.weights, [[0.2, -0.2]], rtol=1e-12)
    np.testing.assert_allclose(head.variances, [0.07], rtol=1e-12)
    mean, std, latent = head.predict(np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32))
    np.testing.assert_allclose(mean, [0.7, 0.3, 0.5], rtol=1e-12)
    np.testing.assert_allclose(latent, 2 * np.sqrt(0.07 * np.array([5 / 8, 5 / 8, 1 / 2])), rtol=1e-12)
    np.testing.assert_allclose(std, 2 * np.sqrt(0.07 * np.array([13 / 8, 13 / 8, 3 / 2])), rtol=1e-12)


def test_ratings_that_are_all_noise_leave_the_prior_mean(build_prior: MakePrior) -> None:
    """With infinite noise a rating says nothing: what is left is m + s b p."""
    prior, new = build_prior(grid=one_blend(slope=0.4, noise=1e12)), pictures(5)
    mean, _, _ = adapt(prior, rated(10)).predict(new)
    np.testing.assert_allclose(mean, 0.5 + 0.2 * 0.4 * prior.standardized(new), atol=1e-9)


def test_ratings_without_noise_are_given_back(build_prior: MakePrior) -> None:
    """Without noise the posterior goes through the ratings, and nothing is left to learn there."""
    support = rated(8)
    head = adapt(build_prior(grid=one_blend(slope=0.4, noise=1e-9)), support)
    mean, _, latent = head.predict(support.embeddings)
    np.testing.assert_allclose(mean, support.ratings, atol=1e-6)
    assert latent.max() < 1e-3 * head.predict(pictures(5))[2].min()


def test_slope_alone_is_the_least_squares_line(build_prior: MakePrior) -> None:
    """Where only slope and offset may move, and move freely, the head is the regression of ratings on p."""
    prior = build_prior(
        grid=one_blend(slope=0.3, slope_variance=1e12, noise=1e6), offset_variance=1e12, slope_unit=0.2
    )
    support, new = rated(12), pictures(5)
    slope, offset = np.polyfit(prior.standardized(support.embeddings), support.ratings, 1)
    mean, _, _ = adapt(prior, support).predict(new)
    np.testing.assert_allclose(mean, offset + slope * prior.standardized(new), atol=1e-4)


def test_std_holds_the_noise(build_prior: MakePrior) -> None:
    _, std, latent = adapt(build_prior(), rated(10)).predict(pictures(20))
    assert (std > latent).all()
    assert (latent > 0).all()


def test_ratings_nearby_lower_the_latent_std(build_prior: MakePrior) -> None:
    """What is learned can only be told at fixed noise and variance: both are estimated from the ratings."""
    prior = build_prior(grid=one_blend(noise=0.5), variance_degrees=1e9)
    target = pictures(1)
    rng = np.random.default_rng(3)
    near = (target + 0.05 * rng.normal(size=(20, 16))).astype(np.float32)
    support = rated(2)
    latent = []
    for count in (0, 1, 5, 20):
        together = SupportSet(
            np.concatenate([support.embeddings, near[:count]]),
            np.concatenate([support.ratings, np.full(count, 0.8)]),
            tuple(map(str, range(2 + count))),
        )
        latent.append(float(adapt(prior, together).predict(target)[2][0]))
    assert latent == sorted(latent, reverse=True)
    assert latent[-1] < 0.4 * latent[0]


@pytest.mark.parametrize(("dim", "shots"), [(16, 5), (16, 130), (512, 40)])
def test_score_does_not_depend_on_the_company(build_prior: MakePrior, dim: int, shots: int) -> None:
    """To the last bit: a folder scored twice, or in two halves, must give the same files."""
    prior = build_prior(dim=dim)
    head, new = adapt(prior, rated(shots, dim=dim)), pictures(100, dim=dim)
    whole = np.stack([prior.generic(new), *head.predict(new)])
    order = np.random.default_rng(1).permutation(100)
    np.testing.assert_array_equal(
        np.stack([prior.generic(new[order]), *head.predict(new[order])]), whole[:, order]
    )
    for count in (1, 7, 64):
        for start in (0, 36):
            part = new[start : start + count]
            alone = np.stack([prior.generic(part), *head.predict(part)])
            np.testing.assert_array_equal(alone, whole[:, start : start + count])


def test_squashed_score_does_not_depend_on_the_company(build_prior: MakePrior) -> None:
    prior, new = squashed_line(build_prior), pictures(100)
    whole = prior.generic(new)
    for row in (0, 63, 64, 99):
        assert prior.generic(new[row : row + 1])[0] == whole[row]


@pytest.mark.parametrize("is_squashed", [False, True])
def test_no_pictures_have_no_scores(build_prior: MakePrior, is_squashed: bool) -> None:
    prior = build_prior(is_squashed=is_squashed)
    empty = np.empty((0, 16), dtype=np.float32)
    assert [figure.shape for figure in adapt(prior, rated(3)).predict(empty)] == [(0,)] * 3
    assert prior.generic(empty).shape == (0,)


@PROPERTY
@given(shots=st.integers(2, 25), seed=st.integers(0, 2**32 - 1))
def test_order_of_the_ratings_does_not_matter(build_prior: MakePrior, shots: int, seed: int) -> None:
    prior, support, new = build_prior(), rated(shots, seed=seed), pictures(4)
    order = np.random.default_rng(seed).permutation(shots)
    shuffled = SupportSet(
        support.embeddings[order], support.ratings[order], tuple(support.images[row] for row in order)
    )
    for first, second in zip(
        adapt(prior, support).predict(new), adapt(prior, shuffled).predict(new), strict=True
    ):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-9)


@PROPERTY
@given(shots=st.integers(2, 20), seed=st.integers(0, 2**32 - 1))
def test_stored_head_predicts_the_same_bits(build_prior: MakePrior, shots: int, seed: int) -> None:
    prior, support, new = build_prior(), rated(shots, seed=seed), pictures(4)
    head = adapt(prior, support)
    stored = safetensors.numpy.load(safetensors.numpy.save(head.to_tensors()))
    again = PersonalHead.from_tensors(prior, support.embeddings, stored)
    np.testing.assert_array_equal(np.stack(again.predict(new)), np.stack(head.predict(new)))


@PROPERTY
@given(
    ratings=st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda values: np.ptp(values) > 0),
    distinct=st.integers(1, 3),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
)
def test_scores_are_finite_whatever_is_repeated(
    build_prior: MakePrior, ratings: list[float], distinct: int, scale: float
) -> None:
    """One picture rated twice, differently, makes the covariance singular but for the noise."""
    embeddings = scale * pictures(distinct)[np.arange(len(ratings)) % distinct]
    support = SupportSet(embeddings, np.array(ratings), tuple(map(str, range(len(ratings)))))
    head = adapt(build_prior(), support)
    mean, std, latent = head.predict(np.concatenate([embeddings, pictures(3)]))
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > latent).all()
    assert (latent >= 0).all()


@pytest.mark.parametrize("is_squashed_line", [False, True])
def test_prior_comes_back_from_its_file(
    build_prior: MakePrior, tmp_path: Path, is_squashed_line: bool
) -> None:
    prior = squashed_line(build_prior) if is_squashed_line else build_prior()
    path, tensors = tmp_path / "prior.safetensors", prior.to_tensors()
    path.write_bytes(safetensors.numpy.save(tensors))
    again = Prior.load(path).to_tensors()
    assert sorted(again) == sorted(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)
    np.testing.assert_array_equal(Prior.load(path).generic(pictures(5)), prior.generic(pictures(5)))


def test_tensors_that_say_nothing_are_left_out(build_prior: MakePrior) -> None:
    """So that the file of a head without a straight line is the one it always was."""
    prior = build_prior(linear_weights=np.zeros(16), is_squashed=False)
    assert sorted(prior.to_tensors()) == sorted(PRIOR_TENSORS)
    assert sorted(squashed_line(build_prior).to_tensors()) == sorted((*PRIOR_TENSORS, *OPTIONAL_TENSORS))
    again = Prior.from_tensors(prior.to_tensors())
    np.testing.assert_array_equal(again.linear_weights, np.zeros(16))
    assert again.is_squashed is False


def test_a_prior_of_the_first_kind_has_one_metric_for_both(build_prior: MakePrior) -> None:
    """Its files hold ``metric``; they load, and score as they did."""
    metric = np.linspace(0.1, 0.4, 16, dtype=np.float32)
    prior = build_prior(curved_metric=metric, generic_metric=metric)
    tensors = prior.to_tensors()
    former = {name: tensor for name, tensor in tensors.items() if not name.endswith("_metric")}
    again = Prior.from_tensors(former | {"metric": metric})
    np.testing.assert_array_equal(again.generic(pictures(5)), prior.generic(pictures(5)))
    np.testing.assert_array_equal(
        again.kernels(pictures(5), pictures(3))[1], prior.kernels(pictures(5), pictures(3))[1]
    )


PRIOR_TENSORS = (
    *("curved_metric", "generic_metric", "centers", "center_weights", "center_offset", "linear_scale"),
    *("length_scale", "arc_bias"),
    *("generic_mean", "generic_std", "slope_unit", "offset_mean", "offset_variance", "variance_scale"),
    *("variance_degrees", "std_factor", "grid.linear_shares", "grid.slopes", "grid.noises"),
)

OPTIONAL_TENSORS = ("linear_weights", "is_squashed")


def test_list_of_tensors_is_complete(build_prior: MakePrior) -> None:
    """The tests below feed each of them."""
    assert sorted(build_prior().to_tensors()) == sorted(PRIOR_TENSORS)


@pytest.mark.parametrize("name", PRIOR_TENSORS)
def test_prior_names_the_tensor_that_is_missing(build_prior: MakePrior, tmp_path: Path, name: str) -> None:
    tensors = build_prior().to_tensors()
    del tensors[name]
    path = tmp_path / "prior.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(ModelFormatError, match=f"lacks the tensor '{name}'"):
        Prior.load(path)


@pytest.mark.parametrize("name", PRIOR_TENSORS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_prior_names_the_tensor_that_is_not_finite(build_prior: MakePrior, name: str, value: float) -> None:
    tensors = {key: tensor.copy() for key, tensor in build_prior().to_tensors().items()}
    tensors[name].flat[-1] = value
    with pytest.raises(ModelFormatError, match=f"'{name}' of the prior holds values that are not finite"):
        Prior.from_tensors(tensors)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_straight_line_that_is_not_finite_is_named(build_prior: MakePrior, value: float) -> None:
    tensors = squashed_line(build_prior).to_tensors()
    tensors["linear_weights"] = np.array([*np.zeros(15), value])
    with pytest.raises(ModelFormatError, match="'linear_weights' of the prior holds values that are not"):
        Prior.from_tensors(tensors)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.5, 2.0])
def test_squashing_by_halves_is_refused(build_prior: MakePrior, value: float) -> None:
    tensors = build_prior().to_tensors() | {"is_squashed": np.array(value)}
    with pytest.raises(ModelFormatError, match=r"is_squashed of the prior is .*, must be 0 or 1"):
        Prior.from_tensors(tensors)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("generic_metric", np.ones(15)),
        ("generic_metric", np.ones((16, 1))),
        ("generic_metric", np.float32(1)),
        ("curved_metric", np.ones(15)),
        ("curved_metric", np.float32(1)),
        ("centers", np.ones((7, 15))),
        ("centers", np.ones(16)),
        ("center_weights", np.ones(6)),
        ("center_weights", np.ones((7, 1))),
        ("center_weights", np.float32(1)),
        ("linear_weights", np.ones(15)),
        ("linear_weights", np.ones((16, 1))),
        ("linear_weights", np.float32(1)),
        ("is_squashed", np.ones(2)),
        ("linear_scale", np.ones(2)),
        ("std_factor", np.ones(0)),
        ("grid.linear_shares", np.ones((2, 1))),
        ("grid.linear_shares", np.ones(0)),
        ("grid.slopes", np.ones(2)),
        ("grid.slopes", np.ones((2, 3))),
        ("grid.slopes", np.ones((0, 2))),
        ("grid.noises", np.float64(1)),
        ("grid.noises", np.ones(0)),
    ],
)
def test_prior_of_another_shape_is_refused(build_prior: MakePrior, name: str, tensor: Any) -> None:
    with pytest.raises(ModelFormatError, match=r"of the prior"):
        Prior.from_tensors({**build_prior().to_tensors(), name: np.asarray(tensor)})


@pytest.mark.parametrize(
    "name", ["length_scale", "arc_bias", "variance_scale", "variance_degrees", "std_factor", "grid.noises"]
)
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_prior_that_would_divide_by_zero_is_refused(build_prior: MakePrior, name: str, value: float) -> None:
    tensors = build_prior().to_tensors()
    with pytest.raises(ModelFormatError, match="must be above 0"):
        Prior.from_tensors({**tensors, name: np.full_like(tensors[name], value)})


@pytest.mark.parametrize("data", [b"", b"not safetensors at all", b"\xff" * 64, b"PK\x03\x04" + bytes(60)])
def test_file_that_is_no_prior_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "prior.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match=r"prior\.safetensors: not a safetensors file"):
        Prior.load(path)


def test_prior_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="no-such-file"):
        Prior.load(tmp_path / "no-such-file")
    with pytest.raises(ModelFormatError, match=tmp_path.name):
        Prior.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("components", None),
        ("weights", None),
        ("variances", None),
        ("components", np.ones((1, 4))),
        ("components", np.float64(1)),
        ("weights", np.ones((1, 6))),
        ("weights", np.ones(5)),
        ("variances", np.ones((1, 1))),
        ("variances", np.float64(1)),
        ("variances", np.ones(0)),
    ],
)
def test_stored_head_that_does_not_fit_is_refused(build_prior: MakePrior, name: str, tensor: Any) -> None:
    prior, support = build_prior(grid=one_blend()), rated(5)
    tensors = adapt(prior, support).to_tensors()
    tensors.pop(name)
    if tensor is not None:
        tensors[name] = np.asarray(tensor)
    with pytest.raises(ProfileFormatError, match="refit the profile"):
        PersonalHead.from_tensors(prior, support.embeddings, tensors)


def test_stored_head_without_combinations_is_refused(build_prior: MakePrior) -> None:
    """An empty mixture would score every picture 0 without a word."""
    empty = {"components": np.ones((0, 5)), "weights": np.ones((0, 5)), "variances": np.ones(0)}
    with pytest.raises(ProfileFormatError, match="refit"):
        PersonalHead.from_tensors(build_prior(), rated(5).embeddings, empty)
