"""The command line of the export, as it is typed."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import onnx
import pytest

from export.__main__ import main
from export.check_record import write_passed
from piaa_sdk.bundle import ModelBundle, write_config

if TYPE_CHECKING:
    from pathlib import Path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_good_bundle_passes(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", bundle_folder) == 0
    said = capsys.readouterr()
    assert said.err.startswith("not a full check, nothing is recorded: it lacks rated pictures")
    assert not (bundle_folder / ".check.json").exists()
    lines = said.out.splitlines()
    assert lines[0].startswith("files: 14 as listed")
    assert lines[1] == "golden scores: largest difference 0.0000 rating units"


@pytest.fixture
def ratings(bundle_folder: Path, tmp_path: Path) -> Path:
    """The golden pictures, rated by two people who agree on nothing."""
    folder = tmp_path / "ratings"
    names = [path.name for path in sorted((bundle_folder / "golden").iterdir())]
    shutil.copytree(bundle_folder / "golden", folder / "images")
    rows = [f"ann,images/{name},{1 + number}" for number, name in enumerate(names)]
    rows += [f"bob,images/{name},{7 - number}" for number, name in enumerate(names)]
    (folder / "ratings.csv").write_text("\n".join(["user,image,score", *rows]) + "\n")
    return folder


def test_a_bundle_is_compared_with_its_checkpoint(
    bundle_folder: Path,
    checkpoint_folder: Path,
    ratings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On pictures that nobody rated nothing is recorded: publishing asks for a check on rated ones."""
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    command = ("check", bundle, "--checkpoint", checkpoint_folder)
    assert run(monkeypatch, *command, "--photos", bundle / "golden") == 0
    said = capsys.readouterr()
    assert "torch and ONNX on 7 pictures" in said.out
    assert "give some with --ratings" in said.err
    assert not (bundle / ".check.json").exists()

    assert run(monkeypatch, *command, "--ratings", ratings, "--scale", "1", "7") == 0
    assert "SROCC of 2 users" in capsys.readouterr().out
    record = json.loads((bundle / ".check.json").read_text())
    assert record["passed"] is True
    assert record["bundle_revision"] == ModelBundle.load(bundle).bundle_revision


def test_a_damaged_bundle_is_one_line_and_exit_code_1(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle_folder, tmp_path / "bundle")
    (tmp_path / "bundle" / "metrics.json").write_text("{}")
    assert run(monkeypatch, "check", tmp_path / "bundle") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "metrics.json is damaged" in line


def test_build_refuses_before_it_works(
    bundle_folder: Path,
    checkpoint_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "build", checkpoint_folder, bundle_folder) == 1
    assert "replace it with --force" in capsys.readouterr().err
    assert (
        run(monkeypatch, "build", checkpoint_folder, tmp_path / "new", "--metrics", tmp_path / "absent.json")
        == 1
    )
    assert "absent.json cannot be read as JSON" in capsys.readouterr().err
    assert (
        run(monkeypatch, "build", checkpoint_folder, tmp_path / "new", "--photos", tmp_path / "absent") == 1
    )
    assert "absent" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_recorded_and_blocks(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head of twice the slope: torch and ONNX part, and no earlier pass stands."""
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    (bundle / ".check.json").write_text('{"passed": true}')
    head = onnx.load(bundle / "onnx" / "head.onnx")
    item = next(item for item in head.graph.initializer if item.name == "generic.offset")
    item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item) * 2, item.name))
    onnx.save_model(head, bundle / "onnx" / "head.onnx")
    config = json.loads((bundle / "config.json").read_text())
    write_config(bundle, config)
    assert run(monkeypatch, "check", bundle, "--photos", bundle / "golden") == 1
    assert "torch and ONNX on 7 pictures: scores (rating units) differ by" in capsys.readouterr().err
    record = json.loads((bundle / ".check.json").read_text())
    assert record["passed"] is False
    assert record["figures"]["onnx_score"] > 0.001

    (bundle / "metrics.json").write_text("{}")
    assert run(monkeypatch, "check", bundle) == 1
    assert json.loads((bundle / ".check.json").read_text())["bundle_revision"] == ""


def test_a_graph_that_does_not_run_is_recorded_too(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The SDK never runs the head's graph, so golden scores do not notice that it is torn."""
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    head = bundle / "onnx" / "head.onnx"
    head.write_bytes(head.read_bytes()[:200])
    write_config(bundle, json.loads((bundle / "config.json").read_text()))
    write_passed(bundle, ModelBundle.load(bundle).bundle_revision, {})
    assert run(monkeypatch, "check", bundle, "--photos", bundle / "golden") == 1
    assert "onnxruntime cannot run what was exported" in capsys.readouterr().err
    assert json.loads((bundle / ".check.json").read_text())["passed"] is False


def test_what_says_nothing_of_the_bundle_is_not_recorded(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint mistyped, a photo that cannot be read: the bundle is as good as it was."""
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    write_passed(bundle, ModelBundle.load(bundle).bundle_revision, {})
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    assert run(monkeypatch, "check", bundle, "--checkpoint", tmp_path / "absent") == 1
    assert "absent" in capsys.readouterr().err
    assert run(monkeypatch, "check", bundle, "--photos", tmp_path / "bad.jpg") == 1
    assert "bad.jpg" in capsys.readouterr().err
    assert json.loads((bundle / ".check.json").read_text())["passed"] is True


def test_a_card_is_written_again(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The story is the same without the run, and what was told once is told again."""
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    facts = tmp_path / "facts.json"
    facts.write_text('{"taste": "Two cats.", "repo_id": "org/name"}')
    before = {
        name: (bundle / name).read_bytes() for name in ("golden.json", "prior.safetensors", "onnx/head.onnx")
    }
    assert run(monkeypatch, "card", bundle, "--card-data", facts) == 0
    assert "became" in capsys.readouterr().out
    assert {name: (bundle / name).read_bytes() for name in before} == before
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "Two cats." in card
    assert "ratings of 1 picture by 2 people" in card
    assert ModelBundle.load(bundle).embedding_id == ModelBundle.load(bundle_folder).embedding_id

    assert run(monkeypatch, "card", bundle) == 0
    assert (bundle / "README.md").read_text(encoding="utf-8") == card


def test_a_card_whose_facts_are_not_at_hand_stays(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bundles made earlier do not keep them; written again, the card would lose its sources and limits."""
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    metrics = json.loads((bundle / "metrics.json").read_text())
    del metrics["card"]
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    write_config(bundle, json.loads((bundle / "config.json").read_text()))
    before = (bundle / "README.md").read_bytes()
    for command in (("card", bundle), ("quantize", bundle, "--in-place", "--photos", bundle / "golden")):
        assert run(monkeypatch, *command) == 1
        assert "give them with --card-data" in capsys.readouterr().err
    assert (bundle / "README.md").read_bytes() == before
