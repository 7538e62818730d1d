"""Cold scoring of camera-sized JPEGs: the SDK against its own bounds and against scripts, round by round.

Run it from the checkout: ``python -m benchmarks.scoring``. All times are of the steady state: bundles,
networks and sessions are open, the files have been read before by the operating system, the embedding cache
is off. Opening and peak memory are those of a fresh process that does nothing else.

Bounds: decoding alone is the SDK's own reading and decoding, in as many threads as its pipeline has workers;
the network alone is its graph in as many threads, on pixels that are decoded already. A pipeline that did
nothing else would take the sum of both times. Shares and ratios are formed within each round. The share by
processor time, that of this process, tells the same, and still tells it on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from benchmarks.peers import PEER, find_peer
from benchmarks.pictures import find_or_make
from benchmarks.plain_bundle import LABEL as PLAIN_LABEL
from benchmarks.plain_bundle import make_plain_bundle
from benchmarks.report import describe_machine, print_table, seconds, spread
from benchmarks.scripts import BATCH, FAIR, NAIVE, scripts, spread_over
from piaa_sdk import Scorer
from piaa_sdk.backbone import Backbone
from piaa_sdk.devices import cpu_count
from piaa_sdk.hub import resolve_folder
from piaa_sdk.images import load_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from piaa_sdk.array_types import PixelArray

    Action = Callable[[Sequence[Path]], object]

PIPELINE, DECODING, NETWORK = "piaa-sdk", "bound: decoding alone", "bound: network alone"
TARGET_SHARE, TARGET_NAIVE, TARGET_FAIR = 0.95, 6.5, 3.2

FRESH_PROCESS = """
import json, re, sys, time
started = time.perf_counter()
from piaa_sdk import Scorer
imported = time.perf_counter()
folder, workers, *paths = sys.argv[1:]
scorer = Scorer.from_pretrained(folder, cache=False, device="cpu", workers=int(workers))
scorer.device
opened = time.perf_counter()
first = next(scorer.iter_scores(paths[:1]))
answered = time.perf_counter()
assert not any(score.error for score in scorer.iter_scores(paths))
try:
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6
except OSError:
    peak = None
times = {"import": imported - started, "open": opened - imported, "first": answered - opened}
print(json.dumps({**times, "peak": peak}))
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """An opened bundle.

    Attributes:
        label: What it is called in the tables.
        scorer: Without a cache.
        workers: Of its pipeline, and threads of its bounds.
        pixels: All pictures decoded, (N, S, S, 3) uint8.
    """

    label: str
    scorer: Scorer
    workers: int
    pixels: PixelArray

    @classmethod
    def open(cls, folder: Path, paths: Sequence[Path], workers: int) -> Self:
        """Open a bundle and decode the pictures for it."""
        scorer = Scorer.from_pretrained(folder, cache=False, device="cpu", workers=workers)
        preprocessing = scorer.bundle.preprocessing
        pixels = np.stack([load_image(path, preprocessing) for path in paths])
        return cls(f"{scorer.bundle.bundle_id}, {preprocessing.size} px", scorer, workers, pixels)

    def name(self, what: str) -> str:
        """Name one of the actions."""
        return f"{what} ({self.label})"

    def actions(self) -> dict[str, Action]:
        """Name what gets through some of the pictures once."""
        preprocessing = self.scorer.bundle.preprocessing
        backbone = Backbone(self.scorer.bundle, device="cpu")

        def run_network(paths: Sequence[Path]) -> None:
            batches = [self.pixels[start : start + BATCH] for start in range(0, len(paths), BATCH)]
            spread_over(self.workers, backbone.embed, batches)

        def decode(paths: Sequence[Path]) -> None:
            spread_over(self.workers, lambda path: load_image(path, preprocessing), paths)

        return {
            self.name(PIPELINE): self.score,
            self.name(DECODING): decode,
            self.name(NETWORK): run_network,
        }

    def score(self, paths: Sequence[Path]) -> None:
        """Score the pictures, and make sure that all were."""
        scores = self.scorer.score(list(paths))
        if any(score.error for score in scores) or len(scores) != len(paths):
            raise SystemExit("some pictures could not be scored; the figures would mean nothing")


def main() -> None:
    """Measure and print the tables."""
    options = _parse_options()
    workers = options.workers or cpu_count()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
        workspace = Path(name)
        pictures = find_or_make(options.folder, options.photos, workspace)
        folders = [resolve_folder(options.model)]
        if options.plain:
            folders.append(make_plain_bundle(workspace))
        peer, found = find_peer() if options.scripts else (None, "bounds only")
        print(f"{describe_machine()}\n{pictures.description}; {options.rounds} rounds, methods interleaved")
        print(f"{workers} workers of the SDK; {found}\n")
        subjects = [Subject.open(folder, pictures.paths, workers) for folder in folders]
        actions: dict[str, Action] = {}
        for subject in subjects:
            actions |= subject.actions()
        actions |= (scripts() if options.scripts else {}) | ({PEER: peer} if peer is not None else {})
        times, work = measure(actions, pictures.paths, options.rounds)
        fresh = [run_fresh(folder, pictures.paths, workers) for folder in folders]
    print_rates(times, options.photos)
    print_shares(subjects, times, work, fresh, options.photos)
    print_targets(subjects, times)


def measure(
    actions: Mapping[str, Action], paths: Sequence[Path], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time every action once per round, each round beginning with another, after a short one of each.

    Returns:
        Seconds that passed, and seconds of processor time, one number per round.
    """
    names = list(actions)
    times: dict[str, list[float]] = {name: [] for name in names}
    work: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        actions[name](paths[: 2 * BATCH])
    for index in range(rounds):
        start = index * len(names) // rounds
        for name in names[start:] + names[:start]:
            before = time.process_time()
            times[name].append(seconds(partial(actions[name], paths)))
            work[name].append(time.process_time() - before)
    return times, work


def run_fresh(folder: Path, paths: Sequence[Path], workers: int) -> dict[str, Any]:
    """Score the pictures in a process that does nothing else; return its times, s, and peak memory, MB."""
    line = [sys.executable, "-c", FRESH_PROCESS, str(folder), str(workers), *map(str, paths)]
    completed = subprocess.run(line, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(completed.stdout)
    return result


def shares_of(subject: Subject, times: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the pipeline's share of the combined bound in every round."""
    columns = [times[subject.name(what)] for what in (DECODING, NETWORK, PIPELINE)]
    return [(decoding + network) / pipeline for decoding, network, pipeline in zip(*columns, strict=True)]


def ratios_of(base: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return how many times as fast as a base something was in every round."""
    return [script / value for script, value in zip(base, values, strict=True)]


def print_rates(times: Mapping[str, Sequence[float]], photos: int) -> None:
    """Print photos per second and how many times as fast as the scripts everything is."""
    rows = []
    for name, values in times.items():
        ratios = [spread(ratios_of(times[base], values)) for base in (NAIVE, FAIR) if base in times]
        rows.append([name, spread([photos / value for value in values]), *ratios])
    print("Steady state; median (lowest to highest)\n")
    print_table(["method", "photos/s", "times (a)", "times (b)"][: len(rows[0])], rows)


def print_shares(
    subjects: Sequence[Subject],
    times: Mapping[str, Sequence[float]],
    work: Mapping[str, Sequence[float]],
    fresh: Sequence[Mapping[str, Any]],
    photos: int,
) -> None:
    """Print what the pipelines reach of their bounds, and what a fresh process takes."""
    rows = []
    for subject, alone in zip(subjects, fresh, strict=True):
        bounds = zip(times[subject.name(DECODING)], times[subject.name(NETWORK)], strict=True)
        milliseconds = [f"{1000 * alone[key]:.0f}" for key in ("import", "open", "first")]
        rows.append(
            [
                subject.label,
                spread([photos / sum(bound) for bound in bounds]),
                spread(shares_of(subject, times), 3),
                spread(shares_of(subject, work), 3),
                *milliseconds,
                "-" if alone["peak"] is None else f"{alone['peak']:.0f}",
            ]
        )
    print("\nAgainst both bounds together, 1 / (1 / decoding + 1 / network), and in a fresh process\n")
    shares = ["share of it", "by processor time"]
    print_table(["bundle", "bound, photos/s", *shares, "import ms", "open ms", "first ms", "peak MB"], rows)
    print("\nopen: load and check the bundle, open its session; first: from there to the first score")


def print_targets(subjects: Sequence[Subject], times: Mapping[str, Sequence[float]]) -> None:
    """Print what was aimed at on two cores and what was reached."""
    print()
    for subject in subjects:
        _print_target(f"{subject.label}: share of the bound", shares_of(subject, times), TARGET_SHARE)
    plain = [subject for subject in subjects if subject.label == PLAIN_LABEL and NAIVE in times]
    for subject in plain:
        values = times[subject.name(PIPELINE)]
        _print_target(f"{subject.label}: times (a)", ratios_of(times[NAIVE], values), TARGET_NAIVE)
        _print_target(f"{subject.label}: times (b)", ratios_of(times[FAIR], values), TARGET_FAIR)


def _print_target(what: str, values: Sequence[float], target: float) -> None:
    reached = statistics.median(values)
    verdict = "met" if reached >= target else f"missed by {1 - reached / target:.0%}"
    print(f"target {what} >= {target}: {spread(values, 2)}, {verdict}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.add_argument("--folder", type=Path, help="score your own JPEGs instead of made ones")
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="workers of the SDK (default: as many as cores)")
    parser.add_argument(
        "--scripts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the scripts and the peer, too; without them it takes a fourth of the time",
    )
    parser.add_argument(
        "--plain",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"measure the bundle {PLAIN_LABEL}, too: made here, one pass of EfficientNet-Lite0",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
