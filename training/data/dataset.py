"""What every reader of a data set returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable

ABSENT = "picture not in the folder"
MERGED = "picture rated again by the same person, merged to the mean"


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What a reader found; as text it is one table, without the id of any person.

    Attributes:
        name: Of the data set.
        users: People with at least one rating.
        images: Pictures with at least one rating.
        ratings: Ratings kept.
        ratings_per_user: The least, the median and the most.
        dropped: Ratings that were not taken over, by the reason.
    """

    name: str
    users: int
    images: int
    ratings: int
    ratings_per_user: tuple[int, float, int]
    dropped: Mapping[str, int]

    @classmethod
    def of(cls, name: str, table: RatingTable, dropped: Mapping[str, int] | None = None) -> DatasetReport:
        """Count what is in a table.

        Args:
            name: Of the data set.
            table: What was kept.
            dropped: Ratings left out for reasons that the table's own report does not name.
        """
        counts = np.bincount(table.user_index, minlength=len(table.users))
        return cls(
            name=name,
            users=len(table.users),
            images=len(table.images),
            ratings=len(table),
            ratings_per_user=(int(counts.min()), float(np.median(counts)), int(counts.max())),
            dropped={ABSENT: table.report.absent, MERGED: table.report.merged, **(dropped or {})},
        )

    def __str__(self) -> str:
        least, median, most = self.ratings_per_user
        rows = [
            ("users", f"{self.users}"),
            ("images", f"{self.images}"),
            ("ratings", f"{self.ratings}"),
            ("ratings per user: least, median, most", f"{least}, {median:g}, {most}"),
            *((f"left out: {reason}", f"{count}") for reason, count in self.dropped.items()),
        ]
        lines = [f"| {row} | {value} |" for row, value in rows]
        return "\n".join([f"| {self.name} | |", "|---|---:|", *lines])


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Ratings by many people, as one release holds them.

    Attributes:
        name: Of the format, as :data:`training.data.datasets.READERS` knows it.
        table: The ratings whose pictures are there, each picture rated once per person.
        scale: What the ratings lie on.
        raw_counts: By user, what the usual choice of test users counts, before ratings of absent pictures
            are left out: ratings as they stand in the file; of AADB the different pictures rated. May hold
            people who have no rating left in the table.
        report: What was found.
    """

    name: str
    table: RatingTable
    scale: RatingScale
    raw_counts: Mapping[str, int]
    report: DatasetReport
