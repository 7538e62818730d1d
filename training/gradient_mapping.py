"""Gradient maps of a run: of its prior, of users' networks over the epochs, and of networks from scratch.

Users and support sets are those that an evaluation draws with the same seed and shots, in its first repeat.
Pictures of the data set are such that none of the drawn users adapts to: first those that most of these users
have rated, among them in an order drawn by the seed.

A network whose adaptation leaves the finite numbers has no maps; the others' are made and kept all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.errors import DivergenceError, ImageError, ModelFormatError, RatingError
from piaa_sdk.images.files import find_files
from training.evaluation import draw_tasks
from training.evaluation_record import Conditions
from training.gradient_maps import WholeNetwork, epochs_of, maps_of, scratch_of
from training.gradient_record import GradientMaps, MappedNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.network import Params
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.evaluation import UserTask
    from training.learner_personalizer import LearnerPersonalizer
    from training.tasks import IntArray

_COMPARED = 4
_SAME = 1e-3
"""How far the score of the whole network may be from the one on the kept embedding."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which maps to make.

    Attributes:
        shots: M.
        users: How many, drawn by the seed.
        pictures: How many.
        epochs: After which of the adaptation, rising; 0 is the prior.
        kind: ``plain`` or ``guided``.
        from_scratch: Whether to adapt networks from scratch too.
        seed: Of users, supports, pictures, and what adaptation draws.
    """

    shots: int
    users: int
    pictures: int
    epochs: tuple[int, ...]
    kind: str = "plain"
    from_scratch: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            ModelFormatError: Epochs or numbers do.
        """
        if not self.epochs or self.epochs[0] < 0 or list(self.epochs) != sorted(set(self.epochs)):
            raise ModelFormatError(
                f"epochs are {list(self.epochs)}, must be numbers from 0 that rise, for example 0,5,10,20"
            )
        if self.users < 1 or self.pictures < 1:
            raise ModelFormatError(
                f"there shall be maps for {self.users} users and {self.pictures} pictures, must be 1 or more"
            )


def map_gradients(
    personalizer: LearnerPersonalizer,
    whole: WholeNetwork,
    table: RatingTable,
    scale: RatingScale,
    wanted: Wanted,
    *,
    photos: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> GradientMaps:
    """Make the gradient maps of a run.

    Args:
        personalizer: The run's; its learner adapts for as many epochs as the last one wanted.
        whole: The same run's network from pixels to score.
        table: People that the run has not met.
        scale: Units of the table's ratings.
        wanted: Which.
        photos: Folder to take the pictures from, in the order of their names; None takes the table's.
        facts: See :class:`training.gradient_record.GradientMaps`.
        say: Told of each network that is mapped, or that cannot be, at once.

    Raises:
        RatingError: There are too few users or pictures.
        ImageError: A picture cannot be read.
        ModelFormatError: An epoch or a kind that there is not, or a backbone other than the run's.
        DivergenceError: No adaptation stayed in the finite numbers.
    """
    tasks = draw_tasks(table, scale, shots=wanted.shots, seed=wanted.seed, users=wanted.users)
    difference = _check_same(personalizer, whole, table, tasks[0].support.images[:_COMPARED])
    positions = _draw_pictures(table, tasks, wanted) if photos is None else None
    paths = _photos_of(photos, wanted.pictures) if photos is not None else _paths_of(table, positions)
    pixels = whole.load(paths)
    work = _Work(personalizer, whole, pixels, wanted, say)
    work.map_all(tasks)
    conditions = Conditions.of(
        table,
        scale,
        shots=[wanted.shots],
        repeats=1,
        seed=wanted.seed,
        drawn_users=wanted.users,
        curve=False,
    )
    return GradientMaps(
        method=personalizer.name,
        kind=wanted.kind,
        conditions=conditions,
        people=tuple(task.person for task in tasks),
        epochs=wanted.epochs,
        networks=tuple(work.networks),
        diverged=tuple(work.diverged),
        pictures=pixels.numpy(),
        maps=np.stack(work.maps),
        scores=np.stack(work.scores),
        ratings=_ratings_of(table, scale, tasks, positions, len(pixels)),
        facts={**(facts or {}), "photos": photos is not None, "whole_network_differs_by": difference},
    )


class _Work:
    """Maps and scores of networks as they are made, one after the other."""

    def __init__(
        self,
        personalizer: LearnerPersonalizer,
        whole: WholeNetwork,
        pixels: torch.Tensor,
        wanted: Wanted,
        say: Callable[[str], None] | None,
    ) -> None:
        self.personalizer, self.whole, self.pixels, self.wanted = personalizer, whole, pixels, wanted
        self.networks: list[MappedNetwork] = []
        self.diverged: list[MappedNetwork] = []
        self.maps: list[FloatArray] = []
        self.scores: list[FloatArray] = []
        later = sum(epoch > 0 for epoch in wanted.epochs)
        per_user = later + len(wanted.epochs) * wanted.from_scratch
        self._total = wanted.users * per_user + (0 in wanted.epochs)
        self._say = say

    def map_all(self, tasks: Sequence[UserTask]) -> None:
        """Map the prior once, and each user's networks.

        Raises:
            DivergenceError: There are no maps of any user's network, because all left the finite numbers.
        """
        epochs = self.wanted.epochs
        if 0 in epochs:
            self._map(MappedNetwork(None, "prior", 0), self.personalizer.prior)
        starts = {"prior": self.personalizer.prior}
        if self.wanted.from_scratch:
            starts["scratch"] = scratch_of(self.personalizer)
        for user, task in enumerate(tasks):
            for name, start in starts.items():
                networks = [MappedNetwork(user, name, epoch) for epoch in epochs if epoch or name != "prior"]
                try:
                    adapted = epochs_of(self.personalizer, start, task.support, epochs)
                except DivergenceError as error:
                    for network in networks:
                        self._leave_out(network, str(error))
                    continue
                by_epoch = dict(zip(epochs, adapted, strict=True))
                for network in networks:
                    self._map(network, by_epoch[network.epoch])
        if self.diverged and not any(network.user is not None for network in self.networks):
            raise DivergenceError(
                f"none of the {len(self.diverged)} networks that were adapted has finite maps; the run's "
                "learning rate of fine-tuning is too high for these users, train it with a lower one"
            )

    def _map(self, network: MappedNetwork, params: Params) -> None:
        maps = maps_of(self.whole.gradients(params, self.pixels, kind=self.wanted.kind))
        scores = self.whole.predict(params, self.pixels)
        if not (np.isfinite(maps).all() and np.isfinite(scores).all()):
            self._leave_out(network, "its scores or gradients are not finite")
            return
        self.networks.append(network)
        self.maps.append(maps)
        self.scores.append(scores)
        self._tell(f"mapped {network}")

    def _leave_out(self, network: MappedNetwork, reason: str) -> None:
        self.diverged.append(network)
        self._tell(f"left out {network}: {reason}")

    def _tell(self, text: str) -> None:
        if self._say is not None:
            self._say(f"{text}; {len(self.networks) + len(self.diverged)} of {self._total} networks")


def _check_same(
    personalizer: LearnerPersonalizer, whole: WholeNetwork, table: RatingTable, images: IntArray
) -> float:
    """Return how far the prior's scores of pixels are from those that evaluation judges, at most.

    Raises:
        ModelFormatError: They are others.
    """
    pixels = whole.load(_paths_of(table, images))
    found = whole.predict(personalizer.prior, pixels)
    expected = personalizer.generic(images)
    difference = float(np.abs(found - expected).max())
    if not difference <= _SAME * max(1.0, float(np.abs(expected).max())):
        raise ModelFormatError(
            f"the whole network's scores differ by {difference:.3g} from those on the kept embeddings, may "
            f"differ by {_SAME:g}; name another --cache, and give the backbone's weights as in training"
        )
    return difference


def _draw_pictures(table: RatingTable, tasks: Sequence[UserTask], wanted: Wanted) -> IntArray:
    """Draw pictures (N,) of a table that nobody of the drawn users adapts to."""
    supports = np.concatenate([task.support.images for task in tasks])
    left = np.setdiff1d(np.arange(len(table.images)), supports)
    if len(left) < wanted.pictures:
        raise RatingError(
            f"{wanted.pictures} pictures that none of the {len(tasks)} users adapts to are wanted, there are "
            f"{len(left)}; ask for fewer users, shots or pictures, or give others (--photos)"
        )
    counts = np.bincount(np.concatenate([task.query for task in tasks]), minlength=len(table.images))
    shuffled = np.random.default_rng(wanted.seed).permutation(left)
    return shuffled[np.argsort(-counts[shuffled], kind="stable")][: wanted.pictures]


def _paths_of(table: RatingTable, images: IntArray | None) -> list[Path]:
    paths = table.paths()
    return [paths[image] for image in (images if images is not None else ())]


def _photos_of(folder: Path, count: int) -> list[Path]:
    found: list[Path] = []
    for path in find_files([folder]):
        if isinstance(path, ImageError):
            raise path
        found.append(path)
        if len(found) == count:
            return found
    raise RatingError(f"{count} pictures are wanted, {folder} holds {len(found)}; ask for fewer (--pictures)")


def _ratings_of(
    table: RatingTable, scale: RatingScale, tasks: Sequence[UserTask], positions: IntArray | None, count: int
) -> FloatArray:
    """Return the users' ratings of the pictures, (U, N) on [0, 1], nan where there is none."""
    found = np.full((len(tasks), count), np.nan)
    if positions is None:
        return found
    for row, task in zip(found, tasks, strict=True):
        known = dict(zip(task.query.tolist(), task.ratings.tolist(), strict=True))
        row[:] = [known.get(int(image), np.nan) for image in positions]
    return found
