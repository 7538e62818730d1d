"""What of the Hugging Face Hub lies on this machine already, found without a network and without its client.

The Hub's own cache is read where its client keeps it, in the layout that all its programs share::

    models--<org>--<name>/refs/<branch or tag>     the commit that it stood for when it was last asked for
    models--<org>--<name>/snapshots/<commit>/...   the files of a commit, links or copies

Only the client's constants are imported: a model that is here already must not wait for an HTTP library.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.errors import ModelNotFoundError
from piaa_sdk.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piaa_sdk.array_types import PathInput

DEFAULT_REVISION = "main"

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_CHARACTERS = 96


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository on the Hub at a revision.

    Attributes:
        repository: ``org/name``.
        revision: A branch, a tag or a commit.
    """

    repository: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        is_default = self.revision == DEFAULT_REVISION
        return self.repository if is_default else f"{self.repository}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a whole commit, which never becomes another one."""
        return _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> HubName:
        """Return the same repository at a commit."""
        return HubName(self.repository, commit)


def parse_hub_name(text: str) -> HubName | None:
    """Read ``org/name`` or ``org/name@revision``; None if it cannot be such a name."""
    repository, has_revision, revision = text.partition("@")
    if not is_repository(repository) or (has_revision and not is_revision(revision)):
        return None
    return HubName(repository, revision or DEFAULT_REVISION)


def is_repository(text: str) -> bool:
    """Tell whether the Hub would take a name: ``org/name``, letters, digits and ``-_.``."""
    is_odd = "--" in text or ".." in text or text.endswith(".git")
    return len(text) <= _MAX_CHARACTERS and _REPOSITORY.fullmatch(text) is not None and not is_odd


def is_revision(text: str) -> bool:
    """Tell whether a text can name a branch, tag or commit, and leads nowhere else as a path."""
    is_odd = ".." in text or "//" in text or text.endswith(("/", ".lock"))
    return len(text) <= 2 * _MAX_CHARACTERS and _REVISION.fullmatch(text) is not None and not is_odd


def cache_folder_of(cache_dir: PathInput | None) -> Path:
    """Return the folder of the Hub's cache: the caller's, else what the Hub's own settings say."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Tell whether the Hub's own setting forbids the network (``HF_HUB_OFFLINE=1``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def snapshot_folder(cache: Path, name: HubName) -> Path:
    """Return where the files of a commit lie, or would lie.

    Args:
        cache: The folder of the Hub's cache.
        name: The repository at a commit.
    """
    return _repository_folder(cache, name.repository) / "snapshots" / name.revision


def known_commit(cache: Path, name: HubName) -> str | None:
    """Return the commit that a name stood for when the Hub was last asked; None if it never was.

    Args:
        cache: The folder of the Hub's cache.
        name: The repository at a branch, a tag or a commit.
    """
    if name.is_pinned:
        return name.revision
    try:
        reference = _repository_folder(cache, name.repository) / "refs" / name.revision
        commit = reference.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def snapshots(cache: Path) -> Iterator[tuple[HubName, Path]]:
    """Find what lies in the cache: each repository at each commit, and the folder of its files."""
    for folder in sorted(cache.glob("models--*--*/snapshots/*")):
        repository = folder.parents[1].name.removeprefix("models--").replace("--", "/", 1)
        if is_repository(repository) and _COMMIT.fullmatch(folder.name):
            yield HubName(repository, folder.name), folder


def not_here(name: HubName, file: str, cache: Path, why: str, *, options: str = "") -> ModelNotFoundError:
    """Return what is raised where a file is needed that is not here and cannot be fetched now.

    Args:
        name: What was asked for.
        file: Its file.
        cache: Where it was looked for.
        why: Why it cannot be fetched, a clause.
        options: What the command that fetches it needs besides the name, with a space before it.
    """
    return ModelNotFoundError(
        f"{name}: {file} is not in the cache {str(cache)!r:.300}, and {why}. "
        f"Where there is a network, fetch it with: {download_command(name, cache, options)}"
    )


def download_command(name: HubName | str, cache: Path, options: str = "") -> str:
    """Return the command that fetches a model into a cache.

    Args:
        name: Of the model.
        cache: The folder of the Hub's cache; one of the caller's own has to be named.
        options: What is needed besides the name, with a space before it.
    """
    place = "" if cache == cache_folder_of(None) else f"HF_HUB_CACHE={shlex.quote(str(cache.absolute()))} "
    return f"{place}piaa model download {name}{options}"


def remember(cache: Path, name: HubName, commit: str) -> None:
    """Note which commit a branch or a tag stands for, as the Hub's client does.

    A cache that cannot be written keeps its old note: it is what is used without a network, and no more.
    """
    reference = _repository_folder(cache, name.repository) / "refs" / name.revision
    with contextlib.suppress(OSError):
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, commit.encode("ascii"))


def _repository_folder(cache: Path, repository: str) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"
