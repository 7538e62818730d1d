"""Pictures made from formulas, and the scores that a healthy installation gives them.

They are small, belong to nobody and cover what decoding can get wrong: reduced JPEG decoding, Exif
orientation, 16 bits, palette, transparency, gray. They are no photographs and their scores say nothing about
taste; they only have to come out the same everywhere.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import GOLDEN_NAME
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from piaa_sdk.bundle import ModelBundle

FORMAT_VERSION = 1
GOLDEN_FOLDER = "golden"
MAX_BYTES = 150_000

SCORE_TOLERANCE = 0.02
"""Rating units. Another JPEG decoder may round pixels otherwise; anything wrong moves scores by more."""

EMBEDDING_TOLERANCE = 0.02
"""Of the norm of the embedding."""

_EXCERPT = 8
_EXIF_ORIENTATION = 0x0112


def make_golden_pictures() -> dict[str, bytes]:
    """Make the golden pictures.

    Returns:
        Bytes of each file by its name, in the order of the names.
    """
    makers: dict[str, Callable[[], bytes]] = {
        "1-dusk.jpg": _dusk,
        "2-shapes.png": _shapes,
        "3-waves-turned.jpg": _waves_turned,
        "4-hills-16-bit.png": _hills_16_bit,
        "5-bubbles-alpha.png": _bubbles_alpha,
        "6-weave-gray.jpg": _weave_gray,
        "7-tiles-palette.png": _tiles_palette,
    }
    pictures = {name: make() for name, make in makers.items()}
    if (size := sum(map(len, pictures.values()))) > MAX_BYTES:
        raise ModelFormatError(f"the golden pictures have {size} bytes, allowed are {MAX_BYTES}")
    return pictures


def golden_figures(bundle: ModelBundle, names: list[str]) -> dict[str, Any]:
    """Score golden pictures the way the SDK scores any picture.

    Args:
        bundle: The bundle that holds the pictures.
        names: Their names in the bundle's folder.

    Returns:
        The content of ``golden.json``: per picture the generic score in rating units, and of the embedding
        the norm and the first numbers.
    """
    backbone = Backbone(bundle, device="cpu")
    prior = Prior.load(bundle.prior_path)
    pictures = []
    for name in names:
        pixels = load_image(bundle.folder / name, bundle.preprocessing)
        embedding = backbone.embed(pixels[np.newaxis])
        score = bundle.rating_scale.from_unit(prior.generic(embedding))[0]
        pictures.append(
            {
                "file": name,
                "score": round(float(score), 6),
                "embedding_norm": round(float(np.linalg.norm(embedding)), 6),
                "embedding_start": [round(float(number), 6) for number in embedding[0, :_EXCERPT]],
            }
        )
    tolerance = {"score": SCORE_TOLERANCE, "embedding": EMBEDDING_TOLERANCE}
    return {"format_version": FORMAT_VERSION, "tolerance": tolerance, "pictures": pictures}


def compare_golden(bundle: ModelBundle) -> float:
    """Score a bundle's golden pictures again.

    Returns:
        The largest difference of a score, rating units.

    Raises:
        ModelFormatError: A score or an embedding lies outside the tolerance that the bundle states.
    """
    stored = json.loads(bundle.path(GOLDEN_NAME).read_text(encoding="utf-8"))
    names = [picture["file"] for picture in stored["pictures"]]
    found = golden_figures(bundle, names)
    largest = 0.0
    for expected, measured in zip(stored["pictures"], found["pictures"], strict=True):
        difference = abs(expected["score"] - measured["score"])
        numbers = np.array([expected["embedding_norm"], *expected["embedding_start"]])
        moved = (
            np.abs(numbers - [measured["embedding_norm"], *measured["embedding_start"]]).max() / numbers[0]
        )
        if not (difference <= stored["tolerance"]["score"] and moved <= stored["tolerance"]["embedding"]):
            raise ModelFormatError(
                f"{expected['file']}: score {measured['score']:.4f}, expected {expected['score']:.4f}; its "
                f"embedding moved by {moved:.4f} of its norm. Decoder, backbone or prior differ"
            )
        largest = max(largest, difference)
    return largest


def _dusk() -> bytes:
    """Draw a sky over water with a low sun, large enough that a JPEG decoder reduces it."""
    y, x = _positions(900, 1200)
    glow = np.exp(-((x - 0.66) ** 2 + (y - 0.52) ** 2) / 0.02)
    water = y > 0.58
    ripple = np.where(water, 0.06 * np.sin(220 * y**2) * np.cos(9 * x), 0)
    red = 0.25 + 0.65 * y + 0.5 * glow + ripple
    green = 0.2 + 0.35 * y + 0.4 * glow + ripple
    blue = 0.5 - 0.25 * y + 0.15 * glow + 2 * ripple
    return _encode(_image(np.stack([red, green, blue], axis=-1) * np.where(water, 0.7, 1)[..., np.newaxis]))


def _shapes() -> bytes:
    """Draw flat shapes with hard edges."""
    image = Image.new("RGB", (480, 320), (238, 230, 214))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 40, 200, 200), fill=(205, 62, 48))
    draw.polygon([(260, 280), (340, 60), (440, 280)], fill=(32, 84, 128))
    draw.rectangle((120, 190, 300, 290), fill=(240, 180, 40))
    draw.line([(20, 300), (460, 30)], fill=(30, 30, 30), width=6)
    return _encode(image, "PNG")


def _waves_turned() -> bytes:
    """Draw interfering waves in colour, stored lying on the side; an Exif orientation rights them."""
    y, x = _positions(420, 300)
    rings = np.sin(60 * np.hypot(x - 0.2, y - 0.8)) + np.sin(45 * np.hypot(x - 0.9, y - 0.3))
    upright = _image(np.stack([0.5 + 0.2 * rings, 0.3 + 0.5 * y + 0.1 * rings, 0.75 - 0.3 * y], axis=-1))
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6
    return _encode(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)


def _hills_16_bit() -> bytes:
    """Draw ranges of hills in haze, gray with 16 bits."""
    y, x = _positions(200, 280)
    shade = 0.9 - 0.25 * y
    for level in range(4):
        ridge = 0.35 + 0.15 * level + 0.06 * np.sin((5 + 3 * level) * x + 2 * level) + 0.02 * np.sin(31 * x)
        shade = np.where(y > ridge, 0.62 - 0.16 * level, shade)
    return _encode(Image.fromarray(np.round(shade * 65535).astype(np.uint16)), "PNG")


def _bubbles_alpha() -> bytes:
    """Draw soft coloured disks on nothing."""
    y, x = _positions(160, 240)
    colour, opacity = np.zeros((160, 240, 3)), np.zeros((160, 240))
    for number in range(7):
        angle = 2.4 * number
        distance = np.hypot(x - 0.5 - 0.35 * np.cos(angle), y - 0.5 - 0.33 * np.sin(angle))
        disk = np.clip((0.16 - distance) * 20, 0, 1)
        tint = 0.5 + 0.45 * np.sin(angle + np.array([0.0, 2.1, 4.2]))
        colour += disk[..., np.newaxis] * (tint - colour)
        opacity = np.maximum(opacity, 0.8 * disk)
    return _encode(_image(np.concatenate([colour, opacity[..., np.newaxis]], axis=-1)), "PNG")


def _weave_gray() -> bytes:
    """Draw a fine woven texture in gray."""
    y, x = _positions(256, 256)
    weave = np.sin(150 * x + 4 * np.sin(9 * y)) * np.sin(150 * y + 4 * np.sin(7 * x))
    return _encode(_image(0.5 + 0.3 * weave * (0.4 + 0.6 * y)))


def _tiles_palette() -> bytes:
    """Draw tiles in 16 colours, stored with a palette."""
    rows, columns = np.indices((12, 16))
    number = (rows * rows + 3 * columns + rows * columns) % 16
    image = Image.fromarray(np.kron(number, np.ones((20, 20))).astype(np.uint8), "P")
    colours = [[(37 * k) % 256, (91 * k + 60) % 256, (150 * k + 20) % 256] for k in range(16)]
    image.putpalette([channel for colour in colours for channel in colour])
    return _encode(image, "PNG")


def _positions(height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return y and x of every pixel, (H, W) each, 0 at the top left and 1 at the bottom right."""
    y, x = np.mgrid[0:height, 0:width]
    return y / (height - 1), x / (width - 1)


def _image(values: npt.NDArray[np.float64]) -> Image.Image:
    """Turn values, (H, W) or (H, W, 3 or 4) in [0, 1], into an image of 8 bits."""
    return Image.fromarray(np.round(np.clip(values, 0, 1) * 255).astype(np.uint8))


def _encode(image: Image.Image, kind: str = "JPEG", exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    if kind == "PNG":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=80, exif=b"" if exif is None else exif.tobytes())
    return buffer.getvalue()
