"""The network that turns pixels into an embedding, run by onnxruntime.

What is guaranteed: on one machine with one version of onnxruntime, the same pixels give the same embedding
to the last bit, whatever pictures they are batched with and however many threads ask. The CPU is always
given one picture at a time, which costs nothing there: at 224 px, two threads are about a tenth faster one
by one than in batches of 8, with less than half the memory. An accelerator is always given one batch size,
padded. Between machines or devices the last bits differ, by far less than a score shows.

An accelerator gets its batches through buffers in its own memory that are made once and bound to the graph.
This path is tested bit for bit with the CPU as the device; on CUDA itself, Core ML and DirectML it has not
been run yet.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.devices import (
    DEVICES,
    FATAL,
    available_devices,
    count_cuda_devices,
    first_line,
    import_runtime,
    next_step,
    quiet,
    runtime_errors,
    runtime_name,
    warn_of_two_runtimes,
)
from piaa_sdk.errors import DeviceError, ModelFormatError, PiaaWarning

if TYPE_CHECKING:
    from types import ModuleType

    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.bundle import ModelBundle

_CPU = DEVICES["cpu"]
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory")  # in what the runtime says
_BUFFERS = {"cuda": "cuda"}
"""Where the buffers of a device lie; those of the others are in the CPU's memory, and onnxruntime copies."""

_CPU_BATCH, LARGE_BATCH = 8, 32
"""Pictures handed over at once, if nobody says.

On the CPU it does not matter to the network, and a small number brings the first results soon. An accelerator
needs many pictures at once to be busy. What 32 cost, for the network in the package at 256 px: 6 MB of pixels
in each thread that collects them, 100 MB with 16 threads, and 0.7 GB of the network's own (measured in the
CPU's memory; 64 take 1.5 GB). A core decodes 32 photos of 12 megapixels in about a second; at the start of a
run nobody waits for that, since the first batches are smaller. On which number an accelerator is fastest has
not been measured.
"""
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}  # TF32 keeps 10 bits only


class Backbone:
    """Turns pixels into embeddings; opened when it is first needed, safe to share between threads.

    Args:
        bundle: Where the graph is.
        device: ``cpu``, ``cuda``, ``coreml``, ``directml``, or ``auto``: CUDA if there is an NVIDIA GPU,
            else the CPU.
        batch_size: Pictures given to an accelerator at once, no effect on the CPU; None for 32.

    Raises:
        DeviceError: There is no such device, or it was asked for by name and is not available.
        ModelFormatError: The graph does not fit the bundle (raised when it is opened, as above).
    """

    def __init__(self, bundle: ModelBundle, device: str = "auto", *, batch_size: int | None = None) -> None:
        if device != "auto" and device not in DEVICES:
            raise DeviceError(f"device is {device!r}, must be one of auto, {', '.join(DEVICES)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        self._bundle = bundle
        self._asked = device
        self._batch_size = batch_size
        self._opening = threading.Lock()
        self._session: Any = None
        self._runner: _BoundRunner | None = None
        self._errors: tuple[type[Exception], ...] = ()
        self._device = "cpu"
        if device not in ("auto", "cpu"):
            self._opened()

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self._bundle.embedding_dim

    @property
    def device(self) -> str:
        """The device that is really used; opens the graph."""
        self._opened()
        return self._device

    @property
    def batch_size(self) -> int:
        """Pictures that are best handed over at once: as stated, or by the device.

        Opens nothing: before the graph is open, the device is the one that is likely to be used.
        """
        if self._batch_size is not None:
            return self._batch_size
        is_cpu = (self._device if self._session is not None else self._likely_device) == "cpu"
        return _CPU_BATCH if is_cpu else LARGE_BATCH

    @cached_property
    def _likely_device(self) -> str:
        if self._asked != "auto":
            return self._asked
        return "cuda" if count_cuda_devices() else "cpu"

    def embed(self, pixels: PixelArray) -> FloatArray:
        """Compute embeddings.

        Args:
            pixels: (N, S, S, 3) uint8, RGB, S = ``bundle.preprocessing.size``.

        Returns:
            (N, D) float32, rounded to what float16 can hold, so that what comes back from the cache is the
            same to the last bit.

        Raises:
            ValueError: The pixels have another shape or type.
            MemoryError: The processor has not enough memory at the moment.
            DeviceError: The device failed, for example for lack of memory.
            ModelFormatError: The graph fails, or puts out something that is no embedding.
        """
        size = self._bundle.preprocessing.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"pixels are {pixels.dtype} {pixels.shape}, must be uint8 (N, {size}, {size}, 3)"
            )
        if len(pixels) == 0:
            return np.empty((0, self.embedding_dim), dtype=np.float32)
        session = self._opened()
        try:
            embeddings = (
                self._one_by_one(session, pixels)
                if self._device == "cpu"
                else self._in_batches(session, pixels)
            )
        except self._errors as error:
            if self._device == "cpu" and any(words in str(error) for words in _OUT_OF_MEMORY):
                raise MemoryError("the network needs more memory than there is") from error
            raise self._failure(error) from error
        if embeddings.shape != (len(pixels), self.embedding_dim):
            raise ModelFormatError(
                f"{self._bundle.graph_name}: puts out {embeddings.shape} for {len(pixels)} pictures, "
                f"must be ({len(pixels)}, {self.embedding_dim})"
            )
        with np.errstate(
            over="ignore"
        ):  # what is too large becomes infinite, and is refused in the next line
            rounded = embeddings.astype(np.float16)
        if not np.isfinite(rounded).all():
            raise ModelFormatError(f"{self._bundle.graph_name}: puts out values that float16 cannot hold")
        return rounded.astype(np.float32)

    def _one_by_one(self, session: Any, pixels: PixelArray) -> FloatArray:
        return np.concatenate([session.run(None, {self._input: one[np.newaxis]})[0] for one in pixels])

    def _in_batches(self, session: Any, pixels: PixelArray) -> FloatArray:
        with self._opening:
            if self._runner is None:
                memory = _BUFFERS.get(self._device, "cpu")
                shapes = (self.batch_size, *pixels.shape[1:]), (self.batch_size, self.embedding_dim)
                self._runner = _BoundRunner(import_runtime(), session, *shapes, memory)
            runner = self._runner
        step = runner.batch_size
        return np.concatenate(
            [runner.run(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        )

    @property
    def _input(self) -> str:
        return _graph_name(self._bundle, "input", "pixels")

    def _failure(self, error: Exception) -> DeviceError | ModelFormatError:
        text = first_line(error)
        if self._device == "cpu":
            return ModelFormatError(f"{self._bundle.graph_name}: fails: {text}")
        return DeviceError(
            f"{self._device} failed: {text}. If memory is short, try a batch size below {self.batch_size} "
            "(--batch-size, batch_size=); else try the device cpu. `piaa doctor` says what is installed"
        )

    def _opened(self) -> Any:
        with self._opening:
            if self._session is None:
                runtime = import_runtime()
                warn_of_two_runtimes()
                self._errors = runtime_errors(runtime)
                self._device, self._session = _open(runtime, self._bundle, self._asked, self._errors)
            return self._session


class _BoundRunner:
    """Runs a graph in batches of one size, on buffers that are made once and bound to it.

    Args:
        runtime: The module onnxruntime.
        session: With one input, uint8, and one output, float32.
        given: Shape of a batch of pixels, (N, S, S, 3); fewer pictures are filled up with black ones.
        made: Shape of their embeddings, (N, D).
        memory: Where the buffers lie: the name of a device as onnxruntime knows it.
    """

    def __init__(
        self,
        runtime: ModuleType,
        session: Any,
        given: tuple[int, ...],
        made: tuple[int, ...],
        memory: str,
    ) -> None:
        self.batch_size = given[0]
        self._session = session
        self._lock = threading.Lock()
        self._batch = np.zeros(given, dtype=np.uint8)
        make = runtime.OrtValue.ortvalue_from_shape_and_type
        with quiet(runtime):  # what is missing is raised, too
            self._pixels = make(list(given), np.uint8, memory)
            self._embeddings = make(list(made), np.float32, memory)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._pixels)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._embeddings)

    def run(self, pixels: PixelArray) -> FloatArray:
        """Compute embeddings (N, D) of at most ``batch_size`` pictures, (N, S, S, 3) uint8.

        Other threads wait meanwhile. A second batch at once would need the accelerator's memory twice, and
        win little: decoding, in the other threads, is what takes long.
        """
        count = len(pixels)
        with self._lock:
            self._batch[:count] = pixels
            self._batch[count:] = 0
            self._pixels.update_inplace(self._batch)
            self._binding.synchronize_inputs()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            return np.array(self._embeddings.numpy()[:count])  # a copy: the buffer is used again


def _open(
    runtime: ModuleType, bundle: ModelBundle, asked: str, errors: tuple[type[Exception], ...]
) -> tuple[str, Any]:
    """Open a session; return the device it runs on and the session."""
    built_for = runtime.get_available_providers()
    if asked == "auto":
        if DEVICES["cuda"] not in built_for or count_cuda_devices() == 0:
            return "cpu", _cpu_session(runtime, bundle, errors)
        try:
            return "cuda", _accelerated_session(runtime, bundle, "cuda", errors)
        except DeviceError as error:
            warnings.warn(f"{error}. Going on with the CPU", PiaaWarning, stacklevel=5)
            return "cpu", _cpu_session(runtime, bundle, errors)
    if asked == "cpu":
        return "cpu", _cpu_session(runtime, bundle, errors)
    if DEVICES[asked] not in built_for:
        raise DeviceError(
            f"device {asked} is not available: {runtime_name()} was built for "
            f"{', '.join(device for device, provider in DEVICES.items() if provider in built_for)}. "
            f"{next_step(asked)}"
        )
    return asked, _accelerated_session(runtime, bundle, asked, errors)


def _cpu_session(runtime: ModuleType, bundle: ModelBundle, errors: tuple[type[Exception], ...]) -> Any:
    try:
        session = runtime.InferenceSession(
            bundle.graph_source, sess_options=_options(runtime, "cpu"), providers=[_CPU], enable_fallback=0
        )
    except errors as error:
        raise ModelFormatError(
            f"{bundle.graph_name}: is no graph that this onnxruntime runs: {first_line(error)}"
        ) from error
    _check_graph(session, bundle)
    return session


def _accelerated_session(
    runtime: ModuleType, bundle: ModelBundle, device: str, errors: tuple[type[Exception], ...]
) -> Any:
    # The graph is judged on the CPU first: what fails afterwards is the device's fault.
    _cpu_session(runtime, bundle, errors)
    provider = DEVICES[device]
    options = _CUDA_OPTIONS if device == "cuda" else {}
    reason = f"{provider} could not be started"
    try:
        with quiet(runtime):
            if device == "cuda":
                _preload(runtime, errors)
            session = runtime.InferenceSession(
                bundle.graph_source,
                sess_options=_options(runtime, device),
                providers=[(provider, options), _CPU],
                enable_fallback=0,
            )
        if provider in session.get_providers():  # onnxruntime falls back to the CPU without an error
            return session
    except errors as error:
        reason = first_line(error)
    raise DeviceError(
        f"device {device} is not available: {reason}; available here: {', '.join(available_devices())}. "
        f"{next_step(device)}"
    )


def _options(runtime: ModuleType, device: str) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # the pipeline's workers are the threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = FATAL
    options.use_deterministic_compute = True
    options.enable_mem_pattern = device != "directml"  # which refuses to start with it
    return options


def _preload(runtime: ModuleType, errors: tuple[type[Exception], ...]) -> None:
    """Load the CUDA libraries that pip installed; without them the system's own are tried."""
    preload = getattr(runtime, "preload_dlls", None)
    if preload is not None:
        with contextlib.suppress(*errors):
            preload()


def _check_graph(session: Any, bundle: ModelBundle) -> None:
    size, dim = bundle.preprocessing.size, bundle.embedding_dim
    inputs, outputs = session.get_inputs(), session.get_outputs()
    name = _graph_name(bundle, "input", "pixels")
    found = [f"{one.name} {one.type} {one.shape}" for one in (*inputs, *outputs)]
    if len(inputs) != 1 or inputs[0].name != name or not _fits(inputs[0], "uint8", (size, size, 3)):
        wanted = f"one input {name}, uint8 (N, {size}, {size}, 3) with a free N"
    elif len(outputs) != 1 or not _fits(outputs[0], "float", (dim,)):
        wanted = f"one output, float32 (N, {dim})"
    else:
        return
    raise ModelFormatError(f"{bundle.graph_name}: has {'; '.join(found)}, must have {wanted}")


def _fits(value: Any, kind: str, shape: tuple[int, ...]) -> bool:
    """Whether a graph's input or output is of a type, with a free first axis; other axes may be free too."""
    axes = value.shape
    if value.type != f"tensor({kind})" or len(axes) != 1 + len(shape) or isinstance(axes[0], int):
        return False
    return all(
        not isinstance(axis, int) or axis == length for axis, length in zip(axes[1:], shape, strict=True)
    )


def _graph_name(bundle: ModelBundle, key: str, default: str) -> str:
    if bundle.graph is not None:
        return default
    graphs = bundle.config.get("graphs")
    backbone = graphs.get("backbone") if isinstance(graphs, dict) else None
    name = backbone.get(key) if isinstance(backbone, dict) else None
    return name if isinstance(name, str) else default
