"""Rows that an interrupted run has left: which photos need not be scored again.

In memory a row is 24 bytes: a digest of its path and its number. Paths are not held.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.images import shown_hides_part
from piaa_sdk.row_formats import FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    import numpy.typing as npt

    from piaa_sdk.row_formats import Row

_DIGEST_BYTES = 16
_PAIR = struct.Struct("=QQ")
_MAX_LINE_BYTES = 1 << 20  # a path has a few thousand at most
_FIGURES = ("generic", "personal", "std", "percentile")
_STARS = range(1, 6)
_TEXTS = tuple(name for name in FIELDS if name not in (*_FIGURES, "stars"))


class RowDigests:
    """One digest per thing added, in the order they came."""

    def __init__(self) -> None:
        self._digests = bytearray()

    def add(self, *texts: str | None) -> None:
        """Add what a few texts together stand for."""
        self._digests += _digest(*texts)

    def newest(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
        """Return what was added last under each digest.

        Returns:
            Positions (N,), in the order of their digests; the digests, (N, 2).
        """
        digests = np.frombuffer(bytes(self._digests), dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        found = digests[order]
        is_last = np.ones(len(order), dtype=np.bool_)
        is_last[:-1] = (found[1:] != found[:-1]).any(axis=1)
        return order[is_last], found[is_last]


class KeptRows:
    """The photos that have a row for every person, and which rows those are: the newest.

    Attributes:
        photos: How many there are.
        photos_left: How many of them nobody has asked for.

    Args:
        digests: One per photo, of its path.
        firsts: (N,) number of the first of each photo's rows.
    """

    def __init__(self, digests: RowDigests, firsts: npt.NDArray[np.int64]) -> None:
        positions, found = digests.newest()
        # One number of a view is quicker to reach than one of an array.
        self._high, self._low = found[:, 0].copy().data, found[:, 1].copy().data
        self._firsts: memoryview[int] = firsts[positions].data
        self._is_taken = bytearray(len(positions))
        self.photos = self.photos_left = len(positions)

    def take(self, path: str, *, once: bool = False) -> int | None:
        """Return the number of a photo's first row; None if it has none.

        Args:
            path: As it stands in the rows.
            once: Whether a photo that is asked for again needs new rows.
        """
        high, low = _PAIR.unpack(_digest(path))
        place = bisect_left(self._high, high)
        while place < self.photos and self._high[place] == high:
            if self._low[place] == low:
                if self._is_taken[place]:
                    return None if once else self._firsts[place]
                self._is_taken[place] = 1
                self.photos_left -= 1
                return self._firsts[place]
            place += 1
        return None


class FoundRows:
    """What is whole in a file of rows.

    Attributes:
        kept: The photos that are done: a row without an error for every person, one after the other, and a
            path that stands for one photo only.
        rows: How many whole rows there are, those of photos that could not be scored included.
        end: Byte where the last one ends; what follows is torn, or of a photo that was not finished.
    """

    def __init__(self, file: BinaryIO, users: Sequence[str | None]) -> None:
        """Read rows.

        Args:
            file: At the first row.
            users: Whose rows a photo has, in their order.
        """
        self.rows = 0
        self.end = file.tell()
        digests, firsts = RowDigests(), array("q")
        begun: list[Row] = []
        begun_bytes = 0
        while (line := file.readline(_MAX_LINE_BYTES)).endswith(b"\n"):
            row = _row(line)
            if row is None:
                break
            self.rows += 1
            self.end += len(line)
            is_next = bool(begun) and row["path"] == begun[0]["path"] and row["user"] == users[len(begun)]
            if not is_next:
                begun, begun_bytes = [], 0
                if row["user"] != users[0]:
                    continue
            begun.append(row)
            begun_bytes += len(line)
            if len(begun) == len(users):
                is_known = not shown_hides_part(row["path"])  # what is hidden may tell it from another photo
                if is_known and all(one["error"] is None for one in begun):
                    digests.add(row["path"])
                    firsts.append(self.rows - len(users))
                begun, begun_bytes = [], 0
        self.rows -= len(begun)
        self.end -= begun_bytes
        self.kept = KeptRows(digests, np.array(firsts, dtype=np.int64))


def _row(line: bytes) -> Row | None:
    """Read one row; None if it is none, as after a crash of the computer."""
    try:
        row: Any = json.loads(line.decode())  # which spares a look at every line for its encoding
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or tuple(row) != FIELDS or row["path"] is None:
        return None
    is_row = (
        all(isinstance(row[name], str | None) for name in _TEXTS)
        and all(row[name] is None or _is_figure(row[name]) for name in _FIGURES)
        and (row["stars"] is None or (type(row["stars"]) is int and row["stars"] in _STARS))
    )
    return row if is_row else None


def _is_figure(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _digest(*texts: str | None) -> bytes:
    data = "\0".join("" if text is None else text for text in texts)
    return hashlib.blake2b(data.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
