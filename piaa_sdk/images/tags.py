"""The few metadata tags that decide how a picture is read: of Exif, TIFF and the RAW formats built on TIFF.

Only directories that are asked for are read, none leads on to another by itself, and no tag costs memory,
whatever it claims.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

WIDTH, HEIGHT = 256, 257
COMPRESSION = 259
PHOTOMETRIC = 262
MAKE = 271
ORIENTATION = 274
SAMPLES_PER_PIXEL = 277
ROWS_PER_STRIP = 278
TILE_WIDTH, TILE_HEIGHT = 322, 323
_NEW_SUBFILE_TYPE = 254
_SUB_DIRECTORIES = 330
_DNG_VERSION = 50706
_SENSOR_DATA = (32803, 34892)  # photometric interpretations: colour filter array, linear raw

_BYTES_OF_TYPE = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_CHARACTERS = 2
_CODE_OF_TYPE = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}


@dataclass(frozen=True, slots=True)
class Directory:
    """The first directory of a TIFF structure.

    Attributes:
        values: First number of every tag, by tag; None where the tag holds something else.
        claimed_bytes: What all tags together say they hold.
    """

    values: dict[int, int | None] = field(default_factory=dict)
    claimed_bytes: int = 0

    def number(self, tag: int, default: int) -> int:
        """Return the first number of a tag, ``default`` if it is missing or holds none."""
        value = self.values.get(tag)
        return default if value is None else value

    @property
    def is_raw(self) -> bool:
        """Whether the pixels here are sensor data, or a small preview of sensor data further on."""
        if _DNG_VERSION in self.values or self.values.get(PHOTOMETRIC) in _SENSOR_DATA:
            return True
        is_preview = bool(self.number(_NEW_SUBFILE_TYPE, 0) & 1)
        return is_preview and MAKE in self.values and _SUB_DIRECTORIES in self.values


def read_directory(data: bytes) -> Directory:
    """Read the first directory of a TIFF structure, classic or BigTIFF.

    Args:
        data: A file, or an Exif block without its ``Exif`` header.

    Returns:
        What could be read: nothing if it is no TIFF structure, the first tags if it is cut off.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return Directory()
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    # Entry: tag, type, count, then the value itself or the offset it stands at.
    count_code, entry_code, value_bytes = ("Q", "HHQ", 8) if is_big else ("H", "HHL", 4)
    values: dict[int, int | None] = {}
    claimed_bytes = 0
    try:
        (start,) = struct.unpack_from(order + ("Q" if is_big else "L"), data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + count_code, data, start)
        position = start + struct.calcsize(order + count_code)
        entry_bytes = struct.calcsize(order + entry_code) + value_bytes
        for entry in range(position, min(position + entries * entry_bytes, len(data)), entry_bytes):
            tag, kind, count = struct.unpack_from(order + entry_code, data, entry)
            size = count * _BYTES_OF_TYPE.get(kind, 0)
            claimed_bytes += size
            if tag in values:
                continue
            at = entry + entry_bytes - value_bytes
            if size > value_bytes:
                (at,) = struct.unpack_from(order + ("Q" if is_big else "L"), data, at)
            values[tag] = _number(data, order, kind, at) if count else None
    except (struct.error, OverflowError):
        pass  # cut off, or a directory beyond the end: what was read so far stands
    return Directory(values, claimed_bytes)


@dataclass(frozen=True, slots=True)
class Values:
    """Some tags of one directory of a classic TIFF structure.

    Attributes:
        order: Byte order, as ``struct`` writes it.
        kinds: Type of each tag, as TIFF numbers it.
        values: Bytes of each tag, cut off where the data ends.
        next_directory: Where the next directory stands; 0 for none.
    """

    order: str = "<"
    kinds: dict[int, int] = field(default_factory=dict)
    values: dict[int, bytes] = field(default_factory=dict)
    next_directory: int = 0

    def number(self, tag: int) -> int | None:
        """Return the first number of a tag; None if it is missing or holds none."""
        return _number(self.values.get(tag, b""), self.order, self.kinds.get(tag, 0), 0)

    def text(self, tag: int) -> bytes:
        """Return what a tag of characters holds; nothing if it is missing or holds something else."""
        return self.values.get(tag, b"") if self.kinds.get(tag) == _CHARACTERS else b""


def read_values(data: bytes, tags: Collection[int], start: int | None = None) -> Values:
    """Read some tags of one directory of a classic TIFF structure.

    Args:
        data: The structure, as an Exif block without its ``Exif`` header is one.
        tags: Which tags; of one that stands there twice the first counts.
        start: Where the directory is; None for the first.

    Returns:
        What could be read: nothing if it is no such structure or there is no directory.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return Values()
    found = Values(order)
    try:
        if start is None:
            (start,) = struct.unpack_from(order + "L", data, 4)
        if not start:
            return found
        (count,) = struct.unpack_from(order + "H", data, start)
        end = start + 2 + 12 * count
        for entry in range(start + 2, min(end, len(data)), 12):
            tag, kind, length = struct.unpack_from(order + "HHL", data, entry)
            if tag not in tags or tag in found.values:
                continue
            size = length * _BYTES_OF_TYPE.get(kind, 0)
            at = entry + 8
            if size > 4:
                (at,) = struct.unpack_from(order + "L", data, at)
            found.kinds[tag], found.values[tag] = kind, data[at : at + size]
        (following,) = struct.unpack_from(order + "L", data, end)
    except struct.error:  # cut off: what was read so far stands
        return found
    return replace(found, next_directory=following)


def _number(data: bytes, order: str, kind: int, at: int) -> int | None:
    code = _CODE_OF_TYPE.get(kind)
    if code is None or at + _BYTES_OF_TYPE[kind] > len(data):
        return None
    number: int = struct.unpack_from(order + code, data, at)[0]
    return number


def exif_orientation(exif: bytes) -> int | None:
    """Read how the camera was held.

    Args:
        exif: An Exif block, with or without its ``Exif`` header.

    Returns:
        1 to 8 as Exif numbers them; None if the block does not say, or says something else.
    """
    header = b"Exif\0\0"
    value = read_directory(exif[len(header) :] if exif.startswith(header) else exif).values.get(ORIENTATION)
    return value if value is not None and 1 <= value <= 8 else None
