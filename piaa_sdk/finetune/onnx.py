"""A network of torch as an ONNX graph: pixels to embedding.

The graph keeps convolution and batch normalization apart and every tensor under its name in the state
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
from piaa_sdk.graphs import OPSET, stamped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

# What the exporter leaves to be cleaned up; fusing batch normalization is left out on purpose.
_CLEANING_RULES = (
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
)


def network_graph(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], *, size: int, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Make the graph ``pixels`` (N, S, S, 3) uint8 RGB -> ``embedding`` (N, D) float32, N free.

    Args:
        network: From pixels to embedding, in evaluation mode.
        tensors: Its state dict without counters; the graph's initializers hold them by these names.
        size: S, pixels.
        metadata: Written into the graph as metadata properties.

    Raises:
        ModelFormatError: The exporter of the installed versions gives a graph with stray padding, or one
            that does not hold the tensors by their names.
    """
    device = next(iter(tensors.values())).device
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8, device=device)
    model = _cleaned(_exported(network, example, "pixels", "embedding"))
    proto = stamped(onnx_ir.to_proto(model), metadata)
    _check_backbone(proto, {name: tensor.cpu().numpy() for name, tensor in tensors.items()})
    return proto


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
