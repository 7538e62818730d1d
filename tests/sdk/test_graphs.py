"""The graphs say what the heads say, run without this project, and are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from piaa_sdk import Scorer, graphs
from piaa_sdk.adaptation import adapt
from piaa_sdk.bundle import EMBEDDED_FOLDER, ModelBundle, write_config
from piaa_sdk.cli import app
from piaa_sdk.errors import MissingDependencyError, ModelFormatError, OutputError
from piaa_sdk.head import AdaptationGrid
from piaa_sdk.images import load_image
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.results import SupportSet

onnx = pytest.importorskip("onnx")

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray, PixelArray
    from piaa_sdk.head import PersonalHead, Prior

    MakePrior = Callable[..., Prior]

SEVEN = RatingScale(1, 7)
LINE = {
    "centers": np.zeros((0, 16), dtype=np.float16),
    "center_weights": np.zeros(0, dtype=np.float32),
    "linear_weights": np.linspace(-0.3, 0.4, 16, dtype=np.float32),
}
NOTHING = {**LINE, "linear_weights": np.zeros(16)}
WIDE_GRID = AdaptationGrid(
    linear_shares=np.array([1.0, 0.5, 0.0]),
    slopes=np.array([[0.6, 0.05], [0.4, 0.1], [0.2, 0.0]]),
    noises=np.array([0.25, 1.0, 4.0]),
)


def pictures(count: int, *, seed: int = 99, dim: int = 16) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float16).astype(np.float32)


def rated(shots: int, *, seed: int = 0) -> SupportSet:
    ratings = np.random.default_rng(seed).uniform(size=shots)
    return SupportSet(pictures(shots, seed=seed), ratings, tuple(f"{n}.jpg" for n in range(shots)))


def run(graph: Any, **inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
    """Run a graph, or its file, the way a stranger would."""
    import onnxruntime

    source = str(graph) if isinstance(graph, (str, Path)) else graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[np.float32]] = session.run(None, inputs)
    return outputs


def assert_is_head(head: PersonalHead, scale: RatingScale, embeddings: FloatArray, tolerance: float) -> None:
    score, std = run(graphs.head_graph(head, scale), embedding=embeddings)
    mean, deviation, _ = head.predict(embeddings)
    np.testing.assert_allclose(score, scale.from_unit(mean), rtol=0, atol=tolerance)
    np.testing.assert_allclose(std, deviation * scale.span, rtol=0, atol=tolerance)


# The head alone


@pytest.mark.parametrize("is_squashed", [False, True])
@pytest.mark.parametrize("parts", [{}, LINE, {"linear_weights": LINE["linear_weights"]}, NOTHING])
def test_generic_graph_is_the_generic_head(
    build_prior: MakePrior, parts: dict[str, Any], is_squashed: bool
) -> None:
    """Centres, a straight line, both or neither."""
    prior, new = build_prior(**parts, is_squashed=is_squashed), pictures(9)
    [score] = run(graphs.head_graph(prior, SEVEN), embedding=new)
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, SEVEN.from_unit(prior.generic(new)), rtol=0, atol=2e-6)


def test_generic_graph_holds_at_the_ends_of_the_cosine(build_prior: MakePrior) -> None:
    """Where a picture lies on a centre, opposite to one, or nowhere, roots and arcs lose their digits."""
    centers = pictures(300) / 4
    prior = build_prior(
        arc_bias=1e-6,
        generic_metric=np.ones(16, dtype=np.float32),
        centers=centers.astype(np.float16),
        center_weights=np.random.default_rng(5).normal(size=300) / 30,
    )
    new = np.concatenate([centers, -centers, 30 * centers, np.zeros((1, 16), np.float32)])
    [score] = run(graphs.head_graph(prior, RatingScale(0, 1)), embedding=new)
    np.testing.assert_allclose(score, prior.generic(new), rtol=0, atol=2e-6)


def test_generic_graph_is_near_where_large_weights_cancel(build_prior: MakePrior) -> None:
    """As in a trained head, whose weights add up to a thousand times the score."""
    rng = np.random.default_rng(4)
    weights = rng.normal(size=300) * 10
    prior = build_prior(
        dim=64, centers=rng.normal(size=(300, 64)).astype(np.float16) / np.float16(4), center_weights=weights
    )
    new = pictures(50, dim=64)
    [score] = run(graphs.head_graph(prior, SEVEN), embedding=new)
    assert np.abs(score - SEVEN.from_unit(prior.generic(new))).max() < 1e-4


@pytest.mark.parametrize("shots", [2, 10, 60])
@pytest.mark.parametrize("scale", [RatingScale(1, 7), RatingScale(0, 1), RatingScale(-5, 95)])
def test_personal_graph_is_the_personal_head(build_prior: MakePrior, shots: int, scale: RatingScale) -> None:
    """From a mixture of many combinations and few columns to one of few combinations and many columns."""
    head = adapt(build_prior(grid=WIDE_GRID), rated(shots))
    assert len(head.components) > 3
    assert_is_head(head, scale, np.concatenate([pictures(20), head.embeddings]), 3e-6 * scale.span)


@pytest.mark.parametrize("parts", [LINE, {"linear_weights": LINE["linear_weights"]}, NOTHING])
@pytest.mark.parametrize("is_squashed", [False, True])
def test_personal_graph_holds_on_every_generic_head(
    build_prior: MakePrior, parts: dict[str, Any], is_squashed: bool
) -> None:
    assert_is_head(adapt(build_prior(**parts, is_squashed=is_squashed), rated(10)), SEVEN, pictures(20), 2e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ratings=st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda values: np.ptp(values) > 0),
    distinct=st.integers(1, 3),
    size=st.sampled_from([0.0, 1e-3, 1.0, 5.0]),
)
def test_personal_graph_holds_for_strange_ratings(
    build_prior: MakePrior, ratings: list[float], distinct: int, size: float
) -> None:
    """One picture rated twice, differently, pictures that are all alike, and pictures far out."""
    embeddings = (size * pictures(distinct)[np.arange(len(ratings)) % distinct]).astype(np.float16)
    support = SupportSet(
        embeddings.astype(np.float32), np.array(ratings), tuple(map(str, range(len(ratings))))
    )
    head = adapt(build_prior(grid=WIDE_GRID), support)
    new = np.concatenate([support.embeddings, pictures(3), size * pictures(3)])
    assert_is_head(head, SEVEN, new.astype(np.float32), 1e-4)


def test_certain_ratings_do_not_make_the_deviation_nan(build_prior: MakePrior) -> None:
    """Without noise nothing is left to learn at the rated pictures; float32 may find less than nothing."""
    grid = AdaptationGrid(np.array([0.5]), np.array([[0.4, 0.1]]), np.array([1e-9]))
    head = adapt(build_prior(grid=grid), rated(12))
    score, std = run(graphs.head_graph(head, SEVEN), embedding=head.embeddings)
    np.testing.assert_allclose(score, SEVEN.from_unit(head.predict(head.embeddings)[0]), atol=0.01)
    assert (std >= 0).all()
    assert std.max() < 0.02


def test_pictures_beyond_all_measure_keep_to_the_scale(build_prior: MakePrior) -> None:
    """Where float32 cannot tell how far apart two pictures are, they are never nearer than the same."""
    grid = AdaptationGrid(np.array([0.0]), np.array([[0.0, 0.0]]), np.array([0.25]))
    support = rated(12)
    far = SupportSet(np.float32(15000) * support.embeddings, support.ratings, support.images)
    head = adapt(build_prior(grid=grid, **NOTHING), far)
    score, std = run(graphs.head_graph(head, RatingScale(0, 1)), embedding=far.embeddings)
    assert score.min() > -1
    assert score.max() < 2
    assert std.max() < 1


def test_many_combinations_do_not_make_a_large_graph(build_prior: MakePrior) -> None:
    """What nine covariances and all means say together fits in two square roots of the size of z."""
    head = adapt(build_prior(grid=WIDE_GRID), rated(10))
    assert len(np.unique(head.components[:, [0, 2]], axis=0)) > 2
    [weights] = [
        item for item in graphs.head_graph(head, SEVEN).graph.initializer if item.name == "std.weights"
    ]
    rows, columns = weights.dims
    assert rows == 2 * 10 + 1
    assert columns <= 2 * (rows + 1) + 1


def test_embeddings_that_float16_does_not_hold_are_kept(build_prior: MakePrior) -> None:
    """Whoever learns from vectors of their own need not round them first."""
    support = rated(8)
    fine = SupportSet(support.embeddings + np.float32(1e-4), support.ratings, support.images)
    assert_is_head(adapt(build_prior(), fine), SEVEN, pictures(5), 2e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_a_known_deviation_is_given_for_every_picture(build_prior: MakePrior, count: int) -> None:
    """A head that has been trained and measured, not derived, has one standard deviation."""
    prior, new = build_prior(**LINE, is_squashed=True), pictures(count)
    score, std = run(graphs.head_graph(prior, SEVEN, std=0.15), embedding=new)
    np.testing.assert_allclose(score, SEVEN.from_unit(prior.generic(new)), atol=2e-6)
    np.testing.assert_allclose(std, np.full(count, 0.9), rtol=1e-6)


def test_a_graph_takes_no_pictures(build_prior: MakePrior) -> None:
    graph = graphs.head_graph(adapt(build_prior(), rated(4)), SEVEN)
    assert [output.shape for output in run(graph, embedding=pictures(0))] == [(0,), (0,)]


def test_a_scale_that_the_graph_cannot_hold_is_named(build_prior: MakePrior) -> None:
    """Rather than a graph that scores everything infinite."""
    with pytest.raises(ModelFormatError, match="more than float32 holds"):
        graphs.head_graph(adapt(build_prior(), rated(4)), RatingScale(0, 1e300))


@pytest.mark.parametrize("is_personal", [False, True])
def test_a_graph_is_plain(build_prior: MakePrior, is_personal: bool) -> None:
    """Nothing but the standard domain, and no float64, which the builds for browsers may lack."""
    prior = build_prior()
    graph = graphs.head_graph(adapt(prior, rated(10)) if is_personal else prior, SEVEN)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", graphs.OPSET)]
    assert graph.ir_version == graphs.IR_VERSION
    assert not graph.functions
    assert {node.domain for node in graph.graph.node} == {""}
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    assert {tensor.data_type for tensor in graph.graph.initializer} <= kinds
    names = [tensor.name for tensor in graph.graph.initializer]
    names += [name for node in graph.graph.node for name in node.output]
    assert len(names) == len(set(names))


def test_metadata_are_written(build_prior: MakePrior) -> None:
    graph = graphs.head_graph(build_prior(), SEVEN, metadata={"license": "apache-2.0", "bundle_id": "x"})
    assert [(item.key, item.value) for item in graph.metadata_props] == [
        ("bundle_id", "x"),
        ("license", "apache-2.0"),
    ]


# Pixels to score


def photographs(bundle: ModelBundle, paths: Sequence[Path]) -> PixelArray:
    return np.stack([load_image(path, bundle.preprocessing) for path in paths])


def ratings_of(paths: Sequence[Path]) -> dict[str, float]:
    return {str(path): float(1 + (3 * number) % 7) for number, path in enumerate(paths)}


@pytest.fixture
def golden() -> list[Path]:
    return sorted((EMBEDDED_FOLDER / "golden").iterdir())


@pytest.mark.parametrize("shots", [2, 10])
def test_exported_person_scores_as_the_sdk_does(
    photos: list[Path], golden: list[Path], tmp_path: Path, shots: int
) -> None:
    """The embedded model, from pixels to score and standard deviation, alone and in company."""
    scorer = Scorer.from_pretrained(cache=False).personalize(ratings_of(photos[:shots]))
    path = scorer.export_onnx(tmp_path / "somebody.onnx")
    found = scorer.score([*golden, *photos])
    pixels = photographs(scorer.bundle, [*golden, *photos])
    scores, stds = run(path, pixels=pixels)
    np.testing.assert_allclose(scores, [one.personal for one in found], rtol=0, atol=1e-4)
    np.testing.assert_allclose(stds, [one.std for one in found], rtol=0, atol=1e-4)
    assert np.ptp(scores) > 0.1, "all pictures score alike: the test shows nothing"
    np.testing.assert_allclose(run(path, pixels=pixels[:1])[0], scores[:1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_exported_person_scores_photographs_as_the_sdk_does(
    photos: list[Path], tmp_path: Path, name: str
) -> None:
    data = pytest.importorskip("skimage.data")
    scorer = Scorer.from_pretrained(cache=False).personalize(ratings_of(photos))
    picture = getattr(data, name)()
    score, std = run(
        scorer.export_onnx(tmp_path), pixels=load_image(picture, scorer.bundle.preprocessing)[None]
    )
    [expected] = scorer.score([picture])
    assert score[0] == pytest.approx(expected.personal, abs=1e-4)
    assert std[0] == pytest.approx(expected.std, abs=1e-4)


def test_generic_scorer_exports_the_generic_score_alone(golden: list[Path], tmp_path: Path) -> None:
    scorer = Scorer.from_pretrained(cache=False)
    path = scorer.export_onnx(tmp_path)
    assert path == tmp_path / "generic.onnx"
    [scores] = run(path, pixels=photographs(scorer.bundle, golden))
    np.testing.assert_allclose(scores, [one.generic for one in scorer.score(golden)], rtol=0, atol=1e-4)


def test_exported_graph_rounds_as_the_sdk_does(
    build_bundle: Callable[..., Path], build_graph: Callable[..., bytes], photos: list[Path], tmp_path: Path
) -> None:
    """Where rounding the embedding to float16 moves the score by far more than float32 does."""
    folder = build_bundle(tmp_path / "bundle")
    (folder / "onnx" / "backbone.onnx").write_bytes(build_graph(gain=300))
    write_config(folder, json.loads((folder / "config.json").read_text()))
    scorer = Scorer.from_pretrained(folder, cache=False)
    pixels = photographs(scorer.bundle, photos)
    graph = onnx.load(scorer.export_onnx(tmp_path))
    expected = scorer.score_embeddings(scorer.embed(photos))
    [scores] = run(graph, pixels=pixels)
    [plain] = run(folder / "onnx" / "backbone.onnx", pixels=pixels)
    unrounded = scorer.score_embeddings(plain)
    moved = np.abs(unrounded - expected).max()
    assert np.abs(scores - expected).max() < moved / 20


def test_names_of_the_backbone_never_meet_those_of_the_head(
    tiny_bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Also where a network's tensors are called like the head's own."""
    path = tiny_bundle / "onnx" / "backbone.onnx"
    graph = onnx.load(path)
    others = {
        "kernels": "rated",
        "projection": "score.weights",
        "flat": "score",
        "pooled": "std",
        "patches": "embedding",
        "embedding": "vector",
        "centred": "backbone.rated",
    }
    for node in graph.graph.node:
        node.input[:] = [others.get(name, name) for name in node.input]
        node.output[:] = [others.get(name, name) for name in node.output]
    for value in (*graph.graph.initializer, *graph.graph.output):
        value.name = others.get(value.name, value.name)
    path.write_bytes(graph.SerializeToString())
    config = json.loads((tiny_bundle / "config.json").read_text())
    config["graphs"]["backbone"]["output"] = "vector"
    write_config(tiny_bundle, config)
    scorer = Scorer.from_pretrained(tiny_bundle, cache=False).personalize(ratings_of(photos[:6]))
    scores, stds = run(scorer.export_onnx(tmp_path), pixels=photographs(scorer.bundle, photos))
    found = scorer.score(photos)
    np.testing.assert_allclose(scores, [one.personal for one in found], rtol=0, atol=1e-4)
    np.testing.assert_allclose(stds, [one.std for one in found], rtol=0, atol=1e-4)


def test_a_graph_says_what_a_stranger_needs_and_not_whose_it_is(
    photos: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    scorer = Scorer.from_pretrained(tiny_bundle, cache=False).personalize(
        ratings_of(photos[:6]), user="Søren Özgün"
    )
    path = scorer.export_onnx(tmp_path)
    assert path.parent == tmp_path
    assert path.suffix == ".onnx"
    graph = onnx.load(path)
    metadata = {item.key: item.value for item in graph.metadata_props}
    preprocessing = json.loads(metadata.pop("preprocessing"))
    assert metadata == {
        "bundle_id": "piaa-tiny",
        "bundle_revision": scorer.bundle.bundle_revision,
        "embedding_id": scorer.bundle.embedding_id,
        "kind": "closed-form",
        "license": "apache-2.0",
        "rating_scale": "[1.0, 7.0]",
    }
    assert preprocessing["size"] == [32, 32]
    assert preprocessing["input"] == "pixels"
    assert (preprocessing["fit"], preprocessing["resample"]) == ("squash", "bicubic")
    assert (preprocessing["colour"], preprocessing["background"]) == ("RGB", [255, 255, 255])
    [pixels], outputs = graph.graph.input, graph.graph.output
    axes = [axis.dim_param or axis.dim_value for axis in pixels.type.tensor_type.shape.dim]
    assert (pixels.name, axes) == ("pixels", ["N", 32, 32, 3])
    assert [output.name for output in outputs] == ["score", "std"]
    data = path.read_bytes()
    for secret in ("Søren", "Özgün", photos[0].name, str(photos[0].parent)):
        assert secret.encode() not in data


def test_the_same_person_gives_the_same_bytes(photos: list[Path], tiny_bundle: Path, tmp_path: Path) -> None:
    scorer = Scorer.from_pretrained(tiny_bundle, cache=False).personalize(ratings_of(photos[:6]))
    first = scorer.export_onnx(tmp_path / "1.onnx").read_bytes()
    assert scorer.export_onnx(tmp_path / "2.onnx").read_bytes() == first


def with_backbone(folder: Path, change: Callable[[Any], None] | bytes) -> ModelBundle:
    path = folder / "onnx" / "backbone.onnx"
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        graph = onnx.load(path)
        change(graph)
        path.write_bytes(graph.SerializeToString())
    write_config(folder, json.loads((folder / "config.json").read_text()))
    return ModelBundle.load(folder)


def put_outside(graph: Any) -> None:
    tensor = graph.graph.initializer[-1]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    tensor.ClearField("raw_data")


def make_old(graph: Any) -> None:
    graph.opset_import[0].version = 12


def double_output(graph: Any) -> None:
    graph.graph.output.append(onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, ["N", 24]))


def break_node(graph: Any) -> None:
    graph.graph.node[0].op_type = "NoSuchOperator"


def widen(graph: Any) -> None:
    """Put out one number more than the head reads."""
    [tensor] = [item for item in graph.graph.initializer if item.name == "projection"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((24, 17), np.float32), tensor.name))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 17


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_outside, "weights lie in another file"),
        (make_old, "must be of opset 13 or newer"),
        (double_output, "one input and one output"),
        (break_node, "NoSuchOperator"),
        (widen, r"onnx refuses|cannot be joined"),
        (b"\xff" * 40, "is no ONNX graph"),
        (b"", "opset"),
    ],
)
def test_backbone_that_cannot_be_joined_is_our_error(
    tiny_bundle: Path, build_prior: MakePrior, change: Any, message: str
) -> None:
    bundle = with_backbone(tiny_bundle, change)
    with pytest.raises(ModelFormatError, match=message):
        graphs.scoring_graph(bundle, build_prior(), SEVEN, kind="generic")


# The file


@pytest.fixture
def person(tiny_bundle: Path, photos: list[Path]) -> Scorer:
    return Scorer.from_pretrained(tiny_bundle, cache=False).personalize(ratings_of(photos[:6]), user="mira")


def test_a_file_that_is_there_is_written_over_only_when_told(person: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "mira.onnx"
    path.write_bytes(b"precious")
    for target in (path, tmp_path):
        with pytest.raises(OutputError, match="is there already"):
            person.export_onnx(target)
    assert path.read_bytes() == b"precious"
    assert person.export_onnx(str(tmp_path), replace=True) == path
    onnx.checker.check_model(onnx.load(path))


def test_a_graph_never_takes_the_place_of_a_photo(person: Scorer, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "photo.jpg")
    for name in ("photo.jpg", "link.onnx"):
        with pytest.raises(OutputError, match="name for a photo"):
            person.export_onnx(tmp_path / name, replace=True)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["no folder/x.onnx", "x\0.onnx", "a" * 300 + ".onnx"])
def test_a_file_that_cannot_be_written_is_our_error(person: Scorer, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        person.export_onnx(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_full_disk_or_ctrl_c_leaves_the_old_file(
    person: Scorer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    expected: type[BaseException],
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mira.onnx").write_bytes(b"precious")

    def fail(descriptor: int) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(expected):
            person.export_onnx(folder / "mira.onnx", replace=True)
    assert [path.name for path in folder.iterdir()] == ["mira.onnx"]
    assert (folder / "mira.onnx").read_bytes() == b"precious"


# Commands


def cli(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_ending_says_what_is_exported(photos: list[Path], tmp_path: Path) -> None:
    Scorer.from_pretrained(cache=False).personalize(ratings_of(photos[:6]), user="mira")
    told = cli("users", "export", "mira", tmp_path / "graph.ONNX")
    assert told.startswith(f"wrote {tmp_path}/graph.ONNX, 1")
    assert told.endswith(" MB: photos of 256 x 256 pixels in, scores out\n")
    assert {item.key for item in onnx.load(tmp_path / "graph.ONNX").metadata_props} >= {"preprocessing"}
    assert "is there already" in cli("users", "export", "mira", "--output", tmp_path / "graph.ONNX", code=1)
    cli("users", "export", "mira", "--output", tmp_path / "graph.ONNX", "--force")
    assert "piaa users import" in cli("users", "export", "mira", tmp_path / "mira.piaa")
    (tmp_path / "folder.onnx").mkdir()
    cli("users", "export", "mira", tmp_path / "folder.onnx")
    assert [path.name for path in (tmp_path / "folder.onnx").iterdir()] == ["mira.piaa"]


def test_a_graph_of_another_model_is_asked_for_by_its_folder(person: Scorer, tmp_path: Path) -> None:
    """A profile fits one model; the message that says so comes before a file is made."""
    folder = person.bundle.folder
    assert "was made for piaa-tiny" in cli("users", "export", "mira", tmp_path / "mira.onnx", code=1)
    assert not (tmp_path / "mira.onnx").exists()
    cli("users", "export", "mira", tmp_path / "mira.onnx", "--model", folder)
    assert (tmp_path / "mira.onnx").stat().st_size < 1 << 20


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert "name the file once" in cli("users", "export", "mira", one, "--output", other, code=2)
    told = cli("users", "export", "mira", tmp_path / "a.piaa", "--model", tmp_path, code=2)
    assert "ends in .onnx" in told
    assert not list(tmp_path.glob("*.onnx"))


def test_without_the_package_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build_prior: MakePrior
) -> None:
    """Not even a look for the person, who is not there."""
    scorer = Scorer.from_pretrained(cache=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match="pip install onnx"):
        scorer.export_onnx(tmp_path / "photo.jpg")
    with pytest.raises(MissingDependencyError, match="pip install onnx"):
        graphs.head_graph(build_prior(), SEVEN)
    with pytest.raises(MissingDependencyError, match="pip install onnx"):
        graphs.scoring_graph(scorer.bundle, build_prior(), SEVEN, kind="generic")
    assert "pip install onnx" in cli("users", "export", "nobody", tmp_path / "x.onnx", code=1)
    assert not list(tmp_path.glob("*.onnx"))
