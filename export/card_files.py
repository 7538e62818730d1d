"""What a model card says of the files of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOLDS = {
    "config.json": "what this is; size and SHA-256 of every file; digests of people and pictures",
    "preprocessor_config.json": "how a picture becomes pixels",
    "onnx/backbone.onnx": "pixels to embedding; its initializers keep the names of the torch state dict",
    "onnx/head.onnx": "embedding to generic score",
    "prior.safetensors": "what adaptation starts from",
    "model.safetensors": "the network's torch weights, for fine-tuning; scoring does not read them",
    "metrics.json": "the figures above and more",
    "golden.json": "pictures made from formulas and the scores they must get, checked by `piaa doctor`",
}
_OPTIONAL = ("model.safetensors",)


def describe_files(config: Mapping[str, Any]) -> dict[str, str]:
    """Say what each file holds.

    Args:
        config: Content of ``config.json``. Without ``files`` in it, what every bundle has is described.

    Returns:
        What a file holds by how the card names it, Markdown.
    """
    there = {"config.json", *config["files"]} if "files" in config else _HOLDS.keys() - set(_OPTIONAL)
    told = {
        "`golden.json`, `golden/`" if name == "golden.json" else f"`{name}`": holds
        for name, holds in _HOLDS.items()
        if name in there
    }
    if any(name.startswith("onnx/") and name.endswith(".data") for name in there):
        told["`onnx/*.data`"] = "weights of the graph beside them, which are too large to be inside"
    for variant, entry in variants_of(config).items():
        told[f"`{entry['file']}`"] = f"the same as `onnx/backbone.onnx`, variant `{variant}`"
    return told


@dataclass(frozen=True, slots=True)
class Variant:
    """A lighter backbone as the card tells of it.

    Attributes:
        name: What ``variant=`` takes.
        file: Its graph.
        size: Of the file.
        speed: Its time for a picture against that of the graph in fp32.
        cost: What it changes in SROCC.
        note: What differs in it.
    """

    name: str
    file: str
    size: str
    speed: str
    cost: str
    note: str


def describe_variants(config: Mapping[str, Any]) -> list[Variant]:
    """Say what each variant of the backbone costs and gains, as far as it was measured.

    Args:
        config: Content of ``config.json``.
    """
    files = config.get("files", {})
    return [
        Variant(
            name=name,
            file=entry["file"],
            size=f"{files[entry['file']]['size'] / 1e6:.1f} MB" if entry["file"] in files else "not known",
            speed=f"{entry['time_ratio']:.2f}" if "time_ratio" in entry else "not measured",
            cost=f"{entry['srocc_difference']:+.4f}" if "srocc_difference" in entry else "not measured",
            note=entry.get("note", ""),
        )
        for name, entry in variants_of(config).items()
    ]


def variants_of(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the variants of the backbone that ``config.json`` names, by name."""
    return dict(config["graphs"]["backbone"].get("variants") or {})
