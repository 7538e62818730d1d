"""The command of ``python -m training`` that compares ways to choose what a person should rate next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from piaa_sdk.errors import ModelFormatError, RatingError
from piaa_sdk.head import Prior
from piaa_sdk.scorer import Scorer
from training import cli_options as options
from training.active_selection import START, Contest, ResidualCriterion, VarianceCriterion, select_actively
from training.baselines.config import BaselineConfig
from training.baselines.judging import Sources, collect_features, facts_of
from training.baselines.pam import FittedPam, PamConfig
from training.baselines.validation import fit_chosen
from training.checkpoints import versions
from training.command_inputs import load_attributes, make_workshop, people_to_judge, read_data
from training.data.datasets import TABLE
from training.data.splits import split as split_dataset
from training.evaluation import check_unseen, refuse_seen
from training.folder_writing import make_folder
from training.personalizers import KernelPersonalizer
from training.published import load_methods

if TYPE_CHECKING:
    from training.attributes.source import AttributeSource
    from training.data.dataset import Dataset
    from training.data.ratings import RatingTable
    from training.experiment import Workshop
    from training.meta_config import MetaConfig

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


def active(
    ratings: options.Folder,
    format: options.Format = "table",
    groups: options.Groups = None,
    train_on: TrainOn = None,
    train_format: options.TrainFormat = "table",
    train_groups: options.TrainGroups = None,
    config: PamSettings = "pam_both",
    overrides: options.Overrides = None,
    attributes: options.Attributes = None,
    attribute_weights: options.AttributeWeights = None,
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
    allow_seen: options.AllowSeen = False,
) -> None:
    """Compare criteria for what to rate next with random choice: PAM's, and the closed form's variance."""
    _check_methods(train_on, bundle)
    if output is not None:
        make_folder(output.parent)
    torch.set_num_threads(threads)
    dataset = read_data(format, ratings, scale, groups)
    table = people_to_judge(dataset)
    options.say(str(table))
    workshop = make_workshop("head", cache, weights, untrained, "cpu")
    source = load_attributes(attributes, attribute_weights)
    contests, facts = [], {}
    if train_on is not None:
        trained = read_data(train_format, train_on, scale, train_groups)
        [settings] = load_methods([config], overrides or ())
        contest, facts["pam"] = _pam_contest(settings, trained, table, workshop, source, allow_seen)
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
    found = replace(found, facts={**facts, "seen_allowed": allow_seen, "versions": versions()})
    typer.echo(found.to_markdown())
    if output is not None:
        options.write_json(output, found.to_json())


def register(app: typer.Typer) -> None:
    """Add the command to a program."""
    app.command()(active)


def _pam_contest(
    config: MetaConfig | BaselineConfig,
    dataset: Dataset,
    table: RatingTable,
    workshop: Workshop,
    attributes: AttributeSource,
    allow_seen: bool,
) -> tuple[Contest, dict[str, Any]]:
    """Fit PAM to training users, with its settings chosen on some of them.

    Raises:
        ModelFormatError: The configuration is none of PAM.
        RatingError: People or pictures of ``table`` are among them.
    """
    if not isinstance(config, BaselineConfig) or not isinstance(config.settings, PamConfig):
        raise ModelFormatError(
            f"{config.title} is no configuration of PAM; give pam_both, pam_attribute, pam_content or a file"
        )
    training = dataset.table if dataset.name == TABLE else split_dataset(dataset).people_to_train()
    options.say(f"{config.title} learns from {training}")
    if not allow_seen:
        refuse_seen(table, training.person_digests(), training.picture_digests(), what="method PAM")
        attributes.refuse_seen(table)
    features = collect_features(training, config, workshop, attributes)
    choice = fit_chosen(
        config.settings,
        training,
        dataset.scale,
        features,
        seed=config.seed,
        progress=options.show_progress("fits"),
    )
    fitted = choice.fitted
    assert isinstance(fitted, FittedPam)
    method = fitted.personalizer(config.title, collect_features(table, config, workshop, attributes))
    criterion = ResidualCriterion(method.descriptors, method.scores, fitted.regression.scale)
    facts = facts_of(config, dataset.name, training, workshop, Sources(attributes))
    facts |= {"chosen": dict(choice.chosen), "validation_srocc": choice.srocc}
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


def _check_methods(train_on: Path | None, bundle: Path | None) -> None:
    if train_on is None and bundle is None:
        raise RatingError(
            "there is no method to choose pictures for; give --train-on (for PAM), --bundle (for the closed "
            "form) or both"
        )
