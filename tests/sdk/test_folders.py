"""Where things are stored, and what a setting that cannot be followed leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from piaa_sdk.errors import OutputError
from piaa_sdk.folders import cache_folder, data_folder


def test_piaa_home_holds_everything(piaa_home: Path) -> None:
    assert (data_folder(), cache_folder()) == (piaa_home, piaa_home / "cache")


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIAA_HOME", "~/piaa")
    assert data_folder() == Path.home() / "piaa"


@pytest.mark.parametrize("value", [None, ""])
def test_without_piaa_home_the_platform_decides(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("PIAA_HOME")
    if value is not None:
        monkeypatch.setenv("PIAA_HOME", value)
    for folder in (data_folder(), cache_folder()):
        assert folder.is_absolute()
        assert "piaa" in folder.parts


def test_the_home_folder_of_nobody_is_named_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIAA_HOME", "~nobody-of-that-name/piaa")
    for find in (data_folder, cache_folder):
        with pytest.raises(OutputError, match="PIAA_HOME is '~nobody-of-that-name/piaa'"):
            find()
