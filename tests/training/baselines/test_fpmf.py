"""FPMF finds a planted taste, its steps minimize what they say, and its ridge is a ridge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from piaa_sdk.errors import ModelFormatError, SupportSetError
from training.baselines.components import ContentComponents
from training.baselines.features import PictureFeatures
from training.baselines.fpmf import Factors, FpmfConfig, InputFeatures, Moments
from training.config import CONFIG_FOLDER, build, read_toml
from training.evaluation import evaluate
from training.personalizers import Support

from .made_people import UNIT, make_people, shuffle_ratings

CHOSEN = {"dimensions": 3, "item_strength": 0.3, "strength": 1.0}


@pytest.mark.parametrize(
    ("inputs", "source"), [("attribute", "attribute"), ("content", "content"), ("both", "content")]
)
def test_a_planted_taste_is_found(inputs: str, source: str) -> None:
    """Above the mean user and above another person's ratings, by people and pictures not trained on."""
    seen, unseen = make_people(40, 80, seed=1, source=source), make_people(8, 60, seed=2, source=source)
    fitted = FpmfConfig(inputs).fit(seen.table, UNIT, seen.features, CHOSEN, seed=0)
    method = fitted.personalizer("FPMF", unseen.features)
    [result] = evaluate(method, unseen.table, UNIT, shots=[15], repeats=3).results
    figures = {name: figure.mean for name, figure in result.figures.items()}
    assert figures["personal"] > 0.8
    assert figures["personal"] > figures["prior"] + 0.3
    assert figures["personal"] > figures["shuffled"] + 0.3
    assert 0.8 < result.coverage < 0.97  # of 90 % intervals


def test_the_wrong_source_finds_nothing() -> None:
    """Attributes know nothing of a taste in content: were content read all the same, it would be found."""
    seen, unseen = make_people(40, 80, seed=1), make_people(8, 60, seed=2)
    fitted = FpmfConfig("attribute").fit(seen.table, UNIT, seen.features, CHOSEN, seed=0)
    method = fitted.personalizer("FPMF", unseen.features)
    [result] = evaluate(method, unseen.table, UNIT, shots=[15], repeats=3).results
    assert abs(result.figures["personal"].mean) < 0.15


def test_shuffled_ratings_teach_nothing() -> None:
    """8 people with 45 query pictures, three times: a mean correlation has a standard error of about 0.04."""
    seen, unseen = make_people(40, 80, seed=1), shuffle_ratings(make_people(8, 60, seed=2), seed=3)
    fitted = FpmfConfig("content").fit(seen.table, UNIT, seen.features, CHOSEN, seed=0)
    method = fitted.personalizer("FPMF", unseen.features)
    [result] = evaluate(method, unseen.table, UNIT, shots=[15], repeats=3).results
    assert abs(result.figures["personal"].mean) < 0.12


def start(dimensions: int = 3, *, density: float = 0.5) -> tuple[Moments, Factors]:
    people = make_people(12, 40, seed=4, density=density)
    described = InputFeatures.fit(people.features, "both", 10).describe(people.features)
    moments = Moments.collect(people.table, UNIT, described)
    return moments, Factors.start(
        moments, np.zeros(described.shape[1]), dimensions, 0.2, np.full(described.shape[1], 0.7)
    )


def test_the_objective_falls_every_sweep() -> None:
    """Every step is an exact minimum of the same objective, so it can only fall, and it does settle."""
    moments, factors = start()
    values = []
    for _ in range(40):
        factors = factors.with_users(moments)
        values.append(factors.objective(moments))
        factors = factors.with_items(moments)
        values.append(factors.objective(moments))
    falls = -np.diff(values)
    assert (falls > -1e-10).all()
    assert falls[:6].min() > 1e-6
    assert falls[-1] < 0.02 * falls[0]


def test_the_step_of_items_is_the_minimum() -> None:
    """The objective is quadratic in (a, W): at its minimum, steps to both sides raise it alike."""
    moments, factors = start()
    factors = factors.with_users(moments).with_items(moments)
    lowest, rng = factors.objective(moments), np.random.default_rng(0)
    for _ in range(10):
        bias, mapped = rng.normal(size=factors.item_bias.shape), rng.normal(size=factors.item_map.shape)
        there, back = (
            replace(
                factors,
                item_bias=factors.item_bias + sign * 1e-3 * bias,
                item_map=factors.item_map + sign * 1e-3 * mapped,
            ).objective(moments)
            for sign in (1, -1)
        )
        assert there > lowest
        assert there - lowest == pytest.approx(back - lowest, rel=1e-4)


def test_the_objective_is_the_sum_over_the_ratings() -> None:
    """Moments stand for the ratings: the squared error must be that of rating after rating."""
    people = make_people(5, 20, seed=5, density=0.4)
    described = InputFeatures.fit(people.features, "content", 4).describe(people.features)
    moments = Moments.collect(people.table, UNIT, described)
    weights = np.random.default_rng(1).normal(size=(5, 5))
    by_hand = 0.0
    for user, image, rating in zip(
        people.table.user_index, people.table.image_index, people.table.ratings, strict=True
    ):
        score = moments.mean + weights[user, 0] + described[image] @ weights[user, 1:]
        by_hand += float(rating - score) ** 2
    assert moments.squared_error(weights) == pytest.approx(by_hand)


def test_the_noise_counts_off_what_users_have_for_themselves() -> None:
    """By hand: squared errors over the ratings less the traces of all users' hat matrices.

    With about ten ratings and four numbers each, a mean squared error would be far below the noise.
    """
    people = make_people(12, 20, seed=5, density=0.5)
    described = InputFeatures.fit(people.features, "content", 4).describe(people.features)
    moments = Moments.collect(people.table, UNIT, described)
    factors = Factors.start(moments, np.zeros(4), 3, 0.01, np.full(4, 0.7)).with_users(moments)
    vectors = np.column_stack([np.ones(20), described @ factors.item_map.T])
    penalty = np.diag([1.0, 0.01, 0.01, 0.01])
    error = used = 0.0
    for user, (_, images, ratings) in enumerate(people.table.by_user()):
        rated = vectors[images]
        used += float(np.trace(rated @ np.linalg.inv(rated.T @ rated + penalty) @ rated.T))
        scores = moments.mean + rated @ factors.users[user] + described[images] @ factors.item_bias
        error += float(((ratings - scores) ** 2).sum())
    count = len(people.table)
    assert used > 0.2 * count
    assert factors.noise(moments) == pytest.approx(error / (count - used))


def test_a_new_users_ridge_is_least_squares_with_imagined_ratings() -> None:
    """A ridge with penalty c is least squares with sqrt(c) times the identity below the pictures."""
    people = make_people(20, 40, seed=6)
    fitted = FpmfConfig("content").fit(
        people.table, UNIT, people.features, CHOSEN | {"strength": 2.0}, seed=0
    )
    method = fitted.personalizer("FPMF", people.features)
    images, ratings = np.array([3, 8, 20, 31]), np.array([0.2, 0.9, 0.4, 0.7])
    vectors, count = method.vectors[images], method.vectors.shape[1]
    stacked = np.vstack([vectors, np.sqrt(2.0 * method.noise) * np.eye(count)])
    wanted = np.concatenate([ratings - method.scores[images], np.zeros(count)])
    deviation = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
    scores, _ = method.personalize(Support(images, ratings)).predict(np.arange(40))
    assert scores == pytest.approx(method.scores + method.vectors @ deviation)


def test_an_infinite_strength_is_the_prior() -> None:
    people = make_people(20, 40, seed=6)
    fitted = FpmfConfig("both").fit(people.table, UNIT, people.features, CHOSEN | {"strength": 1e12}, seed=0)
    method = fitted.personalizer("FPMF", people.features)
    images = np.arange(40)
    scores, std = method.personalize(Support(images[:2], np.array([0.0, 1.0]))).predict(images)
    assert scores == pytest.approx(method.generic(images), abs=1e-9)
    assert std == pytest.approx(np.sqrt(method.noise))


def test_the_prior_is_the_mean_training_user() -> None:
    """Predictions are linear in (b_u, p_u), so the mean vector's scores are the mean of all users' scores."""
    people = make_people(20, 40, seed=6)
    inputs = InputFeatures.fit(people.features, "content", 6)
    described = inputs.describe(people.features)
    moments = Moments.collect(people.table, UNIT, described)
    factors = Factors.start(moments, np.zeros(6), 2, 0.2, np.full(6, 0.7)).sweep(moments).with_users(moments)
    each = (
        moments.mean
        + factors.users[:, :1]
        + (factors.users[:, 1:] @ factors.item_map + factors.item_bias) @ described.T
    )
    method = type(FpmfConfig("content").fit(people.table, UNIT, people.features, CHOSEN, seed=0)).summarize(
        inputs, moments, factors, 1.0
    )
    generic = method.personalizer("FPMF", people.features).generic(np.arange(40))
    assert generic == pytest.approx(each.mean(axis=0))


def test_both_sources_count_alike() -> None:
    """Units and numbers of columns must not decide which source is heard."""
    rng = np.random.default_rng(7)
    features = PictureFeatures(1000 * rng.normal(size=(50, 30)), rng.normal(size=(50, 4)), "made up")
    described = InputFeatures.fit(features, "both", 8).describe(features)
    variances = described.var(axis=0)
    assert described.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert (variances[:4].sum(), variances[4:].sum()) == pytest.approx((0.5, 0.5), rel=0.03)


def test_useless_attributes_do_not_spoil_the_prior_of_content() -> None:
    """With a penalty of their own, 25 numbers that say nothing are all but left out of the bias."""
    rng = np.random.default_rng(10)
    seen, unseen = make_people(10, 60, seed=1, taste=0.02), make_people(6, 200, seed=2, taste=0.02)
    errors = []
    for inputs in ("content", "both"):
        noisy = [
            replace(people.features, attributes=rng.normal(size=(len(people.features.content), 25)))
            for people in (seen, unseen)
        ]
        fitted = FpmfConfig(inputs).fit(seen.table, UNIT, noisy[0], CHOSEN, seed=0)
        scores = fitted.personalizer("FPMF", noisy[1]).generic(np.arange(200))
        errors.append(1 - np.corrcoef(scores, unseen.table.mean_ratings())[0, 1])
    assert errors[1] < errors[0] + 0.01


def test_components_are_the_main_directions() -> None:
    """The same by both solvers: more pictures than numbers, and fewer."""
    rng = np.random.default_rng(8)
    content = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 10)) + 0.001 * rng.normal(size=(40, 10))
    for part in (content, content[:9]):
        found = ContentComponents.fit(part, 3)
        reduced = found.apply(part)
        assert reduced.var(axis=0).sum() == pytest.approx(1, rel=0.15)
        standardized = found.standardizer.apply(part)
        onto = np.linalg.lstsq(reduced, standardized, rcond=None)[0]
        assert np.abs(standardized - reduced @ onto).max() < 0.02


def test_the_same_input_gives_the_same_scores() -> None:
    people = make_people(10, 30, seed=9)
    support = Support(np.array([1, 5, 9]), np.array([0.1, 0.5, 0.3]))
    scores = [
        FpmfConfig("both")
        .fit(people.table, UNIT, people.features, CHOSEN, seed=0)
        .personalizer("FPMF", people.features)
        .personalize(support)
        .predict(np.arange(30))[0]
        for _ in range(2)
    ]
    assert (scores[0] == scores[1]).all()


@pytest.mark.parametrize("ratings", [[0.5], [0.5, 0.5, 0.5]])
def test_ratings_without_a_difference_are_refused(ratings: list[float]) -> None:
    people = make_people(10, 30, seed=9)
    method = (
        FpmfConfig("attribute")
        .fit(people.table, UNIT, people.features, CHOSEN, seed=0)
        .personalizer("FPMF", people.features)
    )
    with pytest.raises(SupportSetError, match="two different ones"):
        method.personalize(Support(np.arange(len(ratings)), np.array(ratings)))


def test_attributes_of_another_source_are_refused() -> None:
    people = make_people(10, 30, seed=9)
    fitted = FpmfConfig("attribute").fit(people.table, UNIT, people.features, CHOSEN, seed=0)
    fewer = replace(people.features, attributes=people.features.attributes[:, :4])
    with pytest.raises(ModelFormatError, match="6 attributes and is given 4"):
        fitted.personalizer("FPMF", fewer)


def test_candidates_are_every_combination() -> None:
    config = FpmfConfig("both", dimensions=(2, 5), item_strengths=(0.3, 1.0), strengths=(1.0,))
    found = [tuple(candidate.values()) for candidate in config.candidates()]
    assert found == [(2, 0.3, 1.0), (2, 1.0, 1.0), (5, 0.3, 1.0), (5, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("inputs", "title"),
    [
        ("attribute", "FPMF (only attribute)"),
        ("content", "FPMF (only content)"),
        ("both", "FPMF (content and attribute)"),
    ],
)
def test_shipped_configurations_are_the_rows_of_the_paper(inputs: str, title: str) -> None:
    data = read_toml(CONFIG_FOLDER / "baselines" / f"fpmf_{inputs}.toml")
    config = build(FpmfConfig, data["fpmf"], inputs)
    assert (config.inputs, data["title"]) == (inputs, title)
    assert config == FpmfConfig(inputs)
    assert 1 < len(config.candidates()) <= 30


@pytest.mark.parametrize(
    "settings",
    [{"inputs": "pixels"}, {"dimensions": ()}, {"strengths": (0.0,)}, {"sweeps": 0}, {"components": 0}],
)
def test_settings_that_nothing_can_be_fitted_with_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ModelFormatError, match="must"):
        FpmfConfig(**{"inputs": "both"} | settings)  # type: ignore[arg-type]
