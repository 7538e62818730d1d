"""The paper's tables on any data set: which methods, and how a run is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelFormatError, RatingError
from training.comparison import compare
from training.data.splits import image_name_digest
from training.data.splits import split as split_dataset
from training.evaluation import count_seen, evaluate, refuse_seen
from training.evaluation_record import Conditions, Evaluation, to_plain, to_text
from training.experiment import load_personalizer, train
from training.folder_writing import write_file
from training.tables import methods_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.rating_scale import RatingScale
    from training.data.dataset import Dataset
    from training.data.ratings import RatingTable
    from training.data.splits import Split
    from training.experiment import Workshop
    from training.loop import Reporter
    from training.meta_config import MetaConfig
    from training.personalizers import Personalizer
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


def judge_run(
    run: Run,
    table: RatingTable,
    scale: RatingScale,
    workshop: Workshop,
    how: Judging,
    *,
    rate: float | None = None,
    allow_seen: bool = False,
    data: str | None = None,
    facts: Mapping[str, Any] | None = None,
    kept: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge the prior of a run on people it has not met.

    Args:
        run: Finished.
        table: Users and images.
        scale: Units of the ratings.
        workshop: How the network computes; of the run's mode.
        how: Supports, users and repeats.
        rate: Another alpha_f; the method's name then tells it.
        allow_seen: Judge people and pictures of the training too; how many they are is in the facts.
        data: Name of the data set; the folder's by default.
        facts: What tables shall be told beside :func:`facts_of`.
        kept: File for the result. One that holds the result of just this run and these conditions already
            is read, and nothing is judged again.
        progress: Called with the tasks done and all tasks.

    Raises:
        RatingError: The run was trained on some of these people or pictures.
        ModelFormatError: The run is not finished, or has no rate of fine-tuning.
    """
    run.check_finished()
    if not allow_seen:
        check_unseen(run, table)
    config = run.config if rate is None else _at_rate(run.config, rate)
    told = facts_of(run, config) | _seen(run, table, allowed=allow_seen)
    told |= {"control_repeats": how.control_repeats, **(facts or {})}
    conditions = how.conditions(table, scale, data)
    found = None if kept is None else _load_same(kept, config.title, conditions, told)
    if found is None:
        personalizer = load_personalizer(run, table, scale, workshop, config=config)
        found = replace(_evaluate(personalizer, table, scale, how, told, progress), conditions=conditions)
        if kept is not None:
            write_file(kept, to_text(found.to_json()))
    return found


def _evaluate(
    personalizer: Personalizer,
    table: RatingTable,
    scale: RatingScale,
    how: Judging,
    facts: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> Evaluation:
    return evaluate(
        personalizer,
        table,
        scale,
        shots=how.shots,
        repeats=how.repeats,
        control_repeats=how.control_repeats,
        users=how.users,
        curve=how.curve,
        seed=how.seed,
        facts=facts,
        progress=progress,
    )


def _load_same(
    path: Path, method: str, conditions: Conditions, facts: Mapping[str, Any]
) -> Evaluation | None:
    """Read an evaluation; None if there is none, or another one."""
    try:
        found = Evaluation.load(path)
    except ModelFormatError:
        return None
    is_same = (found.method, found.conditions, dict(found.facts)) == (
        method,
        conditions,
        to_plain(dict(facts)),
    )
    return found if is_same else None


def _seen(run: Run, table: RatingTable, *, allowed: bool) -> dict[str, Any]:
    people, pictures = count_seen(table, run.record["people"], run.record["pictures"])
    return {"seen_people": people, "seen_pictures": pictures, "seen_allowed": allowed}


def _at_rate(config: MetaConfig, rate: float) -> MetaConfig:
    """Return a configuration with another alpha_f, which its title tells.

    Raises:
        ModelFormatError: The learner takes no steps to a user.
    """
    if config.learner == "closed_form":
        raise ModelFormatError(f"{config.title} adapts without a learning rate; leave --rate out")
    fine_tuning = replace(config.fine_tuning, learning_rate=rate)
    return replace(config, title=f"{config.title}, rate {rate:g}", fine_tuning=fine_tuning)


def facts_of(run: Run, config: MetaConfig) -> dict[str, Any]:
    """Return what tables tell of a run beside its figures."""
    figures = run.record.get("figures") or {}
    facts: dict[str, Any] = {
        "state": run.state_digest(),
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
    refuse_seen(table, run.record["people"], run.record["pictures"], what="run")


def validation_part(run: Run, dataset: Dataset) -> RatingTable:
    """Return the validation users that a run had, and their pictures.

    Args:
        run: Trained on a data set that is split by its release's rules.
        dataset: That data set.

    Raises:
        RatingError: The run had none there, or the data set is another one now.
    """
    noted = run.record["split"]
    if noted["data"] != dataset.name or noted["validation"] is None:
        raise RatingError(
            f"{run.folder} was trained on {noted['data']} "
            f"{'without' if noted['validation'] is None else 'with'} validation users; it has none of "
            f"{dataset.name}. Judge it on test users, or train with --validation-users"
        )
    again = split_dataset(
        dataset,
        validation_users=len(noted["validation"]["users"]),
        keep_leak=noted["report"]["leak_kept"],
        seed=noted["seed"],
    ).validation
    assert again is not None
    found = [list(again.person_digests()), [image_name_digest(image) for image in again.images]]
    if found != [noted["validation"]["users"], noted["validation"]["images"]]:
        raise RatingError(
            f"{dataset.table.folder} has other validation users or pictures than {run.folder} was trained "
            "beside; put the files in place that were there then"
        )
    return again


def _check_apart(trained: Split, tested: Split) -> None:
    """Refuse to train on what shall be tested on, before hours of training."""
    if trained.train is None or trained.report.leak_kept:
        return
    test = tested.test
    people, pictures = count_seen(test, trained.train.person_digests(), trained.train.picture_digests())
    if people or pictures:
        raise RatingError(
            f"{people} of the {len(test.users)} people and {pictures} of the {len(test.images)} pictures to "
            f"test on are among those to train on; train on other people and pictures"
        )


def table_of_methods(
    configs: Sequence[MetaConfig],
    trained: Split,
    tested: Split,
    folder: Path,
    workshop: Workshop,
    *,
    how: Judging,
    report: Callable[[MetaConfig], Reporter],
    progress: Callable[[str], Callable[[int, int], None]],
) -> tuple[Table, list[Evaluation]]:
    """Meta-train methods and judge all on the same users and supports: Table I.

    Args:
        configs: One per method.
        trained: Whose training users are learned from.
        tested: Whose test users are judged.
        folder: Keeps runs and evaluations; what is there of an earlier, interrupted call is used.
        workshop: How networks compute.
        how: Supports, users and repeats.
        report: Makes what is told of a training.
        progress: Makes what is told of judging.

    Returns:
        The table, and what it is made of.

    Raises:
        RatingError: Some of those to test on are among those to train on.
    """
    _check_apart(trained, tested)
    judged = []
    for config in configs:
        place = folder / _file_name(config.title)
        run = train(config, trained, place, workshop, resume=True, report=report(config))
        judged.append(
            judge_run(
                run,
                tested.test,
                tested.scale,
                workshop,
                how,
                allow_seen=trained.report.leak_kept,
                data=tested.name,
                kept=place.with_suffix(".json"),
                progress=progress("tasks"),
            )
        )
    has_baseline = len(judged) > 1 and any(evaluation.method == BASELINE for evaluation in judged)
    return methods_table(judged, compare(judged, BASELINE) if has_baseline else None), judged


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
