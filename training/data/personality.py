"""Pictures with the personality of people who like them: what PA_IAA learns its second head from.

::

    personality.csv      columns image,O,C,E,A,N
    and the pictures, named relative to the folder of the file

``O`` openness, ``C`` conscientiousness, ``E`` extraversion, ``A`` agreeableness and ``N`` neuroticism are the
Big Five of a person who likes the picture, as in PsychoFlickr (Cristani et al. 2013). A picture that several
people like may stand in several lines; the mean of their traits stands for all of them, since that is all
that a head which sees the picture alone could tell.

The traits are mapped to [-1, 1], the range of the tanh that predicts them, by one straight line for all five,
so that a unit of one trait stays a unit of another: from the scale of the questionnaire where it is stated,
otherwise from the smallest and the largest number in the file.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import digest_of_file
from training.data.reading import image_name, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray

FILE_NAME = "personality.csv"

TRAITS = ("O", "C", "E", "A", "N")
"""Openness, conscientiousness, extraversion, agreeableness, neuroticism: the columns, and their order."""


@dataclass(frozen=True, slots=True, eq=False)
class PersonalityTable:
    """P pictures and the traits of the people who like them.

    Attributes:
        folder: What the names are relative to.
        images: P names with ``/``, sorted, each once.
        traits: (P, 5) float64 on [-1, 1], in the order of :data:`TRAITS`.
        scale: What was mapped to [-1, 1], in the units of the file.
        absent: Lines left out because their picture is not in the folder.
    """

    folder: Path
    images: tuple[str, ...]
    traits: FloatArray
    scale: RatingScale
    absent: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def __str__(self) -> str:
        left_out = f"; {self.absent} lines without a picture left out" if self.absent else ""
        return f"{len(self)} pictures with personality traits on {self.scale}{left_out}"

    def paths(self) -> list[Path]:
        """Return where the P pictures are."""
        return [self.folder / image for image in self.images]

    def picture_digests(self) -> tuple[str, ...]:
        """Return :func:`training.data.ratings.digest_of_file` of the P pictures.

        Raises:
            ImageError: One cannot be read.
        """
        return tuple(map(digest_of_file, self.paths()))

    def digest(self) -> str:
        """Return what stands for names of pictures and traits: hex SHA-256."""
        digest = hashlib.sha256(json.dumps(self.images).encode())
        digest.update(self.traits.astype("<f8").tobytes())
        return digest.hexdigest()


def read_personality(path: Path, scale: RatingScale | None = None) -> PersonalityTable:
    """Read pictures labelled with personality traits.

    Lines whose picture is not in the folder are left out and counted.

    Args:
        path: The CSV file, or the folder that holds it as ``personality.csv``.
        scale: What the questionnaire's numbers lie on; None takes the range found in the file.

    Raises:
        RatingError: The file or a column is missing, a line cannot be understood or lies outside the scale,
            all numbers are equal, or no picture is left.
    """
    source = path / FILE_NAME if path.is_dir() else path
    folder = source.parent
    found: dict[str, list[list[float]]] = {}
    absent = 0
    lowest, highest = math.inf, -math.inf
    for line, (name, *texts) in read_rows(source, ("image", *TRAITS)):
        place = f"{source}, line {line}"
        image = image_name(name, place)
        traits = [_trait(*pair, scale, place) for pair in zip(TRAITS, texts, strict=True)]
        lowest, highest = min(lowest, *traits), max(highest, *traits)
        if image in found or (folder / image).is_file():
            found.setdefault(image, []).append(traits)
        else:
            absent += 1
    if not found:
        raise RatingError(
            f"{source}: no picture is left ({absent} lines name pictures that are not in {folder}); paths of "
            "images are relative to the folder of the file"
        )
    if scale is None and lowest == highest:
        raise RatingError(
            f"{source}: every trait of every picture is {lowest:g}, which teaches nothing; the traits of "
            "different people must differ"
        )
    scale = scale or RatingScale(lowest, highest)
    images = tuple(sorted(found))
    means = np.array([np.mean(found[image], axis=0) for image in images])
    return PersonalityTable(folder, images, 2 * scale.to_unit(means) - 1, scale, absent)


def _trait(trait: str, text: str, scale: RatingScale | None, place: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise RatingError(f"{place}: {trait} is {text!r}, must be a number") from error
    if not math.isfinite(value):
        raise RatingError(f"{place}: {trait} is {text!r}, must be finite")
    if scale is not None and value not in scale:
        raise RatingError(f"{place}: {trait} is {value:g}, must lie on the scale {scale}")
    return value
