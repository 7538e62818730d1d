"""What a bundle is made from: a checkpoint of ``python -m training fit``, or a run of ``meta-train``."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.card_story import KERNEL_PRIOR, RANDOM
from export.learned_prior import LEAST_PICTURES, learned_prior, scale_of_scores
from export.torch_model import TorchModel, aesthetic_model
from piaa_sdk.bundle import Preprocessing
from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, RatingError
from piaa_sdk.finetune.bundle_network import AESTHETIC, STATISTICS, load_named
from piaa_sdk.finetune.person import DEFAULT_FINE_TUNING
from piaa_sdk.finetune.scoring_network import tensors_of
from piaa_sdk.finetune.statistics_network import ARCHITECTURE
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image
from piaa_sdk.rating_scale import RatingScale
from training.backbone_weights import digest_of_tensors
from training.checkpoints import RUN_NAME, TENSORS_NAME, load_checkpoint
from training.experiment import Backbone
from training.kernel_config import KernelPriorConfig
from training.network import make_network
from training.runs import Run
from training.sources import preprocessing_of as square_pictures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.network import AestheticNetwork
    from training.checkpoints import Checkpoint

MOST_PICTURES = 1000
"""Pictures that kernels are measured on; of more, as many are taken, evenly spread."""

_OWN_PREFIX = "closed_form."
"""Of what the closed form learns beside the network; only its own adaptation reads it."""

_SHORT_NAMES = {ARCHITECTURE: "efficientnet-lite0"}
_FREE_WEIGHTS = (ARCHITECTURE,)
"""Backbones whose ImageNet weights are known to be under the licence that this project gives its own."""

LICENSE = "apache-2.0"
UNKNOWN_LICENSE = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """All that a bundle is made from.

    Attributes:
        model: The network.
        prior: What adaptation starts from; it reads the network's embedding.
        scale: Units of the scores.
        preprocessing: From files to pixels.
        run: Content of ``run.json``.
        network: What ``config.json`` says of the network.
        fine_tuning: What it says of fine-tuning the whole network; None if nothing is known.
        bundle_id: Name of the bundle, unless another is given.
        license: Of the weights, unless another is given.
    """

    model: TorchModel
    prior: Prior
    scale: RatingScale
    preprocessing: Preprocessing
    run: Mapping[str, Any]
    network: Mapping[str, Any]
    fine_tuning: Mapping[str, Any] | None
    bundle_id: str
    license: str

    @property
    def kind(self) -> str:
        """``statistics`` or ``aesthetic``."""
        return str(self.network["kind"])

    def digest(self) -> str:
        """Return what stands for the trained tensors, whatever becomes of them: hex, 64 characters."""
        digest = hashlib.sha256(digest_of_tensors(self.model.tensors).encode())
        for name, value in sorted(self.prior.to_tensors().items()):
            digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def open_trained(folder: Path, *, pictures: Sequence[Path] = (), weights: Path | None = None) -> Trained:
    """Read what was trained, whichever command did it.

    Args:
        folder: Of a checkpoint or of a finished run.
        pictures: What kernels are measured on, for a run; a checkpoint holds what it needs.
        weights: File of the frozen backbone's weights, for a run that began with one.

    Raises:
        ModelNotFoundError: The folder holds neither, or the backbone's weights cannot be had.
        ModelFormatError: It is damaged or not finished, or there are too few pictures.
        ImageError: A picture cannot be read.
    """
    if (folder / TENSORS_NAME).is_file():
        return of_checkpoint(load_checkpoint(folder))
    return of_run(Run.open(_with_run(folder)), pictures=pictures, weights=weights)


def open_torch_model(folder: Path, *, weights: Path | None = None) -> TorchModel:
    """Read only the network of what was trained; see :func:`open_trained`."""
    if (folder / TENSORS_NAME).is_file():
        return TorchModel(load_checkpoint(folder).network())
    run = Run.open(_with_run(folder))
    return aesthetic_model(_network_of(run, weights), run.config.tasks.target)


def of_checkpoint(checkpoint: Checkpoint) -> Trained:
    """Gather what ``python -m training fit`` left.

    Raises:
        ModelFormatError: It is incomplete.
    """
    run = checkpoint.run
    network = {
        "kind": STATISTICS,
        "backbone": ARCHITECTURE,
        "classifier": False,
        "readouts": list(run["readouts"]),
    }
    return Trained(
        model=TorchModel(checkpoint.network()),
        prior=Prior.from_tensors(checkpoint.prior_tensors()),
        scale=rating_scale(run),
        preprocessing=preprocessing_of(run),
        run={"learner": KERNEL_PRIOR, **run},
        network=network,
        fine_tuning=asdict(DEFAULT_FINE_TUNING),
        bundle_id=f"piaa-{_short(ARCHITECTURE)}",
        license=LICENSE,
    )


def of_run(run: Run, *, pictures: Sequence[Path], weights: Path | None = None) -> Trained:
    """Gather what ``python -m training meta-train`` left.

    Args:
        run: A finished run.
        pictures: What kernels are measured on, :data:`~export.learned_prior.LEAST_PICTURES` or more.
        weights: File of the frozen backbone's weights, for a run in the mode ``head`` that began with one.

    Raises:
        ModelNotFoundError: The backbone's weights cannot be had.
        ModelFormatError: The run is not finished or was made on other weights, or the pictures are too few.
        ImageError: A picture cannot be read.
    """
    config = run.config
    if len(pictures) < LEAST_PICTURES:  # said before the network is made, which may take a download
        raise ModelFormatError(
            f"{run.folder}: the kernels of a meta-learned prior are measured on pictures, at least "
            f"{LEAST_PICTURES}, found {len(pictures)}; give the run's data with --data or other ones with "
            "--photos"
        )
    model = aesthetic_model(_network_of(run, weights), config.tasks.target)
    assert model.scorer is not None
    preprocessing = square_pictures(config.network.size)
    head, target = model.scorer.head, config.tasks.target
    scale = scale_of_scores(head, target, rating_scale(run.record["split"]))
    units = _units(model, pictures, preprocessing)
    fine_tuning = asdict(config.fine_tuning) | {"target": target, "alter_query": config.tasks.alter_query}
    name = config.network.backbone
    is_free = run.record["backbone_weights"] == RANDOM or name.removeprefix("timm/") in _FREE_WEIGHTS
    return Trained(
        model=model,
        prior=learned_prior(head, units, target, scale, KernelPriorConfig.load()),
        scale=scale,
        preprocessing=preprocessing,
        run={"learner": config.learner, **run.record},
        network={
            "kind": AESTHETIC,
            "backbone": name,
            "classifier": config.network.classifier,
            "head": {**asdict(head.config), "hidden": list(head.config.hidden)},
        },
        fine_tuning=fine_tuning,
        bundle_id=f"piaa-{_short(name)}-{_short(config.learner)}",
        license=LICENSE if is_free else UNKNOWN_LICENSE,
    )


def rating_scale(run: Mapping[str, Any]) -> RatingScale:
    """Return the scale that a prior was trained on, of ``run.json`` or of the split in it.

    Raises:
        ModelFormatError: It does not tell.
    """
    try:
        low, high = run["rating_scale"]
        return RatingScale(float(low), float(high))
    except (KeyError, TypeError, ValueError, RatingError) as error:
        raise ModelFormatError('run.json needs "rating_scale": [low, high], two numbers') from error


def preprocessing_of(run: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that a checkpoint's prior was trained with.

    Raises:
        ModelFormatError: ``run.json`` does not tell.
    """
    stored = run.get("preprocessing")
    if not isinstance(stored, dict):
        raise ModelFormatError('run.json needs "preprocessing": what preprocessor_config.json shall hold')
    return Preprocessing.from_json(stored)


def evenly_spread(paths: Sequence[Path], most: int = MOST_PICTURES) -> list[Path]:
    """Return at most so many of some paths, from the first to the last."""
    if len(paths) <= most:
        return list(paths)
    return [paths[place] for place in np.linspace(0, len(paths) - 1, most).round().astype(int)]


def _with_run(folder: Path) -> Path:
    if not (folder / RUN_NAME).is_file():
        raise ModelNotFoundError(
            f"{folder} holds neither {TENSORS_NAME} nor {RUN_NAME}; make a checkpoint with: python -m "
            "training fit, or a run with: python -m training meta-train"
        )
    return folder


def _network_of(run: Run, weights: Path | None) -> AestheticNetwork:
    """Make f_theta with backbone as a run left it."""
    run.check_finished()
    state = run.load()
    assert state is not None
    config, is_whole = run.config, run.record["mode"] == "full"
    learned = {name: value for name, value in state.prior.items() if not name.startswith(_OWN_PREFIX)}
    if is_whole:
        # Everything that the weights of the start could tell is in the run.
        network = make_network(config.network, untrained=True, seed=config.seed)
        learned |= state.constants
    else:
        began = Backbone(weights, run.record["backbone_weights"] == RANDOM and weights is None)
        if began.describe() != run.record["backbone_weights"]:
            raise ModelFormatError(
                f"{run.folder} was learned on a backbone with the weights {run.record['backbone_weights']}, "
                f"not {began.describe()}; give that file with --weights"
            )
        network = make_network(config.network, weights=weights, untrained=began.untrained, seed=config.seed)
        # Without a backbone, a network knows nothing of pixels.
        learned |= {name: value for name, value in state.constants.items() if name.startswith("head.")}
    own = tensors_of(network)
    kept = {
        name: value
        for name, value in own.items()
        if name not in learned and (not is_whole or name in dict(network.named_buffers()))
    }
    if not is_whole:
        kept = {name: value for name, value in kept.items() if not name.startswith("head.")}
    load_named(network, {**kept, **learned}, str(run.folder))
    return network


def _units(model: TorchModel, pictures: Sequence[Path], preprocessing: Preprocessing) -> FloatArray:
    """Return what the last hidden layer puts out for picture files, (N, H)."""
    paths = evenly_spread(pictures)
    parts = []
    for start in range(0, len(paths), 16):
        pixels = [load_image(path, preprocessing) for path in paths[start : start + 16]]
        parts.append(model.embed(np.stack(pixels)))
    return np.concatenate(parts)


def _short(name: str) -> str:
    plain = name.removeprefix("timm/")
    return _SHORT_NAMES.get(plain, plain).replace("_", "-").replace("/", "-").lower()
