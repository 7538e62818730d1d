"""What comes from the Hub: only what is needed, all of one commit, and nothing that is here already."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from huggingface_hub.utils import close_session

from piaa_sdk import PiaaWarning, Scorer
from piaa_sdk.errors import HubError, ModelFormatError, ModelNotFoundError
from piaa_sdk.hub import cached_bundles, fetch, load_bundle, save_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPO = "org/tiny"
SCORING = {"config.json", "preprocessor_config.json", "onnx/backbone.onnx", "prior.safetensors"}


def fetched(hub: Any) -> set[str]:
    """Names of the files that were asked for, be it for their size only."""
    return {one.path.split("/resolve/")[1].partition("/")[2] for one in hub.asked(path="/resolve/")}


def test_a_name_on_the_hub_scores_as_its_folder(
    hub: Any, published: str, bundle_folder: Path, photos: list[Path]
) -> None:
    """What comes down is what went up: same scores, same revision, and only the files that scoring needs."""
    scorer = Scorer.from_pretrained(REPO, cache=False)
    local = Scorer.from_pretrained(bundle_folder, cache=False)
    assert [one.generic for one in scorer.score(photos)] == [one.generic for one in local.score(photos)]
    assert scorer.bundle.bundle_revision == local.bundle.bundle_revision
    assert scorer.bundle.origin == f"{REPO}@{published}"
    assert fetched(hub) == SCORING
    for name in SCORING:
        assert (scorer.bundle.folder / name).read_bytes() == (bundle_folder / name).read_bytes()


@pytest.mark.parametrize("text", ["org/tiny@v1", "org/tiny@refs/pr/1"])
def test_tags_and_pull_requests_are_revisions(hub: Any, published: str, text: str) -> None:
    hub.repositories[REPO].tags |= {"v1": published, "refs/pr/1": published}
    assert load_bundle(text).origin == f"{REPO}@{published}"
    name, _, revision = text.partition("@")
    assert load_bundle(name, revision=revision).origin == f"{REPO}@{published}"


@pytest.mark.usefixtures("published")
def test_a_folder_of_that_name_wins(
    hub: Any, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    bundle_folder.rename(tmp_path / REPO)
    monkeypatch.chdir(tmp_path)
    assert load_bundle(REPO).origin is None
    assert hub.requests == []
    assert load_bundle(REPO, revision="main").origin is not None


def test_a_second_load_asks_once_and_fetches_nothing(hub: Any, published: str) -> None:
    load_bundle(REPO)
    hub.requests.clear()
    assert load_bundle(REPO).origin == f"{REPO}@{published}"
    assert [(one.method, one.path) for one in hub.requests] == [("HEAD", f"/{REPO}/resolve/main/config.json")]


def test_a_commit_that_is_here_is_not_asked_after(
    hub: Any, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_bundle(REPO)
    hub.requests.clear()
    close_session()  # a connection that is kept alive needs no new socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    scorer = Scorer.from_pretrained(REPO, revision=published, cache=False)
    assert scorer.bundle.origin == f"{REPO}@{published}"
    assert hub.requests == []
    with pytest.raises(AssertionError, match="a socket was opened"):
        load_bundle("org/other")


def test_a_branch_that_moved_is_followed_and_a_commit_stays(
    hub: Any, published: str, bundle_folder: Path, write_again: Callable[..., None], content: Any
) -> None:
    old = load_bundle(REPO)
    (bundle_folder / "README.md").write_text("# Other\n")
    write_again(bundle_folder)
    second = hub.put(REPO, content(bundle_folder))
    assert load_bundle(REPO).origin == f"{REPO}@{second}"
    assert load_bundle(REPO, revision=published).bundle_revision == old.bundle_revision


@pytest.mark.parametrize("how", ["fails", "has other files"])
def test_a_commit_that_came_in_part_does_not_hide_the_whole_one_before_it(
    hub: Any,
    faults: Any,
    published: str,
    bundle_folder: Path,
    write_again: Callable[..., None],
    content: Any,
    how: str,
) -> None:
    """Whoever has no network afterwards has still a whole bundle."""
    load_bundle(REPO)
    (bundle_folder / "prior.safetensors").write_bytes(b"another prior")
    write_again(bundle_folder)
    changed = hub.put(REPO, content(bundle_folder))
    if how == "fails":
        hub.fail(faults.status(500), path="prior.safetensors")
    else:
        hub.repositories[REPO].commits[changed]["prior.safetensors"] = b"x"
    with pytest.raises((HubError, ModelFormatError)):
        load_bundle(REPO)
    assert load_bundle(REPO, local_files_only=True).origin == f"{REPO}@{published}"


def test_all_files_come_from_the_commit_of_config_json(
    hub: Any, published: str, bundle_folder: Path, write_again: Callable[..., None], content: Any
) -> None:
    """Whoever pushes while somebody downloads must not make a mixture."""

    def push(_: Any) -> bool:
        (bundle_folder / "prior.safetensors").write_bytes(b"another prior")
        write_again(bundle_folder)
        hub.put(REPO, content(bundle_folder))
        return False

    hub.fail(push, path="preprocessor_config.json", times=1)
    assert load_bundle(REPO).origin == f"{REPO}@{published}"
    assert hub.repositories[REPO].refs["main"] != published


@pytest.mark.usefixtures("offline")
def test_offline_says_what_is_missing_and_how_to_get_it(hub: Any, published: str) -> None:
    for model in (REPO, f"{REPO}@{published}"):
        with pytest.raises(
            ModelNotFoundError, match=r"config\.json is not in the cache .*HF_HUB_OFFLINE"
        ) as error:
            load_bundle(model)
        assert f"piaa model download {model}" in str(error.value)
    assert hub.requests == []


def test_offline_uses_what_is_here_at_once(
    hub: Any, published: str, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_bundle(REPO)
    hub.requests.clear()
    assert load_bundle(REPO, local_files_only=True).origin == f"{REPO}@{published}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_bundle(REPO).origin == f"{REPO}@{published}"
    folder = client / "models--org--tiny" / "snapshots" / published
    (folder / "prior.safetensors").unlink()
    with pytest.raises(
        ModelNotFoundError, match=rf"prior\.safetensors .*piaa model download {REPO}@{published}"
    ):
        load_bundle(REPO)
    assert hub.requests == []


def test_without_a_network_the_copy_is_used_and_said(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_bundle(REPO)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.warns(PiaaWarning, match="cannot be reached.*Using the copy") as caught:
        assert load_bundle(REPO).origin == f"{REPO}@{published}"
    assert len(caught) == 1
    with pytest.raises(ModelNotFoundError, match=r"config\.json is not in the cache.*cannot be reached"):
        load_bundle("org/other")


def test_a_damaged_file_in_the_cache_is_found_named_and_fetched_again(hub: Any, published: str) -> None:
    """Of the same size: only its checksum tells."""
    bundle = load_bundle(REPO)
    blob = (bundle.folder / "prior.safetensors").resolve()
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for model in (REPO, f"{REPO}@{published}"):
        with pytest.raises(ModelFormatError, match=r"prior\.safetensors is damaged") as error:
            load_bundle(model)
        assert f"piaa model download {REPO}@{published} --force" in str(error.value)
    load_bundle(f"{REPO}@{published}", force_download=True)
    assert blob.read_bytes() == data
    weights = fetch(bundle).path("model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(ModelFormatError, match=r"model\.safetensors is damaged.*--force"):
        load_bundle(REPO, is_whole=True)
    load_bundle(REPO, force_download=True)
    load_bundle(REPO, is_whole=True)
    assert load_bundle(REPO).origin == f"{REPO}@{published}"


def test_a_damaged_config_names_the_command(published: str) -> None:
    bundle = load_bundle(REPO)
    (bundle.folder / "config.json").resolve().write_bytes(b"{")
    with pytest.raises(ModelFormatError, match=rf"not JSON.*piaa model download {REPO}@{published} --force"):
        load_bundle(REPO)


@pytest.mark.usefixtures("published")
def test_torch_weights_come_when_they_are_asked_for(hub: Any, bundle_folder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(REPO)
    with pytest.raises(ModelNotFoundError, match=r"piaa model download org/tiny@\w+ --all"):
        bundle.path("model.safetensors")
    hub.requests.clear()
    for missing in (
        lambda: fetch(bundle, ["model.safetensors"], is_local=True),
        lambda: save_bundle(bundle, tmp_path / "copy", is_local=True),
        lambda: load_bundle(REPO, is_whole=True, local_files_only=True),
    ):
        with pytest.raises(
            ModelNotFoundError,
            match=r"\.(md|safetensors) is not in .*local_files_only.*: piaa model download \S+ --all$",
        ):
            missing()
    assert hub.requests == []
    more = fetch(bundle, ["model.safetensors"])
    expected = (bundle_folder / "model.safetensors").read_bytes()
    assert more.path("model.safetensors").read_bytes() == expected
    assert fetched(hub) == {"model.safetensors"}
    assert more.checked == bundle.checked | {"model.safetensors"}
    hub.requests.clear()
    assert fetch(more, ["model.safetensors"]) is more
    with pytest.raises(ModelFormatError, match="lists no file nothing"):
        fetch(bundle, ["nothing"])
    assert hub.requests == []
    assert set(fetch(bundle).checked) == set(bundle.checksums)
    whole = load_bundle(REPO, is_whole=True)
    assert fetch(whole, is_local=True) is whole
    assert save_bundle(whole, tmp_path / "copy", is_local=True) == tmp_path / "copy"


def test_the_command_fetches_into_the_cache_that_was_looked_in(published: str, tmp_path: Path) -> None:
    own = tmp_path / "my cache"
    with pytest.raises(ModelNotFoundError) as error:
        load_bundle(REPO, cache_dir=own, local_files_only=True)
    assert str(error.value).endswith(f": HF_HUB_CACHE='{own}' piaa model download {REPO}")
    bundle = load_bundle(REPO, cache_dir=own)
    with pytest.raises(ModelNotFoundError) as error:
        bundle.path("model.safetensors")
    assert str(error.value).endswith(f": HF_HUB_CACHE='{own}' piaa model download {REPO}@{published} --all")


@pytest.mark.parametrize("name", ["weights.pkl", "run.py", "onnx/backbone.bin", ".hidden.json"])
def test_what_can_run_code_is_never_fetched(
    hub: Any, bundle_folder: Path, name: str, write_again: Callable[..., None], content: Any
) -> None:
    evil = b"cos\nsystem\n"
    write_again(
        bundle_folder,
        graphs={"backbone": {"file": "onnx/backbone.onnx", "variants": {"evil": {"file": name}}}},
    )
    config = json.loads((bundle_folder / "config.json").read_bytes())
    config["files"][name] = {"sha256": hashlib.sha256(evil).hexdigest(), "size": len(evil)}
    (bundle_folder / "config.json").write_text(json.dumps(config))
    hub.put(REPO, {**content(bundle_folder), name: evil, "unlisted.py": evil})
    bundle = load_bundle(REPO, is_whole=True)
    with pytest.raises(ModelFormatError, match="no bundle holds; it is not fetched"):
        load_bundle(REPO, variant="evil")
    with pytest.raises(ModelFormatError, match="no bundle holds; it is not fetched"):
        fetch(bundle)
    assert not any(name in one.path or "unlisted" in one.path for one in hub.requests)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "another kind of model"),
        ({"format_version": 2, "min_sdk": "9.1"}, "it needs piaa-sdk 9.1 or later"),
        ({"format_version": 2, "min_sdk": "9\x1b[2J"}, "it needs a newer piaa-sdk"),
        ({"format_version": 2, "min_sdk": "9" * 41}, "it needs a newer piaa-sdk"),
        ({"files": {"../../evil": {"sha256": "0" * 64, "size": 1}}}, "not a plain name"),
    ],
)
def test_config_json_is_read_before_anything_else_is_fetched(
    hub: Any, bundle_folder: Path, changes: dict[str, Any], message: str, content: Any
) -> None:
    config = {**json.loads((bundle_folder / "config.json").read_bytes()), **changes}
    (bundle_folder / "config.json").write_text(json.dumps(config))
    hub.put(REPO, content(bundle_folder))
    with pytest.raises(ModelFormatError, match=message):
        load_bundle(REPO)
    assert fetched(hub) == {"config.json"}


def test_another_size_than_config_json_says_is_not_fetched(
    hub: Any, bundle_folder: Path, content: Any
) -> None:
    hub.put(REPO, {**content(bundle_folder), "prior.safetensors": b"x" * 100_000})
    with pytest.raises(ModelFormatError, match=r"prior\.safetensors has 100000 bytes on the Hub"):
        load_bundle(REPO)
    assert hub.bytes_sent < 100_000


def test_a_model_of_another_kind_is_no_bundle(hub: Any) -> None:
    hub.put("org/else", {"pytorch_model.bin": b"x"})
    with pytest.raises(ModelNotFoundError, match=r"no config\.json in it, so it is not a bundle"):
        load_bundle("org/else")


def test_a_variant_comes_instead_of_the_whole_backbone(
    hub: Any, bundle_folder: Path, write_again: Callable[..., None], content: Any
) -> None:
    (bundle_folder / "onnx" / "backbone_quantized.onnx").write_bytes(
        (bundle_folder / "onnx" / "backbone.onnx").read_bytes()
    )
    names = ("quantized", "\x1b[2J", "x" * 41, "\u202e")
    variants = {name: {"file": "onnx/backbone_quantized.onnx"} for name in names}
    write_again(bundle_folder, graphs={"backbone": {"file": "onnx/backbone.onnx", "variants": variants}})
    hub.put(REPO, content(bundle_folder))
    scorer = Scorer.from_pretrained(REPO, variant="quantized", cache=False)
    assert scorer.bundle.backbone_name == "onnx/backbone_quantized.onnx"
    assert fetched(hub) == SCORING - {"onnx/backbone.onnx"} | {"onnx/backbone_quantized.onnx"}
    assert fetch(scorer.bundle).backbone_name == "onnx/backbone_quantized.onnx"
    with pytest.raises(ModelFormatError, match=r"there are: quantized\. "):
        load_bundle(REPO, variant="tiny")


def test_settings_that_contradict_each_other(published: str, bundle_folder: Path) -> None:
    for model, revision, message in (
        (f"{REPO}@{published}", "main", "two revisions"),
        (None, "main", "for models on the Hub"),
        (bundle_folder, "main", "for models on the Hub"),
        (str(bundle_folder), "main", "is none"),
    ):
        with pytest.raises(ValueError, match=message):
            load_bundle(model, revision=revision)
    with pytest.raises(ValueError, match="not both"):
        load_bundle(REPO, force_download=True, local_files_only=True)


@pytest.mark.parametrize(
    "model",
    ["org", "org/", "/tiny", "org/tiny@", "org/../tiny", "org/tiny@../x", "a/b/c", "org/ti--ny", "org/x.git"],
)
def test_what_cannot_be_a_name_is_not_asked_for(hub: Any, model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="org/name or org/name@revision"):
        load_bundle(model)
    assert hub.requests == []


def test_what_is_in_the_cache_can_be_listed(hub: Any, published: str) -> None:
    assert cached_bundles() == []
    hub.put("org/else", {"config.json": b"{}"})
    with pytest.raises(ModelFormatError):
        load_bundle("org/else")
    bundle = load_bundle(REPO)
    [(name, manifest, count)] = cached_bundles()
    assert str(name) == f"{REPO}@{published}"
    assert manifest.bundle_revision == bundle.bundle_revision
    assert count == manifest.size_of(SCORING - {"config.json"})


@pytest.mark.usefixtures("published")
def test_nothing_is_written_outside_the_cache_and_nothing_is_said(
    client: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], bundle_folder: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer = Scorer.from_pretrained(REPO, cache_dir=tmp_path / "own", cache=False)
    assert scorer.bundle.folder.is_relative_to(tmp_path / "own")
    assert not client.exists()
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert np.isfinite(scorer.score_embeddings(np.zeros((1, 16), dtype=np.float32))).all()
    assert {path.name for path in tmp_path.iterdir()} <= {"own", "bundle", "hf"}


def test_a_fresh_process_starts_from_the_cache_without_a_socket_and_without_an_http_library(
    published: str, hub_environment: dict[str, str], tmp_path: Path
) -> None:
    """A start-up time is a promise: what is here already must not wait for what only a download needs."""
    load_bundle(REPO)
    statements = f"""
import sys
sys.addaudithook(lambda event, _: event.startswith("socket.") and sys.exit(event))
from piaa_sdk import Scorer
print(Scorer.from_pretrained({REPO!r}, revision={published!r}, cache=False).bundle.origin)
print(sorted({{"httpx", "httpx2", "requests", "hf_xet"}} & set(sys.modules)))
"""
    for offline in ("0", "1"):
        completed = subprocess.run(
            [sys.executable, "-c", statements],
            env=hub_environment | {"HF_HUB_OFFLINE": offline},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (completed.returncode, completed.stderr) == (0, "")
        assert completed.stdout.splitlines() == [f"{REPO}@{published}", "[]"]
    other = subprocess.run(
        [sys.executable, "-c", statements.replace(published, "main")],
        env=hub_environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "socket." in other.stderr, "the check above would see a socket"
