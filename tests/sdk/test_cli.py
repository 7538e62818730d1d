"""The commands, called the way a shell calls them but in this process."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

import piaa_sdk
from piaa_sdk import Scorer
from piaa_sdk.bundle import EMBEDDED_FOLDER, write_config
from piaa_sdk.choices import ReportFormat
from piaa_sdk.cli import app
from piaa_sdk.cli_score import _score_into
from piaa_sdk.reports import open_report
from piaa_sdk.row_file import PersonRecord, RunRecord
from piaa_sdk.terminal import Console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

RATINGS = (1, 5, 2, 4, 3, 5, 1, 2)


def run(*arguments: object, text: str | bytes | None = None, code: int = 0) -> Result:
    """Run one command and check its exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.fixture
def ratings(photos: list[Path]) -> Path:
    """Ratings of eight of the twelve photos, beside them."""
    table = photos[0].parent / "ratings.csv"
    lines = [f"{photo.name},{rating}" for photo, rating in zip(photos, RATINGS, strict=False)]
    table.write_text("\n".join(["image,rating", *lines, ""]))
    return table


def test_a_folder_becomes_a_table_best_first(photos: list[Path]) -> None:
    result = run("score", photos[0].parent)
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["rank", "score", "stars", "percentile", "photo"]
    assert sorted(line.split()[-1] for line in lines) == [str(photo) for photo in photos]
    scores = [float(line.split()[1]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert result.stderr == "scored 12 photos the way most people would, scale 1 to 7\n"


def test_the_command_line_gives_the_scores_of_python(photos: list[Path]) -> None:
    expected = {score.image: score.generic for score in Scorer.from_pretrained().score(photos)}
    rows = [json.loads(line) for line in run("score", *photos, "--format", "jsonl").stdout.splitlines()]
    assert {row["path"]: row["generic"] for row in rows} == expected


def test_rows_say_what_they_were_made_with(photos: list[Path]) -> None:
    bundle = Scorer.from_pretrained().bundle
    (row,) = [json.loads(line) for line in run("score", photos[3], "--format", "jsonl").stdout.splitlines()]
    assert row["bundle_id"] == bundle.bundle_id
    assert row["bundle_revision"] == bundle.bundle_revision
    assert row["sdk_version"] == piaa_sdk.__version__
    assert row["user"] is row["personal"] is row["std"] is row["error"] is None


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "txt"])
def test_a_file_is_written_as_its_name_says(photos: list[Path], tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"scores.{suffix}"
    result = run("score", *photos, "--output", output)
    assert result.stdout == ""
    assert result.stderr.endswith(f"; wrote {output}\n")
    if suffix == "parquet":
        paths = pytest.importorskip("pyarrow.parquet").read_table(output)["path"].to_pylist()
        assert paths == [str(photo) for photo in photos]
    elif suffix == "txt":
        assert len(output.read_text(encoding="utf-8").splitlines()) == 13
    else:
        content = output.read_text(encoding="utf-8")
        rows = rows_of(content) if suffix == "csv" else [json.loads(line) for line in content.splitlines()]
        assert [row["path"] for row in rows] == [str(photo) for photo in photos]
        assert max(float(row["percentile"]) for row in rows) == 100
    assert not list(tmp_path.glob("*.partial*"))


def test_each_photo_has_a_row_for_each_person(ratings: Path, photos: list[Path], tmp_path: Path) -> None:
    run("personalize", ratings, "--user", "ann", "--scale", "1", "5")
    ratings.write_text(ratings.read_text().replace(",5", ",6"))
    run("personalize", ratings, "--user", "bob", "--scale", "1", "7")
    people = ("--user", "bob", "--user", "ann ", "--user", "bob", "--user", "ann")  # four names of two
    told = run("score", *photos, *people, "--output", tmp_path / "both.csv").stderr
    assert "scored 12 photos for bob, scale 1 to 7 and ann, scale 1 to 5; wrote" in told
    rows = rows_of((tmp_path / "both.csv").read_text(encoding="utf-8"))
    assert [(row["path"], row["user"]) for row in rows] == [
        (str(photo), user) for photo in photos for user in ("bob", "ann")
    ]
    for user in ("ann", "bob"):
        run("score", *photos, "--user", user, "--output", tmp_path / "one.csv")
        alone = rows_of((tmp_path / "one.csv").read_text(encoding="utf-8"))
        assert [row for row in rows if row["user"] == user] == alone


def test_a_missing_person_is_named_before_photos_are_opened(ratings: Path, photos: list[Path]) -> None:
    run("personalize", ratings, "--user", "ann")
    assert "'bob'" in run("score", *photos, "--user", "ann", "--user", "bob", code=1).stderr


def test_rows_stream_in_the_order_of_the_photos_or_best_first(photos: list[Path]) -> None:
    as_given = rows_of(run("score", *reversed(photos), "--format", "csv").stdout)
    assert [row["path"] for row in as_given] == [str(photo) for photo in reversed(photos)]
    assert {row["percentile"] for row in as_given} == {""}
    best_first = rows_of(run("score", *photos, "--format", "csv", "--order", "score").stdout)
    assert best_first == sorted(best_first, key=lambda row: -float(row["generic"]))
    assert best_first[0]["percentile"] == "100.0"
    top = rows_of(run("score", *photos, "--format", "csv", "--top", "3").stdout)
    assert top == best_first[:3]


def test_a_table_in_the_order_of_the_photos_keeps_the_ranks(photos: list[Path]) -> None:
    lines = run("score", *photos, "--order", "input").stdout.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == [str(photo) for photo in photos]
    assert sorted(int(line.split()[0]) for line in lines) == list(range(1, 13))


def test_folders_inside_folders_are_a_choice(photos: list[Path]) -> None:
    below = photos[0].parent / "below"
    below.mkdir()
    photos[0].rename(below / "moved.png")
    assert len(run("score", photos[0].parent).stdout.splitlines()) == 13
    assert len(run("score", photos[0].parent, "--no-recursive").stdout.splitlines()) == 12


@pytest.mark.parametrize(
    "separator", ["\n", "\r\n", "\0"], ids=["lines", "lines of Windows", "NUL characters"]
)
def test_names_come_from_standard_input(photos: list[Path], separator: str) -> None:
    odd = photos[0].rename(photos[0].with_name("a\nb.png" if separator == "\0" else "a b.png"))
    listed = separator.join([str(odd), str(photos[1]), ""])
    rows = rows_of(run("score", "-", "--format", "csv", text=listed).stdout)
    assert [row["path"] for row in rows] == [str(odd), str(photos[1])]


def test_a_photo_given_twice_is_reported_twice(photos: list[Path]) -> None:
    rows = rows_of(run("score", photos[0], photos[1], photos[0], "--format", "csv").stdout)
    assert [row["path"] for row in rows] == [str(photos[index]) for index in (0, 1, 0)]
    assert rows[0] == rows[2]


def test_one_bad_photo_is_one_line_and_the_others_are_scored(photos: list[Path]) -> None:
    photos[2].write_bytes(photos[2].read_bytes()[:60])
    missing = photos[0].with_name("nowhere.png")
    result = run("score", *photos, missing, code=1)
    assert len(result.stdout.splitlines()) == 12
    first, second, summary = result.stderr.splitlines()
    assert first.startswith(f"skipped: {photos[2]}: ")
    assert second == f"skipped: {missing}: no such file or folder"
    assert summary == "scored 11 of 13 photos the way most people would, scale 1 to 7; 2 could not be read"


def test_a_bad_photo_has_its_row_in_a_file(photos: list[Path], tmp_path: Path) -> None:
    photos[0].write_bytes(b"")
    run("score", *photos, "--output", tmp_path / "scores.csv", code=1)
    row, *others = rows_of((tmp_path / "scores.csv").read_text())
    assert row["path"] == str(photos[0])
    assert row["error"] == "the file is empty"
    assert row["generic"] == row["stars"] == row["percentile"] == ""
    assert all(other["error"] == "" for other in others)


def test_a_folder_without_photos_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    result = run("score", tmp_path, "--output", tmp_path / "scores.csv", code=1)
    assert result.stderr.startswith("error: no photos found")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("score",), "Missing argument"),
        (("score", "x.jpg", "--format", "xls"), "xls"),
        (("score", "x.jpg", "--format", "parquet"), "--output"),
        (("score", "x.jpg", "--output", "scores.xls"), ".csv, .jsonl, .parquet or .txt"),
        (("score", "x.jpg", "--top", "0"), "--top"),
        (("personalize", "ratings.csv", "--add", "--replace"), "not both"),
        (("personalize", "ratings.csv", "--scale", "1"), "--scale"),
        (("users", "steal", "ann"), "steal"),
    ],
)
def test_a_command_that_is_not_understood_ends_with_2(arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in run(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("score", "x.jpg", "--user", "nobody"), "no profile of 'nobody'"),
        (("score", "x.jpg", "--model", "nowhere"), "nowhere"),
        (("score", "x.jpg", "--device", "abacus"), "abacus"),
        (("score", "x.jpg", "--output", "nowhere/scores.csv"), "there is no folder"),
        (("score", "x.jpg", "--format", "csv", "--output", "x.jpg"), "name for a photo"),
        (("personalize", "nowhere.csv"), "nowhere.csv: No such file"),
        (("users", "show", "nobody"), "no profile of 'nobody'"),
        (("users", "delete", "nobody"), "no profile of 'nobody'"),
        (("users", "import", "nowhere.piaa"), "nowhere.piaa"),
        (("model", "show", "nowhere"), "nowhere"),
        (("model", "download", "nowhere"), "org/name@revision"),
    ],
)
def test_an_error_is_one_message_and_ends_with_1(arguments: tuple[str, ...], complaint: str) -> None:
    result = run(*arguments, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert complaint in result.stderr


def test_taste_is_learned_stored_used_and_forgotten(
    photos: list[Path], ratings: Path, piaa_home: Path
) -> None:
    learned = run("personalize", ratings, "--user", "mira").stdout.splitlines()
    assert learned[0] == "mira: 8 photos: 2x1 2x2 1x3 1x4 2x5"
    assert learned[1] == "scale 1 to 5 (recognized; state another with --scale)"
    assert f"Stored in {piaa_home / 'profiles'}. To score with it:" in learned
    assert "  piaa score PHOTOS --user mira" in learned

    personal = run("score", *photos, "--user", "mira", "--format", "csv")
    assert personal.stderr == "scored 12 photos for mira, scale 1 to 5\n"
    rows = rows_of(personal.stdout)
    assert {row["user"] for row in rows} == {"mira"}
    assert all(float(row["std"]) > 0 for row in rows)
    assert "±" in run("score", *photos, "--user", "mira").stdout
    assert "±" not in run("score", *photos).stdout

    assert run("users", "list").stdout.splitlines()[1].split()[:2] == ["mira", "8"]
    shown = run("users", "show", "mira").stdout
    assert "rated photos  8" in shown
    assert "1 to 5" in shown

    assert "Forget mira and 8 ratings" in run("users", "delete", "mira", text="n\n", code=1).stderr
    run("users", "delete", "mira", text="y\n")
    run("score", *photos, "--user", "mira", code=1)


def test_ratings_without_a_name_are_of_default_and_score_stays_generic(
    photos: list[Path], ratings: Path
) -> None:
    before = run("score", *photos).stdout
    assert run("personalize", ratings).stdout.startswith("default: 8 photos")
    assert run("score", *photos).stdout == before
    assert run("score", *photos, "--user", "default").stdout != before


def test_other_ratings_need_a_decision(photos: list[Path], ratings: Path) -> None:
    run("personalize", ratings, "--user", "mira", "--scale", 1, 10)
    ratings.write_text(f"image,rating\n{photos[8].name},9\n{photos[9].name},2\n")
    refused = run("personalize", ratings, "--user", "mira", code=1)
    assert "--add" in refused.stderr
    assert "--replace" in refused.stderr
    added = run("personalize", ratings, "--user", "mira", "--add")
    assert "scale 1 to 10 (as before)" in added.stdout
    assert "rated photos  10" in run("users", "show", "mira").stdout
    run("personalize", ratings, "--user", "mira", "--replace", "--scale", 1, 10)
    shown = run("users", "show", "mira").stdout
    assert "rated photos  2" in shown
    assert "backups" in shown


def test_a_column_tells_people_apart(photos: list[Path], ratings: Path) -> None:
    lines = ["image,rating,user"]
    for photo, rating in zip(photos, RATINGS, strict=False):
        lines += [f"{photo.name},{rating},ann", f"{photo.name},{6 - rating},Bob the 2nd"]
    ratings.write_text("\n".join(lines))
    told = run("personalize", ratings).stdout
    assert "ann: 8 photos: 2x1 2x2 1x3 1x4 2x5" in told
    assert "--user 'Bob the 2nd'" in told
    names = [line.split("  ")[0] for line in run("users", "list").stdout.splitlines()[1:]]
    assert names == ["ann", "Bob the 2nd"]
    run("users", "delete", "ann", "--yes")
    run("users", "delete", "Bob the 2nd", "--yes")
    run("personalize", ratings, "--user", "ann")
    assert len(run("users", "list").stdout.splitlines()) == 2
    assert "ann" in run("personalize", ratings, "--user", "carl", code=1).stderr


@pytest.mark.parametrize("name", ["", "  ", "a\nb"])
def test_a_name_that_is_none_is_refused(photos: list[Path], ratings: Path, name: str) -> None:
    assert "the name of a user" in run("personalize", ratings, "--user", name, code=1).stderr
    assert "the name of a user" in run("score", photos[0], "--user", name, code=1).stderr


def test_photos_can_be_elsewhere(photos: list[Path], ratings: Path, tmp_path: Path) -> None:
    table = ratings.rename(tmp_path / "elsewhere.csv")
    assert "line 2" in run("personalize", table, code=1).stderr
    run("personalize", table, "--photos", photos[0].parent)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("image,stars\n00.png,1\n", "line 1"),
        ("image,rating\n", "no ratings"),
        ("image,rating\n00.png,1\n01.png,good\n", "line 3"),
        ("image,rating\n00.png,1\n00.png,2\n", "line 3"),
        ("image,rating\n00.png,1\nnowhere.png,2\n", "line 3"),
        ("image,rating\n00.png,1\n", "at least 2"),
        ("image,rating\n00.png,2\n01.png,2\n", "all 2 ratings are equal"),
        ("image,rating\n00.png,1\nbroken.png,2\n", "broken.png"),
        ("image,score,generic\n00.png,1,1\n01.png,2,2\n", "made by piaa"),
    ],
)
def test_bad_ratings_are_named_and_nothing_is_stored(photos: list[Path], rows: str, complaint: str) -> None:
    table = photos[0].with_name("ratings.csv")
    table.write_text(rows)
    photos[0].with_name("broken.png").write_bytes(photos[0].read_bytes()[:50])
    result = run("personalize", table, "--user", "mira", code=1)
    assert complaint in result.stderr
    assert "nobody is stored" in run("users", "list").stderr


def test_one_person_with_bad_ratings_keeps_all_from_being_stored(photos: list[Path], ratings: Path) -> None:
    """A table is stored whole or not at all: half of it would be worse than an error."""
    lines = ["image,rating,user"]
    for photo, rating in zip(photos, RATINGS, strict=False):
        lines += [f"{photo.name},{rating},ann", f"{photo.name},3,bob"]
    ratings.write_text("\n".join(lines))
    assert "ratings are equal" in run("personalize", ratings, code=1).stderr
    assert "nobody is stored" in run("users", "list").stderr


def test_one_person_without_a_profile_keeps_all_from_being_added_to(
    photos: list[Path], ratings: Path
) -> None:
    lines = ["image,rating,user"]
    for photo, rating in zip(photos, RATINGS, strict=False):
        lines += [f"{photo.name},{rating},ann"]
    ratings.write_text("\n".join(lines))
    run("personalize", ratings)
    ratings.write_text("\n".join([*lines[:1], f"{photos[9].name},1,ann", f"{photos[9].name},2,bob"]))
    assert "no profile of 'bob'" in run("personalize", ratings, "--add", code=1).stderr
    assert "rated photos  8" in run("users", "show", "ann").stdout
    ratings.write_text("\n".join([*lines[:1], f"{photos[9].name},1,ann"]))
    run("personalize", ratings, "--add")
    assert "rated photos  9" in run("users", "show", "ann").stdout


def test_a_stated_scale_wins_and_is_kept(photos: list[Path], ratings: Path) -> None:
    told = run("personalize", ratings, "--user", "mira", "--scale", "0", "10").stdout
    assert "scale 0 to 10 (as stated)\n" in told
    assert run("score", *photos, "--user", "mira").stderr.endswith("scale 0 to 10\n")
    assert "outside the scale" in run("personalize", ratings, "--user", "x", "--scale", 1, 4, code=1).stderr


def test_a_profile_travels_in_a_file(photos: list[Path], ratings: Path, tmp_path: Path) -> None:
    run("personalize", ratings, "--user", "mira")
    scores = run("score", *photos, "--user", "mira").stdout
    run("users", "export", "mira", "--output", tmp_path)
    assert "is there already" in run("users", "export", "mira", "--output", tmp_path, code=1).stderr
    run("users", "export", "mira", "--output", tmp_path, "--force")
    assert "stored already" in run("users", "import", tmp_path / "mira.piaa", code=1).stderr
    run("users", "import", tmp_path / "mira.piaa", "--user", "twin")
    assert run("score", *photos, "--user", "twin").stdout == scores


def test_a_profile_is_learned_again_from_what_is_stored(photos: list[Path], ratings: Path) -> None:
    run("personalize", ratings, "--user", "mira")
    scores = run("score", *photos, "--user", "mira").stdout
    ratings.unlink()
    assert run("users", "refit", "mira").stderr.startswith("stored mira for ")
    assert run("score", *photos, "--user", "mira").stdout == scores


def test_a_profile_for_another_model_says_how_to_learn_it_again(
    photos: list[Path], ratings: Path, tmp_path: Path
) -> None:
    """A new revision that sees photos as before needs the stored embeddings only, not the photos."""
    run("personalize", ratings, "--user", "mira")
    other = Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "other"))
    (other / "README.md").write_text("another revision")
    write_config(other, json.loads((other / "config.json").read_text()))
    refused = run("score", photos[11], "--user", "mira", "--model", other, code=1)
    assert f"piaa users refit mira --model {other}" in refused.stderr
    for photo in photos[: len(RATINGS)]:
        photo.unlink()
    run("users", "refit", "mira", "--model", other)
    run("score", photos[11], "--user", "mira", "--model", other)


def test_the_cache_is_shown_and_cleared(photos: list[Path]) -> None:
    run("score", *photos, "--no-cache")
    assert "0 bytes" in run("cache", "show").stdout
    run("score", *photos)
    assert "12 photos" in run("cache", "show").stdout
    assert run("cache", "clear").stderr.startswith("freed ")
    assert "12 photos" not in run("cache", "show").stdout


def test_a_damaged_cache_is_one_warning_and_no_failure(photos: list[Path], piaa_home: Path) -> None:
    (piaa_home / "cache").mkdir()
    (piaa_home / "cache" / "embeddings.sqlite").write_bytes(b"no database " * 1000)
    result = run("score", *photos)
    assert len(result.stdout.splitlines()) == 13
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert len(result.stderr.splitlines()) == 2


def test_rows_of_a_stopped_run_are_mentioned(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "scores.csv.partial").write_text("earlier")
    result = run("score", *photos, "--output", tmp_path / "scores.csv")
    kept = tmp_path / "scores.csv.partial.1"
    assert result.stderr.startswith(
        f"warning: rows of an earlier run that was stopped are kept in {kept}; the command that made"
    )
    assert (tmp_path / "scores.csv.partial.1").read_text() == "earlier"


def test_the_model_is_described_and_needs_no_download() -> None:
    bundle = Scorer.from_pretrained().bundle
    assert bundle.bundle_revision[:12] in run("model", "list").stdout
    shown = run("model", "show").stdout
    assert bundle.bundle_revision in shown
    assert "onnx/backbone.onnx" in shown
    assert "nothing to download" in run("model", "download").stderr


def test_version() -> None:
    assert run("--version").stdout == f"piaa-sdk {piaa_sdk.__version__}\n"


def every_command() -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = [
        (command.callback.__name__,) for command in app.registered_commands if command.callback
    ]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands += [(str(group.name), str(one.name)) for one in group.typer_instance.registered_commands]
    return commands


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: tuple[str, ...]) -> None:
    text = run(*command, "--help").stdout
    assert "Example: piaa " + " ".join(command) in " ".join(text.split())


def test_adding_ratings_says_what_changed(photos: list[Path], ratings: Path, tmp_path: Path) -> None:
    run("personalize", ratings, "--user", "mira")
    more = tmp_path / "more.csv"
    more.write_text(f"image,rating\n{photos[0]},{6 - RATINGS[0]:g}\n{photos[-1]},3\n")
    told = run("personalize", more, "--user", "mira", "--add").stdout
    assert f"9 rated photos in all: 1 added, 1 changed ({photos[0]} 1 -> 5), 0 repeated\n" in told
    moved = photos[0].rename(tmp_path / "moved.png")
    more.write_text(f"image,rating\n{moved},2\n{photos[-1]},3\n")
    told = run("personalize", more, "--user", "mira", "--add").stdout
    assert f"9 rated photos in all: 0 added, 1 changed ({moved} -> 2), 1 repeated\n" in told


def test_the_scale_of_a_stored_profile_is_not_said_to_be_recognized(
    photos: list[Path], ratings: Path
) -> None:
    assert "(recognized; " in run("personalize", ratings, "--user", "mira").stdout
    assert "scale 1 to 5 (as before)\n" in run("personalize", ratings, "--user", "mira").stdout
    assert "(recognized; " in run("personalize", ratings, "--user", "mira", "--replace").stdout


def two_people(photos: list[Path], table: Path, ann: tuple[int, ...], bob: tuple[int, ...]) -> None:
    lines = ["image,rating,user"]
    for name, given in (("ann", ann), ("bob", bob)):
        lines += [f"{photo.name},{rating},{name}" for photo, rating in zip(photos, given, strict=False)]
    table.write_text("\n".join(lines))


def stored_files(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (home / "profiles").rglob("*") if path.is_file()}


def test_one_person_on_another_scale_changes_nobody(
    photos: list[Path], ratings: Path, piaa_home: Path
) -> None:
    two_people(photos, ratings, RATINGS, ())
    run("personalize", ratings, "--scale", 0, 10)
    two_people(photos, ratings, (), RATINGS)
    run("personalize", ratings, "--scale", 1, 5)
    before = stored_files(piaa_home)
    two_people(photos[8:], ratings, (2, 3), (4, 1))
    for arguments in (("--add", "--scale", 0, 10), ("--add", "--scale", 1, 5)):
        refused = run("personalize", ratings, *arguments, code=1)
        assert "stored on the scale" in refused.stderr
        assert stored_files(piaa_home) == before


def test_one_person_of_another_model_changes_nobody(
    photos: list[Path], ratings: Path, tiny_bundle: Path, piaa_home: Path
) -> None:
    two_people(photos, ratings, RATINGS, ())
    run("personalize", ratings)
    two_people(photos, ratings, (), RATINGS)
    run("personalize", ratings, "--model", tiny_bundle)
    before = stored_files(piaa_home)
    two_people(photos[8:], ratings, (2, 3), (4, 1))
    for model in ((), ("--model", tiny_bundle)):
        assert "piaa users refit" in run("personalize", ratings, "--add", *model, code=1).stderr
        assert stored_files(piaa_home) == before


def test_one_person_with_other_ratings_or_nothing_left_to_learn_changes_nobody(
    photos: list[Path], ratings: Path, tiny_bundle: Path, piaa_home: Path
) -> None:
    two_people(photos, ratings, (1, 5, 2), (1, 5))
    run("personalize", ratings)
    before = stored_files(piaa_home)
    two_people(photos, ratings, (1, 5, 2), (2, 4))
    assert "other ratings of 'bob'" in run("personalize", ratings, "--model", tiny_bundle, code=1).stderr
    assert stored_files(piaa_home) == before
    two_people(photos, ratings, (3, 4), (5,))
    assert "ratings are equal" in run("personalize", ratings, "--add", code=1).stderr
    assert stored_files(piaa_home) == before


def test_stopped_before_the_first_row_claims_no_rows(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Path]:
        raise KeyboardInterrupt
        yield

    context = typer.Context(typer.main.get_command(app))
    scorer, told, output = Scorer.from_pretrained(), io.StringIO(), tmp_path / "scores.csv"
    record = RunRecord.of(scorer.bundle, [PersonRecord(None, scorer.scale, scorer.scorer_id)], {})
    with (
        open_report(record, ReportFormat.CSV, stdout=sys.stdout, output=output) as report,
        pytest.raises(typer.Exit) as stopped,
    ):
        _score_into(report, [scorer], interrupted(), Console(told), None, context)
    assert stopped.value.exit_code == 130
    assert told.getvalue() == "stopped after 0 photos\n"
    assert list(tmp_path.iterdir()) == []


def test_an_export_with_an_odd_name_is_told_on_one_line(ratings: Path, tmp_path: Path) -> None:
    run("personalize", ratings, "--user", "mira")
    told = run("users", "export", "mira", "--output", tmp_path / "a\nb.piaa").stderr
    assert told == f"wrote {tmp_path}/a\\nb.piaa; on the other computer: piaa users import 'a\\nb.piaa'\n"
