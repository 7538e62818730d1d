"""JPEGs as cameras write them: a Multi-Picture index, previews behind the photo, and Exif with its dates."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

PRIMARY, UNDEFINED = 0x030000, 0x000000
VGA, FULL_HD = 0x010001, 0x010002
DISPARITY, GAIN_MAP = 0x020002, 0x050000


@dataclass(frozen=True)
class Stored:
    """One picture behind the photo, with what the index says of it.

    Attributes:
        data: Its bytes.
        kind: Its type, as the index numbers it.
        size: What the index says, None for the truth.
        offset: Likewise, counted from the index.
    """

    data: bytes
    kind: int = FULL_HD
    size: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Exif:
    """What an Exif block says; None and empty for nothing."""

    orientation: int | None = None
    changed: str = ""
    taken: str = ""
    size: tuple[int, int] | None = None
    thumbnail: bytes = b""
    order: str = "<"

    def to_bytes(self) -> bytes:
        """Write the block with its header: first directory, Exif directory, second directory, thumbnail."""
        first = [*self._short(0x0112, self.orientation), *_date(0x0132, self.changed)]
        second = [*_date(0x9003, self.taken)]
        for tag, side in zip((0xA002, 0xA003), self.size or (), strict=False):
            second.append((tag, 4, struct.pack(self.order + "L", side)))
        exif_at = 8 + len(self._directory([*first, (0x8769, 4, bytes(4))], 8, 0))
        second_at = exif_at + len(self._directory(second, exif_at, 0))
        thumbnail_at = second_at + len(self._directory(self._place(0), second_at, 0))
        start = struct.pack(self.order + "2sHL", b"II" if self.order == "<" else b"MM", 42, 8)
        pointer = (0x8769, 4, struct.pack(self.order + "L", exif_at))
        return b"".join(
            (
                b"Exif\0\0" + start,
                self._directory([*first, pointer], 8, second_at if self.thumbnail else 0),
                self._directory(second, exif_at, 0),
                self._directory(self._place(thumbnail_at), second_at, 0),
                self.thumbnail,
            )
        )

    def _short(self, tag: int, value: int | None) -> list[tuple[int, int, bytes]]:
        return [] if value is None else [(tag, 3, struct.pack(self.order + "H", value))]

    def _place(self, at: int) -> list[tuple[int, int, bytes]]:
        numbers = ((0x0201, at), (0x0202, len(self.thumbnail)))
        return [(tag, 4, struct.pack(self.order + "L", number)) for tag, number in numbers]

    def _directory(self, entries: list[tuple[int, int, bytes]], at: int, following: int) -> bytes:
        behind = at + 2 + 12 * len(entries) + 4
        table, values = struct.pack(self.order + "H", len(entries)), b""
        for tag, kind, value in entries:
            count = {2: len(value), 3: len(value) // 2, 4: len(value) // 4}[kind]
            table += struct.pack(self.order + "HHL", tag, kind, count)
            if len(value) <= 4:
                table += value.ljust(4, b"\0")
            else:
                table += struct.pack(self.order + "L", behind + len(values))
                values += value
        return table + struct.pack(self.order + "L", following) + values


def save_jpeg(image: Image.Image, **options: Any) -> bytes:
    """Encode a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


def flat(size: tuple[int, int], above: tuple[int, int, int], below: tuple[int, int, int]) -> Image.Image:
    """Paint a picture of two colours, one above the other, with a little noise so that it takes bytes."""
    random = np.random.default_rng(0)
    pixels = random.integers(-6, 7, (size[1], size[0], 3))
    pixels[: size[1] // 2] += above
    pixels[size[1] // 2 :] += below
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def with_index(photo: bytes, *stored: Stored, order: str = "<", end: int | None = None) -> bytes:
    """Put a Multi-Picture index into a JPEG and pictures behind it.

    Args:
        photo: The JPEG.
        stored: What to put behind it.
        order: Byte order of the index.
        end: Length of the photo that the index states; None for the true one.
    """
    at = _before_tables(photo)
    count = 1 + len(stored)
    whole = len(photo) + len(index_segment(order, [(0, 0, 0)] * count))
    base = at + 8  # where positions are counted from: behind marker, length and name of the segment
    entries = [(PRIMARY, whole if end is None else end, 0)]
    position = whole
    for one in stored:
        size = len(one.data) if one.size is None else one.size
        entries.append((one.kind, size, position - base if one.offset is None else one.offset))
        position += len(one.data)
    return photo[:at] + index_segment(order, entries) + photo[at:] + b"".join(one.data for one in stored)


def index_segment(order: str, entries: list[tuple[int, int, int]]) -> bytes:
    """Write the APP2 segment of an index whose entries are type, size and offset."""
    table = b"".join(struct.pack(order + "LLLHH", *entry, 0, 0) for entry in entries)
    index = struct.pack(order + "2sHL", b"II" if order == "<" else b"MM", 42, 8)
    index += struct.pack(order + "H", 3)
    index += struct.pack(order + "HHL4s", 0xB000, 7, 4, b"0100")
    index += struct.pack(order + "HHLL", 0xB001, 4, 1, len(entries))
    index += struct.pack(order + "HHLL", 0xB002, 7, len(table), 8 + 2 + 36 + 4)
    index += bytes(4) + table
    return b"\xff\xe2" + struct.pack(">H", 2 + 4 + len(index)) + b"MPF\0" + index


def _before_tables(photo: bytes) -> int:
    """Where the application segments at the start of a JPEG end."""
    at = 2
    while photo[at + 1] in range(0xE0, 0xF0):
        at += 2 + int.from_bytes(photo[at + 2 : at + 4], "big")
    return at


def _date(tag: int, text: str) -> list[tuple[int, int, bytes]]:
    return [(tag, 2, text.encode() + b"\0")] if text else []
