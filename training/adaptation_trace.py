"""How errors on support and query fall while a prior is fine-tuned to single users (Fig. 9).

The tasks are those that an evaluation draws with the same seed and shots, in its first repeat, and the users
are adapted by the learner's own adaptation, which is only looked at after each epoch: the last point of a
curve is what an evaluation judges.

The paper calls the curves loss in training and in testing. Here both are the squared error of eqs. 2 and 9
on ratings and scores of [0, 1], measured as scores are given: without dropout and with running statistics.
The loss that is descended (eq. 10) is measured with dropout and is not the same number. A rank correlation
stands beside each error, because a score can come closer to a person's ratings by its mean alone.

A method that solves for a person at once, as the closed form does, has one epoch. One whose scores leave the
finite numbers has no number from there on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from piaa_sdk.errors import DivergenceError, ModelFormatError
from piaa_sdk.metrics import srocc
from training.evaluation import draw_tasks
from training.evaluation_record import Conditions, to_plain
from training.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.network import Params
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.evaluation import UserTask
    from training.learner_personalizer import LearnerPersonalizer

FORMAT_VERSION = 1
KIND = "adaptation trace"

_CURVES = ("support_error", "query_error", "support_srocc", "query_srocc")


@dataclass(frozen=True, slots=True, eq=False)
class UserTrace:
    """What was measured of one user after each of the epochs 0 (the prior) to P.

    Attributes:
        person: Digest, see :func:`training.data.ratings.person_digest`.
        group: Of the user.
        query_pictures: Q.
        support_error: (P + 1,) mean squared error on the support set, in units of [0, 1] squared.
        query_error: (P + 1,) the same on the query set.
        support_srocc: (P + 1,) rank correlation on the support set; nan where the ratings are all equal.
        query_srocc: (P + 1,) the same on the query set.
    """

    person: str
    group: str
    query_pictures: int
    support_error: FloatArray
    query_error: FloatArray
    support_srocc: FloatArray
    query_srocc: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class AdaptationTrace:
    """What :func:`trace_adaptation` measured.

    Attributes:
        method: What tables call it.
        conditions: Whom it was measured on; one value of M and one repeat.
        users: Those drawn, P epochs each.
        facts: What else is to be known of the run.
    """

    method: str
    conditions: Conditions
    users: tuple[UserTrace, ...]
    facts: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """P."""
        return len(self.users[0].support_error) - 1

    @property
    def shots(self) -> int:
        """M."""
        return self.conditions.shots[0]

    def to_json(self) -> dict[str, Any]:
        """Return all as what json can store; numbers that are not finite are None."""
        users = [
            {part.name: to_plain(getattr(user, part.name)) for part in fields(user)} for user in self.users
        ]
        return {
            "format_version": FORMAT_VERSION,
            "kind": KIND,
            "method": self.method,
            "conditions": to_plain(asdict(self.conditions)),
            "users": users,
            "facts": to_plain(dict(self.facts)),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], source: str = "the record") -> Self:
        """Read what :meth:`to_json` wrote; further keys are ignored.

        Args:
            record: Parsed JSON.
            source: What messages call it.

        Raises:
            ModelFormatError: It is something else, of another format, or incomplete.
        """
        version, kind = record.get("format_version"), record.get("kind")
        if version != FORMAT_VERSION or kind != KIND:
            raise ModelFormatError(
                f"{source} holds no {KIND} of format {FORMAT_VERSION}, but {kind or 'something else'} of "
                f"format {version}; make one with python -m training trace"
            )
        try:
            conditions = Conditions.from_json(record["conditions"])
            users = tuple(_user_from(user) for user in record["users"])
            lengths = {len(getattr(user, name)) for user in users for name in _CURVES}
            if len(lengths) != 1 or 0 in lengths:
                raise ValueError(f"curves of {sorted(lengths)} epochs, must be equally long and not empty")
            return cls(str(record["method"]), conditions, users, dict(record["facts"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFormatError(
                f"{source} is no complete {KIND} ({type(error).__name__}: {error}); trace again"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file.

        Raises:
            ModelFormatError: It cannot be read, is something else, of another format, or incomplete.
        """
        return cls.from_json(read_record(path, f"an {KIND}"), str(path))


def trace_adaptation(
    personalizer: LearnerPersonalizer,
    table: RatingTable,
    scale: RatingScale,
    *,
    shots: int,
    users: int,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AdaptationTrace:
    """Adapt a prior to some users, and measure it on support and query after each epoch.

    Args:
        personalizer: Prior and learner; as many epochs as the learner's settings say.
        table: People and pictures that the prior has not met.
        scale: Units of the table's ratings.
        shots: M.
        users: How many, drawn by the seed.
        seed: Of the users, the supports and what adaptation draws, as in an evaluation.
        facts: See :class:`AdaptationTrace`.
        progress: Called with the users done and all users.

    Raises:
        RatingError: Fewer people have enough ratings.
        SupportSetError: M is 1.
    """
    conditions = Conditions.of(
        table, scale, shots=[shots], repeats=1, seed=seed, drawn_users=users, curve=False
    )
    tasks = draw_tasks(table, scale, shots=shots, seed=seed, users=users)
    traces = []
    for done, task in enumerate(tasks, start=1):
        traces.append(_trace_user(personalizer, task))
        if progress is not None:
            progress(done, len(tasks))
    longest = max(len(rows) for rows in traces)
    found = tuple(_user_trace(task, _filled(rows, longest)) for task, rows in zip(tasks, traces, strict=True))
    return AdaptationTrace(personalizer.name, conditions, found, dict(facts or {}))


def _trace_user(personalizer: LearnerPersonalizer, task: UserTask) -> list[list[float]]:
    """Return the four numbers of each epoch until the last, or until the scores are no numbers."""
    rows = [_measure(personalizer, personalizer.prior, task)]

    def note(epoch: int, params: Params) -> None:
        assert epoch == len(rows), "an epoch was left out"
        rows.append(_measure(personalizer, params, task))

    try:
        personalizer.adapt(personalizer.prior, task.support, on_epoch=note)
    except DivergenceError:
        rows.append([float("nan")] * len(_CURVES))
    return rows


def _measure(personalizer: LearnerPersonalizer, params: Params, task: UserTask) -> list[float]:
    """Return the squared error on support and query, and the rank correlation on both."""
    sets = ((task.support.images, task.support.ratings), (task.query, task.ratings))
    scored = [(ratings, personalizer.score(params, images)) for images, ratings in sets]
    if not all(np.isfinite(scores).all() for _, scores in scored):
        return [float("nan")] * len(_CURVES)
    errors = [float(np.square(scores - ratings).mean()) for ratings, scores in scored]
    return [*errors, *(srocc(ratings, scores) for ratings, scores in scored)]


def _filled(rows: list[list[float]], length: int) -> FloatArray:
    """Return rows as (length, 4), nan where an adaptation broke off."""
    filled = np.full((length, len(_CURVES)), np.nan)
    filled[: len(rows)] = rows
    return filled


def _user_trace(task: UserTask, values: FloatArray) -> UserTrace:
    curves = {name: values[:, column] for column, name in enumerate(_CURVES)}
    return UserTrace(task.person, task.group, len(task.query), **curves)


def _user_from(data: Mapping[str, Any]) -> UserTrace:
    # None, which stands for what is not finite, becomes nan.
    curves = {name: np.array(data[name], dtype=np.float64) for name in _CURVES}
    for name, curve in curves.items():
        if curve.ndim != 1:
            raise ValueError(f"{name} has the shape {curve.shape}, must have one dimension")
    return UserTrace(str(data["person"]), str(data["group"]), int(data["query_pictures"]), **curves)
