"""USAR finds a planted taste in each form, and its losses, neighbours and fusion are what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from piaa_sdk.errors import ModelFormatError, SupportSetError
from training.baselines.aesthetic_distribution import (
    divergence,
    expected_ratings,
    learn_distribution,
    spread_over_levels,
)
from training.baselines.generic_score import GenericScore
from training.baselines.newton import minimize
from training.baselines.preference_ranking import Neighbors, Pairs, learn_ranking
from training.baselines.usar import Crowd, Ranked, RankingPictures, UsarConfig
from training.config import CONFIG_FOLDER, build, read_toml
from training.evaluation import evaluate
from training.personalizers import Support

from .made_people import UNIT, make_people, shuffle_ratings

if TYPE_CHECKING:
    from training.baselines.usar import FittedUsar

    from .made_people import People

CHOSEN: dict[str, dict[str, Any]] = {
    "ppr": {"ranking_strength": 1.0, "neighbors": 2},
    "pad": {"distribution_strength": 0.1},
    "both": {"ranking_strength": 1.0, "neighbors": 2, "distribution_strength": 0.1},
}
SOURCES = {"ppr": "content", "pad": "attribute", "both": "content"}


def fit(form: str, people: People, seed: int = 0, **changed: float) -> FittedUsar:
    return UsarConfig(form).fit(people.table, UNIT, people.features, CHOSEN[form] | changed, seed=seed)


@pytest.mark.parametrize("form", ["ppr", "pad", "both"])
def test_a_planted_taste_is_found(form: str) -> None:
    """Above the generic ranking and above another person's ratings, by people and pictures not trained on."""
    source = SOURCES[form]
    seen, unseen = make_people(20, 80, seed=1, source=source), make_people(6, 70, seed=2, source=source)
    method = fit(form, seen).personalizer("USAR", unseen.features)
    [result] = evaluate(method, unseen.table, UNIT, shots=[30], repeats=2).results
    figures = {name: figure.mean for name, figure in result.figures.items()}
    assert figures["personal"] > 0.55
    assert figures["personal"] > figures["prior"] + 0.2
    assert figures["personal"] > figures["shuffled"] + 0.2
    errors = result.measures["mean_absolute_error"]
    assert errors["personal"] < errors["prior"]


@pytest.mark.parametrize("form", ["ppr", "pad", "both"])
def test_shuffled_ratings_teach_nothing(form: str) -> None:
    """6 people with 40 query pictures, twice: a mean correlation has a standard error of about 0.05."""
    seen, unseen = make_people(20, 80, seed=1), shuffle_ratings(make_people(6, 70, seed=2), seed=3)
    method = fit(form, seen).personalizer("USAR", unseen.features)
    [result] = evaluate(method, unseen.table, UNIT, shots=[30], repeats=2).results
    assert abs(result.figures["personal"].mean) < 0.15


@pytest.mark.parametrize("form", ["ppr", "pad", "both"])
def test_an_infinite_strength_ranks_as_the_prior(form: str) -> None:
    people = make_people(12, 40, seed=4)
    strengths = {name: 1e9 for name in CHOSEN[form] if name.endswith("strength")}
    method = fit(form, people, **strengths).personalizer("USAR", people.features)
    images = np.arange(40)
    scores, _ = method.personalize(Support(images[:5], np.array([0.1, 0.9, 0.2, 0.4, 0.6]))).predict(images)
    assert spearmanr(scores, method.generic(images)).statistic > 0.9999


def test_the_prior_of_the_ranker_is_the_generic_score() -> None:
    people = make_people(12, 40, seed=4)
    method = fit("ppr", people).personalizer("USAR", people.features)
    generic = GenericScore.fit(people.features.content, people.table.mean_ratings())
    scores = method.generic(np.arange(40))
    assert np.corrcoef(scores, generic.score(people.features.content))[0, 1] == pytest.approx(1)


def test_the_prior_of_the_distribution_knows_what_all_like() -> None:
    """The crowd likes an attribute here that the generic score, which reads content, knows nothing of."""
    seen = make_people(20, 80, seed=1, source="attribute", taste=0.02)
    unseen = make_people(6, 70, seed=2, source="attribute", taste=0.02)
    method = fit("pad", seen).personalizer("USAR", unseen.features)
    assert spearmanr(method.generic(np.arange(70)), unseen.table.mean_ratings()).statistic > 0.8


@pytest.mark.parametrize("form", ["ppr", "pad", "both"])
def test_a_score_does_not_depend_on_what_else_is_asked(form: str) -> None:
    people = make_people(12, 40, seed=4)
    method = fit(form, people).personalizer("USAR", people.features)
    predictor = method.personalize(Support(np.arange(4), np.array([0.1, 0.9, 0.2, 0.4])))
    together, _ = predictor.predict(np.arange(40))
    alone = np.concatenate([predictor.predict(np.array([image]))[0] for image in range(40)])
    assert (alone == together).all()
    assert (method.generic(np.arange(5, 7)) == method.generic(np.arange(40))[5:7]).all()


def test_scores_are_in_the_units_of_the_support() -> None:
    """Ratings squeezed to a half and moved give scores squeezed and moved: a ranking has no unit itself."""
    people = make_people(12, 40, seed=4)
    method = fit("ppr", people).personalizer("USAR", people.features)
    images, ratings = np.arange(8), np.array([0.1, 0.9, 0.2, 0.4, 0.3, 0.8, 0.6, 0.7])
    whole, _ = method.personalize(Support(images, ratings)).predict(np.arange(40))
    half, _ = method.personalize(Support(images, 0.25 + 0.5 * ratings)).predict(np.arange(40))
    assert half == pytest.approx(0.25 + 0.5 * whole)
    assert whole[images].mean() == pytest.approx(ratings.mean())


def test_scores_vary_less_than_ratings_by_the_agreement() -> None:
    """By hand: a score that explains a part of ratings alone has their deviation times the correlation."""
    people = make_people(12, 40, seed=4)
    method = fit("ppr", people).personalizer("USAR", people.features)
    crowd = method.crowd
    assert 0.1 < crowd.agreement < 0.9
    images, ratings = np.arange(8), np.array([0.1, 0.9, 0.2, 0.4, 0.3, 0.8, 0.6, 0.7])
    support = Support(images, ratings)
    own, nobodys = (method.modules[0].learn(given).standardized().pictures for given in (support, None))
    scores, _ = method.personalize(support).predict(np.arange(40))
    assert scores == pytest.approx(
        ratings.mean() + ratings.std() * crowd.agreement * (own - own[images].mean())
    )
    expected = crowd.rating_mean + crowd.rating_std * crowd.agreement * nobodys
    assert method.generic(np.arange(40)) == pytest.approx(expected)


def test_neighbors_are_the_nearest_and_weigh_by_distance() -> None:
    """The pool's pictures lie 1 apart, so h = 1: at a distance d the weight is exp(-d^2 / 2)."""
    pool = np.arange(6, dtype=np.float64)[:, None]
    found = Neighbors.find(np.array([[0.0], [3.4]]), pool, 2)
    assert found.positions.tolist() == [[0, 1], [3, 4]]
    assert found.weights == pytest.approx(np.exp(-0.5 * np.array([[0.0, 1.0], [0.16, 0.36]])))


def test_no_neighbors_are_a_support_set_as_it_is() -> None:
    found = Neighbors.find(np.zeros((3, 2)), np.zeros((5, 2)), 0)
    assert found.positions.shape == found.weights.shape == (3, 0)


def test_as_many_neighbors_as_chosen_are_learned_from() -> None:
    """Whoever ignores the setting finds none, or learns the same from two as from none."""
    people = make_people(12, 40, seed=4)
    support = Support(np.arange(4), np.array([0.1, 0.9, 0.2, 0.4]))
    found = {}
    for count in (0, 2):
        method = fit("ppr", people, neighbors=count).personalizer("USAR", people.features)
        [module] = method.modules
        assert isinstance(module, RankingPictures)
        assert module.neighbors.positions.shape == (40, count)
        found[count], _ = method.personalize(support).predict(np.arange(40))
    assert np.abs(found[2] - found[0]).max() > 1e-3


def test_neighbors_inherit_the_rating_with_their_weight() -> None:
    """Two rated pictures of 0.2 and 0.8, one neighbour each: pairs (0, 1) twice by a half, two inherited."""
    rated, ratings = np.array([[0.0], [1.0]]), np.array([0.2, 0.8])
    pairs = Pairs.collect(rated, ratings, np.array([[[0.1]], [[0.9]]]), np.array([[0.5], [0.25]]))
    assert pairs.others.ravel().tolist() == [0.0, 1.0, 0.1, 0.9]
    assert pairs.signs.tolist() == [[0, -1, 0, -1], [1, 0, 1, 0]]
    raw = 0.6 * np.array([[0, 0.5, 0, 0.25], [0.5, 0, 0.5, 0]])
    assert pairs.weights == pytest.approx(raw / raw.sum())


def test_inherited_ratings_are_learned_from() -> None:
    """The rated pictures say nothing of the second feature; only their neighbours do."""
    rated, ratings = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.2, 0.8])
    near = np.array([[[0.0, -1.0]], [[1.0, 1.0]]])
    with_neighbors = learn_ranking(Pairs.collect(rated, ratings, near, np.ones((2, 1))), np.zeros(2), 0.05)
    without = learn_ranking(Pairs.collect(rated, ratings, near[:, :0], np.ones((2, 0))), np.zeros(2), 0.1)
    assert with_neighbors[1] > 0.1
    assert without[1] == 0


def assert_derivatives(loss: Any, point: Any) -> None:
    """Compare gradient and Hessian with finite differences."""
    _, gradient, hessian = loss(point)
    for axis in range(len(point)):
        step = np.zeros(len(point))
        step[axis] = 1e-5
        above, below = loss(point + step), loss(point - step)
        assert (above[0] - below[0]) / 2e-5 == pytest.approx(gradient[axis], rel=1e-5, abs=1e-7)
        assert (above[1] - below[1]) / 2e-5 == pytest.approx(hessian[axis], rel=1e-4, abs=1e-6)


def test_derivatives_of_the_ranking_loss_are_right() -> None:
    rng = np.random.default_rng(5)
    pairs = Pairs.collect(
        rng.normal(size=(6, 3)), rng.random(6), rng.normal(size=(6, 2, 3)), rng.random((6, 2))
    )
    assert_derivatives(pairs.loss, rng.normal(size=3))


def test_derivatives_of_the_divergence_are_right() -> None:
    rng = np.random.default_rng(6)
    described, counts = rng.normal(size=(7, 3)), rng.random(7)
    targets = spread_over_levels(rng.random(7), 4)
    assert_derivatives(
        lambda point: divergence(point.reshape(4, 3), described, targets, counts), rng.normal(size=12)
    )


def test_a_rating_is_a_distribution_with_its_mean() -> None:
    """0.6 lies at 2.4 of the levels 0 to 4: 0.6 of its mass is on level 2 and 0.4 on level 3."""
    found = spread_over_levels(np.array([0.6, 0.0, 1.0]), 5)
    assert found == pytest.approx(np.array([[0, 0, 0.6, 0.4, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]))
    ratings = np.random.default_rng(7).random(20)
    assert spread_over_levels(ratings, 7) @ np.linspace(0, 1, 7) == pytest.approx(ratings)


def test_a_distribution_of_a_constant_is_that_of_the_ratings() -> None:
    """With nothing but a constant and next to no penalty, the best prediction is the mean distribution."""
    targets = spread_over_levels(np.array([0.0, 0.5, 0.5, 0.75, 1.0]), 5)
    ones = np.ones((5, 1))
    weights = learn_distribution(ones, targets, np.ones(5), np.zeros((5, 1)), 1e-9)
    assert expected_ratings(ones, weights) == pytest.approx(np.full(5, 0.55), abs=1e-4)


def test_newton_ends_at_the_minimum_from_where_a_full_step_overshoots() -> None:
    """Far out, log cosh is so flat that a whole Newton step from 3 leaves for 100."""

    def local(point: Any) -> Any:
        slope = np.tanh(point)
        return float(np.sum(np.log(np.cosh(point)))), slope, np.diag(1 - slope**2)

    assert minimize(local, np.array([3.0, -2.0])) == pytest.approx([0, 0], abs=1e-4)


def test_modules_are_fused_by_the_mean_of_their_z_scores() -> None:
    """The z-scores are over the reference pictures: of 0, 2, 4 the mean is 2 and the deviation sqrt(8/3)."""
    ranked = Ranked(np.array([2.0, 6.0]), np.array([0.0, 2.0, 4.0])).standardized()
    assert ranked.pictures == pytest.approx([0, 4 / np.sqrt(8 / 3)])
    people = make_people(12, 40, seed=4)
    both = fit("both", people).personalizer("USAR", people.features)
    support = Support(np.arange(4), np.array([0.1, 0.9, 0.2, 0.4]))
    by_module = [module.learn(support).standardized().pictures for module in both.modules]
    scores, _ = both.personalize(support).predict(np.arange(40))
    assert np.corrcoef(scores, np.mean(by_module, axis=0))[0, 1] == pytest.approx(1)


def test_generic_scores_of_the_pool_do_not_know_their_own_ratings() -> None:
    """Where content says nothing, scores of pictures that were fitted to agree with ratings all the same."""
    people = make_people(20, 60, seed=8, source="attribute")
    fitted = fit("ppr", people)
    means = people.table.mean_ratings()
    assert np.corrcoef(fitted.crowd.scores, means)[0, 1] < 0.25
    assert Crowd.fit(people.table, UNIT, means).agreement > fitted.crowd.agreement


def test_a_seed_decides_everything() -> None:
    people = make_people(12, 40, seed=4)
    support = Support(np.arange(4), np.array([0.1, 0.9, 0.2, 0.4]))

    def scores(seed: int) -> Any:
        method = fit("both", people, seed).personalizer("USAR", people.features)
        return method.personalize(support).predict(np.arange(40))[0]

    assert (scores(1) == scores(1)).all()
    assert (scores(1) != scores(2)).any()


@pytest.mark.parametrize("ratings", [[0.5], [0.5, 0.5, 0.5]])
def test_ratings_without_a_difference_are_refused(ratings: list[float]) -> None:
    people = make_people(6, 30, seed=9)
    method = fit("both", people).personalizer("USAR", people.features)
    with pytest.raises(SupportSetError, match="two different ones"):
        method.personalize(Support(np.arange(len(ratings)), np.array(ratings)))


def test_attributes_of_another_source_are_refused() -> None:
    people = make_people(6, 30, seed=9)
    fewer = replace(people.features, attributes=people.features.attributes[:, :4])
    with pytest.raises(ModelFormatError, match="6 attributes and is given 4"):
        fit("pad", people).personalizer("USAR", fewer)


def test_candidates_are_every_combination_of_what_the_form_has() -> None:
    settings: dict[str, Any] = {
        "ranking_strengths": (0.1, 1.0),
        "neighbors": (0, 3),
        "distribution_strengths": (0.3, 1.0),
    }
    counts = [len(UsarConfig(form, **settings).candidates()) for form in ("ppr", "pad", "both")]
    assert counts == [4, 2, 8]
    assert UsarConfig("pad", **settings).candidates() == [
        {"distribution_strength": 0.3},
        {"distribution_strength": 1.0},
    ]


@pytest.mark.parametrize(
    ("form", "title"), [("ppr", "USAR_PPR"), ("pad", "USAR_PAD"), ("both", "USAR_PPR&PAD")]
)
def test_shipped_configurations_are_the_rows_of_the_paper(form: str, title: str) -> None:
    data = read_toml(CONFIG_FOLDER / "baselines" / f"usar_{form}.toml")
    config = build(UsarConfig, data["usar"], form)
    assert (config.form, data["title"]) == (form, title)
    default = UsarConfig(form)
    if form == "both":  # fits 24 times otherwise
        assert set(config.ranking_strengths) < set(default.ranking_strengths)
        assert set(config.distribution_strengths) < set(default.distribution_strengths)
        default = replace(
            default,
            ranking_strengths=config.ranking_strengths,
            distribution_strengths=config.distribution_strengths,
        )
    assert config == default
    assert 1 < len(config.candidates()) <= 12


@pytest.mark.parametrize(
    "settings",
    [
        {"form": "all"},
        {"neighbors": (-1,)},
        {"neighbors": ()},
        {"ranking_strengths": (0.0,)},
        {"distribution_strengths": ()},
        {"levels": 1},
        {"components": 0},
    ],
)
def test_settings_that_nothing_can_be_fitted_with_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError, match="must"):
        UsarConfig(**{"form": "both"} | settings)
