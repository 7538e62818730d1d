"""Attributes of a table's pictures: kept by content, and from the source that was asked for."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from piaa_sdk.errors import PiaaWarning
from training.attributes.hand_computed import ATTRIBUTE_NAMES, measure_attributes
from training.attributes.source import AttributeSource
from training.data.ratings import digest_of_file, read_rating_table
from training.views import full_pixels

if TYPE_CHECKING:
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from training.data.ratings import RatingTable


@pytest.fixture(scope="module")
def table(table_folder: Path) -> RatingTable:
    return read_rating_table(table_folder, ["a"])


def _measure(paths: list[Path], **options: Any) -> FloatArray:
    return AttributeSource().measure(paths, [digest_of_file(path) for path in paths], **options)


def test_every_picture_has_its_row(table: RatingTable) -> None:
    source = AttributeSource()
    found = source.collect(table)
    assert (found.shape, found.dtype) == ((40, 20), np.float32)
    assert source.name == "hand-computed"
    for place in (0, 17, 39):
        expected = measure_attributes(full_pixels(table.paths()[place]))
        np.testing.assert_array_equal(found[place], expected.astype(np.float32))


def test_what_was_measured_is_not_measured_again(table: RatingTable, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = AttributeSource().collect(table, tmp_path, lambda done, todo: seen.append((done, todo)))
    assert seen[-1] == (40, 40)
    seen.clear()
    again = AttributeSource().collect(table, tmp_path, lambda done, todo: seen.append((done, todo)))
    assert seen == []
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, AttributeSource().collect(table))


def test_a_picture_is_known_by_its_content(table: RatingTable, tmp_path: Path) -> None:
    """Under another name it is found; another picture under its name is not taken for it."""
    paths = table.paths()[:2]
    first = _measure(paths, cache=tmp_path / "cache")
    swapped = [tmp_path / path.name for path in paths]
    shutil.copy(paths[0], swapped[1])
    shutil.copy(paths[1], swapped[0])
    measured: list[int] = []
    again = _measure(swapped, cache=tmp_path / "cache", progress=lambda done, _: measured.append(done))
    np.testing.assert_array_equal(again, first[::-1])
    assert measured == []


def test_a_damaged_file_of_rows_is_measured_again(table: RatingTable, tmp_path: Path) -> None:
    paths = table.paths()[:3]
    first = _measure(paths, cache=tmp_path)
    for shard in tmp_path.rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.warns(PiaaWarning, match="is damaged"):
        again = _measure(paths, cache=tmp_path)
    np.testing.assert_array_equal(again, first)


def test_brightness_is_found_in_the_pictures_of_a_table(table: RatingTable) -> None:
    """The generated pictures differ in brightness, and people of this table like it on average."""
    found = AttributeSource().collect(table)[:, ATTRIBUTE_NAMES.index("brightness")]
    light = [float(full_pixels(path).mean()) for path in table.paths()]
    assert np.corrcoef(found, light)[0, 1] > 0.98
