"""Profiles: what is stored comes back, whatever happens while it is written."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import unicodedata
import warnings
import zipfile
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from piaa_sdk import files
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import (
    OutputError,
    PiaaWarning,
    ProfileError,
    ProfileExistsError,
    ProfileFormatError,
    ProfileMismatchError,
    ProfileNotFoundError,
    RatingError,
)
from piaa_sdk.profiles import (
    ProfileStore,
    UserProfile,
    check_model,
    check_same_ratings,
    check_scale,
    clean_name,
    merge_ratings,
    portable_name,
)
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.results import Adaptation, SupportSet, Verdict
from piaa_sdk.user_profile import MAX_TENSORS_BYTES, decode, encode, unzip_members, zip_members

GOLDEN = Path(__file__).parent / "golden"
CREATED_AT = "2026-11-23T12:00:00+00:00"
DIM = 4
posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


def make_profile(
    user: str = "alice",
    ratings: dict[str, float] | None = None,
    *,
    embeddings: Any = None,
    created_at: str = CREATED_AT,
    **changes: Any,
) -> UserProfile:
    ratings = ratings or {"/photos/a.jpg": 1.0, "/photos/sub/b.jpg": 4.5, "c.jpg": 3.0}
    scale = RatingScale(1, 5)
    values = np.array(list(ratings.values()))
    if embeddings is None:
        embeddings = [vector_of(name) for name in ratings]
    support = SupportSet(np.array(embeddings, np.float32), scale.to_unit(values), tuple(ratings))
    profile = UserProfile(
        user=user,
        kind="closed-form",
        scale=scale,
        bundle_id="piaa-tiny",
        bundle_revision="r" * 64,
        embedding_id="e" * 64,
        head={
            "weights": np.linspace(-1, 1, DIM),
            "count": np.array(3),
            "table": np.ones((2, 0, 3), np.float32),
        },
        support=support,
        ratings=values,
        adaptation=Adaptation(3, 2, 0.5, 1.0, (-0.25, 0.75), Verdict.NOT_ENOUGH),
        created_at=created_at,
    )
    return dataclasses.replace(profile, **changes)


def vector_of(name: str) -> Any:
    """An embedding that depends on the file's name only, exact in float16."""
    return np.frombuffer(hashlib.sha256(Path(name).name.encode()).digest()[:DIM], np.uint8) / 16


def assert_same(first: UserProfile, second: UserProfile) -> None:
    """Compare everything, floats to the last bit."""
    for name in ("user", "kind", "scale", "bundle_id", "bundle_revision", "embedding_id", "adaptation"):
        assert getattr(first, name) == getattr(second, name)
    assert (first.created_at, first.format_version) == (second.created_at, second.format_version)
    assert first.support.images == second.support.images
    for one, other in (
        (first.ratings, second.ratings),
        (first.support.ratings, second.support.ratings),
        (first.support.embeddings, second.support.embeddings),
        *((first.head[name], second.head[name]) for name in {*first.head, *second.head}),
    ):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")


def files_of(store: ProfileStore) -> list[str]:
    paths = store.folder.rglob("*")
    return sorted(path.name for path in paths if path.is_file() and path.name != ".lock")


# Names


@pytest.mark.parametrize(
    "name",
    [
        "alice",
        "Alice",
        "Åsa Öberg",
        "田中さくら",
        "👩‍🎨",
        "../../x",
        "..",
        ".",
        "/etc/passwd",
        "C:\\x",
        "a/b",
        "con",
        "NUL",
        "aux.txt",
        "dots...",
        "-rf",
        "~",
        '*?"<>|:',
        "x" * 200,
        "名" * 200,
        "%s %n {}",
        "profile.json",
        ".lock",
    ],
)
def test_any_readable_name_is_a_person(store: ProfileStore, tmp_path: Path, name: str) -> None:
    """A name is data: it never leads out of the store, and no two share a folder."""
    others = ["bob", "ALICE", "alice-", "user"]
    for other in others:
        store.save(make_profile(other))
    profile = make_profile(name)
    store.save(profile)
    assert_same(store.load(name), profile)
    assert sorted(store.names()) == sorted([*others, name])
    folders = [path.name for path in store.folder.iterdir() if path.is_dir()]
    assert len({folder.casefold() for folder in folders}) == len(others) + 1
    assert all(folder.isascii() and len(folder) < 64 for folder in folders)
    assert [path.name for path in tmp_path.iterdir()] == ["profiles"]
    exported = store.export_file(name, tmp_path)
    assert exported.parent == tmp_path
    assert exported.name == portable_name(name)
    store.delete(name)
    assert sorted(store.names()) == sorted(others)


@pytest.mark.parametrize(
    "name", ["", "   ", "\t\n", "\u200b", "a\nb", "a\0b", "a\x1b[2J", "a\u2028b", "\ud800", "x" * 201]
)
def test_names_nobody_could_read_are_refused(store: ProfileStore, name: str) -> None:
    for refuse in (clean_name, portable_name, store.load, store.delete, store.backups, make_profile):
        with pytest.raises(ProfileError, match="name of a user") as caught:
            refuse(name)
        assert str(caught.value).isprintable()
    assert not store.folder.exists()


def test_two_spellings_of_one_name_are_one_person(store: ProfileStore) -> None:
    store.save(make_profile(unicodedata.normalize("NFD", "Zoë")))
    assert store.load(" Zoë ").user == unicodedata.normalize("NFC", "Zoë")
    assert store.names() == ["Zoë"]


@given(st.text(max_size=30))
def test_cleaning_a_name_twice_changes_nothing(name: str) -> None:
    try:
        cleaned = clean_name(name)
    except ProfileError:
        return
    assert clean_name(cleaned) == cleaned
    assert clean_name(unicodedata.normalize("NFD", cleaned)) == cleaned


@pytest.mark.parametrize(
    ("user", "name"),
    [("Alice B.", "alice-b.piaa"), ("../../x", "x.piaa"), ("Åsa", "asa.piaa")],
)
def test_portable_names_are_readable(user: str, name: str) -> None:
    assert portable_name(user) == name


@pytest.mark.parametrize("user", ["con", "LPT1", "lpt¹", "田中", "..."])
def test_portable_names_work_on_windows(user: str) -> None:
    assert portable_name(user).split("-")[0] in ("con", "lpt1", "user")
    assert len(portable_name(user)) > len("-0123456789abcdef.piaa")


# Saving and loading


def test_what_is_saved_is_loaded(store: ProfileStore) -> None:
    profile = make_profile()
    store.save(profile)
    assert_same(ProfileStore(store.folder).load("alice"), profile)


def test_the_default_folder_is_the_users(piaa_home: Path) -> None:
    ProfileStore().save(make_profile())
    assert ProfileStore().folder == piaa_home / "profiles"
    assert ProfileStore().names() == ["alice"]


values = st.floats(1, 5)
vectors = hnp.arrays(np.float32, (3, DIM), elements=st.floats(-(2.0**99), 2.0**99, width=32))
heads = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    hnp.arrays(
        st.sampled_from([">f8", "<f4", "f2", "i8", ">i2", "u1", "?"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    max_size=3,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    ratings=st.tuples(values, values, values).filter(lambda ratings: np.ptp(ratings) > 0),
    embeddings=vectors,
    images=st.tuples(st.text(), st.text(), st.text()),
    head=heads,
)
def test_saving_and_loading_is_the_identity(
    ratings: tuple[float, ...], embeddings: Any, images: tuple[str, ...], head: dict[str, Any]
) -> None:
    """To the last bit, for numbers that float16 cannot say and names that are no UTF-8, too."""
    scale = RatingScale(1, 5)
    support = SupportSet(embeddings, scale.to_unit(np.array(ratings)), images)
    head = {name: tensor.transpose() for name, tensor in head.items()}
    profile = dataclasses.replace(
        make_profile(), support=support, ratings=np.array(ratings), head=head, adaptation=None
    )
    loaded = decode(*encode(profile))
    native = {name: tensor.astype(tensor.dtype.newbyteorder("=")) for name, tensor in head.items()}
    assert_same(loaded, dataclasses.replace(profile, head=native))
    assert encode(loaded) == encode(profile)


def test_embeddings_take_two_bytes_a_number(store: ProfileStore) -> None:
    """What a backbone puts out is rounded to float16; anything else is kept as it is."""
    half = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float16).astype(np.float32)
    tensors = safetensors.numpy.load(encode(make_profile(embeddings=half))[1])
    assert tensors["support.embeddings"].dtype == np.float16
    tensors = safetensors.numpy.load(encode(make_profile(embeddings=half + 1e-6))[1])
    assert tensors["support.embeddings"].dtype == np.float32


def test_parts_that_contradict_each_other_are_refused() -> None:
    profile = make_profile()
    for changes in (
        {"ratings": np.array([1.0, 4.5, 3.1])},
        {"ratings": np.array([1.0, 4.5])},
        {"scale": RatingScale(1, 7)},
        {"scale": RatingScale(2, 5)},
        {"head": {"weights": np.array([1.0, math.nan])}},
        {"head": {"weights": np.array(["a"])}},
        {"head": {"weights": np.array([1j])}},
        {"kind": ""},
        {"embedding_id": ""},
        {"created_at": "yesterday"},
        {"created_at": "2026-11-23T12:00:00"},  # of which time zone?
        {"format_version": 2},
    ):
        with pytest.raises(ProfileError):
            dataclasses.replace(profile, **changes)
    with pytest.raises(ProfileError, match="finite"):
        encode(make_profile(adaptation=Adaptation(3, 2, math.nan, 1.0, None, Verdict.LEARNED)))


def test_a_profile_too_large_to_be_read_back_is_not_written(store: ProfileStore) -> None:
    head = {"weights": np.zeros(MAX_TENSORS_BYTES // 8, np.float64)}
    with pytest.raises(ProfileError, match="128 MB"):
        store.save(make_profile(head=head))
    assert store.names() == []


def test_nobody_of_that_name(store: ProfileStore) -> None:
    with pytest.raises(ProfileNotFoundError, match="nobody is stored yet; make one with: piaa personalize"):
        store.load("alice")
    assert store.names() == []
    assert store.backups("alice") == []
    store.save(make_profile("Alice"))
    for use in (store.load, store.delete, lambda name: store.export_file(name, store.folder / "x")):
        with pytest.raises(ProfileNotFoundError, match="no profile of 'alice'; stored are 'Alice'"):
            use("alice")


def test_names_are_sorted_as_people_do(store: ProfileStore) -> None:
    for name in ("bob", "Carol", "alice", "Alice"):
        store.save(make_profile(name))
    assert store.names() == ["Alice", "alice", "bob", "Carol"]


def test_deleting_forgets_everything(store: ProfileStore) -> None:
    """Ratings are personal: nothing of them stays, backups included."""
    store.save(make_profile())
    store.save(make_profile(ratings={"x.jpg": 1, "y.jpg": 2}))
    store.save(make_profile("bob"))
    assert len(store.backups("alice")) == 1
    store.delete("alice")
    assert store.names() == ["bob"]
    assert len(files_of(store)) == 2
    with pytest.raises(ProfileNotFoundError):
        store.delete("alice")


def test_a_half_done_deletion_is_finished_by_the_next_writer(store: ProfileStore) -> None:
    store.save(make_profile())
    leftover = store.folder / ".deleted-0123"
    shutil.copytree(next(store.folder.glob("alice-*")), leftover)
    assert store.names() == ["alice"]
    store.save(make_profile("bob"))
    assert not leftover.exists()


# Backups: ratings are never lost


def test_replacing_other_ratings_keeps_the_old_ones(store: ProfileStore) -> None:
    first = make_profile()
    store.save(first)
    changed = make_profile(ratings={"/photos/a.jpg": 2.0, "/photos/sub/b.jpg": 4.5, "c.jpg": 3.0})
    store.save(changed)
    (backup,) = store.backups("alice")
    assert backup.name.startswith("20261123T120000Z-")
    assert_same(store.load("alice"), changed)
    store.import_file(backup, replace=True)
    assert_same(store.load("alice"), first)


def test_refining_makes_no_backup_unless_asked(store: ProfileStore) -> None:
    """Nothing is lost when all old ratings are in the new profile."""
    ratings = {"a.jpg": 1.0, "b.jpg": 2.0}
    store.save(make_profile(ratings=ratings))
    store.save(make_profile(ratings=ratings | {"c.jpg": 3.0}))
    store.save(make_profile(ratings=ratings | {"c.jpg": 3.0}, kind="another"))
    assert store.backups("alice") == []
    store.save(make_profile(ratings=ratings | {"c.jpg": 3.0, "d.jpg": 1.5}), backup=True)
    assert len(store.backups("alice")) == 1
    assert len(files_of(store)) == 3


def test_backups_are_dated_and_in_order(store: ProfileStore) -> None:
    dates = ["2026-01-05T10:00:00+00:00", "2026-01-05T10:30:00+01:00", "2025-12-31T00:00:00+00:00"]
    for number, date in enumerate(dates):
        store.save(make_profile(ratings={"a.jpg": 1.0, "b.jpg": 2.0 + number}, created_at=date))
    store.save(make_profile())
    dated = [path.name.split("-")[0] for path in store.backups("alice")]
    assert dated == ["20251231T000000Z", "20260105T093000Z", "20260105T100000Z"]


def test_the_same_profile_is_backed_up_once(store: ProfileStore) -> None:
    for _ in range(3):
        store.save(make_profile())
        store.save(make_profile(ratings={"x.jpg": 1.0, "y.jpg": 2.0}))
    assert len(store.backups("alice")) == 2


def test_two_processes_that_add_ratings_lose_none(store: ProfileStore) -> None:
    """Both read the same profile, each adds one rating: the later writer does not know of the other's."""
    ratings = {"a.jpg": 1.0, "b.jpg": 2.0}
    store.save(make_profile(ratings=ratings))
    store.save(make_profile(ratings=ratings | {"c.jpg": 3.0}))
    store.save(make_profile(ratings=ratings | {"d.jpg": 4.0}))
    (backup,) = store.backups("alice")
    assert "c.jpg" in decode(*unzip_members(backup.read_bytes())).support.images


@pytest.mark.parametrize("damage", ["header", "tensors", "newer", "no tensors"])
def test_what_cannot_be_read_is_kept_too(store: ProfileStore, damage: str) -> None:
    store.save(make_profile())
    (folder,) = store.folder.glob("alice-*")
    (tensors,) = folder.glob("*.safetensors")
    header = folder / "profile.json"
    before = tensors.read_bytes()
    if damage == "header":
        header.write_bytes(b"{")
    elif damage == "newer":
        header.write_text(header.read_text().replace('"format_version": 1', '"format_version": 9'))
    elif damage == "tensors":
        tensors.write_bytes(before[:-1])
    else:
        tensors.unlink()
    after = header.read_bytes()
    store.save(make_profile())
    assert_same(store.load("alice"), make_profile())
    (backup,) = store.backups("alice")
    expected = {"tensors": before[:-1], "no tensors": b""}.get(damage, before)
    assert unzip_members(backup.read_bytes()) == (after, expected)


# Damage


def damaged(store: ProfileStore, change: Any) -> str:
    """Return the message of loading a profile whose header was changed."""
    store.save(make_profile())
    (header,) = store.folder.glob("alice-*/profile.json")
    data = json.loads(header.read_text())
    change(data)
    header.write_text(json.dumps(data))
    with pytest.raises(ProfileFormatError) as caught:
        store.load("alice")
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format_version=2), "pip install --upgrade piaa-sdk"),
        (lambda data: data.update(format_version="1"), "format_version"),
        (lambda data: data.update(format_version=True), "format_version"),
        (lambda data: data.update(format_version=0), "format_version"),
        (lambda data: data.pop("format_version"), "format_version"),
        (lambda data: data.update(type="other"), "not a profile"),
        (lambda data: data.pop("user"), "user must be text"),
        (lambda data: data.update(user="bob"), "profile of 'bob'"),
        (lambda data: data.update(user=""), "name of a user"),
        (lambda data: data.update(kind=3), "kind must be text"),
        (lambda data: data.update(scale=[5, 1]), "low below high"),
        (lambda data: data.update(scale=[1]), "scale"),
        (lambda data: data.update(scale=["1", "5"]), "scale"),
        (lambda data: data.update(scale=[1, 10**400]), "scale"),
        (lambda data: data.update(scale=[2, 3]), "scale"),
        (lambda data: data.update(created_at="?"), "created_at"),
        (lambda data: data.update(adaptation=[]), "adaptation"),
        (lambda data: data["adaptation"].update(verdict="great"), "verdict"),
        (lambda data: data["adaptation"].update(verdict=[]), "verdict"),
        (lambda data: data["adaptation"].pop("shots"), "adaptation"),
        (lambda data: data["adaptation"].update(interval=[1]), "interval"),
        (lambda data: data["adaptation"].update(prior_accuracy="high"), "prior_accuracy"),
        (lambda data: data.update(ratings={}), "ratings"),
        (lambda data: data.update(ratings=[["a.jpg"]]), "ratings"),
        (lambda data: data.update(ratings=[[1, 2]]), "ratings"),
        (lambda data: data.update(ratings=[["a.jpg", None]]), "ratings"),
        (lambda data: data["ratings"].pop(), "do not match"),
        (lambda data: data["ratings"][0].__setitem__(1, math.inf), "damaged JSON"),
        (lambda data: data.pop("tensors"), "tensors"),
        (lambda data: data["tensors"].update(sha256="../../../etc/passwd"), "checksum"),
        (lambda data: data["tensors"].update(sha256="0" * 64), "missing"),
    ],
)
def test_a_damaged_header_is_an_error(store: ProfileStore, change: Any, message: str) -> None:
    text = damaged(store, change)
    assert message in text
    assert text.isprintable()


def test_files_of_two_profiles_do_not_pass_as_one(store: ProfileStore) -> None:
    """As after a copy that was stopped half way: the checksum tells."""
    store.save(make_profile())
    store.save(make_profile("bob", head={"weights": np.zeros(DIM)}))
    (mine,) = store.folder.glob("alice-*/*.safetensors")
    (other,) = store.folder.glob("bob-*/*.safetensors")
    shutil.copy(other, mine)
    with pytest.raises(ProfileFormatError, match="checksum"):
        store.load("alice")
    assert store.load("bob").user == "bob"


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"support.embeddings": np.ones((3, DIM), np.float64)},
        {"support.embeddings": np.ones((2, DIM), np.float32)},
        {"support.embeddings": np.ones(3, np.float32)},
        {"support.embeddings": np.full((3, DIM), np.nan, np.float32)},
        {"support.embeddings": np.ones((3, DIM), np.float32), "evil": np.ones(1)},
        {"support.embeddings": np.ones((3, DIM), np.float32), "head.w": np.array([np.inf])},
        {"support.embeddings": np.ones((3, DIM), np.float32), "head.w": np.array([1], np.complex64)},
    ],
)
def test_wrong_tensors_are_an_error(tensors: dict[str, Any]) -> None:
    with pytest.raises(ProfileFormatError):
        decode(*with_tensors(safetensors.numpy.save(tensors)))


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F64", "NONE"])
def test_tensors_that_numpy_does_not_know_are_an_error(dtype: str) -> None:
    head = json.dumps({"support.embeddings": {"dtype": dtype, "shape": [1], "data_offsets": [0, 2]}}).encode()
    with pytest.raises(ProfileFormatError, match="damaged tensors"):
        decode(*with_tensors(len(head).to_bytes(8, "little") + head + b"\0\0"))


def with_tensors(tensors: bytes) -> tuple[bytes, bytes]:
    """Pair tensors with a header that vouches for them."""
    header = json.loads(encode(make_profile())[0])
    header["tensors"] = {"sha256": hashlib.sha256(tensors).hexdigest()}
    return json.dumps(header).encode(), tensors


def test_a_damaged_profile_hides_no_other(store: ProfileStore) -> None:
    store.save(make_profile("alice"))
    store.save(make_profile("bob"))
    (store.folder / "empty").mkdir()
    (store.folder / "stray.txt").touch()
    shutil.copytree(next(store.folder.glob("bob-*")), store.folder / "copy of bob")
    next(store.folder.glob("alice-*/profile.json")).write_bytes(b"\xff\0")
    with pytest.warns(PiaaWarning) as caught:
        assert store.names() == ["bob"]
    assert len(caught) == 2
    assert "alice-" in str(caught[0].message)
    assert "does not belong in this folder" in str(caught[1].message)
    with pytest.raises(ProfileNotFoundError, match="stored are 'bob'"):
        store.load("carol")
    store.delete("alice")
    shutil.rmtree(store.folder / "copy of bob")
    assert store.names() == ["bob"]


def test_folders_in_the_place_of_files(store: ProfileStore) -> None:
    store.save(make_profile())
    header = next(store.folder.glob("alice-*/profile.json"))
    header.unlink()
    header.mkdir()
    with pytest.raises(ProfileError, match="a folder, not a file"):
        store.load("alice")
    with pytest.raises(OutputError, match="a folder, not a file"):
        store.save(make_profile())


def test_a_store_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ProfileStore(tmp_path / "file" / "profiles")
    assert store.names() == []
    with pytest.raises(OutputError, match="'alice' could not be changed"):
        store.save(make_profile())


# Faults while writing

PREAMBLE = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
import test_profiles as this
store = this.ProfileStore(Path(sys.argv[1]))
"""


def start(store: ProfileStore, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, str(store.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@posix
@pytest.mark.parametrize("limit", [0, 1000, 2000, 9000])
def test_a_full_disk_leaves_the_old_profile(store: ProfileStore, limit: int) -> None:
    """The operating system refuses to write more than so many bytes into a file, as a full disk does.

    The least stops the backup of the old profile, more the tensors, the most the header alone.
    """
    old = make_profile()
    store.save(old)
    before = files_of(store)
    code = f"""
import resource
ratings = {{f"{{number}}.jpg": 1 + number % 5 for number in range(300)}}
big = this.make_profile(head={{"weights": this.np.zeros(100)}}, ratings=ratings)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    store.save(big)
except this.OutputError as error:
    print(error)
"""
    output, errors = start(store, code).communicate(timeout=60)
    assert not errors
    assert "could not be changed" in output
    assert os.strerror(errno.EFBIG) in output
    assert_same(store.load("alice"), old)
    assert set(files_of(store)) - set(before) <= {path.name for path in store.backups("alice")}


WRITE_IN_A_LOOP = """
import itertools
profiles = [
    this.make_profile(
        head={"weights": this.np.full(20_000, float(day))},
        created_at=f"2026-01-0{day}T00:00:00+00:00",
    )
    for day in (1, 2, 3)
]
for profile in itertools.cycle(profiles):
    store.save(profile)
    print("saved", flush=True)
"""


@posix
def test_a_killed_writer_leaves_a_whole_profile(store: ProfileStore) -> None:
    for round_number in range(4):
        process = start(store, WRITE_IN_A_LOOP)
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        time.sleep(0.013 * (round_number + 1))
        process.kill()
        process.communicate(timeout=60)
        profile = store.load("alice")
        weights = profile.head["weights"]
        assert np.ptp(weights) == 0
        assert profile.created_at.startswith(f"2026-01-0{weights[0]:.0f}")
    store.save(profile)
    assert len(files_of(store)) == 2  # nothing half written stays for long


@posix
def test_ctrl_c_leaves_a_whole_profile(store: ProfileStore) -> None:
    process = start(store, WRITE_IN_A_LOOP)
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert np.ptp(store.load("alice").head["weights"]) == 0
    assert not [name for name in files_of(store) if name.endswith(".partial")]


def test_writers_and_readers_at_once_never_see_a_torn_profile(store: ProfileStore) -> None:
    """Two processes write two different profiles over and over while this one reads."""
    store.save(make_profile(head={"weights": np.full(20_000, 1.0)}, created_at="2026-01-01T00:00:00+00:00"))
    writers = [start(store, WRITE_IN_A_LOOP) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "saved\n"
        seen: dict[str, int] = {}
        deadline = time.monotonic() + 60
        while (len(seen) < 2 or sum(seen.values()) < 300) and time.monotonic() < deadline:
            profile = store.load("alice")
            weights = profile.head["weights"]
            assert np.ptp(weights) == 0
            assert profile.created_at.startswith(f"2026-01-0{weights[0]:.0f}")
            seen[profile.created_at] = seen.get(profile.created_at, 0) + 1
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=60)
    assert len(seen) > 1


def test_a_reader_between_two_files_reads_again(store: ProfileStore) -> None:
    """It has read the header when a writer replaces both files: the tensors it looks for are gone."""
    store.save(make_profile())
    (tensors,) = store.folder.glob("alice-*/*.safetensors")
    away = tensors.rename(store.folder / "away")
    timer = threading.Timer(0.03, away.rename, [tensors])
    timer.start()
    assert_same(store.load("alice"), make_profile())
    timer.join()


def test_threads_of_one_process_take_turns(store: ProfileStore) -> None:
    def save(number: int) -> None:
        store.save(make_profile(ratings={f"{number}.jpg": 1.0, "x.jpg": 2.0}))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = {image for path in store.backups("alice") for image in images_in(path)}
    stored |= set(store.load("alice").support.images)
    assert stored == {"x.jpg", *(f"{number}.jpg" for number in range(8))}


def images_in(path: Path) -> tuple[str, ...]:
    return decode(*unzip_members(path.read_bytes())).support.images


def test_a_file_somebody_has_open_is_replaced_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to rename over an open file; that is played here, for the two times it is refused."""
    replace, refusals = (
        Path.replace,
        [PermissionError(errno.EACCES, "in use"), PermissionError(errno.EACCES, "in use")],
    )

    def replace_when_closed(source: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return replace(source, target)

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", replace_when_closed)
    files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Portable profiles


def test_a_portable_profile_travels(store: ProfileStore, tmp_path: Path) -> None:
    profile = make_profile()
    store.save(profile)
    path = store.export_file("alice", tmp_path / "to go.piaa")
    other = ProfileStore(tmp_path / "other")
    imported = other.import_file(path)
    stripped = dataclasses.replace(profile.support, images=("a.jpg", "b.jpg", "c.jpg"))
    assert_same(imported, dataclasses.replace(profile, support=stripped))
    assert_same(other.load("alice"), imported)
    other.import_file(path, user="Alice's friend")
    assert other.names() == ["alice", "Alice's friend"]


def test_a_portable_profile_names_no_folders(store: ProfileStore, tmp_path: Path) -> None:
    """Paths tell who somebody is and where their photos are."""
    ratings = {"/home/secret/a.jpg": 1.0, "C:\\Users\\secret\\b.jpg": 2.0, "secret/c.jpg": 3.0}
    store.save(make_profile(ratings=ratings))
    path = store.export_file("alice", tmp_path)
    assert b"secret" not in path.read_bytes()
    assert images_in(path) == ("a.jpg", "b.jpg", "c.jpg")


def test_a_portable_profile_holds_two_files(store: ProfileStore, tmp_path: Path) -> None:
    store.save(make_profile())
    with zipfile.ZipFile(store.export_file("alice", tmp_path)) as archive:
        assert archive.namelist() == ["profile.json", "profile.safetensors"]
        assert archive.testzip() is None
        assert json.loads(archive.read("profile.json"))["user"] == "alice"
        assert "head.weights" in safetensors.numpy.load(archive.read("profile.safetensors"))


def test_the_same_profile_gives_the_same_bytes_in_every_process(store: ProfileStore, tmp_path: Path) -> None:
    code = 'store.save(this.make_profile())\nstore.export_file("alice", sys.argv[2])\n'
    exported = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.piaa"
        subprocess.run(
            [sys.executable, "-c", PREAMBLE + code, str(tmp_path / f"store{seed}"), str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"},
            check=True,
            timeout=60,
        )
        exported.append(path.read_bytes())
    assert exported[0] == exported[1]


def test_exporting_overwrites_only_when_told(store: ProfileStore, tmp_path: Path) -> None:
    store.save(make_profile())
    path = tmp_path / "alice.piaa"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="is there already"):
        store.export_file("alice", path)
    assert path.read_bytes() == b"precious"
    store.export_file("alice", path, replace=True)
    assert images_in(path) == ("a.jpg", "b.jpg", "c.jpg")
    for impossible in (tmp_path / "no folder" / "x.piaa", "x\0.piaa", path / "x.piaa"):
        with pytest.raises(OutputError, match="cannot be written"):
            store.export_file("alice", impossible)


def test_importing_replaces_only_when_told(store: ProfileStore, tmp_path: Path) -> None:
    store.save(make_profile())
    path = store.export_file("alice", tmp_path)
    mine = make_profile(ratings={"x.jpg": 1.0, "y.jpg": 5.0})
    store.save(mine)
    with pytest.raises(ProfileExistsError, match="--replace"):
        store.import_file(path)
    assert_same(store.load("alice"), mine)
    with pytest.raises(ProfileError, match="name of a user"):
        store.import_file(path, user=" ")
    store.import_file(path, replace=True)
    assert any(images_in(backup) == ("x.jpg", "y.jpg") for backup in store.backups("alice"))


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's own, of names given twice
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


HEADER, TENSORS = encode(make_profile())
MEMBERS = (("profile.json", HEADER), ("profile.safetensors", TENSORS))


def test_a_profile_zipped_again_by_other_means_is_read(store: ProfileStore, tmp_path: Path) -> None:
    path = tmp_path / "again.piaa"
    path.write_bytes(zipped(*reversed(MEMBERS), method=zipfile.ZIP_DEFLATED))
    assert_same(store.import_file(path), make_profile())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip file"),
        (b"PK\x03\x04 but no more", "not a zip file"),
        (b"\x80\x04\x95" + bytes(100), "not a zip file"),
        (zipped(), "exactly|once each"),
        (zipped(MEMBERS[0]), "once each"),
        (zipped(*MEMBERS, ("evil.pkl", b"")), "once each"),
        (zipped(*MEMBERS, MEMBERS[0]), "once each"),
        (zipped(MEMBERS[0], MEMBERS[0]), "once each"),
        (zipped(("../profile.json", HEADER), MEMBERS[1]), "once each"),
        (zipped(("Profile.json", HEADER), MEMBERS[1]), "once each"),
        (zipped(("profile.json/", b""), MEMBERS[1]), "once each"),
        (zipped(*((f"{number:060}", b"") for number in range(100))), "once each"),
        (zipped(*MEMBERS, method=zipfile.ZIP_BZIP2), "oddly compressed"),
        (zipped(*MEMBERS, method=zipfile.ZIP_LZMA), "oddly compressed"),
        (zipped(MEMBERS[0], ("profile.safetensors", TENSORS + b"x")), "checksum"),
        (zipped(("profile.json", b"[]"), MEMBERS[1]), "not a profile"),
        (zipped(("profile.json", b"[" * 100_000), MEMBERS[1]), "damaged JSON"),
        (
            zipped(("profile.json", HEADER.replace(b'version": 1', b'version": 2')), MEMBERS[1]),
            "--upgrade piaa-sdk",
        ),
        (zipped(("profile.json", HEADER.replace(b'"alice"', b'"a\\u0007"')), MEMBERS[1]), "name of a user"),
        (zipped(*MEMBERS)[:-1], "not a zip file"),
        (zipped(*MEMBERS) + b"x", "not a zip file"),
        (zipped(*MEMBERS)[100:], "damaged zip"),
        (zipped(*MEMBERS).replace(b"closed-form", b"closed-Form"), "damaged zip"),
    ],
)
def test_a_bad_portable_profile_is_an_error_and_nothing_is_stored(
    store: ProfileStore, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.piaa"
    path.write_bytes(content)
    with pytest.raises(ProfileFormatError, match=message) as caught:
        store.import_file(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()
    assert store.names() == []


def test_zip_bombs_are_not_unpacked(store: ProfileStore, tmp_path: Path) -> None:
    """One declares its size; one lies about it; one has a table of contents of gigabytes once read."""
    big = zipped(
        MEMBERS[0], ("profile.safetensors", bytes(MAX_TENSORS_BYTES + 1)), method=zipfile.ZIP_DEFLATED
    )
    size = (MAX_TENSORS_BYTES + 1).to_bytes(4, "little")
    many = bytearray(zipped(*MEMBERS))
    many[-10:-6] = (50_000_000).to_bytes(4, "little")
    zip64 = zipped(*MEMBERS)
    zip64 = zip64[:-22] + b"PK\x06\x07" + bytes(16) + zip64[-22:]
    for name, content in {
        "larger than 128 MB": big,
        "damaged zip": big.replace(size, (1000).to_bytes(4, "little")),
        "once each": bytes(many),
        "exactly|once each": zip64,
    }.items():
        path = tmp_path / "bomb.piaa"
        path.write_bytes(content)
        with pytest.raises(ProfileFormatError, match=name):
            store.import_file(path)


def test_what_is_no_portable_profile_file(store: ProfileStore, tmp_path: Path) -> None:
    with pytest.raises(ProfileNotFoundError, match="no such file"):
        store.import_file(tmp_path / "missing.piaa")
    with pytest.raises(ProfileFormatError, match="a folder"):
        store.import_file(tmp_path)
    with pytest.raises(ProfileFormatError, match="not a possible file name"):
        store.import_file("x\0.piaa")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.piaa")
        with pytest.raises(ProfileFormatError, match="not a regular file"):
            store.import_file(tmp_path / "pipe.piaa")


def assert_profile_or_format_error(data: bytes) -> None:
    try:
        profile = decode(*unzip_members(data))
    except ProfileFormatError:
        return
    assert_same(decode(*encode(profile)), profile)


@settings(max_examples=200, deadline=None)
@example(b"PK\x05\x06" + bytes(18))
@given(st.binary(max_size=200))
def test_any_bytes_give_a_profile_or_a_format_error(data: bytes) -> None:
    assert_profile_or_format_error(data)


WHOLE = zip_members(HEADER, TENSORS)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3
    ),
    st.integers(0, 30),
)
def test_any_damage_gives_a_profile_or_a_format_error(changes: list[tuple[int, bytes]], cut: int) -> None:
    """Bytes changed anywhere, and sometimes the end cut off."""
    data = bytearray(WHOLE)
    for place, patch in changes:
        data[place : place + len(patch)] = patch
    assert_profile_or_format_error(bytes(data[: len(data) - (cut if cut < 5 else 0)]))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(TENSORS) - 1), st.binary(min_size=1, max_size=6))
def test_damaged_tensors_with_a_right_checksum(place: int, patch: bytes) -> None:
    """Somebody who writes the checksum anew: the parser of the tensors is on its own then."""
    tensors = TENSORS[:place] + patch + TENSORS[place + len(patch) :]
    assert_profile_or_format_error(zip_members(*with_tensors(tensors)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(json.loads(HEADER))), json_values)
def test_any_value_in_the_header(key: str, value: Any) -> None:
    header = json.loads(HEADER) | {key: value}
    assert_profile_or_format_error(zip_members(json.dumps(header).encode(), TENSORS))


# Merging


def merge(profile: UserProfile, ratings: dict[str, float]) -> Any:
    embeddings = np.array([vector_of(name) for name in ratings], np.float32)
    return merge_ratings(profile, list(ratings), np.array(list(ratings.values())), embeddings)


def test_new_ratings_are_added() -> None:
    """One rating, or several equal ones, can be added, though nobody could be known by them alone."""
    profile = make_profile(ratings={"a.jpg": 1.0, "b.jpg": 2.0})
    merged = merge(profile, {"c.jpg": 5.0, "d.jpg": 5.0})
    assert merged.images == ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    np.testing.assert_array_equal(merged.ratings, [1, 2, 5, 5])
    np.testing.assert_array_equal(merged.embeddings, [vector_of(name) for name in merged.images])
    assert merged.embeddings.dtype == np.float32
    assert (merged.added, merged.repeated, merged.changed) == (2, 0, ())


def test_a_file_that_grows_can_be_given_again() -> None:
    profile = make_profile(ratings={"a.jpg": 1.0, "b.jpg": 2.0})
    merged = merge(profile, {"a.jpg": 1.0, "b.jpg": 2.0, "c.jpg": 3.0})
    assert (merged.added, merged.repeated, merged.changed) == (1, 2, ())
    assert len(merged.images) == 3


def test_a_changed_mind_replaces_and_is_named() -> None:
    profile = make_profile(ratings={"a.jpg": 1.0, "b.jpg": 2.0})
    merged = merge(profile, {"a.jpg": 4.0})
    np.testing.assert_array_equal(merged.ratings, [4, 2])
    assert (merged.added, merged.repeated, merged.changed) == (0, 0, ("a.jpg",))


def test_a_photo_that_was_moved_is_known_by_its_embedding() -> None:
    profile = make_profile(ratings={"/old/a.jpg": 1.0, "/old/b.jpg": 2.0})
    merged = merge(profile, {"/new/a.jpg": 1.0, "/new/b.jpg": 3.0})
    assert merged.images == ("/new/a.jpg", "/new/b.jpg")
    assert (merged.added, merged.repeated, merged.changed) == (0, 1, ("/new/b.jpg",))


def test_a_photo_that_was_edited_is_known_by_its_path() -> None:
    profile = make_profile(ratings={"a.jpg": 1.0, "b.jpg": 2.0})
    merged = merge_ratings(profile, ["a.jpg"], np.array([1.0]), np.full((1, DIM), 9, np.float32))
    assert merged.images == ("a.jpg", "b.jpg")
    np.testing.assert_array_equal(merged.embeddings[0], np.full(DIM, 9))


def test_two_copies_of_a_photo_stay_two() -> None:
    """Given again, each copy keeps its own rating: by path first, then one embedding for one copy."""
    twins = np.ones((2, DIM), np.float32)
    profile = make_profile(ratings={"a.jpg": 1.0, "copy.jpg": 2.0}, embeddings=twins)
    again = merge_ratings(profile, ["copy.jpg", "a.jpg"], np.array([2.0, 1.0]), twins)
    assert (again.images, again.repeated) == (("a.jpg", "copy.jpg"), 2)
    moved = merge_ratings(profile, ["/n/a.jpg", "/n/copy.jpg"], np.array([1.0, 2.0]), twins)
    assert (moved.images, moved.repeated) == (("/n/a.jpg", "/n/copy.jpg"), 2)
    third = merge_ratings(
        profile, ["a.jpg", "copy.jpg", "third.jpg"], np.array([1.0, 2.0, 3.0]), np.ones((3, DIM))
    )
    assert (third.added, third.repeated) == (1, 2)


def test_embeddings_of_another_bundle_are_refused() -> None:
    for shape in ((1, DIM + 1), (DIM,)):
        with pytest.raises(ProfileMismatchError, match="shape"):
            merge_ratings(make_profile(), ["x.jpg"], np.array([1.0]), np.zeros(shape, np.float32))


names = st.sampled_from(["a.jpg", "b.jpg", "/x/a.jpg", "/x/b.jpg", "c.jpg", "/y/c.jpg"])


@settings(deadline=None)
@given(
    st.dictionaries(names, values, min_size=2).filter(lambda ratings: len(set(ratings.values())) > 1),
    st.dictionaries(names, values, min_size=1),
)
def test_merging_keeps_every_rating_but_the_changed(old: dict[str, float], new: dict[str, float]) -> None:
    merged = merge(make_profile(ratings=old), new)
    rows = dict(zip(merged.images, merged.ratings, strict=True))
    assert {name: rows[name] for name in new} == new
    assert len(merged.images) == len(old) + merged.added
    assert len(new) == merged.added + merged.repeated + len(merged.changed)
    replaced = len(merged.changed)
    assert len(set(old.items()) - set(rows.items())) <= replaced + merged.repeated


def test_a_profile_knows_what_it_holds() -> None:
    profile = make_profile(ratings={"a.jpg": 1.0, "b.jpg": 2.0})
    assert profile.holds([], [])
    assert profile.holds(["b.jpg", "a.jpg"], [2, 1])
    assert not profile.holds(["a.jpg"], [2.0])
    assert not profile.holds(["c.jpg"], [1.0])
    assert not profile.holds(["a.jpg", "a.jpg"], [1.0, 1.0])


# Frozen files


def test_a_profile_of_format_1_loads_forever(tmp_path: Path) -> None:
    """Written once and never again: who has such a profile must be able to read it with every version."""
    shutil.copytree(GOLDEN / "profiles_v1", tmp_path / "profiles")
    store = ProfileStore(tmp_path / "profiles")
    assert store.names() == ["Zoë"]
    stored = store.load("Zoë")
    portable = decode(*unzip_members((GOLDEN / "profile_v1.piaa").read_bytes()))
    for profile in (stored, portable):
        assert (profile.user, profile.kind, profile.scale) == ("Zoë", "closed-form", RatingScale(1, 5))
        assert profile.bundle_id == "piaa-efficientnet-lite0"
        assert (profile.bundle_revision, profile.embedding_id) == ("1" * 64, "2" * 64)
        assert (profile.created_at, profile.format_version) == ("2026-11-23T12:00:00+00:00", 1)
        assert profile.adaptation == Adaptation(3, 3, 0.5, 0.75, (-0.25, 0.5), Verdict.NOT_ENOUGH)
        assert list(profile.head) == ["mean", "steps"]
        np.testing.assert_array_equal(profile.head["mean"], np.array([0.1, -0.2, 0.30000000000000004]))
        np.testing.assert_array_equal(profile.head["steps"], np.array([[1, 2]], np.int64))
        np.testing.assert_array_equal(profile.ratings, [1, 4.1, 5])
        np.testing.assert_array_equal(
            profile.support.ratings, RatingScale(1, 5).to_unit(np.array([1, 4.1, 5]))
        )
        np.testing.assert_array_equal(profile.support.embeddings, [[0.5, -1, 2], [0, 0.25, 8], [1, 1, 1]])
    assert stored.support.images == ("/photos/a.jpg", "/photos/é\udce9.jpg", "/photos/sub/c.jpg")
    assert portable.support.images == ("a.jpg", "é\udce9.jpg", "c.jpg")


def test_an_export_never_takes_the_place_of_a_photo(store: ProfileStore, tmp_path: Path) -> None:
    """Also when asked to write over what is there, and through a link."""
    store.save(make_profile())
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    (tmp_path / "link.piaa").symlink_to(tmp_path / "photo.jpg")
    for name in ("photo.jpg", "link.piaa"):
        with pytest.raises(OutputError, match="name for a photo"):
            store.export_file("alice", tmp_path / name, replace=True)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


# Faults while locking


def test_a_lock_that_the_file_system_does_not_know_is_our_error(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(OutputError, match=r"'alice' could not be changed.*: no locks here"):
        store.save(make_profile())


def test_a_fault_of_ours_while_writing_is_not_taken_for_one_of_the_disk(store: ProfileStore) -> None:
    def fail(error: Exception) -> None:
        with store._writing("alice"):
            raise error

    with pytest.raises(RuntimeError, match=r"^ours$"):
        fail(RuntimeError("ours"))
    with pytest.raises(OutputError, match=r"^already said$"):
        fail(OutputError("already said"))
    with pytest.raises(OutputError, match=r"could not be changed.*: Input/output error"):
        fail(OSError(errno.EIO, "Input/output error"))
    store.save(make_profile())  # the lock is free again


# Going on with what is stored


def test_a_profile_of_another_model_is_refused(tiny_bundle: Path) -> None:
    bundle = ModelBundle.load(tiny_bundle)
    same = {"bundle_revision": bundle.bundle_revision, "embedding_id": bundle.embedding_id}
    check_model(make_profile(**same), bundle, kind="closed-form")
    with pytest.raises(ProfileMismatchError, match="of the kind 'closed-form', this version reads 'other'"):
        check_model(make_profile(**same), bundle, kind="other")
    revised = make_profile("a b", **same | {"bundle_revision": "r" * 64})
    check_model(revised, bundle, kind="closed-form", only_embeddings=True)
    with pytest.raises(ProfileMismatchError, match="piaa users refit 'a b' --model "):
        check_model(revised, bundle, kind="closed-form")
    foreign = make_profile(**same | {"embedding_id": "f" * 64})
    with pytest.raises(ProfileMismatchError, match="made for piaa-tiny"):
        check_model(foreign, bundle, kind="closed-form", only_embeddings=True)


def test_another_scale_and_other_ratings_are_refused() -> None:
    profile = make_profile()
    check_scale(profile, None)
    check_scale(profile, RatingScale(1, 5))
    with pytest.raises(RatingError, match="stored on the scale 1 to 5"):
        check_scale(profile, RatingScale(1, 10))
    images, ratings = list(profile.support.images), profile.ratings.tolist()
    check_same_ratings(profile, images[::-1], ratings[::-1])
    for other in ((images, [*ratings[:-1], 5]), (images[1:], ratings[1:])):
        with pytest.raises(ProfileExistsError, match="3 other ratings of 'alice'"):
            check_same_ratings(profile, *other)
