"""Which picture should a person rate next? A track of its own beside the tables, whose supports are random.

Protocol. For each person and repeat, the rated pictures are split at random into a query set and candidates.
The query set is half of them and at least 30, but never so many that the candidates would not be more than
are to be rated: with none to spare every criterion ends at the same support set. Three candidates at random
are rated at first (``start``). Then a criterion chooses one candidate after the other, sees its rating, and
goes on until the largest number of ratings is reached. SROCC on the query set is taken at each number asked
for. Query set and start are the same for all criteria, so that differences to random choice are paired; they
follow from the table and the seed alone. Criteria see ratings of chosen pictures only, and query pictures
never.

Criteria:

- :class:`RandomChoice`: any candidate with the same probability.
- :class:`ResidualCriterion`, for PAM. Known of Ren et al. (ICCV 2017): a picture is asked for that is far
  from the rated ones in the space of features, and near rated ones with a large residual. The exact
  weighting is not visible to us. Our reading, with d the distance of descriptors, r the residual (rating
  less generic score) and R the rated pictures:

      novelty(p) = min over q in R of d(p, q)
      residual(p) = sum over q in R of w_q |r_q| / sum of w_q,   w_q = exp(-scale d(p, q)^2)
      score(p) = novelty(p) residual(p), each divided by its mean over the candidates

  with the scale of PAM's own kernel. A product does not depend on the units of either. Where no rated
  picture has a residual, novelty decides alone.
- :class:`VarianceCriterion`: the picture whose predictive standard deviation is the largest (uncertainty
  sampling), for a method that knows one, as the closed-form adaptation does. Ratings that are all equal teach
  that method nothing; then any candidate is chosen at random. Each step adapts anew: with the closed form
  10 to 40 ms, most of a run, so that many people are judged in few repeats.

Ties go to the first of the candidates, whose order is random. Where the ratings so far are all equal, the
method's prior is judged, as in :mod:`training.evaluation`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from piaa_sdk.errors import RatingError, SupportSetError
from piaa_sdk.metrics import srocc
from training.active_record import ActiveSelection, Track
from training.evaluation_record import Conditions
from training.intervals import mean_of_known
from training.personalizers import Support

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.personalizers import Personalizer
    from training.tasks import IntArray

RANDOM = "random"
START = 3
_BLOCKS = 10
_SMALLEST_QUERY = 10
_USUAL_QUERY = 30


class Criterion(Protocol):
    """A rule that says what to rate next."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def choose(self, rated: Support, candidates: IntArray) -> int:
        """Choose a picture.

        Args:
            rated: What the person has rated so far; its seed is another one at each step.
            candidates: (C,) positions of the pictures to choose from, none of them rated, C >= 1.

        Returns:
            A place in ``candidates``.
        """


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """Chooses any candidate with the same probability.

    Attributes:
        name: What tables call it.
    """

    name: str = RANDOM

    def choose(self, rated: Support, candidates: IntArray) -> int:
        """Choose by the seed of the support set."""
        return int(np.random.default_rng(rated.seed).integers(len(candidates)))


@dataclass(frozen=True, slots=True, eq=False)
class ResidualCriterion:
    """PAM's: far from what is rated, near what the generic score gets wrong; see the module's docstring.

    Attributes:
        descriptors: (N, F) of the table's pictures.
        generic: (N,) generic scores, [0, 1].
        scale: Of the kernel exp(-scale d^2).
        name: What tables call it.
    """

    descriptors: FloatArray
    generic: FloatArray
    scale: float
    name: str = "residual"

    def choose(self, rated: Support, candidates: IntArray) -> int:
        """Choose the candidate of the largest product of novelty and residual."""
        return int(self.scores(rated, candidates).argmax())

    def scores(self, rated: Support, candidates: IntArray) -> FloatArray:
        """Return score(p) of each candidate, (C,)."""
        differences = self.descriptors[candidates][:, None] - self.descriptors[rated.images]
        squares = np.einsum("ijk,ijk->ij", differences, differences)
        novelty = np.sqrt(squares.min(axis=1))
        # Against the nearest one: far from all of them every weight would be 0.
        weights = np.exp(-self.scale * (squares - squares.min(axis=1, keepdims=True)))
        residuals = np.abs(rated.ratings - self.generic[rated.images])
        local = weights @ residuals / weights.sum(axis=1)
        return _over_mean(novelty) * _over_mean(local)


def _over_mean(values: FloatArray) -> FloatArray:
    """Divide values (C,) >= 0 by their mean; ones if all are 0."""
    mean = values.mean()
    return values / mean if mean > 0 else np.ones(len(values))


@dataclass(frozen=True, slots=True, eq=False)
class VarianceCriterion:
    """Chooses what a method is least sure of.

    Attributes:
        method: Is adapted again at each step.
        name: What tables call it.
    """

    method: Personalizer
    name: str = "variance"

    def choose(self, rated: Support, candidates: IntArray) -> int:
        """Choose the candidate of the largest predictive standard deviation.

        Raises:
            RatingError: The method knows no standard deviations.
        """
        try:
            _, deviations = self.method.personalize(rated).predict(candidates)
        except SupportSetError:
            if len(rated.ratings) > 1 and np.ptp(rated.ratings) > 0:
                raise
            return RandomChoice().choose(rated, candidates)
        if deviations is None:
            raise RatingError(
                f"{self.method.name} knows no standard deviations to choose by; take a method that does"
            )
        return int(deviations.argmax())


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """A method, and the criteria to compare under it with random choice.

    Attributes:
        method: Learns from what was chosen.
        criteria: Beside random choice, which is always there.
    """

    method: Personalizer
    criteria: tuple[Criterion, ...]


def select_actively(
    contests: Sequence[Contest],
    table: RatingTable,
    scale: RatingScale,
    *,
    shots: Sequence[int],
    repeats: int,
    start: int = START,
    seed: int = 0,
    users: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ActiveSelection:
    """Run the protocol.

    Args:
        contests: Methods with their criteria; random choice is judged under each.
        table: People and pictures that no method has met.
        scale: Units of the ratings.
        shots: Numbers of ratings at which to judge, each at least ``start``.
        repeats: Random query sets and starts per person.
        start: Pictures that are rated before the first choice.
        seed: Of all that is drawn.
        users: How many people to judge, drawn from those with enough ratings; None judges all.
        progress: Called with the walks done and all walks: one for each person, repeat and criterion.

    Raises:
        RatingError: Numbers that do not fit together, or nobody has enough ratings, or fewer people than
            shall be drawn.
    """
    counts = tuple(sorted(set(shots)))
    if not counts or not 1 <= start <= counts[0]:
        raise RatingError(
            f"the numbers of ratings are {list(shots)} and {start} are rated at first; "
            "give at least one number, none below the first ratings, of which there must be one"
        )
    people = _People.draw(table, scale, counts[-1], users, seed)
    blocks = np.random.default_rng(seed).permutation(len(table.images)) % _BLOCKS
    walks = [(part.method, rule) for part in contests for rule in (RandomChoice(), *part.criteria)]
    total, done = len(walks) * repeats * len(people.chosen), itertools.count(1)

    def walked() -> None:
        if progress is not None:
            progress(next(done), total)

    judge = _Judge(people, counts, repeats, start, seed, blocks)
    tracks = tuple(judge.track(method, criterion, walked) for method, criterion in walks)
    conditions = Conditions.of(
        table, scale, shots=counts, repeats=repeats, seed=seed, drawn_users=users, curve=True
    )
    rated = [len(people.rated[user][0]) for user in people.chosen]
    query_sizes = [people.query_size(user) for user in people.chosen]
    return ActiveSelection(
        conditions=conditions,
        start=start,
        people=tuple(people.digests[user] for user in people.chosen),
        groups=tuple(table.groups[user] for user in people.chosen),
        query_sizes=tuple(query_sizes),
        candidates=tuple(np.subtract(rated, query_sizes).tolist()),
        tracks=tracks,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One person's pictures in one repeat.

    Attributes:
        candidates: (C,) positions of pictures, in random order; the first ones are the start.
        given: (C,) their ratings, [0, 1].
        query: (Q,) positions of the pictures to judge by.
        ratings: (Q,) their ratings.
        seeds: One for each number of ratings.
    """

    candidates: IntArray
    given: FloatArray
    query: IntArray
    ratings: FloatArray
    seeds: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class _People:
    """Who is judged: ``rated`` by user, ``chosen`` users, ``most`` ratings that are given at last."""

    rated: list[tuple[IntArray, FloatArray]]
    digests: tuple[str, ...]
    chosen: list[int]
    most: int

    @classmethod
    def draw(cls, table: RatingTable, scale: RatingScale, most: int, users: int | None, seed: int) -> _People:
        rated = [(images, scale.to_unit(ratings)) for _, images, ratings in table.by_user()]
        least = most + 1 + _SMALLEST_QUERY
        able = [user for user, (images, _) in enumerate(rated) if len(images) >= least]
        if not able:
            raise RatingError(
                f"nobody has rated {least} pictures: {most} to choose, one to spare and {_SMALLEST_QUERY} to "
                f"judge by; the most are {max(len(images) for images, _ in rated)}; ask for fewer --shots"
            )
        if users is not None and not 1 <= users <= len(able):
            raise RatingError(
                f"{users} people cannot be drawn: {len(able)} have rated {least} pictures; "
                f"ask for 1 to {len(able)}"
            )
        drawn = np.random.default_rng(seed).permutation(able)[:users]
        return cls(rated, table.person_digests(), sorted(drawn.tolist()), most)

    def query_size(self, user: int) -> int:
        """Return how many of a person's pictures are judged by."""
        count = len(self.rated[user][0])
        return min(max(count // 2, _USUAL_QUERY), count - self.most - 1)

    def task(self, user: int, repeat: int, seed: int) -> _Task:
        """Draw query set, start and seeds, the same for every method and criterion."""
        rng = np.random.default_rng([seed, repeat, user])
        images, ratings = self.rated[user]
        query, candidates = np.split(rng.permutation(len(images)), [self.query_size(user)])
        seeds = rng.integers(2**31, size=self.most + 1).tolist()
        return _Task(images[candidates], ratings[candidates], images[query], ratings[query], seeds)


def _walk(
    method: Personalizer, criterion: Criterion, task: _Task, start: int, counts: Sequence[int]
) -> Iterator[FloatArray]:
    """Rate one picture after the other; yield the scores of the query pictures (Q,) at each of the counts."""
    is_left = np.arange(len(task.candidates)) >= start
    chosen = list(range(start))
    while True:
        rated = Support(task.candidates[chosen], task.given[chosen], task.seeds[len(chosen)])
        if len(chosen) in counts:
            yield _scores(method, rated, task.query)
        if len(chosen) == counts[-1]:
            return
        left = np.flatnonzero(is_left)
        chosen.append(int(left[criterion.choose(rated, task.candidates[left])]))
        is_left[chosen[-1]] = False


def _scores(method: Personalizer, rated: Support, query: IntArray) -> FloatArray:
    """Score the query pictures; by the prior where equal ratings teach nothing."""
    try:
        scores, _ = method.personalize(rated).predict(query)
    except SupportSetError:
        if len(rated.ratings) > 1 and np.ptp(rated.ratings) > 0:
            raise
        return method.generic(query)
    return scores


def _correlations(ratings: FloatArray, scores: FloatArray, blocks: IntArray) -> list[float]:
    """Return SROCC on all query pictures, then without each block of pictures; nan where undefined."""
    masks = [np.ones(len(blocks), bool), *(blocks != block for block in range(_BLOCKS))]
    return [srocc(ratings[mask], scores[mask]) if mask.sum() > 1 else float("nan") for mask in masks]


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Lets criteria choose for all people, in the same tasks.

    Attributes:
        people: Who is judged.
        counts: S numbers of ratings.
        repeats: R.
        start: Pictures that are rated before the first choice.
        seed: Of the tasks.
        blocks: (N,) block of each picture.
    """

    people: _People
    counts: Sequence[int]
    repeats: int
    start: int
    seed: int
    blocks: IntArray

    def track(self, method: Personalizer, criterion: Criterion, walked: Callable[[], None]) -> Track:
        """Judge one criterion for one method; ``walked`` is called after each person and repeat."""
        # (repeats, users, counts, 1 + blocks)
        shape = self.repeats, len(self.people.chosen), len(self.counts), 1 + _BLOCKS
        found = np.empty(shape)
        for repeat in range(self.repeats):
            for place, user in enumerate(self.people.chosen):
                found[repeat, place] = self._judge(method, criterion, user, repeat)
                walked()
        without_blocks = [
            [mean_of_known(found[:, :, step, block]) for block in range(1, 1 + _BLOCKS)]
            for step in range(len(self.counts))
        ]
        return Track(method.name, criterion.name, np.moveaxis(found[..., 0], 2, 0), np.array(without_blocks))

    def _judge(self, method: Personalizer, criterion: Criterion, user: int, repeat: int) -> list[list[float]]:
        """Return SROCC after each of the counts, with all query pictures and without each block."""
        task = self.people.task(user, repeat, self.seed)
        blocks = self.blocks[task.query]
        return [
            _correlations(task.ratings, scores, blocks)
            for scores in _walk(method, criterion, task, self.start, self.counts)
        ]
