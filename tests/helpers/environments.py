"""An environment that holds the built wheel and what it declares, and nothing else of the developer's.

An editable install hides a file that is missing from the wheel and a dependency that is declared nowhere. So
the wheel is installed outside the checkout, beside exactly the distributions it declares. Nothing is fetched:
these are linked from the running environment.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds the wheel and its declared dependencies, and a folder to work in."""

    python: Path
    piaa: Path
    site_packages: Path
    workplace: Path

    def run(self, *command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command outside the checkout, with nothing of this process's Python settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIAA_"))}
        return subprocess.run(
            [str(part) for part in command],
            env=kept | {"PIAA_HOME": str(self.workplace / "home"), **settings},
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


def declared(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
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
    for distribution in declared(requirements).values():
        assert distribution.files, f"{distribution.name} does not list its files"
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            target = site_packages / top
            if source.exists() and not target.exists():
                target.symlink_to(source, target_is_directory=source.is_dir())


def build_wheel(folder: Path) -> Path:
    """Build the wheel from the checkout by its own build backend, without an index."""
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, folder: Path) -> Installed:
    """Install a wheel in a new environment beside its declared dependencies."""
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
