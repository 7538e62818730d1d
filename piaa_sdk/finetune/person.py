"""Fine-tune a bundle's whole network to one person (eqs. 9 to 11), judge it, and make a graph of it."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from piaa_sdk.adaptation import adapt, jackknife_interval, pair_agreement
from piaa_sdk.errors import DeviceError, ModelFormatError, SupportSetError
from piaa_sdk.fine_tuned import FineTunedHead, FineTuneOptions, FineTuningProgress, check_shots
from piaa_sdk.finetune.bundle_network import fine_tuning_of, scoring_network_of
from piaa_sdk.finetune.full import Examples, FineTuning, fine_tune, squared_error
from piaa_sdk.finetune.network import params_of, predict
from piaa_sdk.finetune.onnx import graph_with
from piaa_sdk.finetune.scoring_network import tensors_of
from piaa_sdk.graphs import encoded
from piaa_sdk.manifest import BACKBONE_NAME
from piaa_sdk.results import Comparison, SupportSet
from piaa_sdk.user_profile import MAX_TENSORS_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt
    from torch import nn

    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.finetune.network import Params
    from piaa_sdk.head import Prior

    Float64Array = npt.NDArray[np.float64]
    Rows = npt.NDArray[np.intp]

DEFAULT_FINE_TUNING = FineTuning(learning_rate=1e-4, epochs=5)
"""For bundles that say nothing; chosen on people and pictures that the bundle had not met."""

CHUNKS = {"cpu": 4, "cuda": 16}
"""Pictures that go through the network at once. More cost memory, and on a processor time."""

MAX_GRAPH_BYTES = MAX_TENSORS_BYTES - (8 << 20)
"""Beside the graph, a profile's tensors hold the head and the embeddings of the rated pictures."""

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")

_INNER_SHARE = 5  # every fifth rating chooses the number of epochs, if they are to be chosen


@dataclass(frozen=True, slots=True, eq=False)
class FineTuned:
    """A person's own network.

    Attributes:
        graph: ONNX, ``pixels`` -> embedding.
        head: From these embeddings to scores.
        scores: (K,) what torch gives for the rated pictures, [0, 1].
        epochs: Epochs it was tuned for.
    """

    graph: bytes
    head: FineTunedHead
    scores: FloatArray
    epochs: int


class PersonFit:
    """The fits of one person: those that judge, and the one that stays.

    Args:
        bundle: Whose network is tuned.
        prior: The bundle's.
        pixels: (K, S, S, 3) uint8 of the rated pictures.
        ratings: (K,), [0, 1].
        options: What the caller chose.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        SupportSetError: There are too few ratings, or none that differ could be left out.
        ModelFormatError: The bundle does not hold its network, or one too large for a profile.
        DeviceError: There is no such device.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        prior: Prior,
        pixels: PixelArray,
        ratings: FloatArray,
        options: FineTuneOptions,
        device: str = "auto",
    ) -> None:
        check_shots(len(ratings))
        self._bundle, self._prior, self._options = bundle, prior, options
        self._device = _torch_device(device)
        order = np.random.default_rng(options.seed).permutation(len(ratings))
        self._parts = np.array_split(order, options.folds)
        if all(np.ptp(ratings[part]) == 0 for part in self._parts if len(part)):
            raise SupportSetError(
                f"no two of {len(ratings)} ratings that could be left out differ; rate some photos higher"
            )
        with _memory_errors(self._device):
            self._network = scoring_network_of(bundle, prior).to(self._device)
            self._all = Examples(
                torch.from_numpy(pixels).to(self._device),
                torch.tensor(ratings, dtype=torch.float32, device=self._device),
            )
        self._graph_of(self._network.embedding)  # what cannot be stored is said before the fits
        self._network.autocast = torch.bfloat16 if options.bf16 else None
        self._settings = settings_of(bundle, options)
        self._theta = params_of(self._network)
        self._ratings: Float64Array = np.asarray(ratings, dtype=np.float64)
        self._fits = 0

    @property
    def _runs(self) -> int:
        return (1 + self._options.stops_early) * (self._options.folds + 1)

    def compare(self, embeddings: FloatArray) -> Comparison:
        """Judge generic, closed-form and fine-tuned scores on parts of the ratings that no fit has seen.

        Args:
            embeddings: (K, D) of the rated pictures by the bundle's own backbone.

        Raises:
            DeviceError: There is not enough memory.
            DivergenceError: A loss is not finite.
        """
        shots = len(self._ratings)
        generic = np.asarray(self._prior.generic(embeddings), dtype=np.float64)
        judged = np.zeros((shots, shots), dtype=bool)
        agreements = np.zeros((3, shots, shots))
        residuals = []
        for left_out in self._parts:
            kept = np.setdiff1d(np.arange(shots), left_out)
            tuned = self._tuned_scores(kept, left_out)
            residuals.append(self._ratings[left_out] - tuned)
            ratings = self._ratings[left_out]
            block = np.ix_(left_out, left_out)
            judged[block] = ratings[:, None] != ratings
            closed = self._closed_form_scores(embeddings, kept, left_out)
            for agreement, scores in zip(agreements, (generic[left_out], closed, tuned), strict=True):
                agreement[block] = pair_agreement(scores, ratings)
        shares = [float(agreement[judged].mean()) for agreement in agreements]
        kept_apart = np.where(judged, agreements, 0)
        return Comparison(
            shots=shots,
            pairs=int(np.triu(judged).sum()),
            generic_accuracy=shares[0],
            closed_form_accuracy=shares[1],
            fine_tuned_accuracy=shares[2],
            interval=jackknife_interval(kept_apart[2] - kept_apart[1], judged),
            generic_interval=jackknife_interval(kept_apart[2] - kept_apart[0], judged),
            std=float(np.sqrt(np.mean(np.concatenate(residuals) ** 2))),
        )

    def tune(self, std: float) -> FineTuned:
        """Tune the network to all ratings, and make a graph of it.

        Args:
            std: Of one rating around the score, as :meth:`compare` has measured it, [0, 1] units.

        Raises:
            DeviceError: There is not enough memory.
            DivergenceError: A loss is not finite.
            ModelFormatError: The network cannot be exported.
        """
        everything = np.arange(len(self._ratings))
        params, epochs = self._fit(everything)
        self._network.autocast = None  # the graph computes in float32
        scores = self._predict(params, everything)
        embedding, prior = self._network.parts_with(params)
        return FineTuned(self._graph_of(embedding), FineTunedHead(prior, std), scores, epochs)

    def _graph_of(self, embedding: nn.Module) -> bytes:
        metadata = {"bundle_id": self._bundle.bundle_id, "license": self._bundle.license}
        path = self._bundle.path(BACKBONE_NAME)
        graph = encoded(graph_with(path, tensors_of(embedding), metadata=metadata))
        if len(graph) > MAX_GRAPH_BYTES:
            raise ModelFormatError(
                f"{path}: the network has {len(graph) / 1e6:.0f} MB, a profile holds "
                f"{MAX_GRAPH_BYTES / 1e6:.0f}; fine-tune a smaller one, or leave --method out"
            )
        return graph

    def _tuned_scores(self, kept: Rows, left_out: Rows) -> Float64Array:
        params, _ = self._fit(kept)
        return self._predict(params, left_out)

    def _closed_form_scores(self, embeddings: FloatArray, kept: Rows, left_out: Rows) -> Float64Array:
        ratings = self._ratings[kept]
        if np.ptp(ratings) == 0:  # nothing to learn from: what is left is the generic score
            return np.asarray(self._prior.generic(embeddings[left_out]), dtype=np.float64)
        support = SupportSet(embeddings[kept], ratings, tuple(map(str, kept)))
        scores: Float64Array = adapt(self._prior, support).predict(embeddings[left_out])[0]
        return scores

    def _fit(self, rows: Rows) -> tuple[Params, int]:
        """Tune to some of the ratings; return the tensors and how many epochs it took."""
        epochs = self._settings.epochs
        if self._options.stops_early:
            epochs = self._best_epochs(rows)
        return self._descend(rows, epochs), epochs

    def _best_epochs(self, rows: Rows) -> int:
        """Choose the number of epochs by the error on a fifth of these ratings, which the fit leaves out."""
        shuffled = np.random.default_rng([self._options.seed, len(rows)]).permutation(rows)
        inner, watched = shuffled[len(rows) // _INNER_SHARE + 1 :], shuffled[: len(rows) // _INNER_SHARE + 1]
        ratings = self._all.ratings[torch.from_numpy(watched).to(self._device)]

        def error_of(params: Params) -> float:
            scores = torch.from_numpy(self._predict(params, watched)).to(ratings)
            return float(squared_error(scores, ratings))

        errors = [error_of(self._theta)]
        self._descend(inner, self._settings.epochs, lambda params: errors.append(error_of(params)))
        return int(np.argmin(errors))

    def _descend(self, rows: Rows, epochs: int, look: Callable[[Params], None] | None = None) -> Params:
        self._fits += 1
        run = self._fits
        tell = self._options.progress

        def on_step(step: int, loss: float, params: Params) -> None:
            if look is not None:
                look(params)
            if tell is not None:
                tell(FineTuningProgress(run, self._runs, step, epochs, loss))

        chosen = torch.from_numpy(rows).to(self._device)
        support = Examples(self._all.inputs[chosen], self._all.ratings[chosen])
        with _memory_errors(self._device):
            return fine_tune(
                self._network,
                self._theta,
                support,
                dataclasses.replace(self._settings, epochs=epochs),
                seed=self._options.seed,
                chunk=CHUNKS[self._device.type],
                on_step=on_step,
            )

    def _predict(self, params: Params, rows: Rows) -> Float64Array:
        with _memory_errors(self._device):
            found = predict(
                self._network,
                params,
                self._all.inputs[torch.from_numpy(rows).to(self._device)],
                batch_size=CHUNKS[self._device.type],
            )
        scores: Float64Array = found.double().cpu().numpy()
        return scores


def settings_of(bundle: ModelBundle, options: FineTuneOptions) -> FineTuning:
    """Return how a bundle is fine-tuned: as it says itself, but for what the caller chose.

    Raises:
        ModelFormatError: It says something that means nothing.
    """
    settings = fine_tuning_of(bundle) or DEFAULT_FINE_TUNING
    return dataclasses.replace(
        settings,
        epochs=settings.epochs if options.epochs is None else options.epochs,
        learning_rate=settings.learning_rate if options.learning_rate is None else options.learning_rate,
    )


def _torch_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in CHUNKS:
        raise DeviceError(f"networks are fine-tuned on cpu or cuda, not on {name}; choose one with --device")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "the installed torch finds no CUDA device; install one that fits the driver, or use --device cpu"
        )
    return torch.device(name)


@contextlib.contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    """Turn what torch raises without memory into our error; on a processor it has no type of its own."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise DeviceError(
            f"not enough memory on {device.type} to fine-tune the network; nothing was stored. Close other "
            "programs" + (", or use --device cpu" if device.type == "cuda" else "")
        ) from error
