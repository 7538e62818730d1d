"""Where a bundle comes from: the one in the package, or a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from piaa_sdk.bundle import CONFIG_NAME, EMBEDDED_FOLDER
from piaa_sdk.errors import ModelNotFoundError

if TYPE_CHECKING:
    from piaa_sdk.array_types import PathInput


def resolve_folder(model: PathInput | None) -> Path:
    """Find the folder of the bundle that the caller means.

    Args:
        model: None for the bundle that comes with the package, else the folder of a bundle.

    Raises:
        ModelNotFoundError: ``model`` is no folder.
    """
    if model is None:
        return EMBEDDED_FOLDER
    name = os.fspath(model)
    found = "nothing"
    try:
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            return folder
        if name and folder.exists():
            found = "a file"
        looked_in = str(folder.absolute())
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # no file can be called that: too long, a NUL, an unknown ~user
        looked_in = name
    raise ModelNotFoundError(
        f"no bundle called {name!r:.200}: looked for a folder {looked_in!r:.300}, found {found}. Give the "
        f"folder of a bundle (it holds {CONFIG_NAME}), or none for the model that comes with the package"
    )
