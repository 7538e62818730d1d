"""Runs from a data set to a judged prior, in both modes, and what stops them on the way."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

from piaa_sdk.errors import DeviceError, ModelFormatError, ModelNotFoundError, OutputError, RatingError
from training.attributes.predictor import AttributePredictor
from training.attributes.source import AttributeSource
from training.baselines.judging import Sources
from training.data.datasets import read_dataset
from training.data.splits import split as split_dataset
from training.experiment import Backbone, Hardware, Workshop, load_personalizer, standardize, train
from training.judging import Judging
from training.meta_config import MetaConfig
from training.network import make_backbone
from training.published import judge_methods, judge_run
from training.runs import STATE_NAME, Run
from training.sources import PictureSource, packed_size, preprocessing_of

if TYPE_CHECKING:
    from training.data.splits import Split

SMALL = (
    *("network.size=32", "network.head.hidden=[8]", "tasks.tasks=2", "tasks.support=[8]", "tasks.query=4"),
    *("fine_tuning.epochs=2", "schedule.iterations=4", "schedule.checkpoint_every=2"),
)
LITE = "network.backbone=tf_efficientnet_lite0"
"""Small enough to be written often."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def split(table_folder: Path) -> Split:
    dataset = read_dataset("table", table_folder)
    return split_dataset(dataset, train_groups=["a"], validation_groups=["b"], test_groups=["c"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for what was read of pictures, so that each network sees them once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workshop(cache: Path) -> Workshop:
    return Workshop("head", cache, Backbone(untrained=True))


def _config(name: str = "blg_as_paper", *overrides: str) -> MetaConfig:
    return MetaConfig.load(name, [*SMALL, *overrides])


def _tensors(run: Run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.folder / STATE_NAME)


def _same(left: Run, right: Run) -> bool:
    one, two = _tensors(left), _tensors(right)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Stopped(BaseException):
    """Ends a run from outside."""


def _stop_after(iterations: int) -> Any:
    def report(done: int, *rest: Any) -> None:
        if done == iterations:
            raise Stopped

    return report


def test_a_run_ends_with_everything_that_judging_needs(
    tmp_path: Path, split: Split, workshop: Workshop
) -> None:
    run = train(_config(), split, tmp_path / "run", workshop)
    record = run.record
    assert (record["finished"], record["iterations_done"], record["mode"]) == (True, 4, "head")
    assert record["split"] == json.loads(json.dumps(split.to_json()))
    assert split.train is not None
    assert record["people"] == list(split.train.person_digests())
    assert record["backbone_weights"] == "random"
    assert -1 <= record["figures"]["validation_srocc"] <= 1
    judged = judge_run(run, split.test, split.scale, workshop, Judging([10], 1))
    assert judged.method == "BLG-PIAA (as paper)"
    assert judged.facts["trained_on"] == "table"
    assert (judged.facts["m_s"], judged.facts["m_q"], judged.facts["k"], judged.facts["S"]) == (8, 4, 2, 5)
    assert np.isfinite(judged.result(10).figures["personal"].mean)


def test_nothing_of_the_machine_and_nobody_by_name_is_in_the_record(
    tmp_path: Path, split: Split, cache: Path
) -> None:
    """A record is published with its prior: weights are told by their digest, people by theirs."""
    weights = tmp_path / "secret-folder" / "weights.pth"
    weights.parent.mkdir()
    backbone, _, _ = make_backbone(_config().network, untrained=True)
    torch.save(backbone.state_dict(), weights)
    run = train(_config(), split, tmp_path / "run", Workshop("head", cache, Backbone(weights)))
    text = (run.folder / "run.json").read_text(encoding="utf-8")
    assert run.record["backbone_weights"].startswith("file with SHA-256 ")
    assert len(run.record["backbone_weights"].split()[-1]) == 64
    for told in (str(tmp_path), "secret-folder", "weights.pth", str(cache), str(Path.home()), str(ROOT)):
        assert told not in text
    for part in (split.train, split.validation, split.test):
        assert part is not None
        assert not [user for user in part.users if user in text]
    # With the same file elsewhere it is the same run; with other weights it is none of these.
    again = weights.rename(tmp_path / "moved.pth")
    train(_config(), split, tmp_path / "run", Workshop("head", cache, Backbone(again)), resume=True)
    with pytest.raises(ModelFormatError, match="begun with another backbone_weights"):
        train(
            _config(), split, tmp_path / "run", Workshop("head", cache, Backbone(untrained=True)), resume=True
        )


def test_weights_that_are_not_there_are_our_error(tmp_path: Path, split: Split, cache: Path) -> None:
    missing = Workshop("head", cache, Backbone(tmp_path / "none.pth"))
    with pytest.raises(ModelNotFoundError, match=r"none\.pth: the weights cannot be read: No such file"):
        train(_config(), split, tmp_path / "run", missing)
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_begin_leaves_no_folder_to_replace(
    tmp_path: Path, split: Split, cache: Path
) -> None:
    """Who then names the right backbone should not be told that there is a run already."""
    with pytest.raises(ModelFormatError, match="neither torchvision nor timm has a backbone"):
        train(_config("ba", "network.backbone=nothing"), split, tmp_path / "run", Workshop("head", cache))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["head", "full"])
def test_stopped_and_gone_on_with_the_result_is_the_same(
    tmp_path: Path, split: Split, cache: Path, mode: str
) -> None:
    """With weights, standardization and pictures made anew; in full mode with augmented pictures."""
    config = _config("blg_as_released_same_network", "network.head.standardize=true", "blg.steps=1", LITE)
    workshop = Workshop(mode, cache, Backbone(untrained=True))
    whole = train(config, split, tmp_path / "whole", workshop)
    with pytest.raises(Stopped):
        train(config, split, tmp_path / "run", workshop, report=_stop_after(3))
    assert Run.open(tmp_path / "run").record["iterations_done"] == 2
    run = train(config, split, tmp_path / "run", workshop, resume=True)
    assert _same(run, whole)
    assert [line["iteration"] for line in run.read_log()] == [0, 1, 2, 3]
    values = [line.get("validation_srocc") for line in run.read_log()]
    assert values == [line.get("validation_srocc") for line in whole.read_log()]


def test_a_finished_run_is_not_done_again(tmp_path: Path, split: Split, workshop: Workshop) -> None:
    train(_config("ba"), split, tmp_path / "run", workshop)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    train(_config("ba"), split, tmp_path / "run", workshop, resume=True, report=_stop_after(1))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_other_settings_data_or_hardware_are_refused(
    tmp_path: Path, table_folder: Path, split: Split, workshop: Workshop
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        train(_config(), split, folder, workshop, report=_stop_after(3))
    other = split_dataset(read_dataset("table", table_folder), train_groups=["b"], test_groups=["c"])
    rough = replace(workshop, hardware=Hardware(bf16=True))
    for config, data, where, what in [
        (_config("blg_as_paper", "blg.outer_rate=0.5"), split, workshop, "blg.outer_rate "),
        (_config(), other, workshop, "split and people and pictures;"),
        (_config(), split, rough, "bf16;"),
    ]:
        with pytest.raises(ModelFormatError, match=f"was begun with another {what}"):
            train(config, data, folder, where, resume=True)
    with pytest.raises(OutputError, match="holds a run already"):
        train(_config(), split, folder, workshop)
    assert Run.open(folder).record["iterations_done"] == 2  # all of that changed nothing
    run = train(_config("ba"), split, folder, workshop, replace=True)
    assert run.config.title == "BA-PIAA"


def test_killed_by_the_system_the_result_is_the_same(tmp_path: Path, table_folder: Path, cache: Path) -> None:
    """Nothing can be tidied up then. The program is killed wherever it happens to be."""
    many = [*SMALL, "schedule.iterations=80", "schedule.checkpoint_every=1", "network.head.standardize=true"]
    config = MetaConfig.load("blg_as_paper", many)
    dataset = read_dataset("table", table_folder)
    data = split_dataset(dataset, train_groups=["a"], test_groups=["c"])
    workshop = Workshop("head", cache, Backbone(untrained=True))
    whole = train(config, data, tmp_path / "whole", workshop)
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "training", "meta-train", "blg_as_paper", str(table_folder), str(folder)]
    command += ["--train-groups", "a", "--test-groups", "c", "--untrained", "--cache", str(cache)]
    command += ["--threads", "1", *(part for setting in many for part in ("--set", setting))]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 90
        while not (folder / STATE_NAME).exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.05)
    finally:
        process.kill()
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    done = Run.open(folder).record["iterations_done"]
    assert 0 < done < 80
    run = train(config, data, folder, workshop, resume=True)
    assert _same(run, whole)
    assert [line["iteration"] for line in run.read_log()] == list(range(80))


def test_ctrl_c_keeps_the_checkpoint(tmp_path: Path, table_folder: Path, cache: Path) -> None:
    """And says so little that the person finds the prompt again."""
    folder = tmp_path / "run"
    settings = [*SMALL, "schedule.iterations=100000", "schedule.checkpoint_every=1"]
    command = [sys.executable, "-m", "training", "meta-train", "ba", str(table_folder), str(folder)]
    command += ["--train-groups", "a", "--test-groups", "c", "--untrained", "--cache", str(cache)]
    command += ["--threads", "1", *(part for setting in settings for part in ("--set", setting))]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 90
        while not (folder / STATE_NAME).exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        with contextlib.suppress(OSError):
            process.kill()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in said
    run = Run.open(folder)
    state = run.load()
    assert state is not None
    assert state.iteration >= 1
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert run.record["finished"] is False


def test_full_mode_trains_on_packed_pictures_and_judges_on_plain_ones(
    tmp_path: Path, split: Split, cache: Path
) -> None:
    """Flipped and cropped for training alone: what is judged was never even packed in the larger size."""
    workshop = Workshop("full", tmp_path / "cache", Backbone(untrained=True))
    config = _config("blg_as_paper", "schedule.iterations=1", "blg.steps=1", "network.head.standardize=true")
    fresh = replace(split, validation=None)
    run = train(config, fresh, tmp_path / "run", workshop)
    assert any(name.startswith("prior.backbone.") for name in _tensors(run))
    assert split.train is not None
    larger = packed_size(32)
    assert larger == 37
    packed = {
        edge: json.loads((tmp_path / "cache" / "packed" / f"{edge}px" / "index.json").read_bytes())
        for edge in (32, larger)
    }
    trained_on = len(split.train.images)
    assert [len(packed[edge]["digests"]) for edge in (32, larger)] == [trained_on, trained_on]
    judged = judge_run(run, split.test, split.scale, workshop, Judging([10], 1, 0, 2))
    assert judged.facts["mode"] == "full"
    packed = {
        edge: json.loads((tmp_path / "cache" / "packed" / f"{edge}px" / "index.json").read_bytes())
        for edge in (32, larger)
    }
    both = trained_on + len(split.test.images)
    assert [len(packed[edge]["digests"]) for edge in (32, larger)] == [both, trained_on]


def test_pictures_are_altered_for_training_and_for_nothing_else(split: Split, cache: Path) -> None:
    workshop = Workshop("full", cache, Backbone(untrained=True))
    assert split.train is not None
    config = _config().network
    training = workshop.source(split.train, config, 0, for_training=True)
    judging = workshop.source(split.train, config, 0)
    some = np.arange(6)
    plain = judging.take(some, None)
    assert isinstance(training, PictureSource)
    assert training.scored.preprocessing == preprocessing_of(32)
    assert torch.equal(training.take(some, None), plain)
    assert torch.equal(judging.take(some, np.random.default_rng(0)), plain)
    altered = training.take(some, np.random.default_rng(0))
    assert altered.shape == plain.shape
    assert altered.dtype == torch.uint8
    assert not torch.equal(altered, plain)
    assert not torch.equal(altered, training.take(some, np.random.default_rng(1)))
    assert torch.equal(altered, training.take(some, np.random.default_rng(0)))


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_head_that_standardizes_divides_by_what_the_training_pictures_give(
    tmp_path: Path, split: Split, cache: Path, mode: str
) -> None:
    """Mean 0 and deviation 1 over the training images, measured once and kept with the run."""
    workshop = Workshop(mode, cache, Backbone(untrained=True))
    config = _config("ba", "network.head.standardize=true", "schedule.iterations=1")
    assert split.train is not None
    source = workshop.source(split.train, config.network, config.seed)
    network = workshop.network(config.network, source, config.seed)
    assert torch.equal(network.head.std, torch.ones_like(network.head.std))
    standardize(network, source, len(split.train.images))
    with torch.no_grad():
        network.eval()
        embeddings = network.embed(source.take(np.arange(len(split.train.images)), None))
    wanted = (embeddings - network.head.mean) / network.head.std
    torch.testing.assert_close(wanted.mean(0), torch.zeros_like(wanted[0]), atol=1e-3, rtol=0)
    loud = embeddings.std(0) > 0.06 * embeddings.std(0).median()
    assert loud.any()
    torch.testing.assert_close(wanted[:, loud].std(0), torch.ones_like(wanted[0, loud]), atol=1e-3, rtol=0)
    run = train(config, replace(split, validation=None), tmp_path / "run", workshop)
    state = run.load()
    assert state is not None
    assert torch.equal(state.constants["head.mean"], network.head.mean)
    judged = load_personalizer(run, split.test, split.scale, workshop)
    assert torch.equal(judged.learner.network.head.mean, network.head.mean)


def test_a_prior_is_judged_in_its_own_mode_with_its_own_weights(
    tmp_path: Path, split: Split, workshop: Workshop
) -> None:
    run = train(_config("ba"), split, tmp_path / "run", workshop)
    for other in (replace(workshop, mode="full"), replace(workshop, backbone=Backbone())):
        with pytest.raises(
            ModelFormatError, match=r"was made in the mode head on a backbone with .* random, no"
        ):
            load_personalizer(run, split.test, split.scale, other)


def test_an_unfinished_run_is_not_judged(tmp_path: Path, split: Split, workshop: Workshop) -> None:
    for after, name in [(1, "early"), (3, "late")]:
        with pytest.raises(Stopped):
            train(_config(), split, tmp_path / name, workshop, report=_stop_after(after))
        run = Run.open(tmp_path / name)
        assert run.has_checkpoint == (name == "late")
        with pytest.raises(ModelFormatError, match=r"is not finished; go on with it: .*--resume"):
            load_personalizer(run, split.test, split.scale, workshop)


def test_people_and_pictures_of_the_training_are_not_judged(
    tmp_path: Path, split: Split, workshop: Workshop
) -> None:
    run = train(_config("ba"), split, tmp_path / "run", workshop)
    assert split.train is not None
    with pytest.raises(
        RatingError, match=r"trained on 6 of these 6 people and 40 of these 40 pictures; .*--allo"
    ):
        judge_run(run, split.train, split.scale, workshop, Judging([10], 1))
    known = judge_run(run, split.train, split.scale, workshop, Judging([10], 1), allow_seen=True)
    assert known.result(10).users == 6
    told = ("seen_people", "seen_pictures", "seen_allowed")
    assert [known.facts[name] for name in told] == [6, 40, True]
    others = judge_run(run, split.test, split.scale, workshop, Judging([10], 1))
    assert [others.facts[name] for name in told] == [0, 0, False]


def test_what_was_judged_is_not_judged_again(tmp_path: Path, split: Split, workshop: Workshop) -> None:
    """The file is read where run and conditions are the same, and made anew where one of them differs."""
    run, kept = train(_config("ba"), split, tmp_path / "run", workshop), tmp_path / "judged.json"

    def judge(*how: Any, of: Run = run, **more: Any) -> list[int]:
        done: list[int] = []
        found = judge_run(
            of,
            split.test,
            split.scale,
            workshop,
            Judging(*how),
            kept=kept,
            progress=lambda number, total: done.append(number),
            **more,
        )
        assert found.to_json() == json.loads(kept.read_bytes())
        return done

    assert judge([10], 1)
    stamp = kept.stat().st_mtime_ns
    assert judge([10], 1) == []
    assert kept.stat().st_mtime_ns == stamp
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (([10], 2), {}),
        (([10], 2, 0), {}),
        (([12], 2, 0), {}),
        (([12], 2, 0, 3), {}),
        (([12], 2, 0, 3, True), {}),
        (([12], 2, 0, 3, True, 1), {}),
        (([12], 2, 0, 3, True, 1), {"rate": 0.1}),
        (([12], 2, 0, 3, True, 1), {"data": "named"}),
        (([12], 2, 0, 3, True, 1), {"facts": {"k": 1}}),
        (([10], 1), {}),
    ]
    for how, more in asked:
        assert judge(*how, **more), (how, more)
        assert judge(*how, **more) == []
    other = train(_config("ba", "seed=1"), split, tmp_path / "other", workshop)
    assert judge([10], 1, of=other)
    kept.write_text("{")
    assert judge([10], 1)


def test_a_rate_is_refused_where_nothing_follows_it(tmp_path: Path, split: Split, workshop: Workshop) -> None:
    """The row would have another name and the same figures."""
    run = train(_config("closed_form"), split, tmp_path / "run", workshop)
    with pytest.raises(ModelFormatError, match="adapts without a learning rate; leave --rate out"):
        judge_run(run, split.test, split.scale, workshop, Judging([10], 1), rate=0.1)


def test_pictures_on_both_sides_are_refused_before_anything_is_trained(
    tmp_path: Path, table_folder: Path, split: Split, workshop: Workshop
) -> None:
    """Another data set may hold the same pictures by other names, and other people."""
    folder = tmp_path / "data"
    folder.mkdir()
    source = sorted((table_folder / "images").glob("a*.jpg"))
    lines = ["user,image,score"]
    for number in range(25):
        (folder / f"{number}.jpg").write_bytes(source[number].read_bytes() + (b"" if number < 3 else b"0"))
        lines.append(f"stranger,{number}.jpg,{number % 7 + 1}")
    (folder / "ratings.csv").write_text("\n".join(lines))
    tested = split_dataset(read_dataset("table", folder), test_groups=["all"])
    with pytest.raises(RatingError, match="0 of the 1 people and 3 of the 25 pictures to test on are among"):
        judge_methods(
            [_config("ba")],
            split,
            tested,
            tmp_path / "out",
            workshop,
            Sources(AttributeSource()),
            how=Judging([10], 1),
            report=lambda config: _stop_after(1),
            progress=lambda what: lambda done, total: None,
            say=lambda text: None,
        )
    assert not (tmp_path / "out").exists()


def test_a_predictor_that_learned_from_test_pictures_is_refused_before_anything_is_trained(
    tmp_path: Path, split: Split, workshop: Workshop
) -> None:
    """Its labels are means over people, those to test on perhaps among them."""
    predictor = AttributePredictor.load(Path(__file__).parent / "golden" / "predictor_v1")

    def judge(pictures: tuple[str, ...]) -> None:
        judge_methods(
            [_config("ba")],
            split,
            split,
            tmp_path / "out",
            workshop,
            Sources(AttributeSource(replace(predictor, pictures=pictures))),
            how=Judging([10], 1),
            report=lambda config: _stop_after(1),
            progress=lambda what: lambda done, total: None,
            say=lambda text: None,
        )

    with pytest.raises(RatingError, match=rf"from 2 of the {len(split.test.images)} pictures to judge on"):
        judge(split.test.picture_digests()[:2])
    assert not (tmp_path / "out").exists()
    with pytest.raises(Stopped):
        judge(("0" * 64,))


def _with_ratings(split: Split, counts: list[int]) -> Split:
    """Leave the validation users only so many ratings."""
    table = split.validation
    assert table is not None
    is_kept = np.zeros(len(table), dtype=np.bool_)
    for user, count in enumerate(counts):
        is_kept[np.flatnonzero(table.user_index == user)[:count]] = True
    return replace(split, validation=table.keep(is_kept))


def test_validation_asks_those_who_rated_enough(tmp_path: Path, split: Split, workshop: Workshop) -> None:
    """Ten to adapt to and ten to judge by: two of six users have them, and nobody else ends the run."""
    run = train(_config("ba"), _with_ratings(split, [19, 20, 6, 40, 1, 3]), tmp_path / "run", workshop)
    assert -1 <= run.record["figures"]["validation_srocc"] <= 1
    with pytest.raises(RatingError, match=r"none of the 6 validation users has 10 .*the most are 19"):
        train(_config("ba"), _with_ratings(split, [19] * 6), tmp_path / "other", workshop)
    assert not (tmp_path / "other").exists()


def test_a_resumed_half_with_other_packages_is_noted(
    tmp_path: Path, split: Split, workshop: Workshop
) -> None:
    with pytest.raises(Stopped):
        train(_config("ba"), split, tmp_path / "run", workshop, report=_stop_after(3))
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "versions": {**record["versions"], "numpy": "0.1"}}))
    run = train(_config("ba"), split, tmp_path / "run", workshop, resume=True)
    assert run.record["finished"] is True
    assert [entry["iterations_done"] for entry in run.record["resumed"]] == [2]
    assert run.record["resumed"][0]["versions"] == record["versions"]


def test_another_rate_is_told_by_the_name(tmp_path: Path, split: Split, workshop: Workshop) -> None:
    """alpha_f of the paper and the better one stand side by side in one table."""
    run = train(_config("ba"), split, tmp_path / "run", workshop)
    found = [
        judge_run(run, split.test, split.scale, workshop, Judging([10], 1), rate=rate)
        for rate in (None, 1e-5, 0.05)
    ]
    assert [one.method for one in found] == ["BA-PIAA", "BA-PIAA, rate 1e-05", "BA-PIAA, rate 0.05"]
    assert found[2].facts["fine_tuning_rate"] == 0.05
    means = [one.result(10).figures["personal"].mean for one in found]
    assert means[0] == means[1] != means[2]


def test_a_data_set_of_test_users_alone_trains_nobody(
    tmp_path: Path, real_cur_folder: Path, workshop: Workshop
) -> None:
    only_tested = split_dataset(read_dataset("real-cur", real_cur_folder))
    with pytest.raises(RatingError, match="real-cur has nobody to train on; train on another data set"):
        train(_config(), only_tested, tmp_path / "run", workshop)


def test_modes_and_devices_that_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFormatError, match="mode is 'both', must be head or full"):
        Workshop("both", tmp_path)
    with pytest.raises(DeviceError, match="device is 'gpu', must be cpu, cuda or"):
        Hardware("gpu")
    for device in ("cuda:", "cuda:x", "cuda:-1", "cpu:7"):
        with pytest.raises(
            DeviceError, match=f"device is '{device}', must be cpu, cuda or, of several, cuda:0"
        ):
            Hardware(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA device here"):
        Hardware("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    Hardware("cuda:1")
    with pytest.raises(DeviceError, match="device is 'cuda:2', must be cuda:0 to cuda:1: there are 2"):
        Hardware("cuda:2")


def test_the_hardware_is_a_wish_of_the_network(split: Split, cache: Path) -> None:
    """bf16 and channels-last reach the network, and its scores are those of float32 but for the last bits."""
    config = _config("ba", "network.head.dropout=0").network
    assert split.train is not None
    scores = []
    for hardware in (Hardware(), Hardware(bf16=True, channels_last=True)):
        workshop = Workshop("full", cache, Backbone(untrained=True), hardware)
        source = workshop.source(split.train, config, 0)
        network = workshop.network(config, source, 0)
        network.eval()
        with torch.no_grad():
            scores.append(network(source.take(np.arange(8), None)))
    assert network.autocast is torch.bfloat16
    kernels = [value for value in network.parameters() if value.ndim == 4 and value.shape[2] > 1]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)
    assert not torch.equal(*scores)
    torch.testing.assert_close(scores[1].float(), scores[0], atol=0.1, rtol=0.1)
