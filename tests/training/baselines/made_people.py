"""People made up with a taste that is known, and what their pictures are like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.rating_scale import RatingScale
from training.baselines.features import PictureFeatures
from training.data.ratings import RatingTable

if TYPE_CHECKING:
    import numpy.typing as npt

UNIT = RatingScale(0, 1)
CONTENT, ATTRIBUTES = 12, 6


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Ratings of made-up people, and the features of their pictures."""

    table: RatingTable
    features: PictureFeatures


def make_people(
    users: int,
    images: int,
    *,
    seed: int,
    source: str = "content",
    taste: float = 0.12,
    noise: float = 0.05,
    density: float = 1.0,
) -> People:
    """Make people who share a part of their taste, and differ in two directions of one source of features.

    A rating is 0.5 + shared + own + noise; ``taste`` is the standard deviation of the own part. The
    directions are the same for every seed, so that one set of people can be learned from and another judged.
    """
    rng, world = np.random.default_rng(seed), np.random.default_rng(99)
    content, attributes = rng.normal(size=(images, CONTENT)), rng.normal(size=(images, ATTRIBUTES))
    by_source = {"content": content, "attribute": attributes}
    shared = by_source[source] @ world.normal(size=by_source[source].shape[1])
    axes, _ = np.linalg.qr(world.normal(size=(by_source[source].shape[1], 2)))
    own = rng.normal(size=(users, 2)) @ (by_source[source] @ axes).T / np.sqrt(2)
    ratings = 0.5 + 0.05 * shared / shared.std() + taste * own + rng.normal(scale=noise, size=own.shape)
    ratings += rng.normal(scale=0.05, size=(users, 1))
    return People(
        make_table(np.clip(ratings, 0, 1), rng.random(ratings.shape) < density),
        PictureFeatures(content, attributes, "made up"),
    )


def make_table(ratings: npt.NDArray[np.float64], is_rated: npt.NDArray[np.bool_]) -> RatingTable:
    """Put a matrix (U, N) into a table."""
    user_index, image_index = np.nonzero(is_rated)
    return RatingTable(
        folder=Path("people"),
        users=tuple(f"{user:03}" for user in range(len(ratings))),
        groups=("all",) * len(ratings),
        images=tuple(f"{image:05}.png" for image in range(ratings.shape[1])),
        user_index=user_index,
        image_index=image_index,
        ratings=ratings[user_index, image_index],
    )


def shuffle_ratings(people: People, seed: int) -> People:
    """Give every rating to another picture of the same person, drawn."""
    rng = np.random.default_rng(seed)
    table = people.table
    values = np.concatenate([rng.permutation(ratings) for _, _, ratings in table.by_user()])
    matrix = np.full((len(table.users), len(table.images)), np.nan)
    matrix[table.user_index, table.image_index] = values
    return People(make_table(matrix, ~np.isnan(matrix)), people.features)
