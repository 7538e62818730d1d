"""What every test of the training tools gets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """On pictures this small, threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _load_miniatures() -> ModuleType:
    """Import the module beside this file, which no installed package of tests can hide."""
    spec = importlib.util.spec_from_file_location("miniatures", Path(__file__).with_name("miniatures.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def miniatures() -> ModuleType:
    """Return the writers of small data sets in the formats of the releases."""
    return _load_miniatures()


@pytest.fixture(scope="session")
def flickr_aes_folder(tmp_path_factory: pytest.TempPathFactory, miniatures: ModuleType) -> Path:
    """Return a small FLICKR-AES; not to be changed."""
    folder = tmp_path_factory.mktemp("flickr-aes") / "data"
    miniatures.write_flickr_aes(folder)
    return folder


@pytest.fixture(scope="session")
def aadb_folder(tmp_path_factory: pytest.TempPathFactory, miniatures: ModuleType) -> Path:
    """Return a small AADB; not to be changed."""
    folder = tmp_path_factory.mktemp("aadb") / "data"
    miniatures.write_aadb(folder)
    return folder


@pytest.fixture(scope="session")
def aadb_labels_folder(tmp_path_factory: pytest.TempPathFactory, miniatures: ModuleType) -> Path:
    """Return a small AADB with attribute labels; not to be changed."""
    folder = tmp_path_factory.mktemp("aadb-labels") / "data"
    miniatures.write_aadb_attributes(folder)
    return folder


@pytest.fixture(scope="session")
def real_cur_folder(tmp_path_factory: pytest.TempPathFactory, miniatures: ModuleType) -> Path:
    """Return a small REAL-CUR; not to be changed."""
    folder = tmp_path_factory.mktemp("real-cur") / "data"
    miniatures.write_real_cur(folder)
    return folder


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory, miniatures: ModuleType) -> Path:
    """Return a table of three groups, a, b and c, each with pictures of its own; not to be changed."""
    folder = tmp_path_factory.mktemp("table") / "data"
    miniatures.write_table(folder)
    return folder
