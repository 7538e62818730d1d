"""A compared system from end to end: features, settings chosen, fit, and the same judging as for all."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from training.baselines.features import PictureFeatures
from training.baselines.pa_iaa import PaIaaConfig, personality_features
from training.baselines.validation import fit_chosen
from training.evaluation import count_seen
from training.evaluation_record import digest_of_table
from training.judging import judge_once
from training.sources import embed_images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from training.attributes.source import AttributeSource
    from training.baselines.base import Baseline
    from training.baselines.config import BaselineConfig
    from training.data.personality import PersonalityTable
    from training.data.ratings import RatingTable
    from training.data.splits import Split
    from training.evaluation_record import Evaluation
    from training.experiment import Workshop
    from training.judging import Judging
    from training.personalizers import Personalizer

RULE = 1
"""Raised whenever a system becomes other figures from the same data and settings."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What the compared systems are given beside ratings and pictures.

    Attributes:
        attributes: Where attributes come from, the same for all systems of a table.
        personality: Pictures with the traits of people who like them; None where there are none.
    """

    attributes: AttributeSource
    personality: PersonalityTable | None = None


def judge_system(
    config: BaselineConfig,
    trained: Split,
    tested: Split,
    workshop: Workshop,
    sources: Sources,
    how: Judging,
    *,
    kept: Path | None = None,
    report: Callable[[int, int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Fit a system to training users and judge it on test users.

    Args:
        config: Which system.
        trained: Whose training users are learned from.
        tested: Whose test users are judged.
        workshop: Cache and weights; the backbone is frozen whatever its mode.
        sources: What else it is given.
        how: Supports, users and repeats.
        kept: See :func:`training.judging.judge_once`.
        report: Called with the fits done and to do while settings are chosen.
        progress: Called with the tasks done and all tasks.
    """
    table = trained.people_to_train()
    settings = _with_personality(config, workshop, sources.personality)
    title = settings.marked_title(config.title) if isinstance(settings, PaIaaConfig) else config.title

    def make() -> tuple[Personalizer, Mapping[str, Any]]:
        begun = time.monotonic()
        features = collect_features(table, config, workshop, sources.attributes)
        choice = fit_chosen(settings, table, trained.scale, features, seed=config.seed, progress=report)
        found = {
            "chosen": dict(choice.chosen),
            "validation_srocc": choice.srocc,
            "seconds_to_fit": time.monotonic() - begun,
        }
        judged = collect_features(tested.test, config, workshop, sources.attributes)
        return choice.fitted.personalizer(title, judged), found

    facts = facts_of(config, trained.name, table, workshop, sources)
    facts |= {"leak_kept": trained.report.leak_kept, "control_repeats": how.control_repeats}
    if isinstance(settings, PaIaaConfig) and sources.personality is not None:
        facts["seen_pictures"] = count_seen(tested.test, (), sources.personality.picture_digests())[1]
    return judge_once(
        title, make, tested.test, tested.scale, how, facts, data=tested.name, kept=kept, progress=progress
    )


def _with_personality(
    config: BaselineConfig, workshop: Workshop, personality: PersonalityTable | None
) -> Baseline:
    """Return the settings of a system, with the labelled pictures that it learns from, if it does."""
    settings = config.settings
    if not isinstance(settings, PaIaaConfig) or personality is None:
        return settings
    features = personality_features(
        personality,
        config.network,
        workshop.cache,
        workshop.progress,
        weights=workshop.backbone.weights,
        untrained=workshop.backbone.untrained,
        seed=config.seed,
    )
    return settings.with_personality(features)


def collect_features(
    table: RatingTable, config: BaselineConfig, workshop: Workshop, attributes: AttributeSource
) -> PictureFeatures:
    """Measure content and attributes of the pictures of a table, and keep them."""
    content = embed_images(
        table,
        config.network,
        weights=workshop.backbone.weights,
        untrained=workshop.backbone.untrained,
        seed=config.seed,
        cache=workshop.cache,
        progress=workshop.progress,
    )
    return PictureFeatures(
        content.embeddings.numpy(),
        attributes.collect(table, workshop.cache, workshop.progress),
        attributes.name,
    )


def facts_of(
    config: BaselineConfig, data: str, table: RatingTable, workshop: Workshop, sources: Sources
) -> dict[str, Any]:
    """Return what a system's figures depend on, for those who read them and to tell results apart.

    Args:
        config: Which system.
        data: Name of the data set that it learns from.
        table: Its training users.
        workshop: Weights of the frozen backbone.
        sources: What else it is given.
    """
    personality = sources.personality
    return {
        "system": config.system,
        "rule": RULE,
        "settings": asdict(config.settings),
        "seed": config.seed,
        "mode": "head",
        "backbone": config.network.backbone,
        "size": config.network.size,
        "backbone_weights": workshop.backbone.describe(),
        "attributes": sources.attributes.name,
        "attributes_digest": sources.attributes.digest(),
        "personality": None if personality is None else personality.digest(),
        "trained_on": data,
        "training_table": digest_of_table(table),
    }
