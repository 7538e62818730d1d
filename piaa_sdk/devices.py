"""The devices of this machine and the onnxruntime that is installed for them."""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import DeviceError, PiaaWarning, install_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

DEVICES: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""What a device is called here, and what onnxruntime calls it."""

FATAL = 4
"""Severity of the messages that onnxruntime still prints when it is told to be quiet."""

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-silicon")


def installed_runtimes() -> dict[str, str]:
    """Find the installed distributions that bring the module ``onnxruntime``.

    Returns:
        Versions by name. Exactly one is right: they write over each other's files, and the one written
        last wins.
    """
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    found = {}
    for name in _RUNTIMES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def repair_command(runtimes: dict[str, str]) -> str:
    """Say how to mend an environment with several of ``installed_runtimes()``."""
    special = [name for name in runtimes if name != "onnxruntime"]
    return f"pip install --force-reinstall --no-deps {special[0] if special else 'onnxruntime'}"


def available_devices() -> list[str]:
    """List the devices that the installed onnxruntime was built for and that this machine seems to have.

    Raises:
        DeviceError: onnxruntime cannot be imported.
    """
    built_for = import_runtime().get_available_providers()
    return [
        device
        for device, provider in DEVICES.items()
        if provider in built_for and (device != "cuda" or count_cuda_devices() > 0)
    ]


def count_cuda_devices() -> int:
    """Ask the NVIDIA driver how many GPUs this process may use; 0 without a driver."""
    for name in ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so"):
        try:
            driver = ctypes.CDLL(name)
            count = ctypes.c_int(0)
            if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
                return count.value
        except (OSError, AttributeError):
            continue
    return 0


def cpu_count() -> int:
    """Count the cores this process may use: of the machine, its affinity and its control group's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # neither macOS nor Windows has it
        allowed = os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _cgroup_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return max(1, min([allowed, *quotas]))


class _SingleThread:
    """A context in which NumPy's matrix products take one thread each, whoever else is in it.

    Products of a few dozen rows gain nothing from more, and threads that wait for each other by spinning
    take the cores from those that decode pictures. The setting is the process's: it goes back to what it was
    when the last one leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._libraries: Any = None
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._libraries is None:
                from threadpoolctl import ThreadpoolController

                self._libraries = ThreadpoolController()
            if not self._inside:
                self._limit = self._libraries.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limit.restore_original_limits()


single_threaded_products = _SingleThread()
"""Enter it around many small matrix products."""


def _cgroup_quotas(membership: Path, root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the control groups that a process is in.

    Args:
        membership: ``/proc/self/cgroup``: lines such as ``0::/user/job`` and ``4:cpu,cpuacct:/job``.
        root: Where the hierarchies are mounted. In a container the groups named there may lie out of
            sight; its own is then the root.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        folder = base / group.lstrip("/")
        for candidate in (folder, *folder.parents):
            quota = _read_quota(candidate)
            if quota is not None:
                yield quota
            if candidate == base:
                break


def _read_quota(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no quota
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def import_runtime() -> ModuleType:
    """Import onnxruntime.

    Raises:
        DeviceError: It is missing or broken.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be loaded: {error}. Reinstall it: {repair_command(installed_runtimes())}"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DeviceError(
            "the installed onnxruntime is an empty shell, as after uninstalling one of two. Reinstall it: "
            f"{repair_command(installed_runtimes())}"
        )
    module: ModuleType = onnxruntime
    return module


def warn_of_two_runtimes() -> None:
    """Warn, with the command that repairs it, if several distributions share the module."""
    runtimes = installed_runtimes()
    if len(runtimes) > 1:
        names = " and ".join(f"{name} {version}" for name, version in runtimes.items())
        warnings.warn(
            f"{names} are both installed and have written over each other; a GPU may go unused. Repair with: "
            f"{repair_command(runtimes)}",
            PiaaWarning,
            stacklevel=4,
        )


def runtime_errors(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """Collect what onnxruntime raises: its exceptions have no base of their own."""
    own = vars(runtime.capi.onnxruntime_pybind11_state).values()
    named = tuple(kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception))
    return (*named, RuntimeError, ValueError, OSError)


@contextlib.contextmanager
def quiet(runtime: ModuleType) -> Iterator[None]:
    """Keep onnxruntime's messages about missing libraries off both streams; ours says what to do."""
    warning = 2  # its default, which it has no way to ask for
    runtime.set_default_logger_severity(FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        runtime.set_default_logger_severity(warning)


def runtime_name() -> str:
    """Name the installed distribution for a message."""
    return " and ".join(installed_runtimes()) or "the installed onnxruntime"


def next_step(device: str) -> str:
    """Say what makes a device available, as the end of a message."""
    steps = {
        "cuda": f"For an NVIDIA GPU under Linux or Windows: {install_command('cuda')}",
        "coreml": "Core ML comes with onnxruntime for macOS",
        "directml": "For Windows: pip uninstall onnxruntime-gpu, then pip install onnxruntime-directml",
    }
    return f"{steps[device]}; `piaa doctor` says what is installed"


def first_line(error: Exception) -> str:
    """Shorten a library's message to one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
