"""Whom commands judge, by the layout of a data set."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from piaa_sdk.errors import RatingError
from training.command_inputs import people_to_judge, read_data
from training.data.splits import split
from training.evaluation_record import Conditions
from training.figure_commands import judged_table

if TYPE_CHECKING:
    from pathlib import Path

ELSEWHERE = (0, 100)
"""Ends of a scale that nobody in the data sets rates on."""


def test_of_a_release_the_test_users_are_judged(flickr_aes_folder: Path) -> None:
    """Of FLICKR-AES the 37 of its 49 people, on its own scale whatever the option for tables says."""
    dataset = read_data("flickr-aes", flickr_aes_folder, ELSEWHERE)
    assert (dataset.scale.low, dataset.scale.high) == (1, 5)
    judged = people_to_judge(dataset)
    assert (len(dataset.table.users), len(judged.users)) == (49, 37)
    train = split(dataset).train
    assert train is not None
    assert not set(judged.users) & set(train.users)
    assert not set(judged.images) & set(train.images)
    with pytest.raises(RatingError, match="flickr-aes has no groups of users"):
        read_data("flickr-aes", flickr_aes_folder, ELSEWHERE, ["a"])


def test_of_a_table_everybody_is_judged(table_folder: Path) -> None:
    """Of three groups of six people all, or those of the groups named, on the scale given."""
    assert len(people_to_judge(read_data("table", table_folder, (1, 7))).users) == 18
    chosen = read_data("table", table_folder, (0, 10), ["a", "c"])
    assert (chosen.scale.low, chosen.scale.high) == (0, 10)
    assert set(people_to_judge(chosen).groups) == {"a", "c"}
    assert len(people_to_judge(chosen).users) == 12


@pytest.mark.parametrize(("format", "groups"), [("flickr-aes", None), ("table", ["b"])])
def test_figures_find_the_people_that_were_judged(
    format: str, groups: list[str] | None, flickr_aes_folder: Path, table_folder: Path
) -> None:
    """From the conditions of an evaluation the same ratings are found: their digest is the same."""
    folder = flickr_aes_folder if format == "flickr-aes" else table_folder
    dataset = read_data(format, folder, (1, 7), groups)
    conditions = Conditions.of(
        people_to_judge(dataset), dataset.scale, shots=[10], repeats=1, seed=0, drawn_users=None, curve=False
    )
    found = judged_table(conditions, folder, format)
    again = Conditions.of(found, dataset.scale, shots=[10], repeats=1, seed=0, drawn_users=None, curve=False)
    assert again == conditions
    assert replace(again, table="") != conditions, "the digest is compared"
