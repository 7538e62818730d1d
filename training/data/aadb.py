"""AADB (Kong et al. 2016) as it is released: 10,000 photographs rated by 190 people, 1 to 5.

::

    AllinAll.csv                          one line for ten pictures rated by one person
    datasetImages_originalSize/           the pictures; AADB_newtest_originalSize/ the newer test pictures
    datasetImages_warp256/                smaller copies, used where the original is not there

A line holds ``WorkerId``, the addresses ``Input.image_url1`` to ``10`` and the scores
``Answer.overallScore1`` to ``10``, in whatever order the columns are. A score of 0 is a flag that a person
set on a picture, not a rating.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import RatingScale
from training.data.dataset import Dataset, DatasetReport
from training.data.ratings import RatingCollector
from training.data.reading import find_label_file, find_picture_folders, image_name, parse_rating, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "aadb"
SCALE = RatingScale(1, 5)
LABEL_FILES = ("AllinAll.csv", "AADB_AllinAll.csv")
PICTURE_FOLDERS = ("datasetImages_originalSize", "AADB_newtest_originalSize", "datasetImages_warp256")

FLAGGED = "score 0, a flag and not a rating"
UNRATED = "picture of an assignment without a score"

_PICTURES_PER_LINE = 10
_FLAG = 0


def read_aadb(folder: Path) -> Dataset:
    """Read AADB.

    Args:
        folder: Holds ``AllinAll.csv`` and at least one of the folders of pictures.

    Raises:
        RatingError: The label file or all folders of pictures are missing, a line cannot be understood, or
            no rating is left.
    """
    source = find_label_file(folder, LABEL_FILES)
    pictures = find_picture_folders(folder, PICTURE_FOLDERS)
    collected = RatingCollector(folder, source)
    rated: dict[str, set[str]] = {}
    dropped = {FLAGGED: 0, UNRATED: 0}
    for place, user, address, text in _answers(source):
        if not text:
            dropped[UNRATED] += 1
            continue
        if parse_rating(text, None, place) == _FLAG:
            dropped[FLAGGED] += 1
            continue
        rating = parse_rating(text, SCALE, place)
        file_name = picture_name(address, place)
        rated.setdefault(user, set()).add(file_name)
        home = next((home for home, names in pictures.items() if file_name in names), None)
        if home is None:
            collected.add_absent(user)
        else:
            collected.add(user, f"{home}/{file_name}", rating)
    table = collected.table()
    raw_counts = {user: len(names) for user, names in rated.items()}
    return Dataset(NAME, table, SCALE, raw_counts, DatasetReport.of(NAME, table, dropped))


def picture_name(address: str, place: str) -> str:
    """Return the name under which the release has the picture of an address.

    ``https://farm1.staticflickr.com/280/199_b.jpg`` is ``farm1_280_199_b.jpg``.

    Args:
        address: URL of the picture.
        place: File and line, for the message.

    Raises:
        RatingError: The address is not one of this kind.
    """
    parts = urlsplit(address)
    folders = [part for part in parts.path.split("/") if part]
    if not parts.hostname or len(folders) < 2:
        raise RatingError(
            f"{place}: {address!r} is not the address of a picture such as "
            "https://farm1.staticflickr.com/280/199_b.jpg"
        )
    return image_name(f"{parts.hostname.split('.')[0]}_{folders[-2]}_{folders[-1]}", place)


def _answers(source: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield file and line, user, address and score of every picture of every line."""
    numbers = range(1, _PICTURES_PER_LINE + 1)
    columns = (
        "WorkerId",
        *(f"Input.image_url{number}" for number in numbers),
        *(f"Answer.overallScore{number}" for number in numbers),
    )
    for line, (user, *values) in read_rows(source, columns, may_be_empty=True):
        place = f"{source}, line {line}"
        if not user:
            raise RatingError(f"{place}: WorkerId is empty")
        addresses, scores = values[:_PICTURES_PER_LINE], values[_PICTURES_PER_LINE:]
        for address, text in zip(addresses, scores, strict=True):
            yield place, user, address, text
