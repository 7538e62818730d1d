"""How well a method learns people it has never met: the protocol behind every figure that is quoted.

For each person and repeat, M rated pictures at random are the support set and the rest is the query set. On
the same query set are judged: the prior (M = 0), the person's own model, and a control adapted to the
ratings of another person of the same group, on the same pictures where that person rated them. People share
taste, so the control can lie above the prior; own minus control is what is personal.

The splits follow from the table and the seed alone, so that all methods meet the same ones. Nothing is chosen
by looking at a query set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from piaa_sdk.errors import DivergenceError, RatingError
from piaa_sdk.metrics import pairwise_accuracy, plcc, srocc
from training.evaluation_record import (
    METHODS,
    Conditions,
    Evaluation,
    Judged,
    LevelCoverage,
    ShotsResult,
)
from training.intervals import mean_of_known, summarize
from training.personalizers import Support

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Set

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.personalizers import Personalizer

    IntArray = npt.NDArray[np.intp]

_BLOCKS = 10
_SMALLEST_QUERY = 10
_Z90 = 1.6448536269514722
_LEVELS = tuple(percent / 100 for percent in range(5, 100, 5))
_Z_OF_LEVELS = np.array([NormalDist().inv_cdf((1 + level) / 2) for level in _LEVELS])
_COVERAGE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEASURES = ("plcc", "pairwise_accuracy", "mean_absolute_error")


def evaluate(
    personalizer: Personalizer,
    table: RatingTable,
    scale: RatingScale,
    *,
    shots: Sequence[int],
    repeats: int,
    seed: int = 0,
    users: int | None = None,
    curve: bool = False,
    control_repeats: int | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run the protocol.

    Args:
        personalizer: The method.
        table: People and pictures that the method has not met.
        scale: Units of the ratings.
        shots: Values of M, from 1; M = 0 is judged beside each of them.
        repeats: Random supports per person and M.
        seed: Of the supports, the controls, the blocks of pictures and the users drawn.
        users: How many people to judge, drawn from those with enough ratings for every M; None judges all.
            Their tasks are those that they have where all are judged.
        curve: Judge every M on one query set per person and repeat, what the largest M leaves over, with
            each support set part of the next larger one.
        control_repeats: In how many of the repeats to adapt to another person's ratings as well; None does
            in all.
        facts: See :class:`Evaluation`.
        progress: Called with the tasks done and all tasks.

    Raises:
        RatingError: Nobody has enough ratings for some M, or fewer people than shall be drawn.
    """
    if min(shots, default=0) < 1:
        raise RatingError("shots must be numbers from 1; M = 0 is judged beside each of them")
    people = _People(table, scale)
    drawn = _draw_users(people, max(shots), users, seed)
    blocks = np.random.default_rng(seed).permutation(len(table.images)) % _BLOCKS
    judge = _Judge(personalizer, personalizer.generic(np.arange(len(table.images))), blocks, scale)
    controls = repeats if control_repeats is None else control_repeats
    draws = [_Draw(people, count, max(shots) if curve else count, seed, drawn) for count in shots]
    total, done = repeats * sum(len(draw.chosen) for draw in draws), 0
    results = []
    for draw in draws:
        tasks = []
        for repeat in range(repeats):
            row = []
            for user in draw.chosen:
                row.append(judge.judge(draw.task(user, repeat), with_control=repeat < controls))
                done += 1
                if progress is not None:
                    progress(done, total)
            tasks.append(row)
        results.append(_summarize(draw, tasks))
    conditions = Conditions.of(
        table, scale, shots=shots, repeats=repeats, seed=seed, drawn_users=users, curve=curve
    )
    return Evaluation(personalizer.name, conditions, tuple(results), dict(facts or {}))


def support_and_query(
    table: RatingTable,
    scale: RatingScale,
    *,
    user: int,
    shots: int,
    repeat: int = 0,
    seed: int = 0,
) -> tuple[Support, IntArray]:
    """Draw one user's sets as :func:`evaluate` draws them where M is judged for itself, not in a curve.

    Args:
        table: People and pictures.
        scale: Units of the ratings.
        user: Position in the table's users.
        shots: M.
        repeat: Which of the random supports, from 0.
        seed: Of the supports.

    Returns:
        The support set, and the positions (Q,) of the query set in the table's images.

    Raises:
        RatingError: There is no such user, or with too few ratings.
    """
    if not 0 <= user < len(table.users):
        raise RatingError(f"there is no user {user + 1}; they are numbered from 1 to {len(table.users)}")
    draw = _Draw.alone(table, scale, shots, seed)
    if user not in draw.able:
        count = len(draw.people.rated[user][0])
        raise RatingError(
            f"user {user + 1} has rated {count} pictures; {shots} and {_SMALLEST_QUERY} more to judge by are "
            "needed; take another user or fewer --shots"
        )
    task = draw.task(user, repeat)
    return task.support, task.query


class _People:
    """Who rated which pictures how, on [0, 1]."""

    def __init__(self, table: RatingTable, scale: RatingScale) -> None:
        self.rated = [(images, scale.to_unit(ratings)) for _, images, ratings in table.by_user()]
        self.groups = table.groups
        self.digests = table.person_digests()

    def with_ratings(self, count: int) -> list[int]:
        """Return those with at least so many ratings.

        Raises:
            RatingError: There is nobody.
        """
        able = [user for user, (images, _) in enumerate(self.rated) if len(images) >= count]
        if not able:
            raise RatingError(
                f"nobody has rated {count - _SMALLEST_QUERY} pictures and {_SMALLEST_QUERY} more to judge "
                f"by; the most are {max(len(images) for images, _ in self.rated)}"
            )
        return able


def _draw_users(people: _People, most_shots: int, count: int | None, seed: int) -> Set[int] | None:
    able = people.with_ratings(most_shots + _SMALLEST_QUERY)
    if count is None:
        return None
    if not 1 <= count <= len(able):
        raise RatingError(
            f"{count} people cannot be drawn: {len(able)} have rated {most_shots} pictures and "
            f"{_SMALLEST_QUERY} more; ask for 1 to {len(able)}"
        )
    return set(np.random.default_rng(seed).permutation(able)[:count].tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One person's support and query sets, and somebody else's ratings as a control.

    Attributes:
        support: K pictures.
        query: (Q,) positions of the other pictures.
        ratings: (Q,) of these, on [0, 1].
        control: K pictures and ratings; None if nobody has enough of them.
    """

    support: Support
    query: IntArray
    ratings: FloatArray
    control: Support | None


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """How tasks with M support pictures are drawn.

    Attributes:
        people: Who rated what.
        shots: M.
        held: Pictures held back from the query sets: M of them, or as many as the largest M of a curve.
        seed: Of the draws.
        drawn: The people to judge; None for all.
    """

    people: _People
    shots: int
    held: int
    seed: int
    drawn: Set[int] | None

    @classmethod
    def alone(
        cls, table: RatingTable, scale: RatingScale, shots: int, seed: int, users: int | None = None
    ) -> Self:
        """Return how tasks are drawn where M is judged for itself, not in a curve.

        Raises:
            RatingError: Nobody has enough ratings, or fewer people than shall be drawn.
        """
        people = _People(table, scale)
        return cls(people, shots, shots, seed, _draw_users(people, shots, users, seed))

    @property
    def able(self) -> list[int]:
        """Those with enough ratings to be judged or to be a control."""
        return self.people.with_ratings(self.held + _SMALLEST_QUERY)

    @property
    def chosen(self) -> list[int]:
        """Those to judge."""
        return [user for user in self.able if self.drawn is None or user in self.drawn]

    def task(self, user: int, repeat: int) -> _Task:
        """Draw one task."""
        rng = np.random.default_rng([self.seed, self.held, repeat, user])
        other = _other_user(self.people.groups, self.able, user, rng)
        images, ratings = self.people.rated[user]
        order = rng.permutation(len(images))
        support, query = order[: self.shots], order[self.held :]
        theirs = None
        if other is not None:
            theirs = _ratings_of_other(
                self.people.rated[other], images[support], images[query], self.shots, rng
            )
        seed = int(rng.integers(2**31))
        # With fewer ratings the control would be weaker than what it controls for.
        control = Support(*theirs, seed) if theirs is not None and len(theirs[0]) == self.shots else None
        return _Task(Support(images[support], ratings[support], seed), images[query], ratings[query], control)


def _other_user(
    groups: Sequence[str], able: Sequence[int], user: int, rng: np.random.Generator
) -> int | None:
    others = [other for other in able if other != user and groups[other] == groups[user]]
    return int(rng.choice(others)) if others else None


def _ratings_of_other(
    other: tuple[IntArray, FloatArray],
    support: IntArray,
    query: IntArray,
    shots: int,
    rng: np.random.Generator,
) -> tuple[IntArray, FloatArray]:
    """Take M ratings of another person: of the same pictures first, never of the query pictures."""
    images, ratings = other
    order = rng.permutation(len(images))
    order = order[~np.isin(images[order], query)]
    order = order[np.argsort(~np.isin(images[order], support), kind="stable")][:shots]
    return images[order], ratings[order]


@dataclass(frozen=True, slots=True, eq=False)
class UserTask:
    """One person's support and query sets as :func:`evaluate` draws them.

    Attributes:
        person: Digest, see :func:`training.data.ratings.person_digest`.
        group: Of the person.
        support: M pictures.
        query: (Q,) positions of the person's other pictures.
        ratings: (Q,) of these, on [0, 1].
    """

    person: str
    group: str
    support: Support
    query: IntArray
    ratings: FloatArray


def draw_tasks(
    table: RatingTable,
    scale: RatingScale,
    *,
    shots: int,
    seed: int = 0,
    users: int | None = None,
    repeat: int = 0,
) -> list[UserTask]:
    """Draw the tasks of one repeat of :func:`evaluate`, with the same arguments the same ones.

    Args:
        table: See :func:`evaluate`, like the next and ``seed`` and ``users``.
        scale: Units of the ratings.
        shots: M, one value of it, from 1.
        seed: Of the draws.
        users: How many people, drawn by the seed; None for all.
        repeat: Which repeat, from 0.

    Raises:
        RatingError: Nobody has enough ratings, or fewer people than shall be drawn.
    """
    if shots < 1:
        raise RatingError(f"shots is {shots}, must be 1 or more")
    draw = _Draw.alone(table, scale, shots, seed, users)
    people, found = draw.people, []
    for user in draw.chosen:
        task = draw.task(user, repeat)
        found.append(
            UserTask(people.digests[user], people.groups[user], task.support, task.query, task.ratings)
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Adapted:
    """What a method makes of a support set.

    Attributes:
        scores: (Q,) of the query pictures.
        std: (Q,) their standard deviations; None if the method knows none.
        seconds: To adapt, or until that failed; nan if the prior had to stand in.
    """

    scores: FloatArray
    std: FloatArray | None
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _JudgedTask:
    """What was found in one task.

    Attributes:
        correlations: SROCC by method, (3, 1 + blocks), with all query pictures and without each block.
        measures: (2, 3) of prior and personal: PLCC, pairwise accuracy, mean absolute error.
        errors: (Q,) absolute errors of the personal scores in standard deviations; (0,) without these.
        seconds: To adapt; nan if the prior had to stand in.
        is_collapsed: Whether the personal scores are all equal or not finite.
        has_control: Whether there was one.
    """

    correlations: FloatArray
    measures: FloatArray
    errors: FloatArray = field(default_factory=lambda: np.zeros(0))
    seconds: float = float("nan")
    is_collapsed: bool = False
    has_control: bool = True

    @property
    def coverage(self) -> float:
        """Share of the ratings inside their 90 % interval; nan without standard deviations."""
        return float(np.mean(self.errors <= _Z90)) if len(self.errors) else float("nan")

    @property
    def coverages(self) -> FloatArray:
        """Shares of the ratings inside their intervals by level, (19,); nan without standard deviations."""
        if not len(self.errors):
            return np.full(len(_LEVELS), np.nan)
        return np.asarray(np.mean(self.errors[:, None] <= _Z_OF_LEVELS, axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Runs a method on tasks; ``generic`` (N,) are the prior's scores, ``blocks`` (N,) those of pictures."""

    personalizer: Personalizer
    generic: FloatArray
    blocks: IntArray
    scale: RatingScale

    def judge(self, task: _Task, *, with_control: bool) -> _JudgedTask:
        """Judge prior, own and another person's ratings on one query set."""
        own = self._adapt(task.support, task.query)
        control = self._adapt(task.control, task.query) if task.control and with_control else None
        query = self.blocks[task.query]
        masks = [np.ones(len(query), bool), *(query != block for block in range(_BLOCKS))]
        nothing = np.full(len(masks), np.nan)
        generic = self.generic[task.query]
        rows = [_correlations(task.ratings, scores, masks) for scores in (generic, own.scores)]
        rows.append(nothing if control is None else _correlations(task.ratings, control.scores, masks))
        is_finite = bool(np.isfinite(own.scores).all())
        errors = np.zeros(0) if own.std is None else np.abs(task.ratings - own.scores) / own.std
        return _JudgedTask(
            correlations=np.array(rows),
            measures=np.array([self._measures(task.ratings, scores) for scores in (generic, own.scores)]),
            errors=errors,
            seconds=own.seconds,
            is_collapsed=not is_finite or bool(np.ptp(own.scores) == 0),
            has_control=control is not None,
        )

    def _adapt(self, support: Support, query: IntArray) -> _Adapted:
        """Score query pictures after adaptation; by the prior where equal ratings teach a method nothing.

        A method that leaves the finite numbers knows no scores: they are nan.
        """
        begun = time.perf_counter()
        try:
            predictor = self.personalizer.personalize(support)
            seconds = time.perf_counter() - begun
            return _Adapted(*predictor.predict(query), seconds)
        except RatingError:
            if len(support.ratings) > 1 and np.ptp(support.ratings) > 0:
                raise
            return _Adapted(self.generic[query], None, float("nan"))
        except DivergenceError:
            return _Adapted(np.full(len(query), np.nan), None, time.perf_counter() - begun)

    def _measures(self, ratings: FloatArray, scores: FloatArray) -> list[float]:
        scores = _without_collapse(scores)
        error = float(np.abs(ratings - scores).mean()) * self.scale.span
        return [plcc(ratings, scores), pairwise_accuracy(ratings, scores), error]


def _correlations(
    ratings: FloatArray, scores: FloatArray, masks: Sequence[npt.NDArray[np.bool_]]
) -> FloatArray:
    scores = _without_collapse(scores)
    return np.array([_correlation(ratings[mask], scores[mask]) for mask in masks])


def _correlation(ratings: FloatArray, scores: FloatArray) -> float:
    return srocc(ratings, scores) if len(ratings) > 1 else float("nan")


def _without_collapse(scores: FloatArray) -> FloatArray:
    """Let a model that broke down earn what a constant score earns, 0, rather than be left out."""
    return scores if np.isfinite(scores).all() else np.zeros(len(scores))


def _summarize(draw: _Draw, tasks: Sequence[Sequence[_JudgedTask]]) -> ShotsResult:
    people = tuple(draw.people.digests[user] for user in draw.chosen)
    groups = tuple(draw.people.groups[user] for user in draw.chosen)
    # (repeats, users, methods, 1 + blocks)
    values = np.array([[task.correlations for task in row] for row in tasks])
    by_name = {name: values[:, :, index] for index, name in enumerate(METHODS)}
    by_name["personal-prior"] = by_name["personal"] - by_name["prior"]
    by_name["personal-shuffled"] = by_name["personal"] - by_name["shuffled"]
    without_blocks = {name: _without_blocks(part) for name, part in by_name.items()}
    is_undefined = np.isnan(by_name["prior"][:, :, 0])
    every = [task for row in tasks for task in row]
    coverage, quantiles = _coverage(np.array([[task.coverage for task in row] for row in tasks]))
    errors = np.concatenate([task.errors for task in every])
    seconds = np.array([task.seconds for task in every])
    return ShotsResult(
        shots=draw.shots,
        users=len(people),
        left_out=len(draw.people.rated) - len(draw.able),
        uncontrolled=sum(not task.has_control for task in every),
        undefined=int(is_undefined.sum()),
        undefined_people=tuple(np.array(people)[is_undefined.all(axis=0)].tolist()),
        constant_support=int(np.isnan(seconds).sum()),
        collapsed=sum(task.is_collapsed for task in every),
        figures={
            name: summarize(part[:, :, 0], without_blocks[name], is_undefined, groups, seed=draw.seed)
            for name, part in by_name.items()
        },
        measures=_mean_measures(np.array([[task.measures for task in row] for row in tasks])),
        coverage=coverage,
        coverage_quantiles=quantiles,
        calibration=float(np.quantile(errors, 0.9) / _Z90) if len(errors) else float("nan"),
        seconds_to_adapt=float(np.nanmedian(seconds)) if np.isfinite(seconds).any() else float("nan"),
        judged=Judged(
            people=people,
            groups=groups,
            correlations={name: by_name[name][:, :, 0] for name in METHODS},
            without_blocks={name: without_blocks[name] for name in METHODS},
        ),
        coverage_by_level=_coverage_by_level(np.array([[task.coverages for task in row] for row in tasks])),
    )


def _without_blocks(values: FloatArray) -> FloatArray:
    """Return the mean of values (R, U, 1 + blocks) without each block of pictures, (blocks,)."""
    return np.array([mean_of_known(values[:, :, block]) for block in range(1, values.shape[2])])


def _coverage(values: FloatArray) -> tuple[float, tuple[float, ...]]:
    """Return the mean over users of coverages (R, U), and quantiles over users."""
    is_known = ~np.isnan(values).all(axis=0)
    per_user = np.nanmean(values[:, is_known], axis=0) if is_known.any() else np.full(1, np.nan)
    quantiles = tuple(float(value) for value in np.quantile(per_user, _COVERAGE_QUANTILES))
    return float(per_user.mean()), quantiles


def _coverage_by_level(values: FloatArray) -> tuple[LevelCoverage, ...]:
    """Summarize coverages (R, U, levels) over repeats and users; nothing of single users is left."""
    if np.isnan(values).all():
        return ()
    found = []
    for index, level in enumerate(_LEVELS):
        share, quantiles = _coverage(values[:, :, index])
        found.append(LevelCoverage(level, share, quantiles[0], quantiles[-1]))
    return tuple(found)


def _mean_measures(values: FloatArray) -> dict[str, dict[str, float]]:
    """Average measures (R, U, 2, 3) over all tasks."""
    return {
        measure: {method: mean_of_known(values[:, :, row, column]) for row, method in enumerate(METHODS[:2])}
        for column, measure in enumerate(_MEASURES)
    }


def check_unseen(bundle: ModelBundle, table: RatingTable) -> None:
    """Refuse people or pictures that a bundle was trained on.

    Raises:
        RatingError: Some of them were, how many is said; or the bundle does not say what it was trained on.
    """
    training = bundle.config.get("training")
    seen: Mapping[str, Any] = training if isinstance(training, dict) else {}
    if not (seen.get("people") and seen.get("pictures")):
        raise RatingError(
            f"{bundle.bundle_id} does not say which people and pictures it was trained on; make it again "
            "with this version, or, knowing that the figures may be too good, evaluate with --allow-seen"
        )
    refuse_seen(table, seen["people"], seen["pictures"], what="bundle")


def count_seen(table: RatingTable, people: Iterable[str], pictures: Iterable[str]) -> tuple[int, int]:
    """Count a table's people and pictures among those that something was trained on.

    Args:
        table: Who and what shall be judged.
        people: :func:`training.data.ratings.person_digest` of those trained on.
        pictures: :func:`training.data.ratings.picture_digest` of those trained on.

    Returns:
        How many people, and how many pictures.
    """
    seen_people = set(table.person_digests()).intersection(people)
    seen_pictures = set(table.picture_digests()).intersection(pictures)
    return len(seen_people), len(seen_pictures)


def refuse_seen(table: RatingTable, people: Iterable[str], pictures: Iterable[str], *, what: str) -> None:
    """Refuse people or pictures that something was trained on.

    Args:
        table: See :func:`count_seen`, like the next two.
        people: Digests of those trained on.
        pictures: Digests of those trained on.
        what: Was trained: ``bundle`` or ``run``.

    Raises:
        RatingError: Some of them were; how many is said.
    """
    seen_people, seen_pictures = count_seen(table, people, pictures)
    if seen_people or seen_pictures:
        raise RatingError(
            f"the {what} was trained on {seen_people} of these {len(table.users)} people and {seen_pictures} "
            f"of these {len(table.images)} pictures; judge it on others (--groups), or, knowing that the "
            "figures will be too good, with --allow-seen"
        )
