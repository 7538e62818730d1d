"""Killed runs, full disks, lost shares and too little memory: `--resume` makes whole what they leave."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from forked_program import started
from PIL import Image

import piaa_sdk
from piaa_sdk import Scorer
from piaa_sdk.bundle import write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import ForkServerProcess

    MakePhoto = Callable[..., Path]

resource = pytest.importorskip("resource", reason="signals and limits of Unix")

ROOT = Path(piaa_sdk.__file__).parents[1]
TIMEOUT = 120
PHOTOS = 90
KILLS_WHILE_SCORING = 12
KILLS_AT_THE_END = 8
PEOPLE = ("ann", "bob")


@contextlib.contextmanager
def running(folder: Path, *arguments: object, **options: Any) -> Iterator[ForkServerProcess]:
    """Start a run with one thread and no cache: it takes a while, and what has to be done again really is."""
    settings = ("--no-cache", "--workers", "1")
    with started(folder, "score", *arguments, *settings, **options) as process:
        yield process


def score(folder: Path, *arguments: object, code: int = 0, **options: Any) -> str:
    """Run to the end; return what was told."""
    with running(folder, *arguments, **options) as process:
        process.join(timeout=TIMEOUT)
        told = (folder / "told").read_text(encoding="utf-8")
        assert process.exitcode == code, told
    assert "Traceback" not in told
    return told


def kill(process: ForkServerProcess) -> bool:
    """Send SIGKILL; tell whether it met the process alive."""
    process.kill()
    process.join(timeout=TIMEOUT)
    return process.exitcode == -signal.SIGKILL


def wait_for_rows(partial: Path, rows: int, process: ForkServerProcess) -> None:
    """Wait until so many rows, the header not counted, are on the disk."""
    deadline = time.monotonic() + TIMEOUT
    while not partial.exists() or partial.read_bytes().count(b"\n") <= rows:
        assert process.exitcode is None, "the run was over before it could be stopped"
        assert time.monotonic() < deadline, "no rows came"
        time.sleep(0.001)


def wait_for_writing(output: Path, process: ForkServerProcess) -> None:
    """Wait until the file is being written, or is there."""
    while process.exitcode is None and not output.exists() and not list(output.parent.glob(".piaa-*.tmp")):
        time.sleep(0.0002)


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.fixture
def aside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the program tells."""
    return tmp_path_factory.mktemp("aside")


@pytest.fixture
def library(tmp_path: Path, make_photo: MakePhoto) -> Path:
    """Small photos in folders of their own, and the tastes of two people."""
    folder = tmp_path / "photos"
    for number in range(PHOTOS):
        place = folder / f"{number // 30}"
        place.mkdir(parents=True, exist_ok=True)
        make_photo(place / f"{number:03}.jpg", number)
    scorer = Scorer.from_pretrained(cache=False)
    rated = sorted((folder / "0").iterdir())[:8]
    for shift, user in enumerate(PEOPLE):
        ratings = {photo: 1 + (number * (2 + shift)) % 5 for number, photo in enumerate(rated)}
        scorer.personalize(ratings, user=user, scale=(1, 5))
    return folder


def test_a_run_killed_twenty_times_loses_no_photo_and_has_none_twice(
    library: Path, aside: Path, tmp_path: Path
) -> None:
    """SIGKILL at moments drawn by a seed: while it starts, lists, scores and writes the file at the end.

    That is what the system does to a process when memory runs out, too. A lock of the killed process keeps
    nobody out.
    """
    rng = random.Random(5)
    output, partial = tmp_path / "scores.csv", tmp_path / "scores.csv.partial"
    users = [word for name in PEOPLE for word in ("--user", name)]
    score(aside, library, *users, "--output", tmp_path / "whole.csv")
    whole = (tmp_path / "whole.csv").read_bytes()
    arguments = (library, *users, "--output", output, "--resume")

    # Rows at which a run is killed; 0 is the header alone. Odd ones lie between the rows of two people.
    all_rows = PHOTOS * len(PEOPLE)
    for rows in sorted([0, 1, *rng.choices(range(all_rows * 2 // 3), k=KILLS_WHILE_SCORING - 2)]):
        with running(aside, *arguments) as process:
            wait_for_rows(partial, rows, process)
            time.sleep(rng.uniform(0, 0.02))
            assert kill(process)
        assert not output.exists()

    with running(aside, *arguments) as process:
        wait_for_rows(partial, partial.read_bytes().count(b"\n"), process)
        output.mkdir()  # the run comes to its end, but cannot write the file
        process.join(timeout=TIMEOUT)
        assert process.exitcode == 1
    output.rmdir()
    shutil.copyfile(partial, tmp_path / "all-rows")
    began = time.monotonic()
    score(aside, *arguments)
    seconds = time.monotonic() - began
    assert output.read_bytes() == whole
    killed = 0
    for attempt in range(KILLS_AT_THE_END * 3):
        output.unlink(missing_ok=True)
        shutil.copyfile(tmp_path / "all-rows", partial)
        with running(aside, *arguments) as process:
            if attempt % 2:
                wait_for_writing(output, process)
            else:
                time.sleep(rng.uniform(0.3, 1.0) * seconds)
            killed += kill(process)
        assert not output.exists() or output.read_bytes() == whole
        assert output.exists() or partial.exists()
        if killed == KILLS_AT_THE_END:
            break
    assert killed == KILLS_AT_THE_END
    if not partial.exists():
        shutil.copyfile(tmp_path / "all-rows", partial)
    assert f"scored {PHOTOS} photos ({PHOTOS} of them before)" in score(aside, *arguments)
    assert output.read_bytes() == whole
    places = [(row["path"], row["user"]) for row in rows_in(output)]
    assert len(places) == len(set(places)) == all_rows
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["all-rows", "photos", "scores.csv", "whole.csv"]


def test_a_full_disk_is_left_behind_once_there_is_room(library: Path, aside: Path, tmp_path: Path) -> None:
    """A limit on the size of files fails writes the way a full disk does."""
    output = tmp_path / "scores.jsonl"
    folder = library / "0"
    score(aside, folder, "--output", tmp_path / "whole.jsonl")
    told = score(
        aside,
        folder,
        "--output",
        output,
        code=1,
        prepare=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (6000, 6000)),
    )
    partial = tmp_path / "scores.jsonl.partial"
    rows = partial.read_bytes().count(b"\n") - 1
    assert 5 < rows < 30
    assert told.endswith(
        f"error: {partial}: cannot be written: File too large; {rows} complete rows are kept, and once there "
        "is room, the same command with --resume goes on\n"
    )
    assert f"scored 30 photos ({rows} of them before)" in score(aside, folder, "--output", output, "--resume")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_share_that_goes_away_costs_errors_and_comes_back(
    library: Path, aside: Path, tmp_path: Path
) -> None:
    """The run goes on to its end; the next one scores what could not be read."""
    output, away = tmp_path / "scores.csv", tmp_path / "away"
    score(aside, library, "--output", tmp_path / "whole.csv")
    with running(aside, library, "--output", output) as process:
        wait_for_rows(tmp_path / "scores.csv.partial", 1, process)
        (library / "2").rename(away)  # the last of its folders: 50 photos before it wait still
        process.join(timeout=TIMEOUT)
        assert process.exitcode == 1
    lost = [row["path"] for row in rows_in(output) if row["error"] != ""]
    assert lost
    assert all(path.startswith(str(library / "2")) for path in lost)
    away.rename(library / "2")
    told = score(aside, library, "--output", output, "--resume")
    assert told.startswith(f"nothing to go on with: {output} is complete; scoring all photos again")
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_photos_that_failed_before_a_kill_are_tried_again(library: Path, aside: Path, tmp_path: Path) -> None:
    """A share was away when the run began, and is back when it goes on."""
    output, partial, away = tmp_path / "scores.csv", tmp_path / "scores.csv.partial", tmp_path / "away"
    names = [*sorted((library / "2").iterdir())[:15], *sorted((library / "1").iterdir())]
    listed = os.fsencode("\0".join(map(str, names)))
    score(aside, "-", "--output", tmp_path / "whole.csv", stdin=listed)
    (library / "2").rename(away)
    with running(aside, "-", "--output", output, stdin=listed) as process:
        wait_for_rows(partial, 16, process)
        assert kill(process)
    assert partial.read_bytes().count(b"no such file or folder") == 15
    away.rename(library / "2")
    told = score(aside, "-", "--output", output, "--resume", stdin=listed)
    assert "going on after " in told
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here whose reading fails")
def test_a_disk_that_fails_while_it_is_read_is_one_line(library: Path, aside: Path, tmp_path: Path) -> None:
    """The system answers EIO, as for a damaged disk; the other photos are scored."""
    (library / "0" / "000.jpg").unlink()
    (library / "0" / "000.jpg").symlink_to("/proc/self/mem")
    told = score(aside, library / "0", "--output", tmp_path / "scores.csv", code=1)
    assert told.splitlines()[0] == f"skipped: {library}/0/000.jpg: input/output error"
    assert "scored 29 of 30 photos" in told


MEMORY = """
import resource, sys
from pathlib import Path
from piaa_sdk import Scorer
scorer = Scorer.from_pretrained(sys.argv[1], cache=False, workers=2)
photos = sorted(Path(sys.argv[2]).iterdir())
scorer.score(photos[:3])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), -1))
print([score.error and score.error.reason for score in scorer.score(photos)])
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print([score.error for score in scorer.score(photos)])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the use of memory is not told here")
def test_photos_that_there_is_no_memory_for_are_errors_and_the_run_goes_on(
    tmp_path: Path, tiny_bundle: Path, make_photo: MakePhoto
) -> None:
    """The system refuses memory to the workers; afterwards the same scorer scores everything."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        make_photo(folder / f"{number:02}.png", number)
    for number in (3, 7):  # 160 MB each when they are decoded
        picture = Image.new("RGB", (8000, 5000), (number, 0, 0))
        picture.save(folder / f"{number:02}.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tiny_bundle), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    reason = "not enough memory to decode this PNG"
    short = [reason if number in (3, 7) else None for number in range(12)]
    assert done.stdout.splitlines() == [str(short), str([None] * 12)]


def hungry_graph(size: int, dim: int) -> bytes:
    """Build a graph that asks for more memory than any computer has, for pictures with a white pixel."""
    from onnx import TensorProto, checker, helper, numpy_helper

    constants = {
        "zero": np.array([0], dtype=np.int64),
        "almost_white": np.array([250], dtype=np.int64),
        "vast": np.array([1 << 55], dtype=np.int64),
        "nothing": np.zeros((3, dim), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["numbers"], ["brightest"], keepdims=0),
        helper.make_node("Sub", ["brightest", "almost_white"], ["above"]),
        helper.make_node("Max", ["above", "zero"], ["excess"]),
        helper.make_node("Mul", ["excess", "vast"], ["length"]),
        helper.make_node("ConstantOfShape", ["length"], ["memory"]),
        helper.make_node("ReduceSum", ["memory"], ["added"], keepdims=0),
        helper.make_node("Cast", ["pixels"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["as_float", "axes"], ["colours"], keepdims=0),
        helper.make_node("MatMul", ["colours", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "added"], ["embedding"]),
    ]
    constants["axes"] = np.array([1, 2], dtype=np.int64)
    graph = helper.make_graph(
        nodes,
        "hungry",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", dim])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()


def test_a_network_without_memory_for_one_photo_scores_the_others(tmp_path: Path, tiny_bundle: Path) -> None:
    """What the runtime cannot get memory for is an error of that photo, the rest of its batch is scored."""
    bundle = Scorer.from_pretrained(tiny_bundle).bundle
    graph = hungry_graph(bundle.preprocessing.size, bundle.embedding_dim)
    (tiny_bundle / "onnx" / "backbone.onnx").write_bytes(graph)
    config = json.loads((tiny_bundle / "config.json").read_text())
    config.pop("files")
    write_config(tiny_bundle, config)
    pictures = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (10, 255, 30, 255, 50)]
    scores = Scorer.from_pretrained(tiny_bundle, cache=False, workers=1).score(pictures)
    assert [score.error is None for score in scores] == [True, False, True, False, True]
    assert scores[1].error is not None
    assert scores[1].error.reason == "not enough memory to score it"
