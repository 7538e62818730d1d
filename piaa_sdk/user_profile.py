"""What was learned about one person, and how it becomes bytes and is read back.

``profile.json`` holds who, the ratings in the person's units, the figures and the checksum of the tensors;
``profile.safetensors`` the head (``head.*``) and the embeddings of the rated pictures
(``support.embeddings``). A portable profile is a zip file of exactly these two.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from piaa_sdk.errors import ProfileError, ProfileFormatError, ProfileMismatchError, RatingError
from piaa_sdk.manifest import UPGRADE
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.results import Adaptation, SupportSet, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

FORMAT_VERSION = 1
"""Newest layout of a profile that this version reads, and the one it writes."""

HEADER_NAME = "profile.json"
TENSORS_NAME = "profile.safetensors"
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS_BYTES = 128 << 20
MAX_PORTABLE_BYTES = MAX_HEADER_BYTES + MAX_TENSORS_BYTES + (1 << 16)
MAX_NAME_CHARACTERS = 200

_TYPE = "piaa-profile"
_HEAD_PREFIX = "head."
_EMBEDDINGS = "support.embeddings"
_STORABLE = frozenset(
    {"bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))}
) | {
    "float16",
    "float32",
    "float64",
}
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_INVISIBLE = frozenset({"Cf", "Zs"})
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_ZIP_ENCRYPTED = 0x1
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES = 20
_MAX_ZIP_DIRECTORY_BYTES = 4096


def clean_name(user: str) -> str:
    """Return the one spelling of a person's name that is stored: NFC, no white space around it.

    A name is data: anything a person can read, whatever it would mean in a path.

    Raises:
        ProfileError: Nothing visible, control characters or more than 200 characters.
    """
    name = unicodedata.normalize("NFC", user).strip()
    categories = {unicodedata.category(character) for character in name}
    if not categories - _INVISIBLE:
        raise ProfileError("the name of a user is empty; give one with at least one visible character")
    if categories & _UNPRINTABLE:
        raise ProfileError(f"the name of a user must be one line of plain text, not {name[:80]!a}")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ProfileError(
            f"the name of a user has {len(name)} characters; at most {MAX_NAME_CHARACTERS} are allowed"
        )
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, eq=False)
class UserProfile:
    """What was learned about one person, and all that is needed to learn it again.

    Attributes:
        user: Name of the person, as ``clean_name`` spells it.
        kind: How the head was learned: ``closed-form``.
        scale: Units of the ratings.
        bundle_id: Name of the bundle it was learned with.
        bundle_revision: Digest of that bundle: under another one, the head is learned again from ``support``.
        embedding_id: Digest of what made the embeddings: under another one, they have to be made again.
        head: Tensors of the personal head by name.
        support: The rated pictures, ratings mapped to [0, 1] by ``scale``.
        ratings: (K,) float64, in the person's units, exactly as given.
        adaptation: What left-out ratings said about the head, if they were asked.
        created_at: When, ISO 8601 with the time zone.
        format_version: Layout it is stored in.

    Raises:
        ProfileError: The name cannot be one, or parts contradict each other.
    """

    user: str
    kind: str
    scale: RatingScale
    bundle_id: str
    bundle_revision: str
    embedding_id: str
    head: Mapping[str, npt.NDArray[Any]]
    support: SupportSet
    ratings: FloatArray
    adaptation: Adaptation | None = None
    created_at: str = field(default_factory=_now)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", clean_name(self.user))
        object.__setattr__(self, "ratings", np.asarray(self.ratings, dtype=np.float64))
        head = {name: np.asarray(tensor) for name, tensor in self.head.items()}
        object.__setattr__(self, "head", MappingProxyType(head))
        _check_ratings(self.scale, self.ratings)
        if not np.array_equal(self.scale.to_unit(self.ratings), self.support.ratings):
            raise ProfileError(f"the ratings, on the scale {self.scale}, are not those of the support set")
        for name, tensor in self.head.items():
            if tensor.dtype.name not in _STORABLE or not np.isfinite(tensor).all():
                raise ProfileError(f"tensor {name!r} of the head must hold finite numbers of up to 64 bits")
        if not all((self.kind, self.bundle_id, self.bundle_revision, self.embedding_id)):
            raise ProfileError("kind, bundle_id, bundle_revision and embedding_id must not be empty")
        if self.format_version != FORMAT_VERSION:
            raise ProfileError(f"format_version is {self.format_version}, must be {FORMAT_VERSION}")
        _check_date(self.created_at)

    def holds(self, images: Sequence[str], ratings: Sequence[float] | FloatArray) -> bool:
        """Tell whether all these ratings are in the profile, of these images and in the person's units.

        Args:
            images: K names, as in ``support``.
            ratings: (K,).
        """
        mine = Counter(zip(self.support.images, self.ratings.tolist(), strict=True))
        return Counter(zip(images, map(float, ratings), strict=True)) <= mine


@dataclass(frozen=True, slots=True, eq=False)
class MergedRatings:
    """A profile's ratings and new ones together.

    Attributes:
        images: M names.
        ratings: (M,) float64, rating units.
        embeddings: (M, D) float32.
        added: New pictures.
        repeated: Ratings that the profile had already.
        changed: Names of pictures whose rating is another one now.
    """

    images: tuple[str, ...]
    ratings: FloatArray
    embeddings: FloatArray
    added: int
    repeated: int
    changed: tuple[str, ...]


def merge_ratings(
    profile: UserProfile, images: Sequence[str], ratings: FloatArray, embeddings: FloatArray
) -> MergedRatings:
    """Add ratings to those of a profile.

    A picture is known if its path is, or its embedding (so also after it was moved, or on another machine).
    People change their minds: the new rating of a known picture replaces the old one, and ``changed`` names
    it, so that it can be said. Nothing is lost by that: a store keeps a backup of every profile whose
    ratings would otherwise be gone.

    Args:
        profile: Whose ratings come first.
        images: K names of the new pictures, each once.
        ratings: (K,), in the units of the profile's scale.
        embeddings: (K, D), made with the profile's ``embedding_id``.

    Raises:
        ProfileMismatchError: The embeddings have another dimension.
    """
    known = profile.support
    if embeddings.ndim != 2 or embeddings.shape[1] != known.embeddings.shape[1]:
        raise ProfileMismatchError(
            f"embeddings of shape {embeddings.shape} cannot be added to a profile with embeddings of shape "
            f"{known.embeddings.shape}"
        )
    place_of = _match(known, images, embeddings)
    names, values, vectors = list(known.images), profile.ratings.tolist(), list(known.embeddings)
    repeated, changed = 0, []
    for index, (image, rating) in enumerate(zip(images, map(float, ratings), strict=True)):
        place = place_of.get(index)
        if place is None:
            names.append(image)
            values.append(rating)
            vectors.append(embeddings[index])
            continue
        if values[place] == rating:
            repeated += 1
        else:
            changed.append(image)
        names[place], values[place], vectors[place] = image, rating, embeddings[index]
    return MergedRatings(
        images=tuple(names),
        ratings=np.array(values, dtype=np.float64),
        embeddings=np.stack(vectors).astype(np.float32),
        added=len(images) - len(place_of),
        repeated=repeated,
        changed=tuple(changed),
    )


def _match(known: SupportSet, images: Sequence[str], embeddings: FloatArray) -> dict[int, int]:
    """Find new pictures among known ones, each known one at most once: new index -> known index."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(known.images):
        places.setdefault(name, []).append(place)
    found: dict[int, int] = {}
    for index, image in enumerate(images):
        if places.get(image):
            found[index] = places[image].pop(0)
    taken = set(found.values())
    same: dict[bytes, list[int]] = {}
    for place, embedding in enumerate(known.embeddings):
        if place not in taken:
            same.setdefault(_vector_key(embedding), []).append(place)
    for index, embedding in enumerate(embeddings):
        if index not in found and same.get(_vector_key(embedding)):
            found[index] = same[_vector_key(embedding)].pop(0)
    return found


def _vector_key(embedding: FloatArray) -> bytes:
    return (np.asarray(embedding, dtype=np.float32) + 0.0).tobytes()  # + 0.0: -0.0 and 0.0 are one number


def encode(profile: UserProfile) -> tuple[bytes, bytes]:
    """Return the bytes of ``profile.json`` and ``profile.safetensors``; the same profile, the same bytes.

    Raises:
        ProfileError: It is too large to be read back.
    """
    tensors = {f"{_HEAD_PREFIX}{name}": _plain(tensor) for name, tensor in profile.head.items()}
    tensors[_EMBEDDINGS] = smallest_exact(profile.support.embeddings)
    data = safetensors.numpy.save(tensors)
    header = {
        "type": _TYPE,
        "format_version": profile.format_version,
        "user": profile.user,
        "kind": profile.kind,
        "scale": [float(profile.scale.low), float(profile.scale.high)],
        "bundle_id": profile.bundle_id,
        "bundle_revision": profile.bundle_revision,
        "embedding_id": profile.embedding_id,
        "created_at": profile.created_at,
        "adaptation": None if profile.adaptation is None else dataclasses.asdict(profile.adaptation),
        "ratings": list(zip(profile.support.images, profile.ratings.tolist(), strict=True)),
        "tensors": {"sha256": hashlib.sha256(data).hexdigest()},
    }
    try:
        text = json.dumps(header, indent=1, sort_keys=True, allow_nan=False, default=float).encode() + b"\n"
    except ValueError as error:
        raise ProfileError("the figures of the adaptation must be finite numbers or None") from error
    if len(text) > MAX_HEADER_BYTES or len(data) > MAX_TENSORS_BYTES:
        raise ProfileError(
            f"the profile of {profile.user!r} is too large: {len(text) >> 20} MB of ratings and "
            f"{len(data) >> 20} MB of tensors; at most {MAX_HEADER_BYTES >> 20} MB and "
            f"{MAX_TENSORS_BYTES >> 20} MB can be stored"
        )
    return text, data


def tensors_checksum(header: bytes) -> str:
    """Return the hex SHA-256 of the tensors that a ``profile.json`` belongs to.

    Raises:
        ProfileFormatError: The header is damaged or newer.
    """
    checksum = _object(_parse(header), "tensors").get("sha256")
    if not (isinstance(checksum, str) and len(checksum) == 64 and set(checksum) <= set("0123456789abcdef")):
        raise ProfileFormatError(f"{HEADER_NAME}: the checksum of the tensors is missing or damaged")
    return checksum


def user_of(header: bytes) -> str:
    """Return whose profile a ``profile.json`` is.

    Raises:
        ProfileFormatError: The header is damaged or newer.
    """
    return _text(_parse(header), "user")


def decode(header: bytes, tensors: bytes) -> UserProfile:
    """Read a profile back.

    Args:
        header: Content of ``profile.json``.
        tensors: Content of ``profile.safetensors``.

    Raises:
        ProfileFormatError: Damaged, foreign, newer, or the two do not belong together.
    """
    data = _parse(header)
    if hashlib.sha256(tensors).hexdigest() != tensors_checksum(header):
        raise ProfileFormatError(f"the tensors are damaged or of another profile (checksum in {HEADER_NAME})")
    arrays = _load_tensors(tensors)
    embeddings = arrays.pop(_EMBEDDINGS, None)
    foreign = [name for name in arrays if not name.startswith(_HEAD_PREFIX)]
    if embeddings is None or embeddings.dtype not in (np.float16, np.float32) or foreign:
        raise ProfileFormatError(f"tensors must be {_HEAD_PREFIX}* and {_EMBEDDINGS} (float16 or float32)")
    images, ratings = _ratings(data)
    try:
        scale = RatingScale(*_numbers(data.get("scale"), "scale", 2))
        _check_ratings(scale, ratings)
        support = SupportSet(embeddings.astype(np.float32), scale.to_unit(ratings), images)
        return UserProfile(
            user=_text(data, "user"),
            kind=_text(data, "kind"),
            scale=scale,
            bundle_id=_text(data, "bundle_id"),
            bundle_revision=_text(data, "bundle_revision"),
            embedding_id=_text(data, "embedding_id"),
            head={name.removeprefix(_HEAD_PREFIX): tensor for name, tensor in sorted(arrays.items())},
            support=support,
            ratings=ratings,
            adaptation=_adaptation(data.get("adaptation")),
            created_at=_text(data, "created_at"),
        )
    except (RatingError, ProfileError) as error:
        raise ProfileFormatError(str(error)) from error


def zip_members(header: bytes, tensors: bytes) -> bytes:
    """Return a zip file of the two, not compressed and without dates: the same members, the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((HEADER_NAME, header), (TENSORS_NAME, tensors)):
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.create_system = 3  # Unix on every system: the bytes must not tell where they were made
            info.external_attr = 0o600 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def unzip_members(data: bytes) -> tuple[bytes, bytes]:
    """Return the header and the tensors of a portable profile.

    Raises:
        ProfileFormatError: Not a zip file of exactly these two members, damaged, or larger than allowed.
    """
    limits = {HEADER_NAME: MAX_HEADER_BYTES, TENSORS_NAME: MAX_TENSORS_BYTES}
    _check_zip_end(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sorted(member.orig_filename for member in members) != sorted(limits):
                raise ProfileFormatError(f"must hold {' and '.join(limits)} once each, and nothing else")
            for member in members:
                if member.flag_bits & _ZIP_ENCRYPTED or member.compress_type not in _ZIP_METHODS:
                    raise ProfileFormatError(f"{member.filename} is encrypted or oddly compressed")
                if member.file_size > limits[member.filename]:
                    limit = limits[member.filename] >> 20
                    raise ProfileFormatError(f"{member.filename} is larger than {limit} MB")
            return archive.read(HEADER_NAME), archive.read(TENSORS_NAME)
    except ProfileFormatError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise ProfileFormatError(f"damaged zip file ({error})") from error


def _check_zip_end(data: bytes) -> None:
    """Refuse a huge table of contents before zipfile makes an object of every entry."""
    if len(data) < _ZIP_END.size:
        raise ProfileFormatError("not a zip file")
    signature, *_, directory_bytes, _, comment_bytes = _ZIP_END.unpack(data[-_ZIP_END.size :])
    before = len(data) - _ZIP_END.size - _ZIP64_LOCATOR_BYTES
    is_zip64 = before >= 0 and data[before:].startswith(_ZIP64_LOCATOR)
    if signature != b"PK\x05\x06" or comment_bytes:
        raise ProfileFormatError("not a zip file, or cut off at its end")
    if is_zip64 or directory_bytes > _MAX_ZIP_DIRECTORY_BYTES:
        raise ProfileFormatError(f"must hold {HEADER_NAME} and {TENSORS_NAME} once each, and nothing else")


def _plain(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a tensor in the order of axes and bytes that safetensors stores."""
    return np.array(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")


def smallest_exact(embeddings: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Store as float16 what float16 can say, as all embeddings of a backbone; else as float32.

    Args:
        embeddings: (K, D), any floating type.
    """
    single = np.asarray(embeddings, dtype=np.float32)
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    return _plain(half if np.array_equal(half.astype(np.float32), single) else single)


def _load_tensors(data: bytes) -> dict[str, npt.NDArray[Any]]:
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise ProfileFormatError(f"damaged tensors ({error})") from error


def _parse(header: bytes) -> dict[str, Any]:
    try:
        data = json.loads(header, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProfileFormatError(f"{HEADER_NAME}: damaged JSON ({error})") from error
    if not isinstance(data, dict) or data.get("type") != _TYPE:
        raise ProfileFormatError(f'{HEADER_NAME}: type must be "{_TYPE}": not a profile')
    version = data.get("format_version")
    if type(version) is not int or version < 1:
        raise ProfileFormatError(f"{HEADER_NAME}: format_version must be a number from 1")
    if version > FORMAT_VERSION:
        raise ProfileFormatError(
            f"made by a newer piaa-sdk (format_version {version}; this one reads up to {FORMAT_VERSION}). "
            f"Upgrade with: {UPGRADE}"
        )
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number here")


def _object(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if not isinstance(value, dict):
        raise ProfileFormatError(f"{HEADER_NAME}: {key} must be an object")
    return value


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise ProfileFormatError(f"{HEADER_NAME}: {key} must be text")
    return value


def _numbers(value: object, what: str, count: int | None = None) -> list[float]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise ProfileFormatError(f"{HEADER_NAME}: {what} must be a list of {count or 'only'} numbers")
    try:
        numbers = [float(number) for number in value if type(number) in (int, float)]
    except OverflowError as error:
        raise ProfileFormatError(f"{HEADER_NAME}: a number in {what} is too large") from error
    if len(numbers) != len(value) or not all(map(math.isfinite, numbers)):
        raise ProfileFormatError(f"{HEADER_NAME}: {what} must hold finite numbers")
    return numbers


def _ratings(data: Mapping[str, Any]) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    rows = data.get("ratings")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ProfileFormatError(f"{HEADER_NAME}: ratings must be a list of [image, rating]")
    if not all(isinstance(image, str) for image, _ in rows):
        raise ProfileFormatError(f"{HEADER_NAME}: the images of ratings must be text")
    values = _numbers([rating for _, rating in rows], "ratings")
    return tuple(image for image, _ in rows), np.array(values, dtype=np.float64)


def _check_ratings(scale: RatingScale, ratings: FloatArray) -> None:
    outside = [rating for rating in ratings.tolist() if rating not in scale]
    if ratings.ndim != 1 or outside:
        raise ProfileError(f"ratings must be one vector on the scale {scale}, not {outside or ratings.shape}")


def _adaptation(value: object) -> Adaptation | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ProfileFormatError(f"{HEADER_NAME}: adaptation must be an object or null")
    counts = _numbers([value.get("shots"), value.get("pairs")], "adaptation", 2)
    figures = [
        None if value.get(name) is None else _numbers([value[name]], name, 1)[0]
        for name in ("prior_accuracy", "personal_accuracy")
    ]
    interval = value.get("interval")
    bounds = None if interval is None else _numbers(interval, "interval", 2)
    verdict = value.get("verdict")
    if verdict not in list(Verdict):
        raise ProfileFormatError(f"{HEADER_NAME}: verdict must be one of {', '.join(Verdict)}")
    return Adaptation(
        shots=int(counts[0]),
        pairs=int(counts[1]),
        prior_accuracy=figures[0],
        personal_accuracy=figures[1],
        interval=None if bounds is None else (bounds[0], bounds[1]),
        verdict=Verdict(verdict),
    )


def _check_date(text: str) -> None:
    try:
        aware = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise ProfileError(f"created_at must be an ISO 8601 date with a time zone, not {text[:80]!a}")
