"""The exported graphs say what torch and numpy say, and hold the weights by their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import graphs
from export.torch_model import TorchModel
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.onnx import _check_backbone
from piaa_sdk.finetune.statistics_network import EmbeddingNetwork
from piaa_sdk.graphs import OPSET
from piaa_sdk.head import Prior
from piaa_sdk.rating_scale import RatingScale

if TYPE_CHECKING:
    from piaa_sdk.array_types import PixelArray
    from training.checkpoints import Checkpoint


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def graph(bundle_folder: Path) -> onnx.ModelProto:
    return onnx.load(bundle_folder / "onnx" / "backbone.onnx", load_external_data=False)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_backbone_is_the_network(
    checkpoint: Checkpoint, bundle_folder: Path, photos: PixelArray, count: int
) -> None:
    """On real photographs and at batch sizes other than the one it was exported with."""
    [found] = session(bundle_folder / "onnx" / "backbone.onnx").run(["embedding"], {"pixels": photos[:count]})
    expected = TorchModel(checkpoint.network()).embed(photos[:count])
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * np.linalg.norm(expected, axis=1).min()
    assert np.ptp(expected, axis=0).max() > 0.1 or count == 1, (
        "the photographs look alike: the test shows nothing"
    )


def test_signature_is_what_the_sdk_expects(graph: onnx.ModelProto) -> None:
    [pixels], [embedding] = graph.graph.input, graph.graph.output
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (pixels, embedding)
    ]
    assert (pixels.name, embedding.name) == ("pixels", "embedding")
    assert shapes == [["N", 64, 64, 3], ["N", 16]]
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]


def test_no_stray_padding(graph: onnx.ModelProto) -> None:
    """TensorFlow's asymmetric padding stands in the convolutions."""
    operators = {node.op_type for node in graph.graph.node}
    assert "Pad" not in operators
    assert any(
        pads[: len(pads) // 2] != pads[len(pads) // 2 :]
        for node in graph.graph.node
        for pads in [list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"]
    )


def test_weights_are_kept_by_their_names(graph: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    """Fine-tuning reads them back: the network made of the initializers alone is the trained one."""
    names = checkpoint.network().tensors().keys()
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in graph.graph.initializer}
    for name in names:
        assert stored[name].dtype == checkpoint.tensors[name].dtype
        assert np.array_equal(stored[name], checkpoint.tensors[name]), name
    tensors = {name: torch.tensor(stored[name]) for name in names}
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        again = EmbeddingNetwork.from_tensors(tensors, checkpoint.run["readouts"])
        assert torch.equal(again(pixels), checkpoint.network()(pixels))


def test_nothing_else_of_size_is_in_the_graph(graph: onnx.ModelProto, bundle_folder: Path) -> None:
    """A projection folded to float32 would make the file half as large again."""
    known = sum(len(item.raw_data) for item in graph.graph.initializer)
    assert all(item.data_location == onnx.TensorProto.DEFAULT for item in graph.graph.initializer)
    assert (bundle_folder / "onnx" / "backbone.onnx").stat().st_size - known < 200_000
    extra = [item for item in graph.graph.initializer if "." not in item.name and item.name != "projection"]
    assert sum(len(item.raw_data) for item in extra) < 2_000


def test_graphs_tell_what_they_are_and_not_where_they_were_made(bundle_folder: Path) -> None:
    """The exporter notes the source lines of every node, with the machine's paths."""
    for name in ("backbone", "head"):
        path = bundle_folder / "onnx" / f"{name}.onnx"
        found = {item.key: item.value for item in onnx.load(path).metadata_props}
        assert len(found.pop("revision")) == 64
        assert found == {"bundle_id": "piaa-efficientnet-lite0", "license": "apache-2.0"}
        data = path.read_bytes()
        for place in (torch.__file__, graphs.__file__, str(Path.home())):
            assert str(Path(place).parent).encode() not in data or Path(place).parent == Path("/")


def test_head_is_the_generic_head_of_the_prior(bundle_folder: Path) -> None:
    """At any embedding: ordinary, a centre itself (rounding takes the cosine past 1), zero, far away."""
    prior = Prior.load(bundle_folder / "prior.safetensors")
    rng = np.random.default_rng(1)
    at_centers = prior.centers.astype(np.float32) / prior.generic_metric
    embeddings = np.concatenate(
        [rng.normal(size=(40, 16)), at_centers, np.zeros((1, 16)), 1000 * rng.normal(size=(2, 16))]
    ).astype(np.float32)
    run = session(bundle_folder / "onnx" / "head.onnx").run
    [found] = run(["score"], {"embedding": embeddings})
    expected = RatingScale(1, 7).from_unit(prior.generic(embeddings))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert np.ptp(expected[:40]) > 0.1
    [alone] = run(["score"], {"embedding": embeddings[:1]})
    assert alone.shape == (1,)


def test_other_graphs_are_refused(graph: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    """What another version of the exporter may do: fold weights, rename them, pad."""
    tensors = {name: tensor.numpy() for name, tensor in checkpoint.network().tensors().items()}
    _check_backbone(graph, tensors)

    renamed = onnx.ModelProto.FromString(graph.SerializeToString())
    next(item for item in renamed.graph.initializer if item.name == "backbone.bn1.bias").name = "folded"
    with pytest.raises(
        ModelFormatError, match=r"lost the names of 1 tensors, the first is backbone\.bn1\.bias"
    ):
        _check_backbone(renamed, tensors)

    with pytest.raises(ModelFormatError, match=r"other values of backbone\.bn1\.bias"):
        _check_backbone(graph, tensors | {"backbone.bn1.bias": tensors["backbone.bn1.bias"] + 1})

    padded = onnx.ModelProto.FromString(graph.SerializeToString())
    padded.graph.node.append(onnx.helper.make_node("Pad", ["a", "b"], ["c"], "stray"))
    with pytest.raises(ModelFormatError, match="1 Pad nodes, the first is 'stray'"):
        _check_backbone(padded, tensors)
