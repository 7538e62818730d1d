"""The folder of a run: what is in it, what is refused, and what a crash can leave."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, OutputError
from training.meta_config import MetaConfig
from training.runs import LOG_NAME, RUN_NAME, STATE_NAME, Run, RunState

if TYPE_CHECKING:
    from pathlib import Path

FACTS: dict[str, Any] = {"mode": "head", "split": {"seed": 0, "train": ["ab"]}, "bf16": False}
LINES = [{"iteration": number, "seconds": 0.5 + number} for number in range(4)]


@pytest.fixture
def config() -> MetaConfig:
    return MetaConfig.load("ba")


@pytest.fixture
def run(tmp_path: Path, config: MetaConfig) -> Run:
    return Run.create(tmp_path / "run", config, FACTS)


def _state(iteration: int = 4) -> RunState:
    torch.manual_seed(iteration)
    prior = {"head.0.weight": torch.randn(3, 2).double(), "head.1.num_batches_tracked": torch.tensor(7)}
    return RunState(
        iteration, prior, {"head.mean": torch.randn(2)}, {"optimizer.steps": torch.tensor(iteration)}
    )


def test_a_checkpoint_comes_back_as_it_was(run: Run) -> None:
    """Names, types, shapes and bits; what overlaps in memory and what is not contiguous too."""
    state = _state()
    whole = torch.randn(4, 6)
    state.prior["a.prior.strange"] = whole.T
    assert run.load() is None
    assert not Run.open(run.folder).has_checkpoint
    run.save(state, finished=False)
    found = run.load()
    assert found is not None
    assert Run.open(run.folder).has_checkpoint
    assert found.iteration == 4
    for left, right in [
        (found.prior, state.prior),
        (found.constants, state.constants),
        (found.learner, state.learner),
    ]:
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert value.dtype == right[name].dtype
            assert torch.equal(value, right[name])


def test_the_record_tells_what_the_run_was_made_by(run: Run, config: MetaConfig) -> None:
    again = Run.open(run.folder)
    assert again.config == config
    assert again.record["split"] == FACTS["split"]
    assert (again.record["iterations_done"], again.record["finished"]) == (0, False)
    assert {"torch", "numpy"} <= again.record["versions"].keys()
    assert "git_commit" in again.record
    again.check_same(config, FACTS)


def test_a_run_goes_on_with_the_same_settings_and_data_only(run: Run, config: MetaConfig) -> None:
    other = MetaConfig.load("ba", ["generic.head_rate=0.5"])
    again = Run.open(run.folder)
    with pytest.raises(ModelFormatError, match=r"another generic\.head_rate \(0\.001, not 0\.5\); .*--force"):
        again.check_same(other, FACTS)
    with pytest.raises(ModelFormatError, match=r"begun with another split;"):
        again.check_same(config, {**FACTS, "split": {"seed": 1, "train": ["ab"]}})
    with pytest.raises(ModelFormatError, match=r"another generic\.head_rate .* and mode and bf16;"):
        again.check_same(other, {**FACTS, "mode": "full", "bf16": True})


def test_a_setting_that_came_later_has_its_default_in_an_older_record(tmp_path: Path) -> None:
    config = MetaConfig.load("blg_as_paper")
    path = Run.create(tmp_path, config, FACTS).folder / RUN_NAME
    record = json.loads(path.read_bytes())
    del record["configuration"]["blg"]["levels"], record["bf16"]
    path.write_text(json.dumps(record))
    Run.open(tmp_path).check_same(config, FACTS)
    with pytest.raises(ModelFormatError, match=r"another blg\.levels \(2, not 1\)"):
        Run.open(tmp_path).check_same(MetaConfig.load("blg_as_paper", ["blg.levels=1"]), FACTS)


def test_other_packages_of_a_resumed_half_are_noted_once(run: Run) -> None:
    """Bits may differ from there on, and a record that tells one version would be wrong."""
    run.note_resumed()
    assert "resumed" not in Run.open(run.folder).record
    record = json.loads((run.folder / RUN_NAME).read_bytes())
    before = {**record["versions"], "torch": "0.1"}
    (run.folder / RUN_NAME).write_text(json.dumps({**record, "versions": before, "iterations_done": 3}))
    for _ in range(2):
        Run.open(run.folder).note_resumed()
    found = Run.open(run.folder).record
    assert found["versions"] == before
    assert found["resumed"] == [
        {
            "versions": record["versions"],
            "git_commit": found["git_commit"],
            "threads": record["versions"]["threads"],
            "iterations_done": 3,
        }
    ]
    run = Run.open(run.folder)
    run.save(_state(), finished=True)
    assert Run.open(run.folder).record["resumed"] == found["resumed"]


def test_the_digest_of_a_state_tells_states_apart(run: Run) -> None:
    with pytest.raises(ModelFormatError, match=r"state\.safetensors cannot be read"):
        run.state_digest()
    run.save(_state(), finished=False)
    first = run.state_digest()
    assert len(first) == 64
    run.save(_state(), finished=True)
    assert run.state_digest() == first
    run.save(_state(5), finished=True)
    assert run.state_digest() != first


def test_what_is_logged_later_of_an_iteration_is_read_as_one(run: Run) -> None:
    run.log(LINES[0])
    run.log(LINES[1])
    run.log({"iteration": 1, "validation_srocc": 0.5})
    run.log(LINES[2])
    assert run.read_log() == [LINES[0], {**LINES[1], "validation_srocc": 0.5}, LINES[2]]
    run.trim_log(2)
    assert run.read_log() == [LINES[0], {**LINES[1], "validation_srocc": 0.5}]


def test_a_run_is_not_written_over_unless_asked_for(run: Run, config: MetaConfig) -> None:
    run.save(_state(), finished=True)
    run.log(LINES[0])
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(OutputError, match=r"holds a run already; go on with it \(--resume\), begin it anew"):
        Run.create(run.folder, config, FACTS)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    Run.create(run.folder, config, FACTS, replace=True)
    assert {path.name for path in run.folder.iterdir()} == {RUN_NAME}
    assert Run.open(run.folder).record["finished"] is False


def test_a_folder_that_cannot_be_made_is_our_error(tmp_path: Path, config: MetaConfig) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"run cannot be written"):
        Run.create(tmp_path / "file" / "run", config, FACTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "is not the record"),
        (b'{"format_version": 2, "configuration": {}}', r"format_version 2, expected 1"),
        (b'{"format_version": 1}', "is not the record"),
    ],
)
def test_a_record_that_is_none_is_refused(run: Run, content: bytes, message: str) -> None:
    (run.folder / RUN_NAME).write_bytes(content)
    with pytest.raises(ModelFormatError, match=rf"run\.json .*{message}"):
        Run.open(run.folder)


def test_a_record_of_settings_that_are_none_names_itself(run: Run) -> None:
    record = json.loads((run.folder / RUN_NAME).read_bytes())
    record["configuration"]["generic"]["speed"] = 3
    (run.folder / RUN_NAME).write_text(json.dumps(record))
    with pytest.raises(ModelFormatError, match=r"run\.json: generic: missing or not known: speed"):
        _ = Run.open(run.folder).config


def test_no_run_says_how_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no run\.json; begin with: python -m training meta-"):
        Run.open(tmp_path)


@pytest.mark.parametrize("kind", ["cut", "bytes", "foreign", "number"])
def test_a_damaged_checkpoint_is_our_error(run: Run, kind: str) -> None:
    run.save(_state(), finished=False)
    path = run.folder / STATE_NAME
    match kind:
        case "cut":
            path.write_bytes(path.read_bytes()[:-5])
        case "bytes":
            path.write_bytes(b"nothing of the kind")
        case "foreign":
            safetensors.torch.save_file(_state().prior, path)
        case _:
            safetensors.torch.save_file(_state().prior, path, metadata={"iteration": "two"})
    with pytest.raises(ModelFormatError, match=r"state\.safetensors cannot be read as a checkpoint"):
        run.load()


TORN = [
    '{"iteration": 3, "sec',
    "\x00\x00\x00",
    "3",
    '{"seconds": 1}',
    '{"iteration": "3"}',
    "\udcff\udcfe",
    "",
]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_line_of_the_log_takes_no_other_with_it(run: Run, torn: str) -> None:
    """A crash or a full disk may leave anything behind the last whole line."""
    for line in LINES[:3]:
        run.log(line)
    with (run.folder / LOG_NAME).open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    assert run.read_log() == LINES[:3]
    run.trim_log(2)
    for line in LINES[2:]:
        run.log(line)
    text = (run.folder / LOG_NAME).read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == LINES


def test_trimming_what_is_not_there_makes_nothing(run: Run) -> None:
    run.trim_log(0)
    assert not (run.folder / LOG_NAME).exists()
    assert run.read_log() == []


def test_figures_are_of_all_iterations_that_the_log_tells(run: Run) -> None:
    """A run that was interrupted does not only count what came after."""
    for line in LINES[:3]:
        run.log({**line, "validation_srocc": line["iteration"] / 4})
    run.save(_state(3), finished=True)
    record = Run.open(run.folder).record
    assert record["figures"] == {"seconds_per_iteration": 1.5, "validation_srocc": 0.5}
    (run.folder / LOG_NAME).unlink()
    run.save(_state(3), finished=True)
    assert Run.open(run.folder).record["figures"] == {"seconds_per_iteration": None, "validation_srocc": None}
