"""Rows of numbers, one for each picture, kept in files that only ever are added.

A row is found again by the digest of what it was measured from. Two runs that measure at once do not disturb
each other: whatever each of them adds is there for the next.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from piaa_sdk.errors import OutputError, PiaaWarning
from piaa_sdk.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray

_SHARD_PICTURES = 1024


def keep_rows(
    keys: Sequence[str],
    measure: Callable[[Sequence[int]], FloatArray],
    columns: int,
    *,
    folder: Path | None,
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> FloatArray:
    """Measure whatever the folder does not hold yet, and keep it.

    Args:
        keys: N hex digests of 64 characters; equal keys have equal rows.
        measure: Gives the rows (B, F) of some positions in ``keys``.
        columns: F.
        folder: Where rows are kept; one folder for everything that may be mixed. None keeps nothing.
        batch_size: Positions that are measured together.
        progress: Called with the rows done and all rows to do, those kept from before left out.

    Returns:
        (N, F) float32.

    Raises:
        OutputError: The folder cannot be written.
    """
    known = {} if folder is None else _read_shards(folder, columns)
    todo = list({key: position for position, key in enumerate(keys) if key not in known}.items())
    fresh: dict[str, FloatArray] = {}
    for start in range(0, len(todo), batch_size):
        batch = dict(todo[start : start + batch_size])
        fresh |= zip(batch, measure(list(batch.values())).astype(np.float32, copy=False), strict=True)
        if folder is not None and (len(fresh) >= _SHARD_PICTURES or start + batch_size >= len(todo)):
            _write_shard(folder, fresh)
            known |= fresh
            fresh = {}
        if progress is not None:
            progress(start + len(batch), len(todo))
    known |= fresh
    empty = np.empty((0, columns), dtype=np.float32)
    return np.stack([known[key] for key in keys]) if keys else empty


def _read_shards(folder: Path, columns: int) -> dict[str, FloatArray]:
    known: dict[str, FloatArray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shard = safetensors.numpy.load_file(path)
            rows, digests = shard["statistics"], shard["digests"]
            if rows.shape != (len(digests), columns) or digests.shape != (len(digests), 32):
                raise ValueError(f"shapes {rows.shape} and {digests.shape}")
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            warnings.warn(
                f"{path} is damaged ({error}); its pictures are measured again", PiaaWarning, stacklevel=3
            )
            continue
        known |= zip((bytes(digest).hex() for digest in digests), rows, strict=True)
    return known


def _write_shard(folder: Path, rows: dict[str, FloatArray]) -> None:
    digests = np.array([list(bytes.fromhex(digest)) for digest in rows], dtype=np.uint8)
    data = safetensors.numpy.save({"digests": digests, "statistics": np.stack(list(rows.values()))})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Named by content: two runs that measure the same pictures at once write the same file.
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:16]
        write_atomically(folder / f"{name}.safetensors", data)
    except OSError as error:
        raise OutputError(f"{folder}: rows cannot be kept: {error.strerror or error}") from error
