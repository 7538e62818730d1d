"""Assemble a bundle folder from a checkpoint, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from export.golden import GOLDEN_FOLDER, golden_figures, make_golden_pictures
from export.graphs import export_backbone, export_head
from export.model_card import CardFacts, render_card
from export.parity import Parity, measure_parity
from piaa_sdk.bundle import (
    BACKBONE_NAME,
    CARD_NAME,
    FORMAT_VERSION,
    GOLDEN_NAME,
    PREPROCESSOR_NAME,
    PRIOR_NAME,
    ModelBundle,
    Preprocessing,
    write_config,
)
from piaa_sdk.errors import ModelFormatError, RatingError
from piaa_sdk.graphs import OPSET
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image
from piaa_sdk.rating_scale import RatingScale
from training.evaluation_record import without_people
from training.folder_writing import new_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import PixelArray
    from training.checkpoints import Checkpoint

BUNDLE_ID = "piaa-efficientnet-lite0"
LICENSE = "apache-2.0"
HEAD_NAME = "onnx/head.onnx"
METRICS_NAME = "metrics.json"
MAX_BYTES = 25_000_000


@dataclass(frozen=True, slots=True)
class BundleReport:
    """What was written.

    Attributes:
        bundle: The finished bundle, read back.
        parity: How far its graphs are from the trained network.
        size: Bytes of all its files.
    """

    bundle: ModelBundle
    parity: Parity
    size: int


def write_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    records: Sequence[Mapping[str, Any]] = (),
    facts: CardFacts,
    photos: Sequence[Path] = (),
    golden: int | None = None,
    replace: bool = False,
) -> BundleReport:
    """Write a bundle folder, after torch and the exported graphs were found to agree.

    Args:
        checkpoint: What was trained.
        folder: Where the bundle shall be.
        records: What evaluations found, for ``metrics.json``.
        facts: What the model card tells beyond that.
        photos: More pictures to compare torch and the graphs on, beside the golden ones.
        golden: How many golden pictures to put in; None for all.
        replace: Whether a bundle that is there already may be replaced.

    Raises:
        ParityError: The graphs do not say what the network says; nothing is written.
        ModelFormatError: The checkpoint is incomplete, or the bundle would be too large.
        OutputError: The folder exists and may not be replaced, or cannot be written.
        ImageError: A photo cannot be read.
    """
    metrics: dict[str, Any] = {
        "format_version": 1,
        "measured": facts.measured,
        "records": [without_people(record) for record in records],
    }
    scale, preprocessing = rating_scale(checkpoint), preprocessing_of(checkpoint)
    with new_folder(folder, replace=replace) as fresh:
        (fresh / "onnx").mkdir()
        (fresh / GOLDEN_FOLDER).mkdir()
        names = _write_golden_pictures(fresh, golden)
        parity = _write_graphs(
            checkpoint, fresh, scale, preprocessing, [*(fresh / name for name in names), *photos]
        )
        _write_json(fresh / PREPROCESSOR_NAME, preprocessing.to_json())
        metrics["parity"] = asdict(parity)
        _write_json(fresh / METRICS_NAME, metrics)
        config = _config(checkpoint)
        write_config(fresh, config)
        bundle = ModelBundle.load(fresh)
        _write_json(fresh / GOLDEN_NAME, golden_figures(bundle, names))
        card = render_card(config, checkpoint.run, metrics, facts)
        (fresh / CARD_NAME).write_text(card, encoding="utf-8")
        write_config(fresh, config)
        size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise ModelFormatError(
                f"the bundle has {size / 1e6:.1f} MB, allowed are {MAX_BYTES / 1e6:.0f} MB"
            )
        ModelBundle.load(fresh)
    return BundleReport(ModelBundle.load(folder), parity, size)


def rating_scale(checkpoint: Checkpoint) -> RatingScale:
    """Return the scale that a checkpoint's prior was trained on.

    Raises:
        ModelFormatError: ``run.json`` does not tell.
    """
    try:
        low, high = checkpoint.run["rating_scale"]
        return RatingScale(float(low), float(high))
    except (KeyError, TypeError, ValueError, RatingError) as error:
        raise ModelFormatError('run.json needs "rating_scale": [low, high], two numbers') from error


def preprocessing_of(checkpoint: Checkpoint) -> Preprocessing:
    """Return the preprocessing that a checkpoint's prior was trained with.

    Raises:
        ModelFormatError: ``run.json`` does not tell.
    """
    stored = checkpoint.run.get("preprocessing")
    if not isinstance(stored, dict):
        raise ModelFormatError('run.json needs "preprocessing": what preprocessor_config.json shall hold')
    return Preprocessing.from_json(stored)


def save_prior(prior: Prior, path: Path) -> None:
    """Write ``prior.safetensors``; equal priors become equal bytes."""
    tensors = {name: np.array(tensor, order="C") for name, tensor in sorted(prior.to_tensors().items())}
    path.write_bytes(safetensors.numpy.save(tensors))


def read_pictures(paths: Sequence[Path], preprocessing: Preprocessing) -> PixelArray:
    """Read pictures as pixels (N, S, S, 3) uint8."""
    size = preprocessing.size
    pixels = [load_image(path, preprocessing) for path in paths]
    return np.stack(pixels) if pixels else np.empty((0, size, size, 3), dtype=np.uint8)


def _write_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    scale: RatingScale,
    preprocessing: Preprocessing,
    pictures: Sequence[Path],
) -> Parity:
    network = checkpoint.network()
    prior = Prior.from_tensors(checkpoint.prior_tensors())
    metadata = {"bundle_id": BUNDLE_ID, "license": LICENSE}
    export_backbone(network, folder / BACKBONE_NAME, size=preprocessing.size, metadata=metadata)
    export_head(prior, scale, folder / HEAD_NAME, metadata=metadata)
    save_prior(prior, folder / PRIOR_NAME)
    stored_prior = Prior.load(folder / PRIOR_NAME)
    pixels = read_pictures(pictures, preprocessing)
    parity = measure_parity(network, stored_prior, scale, folder / BACKBONE_NAME, folder / HEAD_NAME, pixels)
    parity.check()
    return parity


def _write_golden_pictures(folder: Path, count: int | None) -> list[str]:
    pictures = list(make_golden_pictures().items())[:count]
    for name, data in pictures:
        (folder / GOLDEN_FOLDER / name).write_bytes(data)
    return [f"{GOLDEN_FOLDER}/{name}" for name, _ in pictures]


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return ``config.json`` without ``files``."""
    run = checkpoint.run
    return {
        "model_type": "piaa",
        "format_version": FORMAT_VERSION,
        "bundle_id": BUNDLE_ID,
        "embedding_dim": checkpoint.tensors["projection"].shape[1],
        "rating_scale": run["rating_scale"],
        "license": LICENSE,
        "graphs": {
            "backbone": {"file": BACKBONE_NAME, "input": "pixels", "output": "embedding", "opset": OPSET},
            "head": {"file": HEAD_NAME, "input": "embedding", "output": "score", "opset": OPSET},
        },
        "training": {
            "groups": run.get("data", {}).get("groups", []),
            "readouts": run["readouts"],
            "git_commit": run["git_commit"],
            "versions": run["versions"],
            # Sorted, so that their order tells nothing about the table they come from.
            "people": sorted(run.get("people", ())),
            "pictures": sorted(run.get("pictures", ())),
        },
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")
