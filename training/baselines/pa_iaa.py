"""PA_IAA (Li et al., TIP 2020): aesthetics and personality on one trunk, joined by a person's own weights.

::

    embedding -> trunk -> u(x)          hidden units, shared
                   u -> a(x)            aesthetics: one score, linear
                   u -> p(x)            personality: five traits of the people who like x, tanh
                   u -> w(x)            new for every person: one weight per trait, hidden layer, tanh
    score = a(x) + sum_t p_t(x) w_t(x)

Known, from the paper and the authors' code: stage 1 takes turns between a batch of rated pictures (error of
a, one step) and a batch of pictures labelled with the Big Five of those who like them (error of p, one step),
50 pictures each, by Adam. A person's own traits are never asked for. For a person, the two heads are taken
over, w is drawn anew from N(0, 0.02), and everything is fine-tuned on the M ratings by Adam on the squared
error, 20 epochs of one batch each; the last epoch counts, whatever it is like.

Choices of our own:

- The trunk. The authors fine-tune a convolutional network; here the backbone is frozen, as for every other
  system of the table, and what the two heads share, and what both stages fine-tune, is one fully connected
  layer on its embedding. Trunk and aesthetics head together are the head of the project's other networks.
  There is no mode that fine-tunes the backbone on pixels.
- Ratings are learned on [0, 1], not standardized per person; a has a linear output, where the authors' has a
  sigmoid for FLICKR-AES, and starts at the mean rating. Its target is the mean rating of each picture.
- Rates: the authors' 1e-5 for what is taken over is for a whole convolutional network. Here both it and the
  number of iterations of stage 1 are chosen on validation users; stage 1 has one rate for trunk and heads,
  which are all new to it, and keeps it, where the authors halve theirs after each epoch. Adam corrects its
  moments' start at zero, as the authors' does, and adds 1e-5 of each weight to its gradient in both stages.
- The hidden layer of w is followed by PReLU, as the project's heads are; the authors' w has tanh there too.
- Batch normalization uses the batch in stage 1 and the running statistics for a person. Only rated pictures
  move the running statistics, because those are what is scored. Dropout acts in stage 1 alone: twenty steps
  are too few to average over what is left out.
- Each of the two losses of stage 1 has its own moments of Adam, since they differ in size.

Without pictures that are labelled with personality the second half of stage 1 is missing. Then p stays as it
was drawn, N(0, 0.02) in its weights, and is fine-tuned to a person with all the rest: the score keeps its
form and its number of parameters, but the five numbers are no traits, and tables say so
(:meth:`PaIaaConfig.marked_title`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from piaa_sdk.errors import ModelFormatError, RatingError
from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.checks import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, check_settings
from piaa_sdk.finetune.full import first_of, seeded, squared_error
from piaa_sdk.finetune.network import AestheticHead, HeadConfig
from training.baselines.base import combinations
from training.data.personality import TRAITS
from training.sources import embed_images
from training.standard_deviation import floored_std

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.rating_scale import RatingScale
    from training.baselines.features import PictureFeatures
    from training.data.personality import PersonalityTable
    from training.data.ratings import RatingTable
    from training.network import NetworkConfig
    from training.personalizers import Support
    from training.tasks import IntArray

UNLABELLED_MARK = "(without personality labels)"

_SPREAD = 0.02
"""Standard deviation of the weights of whatever has not been trained, as in the authors' code."""

_ADAM = AdamSettings(second_decay=0.999, weight_decay=1e-5, bias_correction=True)
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class PersonalityFeatures:
    """Pictures labelled with personality, as the system reads them.

    Attributes:
        content: (P, D) embedding by the same frozen backbone as that of the rated pictures.
        traits: (P, 5) on [-1, 1], in the order of :data:`training.data.personality.TRAITS`.
    """

    content: FloatArray
    traits: FloatArray

    def __post_init__(self) -> None:
        """Refuse traits that are not of these pictures.

        Raises:
            ModelFormatError: There are not five for each of two pictures or more.
        """
        if len(self.content) < 2 or self.traits.shape != (len(self.content), len(TRAITS)):
            raise ModelFormatError(
                f"there are contents of {len(self.content)} pictures and traits of shape "
                f"{self.traits.shape}; there must be {len(TRAITS)} traits for each of at least 2 pictures"
            )


def personality_features(
    table: PersonalityTable,
    network: NetworkConfig,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    weights: Path | None = None,
    untrained: bool = False,
    seed: int = 0,
) -> PersonalityFeatures:
    """Embed the pictures of a table of personality; see :func:`training.sources.embed_images`."""
    source = embed_images(
        table, network, weights=weights, untrained=untrained, seed=seed, cache=cache, progress=progress
    )
    return PersonalityFeatures(source.embeddings.numpy(), table.traits)


@dataclass(frozen=True, slots=True)
class PaIaaConfig:
    """The settings of PA_IAA; a tuple offers values to choose among on validation users.

    Attributes:
        iterations: Of stage 1, each a batch of rated pictures and, where there are some, one of labelled
            pictures.
        rates: Learning rate at which trunk and heads are fine-tuned to a person.
        new_rates: Learning rate of a person's new weights of the traits.
        stage_one_rate: Learning rate of stage 1.
        batch: Pictures of a batch of stage 1.
        hidden: Units of the trunk.
        new_hidden: Units of the hidden layer of the weights of the traits.
        dropout: Share of the trunk's units left out in stage 1.
        epochs: Of fine-tuning to a person, each one step on all M ratings.
        personality: Labelled pictures; None where there are none. No file of settings holds them.
    """

    iterations: tuple[int, ...] = (300, 1000)
    rates: tuple[float, ...] = (1e-4, 3e-4)
    new_rates: tuple[float, ...] = (1e-3,)
    stage_one_rate: float = 1e-3
    batch: int = 50
    hidden: int = 128
    new_hidden: int = 64
    dropout: float = 0.5
    epochs: int = 20
    personality: PersonalityFeatures | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be fitted with.

        Raises:
            ModelFormatError: One is out of its range.
        """
        for name, allowed in (
            ("iterations", NOT_NEGATIVE),
            ("rates", NOT_NEGATIVE),
            ("new_rates", NOT_NEGATIVE),
        ):
            values = getattr(self, name)
            if not values or not all(value in allowed for value in values):
                raise ModelFormatError(
                    f"{name} of PA_IAA is {list(values)}, must be one number or more, each {allowed}"
                )
        check_settings(
            self,
            stage_one_rate=POSITIVE,
            hidden=COUNT,
            new_hidden=COUNT,
            dropout=SHARE,
            epochs=NOT_NEGATIVE,
        )
        if self.batch < 2:
            raise ModelFormatError(f"batch is {self.batch}, must be at least 2 for batch normalization")

    def with_personality(self, features: PersonalityFeatures) -> PaIaaConfig:
        """Return these settings with pictures to learn the personality head from."""
        return replace(self, personality=features)

    def marked_title(self, title: str) -> str:
        """Return what tables call the system: a title that says so where the labels are missing."""
        return title if self.personality is not None else f"{title} {UNLABELLED_MARK}"

    def candidates(self) -> list[Mapping[str, Any]]:
        """Return every combination of iterations and the two rates of fine-tuning."""
        return combinations(iterations=self.iterations, rate=self.rates, new_rate=self.new_rates)

    def fit(
        self,
        table: RatingTable,
        scale: RatingScale,
        features: PictureFeatures,
        chosen: Mapping[str, Any],
        *,
        seed: int,
    ) -> FittedPaIaa:
        """Do stage 1: aesthetics from the mean ratings of training users, personality from labels if any.

        Args:
            table: Training users and their pictures.
            scale: Units of the ratings.
            features: Of the N pictures of the table; the content is used.
            chosen: One of :meth:`candidates`.
            seed: Of the first weights, the batches and dropout.

        Raises:
            RatingError: There are fewer than two pictures.
            ModelFormatError: The labelled pictures were embedded by another backbone.
            DivergenceError: The loss left the finite numbers.
        """
        content = torch.tensor(features.content, dtype=torch.float32)
        means = torch.tensor(scale.to_unit(table.mean_ratings()), dtype=torch.float32)
        if len(content) < 2:
            raise RatingError(f"{len(content)} training pictures; PA_IAA learns from at least 2")
        labels = self.personality
        if labels is not None and labels.content.shape[1] != content.shape[1]:
            raise ModelFormatError(
                f"pictures labelled with personality have embeddings of {labels.content.shape[1]} numbers, "
                f"rated ones of {content.shape[1]}; embed both with the same backbone"
            )
        with seeded(seed, _CPU):
            network = TwoHeads(content.shape[1], self.hidden, self.dropout)
            network.aesthetics.mean.copy_(content.mean(dim=0))
            network.aesthetics.std.copy_(torch.tensor(floored_std(features.content)))
            nn.init.constant_(network.aesthetics.output.bias, float(means.mean()))
            rated = _Batches(network.standardize(content), means, self.batch)
            labelled = None
            if labels is not None:
                standardized = network.standardize(torch.tensor(labels.content, dtype=torch.float32))
                traits = torch.tensor(labels.traits, dtype=torch.float32)
                labelled = _Batches(standardized, traits, self.batch)
            _train(network, rated, labelled, int(chosen["iterations"]), self.stage_one_rate)
        return FittedPaIaa(network, self, float(chosen["rate"]), float(chosen["new_rate"]))


class TwoHeads(nn.Module):
    """What stage 1 learns: a trunk, and aesthetics and personality on it.

    Args:
        embedding_dim: D.
        hidden: H, units of the trunk.
        dropout: Share of them left out while training.
    """

    def __init__(self, embedding_dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        settings = HeadConfig(hidden=(hidden,), dropout=dropout, standardize=True)
        self.aesthetics = AestheticHead(embedding_dim, settings)
        self.personality = nn.Linear(hidden, len(TRAITS))
        _draw_small(self.personality)

    def standardize(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) as the trunk takes them."""
        return self.aesthetics.standardize(embeddings)

    def units(self, standardized: torch.Tensor) -> torch.Tensor:
        """Return u(x) of standardized embeddings (N, D): (N, H)."""
        return self.aesthetics.hidden_units(standardized)

    def score(self, units: torch.Tensor) -> torch.Tensor:
        """Return a(x) of units (N, H): (N,), rating units of [0, 1]."""
        scores: torch.Tensor = self.aesthetics.output(units)
        return scores.squeeze(1)

    def traits(self, units: torch.Tensor) -> torch.Tensor:
        """Return p(x) of units (N, H): (N, 5) in (-1, 1)."""
        return torch.tanh(self.personality(units))


class PersonalNetwork(nn.Module):
    """The two heads and a person's own weights of the traits, new ones.

    Args:
        shared: What stage 1 learned; fine-tuned from here on, so it must be the person's own copy.
        hidden: Units of the hidden layer of w.
    """

    def __init__(self, shared: TwoHeads, hidden: int) -> None:
        super().__init__()
        self.shared = shared
        self.trait_weights = nn.Sequential(
            nn.Linear(shared.personality.in_features, hidden),
            nn.PReLU(),
            nn.Linear(hidden, len(TRAITS)),
            nn.Tanh(),
        )
        for layer in self.trait_weights:
            if isinstance(layer, nn.Linear):
                _draw_small(layer)

    def forward(self, standardized: torch.Tensor) -> torch.Tensor:
        """Score standardized embeddings (N, D): (N,), rating units of [0, 1]."""
        units = self.shared.units(standardized)
        weights: torch.Tensor = self.trait_weights(units)
        return self.shared.score(units) + (self.shared.traits(units) * weights).sum(dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class FittedPaIaa:
    """Both heads after stage 1.

    Attributes:
        network: Not changed by anybody's fine-tuning.
        settings: What it was fitted with.
        rate: At which trunk and heads are fine-tuned.
        new_rate: At which the weights of the traits are.
    """

    network: TwoHeads
    settings: PaIaaConfig
    rate: float
    new_rate: float

    def personalizer(self, name: str, features: PictureFeatures) -> PaIaaPersonalizer:
        """Make what evaluation needs, for the pictures of another table."""
        content = torch.tensor(features.content, dtype=torch.float32)
        return PaIaaPersonalizer(name, self, self.network.standardize(content))


@dataclass(frozen=True, slots=True, eq=False)
class PaIaaPersonalizer:
    """PA_IAA as evaluation knows methods.

    Attributes:
        name: What tables call it.
        fitted: Where everybody starts from.
        standardized: (N, D) embeddings of the table's images, standardized.
    """

    name: str
    fitted: FittedPaIaa
    standardized: torch.Tensor

    def generic(self, images: IntArray) -> FloatArray:
        """Score pictures (N,) by a(x) alone: (N,), [0, 1]."""
        network = self.fitted.network
        with torch.no_grad():
            units = network.units(self.standardized[torch.from_numpy(images)])
            scores: FloatArray = network.score(units).double().numpy()
        return scores

    def personalize(self, support: Support) -> PaIaaPredictor:
        """Fine-tune everything to one person.

        Raises:
            SupportSetError: There are fewer than two pictures.
            DivergenceError: The loss left the finite numbers.
        """
        support.check_pair()
        own = self.fitted
        with seeded(support.seed, _CPU):
            # Stage 1 leaves the network in scoring mode: running statistics, no dropout.
            network = PersonalNetwork(copy.deepcopy(own.network), own.settings.new_hidden)
        parameters = dict(network.named_parameters())
        rates = {name: own.rate if name.startswith("shared.") else own.new_rate for name in parameters}
        inputs = self.standardized[torch.from_numpy(support.images)]
        ratings = torch.tensor(support.ratings, dtype=torch.float32)
        optimizer = Adam(_ADAM)
        first_of(
            [
                _step(network(inputs), ratings, parameters, optimizer, rates)
                for _ in range(own.settings.epochs)
            ]
        )
        return PaIaaPredictor(network, self.standardized)


@dataclass(frozen=True, slots=True, eq=False)
class PaIaaPredictor:
    """One person's network.

    Attributes:
        network: Fine-tuned.
        standardized: (N, D) embeddings of the table's images, standardized.
    """

    network: PersonalNetwork
    standardized: torch.Tensor

    def predict(self, images: IntArray) -> tuple[FloatArray, None]:
        """Score images (Q,): (Q,), [0, 1]; the network knows no standard deviations."""
        with torch.no_grad():
            scores: FloatArray = self.network(self.standardized[torch.from_numpy(images)]).double().numpy()
        return scores, None


@dataclass(frozen=True, slots=True, eq=False)
class _Batches:
    """Pictures (N, D) and what is learned of them (N, ...), drawn from without replacement in a batch."""

    inputs: torch.Tensor
    targets: torch.Tensor
    size: int

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.randperm(len(self.inputs))[: self.size]
        return self.inputs[places], self.targets[places]


def _train(
    network: TwoHeads, rated: _Batches, labelled: _Batches | None, iterations: int, rate: float
) -> None:
    """Take turns between aesthetics and personality, changing the network; it is left in scoring mode."""
    of_aesthetics = dict(network.aesthetics.named_parameters())
    of_personality = {
        **{f"trunk.{name}": value for name, value in network.aesthetics.hidden.named_parameters()},
        **dict(network.personality.named_parameters()),
    }
    optimizers = Adam(_ADAM), Adam(_ADAM)
    losses = []
    for _ in range(iterations):
        network.train()
        inputs, ratings = rated.draw()
        scores = network.score(network.units(inputs))
        losses.append(
            _step(scores, ratings, of_aesthetics, optimizers[0], dict.fromkeys(of_aesthetics, rate))
        )
        if labelled is None:
            continue
        _let_statistics_move(network, moving=False)
        inputs, traits = labelled.draw()
        found = network.traits(network.units(inputs))
        losses.append(
            _step(found, traits, of_personality, optimizers[1], dict.fromkeys(of_personality, rate))
        )
        _let_statistics_move(network, moving=True)
    first_of(losses)
    network.eval()


def _step(
    found: torch.Tensor,
    wanted: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    optimizer: Adam,
    rates: Mapping[str, float],
) -> torch.Tensor:
    """Take one step on the squared error, changing the parameters in place, and return it."""
    loss = squared_error(found, wanted)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    optimizer.step(dict(parameters), dict(zip(parameters, gradients, strict=True)), rates)
    return loss.detach()


def _let_statistics_move(network: nn.Module, *, moving: bool) -> None:
    """Choose whether batches in training mode move the running statistics of batch normalization."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.1 if moving else 0.0


def _draw_small(layer: nn.Linear) -> None:
    """Draw weights from N(0, 0.02); biases are 0."""
    nn.init.normal_(layer.weight, 0.0, _SPREAD)
    nn.init.zeros_(layer.bias)
