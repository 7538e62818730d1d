"""A first look at the program on real, openly licensed photographs that come with two Python packages.

The photographs are scikit-image's and scikit-learn's sample pictures, found on disk without importing either
package; nothing is downloaded. The person who rates some of them is made up, and so are her ratings.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.errors import MissingDependencyError, OutputError
from piaa_sdk.images import printable
from piaa_sdk.scorer import Scorer
from piaa_sdk.terminal import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from piaa_sdk.results import Score

PERSON = "Mira"
SCALE = (1.0, 5.0)
RATINGS_NAME = "ratings.csv"
CREDITS_NAME = "CREDITS.txt"

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets", "images")
_GALLERY = "https://scikit-image.org/docs/stable/api/skimage.data.html"
_CC0 = "CC0"
_PUBLIC_DOMAIN = "public domain"
_NO_KNOWN_RIGHTS = "no known copyright restrictions"
_CC_BY = "CC BY 2.0"


@dataclass(frozen=True, slots=True)
class DemoPhoto:
    """One photograph, who made it, and what the made-up person gave it.

    Attributes:
        name: What it is called in the demo.
        place: Package and folders that hold it.
        file: Its name there.
        credit: What it shows and who made it.
        license: Under which terms it may be used.
        source: Where it was published.
        rating: What the person gave it, 1 to 5; None for the ones whose scores are compared.
    """

    name: str
    place: tuple[str, ...]
    file: str
    credit: str
    license: str
    source: str
    rating: float | None = None

    def find(self) -> Path | None:
        """Return where the photograph is on this machine; None if its package is not installed."""
        package, *folders = self.place
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent.joinpath(*folders, self.file)
        return path if path.is_file() else None


PHOTOS = (
    DemoPhoto(
        "astronaut.png",
        _SKIMAGE,
        "astronaut.png",
        "Eileen Collins, astronaut; NASA",
        _PUBLIC_DOMAIN,
        "https://flic.kr/p/r9qvLn",
        rating=1,
    ),
    DemoPhoto(
        "camera.png",
        _SKIMAGE,
        "camera.png",
        "Man with a camera; Lav Varshney",
        _CC0,
        _GALLERY,
        rating=2,
    ),
    DemoPhoto(
        "coffee.png",
        _SKIMAGE,
        "coffee.png",
        "Cup of espresso; Rachel Michetti",
        _CC0,
        _GALLERY,
        rating=2,
    ),
    DemoPhoto(
        "coins.png",
        _SKIMAGE,
        "coins.png",
        "Greek coins; Brooklyn Museum",
        _NO_KNOWN_RIGHTS,
        "https://www.brooklynmuseum.org/opencollection/archives/image/51611",
        rating=5,
    ),
    DemoPhoto(
        "bricks.png",
        _SKIMAGE,
        "brick.png",
        "Brick pavement; CC0 Textures",
        _CC0,
        "https://cc0textures.com/view.php?tex=Bricks25",
        rating=5,
    ),
    DemoPhoto(
        "flower.jpg",
        _SKLEARN,
        "flower.jpg",
        "Dahlia; vultilion",
        _CC_BY,
        "https://www.flickr.com/photos/vultilion/6056698931/",
        rating=1,
    ),
    DemoPhoto(
        "cat.png",
        _SKIMAGE,
        "chelsea.png",
        "Chelsea the cat; Stefan van der Walt",
        _CC0,
        _GALLERY,
    ),
    DemoPhoto(
        "clock.png",
        _SKIMAGE,
        "clock_motion.png",
        "Wall clock, blurred; Stefan van der Walt",
        _PUBLIC_DOMAIN,
        _GALLERY,
    ),
    DemoPhoto(
        "galaxies.jpg",
        _SKIMAGE,
        "hubble_deep_field.jpg",
        "Hubble extreme deep field; NASA",
        _PUBLIC_DOMAIN,
        "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/",
    ),
    DemoPhoto(
        "grass.png",
        _SKIMAGE,
        "grass.png",
        "Grass; linolafett",
        _CC0,
        "https://www.deviantart.com/linolafett/art/Grass-01-434853879",
    ),
    DemoPhoto(
        "gravel.png",
        _SKIMAGE,
        "gravel.png",
        "Gravel; CC0 Textures",
        _CC0,
        "https://cc0textures.com/view.php?tex=Gravel04",
    ),
    DemoPhoto(
        "pagoda.jpg",
        _SKLEARN,
        "china.jpg",
        "Pagoda by a lake; danielbuechele",
        _CC_BY,
        "https://www.flickr.com/photos/danielbuechele/6061409035/",
    ),
    DemoPhoto(
        "rocket.jpg",
        _SKIMAGE,
        "rocket.jpg",
        "Falcon 9 before its launch; SpaceX",
        _PUBLIC_DOMAIN,
        "https://www.flickr.com/photos/spacexphotos/16511594820/",
    ),
)


def find_photos() -> dict[DemoPhoto, Path]:
    """Find the photographs on this machine.

    Raises:
        MissingDependencyError: One of them is not there: a package that holds them is not installed.
    """
    found = {photo: photo.find() for photo in PHOTOS}
    there = {photo: path for photo, path in found.items() if path is not None}
    if len(there) < len(PHOTOS):
        raise MissingDependencyError(
            "The demo, which shows photographs of scikit-image and scikit-learn,", "demo"
        )
    return there


def copy_photos(folder: Path) -> None:
    """Copy the photographs into a folder, with the ratings as a table and the credits, to try commands on.

    Args:
        folder: Made if it is not there; nothing in it is replaced.

    Raises:
        MissingDependencyError: A package that holds photographs is not installed.
        OutputError: A file is there already or cannot be written.
    """
    photos = find_photos()
    ratings = "".join(f"{photo.name},{photo.rating:g}\n" for photo in photos if photo.rating is not None)
    credits = "".join(f"{photo.name}: {photo.credit}. {photo.license}. {photo.source}\n" for photo in photos)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RATINGS_NAME, CREDITS_NAME, *(photo.name for photo in photos)):
            if (folder / name).exists():
                raise OutputError(f"{printable(str(folder / name))} is there already; name another folder")
        for photo, path in photos.items():
            shutil.copyfile(path, folder / photo.name)
        (folder / RATINGS_NAME).write_text(f"image,rating\n{ratings}", encoding="utf-8")
        (folder / CREDITS_NAME).write_text(credits, encoding="utf-8")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{printable(str(folder))}: cannot be written: {error.strerror or error}"
        ) from error


def show() -> Iterator[str]:
    """Run the demo and yield what it has to say, line by line; nothing is stored.

    Raises:
        MissingDependencyError: A package that holds photographs is not installed.
    """
    photos = find_photos()
    yield f"{count_of(len(photos), 'real photograph')}, openly licensed, from scikit-image and scikit-learn:"
    yield from (f"  {photo.name:<14} {photo.credit} ({photo.license})" for photo in photos)
    scorer = Scorer.from_pretrained(cache=False)
    yield ""
    yield f"1. In the order that most people would like them, scale {scorer.scale}:"
    yield from _ranking_lines(list(photos), scorer.score(list(photos.values())))
    rated = {photo: path for photo, path in photos.items() if photo.rating is not None}
    others = {photo: path for photo, path in photos.items() if photo.rating is None}
    yield ""
    yield f"2. {PERSON} loves patterns that fill the frame and cares little for the rest. Her ratings:"
    yield from (f"  {'★' * int(photo.rating or 0):<5} {photo.name}" for photo in rated)
    mira = scorer.personalize({path: photo.rating for photo, path in rated.items()}, scale=SCALE)
    yield ""
    yield f"3. The photos that {PERSON} has not rated, for most people and for her, on her scale:"
    yield from _comparison_lines(list(others), mira.score(list(others.values())))
    yield ""
    yield from _closing_lines(len(rated))


def _ranking_lines(photos: Sequence[DemoPhoto], scores: Sequence[Score]) -> Iterator[str]:
    for rank, position in enumerate(_best_first([score.generic for score in scores]), start=1):
        yield f"  {rank:>4}  {scores[position].generic:6.2f}  {photos[position].name}"


def _comparison_lines(photos: Sequence[DemoPhoto], scores: Sequence[Score]) -> Iterator[str]:
    before = _best_first([score.generic for score in scores])
    after = _best_first([score.personal for score in scores])
    yield f"        {'most people':<24}{PERSON}"
    for rank, (old, new) in enumerate(zip(before, after, strict=True), start=1):
        left = f"{scores[old].generic:5.2f}  {photos[old].name}"
        right = f"{scores[new].personal:5.2f} ± {scores[new].std:4.2f}  {photos[new].name}"
        yield f"  {rank:>4}  {left:<24}{right}"
    moves = {photo.name: before.index(place) - after.index(place) for place, photo in enumerate(photos)}
    rises = [f"{name} +{moved}" for name, moved in sorted(moves.items(), key=_by_move) if moved > 0]
    falls = [
        f"{name} {moved}" for name, moved in sorted(moves.items(), key=_by_move, reverse=True) if moved < 0
    ]
    if rises:
        yield f"  Places gained: {', '.join(rises)}. Places lost: {', '.join(falls)}."
    else:
        yield "  The order stays the same."


def _closing_lines(shots: int) -> Iterator[str]:
    yield f"{PERSON} and her {shots} ratings are made up: this shows how it works, not how well it works."
    yield "The number after ± says how far her own rating may well be from the score (standard deviation)."
    yield "Nothing was stored, and nothing left this computer."
    yield ""
    yield "Your turn:"
    yield "  piaa score FOLDER                          what most people would like best"
    yield "  piaa personalize ratings.csv --user NAME   teach it one person's taste"
    yield "  piaa score FOLDER --user NAME              what that person would like best"
    yield "  piaa demo --folder DIR                     these photos and ratings, to try the commands on"


def _by_move(named: tuple[str, int]) -> int:
    return -named[1]


def _best_first(values: Sequence[float | None]) -> list[int]:
    return sorted(range(len(values)), key=lambda position: -(values[position] or 0.0))
