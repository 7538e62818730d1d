"""The golden pictures: made from formulas, small, each of another kind; a moved score is noticed."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from export.golden import MAX_BYTES, SCORE_TOLERANCE, compare_golden, make_golden_pictures
from piaa_sdk.bundle import EMBEDDED_FOLDER, ModelBundle, write_config
from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from pathlib import Path


def test_pictures_are_the_same_every_time() -> None:
    first = make_golden_pictures()
    assert make_golden_pictures() == first
    assert list(first) == sorted(first)
    assert sum(map(len, first.values())) < MAX_BYTES


def test_pictures_cover_what_decoding_can_get_wrong() -> None:
    images = {name: Image.open(io.BytesIO(data)) for name, data in make_golden_pictures().items()}
    kinds = {(image.format, image.mode) for image in images.values()}
    assert kinds == {
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "I;16"),
    }
    assert images["3-waves-turned.jpg"].getexif()[0x0112] == 6
    assert min(images["1-dusk.jpg"].size) >= 2 * 2 * 224, (
        "decoded at half size by a bundle that reads 224 pixels"
    )


def test_a_healthy_bundle_gives_its_golden_scores(bundle_folder: Path) -> None:
    assert compare_golden(ModelBundle.load(bundle_folder)) < 1e-4
    golden = json.loads((bundle_folder / "golden.json").read_text())
    scores = [picture["score"] for picture in golden["pictures"]]
    assert len(set(scores)) == len(scores) == 7
    assert golden["tolerance"]["score"] == SCORE_TOLERANCE


@pytest.mark.parametrize("key", ["score", "embedding_norm"])
def test_a_moved_score_or_embedding_is_noticed(bundle_folder: Path, tmp_path: Path, key: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    golden = json.loads((folder / "golden.json").read_text())
    golden["pictures"][3][key] *= 1.05
    (folder / "golden.json").write_text(json.dumps(golden))
    write_config(folder, json.loads((folder / "config.json").read_text()))
    with pytest.raises(
        ModelFormatError, match=r"4-hills-16-bit\.png: score .* Decoder, backbone or prior differ"
    ):
        compare_golden(ModelBundle.load(folder))


def test_embedded_bundle_gives_its_golden_scores() -> None:
    """What is shipped, computed again here: the promise is 0.001 rating units with the same versions."""
    assert compare_golden(ModelBundle.load(EMBEDDED_FOLDER)) <= SCORE_TOLERANCE
