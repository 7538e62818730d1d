"""What a comparison of criteria of active selection leaves behind: every user and repeat, and the figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from piaa_sdk.errors import ModelFormatError, RatingError
from training.evaluation_record import Conditions, to_plain
from training.intervals import summarize
from training.records import read_record
from training.tables import LEGEND, Column, Kind, Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from training.intervals import Figure

FORMAT_VERSION = 1
_KIND = "active selection"
_RANDOM = "random"


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """What one criterion led one method to.

    Attributes:
        method: Its name.
        criterion: What chose.
        correlations: (S, R, U) SROCC by number of ratings, repeat and user; nan where all query ratings are
            equal.
        without_blocks: (S, 10) its mean without each block of pictures.
    """

    method: str
    criterion: str
    correlations: FloatArray
    without_blocks: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class ActiveSelection:
    """Methods and criteria, judged on the same people, query sets and first ratings.

    Attributes:
        conditions: On what; ``shots`` are the S numbers of ratings.
        start: Pictures rated at random before the first choice.
        people: (U,) digests of the names of the people judged.
        groups: (U,) group of each.
        query_sizes: (U,) pictures that each is judged by.
        candidates: (U,) pictures to choose from, the start among them.
        tracks: By method and criterion; each method has one of random choice.
        facts: What else is to be known: settings and versions of the methods.
    """

    conditions: Conditions
    start: int
    people: tuple[str, ...]
    groups: tuple[str, ...]
    query_sizes: tuple[int, ...]
    candidates: tuple[int, ...]
    tracks: tuple[Track, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def figure(self, track: Track, shots: int) -> Figure:
        """Summarize a criterion's SROCC after some ratings.

        Raises:
            RatingError: This number was not judged.
        """
        step = self._step(shots)
        return self._summarize(track.correlations[step], track.without_blocks[step])

    def difference(self, track: Track, shots: int) -> Figure:
        """Summarize what a criterion gains on random choice for the same method, person and repeat.

        Raises:
            RatingError: This number was not judged, or random choice was not for this method.
        """
        step = self._step(shots)
        for other in self.tracks:
            if (other.method, other.criterion) == (track.method, _RANDOM):
                return self._summarize(
                    track.correlations[step] - other.correlations[step],
                    track.without_blocks[step] - other.without_blocks[step],
                )
        raise RatingError(f"random choice was not judged for {track.method}; judge it again")

    def table(self) -> Table:
        """Lay out SROCC by criterion and number of ratings, with the paired differences to random choice."""
        shots = self.conditions.shots
        columns = [Column("method"), Column("criterion")]
        columns += [Column(f"after {count}", Kind.SURE_LEVEL) for count in shots]
        columns += [Column(f"own - random, after {count}", Kind.DIFFERENCE) for count in shots]
        rows = []
        for track in self.tracks:
            row: list[Any] = [track.method, track.criterion]
            row += [self.figure(track, count) for count in shots]
            is_random = track.criterion == _RANDOM
            row += [None if is_random else self.difference(track, count) for count in shots]
            rows.append(tuple(row))
        return Table(tuple(columns), tuple(rows))

    def to_markdown(self) -> str:
        """Return the table with its legend, and how much there was to choose from."""
        conditions = self.conditions
        remark = (
            f"{len(self.people)} people, {conditions.repeats} repeats; {self.start} random ratings first; "
            f"{_range(self.candidates)} candidates and {_range(self.query_sizes)} query pictures per person."
        )
        return "\n".join([self.table().to_markdown(), "", *LEGEND, remark])

    def to_json(self) -> dict[str, Any]:
        """Return what json can store; what is undefined is None. The figures are there for readers only."""
        record = {
            "format_version": FORMAT_VERSION,
            "kind": _KIND,
            **asdict(self.conditions),
            **{name: getattr(self, name) for name in ("start", "query_sizes", "candidates")},
            "facts": dict(self.facts),
            "figures": self._figures(),
            "judged": {"people": self.people, "groups": self.groups},
            "tracks": [asdict(track) for track in self.tracks],
        }
        plain: dict[str, Any] = to_plain(record)
        return plain

    @classmethod
    def from_json(cls, record: Mapping[str, Any], source: str = "the record") -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: Parsed JSON.
            source: What messages call it.

        Raises:
            ModelFormatError: It is of another kind or format, or incomplete.
        """
        found = record.get("kind"), record.get("format_version")
        if found != (_KIND, FORMAT_VERSION):
            raise ModelFormatError(
                f"{source} is {found[0] or 'no record'} of format {found[1]}, this version reads {_KIND} of "
                f"format {FORMAT_VERSION}; make it again with python -m training active"
            )
        try:
            conditions = Conditions.from_json(record)
            judged = record["judged"]
            people = tuple(map(str, judged["people"]))
            shape = len(conditions.shots), conditions.repeats, len(people)
            return cls(
                conditions=conditions,
                start=int(record["start"]),
                people=people,
                groups=tuple(map(str, judged["groups"])),
                query_sizes=tuple(map(int, record["query_sizes"])),
                candidates=tuple(map(int, record["candidates"])),
                tracks=tuple(_track_from(track, shape) for track in record["tracks"]),
                facts=dict(record["facts"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFormatError(
                f"{source} is no complete record of {_KIND} ({type(error).__name__}: {error}); make it again"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file.

        Raises:
            ModelFormatError: It cannot be read, is of another kind or format, or incomplete.
        """
        return cls.from_json(read_record(path, f"a record of {_KIND}"), str(path))

    def _step(self, shots: int) -> int:
        if shots not in self.conditions.shots:
            known = ", ".join(map(str, self.conditions.shots))
            raise RatingError(f"nothing was judged after {shots} ratings; it was after {known}")
        return self.conditions.shots.index(shots)

    def _summarize(self, values: FloatArray, without_blocks: FloatArray) -> Figure:
        return summarize(values, without_blocks, np.isnan(values), self.groups, seed=self.conditions.seed)

    def _figures(self) -> list[dict[str, Any]]:
        figures = []
        for track in self.tracks:
            for shots in self.conditions.shots:
                difference = None if track.criterion == _RANDOM else asdict(self.difference(track, shots))
                figures.append(
                    {
                        "method": track.method,
                        "criterion": track.criterion,
                        "shots": shots,
                        "srocc": asdict(self.figure(track, shots)),
                        "own-random": difference,
                    }
                )
        return figures


def _track_from(data: Mapping[str, Any], shape: tuple[int, int, int]) -> Track:
    correlations = np.array(data["correlations"], dtype=np.float64)
    without_blocks = np.array(data["without_blocks"], dtype=np.float64)
    if correlations.shape != shape:
        raise ValueError(f"correlations of {data['criterion']} are {correlations.shape}, not {shape}")
    return Track(str(data["method"]), str(data["criterion"]), correlations, without_blocks)


def _range(values: tuple[int, ...]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
