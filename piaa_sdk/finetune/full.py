"""Fine-tuning of the whole network to one person's ratings (eqs. 9 to 11), and the descent it is made of."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from piaa_sdk.errors import DivergenceError, SupportSetError
from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.checks import NOT_NEGATIVE, check_settings
from piaa_sdk.finetune.network import BATCH_NORMS, Params, is_statistic, mode, scores_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn


AUGMENTATIONS = ("none", "mirror")


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How the prior is fine-tuned to one person.

    Attributes:
        learning_rate: alpha_f of eq. 11.
        epochs: P; each is one step on the whole support set. Fixed: no epoch is chosen by its result.
        adam: Constants of Adam; the moments start at zero for every person.
        batch_norm: ``frozen`` or ``support``, see :func:`piaa_sdk.finetune.network.mode`.
        augmentation: ``none``, or ``mirror``: each picture is mirrored or not at random in every epoch.
    """

    learning_rate: float = 1e-5
    epochs: int = 20
    adam: AdamSettings = AdamSettings()
    batch_norm: str = "frozen"
    augmentation: str = "none"

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ModelFormatError: One of them does.
        """
        check_settings(
            self,
            learning_rate=NOT_NEGATIVE,
            epochs=NOT_NEGATIVE,
            batch_norm=BATCH_NORMS,
            augmentation=AUGMENTATIONS,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Rated pictures of one person, or of all: K of them.

    Attributes:
        inputs: What the network takes: pixels (K, S, S, 3) uint8 or embeddings (K, D).
        ratings: (K,), [0, 1].
    """

    inputs: torch.Tensor
    ratings: torch.Tensor

    def __len__(self) -> int:
        return len(self.ratings)


def fine_tune(
    network: nn.Module,
    prior: Params,
    support: Examples,
    settings: FineTuning,
    *,
    seed: int = 0,
    chunk: int | None = None,
    on_step: Callable[[int, float, Params], None] | None = None,
) -> Params:
    """Fine-tune the prior to one person's ratings (eqs. 9 to 11).

    Args:
        network: f_theta of eq. 1. None of its own tensors is changed; those that the prior does not hold are
            read: ``head.mean`` and ``head.std``, ``pixel_mean`` and ``pixel_std``.
        prior: theta, as :func:`piaa_sdk.finetune.network.params_of` gives it; not changed.
        support: The person's M rated pictures.
        settings: Rates and epochs.
        seed: Of dropout and augmentation; the same seed gives the same result.
        chunk: See :func:`descend`.
        on_step: See :func:`descend`.

    Returns:
        theta_te, by the names of the prior.

    Raises:
        SupportSetError: There are too few pictures for batch normalization on the support, or what cannot be
            mirrored should be.
        DivergenceError: A loss is not finite.
    """
    if len(support) < 2 and settings.batch_norm == "support":
        raise SupportSetError(
            f"batch normalization on the support needs 2 pictures or more, got {len(support)}"
        )
    if settings.augmentation == "mirror" and support.inputs.ndim != 4:
        raise SupportSetError(
            f"inputs of shape {tuple(support.inputs.shape)} cannot be mirrored; give pixels (K, S, S, 3)"
        )
    rates = dict.fromkeys(prior, settings.learning_rate)
    params, _ = descend(
        network,
        prior,
        support,
        settings.epochs,
        Adam(settings.adam),
        rates,
        batch_norm=settings.batch_norm,
        augmentation=settings.augmentation,
        seed=seed,
        chunk=chunk,
        on_step=on_step,
    )
    return params


def descend(
    network: nn.Module,
    start: Params,
    examples: Examples,
    steps: int,
    optimizer: Adam,
    rates: Mapping[str, float],
    *,
    batch_norm: str = "frozen",
    augmentation: str = "none",
    seed: int = 0,
    chunk: int | None = None,
    on_step: Callable[[int, float, Params], None] | None = None,
) -> tuple[Params, float]:
    """Descend the squared error on the same examples for some steps (eqs. 3 and 4, 7, 10 and 11).

    Args:
        network: f_theta.
        start: Where from; not changed.
        examples: All of them are one batch in every step.
        steps: S or P.
        optimizer: Adam with the moments it has; they go on from there.
        rates: Learning rate by name.
        batch_norm: See :func:`piaa_sdk.finetune.network.mode`.
        augmentation: See :class:`FineTuning`.
        seed: Of dropout and augmentation.
        chunk: Examples that go through the network at once; gradients are added up over all of them, so that
            memory stays bounded and the step is the same. None, or batch statistics, takes all at once.
        on_step: Called after each step with its number, counted from 1, the loss before it, and the tensors
            after it, which must not be changed.

    Returns:
        The tensors after the last step, without gradients, and the loss before the first step (nan without
        steps).

    Raises:
        DivergenceError: A loss is not finite.
    """
    params = {name: value.detach().clone() for name, value in start.items()}
    learned = [name for name in params if not is_statistic(name)]
    losses: list[torch.Tensor] = []
    size = len(examples) if chunk is None or batch_norm == "support" else chunk
    with seeded(seed, examples.inputs.device), mode(network, adapting=True, batch_norm=batch_norm):
        for _ in range(steps):
            inputs = _mirrored(examples.inputs) if augmentation == "mirror" else examples.inputs
            loss, gradients = _loss_and_gradients(
                network, params, learned, Examples(inputs, examples.ratings), size
            )
            optimizer.step(params, dict(zip(learned, gradients, strict=True)), rates)
            losses.append(loss)
            if on_step is not None:
                on_step(len(losses), first_of(losses[-1:], offset=len(losses) - 1), params)
    return params, first_of(losses)


def _loss_and_gradients(
    network: nn.Module, params: Params, learned: list[str], examples: Examples, size: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the squared error and its gradients (eqs. 3 and 10), added up over chunks of ``size``."""
    leaves = {name: params[name].requires_grad_() for name in learned}
    total: torch.Tensor | None = None
    gradients: list[torch.Tensor] = []
    for start in range(0, len(examples), size):
        inputs, ratings = (part[start : start + size] for part in (examples.inputs, examples.ratings))
        loss = squared_error(scores_of(network, params, inputs), ratings) * (len(ratings) / len(examples))
        found = list(torch.autograd.grad(loss, list(leaves.values())))
        gradients = list(torch._foreach_add(gradients, found)) if gradients else found
        total = loss.detach() if total is None else total + loss.detach()
    for name in learned:
        params[name] = params[name].detach()
    assert total is not None, "there are no examples"
    return total, gradients


def _mirrored(pixels: torch.Tensor) -> torch.Tensor:
    """Mirror each picture of pixels (K, S, S, 3) or not, by chance."""
    chosen = torch.rand(len(pixels)) < 0.5
    return torch.where(chosen.to(pixels.device)[:, None, None, None], pixels.flip(2), pixels)


def first_of(losses: list[torch.Tensor], *, offset: int = 0) -> float:
    """Return the first of the losses of successive steps, nan if there is none.

    Args:
        losses: Scalars.
        offset: Steps that were taken before the first of them.

    Raises:
        DivergenceError: One of them is not finite; the step is named, counted from 1.
    """
    if not losses:
        return math.nan
    is_finite = torch.isfinite(torch.stack(losses))  # asked once, because asking makes a GPU wait
    if not bool(is_finite.all()):
        odd = int((~is_finite).nonzero()[0])
        raise DivergenceError(
            f"the loss of step {odd + 1 + offset} is {float(losses[odd])}; lower the learning rates"
        )
    return float(losses[0])


def squared_error(scores: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of scores (K,) against ratings (K,) (eqs. 2 and 9)."""
    return (scores - ratings).square().mean()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch draw from a seed of its own, for dropout; what it drew from before goes on afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
