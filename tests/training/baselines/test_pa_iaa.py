"""PA_IAA finds a planted taste, learns traits where there are labels, and says so where there are none."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from piaa_sdk.errors import DivergenceError, ModelFormatError, RatingError, SupportSetError
from piaa_sdk.finetune.full import seeded
from piaa_sdk.finetune.network import AestheticHead, HeadConfig
from piaa_sdk.metrics import srocc
from piaa_sdk.rating_scale import RatingScale
from training.baselines.features import PictureFeatures
from training.baselines.pa_iaa import (
    FittedPaIaa,
    PaIaaConfig,
    PersonalityFeatures,
    PersonalNetwork,
    TwoHeads,
    personality_features,
)
from training.config import CONFIG_FOLDER, build, read_toml
from training.data.personality import read_personality
from training.data.ratings import RatingTable
from training.evaluation import evaluate
from training.network import NetworkConfig
from training.personalizers import Support

if TYPE_CHECKING:
    from piaa_sdk.array_types import FloatArray
    from training.evaluation_record import ShotsResult

DIM = 8
UNIT = RatingScale(0, 1)
SMALL = PaIaaConfig(hidden=32, new_hidden=16, stage_one_rate=1e-2)
CHOSEN = {"iterations": 150, "rate": 3e-3, "new_rate": 3e-3}
PERSONALITY = np.random.default_rng(9).normal(size=(DIM, 5))
"""What of a picture the people of each trait like."""


def make_content(count: int, seed: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def features_of(content: FloatArray) -> PictureFeatures:
    return PictureFeatures(content, np.zeros((len(content), 1)), "none")


def make_table(content: FloatArray, people: int, seed: int) -> RatingTable:
    """What all like is the first number of a picture; what one likes beyond it is a direction of his own."""
    rng = np.random.default_rng(seed)
    ratings = []
    for _ in range(people):
        own = content @ rng.normal(size=DIM) / np.sqrt(DIM)
        ratings.append(0.5 + 0.08 * content[:, 0] + 0.15 * own + rng.normal(scale=0.03, size=len(content)))
    return table_of(np.array(ratings))


def table_of(ratings: FloatArray) -> RatingTable:
    user_index, image_index = map(np.ravel, np.indices(ratings.shape))
    return RatingTable(
        folder=Path(),
        users=tuple(f"{user:03}" for user in range(len(ratings))),
        groups=("a",) * len(ratings),
        images=tuple(f"{image:05}.png" for image in range(ratings.shape[1])),
        user_index=user_index,
        image_index=image_index,
        ratings=ratings.ravel(),
    )


@functools.cache
def labelled() -> FittedPaIaa:
    return fit(SMALL.with_personality(make_personality(400, 20)))


def make_personality(count: int, seed: int, *, scale: float = 0.3) -> PersonalityFeatures:
    content = make_content(count, seed)
    return PersonalityFeatures(content, np.tanh(scale * content @ PERSONALITY))


def fit(config: PaIaaConfig = SMALL, *, seed: int = 0, **chosen: float) -> FittedPaIaa:
    content = make_content(150, 1)
    table = make_table(content, 60, 2)
    return config.fit(table, UNIT, features_of(content), {**CHOSEN, **chosen}, seed=seed)


@functools.cache
def fitted() -> FittedPaIaa:
    return fit()


def judge(ratings: FloatArray, content: FloatArray, **options: Any) -> ShotsResult:
    personalizer = fitted().personalizer("PA_IAA", features_of(content))
    found = evaluate(personalizer, table_of(ratings), UNIT, shots=(60,), repeats=1, **options)
    return found.results[0]


def test_a_planted_taste_is_found() -> None:
    """Own ratings beat the prior, which knows what all like, and somebody else's ratings."""
    content = make_content(120, 3)
    table = make_table(content, 8, 4)
    figures = judge(table.ratings.reshape(8, -1), content).figures
    assert figures["prior"].mean > 0.1
    assert figures["personal-prior"].interval.low > 0.15
    assert figures["personal-shuffled"].interval.low > 0.15


def test_shuffled_ratings_teach_nothing() -> None:
    """Ratings that have nothing to do with the pictures are not predicted: |SROCC| of 60 for 16 people."""
    content = make_content(120, 3)
    rng = np.random.default_rng(5)
    ratings = np.array([rng.permutation(np.linspace(0, 1, 120)) for _ in range(16)])
    assert abs(judge(ratings, content, control_repeats=0).figures["personal"].mean) < 3 / np.sqrt(59 * 16)


def support_of(count: int = 20, seed: int = 0) -> Support:
    ratings = np.random.default_rng(8).uniform(size=count)
    return Support(np.arange(count), ratings, seed)


def test_without_weights_of_traits_the_score_is_that_of_the_aesthetics_head() -> None:
    """Weights of 0 leave a(x) alone, exactly."""
    shared = fitted().network
    network = PersonalNetwork(shared, 4)
    content = make_content(30, 6)
    personalizer = fitted().personalizer("PA_IAA", features_of(content))
    torch.nn.init.zeros_(dict(network.named_parameters())["trait_weights.2.weight"])
    network.eval()
    with torch.no_grad():
        scores = network(personalizer.standardized).double().numpy()
    np.testing.assert_array_equal(scores, personalizer.generic(np.arange(30)))


def test_no_epochs_leave_the_prior_but_for_small_new_weights() -> None:
    """Before the first step p and w are small random numbers, and so is their product."""
    content = make_content(200, 6)
    start = replace(fitted(), settings=replace(SMALL, epochs=0))
    personalizer = start.personalizer("PA_IAA", features_of(content))
    images = np.arange(200)
    scores, std = personalizer.personalize(support_of()).predict(images)
    generic = personalizer.generic(images)
    assert std is None
    assert srocc(generic, scores) > 0.999
    assert 0 < np.abs(scores - generic).max() < 0.05 * np.ptp(generic)


def pencil_network() -> PersonalNetwork:
    """One number, one hidden unit, one unit in w; every trait but the first has the weight 0."""
    network = PersonalNetwork(TwoHeads(1, 1, 0.0), 1)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
        parameters["shared.aesthetics.hidden.0.weight"].fill_(2.0)
        parameters["shared.aesthetics.hidden.1.weight"].fill_(1.0)
        parameters["shared.aesthetics.output.weight"].fill_(0.5)
        parameters["shared.personality.weight"][0] = 0.25
        parameters["trait_weights.0.weight"].fill_(1.0)
        parameters["trait_weights.2.weight"][0] = 0.75
    return network.double().eval()


def test_forward_by_pencil() -> None:
    """At x = 3: u = 2x = 6, a = 0.5 u = 3, p_1 = tanh(0.25 u), w_1 = tanh(0.75 u); traits 2 to 5 give 0."""
    network = pencil_network()
    units = 2 * 3 / np.sqrt(1 + 1e-5)  # batch normalization divides by the running deviation, 1
    expected = 0.5 * units + np.tanh(0.25 * units) * np.tanh(0.75 * units)
    found = network(torch.tensor([[3.0]], dtype=torch.float64))
    np.testing.assert_allclose(found.detach().numpy(), [expected], rtol=1e-12)


def test_gradients_by_finite_differences() -> None:
    """All parameters take part: those of trunk, a, p and w."""
    torch.manual_seed(0)
    network = PersonalNetwork(TwoHeads(3, 4, 0.5), 2).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    inputs, ratings = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, dtype=torch.float64)

    def loss() -> torch.Tensor:
        error: torch.Tensor = (network(inputs) - ratings).square().mean()
        return error

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    step = 1e-6
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert float(gradient.abs().max()) > 0
        flat, own = parameter.data.view(-1), gradient.reshape(-1)
        for place in range(len(flat)):
            before = float(flat[place])
            losses = []
            for moved in (before + step, before - step):
                flat[place] = moved
                losses.append(float(loss().detach()))
            flat[place] = before
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(own[place]), abs=1e-6)


def test_everything_is_fine_tuned_and_the_prior_stays() -> None:
    """A person changes trunk, a, p and w; the next one starts from what the first one started from."""
    personalizer = fitted().personalizer("PA_IAA", features_of(make_content(40, 6)))
    before = {name: value.clone() for name, value in fitted().network.state_dict().items()}
    tuned = dict(personalizer.personalize(support_of()).network.shared.named_parameters())
    for name, value in tuned.items():
        assert not torch.equal(value, before[name]), name
    assert all(torch.equal(value, before[name]) for name, value in fitted().network.state_dict().items())


def tuned(system: FittedPaIaa) -> dict[str, torch.Tensor]:
    """Return a person's parameters, the same person's for every system."""
    personalizer = system.personalizer("PA_IAA", features_of(make_content(40, 6)))
    return dict(personalizer.personalize(support_of()).network.named_parameters())


def untuned() -> dict[str, torch.Tensor]:
    return tuned(replace(fitted(), settings=replace(SMALL, epochs=0)))


@pytest.mark.parametrize("still", ["rate", "new_rate"])
def test_each_of_the_two_rates_moves_its_own_parameters(still: str) -> None:
    """A rate of 0 leaves what was taken over, or what is new, where it was; the other moves all the same."""
    before, after = untuned(), tuned(fit(**{still: 0.0}))
    assert before.keys() == after.keys()
    for name, value in after.items():
        is_still = name.startswith("shared.") == (still == "rate")
        assert torch.equal(value, before[name]) == is_still, name


def test_one_epoch_is_one_step_of_adam() -> None:
    """Pencil: the first step of Adam with corrected moments is rate g / (|g| + 1e-8), whatever the size of g.

    g is the gradient of the mean squared error on the ratings, and 1e-5 of the weight.
    """
    system = replace(fitted(), settings=replace(SMALL, epochs=0), rate=0.01, new_rate=0.03)
    personalizer = system.personalizer("PA_IAA", features_of(make_content(40, 6)))
    support = support_of()
    network = personalizer.personalize(support).network
    inputs = personalizer.standardized[torch.from_numpy(support.images)]
    error = (network(inputs) - torch.tensor(support.ratings, dtype=torch.float32)).square().mean()
    before = dict(network.named_parameters())
    gradients = torch.autograd.grad(error, list(before.values()))
    after = tuned(replace(system, settings=replace(SMALL, epochs=1)))
    for (name, value), gradient in zip(before.items(), gradients, strict=True):
        rate = 0.01 if name.startswith("shared.") else 0.03
        slope = gradient + 1e-5 * value
        expected = value - rate * slope / (slope.abs() + 1e-8)
        torch.testing.assert_close(after[name], expected, rtol=0, atol=rate * 1e-3)


@pytest.mark.parametrize("iterations", [0, 7])
def test_stage_one_takes_as_many_iterations_as_chosen(iterations: int) -> None:
    """Batch normalization counts the batches that it has seen; with none, weights are as they were drawn."""
    network = fit(iterations=iterations).network
    [counted] = [int(value) for name, value in network.named_buffers() if name.endswith("batches_tracked")]
    assert counted == iterations
    with seeded(0, torch.device("cpu")):
        drawn = TwoHeads(DIM, SMALL.hidden, SMALL.dropout)
    found = network.aesthetics.output.weight
    assert torch.equal(found, drawn.aesthetics.output.weight) == (iterations == 0)


def test_labels_teach_the_traits() -> None:
    """Traits predict what groups of people like, so they can be told from new pictures; unlabelled, not."""
    new = make_personality(200, 21)

    def agreement(system: FittedPaIaa) -> FloatArray:
        network = system.network
        with torch.no_grad():
            found = network.traits(network.units(network.standardize(torch.tensor(new.content)))).numpy()
        return np.array([np.corrcoef(found[:, trait], new.traits[:, trait])[0, 1] for trait in range(5)])

    assert agreement(labelled()).min() > 0.8
    assert np.abs(agreement(fitted())).mean() < 0.6
    content = make_content(300, 22)
    means = 0.08 * content[:, 0]
    images = np.arange(300)
    for system in (labelled(), fitted()):  # the second head costs the first one little
        assert srocc(means, system.personalizer("", features_of(content)).generic(images)) > 0.7


def test_labelled_pictures_do_not_move_the_statistics_of_the_rated_ones() -> None:
    """Pictures of another kind, ten deviations away, leave the generic score in its place."""
    far = make_personality(200, 20)
    moved = PersonalityFeatures(far.content + 10, far.traits)
    content = make_content(300, 22)
    scores = fit(SMALL.with_personality(moved)).personalizer("", features_of(content)).generic(np.arange(300))
    assert abs(scores.mean() - 0.5) < 0.1


def test_a_taste_made_of_traits_is_found_with_labels() -> None:
    """People who like what people of one trait like; evaluation runs the same way with labels."""
    content = make_content(120, 23)
    traits = np.tanh(0.3 * content @ PERSONALITY)
    rng = np.random.default_rng(24)
    ratings = 0.5 + 0.3 * traits.T + rng.normal(scale=0.03, size=(5, 120))
    personalizer = labelled().personalizer("PA_IAA", features_of(content))
    found = evaluate(personalizer, table_of(ratings), UNIT, shots=(60,), repeats=1).results[0].figures
    assert found["personal"].mean > found["prior"].mean + 0.3
    assert found["personal"].mean > found["shuffled"].mean + 0.3


def test_a_run_without_labels_is_marked() -> None:
    config = PaIaaConfig()
    assert config.marked_title("PA_IAA") == "PA_IAA (without personality labels)"
    assert config.with_personality(make_personality(3, 0)).marked_title("PA_IAA") == "PA_IAA"


def test_the_same_seed_gives_the_same_people() -> None:
    """Stage 1 follows its seed, a person the seed of the support; what others drew does not matter."""
    content, images = make_content(40, 6), np.arange(40)

    def scores(seed: int, own: int) -> FloatArray:
        personalizer = fit(seed=seed, iterations=20).personalizer("", features_of(content))
        torch.rand(3)
        return personalizer.personalize(support_of(seed=own)).predict(images)[0]

    first = scores(0, 0)
    np.testing.assert_array_equal(scores(0, 0), first)
    assert np.abs(scores(0, 1) - first).max() > 0
    assert np.abs(scores(1, 0) - first).max() > 0


def test_the_draws_of_others_are_left_alone() -> None:
    """What torch draws next is the same whether somebody was adapted in between or not."""
    personalizer = fitted().personalizer("", features_of(make_content(40, 6)))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    personalizer.personalize(support_of())
    assert torch.equal(torch.rand(2), expected)


def test_one_rating_is_too_few() -> None:
    personalizer = fitted().personalizer("", features_of(make_content(40, 6)))
    with pytest.raises(SupportSetError, match="at least 2"):
        personalizer.personalize(support_of(1))


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    wild = replace(fitted(), rate=1e30)
    with pytest.raises(DivergenceError, match="lower the learning rates"):
        wild.personalizer("", features_of(make_content(40, 6))).personalize(support_of())


def test_candidates_are_all_combinations() -> None:
    found = PaIaaConfig(iterations=(5, 6), rates=(0.1,), new_rates=(0.2, 0.3)).candidates()
    assert found == [
        {"iterations": 5, "rate": 0.1, "new_rate": 0.2},
        {"iterations": 5, "rate": 0.1, "new_rate": 0.3},
        {"iterations": 6, "rate": 0.1, "new_rate": 0.2},
        {"iterations": 6, "rate": 0.1, "new_rate": 0.3},
    ]


def test_the_shipped_settings_are_the_defaults() -> None:
    data = read_toml(CONFIG_FOLDER / "baselines" / "pa_iaa.toml")
    assert data["title"] == "PA_IAA"
    config = build(PaIaaConfig, data["pa_iaa"], "pa_iaa")
    assert config == PaIaaConfig()
    assert len(config.candidates()) <= 6


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"rates": [-0.1]}, "rates of PA_IAA is"),
        ({"iterations": []}, "iterations of PA_IAA is"),
        ({"hidden": 0}, "hidden is 0"),
        ({"batch": 1}, "batch is 1, must be at least 2"),
        ({"personality": "folder"}, "personality is 'folder'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(ModelFormatError, match=found):
        build(PaIaaConfig, settings, "pa_iaa")


def test_labels_must_fit_the_pictures() -> None:
    with pytest.raises(ModelFormatError, match="5 traits for each of at least 2 pictures"):
        PersonalityFeatures(np.zeros((3, DIM)), np.zeros((3, 4)))
    odd = PersonalityFeatures(np.zeros((3, DIM + 1)), np.zeros((3, 5)))
    with pytest.raises(ModelFormatError, match="embed both with the same backbone"):
        fit(SMALL.with_personality(odd))


def test_a_single_training_picture_is_too_few() -> None:
    content = make_content(1, 0)
    with pytest.raises(RatingError, match="1 training pictures"):
        SMALL.fit(table_of(np.full((2, 1), 0.5)), UNIT, features_of(content), CHOSEN, seed=0)


def test_labelled_pictures_are_embedded_by_the_backbone(table_folder: Path) -> None:
    """From a file of labels to features: one embedding and five traits per picture."""
    pictures = sorted(path for path in table_folder.rglob("*") if path.suffix in {".png", ".jpg"})[:3]
    lines = [
        f"{path.relative_to(table_folder).as_posix()},{place},1,2,3,4" for place, path in enumerate(pictures)
    ]
    source = table_folder / "labels.csv"
    source.write_text("\n".join(["image,O,C,E,A,N", *lines]), encoding="utf-8")
    table = read_personality(source)
    source.unlink()
    network = NetworkConfig("tf_efficientnet_lite0", size=32, head=HeadConfig())
    found = personality_features(table, network, untrained=True)
    assert found.content.shape == (3, 1280)
    assert np.ptp(found.content, axis=0).max() > 0
    np.testing.assert_allclose(found.traits[:, 0], [-1, -0.5, 0])


def test_the_aesthetics_head_is_the_project_s() -> None:
    """Its generic score is what that head gives for the embedding itself."""
    content = make_content(30, 6)
    head = fitted().network.aesthetics
    assert isinstance(head, AestheticHead)
    with torch.no_grad():
        expected = head(torch.tensor(content)).double().numpy()
    found = fitted().personalizer("", features_of(content)).generic(np.arange(30))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
