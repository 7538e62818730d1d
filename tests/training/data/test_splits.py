"""Who is trained on and who is tested on, and that no picture is on both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from piaa_sdk.errors import RatingError
from training.data.aadb import read_aadb
from training.data.datasets import Dataset, read_dataset
from training.data.flickr_aes import read_flickr_aes
from training.data.ratings import person_digest
from training.data.real_cur import read_real_cur
from training.data.splits import Split, image_name_digest, split, train_on_all

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from training.data.ratings import RatingTable


@pytest.fixture(scope="module")
def flickr_aes(flickr_aes_folder: Path) -> Dataset:
    return read_flickr_aes(flickr_aes_folder)


@pytest.fixture(scope="module")
def aadb(aadb_folder: Path) -> Dataset:
    return read_aadb(aadb_folder)


@pytest.fixture(scope="module")
def table(table_folder: Path) -> Dataset:
    return read_dataset("table", table_folder)


@pytest.fixture
def shared(tmp_path: Path) -> Dataset:
    """Return a table small enough to split by hand: what x of group test rated, others rated too."""
    (tmp_path / "users.csv").write_text("user,group\nx,test\ny,choice\nz,rest\nw,rest\nv,rest\n")
    rated = {"x": "12", "y": "234", "z": "456", "w": "2", "v": "67"}
    lines = [f"{user},{image},3" for user, images in rated.items() for image in images]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,image,score", *lines]))
    for image in "1234567":
        (tmp_path / image).write_text(image)
    return read_dataset("table", tmp_path)


def ratings_of(table: RatingTable | None) -> set[tuple[str, str]]:
    if table is None:
        return set()
    pairs = zip(table.user_index, table.image_index, strict=True)
    return {(table.users[user], table.images[image]) for user, image in pairs}


def assert_apart(parts: Split) -> None:
    tables = [part for part in (parts.train, parts.validation, parts.test) if part is not None]
    for place, part in enumerate(tables):
        for other in tables[place + 1 :]:
            assert set(part.users).isdisjoint(other.users)
            assert set(part.images).isdisjoint(other.images)


def test_pictures_of_test_users_are_dropped_and_counted(shared: Dataset) -> None:
    """By hand: 2 leaves validation; 2, 3 and 4 leave training, and with 2 all of w."""
    parts = split(shared, test_groups=["test"], validation_groups=["choice"])
    assert ratings_of(parts.test) == {("x", "1"), ("x", "2")}
    assert ratings_of(parts.validation) == {("y", "3"), ("y", "4")}
    assert ratings_of(parts.train) == {("z", "5"), ("z", "6"), ("v", "6"), ("v", "7")}
    report = parts.report
    assert (report.dropped_images, report.dropped_ratings, report.dropped_users) == (2, 3, 1)
    assert (report.leaked_images, report.leaked_ratings, report.leak_kept) == (0, 0, False)
    assert "Left out: 3 ratings of 2 pictures" in str(parts)


def test_one_picture_under_two_names_is_one_picture(shared: Dataset) -> None:
    """The 5 and the 7 are the bytes of the 1, which x of the test group rated: z and v lose them."""
    folder = shared.table.folder
    for name in "57":
        (folder / name).write_bytes((folder / "1").read_bytes())
    parts = split(shared, test_groups=["test"], validation_groups=["choice"])
    assert ratings_of(parts.train) == {("z", "6"), ("v", "6")}
    assert (parts.report.dropped_images, parts.report.dropped_ratings) == (4, 5)
    assert parts.train is not None
    assert set(parts.train.picture_digests()).isdisjoint(parts.test.picture_digests())
    kept = split(shared, test_groups=["test"], validation_groups=["choice"], keep_leak=True)
    assert (kept.report.leaked_images, kept.report.leaked_ratings) == (4, 5)


def test_validation_users_are_chosen_by_the_pictures_that_are_left(shared: Dataset) -> None:
    """All that v rated are copies of what x of the test group rated: with v nothing would be validated."""
    folder = shared.table.folder
    for name in "67":
        (folder / name).write_bytes((folder / "1").read_bytes())
    for seed in range(5):
        parts = split(shared, test_groups=["test"], validation_users=1, seed=seed)
        assert parts.validation is not None
        assert set(parts.validation.users) <= {"y", "z"}


def test_all_of_a_table_can_be_trained_on(table: Dataset, flickr_aes: Dataset) -> None:
    """Where another data set is judged, nobody of this one needs to be."""
    parts = train_on_all(table, seed=3)
    assert parts.train is not None
    assert ratings_of(parts.train) == ratings_of(table.table)
    assert (len(parts.test.users), len(parts.test), parts.validation) == (0, 0, None)
    assert json.loads(json.dumps(parts.to_json()))["test"] == {"users": [], "images": [], "ratings": 0}
    assert "everybody is trained on" in str(parts)
    parts = train_on_all(table, groups=["a", "b"])
    assert parts.train is not None
    assert set(parts.train.groups) == {"a", "b"}
    assert parts.report.unused_users == 6
    with pytest.raises(RatingError, match="no group 'd'"):
        train_on_all(table, groups=["d"])
    with pytest.raises(RatingError, match="flickr-aes has test users of its own"):
        train_on_all(flickr_aes)


def test_no_mean_rating_knows_a_picture_of_a_test_user(flickr_aes: Dataset) -> None:
    """The generic prior learns from means: pictures that are left have lost none of their ratings."""
    parts = split(flickr_aes)
    assert parts.train is not None
    means = dict(zip(flickr_aes.table.images, flickr_aes.table.mean_ratings(), strict=True))
    assert set(parts.test.images).isdisjoint(parts.train.images)
    assert parts.train.mean_ratings().tolist() == [means[image] for image in parts.train.images]


def test_the_leak_can_be_kept_and_says_so(shared: Dataset) -> None:
    parts = split(shared, test_groups=["test"], validation_groups=["choice"], keep_leak=True)
    assert ratings_of(parts.train) | ratings_of(parts.validation) | ratings_of(parts.test) == ratings_of(
        shared.table
    )
    report = parts.report
    assert (report.leaked_images, report.leaked_ratings, report.leak_kept) == (2, 3, True)
    assert (report.dropped_images, report.dropped_ratings, report.dropped_users) == (0, 0, 0)
    assert "LEAK KEPT: 3 ratings of 2 pictures" in str(parts)
    assert parts.to_json()["report"]["leak_kept"] is True


def test_flickr_aes_has_37_test_users_by_raw_counts(flickr_aes: Dataset) -> None:
    """Ratings of absent pictures count when users are chosen: some of the 37 have fewer than 112 left."""
    parts = split(flickr_aes)
    expected = {user for user, count in flickr_aes.raw_counts.items() if 112 <= count <= 180}
    assert set(parts.test.users) == expected
    assert len(expected) == 37
    assert min(np.bincount(parts.test.user_index)) < 112
    assert {112, 180} <= set(flickr_aes.raw_counts.values()), "both ends of the range are test users"
    assert parts.train is not None
    assert len(parts.train.users) == 12
    assert parts.report.dropped_ratings > 0
    assert_apart(parts)


@pytest.mark.parametrize("change", [-1, 1])
def test_any_other_number_than_37_is_refused(flickr_aes: Dataset, change: int) -> None:
    counts = dict(flickr_aes.raw_counts)
    is_moved = [user for user, count in counts.items() if (112 <= count <= 180) == (change == -1)]
    counts[is_moved[0]] = 150 if change == 1 else 100
    with pytest.raises(
        RatingError, match=f"{37 + change} people have 112 to 180 ratings; exactly 37 have to"
    ):
        split(replace(flickr_aes, raw_counts=counts))


def test_test_users_without_any_picture_are_an_error(flickr_aes: Dataset) -> None:
    """Some of the pictures missing must not quietly make another test set."""
    gone = split(flickr_aes).test.users[0]
    rest = flickr_aes.table.keep(flickr_aes.table.user_index != flickr_aes.table.users.index(gone))
    with pytest.raises(RatingError, match="none of the pictures that 1 of the 37 test users rated is there"):
        split(replace(flickr_aes, table=rest))


def test_aadb_has_22_test_users_drawn_among_the_candidates(aadb: Dataset) -> None:
    parts = split(aadb)
    assert len(parts.test.users) == 22
    assert all(110 <= aadb.raw_counts[user] <= 190 for user in parts.test.users)
    assert parts.report.candidates == 24
    assert_apart(parts)
    assert parts.to_json()["test"]["users"] == [person_digest(user) for user in parts.test.users]
    others = [split(aadb, seed=seed).test.users for seed in range(1, 5)]
    assert all(users == parts.test.users for users in others), "results of two seeds are of the same people"


def test_too_few_candidates_of_aadb_are_refused(aadb: Dataset) -> None:
    counts = dict.fromkeys(aadb.raw_counts, 200)
    with pytest.raises(RatingError, match="0 people have 110 to 190 ratings; at least 22 have to"):
        split(replace(aadb, raw_counts=counts))


def test_all_of_real_cur_is_tested_on(real_cur_folder: Path, tmp_path: Path, miniatures: ModuleType) -> None:
    parts = split(read_real_cur(real_cur_folder))
    assert (parts.train, parts.validation, len(parts.test.users)) == (None, None, 14)
    assert parts.to_json()["train"] is None
    miniatures.write_real_cur(tmp_path / "few", users=13, images=2)
    with pytest.raises(RatingError, match="13 albums with pictures; real-cur has 14"):
        split(read_real_cur(tmp_path / "few"))


def test_groups_of_a_table(table: Dataset) -> None:
    parts = split(table, test_groups=["c"])
    assert parts.train is not None
    assert (set(parts.train.groups), set(parts.test.groups)) == ({"a", "b"}, {"c"})
    parts = split(table, train_groups=["a"])
    assert parts.train is not None
    assert (set(parts.train.groups), set(parts.test.groups)) == ({"a"}, {"b", "c"})
    parts = split(table, train_groups=["a"], test_groups=["b"])
    assert parts.report.unused_users == 6
    assert "6 users of other groups left out" in str(parts)
    parts = split(table, test_groups=["a", "b", "c"])
    assert parts.train is None
    assert_apart(split(table, test_groups=["c"], validation_groups=["b"]))


def test_validation_users_are_cut_from_training(flickr_aes: Dataset) -> None:
    """No more of their ratings than a test user may have: all would take most pictures from training."""
    parts = split(flickr_aes, validation_users=2, seed=3)
    assert parts.validation is not None
    assert parts.train is not None
    assert len(parts.validation.users) == 2
    assert len(parts.train.users) == 10
    assert_apart(parts)
    assert parts.report.capped_ratings > 0
    assert all(flickr_aes.raw_counts[user] > 180 for user in parts.validation.users)
    drawn = {split(flickr_aes, validation_users=2, seed=seed).validation.users for seed in range(6)}  # type: ignore[union-attr]
    assert len(drawn) > 1, "the seed decides"
    assert split(flickr_aes, seed=3).test.users == parts.test.users


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"a table needs .* named \(--train-groups, --test-groups\); its groups are 'a', 'b', 'c'"),
        ({"test_groups": ["d"]}, "no group 'd'; its groups are 'a', 'b', 'c'"),
        ({"test_groups": ["a"], "train_groups": ["a", "b"]}, "group 'a' is in test and in train"),
        ({"train_groups": ["a", "b", "c"]}, "nobody is left to test on"),
        ({"test_groups": ["a"], "validation_groups": ["b"], "validation_users": 1}, "exclude each other"),
        ({"test_groups": ["a"], "validation_users": 12}, "12 validation users cannot be set aside: 12 of 12"),
        ({"test_groups": ["a"], "validation_users": -1}, "-1 validation users cannot be set aside"),
        ({"test_groups": ["a", "b", "c"], "validation_users": 1}, "cannot be set aside: 0 of 0"),
        ({"test_groups": ["c", "b"], "validation_users": 1}, "nothing is left for training"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(
    table: Dataset, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(RatingError, match=message):
        split(table, **arguments)  # type: ignore[arg-type]


def test_groups_are_for_tables(flickr_aes: Dataset) -> None:
    with pytest.raises(RatingError, match="flickr-aes has no groups of users; leave out the train groups"):
        split(flickr_aes, train_groups=["a"])


def test_what_is_written_names_nobody(flickr_aes: Dataset) -> None:
    parts = split(flickr_aes, validation_users=1, seed=5)
    record = json.loads(json.dumps(parts.to_json()))
    assert (record["data"], record["seed"], record["rating_scale"]) == ("flickr-aes", 5, [1, 5])
    for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
        assert part is not None
        assert record[name]["users"] == [person_digest(user) for user in part.users]
        assert record[name]["images"] == [image_name_digest(image) for image in part.images]
        assert record[name]["ratings"] == len(part)
    text = json.dumps(record) + str(parts)
    assert not any(user in text for user in flickr_aes.raw_counts)
    assert len(set(map(image_name_digest, flickr_aes.table.images))) == len(flickr_aes.table.images)
