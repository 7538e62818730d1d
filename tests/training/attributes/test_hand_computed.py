"""Attributes by formulas: pictures by pencil, in the order that each formula has to find, and any picture."""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter, uniform_filter1d

from training.attributes.colour_harmony import colour_harmony
from training.attributes.hand_computed import ATTRIBUTE_NAMES, measure_attributes
from training.attributes.saliency import SIDE, saliency_map

Pixels = npt.NDArray[np.uint8]


def measure(pixels: Pixels) -> dict[str, float]:
    return dict(zip(ATTRIBUTE_NAMES, measure_attributes(pixels), strict=True))


def grey(luminance: npt.NDArray[np.float64]) -> Pixels:
    return np.repeat(np.clip(255 * luminance, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def noise(seed: int = 0, shape: tuple[int, int] = (120, 160)) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(size=shape)


def even(*colour: int) -> Pixels:
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (60, 80, 3)).copy()


def dot(row: float, column: float) -> Pixels:
    """Draw a bright disc on a dark, slightly uneven ground; its place in parts of the edges."""
    rows, columns = np.mgrid[:120, :180]
    inside = np.hypot(rows - 120 * row, columns - 180 * column) < 9
    return grey(np.where(inside, 0.9, 0.2 + 0.02 * noise(shape=(120, 180))))


def test_a_vector_has_a_name_for_each_number() -> None:
    assert measure_attributes(even(10, 20, 30)).shape == (len(ATTRIBUTE_NAMES),)
    assert len(set(ATTRIBUTE_NAMES)) == len(ATTRIBUTE_NAMES) == 20


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
        elements=st.integers(0, 255),
        fill=st.sampled_from([0, 127, 255]),
    )
)
def test_any_picture_has_finite_attributes_and_always_the_same(pixels: Pixels) -> None:
    found = measure_attributes(pixels)
    assert np.isfinite(found).all()
    assert np.array_equal(found, measure_attributes(pixels.copy()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (2, 300), (700, 500)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (90, 90, 90), (200, 10, 10)])
def test_a_picture_of_one_colour_is_symmetric_and_has_nothing_to_see(
    shape: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    found = measure(np.broadcast_to(np.array(colour, dtype=np.uint8), (*shape, 3)).copy())
    assert np.isfinite(list(found.values())).all()
    assert (found["symmetry"], found["vertical_symmetry"]) == (1, 1)
    assert (found["sharpness"], found["repetition"], found["motion_blur"]) == (0, 0, 0)
    assert found["rule_of_thirds"] == pytest.approx(1, abs=0.01), "an even map says nothing"
    assert found["thirds_lines"] == pytest.approx(1, abs=0.01)
    assert (found["contrast"], found["tonal_range"]) == pytest.approx((0, 0), abs=1e-4)


def test_colourfulness_by_pencil() -> None:
    """Half (255, 0, 0), half (0, 0, 255): rg is 255 and 0, yb 127.5 and -255.

    Deviations 127.5 and 191.25, means 127.5 and -63.75: hypot 229.85 + 0.3 x 142.55 = 272.62.
    """
    pixels = even(255, 0, 0)
    pixels[:, 40:] = (0, 0, 255)
    assert measure(pixels)["colourfulness"] == pytest.approx(2.7262, abs=1e-3)
    assert measure(grey(noise()))["colourfulness"] == pytest.approx(0, abs=1e-4)
    assert measure(grey(noise()))["saturation"] == 0


def test_light_by_pencil() -> None:
    """A half black and half white picture: mean 1/2, deviation 1/2, the whole range, exposed evenly."""
    pixels = even(0, 0, 0)
    pixels[:, 40:] = 255
    found = measure(pixels)
    light = [found[name] for name in ("brightness", "contrast", "tonal_range", "exposure_balance")]
    assert light == pytest.approx([0.5, 0.5, 1, 1], abs=1e-4)
    assert measure(even(255, 255, 255))["exposure_balance"] == pytest.approx(0, abs=1e-4)


def _wheel(hues: npt.NDArray[np.float64]) -> Pixels:
    colours = [[round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.8, 0.8)] for hue in hues]
    return np.repeat(np.array(colours, dtype=np.uint8)[None], 60, axis=0)


def test_complementary_hues_are_in_harmony_and_random_ones_are_not() -> None:
    """Two narrow sectors opposite each other are Matsuda's type I."""
    rng = np.random.default_rng(0)
    opposite = _wheel((rng.choice([0.05, 0.55], 160) + rng.uniform(-0.02, 0.02, 160)) % 1)
    scattered = _wheel(rng.uniform(size=160))
    assert measure(opposite)["colour_harmony"] > 0.99
    assert measure(scattered)["colour_harmony"] < 0.5
    assert measure(opposite)["hue_count"] <= 0.2 < 0.9 < measure(scattered)["hue_count"]


def test_harmony_by_pencil() -> None:
    """Hues spread evenly fit as well as themselves: 0. One hue fits: 1. Turning the wheel changes nothing."""
    wheel = (np.arange(72) + 0.5) / 72
    assert colour_harmony(wheel, np.ones(72)) == pytest.approx(0, abs=1e-9)
    assert colour_harmony(np.full(5, 0.3), np.ones(5)) == 1
    assert colour_harmony(wheel, np.zeros(72)) == 1
    hues = np.random.default_rng(1).uniform(size=10)
    turned = colour_harmony((hues + 25 / 72) % 1, np.ones(10))
    assert turned == pytest.approx(colour_harmony(hues, np.ones(10)))


def test_a_blurred_picture_is_less_sharp() -> None:
    sharp, soft = noise(), gaussian_filter(noise(), 2)
    found, blurred = measure(grey(sharp)), measure(grey(0.5 + 3 * (soft - 0.5)))
    assert found["sharpness"] > blurred["sharpness"] + 0.15
    assert found["detail"] > blurred["detail"] + 0.5


def test_a_sharp_centre_before_a_soft_ground_is_depth_of_field() -> None:
    """The centre's quarter of the area holds all detail: 3/4 more than its share."""
    pixels = np.full((120, 160), 0.5)
    pixels[35:85, 45:115] = noise(shape=(50, 70))
    found = measure(grey(pixels))
    assert found["depth_of_field"] == pytest.approx(0.75, abs=0.01)
    assert measure(grey(noise()))["depth_of_field"] == pytest.approx(0, abs=0.03)
    assert found["subject_clarity"] > measure(grey(noise()))["subject_clarity"] + 0.3
    around = noise()
    around[30:90, 40:120] = 0.5
    assert measure(grey(around))["depth_of_field"] < -0.2


def test_a_subject_at_a_crossing_of_the_thirds_is_there() -> None:
    at_crossing, in_the_middle = measure(dot(1 / 3, 2 / 3)), measure(dot(1 / 2, 1 / 2))
    assert at_crossing["rule_of_thirds"] > 2 > 1 > in_the_middle["rule_of_thirds"]
    assert at_crossing["thirds_lines"] > in_the_middle["thirds_lines"]
    assert measure(dot(1 / 2, 1 / 3))["thirds_lines"] > 1.2


def test_a_subject_in_the_middle_is_balanced() -> None:
    assert measure(dot(1 / 2, 1 / 2))["balance"] > 0.9 > 0.6 > measure(dot(1 / 2, 0.9))["balance"]


def test_a_single_subject_is_emphasized() -> None:
    assert measure(dot(0.4, 0.5))["object_emphasis"] > measure(grey(noise()))["object_emphasis"] + 0.2


def test_saliency_lies_where_the_odd_one_is() -> None:
    saliency = saliency_map(dot(0.3, 0.7)[..., 0] / 255)
    assert saliency.shape == (SIDE, SIDE)
    assert saliency.sum() == pytest.approx(1)
    assert saliency.min() >= 0
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    assert np.hypot(row / SIDE - 0.3, column / SIDE - 0.7) < 0.12


def test_a_mirrored_half_is_symmetric_and_a_shifted_one_is_not() -> None:
    half = gaussian_filter(noise(shape=(120, 80)), 2)
    mirrored = np.hstack([half, half[:, ::-1]])
    found, shifted = measure(grey(mirrored)), measure(grey(np.roll(mirrored, 30, axis=1)))
    assert found["symmetry"] == pytest.approx(1, abs=1e-6)
    assert shifted["symmetry"] < 0.5
    assert found["vertical_symmetry"] < 0.5
    assert measure(grey(mirrored.T))["vertical_symmetry"] == pytest.approx(1, abs=1e-6)


def test_a_negative_is_the_opposite_of_a_mirror_image() -> None:
    half = noise(shape=(120, 80))
    assert measure(grey(np.hstack([half, 1 - half[:, ::-1]])))["symmetry"] == pytest.approx(-1, abs=1e-2)


def test_tiles_repeat_and_neither_chance_nor_an_edge_does() -> None:
    """Along a horizon the autocorrelation is high everywhere, but it never rises again."""
    tile = gaussian_filter(noise(shape=(30, 40)), 1.5, mode="wrap")
    tiles = measure(grey(0.5 + 3 * (np.tile(tile, (4, 4)) - 0.5)))
    chance = measure(grey(0.5 + 3 * (gaussian_filter(noise(), 1.5) - 0.5)))
    horizon = measure(grey(np.repeat((np.arange(120) < 50)[:, None], 160, axis=1) * 0.8))
    assert tiles["repetition"] > 0.9
    assert chance["repetition"] < 0.3
    assert horizon["repetition"] < 0.1


def test_a_smear_is_motion_blur_and_an_even_blur_is_none() -> None:
    still = measure(grey(noise()))
    smeared = measure(grey(0.5 + 2 * (uniform_filter1d(noise(), 15, axis=1) - 0.5)))
    soft = measure(grey(0.5 + 3 * (gaussian_filter(noise(), 3) - 0.5)))
    assert smeared["motion_blur"] > 0.25
    assert soft["motion_blur"] < 0.1
    assert still["motion_blur"] < 0.05


def test_a_larger_copy_of_a_picture_looks_the_same() -> None:
    """The reduced picture is measured, so four times as many pixels change little."""
    soft = gaussian_filter(noise(shape=(192, 256)), 3)
    pixels = grey(0.5 + 4 * (soft - 0.5))
    large = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)
    assert measure_attributes(large) == pytest.approx(measure_attributes(pixels), abs=0.1)
