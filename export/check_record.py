"""What ``python -m export check`` found, kept beside a bundle, so that nothing unchecked is published.

It lies in the folder as ``.check.json``: names that begin with a dot are no part of a bundle, so it changes
neither the bundle's revision nor what goes up.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelError, OutputError
from piaa_sdk.files import read_regular_file, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RECORD_NAME = ".check.json"
FORMAT_VERSION = 1

_MAX_BYTES = 1 << 20


class CheckRecordError(ModelError):
    """A bundle has not passed its check as it is now."""


def write_passed(folder: Path, bundle_revision: str, figures: Mapping[str, Any]) -> None:
    """Record that a bundle has passed.

    Args:
        folder: Of the bundle.
        bundle_revision: What was checked; another one has to be checked again.
        figures: What was measured, JSON.

    Raises:
        OutputError: It cannot be written.
        ValueError: The figures are no JSON, for example nan.
    """
    record = {
        **figures,
        "format_version": FORMAT_VERSION,
        "bundle_revision": bundle_revision,
        "passed": True,
    }
    path = folder / RECORD_NAME
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def forget(folder: Path) -> None:
    """Remove the record of an earlier check, before a new one begins that may not pass.

    Raises:
        OutputError: It cannot be removed.
    """
    path = folder / RECORD_NAME
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror or error}") from error


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
