"""A bundle is checked before it is used: what is missing, damaged or newer is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import piaa_sdk.bundle
from piaa_sdk.bundle import ModelBundle, Preprocessing, write_config
from piaa_sdk.errors import ModelError, ModelFormatError, ModelNotFoundError, OutputError
from piaa_sdk.rating_scale import RatingScale

if TYPE_CHECKING:
    from pathlib import Path

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def change_config(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps({**read_config(folder), **changes}))


def change_preprocessing(folder: Path, **changes: object) -> None:
    """Change a value and the checksum with it, as whoever makes a bundle would."""
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    write_config(folder, read_config(folder))


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def test_load_reads_what_the_files_say(tiny_bundle: Path) -> None:
    bundle = ModelBundle.load(tiny_bundle)
    assert bundle.bundle_id == "piaa-tiny"
    assert bundle.embedding_dim == 16
    assert bundle.rating_scale == RatingScale(1, 7)
    assert bundle.license == "apache-2.0"
    assert bundle.preprocessing.size == 32
    assert bundle.preprocessing.background == (255, 255, 255)
    assert bundle.backbone_path == tiny_bundle / "onnx" / "backbone.onnx"
    names = {"onnx/backbone.onnx", "preprocessor_config.json", "prior.safetensors"}
    assert set(bundle.checksums) == names


def test_identities_are_the_digests_that_are_documented(tiny_bundle: Path) -> None:
    """Profiles and caches store them: another recipe would orphan every one of them."""
    digests = {
        name: hashlib.sha256((tiny_bundle / name).read_bytes()).hexdigest()
        for name in ("config.json", "onnx/backbone.onnx", "preprocessor_config.json", "prior.safetensors")
    }
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    preprocessing = json.dumps(
        json.loads((tiny_bundle / "preprocessor_config.json").read_text()),
        sort_keys=True,
        separators=(",", ":"),
    )
    bundle = ModelBundle.load(tiny_bundle)
    assert bundle.bundle_revision == hashlib.sha256(lines.encode()).hexdigest()
    expected = hashlib.sha256((digests["onnx/backbone.onnx"] + preprocessing).encode()).hexdigest()
    assert bundle.embedding_id == expected


def test_another_prior_changes_the_revision_and_keeps_the_embeddings(tiny_bundle: Path) -> None:
    """A prior trained again must not throw away a cache of 100,000 embeddings."""
    before = ModelBundle.load(tiny_bundle)
    (tiny_bundle / "prior.safetensors").write_bytes(b"other")
    write_config(tiny_bundle, read_config(tiny_bundle))
    after = ModelBundle.load(tiny_bundle)
    assert after.bundle_revision != before.bundle_revision
    assert after.embedding_id == before.embedding_id
    assert after.prior_path == tiny_bundle / "prior.safetensors"


@pytest.mark.parametrize("change", [{"size": 48}, {"resample": "bilinear"}, {"background": [0, 0, 0]}])
def test_other_preprocessing_means_other_embeddings(tiny_bundle: Path, change: dict[str, object]) -> None:
    before = ModelBundle.load(tiny_bundle)
    change_preprocessing(tiny_bundle, **change)
    assert ModelBundle.load(tiny_bundle).embedding_id != before.embedding_id


def test_another_backbone_means_other_embeddings(tiny_bundle: Path) -> None:
    before = ModelBundle.load(tiny_bundle)
    flip_byte(tiny_bundle / "onnx" / "backbone.onnx", 100)
    write_config(tiny_bundle, read_config(tiny_bundle))
    assert ModelBundle.load(tiny_bundle).embedding_id != before.embedding_id


def test_another_decoding_rule_means_other_embeddings(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this version decodes with counts, also for a bundle that was trained with the rule before."""
    before = ModelBundle.load(tiny_bundle)
    monkeypatch.setattr(piaa_sdk.bundle, "DECODING_RULE", 2)
    after = ModelBundle.load(tiny_bundle)
    assert after.preprocessing == before.preprocessing
    assert after.embedding_id != before.embedding_id


@pytest.mark.parametrize("name", ["onnx/backbone.onnx", "preprocessor_config.json"])
def test_damage_that_keeps_the_size_is_found_and_named(tiny_bundle: Path, name: str) -> None:
    flip_byte(tiny_bundle / name, -1)
    with pytest.raises(ModelFormatError, match=f"{name} is damaged: its SHA-256"):
        ModelBundle.load(tiny_bundle)


def test_truncated_file_is_named_with_both_sizes(tiny_bundle: Path) -> None:
    path = tiny_bundle / "onnx" / "backbone.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        ModelFormatError, match=f"onnx/backbone.onnx is damaged: it has 1000 bytes.*says {size}"
    ):
        ModelBundle.load(tiny_bundle)


def test_missing_file_is_named(tiny_bundle: Path) -> None:
    (tiny_bundle / "onnx" / "backbone.onnx").unlink()
    with pytest.raises(
        ModelFormatError, match=r"onnx/backbone.onnx is missing.*Download or make the bundle again"
    ):
        ModelBundle.load(tiny_bundle)


def test_damage_of_the_embedded_bundle_is_mended_with_pip(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piaa_sdk.bundle, "EMBEDDED_FOLDER", tiny_bundle)
    (tiny_bundle / "onnx" / "backbone.onnx").unlink()
    with pytest.raises(ModelFormatError, match="pip install --force-reinstall --no-deps piaa-sdk"):
        ModelBundle.load(tiny_bundle)


@needs_fifo
def test_files_that_are_not_listed_are_never_opened(tiny_bundle: Path) -> None:
    """Opening a named pipe would wait forever, so passing proves that nobody did."""
    before = ModelBundle.load(tiny_bundle)
    os.mkfifo(tiny_bundle / "extra.bin")
    (tiny_bundle / "heads").mkdir()
    assert ModelBundle.load(tiny_bundle).bundle_revision == before.bundle_revision


@needs_fifo
@pytest.mark.parametrize("name", ["onnx/backbone.onnx", "config.json"])
def test_pipe_in_the_place_of_a_file_does_not_hang(tiny_bundle: Path, name: str) -> None:
    (tiny_bundle / name).unlink()
    os.mkfifo(tiny_bundle / name)
    with pytest.raises(ModelFormatError, match=name):
        ModelBundle.load(tiny_bundle)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "a\\b",
        "C:x",
        "",
        ".",
        "a//b",
        "./a",
        "a/",
        "a\nb",
        "config.json",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tiny_bundle: Path, name: str) -> None:
    files = {**read_config(tiny_bundle)["files"], name: {"sha256": "0" * 64, "size": 0}}
    change_config(tiny_bundle, files=files)
    with pytest.raises(ModelFormatError, match="not a plain name"):
        ModelBundle.load(tiny_bundle)


def test_only_listed_files_have_a_path(tiny_bundle: Path) -> None:
    (tiny_bundle / "notes.txt").write_text("not listed")
    bundle = ModelBundle.load(tiny_bundle)
    for name in ("notes.txt", "../secret", "config.json"):
        with pytest.raises(ModelFormatError, match="lists no file"):
            bundle.path(name)
    (tiny_bundle / "prior.safetensors").unlink()
    write_config(tiny_bundle, read_config(tiny_bundle))
    with pytest.raises(ModelFormatError, match=r"prior\.safetensors"):
        _ = ModelBundle.load(tiny_bundle).prior_path


def test_newer_format_names_both_versions_and_the_command(tiny_bundle: Path) -> None:
    change_config(tiny_bundle, format_version=2, min_sdk="0.9")
    with pytest.raises(ModelFormatError) as caught:
        ModelBundle.load(tiny_bundle)
    text = str(caught.value)
    assert "format_version is 2" in text
    assert f"this piaa-sdk {piaa_sdk.__version__} reads up to 1" in text
    assert "piaa-sdk 0.9 or later" in text
    assert text.endswith("pip install --upgrade piaa-sdk")


def test_newer_decoding_rule_is_refused_with_the_command(tiny_bundle: Path) -> None:
    change_preprocessing(tiny_bundle, decoding_rule=2)
    with pytest.raises(ModelFormatError, match=r"decoding rule 2.*pip install --upgrade piaa-sdk"):
        ModelBundle.load(tiny_bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "siglip"),
        ("format_version", 0),
        ("format_version", True),
        ("format_version", "1"),
        ("bundle_id", ""),
        ("bundle_id", "two\nlines"),
        ("embedding_dim", 0),
        ("embedding_dim", 1025),
        ("embedding_dim", 16.0),
        ("rating_scale", [7, 1]),
        ("rating_scale", [1]),
        ("rating_scale", "17"),
        ("rating_scale", [1, float("inf")]),
        ("rating_scale", [1, 10**400]),
        ("license", None),
        ("files", []),
        ("files", {}),
        ("files", {"onnx/backbone.onnx": 3}),
        ("files", {"onnx/backbone.onnx": {"sha256": "0" * 63, "size": 1}}),
        ("files", {"onnx/backbone.onnx": {"sha256": "0" * 64, "size": "1"}}),
    ],
)
def test_wrong_values_are_named(tiny_bundle: Path, key: str, value: object) -> None:
    change_config(tiny_bundle, **{key: value})
    with pytest.raises(ModelFormatError, match=f"config.json: {key}"):
        ModelBundle.load(tiny_bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 7),
        ("size", "32"),
        ("fit", "crop"),
        ("resample", ["bicubic"]),
        ("draft_factor", 0),
        ("background", [255, 255]),
        ("background", [255, 255, 256]),
        ("background", [True, 0, 0]),
        ("decoding_rule", None),
        ("format_version", 2),
    ],
)
def test_wrong_preprocessing_is_named(tiny_bundle: Path, key: str, value: object) -> None:
    change_preprocessing(tiny_bundle, **{key: value})
    with pytest.raises(ModelFormatError, match=f"preprocessor_config.json: {key}"):
        ModelBundle.load(tiny_bundle)


def test_preprocessing_survives_json(tiny_bundle: Path) -> None:
    preprocessing = ModelBundle.load(tiny_bundle).preprocessing
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_content_of_config_json_is_a_model_error(tiny_bundle: Path, content: bytes) -> None:
    """Nothing of the json module's own may reach a caller who catches PiaaError."""
    (tiny_bundle / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelBundle.load(tiny_bundle)


def test_nowhere_and_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        ModelBundle.load(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json in it"):
        ModelBundle.load(tmp_path)


def test_a_copy_elsewhere_is_the_same_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "Kopie ß"
    shutil.copytree(tiny_bundle, copy)
    first, second = ModelBundle.load(tiny_bundle), ModelBundle.load(copy)
    assert (first.bundle_revision, first.embedding_id) == (second.bundle_revision, second.embedding_id)


def test_write_config_lists_what_belongs_to_the_bundle(tiny_bundle: Path) -> None:
    """Neither itself, nor what version control, editors and operating systems leave behind."""
    (tiny_bundle / ".DS_Store").write_bytes(b"x")
    (tiny_bundle / "onnx" / ".cache").mkdir()
    (tiny_bundle / "onnx" / ".cache" / "lock").write_bytes(b"x")
    (tiny_bundle / "README.md").write_text("card")
    before = (tiny_bundle / "config.json").read_text()
    write_config(tiny_bundle, read_config(tiny_bundle))
    assert set(read_config(tiny_bundle)["files"]) == {
        "README.md",
        "onnx/backbone.onnx",
        "preprocessor_config.json",
        "prior.safetensors",
    }
    (tiny_bundle / "README.md").unlink()
    write_config(tiny_bundle, read_config(tiny_bundle))
    assert (tiny_bundle / "config.json").read_text() == before


def test_write_config_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"config\.json: cannot be written"):
        write_config(tmp_path / "nowhere", {})
