"""A network of torch as an ONNX graph: pixels to embedding.

The graph keeps convolution and batch normalization apart and every tensor under its name in the state
dict, so that whoever fine-tunes can read the weights back from the graph. onnxruntime fuses the two when it
loads the graph, so this costs no time.
"""

from __future__ import annotations

import contextlib
import functools
import gc
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
from google.protobuf.message import DecodeError
from onnxscript.rewriter.rules import common as rules

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.graphs import OPSET, encoded, stamp, stamped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

# What the exporter leaves to be cleaned up; fusing batch normalization is left out on purpose.
_CLEANING_RULES = (
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
)


_SHORT = 4
"""Numbers that a constant of the exporter may have to be kept once: bounds and axes."""

LARGEST_FILE = 2_000_000_000
"""Bytes of weights that stand inside the graph's file; protobuf holds less than 2 GiB in all."""

_OUTSIDE_FROM = 1024
"""Bytes from which a tensor goes into the file beside the graph, if any does."""


def network_graph(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    size: int,
    metadata: Mapping[str, str],
    may_pad: bool = False,
) -> onnx.ModelProto:
    """Make the graph ``pixels`` (N, S, S, 3) uint8 RGB -> ``embedding`` (N, D) float32, N free.

    Args:
        network: From pixels to embedding, in evaluation mode.
        tensors: Its state dict without counters; the graph's initializers hold them by these names, all but
            those that the embedding does not depend on.
        size: S, pixels.
        metadata: Written into the graph as metadata properties.
        may_pad: Whether the network pads maps itself, so that nodes that do are no sign of a bad export.

    Raises:
        ModelFormatError: The exporter of the installed versions gives a graph with stray padding, or one
            that does not hold the tensors by their names; or onnx refuses the graph.
    """
    model, used = _network_model(network, tensors, size)
    proto = stamped(onnx_ir.to_proto(model), metadata)
    _check_backbone(proto, _arrays(tensors, used), may_pad=may_pad)
    return proto


def write_network_graph(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    *,
    size: int,
    metadata: Mapping[str, str],
    may_pad: bool = False,
    largest: int = LARGEST_FILE,
) -> None:
    """Write what :func:`network_graph` makes; weights too large for one file lie in ``*.onnx.data``.

    Args:
        network: As for :func:`network_graph`.
        tensors: See there.
        path: The file to write.
        size: See there.
        metadata: See there.
        may_pad: See there.
        largest: Bytes of weights that are kept inside.

    Raises:
        ModelFormatError: See there.
    """
    model, used = _network_model(network, tensors, size)
    weights = [value.const_value for value in model.graph.initializers.values()]
    arrays = _arrays(tensors, used)
    if sum(weight.nbytes for weight in weights if weight is not None) <= largest:
        proto = stamped(onnx_ir.to_proto(model), metadata)
        _check_backbone(proto, arrays, may_pad=may_pad)
        path.write_bytes(encoded(proto))
        return
    onnx_ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=_OUTSIDE_FROM)
    proto = onnx.load(path, load_external_data=False)
    stamp(proto, metadata)
    path.write_bytes(encoded(proto))
    try:
        onnx.checker.check_model(str(path), full_check=True)  # infers shapes too
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelFormatError(f"onnx refuses the graph: {error}") from error
    stored = {name: value.const_value for name, value in onnx_ir.load(path).graph.initializers.items()}
    _check_tensors({name: value.numpy for name, value in stored.items() if value is not None}, arrays)
    _check_pads(proto, may_pad=may_pad)


def _network_model(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], size: int
) -> tuple[onnx_ir.Model, set[str]]:
    """Export and clean a network; also return the names of the tensors that the embedding depends on."""
    device = next(iter(tensors.values())).device
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8, device=device)
    program = _exported(network, example, "pixels", "embedding")
    return _cleaned(program.model, set(tensors)), set(tensors) - _unused(program)


def _unused(program: torch.onnx.ONNXProgram) -> set[str]:
    """Return the names of parameters and buffers that no node of a program reads."""
    exported = program.exported_program
    if exported is None:
        return set()
    signature = exported.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {
        names[node.name]
        for node in exported.graph.nodes
        if node.op == "placeholder" and node.name in names and not node.users
    }


def _arrays(tensors: Mapping[str, torch.Tensor], names: set[str]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if name in names}


def _exported(
    module: torch.nn.Module, example: torch.Tensor, source: str, result: str
) -> torch.onnx.ONNXProgram:
    """Export a module of one input and one output whose first axis is free."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), quiet, torch.no_grad(), _without_collector():
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
    return program


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Let nobody look for garbage while millions of objects are made that stay: a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _cleaned(model: onnx_ir.Model, names: set[str]) -> onnx_ir.Model:
    passes.InlinePass()(model)
    _fold_constants(model)
    model = onnxscript.rewriter.rewrite(model, _CLEANING_RULES)
    _fold_constants(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    _join_constants(model, names)
    # The exporter notes the source line of every node, with the path of the machine it ran on.
    passes.ClearMetadataAndDocStringPass()(model)
    return model


def _join_constants(model: onnx_ir.Model, names: set[str]) -> None:
    """Keep equal bounds and axes once; a weight keeps its name, however short and whatever it equals."""
    kept: dict[tuple[object, ...], onnx_ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or name in names or tensor.size > _SHORT or tensor.dtype == onnx_ir.DataType.STRING:
            continue
        first = kept.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del model.graph.initializers[name]


def _fold_constants(model: onnx_ir.Model) -> None:
    weights = set(model.graph.initializers.values())
    # Folding the cast of the projection would store it in float32: twice the size.
    onnxscript.optimizer.fold_constants(
        model, should_fold=lambda node: False if weights.intersection(node.inputs) else None
    )


def _check_backbone(
    proto: onnx.ModelProto, tensors: Mapping[str, np.ndarray], *, may_pad: bool = False
) -> None:
    stored = {
        item.name: functools.partial(onnx.numpy_helper.to_array, item) for item in proto.graph.initializer
    }
    _check_tensors(stored, tensors)
    _check_pads(proto, may_pad=may_pad)


def graph_with(
    path: Path, tensors: Mapping[str, torch.Tensor], *, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Make the graph of the same network with other weights, without exporting it again.

    Args:
        path: A graph whose initializers keep the names of the state dict, with its weights inside.
        tensors: The weights, by these names; the graph lacks those that its output does not depend on.
        metadata: Written into the graph as metadata properties.

    Raises:
        ModelFormatError: The file is no such graph.
    """
    try:
        proto = onnx.load_model(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelFormatError(f"{path}: is no ONNX graph: {error}") from error
    replaced = 0
    for item in proto.graph.initializer:
        if item.name not in tensors:
            continue
        if onnx.external_data_helper.uses_external_data(item):
            raise ModelFormatError(
                f"{path}: its weights lie in another file, as they do above 2 GB; a person's own network "
                "must fit in one"
            )
        kind = onnx.helper.tensor_dtype_to_np_dtype(item.data_type)
        values = tensors[item.name].detach().cpu().numpy().astype(kind)
        if values.shape != tuple(item.dims):
            raise ModelFormatError(
                f"{path}: {item.name} has shape {tuple(item.dims)}, the network's has {values.shape}"
            )
        item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
        replaced += 1
    if not replaced:
        raise ModelFormatError(
            f"{path}: keeps none of the network's weights by name; export the bundle again"
        )
    return stamped(proto, metadata)


def _check_tensors(
    initializers: Mapping[str, Callable[[], np.ndarray]], tensors: Mapping[str, np.ndarray]
) -> None:
    if missing := sorted(tensors.keys() - initializers.keys()):
        raise ModelFormatError(
            f"the exported graph lost the names of {len(missing)} tensors, the first is {missing[0]}; "
            "export with the versions that the extra train was tested with"
        )
    for name, tensor in tensors.items():
        stored = initializers[name]()
        if stored.dtype != tensor.dtype or not np.array_equal(stored, tensor):
            raise ModelFormatError(f"the exported graph holds other values of {name} than the checkpoint")


def _check_pads(proto: onnx.ModelProto, *, may_pad: bool) -> None:
    """Refuse padding beside the convolutions, where the network has none: its rewriting went wrong."""
    pads = [node.name for node in proto.graph.node if node.op_type == "Pad"]
    if pads and not may_pad:
        raise ModelFormatError(f"the exported graph holds {len(pads)} Pad nodes, the first is {pads[0]!r}")
