"""Photos elsewhere through the pipeline: many at once, in bounded memory, known again, stopped at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from remote_fixtures import bucket, clients, web
from storage_standin import cut, silent, unstated

from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.embedding_cache import EmbeddingCache
from piaa_sdk.errors import DeviceError
from piaa_sdk.images import RemotePicture, find_images
from piaa_sdk.images.formats import HEADER_BYTES
from piaa_sdk.pipeline import EmbeddedImage, embed_images
from piaa_sdk.read_ahead import Fetch, ReadAhead, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage_standin import BucketStandIn, WebHandler, WebStandIn

__all__ = ["bucket", "clients", "web"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backbone(tiny_bundle: Path) -> Backbone:
    return Backbone(ModelBundle.load(tiny_bundle), "cpu")


@pytest.fixture
def cache(tmp_path: Path, tiny_bundle: Path) -> Iterator[EmbeddingCache]:
    bundle = ModelBundle.load(tiny_bundle)
    with EmbeddingCache(tmp_path / "cache" / "embeddings.sqlite", bundle.embedding_id, 16) as opened:
        yield opened


@pytest.fixture
def run(backbone: Backbone, tiny_bundle: Path) -> Callable[..., list[EmbeddedImage]]:
    preprocessing = ModelBundle.load(tiny_bundle).preprocessing

    def embed(images: Any, **settings: Any) -> list[EmbeddedImage]:
        return list(embed_images(backbone, preprocessing, images, **settings))

    return embed


@pytest.fixture
def many(web: WebStandIn, tmp_path: Path, make_photo: Callable[..., Path]) -> list[str]:
    """64 different pictures on the server."""
    for number in range(64):
        data = make_photo(tmp_path / "one.png", number, size=(24, 24)).read_bytes()
        web.files[f"/{number:02d}.png"] = data
    return [f"{web.url}{path}" for path in web.files]


def vectors(results: list[EmbeddedImage]) -> list[bytes | None]:
    return [None if result.embedding is None else result.embedding.tobytes() for result in results]


def fetchers() -> list[threading.Thread]:
    names = ("piaa-fetch", "piaa-worker")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def test_photos_elsewhere_are_those_on_the_disk(
    run: Any, web: WebStandIn, bucket: BucketStandIn, photos: list[Path]
) -> None:
    """In the order of the input, mixed with those on the disk, with failures in their places."""
    for photo in photos:
        web.files[f"/{photo.name}"] = bucket.files[f"/b/p/{photo.name}"] = photo.read_bytes()
    elsewhere = [f"{web.url}/{photo.name}" for photo in photos]
    objects = list(find_images(["s3://b/p/"]))
    missing = f"{web.url}/missing.png"
    mixed = [image for images in zip(elsewhere, photos, objects, strict=True) for image in images]
    results = run([*mixed, missing, photos[0]])
    expected = run([photo for photo in photos for _ in range(3)])
    assert vectors(results) == [*vectors(expected), None, vectors(expected)[0]]
    assert [result.source for result in results[:2]] == [elsewhere[0], str(photos[0])]
    assert results[-2].error is not None
    assert results[-2].error.reason == "no such file on the server"
    assert fetchers() == []


def test_the_network_is_not_waited_for_one_photo_at_a_time(
    run: Any, web: WebStandIn, many: list[str]
) -> None:
    """Every answer takes 100 ms; 16 and more are waited for at the same time, on any machine."""
    web.seconds = 0.1
    assert all(result.error is None for result in run(many, workers=2))
    assert web.count("GET") == len(many)
    assert web.most_at_once >= 16


def test_one_thread_asks_for_one_photo_at_a_time(web: WebStandIn, many: list[str]) -> None:
    """What the test above measures can be one."""
    arrived: list[Fetch] = []
    done = threading.Event()

    def count(fetch: Fetch) -> None:
        arrived.append(fetch)
        fetch.release()
        if len(arrived) == 8:
            done.set()

    ahead = ReadAhead(None, 1 << 20, threads=1)
    ahead.add([Fetch(RemotePicture(url), count) for url in many[:8]])
    assert done.wait(30)
    ahead.stop()
    assert web.most_at_once == 1
    assert [fetch.picture.url for fetch in arrived] == many[:8]


def test_no_more_is_fetched_than_the_buffer_holds(web: WebStandIn, many: list[str]) -> None:
    """Neither in photos nor in bytes; and what is let go of makes room."""
    arrived: list[Fetch] = []
    ahead = ReadAhead(None, 1 << 20, threads=2)
    ahead.add([Fetch(RemotePicture(url), arrived.append) for url in many])
    until(lambda: len(arrived) == 8)
    time.sleep(0.3)
    assert len(arrived) == len(web.requests) == 8  # four per thread
    for fetch in arrived[:3]:
        fetch.release()
    until(lambda: len(arrived) == 11)
    ahead.stop()
    assert fetchers() == []


def test_the_buffer_counts_bytes(web: WebStandIn, many: list[str]) -> None:
    sizes = [len(data) for data in web.files.values()]
    limit = 3 * max(sizes)
    arrived: list[Fetch] = []
    ahead = ReadAhead(None, limit, threads=16)
    ahead.add([Fetch(RemotePicture(url), arrived.append) for url in many])
    until(lambda: len(arrived) >= 3)
    time.sleep(0.3)
    assert sum(len(fetch.data or b"") for fetch in arrived) <= limit
    for number in range(len(many)):  # all come, and never too many at once
        until(partial(is_longer, arrived, number))
        assert sum(len(fetch.data or b"") for fetch in list(arrived)) <= limit
        arrived[number].release()
    ahead.stop()


def test_a_photo_larger_than_the_buffer_is_fetched_alone(web: WebStandIn, many: list[str]) -> None:
    arrived: list[Fetch] = []
    ahead = ReadAhead(None, 1, threads=4)
    ahead.add([Fetch(RemotePicture(url), arrived.append) for url in many[:6]])
    for number in range(6):
        until(partial(is_longer, arrived, number))
        assert sum(fetch.data is not None for fetch in arrived) == 1
        arrived[number].release()
    ahead.stop()


@pytest.mark.parametrize("started", [0, 2])
def test_threads_that_cannot_be_started_are_done_without(
    run: Any, web: WebStandIn, many: list[str], monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    """Without memory for them the system gives none; with not one of them nothing can be fetched."""
    start, names = threading.Thread.start, []

    def start_some(thread: threading.Thread) -> None:
        if thread.name == "piaa-fetch":
            if len(names) == started:
                raise RuntimeError("can't start new thread")
            names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    if started:
        assert all(result.error is None for result in run(many))
        assert web.most_at_once <= started
    else:
        with pytest.raises(DeviceError, match="no thread could be started"):
            run(many)
    assert fetchers() == []


def test_photos_that_turn_out_larger_do_not_wait_for_each_other(
    web: WebStandIn, many: list[str], photos: list[Path]
) -> None:
    """Two hold half the buffer each, then all of it is not enough for either: by a retry, or as they grow."""
    photo = photos[0].read_bytes().ljust(HEADER_BYTES, b"\0")
    barrier = threading.Barrier(2, lambda: time.sleep(0.3))  # by then both hold what was stated
    for path in ("/00.png", "/01.png"):
        web.faults[path] = [cut(1 << 20, photo, barrier), unstated(photo.ljust(12 << 20, b"\0"))]
    for number in range(2, 6):
        web.faults[f"/{number:02d}.png"] = [unstated(photo.ljust(12 << 20, b"\0"))]
    arrived: list[Fetch] = []
    sizes: list[int] = []

    def take(fetch: Fetch) -> None:
        sizes.append(len(fetch.data or b""))
        fetch.release()
        arrived.append(fetch)

    ahead = ReadAhead(None, 16 << 20, threads=6)
    ahead.add([Fetch(RemotePicture(url), take) for url in many[:6]])
    try:
        until(lambda: len(arrived) == 6)
    finally:
        ahead.stop()
    assert sizes == [12 << 20] * 6


def test_a_slow_photo_holds_up_neither_the_others_nor_the_buffer(
    run: Any, web: WebStandIn, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one does not come; more photos than the buffer holds are worked off behind it."""
    is_over = threading.Event()
    monkeypatch.setattr("piaa_sdk.read_ahead._FEWEST_THREADS", 2)
    monkeypatch.setattr("piaa_sdk.read_ahead._THREADS_PER_CORE", 1)
    web.faults["/00.png"] = [lambda handler: (is_over.wait(60), handler.answer(404))]
    results: list[EmbeddedImage] = []
    runner = threading.Thread(target=lambda: results.extend(run(many, workers=1)))
    runner.start()
    try:
        until(lambda: len(web.requests) == len(many))
        assert runner.is_alive()
        assert results == []
    finally:
        is_over.set()
        runner.join(30)
    assert [result.error is None for result in results] == [False] + [True] * 63


def test_unchanged_photos_are_not_fetched_again(
    run: Any, web: WebStandIn, cache: EmbeddingCache, many: list[str]
) -> None:
    first = run(many, cache=cache)
    assert web.count("GET") == len(many)
    again = run(many, cache=cache)
    assert web.count("GET") == len(many)
    assert all(result.from_cache for result in again)
    assert vectors(again) == vectors(first)
    web.files["/00.png"], web.files["/01.png"] = web.files["/01.png"], web.files["/00.png"]
    changed = run(many, cache=cache)
    assert vectors(changed)[:2] == vectors(first)[1::-1]


def test_a_listing_is_enough_to_know_objects_again(
    run: Any, bucket: BucketStandIn, cache: EmbeddingCache, photos: list[Path]
) -> None:
    """No object is asked after: a second run over a bucket costs its listing alone."""
    bucket.files.update({f"/b/p/{photo.name}": photo.read_bytes() for photo in photos})
    first = run(find_images(["s3://b/p/"]), cache=cache)
    assert sum(path != "/b" for _, path in bucket.requests) == len(photos)
    bucket.requests.clear()
    again = run(find_images(["s3://b/p/"]), cache=cache)
    assert vectors(again) == vectors(first)
    assert {path for _, path in bucket.requests} == {"/b"}
    bucket.requests.clear()
    assert vectors(run([f"s3://b/p/{photo.name}" for photo in photos], cache=cache)) == vectors(first)
    assert bucket.count("GET") == 0


def test_a_server_that_names_no_version_is_read_again_and_its_photos_known(
    run: Any, web: WebStandIn, cache: EmbeddingCache, many: list[str]
) -> None:
    web.has_tags = False
    run(many[:5], cache=cache)
    again = run(many[:5], cache=cache)
    assert web.count("GET") == 10
    assert all(result.from_cache for result in again)  # by what they hold


def test_a_photo_that_changes_between_question_and_answer_keeps_no_stamp(
    run: Any, web: WebStandIn, cache: EmbeddingCache, many: list[str]
) -> None:
    """Else its new content would be found under its old version for ever."""
    old, new = web.files["/00.png"], web.files["/01.png"]

    def exchange(handler: Any) -> None:
        handler.serve("/00.png")
        web.files["/00.png"] = new

    web.faults["/00.png"] = [exchange]
    [changed] = run(many[:1], cache=cache)
    web.files["/00.png"] = old
    [found] = run(many[:1], cache=cache)
    assert vectors([changed]) == vectors(run(many[1:2]))
    assert vectors([found]) != vectors([changed])


def test_photos_that_are_shown_alike_are_not_known_by_size_and_time() -> None:
    """Two without compression, saved in the same second: a server's tag tells them apart, a time does not."""
    time_of_both = "Thu, 01 Jan 2026 00:00:00 GMT"
    assert stamp_of(RemotePicture("https://host/a?key=1", 5, time_of_both)) is None
    assert stamp_of(RemotePicture("https://host/a?page=1", 5, time_of_both)) is not None
    assert stamp_of(RemotePicture("https://host/a?key=1", 5, '"tag"')) is not None


def test_the_same_address_is_fetched_once(run: Any, web: WebStandIn, many: list[str]) -> None:
    results = run([many[0]] * 5 + [RemotePicture(many[0])])
    assert web.count("GET") == 1
    assert len(set(vectors(results))) == 1


@pytest.mark.parametrize("takes", [0, 1, 5])
def test_closing_in_mid_run_ends_at_once(
    backbone: Backbone, tiny_bundle: Path, web: WebStandIn, many: list[str], takes: int
) -> None:
    """Whatever the threads wait for: a silent server, their turn, or room in the buffer."""
    for number in range(10, 64):
        web.faults[f"/{number:02d}.png"] = [silent]

    def after_the_others(handler: WebHandler) -> None:
        until(lambda: len(web.requests) > 10)
        handler.serve("/00.png")

    # A result that is there early would be yielded before more than a few photos are asked for.
    web.faults["/00.png"] = [after_the_others]
    results = embed_images(backbone, ModelBundle.load(tiny_bundle).preprocessing, iter(many), workers=2)
    for _ in range(takes):
        next(results)
    assert not takes or len(web.requests) > 10
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 20  # a silent server is given up after 30
    assert fetchers() == []


def test_a_program_that_ends_in_mid_run_does_not_wait(
    web: WebStandIn, many: list[str], tmp_path: Path, tiny_bundle: Path
) -> None:
    """Nobody has closed the iterator; silent servers and photos on their way hold up nothing."""
    for number in range(8, 64):
        web.faults[f"/{number:02d}.png"] = [silent] * 3
    web.seconds = 0.2
    program = (
        "import sys, time\nfrom piaa_sdk import Scorer\n"
        f"scores = Scorer.from_pretrained({str(tiny_bundle)!r}, cache=False).iter_scores({many!r})\n"
        "print(next(scores).error)\nprint(time.time())"
    )
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PIAA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    ended = time.time()
    error, printed = completed.stdout.split()
    assert (completed.returncode, completed.stderr, error) == (0, "", "None")
    assert ended - float(printed) < 20  # a silent server is given up after 30


def test_a_bug_is_raised_where_the_result_is_taken(
    run: Any, web: WebStandIn, many: list[str], cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "find_stamp", lambda stamp: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(many[:3], cache=cache)
    assert fetchers() == []


# The program


def piaa(home: Path, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "piaa_sdk", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PIAA_HOME": str(home)},
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        cwd=home,
    )


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_program_scores_photos_from_everywhere(
    web: WebStandIn, bucket: BucketStandIn, tmp_path: Path, tiny_bundle: Path, photos: list[Path]
) -> None:
    """Folders, prefixes, addresses and a list of them in one run; nothing that gives access is told."""
    web.files["/web.png"] = bucket.files["/b/p/1.png"] = photos[0].read_bytes()
    bucket.files["/b/p/deep/2.png"] = photos[1].read_bytes()
    secret = web.url.replace("http://", "http://mira:sesame@") + "/web.png?X-Amz-Signature=sesame&w=1"
    bad = web.url.replace("http://", "http://mira:sesame@") + "/none.png?sig=sesame"
    shown = f"{web.url}/web.png?X-Amz-Signature=***&w=1"
    arguments = ("score", "s3://b/p/", photos[2], "-", "--model", tiny_bundle, "--format", "jsonl")
    completed = piaa(tmp_path, *arguments, "--output", "scores.jsonl", stdin=f"{secret}\n{bad}\n")
    assert completed.returncode == 1
    found = rows((tmp_path / "scores.jsonl").read_text(encoding="utf-8"))
    paths = ["s3://b/p/1.png", "s3://b/p/deep/2.png", str(photos[2]), shown, f"{web.url}/none.png?sig=***"]
    assert [row["path"] for row in found] == paths
    local = rows(piaa(tmp_path, "score", *photos[:3], *arguments[4:], "--no-cache").stdout)
    assert [row["generic"] for row in found[:3]] == pytest.approx([row["generic"] for row in local])
    assert found[3]["generic"] == pytest.approx(local[0]["generic"])
    assert found[4]["error"] == "no such file on the server"
    everything = completed.stdout + completed.stderr
    for path in tmp_path.rglob("*"):
        everything += path.read_bytes().decode("latin-1") if path.is_file() else ""
    assert "none.png?sig=***" in everything
    assert "sesame" not in everything


def test_a_run_that_is_stopped_leaves_no_secret_in_its_rows(
    web: WebStandIn, tmp_path: Path, tiny_bundle: Path, photos: list[Path]
) -> None:
    """Ctrl-C while a server is silent: the program ends at once, and keeps the rows so far."""
    web.files["/1.png"] = photos[0].read_bytes()
    web.faults["/2.png"] = [silent] * 3
    urls = [f"{web.url.replace('//', '//u:sesame@')}/{number}.png?sig=sesame" for number in (1, 2)]
    command = [sys.executable, "-m", "piaa_sdk", "score", *urls, "--model", str(tiny_bundle), "-o", "s.csv"]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PIAA_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    partial = tmp_path / "s.csv.partial"
    until(lambda: partial.exists() and "1.png" in partial.read_text().partition("\n")[2], seconds=30)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begin < 20  # a silent server is given up after 30
    assert process.returncode == 130
    assert "stopped after 1 photo" in said
    assert "sesame" not in partial.read_text() + said
    assert said.endswith("To go on: the same command with --resume\n"), "what is shown of it would not work"


def test_a_taste_is_learned_from_photos_elsewhere(
    web: WebStandIn, tmp_path: Path, tiny_bundle: Path, photos: list[Path]
) -> None:
    """What is stored names them without what gives access, and they are known to be the same again."""
    login = web.url.replace("//", "//u:sesame@")
    lines = ["image,rating"]
    for number, photo in enumerate(photos):
        web.files[f"/{photo.name}"] = photo.read_bytes()
        lines.append(f"{login}/{photo.name},{1 + number % 5}" if number % 2 else f"photos/{photo.name},2")
    (tmp_path / "ratings.csv").write_text("\n".join(lines), encoding="utf-8")
    command = ("personalize", "ratings.csv", "--user", "mira", "--scale", "1", "5", "--model", tiny_bundle)
    completed = piaa(tmp_path, *command)
    assert completed.returncode == 0, completed.stderr
    assert piaa(tmp_path, *command).returncode == 0
    assert piaa(tmp_path, "score", "photos", "--user", "mira", "--model", tiny_bundle).returncode == 0
    assert piaa(tmp_path, "users", "refit", "mira", "--model", tiny_bundle).returncode == 0
    (tmp_path / "ratings.csv").write_text(f"image,rating\n{login}/none.png,3\n", encoding="utf-8")
    failed = piaa(tmp_path, *command, "--add")
    assert failed.returncode == 1
    assert f"line 2: {web.url}/none.png: no such file on the server" in failed.stderr
    (tmp_path / "ratings.csv").unlink()
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(web.url.encode() in data for data in stored)
    assert not any(b"sesame" in data for data in stored)


def test_no_address_no_network_client(tmp_path: Path, tiny_bundle: Path, photos: list[Path]) -> None:
    """Scoring photos of a disk loads nothing that could reach anywhere."""
    program = (
        "import sys\nfrom piaa_sdk import Scorer\n"
        f"Scorer.from_pretrained({str(tiny_bundle)!r}, cache=False).score({str(photos[0].parent)!r})\n"
        "print({'aiohttp', 'fsspec', 's3fs', 'gcsfs'} & set(sys.modules))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PIAA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert completed.stdout.strip() == "set()"


def is_longer(arrived: list[Fetch], number: int) -> bool:
    return len(arrived) > number


def until(is_so: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
