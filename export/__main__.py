"""``python -m export``: write a bundle folder from what was trained, check it, lighten it, publish it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from export.bundle_writer import Making, keep_facts, read_json, stored_facts, write_bundle, write_card
from export.check_record import RECORD_NAME, write_failed, write_passed
from export.checking import Checked, check_bundle
from export.model_card import CardFacts
from export.publish import describe, make_plan
from export.quantize import LARGEST_LOSS, VARIANT_FILES, RatedSet, write_variants
from export.torch_model import torch_model_of
from export.trained import open_torch_model, open_trained
from piaa_sdk.bundle import CONFIG_NAME, ModelBundle
from piaa_sdk.errors import ImageError, ModelError, ModelFormatError, PiaaError
from piaa_sdk.hub import publish as publish_upload
from piaa_sdk.images.files import find_files
from piaa_sdk.rating_scale import RatingScale
from training import cli_options as options
from training.data.datasets import TABLE, read_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from export.parity import Parity
    from export.torch_model import TorchModel
    from training.data.dataset import Dataset

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Bundle = Annotated[Path, typer.Argument(help="Folder of the bundle.")]
Photos = Annotated[
    list[Path] | None,
    typer.Option("--photos", help="Photo or folder to compare torch and ONNX on as well; may be repeated."),
]
Ratings = Annotated[
    Path | None, typer.Option("--ratings", help="Folder with ratings and images: SROCC is compared on them.")
]
CardData = Annotated[
    Path | None,
    typer.Option(help="JSON file of what the model card tells; by default what the bundle keeps of it."),
]
Metrics = Annotated[
    list[Path] | None,
    typer.Option("--metrics", help="JSON file of `python -m training evaluate` or `judge`; may be repeated."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


@app.command()
def build(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of `training fit`, or of `meta-train`.")],
    out: Annotated[Path, typer.Argument(help="Folder that the bundle shall be.")],
    metrics: Metrics = None,
    card_data: CardData = None,
    photos: Photos = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data of the run: a meta-learned prior's kernels are measured on them."),
    ] = None,
    format: options.Format = TABLE,
    groups: options.Groups = None,
    weights: Annotated[
        Path | None, typer.Option(help="File of the frozen backbone's weights, if the run began with one.")
    ] = None,
    bundle_id: Annotated[str, typer.Option(help="Name of the bundle; backbone and learner by default.")] = "",
    license: Annotated[str, typer.Option(help="SPDX name of the weights' licence, if it is known.")] = "",
    golden: Annotated[
        int | None, typer.Option(min=1, help="Golden pictures to put in; all by default.")
    ] = None,
    torch_weights: Annotated[
        bool | None,
        typer.Option(
            "--torch-weights/--no-torch-weights",
            help="Put model.safetensors in; by default where the graphs do not hold all of it.",
        ),
    ] = None,
    max_size: Annotated[
        float | None, typer.Option(min=0, help="MB that the bundle may have; no limit by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    threads: Threads = 2,
) -> None:
    """Write a bundle folder, after torch and ONNX were found to agree."""
    torch.set_num_threads(threads)
    records = [read_json(path) for path in metrics or []]
    facts = CardFacts() if card_data is None else CardFacts.load(card_data)
    found = _photo_paths(photos or [])
    pictures = found if data is None else _rated(data, format, groups, None).table.paths()
    report = write_bundle(
        open_trained(checkpoint, pictures=pictures, weights=weights),
        out,
        records=records,
        facts=facts,
        photos=found,
        making=Making(
            bundle_id=bundle_id,
            license=license,
            golden=golden,
            torch_weights=torch_weights,
            max_bytes=None if max_size is None else round(max_size * 1e6),
            replace=force,
        ),
    )
    _tell_parity(report.parity)
    typer.echo(
        f"{out}: {report.bundle.bundle_id} {report.bundle.bundle_revision[:12]}, {report.size / 1e6:.1f} MB"
    )


@app.command()
def check(
    bundle: Bundle,
    checkpoint: Annotated[
        Path | None, typer.Option(help="What it was made from; by default the weights in the bundle.")
    ] = None,
    photos: Photos = None,
    ratings: Ratings = None,
    format: options.Format = TABLE,
    groups: options.Groups = None,
    scale: Annotated[
        tuple[float, float] | None, typer.Option(help="The ends of the rating scale, for tables.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="File of the frozen backbone's weights, if the run began with one.")
    ] = None,
    threads: Threads = 2,
) -> None:
    """Compare torch, ONNX and SDK on real pictures; only what passes in full can be published.

    A full check is one on --ratings: that SROCC stays the same is part of it.
    """
    torch.set_num_threads(threads)
    paths = _photo_paths(photos or [])
    table = None if ratings is None else _rated(ratings, format, groups, scale).table
    loaded = _loaded(bundle)
    typer.echo(f"files: {len(loaded.checksums)} as listed, revision {loaded.bundle_revision[:12]}")
    model = _model(loaded, checkpoint, weights)
    try:
        checked = check_bundle(
            loaded, model, paths, table, progress=options.show_progress("pictures in torch and ONNX")
        )
    except ModelError:  # a golden score is another one, or a graph does not run
        write_failed(bundle, loaded.bundle_revision, {})
        raise
    _tell_checked(checked)
    if checked.wrong:
        write_failed(bundle, loaded.bundle_revision, checked.figures)
        checked.raise_if_wrong()
    if checked.missing:
        for part in checked.missing:
            options.say(f"not a full check, nothing is recorded: it lacks {part}")
        return
    write_passed(bundle, loaded.bundle_revision, checked.figures)
    typer.echo(f"passed: {RECORD_NAME} says so, publishing asks for it")


@app.command()
def card(
    bundle: Bundle,
    card_data: CardData = None,
    metrics: Metrics = None,
    run: Annotated[Path | None, typer.Option(help="run.json of what was trained, if it is there.")] = None,
) -> None:
    """Write a bundle's model card again.

    Of other files only metrics.json changes, which keeps what the card tells, and config.json, which lists
    checksums.
    """
    loaded = ModelBundle.load(bundle)
    facts = _facts(bundle, card_data)
    config = read_json(bundle / CONFIG_NAME)
    config.pop("files")
    records = None if metrics is None else [read_json(path) for path in metrics]
    measured = keep_facts(bundle, facts, records)
    write_card(bundle, config, {} if run is None else read_json(run), measured, facts)
    again = ModelBundle.load(bundle)
    typer.echo(f"{bundle}: revision {loaded.bundle_revision[:12]} became {again.bundle_revision[:12]}")


@app.command()
def quantize(
    bundle: Bundle,
    out: Annotated[
        Path | None, typer.Argument(help="Folder of the bundle with variants; or give --in-place.")
    ] = None,
    photos: Photos = None,
    ratings: Ratings = None,
    format: options.Format = TABLE,
    groups: options.Groups = None,
    scale: Annotated[
        tuple[float, float] | None, typer.Option(help="The ends of the rating scale, for tables.")
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", help=f"{' or '.join(VARIANT_FILES)}; may be repeated. Both by default."),
    ] = None,
    card_data: CardData = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Put the variants into the bundle.")] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help=f"Even if more than {LARGEST_LOSS} SROCC is lost, or it is not known."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
) -> None:
    """Add lighter variants of the backbone, with their size, speed and cost in SROCC."""
    if (out is None) != in_place:
        raise typer.BadParameter("give either a folder OUT or --in-place")
    rated = None
    if ratings is not None:
        dataset = _rated(ratings, format, groups, scale)
        rated = RatedSet(dataset.table, dataset.scale)
    write_variants(
        ModelBundle.load(bundle),
        bundle if out is None else out,
        _photo_paths(photos or []),
        rated,
        _facts(bundle, card_data),
        names=variants or tuple(VARIANT_FILES),
        accept_loss=accept_loss,
        replace=in_place or force,
        report=typer.echo,
    )


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
        app(prog_name="python -m export")
    except PiaaError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


def _facts(bundle: Path, card_data: Path | None) -> CardFacts:
    return stored_facts(bundle) if card_data is None else CardFacts.load(card_data)


def _loaded(folder: Path) -> ModelBundle:
    """Open a bundle; of a damaged one no earlier check may stand."""
    try:
        return ModelBundle.load(folder)
    except ModelFormatError:
        write_failed(folder, "", {})
        raise


def _model(bundle: ModelBundle, checkpoint: Path | None, weights: Path | None) -> TorchModel | None:
    if checkpoint is not None:
        return open_torch_model(checkpoint, weights=weights)
    try:
        return torch_model_of(bundle)
    except ModelFormatError as error:
        options.say(f"torch: {error}")
        return None


def _tell_parity(parity: Parity) -> None:
    typer.echo(
        f"torch and ONNX on {parity.pictures} pictures: embeddings differ by at most {parity.embedding:.2g} "
        f"of their norm, scores by {parity.score:.2g} rating units"
    )


def _tell_checked(checked: Checked) -> None:
    figures = checked.figures
    typer.echo(f"golden scores: largest difference {figures['golden_score']:.4f} rating units")
    if "pictures" in figures:
        typer.echo(
            f"torch and ONNX on {figures['pictures']:.0f} pictures: embeddings differ by at most "
            f"{figures['onnx_embedding']:.2g} of their norm, scores by {figures['onnx_score']:.2g} rating "
            "units"
        )
        typer.echo(f"torch and SDK: scores differ by at most {figures['sdk_score']:.2g} rating units")
    if "users" in figures:
        typer.echo(
            f"SROCC of {figures['users']:.0f} users, mean {figures['srocc']:.4f} by torch: ONNX differs by "
            f"at most {figures['onnx_srocc']:.2g}, the SDK on the same embeddings by at most "
            f"{figures['sdk_srocc']:.2g}; rounding them to float16 moves it by "
            f"{figures['sdk_srocc_rounding']:.2g} in the mean"
        )


def _rated(folder: Path, format: str, groups: list[str] | None, scale: tuple[float, float] | None) -> Dataset:
    units = None if scale is None else RatingScale(*scale)
    return read_dataset(format, folder, scale=units, groups=groups)


def _photo_paths(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in find_files(paths):
        if isinstance(path, ImageError):
            raise path
        found.append(path)
    return found


if __name__ == "__main__":
    main()
