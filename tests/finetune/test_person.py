"""Fine-tuning a network to one person: what is learned, judged, stored, and scored without torch."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from piaa_sdk import FineTuneOptions, Scorer
from piaa_sdk.adaptation import adaptation_of
from piaa_sdk.choices import Method
from piaa_sdk.cli import app
from piaa_sdk.errors import (
    DeviceError,
    DivergenceError,
    MissingDependencyError,
    OutputError,
    ProfileError,
    ProfileExistsError,
    ProfileFormatError,
    ProfileMismatchError,
    SupportSetError,
)
from piaa_sdk.fine_tuned import FINE_TUNED, FineTunedHead, FineTuningProgress, pack, unpack
from piaa_sdk.finetune import person
from piaa_sdk.finetune.bundle_network import scoring_network_of
from piaa_sdk.finetune.full import Examples, FineTuning, fine_tune
from piaa_sdk.finetune.network import params_of
from piaa_sdk.images import load_image
from piaa_sdk.profiles import ProfileStore
from piaa_sdk.results import Comparison, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCALE = (1, 7)
QUICK = FineTuneOptions(epochs=1, folds=2)
ENOUGH = FineTuneOptions(epochs=8, learning_rate=3e-4)


@pytest.fixture
def generic(bundle_folder: Path) -> Scorer:
    return Scorer.from_pretrained(bundle_folder, device="cpu")


def first(rated: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(list(rated.items())[:count])


def tune(scorer: Scorer, ratings: Mapping[str, float], **settings: Any) -> Scorer:
    return scorer.personalize(
        dict(ratings), **{"user": "mira", "scale": SCALE, "method": "finetune", "options": QUICK, **settings}
    )


def test_a_taste_is_learned_that_the_generic_score_does_not_know(
    generic: Scorer, rated: dict[str, float]
) -> None:
    """Whoever likes warm pictures: on left-out pictures, and in the scores of the network that is stored."""
    person = tune(generic, rated, options=ENOUGH)
    comparison = person.comparison
    assert comparison is not None
    assert comparison.shots == len(rated)
    assert comparison.fine_tuned_accuracy > max(0.7, comparison.generic_accuracy + 0.2)
    assert person.adaptation is not None
    assert person.adaptation.verdict is Verdict.LEARNED
    scores = [score.personal for score in person.score(list(rated))]
    assert np.corrcoef(scores, list(rated.values()))[0, 1] > 0.9  # type: ignore[arg-type]


def test_shuffled_ratings_teach_nothing(generic: Scorer, rated: dict[str, float]) -> None:
    """The control: with ratings in random order, nothing is claimed."""
    shuffled = np.random.default_rng(5).permutation(list(rated.values())).tolist()
    person = tune(generic, dict(zip(rated, shuffled, strict=True)), user=None, options=ENOUGH)
    assert person.comparison is not None
    assert person.comparison.recommended is Method.CLOSED_FORM
    assert person.adaptation == adaptation_of(person.comparison), "judged on what it has seen"


SCORE_WITHOUT_TORCH = """
import json, sys
for name in ("torch", "timm", "onnx"):
    sys.modules[name] = None
from piaa_sdk import Scorer
scorer = Scorer.from_pretrained(sys.argv[1], user="mira", device="cpu")
print(json.dumps([[s.generic, s.personal, s.std, s.latent_std] for s in scorer.score(sys.argv[2:])]))
"""


def test_the_stored_network_scores_without_torch(
    generic: Scorer, rated: dict[str, float], tmp_path: Path
) -> None:
    """In a fresh interpreter, with the figures of the scorer that learned it; and as one graph; and moved."""
    person = tune(generic, first(rated, 8))
    images = list(rated)
    done = subprocess.run(
        [sys.executable, "-c", SCORE_WITHOUT_TORCH, str(generic.bundle.folder), *images],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    expected = [[s.generic, s.personal, s.std, s.latent_std] for s in person.score(images)]
    assert json.loads(done.stdout) == expected
    assert {row[0] for row in expected} == {None}
    assert len({row[2] for row in expected}) == 1

    onnxruntime = pytest.importorskip("onnxruntime")
    pixels = np.stack([load_image(image, person.bundle.preprocessing) for image in images])
    session = onnxruntime.InferenceSession(person.export_onnx(tmp_path), providers=["CPUExecutionProvider"])
    scores, stds = session.run(["score", "std"], {"pixels": pixels})
    np.testing.assert_allclose(scores, [row[1] for row in expected], atol=1e-4)
    np.testing.assert_allclose(stds, [row[2] for row in expected], atol=1e-4)

    store = ProfileStore()
    file = store.export_file("mira", tmp_path / "mira.piaa")
    store.delete("mira")
    store.import_file(file)
    again = Scorer.from_pretrained(generic.bundle.folder, user="mira", device="cpu")
    assert [score.personal for score in again.score(images)] == [row[1] for row in expected]


def test_profile_is_of_its_own_kind_and_space(generic: Scorer, rated: dict[str, float]) -> None:
    """The cache never gives one network the embeddings of another."""
    before = generic.embed(list(rated)[:3])
    person = tune(generic, first(rated, 8))
    profile = person.profile
    assert profile is not None
    assert (profile.kind, profile.bundle_id) == (FINE_TUNED, "piaa-tunable")
    assert profile.embedding_id == person.bundle.embedding_id != generic.bundle.embedding_id
    own = person.embed(list(rated)[:3])
    assert not np.array_equal(own, before)
    np.testing.assert_array_equal(own, profile.support.embeddings[:3])
    np.testing.assert_array_equal(generic.embed(list(rated)[:3]), before)
    assert profile.adaptation is not None
    assert person.adaptation == profile.adaptation


def test_the_same_ratings_give_the_same_network(generic: Scorer, rated: dict[str, float]) -> None:
    one, two = (tune(generic, first(rated, 7), user=None) for _ in range(2))
    assert one.bundle.embedding_id == two.bundle.embedding_id
    assert one.comparison == two.comparison


def test_nothing_that_judges_was_learned_from(
    generic: Scorer, rated: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fit but the last sees only ratings that its part of the judging does not ask for."""
    seen: list[set[float]] = []
    asked: list[set[float]] = []
    real_fit, real_predict = person.fine_tune, person.PersonFit._predict
    values = {rating: index for index, rating in enumerate(rated.values())}
    assert len(values) == len(rated), "ratings must tell pictures apart here"

    def fine_tune(network: Any, theta: Any, support: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(set(support.ratings.tolist()))
        return real_fit(network, theta, support, *args, **kwargs)

    def predict(self: Any, params: Any, rows: Any) -> Any:
        asked.append(set(self._all.ratings[torch.from_numpy(rows)].tolist()))
        return real_predict(self, params, rows)

    monkeypatch.setattr(person, "fine_tune", fine_tune)
    monkeypatch.setattr(person.PersonFit, "_predict", predict)
    tune(generic, rated, user=None, options=FineTuneOptions(epochs=1, folds=3))
    assert [len(fit) for fit in seen] == [16, 16, 16, 24]
    for fit, judged in zip(seen[:3], asked[:3], strict=True):
        assert not fit & judged
    assert set().union(*asked[:3]) == seen[3]

    seen.clear()
    asked.clear()
    tune(generic, rated, user=None, options=FineTuneOptions(epochs=2, folds=2, stops_early=True))
    # for each part: the fit that chooses (it asks before and after both epochs), then the one that is judged
    assert [len(fit) for fit in seen] == [9, 12, 9, 12, 19, 24]
    for number, part in enumerate((asked[:4], asked[4:8])):
        watched, judged = part[0], part[3]
        assert not watched & seen[2 * number]
        assert not judged & (seen[2 * number] | seen[2 * number + 1] | watched)


def test_stopping_early_stops_before_it_gets_worse(generic: Scorer, rated: dict[str, float]) -> None:
    """At an absurd rate the first epoch is a disaster, and the prior is the best that is left."""
    wild = FineTuneOptions(epochs=2, folds=2, learning_rate=0.5, stops_early=True)
    person = tune(generic, rated, user=None, options=wild)
    assert person.comparison is not None
    assert person.comparison.fine_tuned_accuracy == pytest.approx(person.comparison.generic_accuracy)
    expected = [score.generic for score in generic.score(list(rated))]
    found = [score.personal for score in person.score(list(rated))]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_progress_tells_of_every_epoch(generic: Scorer, rated: dict[str, float]) -> None:
    told: list[FineTuningProgress] = []
    options = FineTuneOptions(epochs=2, folds=2, progress=told.append)
    tune(generic, first(rated, 8), user=None, options=options)
    assert [(one.run, one.runs, one.epoch, one.epochs) for one in told] == [
        (run, 3, epoch, 2) for run in (1, 2, 3) for epoch in (1, 2)
    ]
    assert all(0 < one.loss < 10 for one in told)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0.01, 0.2), Method.FINETUNE), ((0.0, 0.2), Method.CLOSED_FORM), (None, Method.CLOSED_FORM)],
)
def test_fine_tuning_is_recommended_only_where_it_is_proved(
    interval: tuple[float, float] | None, expected: Method
) -> None:
    comparison = Comparison(20, 50, 0.5, 0.6, 0.7, interval, None, 0.1)
    assert comparison.recommended is expected


@pytest.mark.parametrize("is_better", [False, True])
def test_auto_follows_the_recommendation(
    generic: Scorer, rated: dict[str, float], monkeypatch: pytest.MonkeyPatch, is_better: bool
) -> None:
    judged = Comparison(8, 20, 0.5, 0.6, 0.7, (0.05, 0.2) if is_better else (-0.1, 0.2), None, 0.1)
    monkeypatch.setattr(person.PersonFit, "compare", lambda self, embeddings: judged)
    found = tune(generic, first(rated, 8), method="auto")
    assert found.comparison == judged
    assert found.profile is not None
    assert found.profile.kind == (FINE_TUNED if is_better else "closed-form")


# What is stored already


def test_ratings_are_added_and_win(generic: Scorer, rated: dict[str, float]) -> None:
    """The pictures are read again; a changed rating replaces the old one, of which a backup is kept."""
    tune(generic, first(rated, 8))
    images = list(rated)
    more = {images[0]: 3.3, images[8]: rated[images[8]]}
    person = tune(generic, more, add=True)
    assert person.profile is not None
    assert dict(zip(person.profile.support.images, person.profile.ratings, strict=True)) == {
        **first(rated, 9),
        images[0]: 3.3,
    }
    assert len(ProfileStore().backups("mira")) == 1


def test_a_closed_form_profile_can_become_a_network_and_back(
    generic: Scorer, rated: dict[str, float]
) -> None:
    ratings = first(rated, 8)
    closed = generic.personalize(ratings, user="mira", scale=SCALE)
    assert tune(generic, ratings).profile.kind == FINE_TUNED  # type: ignore[union-attr]
    back = generic.personalize(ratings, user="mira", scale=SCALE)
    [kept] = ProfileStore().backups("mira")
    assert ProfileStore().import_file(kept, user="was mira").kind == FINE_TUNED
    assert [s.personal for s in back.score(list(ratings))] == [
        s.personal for s in closed.score(list(ratings))
    ]


def test_pictures_without_names_replace_nothing(generic: Scorer, rated: dict[str, float]) -> None:
    """Neither by a network nor, when a network is stored, in closed form."""
    images = [load_image(image, generic.bundle.preprocessing) for image in rated]
    values = list(rated.values())
    eight, others = (list(zip(images[part], values[part], strict=True)) for part in (slice(8), slice(8, 16)))
    generic.personalize(eight, user="mira", scale=SCALE)
    with pytest.raises(ProfileExistsError):
        generic.personalize(others, user="mira", method="finetune", options=QUICK)
    generic.personalize(eight, user="mira", method="finetune", options=QUICK)
    with pytest.raises(ProfileExistsError):
        generic.personalize(eight, user="mira")
    assert ProfileStore().load("mira").kind == FINE_TUNED


def test_a_network_is_not_gone_on_with_in_closed_form(generic: Scorer, rated: dict[str, float]) -> None:
    tune(generic, first(rated, 8))
    extra = dict(list(rated.items())[8:10])
    with pytest.raises(ProfileMismatchError, match="--method finetune"):
        generic.personalize(extra, user="mira", add=True)
    refitted = generic.refit("mira").profile
    assert refitted is not None
    assert refitted.kind == "closed-form"
    assert dict(zip(refitted.support.images, refitted.ratings, strict=True)) == first(rated, 8)
    assert len(ProfileStore().backups("mira")) == 1


def test_a_network_of_another_model_is_refused(
    generic: Scorer, rated: dict[str, float], bundle_folder: Path
) -> None:
    tune(generic, first(rated, 8))
    path = bundle_folder / "preprocessor_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "resample": "bilinear"}))
    from piaa_sdk.bundle import write_config

    write_config(bundle_folder, json.loads((bundle_folder / "config.json").read_text()))
    with pytest.raises(ProfileMismatchError, match="was fine-tuned from piaa-tunable"):
        Scorer.from_pretrained(bundle_folder, user="mira")


def test_a_network_is_no_head_to_publish(generic: Scorer, rated: dict[str, float]) -> None:
    with pytest.raises(ProfileError, match="a network of their own"):
        tune(generic, first(rated, 8)).push_to_hub("org/name")


# What goes wrong


def test_a_strangers_network_reads_no_file_of_ours(
    generic: Scorer, rated: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Onnxruntime opens weights that a graph keeps elsewhere; a profile may come from anybody."""
    tensors = dict(tune(generic, first(rated, 8)).profile.head)  # type: ignore[union-attr]
    proto = onnx.load_model_from_string(tensors["graph"].tobytes())
    weight = next(item for item in proto.graph.initializer if item.name == "projection")
    (tmp_path / "secret.bin").write_bytes(onnx.numpy_helper.to_array(weight).tobytes())
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="secret.bin")
    tensors["graph"] = np.frombuffer(proto.SerializeToString(), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileFormatError, match="from another file"):
        unpack(tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": None}, "not complete"),
        ({"graph": np.zeros(3)}, "not complete"),
        ({"std": np.zeros(2)}, "not complete"),
        ({"std": np.array(0.0)}, "must be above 0"),
        ({"std": np.array(np.nan)}, "must be above 0"),
    ],
)
def test_a_damaged_network_is_our_error(
    generic: Scorer, build_prior: Any, changes: dict[str, Any], message: str
) -> None:
    tensors = {**pack(b"graph", FineTunedHead(build_prior(), 0.1)), **changes}
    with pytest.raises(ProfileFormatError, match=message):
        unpack({name: tensor for name, tensor in tensors.items() if tensor is not None})


def _stored_bytes() -> dict[str, bytes]:
    folder = ProfileStore().folder
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("run", [1, 3])
def test_ctrl_c_leaves_what_was_stored(generic: Scorer, rated: dict[str, float], run: int) -> None:
    generic.personalize(first(rated, 8), user="mira", scale=SCALE)
    before = _stored_bytes()

    def stop(progress: FineTuningProgress) -> None:
        if progress.run == run:
            raise KeyboardInterrupt

    options = FineTuneOptions(epochs=1, folds=2, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        tune(generic, first(rated, 10), replace=True, options=options)
    assert _stored_bytes() == before


def test_a_full_disk_leaves_what_was_stored(
    generic: Scorer, rated: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    generic.personalize(first(rated, 8), user="mira", scale=SCALE)
    before = _stored_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match="No space left"):
            tune(generic, first(rated, 8))
    assert _stored_bytes() == before


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"), DeviceError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), DeviceError),
        (MemoryError(), DeviceError),
        (RuntimeError("a fault of ours"), RuntimeError),
    ],
)
def test_too_little_memory_is_said(
    generic: Scorer,
    rated: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    expected: type[Exception],
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr(person, "fine_tune", fail)
    with pytest.raises(expected, match=r"not enough memory|a fault of ours"):
        tune(generic, first(rated, 8))
    assert _stored_bytes() == {}


def test_an_exploding_loss_names_its_epoch(generic: Scorer) -> None:
    network = scoring_network_of(generic.bundle, generic._base.prior)
    with torch.no_grad():
        network.generic.linear_weights.fill_(math.inf)
    examples = Examples(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.rand(2))
    with pytest.raises(DivergenceError, match="loss of step 1 is"):
        fine_tune(network, params_of(network), examples, FineTuning(), on_step=lambda *_: None)


def test_too_few_ratings_are_refused_before_any_fit(generic: Scorer, rated: dict[str, float]) -> None:
    with pytest.raises(SupportSetError, match="5 rated photos are too few to fine-tune"):
        tune(generic, first(rated, 5))


def test_ratings_that_cannot_be_judged_are_refused_before_any_fit(
    generic: Scorer, rated: dict[str, float]
) -> None:
    """Parts of one photo hold no pair."""
    told: list[FineTuningProgress] = []
    with pytest.raises(SupportSetError, match="could be left out differ"):
        tune(generic, first(rated, 6), options=FineTuneOptions(folds=6, progress=told.append))
    assert told == []


@pytest.mark.parametrize("device", ["coreml", "directml"])
def test_a_device_that_torch_lacks_is_said(bundle_folder: Path, rated: dict[str, float], device: str) -> None:
    from piaa_sdk.head import Prior

    bundle = Scorer.from_pretrained(bundle_folder, cache=False).bundle
    pixels, ratings = np.zeros((8, 32, 32, 3), np.uint8), np.linspace(0, 1, 8)
    with pytest.raises(DeviceError, match="on cpu or cuda"):
        person.PersonFit(bundle, Prior.load(bundle.prior_path), pixels, ratings, QUICK, device)


def test_settings_that_mean_nothing_are_refused() -> None:
    for settings in ({"folds": 1}, {"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": 1.5}):
        with pytest.raises(ValueError, match="must be"):
            FineTuneOptions(**settings)  # type: ignore[arg-type]


def test_without_the_extra_nothing_is_begun(
    generic: Scorer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither in Python nor on the command line: not even the ratings are looked at."""
    from piaa_sdk import fine_tuned

    def find(name: str) -> object:
        return None if name == "timm" else object()

    monkeypatch.setattr(fine_tuned, "find_spec", find)
    with pytest.raises(MissingDependencyError, match="pip install torch torchvision timm onnx onnxscript"):
        generic.personalize(tmp_path / "nothing.csv", method="finetune")
    result = CliRunner().invoke(app, ["personalize", str(tmp_path / "nothing.csv"), "--method", "auto"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "pip install torch" in result.stderr


# Commands


def test_the_command_tells_and_stores(bundle_folder: Path, rated: dict[str, float], tmp_path: Path) -> None:
    table = tmp_path / "ratings.csv"
    table.write_text("image,rating\n" + "".join(f"{image},{value}\n" for image, value in rated.items()))
    model = ("--model", str(bundle_folder))
    result = CliRunner().invoke(
        app,
        [
            "personalize", str(table), "--user", "mira", "--scale", "1", "7", *model,
            "--method", "finetune", "--epochs", "1",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "fine-tuning, fit 4 of 4, epoch 1 of 1: loss 0." in result.stderr
    for line in ("generic score", "closed form", "fine-tuned", "Recommended: "):
        assert line in result.stdout
    shown = CliRunner().invoke(app, ["users", "show", "mira"])
    assert "fine-tuned" in shown.stdout
    scored = CliRunner().invoke(
        app, ["score", *list(rated)[:3], "--user", "mira", "--format", "jsonl", *model]
    )
    assert scored.exit_code == 0, scored.stderr
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [row["generic"] for row in rows] == [None] * 3
    assert len({row["personal"] for row in rows}) == 3


def test_options_of_fine_tuning_need_the_method(tmp_path: Path) -> None:
    for option in (["--epochs", "3"], ["--stop-early"], ["--bf16"]):
        result = CliRunner().invoke(app, ["personalize", str(tmp_path / "r.csv"), *option])
        assert result.exit_code == 2
        assert "--method finetune" in result.stderr
