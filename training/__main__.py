"""``python -m training``: fit the prior of a bundle, and judge a bundle on people it has never met."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from piaa_sdk.errors import OutputError, PiaaError
from piaa_sdk.files import write_atomically
from piaa_sdk.head import Prior
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.scorer import Scorer
from training import evaluation, kernel_prior
from training.checkpoints import save_checkpoint
from training.config import KernelPriorConfig
from training.data.ratings import RatingTable, read_rating_table

if TYPE_CHECKING:
    from piaa_sdk.bundle import ModelBundle

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Folder = Annotated[Path, typer.Argument(help="Folder with ratings.csv (user,image,score) and the images.")]
Groups = Annotated[
    list[str] | None,
    typer.Option("--groups", help="Group of users.csv to take; may be repeated. All by default."),
]
Scale = Annotated[tuple[float, float], typer.Option(help="The ends of the rating scale.")]
Threads = Annotated[
    int, typer.Option(min=1, help="Threads of torch; results may depend on it in the last bits.")
]


@app.command()
def fit(
    ratings: Folder,
    checkpoint: Annotated[Path, typer.Argument(help="Folder that the checkpoint shall be.")],
    groups: Groups = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; the embedded model's by default.")] = None,
    scale: Scale = (1, 7),
    cache: Annotated[Path, typer.Option(help="Folder that keeps the statistics of pictures.")] = Path(
        "runs/cache"
    ),
    force: Annotated[
        bool, typer.Option("--force", help="Replace a checkpoint that is there already.")
    ] = False,
    threads: Threads = 2,
) -> None:
    """Fit the closed-form prior to many people's ratings."""
    torch.set_num_threads(threads)
    settings = KernelPriorConfig.load(config)
    units = RatingScale(*scale)
    table = read_rating_table(ratings, groups, scale=units)
    _say(str(table))
    fitted = kernel_prior.fit(table, units, settings, cache=cache, progress=_progress("pictures"))
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
    _say(f"wrote {checkpoint}; next: python -m export build {checkpoint} BUNDLE")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    ratings: Folder,
    groups: Groups = None,
    shots: Annotated[
        list[int], typer.Option("--shots", min=2, help="Support pictures M; may be repeated.")
    ] = [10, 100],  # noqa: B006
    repeats: Annotated[int, typer.Option(min=1, help="Random support sets per person.")] = 10,
    scale: Scale = (1, 7),
    seed: Annotated[int, typer.Option(help="Of the support sets.")] = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Even if the bundle was trained on these people or pictures.")
    ] = False,
) -> None:
    """Judge a bundle: prior, personal and a shuffled-user control, on the same query pictures."""
    scorer = Scorer.from_pretrained(bundle)
    units = RatingScale(*scale)
    table = read_rating_table(ratings, groups, scale=units)
    _say(str(table))
    if not allow_seen:
        evaluation.check_unseen(scorer.bundle, table)
    prior = Prior.load(scorer.bundle.prior_path)
    results = evaluation.evaluate(
        prior,
        table,
        scorer.embed(table.paths()),
        units,
        shots=shots,
        repeats=repeats,
        seed=seed,
        progress=_progress("tasks"),
    )
    typer.echo(evaluation.to_markdown(results))
    if output is not None:
        record = _record(scorer.bundle, table, units, repeats, seed, allow_seen, evaluation.to_json(results))
        _write(output, record)


def _record(
    bundle: ModelBundle,
    table: RatingTable,
    scale: RatingScale,
    repeats: int,
    seed: int,
    allow_seen: bool,
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "data": table.folder.resolve().name,
        "groups": sorted(set(table.groups)),
        "users": len(table.users),
        "pictures": len(table.images),
        "ratings": len(table),
        "rating_scale": [scale.low, scale.high],
        "bundle_id": bundle.bundle_id,
        "bundle_revision": bundle.bundle_revision,
        "repeats": repeats,
        "seed": seed,
        "seen_allowed": allow_seen,
        "results": results,
    }


def _write(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=2, allow_nan=False, default=_plain) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot store {type(value).__name__}")


def _progress(what: str) -> Any:
    """Return what shows progress with the time left on a terminal, and nothing elsewhere."""
    begun = time.monotonic()

    def show(done: int, total: int) -> None:
        if not sys.stderr.isatty() or not total:
            return
        left = (time.monotonic() - begun) / max(done, 1) * (total - done)
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{done:,} of {total:,} {what}, {left:.0f} s left \x1b[K{end}")
        sys.stderr.flush()

    return show


def _say(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Run the program with the arguments it was started with."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app(prog_name="python -m training")
    except PiaaError as error:
        _say(f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
