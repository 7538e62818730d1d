"""How many cores there are to use, and which onnxruntime is installed."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from piaa_sdk import devices
from piaa_sdk.devices import (
    available_devices,
    cpu_count,
    installed_runtimes,
    repair_command,
    single_threaded_products,
)
from piaa_sdk.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path


def test_cores_are_at_least_one_and_at_most_the_machines() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_cores_follow_the_affinity() -> None:
    """``taskset -c 0 piaa score`` asks for one worker."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)


def make_group(root: Path, group: str, **files: str) -> None:
    folder = root / group
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def quotas(tmp_path: Path, membership: str) -> list[float]:
    (tmp_path / "membership").write_text(membership)
    return list(devices._cgroup_quotas(tmp_path / "membership", tmp_path / "groups"))


def test_quota_of_a_container(tmp_path: Path) -> None:
    """In a container with its own view, the root of the hierarchy holds its quota."""
    make_group(tmp_path / "groups", ".", cpu__max="150000 100000\n")
    assert quotas(tmp_path, "0::/\n") == [1.5]


def test_every_group_above_can_limit(tmp_path: Path) -> None:
    make_group(tmp_path / "groups", "user", cpu__max="200000 100000\n")
    make_group(tmp_path / "groups", "user/job", cpu__max="max 100000\n")
    assert quotas(tmp_path, "0::/user/job\n") == [2.0]


def test_group_named_outside_the_container_is_out_of_sight(tmp_path: Path) -> None:
    make_group(tmp_path / "groups", ".", cpu__max="100000 100000\n")
    assert quotas(tmp_path, "0::/docker/0123\n") == [1.0]


def test_quota_of_the_older_hierarchy(tmp_path: Path) -> None:
    make_group(tmp_path / "groups", "cpu/job", cpu__cfs_quota_us="250000\n", cpu__cfs_period_us="100000\n")
    make_group(tmp_path / "groups", "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert quotas(tmp_path, "7:memory:/job\n4:cpu,cpuacct:/job\n") == [2.5]


def test_no_groups_no_quota(tmp_path: Path) -> None:
    assert list(devices._cgroup_quotas(tmp_path / "nowhere", tmp_path)) == []


def test_the_runtime_of_this_environment_is_found() -> None:
    runtimes = installed_runtimes()
    assert runtimes
    assert all(name.startswith("onnxruntime") and version[0].isdigit() for name, version in runtimes.items())
    assert "cpu" in available_devices()


@pytest.mark.parametrize(
    ("runtimes", "name"),
    [
        ({"onnxruntime": "1", "onnxruntime-gpu": "1"}, "onnxruntime-gpu"),
        ({"onnxruntime": "1", "onnxruntime-directml": "1"}, "onnxruntime-directml"),
        ({"onnxruntime": "1"}, "onnxruntime"),
        ({}, "onnxruntime"),
    ],
)
def test_repair_reinstalls_the_special_one(runtimes: dict[str, str], name: str) -> None:
    """The plain wheel has nothing that the special one lacks."""
    assert repair_command(runtimes) == f"pip install --force-reinstall --no-deps {name}"


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "an empty shell"), ("raise ImportError('no VC++ runtime')", "cannot be loaded: no VC.. runtime")],
)
def test_a_broken_runtime_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    """Uninstalling one of two distributions leaves an empty package; the original cause must stay visible."""
    (tmp_path / "onnxruntime.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        with pytest.raises(DeviceError, match=rf"{message}.*pip install --force-reinstall"):
            available_devices()
    finally:
        sys.modules.pop("onnxruntime", None)


def test_matrix_products_take_one_thread_until_the_last_one_leaves() -> None:
    """The setting is the host program's: two scorers at work in two threads must not leave it changed."""
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    with threadpool_limits(3, user_api="blas"):
        before = threads()
        first, second = ExitStack(), ExitStack()
        first.enter_context(single_threaded_products)
        second.enter_context(single_threaded_products)
        first.close()
        assert set(threads()) == {1}
        second.close()
        assert threads() == before
