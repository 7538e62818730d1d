"""RAW photos: the camera's own preview if it shows the whole frame, else developed; or no extra."""

from __future__ import annotations

import io
import os
import struct
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.bundle import Preprocessing
from piaa_sdk.errors import ImageError
from piaa_sdk.images import decode, load_image

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("rawpy")

SETTINGS = Preprocessing(
    size=16, fit="squash", resample="bilinear", draft_factor=2, background=(255, 255, 255), decoding_rule=1
)
WIDTH, HEIGHT = 96, 64
CODES = {1: "B", 3: "H", 4: "I", 5: "II", 10: "ii"}
Entry = tuple[int, int, list[int] | str]


def directory(entries: list[Entry], start: int) -> bytes:
    """Write a TIFF directory that stands at ``start``: tag, type and values; values too long follow it."""
    position = start + 2 + 12 * len(entries) + 4
    table, values = struct.pack("<H", len(entries)), b""
    for tag, kind, content in sorted(entries, key=lambda entry: entry[0]):
        if isinstance(content, str):
            packed = content.encode() + b"\0"
            count = len(packed)
        else:
            packed = struct.pack(f"<{len(content)}{CODES[kind][0]}", *content)
            count = len(content) // len(CODES[kind])
        table += struct.pack("<HHI", tag, kind, count)
        if len(packed) <= 4:
            table += packed.ljust(4, b"\0")
        else:
            table += struct.pack("<I", position + len(values))
            values += packed + b"\0" * (len(packed) % 2)
    return table + bytes(4) + values


def sensor_entries(offset: int) -> list[Entry]:
    return [
        (254, 4, [0]),
        (256, 4, [WIDTH]),
        (257, 4, [HEIGHT]),
        (258, 3, [16]),
        (259, 3, [1]),
        (262, 3, [32803]),
        (273, 4, [offset]),
        (277, 3, [1]),
        (278, 4, [HEIGHT]),
        (279, 4, [WIDTH * HEIGHT * 2]),
        (33421, 3, [2, 2]),
        (33422, 1, [0, 1, 1, 2]),
        (50714, 3, [0]),
        (50717, 4, [4095]),
    ]


def camera_entries(orientation: int) -> list[Entry]:
    return [
        (271, 2, "Maker"),
        (272, 2, "Model"),
        (274, 3, [orientation]),
        (50706, 1, [1, 4, 0, 0]),
        (50707, 1, [1, 1, 0, 0]),
        (50708, 2, "Maker Model"),
        (50721, 10, [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]),
        (50728, 5, [1, 1, 1, 1, 1, 1]),
        (50778, 3, [21]),
    ]


def dng(*, orientation: int = 1, preview: bytes | None = None, size: tuple[int, int] = (192, 128)) -> bytes:
    """Write a DNG whose sensor saw black on the left and white on the right, and maybe a JPEG of ``size``."""
    sensor = np.zeros((HEIGHT, WIDTH), dtype="<u2")
    sensor[:, WIDTH // 2 :] = 4000
    start = struct.pack("<2sHI", b"II", 42, 8)
    if preview is None:
        length = len(directory(camera_entries(orientation) + sensor_entries(0), 8))
        entries = camera_entries(orientation) + sensor_entries(8 + length)
        return start + directory(entries, 8) + sensor.tobytes()

    def preview_entries(offset: int, sensor_directory: int) -> list[Entry]:
        return [
            *camera_entries(orientation),
            (254, 4, [1]),
            (256, 4, [size[0]]),
            (257, 4, [size[1]]),
            (258, 3, [8, 8, 8]),
            (259, 3, [7]),
            (262, 3, [6]),
            (273, 4, [offset]),
            (277, 3, [3]),
            (278, 4, [size[1]]),
            (279, 4, [len(preview)]),
            (330, 4, [sensor_directory]),
        ]

    sensor_directory = 8 + len(directory(preview_entries(0, 0), 8))
    data = sensor_directory + len(directory(sensor_entries(0), sensor_directory))
    parts = [
        directory(preview_entries(data + sensor.nbytes, sensor_directory), 8),
        directory(sensor_entries(data), sensor_directory),
    ]
    return start + b"".join(parts) + sensor.tobytes() + preview


def jpeg(width: int, height: int, *, exif: bytes = b"") -> bytes:
    """Write a preview that differs from the sensor's picture: blue above, red below."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), (0, height // 2, width, height))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


def is_developed(data: bytes) -> bool:
    """Whether the gray picture of the sensor was taken, not the blue and red of the preview."""
    pixels = decode(data, SETTINGS, "x.dng").astype(int)
    return bool(pixels[:, :4].mean() < 20 and pixels[:, -4:].mean() > 200 and np.ptp(pixels[8, 2]) < 20)


def test_raw_without_a_preview_is_developed() -> None:
    assert is_developed(dng())


def test_preview_of_the_whole_frame_is_taken() -> None:
    pixels = decode(dng(preview=jpeg(192, 128)), SETTINGS, "x.dng").astype(int)
    assert np.abs(pixels[2, 8] - (0, 0, 255)).max() < 10
    assert np.abs(pixels[-2, 8] - (255, 0, 0)).max() < 10


@pytest.mark.parametrize("size", [(24, 16), (128, 128)], ids=["too small", "cropped"])
def test_other_previews_are_not(size: tuple[int, int]) -> None:
    assert is_developed(dng(preview=jpeg(*size), size=size))


def test_damaged_preview_is_not() -> None:
    whole = jpeg(192, 128)
    assert is_developed(dng(preview=whole[: len(whole) // 2] + bytes(len(whole) // 2)))


@pytest.mark.parametrize(("orientation", "dark"), [(1, "left"), (3, "right"), (6, "top"), (8, "bottom")])
def test_developed_photo_is_upright(orientation: int, dark: str) -> None:
    pixels = decode(dng(orientation=orientation), SETTINGS, "x.dng").astype(int)
    sides = {"left": pixels[:, :4], "right": pixels[:, -4:], "top": pixels[:4], "bottom": pixels[-4:]}
    assert min(sides, key=lambda side: sides[side].mean()) == dark


@pytest.mark.parametrize(("orientation", "blue"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")])
def test_preview_is_turned_as_the_photo_is(orientation: int, blue: str) -> None:
    """Few previews say how the camera was held; the RAW file around them does."""
    pixels = decode(dng(orientation=orientation, preview=jpeg(192, 128)), SETTINGS, "x.dng").astype(int)
    sides = {"left": pixels[:, :4], "right": pixels[:, -4:], "top": pixels[:4], "bottom": pixels[-4:]}
    assert max(sides, key=lambda side: sides[side][..., 2].mean()) == blue


def test_preview_that_says_so_itself_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = decode(dng(orientation=3, preview=jpeg(192, 128, exif=exif.tobytes())), SETTINGS, "x.dng")
    assert pixels[-2, 8, 2] > 200


def test_raw_is_told_by_its_content(tmp_path: Path) -> None:
    """A TIFF reader would take the small preview for the photo; the name of the file does not matter."""
    path = tmp_path / "x.tif"
    path.write_bytes(dng(preview=jpeg(24, 16), size=(24, 16)))
    pixels = load_image(path, SETTINGS).astype(int)
    assert pixels[:, :4].mean() < 20


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_truncated_raw(share: float, capfd: pytest.CaptureFixture[str]) -> None:
    data = dng()
    with pytest.raises(ImageError, match=r"x\.dng: damaged") as caught:
        decode(data[: int(len(data) * share)], SETTINGS, "x.dng")
    assert "b'" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_others_print_meanwhile_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    from piaa_sdk.images.quiet import quiet_libraw

    with quiet_libraw():
        os.write(2, b"unknown file: Unexpected end of file\n7 of 9 photos\n")
    assert capfd.readouterr().err == "7 of 9 photos\n"


@pytest.mark.parametrize(
    ("module", "data"), [("rawpy", dng()), ("pillow_heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))]
)
def test_missing_extra_names_the_command(module: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError) as caught:
        decode(data, SETTINGS, "x")
    assert caught.value.reason.endswith("Install it with: pip install pillow-heif rawpy")
