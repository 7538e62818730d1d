"""REAL-CUR (Ren et al. 2017): 14 people's own albums, each photograph rated by the owner, 1 to 5.

::

    <album>/<score 1 to 5>/<picture>

The score of a picture is the name of the folder that it is in. The albums may lie in a folder ``images``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from piaa_sdk.errors import RatingError
from piaa_sdk.images import IMAGE_SUFFIXES, printable
from piaa_sdk.rating_scale import RatingScale
from training.data.dataset import Dataset, DatasetReport
from training.data.ratings import RatingCollector, digest_of_file
from training.data.reading import parse_rating

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "real-cur"
SCALE = RatingScale(1, 5)
NOT_A_PICTURE = "file of another kind"

_INNER_FOLDER = "images"


def read_real_cur(folder: Path) -> Dataset:
    """Read REAL-CUR; an album's name is its owner's.

    A picture that lies in an album under two scores is rated twice: the mean stands for both.

    Args:
        folder: Holds one folder per album.

    Raises:
        RatingError: There is no album, or a folder in an album is not named like a score.
        ImageError: Two files of one name in an album cannot be compared.
    """
    try:
        root = _root(folder)
        albums = [path for path in _entries(root) if path.is_dir()]
        collected = RatingCollector(folder, folder)
        others = sum(_collect_album(folder, album, collected) for album in albums)
    except OSError as error:
        raise RatingError(f"{printable(str(folder))} cannot be read: {error.strerror or error}") from error
    if not collected.raw_counts:
        raise RatingError(
            f"{printable(str(folder))}: no pictures; name the folder of the albums, in which pictures are "
            "ALBUM/SCORE/PICTURE with scores 1 to 5"
        )
    table = collected.table()
    report = DatasetReport.of(NAME, table, {NOT_A_PICTURE: others})
    return Dataset(NAME, table, SCALE, collected.raw_counts, report)


def _root(folder: Path) -> Path:
    """Return the folder of the albums: the one named or ``images`` in it, unless that is an album itself."""
    inner = folder / _INNER_FOLDER
    if not inner.is_dir() or any(path.name.isdecimal() for path in _entries(inner)):
        return folder
    return inner


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder by name; hidden files, such as desktops leave behind, are passed over."""
    yield from (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def _collect_album(folder: Path, album: Path, collected: RatingCollector) -> int:
    """Collect one person's ratings; returns how many files are no pictures."""
    ratings_by_name: dict[str, list[tuple[Path, float]]] = defaultdict(list)
    others = 0
    for scored in _entries(album):
        if not scored.is_dir():
            others += 1
            continue
        place = f"{printable(str(scored))}, a folder named after a score"
        rating = parse_rating(scored.name, SCALE, place)
        for path in _entries(scored):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                ratings_by_name[path.name].append((path, rating))
            else:
                others += 1
    for found in ratings_by_name.values():
        for path, rating in _without_copies(found):
            collected.add(album.name, path.relative_to(folder).as_posix(), rating)
    return others


def _without_copies(found: list[tuple[Path, float]]) -> Iterator[tuple[Path, float]]:
    """Let all copies of a picture go by the path of the first; cameras reuse names for other pictures."""
    if len(found) == 1:
        yield from found
        return
    first: dict[str, Path] = {}
    for path, rating in found:
        yield first.setdefault(digest_of_file(path), path), rating
