"""The attribute labels of AADB (Kong et al. 2016) as they are released: one number per picture and attribute.

::

    imgListFiles_label/imgListTrainRegression_<Attribute>.txt     a line "file name, space, number" a picture
    imgListFiles_label/imgListValidationRegression_<Attribute>.txt
    imgListFiles_label/imgListTestNewRegression_<Attribute>.txt   the newer test list; Test is the older one
    datasetImages_originalSize/ ...                                 the pictures, see training.data.aadb

The numbers are means over the people who labelled a picture: -1 to 1, Repetition and Symmetry 0 to 1.
"BalacingElements" is spelt as in the release. The label files may also lie in the folder itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.aadb import PICTURE_FOLDERS
from training.data.ratings import digest_of_file
from training.data.reading import find_picture_folders, image_name, parse_rating

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray

ATTRIBUTES = (
    "BalacingElements",
    "ColorHarmony",
    "Content",
    "DoF",
    "Light",
    "MotionBlur",
    "Object",
    "Repetition",
    "RuleOfThirds",
    "Symmetry",
    "VividColor",
)
TRAINING_LIST = "Train"
HELD_OUT_LISTS = ("TestNew", "Test", "Validation")
"""Lists that a predictor is judged on; the first one that is there."""

_LABEL_FOLDER = "imgListFiles_label"
_SCALE = RatingScale(-1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class AttributeLabels:
    """Labels of the pictures of one list.

    Attributes:
        name: Of the list.
        paths: Where the N pictures are.
        values: (N, 11), in the order of :data:`ATTRIBUTES`.
        absent: Pictures left out because they are not in the folder.
    """

    name: str
    paths: tuple[Path, ...]
    values: FloatArray
    absent: int

    def without(self, other: AttributeLabels) -> AttributeLabels:
        """Leave out the pictures of another list, known by the names of their files.

        Raises:
            RatingError: No picture is left.
        """
        names = {path.name for path in other.paths}
        return self._keep([path.name not in names for path in self.paths], f"in the list {other.name} too")

    def without_files(self, digests: Collection[str]) -> AttributeLabels:
        """Leave out pictures by :func:`training.data.ratings.digest_of_file`.

        Raises:
            RatingError: No picture is left.
            ImageError: A picture cannot be read.
        """
        left_out = set(digests)
        is_kept = [digest_of_file(path) not in left_out for path in self.paths]
        return self._keep(is_kept, "among those to leave out")

    def _keep(self, is_kept: Sequence[bool], where: str) -> AttributeLabels:
        kept = np.flatnonzero(is_kept)
        if not len(kept):
            raise RatingError(f"every picture of the list {self.name} is {where}")
        return AttributeLabels(
            self.name, tuple(self.paths[position] for position in kept), self.values[kept], self.absent
        )


def read_training_labels(folder: Path) -> tuple[AttributeLabels, AttributeLabels]:
    """Read the labels to learn from and those to judge by.

    Args:
        folder: Of the release.

    Returns:
        The training list without the pictures of the other one; and the first of :data:`HELD_OUT_LISTS` that
        is there.

    Raises:
        RatingError: Files are missing, contradict each other or cannot be understood.
    """
    listed = [name for name in HELD_OUT_LISTS if label_file(folder, name, ATTRIBUTES[0]).is_file()]
    if not listed:
        raise RatingError(
            f"{folder}: no list of pictures to judge by ({', '.join(HELD_OUT_LISTS)}), such as "
            f"{label_file(folder, HELD_OUT_LISTS[0], ATTRIBUTES[0])}"
        )
    held_out = read_labels(folder, listed[0])
    return read_labels(folder, TRAINING_LIST).without(held_out), held_out


def read_labels(folder: Path, name: str) -> AttributeLabels:
    """Read the labels of one list.

    Args:
        folder: Of the release; holds the label files and at least one of the folders of pictures.
        name: Of the list: Train, Validation, Test or TestNew.

    Raises:
        RatingError: A file or all folders of pictures are missing, the files of two attributes name other
            pictures, a line cannot be understood, or no labelled picture is there.
    """
    pictures = find_picture_folders(folder, PICTURE_FOLDERS)
    first = label_file(folder, name, ATTRIBUTES[0])
    columns: list[Mapping[str, float]] = []
    for attribute in ATTRIBUTES:
        file = label_file(folder, name, attribute)
        labels = _read_file(file)
        if columns and labels.keys() != columns[0].keys():
            odd = min(labels.keys() ^ columns[0].keys())
            raise RatingError(f"{file} and {first} must label the same pictures; only one names {odd}")
        columns.append(labels)
    paths, values = [], []
    for image in columns[0]:
        home = next((home for home, names in pictures.items() if image in names), None)
        if home is not None:
            paths.append(folder / home / image)
            values.append([labels[image] for labels in columns])
    if not paths:
        raise RatingError(f"{first}: none of its {len(columns[0])} pictures is in {', '.join(pictures)}")
    return AttributeLabels(name, tuple(paths), np.array(values), len(columns[0]) - len(paths))


def label_file(folder: Path, name: str, attribute: str) -> Path:
    """Return where the labels of a list and attribute are, or would be."""
    file = f"imgList{name}Regression_{attribute}.txt"
    return folder / file if (folder / file).is_file() else folder / _LABEL_FOLDER / file


def _read_file(file: Path) -> Mapping[str, float]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise RatingError(
            f"{file}: no such file; name the folder that holds {_LABEL_FOLDER} as it was released"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RatingError(f"{file} cannot be read as UTF-8 text: {error}") from error
    labels: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        image, _, text = line.strip().rpartition(" ")
        if not image.strip():
            raise RatingError(f"{place}: {line.strip()!r} must be a file name, a space and a number")
        image = image_name(image.strip(), place)
        label = parse_rating(text, _SCALE, place)
        if labels.setdefault(image, label) != label:
            raise RatingError(f"{place}: {image} is labelled {label:g} here and {labels[image]:g} before")
    if not labels:
        raise RatingError(f"{file} holds no label; its lines must be a file name, a space and a number")
    return labels
