"""Scoring an unchanged folder again: every embedding comes from the cache, for one person or for several.

Run it from the checkout: ``python -m benchmarks.rescoring``. The photos are tiny files, since none is opened,
and the cache is filled with drawn embeddings through its own interface: embedding 50,000 photos would take an
hour, and finding and scoring a drawn embedding takes as long. The persons have learned from 20 real pictures.
Each time is that of a whole command in a fresh process; start-up is the same command on a folder of one
photo.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pictures import make_pictures
from benchmarks.report import as_installed, describe_machine, print_table, spread
from piaa_sdk import Scorer
from piaa_sdk.embedding_cache import CacheEntry, EmbeddingCache, FileStamp, content_key, default_path

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET = 5000
RATED = 20
STORED_AT_ONCE = 1000
MILLISECONDS = 1000


def main() -> None:
    """Measure and print the table."""
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
        workspace = Path(name)
        os.environ.update(as_installed(workspace / "home"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        users = prepare_people(workspace, options.model, max(options.persons))
        libraries = {count: make_library(workspace / str(count), count) for count in (1, *options.photos)}
        scorer = Scorer.from_pretrained(options.model, device="cpu")
        for library in libraries.values():
            fill_cache(scorer, library)
        print(f"{describe_machine()}\nrounds: {options.rounds}; 0 persons: the generic score\n")
        rows, rates = [], []
        for persons in options.persons:
            times = measure(libraries, users[:persons], options.model, options.rounds, workspace)
            for count in options.photos:
                cells, rate = summarize(count, times)
                rows.append([f"{count:,}", str(persons), *cells])
                rates.append(rate)
    header = [
        "photos",
        "persons",
        "whole command s",
        "photos/s of it",
        "photos/s after start-up",
        "first row ms",
    ]
    print_table(header, rows)
    verdict = "met" if min(rates) >= TARGET else "missed"
    print(
        f"\ntarget {TARGET:,} photos/s in every row, start-up included: slowest {min(rates):,.0f}, {verdict}"
    )


def prepare_people(workspace: Path, model: Path | None, count: int) -> list[str]:
    """Let some people learn from pictures, each from ratings of their own, and return their names."""
    pictures = workspace / "rated"
    pictures.mkdir()
    paths = make_pictures(pictures, RATED, size=(480, 360))
    scorer = Scorer.from_pretrained(model, device="cpu")
    users = [f"person-{number}" for number in range(count)]
    for number, user in enumerate(users):
        ratings = np.random.default_rng(number).permutation(np.arange(RATED) % 5 + 1)
        rated = {str(path): float(rating) for path, rating in zip(paths, ratings, strict=True)}
        scorer.personalize(rated, user=user, scale=(1, 5))
    return users


def make_library(folder: Path, count: int) -> list[Path]:
    """Write ``count`` tiny files with different bytes and return their paths."""
    folder.mkdir()
    (source,) = make_pictures(folder, 1, size=(32, 24))
    data = source.read_bytes()
    source.unlink()
    paths = [folder / f"{index:06}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(data + index.to_bytes(8, "little"))
    return paths


def fill_cache(scorer: Scorer, paths: Sequence[Path]) -> None:
    """Store a drawn embedding for every file, as if it had been scored before."""
    bundle = scorer.bundle
    random = np.random.default_rng(len(paths))
    with EmbeddingCache(default_path(), bundle.embedding_id, bundle.embedding_dim) as cache:
        for start in range(0, len(paths), STORED_AT_ONCE):
            part = paths[start : start + STORED_AT_ONCE]
            drawn = random.standard_normal((len(part), bundle.embedding_dim), dtype=np.float32)
            cache.store(
                [
                    CacheEntry(content_key(path.read_bytes()), embedding, FileStamp.of(path))
                    for path, embedding in zip(part, drawn, strict=True)
                ]
            )


def measure(
    libraries: dict[int, list[Path]], users: Sequence[str], model: Path | None, rounds: int, workspace: Path
) -> dict[int, list[tuple[float, float]]]:
    """Time whole commands and first rows, s, once per round and library, after one that does not count."""
    times: dict[int, list[tuple[float, float]]] = {count: [] for count in libraries}
    options = [word for user in users for word in ("--user", user)]
    options += ["--model", str(model)] if model else []
    for number in range(rounds + 1):
        for count, paths in libraries.items():
            line = [sys.executable, "-m", "piaa_sdk", "score", str(paths[0].parent), *options]
            whole = _time_whole(line, workspace / "scores.jsonl", count * max(1, len(users)))
            first = _time_first_row(line)
            if number:
                times[count].append((whole, first))
    return times


def summarize(count: int, times: dict[int, list[tuple[float, float]]]) -> tuple[list[str], float]:
    """Return the cells of a row, and the median rate of the whole command."""
    whole = [pair[0] for pair in times[count]]
    alone = [pair[0] for pair in times[1]]
    rates = [count / value for value in whole]
    # A library that takes no longer than one photo has no rate after start-up.
    after = [count / max(value - base, 1e-3) for value, base in zip(whole, alone, strict=True)]
    first = [pair[1] * MILLISECONDS for pair in times[count]]
    return [spread(whole, 2), spread(rates, 0), spread(after, 0), spread(first, 0)], statistics.median(rates)


def _time_whole(line: list[str], output: Path, rows: int) -> float:
    """Time a command that writes to a file, and make sure that it wrote all rows."""
    start = time.perf_counter()
    subprocess.run([*line, "--output", str(output), "--force"], check=True, capture_output=True)
    duration = time.perf_counter() - start
    found = output.read_bytes().count(b"\n")
    if found != rows:
        raise SystemExit(f"{found} rows were written, {rows} were expected; the figures would mean nothing")
    output.unlink()
    return duration


def _time_first_row(line: list[str]) -> float:
    """Time a command until its first row arrives, and stop it there."""
    start = time.perf_counter()
    with subprocess.Popen(
        [*line, "--format", "jsonl"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        row = process.stdout.readline()
        duration = time.perf_counter() - start
        process.kill()
    if not row:
        raise SystemExit("the command ended without a row; the figures would mean nothing")
    return duration


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rescoring", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--persons", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
