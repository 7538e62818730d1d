"""What engines send about and call, without an engine: the scorer of batches, parts, the folder of a job."""

from __future__ import annotations

import json
import os
import shutil
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies_environment, proxy_bypass_environment

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from piaa_sdk import Scorer
from piaa_sdk.engines import BatchScorer
from piaa_sdk.engines.batch_scorer import picture_of
from piaa_sdk.engines.job_folder import RECORD_NAME, JobFolder, JobRecord, PartCounts, encode_rows
from piaa_sdk.engines.parts import Part, split
from piaa_sdk.engines.ray_data import ActorPlan, local_settings, plan_actors
from piaa_sdk.errors import (
    EngineError,
    ModelFormatError,
    ModelNotFoundError,
    OutputError,
    ProfileNotFoundError,
)
from piaa_sdk.fine_tuned import FineTunedHead
from piaa_sdk.images import RemotePicture
from piaa_sdk.profiles import ProfileStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RATINGS = (1, 5, 2, 4, 3, 5, 1, 2)
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def mira(tiny_bundle: Path, photos: list[Path]) -> Scorer:
    """The scorer of a stored person."""
    rated = dict(zip(photos, RATINGS, strict=False))
    return Scorer.from_pretrained(tiny_bundle).personalize(rated, user="mira")


def sent(scorer: BatchScorer) -> BatchScorer:
    """The scorer as it arrives in another process."""
    arrived: BatchScorer = ForkingPickler.loads(ForkingPickler.dumps(scorer))
    return arrived


def figures(scores: Sequence[Any]) -> list[tuple[float | None, ...]]:
    return [(score.generic, score.personal, score.std, score.stars) for score in scores]


def test_scores_are_those_of_the_scorer(mira: Scorer, tiny_bundle: Path, photos: list[Path]) -> None:
    """Sent to another process, where nobody is stored, it gives the same numbers to the last bit."""
    scorer = sent(BatchScorer(tiny_bundle, user="mira"))
    ProfileStore().delete("mira")

    rows = scorer({"path": np.array([str(photo) for photo in photos], dtype=object), "album": ["x"] * 12})

    expected = figures(mira.score(photos))
    found = zip(*(rows[name] for name in ("generic", "personal", "std", "stars")), strict=True)
    assert list(found) == expected
    assert list(rows["path"]) == [str(photo) for photo in photos]
    assert rows["album"] == ["x"] * 12
    assert list(rows["error"]) == [None] * 12
    assert set(rows["user"]) == {"mira"}
    assert set(rows["bundle_revision"]) == {mira.bundle.bundle_revision}


def test_bytes_score_as_their_files_do(tiny_bundle: Path, photos: list[Path]) -> None:
    scorer = BatchScorer(tiny_bundle)
    by_path = scorer({"path": [str(photo) for photo in photos]})
    by_bytes = scorer({"bytes": [photo.read_bytes() for photo in photos]})
    assert "bytes" not in by_bytes
    assert np.array_equal(by_path["generic"], by_bytes["generic"])
    assert np.isnan(by_bytes["personal"]).all()


def test_bytes_come_before_the_path(tiny_bundle: Path, photos: list[Path]) -> None:
    """A path beside bytes is a name; one without is read."""
    scorer = BatchScorer(tiny_bundle)
    rows = scorer({"path": ["elsewhere.png", str(photos[1])], "bytes": [photos[0].read_bytes(), None]})
    assert list(rows["generic"]) == list(scorer({"path": [str(photo) for photo in photos[:2]]})["generic"])
    assert list(rows["path"]) == ["elsewhere.png", str(photos[1])]


def test_bad_pictures_are_rows(tiny_bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    """Nothing that a row can hold is an exception, and the rows around it are scored."""
    (tmp_path / "text.jpg").write_text("no picture")
    paths = [str(photos[0]), str(tmp_path / "none.jpg"), str(tmp_path), str(tmp_path / "text.jpg"), None, 7]
    rows = BatchScorer(tiny_bundle)({"path": [*paths, float("nan"), "", str(photos[1])]})
    reasons = list(rows["error"])
    assert reasons[0] is None
    assert reasons[-1] is None
    assert reasons[1:3] == ["no such file or folder", "a folder, not a picture file"]
    assert "not a picture" in reasons[3]
    assert [reason.partition(",")[2] for reason in reasons[4:8]] == [
        " found nothing",
        " found int",
        " found nothing",
        " found nothing",
    ]
    assert np.isnan(rows["generic"][1:-1]).all()
    assert list(rows["stars"][1:-1]) == [None] * 7
    text = BatchScorer(tiny_bundle)({"bytes": ["text", b""]})
    assert list(text["error"]) == ["expected the bytes of a picture, not str", "the file is empty"]


def test_batches_without_pictures_are_refused(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"columns \['name'\]; it needs bytes or path"):
        BatchScorer(tiny_bundle)({"name": ["a"]})
    with pytest.raises(ValueError, match="different lengths"):
        BatchScorer(tiny_bundle)({"path": ["a"], "bytes": [b"", b""]})
    assert len(BatchScorer(tiny_bundle)({"path": []})["error"]) == 0


def test_it_is_small_and_opened_late(mira: Scorer, tiny_bundle: Path, photos: list[Path]) -> None:
    scorer = BatchScorer(tiny_bundle, user=mira.user)
    (tiny_bundle / "config.json").rename(tiny_bundle / "away.json")
    with pytest.raises(ModelNotFoundError):
        scorer({"path": [str(photos[0])]})
    (tiny_bundle / "away.json").rename(tiny_bundle / "config.json")
    closed = bytes(ForkingPickler.dumps(scorer))
    scorer({"path": [str(photos[0])]})
    assert bytes(ForkingPickler.dumps(scorer)) == closed  # what is open stays here
    assert len(closed) < 20_000


def test_a_hundred_ratings_are_small(photos: list[Path]) -> None:
    """What is sent with the model of the package, for a person with many ratings: a few hundred kilobytes."""
    embedded = Scorer.from_pretrained(cache=False)
    rng = np.random.default_rng(0)
    pictures = [(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), 1 + number % 5) for number in range(100)]
    embedded.personalize(pictures, user="many")
    assert len(ForkingPickler.dumps(BatchScorer(user="many"))) < 400_000


def test_ratings_and_photo_names_stay_here(mira: Scorer, tiny_bundle: Path, photos: list[Path]) -> None:
    """What goes to other machines tells neither which photos were rated nor where they lie."""
    data = bytes(ForkingPickler.dumps(BatchScorer(tiny_bundle, user=mira.user)))
    assert b"mira" in data
    assert not [
        photo for photo in photos if photo.name.encode() in data or photo.stem.encode() + b"." in data
    ]


def test_a_network_of_ones_own_travels(
    tiny_bundle: Path, photos: list[Path], build_graph: Callable[..., bytes]
) -> None:
    """A fine-tuned person is scored by the network that was sent along."""
    scorer = Scorer.from_pretrained(tiny_bundle)
    prior = scorer._base.prior
    tuned = FineTunedHead(prior, 0.1)
    engine = scorer._base.with_network(build_graph(seed=5), prior)
    from piaa_sdk.scorer import _Person

    own = Scorer(scorer._base, _Person("mira", scorer.scale, None, tuned, None, engine))
    carried = own.carry()
    assert carried is not None
    assert carried.has_network
    again = scorer.for_carried(carried)
    assert again.scorer_id == own.scorer_id
    assert figures(again.score(photos)) == figures(own.score(photos))
    assert figures(again.score(photos)) != figures(scorer.score(photos))


def test_mistakes_show_where_the_job_is_started(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ProfileNotFoundError):
        BatchScorer(tiny_bundle, user="nobody")
    with pytest.raises(ModelNotFoundError):
        BatchScorer(tmp_path / "none")


def test_another_model_scores_nothing(tiny_bundle: Path, photos: list[Path]) -> None:
    """A worker with another model than the job's would give scores that cannot be compared."""
    scorer = sent(BatchScorer(tiny_bundle))
    config = json.loads((tiny_bundle / "config.json").read_text())
    config["rating_scale"] = [1, 5]
    (tiny_bundle / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFormatError, match="install the same piaa-sdk"):
        scorer({"path": [str(photos[0])]})


def test_parts_are_the_list_cut_up(photos: list[Path]) -> None:
    """Every photo once, in order; the same parts from the same input, after a trip as text too."""
    parts = list(split([str(photos[0].parent)], 5))
    assert [part.count for part in parts] == [5, 5, 2]
    assert [name for part in parts for name, _ in part.pictures()] == [str(photo) for photo in photos]
    assert [part.digest for part in split([str(photos[0].parent)], 5)] == [part.digest for part in parts]
    assert [Part.from_json(part.to_json()) for part in parts] == parts
    assert len({part.file_name for part in parts}) == 3
    with pytest.raises(ValueError, match="part_size is 0"):
        list(split([], 0))


def test_relative_paths_begin_where_the_job_was_started(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers run in folders of their own; rows show the path as it was given."""
    monkeypatch.chdir(tmp_path)
    [part] = split(["photos"], 20)
    monkeypatch.chdir("/")
    names, places = zip(*part.pictures(), strict=True)
    assert names[0] == f"photos{os.sep}00.png"
    assert places[0] == str(photos[0])


def test_addresses_are_read_where_they_lead_and_shown_without_keys() -> None:
    """An address is no path: it has no folder to begin at, and what opens it stays out of rows."""
    name, picture = picture_of("https://example.org/a.jpg?X-Amz-Signature=secret", None, "/photos")
    assert name == "https://example.org/a.jpg?X-Amz-Signature=***"
    assert picture == RemotePicture("https://example.org/a.jpg?X-Amz-Signature=secret")
    assert picture_of("ftp://mira:sesame@host/a.jpg", None, "/photos")[0] == "ftp://host/a.jpg"
    with pytest.raises(EngineError) as caught:
        list(split(["https://mira:sesame@host/list.parquet"], 10))
    assert "https://host/list.parquet: no such file" in str(caught.value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("rows_per_group", [1, 4, 5, 100])
@pytest.mark.parametrize("part_size", [1, 3, 5, 12, 50])
def test_lists_are_cut_up_whatever_their_row_groups(
    tmp_path: Path, rows_per_group: int, part_size: int
) -> None:
    """A part may begin and end within row groups: its rows are those of the slice, no more, no fewer."""
    names = [f"/photos/{number}.jpg" for number in range(23)]
    pq.write_table(
        pa.table({"uri": names, "size": range(23)}), tmp_path / "l.parquet", row_group_size=rows_per_group
    )
    parts = [Part.from_json(part.to_json()) for part in split([str(tmp_path / "l.parquet")], part_size)]
    found = [[name for name, _ in part.pictures()] for part in parts]
    assert found == [names[start : start + part_size] for start in range(0, 23, part_size)]
    assert [part.count for part in parts] == [len(slice_) for slice_ in found]


def test_lists_hold_bytes_or_paths_relative_to_them(tmp_path: Path, photos: list[Path]) -> None:
    data = [photos[0].read_bytes(), None]
    pq.write_table(pa.table({"id": [7, 8], "bytes": data}), tmp_path / "bytes.parquet")
    pq.write_table(pa.table({"path": ["photos/00.png", None]}), tmp_path / "paths.parquet")
    by_bytes, by_path = split([str(tmp_path / name) for name in ("bytes.parquet", "paths.parquet")], 9)
    assert next(by_bytes.pictures()) == ("7", data[0])
    assert next(by_path.pictures()) == ("photos/00.png", str(photos[0]))
    assert [part.index for part in (by_bytes, by_path)] == [0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"id": ["a"]}, "needs path"), ({"bytes": [b""]}, "needs path"), ({"rating": [1]}, "needs path")],
)
def test_lists_without_photos_are_refused(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(EngineError, match=message):
        list(split([str(tmp_path / "list.parquet")], 5))


def test_lists_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no list PAR1")
    with pytest.raises(EngineError, match="cannot be read as a list"):
        list(split([str(tmp_path / "list.parquet")], 5))
    with pytest.raises(EngineError, match="no such file"):
        list(split([str(tmp_path / "none.parquet")], 5))


def test_a_list_that_changed_is_noticed_by_the_worker(tmp_path: Path) -> None:
    """A worker that sees another file under the name would score other photos."""
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"]}), tmp_path / "list.parquet")
    [part] = split([str(tmp_path / "list.parquet")], 5)
    pq.write_table(pa.table({"path": ["c.jpg", "b.jpg", "d.jpg"]}), tmp_path / "list.parquet")
    with pytest.raises(EngineError, match="is another file"):
        list(part.pictures())


def job(tiny_bundle: Path, photos: list[Path], part_size: int = 5, user: str | None = None) -> JobRecord:
    return JobRecord.of(
        BatchScorer(tiny_bundle, user=user), split([str(photos[0].parent)], part_size), part_size
    )


def write_first_part(folder: JobFolder, tiny_bundle: Path, photos: list[Path], part_size: int = 5) -> None:
    part = next(split([str(photos[0].parent)], part_size))
    folder.write(part, encode_rows(list(BatchScorer(tiny_bundle).rows(part.pictures())), part))


def test_a_job_goes_on_where_it_was_stopped(tiny_bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    scorer, parts = BatchScorer(tiny_bundle), list(split([str(photos[0].parent)], 5))
    folder = JobFolder(tmp_path / "out", job(tiny_bundle, photos))
    photos[1].write_bytes(b"")
    folder.write(parts[0], encode_rows(list(scorer.rows(parts[0].pictures())), parts[0]))

    again = JobFolder(tmp_path / "out", job(tiny_bundle, photos))

    assert [again.finished(part) for part in parts] == [PartCounts(5, 1), None, None]
    (tmp_path / "out" / parts[0].file_name).write_bytes(b"PAR1")
    with pytest.raises(OutputError, match="is damaged; remove it"):
        again.finished(parts[0])


def test_another_job_is_refused(mira: Scorer, tiny_bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    """Rows of two jobs in one folder could not be told apart."""
    write_first_part(JobFolder(tmp_path / "out", job(tiny_bundle, photos)), tiny_bundle, photos)
    with pytest.raises(OutputError, match="in parts of 5 photos"):
        JobFolder(tmp_path / "out", job(tiny_bundle, photos, part_size=4))
    with pytest.raises(OutputError, match="started for most people"):
        JobFolder(tmp_path / "out", job(tiny_bundle, photos, user=mira.user))
    shutil.copyfile(photos[0], photos[0].with_name("new.png"))
    with pytest.raises(OutputError, match=r"another list of 12 photos \(this one has 13\)"):
        JobFolder(tmp_path / "out", job(tiny_bundle, photos))
    photos[0].with_name("new.png").unlink()
    config = json.loads((tiny_bundle / "config.json").read_text())
    (tiny_bundle / "config.json").write_text(json.dumps(config | {"bundle_id": "other"}))
    with pytest.raises(OutputError, match="started with the model piaa-tiny"):
        JobFolder(tmp_path / "out", job(tiny_bundle, photos))


def test_a_job_that_never_began_is_not_in_the_way(
    tiny_bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    """No cluster, or a kill: as long as no part is there, the folder is anybody's, and then the first's."""
    early = JobFolder(tmp_path / "out", job(tiny_bundle, photos))
    (tmp_path / "out" / ".0123456789abcdef.partial").write_bytes(b"PAR1")
    late = JobFolder(tmp_path / "out", job(tiny_bundle, photos, part_size=4))
    write_first_part(late, tiny_bundle, photos, 4)
    record = (tmp_path / "out" / RECORD_NAME).read_bytes()
    assert JobRecord.parse(record).part_size == 4
    with pytest.raises(OutputError, match="in parts of 4 photos"):
        write_first_part(early, tiny_bundle, photos)
    assert (tmp_path / "out" / RECORD_NAME).read_bytes() == record
    assert len(list((tmp_path / "out").glob("part-*"))) == 1


def test_a_first_write_that_was_killed_leaves_an_empty_folder(
    tiny_bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".0123456789abcdef.partial").write_bytes(b"{")
    JobFolder(tmp_path / "out", job(tiny_bundle, photos))
    assert (tmp_path / "out" / RECORD_NAME).is_file()


def test_addresses_that_were_signed_again_are_the_same_job() -> None:
    """Signatures run out; what is at the address is what rows are about."""
    address = "https://example.org/a.jpg?X-Amz-Signature="
    old, new = (next(split([address + signature], 5)) for signature in ("one", "two"))
    assert old.file_name == new.file_name
    assert [picture for _, picture in new.pictures()] == [RemotePicture(address + "two")]
    other = next(split([address.replace("a.jpg", "b.jpg") + "one"], 5))
    assert other.file_name != old.file_name


@pytest.mark.parametrize("name", ["scores.csv", "a folder/that/is not there"])
def test_folders_of_others_are_refused(
    tiny_bundle: Path, photos: list[Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / "scores.csv").write_text("a,b")
    before = sorted(tmp_path.rglob("*"))
    for place in (tmp_path / name, photos[0].parent):
        with pytest.raises(OutputError):
            JobFolder(place, job(tiny_bundle, photos))
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_and_photos_must_be_as_many(tiny_bundle: Path, photos: list[Path]) -> None:
    """A part that lost a row, or has one twice, never becomes a file."""
    [part] = split([str(photos[0].parent)], 20)
    rows = list(BatchScorer(tiny_bundle).rows(part.pictures()))
    with pytest.raises(EngineError, match="12 photos, 11 were found"):
        encode_rows(rows[1:], part)


def test_no_exception_is_made_from_the_proxy_that_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY often names the clouds' metadata address, which a Ray of this machine is not to ask."""
    monkeypatch.setenv("NO_PROXY", "169.254.169.254")
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    before = dict(os.environ)
    with local_settings() as own:
        assert getproxies_environment()["http"] == "http://127.0.0.1:9"
        assert not proxy_bypass_environment("169.254.169.254")
    assert dict(os.environ) == before
    assert own == {"http_proxy": None, "no_proxy": None, "NO_PROXY": "169.254.169.254"}


SMALL, LARGE, CARDS = {"CPU": 2.0}, {"CPU": 16.0}, {"CPU": 12.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "plan"),
    [
        ([SMALL, LARGE], None, "auto", ActorPlan(1, 0, 18)),
        ([SMALL, SMALL, LARGE], 4, "cpu", ActorPlan(4, 0, 4)),  # 20 cores, of which 16 are in one place
        ([LARGE, LARGE, CARDS], None, "auto", ActorPlan(6, 1, 2)),  # not 22 cores each
        ([CARDS, {"CPU": 4.0, "GPU": 1.0}], None, "cuda", ActorPlan(4, 1, 3)),
        ([CARDS], 8, "auto", ActorPlan(8, 1, 1)),
        ([{"CPU": 2.0, "GPU": 8.0}], None, "auto", ActorPlan(1, 1, 2)),
        ([CARDS, LARGE], None, "cpu", ActorPlan(1, 0, 28)),
        ([{"memory": 1.0}, SMALL], None, "auto", ActorPlan(1, 0, 2)),  # a head that does no work
    ],
)
def test_processes_fit_on_nodes(
    nodes: list[dict[str, float]], workers: int | None, device: str, plan: ActorPlan
) -> None:
    """Cores are counted node by node: a process that no node has room for would be waited for forever."""
    assert plan_actors(nodes, workers, device) == plan


@pytest.mark.parametrize(
    ("nodes", "workers", "message"),
    [
        ([SMALL] * 5, 8, "no node of the cluster has 8 cores for one process, the largest has 2;"),
        ([LARGE, CARDS], 16, "no node with a graphics processor .* 16 cores .* the largest has 12;"),
        ([{"GPU": 1.0}], None, "no node with a graphics processor .* 1 core .* the largest has 0;"),
        ([], None, "the largest has 0;"),
    ],
)
def test_what_fits_nowhere_is_refused(
    nodes: list[dict[str, float]], workers: int | None, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        plan_actors(nodes, workers, "auto")


def test_records_of_the_first_version_load() -> None:
    """Frozen bytes: what version 1 has written must be read forever."""
    record = JobRecord.parse((GOLDEN / "job_v1.json").read_bytes())
    assert (record.user, record.photos, record.parts, record.part_size) == ("mira", 12, 3, 5)
    assert JobRecord.parse(record.to_bytes()) == record


@pytest.mark.parametrize(
    "change", [{"format_version": 2}, {"format_version": True}, {"type": "other"}, {"parts": ...}]
)
def test_records_that_are_none_are_refused(change: dict[str, Any]) -> None:
    data = json.loads((GOLDEN / "job_v1.json").read_bytes()) | change
    content = json.dumps({name: value for name, value in data.items() if value is not ...})
    with pytest.raises(OutputError, match=RECORD_NAME):
        JobRecord.parse(content.encode())
