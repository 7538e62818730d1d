"""The same pixels give the same embedding to the last bit, and nothing of onnxruntime's own escapes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

from piaa_sdk.backbone import Backbone, _BoundRunner
from piaa_sdk.bundle import ModelBundle, write_config
from piaa_sdk.devices import import_runtime
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


def as_accelerator(bundle: ModelBundle, batch_size: int | None = None) -> Backbone:
    """A backbone that runs as on an accelerator, with buffers in the CPU's memory: on this machine's CPU."""
    backbone = Backbone(bundle, "cpu", batch_size=batch_size)
    backbone._opened()
    backbone._device = "coreml"
    return backbone


def plain_batches(bundle: ModelBundle, pixels: PixelArray, batch_size: int) -> FloatArray:
    """Run the graph without bound buffers on batches of one size, filled up with black pictures."""
    session = Backbone(bundle, "cpu")._opened()
    missing = -len(pixels) % batch_size
    padded = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), dtype=np.uint8)])
    parts = [
        session.run(None, {"pixels": padded[start : start + batch_size]})[0]
        for start in range(0, len(padded), batch_size)
    ]
    return np.concatenate(parts)[: len(pixels)].astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (4, 4), (11, 4), (3, 1), (5, 32)])
def test_bound_buffers_give_what_plain_runs_give(bundle: ModelBundle, count: int, batch_size: int) -> None:
    """To the last bit, filled up or not; it is the path of accelerators, run here on the CPU."""
    pixels = random_pixels(count)
    embeddings = as_accelerator(bundle, batch_size).embed(pixels)
    np.testing.assert_array_equal(embeddings, plain_batches(bundle, pixels, batch_size))


def test_bound_buffers_are_used_again_and_keep_nothing(bundle: ModelBundle) -> None:
    """What an earlier batch left in them shows in no later one, and no later one in an earlier result."""
    backbone, pixels = as_accelerator(bundle, 4), random_pixels(11)
    first = backbone.embed(pixels)
    kept, runner = first.copy(), backbone._runner
    alone = np.concatenate([backbone.embed(one[np.newaxis]) for one in pixels])
    np.testing.assert_array_equal(alone, kept)
    np.testing.assert_array_equal(first, kept)
    assert runner is not None
    assert backbone._runner is runner


def test_a_result_of_bound_buffers_is_a_copy(bundle: ModelBundle) -> None:
    session = Backbone(bundle, "cpu")._opened()
    runner = _BoundRunner(import_runtime(), session, (2, 32, 32, 3), (2, 16), "cpu")
    first = runner.run(random_pixels(2))
    kept = first.copy()
    runner.run(random_pixels(2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_threads_share_bound_buffers(bundle: ModelBundle) -> None:
    """There is one set of them: without a lock, one thread's pictures would get another's embeddings."""
    backbone = as_accelerator(bundle, 4)
    given = [random_pixels(9, seed) for seed in range(6)]
    expected = [plain_batches(bundle, pixels, 4) for pixels in given]
    found: list[list[FloatArray]] = [[] for _ in given]

    def embed(number: int) -> None:
        found[number].extend(backbone.embed(given[number]) for _ in range(10))

    threads = [threading.Thread(target=embed, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, right in zip(found, expected, strict=True):
        assert len(results) == 10
        for embeddings in results:
            np.testing.assert_array_equal(embeddings, right)


def test_memory_that_is_not_there_is_an_error_with_the_next_step(
    bundle: ModelBundle, capfd: pytest.CaptureFixture[str]
) -> None:
    """Onnxruntime's own words come first, then what to do; here the buffers are those of an absent GPU."""
    from piaa_sdk.devices import count_cuda_devices

    if count_cuda_devices():
        pytest.skip("this machine has an NVIDIA GPU")
    backbone = as_accelerator(bundle)
    backbone._device = "cuda"
    with pytest.raises(DeviceError, match=r"^cuda failed: .+ try a batch size below 32 .*the device cpu"):
        backbone.embed(random_pixels(1))
    assert capfd.readouterr() == ("", "")


def test_the_batch_follows_the_device_and_opens_nothing(bundle: ModelBundle) -> None:
    from piaa_sdk.devices import count_cuda_devices

    backbone = Backbone(bundle, "cpu")
    assert backbone.batch_size == 8
    assert backbone._session is None
    assert as_accelerator(bundle).batch_size == 32
    assert as_accelerator(bundle, 5).batch_size == Backbone(bundle, "cpu", batch_size=5).batch_size == 5
    assert Backbone(bundle).batch_size == (32 if count_cuda_devices() else 8)


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


FALLBACK = """
import sys, warnings
from pathlib import Path
import numpy as np
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.devices import count_cuda_devices

assert count_cuda_devices() == 1
backbone = Backbone(ModelBundle.load(Path(sys.argv[1])))
assert backbone.batch_size == 32
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    backbone.embed(np.zeros((3, 32, 32, 3), dtype=np.uint8))
    backbone.embed(np.zeros((3, 32, 32, 3), dtype=np.uint8))
print(backbone.device, backbone.batch_size, *[warning.message for warning in caught], sep="\\n")
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="makes a driver with cc")
def test_auto_goes_on_with_the_cpu_in_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    """The driver shows a GPU, and CUDA cannot be started: here, because this driver can do nothing else."""
    if "CUDAExecutionProvider" not in import_runtime().get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")
    driver = "int cuInit(unsigned flags) { return 0; } int cuDeviceGetCount(int *n) { *n = 1; return 0; }"
    (tmp_path / "driver.c").write_text(driver)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", FALLBACK, str(tiny_bundle)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    device, batch, *said = done.stdout.splitlines()
    assert (device, batch, len(said)) == ("cpu", "8", 1)
    assert said[0].startswith("device cuda is not available: ")
    assert said[0].endswith("Going on with the CPU")


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
