"""The closed-form prior: what its projection keeps and its generic head learns, and that both come again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.finetune.statistics_network import StatisticsNetwork
from piaa_sdk.head import Prior, arc_cosine_kernel
from piaa_sdk.rating_scale import RatingScale
from training.data.images import collect_statistics
from training.data.ratings import read_rating_table
from training.directions import embed
from training.kernel_config import GenericConfig, KernelPriorConfig
from training.kernel_prior import (
    KernelPriorFit,
    _cluster_centers,
    fit,
    fit_generic,
    fit_metric,
    rank_targets,
    view_statistics,
)

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.ratings import RatingTable

SETTINGS = """
[preprocessing]
size = 32
fit = "squash"
resample = "bicubic"
draft_factor = 2
background = [255, 255, 255]

[embedding]
readouts = ["stage2.mean", "stage1.deviation"]
readout_weights = { "stage1.deviation" = 0.25 }
class_directions = 0
class_weight = 1.0
principal_directions = PRINCIPAL
random_directions = RANDOM
taste_axes = 4
taste_noise = 3.0
taste_share = 0.5
views = 2
seed = SEED

[generic]
metric_power = 0.4
curved_power = 0.2
centers = 8
arc_bias = 0.1
view_weight = 1.0
strengths = [0.1, 1.0, 10.0]
folds = 4

[adaptation]
linear_shares = [0.5, 0.0]
length_scale = 0.25
slopes = [[0.45, 0.05]]
noises = [0.5, 2.0]
slope_unit = 0.22
offset_mean = 0.5
offset_variance = 2.0
variance_scale = 0.03
variance_degrees = 4.0
std_factor = 1.1
"""
STATISTICS = 24 + 16  # channels of stage 2 and of stage 1


def make_config(folder: Path, principal: int = 10, random: int = 6, seed: int = 0) -> KernelPriorConfig:
    numbers = {"PRINCIPAL": principal, "RANDOM": random, "SEED": seed}
    text = SETTINGS
    for name, number in numbers.items():
        text = text.replace(name, str(number))
    path = folder / f"{principal}-{random}-{seed}.toml"
    path.write_text(text, encoding="utf-8")
    return KernelPriorConfig.load(path)


def test_pictures_have_a_mean_squared_length_of_one_in_the_metric() -> None:
    rng = np.random.default_rng(1)
    spread = np.repeat([4.0, 1.0, 0.1], [4, 6, 6])
    pictures, views = rng.normal(size=(30, 16)) * spread, rng.normal(size=(60, 16)) * spread
    metric = fit_metric(pictures, views, 10, 0.2)
    assert np.mean(np.sum((pictures * metric) ** 2, axis=1)) == pytest.approx(1)
    variances = np.mean(views**2, axis=0)
    np.testing.assert_allclose(metric[:10] / metric[0], (variances[:10] / variances[0]) ** 0.2)
    assert np.ptp(metric[10:]) == 0, "no random direction is one of its own"
    assert metric[10] == metric[:10].min()


def test_rank_targets_by_hand(tmp_path: Path) -> None:
    """Pencil: two people, three pictures, the scale 1 to 5.

    Ann rates 1, 3, 5: places 1/6, 3/6, 5/6. Bob rates 4, 4, 5: 2/6, 2/6, 5/6. Mean places 3/12, 5/12, 10/12,
    mean 1/2, so -3/12, -1/12, 4/12 around it, spread sqrt(26/432). Mean ratings 2.5, 3.5, 5: 3/8, 5/8, 1.
    """
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"any")
    rows = ["user,image,score", "ann,a.png,1", "ann,b.png,3", "ann,c.png,5"]
    rows += ["bob,a.png,4", "bob,b.png,4", "bob,c.png,5"]
    (tmp_path / "ratings.csv").write_text("\n".join(rows), encoding="utf-8")
    means = np.array([3 / 8, 5 / 8, 1])
    expected = means.mean() + np.array([-3, -1, 4]) / 12 * means.std() / np.sqrt(26 / 432)
    np.testing.assert_allclose(rank_targets(read_rating_table(tmp_path), RatingScale(1, 5)), expected)


def test_cluster_centres_by_hand() -> None:
    """Pencil: two heaps far from each other have their means as centres, wherever one starts."""
    rows = np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 10.0], [12.0, 10.0], [11.0, 13.0]])
    for seed in range(4):
        centers = _cluster_centers(rows, 2, np.random.default_rng(seed))
        assert sorted(centers.tolist()) == [[0.0, 1.0], [11.0, 11.0]]
    everything = _cluster_centers(rows, 9, np.random.default_rng(0))
    assert sorted(everything.tolist()) == sorted(rows.tolist()), "no more centres than rows"


def test_an_empty_cluster_keeps_its_centre() -> None:
    """Of three centres on two places two are alike: one of them wins every row, the other none."""
    rows = np.array([[0.0, 0.0], [0.0, 0.0], [4.0, 0.0]])
    centers = _cluster_centers(rows, 3, np.random.default_rng(0))
    assert sorted(centers.tolist()) == sorted(rows.tolist())


GENERIC = GenericConfig(
    metric_power=0.4,
    curved_power=0.2,
    centers=40,
    arc_bias=0.1,
    view_weight=0.0,
    strengths=(0.01, 0.1, 1.0, 10.0),
    folds=5,
)


def plant(pictures: np.ndarray) -> np.ndarray:
    """A smooth function that is not straight, around 0.5."""
    return np.asarray(0.5 + 0.15 * np.tanh(2 * pictures[:, 0]) + 0.2 * np.abs(pictures[:, 1]))


def test_the_generic_head_learns_a_planted_function() -> None:
    rng = np.random.default_rng(2)
    pictures, views, unseen = (rng.normal(size=(count, 4)) / 2 for count in (150, 300, 200))
    means = plant(pictures) + rng.normal(scale=0.02, size=150)
    found = fit_generic(pictures, views, means, GENERIC, 0)
    kernel = arc_cosine_kernel(unseen, found.centers.astype(np.float64), found.arc_bias)
    scores = found.mean + found.std * (kernel @ found.center_weights + found.center_offset)
    truth = plant(unseen)
    error, spread = np.mean((scores - truth) ** 2), truth.var()
    assert error < 0.1 * spread
    straight = np.c_[np.ones(150), pictures]
    line = np.c_[np.ones(200), unseen] @ np.linalg.lstsq(straight, means, rcond=None)[0]
    assert error < 0.5 * np.mean((line - truth) ** 2), "it learns what a straight function cannot"
    # Cross-validated on ratings whose noise nothing can predict.
    assert found.error == pytest.approx(error + 0.02**2, rel=1)
    assert found.std**2 == pytest.approx(spread, rel=0.3)


def test_the_generic_head_is_a_ridge_regression() -> None:
    """Twin: the subset of regressors as a least-squares problem with the penalty's root as further rows."""
    rng = np.random.default_rng(6)
    pictures, views = rng.normal(size=(60, 4)) / 2, rng.normal(size=(120, 4)) / 2
    means = plant(pictures)
    found = fit_generic(pictures, views, means, GENERIC, 0)
    centers = found.centers.astype(np.float64)
    kernel, among = (arc_cosine_kernel(rows, centers, 0.1) for rows in (pictures, centers))
    values, vectors = np.linalg.eigh(found.strength * among + 1e-6 * np.eye(40))
    rows = np.concatenate([kernel, np.sqrt(values)[:, None] * vectors.T])
    ratings = np.concatenate([means - means.mean(), np.zeros(40)])
    expected = means.mean() + kernel @ np.linalg.lstsq(rows, ratings, rcond=None)[0]
    scores = found.mean + found.std * (kernel @ found.center_weights + found.center_offset)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.mean(scores) == pytest.approx(found.mean)
    assert np.std(scores) == pytest.approx(found.std)


def test_views_that_are_their_picture_change_nothing() -> None:
    """Limit: two exact copies beside each picture, whatever they weigh, leave the same regression."""
    rng = np.random.default_rng(7)
    pictures = rng.normal(size=(40, 4)) / 2
    copies, means = np.repeat(pictures, 2, axis=0), plant(pictures)
    found = [
        fit_generic(pictures, copies, means, dataclasses.replace(GENERIC, view_weight=weight), 0)
        for weight in (0.0, 1.0, 10.0)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other.held_out, found[0].held_out, atol=1e-6)
        assert other.error == pytest.approx(found[0].error)


def test_views_teach_what_does_not_matter() -> None:
    """Views of a picture differ along number 1, which ratings do not depend on: learned, the error falls."""
    rng = np.random.default_rng(8)
    pictures, unseen = (rng.normal(size=(count, 4)) / 2 for count in (25, 400))
    views = np.repeat(pictures, 12, axis=0)
    views[:, 1] = rng.normal(size=len(views)) / 2
    means = 0.5 + 0.2 * pictures[:, 0]

    def error(view_weight: float) -> float:
        config = dataclasses.replace(GENERIC, view_weight=view_weight, strengths=(0.1,))
        found = fit_generic(pictures, views, means, config, 0)
        kernel = arc_cosine_kernel(unseen, found.centers.astype(np.float64), found.arc_bias)
        scores = found.mean + found.std * (kernel @ found.center_weights + found.center_offset)
        return float(np.mean((scores - 0.5 - 0.2 * unseen[:, 0]) ** 2))

    assert error(10.0) < 0.7 * error(0.0)


def test_the_strength_is_chosen_by_cross_validation() -> None:
    """On noise alone the strongest ridge is best; on a function without noise a weak one."""
    rng = np.random.default_rng(3)
    pictures, views = rng.normal(size=(80, 4)) / 2, rng.normal(size=(160, 4)) / 2
    noise = fit_generic(pictures, views, rng.normal(0.5, 0.1, size=80), GENERIC, 0)
    planted = fit_generic(pictures, views, plant(pictures), GENERIC, 0)
    assert noise.strength == 10
    assert planted.strength <= 0.1
    assert noise.error > 0.8 * 0.1**2, "what cannot be predicted is not predicted"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RatingTable:
    """Sixteen pictures, the brighter the better."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(4)
    lines = ["user,image,score"]
    for number in range(16):
        pixels = rng.uniform(0, 255, (4, 5, 3)) * (0.3 + 0.7 * number / 15)
        image = Image.fromarray(pixels.astype(np.uint8)).resize((50, 40), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02}.png")
        lines += [
            f"{user},{number:02}.png,{1 + (number + shift) % 17 * 6 / 16:g}"
            for user, shift in (("ann", 0), ("bob", 1))
        ]
    (folder / "ratings.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_rating_table(folder)


@pytest.fixture(scope="module")
def fitted(table: RatingTable, tmp_path_factory: pytest.TempPathFactory) -> KernelPriorFit:
    return fit(table, RatingScale(1, 7), make_config(tmp_path_factory.mktemp("config")))


def test_the_prior_is_in_the_units_it_states(
    table: RatingTable, fitted: KernelPriorFit, tmp_path: Path
) -> None:
    """Over the training pictures, as the SDK computes them: standardized, of length 1, kernels of 1."""
    config, prior = make_config(tmp_path), fitted.prior
    statistics = collect_statistics(table.paths(), fitted.network, config.preprocessing)
    embeddings = embed(fitted.network, statistics)
    standardized = prior.standardized(embeddings)
    assert standardized.mean() == pytest.approx(0, abs=1e-4)
    assert standardized.std() == pytest.approx(1, abs=1e-4)
    for metric in (prior.curved_metric, prior.generic_metric):
        assert np.mean(np.sum((embeddings * metric) ** 2, axis=1)) == pytest.approx(1, abs=1e-3)
        assert (metric[:-2] > 0).all()
        assert (metric[-2:] == 0).all(), "taste axes are for the straight kernel alone; two people have two"
    straight, curved = prior.kernels(embeddings, embeddings)
    assert np.diag(straight).mean() == pytest.approx(1)
    np.testing.assert_allclose(np.diag(curved), 1)
    generic, means = prior.generic(embeddings), RatingScale(1, 7).to_unit(table.mean_ratings())
    assert generic.mean() == pytest.approx(means.mean(), abs=0.05)
    assert np.corrcoef(generic, means)[0, 1] > 0.7
    assert prior.generic_mean == pytest.approx(generic.mean(), abs=1e-4)
    assert prior.std_factor == 1.1
    assert prior.grid.slopes.tolist() == [[0.45, 0.05]]


def test_fitting_again_gives_the_same_tensors(
    table: RatingTable, fitted: KernelPriorFit, tmp_path: Path
) -> None:
    """Determinism, also when the statistics come from the folder that kept them."""
    config, cache = make_config(tmp_path), tmp_path / "cache"
    for _ in range(2):
        again = fit(table, RatingScale(1, 7), config, cache=cache)
        expected, found = fitted.prior.to_tensors(), again.prior.to_tensors()
        assert expected.keys() == found.keys()
        for name in expected:
            assert np.array_equal(expected[name], found[name]), name
        for name, tensor in fitted.network.tensors().items():
            assert tensor.equal(again.network.tensors()[name]), name
    other = fit(table, RatingScale(1, 7), make_config(tmp_path, seed=1), cache=cache)
    assert not np.array_equal(other.prior.centers, fitted.prior.centers)


def test_the_prior_survives_its_file(fitted: KernelPriorFit) -> None:
    tensors = fitted.prior.to_tensors()
    for name, tensor in Prior.from_tensors(tensors).to_tensors().items():
        assert np.array_equal(tensor, tensors[name]), name


def test_views_of_one_picture_stand_together(table: RatingTable, tmp_path: Path) -> None:
    """And are kept for it wherever it stands: for a part of the table nothing is measured again."""
    backbone, config, cache = StatisticsNetwork(["stage1.mean"]), make_config(tmp_path), tmp_path / "cache"
    whole = view_statistics(table, backbone, config, cache=cache)
    assert whole.shape == (32, 16)
    assert len(np.unique(whole, axis=0)) == 32
    told: list[tuple[int, int]] = []
    with (table.folder / "ratings.csv").open() as file:
        rows = file.read().splitlines()
    part_folder = tmp_path / "part"
    part_folder.mkdir()
    for number in (9, 3):
        (part_folder / f"{20 - number:02}.png").write_bytes((table.folder / f"{number:02}.png").read_bytes())
    (part_folder / "ratings.csv").write_text(f"{rows[0]}\nann,11.png,3\nann,17.png,3\n", encoding="utf-8")
    part = view_statistics(
        read_rating_table(part_folder),
        backbone,
        config,
        cache=cache,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == []
    assert np.array_equal(part, whole[[18, 19, 6, 7]])
