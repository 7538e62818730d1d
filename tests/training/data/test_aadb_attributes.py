"""AADB's attribute labels in the format of their release: a file per list and attribute."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from piaa_sdk.errors import RatingError
from training.data.aadb_attributes import ATTRIBUTES, label_file, read_labels, read_training_labels

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a release of two pictures in the list Train."""
    (tmp_path / "datasetImages_warp256").mkdir()
    (tmp_path / "imgListFiles_label").mkdir()
    for name in ("farm1_1_a_b.jpg", "farm1_2_b_b.jpg"):
        (tmp_path / "datasetImages_warp256" / name).touch()
    for number, attribute in enumerate(ATTRIBUTES):
        text = f"farm1_1_a_b.jpg {number / 10}\nfarm1_2_b_b.jpg -0.5\n"
        label_file(tmp_path, "Train", attribute).write_text(text)
    return tmp_path


def test_the_release_is_read(aadb_labels_folder: Path) -> None:
    """Every label is found again in the raw files by its own, slower, way."""
    labels = read_labels(aadb_labels_folder, "Train")
    assert labels.values.shape == (59, 11)
    assert labels.absent == 1
    for column, attribute in enumerate(ATTRIBUTES):
        file = aadb_labels_folder / "imgListFiles_label" / f"imgListTrainRegression_{attribute}.txt"
        raw = dict(line.split() for line in file.read_text().splitlines())
        expected = [float(raw[path.name]) for path in labels.paths]
        assert labels.values[:, column].tolist() == expected
    assert all(path.is_file() for path in labels.paths)


def test_pictures_that_are_judged_are_not_learned_from(aadb_labels_folder: Path) -> None:
    """The second training picture stands in the test list too."""
    training, held_out = read_training_labels(aadb_labels_folder)
    assert (training.name, len(training.paths)) == ("Train", 58)
    assert (held_out.name, len(held_out.paths)) == ("TestNew", 21)
    assert not {path.name for path in training.paths} & {path.name for path in held_out.paths}


def test_lines_may_be_in_any_order(folder: Path) -> None:
    """Labels are joined by the names of the pictures, not by their place."""
    file = label_file(folder, "Train", "Light")
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    labels = read_labels(folder, "Train")
    assert [path.name for path in labels.paths] == ["farm1_1_a_b.jpg", "farm1_2_b_b.jpg"]
    assert labels.values.tolist() == [[number / 10 for number in range(11)], [-0.5] * 11]


def test_label_files_may_lie_in_the_folder_itself(folder: Path) -> None:
    expected = read_labels(folder, "Train").values.tolist()
    for file in (folder / "imgListFiles_label").iterdir():
        shutil.move(file, folder / file.name)
    assert read_labels(folder, "Train").values.tolist() == expected


def test_an_older_list_is_taken_where_the_newer_is_absent(folder: Path) -> None:
    with pytest.raises(RatingError, match=r"no list of pictures to judge by \(TestNew, Test, Validation\)"):
        read_training_labels(folder)
    for attribute in ATTRIBUTES:
        label_file(folder, "Validation", attribute).write_text("farm1_2_b_b.jpg 0.1\n")
    training, held_out = read_training_labels(folder)
    assert [path.name for path in training.paths] == ["farm1_1_a_b.jpg"]
    assert held_out.name == "Validation"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("farm1_1_a_b.jpg 1.5\n", "line 1: score 1.5 lies outside the scale -1 to 1"),
        ("farm1_1_a_b.jpg nan\n", "line 1: score 'nan' is not finite"),
        ("farm1_1_a_b.jpg x\n", "line 1: score 'x' is not a number"),
        ("\n\nfarm1_1_a_b.jpg\n", "line 3: 'farm1_1_a_b.jpg' must be a file name, a space and a number"),
        ("../a.jpg 0.1\n", r"line 1: image '\.\./a\.jpg' must be a path inside the folder"),
        ("a.jpg 0.1\na.jpg 0.2\n", r"line 2: a\.jpg is labelled 0\.2 here and 0\.1 before"),
        ("", "holds no label"),
        ("a.jpg 0.1\n", r"must label the same pictures; only one names a\.jpg"),
    ],
)
def test_files_that_do_not_fit_are_named(folder: Path, text: str, message: str) -> None:
    label_file(folder, "Train", "DoF").write_text(text)
    with pytest.raises(RatingError, match=message) as caught:
        read_labels(folder, "Train")
    assert "imgListTrainRegression_DoF.txt" in str(caught.value)


def test_what_is_missing_is_named(folder: Path) -> None:
    label_file(folder, "Train", "Symmetry").unlink()
    with pytest.raises(RatingError, match=r"Symmetry\.txt: no such file; name the folder that holds imgList"):
        read_labels(folder, "Train")


def test_labels_without_pictures_are_refused(folder: Path) -> None:
    for path in (folder / "datasetImages_warp256").iterdir():
        path.unlink()
    with pytest.raises(RatingError, match=r"none of its 2 pictures is in datasetImages_warp256"):
        read_labels(folder, "Train")
