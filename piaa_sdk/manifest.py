"""What ``config.json`` of a bundle says, read before any other file of it is there or believed.

Whoever publishes a bundle writes this file, so it is hostile input: a name that leads out of the folder, a
number that is none or a newer format is refused here, before anything is fetched or opened.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeGuard

from piaa_sdk import __version__
from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT_VERSION = 1
"""Newest layout of the bundle folder that this version reads."""

CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"
BACKBONE_NAME = "onnx/backbone.onnx"
PRIOR_NAME = "prior.safetensors"
WEIGHTS_NAME = "model.safetensors"
"""Torch weights, which scoring does not read."""

CARD_NAME = "README.md"
GOLDEN_NAME = "golden.json"
HEADS_FOLDER = "heads"
"""Where published heads of people lie beside a bundle; they are no part of it."""

HEAD_NAME = "head.json"
"""In a person's folder there, who that is."""

UPGRADE = "pip install --upgrade piaa-sdk"
MAX_JSON_BYTES = 64 << 20
MAX_HEAD_BYTES = 64 << 10

_SUFFIXES = frozenset(
    {".json", ".md", ".txt", ".onnx", ".onnx_data", ".data", ".safetensors"}
    | {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"}
)
_NAMES = frozenset({"LICENSE", "NOTICE"})
_HEX_DIGITS = frozenset("0123456789abcdef")
_MAX_FILES = 10_000
_MAX_WORD = 40
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class ListedFile:
    """What ``config.json`` says about one file.

    Attributes:
        size: Bytes.
        sha256: Hex SHA-256.
    """

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A ``config.json`` whose names are plain and whose format this version reads.

    Attributes:
        config: Its whole content.
        files: Every file of the bundle but itself, by name.
        bundle_revision: Hex SHA-256 over the checksums of all files, itself included.
        license: SPDX name of the licence of the weights.
    """

    config: Mapping[str, object] = field(hash=False, repr=False)
    files: Mapping[str, ListedFile] = field(hash=False, repr=False)
    bundle_revision: str
    license: str

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read the bytes of ``config.json``.

        Raises:
            ModelFormatError: Not JSON, another kind of model, newer, or it names what no bundle holds.
        """
        config = parse_object(data, CONFIG_NAME)
        model_type = config.get("model_type")
        if model_type != "piaa":
            raise ModelFormatError(
                f'{CONFIG_NAME}: model_type is {model_type!r:.80}, must be "piaa": another kind of model?'
            )
        check_format_version(config, CONFIG_NAME)
        files = _listed_files(config)
        for name in (PREPROCESSOR_NAME, BACKBONE_NAME):
            if name not in files:
                raise ModelFormatError(f"{CONFIG_NAME}: files does not list {name}, which every bundle needs")
        checksums = {name: entry.sha256 for name, entry in files.items()}
        return cls(
            config=config,
            files=files,
            bundle_revision=_digest({**checksums, CONFIG_NAME: hashlib.sha256(data).hexdigest()}),
            license=text_of(config, "license"),
        )

    def backbone_name(self, variant: str | None) -> str:
        """Return the name of the graph that turns pixels into an embedding.

        Args:
            variant: A lighter version of it that the bundle offers, such as ``quantized``; None for the graph
                that everything was trained with.

        Raises:
            ModelFormatError: The bundle has no such variant; the message names those there are.
        """
        if variant is None:
            return BACKBONE_NAME
        offered = self.variants
        if variant not in offered:
            more = ["..."] if len(offered) > _MAX_LISTED else []
            known = ", ".join(sorted(offered)[:_MAX_LISTED] + more) or "none"
            raise ModelFormatError(
                f"{CONFIG_NAME}: no variant {variant!r:.80} of the backbone; there are: {known}. Leave the "
                "variant out for the graph that the model was made with"
            )
        return offered[variant]

    @property
    def variants(self) -> dict[str, str]:
        """The files of the lighter backbones, by the name of the variant; odd names are left out."""
        found: object = self.config
        for key in ("graphs", "backbone", "variants"):
            found = found.get(key) if isinstance(found, dict) else None
        offered = found if isinstance(found, dict) else {}
        files = {
            name: entry.get("file")
            for name, entry in offered.items()
            if _is_word(name) and isinstance(entry, dict)
        }
        return {name: file for name, file in files.items() if isinstance(file, str) and file in self.files}

    def scoring_names(self, variant: str | None = None) -> tuple[str, ...]:
        """Return the files that scoring and learning a person need; ``config.json`` is not among them.

        Raises:
            ModelFormatError: The bundle has no such variant.
        """
        graph = self.backbone_name(variant)
        wanted = (PREPROCESSOR_NAME, graph, f"{graph}_data", f"{graph}.data", PRIOR_NAME)
        return tuple(name for name in wanted if name in self.files)

    def expected_names(self) -> tuple[str, ...]:
        """Return all files of kinds that a bundle holds: no code, no pickle, nobody's head."""
        return tuple(name for name in self.files if is_expected(name))

    def size_of(self, names: Iterable[str]) -> int:
        """Add up the sizes of files, bytes."""
        return sum(self.files[name].size for name in names)


def is_expected(name: str) -> bool:
    """Tell whether a bundle may hold a file of that name: neither hidden nor of a kind that can run code."""
    path = PurePosixPath(name)
    if path.parts[0] == HEADS_FOLDER or any(part.startswith(".") for part in path.parts):
        return False
    return name in _NAMES or path.suffix.lower() in _SUFFIXES


def check_name(name: str) -> None:
    """Refuse names that could lead out of the folder on any platform.

    Raises:
        ModelFormatError: It is one.
    """
    parts = PurePosixPath(name).parts
    is_plain = bool(parts) and "/".join(parts) == name and not name.startswith("/") and ".." not in parts
    if not is_plain or not name.isprintable() or set(name) & set('\\:*?"<>|') or name == CONFIG_NAME:
        raise ModelFormatError(
            f"{CONFIG_NAME}: files lists {name!r:.200}, which is not a plain name inside the folder"
        )


def parse_object(data: bytes, name: str) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        ModelFormatError: It is none.
    """
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are both ValueError
        raise ModelFormatError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelFormatError(f"{name} holds {type(parsed).__name__}, must hold a JSON object")
    return parsed


def check_format_version(data: Mapping[str, object], name: str) -> None:
    """Refuse what only a later version of piaa-sdk can read, and say which.

    Raises:
        ModelFormatError: It is newer, or no version at all.
    """
    version = data.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFormatError(f"{name}: format_version is {version!r:.80}, must be a whole number from 1")
    if version > FORMAT_VERSION:
        needed = data.get("min_sdk")
        wanted = f"piaa-sdk {needed} or later" if _is_word(needed) else "a newer piaa-sdk"
        raise ModelFormatError(
            f"{name}: format_version is {version}; this piaa-sdk {__version__} reads up to "
            f"{FORMAT_VERSION}, it needs {wanted}. Upgrade with: {UPGRADE}"
        )


def integer_of(data: Mapping[str, object], key: str, low: int, high: int, name: str) -> int:
    """Return a whole number within bounds.

    Raises:
        ModelFormatError: It is none.
    """
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ModelFormatError(f"{name}: {key} is {value!r:.80}, must be a whole number from {low} to {high}")
    return value


def text_of(config: Mapping[str, object], key: str) -> str:
    """Return a text of one line from ``config.json``.

    Raises:
        ModelFormatError: It is none.
    """
    value = config.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ModelFormatError(f"{CONFIG_NAME}: {key} is {value!r:.80}, must be a text of one line")
    return value


def _listed_files(config: Mapping[str, object]) -> dict[str, ListedFile]:
    files = config.get("files")
    if not isinstance(files, dict):
        raise ModelFormatError(f"{CONFIG_NAME}: files is {files!r:.80}, must map names to sha256 and size")
    if len(files) > _MAX_FILES:
        raise ModelFormatError(f"{CONFIG_NAME}: files lists {len(files)} names, allowed are {_MAX_FILES}")
    listed: dict[str, ListedFile] = {}
    for name, entry in files.items():
        check_name(name)
        size, digest = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not _is_sha256(digest):
            raise ModelFormatError(
                f"{CONFIG_NAME}: files[{name!r}] is {entry!r:.120}, must hold sha256 and size"
            )
        listed[name] = ListedFile(size, digest)
    return listed


def _is_word(text: object) -> TypeGuard[str]:
    """Tell whether a stranger's text is short and plain enough to be shown as it is."""
    return isinstance(text, str) and 0 < len(text) <= _MAX_WORD and text.isascii() and text.isprintable()


def _is_sha256(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and len(text) == 64 and set(text) <= _HEX_DIGITS


def _digest(checksums: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(checksums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
