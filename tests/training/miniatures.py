"""Small data sets in the exact formats of the releases, made in a second.

Pictures are 64 pixels wide; people like bright or dark, warm or cool ones, each to their own degree, so that
a prior can be learned from many of them and a person's taste from a few ratings. What a release is known by
is as in the real one: 37 test users of FLICKR-AES, more than 22 candidates of AADB, 14 albums of REAL-CUR.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

SIZE = 64
SHARED_TASTE = (1.0, 0.5)
AADB_ATTRIBUTES = (
    *("ColorHarmony", "Content", "DoF", "MotionBlur", "ObjectEmphasis", "Repetition", "RuleOfThirds"),
    *("StrongColor", "Symmetry", "VisualBalance", "choiceLight", "overallScore"),
)
AADB_LEADING_COLUMNS = (
    *("HITId", "HITTypeId", "Title", "Description", "Keywords", "Reward", "CreationTime", "MaxAssignments"),
    *("RequesterAnnotation", "AssignmentDurationInSeconds", "AutoApprovalDelayInSeconds", "Expiration"),
    *(
        "NumberOfSimilarHITs",
        "LifetimeInSeconds",
        "AssignmentId",
        "WorkerId",
        "AssignmentStatus",
        "AcceptTime",
    ),
    *("SubmitTime", "AutoApprovalTime", "ApprovalTime", "RejectionTime", "RequesterFeedback"),
    *("WorkTimeInSeconds", "LifetimeApprovalRate", "Last30DaysApprovalRate", "Last7DaysApprovalRate"),
)
AADB_LABELS = (
    *("BalacingElements", "ColorHarmony", "Content", "DoF", "Light", "MotionBlur", "Object", "Repetition"),
    *("RuleOfThirds", "Symmetry", "VividColor"),
)
AADB_NUMBERS = (1, 10, 2, 3, 4, 5, 6, 7, 8, 9)
"""In the order in which a batch export sorts columns."""


@dataclass(frozen=True)
class Pictures:
    """What people see: brightness and warmth (N, 2), standard normal."""

    looks: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Pictures:
        return cls(rng.normal(size=(count, 2)))

    def jpeg(self, index: int) -> bytes:
        """Paint a picture: a plain colour that shows its looks, under a coarse pattern of its own."""
        brightness, warmth = np.tanh(self.looks[index] / 1.5)
        color = 128 + 80 * brightness + np.array([40.0, 0, -40]) * warmth
        pattern = np.random.default_rng([index, 7]).normal(0, 8, (8, 8, 3))
        pixels = np.clip(np.kron(color + pattern, np.ones((SIZE // 8, SIZE // 8, 1))), 0, 255)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


class Person:
    """Somebody with a taste: the one that all share, and an own one as strong."""

    def __init__(self, rng: np.random.Generator) -> None:
        letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
        self.name = "A" + "".join(rng.choice(letters, 13))
        self._taste = np.array(SHARED_TASTE) + rng.normal(size=2)
        self._rng = rng

    def rate(self, pictures: Pictures, indices: npt.NDArray[np.intp], high: int = 5) -> list[int]:
        """Rate pictures on whole numbers from 1 to ``high``."""
        liking = pictures.looks[indices] @ self._taste + self._rng.normal(0, 0.4, len(indices))
        middle = (1 + high) / 2
        return np.clip(np.round(middle + (high - 1) / 5 * liking), 1, high).astype(int).tolist()


def _flickr_names(count: int, rng: np.random.Generator) -> list[str]:
    return [
        f"farm{rng.integers(1, 10)}_{rng.integers(10**9, 10**10)}_{rng.integers(16**9, 16**10):010x}_b.jpg"
        for _ in range(count)
    ]


def write_flickr_aes(folder: Path, *, training_users: int = 12, seed: int = 0) -> None:
    """Write FLICKR-AES: 37 test users with 112 to 180 ratings, training users with 190 and 111.

    Of 400 pictures, test users rated the first 200. Most training users rated 120 of the others and 70 of the
    first, because in the release they share pictures too; the rest rated 110 and 1. Three pictures are absent
    and one row is there twice.

    Args:
        folder: Is made.
        training_users: How many, beside the 37.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    pictures, names = Pictures.draw(400, rng), _flickr_names(400, rng)
    rows = []
    for number in range(37 + training_users):
        person = Person(rng)
        if number < 37:
            count = (112, 180)[number] if number < 2 else int(rng.integers(113, 180))
            rated = np.arange(count) if number == 0 else rng.permutation(200)[:count]
        else:
            own, shared = (120, 70) if number % 3 else (110, 1)
            rated = np.concatenate([200 + rng.permutation(200)[:own], rng.permutation(200)[:shared]])
        given = zip(rated, person.rate(pictures, rated), strict=True)
        rows += [f"{person.name},{names[index]},{rating}" for index, rating in given]
        if number == 2:  # still below 180 with the row that is there twice
            rows.append(rows[-1])
    order = rng.permutation(len(rows))
    text = "\n".join(["worker, imagePair, score", *(rows[place] for place in order)]) + "\n"
    _write(folder / "FLICKR-AES_image_labeled_by_each_worker.csv", text)
    (folder / "40K").mkdir()
    absent = {0, 1, 399}
    for index, name in enumerate(names):
        if index not in absent:
            (folder / "40K" / name).write_bytes(pictures.jpeg(index))


def write_aadb(folder: Path, *, training_users: int = 12, seed: int = 0) -> None:
    """Write AADB: assignments of ten pictures; 24 people with 110 to 190 pictures, others with more or less.

    The 24 rated the first 200 of 500 pictures. The others rated 200 or 100 of the rest, most of the former
    also ten or twenty of the first. One picture is flagged by a score of 0, one score is missing and two
    pictures are absent.

    Args:
        folder: Is made.
        training_users: How many, beside the 24.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    pictures = Pictures.draw(500, rng)
    addresses = []
    for name in _flickr_names(500, rng):
        farm, rest = name.split("_", 1)
        addresses.append(f"https://{farm}.staticflickr.com/{rng.integers(100, 1000)}/{rest}")
    rows = []
    for number in range(24 + training_users):
        person = Person(rng)
        if number < 24:
            count = (11, 19)[number] if number < 2 else int(rng.integers(12, 19))
            assignments = rng.permutation(20)[:count]
        else:
            few = number % 4 == 3
            own = 20 + rng.permutation(30)[: 10 if few else 20]
            assignments = np.concatenate([own, rng.permutation(20)[: 0 if few else number % 3]])
        for assignment in assignments:
            shown = 10 * assignment + np.arange(10)
            given: list[int | str] = [*person.rate(pictures, shown)]
            if number == 2 and assignment == assignments[0]:
                given[:2] = [0, ""]
            rows.append(_aadb_row(person.name, int(assignment), [addresses[i] for i in shown], given, rng))
    columns = [*AADB_LEADING_COLUMNS, *(f"Input.image_url{number}" for number in range(1, 11))]
    columns += [f"Answer.{attribute}{number}" for attribute in AADB_ATTRIBUTES for number in AADB_NUMBERS]
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([[*columns, "Approve", "Reject"], *rows])
    _write(folder / "AllinAll.csv", text.getvalue())
    home = folder / "datasetImages_originalSize"
    home.mkdir()
    absent = {0, 499}
    for index, address in enumerate(addresses):
        host, server, name = address.removeprefix("https://").split("/")
        if index not in absent:
            (home / f"{host.split('.')[0]}_{server}_{name}").write_bytes(pictures.jpeg(index))


def write_aadb_attributes(
    folder: Path, *, counts: tuple[int, int, int] = (60, 20, 20), seed: int = 0
) -> None:
    """Write AADB's pictures and attribute labels: lists Train, Validation and TestNew, eleven files each.

    "Light" is how bright a picture is and "ColorHarmony" how warm; "Content" is the same for all pictures and
    the other labels are chance. The newer test pictures lie in their own folder; the first training picture
    is absent, and the second stands in the list TestNew too.

    Args:
        folder: Is made.
        counts: Pictures of the lists.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    pictures, names = Pictures.draw(sum(counts), rng), _flickr_names(sum(counts), rng)
    labels = {name: rng.uniform(-1, 1, sum(counts)) for name in AADB_LABELS}
    labels["Light"], labels["ColorHarmony"] = np.tanh(pictures.looks / 1.5).T
    labels["Content"] = np.full(sum(counts), 0.25)
    bounds = np.cumsum([0, *counts])
    homes = ("datasetImages_originalSize", "datasetImages_originalSize", "AADB_newtest_originalSize")
    lists = ("Train", "Validation", "TestNew")
    for name, home, start, end in zip(lists, homes, bounds[:-1], bounds[1:], strict=True):
        (folder / home).mkdir(parents=True, exist_ok=True)
        indices = list(range(start, end))
        for index in indices:
            if index != 0:
                (folder / home / names[index]).write_bytes(pictures.jpeg(index))
        listed = [*indices, 1] if name == "TestNew" else indices
        for attribute, values in labels.items():
            text = "".join(f"{names[index]} {values[index]:.4f}\n" for index in listed)
            _write(folder / "imgListFiles_label" / f"imgList{name}Regression_{attribute}.txt", text)


def _aadb_row(
    user: str, assignment: int, addresses: list[str], ratings: list[int | str], rng: np.random.Generator
) -> list[str]:
    values = dict.fromkeys(AADB_LEADING_COLUMNS, "1")
    values |= {
        "HITId": f"3HIT{assignment:026}",
        "Description": "rate photographs, and say why",
        "Keywords": "photo, aesthetics",
        "AssignmentId": f"3ASG{rng.integers(10**18):026}",
        "WorkerId": user,
        "RejectionTime": "",
        "RequesterFeedback": "",
        "LifetimeApprovalRate": "100% (97/97)",
    }
    answers = []
    for attribute in AADB_ATTRIBUTES:
        for number in AADB_NUMBERS:
            if attribute == "overallScore":
                answers.append(str(ratings[number - 1]))
            else:
                answers.append(str(rng.choice(["Positive", "Negative", "Neutral", ""])))
    return [*values.values(), *addresses, *answers, "", ""]


def write_real_cur(folder: Path, *, images: int = 30, users: int = 14, seed: int = 0) -> None:
    """Write REAL-CUR: albums of pictures in folders named after their scores.

    One picture of the first album lies under two scores, and a desktop left its files.

    Args:
        folder: Is made.
        images: Pictures of each person.
        users: People.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    pictures = Pictures.draw(images * users, rng)
    for number in range(users):
        indices = np.arange(number * images, (number + 1) * images)
        album = folder / f"album{number + 1:02}"
        for index, rating in zip(indices, Person(rng).rate(pictures, indices), strict=True):
            scored = album / str(rating)
            scored.mkdir(parents=True, exist_ok=True)
            (scored / f"IMG_{index:04}.JPG").write_bytes(pictures.jpeg(int(index)))
    first = min((folder / "album01").rglob("*.JPG"))
    other = folder / "album01" / ("5" if first.parent.name != "5" else "4")
    other.mkdir(exist_ok=True)
    (other / first.name).write_bytes(first.read_bytes())
    (folder / "album01" / ".DS_Store").write_bytes(b"\0")
    (first.parent / "Thumbs.db").write_bytes(b"\0")


def write_table(
    folder: Path,
    *,
    groups: tuple[str, ...] = ("a", "b", "c"),
    users: int = 6,
    images: int = 40,
    high: int = 7,
    seed: int = 0,
) -> None:
    """Write ``ratings.csv`` and ``users.csv``: each group rated all of its own pictures, 1 to ``high``.

    Args:
        folder: Is made.
        groups: Their names.
        users: People of each group.
        images: Pictures of each group.
        high: The best rating.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    ratings, people = ["user,image,score"], ["user,group"]
    (folder / "images").mkdir(parents=True)
    for group in groups:
        pictures = Pictures.draw(images, rng)
        for index in range(images):
            (folder / "images" / f"{group}{index:03}.jpg").write_bytes(pictures.jpeg(index))
        for _ in range(users):
            person = Person(rng)
            people.append(f"{person.name},{group}")
            given = person.rate(pictures, np.arange(images), high)
            ratings += [f"{person.name},images/{group}{index:03}.jpg,{x}" for index, x in enumerate(given)]
    _write(folder / "ratings.csv", "\n".join(ratings) + "\n")
    _write(folder / "users.csv", "\n".join(people) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
