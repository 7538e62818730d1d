"""The folder of a meta-training run.

::

    run.json            configuration, seeds, versions, commit, split, and how far it is
    state.safetensors   prior.*  constants.*  learner.*   the last checkpoint, and at the end the result
    log.jsonl           one line per iteration, and one more for each look at validation users

A run that was killed at any point goes on from its last checkpoint and ends with the same result, bit for bit
on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, OutputError
from piaa_sdk.files import write_atomically
from training.checkpoints import git_commit, versions
from training.meta_config import MetaConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from piaa_sdk.finetune.network import AestheticNetwork, Params

FORMAT_VERSION = 1
RUN_NAME = "run.json"
STATE_NAME = "state.safetensors"
LOG_NAME = "log.jsonl"
MODES = ("head", "full")

_CONSTANTS = ("head.mean", "head.std", "pixel_mean", "pixel_std")
_PRIOR, _CONSTANT, _LEARNER = "prior.", "constants.", "learner."


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """A checkpoint.

    Attributes:
        iteration: Iterations done.
        prior: theta after them; at the end of a run what the learner keeps.
        constants: What the network standardizes by.
        learner: What the learner carries on.
    """

    iteration: int
    prior: Params
    constants: Params
    learner: Params


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run's folder and what is written in its ``run.json``.

    Attributes:
        folder: Where.
        record: Content of ``run.json``.
    """

    folder: Path
    record: Mapping[str, Any]

    @classmethod
    def create(
        cls, folder: Path, config: MetaConfig, facts: Mapping[str, Any], *, replace: bool = False
    ) -> Run:
        """Begin a run in a folder of its own.

        Args:
            folder: Where; made.
            config: All settings.
            facts: What else the result depends on: mode, data, split, backbone weights.
            replace: Whether a run that is there already is begun anew.

        Raises:
            OutputError: There is one, or the folder cannot be written.
        """
        if not replace:
            cls.check_free(folder)
        record = {
            "format_version": FORMAT_VERSION,
            "configuration": config.to_dict(),
            **facts,
            "versions": versions(),
            "git_commit": git_commit(),
            "iterations_done": 0,
            "finished": False,
        }
        run = cls(folder, record)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (STATE_NAME, LOG_NAME):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
        run.write_record()
        return run

    @staticmethod
    def check_free(folder: Path) -> None:
        """Refuse a folder that a run is in.

        Raises:
            OutputError: There is one.
        """
        if (folder / RUN_NAME).exists():
            raise OutputError(
                f"{folder} holds a run already; go on with it (--resume), begin it anew (--force), or name "
                "another folder"
            )

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Read the record of a run.

        Raises:
            ModelNotFoundError: There is none.
            ModelFormatError: It is damaged or of a newer format.
        """
        path = folder / RUN_NAME
        if not path.is_file():
            raise ModelNotFoundError(
                f"{folder} holds no {RUN_NAME}; begin with: python -m training meta-train"
            )
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ModelFormatError(f"{path} cannot be read: {error}") from error
        version = record.get("format_version") if isinstance(record, dict) else None
        if version != FORMAT_VERSION or "configuration" not in record:
            raise ModelFormatError(
                f"{path} is not the record of a meta-training run that this version reads (format_version "
                f"{version!r}, expected {FORMAT_VERSION})"
            )
        return cls(folder, record)

    @property
    def config(self) -> MetaConfig:
        """All settings."""
        return MetaConfig.from_dict(self.record["configuration"], str(self.folder / RUN_NAME))

    def check_same(self, config: MetaConfig, facts: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings or data.

        Raises:
            ModelFormatError: They differ; says in what.
        """
        # As configurations: a setting that came later has its default in an older record.
        odd = _differences(self.config.to_dict(), config.to_dict())
        wanted = json.loads(json.dumps(facts))
        odd += [name for name, value in wanted.items() if self.record.get(name, False) != value]
        if odd:
            raise ModelFormatError(
                f"{self.folder} was begun with another {' and '.join(odd)}; name another folder, delete "
                "it, or begin anew with meta-train --force"
            )

    def note_resumed(self) -> None:
        """Write into ``run.json`` that a run goes on with other packages, threads or code, if it does.

        Raises:
            OutputError: The disk refuses.
        """
        resumed = list(self.record.get("resumed", ()))
        before = resumed[-1] if resumed else self.record
        packages = versions()
        now: dict[str, Any] = {
            "versions": packages,
            "git_commit": git_commit(),
            "threads": packages["threads"],
        }
        if any(before.get(name) != now[name] for name in ("versions", "git_commit")):
            now["iterations_done"] = self.record["iterations_done"]
            self.write_record(resumed=[*resumed, now])

    def write_record(self, **changes: Any) -> None:
        """Write ``run.json``, with some of it changed."""
        text = json.dumps({**self.record, **changes}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        self._write(RUN_NAME, text.encode())

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return (self.folder / STATE_NAME).exists()

    def save(self, state: RunState, *, finished: bool) -> None:
        """Write a checkpoint: first the tensors, then how far the run is.

        Raises:
            OutputError: The disk refuses; the checkpoint before is whole.
        """
        tensors = {
            **{_PRIOR + name: value for name, value in state.prior.items()},
            **{_CONSTANT + name: value for name, value in state.constants.items()},
            **{_LEARNER + name: value for name, value in state.learner.items()},
        }
        plain = {name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}
        data = safetensors.torch.save(plain, metadata={"iteration": str(state.iteration)})
        self._write(STATE_NAME, data)
        self.write_progress(state.iteration, finished=finished)

    def write_progress(self, iteration: int, *, finished: bool) -> None:
        """Write into ``run.json`` how far the run is, and what its log says in short."""
        lines = self.read_log()
        seconds = [line["seconds"] for line in lines if "seconds" in line]
        validation = [line["validation_srocc"] for line in lines if "validation_srocc" in line]
        figures = {
            "seconds_per_iteration": statistics.median(seconds) if seconds else None,
            "validation_srocc": validation[-1] if validation else None,
        }
        self.write_record(iterations_done=iteration, finished=finished, figures=figures)

    def check_finished(self) -> None:
        """Refuse a run that is not done.

        Raises:
            ModelFormatError: It is not.
        """
        if not (self.record.get("finished") and self.has_checkpoint):
            raise ModelFormatError(
                f"{self.folder} is not finished; go on with it: python -m training meta-train --resume"
            )

    def state_digest(self) -> str:
        """Return what stands for the last checkpoint: hex SHA-256 of its file.

        Raises:
            ModelFormatError: It cannot be read.
        """
        path = self.folder / STATE_NAME
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelFormatError(f"{path} cannot be read: {error.strerror or error}") from error

    def load(self, device: torch.device | None = None) -> RunState | None:
        """Read the last checkpoint; None if there is none yet.

        Raises:
            ModelFormatError: It is damaged.
        """
        path = self.folder / STATE_NAME
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt", device=str(device or "cpu")) as file:
                iteration = int(file.metadata()["iteration"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise ModelFormatError(
                f"{path} cannot be read as a checkpoint: {error}; begin anew with meta-train --force"
            ) from error
        parts = {
            prefix: {
                name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
            }
            for prefix in (_PRIOR, _CONSTANT, _LEARNER)
        }
        return RunState(iteration, parts[_PRIOR], parts[_CONSTANT], parts[_LEARNER])

    def trim_log(self, iteration: int) -> None:
        """Drop the lines of iterations that a run going on will do again, and a last line torn by a crash."""
        if (self.folder / LOG_NAME).exists():
            kept = [json.dumps(line) + "\n" for line in self.read_log() if line["iteration"] < iteration]
            self._write(LOG_NAME, "".join(kept).encode())

    def read_log(self) -> list[dict[str, Any]]:
        """Read the log, all of an iteration as one; what a crash or a full disk left of a line is left out.

        Raises:
            OutputError: The disk refuses.
        """
        path = self.folder / LOG_NAME
        try:
            texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
        lines: list[dict[str, Any]] = []
        for text in texts:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if not isinstance(line, dict) or type(line.get("iteration")) is not int:
                continue
            if lines and lines[-1]["iteration"] == line["iteration"]:
                lines[-1] = {**lines[-1], **line}
            else:
                lines.append(line)
        return lines

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log.

        Raises:
            OutputError: The disk refuses.
        """
        try:
            with (self.folder / LOG_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise OutputError(f"{self.folder / LOG_NAME}: {error.strerror or error}") from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_atomically(self.folder / name, data)
        except OSError as error:
            raise OutputError(f"{self.folder / name} cannot be written: {error.strerror or error}") from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """Return the names of settings that differ, with both values."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{where}{name}.")
        elif old != new:
            found.append(f"{where}{name} ({old}, not {new})")
    return found


def constants_of(network: AestheticNetwork) -> Params:
    """Return what a network standardizes by; it is measured once and not learned."""
    own = network.state_dict()
    return {name: own[name] for name in _CONSTANTS}
