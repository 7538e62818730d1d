"""Reports: what is written, in which order, and what is left when something stops the writing."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piaa_sdk.choices import Order, ReportFormat
from piaa_sdk.errors import ImageError, MissingDependencyError, OutputError
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.reports import decimals_for, format_for, open_report
from piaa_sdk.results import Score
from piaa_sdk.row_file import PersonRecord, RowFile, RowIndex, RunRecord
from piaa_sdk.row_formats import (
    FIELDS,
    TableStyle,
    jsonl_line,
    path_field,
    path_from_field,
    table_lines,
    to_row,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = RunRecord(
    "piaa-test",
    "ab" * 32,
    "cd" * 32,
    (PersonRecord(None, RatingScale(1, 5), "ef" * 16),),
    {"photos": ["holiday"]},
)

SCORES = [
    Score("b.jpg", "mira", generic=3.0, personal=2.0, std=0.5, stars=2),
    Score("a.jpg", "mira", generic=2.5, personal=4.25, std=0.25, stars=4),
    Score("broken.jpg", "mira", error=ImageError("broken.jpg", "truncated")),
    Score("c.jpg", "mira", generic=3.5, personal=2.0, std=0.75, stars=2),
]


class Screen(io.TextIOWrapper):
    """Standard output as a program finds it: text over bytes."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")

    def content(self) -> str:
        self.flush()
        written = self.buffer
        assert isinstance(written, io.BytesIO)
        return written.getvalue().decode(self.encoding)


def write(scores: list[Score], report_format: ReportFormat, **options: Any) -> str:
    """Write a whole report; return what came to standard output."""
    screen = options.pop("screen", None) or Screen()
    with open_report(RUN, report_format, stdout=screen, **options) as report:
        for score in scores:
            report.add(score)
        report.finish()
    return screen.content()


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize(
    "name", ["a.jpg", 'a b\n"c",d.jpg', "=cmd|' /C calc'!A0", "😀 é.jpg", "file:", "file:%41"]
)
def test_a_path_comes_back_from_its_field(name: str) -> None:
    assert path_from_field(path_field(name)) == name


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name))
def test_any_bytes_a_file_can_be_called_come_back(name: bytes) -> None:
    """Reversible for every name Linux allows, and always something that UTF-8 can say."""
    field = path_field(os.fsdecode(name))
    assert os.fsencode(path_from_field(field)) == name
    assert field.encode("utf-8").decode("utf-8") == field


def test_ordinary_paths_are_written_as_they_are() -> None:
    assert path_field("C:\\photos\\=1+1.jpg") == "C:\\photos\\=1+1.jpg"
    assert path_field(os.fsdecode(b"caf\xe9/x.jpg")) == "file:caf%E9/x.jpg"


def test_csv_follows_rfc_4180_and_keeps_every_digit() -> None:
    third = 1 / 3
    scores = [Score('quo"te,\n=1.jpg', None, generic=third, stars=1)]
    text = write(scores, ReportFormat.CSV)
    assert text.startswith(",".join(FIELDS) + "\r\n")
    assert text.endswith("\r\n")
    (row,) = read_csv(text)
    assert row["path"] == 'quo"te,\n=1.jpg'
    assert float(row["generic"]) == third
    assert row["user"] == row["personal"] == row["percentile"] == row["error"] == ""
    assert row["bundle_id"] == "piaa-test"
    assert row["bundle_revision"] == "ab" * 32


def test_jsonl_has_every_field_and_the_reason_of_a_failure() -> None:
    rows = [json.loads(line) for line in write(SCORES, ReportFormat.JSONL).splitlines()]
    assert [list(row) for row in rows] == [list(FIELDS)] * 4
    assert [row["path"] for row in rows] == ["b.jpg", "a.jpg", "broken.jpg", "c.jpg"]
    assert rows[0]["personal"] == 2.0
    assert rows[0]["error"] is None
    assert rows[2] == rows[2] | {"generic": None, "personal": None, "stars": None, "error": "truncated"}


def test_rows_stream_to_standard_output_one_by_one() -> None:
    """A program that reads the rows can work on the first before the last is there."""
    screen = Screen()
    with open_report(RUN, ReportFormat.JSONL, stdout=screen) as report:
        report.add(SCORES[0])
        assert json.loads(screen.buffer.getvalue())["path"] == "b.jpg"  # type: ignore[attr-defined]


def test_percentiles_are_known_at_the_end(tmp_path: Path) -> None:
    """Of 3 scored photos: 4.25 is above all (100), the tied 2.0 are no lower than 2 of 3."""
    output = tmp_path / "scores.csv"
    assert write(SCORES, ReportFormat.CSV, output=output) == ""
    rows = read_csv(output.read_bytes().decode())
    assert [row["path"] for row in rows] == ["b.jpg", "a.jpg", "broken.jpg", "c.jpg"]
    assert [row["percentile"] for row in rows] == [repr(200 / 3), "100.0", "", repr(200 / 3)]
    assert list(tmp_path.iterdir()) == [output]


def test_best_first_ties_in_the_order_they_came_failures_last(tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    write(SCORES, ReportFormat.JSONL, output=output, order=Order.SCORE)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["path"] for row in rows] == ["a.jpg", "b.jpg", "c.jpg", "broken.jpg"]


def test_top_keeps_the_best_in_either_order() -> None:
    best = [Score(f"{number}.jpg", generic=float(number % 7), stars=1) for number in range(20)]
    for order, expected in (
        (Order.SCORE, ["6.jpg", "13.jpg", "5.jpg"]),
        (Order.INPUT, ["5.jpg", "6.jpg", "13.jpg"]),
    ):
        text = write(best, ReportFormat.CSV, top=3, order=order)
        assert [row["path"] for row in read_csv(text)] == expected


def test_each_person_has_a_ranking_of_their_own() -> None:
    """Rows are per photo and person; one person's scores are never ranked against another's."""
    scores = [
        Score(f"{number}.jpg", user, generic=0.0, personal=base + number, std=0.1, stars=3)
        for number in range(3)
        for user, base in (("ann", 1.0), ("bob", 100.0))
    ]
    rows = read_csv(write(scores, ReportFormat.CSV, order=Order.SCORE, top=2))
    assert [(row["user"], row["path"]) for row in rows] == [
        ("ann", "2.jpg"),
        ("ann", "1.jpg"),
        ("bob", "2.jpg"),
        ("bob", "1.jpg"),
    ]
    assert [float(row["percentile"]) for row in rows] == [100, pytest.approx(200 / 3)] * 2


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=30), st.integers(1, 8))
def test_ranks_and_percentiles_agree_with_counting(values: list[int | None], top: int) -> None:
    scored = [value for value in values if value is not None]
    index = RowIndex(
        np.arange(len(values)),
        np.array([np.nan if value is None else value for value in values], dtype=np.float64),
        np.zeros(len(values), dtype=np.int64),
    )
    for value, percentile in zip(values, index.percentiles(), strict=True):
        if value is None:
            assert np.isnan(percentile)
        else:
            assert percentile == pytest.approx(100 * sum(other <= value for other in scored) / len(scored))
    chosen = [values[position] for position in index.choose(Order.SCORE, top, scored_only=False)]
    assert chosen == sorted(scored, reverse=True)[:top]
    everything = [values[position] for position in index.choose(Order.SCORE, None, scored_only=False)]
    assert everything == sorted(scored, reverse=True) + [None] * (len(values) - len(scored))


def test_parquet_is_typed(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "scores.parquet"
    odd = Score(os.fsdecode(b"caf\xe9.jpg"), "mira", generic=1.5, personal=2.0, std=0.5, stars=2)
    write([*SCORES, odd], ReportFormat.PARQUET, output=output)
    table = parquet.read_table(output)
    assert table.schema.names == list(FIELDS)
    assert table.schema.field("personal").type == pyarrow.float64()
    assert table.schema.field("stars").type == pyarrow.int8()
    assert table["path"].to_pylist() == ["b.jpg", "a.jpg", "broken.jpg", "c.jpg", "file:caf%E9.jpg"]
    assert table["personal"].to_pylist()[:3] == [2.0, 4.25, None]
    assert table["error"].to_pylist() == [None, None, "truncated", None, None]


def test_parquet_without_pyarrow_says_so_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match="pip install pyarrow"):
        open_report(RUN, ReportFormat.PARQUET, stdout=Screen(), output=tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_table_is_best_first_and_aligned() -> None:
    lines = write(SCORES, ReportFormat.TABLE).splitlines()
    assert lines == [
        "rank        score  stars  percentile  photo",
        "   1  4.25 ± 0.25  ★★★★☆         100  a.jpg",
        "   2  2.00 ± 0.50  ★★☆☆☆          67  b.jpg",
        "   3  2.00 ± 0.75  ★★☆☆☆          67  c.jpg",
    ]


def test_table_in_plain_letters_where_the_terminal_has_no_others() -> None:
    """An ASCII or Latin-1 terminal shows the same table, and no traceback."""
    lines = write(
        [Score("é.jpg", generic=4.0, stars=4)], ReportFormat.TABLE, screen=Screen("latin-1")
    ).splitlines()
    assert lines[1].split() == ["1", "4.00", "****-", "100", "é.jpg"]


def test_table_names_hostile_paths_on_one_line() -> None:
    hostile = Score("a\nb\x1b[31m.jpg", generic=4.0, stars=4)
    lines = write([hostile], ReportFormat.TABLE).splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("a\\nb\\x1b[31m.jpg")


def test_table_fits_the_terminal_and_wide_letters_count_twice() -> None:
    path = "holiday/" + "写真" * 40 + ".jpg"
    row = to_row(Score(path, generic=4.0, stars=4), "b", "r") | {"rank": 1, "percentile": 100.0}
    lines = list(table_lines([row], TableStyle(columns=60)))
    shown = lines[1].split()[-1]
    assert shown.startswith("…")
    assert shown.endswith("写真.jpg")
    wide = sum(character in "写真" for character in lines[1])
    assert 58 <= len(lines[1]) + wide <= 60


def test_table_names_persons_only_where_there_are_several() -> None:
    two = [Score("a.jpg", user, generic=1.0, personal=1.0, std=0.1, stars=1) for user in ("ann", "bob")]
    assert [line.split()[1] for line in write(two, ReportFormat.TABLE).splitlines()] == [
        "person",
        "ann",
        "bob",
    ]


def test_table_to_a_file_is_utf_8_whatever_the_screen(tmp_path: Path) -> None:
    output = tmp_path / "scores.txt"
    write(SCORES, ReportFormat.TABLE, output=output, screen=Screen("ascii"))
    assert "★★★★☆" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(("bounds", "decimals"), [((0, 1), 3), ((1, 5), 2), ((0, 10), 2), ((0, 100), 1)])
def test_digits_follow_the_scale(bounds: tuple[float, float], decimals: int) -> None:
    assert decimals_for(RatingScale(*bounds)) == decimals


def test_the_name_of_a_file_says_how_to_write_it() -> None:
    known = {
        name: format_for(Path(name))
        for name in ("a.CSV", "a.jsonl", "a.ndjson", "a.parquet", "a.txt", "a.xls")
    }
    assert list(known.values()) == ["csv", "jsonl", "jsonl", "parquet", "table", None]


def test_an_interrupted_run_leaves_whole_rows_and_no_file(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"

    def stopped() -> None:
        with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output) as report:
            report.add(SCORES[0])
            report.add(SCORES[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv.partial"]
    header, *rows = [json.loads(line) for line in (tmp_path / "scores.csv.partial").read_text().splitlines()]
    assert header["format_version"] == 2
    assert header["bundle_revision"] == RUN.bundle_revision
    assert header["embedding_id"] == RUN.embedding_id
    assert header["settings"] == {"photos": ["holiday"]}
    assert [row["path"] for row in rows] == ["b.jpg", "a.jpg"]


def test_rows_of_an_earlier_run_are_set_aside(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "scores.csv.partial").write_text(f"earlier {number}")
        with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=tmp_path / "scores.csv") as report:
            assert report.set_aside == tmp_path / f"scores.csv.partial.{number + 1}"
            report.add(SCORES[0])
            report.finish()
    kept = [(tmp_path / f"scores.csv.partial.{number + 1}").read_text() for number in range(3)]
    assert kept == ["earlier 0", "earlier 1", "earlier 2"]
    assert not (tmp_path / "scores.csv.partial").exists()


def test_a_run_without_rows_leaves_nothing(tmp_path: Path) -> None:
    with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=tmp_path / "scores.csv"):
        assert (tmp_path / "scores.csv.partial").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_never_write_one_file(tmp_path: Path, resume: bool) -> None:
    """The second one refuses, and what the first one has is untouched, until the first one is done."""
    output = tmp_path / "scores.csv"
    with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output) as first:
        first.add(SCORES[0])
        with pytest.raises(OutputError, match="another run of piaa is writing it; wait until"):
            open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output, resume=resume)
        first.add(SCORES[1])
        first.finish()
    assert [row["path"] for row in read_csv(output.read_text())] == ["b.jpg", "a.jpg"]
    assert list(tmp_path.iterdir()) == [output]
    with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output, resume=resume) as second:
        second.add(SCORES[1])
        second.finish()
    assert [row["path"] for row in read_csv(output.read_text())] == ["a.jpg"]


def test_a_file_is_replaced_whole_and_keeps_its_link_and_mode(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "scores.csv"
    real.parent.mkdir()
    real.write_text("old")
    real.chmod(0o640)
    link = tmp_path / "scores.csv"
    link.symlink_to(real)
    write(SCORES, ReportFormat.CSV, output=link, replace=True)
    assert link.is_symlink()
    assert len(read_csv(real.read_text())) == 4
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["IMG_1.JPG", "IMG_1.heic", "IMG_1.CR2"])
def test_a_photo_is_never_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(OutputError, match="name for a photo"):
        open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_photo_behind_a_link_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    (tmp_path / "scores.csv").symlink_to(tmp_path / "photo.jpg")
    with pytest.raises(OutputError, match="name for a photo"):
        open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=tmp_path / "scores.csv", replace=True)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["ratings.csv", "notes.txt", "other.jsonl", "table.parquet"])
def test_what_no_run_has_written_is_not_written_over(tmp_path: Path, name: str) -> None:
    """A person's own ratings lie in a file that looks much like ours."""
    kept = {"ratings.csv": "image,rating\na.jpg,5\n", "other.jsonl": '{"path": "a.jpg"}\n'}.get(
        name, "PAR1 mine"
    )
    (tmp_path / name).write_text(kept)
    with pytest.raises(OutputError, match=r"no earlier run of piaa score wrote it.*--force"):
        write(SCORES, ReportFormat.CSV, output=tmp_path / name)
    assert (tmp_path / name).read_text() == kept
    write(SCORES, ReportFormat.CSV, output=tmp_path / name, replace=True)
    assert len(read_csv((tmp_path / name).read_text())) == 4


@pytest.mark.parametrize("first", ReportFormat)
def test_what_an_earlier_run_has_written_is_replaced(tmp_path: Path, first: ReportFormat) -> None:
    write(SCORES, first, output=tmp_path / "scores.out")
    write(SCORES, ReportFormat.CSV, output=tmp_path / "scores.out")
    assert len(read_csv((tmp_path / "scores.out").read_text())) == 4


def test_an_impossible_output_is_refused_before_the_work(tmp_path: Path) -> None:
    for output, reason in (
        (tmp_path / "nowhere" / "scores.csv", "no folder"),
        (tmp_path, "is a folder or a device"),
        (Path(os.devnull), "is a folder or a device"),
        (tmp_path / ("x" * 250 + ".csv"), "cannot be written"),
    ):
        with pytest.raises(OutputError, match=reason):
            open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def small_disk() -> Iterator[None]:
    """Let no file grow beyond 4 KB, which fails the way a full disk does.

    Not a fixture: what pytest itself writes to a file at the end of the test would fail as well.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_whole_rows_and_names_the_file(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    refused = None
    written = 0
    with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output) as report, small_disk():
        while refused is None and written < 100:
            try:
                report.add(SCORES[0])
                written += 1
            except OutputError as error:
                refused = str(error)
    assert refused is not None
    assert "scores.csv.partial: cannot be written: File too large" in refused
    assert f"{written} complete rows are kept" in refused
    assert not output.exists()
    lines = (tmp_path / "scores.csv.partial").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines[1:]] == ["b.jpg"] * written


def test_a_full_disk_at_the_end_keeps_the_old_file_and_the_rows(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    output.write_text("old")
    with open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=output, replace=True) as report:
        for _ in range(40):
            report.add(SCORES[0])
        with small_disk(), pytest.raises(OutputError, match=r"rows are kept in .*scores\.csv\.partial"):
            report.finish()
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.csv.partial"]


def test_memory_of_a_long_run_is_a_few_bytes_per_row() -> None:
    """Rows wait on the disk: of 20,000 only numbers are held, 24 bytes each, not the rows."""
    rows = RowFile(None, RUN)
    score = Score("x" * 400, generic=1.0, stars=1)
    for _ in range(20_000):
        rows.append(to_row(score, RUN.bundle_id, RUN.bundle_revision))
    tracemalloc.start()
    selected = rows.select(Order.SCORE, None, scored_only=True)
    assert sum(1 for _ in selected) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rows.close()
    assert peak < 8_000_000


def test_what_fails_in_cleaning_up_does_not_hide_why_a_row_was_not_written(tmp_path: Path) -> None:
    """The file turns into one that can neither be written nor shortened, as on a device that was pulled."""
    rows = RowFile(tmp_path / "rows", RUN)
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.dup2(descriptor, rows._file.fileno())
    os.close(descriptor)
    with pytest.raises(OutputError, match="rows: cannot be written: Bad file descriptor"):
        rows.append(to_row(SCORES[0], RUN.bundle_id, RUN.bundle_revision))
    rows.close()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_figures_that_are_not_finite_are_none(tmp_path: Path, bad: float) -> None:
    """JSON cannot say nan: every format leaves such a figure empty, and the others are ranked without it."""
    output = tmp_path / "scores.jsonl"
    scores = [Score("odd.jpg", generic=bad, std=bad, stars=1), Score("a.jpg", generic=1.0, stars=1)]
    write(scores, ReportFormat.JSONL, output=output)

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    odd, good = (json.loads(line, parse_constant=refuse) for line in output.read_text().splitlines())
    assert odd["generic"] is odd["std"] is odd["percentile"] is None
    assert (good["generic"], good["percentile"]) == (1.0, 100.0)
    assert json.loads(write(scores, ReportFormat.JSONL).splitlines()[0], parse_constant=refuse) == odd
    assert read_csv(write(scores, ReportFormat.CSV))[0]["generic"] == ""
    assert len(write(scores, ReportFormat.TABLE).splitlines()) == 2


def test_a_line_of_json_is_valid_or_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonl_line({"generic": float("nan")})


def test_links_in_a_circle_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").symlink_to(tmp_path / "scores.csv")
    with pytest.raises(OutputError, match="a link that leads in a circle"):
        open_report(RUN, ReportFormat.CSV, stdout=Screen(), output=tmp_path / "scores.csv")
