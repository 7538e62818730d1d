"""Lighter variants of a bundle's backbone, each with what it costs and gains."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from export.bundle_writer import keep_facts, read_json, read_pictures, write_card
from export.check_record import RECORD_NAME
from export.checking import user_correlations
from export.lighter_graphs import calibrate, half_stored, relative_error, run_graph
from piaa_sdk.bundle import BACKBONE_NAME, CONFIG_NAME, ModelBundle
from piaa_sdk.errors import ModelFormatError, RatingError
from piaa_sdk.graphs import encoded
from piaa_sdk.head import Prior
from training.evaluation import evaluate
from training.folder_writing import new_folder
from training.personalizers import KernelPersonalizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from export.model_card import CardFacts
    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable

VARIANT_FILES = {"fp16": "onnx/backbone_fp16.onnx", "quantized": "onnx/backbone_quantized.onnx"}
LARGEST_LOSS = 0.005
"""SROCC, mean over users; a variant that loses more is not written unless that is accepted."""

LEAST_PICTURES = 16
_CALIBRATED_ON, _HELD = 64, 16
_TIMED = 40
_SHOTS, _PERSONAL_USERS = 50, 20


@dataclass(frozen=True, slots=True, eq=False)
class RatedSet:
    """What a variant's cost is measured on.

    Attributes:
        table: Who rated which pictures how.
        scale: Units of the ratings.
    """

    table: RatingTable
    scale: RatingScale


@dataclass(frozen=True, slots=True)
class Figures:
    """What a variant costs and gains against the graph in single precision.

    Attributes:
        name: Of the variant.
        size: Bytes of its file.
        embedding_error: Mean length of the difference of embeddings, as a share of theirs.
        time: Median seconds of one picture on one thread.
        reference_time: The same of the graph in single precision, measured in turns with it.
        srocc_difference: Of the generic scores, mean over users; None without a rated set.
        personal_difference: The same after 50 ratings, of 20 users; None if too few rated enough.
        users: How many people.
        pictures: How many rated pictures.
        note: What differs in it.
    """

    name: str
    size: int
    embedding_error: float
    time: float
    reference_time: float
    srocc_difference: float | None
    personal_difference: float | None
    users: int
    pictures: int
    note: str

    @property
    def loss(self) -> float | None:
        """The larger of the two losses in SROCC."""
        known = [own for own in (self.srocc_difference, self.personal_difference) if own is not None]
        return -min(known) if known else None

    def entry(self) -> dict[str, Any]:
        """Return what ``config.json`` says of the variant."""
        found: dict[str, Any] = {
            "file": VARIANT_FILES[self.name],
            "time_ratio": round(self.time / self.reference_time, 3),
            "embedding_error": round(self.embedding_error, 5),
            "note": self.note,
        }
        if self.srocc_difference is not None:
            found |= {
                "srocc_difference": round(self.srocc_difference, 5),
                "measured_on": {"users": self.users, "pictures": self.pictures},
            }
        if self.personal_difference is not None:
            found["srocc_difference_personal"] = round(self.personal_difference, 5)
        return found


def write_variants(
    bundle: ModelBundle,
    out: Path,
    photos: Sequence[Path],
    rated: RatedSet | None,
    facts: CardFacts,
    *,
    names: Sequence[str] = tuple(VARIANT_FILES),
    accept_loss: bool = False,
    replace: bool = False,
    report: Callable[[str], None] | None = None,
) -> list[Figures]:
    """Write a bundle again with lighter variants of its backbone.

    Args:
        bundle: The bundle; its weights stand inside the graph.
        out: Folder of the new bundle; may be the old one's with ``replace``.
        photos: Real pictures that activations are measured on, 16 or more.
        rated: What the cost in SROCC is measured on.
        facts: What the model card tells.
        names: Which variants.
        accept_loss: Write a variant too that loses more than 0.005 SROCC, or whose loss is not known.
        replace: Whether a folder that is there may be replaced.
        report: Is told what was found, a sentence each.

    Returns:
        What was found of each variant, those too that were not written.

    Raises:
        ModelFormatError: There are too few pictures, a graph cannot be made lighter, or there is no such
            variant.
        OutputError: The folder exists and may not be replaced, or cannot be written.
    """
    say = report or (lambda _: None)
    _check_variants(names)
    if len(photos) < LEAST_PICTURES:
        raise ModelFormatError(
            f"the ranges of activations are measured on {len(photos)} pictures, {LEAST_PICTURES} are the "
            "least; give real ones with --photos"
        )
    if f"{BACKBONE_NAME}.data" in bundle.checksums:
        raise ModelFormatError(f"{bundle.name}: weights beside the graph are not made lighter")
    work = _Work.of(bundle, photos, rated)
    made = {}
    for name in names:
        proto, figures = work.half() if name == "fp16" else work.quantized(say)
        say(_sentence(figures))
        made[name] = proto, figures
    reasons = {} if accept_loss else {name: why_not(figures) for name, (_, figures) in made.items()}
    kept = {name: pair for name, pair in made.items() if not reasons.get(name)}
    for name in made.keys() - kept.keys():
        say(f"{name} is not written: {reasons[name]}; --accept-loss writes it all the same")
    if kept:
        _write(bundle, out, kept, facts, replace=replace)
    return [figures for _, figures in made.values()]


def why_not(figures: Figures) -> str:
    """Say why a variant is not worth writing; empty if it is."""
    if figures.loss is None:
        return f"an unknown loss (give --ratings), allowed is {LARGEST_LOSS}"
    if not figures.loss <= LARGEST_LOSS:  # nan is no small loss
        return f"a loss of {figures.loss:.4f} SROCC, allowed is {LARGEST_LOSS}"
    return ""


def _check_variants(names: Sequence[str]) -> None:
    if unknown := set(names) - VARIANT_FILES.keys():
        raise ModelFormatError(
            f"no variant {sorted(unknown)[0]!r} is known, there are {', '.join(VARIANT_FILES)}"
        )


def _write(
    bundle: ModelBundle,
    out: Path,
    kept: dict[str, tuple[onnx.ModelProto, Figures]],
    facts: CardFacts,
    *,
    replace: bool,
) -> None:
    with new_folder(out, replace=replace) as fresh:
        # What was checked was another revision.
        shutil.copytree(bundle.folder, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD_NAME))
        config = read_json(fresh / CONFIG_NAME)
        config.pop("files")
        variants = dict(config["graphs"]["backbone"].get("variants") or {})
        for name, (proto, figures) in kept.items():
            (fresh / VARIANT_FILES[name]).write_bytes(encoded(proto))
            variants[name] = figures.entry()
        config["graphs"]["backbone"]["variants"] = variants
        write_card(fresh, config, {}, keep_facts(fresh, facts), facts)
        for name in kept:
            ModelBundle.load(fresh, variant=name)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A graph in single precision, and what its variants are compared by."""

    bundle: ModelBundle
    proto: onnx.ModelProto
    calibration: PixelArray
    held: PixelArray
    held_embeddings: FloatArray
    rated: RatedSet | None
    rated_pixels: PixelArray | None
    expected: tuple[float, float | None]

    @classmethod
    def of(cls, bundle: ModelBundle, photos: Sequence[Path], rated: RatedSet | None) -> _Work:
        """Read the pictures, and embed those that are compared."""
        order = np.random.default_rng(0).permutation(len(photos))
        held = max(LEAST_PICTURES // 2, min(_HELD, len(photos) // 3))
        chosen = [photos[place] for place in order[: held + _CALIBRATED_ON]]
        proto = onnx.load(bundle.path(BACKBONE_NAME))
        pixels = read_pictures(chosen, bundle.preprocessing)
        rated_pixels = None
        expected: tuple[float, float | None] = (np.nan, None)
        if rated is not None:
            rated_pixels = read_pictures(rated.table.paths(), bundle.preprocessing)
            expected = _quality(bundle, rated, run_graph(proto, rated_pixels))
        return cls(
            bundle,
            proto,
            pixels[held:],
            pixels[:held],
            run_graph(proto, pixels[:held]),
            rated,
            rated_pixels,
            expected,
        )

    def half(self) -> tuple[onnx.ModelProto, Figures]:
        """Store the weights in half precision."""
        proto = half_stored(self.proto)
        return proto, self._figures("fp16", proto, "weights stored in half precision, computed in single")

    def quantized(self, say: Callable[[str], None]) -> tuple[onnx.ModelProto, Figures]:
        """Compute in 8 bits; leave kinds of layers in single precision until little is lost, the worst first.

        With one kind left out at a time, that one is the worst without which embeddings are closest.
        """
        calibrated = calibrate(self.bundle.path(BACKBONE_NAME), self.calibration)
        errors = {
            group: self._error(calibrated.quantized([group]))
            for group in calibrated.groups
            if len(calibrated.groups) > 1
        }
        for group, error in errors.items():
            say(f"quantized without {group}: embeddings differ by {100 * error:.1f} % of their length")
        order = sorted(errors, key=errors.__getitem__)
        for count in range(len(order) or 1):
            left_out = order[:count]
            proto = calibrated.quantized(left_out)
            rest = f", {', '.join(left_out)} layers left in single precision" if left_out else ""
            figures = self._figures("quantized", proto, f"convolutions in 8 bits{rest}")
            if figures.loss is None or not why_not(figures):
                break
            say(_sentence(figures))
        return proto, figures

    def _error(self, proto: onnx.ModelProto) -> float:
        return relative_error(run_graph(proto, self.held), self.held_embeddings)

    def _figures(self, name: str, proto: onnx.ModelProto, note: str) -> Figures:
        own, reference = interleaved_times([proto, self.proto], self.held)
        generic: float | None = None
        personal: float | None = None
        users = pictures = 0
        if self.rated is not None and self.rated_pixels is not None:
            found = _quality(self.bundle, self.rated, run_graph(proto, self.rated_pixels))
            generic = found[0] - self.expected[0]
            if found[1] is not None and self.expected[1] is not None:
                personal = found[1] - self.expected[1]
            users, pictures = len(self.rated.table.users), len(self.rated_pixels)
        return Figures(
            name,
            len(encoded(proto)),
            self._error(proto),
            own,
            reference,
            generic,
            personal,
            users,
            pictures,
            note,
        )


def interleaved_times(
    protos: Sequence[onnx.ModelProto], pixels: PixelArray, rounds: int = _TIMED
) -> tuple[float, ...]:
    """Return the median seconds of one picture on one thread, in turns, so that all meet the same load."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(encoded(proto), options, providers=["CPUExecutionProvider"])
        for proto in protos
    ]
    seconds: list[list[float]] = [[] for _ in sessions]
    for number in range(-2, rounds):  # the first two warm up
        one = pixels[number % len(pixels)][np.newaxis]
        for session, known in zip(sessions, seconds, strict=True):
            begun = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: one})
            if number >= 0:
                known.append(time.perf_counter() - begun)
    return tuple(float(np.median(known)) for known in seconds)


def _quality(bundle: ModelBundle, rated: RatedSet, embeddings: FloatArray) -> tuple[float, float | None]:
    """Return the mean SROCC over users of generic scores, and of 20 users after 50 ratings."""
    prior = Prior.load(bundle.prior_path)
    # As the SDK keeps them.
    embeddings = embeddings.astype(np.float16).astype(np.float32)
    generic = float(np.nanmean(user_correlations(rated.table, prior.generic(embeddings))))
    try:
        found = evaluate(
            KernelPersonalizer("closed form", prior, embeddings),
            rated.table,
            rated.scale,
            shots=[_SHOTS],
            repeats=1,
            control_repeats=0,
            users=min(_PERSONAL_USERS, len(rated.table.users)),
        )
    except RatingError:  # too few have rated so many
        return generic, None
    return generic, float(found.results[0].figures["personal"].mean)


def _sentence(figures: Figures) -> str:
    parts = [
        f"{figures.name} ({figures.note}): {figures.size / 1e6:.1f} MB",
        f"{1000 * figures.time:.1f} ms a picture against {1000 * figures.reference_time:.1f} ms "
        f"({figures.time / figures.reference_time:.2f})",
        f"embeddings differ by {100 * figures.embedding_error:.2f} % of their length",
    ]
    if figures.srocc_difference is not None:
        on = f"{figures.users} users, {figures.pictures} pictures"
        parts.append(f"SROCC {figures.srocc_difference:+.4f} generic ({on})")
    if figures.personal_difference is not None:
        parts.append(f"{figures.personal_difference:+.4f} after {_SHOTS} ratings")
    return ", ".join(parts)
