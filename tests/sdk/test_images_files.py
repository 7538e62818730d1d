"""Finding and reading files: nothing hangs, nothing is followed in circles, every refusal is one line."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from piaa_sdk.errors import ImageError
from piaa_sdk.images import IMAGE_SUFFIXES, PHOTO_SUFFIXES, find_images, read_bytes

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="has no such files")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def found(*paths: object, recursive: bool = True) -> list[str]:
    """Paths as text; errors as ``reason!``."""
    results = find_images(paths, recursive=recursive)  # type: ignore[arg-type]
    return [f"{item.reason}!" if isinstance(item, ImageError) else os.fspath(item) for item in results]


def names(folder: Path, *, recursive: bool = True) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in found(folder, recursive=recursive)]


def reason(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_bytes(path)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_only_pictures_are_taken_from_a_folder(tmp_path: Path) -> None:
    for name in ["b.JPG", "a.png", "notes.txt", "c.heic", "d.NEF", "jpg", ".jpg", "film.mp4", "e.tiff"]:
        touch(tmp_path / name)
    assert names(tmp_path) == ["a.png", "b.JPG", "c.heic", "d.NEF", "e.tiff"]


def test_suffixes() -> None:
    assert {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".tif",
        ".gif",
        ".bmp",
        ".avif",
    } <= IMAGE_SUFFIXES - PHOTO_SUFFIXES
    assert {".heic", ".cr2", ".nef", ".arw", ".dng"} <= PHOTO_SUFFIXES <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    path = touch(tmp_path / "scan.001")
    hidden = touch(tmp_path / ".hidden")
    assert found(path, hidden) == [str(path), str(hidden)]


def test_one_path_alone_is_not_taken_for_letters(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.jpg")
    assert list(find_images(str(path))) == [path]


def test_order_is_natural_and_the_same_everywhere(tmp_path: Path) -> None:
    for name in ["IMG_10.jpg", "img_2.jpg", "IMG_1.jpg", "a/z.jpg", "a/b/y.jpg", "B.jpg"]:
        touch(tmp_path / name)
    expected = ["B.jpg", "IMG_1.jpg", "img_2.jpg", "IMG_10.jpg", "a/z.jpg", "a/b/y.jpg"]
    assert names(tmp_path) == expected


def test_paths_keep_the_order_of_the_call(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "z" / "1.jpg"), touch(tmp_path / "a" / "2.jpg")
    assert found(first.parent, second.parent, first) == [str(first), str(second), str(first)]


def test_folders_are_left_out_on_request(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "deep" / "b.jpg")
    assert names(tmp_path, recursive=False) == ["a.jpg"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ["a.jpg", "._a.jpg", ".b.jpg", ".thumbnails/c.jpg"]:
        touch(tmp_path / name)
    assert names(tmp_path) == ["a.jpg"]


def test_missing_path_is_told_in_its_place(tmp_path: Path) -> None:
    last = touch(tmp_path / "a.jpg")
    assert found(tmp_path / "missing", last) == ["no such file or folder!", str(last)]


@pytest.mark.parametrize("path", ["", "a\0b.jpg", "x" * 5000])
def test_impossible_paths(path: str) -> None:
    [result] = found(path)
    assert result.endswith("!")
    with pytest.raises(ImageError):
        read_bytes(path)


def test_search_is_lazy(tmp_path: Path) -> None:
    """A folder is looked into when its turn comes: a huge library starts at once."""
    touch(tmp_path / "a" / "1.jpg")
    results = find_images([tmp_path / "a", tmp_path / "b"])
    assert next(results) == tmp_path / "a" / "1.jpg"
    touch(tmp_path / "b" / "2.jpg")
    assert next(results) == tmp_path / "b" / "2.jpg"


def test_raw_and_jpeg_of_one_photo_are_both_taken(tmp_path: Path) -> None:
    touch(tmp_path / "1.jpg")
    touch(tmp_path / "1.nef")
    assert names(tmp_path) == ["1.jpg", "1.nef"]


@needs_posix
@pytest.mark.parametrize(
    "name", ["two words.jpg", "line\nbreak.jpg", "🏔️ peak.jpg", "caf\udce9.jpg", "-rf.jpg", "'quoted\".jpg"]
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(path)
    assert list(find_images([tmp_path])) == [path]
    assert read_bytes(path).startswith(b"\x89PNG")
    path.write_bytes(b"")
    assert reason(path) == "the file is empty"


@needs_posix
def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """Each folder is read once, however many links lead to it."""
    touch(tmp_path / "a" / "1.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    assert names(tmp_path) == ["self.jpg", "a/1.jpg"]
    assert "symbolic links" in reason(tmp_path / "self.jpg")
    assert "symbolic links" in found(tmp_path / "self")[0]


@needs_posix
def test_linked_folder_and_file_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.jpg")
    library = tmp_path / "library"
    library.mkdir()
    (library / "album").symlink_to(tmp_path / "elsewhere")
    (library / "2.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    (library / "3.jpg").symlink_to(tmp_path / "gone.jpg")
    assert names(library) == ["2.jpg", "3.jpg", "album/1.jpg"]
    assert reason(library / "3.jpg") == "no such file or folder"


def test_folder_named_like_a_picture(tmp_path: Path) -> None:
    """It is told, and what it holds is found all the same."""
    inside = touch(tmp_path / "trip.jpg" / "1.png")
    assert found(tmp_path) == ["a folder, not a picture!", str(inside)]
    assert found(inside.parent) == ["a folder, not a picture!", str(inside)]
    assert reason(inside.parent) == "a folder, not a picture file"


@needs_posix
def test_pipe_does_not_hang(tmp_path: Path) -> None:
    """Opening a pipe without a writer blocks for ever; this thread would still be alive."""
    path = tmp_path / "x.jpg"
    os.mkfifo(path)
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(reason(path)), daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert reasons == ["a named pipe, not a picture file"]
    assert names(tmp_path) == ["x.jpg"]


@needs_posix
def test_file_exchanged_for_a_pipe_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the opening somebody may put a pipe in its place."""
    path, regular = tmp_path / "x.jpg", touch(tmp_path / "regular").stat()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda self, **_: regular)
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(reason(path)), daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert reasons == ["a named pipe, not a picture file"]


@needs_posix
def test_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket may have a hundred characters only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x.jpg")
        assert reason(Path("x.jpg")) == "a socket, not a picture file"


@needs_posix
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_device(tmp_path: Path, device: str) -> None:
    path = tmp_path / "x.jpg"
    path.symlink_to(device)
    assert reason(path) == "a device, not a picture file"


@needs_posix
def test_unreadable_file_and_folder(tmp_path: Path) -> None:
    path, folder = touch(tmp_path / "x.jpg"), tmp_path / "locked"
    folder.mkdir()
    path.chmod(0)
    folder.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # who may read everything
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
        os.seteuid(65534)
    try:
        assert reason(path) == "no permission to read it"
        assert found(folder) == ["no permission to read it!"]
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_file_that_is_no_picture_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A film of a gigabyte named x.jpg costs no more than its first bytes."""
    path = tmp_path / "x.jpg"
    with path.open("wb") as file:
        file.truncate(900_000_000)
    assert reason(path).startswith("not a picture in a known format")


def test_file_of_many_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with path.open("wb") as file:
        file.write(b"II*\0")
        file.truncate(30_000_000_000)
    assert reason(path) == "too large: a file of 30.0 GB; at most 1 GB is read"
