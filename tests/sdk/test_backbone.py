"""The same pixels give the same embedding to the last bit, and nothing of onnxruntime's own escapes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle, write_config
from piaa_sdk.errors import DeviceError, ModelFormatError, PiaaWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray, PixelArray


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return ModelBundle.load(tiny_bundle)


def random_pixels(count: int, seed: int = 0) -> PixelArray:
    return np.random.default_rng(seed).integers(0, 256, size=(count, 32, 32, 3), dtype=np.uint8)


def replace_graph(folder: Path, graph: bytes) -> ModelBundle:
    (folder / "onnx" / "backbone.onnx").write_bytes(graph)
    write_config(folder, json.loads((folder / "config.json").read_text()))
    return ModelBundle.load(folder)


def reference_embedding(graph: bytes, pixels: PixelArray) -> FloatArray:
    """Compute in NumPy, float64, what the tiny graph says: patches of 4 x 4, ReLU, mean, projection."""
    import onnx

    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64)
        for tensor in onnx.load_from_string(graph).graph.initializer
    }
    count, size = pixels.shape[:2]
    normalized = (pixels.astype(np.float64) - weights["centre"]) / weights["spread"]
    patches = normalized.reshape(count, size // 4, 4, size // 4, 4, 3)
    responses = np.einsum("nyixjc,kcij->nyxk", patches, weights["kernels"])
    pooled = np.maximum(responses, 0).mean(axis=(1, 2))
    return pooled @ weights["projection"]


def test_embedding_is_what_the_graph_says(bundle: ModelBundle) -> None:
    """The right pixels reach the right input in the right layout; float16 keeps 11 bits."""
    pixels = random_pixels(3)
    expected = reference_embedding(bundle.backbone_path.read_bytes(), pixels)
    embeddings = Backbone(bundle).embed(pixels)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, rtol=2**-11, atol=1e-5)


def test_embeddings_survive_float16(bundle: ModelBundle) -> None:
    """Otherwise a photo would score differently on the second run, when it comes from the cache."""
    embeddings = Backbone(bundle).embed(random_pixels(5))
    np.testing.assert_array_equal(embeddings, embeddings.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 11])
def test_embeddings_do_not_depend_on_the_batch(bundle: ModelBundle, batch: int) -> None:
    pixels = random_pixels(11)
    backbone = Backbone(bundle)
    parts = [backbone.embed(pixels[start : start + batch]) for start in range(0, 11, batch)]
    np.testing.assert_array_equal(np.concatenate(parts), backbone.embed(pixels))


def test_embeddings_do_not_depend_on_the_order(bundle: ModelBundle) -> None:
    pixels = random_pixels(6)
    backbone = Backbone(bundle)
    np.testing.assert_array_equal(backbone.embed(pixels[::-1].copy())[::-1], backbone.embed(pixels))


def test_accelerators_get_one_batch_size(bundle: ModelBundle) -> None:
    """The path that pads is the one accelerators take; it is run here on the CPU."""
    pixels = random_pixels(11)
    backbone = Backbone(bundle, "cpu", batch_size=4)
    sizes = []

    class Watched:
        def run(self, names: None, inputs: dict[str, PixelArray]) -> list[FloatArray]:
            sizes.append(len(inputs["pixels"]))
            outputs: list[FloatArray] = session.run(names, inputs)
            return outputs

    session = backbone._opened()
    np.testing.assert_allclose(
        backbone._padded(Watched(), pixels), backbone.embed(pixels), rtol=1e-3, atol=1e-4
    )
    assert sizes == [4, 4, 4]


def test_threads_share_one_backbone(bundle: ModelBundle) -> None:
    """Eight threads open it at once and agree to the last bit with one."""
    pixels = random_pixels(4)
    expected = Backbone(bundle).embed(pixels)
    backbone = Backbone(bundle)
    start = threading.Barrier(8)
    found: list[FloatArray] = []

    def embed() -> None:
        start.wait()
        found.extend(backbone.embed(pixels) for _ in range(5))

    threads = [threading.Thread(target=embed) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for embeddings in found:
        np.testing.assert_array_equal(embeddings, expected)


def test_no_pictures_give_no_embeddings(bundle: ModelBundle) -> None:
    assert Backbone(bundle).embed(random_pixels(0)).shape == (0, 16)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 16, 32, 3), dtype=np.uint8),
        np.zeros((32, 32, 3), dtype=np.uint8),
        np.zeros((1, 3, 32, 32), dtype=np.uint8),
        np.zeros((1, 32, 32, 3), dtype=np.float32),
    ],
)
def test_other_pixels_are_refused(bundle: ModelBundle, pixels: PixelArray) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(N, 32, 32, 3\)"):
        Backbone(bundle).embed(pixels)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"size": 48}, r"48, 48, 3.*must have one input pixels, uint8 \(N, 32, 32, 3\)"),
        ({"dim": 8}, r"8\].*must have one output, float32 \(N, 16\)"),
        ({"kind": "int32"}, r"int32.*must have one input pixels, uint8"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(
    tiny_bundle: Path, build_graph: Callable[..., bytes], fault: dict[str, object], message: str
) -> None:
    bundle = replace_graph(tiny_bundle, build_graph(**fault))
    with pytest.raises(ModelFormatError, match=message):
        Backbone(bundle).embed(random_pixels(1))


def test_a_file_that_is_no_graph_is_refused(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = replace_graph(tiny_bundle, b"no graph at all")
    with pytest.raises(ModelFormatError, match=r"backbone\.onnx: is no graph that this onnxruntime runs"):
        Backbone(bundle).embed(random_pixels(1))
    assert capfd.readouterr() == ("", "")


def test_values_that_float16_cannot_hold_are_refused(
    tiny_bundle: Path, build_graph: Callable[..., bytes]
) -> None:
    """Infinity would be stored, and every score of that photo would be NaN from then on."""
    bundle = replace_graph(tiny_bundle, build_graph(gain=1e7))
    with pytest.raises(ModelFormatError, match="float16 cannot hold"):
        Backbone(bundle).embed(random_pixels(1))


def test_unknown_device_lists_the_known_ones(bundle: ModelBundle) -> None:
    with pytest.raises(
        DeviceError, match="device is 'tpu', must be one of auto, cpu, cuda, coreml, directml"
    ):
        Backbone(bundle, "tpu")


def test_batch_size_must_be_positive(bundle: ModelBundle) -> None:
    with pytest.raises(ValueError, match="batch_size is 0, must be at least 1"):
        Backbone(bundle, batch_size=0)


@pytest.mark.parametrize("device", ["cuda", "coreml", "directml"])
def test_an_absent_device_is_an_error_with_the_next_step(
    bundle: ModelBundle, device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Onnxruntime would print three lines and silently use the CPU."""
    from piaa_sdk.devices import available_devices

    if device in available_devices():
        pytest.skip(f"this machine has {device}")
    with pytest.raises(DeviceError, match=rf"device {device} is not available: .*cpu.*piaa doctor"):
        Backbone(bundle, device)
    assert capfd.readouterr() == ("", "")


def test_the_cpu_is_used_without_a_word(bundle: ModelBundle, capfd: pytest.CaptureFixture[str]) -> None:
    backbone = Backbone(bundle, "cpu")
    backbone.embed(random_pixels(1))
    assert backbone.device == "cpu"
    assert capfd.readouterr() == ("", "")


def test_auto_without_a_gpu_is_the_cpu_without_a_warning(bundle: ModelBundle) -> None:
    """Most photographers have no NVIDIA GPU and want to hear nothing about it."""
    from piaa_sdk.devices import count_cuda_devices

    if count_cuda_devices():
        pytest.skip("this machine has an NVIDIA GPU")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Backbone(bundle, "auto").device == "cpu"


def test_onnxruntime_is_loaded_when_it_is_needed(tiny_bundle: Path) -> None:
    """A run that finds everything in the cache needs none; the second line proves that the first can fail."""
    script = (
        "import sys; from pathlib import Path\n"
        "from piaa_sdk.backbone import Backbone; from piaa_sdk.bundle import ModelBundle\n"
        "backbone = Backbone(ModelBundle.load(Path(sys.argv[1])))\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "assert backbone.device and 'onnxruntime' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_bundle)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_two_runtimes_are_one_warning_with_the_command(bundle: ModelBundle, two_runtimes: None) -> None:
    with pytest.warns(PiaaWarning, match=r"both installed") as caught:
        Backbone(bundle).embed(random_pixels(2))
    assert len(caught) == 1
    assert str(caught[0].message).endswith("pip install --force-reinstall --no-deps onnxruntime-gpu")


@pytest.fixture
def two_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install what pip leaves behind for both distributions, in a folder that Python looks into first."""
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / "site" / f"{name}-9.9.9.dist-info"
        folder.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.9.9\n"
        (folder / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
