"""Files that version 1 of each format wrote: every later version reads them, or says that it cannot.

They were made by the real code on people, pictures and weights that were made up; nothing here may ever write
them anew. What they hold is written down here as well, because a reader that reads something else than what
was stored is worse than one that refuses.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from piaa_sdk.errors import ModelFormatError, RatingError
from piaa_sdk.rating_scale import RatingScale
from training.attributes.predictor import AttributePredictor
from training.attributes.source import AttributeSource
from training.data.packed import PackedImages, pack
from training.data.ratings import read_rating_table
from training.evaluation_record import Evaluation
from training.learner_personalizer import LearnerPersonalizer
from training.network import make_network
from training.personalizers import Support
from training.runs import Run
from training.sources import EmbeddingSource
from training.tables import curve_table, one_method

GOLDEN = Path(__file__).parent / "golden"
EVALUATION, RUN, PACKED = GOLDEN / "evaluation_v1.json", GOLDEN / "run_v1", GOLDEN / "packed_v1"
PREDICTOR = GOLDEN / "predictor_v1"
EMBEDDING_DIM = 512


def test_an_evaluation_of_version_1_is_read() -> None:
    evaluation = Evaluation.load(EVALUATION)
    conditions = evaluation.conditions
    assert (evaluation.method, conditions.data, conditions.groups) == (
        "closed form",
        "made-up-people",
        ("a", "b"),
    )
    assert (conditions.shots, conditions.repeats, conditions.curve, conditions.drawn_users) == (
        (4, 8),
        2,
        True,
        None,
    )
    assert evaluation.facts == {"backbone": "some network", "trained_on": "made-up", "S": 5}
    first = evaluation.result(4)
    assert (first.users, first.uncontrolled, first.undefined, first.constant_support) == (4, 2, 2, 2)
    assert first.figures["personal"].mean == pytest.approx(0.25637, abs=1e-5)
    assert first.figures["personal"].std == pytest.approx(0.04090, abs=1e-5)
    assert first.figures["personal-prior"].interval == pytest.approx((0.08235, 0.61471), abs=1e-5)
    assert first.judged.correlations["prior"].shape == (2, 4)
    assert np.isnan(first.judged.correlations["prior"][:, 3]).all(), "a person of equal ratings"
    assert first.judged.without_blocks["personal"].shape == (10,)


def test_an_evaluation_of_version_1_can_be_shown_and_stored() -> None:
    evaluation = Evaluation.load(EVALUATION)
    assert one_method(evaluation).splitlines()[2].startswith("| 4 | 4 | -0.037 ± 0.026 [-0.594, 0.799] ")
    assert curve_table([evaluation]).to_markdown().splitlines()[2].startswith("| closed form | -0.037 ± ")
    assert evaluation.to_json().items() >= json.loads(EVALUATION.read_bytes()).items()


def test_a_run_of_version_1_is_read() -> None:
    run = Run.open(RUN)
    config = run.config
    assert (config.title, config.learner, config.network.head.hidden) == ("BLG-PIAA (as paper)", "blg", (2,))
    assert (run.record["mode"], run.record["finished"], run.record["iterations_done"]) == ("head", True, 2)
    assert (run.record["split"]["data"], len(run.record["people"]), len(run.record["pictures"])) == (
        "table",
        3,
        20,
    )
    assert [line["iteration"] for line in run.read_log()] == [0, 1]
    assert run.has_checkpoint
    run.check_same(config, {"mode": "head"})
    with pytest.raises(ModelFormatError, match="begun with another mode"):
        run.check_same(config, {"mode": "full"})


def test_a_prior_of_version_1_scores_and_adapts_as_it_did() -> None:
    """Embeddings from a formula, so that no backbone is needed."""
    run = Run.open(RUN)
    state = run.load()
    assert state is not None
    assert state.iteration == 2
    config = run.config
    network = make_network(config.network, embedding_dim=EMBEDDING_DIM)
    network.load_state_dict(state.constants, strict=False)
    places = torch.arange(6 * EMBEDDING_DIM, dtype=torch.float32).reshape(6, EMBEDDING_DIM)
    mean, std = state.constants["head.mean"], state.constants["head.std"]
    source = EmbeddingSource(mean + std * torch.sin(places))
    method = LearnerPersonalizer(
        config.title, config.make_learner(network), state.prior, source, RatingScale(1, 7)
    )
    images = np.arange(6)
    assert method.generic(images) == pytest.approx(
        [-0.1978, -0.2598, -0.1614, -0.2813, -0.1583, -0.3216], abs=2e-4
    )
    personal, _ = method.personalize(Support(images[:4], np.array([0.1, 0.9, 0.2, 0.8]))).predict(images)
    assert personal == pytest.approx([-0.7151, -0.0953, -0.7211, -0.079, -0.7107, -0.058], abs=2e-4)


def test_pictures_packed_by_version_1_are_read() -> None:
    """Three plain pictures; a fourth file had the content of the second."""
    packed = PackedImages.open(PACKED)
    assert (len(packed), packed.preprocessing.size, packed.preprocessing.fit) == (3, 8, "squash")
    assert packed.digests[0] == "fd848f0649f29a3691f68240d07733bc110aab4f81beaee11b1ab1c85ce5a94a"
    found = packed.take([2, 0, 1])
    assert found.shape == (3, 8, 8, 3)
    assert (found == np.array([[16, 32, 48], [255, 0, 0], [0, 128, 64]], np.uint8)[:, None, None]).all()


def test_pictures_packed_by_version_1_can_be_added_to(tmp_path: Path) -> None:
    folder, picture = tmp_path / "packed", tmp_path / "another.png"
    shutil.copytree(PACKED, folder)
    before = PackedImages.open(folder)
    Image.new("RGB", (9, 9), (7, 8, 9)).save(picture)
    assert (pack([picture], folder, before.preprocessing, workers=1).take([0]) == [7, 8, 9]).all()
    after = PackedImages.open(folder)
    assert (len(after), after.digests[:3]) == (4, before.digests)
    assert (after.take([0, 1, 2]) == before.take([0, 1, 2])).all()
    files = json.loads((folder / "index.json").read_bytes())["files"]
    assert files["/pictures/1-again.png"] == [77, 0, 1]
    assert files[str(picture)][2] == 3


def test_an_attribute_predictor_of_version_1_predicts_as_it_did() -> None:
    """Embeddings from a formula, so that no backbone is needed."""
    predictor = AttributePredictor.load(PREDICTOR)
    assert (predictor.network.backbone, predictor.network.size, predictor.untrained) == ("resnet18", 32, True)
    places = np.arange(2 * EMBEDDING_DIM, dtype=np.float64).reshape(2, EMBEDDING_DIM)
    found = predictor.predict(1 + np.sin(places))
    assert found[0] == pytest.approx(
        [0.05868, 11.132, 0.25, -0.02024, -0.45939, 0.00502, 0.00556, 0.01648, 0.01415, 0.22259, -8.42764],
        abs=2e-4,
    )
    assert predictor.srocc["Light"] == pytest.approx(0.98928, abs=1e-5)
    assert np.isnan(predictor.srocc["Content"])
    assert predictor.digest().startswith("f411a3f526038059")


def test_a_predictor_that_does_not_say_what_it_learned_from_judges_nobody(table_folder: Path) -> None:
    """The first records of version 1 did not."""
    source = AttributeSource(AttributePredictor.load(PREDICTOR))
    with pytest.raises(RatingError, match="does not say which pictures it learned from; make it anew"):
        source.refuse_seen(read_rating_table(table_folder))
