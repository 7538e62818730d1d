"""Many pictures to embeddings: workers that each read, decode and infer their own batches.

What is known already is answered in the caller's thread, hundreds of photos at a time. Everything else waits
in one queue, what is elsewhere as soon as it has been fetched ahead; each worker takes a batch from it,
decodes it and calls the network, so that decoding and inference share the cores without being balanced.
Results come out in the order of the input, and no more is read from the input than a window ahead of the
results that have been taken.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from PIL import Image

from piaa_sdk.backbone import LARGE_BATCH
from piaa_sdk.devices import cpu_count
from piaa_sdk.embedding_cache import CacheEntry, FileStamp, content_key
from piaa_sdk.errors import DeviceError, ImageError
from piaa_sdk.images import (
    RemotePicture,
    decode,
    display_name,
    is_remote,
    load_image,
    printable,
    read_bytes,
)
from piaa_sdk.read_ahead import NO_THREAD, Fetch, ReadAhead, stamp_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from piaa_sdk.array_types import FloatArray, ImageInput, PixelArray
    from piaa_sdk.backbone import Backbone
    from piaa_sdk.bundle import Preprocessing
    from piaa_sdk.embedding_cache import EmbeddingCache

_MEGABYTE = 1 << 20
_WINDOW = 512  # results that may wait for an earlier one, or to be taken
_LOOK_UP = 256  # photos looked up in the cache at once
_SLICE_SECONDS = 0.02  # how long the input is read before what it gave is worked on
_SLOW_SECONDS = 0.25  # an input that takes longer is not asked again before its results are out
_POLL_SECONDS = 0.2  # Windows delivers Ctrl-C only between waits
_NO_MEMORY = "not enough memory to score it"
_REMEMBERED = 8192  # outcomes kept for duplicates, 2 KB each

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedImage:
    """One picture of a run.

    Attributes:
        index: Its position in the input, from 0.
        source: Its path as given, or a name such as ``image 3``.
        embedding: (D,) float32, rounded to float16; None if it cannot be read.
        error: Why it cannot be read.
        from_cache: Whether the embedding was known already, from the cache or from a duplicate.
    """

    index: int
    source: str
    embedding: FloatArray | None
    error: ImageError | None
    from_cache: bool


def embed_groups(
    backbone: Backbone,
    preprocessing: Preprocessing,
    images: Iterable[ImageInput | ImageError],
    *,
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    previews: bool = False,
) -> Generator[list[EmbeddedImage], None, None]:
    """Embed pictures in several threads; the same embeddings to the last bit whatever the settings.

    The input is read in the caller's thread, while results are taken: a result that is ready waits while the
    input makes up its mind. A path that was met before, and a file with the content of one met before, is
    embedded once. Pictures that are given as Pillow images or arrays are not cached.

    Args:
        backbone: Turns pixels into embeddings.
        preprocessing: How a picture becomes pixels.
        images: Pictures; an ImageError among them is passed on in its place.
        cache: Where embeddings are looked up and stored; None to do without.
        workers: Threads; by default as many as there are cores.
        batch_size: Pictures that a worker decodes before it calls the network; by default as many as the
            network's device likes.
        previews: As of :func:`piaa_sdk.images.decode`; the cache must hold nothing that was decoded with the
            other choice.

    Returns:
        A generator of one EmbeddedImage per input, in its order, as many at a time as are ready: a list is
        never empty, and never waits for the next picture. Closing it, or an exception such as Ctrl-C
        in the thread that takes the results, stops the workers after the picture each is at. An exception
        of the input is raised after the results of what it gave before.

    Raises:
        ValueError: ``workers`` or ``batch_size`` is below 1.
        DeviceError: The device failed (raised where the result is taken, as below).
        ModelFormatError: The graph failed.
    """
    workers = cpu_count() if workers is None else workers
    for name, value in (("workers", workers), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, must be at least 1")
    crew = _Crew(backbone, preprocessing, cache, workers, batch_size, previews=previews)
    return _Run(crew, cache).groups(images)


def embed_images(
    backbone: Backbone,
    preprocessing: Preprocessing,
    images: Iterable[ImageInput | ImageError],
    **settings: Any,
) -> Generator[EmbeddedImage, None, None]:
    """Embed pictures as :func:`embed_groups` does, and give them out one by one."""
    return _one_by_one(embed_groups(backbone, preprocessing, images, **settings))


def _one_by_one(groups: Generator[list[EmbeddedImage], None, None]) -> Generator[EmbeddedImage, None, None]:
    with closing(groups):
        for group in groups:
            yield from group


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    """What became of one picture: ``embedding``, (D,) float16, or the ``reason`` why there is none."""

    embedding: FloatArray | None = None
    reason: str | None = None
    from_cache: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    """One picture for the workers; ``fetch`` holds the bytes of one that was elsewhere."""

    image: ImageInput
    source: str
    stamp: FileStamp | None
    future: Future[_Outcome]
    fetch: Fetch | None = None


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one picture in the order of the results.

    ``image`` is set where the picture is given in memory: it stays alive, and counts, until its turn.
    """

    index: int
    source: str
    future: Future[_Outcome] | None = None
    error: ImageError | None = None
    embedding: FloatArray | None = None
    is_duplicate: bool = False
    image: ImageInput | None = None

    @property
    def is_done(self) -> bool:
        return self.future is None or self.future.done()

    @property
    def has_failed(self) -> bool:
        """Whether it is done and its result is an exception."""
        return self.future is not None and self.future.exception() is not None

    def result(self) -> EmbeddedImage:
        if self.future is None:
            return EmbeddedImage(
                self.index, self.source, self.embedding, self.error, self.embedding is not None
            )
        outcome = self.future.result()
        if outcome.embedding is None:
            error = ImageError(printable(self.source), outcome.reason or "cannot be read")
            return EmbeddedImage(self.index, self.source, None, error, from_cache=False)
        known = outcome.from_cache or self.is_duplicate
        return EmbeddedImage(self.index, self.source, outcome.embedding.astype(np.float32), None, known)


class _Recent(Generic[_Key]):
    """The outcomes, finished or to come, of the last few thousand different pictures."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._futures: OrderedDict[_Key, Future[_Outcome]] = OrderedDict()

    def claim(self, key: _Key, future: Future[_Outcome]) -> Future[_Outcome]:
        """Return the outcome of whoever came first, which is ``future`` if nobody did."""
        with self._lock:
            first = self._futures.setdefault(key, future)
            if len(self._futures) > self._limit:
                self._futures.popitem(last=False)
            return first


class _Budget:
    """Bounds the bytes of files that are in memory at once; a larger file is read when it is alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._is_open = False
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_open or not self._held or self._held + amount <= self._limit
            )
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()

    def lift(self) -> None:
        """Let everybody pass."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()


class _Crew:
    """The workers. Each task takes one batch and then hands over to a new task, for as long as there is work.

    That way nothing waits for work that never comes, and a program that ends without closing the generator
    does not first work off the queue.
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing,
        cache: EmbeddingCache | None,
        workers: int,
        batch_size: int | None,
        *,
        previews: bool,
    ) -> None:
        # Which device it will be is not asked before there is something to compute: that may start a driver.
        self.window = max(_WINDOW, 4 * workers * (batch_size or LARGE_BATCH))
        self.memory_limit = max(256, 32 * workers) * _MEGABYTE
        self._backbone = backbone
        self._preprocessing = preprocessing
        self._cache = cache
        self._workers = workers
        self._batch_size = batch_size
        self._previews = previews
        self._budget = _Budget(max(128, 16 * workers) * _MEGABYTE)
        find = cache.find_stamp if cache is not None else None
        self._read_ahead = ReadAhead(find, max(64, 16 * workers) * _MEGABYTE)
        self._contents: _Recent[bytes] = _Recent(max(_REMEMBERED, 2 * self.window))
        self._lock = threading.Lock()
        self._pending: deque[_Job] = deque()
        self._tasks = 0
        self._is_stopped = False
        self._executor: ThreadPoolExecutor | None = None

    def add(self, jobs: list[_Job]) -> None:
        remote = [job for job in jobs if is_remote(job.image)]
        try:
            self._read_ahead.add(
                [Fetch(_remote_picture(job.image), partial(self._arrived, job)) for job in remote]
            )
        except DeviceError as error:
            for job in remote:
                _fail(job.future, error)  # raised where the result is taken
        self._enqueue([job for job in jobs if not is_remote(job.image)])

    def _arrived(self, job: _Job, fetch: Fetch) -> None:
        job.stamp = fetch.stamp
        if isinstance(fetch.error, ImageError):
            _settle(job.future, _Outcome(reason=fetch.error.reason))
        elif fetch.error is not None:
            _fail(job.future, fetch.error)
        elif fetch.embedding is not None:
            _settle(job.future, _Outcome(fetch.embedding.astype(np.float16), from_cache=True))
        else:
            job.fetch = fetch
            try:
                self._enqueue([job])
            except DeviceError as error:
                _fail(job.future, error)  # raised where the result is taken

    def _enqueue(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        with self._lock:
            if self._is_stopped:
                return
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="piaa-worker")
            self._pending.extend(jobs)
            for _ in range(min(self._workers - self._tasks, len(self._pending))):
                try:
                    self._executor.submit(self._work)
                except RuntimeError as error:
                    is_ending = NO_THREAD not in str(error)  # and a photo has just arrived
                    if self._tasks or is_ending:  # those that could be started go on alone
                        break
                    raise DeviceError(
                        f"cpu: no thread could be started ({error}): there is not enough memory; close other "
                        "programs, or try fewer workers"
                    ) from error
                self._tasks += 1

    def stop(self) -> None:
        """Stop after the picture that each worker is at."""
        self._is_stopped = True
        self._budget.lift()
        self._read_ahead.stop()
        with self._lock:
            self._pending.clear()
            executor = self._executor
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def _work(self) -> None:
        batch = self._take()
        try:
            self._process(batch)
        except BaseException as error:
            for job in batch:
                _fail(job.future, error)  # raised where the result is taken
            raise
        finally:
            self._hand_over()

    def _take(self) -> list[_Job]:
        with self._lock:
            # The last pictures are shared out, so that no worker sits idle while another has a full batch.
            share = math.ceil(len(self._pending) / self._workers)
            most = self._batch_size or self._backbone.batch_size  # known for sure once the device is open
            return [self._pending.popleft() for _ in range(min(most, share))]

    def _hand_over(self) -> None:
        with self._lock:
            self._tasks -= 1
            if self._pending and not self._is_stopped and self._executor is not None:
                with suppress(RuntimeError):  # the interpreter is ending
                    self._executor.submit(self._work)
                    self._tasks += 1

    def _process(self, batch: list[_Job]) -> None:
        """Decode a batch, embed it in one call, store it."""
        fresh: list[tuple[_Job, bytes | None]] = []
        pixels: list[PixelArray] = []
        seen: list[tuple[FileStamp, bytes]] = []
        for job in batch:
            if self._is_stopped:
                return
            try:
                self._prepare(job, fresh, pixels, seen)
            except ImageError as error:
                _settle(job.future, _Outcome(reason=error.reason))
            except MemoryError:
                _settle(job.future, _Outcome(reason=_NO_MEMORY))
            finally:
                if job.fetch is not None:
                    job.fetch.release()
        fresh, embeddings = self._embedded(fresh, pixels)
        if self._cache is not None:
            entries = [
                CacheEntry(key, embedding, job.stamp)
                for (job, key), embedding in zip(fresh, embeddings, strict=True)
                if key is not None
            ]
            self._cache.store(entries)
            self._cache.remember_stamps(seen)
        for (job, _), embedding in zip(fresh, embeddings, strict=True):
            _settle(job.future, _Outcome(embedding.astype(np.float16)))

    def _embedded(
        self, fresh: list[tuple[_Job, bytes | None]], pixels: list[PixelArray]
    ) -> tuple[list[tuple[_Job, bytes | None]], Sequence[FloatArray]]:
        """Embed what was decoded; leave out what there is not enough memory for, and settle it."""
        if not pixels:
            return fresh, ()
        with suppress(MemoryError):
            return fresh, list(self._backbone.embed(np.stack(pixels)))
        done: list[tuple[_Job, bytes | None]] = []
        embeddings: list[FloatArray] = []
        for one, its_pixels in zip(fresh, pixels, strict=True):
            try:
                embeddings.extend(self._backbone.embed(its_pixels[np.newaxis]))
            except MemoryError:
                _settle(one[0].future, _Outcome(reason=_NO_MEMORY))
            else:
                done.append(one)
        return done, embeddings

    def _prepare(
        self,
        job: _Job,
        fresh: list[tuple[_Job, bytes | None]],
        pixels: list[PixelArray],
        seen: list[tuple[FileStamp, bytes]],
    ) -> None:
        """Decode one picture, unless its content turns out to be known.

        Raises:
            ImageError: It cannot be read.
        """
        if not isinstance(job.image, (str, os.PathLike, bytes)):
            pixels.append(load_image(job.image, self._preprocessing, job.source))
            fresh.append((job, None))
            return
        with self._budget.hold(job.stamp.size if job.stamp is not None and job.fetch is None else 0):
            data = self._read(job)
            key = content_key(data)
            first = self._contents.claim(key, job.future)
            if first is not job.future:
                first.add_done_callback(lambda done: self._repeat(done, job, key))
                return
            known = self._cache.find_content(key) if self._cache is not None else None
            if known is None:
                pixels.append(decode(data, self._preprocessing, job.source, previews=self._previews))
                fresh.append((job, key))
                return
        _settle(job.future, _Outcome(known.astype(np.float16), from_cache=True))
        if job.stamp is not None:
            seen.append((job.stamp, key))

    def _read(self, job: _Job) -> bytes:
        """Read the file; forget its stamp if it has changed since it was stamped."""
        if isinstance(job.image, bytes):
            return job.image
        if job.fetch is not None:
            assert job.fetch.data is not None
            return job.fetch.data
        assert isinstance(job.image, (str, os.PathLike))
        data = read_bytes(job.image)
        if job.stamp is not None and (len(data) != job.stamp.size or FileStamp.of(job.image) != job.stamp):
            job.stamp = None
        return data

    def _repeat(self, done: Future[_Outcome], job: _Job, key: bytes) -> None:
        """Give a picture the outcome of another with the same content."""
        error = done.exception()
        if error is not None:
            _fail(job.future, error)
            return
        outcome = done.result()
        _settle(job.future, _Outcome(outcome.embedding, outcome.reason, from_cache=True))
        if self._cache is not None and job.stamp is not None and outcome.embedding is not None:
            self._cache.remember_stamp(job.stamp, key)


class _Run:
    """One pass over an input: what was read and not yet taken, in order."""

    def __init__(self, crew: _Crew, cache: EmbeddingCache | None) -> None:
        self._crew = crew
        self._cache = cache
        self._slots: deque[_Slot] = deque()
        self._count = 0
        self._held = 0
        self._is_exhausted = False
        self._pull_seconds = 0.0
        self._reach = 1
        self._stamps: _Recent[FileStamp] = _Recent(max(_REMEMBERED, 2 * crew.window))
        self._objects: dict[int, Future[_Outcome]] = {}

    def groups(self, images: Iterable[ImageInput | ImageError]) -> Generator[list[EmbeddedImage], None, None]:
        try:
            iterator = iter(images)
            while self._slots or not self._is_exhausted:
                if group := self._finished():
                    yield group
                if self._has_room:
                    try:
                        self._pull(iterator)
                    except Exception:
                        yield from self._drained(math.inf)
                        raise
                    if self._pull_seconds > _SLOW_SECONDS:
                        yield from self._drained(self._pull_seconds)
                else:
                    self._wait()
        finally:
            self._crew.stop()

    @property
    def _has_room(self) -> bool:
        # Half empty before it is filled again: photos are then looked up many at a time.
        is_half_empty = (
            2 * len(self._slots) <= self._crew.window and 2 * self._held <= self._crew.memory_limit
        )
        return is_half_empty and not self._is_exhausted

    def _finished(self) -> list[EmbeddedImage]:
        """Take what is ready, in order; a failure is raised when it is the first."""
        group: list[EmbeddedImage] = []
        while self._slots and self._slots[0].is_done and len(group) < _LOOK_UP:
            if group and self._slots[0].has_failed:
                break
            slot = self._slots.popleft()
            if slot.image is not None:
                self._held -= _bytes_in_memory(slot.image)
                self._objects.pop(id(slot.image), None)
            group.append(slot.result())
        return group

    def _drained(self, seconds: float) -> Iterator[list[EmbeddedImage]]:
        """Yield what is on its way, as far as it arrives in time."""
        deadline = time.monotonic() + seconds
        while self._slots and time.monotonic() < deadline:
            self._wait(deadline - time.monotonic())
            if group := self._finished():
                yield group

    def _wait(self, seconds: float = math.inf) -> None:
        """Wait for the next result in order."""
        future = self._slots[0].future if self._slots else None
        deadline = time.monotonic() + seconds
        while future is not None and not future.done() and (left := deadline - time.monotonic()) > 0:
            wait((future,), timeout=min(left, _POLL_SECONDS))

    def _pull(self, iterator: Iterator[ImageInput | ImageError]) -> None:
        """Read some of the input and find out what of it is known."""
        pulled: list[ImageInput | ImageError] = []
        begin = time.monotonic()
        held = self._held
        try:
            while len(pulled) < self._reach and held <= self._crew.memory_limit:
                try:
                    pulled.append(next(iterator))
                except StopIteration:
                    self._is_exhausted = True
                    break
                held += _bytes_in_memory(pulled[-1])
                if time.monotonic() - begin > _SLICE_SECONDS:
                    break
        finally:
            self._pull_seconds = time.monotonic() - begin
            # One picture at first, so that it is on its way while the next is waited for; then more and more.
            is_quick = self._pull_seconds <= _SLICE_SECONDS
            self._reach = min(_LOOK_UP, 2 * self._reach) if is_quick else max(1, len(pulled))
            self._add(pulled)

    def _add(self, pulled: list[ImageInput | ImageError]) -> None:
        jobs: list[_Job] = []
        slots = [self._slot(image) for image in pulled]
        stamps = [_stamp(image) for image in pulled]
        known = self._look_up([stamp for stamp in stamps if stamp is not None])
        for slot, image, stamp in zip(slots, pulled, stamps, strict=True):
            if stamp is not None:
                slot.embedding = known.get(stamp)
            if slot.error is None and slot.embedding is None:
                assert not isinstance(image, ImageError)
                jobs.extend(self._jobs(slot, image, stamp))
        self._slots.extend(slots)
        self._crew.add(jobs)

    def _slot(self, image: ImageInput | ImageError) -> _Slot:
        index = self._count
        self._count += 1
        if isinstance(image, ImageError):
            return _Slot(index, image.source, error=image)
        slot = _Slot(index, display_name(image, index))
        if not isinstance(image, (str, os.PathLike)):
            slot.image = image
            self._held += _bytes_in_memory(image)
        return slot

    def _look_up(self, stamps: list[FileStamp]) -> dict[FileStamp, FloatArray]:
        if self._cache is None:
            return {}
        found = zip(stamps, self._cache.find_stamps(stamps), strict=True)
        return {stamp: embedding for stamp, embedding in found if embedding is not None}

    def _jobs(self, slot: _Slot, image: ImageInput, stamp: FileStamp | None) -> list[_Job]:
        """Make the job for a picture; none if it is a duplicate of one that has been met."""
        future: Future[_Outcome] = Future()
        first = future
        if stamp is not None:
            first = self._stamps.claim(stamp, future)
        elif slot.image is not None:
            first = self._objects.setdefault(id(image), future)
        elif is_remote(image):  # the same address is fetched once
            first = self._stamps.claim(FileStamp.of_remote(os.fsdecode(image), -1, ""), future)
        slot.future = first
        slot.is_duplicate = first is not future
        return [] if slot.is_duplicate else [_Job(image, slot.source, stamp, future)]


def _stamp(image: ImageInput | ImageError) -> FileStamp | None:
    if is_remote(image):
        return stamp_of(_remote_picture(image))
    return FileStamp.of(image) if isinstance(image, (str, os.PathLike)) else None


def _remote_picture(image: ImageInput) -> RemotePicture:
    return image if isinstance(image, RemotePicture) else RemotePicture(os.fsdecode(image))  # type: ignore[arg-type]


def _settle(future: Future[_Outcome], outcome: _Outcome) -> None:
    with suppress(InvalidStateError):  # its batch has failed meanwhile
        future.set_result(outcome)


def _fail(future: Future[_Outcome], error: BaseException) -> None:
    with suppress(InvalidStateError):  # it was ready before the rest of its batch failed
        future.set_exception(error)


def _bytes_in_memory(image: ImageInput | ImageError) -> int:
    """Estimate what a picture that is not a path takes."""
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, np.ndarray):
        return image.nbytes
    if isinstance(image, Image.Image):
        return image.width * image.height * len(image.getbands())
    return 0
