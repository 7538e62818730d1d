"""Folders of ratings, and the statistics of their pictures that are kept between runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.errors import ImageError, OutputError, PiaaWarning, RatingError
from piaa_sdk.finetune.statistics_network import StatisticsNetwork
from piaa_sdk.images import load_image
from piaa_sdk.rating_scale import RatingScale
from training.data.images import collect_statistics, measure_statistics, settings_digest
from training.data.ratings import person_digest, picture_digest, read_rating_table

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESSING = Preprocessing(
    size=32,
    fit="squash",
    resample="bicubic",
    draft_factor=2,
    background=(255, 255, 255),
    decoding_rule=DECODING_RULE,
)
USERS = "user,group\nann,a\nbob,a\neve,b\n"
RATINGS = "user,image,score\nbob,images/2.png,5\nann,images/1.png,3\nann,images/2.png,4\neve,images/3.png,7\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (40, 30), (60 * number, 20, 200)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "users.csv").write_text(USERS)
    (tmp_path / "ratings.csv").write_text(RATINGS)
    return tmp_path


@pytest.fixture(scope="module")
def network() -> StatisticsNetwork:
    torch.manual_seed(0)
    return StatisticsNetwork()


def test_table_is_sorted_by_user_then_image(folder: Path) -> None:
    table = read_rating_table(folder)
    assert (table.users, table.groups) == (("ann", "bob", "eve"), ("a", "a", "b"))
    assert table.images == ("images/1.png", "images/2.png", "images/3.png")
    assert table.user_index.tolist() == [0, 0, 1, 2]
    assert table.image_index.tolist() == [0, 1, 1, 2]
    assert table.ratings.tolist() == [3, 4, 5, 7]
    assert table.mean_ratings().tolist() == [3, 4.5, 7]
    assert table.paths() == [folder / "images" / f"{number}.png" for number in (1, 2, 3)]
    by_user = [(user, images.tolist(), scores.tolist()) for user, images, scores in table.by_user()]
    assert by_user == [("ann", [0, 1], [3, 4]), ("bob", [1], [5]), ("eve", [2], [7])]
    assert str(table) == "4 ratings of 3 images by 3 users of groups a, b"


def test_groups_keep_their_people_and_pictures_only(folder: Path) -> None:
    """Unseen people and unseen pictures: what another group rated must not come along."""
    table = read_rating_table(folder, {"b"})
    assert (table.users, table.images, table.ratings.tolist()) == (("eve",), ("images/3.png",), [7])
    assert (table.user_index.tolist(), table.image_index.tolist()) == ([0], [0])
    with pytest.raises(RatingError, match="no group 'c'; its groups are 'a', 'b'"):
        read_rating_table(folder, {"a", "c"})


def test_everybody_is_one_group_without_a_file_of_users(folder: Path) -> None:
    (folder / "users.csv").unlink()
    assert set(read_rating_table(folder).groups) == {"all"}


def test_repeated_ratings_are_merged_to_their_mean_and_counted(folder: Path) -> None:
    with (folder / "ratings.csv").open("a") as file:
        file.write("ann,images/1.png,3\nann,./images/2.png,6\n")
    table = read_rating_table(folder)
    assert table.ratings.tolist() == [3, 5, 5, 7]
    assert (table.report.merged, table.report.contradictory, table.report.absent) == (2, 1, 0)
    assert "2 repeated ones merged (1 contradictory)" in str(table)


def test_ratings_of_absent_pictures_are_left_out_and_counted(folder: Path) -> None:
    (folder / "images" / "2.png").unlink()
    table = read_rating_table(folder)
    assert (table.users, table.images) == (("ann", "eve"), ("images/1.png", "images/3.png"))
    assert table.report.absent == 2
    assert "2 without a picture left out" in str(table)


def test_files_of_spreadsheets_are_read(folder: Path) -> None:
    """A byte order mark, CRLF, other columns in another order and blank lines are no reason to fail."""
    text = "score,note,image,user\r\n3,x,images/1.png,ann\r\n\r\n5,,images/2.png,bob\r\n"
    (folder / "ratings.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_rating_table(folder).ratings.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("user,image\nann,images/1.png\n", "no column 'score'"),
        ("", "no column 'user'"),
        ("user,image,score\n", "no rating is left"),
        ("user,image,score\nann,1.png,3\n", r"no rating is left \(1 name pictures that are not in"),
        (
            "user,image,score\nann,images/1.png,3\nann,images/2.png,good\n",
            "line 3: score 'good' is not a number",
        ),
        ("user,image,score\nann,images/1.png,nan\n", "line 2: score 'nan' is not finite"),
        ("user,image,score\nann,images/1.png,\n", "line 2: score is empty"),
        ("user,image,score\nann,images/1.png\n", "line 2: score is empty"),
        ("user,image,score\nann,images/1.png,8\n", "line 2: score 8 lies outside the scale 1 to 7"),
        ("user,image,score\ntom,images/1.png,3\n", "line 2: user 'tom' is not in users.csv"),
        (
            "user,image,score\nann,../images/1.png,3\n",
            "line 2: image '../images/1.png' must be a path inside",
        ),
        ("user,image,score\nann,/etc/hosts,3\n", "line 2: image '/etc/hosts' must be a path inside"),
    ],
)
def test_what_cannot_be_understood_is_an_error_with_its_line(
    folder: Path, ratings: str, message: str
) -> None:
    (folder / "ratings.csv").write_text(ratings)
    with pytest.raises(RatingError, match=message):
        read_rating_table(folder, scale=RatingScale(1, 7))


def test_a_user_is_in_one_group(folder: Path) -> None:
    (folder / "users.csv").write_text(USERS + "ann,b\n")
    with pytest.raises(RatingError, match="line 5: user 'ann' is in group 'a' and in 'b'"):
        read_rating_table(folder)


def test_files_that_cannot_be_read_are_errors(folder: Path) -> None:
    (folder / "ratings.csv").write_bytes(b"user,image,score\n\xff\xfe,images/1.png,3\n")
    with pytest.raises(RatingError, match="cannot be read as UTF-8 CSV"):
        read_rating_table(folder)
    (folder / "ratings.csv").unlink()
    with pytest.raises(RatingError, match="no such file"):
        read_rating_table(folder)


def test_digests_tell_people_and_pictures_apart(folder: Path) -> None:
    table = read_rating_table(folder)
    assert table.person_digests() == tuple(person_digest(user) for user in ("ann", "bob", "eve"))
    assert len(set(table.person_digests())) == len(set(table.picture_digests())) == 3
    content = (folder / "images" / "1.png").read_bytes()
    assert table.picture_digests()[0] == picture_digest(content) == hashlib.sha256(content).hexdigest()


def test_digests_never_change() -> None:
    """Bundles hold them: with other digests, people a model was trained on would pass as unseen."""
    assert person_digest("ann") == "5592530ebde2c52ed6ec99050830d7f53aebbe6fafe34eef4d35e0ead91ef40f"
    assert person_digest("Zoe\u0308") == person_digest("Zo\u00eb"), "one name in two spellings of Unicode"


def test_statistics_come_in_the_order_of_the_paths(folder: Path, network: StatisticsNetwork) -> None:
    paths = read_rating_table(folder).paths()
    found = collect_statistics([*paths, paths[0]], network, PREPROCESSING, batch_size=2)
    expected = [measure_statistics(network, load_image(path, PREPROCESSING)[None])[0] for path in paths]
    assert found.dtype == np.float32
    assert found.shape == (4, 4128)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(found[3], found[0])
    assert collect_statistics([], network, PREPROCESSING).shape == (0, 4128)


def test_what_was_measured_is_kept(folder: Path, network: StatisticsNetwork, tmp_path: Path) -> None:
    """A second run passes nothing through the network; a new picture alone is measured."""
    paths, cache = read_rating_table(folder).paths(), tmp_path / "cache"
    measured: list[tuple[int, int]] = []

    def collect(wanted: list[Path], preprocessing: Preprocessing = PREPROCESSING) -> np.ndarray:
        measured.clear()
        return collect_statistics(
            wanted,
            network,
            preprocessing,
            cache=cache,
            batch_size=1,
            progress=lambda done, total: measured.append((done, total)),
        )

    first = collect(paths[:2])
    assert measured == [(1, 2), (2, 2)]
    second = collect(paths[::-1])
    assert measured == [(1, 1)]
    assert np.array_equal(second[::-1][:2], first)
    moved = folder / "images" / "other-name.png"
    paths[0].rename(moved)
    collect([moved])
    assert measured == []
    collect([moved], Preprocessing(48, "squash", "bicubic", 2, (255, 255, 255), DECODING_RULE))
    assert measured == [(1, 1)], "another size gives other statistics"


def test_settings_are_told_apart(network: StatisticsNetwork) -> None:
    torch.manual_seed(9)
    assert settings_digest(network, PREPROCESSING) == settings_digest(network, PREPROCESSING)
    assert settings_digest(network, PREPROCESSING) != settings_digest(StatisticsNetwork(), PREPROCESSING)


def test_damaged_statistics_are_measured_again(
    folder: Path, network: StatisticsNetwork, tmp_path: Path
) -> None:
    paths, cache = read_rating_table(folder).paths(), tmp_path / "cache"
    first = collect_statistics(paths, network, PREPROCESSING, cache=cache)
    [shard] = cache.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.warns(PiaaWarning, match="is damaged"):
        again = collect_statistics(paths, network, PREPROCESSING, cache=cache)
    assert np.array_equal(again, first)
    assert np.array_equal(collect_statistics(paths, network, PREPROCESSING, cache=cache), first)


def test_unreadable_pictures_are_named(folder: Path, network: StatisticsNetwork) -> None:
    bad = folder / "images" / "bad.jpg"
    bad.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        collect_statistics([bad], network, PREPROCESSING)
    with pytest.raises(ImageError, match=r"absent\.jpg: cannot be read"):
        collect_statistics([bad.with_name("absent.jpg")], network, PREPROCESSING)


def test_a_cache_that_cannot_be_written_is_our_error(folder: Path, network: StatisticsNetwork) -> None:
    with pytest.raises(OutputError, match="rows cannot be kept"):
        collect_statistics(
            read_rating_table(folder).paths(), network, PREPROCESSING, cache=folder / "ratings.csv"
        )


def test_a_picture_that_went_away_is_named_when_digests_are_taken(folder: Path) -> None:
    table = read_rating_table(folder)
    (folder / "images" / "2.png").unlink()
    with pytest.raises(ImageError, match=r"2\.png: cannot be read: No such file"):
        table.picture_digests()
