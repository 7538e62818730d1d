"""Commands about what is stored: ``piaa users``, ``piaa model``, ``piaa cache``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from piaa_sdk.cli_options import (
    Again,
    Device,
    ExportFile,
    Force,
    Model,
    ModelName,
    NewName,
    Person,
    ProfileFile,
    ProfileOutput,
    Published,
    Replace,
    Whole,
    Yes,
)
from piaa_sdk.errors import PiaaError, ProfileNotFoundError
from piaa_sdk.terminal import count_of, display_width, size, tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.profiles import UserProfile

users = typer.Typer(no_args_is_help=True, help="See, share and delete what was learned about people.")
model = typer.Typer(no_args_is_help=True, help="See which model scores the photos.")
cache = typer.Typer(no_args_is_help=True, help="See or clear what piaa remembers of photos it has seen.")


@users.command("list", epilog="Example: piaa users list")
def list_users() -> None:
    """List the people whose taste was learned."""
    from piaa_sdk.images import printable
    from piaa_sdk.profiles import ProfileStore

    store = ProfileStore()
    rows = [("name", "photos", "scale", "learned")]
    for name in store.names():
        try:
            profile = store.load(name)
        except PiaaError as error:
            rows.append((printable(name), "?", "?", f"cannot be read: {error}"))
        else:
            learned = profile.created_at[:10]
            rows.append((printable(name), str(len(profile.support)), str(profile.scale), learned))
    if len(rows) > 1:
        tell(*_columns(rows))
    else:
        _say("nobody is stored yet; make a profile with: piaa personalize ratings.csv")


@users.command("show", epilog="Example: piaa users show mira")
def show_user(name: Person) -> None:
    """Show what was learned about one person, and how sure it is."""
    from piaa_sdk.explanations import describe_adaptation
    from piaa_sdk.profiles import ProfileStore

    store = ProfileStore()
    profile = store.load(name)
    tell(*_columns(_facts_of_profile(profile, store.backups(name))))
    if profile.adaptation is not None:
        tell("", *describe_adaptation(profile.adaptation, profile.kind))


@users.command("delete", epilog="Example: piaa users delete mira")
def delete_user(name: Person, yes: Yes = False) -> None:
    """Forget one person: the profile, the ratings in it and its backups. Photos are not touched."""
    from piaa_sdk.images import printable
    from piaa_sdk.profiles import ProfileStore

    store = ProfileStore()
    shown = printable(name)
    try:
        shots = f" and {count_of(len(store.load(name).support), 'rating')}"
    except ProfileNotFoundError:
        raise
    except PiaaError:  # a damaged profile must be possible to delete
        shots = ""
    if not yes:
        typer.confirm(f"Forget {shown}{shots} for good?", abort=True, err=True)
    store.delete(name)
    _say(f"forgot {shown}{shots}")


@users.command("export", epilog="Example: piaa users export mira mira.onnx")
def export_user(
    name: Person,
    file: ExportFile = None,
    output: ProfileOutput = None,
    model: Model = None,
    force: Force = False,
) -> None:
    """Write one person's taste to a file: for another computer, or as a graph for other programs.

    NAME.piaa, which another computer can import, holds the ratings and the names of the photos, not the
    photos and not their folders. NAME.onnx scores photos without piaa; it holds none of these.
    """
    from piaa_sdk.images import printable
    from piaa_sdk.profiles import ProfileStore

    if file is not None and output is not None:
        raise typer.BadParameter("name the file once", param_hint="--output")
    target = file or output or Path()
    if target.suffix.lower() == ".onnx" and not target.is_dir():
        _export_graph(name, target, model, force)
        return
    if model is not None:
        raise typer.BadParameter("only a file that ends in .onnx holds a model", param_hint="--model")
    path = ProfileStore().export_file(name, target, replace=force)
    shown = shlex.quote(printable(path.name))
    _say(f"wrote {printable(str(path))}; on the other computer: piaa users import {shown}")


@users.command("import", epilog="Example: piaa users import mira.piaa")
def import_user(file: ProfileFile, user: NewName = None, replace: Replace = False) -> None:
    """Take over one person's taste from a file."""
    from piaa_sdk.images import printable
    from piaa_sdk.profiles import ProfileStore

    profile = ProfileStore().import_file(file, user=user, replace=replace)
    shots = count_of(len(profile.support), "rating")
    _say(f"stored {printable(profile.user)} with {shots}, scale {profile.scale}")


@users.command("refit", epilog="Example: piaa users refit mira")
def refit_user(name: Person, model: Model = None, device: Device = "auto") -> None:
    """Learn one person again from the stored ratings, after the model has changed.

    The rated photos are needed only if the new model looks at photos in another way.
    """
    from piaa_sdk.explanations import describe_adaptation
    from piaa_sdk.images import printable
    from piaa_sdk.scorer import Scorer

    scorer = Scorer.from_pretrained(model, device=device).refit(name)
    if scorer.adaptation is not None:
        tell(*describe_adaptation(scorer.adaptation))
    _say(f"stored {printable(name)} for {scorer.bundle.bundle_id} {scorer.bundle.bundle_revision[:12]}")


@model.command("list", epilog="Example: piaa model list")
def list_models() -> None:
    """List the models that are there without a download."""
    from piaa_sdk.bundle import EMBEDDED_FOLDER, ModelBundle
    from piaa_sdk.hub import cached_bundles

    bundle = ModelBundle.load(EMBEDDED_FOLDER)
    rows = [("model", "revision", "size", "licence", "where")]
    own = (bundle.bundle_id, bundle.bundle_revision[:12], size(_size_of(bundle)), bundle.license)
    rows.append((*own, "comes with piaa"))
    for name, manifest, count in cached_bundles():
        rows.append(
            (name.repository, manifest.bundle_revision[:12], size(count), manifest.license, str(name))
        )
    tell(*_columns(rows))


@model.command("show", epilog="Example: piaa model show org/name")
def show_model(name: ModelName = None) -> None:
    """Show what a model is, and check that its files are whole."""
    from piaa_sdk.hub import load_bundle

    tell(*_columns(_facts_of_model(load_bundle(name))))


@model.command("download", epilog="Example: piaa model download org/name@v1")
def download_model(
    name: ModelName = None, user: Published = None, whole: Whole = False, force: Again = False
) -> None:
    """Make sure that a model is on this computer, so that it scores without a network.

    What is here already is checked, not fetched again, unless --force says so. The one that comes with
    piaa always is here.
    """
    from piaa_sdk.hub import load_bundle
    from piaa_sdk.images import printable
    from piaa_sdk.published_head import load_published
    from piaa_sdk.scorer import KIND

    bundle = load_bundle(name, is_whole=whole, force_download=force)
    for person in user or []:
        load_published(bundle, person, kind=KIND)
    shown = f"{bundle.bundle_id} {bundle.bundle_revision[:12]}"
    folder = printable(str(bundle.folder))
    if bundle.origin is None:
        _say(f"{shown} is here, nothing to download: {folder}")
        return
    _say(f"{shown} is here, licence {bundle.license}: {folder}")
    tell(f"To use exactly this one: --model {bundle.origin}")


@cache.command("show", epilog="Example: piaa cache show")
def show_cache() -> None:
    """Show how much piaa remembers of the photos it has seen, so that it need not open them again."""
    from piaa_sdk.embedding_cache import default_path, summarize
    from piaa_sdk.images import printable

    path = default_path()
    summary = summarize(path)
    rows = [
        ("file", printable(str(path))),
        ("size", f"{size(summary.bytes)} of at most {size(summary.limit)}"),
    ]
    if summary.problem is not None:
        rows.append(("problem", f"{summary.problem}; piaa cache clear removes it"))
    rows += [(f"model {name[:12]}", count_of(count, "photo")) for name, count in summary.embeddings.items()]
    tell(*_columns(rows))


@cache.command("clear", epilog="Example: piaa cache clear")
def clear_cache() -> None:
    """Forget all photos seen so far. Nothing is lost but time: they are opened again when they are scored."""
    from piaa_sdk.embedding_cache import clear, default_path

    _say(f"freed {size(clear(default_path()))}")


def _export_graph(name: str, target: Path, model: str | None, force: bool) -> None:
    from piaa_sdk.graphs import check_onnx
    from piaa_sdk.images import printable
    from piaa_sdk.scorer import Scorer

    check_onnx()
    scorer = Scorer.from_pretrained(model, user=name, cache=False)
    path = scorer.export_onnx(target, replace=force)
    side, shown = scorer.bundle.preprocessing.size, f"{printable(str(path))}, {size(path.stat().st_size)}"
    _say(f"wrote {shown}: photos of {side} x {side} pixels in, scores out")


def _facts_of_profile(profile: UserProfile, backups: Sequence[Path]) -> Iterator[tuple[str, str]]:
    from piaa_sdk.images import printable

    yield "name", printable(profile.user)
    yield "rated photos", str(len(profile.support))
    yield "scale", str(profile.scale)
    yield "learned", profile.created_at
    yield "learned by", profile.kind
    yield "model", f"{profile.bundle_id} {profile.bundle_revision[:12]}"
    if backups:
        yield "backups", "; ".join(printable(str(path)) for path in backups)


def _facts_of_model(bundle: ModelBundle) -> Iterator[tuple[str, str]]:
    from piaa_sdk.bundle import CARD_NAME
    from piaa_sdk.images import printable

    yield "model", bundle.bundle_id
    yield "revision", bundle.bundle_revision
    yield "embedding", f"{bundle.embedding_dim} numbers, {bundle.embedding_id}"
    yield "scale", str(bundle.rating_scale)
    yield "licence", bundle.license
    yield "folder", printable(str(bundle.folder))
    if bundle.origin is not None:
        yield "from the Hub", bundle.origin
    if CARD_NAME in bundle.checked:
        yield "about it", printable(str(bundle.folder / CARD_NAME))
    for name, checksum in sorted(bundle.checksums.items()):
        if name in bundle.checked:
            yield name, f"{size((bundle.folder / name).stat().st_size)}, sha256 {checksum[:12]}"
        else:
            yield name, f"not fetched, sha256 {checksum[:12]}"


def _size_of(bundle: ModelBundle) -> int:
    return sum((bundle.folder / name).stat().st_size for name in bundle.checksums)


def _columns(rows: Sequence[tuple[str, ...]] | Iterator[tuple[str, ...]]) -> list[str]:
    """Lay texts out in columns; the last one may be as long as it likes."""
    rows = list(rows)
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    padded = [
        [cell + " " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        for row in rows
    ]
    return ["  ".join(row).rstrip() for row in padded]


def _say(text: str) -> None:
    typer.echo(text, err=True)
