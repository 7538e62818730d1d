"""The wheel as a stranger gets it: built, looked into, installed in an empty environment and used there.

An editable install hides a file that is missing from the wheel and a dependency that is declared nowhere. So
the wheel is installed outside the checkout, beside exactly the distributions it declares and nothing else of
this environment. Nothing is fetched: the declared distributions are linked from the running environment.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from environments import ROOT, Installed, build_wheel, install

import piaa_sdk
from piaa_sdk.errors import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = ROOT / "piaa_sdk"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout by its own build backend, without an index."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as archive:
        yield archive


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, outside the checkout."""
    return install(wheel, tmp_path_factory.mktemp("empty"))


def test_wheel_holds_the_package_alone(contents: zipfile.ZipFile) -> None:
    """No training, export or tests: an installed top-level `training` would shadow other people's."""
    roots = {name.partition("/")[0] for name in contents.namelist()}
    metadata = f"piaa_sdk-{piaa_sdk.__version__}.dist-info"
    assert roots == {"piaa_sdk", metadata}
    assert {f"{metadata}/licenses/LICENSE", f"{metadata}/licenses/NOTICE"} <= set(contents.namelist())


def test_wheel_holds_every_file_of_the_package(contents: zipfile.ZipFile) -> None:
    packed = {name for name in contents.namelist() if name.startswith("piaa_sdk/")}
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == on_disk
    assert "piaa_sdk/py.typed" in packed


def test_wheel_holds_the_whole_default_model(contents: zipfile.ZipFile) -> None:
    """Every file the bundle lists is there, byte for byte, and the wheel stays small enough to download."""
    prefix = "piaa_sdk/default_model/"
    listed = json.loads(contents.read(prefix + "config.json"))["files"]
    assert "onnx/backbone.onnx" in listed
    for name, expected in listed.items():
        assert hashlib.sha256(contents.read(prefix + name)).hexdigest() == expected["sha256"], name
    unpacked = sum(entry.file_size for entry in contents.infolist() if entry.filename.startswith(prefix))
    assert unpacked < 25_000_000


def test_installed_package_is_the_wheel(installed: Installed) -> None:
    """What runs below is the wheel, not this checkout, and it sees none of the developer's libraries."""
    report = (
        "import importlib.util, json, piaa_sdk; "
        "print(json.dumps([piaa_sdk.__file__, piaa_sdk.__version__, "
        "[name for name in ('torch', 'pytest', 'scipy', 'training') if importlib.util.find_spec(name)]]))"
    )
    completed = installed.run(installed.python, "-c", report)
    assert completed.returncode == 0, completed.stderr
    file, version, undeclared = json.loads(completed.stdout)
    assert Path(file).resolve().is_relative_to(installed.site_packages.resolve())
    assert version == piaa_sdk.__version__
    assert undeclared == []


def test_version_and_help(installed: Installed) -> None:
    version = installed.run(installed.piaa, "--version")
    assert version.returncode == 0, version.stderr
    assert piaa_sdk.__version__ in version.stdout
    for command in ([], ["score"], ["personalize"], ["users"], ["model"], ["cache"], ["doctor"], ["demo"]):
        told = installed.run(installed.piaa, *command, "--help")
        assert told.returncode == 0, told.stderr
        assert "Usage" in told.stdout


def test_installed_program_scores_photos(installed: Installed) -> None:
    """The golden pictures are scored, offline, with what the wheel declares and nothing else."""
    photos = installed.site_packages / "piaa_sdk" / "default_model" / "golden"
    completed = installed.run(installed.piaa, "score", photos, "--format", "jsonl")
    assert completed.returncode == 0, completed.stderr
    rows = [json.loads(line) for line in completed.stdout.splitlines()]
    assert {Path(row["path"]).name for row in rows} == {path.name for path in photos.iterdir()}
    assert [row["error"] for row in rows] == [None] * len(rows)


def test_doctor_finds_the_installation_sound(installed: Installed) -> None:
    """Checksums and golden scores are computed again where the wheel was unpacked."""
    completed = installed.run(installed.piaa, "doctor")
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_missing_extra_is_one_line_with_the_command(installed: Installed) -> None:
    """Without the extra, Parquet output and the demo say what to install and leave no traceback."""
    photos = installed.site_packages / "piaa_sdk" / "default_model" / "golden"
    parquet = ["score", photos, "--format", "parquet", "--output", installed.workplace / "scores.parquet"]
    for arguments, extra in ((parquet, "parquet"), (["demo"], "demo")):
        completed = installed.run(installed.piaa, *arguments)
        assert completed.returncode == 1
        assert install_command(extra) in completed.stderr
        assert "Traceback" not in completed.stderr
