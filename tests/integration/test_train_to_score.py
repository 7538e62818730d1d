"""The whole way once, as it is typed: ratings -> checkpoint -> bundle -> figures -> scores -> one person."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.model_card import CardFacts, render_card
from piaa_sdk import Scorer
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image
from piaa_sdk.rating_scale import RatingScale
from training.checkpoints import load_checkpoint

CHECKOUT = Path(__file__).parents[2]
SEEN, UNSEEN = 20, 28  # pictures
SETTINGS = """
[preprocessing]
size = 64
fit = "squash"
resample = "bicubic"
draft_factor = 2
background = [255, 255, 255]

[embedding]
readouts = ["stage1.mean", "stage2.mean", "stage7.mean", "last.mean"]
readout_weights = { "last.mean" = 0.001 }
class_directions = 8
class_weight = 12.0
principal_directions = 48
random_directions = 16
taste_axes = 4
taste_noise = 3.0
taste_share = 0.5
views = 2
seed = 0

[generic]
metric_power = 0.4
curved_power = 0.2
centers = 16
arc_bias = 0.1
view_weight = 1.0
strengths = [0.1, 1.0]
folds = 5

[adaptation]
linear_shares = [0.5, 0.0]
length_scale = 0.25
slopes = [[0.45, 0.05]]
noises = [0.25, 1.0, 4.0]
slope_unit = 0.22
offset_mean = 0.5
offset_variance = 2.0
variance_scale = 0.03
variance_degrees = 4.0
std_factor = 1.0
"""


@dataclass(frozen=True)
class Made:
    """What the way leaves behind, in one folder."""

    folder: Path

    @property
    def ratings(self) -> Path:
        return self.folder / "ratings"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def pictures(self) -> list[Path]:
        """Those that no training person has rated."""
        return sorted((self.ratings / "images").glob("*.png"))[SEEN:]

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a module of the checkout; nothing is downloaded, nothing of the caller's home is used."""
        settings = {"PIAA_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=CHECKOUT,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def succeed(self, *arguments: str | Path) -> str:
        """Run what must go well, and return what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout


def write_people(folder: Path) -> None:
    """Six people rate the first pictures, four the other ones.

    All like light a little; besides, each loves one of light, warmth, darkness and cold.
    """
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    light, warmth = rng.uniform(-1, 1, (2, SEEN + UNSEEN))
    for number in range(SEEN + UNSEEN):
        tint = np.array([1 + 0.4 * warmth[number], 1, 1 - 0.4 * warmth[number]])
        pixels = (128 + 70 * light[number] + rng.normal(scale=15, size=(5, 6, 3))) * tint
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.resize((90, 70), Image.Resampling.BICUBIC).save(folder / "images" / f"{number:02}.png")
    rows, users = [], []
    for person in range(10):
        group = "training" if person < 6 else "held-out"
        numbers = range(SEEN) if person < 6 else range(SEEN, SEEN + UNSEEN)
        own = np.cos(person * np.pi / 2), np.sin(person * np.pi / 2)
        users.append((f"person {person}", group))
        for number in numbers:
            liking = 4 + 2 * own[0] * light[number] + 2 * own[1] * warmth[number] + light[number]
            score = int(np.clip(np.rint(liking + rng.normal(scale=0.3)), 1, 7))
            rows.append((f"person {person}", f"images/{number:02}.png", score))
    for name, header, table in (
        ("ratings.csv", ("user", "image", "score"), rows),
        ("users.csv", ("user", "group"), users),
    ):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *table])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle of this checkout, trained on six people who do not exist."""
    made = Made(tmp_path_factory.mktemp("way"))
    write_people(made.ratings)
    settings = made.folder / "small.toml"
    settings.write_text(SETTINGS, encoding="utf-8")
    fit: list[str | Path] = ["training", "fit", made.ratings, made.checkpoint, "--groups", "training"]
    made.succeed(*fit, "--config", settings, "--cache", made.folder / "cache", "--threads", "1")
    told = made.succeed(
        "export", "build", made.checkpoint, made.bundle, "--photos", made.pictures()[0], "--threads", "1"
    )
    assert "torch and ONNX on 8 pictures" in told
    return made


def test_the_bundle_tells_what_it_was_trained_on(made: Made) -> None:
    training = ModelBundle.load(made.bundle).config["training"]
    assert isinstance(training, dict)
    assert (training["groups"], len(training["people"]), len(training["pictures"])) == (["training"], 6, SEEN)
    story = (made.checkpoint / "run.json").read_text(encoding="utf-8")
    assert "person 1" not in story, "people stand in it by digests only"
    assert str(made.folder) not in story


def test_training_people_are_refused_unless_told_otherwise(made: Made) -> None:
    command: list[str | Path] = [
        "training",
        "evaluate",
        made.bundle,
        made.ratings,
        "--shots",
        "5",
        "--repeats",
        "1",
    ]
    refused = made.run(*command, "--output", made.folder / "refused.json")
    assert refused.returncode == 1
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert f"trained on 6 of these 10 people and {SEEN} of these {SEEN + UNSEEN} pictures" in line
    assert refused.stdout == ""
    assert not (made.folder / "refused.json").exists()
    output = made.folder / "allowed.json"
    made.succeed(*command, "--allow-seen", "--output", output)
    assert json.loads(output.read_bytes())["seen_allowed"] is True


def test_a_bundle_is_judged_on_people_it_has_never_met(made: Made) -> None:
    output = made.folder / "figures" / "held-out.json"
    command: list[str | Path] = ["training", "evaluate", made.bundle, made.ratings, "--groups", "held-out"]
    table = made.succeed(*command, "--shots", "6", "--shots", "14", "--repeats", "3", "--output", output)
    header, _, few, many, *_ = table.splitlines()
    assert header.startswith("| M | users | prior | personal |")
    assert (few[:9], many[:10]) == ("| 6 | 4 |", "| 14 | 4 |")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    record = json.loads(output.read_bytes(), parse_constant=refuse)
    assert record["bundle_revision"] == ModelBundle.load(made.bundle).bundle_revision
    assert (record["groups"], record["users"], record["pictures"]) == (["held-out"], 4, UNSEEN)
    assert record["seen_allowed"] is False
    assert [result["shots"] for result in record["results"]] == [6, 14]
    figures = record["results"][1]["figures"]
    assert f"{figures['personal']['mean']:.3f} ±" in many
    assert figures["personal"]["mean"] > 0.5, "light and warmth are easy to learn from 14 ratings"
    assert figures["personal-shuffled"]["mean"] > 0.1, "and these people's tastes differ"
    # What was measured is what a model card tells.
    config, run = ModelBundle.load(made.bundle).config, load_checkpoint(made.checkpoint).run
    card = render_card(config, run, {"measured": "", "records": [record]}, CardFacts())
    assert f"{figures['personal']['mean']:.3f}" in card


def test_the_scorer_says_what_torch_says(made: Made, tmp_path: Path) -> None:
    """Twin: the same files through the trained network; within 1e-3 rating units."""
    checkpoint, bundle = load_checkpoint(made.checkpoint), ModelBundle.load(made.bundle)
    pixels = np.stack([load_image(path, bundle.preprocessing) for path in made.pictures()])
    with torch.inference_mode():
        embeddings = checkpoint.network()(torch.from_numpy(pixels)).numpy()
    generic = Prior.from_tensors(checkpoint.prior_tensors()).generic(embeddings)
    expected = RatingScale(1, 7).from_unit(generic)
    scores = Scorer.from_pretrained(made.bundle, cache=False).score(made.pictures())
    found = [score.generic for score in scores]
    np.testing.assert_allclose(np.array(found, dtype=float), expected, atol=1e-3)
    assert np.ptp(expected) > 0.5, "scores that differ this little show nothing"
    rows = tmp_path / "rows.jsonl"
    photos = made.ratings / "images"
    made.succeed("piaa_sdk", "score", photos, "--model", made.bundle, "--format", "jsonl", "--output", rows)
    by_name = {
        Path(row["path"]).name: row["generic"] for row in map(json.loads, rows.read_text().splitlines())
    }
    assert len(by_name) == SEEN + UNSEEN
    by_command = [by_name[path.name] for path in made.pictures()]
    np.testing.assert_allclose(by_command, expected, atol=1e-3)


def test_one_person_is_learned_by_the_new_model(made: Made, tmp_path: Path) -> None:
    """Her ratings of 14 unseen pictures; judged on the 14 others."""
    with (made.ratings / "ratings.csv").open(encoding="utf-8") as file:
        own = [(image, float(score)) for user, image, score in csv.reader(file) if user == "person 7"]
    with (tmp_path / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "rating"), *own[:14]])
    learn: list[str | Path] = [
        "piaa_sdk",
        "personalize",
        tmp_path / "mine.csv",
        "--user",
        "mira",
        "--photos",
        made.ratings,
    ]
    made.succeed(*learn, "--scale", "1", "7", "--model", made.bundle)
    rows = tmp_path / "rows.jsonl"
    photos = [made.ratings / image for image, _ in own[14:]]
    score: list[str | Path] = ["piaa_sdk", "score", *photos, "--user", "mira", "--model", made.bundle]
    made.succeed(*score, "--format", "jsonl", "--output", rows)
    found = {Path(row["path"]).name: row for row in map(json.loads, rows.read_text().splitlines())}
    personal = [found[path.name]["personal"] for path in photos]
    assert all(found[path.name]["std"] > 0 for path in photos)
    assert np.corrcoef(personal, [rating for _, rating in own[14:]])[0, 1] > 0.5
