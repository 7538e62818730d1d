"""Where the SDK keeps what it stores on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "piaa"


def data_folder() -> Path:
    """Return the folder of the profiles: precious, backed up by its owner.

    ``PIAA_HOME`` overrides the platform's user data folder.
    """
    home = os.environ.get("PIAA_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_data_dir(_APP, appauthor=False))


def cache_folder() -> Path:
    """Return the folder of what can be made again; ``PIAA_HOME/cache`` if ``PIAA_HOME`` is set."""
    home = os.environ.get("PIAA_HOME")
    return (
        Path(home).expanduser() / "cache"
        if home
        else Path(platformdirs.user_cache_dir(_APP, appauthor=False))
    )
