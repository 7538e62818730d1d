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
    if state is not None and state.iteration >= schedule.iterations:
        if ranks.is_first:  # the run may have been killed after its tensors were written
            run.write_progress(state.iteration, finished=True)
        return state.prior
    start = 0
    if state is not None:
        start, prior = state.iteration, state.prior
        learner.load_state(state.learner)
        learner.network.load_state_dict(state.constants, strict=False)
    keeper = _Keeper(learner, schedule, run, validate, report)
    if ranks.is_first:
        run.trim_log(start)
        if schedule.iterations == 0:
            keeper.save(prior, 0)
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
        if self.validate is not None and (is_last or done % self.schedule.validate_every == 0):
            self.validation = self.validate(self.learner.result(step.prior))
            line["validation_srocc"] = _finite(self.validation)
        self.run.log(line)
        if is_last or done % self.schedule.checkpoint_every == 0:
            self.save(step.prior, done)
        if self.report is not None:
            self.report(done, self.schedule.iterations, step.support_loss, self.validation)

    def save(self, prior: Params, done: int) -> None:
        is_last = done == self.schedule.iterations
        kept = self.learner.result(prior) if is_last else prior
        for name, value in kept.items():
            if not value.isfinite().all():  # the next loss would say so, but this checkpoint would stand
                raise DivergenceError(
                    f"iteration {done - 1}: {name} is not finite after the outer step; lower the rates"
                )
        state = RunState(done, kept, constants_of(self.learner.network), self.learner.state())
        self.run.save(state, finished=is_last)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
