"""``python -m export``: write a bundle folder from a checkpoint, and check one again."""

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
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ImageError, ModelFormatError, PiaaError
from piaa_sdk.head import Prior
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
