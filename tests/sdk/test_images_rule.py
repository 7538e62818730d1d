"""Frozen figures of decoded pictures: every cached embedding and every profile rests on them.

If a change of the decoder moves them beyond the tolerance, it is a new rule: raise ``DECODING_RULE`` in
``piaa_sdk/bundle.py`` and write the new figures down here. Running this file as a script prints them.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.images import decode

if TYPE_CHECKING:
    from piaa_sdk.array_types import PixelArray

SETTINGS = Preprocessing(
    size=24, fit="squash", resample="bicubic", draft_factor=2, background=(255, 255, 255), decoding_rule=1
)
TOLERANCE = 0.25
"""Levels of 255: versions of Pillow and its libraries round differently, rules differ by more."""


def save(image: Image.Image, format_name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def scene() -> npt.NDArray[np.uint8]:
    """Paint (120, 150, 3) by a formula: slopes, and detail that gets finer to the right."""
    y, x = np.mgrid[0:120, 0:150]
    red = 40 + x + 60 * ((x * x // 150 + y // 8) % 2)
    green = 220 - y - 50 * ((x // 3 + y // 3) % 2)
    blue = (x * y) % 256
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)


def swapped_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


@cache
def pictures() -> dict[str, bytes]:
    pixels = scene()
    image = Image.fromarray(pixels)
    alpha = np.dstack([pixels, (np.arange(150) * 255 // 149).astype(np.uint8)[None].repeat(120, axis=0)])
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "png": save(image, "PNG"),
        "turned": save(image, "PNG", exif=exif),
        "alpha": save(Image.fromarray(alpha), "PNG"),
        "deep": save(Image.fromarray(pixels[..., 0].astype(np.uint16) * 199), "PNG"),
        "fractions": save(Image.fromarray(pixels[..., 0] / np.float32(255)), "TIFF"),
        "cmyk": save(image.convert("CMYK"), "TIFF"),
        "profile": save(image, "PNG", icc_profile=swapped_profile()),
        "jpeg": base64.b64decode(JPEG),
    }


def figures(pixels: PixelArray) -> list[float]:
    """Sum pixels (24, 24, 3) up: per colour the mean of each quarter, and how much neighbours differ.

    The means notice another turn, background, colour or range; the differences another filter or reduction.
    """
    values = pixels.astype(float)
    means = values.reshape(2, 12, 2, 12, 3).mean(axis=(1, 3)).ravel()
    across, down = np.abs(np.diff(values, axis=1)), np.abs(np.diff(values, axis=0))
    return [round(float(value), 2) for value in [*means, *across.mean((0, 1)), *down.mean((0, 1))]]


def distance(data: bytes, settings: Preprocessing, frozen: list[float]) -> float:
    return float(np.abs(np.subtract(figures(decode(data, settings, "x")), frozen)).max())


JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71"
    "////m8H////6/+b9//j/2wBDASstLTw1PHZBQXb4pYyl+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4"
    "+Pj4+Pj4+Pj/wAARCACQALQDASIAAhEBAxEB/8QAGAABAQEBAQAAAAAAAAAAAAAAAQACBAP/xAAsEAABAwMEAgICAgMAAwAAAAAB"
    "ABEhAjFBEiIyUUJhYqFScXKBEyORA7LB/8QAGAEBAQEBAQAAAAAAAAAAAAAAAQACBAP/xAAmEQEAAgEDAwQCAwAAAAAAAAAAAREh"
    "AhIxIkHwUWFxkQMygdHx/9oADAMBAAIRAxEAPwC5SYZIk6sjCWB5BjhabJG7AXLp025tqqtqz0oBqXEk4VS5Py6S4pqiTkL1j8UR"
    "GTdhtIDS61pbUBIOUAlzpH79KDkBi9JuVbdPaLJ0gNThrq0htJMAXUwsTt7Vts214Vt0x2NICmosSzMmCATcYVcSGGFF/JgRZW2K"
    "4aME6mLjCQA+pi/Sy5gk7uk+w+rpVQSAANQBJOEDbYAuO1W4icykRxY9qnTBQAEBiCbupgAKYbtX8eLSU+hx7RUehpBjppaBlLCo"
    "EEMxQ4Lg8RYqaQKrYVglhVpJDMiqa9ViMJEvquLKEl6uWEaoiuGog1W1Z6WREiScJpJJc8ulrL0jdkIjTEcmt2WdA7UtaKFLW32W"
    "2fVxCo+V8LYqOeWFgUkRUXJstkGkMTuNit/iiIi5cfUajp481AZp5ZQN20cu1Ev/AK6YqyU89Wpr4OoDhc3TJ48QsgOIjTf2lzU5"
    "EUnCpvifomB/EyrUWttuEOLiwhktD1HaYZHx5/JL/mYwyv2Jwi0kODZXGKjqOPSi1IMkahZWWk1I9HkcqvF6u1eef40R6bVlIMbf"
    "7QD4iDkqvaGu6CXxTxsXUC4ccf0gTIikSU+/EYUcl3vxKXzVYQFmwc2GE4mXkIJdi1VzZTkVN5YRYh5Kmer32iuzTRi3NWo+Laso"
    "d9tqu1CkmA2rJSfg6qBe/wDakbcspFQupzUkUw7umoh9Dv7XnREUyDdIuw4nK9NMdMR6uPdLdtpj2oM/QGe1VTHj2jlSxikWKeZv"
    "6aqsNDcSTCn1MbabhZJ1AAwBb2tE6icEfaiQb1D/AIpwDquSbIeQRdkCJpmppQWnaTL46TaO8rIg7ZJuoQNsg3PSi0I2/ZVfbf2r"
    "sCR2r149qpo8os2Qp9XpkCQxsLFTvyhrILTvNi1u1P5fSHcuYINlDFXl0qiXZ6rvhIOkvcH6QC2mocshVqSaZLz6QSDpBF3TTtek"
    "m+VmzASDdVVyBx7Q0QG2mPa3qBh2bPazVxbx7WbhjFIsVH9Xp/kAwpY1VfipVLd7PCmBttlQ4luOV501bSaSwyl9oY7chemmKiHJ"
    "ug0wPitG4BthBYMRx6U8GuqRhNf0YisNZIq/pHQN0EkAGqTVZNiaTfB6QTd+3Tlxd5WehntTnHK6q887FrEXlwo3i2UByWpvlQLj"
    "bAz7RMNEWjimG+KP1xGFe/DpRon5ccJ/l3CMPVIwp2O6elEn5cmhJv8ANZsWN7BTmx5dootZqI5ZSOQ03aVkSQByNyqS+mKhdTTQ"
    "8tNsqp4luOUPbTAz7US1ooyETBNN/it/y44WCwD+KNTSTtwFcmOnD0evAClh/wDydqRXud0OYUiqkkQyWBY4GFkVg0uQxwnWCdTF"
    "xhescQ48LU71G3SbMLg4QBparPSnb/YJfHSjBs7z0mzUmTVnpD6SSJf6VbbfJKifWRAKQHOkHdYlZ9YNil404Ev2om9ob7TcxDXW"
    "eUGGyl9W4hmsENF33Y67U/ljpD+RuMK+WelYLT6ZMg4VxEy/0ix1CScKfTaXQWrRcmQVM23PaHbaJBh1P44OVE/EQacpG6BHZWbj"
    "Tg2KXe8CmP2po8nIjT9qG4a7AYReTHQSC0m/SCRU8m3SWAkyDhZG06s9JFbbgCSbhRj3P+M4rKkR+TKRXy10uQAkDUGOEkFySN3S"
    "RYar4V6PLC9Y4cW2CS7kc+kWEcshFN/kl3rjllM+efRjOTYAUz+Se2tVcoEk6f7UDAbjlBOABxs6sMeLMEYP4un98XhDVL+Vse03"
    "5XwjG60so/K+FGmrlzyU8uOXSA8A8sKfrkokFnblkKEcZ7RLxyyn+Pcokn+NrkqFm8FYOni0q7/FRo4APEZVcMf69o/InjhORqs0"
    "KaN21XCC5qfyUM6r4VTaeWESYhol5E19IYiQN2UU8vkt/rllXBiN2WdI7KlrYe1JvUdsOIQAKpJskQQDy7UAKWF3CdIA0+rrcasO"
    "LYarN5NdV6SBBGVkSdBP9pudNhdVdmuckyBphrpvqIgdI5OLabKd2qt6UaLwKvFrKsHPEiygXerrCrbruWZRo2L1SCzKEMDJNijj"
    "N3+knaWu6GqJd2J3YKRdvLtZH4u75V8ftRaEhhBDOVX4wwlF9tmynkOm+1FCZEAGQoGAfHpXLdZhZXdX0g0R4kjb0oxSSZBMIdnq"
    "+uk2Iy8shqiY0gyTZRipjyOVCHF//iqbMZ9q9zTVVm8u1i8CCLlNMkUH/qWB22bKDW7LOqnIUtuPxCkrZLjpqYMJBEp1eI45KAGG"
    "22U6cDjlekVTj6izBhx7VcTAGUOKg3inGk2wpr4LvJgquXMGm3tF+WLJzu5GAol8+RllORI5XZH/ALhU45WKiQWMSTcJEcZBui3G"
    "+VW42yho22i3afj49ovbgrHxUTeDAFlPqO6GsiLVccJ91f0glyTMGwCncv5dInPK4V++QwiS1LuJqquOlPpeqmTZkSLcxdXqm9yp"
    "o8YEg3U+naJp7UPjYXVcOOOUEswbx7VqeDFPaiQY8UacVccJOezX+Sr8fpSGr9f8UioWXMCDTtLDKdQIccel5jcARDKB8sdL1rDj"
    "3S2I3GKekvOo8cKqtqx0h2oc2OFfLVVhp2J1ZsizCrl2g7QHl/pNiQbnPSKJ7B5HKQZYcnkrPVOWuq+3LXUWrxTcXU4M0wMoG4sI"
    "a6gdUiGuFNEWjjkJw549Id3qsOkv5Y6QaXRM04S7cp6QCwcyC0K43lwol8GaiIKXln3drNjpJck3UMU57QWuwORz2nO2CLlZHjSL"
    "9qmoECGP/VS00DB0wFUkaeqekE6mIhlGd2Old6PBpgOePS1qHkYws1Fhqx0i03Bwirg/rht6uwpYY9/akVHqtz//2Q=="
)

# fmt: off
FROZEN: dict[str, list[float]] = {
    "png": [
        106.51, 165.51, 119.23, 181.58, 165.49, 125.52, 106.51, 105.49, 125.94, 181.58, 105.51, 126.42,
        8.7, 0.01, 8.13,
        10.28, 5.0, 7.42,
    ],
    "turned": [
        106.51, 105.49, 125.94, 106.51, 165.51, 119.23, 181.58, 105.51, 126.42, 181.58, 165.49, 125.52,
        10.28, 5.0, 7.42,
        8.7, 0.01, 8.13,
    ],
    "alpha": [
        221.6, 233.01, 222.77, 202.8, 187.51, 157.45, 221.6, 218.23, 223.49, 202.8, 142.62, 158.08,
        4.91, 5.04, 6.28,
        4.97, 2.49, 3.03,
    ],
    "deep": [
        82.32, 82.32, 82.32, 140.62, 140.62, 140.62, 82.32, 82.32, 82.32, 140.62, 140.62, 140.62,
        6.72, 6.72, 6.72,
        7.84, 7.84, 7.84,
    ],
    "fractions": [
        106.51, 106.51, 106.51, 181.58, 181.58, 181.58, 106.51, 106.51, 106.51, 181.58, 181.58, 181.58,
        8.7, 8.7, 8.7,
        10.28, 10.28, 10.28,
    ],
    "cmyk": [
        106.51, 165.51, 119.24, 181.58, 165.49, 125.52, 106.51, 105.49, 125.94, 181.58, 105.51, 126.42,
        8.7, 0.01, 8.12,
        10.28, 5.0, 7.42,
    ],
    "profile": [
        119.23, 165.51, 106.51, 125.52, 165.49, 181.58, 125.94, 105.49, 106.51, 126.42, 105.51, 181.58,
        8.13, 0.01, 8.7,
        7.42, 5.0, 10.28,
    ],
    "jpeg": [
        106.85, 165.21, 119.36, 181.73, 165.4, 125.24, 106.34, 105.62, 125.71, 180.92, 105.56, 126.58,
        8.94, 2.62, 7.87,
        9.92, 5.24, 7.79,
    ],
}
# fmt: on


def test_the_figures_belong_to_the_rule() -> None:
    assert DECODING_RULE == 1
    assert set(FROZEN) == set(pictures())


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_pixels_are_as_they_were(name: str) -> None:
    assert distance(pictures()[name], SETTINGS, FROZEN[name]) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("png", {"resample": "bilinear"}),
        ("png", {"resample": "lanczos"}),
        ("jpeg", {"draft_factor": 1}),
        ("jpeg", {"draft_factor": 8}),
        ("alpha", {"background": (250, 250, 250)}),
    ],
)
def test_other_rules_would_be_noticed(name: str, change: dict[str, Any]) -> None:
    """The test above proves something only if it fails when the rule is another one."""
    assert distance(pictures()[name], replace(SETTINGS, **change), FROZEN[name]) > TOLERANCE


def test_turns_and_profiles_are_in_the_figures() -> None:
    for name in ("turned", "alpha", "profile"):
        assert np.abs(np.subtract(FROZEN[name], FROZEN["png"])).max() > TOLERANCE


def main() -> None:
    for name, data in pictures().items():
        print(f'    "{name}": {figures(decode(data, SETTINGS, name))},')  # noqa: T201


if __name__ == "__main__":
    main()
