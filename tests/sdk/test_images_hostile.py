"""Damaged, lying and malicious pictures: one ImageError each, in one line, at no cost and without noise."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from piaa_sdk.bundle import Preprocessing
from piaa_sdk.errors import ImageError
from piaa_sdk.images import decode, load_image
from piaa_sdk.images.quiet import quiet_warnings

SETTINGS = Preprocessing(
    size=16, fit="squash", resample="bilinear", draft_factor=2, background=(255, 255, 255), decoding_rule=1
)


@cache
def scene(width: int = 60, height: int = 40) -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, format_name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def save_heic(image: Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=60)
    return stream.getvalue()


@cache
def samples() -> dict[str, bytes]:
    """One small file of every format that Pillow writes, in several of its kinds, and a HEIC."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker"
    image, gray = scene(), scene().convert("L")
    return {
        "jpeg": save(image, "JPEG", exif=exif),
        "jpeg progressive": save(image, "JPEG", progressive=True),
        "jpeg cmyk": save(image.convert("CMYK"), "JPEG"),
        "png": save(image, "PNG", exif=exif),
        "png palette": save(image.convert("P"), "PNG", transparency=bytes(range(200))),
        "png 16": save(Image.fromarray(np.asarray(gray).astype(np.uint16) * 257), "PNG"),
        "png animated": save(image, "PNG", save_all=True, append_images=[gray.convert("RGB")]),
        "webp": save(image, "WEBP", exif=exif),
        "webp lossless": save(image.convert("RGBA"), "WEBP", lossless=True),
        "tiff": save(image, "TIFF"),
        "tiff lzw": save(image, "TIFF", compression="tiff_lzw"),
        "tiff deflate": save(image, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": save(image, "TIFF", compression="jpeg"),
        "tiff float": save(Image.fromarray(np.asarray(gray) / np.float32(255)), "TIFF"),
        "gif": save(image.convert("P"), "GIF", transparency=3),
        "bmp": save(image, "BMP"),
        "avif": save(image, "AVIF", exif=exif),
        "heic": save_heic(image),
    }


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, SETTINGS, "x.jpg")
    error = caught.value
    assert error.source == "x.jpg"
    assert error.reason
    assert "\n" not in str(error)
    return error


def is_picture_or_image_error(data: bytes) -> bool:
    """Decode; anything but a picture or an ImageError fails the test."""
    try:
        pixels = decode(data, SETTINGS, "any\nthing")
    except ImageError as error:
        message = str(error)
    else:
        message = ""
    assert message.isprintable()
    if message:
        return False
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    return True


def test_empty() -> None:
    assert refused(b"").reason == "the file is empty"


@pytest.mark.parametrize(
    "data",
    [
        b"Dear diary, today it rained.\n",
        b"BMW 320d, price on request" * 9,
        b"\0" * 500,
        b"%PDF-1.7\n",
        b"PK\3\4",
        b"\xff",
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    assert refused(data).reason.startswith("not a picture in a known format (JPEG, PNG")


# Of an animated picture the first frame counts, and it stays whole.
@pytest.mark.parametrize("kind", sorted(set(samples()) - {"png animated"}))
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated(kind: str, share: float) -> None:
    """A picture of which a part is missing is not scored, not even what there is of it."""
    data = samples()[kind]
    reason = refused(data[: int(len(data) * share)]).reason
    assert "damaged or truncated" in reason or reason.startswith("damaged TIFF")


def test_truncated_reduced_jpeg() -> None:
    data = save(scene().resize((800, 600)), "JPEG")
    assert "truncated" in refused(data[: len(data) // 2]).reason


def test_an_error_does_not_keep_the_file() -> None:
    """Errors are kept until the end of a run: the cause must not hold the frames that hold the file."""
    error = refused(samples()["png"][:500])
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None


BOMBS = """
    import io, resource, struct, sys, time, zlib
    from piaa_sdk.bundle import Preprocessing
    from piaa_sdk.errors import ImageError
    from piaa_sdk.images import decode
    from PIL import Image

    settings = Preprocessing(size=16, fit="squash", resample="bilinear", draft_factor=2,
                             background=(255, 255, 255), decoding_rule=1)

    def save(image, name, **options):
        stream = io.BytesIO()
        image.save(stream, name, **options)
        return bytearray(stream.getvalue())

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    def png(width, height, *chunks):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
        return b"\\x89PNG\\r\\n\\x1a\\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")

    def patched(data, offset, *values):
        for code, value in values:
            struct.pack_into(code, data, offset, value)
            offset += struct.calcsize(code)
        return bytes(data)

    small = Image.new("RGB", (64, 64))
    jpeg, progressive = save(small, "JPEG"), save(small, "JPEG", progressive=True)
    gif, bmp = save(small, "GIF"), save(small, "BMP")
    webp = save(small.convert("RGBA"), "WEBP", exif=b"Exif")
    press = zlib.compressobj()
    nothing = b"".join(press.compress(bytes(1_000_000)) for _ in range(200)) + press.flush()
    first, later = jpeg.index(b"\\xff\\xc0") + 5, progressive.index(b"\\xff\\xc2") + 5
    bombs = {
        "png": png(50_000, 50_000),
        "png alpha limit": png(22_000, 22_000),
        "text": png(64, 64, chunk(b"zTXt", b"Comment\\0\\0" + nothing)),
        "profile": png(64, 64, chunk(b"iCCP", b"sRGB\\0\\0" + nothing)),
        "jpeg": patched(jpeg, first, (">H", 65500), (">H", 65500)),
        "progressive": patched(progressive, later, (">H", 20000), (">H", 20000)),
        "gif": patched(gif, 6, ("<H", 65535), ("<H", 65535)),
        "bmp": patched(bmp, 18, ("<i", 60_000), ("<i", 60_000)),
        "webp": patched(webp, 24, ("<I", 0xFE003FFE), ("<H", 0x003F)),
        "tiff": struct.pack("<2sHIHHHIIHHIII", b"II", 42, 8, 2, 256, 4, 1, 65535, 257, 4, 1, 65535, 0),
    }
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in bombs.items():
        begin = time.monotonic()
        try:
            decode(data, settings, name)
            print(name, "WAS DECODED")
        except ImageError as error:
            print(error)
        if time.monotonic() - begin > 2:
            print(name, "TOOK LONG")
    print("MEGABYTES", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory the Linux way")
def test_bombs_cost_nothing() -> None:
    """Small files that declare gigabytes are refused by what they declare; a process is watched."""
    script = textwrap.dedent(BOMBS)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stderr == ""
    *lines, last = result.stdout.splitlines()
    assert len(lines) == 10
    for line in lines:
        assert "too large" in line or "Decompressed data too large" in line, line
    assert last.startswith("MEGABYTES ")
    assert int(last.split()[1]) < 60


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    """Write a TIFF of one directory: tag, type, count, value."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + bytes(4)


def test_tiff_whose_tags_claim_more_than_there_is() -> None:
    entries = [(40_000 + number, 7, 1 << 30, 8) for number in range(500)]
    assert "tags of" in refused(directory((256, 4, 1, 64), (257, 4, 1, 64), *entries)).reason


def test_tiff_with_a_huge_tile() -> None:
    """The tile is unpacked as a whole, however small the picture."""
    tile = [(322, 4, 1, 60_000), (323, 4, 1, 60_000)]
    assert "too large: 60000 x 60000" in refused(directory((256, 4, 1, 64), (257, 4, 1, 64), *tile)).reason


def test_tiff_with_thousands_of_samples() -> None:
    assert "9999 samples" in refused(directory((256, 4, 1, 64), (257, 4, 1, 64), (277, 3, 1, 9999))).reason


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"lossless": True, "exif": b"Exif"}])
def test_size_of_a_webp_is_known_before_it_is_opened(options: dict[str, Any]) -> None:
    """Opening alone takes the memory of three pictures; the three kinds of file say it in three ways."""
    from piaa_sdk.images.limits import webp_size

    assert webp_size(save(scene(61, 47), "WEBP", **options)) == (61, 47)


def test_jpeg_with_thousands_of_scans() -> None:
    """Every scan goes over all pixels again: minutes of work from a few kilobytes."""
    data = samples()["jpeg progressive"]
    last = data.rindex(b"\xff\xda")
    reason = refused(data[:-2] + data[last:-2] * 200 + data[-2:]).reason
    assert "scans; at most 100" in reason


def test_scans_in_a_film_behind_a_jpeg_do_not_count() -> None:
    """Phones append a film to a photo; its bytes are not the photo's."""
    assert is_picture_or_image_error(samples()["jpeg progressive"] + b"\xff\xda" * 1000)


def test_run_length_bmp_that_takes_minutes() -> None:
    header = struct.pack("<2sIHHI", b"BM", 2000, 0, 0, 54 + 1024)
    header += struct.pack("<IiiHHIIiiII", 40, 20_000, 20_000, 1, 8, 1, 0, 0, 0, 256, 0)
    assert "run-length BMP" in refused(header + bytes(range(256)) * 4 + b"\1\1\0\0" * 200).reason


def test_several_large_pictures_wait_for_each_other() -> None:
    """Memory is bounded per process, not only per picture: workers take turns with the large ones."""
    from piaa_sdk.images.limits import check_memory

    order: list[str] = []

    def decode_large(name: str) -> None:
        with check_memory(900_000_000, (15_000, 15_000), name):
            order.append(f"{name} in")
            time.sleep(0.05)
            order.append(f"{name} out")

    threads = [threading.Thread(target=decode_large, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [step.split()[1] for step in order] == ["in", "out", "in", "out"]


def test_library_warnings_do_not_reach_the_user(recwarn: pytest.WarningsRecorder) -> None:
    """Pillow warns about this PNG and this TIFF; both are scored, and nobody hears of it."""
    data = samples()["png"]
    start = data.index(b"IHDR") - 4 + 25
    animation = chunk(b"acTL", struct.pack(">II", 0, 0))
    odd_png = data[:start] + animation + data[start:]
    tiff = samples()["tiff"]
    entry = struct.pack("<HHI", 277, 3, 1)
    odd_tiff = tiff.replace(entry, struct.pack("<HHI", 277, 3, 2))
    assert odd_tiff != tiff
    for odd in (odd_png, odd_tiff):
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(odd)) as image:
            image.load()
        assert recwarn.list
        recwarn.clear()
        assert is_picture_or_image_error(odd)
        assert not recwarn.list


def test_warnings_as_errors_do_not_refuse_a_picture() -> None:
    data = samples()["png"]
    start = data.index(b"IHDR") - 4 + 25
    odd = data[:start] + chunk(b"acTL", struct.pack(">II", 0, 0)) + data[start:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_picture_or_image_error(odd)


def test_other_threads_keep_their_warnings() -> None:
    thread = threading.Thread(target=warnings.warn, args=("mine",))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_warnings():
            thread.start()
            thread.join()
            warnings.warn("of a library", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["mine"]


def test_threads_do_not_disturb_each_other() -> None:
    """Workers decode at the same time, damaged pictures among them; the pixels are those of one thread."""
    files = list(samples().values())
    expected = [decode(data, SETTINGS, "x") for data in files]
    wrong: list[int] = []

    def work(first: int) -> None:
        for step in range(len(files) * 2):
            index = (first + step) % len(files)
            is_picture_or_image_error(files[index][:-200])
            if not (decode(files[index], SETTINGS, "x") == expected[index]).all():
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_filters_do_not_pile_up() -> None:
    decode(samples()["png"], SETTINGS, "x")
    before = len(warnings.filters)
    for _ in range(3):
        warnings.simplefilter("default")
        decode(samples()["png"], SETTINGS, "x")
        warnings.filters.pop(1)  # type: ignore[attr-defined]
    assert len(warnings.filters) == before


@pytest.mark.parametrize("kind", ["tiff lzw", "tiff deflate", "tiff jpeg", "jpeg", "webp", "avif", "heic"])
def test_damaged_data_prints_nothing(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The C libraries must not write to the terminal, either: libtiff does so by itself."""
    random = np.random.default_rng(0)
    data = samples()[kind]
    for _ in range(20):
        damaged = bytearray(data)
        for position in random.integers(len(data) // 3, len(data), 5):
            damaged[position] = random.integers(256)
        is_picture_or_image_error(bytes(damaged))
    assert capfd.readouterr() == ("", "")


def test_pillow_of_the_host_is_left_alone() -> None:
    """A host program keeps its limit, its registry of formats and its choice about truncated files."""

    def state() -> tuple[Any, ...]:
        registry = (tuple(Image.ID), dict(Image.OPEN), dict(Image.EXTENSION), Image.MAX_IMAGE_PIXELS)
        return (*registry, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)

    before = state()
    for data in samples().values():
        is_picture_or_image_error(data)
        is_picture_or_image_error(data[: len(data) // 2])
    assert state() == before


def test_damaged_pillow_image_of_the_caller() -> None:
    with (
        Image.open(io.BytesIO(samples()["jpeg"][:1500])) as image,
        pytest.raises(ImageError, match="image 3: damaged"),
    ):
        load_image(image, SETTINGS, "image 3")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    is_picture_or_image_error(data)


STARTS = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\x40\0\0\0WEBPVP8L",
    b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    b"II*\0\x08\0\0\0",
    b"MM\0*\0\0\0\x08",
    b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
    b"\0\0\0\x18ftypavif",
    b"\0\0\0\x18ftypheic",
    b"\0\0\0\x18ftypcrx ",
    b"II*\0\x10\0\0\0CR\2\0",
    b"FUJIFILMCCD-RAW ",
]


@settings(deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_any_bytes_behind_the_start_of_a_picture(start: bytes, rest: bytes) -> None:
    is_picture_or_image_error(start + rest)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_a_real_file(data: st.DataObject) -> None:
    picture = bytearray(samples()[data.draw(st.sampled_from(sorted(samples())))])
    positions = st.integers(0, len(picture) - 1)
    for position, value in data.draw(
        st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=8)
    ):
        picture[position] = value
    is_picture_or_image_error(bytes(picture[: data.draw(st.sampled_from([len(picture), len(picture) // 2]))]))


def test_undamaged_samples_are_pictures() -> None:
    """The tests above would prove nothing with samples that cannot be read in the first place."""
    assert all(is_picture_or_image_error(data) for data in samples().values())
