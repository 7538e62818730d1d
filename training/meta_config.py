"""What a meta-training run is made by: which learner, on which network, with which tasks, for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.checks import COUNT, NOT_NEGATIVE, check_settings
from piaa_sdk.finetune.full import FineTuning
from training.config import CONFIG_FOLDER, build, check_names, read_toml
from training.learners.blg import BilevelGradient, BlgConfig
from training.learners.closed_form import ClosedForm, ClosedFormConfig
from training.learners.generic import Generic, GenericConfig
from training.learners.maml import Maml, MamlConfig
from training.learners.reptile import Reptile, ReptileConfig
from training.network import NetworkConfig
from training.tasks import TaskConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.finetune.network import AestheticNetwork
    from training.learners.base import Learner

LearnerConfig = BlgConfig | MamlConfig | ReptileConfig | GenericConfig | ClosedFormConfig

_LEARNERS: dict[str, type[LearnerConfig]] = {
    "blg": BlgConfig,
    "maml": MamlConfig,
    "reptile": ReptileConfig,
    "generic": GenericConfig,
    "closed_form": ClosedFormConfig,
}
_SECTIONS = ("title", "seed", "network", "tasks", "fine_tuning", "schedule")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """How long meta-training goes on.

    Attributes:
        iterations: Outer steps.
        checkpoint_every: Iterations between checkpoints.
        validate_every: Iterations between looks at validation users, where there are some.
    """

    iterations: int = 1000
    checkpoint_every: int = 100
    validate_every: int = 100

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot be followed.

        Raises:
            ModelFormatError: A number is too small.
        """
        check_settings(self, iterations=NOT_NEGATIVE, checkpoint_every=COUNT, validate_every=COUNT)


@dataclass(frozen=True, slots=True)
class MetaConfig:
    """All that a run is made by, beside the data.

    Attributes:
        title: What tables call the method.
        seed: Of random weights, tasks and dropout.
        network: f_theta.
        tasks: How tasks are drawn.
        learner: Name of the learner.
        settings: Its constants.
        fine_tuning: Of meta-testing (eqs. 9 to 11).
        schedule: How long.
    """

    title: str
    seed: int
    network: NetworkConfig
    tasks: TaskConfig
    learner: str
    settings: LearnerConfig
    fine_tuning: FineTuning
    schedule: ScheduleConfig

    @classmethod
    def load(cls, config: Path | str, overrides: Iterable[str] = ()) -> MetaConfig:
        """Read a TOML file.

        Args:
            config: The file, or the name of one of the shipped configurations without ``.toml``.
            overrides: Settings ``section.name=value`` put on top.

        Raises:
            ModelFormatError: The file cannot be read, or a setting is not known or not allowed.
        """
        path = shipped_config(config) if isinstance(config, str) else config
        return cls.from_dict(read_toml(path, overrides), str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> MetaConfig:
        """Read what :meth:`to_dict` returned, or a TOML file held.

        Raises:
            ModelFormatError: A setting is not known, missing or not allowed.
        """
        learners = [name for name in _LEARNERS if name in data]
        if len(learners) != 1:
            raise ModelFormatError(
                f"{where}: needs one section named after a learner ({', '.join(_LEARNERS)}), "
                f"has {', '.join(learners) or 'none'}"
            )
        check_names({*_SECTIONS, *learners}, data, where)
        title, seed = data["title"], data["seed"]
        if not isinstance(title, str) or type(seed) is not int or seed < 0:
            raise ModelFormatError(
                f"{where}: title must be text and seed a whole number from 0, found {seed!r}"
            )
        return cls(
            title=title,
            seed=seed,
            network=build(NetworkConfig, data["network"], f"{where}: network"),
            tasks=build(TaskConfig, data["tasks"], f"{where}: tasks"),
            learner=learners[0],
            settings=build(_LEARNERS[learners[0]], data[learners[0]], f"{where}: {learners[0]}"),
            fine_tuning=build(FineTuning, data["fine_tuning"], f"{where}: fine_tuning"),
            schedule=build(ScheduleConfig, data["schedule"], f"{where}: schedule"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every setting, those with a default too, as JSON can hold them."""
        record = asdict(self)
        record[record.pop("learner")] = record.pop("settings")
        return {name: _with_lists(value) for name, value in record.items()}

    def make_learner(self, network: AestheticNetwork) -> Learner:
        """Make the learner for a network."""
        settings, fine_tuning = self.settings, self.fine_tuning
        match settings:
            case BlgConfig():
                return BilevelGradient(network, fine_tuning, settings, self.tasks.tasks)
            case MamlConfig():
                return Maml(network, fine_tuning, settings)
            case ReptileConfig():
                return Reptile(network, fine_tuning, settings)
            case GenericConfig():
                return Generic(network, fine_tuning, settings)
            case ClosedFormConfig():
                return ClosedForm(network, fine_tuning, settings)


def shipped_config(name: str, *, besides: Sequence[str] = ()) -> Path:
    """Return the file of a shipped configuration of a learner.

    Args:
        name: Without ``.toml``.
        besides: What else the caller knows by name, for the message.

    Raises:
        ModelFormatError: There is none of that name.
    """
    there = shipped_names()
    if name not in there:
        known = ", ".join([*there, *besides])
        raise ModelFormatError(f"there is no configuration {name!r}; there are {known}")
    return CONFIG_FOLDER / "learners" / f"{name}.toml"


def shipped_names() -> list[str]:
    """Return the names of the shipped configurations; a file named ``_...`` is only a part of others."""
    files = (CONFIG_FOLDER / "learners").glob("*.toml")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_lists(inner) for name, inner in value.items()}
    return [_with_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value
