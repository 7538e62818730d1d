"""A folder appears complete or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from piaa_sdk.errors import ModelNotFoundError, OutputError
from training.folder_writing import make_folder, new_folder


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(OutputError, match=r"cannot be written to: .*; name another folder"):
            make_folder(wrong)


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


@pytest.mark.parametrize("stopped", ["before the first step", "between the two steps", "in the second step"])
def test_ctrl_c_while_folders_change_places_leaves_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    target = tmp_path / "target"
    with new_folder(target) as fresh:
        (fresh / "old").touch()
    rename, calls = Path.rename, []

    def rename_and_stop(path: Path, to: Path) -> Path:
        calls.append(path.name)
        if len(calls) == {"before the first step": 1, "in the second step": 2}.get(stopped):
            raise KeyboardInterrupt
        moved = rename(path, to)
        if len(calls) == 1 and stopped == "between the two steps":
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", rename_and_stop)

    def replace() -> None:
        with new_folder(target, replace=True) as fresh:
            (fresh / "new").touch()

    with pytest.raises(KeyboardInterrupt):
        replace()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_folder_that_cannot_be_put_back_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with new_folder(target) as fresh:
        (fresh / "old").touch()
    rename = Path.rename

    def rename_once(path: Path, to: Path) -> Path:
        if path != target:
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", rename_once)

    def replace() -> None:
        with new_folder(target, replace=True) as fresh:
            (fresh / "new").touch()

    with pytest.raises(OutputError, match=r"cannot be put back: Permission denied; it is in .*old"):
        replace()
    assert [path.parent.name for path in tmp_path.rglob("old/old")] == ["old"]


def test_a_full_disk_in_the_body_is_our_error_with_its_reason(tmp_path: Path) -> None:
    """A limit on the size of files fails writes the way a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        with new_folder(tmp_path / "target") as fresh:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            try:
                (fresh / "file").write_bytes(bytes(10_000))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.raises(OutputError, match=r"target cannot be written: File too large$"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_file_from_elsewhere_that_fails_the_body_is_named(tmp_path: Path) -> None:
    def copy() -> None:
        with new_folder(tmp_path / "target") as fresh:
            (fresh / "file").write_bytes((tmp_path / "source").read_bytes())

    with pytest.raises(OutputError, match=r"target cannot be written: .*source: No such file"):
        copy()


def test_what_is_ours_already_comes_through_as_it_is(tmp_path: Path) -> None:
    """Some of our errors are OSErrors too."""

    def fail() -> None:
        with new_folder(tmp_path / "target"):
            raise ModelNotFoundError("no such model")

    with pytest.raises(ModelNotFoundError, match=r"^no such model$"):
        fail()


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    with pytest.raises(OutputError, match="is a file"), new_folder(tmp_path / "target", replace=True):
        pass
    assert (tmp_path / "target").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), new_folder(tmp_path / "file" / "target"):
        pass
