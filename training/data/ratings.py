"""A folder of ratings by many people: ``ratings.csv``, ``users.csv`` and the pictures."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import ImageError, RatingError
from training.data.reading import image_name, parse_rating, read_rows, shorten_user

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale

RATINGS_NAME = "ratings.csv"
USERS_NAME = "users.csv"
SINGLE_GROUP = "all"
"""Group of everybody in a folder without ``users.csv``."""


@dataclass(frozen=True, slots=True)
class ReadingReport:
    """What was not taken over as it stood.

    Attributes:
        absent: Ratings left out because their picture is not in the folder.
        merged: Ratings of a picture that the same person had rated before; the mean stands for all of them.
        contradictory: Pairs of person and picture among them whose ratings differed.
    """

    absent: int = 0
    merged: int = 0
    contradictory: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class RatingTable:
    """Who rated what how; R ratings of N images by U users, sorted by user, then image.

    Attributes:
        folder: What the images' names are relative to.
        users: U names, sorted; each has at least one rating.
        groups: U names: the group of each user.
        images: N names relative to ``folder``, with ``/``, sorted; each has at least one rating.
        user_index: (R,) position of the rating's user.
        image_index: (R,) position of the rating's image.
        ratings: (R,) float64, in the units of the table.
        report: What was not taken over as it stood.
    """

    folder: Path
    users: tuple[str, ...]
    groups: tuple[str, ...]
    images: tuple[str, ...]
    user_index: npt.NDArray[np.intp]
    image_index: npt.NDArray[np.intp]
    ratings: FloatArray
    report: ReadingReport = ReadingReport()
    _digests: tuple[str, ...] | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.ratings)

    def __str__(self) -> str:
        report = self.report
        left_out = f"; {report.absent} without a picture left out" if report.absent else ""
        merged = (
            f"; {report.merged} repeated ones merged ({report.contradictory} contradictory)"
            if report.merged
            else ""
        )
        return (
            f"{len(self)} ratings of {len(self.images)} images by {len(self.users)} users "
            f"of groups {', '.join(sorted(set(self.groups)))}{left_out}{merged}"
        )

    def paths(self) -> list[Path]:
        """Return where the N images are."""
        return [self.folder / image for image in self.images]

    def by_user(self) -> Iterator[tuple[str, npt.NDArray[np.intp], FloatArray]]:
        """Yield each user's name, the positions of the images rated (K,) and the ratings (K,)."""
        bounds = np.searchsorted(self.user_index, np.arange(len(self.users) + 1))
        for user, start, end in zip(self.users, bounds[:-1], bounds[1:], strict=True):
            yield user, self.image_index[start:end], self.ratings[start:end]

    def mean_ratings(self) -> FloatArray:
        """Return the mean rating of each image, (N,), in the units of the table."""
        counts = np.bincount(self.image_index, minlength=len(self.images))
        sums = np.bincount(self.image_index, weights=self.ratings, minlength=len(self.images))
        return sums / counts

    def select(self, groups: Collection[str]) -> RatingTable:
        """Keep the users of some groups, and the images that they rated.

        Raises:
            RatingError: The table has no such group.
        """
        _check_groups(groups, set(self.groups), self.folder)
        return self.keep(np.array([group in groups for group in self.groups])[self.user_index])

    def keep(self, is_kept: npt.NDArray[np.bool_]) -> RatingTable:
        """Keep some ratings, and the users and images that still have one.

        Args:
            is_kept: (R,), at least one True.
        """
        users, user_index = np.unique(self.user_index[is_kept], return_inverse=True)
        images, image_index = np.unique(self.image_index[is_kept], return_inverse=True)
        kept = RatingTable(
            folder=self.folder,
            users=tuple(self.users[user] for user in users),
            groups=tuple(self.groups[user] for user in users),
            images=tuple(self.images[image] for image in images),
            user_index=user_index,
            image_index=image_index,
            ratings=self.ratings[is_kept],
            report=self.report,
        )
        if self._digests is not None:
            kept._remember(tuple(self._digests[image] for image in images))
        return kept

    def person_digests(self) -> tuple[str, ...]:
        """Return :func:`person_digest` of each user, (U,)."""
        return tuple(person_digest(user) for user in self.users)

    def picture_digests(self) -> tuple[str, ...]:
        """Return :func:`digest_of_file` of each image, (N,); reads every file, the first time.

        What :meth:`keep` makes of the table afterwards knows them too.

        Raises:
            ImageError: One cannot be read.
        """
        if self._digests is None:
            self._remember(tuple(map(digest_of_file, self.paths())))
        assert self._digests is not None
        return self._digests

    def _remember(self, digests: tuple[str, ...]) -> None:
        object.__setattr__(self, "_digests", digests)  # not a change: they follow from the images


def person_digest(user: str) -> str:
    """Return what stands for a person in a bundle: hex SHA-256 of the user's name in the table.

    Only the name goes in, not the ratings, so that a person is known again by any part of them. Two tables
    that use one name for two people make them look like one; what refuses to evaluate on people it was
    trained on then refuses once too often, never once too seldom.
    """
    return hashlib.sha256(f"person:{unicodedata.normalize('NFC', user)}".encode()).hexdigest()


def picture_digest(data: bytes) -> str:
    """Return what stands for a picture in a bundle: hex SHA-256 of its file's bytes, whatever its name."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return :func:`picture_digest` of what a file holds.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        return picture_digest(path.read_bytes())
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror or error}") from error


class RatingCollector:
    """Ratings as a reader comes across them, until they are a table.

    Attributes:
        raw_counts: Ratings of each user as they were met, repeated ones and absent pictures included.
        absent: Ratings left out because their picture is not there.

    Args:
        folder: What the images' names are relative to.
        source: The file or folder that is read, for messages.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self.raw_counts: Counter[str] = Counter()
        self.absent = 0
        self._folder = folder
        self._source = source
        self._ratings_by_pair: dict[tuple[str, str], list[float]] = {}

    def add(self, user: str, image: str, rating: float) -> None:
        """Take over a rating of a picture that is there."""
        self.raw_counts[user] += 1
        self._ratings_by_pair.setdefault((user, image), []).append(rating)

    def add_absent(self, user: str) -> None:
        """Count a rating whose picture is not there."""
        self.raw_counts[user] += 1
        self.absent += 1

    def table(self, group_by_user: Mapping[str, str] | None = None) -> RatingTable:
        """Sort what was collected; a person's ratings of one picture are merged to their mean.

        Args:
            group_by_user: Group of every user; None puts everybody in the group ``all``.

        Raises:
            RatingError: There is nothing.
        """
        by_pair = self._ratings_by_pair
        if not by_pair:
            raise RatingError(
                f"{self._source}: no rating is left ({self.absent} name pictures that are not in "
                f"{self._folder}); paths of images are relative to the folder"
            )
        users = sorted({user for user, _ in by_pair})
        images = sorted({image for _, image in by_pair})
        user_positions = {user: position for position, user in enumerate(users)}
        image_positions = {image: position for position, image in enumerate(images)}
        pairs = sorted(by_pair)
        return RatingTable(
            folder=self._folder,
            users=tuple(users),
            groups=tuple(SINGLE_GROUP if group_by_user is None else group_by_user[user] for user in users),
            images=tuple(images),
            user_index=np.array([user_positions[user] for user, _ in pairs], dtype=np.intp),
            image_index=np.array([image_positions[image] for _, image in pairs], dtype=np.intp),
            ratings=np.array([math.fsum(by_pair[pair]) / len(by_pair[pair]) for pair in pairs]),
            report=ReadingReport(
                absent=self.absent,
                merged=sum(len(ratings) - 1 for ratings in by_pair.values()),
                contradictory=sum(len(set(ratings)) > 1 for ratings in by_pair.values()),
            ),
        )


def read_rating_table(
    folder: Path, groups: Collection[str] | None = None, *, scale: RatingScale | None = None
) -> RatingTable:
    """Read a folder of ratings by many people.

    A person's ratings of one picture are merged to their mean. Ratings of pictures that are not in the
    folder are left out and counted. Without ``users.csv`` everybody is in the group ``all``.

    Args:
        folder: Holds ``ratings.csv`` (columns ``user,image,score``; images relative to the folder),
            ``users.csv`` (columns ``user,group``) and the pictures.
        groups: Groups of users to keep; None keeps all.
        scale: What ratings have to lie on; None accepts any number.

    Raises:
        RatingError: A file or column is missing, a line cannot be understood, a user has no group or a
            group no user, or nothing is left.
    """
    collected, group_by_user = collect_ratings(folder, scale)
    table = collected.table(group_by_user)
    return table if groups is None else table.select(groups)


def collect_ratings(
    folder: Path, scale: RatingScale | None = None
) -> tuple[RatingCollector, dict[str, str] | None]:
    """Read ``ratings.csv`` and ``users.csv``, as :func:`read_rating_table` does.

    Returns:
        The ratings, and the group of every user, None without ``users.csv``.

    Raises:
        RatingError: A file or column is missing, or a line cannot be understood.
    """
    group_by_user = _read_users(folder)
    source = folder / RATINGS_NAME
    collected = RatingCollector(folder, source)
    is_there: dict[str, bool] = {}
    for line, (user, name, text) in read_rows(source, ("user", "image", "score")):
        place = f"{source}, line {line}"
        if group_by_user is not None and user not in group_by_user:
            raise RatingError(
                f"{place}: user {shorten_user(user)!r} is not in {USERS_NAME}; add a line with a group"
            )
        image = image_name(name, place)
        rating = parse_rating(text, scale, place)
        if image not in is_there:
            is_there[image] = (folder / image).is_file()
        if is_there[image]:
            collected.add(user, image, rating)
        else:
            collected.add_absent(user)
    return collected, group_by_user


def _read_users(folder: Path) -> dict[str, str] | None:
    path = folder / USERS_NAME
    if not path.exists():
        return None
    group_by_user: dict[str, str] = {}
    for line, (user, group) in read_rows(path, ("user", "group")):
        if group_by_user.setdefault(user, group) != group:
            raise RatingError(
                f"{path}, line {line}: user {shorten_user(user)!r} is in group {group_by_user[user]!r} "
                f"and in {group!r}; a user is in one group"
            )
    return group_by_user


def _check_groups(wanted: Collection[str], found: set[str], folder: Path) -> None:
    if unknown := sorted(set(wanted) - found):
        raise RatingError(
            f"{folder}: no group {unknown[0]!r}; its groups are {', '.join(map(repr, sorted(found)))}"
        )
