"""The wheel as a stranger gets it: built, looked into, installed in an empty environment and used there.

An editable install hides a file that is missing from the wheel and a dependency that is declared nowhere. So
the wheel is installed outside the checkout, beside exactly the distributions it declares and nothing else of
this environment. Nothing is fetched: the declared distributions are linked from the running environment.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import piaa_sdk
from piaa_sdk.errors import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "piaa_sdk"


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds the wheel and its declared dependencies, and a folder to work in."""

    python: Path
    piaa: Path
    site_packages: Path
    workplace: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command outside the checkout, with nothing of this process's Python settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIAA_"))}
        return subprocess.run(
            [str(part) for part in command],
            env=kept | {"PIAA_HOME": str(self.workplace / "home")},
            cwd=self.workplace,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def _declared(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Follow requirements to all the distributions they bring on this platform, by canonical name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        first_time = name not in found
        if first_time:
            found[name] = importlib.metadata.distribution(name)
        for wanted_extra in ({""} if first_time else set()) | requirement.extras:
            waiting += [(Requirement(text), wanted_extra) for text in found[name].requires or []]
    return found


def _link_dependencies(requirements: list[str], site_packages: Path) -> None:
    """Link the files of the declared distributions, and of no other, into another environment."""
    for distribution in _declared(requirements).values():
        assert distribution.files, f"{distribution.name} does not list its files"
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            target = site_packages / top
            if source.exists() and not target.exists():
                target.symlink_to(source, target_is_directory=source.is_dir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout by its own build backend, without an index."""
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as archive:
        yield archive


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, outside the checkout."""
    folder = tmp_path_factory.mktemp("empty")
    builder = venv.EnvBuilder(with_pip=False, symlinks=os.name == "posix")
    builder.create(folder / "venv")
    context = builder.ensure_directories(folder / "venv")
    python = Path(context.env_exe)
    _pip("--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel)
    scheme = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    site_packages = Path(sysconfig.get_path("purelib", scheme="venv", vars=scheme))
    (own_metadata,) = site_packages.glob("piaa_sdk-*.dist-info")
    _link_dependencies(importlib.metadata.Distribution.at(own_metadata).requires or [], site_packages)
    workplace = folder / "workplace"
    workplace.mkdir()
    return Installed(python, Path(context.bin_path) / "piaa", site_packages, workplace)


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
