"""A bundle's whole network, fine-tuned to each person, as evaluation knows methods."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from piaa_sdk.finetune.bundle_network import scoring_network_of
from piaa_sdk.finetune.full import Examples, fine_tune
from piaa_sdk.finetune.network import params_of, predict
from piaa_sdk.finetune.person import CHUNKS, settings_of
from piaa_sdk.images import load_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.fine_tuned import FineTuneOptions
    from piaa_sdk.finetune.full import FineTuning
    from piaa_sdk.finetune.network import Params
    from piaa_sdk.finetune.scoring_network import ScoringNetwork
    from piaa_sdk.head import Prior
    from training.personalizers import IntArray, KernelPersonalizer, Support


@dataclass(slots=True, eq=False)
class NetworkPersonalizer:
    """The fine-tuning that ``piaa personalize --method finetune`` does, without its comparison.

    Attributes:
        name: What tables call it.
        network: From pixels to the generic score.
        theta: Its tensors, which every person starts from.
        settings: Rates and epochs.
        pixels: (N, S, S, 3) uint8 of the table's images.
        closed_form: Scores for nobody in particular.
        seconds: How long each adaptation took.
    """

    name: str
    network: ScoringNetwork
    theta: Params
    settings: FineTuning
    pixels: torch.Tensor
    closed_form: KernelPersonalizer
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        bundle: ModelBundle,
        prior: Prior,
        closed_form: KernelPersonalizer,
        paths: Sequence[Path],
        options: FineTuneOptions,
    ) -> Self:
        """Make it for a bundle and the images of a table.

        Args:
            bundle: Whose network.
            prior: The bundle's.
            closed_form: The same bundle with the closed form.
            paths: N files.
            options: What to do otherwise than the bundle says.

        Raises:
            ImageError: A picture cannot be read.
            ModelFormatError: The bundle does not hold its network.
        """
        network = scoring_network_of(bundle, prior)
        pixels = np.stack([load_image(path, bundle.preprocessing) for path in paths])
        return cls(
            "fine-tuned",
            network,
            params_of(network),
            settings_of(bundle, options),
            torch.from_numpy(pixels),
            closed_form,
        )

    def generic(self, images: IntArray) -> FloatArray:
        """Score images (N,) by the bundle's generic head: (N,), [0, 1]."""
        return self.closed_form.generic(images)

    def personalize(self, support: Support) -> NetworkPredictor:
        """Fine-tune to one person."""
        started = time.monotonic()
        examples = Examples(
            self.pixels[torch.from_numpy(support.images)], torch.tensor(support.ratings, dtype=torch.float32)
        )
        params = fine_tune(
            self.network, self.theta, examples, self.settings, seed=support.seed, chunk=CHUNKS["cpu"]
        )
        self.seconds.append(time.monotonic() - started)
        return NetworkPredictor(self, params)

    def time_line(self) -> str:
        """Say how long a person takes."""
        return (
            f"{statistics.median(self.seconds):.0f} seconds per person (median of {len(self.seconds)}), "
            f"{self.settings.epochs} epochs at {self.settings.learning_rate:g}, "
            f"{torch.get_num_threads()} threads"
        )


@dataclass(frozen=True, slots=True, eq=False)
class NetworkPredictor:
    """A network tuned to one person.

    Attributes:
        personalizer: What it comes from.
        params: theta_te.
    """

    personalizer: NetworkPersonalizer
    params: Params

    def predict(self, images: IntArray) -> tuple[FloatArray, None]:
        """Score images (Q,): (Q,), [0, 1]; the network knows no standard deviations."""
        own = self.personalizer
        pixels = own.pixels[torch.from_numpy(images)]
        scores: FloatArray = (
            predict(own.network, self.params, pixels, batch_size=CHUNKS["cpu"]).double().numpy()
        )
        return scores, None
