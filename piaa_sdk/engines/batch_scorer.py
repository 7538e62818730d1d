"""One scorer for every engine: made where the job is started, sent to the workers, opened there.

::

    scorer = BatchScorer(user="mira")                    # here: the model and the person are checked
    scorer({"path": ["a.jpg", "b.jpg"]})["personal"]     # there: opened at the first call
"""

from __future__ import annotations

import os
from collections import deque
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from piaa_sdk.bundle import EMBEDDED_FOLDER
from piaa_sdk.errors import ImageError, ModelFormatError
from piaa_sdk.images import RemotePicture, is_remote, printable, shown_url
from piaa_sdk.row_formats import FIELDS, path_field, path_from_field, to_row
from piaa_sdk.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from piaa_sdk.array_types import ImageInput, PathInput
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.row_formats import Row

Column = list[Any] | tuple[Any, ...] | np.ndarray[Any, Any]
"""One column of a batch: N values."""

_BYTES, _PATH = "bytes", "path"
_FIGURES = ("generic", "personal", "std")
_ADDED = tuple(name for name in FIELDS if name not in (_PATH, "percentile"))


class BatchScorer:
    """Scores batches of pictures in whatever process it is sent to; the scores are those of `Scorer`.

    It is small: the name of the model and what was learned of one person, that is a head and the embeddings
    of the photos it was learned from, no ratings as such and no names of photos. The model is opened by the
    first call, in the process that makes it. What is opened there must be what was named here, to the last
    byte, or nothing is scored.

    Args:
        model: As of :meth:`piaa_sdk.Scorer.from_pretrained`. A folder must be readable under the same name
            wherever the work goes; of a model on the Hub, the commit that is found here is used everywhere.
        user: Name of a person who is stored on this machine or published beside the model.
        device: ``auto``, ``cpu``, ``cuda`` or another, on the machines that do the work.
        workers: Threads in each process; None for as many as it may use cores.
        batch_size: Pictures that a thread takes at once; None for what suits the device.
        variant: A lighter backbone that the model offers.
        previews: Score a JPEG or HEIC by the preview in it, as of :meth:`piaa_sdk.Scorer.from_pretrained`.

    Raises:
        ModelNotFoundError, ModelFormatError, HubError: The model cannot be used.
        ProfileNotFoundError, ProfileMismatchError: The person cannot be scored for with it.

    Attributes:
        user: The person.
        scale: Units of the scores.
        bundle_id: Name of the bundle.
        bundle_revision: Its revision, hex.
        scorer_id: Digest of all that decides the scores, hex.
    """

    def __init__(
        self,
        model: PathInput | None = None,
        *,
        user: str | None = None,
        device: str = "auto",
        workers: int | None = None,
        batch_size: int | None = None,
        variant: str | None = None,
        previews: bool = False,
    ) -> None:
        # The device is that of the workers, which need not be here.
        scorer = Scorer.from_pretrained(
            model, user=user, device="cpu", cache=False, variant=variant, previews=previews
        )
        self._model = _reference(scorer.bundle)
        self._variant, self._previews = variant, previews
        self._person = scorer.carry()
        self._device, self._workers, self._batch_size = device, workers, batch_size
        self.user, self.scale = scorer.user, scorer.scale
        self.bundle_id, self.bundle_revision = scorer.bundle.bundle_id, scorer.bundle.bundle_revision
        self.scorer_id = scorer.scorer_id
        self._opened: Scorer | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is open where it is."""
        return self.__dict__ | {"_opened": None}

    def __repr__(self) -> str:
        whose = "generic" if self._person is None else f"user={self.user!r}"
        return f"<BatchScorer {self.bundle_id} {self.bundle_revision[:12]}, {whose}, scale {self.scale}>"

    @property
    def device(self) -> str:
        """Where the workers compute, as it was asked for."""
        return self._device

    @property
    def workers(self) -> int | None:
        """Threads in each process, as they were asked for."""
        return self._workers

    def with_workers(self, workers: int) -> Self:
        """Return the same scorer with another number of threads, not opened."""
        other = copy(self)
        other._workers, other._opened = workers, None
        return other

    def __call__(self, batch: Mapping[str, Column]) -> dict[str, Column]:
        """Score the pictures of one batch.

        Args:
            batch: Columns of N values each: ``bytes`` (whole picture files), ``path``, or both, where a path
                is read if there are no bytes. A relative path begins at the folder the worker runs in.

        Returns:
            All columns but ``bytes``, as they came, and ``user``, ``generic``, ``personal``, ``std``
            (float64, rating units, nan where there is none), ``stars`` (1 to 5 or None), ``bundle_id``,
            ``bundle_revision``, ``sdk_version`` and ``error``: why a picture could not be scored, or None.

        Raises:
            ValueError: Neither ``bytes`` nor ``path``, or columns of different lengths.
            ModelError, DeviceError: The model cannot be opened here, or is another one.
        """
        rows = list(self.rows(_pictures(batch)))
        kept = {name: column for name, column in batch.items() if name != _BYTES}
        return {**kept, **{name: _column(rows, name) for name in _ADDED}}

    def rows(self, pictures: Iterable[tuple[str | None, ImageInput | ImageError]]) -> Iterator[Row]:
        """Score pictures one after the other, in bounded memory.

        Args:
            pictures: For each the ``path`` that its row gets, None for a number, and the picture. A path is
                never taken for a folder of pictures.

        Yields:
            Rows with `piaa_sdk.row_formats.FIELDS`, in the order of the input, without percentiles.

        Raises:
            ModelError, DeviceError: The model cannot be opened here, or is another one.
        """
        names: deque[str | None] = deque()

        def images() -> Iterator[ImageInput | ImageError]:
            for name, picture in pictures:
                names.append(name)
                yield _no_folder(picture)

        for score in self._scorer().iter_scores(images()):
            row = to_row(score, self.bundle_id, self.bundle_revision)
            name = names.popleft()
            yield row if name is None else row | {_PATH: name}

    def _scorer(self) -> Scorer:
        if self._opened is None:
            opened = Scorer.from_pretrained(
                self._model,
                device=self._device,
                cache=False,
                workers=self._workers,
                batch_size=self._batch_size,
                variant=self._variant,
                previews=self._previews,
            )
            if self._person is not None:
                opened = opened.for_carried(self._person)
            if opened.scorer_id != self.scorer_id:
                raise ModelFormatError(
                    f"the model on this machine is {opened.bundle.bundle_id} "
                    f"{opened.bundle.bundle_revision[:12]}, the job was started with {self.bundle_id} "
                    f"{self.bundle_revision[:12]}; install the same piaa-sdk and put the same model on every "
                    "machine"
                )
            self._opened = opened
        return self._opened


def _reference(bundle: ModelBundle) -> str | None:
    """Name a bundle so that other machines find the same one."""
    if bundle.folder == EMBEDDED_FOLDER:
        return None
    return bundle.origin or str(bundle.folder.absolute())


def _pictures(batch: Mapping[str, Column]) -> list[tuple[str | None, ImageInput | ImageError]]:
    """Make of the columns of a batch what is scored, each picture with its path."""
    columns = {name: batch[name] for name in (_PATH, _BYTES) if name in batch}
    if not columns:
        raise ValueError(f"the batch has the columns {sorted(batch)}; it needs {_BYTES} or {_PATH}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of the batch have different lengths: {lengths}")
    nothing = [None] * max(lengths.values())
    return [
        picture_of(path, data)
        for path, data in zip(columns.get(_PATH, nothing), columns.get(_BYTES, nothing), strict=True)
    ]


def picture_of(path: object, data: object, base: str = "") -> tuple[str | None, ImageInput | ImageError]:
    """Make of one row what is scored: the path its row gets, and the picture.

    Args:
        path: As `piaa_sdk.row_formats.path_field` writes it; None or nan without one.
        data: The bytes of the file; None or nan without.
        base: Folder that a relative path begins at; empty for the one the process runs in.
    """
    name = path if isinstance(path, str) and path else None
    source = "image" if name is None else printable(path_from_field(name))
    if isinstance(data, (bytes, bytearray, memoryview)):
        return name, bytes(data)
    if not _is_missing(data):
        return name, ImageError(source, f"expected the bytes of a picture, not {type(data).__name__}")
    if name is None:
        found = "nothing" if _is_missing(path) or path == "" else type(path).__name__
        return None, ImageError(source, f"expected a path or the bytes of a picture, found {found}")
    place = path_from_field(name)
    if is_remote(place):
        return path_field(shown_url(place)), RemotePicture(place)  # as such, it is never taken for a folder
    if not base or "://" in place:
        return path_field(shown_url(place)), place
    return name, os.fspath(Path(base) / place)


def _is_missing(value: object) -> bool:
    """Tell whether a cell is empty: None, or the nan that data frames put there."""
    return value is None or (isinstance(value, float) and value != value)


def _no_folder(picture: ImageInput | ImageError) -> ImageInput | ImageError:
    if isinstance(picture, str) and os.path.isdir(picture):  # noqa: PTH112 - Path.is_dir() may raise
        return ImageError(printable(picture), "a folder, not a picture file")
    return picture


def _column(rows: Sequence[Row], name: str) -> npt.NDArray[Any]:
    """Return one column of rows: (N,) float64 for figures, else objects, None where there is nothing."""
    if name in _FIGURES:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)
    column = np.empty(len(rows), dtype=object)
    column[:] = [row[name] for row in rows]
    return column
