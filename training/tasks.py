"""Tasks: one user's support set and query set, drawn anew at each visit.

Every draw follows from the seed, the iteration and the task's place in the meta-batch alone. So a run that
was interrupted goes on with the same tasks, and several processes that share the tasks of an iteration draw
the same ones as a single process would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from piaa_sdk.errors import RatingError
from piaa_sdk.finetune.full import Examples

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable

    IntArray = npt.NDArray[np.intp]

USER_ORDERS = ("random", "shuffled")
TARGETS = ("unit", "share")


LEAST_RATINGS = 6
"""Users with fewer are left out: neither of their sets may be a single image, which has no statistics."""


class InputSource(Protocol):
    """Gives what a network takes for images of a table."""

    def take(self, images: IntArray, rng: np.random.Generator | None) -> torch.Tensor:
        """Return the inputs (K, ...) of images (K,), altered at random as training wants if given ``rng``."""
        ...


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """How tasks are drawn.

    Attributes:
        tasks: k, tasks per meta-batch.
        support: m_s, or the least and the most support images, drawn log-uniformly.
        query: m_q; 0 takes all that are left, of mean ratings none.
        pool: m: each user's tasks are drawn from that many ratings, chosen once; 0 draws from all.
        users: ``random`` draws users anew for each meta-batch, without repeating one inside it;
            ``shuffled`` goes through all users in a new order each time round, the last meta-batch of a round
            holding those left over.
        target: What ratings are learned as: ``unit``, 0 at the low end of the scale and 1 at the high end;
            ``share``, the rating divided by the high end.
        alter_query: Whether images of the query set are mirrored and cropped at random too.
    """

    tasks: int = 4
    support: tuple[int, ...] = (80,)
    query: int = 20
    pool: int = 100
    users: str = "random"
    target: str = "unit"
    alter_query: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that draw nothing.

        Raises:
            RatingError: One of them does.
        """
        if self.tasks < 1 or self.query < 0 or self.pool < 0 or self.pool == 1:
            raise RatingError(
                f"tasks is {self.tasks}, query {self.query} and pool {self.pool}; tasks must be 1 or more, "
                "query 0 or more, pool 0 or else 2 or more"
            )
        if len(self.support) not in (1, 2) or min(self.support) < 1 or max(self.support) != self.support[-1]:
            raise RatingError(
                f"support is {list(self.support)}, must be one number or the least and the most"
            )
        if self.users not in USER_ORDERS or self.target not in TARGETS:
            raise RatingError(
                f"users is {self.users!r} and target {self.target!r}; they must be one of "
                f"{', '.join(USER_ORDERS)} and one of {', '.join(TARGETS)}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One user's rated images, in two disjoint sets.

    Attributes:
        user: The user's name, or what stands for everybody.
        support: The images to adapt to.
        query: The images to judge the adaptation by.
        seed: Of all that chance decides while the task is learned.
    """

    user: str
    support: Examples
    query: Examples
    seed: int

    def merged(self) -> Examples:
        """Return support and query as one set."""
        return Examples(
            torch.cat([self.support.inputs, self.query.inputs]),
            torch.cat([self.support.ratings, self.query.ratings]),
        )


class TaskSampler:
    """Draws tasks from a table of ratings.

    Args:
        table: Training users and images.
        scale: Units of the ratings.
        source: Inputs of the table's images.
        config: Sizes and order.
        seed: Of everything.
        dtype: Of the ratings handed out.
        device: Of inputs and ratings handed out.
    """

    def __init__(
        self,
        table: RatingTable,
        scale: RatingScale,
        source: InputSource,
        config: TaskConfig,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.config = config
        self._source = source
        self._seed = seed
        self._dtype = dtype
        self._device = device or torch.device("cpu")
        self._people = [
            (user, images, as_target(ratings, scale, config.target))
            for user, images, ratings in table.by_user()
            if len(images) >= LEAST_RATINGS
        ]
        self._means = as_target(table.mean_ratings(), scale, config.target)
        if config.pool:
            self._people = [self._pooled(place) for place in range(len(self._people))]

    def draw(self, iteration: int, places: range | None = None) -> list[Task]:
        """Draw the tasks of one meta-batch: each one user's.

        Args:
            iteration: Counted from 0.
            places: Which tasks of the meta-batch; all by default.

        Raises:
            RatingError: Nobody has enough ratings.
        """
        users = self._users(iteration)
        chosen = range(len(users)) if places is None else [place for place in places if place < len(users)]
        return [self._task(iteration, place, int(users[place])) for place in chosen]

    def draw_means(self, iteration: int, places: range | None = None) -> list[Task]:
        """Draw tasks of the generic kind: images of everybody with their mean ratings (GIAA)."""
        chosen = range(self.config.tasks) if places is None else places
        tasks = []
        for place in chosen:
            rng = self._rng(iteration, place)
            images = rng.permutation(len(self._means))
            support_only = self.config.query == 0
            tasks.append(
                self._split("mean of all users", images, self._means[images], rng, support_only=support_only)
            )
        return tasks

    def _users(self, iteration: int) -> IntArray:
        if not self._people:
            raise RatingError(
                f"nobody has rated {LEAST_RATINGS} images or more; a task needs a support and a query set"
            )
        total, tasks = len(self._people), self.config.tasks
        if self.config.users == "random":
            rng = np.random.default_rng([self._seed, 1, iteration])
            return np.asarray(rng.permutation(total)[:tasks], dtype=np.intp)
        batches = -(-total // tasks)
        round_, batch = divmod(iteration, batches)
        order = np.random.default_rng([self._seed, 2, round_]).permutation(total)
        return np.asarray(order[batch * tasks : (batch + 1) * tasks], dtype=np.intp)

    def _task(self, iteration: int, place: int, user: int) -> Task:
        name, images, ratings = self._people[user]
        rng = self._rng(iteration, place)
        order = rng.permutation(len(images))
        return self._split(name, images[order], ratings[order], rng)

    def _split(
        self,
        user: str,
        images: IntArray,
        ratings: FloatArray,
        rng: np.random.Generator,
        *,
        support_only: bool = False,
    ) -> Task:
        """Cut images in random order into support and query; at most four to one if too few for both."""
        wanted = self._support_size(rng)
        least_query = max(1, self.config.query)
        support = wanted
        if not support_only and len(images) < wanted + least_query:
            support = max(1, min(wanted, int(0.8 * len(images))))
        end = len(images) if self.config.query == 0 and not support_only else support + self.config.query
        parts = [(images[:support], ratings[:support]), (images[support:end], ratings[support:end])]
        assert not set(parts[0][0].tolist()) & set(parts[1][0].tolist()), "support and query share images"
        support_examples = self._examples(*parts[0], rng)
        query_examples = self._examples(*parts[1], rng if self.config.alter_query else None)
        return Task(user, support_examples, query_examples, seed=int(rng.integers(2**62)))

    def _support_size(self, rng: np.random.Generator) -> int:
        least, most = self.config.support[0], self.config.support[-1]
        if least == most:
            return least
        return int(np.exp(rng.uniform(np.log(least), np.log(most + 1))))

    def _examples(self, images: IntArray, ratings: FloatArray, rng: np.random.Generator | None) -> Examples:
        return Examples(
            self._source.take(images, rng).to(self._device),
            torch.tensor(ratings, dtype=self._dtype, device=self._device),
        )

    def _pooled(self, place: int) -> tuple[str, IntArray, FloatArray]:
        user, images, ratings = self._people[place]
        kept = np.random.default_rng([self._seed, 3, place]).permutation(len(images))[: self.config.pool]
        return user, images[kept], ratings[kept]

    def _rng(self, iteration: int, place: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, 0, iteration, place])


def count_people(table: RatingTable) -> int:
    """Return how many users of a table have tasks: those with enough ratings for two sets."""
    return int((np.bincount(table.user_index) >= LEAST_RATINGS).sum())


def as_target(ratings: FloatArray, scale: RatingScale, target: str) -> FloatArray:
    """Turn ratings into what is learned, see :attr:`TaskConfig.target`."""
    return scale.to_unit(ratings) if target == "unit" else np.asarray(ratings / scale.high)
