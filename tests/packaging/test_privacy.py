"""What people were promised for their photos: never changed, and nothing leaves the computer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from piaa_sdk.bundle import EMBEDDED_FOLDER

ROOT = Path(__file__).resolve().parents[2]

WATCH = """
import sys

def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        sys.stderr.write(f"network: {event} {arguments[1:]}\\n")
        raise PermissionError(event)

sys.addaudithook(watch)
"""

PROGRAM = """
from piaa_sdk.cli import main
sys.argv = ["piaa", *sys.argv[1:]]
main()
"""


ENDED = """
import os, signal, threading, time

*words, rows, lines, number = sys.argv[1:]

def end():
    while not os.path.exists(rows) or open(rows, "rb").read().count(b"\\n") < int(lines):
        time.sleep(0.05)
    os.kill(os.getpid(), int(number))

threading.Thread(target=end, daemon=True).start()
sys.argv[1:] = words
"""
"""Sends the process a signal once a file has so many lines."""


def run_watched(statements: str, *arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run statements in a fresh interpreter in which every use of the network is told and refused."""
    return subprocess.run(
        [sys.executable, "-c", WATCH + statements, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PIAA_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


def state_of(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything in a folder: content, time of the last change and permissions by name."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(folder)): (path.read_bytes(), found.st_mtime_ns, found.st_mode)
        for path, found in stats.items()
    }


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with photos and their ratings, and one file that only looks like a photo."""
    folder = tmp_path / "library"
    shutil.copytree(EMBEDDED_FOLDER / "golden", folder)
    names = sorted(path.name for path in folder.iterdir())
    rows = [f"{name},{1 + number % 5}" for number, name in enumerate(names)]
    (folder / "ratings.csv").write_text("\n".join(["image,rating", *rows]) + "\n", encoding="utf-8")
    (folder / "broken.jpg").write_bytes(b"not a photo")
    return folder


def test_photos_stay_as_they_are_and_nothing_leaves(library: Path, tmp_path: Path) -> None:
    """A whole day's work: score, learn, score for one person and for two, export a profile, clear."""
    home = tmp_path / "home"
    home.mkdir()
    before = state_of(library)
    steps: list[tuple[str | Path, ...]] = [
        ("score", library),
        ("personalize", library / "ratings.csv", "--user", "mira"),
        ("personalize", library / "ratings.csv", "--user", "tom"),
        ("score", library, "--user", "mira", "--output", home / "scores.csv"),
        ("score", library, "--user", "mira", "--user", "tom", "--previews", "--output", home / "both.csv"),
        ("users", "export", "mira", "--output", home / "mira.piaa"),
        ("cache", "clear"),
        ("users", "delete", "mira", "--yes"),
    ]
    for arguments in steps:
        completed = run_watched(PROGRAM, *arguments, home=home)
        assert completed.returncode == (1 if arguments[0] == "score" else 0), completed.stderr
        assert "network:" not in completed.stderr
    assert "broken.jpg" in (home / "scores.csv").read_text(encoding="utf-8")
    assert state_of(library) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_watch_and_what_goes_on_with_its_rows_keep_the_promises(library: Path, tmp_path: Path) -> None:
    """A watch of the photos is killed; another one goes on, tries again what failed, and ends with Ctrl-C."""
    home = tmp_path / "home"
    home.mkdir()
    before = state_of(library)
    output, partial = home / "scores.csv", home / "scores.csv.partial"
    pictures = len(before) - 1  # all but the table
    arguments = ("score", library, "--watch", "--output", output)
    kill, stop = (str(int(number)) for number in (signal.SIGKILL, signal.SIGINT))
    for more, lines, number, code in (
        ((), 1 + pictures, kill, -signal.SIGKILL),
        (("--resume",), 2 + pictures, stop, 0),
    ):
        completed = run_watched(ENDED + PROGRAM, *arguments, *more, partial, str(lines), number, home=home)
        assert completed.returncode == code, completed.stderr
        assert "network:" not in completed.stderr
        assert state_of(library) == before
    assert f"going on after {pictures - 1} photos" in completed.stderr
    assert len(output.read_text(encoding="utf-8").splitlines()) == 1 + pictures


def test_watch_of_the_network_can_fail(tmp_path: Path) -> None:
    statements = "import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)"
    completed = run_watched(statements, home=tmp_path)
    assert completed.returncode != 0
    assert "network:" in completed.stderr
