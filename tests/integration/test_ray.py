"""Jobs on Ray as they are run: on this machine, on a cluster of two nodes, one of which dies.

One module, so that one process starts Ray and nobody else does at the same time.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from piaa_sdk import Scorer
from piaa_sdk.engines import BatchScorer
from piaa_sdk.engines.ray_data import (
    JobProgress,
    _failures_as_engine_errors,
    local_settings,
    score_on_ray,
)
from piaa_sdk.errors import EngineError, ModelFormatError, OutputError
from piaa_sdk.row_formats import parquet_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    # Ray leaves sockets, files and processes to the garbage collector, and warns of its own old settings.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

CHECKOUT = Path(__file__).parents[2]
PHOTOS, BAD, PART_SIZE = 28, 3, 2
COPIES = 2
SECONDS = 120
FIGURES = ("path", "user", "generic", "personal", "std", "stars", "bundle_revision", "error")


@dataclass(frozen=True)
class Cluster:
    """Two nodes with one core each on this machine; the second one may be killed."""

    cluster: Any
    second: Any

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Ray with two nodes, which this process is connected to."""
    with local_settings():
        import ray
        from ray.cluster_utils import Cluster as RayCluster

        memory = {"object_store_memory": 100 << 20}
        # A dead node is noticed in seconds; one that is slow, as the machine is busy, is not taken for dead.
        checks = {
            "health_check_period_ms": 1000,
            "health_check_timeout_ms": 20_000,
            "health_check_failure_threshold": 2,
        }
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": checks, **memory}
        nodes = RayCluster(initialize_head=True, head_node_args=head)
        try:
            second = nodes.add_node(num_cpus=1, **memory)
            ray.init(address=nodes.address, configure_logging=False, log_to_driver=False)
            nodes.wait_for_nodes()
            yield Cluster(nodes, second)
        finally:
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that take some 50 ms each, and some that cannot be read."""
    folder = tmp_path_factory.mktemp("library")
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((1600, 1200), Image.Resampling.BILINEAR).save(
            folder / f"{number:03d}.png", compress_level=1
        )
    for number in range(BAD):
        (folder / f"{7 * number:03d}-bad.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    return folder


@pytest.fixture
def mira(library: Path) -> Scorer:
    """A person who is stored on this machine."""
    rated = {library / f"{number:03d}.png": 1 + number % 5 for number in range(8)}
    return Scorer.from_pretrained(cache=False).personalize(rated, user="mira")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a job, by path."""
    rows: list[dict[str, Any]] = ds.dataset(folder).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["path"])


def local_rows(scorer: Scorer, library: Path) -> list[dict[str, Any]]:
    """What the local run says of the same photos."""
    scores = sorted(scorer.score(library), key=lambda score: score.image)
    names = ("user", "generic", "personal", "std", "stars")
    return [
        {name: getattr(score, name) for name in names}
        | {
            "path": score.image,
            "error": None if score.error is None else score.error.reason,
            "bundle_revision": scorer.bundle.bundle_revision,
        }
        for score in scores
    ]


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in FIGURES} for row in rows]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Which files the parts are and when they were written."""
    found = ((path.name, path.stat()) for path in folder.glob("part-*"))
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}


def listening_addresses(root: int) -> set[str]:
    """The addresses that a process and its descendants listen on."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family, before = {root}, set[int]()
    while family != before:
        before = set(family)
        family |= {child for child, parent in parents.items() if parent in family}
    sockets = set()
    for process in family:
        for file in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.fspath(file.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                text = bytes.fromhex(words[1].partition(":")[0])
                packed = b"".join(
                    struct.pack(">I", *struct.unpack("<I", text[at : at + 4]))
                    for at in range(0, len(text), 4)
                )
                found.add(socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed))
    return found


@contextmanager
def watching_listeners(root: int) -> Iterator[set[str]]:
    """Collect meanwhile, in a thread, the addresses that a process and its descendants listen on."""
    found, is_over = set[str](), threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            found.update(listening_addresses(root))
            is_over.wait(0.5)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="reads what listens from /proc")
def test_stopped_command_goes_on_elsewhere(
    tmp_path: Path, library: Path, request: pytest.FixtureRequest
) -> None:
    """Ctrl-C leaves whole parts, and going on, on a cluster here, leaves them untouched.

    Meanwhile the command starts Ray on this machine alone, deaf to the network, and ends it. There are
    seconds of work, so that it is stopped in the middle however late that is noticed.
    """
    output, copies = tmp_path / "scores", tmp_path / "copies"
    copies.mkdir()
    for number in range(COPIES):
        for photo in library.iterdir():
            (copies / f"{number}-{photo.name}").hardlink_to(photo)
    count = COPIES * (PHOTOS + BAD)
    command = ["score", str(copies), "--engine", "ray", "--part-size", "2", "--output", str(output)]
    cores = sorted(os.sched_getaffinity(0))[:2]  # or many of them are done before anything can be stopped
    process = subprocess.Popen(
        [sys.executable, "-m", "piaa_sdk", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        deadline = time.monotonic() + SECONDS
        with watching_listeners(process.pid) as addresses:
            while not stamps(output) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert out == ""
    [said] = [line for line in err.splitlines() if not line.startswith("skipped: ")]
    assert said.startswith("stopped after ")
    before = stamps(output)
    kept = rows_of(output)
    assert 0 < len(kept) < count
    assert request.getfixturevalue("cluster")

    seen: list[JobProgress] = []
    end = score_on_ray([copies], output, BatchScorer(), part_size=PART_SIZE, on_part=seen.append)

    after = stamps(output)
    assert {name: after[name] for name in before} == before
    assert seen[0].done == end.earlier == len(kept)
    assert len(seen) == 1 + len(after) - len(before)
    expected = [
        row | {"path": str(copies / f"{number}-{Path(row['path']).name}")}
        for row in local_rows(Scorer.from_pretrained(cache=False), library)
        for number in range(COPIES)
    ]
    assert figures(rows_of(output)) == sorted(expected, key=lambda row: str(row["path"]))
    with pytest.raises(OutputError, match="in parts of 2 photos"):
        score_on_ray([copies], output, BatchScorer(), part_size=PART_SIZE + 1)


def scorer_that_waits(user: str | None, doomed: str, signs: Path) -> BatchScorer:
    """A scorer whose first part begins when both nodes have one, and whose others wait for a death.

    Args:
        user: As of `BatchScorer`.
        doomed: Number of the node that dies, which never gets beyond the beginning of its second part.
        signs: Folder, seen by all: a file for each node that has begun, and ``dead``.
    """

    class Waiting(BatchScorer):  # one of a function travels by what it does, not by its name
        def rows(self, pictures: Any) -> Any:
            import ray

            node = ray.get_runtime_context().get_node_id()
            is_first = not (signs / node).exists()
            (signs / node).touch()
            (signs / f"{node}-{'first' if is_first else 'more'}").touch()
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline and not (
                len(list(signs.glob("*-first"))) == 2
                if is_first
                else node != doomed and (signs / "dead").exists()
            ):
                time.sleep(0.02)
            return super().rows(pictures)

    return Waiting(user=user)


def test_node_dies_and_every_photo_is_scored_once(
    cluster: Cluster, library: Path, mira: Scorer, tmp_path: Path
) -> None:
    """The node that dies had work and has work; the scores are those of the local run to the last bit."""
    output, signs = tmp_path / "scores", tmp_path / "signs"
    signs.mkdir()
    doomed = cluster.second.node_id
    workers: list[str] = []

    def watch(progress: JobProgress) -> None:
        workers.append(progress.node)
        if progress.node != doomed:
            return
        deadline = time.monotonic() + SECONDS
        while not (signs / f"{doomed}-more").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        cluster.kill_second()
        (signs / "dead").touch()

    scorer = scorer_that_waits(mira.user, doomed, signs)
    end = score_on_ray([library], output, scorer, part_size=PART_SIZE, on_part=watch)

    assert (signs / f"{doomed}-more").exists()  # it died with a part in its hands
    assert workers.count(doomed) == 1
    assert len(workers) == 1 + len(stamps(output))
    assert cluster.second not in cluster.cluster.worker_nodes
    assert (end.photos, end.done, end.failed) == (PHOTOS + BAD, PHOTOS + BAD, BAD)
    assert figures(rows_of(output)) == local_rows(mira, library)
    assert {pq.read_schema(path) for path in output.glob("part-*")} == {parquet_schema()}


def test_list_with_bytes(cluster: Cluster, library: Path, tmp_path: Path) -> None:
    """Photos that lie in a table, as data lakes keep them; missing and broken ones are rows with an error."""
    photos = sorted(library.iterdir())[:9]
    data = [*(photo.read_bytes() for photo in photos), b"", None]
    names = [*(photo.name for photo in photos), "empty", None]
    pq.write_table(pa.table({"id": names, "bytes": data}), tmp_path / "list.parquet", row_group_size=4)

    end = score_on_ray([tmp_path / "list.parquet"], tmp_path / "scores", BatchScorer(), part_size=3)

    expected = {
        Path(row["path"]).name: row["generic"] for row in local_rows(Scorer.from_pretrained(), library)
    }
    rows = rows_of(tmp_path / "scores")
    readable = [row for row in rows if row["error"] is None]
    assert {row["path"]: row["generic"] for row in readable} == {
        photo.name: expected[photo.name] for photo in photos if expected[photo.name] is not None
    }
    assert len(rows) == end.done == 11
    assert end.failed == 11 - len(readable) == 4


def test_worker_without_the_model_ends_the_job(cluster: Cluster, library: Path, tmp_path: Path) -> None:
    """One line where the job was started, instead of a table full of errors."""
    bundle = Scorer.from_pretrained().save_pretrained(tmp_path / "bundle")
    scorer = BatchScorer(bundle)
    (bundle / "prior.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelFormatError, match=r"on a worker, in part \d"):
        score_on_ray([library], tmp_path / "scores", scorer, part_size=PART_SIZE)
    assert stamps(tmp_path / "scores") == {}


def test_failures_of_ray_data_are_errors_of_ours(cluster: Cluster, library: Path, tmp_path: Path) -> None:
    """Whatever a worker meets that is nobody's plan ends in one line that says how to go on."""

    class Broken(BatchScorer):
        def rows(self, pictures: Any) -> Any:
            raise ZeroDivisionError("a mistake in the program")

    with pytest.raises(EngineError, match=r"Ray failed: .*a mistake in the program.* to go on"):
        score_on_ray([library], tmp_path / "scores", Broken(), part_size=20)
    with pytest.raises(EngineError, match="no node of the cluster has 64 cores for one process"):
        score_on_ray([library], tmp_path / "scores", BatchScorer(workers=64), part_size=PART_SIZE)


def test_a_job_that_stands_still_is_an_error_of_ours(cluster: Cluster) -> None:
    """Ray Data's own exceptions are not of Ray's kind; ours never provoke this one, so it is raised here."""
    exceptions = pytest.importorskip("ray.data.exceptions")
    if not hasattr(exceptions, "ExecutionTimeoutError"):
        pytest.skip("this Ray never gives up")
    with pytest.raises(EngineError, match="Ray failed: no progress"), _failures_as_engine_errors():
        raise exceptions.ExecutionTimeoutError("no progress")


def test_empty_folders_and_foreign_clusters(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no photos found"):
        score_on_ray([tmp_path], tmp_path / "scores", BatchScorer())
