"""Heads as ONNX graphs, and a whole scorer as one: pixels -> score, for any program that runs ONNX.

A head says the same thing in :mod:`piaa_sdk.head` and here. There it is written as it is derived, in float64;
here it must be short and hold in float32, so whatever does not depend on the picture is worked out
beforehand, in float64:

- A person's mean is linear in the kernels and the generic score, so the mixture becomes one row of weights.
- The variance that the ratings explain is a quadratic form in the same numbers, z' R R' z, and so is the
  spread of the mixture's means; what is stored is R, so that no matrix is inverted and nothing of the size
  of the weights is subtracted.

Only operators of the standard domain that every build of onnxruntime has are used, the one for browsers too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.errors import MissingDependencyError, ModelFormatError
from piaa_sdk.head import PersonalHead, Prior

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx

    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.rating_scale import RatingScale

    Float64Array = npt.NDArray[np.float64]

OPSET = 20
IR_VERSION = 10
"""Of the file format; newer ones are refused by onnxruntime 1.20."""

PRODUCER = "piaa-sdk export"

_OLDEST_OPSET = 13  # since then ReduceSum, Squeeze and Unsqueeze take their axes as the head gives them
_BACKBONE_PREFIX = "backbone."


def check_onnx() -> None:
    """Ask for the optional package at once, before any work.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import onnx.compose  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("writing an ONNX graph", "onnx") from error


def head_graph(
    head: Prior | PersonalHead,
    scale: RatingScale,
    *,
    std: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Make the graph ``embedding`` (N, D) float32 -> ``score`` (N,) float32, rating units, not clipped.

    A personal head also gives ``std`` (N,) float32, rating units.

    Args:
        head: A prior gives the generic score, a personal head the person's.
        scale: Units of the scores.
        std: Standard deviation of every score of a generic head, [0, 1] units; None if it is not known.
        metadata: Written into the graph as metadata properties.

    Raises:
        MissingDependencyError: The package onnx is missing.
        ModelFormatError: The numbers do not fit float32, or onnx refuses the graph.
    """
    check_onnx()
    return stamped(_head_proto(head, scale, std, opset=OPSET, ir_version=IR_VERSION), metadata or {})


def scoring_graph(
    bundle: ModelBundle,
    head: Prior | PersonalHead,
    scale: RatingScale,
    *,
    kind: str,
    std: float | None = None,
) -> onnx.ModelProto:
    """Make the graph ``pixels`` (N, S, S, 3) uint8 RGB -> ``score`` (N,) and, if known, ``std`` (N,).

    The backbone of the bundle, the rounding of the embedding to float16, and the head. N is free, the
    weights are inside, and the metadata properties say how a picture becomes pixels.

    Args:
        bundle: Whose backbone.
        head: As for :func:`head_graph`; it reads embeddings of this bundle.
        scale: Units of the scores.
        kind: How the head was learned.
        std: As for :func:`head_graph`.

    Raises:
        MissingDependencyError: The package onnx is missing.
        ModelFormatError: The backbone cannot be a part of one self-contained graph.
    """
    check_onnx()
    import onnx.compose

    backbone, output = _backbone(bundle)
    opset = next(item.version for item in backbone.opset_import if item.domain in ("", "ai.onnx"))
    proto = _head_proto(head, scale, std, opset=opset, ir_version=backbone.ir_version, is_rounded=True)
    try:
        proto = onnx.compose.merge_models(backbone, proto, io_map=[(output, "embedding")], name="scorer")
    except (ValueError, onnx.checker.ValidationError) as error:
        raise ModelFormatError(f"{bundle.graph_name}: cannot be joined with a head: {error}") from error
    outputs = {value.name for value in proto.graph.output}
    proto.doc_string = (
        "Scores photographs. Feed upright sRGB pictures as uint8 (N, height, width, 3); the metadata "
        "property preprocessing says how they become that size. A score is in rating units (rating_scale) "
        "and not clipped"
        + (
            "; std is the standard deviation of one rating of the person around it."
            if "std" in outputs
            else "."
        )
    )
    return stamped(proto, _metadata(bundle, backbone.graph.input[0].name, scale, kind))


def stamped(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Write the metadata properties into a graph and have it checked, shapes included.

    Raises:
        ModelFormatError: onnx refuses the graph.
    """
    import onnx

    stamp(proto, metadata)
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelFormatError(f"onnx refuses the graph: {error}") from error
    return proto


def stamp(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Write the metadata properties into a graph, and take out what changes without it."""
    del proto.metadata_props[:]
    for key, value in sorted(metadata.items()):
        proto.metadata_props.add(key=key, value=value)
    # The version of an exporter would make equal graphs unequal files.
    proto.producer_name, proto.producer_version = PRODUCER, ""
    del proto.graph.value_info[:]  # shapes that every reader can infer


def _metadata(bundle: ModelBundle, pixels: str, scale: RatingScale, kind: str) -> dict[str, str]:
    """What a stranger needs to use the graph, and to know where it comes from. Not whose it is."""
    preprocessing = bundle.preprocessing
    pictures = {
        "input": pixels,
        "size": [preprocessing.size, preprocessing.size],
        "fit": preprocessing.fit,
        "resample": preprocessing.resample,
        "antialias": True,
        "colour": "RGB",
        "colour_space": "sRGB",
        "layout": "NHWC",
        "type": "uint8",
        "background": list(preprocessing.background),
        "decoding_rule": preprocessing.decoding_rule,
    }
    return {
        "bundle_id": bundle.bundle_id,
        "bundle_revision": bundle.bundle_revision,
        "embedding_id": bundle.embedding_id,
        "license": bundle.license,
        "kind": kind,
        "preprocessing": json.dumps(pictures),
        "rating_scale": json.dumps([float(scale.low), float(scale.high)]),
    }


def _backbone(bundle: ModelBundle) -> tuple[onnx.ModelProto, str]:
    """Read the backbone, its names set apart from those of a head; return it and its output's name."""
    import onnx
    import onnx.compose
    from google.protobuf.message import DecodeError

    path = bundle.graph_name
    try:
        if bundle.graph is None:
            proto = onnx.load_model(bundle.backbone_path, load_external_data=False)
        else:
            proto = onnx.load_model_from_string(bundle.graph)
    except (OSError, DecodeError) as error:
        raise ModelFormatError(f"{path}: is no ONNX graph: {error}") from error
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in proto.graph.initializer):
        raise ModelFormatError(
            f"{path}: its weights lie in another file, as they do above 2 GB; one self-contained graph "
            "cannot hold them"
        )
    opsets = [item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")]
    if len(opsets) != 1 or opsets[0] < _OLDEST_OPSET:
        raise ModelFormatError(f"{path}: is of opset {opsets}, must be of opset {_OLDEST_OPSET} or newer")
    if len(proto.graph.input) != 1 or len(proto.graph.output) != 1:
        raise ModelFormatError(f"{path}: must have one input and one output")
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]  # notes of the exporter
    proto = onnx.compose.add_prefix(proto, _BACKBONE_PREFIX, rename_inputs=False)
    return proto, proto.graph.output[0].name


def _head_proto(
    head: Prior | PersonalHead,
    scale: RatingScale,
    std: float | None,
    *,
    opset: int,
    ir_version: int,
    is_rounded: bool = False,
) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    prior = head if isinstance(head, Prior) else head.prior
    parts = _Parts()
    vectors = "embedding"
    if is_rounded:  # as the SDK rounds what it caches
        half = parts.add("Cast", [vectors], "half_embedding", to=TensorProto.FLOAT16)
        vectors = parts.add("Cast", [half], "rounded_embedding", to=TensorProto.FLOAT)
    outputs = head_nodes(parts, vectors, head, scale, std)
    graph = helper.make_graph(
        parts.nodes,
        "head",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", prior.embedding_dim])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in outputs],
        parts.tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


class _Parts:
    """The nodes and weights of a graph as it grows; a name is used once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, name: str, values: object, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant; return its name."""
        from onnx import numpy_helper

        with np.errstate(over="ignore"):  # refused in the next line
            array = np.asarray(values).astype(dtype)
        if not np.isfinite(array).all():
            largest = float(np.abs(np.asarray(values)).max())
            raise ModelFormatError(
                f"{name} of the graph is {largest:g}, more than {array.dtype} holds; "
                "rate on a narrower scale, or fetch the model again"
            )
        self.tensors.append(numpy_helper.from_array(array, name))
        return name


def head_nodes(
    parts: _Parts, vectors: str, head: Prior | PersonalHead, scale: RatingScale, std: float | None
) -> list[str]:
    """Write a head out; return its outputs, ``score`` and perhaps ``std``.

    Every kind of head is one branch here.

    Args:
        parts: The graph, without them yet.
        vectors: Name of the embeddings (N, D).
        head: The head.
        scale: Units of the scores.
        std: Of every score of a prior's generic head, [0, 1] units.
    """
    if isinstance(head, PersonalHead):
        return _personal_nodes(parts, vectors, head, scale)
    score = _generic_nodes(parts, vectors, head, scale.span, scale.low)
    parts.add("Squeeze", [score, parts.weight("score.axis", [1], np.int64)], "score")
    if std is None:
        return ["score"]
    # A constant of the same shape as the score; 0 * score would be nan where a score is infinite.
    shape = parts.add("Shape", ["score"], "score.shape")
    parts.add("Expand", [parts.weight("std.constant", [std * scale.span]), shape], "std")
    return ["score", "std"]


def _generic_nodes(parts: _Parts, vectors: str, prior: Prior, span: float, low: float) -> str:
    """Write ``low + span * prior.generic(vectors)``, (N, 1)."""
    if not prior.is_squashed:
        gain, rest = span * prior.generic_std, low + span * prior.generic_mean
        return _raw_nodes(parts, vectors, prior, gain, rest)
    logit = _raw_nodes(parts, vectors, prior, 1.0, 0.0)
    squashed = parts.add("Sigmoid", [logit], "generic.squashed")
    wide = parts.add("Mul", [squashed, parts.weight("generic.span", span)], "generic.wide")
    return parts.add("Add", [wide, parts.weight("generic.low", low)], "generic.score")


def _raw_nodes(parts: _Parts, vectors: str, prior: Prior, gain: float, rest: float) -> str:
    """Write ``rest + gain * prior.raw(vectors)``, (N, 1).

    With c the cosine between picture and centre, and L the product of their lengths, the arc-cosine kernel is
    L c / 2 + L / pi + L h(c) / pi, where h(c) = c asin(c) + sqrt(1 - c^2) - 1 is about c^2 / 2. Of all
    centres together, the first term is one straight line and the second one number times the length of the
    picture. Only the small third one is left to be computed centre by centre, and float32 is enough for it.
    """
    add, weight = parts.add, parts.weight
    weights = prior.center_weights.astype(np.float64) * gain
    centers, metric = prior.centers.astype(np.float64), prior.generic_metric.astype(np.float64)
    line = gain * prior.linear_weights.astype(np.float64) + metric * (weights @ centers) / 2
    rest += gain * prior.center_offset + prior.arc_bias * weights.sum() / 2
    straight = add("MatMul", [vectors, weight("generic.line_weights", line[:, None])], "generic.line")
    total = add("Add", [straight, weight("generic.offset", rest)], "generic.straight")
    if not len(centers):
        return total
    lengths = np.sqrt((centers**2).sum(axis=1) + prior.arc_bias)
    length, bend = _bend_nodes(parts, vectors, prior, lengths)
    scaled = (weights * lengths / np.pi)[:, None]
    bent = add("MatMul", [bend, weight("generic.weights", scaled)], "generic.bent")
    constant = add("Add", [bent, weight("generic.length_weight", scaled.sum())], "generic.bent_from_zero")
    return add("Sum", [total, add("Mul", [length, constant], "generic.curved")], "generic.raw")


def _bend_nodes(parts: _Parts, vectors: str, prior: Prior, lengths: Float64Array) -> tuple[str, str]:
    """Write the length of a picture (N, 1), and h(c) between it and each centre (N, J)."""
    from onnx import TensorProto

    add, weight = parts.add, parts.weight
    bias, one = weight("generic.arc_bias", prior.arc_bias), weight("one", 1.0)
    scaled = add("Mul", [vectors, weight("prior.generic_metric", prior.generic_metric)], "generic.vectors")
    squares = add("Mul", [scaled, scaled], "generic.squares")
    axis = weight("last_axis", [1], np.int64)
    squared = add("ReduceSum", [squares, axis], "generic.squared_length", keepdims=1)
    length = add("Sqrt", [add("Add", [squared, bias], "generic.biased_length")], "generic.length")
    both_lengths = add("Mul", [length, weight("generic.center_lengths", lengths)], "generic.lengths")
    stored = weight("prior.centers", prior.centers, prior.centers.dtype)
    wide = add("Cast", [stored], "generic.centers", to=TensorProto.FLOAT)
    product = add("Gemm", [scaled, wide, bias], "generic.product", transB=1)
    ratio = add("Div", [product, both_lengths], "generic.ratio")
    cosine = add("Clip", [ratio, weight("least", -1.0), one], "generic.cosine")
    square = add("Mul", [cosine, cosine], "generic.squared_cosine")
    sine = add("Sqrt", [add("Sub", [one, square], "generic.squared_sine")], "generic.sine")
    # sqrt(1 - c^2) - 1, without the difference of two numbers that are almost equal
    fall = add("Div", [square, add("Add", [one, sine], "generic.one_and_sine")], "generic.fall")
    rise = add("Mul", [cosine, add("Asin", [cosine], "generic.arcsine")], "generic.rise")
    return length, add("Sub", [rise, fall], "generic.bend")


def _personal_nodes(parts: _Parts, vectors: str, head: PersonalHead, scale: RatingScale) -> list[str]:
    """Write a mixture of Gaussian processes as rows of weights on z, (N, 2 K + 1).

    z holds the straight kernel and the curved kernel with every rated picture, and the generic score p.
    """
    add, weight = parts.add, parts.weight
    prior = head.prior
    rows = _Rows(head)
    standardized = _generic_nodes(
        parts, vectors, prior, 1 / prior.generic_std, -prior.generic_mean / prior.generic_std
    )
    squares = add("Mul", [vectors, vectors], "squares")
    straight, curved = _kernel_nodes(parts, vectors, squares, head)
    z = add("Concat", [straight, curved, standardized], "compared", axis=1)
    axis = weight("score.axis", [1], np.int64)

    mean, rest = rows.mean[:-1, None] * scale.span, scale.low + scale.span * rows.mean[-1]
    score = add("Gemm", [z, weight("score.weights", mean), weight("score.offset", [rest])], "score.column")
    add("Squeeze", [score, axis], "score")

    forms = rows.explained, rows.spread
    columns = np.hstack(forms)
    signs = np.repeat([-1.0, 1.0], [form.shape[1] for form in forms])[:, None]
    parts_of_std = weight("std.weights", columns[:-1]), weight("std.offset", columns[-1])
    projected = add("Gemm", [z, *parts_of_std], "std.projected")
    projected_squares = add("Mul", [projected, projected], "std.projected_squares")
    quadratic = add("MatMul", [projected_squares, weight("std.signs", signs)], "std.quadratic")
    length = np.full((prior.embedding_dim, 1), rows.own_straight)
    own = add("MatMul", [squares, weight("std.length_weights", length)], "std.own_straight")
    known = add("Sum", [quadratic, own, weight("std.own", rows.own)], "std.latent_sum")
    latent = add("Relu", [known], "std.latent")
    variance = add("Add", [latent, weight("std.noise", rows.noise)], "std.variance")
    factor = weight("std.factor", prior.std_factor * scale.span)
    column = add("Mul", [add("Sqrt", [variance], "std.root"), factor], "std.column")
    add("Squeeze", [column, axis], "std")
    return ["score", "std"]


def _kernel_nodes(parts: _Parts, vectors: str, squares: str, head: PersonalHead) -> tuple[str, str]:
    """Write the straight and the curved kernel with the rated pictures, (N, K) each."""
    from onnx import TensorProto

    add, weight, prior = parts.add, parts.weight, head.prior
    known = head.embeddings.astype(np.float64)
    metric = prior.curved_metric.astype(np.float64) ** 2
    halves = 1 / (2 * prior.length_scale)
    with np.errstate(over="ignore"):
        kind = np.float16 if (known == known.astype(np.float16)).all() else np.float32
    stored = weight("rated", known, kind)
    rated = add("Cast", [stored], "rated.wide", to=TensorProto.FLOAT)
    straight = add("Gemm", [vectors, rated], "straight", transB=1, alpha=prior.linear_scale)
    # exp(-|x - k|^2 / 2 l) with the square multiplied out.
    weighed = add("Mul", [rated, weight("curved.metric", metric)], "curved.rated")
    lengths = weight("curved.rated_lengths", (known**2 @ metric) * -halves)
    product = add("Gemm", [vectors, weighed, lengths], "curved.product", transB=1, alpha=2 * halves)
    own = add("MatMul", [squares, weight("curved.length_weights", metric[:, None] * halves)], "curved.own")
    distance = add("Sub", [product, own], "curved.distance")
    near = add("Min", [distance, weight("curved.nearest", 0.0)], "curved.logarithm")
    return straight, add("Exp", [near], "curved")


class _Rows:
    """A personal head as weights on (z, 1) = (straight, curved, generic score, 1), (2 K + 2,), float64.

    Attributes:
        mean: (2 K + 2,) of the mean, [0, 1] units.
        explained: (2 K + 2, R); the squares of these projections add up to the variance that the ratings
            explain, [0, 1] units squared.
        spread: (2 K + 2, R'); the same for the spread of the mixture's means, and for the variance that the
            slope of the generic score has on its own.
        own_straight: What the variance grows by with the squared length of the embedding.
        own: Its constant.
        noise: Variance of the rating noise.
    """

    def __init__(self, head: PersonalHead) -> None:
        prior, known = head.prior, head.known_generic
        share, slope, slope_variance, noise, weight = head.components.T
        ones = np.ones(len(known))
        means = np.vstack(
            [
                (head.weights * share[:, None]).T,
                (head.weights * (1 - share)[:, None]).T,
                prior.slope_unit * slope + slope_variance * (head.weights @ known),
                prior.offset_mean + prior.offset_variance * (head.weights @ ones),
            ]
        )
        self.mean: Float64Array = means @ weight
        spread = (means - self.mean[:, None]) * np.sqrt(weight)
        scaled = weight * head.variances
        slopes = np.zeros((len(means), 1))
        slopes[-2] = np.sqrt(scaled @ slope_variance)
        self.spread: Float64Array = np.hstack([_shorter(spread), slopes])
        self.explained: Float64Array = _shorter(_explained(head, scaled))
        self.own_straight = float(scaled @ share) * prior.linear_scale
        self.own = float(scaled @ (1 - share + prior.offset_variance))
        self.noise = float(scaled @ noise)


def _explained(head: PersonalHead, scaled: Float64Array) -> Float64Array:
    """Whiten the comparison with the rated pictures: one block of K columns per covariance of the mixture.

    k' (C + n)^-1 k, weighted and added up over the noises n of one covariance C = U diag(s) U', is the
    squared length of k' U sqrt(sum of weight / (s + n)).
    """
    blocks = []
    pairs, of_pair = np.unique(head.components[:, [0, 2]], axis=0, return_inverse=True)
    for number, (share, slope_variance) in enumerate(pairs):
        values, vectors = head.spectrum_of(share, slope_variance)
        rows = of_pair.reshape(-1) == number
        gains = (scaled[rows] / (values[:, None] + head.components[rows, 3])).sum(axis=1)
        whitened = vectors * np.sqrt(gains)
        blocks.append(
            np.vstack(
                [
                    share * whitened,
                    (1 - share) * whitened,
                    slope_variance * (head.known_generic @ whitened),
                    head.prior.offset_variance * whitened.sum(axis=0),
                ]
            )
        )
    return np.hstack(blocks)


def _shorter(columns: Float64Array) -> Float64Array:
    """Return as few columns with the same products of rows: R R' stays."""
    rows, count = columns.shape
    return columns if count <= rows else np.linalg.qr(columns.T)[1].T


def encoded(proto: Any) -> bytes:
    """Return the bytes of a graph's file.

    Raises:
        ModelFormatError: It is larger than the 2 GB that one file holds.
    """
    from google.protobuf.message import EncodeError

    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelFormatError(f"the graph is larger than the 2 GB that one file holds: {error}") from error
    return data
