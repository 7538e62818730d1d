"""The program as a process of its own: streams, signals, exit codes, and whatever a folder may hold."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import piaa_sdk
from piaa_sdk.row_formats import path_from_field

pty = pytest.importorskip("pty", reason="signals, pipes and terminals of Unix")
resource = pytest.importorskip("resource")

ROOT = Path(piaa_sdk.__file__).parents[1]
TIMEOUT = 120


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"} | changes


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "piaa_sdk", *map(str, arguments)]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments),
        capture_output=options.pop("capture_output", True),
        env=environment(**options.pop("env", {})),
        timeout=TIMEOUT,
        check=False,
        **options,
    )


def many_photos(folder: Path, count: int = 300) -> Path:
    """Write distinct photos, enough of them for a run that can be stopped in its middle."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (320, 240), (number % 256, number // 256 * 100, 77)).save(
            folder / f"{number:03}.jpg"
        )
    return folder


def wait_for_rows(partial: Path, rows: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if partial.exists() and partial.read_bytes().count(b"\n") > rows:
            return
        assert process.poll() is None, "the run was over before it could be stopped"
        time.sleep(0.005)
    raise AssertionError("no rows came")


def stopped_after(stderr: bytes, rest: str) -> int:
    """Check that one line says that the run was stopped; return how many photos it names."""
    match = re.fullmatch(rf"stopped after (\d+) photos?{re.escape(rest)}\n", stderr.decode())
    assert match is not None, stderr
    return int(match[1])


def test_ctrl_c_leaves_whole_rows_and_no_broken_file(tmp_path: Path) -> None:
    folder, output = many_photos(tmp_path / "photos"), tmp_path / "scores.csv"
    output.write_text("older scores")
    partial = tmp_path / "scores.csv.partial"
    with subprocess.Popen(
        command("score", folder, "--output", output, "--force", "--workers", "1", "--no-cache"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        wait_for_rows(partial, 5, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert stdout == b""
    header, *rows = [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()]
    assert header["format_version"] == 2
    assert 5 <= len(rows) < 300
    assert [row["path"] for row in rows] == [str(folder / f"{number:03}.jpg") for number in range(len(rows))]
    assert all(row["generic"] is not None for row in rows)
    again = f"piaa score {folder} --output {output} --force --workers 1 --no-cache --resume"
    kept = f"; their rows are kept in {partial}. To go on: {again}"
    assert stopped_after(stderr, kept) == pytest.approx(len(rows), abs=1)
    assert output.read_text() == "older scores"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "scores.csv", "scores.csv.partial"]


def test_ctrl_c_without_a_file_says_how_far_it_was(tmp_path: Path) -> None:
    folder = many_photos(tmp_path / "photos")
    with subprocess.Popen(
        command("score", folder, "--format", "csv", "--workers", "1", "--no-cache"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert process.returncode == 130
    assert all(line.endswith(b"\r\n") for line in lines)
    assert stopped_after(stderr, "") == pytest.approx(len(lines) - 1, abs=1)


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """As in ``piaa score photos | head -1``."""
    folder = many_photos(tmp_path / "photos", 60)
    for layout in ("csv", "table"):
        with subprocess.Popen(
            command("score", folder, "--format", layout, "--top", "60", "--order", "input"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141


@pytest.mark.parametrize("closing", ["2>&1 | head -1 > /dev/null", ">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed_are_no_traceback(photos: list[Path], closing: str) -> None:
    line = f"{shlex.join(command('score', *photos))} {closing}; true"
    done = subprocess.run(
        ["sh", "-c", line], env=environment(), capture_output=True, timeout=TIMEOUT, check=False
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "arguments", [("score", "{photo}", "--format", "csv"), ("model", "show"), ("score", "{photo}")]
)
def test_a_full_disk_behind_standard_output_is_one_line(
    photos: list[Path], arguments: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("wb") as full:
        filled = [argument.format(photo=photos[0]) for argument in arguments]
        done = run(*filled, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: cannot be written: No space left on device\n"


def test_a_full_disk_keeps_the_rows_and_the_cache_is_only_a_warning(
    photos: list[Path], tmp_path: Path
) -> None:
    """A limit on the size of files fails writes the way a full disk does; the cache meets it too."""
    output = tmp_path / "scores.jsonl"
    done = run(
        "score",
        *photos * 4,
        "--output",
        output,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),
    )
    assert done.returncode == 1
    *warnings, error = done.stderr.decode().splitlines()
    partial = tmp_path / "scores.jsonl.partial"
    assert error.startswith(f"error: {partial}: cannot be written: File too large; ")
    assert all(line.startswith("warning: ") for line in warnings)
    _, *rows = [json.loads(line) for line in partial.read_text().splitlines()]
    assert f"; {len(rows)} complete rows are kept" in error
    assert 0 < len(rows) < 48
    assert not output.exists()


def png_that_unfolds(width: int, height: int) -> bytes:
    """Write a PNG whose header promises more pixels than any computer has memory for."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(4096)))
        + chunk(b"IEND", b"")
    )


GOOD_NAMES = (
    "plain.jpg",
    "a b.jpg",
    "a\nb.jpg",
    "\N{CAT FACE}.jpg",
    os.fsdecode(b"caf\xe9.jpg"),
    "=1+1.jpg",
    "-n.jpg",
)


def odd_names(folder: Path) -> list[Path]:
    """Write photos whose names are anything a file can be called."""
    folder.mkdir()
    for number, name in enumerate(GOOD_NAMES):
        with (folder / name).open("wb") as file:
            Image.new("RGB", (64, 48), (30 * number, 90, 60)).save(file, "JPEG")
    return [folder / name for name in GOOD_NAMES]


def hostile_files(folder: Path) -> list[Path]:
    """Add to a folder whatever may be called like a photo and is none."""
    whole = (folder / "plain.jpg").read_bytes()
    (folder / "loop").symlink_to(folder)
    before = set(folder.iterdir())
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    (folder / "text.jpg").write_text("I am a letter.")
    (folder / "bomb.png").write_bytes(png_that_unfolds(50_000, 50_000))
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "nowhere.jpg").symlink_to("not-there.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "bad\N{LATIN SMALL LETTER E WITH ACUTE}\n.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / os.fsdecode(b"bad\xe9.jpg")).write_bytes(b"\xff\xd8\xff\xe0 cut")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("socket.jpg")  # relative, for the name of a socket must be short
    return sorted(set(folder.iterdir()) - before)


def test_a_hostile_folder_costs_one_line_each_and_nothing_else(tmp_path: Path) -> None:
    """Nothing hangs, no traceback, no noise of libraries: every bad file is named, every good one scored."""
    good = odd_names(tmp_path / "photos")
    bad = hostile_files(tmp_path / "photos")
    done = run("score", tmp_path / "photos", "--format", "jsonl")
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert {path_from_field(row["path"]) for row in rows if row["error"] is None} == set(map(str, good))
    *skipped, summary = done.stderr.decode("utf-8").splitlines()
    assert summary.startswith(f"scored {len(good)} of {len(good) + len(bad)} photos ")
    assert len(skipped) == len(bad)
    for path in bad:
        shown = str(path).replace("\n", "\\n").replace(os.fsdecode(b"\xe9"), "\\xe9")
        assert sum(line.startswith(f"skipped: {shown}: ") for line in skipped) == 1, (shown, skipped)
    assert b"Traceback" not in done.stderr


def test_odd_names_are_shown_on_one_line_each(tmp_path: Path) -> None:
    odd_names(tmp_path / "photos")
    done = run("score", tmp_path / "photos", env={"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0
    text = done.stdout.decode("utf-8")
    assert len(text.splitlines()) == 1 + len(GOOD_NAMES)
    assert "photos/a\\nb.jpg" in text
    assert "photos/caf\\xe9.jpg" in text


def test_a_list_with_any_names_comes_through_standard_input(tmp_path: Path) -> None:
    names = [str(path) for path in odd_names(tmp_path / "photos")]
    done = run("score", "-", "--format", "jsonl", input=os.fsencode("\0".join(names)))
    assert done.returncode == 0
    assert [path_from_field(json.loads(line)["path"]) for line in done.stdout.splitlines()] == names


def test_a_terminal_without_stars_gets_plain_letters(photos: list[Path]) -> None:
    done = run("score", photos[0], env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert "*" in done.stdout.decode("ascii")


def run_on_a_terminal(*arguments: object) -> tuple[str, str]:
    """Run with standard error on a terminal; return what came to standard output and to the terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        assert process.stdout is not None
        result = process.stdout.read()
        while select.select([ours], [], [], TIMEOUT)[0]:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            shown += data
    os.close(ours)
    assert process.returncode == 0
    return result.decode(), shown.decode()


def test_progress_is_for_terminals_and_leaves_no_trace(photos: list[Path]) -> None:
    result, shown = run_on_a_terminal("score", *photos, "--format", "csv")
    assert len(result.splitlines()) == 13
    assert "\r1 of 12 photos" in shown
    line, _, summary = shown.rstrip("\r\n").rpartition("\r")
    assert summary.startswith("scored 12 photos")
    assert line.endswith(" "), "the progress line is wiped before the summary"
    assert b"\r" not in run("score", *photos).stderr


def test_the_shell_can_complete_commands_and_names(photos: list[Path]) -> None:
    table = photos[0].with_name("ratings.csv")
    table.write_text(
        "image,rating\n" + "".join(f"{photo.name},{1 + index % 5}\n" for index, photo in enumerate(photos))
    )
    assert run("personalize", table, "--user", "mira").returncode == 0
    for words, expected in (
        ("piaa sc", "score"),
        ("piaa users exp", "export"),
        ("piaa score --user mi", "mira"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from piaa_sdk.cli import main; main()"],
            env=environment(
                _PIAA_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1)
            ),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.stdout.split() == [expected], done.stderr


def test_help_waits_for_nothing_heavy() -> None:
    """Help must not wait for numpy, Pillow or onnxruntime; how long it takes is for the benchmarks to say."""
    statement = (
        "import sys, contextlib\n"
        "from piaa_sdk.cli import main\n"
        "sys.argv = ['piaa', '--help']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print(sorted({'numpy', 'PIL', 'onnxruntime', 'rich', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", statement], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
