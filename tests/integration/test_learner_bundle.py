"""A meta-learned prior on its whole way, as it is typed: ratings -> run -> bundle -> check -> scores."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hub_standin
import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from environments import Installed, build_wheel, install
from PIL import Image

from export.check_record import RECORD_NAME
from export.torch_model import torch_model_of
from export.trained import open_torch_model
from piaa_sdk import Scorer
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image

CHECKOUT = Path(__file__).parents[2]
SEEN, PICTURES, PEOPLE = 30, 40, 6


@dataclass(frozen=True)
class Made:
    """What the way leaves behind, in one folder.

    Attributes:
        folder: Where.
        said: What the check printed.
    """

    folder: Path
    said: str

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def pictures(self) -> list[Path]:
        return sorted((self.folder / "ratings" / "images").iterdir())


def _succeed(folder: Path, *arguments: object, threads: bool = True, **more: str) -> str:
    settings = {"PIAA_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments), *(("--threads", "1") if threads else ())],
        cwd=CHECKOUT,
        env={**os.environ, **settings, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def _write_people(folder: Path) -> None:
    """Four people rate the first pictures, two the others; each likes light and warmth in an own way."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    light, warmth = rng.uniform(-1, 1, (2, PICTURES))
    for number in range(PICTURES):
        tint = np.array([1 + 0.4 * warmth[number], 1, 1 - 0.4 * warmth[number]])
        pixels = (128 + 70 * light[number] + rng.normal(scale=25, size=(5, 6, 3))) * tint
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.resize((90, 70), Image.Resampling.BICUBIC).save(folder / "images" / f"{number:02}.png")
    rows = []
    for person in range(PEOPLE):
        own = rng.normal(size=2)
        for number in range(SEEN) if person < 4 else range(SEEN, PICTURES):
            liking = 3 + (1 + own[0]) * light[number] + own[1] * warmth[number]
            rows.append((f"person {person}", f"images/{number:02}.png", int(np.clip(np.rint(liking), 1, 5))))
    users = [(f"person {person}", "seen" if person < 4 else "new") for person in range(PEOPLE)]
    for name, header, table in (
        ("ratings.csv", ("user", "image", "score"), rows),
        ("users.csv", ("user", "group"), users),
    ):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *table])


@pytest.fixture(
    scope="module",
    params=[("tf_efficientnet_lite0", "blg_as_paper", "head"), ("resnet18", "maml_first_order", "full")],
    ids=["efficientnet-lite0", "resnet18"],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle of one backbone: a head on ImageNet's weights, or a whole network from random ones."""
    backbone, config, mode = request.param
    folder = tmp_path_factory.mktemp("learned")
    data, run, bundle = folder / "ratings", folder / "run", folder / "bundle"
    _write_people(data)
    settings = [
        f"network.backbone={backbone}",
        "network.size=64",
        "network.head.hidden=[16]",
        "schedule.iterations=3",
        "tasks.tasks=2",
        "tasks.support=[10]",
        "tasks.query=10",
    ]
    started = ["--untrained"] if mode == "full" else []
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = ["training", "meta-train", config, data, run, "--scale", 1, 5, "--mode", mode]
    command += ["--train-groups", "seen"]
    _succeed(folder, *command, *started, *overrides, "--cache", folder / "cache")
    _succeed(folder, "export", "build", run, bundle, "--data", data)
    said = _succeed(
        folder, "export", "check", bundle, "--checkpoint", run, "--ratings", data, "--scale", 1, 5
    )
    return Made(folder, said)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Somebody who has installed the wheel."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "wheel").mkdir()
    return install(build_wheel(folder / "wheel"), folder)


def _torch_scores(made: Made, pictures: list[Path]) -> np.ndarray:
    """What the trained network gives pictures: (N,), rating units."""
    preprocessing = ModelBundle.load(made.bundle).preprocessing
    pixels = np.stack([load_image(path, preprocessing) for path in pictures])
    model = open_torch_model(made.folder / "run")
    assert model.scorer is not None
    with torch.inference_mode():
        scores: np.ndarray = 1 + 4 * model.scorer(torch.from_numpy(pixels)).numpy()
    return scores


def test_the_check_passes_in_full(made: Made) -> None:
    record = json.loads((made.bundle / RECORD_NAME).read_text(encoding="utf-8"))
    assert record["passed"] is True
    assert record["bundle_revision"] == ModelBundle.load(made.bundle).bundle_revision
    assert record["figures"]["pictures"] == PICTURES
    assert 1 < record["figures"]["users"] <= PEOPLE, "those whose ratings are not all equal"
    assert record["figures"]["onnx_srocc"] < 1e-4
    assert "passed" in made.said


def test_the_graph_holds_the_weights_by_their_names(made: Made) -> None:
    """All that the embedding depends on, so that whoever fine-tunes can read them back."""
    bundle = ModelBundle.load(made.bundle)
    stored = {item.name for item in onnx.load(bundle.backbone_path).graph.initializer}
    weights = safetensors.numpy.load_file(bundle.folder / "model.safetensors")
    assert weights.keys() - stored == {"head.output.weight", "head.output.bias"}
    pixels = np.stack([load_image(path, bundle.preprocessing) for path in made.pictures()[:2]])
    trained = open_torch_model(made.folder / "run")
    assert np.array_equal(torch_model_of(bundle).embed(pixels), trained.embed(pixels))


def test_the_sdk_scores_as_torch_does(made: Made) -> None:
    """Within a thousandth of their range, or of a rating unit; what is left is the rounding to float16."""
    pictures = made.pictures()
    found = [score.generic for score in Scorer.from_pretrained(made.bundle, cache=False).score(pictures)]
    expected = _torch_scores(made, pictures)
    np.testing.assert_allclose(np.array(found, dtype=float), expected, atol=1e-3 * max(1, np.ptp(expected)))
    assert np.ptp(expected) > 0.02, "else what is alike would pass"


SCORE = """
import importlib.util, json, sys
from piaa_sdk import Scorer
assert not [name for name in ("torch", "timm", "onnx", "training") if importlib.util.find_spec(name)]
scorer = Scorer.from_pretrained(sys.argv[1], revision=sys.argv[2], cache=False)
print(json.dumps([[score.generic for score in scorer.score(sys.argv[3:])], scorer.bundle.origin]))
"""


def test_what_was_published_scores_elsewhere_as_torch_does(made: Made, stranger: Installed) -> None:
    """From the stand-in of the Hub, in an environment that has the wheel and what it declares, no torch."""
    pictures = made.pictures()
    with hub_standin.StandIn() as hub:
        client = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(made.folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        told = _succeed(
            made.folder,
            *("export", "publish", made.bundle, "org/learned", "--public"),
            threads=False,
            **client,
            HF_TOKEN=hub_standin.TOKEN,
            HF_HUB_OFFLINE="0",
        )
        assert "org/learned" in told
        assert hub_standin.TOKEN not in told
        commit = hub.commit_of("org/learned")
        assert set(hub.files("org/learned")) >= {"config.json", "README.md", "model.safetensors"}
        done = stranger.run(
            stranger.python, "-c", SCORE, "org/learned", commit, *map(str, pictures), **client
        )
        assert done.returncode == 0, done.stderr
        assert not hub.asked(path="model.safetensors"), "torch weights were fetched for scoring"
    found, origin = json.loads(done.stdout)
    assert origin == f"org/learned@{commit}"
    expected = _torch_scores(made, pictures)
    np.testing.assert_allclose(found, expected, atol=1e-3 * max(1, np.ptp(expected)))


def test_a_person_is_learned_on_the_hidden_units(made: Made) -> None:
    scorer = Scorer.from_pretrained(made.bundle, cache=False)
    pictures = made.pictures()
    ratings = {str(path): 1 + number % 5 for number, path in enumerate(pictures[:12])}
    scores = scorer.personalize(ratings).score(pictures[12:])
    assert all(score.personal is not None and np.isfinite(score.personal) for score in scores)
    assert all(score.std is not None and score.std > 0 for score in scores)
    assert Prior.load(scorer.bundle.prior_path).embedding_dim == 16
