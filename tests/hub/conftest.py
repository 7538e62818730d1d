"""A stand-in for the Hub, the client pointed at it, and the tiny bundle to carry to and fro."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hub_standin as standin
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

HERE = Path(__file__).parent
REPO = "org/tiny"


def _load(name: str, path: Path) -> ModuleType:
    """Import a helper that lies beside the tests, which are no packages, once for all of them."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


tiny: Any = _load("piaa_tiny_bundle", HERE.parent / "sdk" / "conftest.py")


@pytest.fixture
def hub() -> Iterator[Any]:
    """A stand-in that knows nobody yet."""
    with standin.StandIn() as server:
        yield server


@pytest.fixture
def hub_environment(hub: Any, tmp_path: Path) -> dict[str, str]:
    """What a program started by a test needs to meet the stand-in and nothing of this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONPATH": str(HERE.parents[1]),
    }


@pytest.fixture(autouse=True)
def client(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Point the client in this process at the stand-in and a cache of its own; returns the cache.

    The client reads its environment variables when it is imported, and its constants when it is called.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    home = tmp_path / "hf"
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("piaa_sdk.hub_client.SECONDS_BEFORE_RETRIES", (0.01, 0.01, 0.01))
    yield home / "hub"
    _http.close_session()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, with a file that scoring does not need."""
    folder = tiny.build_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    return Path(folder)


@pytest.fixture
def bundle_folder(_template: Path, tmp_path: Path) -> Path:
    """A fresh copy of the tiny bundle."""
    return Path(shutil.copytree(_template, tmp_path / "bundle"))


@pytest.fixture
def write_again() -> Callable[..., None]:
    """Write ``config.json`` of a folder that was changed anew, with changes to it."""
    from piaa_sdk.bundle import write_config

    def write(folder: Path, **changes: Any) -> None:
        config = json.loads((folder / "config.json").read_bytes())
        config.pop("files")
        write_config(folder, {**config, **changes})

    return write


@pytest.fixture
def faults() -> Any:
    """What can go wrong: ``status``, ``cut_after``, ``hang_up``, ``damaged``, ``shortened``, ``slow``."""
    return standin


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    """All files of a folder by name."""
    return content_of


def content_of(folder: Path) -> dict[str, bytes]:
    """All files of a bundle by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def published(hub: Any, bundle_folder: Path, write_again: Callable[..., None]) -> str:
    """The tiny bundle on the stand-in, with a card and torch weights; returns its commit."""
    (bundle_folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    (bundle_folder / "model.safetensors").write_bytes(b"weights that scoring does not need" * 100)
    write_again(bundle_folder)
    return str(hub.put(REPO, content_of(bundle_folder)))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Twelve different pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return [tiny.save_photo(folder / f"{number:02d}.png", number) for number in range(12)]


@pytest.fixture
def build_other(tmp_path: Path) -> Callable[[], Path]:
    """Build a bundle with another network."""
    return lambda: Path(tiny.build_tiny_bundle(tmp_path / "other", seed=1))


@pytest.fixture
def build_prior() -> Callable[[], Any]:
    """Make the prior of the tiny bundle."""
    return lambda: tiny.tiny_prior()
