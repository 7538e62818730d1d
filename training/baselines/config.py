"""A compared system as a TOML file names it: which one, with which settings, on which backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelFormatError
from training.baselines.fpmf import FpmfConfig
from training.baselines.pa_iaa import PaIaaConfig
from training.baselines.pam import PamConfig
from training.baselines.usar import UsarConfig
from training.config import CONFIG_FOLDER, build, check_names, read_toml
from training.network import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SystemConfig = FpmfConfig | PamConfig | UsarConfig | PaIaaConfig

SYSTEMS: dict[str, type[SystemConfig]] = {
    "fpmf": FpmfConfig,
    "pam": PamConfig,
    "usar": UsarConfig,
    "pa_iaa": PaIaaConfig,
}
FOLDER = CONFIG_FOLDER / "baselines"


@dataclass(frozen=True, slots=True)
class BaselineConfig:
    """All that a compared system is made by, beside the data.

    Attributes:
        title: What tables call it.
        seed: Of whatever is drawn.
        network: The frozen backbone; of its head nothing is used.
        system: Name of the system.
        settings: Its constants, and what is chosen among.
    """

    title: str
    seed: int
    network: NetworkConfig
    system: str
    settings: SystemConfig

    @classmethod
    def load(cls, path: Path, overrides: Iterable[str] = ()) -> BaselineConfig:
        """Read a TOML file.

        Args:
            path: The file.
            overrides: Settings ``section.name=value`` put on top.

        Raises:
            ModelFormatError: The file cannot be read, or a setting is not known or not allowed.
        """
        return cls.from_dict(read_toml(path, overrides), str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> BaselineConfig:
        """Read what a TOML file held.

        Raises:
            ModelFormatError: A setting is not known, missing or not allowed.
        """
        systems = [name for name in SYSTEMS if name in data]
        if len(systems) != 1:
            raise ModelFormatError(
                f"{where}: needs one section named after a system ({', '.join(SYSTEMS)}), found "
                f"{', '.join(systems) or 'none'}"
            )
        check_names(("title", "seed", "network", systems[0]), data, where)
        if not isinstance(data["title"], str) or not data["title"]:
            raise ModelFormatError(f"{where}: title is {data['title']!r}, must be a text")
        if type(data["seed"]) is not int or data["seed"] < 0:
            raise ModelFormatError(f"{where}: seed is {data['seed']!r}, must be a whole number from 0")
        return cls(
            title=data["title"],
            seed=data["seed"],
            network=build(NetworkConfig, data["network"], f"{where}: network"),
            system=systems[0],
            settings=build(SYSTEMS[systems[0]], data[systems[0]], f"{where}: {systems[0]}"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every setting, as JSON can hold them."""
        return asdict(self)


def shipped_names() -> list[str]:
    """Return the names of the shipped configurations of compared systems."""
    return sorted(file.stem for file in FOLDER.glob("*.toml") if not file.stem.startswith("_"))
