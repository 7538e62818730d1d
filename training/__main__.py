"""``python -m training``: learn priors from many people, and judge them on people they have never met."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from piaa_sdk.choices import Method
from piaa_sdk.errors import ImageError, PiaaError
from piaa_sdk.fine_tuned import FineTuneOptions
from piaa_sdk.head import Prior
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.scorer import Scorer
from training import (
    active_commands,
    attribute_commands,
    evaluation,
    figure_commands,
    gradient_commands,
    kernel_prior,
    meta_commands,
    score_commands,
)
from training import cli_options as options
from training.checkpoints import save_checkpoint
from training.data.ratings import read_rating_table
from training.kernel_config import KernelPriorConfig
from training.network_personalizer import NetworkPersonalizer
from training.personalizers import KernelPersonalizer, Personalizer
from training.tables import one_method

if TYPE_CHECKING:
    from piaa_sdk.bundle import ModelBundle

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def fit(
    ratings: options.Folder,
    checkpoint: Annotated[Path, typer.Argument(help="Folder that the checkpoint shall be.")],
    groups: options.Groups = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; the embedded model's by default.")] = None,
    scale: options.Scale = (1, 7),
    cache: options.Cache = options.DEFAULT_CACHE,
    force: options.Force = False,
    threads: options.Threads = 2,
) -> None:
    """Fit the closed-form prior to many people's ratings."""
    torch.set_num_threads(threads)
    settings = KernelPriorConfig.load(config)
    units = RatingScale(*scale)
    table = read_rating_table(ratings, groups, scale=units)
    options.say(str(table))
    fitted = kernel_prior.fit(table, units, settings, cache=cache, progress=options.show_progress("pictures"))
    run = {
        "learner": "kernel_prior",
        "configuration": settings.source,
        "rating_scale": [units.low, units.high],
        "preprocessing": settings.preprocessing.to_json(),
        "data": {"groups": sorted(set(table.groups)), "reading": asdict(table.report), "ratings": len(table)},
        "people": table.person_digests(),
        "pictures": table.picture_digests(),
        "figures": {"ridge_strength": fitted.strength, "generic_squared_error": fitted.generic_error},
    }
    save_checkpoint(checkpoint, fitted.network, fitted.prior.to_tensors(), run, replace=force)
    options.say(f"wrote {checkpoint}; next: python -m export build {checkpoint} BUNDLE")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    ratings: options.Folder,
    groups: options.Groups = None,
    shots: Annotated[
        list[int], typer.Option("--shots", min=2, help="Support pictures M; may be repeated.")
    ] = [10, 100],  # noqa: B006
    repeats: options.Repeats = 10,
    scale: options.Scale = (1, 7),
    curve: options.Curve = False,
    seed: options.Seed = 0,
    users: options.Users = None,
    control_repeats: options.ControlRepeats = None,
    method: Annotated[
        Method, typer.Option(help="closed-form, or finetune: the whole network for every person.")
    ] = Method.CLOSED_FORM,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of fine-tuning.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="alpha_f of fine-tuning.")] = None,
    threads: options.Threads = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    allow_seen: options.AllowSeen = False,
) -> None:
    """Judge a bundle: prior, personal and a shuffled-user control, on the same query pictures."""
    torch.set_num_threads(threads)
    scorer = Scorer.from_pretrained(bundle)
    units = RatingScale(*scale)
    table = read_rating_table(ratings, groups, scale=units)
    options.say(str(table))
    if not allow_seen:
        evaluation.check_unseen(scorer.bundle, table)
    prior = Prior.load(scorer.bundle.prior_path)
    closed_form = KernelPersonalizer("closed form", prior, scorer.embed(table.paths()))
    personalizer: Personalizer = closed_form
    if method is not Method.CLOSED_FORM:
        chosen = FineTuneOptions(epochs=epochs, learning_rate=learning_rate)
        personalizer = NetworkPersonalizer.of(scorer.bundle, prior, closed_form, table.paths(), chosen)
    judged = evaluation.evaluate(
        personalizer,
        table,
        units,
        shots=shots,
        repeats=repeats,
        curve=curve,
        seed=seed,
        users=users,
        control_repeats=control_repeats,
        progress=options.show_progress("tasks"),
    )
    typer.echo(one_method(judged))
    if isinstance(personalizer, NetworkPersonalizer):
        typer.echo(personalizer.time_line())
    if output is not None:
        options.write_json(output, judged.to_json() | _which(scorer.bundle, allow_seen))


def _which(bundle: ModelBundle, allow_seen: bool) -> dict[str, Any]:
    return {
        "bundle_id": bundle.bundle_id,
        "bundle_revision": bundle.bundle_revision,
        "seen_allowed": allow_seen,
    }


meta_commands.register(app)
active_commands.register(app)
attribute_commands.register(app)
figure_commands.register(app)
gradient_commands.register(app)
score_commands.register(app)


_IMAGE_REMEDY = (
    "put a whole picture in its place; a rated one may be taken out of its folder, its ratings are left out"
)


def main() -> None:
    """Run the program with the arguments it was started with."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app(prog_name="python -m training")
    except PiaaError as error:
        remedy = f"; {_IMAGE_REMEDY}" if isinstance(error, ImageError) else ""
        options.say(f"error: {' '.join(str(error).split())}{remedy}")
        sys.exit(1)


if __name__ == "__main__":
    main()
