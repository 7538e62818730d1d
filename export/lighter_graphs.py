"""Lighter versions of a backbone's graph: weights stored in half precision, and convolutions in 8 bits.

``fp16`` stores weights in half precision and computes with them in single precision. Half the size, the same
speed, and no layer can overflow: processors without arithmetic in half precision would only convert back and
forth.

``quantized`` computes convolutions in 8 bits (QDQ, weights per channel, calibrated on real pictures). Weights
have 7 bits, because processors without the VNNI instructions add products of 8 bits in 16 and overflow.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from piaa_sdk.devices import runtime_errors
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.graphs import encoded, stamped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from piaa_sdk.array_types import FloatArray, PixelArray

_STORED_FROM = 1024
"""Numbers from which a weight is stored in half precision."""

_LARGEST_HALF = 6e4
_QUANTIZED_KINDS = ("Conv", "Add", "Relu", "Clip", "MaxPool")
_STEM, _DEPTHWISE = "stem", "depthwise"
_THIRDS = ("early", "middle", "late")


def half_stored(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose large weights are stored in half precision and widened when it is loaded.

    Args:
        proto: A graph with its weights inside; not changed.

    Raises:
        ModelFormatError: onnx refuses the graph.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(proto)
    casts = []
    for item in halved.graph.initializer:
        values = onnx.numpy_helper.to_array(item)
        if values.dtype != np.float32 or values.size < _STORED_FROM or np.abs(values).max() > _LARGEST_HALF:
            continue
        name = item.name
        item.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            onnx.helper.make_node(
                "Cast", [f"{name}.half"], [name], name=f"{name}.widened", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = list(halved.graph.node)
    del halved.graph.node[:]
    halved.graph.node.extend([*casts, *nodes])
    return stamped(halved, properties_of(proto))


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A graph ready to be quantized, and the ranges of its activations on real pictures.

    Attributes:
        proto: The graph, batch normalization inside its convolutions.
        ranges: Of every activation, by name; what onnxruntime's quantizer takes.
        groups: Names of convolutions by the kind of layer that may be left in single precision: the first
            one, depthwise ones, and the others by thirds of the network.
        properties: Metadata properties.
    """

    proto: onnx.ModelProto
    ranges: Any
    groups: Mapping[str, tuple[str, ...]]
    properties: Mapping[str, str]

    def quantized(self, left_out: Sequence[str]) -> onnx.ModelProto:
        """Return the graph in 8 bits, all but some groups of layers; other large weights in half precision.

        Raises:
            ModelFormatError: onnx refuses what comes out.
        """
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        kept = {name for group in left_out for name in self.groups[group]}
        # What only passes on what such a convolution puts out would be rounded for nothing.
        outputs = {output for node in self.proto.graph.node if node.name in kept for output in node.output}
        kept |= {
            node.name
            for node in self.proto.graph.node
            if node.op_type in ("Clip", "Relu") and node.input[0] in outputs
        }
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        quantizer = QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(kept),
            op_types_to_quantize=list(_QUANTIZED_KINDS),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        found: onnx.ModelProto = quantizer.model.model
        for item in list(found.opset_import):
            if item.domain not in ("", "ai.onnx"):
                found.opset_import.remove(item)
        del found.metadata_props[:]
        for key, value in self.properties.items():
            found.metadata_props.add(key=key, value=value)
        return half_stored(found)


def calibrate(path: Path, pixels: PixelArray) -> Calibrated:
    """Fuse batch normalization into a graph's convolutions and measure its activations.

    Args:
        path: The graph, in single precision.
        pixels: (N, S, S, 3) uint8 of real pictures.

    Raises:
        ModelFormatError: onnxruntime cannot run or rewrite the graph.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    properties = properties_of(onnx.load(path, load_external_data=False))
    with tempfile.TemporaryDirectory() as scratch:
        fused = Path(scratch) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(fused)
        options.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            calibrator = create_calibrator(
                fused,
                list(_QUANTIZED_KINDS),
                augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"symmetric": False},
            )
            calibrator.collect_data(_Reader(pixels))
            ranges = calibrator.compute_data()
        except runtime_errors(onnxruntime) as error:
            raise ModelFormatError(f"{path}: onnxruntime cannot calibrate the graph: {error}") from error
        proto = onnx.load(fused)
    return Calibrated(proto, ranges, _groups_of(proto), properties)


def run_graph(proto: onnx.ModelProto, pixels: PixelArray) -> FloatArray:
    """Embed pixels (N, S, S, 3) uint8 with a graph: (N, D) float32.

    Raises:
        ModelFormatError: onnxruntime cannot run it.
    """
    try:
        session = onnxruntime.InferenceSession(encoded(proto), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: one[np.newaxis]})[0] for one in pixels])
    except runtime_errors(onnxruntime) as error:
        raise ModelFormatError(f"onnxruntime cannot run the lighter graph: {error}") from error


def relative_error(found: FloatArray, expected: FloatArray) -> float:
    """Return how far embeddings (N, D) are from others: the mean length of the difference over theirs."""
    lengths = np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)
    return float(np.mean(np.linalg.norm(found - expected, axis=1) / lengths))


def properties_of(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata properties of a graph."""
    return {item.key: item.value for item in proto.metadata_props}


def _groups_of(proto: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    groups: dict[str, list[str]] = {}
    plain = []
    for node in convolutions[1:]:
        if _group_count(node) > 1:
            groups.setdefault(_DEPTHWISE, []).append(node.name)
        else:
            plain.append(node.name)
    for place, name in enumerate(plain):
        groups.setdefault(_THIRDS[3 * place // len(plain)], []).append(name)
    if convolutions:
        groups[_STEM] = [convolutions[0].name]
    return {name: tuple(nodes) for name, nodes in groups.items()}


def _group_count(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


class _Reader:
    """Gives calibration one picture after the other."""

    def __init__(self, pixels: PixelArray) -> None:
        self._pixels = iter(pixels)

    def get_next(self) -> dict[str, PixelArray] | None:
        """Return the next picture as the graph takes it; None after the last."""
        one = next(self._pixels, None)
        return None if one is None else {"pixels": one[np.newaxis]}
