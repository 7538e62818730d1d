"""The two graphs of a bundle: pixels to embedding, embedding to generic score.

The backbone keeps convolution and batch normalization apart and every tensor under its name in the state
dict, so that whoever fine-tunes can read the weights back from the graph. onnxruntime fuses the two when it
loads the graph, so this costs no time.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import onnxscript.rewriter
import torch
from onnxscript.rewriter.rules import common as rules

from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
    from piaa_sdk.head import Prior
    from piaa_sdk.rating_scale import RatingScale

OPSET = 20
_IR_VERSION = 10  # of the file format; newer ones are refused by onnxruntime 1.20

# What the exporter leaves to be cleaned up; fusing batch normalization is left out on purpose.
_CLEANING_RULES = (
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
)


def export_backbone(network: EmbeddingNetwork, path: Path, *, size: int, metadata: Mapping[str, str]) -> None:
    """Write the graph ``pixels`` (N, S, S, 3) uint8 RGB -> ``embedding`` (N, D) float32, N free.

    Args:
        network: From pixels to embedding.
        path: The file to write; weights are inside.
        size: S, pixels.
        metadata: Written into the file as metadata properties.

    Raises:
        ModelFormatError: The exporter of the installed versions gives a graph with stray padding, or one
            that does not hold the state dict by its names.
    """
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    model = _cleaned(_exported(network, example, "pixels", "embedding"))
    proto = _finished(onnx_ir.to_proto(model), metadata)
    _check_backbone(proto, {name: tensor.numpy() for name, tensor in network.tensors().items()})
    onnx.save_model(proto, path)


def export_head(prior: Prior, scale: RatingScale, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the graph ``embedding`` (N, D) float32 -> ``score`` (N,) float32, rating units, not clipped.

    It is :meth:`Prior.generic` written out: the arc-cosine kernel at the centres, weighted.

    Args:
        prior: Whose generic head.
        scale: Rating units of the scores.
        path: The file to write.
        metadata: Written into the file as metadata properties.
    """
    centers = prior.centers.astype(np.float64)
    unit = scale.span * prior.generic_std / np.pi
    zero = prior.generic_mean + prior.generic_std * prior.center_offset
    weights = {
        "prior.generic_metric": prior.generic_metric.astype(np.float32),
        "prior.centers": prior.centers,
        "center_lengths": np.sqrt((centers**2).sum(axis=1) + prior.arc_bias).astype(np.float32),
        "center_weights": (prior.center_weights.astype(np.float64) * unit).astype(np.float32),
        "arc_bias": np.float32(prior.arc_bias),
        "offset": np.float32(scale.low + scale.span * zero),
        "least": np.float32(-1),
        "most": np.float32(1),
        "pi": np.float32(np.pi),
        "last_axis": np.array([1], dtype=np.int64),
    }
    node = onnx.helper.make_node
    nodes = [
        node("Mul", ["embedding", "prior.generic_metric"], ["vectors"]),
        node("ReduceSumSquare", ["vectors", "last_axis"], ["squares"], keepdims=1),
        node("Add", ["squares", "arc_bias"], ["biased_squares"]),
        node("Sqrt", ["biased_squares"], ["vector_lengths"]),
        node("Mul", ["vector_lengths", "center_lengths"], ["lengths"]),
        node("Cast", ["prior.centers"], ["centers"], to=onnx.TensorProto.FLOAT),
        node("Gemm", ["vectors", "centers", "arc_bias"], ["products"], transB=1),
        node("Div", ["products", "lengths"], ["ratio"]),
        node("Clip", ["ratio", "least", "most"], ["cosine"]),
        node("Acos", ["cosine"], ["angle"]),
        node("Sin", ["angle"], ["sine"]),
        node("Sub", ["pi", "angle"], ["opposite"]),
        node("Mul", ["opposite", "cosine"], ["straight"]),
        node("Add", ["sine", "straight"], ["arc"]),
        node("Mul", ["lengths", "arc"], ["kernel"]),
        node("MatMul", ["kernel", "center_weights"], ["centred"]),
        node("Add", ["centred", "offset"], ["score"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "head",
        [onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["N", prior.embedding_dim])],
        [onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["N"])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.save_model(_finished(proto, metadata), path)


def _exported(module: torch.nn.Module, example: torch.Tensor, source: str, result: str) -> onnx_ir.Model:
    """Export a module of one input and one output whose first axis is free."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter deprecates parts of itself while it runs
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=[source],
            output_names=[result],
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )
    if program is None:
        raise ModelFormatError("the ONNX exporter of the installed torch gave no graph")
    return program.model


def _cleaned(model: onnx_ir.Model) -> onnx_ir.Model:
    passes.InlinePass()(model)
    _fold_constants(model)
    model = onnxscript.rewriter.rewrite(model, _CLEANING_RULES)
    _fold_constants(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.DeduplicateInitializersPass(size_limit=4)(model)  # bounds and axes, too short to be a weight
    # The exporter notes the source line of every node, with the path of the machine it ran on.
    passes.ClearMetadataAndDocStringPass()(model)
    return model


def _fold_constants(model: onnx_ir.Model) -> None:
    weights = set(model.graph.initializers.values())
    # Folding the cast of the projection would store it in float32: twice the size.
    onnxscript.optimizer.fold_constants(
        model, should_fold=lambda node: False if weights.intersection(node.inputs) else None
    )


def _finished(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Stamp a graph and refuse it where checker or shape inference do."""
    del proto.metadata_props[:]
    for key, value in sorted(metadata.items()):
        proto.metadata_props.add(key=key, value=value)
    # The version of the exporter would make equal graphs unequal files; config.json tells it.
    proto.producer_name, proto.producer_version = "piaa-sdk export", ""
    proto.ir_version = _IR_VERSION
    del proto.graph.value_info[:]  # shapes that every reader can infer, 73 KB
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _check_backbone(proto: onnx.ModelProto, tensors: Mapping[str, np.ndarray]) -> None:
    initializers = {item.name: item for item in proto.graph.initializer}
    if missing := sorted(tensors.keys() - initializers.keys()):
        raise ModelFormatError(
            f"the exported graph lost the names of {len(missing)} tensors, the first is {missing[0]}; "
            "export with the versions that the extra train was tested with"
        )
    for name, tensor in tensors.items():
        stored = onnx.numpy_helper.to_array(initializers[name])
        if stored.dtype != tensor.dtype or not np.array_equal(stored, tensor):
            raise ModelFormatError(f"the exported graph holds other values of {name} than the checkpoint")
    if pads := [node.name for node in proto.graph.node if node.op_type == "Pad"]:
        raise ModelFormatError(f"the exported graph holds {len(pads)} Pad nodes, the first is {pads[0]!r}")
