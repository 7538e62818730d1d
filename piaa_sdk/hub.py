"""Where a bundle comes from, and where it goes: the package, a folder, or the Hugging Face Hub.

From the Hub, ``config.json`` comes first and is read before anything else is asked for; then come only the
files that it lists and that are needed, all from the one commit, into the Hub's own cache. What is here
already is never asked for again: a commit does not change, and a branch is asked after once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from piaa_sdk import hub_client
from piaa_sdk.announcements import announce
from piaa_sdk.bundle import CONFIG_NAME, EMBEDDED_FOLDER, ModelBundle
from piaa_sdk.errors import (
    HubError,
    ModelFormatError,
    ModelNotFoundError,
    OutputError,
    PiaaWarning,
)
from piaa_sdk.files import read_regular_file
from piaa_sdk.hub_cache import (
    HubName,
    cache_folder_of,
    download_command,
    is_offline,
    is_repository,
    is_revision,
    known_commit,
    not_here,
    parse_hub_name,
    remember,
    snapshot_folder,
    snapshots,
)
from piaa_sdk.manifest import (
    HEAD_NAME,
    HEADS_FOLDER,
    MAX_HEAD_BYTES,
    MAX_JSON_BYTES,
    UPGRADE,
    Manifest,
    is_expected,
    parse_object,
)
from piaa_sdk.terminal import count_of, size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from piaa_sdk.array_types import PathInput
    from piaa_sdk.hub_client import Token

__all__ = [
    "Published",
    "Upload",
    "cached_bundles",
    "fetch",
    "fetch_head",
    "load_bundle",
    "plan_upload",
    "publish",
    "resolve_folder",
    "save_bundle",
]

_LICENSES = ("LICENSE", "NOTICE")
_OFFLINE = "HF_HUB_OFFLINE forbids the network"
_LOCAL_ONLY = "local_files_only forbids the network"


def resolve_folder(model: PathInput | None) -> Path:
    """Find the folder of a bundle on this machine.

    Args:
        model: None for the bundle that comes with the package, else the folder of a bundle.

    Raises:
        ModelNotFoundError: ``model`` is no folder.
    """
    if model is None:
        return EMBEDDED_FOLDER
    name = os.fspath(model)
    found = "nothing"
    try:
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            return folder
        if name and folder.exists():
            found = "a file"
        looked_in = str(folder.absolute())
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # no file can be called that: too long, a NUL, an unknown ~user
        looked_in = name
    raise ModelNotFoundError(
        f"no bundle called {name!r:.200}: looked for a folder {looked_in!r:.300}, found {found}. Give the "
        f"folder of a bundle (it holds {CONFIG_NAME}), the name of one on the Hub (org/name or "
        "org/name@revision), or none for the model that comes with the package"
    )


def load_bundle(
    model: PathInput | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: PathInput | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: Token = None,
    is_whole: bool = False,
) -> ModelBundle:
    """Open a bundle, fetched from the Hub if it is not here.

    Args:
        model: A folder, which wins; else ``org/name`` or ``org/name@revision`` on the Hub; None for the
            bundle that comes with the package.
        revision: Branch, tag or commit on the Hub. With one, ``model`` is the name on the Hub.
        variant: A lighter backbone that the bundle offers, for example ``quantized``.
        cache_dir: Where the Hub's cache is; by default where the Hub's own settings say.
        force_download: Fetch anew what is in the cache already.
        local_files_only: Use what is in the cache and no network.
        token: Token for the Hub; None for the one that is stored there, False for none.
        is_whole: Whether all files are needed, not only those that scoring and learning a person need.

    Raises:
        ModelNotFoundError: No such folder and no such name on the Hub, or not in the cache without a network.
        ModelFormatError: Damaged, or of a newer format; the message says how to fetch it again.
        HubError: The Hub refuses or fails.
        ValueError: Settings that contradict each other.
    """
    if force_download and local_files_only:
        raise ValueError("fetch anew (force_download) or use no network (local_files_only), not both")
    name = _hub_name(model, revision)
    if name is None:
        return ModelBundle.load(resolve_folder(model), variant=variant)
    source = _Source(name, cache_folder_of(cache_dir), token, force_download, local_files_only)
    return source.load(variant, is_whole=is_whole)


def fetch(
    bundle: ModelBundle,
    names: Collection[str] | None = None,
    *,
    token: Token = None,
    is_local: bool = False,
) -> ModelBundle:
    """Return a bundle with more of its files at hand, fetched from where the others came.

    Args:
        bundle: From the Hub or not: of a folder of the caller's, everything is at hand.
        names: Listed files that are needed too, for example ``model.safetensors``; None for all.
        token: As for :func:`load_bundle`.
        is_local: Whether to use no network.

    Raises:
        ModelFormatError: ``config.json`` does not list a name, or the file is of a kind no bundle holds.
        ModelNotFoundError: There is no network and the file is not in the cache.
        HubError: The Hub refuses or fails.
    """
    wanted = set(bundle.checksums if names is None else names)
    for file in sorted(wanted - set(bundle.checksums)):
        bundle.path(file)  # raises, and says so
    if wanted <= bundle.checked or bundle.origin is None:
        return bundle
    name = parse_hub_name(bundle.origin)
    if name is None:
        raise ModelFormatError(f"{bundle.origin!r:.200} is not a name on the Hub at a commit")
    source = _Source(name, bundle.folder.parents[2], token, is_local=is_local)
    manifest = source.manifest(bundle.folder / CONFIG_NAME, name)
    wanted |= bundle.checked
    source.fetch_files(name, manifest, wanted)
    variants = {file: variant for variant, file in manifest.variants.items()}
    return ModelBundle.load(
        bundle.folder, variant=variants.get(bundle.backbone_name), names=wanted, origin=bundle.origin
    )


def fetch_head(
    bundle: ModelBundle,
    user: str,
    folder: str,
    files: Mapping[str, int],
    *,
    token: Token = None,
    is_local: bool = False,
) -> dict[str, bytes] | None:
    """Return the files of a person's published head that lies beside a bundle.

    Args:
        bundle: From the Hub or not.
        user: The person's name.
        folder: The person's folder inside ``heads/``.
        files: Names of the files in it, and how many bytes each may have at most.
        token: As for :func:`load_bundle`.
        is_local: Whether to use no network.

    Returns:
        Content by name; None if nobody of that folder is published there.

    Raises:
        ModelFormatError: A file is too large, or cannot be read.
        ModelNotFoundError: There is no network and it is not known whether there is such a head.
        HubError: The Hub refuses or fails.
    """
    found: dict[str, bytes] = {}
    for file, limit in files.items():
        path = f"{HEADS_FOLDER}/{folder}/{file}"
        try:
            _fetch_head_file(bundle, path, limit, user, token, is_local=is_local)
            found[file] = read_regular_file(bundle.folder / path, limit)
        except ModelNotFoundError as error:
            if not isinstance(error, hub_client.HubFileNotFoundError):
                raise
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            reason = error.strerror or error
            raise ModelFormatError(f"bundle {bundle.name}: {path} cannot be read: {reason}") from error
        if file not in found:
            break
    if found and len(found) < len(files):
        raise ModelFormatError(
            f"bundle {bundle.name}: {HEADS_FOLDER}/{folder} holds {next(iter(found))} only, must hold "
            f"{' and '.join(files)}; ask its publisher"
        )
    return found or None


def cached_bundles(cache_dir: PathInput | None = None) -> list[tuple[HubName, Manifest, int]]:
    """Find the bundles in the Hub's cache: name at a commit, content of ``config.json``, bytes at hand.

    Models of other kinds, and what cannot be read, are left out.
    """
    found = []
    for name, folder in snapshots(cache_folder_of(cache_dir)):
        with contextlib.suppress(OSError, ModelFormatError):
            manifest = Manifest.parse(read_regular_file(folder / CONFIG_NAME, MAX_JSON_BYTES))
            here = [file for file in manifest.files if (folder / file).is_file()]
            found.append((name, manifest, manifest.size_of(here)))
    return found


def save_bundle(
    bundle: ModelBundle, folder: PathInput, *, token: Token = None, is_local: bool = False
) -> Path:
    """Copy a bundle into a folder, whole or not at all.

    Args:
        bundle: What to copy; files that were left out when it was fetched are fetched now.
        folder: Where to; must not be there yet, or be empty.
        token: As for :func:`load_bundle`.
        is_local: Whether to use no network.

    Returns:
        The folder.

    Raises:
        OutputError: Something is there already, or it cannot be written.
        ModelFormatError: A file is damaged, or of a kind that no bundle holds.
        ModelNotFoundError: There is no network and a file is not in the cache.
        HubError: A file has to be fetched, and the Hub refuses or fails.
    """
    target = Path(folder).expanduser()
    try:
        _check_free(target)
        whole = fetch(bundle, token=token, is_local=is_local)
        files = _bundle_files(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            fresh = scratch / "bundle"
            for name, path in files.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, fresh / name)
            ModelBundle.load(fresh)
            _check_free(target)
            if target.is_dir():
                target.rmdir()
            fresh.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OutputError, ModelFormatError, ModelNotFoundError):
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{str(target)!r:.300} cannot be written: {reason}") from error
    return target


@dataclass(frozen=True, slots=True)
class Upload:
    """What would go up to the Hub, and what it tells about people.

    Attributes:
        bundle: The bundle.
        files: Name in the repository -> the file, or its content.
        disclosed: What whoever may read the repository learns about people, one line each; empty if nothing.
    """

    bundle: ModelBundle
    files: Mapping[str, Path | bytes]
    disclosed: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


@dataclass(frozen=True, slots=True)
class Published:
    """What was put on the Hub; as text, where it can be seen.

    Attributes:
        url: Of the commit, or of the pull request.
        commit: 40 hex digits: what ``revision=`` pins it by.
        files: Name in the repository -> bytes.
        disclosed: What whoever may read the repository learns about people, one line each.
    """

    url: str
    commit: str
    files: Mapping[str, int]
    disclosed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.url


def plan_upload(
    bundle: ModelBundle, heads: Mapping[str, bytes] | None = None, disclosed: Collection[str] = ()
) -> Upload:
    """Choose what goes up: what ``config.json`` lists, itself, a licence, and heads if they are given.

    Args:
        bundle: A whole bundle, checked when it was loaded.
        heads: Files of people's heads by name in the repository.
        disclosed: What these tell about the people, one line each.

    Raises:
        ModelFormatError: The bundle lists a file of a kind that no bundle holds.
        ModelNotFoundError: A file was left out when the bundle was fetched.
    """
    files: dict[str, Path | bytes] = dict(_bundle_files(bundle))
    for name in _LICENSES:
        path = bundle.folder / name
        if name not in files and path.is_file() and not path.is_symlink():
            files[name] = path
    return Upload(bundle, files | dict(heads or {}), tuple(disclosed))


def publish(
    upload: Upload,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    commit_message: str | None = None,
    token: Token = None,
) -> Published:
    """Put a bundle on the Hub in one commit.

    Args:
        upload: What to put there.
        repo_id: ``org/name``; made if it is not there.
        private: Whether only its owners may read a repository that is made; None for yes. A repository that
            is there stays what it is; what is private or about people goes into a public one only if this
            is False.
        revision: Branch, made if it is not there; None for ``main``.
        create_pr: Open a pull request instead of changing the branch.
        tag: Name to give the commit, for example ``v1``.
        commit_message: Its first line.
        token: Token for the Hub; None for the one that is stored there.

    Raises:
        HubError: The Hub refuses or fails, what is private would become public, or a head would replace
            that of another person.
        ModelNotFoundError: ``repo_id`` cannot be a name on the Hub.
        ValueError: A tag for a pull request.
    """
    if tag is not None and create_pr:
        raise ValueError("a pull request is no commit yet that a tag can name; leave the tag out")
    for what in filter(None, (revision, tag)):
        if not is_revision(what):
            raise HubError(f"{what!r:.200} cannot be the name of a branch or tag: letters, digits, . _ - /")
    if not is_repository(repo_id):
        raise ModelNotFoundError(f"{repo_id!r:.200} is no name on the Hub, must be org/name")
    _check_network(HubName(repo_id), "a model cannot be published")
    name = HubName(repo_id, revision) if revision else HubName(repo_id)
    is_public = hub_client.is_public(name, token)
    _check_audience(repo_id, is_public, private, upload.disclosed)
    if tag is not None and is_public is not None and hub_client.has_tag(name, tag, token):
        raise HubError(f"{repo_id} has a tag {tag!r} already; a published tag never moves: choose another")
    if is_public is None:
        hub_client.create_repository(name, private=private is not False, token=token)
    if revision is not None and not create_pr:
        hub_client.create_branch(name, token)
    if is_public is not None:
        _check_heads(name, upload.files, token)
    message = commit_message or f"Publish {upload.bundle.bundle_id} {upload.bundle.bundle_revision[:12]}"
    try:
        sizes = upload.sizes
    except OSError as error:
        raise HubError(f"a file of the bundle cannot be read: {error.strerror or error}") from error
    made = hub_client.commit(name, upload.files, message=message, create_pr=create_pr, token=token)
    if tag is not None:
        hub_client.create_tag(name.at(made.commit), tag, token)
    return Published(made.url, made.commit, sizes, upload.disclosed)


@dataclass(frozen=True, slots=True)
class _Source:
    """A name on the Hub, and by which rules its files are looked for."""

    name: HubName
    cache: Path
    token: Token
    is_forced: bool = False
    is_local: bool = False

    def load(self, variant: str | None, *, is_whole: bool) -> ModelBundle:
        pinned, config = self._config()
        manifest = self.manifest(config, pinned)
        with _named(pinned, self.cache):
            wanted = set(manifest.expected_names() if is_whole else manifest.scoring_names(variant))
        folder = snapshot_folder(self.cache, pinned)
        if self.is_forced:
            # What was fetched for another purpose may be what is damaged.
            wanted |= {file for file in manifest.expected_names() if (folder / file).is_file()}
        self.fetch_files(pinned, manifest, wanted)
        if self.is_forced:
            self._fetch_heads_again(pinned, folder)
        bundle = ModelBundle.load(folder, variant=variant, names=wanted, origin=str(pinned))
        # Last, so that a commit that came down in part only never hides a whole one from who has no network.
        if known_commit(self.cache, self.name) != pinned.revision:
            remember(self.cache, self.name, pinned.revision)
        return bundle

    def manifest(self, config: Path, pinned: HubName) -> Manifest:
        """Read ``config.json``, which nobody vouches for."""
        with _named(pinned, self.cache):
            try:
                data = read_regular_file(config, MAX_JSON_BYTES)
            except OSError as error:
                raise ModelFormatError(f"{CONFIG_NAME} cannot be read: {error.strerror or error}") from error
            return Manifest.parse(data)

    def fetch_files(self, pinned: HubName, manifest: Manifest, names: Collection[str]) -> None:
        """Fetch those of the listed files that are not here, or all of them if that is forced."""
        folder = snapshot_folder(self.cache, pinned)
        missing = [file for file in sorted(names) if self.is_forced or not (folder / file).is_file()]
        for file in missing:
            if not is_expected(file):
                raise ModelFormatError(
                    f"bundle {pinned}: {CONFIG_NAME} lists {file!r:.200}, a kind of file that no bundle "
                    "holds; it is not fetched"
                )
        if not missing:
            return
        options = _options_for(missing, manifest)
        self._check_network(pinned, missing[0], options)
        announce(
            f"fetching {pinned.repository} at {pinned.revision[:12]}: {count_of(len(missing), 'file')}, "
            f"{size(manifest.size_of(missing))}, licence {manifest.license}"
        )
        for file in missing:
            self._fetch(pinned, file, manifest.files[file].size, options)

    def _config(self) -> tuple[HubName, Path]:
        """Find ``config.json``, and with it the commit that everything else comes from."""
        known = known_commit(self.cache, self.name)
        here = None if known is None else self.name.at(known)
        path = None if here is None else snapshot_folder(self.cache, here) / CONFIG_NAME
        if here is not None and path is not None and path.is_file() and not self.is_forced:
            if self.name.is_pinned or self.is_local or is_offline():
                return here, path
            try:
                found = hub_client.look_up(self.name, CONFIG_NAME, self.token)
            except hub_client.HubUnavailableError as error:
                warnings.warn(f"{error}. Using the copy of {here} in the cache", PiaaWarning, stacklevel=5)
                return here, path
            except hub_client.HubFileNotFoundError as error:
                raise self._no_bundle() from error
            if found.commit == here.revision:
                return here, path
        self._check_network(self.name, CONFIG_NAME)
        return self._fetched_config()

    def _fetched_config(self) -> tuple[HubName, Path]:
        try:
            found = hub_client.look_up(self.name, CONFIG_NAME, self.token)
            if found.size is not None and found.size > MAX_JSON_BYTES:
                raise ModelFormatError(
                    f"bundle {self.name}: {CONFIG_NAME} has {found.size} bytes, allowed are {MAX_JSON_BYTES}"
                )
            # By its commit: by the name of a branch, the client would note the new commit at once.
            pinned = self.name.at(found.commit)
            path = hub_client.download(pinned, CONFIG_NAME, self.cache, self.token, force=self.is_forced)
        except hub_client.HubUnreachableError as error:
            raise not_here(self.name, CONFIG_NAME, self.cache, error.reason) from error
        except hub_client.HubFileNotFoundError as error:
            raise self._no_bundle() from error
        return pinned, path

    def _fetch(self, pinned: HubName, file: str, expected: int, options: str) -> None:
        try:
            found = hub_client.look_up(pinned, file, self.token)
            if found.size is not None and found.size != expected:
                raise ModelFormatError(
                    f"bundle {pinned}: {file} has {found.size} bytes on the Hub, {CONFIG_NAME} says "
                    f"{expected}; it is not fetched. Ask its publisher, or take another revision"
                )
            hub_client.download(pinned, file, self.cache, self.token, force=self.is_forced)
        except hub_client.HubUnreachableError as error:
            raise not_here(pinned, file, self.cache, error.reason, options=options) from error
        except hub_client.HubFileNotFoundError as error:
            raise ModelFormatError(
                f"bundle {pinned}: {file} is missing on the Hub; {CONFIG_NAME} lists it"
            ) from error

    def _fetch_heads_again(self, pinned: HubName, folder: Path) -> None:
        for path in sorted((folder / HEADS_FOLDER).glob("*/head.*")):
            hub_client.download(
                pinned, path.relative_to(folder).as_posix(), self.cache, self.token, force=True
            )

    def _check_network(self, name: HubName, file: str, options: str = "") -> None:
        if self.is_local or is_offline():
            why = _LOCAL_ONLY if self.is_local else _OFFLINE
            raise not_here(name, file, self.cache, why, options=options)

    def _no_bundle(self) -> ModelNotFoundError:
        return ModelNotFoundError(
            f"{self.name}: no {CONFIG_NAME} in it, so it is not a bundle; is it another kind of model?"
        )


def _hub_name(model: PathInput | None, revision: str | None) -> HubName | None:
    """Settle whether a name on the Hub is meant; None for a folder or the bundle in the package."""
    if not isinstance(model, str):
        if revision is not None:
            raise ValueError("revision is for models on the Hub; name one as org/name")
        return None
    name = parse_hub_name(model)
    if revision is not None:
        if name is None:
            raise ValueError(f"revision is for models on the Hub, and {model!r:.200} is none (org/name)")
        if "@" in model and name.revision != revision:
            raise ValueError(f"{model!r} and revision={revision!r} name two revisions; leave one out")
        if not is_revision(revision):
            raise ModelNotFoundError(f"{revision!r:.200} cannot be the name of a branch, tag or commit")
        return HubName(name.repository, revision)
    return None if name is None or os.path.exists(model) else name  # noqa: PTH110 (pathlib raises on odd names)


def _options_for(files: Collection[str], manifest: Manifest) -> str:
    """Tell what the command that fetches these files needs: by itself it fetches what scoring needs."""
    return "" if set(files) <= set(manifest.scoring_names()) else " --all"


@contextlib.contextmanager
def _named(pinned: HubName, cache: Path) -> Iterator[None]:
    """Say of which bundle ``config.json`` is damaged, and how to get it anew."""
    try:
        yield
    except ModelFormatError as error:
        again = download_command(pinned, cache, " --force")
        repair = "" if UPGRADE in str(error) else f". Fetch it again with: {again}"
        raise ModelFormatError(f"bundle {pinned}: {error}{repair}") from error


def _fetch_head_file(
    bundle: ModelBundle, path: str, limit: int, user: str, token: Token, *, is_local: bool
) -> None:
    name = None if bundle.origin is None else parse_hub_name(bundle.origin)
    if name is None or (bundle.folder / path).is_file():
        return
    cache, options = bundle.folder.parents[2], f" --user {shlex.quote(user)}"
    if is_local or is_offline():
        raise not_here(name, path, cache, _LOCAL_ONLY if is_local else _OFFLINE, options=options)
    try:
        found = hub_client.look_up(name, path, token)
        if found.size is None or found.size > limit:
            raise ModelFormatError(
                f"bundle {name}: {path} has {found.size} bytes, allowed are {limit}; it is not fetched"
            )
        hub_client.download(name, path, cache, token, force=False)
    except hub_client.HubUnreachableError as error:
        raise not_here(name, path, cache, error.reason, options=options) from error


def _bundle_files(bundle: ModelBundle) -> dict[str, Path]:
    """Name all files of a bundle, itself included, and refuse kinds that could run code."""
    odd = [name for name in bundle.checksums if not is_expected(name)]
    if odd:
        raise ModelFormatError(
            f"bundle {bundle.name}: {CONFIG_NAME} lists {odd[0]!r:.200}, a kind of file that no bundle "
            "holds; take it out and write the bundle again"
        )
    files = {name: bundle.path(name) for name in sorted(bundle.checksums)}
    return {CONFIG_NAME: bundle.folder / CONFIG_NAME, **files}


def _check_free(target: Path) -> None:
    is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if (target.exists() or target.is_symlink()) and not is_empty:
        raise OutputError(f"{str(target)!r:.300} is there already; name a folder that is not there yet")


def _check_network(name: HubName, what: str) -> None:
    if is_offline():
        raise HubError(f"{name}: {what}, because {_OFFLINE}; unset it and try again")


def _check_audience(
    repo_id: str, is_public: bool | None, private: bool | None, disclosed: Collection[str]
) -> None:
    """Never show to all what was meant for few."""
    if is_public and private:
        raise HubError(
            f"{repo_id} is public, and this was to be private; make it private on the Hub, or name another"
        )
    if is_public and private is None and disclosed:
        raise HubError(
            f"{repo_id} is public, and what was learned about a person goes into a private repository; name "
            "another, or say that everybody may have it with private=False (--public)"
        )


def _check_heads(name: HubName, files: Mapping[str, Path | bytes], token: Token) -> None:
    """Never put one person's head over another's: folders are told apart by less than names are."""
    for file, content in files.items():
        if not isinstance(content, bytes) or not file.startswith(f"{HEADS_FOLDER}/"):
            continue
        if PurePosixPath(file).name != HEAD_NAME:
            continue
        there, here = _user_of(hub_client.read(name, file, MAX_HEAD_BYTES, token)), _user_of(content)
        if there is not None and there != here:
            raise HubError(
                f"{name}: {file} is the head of {there!r:.200}, and that of {here!r:.200} would replace it; "
                "publish under another name, or delete it there first"
            )


def _user_of(header: bytes | None) -> str | None:
    """Tell whose head it is; None if there is none, or one that is too damaged to be anybody's."""
    with contextlib.suppress(ModelFormatError):
        user = None if header is None else parse_object(header, HEAD_NAME).get("user")
        return user if isinstance(user, str) else None
    return None
