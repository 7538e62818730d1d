"""How long a person waits before anything happens, each time in a fresh process.

Run it from the checkout: ``python -m benchmarks.startup``. Warm: everything has been read before. Cold: the
home folder is empty, so that nothing has been stored, and the files that the command reads (program,
libraries, model, photo) have been dropped from the system's memory, where it lets go of them: of libraries
that another running program uses, it does not. The photo has 12 megapixels.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import as_installed, describe_machine, print_table, seconds, spread
from piaa_sdk.bundle import EMBEDDED_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable

MILLISECONDS = 1000
TARGET = 0.8
HELP, SCORE, SCORE_COLD = "piaa --help", "piaa score one.jpg, cache off", "piaa score one.jpg, cold"

MAKE_PHOTO = """
import sys
from pathlib import Path
from benchmarks.pictures import make_pictures
make_pictures(Path(sys.argv[1]), 1, (4000, 3000))
"""
"""In a process of its own: this one must not hold on to libraries that are to be dropped."""

FILES_READ = """
import contextlib, re, sys
from typer.testing import CliRunner
from piaa_sdk.cli import app
assert CliRunner().invoke(app, sys.argv[1:]).exit_code == 0
mapped = re.findall(r"(/.+)$", open("/proc/self/maps").read(), re.MULTILINE)
modules = [value for module in list(sys.modules.values())
    for value in (getattr(module, "__file__", None), getattr(module, "__cached__", None)) if value]
print("\\n".join({*mapped, *modules}))
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--photo", type=Path, help="a photo of your own instead of a made one")
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
        workspace = Path(name)
        photo = options.photo or make_photo(workspace)
        size = photo.stat().st_size / 1e6
        times = measure(commands(photo, options.model), photo, options.rounds, workspace)
    print(f"{describe_machine()}\na photo of {size:.1f} MB; {options.rounds} rounds\n")
    rows = [[label, spread([value * MILLISECONDS for value in values], 0)] for label, values in times.items()]
    print_table(["process", "ms: median (lowest to highest)"], rows)
    reached = statistics.median(times[SCORE])
    verdict = "met" if reached < TARGET else f"missed by {reached / TARGET - 1:.0%}"
    print(f"\ntarget {SCORE}, warm < {TARGET} s: {reached:.2f} s, {verdict}")
    if SCORE_COLD in times:
        print(f"cold, for which there is no target: {statistics.median(times[SCORE_COLD]):.2f} s")


def make_photo(workspace: Path) -> Path:
    """Make a photo of 12 megapixels."""
    subprocess.run([sys.executable, "-c", MAKE_PHOTO, str(workspace)], check=True)
    return next(workspace.glob("*.jpg"))


def commands(photo: Path, model: Path | None) -> dict[str, list[str]]:
    """Name the command lines to time warm; the first is the floor under all others."""
    program = [sys.executable, "-m", "piaa_sdk"]
    score = [*program, "score", str(photo), *(["--model", str(model)] if model else [])]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import piaa_sdk": [sys.executable, "-c", "import piaa_sdk"],
        "from piaa_sdk import Scorer": [sys.executable, "-c", "from piaa_sdk import Scorer"],
        HELP: [*program, "--help"],
        SCORE: [*score, "--no-cache"],
        "piaa score one.jpg, from the cache": score,
    }


def measure(lines: dict[str, list[str]], photo: Path, rounds: int, workspace: Path) -> dict[str, list[float]]:
    """Time each command line once per round, after one that fills the caches; then the cold ones."""
    home = workspace / "home"
    environment = as_installed(home)

    def run(line: list[str]) -> None:
        subprocess.run(line, env=environment, check=True, capture_output=True)

    for line in lines.values():
        run(line)
    times: dict[str, list[float]] = {label: [] for label in lines}
    for _ in range(rounds):
        for label, line in lines.items():
            times[label].append(seconds(partial(run, line)))
    if not hasattr(os, "posix_fadvise") or not Path("/proc/self/maps").exists():
        return times
    *_, score = lines.values()
    files = files_read_by(score, environment) | {photo}
    for label, line in (("piaa --help, cold", lines[HELP]), (SCORE_COLD, score)):
        times[label] = []
        for _ in range(rounds):
            shutil.rmtree(home, ignore_errors=True)
            drop(files)
            times[label].append(seconds(partial(run, line)))
    return times


def files_read_by(line: list[str], environment: dict[str, str]) -> set[Path]:
    """Find the files that a command line reads: modules, libraries and the model in the package."""
    _, _, _, *arguments = line
    completed = subprocess.run(
        [sys.executable, "-c", FILES_READ, *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = {Path(text) for text in completed.stdout.splitlines()} | {*EMBEDDED_FOLDER.rglob("*")}
    return {path for path in paths if path.is_file()}


def drop(paths: Iterable[Path]) -> None:
    """Ask the system to forget what files hold, after what is not on the disk yet has been written there."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    main()
