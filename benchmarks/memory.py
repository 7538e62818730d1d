"""Memory of one long run of ``piaa score``, sampled while it goes on, with the embedding cache off and on.

Run it from the checkout on Linux: ``python -m benchmarks.memory``. Some different pictures are copied until
there are enough, each copy with other bytes behind the end of the picture, so that neither the cache nor the
search for duplicates can recognize it. The copies are real files, 3 MB each: 10,000 take 30 GB of disk.
``--rows off`` alone answers the question of the peak in a third of the time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pictures import find_or_make
from benchmarks.report import describe_machine, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE_SECONDS = 0.1
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
KILOBYTE = 1024
MEGABYTE = 1_000_000
TARGET = 400
ROWS = {
    "off": ("off", ["--no-cache"]),
    "empty": ("on, empty at first", []),
    "filled": ("on, second run", []),
}
"""What --rows chooses from: the label, and what the command is given. ``filled`` comes after ``empty``."""


def main() -> None:
    """Measure and print the table."""
    options = _parse_options()
    if not Path("/proc/self/status").exists():
        raise SystemExit("this benchmark reads /proc, which only Linux has")
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as name:
        workspace = Path(name)
        made, library = workspace / "made", workspace / "library"
        made.mkdir()
        library.mkdir()
        pictures = find_or_make(options.folder, options.distinct, made)
        write_copies(pictures.paths, options.photos, library)
        print(f"{describe_machine()}\n{options.photos} photos, copies of {pictures.description}\n")
        more = [f"--workers={options.workers}"] if options.workers else []
        more += [f"--model={options.model}"] if options.model else []
        rows = []
        for choice in options.rows:
            label, arguments = ROWS[choice]
            rows.append([label, *run(library, workspace, [*arguments, *more], options.photos)])
    shares = [f"MB at {share:.0%}" for share in SHARES]
    print_table(["cache", "photos/s", "peak MB", *shares, "MB per 1000"], rows)
    print("\npeak: highest resident memory; MB at: median over that tenth of the run;")
    print("MB per 1000: slope of a line through the samples of the second half, per 1000 photos")
    peak = max(float(row[2]) for row in rows)
    print(f"target peak <= {TARGET} MB: {peak:.0f} MB, {'met' if peak <= TARGET else 'missed'}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--folder", type=Path, help="use your own JPEGs instead of made ones")
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--distinct", type=int, default=50, help="different pictures among them")
    parser.add_argument("--workers", type=int, help="workers of the SDK (default: as many as cores)")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS), help="what to run")
    options = parser.parse_args()
    if "filled" in options.rows and "empty" not in options.rows[: options.rows.index("filled")]:
        parser.error("the row filled needs the row empty before it: --rows empty filled")
    return options


def write_copies(paths: tuple[Path, ...], count: int, library: Path) -> None:
    """Write ``count`` files with different bytes that show the given pictures in turn.

    Raises:
        SystemExit: They do not fit on the disk.
    """
    needed = sum(path.stat().st_size for path in paths) * count / len(paths)
    free = shutil.disk_usage(library).free
    if needed > 0.95 * free:
        raise SystemExit(
            f"the copies take {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free; lower --photos, or name a "
            "folder with more room in TMPDIR"
        )
    for index, path in zip(range(count), itertools.cycle(paths), strict=False):
        data = path.read_bytes() + index.to_bytes(8, "little")  # behind the end marker no decoder looks
        (library / f"{index:05}.jpg").write_bytes(data)


def run(library: Path, workspace: Path, arguments: list[str], photos: int) -> list[str]:
    """Score the library in a process of its own and return the cells of its row."""
    output, messages = workspace / "scores.jsonl", workspace / "messages.txt"
    program = [sys.executable, "-m", "piaa_sdk", "score", str(library)]
    start = time.monotonic()
    with messages.open("wb") as log:
        process = subprocess.Popen(
            [*program, "--format", "jsonl", "--output", str(output), *arguments],
            env=os.environ | {"PIAA_HOME": str(workspace / "home")},
            stderr=log,
        )
        samples = np.array(list(sample_memory(process)))
    duration = time.monotonic() - start
    scored = output.read_bytes().count(b"\n") if process.returncode == 0 else 0
    output.unlink(missing_ok=True)
    if scored != photos:
        said = messages.read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"{said}the run ended with code {process.returncode} and {scored} of {photos} rows")
    return [f"{photos / duration:.1f}", *summarize(samples, photos)]


def sample_memory(process: subprocess.Popen[bytes]) -> Iterator[tuple[float, float]]:
    """Yield resident and highest resident memory, MB, until the process ends."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            fields = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status.read_text(), re.MULTILINE))
        except FileNotFoundError:
            break
        if len(fields) == 2:  # a process that is ending has no memory left to tell of
            yield int(fields["VmRSS"]) * KILOBYTE / MEGABYTE, int(fields["VmHWM"]) * KILOBYTE / MEGABYTE
        time.sleep(SAMPLE_SECONDS)
    process.wait()


def summarize(samples: np.ndarray, photos: int) -> list[str]:
    """Reduce samples, (T, 2) MB, to the peak, medians over tenths of the run and a slope per 1000 photos."""
    resident = samples[:, 0]
    ends = [int(len(resident) * share) for share in SHARES]
    tenth = max(1, len(resident) // 10)
    medians = [float(np.median(resident[max(0, end - tenth) : max(1, end)])) for end in ends]
    half = resident[len(resident) // 2 :]
    progress = np.linspace(0.5, 1.0, len(half)) * photos / 1000
    slope = float(np.polyfit(progress, half, 1)[0]) if len(half) > 1 else float("nan")
    return [f"{samples[:, 1].max():.0f}", *(f"{value:.0f}" for value in medians), f"{slope:+.1f}"]


if __name__ == "__main__":
    main()
