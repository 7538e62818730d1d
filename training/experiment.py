"""One experiment from end to end: data, split, inputs, meta-training, and the judging of priors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from piaa_sdk.errors import DeviceError, ModelFormatError, ModelNotFoundError, RatingError
from piaa_sdk.finetune.network import Params, mode, params_of
from training.distributed import AverageOverRanks, Ranks, check_ranks
from training.evaluation import evaluate
from training.learner_personalizer import LearnerPersonalizer
from training.loop import meta_train
from training.network import make_network
from training.runs import MODES, RUN_NAME, Run, constants_of
from training.sources import embed_images, pack_images
from training.standard_deviation import floored_std
from training.tasks import InputSource, TaskSampler, count_people

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from piaa_sdk.finetune.network import AestheticNetwork
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable
    from training.data.splits import Split
    from training.learners.base import Learner
    from training.loop import Reporter
    from training.meta_config import MetaConfig
    from training.network import NetworkConfig

VALIDATION_USERS = 20
_VALIDATION_SHOTS = 10
_VALIDATION_QUERY = 10


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is computed on, and how exactly.

    Attributes:
        device: ``cpu`` or ``cuda``, as torch names it.
        bf16: Let the backbone compute in bfloat16 where torch thinks that harmless.
        channels_last: Keep pictures with the colours last in memory, which some processors prefer.
    """

    device: str = "cpu"
    bf16: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Refuse a device that is not there.

        Raises:
            DeviceError: It is not, or is none that this version computes on.
        """
        kind, sign, index = self.device.partition(":")
        if kind not in ("cpu", "cuda") or (sign and not (kind == "cuda" and index.isdecimal())):
            raise DeviceError(
                f"device is {self.device!r}, must be cpu, cuda or, of several, cuda:0, cuda:1, ..."
            )
        if kind == "cuda" and not torch.cuda.is_available():
            raise DeviceError("torch finds no CUDA device here; leave --device out to compute on the CPU")
        if sign and int(index) >= (there := torch.cuda.device_count()):
            raise DeviceError(
                f"device is {self.device!r}, must be cuda:0 to cuda:{there - 1}: there are {there}"
            )

    def place(self, network: AestheticNetwork) -> AestheticNetwork:
        """Move a network to where it is computed."""
        network.autocast = torch.bfloat16 if self.bf16 else None
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network.to(self.device)


@dataclass(frozen=True, slots=True)
class Backbone:
    """Where a backbone's weights come from.

    Attributes:
        weights: File of weights, or None for the installed package's or the library's.
        untrained: Random weights, on request.
    """

    weights: Path | None = None
    untrained: bool = False

    def describe(self) -> str:
        """Return what run.json says of the weights; a file by its content, not by its path.

        Raises:
            ModelNotFoundError: The file cannot be read.
        """
        if self.weights is None:
            return "random" if self.untrained else "ImageNet"
        try:
            with self.weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise ModelNotFoundError(
                f"{self.weights}: the weights cannot be read: {error.strerror or error}"
            ) from error
        return f"file with SHA-256 {digest.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Workshop:
    """How experiments are run on this machine.

    Attributes:
        mode: ``head`` learns the fully connected layers on embeddings of a frozen backbone; ``full`` learns
            the whole network on pixels.
        cache: Folder that keeps embeddings and packed pictures.
        backbone: Weights of the backbone.
        hardware: What is computed on.
        progress: Called with the pictures done and to do.
    """

    mode: str
    cache: Path
    backbone: Backbone = Backbone()
    hardware: Hardware = Hardware()
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        """Refuse a mode that there is not.

        Raises:
            ModelFormatError: The mode is not known.
        """
        if self.mode not in MODES:
            raise ModelFormatError(f"mode is {self.mode!r}, must be {' or '.join(MODES)}")

    def source(
        self, table: RatingTable, config: NetworkConfig, seed: int, *, for_training: bool = False
    ) -> InputSource:
        """Prepare what a network takes for the images of a table.

        Args:
            table: Whose images.
            config: Which network.
            seed: Of random weights.
            for_training: Whether pictures may be asked for flipped and cropped at random.
        """
        if self.mode == "full":
            return pack_images(
                table,
                config.size,
                self.cache / "packed",
                for_training=for_training,
                progress=self.progress,
            )
        return embed_images(
            table,
            config,
            weights=self.backbone.weights,
            untrained=self.backbone.untrained,
            seed=seed,
            cache=self.cache,
            progress=self.progress,
        )

    def network(self, config: NetworkConfig, source: InputSource, seed: int) -> AestheticNetwork:
        """Make f_theta as it is before meta-training."""
        dim = _first(source).shape[1] if self.mode == "head" else None
        network = make_network(
            config,
            embedding_dim=dim,
            weights=self.backbone.weights,
            untrained=self.backbone.untrained,
            seed=seed,
        )
        return self.hardware.place(network)


def train(
    config: MetaConfig,
    split: Split,
    folder: Path,
    workshop: Workshop,
    *,
    resume: bool = False,
    replace: bool = False,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    report: Reporter | None = None,
) -> Run:
    """Meta-train a prior on the training users of a split.

    Args:
        config: All settings.
        split: People and pictures.
        folder: Of the run.
        workshop: How.
        resume: Go on with the run that is there.
        replace: Begin anew where a run is there.
        ranks: Which of several processes this is.
        report: Is told after each iteration.

    Raises:
        RatingError: Nobody is to be trained on, or no validation user has rated enough.
        ModelFormatError: A run that shall be gone on with was begun otherwise.
        OutputError: A run is there already, or the disk refuses.
    """
    people = split.people_to_train()
    check_ranks(config, ranks, count_people(people))
    _count_validation_users(split)  # what would end the run at its first look ends it here
    facts = _facts(split, people, workshop)
    found = _find(folder, config, facts, resume=resume, replace=replace) if ranks.is_first else None
    if found is not None and ranks.count == 1 and found.record["finished"] and found.load() is not None:
        return found
    source = workshop.source(people, config.network, config.seed, for_training=True)
    network = workshop.network(config.network, source, config.seed)
    if ranks.is_first:
        if found is None:
            Run.create(folder, config, facts, replace=replace)
        elif not found.record["finished"]:
            found.note_resumed()
    ranks.wait()  # what is read below was written by the first, and what an old run left is gone
    run = Run.open(folder)
    if config.network.head.standardize and not run.has_checkpoint:
        standardize(network, source, len(people.images))
    learner = config.make_learner(network)
    if ranks.count > 1:
        learner.average = AverageOverRanks()
    device = torch.device(workshop.hardware.device)
    sampler = TaskSampler(people, split.scale, source, config.tasks, seed=config.seed, device=device)
    prior = learner.first_prior(params_of(network))
    ranks.share(prior, constants_of(network))
    validate = _validation(config, learner, split, workshop) if ranks.is_first else None
    ranks.wait()  # the first reads pictures of validation users
    meta_train(learner, sampler, prior, config.schedule, run, ranks=ranks, validate=validate, report=report)
    return Run.open(folder)


def _facts(split: Split, table: RatingTable, workshop: Workshop) -> dict[str, Any]:
    """Return what a run depends on beside its configuration."""
    return {
        "mode": workshop.mode,
        "backbone_weights": workshop.backbone.describe(),
        "bf16": workshop.hardware.bf16,
        "split": split.to_json(),
        "people": table.person_digests(),
        "pictures": table.picture_digests(),
    }


def _find(
    folder: Path, config: MetaConfig, facts: Mapping[str, Any], *, resume: bool, replace: bool
) -> Run | None:
    """Return the run to go on with; None if one is to begin."""
    if resume and (folder / RUN_NAME).exists():
        run = Run.open(folder)
        run.check_same(config, facts)
        return run
    if not replace:
        Run.check_free(folder)
    return None


def load_personalizer(
    run: Run,
    table: RatingTable,
    scale: RatingScale,
    workshop: Workshop,
    *,
    config: MetaConfig | None = None,
) -> LearnerPersonalizer:
    """Make what evaluation needs of a run.

    Args:
        run: A finished run.
        table: Whose images are to be scored.
        scale: Units of the table's ratings.
        workshop: How; the mode must be the run's.
        config: The run's settings with another fine-tuning; its own by default.

    Raises:
        ModelFormatError: The run is not finished, of another mode, or was made with other backbone weights.
    """
    config = config or run.config
    run.check_finished()
    state = run.load(torch.device(workshop.hardware.device))
    assert state is not None
    if run.record["mode"] != workshop.mode or run.record["backbone_weights"] != workshop.backbone.describe():
        raise ModelFormatError(
            f"{run.folder} was made in the mode {run.record['mode']} on a backbone with the weights "
            f"{run.record['backbone_weights']}, not {workshop.mode} and {workshop.backbone.describe()}"
        )
    source = workshop.source(table, config.network, config.seed)
    network = workshop.network(config.network, source, config.seed)
    network.load_state_dict(state.constants, strict=False)
    return LearnerPersonalizer(
        config.title,
        config.make_learner(network),
        state.prior,
        source,
        scale,
        config.tasks.target,
        workshop.hardware.device,
    )


def standardize(network: AestheticNetwork, source: InputSource, images: int) -> None:
    """Measure mean and deviation of the embedding over the training images, for the head to divide by."""
    with torch.no_grad(), mode(network, adapting=False):
        parts = [
            network.embed(
                source.take(np.arange(start, min(start + 64, images)), None).to(network.pixel_mean.device)
            )
            for start in range(0, images, 64)
        ]
    embeddings = torch.cat(parts)
    network.head.mean.copy_(embeddings.mean(0))
    network.head.std.copy_(torch.from_numpy(floored_std(embeddings.cpu().numpy(), correction=1)))


def _count_validation_users(split: Split) -> int:
    """Return how many users are asked at each look: those who rated enough, a number of them at most.

    Raises:
        RatingError: There are validation users, but none who rated enough.
    """
    if split.validation is None:
        return 0
    ratings = np.bincount(split.validation.user_index)
    able = int((ratings >= _VALIDATION_SHOTS + _VALIDATION_QUERY).sum())
    if not able:
        raise RatingError(
            f"none of the {len(ratings)} validation users has {_VALIDATION_SHOTS} ratings to adapt to and "
            f"{_VALIDATION_QUERY} more to judge by, the most are {ratings.max()}; choose others, or train "
            "without validation users"
        )
    return min(VALIDATION_USERS, able)


def _validation(
    config: MetaConfig, learner: Learner, split: Split, workshop: Workshop
) -> Callable[[Params], float] | None:
    """Return what measures a prior on validation users: SROCC after ten ratings, one draw each."""
    table = split.validation
    if table is None:
        return None
    users = _count_validation_users(split)
    source = workshop.source(table, config.network, config.seed)

    def validate(prior: Params) -> float:
        personalizer = LearnerPersonalizer(
            config.title,
            learner,
            prior,
            source,
            split.scale,
            config.tasks.target,
            workshop.hardware.device,
        )
        found = evaluate(
            personalizer,
            table,
            split.scale,
            shots=[_VALIDATION_SHOTS],
            repeats=1,
            users=users,
            control_repeats=0,
        )
        return found.results[0].figures["personal"].mean

    return validate


def _first(source: InputSource) -> torch.Tensor:
    return source.take(np.zeros(1, dtype=np.intp), None)
