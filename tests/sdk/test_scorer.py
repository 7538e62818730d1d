"""The scorer as a Python caller meets it, on a real bundle that is small."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from PIL import Image

from piaa_sdk import Score, Scorer, score_each
from piaa_sdk.bundle import write_config
from piaa_sdk.errors import (
    ImageError,
    ProfileExistsError,
    ProfileMismatchError,
    ProfileNotFoundError,
    RatingError,
    SupportSetError,
)
from piaa_sdk.fine_tuned import FineTunedHead
from piaa_sdk.profiles import ProfileStore
from piaa_sdk.scorer import _matched, _Person

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from piaa_sdk import Score

RATINGS = (1, 5, 2, 4, 3, 5, 1, 2)


class Frame:
    """What pandas and polars have in common."""

    def __init__(self, **columns: list[Any]) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def __getitem__(self, column: str) -> list[Any]:
        return self._columns[column]


@pytest.fixture
def scorer(tiny_bundle: Path) -> Scorer:
    return Scorer.from_pretrained(tiny_bundle)


@pytest.fixture
def rated(photos: list[Path]) -> dict[Path, float]:
    return dict(zip(photos, RATINGS, strict=False))


def another_revision(bundle: Path, place: Path, **preprocessing: Any) -> Path:
    """Copy a bundle under another revision; under another embedding_id too if the preprocessing differs."""
    other = Path(shutil.copytree(bundle, place))
    (other / "README.md").write_text("another revision")
    stated = json.loads((other / "preprocessor_config.json").read_text()) | preprocessing
    (other / "preprocessor_config.json").write_text(json.dumps(stated))
    write_config(other, json.loads((other / "config.json").read_text()))
    return other


def test_a_picture_has_one_score_however_it_is_given(scorer: Scorer, photos: list[Path]) -> None:
    with Image.open(photos[0]) as opened:
        image = opened.copy()
    given = [str(photos[0]), photos[0], photos[0].read_bytes(), image, np.asarray(image)]
    scores = scorer.score(given)
    assert len({score.generic for score in scores}) == 1
    assert [score.image for score in scores] == [str(photos[0])] * 2 + ["image 3", "image 4", "image 5"]
    assert scorer.score(photos[0])[0].generic == scores[0].generic


def test_folders_iterators_and_errors_keep_their_order(scorer: Scorer, photos: list[Path]) -> None:
    broken = photos[0].with_name("zz.jpg")
    broken.write_bytes(b"no picture")
    scores = scorer.score([photos[3], photos[0].parent, ImageError("elsewhere", "is gone")])  # type: ignore[list-item]
    assert [Path(score.image).name for score in scores] == [
        photos[3].name,
        *(path.name for path in photos),
        "zz.jpg",
        "elsewhere",
    ]
    assert [score.error is None for score in scores] == [True] * 13 + [False] * 2
    assert all(score.generic is None and score.percentile is None for score in scores[-2:])


def test_a_name_too_long_for_a_file_is_one_error(scorer: Scorer, photos: list[Path]) -> None:
    scores = scorer.score(["a" * 300 + ".jpg", photos[0]])
    assert [score.error is None for score in scores] == [False, True]


def test_percentile_is_the_share_that_scores_no_higher(scorer: Scorer, photos: list[Path]) -> None:
    scores = scorer.score(photos)
    values = [score.generic for score in scores if score.generic is not None]
    for score in scores:
        assert score.generic is not None
        assert score.percentile == pytest.approx(100 * np.mean(np.array(values) <= score.generic))


def test_streaming_does_not_wait_for_the_end_of_the_input(scorer: Scorer, photos: list[Path]) -> None:
    taken = []

    def endless() -> Iterator[Path]:
        for number in itertools.count():
            taken.append(number)
            yield photos[number % len(photos)]

    stream = scorer.iter_scores(endless())
    first = list(itertools.islice(stream, 5))
    assert all(score.percentile is None and score.generic is not None for score in first)
    assert len(taken) < 5000
    stream.close()  # type: ignore[attr-defined]


def test_what_an_input_gave_before_it_failed_is_scored(scorer: Scorer, photos: list[Path]) -> None:
    def failing() -> Iterator[Path]:
        yield from photos[:5]
        raise RuntimeError("the list broke off")

    scored: list[Score] = []
    with pytest.raises(RuntimeError, match="broke off"):
        scored.extend(scorer.iter_scores(failing()))
    assert [score.image for score in scored] == [str(photo) for photo in photos[:5]]


def test_what_is_ready_does_not_wait_for_the_next_picture() -> None:
    """Two networks embed at their own pace: no stream is asked for more while there are pairs to give out."""
    asked: list[str] = []

    def stream(name: str, groups: list[list[int]], failure: Exception | None = None) -> Iterator[Any]:
        for group in groups:
            asked.append(name)
            yield group
        if failure is not None:
            raise failure

    matched = _matched([stream("a", [[1, 2], [3], [4]]), stream("b", [[1], [2, 3, 4]])])
    assert next(matched) == [(1, 1)]
    assert asked == ["a", "b"]
    assert next(matched) == [(2, 2)]
    assert asked == ["a", "b", "b"]
    assert list(matched) == [[(3, 3)], [(4, 4)]]

    broken = _matched([stream("a", [[1, 2]], RuntimeError("broke off")), stream("b", [[1], [2, 3]])])
    assert [next(broken), next(broken)] == [[(1, 1)], [(2, 2)]]
    with pytest.raises(RuntimeError, match="broke off"):
        next(broken)


def test_several_persons_are_scored_in_one_pass(
    scorer: Scorer, rated: dict[Path, float], photos: list[Path]
) -> None:
    """The limit: each person's scores are those of a pass of their own, and no picture is read twice."""
    scorer.personalize(rated, user="ann")
    scorer.personalize({path: 10 - rating for path, rating in rated.items()}, user="bob", scale=(0, 10))
    people = [scorer, scorer.for_user("bob"), scorer.for_user("ann")]
    broken = photos[0].with_name("zz.jpg")
    broken.write_bytes(b"no picture")
    pictures = [photos[0].parent, photos[2]]
    together = list(score_each(people, pictures))
    assert len(together) == len(photos) + 2
    assert [scores[0].user for scores in together] == [None] * len(together)
    for person, scores in zip(people, zip(*together, strict=True), strict=True):
        alone = person.score(pictures)
        assert [(one.user, one.image, one.value, one.std) for one in scores] == [
            (one.user, one.image, one.value, one.std) for one in alone
        ]
    read: list[Path] = []
    list(score_each(people, (read.append(path) or path for path in photos)))
    assert read == photos


def test_several_networks_are_scored_in_one_pass(
    scorer: Scorer, rated: dict[Path, float], photos: list[Path], build_graph: Callable[..., bytes]
) -> None:
    """The limit: a pass for each, whatever there is to score; and what gives the pictures is asked once."""
    ann = scorer.personalize(rated, user="ann")
    people = [scorer, with_own_network(scorer, build_graph(seed=5)), ann]
    broken = photos[0].with_name("broken.png")
    broken.write_bytes(b"no picture")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    unlisted = ImageError("elsewhere", "cannot be listed")
    pictures = [*photos[:3], broken, pixels, photos[0].with_name("missing.jpg"), unlisted, *photos[3:]]
    given: list[int] = []
    together = list(score_each(people, (given.append(number) or one for number, one in enumerate(pictures))))
    assert given == list(range(len(pictures)))
    assert [[told(score) for score in column] for column in zip(*together, strict=True)] == [
        [told(score) for score in person.iter_scores(pictures)] for person in people
    ]
    assert [number for number, scores in enumerate(together) if scores[0].error is not None] == [3, 5, 6]
    assert all(scores[0].value != scores[1].value for scores in together if scores[0].error is None)


def test_a_pass_of_several_networks_can_be_left_early(
    scorer: Scorer, photos: list[Path], build_graph: Callable[..., bytes]
) -> None:
    before = set(threading.enumerate())
    people = [scorer, with_own_network(scorer, build_graph(seed=5))]
    results = cast("Generator[tuple[Score, ...], None, None]", score_each(people, itertools.cycle(photos)))
    first = next(results)
    assert [score.image for score in first] == [str(photos[0])] * 2
    assert set(threading.enumerate()) > before
    results.close()
    assert set(threading.enumerate()) == before


def with_own_network(scorer: Scorer, graph: bytes) -> Scorer:
    """Make the scorer of a person with a network of their own, as fine-tuning leaves it."""
    prior = scorer._base.prior
    engine = scorer._base.with_network(graph, prior)
    return Scorer(scorer._base, _Person("own", scorer.scale, None, FineTunedHead(prior, 0.1), None, engine))


def told(score: Score) -> tuple[object, ...]:
    """All that a score says; errors are equal only to themselves."""
    return (score.user, score.image, score.generic, score.personal, score.std, str(score.error))


def test_an_id_tells_scorers_apart_that_score_differently(
    scorer: Scorer, rated: dict[Path, float], tiny_bundle: Path, tmp_path: Path
) -> None:
    mira = scorer.personalize(rated, user="mira")
    others = [
        scorer,
        scorer.personalize(dict(list(rated.items())[:-1])),
        scorer.personalize(rated, scale=(0, 10)),
        Scorer.from_pretrained(another_revision(tiny_bundle, tmp_path / "other")),
    ]
    assert scorer.for_user("mira").scorer_id == mira.scorer_id
    assert len({mira.scorer_id, *(other.scorer_id for other in others)}) == 1 + len(others)


def test_every_form_of_ratings_teaches_the_same(
    scorer: Scorer, rated: dict[Path, float], photos: list[Path], tmp_path: Path
) -> None:
    table = tmp_path / "ratings.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "rating"), *rated.items()])
    frame = Frame(image=list(rated), rating=list(rated.values()))
    embeddings = scorer.embed(photos)
    expected = scorer.personalize(rated).score_embeddings(embeddings)
    for ratings in (list(rated.items()), table, frame):
        assert np.array_equal(scorer.personalize(ratings).score_embeddings(embeddings), expected)


def test_personal_scores_are_on_the_persons_scale(
    scorer: Scorer, rated: dict[Path, float], photos: list[Path]
) -> None:
    """Generic scores are mapped to it, nothing is clipped, and deviations count the noise in."""
    generic = scorer.score(photos)
    person = scorer.personalize(rated, scale=(0, 100))
    assert (scorer.personalize(rated).scale.low, scorer.personalize(rated).scale.high) == (1, 5)
    low, span = scorer.scale.low, scorer.scale.span
    for before, after in zip(generic, person.score(photos), strict=True):
        assert before.generic is not None
        assert before.personal is None
        assert after.generic == pytest.approx((before.generic - low) / span * 100)
        assert after.std is not None
        assert after.latent_std is not None
        assert after.std > after.latent_std > 0
    assert ProfileStore().names() == [], "nothing is stored without a name"


def test_a_stored_person_scores_the_same_to_the_last_bit(
    scorer: Scorer, tiny_bundle: Path, rated: dict[Path, float], photos: list[Path]
) -> None:
    stored = scorer.personalize(rated, user="José")
    again = Scorer.from_pretrained(tiny_bundle, user="José")
    assert again.score(photos) == stored.score(photos)
    assert again.adaptation == stored.adaptation
    assert again.adaptation is not None
    assert again.adaptation.shots == len(rated)
    assert scorer.adaptation is None


def test_stored_ratings_are_never_lost_by_accident(
    scorer: Scorer, rated: dict[Path, float], photos: list[Path]
) -> None:
    scorer.personalize(rated, user="ann")
    scorer.personalize(rated, user="ann")  # the same ratings again
    with pytest.raises(ProfileExistsError, match=r"--add.*--replace"):
        scorer.personalize({photos[8]: 4, photos[9]: 1}, user="ann")
    added = scorer.personalize({photos[8]: 4, photos[0]: 2}, user="ann", add=True)
    assert added.profile is not None
    assert added.profile.ratings.tolist() == [2, 5, 2, 4, 3, 5, 1, 2, 4]
    with pytest.raises(RatingError, match="outside the scale 1 to 5"):
        scorer.personalize({photos[9]: 6}, user="ann", add=True)
    with pytest.raises(RatingError, match="stored on the scale 1 to 5"):
        scorer.personalize({photos[9]: 6}, user="ann", add=True, scale=(1, 10))
    before = len(ProfileStore().backups("ann"))
    replaced = scorer.personalize({photos[8]: 4, photos[9]: 1}, user="ann", replace=True)
    assert replaced.support is not None
    assert len(replaced.support) == 2
    assert len(ProfileStore().backups("ann")) == before + 1
    with pytest.raises(ProfileNotFoundError):
        scorer.personalize(rated, user="nobody", add=True)


def test_a_damaged_profile_can_be_replaced(scorer: Scorer, rated: dict[Path, float], piaa_home: Path) -> None:
    scorer.personalize(rated, user="ann")
    [header] = piaa_home.rglob("profile.json")
    header.write_text("{")
    assert scorer.personalize(rated, user="ann", replace=True).user == "ann"


def test_a_profile_follows_its_person_to_a_new_revision(
    tiny_bundle: Path, rated: dict[Path, float], photos: list[Path], tmp_path: Path
) -> None:
    """The same embedding_id: the stored embeddings are enough, the photos may be gone."""
    expected = Scorer.from_pretrained(tiny_bundle).personalize(rated, user="ann").score(photos)
    other = another_revision(tiny_bundle, tmp_path / "other")
    with pytest.raises(ProfileMismatchError, match="piaa users refit ann --model"):
        Scorer.from_pretrained(other, user="ann")
    kept = photos[-1]
    for photo in photos[:-1]:
        photo.unlink()
    assert Scorer.from_pretrained(other).refit("ann").score(kept)[0].personal == expected[-1].personal
    assert Scorer.from_pretrained(other, user="ann").user == "ann"


def test_other_embeddings_are_made_from_the_photos_again(
    tiny_bundle: Path, rated: dict[Path, float], photos: list[Path], tmp_path: Path
) -> None:
    Scorer.from_pretrained(tiny_bundle).personalize(rated, user="ann")
    other = Scorer.from_pretrained(another_revision(tiny_bundle, tmp_path / "other", resample="bilinear"))
    refitted = other.refit("ann")
    assert refitted.profile is not None
    assert refitted.profile.embedding_id == other.bundle.embedding_id
    photos[0].unlink()
    with pytest.raises(ProfileMismatchError, match=photos[0].name):
        Scorer.from_pretrained(tiny_bundle).refit("ann")


def test_an_imported_profile_is_not_refitted_from_strangers(
    tiny_bundle: Path,
    rated: dict[Path, float],
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A portable profile has no folders: a photo of that name in the current folder is another photo."""
    store = ProfileStore()
    Scorer.from_pretrained(tiny_bundle).personalize(rated, user="ann")
    carried = store.export_file("ann", tmp_path / "ann.piaa")
    store.delete("ann")
    store.import_file(carried)
    monkeypatch.chdir(photos[0].parent)
    other = Scorer.from_pretrained(another_revision(tiny_bundle, tmp_path / "other", resample="bilinear"))
    with pytest.raises(ProfileMismatchError, match="--photos FOLDER --replace"):
        other.refit("ann")


def test_ratings_that_teach_nothing_are_refused(scorer: Scorer, photos: list[Path]) -> None:
    for ratings in ({photos[0]: 3}, {photos[0]: 3, photos[1]: 3}):
        with pytest.raises(SupportSetError):
            scorer.personalize(ratings, user="ann")
    bad = photos[0].with_name("bad.jpg")
    bad.write_bytes(b"")
    with pytest.raises(RatingError, match=r"rating 2.*bad\.jpg.*empty"):
        scorer.personalize({photos[0]: 3, bad: 1}, user="ann")
    assert ProfileStore().names() == []


def test_a_second_run_decodes_nothing(tiny_bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    """A file of the same size and age is not even read: its content may be anything."""
    first = Scorer.from_pretrained(tiny_bundle).score(photos[0])
    status = photos[0].stat()
    photos[0].write_bytes(b"x" * status.st_size)
    os.utime(photos[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Scorer.from_pretrained(tiny_bundle).score(photos[0]) == first
    assert Scorer.from_pretrained(tiny_bundle, cache=False).score(photos[0])[0].error is not None


def test_without_a_cache_nothing_is_written(tiny_bundle: Path, photos: list[Path], piaa_home: Path) -> None:
    Scorer.from_pretrained(tiny_bundle, cache=False).score(photos)
    assert list(piaa_home.iterdir()) == []


def test_embeddings_have_their_shape_and_the_generic_score_no_deviation(
    scorer: Scorer, photos: list[Path], rated: dict[Path, float]
) -> None:
    embeddings = scorer.embed(photos)
    assert embeddings.shape == (12, 16)
    assert scorer.embed([]).shape == (0, 16)
    assert np.array_equal(embeddings, embeddings.astype(np.float16).astype(np.float32))
    with pytest.raises(ValueError, match="no standard deviation"):
        scorer.score_embeddings(embeddings, return_std=True)
    with pytest.raises(ValueError, match=r"must be \(N, 16\)"):
        scorer.score_embeddings(embeddings[:, :3])
    scores, std = scorer.personalize(rated).score_embeddings(embeddings, return_std=True)
    assert scores.shape == std.shape == (12,)
    photos[0].write_bytes(b"damaged")
    with pytest.raises(ImageError):
        scorer.embed(photos)
