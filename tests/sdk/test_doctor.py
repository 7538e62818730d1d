"""What `piaa doctor` finds: in a healthy installation nothing, in a broken one what is broken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from typer.testing import CliRunner

from piaa_sdk import Scorer
from piaa_sdk.bundle import EMBEDDED_FOLDER, GOLDEN_NAME, write_config
from piaa_sdk.cli import app
from piaa_sdk.devices import installed_runtimes
from piaa_sdk.doctor import (
    Check,
    Status,
    check_folder,
    check_lines,
    check_model,
    check_profiles,
    check_runtime,
    examine,
)
from piaa_sdk.profiles import ProfileStore

if TYPE_CHECKING:
    from collections.abc import Callable


def statuses(checks: list[Check]) -> dict[str, Status]:
    return {check.name: check.status for check in checks}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the model that comes with the package, to be damaged."""
    return Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model"))


def test_a_healthy_installation_passes_without_a_network(
    monkeypatch: pytest.MonkeyPatch, piaa_home: Path
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    checks = list(examine())
    assert Status.FAIL not in statuses(checks).values(), checks
    assert statuses(checks)["known scores"] is Status.OK
    assert list(piaa_home.iterdir()) == [], "looking changes nothing"


def test_the_command_prints_a_line_per_check_and_fails_where_one_fails(
    piaa_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = CliRunner().invoke(app, ["doctor"])
    assert healthy.exit_code == 0, healthy.stdout
    assert all(line.startswith(("ok  ", "warn", "    ")) for line in healthy.stdout.splitlines())
    (piaa_home / "file").write_text("no folder")
    monkeypatch.setenv("PIAA_HOME", str(piaa_home / "file"))
    broken = CliRunner().invoke(app, ["doctor"])
    assert broken.exit_code == 1
    assert "FAIL  profiles folder" in broken.stdout
    assert "PIAA_HOME" in broken.stdout


def test_two_runtimes_over_each_other_are_an_error_with_the_repair() -> None:
    check = check_runtime({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    assert check.status is Status.FAIL
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1" in check.detail
    assert check.next_step == (
        "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
    )
    assert len(check_lines(check)) == 2


def test_another_runtime_than_pip_installed_is_an_error() -> None:
    """After one of two is uninstalled, files of the other may be left."""
    check = check_runtime({"onnxruntime": "0.0.1"})
    assert check.status is Status.FAIL
    assert "0.0.1 is what pip installed" in check.detail


def test_the_runtime_here_is_one_and_the_one_that_runs() -> None:
    assert check_runtime(installed_runtimes()).status is Status.OK


def test_a_damaged_model_is_found(model: Path) -> None:
    backbone = model / "onnx" / "backbone.onnx"
    data = bytearray(backbone.read_bytes())
    data[len(data) // 2] ^= 1
    backbone.write_bytes(bytes(data))
    (check,) = check_model(model)
    assert check.status is Status.FAIL
    assert "onnx/backbone.onnx is damaged" in check.detail


def test_scores_that_are_not_those_of_the_model_are_found(model: Path) -> None:
    """The files are whole and fit each other, and still this machine computes something else."""
    golden = json.loads((model / GOLDEN_NAME).read_text())
    golden["pictures"][0]["score"] += 2 * golden["tolerance"]["score"]
    (model / GOLDEN_NAME).write_text(json.dumps(golden))
    write_config(model, json.loads((model / "config.json").read_text()))
    checks = list(check_model(model))
    assert statuses(checks) == {"model": Status.OK, "device": Status.OK, "known scores": Status.FAIL}
    assert golden["pictures"][0]["file"] in checks[-1].detail


def test_a_golden_file_that_makes_no_sense_is_a_finding_not_a_crash(model: Path) -> None:
    for content in ("[]", '{"tolerance": {"score": 1}, "pictures": []}', "no json"):
        (model / GOLDEN_NAME).write_text(content)
        write_config(model, json.loads((model / "config.json").read_text()))
        assert statuses(list(check_model(model)))["known scores"] is Status.FAIL


def test_a_folder_that_is_not_there_is_fine_and_not_made(tmp_path: Path) -> None:
    check = check_folder("cache folder", tmp_path / "a" / "b")
    assert check.status is Status.OK
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_measured(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x").write_bytes(bytes(5000))
    check = check_folder("cache folder", tmp_path)
    assert check.status is Status.OK
    assert check.detail.endswith("5.0 kB")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inner", "x"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for folder in (tmp_path, tmp_path / "below"):
        assert check_folder("cache folder", folder).status is Status.FAIL
    tmp_path.chmod(0o700)


def test_a_damaged_cache_is_a_warning(piaa_home: Path) -> None:
    (piaa_home / "cache").mkdir()
    (piaa_home / "cache" / "embeddings.sqlite").write_bytes(b"no database " * 1000)
    found = {check.name: check for check in examine()}
    assert found["cache"].status is Status.WARN
    assert found["cache"].next_step == "piaa cache clear"


def test_profiles_of_another_model_and_damaged_ones_are_warnings(photos: list[Path]) -> None:
    scorer = Scorer.from_pretrained(cache=False)
    for name in ("ann", "bob the 2nd"):
        scorer.personalize(list(zip(photos[:3], (1, 3, 5), strict=True)), user=name)
    store = ProfileStore()
    (ready,) = check_profiles(store, scorer.bundle.bundle_revision)
    assert (ready.status, ready.detail) == (Status.OK, "2 of 2 ready to use")
    ann, bob, summary = check_profiles(store, "another revision")
    assert [check.status for check in (ann, bob, summary)] == [Status.WARN, Status.WARN, Status.OK]
    assert bob.next_step == "piaa users refit 'bob the 2nd'"
    next(store.folder.glob("ann-*/*.safetensors")).write_bytes(b"damaged")
    damaged, summary = check_profiles(store, scorer.bundle.bundle_revision)
    assert damaged.status is Status.WARN
    assert damaged.detail.startswith("ann: ")
    assert summary.detail == "1 of 2 ready to use"


def test_what_is_not_installed_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = {check.name: check for check in examine()}
    assert found["extra parquet"].status is Status.OK
    assert "not installed" in found["extra parquet"].detail
    assert found["extra parquet"].next_step == "pip install pyarrow, if you want it"


def golden_check(model: Path, change: Callable[[dict[str, Any]], None]) -> Check:
    golden = json.loads((model / GOLDEN_NAME).read_text())
    change(golden)
    (model / GOLDEN_NAME).write_text(json.dumps(golden))
    write_config(model, json.loads((model / "config.json").read_text()))
    return list(check_model(model))[-1]


def test_embeddings_that_are_not_those_of_the_model_are_found(model: Path) -> None:
    """A score is one number and can be right by chance."""

    def move(golden: dict[str, Any]) -> None:
        picture = golden["pictures"][1]
        picture["embedding_start"][3] += 2 * golden["tolerance"]["embedding"] * picture["embedding_norm"]

    check = golden_check(model, move)
    assert check.status is Status.FAIL
    assert "the embedding of golden/2-shapes.png moved by 0.04" in check.detail


def test_a_model_without_golden_embeddings_is_judged_by_its_scores(model: Path) -> None:
    def strip(golden: dict[str, Any]) -> None:
        del golden["tolerance"]["embedding"]
        for picture in golden["pictures"]:
            del picture["embedding_start"], picture["embedding_norm"]

    assert golden_check(model, strip).status is Status.OK


def test_a_score_that_is_not_a_number_is_not_taken_for_the_right_one(model: Path) -> None:
    check = golden_check(model, lambda golden: golden["pictures"][0].update(score=float("nan")))
    assert check.status is Status.FAIL


def test_other_scores_come_with_a_step_that_can_be_taken(model: Path) -> None:
    def move(golden: dict[str, Any]) -> None:
        golden["pictures"][0]["score"] += 1

    step = golden_check(model, move).next_step
    assert step is not None
    assert f"pip install --upgrade pillow {next(iter(installed_runtimes()))}" in step
    assert ("piaa score" in step) == ("--device cpu" in step)


def test_a_golden_file_that_goes_away_is_a_finding_not_a_crash(model: Path) -> None:
    checks = check_model(model)
    assert next(checks).status is Status.OK
    (model / GOLDEN_NAME).unlink()
    assert [(check.name, check.status) for check in checks] == [
        ("device", Status.OK),
        ("known scores", Status.FAIL),
    ]


def test_a_home_folder_of_nobody_is_a_finding_and_the_rest_is_examined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIAA_HOME", "~nobody-of-that-name/piaa")
    found = {check.name: check for check in examine()}
    assert found["own folders"].status is Status.FAIL
    assert "PIAA_HOME is '~nobody-of-that-name/piaa'" in found["own folders"].detail
    assert found["photo formats"].status is Status.OK
