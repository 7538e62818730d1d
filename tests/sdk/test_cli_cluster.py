"""``piaa score --engine ray`` as far as it goes without Ray: what is refused, and a job that is done."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from piaa_sdk.announcements import announce
from piaa_sdk.cli import app
from piaa_sdk.cli_cluster import _own_stream
from piaa_sdk.engines import BatchScorer
from piaa_sdk.engines.job_folder import JobFolder, JobRecord, encode_rows
from piaa_sdk.engines.parts import split
from piaa_sdk.engines.ray_data import local_settings
from piaa_sdk.errors import PiaaWarning
from piaa_sdk.terminal import Console

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


@pytest.fixture(scope="module", autouse=True)
def _import_ray_as_on_this_machine() -> None:
    """Ray notes at its import whether it asks for tokens, for as long as the process lives.

    Imported here as it is for an address that is given, it would refuse the clusters of this machine that
    other tests of the process start.
    """
    with local_settings():
        importlib.import_module("ray")


def run(*arguments: object, code: int = 0) -> Result:
    """Run ``piaa score`` on Ray and check its exit code; nothing may come out but messages."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments), "--engine", "ray"])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert result.stdout == ""
    return result


@pytest.mark.parametrize(
    "options",
    [
        ("--top", "3"),
        ("--order", "score"),
        ("--force",),
        ("--format", "csv"),
        ("--user", "mira", "--user", "tom"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_with_a_cluster_is_refused(
    photos: list[Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    result = run(photos[0], "--output", tmp_path / "out", *options, code=2)
    assert options[0] in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_must_be_named(photos: list[Path]) -> None:
    assert "add --output DIR" in run(photos[0], code=2).stderr


@pytest.mark.parametrize("option", [("--address", "auto"), ("--part-size", "3")])
def test_a_run_without_a_cluster_has_no_address(photos: list[Path], option: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["score", str(photos[0]), *option])
    assert result.exit_code == 2
    assert "only --engine ray has it" in result.stderr


def test_a_person_nobody_knows_shows_at_once(photos: list[Path], tmp_path: Path) -> None:
    result = run(photos[0], "--user", "nobody", "--output", tmp_path / "out", code=1)
    assert "no profile of 'nobody'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_ray_the_command_names_what_to_install(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(photos[0], "--output", tmp_path / "out", code=1)
    assert result.stderr == (
        'error: --engine ray needs an optional package. Install it with: pip install "ray[data]" pyarrow\n'
    )


def test_a_cluster_that_is_not_there_is_named(photos: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    result = run(photos[0], "--output", tmp_path / "out", "--address", "127.0.0.1:1", code=1)
    assert result.stderr.startswith("error: no Ray cluster at 127.0.0.1:1: ")


def test_a_finished_job_is_told_and_not_done_again(photos: list[Path], tmp_path: Path) -> None:
    """All parts are there, so Ray is not even started; the exit code still tells of what failed."""
    pytest.importorskip("ray")
    photos[2].write_bytes(b"")
    scorer, parts = BatchScorer(), list(split([str(photos[0].parent)], 5))
    folder = JobFolder(tmp_path / "out", JobRecord.of(scorer, parts, 5))
    for part in parts:
        folder.write(part, encode_rows(list(scorer.rows(part.pictures())), part))
    loaded = "ray" in sys.modules

    result = run(photos[0].parent, "--output", tmp_path / "out", "--part-size", 5, code=1)

    assert result.stderr.splitlines() == [
        f"going on in {tmp_path / 'out'}, where 12 photos of 12 are done",
        "scored 11 of 12 photos the way most people would, scale 1 to 7, 12 of them in an earlier run; "
        f"1 could not be read, see the column error; wrote {tmp_path / 'out'}",
    ]
    assert ("ray" in sys.modules) == loaded


def test_messages_reach_the_screen_while_ray_is_muted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What Ray's threads and C++ write goes nowhere; warnings and announcements of ours do not go with it."""
    with (tmp_path / "screen").open("w") as screen, _own_stream(Console(screen)) as own:
        warnings.warn("the profile is old", PiaaWarning, stacklevel=1)
        announce("fetching a model")
        os.write(1, b"noise")
        os.write(2, b"noise")
        own.say("done")
    assert (tmp_path / "screen").read_text().splitlines() == [
        "warning: the profile is old",
        "fetching a model",
        "done",
    ]
    assert capfd.readouterr() == ("", "")
