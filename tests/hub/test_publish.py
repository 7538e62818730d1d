"""What goes up: the bundle as it is, in one commit, and of a person only what was asked for and is said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy

from piaa_sdk import Scorer
from piaa_sdk.errors import (
    HubError,
    ModelFormatError,
    ModelNotFoundError,
    OutputError,
    ProfileError,
    ProfileFormatError,
    ProfileMismatchError,
    ProfileNotFoundError,
)
from piaa_sdk.hub import load_bundle, plan_upload, publish
from piaa_sdk.profiles import ProfileStore
from piaa_sdk.published_head import PublishedHead, load_published

if TYPE_CHECKING:
    from collections.abc import Callable

REPO = "org/mine"
RATINGS = [1, 5, 2, 4, 3, 5, 1, 2, 4, 3, 5, 2]
HEADER, TENSORS = "heads/alice/head.json", "heads/alice/head.safetensors"


@pytest.fixture
def token(faults: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Somebody who may write is logged in."""
    monkeypatch.setenv("HF_TOKEN", faults.TOKEN)
    return str(faults.TOKEN)


@pytest.fixture
def alice(bundle_folder: Path, photos: list[Path]) -> Scorer:
    """A personal scorer whose profile is stored."""
    scorer = Scorer.from_pretrained(bundle_folder, cache=False)
    return scorer.personalize(dict(zip(photos, RATINGS, strict=True)), user="alice", scale=(1, 5))


def only_bundle(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != ".gitattributes" and "heads/" not in name}


@pytest.mark.usefixtures("token")
def test_what_comes_down_is_what_went_up(
    hub: Any, bundle_folder: Path, tmp_path: Path, content: Callable[[Path], dict[str, bytes]]
) -> None:
    made = Scorer.from_pretrained(bundle_folder).push_to_hub(REPO, commit_message="First", tag="v1")
    assert only_bundle(hub.files(REPO)) == content(bundle_folder)
    assert len(hub.asked(path="/commit/")) == 1
    assert made.commit == hub.repositories[REPO].refs["main"] == hub.repositories[REPO].tags["v1"]
    assert str(made) == made.url == f"{hub.url}/{REPO}/commit/{made.commit}"
    assert made.disclosed == ()
    assert made.files == {name: len(data) for name, data in content(bundle_folder).items()}
    copy = Scorer.from_pretrained(f"{REPO}@v1").save_pretrained(tmp_path / "copy")
    assert content(copy) == content(bundle_folder)


@pytest.mark.usefixtures("token")
def test_hidden_and_unlisted_files_stay_at_home(hub: Any, bundle_folder: Path) -> None:
    for name in (".check.json", ".env", "notes.txt", "evil.pkl", "LICENSE"):
        (bundle_folder / name).write_text(name)
    (bundle_folder / "heads" / "bob").mkdir(parents=True)
    (bundle_folder / "heads" / "bob" / "head.json").write_text("{}")
    bundle = load_bundle(bundle_folder)
    publish(plan_upload(bundle), REPO)
    assert set(hub.files(REPO)) - {".gitattributes"} == {"config.json", "LICENSE", *bundle.checksums}


def test_a_kind_of_file_that_no_bundle_holds_is_not_published(
    bundle_folder: Path, write_again: Callable[..., None], tmp_path: Path
) -> None:
    (bundle_folder / "weights.pkl").write_bytes(b"x")
    write_again(bundle_folder)
    with pytest.raises(ModelFormatError, match=r"lists 'weights\.pkl', a kind of file that no bundle holds"):
        plan_upload(load_bundle(bundle_folder))
    with pytest.raises(ModelFormatError, match="no bundle holds"):
        Scorer.from_pretrained(bundle_folder).save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.usefixtures("token")
def test_branches_and_pull_requests(hub: Any, bundle_folder: Path) -> None:
    scorer = Scorer.from_pretrained(bundle_folder)
    scorer.push_to_hub(REPO, revision="next")
    main = hub.repositories[REPO].refs["main"]
    assert "config.json" in hub.files(REPO, "next")
    assert "config.json" not in hub.files(REPO)
    asked = scorer.push_to_hub(REPO, create_pr=True)
    assert asked.url == f"{hub.url}/{REPO}/discussions/1"
    assert hub.repositories[REPO].refs["main"] == main
    assert load_bundle(f"{REPO}@refs/pr/1").bundle_revision == scorer.bundle.bundle_revision
    with pytest.raises(ValueError, match="no commit yet that a tag can name"):
        scorer.push_to_hub(REPO, create_pr=True, tag="v1")
    with pytest.raises(ValueError, match="are one thing"):
        scorer.push_to_hub(REPO, revision="a", branch="b")


@pytest.mark.usefixtures("token")
def test_a_tag_never_moves(hub: Any, bundle_folder: Path) -> None:
    scorer = Scorer.from_pretrained(bundle_folder)
    first = scorer.push_to_hub(REPO, tag="v1")
    with pytest.raises(HubError, match="has a tag 'v1' already"):
        scorer.push_to_hub(REPO, tag="v1")
    assert hub.repositories[REPO].tags == {"v1": first.commit}
    assert len(hub.asked(path="/commit/")) == 1


@pytest.mark.parametrize("private", [None, True, False])
@pytest.mark.usefixtures("token")
def test_a_new_repository_is_private_unless_it_shall_not_be(
    hub: Any, bundle_folder: Path, private: bool | None
) -> None:
    Scorer.from_pretrained(bundle_folder).push_to_hub(REPO, private=private)
    assert hub.repositories[REPO].private is (private is not False)


@pytest.mark.usefixtures("token")
def test_a_person_goes_into_a_public_repository_only_if_that_is_said(hub: Any, alice: Scorer) -> None:
    hub.put(REPO, {"README.md": b""})
    with pytest.raises(HubError, match=r"org/mine is public.*private=False \(--public\)"):
        alice.push_to_hub(REPO)
    with pytest.raises(HubError, match="org/mine is public, and this was to be private"):
        alice.push_to_hub(REPO, private=True)
    assert not hub.asked(path="/commit/")
    alice.push_to_hub(REPO, private=False)
    assert HEADER in hub.files(REPO)


@pytest.mark.usefixtures("token")
def test_of_a_person_goes_up_the_head_and_nothing_else(
    hub: Any, alice: Scorer, photos: list[Path], piaa_home: Path
) -> None:
    made = alice.push_to_hub(REPO)
    files = hub.files(REPO)
    assert {name for name in files if name.startswith("heads/")} == {HEADER, TENSORS}
    header = json.loads(files[HEADER])
    assert header.keys() == {
        *("type", "format_version", "user", "kind", "scale", "bundle_revision", "embedding_id", "tensors")
    }
    assert header["tensors"]["sha256"] == hashlib.sha256(files[TENSORS]).hexdigest()
    tensors = safetensors.numpy.load(files[TENSORS])
    assert set(tensors) == {"components", "weights", "variances", "embeddings"}
    assert alice.support is not None
    for name, tensor in tensors.items():
        for told in (np.array(RATINGS), alice.support.ratings):
            assert tensor.shape != told.shape or not np.allclose(tensor, told), name
    for data in (files[HEADER], files[TENSORS]):
        for secret in (*(photo.name for photo in photos), str(photos[0].parent), str(piaa_home)):
            assert secret.encode() not in data
    assert hub.repositories[REPO].private
    assert "'alice'" in made.disclosed[0]
    assert "12 photos on the scale 1 to 5" in made.disclosed[0]
    assert "not in it: the ratings" in made.disclosed[-1]


def test_a_person_without_a_name_is_not_published(bundle_folder: Path, photos: list[Path]) -> None:
    scorer = Scorer.from_pretrained(bundle_folder, cache=False)
    with pytest.raises(ProfileError, match="personalize with user="):
        scorer.personalize(dict(zip(photos, RATINGS, strict=True))).push_to_hub(REPO)


@pytest.mark.usefixtures("token")
def test_somebody_else_scores_as_the_person_would(hub: Any, alice: Scorer, photos: list[Path]) -> None:
    """On another machine: no profile, only what is published; the same scores to the last bit."""
    expected = alice.score(photos)
    commit = alice.push_to_hub(REPO).commit
    ProfileStore().delete("alice")
    scorer = Scorer.from_pretrained(REPO, user="alice", cache=False)
    assert scorer.score(photos) == expected
    assert (scorer.user, scorer.scale) == ("alice", alice.scale)
    assert (scorer.profile, scorer.support, scorer.adaptation) == (None, None, None)
    assert "user='alice'" in repr(scorer)
    hub.requests.clear()
    again = Scorer.from_pretrained(f"{REPO}@{commit}", user="alice", cache=False, local_files_only=True)
    assert again.score(photos) == expected
    assert hub.requests == []
    other = again.personalize(dict(zip(photos, RATINGS, strict=True)), user="bob", scale=(1, 5))
    assert other.user == "bob"
    again.push_to_hub("org/again")
    assert hub.files("org/again")[TENSORS] == hub.files(REPO)[TENSORS]


@pytest.mark.usefixtures("token")
def test_a_stored_profile_that_fits_wins_and_one_that_does_not_gives_way(
    hub: Any, alice: Scorer, photos: list[Path], build_other: Callable[[], Path]
) -> None:
    alice.push_to_hub(REPO)
    hub.requests.clear()
    assert Scorer.from_pretrained(REPO, user="alice").profile is not None
    assert not hub.asked(path="heads/")
    other = Scorer.from_pretrained(build_other(), cache=False)
    other.personalize(dict(zip(photos, RATINGS, strict=True)), user="alice", scale=(1, 5), replace=True)
    published = Scorer.from_pretrained(REPO, user="alice")
    assert published.profile is None
    Scorer.from_pretrained(alice.bundle.folder).push_to_hub("org/bare")
    with pytest.raises(ProfileMismatchError, match="refit alice --model org/bare@"):
        Scorer.from_pretrained("org/bare", user="alice")


@pytest.mark.usefixtures("token")
def test_nobody_of_that_name_names_both_places(bundle_folder: Path, piaa_home: Path) -> None:
    commit = Scorer.from_pretrained(bundle_folder).push_to_hub(REPO).commit
    for model in (REPO, str(bundle_folder)):
        with pytest.raises(ProfileNotFoundError, match="no profile of 'zoe'") as error:
            Scorer.from_pretrained(model, user="zoe")
        assert str(piaa_home) in str(error.value)
        place = f"{REPO}@{commit}" if model == REPO else model
        assert f"nobody is published in heads/zoe of {place}" in str(error.value)


@pytest.mark.usefixtures("token")
def test_a_head_beside_a_folder_is_found(
    hub: Any, alice: Scorer, bundle_folder: Path, photos: list[Path]
) -> None:
    alice.push_to_hub(REPO)
    (bundle_folder / "heads" / "alice").mkdir(parents=True)
    for name in (HEADER, TENSORS):
        (bundle_folder / name).write_bytes(hub.files(REPO)[name])
    ProfileStore().delete("alice")
    scorer = Scorer.from_pretrained(bundle_folder, user="alice", cache=False)
    assert scorer.score(photos) == alice.score(photos)
    (bundle_folder / TENSORS).unlink()
    with pytest.raises(ProfileFormatError, match=r"holds head\.json only"):
        Scorer.from_pretrained(bundle_folder, user="alice")


@pytest.mark.parametrize("name", ["Ålice", "alice/../bob", "..", "艾丽丝", "con", "a" * 200])
def test_a_name_is_data_and_never_a_place(alice: Scorer, name: str) -> None:
    head = head_of(name, alice)
    for path in head.files():
        first, folder, _ = path.split("/")
        assert first == "heads"
        assert folder.isascii()
        assert folder.replace("-", "").isalnum()
    assert PublishedHead.parse(*head.files().values()).user == name


def head_of(name: str, scorer: Scorer) -> PublishedHead:
    return PublishedHead.of(name, "closed-form", scorer.scale, scorer.bundle, scorer._person.head)  # type: ignore[union-attr]


@pytest.mark.usefixtures("token")
def test_names_that_read_alike_do_not_share_a_place(hub: Any, alice: Scorer) -> None:
    """Each is found under its own name only."""
    names = ("zoe", "Zoë", "zoe!", "Zoe", "zo" + "e" * 60, "zo" + "e" * 61)
    for name in names:
        publish(plan_upload(alice.bundle, head_of(name, alice).files()), REPO)
    assert len({name for name in hub.files(REPO) if name.endswith("head.json")}) == len(names)
    assert "heads/zoe/head.json" in hub.files(REPO)
    bundle = load_bundle(REPO)
    for name in names:
        assert load_published(bundle, name, kind="closed-form").user == name
    with pytest.raises(ProfileNotFoundError, match="is the head of 'zoe'"):
        load_published(bundle, "ZOE", kind="closed-form")
    with pytest.raises(ProfileNotFoundError, match=r"in heads/bob-\w+ or heads/bob of"):
        load_published(bundle, "Bob", kind="closed-form")


@pytest.mark.usefixtures("token")
def test_a_head_in_the_place_of_older_versions_is_found_and_not_replaced(hub: Any, alice: Scorer) -> None:
    header, tensors = head_of("Zoë", alice).files().values()
    old = {"heads/zoe/head.json": header, "heads/zoe/head.safetensors": tensors}
    publish(plan_upload(alice.bundle, old), REPO)
    bundle = load_bundle(REPO)
    assert load_published(bundle, "Zoë", kind="closed-form").user == "Zoë"
    assert load_published(bundle, "Zoë", kind="closed-form", is_local=True).user == "Zoë"
    with pytest.raises(ModelNotFoundError, match=r"heads/zoe-\w+/head\.json is not in the cache"):
        load_published(bundle, "Zoè", kind="closed-form", is_local=True)
    other = plan_upload(alice.bundle, head_of("zoe", alice).files())
    with pytest.raises(HubError, match=r"heads/zoe/head\.json is the head of 'Zoë', and that of 'zoe'"):
        publish(other, REPO)
    assert hub.files(REPO)["heads/zoe/head.json"] == header
    publish(plan_upload(alice.bundle, old), REPO, commit_message="The same person may")
    hub.put(REPO, {"heads/zoe/head.json": b"{"})
    publish(other, REPO)
    assert load_published(load_bundle(REPO), "zoe", kind="closed-form").user == "zoe"


def test_heads_of_version_1_load_forever(build_prior: Callable[[], Any]) -> None:
    """What is published cannot be written anew: it must be read, and say what it said, whatever comes."""
    place = Path(__file__).parent / "golden" / "v1" / "heads" / "zoe"
    header, tensors = (place / "head.json").read_bytes(), (place / "head.safetensors").read_bytes()
    head = PublishedHead.parse(header, tensors)
    assert (head.user, head.kind, str(head.scale)) == ("Zoë", "closed-form", "1 to 5")
    assert list(head.files().values()) == [header, tensors]
    mean, std, _ = head.head(build_prior()).predict(head.tensors["embeddings"][:3].astype(np.float32) + 0.25)
    np.testing.assert_allclose(mean, [0.43534434, 0.38362346, 0.44073061], atol=1e-6)
    np.testing.assert_allclose(std, [0.39309867, 0.40345425, 0.40144393], atol=1e-6)


def damaged(files: dict[str, bytes], how: str) -> tuple[bytes, bytes]:
    """A published head after somebody has had a hand in it; the checksum fits, unless it is the point."""
    header, data = json.loads(files[HEADER]), files[TENSORS]
    tensors = safetensors.numpy.load(data)
    if how == "checksum":
        return files[HEADER], data[:-1] + bytes([data[-1] ^ 1])
    if how == "not JSON":
        return b"{", data
    if how == "newer":
        header["format_version"] = 2
    elif how == "another type":
        header["type"] = "piaa-profile"
    elif how == "a name of two lines":
        header["user"] = "alice\nbob"
    elif how == "no scale":
        header["scale"] = [5, 1]
    elif how == "scale of texts":
        header["scale"] = ["1", "5"]
    elif how == "endless scale":
        header["scale"] = [0, 10**400]
    elif how == "no tensors":
        data = b"not safetensors"
    elif how == "a foreign tensor":
        tensors["more"] = np.zeros(3)
    elif how == "a missing tensor":
        del tensors["weights"]
    elif how == "nan":
        tensors["weights"][0, 0] = np.nan
    elif how == "whole numbers":
        tensors["weights"] = tensors["weights"].astype(np.int64)
    elif how == "another shape":
        tensors["embeddings"] = tensors["embeddings"][:, :-1].copy()
    elif how == "impossible":
        tensors["variances"] = -tensors["variances"]
    if how != "no tensors":
        data = safetensors.numpy.save(tensors)
    header["tensors"] = {"sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(header).encode(), data


@pytest.mark.parametrize(
    "how",
    [
        *(
            "checksum",
            "not JSON",
            "newer",
            "another type",
            "a name of two lines",
            "no scale",
            "scale of texts",
        ),
        *("endless scale", "no tensors", "a foreign tensor", "a missing tensor", "nan", "whole numbers"),
        *("another shape", "impossible"),
    ],
)
@pytest.mark.usefixtures("token")
def test_a_head_of_a_stranger_is_not_believed(hub: Any, alice: Scorer, how: str) -> None:
    alice.push_to_hub(REPO)
    ProfileStore().delete("alice")
    files = hub.files(REPO)
    files[HEADER], files[TENSORS] = damaged(files, how)
    with pytest.raises(ProfileFormatError):
        Scorer.from_pretrained(REPO, user="alice")


@pytest.mark.usefixtures("token")
def test_a_sound_head_passes_the_same_way(hub: Any, alice: Scorer) -> None:
    """What the test above does to a head breaks it only where it means to."""
    alice.push_to_hub(REPO)
    ProfileStore().delete("alice")
    files = hub.files(REPO)
    files[HEADER], files[TENSORS] = damaged(files, "nothing")
    assert Scorer.from_pretrained(REPO, user="alice").user == "alice"


@pytest.mark.usefixtures("token")
def test_a_head_that_was_damaged_in_the_cache_is_fetched_again(alice: Scorer) -> None:
    commit = alice.push_to_hub(REPO).commit
    ProfileStore().delete("alice")
    tensors = Scorer.from_pretrained(REPO, user="alice").bundle.folder / TENSORS
    tensors.resolve().write_bytes(tensors.read_bytes()[::-1])
    with pytest.raises(ProfileFormatError, match=rf"piaa model download {REPO}@{commit} --force"):
        Scorer.from_pretrained(REPO, user="alice")
    load_bundle(f"{REPO}@{commit}", force_download=True)
    assert Scorer.from_pretrained(REPO, user="alice").user == "alice"


@pytest.mark.usefixtures("token")
def test_a_head_that_is_too_large_is_not_fetched(hub: Any, alice: Scorer) -> None:
    alice.push_to_hub(REPO)
    ProfileStore().delete("alice")
    hub.files(REPO)[HEADER] = b" " * (1 << 17)
    with pytest.raises(ProfileFormatError, match="has 131072 bytes, allowed are 65536; it is not fetched"):
        Scorer.from_pretrained(REPO, user="alice")


@pytest.mark.usefixtures("token")
def test_a_head_of_another_person_or_bundle_is_refused(hub: Any, alice: Scorer) -> None:
    alice.push_to_hub(REPO)
    ProfileStore().delete("alice")
    files = hub.files(REPO)
    header = json.loads(files[HEADER])
    files[HEADER] = json.dumps({**header, "user": "Alice"}).encode()
    with pytest.raises(ProfileNotFoundError, match="is the head of 'Alice'"):
        Scorer.from_pretrained(REPO, user="alice")
    hub.put(REPO, {HEADER: json.dumps({**header, "bundle_revision": "0" * 64}).encode()})
    with pytest.raises(ProfileMismatchError, match="learned with another bundle, '000000000000'"):
        Scorer.from_pretrained(REPO, user="alice")


@pytest.mark.usefixtures("bundle_folder")
def test_without_a_token_nothing_is_published(hub: Any, alice: Scorer) -> None:
    with pytest.raises(HubError, match=r"may not be written .*\(401\).*hf auth login"):
        alice.push_to_hub(REPO)
    assert REPO not in hub.repositories


@pytest.mark.usefixtures("token")
def test_a_commit_whose_answer_is_lost_is_not_sent_again(hub: Any, faults: Any, bundle_folder: Path) -> None:
    """It may have been made; twice would be wrong."""
    hub.fail(faults.hang_up, path="/commit/")
    with pytest.raises(HubError):
        Scorer.from_pretrained(bundle_folder).push_to_hub(REPO)
    assert len(hub.asked(path="/commit/")) == 1


@pytest.mark.parametrize("name", ["mine", "org/", "org/mine@v1", "a/b/c", "../x"])
def test_a_name_that_the_hub_would_not_take(hub: Any, bundle_folder: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no name on the Hub, must be org/name"):
        Scorer.from_pretrained(bundle_folder).push_to_hub(name)
    assert hub.requests == []


@pytest.mark.usefixtures("offline", "token")
def test_offline_nothing_is_published(hub: Any, bundle_folder: Path) -> None:
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids the network"):
        Scorer.from_pretrained(bundle_folder).push_to_hub(REPO)
    assert hub.requests == []


def test_a_saved_copy_is_whole_or_not_there(
    bundle_folder: Path, tmp_path: Path, content: Callable[[Path], dict[str, bytes]]
) -> None:
    scorer = Scorer.from_pretrained(bundle_folder)
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "new" / "deep", tmp_path / "empty"):
        assert scorer.save_pretrained(target) == target
        assert content(target) == content(bundle_folder)
        assert Scorer.from_pretrained(target).bundle.bundle_revision == scorer.bundle.bundle_revision
        with pytest.raises(OutputError, match="is there already"):
            scorer.save_pretrained(target)
    (bundle_folder / "prior.safetensors").write_bytes(b"damaged meanwhile")
    with pytest.raises(ModelFormatError, match=r"prior\.safetensors is damaged"):
        scorer.save_pretrained(tmp_path / "copy")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        scorer.save_pretrained(tmp_path / "file" / "copy")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "new", "empty", "file", "hf"} - (
        set() if (tmp_path / "hf").exists() else {"hf"}
    )
