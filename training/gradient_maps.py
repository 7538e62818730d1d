"""Which pixels a score hangs on: gradients of the score with respect to the pixels (Figs. 7, 8 and 10).

**Gradient.** For pixels X (S, S, 3) of 0 to 255, d score / d X, in units of [0, 1] per level of a colour. A
run that learns ratings as shares of the highest one has scores of other units: they are brought to [0, 1].

- ``plain``: the gradient itself (Simonyan, Vedaldi and Zisserman 2014).
- ``guided``: guided backpropagation (Springenberg and others 2015). On the way back, what arrives at a
  rectifier is cut off at 0 before it goes on through the rectifier, so that only what raises the score is
  followed; with ReLU and ReLU6 that is the published rule. For the smooth and leaky ones the literature has
  no rule: here what arrives is cut off in the same way and then multiplied by the activation's own
  derivative. It is done for all rectifiers, those of the fully connected layers too. Gates (sigmoids of
  squeeze-and-excitation, a sigmoid at the output) are no rectifiers and are left alone. Rectifiers are found
  in the record that torch keeps of the forward pass, so it does not matter whether a backbone calls modules
  or functions. A rectifier that is a custom autograd function is not found.

Guided maps are sharper, and partly so whatever the weights are (Adebayo and others 2018): the plain ones are
the default here and the ones to draw conclusions from. The paper names only the notebook it took its code
from, which holds several kinds.

**Map.** The maximum of the gradient's absolute value over the colours, as Simonyan and others do: (S, S),
at least 0. Maps say where the score would change, not whether up or down.

**Which network.** A run of the mode full has the network from pixels to score. A run of the mode head has
learned the layers on the embedding only: its backbone is made again and put before them, and the scores of
the whole are compared with those on the embedding. Users are adapted as evaluation adapts them, on the same
support sets; the mode's own inputs are adapted to, and only what is looked at goes through the whole network.

**From scratch.** What adaptation is compared with in Fig. 10: the same support set, the same number of
epochs and the same rates, begun not at the prior but where meta-training begins: an ImageNet backbone and
random layers. (The paper trains that one for 50 epochs or more.) Mean and deviation that the embedding is
standardized by are the run's; they hold no ratings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.network import params_of
from piaa_sdk.images import load_image
from training.network import make_network
from training.sources import preprocessing_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.finetune.network import Params
    from training.experiment import Workshop
    from training.learner_personalizer import LearnerPersonalizer
    from training.learners.base import Learner
    from training.meta_config import MetaConfig
    from training.personalizers import Support

KINDS = ("plain", "guided")

_RECTIFIERS = (
    *("ReluBackward", "HardtanhBackward", "PreluKernelBackward", "PreluBackward", "LeakyReluBackward"),
    *("EluBackward", "CeluBackward", "SiluBackward", "HardswishBackward", "GeluBackward", "MishBackward"),
    *("SoftplusBackward", "ThresholdBackward"),
)
"""How torch names the steps back through rectifiers, without the number at the end; ReLU6 is a Hardtanh."""

_BATCH = 8
"""Pictures whose gradients are taken at once."""


@dataclass(frozen=True, slots=True, eq=False)
class WholeNetwork:
    """A run's network from pixels to the score, whose tensors can be exchanged.

    Attributes:
        learner: Scores with a network that has a backbone, in the units that the run learns.
        from_target: Brings scores (N,) from these units to [0, 1]; it is linear.
        backbone: Tensors that the run's own lack: those of the frozen backbone in the mode head, else none.
        size: S.
        device: Where it computes.
    """

    learner: Learner
    from_target: Callable[[FloatArray], FloatArray]
    backbone: Params
    size: int
    device: str = "cpu"

    @classmethod
    def of(cls, personalizer: LearnerPersonalizer, config: MetaConfig, workshop: Workshop) -> WholeNetwork:
        """Assemble it for a run.

        Args:
            personalizer: The run's, see :func:`training.experiment.load_personalizer`.
            config: The run's settings.
            workshop: How the personalizer was made; the mode is the run's.

        Raises:
            ModelNotFoundError: The backbone's weights can be neither read nor downloaded.
        """
        size, device = config.network.size, workshop.hardware.device
        own = personalizer.learner.network
        if own.backbone is not None:
            return cls(personalizer.learner, personalizer.from_target, {}, size, device)
        network = make_network(
            config.network,
            weights=workshop.backbone.weights,
            untrained=workshop.backbone.untrained,
            seed=config.seed,
        )
        network.head.load_state_dict(own.head.state_dict())
        workshop.hardware.place(network)
        tensors = params_of(network)
        frozen = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
        return cls(config.make_learner(network), personalizer.from_target, frozen, size, device)

    def load(self, paths: Sequence[Path]) -> torch.Tensor:
        """Read pictures as the network takes them: (N, S, S, 3) uint8.

        Raises:
            ImageError: One cannot be read.
        """
        preprocessing = preprocessing_of(self.size)
        return torch.from_numpy(np.stack([load_image(path, preprocessing) for path in paths]))

    def predict(self, params: Params, pixels: torch.Tensor) -> FloatArray:
        """Score pixels (N, S, S, 3) with the prior or adapted tensors: (N,), [0, 1]."""
        tensors = self.backbone | params
        parts = [self.learner.predict(tensors, part.to(self.device)) for part in torch.split(pixels, _BATCH)]
        return self.from_target(torch.cat(parts).double().cpu().numpy())

    def gradients(self, params: Params, pixels: torch.Tensor, *, kind: str = "plain") -> torch.Tensor:
        """Take the gradient of the score with respect to pixels (N, S, S, 3): (N, S, S, 3).

        Args:
            params: The prior, or adapted tensors.
            pixels: 0 to 255.
            kind: ``plain`` or ``guided``.

        Returns:
            Units of [0, 1] per level of a colour.

        Raises:
            ModelFormatError: There is no such kind, or no rectifier to guide by.
        """
        tensors = {name: value.detach() for name, value in (self.backbone | params).items()}
        return self._slope * torch.cat(
            [
                pixel_gradients(
                    lambda part: self.learner.scores(tensors, part), part.to(self.device), kind=kind
                ).cpu()
                for part in torch.split(pixels, _BATCH)
            ]
        )

    @property
    def _slope(self) -> float:
        """How much the score of [0, 1] grows with the score in the units that the run learns."""
        at_zero, at_one = self.from_target(np.array([0.0, 1.0]))
        return float(at_one - at_zero)


def pixel_gradients(
    score: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, *, kind: str = "plain"
) -> torch.Tensor:
    """Take the gradient of scores with respect to pixels.

    Args:
        score: From pixels (N, S, S, 3) to scores (N,); no picture's score depends on another picture.
        pixels: (N, S, S, 3), 0 to 255; whole numbers are taken as float32.
        kind: ``plain`` or ``guided``.

    Returns:
        (N, S, S, 3), units of the score per level of a colour.

    Raises:
        ModelFormatError: There is no such kind, or no rectifier to guide by.
    """
    if kind not in KINDS:
        raise ModelFormatError(f"kind is {kind!r}, must be {' or '.join(KINDS)}")
    looked_at = pixels.detach() if pixels.is_floating_point() else pixels.float()
    looked_at = looked_at.clone().requires_grad_()
    with torch.enable_grad():
        total = score(looked_at).sum()
    if total.grad_fn is None:  # the score is the same whatever the picture
        return torch.zeros_like(looked_at)
    if kind == "guided":
        _guide(total.grad_fn)
    (found,) = torch.autograd.grad(total, looked_at, allow_unused=True, materialize_grads=True)
    return found


def maps_of(gradients: torch.Tensor) -> FloatArray:
    """Return the maximum over the colours of the absolute value of gradients (N, S, S, 3): (N, S, S)."""
    maps: FloatArray = gradients.abs().amax(-1).numpy()
    return maps


def _guide(last: torch.autograd.graph.Node) -> None:
    """Cut off at 0 what arrives at rectifiers on the way back from a node."""
    found = 0
    for node in _nodes(last):
        if node.name().rstrip("0123456789") in _RECTIFIERS:
            node.register_prehook(_cut_off)
            found += 1
    if not found:
        raise ModelFormatError("the network has no rectifier to guide by; ask for the kind plain")


def _cut_off(arriving: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    return tuple(None if part is None else part.clamp(min=0) for part in arriving)


def _nodes(last: torch.autograd.graph.Node) -> Iterator[torch.autograd.graph.Node]:
    """Yield each step back from a node once."""
    todo, seen = [last], {last}
    while todo:
        node = todo.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)


def epochs_of(
    personalizer: LearnerPersonalizer, start: Params, support: Support, epochs: Sequence[int]
) -> list[Params]:
    """Adapt tensors to one user, and keep what they are after some of the epochs.

    Args:
        personalizer: Its learner adapts, for as many epochs as its settings say.
        start: The prior, or other tensors by its names.
        support: The user's rated pictures.
        epochs: Which to keep; 0 is ``start``.

    Raises:
        ModelFormatError: The adaptation has no such epoch.
        DivergenceError: A loss is not finite.
    """
    kept = {0: start}
    last = 0

    def note(epoch: int, params: Params) -> None:
        nonlocal last
        last = epoch
        if epoch in epochs:
            kept[epoch] = {name: value.detach().clone() for name, value in params.items()}

    personalizer.adapt(start, support, on_epoch=note)
    if missing := sorted(set(epochs) - kept.keys()):
        raise ModelFormatError(
            f"{personalizer.name} has no epoch {missing[0]} of adaptation, only 0 (the prior) to {last}; "
            "ask for these (--epochs)"
        )
    return [kept[epoch] for epoch in epochs]


def scratch_of(personalizer: LearnerPersonalizer) -> Params:
    """Return the tensors that meta-training of a run began with, by the names of its prior."""
    return personalizer.learner.first_prior(params_of(personalizer.learner.network))
