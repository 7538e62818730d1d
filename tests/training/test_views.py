"""Altered views: decided by their seed alone, and never of what lies outside the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from piaa_sdk.errors import ImageError
from training.views import altered_view, full_pixels, view_rng

if TYPE_CHECKING:
    from pathlib import Path

DIGESTS = ("0123456789abcdef" * 4, "fedcba9876543210" * 4)
SIZE = 16


@pytest.fixture
def pixels() -> np.ndarray:
    """A ramp from left to right that gets redder downwards, (30, 50, 3)."""
    rows, columns = np.mgrid[0:30, 0:50]
    return np.stack([60 + 4 * rows, 50 + 3 * columns, 50 + 3 * columns], axis=2).astype(np.uint8)


def test_same_seed_same_view(pixels: np.ndarray) -> None:
    first, again = (altered_view(pixels, SIZE, view_rng(3, DIGESTS[0], 1)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8


def test_seed_picture_and_number_of_the_view_make_another_one(pixels: np.ndarray) -> None:
    chances = [(3, DIGESTS[0], 1), (3, DIGESTS[0], 2), (4, DIGESTS[0], 1), (3, DIGESTS[1], 1)]
    views = {altered_view(pixels, SIZE, view_rng(*chance)).tobytes() for chance in chances}
    assert len(views) == 4


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_nothing_outside_the_picture_is_seen(height: int, width: int, seed: int) -> None:
    """A picture of one gray changes everywhere alike; black from beyond its edge would show."""
    view = altered_view(np.full((height, width, 3), 180, np.uint8), SIZE, np.random.default_rng(seed))
    assert view.shape == (SIZE, SIZE, 3)
    assert np.ptp(view.astype(int)) <= 2
    assert view.min() > 100


def test_half_the_views_are_mirrored_and_none_stands_on_its_head(pixels: np.ndarray) -> None:
    """In 200 tosses of a coin, 70 to 130 heads but for one time in 10,000."""
    views = [altered_view(pixels, SIZE, view_rng(0, DIGESTS[0], view)).astype(int) for view in range(200)]
    mirrored = sum(view[:, 0, 1].mean() > view[:, -1, 1].mean() for view in views)
    assert 70 <= mirrored <= 130
    assert all(view[0, :, 0].mean() < view[-1, :, 0].mean() for view in views)


def test_a_picture_is_read_upright_and_in_full(tmp_path: Path, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    found = full_pixels(tmp_path / "turned.png")
    assert found.shape == (50, 30, 3)
    assert np.array_equal(found, np.rot90(pixels, -1))


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_cannot_be_read_is_our_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"bad\.png: cannot be read"):
        full_pixels(path)
    with pytest.raises(ImageError, match=r"absent\.png: cannot be read"):
        full_pixels(tmp_path / "absent.png")


def test_a_bomb_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow has an error of its own for pictures that declare too many pixels; it is no OSError."""
    Image.new("RGB", (60, 60)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"bomb\.png: cannot be read"):
        full_pixels(tmp_path / "bomb.png")
