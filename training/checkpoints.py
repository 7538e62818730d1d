"""What a training run leaves behind: its tensors, and the story of how they came about.

::

    checkpoint.safetensors   backbone.*  statistics.mean  statistics.std  projection  prior.*
    run.json                 configuration, seeds, versions, commit, digests of people and pictures, figures

No path of the machine and no pickle is in it.
"""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from training.backbone_weights import WEIGHTS_PACKAGE
from training.folder_writing import new_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

FORMAT_VERSION = 1
TENSORS_NAME = "checkpoint.safetensors"
RUN_NAME = "run.json"
PRIOR_PREFIX = "prior."

_PACKAGES = (
    "numpy",
    "pillow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    WEIGHTS_PACKAGE,
)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A training run read back.

    Attributes:
        tensors: The tensors of network and prior by name.
        run: The content of ``run.json``.
    """

    tensors: Mapping[str, npt.NDArray[Any]]
    run: Mapping[str, Any]

    def network(self) -> EmbeddingNetwork:
        """Make the network from pixels to embedding.

        Raises:
            ModelFormatError: Its tensors are incomplete or do not fit.
        """
        own = {name: value for name, value in self.tensors.items() if not name.startswith(PRIOR_PREFIX)}
        # A copy, because torch wants memory that it may write to.
        copies = {name: torch.tensor(value) for name, value in own.items()}
        return EmbeddingNetwork.from_tensors(copies, self.run["readouts"])

    def prior_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the tensors of the prior by the names the prior gives them."""
        own = {name: value for name, value in self.tensors.items() if name.startswith(PRIOR_PREFIX)}
        return {name.removeprefix(PRIOR_PREFIX): value for name, value in own.items()}


def save_checkpoint(
    folder: Path,
    network: EmbeddingNetwork,
    prior_tensors: Mapping[str, npt.NDArray[Any]],
    run: Mapping[str, Any],
    *,
    replace: bool = False,
) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        folder: Where to.
        network: From pixels to embedding.
        prior_tensors: What adaptation starts from, by the names the prior gives them.
        run: Configuration, seeds, figures, ...; what the network reads out, the versions of the packages and
            the commit are added.
        replace: Whether a checkpoint that is there already may be replaced.

    Raises:
        OutputError: The folder exists and may not be replaced, or cannot be written.
        ValueError: ``run`` holds a path of this machine or a number that is not finite.
    """
    story = {"format_version": FORMAT_VERSION, **run, "readouts": network.readouts}
    story |= {"versions": versions(), "git_commit": git_commit()}
    for text in _strings(story):
        if Path(text).is_absolute():
            raise ValueError(f"run.json must not hold paths of this machine, found {text!r}")
    tensors = {name: value.cpu().numpy() for name, value in network.tensors().items()}
    # A copy in C order: safetensors stores the bytes of a transposed view as they lie in memory.
    tensors |= {PRIOR_PREFIX + name: np.array(value, order="C") for name, value in prior_tensors.items()}
    text = json.dumps(story, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with new_folder(folder, replace=replace) as fresh:
        # Sorted names make equal runs equal files.
        (fresh / TENSORS_NAME).write_bytes(safetensors.numpy.save(dict(sorted(tensors.items()))))
        (fresh / RUN_NAME).write_text(text, encoding="utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        ModelNotFoundError: There is none.
        ModelFormatError: It is damaged or of a newer format.
    """
    for name in (TENSORS_NAME, RUN_NAME):
        if not (folder / name).is_file():
            raise ModelNotFoundError(
                f"{folder} holds no {name}; make a checkpoint with: python -m training fit"
            )
    try:
        run = json.loads((folder / RUN_NAME).read_bytes())
        tensors = safetensors.numpy.load_file(folder / TENSORS_NAME)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelFormatError(f"{folder} cannot be read as a checkpoint: {error}") from error
    if isinstance(run, dict) and "readouts" not in run:
        raise ModelFormatError(f"{folder / RUN_NAME} does not say what the network reads out (readouts)")
    if not isinstance(run, dict) or run.get("format_version") not in range(1, FORMAT_VERSION + 1):
        found = run.get("format_version") if isinstance(run, dict) else None
        raise ModelFormatError(
            f"{folder / RUN_NAME}: format_version is {found!r}, this version reads 1 to {FORMAT_VERSION}"
        )
    return Checkpoint(tensors, run)


def versions() -> dict[str, str]:
    """Return what the figures of a run may depend on: interpreter, packages, threads."""
    found = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of this checkout, ``-modified`` added if files differ from it; None outside git."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-modified" if _git("status", "--porcelain", "--untracked-files=no") else commit


def _git(*arguments: str) -> str | None:
    checkout = Path(__file__).parents[1]
    try:
        completed = subprocess.run(
            ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
