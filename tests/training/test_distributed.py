"""Several processes share the tasks of a meta-batch and arrive where one process does."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch

from piaa_sdk.errors import ModelFormatError
from training.distributed import Ranks, check_ranks, joined_ranks
from training.meta_commands import meta_train
from training.meta_config import MetaConfig, shipped_names
from training.runs import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PROGRAM = Path(__file__).with_name("ranks_program.py")
ROOT = Path(__file__).parents[2]
SECONDS = 150
SEQUENTIAL = {"blg_as_released", "blg_as_released_same_network"}

needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or os.name == "nt", reason="torch is built without gloo"
)


def _launch(arguments: Sequence[str], wanted: Path) -> str:
    """Start two processes until a file is there, twice at most; returns what they said.

    What counts is the file: gloo now and then aborts when all is done and the processes part.
    """
    said = ""
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port), *arguments]
        process = subprocess.Popen(
            launcher,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            said = f"nothing after {SECONDS} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if wanted.exists():
            return said
    pytest.fail(said)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ranks_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_gloo
def test_two_processes_arrive_where_one_does(tmp_path: Path, program: ModuleType) -> None:
    """Priors and losses after each outer step in float64, for all learners; both processes hold them."""
    _launch([str(PROGRAM), str(tmp_path)], tmp_path / "1-of-2")
    expected = program.outer_steps(Ranks())
    ranks = [safetensors.torch.load_file(tmp_path / f"{rank}-of-2") for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys() == expected.keys()
    shared = [key for key in expected if key.startswith("shared ")]
    assert len(shared) == 3
    for key in shared:  # made differently by each, and the first one's in both
        assert torch.equal(ranks[0][key], expected[key])
        assert torch.equal(ranks[1][key], expected[key])
    for name in program.NAMES:
        for tasks in program.TASKS:
            own = [key for key in expected if key.startswith(f"{name}, k = {tasks}: ")]
            first = {key: value for key, value in expected.items() if key in own and ": 0 " in key}
            second = {key.replace(": 0 ", ": 1 "): value for key, value in first.items()}
            assert any(not torch.equal(expected[key], second[key]) for key in second), "nothing was learned"
            for key in own:
                assert ranks[0][key].dtype == expected[key].dtype
                torch.testing.assert_close(
                    ranks[0][key], expected[key], atol=1e-6, rtol=1e-6, equal_nan=True, msg=key
                )
                torch.testing.assert_close(
                    ranks[1][key], ranks[0][key], atol=0, rtol=0, equal_nan=True, msg=key
                )


@needs_gloo
def test_the_command_in_two_processes_begins_anew_and_ends_as_in_one(
    tmp_path: Path, table_folder: Path
) -> None:
    """Nothing of the finished run that it replaces may be read by the process that comes first."""
    settings = [
        *("network.size=32", "network.head.dropout=0", "tasks.tasks=2", "blg.outer_rate=0.5"),
        "schedule.iterations=2",
    ]
    alone, spread, cache = tmp_path / "alone", tmp_path / "spread", tmp_path / "cache"
    meta_train(
        "blg_as_paper",
        *(table_folder, alone),
        train_groups=["a"],
        test_groups=["c"],
        overrides=settings,
        untrained=True,
        cache=cache,
        threads=1,
    )
    shutil.copytree(alone, spread)
    (spread / "log.jsonl").unlink()
    command = ["-m", "training", "meta-train", "blg_as_paper", str(table_folder), str(spread), "--force"]
    command += ["--train-groups", "a", "--test-groups", "c", "--untrained", "--cache", str(cache)]
    command += ["--threads", "1", *(part for setting in settings for part in ("--set", setting))]
    said = _launch(command, spread / "log.jsonl")
    assert said.count("wrote") == 1, said
    one, two = (Run.open(folder).load() for folder in (alone, spread))
    assert one is not None
    assert two is not None
    assert Run.open(spread).record["finished"] is True
    assert one.prior.keys() == two.prior.keys()
    for name, value in one.prior.items():
        torch.testing.assert_close(two.prior[name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert [line["iteration"] for line in Run.open(spread).read_log()] == [0, 1]


def test_tasks_are_shared_without_rest() -> None:
    """Each task of a meta-batch is learned by one process, and no process is without."""
    for tasks in range(1, 9):
        for count in range(1, tasks + 1):
            shares = [list(Ranks(rank, count).places(tasks)) for rank in range(count)]
            assert sorted(place for share in shares for place in share) == list(range(tasks))
            assert all(shares)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_that_was_started_alone_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks(torch.device("cpu")) as ranks:
        assert ranks == Ranks(0, 1)
        ranks.wait()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined_ranks(torch.device("cpu")) as ranks:
        assert ranks.is_first


@pytest.mark.parametrize("name", shipped_names())
def test_what_goes_from_task_to_task_stays_in_one_process(name: str) -> None:
    config = MetaConfig.load(name, ["tasks.tasks=2"])
    check_ranks(config, Ranks(), users=1)
    if name in SEQUENTIAL:
        with pytest.raises(ModelFormatError, match=r"goes from task to task .*; run it in one process"):
            check_ranks(config, Ranks(1, 2), users=10)
    else:
        check_ranks(config, Ranks(1, 2), users=10)


@pytest.mark.parametrize(
    "override",
    ["blg.moments=carried", "blg.statistics=carried", "blg.outer_rule=sequential", "tasks.users=shuffled"],
)
def test_one_setting_is_enough_to_be_refused(override: str) -> None:
    with pytest.raises(ModelFormatError, match="run it in one process"):
        check_ranks(MetaConfig.load("blg_as_paper", [override]), Ranks(0, 2), users=10)


def test_more_processes_than_tasks_are_refused() -> None:
    """A process without a task would wait for the others, or they for it, for ever."""
    config = MetaConfig.load("blg_as_paper")
    check_ranks(config, Ranks(0, 4), users=4)
    with pytest.raises(
        ModelFormatError, match=r"5 processes cannot share 4 tasks .*tasks\.tasks is 4, of 9 p"
    ):
        check_ranks(config, Ranks(0, 5), users=9)
    with pytest.raises(ModelFormatError, match=r"4 processes cannot share 3 tasks .* of 3 people with 6 rat"):
        check_ranks(config, Ranks(0, 4), users=3)
    with pytest.raises(ModelFormatError, match=r"2 processes cannot share 1 tasks"):
        check_ranks(MetaConfig.load("ba"), Ranks(0, 2), users=9)
