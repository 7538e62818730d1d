"""A whole job on Ray Data: photos or a list of photos in, a folder of Parquet files out.

Ray Data gets one row per part (see `piaa_sdk.engines.parts`) and hands them to a pool of actors, each with
the model open; what comes back are finished files, some hundred bytes per photo, which the process that
started the job writes. Ray runs a task again when the machine that ran it has died;
`piaa_sdk.engines.job_folder` says why every photo comes out once nevertheless.

Memory is bounded: an actor has one part at a time and holds of its photos what the pipeline holds, and photos
never pass through Ray.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piaa_sdk.devices import cpu_count
from piaa_sdk.engines.job_folder import JobFolder, JobRecord, encode_rows
from piaa_sdk.engines.parts import Part, split
from piaa_sdk.errors import EngineError, MissingDependencyError, PiaaError, PiaaWarning
from piaa_sdk.images import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from piaa_sdk.array_types import PathInput
    from piaa_sdk.engines.batch_scorer import BatchScorer

PART_SIZE = 500
"""Photos in a part: half a minute of work for one core, and what a stop can cost."""

_OBJECT_STORE_BYTES = 256 << 20
_SHOWN_FAILURES = 10
_SECONDS_TO_CONNECT = 10
_OWN_ADDRESS = "127.0.0.1"
_DEAF_PROXY = f"http://{_OWN_ADDRESS}:9"  # nobody listens there

# Ray reads these when it is imported and when it starts its processes, which inherit them.
_LOCAL_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: listen on 127.0.0.1 alone
    "RAY_AUTH_MODE": "token",  # and to this program alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray asks the metadata addresses of clouds, over plain HTTP, what machine it is on. It asks in vain.
    "http_proxy": _DEAF_PROXY,
    "no_proxy": "",  # which would make exceptions
    "NO_PROXY": "",
}
_WORKERS_OWN = ("http_proxy", "no_proxy", "NO_PROXY")  # photos at addresses are fetched as the user has it


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is, after each part.

    Attributes:
        photos: Photos of the job.
        done: Photos whose rows are written, those of earlier runs included.
        failed: Those of them that could not be scored.
        earlier: Photos that earlier runs have done.
        failures: Path and reason of some photos of this part that could not be scored.
        is_all_failed: Whether nothing of this part, of more than one photo, could be scored.
        node: Ray's number of the machine that scored this part.
    """

    photos: int
    done: int
    failed: int
    earlier: int
    failures: tuple[tuple[str, str], ...] = ()
    is_all_failed: bool = False
    node: str = ""


def score_on_ray(
    photos: Sequence[PathInput],
    output: PathInput,
    scorer: BatchScorer,
    *,
    address: str | None = None,
    part_size: int = PART_SIZE,
    actors: int | None = None,
    recursive: bool = True,
    on_part: Callable[[JobProgress], None] | None = None,
) -> JobProgress:
    """Score photos on a Ray cluster, or on this machine, and write a folder of Parquet files.

    A run that was stopped, or has failed, goes on when it is called again with the same photos, model and
    person: parts that are there are not scored again.

    Args:
        photos: Photos, folders, and Parquet files that list photos: ``path`` or ``uri``, or ``bytes`` with
            ``path`` or ``id``. Workers read the photos, so every machine must see them under these names.
        output: The folder; only this process writes it. Its files have the columns of ``piaa score -o
            x.parquet``; percentiles are empty.
        scorer: What scores. Its ``workers`` are the threads of one actor, and the cores it takes: 1 if None.
        address: Of a running cluster; None, or ``local``, starts Ray on this machine, and stops it at the
            end. If this process is connected to Ray already, that is used.
        part_size: Photos in a part.
        actors: Processes that score; by default as many as the nodes of the cluster have room for.
        recursive: Whether to look into the folders inside folders.
        on_part: Called when a part is written, and once before the first.

    Returns:
        How it ended.

    Raises:
        MissingDependencyError: The extra ``ray`` is not installed.
        EngineError: A list of photos cannot be read, there are no photos, the cluster fails, or none of its
            nodes has as many cores as one process is to take.
        OutputError: The folder holds something else, or cannot be written.
        ModelError, DeviceError: A worker cannot open the model.
    """
    _require_ray()
    places = [os.fspath(place) for place in photos]
    folder, missing, now = _planned(places, Path(output), scorer, part_size, recursive=recursive)
    tell = on_part or (lambda _: None)
    tell(now)
    if missing:
        with _connected(None if address in ("", "local") else address) as environment:
            for row in _results(list(missing.values()), scorer, actors, environment):
                part = missing.pop(int(row["index"]), None)
                if part is None:  # Ray may run a task twice
                    continue
                _check(row, part)
                folder.write(part, row["data"])
                now = _after(now, part, row)
                tell(now)
    if missing:
        raise EngineError(f"Ray ended with {len(missing)} parts missing; start the same again to go on")
    return replace(now, failures=(), is_all_failed=False, node="")


def _planned(
    photos: Sequence[str], output: Path, scorer: BatchScorer, part_size: int, *, recursive: bool
) -> tuple[JobFolder, dict[int, Part], JobProgress]:
    """Settle where a job writes, which parts it lacks, and how far it is."""
    parts = list(split(photos, part_size, recursive=recursive))
    if not parts:
        raise EngineError("no photos found; name photos, folders or lists that hold some")
    record = JobRecord.of(scorer, parts, part_size)
    folder = JobFolder(output, record)
    counts = {part.index: known for part in parts if (known := folder.finished(part)) is not None}
    done, failed = (sum(getattr(one, name) for one in counts.values()) for name in ("photos", "failed"))
    missing = {part.index: part for part in parts if part.index not in counts}
    return folder, missing, JobProgress(record.photos, done, failed, earlier=done)


def _after(before: JobProgress, part: Part, row: dict[str, Any]) -> JobProgress:
    """Add a part that is written."""
    failed = int(row["failed"])
    return replace(
        before,
        done=before.done + part.count,
        failed=before.failed + failed,
        failures=tuple((path, reason) for path, reason in json.loads(row["failures"])),
        is_all_failed=failed == part.count > 1,
        node=row["node"],
    )


class _PartScorer:
    """Scores whole parts, in an actor of its own."""

    def __init__(self, scorer: BatchScorer, environment: dict[str, str | None]) -> None:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        import ray

        self._scorer = scorer
        self._node = ray.get_runtime_context().get_node_id()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        [text] = batch["part"]
        part = Part.from_json(str(text))
        result: dict[str, Any] = {
            "index": part.index,
            "data": b"",
            "failed": 0,
            "failures": "[]",
            "fault": "",
            "node": self._node,
        }
        try:
            rows = list(self._scorer.rows(part.pictures()))
            failed = [(row["path"], row["error"]) for row in rows if row["error"] is not None]
            result["data"] = encode_rows(rows, part)
            result["failed"], result["failures"] = len(failed), json.dumps(failed[:_SHOWN_FAILURES])
        except PiaaError as error:  # the same on every try, so it is a result and not for Ray to run again
            result["fault"] = json.dumps([type(error).__name__, str(error)])
        return {name: [value] for name, value in result.items()}


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """What each process that scores gets, and how many the nodes have room for.

    Attributes:
        cores: Cores of one process, and its threads.
        cards: Graphics processors of one process.
        room: Processes that find what they need on some node.
    """

    cores: int
    cards: int
    room: int


def plan_actors(nodes: Sequence[Mapping[str, float]], workers: int | None, device: str) -> ActorPlan:
    """Settle what a process takes, so that it fits on one node; nodes do not lend each other cores.

    Args:
        nodes: What each node has: ``CPU`` and ``GPU``, each left out if it has none.
        workers: Threads of one process. None for one, or for an equal share of the cores of a node with
            graphics processors, of the smallest share if such nodes differ.
        device: Where to compute; ``auto`` and ``cuda`` take graphics processors if any node has them.

    Raises:
        EngineError: No node has that many cores.
    """
    pairs = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    with_cards = [(cores, cards) for cores, cards in pairs if cards > 0]
    if with_cards and device in ("auto", "cuda"):
        shares = [cores // cards for cores, cards in with_cards if cores > 0]
        each = workers or max(1, min(shares, default=1))
        plan = ActorPlan(each, 1, sum(min(cards, cores // each) for cores, cards in with_cards))
        pairs, kind = with_cards, "node with a graphics processor"
    else:
        each = workers or 1
        plan, kind = ActorPlan(each, 0, sum(cores // each for cores, _ in pairs)), "node"
    if plan.room == 0:
        most = max((cores for cores, _ in pairs), default=0)
        wanted = f"{each} core" if each == 1 else f"{each} cores"
        raise EngineError(
            f"no {kind} of the cluster has {wanted} for one process, the largest has {most}; ask for fewer "
            "workers (--workers) or start larger nodes"
        )
    return plan


def _results(
    parts: list[Part], scorer: BatchScorer, actors: int | None, environment: dict[str, str | None]
) -> Iterator[Any]:
    """Run the parts and yield what comes back, as it comes.

    Raises:
        EngineError: The cluster fails, or no process fits on one of its nodes.
    """
    import ray
    import ray.data as ray_data

    with _failures_as_engine_errors():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        plan = plan_actors(nodes, scorer.workers, scorer.device)
        context = ray_data.DataContext.get_current()
        context.enable_progress_bars = False
        if hasattr(context, "execution_no_progress_timeout_s"):
            context.execution_no_progress_timeout_s = -1  # large parts, and waiting for room, take long
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        dataset = ray_data.from_items(
            [{"part": part.to_json()} for part in parts], override_num_blocks=len(parts)
        ).map_batches(
            _PartScorer,
            fn_constructor_args=(scorer.with_workers(plan.cores), environment),
            batch_size=1,
            compute=ray_data.ActorPoolStrategy(
                size=min(actors or plan.room, len(parts)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=plan.cores,
            num_gpus=plan.cards or None,
        )
        # Without prefetching, which holds each result back until the next one is there.
        tables: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for table in tables:
            yield from table.to_pylist()


@contextmanager
def _connected(address: str | None) -> Iterator[dict[str, str | None]]:
    """Connect to a cluster, or start one on this machine that ends with the job.

    Yields:
        What workers are to put back into their environment.

    Raises:
        EngineError: There is no such cluster, or Ray does not start.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # what Ray warns of is for its makers
        warnings.simplefilter("default", PiaaWarning)
        environment: dict[str, str | None] = {}
        options: dict[str, Any] = {"address": address}
        if address is None:
            environment = stack.enter_context(local_settings())
            options = _local_options(stack)
        import ray

        if ray.is_initialized():
            yield {}
            return
        try:
            if address is not None:
                _check_reachable(address)
            ray.init(configure_logging=False, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            where = "on this machine" if address is None else f"at {printable(address)}"
            reason = printable(str(error).strip().partition("\n")[0])
            raise EngineError(
                f"no Ray cluster {where}: {reason:.300}. See with ray status --address ADDRESS whether it "
                "runs, with the same versions of Ray and Python as here, or leave --address out to use this "
                "machine alone"
            ) from error
        stack.callback(ray.shutdown)
        yield environment


def _check_reachable(address: str) -> None:
    """Find out in seconds what Ray takes minutes for: whether anybody listens there.

    Raises:
        OSError: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()


def _local_options(stack: ExitStack) -> dict[str, Any]:
    """Settle how Ray is started on this machine: deaf to others, small, and with nothing left behind."""
    # The names of Ray's sockets are long, and systems allow about a hundred characters.
    place = "/tmp" if Path("/tmp").is_dir() else None
    folder = tempfile.mkdtemp(prefix="piaa-ray-", dir=place)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return {
        "address": "local",
        "num_cpus": cpu_count(),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_node_ip_address": _OWN_ADDRESS,
        "_temp_dir": folder,
    }


@contextmanager
def local_settings() -> Iterator[dict[str, str | None]]:
    """Set what Ray reads from the environment to keep to this machine, and put it back at the end.

    The proxy that answers nothing holds for Ray's own processes whatever ``NO_PROXY`` says, which is empty
    for them.

    Yields:
        What workers are to put back into theirs.
    """
    settings = _LOCAL_SETTINGS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield {name: before[name] for name in _WORKERS_OWN}
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _failures_as_engine_errors() -> Iterator[None]:
    """Say what of Ray failed, in one line.

    Raises:
        EngineError: Something did.
    """
    import ray
    from ray.data import exceptions as data_exceptions

    # Those of Ray Data are not of Ray's kind, and older versions lack some.
    names = ("ExecutionTimeoutError", "SystemException")
    own = tuple(getattr(data_exceptions, name) for name in names if hasattr(data_exceptions, name))
    try:
        yield
    except PiaaError:
        raise
    except (ray.exceptions.RayError, *own, OSError, RuntimeError, ValueError) as error:
        reason = printable(_reason(error))
        hint = "; install piaa-sdk on every machine of the cluster" if "piaa_sdk" in reason else ""
        raise EngineError(
            f"Ray failed: {reason:.400}{hint}. The parts that are done are kept: start the same command "
            "again to go on"
        ) from error


def _reason(error: BaseException) -> str:
    """Find in what Ray says the line that tells what happened."""
    first, chain, _ = str(error).partition("The above exception was the direct cause")
    if not chain:  # else what led to all that follows is at the end of the first traceback
        cause = getattr(error, "cause", None) or error.__cause__ or error
        first = str(cause)
    lines = [line.strip() for line in first.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _require_ray() -> None:
    """Check that the extra is there, without importing Ray, which reads its settings when it is.

    Raises:
        MissingDependencyError: It is not.
    """
    if any(find_spec(name) is None for name in ("ray", "pyarrow", "pandas")):
        raise MissingDependencyError("--engine ray", "ray")


def _check(row: Any, part: Part) -> None:
    """Raise what a worker could not go on with.

    Raises:
        PiaaError: Of the kind that the worker met.
    """
    if not row["fault"]:
        return
    from piaa_sdk import errors

    name, text = json.loads(row["fault"])
    kind = getattr(errors, name, EngineError)
    if kind in (
        errors.ImageError,
        errors.MissingDependencyError,
    ):  # they are made of something else than a text
        kind = EngineError
    raise kind(f"on a worker, in part {part.index}: {text}")
