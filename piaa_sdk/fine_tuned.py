"""A network of one person's own, as everything without torch sees it.

Fine-tuning leaves a graph, pixels -> embedding, and a generic head on it whose score is the person's. Both
are kept in the profile, so that scoring, the cache and export treat the profile like a bundle of its own.
How it is made stands in :mod:`piaa_sdk.finetune`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.errors import MissingDependencyError, ProfileFormatError, SupportSetError
from piaa_sdk.head import Prior

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

FINE_TUNED = "fine-tuned"
"""Kind of a profile that holds a network of its own."""

FEWEST_SHOTS = 6
"""With fewer rated pictures too few can be left out to judge by."""

_NEEDED = ("torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript")
_EXTERNAL_WEIGHTS = b"\n\x08location"
"""How protobuf writes the key under which a tensor names another file."""

_LARGEST_STD = 10.0
_GRAPH, _STD, _PRIOR_PREFIX = "graph", "std", "prior."


def check_finetune() -> None:
    """Ask for the packages of fine-tuning at once, before any work.

    Raises:
        MissingDependencyError: One is not installed.
    """
    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingDependencyError("fine-tuning the whole network", "finetune")


def check_shots(count: int) -> None:
    """Ask for enough ratings before any work.

    Raises:
        SupportSetError: There are too few to leave some out.
    """
    if count < FEWEST_SHOTS:
        raise SupportSetError(
            f"{count} rated photos are too few to fine-tune a network; rate at least {FEWEST_SHOTS}, better "
            "20 to 100, or leave --method out"
        )


@dataclass(frozen=True, slots=True)
class FineTuningProgress:
    """How far fine-tuning is.

    Attributes:
        run: Which of the fits it is at, from 1. All but the last judge it on ratings that they leave out.
        runs: How many there are.
        epoch: Epochs done in this fit.
        epochs: How many there are.
        loss: Mean squared error on the rated pictures before the last epoch's step, [0, 1] units squared.
    """

    run: int
    runs: int
    epoch: int
    epochs: int
    loss: float


@dataclass(frozen=True, slots=True)
class FineTuneOptions:
    """What a caller may choose of fine-tuning; what is None follows the bundle.

    Attributes:
        epochs: P.
        learning_rate: alpha_f of eq. 11.
        stops_early: Choose the number of epochs on a fifth of the ratings that the choosing fit leaves out,
            up to ``epochs``.
        bf16: Compute the network in bfloat16: faster on graphics cards that have it, slower on most
            processors.
        folds: Parts of the ratings, each left out once to judge by.
        seed: Of the parts, of dropout and of augmentation.
        progress: Called after each epoch.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    stops_early: bool = False
    bf16: bool = False
    folds: int = 3
    seed: int = 0
    progress: Callable[[FineTuningProgress], None] | None = None

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}, must be at least 2")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}, must be at least 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}, must be above 0 and below 1")


@dataclass(frozen=True, slots=True, eq=False)
class FineTunedHead:
    """What turns embeddings of a person's own network into scores.

    Attributes:
        prior: Its generic score is the person's.
        std: Standard deviation of one rating around it, measured on ratings that were left out, [0, 1] units.
    """

    prior: Prior
    std: float

    def __post_init__(self) -> None:
        """Refuse a standard deviation that no ratings on [0, 1] have.

        Raises:
            ProfileFormatError: It is one.
        """
        if not 0 < self.std < _LARGEST_STD:
            raise ProfileFormatError(
                f"the standard deviation of the network is {self.std:g}, must be above 0 and below "
                f"{_LARGEST_STD:g}; personalize again with --method finetune --replace"
            )

    def predict(
        self, embeddings: FloatArray, raw: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray, None]:
        """Score embeddings (N, D) for this person: scores and standard deviations, (N,) each, [0, 1] units.

        The third is what more ratings could remove of the standard deviation, which is not known here.
        ``raw`` is what ``prior.raw`` gives for them, where it is known.
        """
        scores = self.prior.generic_of(self.prior.raw(embeddings) if raw is None else raw)
        return scores, np.full(len(scores), self.std), None

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the tensors that, with the graph, :func:`unpack` reads."""
        tensors = {_PRIOR_PREFIX + name: tensor for name, tensor in self.prior.to_tensors().items()}
        return {**tensors, _STD: np.array(self.std, dtype=np.float64)}


def pack(graph: bytes, head: FineTunedHead) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a profile that hold a person's own network; :func:`unpack` reads them."""
    return {**head.to_tensors(), _GRAPH: np.frombuffer(graph, dtype=np.uint8)}


def unpack(tensors: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, FineTunedHead]:
    """Return the graph and the head that a profile's tensors hold.

    Raises:
        ProfileFormatError: They hold none.
        ModelFormatError: The head is damaged.
    """
    graph, std = tensors.get(_GRAPH), tensors.get(_STD)
    if graph is None or graph.dtype != np.uint8 or graph.ndim != 1 or std is None or std.size != 1:
        raise ProfileFormatError(
            "the stored network is not complete; personalize again with --method finetune --replace"
        )
    data = graph.tobytes()
    if _EXTERNAL_WEIGHTS in data:  # onnxruntime would read any file beside the working folder
        raise ProfileFormatError(
            "the stored network reads its weights from another file, which no profile does; do not use it"
        )
    own = {
        name.removeprefix(_PRIOR_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(_PRIOR_PREFIX)
    }
    return data, FineTunedHead(Prior.from_tensors(own), float(std.item()))
