"""Configurations refuse what they do not know, and say in which file."""

from __future__ import annotations

import tomllib
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest

from piaa_sdk.bundle import DECODING_RULE, MAX_EMBEDDING_DIM
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.readouts import slices_of
from training.config import CONFIG_FOLDER
from training.kernel_config import KernelPriorConfig

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = CONFIG_FOLDER / "kernel_prior.toml"


def test_every_shipped_configuration_loads() -> None:
    paths = sorted(CONFIG_FOLDER.glob("*.toml"))
    assert SHIPPED in paths
    for path in paths:
        KernelPriorConfig.load(path)


def test_the_configuration_of_the_embedded_model_holds_what_its_file_says() -> None:
    config = KernelPriorConfig.load()
    stated = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert config.source == stated
    assert config.preprocessing.decoding_rule == DECODING_RULE
    assert config.preprocessing.background == (255, 255, 255)
    assert list(config.embedding.readouts) == stated["embedding"]["readouts"]
    assert [list(slope) for slope in config.adaptation.slopes] == stated["adaptation"]["slopes"]
    assert config.generic.strengths == tuple(stated["generic"]["strengths"])
    assert config.embedding.readout_weights.keys() <= slices_of(config.embedding.readouts).keys()
    assert config.embedding.principal_directions + config.embedding.random_directions <= MAX_EMBEDDING_DIM


def test_a_configuration_cannot_be_changed() -> None:
    config = KernelPriorConfig.load()
    for section, name in (("preprocessing", "size"), ("embedding", "seed"), ("generic", "folds")):
        with pytest.raises(FrozenInstanceError):
            setattr(getattr(config, section), name, 1)
    with pytest.raises(FrozenInstanceError):
        config.adaptation.noises = ()  # type: ignore[misc]
    assert isinstance(config.adaptation.noises, tuple)
    assert all(isinstance(slope, tuple) for slope in config.adaptation.slopes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nfolds =", "\n# folds =", "missing or not known: folds"),
        ("\nfolds =", "\nfold =", "missing or not known: fold, folds"),
        ("\n[generic]", "\n[generic]\ncentres = 3", "missing or not known: centres"),
        ("\nseed =", "\n# seed =", "missing or not known: seed"),
        ("\nstd_factor =", "\nstd_faktor =", "missing or not known: std_factor, std_faktor"),
        ("\nsize =", "\n# size =", "missing or not known: size"),
        ("\nsize =", "\nmean = 127\nsize =", "missing or not known: mean"),
        ("\nsize =", "\ndecoding_rule = 1\nsize =", "missing or not known: decoding_rule"),
        ("\nsize = 256", "\nsize = 3", "size"),
        ('"squash"', '"crop"', "crop"),
        ("\n[generic]", "\n[generics]", "sections: missing or not known: generic, generics"),
        ("\n[generic]", "\n[reptile]\n[generic]", "sections: missing or not known: reptile"),
        ("\nsize =", "\nsize = =", "not a configuration"),
    ],
)
def test_what_is_missing_or_not_known_is_refused_with_its_file(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ModelFormatError, match=rf"mine\.toml: .*{message}"):
        KernelPriorConfig.load(path)


def test_a_file_that_cannot_be_read_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"absent\.toml: not a configuration"):
        KernelPriorConfig.load(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFormatError, match=r"bytes\.toml: not a configuration"):
        KernelPriorConfig.load(tmp_path / "bytes.toml")
