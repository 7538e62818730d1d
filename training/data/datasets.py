"""Every data set that can be read, by the name of its format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.aadb import read_aadb
from training.data.dataset import Dataset, DatasetReport
from training.data.flickr_aes import read_flickr_aes
from training.data.ratings import collect_ratings
from training.data.real_cur import read_real_cur

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

__all__ = ["READERS", "TABLE", "Dataset", "DatasetReport", "read_dataset", "read_table"]

TABLE = "table"
"""Any folder with ``ratings.csv`` (columns ``user,image,score``) and, for groups, ``users.csv``."""


def read_table(folder: Path, scale: RatingScale | None = None) -> Dataset:
    """Read a folder with ``ratings.csv``, see :func:`training.data.ratings.read_rating_table`.

    Args:
        folder: Holds the ratings and the pictures.
        scale: What the ratings lie on; None takes the smallest common scale that holds them all.

    Raises:
        RatingError: A line cannot be understood, no rating is left, or no common scale holds the ratings.
    """
    collected, group_by_user = collect_ratings(folder, scale)
    table = collected.table(group_by_user)
    return Dataset(
        name=TABLE,
        table=table,
        scale=RatingScale.guess(table.ratings) if scale is None else scale,
        raw_counts=collected.raw_counts,
        report=DatasetReport.of(TABLE, table),
    )


READERS: dict[str, Callable[[Path], Dataset]] = {
    TABLE: read_table,
    "flickr-aes": read_flickr_aes,
    "aadb": read_aadb,
    "real-cur": read_real_cur,
}


def read_dataset(
    format: str,
    folder: Path,
    *,
    scale: RatingScale | None = None,
    groups: Collection[str] | None = None,
) -> Dataset:
    """Read a data set.

    Args:
        format: One of :data:`READERS`.
        folder: Where it is.
        scale: What the ratings lie on; only a table may have another than the one of its format.
        groups: Groups of ``users.csv`` to keep; only a table has them. None keeps all.

    Raises:
        RatingError: The format is not known, does not take ``scale`` or ``groups``, or the folder does not
            hold what it should.
    """
    if format not in READERS:
        raise RatingError(f"no reader for {format!r}; there are {', '.join(READERS)}")
    if format == TABLE:
        dataset = read_table(folder, scale)
        return dataset if groups is None else _select(dataset, groups)
    if groups is not None:
        raise RatingError(f"{format} has no groups of users; leave them out, its test users are known")
    dataset = READERS[format](folder)
    if scale is not None and scale != dataset.scale:
        raise RatingError(f"{format} is rated from {dataset.scale}, not from {scale}; leave the scale out")
    return dataset


def _select(dataset: Dataset, groups: Collection[str]) -> Dataset:
    table = dataset.table.select(groups)
    raw_counts = {user: dataset.raw_counts[user] for user in table.users}
    return replace(dataset, table=table, raw_counts=raw_counts, report=DatasetReport.of(dataset.name, table))
