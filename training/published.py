"""The paper's tables on any data set: which methods, and how a run is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelFormatError, RatingError
from training import meta_config
from training.baselines import config as baseline_config
from training.baselines.config import BaselineConfig
from training.baselines.judging import judge_system
from training.comparison import compare
from training.config import read_toml
from training.data.splits import image_name_digest
from training.data.splits import split as split_dataset
from training.evaluation import count_seen, refuse_seen
from training.experiment import load_personalizer, train
from training.folder_writing import make_folder
from training.judging import judge_once
from training.meta_config import MetaConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from piaa_sdk.rating_scale import RatingScale
    from training.baselines.judging import Sources
    from training.comparison import Comparison
    from training.data.dataset import Dataset
    from training.data.ratings import RatingTable
    from training.data.splits import Split
    from training.evaluation_record import Evaluation
    from training.experiment import Workshop
    from training.judging import Judging
    from training.loop import Reporter
    from training.runs import Run

TABLE_METHODS = (
    "fpmf_attribute",
    "fpmf_content",
    "fpmf_both",
    "pam_attribute",
    "pam_content",
    "pam_both",
    "usar_ppr",
    "usar_pad",
    "usar_both",
    "pa_iaa",
    "maml",
    "reptile",
    "ba",
    "blg_as_paper",
    "blg_as_released_same_network",
    "closed_form",
)
"""Table I's methods in its order, by their configurations; BLG-PIAA in two ways, and the closed form."""

BASELINE = "BA-PIAA"
"""What the others are compared with, by its title."""


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
    return judge_once(
        config.title,
        lambda: (load_personalizer(run, table, scale, workshop, config=config), {}),
        table,
        scale,
        how,
        told,
        data=data,
        kept=kept,
        progress=progress,
    )


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


def _check_apart(trained: Split, tested: Split, sources: Sources) -> None:
    """Refuse to train on what shall be tested on, before hours of training."""
    train = trained.people_to_train()
    if trained.report.leak_kept:
        return
    test = tested.test
    people, pictures = count_seen(test, train.person_digests(), train.picture_digests())
    if people or pictures:
        raise RatingError(
            f"{people} of the {len(test.users)} people and {pictures} of the {len(test.images)} pictures to "
            f"test on are among those to train on; train on other people and pictures"
        )
    sources.attributes.refuse_seen(test)


def load_methods(names: Sequence[str], overrides: Sequence[str] = ()) -> list[MetaConfig | BaselineConfig]:
    """Read the configurations of learners and of compared systems.

    Args:
        names: Files, or names of shipped configurations.
        overrides: Settings ``section.name=value`` put on top of each configuration that has the section.

    Raises:
        ModelFormatError: There is no such configuration, one cannot be read, or no configuration has the
            section of an override.
    """
    paths = [_config_file(name) for name in names]
    sections = [set(read_toml(path)) for path in paths]
    for override in overrides:
        if not any(_section(override) in known for known in sections):
            raise ModelFormatError(
                f"{override!r} changes no method: none of {', '.join(names)} has a section "
                f"{_section(override)!r}; the sections are {', '.join(sorted(set().union(*sections)))}"
            )
    found = []
    for path, known in zip(paths, sections, strict=True):
        fitting = [override for override in overrides if _section(override) in known]
        is_system = not known.isdisjoint(baseline_config.SYSTEMS)
        found.append((BaselineConfig if is_system else MetaConfig).load(path, fitting))
    return found


def _config_file(name: str) -> Path:
    if name.endswith(".toml") or Path(name).is_file():
        return Path(name)
    if name in baseline_config.shipped_names():
        return baseline_config.FOLDER / f"{name}.toml"
    return meta_config.shipped_config(name, besides=baseline_config.shipped_names())


def _section(override: str) -> str:
    return override.partition("=")[0].partition(".")[0].strip()


def judge_methods(
    configs: Sequence[MetaConfig | BaselineConfig],
    trained: Split,
    tested: Split,
    folder: Path,
    workshop: Workshop,
    sources: Sources,
    *,
    how: Judging,
    report: Callable[[MetaConfig], Reporter],
    progress: Callable[[str], Callable[[int, int], None]],
    say: Callable[[str], None],
) -> list[Evaluation]:
    """Train methods and judge all on the same users and supports: what Table I is made of.

    Args:
        configs: One per method.
        trained: Whose training users are learned from.
        tested: Whose test users are judged.
        folder: Keeps runs and evaluations; what is there of an earlier, interrupted call is used.
        workshop: How networks compute.
        sources: What the compared systems are given beside.
        how: Supports, users and repeats.
        report: Makes what is told of a meta-training.
        progress: Makes what is told of choosing settings and of judging.
        say: Told when a method begins, and its figures.

    Raises:
        RatingError: Some of those to test on are among those to train on.
        OutputError: The folder cannot be written to.
    """
    _check_apart(trained, tested, sources)
    make_folder(folder)
    judged = []
    for number, config in enumerate(configs, start=1):
        say(f"{config.title}, {number} of {len(configs)} methods")
        place = folder / _file_name(config.title)
        kept = place.with_name(f"{place.name}{'-curve' if how.curve else ''}.json")
        show = progress(f"tasks of {config.title}")
        if isinstance(config, BaselineConfig):
            choosing = progress(f"fits of {config.title}")
            one = judge_system(
                config, trained, tested, workshop, sources, how, kept=kept, report=choosing, progress=show
            )
        else:
            run = train(config, trained, place, workshop, resume=True, report=report(config))
            one = judge_run(
                run,
                tested.test,
                tested.scale,
                workshop,
                how,
                allow_seen=trained.report.leak_kept,
                data=tested.name,
                kept=kept,
                progress=show,
            )
        judged.append(one)
        say(f"{config.title}: {_figures(one)}")
    return judged


def _figures(judged: Evaluation) -> str:
    return ", ".join(
        f"{result.figures['personal'].mean:.3f} with M = {result.shots}" for result in judged.results
    )


def compare_to_baseline(judged: Sequence[Evaluation]) -> Comparison | None:
    """Compare with :data:`BASELINE`; None where it is not among the methods, or alone."""
    has_baseline = len(judged) > 1 and any(evaluation.method == BASELINE for evaluation in judged)
    return compare(judged, BASELINE) if has_baseline else None


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
