"""The directions of the embedding: which distances they keep, and which tastes they find."""

from __future__ import annotations

import numpy as np
import pytest

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork, StatisticsNetwork
from training.directions import (
    _class_directions,
    _principal_directions,
    embed,
    fit_embedding,
    with_taste_axes,
)
from training.kernel_config import EmbeddingConfig
from training.standard_deviation import floored_std

STATISTICS = 24 + 16  # channels of stage 2 and of stage 1


def make_config(principal: int = 10, random: int = 6, seed: int = 0, **changes: object) -> EmbeddingConfig:
    settings: dict[str, object] = {
        "readouts": ("stage2.mean", "stage1.deviation"),
        "readout_weights": {"stage1.deviation": 0.25},
        "class_directions": 0,
        "class_weight": 1.0,
        "principal_directions": principal,
        "random_directions": random,
        "taste_axes": 0,
        "taste_noise": 3.0,
        "taste_share": 0.5,
        "views": 2,
        "seed": seed,
    }
    return EmbeddingConfig(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def backbone() -> StatisticsNetwork:
    """Random weights: only where its readouts stand matters."""
    return StatisticsNetwork(["stage2.mean", "stage1.deviation"])


@pytest.fixture
def statistics() -> tuple[np.ndarray, np.ndarray]:
    """Statistics of 20 pictures and of 40 views, of unlike means and spreads."""
    rng = np.random.default_rng(0)
    scale, offset = rng.uniform(0.1, 3, STATISTICS), rng.normal(size=STATISTICS)
    pictures = rng.normal(size=(20, STATISTICS)) * scale + offset
    views = rng.normal(size=(40, STATISTICS)) * scale + offset
    return pictures.astype(np.float32), views.astype(np.float32)


def distances(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(rows[:, None] - rows, axis=2))


def weighted(pictures: np.ndarray) -> np.ndarray:
    """What distances are measured in: standardized; stage 1 counts a quarter of its squared distance."""
    rows = (pictures - pictures.mean(axis=0)) / pictures.std(axis=0)
    return np.asarray(rows * np.repeat([1, 0.5], [24, 16]))


def test_enough_principal_directions_keep_every_distance(
    backbone: StatisticsNetwork, statistics: tuple[np.ndarray, np.ndarray]
) -> None:
    """A limit: with as many directions as there are statistics, projecting is turning.

    The projection and the embedding are float16, which costs about a thousandth.
    """
    pictures, views = statistics
    network = fit_embedding(backbone, pictures, views, make_config(STATISTICS, 0))
    found = embed(network, pictures)
    assert found.shape == (20, STATISTICS)
    np.testing.assert_allclose(distances(found), distances(weighted(pictures)), rtol=2e-3, atol=2e-3)
    few = fit_embedding(backbone, pictures, views, make_config(5, 0))
    assert distances(embed(few, pictures)).mean() < 0.8 * distances(weighted(pictures)).mean()


def test_random_directions_keep_distances_on_average(
    backbone: StatisticsNetwork, statistics: tuple[np.ndarray, np.ndarray]
) -> None:
    """R random directions keep a squared length without bias, a relative spread of sqrt(2 / R) about it."""
    pictures, views = statistics
    expected = distances(weighted(pictures)) ** 2
    for principal, seed in ((1, 1), (5, 1), (5, 2)):
        network = fit_embedding(backbone, pictures, views, make_config(principal, 2000, seed))
        found = distances(embed(network, pictures)) ** 2
        assert found.sum() / expected.sum() == pytest.approx(1, abs=0.02)
        np.testing.assert_allclose(found, expected, rtol=5 * np.sqrt(2 / 2000), atol=1e-3)


def test_random_directions_add_nothing_to_what_principal_ones_hold(
    backbone: StatisticsNetwork, statistics: tuple[np.ndarray, np.ndarray]
) -> None:
    pictures, views = statistics
    network = fit_embedding(backbone, pictures, views, make_config(STATISTICS, 3))
    assert np.abs(network.projection.numpy()[:, STATISTICS:]).max() < 1e-3
    network = fit_embedding(backbone, pictures, views, make_config(5, 3))
    weights = np.repeat([1, 0.5], [24, 16])[:, None]
    directions = network.projection.numpy().astype(np.float64) / weights
    np.testing.assert_allclose(directions[:, :5].T @ directions[:, :5], np.eye(5), atol=2e-3)
    np.testing.assert_allclose(directions[:, :5].T @ directions[:, 5:], 0, atol=2e-3)


def test_floored_std_by_hand() -> None:
    """Columns 0 0, 1 3, 2 6: deviations 0, 1, 2, of which the median is 1 and its twentieth 0.05.

    With N - 1 = 1 in place of N = 2 they are sqrt(2) times as large.
    """
    values = np.array([[0, 1, 2], [0, 3, 6]], dtype=np.float32)
    np.testing.assert_allclose(floored_std(values), [0.05, 1, 2], rtol=2e-6)
    root = np.sqrt(2)
    np.testing.assert_allclose(floored_std(values, correction=1), [0.05 * root, root, 2 * root], rtol=2e-6)


def test_a_channel_silent_in_training_does_not_shout_later(
    backbone: StatisticsNetwork, statistics: tuple[np.ndarray, np.ndarray]
) -> None:
    """Small sets of pictures leave channels at exactly 0; in another picture they are not."""
    pictures, views = statistics
    pictures[:, 7] = 0
    found = embed(fit_embedding(backbone, pictures, views, make_config()), views)
    assert np.isfinite(found).all(), "float16 ends at 65504"
    assert np.abs(found).max() < 1000


@pytest.mark.parametrize("count", [0, STATISTICS + 1])
def test_there_are_no_more_principal_directions_than_statistics(
    backbone: StatisticsNetwork, statistics: tuple[np.ndarray, np.ndarray], count: int
) -> None:
    with pytest.raises(ModelFormatError, match=f"principal_directions is {count}, must be 1 to 40"):
        fit_embedding(backbone, *statistics, make_config(count))


def test_pictures_and_views_count_the_same(backbone: StatisticsNetwork) -> None:
    """Pencil: which direction is the first one?

    In 16 pictures channels 0 and 1 go together, a squared length of 2 along their diagonal; channels 2 and
    3 do not, 1 along theirs. In 32 views channels 2 and 3 go together, 0.6 each: 0.72. Summed row by row,
    the views win with 32 x 0.72 + 16 = 39 to 32; the pictures counted twice, they win with 64 to 55.
    """
    pictures, views = np.zeros((16, STATISTICS), np.float32), np.zeros((32, STATISTICS), np.float32)
    pictures[:, 0] = pictures[:, 1] = np.tile([1, -1], 8)
    pictures[:, 2], pictures[:, 3] = np.tile([1, 1, -1, -1], 4), np.repeat([1, -1], 8)
    views[:, 2] = views[:, 3] = np.tile([0.6, -0.6], 16)
    [direction] = fit_embedding(backbone, pictures, views, make_config(1, 0)).projection.numpy().T
    np.testing.assert_allclose(direction[:4], [np.sqrt(0.5), np.sqrt(0.5), 0, 0], atol=1e-3)


def test_embeddings_are_what_the_cache_can_hold(
    backbone: StatisticsNetwork, statistics: tuple[np.ndarray, np.ndarray]
) -> None:
    """Twin: learned from are the very numbers that come back from the cache, float16."""
    pictures, views = statistics
    found = embed(fit_embedding(backbone, pictures, views, make_config()), pictures)
    assert found.dtype == np.float64
    assert np.array_equal(found, found.astype(np.float16))
    assert np.abs(found.mean(axis=0)).max() < 0.01, "the mean picture is the origin"


def test_principal_directions_by_hand() -> None:
    """Pencil: rows along (3, 4) / 5 with squared lengths 25, across with 1; no mean is taken off."""
    rows = np.array([[3.0, 4.0], [-3.0, -4.0], [0.8, -0.6], [-0.8, 0.6]])
    np.testing.assert_allclose(_principal_directions(rows, 2), [[0.6, 0.8], [0.8, -0.6]], atol=1e-12)
    np.testing.assert_allclose(_principal_directions(rows, 1), [[0.6], [0.8]], atol=1e-12)
    np.testing.assert_allclose(_principal_directions(-rows, 2), _principal_directions(rows, 2), atol=1e-12)


def test_class_directions_by_hand() -> None:
    """Pencil: three classes told apart by numbers 0 and 2, twice as much by number 2.

    Rows (3, 0, 0), (-3, 0, 0), (0, 0, 6) and (0, 0, -6), whose mean is 0: singular values 6 sqrt 2 and
    3 sqrt 2; the directions are the axes, by the roots of 1 and 1/2.
    """
    classifier = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 0, 6], [0, 0, -6]])
    found = np.abs(_class_directions(classifier + np.array([5.0, 1, 2]), 2))
    np.testing.assert_allclose(found, [[0, np.sqrt(0.5)], [0, 0], [1, 0]], atol=1e-12)


def test_class_directions_count_as_much_as_they_are_told_to() -> None:
    """Limit: with the last layer itself silent, all distances are those along the class directions.

    Twin: the same distances computed from the last layer outside of the projection.
    """
    rng = np.random.default_rng(1)
    backbone = StatisticsNetwork(["last.mean"])
    pictures, views = (rng.gamma(2, size=(count, 1280)).astype(np.float32) for count in (30, 60))
    classifier = rng.normal(size=(20, 1280))
    config = make_config(
        8,
        0,
        readouts=("last.mean",),
        readout_weights={"last.mean": 0.0},
        class_directions=8,
        class_weight=12.0,
    )
    network = fit_embedding(backbone, pictures, views, config, classifier)
    found = embed(network, pictures)
    read = (pictures - pictures.mean(axis=0)) @ _class_directions(classifier, 8)
    read /= np.sqrt(read.std(axis=0))
    expected = read * np.sqrt(12 / np.mean(read**2))
    distances_apart = distances(expected)
    np.testing.assert_allclose(distances(found), distances_apart, rtol=5e-3, atol=5e-3)


def test_class_directions_need_the_last_layer_and_the_classifier(
    backbone: StatisticsNetwork, statistics: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(ModelFormatError, match=r"need the readout last\.mean"):
        fit_embedding(backbone, *statistics, make_config(class_directions=4), np.ones((10, 1280)))


def plain_network(dim: int) -> EmbeddingNetwork:
    """A network whose embedding is the first statistics as they are."""
    backbone = StatisticsNetwork(["stage1.mean"])
    return EmbeddingNetwork.from_parts(backbone, np.zeros(16), np.ones(16), np.eye(16)[:, :dim])


def test_taste_axes_find_what_people_differ_in() -> None:
    """Twelve people agree along number 0, which the generic score has, and differ along (0, 3, 4) / 5."""
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(80, 6))
    generic = embeddings[:, 0] / embeddings[:, 0].std()
    taste = embeddings[:, 1] * 0.6 + embeddings[:, 2] * 0.8
    everyone = np.arange(80)
    people = [
        (everyone, 0.5 + 0.1 * generic + strength * taste + rng.normal(scale=0.02, size=80))
        for strength in np.linspace(-0.2, 0.2, 12)
    ]
    network = with_taste_axes(plain_network(6), embeddings, people, generic, make_config(taste_axes=1))
    axis = network.projection.numpy()[:6, 6].astype(np.float64)
    assert network.embedding_dim == 7
    assert abs(axis @ [0, 0.6, 0.8, 0, 0, 0]) / np.linalg.norm(axis) > 0.99


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_taste_axes_hold_their_share_of_the_straight_kernel(share: float) -> None:
    rng = np.random.default_rng(6)
    embeddings = rng.normal(size=(50, 8))
    people = [(np.arange(50), rng.random(50)) for _ in range(9)]
    config = make_config(taste_axes=3, taste_share=share)
    network = with_taste_axes(plain_network(8), embeddings, people, np.zeros(50), config)
    axes = embeddings @ network.projection.numpy()[:8, 8:].astype(np.float64)
    own, added = np.sum(embeddings**2), np.sum(axes**2)
    assert added / (own + added) == pytest.approx(share, rel=1e-2)


def test_without_taste_axes_the_network_stays_as_it_is() -> None:
    network = plain_network(4)
    assert with_taste_axes(network, np.ones((3, 4)), [], np.zeros(3), make_config()) is network
