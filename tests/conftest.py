"""What every test gets: a home folder of its own, and none of the caller's settings."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


# Tests run in a process per core (pyproject.toml), on pictures so small that more threads only wait for each
# other. Set before torch and numpy are imported, and inherited by the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in the background with Ctrl-C ignored; programs that the tests start inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def piaa_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tests away from the profiles and the cache of whoever runs them."""
    for name in [name for name in os.environ if name.startswith("PIAA_") and name != "PIAA_TEST_DATA"]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PIAA_HOME", str(home))
    return home
