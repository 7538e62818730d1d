"""Scoring by previews: another choice with its own place in the cache, and never what is learned from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from camera_jpeg import Exif, Stored, save_jpeg, with_index
from PIL import Image
from typer.testing import CliRunner

from piaa_sdk import Scorer
from piaa_sdk.bundle import write_config
from piaa_sdk.cli import app
from piaa_sdk.embedding_cache import default_path, summarize
from piaa_sdk.engine import preview_space
from piaa_sdk.profiles import ProfileStore

if TYPE_CHECKING:
    from pathlib import Path

SIZE, PREVIEW = (384, 256), (192, 128)


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, size=(6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def camera_photos(tmp_path: Path) -> list[Path]:
    """Eight JPEGs whose previews show something else, so that scores tell which of the two was read."""
    folder = tmp_path / "camera"
    folder.mkdir()
    paths = []
    for number in range(8):
        photo = save_jpeg(scene(number, SIZE), exif=Exif(orientation=1).to_bytes())
        path = folder / f"{number}.jpg"
        path.write_bytes(with_index(photo, Stored(preview_of(number))))
        paths.append(path)
    return paths


def preview_of(number: int) -> bytes:
    return save_jpeg(scene(100 + number, PREVIEW))


def values(scorer: Scorer, photos: list[Path] | list[bytes]) -> list[float | None]:
    return [score.value for score in scorer.iter_scores(photos)]


def test_scores_are_those_of_the_previews(tiny_bundle: Path, camera_photos: list[Path]) -> None:
    plain = Scorer.from_pretrained(tiny_bundle)
    quick = Scorer.from_pretrained(tiny_bundle, previews=True)
    shown = values(plain, [preview_of(number) for number in range(8)])
    assert values(quick, camera_photos) == shown
    assert values(quick, [photo.read_bytes() for photo in camera_photos]) == shown
    assert all(one != other for one, other in zip(values(plain, camera_photos), shown, strict=True))
    assert quick.scorer_id != plain.scorer_id


@pytest.mark.parametrize("first", [True, False])
def test_the_cache_never_gives_one_for_the_other(
    tiny_bundle: Path, camera_photos: list[Path], first: bool
) -> None:
    """Whoever comes first, by path and by content; a second run of each decodes nothing."""
    expected = {
        previews: values(Scorer.from_pretrained(tiny_bundle, previews=previews, cache=False), camera_photos)
        for previews in (True, False)
    }
    for _ in range(2):
        for previews in (first, not first):
            scorer = Scorer.from_pretrained(tiny_bundle, previews=previews)
            assert values(scorer, camera_photos) == expected[previews]
            assert values(scorer, [photo.read_bytes() for photo in camera_photos]) == expected[previews]
    known = list(Scorer.from_pretrained(tiny_bundle, previews=first)._engine.embed(camera_photos))
    assert all(item.from_cache for item in known)
    assert sorted(summarize(default_path()).embeddings.values()) == [8, 8]


def test_a_profile_does_not_depend_on_previews(tiny_bundle: Path, camera_photos: list[Path]) -> None:
    """It is read by whoever scores, with previews or without, so it is always learned in full."""
    rated = dict(zip(camera_photos, (1, 5, 2, 4, 3, 5, 1, 2), strict=True))
    quick = Scorer.from_pretrained(tiny_bundle, previews=True)
    mira = quick.personalize(rated, user="mira")
    Scorer.from_pretrained(tiny_bundle).personalize(rated, user="ida")
    one, other = (ProfileStore().load(name) for name in ("mira", "ida"))
    np.testing.assert_array_equal(one.support.embeddings, other.support.embeddings)
    assert one.embedding_id == other.embedding_id == quick.bundle.embedding_id
    again = Scorer.from_pretrained(tiny_bundle, user="ida", previews=True)
    assert values(again, camera_photos) == values(mira, camera_photos)
    assert values(again, camera_photos) != values(
        Scorer.from_pretrained(tiny_bundle, user="ida"), camera_photos
    )


def test_what_is_refitted_is_read_in_full(tiny_bundle: Path, camera_photos: list[Path]) -> None:
    rated = dict(zip(camera_photos, (1, 5, 2, 4, 3, 5, 1, 2), strict=True))
    Scorer.from_pretrained(tiny_bundle).personalize(rated, user="mira")
    before = ProfileStore().load("mira").support.embeddings
    stated = json.loads((tiny_bundle / "preprocessor_config.json").read_text()) | {"resample": "lanczos"}
    (tiny_bundle / "preprocessor_config.json").write_text(json.dumps(stated))
    write_config(tiny_bundle, json.loads((tiny_bundle / "config.json").read_text()))
    quick = Scorer.from_pretrained(tiny_bundle, previews=True)
    quick.refit("mira")
    after = ProfileStore().load("mira").support.embeddings
    np.testing.assert_array_equal(after, Scorer.from_pretrained(tiny_bundle).embed(camera_photos))
    assert (before != after).any()


def test_a_network_of_ones_own_reads_previews_too(tiny_bundle: Path) -> None:
    engine = Scorer.from_pretrained(tiny_bundle, previews=True)._engine
    own = engine.with_network((tiny_bundle / "onnx" / "backbone.onnx").read_bytes(), engine.prior)
    assert own.previews


def test_the_space_of_previews_is_stable_and_another() -> None:
    """It is in every cache: another name would forget all of them."""
    assert preview_space("ab") == ("25f65657d960abde8be92cd12a01848f265e86386f68b613b18e18132d57d70f")
    assert preview_space("ab") != preview_space("ac")


def test_the_command_line_has_the_switch(tiny_bundle: Path, camera_photos: list[Path]) -> None:
    def scores(*options: str) -> list[float]:
        arguments = ["score", str(camera_photos[0].parent), "--model", str(tiny_bundle), "--format", "jsonl"]
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == 0
        return [json.loads(line)["generic"] for line in result.stdout.splitlines()]

    plain, quick = (Scorer.from_pretrained(tiny_bundle, previews=previews) for previews in (False, True))
    assert scores() == values(plain, camera_photos)
    assert scores("--previews") == values(quick, camera_photos)
    assert scores() != scores("--previews")
