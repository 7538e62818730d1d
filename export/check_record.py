"""What the last check of a bundle found, kept beside its files; what was not passed is not published.

The record's name begins with a dot, so it is no part of the bundle and changes none of its checksums.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from training.folder_writing import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT_VERSION = 1
RECORD_NAME = ".check.json"


def write_passed(folder: Path, bundle_revision: str, figures: Mapping[str, float]) -> None:
    """Record that a bundle was checked in full, and that nothing was wrong.

    Args:
        folder: Of the bundle.
        bundle_revision: Its revision; of another one the record says nothing.
        figures: What was measured, by name.

    Raises:
        OutputError: The disk refuses.
    """
    _write(folder, bundle_revision, figures, passed=True)


def write_failed(folder: Path, bundle_revision: str, figures: Mapping[str, float]) -> None:
    """Record that a check of a bundle found something wrong.

    Args:
        folder: Of the bundle.
        bundle_revision: Its revision; empty where its files do not even tell that.
        figures: What was measured until then, by name.

    Raises:
        OutputError: The disk refuses.
    """
    _write(folder, bundle_revision, figures, passed=False)


def _write(folder: Path, bundle_revision: str, figures: Mapping[str, float], *, passed: bool) -> None:
    # Not a number is what JSON cannot hold; null is what was not measured.
    numbers = {name: None if math.isnan(value) else float(value) for name, value in figures.items()}
    record = {
        "format_version": FORMAT_VERSION,
        "bundle_revision": bundle_revision,
        "passed": passed,
        "figures": numbers,
    }
    write_file(folder / RECORD_NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
