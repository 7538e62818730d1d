"""The commands that meta-train and compare, on miniatures of the three data sets in their release formats.

FLICKR-AES ends in the whole Table I by one command, the others in some of its rows. Backbones are random and
see 32 pixels; what is tested is that everything arrives where it belongs, not how well it scores.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from training import __main__ as program
from training.baselines.config import BaselineConfig
from training.data.datasets import read_dataset
from training.data.flickr_aes import read_flickr_aes
from training.data.personality import read_personality
from training.data.splits import split as split_dataset
from training.evaluation_record import Evaluation
from training.meta_config import MetaConfig
from training.published import TABLE_METHODS, load_methods
from training.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

CONFIGS = load_methods(TABLE_METHODS)
LEARNERS = [config.title for config in CONFIGS if isinstance(config, MetaConfig)]
UNLABELLED = "PA_IAA (without personality labels)"
TITLES = [UNLABELLED if config.title == "PA_IAA" else config.title for config in CONFIGS]
QUICK = (
    *("--untrained", "--threads", "1", "--set", "network.size=32", "--set", "network.head.hidden=[8]"),
    *("--set", "schedule.iterations=2", "--set", "fine_tuning.epochs=2"),
    # Random embeddings of plain pictures differ along two directions: standardized, steps along them are far
    # too long.
    *("--set", "network.head.standardize=false"),
)
FEW = ("fpmf_both", "pam_both", "usar_both", "pa_iaa", "maml", "ba", "blg_as_paper")
FEW_TITLES = [TITLES[TABLE_METHODS.index(name)] for name in FEW]
FEW_METHODS = [part for name in FEW for part in ("--method", name)]
JUDGED = ("--repeats", "1", "--users", "4", "--control-repeats", "0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for what the commands of this file make, and for what they read of pictures."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _run(*arguments: object) -> int:
    """Run ``python -m training`` here; returns its exit code."""
    before = sys.argv
    sys.argv = ["training", *map(str, arguments)]
    try:
        program.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def _succeed(*arguments: object) -> None:
    assert _run(*arguments) == 0, arguments


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs a command that must fail as promised: one line, code 1, nothing on stdout."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert _run(*arguments) == 1
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert said.out == ""
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], said.err
        assert "Traceback" not in said.err
        return lines[-1].removeprefix("error: ")

    return run


def _table_of(data: Path, format: str, place: Path, *more: object) -> Path:
    output = place / f"table-{format}"
    shots = ("--shots", "10") if format == "real-cur" else ("--shots", "10", "--shots", "100")
    named = ("--format", format, "--cache", place / "cache")
    _succeed("table", data, output, *named, *QUICK, *JUDGED, *shots, *more)
    return output


@pytest.fixture(scope="module")
def flickr_table(flickr_aes_folder: Path, place: Path) -> Path:
    return _table_of(flickr_aes_folder, "flickr-aes", place)


@pytest.fixture(scope="module")
def aadb_table(aadb_folder: Path, place: Path) -> Path:
    return _table_of(aadb_folder, "aadb", place, "--method", "ba", "--method", "blg_as_paper")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _check_table(folder: Path, shots: list[int], titles: list[str]) -> None:
    rows = _rows(folder / "table.csv")
    assert [row["method"] for row in rows] == titles
    for row in rows:
        for count in shots:
            assert -1 <= float(row[f"M = {count}"]) <= 1
            assert -1 <= float(row[f"prior, query of M = {count}"]) <= 1
        assert bool(row["s per iteration"]) == (row["method"] in LEARNERS)
    [base] = [row for row in rows if row["method"] == "BA-PIAA"]
    for row in rows:
        if row is not base:
            difference = float(row[f"own - BA-PIAA, M = {shots[-1]}"])
            levels = [float(one[f"M = {shots[-1]}"]) for one in (row, base)]
            assert difference == pytest.approx(levels[0] - levels[1], abs=2e-6)
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert all(f"| {title} |" in text for title in titles)
    assert "keep-leak" not in text


def test_table_1_of_flickr_aes_by_one_command(flickr_table: Path) -> None:
    """All rows, judged on the same people, pictures and supports, with the printed figures beside them."""
    _check_table(flickr_table, [10, 100], TITLES)
    judged = [Evaluation.load(path) for path in sorted(flickr_table.glob("*.json"))]
    assert {one.method for one in judged} == set(TITLES)
    assert len({one.conditions for one in judged}) == 1
    assert {one.result(100).judged.people for one in judged} == {judged[0].result(100).judged.people}
    assert {one.facts["trained_on"] for one in judged} == {"flickr-aes"}
    runs = [Run.open(path.parent) for path in flickr_table.glob("*/run.json")]
    assert len(runs) == len(LEARNERS)
    splits = [run.record["split"] for run in runs]
    assert all(split == splits[0] for split in splits)
    assert len(splits[0]["test"]["users"]) == 37
    assert not set(splits[0]["test"]["images"]) & set(splits[0]["train"]["images"])


def test_table_1_says_what_is_printed_and_what_a_row_lacks(flickr_table: Path) -> None:
    printed = {
        row["method"]: row["printed for FLICKR-AES, M = 100"] for row in _rows(flickr_table / "table.csv")
    }
    assert printed["BLG-PIAA (as paper)"] == "0.669 ± 0.013"
    assert printed["FPMF (only attribute)"] == "0.516 ± 0.003"
    assert printed["closed form, learned layer"] == ""
    text = (flickr_table / "table.md").read_text(encoding="utf-8")
    assert "Attributes of the compared systems: hand-computed." in text
    assert "PA_IAA had no images with personality labels" in text
    assert "with the printed order" in text
    assert "Printed: Table I of Zhu et al. 2020, 37 users of FLICKR-AES; other people" in text
    settings = [QUICK[place + 1] for place, option in enumerate(QUICK) if option == "--set"]
    assert f"Settings put on top of the shipped ones: {', '.join(settings)}." in text
    pairs = _rows(flickr_table / "order-100.csv")
    assert len(pairs) == 15 * 14 // 2 - 1, "two rows of BLG-PIAA are one row in print"


def test_compared_systems_are_fitted_to_training_users(flickr_table: Path) -> None:
    """Settings are chosen among those that the configuration offers, by figures that are kept."""
    configs = dict(zip(TITLES, CONFIGS, strict=True))
    found = [Evaluation.load(path) for path in flickr_table.glob("*.json")]
    systems = [one for one in found if "system" in one.facts]
    assert len(systems) == 10
    for one in systems:
        config = configs[one.method]
        assert isinstance(config, BaselineConfig)
        candidates, srocc = config.settings.candidates(), one.facts["validation_srocc"]
        assert len(srocc) == len(candidates)
        assert one.facts["chosen"] == candidates[srocc.index(max(srocc))]
        assert one.facts["attributes"] == "hand-computed"


def test_labels_of_personality_reach_pa_iaa(flickr_aes_folder: Path, tmp_path: Path, place: Path) -> None:
    """With labelled pictures the row has its plain title, and its facts tell which labels and how many known.

    The pictures are copies of the data set's own, so that some of them are those of test users.
    """
    pictures = sorted((flickr_aes_folder / "40K").iterdir())
    for picture in pictures:
        shutil.copy(picture, tmp_path / picture.name)
    lines = [f"{picture.name},{number % 5 + 1},1,2,3,5" for number, picture in enumerate(pictures)]
    labels = tmp_path / "personality.csv"
    labels.write_text("\n".join(["image,O,C,E,A,N", *lines]), encoding="utf-8")
    output = tmp_path / "table"
    named = ("--format", "flickr-aes", "--cache", place / "cache", "--method", "pa_iaa", "--shots", "10")
    quick = ("--set", "pa_iaa.iterations=[2]", "--set", "pa_iaa.rates=[1e-4]", "--personality", labels)
    _succeed("table", flickr_aes_folder, output, *named, *QUICK[:5], *quick, *JUDGED)
    [judged] = [Evaluation.load(path) for path in output.glob("*.json")]
    assert judged.method == "PA_IAA"
    assert judged.facts["personality"] == read_personality(labels).digest()
    assert 0 < judged.facts["seen_pictures"] < len(pictures)
    assert "no images with personality labels" not in (output / "table.md").read_text(encoding="utf-8")


def test_table_1_is_made_again_from_what_is_there(flickr_aes_folder: Path, flickr_table: Path) -> None:
    """A call that was interrupted goes on: one method is missing, and none of the others is learned again."""
    first = _rows(flickr_table / "table.csv")
    shutil.rmtree(flickr_table / "closed-form--learned-layer")
    for name in ("closed-form--learned-layer.json", "table.csv", "table.md"):
        (flickr_table / name).unlink()
    states = {path: path.stat().st_mtime_ns for path in flickr_table.glob("*/*.*")}
    assert len(states) == 3 * (len(LEARNERS) - 1)
    states |= {path: path.stat().st_mtime_ns for path in flickr_table.glob("*.json")}  # nor judged again
    assert len(states) == 3 * (len(LEARNERS) - 1) + len(TITLES) - 1
    _table_of(flickr_aes_folder, "flickr-aes", flickr_table.parent)
    assert {path: path.stat().st_mtime_ns for path in states} == states
    seconds = {name for name in first[0] if name.startswith("s ")}
    again = _rows(flickr_table / "table.csv")
    assert [{k: v for k, v in row.items() if k not in seconds} for row in again] == [
        {k: v for k, v in row.items() if k not in seconds} for row in first
    ]


def test_table_1_of_aadb_by_one_command(aadb_folder: Path, place: Path) -> None:
    output = _table_of(aadb_folder, "aadb", place / "all", *FEW_METHODS)
    _check_table(output, [10, 100], FEW_TITLES)
    record = Run.open(next(output.glob("*/run.json")).parent).record
    assert len(record["split"]["test"]["users"]) == 22
    assert record["split"]["data"] == "aadb"


def test_table_1_of_real_cur_by_one_command(
    miniatures: ModuleType, flickr_aes_folder: Path, place: Path
) -> None:
    """It has nobody to train on: the priors come from FLICKR-AES, as in the paper."""
    albums = place / "real-cur"
    miniatures.write_real_cur(albums, seed=1)  # with the seed of the others, it would have their pictures
    trained_on = ("--train-on", flickr_aes_folder, "--train-format", "flickr-aes")
    output = _table_of(albums, "real-cur", place, *trained_on, *FEW_METHODS)
    _check_table(output, [10], FEW_TITLES)
    judged = Evaluation.load(next(output.glob("*.json")))
    assert (judged.conditions.data, judged.facts["trained_on"]) == ("real-cur", "flickr-aes")
    assert judged.conditions.users == 14


def test_pictures_to_be_tested_on_are_found_before_hours_of_training(
    miniatures: ModuleType, flickr_aes_folder: Path, place: Path, refused: Callable[..., str]
) -> None:
    """With the seed of the other miniature, the albums hold its pictures by other names."""
    albums = place / "same-pictures"
    miniatures.write_real_cur(albums)
    named = ("--format", "real-cur", "--cache", place / "cache", "--train-on", flickr_aes_folder)
    said = refused("table", albums, place / "never", *named, *QUICK, *JUDGED, "--shots", "10")
    assert "0 of the 14 people and" in said
    assert "pictures to test on are among those to train on" in said
    assert not (place / "never").exists()


def test_a_data_set_with_nobody_to_train_on_is_said_to_be_one(
    real_cur_folder: Path, place: Path, refused: Callable[..., str]
) -> None:
    for method in ("fpmf_content", "ba"):
        named = ("--format", "real-cur", "--cache", place / "cache", "--method", method)
        said = refused("table", real_cur_folder, place / "nobody", *named, *JUDGED, "--shots", "10")
        assert "real-cur has nobody to train on; train on another data set (--train-on)" in said
        assert not (place / "nobody").exists()


def test_options_that_need_another_are_refused_without_it(
    table_folder: Path, place: Path, refused: Callable[..., str]
) -> None:
    given = ("table", table_folder, place / "never", "--train-groups", "a", "--test-groups", "b")
    assert "name their file with --personality" in refused(*given, "--personality-scale", 1, 5)
    assert "name it with --attributes" in refused(*given, "--attribute-weights", table_folder / "weights.pth")


def test_one_table_is_trained_on_and_another_tested_on(
    table_folder: Path, miniatures: ModuleType, place: Path
) -> None:
    """All people of both without groups named; the groups named are those of the one and of the other."""
    other = place / "other-table"
    miniatures.write_table(other, groups=("d", "e"), users=3, images=25, seed=5)
    named = ("--cache", place / "cache", "--shots", "10", "--method", "ba", "--train-format", "table")
    few = ("--repeats", "1", "--control-repeats", "0")
    for output, groups, trained, tested in [
        ("tables-all", (), 18, 6),
        ("tables-some", ("--train-groups", "a", "--train-groups", "b", "--test-groups", "e"), 12, 3),
    ]:
        _succeed(*("table", other, place / output, "--train-on", table_folder, *named, *QUICK, *few, *groups))
        judged = Evaluation.load(place / output / "ba-piaa.json")
        assert judged.result(10).users == tested
        record = Run.open(place / output / "ba-piaa").record
        assert len(record["people"]) == trained
        assert record["split"]["test"]["users"] == []


def test_full_networks_by_one_command(
    flickr_aes_folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = place / "full"
    named = ("--format", "flickr-aes", "--cache", place / "cache", "--mode", "full")
    quick = [*QUICK, "--set", "network.backbone=tf_efficientnet_lite0", "--set", "tasks.pool=16"]
    quick += ["--set", "tasks.support=[10]", "--set", "tasks.query=6", "--set", "schedule.iterations=1"]
    methods = ("--method", "ba", "--method", "blg_as_paper")
    few = ("--repeats", "1", "--users", "2", "--control-repeats", "0", "--shots", "10")
    _succeed("table", flickr_aes_folder, output, *named, *quick, *few, *methods)
    _check_table(output, [10], ["BA-PIAA", "BLG-PIAA (as paper)"])
    assert "| BLG-PIAA (as paper) |" in capsys.readouterr().out
    assert {Evaluation.load(path).facts["mode"] for path in output.glob("*.json")} == {"full"}


def test_what_a_data_set_holds_and_how_it_is_split(
    flickr_aes_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tables to read, a file to keep, and no person's id in either."""
    output = tmp_path / "new" / "split.json"
    named = ("--format", "flickr-aes", "--validation-users", "3", "--output", output)
    _succeed("data", flickr_aes_folder, *named)
    said = capsys.readouterr()
    assert "| users | 49 |" in said.out
    assert "| test | 37 |" in said.out
    record = json.loads(output.read_bytes())
    sizes = {part: len(record[part]["users"]) for part in ("train", "validation", "test")}
    assert sizes == {"train": 9, "validation": 3, "test": 37}
    for user in read_flickr_aes(flickr_aes_folder).table.users:
        assert user not in said.out + said.err + output.read_text(encoding="utf-8")


def test_a_prior_is_trained_judged_and_compared(
    table_folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long way, with groups of a table and validation users; the result names what it was made by."""
    cache = ("--cache", place / "cache")
    paths = []
    for name in ("ba", "closed_form"):
        run = place / f"long-{name}"
        groups = ("--train-groups", "a", "--validation-groups", "b", "--test-groups", "c")
        _succeed("meta-train", name, table_folder, run, *groups, *QUICK, *cache)
        said = capsys.readouterr()
        assert said.out == ""
        assert f"wrote {run}; next: python -m training judge" in said.err
        paths.append(place / f"long-{name}.json")
        judged = ("--groups", "c", "--shots", "10", "--repeats", "2", "--untrained", "--threads", "1", *cache)
        _succeed("judge", run, table_folder, *judged, "--seed", "5", "--output", paths[-1])
        assert "| M = 10 |" in capsys.readouterr().out
    record = json.loads(paths[0].read_bytes())
    assert (record["seed"], record["repeats"], record["shots"], record["groups"]) == (5, 2, [10], ["c"])
    assert (record["users"], record["pictures"]) == (6, 40)
    assert len(record["table"]) == 64  # of people, pictures and ratings
    trained = Run.open(place / "long-ba").record["split"]
    assert {digest[:16] for digest in record["results"][0]["judged"]["people"]} == {
        digest[:16] for digest in trained["test"]["users"]
    }
    table = place / "tables" / "compared.csv"
    _succeed("compare", *paths, "--baseline", "BA-PIAA", "--csv", table)
    assert "| own - BA-PIAA, M = 10 |" in capsys.readouterr().out
    assert [row["method"] for row in _rows(table)] == ["BA-PIAA", "closed form, learned layer"]


def test_nobody_is_named_in_what_is_written(flickr_table: Path, flickr_aes_folder: Path, place: Path) -> None:
    """Neither people nor folders of the machine: results are shared."""
    users = read_flickr_aes(flickr_aes_folder).table.users
    told = [path for path in flickr_table.rglob("*") if path.suffix in (".json", ".jsonl", ".csv", ".md")]
    assert len(told) == 2 * len(LEARNERS) + len(TITLES) + 4
    for path in told:
        text = path.read_text(encoding="utf-8")
        assert not [user for user in users if user in text], path
        for folder in (place, flickr_aes_folder, Path.home(), Path(program.__file__).parents[1]):
            assert str(folder) not in text, path


def test_table_4_of_two_databases(
    flickr_table: Path,
    aadb_table: Path,
    flickr_aes_folder: Path,
    aadb_folder: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each prior on each test set, laid out as trained on by judged on."""
    folders = {"flickr-aes": flickr_aes_folder, "aadb": aadb_folder}
    paths = []
    for trained_on, table in (("flickr-aes", flickr_table), ("aadb", aadb_table)):
        for judged_on, folder in folders.items():
            paths.append(place / f"{trained_on}-on-{judged_on}.json")
            where = ("--format", judged_on, "--cache", place / "cache", "--untrained", "--threads", "1")
            run = table / "blg-piaa--as-paper"
            _succeed("judge", run, folder, *where, *JUDGED, "--shots", "10", "--output", paths[-1])
    capsys.readouterr()
    table = place / "table4.csv"
    _succeed("compare", *paths, "--shape", "crossed", "--shots", "10", "--csv", table)
    rows = _rows(table)
    assert [row["trained on"] for row in rows] == ["flickr-aes", "aadb"]
    for row in rows:
        for judged_on in folders:
            found = Evaluation.load(place / f"{row['trained on']}-on-{judged_on}.json")
            mean = found.result(10).figures["personal"].mean
            assert float(row[judged_on]) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "heads"),
    [
        ("methods", ["method", "M = 10", "M = 100"]),
        ("backbones", ["backbone", "method", "M = 10", "M = 100"]),
        ("databases", ["database", "method", "M = 10", "M = 100"]),
    ],
)
def test_every_shape_of_the_paper(
    shape: str, heads: list[str], flickr_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted(flickr_table.glob("*.json"))
    capsys.readouterr()
    _succeed("compare", *paths, "--shape", shape, "--csv", tmp_path / "out.csv")
    rows = _rows(tmp_path / "out.csv")
    assert len(rows) == len(paths)
    titles = [name for name in rows[0] if not name.endswith((" std", " low", " high", " picture error"))]
    assert titles[: len(heads)] == heads
    assert capsys.readouterr().out.startswith(f"| {' | '.join(heads)}")
    named = {"backbones": ("backbone", "resnet18"), "databases": ("database", "flickr-aes")}.get(shape)
    assert named is None or {row[named[0]] for row in rows} == {named[1]}


def test_a_learning_curve(
    flickr_table: Path, flickr_aes_folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From M = 0, on one query set."""
    paths = []
    for name in ("ba-piaa", "closed-form--learned-layer"):
        paths.append(place / f"curve-{name}.json")
        where = ("--format", "flickr-aes", "--cache", place / "cache", "--untrained", "--threads", "1")
        shots = ("--shots", "5", "--shots", "10", "--shots", "20", "--curve", "--output", paths[-1])
        _succeed("judge", flickr_table / name, flickr_aes_folder, *where, *JUDGED, *shots)
        assert "| method | M = 0 | M = 5 | M = 10 | M = 20 |" in capsys.readouterr().out
    _succeed("compare", *paths, "--shape", "curve", "--csv", place / "curve.csv")
    rows = _rows(place / "curve.csv")
    assert [row["method"] for row in rows] == ["BA-PIAA", "closed form, learned layer"]
    found = Evaluation.load(paths[0])
    priors = {found.result(count).figures["prior"].mean for count in (5, 10, 20)}
    assert len(priors) == 1
    assert float(rows[0]["M = 0"]) == pytest.approx(priors.pop(), abs=1e-6)


def test_fig_5_by_one_command(
    flickr_aes_folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two pairs of levels by two numbers of steps; 100/0 is told as such and is a run of one level."""
    output = place / "grid"
    places = ("--levels", "100/0", "--levels", "80/20", "--tasks", "2", "--steps", "1", "--steps", "3")
    named = ("--format", "flickr-aes", "--cache", place / "cache", "--shots", "10")
    few = ("--repeats", "1", "--users", "3")
    _succeed("grid", flickr_aes_folder, output, *named, *QUICK, *few, *places)
    rows = _rows(output / "grid.csv")
    assert [(row["m_s"], row["m_q"], row["k"]) for row in rows] == [("80", "20", "2"), ("100", "0", "2")]
    assert all(-1 <= float(row[f"S = {steps}"]) <= 1 for row in rows for steps in (1, 3))
    assert "| m_s | m_q | k | S = 1 | S = 3 |" in capsys.readouterr().out
    assert (output / "grid.md").read_text(encoding="utf-8").startswith("| m_s | m_q | k | S = 1 | S = 3 |")
    assert Run.open(output / "s100-q0-k2-S3").record["configuration"]["blg"]["levels"] == 1
    paths = sorted(output.glob("*.json"))
    assert len(paths) == 4
    _succeed("compare", *paths, "--shape", "grid", "--shots", "10", "--csv", place / "grid-again.csv")
    assert _rows(place / "grid-again.csv") == rows


def test_a_leak_that_is_kept_is_said(
    flickr_aes_folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the table to read, in the file beside it, and in whatever is made of that."""
    output = place / "leak"
    named = ("--format", "flickr-aes", "--cache", place / "cache", "--shots", "10", "--keep-leak")
    _succeed("table", flickr_aes_folder, output, *named, *QUICK, *JUDGED, "--method", "ba")
    said = capsys.readouterr()
    sentence = "Trained with --keep-leak: on pictures of the test users too, so these figures are too good."
    assert sentence in said.out
    assert sentence in (output / "table.md").read_text(encoding="utf-8")
    judged = output / "ba-piaa.json"
    assert Evaluation.load(judged).facts["leak_kept"] is True
    report = Run.open(output / "ba-piaa").record["split"]["report"]
    assert report["leak_kept"] is True
    assert report["leaked_images"] > 100
    _succeed("compare", judged)
    assert sentence in capsys.readouterr().out
    where = ("--format", "flickr-aes", "--cache", place / "cache", "--untrained", "--threads", "1")
    _succeed("judge", output / "ba-piaa", flickr_aes_folder, *where, *JUDGED, "--shots", "10", "--allow-seen")
    said = capsys.readouterr()
    assert sentence in said.out
    assert "Judged on people or pictures of the training too" in said.out


def test_people_of_the_training_are_said(
    table_folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever allows it, or finds the file later, reads that the figures are too good."""
    run, cache = place / "seen", ("--cache", place / "cache")
    _succeed(
        *("meta-train", "ba", table_folder, run, "--train-groups", "a", "--test-groups", "c"), *QUICK, *cache
    )
    sentence = "Judged on people or pictures of the training too, so these figures are too good."
    few = ("--shots", "10", *JUDGED[:2], "--untrained", "--threads", "1", *cache, "--allow-seen")
    for group, is_seen in (("a", True), ("c", False)):
        output = place / f"seen-{group}.json"
        _succeed("judge", run, table_folder, *few, "--groups", group, "--output", output)
        assert (sentence in capsys.readouterr().out) == is_seen
        facts = Evaluation.load(output).facts
        assert (facts["seen_people"], facts["seen_pictures"]) == ((6, 40) if is_seen else (0, 0))
        assert facts["seen_allowed"] is True
        _succeed("compare", output)
        assert (sentence in capsys.readouterr().out) == is_seen


@pytest.mark.parametrize("format", ["flickr-aes", "aadb"])
def test_a_run_is_judged_on_its_own_validation_users(
    format: str, request: pytest.FixtureRequest, place: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Settings are chosen there; the split comes from the run, whatever the seed of the judging."""
    folder = request.getfixturevalue(f"{format.replace('-', '_')}_folder")
    run, where = place / f"validated-{format}", ("--format", format, "--cache", place / "cache")
    chosen = ("--validation-users", "2", "--seed", "4", "--set", "schedule.iterations=1")
    _succeed("meta-train", "ba", folder, run, *where, *QUICK, *chosen)
    judged, output = ("--untrained", "--threads", "1", "--shots", "10", "--repeats", "1"), tmp_path / "v.json"
    _succeed("judge", run, folder, *where, *judged, "--part", "validation", "--seed", "1", "--output", output)
    found, noted = Evaluation.load(output), Run.open(run).record["split"]["validation"]
    assert sorted(found.result(10).judged.people) == sorted(noted["users"])
    assert (found.conditions.data, found.conditions.ratings) == (f"{format} (validation)", noted["ratings"])
    assert "part is 'train', must be test or validation" in refused(
        "judge", run, folder, *where, *judged, "--part", "train"
    )
    other = "aadb" if format == "flickr-aes" else "flickr-aes"
    elsewhere = (request.getfixturevalue(f"{other.replace('-', '_')}_folder"), "--format", other)
    assert f"was trained on {format} with validation users; it has none of {other}" in refused(
        "judge", run, *elsewhere, *where[2:], *judged, "--part", "validation"
    )
    gone = tmp_path / "gone"
    shutil.copytree(folder, gone)
    aside = split_dataset(read_dataset(format, folder), validation_users=2, seed=4).validation
    assert aside is not None
    (gone / aside.images[0]).unlink()
    assert "has other validation users or pictures than" in refused(
        "judge", run, gone, *where, *judged, "--part", "validation"
    )


def test_validation_users_that_there_are_not(
    flickr_table: Path,
    flickr_aes_folder: Path,
    table_folder: Path,
    place: Path,
    refused: Callable[..., str],
) -> None:
    judge = ("judge", flickr_table / "ba-piaa")
    more = ("--part", "validation", "--cache", place / "cache", "--untrained")
    assert "was trained on flickr-aes without validation users; it has none of flickr-aes" in refused(
        *judge, flickr_aes_folder, "--format", "flickr-aes", *more
    )
    assert "the parts of a table are its groups" in refused(*judge, table_folder, *more)


def test_away_from_a_terminal_each_checkpoint_has_a_line(
    table_folder: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log of a job that runs for days should tell how far it is."""
    groups = ("--train-groups", "a", "--test-groups", "c", "--cache", place / "cache")
    often = ("--set", "schedule.iterations=5", "--set", "schedule.checkpoint_every=2")
    _succeed("meta-train", "ba", table_folder, tmp_path / "run", *groups, *QUICK, *often)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if " iterations, loss " in line]
    assert [line.split(" iterations")[0] for line in lines] == [f"BA-PIAA: {done} of 5" for done in (2, 4, 5)]
    assert said.out == ""


def test_users_without_a_task_are_counted(
    table_folder: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of the six people of group a keep five ratings each."""
    folder = tmp_path / "data"
    shutil.copytree(table_folder, folder)
    head, *lines = (folder / "ratings.csv").read_text(encoding="utf-8").splitlines()
    few = sorted({line.split(",")[0] for line in lines if "/a" in line})[:2]
    seen: dict[str, int] = {}
    kept = [head]
    for line in lines:
        user = line.split(",")[0]
        seen[user] = seen.get(user, 0) + 1
        if user not in few or seen[user] <= 5:
            kept.append(line)
    (folder / "ratings.csv").write_text("\n".join(kept), encoding="utf-8")
    groups = ("--train-groups", "a", "--test-groups", "c", "--cache", place / "cache")
    _succeed("meta-train", "ba", folder, tmp_path / "run", *groups, *QUICK)
    said = capsys.readouterr().err
    assert "2 of the 6 training users have fewer than 6 ratings and are no task" in said


def test_errors_are_one_line(
    table_folder: Path, flickr_table: Path, place: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """What was wrong, what was found, what to do; and exit code 1."""
    run, cache = tmp_path / "run", ("--cache", place / "cache")
    groups = ("--train-groups", "a", "--test-groups", "c")
    train = ("meta-train", "ba", table_folder, run, *groups, *QUICK, *cache)
    assert "no reader for 'ava'; there are table, flickr-aes" in refused(
        "data", table_folder, "--format", "ava"
    )
    said = refused("meta-train", "bla", table_folder, run, *groups)
    assert said.startswith("there is no configuration 'bla'; there are ba, ")
    assert "'_common'" in refused("meta-train", "_common", table_folder, run, *groups)
    missing = tmp_path / "mine.toml"
    assert f"{missing}: not a configuration" in refused("meta-train", missing, table_folder, run, *groups)
    assert "blg: missing or not known: speed" in refused(
        "meta-train", "blg_as_paper", table_folder, run, *groups, "--set", "blg.speed=3"
    )
    assert "mode is 'half'" in refused(*train, "--mode", "half")
    assert "device is 'tpu', must be cpu, cuda or" in refused(*train, "--device", "tpu")
    assert "no group 'd'; its groups are 'a', 'b', 'c'" in refused(
        *train[:4], "--train-groups", "d", "--test-groups", "c"
    )
    assert "ratings.csv: no such file" in refused("data", tmp_path)
    assert "a scale needs two finite numbers" in refused("data", table_folder, "--scale", 5, 1)
    assert "the weights cannot be read: Is a directory" in refused(*train, "--weights", tmp_path)
    assert not run.exists()
    _succeed(*train)
    assert "holds a run already" in refused(*train)
    assert "begun with another seed (0, not 1)" in refused(*train, "--set", "seed=1", "--resume")
    weights = ("--untrained", *cache)
    assert "was trained on 6 of these 18 people and 40 of these 120 pictures" in refused(
        "judge", run, table_folder, "--shots", "10", "--repeats", "1", *weights
    )
    assert "not head and ImageNet" in refused("judge", run, table_folder, "--groups", "c", *cache)
    assert "nobody has rated" in refused(
        "judge", run, table_folder, "--groups", "c", "--shots", "40", *weights
    )
    assert "holds no run.json; begin with" in refused("judge", tmp_path / "none", table_folder)
    closed = flickr_table / "closed-form--learned-layer"
    assert "adapts without a learning rate; leave --rate out" in refused(
        "judge", closed, table_folder, "--groups", "c", "--shots", "10", "--rate", "0.1", *weights
    )
    record = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps({**record, "finished": False}))
    assert "is not finished; go on with it: python -m training meta-train --resume" in refused(
        "judge", run, table_folder, "--groups", "c", "--shots", "10", *weights
    )
    found = sorted(flickr_table.glob("*.json"))
    assert "shape is 'cube', must be one of methods, backbones" in refused(
        "compare", *found, "--shape", "cube"
    )
    assert "was not judged as a curve" in refused("compare", *found, "--shape", "curve")
    assert "two evaluations are of flickr-aes, flickr-aes" in refused(
        "compare", *found, "--shape", "crossed", "--shots", "10"
    )
    assert "cannot be read as an evaluation" in refused("compare", tmp_path / "none.json")
    assert "80:20" in refused(
        "grid", table_folder, tmp_path / "g", *groups, *QUICK, *cache, "--levels", "80:20"
    )


def test_no_weights_and_no_network_say_what_to_do(
    table_folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine without internet: the two ways out are named, and nothing is left behind."""
    asked: list[str] = []

    def unreachable(address: Any, *rest: Any, **more: Any) -> None:
        asked.append(getattr(address, "full_url", address))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    named = ("--train-groups", "a", "--test-groups", "c", "--cache", tmp_path / "cache")
    for mode in ("head", "full"):
        said = refused("meta-train", "ba", table_folder, tmp_path / mode, *named, "--mode", mode, *QUICK[1:])
        assert said.startswith("the weights of resnet18 cannot be downloaded (<urlopen error no network>)")
        assert said.endswith("or start from random ones with --untrained")
        assert not (tmp_path / mode).exists()
    assert len(asked) == 2
    lost = tmp_path / "lost.pth"
    said = refused("meta-train", "ba", table_folder, tmp_path / "run", *named, "--weights", lost)
    assert said == f"{lost}: the weights cannot be read: No such file or directory"


def test_usage_is_told_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("meta-train") == 2
    assert _run("judge", "run", "data", "--shots", "0") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert _run("--help") == 0
    said = capsys.readouterr().out
    assert all(
        name in said for name in ("data", "meta-train", "judge", "compare", "table", "grid", "evaluate")
    )
