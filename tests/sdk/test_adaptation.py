"""Few-shot adaptation: its evidence, its limits in size, and an honest judge of what was learned."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from piaa_sdk import adaptation
from piaa_sdk.adaptation import adapt, judge
from piaa_sdk.errors import SupportSetError
from piaa_sdk.head import AdaptationGrid, Prior, covariance
from piaa_sdk.metrics import pairwise_accuracy
from piaa_sdk.results import SupportSet, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]
    MakePrior = Callable[..., Prior]


def random_pictures(count: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float16).astype(np.float32)


def support_of(embeddings: npt.NDArray[np.float32], ratings: Float64Array) -> SupportSet:
    return SupportSet(embeddings, ratings, tuple(f"{number}.jpg" for number in range(len(ratings))))


def random_support(shots: int, seed: int) -> SupportSet:
    """Ratings that have nothing to do with the pictures: there is nothing to learn."""
    return support_of(random_pictures(shots, seed), np.random.default_rng([seed, 1]).uniform(size=shots))


def planted_support(prior: Prior, shots: int, seed: int, *, noise: float = 0.05) -> SupportSet:
    """Ratings that follow a direction of the embedding which the generic score knows nothing of."""
    rng = np.random.default_rng(seed)
    embeddings = random_pictures(shots, seed)
    generic = prior.standardized(random_pictures(500, 12345))
    known = np.linalg.lstsq(random_pictures(500, 12345), generic - generic.mean(), rcond=None)[0]
    taste = rng.normal(size=16)
    taste -= known * (taste @ known) / (known @ known)
    signal = embeddings @ taste / np.linalg.norm(taste)
    return support_of(embeddings, 0.5 + 0.15 * signal + noise * rng.normal(size=shots))


def one_blend(*, slope: float = 0.45, noise: float = 1.0) -> AdaptationGrid:
    return AdaptationGrid(np.array([0.5]), np.array([[slope, 0.0]]), np.array([noise]))


@pytest.mark.parametrize("shots", [2, 9, 30])
def test_evidence_is_that_of_students_t(build_prior: MakePrior, shots: int) -> None:
    """Up to one constant that all combinations share; a wrong determinant or degree would differ in each."""
    prior, support = build_prior(), random_support(shots, shots)
    parts = covariance(prior, support.embeddings)
    offsets = []
    for fit in adaptation._fit_grid(prior, parts, support.ratings):
        matrix = parts.blend(fit.share, fit.slope_variance) + fit.noise * np.eye(shots)
        expected = stats.multivariate_t(
            loc=prior.offset_mean + prior.slope_unit * fit.slope * parts.generic,
            shape=prior.variance_scale * matrix,
            df=prior.variance_degrees,
        ).logpdf(support.ratings)
        offsets.append(fit.evidence - expected)
    assert len(offsets) == 12
    assert np.ptp(offsets) < 1e-9


def test_evidence_prefers_how_the_ratings_were_made(build_prior: MakePrior) -> None:
    """A person who follows the generic score is believed to, one who does not is not."""
    grid = AdaptationGrid(np.array([0.0]), np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.5]))
    prior = build_prior(grid=grid)
    embeddings = random_pictures(30, 5)
    noise = np.random.default_rng(6).normal(size=30)
    follower = 0.5 + 0.2 * prior.standardized(embeddings) + 0.05 * noise
    weights = {
        slope: weight for _, slope, _, _, weight in adapt(prior, support_of(embeddings, follower)).components
    }
    assert weights.get(1.0, 0) > 0.9
    stranger = adapt(prior, support_of(embeddings, 0.5 + 0.05 * noise)).components
    assert {slope: weight for _, slope, _, _, weight in stranger}.get(0.0, 0) > 0.9


def test_adapt_refuses_embeddings_of_another_size(build_prior: MakePrior) -> None:
    support = SupportSet(np.eye(3, 8, dtype=np.float32), np.array([0.1, 0.5, 0.9]), ("a", "b", "c"))
    with pytest.raises(SupportSetError, match="embeddings have 8 numbers, the model reads 16"):
        adapt(build_prior(), support)


def test_many_ratings_choose_by_a_sample_and_learn_from_all(build_prior: MakePrior) -> None:
    """1,500 ratings: every one has its dual weight, and a taste without noise is found."""
    prior = build_prior(grid=AdaptationGrid(np.array([0.5]), np.array([[0.45, 0.0]]), np.array([0.25, 4.0])))
    support = planted_support(prior, 1500, 8)
    head = adapt(prior, support)
    assert head.weights.shape == (len(head.components), 1500)
    assert (head.weights != 0).all()
    assert head.components[:, 4].sum() == pytest.approx(1)
    mean, std, latent = head.predict(support.embeddings[:200])
    assert np.isfinite([mean, std, latent]).all()
    assert np.corrcoef(mean, support.ratings[:200])[0, 1] > 0.9


def test_sample_of_many_ratings_gives_the_weights(
    build_prior: MakePrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two ways agree where the sample is everything."""
    prior, support = build_prior(), random_support(40, 3)
    new = random_pictures(6, 77)
    whole = adapt(prior, support).predict(new)
    monkeypatch.setattr(adaptation, "_SWEEP_SHOTS", 39)
    monkeypatch.setattr(adaptation, "_sample", lambda count, _: np.arange(count))
    np.testing.assert_allclose(adapt(prior, support).predict(new), whole, rtol=1e-12)


@pytest.mark.parametrize(("shots", "seeds"), [(12, 60), (30, 40)])
def test_judge_is_fair_on_noise(build_prior: MakePrior, shots: int, seeds: int) -> None:
    """Where there is nothing to learn, neither head may look better on average, and few may look learned.

    Judging by leaving out one rating would give about -0.3 here: each rating left out moves the fitted mean
    away from it.
    """
    judged = [judge(build_prior(), random_support(shots, seed)) for seed in range(seeds)]
    differences = [result.difference for result in judged if result.difference is not None]
    assert len(differences) == seeds
    assert -0.1 < np.mean(differences) < 0.06
    learned = sum(result.verdict is Verdict.LEARNED for result in judged)
    assert learned <= 0.15 * seeds


@pytest.mark.parametrize("shots", [14, 30, 60])
def test_judge_finds_a_taste_that_is_there(build_prior: MakePrior, shots: int) -> None:
    prior = build_prior()
    result = judge(prior, planted_support(prior, shots, seed=4))
    assert result.verdict is Verdict.LEARNED
    assert result.shots == shots
    assert result.difference is not None
    assert result.difference > 0.15


def test_judge_says_when_the_personal_head_is_worse(build_prior: MakePrior) -> None:
    """Ratings exactly as the generic score orders the pictures, and a grid that may not follow it."""
    prior = build_prior(grid=one_blend(slope=0.0, noise=8.0))
    embeddings = random_pictures(14, 2)
    result = judge(prior, support_of(embeddings, 0.5 + 0.1 * prior.standardized(embeddings)))
    assert result.prior_accuracy == 1
    assert result.verdict is Verdict.WORSE


@pytest.mark.parametrize("shots", [8, 24])
def test_left_out_ratings_do_not_enter(build_prior: MakePrior, shots: int) -> None:
    """Neither the fit, nor its centring, nor the weights of the mixture may have seen them.

    They are hundreds of times larger than the scores that stay the same to rounding: a leak would show.
    """
    prior, support = build_prior(), random_support(shots, 11)
    parts = covariance(prior, support.embeddings)
    rng = np.random.default_rng(0)
    for left_out in itertools.islice(adaptation._left_out(shots, rng), 12):
        changed = support.ratings.copy()
        changed[left_out] = rng.uniform(-100, 100, len(left_out))
        np.testing.assert_allclose(
            adaptation._LeaveOut(prior, parts, changed).scores(left_out),
            adaptation._LeaveOut(prior, parts, support.ratings).scores(left_out),
            atol=1e-11,
        )


@pytest.mark.parametrize("shots", [6, 24])
def test_judged_scores_are_those_of_the_head_that_saw_the_rest(build_prior: MakePrior, shots: int) -> None:
    """What is judged is what ``adapt`` would make of the other ratings; the constant mean orders nothing."""
    prior, support = build_prior(), random_support(shots, 13)
    parts = covariance(prior, support.embeddings)
    for left_out in itertools.islice(adaptation._left_out(shots, np.random.default_rng(0)), 5):
        rest = np.setdiff1d(np.arange(shots), left_out)
        head = adapt(prior, support_of(support.embeddings[rest], support.ratings[rest]))
        np.testing.assert_allclose(
            adaptation._LeaveOut(prior, parts, support.ratings).scores(left_out) + prior.offset_mean,
            head.predict(support.embeddings[left_out])[0],
            atol=1e-10,
        )


@pytest.mark.parametrize("shots", [16, 17])
def test_every_rating_is_left_out(shots: int) -> None:
    """Up to 16 every pair once; above, ten splits into fifths that hold every picture once."""
    groups = list(adaptation._left_out(shots, np.random.default_rng(0)))
    if shots == 16:
        assert [tuple(group) for group in groups] == list(itertools.combinations(range(16), 2))
        return
    assert len(groups) == 50
    for start in range(0, 50, 5):
        assert sorted(np.concatenate(groups[start : start + 5])) == list(range(17))
        assert min(map(len, groups)) >= 2


def test_prior_accuracy_is_that_of_all_pairs(build_prior: MakePrior) -> None:
    prior, support = build_prior(), random_support(10, 21)
    result = judge(prior, support)
    assert result.pairs == 45
    expected = pairwise_accuracy(support.ratings, prior.standardized(support.embeddings))
    assert result.prior_accuracy == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shots", [2, 3, 5])
def test_too_few_ratings_to_leave_any_out(build_prior: MakePrior, shots: int) -> None:
    result = judge(build_prior(), random_support(shots, 0))
    assert (result.shots, result.pairs) == (shots, 0)
    assert result.prior_accuracy is result.personal_accuracy is result.interval is result.difference is None
    assert result.verdict is Verdict.NOT_ENOUGH


@pytest.mark.parametrize("shots", [6, 10, 25])
def test_all_ratings_equal_but_one(build_prior: MakePrior, shots: int) -> None:
    """Every pair then shares that one picture: nothing can be said about another one."""
    ratings = np.full(shots, 0.5)
    ratings[1] = 1.0
    result = judge(build_prior(), support_of(random_pictures(shots, 1), ratings))
    assert 0 < result.pairs <= shots - 1
    assert result.interval is None
    assert result.verdict is Verdict.NOT_ENOUGH


def test_ratings_in_two_heaps(build_prior: MakePrior) -> None:
    """Thumbs up or down: pairs with equal ratings are not judged."""
    ratings = np.array([0.0, 1.0] * 5)
    result = judge(build_prior(), support_of(random_pictures(10, 1), ratings))
    assert result.pairs == 25


@pytest.mark.parametrize("shots", [6, 12, 40])
def test_interval_holds_the_difference(build_prior: MakePrior, shots: int) -> None:
    result = judge(build_prior(), random_support(shots, 31))
    assert result.interval is not None
    assert result.difference is not None
    low, high = result.interval
    assert low < result.difference < high
    assert (low + high) / 2 == pytest.approx(result.difference, abs=1e-12)


def test_judge_is_deterministic_and_the_seed_splits(build_prior: MakePrior) -> None:
    prior, support = build_prior(), random_support(30, 5)
    assert judge(prior, support) == judge(prior, support)
    assert judge(prior, support, seed=1) != judge(prior, support, seed=2)


def test_many_ratings_are_judged_on_a_sample(build_prior: MakePrior) -> None:
    """Left out one fifth at a time, 1,200 ratings would take 50 fits to 960 each."""
    prior = build_prior(grid=one_blend())
    support = planted_support(prior, 1200, 9)
    result = judge(prior, support)
    assert result.shots == 1200
    assert 0.9 * 400 * 399 / 2 * (1 - 0.8**10) < result.pairs <= 400 * 399 / 2
    assert result.verdict is Verdict.LEARNED


def test_jackknife_leaves_out_one_picture_at_a_time() -> None:
    """Against the definition: the mean over pairs, computed again without each picture."""
    rng = np.random.default_rng(7)
    shots = 9
    difference = rng.normal(size=(shots, shots))
    difference += difference.T
    pairs = rng.uniform(size=(shots, shots)) < 0.7
    pairs = np.triu(pairs, 1) | np.triu(pairs, 1).T
    listed = [(i, j) for i, j in itertools.combinations(range(shots), 2) if pairs[i, j]]

    def mean(without: int | None) -> float:
        return float(np.mean([difference[pair] for pair in listed if without not in pair]))

    estimates = np.array([mean(picture) for picture in range(shots)])
    error = np.sqrt((shots - 1) / shots * ((estimates - estimates.mean()) ** 2).sum())
    interval = adaptation.jackknife_interval(difference, pairs)
    assert interval is not None
    reach = stats.t.ppf(0.95, shots - 1) * error
    assert interval == pytest.approx((mean(None) - reach, mean(None) + reach), rel=2e-3)


@pytest.mark.parametrize(
    ("degrees", "tolerance"), [(3, 0.03), (4, 0.01), (10, 1e-3), (60, 1e-4), (399, 1e-4)]
)
def test_quantile_is_students(degrees: int, tolerance: float) -> None:
    assert adaptation._student_quantile(degrees) == pytest.approx(stats.t.ppf(0.95, degrees), abs=tolerance)
