"""The README tells what is: its commands are understood, its Python runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from piaa_sdk import Scorer
from piaa_sdk.bundle import EMBEDDED_FOLDER
from piaa_sdk.cli import app

ROOT = Path(__file__).resolve().parents[2]


def blocks(language: str) -> list[str]:
    """All code blocks of the README in a language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def readme_commands() -> list[str]:
    """Every line of the README's shell blocks that calls the program, comments left out."""
    joined = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    found = [match.group(0) for line in joined for match in re.finditer(r"\bpiaa( [a-z-]+)?[^|&;#>]*", line)]
    return [command.strip() for command in found if re.match(r"piaa (--|[a-z])", command)]


def test_readme_and_checks_install_and_test_alike() -> None:
    """What a newcomer is told to type is what the checks run."""
    for command in ('install -e ".[dev]"', "-m pytest"):
        assert any(command in block for block in blocks("bash"))
        assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_readme_shows_the_program() -> None:
    """The test below reads real commands, not an empty list."""
    shown = {shlex.split(command)[1] for command in readme_commands()}
    assert shown >= {"demo", "score", "personalize", "users"}


@pytest.mark.parametrize("command", sorted({*readme_commands()}))
def test_readme_commands_are_understood(command: str) -> None:
    """The program parses every command line that the README shows: no unknown word, no unknown option."""
    name, *words = shlex.split(command)
    parser: Any = typer.main.get_command(app)
    while words and words[0] in getattr(parser, "commands", {}):
        name = words.pop(0)
        parser = parser.commands[name]
    assert not hasattr(parser, "commands"), f"{command} names no command"
    parser.make_context(name, words)


def test_check_of_commands_can_fail() -> None:
    parser: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="No such option"):
        parser.commands["score"].make_context("score", ["photos", "--no-such-option"])


def test_readme_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever pastes it, with photos of these names, meets no error and sees scores."""
    pictures = sorted((EMBEDDED_FOLDER / "golden").iterdir())
    rows = [f"holiday/{picture.name},{1 + number % 5}" for number, picture in enumerate(pictures)]
    shutil.copytree(EMBEDDED_FOLDER / "golden", tmp_path / "holiday")
    (tmp_path / "ratings.csv").write_text("\n".join(["image,rating", *rows]) + "\n", encoding="utf-8")
    for name, picture in zip(("a.jpg", "b.jpg"), pictures, strict=False):
        shutil.copyfile(picture, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIAA_HOME", str(tmp_path / "home"))
    Scorer.from_pretrained().personalize("ratings.csv", user="tom")
    code = next(block for block in blocks("python") if "scorer.personalize(" in block)

    exec(compile(code, "README.md", "exec"), names := {"__name__": "readme"})

    assert len(names["personal"]) == len(names["std"]) == len(pictures)
    printed = capsys.readouterr().out.splitlines()
    together, alone = printed[-len(pictures) :], printed[-2 * len(pictures) : -len(pictures)]
    assert [line.split()[-1] for line in alone] == ["None"] * len(pictures)
    assert all(line.split()[-1] == line.split()[-2] for line in together), "both have the same ratings"


def test_readme_graph_runs_without_this_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pasted to run an exported graph gives the score that this package gives."""
    pytest.importorskip("onnx")
    pictures = sorted((EMBEDDED_FOLDER / "golden").glob("*.jpg"))
    ratings = {str(picture): 1 + number % 5 for number, picture in enumerate(pictures)}
    scorer = Scorer.from_pretrained(cache=False).personalize(ratings)
    scorer.export_onnx(tmp_path / "mira.onnx")
    shutil.copyfile(pictures[0], tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in blocks("python") if "InferenceSession" in block]
    assert "piaa" not in code

    exec(compile(code, "README.md", "exec"), names := {"__name__": "readme"})

    [expected] = scorer.score([pictures[0]])
    assert names["score"][0] == pytest.approx(expected.personal, abs=1e-4)
    assert names["std"][0] == pytest.approx(expected.std, abs=1e-4)
