"""What an evaluation leaves behind: its conditions, its figures, and every user and repeat behind them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from piaa_sdk.errors import ModelFormatError, RatingError
from training.intervals import Figure, Interval
from training.records import read_record, scale_ends, texts, whole_number, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable

FORMAT_VERSION = 1
METHODS = ("prior", "personal", "shuffled")


@dataclass(frozen=True, slots=True)
class Conditions:
    """What two evaluations must share to be comparable: people, pictures, ratings, splits.

    Attributes:
        data: Name of the folder of the ratings.
        groups: Groups of the people.
        users: People in the table.
        pictures: Pictures in the table.
        ratings: Ratings in the table.
        table: Digest of people, pictures and ratings.
        rating_scale: Ends of the scale.
        shots: Values of M.
        repeats: Random support sets per person and M.
        seed: Of the support sets.
        drawn_users: How many people were drawn to be judged; None for all.
        curve: Whether every M has the same query set and the smaller support sets lie inside the larger.
    """

    data: str
    groups: tuple[str, ...]
    users: int
    pictures: int
    ratings: int
    table: str
    rating_scale: tuple[float, float]
    shots: tuple[int, ...]
    repeats: int
    seed: int
    drawn_users: int | None
    curve: bool

    @classmethod
    def of(
        cls,
        table: RatingTable,
        scale: RatingScale,
        *,
        shots: Sequence[int],
        repeats: int,
        seed: int,
        drawn_users: int | None,
        curve: bool,
    ) -> Self:
        """Describe an evaluation on the people of a table."""
        return cls(
            data=table.folder.resolve().name,
            groups=tuple(sorted(set(table.groups))),
            users=len(table.users),
            pictures=len(table.images),
            ratings=len(table),
            table=digest_of_table(table),
            rating_scale=(scale.low, scale.high),
            shots=tuple(shots),
            repeats=repeats,
            seed=seed,
            drawn_users=drawn_users,
            curve=curve,
        )

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read the conditions that are among the keys of a record.

        Raises:
            KeyError: One is missing.
            ValueError: One is no such value.
        """
        values: dict[str, Any] = {part.name: record[part.name] for part in fields(cls)}
        for name in ("users", "pictures", "ratings", "repeats", "seed"):
            whole_number(values[name], name)
        values["groups"] = texts(values["groups"], "groups")
        values["rating_scale"] = scale_ends(values["rating_scale"])
        values["shots"] = whole_numbers(values["shots"], "shots", least=1)
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Rank correlations behind the figures of one M; R repeats, U users.

    Attributes:
        people: (U,) digests of the people's names.
        groups: (U,) group of each.
        correlations: By the names ``prior``, ``personal``, ``shuffled``: (R, U), nan where undefined.
        without_blocks: By the same names: (10,) the mean correlation without each block of pictures.
    """

    people: tuple[str, ...]
    groups: tuple[str, ...]
    correlations: Mapping[str, FloatArray]
    without_blocks: Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class LevelCoverage:
    """How many left-out ratings lie inside the central intervals of one nominal level.

    Attributes:
        level: What the intervals promise, in (0, 1).
        share: Of the ratings inside, mean over users and repeats.
        low: 5 % quantile over users.
        high: 95 % quantile over users.
    """

    level: float
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class ShotsResult:
    """What was found with M support pictures.

    Attributes:
        shots: M.
        users: People judged.
        left_out: People with too few ratings for M and a query set.
        uncontrolled: Tasks without a control: it was not asked for, or nobody else of the group has rated
            enough other pictures.
        undefined: Tasks whose query ratings are all equal: no rank correlation, left out of the means.
        undefined_people: Digests of the people for whom that holds in every repeat.
        constant_support: Tasks from whose ratings, all equal, the method learns nothing: judged by the prior.
        collapsed: Tasks whose personal scores are all equal or not finite: they count as 0.
        figures: SROCC by the names ``prior`` (M = 0 on the same query sets), ``personal``, ``shuffled``, and
            the differences ``personal-prior`` and ``personal-shuffled``.
        measures: Other means by the names ``plcc``, ``pairwise_accuracy`` and ``mean_absolute_error`` (units
            of the ratings), each of ``prior`` and ``personal``.
        coverage: Share of left-out ratings inside the 90 % interval, mean over users and repeats; nan for a
            method without standard deviations, like the next two.
        coverage_quantiles: 5, 25, 50, 75 and 95 % quantiles over users.
        calibration: Factor on the standard deviations that would put 90 % of all left-out ratings inside.
        seconds_to_adapt: Median over tasks.
        judged: Every user and repeat.
        coverage_by_level: The coverage at further levels; empty for a method without standard deviations,
            and in records of versions that did not keep it, which are of the same format.
    """

    shots: int
    users: int
    left_out: int
    uncontrolled: int
    undefined: int
    undefined_people: tuple[str, ...]
    constant_support: int
    collapsed: int
    figures: Mapping[str, Figure]
    measures: Mapping[str, Mapping[str, float]]
    coverage: float
    coverage_quantiles: tuple[float, ...]
    calibration: float
    seconds_to_adapt: float
    judged: Judged
    coverage_by_level: tuple[LevelCoverage, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the parts by name; the coverage at further levels only where there is one."""
        parts = asdict(self)
        if not self.coverage_by_level:
            del parts["coverage_by_level"]
        return parts


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """One method, judged.

    Attributes:
        method: Its name.
        conditions: On what.
        results: By M.
        facts: What else tables tell of the method: ``backbone``, ``trained_on``, ``seconds_per_iteration``,
            and the settings ``m_s``, ``m_q``, ``k``, ``S`` of its meta-training.
    """

    method: str
    conditions: Conditions
    results: tuple[ShotsResult, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def result(self, shots: int) -> ShotsResult:
        """Return what was found with M support pictures.

        Raises:
            RatingError: This M was not judged; those that were are named.
        """
        for result in self.results:
            if result.shots == shots:
                return result
        judged = ", ".join(str(result.shots) for result in self.results) or "nothing"
        raise RatingError(f"{self.method} was not judged with M = {shots}; it was with {judged}")

    def to_json(self) -> dict[str, Any]:
        """Return what json can store; what could not be measured is None."""
        record = {"format_version": FORMAT_VERSION, "method": self.method, **asdict(self.conditions)}
        record |= {"facts": dict(self.facts), "results": [result.to_json() for result in self.results]}
        plain: dict[str, Any] = to_plain(record)
        return plain

    def summary(self) -> dict[str, Any]:
        """Return what :meth:`to_json` returns without anything about single people: what may be published."""
        return without_people(self.to_json())

    @classmethod
    def from_json(cls, record: Mapping[str, Any], source: str = "the record") -> Self:
        """Read what :meth:`to_json` wrote; further keys are ignored.

        Args:
            record: Parsed JSON.
            source: What messages call it.

        Raises:
            ModelFormatError: It is of another format, or incomplete.
        """
        if not record.keys() >= {"method", "results", "facts"}:
            raise ModelFormatError(
                f"{source} holds no evaluation; make one with python -m training table, judge or evaluate"
            )
        version = record.get("format_version")
        if version != FORMAT_VERSION:
            raise ModelFormatError(
                f"{source} is an evaluation of format {version}, this version reads {FORMAT_VERSION}; "
                "evaluate again"
            )
        try:
            conditions = Conditions.from_json(record)
            results = tuple(_result_from(result, conditions.repeats) for result in record["results"])
            return cls(str(record["method"]), conditions, results, dict(record["facts"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFormatError(
                f"{source} is no complete evaluation ({type(error).__name__}: {error}); evaluate again"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file.

        Raises:
            ModelFormatError: It cannot be read, is of another format, or incomplete.
        """
        return cls.from_json(read_record(path, "an evaluation"), str(path))


def without_people(record: Mapping[str, Any]) -> dict[str, Any]:
    """Keep an evaluation's figures; what single people were found to be like is not published."""
    hidden = {"judged", "undefined_people"}
    results = [
        {name: value for name, value in result.items() if name not in hidden} for result in record["results"]
    ]
    return {**record, "results": results}


def to_text(record: Mapping[str, Any]) -> str:
    """Write a record as indented JSON in which a row of numbers stays on one line."""
    text = json.dumps(record, indent=2, allow_nan=False)
    return (
        re.sub(r"\[\n[\s\d.,e+\-nul]+\]", lambda row: "[" + " ".join(row.group()[1:-1].split()) + "]", text)
        + "\n"
    )


def digest_of_table(table: RatingTable) -> str:
    """Return what stands for people, groups, pictures and ratings: hex SHA-256."""
    names = json.dumps([table.users, table.groups, table.images])
    digest = hashlib.sha256(names.encode())
    for numbers, kind in ((table.user_index, "<i8"), (table.image_index, "<i8"), (table.ratings, "<f8")):
        digest.update(numbers.astype(kind).tobytes())
    return digest.hexdigest()


def to_plain(value: Any) -> Any:
    """Return a value as what json can store: arrays and tuples as lists, what is not finite as None."""
    if isinstance(value, dict):
        return {name: to_plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _result_from(data: Mapping[str, Any], repeats: int) -> ShotsResult:
    named = [part.name for part in fields(ShotsResult) if part.name != "coverage_by_level"]
    values = {name: _frozen(data[name]) for name in named}
    values |= {name: _number(data[name]) for name in ("coverage", "calibration", "seconds_to_adapt")}
    values["coverage_quantiles"] = tuple(map(_number, data["coverage_quantiles"]))
    values["figures"] = {name: _figure_from(figure) for name, figure in data["figures"].items()}
    values["measures"] = {
        name: {method: _number(mean) for method, mean in means.items()}
        for name, means in data["measures"].items()
    }
    values["judged"] = _judged_from(data["judged"], repeats)
    values["coverage_by_level"] = tuple(
        LevelCoverage(**{part.name: float(level[part.name]) for part in fields(LevelCoverage)})
        for level in data.get("coverage_by_level", ())
    )
    return ShotsResult(**values)


def _figure_from(data: Mapping[str, Any]) -> Figure:
    values = {part.name: _number(data[part.name]) for part in fields(Figure) if part.name != "interval"}
    return Figure(interval=Interval(*map(_number, data["interval"])), **values)


def _judged_from(data: Mapping[str, Any], repeats: int) -> Judged:
    people = tuple(data["people"])
    correlations = {name: np.array(data["correlations"][name], dtype=np.float64) for name in METHODS}
    for name, values in correlations.items():
        if values.shape != (repeats, len(people)):
            raise ValueError(f"correlations of {name} are {values.shape}, not {(repeats, len(people))}")
    without_blocks = {name: np.array(data["without_blocks"][name], dtype=np.float64) for name in METHODS}
    return Judged(people, tuple(data["groups"]), correlations, without_blocks)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
