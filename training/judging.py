"""How methods are judged, all of one table alike; what was judged before is not judged again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelFormatError
from training.evaluation import evaluate
from training.evaluation_record import Conditions, Evaluation, to_plain, to_text
from training.folder_writing import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.personalizers import Personalizer


@dataclass(frozen=True, slots=True)
class Judging:
    """How runs are judged; those of one table all alike.

    Attributes:
        shots: Values of M.
        repeats: Random supports per user and M.
        control_repeats: Of those, how many with the shuffled-user control; None means all.
        users: How many users, drawn; None means all.
        curve: One query set for all M.
        seed: Of the supports.
    """

    shots: Sequence[int]
    repeats: int
    control_repeats: int | None = None
    users: int | None = None
    curve: bool = False
    seed: int = 0

    def conditions(self, table: RatingTable, scale: RatingScale, data: str | None) -> Conditions:
        """Return what is judged on; ``data`` is the name of the data set, the folder's by default."""
        found = Conditions.of(
            table,
            scale,
            shots=self.shots,
            repeats=self.repeats,
            seed=self.seed,
            drawn_users=self.users,
            curve=self.curve,
        )
        return found if data is None else replace(found, data=data)


def judge_once(
    title: str,
    make: Callable[[], tuple[Personalizer, Mapping[str, Any]]],
    table: RatingTable,
    scale: RatingScale,
    how: Judging,
    facts: Mapping[str, Any],
    *,
    data: str | None = None,
    kept: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge a method, unless a file holds just that result already.

    Args:
        title: What tables call the method.
        make: Makes it, and returns what else is then known of it, which tables are told too.
        table: Users and images.
        scale: Units of the ratings.
        how: Supports, users and repeats.
        facts: What tells the method and its training from any other, and whatever tables shall be told.
        data: Name of the data set; the folder's by default.
        kept: File for the result; read if it holds one of this title, these conditions and these facts.
        progress: Called with the tasks done and all tasks.
    """
    conditions = how.conditions(table, scale, data)
    plain = to_plain(dict(facts))
    found = None if kept is None else _load_same(kept, title, conditions, plain)
    if found is None:
        personalizer, more = make()
        judged = evaluate(
            personalizer,
            table,
            scale,
            shots=how.shots,
            repeats=how.repeats,
            control_repeats=how.control_repeats,
            users=how.users,
            curve=how.curve,
            seed=how.seed,
            facts={**facts, **more},
            progress=progress,
        )
        found = replace(judged, method=title, conditions=conditions)
        if kept is not None:
            write_file(kept, to_text(found.to_json()))
    return found


def _load_same(
    path: Path, method: str, conditions: Conditions, facts: Mapping[str, Any]
) -> Evaluation | None:
    """Read an evaluation; None if there is none, or another one."""
    try:
        found = Evaluation.load(path)
    except ModelFormatError:
        return None
    known = {name: found.facts.get(name) for name in facts}
    return found if (found.method, found.conditions, known) == (method, conditions, facts) else None
