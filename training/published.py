"""The paper's tables on any data set: which methods, and how a run is judged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import RatingError
from training.comparison import compare
from training.data.ratings import person_digest
from training.evaluation import evaluate
from training.evaluation_record import Evaluation, to_text
from training.experiment import load_personalizer, train
from training.folder_writing import write_file
from training.tables import methods_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.data.splits import Split
    from training.experiment import Workshop
    from training.loop import Reporter
    from training.meta_config import MetaConfig
    from training.runs import Run
    from training.tables import Table

TABLE_METHODS = (
    "ba",
    "reptile",
    "maml",
    "maml_first_order",
    "blg_as_released_same_network",
    "blg_as_paper",
    "closed_form",
)
"""Table I's methods of one network, by their configurations."""

BASELINE = "BA-PIAA"
"""What the others are compared with, by its title."""


def judge_run(
    run: Run,
    table: RatingTable,
    scale: RatingScale,
    workshop: Workshop,
    *,
    shots: Sequence[int],
    repeats: int,
    control_repeats: int | None = None,
    users: int | None = None,
    curve: bool = False,
    seed: int = 0,
    rate: float | None = None,
    allow_seen: bool = False,
    data: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge the prior of a run on people it has not met.

    Args:
        run: Finished.
        table: Users and images.
        scale: Units of the ratings.
        workshop: How the network computes; of the run's mode.
        shots: Values of M.
        repeats: Random supports per user and M.
        control_repeats: Of those, how many with the shuffled-user control; None means all.
        users: How many users, drawn; None means all.
        curve: One query set for all M.
        seed: Of the supports.
        rate: Another alpha_f; the method's name then tells it.
        allow_seen: Judge people and pictures of the training too.
        data: Name of the data set; the folder's by default.
        progress: Called with the tasks done and all tasks.

    Raises:
        RatingError: The run was trained on some of these people or pictures.
    """
    if not allow_seen:
        check_unseen(run, table)
    config = run.config if rate is None else _at_rate(run.config, rate)
    personalizer = load_personalizer(run, table, scale, workshop, config=config)
    judged = evaluate(
        personalizer,
        table,
        scale,
        shots=shots,
        repeats=repeats,
        control_repeats=control_repeats,
        users=users,
        curve=curve,
        seed=seed,
        facts=facts_of(run, config),
        progress=progress,
    )
    return judged if data is None else replace(judged, conditions=replace(judged.conditions, data=data))


def _at_rate(config: MetaConfig, rate: float) -> MetaConfig:
    """Return a configuration with another alpha_f, which its title tells."""
    fine_tuning = replace(config.fine_tuning, learning_rate=rate)
    return replace(config, title=f"{config.title}, rate {rate:g}", fine_tuning=fine_tuning)


def facts_of(run: Run, config: MetaConfig) -> dict[str, Any]:
    """Return what tables tell of a run beside its figures."""
    figures = run.record.get("figures") or {}
    facts: dict[str, Any] = {
        "mode": run.record["mode"],
        "backbone": config.network.backbone,
        "trained_on": run.record["split"]["data"],
        "leak_kept": run.record["split"]["report"]["leak_kept"],
        "seconds_per_iteration": figures.get("seconds_per_iteration"),
        "iterations": config.schedule.iterations,
        "fine_tuning_rate": config.fine_tuning.learning_rate,
        "m_s": config.tasks.support[-1],
        "m_q": config.tasks.query,
        "k": config.tasks.tasks,
    }
    steps = getattr(config.settings, "steps", None)
    return facts if steps is None else {**facts, "S": steps}


def check_unseen(run: Run, table: RatingTable) -> None:
    """Refuse people or pictures that a run was trained on.

    Raises:
        RatingError: There are some; how many is said.
    """
    people = set(map(person_digest, table.users)) & set(run.record["people"])
    pictures = set(table.picture_digests()) & set(run.record["pictures"])
    if people or pictures:
        raise RatingError(
            f"the run was trained on {len(people)} of these {len(table.users)} people and {len(pictures)} "
            f"of these {len(table.images)} pictures; judge it on others (--groups), or, knowing that the "
            "figures will be too good, with --allow-seen"
        )


def table_of_methods(
    configs: Sequence[MetaConfig],
    trained: Split,
    tested: Split,
    folder: Path,
    workshop: Workshop,
    *,
    shots: Sequence[int],
    repeats: int,
    control_repeats: int | None,
    users: int | None,
    seed: int,
    report: Callable[[str], Reporter],
    progress: Callable[[str], Callable[[int, int], None]],
) -> Table:
    """Meta-train methods and judge all on the same users and supports: Table I.

    Args:
        configs: One per method.
        trained: Whose training users are learned from.
        tested: Whose test users are judged.
        folder: Keeps runs and evaluations; what is there of an earlier, interrupted call is used.
        workshop: How networks compute.
        shots: Values of M.
        repeats: Random supports per user and M.
        control_repeats: Of those, how many with the shuffled-user control; None means all.
        users: How many test users, drawn; None means all.
        seed: Of the supports.
        report: Makes what is told of a training by its title.
        progress: Makes what is told of judging.
    """
    judged = []
    for config in configs:
        place = folder / _file_name(config.title)
        run = train(config, trained, place, workshop, resume=True, report=report(config.title))
        judged.append(
            judge_run(
                run,
                tested.test,
                tested.scale,
                workshop,
                shots=shots,
                repeats=repeats,
                control_repeats=control_repeats,
                users=users,
                seed=seed,
                allow_seen=trained.report.leak_kept,
                data=tested.name,
                progress=progress("tasks"),
            )
        )
        write_file(place.with_suffix(".json"), to_text(judged[-1].to_json()))
    has_baseline = len(judged) > 1 and any(evaluation.method == BASELINE for evaluation in judged)
    return methods_table(judged, compare(judged, BASELINE) if has_baseline else None)


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
