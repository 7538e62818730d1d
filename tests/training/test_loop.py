"""Meta-training goes on where it was stopped, and ends with the same tensors bit for bit.

Every shipped configuration is run in head mode: 8 people, 30 embeddings of 6 numbers, 5 iterations.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from piaa_sdk.errors import DivergenceError, OutputError
from piaa_sdk.finetune.network import params_of
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable
from training.loop import meta_train
from training.meta_config import MetaConfig, shipped_names
from training.network import make_network
from training.runs import LOG_NAME, STATE_NAME, Run
from training.sources import EmbeddingSource
from training.tasks import TaskSampler

if TYPE_CHECKING:
    from collections.abc import Callable

    from piaa_sdk.finetune.network import Params

ITERATIONS = 5
SMALL = (
    *("network.head.hidden=[8]", "network.head.standardize=true", "tasks.tasks=3", "tasks.pool=0"),
    *("tasks.support=[2, 8]", "schedule.checkpoint_every=2", "schedule.validate_every=2"),
    f"schedule.iterations={ITERATIONS}",
)


class Killed(BaseException):
    """What ends a program from outside: no ``except`` of the program's may hold it up."""


@dataclass
class Killer:
    """Ends the program after so many iterations, and counts those it sees."""

    after: int | None = None
    seen: int = 0

    def __call__(self, done: int, total: int, loss: float, validation: float | None) -> None:
        assert total == ITERATIONS
        self.seen += 1
        if done == self.after:
            raise Killed


def _table() -> RatingTable:
    rng = np.random.default_rng(0)
    users, images, each = 8, 30, 12
    return RatingTable(
        folder=Path(),
        users=tuple(f"user {user}" for user in range(users)),
        groups=("all",) * users,
        images=tuple(f"{image:02}.jpg" for image in range(images)),
        user_index=np.repeat(np.arange(users), each),
        image_index=np.concatenate([np.sort(rng.permutation(images)[:each]) for _ in range(users)]),
        ratings=rng.integers(1, 6, each * users).astype(np.float64),
    ).keep(np.ones(each * users, dtype=np.bool_))


def _config(name: str, *overrides: str) -> MetaConfig:
    return MetaConfig.load(name, [*SMALL, *overrides])


def _train(
    config: MetaConfig,
    run: Run,
    *,
    report: Killer | None = None,
    validate: Callable[[Params], float] | None = None,
    embeddings: torch.Tensor | None = None,
    mean: float = 0.5,
) -> Params:
    """Do what a program does from its start: nothing but the run's folder is shared between two calls."""
    table = _table()
    if embeddings is None:
        embeddings = torch.from_numpy(np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32))
    network = make_network(config.network, embedding_dim=6, seed=config.seed)
    network.head.mean.fill_(mean)
    learner = config.make_learner(network)
    scale, source = RatingScale(1, 5), EmbeddingSource(embeddings)
    sampler = TaskSampler(table, scale, source, config.tasks, seed=config.seed)
    return meta_train(
        learner,
        sampler,
        learner.first_prior(params_of(network)),
        config.schedule,
        run,
        validate=validate,
        report=report,
    )


def _begin(folder: Path, config: MetaConfig) -> Run:
    return Run.create(folder, config, {"mode": "head"})


def _same(left: Params, right: Params) -> bool:
    """Compare bit for bit; nan is nowhere."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _iterations(run: Run) -> list[int]:
    return [line["iteration"] for line in run.read_log()]


@pytest.fixture(params=shipped_names())
def config(request: pytest.FixtureRequest) -> MetaConfig:
    return _config(request.param)


def test_killed_after_any_iteration_the_result_is_the_same(tmp_path: Path, config: MetaConfig) -> None:
    whole = _begin(tmp_path / "whole", config)
    expected = _train(config, whole)
    assert expected
    assert all(value.isfinite().all() for value in expected.values())
    for after in range(1, ITERATIONS + 1):
        run = _begin(tmp_path / f"killed-{after}", config)
        with pytest.raises(Killed):
            _train(config, run, report=Killer(after))
        assert (Run.open(run.folder).record["iterations_done"]) == (after if after == 5 else after // 2 * 2)
        rest = Killer()
        assert _same(_train(config, Run.open(run.folder), report=rest), expected)
        assert rest.seen == (0 if after == ITERATIONS else ITERATIONS - after // 2 * 2)
        assert _iterations(run) == list(range(ITERATIONS))
        kept, other = run.load(), whole.load()
        assert kept is not None
        assert other is not None
        assert kept.iteration == other.iteration == ITERATIONS
        assert _same(kept.prior, expected)
        assert _same(kept.prior, other.prior)
        assert _same(kept.learner, other.learner)
        assert _same(kept.constants, other.constants)
        assert Run.open(run.folder).record["finished"] is True


def test_killed_again_and_again_the_result_is_the_same(tmp_path: Path, config: MetaConfig) -> None:
    """With a checkpoint after each iteration, a program that lives for one iteration arrives too."""
    config = MetaConfig.from_dict(
        {**config.to_dict(), "schedule": {"iterations": ITERATIONS, "checkpoint_every": 1}}, "test"
    )
    expected = _train(config, _begin(tmp_path / "whole", config))
    run = _begin(tmp_path / "killed", config)
    for done in range(1, ITERATIONS + 1):
        with pytest.raises(Killed):
            _train(config, Run.open(run.folder), report=Killer(done))
    assert _same(_train(config, Run.open(run.folder)), expected)
    assert _iterations(run) == list(range(ITERATIONS))


def test_iterations_change_the_prior(tmp_path: Path, config: MetaConfig) -> None:
    """Else all runs would end alike for a bad reason."""
    _train(config, _begin(tmp_path / "one", config), report=Killer())
    run = _begin(tmp_path / "two", config)
    with pytest.raises(Killed):
        _train(config, run, report=Killer(2))
    early, late = run.load(), Run.open(tmp_path / "one").load()
    assert early is not None
    assert late is not None
    assert not all(torch.equal(value, late.prior[name]) for name, value in early.prior.items())


def test_killed_between_tensors_and_record_the_run_is_finished_later(tmp_path: Path) -> None:
    """The tensors are written first: then the record may say less than they hold, and never more."""
    config = _config("ba")
    run = _begin(tmp_path / "run", config)
    unfinished = (run.folder / "run.json").read_bytes()
    expected = _train(config, run)
    figures = Run.open(run.folder).record["figures"]
    (run.folder / "run.json").write_bytes(unfinished)
    again = Killer()
    assert _same(_train(config, Run.open(run.folder), report=again), expected)
    assert again.seen == 0
    record = Run.open(run.folder).record
    assert (record["finished"], record["iterations_done"], record["figures"]) == (True, ITERATIONS, figures)


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    config = _config("reptile")
    run = _begin(tmp_path / "run", config)
    expected = _train(config, run)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    again = Killer()
    assert _same(_train(config, Run.open(run.folder), report=again), expected)
    assert again.seen == 0
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_run_of_no_iterations_keeps_what_it_began_with(tmp_path: Path) -> None:
    """The prior of 0 iterations is what meta-learning is compared with."""
    config = _config("blg_as_paper", "schedule.iterations=0")
    run = _begin(tmp_path / "run", config)
    result = _train(config, run)
    state = run.load()
    assert state is not None
    assert state.iteration == 0
    assert _same(state.prior, result)
    assert Run.open(run.folder).record["finished"] is True
    assert _iterations(run) == []


def test_what_the_network_standardizes_by_comes_from_the_checkpoint(tmp_path: Path) -> None:
    """It is measured once: a run that goes on must not divide by something else."""
    config = _config("blg_as_paper")
    expected = _train(config, _begin(tmp_path / "whole", config))
    run = _begin(tmp_path / "killed", config)
    with pytest.raises(Killed):
        _train(config, run, report=Killer(3))
    assert _same(_train(config, Run.open(run.folder), mean=0.0), expected)
    assert not _same(_train(config, _begin(tmp_path / "other", config), mean=0.0), expected)


def test_looking_at_validation_users_changes_nothing(tmp_path: Path) -> None:
    """The look draws and predicts; none of that may reach the run's own chance."""
    config = _config("blg_as_released")
    expected = _train(config, _begin(tmp_path / "blind", config))
    looks: list[Params] = []

    def validate(prior: Params) -> float:
        torch.rand(3)
        looks.append(prior)
        return 0.25 * len(looks)

    run = _begin(tmp_path / "seeing", config)
    assert _same(_train(config, run, validate=validate), expected)
    assert len(looks) == 3  # after 2, 4 and the last
    assert _same(looks[-1], expected)
    found = [line.get("validation_srocc") for line in run.read_log()]
    assert found == [None, 0.25, None, 0.5, 0.75]
    assert Run.open(run.folder).record["figures"]["validation_srocc"] == 0.75


@pytest.mark.parametrize(("look", "done"), [(1, 2), (2, 4), (3, 5)])
def test_a_look_that_fails_takes_no_checkpoint_with_it(tmp_path: Path, look: int, done: int) -> None:
    """And what it should have said is asked when the run goes on, of the same prior."""
    config = _config("blg_as_released")

    def says(prior: Params) -> float:
        return float(sum(value.double().sum() for value in prior.values()))

    whole = _begin(tmp_path / "whole", config)
    expected = _train(config, whole, validate=says)
    looks: list[Params] = []

    def fails(prior: Params) -> float:
        looks.append(prior)
        if len(looks) == look:
            raise Killed
        return says(prior)

    run = _begin(tmp_path / "run", config)
    with pytest.raises(Killed):
        _train(config, run, validate=fails)
    record = Run.open(run.folder).record
    assert (record["iterations_done"], record["finished"]) == (done, False)
    assert _same(_train(config, Run.open(run.folder), validate=says), expected)
    wanted = [line.get("validation_srocc") for line in whole.read_log()]
    assert wanted[1] is not None
    assert [line.get("validation_srocc") for line in run.read_log()] == wanted
    record = Run.open(run.folder).record
    assert record["finished"] is True
    assert record["figures"]["validation_srocc"] == wanted[-1]


def test_the_log_tells_losses_and_seconds(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", _config("maml"))
    _train(_config("maml"), run)
    lines = run.read_log()
    assert all(set(line) == {"iteration", "support_loss", "query_loss", "seconds"} for line in lines)
    assert all(0 < line["support_loss"] < 10 for line in lines)
    assert all(0 < line["seconds"] < 60 for line in lines)
    seconds = sorted(line["seconds"] for line in lines)
    assert Run.open(run.folder).record["figures"]["seconds_per_iteration"] == seconds[ITERATIONS // 2]


def test_nan_stops_with_task_and_step_named_and_the_last_checkpoint_stands(
    tmp_path: Path, config: MetaConfig
) -> None:
    """Pictures that make no sense meet a prior that does."""
    run = _begin(tmp_path / "run", config)
    with pytest.raises(Killed):
        _train(config, run, report=Killer(3))
    stands = (run.folder / STATE_NAME).read_bytes()
    with pytest.raises(
        DivergenceError, match=r"iteration 2, task of user [0-9a-f]{8}: .*; lower the"
    ) as told:
        _train(config, Run.open(run.folder), embeddings=torch.full((30, 6), torch.nan))
    if config.learner != "closed_form":  # it takes no steps
        assert re.search(r"(step 1|loss) is nan|step 1: .*nan", str(told.value))
    assert (run.folder / STATE_NAME).read_bytes() == stands
    assert Run.open(run.folder).record["iterations_done"] == 2
    assert Run.open(run.folder).record["finished"] is False


def test_a_prior_that_is_not_finite_is_never_kept(tmp_path: Path) -> None:
    """A step too large leaves the finite numbers after the last loss of an iteration was taken."""
    config = _config("maml", "maml.outer_head_rate=1e39", "schedule.checkpoint_every=1")
    run = _begin(tmp_path / "run", config)
    with pytest.raises(DivergenceError, match=r"iteration 0: head\.\S+ is not finite after the outer step"):
        _train(config, run)
    assert not run.has_checkpoint


def test_a_disk_that_refuses_the_log_loses_no_checkpoint(tmp_path: Path) -> None:
    config = _config("ba")
    expected = _train(config, _begin(tmp_path / "whole", config))
    run = _begin(tmp_path / "run", config)
    with pytest.raises(Killed):
        _train(config, run, report=Killer(2))
    (run.folder / LOG_NAME).rename(run.folder / "kept.jsonl")
    (run.folder / LOG_NAME).mkdir()
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        _train(config, Run.open(run.folder))
    (run.folder / LOG_NAME).rmdir()
    (run.folder / "kept.jsonl").rename(run.folder / LOG_NAME)
    assert _same(_train(config, Run.open(run.folder)), expected)
    assert _iterations(run) == list(range(ITERATIONS))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """Files may not grow beyond half a checkpoint, as on a disk that is about to be full."""
    import resource

    config = _config("blg_as_paper")
    expected = _train(config, _begin(tmp_path / "whole", config))
    run = _begin(tmp_path / "run", config)
    with pytest.raises(Killed):
        _train(config, run, report=Killer(2))
    files = {path.name for path in run.folder.iterdir()}
    stands = (run.folder / STATE_NAME).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Limiter:
        def __call__(self, done: int, total: int, *rest: Any) -> None:
            if done == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (len(stands) // 2, before[1]))

    try:
        with pytest.raises(OutputError, match=r"state\.safetensors cannot be written"):
            _train(config, Run.open(run.folder), report=Limiter())  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in run.folder.iterdir()} == files
    assert (run.folder / STATE_NAME).read_bytes() == stands
    assert _same(_train(config, Run.open(run.folder)), expected)
    assert _iterations(run) == list(range(ITERATIONS))
