"""Results that are kept as JSON: how a file of any of their kinds is opened, and what they have in common.

What is no such value is a ValueError: who reads the record says of which file, as a ModelFormatError.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST = sys.float_info.max


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


def whole_number(value: Any, name: str, least: int = 0) -> int:
    """Return a value of a record that has to be a whole number.

    Raises:
        ValueError: It is none, or below ``least``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r:.80}, must be a whole number from {least}")
    return value


def whole_numbers(values: Any, name: str, least: int = 0) -> tuple[int, ...]:
    """Return a row of a record that has to hold one whole number or more.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"{name} is {values!r:.80}, must be one or more whole numbers from {least}")
    return tuple(whole_number(value, f"one of {name}", least) for value in values)


def texts(values: Any, name: str) -> tuple[str, ...]:
    """Return a row of a record that has to hold texts.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is {values!r:.80}, must be texts")
    return tuple(values)


def scale_ends(value: Any) -> tuple[float, float]:
    """Return the ends of a rating scale that a record holds.

    Raises:
        ValueError: They are not two finite numbers, low below high.
    """
    are_two = isinstance(value, (list, tuple)) and len(value) == 2
    if not are_two or not all(isinstance(end, (int, float)) and abs(end) <= _LARGEST for end in value):
        raise ValueError(f"rating_scale is {value!r:.80}, must be two finite numbers")
    low, high = value
    if not low < high:
        raise ValueError(f"rating_scale is {value!r:.80}, must be low below high")
    return low, high
