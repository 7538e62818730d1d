"""The commands of ``python -m training`` that meta-learn priors and compare them."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, RatingError
from piaa_sdk.rating_scale import RatingScale
from training import cli_options as options
from training.baselines.judging import Sources
from training.command_inputs import (
    load_attributes,
    make_workshop,
    people_to_judge,
    read_data,
    workshop_of_run,
)
from training.comparison import compare as compare_methods
from training.data.datasets import TABLE
from training.data.personality import read_personality
from training.data.splits import split as split_dataset
from training.data.splits import train_on_all
from training.distributed import joined_ranks
from training.evaluation_record import Evaluation
from training.experiment import train
from training.folder_writing import make_folder, write_file
from training.grid import GRID, table_of_grid
from training.judging import Judging
from training.meta_config import MetaConfig
from training.printed import NOTE, Order, printed_cell
from training.published import (
    TABLE_METHODS,
    compare_to_baseline,
    judge_methods,
    judge_run,
    load_methods,
    validation_part,
)
from training.remarks import remarks_on
from training.runs import RUN_NAME, Run
from training.tables import (
    LEGEND,
    backbones_table,
    crossed_table,
    curve_table,
    databases_table,
    grid_table,
    methods_table,
)
from training.tasks import LEAST_RATINGS, count_people

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from training.data.dataset import Dataset
    from training.data.ratings import RatingTable
    from training.data.splits import Split
    from training.tables import Table

_SHAPES = ("methods", "backbones", "databases", "crossed", "curve", "grid")

Config = Annotated[
    str, typer.Argument(help="TOML file, or the name of a shipped configuration, for example blg_as_paper.")
]

Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Shipped configuration; may be repeated. Table I's.")
]


def describe_data(
    ratings: options.Folder,
    format: options.Format = "table",
    train_groups: options.TrainGroups = None,
    test_groups: options.TestGroups = None,
    validation_groups: options.ValidationGroups = None,
    validation_users: options.ValidationUsers = 0,
    keep_leak: options.KeepLeak = False,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the split.")] = None,
) -> None:
    """Say what a data set holds and how it is split; ids of people are never shown."""
    dataset = read_data(format, ratings, scale)
    typer.echo(str(dataset.report))
    split = split_dataset(
        dataset,
        test_groups=test_groups,
        train_groups=train_groups,
        validation_groups=validation_groups,
        validation_users=validation_users,
        keep_leak=keep_leak,
        seed=seed,
    )
    typer.echo(f"\n{split}")
    if output is not None:
        options.write_json(output, split.to_json())


def meta_train(
    config: Config,
    ratings: options.Folder,
    run: Annotated[Path, typer.Argument(help="Folder that the run shall be.")],
    format: options.Format = "table",
    train_groups: options.TrainGroups = None,
    test_groups: options.TestGroups = None,
    validation_groups: options.ValidationGroups = None,
    validation_users: options.ValidationUsers = 0,
    keep_leak: options.KeepLeak = False,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    mode: options.Mode = "head",
    overrides: options.Overrides = None,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    device: options.Device = "cpu",
    bf16: options.Bf16 = False,
    channels_last: options.ChannelsLast = False,
    threads: options.Threads = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    force: options.Force = False,
) -> None:
    """Meta-train a prior on the training users; start it with torchrun to spread tasks over processes."""
    torch.set_num_threads(threads)
    _check_resume(run, resume=resume, force=force)
    settings = load_config(config, overrides)
    dataset = read_data(format, ratings, scale)
    split = split_dataset(
        dataset,
        test_groups=test_groups,
        train_groups=train_groups,
        validation_groups=validation_groups,
        validation_users=validation_users,
        keep_leak=keep_leak,
        seed=seed,
    )
    workshop = make_workshop(mode, cache, weights, untrained, device, bf16, channels_last)
    with joined_ranks(torch.device(device)) as ranks:
        if ranks.is_first:
            _say_who_is_dropped(split, f"{dataset.report}\n\n{split}")
        with _saying_how_to_go_on(
            f"the same command with --resume goes on from the last checkpoint of {run}"
        ):
            train(
                settings,
                split,
                run,
                workshop,
                resume=resume,
                replace=force,
                ranks=ranks,
                report=options.show_training(settings) if ranks.is_first else None,
            )
        if ranks.is_first:
            options.say(f"wrote {run}; next: {_judge_command(run, ratings, split)}")


def judge(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    ratings: options.Folder,
    format: options.Format = "table",
    groups: options.Groups = None,
    part: Annotated[
        str, typer.Option(help="test, or the run's own validation users; of data sets with a split.")
    ] = "test",
    shots: options.Shots = [10, 100],  # noqa: B006
    repeats: options.Repeats = 50,
    control_repeats: options.ControlRepeats = None,
    users: options.Users = None,
    curve: options.Curve = False,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    rate: Annotated[
        float | None, typer.Option(help="Another learning rate of fine-tuning (alpha_f of eq. 11).")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    device: options.Device = "cpu",
    threads: options.Threads = 2,
    allow_seen: options.AllowSeen = False,
) -> None:
    """Judge a meta-learned prior on unseen people; data sets with a test split are judged on that."""
    torch.set_num_threads(threads)
    trained = Run.open(run)
    workshop = workshop_of_run(trained, cache, weights, untrained, device)
    dataset = read_data(format, ratings, scale, groups)
    table, data = _part(dataset, part, trained)
    judged = judge_run(
        trained,
        table,
        dataset.scale,
        workshop,
        Judging(shots, repeats, control_repeats, users, curve, seed),
        rate=rate,
        allow_seen=allow_seen,
        data=data,
        progress=options.show_progress("tasks"),
    )
    _print(curve_table([judged]) if curve else methods_table([judged]), [judged])
    if output is not None:
        options.write_json(output, judged.to_json())


def compare(
    evaluations: Annotated[list[Path], typer.Argument(help="JSON files that judge and evaluate wrote.")],
    baseline: Annotated[str | None, typer.Option(help="Method that the others are compared with.")] = None,
    shape: Annotated[str, typer.Option(help=f"Table: {', '.join(_SHAPES)}.")] = "methods",
    shots: Annotated[int, typer.Option(min=1, help="M, for the shapes crossed and grid.")] = 100,
    csv: Annotated[Path | None, typer.Option("--csv", help="File for the table as CSV.")] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="File for the figures, none of single users, as JSON."),
    ] = None,
) -> None:
    """Lay evaluations out as the paper's tables, with paired differences to a baseline."""
    if baseline is not None and shape != "methods":
        raise RatingError(f"--baseline is for the shape methods, not {shape}; leave one of the two out")
    found = [Evaluation.load(path) for path in evaluations]
    comparison = None if baseline is None else compare_methods(found, baseline)
    match shape:
        case "methods":
            table = methods_table(found, comparison)
        case "backbones":
            table = backbones_table(found)
        case "databases":
            table = databases_table(found)
        case "crossed":
            table = crossed_table(found, shots)
        case "curve":
            table = curve_table(found)
        case "grid":
            table = grid_table(found, shots)
        case _:
            raise ModelFormatError(f"shape is {shape!r}, must be one of {', '.join(_SHAPES)}")
    _print(table, found)
    if csv is not None:
        write_file(csv, table.to_csv())
    if json is not None:
        record = {"evaluations": [evaluation.summary() for evaluation in found]}
        differences = None if comparison is None else comparison.to_json()
        options.write_json(json, {**record, "comparison": differences})


def table(
    ratings: options.Folder,
    output: Annotated[Path, typer.Argument(help="Folder for runs, evaluations and tables.")],
    format: options.Format = "table",
    methods: Methods = None,
    train_groups: options.TrainGroups = None,
    test_groups: options.TestGroups = None,
    keep_leak: options.KeepLeak = False,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    mode: options.Mode = "head",
    overrides: options.Overrides = None,
    shots: options.Shots = [10, 100],  # noqa: B006
    repeats: options.Repeats = 50,
    control_repeats: options.ControlRepeats = None,
    users: options.Users = None,
    curve: options.Curve = False,
    train_on: options.TrainOn = None,
    train_format: options.TrainFormat = "flickr-aes",
    attributes: options.Attributes = None,
    attribute_weights: options.AttributeWeights = None,
    personality: options.Personality = None,
    personality_scale: options.PersonalityScale = None,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    device: options.Device = "cpu",
    bf16: options.Bf16 = False,
    channels_last: options.ChannelsLast = False,
    threads: options.Threads = 2,
) -> None:
    """Make Table I of a data set: train every method and judge all on the same people and splits.

    What is done already is not done again: a run that was interrupted goes on.
    """
    torch.set_num_threads(threads)
    configs = load_methods(methods or TABLE_METHODS, overrides or ())
    sources = _sources(attributes, attribute_weights, personality, personality_scale)
    if train_on is None:
        trained = tested = _split(ratings, format, scale, seed, train_groups, test_groups, keep_leak)
    else:
        trained = _split_to_train(train_on, train_format, scale, seed, train_groups, keep_leak)
        tested = _split_to_test(ratings, format, scale, seed, test_groups)
    told = str(trained) if trained is tested else f"train on:\n{trained}\n\ntest on:\n{tested}"
    _say_who_is_dropped(trained, told)
    workshop = make_workshop(mode, cache, weights, untrained, device, bf16, channels_last)
    with _saying_how_to_go_on():
        judged = judge_methods(
            configs,
            trained,
            tested,
            output,
            workshop,
            sources,
            how=Judging(shots, repeats, control_repeats, users, curve, seed),
            report=options.show_training,
            progress=options.show_progress,
            say=options.say,
        )
    _write_table(output, judged, overrides or (), is_curve=curve)


def _write_table(
    folder: Path, judged: Sequence[Evaluation], overrides: Sequence[str], *, is_curve: bool
) -> None:
    """Write and print Table I with the printed order, or a learning curve."""
    if is_curve:
        made, name, orders = curve_table(judged), "curve", []
    else:
        made, name = methods_table(judged, compare_to_baseline(judged), printed_cell), "table"
        orders = [Order.of(judged, shots) for shots in judged[0].conditions.shots]
        orders = [order for order in orders if order.pairs]
    notes = [f"Settings put on top of the shipped ones: {', '.join(overrides)}."] if overrides else []
    cells = [printed_cell(one.method, shots) for one in judged for shots in one.conditions.shots]
    if not is_curve and any(cells):
        notes += ["", NOTE, *map(str, orders)]
    text = "\n".join([_text(made, judged), *notes])
    write_file(folder / f"{name}.csv", made.to_csv())
    write_file(folder / f"{name}.md", text + "\n")
    for order in orders:
        write_file(folder / f"order-{order.shots}.csv", order.table().to_csv())
    typer.echo(text)


def grid(
    ratings: options.Folder,
    output: Annotated[Path, typer.Argument(help="Folder for runs, evaluations and the table.")],
    format: options.Format = "table",
    config: Annotated[str, typer.Option(help="Configuration whose settings are varied.")] = "blg_as_paper",
    train_groups: options.TrainGroups = None,
    test_groups: options.TestGroups = None,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    mode: options.Mode = "head",
    overrides: options.Overrides = None,
    levels: Annotated[
        list[str] | None,
        typer.Option(
            "--levels", help="m_s/m_q, for example 80/20; may be repeated. Fig. 5's six by default."
        ),
    ] = None,
    tasks: Annotated[list[int] | None, typer.Option("--tasks", help="k; may be repeated.")] = None,
    steps: Annotated[list[int] | None, typer.Option("--steps", help="S; may be repeated.")] = None,
    shots: Annotated[int, typer.Option(min=1, help="M.")] = 100,
    repeats: options.Repeats = 50,
    users: options.Users = None,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    device: options.Device = "cpu",
    threads: options.Threads = 2,
) -> None:
    """Make Fig. 5: the influence of m_s, m_q, k and S on Algorithm 1."""
    torch.set_num_threads(threads)
    split = _split(ratings, format, scale, seed, train_groups, test_groups, False)
    _say_who_is_dropped(split, str(split))
    workshop = make_workshop(mode, cache, weights, untrained, device)
    make_folder(output)
    with _saying_how_to_go_on():
        found = table_of_grid(
            GRID.over(levels, tasks, steps),
            lambda settings: load_config(config, [*(overrides or []), *settings]),
            split,
            output,
            workshop,
            how=Judging([shots], repeats, 0, users, seed=seed),
            report=options.show_training,
            progress=options.show_progress,
        )
    write_file(output / "grid.csv", found.to_csv())
    write_file(output / "grid.md", _text(found) + "\n")
    _print(found)


def load_config(name: str, overrides: list[str] | None) -> MetaConfig:
    """Read a configuration by the name it is shipped under, or from a file."""
    is_file = name.endswith(".toml") or Path(name).is_file()
    return MetaConfig.load(Path(name) if is_file else name, overrides or ())


def register(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command("data")(describe_data)
    app.command("meta-train")(meta_train)
    for command in (judge, compare, table, grid):
        app.command()(command)


def _sources(
    attributes: Path | None,
    weights: Path | None,
    personality: Path | None,
    scale: tuple[float, float] | None,
) -> Sources:
    """Return what compared systems are given; what is known of personalities is said."""
    source = load_attributes(attributes, weights)
    if personality is None:
        if scale is not None:
            raise RatingError("--personality-scale is that of labels; name their file with --personality")
        return Sources(source)
    known = read_personality(personality, None if scale is None else RatingScale(*scale))
    options.say(str(known))
    return Sources(source, known)


def _split(
    folder: Path,
    format: str,
    scale: tuple[float, float],
    seed: int,
    train_groups: list[str] | None,
    test_groups: list[str] | None,
    keep_leak: bool,
) -> Split:
    dataset = read_data(format, folder, scale)
    options.say(str(dataset.report))
    return split_dataset(
        dataset, train_groups=train_groups, test_groups=test_groups, keep_leak=keep_leak, seed=seed
    )


def _split_to_train(
    folder: Path,
    format: str,
    scale: tuple[float, float],
    seed: int,
    groups: list[str] | None,
    keep_leak: bool,
) -> Split:
    """Split a data set whose priors are judged elsewhere; of a table, everybody is trained on."""
    if format != TABLE:
        return _split(folder, format, scale, seed, groups, None, keep_leak)
    dataset = read_data(format, folder, scale)
    options.say(str(dataset.report))
    return train_on_all(dataset, groups=groups, seed=seed)


def _split_to_test(
    folder: Path, format: str, scale: tuple[float, float], seed: int, groups: list[str] | None
) -> Split:
    """Split a data set that is not trained on; of a table, everybody is tested on."""
    dataset = read_data(format, folder, scale)
    options.say(str(dataset.report))
    if format == TABLE and groups is None:
        groups = sorted(set(dataset.table.groups))
    return split_dataset(dataset, test_groups=groups, seed=seed)


def _part(dataset: Dataset, part: str, run: Run) -> tuple[RatingTable, str | None]:
    """Return who of a data set is judged, and what tables call the data."""
    if part not in ("test", "validation"):
        raise RatingError(f"part is {part!r}, must be test or validation")
    if part == "test":
        return people_to_judge(dataset), None if dataset.name == TABLE else dataset.name
    if dataset.name == TABLE:
        raise RatingError("the parts of a table are its groups; name those of the validation with --groups")
    return validation_part(run, dataset), f"{dataset.name} (validation)"


def _say_who_is_dropped(split: Split, text: str) -> None:
    """Say what a split is, and how many of its training users rated too little for a task."""
    options.say(text)
    if split.train is not None and (few := len(split.train.users) - count_people(split.train)):
        options.say(
            f"{few} of the {len(split.train.users)} training users have fewer than {LEAST_RATINGS} ratings "
            "and are no task"
        )


@contextlib.contextmanager
def _saying_how_to_go_on(
    how: str = "the same command goes on, with what is finished as it is",
) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        options.say(f"\nstopped; {how}")
        raise


def _check_resume(run: Path, *, resume: bool, force: bool) -> None:
    if resume and force:
        raise ModelFormatError("--resume goes on with a run and --force begins it anew; give one of them")
    if resume and not (run / RUN_NAME).exists():
        raise ModelNotFoundError(f"{run} holds no run to go on with; begin one by leaving out --resume")


def _judge_command(run: Path, ratings: Path, split: Split) -> str:
    given = ["--format", split.name]
    if split.name == TABLE:
        given = [part for group in sorted(set(split.test.groups)) for part in ("--groups", group)]
    return shlex.join(["python", "-m", "training", "judge", str(run), str(ratings), *given])


def _print(found: Table, judged: Sequence[Evaluation] = ()) -> None:
    typer.echo(_text(found, judged))


def _text(found: Table, judged: Sequence[Evaluation] = ()) -> str:
    """Return a table with its legend, and what has to be known of the methods in it."""
    return "\n".join([found.to_markdown(), "", *LEGEND, *remarks_on(judged)])
