"""Pictures of every format and kind become the same upright sRGB pixels."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from piaa_sdk.bundle import Preprocessing
from piaa_sdk.errors import ImageError
from piaa_sdk.images import decode, display_name, load_image, printable, supported_formats
from piaa_sdk.images.opening import decoded

if TYPE_CHECKING:
    from pathlib import Path

    from piaa_sdk.array_types import PixelArray

SETTINGS = Preprocessing(
    size=32, fit="squash", resample="bilinear", draft_factor=2, background=(255, 255, 255), decoding_rule=1
)
EXIF_ORIENTATION = 0x0112
# How a picture has to be stored so that a viewer who obeys the orientation shows it as it was.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """Paint a picture whose four corners and two axes all differ, smooth enough for lossy formats."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    colors = np.stack([255 * x, 255 * (1 - y), 255 * x * y], axis=-1)
    return Image.fromarray(np.rint(colors).astype(np.uint8))


def save(image: Image.Image, format_name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def save_heic(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=95, **options)
    return stream.getvalue()


def png(header: tuple[int, int, int, int], rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG that Pillow cannot write: width, height, bit depth, colour type; rows with filter bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def reference(image: Image.Image) -> PixelArray:
    return np.array(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))


def difference(pixels: PixelArray, expected: npt.ArrayLike) -> float:
    """Largest difference of any channel."""
    return float(np.abs(pixels.astype(np.int16) - np.asarray(expected, dtype=np.int16)).max())


def corners(pixels: PixelArray) -> list[list[int]]:
    return pixels[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()


@pytest.mark.parametrize(
    ("format_name", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "packbits"}, 0),
        ("TIFF", {"compression": "jpeg"}, 8),
        ("GIF", {}, 30),
        ("BMP", {}, 0),
        ("AVIF", {"quality": 95}, 6),
    ],
)
def test_formats_agree(format_name: str, options: dict[str, Any], tolerance: int) -> None:
    pixels = decode(save(scene(), format_name, **options), SETTINGS, "x")
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert difference(pixels, reference(scene())) <= tolerance


def test_heic_agrees_with_the_others() -> None:
    assert difference(decode(save_heic(scene()), SETTINGS, "x"), reference(scene())) <= 8


def test_doctor_can_ask_for_every_format() -> None:
    formats = supported_formats()
    assert set(formats) == {"JPEG", "PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF", "HEIC", "RAW"}
    assert formats["JPEG"]
    assert formats["PNG"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_obeyed(format_name: str, orientation: int) -> None:
    """All eight values give the same pixels, up to the rounding of which side is resized first."""
    turn = STORED[orientation]
    stored = scene() if turn is None else scene().transpose(turn)
    if format_name == "TIFF":
        data = save(stored, "TIFF", tiffinfo={EXIF_ORIENTATION: orientation})
    else:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        options = {"WEBP": {"lossless": True}}.get(format_name, {})
        data = save(
            stored, format_name, exif=exif, **({"quality": 95} | options if format_name != "PNG" else {})
        )
    assert difference(decode(data, SETTINGS, "x"), reference(scene())) <= (
        7 if format_name in ("JPEG", "AVIF") else 1
    )


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_is_turned_once(orientation: int) -> None:
    """Its library turns the pixels itself; the Exif block that stays in the file must not turn them again."""
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = scene() if turn is None else scene().transpose(turn)
    stream = io.BytesIO()
    pillow_heif = pytest.importorskip("pillow_heif")
    heif = pillow_heif.HeifFile()
    heif.add_frombytes("RGB", stored.size, stored.tobytes())
    heif.save(stream, quality=95, exif=exif.tobytes())
    with pillow_heif.HeifImageFile(io.BytesIO(stream.getvalue())) as opened:
        assert (opened.info["original_orientation"] or 1) == orientation
    assert difference(decode(stream.getvalue(), SETTINGS, "x"), reference(scene())) <= 8


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + bytes(60)]
)
def test_damaged_exif_does_not_matter(exif: bytes) -> None:
    data = save(scene(), "JPEG", quality=95, exif=exif)
    assert difference(decode(data, SETTINGS, "x"), reference(scene())) <= 6


def test_orientation_beyond_eight_is_left_alone() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 77
    data = save(scene(), "PNG", exif=exif)
    assert difference(decode(data, SETTINGS, "x"), reference(scene())) == 0


def test_orientation_behind_the_pixels_of_a_png_counts() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 3
    data = save(scene().transpose(Image.Transpose.ROTATE_180), "PNG")
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = (
        struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    )
    end = data.rindex(b"IEND") - 4
    assert difference(decode(data[:end] + chunk + data[end:], SETTINGS, "x"), reference(scene())) <= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_reduced_and_no_further_than_allowed(orientation: int) -> None:
    """Both sides keep draft_factor times the size, however the photo is held."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    for width, height, reduced in [(1024, 768, (128, 96)), (768, 1024, (96, 128)), (1024, 511, (256, 128))]:
        data = save(scene(width, height), "JPEG", quality=90, exif=exif)
        with decoded(data, "JPEG", 64, "x") as image:
            assert image.size == reduced


def test_reduced_decoding_keeps_the_pixels() -> None:
    """The reduction saves time and moves detailed pixels by less than a level on average."""
    random = np.random.default_rng(0)
    noisy = np.asarray(scene(1024, 768)).astype(float) + random.normal(0, 12, (768, 1024, 3))
    data = save(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), "JPEG", quality=92)
    full = decode(data, replace(SETTINGS, draft_factor=64), "x").astype(float)
    reduced = decode(data, SETTINGS, "x").astype(float)
    assert 0 < np.abs(full - reduced).mean() < 1


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
def test_the_filter_is_the_bundles(resample: str) -> None:
    stripes = Image.fromarray(np.tile(np.array([[0, 255, 255]], dtype=np.uint8), (64, 32)))
    expected = stripes.resize((32, 32), Image.Resampling[resample.upper()]).convert("RGB")
    assert difference(decode(save(stripes, "PNG"), replace(SETTINGS, resample=resample), "x"), expected) == 0


def test_sixteen_bit_gray_png_and_tiff() -> None:
    gray = np.asarray(scene().convert("L"))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    expected = reference(scene().convert("L"))
    assert difference(decode(save(deep, "PNG"), SETTINGS, "x"), expected) == 0
    assert difference(decode(save(deep, "TIFF"), SETTINGS, "x"), expected) == 0


def test_sixteen_bit_color_png() -> None:
    colors = np.asarray(scene()).astype(">u2") * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colors)
    assert difference(decode(png((96, 64, 16, 2), rows), SETTINGS, "x"), reference(scene())) == 0


@pytest.mark.parametrize(("top", "offset"), [(1.0, 0.0), (255.0, 0.0), (65535.0, 0.0), (9e6, -4e6)])
def test_tiff_of_fractions_is_scaled(top: float, offset: float) -> None:
    """0-1, 0-255 and 0-65535 are recognized; other ranges are spread from the lowest to the highest."""
    gray = np.asarray(scene().convert("L"), dtype=np.float32)
    gray = (gray - gray.min()) / np.ptp(gray)
    data = save(Image.fromarray(gray * np.float32(top) + np.float32(offset)), "TIFF")
    expected = reference(Image.fromarray(np.rint(gray * 255).astype(np.uint8)))
    assert difference(decode(data, SETTINGS, "x"), expected) <= 1


def test_tiff_of_fractions_with_holes() -> None:
    gray = np.full((64, 64), 0.5, dtype=np.float32)
    gray[:32, :32] = np.nan
    gray[32:, 32:] = np.inf
    pixels = decode(save(Image.fromarray(gray), "TIFF"), SETTINGS, "x")
    assert corners(pixels) == [[0] * 3, [128] * 3, [128] * 3, [255] * 3]


def test_tiff_without_a_number_is_refused() -> None:
    data = save(Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)), "TIFF")
    with pytest.raises(ImageError, match="no pixel of it is a number"):
        decode(data, SETTINGS, "x")


@pytest.mark.parametrize("top", [255, 65535, 2_000_000])
def test_tiff_of_whole_numbers_is_scaled(top: int) -> None:
    gray = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    data = save(Image.fromarray(np.rint(gray * top).astype(np.int32)), "TIFF")
    expected = reference(Image.fromarray(np.rint(gray * 255).astype(np.uint8)))
    assert difference(decode(data, SETTINGS, "x"), expected) <= 1


def test_palette() -> None:
    image = scene().convert("P", palette=Image.Palette.ADAPTIVE)
    assert difference(decode(save(image, "PNG"), SETTINGS, "x"), reference(image)) == 0


def test_palette_with_partly_transparent_colors_lies_on_white() -> None:
    image = Image.new("P", (40, 40), 0)
    image.paste(1, (20, 0, 40, 40))
    image.putpalette([0, 0, 0, 0, 0, 255])
    pixels = decode(save(image, "PNG", transparency=bytes([0, 51])), SETTINGS, "x")
    assert corners(pixels)[:2] == [[255, 255, 255], [204, 204, 255]]


def test_transparent_color_of_a_gif() -> None:
    image = Image.new("P", (40, 40), 0)
    image.paste(1, (20, 0, 40, 40))
    image.putpalette([0, 0, 0, 200, 0, 0])
    pixels = decode(save(image, "GIF", transparency=0), SETTINGS, "x")
    assert corners(pixels)[:2] == [[255, 255, 255], [200, 0, 0]]


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_lies_on_the_background_of_the_bundle(format_name: str) -> None:
    image = Image.new("RGBA", (64, 64), (200, 0, 0, 255))
    image.paste((0, 0, 255, 0), (32, 0, 64, 64))
    data = save(image, format_name, **({"lossless": True} if format_name == "WEBP" else {}))
    for background in [(255, 255, 255), (10, 20, 30)]:
        pixels = decode(data, replace(SETTINGS, background=background), "x")
        assert difference(pixels[0, 0], (200, 0, 0)) <= 4
        assert difference(pixels[0, -1], background) <= 4


def test_transparent_pixels_do_not_bleed_into_their_neighbours() -> None:
    """The color of a pixel that cannot be seen must not be mixed into those that can."""
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 67, 128))
    assert decode(save(image, "PNG"), SETTINGS, "x").min() >= 254


def test_gray_with_alpha() -> None:
    image = Image.new("LA", (40, 40), (0, 255))
    image.paste((0, 0), (20, 0, 40, 40))
    assert corners(decode(save(image, "PNG"), SETTINGS, "x"))[:2] == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("color_type", "transparent"), [(0, b"\0\x40"), (2, b"\0\x40\0\x40\0\x40")])
def test_png_with_one_transparent_color(color_type: int, transparent: bytes) -> None:
    channels = 3 if color_type == 2 else 1
    rows = (b"\0" + b"\x40" * (20 * channels) + b"\x41" * (20 * channels)) * 40
    pixels = decode(png((40, 40, 8, color_type), rows, (b"tRNS", transparent)), SETTINGS, "x")
    assert corners(pixels)[:2] == [[255, 255, 255], [65, 65, 65]]


@pytest.mark.parametrize("mode", ["L", "1"])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "BMP", "GIF"])
def test_gray_and_black_and_white(mode: str, format_name: str) -> None:
    image = scene().convert(mode)
    assert difference(decode(save(image, format_name), SETTINGS, "x"), reference(image.convert("L"))) <= 1


def test_gray_jpeg() -> None:
    image = scene().convert("L")
    assert difference(decode(save(image, "JPEG", quality=95), SETTINGS, "x"), reference(image)) <= 3


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_cmyk(format_name: str) -> None:
    """Adobe's JPEGs hold CMYK inverted; without a profile the plain conversion is taken."""
    image = scene().convert("CMYK")
    data = save(image, format_name, **({"quality": 95} if format_name == "JPEG" else {}))
    assert difference(decode(data, SETTINGS, "x"), reference(scene())) <= 8


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw"])
def test_ycbcr_tiff(compression: str) -> None:
    data = save(scene().convert("YCbCr"), "TIFF", compression=compression)
    assert difference(decode(data, SETTINGS, "x"), reference(scene())) <= 8


def test_lab_tiff() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    muted = Image.blend(scene(), Image.new("RGB", (96, 64), (128, 128, 128)), 0.5)
    image = ImageCms.profileToProfile(muted, srgb, lab, outputMode="LAB")
    assert image is not None
    assert difference(decode(save(image, "TIFF"), SETTINGS, "x"), reference(muted)) <= 8


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """Make the profile of a device that shows red for blue, by exchanging the names of two tags."""
    profile = srgb_profile()
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_color_profile_is_converted_to_srgb(format_name: str) -> None:
    image = Image.new("RGB", (64, 64), (220, 60, 20))
    options = (
        {"lossless": True} if format_name == "WEBP" else {"quality": 95} if format_name != "TIFF" else {}
    )
    if format_name == "PNG":
        options = {}
    data = save(image, format_name, icc_profile=swapped_profile(), **options)
    assert difference(decode(data, SETTINGS, "x")[5, 5], (20, 60, 220)) <= 6


def test_heic_color_profile_is_converted_to_srgb() -> None:
    image = Image.new("RGB", (64, 64), (220, 60, 20))
    image.info["icc_profile"] = swapped_profile()
    assert difference(decode(save_heic(image), SETTINGS, "x")[5, 5], (20, 60, 220)) <= 8


def inks_profile() -> bytes:
    """Make the profile of a printer whose first ink is green, not cyan; its other inks print black."""
    lab_of_corners = [(255, 128, 128)] + [(0, 128, 128)] * 15
    lab_of_corners[8] = (150, 60, 180)  # only the first of four inks
    ramp, unit = bytes(range(256)), (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x10000)
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", *unit)
    table += ramp * 4 + b"".join(map(bytes, lab_of_corners)) + ramp * 3
    start = 128 + 4 + 12
    header = (
        struct.pack(">I4sI", start + len(table), b"lcms", 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", start, len(table)) + table


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_profile_of_inks_is_applied_to_the_inks(format_name: str) -> None:
    """Once converted to RGB, the amounts of ink are lost, and the profile with them."""
    image = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    options = {"quality": 95} if format_name == "JPEG" else {}
    red, green, blue = decode(save(image, format_name, icc_profile=inks_profile(), **options), SETTINGS, "x")[
        5, 5
    ]
    assert green > 120
    assert max(red, blue) < 60


def test_color_profile_of_a_picture_with_alpha() -> None:
    image = Image.new("RGBA", (64, 64), (220, 60, 20, 255))
    image.paste((1, 2, 3, 0), (32, 0, 64, 64))
    pixels = decode(save(image, "PNG", icc_profile=swapped_profile()), SETTINGS, "x")
    assert difference(pixels[0, 0], (20, 60, 220)) <= 3
    assert pixels[0, -1].tolist() == [255, 255, 255]


def test_srgb_profile_changes_nothing() -> None:
    """A picture scores the same with and without the tag that says what is assumed anyway."""
    plain = decode(save(scene(), "PNG"), SETTINGS, "x")
    assert difference(decode(save(scene(), "PNG", icc_profile=srgb_profile()), SETTINGS, "x"), plain) == 0


@pytest.mark.parametrize(
    "profile",
    [
        b"\0" * 200,
        srgb_profile()[:200],
        srgb_profile()[:100] + b"\xff" * 400,
        srgb_profile().replace(b"RGB ", b"CMYK"),
    ],
    ids=["zeros", "cut off", "damaged", "another space"],
)
def test_odd_color_profiles_are_left_out_of_account(profile: bytes) -> None:
    assert (
        difference(decode(save(scene(), "PNG", icc_profile=profile), SETTINGS, "x"), reference(scene())) == 0
    )


def test_gray_picture_with_a_color_profile() -> None:
    image = scene().convert("L")
    assert (
        difference(decode(save(image, "PNG", icc_profile=swapped_profile()), SETTINGS, "x"), reference(image))
        == 0
    )


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_first_frame_counts(format_name: str) -> None:
    first, second = Image.new("RGB", (40, 40), (0, 0, 255)), Image.new("RGB", (40, 40), (255, 0, 0))
    data = save(first, format_name, save_all=True, append_images=[second])
    assert difference(decode(data, SETTINGS, "x"), reference(first)) <= 6


def test_one_pixel_is_enough() -> None:
    pixels = decode(save(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), SETTINGS, "x")
    assert (pixels == (9, 8, 7)).all()


def test_thin_pictures_are_squashed() -> None:
    for size in [(4000, 1), (1, 4000)]:
        data = save(Image.new("RGB", size, (200, 100, 50)), "JPEG", quality=95)
        assert difference(decode(data, SETTINGS, "x"), np.full((32, 32, 3), (200, 100, 50))) <= 3


def test_every_input_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(save(scene(), "PNG"))
    expected = decode(path.read_bytes(), SETTINGS, "x")
    with Image.open(path) as opened:
        for image in [
            path,
            str(path),
            path.read_bytes(),
            bytearray(path.read_bytes()),
            opened,
            np.asarray(scene()),
        ]:
            assert difference(load_image(image, SETTINGS), expected) == 0


def test_the_name_plays_no_part(tmp_path: Path) -> None:
    path = tmp_path / "scene.jpg"
    path.write_bytes(save(scene(), "PNG"))
    assert difference(load_image(path, SETTINGS), reference(scene())) == 0


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_pillow_image_of_any_mode_is_taken_and_not_modified(mode: str) -> None:
    step = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    image = scene().convert(step).convert(mode) if mode != "PA" else scene().convert("P").convert("PA")
    image.info["note"] = "mine"
    before = (image.mode, image.size, image.tobytes(), dict(image.info))
    pixels = load_image(image, SETTINGS)
    assert (image.mode, image.size, image.tobytes(), dict(image.info)) == before
    expected = reference(scene().convert({"La": "L", "LA": "L", "1": "1", "L": "L"}.get(mode, "RGB")))
    if mode not in ("1", "P", "PA"):  # dithered
        assert difference(pixels, expected) <= 4
    assert np.abs(pixels.astype(float) - expected).mean() < 12


def test_pillow_image_keeps_its_orientation_and_is_turned() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    data = save(scene().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert difference(load_image(image, SETTINGS), reference(scene())) <= 1
        assert image.size == (64, 96)
        assert image.getexif()[EXIF_ORIENTATION] == 6


def test_lazily_opened_jpeg_of_the_caller_keeps_its_size() -> None:
    with Image.open(io.BytesIO(save(scene(512, 384), "JPEG"))) as image:
        load_image(image, SETTINGS)
        assert image.size == (512, 384)


def test_closed_pillow_image_is_an_image_error() -> None:
    image = Image.open(io.BytesIO(save(scene(), "PNG")))
    image.close()
    with pytest.raises(ImageError, match="Pillow image"):
        load_image(image, SETTINGS)


@pytest.mark.parametrize(
    "convert",
    [
        lambda pixels: pixels,
        lambda pixels: pixels.astype(np.uint16) * 257,
        lambda pixels: pixels / 255,
        lambda pixels: (pixels / 255).astype(np.float32),
        lambda pixels: np.dstack([pixels, np.full(pixels.shape[:2], 255, dtype=np.uint8)]),
        lambda pixels: np.asfortranarray(pixels),
        lambda pixels: np.repeat(pixels, 2, axis=1)[:, ::2],
    ],
    ids=["uint8", "uint16", "float64", "float32", "alpha", "column order", "strided"],
)
def test_arrays(convert: Any) -> None:
    array = convert(np.asarray(scene()))
    before = array.copy()
    assert difference(load_image(array, SETTINGS), reference(scene())) == 0
    assert (array == before).all()


@pytest.mark.parametrize("shape", [(64, 96), (64, 96, 1)])
def test_gray_arrays(shape: tuple[int, ...]) -> None:
    gray = np.asarray(scene().convert("L"))
    assert difference(load_image(gray.reshape(shape), SETTINGS), reference(scene().convert("L"))) == 0


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(5, dtype=np.uint8), r"shape \(H, W\).*not \(5,\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"not \(3, 8, 8\)"),
        (np.zeros((8, 8, 2), dtype=np.uint8), r"not \(8, 8, 2\)"),
        (np.zeros((1, 8, 8, 3), dtype=np.uint8), r"not \(1, 8, 8, 3\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"not \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), dtype=np.int64), "not int64"),
        (np.zeros((8, 8, 3), dtype=bool), "not bool"),
        (np.zeros((8, 8, 3), dtype=complex), "not complex128"),
        (np.full((8, 8, 3), 200.0), "from 200 to 200"),
        (np.full((8, 8, 3), np.nan), "fractions from 0 to 1"),
        (np.full((8, 8, 3), -0.1), "from -0.1 to -0.1"),
    ],
)
def test_arrays_of_another_kind_are_refused(array: npt.NDArray[Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        load_image(array, SETTINGS, "image 1")


def test_other_things_are_refused() -> None:
    with pytest.raises(ImageError, match="not list"):
        load_image([1, 2, 3], SETTINGS)  # type: ignore[arg-type]


def test_names() -> None:
    assert display_name("./a b.jpg", 4) == "./a b.jpg"
    assert display_name(np.zeros((2, 2)), 2) == "image 3"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b.jpg", "a b.jpg"),
        ("Zürich 👨‍👩‍👧 東京　.jpg", "Zürich 👨‍👩‍👧 東京　.jpg"),
        ("two\nlines\x1b[31m.jpg", "two\\nlines\\x1b[31m.jpg"),
        ("caf\udce9.jpg", "caf\\xe9.jpg"),
        ("gpj.\u202efdp", "gpj.\\u202efdp"),
    ],
)
def test_printable_names(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(shown) == shown
