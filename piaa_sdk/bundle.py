"""The bundle: a folder with everything that scoring needs, checked before it is used.

::

    config.json                what it is, and size and SHA-256 of every other file
    preprocessor_config.json   how a picture becomes pixels
    onnx/backbone.onnx         pixels -> embedding
    prior.safetensors          what adaptation starts from
    golden.json                which scores the pictures in golden/ must get (optional)
    README.md                  the model card (optional)

The folder is the same in the wheel, on disk and on the Hub. Files that ``config.json`` does not list are
never opened.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from piaa_sdk import __version__
from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, OutputError, RatingError
from piaa_sdk.files import read_regular_file, write_atomically
from piaa_sdk.rating_scale import RatingScale

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT_VERSION = 1
"""Newest layout of the bundle folder that this version reads."""

DECODING_RULE = 1
"""Raised whenever the same bytes become other pixels; a part of ``embedding_id``."""

EMBEDDED_FOLDER = Path(__file__).parent / "default_model"
"""The bundle that comes with the package."""

MAX_EMBEDDING_DIM = 1024
"""An embedding is at most 2 KB in float16, so that a cache of a large library stays small."""

CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"
BACKBONE_NAME = "onnx/backbone.onnx"
PRIOR_NAME = "prior.safetensors"
CARD_NAME = "README.md"
GOLDEN_NAME = "golden.json"

_FITS = ("squash",)
_RESAMPLES = ("bilinear", "bicubic", "lanczos")
_MAX_JSON_BYTES = 64 << 20
_UPGRADE = "pip install --upgrade piaa-sdk"
_HEX_DIGITS = frozenset("0123456789abcdef")


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
        _check_format_version(data, PREPROCESSOR_NAME)
        rule = _integer(data, "decoding_rule", 1, 1 << 31, PREPROCESSOR_NAME)
        if rule > DECODING_RULE:
            raise ModelFormatError(
                f"{PREPROCESSOR_NAME}: made with decoding rule {rule}; this piaa-sdk "
                f"{__version__} knows rules up to {DECODING_RULE}. Upgrade with: {_UPGRADE}"
            )
        return cls(
            size=_integer(data, "size", 8, 4096, PREPROCESSOR_NAME),
            fit=_choice(data, "fit", _FITS),
            resample=_choice(data, "resample", _RESAMPLES),
            draft_factor=_integer(data, "draft_factor", 1, 64, PREPROCESSOR_NAME),
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
    """A bundle folder whose files are all there and unchanged.

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

    @classmethod
    def load(cls, folder: Path) -> ModelBundle:
        """Open a bundle folder and check size and SHA-256 of every file it lists.

        Raises:
            ModelNotFoundError: There is no such folder, or no ``config.json`` in it.
            ModelFormatError: A file is missing, damaged or of a newer format.
        """
        if not folder.is_dir():
            raise ModelNotFoundError(
                f"{folder}: no such folder; give the folder of a bundle (it holds {CONFIG_NAME})"
            )
        if not (folder / CONFIG_NAME).exists():
            raise ModelNotFoundError(
                f"{folder}: no {CONFIG_NAME} in it, so it is not a bundle{_repair(folder)}"
            )
        try:
            return cls._load(folder)
        except ModelFormatError as error:
            repair = "" if _UPGRADE in str(error) else _repair(folder)
            raise ModelFormatError(f"bundle {folder}: {error}{repair}") from error

    @classmethod
    def _load(cls, folder: Path) -> ModelBundle:
        config_bytes = _read(folder / CONFIG_NAME, CONFIG_NAME)
        config = _parse(config_bytes, CONFIG_NAME)
        model_type = config.get("model_type")
        if model_type != "piaa":
            raise ModelFormatError(
                f'{CONFIG_NAME}: model_type is {model_type!r:.80}, must be "piaa": another kind of model?'
            )
        _check_format_version(config, CONFIG_NAME)
        checksums = _check_files(folder, config)
        for name in (PREPROCESSOR_NAME, BACKBONE_NAME):
            if name not in checksums:
                raise ModelFormatError(f"{CONFIG_NAME}: files does not list {name}, which every bundle needs")
        preprocessor = _read(folder / PREPROCESSOR_NAME, PREPROCESSOR_NAME)
        preprocessing = Preprocessing.from_json(_parse(preprocessor, PREPROCESSOR_NAME))
        return cls(
            folder=folder,
            bundle_id=_text(config, "bundle_id"),
            bundle_revision=_bundle_revision(checksums, config_bytes),
            embedding_id=_embedding_id(checksums[BACKBONE_NAME], preprocessing),
            embedding_dim=_integer(config, "embedding_dim", 1, MAX_EMBEDDING_DIM, CONFIG_NAME),
            rating_scale=_rating_scale(config),
            preprocessing=preprocessing,
            license=_text(config, "license"),
            checksums=checksums,
            config=config,
        )

    def path(self, name: str) -> Path:
        """Return where a listed file is.

        Args:
            name: Its name in the folder, with ``/``.

        Raises:
            ModelFormatError: ``config.json`` does not list it.
        """
        if name not in self.checksums:
            raise ModelFormatError(
                f"bundle {self.folder}: {CONFIG_NAME} lists no file {name}{_repair(self.folder)}"
            )
        return self.folder / name

    @property
    def backbone_path(self) -> Path:
        """The graph that turns pixels into an embedding."""
        return self.path(BACKBONE_NAME)

    @property
    def prior_path(self) -> Path:
        """What adaptation starts from."""
        return self.path(PRIOR_NAME)


def write_config(folder: Path, config: Mapping[str, object]) -> None:
    """Write ``config.json`` with size and SHA-256 of all other files in the folder.

    Args:
        folder: A bundle folder whose other files are final. Files and folders whose names begin with a dot
            are no part of the bundle.
        config: What to write; ``files`` is filled in.

    Raises:
        OutputError: The folder cannot be read or written.
    """
    try:
        files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if name == CONFIG_NAME or name.startswith(".") or "/." in name or not path.is_file():
                continue
            files[name] = {"sha256": _sha256(path), "size": path.stat().st_size}
        text = json.dumps({**config, "files": files}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(folder / CONFIG_NAME, text.encode())
    except OSError as error:
        raise OutputError(f"{folder / CONFIG_NAME}: cannot be written: {error.strerror or error}") from error


def _bundle_revision(checksums: Mapping[str, str], config_bytes: bytes) -> str:
    every = {**checksums, CONFIG_NAME: hashlib.sha256(config_bytes).hexdigest()}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(every.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _embedding_id(backbone_sha256: str, preprocessing: Preprocessing) -> str:
    # What counts is the rule that this version decodes with, not the one the bundle was trained with.
    rules = {**preprocessing.to_json(), "decoding_rule": DECODING_RULE}
    canonical = json.dumps(rules, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((backbone_sha256 + canonical).encode()).hexdigest()


def _check_files(folder: Path, config: Mapping[str, object]) -> dict[str, str]:
    """Check every listed file; return hex SHA-256 by name."""
    files = config.get("files")
    if not isinstance(files, dict):
        raise ModelFormatError(f"{CONFIG_NAME}: files is {files!r:.80}, must map names to sha256 and size")
    checksums: dict[str, str] = {}
    for name, entry in files.items():
        _check_name(name)
        size, expected = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not isinstance(size, int) or not isinstance(expected, str) or not _is_sha256(expected):
            raise ModelFormatError(
                f"{CONFIG_NAME}: files[{name!r}] is {entry!r:.120}, must hold sha256 and size"
            )
        _check_file(folder / name, name, size, expected)
        checksums[name] = expected
    return checksums


def _check_name(name: str) -> None:
    """Refuse names that could lead out of the folder on any platform."""
    parts = PurePosixPath(name).parts
    is_plain = bool(parts) and "/".join(parts) == name and not name.startswith("/") and ".." not in parts
    if not is_plain or not name.isprintable() or set(name) & set('\\:*?"<>|') or name == CONFIG_NAME:
        raise ModelFormatError(
            f"{CONFIG_NAME}: files lists {name!r:.200}, which is not a plain name inside the folder"
        )


def _check_file(path: Path, name: str, size: int, expected: str) -> None:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait forever
            raise ModelFormatError(f"{name} is not a regular file")
        if found.st_size != size:
            raise ModelFormatError(
                f"{name} is damaged: it has {found.st_size} bytes, {CONFIG_NAME} says {size}"
            )
        digest = _sha256(path)
    except FileNotFoundError as error:
        raise ModelFormatError(f"{name} is missing; {CONFIG_NAME} lists it") from error
    except OSError as error:
        raise ModelFormatError(f"{name} cannot be read: {error.strerror or error}") from error
    if digest != expected:
        raise ModelFormatError(
            f"{name} is damaged: its SHA-256 begins with {digest[:12]}, {CONFIG_NAME} says {expected[:12]}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= _HEX_DIGITS


def _read(path: Path, name: str) -> bytes:
    try:
        return read_regular_file(path, _MAX_JSON_BYTES)
    except OSError as error:
        raise ModelFormatError(f"{name} cannot be read: {error.strerror or error}") from error


def _parse(data: bytes, name: str) -> dict[str, object]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are both ValueError
        raise ModelFormatError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelFormatError(f"{name} holds {type(parsed).__name__}, must hold a JSON object")
    return parsed


def _check_format_version(data: Mapping[str, object], name: str) -> None:
    version = data.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFormatError(f"{name}: format_version is {version!r:.80}, must be a whole number from 1")
    if version > FORMAT_VERSION:
        needed = data.get("min_sdk")
        wanted = f"piaa-sdk {needed} or later" if isinstance(needed, str) else "a newer piaa-sdk"
        raise ModelFormatError(
            f"{name}: format_version is {version}; this piaa-sdk {__version__} reads up to "
            f"{FORMAT_VERSION}, it needs {wanted}. Upgrade with: {_UPGRADE}"
        )


def _integer(data: Mapping[str, object], key: str, low: int, high: int, name: str) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ModelFormatError(f"{name}: {key} is {value!r:.80}, must be a whole number from {low} to {high}")
    return value


def _text(config: Mapping[str, object], key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ModelFormatError(f"{CONFIG_NAME}: {key} is {value!r:.80}, must be a text of one line")
    return value


def _choice(data: Mapping[str, object], key: str, allowed: tuple[str, ...]) -> str:
    value = data.get(key)
    if not isinstance(value, str) or value not in allowed:
        raise ModelFormatError(
            f"{PREPROCESSOR_NAME}: {key} is {value!r:.80}, this version knows {', '.join(allowed)}. "
            f"A newer one may know it: {_UPGRADE}"
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


def _repair(folder: Path) -> str:
    if folder.resolve() == EMBEDDED_FOLDER.resolve():
        return ". Reinstall the package with: pip install --force-reinstall --no-deps piaa-sdk"
    return ". Download or make the bundle again" if (folder / CONFIG_NAME).exists() else ""
