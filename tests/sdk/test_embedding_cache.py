"""The cache only ever saves time: whatever is wrong with it is one warning, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from piaa_sdk import cache_file
from piaa_sdk.embedding_cache import (
    CacheEntry,
    EmbeddingCache,
    FileStamp,
    clear,
    content_key,
    default_path,
    summarize,
)
from piaa_sdk.errors import OutputError, PiaaWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piaa_sdk.array_types import FloatArray

MODEL = "a" * 64
OTHER_MODEL = "b" * 64
DIM = 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "embeddings.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(path, MODEL, DIM) as opened:
        yield opened


def embedding(number: int, dim: int = DIM) -> FloatArray:
    values: FloatArray = np.random.default_rng(number).normal(size=dim).astype(np.float16).astype(np.float32)
    return values


def key(number: int) -> bytes:
    return content_key(b"%d" % number)


def stamp(number: int) -> FileStamp:
    return FileStamp(f"/photos/{number}.jpg", 1000 + number, 1_700_000_000_000_000_000 + number)


def entry(number: int, dim: int = DIM) -> CacheEntry:
    return CacheEntry(key(number), embedding(number, dim), stamp(number))


def holds(cache: EmbeddingCache, number: int) -> bool:
    """Whether an embedding is found by content; what is found must be the right one."""
    found = cache.find_content(key(number))
    if found is not None:
        np.testing.assert_array_equal(found, embedding(number, cache.embedding_dim))
    return found is not None


def test_what_is_stored_is_found_again_to_the_last_bit(path: Path) -> None:
    with EmbeddingCache(path, MODEL, DIM) as cache:
        cache.store([entry(1), entry(2)])
    with EmbeddingCache(path, MODEL, DIM) as cache:
        assert holds(cache, 1)
        assert holds(cache, 2)
        assert not holds(cache, 3)
        found = cache.find_stamps([stamp(2), stamp(3), stamp(1), stamp(2)])
        assert found[1] is None
        for result, number in ((found[0], 2), (found[2], 1), (found[3], 2)):
            assert result is not None
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, embedding(number))


@pytest.mark.parametrize(
    "changed",
    [
        FileStamp("/photos/9.jpg", 1001, stamp(1).mtime_ns),
        FileStamp("/photos/1.jpg", 1002, stamp(1).mtime_ns),
        FileStamp("/photos/1.jpg", 1001, stamp(1).mtime_ns + 1),
    ],
)
def test_a_file_that_has_changed_is_not_found(cache: EmbeddingCache, changed: FileStamp) -> None:
    cache.store([entry(1)])
    assert cache.find_stamp(stamp(1)) is not None
    assert cache.find_stamp(changed) is None


def test_content_that_is_known_only_gets_the_new_stamp(cache: EmbeddingCache, path: Path) -> None:
    """A photo that was moved or copied is one embedding."""
    cache.store([entry(1)])
    cache.store([CacheEntry(key(1), embedding(1), stamp(2))])
    cache.remember_stamp(stamp(3), key(1))
    for number in (1, 2, 3):
        found = cache.find_stamp(stamp(number))
        assert found is not None
        np.testing.assert_array_equal(found, embedding(1))
    assert summarize(path).embeddings == {MODEL: 1}


def test_a_stamp_of_unknown_content_is_passed_over(cache: EmbeddingCache) -> None:
    cache.remember_stamp(stamp(1), key(1))
    assert cache.find_stamp(stamp(1)) is None


def test_a_stamp_moves_on_with_its_file(cache: EmbeddingCache) -> None:
    """The content is the truth: of two contents under one stamp the later one is believed."""
    cache.store([entry(1), CacheEntry(key(2), embedding(2), stamp(1))])
    found = cache.find_stamp(stamp(1))
    assert found is not None
    np.testing.assert_array_equal(found, embedding(2))


def test_models_live_side_by_side_and_never_mix(path: Path) -> None:
    with EmbeddingCache(path, MODEL, DIM) as first, EmbeddingCache(path, OTHER_MODEL, 4) as second:
        first.store([entry(1), entry(2)])
        assert not holds(second, 1)
        assert second.find_stamp(stamp(1)) is None
        second.store([entry(1, dim=4)])
        assert holds(first, 1)
        assert holds(second, 1)
    assert summarize(path).embeddings == {MODEL: 2, OTHER_MODEL: 1}


def test_many_more_than_one_query_holds(cache: EmbeddingCache) -> None:
    cache.store([entry(number) for number in range(700)])
    found = cache.find_stamps([stamp(number) for number in range(0, 1400, 2)])
    assert [one is not None for one in found] == [True] * 350 + [False] * 350


def test_no_path_is_stored(cache: EmbeddingCache, path: Path) -> None:
    """What somebody photographs, and where it lies, is nobody's business."""
    secret = FileStamp("/home/mira/clinic/scan.jpg", 1, 1)
    cache.store([CacheEntry(key(1), embedding(1), secret)])
    cache.close()
    assert b"clinic" not in path.read_bytes()


def test_at_most_two_kilobytes_per_photo_on_disk(path: Path) -> None:
    """Stored as the pipeline does, 8 at a time; everything counts: keys, stamps, page headers, waste."""
    count, dim = 1000, 896
    entries = [entry(number, dim) for number in range(count)]
    with EmbeddingCache(path, MODEL, dim) as cache:
        for start in range(0, count, 8):
            cache.store(entries[start : start + 8])
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 2000 * count


def test_the_file_stays_below_its_limit_and_the_oldest_go(path: Path) -> None:
    limit, dim = 600_000, 896
    with EmbeddingCache(path, MODEL, dim, max_bytes=limit) as cache:
        for number in range(0, 1000, 8):
            cache.store([entry(one, dim) for one in range(number, number + 8)])
        kept = [number for number in range(1000) if holds(cache, number)]
        assert [number for number in range(1000) if cache.find_stamp(stamp(number)) is not None] == kept
        summary = summarize(path)
    assert kept == list(range(kept[0], 1000))
    assert len(kept) > 200
    assert summary.embeddings == {MODEL: len(kept)}
    assert path.stat().st_size <= limit + 10 * 16384


def test_the_limit_holds_for_all_models_together(path: Path) -> None:
    """The embeddings of a model that is no longer used make room for those of the next."""
    limit, dim = 600_000, 896
    for model in (MODEL, OTHER_MODEL):
        with EmbeddingCache(path, model, dim, max_bytes=limit) as cache:
            cache.store([entry(number, dim) for number in range(250)])
    assert summarize(path).embeddings[OTHER_MODEL] > 200
    assert MODEL not in summarize(path).embeddings


def test_a_limit_that_holds_nothing_is_no_error(path: Path) -> None:
    with EmbeddingCache(path, MODEL, DIM, max_bytes=1) as cache:
        cache.store([entry(1)])
        assert not holds(cache, 1)


def test_threads_share_one_cache(cache: EmbeddingCache) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 40):
            cache.store([entry(number)])
            assert holds(cache, number)
            assert cache.find_stamp(stamp(number)) is not None

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(holds(cache, number) for number in range(100))


WRITER = """
import sys
from pathlib import Path
import numpy as np
from piaa_sdk.embedding_cache import CacheEntry, EmbeddingCache, FileStamp, content_key
path, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with EmbeddingCache(path, "a" * 64, 16) as cache:
    for number in range(first, first + count):
        values = np.random.default_rng(number).normal(size=16).astype(np.float16).astype(np.float32)
        stamp = FileStamp(f"/photos/{number}.jpg", 1000 + number, 1_700_000_000_000_000_000 + number)
        cache.store([CacheEntry(content_key(b"%d" % number), values, stamp)])
        print(number, flush=True)
"""


def start_writer(path: Path, first: int, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WRITER, str(path), str(first), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_make_and_write_one_cache_at_once(path: Path) -> None:
    """They overlap by half, and none of them may find the file half made, wait in vain or lose anything."""
    writers = [start_writer(path, first, 60) for first in (0, 30, 60)]
    for writer in writers:  # let go of all of them only when all have started
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, problems = writer.communicate(timeout=60)
        assert (writer.returncode, problems) == (0, "")
    with EmbeddingCache(path, MODEL, DIM) as cache:
        assert all(holds(cache, number) for number in range(120))
    assert summarize(path).embeddings == {MODEL: 120}


def test_a_process_that_is_killed_leaves_whole_entries(path: Path) -> None:
    """What it had reported as stored is there, the rest is whole or absent, and nobody is warned."""
    writer = start_writer(path, 0, 100_000)
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()
    reported = [int(writer.stdout.readline()) for _ in range(100)]
    writer.kill()
    writer.communicate(timeout=30)
    with EmbeddingCache(path, MODEL, DIM) as cache:
        assert all(holds(cache, number) for number in reported)
        stored = summarize(path).embeddings[MODEL]
        assert sum(holds(cache, number) for number in range(stored + 10)) == stored
        cache.store([entry(stored)])
        assert holds(cache, stored)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"no database" * 1000, id="garbage"),
        pytest.param(lambda data: b"x", id="one byte"),
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: data[:100], id="header only"),
        pytest.param(lambda data: data[:4096] + b"\xa5" * (len(data) - 4096), id="overwritten"),
    ],
)
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path: Path, damage: object) -> None:
    with EmbeddingCache(path, MODEL, DIM) as cache:
        cache.store([entry(number) for number in range(500)])
    assert callable(damage)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with EmbeddingCache(path, MODEL, DIM) as cache:
            for number in range(500):
                holds(cache, number)
            cache.store([entry(1000)])
            assert holds(cache, 1000)
    assert [warning.category for warning in caught] == [PiaaWarning]
    assert "was damaged" in str(caught[0].message)
    assert (path.parent / "embeddings.sqlite.corrupt").read_bytes() == damaged
    with EmbeddingCache(path, MODEL, DIM) as cache:  # no warning the next time
        assert holds(cache, 1000)


def test_tables_that_are_not_as_they_should_be_are_damage(path: Path) -> None:
    EmbeddingCache(path, MODEL, DIM).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE keys RENAME COLUMN vector TO other")
    with pytest.warns(PiaaWarning, match="tables are not as they should be"):
        cache = EmbeddingCache(path, MODEL, DIM)
    cache.store([entry(1)])
    assert holds(cache, 1)
    cache.close()


def test_embeddings_that_are_none_are_not_found(path: Path) -> None:
    """Rows of a wrong length, or with NaN, would become wrong scores."""
    with EmbeddingCache(path, MODEL, DIM) as cache:
        cache.store([entry(number) for number in range(3)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE vectors SET embedding = x'0011' WHERE id = 1")
        connection.execute("UPDATE vectors SET embedding = ? WHERE id = 2", (b"\xff" * 32,))
    with EmbeddingCache(path, MODEL, DIM) as cache:
        assert [holds(cache, number) for number in range(3)] == [False, False, True]


def make_foreign(path: Path, statement: str) -> bytes:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
        connection.execute("CREATE TABLE photos (name)")
    return path.read_bytes()


@pytest.mark.parametrize("statement", ["PRAGMA application_id = 7", "PRAGMA user_version = 3", "SELECT 1"])
def test_a_database_of_another_program_is_never_touched(path: Path, statement: str) -> None:
    before = make_foreign(path, statement)
    with pytest.warns(PiaaWarning, match="database of another program.*going on without it"):
        cache = EmbeddingCache(path, MODEL, DIM)
    cache.store([entry(1)])
    assert not holds(cache, 1)
    assert not cache.is_usable
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match="no cache of embeddings; it is left alone"):
        clear(path)
    assert path.read_bytes() == before


def test_a_file_of_another_kind_is_never_touched(tmp_path: Path) -> None:
    """Somebody gives the wrong file as the cache: it must not be renamed, let alone overwritten."""
    path = tmp_path / "ratings.csv"
    path.write_text("image,rating\na.jpg,4\n")
    with pytest.warns(PiaaWarning, match="it is left alone"):
        EmbeddingCache(path, MODEL, DIM).close()
    assert path.read_text() == "image,rating\na.jpg,4\n"
    with pytest.raises(OutputError, match="it is left alone"):
        clear(path)
    assert [file.name for file in tmp_path.iterdir()] == ["ratings.csv"]


def test_a_file_of_a_newer_version_is_left_to_it(path: Path) -> None:
    EmbeddingCache(path, MODEL, DIM).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.warns(
        PiaaWarning, match=r"format version 2, this piaa-sdk knows 1; upgrade.*piaa cache clear"
    ):
        EmbeddingCache(path, MODEL, DIM).close()
    assert path.read_bytes() == before
    assert "format version 2" in (summarize(path).problem or "")
    assert clear(path) == len(before)


def test_a_full_disk_is_one_warning_and_what_is_there_is_still_found(path: Path) -> None:
    with EmbeddingCache(path, MODEL, 896) as cache:
        cache.store([entry(number, 896) for number in range(20)])
        assert cache._connection is not None
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.warns(PiaaWarning, match=r"cannot be written .*full.*without storing"):
            cache.store([entry(number, 896) for number in range(20, 100)])
        for number in range(20, 100):  # no second warning
            cache.store([entry(number, 896)])
            cache.remember_stamp(stamp(1000 + number), key(number))
        assert all(holds(cache, number) for number in range(20))
        assert not holds(cache, 99)


FILE_LIMIT = """
import resource, sys, warnings
from pathlib import Path
import numpy as np
from piaa_sdk.embedding_cache import CacheEntry, EmbeddingCache, content_key
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
warnings.simplefilter("always")
path = Path(sys.argv[1])
with warnings.catch_warnings(record=True) as caught, EmbeddingCache(path, "a" * 64, 896) as cache:
    for number in range(300):
        cache.store([CacheEntry(content_key(b"%d" % number), np.full(896, number, dtype=np.float32))])
    found = cache.find_content(content_key(b"0"))
print([warning.category.__name__ for warning in caught], found is not None and not found.any())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes here")
def test_a_disk_that_really_refuses_is_one_warning(path: Path) -> None:
    """The system itself refuses to let the files grow, as a full disk or a quota does."""
    done = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("['PiaaWarning'] True\n", "")


READ_ONLY = """
import os, sys, warnings
from pathlib import Path
import numpy as np
from piaa_sdk.embedding_cache import CacheEntry, EmbeddingCache, content_key
path = Path(sys.argv[1])
EmbeddingCache(path, "a" * 64, 16).close()
path.chmod(0o444); path.parent.chmod(0o555)
if os.geteuid() == 0:
    os.seteuid(65534)  # permissions do not hold for root
warnings.simplefilter("always")
for target in (path, path.parent / "new" / "embeddings.sqlite"):
    with warnings.catch_warnings(record=True) as caught, EmbeddingCache(target, "a" * 64, 16) as cache:
        cache.store([CacheEntry(content_key(b"1"), np.zeros(16, dtype=np.float32))])
        assert cache.find_content(content_key(b"1")) is None
    print([warning.category.__name__ for warning in caught])
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="other permissions here")
def test_a_folder_that_cannot_be_written_is_one_warning() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's folder, which is closed to other users
        Path(folder).chmod(0o755)
        path = Path(folder) / "cache" / "embeddings.sqlite"
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        path.parent.chmod(0o755)
    assert (done.stdout, done.stderr) == ("['PiaaWarning']\n['PiaaWarning']\n", "")


@pytest.mark.parametrize("name", ["a file/embeddings.sqlite", "x" * 300 + ".sqlite", "nul\0.sqlite"])
def test_impossible_places_are_one_warning(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").write_text("in the way")
    with pytest.warns(PiaaWarning, match=r"cannot be used .*going on without it") as caught:
        cache = EmbeddingCache(tmp_path / name, MODEL, DIM)
    assert len(caught) == 1
    cache.store([entry(1)])
    assert not holds(cache, 1)
    cache.close()
    assert [file.name for file in tmp_path.iterdir()] == ["a file"]


def test_a_folder_in_the_place_of_the_file_is_one_warning(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.warns(PiaaWarning, match="going on without it"):
        EmbeddingCache(path, MODEL, DIM).close()
    assert path.is_dir()


def test_names_that_mean_something_in_an_address_are_names(tmp_path: Path) -> None:
    path = tmp_path / "50% off?mode=ro#x ü.sqlite"
    with EmbeddingCache(path, MODEL, DIM) as cache:
        cache.store([entry(1)])
    assert path.is_file()
    assert summarize(path).embeddings == {MODEL: 1}


def test_a_file_that_stays_locked_is_one_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program holds it for longer than anybody wants to wait."""
    monkeypatch.setattr(cache_file, "_BUSY_SECONDS", 0.1)
    with (
        EmbeddingCache(path, MODEL, DIM) as cache,
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        cache.store([entry(1)])
        other.execute("BEGIN IMMEDIATE")
        with pytest.warns(PiaaWarning, match=r"cannot be written .*locked"):
            cache.store([entry(2)])
        cache.store([entry(3)])  # neither waits nor warns again
        assert holds(cache, 1)


def test_a_second_run_does_not_wait_for_a_writer(path: Path) -> None:
    """Opening a cache that knows the model writes nothing."""
    with EmbeddingCache(path, MODEL, DIM) as cache:
        cache.store([entry(1)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        with EmbeddingCache(path, MODEL, DIM) as cache:
            assert holds(cache, 1)
        assert time.monotonic() - begin < 2


def test_without_shared_memory_a_rollback_journal_is_used(path: Path) -> None:
    """As on network file systems: locking by extra files, like "unix-dotfile", has no write-ahead log."""
    path.parent.mkdir()
    if sys.platform == "win32":
        pytest.skip("no such locking here")
    with contextlib.closing(sqlite3.connect(f"file:{path}?vfs=unix-dotfile", uri=True)) as connection:
        assert cache_file.choose_journal(connection) == "delete"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert cache_file.choose_journal(connection) == "wal"


def test_closed_is_closed(path: Path) -> None:
    cache = EmbeddingCache(path, MODEL, DIM)
    cache.store([entry(1)])
    assert cache.is_usable
    cache.close()
    cache.close()
    cache.store([entry(2)])
    assert not cache.is_usable
    assert not holds(cache, 1)


def test_a_forgotten_cache_closes_itself(path: Path) -> None:
    """The write-ahead log is folded in and no ResourceWarning is left to Python."""
    cache = EmbeddingCache(path, MODEL, DIM)
    cache.store([entry(1)])
    del cache
    assert [file.name for file in path.parent.iterdir()] == ["embeddings.sqlite"]


def test_summary_and_clearing(path: Path) -> None:
    empty = summarize(path)
    assert (empty.files, empty.bytes, empty.embeddings, empty.problem) == ((), 0, {}, None)
    assert clear(path) == 0
    cache = EmbeddingCache(path, MODEL, DIM)
    cache.store([entry(1)])
    (path.parent / "embeddings.sqlite.corrupt").write_bytes(b"old")
    (path.parent / "neighbour.txt").write_text("stays")
    summary = summarize(path, max_bytes=123)
    assert path in summary.files
    assert summary.bytes == sum(file.stat().st_size for file in summary.files)
    assert (summary.embeddings, summary.limit, summary.problem) == ({MODEL: 1}, 123, None)
    cache.close()
    size = path.stat().st_size
    assert clear(path) == size + len(b"old")
    assert [file.name for file in path.parent.iterdir()] == ["neighbour.txt"]


def test_a_file_that_is_removed_meanwhile_hides_nothing(path: Path) -> None:
    """SQLite removes its log when the last connection closes, whenever that is; any may go so."""
    with EmbeddingCache(path, MODEL, DIM) as cache:
        cache.store([entry(1)])
    beside, is_over = path.with_name(f"{path.name}.corrupt"), threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            beside.touch()
            beside.unlink(missing_ok=True)

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            assert path in summarize(path).files
        clear(path)
    finally:
        is_over.set()
        other.join()
    assert not path.exists()


def test_summary_of_garbage_says_so_and_clearing_removes_it(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    assert "not a database" in (summarize(path).problem or "")
    assert path.read_bytes() == b"garbage" * 1000
    assert clear(path) == 7000


def test_default_place_is_in_the_cache_folder(piaa_home: Path) -> None:
    assert default_path() == piaa_home / "cache" / "embeddings.sqlite"


def test_stamps_are_of_regular_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative and absolute spelling give one stamp; a pipe, a folder and a missing file give none."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    absolute = FileStamp.of(photo)
    assert absolute is not None
    assert (absolute.path, absolute.size) == (str(photo), 5)
    for spelling in ("photo.jpg", "./photo.jpg", Path("photo.jpg"), str(tmp_path / "x" / ".." / "photo.jpg")):
        (tmp_path / "x").mkdir(exist_ok=True)
        assert FileStamp.of(spelling) == absolute
    for other in (tmp_path, tmp_path / "missing", "nul\0", ""):
        assert FileStamp.of(other) is None
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert FileStamp.of(tmp_path / "pipe") is None


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text here")
def test_names_that_are_not_utf8_have_keys_of_their_own(cache: EmbeddingCache, tmp_path: Path) -> None:
    for number, name in enumerate((b"caf\xe9.jpg", b"caf\xe8.jpg")):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(b"x")
        found = FileStamp.of(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        assert found is not None
        assert cache.find_stamp(found) is None
        cache.store([CacheEntry(key(number), embedding(number), found)])
        assert cache.find_stamp(found) is not None
