"""Where the SDK keeps what it stores on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from piaa_sdk.errors import OutputError

_APP = "piaa"
_HOME_VARIABLE = "PIAA_HOME"


def data_folder() -> Path:
    """Return the folder of the profiles: precious, backed up by its owner.

    ``PIAA_HOME`` overrides the platform's user data folder.

    Raises:
        OutputError: ``PIAA_HOME`` names the home folder of somebody who has none here.
    """
    return _home() or Path(platformdirs.user_data_dir(_APP, appauthor=False))


def cache_folder() -> Path:
    """Return the folder of what can be made again; ``PIAA_HOME/cache`` if ``PIAA_HOME`` is set.

    Raises:
        OutputError: As for :func:`data_folder`.
    """
    home = _home()
    return home / "cache" if home else Path(platformdirs.user_cache_dir(_APP, appauthor=False))


def _home() -> Path | None:
    home = os.environ.get(_HOME_VARIABLE)
    if not home:
        return None
    try:
        return Path(home).expanduser()
    except RuntimeError as error:
        raise OutputError(
            f"the environment variable {_HOME_VARIABLE} is {home!a}, and there is no such home folder; "
            "name a folder by its whole path"
        ) from error
