"""A folder appears complete or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from piaa_sdk.errors import OutputError
from training.folder_writing import new_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with new_folder(target) as fresh:
        (fresh / "file").write_text("one")
        assert not target.exists()
    assert (target / "file").read_text() == "one"
    assert list(target.parent.iterdir()) == [target]


def test_a_replaced_folder_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with new_folder(target) as fresh:
        (fresh / "old").touch()
    with new_folder(target, replace=True) as fresh:
        (fresh / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with new_folder(target) as fresh:
        (fresh / "old").touch()

    def fail_halfway() -> None:
        with new_folder(target, replace=True) as fresh:
            (fresh / "new").touch()
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail_halfway()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    with pytest.raises(OutputError, match="is a file"), new_folder(tmp_path / "target", replace=True):
        pass
    assert (tmp_path / "target").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), new_folder(tmp_path / "file" / "target"):
        pass
