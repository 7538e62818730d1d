"""Fig. 5 on any data set: the influence of m_s, m_q, k and S on Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from piaa_sdk.errors import RatingError
from training.experiment import train
from training.published import judge_run
from training.tables import grid_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from training.data.splits import Split
    from training.experiment import Workshop
    from training.judging import Judging
    from training.loop import Reporter
    from training.meta_config import MetaConfig
    from training.tables import Table


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One place of Fig. 5.

    Attributes:
        support: m_s.
        query: m_q.
        tasks: k.
        steps: S.
    """

    support: int
    query: int
    tasks: int
    steps: int

    @property
    def name(self) -> str:
        """What files are called."""
        return f"s{self.support}-q{self.query}-k{self.tasks}-S{self.steps}"

    @property
    def facts(self) -> dict[str, int]:
        """What the table tells of it."""
        return {"m_s": self.support, "m_q": self.query, "k": self.tasks, "S": self.steps}

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings that make it; without a second level, one picture tells how good the first is."""
        query = max(self.query, 1)
        return (
            f"tasks.support=[{self.support}]",
            f"tasks.query={query}",
            f"tasks.pool={self.support + query}",
            f"tasks.tasks={self.tasks}",
            f"blg.steps={self.steps}",
            f"blg.levels={2 if self.query else 1}",
        )


@dataclass(frozen=True, slots=True)
class Grid:
    """All places of Fig. 5.

    Attributes:
        levels: Pairs of m_s and m_q.
        tasks: Values of k.
        steps: Values of S.
    """

    levels: tuple[tuple[int, int], ...]
    tasks: tuple[int, ...]
    steps: tuple[int, ...]

    def over(
        self, levels: Sequence[str] | None, tasks: Sequence[int] | None, steps: Sequence[int] | None
    ) -> list[GridPoint]:
        """Return the places to go to.

        Args:
            levels: ``m_s/m_q`` each; None takes all of the figure.
            tasks: Values of k, or None.
            steps: Values of S, or None.

        Raises:
            RatingError: A pair of levels cannot be read.
        """
        pairs = self.levels if levels is None else tuple(map(_pair, levels))
        return [
            GridPoint(support, query, count, inner)
            for support, query in pairs
            for count in tasks or self.tasks
            for inner in steps or self.steps
        ]


GRID = Grid(
    levels=((100, 0), (90, 10), (80, 20), (70, 30), (60, 40), (50, 50)),
    tasks=(1, 2, 4, 6, 8),
    steps=(1, 2, 3, 4, 5),
)
"""Fig. 5; the values of k and S on its axes are not told in the text."""


def table_of_grid(
    points: Sequence[GridPoint],
    configure: Callable[[tuple[str, ...]], MetaConfig],
    split: Split,
    folder: Path,
    workshop: Workshop,
    *,
    how: Judging,
    report: Callable[[MetaConfig], Reporter],
    progress: Callable[[str], Callable[[int, int], None]],
) -> Table:
    """Meta-train at every place and judge all on the same users and supports: Fig. 5.

    Args:
        points: The places.
        configure: Makes a configuration with some settings put on top.
        split: Whose training users are learned from, and whose test users are judged.
        folder: Keeps runs and evaluations; what is there of an earlier, interrupted call is used.
        workshop: How networks compute.
        how: M, supports, users and repeats.
        report: Makes what is told of a training.
        progress: Makes what is told of judging.
    """
    judged = []
    for point in points:
        config = configure(point.overrides)
        config = replace(config, title=f"{config.title}, {point.name}")
        run = train(config, split, folder / point.name, workshop, resume=True, report=report(config))
        judged.append(
            judge_run(
                run,
                split.test,
                split.scale,
                workshop,
                how,
                data=split.name,
                facts=point.facts,
                kept=folder / f"{point.name}.json",
                progress=progress("tasks"),
            )
        )
    return grid_table(judged, how.shots[0])


def _pair(text: str) -> tuple[int, int]:
    support, sign, query = text.partition("/")
    if not (sign and support.isdigit() and query.isdigit()):
        raise RatingError(f"{text!r} is not a pair of levels; write m_s/m_q, for example 80/20")
    return int(support), int(query)
