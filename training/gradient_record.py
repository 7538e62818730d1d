"""Gradient maps as they are kept: one safetensors file, with what they are of as JSON in its header.

::

    pictures   (N, S, S, 3) uint8      as the network takes them
    maps       (R, N, S, S) float32    of each of R networks, see training.gradient_maps
    scores     (R, N) float64          on [0, 1]
    ratings    (U, N) float64          of each of U users, on [0, 1]; nan where a user has not rated a picture

The pictures are in the file: one made of a data set is as little to be given away as the data set.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import safetensors
import safetensors.numpy

from piaa_sdk.errors import ModelFormatError, OutputError
from piaa_sdk.files import write_atomically
from training.evaluation_record import Conditions, to_plain
from training.records import texts, whole_number, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

FORMAT_VERSION = 1
KIND = "gradient maps"
STARTS = ("prior", "scratch")

_START_NAMES = {"prior": "the prior", "scratch": "scratch"}
_DIMENSIONS = {"pictures": 4, "maps": 4, "scores": 2, "ratings": 2}
_KINDS_OF_NUMBERS = {"pictures": np.uint8, "maps": np.float32, "scores": np.float64, "ratings": np.float64}


@dataclass(frozen=True, slots=True)
class MappedNetwork:
    """Which network maps are of.

    Attributes:
        user: Position among the users; None is the prior, which is everybody's.
        start: What was adapted: the ``prior``, or a network from ``scratch``.
        epoch: Of the adaptation; 0 before it.
    """

    user: int | None
    start: str
    epoch: int

    def __str__(self) -> str:
        whose = "the prior" if self.user is None else f"user {self.user + 1} from {_START_NAMES[self.start]}"
        return f"{whose}, epoch {self.epoch}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any], users: int) -> Self:
        """Read what ``asdict`` wrote.

        Args:
            data: Parsed JSON.
            users: How many there are.

        Raises:
            KeyError: A part is missing.
            ValueError: A part is no such value.
        """
        user, start = data["user"], data["start"]
        if user is not None and whole_number(user, "user of a network") >= users:
            raise ValueError(f"user of a network is {user}, must be below {users}")
        if start not in STARTS:
            raise ValueError(f"start of a network is {start!r:.80}, must be {' or '.join(STARTS)}")
        return cls(user, start, whole_number(data["epoch"], "epoch of a network"))


@dataclass(frozen=True, slots=True, eq=False)
class GradientMaps:
    """What :func:`training.gradient_mapping.map_gradients` found.

    Attributes:
        method: What tables call the run.
        kind: ``plain`` or ``guided``.
        conditions: Whom the users were drawn from, and how.
        people: (U,) digests of the users.
        epochs: Of which there are maps, rising; the first may be 0, the prior.
        networks: (R,) whose maps they are.
        pictures: (N, S, S, 3) uint8.
        maps: (R, N, S, S), units of [0, 1] per level of a colour, at least 0.
        scores: (R, N), [0, 1].
        ratings: (U, N), [0, 1]; nan where a user has not rated a picture.
        facts: What else is to be known.
        diverged: Networks without maps, because adaptation left the finite numbers.
    """

    method: str
    kind: str
    conditions: Conditions
    people: tuple[str, ...]
    epochs: tuple[int, ...]
    networks: tuple[MappedNetwork, ...]
    pictures: npt.NDArray[np.uint8]
    maps: FloatArray
    scores: FloatArray
    ratings: FloatArray
    facts: Mapping[str, Any]
    diverged: tuple[MappedNetwork, ...] = ()

    def find(self, user: int, start: str, epoch: int) -> int:
        """Return the position of a network among all.

        Args:
            user: Position among the users.
            start: ``prior`` or ``scratch``.
            epoch: Of the adaptation; 0 of the prior is everybody's.

        Raises:
            ModelFormatError: There are no maps of it.
        """
        wanted = MappedNetwork(None if start == "prior" and epoch == 0 else user, start, epoch)
        if wanted in self.diverged:
            raise ModelFormatError(
                f"there are no maps of {wanted}: its adaptation left the finite numbers; draw another user, "
                "or map again with a --seed that draws others"
            )
        if wanted not in self.networks:
            raise ModelFormatError(
                f"there are no maps of user {user + 1} from {start} at epoch {epoch}; make them with: "
                "python -m training gradient-maps (--users, --epochs, --from-scratch)"
            )
        return self.networks.index(wanted)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: The disk refuses.
        """
        record = {
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "kind": self.kind,
            "conditions": to_plain(asdict(self.conditions)),
            "people": list(self.people),
            "epochs": list(self.epochs),
            "networks": [asdict(network) for network in self.networks],
            "diverged": [asdict(network) for network in self.diverged],
            "facts": to_plain(dict(self.facts)),
        }
        tensors = {
            "pictures": self.pictures,
            "maps": self.maps.astype(np.float32),
            "scores": self.scores.astype(np.float64),
            "ratings": self.ratings.astype(np.float64),
        }
        whole = {name: np.array(value, order="C") for name, value in tensors.items()}
        data = safetensors.numpy.save(whole, metadata={KIND: json.dumps(record, allow_nan=False)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that :meth:`save` wrote.

        Raises:
            ModelFormatError: It cannot be read, is something else, of another format, or incomplete.
        """
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                record = json.loads((file.metadata() or {}).get(KIND, "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (OSError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise ModelFormatError(f"{path} cannot be read as {KIND}: {error}") from error
        version = record.get("format_version") if isinstance(record, dict) else None
        if version != FORMAT_VERSION:
            raise ModelFormatError(
                f"{path} holds no {KIND} of format {FORMAT_VERSION} (format_version is {version!r}); make "
                "them with: python -m training gradient-maps"
            )
        try:
            return cls._from(record, tensors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFormatError(
                f"{path} holds incomplete {KIND} ({type(error).__name__}: {error}); make them again"
            ) from error

    @classmethod
    def _from(cls, record: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Self:
        people = texts(record["people"], "people")
        networks, diverged = (
            tuple(MappedNetwork.from_json(network, len(people)) for network in given)
            for given in (record["networks"], record.get("diverged", ()))
        )
        found = cls(
            method=str(record["method"]),
            kind=str(record["kind"]),
            conditions=Conditions.from_json(record["conditions"]),
            people=people,
            epochs=whole_numbers(record["epochs"], "epochs"),
            networks=networks,
            diverged=diverged,
            facts=dict(record["facts"]),
            **{name: tensors[name] for name in _DIMENSIONS},
        )
        found._check()
        return found

    def _check(self) -> None:
        """Refuse epochs and tensors that do not fit together, and numbers that cannot be drawn."""
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"epochs are {list(self.epochs)}, must rise")
        for name, dimensions in _DIMENSIONS.items():
            tensor, wanted_type = getattr(self, name), np.dtype(_KINDS_OF_NUMBERS[name])
            if tensor.ndim != dimensions:
                raise ValueError(f"{name} has {tensor.ndim} dimensions, must have {dimensions}")
            if tensor.dtype != wanted_type:
                raise ValueError(f"{name} is of {tensor.dtype}, must be of {wanted_type}")
        if not (self.people and self.pictures.size):
            raise ValueError(
                f"there are {len(self.people)} users and {len(self.pictures)} pictures, must be some"
            )
        count, size = self.pictures.shape[:2]
        wanted = {
            "pictures": (count, size, size, 3),
            "maps": (len(self.networks), count, size, size),
            "scores": (len(self.networks), count),
            "ratings": (len(self.people), count),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} is {getattr(self, name).shape}, must be {shape}")
        for name in ("maps", "scores"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} are not all finite")
        if np.isinf(self.ratings).any():
            raise ValueError("ratings are not all finite, or nan where there is none")
