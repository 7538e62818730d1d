"""The command of ``python -m training`` that compares ways to choose what a person should rate next."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from piaa_sdk.errors import ModelFormatError, RatingError
from piaa_sdk.head import Prior
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.scorer import Scorer
from training import cli_options as options
from training.active_selection import START, Contest, ResidualCriterion, VarianceCriterion, select_actively
from training.baselines.features import PictureFeatures
from training.baselines.pam import FittedPam, PamConfig
from training.baselines.validation import fit_chosen
from training.config import CONFIG_FOLDER, build, read_toml
from training.data.datasets import TABLE, read_dataset
from training.data.splits import split as split_dataset
from training.evaluation import check_unseen, refuse_seen
from training.network import NetworkConfig
from training.personalizers import KernelPersonalizer
from training.sources import embed_images

if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from training.data.ratings import RatingTable

CLOSED_FORM = "closed form"


TrainOn = Annotated[
    Path | None, typer.Option(help="Data set that PAM is fitted to; without it PAM is left out.")
]
PamSettings = Annotated[str, typer.Option(help="Configuration of PAM: a TOML file, or a shipped one's name.")]
Bundle = Annotated[
    Path | None,
    typer.Option(help="Folder of the bundle whose closed-form adaptation is judged; left out without it."),
]
Shots = Annotated[
    list[int], typer.Option("--shots", min=1, help="Ratings after which to judge; may be repeated.")
]
AllowSeen = Annotated[
    bool, typer.Option("--allow-seen", help="Even if a method was trained on these people or pictures.")
]


def active(
    ratings: options.Folder,
    format: options.Format = "table",
    groups: options.Groups = None,
    train_on: TrainOn = None,
    train_format: Annotated[str, typer.Option(help="Its layout.")] = "table",
    train_groups: options.TrainGroups = None,
    config: PamSettings = "pam_content",
    overrides: options.Overrides = None,
    bundle: Bundle = None,
    shots: Shots = [10, 20, 50],  # noqa: B006
    start: Annotated[int, typer.Option(min=1, help="Random ratings before the first choice.")] = START,
    repeats: Annotated[int, typer.Option(min=1, help="Random query sets and starts per person.")] = 3,
    users: options.Users = None,
    scale: options.Scale = (1, 7),
    seed: options.Seed = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    weights: options.Weights = None,
    untrained: options.Untrained = False,
    cache: options.Cache = options.DEFAULT_CACHE,
    threads: options.Threads = 2,
    allow_seen: AllowSeen = False,
) -> None:
    """Compare criteria for what to rate next with random choice: PAM's, and the closed form's variance."""
    if train_on is None and bundle is None:
        raise RatingError(
            "there is no method to choose pictures for; give --train-on (for PAM), --bundle (for the closed "
            "form) or both"
        )
    torch.set_num_threads(threads)
    dataset = read_dataset(format, ratings, scale=_scale(format, scale), groups=groups)
    table = dataset.table if format == TABLE else split_dataset(dataset).test
    options.say(str(table))
    contests, facts = [], {}
    if train_on is not None:
        trained = read_dataset(train_format, train_on, scale=_scale(train_format, scale), groups=train_groups)
        reading = _Reading(weights, untrained, cache)
        contest, facts["pam"] = _pam_contest(config, overrides, trained, table, reading, seed, allow_seen)
        contests.append(contest)
    if bundle is not None:
        contest, facts["bundle"] = _closed_form_contest(bundle, table, allow_seen)
        contests.append(contest)
    found = select_actively(
        contests,
        table,
        dataset.scale,
        shots=shots,
        repeats=repeats,
        start=start,
        seed=seed,
        users=users,
        progress=options.show_progress("walks"),
    )
    found = replace(found, facts={**facts, "seen_allowed": allow_seen})
    typer.echo(found.to_markdown())
    if output is not None:
        options.write_json(output, found.to_json())


def register(app: typer.Typer) -> None:
    """Add the command to a program."""
    app.command()(active)


class _Reading:
    """How pictures are read: the weights of the backbone, and what was read of them before."""

    def __init__(self, weights: Path | None, untrained: bool, cache: Path) -> None:
        self._weights, self._untrained, self._cache = weights, untrained, cache

    def features(self, table: RatingTable, network: NetworkConfig) -> PictureFeatures:
        """Return content and attributes of the pictures of a table."""
        found = embed_images(
            table,
            network,
            weights=self._weights,
            untrained=self._untrained,
            cache=self._cache,
            progress=options.show_progress("pictures"),
        )
        content = found.embeddings.numpy()
        return PictureFeatures(content, np.zeros((len(content), 0)), "none")


def _pam_contest(
    config: str,
    overrides: list[str] | None,
    dataset: Dataset,
    table: RatingTable,
    reading: _Reading,
    seed: int,
    allow_seen: bool,
) -> tuple[Contest, dict[str, Any]]:
    """Fit PAM to training users, with its settings chosen on some of them.

    Raises:
        ModelFormatError: The configuration is none of PAM.
        RatingError: People or pictures of ``table`` are among them.
    """
    is_file = config.endswith(".toml") or Path(config).is_file()
    path = Path(config) if is_file else CONFIG_FOLDER / "baselines" / f"{config}.toml"
    settings = read_toml(path, overrides or ())
    if "pam" not in settings:
        raise ModelFormatError(f"{path} has no section [pam]; give a configuration of PAM, as pam_both")
    training = dataset.table if dataset.name == TABLE else split_dataset(dataset).train
    assert training is not None
    options.say(f"PAM learns from {training}")
    if not allow_seen:
        refuse_seen(table, training.person_digests(), training.picture_digests(), what="method PAM")
    network = build(NetworkConfig, settings.get("network", {}), f"{path.name}: network")
    pam = build(PamConfig, settings["pam"], f"{path.name}: pam")
    choice = fit_chosen(
        pam,
        training,
        dataset.scale,
        reading.features(training, network),
        seed=seed,
        progress=options.show_progress("fits"),
    )
    fitted = choice.fitted
    assert isinstance(fitted, FittedPam)
    title = str(settings.get("title", "PAM"))
    method = fitted.personalizer(title, reading.features(table, network))
    criterion = ResidualCriterion(method.descriptors, method.scores, fitted.regression.scale)
    facts = {
        "chosen": dict(choice.chosen),
        "settings": asdict(pam),
        "validation_srocc": choice.srocc,
        "backbone": network.backbone,
    }
    return Contest(method, (criterion,)), facts


def _closed_form_contest(
    folder: Path, table: RatingTable, allow_seen: bool
) -> tuple[Contest, dict[str, Any]]:
    """Take the adaptation of a bundle.

    Raises:
        RatingError: It was trained on people or pictures of ``table``.
    """
    scorer = Scorer.from_pretrained(folder)
    if not allow_seen:
        check_unseen(scorer.bundle, table)
    prior = Prior.load(scorer.bundle.prior_path)
    method = KernelPersonalizer(CLOSED_FORM, prior, scorer.embed(table.paths()))
    facts = {"bundle_id": scorer.bundle.bundle_id, "bundle_revision": scorer.bundle.bundle_revision}
    return Contest(method, (VarianceCriterion(method),)), facts


def _scale(format: str, scale: tuple[float, float]) -> RatingScale | None:
    return RatingScale(*scale) if format == TABLE else None
