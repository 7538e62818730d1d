"""``python -m training scores``: what one method makes of one user, picture by picture."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from piaa_sdk.bundle import CONFIG_NAME
from piaa_sdk.errors import ModelNotFoundError
from piaa_sdk.head import Prior
from piaa_sdk.scorer import Scorer
from training import cli_options as options
from training import evaluation, published
from training.command_inputs import people_to_judge, read_data, workshop_of_run
from training.data.datasets import TABLE
from training.experiment import load_personalizer
from training.personalizers import KernelPersonalizer, Personalizer
from training.runs import RUN_NAME, Run
from training.user_scores import score_user

if TYPE_CHECKING:
    from training.data.ratings import RatingTable


def scores(
    model: Annotated[
        Path,
        typer.Argument(
            help="Folder of a bundle or of a finished run, such as one in the folder that table wrote. "
            "Compared systems (FPMF, PAM, USAR, PA_IAA) keep no model."
        ),
    ],
    ratings: options.Folder,
    output: Annotated[Path, typer.Argument(help="JSON file for the scores; of a single person.")],
    user: Annotated[int, typer.Option(min=1, help="Number of the user among those judged, by name.")] = 1,
    format: options.Format = TABLE,
    groups: options.Groups = None,
    shots: Annotated[int, typer.Option(min=2, help="Support pictures M.")] = 100,
    repeat: Annotated[int, typer.Option(min=0, help="Which of the random support sets.")] = 0,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    device: options.Device = "cpu",
    threads: options.Threads = 2,
    allow_seen: options.AllowSeen = False,
) -> None:
    """Store one user's ratings and a method's scores of the same pictures, for the figure examples."""
    _check_model(model)
    torch.set_num_threads(threads)
    dataset = read_data(format, ratings, scale, groups)
    table = people_to_judge(dataset)
    if (model / RUN_NAME).exists():
        run = Run.open(model)
        if not allow_seen:
            published.check_unseen(run, table)
        how = workshop_of_run(run, cache, weights, untrained, device)
        personalizer: Personalizer = load_personalizer(run, table, dataset.scale, how)
    else:
        personalizer = _of_bundle(model, table, allow_seen=allow_seen)
    found = score_user(
        personalizer, table, dataset.scale, user=user - 1, shots=shots, repeat=repeat, seed=seed
    )
    options.write_json(output, found.to_json())
    options.say(
        f"wrote {output}; next, with OTHER of another method: python -m training figure examples {output} "
        f"OTHER {ratings} OUTPUT"
    )


def register(program: typer.Typer) -> None:
    """Add the command to a program."""
    program.command()(scores)


def _check_model(place: Path) -> None:
    """Refuse a file, and a folder with neither a run nor a bundle in it; runs beside or below are named.

    Raises:
        ModelNotFoundError: It is one.
    """
    if not place.exists() or any((place / name).exists() for name in (RUN_NAME, CONFIG_NAME)):
        return
    folder = place if place.is_dir() else place.parent
    runs = sorted(str(found.parent) for found in folder.glob(f"*/{RUN_NAME}"))
    given = f"one of {', '.join(runs)}" if runs else "of a run or of a bundle"
    raise ModelNotFoundError(
        f"{place} is neither a run ({RUN_NAME}) nor a bundle ({CONFIG_NAME}). Compared systems (FPMF, PAM, "
        "USAR, PA_IAA) keep no model and cannot be asked for scores; of any other method give the folder: "
        f"{given}"
    )


def _of_bundle(folder: Path, table: RatingTable, *, allow_seen: bool) -> KernelPersonalizer:
    scorer = Scorer.from_pretrained(folder)
    if not allow_seen:
        evaluation.check_unseen(scorer.bundle, table)
    return KernelPersonalizer(
        "closed form", Prior.load(scorer.bundle.prior_path), scorer.embed(table.paths())
    )
