"""How long a person waits before anything happens, each time in a fresh process.

Run it from the checkout: ``python -m benchmarks.startup``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.pictures import find_or_make
from benchmarks.report import describe_machine, print_table, seconds, spread

MILLISECONDS = 1000


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--folder", type=Path, help="take the photo from your own JPEGs")
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
        workspace = Path(name)
        pictures = find_or_make(options.folder, 1, workspace)
        times = measure(commands(pictures.paths[0], options.model), options.rounds, workspace)
    print(f"{describe_machine()}\n{pictures.description}; {options.rounds} rounds\n")
    rows = [[label, spread([value * MILLISECONDS for value in values], 0)] for label, values in times.items()]
    print_table(["process", "ms: median (lowest to highest)"], rows)


def commands(photo: Path, model: Path | None) -> dict[str, list[str]]:
    """Name the command lines to time; the first is the floor under all others."""
    program = [sys.executable, "-m", "piaa_sdk"]
    score = [*program, "score", str(photo), *(["--model", str(model)] if model else [])]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import piaa_sdk": [sys.executable, "-c", "import piaa_sdk"],
        "from piaa_sdk import Scorer": [sys.executable, "-c", "from piaa_sdk import Scorer"],
        "piaa --help": [*program, "--help"],
        "piaa score one.jpg, cache off": [*score, "--no-cache"],
        "piaa score one.jpg, from the cache": score,
    }


def measure(lines: dict[str, list[str]], rounds: int, workspace: Path) -> dict[str, list[float]]:
    """Time each command line once per round, after one round that fills the caches."""
    environment = os.environ | {"PIAA_HOME": str(workspace / "home")}

    def run(line: list[str]) -> None:
        subprocess.run(line, env=environment, check=True, capture_output=True)

    for line in lines.values():
        run(line)
    times: dict[str, list[float]] = {label: [] for label in lines}
    for _ in range(rounds):
        for label, line in lines.items():
            times[label].append(seconds(partial(run, line)))
    return times


if __name__ == "__main__":
    main()
