"""Pictures decoded once and mapped from disk."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.errors import ImageError, ModelFormatError, OutputError
from piaa_sdk.images import load_image
from training.data import packed
from training.data.packed import PackedImages, pack
from training.data.ratings import digest_of_file

PREPROCESSING = Preprocessing(16, "squash", "bicubic", 2, (255, 255, 255), DECODING_RULE)


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several files of pixels of a handful of pictures."""
    monkeypatch.setattr(packed, "_SHARD_PICTURES", 4)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "pictures").mkdir()
    found = []
    for number in range(10):
        path = tmp_path / "pictures" / f"{number}.jpg"
        noise = np.random.default_rng(number).integers(0, 256, (30, 20 + number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        found.append(path)
    return found


def test_packed_pixels_are_those_that_serving_sees(paths: list[Path], tmp_path: Path) -> None:
    images = pack(paths, tmp_path / "packed", PREPROCESSING)
    expected = np.stack([load_image(path, PREPROCESSING) for path in paths])
    assert len(images) == 10
    assert np.array_equal(images.take(range(10)), expected)
    assert np.array_equal(images.take([7, 0, 7]), expected[[7, 0, 7]])
    assert images.take([]).shape == (0, 16, 16, 3)
    assert images.digests == tuple(map(digest_of_file, paths))
    assert len(images.shards) == 3
    assert all(isinstance(shard, np.memmap) for shard in images.shards), "mapped, not read"


def test_what_was_packed_is_opened_again(paths: list[Path], tmp_path: Path) -> None:
    pack(paths, tmp_path / "packed", PREPROCESSING)
    images = PackedImages.open(tmp_path / "packed")
    assert images.preprocessing == PREPROCESSING
    assert np.array_equal(
        images.take(range(10)), np.stack([load_image(path, PREPROCESSING) for path in paths])
    )


@pytest.mark.parametrize("position", [-1, 10])
def test_positions_that_do_not_exist_are_refused(paths: list[Path], tmp_path: Path, position: int) -> None:
    with pytest.raises(IndexError, match="positions must be 0 to 9"):
        pack(paths, tmp_path / "packed", PREPROCESSING).take([0, position])


def test_only_what_is_new_is_decoded(paths: list[Path], tmp_path: Path) -> None:
    """Known by path, or by content where files were moved; other lists of paths share one folder."""
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    pack(paths[:5], tmp_path / "packed", PREPROCESSING, progress=progress)
    assert calls == [(4, 5), (5, 5)]
    calls.clear()
    images = pack([*paths[::-1], paths[3]], tmp_path / "packed", PREPROCESSING, progress=progress)
    assert calls == [(4, 5), (5, 5)]
    expected = np.stack([load_image(path, PREPROCESSING) for path in [*paths[::-1], paths[3]]])
    assert np.array_equal(images.take(range(11)), expected)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "packed").glob("*.npy")}
    moved = paths[0].rename(tmp_path / "moved.jpg")
    again = pack([moved, *paths[1:]], tmp_path / "packed", PREPROCESSING)
    assert np.array_equal(again.take([0]), expected[[9]])
    assert {path.name: path.stat().st_size for path in (tmp_path / "packed").glob("*.npy")} == sizes


def test_a_picture_that_changed_is_decoded_again(paths: list[Path], tmp_path: Path) -> None:
    pack(paths, tmp_path / "packed", PREPROCESSING)
    Image.new("RGB", (20, 20), (250, 0, 0)).save(paths[2])
    images = pack(paths, tmp_path / "packed", PREPROCESSING)
    assert np.array_equal(images.take([2])[0], load_image(paths[2], PREPROCESSING))
    assert images.digests[2] == digest_of_file(paths[2])


def test_equal_pictures_share_a_row(paths: list[Path], tmp_path: Path) -> None:
    for number in (1, 9):  # in the same file of pixels and in another
        paths[number].write_bytes(paths[0].read_bytes())
    images = pack(paths, tmp_path / "packed", PREPROCESSING)
    assert images.rows.tolist()[0] == images.rows.tolist()[1] == images.rows.tolist()[9]
    assert sum(map(len, images.shards)) == 8


def test_a_bad_picture_is_named_and_the_work_before_it_is_kept(paths: list[Path], tmp_path: Path) -> None:
    good = paths[6].read_bytes()
    paths[6].write_bytes(good[:200])
    with pytest.raises(ImageError, match=r"6\.jpg"):
        pack(paths, tmp_path / "packed", PREPROCESSING)
    assert len(PackedImages.open(tmp_path / "packed")) == 4
    paths[6].write_bytes(good)
    calls: list[tuple[int, int]] = []
    images = pack(paths, tmp_path / "packed", PREPROCESSING, progress=lambda *call: calls.append(call))
    assert calls[-1] == (6, 6)
    assert np.array_equal(images.take([6])[0], load_image(paths[6], PREPROCESSING))
    paths[6].unlink()
    with pytest.raises(ImageError, match=r"6\.jpg: cannot be read: No such file"):
        pack(paths, tmp_path / "packed", PREPROCESSING)


def test_a_run_that_was_stopped_goes_on(paths: list[Path], tmp_path: Path) -> None:
    """Stopped by Ctrl-C after the first file of pixels, and between a file of pixels and its index."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(paths, tmp_path / "packed", PREPROCESSING, progress=stop)
    assert len(PackedImages.open(tmp_path / "packed")) == 4
    (tmp_path / "packed" / "pixels-00001.npy").write_bytes(b"written, but not in the index")
    calls: list[tuple[int, int]] = []
    images = pack(paths, tmp_path / "packed", PREPROCESSING, progress=lambda *call: calls.append(call))
    assert calls == [(4, 6), (6, 6)]
    assert np.array_equal(
        images.take(range(10)), np.stack([load_image(path, PREPROCESSING) for path in paths])
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_leaves_what_is_whole(paths: list[Path], tmp_path: Path) -> None:
    """The second file of pixels does not fit: our error, nothing half written, the first file stays."""
    pack(paths[:4], tmp_path / "packed", PREPROCESSING)
    process = start_packing(paths, tmp_path / "packed", largest_file=3000)
    assert "OutputError" in process.communicate(timeout=60)[0]
    assert sorted(path.name for path in (tmp_path / "packed").iterdir() if path.name != ".lock") == [
        "index.json",
        "pixels-00000.npy",
    ]
    assert len(PackedImages.open(tmp_path / "packed")) == 4


def test_folders_are_not_mixed(paths: list[Path], tmp_path: Path) -> None:
    pack(paths, tmp_path / "packed", PREPROCESSING)
    with pytest.raises(
        ModelFormatError, match=r"packed with .*'size': 16.*, not .*'size': 32.*; name another"
    ):
        pack(paths, tmp_path / "packed", replace(PREPROCESSING, size=32))


@pytest.mark.parametrize("harm", ["shorter", "gone", "other shape", "other type", "index", "rows", "newer"])
def test_damage_is_named(paths: list[Path], tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "packed"
    pack(paths, folder, PREPROCESSING)
    pixels, index = folder / "pixels-00001.npy", folder / "index.json"
    data = json.loads(index.read_bytes())
    message = r"pixels-00001\.npy is damaged .* delete the folder and pack the pictures again"
    if harm == "shorter":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif harm == "gone":
        pixels.unlink()
    elif harm == "other shape":
        np.save(pixels, np.zeros((4, 8, 8, 3), np.uint8))
    elif harm == "other type":
        np.save(pixels, np.zeros((4, 16, 16, 3), np.float32))
    else:
        message = r"index\.json is damaged .* delete the folder and pack the pictures again"
        if harm == "index":
            index.write_bytes(index.read_bytes()[:-5])
        elif harm == "rows":
            index.write_text(json.dumps({**data, "digests": data["digests"][:-1]}))
        else:
            index.write_text(json.dumps({**data, "format_version": 2}))
            message = r"format_version is 2, this version reads 1 to 1; delete the folder"
    with pytest.raises(ModelFormatError, match=message):
        PackedImages.open(folder)
    with pytest.raises(ModelFormatError, match=message):
        pack(paths, folder, PREPROCESSING)


def test_a_folder_without_pictures_is_named(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="holds no packed pictures; pack them first"):
        PackedImages.open(tmp_path)
    with pytest.raises(OutputError, match="pictures cannot be packed"):
        pack(paths, paths[0], PREPROCESSING)
    assert len(pack([], tmp_path / "packed", PREPROCESSING)) == 0


def test_two_processes_do_not_do_the_work_twice(paths: list[Path], tmp_path: Path) -> None:
    """As with torchrun: all pack, one decodes, all get the same pixels."""
    processes = [start_packing(paths, tmp_path / "packed") for _ in range(2)]
    outputs = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert sorted(done for done, _ in outputs) == [0, 10]
    expected = np.stack([load_image(path, PREPROCESSING) for path in paths])
    assert [total for _, total in outputs] == [int(expected.sum())] * 2


SCRIPT = """
import json, sys
from pathlib import Path
from piaa_sdk.bundle import Preprocessing
from training.data.packed import pack
paths, folder, preprocessing, largest_file = json.loads(sys.argv[1])
if largest_file:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
done = [0]
images = pack(
    [Path(path) for path in paths],
    Path(folder),
    Preprocessing.from_json(preprocessing),
    progress=lambda count, _: done.append(count),
)
print(json.dumps([done[-1], int(images.take(range(len(images))).sum())]))
"""


def start_packing(paths: list[Path], folder: Path, largest_file: int = 0) -> subprocess.Popen[str]:
    arguments = json.dumps([list(map(str, paths)), str(folder), PREPROCESSING.to_json(), largest_file])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, arguments],
        cwd=Path(packed.__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if largest_file else None,
        text=True,
    )
