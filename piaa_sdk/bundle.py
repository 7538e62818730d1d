"""The bundle: a folder with everything that scoring needs, checked before it is used.

::

    config.json                what it is, and size and SHA-256 of every other file
    preprocessor_config.json   how a picture becomes pixels
    onnx/backbone.onnx         pixels -> embedding
    prior.safetensors          what adaptation starts from
    golden.json                which scores the pictures in golden/ must get (optional)
    README.md                  the model card (optional)

The folder is the same in the wheel, on disk and on the Hub. Files that ``config.json`` does not list are
never opened. What it says itself is read in :mod:`piaa_sdk.manifest`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk import __version__
from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, OutputError, RatingError
from piaa_sdk.files import read_regular_file, write_atomically
from piaa_sdk.hub_cache import download_command
from piaa_sdk.manifest import (
    BACKBONE_NAME,
    CARD_NAME,
    CONFIG_NAME,
    FORMAT_VERSION,
    GOLDEN_NAME,
    HEADS_FOLDER,
    MAX_JSON_BYTES,
    PREPROCESSOR_NAME,
    PRIOR_NAME,
    UPGRADE,
    ListedFile,
    Manifest,
    check_format_version,
    integer_of,
    parse_object,
    text_of,
)
from piaa_sdk.rating_scale import RatingScale

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "BACKBONE_NAME",
    "CARD_NAME",
    "CONFIG_NAME",
    "DECODING_RULE",
    "EMBEDDED_FOLDER",
    "FORMAT_VERSION",
    "GOLDEN_NAME",
    "HEADS_FOLDER",
    "MAX_EMBEDDING_DIM",
    "PREPROCESSOR_NAME",
    "PRIOR_NAME",
    "Manifest",
    "ModelBundle",
    "Preprocessing",
    "write_config",
]

DECODING_RULE = 1
"""Raised whenever the same bytes become other pixels; a part of ``embedding_id``."""

EMBEDDED_FOLDER = Path(__file__).parent / "default_model"
"""The bundle that comes with the package."""

MAX_EMBEDDING_DIM = 1024
"""An embedding is at most 2 KB in float16, so that a cache of a large library stays small."""

_FITS = ("squash",)
_RESAMPLES = ("bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the pixels that the backbone reads.

    Attributes:
        size: Side of the square that the backbone reads, pixels.
        fit: How a picture becomes square: ``squash`` scales both sides to ``size``.
        resample: Filter of the resize: ``bilinear``, ``bicubic`` or ``lanczos``, all with antialiasing.
        draft_factor: A JPEG may be decoded reduced, as long as both sides stay this many times ``size``.
        background: RGB, 0 to 255 each, that transparent pixels are laid on.
        decoding_rule: Version of the decoder that the bundle was trained with.
    """

    size: int
    fit: str
    resample: str
    draft_factor: int
    background: tuple[int, int, int]
    decoding_rule: int

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Preprocessing:
        """Read the content of ``preprocessor_config.json``.

        Raises:
            ModelFormatError: A value is missing or not one that this version knows.
        """
        check_format_version(data, PREPROCESSOR_NAME)
        rule = integer_of(data, "decoding_rule", 1, 1 << 31, PREPROCESSOR_NAME)
        if rule > DECODING_RULE:
            raise ModelFormatError(
                f"{PREPROCESSOR_NAME}: made with decoding rule {rule}; this piaa-sdk "
                f"{__version__} knows rules up to {DECODING_RULE}. Upgrade with: {UPGRADE}"
            )
        return cls(
            size=integer_of(data, "size", 8, 4096, PREPROCESSOR_NAME),
            fit=_choice(data, "fit", _FITS),
            resample=_choice(data, "resample", _RESAMPLES),
            draft_factor=integer_of(data, "draft_factor", 1, 64, PREPROCESSOR_NAME),
            background=_background(data),
            decoding_rule=rule,
        )

    def to_json(self) -> dict[str, object]:
        """Return the content of ``preprocessor_config.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "size": self.size,
            "fit": self.fit,
            "resample": self.resample,
            "draft_factor": self.draft_factor,
            "background": list(self.background),
            "decoding_rule": self.decoding_rule,
        }


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A bundle folder whose files are there and unchanged.

    Attributes:
        folder: Where it is.
        bundle_id: Its name, for example ``piaa-efficientnet-lite0``.
        bundle_revision: Hex SHA-256 over the checksums of all its files: changes with any of them.
        embedding_id: Hex SHA-256 over the backbone, the preprocessing and the decoding rule: embeddings
            with the same one can be compared, whatever else of the bundle changes.
        embedding_dim: D.
        rating_scale: Units of the generic scores.
        preprocessing: How a picture becomes pixels.
        license: SPDX name of the licence of the weights.
        checksums: Hex SHA-256 of every listed file, by its name in the folder.
        config: The whole content of ``config.json``.
        backbone_name: The graph that is used; another one than ``onnx/backbone.onnx`` for a variant.
        checked: Which listed files are there and unchanged; of a bundle from the Hub perhaps only some.
        origin: Where it was fetched from, ``org/name@commit``; None for a folder of the caller's.
        graph: A person's own graph that is used in place of the file's; None to use the file.
    """

    folder: Path
    bundle_id: str
    bundle_revision: str
    embedding_id: str
    embedding_dim: int
    rating_scale: RatingScale
    preprocessing: Preprocessing
    license: str
    checksums: Mapping[str, str] = field(hash=False, repr=False)
    config: Mapping[str, object] = field(hash=False, repr=False)
    backbone_name: str = BACKBONE_NAME
    checked: frozenset[str] = field(default=frozenset(), hash=False, repr=False)
    origin: str | None = None
    graph: bytes | None = field(default=None, hash=False, repr=False)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        variant: str | None = None,
        names: Collection[str] | None = None,
        origin: str | None = None,
    ) -> ModelBundle:
        """Open a bundle folder and check size and SHA-256 of the files it lists.

        Args:
            folder: Where it is.
            variant: A lighter backbone that the bundle offers, for example ``quantized``.
            names: Listed files that must be there; the others are not looked at. None for all.
            origin: Where it was fetched from, ``org/name@commit``, to say how it is fetched again.

        Raises:
            ModelNotFoundError: There is no such folder, or no ``config.json`` in it.
            ModelFormatError: A file is missing, damaged or of a newer format, or there is no such variant.
        """
        if not folder.is_dir():
            raise ModelNotFoundError(
                f"{folder}: no such folder; give the folder of a bundle (it holds {CONFIG_NAME})"
            )
        if not (folder / CONFIG_NAME).exists():
            raise ModelNotFoundError(
                f"{folder}: no {CONFIG_NAME} in it, so it is not a bundle{_repair(folder, origin)}"
            )
        try:
            return cls._load(folder, variant, names, origin)
        except ModelFormatError as error:
            repair = "" if UPGRADE in str(error) else _repair(folder, origin)
            raise ModelFormatError(f"bundle {origin or folder}: {error}{repair}") from error

    @classmethod
    def _load(
        cls, folder: Path, variant: str | None, names: Collection[str] | None, origin: str | None
    ) -> ModelBundle:
        manifest = Manifest.parse(_read(folder / CONFIG_NAME, CONFIG_NAME))
        backbone_name = manifest.backbone_name(variant)
        checked = frozenset(manifest.files if names is None else names)
        _check_files(folder, manifest, {*checked, PREPROCESSOR_NAME, backbone_name})
        preprocessor = _read(folder / PREPROCESSOR_NAME, PREPROCESSOR_NAME)
        preprocessing = Preprocessing.from_json(parse_object(preprocessor, PREPROCESSOR_NAME))
        config = manifest.config
        return cls(
            folder=folder,
            bundle_id=text_of(config, "bundle_id"),
            bundle_revision=manifest.bundle_revision,
            embedding_id=_embedding_id(manifest, backbone_name, preprocessing),
            embedding_dim=integer_of(config, "embedding_dim", 1, MAX_EMBEDDING_DIM, CONFIG_NAME),
            rating_scale=_rating_scale(config),
            preprocessing=preprocessing,
            license=manifest.license,
            checksums={name: entry.sha256 for name, entry in manifest.files.items()},
            config=config,
            backbone_name=backbone_name,
            checked=checked | {PREPROCESSOR_NAME, backbone_name},
            origin=origin,
        )

    def path(self, name: str) -> Path:
        """Return where a listed file is.

        Args:
            name: Its name in the folder, with ``/``.

        Raises:
            ModelFormatError: ``config.json`` does not list it.
            ModelNotFoundError: It was left out when the bundle was fetched.
        """
        if name not in self.checksums:
            raise ModelFormatError(
                f"bundle {self.name}: {CONFIG_NAME} lists no file {name}{_repair(self.folder, self.origin)}"
            )
        if name not in self.checked:
            how = "" if self.origin is None else _download(self.folder, self.origin, " --all")
            raise ModelNotFoundError(
                f"bundle {self.name}: {name} was not fetched, because scoring does not need it"
                + (how and f". Fetch all files with: {how}")
            )
        return self.folder / name

    @property
    def name(self) -> str:
        """What to call it with ``model=`` or ``--model``: ``org/name@commit``, or its folder."""
        return self.origin or str(self.folder)

    @property
    def backbone_path(self) -> Path:
        """The graph that turns pixels into an embedding."""
        return self.path(self.backbone_name)

    @property
    def graph_source(self) -> str | bytes:
        """What onnxruntime opens: the path of the graph, or a person's own graph itself."""
        return str(self.backbone_path) if self.graph is None else self.graph

    @property
    def graph_name(self) -> str:
        """What messages call it."""
        return str(self.backbone_path) if self.graph is None else "the person's own network"

    def with_graph(self, graph: bytes, embedding_dim: int) -> ModelBundle:
        """Return the same bundle with a person's own network in place of its backbone.

        Args:
            graph: ``pixels`` -> embedding, on pixels as this bundle prepares them.
            embedding_dim: D of it.
        """
        embedding_id = _digest_with_rules(hashlib.sha256(graph).hexdigest(), self.preprocessing)
        return dataclasses.replace(self, graph=graph, embedding_dim=embedding_dim, embedding_id=embedding_id)

    @property
    def prior_path(self) -> Path:
        """What adaptation starts from."""
        return self.path(PRIOR_NAME)


def write_config(folder: Path, config: Mapping[str, object]) -> None:
    """Write ``config.json`` with size and SHA-256 of all other files in the folder.

    Args:
        folder: A bundle folder whose other files are final. Files and folders whose names begin with a dot
            are no part of the bundle, and neither are people's heads in ``heads/``.
        config: What to write; ``files`` is filled in.

    Raises:
        OutputError: The folder cannot be read or written.
    """
    try:
        files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            is_ours = not name.startswith((".", f"{HEADS_FOLDER}/")) and "/." not in name
            if name == CONFIG_NAME or not is_ours or not path.is_file():
                continue
            files[name] = {"sha256": _sha256(path), "size": path.stat().st_size}
        text = json.dumps({**config, "files": files}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(folder / CONFIG_NAME, text.encode())
    except OSError as error:
        raise OutputError(f"{folder / CONFIG_NAME}: cannot be written: {error.strerror or error}") from error


def _embedding_id(manifest: Manifest, backbone_name: str, preprocessing: Preprocessing) -> str:
    parts = (backbone_name, f"{backbone_name}_data", f"{backbone_name}.data")  # weights may lie beside
    checksums = "".join(manifest.files[name].sha256 for name in parts if name in manifest.files)
    return _digest_with_rules(checksums, preprocessing)


def _digest_with_rules(checksums: str, preprocessing: Preprocessing) -> str:
    # What counts is the rule that this version decodes with, not the one the bundle was trained with.
    rules = {**preprocessing.to_json(), "decoding_rule": DECODING_RULE}
    canonical = json.dumps(rules, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((checksums + canonical).encode()).hexdigest()


def _check_files(folder: Path, manifest: Manifest, names: Collection[str]) -> None:
    for name in sorted(names):
        if name not in manifest.files:
            raise ModelFormatError(f"{CONFIG_NAME}: files does not list {name}")
        _check_file(folder / name, name, manifest.files[name])


def _check_file(path: Path, name: str, expected: ListedFile) -> None:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait forever
            raise ModelFormatError(f"{name} is not a regular file")
        if found.st_size != expected.size:
            raise ModelFormatError(
                f"{name} is damaged: it has {found.st_size} bytes, {CONFIG_NAME} says {expected.size}"
            )
        digest = _sha256(path)
    except FileNotFoundError as error:
        raise ModelFormatError(f"{name} is missing; {CONFIG_NAME} lists it") from error
    except OSError as error:
        raise ModelFormatError(f"{name} cannot be read: {error.strerror or error}") from error
    if digest != expected.sha256:
        raise ModelFormatError(
            f"{name} is damaged: its SHA-256 begins with {digest[:12]}, {CONFIG_NAME} says "
            f"{expected.sha256[:12]}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, name: str) -> bytes:
    try:
        return read_regular_file(path, MAX_JSON_BYTES)
    except OSError as error:
        raise ModelFormatError(f"{name} cannot be read: {error.strerror or error}") from error


def _choice(data: Mapping[str, object], key: str, allowed: tuple[str, ...]) -> str:
    value = data.get(key)
    if not isinstance(value, str) or value not in allowed:
        raise ModelFormatError(
            f"{PREPROCESSOR_NAME}: {key} is {value!r:.80}, this version knows {', '.join(allowed)}. "
            f"A newer one may know it: {UPGRADE}"
        )
    return value


def _background(data: Mapping[str, object]) -> tuple[int, int, int]:
    value = data.get("background")
    if isinstance(value, list) and len(value) == 3:
        red, green, blue = value
        if all(type(channel) is int and 0 <= channel <= 255 for channel in value):
            return red, green, blue
    raise ModelFormatError(
        f"{PREPROCESSOR_NAME}: background is {value!r:.80}, must be three whole numbers from 0 to 255"
    )


def _rating_scale(config: Mapping[str, object]) -> RatingScale:
    value = config.get("rating_scale")
    if isinstance(value, list) and len(value) == 2 and all(type(bound) in (int, float) for bound in value):
        try:
            return RatingScale(float(value[0]), float(value[1]))
        except (RatingError, OverflowError) as error:
            raise ModelFormatError(f"{CONFIG_NAME}: rating_scale is {value!r:.80}: {error}") from error
    raise ModelFormatError(
        f"{CONFIG_NAME}: rating_scale is {value!r:.80}, must be two numbers, low below high"
    )


def _repair(folder: Path, origin: str | None = None) -> str:
    if origin is not None:
        return f". Fetch it again with: {_download(folder, origin, ' --force')}"
    if folder.resolve() == EMBEDDED_FOLDER.resolve():
        return ". Reinstall the package with: pip install --force-reinstall --no-deps piaa-sdk"
    return ". Download or make the bundle again" if (folder / CONFIG_NAME).exists() else ""


def _download(folder: Path, origin: str, options: str) -> str:
    """Name the command that fetches a bundle to where it lies in a cache of the Hub."""
    return download_command(origin, folder.parents[2], options)
