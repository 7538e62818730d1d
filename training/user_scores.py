"""The scores that one method gives one user's query set, stored to be looked at picture by picture.

An evaluation keeps correlations, not scores. What is stored here is of a single person: names of pictures and
that person's ratings. It is made for figures, not to be published.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from piaa_sdk.errors import ModelFormatError
from training.evaluation import support_and_query
from training.evaluation_record import digest_of_table, to_plain
from training.records import read_record, scale_ends, texts, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.personalizers import Personalizer

FORMAT_VERSION = 1
_COUNTS = {"user": 1, "shots": 1, "repeat": 0, "seed": 0}
_ARRAYS = ("ratings", "prior", "scores")


@dataclass(frozen=True, slots=True, eq=False)
class UserScores:
    """One user's query set, Q pictures, in the units of the ratings.

    Attributes:
        method: Name of the method.
        table: Digest of the people, pictures and ratings that the user is one of.
        rating_scale: Ends of the scale.
        user: Number of the user in the table, from 1.
        shots: M.
        repeat: Which of the random supports, from 0.
        seed: Of the supports.
        images: (Q,) names, relative to the folder of the table.
        ratings: (Q,) the user's.
        prior: (Q,) scores before adaptation.
        scores: (Q,) scores after it.
    """

    method: str
    table: str
    rating_scale: tuple[float, float]
    user: int
    shots: int
    repeat: int
    seed: int
    images: tuple[str, ...]
    ratings: FloatArray
    prior: FloatArray
    scores: FloatArray

    def to_json(self) -> dict[str, Any]:
        """Return what json can store."""
        plain: dict[str, Any] = to_plain({"format_version": FORMAT_VERSION, **asdict(self)})
        return plain

    @classmethod
    def from_json(cls, record: Mapping[str, Any], source: str = "the record") -> Self:
        """Read what :meth:`to_json` wrote; further keys are ignored.

        Args:
            record: Parsed JSON.
            source: What messages call it.

        Raises:
            ModelFormatError: It is of another format, or incomplete.
        """
        if record.get("format_version") != FORMAT_VERSION or "scores" not in record:
            raise ModelFormatError(
                f"{source} holds no scores of format {FORMAT_VERSION}; write them with "
                "python -m training scores MODEL RATINGS FILE"
            )
        try:
            values = {part.name: record[part.name] for part in fields(cls)}
            values |= {name: np.array(record[name], dtype=np.float64) for name in _ARRAYS}
            values |= {name: whole_number(record[name], name, least) for name, least in _COUNTS.items()}
            values["images"] = texts(record["images"], "images")
            values["rating_scale"] = scale_ends(record["rating_scale"])
            lengths = {len(values[name]) for name in ("images", *_ARRAYS)}
            if len(lengths) != 1 or not all(np.isfinite(values[name]).all() for name in _ARRAYS):
                raise ValueError("images, ratings, prior and scores must be finite and equally many")
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(
                f"{source} holds no complete scores ({type(error).__name__}: {error}); write them again with "
                "python -m training scores MODEL RATINGS FILE"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file.

        Raises:
            ModelFormatError: It cannot be read, is of another format, or incomplete.
        """
        return cls.from_json(read_record(path, "scores"), str(path))


def score_user(
    personalizer: Personalizer,
    table: RatingTable,
    scale: RatingScale,
    *,
    user: int,
    shots: int,
    repeat: int = 0,
    seed: int = 0,
) -> UserScores:
    """Adapt a method to one user and score the query set, as an evaluation with this seed does.

    Args:
        personalizer: The method.
        table: People and pictures that the method has not met.
        scale: Units of the ratings.
        user: Position in the table's users.
        shots: M.
        repeat: Which of the random supports, from 0.
        seed: Of the supports.

    Raises:
        RatingError: There is no such user, or with too few ratings, or ratings that teach nothing.
        DivergenceError: The adaptation left the finite numbers.
    """
    support, query = support_and_query(table, scale, user=user, shots=shots, repeat=repeat, seed=seed)
    scores, _ = personalizer.personalize(support).predict(query)
    _, images, ratings = list(table.by_user())[user]
    by_image = dict(zip(images.tolist(), ratings.tolist(), strict=True))
    return UserScores(
        method=personalizer.name,
        table=digest_of_table(table),
        rating_scale=(scale.low, scale.high),
        user=user + 1,
        shots=shots,
        repeat=repeat,
        seed=seed,
        images=tuple(table.images[image] for image in query),
        ratings=np.array([by_image[image] for image in query.tolist()]),
        prior=np.asarray(scale.from_unit(personalizer.generic(query))),
        scores=np.asarray(scale.from_unit(scores)),
    )
