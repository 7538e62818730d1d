"""PAM on people whose taste was made up: what the residual regression must find, and what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from piaa_sdk.errors import ModelFormatError, SupportSetError
from piaa_sdk.metrics import srocc
from piaa_sdk.rating_scale import RatingScale
from training.baselines.features import INPUTS, PictureFeatures
from training.baselines.pam import ContentClasses, FittedPam, PamConfig, PamPersonalizer, Regression
from training.config import CONFIG_FOLDER, build, read_toml
from training.data.ratings import RatingTable
from training.evaluation import evaluate
from training.personalizers import Support

if TYPE_CHECKING:
    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]

UNIT = RatingScale(0, 1)
CHOSEN = {"cost": 1.0, "scale": 0.5, "tube": 0.05}
KINDS, ATTRIBUTES, DIM = 5, 4, 24


class World:
    """Pictures of five kinds, each with attributes; people like kinds, attributes, and what all like."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shared = np.random.default_rng(99)
        centers, self.common = shared.normal(size=(KINDS, DIM)) * 3, shared.normal(size=DIM) / np.sqrt(DIM)
        self.kinds = rng.integers(0, KINDS, count)
        content = centers[self.kinds] + rng.normal(size=(count, DIM))
        self.attributes = rng.normal(size=(count, ATTRIBUTES))
        self.features = PictureFeatures(content, self.attributes, "made up")
        generic = (content - centers[self.kinds]) @ self.common
        self.generic = generic / generic.std()

    def table(self, users: int, seed: int, *, by: str, shuffled: bool = False) -> RatingTable:
        """Rate all pictures by the generic score and an own liking of kinds or of attributes."""
        rng = np.random.default_rng(seed)
        rows = []
        for _ in range(users):
            if by == "content":
                own = rng.normal(size=KINDS)[self.kinds]
            else:
                own = self.attributes @ rng.normal(size=ATTRIBUTES) / np.sqrt(ATTRIBUTES)
            liking = 0.5 + 0.05 * self.generic + 0.15 * own + rng.normal(0, 0.03, len(own))
            rows.append(rng.permutation(liking) if shuffled else liking)
        return as_table(np.array(rows))


def as_table(ratings: Float64Array) -> RatingTable:
    """People by their ratings (U, N)."""
    user_index, image_index = np.nonzero(np.isfinite(ratings))
    return RatingTable(
        folder=Path(),
        users=tuple(f"user {user}" for user in range(len(ratings))),
        groups=("a",) * len(ratings),
        images=tuple(f"{image:04}.png" for image in range(ratings.shape[1])),
        user_index=user_index,
        image_index=image_index,
        ratings=ratings[user_index, image_index],
    )


def fit(inputs: str, *, by: str = "content", seed: int = 0) -> FittedPam:
    world = World(160, 1)
    config = PamConfig(inputs, clusters=KINDS, components=8)
    return config.fit(world.table(30, 2, by=by), UNIT, world.features, CHOSEN, seed=seed)


@pytest.mark.parametrize(
    ("inputs", "by"),
    [("content", "content"), ("attribute", "attribute"), ("both", "content"), ("both", "attribute")],
)
def test_it_finds_a_planted_taste_in_what_it_reads(inputs: str, by: str) -> None:
    """On new people and pictures, own ratings must teach more than the prior and another person's know."""
    world = World(120, 3)
    personalizer = fit(inputs, by=by).personalizer("PAM", world.features)
    judged = evaluate(personalizer, world.table(8, 4, by=by), UNIT, shots=[40], repeats=2)
    figures = judged.result(40).figures
    assert figures["personal"].mean > 0.6
    assert figures["personal-prior"].interval.low > 0.2
    assert figures["personal-shuffled"].interval.low > 0.2


@pytest.mark.parametrize(("inputs", "by"), [("attribute", "content"), ("content", "attribute")])
def test_it_does_not_find_what_it_does_not_read(inputs: str, by: str) -> None:
    """A liking of kinds is not in the attributes, nor the other way round: the three rows must differ."""
    world = World(120, 3)
    personalizer = fit(inputs, by=by).personalizer("PAM", world.features)
    judged = evaluate(personalizer, world.table(8, 4, by=by), UNIT, shots=[40], repeats=2)
    assert judged.result(40).figures["personal-prior"].mean < 0.1


@pytest.mark.parametrize("inputs", INPUTS)
def test_shuffled_ratings_teach_nothing(inputs: str) -> None:
    """Ratings dealt out at random have no order to be found: SROCC is within chance of 0."""
    world = World(120, 3)
    personalizer = fit(inputs).personalizer("PAM", world.features)
    table = world.table(12, 5, by="content", shuffled=True)
    judged = evaluate(personalizer, table, UNIT, shots=[40], repeats=2)
    # 12 people x 80 query pictures: a standard error of about 0.03.
    assert abs(judged.result(40).figures["personal"].mean) < 0.1


def test_a_tube_wider_than_all_residuals_leaves_the_generic_score() -> None:
    """Pencil: no residual costs anything, so the flattest function wins, one constant for all pictures."""
    world = World(50, 3)
    personalizer = fit("both").personalizer("PAM", world.features)
    wide = PamPersonalizer("PAM", personalizer.scores, personalizer.descriptors, Regression(1.0, 0.5, 10.0))
    ratings = np.linspace(0, 1, 20)
    scores, std = wide.personalize(Support(np.arange(20), ratings)).predict(np.arange(50))
    assert std is None
    assert np.ptp(scores - personalizer.generic(np.arange(50))) < 1e-12


def test_a_constant_residual_is_added_as_it_is() -> None:
    """Pencil: a person 0.3 below the generic score everywhere is met within the tube, in order and level."""
    world = World(50, 3)
    personalizer = fit("both").personalizer("PAM", world.features)
    generic = personalizer.generic(np.arange(50))
    predictor = personalizer.personalize(Support(np.arange(20), generic[:20] - 0.3))
    scores, _ = predictor.predict(np.arange(50))
    np.testing.assert_allclose(scores, generic - 0.3, atol=CHOSEN["tube"] + 1e-9)


def test_far_from_all_rated_pictures_the_kernel_says_nothing() -> None:
    """Limit: exp(-scale d^2) is 0 far away, so two far pictures differ by their generic scores alone."""
    descriptors = np.array([[0.0], [0.1], [100.0], [200.0]])
    pam = PamPersonalizer("PAM", np.array([0.5, 0.5, 0.2, 0.6]), descriptors, Regression(1.0, 1.0, 0.01))
    scores, _ = pam.personalize(Support(np.array([0, 1]), np.array([0.1, 0.9]))).predict(np.arange(4))
    assert scores[3] - scores[2] == pytest.approx(0.4)
    assert scores[1] > scores[0]


def test_the_residual_is_what_is_learned() -> None:
    """Pencil: two pictures unlike each other and all others have one term of the kernel each, a and -a.

    The flattest function within the tube passes 0.01 inside both residuals, r = 0.5 - 0.2 = 0.3 and
    0.8 - 0.9 = -0.1: a + b = 0.29 and -a + b = -0.09, so b = 0.1. Pictures far away are generic + b.
    """
    generic = np.array([0.2, 0.9, -3.0, 0.0, 5.0])
    pam = PamPersonalizer("PAM", generic, np.arange(5)[:, None] * 100.0, Regression(1.0, 1.0, 0.01))
    scores, _ = pam.personalize(Support(np.array([0, 1]), np.array([0.5, 0.8]))).predict(np.arange(5))
    np.testing.assert_allclose(scores, [0.49, 0.81, -2.9, 0.1, 5.1], atol=1e-3)


@pytest.mark.parametrize("clusters", [2, 3, 10])
def test_memberships_sum_to_one_and_are_those_of_the_classifier(clusters: int) -> None:
    """A softmax is a distribution; the likeliest class is shared by pictures of one kind."""
    world = World(100, 1)
    classes = ContentClasses.fit(world.features.content, clusters, 8, seed=0)
    found = classes.memberships(World(40, 3).features.content)
    assert found.shape == (40, clusters)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_with_as_many_classes_as_kinds_each_kind_is_a_class() -> None:
    """Kinds lie far apart: k-means must find them, and the classifier must know them on new pictures."""
    classes = ContentClasses.fit(World(160, 1).features.content, KINDS, 8, seed=0)
    new = World(80, 3)
    found = classes.memberships(new.features.content).argmax(axis=1)
    assert len({(kind, label) for kind, label in zip(new.kinds, found, strict=True)}) == KINDS


@pytest.mark.parametrize("inputs", INPUTS)
def test_training_pictures_have_a_mean_squared_length_of_one(inputs: str) -> None:
    """So that one scale of the kernel means the same whatever is read, and both blocks count alike."""
    fitted = fit(inputs)
    lengths = (fitted.describe(World(160, 1).features) ** 2).sum(axis=1)
    assert lengths.mean() == pytest.approx(1, abs=1e-4)  # deviations are floored


def test_the_same_seed_gives_the_same_scores() -> None:
    """Determinism, from k-means to the last bit."""
    world = World(60, 3)
    support = Support(np.arange(20), np.linspace(0, 1, 20))
    first, again = (
        fit("both", seed=3).personalizer("PAM", world.features).personalize(support).predict(np.arange(60))[0]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("ratings", [[0.5] * 10, [0.5]])
def test_ratings_without_a_difference_are_refused(ratings: list[float]) -> None:
    """They order nothing; evaluation then lets the prior stand in."""
    personalizer = fit("content").personalizer("PAM", World(60, 3).features)
    with pytest.raises(SupportSetError, match="two different ones"):
        personalizer.personalize(Support(np.arange(len(ratings)), np.array(ratings)))


def test_the_prior_is_the_score_of_all() -> None:
    """M = 0 must follow what the training people share."""
    world = World(200, 7)
    personalizer = fit("both").personalizer("PAM", world.features)
    assert srocc(world.generic, personalizer.generic(np.arange(200))) > 0.5


def test_other_attributes_than_in_training_are_refused() -> None:
    """Attributes of two sources have no axis in common."""
    features = World(20, 3).features
    other = PictureFeatures(features.content, features.attributes[:, :2], "another source")
    with pytest.raises(ModelFormatError, match="4 attributes and is given 2"):
        fit("both").personalizer("PAM", other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": "pictures"}, "must be one of attribute, content, both"),
        ({"inputs": "both", "costs": ()}, "costs of PAM"),
        ({"inputs": "both", "scales": (0.0,)}, "each above 0$"),
        ({"inputs": "both", "tubes": (-0.1,)}, "each above 0 or 0"),
        ({"inputs": "both", "clusters": 1}, "1 clusters"),
    ],
)
def test_settings_that_nothing_can_be_fitted_with_are_refused(
    settings: dict[str, object], message: str
) -> None:
    """Each error names the setting and what is allowed."""
    with pytest.raises(ModelFormatError, match=message):
        PamConfig(**settings)  # type: ignore[arg-type]


def test_fewer_pictures_than_classes_are_refused() -> None:
    """k-means cannot make ten classes of six pictures."""
    with pytest.raises(ModelFormatError, match="6 different pictures cannot be divided into 10"):
        ContentClasses.fit(World(6, 1).features.content, 10, 8, seed=0)


@pytest.mark.parametrize(
    ("name", "inputs", "title"),
    [
        ("pam_attribute", "attribute", "PAM (only attribute)"),
        ("pam_content", "content", "PAM (only content)"),
        ("pam_both", "both", "PAM (content and attribute)"),
    ],
)
def test_the_shipped_configurations_are_the_rows_of_the_table(name: str, inputs: str, title: str) -> None:
    """Titles are those of Table I; at most twelve combinations are tried."""
    found = read_toml(CONFIG_FOLDER / "baselines" / f"{name}.toml")
    config = build(PamConfig, found["pam"], "pam")
    assert (config.inputs, found["title"]) == (inputs, title)
    assert config == PamConfig(inputs)
    assert 1 <= len(config.candidates()) <= 12
    assert all(Regression(**candidate).scale > 0 for candidate in config.candidates())
