"""Pictures to measure with: the caller's own, or photographs from packages, enlarged as if from a camera."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg"})
SKIMAGE_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
SKLEARN_PHOTOS = ("china.jpg", "flower.jpg")
SHOT_NOISE = 0.5  # standard deviation is this times the root of the pixel value, in steps of 8 bits
READ_NOISE = 2.0
QUALITY = 92


@dataclass(frozen=True, slots=True)
class Pictures:
    """Files to measure with.

    Attributes:
        paths: The JPEG files.
        description: What they are, one line for the report.
    """

    paths: tuple[Path, ...]
    description: str


def find_or_make(
    folder: Path | None, count: int, workspace: Path, size: tuple[int, int] = (4000, 3000)
) -> Pictures:
    """Take ``count`` JPEGs from a folder, or make them.

    Args:
        folder: The caller's own photos, searched recursively; None to make pictures.
        count: How many.
        workspace: Existing folder that made pictures are written to.
        size: Width and height of made pictures, pixels.

    Raises:
        SystemExit: The folder holds fewer JPEGs.
    """
    if folder is None:
        paths = make_pictures(workspace, count, size)
        kind = f"photographs of scikit-image and scikit-learn, {size[0]} x {size[1]} with sensor noise"
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:count]
        kind = f"JPEGs of {folder}"
        if len(paths) < count:
            raise SystemExit(f"{folder} holds {len(paths)} JPEG files, {count} are needed; lower --photos")
    megabytes = np.array([path.stat().st_size for path in paths]) / 1e6
    spread = f"{megabytes.min():.1f} to {megabytes.max():.1f} MB, median {np.median(megabytes):.1f} MB"
    return Pictures(tuple(paths), f"{kind}: {count}; {spread}")


def make_pictures(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> list[Path]:
    """Write ``count`` different JPEGs and return their paths; files that are there already are kept."""
    photographs = load_photographs()
    paths = []
    for index in range(count):
        path = folder / f"picture-{index:04}.jpg"
        if not path.exists():
            base = photographs[index % len(photographs)]
            path.write_bytes(enlarge(base, size, np.random.default_rng([seed, index])))
        paths.append(path)
    return paths


def load_photographs() -> list[Image.Image]:
    """Open the photographs that scikit-image and scikit-learn carry, RGB."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    arrays = [getattr(skimage.data, name)() for name in SKIMAGE_PHOTOS]
    arrays += [load_sample_image(name) for name in SKLEARN_PHOTOS]
    return [Image.fromarray(array).convert("RGB") for array in arrays]


def enlarge(photograph: Image.Image, size: tuple[int, int], random: np.random.Generator) -> bytes:
    """Cut a random part of a photograph, enlarge it, add the noise of a sensor and encode it as JPEG.

    Enlarging alone leaves a smooth picture that compresses to almost nothing and decodes far too fast; noise
    that grows with brightness, as a sensor's does, brings it to the size of a camera's file.
    """
    width, height = photograph.size
    share = random.uniform(0.6, 1.0)
    part_width = min(width, height * size[0] / size[1]) * share
    part_height = part_width * size[1] / size[0]
    left, top = random.uniform(0, width - part_width), random.uniform(0, height - part_height)
    box = (left, top, left + part_width, top + part_height)
    image = photograph.resize(size, Image.Resampling.BICUBIC, box=box)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stream = io.BytesIO()
    Image.fromarray(_add_noise(np.asarray(image), random)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _add_noise(pixels: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Add read noise and shot noise to pixels, (H, W, 3) uint8."""
    values = pixels.astype(np.float32)
    deviation = np.sqrt(READ_NOISE**2 + SHOT_NOISE**2 * values)
    noise = random.standard_normal(values.shape, dtype=np.float32)
    noisy: npt.NDArray[np.float32] = np.clip(np.rint(values + deviation * noise), 0, 255)
    return noisy.astype(np.uint8)
