"""Where profiles are kept on this machine, and how they are carried to another one.

A person's folder::

    profile.json                       who, the ratings, the figures, and the checksum of the tensors
    profile-<checksum>.safetensors     the head and the embeddings of the rated pictures
    backups/<date>-<checksum>.piaa     profiles that were replaced

The tensors are written first, under a name of their own; then ``profile.json`` is replaced, which is one
step for the operating system. So a reader, a crash or a full disk meets the old profile or the new one,
whole, and a file that does not belong to the other is noticed by its checksum.

A portable profile (``NAME.piaa``) is a zip file of exactly ``profile.json`` and ``profile.safetensors``. It
is meant to be given away, so the names of its images are stripped of their folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import secrets
import shlex
import shutil
import time
import unicodedata
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.bundle import EMBEDDED_FOLDER
from piaa_sdk.errors import (
    OutputError,
    PiaaError,
    PiaaWarning,
    ProfileError,
    ProfileExistsError,
    ProfileFormatError,
    ProfileMismatchError,
    ProfileNotFoundError,
    RatingError,
)
from piaa_sdk.files import PARTIAL_SUFFIX, read_regular_file, write_atomically
from piaa_sdk.fine_tuned import FINE_TUNED
from piaa_sdk.folders import data_folder
from piaa_sdk.images import printable, refuse_photo_name
from piaa_sdk.user_profile import (
    HEADER_NAME,
    MAX_HEADER_BYTES,
    MAX_PORTABLE_BYTES,
    MAX_TENSORS_BYTES,
    MergedRatings,
    UserProfile,
    clean_name,
    decode,
    encode,
    merge_ratings,
    tensors_checksum,
    unzip_members,
    user_of,
    zip_members,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from piaa_sdk.array_types import FloatArray, PathInput
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.rating_scale import RatingScale

__all__ = [
    "MergedRatings",
    "ProfileStore",
    "UserProfile",
    "check_kind",
    "check_model",
    "check_network",
    "check_same_ratings",
    "check_scale",
    "clean_name",
    "folder_name",
    "merge_ratings",
    "other_ratings",
    "portable_name",
    "target_of_export",
    "write_export",
]

PORTABLE_SUFFIX = ".piaa"

_BACKUPS = "backups"
_LOCK = ".lock"
_DELETED_PREFIX = ".deleted-"
_LOCK_SECONDS = 30.0
_READ_ATTEMPTS = 20
_SECONDS_BETWEEN_ATTEMPTS = 0.01
_MAX_SLUG = 32
_MAX_LISTED = 10
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{p}{n}" for p in ("com", "lpt") for n in range(10)}
)


def check_kind(profile: UserProfile, kind: str) -> None:
    """Check that a profile was learned as the caller goes on with it.

    Raises:
        ProfileMismatchError: It was not; the message says what to do.
    """
    if profile.kind == kind:
        return
    name, quoted = printable(profile.user), shlex.quote(profile.user)
    if profile.kind == FINE_TUNED:
        raise ProfileMismatchError(
            f"{name!r} has a fine-tuned network; go on with it with: piaa personalize ratings.csv --user "
            f"{quoted} --method finetune --add, or go back to the closed form with: piaa users refit {quoted}"
        )
    raise ProfileMismatchError(
        f"the profile of {name!r} is of the kind {profile.kind!r}, this version reads {kind!r}; "
        "update piaa-sdk"
    )


def check_network(profile: UserProfile, bundle: ModelBundle) -> None:
    """Check that a person's own network belongs to a model.

    Args:
        profile: Of the kind ``fine-tuned``.
        bundle: The model, with the person's graph in place of its own.

    Raises:
        ProfileMismatchError: It was tuned from another model, or for pictures prepared in another way.
    """
    if profile.bundle_id == bundle.bundle_id and profile.embedding_id == bundle.embedding_id:
        return
    raise ProfileMismatchError(
        f"the network of {printable(profile.user)!r} was fine-tuned from {profile.bundle_id} "
        f"{profile.bundle_revision[:12]}, this is {bundle.bundle_id} {bundle.bundle_revision[:12]}; name "
        f"that model with --model, or tune anew with: piaa personalize ratings.csv --user "
        f"{shlex.quote(profile.user)} --method finetune --replace"
    )


def check_model(
    profile: UserProfile, bundle: ModelBundle, *, kind: str, only_embeddings: bool = False
) -> None:
    """Check that a model can go on with what another run has learned.

    Args:
        profile: What was learned.
        bundle: The model.
        kind: How the heads of this version are learned.
        only_embeddings: Whether the head will be learned again, so that the same embeddings are enough.

    Raises:
        ProfileMismatchError: It cannot; the message says what to do.
    """
    check_kind(profile, kind)
    name = printable(profile.user)
    is_other = profile.embedding_id != bundle.embedding_id
    model = "" if bundle.folder == EMBEDDED_FOLDER else f" --model {shlex.quote(bundle.name)}"
    if is_other or not (only_embeddings or profile.bundle_revision == bundle.bundle_revision):
        raise ProfileMismatchError(
            f"the profile of {name!r} was made for {profile.bundle_id} {profile.bundle_revision[:12]}, "
            f"this is {bundle.bundle_id} {bundle.bundle_revision[:12]}; learn it again from the stored "
            f"ratings with: piaa users refit {shlex.quote(profile.user)}{model}"
        )


def check_scale(profile: UserProfile, scale: RatingScale | None) -> None:
    """Check that a stated scale is the one that a profile's ratings are stored on.

    Args:
        profile: Whose ratings stay.
        scale: What was stated; None if nothing was.

    Raises:
        RatingError: It is another one.
    """
    if scale is not None and scale != profile.scale:
        raise RatingError(
            f"the ratings of {printable(profile.user)!r} are stored on the scale {profile.scale}; "
            "leave the scale out, or replace them (--replace)"
        )


def check_same_ratings(
    profile: UserProfile, images: Sequence[str], ratings: Sequence[float] | FloatArray
) -> None:
    """Check that ratings are exactly those of a profile, which may then be learned again.

    Args:
        profile: What is stored.
        images: K names.
        ratings: (K,), rating units.

    Raises:
        ProfileExistsError: They are others, and would take the place of what is stored.
    """
    if len(images) != len(profile.support) or not profile.holds(images, ratings):
        raise other_ratings(profile)


def other_ratings(profile: UserProfile) -> ProfileExistsError:
    """Return what is raised where other ratings than a profile's would take their place."""
    return ProfileExistsError(
        f"{len(profile.support)} other ratings of {printable(profile.user)!r} are stored; "
        "add these to them (--add) or put these in their place (--replace)"
    )


def folder_name(user: str) -> str:
    """Name a person's folder: readable, and told apart by a digest where files are not by case or accent.

    Args:
        user: The name, as ``clean_name`` spells it.
    """
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{_slug(user) or 'user'}-{digest}"


def portable_name(user: str, suffix: str = PORTABLE_SUFFIX) -> str:
    """Return a file name for what is written of a person that is safe on every system.

    Args:
        user: Whose.
        suffix: How it ends; by default as a portable profile.

    Raises:
        ProfileError: The name cannot be one.
    """
    name = clean_name(user)
    slug = _slug(name)
    return (folder_name(name) if slug in {"", *_WINDOWS_DEVICES} else slug) + suffix


def target_of_export(path: PathInput, name: str, *, replace: bool) -> Path:
    """Find the file that an export goes to, and refuse what must not be written over.

    Args:
        path: The file, or a folder.
        name: What the file is called in a folder.
        replace: Write over a file that is there.

    Raises:
        OutputError: The file is there already, or its name is one for a photo.
    """
    target = Path(path)
    with _export_failures(target):
        target = target / name if target.is_dir() else target
        refuse_photo_name(target)
        if target.exists() and not replace:
            raise OutputError(
                f"{printable(str(target))}: is there already; choose another name, "
                "or write over it with --force"
            )
    return target


def write_export(target: Path, data: bytes) -> None:
    """Write an exported file, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with _export_failures(target):
        write_atomically(target, data)


@contextlib.contextmanager
def _export_failures(target: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{printable(str(target))}: cannot be written: {reason}") from error


class ProfileStore:
    """The profiles of this machine, one folder per person.

    Reading never waits; writing is done by one process at a time. Ratings are never lost: a profile whose
    ratings are not all in the one that replaces it is kept as a backup.

    Args:
        folder: Where; by default ``profiles`` in the user data folder of the platform (or ``PIAA_HOME``).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = data_folder() / "profiles" if folder is None else folder

    def load(self, user: str) -> UserProfile:
        """Return a person's profile.

        Raises:
            ProfileNotFoundError: Nobody of that name is stored.
            ProfileFormatError: The profile is damaged or newer.
            ProfileError: The name cannot be one, or the profile cannot be read.
        """
        name = clean_name(user)
        folder = self._folder_of(name)
        try:
            header, tensors = _read_pair(folder)
        except FileNotFoundError as error:
            raise self._not_found(name) from error
        except OSError as error:
            raise ProfileError(f"{printable(str(folder))}: {error.strerror or error}") from error
        try:
            profile = decode(header, tensors)
            if profile.user != name:
                raise ProfileFormatError(f"it is the profile of {profile.user!r}")
        except ProfileFormatError as error:
            raise ProfileFormatError(
                f"profile of {name!r} in {printable(str(folder))}: {error}; a backup may be in {_BACKUPS}/"
            ) from error
        return profile

    def save(self, profile: UserProfile, *, backup: bool = False) -> None:
        """Store a profile in place of what was stored for the person.

        Args:
            profile: What to store.
            backup: Keep what is replaced even if all its ratings are in the new profile. What holds other
                ratings, or cannot be read, is always kept.

        Raises:
            OutputError: It cannot be written; what was stored is untouched.
            ProfileError: It is too large.
        """
        self._write(profile, backup=backup, replace=True)

    def delete(self, user: str) -> None:
        """Forget a person: profile, ratings and backups.

        Raises:
            ProfileNotFoundError: Nobody of that name is stored.
            OutputError: The files cannot be removed.
        """
        name = clean_name(user)
        folder = self._folder_of(name)
        if not folder.is_dir():
            raise self._not_found(name)
        with self._writing(name):
            if not folder.is_dir():  # deleted by another process meanwhile
                raise self._not_found(name)
            # Renamed first, so that nobody meets a profile that is half gone.
            doomed = self.folder / f"{_DELETED_PREFIX}{secrets.token_hex(8)}"
            folder.rename(doomed)
            shutil.rmtree(doomed)

    def names(self) -> list[str]:
        """Return who is stored, in alphabetical order; a profile that cannot be read is a warning."""
        names = []
        for folder in self._folders():
            try:
                names.append(self._name_in(folder))
            except (OSError, ProfileFormatError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                warnings.warn(f"{printable(str(folder))}: left out: {reason}", PiaaWarning, stacklevel=2)
        return sorted(names, key=lambda name: (name.casefold(), name))

    def backups(self, user: str) -> list[Path]:
        """Return the files of a person's replaced profiles, the oldest first; ``import_file`` reads them."""
        folder = self._folder_of(clean_name(user)) / _BACKUPS
        return sorted(folder.glob(f"*{PORTABLE_SUFFIX}"))

    def export_file(self, user: str, path: PathInput, *, replace: bool = False) -> Path:
        """Write a person's profile to one portable file; the same profile gives the same bytes.

        The file is made to be given away: of each image it names the file only, not the folder.

        Args:
            user: Whose.
            path: The file, or a folder that gets ``portable_name(user)``.
            replace: Write over a file that is there.

        Returns:
            The file.

        Raises:
            ProfileNotFoundError: Nobody of that name is stored.
            ProfileFormatError: The stored profile is damaged.
            OutputError: The file is there already, its name is one for a photo, or it cannot be written.
        """
        profile = self.load(user)
        names = tuple(re.split(r"[/\\]", name)[-1] for name in profile.support.images)
        support = dataclasses.replace(profile.support, images=names)
        data = zip_members(*encode(dataclasses.replace(profile, support=support)))
        target = target_of_export(path, portable_name(user), replace=replace)
        write_export(target, data)
        return target

    def import_file(self, path: PathInput, *, user: str | None = None, replace: bool = False) -> UserProfile:
        """Store a portable profile.

        Args:
            path: A file that ``export_file`` wrote, or a backup.
            user: Name to store it under; by default the one in the file.
            replace: Store it in place of a profile of that name, which is kept as a backup.

        Returns:
            The profile as stored.

        Raises:
            ProfileNotFoundError: There is no such file.
            ProfileFormatError: The file is damaged, no profile or newer.
            ProfileExistsError: The name is taken and ``replace`` is False.
            ProfileError: The name cannot be one.
            OutputError: It cannot be stored.
        """
        source = printable(os.fspath(path))
        try:
            profile = decode(*unzip_members(read_regular_file(path, MAX_PORTABLE_BYTES)))
        except FileNotFoundError as error:
            raise ProfileNotFoundError(f"{source}: no such file") from error
        except OSError as error:
            raise ProfileFormatError(f"{source}: {error.strerror or error}") from error
        except ProfileFormatError as error:
            raise ProfileFormatError(f"{source}: {error}") from error
        if user is not None:
            profile = dataclasses.replace(profile, user=user)
        self._write(profile, backup=True, replace=replace)
        return profile

    def _write(self, profile: UserProfile, *, backup: bool, replace: bool) -> None:
        header, tensors = encode(profile)
        folder = self._folder_of(profile.user)
        with self._writing(profile.user):
            if not replace and (folder / HEADER_NAME).exists():
                raise ProfileExistsError(
                    f"a profile of {profile.user!r} is stored already; "
                    "choose another name, or replace it (--replace), which keeps a backup"
                )
            folder.mkdir(exist_ok=True)
            try:
                _keep_old(folder, profile, backup=backup)
                write_atomically(folder / _tensors_name(tensors_checksum(header)), tensors)
                write_atomically(folder / HEADER_NAME, header)
            finally:
                _sweep(folder)

    @contextlib.contextmanager
    def _writing(self, user: str) -> Iterator[None]:
        """Be the one process that writes; what the operating system refuses becomes an OutputError."""
        import filelock

        shown = printable(str(self.folder))
        refused = f"the profile of {user!r} could not be changed in {shown}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / _LOCK, timeout=_LOCK_SECONDS).acquire()
        except filelock.Timeout as error:
            raise OutputError(
                f"{shown}: another process has been writing profiles for {_LOCK_SECONDS:g} seconds; "
                "try again when it is done"
            ) from error
        # A RuntimeError says that the file system knows no locks; later on it would be a fault of ours.
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{refused}: {getattr(error, 'strerror', None) or error}") from error
        with lock:
            try:
                for leftover in self.folder.glob(f"{_DELETED_PREFIX}*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                yield
            except PiaaError:
                raise
            except OSError as error:
                raise OutputError(f"{refused}: {error.strerror or error}") from error

    def _folder_of(self, user: str) -> Path:
        return self.folder / folder_name(user)

    def _folders(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob(f"[!.]*/{HEADER_NAME}"))

    def _name_in(self, folder: Path) -> str:
        name = user_of(read_regular_file(folder / HEADER_NAME, MAX_HEADER_BYTES))
        if folder_name(name) != folder.name:
            raise ProfileFormatError(f"the profile of {name!r} does not belong in this folder")
        return name

    def _not_found(self, user: str) -> ProfileNotFoundError:
        known = []
        for folder in self._folders():
            with contextlib.suppress(OSError, ProfileFormatError):
                known.append(self._name_in(folder))
        if not known:
            return ProfileNotFoundError(
                f"no profile of {user!r}: nobody is stored yet; make one with: piaa personalize ratings.csv"
            )
        more = " ..." if len(known) > _MAX_LISTED else ""
        return ProfileNotFoundError(
            f"no profile of {user!r}; stored are {', '.join(map(repr, known[:_MAX_LISTED]))}{more}"
        )


def _slug(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:_MAX_SLUG].strip("-")


def _tensors_name(checksum: str) -> str:
    return f"profile-{checksum[:16]}.safetensors"


def _read_pair(folder: Path) -> tuple[bytes, bytes]:
    """Read a header and the tensors it names.

    A writer may replace both between the two readings; then the header is read again.

    Raises:
        FileNotFoundError: There is no header.
        OSError: A file cannot be read.
        ProfileFormatError: The header is damaged, or its tensors are not there.
    """
    for _ in range(_READ_ATTEMPTS):
        header = read_regular_file(folder / HEADER_NAME, MAX_HEADER_BYTES)
        try:
            name = _tensors_name(tensors_checksum(header))
            return header, read_regular_file(folder / name, MAX_TENSORS_BYTES)
        except FileNotFoundError:
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    raise ProfileFormatError(f"{printable(str(folder))}: the tensors that {HEADER_NAME} names are missing")


def _keep_old(folder: Path, profile: UserProfile, *, backup: bool) -> None:
    """Keep what is stored as a backup if asked to, or if it holds what the new profile does not."""
    try:
        header = read_regular_file(folder / HEADER_NAME, MAX_HEADER_BYTES)
    except FileNotFoundError:
        return
    made_at = datetime.now(UTC)
    tensors = _tensors_beside(folder, header)
    try:
        old = decode(header, tensors)
        # A network that was fine-tuned took minutes, and the ratings alone do not bring it back at once.
        is_other_kind = old.kind != profile.kind and old.kind == FINE_TUNED
        needed = backup or is_other_kind or not profile.holds(old.support.images, old.ratings)
        made_at = datetime.fromisoformat(old.created_at).astimezone(UTC)
    except ProfileFormatError:
        needed = True  # damaged or newer: not ours to judge
    if not needed:
        return
    data = zip_members(header, tensors)
    digest = hashlib.sha256(data).hexdigest()[:12]
    backups = folder / _BACKUPS
    if not any(backups.glob(f"*-{digest}{PORTABLE_SUFFIX}")):
        backups.mkdir(exist_ok=True)
        write_atomically(backups / f"{made_at:%Y%m%dT%H%M%SZ}-{digest}{PORTABLE_SUFFIX}", data)


def _tensors_beside(folder: Path, header: bytes) -> bytes:
    """Read the tensors of a header that may be damaged or newer; empty if there are none."""
    files = sorted(folder.glob("profile-*.safetensors"))
    with contextlib.suppress(ProfileFormatError):
        named = folder / _tensors_name(tensors_checksum(header))
        files = [path for path in files if path == named]
    return read_regular_file(files[-1], MAX_TENSORS_BYTES) if files else b""


def _sweep(folder: Path) -> None:
    """Remove what writers that were stopped left behind; what the header names stays."""
    with contextlib.suppress(OSError, ProfileFormatError):
        header = read_regular_file(folder / HEADER_NAME, MAX_HEADER_BYTES)
        named = _tensors_name(tensors_checksum(header))
        for path in [*folder.glob("profile-*.safetensors"), *folder.glob(f".*{PARTIAL_SUFFIX}")]:
            if path.name != named:
                with contextlib.suppress(OSError):
                    path.unlink()
