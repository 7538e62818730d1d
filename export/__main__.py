"""``python -m export``: write a bundle folder from a checkpoint, check one again, and publish it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from export.bundle_writer import HEAD_NAME, read_pictures, write_bundle
from export.golden import compare_golden
from export.model_card import CardFacts
from export.parity import Parity, measure_parity
from export.publish import describe, make_plan
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ImageError, ModelFormatError, PiaaError
from piaa_sdk.head import Prior
from piaa_sdk.hub import publish as publish_upload
from piaa_sdk.images import find_images
from training.checkpoints import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Photos = Annotated[
    list[Path] | None,
    typer.Option("--photos", help="Photo or folder to compare torch and ONNX on as well; may be repeated."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


@app.command()
def build(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint.")],
    out: Annotated[Path, typer.Argument(help="Folder that the bundle shall be.")],
    metrics: Annotated[
        list[Path] | None,
        typer.Option("--metrics", help="JSON file of `python -m training evaluate`; may be repeated."),
    ] = None,
    card_data: Annotated[Path | None, typer.Option(help="JSON file of what the model card tells.")] = None,
    photos: Photos = None,
    golden: Annotated[
        int | None, typer.Option(min=1, help="Golden pictures to put in; all by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    threads: Threads = 2,
) -> None:
    """Write a bundle folder, after torch and ONNX were found to agree."""
    torch.set_num_threads(threads)
    report = write_bundle(
        load_checkpoint(checkpoint),
        out,
        records=[_read_json(path) for path in metrics or []],
        facts=CardFacts() if card_data is None else CardFacts.load(card_data),
        photos=_photo_paths(photos or []),
        golden=golden,
        replace=force,
    )
    _tell_parity(report.parity)
    typer.echo(
        f"{out}: {report.bundle.bundle_id} {report.bundle.bundle_revision[:12]}, {report.size / 1e6:.1f} MB"
    )


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint it was made from: compares torch and ONNX again.")
    ] = None,
    photos: Photos = None,
    threads: Threads = 2,
) -> None:
    """Check a bundle's files and golden scores, and against its checkpoint if that is given."""
    torch.set_num_threads(threads)
    loaded = ModelBundle.load(bundle)
    typer.echo(f"files: {len(loaded.checksums)} as listed, revision {loaded.bundle_revision[:12]}")
    typer.echo(f"golden scores: largest difference {compare_golden(loaded):.4f} rating units")
    if checkpoint is None:
        return
    names = [loaded.folder / name for name in sorted(loaded.checksums) if name.startswith("golden/")]
    parity = measure_parity(
        load_checkpoint(checkpoint).network(),
        Prior.load(loaded.prior_path),
        loaded.rating_scale,
        loaded.backbone_path,
        loaded.path(HEAD_NAME),
        read_pictures([*names, *_photo_paths(photos or [])], loaded.preprocessing),
    )
    _tell_parity(parity)
    parity.check()


@app.command()
def publish(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle that has passed its check.")],
    repo_id: Annotated[str, typer.Argument(help="Where to on the Hugging Face Hub: org/name.")],
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user", help="Stored person whose head goes up too; may be repeated. None by default."
        ),
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Who may read a repository that is made, its owners or everybody. Private by default.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, made if it is not there. main by default.")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of changing the branch.")
    ] = False,
    tag: Annotated[str | None, typer.Option(help="Name to give the commit, such as v1.")] = None,
    message: Annotated[str | None, typer.Option(help="First line of the commit.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go up, and send nothing.")
    ] = False,
) -> None:
    """Put a bundle on the Hugging Face Hub in one commit, after it has passed its check.

    Log in with: hf auth login. Of people nothing goes up but what --user asks for.
    """
    if tag is not None and create_pr:
        raise typer.BadParameter("a pull request is no commit yet that a tag can name", param_hint="--tag")
    plan = make_plan(bundle, user or [])
    for line in describe(plan):
        typer.echo(line)
    if dry_run:
        typer.echo("nothing was sent")
        return
    made = publish_upload(
        plan.upload,
        repo_id,
        private=private,
        revision=revision,
        create_pr=create_pr,
        tag=tag,
        commit_message=message,
    )
    typer.echo(f"published: {made.url}")
    if not create_pr:
        typer.echo(f"score with it: piaa score PHOTOS --model {repo_id}@{tag or made.commit}")


def main() -> None:
    """Run the command line; a :class:`PiaaError` is one line on stderr and exit code 1."""
    try:
        app()
    except PiaaError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _tell_parity(parity: Parity) -> None:
    typer.echo(
        f"torch and ONNX on {parity.pictures} pictures: embeddings differ by at most {parity.embedding:.2g} "
        f"of their norm, scores by {parity.score:.2g} rating units"
    )


def _photo_paths(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in find_images(paths):
        if isinstance(path, ImageError):
            raise path
        found.append(path)
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        # What could not be measured is NaN in Python's JSON, which is none; null is what others can read.
        content = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFormatError(f"{path} must hold a JSON object")
    return content


if __name__ == "__main__":
    main()
