"""Results come in order and streaming, are the same whatever the settings, and nothing hangs."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.embedding_cache import EmbeddingCache, summarize
from piaa_sdk.errors import ImageError, PiaaWarning
from piaa_sdk.images import load_image
from piaa_sdk.pipeline import EmbeddedImage, embed_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from piaa_sdk.array_types import FloatArray, PixelArray


class CountingBackbone(Backbone):
    """The real thing, counting the pictures it is given; it can be slow, or fail at one of them."""

    def __init__(self, bundle: ModelBundle, *, seconds: float = 0.0, fails_at: int | None = None) -> None:
        super().__init__(bundle, "cpu")
        self.bundle = bundle
        self.count = 0
        self._seconds = seconds
        self._fails_at = fails_at
        self._lock = threading.Lock()

    def embed(self, pixels: PixelArray) -> FloatArray:
        with self._lock:
            self.count += len(pixels)
            if self._fails_at is not None and self.count > self._fails_at:
                raise ZeroDivisionError("a bug")
        time.sleep(self._seconds * len(pixels))
        return super().embed(pixels)


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return ModelBundle.load(tiny_bundle)


@pytest.fixture
def backbone(bundle: ModelBundle) -> CountingBackbone:
    return CountingBackbone(bundle)


@pytest.fixture
def cache(tmp_path: Path, bundle: ModelBundle) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache" / "embeddings.sqlite", bundle.embedding_id, 16) as opened:
        yield opened


def run(backbone: CountingBackbone, images: Iterable[Any], **settings: Any) -> list[EmbeddedImage]:
    return list(embed_images(backbone, backbone.bundle.preprocessing, images, **settings))


def stack(results: Iterable[EmbeddedImage]) -> FloatArray:
    embeddings = [result.embedding for result in results if result.embedding is not None]
    return np.stack(embeddings)


def workers_alive() -> int:
    return sum(thread.name.startswith("piaa-worker") for thread in threading.enumerate())


def same_size_and_time(path: Path, data: bytes) -> None:
    """Exchange what a file holds behind the back of its stamp."""
    status = path.stat()
    path.write_bytes(data[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_every_picture_has_the_embedding_of_its_pixels(
    backbone: CountingBackbone, photos: list[Path]
) -> None:
    results = run(backbone, photos)
    pixels = np.stack([load_image(photo, backbone.bundle.preprocessing) for photo in photos])
    np.testing.assert_array_equal(stack(results), Backbone(backbone.bundle).embed(pixels))
    assert [result.source for result in results] == [str(photo) for photo in photos]
    assert not any(result.from_cache for result in results)


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_settings_change_nothing_but_speed(
    backbone: CountingBackbone, photos: list[Path], workers: int, batch_size: int
) -> None:
    """Order and every bit hold, with errors in between and batches that do not fill."""
    broken = photos[0].parent / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:200])
    images: list[Any] = [*photos[:5], broken, ImageError("gone", "no such file"), *photos[5:], *photos[:3]]
    expected = run(backbone, images, workers=1, batch_size=1)
    results = run(backbone, images, workers=workers, batch_size=batch_size)
    assert [result.index for result in results] == list(range(17))
    assert [result.source for result in results] == [result.source for result in expected]
    assert [result.embedding is None for result in results] == [number in (5, 6) for number in range(17)]
    np.testing.assert_array_equal(stack(results), stack(expected))


def test_order_holds_when_later_pictures_are_ready_first(bundle: ModelBundle, photos: list[Path]) -> None:
    class UnevenBackbone(CountingBackbone):
        def embed(self, pixels: PixelArray) -> FloatArray:
            time.sleep(0.05 * np.random.default_rng(int(pixels[0, 0, 0, 0])).random())
            return super().embed(pixels)

    results = run(UnevenBackbone(bundle), photos * 3, workers=8, batch_size=1)
    assert [result.source for result in results] == [str(photo) for photo in photos * 3]
    np.testing.assert_array_equal(
        stack(results), np.tile(stack(run(CountingBackbone(bundle), photos)), (3, 1))
    )


def test_all_kinds_of_input_mix(backbone: CountingBackbone, photos: list[Path]) -> None:
    """One picture as path, text, bytes, Pillow image and array is one embedding."""
    with Image.open(photos[0]) as image:
        image.load()
    images = [photos[0], str(photos[0]), photos[0].read_bytes(), image, np.asarray(image), 3.5]
    results = run(backbone, images)
    assert [result.source for result in results] == [
        str(photos[0]),
        str(photos[0]),
        *(f"image {number}" for number in (3, 4, 5, 6)),
    ]
    embeddings = stack(results)
    assert len(embeddings) == 5
    np.testing.assert_array_equal(embeddings, np.tile(embeddings[:1], (5, 1)))
    assert results[5].error is not None
    assert "not float" in results[5].error.reason


def test_a_picture_that_cannot_be_read_is_an_error_in_its_place(
    backbone: CountingBackbone, photos: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "line\nbreak.jpg"
    text.write_text("not a picture")
    passed_on = ImageError("somewhere", "a link that leads nowhere")
    results = run(backbone, [text, tmp_path / "missing.jpg", tmp_path, passed_on, photos[0]])
    assert [result.error is None for result in results] == [False, False, False, False, True]
    assert results[0].source == str(text)
    assert results[0].error is not None
    assert "\n" not in str(results[0].error)
    assert results[3].error is passed_on
    assert results[3].source == "somewhere"
    assert not any(result.from_cache for result in results)


@pytest.mark.parametrize(
    ("device", "stated", "expected"), [("cpu", None, 8), ("coreml", None, 32), ("cpu", 3, 3)]
)
def test_a_worker_collects_what_the_device_likes(
    bundle: ModelBundle, photos: list[Path], device: str, stated: int | None, expected: int
) -> None:
    """Batches of an accelerator are larger: here its path is run on the CPU."""
    sizes: list[int] = []

    class WatchedBackbone(CountingBackbone):
        def embed(self, pixels: PixelArray) -> FloatArray:
            sizes.append(len(pixels))
            return super().embed(pixels)

    backbone = WatchedBackbone(bundle)
    backbone._opened()
    backbone._device = device
    copies = [np.asarray(Image.open(photo)).copy() for photo in photos * 12]
    results = run(backbone, copies, workers=1, batch_size=stated)
    np.testing.assert_allclose(
        stack(results), np.tile(stack(run(CountingBackbone(bundle), photos)), (12, 1)), rtol=1e-3, atol=1e-3
    )
    assert max(sizes) == expected


@pytest.mark.parametrize("name", ["workers", "batch_size"])
def test_settings_below_one_are_refused_at_once(backbone: CountingBackbone, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, must be at least 1"):
        embed_images(backbone, backbone.bundle.preprocessing, [], **{name: 0})


def test_nothing_in_nothing_out(backbone: CountingBackbone) -> None:
    assert run(backbone, []) == []
    assert workers_alive() == 0


def test_a_second_run_neither_decodes_nor_reads(
    backbone: CountingBackbone, photos: list[Path], cache: EmbeddingCache
) -> None:
    """The files hold garbage of the same size and age by then: whoever reads them gets an error."""
    first = run(backbone, photos, cache=cache)
    for photo in photos:
        same_size_and_time(photo, b"garbage")
    second = run(backbone, photos, cache=cache)
    assert backbone.count == len(photos)
    np.testing.assert_array_equal(stack(second), stack(first))
    assert all(result.from_cache for result in second)


def test_a_second_run_starts_no_worker(
    backbone: CountingBackbone, photos: list[Path], cache: EmbeddingCache
) -> None:
    run(backbone, photos, cache=cache)
    for _ in embed_images(backbone, backbone.bundle.preprocessing, photos, cache=cache):
        assert workers_alive() == 0


def test_a_moved_photo_is_known_by_its_content(
    backbone: CountingBackbone, photos: list[Path], cache: EmbeddingCache
) -> None:
    first = run(backbone, photos, cache=cache)
    moved = [photo.rename(photo.with_name(f"moved {photo.name}")) for photo in photos]
    assert all(result.from_cache for result in run(backbone, moved, cache=cache))
    for photo in moved:  # and from now on by its new place
        same_size_and_time(photo, b"garbage")
    second = run(backbone, moved, cache=cache)
    np.testing.assert_array_equal(stack(second), stack(first))
    assert backbone.count == len(photos)


def test_a_changed_photo_is_embedded_again(
    backbone: CountingBackbone, photos: list[Path], cache: EmbeddingCache
) -> None:
    before = stack(run(backbone, photos[:2], cache=cache))
    shutil.copyfile(photos[2], photos[0])
    os.utime(photos[0], ns=(1, 1))
    after = stack(run(backbone, photos[:2], cache=cache))
    assert not np.array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], before[1])


class WaitingBackbone(CountingBackbone):
    """Waits with the first batch until it is let go."""

    def __init__(self, bundle: ModelBundle) -> None:
        super().__init__(bundle)
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()

    def embed(self, pixels: PixelArray) -> FloatArray:
        self.has_begun.set()
        assert self.may_go_on.wait(30)
        return super().embed(pixels)


def test_a_photo_that_changes_before_it_is_read_keeps_no_stamp(
    bundle: ModelBundle, photos: list[Path], cache: EmbeddingCache, make_photo: Callable[..., Path]
) -> None:
    """Its stamp is older than its content: the new content would be found under the old stamp forever."""
    backbone = WaitingBackbone(bundle)
    photo = make_photo(photos[0].with_name("changing.bmp"), 100)
    status, original = photo.stat(), photo.read_bytes()
    other = make_photo(photos[0].with_name("other.bmp"), 101).read_bytes()
    assert len(other) == len(original)
    runner = threading.Thread(
        target=run,
        args=(backbone, [photos[0], photo]),
        kwargs={"cache": cache, "workers": 1, "batch_size": 1},
    )
    runner.start()
    assert backbone.has_begun.wait(30)  # with the first photo; the second is stamped and not read yet
    photo.write_bytes(other)
    backbone.may_go_on.set()
    runner.join(30)
    photo.write_bytes(original)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = stack(run(backbone, [photo], cache=cache))
    np.testing.assert_array_equal(found, stack(run(backbone, [original])))


def test_a_path_met_before_is_not_read_again(backbone: CountingBackbone, photos: list[Path]) -> None:
    """Without a cache, too: the file holds garbage of the same size and age when it is met again."""

    def images() -> Iterator[Path]:
        yield photos[0]
        time.sleep(0.3)  # longer than the first takes, and than results are held back
        same_size_and_time(photos[0], b"garbage")
        yield photos[0]

    first, second = run(backbone, images())
    assert second.from_cache
    np.testing.assert_array_equal(stack([first]), stack([second]))


@pytest.mark.parametrize("with_cache", [True, False])
def test_duplicates_are_embedded_once_and_reported_for_each(
    backbone: CountingBackbone,
    photos: list[Path],
    cache: EmbeddingCache,
    with_cache: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same path spelled in two ways, copies under other names, and the same bytes."""
    monkeypatch.chdir(photos[0].parent)
    copies = [Path(shutil.copyfile(photo, photo.with_name(f"copy {photo.name}"))) for photo in photos]
    images = [*photos, *[photo.name for photo in photos], *copies, *[photo.read_bytes() for photo in photos]]
    results = run(backbone, images, cache=cache if with_cache else None, workers=4, batch_size=3)
    assert backbone.count == len(photos)
    np.testing.assert_array_equal(stack(results), np.tile(stack(results[: len(photos)]), (4, 1)))
    assert sum(not result.from_cache for result in results) == len(photos)


def test_duplicates_of_a_broken_picture_all_fail(
    backbone: CountingBackbone, photos: list[Path], cache: EmbeddingCache
) -> None:
    broken = [photos[0].with_name(f"broken {number}.png") for number in range(6)]
    for path in broken:
        path.write_bytes(photos[0].read_bytes()[:200])
    results = run(backbone, broken * 2, cache=cache, workers=3, batch_size=2)
    assert [result.error.source for result in results if result.error is not None] == [
        str(path) for path in broken * 2
    ]


def test_one_pillow_image_given_many_times(backbone: CountingBackbone, photos: list[Path]) -> None:
    """A lazily opened image must not be decoded in two threads at once."""
    with Image.open(photos[0]) as image:
        results = run(backbone, [image] * 50, workers=8, batch_size=1)
    assert len(stack(results)) == 50
    np.testing.assert_array_equal(stack(results), np.tile(stack(results[:1]), (50, 1)))


def test_two_models_keep_apart_in_one_cache(
    tmp_path: Path, build_bundle: Callable[..., Path], photos: list[Path]
) -> None:
    bundles = [ModelBundle.load(build_bundle(tmp_path / str(seed), seed=seed)) for seed in (1, 2)]
    found = []
    for _ in range(2):
        for bundle in bundles:
            with EmbeddingCache(tmp_path / "embeddings.sqlite", bundle.embedding_id, 16) as cache:
                found.append(stack(run(CountingBackbone(bundle), photos, cache=cache)))
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2:], found[:2])
    assert set(summarize(tmp_path / "embeddings.sqlite").embeddings.values()) == {len(photos)}


def test_a_cache_that_fails_in_the_middle_changes_no_result(
    backbone: CountingBackbone, photos: list[Path], cache: EmbeddingCache
) -> None:
    expected = stack(run(backbone, photos))
    assert cache._connection is not None
    cache._connection.execute("DROP TABLE keys")
    with pytest.warns(PiaaWarning, match="going on without it") as caught:
        results = run(backbone, photos, cache=cache, workers=4, batch_size=1)
    assert len(caught) == 1
    np.testing.assert_array_equal(stack(results), expected)


def test_input_is_read_no_further_than_the_window(bundle: ModelBundle, photos: list[Path]) -> None:
    """A million paths from a pipe must not pile up because nobody takes the results."""
    read = 0

    def endless() -> Iterator[Path]:
        nonlocal read
        while True:
            read += 1
            yield photos[read % 12]

    results = embed_images(CountingBackbone(bundle), bundle.preprocessing, endless(), workers=2)
    assert read == 0
    for taken in range(1, 2000):
        next(results)
        assert read <= taken + 512
    results.close()
    assert workers_alive() == 0


def test_pictures_in_memory_are_let_go(bundle: ModelBundle) -> None:
    """Memory is flat: of 3000 arrays never more than a window is alive."""
    references: list[weakref.ref[PixelArray]] = []
    most = 0

    def arrays() -> Iterator[PixelArray]:
        for number in range(3000):
            array = np.full((8, 8, 3), number % 256, dtype=np.uint8)
            references.append(weakref.ref(array))
            yield array

    for taken, _ in enumerate(
        embed_images(CountingBackbone(bundle), bundle.preprocessing, arrays(), workers=2)
    ):
        if taken % 100 == 0:
            most = max(most, sum(reference() is not None for reference in references))
    assert len(references) == 3000
    assert 0 < most <= 520


def test_large_pictures_in_memory_count_by_their_bytes(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of 512 pictures of 16 MB would be 8 GB. Here a megabyte has 1000 bytes."""
    monkeypatch.setattr("piaa_sdk.pipeline._MEGABYTE", 1000)
    references: list[weakref.ref[PixelArray]] = []
    most = 0

    def arrays() -> Iterator[PixelArray]:
        for number in range(200):
            array = np.full((80, 67, 3), number, dtype=np.uint8)  # 16 "megabytes"
            references.append(weakref.ref(array))
            yield array

    for _ in embed_images(CountingBackbone(bundle), bundle.preprocessing, arrays(), workers=2):
        most = max(most, sum(reference() is not None for reference in references))
    assert len(references) == 200
    assert 8 <= most <= 18


def test_first_result_comes_before_a_slow_input_ends(bundle: ModelBundle, photos: list[Path]) -> None:
    """Somebody types paths, or copies photos in: every result comes before the next but one is given."""
    taken = 0
    lags = []

    def slow() -> Iterator[Path]:
        for given, photo in enumerate(photos[:4]):
            lags.append(given - taken)
            yield photo
            time.sleep(0.5)

    for result in embed_images(CountingBackbone(bundle), bundle.preprocessing, slow()):
        taken += 1
        assert result.error is None
    assert taken == 4
    assert max(lags) <= 1


def test_an_error_of_the_input_comes_after_the_results_before_it(
    backbone: CountingBackbone, photos: list[Path]
) -> None:
    def failing() -> Iterator[Path]:
        yield from photos[:7]
        raise KeyError("the caller's own")

    results: list[EmbeddedImage] = []
    with pytest.raises(KeyError, match="the caller's own"):
        results.extend(embed_images(backbone, backbone.bundle.preprocessing, failing()))
    assert len(stack(results)) == 7
    assert workers_alive() == 0


def test_an_interruption_of_the_input_is_raised_at_once(bundle: ModelBundle, photos: list[Path]) -> None:
    def interrupted() -> Iterator[Path]:
        yield from photos
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(CountingBackbone(bundle, seconds=0.5), interrupted(), workers=2, batch_size=1)
    assert time.monotonic() - begin < 3
    assert workers_alive() == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_a_bug_in_a_worker_is_raised_and_nothing_hangs(
    bundle: ModelBundle, photos: list[Path], workers: int
) -> None:
    backbone = CountingBackbone(bundle, fails_at=6)
    results: list[EmbeddedImage] = []
    with pytest.raises(ZeroDivisionError, match="a bug"):
        results.extend(embed_images(backbone, bundle.preprocessing, photos, workers=workers, batch_size=2))
    assert len(results) <= 6
    assert workers_alive() == 0


def test_a_bug_met_by_the_first_of_many_duplicates_reaches_all(
    bundle: ModelBundle, photos: list[Path]
) -> None:
    backbone = CountingBackbone(bundle, fails_at=0)
    copies = [photos[0].read_bytes()] * 30
    with pytest.raises(ZeroDivisionError):
        run(backbone, copies, workers=4, batch_size=1)
    assert workers_alive() == 0


def test_closing_early_stops_the_workers(bundle: ModelBundle, photos: list[Path]) -> None:
    backbone = CountingBackbone(bundle, seconds=0.05)
    results = embed_images(
        backbone,
        bundle.preprocessing,
        [photo.read_bytes() + b"%d" % n for n in range(20) for photo in photos],
        workers=2,
    )
    next(results)
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 2  # 240 pictures would take 6 seconds
    assert workers_alive() == 0
    assert backbone.count < 100


def test_warnings_as_errors_do_not_hang(
    backbone: CountingBackbone, photos: list[Path], cache: EmbeddingCache
) -> None:
    assert cache._connection is not None
    cache._connection.execute("DROP TABLE keys")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PiaaWarning):
            run(backbone, [photo.read_bytes() for photo in photos], cache=cache, workers=3, batch_size=1)
    assert workers_alive() == 0


SCRIPT = """
import sys, time
from pathlib import Path
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.pipeline import embed_images

class Slow(Backbone):
    def embed(self, pixels):
        time.sleep(0.05 * len(pixels))
        return super().embed(pixels)

bundle = ModelBundle.load(Path(sys.argv[1]))
photo = Path(sys.argv[2]).read_bytes()
images = (photo + b"%d" % number for number in range(400))
results = embed_images(Slow(bundle, "cpu"), bundle.preprocessing, images, workers=2)
next(results)
print("first", flush=True)
if sys.argv[3] == "interrupt":
    for _ in results:
        pass
"""


def start_script(bundle: ModelBundle, photo: Path, what: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(bundle.folder), str(photo), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to one process here")
def test_ctrl_c_ends_a_run_promptly(bundle: ModelBundle, photos: list[Path]) -> None:
    process = start_script(bundle, photos[0], "interrupt")
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, problems = process.communicate(timeout=30)
    assert time.monotonic() - begin < 3  # the run would take 10 seconds
    assert problems.strip().endswith("KeyboardInterrupt")
    assert problems.count("Traceback") == 1


def test_a_program_that_ends_in_the_middle_of_a_run_ends(bundle: ModelBundle, photos: list[Path]) -> None:
    """The generator is not closed: at its end Python waits for threads, which must not work off the queue."""
    process = start_script(bundle, photos[0], "leave")
    begin = time.monotonic()
    _, problems = process.communicate(timeout=30)
    assert time.monotonic() - begin < 4  # the queue would take 10 seconds
    assert (process.returncode, problems) == (0, "")


def test_files_in_memory_at_once_are_bounded(bundle: ModelBundle, tmp_path: Path) -> None:
    """Eight workers with RAW files of 60 MB each: two at once, not eight."""
    from piaa_sdk.pipeline import _Budget

    budget = _Budget(128 << 20)
    held = 0
    most = 0
    lock = threading.Lock()

    def read(size: int) -> None:
        nonlocal held, most
        with budget.hold(size):
            with lock:
                held += size
                most = max(most, held)
            time.sleep(0.01)
            with lock:
                held -= size

    threads = [threading.Thread(target=read, args=(60 << 20,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 120 << 20
    read(500 << 20)  # larger than the budget: alone
    assert most == 500 << 20


def test_cached_folders_are_fast(
    bundle: ModelBundle, tmp_path: Path, make_photo: Callable[..., Path]
) -> None:
    """At least 5,000 photos a second; the best of three, because the machine may be busy."""
    folder = tmp_path / "many"
    folder.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    photos = [folder / f"{number}.png" for number in range(1500)]
    for number, photo in enumerate(photos):
        photo.write_bytes(buffer.getvalue() + b"%d" % number)
    backbone = CountingBackbone(bundle)
    with EmbeddingCache(tmp_path / "embeddings.sqlite", bundle.embedding_id, 16) as cache:
        run(backbone, photos, cache=cache)
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            assert all(result.from_cache for result in run(backbone, photos, cache=cache))
            seconds.append(time.perf_counter() - begin)
    assert backbone.count == 1500
    assert 1500 / min(seconds) > 5000
