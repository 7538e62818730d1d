"""Learning one person: the whole command, from new photos and from cached ones, and the steps inside it.

Run it from the checkout: ``python -m benchmarks.personalize``. The photos are parts of the photographs that
scikit-image and scikit-learn carry, 12 megapixels each; the ratings are drawn: the generic score, a taste of
its own and noise. New: in a home folder that is empty. Cached: the same command again, ``--replace``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pictures import find_or_make
from benchmarks.report import as_installed, describe_machine, print_table, seconds, spread
from piaa_sdk import RatingScale, Scorer, SupportSet
from piaa_sdk.adaptation import adapt, judge
from piaa_sdk.head import Prior

if TYPE_CHECKING:
    from collections.abc import Mapping

MILLISECONDS = 1000
NEW, CACHED = "piaa personalize, new photos", "piaa personalize, cached photos"
TARGETS = {NEW: 4.0, CACHED: 0.3}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.personalize", description=__doc__)
    parser.add_argument("--folder", type=Path, help="use your own JPEGs instead of made ones")
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--shots", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="of the commands; steps are timed three times")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
        workspace = Path(name)
        pictures = find_or_make(options.folder, options.shots, workspace)
        scorer = Scorer.from_pretrained(options.model, cache=workspace / "embeddings.sqlite", device="cpu")
        embeddings = scorer.embed(list(pictures.paths))
        rated = dict(zip(pictures.paths, draw_ratings(scorer, embeddings).tolist(), strict=True))
        commands = measure_commands(rated, options.model, options.rounds, workspace)
        steps = measure_steps(scorer, embeddings, rated, 3 * options.rounds)
    print(f"{describe_machine()}\n{pictures.description}; {options.rounds} rounds\n")
    rows = [
        [label, spread([value * MILLISECONDS for value in values])]
        for label, values in (commands | steps).items()
    ]
    print_table(["what", "ms: median (lowest to highest)"], rows)
    print()
    for label, target in TARGETS.items():
        reached = statistics.median(commands[label])
        verdict = "met" if reached < target else f"missed by {reached / target - 1:.0%}"
        print(f"target {label} < {target:g} s: {reached:.2f} s, {verdict}")


def measure_commands(
    rated: Mapping[Path, float], model: Path | None, rounds: int, workspace: Path
) -> dict[str, list[float]]:
    """Time the whole command on new photos and on cached ones, in turn."""
    table, home = workspace / "ratings.csv", workspace / "home"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "rating"), *rated.items()])
    line = [sys.executable, "-m", "piaa_sdk", "personalize", str(table), "--user", "somebody"]
    line += ["--scale", "1", "5", "--replace", *(["--model", str(model)] if model else [])]
    environment = as_installed(home)
    times: dict[str, list[float]] = {NEW: [], CACHED: []}
    for number in range(rounds + 1):
        shutil.rmtree(home, ignore_errors=True)
        for label, values in times.items():
            start = time.perf_counter()
            done = subprocess.run(line, env=environment, capture_output=True, text=True)
            duration = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(f"{label} ended with code {done.returncode}: {done.stderr}")
            if number:
                values.append(duration)
    return times


def measure_steps(
    scorer: Scorer, embeddings: np.ndarray, rated: Mapping[Path, float], rounds: int
) -> dict[str, list[float]]:
    """Time each step of learning once per round; the photos are in the scorer's cache."""
    scale = RatingScale(1, 5)
    names = {str(path): rating for path, rating in rated.items()}
    support = SupportSet(embeddings, scale.to_unit(np.array([*names.values()])), tuple(names))
    prior = Prior.load(scorer.bundle.prior_path)
    steps = {
        "adapt: the personal head from the embeddings": lambda: adapt(prior, support),
        "judge: the report on left-out pairs": lambda: judge(prior, support),
        "scorer.personalize: look the photos up in the cache and adapt": lambda: scorer.personalize(
            names, scale=(scale.low, scale.high)
        ),
    }
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def draw_ratings(scorer: Scorer, embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw a person's ratings of N pictures: generic score, own taste and noise; (N,), 1 to 5."""
    random = np.random.default_rng(seed)
    generic = _standardize(np.asarray(scorer.score_embeddings(embeddings)))
    taste = _standardize(embeddings @ random.standard_normal(embeddings.shape[1]))
    mixed = 0.5 * generic + 0.3 * taste + 0.4 * random.standard_normal(len(embeddings))
    return np.clip(np.rint(3 + 1.2 * _standardize(mixed)), 1, 5)


def _standardize(values: np.ndarray) -> np.ndarray:
    standardized: np.ndarray = (values - values.mean()) / (values.std() or 1)
    return standardized


if __name__ == "__main__":
    main()
