"""The loop of meta-training: iterations, a log, checkpoints, and a look at validation users."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from piaa_sdk.errors import DivergenceError
from training.distributed import Ranks
from training.runs import RunState, constants_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from piaa_sdk.finetune.network import Params
    from training.learners.base import Learner, MetaStep
    from training.meta_config import ScheduleConfig
    from training.runs import Run
    from training.tasks import TaskSampler


class Reporter(Protocol):
    """Is told how far meta-training is."""

    def __call__(self, done: int, total: int, loss: float, validation: float | None, /) -> None:
        """Show it: iterations done, all iterations, the last loss, the last SROCC on validation users."""


def meta_train(
    learner: Learner,
    sampler: TaskSampler,
    prior: Params,
    schedule: ScheduleConfig,
    run: Run,
    *,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    validate: Callable[[Params], float] | None = None,
    report: Reporter | None = None,
) -> Params:
    """Meta-train, from the run's last checkpoint if it has one (Algorithm 1, lines 3 to 12).

    The result is that of the last iteration: what validation users say is logged, not chosen by.

    Args:
        learner: What is done in an iteration.
        sampler: Where tasks come from.
        prior: theta before the first iteration.
        schedule: How many iterations, and how often to keep and to look.
        run: Folder that keeps checkpoints and log.
        ranks: Which of several processes this is.
        validate: Gives the SROCC of a prior on validation users.
        report: Is told after each iteration.

    Returns:
        What the learner keeps of the prior.

    Raises:
        DivergenceError: A loss or the prior left the finite numbers; the last checkpoint stands.
        OutputError: The disk refuses; the last checkpoint stands.
    """
    state = run.load(next(iter(prior.values())).device)
    keeper = _Keeper(learner, schedule, run, validate, report)
    start = 0
    if state is not None:
        start, prior = state.iteration, state.prior
        learner.load_state(state.learner)
        learner.network.load_state_dict(state.constants, strict=False)
    if ranks.is_first:
        run.trim_log(start)
        if state is not None:
            keeper.catch_up(state)
        elif schedule.iterations == 0:
            keeper.save(prior, 0)
    if state is not None and start >= schedule.iterations:
        return state.prior
    places = None if ranks.count == 1 else ranks.places(sampler.config.tasks)
    for iteration in range(start, schedule.iterations):
        begun = time.perf_counter()
        step = learner.meta_step(prior, learner.tasks(sampler, iteration, places), iteration)
        prior = step.prior
        if ranks.is_first:
            keeper.keep(step, iteration, time.perf_counter() - begun)
    return learner.result(prior)


@dataclass(slots=True, eq=False)
class _Keeper:
    """Writes down what an iteration gave, and shows it."""

    learner: Learner
    schedule: ScheduleConfig
    run: Run
    validate: Callable[[Params], float] | None
    report: Reporter | None
    validation: float | None = None

    def keep(self, step: MetaStep, iteration: int, seconds: float) -> None:
        done = iteration + 1
        is_last = done == self.schedule.iterations
        line: dict[str, float | int | None] = {
            "iteration": iteration,
            "support_loss": _finite(step.support_loss),
            "query_loss": _finite(step.query_loss),
            "seconds": round(seconds, 6),
        }
        self.run.log(line)
        if is_last or done % self.schedule.checkpoint_every == 0:
            self.save(step.prior, done)
        if self._looks_after(done):
            self.look(self.learner.result(step.prior), done)
        if self.report is not None:
            self.report(done, self.schedule.iterations, step.support_loss, self.validation)

    def catch_up(self, state: RunState) -> None:
        """Do what comes after a checkpoint, if the run was ended between the two."""
        done = state.iteration
        is_last = done >= self.schedule.iterations
        lines = self.run.read_log()
        has_looked = bool(lines) and lines[-1]["iteration"] == done - 1 and "validation_srocc" in lines[-1]
        if done and self._looks_after(done) and not has_looked:
            self.look(state.prior if is_last else self.learner.result(state.prior), done)
        elif is_last and not self.run.record["finished"]:
            self.run.write_progress(done, finished=True)

    def look(self, prior: Params, done: int) -> None:
        """Ask validation users, and note what they say; this ends a run that has done all iterations."""
        assert self.validate is not None
        self.validation = self.validate(prior)
        self.run.log({"iteration": done - 1, "validation_srocc": _finite(self.validation)})
        if done >= self.schedule.iterations:
            self.run.write_progress(done, finished=True)

    def _looks_after(self, done: int) -> bool:
        is_due = done >= self.schedule.iterations or done % self.schedule.validate_every == 0
        return self.validate is not None and is_due

    def save(self, prior: Params, done: int) -> None:
        """Keep a checkpoint; of the last iteration, what the learner keeps."""
        is_last = done == self.schedule.iterations
        kept = self.learner.result(prior) if is_last else prior
        for name, value in kept.items():
            if not value.isfinite().all():  # the next loss would say so, but this checkpoint would stand
                raise DivergenceError(
                    f"iteration {done - 1}: {name} is not finite after the outer step; lower the rates"
                )
        state = RunState(done, kept, constants_of(self.learner.network), self.learner.state())
        # Before the look: whatever goes wrong in there takes no iteration with it.
        self.run.save(state, finished=is_last and not (done and self._looks_after(done)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
