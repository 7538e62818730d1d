"""How soon the first photo of a very large library is known, and how soon all are.

Run it from the checkout: ``python -m benchmarks.listing``. The files are empty: only their names matter. One
library is a single folder, the other one has a thousand files in each of its folders. The names are in the
system's memory, as they are after somebody has looked into the folders.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.report import describe_machine, print_table, spread
from piaa_sdk.images import find_images

IN_ONE_FOLDER = 1000
MILLISECONDS = 1000


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for label, in_one_folder in (
        ("one folder", options.files),
        (f"folders of {IN_ONE_FOLDER:,}", IN_ONE_FOLDER),
    ):
        with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
            make_files(Path(name), options.files, in_one_folder)
            times = [list_files(Path(name), options.files) for _ in range(options.rounds)]
        rates = [options.files / every for _, every in times]
        first = [value * MILLISECONDS for value, _ in times]
        rows.append([label, spread(first), spread([every for _, every in times], 2), spread(rates, 0)])
    print(f"{describe_machine()}\n{options.files:,} files; {options.rounds} rounds\n")
    print_table(["library", "first path after ms", "all after s", "paths/s"], rows)


def make_files(folder: Path, count: int, in_one_folder: int) -> None:
    """Make empty files that are called like photos."""
    for start in range(0, count, in_one_folder):
        part = folder / f"{start // in_one_folder:05}"
        part.mkdir()
        for index in range(start, min(count, start + in_one_folder)):
            (part / f"IMG_{index:07}.jpg").touch()


def list_files(folder: Path, count: int) -> tuple[float, float]:
    """Return after how many seconds the first path came and after how many all had come."""
    start = time.perf_counter()
    found = find_images([folder])
    next(found)
    first = time.perf_counter() - start
    total = 1 + sum(1 for _ in found)
    if total != count:
        raise SystemExit(f"{total} files were found, {count} were expected; the figures would mean nothing")
    return first, time.perf_counter() - start


if __name__ == "__main__":
    main()
