"""How long a model from the Hub takes to be ready in a fresh process when it is in the cache already.

A snapshot of the model in the package is laid out as the Hub's cache keeps it; nothing is downloaded, and the
pinned line opens no socket. Run it from the checkout: ``python -m benchmarks.hub_start``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import describe_machine, print_table, spread
from piaa_sdk.bundle import EMBEDDED_FOLDER

MILLISECONDS = 1000
REPOSITORY, COMMIT = "org/name", "0123456789abcdef" * 2 + "01234567"

STATEMENTS = """
import time
from piaa_sdk import Scorer
started = time.perf_counter()
Scorer.from_pretrained({model}, cache=False)
print(time.perf_counter() - started)
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
        home = Path(name)
        lay_out(home / "hub" / "models--org--name")
        times = measure(home, options.rounds)
    print(f"{describe_machine()}\nthe model in the package; {options.rounds} rounds\n")
    rows = [[label, spread([value * MILLISECONDS for value in values], 0)] for label, values in times.items()]
    print_table(["from_pretrained in a fresh process", "ms: median (lowest to highest)"], rows)


def lay_out(folder: Path) -> None:
    """Put the model where the Hub's client would have put it."""
    shutil.copytree(EMBEDDED_FOLDER, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)


def measure(home: Path, rounds: int) -> dict[str, list[float]]:
    """Time each way once per round, after one round that fills the caches of the system."""
    models = {
        "the model in the package": "None",
        "org/name@commit, in the cache": repr(f"{REPOSITORY}@{COMMIT}"),
        "org/name, in the cache, HF_HUB_OFFLINE=1": repr(REPOSITORY),
    }
    settings = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "PIAA_HOME": home / "piaa"}
    environment = os.environ | {name: str(path) for name, path in settings.items()}
    times: dict[str, list[float]] = {label: [] for label in models}
    for number in range(rounds + 1):
        for label, model in models.items():
            offline = "1" if "OFFLINE" in label else "0"
            completed = subprocess.run(
                [sys.executable, "-c", STATEMENTS.format(model=model)],
                env=environment | {"HF_HUB_OFFLINE": offline},
                check=True,
                capture_output=True,
                text=True,
            )
            if number:
                times[label].append(float(completed.stdout))
    return times


if __name__ == "__main__":
    main()
