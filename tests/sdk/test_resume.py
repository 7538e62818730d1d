"""Going on with an interrupted run: which rows are kept, in which order they come, and what is refused."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from piaa_sdk.choices import Order, ReportFormat
from piaa_sdk.cli import app
from piaa_sdk.errors import ImageError, OutputError
from piaa_sdk.images import display_name
from piaa_sdk.kept_rows import FoundRows, RowDigests
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.reports import open_report
from piaa_sdk.results import Score
from piaa_sdk.row_file import PersonRecord, RunRecord
from piaa_sdk.row_formats import jsonl_line, path_field, to_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

GOLDEN = Path(__file__).parent / "golden"
NOBODY = PersonRecord(None, RatingScale(1, 7), "11" * 16)
ANN, BOB = (
    PersonRecord(name, RatingScale(1, 5), digest * 16) for name, digest in (("ann", "a1"), ("bob", "b0"))
)
RUN = RunRecord("piaa-test", "ab" * 32, "cd" * 32, (NOBODY,), {"photos": ["holiday"]})
PAIR = replace(RUN, people=(ANN, BOB))


class Screen(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", newline="")


def scores_of(name: str, run: RunRecord, *, broken: bool = False) -> list[Score]:
    """Score a photo in a way that follows from its name and the person."""
    rows = []
    for number, person in enumerate(run.people):
        if broken:
            rows.append(Score(name, person.user, error=ImageError(name, "no such file or folder")))
            continue
        value = 1 + (sum(os.fsencode(name)) * (number + 3)) % 37 / 10
        personal = None if person.user is None else value
        rows.append(Score(name, person.user, 7 - value, personal, None if personal is None else 0.5, stars=3))
    return rows


def run_over(
    names: Iterable[str],
    output: Path,
    run: RunRecord = RUN,
    *,
    stop_after: int | None = None,
    broken: Sequence[str] = (),
    **options: Any,
) -> list[str]:
    """Score photos as the program does; return which ones were scored. ``stop_after`` counts rows."""
    scored: list[str] = []
    rows = 0
    with open_report(run, ReportFormat.CSV, stdout=Screen(), output=output, **options) as report:
        for image in report.pending(map(Path, names)):
            scored.append(str(image))
            for score in scores_of(str(image), run, broken=str(image) in broken):
                if rows == stop_after:
                    return scored
                report.add(score)
                rows += 1
        report.finish()
    return scored


def partial_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


NAMES = [f"{number:02}.jpg" for number in range(12)]


@pytest.mark.parametrize("run", [RUN, PAIR], ids=["one", "two"])
@pytest.mark.parametrize("order", list(Order))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_stops_at_any_rows_and_torn_bytes_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, run: RunRecord, order: Order, data: st.DataObject
) -> None:
    """Whatever stops a run, however often, the last one writes what an undisturbed run writes, byte by byte.

    Photos may come twice; between two runs rows may lose their ends, as after a kill in mid-write.
    """
    folder = tmp_path_factory.mktemp("rows")
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=15))
    run_over(names, folder / "whole.csv", run, order=order)
    output = folder / "scores.csv"
    for _ in range(data.draw(st.integers(1, 4))):
        broken = data.draw(st.lists(st.sampled_from(NAMES), max_size=4))
        stop = data.draw(st.integers(0, len(names) * len(run.people)))
        run_over(names, output, run, stop_after=stop, broken=broken, order=order, resume=True)
        partial = partial_of(output)
        if partial.exists():
            content = partial.read_bytes()
            partial.write_bytes(content[: max(0, len(content) - data.draw(st.integers(0, 300)))])
    run_over(names, output, run, order=order, resume=True)
    assert output.read_bytes() == (folder / "whole.csv").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["scores.csv", "whole.csv"]


def test_only_what_has_no_row_is_scored(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, stop_after=5)
    assert run_over(NAMES, output, resume=True) == NAMES[5:]


def test_photos_that_are_shown_alike_are_scored_again(tmp_path: Path) -> None:
    """What is hidden of an address may be all that tells two photos apart: no row is the other one's."""
    urls = [
        "https://host/a?file=design1.jpg",
        "https://host/a?file=design2.jpg",
        "https://host/a?key=design1.jpg",
        "https://host/a?key=design2.jpg",
        "https://ann:1@host/me.jpg",
        "https://bob:1@host/me.jpg",
    ]
    output = tmp_path / "scores.jsonl"

    def run(stop_after: int) -> list[str]:
        scored: list[str] = []
        form = ReportFormat.JSONL
        with open_report(RUN, form, stdout=Screen(), output=output, order=Order.INPUT, resume=True) as report:
            for image in report.pending(urls):
                if len(scored) == stop_after:
                    return scored
                scored.append(str(image))
                shown = display_name(str(image), 0)
                report.add(Score(shown, None, 1.0 + urls.index(str(image)), None, None, stars=3))
            report.finish()
        return scored

    assert run(5) == urls[:5]
    assert run(6) == urls[2:]
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["generic"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["path"] for row in rows] == [display_name(url, 0) for url in urls]


def test_a_photo_that_failed_is_tried_again(tmp_path: Path) -> None:
    """A share may have been away; the row that said so is gone at the end."""
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, broken=NAMES[2:4], stop_after=6)
    assert run_over(NAMES, output, resume=True) == NAMES[2:4] + NAMES[6:]
    assert "no such file" not in output.read_text()
    assert output.read_text().count("\n") == 13


def test_half_the_rows_of_a_photo_are_none(tmp_path: Path) -> None:
    """Stopped between the rows of two persons, the photo is scored again for both."""
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, PAIR, stop_after=5)
    assert run_over(NAMES, output, PAIR, resume=True) == NAMES[2:]


def test_a_photo_that_cannot_be_found_any_more_keeps_its_row(tmp_path: Path) -> None:
    """Named in a list, scored, and then moved away: an undisturbed run would have its score too."""
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, stop_after=3)
    with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output, resume=True) as report:
        gone = ImageError(NAMES[1], "no such file or folder")
        assert list(report.pending([Path(NAMES[0]), gone])) == []
        assert list(report.pending([ImageError(NAMES[5], "no such file or folder")])) != []


def test_rows_of_photos_that_are_not_given_any_more_are_not_lost(tmp_path: Path) -> None:
    """As when a share is away: the file holds the photos of this run, the rows of the others stay."""
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, stop_after=9)
    before = partial_of(output).read_bytes()
    run_over(NAMES[6:], tmp_path / "whole.csv")
    with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output, resume=True) as report:
        for image in report.pending(map(Path, NAMES[6:])):
            for score in scores_of(str(image), RUN):
                report.add(score)
        report.finish()
        assert (report.photos_kept, report.photos_left) == (9, 6)
        assert report.left_over == tmp_path / "scores.csv.partial.1"
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "scores.csv.partial.1").read_bytes().startswith(before)


def test_newest_rows_of_a_watched_folder(tmp_path: Path) -> None:
    """A photo that was replaced counts once, with its newest score; one that has left keeps its row."""
    output = tmp_path / "scores.csv"

    def add(report: Any, name: str, generic: float) -> None:
        report.add(Score(name, generic=generic, stars=3))

    options: dict[str, Any] = {"stdout": Screen(), "output": output, "latest_only": True}
    with open_report(RUN, ReportFormat.CSV, **options) as report:
        for name, generic in (("left.jpg", 1.0), ("b.jpg", 2.0), ("b.jpg", 3.0)):
            add(report, name, generic)
    with open_report(RUN, ReportFormat.CSV, resume=True, **options) as report:
        assert list(report.pending([Path("b.jpg"), Path("c.jpg")])) == [Path("c.jpg")]
        add(report, "c.jpg", 4.0)
        assert list(report.pending([Path("b.jpg")])) == [Path("b.jpg")]
        add(report, "b.jpg", 5.0)
        report.finish()
    rows = [line.split(",") for line in output.read_text().splitlines()[1:]]
    assert [(row[0], row[2], row[6]) for row in rows] == [
        ("left.jpg", "1.0", repr(100 / 3)),
        ("c.jpg", "4.0", repr(200 / 3)),
        ("b.jpg", "5.0", "100.0"),
    ]
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            replace(RUN, bundle_revision="ef" * 32),
            "the model was piaa-test abababababab and is piaa-test efefefefefef",
        ),
        (replace(RUN, embedding_id="ef" * 32), "the model saw photos in another way"),
        (
            replace(RUN, people=(replace(NOBODY, scale=RatingScale(1, 5)),)),
            "the scores for most people were made in another way (ratings",
        ),
        (replace(RUN, people=(ANN,)), "they are scores for most people, these are for ann"),
        (PAIR, "they are scores for most people, these are for ann and bob"),
    ],
)
def test_rows_that_do_not_go_together_are_refused(tmp_path: Path, other: RunRecord, words: str) -> None:
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, stop_after=5)
    before = partial_of(output).read_bytes()
    with pytest.raises(OutputError) as refused:
        run_over(NAMES, output, other, resume=True)
    assert words in str(refused.value)
    assert "leave --resume away" in str(refused.value)
    assert partial_of(output).read_bytes() == before


def test_a_taste_that_was_learned_anew_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, PAIR, stop_after=4)
    other = replace(PAIR, people=(ANN, replace(BOB, scorer_id="b1" * 16)))
    with pytest.raises(OutputError, match="the scores for bob were made in another way"):
        run_over(NAMES, output, other, resume=True)
    with pytest.raises(OutputError, match="scores for ann and bob, these are for bob and ann"):
        run_over(NAMES, output, replace(PAIR, people=(BOB, ANN)), resume=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a diary\n", "does not hold the rows"),
        (b"a diary", "does not hold the rows"),
        (b"[1]\n", "does not hold the rows"),
        (b'{"format_version":' + b"[" * 3000 + b"\n", "does not hold the rows"),
        (b'{"format_version":1}\n', "another version of piaa"),
        (b'{"format_version":99}\n', "another version of piaa"),
    ],
)
def test_a_foreign_file_is_left_alone(tmp_path: Path, content: bytes, words: str) -> None:
    output = tmp_path / "scores.csv"
    partial_of(output).write_bytes(content)
    with pytest.raises(OutputError, match=words):
        run_over(NAMES, output, resume=True)
    assert partial_of(output).read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"form', b'{"format_version":2,"sdk', bytes(100)])
def test_a_run_that_died_before_its_first_row_left_nothing(tmp_path: Path, content: bytes) -> None:
    output = tmp_path / "scores.csv"
    partial_of(output).write_bytes(content)
    assert run_over(NAMES, output, resume=True) == NAMES
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 500 + b"\n",
        b"not json\n",
        b"{}\n",
        jsonl_line(to_row(Score("x.jpg", generic=1.0, stars=3), "b", "r") | {"stars": 1e9}),
        jsonl_line(to_row(Score("x.jpg", generic=1.0, stars=3), "b", "r") | {"generic": "much"}),
        b'{"path":' + b"[" * 3000 + b"\n",
    ],
)
def test_what_follows_damage_is_scored_again(tmp_path: Path, damage: bytes) -> None:
    """A crash of the computer may leave anything where rows had not reached the disk."""
    output = tmp_path / "scores.csv"
    run_over(NAMES, output, stop_after=6)
    lines = partial_of(output).read_bytes().splitlines(keepends=True)
    partial_of(output).write_bytes(b"".join([*lines[:4], damage, *lines[4:]]))
    assert run_over(NAMES, output, resume=True) == NAMES[3:]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_refused_and_nothing_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scores.csv.partial")
    with pytest.raises(OutputError, match="not a regular file"):
        run_over(NAMES, tmp_path / "scores.csv", resume=True)


def test_rows_of_every_layout_are_read_forever(tmp_path: Path) -> None:
    """The frozen file was written by the version that made the layout."""
    run = replace(PAIR, people=(ANN, BOB))
    output = tmp_path / "scores.csv"
    partial_of(output).write_bytes((GOLDEN / "rows_v2.partial").read_bytes())
    assert run_over(["a.jpg", os.fsdecode(b"caf\xe9.jpg"), "b.jpg"], output, run, resume=True) == ["b.jpg"]


def test_a_million_photos_that_are_done_are_skipped_fast_and_in_little_memory() -> None:
    """Here a twentieth of them: a few dozen bytes per photo, whatever the length of its path."""
    count = 50_000
    line = jsonl_line(to_row(Score("name" + "x" * 300, generic=1.0, stars=3), "b", "r")).decode()
    rows = io.BytesIO("".join(line.replace("name", f"{number:06}") for number in range(count)).encode())
    tracemalloc.start()
    kept = FoundRows(rows, [None]).kept
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.photos == count
    assert peak < 120 * count
    assert [kept.take(f"{number:06}" + "x" * 300) for number in range(count)] == list(range(count))
    assert kept.photos_left == 0
    assert kept.take("000007" + "x" * 300) == 7
    assert kept.take("000007" + "x" * 300, once=True) is None
    assert kept.take("000007") is None


@given(st.lists(st.sampled_from("abcde"), max_size=20))
def test_the_newest_agrees_with_a_dictionary(texts: list[str]) -> None:
    digests = RowDigests()
    for text in texts:
        digests.add(text, None)
    positions, _ = digests.newest()
    assert sorted(positions.tolist()) == sorted({text: place for place, text in enumerate(texts)}.values())


def piaa(*arguments: object, stdin: bytes | None = None, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["score", *map(str, arguments)], input=stdin)
    assert result.exit_code == code, result.stderr
    return result.stderr


def test_resume_is_harmless_in_a_script(photos: list[Path], tiny_bundle: Path, tmp_path: Path) -> None:
    """The same command every time: nothing to go on with is no error, and is said in one line."""
    output = tmp_path / "scores.csv"
    common = ("-", "--model", tiny_bundle, "--output", output, "--resume")
    names = "\n".join(map(str, photos)).encode()
    first = piaa(*common, stdin=names).splitlines()
    assert first[0] == f"nothing to go on with: there is no {partial_of(output)}; scoring all photos"
    whole = output.read_bytes()
    again = piaa(*common, stdin=names).splitlines()
    assert again[0] == f"nothing to go on with: {output} is complete; scoring all photos again"
    assert output.read_bytes() == whole
    rows = partial_of(output)
    piaa(*photos[:5], "--model", tiny_bundle, "--output", tmp_path / "other.jsonl")
    header = json.dumps(header_of(tiny_bundle), separators=(",", ":"))
    kept = [
        json.loads(line) | {"percentile": None}
        for line in (tmp_path / "other.jsonl").read_text().splitlines()
    ]
    rows.write_bytes(f"{header}\n".encode() + b"".join(map(jsonl_line, kept)) + b'{"path":"tor')
    third = piaa(*common, stdin=names).splitlines()
    assert third[0] == "going on after 5 photos that an interrupted run has scored"
    assert third[1].startswith("scored 12 photos (5 of them before) the way most people would")
    assert output.read_bytes() == whole
    assert not rows.exists()


def header_of(bundle: Path) -> dict[str, Any]:
    from piaa_sdk import Scorer

    scorer = Scorer.from_pretrained(bundle)
    person = PersonRecord(None, scorer.scale, scorer.scorer_id)
    return RunRecord.of(scorer.bundle, [person], {}).to_json()


def test_resume_needs_a_file(photos: list[Path]) -> None:
    assert "name it with --output" in piaa(*photos, "--resume", code=2)


if __name__ == "__main__":  # writes the frozen rows of the newest layout
    target = GOLDEN / "rows_v2.partial"
    rows = [row for name in ("a.jpg", os.fsdecode(b"caf\xe9.jpg")) for row in scores_of(name, PAIR)]
    lines = [jsonl_line(PAIR.to_json()), *(jsonl_line(to_row(row, "piaa-test", "ab" * 32)) for row in rows)]
    target.write_bytes(b"".join(lines) + b'{"path":"' + path_field("b.jpg").encode())
