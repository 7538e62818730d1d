"""Results that are kept as JSON: how a file of any of their kinds is opened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from pathlib import Path


def read_record(path: Path, what: str) -> dict[str, Any]:
    """Read the object that a JSON file holds.

    Args:
        path: The file.
        what: What it should be, for messages: ``an evaluation``.

    Raises:
        ModelFormatError: It cannot be read, or holds no object.
    """
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read as {what}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelFormatError(f"{path} cannot be read as {what}: {error}") from error
    if not isinstance(record, dict):
        raise ModelFormatError(f"{path} is not {what}: it holds no object")
    return record
