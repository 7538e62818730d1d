"""The commands of ``python -m training`` that look into adaptation: curves of errors, and gradient maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from piaa_sdk.errors import ModelFormatError
from training import cli_options as options
from training import figure_commands
from training.adaptation_trace import AdaptationTrace, trace_adaptation
from training.command_inputs import people_to_judge, read_data, workshop_of_run
from training.experiment import load_personalizer
from training.figures.gradients import LAYOUTS, SCALINGS, draw_gradients
from training.figures.losses import MEASURES, draw_losses
from training.gradient_mapping import Wanted, map_gradients
from training.gradient_maps import KINDS, WholeNetwork
from training.gradient_record import GradientMaps
from training.published import check_unseen, facts_of
from training.runs import Run

if TYPE_CHECKING:
    from training.meta_config import MetaConfig

RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
OneShots = Annotated[int, typer.Option("--shots", min=2, help="Support pictures M.")]


def trace(
    run: RunFolder,
    ratings: options.Folder,
    output: Annotated[Path, typer.Argument(help="JSON file for the curves.")],
    format: options.Format = "table",
    groups: options.Groups = None,
    shots: OneShots = 100,
    users: Annotated[int, typer.Option(min=1, help="People, drawn by the seed.")] = 4,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of fine-tuning; the run's by default.")
    ] = None,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    device: options.Device = "cpu",
    threads: options.Threads = 2,
    allow_seen: options.AllowSeen = False,
) -> None:
    """Measure users' errors on support and query after each epoch of fine-tuning (Fig. 9)."""
    torch.set_num_threads(threads)
    trained = Run.open(run)
    config = _with_epochs(trained.config, epochs)
    dataset = read_data(format, ratings, scale, groups)
    table = people_to_judge(dataset)
    if not allow_seen:
        check_unseen(trained, table)
    workshop = workshop_of_run(trained, cache, weights, untrained, device)
    personalizer = load_personalizer(trained, table, dataset.scale, workshop, config=config)
    found = trace_adaptation(
        personalizer,
        table,
        dataset.scale,
        shots=shots,
        users=users,
        seed=seed,
        facts=_facts(trained, config, allow_seen=allow_seen),
        progress=options.show_progress("users"),
    )
    options.write_json(output, found.to_json())
    options.say(f"wrote {output}; next: python -m training figure losses {output} FIGURE")


def gradient_maps(
    run: RunFolder,
    ratings: options.Folder,
    output: Annotated[Path, typer.Argument(help="Safetensors file for pictures and maps.")],
    format: options.Format = "table",
    groups: options.Groups = None,
    shots: OneShots = 100,
    users: Annotated[int, typer.Option(min=1, help="People, drawn by the seed.")] = 3,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures, drawn by the seed.")] = 4,
    photos: Annotated[
        Path | None, typer.Option(help="Folder to take the pictures from, by their names, not the data set.")
    ] = None,
    epochs: Annotated[str, typer.Option(help="After which epochs of fine-tuning.")] = "0,5,10,20",
    kind: Annotated[str, typer.Option(help=f"Of gradients: {' or '.join(KINDS)}.")] = "plain",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Adapt networks with random layers too (Fig. 10).")
    ] = False,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    device: options.Device = "cpu",
    threads: options.Threads = 2,
    allow_seen: options.AllowSeen = False,
) -> None:
    """Map which pixels scores hang on, for the prior and for users' networks (Figs. 7, 8 and 10)."""
    torch.set_num_threads(threads)
    if kind not in KINDS:
        raise ModelFormatError(f"kind is {kind!r}, must be {' or '.join(KINDS)}")
    wanted = Wanted(shots, users, pictures, _numbers(epochs), kind, from_scratch, seed)
    trained = Run.open(run)
    config = _with_epochs(trained.config, max(wanted.epochs))
    dataset = read_data(format, ratings, scale, groups)
    table = people_to_judge(dataset)
    if not allow_seen:
        check_unseen(trained, table)
    workshop = workshop_of_run(trained, cache, weights, untrained, device)
    personalizer = load_personalizer(trained, table, dataset.scale, workshop, config=config)
    found = map_gradients(
        personalizer,
        WholeNetwork.of(personalizer, config, workshop),
        table,
        dataset.scale,
        wanted,
        photos=photos,
        facts=_facts(trained, config, allow_seen=allow_seen),
        say=options.say,
    )
    found.save(output)
    options.say(f"wrote {output}; next: python -m training figure gradients {output} FIGURE")


def draw_losses_of_trace(
    stored: Annotated[Path, typer.Argument(help="JSON file that trace wrote.")],
    output: figure_commands.Output,
    measure: Annotated[str, typer.Option(help=f"On the y axis: {' or '.join(MEASURES)}.")] = "error",
) -> None:
    """Fig. 9: users' errors on support and query over the epochs of fine-tuning."""
    figure_commands.save_figure(draw_losses(AdaptationTrace.load(stored), measure), output)


def draw_gradient_maps(
    stored: Annotated[Path, typer.Argument(help="Safetensors file that gradient-maps wrote.")],
    output: figure_commands.Output,
    layout: Annotated[str, typer.Option(help=f"{', '.join(LAYOUTS)}.")] = "pictures",
    user: Annotated[int, typer.Option(min=1, help="Whose maps, of the layout pictures.")] = 1,
    picture: Annotated[int, typer.Option(min=1, help="Of which picture, of the other layouts.")] = 1,
    scaling: Annotated[
        str | None,
        typer.Option(
            help=f"Of the colours: {' or '.join(SCALINGS)}; by default each for scratch, else shared."
        ),
    ] = None,
) -> None:
    """Figs. 7, 8 and 10: pictures, and the gradient maps of the prior and of users' networks."""
    found = GradientMaps.load(stored)
    figure_commands.save_figure(
        draw_gradients(found, layout, user=user, picture=picture, scaling=scaling), output
    )


def register(app: typer.Typer) -> None:
    """Add the commands to a program, and the figures to ``figure``."""
    app.command()(trace)
    app.command("gradient-maps")(gradient_maps)
    figure_commands.app.command("losses")(draw_losses_of_trace)
    figure_commands.app.command("gradients")(draw_gradient_maps)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ModelFormatError(
            f"epochs are {text!r}, must be whole numbers with commas between them, for example 0,5,10,20"
        ) from error


def _with_epochs(config: MetaConfig, epochs: int | None) -> MetaConfig:
    """Return a run's settings with another number of epochs to a user, if it takes any."""
    if epochs is None or config.learner == "closed_form":
        return config
    return replace(config, fine_tuning=replace(config.fine_tuning, epochs=epochs))


def _facts(run: Run, config: MetaConfig, *, allow_seen: bool) -> dict[str, Any]:
    return {
        **facts_of(run, config),
        "fine_tuning_epochs": config.fine_tuning.epochs,
        "seen_allowed": allow_seen,
    }
