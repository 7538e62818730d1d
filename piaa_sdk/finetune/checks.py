"""The check of settings: one for all records, with one wording."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class Interval:
    """The finite numbers that a setting may have.

    Attributes:
        least: The lower end.
        most: The upper end.
        without_least: Whether the lower end itself is not allowed.
        without_most: Whether the upper end itself is not allowed.
    """

    least: float = 0.0
    most: float = math.inf
    without_least: bool = False
    without_most: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        above = value > self.least if self.without_least else value >= self.least
        return above and (value < self.most if self.without_most else value <= self.most)

    def __str__(self) -> str:
        text = f"{'above' if self.without_least else 'at least'} {self.least:g}"
        if math.isinf(self.most):
            return text
        return f"{text} and {'below' if self.without_most else 'at most'} {self.most:g}"


NOT_NEGATIVE = Interval()
POSITIVE = Interval(without_least=True)
COUNT = Interval(1)
SHARE = Interval(0, 1, without_most=True)


def check_settings(settings: object, **allowed: Interval | Collection[object]) -> None:
    """Refuse settings that mean nothing.

    Args:
        settings: A record.
        allowed: Of each setting to be checked, the interval or the values that it may have.

    Raises:
        ModelFormatError: One of them has another value.
    """
    for name, values in allowed.items():
        value = getattr(settings, name)
        if value not in values:
            one_of = values if isinstance(values, Interval) else f"one of {', '.join(map(str, values))}"
            raise ModelFormatError(f"{name} is {value!r}, must be {one_of}")
