"""Random mirror images and crops."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.augmentation import random_flip_and_crop


def numbered(count: int, size: int) -> np.ndarray:
    """Make pictures whose pixels tell where they were: row, column and number of the picture."""
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    return np.stack(
        [np.stack([rows, columns, np.full_like(rows, number)], axis=-1) for number in range(count)]
    ).astype(np.uint8)


def test_views_are_crops_of_their_picture_and_mirror_images() -> None:
    pixels = numbered(40, 12)
    before = pixels.copy()
    views = random_flip_and_crop(pixels, 8, np.random.default_rng(0))
    assert views.shape == (40, 8, 8, 3)
    assert views.dtype == np.uint8
    assert np.array_equal(pixels, before)
    mirrored = 0
    for number, view in enumerate(views):
        assert (view[..., 2] == number).all()
        top, left = int(view[0, 0, 0]), int(view[0, :, 1].min())
        crop = before[number, top : top + 8, left : left + 8]
        is_mirrored = view[0, 0, 1] > view[0, 1, 1]
        assert np.array_equal(view, crop[:, ::-1] if is_mirrored else crop)
        mirrored += int(is_mirrored)
    assert 10 < mirrored < 30


def test_every_place_is_as_likely_and_each_picture_has_its_own() -> None:
    """Five places in each direction, 25 in all, drawn 5000 times: each within five standard deviations."""
    views = random_flip_and_crop(np.repeat(numbered(1, 12), 5000, axis=0), 8, np.random.default_rng(1))
    tops, lefts = views[:, 0, 0, 0], views[:, 0, :, 1].min(axis=1)
    counts = np.bincount(5 * tops + lefts, minlength=25)
    assert len(counts) == 25
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200)


def test_the_seed_decides() -> None:
    pixels = numbered(5, 12)
    first = random_flip_and_crop(pixels, 8, np.random.default_rng(2))
    assert np.array_equal(first, random_flip_and_crop(pixels, 8, np.random.default_rng(2)))
    assert not np.array_equal(first, random_flip_and_crop(pixels, 8, np.random.default_rng(3)))


def test_what_is_drawn_next_does_not_depend_on_the_size() -> None:
    """So that runs at 224 and at 299 pixels see the same tasks."""
    states = []
    for size in (3, 8, 12):
        rng = np.random.default_rng(4)
        random_flip_and_crop(numbered(5, 12), size, rng)
        states.append(rng.random())
    assert len(set(states)) == 1


def test_a_crop_of_full_size_is_the_picture_or_its_mirror_image() -> None:
    pixels = numbered(20, 6)
    for view, picture in zip(random_flip_and_crop(pixels, 6, np.random.default_rng(5)), pixels, strict=True):
        assert np.array_equal(view, picture) or np.array_equal(view, picture[:, ::-1])


@pytest.mark.parametrize("size", [0, 13])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a square of {size} pixels cannot be cut out of 12 x 12"):
        random_flip_and_crop(numbered(1, 12), size, np.random.default_rng(0))
