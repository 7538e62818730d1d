"""What every benchmark prints: the machine, the versions, medians with their spread."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from typing import TYPE_CHECKING

from piaa_sdk import __version__
from piaa_sdk.devices import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

BUSY = 0.25
"""Processes per core that wait or run, above which figures are not to be trusted."""

DISTRIBUTIONS = (
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "xxhash",
    "torch",
    "torchvision",
    "timm",
)


LOAD_AT_START = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def as_installed(home: Path) -> dict[str, str]:
    """Return the environment of a program that is timed: a home of its own, and compiled as pip compiles it.

    A checkout may lie where no bytecode is kept; then every start would compile the sources anew.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PIAA_HOME": str(home), "PYTHONPYCACHEPREFIX": str(home.with_name("bytecode"))}


def describe_machine() -> str:
    """Return the processor, the cores this process may use, Python and the versions that matter.

    A last line says so where the machine was busy with other things when the benchmark began.
    """
    versions = [f"piaa-sdk {__version__}", f"Python {platform.python_version()}"]
    for name in DISTRIBUTIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = f"{cpu_count()} of {os.cpu_count()} cores"
    lines = [f"{_processor()}, {cores}, {platform.system()}", ", ".join(versions)]
    if BUSY * cpu_count() < LOAD_AT_START:
        lines.append(
            f"BUSY: {LOAD_AT_START:.1f} processes were at work before; rates come out too low, and those of "
            "torch's scripts much too low"
        )
    return "\n".join(lines)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - not a file of ours
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def seconds(action: Callable[[], object]) -> float:
    """Run an action once and return how long it took."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median and, in brackets, the lowest and the highest value."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table: it can be read as it is and pasted as it is."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
