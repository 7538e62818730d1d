"""What several commands of ``python -m training`` make of their options: data, people, a workshop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.rating_scale import RatingScale
from training import cli_options as options
from training.attributes.source import AttributeSource
from training.data.datasets import TABLE, read_dataset
from training.data.splits import split as split_dataset
from training.experiment import Backbone, Hardware, Workshop

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from training.data.dataset import Dataset
    from training.data.ratings import RatingTable
    from training.runs import Run


def read_data(
    format: str, folder: Path, scale: tuple[float, float], groups: Collection[str] | None = None
) -> Dataset:
    """Read a data set whose scale is an option of the command.

    Args:
        format: How it is laid out.
        folder: Where it is.
        scale: Ends of the scale of a table; that of any other format is known, and this one is not looked at.
        groups: Groups of a table to keep.

    Raises:
        RatingError: The format is not known, has no groups, or the folder does not hold what it should.
    """
    units = RatingScale(*scale) if format == TABLE else None
    return read_dataset(format, folder, scale=units, groups=groups)


def people_to_judge(dataset: Dataset) -> RatingTable:
    """Return who of a data set is judged: all of a table, else the test users of the release.

    Raises:
        RatingError: The data set has other test users than the release.
    """
    return dataset.table if dataset.name == TABLE else split_dataset(dataset).test


def load_attributes(checkpoint: Path | None, weights: Path | None) -> AttributeSource:
    """Return where attributes come from: formulas, or the checkpoint of a predictor.

    Args:
        checkpoint: Folder of the predictor; None takes the formulas.
        weights: File of the weights of the predictor's backbone.

    Raises:
        ModelNotFoundError: There is no such predictor.
        ModelFormatError: It is damaged; or there are weights for none.
    """
    if checkpoint is None and weights is not None:
        raise ModelFormatError("--attribute-weights are those of a predictor; name it with --attributes")
    return AttributeSource() if checkpoint is None else AttributeSource.load(checkpoint, weights=weights)


def make_workshop(
    mode: str,
    cache: Path,
    weights: Path | None,
    untrained: bool,
    device: str,
    bf16: bool = False,
    channels_last: bool = False,
) -> Workshop:
    """Return how a command computes, which shows how many pictures are read.

    Raises:
        ModelFormatError: There is no such mode.
        DeviceError: There is no such device.
    """
    return Workshop(
        mode,
        cache,
        Backbone(weights, untrained),
        Hardware(device, bf16, channels_last),
        options.show_progress("pictures"),
    )


def workshop_of_run(run: Run, cache: Path, weights: Path | None, untrained: bool, device: str) -> Workshop:
    """Return how a command computes with the network of a run: in the run's mode.

    Raises:
        ModelFormatError: The run's mode is none that there is.
        DeviceError: There is no such device.
    """
    return make_workshop(str(run.record.get("mode")), cache, weights, untrained, device)
