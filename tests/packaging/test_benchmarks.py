"""The benchmarks say what they measure, measure what they say, and fetch nothing."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from benchmarks.memory import write_copies
from benchmarks.peers import without_network
from piaa_sdk.embedding_cache import content_key

ROOT = Path(__file__).resolve().parents[2]
HELPERS = {"__init__", "peers", "pictures", "plain_bundle", "report", "scripts"}


def commands() -> set[str]:
    """The benchmarks that can be called."""
    return {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - HELPERS


@pytest.mark.parametrize("name", sorted(HELPERS - {"__init__"}))
def test_what_is_no_command_cannot_be_called(name: str) -> None:
    """So that the list above stays true."""
    assert "__main__" not in (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")


def test_every_benchmark_is_listed() -> None:
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `python -m benchmarks\.(\w+)", table, re.MULTILINE)) == commands()


@pytest.mark.parametrize("document", ["README.md", "docs/performance.md"])
def test_documents_name_benchmarks_that_exist(document: str) -> None:
    """A figure whose command does not exist cannot be checked by anybody."""
    named = set(re.findall(r"python -m benchmarks\.(\w+)", (ROOT / document).read_text(encoding="utf-8")))
    assert named
    assert named <= commands()


def test_copies_are_different_files_that_show_the_same_picture(tmp_path: Path) -> None:
    """Equal bytes would be embedded once, and a run over copies would measure the search for duplicates."""
    originals = (tmp_path / "a.jpg", tmp_path / "b.jpg")
    for path in originals:
        path.write_bytes(path.name.encode() * 10)
    library = tmp_path / "library"
    library.mkdir()
    write_copies(originals, 7, library)
    contents = [path.read_bytes() for path in sorted(library.iterdir())]
    assert len({content_key(data) for data in contents}) == 7
    assert all(data.startswith(originals[index % 2].read_bytes()) for index, data in enumerate(contents))


def test_a_peer_cannot_fetch_its_weights() -> None:
    """Whatever library it uses, in the end it has to connect; afterwards everything is as it was."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with without_network():
            with pytest.raises(OSError, match="download nothing"):
                socket.create_connection(address, timeout=5)
            with socket.socket() as plain, pytest.raises(OSError, match="download nothing"):
                plain.connect(address)
        socket.create_connection(address, timeout=5).close()
