"""Watching folders: what comes, when, how often, and what is said about folders that come and go."""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import piaa_sdk
from piaa_sdk import ImageError, Score, Scorer
from piaa_sdk.choices import ReportFormat
from piaa_sdk.cli_runs import Tally
from piaa_sdk.reports import open_report
from piaa_sdk.row_file import RunRecord
from piaa_sdk.row_formats import FIELDS, csv_line
from piaa_sdk.terminal import STOPPED, Console
from piaa_sdk.watching import FolderWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    MakePhoto = Callable[..., Path]

ROOT = Path(piaa_sdk.__file__).parents[1]
TIMEOUT = 120
LONG_AGO = time.time() - 10_000


def old(path: Path) -> Path:
    """Let a file look as if it had been there for long."""
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


class Watched:
    """A watch whose looks follow each other quickly, and what it has said."""

    def __init__(self, *folders: Path, settle: float = 0.0) -> None:
        self.said: list[str] = []
        self.watch = FolderWatch(folders, tell=self.said.append, interval=0.0, settle=settle)
        self._looks = iter(self.watch)

    def look(self) -> list[str]:
        return [path.name for path in next(self._looks)]


def test_what_is_there_comes_once_and_then_what_arrives(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", ".hidden.jpg", "letter.txt"):
        (tmp_path / name).write_bytes(b"x")
    watched = Watched(tmp_path)
    assert watched.look() == ["a.jpg", "b.jpg"]
    assert watched.look() == []
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / "deep" / "c.jpg").write_bytes(b"x")
    assert watched.look() == ["c.jpg"]
    assert watched.look() == []
    assert watched.said == []


def test_a_file_that_is_being_written_waits_until_it_stands_still(tmp_path: Path) -> None:
    """Old files need not; neither does one that was moved in, which keeps its time."""
    old_one, growing = tmp_path / "old.jpg", tmp_path / "growing.jpg"
    old_one.write_bytes(b"x")
    growing.write_bytes(b"x")
    watched = Watched(tmp_path, settle=0.3)
    old(old_one)
    assert watched.look() == ["old.jpg"]
    for number in range(4):
        time.sleep(0.2)
        growing.write_bytes(b"x" * (2 + number))
        assert watched.look() == []
    time.sleep(0.4)
    assert watched.look() == ["growing.jpg"]
    old(growing).rename(tmp_path / "moved.jpg")
    assert watched.look() == ["moved.jpg"]


def test_a_changed_or_replaced_photo_comes_again_a_same_one_does_not(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x")
    watched = Watched(tmp_path)
    assert watched.look() == ["a.jpg"]
    photo.write_bytes(b"longer")
    assert watched.look() == ["a.jpg"]
    other = tmp_path / "other"
    other.write_bytes(b"shorte")
    os.utime(other, ns=(1, photo.stat().st_mtime_ns + 1))
    other.replace(photo)
    assert watched.look() == ["a.jpg"]
    photo.rename(tmp_path / "away")
    assert watched.look() == []
    (tmp_path / "away").rename(photo)
    assert watched.look() == []


def test_a_folder_may_go_away_and_return(tmp_path: Path) -> None:
    """As a share does: one message when it goes, one when it is back, and its photos do not come again."""
    share = tmp_path / "share"
    share.mkdir()
    (share / "a.jpg").write_bytes(b"x")
    watched = Watched(share)
    assert watched.look() == ["a.jpg"]
    share.rename(tmp_path / "elsewhere")
    assert [watched.look() for _ in range(3)] == [[], [], []]
    (tmp_path / "elsewhere" / "b.jpg").write_bytes(b"x")
    (tmp_path / "elsewhere").rename(share)
    assert [watched.look() for _ in range(2)] == [["b.jpg"], []]
    assert watched.said == [
        f"warning: {share}: no such file or folder; going on when it is back",
        f"{share} is back",
    ]


def test_what_cannot_be_looked_at_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "nowhere.jpg").mkdir()
    watched = Watched(tmp_path)
    assert [watched.look() for _ in range(3)] == [[], [], []]
    assert watched.said == [f"skipped: {tmp_path / 'nowhere.jpg'}: a folder, not a picture"]


def test_a_photo_that_was_away_when_it_was_read_comes_again_a_broken_one_does_not(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x")
    watched = Watched(tmp_path)
    assert watched.look() == ["a.jpg"]
    watched.watch.failed(str(photo))  # it is there: what is wrong is in the file
    assert watched.look() == []
    photo.rename(tmp_path / "away")
    watched.watch.failed(str(photo))
    (tmp_path / "away").rename(photo)
    assert watched.look() == ["a.jpg"]


def test_looks_that_take_long_are_rare(tmp_path: Path) -> None:
    """What listing takes is measured without what the caller does with the photos meanwhile."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
        old(tmp_path / f"{number}.jpg")
    watch = FolderWatch([tmp_path], interval=0.0)
    looks = iter(watch)
    slept, begin = 0.0, time.monotonic()
    for _ in next(looks):
        asleep = time.monotonic()
        time.sleep(0.2)
        slept += time.monotonic() - asleep
    assert slept > 0.5
    assert 0 < watch._look_seconds <= time.monotonic() - begin - slept
    watch._look_seconds = 0.1
    begin = time.monotonic()
    next(looks)
    assert time.monotonic() - begin > 0.35


def test_a_watch_ends_when_it_is_told_to(tmp_path: Path) -> None:
    stop = threading.Event()
    watch = FolderWatch([tmp_path], stop=stop, interval=300.0)
    threading.Timer(0.2, stop.set).start()
    begin = time.monotonic()
    assert [list(photos) for photos in watch] == [[]]
    assert time.monotonic() - begin < 60


def test_from_python(photos: list[Path], tiny_bundle: Path) -> None:
    scorer = Scorer.from_pretrained(tiny_bundle, cache=False)
    watch = FolderWatch([photos[0].parent], interval=0.0, settle=0.0)
    scores = [score for found in islice(watch, 2) for score in scorer.iter_scores(found)]
    assert [score.image for score in scores] == [str(photo) for photo in photos]


class Program:
    """``piaa score --watch`` as a process of its own, and the lines it writes."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "piaa_sdk", "score", *map(str, arguments), "--watch"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.rows: queue.Queue[str] = queue.Queue()
        self.told: list[str] = []
        self._readers = [
            threading.Thread(target=self._pass_on, args=(self.process.stdout, self.rows.put), daemon=True),
            threading.Thread(target=self._pass_on, args=(self.process.stderr, self.told.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(timeout=TIMEOUT)
        for reader in self._readers:
            reader.join(timeout=TIMEOUT)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def next_row(self) -> dict[str, object]:
        row: dict[str, object] = json.loads(self.rows.get(timeout=TIMEOUT))
        return row

    def wait_until_told(self, words: str, times: int = 1) -> None:
        deadline = time.monotonic() + TIMEOUT
        while sum(words in line for line in self.told) < times:
            assert time.monotonic() < deadline, self.told
            time.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=TIMEOUT)
        for reader in self._readers:
            reader.join(timeout=TIMEOUT)
        return code

    @staticmethod
    def _pass_on(stream: Iterator[str], put: Callable[[str], object]) -> None:
        for line in stream:
            put(line)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_rows_come_as_photos_arrive_and_ctrl_c_is_the_end(
    tmp_path: Path, tiny_bundle: Path, make_photo: MakePhoto
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    first = old(make_photo(folder / "a.png", 1))
    with Program(folder, "--model", tiny_bundle, "--format", "jsonl") as program:
        assert program.next_row()["path"] == str(first)
        make_photo(folder / "b.png", 2)
        before = program.next_row()
        assert before["path"] == str(folder / "b.png")
        (folder / "later").mkdir()
        old(make_photo(tmp_path / "c.png", 3)).rename(folder / "later" / "c.png")
        assert program.next_row()["path"] == str(folder / "later" / "c.png")
        make_photo(folder / "b.png", 4)
        again = program.next_row()
        assert again["path"] == before["path"]
        assert again["generic"] != before["generic"]
        assert program.end(signal.SIGINT) == 0
        assert program.told[0] == f"watching {folder}; Ctrl-C ends it\n"
        assert program.told[-1].startswith("scored 3 photos the way most people would")
        assert program.rows.empty()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_file_is_written_at_the_end_of_a_watch_and_a_killed_one_goes_on(
    tmp_path: Path, tiny_bundle: Path, make_photo: MakePhoto
) -> None:
    """SIGKILL, then --resume, then SIGTERM as services get it: every photo once, with its newest score."""
    folder, output = tmp_path / "in", tmp_path / "scores.csv"
    partial = tmp_path / "scores.csv.partial"
    folder.mkdir()
    for number in range(5):
        old(make_photo(folder / f"{number}.png", number))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    old(folder / "broken.png")
    arguments = (folder, "--model", tiny_bundle, "--output", output)
    with Program(*arguments) as killed:
        wait_for_lines(partial, 7)
        assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    assert not output.exists()
    (folder / "3.png").unlink()
    with Program(*arguments, "--resume") as going_on:
        going_on.wait_until_told("skipped: ")
        old(make_photo(tmp_path / "new.png", 77)).replace(folder / "2.png")
        wait_for_lines(partial, 9)
        assert going_on.end(signal.SIGTERM) == 0
        assert going_on.told[0].startswith("going on after 5 photos")
    with output.open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert len(output.read_bytes().splitlines()) == 1 + len(rows) == 7
    (fresh,) = Scorer.from_pretrained(tiny_bundle, cache=False).score([folder / "2.png"])
    assert float(rows[str(folder / "2.png")]["generic"]) == fresh.generic
    assert rows[str(folder / "3.png")]["error"] == ""
    assert rows[str(folder / "broken.png")]["error"] != ""
    assert not partial.exists()


def test_a_watch_in_which_nothing_came_leaves_what_was_written(tmp_path: Path, tiny_bundle: Path) -> None:
    """A service that starts every day must not empty the file of the day before."""
    folder, output = tmp_path / "in", tmp_path / "scores.csv"
    folder.mkdir()
    output.write_bytes(csv_line(list(FIELDS)))
    before = output.stat()
    with Program(folder, "--model", tiny_bundle, "--output", output) as program:
        program.wait_until_told("watching ")
        assert program.end(signal.SIGINT) == 0
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert program.told[-1] == "scored 0 photos the way most people would, scale 1 to 7\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "scores.csv", tiny_bundle.name]


def test_a_photo_that_comes_again_counts_once() -> None:
    """Half written it could not be read, whole it could: that is one photo, and it has a score."""
    screen = io.TextIOWrapper(io.BytesIO())
    report = open_report(RunRecord("b", "r", "e", ()), ReportFormat.JSONL, stdout=screen)
    tally = Tally(report, Console(io.StringIO()), latest_only=True)
    broken = Score("a.jpg", error=ImageError("a.jpg", "is cut off"))
    for score in (broken, Score("b.jpg", generic=3.0), broken, Score("a.jpg", generic=4.0)):
        tally.add([score])
    assert (tally.scored, tally.failed, tally.photos) == (2, 0, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_second_ctrl_c_ends_a_watch_at_once_and_says_what_is_kept(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    """Nobody reads what it says, so it waits in the middle of its work, where a first one has to wait too.

    Three hundred lines are more than the system keeps for a reader.
    """
    folder, output = tmp_path / "in", tmp_path / "scores.csv"
    partial = tmp_path / "scores.csv.partial"
    folder.mkdir()
    for number in range(300):
        photo = folder / f"{number:03}{'x' * 200}.png"
        photo.write_bytes(b"no picture")
        old(photo)
    words = ("score", folder, "--model", tiny_bundle, "--output", output, "--watch")
    with subprocess.Popen(
        [sys.executable, "-m", "piaa_sdk", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_lines(partial, 20)
        rows = 0
        while rows != (rows := partial.read_bytes().count(b"\n")):
            time.sleep(1)
        assert process.poll() is None
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(1)
        _, told = process.communicate(timeout=TIMEOUT)
    assert process.returncode == STOPPED
    assert f"stopped after {rows - 1} photos; their rows are kept in {partial}. To go on: piaa score " in told
    assert told.endswith("--watch --resume\n")
    assert not output.exists()


def wait_for_lines(path: Path, lines: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, path.read_bytes() if path.exists() else "no file"
        time.sleep(0.01)


def test_only_folders_can_be_watched(photos: list[Path]) -> None:
    from typer.testing import CliRunner

    from piaa_sdk.cli import app

    too_long = "x" * 300  # the system refuses to look at it
    for name in (str(photos[0]), "-", "not-there", too_long, f"{photos[0]}/inside"):
        result = CliRunner().invoke(app, ["score", name, "--watch"])
        assert result.exit_code == 2
        assert "is not a folder that is there; --watch takes folders" in result.stderr
