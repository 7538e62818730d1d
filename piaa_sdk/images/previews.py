"""Previews: the small picture of the whole frame that a camera stores beside a large one.

A preview is read many times faster than the photo, since what takes long is reading all of its bytes. It is
not the same picture to the last bit: the camera has reduced and compressed it once more. So it is taken only
where somebody asks for it, and what comes of it is kept apart in the cache. RAW is the exception: there the
alternative is not the camera's own picture but LibRaw's development of the sensor data, which is slower still
and looks less like it.

In a JPEG a preview stands in the index of the Multi-Picture Format (CIPA DC-007), as a *large thumbnail*, or
in the second directory of its Exif block. It is taken if

- both sides have as many pixels as a reduced photo must keep, and no more than the photo's;
- width to height is the photo's to 3 %, not turned, so neither a thumbnail with black bars nor a crop;
- its Exif orientation, if it states one, is the photo's; colour profile and number of colours are the same;
- the file looks as the camera left it: the size and, of the index, the place where the photo ends are what
  the tags say, and the date of the last change is that of the picture where both are given;
- the index describes one photo: of 3D pictures, panoramas and bursts nothing is taken, and the gain maps and
  depth maps of phones are no large thumbnails.

In a HEIC it is a thumbnail that the container assigns to the photo, chosen by :mod:`piaa_sdk.images.opening`.

All this is read from the headers. Whether preview and photo show the same cannot be known without decoding
the photo, which is what a preview saves: a program that paints into a photo, keeps its size, its dates and
its index with correct positions, and leaves the old preview behind it, is not noticed. Neither is damage in
the middle of a photo whose preview is whole.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from piaa_sdk.images.limits import end_of_header
from piaa_sdk.images.opening import jpeg_header
from piaa_sdk.images.tags import exif_orientation, read_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

PREVIEW_RULE = 1
"""Raised whenever another preview is taken for the same bytes, or none; a part of the cache's keys."""

ASPECT_TOLERANCE = 0.03
"""How far the shape of a preview may be from the frame's, share."""

_START_OF_JPEG, _END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"
_MOST_PADDING = 64 << 10
_MOST_PREVIEWS = 4
"""Of one file that are looked at; cameras write one or two."""

_EXIF_DIRECTORY = 0x8769
_CHANGED, _TAKEN = 0x0132, 0x9003  # dates, as text
_WIDTH, _HEIGHT = 0xA002, 0xA003
_THUMBNAIL_START, _THUMBNAIL_BYTES = 0x0201, 0x0202

_ENTRIES = 0xB002
_ENTRY_BYTES = 16
_TYPE = 0x00FFFFFF
_FORMAT = 0x07000000  # 0 is JPEG
_LARGE_THUMBNAIL, _ONE_OF_SEVERAL = 1, 2  # the first byte of three of a type


@dataclass(frozen=True, slots=True)
class Preview:
    """The JPEG that a camera has put into a file, beside what it took.

    Attributes:
        data: The JPEG.
        orientation: How to turn it, as Exif numbers it, where it does not say so itself.
    """

    data: bytes
    orientation: int


def find_jpeg_preview(data: bytes, smallest: int) -> Preview | None:
    """Find the embedded preview of a JPEG, as the head of this module tells.

    Args:
        data: The file.
        smallest: Both sides of the preview must have this many pixels.

    Returns:
        The smallest preview that may be taken; None if there is none, or the file is damaged.
    """
    photo = jpeg_header(data)
    if photo is None or min(photo.size) <= smallest:
        return None
    exif = _exif_of(photo)
    if _is_changed(exif, photo.size):
        return None
    orientation = exif_orientation(exif) or 1
    found = []
    for preview in islice(_stored(data, photo, exif), _MOST_PREVIEWS):
        header = jpeg_header(preview)
        if header is not None and _shows(header, photo, orientation) and min(header.size) >= smallest:
            found.append((header.width * header.height, preview))
    return Preview(min(found)[1], orientation) if found else None


def _stored(data: bytes, photo: Image.Image, exif: bytes) -> Iterator[bytes]:
    """Yield what the file calls a preview of its photo."""
    index, start = photo.info.get("mp"), photo.info.get("mpoffset")
    if isinstance(index, bytes) and isinstance(start, int):
        yield from _in_index(data, index, start)
    thumbnail = _in_exif(exif)
    # A file that was cut off is no picture, though the thumbnail in front of the missing part is one.
    if thumbnail is not None and data.rfind(_END_OF_JPEG, end_of_header(photo)) >= 0:
        yield thumbnail


def _in_index(data: bytes, index: bytes, start: int) -> Iterator[bytes]:
    """Yield the large thumbnails of a Multi-Picture index.

    Args:
        data: The file.
        index: The index, a TIFF structure.
        start: Where it stands in the file: its positions are counted from there, save that of the photo.
    """
    directory = read_values(index, {_ENTRIES})
    table = directory.values.get(_ENTRIES, b"")
    count = len(table) // _ENTRY_BYTES
    entries = list(struct.iter_unpack(f"{directory.order}LLLHH", table[: count * _ENTRY_BYTES]))
    if not entries or any((kind & _TYPE) >> 16 == _ONE_OF_SEVERAL for kind, *_ in entries):
        return
    _, end, first, *_ = entries[0]
    if first != 0 or not _ends_at(data, end):
        return
    for kind, size, offset, *_ in entries[1:]:
        position = start + offset
        is_thumbnail = (kind & _TYPE) >> 16 == _LARGE_THUMBNAIL and not kind & _FORMAT
        # The preview of a camera is smaller than its photo; and nothing is copied on the word of a number.
        if is_thumbnail and end <= position <= len(data) - size and size < end:
            preview = data[position : position + size]
            if preview.startswith(_START_OF_JPEG):
                yield preview


def _ends_at(data: bytes, end: int) -> bool:
    """Whether a JPEG that begins the file ends at a position, filled up with nothing else than padding."""
    if not 0 < end <= len(data):
        return False
    last = data.rfind(_END_OF_JPEG, max(0, end - _MOST_PADDING), end)
    return last >= 0 and not data[last + len(_END_OF_JPEG) : end].strip(b"\0\xff")


def _in_exif(exif: bytes) -> bytes | None:
    """Return the thumbnail of an Exif block: 160 x 120 from most devices, which is too small, but not all."""
    second = read_values(exif, ()).next_directory
    if not second:
        return None
    directory = read_values(exif, {_THUMBNAIL_START, _THUMBNAIL_BYTES}, second)
    start, size = directory.number(_THUMBNAIL_START), directory.number(_THUMBNAIL_BYTES)
    if start is None or size is None:
        return None
    thumbnail = exif[start : start + size]
    return thumbnail if thumbnail.startswith(_START_OF_JPEG) else None


def _exif_of(photo: Image.Image) -> bytes:
    exif = photo.info.get("exif")
    return exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""


def _is_changed(exif: bytes, size: tuple[int, int]) -> bool:
    """Whether a photo says that it is not what the camera wrote: of another size, or changed later."""
    first = read_values(exif, {_EXIF_DIRECTORY, _CHANGED})
    second = read_values(exif, {_TAKEN, _WIDTH, _HEIGHT}, first.number(_EXIF_DIRECTORY) or 0)
    for tag, side in ((_WIDTH, size[0]), (_HEIGHT, size[1])):
        if second.number(tag) not in (None, 0, side):
            return True
    changed, taken = (text.strip(b"\0 ") for text in (first.text(_CHANGED), second.text(_TAKEN)))
    return bool(changed and taken) and changed != taken


def _shows(preview: Image.Image, photo: Image.Image, orientation: int) -> bool:
    """Whether a preview has the shape, the colours and the way up of the photo."""
    (width, height), (whole_width, whole_height) = preview.size, photo.size
    return (
        width <= whole_width
        and height <= whole_height
        and abs(width * whole_height / (height * whole_width) - 1) <= ASPECT_TOLERANCE
        and preview.mode == photo.mode
        and preview.info.get("icc_profile") == photo.info.get("icc_profile")
        and exif_orientation(_exif_of(preview)) in (None, orientation)
    )
