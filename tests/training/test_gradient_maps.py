"""Gradients at the pixels: weights by hand, finite differences, guiding, whole networks, and what is kept."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from piaa_sdk.errors import DivergenceError, ModelFormatError, RatingError
from piaa_sdk.finetune.network import AestheticHead, AestheticNetwork, HeadConfig, params_of, predict
from piaa_sdk.rating_scale import RatingScale
from training import __main__ as program
from training.data.datasets import read_dataset
from training.data.splits import split as split_dataset
from training.evaluation import draw_tasks
from training.experiment import Backbone, Workshop, load_personalizer, train
from training.gradient_mapping import Wanted, map_gradients
from training.gradient_maps import WholeNetwork, epochs_of, maps_of, pixel_gradients, scratch_of
from training.gradient_record import GradientMaps, MappedNetwork
from training.meta_config import MetaConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from training.runs import Run

SCALE = RatingScale(1, 7)
SMALL = (
    *("network.backbone=timm/test_resnet", "network.size=32"),
    *("network.head.hidden=[8]", "tasks.tasks=2", "tasks.support=[8]", "tasks.query=4"),
    *("fine_tuning.epochs=4", "fine_tuning.learning_rate=0.01", "schedule.iterations=2"),
    "network.head.standardize=false",
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Pool(nn.Module):
    """Convolution, an activation, and a mean over places: (N, 3, S, S) -> (N, 4)."""

    def __init__(self, activation: nn.Module, *, left_only: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.activation = activation
        self.left_only = left_only

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if self.left_only:
            pictures = pictures[:, :, :, : pictures.shape[3] // 2]
        maps: torch.Tensor = self.activation(self.convolution(pictures))
        return maps.mean((2, 3))


def _network(activation: nn.Module, *, left_only: bool = False) -> AestheticNetwork:
    torch.manual_seed(0)
    backbone = Pool(activation, left_only=left_only)
    head = AestheticHead(4, HeadConfig((5,), activation="prelu"))
    return AestheticNetwork(head, backbone, (100.0,) * 3, (50.0,) * 3).double().eval()


def _pixels(count: int = 2, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8))


def test_the_gradient_of_a_linear_score_is_its_weights() -> None:
    """Pencil: score = sum of w x, so d score / d x = w for every picture; its map is the largest |w|."""
    weights = torch.tensor([[[1.0, -3.0, 2.0], [0.5, 0.0, 0.0]], [[0.0, 0.0, -4.0], [0.0, 0.0, 0.0]]])
    found = pixel_gradients(lambda pixels: (pixels * weights).sum((1, 2, 3)), _pixels(3, 2))
    assert torch.equal(found, weights.expand(3, 2, 2, 3))
    np.testing.assert_array_equal(maps_of(found), np.array([[[3.0, 0.5], [4.0, 0.0]]] * 3))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.PReLU()], ids=["relu", "silu", "prelu"])
def test_gradients_are_finite_differences(activation: nn.Module) -> None:
    """In float64 a step of 1e-4 of a level to both sides gives the slope to many digits."""
    network = _network(activation)
    pixels = _pixels().double()
    found = pixel_gradients(network, pixels)
    step = 1e-4
    rng = np.random.default_rng(1)
    for _ in range(20):
        place = tuple(int(rng.integers(count)) for count in pixels.shape)
        above, below = pixels.clone(), pixels.clone()
        above[place] += step
        below[place] -= step
        slope = ((network(above) - network(below))[place[0]] / (2 * step)).item()
        assert found[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-11)


def test_guiding_cuts_off_what_arrives_negative_at_a_rectifier() -> None:
    """By hand: score = v relu(W x) with x = (1, 2), W = [[1, 0], [0, 1], [1, 1], [-1, 0]], v = (3, -5, 1, 7).

    Units are (1, 2, 3, 0): the last is off both ways. Plain: 3 (1, 0) - 5 (0, 1) + 1 (1, 1) = (4, -4).
    Guided, the second unit's -5 does not pass: 3 (1, 0) + 1 (1, 1) = (4, 1).
    """
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    last = torch.tensor([3.0, -5.0, 1.0, 7.0])
    values = torch.tensor([[[[1.0, 2.0]]]])

    def score(inputs: torch.Tensor) -> torch.Tensor:
        return (inputs.flatten(1) @ weights.T).relu() @ last

    assert pixel_gradients(score, values).flatten().tolist() == [4.0, -4.0]
    assert pixel_gradients(score, values, kind="guided").flatten().tolist() == [4.0, 1.0]
    last = last.abs()  # nothing negative arrives: both are the same
    assert torch.equal(pixel_gradients(score, values), pixel_gradients(score, values, kind="guided"))


@pytest.mark.parametrize(
    ("activation", "is_cut"),
    [
        *((nn.ReLU(), True), (nn.ReLU(inplace=True), True), (nn.ReLU6(), True), (nn.PReLU(), True)),
        *((nn.SiLU(), True), (nn.Hardswish(), True), (nn.GELU(), True), (nn.LeakyReLU(), True)),
        *((nn.ELU(), True), (nn.Mish(), True), (nn.Softplus(), True), (nn.Sigmoid(), False)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_all_rectifiers_are_guided_and_gates_are_not(activation: nn.Module, is_cut: bool) -> None:
    """Score = -activation(x) + relu(1): what arrives at the activation is -1, and passes only a gate."""
    values = torch.full((1, 1, 1, 3), 0.7)

    def score(inputs: torch.Tensor) -> torch.Tensor:
        doubled = inputs * 1.0  # what works in place must not change a leaf
        return -activation(doubled).sum((1, 2, 3)) + (inputs * 0 + 1).relu().sum((1, 2, 3))

    plain = pixel_gradients(score, values)
    assert bool((plain < 0).all())
    guided = pixel_gradients(score, values, kind="guided")
    assert torch.equal(guided, torch.zeros_like(plain) if is_cut else plain)


def test_guiding_needs_a_rectifier_and_leaves_no_trace() -> None:
    network = _network(nn.ReLU())
    before = pixel_gradients(network, _pixels().double())
    assert not torch.equal(before, pixel_gradients(network, _pixels().double(), kind="guided"))
    assert torch.equal(before, pixel_gradients(network, _pixels().double()))
    with pytest.raises(ModelFormatError, match="no rectifier"):
        pixel_gradients(lambda pixels: pixels.sum((1, 2, 3)), _pixels(), kind="guided")
    with pytest.raises(ModelFormatError, match="kind is 'raw', must be plain or guided"):
        pixel_gradients(network, _pixels(), kind="raw")


@pytest.mark.parametrize("kind", ["plain", "guided"])
def test_a_network_that_looks_left_has_no_gradient_on_the_right(kind: str) -> None:
    """Planted: the right half is cut away before the first layer."""
    found = maps_of(pixel_gradients(_network(nn.ReLU(), left_only=True), _pixels().double(), kind=kind))
    assert (found[:, :, 4:] == 0).all()
    assert (found[:, :, :4] > 0).mean() > 0.9


def test_a_score_that_hangs_on_no_pixel_has_no_gradient() -> None:
    found = pixel_gradients(lambda pixels: torch.ones(len(pixels)), _pixels())
    assert torch.equal(found, torch.zeros(2, 8, 8, 3))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _train(folder: Path, table_folder: Path, workshop: Workshop, name: str, *settings: str) -> Run:
    split = split_dataset(read_dataset("table", table_folder), train_groups=["a", "b"], test_groups=["c"])
    return train(MetaConfig.load(name, (*SMALL, *settings)), split, folder, workshop)


@pytest.fixture(scope="module")
def run(table_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of the mode head on a small random backbone."""
    workshop = Workshop("head", cache, Backbone(untrained=True))
    return _train(tmp_path_factory.mktemp("runs") / "ba", table_folder, workshop, "ba")


@pytest.mark.parametrize("name", ["ba", "closed_form"])
@pytest.mark.parametrize("mode", ["head", "full"])
def test_the_whole_network_scores_as_the_run_does(
    mode: str, name: str, table_folder: Path, cache: Path, tmp_path: Path
) -> None:
    """Of pixels, what evaluation is given, before and after adaptation; and gradients are slopes of it."""
    workshop = Workshop(mode, cache, Backbone(untrained=True))
    trained = _train(tmp_path / "run", table_folder, workshop, name)
    dataset = read_dataset("table", table_folder, groups=["c"])
    personalizer = load_personalizer(trained, dataset.table, SCALE, workshop)
    whole = WholeNetwork.of(personalizer, trained.config, workshop)
    task = draw_tasks(dataset.table, SCALE, shots=20, users=1)[0]
    pixels = whole.load([dataset.table.paths()[image] for image in task.query[:4]])
    adapted = personalizer.adapt(personalizer.prior, task.support)
    scores = []
    for params in (personalizer.prior, adapted):
        found = whole.predict(params, pixels)
        np.testing.assert_allclose(found, personalizer.score(params, task.query[:4]), atol=1e-4)
        scores.append(found)
    assert np.abs(scores[1] - scores[0]).max() > 1e-3, "nothing was adapted: the test shows less"
    gradients = whole.gradients(adapted, pixels)
    assert gradients.shape == (4, 32, 32, 3)
    # A step along the gradient raises the score by its squared length, to first order.
    step = 0.5 / gradients.abs().amax((1, 2, 3), keepdim=True)
    moved = [whole.predict(adapted, pixels.float() + sign * step * gradients) for sign in (1, -1)]
    expected = 2 * (step * gradients.square()).sum((1, 2, 3)).numpy()
    np.testing.assert_allclose(moved[0] - moved[1], expected, rtol=0.2)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_gradients_of_shares_are_slopes_of_the_unit_score(
    mode: str, table_folder: Path, cache: Path, tmp_path: Path
) -> None:
    """Of a score t = r / 7 that is learned, the one of [0, 1] is (7 t - 1) / 6: its slope is 7/6 as large.

    In float64, steps of a thousandth of a level along the gradient, to both sides.
    """
    workshop = Workshop(mode, cache, Backbone(untrained=True))
    trained = _train(tmp_path / "run", table_folder, workshop, "ba", 'tasks.target="share"')
    table = read_dataset("table", table_folder, groups=["c"]).table
    personalizer = load_personalizer(trained, table, SCALE, workshop)
    whole = WholeNetwork.of(personalizer, trained.config, workshop)
    prior, images = personalizer.prior, np.arange(3)
    pixels = whole.load([table.paths()[image] for image in images])
    np.testing.assert_allclose(whole.predict(prior, pixels), personalizer.generic(images), atol=1e-4)
    whole.learner.network.double()
    exact = replace(whole, backbone={name: value.double() for name, value in whole.backbone.items()})
    prior = {name: value.double() for name, value in prior.items()}
    found = exact.gradients(prior, pixels.double())
    step = 1e-3 / found.abs().amax((1, 2, 3), keepdim=True)
    above, below = (exact.predict(prior, pixels + sign * step * found) for sign in (1, -1))
    slopes = (above - below) / (2 * step.flatten().numpy())
    np.testing.assert_allclose(found.square().sum((1, 2, 3)).numpy(), slopes, rtol=0.01)


def _maps(
    run: Run, table_folder: Path, cache: Path, wanted: Wanted, photos: Path | None = None
) -> GradientMaps:
    workshop = Workshop("head", cache, Backbone(untrained=True))
    dataset = read_dataset("table", table_folder, groups=["c"])
    personalizer = load_personalizer(run, dataset.table, SCALE, workshop)
    whole = WholeNetwork.of(personalizer, run.config, workshop)
    return map_gradients(personalizer, whole, dataset.table, SCALE, wanted, photos=photos)


def test_maps_of_a_run(run: Run, table_folder: Path, cache: Path, tmp_path: Path) -> None:
    """The prior once, users' networks by epoch, from scratch too; the same again from the file."""
    wanted = Wanted(10, 2, 3, (0, 1, 4), from_scratch=True)
    found = _maps(run, table_folder, cache, wanted)
    assert len(found.networks) == 1 + 2 * (2 + 3)
    assert found.maps.shape == (11, 3, 32, 32)
    assert np.isfinite(found.ratings).all(), "everybody of the group rated everything"
    assert found.facts["whole_network_differs_by"] < 1e-4
    prior = found.find(0, "prior", 0)
    assert prior == found.find(1, "prior", 0)
    assert not np.array_equal(found.maps[prior], found.maps[found.find(0, "prior", 4)])
    assert not np.array_equal(found.maps[prior], found.maps[found.find(0, "scratch", 0)])
    # Before adaptation a network from scratch knows no user.
    np.testing.assert_array_equal(
        found.maps[found.find(0, "scratch", 0)], found.maps[found.find(1, "scratch", 0)]
    )
    again = _maps(run, table_folder, cache, wanted)
    np.testing.assert_array_equal(found.maps, again.maps)
    found.save(tmp_path / "maps.safetensors")
    read = GradientMaps.load(tmp_path / "maps.safetensors")
    for name in ("pictures", "maps", "scores", "ratings"):
        np.testing.assert_array_equal(getattr(read, name), getattr(found, name))
    for name in ("method", "kind", "conditions", "people", "epochs", "networks", "facts"):
        assert getattr(read, name) == getattr(found, name)
    users = {user for user, *_ in read_dataset("table", table_folder).table.by_user()}
    data = (tmp_path / "maps.safetensors").read_bytes()
    assert not [user for user in users if str(user).encode() in data], "a name is in the file"


def test_nobody_adapts_to_a_mapped_picture(run: Run, table_folder: Path, cache: Path) -> None:
    table = read_dataset("table", table_folder, groups=["c"]).table
    found = _maps(run, table_folder, cache, Wanted(10, 2, 5, (0,)))
    workshop = Workshop("head", cache, Backbone(untrained=True))
    whole = WholeNetwork.of(load_personalizer(run, table, SCALE, workshop), run.config, workshop)
    supports = {
        image for task in draw_tasks(table, SCALE, shots=10, users=2) for image in task.support.images
    }
    adapted_to = whole.load([table.paths()[image] for image in supports]).numpy()
    for picture in found.pictures:
        assert not (adapted_to == picture).all((1, 2, 3)).any()
    with pytest.raises(RatingError, match="5 pictures that none of the 6 users"):
        _maps(run, table_folder, cache, Wanted(30, 6, 5, (0,)))


def test_what_cannot_be_mapped_is_refused(run: Run, table_folder: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="must be numbers from 0 that rise"):
        Wanted(10, 1, 1, (5, 0))
    with pytest.raises(ModelFormatError, match="has no epoch 9 of adaptation, only 0"):
        _maps(run, table_folder, cache, Wanted(10, 1, 1, (0, 9)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RatingError, match="2 pictures are wanted"):
        _maps(run, table_folder, cache, Wanted(10, 1, 2, (0,)), tmp_path / "empty")
    (tmp_path / "other").write_bytes(b"no safetensors")
    with pytest.raises(ModelFormatError, match="cannot be read as gradient maps"):
        GradientMaps.load(tmp_path / "other")
    found = _maps(run, table_folder, cache, Wanted(10, 1, 1, (0,)))
    with pytest.raises(ModelFormatError, match="no maps of user 1 from scratch at epoch 0"):
        found.find(0, "scratch", 0)
    replace(found, networks=(*found.networks, MappedNetwork(0, "prior", 1))).save(tmp_path / "odd")
    with pytest.raises(ModelFormatError, match="incomplete gradient maps"):
        GradientMaps.load(tmp_path / "odd")


def _damaged(found: GradientMaps, folder: Path, **changes: object) -> Path:
    replace(found, **changes).save(folder / "damaged")  # type: ignore[arg-type]
    return folder / "damaged"


def test_what_cannot_be_drawn_is_not_read(run: Run, table_folder: Path, cache: Path, tmp_path: Path) -> None:
    """Damage would show as a white picture, or as an error of numpy when the figure is drawn."""
    found = _maps(run, table_folder, cache, Wanted(10, 1, 2, (0, 4)))
    found.save(tmp_path / "whole")
    GradientMaps.load(tmp_path / "whole")
    infinite = found.maps.copy()
    infinite[1, 1, 3, 4] = np.inf
    shots = replace(found.conditions, shots=())
    scale = replace(found.conditions, rating_scale=(1.0,))  # type: ignore[arg-type]
    changes: tuple[tuple[dict[str, object], str], ...] = (
        ({"maps": infinite}, "maps are not all finite"),
        ({"scores": np.full_like(found.scores, np.nan)}, "scores are not all finite"),
        ({"ratings": np.full_like(found.ratings, np.inf)}, "ratings are not all finite"),
        ({"pictures": found.pictures / 255}, "pictures is of float64, must be of uint8"),
        ({"epochs": ()}, r"epochs is \[\], must be one or more whole numbers"),
        ({"epochs": (4, 0)}, "must rise"),
        ({"pictures": found.pictures[:0]}, "1 users and 0 pictures"),
        ({"conditions": shots}, r"shots is \[\], must be one or more"),
        ({"conditions": scale}, r"rating_scale is \[1.0\], must be two finite numbers"),
        ({"networks": (MappedNetwork(None, "prior", 0), MappedNetwork(1, "prior", 4))}, "must be below 1"),
        ({"networks": (MappedNetwork(None, "prior", 0), MappedNetwork(0, "x", 4))}, "start of a network is"),
    )
    for change, said in changes:
        with pytest.raises(ModelFormatError, match=f"incomplete gradient maps .*{said}"):
            GradientMaps.load(_damaged(found, tmp_path, **change))


def test_a_network_that_diverges_is_left_out(
    run: Run, table_folder: Path, cache: Path, tmp_path: Path
) -> None:
    """Those from scratch begin at 1e30, so that their first loss is infinite; the others are mapped."""
    workshop = Workshop("head", cache, Backbone(untrained=True))
    table = read_dataset("table", table_folder, groups=["c"]).table
    wanted = Wanted(10, 2, 2, (0, 4), from_scratch=True)
    personalizer = load_personalizer(run, table, SCALE, workshop)
    whole = WholeNetwork.of(personalizer, run.config, workshop)
    with torch.no_grad():
        personalizer.learner.network.get_parameter("head.output.weight").fill_(1e30)
    said: list[str] = []
    found = map_gradients(personalizer, whole, table, SCALE, wanted, say=said.append)
    expected = [MappedNetwork(None, "prior", 0), MappedNetwork(0, "prior", 4), MappedNetwork(1, "prior", 4)]
    assert list(found.networks) == expected
    np.testing.assert_array_equal(
        found.maps, _maps(run, table_folder, cache, replace(wanted, from_scratch=False)).maps
    )
    assert said[0] == "mapped the prior, epoch 0; 1 of 7 networks"
    assert said[1] == "mapped user 1 from the prior, epoch 4; 2 of 7 networks"
    assert said[2].startswith("left out user 1 from scratch, epoch 0: the loss of step 1 is inf")
    assert said[-1].endswith("; 7 of 7 networks")
    found.save(tmp_path / "maps")
    read = GradientMaps.load(tmp_path / "maps")
    assert read.diverged == tuple(
        MappedNetwork(user, "scratch", epoch) for user in (0, 1) for epoch in (0, 4)
    )
    with pytest.raises(ModelFormatError, match="of user 2 from scratch, epoch 4: its adaptation left the"):
        read.find(1, "scratch", 4)


def test_where_all_diverge_nothing_is_kept(run: Run, table_folder: Path, cache: Path) -> None:
    """At a learning rate of 1e30 every adaptation leaves the finite numbers; the prior alone is no figure."""
    fast = replace(run.config, fine_tuning=replace(run.config.fine_tuning, learning_rate=1e30))
    workshop = Workshop("head", cache, Backbone(untrained=True))
    table = read_dataset("table", table_folder, groups=["c"]).table
    personalizer = load_personalizer(run, table, SCALE, workshop, config=fast)
    whole = WholeNetwork.of(personalizer, fast, workshop)
    with pytest.raises(DivergenceError, match="none of the 2 networks that were adapted has finite maps"):
        map_gradients(personalizer, whole, table, SCALE, Wanted(10, 2, 1, (0, 4)))


def test_from_scratch_is_what_meta_training_began_with(run: Run, table_folder: Path, cache: Path) -> None:
    """The same seed draws the same random layers, which the trained prior is no longer like."""
    workshop = Workshop("head", cache, Backbone(untrained=True))
    table = read_dataset("table", table_folder, groups=["c"]).table
    personalizer = load_personalizer(run, table, SCALE, workshop)
    source = workshop.source(table, run.config.network, run.config.seed)
    expected = params_of(workshop.network(run.config.network, source, run.config.seed))
    scratch = scratch_of(personalizer)
    assert scratch.keys() == personalizer.prior.keys()
    assert all(torch.equal(scratch[name], expected[name]) for name in expected)
    assert not torch.equal(scratch["head.output.weight"], personalizer.prior["head.output.weight"])
    task = draw_tasks(table, SCALE, shots=10, users=1)[0]
    start, last = epochs_of(personalizer, scratch, task.support, (0, 4))
    assert start is scratch
    network = personalizer.learner.network
    assert not torch.equal(
        *(predict(network, params, personalizer.source.take(task.query, None)) for params in (start, last))
    )


def test_the_command(
    run: Run,
    table_folder: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pictures of a folder, a kind, and epochs of its own; a line for each network while it works."""
    output = tmp_path / "maps.safetensors"
    given = ["--groups", "c", "--shots", "10", "--users", "2", "--pictures", "2", "--cache", str(cache)]
    given += ["--untrained", "--threads", "1", "--epochs", "0,2,6", "--kind", "guided", "--from-scratch"]
    given += ["--photos", str(table_folder / "images")]
    _run(monkeypatch, "gradient-maps", str(run.folder), str(table_folder), str(output), *given)
    found = GradientMaps.load(output)
    assert found.epochs == (0, 2, 6)
    assert found.kind == "guided"
    assert np.isnan(found.ratings).all()
    assert found.facts["fine_tuning_epochs"] == 6
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mapped ")]
    assert len(said) == len(found.networks) == 11
    assert said[-1] == "mapped user 2 from scratch, epoch 6; 11 of 11 networks"


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert not stop.value.code
