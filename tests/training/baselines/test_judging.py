"""A compared system meets training users while it learns, and test users only to be judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from training.attributes.source import AttributeSource
from training.baselines.config import BaselineConfig
from training.baselines.judging import Sources, judge_system
from training.data.datasets import read_dataset
from training.data.splits import split as split_dataset
from training.experiment import Backbone, Workshop
from training.judging import Judging
from training.network import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.baselines.features import PictureFeatures
    from training.data.ratings import RatingTable
    from training.personalizers import IntArray, Support

SEEN: list[tuple[str, int, tuple[str, ...]]] = []
"""What was done with how many pictures, and whose ratings of them were given."""


@dataclass(frozen=True, slots=True)
class Places:
    """Scores pictures by their place in the table."""

    name: str

    def generic(self, images: IntArray) -> FloatArray:
        return images.astype(np.float64)

    def personalize(self, support: Support) -> Places:
        return self

    def predict(self, images: IntArray) -> tuple[FloatArray, None]:
        return images.astype(np.float64), None


@dataclass(frozen=True, slots=True)
class Fitted:
    """Notes the pictures that it is asked for."""

    def personalizer(self, name: str, features: PictureFeatures) -> Places:
        SEEN.append(("personalizer", len(features.content), ()))
        return Places(name)


@dataclass(frozen=True, slots=True)
class Recorder:
    """A system that notes whom it is fitted to."""

    offered: tuple[int, ...] = field(default=(1,))

    def candidates(self) -> Sequence[Mapping[str, Any]]:
        return [{"value": value} for value in self.offered]

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> Fitted:
        SEEN.append(("fit", len(features.content), table.users))
        return Fitted()


@pytest.mark.parametrize("offered", [(1,), (1, 2)], ids=["nothing to choose", "chosen on training users"])
def test_a_system_is_fitted_to_training_users_and_judged_on_test_users(
    offered: tuple[int, ...], table_folder: Path, tmp_path: Path
) -> None:
    """Groups a and b are learned from, c is judged: nobody of c may be in any fit, the choice's included."""
    SEEN.clear()
    dataset = read_dataset("table", table_folder)
    split = split_dataset(dataset, train_groups=["a", "b"], test_groups=["c"])
    train = split.people_to_train()
    assert not set(train.users) & set(split.test.users)
    config = BaselineConfig(
        "recorder", 0, NetworkConfig("tf_efficientnet_lite0", size=32), "pam", Recorder(offered)
    )  # type: ignore[arg-type]
    workshop = Workshop("head", tmp_path, Backbone(untrained=True))
    judged = judge_system(config, split, split, workshop, Sources(AttributeSource()), Judging([5], 1))
    fits = [(pictures, users) for what, pictures, users in SEEN if what == "fit"]
    assert fits[-1] == (len(train.images), train.users)
    assert len(fits) == (1 if len(offered) == 1 else 1 + len(offered) * len(set(train.groups)))
    assert all(set(users) <= set(train.users) for _, users in fits)
    assert SEEN[-1] == ("personalizer", len(split.test.images), ())
    assert judged.result(5).judged.people == split.test.person_digests()
