"""Attributes that AADB's labels teach: what can be learned is, what cannot is not; stored and read back."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from piaa_sdk.errors import ModelFormatError, ModelNotFoundError, RatingError
from training import __main__ as program
from training.attributes.predictor import RUN_NAME, TENSORS_NAME, AttributePredictor, FrozenBackbone
from training.attributes.source import AttributeSource
from training.data.aadb_attributes import ATTRIBUTES, read_labels, read_training_labels
from training.data.ratings import digest_of_file, read_rating_table
from training.network import NetworkConfig, make_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

BACKBONE = FrozenBackbone(NetworkConfig(backbone="resnet18", size=32), untrained=True)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def predictor(aadb_labels_folder: Path) -> AttributePredictor:
    return AttributePredictor.fit(*read_training_labels(aadb_labels_folder), BACKBONE, cache=None)


@pytest.fixture
def folder(predictor: AttributePredictor, tmp_path: Path) -> Path:
    predictor.save(tmp_path / "predictor")
    return tmp_path / "predictor"


def test_what_pictures_show_is_learned_and_chance_is_not(predictor: AttributePredictor) -> None:
    """Of the miniature, Light is brightness and ColorHarmony warmth; Content is constant, Symmetry chance."""
    assert predictor.srocc["Light"] > 0.9
    assert predictor.srocc["ColorHarmony"] > 0.6
    assert np.isnan(predictor.srocc["Content"])
    assert abs(predictor.srocc["Symmetry"]) < 0.6
    assert list(predictor.srocc) == list(ATTRIBUTES)


def test_predictions_are_in_the_units_of_the_labels(
    predictor: AttributePredictor, aadb_labels_folder: Path
) -> None:
    """A regression with an offset meets the mean of its targets; chance gets the stronger penalty."""
    training, _ = read_training_labels(aadb_labels_folder)
    found = predictor.predict_pictures(training.paths)
    np.testing.assert_allclose(found.mean(axis=0), training.values.mean(axis=0), atol=1e-4)
    columns = {name: column for column, name in enumerate(ATTRIBUTES)}
    assert found[:, columns["Light"]].std() > 0.8 * training.values[:, columns["Light"]].std()
    assert predictor.strengths[columns["Symmetry"]] > predictor.strengths[columns["Light"]]


def test_shuffled_labels_teach_nothing(aadb_labels_folder: Path) -> None:
    """With 20 held-out pictures chance correlates 0.23 on average."""
    training, held_out = read_training_labels(aadb_labels_folder)
    training.values[:] = np.random.default_rng(0).permutation(training.values)
    shuffled = AttributePredictor.fit(training, held_out, BACKBONE, cache=None)
    assert abs(shuffled.srocc["Light"]) < 0.6


def test_what_is_stored_is_read_back(predictor: AttributePredictor, folder: Path) -> None:
    loaded = AttributePredictor.load(folder)
    embeddings = np.random.default_rng(0).normal(size=(5, len(predictor.weights)))
    np.testing.assert_array_equal(loaded.predict(embeddings), predictor.predict(embeddings))
    assert loaded.digest() == predictor.digest()
    assert loaded.network == predictor.network
    assert dict(loaded.srocc) == pytest.approx(dict(predictor.srocc), nan_ok=True)
    assert sorted(path.name for path in folder.iterdir()) == [TENSORS_NAME, RUN_NAME]


def test_the_source_embeds_by_itself(
    folder: Path, predictor: AttributePredictor, aadb_labels_folder: Path, table_folder: Path, tmp_path: Path
) -> None:
    source = AttributeSource.load(folder)
    assert source.name == f"AADB predictor {predictor.digest()[:8]}"
    held_out = read_labels(aadb_labels_folder, "TestNew")
    digests = [digest_of_file(path) for path in held_out.paths]
    found = source.measure(held_out.paths, digests)
    assert np.corrcoef(found[:, 4], held_out.values[:, 4])[0, 1] > 0.9
    table = read_rating_table(table_folder, ["a"])
    kept = source.collect(table, tmp_path / "cache")
    assert (kept.shape, kept.dtype) == ((40, 11), np.float32)
    np.testing.assert_array_equal(kept, source.collect(table, tmp_path / "cache"))
    np.testing.assert_array_equal(kept, source.measure(table.paths(), table.picture_digests()))


def test_pictures_that_taught_it_are_not_judged_on(
    predictor: AttributePredictor, aadb_labels_folder: Path, miniatures: ModuleType, tmp_path: Path
) -> None:
    """A label is the mean of what people gave the picture, those who are judged perhaps among them."""
    miniatures.write_table(tmp_path / "others", groups=("d",), users=3, images=25, seed=5)
    source = AttributeSource(predictor)
    source.refuse_seen(read_rating_table(tmp_path / "others"))
    folder = tmp_path / "theirs"
    (folder / "images").mkdir(parents=True)
    training, _ = read_training_labels(aadb_labels_folder)
    names = [f"images/{place}{path.suffix}" for place, path in enumerate(training.paths[:3])]
    for name, path in zip(names, training.paths[:3], strict=True):
        (folder / name).write_bytes(path.read_bytes())
    rows = [f"ann,{name},{place + 1}" for place, name in enumerate(names)]
    (folder / "ratings.csv").write_text("\n".join(["user,image,score", *rows]))
    theirs = read_rating_table(folder)
    with pytest.raises(RatingError, match=r"from 3 of the 3 pictures to judge on; .* --without RATINGS"):
        source.refuse_seen(theirs)
    fewer = training.without_files(theirs.picture_digests())
    assert fewer.paths == training.paths[3:]
    np.testing.assert_array_equal(fewer.values, training.values[3:])
    with pytest.raises(RatingError, match="every picture of the list Train is among those to leave out"):
        fewer.without_files([digest_of_file(path) for path in fewer.paths])
    AttributeSource().refuse_seen(theirs)


def test_another_backbone_is_refused(folder: Path, table_folder: Path, tmp_path: Path) -> None:
    """Its embedding has as many numbers, but they mean something else."""
    network = make_network(BACKBONE.network, untrained=True, seed=1)
    assert network.backbone is not None
    torch.save(network.backbone.state_dict(), tmp_path / "other.pth")
    source = AttributeSource.load(folder, weights=tmp_path / "other.pth")
    with pytest.raises(ModelFormatError, match=r"was trained on a resnet18 with tensors .* train it anew"):
        source.collect(read_rating_table(table_folder, ["a"]))


def _change_run(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    run = json.loads((folder / RUN_NAME).read_text())
    change(run)
    (folder / RUN_NAME).write_text(json.dumps(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.update(format_version=2), "format_version is 2, this version reads 1 to 1"),
        (lambda run: run.update(format_version=True), "format_version is True"),
        (lambda run: run.update(attributes=["Light"]), r"attributes are \['Light'\], must be Balacing"),
        (lambda run: run.pop("backbone_digest"), "'backbone_digest'; make it anew"),
        (lambda run: run["srocc"].pop("Light"), "'Light'; make it anew"),
        (lambda run: run["network"].update(size=2), "size"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _change_run(folder, change)
    with pytest.raises(ModelFormatError, match=message):
        AttributePredictor.load(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights", np.zeros((7, 10), dtype=np.float32), r"must be weights \(D, 11\)"),
        ("offsets", np.zeros(3, dtype=np.float32), r"must be weights \(D, 11\)"),
        ("offsets", np.full(11, np.nan, dtype=np.float32), "offsets must be finite float32"),
        ("weights", np.zeros((7, 11)), "weights must be finite float32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, name: str, value: np.ndarray[Any, Any], message: str
) -> None:
    tensors = safetensors.numpy.load_file(folder / TENSORS_NAME)
    safetensors.numpy.save_file({**tensors, name: value}, folder / TENSORS_NAME)
    with pytest.raises(ModelFormatError, match=message):
        AttributePredictor.load(folder)


def test_a_damaged_or_missing_predictor_is_named(folder: Path) -> None:
    (folder / TENSORS_NAME).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelFormatError, match="cannot be read as an attribute predictor"):
        AttributePredictor.load(folder)
    (folder / TENSORS_NAME).unlink()
    with pytest.raises(ModelNotFoundError, match=r"holds no predictor\.safetensors.*-m training attri"):
        AttributePredictor.load(folder)


def _run(*arguments: object) -> int:
    before = sys.argv
    sys.argv = ["training", *map(str, arguments)]
    try:
        program.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def test_the_command_learns_prints_and_refuses_to_replace(
    aadb_labels_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "predictor"
    named = ("attributes", aadb_labels_folder, checkpoint, "--cache", tmp_path / "cache", "--threads", 1)
    network = ("--backbone", "resnet18", "--size", 32, "--untrained")
    assert _run(*named, *network) == 0
    said = capsys.readouterr()
    rows = [line.split("|")[1].strip() for line in said.out.splitlines()[2:]]
    assert rows == list(ATTRIBUTES)
    assert "SROCC on 21 pictures of TestNew" in said.out
    assert "list Train: 58 labelled pictures; 1 that are not in the folder left out" in said.err
    first = AttributeSource.load(checkpoint).name
    assert f"wrote {checkpoint}: {first}" in said.err
    assert _run(*named, *network) == 1
    assert "exists already" in capsys.readouterr().err
    assert _run(*named, *network, "--force") == 0
    assert AttributeSource.load(checkpoint).name == first, "the same labels and backbone teach the same"
    run = json.loads((checkpoint / RUN_NAME).read_text())
    assert run["story"]["trained_on"] == {"list": "Train", "pictures": 58}
