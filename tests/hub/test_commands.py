"""``python -m export publish``, ``piaa model`` and ``--model org/name``, as they are typed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from export.__main__ import main
from export.check_record import CheckRecordError, read_passed, write_failed, write_passed
from piaa_sdk import Scorer
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.cli import app
from piaa_sdk.profiles import ProfileStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPO = "org/tiny"


def piaa(*arguments: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``python -m export``: exit code, output, messages."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def checked(bundle_folder: Path) -> Path:
    """A bundle that has passed its check."""
    write_passed(bundle_folder, ModelBundle.load(bundle_folder).bundle_revision, {"pictures": 7})
    return bundle_folder


@pytest.fixture
def token(faults: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", faults.TOKEN)
    return str(faults.TOKEN)


def test_a_record_holds_for_the_bundle_that_was_checked(checked: Path) -> None:
    revision = ModelBundle.load(checked).bundle_revision
    assert read_passed(checked, revision) == {
        "format_version": 1,
        "bundle_revision": revision,
        "passed": True,
        "figures": {"pictures": 7},
    }
    with pytest.raises(CheckRecordError, match=rf"it is 'abc' now; .*python -m export check {checked}"):
        read_passed(checked, "abc")
    for record, message in (
        ({"format_version": 1, "bundle_revision": revision, "passed": False}, "has not passed"),
        ({"format_version": 1, "bundle_revision": revision, "passed": "yes"}, "has not passed"),
        ({"format_version": 2, "bundle_revision": revision, "passed": True}, "another format"),
        ([], "another format"),
    ):
        (checked / ".check.json").write_text(json.dumps(record))
        with pytest.raises(CheckRecordError, match=message):
            read_passed(checked, revision)
    (checked / ".check.json").write_text("{")
    with pytest.raises(CheckRecordError, match="cannot be read"):
        read_passed(checked, revision)
    write_failed(checked, revision, {"pictures": 7})
    with pytest.raises(CheckRecordError, match="has not passed"):
        read_passed(checked, revision)
    (checked / ".check.json").unlink()
    with pytest.raises(CheckRecordError, match="was never checked"):
        read_passed(checked, revision)


@pytest.mark.usefixtures("token")
def test_what_was_not_checked_is_not_published(
    hub: Any, bundle_folder: Path, write_again: Callable[..., None], export: Any
) -> None:
    code, out, err = export("publish", bundle_folder, REPO)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert f"python -m export check {bundle_folder}" in err
    write_passed(bundle_folder, ModelBundle.load(bundle_folder).bundle_revision, {})
    (bundle_folder / "README.md").write_text("changed since")
    write_again(bundle_folder)
    code, _, err = export("publish", bundle_folder, REPO)
    assert code == 1
    assert "python -m export check" in err
    assert hub.requests == []


def test_a_dry_run_shows_all_and_sends_nothing(hub: Any, checked: Path, export: Any) -> None:
    code, out, err = export("publish", checked, REPO, "--dry-run")
    assert (code, err) == (0, "")
    for name in ("config.json", "onnx/backbone.onnx", "prior.safetensors"):
        assert f"  {name}  " in out
    assert ".check.json" not in out
    assert "4 files" in out
    assert out.endswith("nothing was sent\n")
    assert hub.requests == []


@pytest.mark.usefixtures("token")
def test_publish_and_score_with_it(
    hub: Any, checked: Path, export: Any, photos: list[Path], token: str
) -> None:
    code, out, err = export("publish", checked, REPO, "--public", "--tag", "v1")
    assert (code, err) == (0, "")
    commit = hub.repositories[REPO].refs["main"]
    assert f"published: {hub.url}/{REPO}/commit/{commit}" in out
    assert f"piaa score PHOTOS --model {REPO}@v1" in out
    assert token not in out
    assert not hub.repositories[REPO].private
    assert len(hub.asked(path="/commit/")) == 1
    result = piaa("score", *photos, "--model", f"{REPO}@v1", "--format", "csv", "--no-cache")
    local = piaa("score", *photos, "--model", checked, "--format", "csv", "--no-cache")
    assert result.stdout == local.stdout
    assert f"fetching {REPO} at {commit[:12]}: 3 files, " in result.stderr
    assert "licence apache-2.0" in result.stderr
    again = piaa("score", *photos, "--model", f"{REPO}@{commit}", "--no-cache")
    assert "fetching" not in again.stderr


@pytest.mark.usefixtures("token")
def test_people_go_up_when_they_are_named(
    hub: Any, checked: Path, export: Any, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = dict(zip(photos, [1, 5, 2, 4, 3, 5, 1, 2, 4, 3, 5, 2], strict=True))
    scorer = Scorer.from_pretrained(checked, cache=False)
    for name in ("alice", "bob"):
        scorer.personalize(ratings, user=name, scale=(1, 5))
    assert export("publish", checked, REPO)[0] == 0
    assert not any(name.startswith("heads/") for name in hub.files(REPO))
    code, out, _ = export("publish", checked, REPO, "--user", "alice", "--user", "bob")
    assert code == 0
    assert "whoever may read the repository learns:" in out
    assert "the name 'alice'" in out
    assert "the name 'bob'" in out
    assert {name for name in hub.files(REPO) if name.startswith("heads/")} == {
        f"heads/{name}/head.{suffix}" for name in ("alice", "bob") for suffix in ("json", "safetensors")
    }
    assert hub.repositories[REPO].private
    assert export("publish", checked, REPO, "--user", "zoe")[0] == 1
    scorer.personalize(ratings, user="Alice!", scale=(1, 5))
    assert export("publish", checked, REPO, "--user", "alice", "--user", "Alice!")[0] == 0
    assert len({name for name in hub.files(REPO) if name.endswith("/head.json")}) == 3
    ProfileStore().delete("bob")
    piaa("model", "download", REPO, "--user", "bob")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    piaa("score", *photos, "--model", REPO, "--user", "bob", "--no-cache")
    unknown = piaa("score", *photos, "--model", REPO, "--user", "zoe", "--no-cache", code=1)
    assert f"piaa model download {REPO}@" in unknown.stderr
    assert unknown.stderr.endswith(" --user zoe\n")


@pytest.mark.usefixtures("published")
def test_download_puts_it_here_and_says_its_licence(hub: Any, published: str, client: Path) -> None:
    first = piaa("model", "download", REPO)
    assert "licence apache-2.0" in first.stderr
    assert f"--model {REPO}@{published}" in first.stdout
    folder = client / "models--org--tiny" / "snapshots" / published
    assert not (folder / "model.safetensors").exists()
    hub.requests.clear()
    second = piaa("model", "download", f"{REPO}@{published}")
    assert "fetching" not in second.stderr
    assert hub.requests == []
    piaa("model", "download", REPO, "--all")
    assert (folder / "model.safetensors").exists()
    hub.requests.clear()
    piaa("model", "download", REPO, "--force")
    assert hub.asked(method="GET", path="/storage/")


def test_show_and_list_tell_what_is_here(published: str) -> None:
    shown = piaa("model", "show", REPO).stdout
    assert f"{REPO}@{published}" in shown
    assert "not fetched, sha256" in shown
    assert f"{REPO}@{published}" in piaa("model", "list").stdout


def test_personalize_with_a_model_on_the_hub(published: str, photos: list[Path], tmp_path: Path) -> None:
    rows = [f"{photo.name},{1 + number % 5}" for number, photo in enumerate(photos)]
    (photos[0].parent / "ratings.csv").write_text("\n".join(["image,rating", *rows]) + "\n")
    table = photos[0].parent / "ratings.csv"
    piaa("personalize", table, "--user", "mira", "--model", f"{REPO}@{published}", "--no-cache")
    result = piaa("score", photos[0], "--user", "mira", "--model", REPO, "--no-cache")
    assert "for mira" in result.stderr
    piaa("users", "refit", "mira", "--model", REPO)
    shutil.rmtree(tmp_path / "hf")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("has_terminal", [True, False])
def test_progress_is_drawn_where_somebody_watches(
    published: str, hub_environment: dict[str, str], tmp_path: Path, has_terminal: bool
) -> None:
    import pty
    import termios

    mine, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    completed = subprocess.run(
        [sys.executable, "-m", "piaa_sdk", "model", "download", REPO],
        env=hub_environment | {"TERM": "xterm"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs if has_terminal else subprocess.PIPE,
        check=True,
        timeout=60,
    )
    os.close(theirs)
    shown = os.read(mine, 100_000).decode() if has_terminal else completed.stderr.decode()
    os.close(mine)
    assert completed.stdout.decode() == f"To use exactly this one: --model {REPO}@{published}\n"
    assert "licence apache-2.0" in shown
    assert ("100%|" in shown) is has_terminal


@pytest.mark.usefixtures("offline")
def test_offline_is_one_message(published: str) -> None:
    result = piaa("score", "x.jpg", "--model", f"{REPO}@{published}", code=1)
    assert result.stderr.startswith(f"error: {REPO}@{published}: config.json is not in the cache")
    assert f"piaa model download {REPO}@{published}" in result.stderr
    assert result.stderr.count("\n") == 1
