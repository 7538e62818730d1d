"""What ``python -m export check`` found, kept beside a bundle, so that nothing unchecked is published.

It lies in the folder as ``.check.json``: names that begin with a dot are no part of a bundle, so it changes
neither the bundle's revision nor what goes up.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelError
from piaa_sdk.files import read_regular_file
from training.folder_writing import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT_VERSION = 1
RECORD_NAME = ".check.json"

_MAX_BYTES = 1 << 20


class CheckRecordError(ModelError):
    """A bundle has not passed its check as it is now."""


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


def read_passed(folder: Path, bundle_revision: str) -> dict[str, Any]:
    """Return the record of the check that a bundle has passed.

    Args:
        folder: Of the bundle.
        bundle_revision: Of the bundle as it is now.

    Raises:
        CheckRecordError: There is none, it is damaged, the check failed, or the bundle is another one now.
    """
    repair = f"; check the bundle with: python -m export check {folder}"
    try:
        record = json.loads(read_regular_file(folder / RECORD_NAME, _MAX_BYTES))
    except FileNotFoundError as error:
        raise CheckRecordError(f"{folder} was never checked, or did not pass{repair}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckRecordError(f"{folder / RECORD_NAME} cannot be read: {error}{repair}") from error
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise CheckRecordError(f"{folder / RECORD_NAME} is of another format{repair}")
    if record.get("passed") is not True:
        raise CheckRecordError(f"{folder} has not passed its check{repair}")
    if record.get("bundle_revision") != bundle_revision:
        raise CheckRecordError(
            f"{folder} was checked as {record.get('bundle_revision')!r:.14}, and it is "
            f"{bundle_revision[:12]!r} now{repair}"
        )
    return record


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
