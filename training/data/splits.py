"""Who is met in meta-training, who settings are chosen on, and who the results are reported on.

No picture that a test user rated may be seen in meta-training, in the generic prior or in any mean rating,
whoever rated it: other people's ratings of it are left out and counted. The same holds between validation
and training. Files of the same bytes are one picture, whatever their names.

====================  =====================================================================================
data set              test users
====================  =====================================================================================
FLICKR-AES            the 37 people with 112 to 180 ratings in the file; with any other number of them the
                      file is not the one that results are published for
AADB                  22 people with 110 to 190 pictures, drawn among all such people, always the same
REAL-CUR              all 14
a table               groups of ``users.csv``
====================  =====================================================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.errors import RatingError
from training.data import aadb, flickr_aes, real_cur

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from piaa_sdk.rating_scale import RatingScale
    from training.data.dataset import Dataset
    from training.data.ratings import RatingTable

FORMAT_VERSION = 1
REAL_CUR_USERS = 14

_UNUSED, _TRAIN, _VALIDATION, _TEST = range(4)
_IMAGE_DIGEST_LENGTH = 16
# One stream of chance for each decision, so that none depends on how often another one draws.
_TEST_STREAM, _VALIDATION_STREAM, _RATING_STREAM = range(3)
# Results of two seeds are of the same test users, or they could not be compared.
_TEST_SEED = 0


@dataclass(frozen=True, slots=True)
class _CountRule:
    """Test users are people who rated neither few nor many pictures.

    Attributes:
        low: The fewest raw ratings.
        high: The most.
        users: How many people are test users.
        is_exact: Whether there have to be exactly that many such people.
    """

    low: int
    high: int
    users: int
    is_exact: bool


_COUNT_RULES = {
    flickr_aes.NAME: _CountRule(low=112, high=180, users=37, is_exact=True),
    aadb.NAME: _CountRule(low=110, high=190, users=22, is_exact=False),
}


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What a split left out, or, where the leak is kept, did not.

    Attributes:
        candidates: People that the rule for test users fits.
        unused_users: People of groups that are in no part.
        capped_ratings: Ratings of validation users left out so that none has more than a test user may.
        dropped_images: Pictures left out of a part because people of a later one rated them.
        dropped_ratings: Ratings of those pictures.
        dropped_users: People who had no other ratings.
        leaked_images: Pictures of test or validation users that are in an earlier part nevertheless.
        leaked_ratings: Ratings of those pictures in the earlier part.
        leak_kept: Whether that was asked for. Results are then too good, and only to be compared with
            published ones that were obtained in the same way.
    """

    candidates: int
    unused_users: int
    capped_ratings: int
    dropped_images: int
    dropped_ratings: int
    dropped_users: int
    leaked_images: int
    leaked_ratings: int
    leak_kept: bool


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The parts of a data set; no two share a user and, unless the leak is kept, a picture.

    Attributes:
        name: Of the data set's format.
        scale: What the ratings lie on.
        train: For meta-training; None where all people are tested on.
        validation: For choosing settings; None where nobody is set aside.
        test: For what is reported; empty where a data set is only trained on.
        seed: Of the validation users and their ratings.
        report: What was left out.
    """

    name: str
    scale: RatingScale
    train: RatingTable | None
    validation: RatingTable | None
    test: RatingTable
    seed: int
    report: SplitReport

    def people_to_train(self) -> RatingTable:
        """Return the training users.

        Raises:
            RatingError: There is nobody.
        """
        if self.train is None:
            raise RatingError(
                f"{self.name} has nobody to train on; train on another data set (--train-on), and judge here"
            )
        return self.train

    def to_json(self) -> dict[str, Any]:
        """Return what is written beside every result: digests of people and pictures, seed and counts.

        People are told by :func:`training.data.ratings.person_digest`, pictures by the first 16 digits of the
        SHA-256 of their name in the folder.
        """
        return {
            "format_version": FORMAT_VERSION,
            "data": self.name,
            "rating_scale": [self.scale.low, self.scale.high],
            "seed": self.seed,
            "report": asdict(self.report),
            "train": None if self.train is None else _part_to_json(self.train),
            "validation": None if self.validation is None else _part_to_json(self.validation),
            "test": _part_to_json(self.test),
        }

    def __str__(self) -> str:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        lines = ["| part | users | images | ratings |", "|---|---:|---:|---:|"]
        for name, part in parts.items():
            if part is not None:
                lines.append(f"| {name} | {len(part.users)} | {len(part.images)} | {len(part)} |")
        return "\n".join([*lines, "", *self._remarks()])

    def _remarks(self) -> list[str]:
        report = self.report
        remarks = [f"Seed {self.seed}; test users chosen among {report.candidates}."]
        if not self.test.users:
            remarks = [f"Seed {self.seed}; everybody is trained on."]
        if report.leak_kept:
            remarks.append(
                f"LEAK KEPT: {report.leaked_ratings} ratings of {report.leaked_images} pictures that test or "
                "validation users rated too were left in. These results are too good."
            )
        else:
            remarks.append(
                f"Left out: {report.dropped_ratings} ratings of {report.dropped_images} pictures that test "
                f"or validation users rated too, and with them {report.dropped_users} users."
            )
        if report.capped_ratings:
            remarks.append(f"{report.capped_ratings} ratings of validation users with too many left out.")
        if report.unused_users:
            remarks.append(f"{report.unused_users} users of other groups left out.")
        return remarks


def split(
    dataset: Dataset,
    *,
    test_groups: Collection[str] | None = None,
    train_groups: Collection[str] | None = None,
    validation_groups: Collection[str] | None = None,
    validation_users: int = 0,
    keep_leak: bool = False,
    seed: int = 0,
) -> Split:
    """Divide a data set among training, validation and test, by people and by pictures.

    Args:
        dataset: What to divide.
        test_groups: Groups of a table to test on; by default those in no other part.
        train_groups: Groups of a table to train on; by default those in no other part.
        validation_groups: Groups of a table to choose settings on.
        validation_users: How many training users to choose settings on instead, drawn. Of FLICKR-AES and
            AADB they are drawn among those who rated at least as many pictures as a test user, pictures of
            test users left aside, and no more of their ratings are used than a test user may have: with all
            of them, most pictures would be lost to training.
        keep_leak: Leave pictures of test and validation users in training.
        seed: Of what is drawn, but for test users: these are always the same.

    Raises:
        ImageError: A picture cannot be read.
        RatingError: The data set does not have the test users it should, groups overlap or are given for
            a data set without groups, or nothing is left for a part.
    """
    groups = {"test": test_groups, "validation": validation_groups, "train": train_groups}
    if validation_users and validation_groups:
        raise RatingError("validation groups and a number of validation users exclude each other; give one")
    if dataset.name in _COUNT_RULES or dataset.name == real_cur.NAME:
        if given := [part for part, names in groups.items() if names is not None]:
            raise RatingError(f"{dataset.name} has no groups of users; leave out the {given[0]} groups")
        roles, candidates = _roles_by_rule(dataset)
    else:
        roles = _roles_by_group(dataset.table, groups)
        candidates = int((roles == _TEST).sum())
    if validation_users:
        _set_aside(dataset, roles, validation_users, seed)
    return _divide(dataset, roles, candidates, keep_leak, seed)


def train_on_all(dataset: Dataset, *, groups: Collection[str] | None = None, seed: int = 0) -> Split:
    """Take a table to train on whose priors are judged on another data set: nobody of it is tested on.

    Args:
        dataset: A table.
        groups: Groups to train on; by default all.
        seed: Is noted.

    Raises:
        RatingError: The data set has test users of its own, or has no such group.
    """
    if dataset.name in _COUNT_RULES or dataset.name == real_cur.NAME:
        raise RatingError(f"{dataset.name} has test users of its own; split it")
    table = dataset.table if groups is None else dataset.table.select(groups)
    report = SplitReport(
        candidates=0,
        unused_users=len(dataset.table.users) - len(table.users),
        capped_ratings=0,
        dropped_images=0,
        dropped_ratings=0,
        dropped_users=0,
        leaked_images=0,
        leaked_ratings=0,
        leak_kept=False,
    )
    nobody = table.keep(np.zeros(len(table), dtype=np.bool_))
    return Split(dataset.name, dataset.scale, table, None, nobody, seed, report)


def _roles_by_rule(dataset: Dataset) -> tuple[npt.NDArray[np.intp], int]:
    """Return the part (U,) of each user, and how many people could be test users."""
    table = dataset.table
    if dataset.name == real_cur.NAME:
        if len(table.users) != REAL_CUR_USERS:
            raise RatingError(
                f"{table.folder}: {len(table.users)} albums with pictures; {real_cur.NAME} has "
                f"{REAL_CUR_USERS}, and results are published for all of them"
            )
        return np.full(len(table.users), _TEST), len(table.users)
    rule = _COUNT_RULES[dataset.name]
    candidates = sorted(user for user, n in dataset.raw_counts.items() if rule.low <= n <= rule.high)
    if len(candidates) < rule.users or (rule.is_exact and len(candidates) != rule.users):
        raise RatingError(
            f"{table.folder}: {len(candidates)} people have {rule.low} to {rule.high} ratings; "
            f"{'exactly' if rule.is_exact else 'at least'} {rule.users} have to, or it is not the release "
            f"of {dataset.name} that results are published for"
        )
    rng = np.random.default_rng([_TEST_SEED, _TEST_STREAM])
    chosen = {candidates[place] for place in rng.permutation(len(candidates))[: rule.users]}
    if missing := len(chosen - set(table.users)):
        raise RatingError(
            f"{table.folder}: none of the pictures that {missing} of the {rule.users} test users rated is "
            "there; put all pictures of the release in place"
        )
    return np.array([_TEST if user in chosen else _TRAIN for user in table.users]), len(candidates)


def _roles_by_group(table: RatingTable, groups: dict[str, Collection[str] | None]) -> npt.NDArray[np.intp]:
    """Return the part (U,) of each user of a table with groups."""
    known = set(table.groups)
    named = ", ".join(map(repr, sorted(known)))
    part_by_group: dict[str, str] = {}
    for part, names in groups.items():
        for group in sorted(set(names or ())):
            if group not in known:
                raise RatingError(f"{table.folder}: no group {group!r}; its groups are {named}")
            if group in part_by_group:
                raise RatingError(
                    f"group {group!r} is in {part_by_group[group]} and in {part}; a group is in one part"
                )
            part_by_group[group] = part
    if groups["test"] is None and groups["train"] is None:
        raise RatingError(
            f"{table.folder}: a table needs its test groups or its training groups named "
            f"(--train-groups, --test-groups); its groups are {named}"
        )
    rest = "test" if groups["test"] is None else "train" if groups["train"] is None else "unused"
    roles = {"unused": _UNUSED, "train": _TRAIN, "validation": _VALIDATION, "test": _TEST}
    return np.array([roles[part_by_group.get(group, rest)] for group in table.groups])


def _set_aside(dataset: Dataset, roles: npt.NDArray[np.intp], count: int, seed: int) -> None:
    """Make training users validation users, in place."""
    table = dataset.table
    is_usable = ~_rates(table, roles[table.user_index] == _TEST)
    usable = np.bincount(table.user_index[is_usable], minlength=len(table.users))
    rule = _COUNT_RULES.get(dataset.name)
    candidates = np.flatnonzero((roles == _TRAIN) & (usable >= (rule.low if rule else 1)))
    training = int((roles == _TRAIN).sum())
    if not 0 < count <= len(candidates) or count >= training:
        raise RatingError(
            f"{count} validation users cannot be set aside: {len(candidates)} of {training} training users "
            "have rated enough pictures that no test user has, and some have to be left to train on"
        )
    rng = np.random.default_rng([seed, _VALIDATION_STREAM])
    roles[rng.permutation(candidates)[:count]] = _VALIDATION


def _divide(
    dataset: Dataset, roles: npt.NDArray[np.intp], candidates: int, keep_leak: bool, seed: int
) -> Split:
    table = dataset.table
    role = roles[table.user_index]
    is_test, is_validation, is_train = (role == part for part in (_TEST, _VALIDATION, _TRAIN))
    if not is_test.any():
        raise RatingError(f"{table.folder}: nobody is left to test on; name other test groups")
    capped = is_validation & ~_within_cap(dataset, np.flatnonzero(roles == _VALIDATION), seed)
    is_validation &= ~capped
    leaked_validation = is_validation & _rates(table, is_test)
    if not keep_leak:
        is_validation &= ~leaked_validation
    leaked_train = is_train & _rates(table, is_test | is_validation)
    if not keep_leak:
        is_train &= ~leaked_train
    leaked = leaked_validation | leaked_train
    images, ratings = len(np.unique(table.image_index[leaked])), int(leaked.sum())
    test = table.keep(is_test)
    train = _part(table, "training", is_train, _TRAIN in roles)
    validation = _part(table, "validation", is_validation, _VALIDATION in roles)
    parts = [part for part in (train, validation, test) if part is not None]
    if not keep_leak:
        _check_apart(parts)
    report = SplitReport(
        candidates=candidates,
        unused_users=int((roles == _UNUSED).sum()),
        capped_ratings=int(capped.sum()),
        dropped_images=0 if keep_leak else images,
        dropped_ratings=0 if keep_leak else ratings,
        dropped_users=int((roles != _UNUSED).sum()) - sum(len(part.users) for part in parts),
        leaked_images=images if keep_leak else 0,
        leaked_ratings=ratings if keep_leak else 0,
        leak_kept=keep_leak,
    )
    return Split(dataset.name, dataset.scale, train, validation, test, seed, report)


def _rates(table: RatingTable, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which ratings (R,) are of a picture that one of the chosen ratings is of."""
    # By content: one picture may lie in the folder under two names.
    contents, content_of_image = np.unique(table.picture_digests(), return_inverse=True)
    content = content_of_image[table.image_index]
    is_seen = np.zeros(len(contents), dtype=np.bool_)
    is_seen[content[chosen]] = True
    rated: npt.NDArray[np.bool_] = is_seen[content]
    return rated


def _within_cap(dataset: Dataset, users: npt.NDArray[np.intp], seed: int) -> npt.NDArray[np.bool_]:
    """Return which ratings (R,) are among those of their user that are used at most, drawn."""
    is_kept = np.ones(len(dataset.table), dtype=np.bool_)
    rule = _COUNT_RULES.get(dataset.name)
    if rule is not None:
        for user in users:
            own = np.flatnonzero(dataset.table.user_index == user)
            rng = np.random.default_rng([seed, _RATING_STREAM, int(user)])
            is_kept[rng.permutation(own)[rule.high :]] = False
    return is_kept


def _part(
    table: RatingTable, purpose: str, is_kept: npt.NDArray[np.bool_], is_wanted: bool
) -> RatingTable | None:
    if is_kept.any():
        return table.keep(is_kept)
    if is_wanted:
        raise RatingError(
            f"{table.folder}: nothing is left for {purpose}: people of another part rated all those pictures "
            "too; choose people who rated other pictures, or fewer of them"
        )
    return None


def _check_apart(parts: Sequence[RatingTable]) -> None:
    """Assert what everything else relies on: no two parts share a person or a picture."""
    for place, part in enumerate(parts):
        for other in parts[place + 1 :]:
            assert not set(part.users) & set(other.users), "a person is in two parts"
            shared = set(part.picture_digests()) & set(other.picture_digests())
            assert not shared, "a picture is in two parts"


def _part_to_json(table: RatingTable) -> dict[str, Any]:
    return {
        "users": list(table.person_digests()),
        "images": [image_name_digest(image) for image in table.images],
        "ratings": len(table),
    }


def image_name_digest(image: str) -> str:
    """Return what stands for a picture's name in a split: 16 hex digits."""
    return hashlib.sha256(f"image:{image}".encode()).hexdigest()[:_IMAGE_DIGEST_LENGTH]
