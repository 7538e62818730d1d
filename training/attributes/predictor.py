"""Predicts AADB's eleven attributes from the embedding of a frozen backbone, as people's labels teach it.

One ridge regression per attribute, its strength the one with the least error on left-out training pictures.
The paper's authors took a network trained on AADB end to end; a linear read-out of an ImageNet embedding is
this project's choice, because the compared systems get their content from the same frozen backbone.

::

    predictor.safetensors   weights (D, 11)  offsets (11,)  strengths (11,)
    run.json                backbone and its digest, attributes, figures, versions, commit

No path of the machine and no pickle is in it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError
from piaa_sdk.metrics import srocc
from training.backbone_weights import digest_of_tensors
from training.checkpoints import git_commit, versions
from training.config import build
from training.data.aadb_attributes import ATTRIBUTES
from training.data.images import collect_statistics
from training.data.ratings import digest_of_file
from training.folder_writing import new_folder
from training.network import NetworkConfig
from training.ridge import fit_ridge
from training.sources import BackboneReadout, preprocessing_of
from training.standard_deviation import floored_std

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from training.data.aadb_attributes import AttributeLabels

    Float32Array = npt.NDArray[np.float32]

FORMAT_VERSION = 1
TENSORS_NAME = "predictor.safetensors"
RUN_NAME = "run.json"


@dataclass(frozen=True, slots=True)
class FrozenBackbone:
    """Where embeddings come from.

    Attributes:
        network: Which backbone, at which size; of its head nothing is used.
        weights: File of its weights; None takes the installed package's or the library's.
        untrained: Random weights, on request.
        seed: Of random weights.
    """

    network: NetworkConfig
    weights: Path | None = None
    untrained: bool = False
    seed: int = 0

    def embed(
        self, paths: Sequence[Path], cache: Path | None, progress: Callable[[int, int], None] | None
    ) -> tuple[FloatArray, str]:
        """Embed N pictures and keep the result; returns (N, D) and the digest of the backbone's tensors."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            backbone = BackboneReadout(self.network, weights=self.weights, untrained=self.untrained)
        preprocessing = preprocessing_of(self.network.size)
        found = collect_statistics(paths, backbone, preprocessing, cache=cache, progress=progress)
        return found, digest_of_tensors(backbone.backbone.state_dict())


@dataclass(frozen=True, slots=True, eq=False)
class AttributePredictor:
    """Eleven attributes from an embedding: embedding @ weights + offsets.

    Attributes:
        weights: (D, 11) float32, in the order of :data:`training.data.aadb_attributes.ATTRIBUTES`.
        offsets: (11,) float32.
        strengths: (11,) float32, the ridge strengths that were chosen, for standardized embeddings.
        backbone_digest: Of the tensors of the backbone whose embeddings it reads.
        network: Which backbone that is.
        untrained: Whether its weights are random.
        seed: Of random weights.
        srocc: Of each attribute on held-out pictures; nan where their labels are constant.
        pictures: Digests of the files that it learned from; None in a record that does not say.
        story: What else ``run.json`` says: lists, counts, versions.
    """

    weights: Float32Array
    offsets: Float32Array
    strengths: Float32Array
    backbone_digest: str
    network: NetworkConfig
    untrained: bool
    seed: int
    srocc: Mapping[str, float]
    pictures: tuple[str, ...] | None
    story: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        training: AttributeLabels,
        held_out: AttributeLabels,
        backbone: FrozenBackbone,
        *,
        cache: Path | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Learn from labelled pictures, and judge on others.

        Args:
            training: Labels to learn from.
            held_out: Labels to judge by, of other pictures.
            backbone: Whose embeddings.
            cache: Folder that keeps embeddings; None keeps nothing.
            progress: Called with the pictures done and to do.

        Raises:
            ImageError: A picture cannot be read.
            OutputError: The cache cannot be written.
        """
        embeddings, digest = backbone.embed(training.paths, cache, progress)
        mean, std = embeddings.mean(axis=0, dtype=np.float64), floored_std(embeddings)
        found = fit_ridge((embeddings - mean) / std, training.values)
        weights = found.coef_.T / std[:, None]
        offsets = found.intercept_ - mean @ weights
        others, _ = backbone.embed(held_out.paths, cache, progress)
        scores = others.astype(np.float64) @ weights + offsets
        return cls(
            weights=weights.astype(np.float32),
            offsets=offsets.astype(np.float32),
            strengths=found.alpha_.astype(np.float32),
            backbone_digest=digest,
            network=backbone.network,
            untrained=backbone.untrained,
            seed=backbone.seed,
            srocc={
                attribute: srocc(held_out.values[:, column], scores[:, column])
                for column, attribute in enumerate(ATTRIBUTES)
            },
            pictures=tuple(map(digest_of_file, training.paths)),
            story={
                "trained_on": {"list": training.name, "pictures": len(training.paths)},
                "judged_on": {"list": held_out.name, "pictures": len(held_out.paths)},
            },
        )

    def predict(self, embeddings: FloatArray) -> Float32Array:
        """Return the attributes (N, 11) float32 of embeddings (N, D)."""
        wide = np.asarray(embeddings, dtype=np.float64)
        return np.asarray(wide @ self.weights.astype(np.float64) + self.offsets, dtype=np.float32)

    def predict_pictures(
        self,
        paths: Sequence[Path],
        *,
        weights: Path | None = None,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float32Array:
        """Embed N pictures with the backbone that this was trained on, and predict (N, 11) float32.

        Args:
            paths: Of the pictures.
            weights: File of the backbone's weights, if it was trained with one.
            cache: Folder that keeps embeddings; None keeps nothing.
            progress: Called with the pictures done and to do.

        Raises:
            ModelFormatError: The backbone is not the one that this was trained on.
            ModelNotFoundError: Its weights cannot be fetched.
        """
        backbone = FrozenBackbone(self.network, weights, self.untrained and weights is None, self.seed)
        try:
            embeddings, digest = backbone.embed(paths, cache, progress)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"the attribute predictor's backbone: {error}; name its file with --attribute-weights"
            ) from error
        if digest != self.backbone_digest:
            raise ModelFormatError(
                f"the attribute predictor was trained on a {self.network.backbone} with tensors "
                f"{self.backbone_digest[:12]}, these are {digest[:12]}; name the file of weights that it was "
                "trained with (--attribute-weights), or train it anew: python -m training attributes"
            )
        return self.predict(embeddings)

    def digest(self) -> str:
        """Return what tells predictors apart: hex, 64 characters; what is predicted depends on it alone."""
        tensors = {"weights": torch.tensor(self.weights), "offsets": torch.tensor(self.offsets)}
        return hashlib.sha256(f"{digest_of_tensors(tensors)} {self.backbone_digest}".encode()).hexdigest()

    def save(self, folder: Path, *, replace: bool = False) -> None:
        """Write a folder, whole or not at all.

        Args:
            folder: Where to.
            replace: Whether a folder that is there already may be replaced.

        Raises:
            OutputError: It exists and may not be replaced, or cannot be written.
        """
        run = {
            "format_version": FORMAT_VERSION,
            "kind": "attribute predictor",
            "attributes": list(ATTRIBUTES),
            "network": asdict(self.network),
            "untrained": self.untrained,
            "seed": self.seed,
            "backbone_digest": self.backbone_digest,
            "pictures": None if self.pictures is None else list(self.pictures),
            "srocc": {name: value if np.isfinite(value) else None for name, value in self.srocc.items()},
            "story": {"versions": versions(), "git_commit": git_commit(), **self.story},
        }
        tensors = {"offsets": self.offsets, "strengths": self.strengths, "weights": self.weights}
        # A copy in C order: safetensors stores the bytes of a transposed view as they lie in memory.
        tensors = {name: np.array(value, order="C") for name, value in tensors.items()}
        text = json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with new_folder(folder, replace=replace) as fresh:
            (fresh / TENSORS_NAME).write_bytes(safetensors.numpy.save(tensors))
            (fresh / RUN_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that :meth:`save` wrote.

        Raises:
            ModelNotFoundError: There is none.
            ModelFormatError: It is damaged, of a newer format, or of other attributes.
        """
        run, tensors = _read(folder)
        where = str(folder / RUN_NAME)
        try:
            return cls(
                **tensors,
                backbone_digest=str(run["backbone_digest"]),
                network=build(NetworkConfig, run["network"], f"{where}: network", complete=True),
                untrained=bool(run["untrained"]),
                seed=int(run["seed"]),
                srocc={
                    name: float("nan") if run["srocc"][name] is None else float(run["srocc"][name])
                    for name in ATTRIBUTES
                },
                pictures=None if run.get("pictures") is None else tuple(map(str, run["pictures"])),
                story=dict(run["story"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ModelFormatError):
                raise
            raise ModelFormatError(f"{where}: missing or not understood: {error}; {_AGAIN}") from error


_AGAIN = "make it anew with: python -m training attributes"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Float32Array]]:
    for name in (TENSORS_NAME, RUN_NAME):
        if not (folder / name).is_file():
            raise ModelNotFoundError(f"{folder} holds no {name}, so no attribute predictor; {_AGAIN}")
    try:
        run = json.loads((folder / RUN_NAME).read_bytes())
        tensors = safetensors.numpy.load_file(folder / TENSORS_NAME)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelFormatError(f"{folder} cannot be read as an attribute predictor: {error}") from error
    version = run.get("format_version") if isinstance(run, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ModelFormatError(
            f"{folder / RUN_NAME}: format_version is {version!r}, this version reads 1 to {FORMAT_VERSION}"
        )
    if run.get("attributes") != list(ATTRIBUTES):
        raise ModelFormatError(
            f"{folder / RUN_NAME}: attributes are {run.get('attributes')!r}, must be {', '.join(ATTRIBUTES)}"
        )
    count = len(ATTRIBUTES)
    shapes = {name: value.shape for name, value in tensors.items()}
    dim = shapes["weights"][0] if len(shapes.get("weights", ())) == 2 else 0
    if shapes != {"weights": (dim, count), "offsets": (count,), "strengths": (count,)} or dim == 0:
        raise ModelFormatError(
            f"{folder / TENSORS_NAME}: tensors are {shapes}, must be weights (D, {count}), offsets "
            f"({count},) and strengths ({count},)"
        )
    for name, value in tensors.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise ModelFormatError(f"{folder / TENSORS_NAME}: {name} must be finite float32; {_AGAIN}")
    return run, tensors
