"""One person's head as it lies beside a bundle, for others to score with: on the Hub, or in a folder.

::

    heads/<name>/head.json           who, on which scale, for which bundle, and the checksum of the tensors
    heads/<name>/head.safetensors    the head, and the embeddings of the rated pictures

A name that is not plain by itself has a digest in the name of its folder, so that "zoe" and "Zoë" do not
share one. Heads of older versions lie in a folder without it, and are still found.

It holds no rating, no path and no picture. It is still about a person: :attr:`PublishedHead.disclosed` says
what it tells. Whoever reads one reads what a stranger wrote, so nothing in it is believed unchecked.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import safetensors
import safetensors.numpy

from piaa_sdk.errors import (
    ModelFormatError,
    ModelNotFoundError,
    ProfileError,
    ProfileFormatError,
    ProfileMismatchError,
    ProfileNotFoundError,
    RatingError,
)
from piaa_sdk.head import PersonalHead
from piaa_sdk.hub import fetch_head
from piaa_sdk.hub_cache import download_command
from piaa_sdk.images import printable
from piaa_sdk.manifest import HEAD_NAME, HEADS_FOLDER, MAX_HEAD_BYTES, UPGRADE
from piaa_sdk.profiles import folder_name, portable_name
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.user_profile import clean_name, smallest_exact

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.head import Prior
    from piaa_sdk.hub_client import Token

FORMAT_VERSION = 1
"""Newest layout that this version reads, and the one it writes."""

HEADER_NAME = HEAD_NAME
TENSORS_NAME = "head.safetensors"

_TYPE = "piaa-head"
_MAX_BYTES = {HEADER_NAME: MAX_HEAD_BYTES, TENSORS_NAME: 64 << 20}
_EMBEDDINGS = "embeddings"
_TENSORS = frozenset({"components", "weights", "variances", _EMBEDDINGS})
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True, eq=False)
class PublishedHead:
    """What is told of one person.

    Attributes:
        user: Name that is shown.
        kind: How the head was learned: ``closed-form``.
        scale: Units of the person's ratings.
        bundle_revision: Digest of the bundle it was learned with.
        embedding_id: Digest of what made the embeddings.
        tensors: ``components`` (G, 5), ``weights`` (G, K), ``variances`` (G,) and ``embeddings`` (K, D).

    Raises:
        ProfileError: The name cannot be one, or the tensors are not these.
    """

    user: str
    kind: str
    scale: RatingScale
    bundle_revision: str
    embedding_id: str
    tensors: Mapping[str, npt.NDArray[Any]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", clean_name(self.user))
        tensors = {name: np.asarray(tensor) for name, tensor in self.tensors.items()}
        object.__setattr__(self, "tensors", MappingProxyType(tensors))
        if set(tensors) != _TENSORS:
            raise ProfileError(f"tensors are {sorted(tensors)!r:.200}, must be {', '.join(sorted(_TENSORS))}")
        for name, tensor in tensors.items():
            if tensor.dtype not in (np.float16, np.float32, np.float64) or not np.isfinite(tensor).all():
                raise ProfileError(f"tensor {name} must hold finite numbers")
        if tensors[_EMBEDDINGS].ndim != 2 or not len(tensors[_EMBEDDINGS]):
            raise ProfileError(f"embeddings are {tensors[_EMBEDDINGS].shape}, must be (K, D)")

    @classmethod
    def of(cls, user: str, kind: str, scale: RatingScale, bundle: ModelBundle, head: PersonalHead) -> Self:
        """Take of a learned head what may be published.

        Args:
            user: Name to show.
            kind: How it was learned.
            scale: The person's.
            bundle: The bundle it was learned with.
            head: What was learned.

        Raises:
            ProfileError: The name cannot be one.
        """
        tensors = {**head.to_tensors(), _EMBEDDINGS: smallest_exact(head.embeddings)}
        return cls(user, kind, scale, bundle.bundle_revision, bundle.embedding_id, tensors)

    @property
    def folder(self) -> str:
        """Name of its folder in ``heads/``, which nobody else has."""
        return _folders_of(self.user)[0]

    @property
    def disclosed(self) -> tuple[str, ...]:
        """What whoever reads it learns about the person, one line each."""
        shots, dim = self.tensors[_EMBEDDINGS].shape
        return (
            f"the name {printable(self.user)!r}, and that this person has rated {shots} photos on the scale "
            f"{self.scale}",
            f"{dim} numbers for each of these photos (its embedding): enough to recognize a photo that one "
            "has, and to guess what kind of photo it is",
            "what the person likes: it scores any photo as the person would, the rated ones too, near the "
            "ratings given",
            "not in it: the ratings as such, names and folders of photos, thumbnails, photos",
        )

    def head(self, prior: Prior) -> PersonalHead:
        """Make the head again on top of its prior.

        Raises:
            ProfileFormatError: Its tensors do not fit together or with the prior, or are impossible.
        """
        embeddings = self.tensors[_EMBEDDINGS].astype(np.float32)
        return PersonalHead.from_tensors(prior, embeddings, self.tensors)

    def files(self) -> dict[str, bytes]:
        """Return what is uploaded, by name in the repository; the same head, the same bytes."""
        tensors = {
            name: np.array(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")
            for name, tensor in sorted(self.tensors.items())
        }
        data = safetensors.numpy.save(tensors)
        header = {
            "type": _TYPE,
            "format_version": FORMAT_VERSION,
            "user": self.user,
            "kind": self.kind,
            "scale": [float(self.scale.low), float(self.scale.high)],
            "bundle_revision": self.bundle_revision,
            "embedding_id": self.embedding_id,
            "tensors": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)},
        }
        text = json.dumps(header, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
        place = f"{HEADS_FOLDER}/{self.folder}"
        for name, content in {HEADER_NAME: text, TENSORS_NAME: data}.items():
            if len(content) > _MAX_BYTES[name]:
                raise ProfileError(f"{name} has {len(content)} bytes, allowed are {_MAX_BYTES[name]}")
        return {f"{place}/{HEADER_NAME}": text, f"{place}/{TENSORS_NAME}": data}

    @classmethod
    def parse(cls, header: bytes, tensors: bytes) -> Self:
        """Read what somebody has published.

        Args:
            header: Content of ``head.json``.
            tensors: Content of ``head.safetensors``.

        Raises:
            ProfileFormatError: Damaged, foreign, newer, or the two do not belong together.
        """
        data = _parse_header(header)
        stated = data.get("tensors")
        digest = stated.get("sha256") if isinstance(stated, dict) else None
        if digest != hashlib.sha256(tensors).hexdigest():
            raise ProfileFormatError(
                f"{TENSORS_NAME} is damaged: its SHA-256 is not the one in {HEADER_NAME}"
            )
        try:
            arrays = safetensors.numpy.load(tensors)
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise ProfileFormatError(f"{TENSORS_NAME} is damaged ({error})") from error
        try:
            return cls(
                user=_text(data, "user"),
                kind=_text(data, "kind"),
                scale=_scale(data),
                bundle_revision=_text(data, "bundle_revision"),
                embedding_id=_text(data, "embedding_id"),
                tensors=arrays,
            )
        except (RatingError, ProfileError) as error:
            raise ProfileFormatError(f"{HEADER_NAME} or {TENSORS_NAME}: {error}") from error


def load_published(
    bundle: ModelBundle, user: str, *, kind: str, token: Token = None, is_local: bool = False
) -> PublishedHead:
    """Read the head of a person that is published beside a bundle.

    For a bundle from the Hub, the Hub is asked for the person's folder, and so is told the name in it.

    Args:
        bundle: From the Hub, where the two files are fetched from, or in a folder.
        user: The person's name, exactly; the head of "zoe" is not taken for "Zoe".
        kind: How the heads of this version are learned.
        token: Token for the Hub; None for the one that is stored there.
        is_local: Whether to use no network.

    Raises:
        ProfileNotFoundError: Nobody of that name is published there.
        ProfileFormatError: What is published is damaged, foreign or newer.
        ProfileMismatchError: It belongs to another revision of the bundle.
        ModelNotFoundError: There is no network, and the head is not in the cache.
        HubError: The Hub refuses or fails.
    """
    name = clean_name(user)
    published, place = _find(bundle, name, token, is_local=is_local)
    if published.kind != kind:
        raise ProfileMismatchError(
            f"{place} is of the kind {published.kind!r:.80}, this version reads {kind!r}; "
            f"upgrade with: {UPGRADE}"
        )
    if (published.bundle_revision, published.embedding_id) != (bundle.bundle_revision, bundle.embedding_id):
        raise ProfileMismatchError(
            f"{place} was learned with another bundle, {published.bundle_revision[:12]!r}; this is "
            f"{bundle.bundle_revision[:12]!r}. Take the revision it was published with, or ask "
            f"{shlex.quote(printable(name))} to publish it again"
        )
    return published


def _folders_of(name: str) -> tuple[str, ...]:
    """Name where a person's head is put, and after it where older versions have put it."""
    plain = portable_name(name, "")
    return (plain,) if plain == name else tuple(dict.fromkeys((folder_name(name), plain)))


def _find(bundle: ModelBundle, name: str, token: Token, *, is_local: bool) -> tuple[PublishedHead, str]:
    """Read the head of exactly this person, and say where it lies."""
    places, others = [], []
    failure: ModelNotFoundError | None = None
    for folder in _folders_of(name):
        place = f"{HEADS_FOLDER}/{folder}"
        try:
            # Where the network has failed once, only what is here can help.
            published = _read(bundle, name, folder, token, is_local=is_local or failure is not None)
        except ModelNotFoundError as error:
            failure = failure or error
            continue
        if published is not None and published.user == name:
            return published, f"{place} of {bundle.name}"
        places.append(place)
        if published is not None:
            others.append(f"{place} of {bundle.name} is the head of {printable(published.user)!r}")
    if failure is not None:
        raise failure
    raise ProfileNotFoundError(
        others[0] if others else f"nobody is published in {' or '.join(places)} of {bundle.name}"
    )


def _read(
    bundle: ModelBundle, name: str, folder: str, token: Token, *, is_local: bool
) -> PublishedHead | None:
    """Read whichever head lies in a folder; None if there is none."""
    try:
        files = fetch_head(bundle, name, folder, _MAX_BYTES, token=token, is_local=is_local)
    except ModelFormatError as error:
        raise ProfileFormatError(str(error)) from error
    if files is None:
        return None
    try:
        return PublishedHead.parse(files[HEADER_NAME], files[TENSORS_NAME])
    except ProfileFormatError as error:
        again = ""
        if bundle.origin is not None:
            command = download_command(bundle.name, bundle.folder.parents[2], " --force")
            again = f"fetch it again with: {command}, or "
        repair = "" if UPGRADE in str(error) else f"; {again}ask whoever published it to publish it again"
        raise ProfileFormatError(f"{HEADS_FOLDER}/{folder} of {bundle.name}: {error}{repair}") from error


def _parse_header(header: bytes) -> dict[str, Any]:
    try:
        data = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ProfileFormatError(f"{HEADER_NAME} is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("type") != _TYPE:
        raise ProfileFormatError(f'{HEADER_NAME}: type must be "{_TYPE}": not the head of a person')
    version = data.get("format_version")
    if type(version) is not int or version < 1:
        raise ProfileFormatError(
            f"{HEADER_NAME}: format_version is {version!r:.80}, must be a whole number from 1"
        )
    if version > FORMAT_VERSION:
        raise ProfileFormatError(
            f"{HEADER_NAME}: format_version is {version}, this version reads up to {FORMAT_VERSION}. "
            f"Upgrade with: {UPGRADE}"
        )
    return data


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
        raise ProfileFormatError(f"{HEADER_NAME}: {key} is {value!r:.80}, must be a text of one line")
    return value


def _scale(data: Mapping[str, Any]) -> RatingScale:
    value = data.get("scale")
    try:
        if isinstance(value, list) and [type(end) in (int, float) for end in value] == [True, True]:
            return RatingScale(*map(float, value))
    except (RatingError, OverflowError) as error:
        raise ProfileFormatError(f"{HEADER_NAME}: scale is {value!r:.80}: {error}") from error
    raise ProfileFormatError(f"{HEADER_NAME}: scale is {value!r:.80}, must be two numbers, low below high")
