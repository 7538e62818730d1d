"""Assemble a bundle folder from what was trained, whole or not at all."""

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
from export.torch_model import write_tensors
from piaa_sdk.bundle import (
    BACKBONE_NAME,
    CARD_NAME,
    CONFIG_NAME,
    FORMAT_VERSION,
    GOLDEN_NAME,
    PREPROCESSOR_NAME,
    PRIOR_NAME,
    ModelBundle,
    Preprocessing,
    write_config,
)
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.bundle_network import AESTHETIC
from piaa_sdk.finetune.onnx import LARGEST_FILE
from piaa_sdk.graphs import OPSET
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image
from piaa_sdk.manifest import WEIGHTS_NAME, text_of
from training.evaluation_record import without_people
from training.folder_writing import new_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from export.trained import Trained
    from piaa_sdk.array_types import PixelArray

HEAD_NAME = "onnx/head.onnx"
METRICS_NAME = "metrics.json"


@dataclass(frozen=True, slots=True)
class Making:
    """How a bundle is written.

    Attributes:
        bundle_id: Its name; empty for one made of backbone and learner.
        license: Of the weights; empty for what is known of them.
        golden: How many golden pictures to put in; None for all.
        torch_weights: Whether to put ``model.safetensors`` in; None where nothing else holds all of it.
        max_bytes: That all files may have together; None for no limit.
        largest_graph: Bytes of weights that a graph's file may hold; above, they lie beside it.
        replace: Whether a bundle that is there already may be replaced.
    """

    bundle_id: str = ""
    license: str = ""
    golden: int | None = None
    torch_weights: bool | None = None
    max_bytes: int | None = None
    largest_graph: int = LARGEST_FILE
    replace: bool = False


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
    trained: Trained,
    folder: Path,
    *,
    records: Sequence[Mapping[str, Any]] = (),
    facts: CardFacts,
    photos: Sequence[Path] = (),
    making: Making = Making(),
) -> BundleReport:
    """Write a bundle folder, after torch and the exported graphs were found to agree.

    Args:
        trained: What was trained.
        folder: Where the bundle shall be.
        records: What evaluations found, for ``metrics.json``.
        facts: What the model card tells beyond that.
        photos: More pictures to compare torch and the graphs on, beside the golden ones.
        making: How.

    Raises:
        ParityError: The graphs do not say what the network says; nothing is written.
        ModelFormatError: What was trained is incomplete, or the bundle would be too large.
        OutputError: The folder exists and may not be replaced, or cannot be written.
        ImageError: A photo cannot be read.
    """
    metrics: dict[str, Any] = {
        "format_version": 1,
        "measured": facts.measured,
        "records": [without_people(record) for record in records],
        "card": asdict(facts),
    }
    config = _config(trained, making)
    with new_folder(folder, replace=making.replace) as fresh:
        (fresh / "onnx").mkdir()
        (fresh / GOLDEN_FOLDER).mkdir()
        names = _write_golden_pictures(fresh, making.golden)
        parity = _write_graphs(trained, fresh, config, [*(fresh / name for name in names), *photos], making)
        write_json(fresh / PREPROCESSOR_NAME, trained.preprocessing.to_json())
        metrics["parity"] = asdict(parity)
        write_json(fresh / METRICS_NAME, metrics)
        write_config(fresh, config)
        bundle = ModelBundle.load(fresh)
        write_json(fresh / GOLDEN_NAME, golden_figures(bundle, names))
        write_card(fresh, config, trained.run, metrics, facts)
        size = size_of(fresh)
        if making.max_bytes is not None and size > making.max_bytes:
            raise ModelFormatError(
                f"the bundle has {size / 1e6:.1f} MB, allowed are {making.max_bytes / 1e6:g} MB; raise "
                "--max-size, or train a smaller network"
            )
        ModelBundle.load(fresh)
    return BundleReport(ModelBundle.load(folder), parity, size)


def write_card(
    folder: Path,
    config: Mapping[str, Any],
    run: Mapping[str, Any],
    metrics: Mapping[str, Any],
    facts: CardFacts,
) -> None:
    """Write the card of a bundle whose other files are final, and then ``config.json`` with all checksums.

    Args:
        folder: Of the bundle.
        config: Content of ``config.json``; ``files`` is filled in.
        run: Content of ``run.json`` of what was trained; empty where it is lost.
        metrics: Content of ``metrics.json``.
        facts: What the card tells beyond that.
    """
    write_config(folder, config)
    config = read_json(folder / CONFIG_NAME)
    preprocessing = read_json(folder / PREPROCESSOR_NAME)
    card = render_card(config, run, metrics, facts, preprocessing=preprocessing)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    write_config(folder, config)


def stored_facts(folder: Path) -> CardFacts:
    """Read what the card of a bundle tells; ``metrics.json`` keeps it, for a card that is written again.

    Args:
        folder: Of the bundle.

    Raises:
        ModelFormatError: The bundle does not keep it: written again, its card would lose sources and limits.
    """
    path = folder / METRICS_NAME
    metrics = read_json(path)
    if "card" not in metrics:
        raise ModelFormatError(
            f"{path} does not keep what the model card tells, and the new card would lose its sources and "
            "limits; give them with --card-data"
        )
    return CardFacts.of(metrics["card"], str(path))


def keep_facts(
    folder: Path, facts: CardFacts, records: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Keep in a bundle what its card tells, and return the content of ``metrics.json``.

    Args:
        folder: Of the bundle.
        facts: What the card tells.
        records: What evaluations found; None for what is there.
    """
    metrics = read_json(folder / METRICS_NAME)
    kept = metrics | {"measured": facts.measured, "card": asdict(facts)}
    if records is not None:
        kept["records"] = [without_people(record) for record in records]
    write_json(folder / METRICS_NAME, kept)
    return kept


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
    trained: Trained,
    folder: Path,
    config: Mapping[str, Any],
    pictures: Sequence[Path],
    making: Making,
) -> Parity:
    model, scale = trained.model, trained.scale
    metadata = {
        "bundle_id": str(config["bundle_id"]),
        "license": str(config["license"]),
        "revision": trained.digest(),
    }
    export_backbone(
        model,
        folder / BACKBONE_NAME,
        size=trained.preprocessing.size,
        metadata=metadata,
        kind=trained.kind,
        largest=making.largest_graph,
    )
    export_head(trained.prior, scale, folder / HEAD_NAME, metadata=metadata)
    save_prior(trained.prior, folder / PRIOR_NAME)
    # The output layer of f_theta stands in the prior only, and there times other numbers.
    if trained.kind == AESTHETIC if making.torch_weights is None else making.torch_weights:
        write_tensors(model.tensors, folder / WEIGHTS_NAME)
    stored_prior = Prior.load(folder / PRIOR_NAME)
    pixels = read_pictures(pictures, trained.preprocessing)
    parity = measure_parity(model, stored_prior, scale, folder / BACKBONE_NAME, folder / HEAD_NAME, pixels)
    parity.check()
    return parity


def _write_golden_pictures(folder: Path, count: int | None) -> list[str]:
    pictures = list(make_golden_pictures().items())[:count]
    for name, data in pictures:
        (folder / GOLDEN_FOLDER / name).write_bytes(data)
    return [f"{GOLDEN_FOLDER}/{name}" for name, _ in pictures]


def _config(trained: Trained, making: Making) -> dict[str, Any]:
    """Return ``config.json`` without ``files``."""
    run = trained.run
    config = {
        "model_type": "piaa",
        "format_version": FORMAT_VERSION,
        "bundle_id": making.bundle_id or trained.bundle_id,
        "embedding_dim": trained.prior.embedding_dim,
        "rating_scale": [trained.scale.low, trained.scale.high],
        "license": making.license or trained.license,
        "graphs": {
            "backbone": {"file": BACKBONE_NAME, "input": "pixels", "output": "embedding", "opset": OPSET},
            "head": {"file": HEAD_NAME, "input": "embedding", "output": "score", "opset": OPSET},
        },
        "network": dict(trained.network),
        "training": _training(run),
    }
    if trained.fine_tuning is not None:
        config["fine_tuning"] = dict(trained.fine_tuning)
    for name in ("bundle_id", "license"):
        text_of(config, name)  # refused here if no line of a file can hold it
    return config


def _training(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``config.json`` tells of the training, for a card that is written without the run."""
    training = {
        "learner": run.get("learner"),
        "groups": run.get("data", {}).get("groups", []),
        "git_commit": run["git_commit"],
        "versions": run["versions"],
        # Sorted, so that their order tells nothing about the table they come from.
        "people": sorted(run.get("people", ())),
        "pictures": sorted(run.get("pictures", ())),
    }
    if "readouts" in run:
        training["readouts"] = run["readouts"]
    if "split" in run:
        split = run["split"]
        kept = ("configuration", "mode", "backbone_weights", "iterations_done")
        training |= {name: run[name] for name in kept}
        # Of the split only how it was made: digests of those who were left out are nobody's business.
        training["split"] = {"data": split["data"], "seed": split["seed"], "report": split["report"]}
    return training


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file of a bundle."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelFormatError: It cannot be read, or is none.
    """
    try:
        # What could not be measured is NaN in Python's JSON, which is none; null is what others can read.
        content = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFormatError(f"{path} must hold a JSON object")
    return content
