"""Aesthetic attributes by formulas, for whoever has no AADB to learn them from.

They mirror the eleven attributes that people labelled for AADB (Kong and others, ECCV 2016) where a formula
exists; for "interesting content" there is none. A picture is read upright, in RGB, its longer edge reduced to
256 pixels; luminance is that of Rec. 709 on the values as stored.

=================  ====================================================================================
colour_harmony     fit of the hues to a harmonic template: Cohen-Or and others, SIGGRAPH 2006
hue_count          share of the hue wheel that the picture uses: Ke, Tang and Jing, CVPR 2006, hue count
colourfulness      Hasler and Suesstrunk 2003, their M3, per 100
saturation         mean saturation (HSV): Datta and others, ECCV 2006, f3
brightness         mean luminance: Datta 2006, f1
contrast           standard deviation of luminance: Peli 1990, RMS contrast
tonal_range        luminance between its 1 and 99 % quantiles: Ke 2006, width of the middle 98 %
exposure_balance   1 - abs(2 mean luminance - 1): neither too dark nor too bright
sharpness          1 - perceptual blur: Crete and others 2007 (scikit-image's ``blur_effect``)
detail             logarithm (base 10) of the variance of the Laplacian: Pech-Pacheco and others 2000
depth_of_field     share of the detail that the centre holds, less its share of the area: Datta 2006, f54
subject_clarity    logarithm of the detail where the picture is salient against its mean: Luo and Tang 2008
object_emphasis    share of the saliency in the most salient twentieth of the area
rule_of_thirds     nearness of the saliency to the crossings of the thirds: Bhattacharya and others 2010
thirds_lines       saliency near the thirds' lines against an even map: Yeh and others 2010
balance            1 - distance of the salient centre from the vertical axis, half widths: Arnheim 1954
symmetry           correlation of luminance with its mirror image, left and right
vertical_symmetry  the same, top and bottom
repetition         how far the autocorrelation of edges rises again away from its middle: Lin and others 1997
motion_blur        anisotropy of the gradients (structure tensor) times perceptual blur: after Levin 2006
=================  ====================================================================================

The sources give quantities, not always scales. These are choices of this project:

- nearness is 1 at a crossing and falls as a Gaussian of 0.12 of an edge; the saliency's mean nearness is
  divided by that of an even map, so that 1 says nothing;
- how far an autocorrelation rises again is its highest other peak less the lowest value on the way there:
  along a straight edge it stays high without anything being repeated;
- a smear hides the gradients along it, so they point one way, and it is blurred; only both together count;
- a picture of one colour has harmony and symmetry, and no sharpness.

Saliency is the spectral residual, see :mod:`training.attributes.saliency`. Each formula is a weak predictor
of taste: together they stand for what the compared systems read, not for what would be best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
from PIL import Image
from scipy.ndimage import laplace, map_coordinates, sobel
from skimage.color import rgb2gray, rgb2hsv
from skimage.feature import peak_local_max
from skimage.measure import blur_effect

from training.attributes.colour_harmony import colour_harmony
from training.attributes.saliency import SIDE, saliency_map

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray, PixelArray

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]

RULE = 1
"""Raised whenever the same picture gets other numbers."""

LONGER_EDGE = 256

ATTRIBUTE_NAMES = (
    "colour_harmony",
    "hue_count",
    "colourfulness",
    "saturation",
    "brightness",
    "contrast",
    "tonal_range",
    "exposure_balance",
    "sharpness",
    "detail",
    "depth_of_field",
    "subject_clarity",
    "object_emphasis",
    "rule_of_thirds",
    "thirds_lines",
    "balance",
    "symmetry",
    "vertical_symmetry",
    "repetition",
    "motion_blur",
)

_SMALLEST_EDGE = 16
_SMALLEST_DETAIL = 1e-4  # luminance: below it there is only rounding
_HUES = 20  # bins of Ke's hue count, who leaves out pixels that are nearly grey, black or white
_NEARNESS = 0.12
_MIDDLE = 0.06  # of the longer edge: around the middle of an autocorrelation, every picture repeats itself
_PEAKS = 24


def measure_attributes(pixels: PixelArray) -> Float64Array:
    """Measure the attributes of a picture.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright, any size.

    Returns:
        (20,), in the order of :data:`ATTRIBUTE_NAMES`, all finite.
    """
    small = _reduce(pixels).astype(np.float32) / np.float32(255)
    luminance = rgb2gray(small)
    saliency = saliency_map(luminance)
    blur = _blur(luminance)
    down, across = sobel(luminance, axis=0), sobel(luminance, axis=1)
    found = [
        *_colour(small),
        *_light(luminance),
        1 - blur,
        *_detail(luminance, saliency),
        *_composition(saliency),
        _correlation(luminance, luminance[:, ::-1]),
        _correlation(luminance, luminance[::-1]),
        _repetition(np.hypot(down, across)),
        _anisotropy(down, across) * blur,
    ]
    return np.array(found, dtype=np.float64)


def _reduce(pixels: PixelArray) -> PixelArray:
    """Reduce the longer edge to 256 pixels; no edge ends below 16, which the filters need."""
    height, width = pixels.shape[:2]
    factor = min(1, LONGER_EDGE / max(height, width))
    size = (max(_SMALLEST_EDGE, round(width * factor)), max(_SMALLEST_EDGE, round(height * factor)))
    image = Image.fromarray(pixels)
    if size == image.size:
        return pixels
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=4))


def _colour(small: Float32Array) -> list[float]:
    """Return harmony, hue count, colourfulness and saturation."""
    hue, saturation, value = np.moveaxis(rgb2hsv(small), 2, 0).reshape(3, -1)
    has_hue = (saturation > 0.2) & (value > 0.15) & (value < 0.95)
    hues = np.bincount((hue[has_hue] * _HUES).astype(np.intp) % _HUES, minlength=_HUES)
    red, green, blue = np.moveaxis(255 * small, 2, 0)
    first, second = red - green, (red + green) / 2 - blue
    spread = np.hypot(first.std(), second.std())
    colourfulness = float(spread + 0.3 * np.hypot(first.mean(), second.mean())) / 100
    used = float((hues > 0.05 * hues.max()).mean())
    return [colour_harmony(hue, saturation), used, colourfulness, float(saturation.mean())]


def _light(luminance: Float32Array) -> list[float]:
    """Return brightness, contrast, tonal range and exposure balance."""
    mean = float(luminance.mean())
    low, high = np.quantile(luminance, (0.01, 0.99))
    return [mean, float(luminance.std()), float(high - low), 1 - abs(2 * mean - 1)]


def _blur(luminance: Float32Array) -> float:
    """Return perceptual blur, 0 to 1; a picture without any edge counts as wholly blurred."""
    if np.ptp(luminance) < _SMALLEST_DETAIL:
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):  # no edge away from the frame
        found = float(blur_effect(luminance))
    return min(1.0, max(0.0, found)) if np.isfinite(found) else 1.0


def _detail(luminance: Float32Array, saliency: Float64Array) -> list[float]:
    """Return detail, depth of field (the centre is half of each edge), and clarity of the subject."""
    edges = np.abs(laplace(luminance))
    height, width = edges.shape
    centre = edges[height // 4 : height - height // 4, width // 4 : width - width // 4]
    mean = float(edges.mean()) + _SMALLEST_DETAIL
    share = (float(centre.mean()) + _SMALLEST_DETAIL) / mean * centre.size / edges.size
    rows, columns = np.arange(height) * SIDE // height, np.arange(width) * SIDE // width
    weights = saliency[rows[:, None], columns]
    salient = float((edges * weights).sum() / weights.sum()) + _SMALLEST_DETAIL
    variance = float(laplace(luminance).var())
    return [float(np.log10(variance + 1e-6)), share - centre.size / edges.size, float(np.log(salient / mean))]


def _composition(saliency: Float64Array) -> list[float]:
    """Return object emphasis, rule of thirds, the thirds' lines and balance."""
    places = (np.arange(SIDE) + 0.5) / SIDE
    column = float(saliency.sum(axis=0) @ places)
    twentieth = float(np.sort(saliency.ravel())[-(SIDE**2 // 20) :].sum())
    away = np.minimum(np.abs(places - 1 / 3), np.abs(places - 2 / 3))
    near = np.exp(-((away / _NEARNESS) ** 2))
    points = near[:, None] * near
    is_near = away < 1 / 24
    lines = is_near[:, None] | is_near
    return [
        twentieth,
        float((saliency * points).sum() / points.mean()),
        float(saliency[lines].sum() / lines.mean()),
        1 - 2 * abs(column - 0.5),
    ]


def _correlation(first: Float32Array, second: Float32Array) -> float:
    """Return Pearson's correlation; two even pictures are alike, 1."""
    if np.ptp(first) < _SMALLEST_DETAIL:
        return 1.0
    one, other = first - first.mean(), second - second.mean()
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def _repetition(edges: Float32Array) -> float:
    """Return how far the autocorrelation rises again, 0 to 2; the picture goes on at its opposite edge."""
    if np.ptp(edges) < _SMALLEST_DETAIL:
        return 0.0
    height, width = edges.shape
    power = np.abs(scipy.fft.rfft2(edges - edges.mean())) ** 2
    correlation = scipy.fft.fftshift(scipy.fft.irfft2(power, s=edges.shape))
    correlation /= correlation[height // 2, width // 2]
    middle = np.array([height // 2, width // 2])
    # The other half is the same, mirrored.
    peaks = peak_local_max(
        correlation[: middle[0] + 1], min_distance=2, num_peaks=2 * _PEAKS, exclude_border=False
    )
    away = np.linalg.norm(peaks - middle, axis=1) > max(2.0, _MIDDLE * max(height, width))
    rises = [correlation[tuple(peak)] - _lowest_on_the_way(correlation, middle, peak) for peak in peaks[away]]
    return float(max(rises, default=0.0))


def _lowest_on_the_way(correlation: FloatArray, start: FloatArray, end: FloatArray) -> float:
    steps = np.linspace(0, 1, 1 + int(np.abs(end - start).max()))
    return float(map_coordinates(correlation, start[:, None] + (end - start)[:, None] * steps, order=1).min())


def _anisotropy(down: Float32Array, across: Float32Array) -> float:
    """Return how far the gradients point one way, 0 to 1, by the eigenvalues of their structure tensor."""
    xx, yy, xy = (float(product.mean()) for product in (across**2, down**2, across * down))
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy)) if xx + yy > _SMALLEST_DETAIL**2 else 0.0
