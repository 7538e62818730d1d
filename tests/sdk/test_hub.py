"""What ``model=`` and ``--model`` can mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from piaa_sdk.bundle import EMBEDDED_FOLDER
from piaa_sdk.errors import ModelNotFoundError
from piaa_sdk.hub import resolve_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_means_the_bundle_in_the_package() -> None:
    assert resolve_folder(None) == EMBEDDED_FOLDER


def test_a_folder_means_itself(tiny_bundle: Path) -> None:
    assert resolve_folder(tiny_bundle) == tiny_bundle
    assert resolve_folder(str(tiny_bundle)) == tiny_bundle


def test_the_home_folder_may_be_abbreviated(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tiny_bundle.parent))
    assert resolve_folder("~/tiny-bundle") == tiny_bundle


def test_a_file_is_no_bundle(tiny_bundle: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"found a file.*Give the folder"):
        resolve_folder(tiny_bundle / "config.json")


@pytest.mark.parametrize(
    "name", ["nowhere", "someone/some-model", "", "a\0b", "x" * 5000, "~nobody-at-all/x"]
)
def test_what_is_not_there_says_what_was_looked_for_and_what_can_be_given(name: str) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"looked for a folder .*found nothing.*it holds config\.json"
    ) as error:
        resolve_folder(name)
    assert repr(name)[:100] in str(error.value)


def test_a_relative_name_is_shown_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most often the wrong folder is the current one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as error:
        resolve_folder("bundle")
    assert str(tmp_path / "bundle") in str(error.value)
