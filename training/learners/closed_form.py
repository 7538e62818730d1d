"""Closed form: the hidden layer is meta-learned through the exact solution of the adaptation.

With h(x) what the hidden layer puts out (divided by sqrt(H)), phi(x) the standardized embedding and m(x) the
prior's score, a person's score is m(x) + f(x), f a Gaussian process with covariance

    k(x, x') = h(x) h(x') + c + g phi(x) phi(x') / D

and ratings carry noise of variance n. The support set's ratings give f in one linear system, and the loss on
the query set is differentiated through it: bilevel optimization whose lower level is solved exactly (R2-D2,
Bertinetto and others 2019; MetaOptNet, Lee and others 2019). The network's weights, g and n are learned. The
adaptation that the SDK ships is of this kind too, with fixed kernels and a mixture weighed by evidence
(:mod:`piaa_sdk.adaptation`).

With the learning rate 0 for the convolutional layers, as shipped, the full mode learns the head on pictures
that are mirrored and cropped anew at each visit; the backbone only embeds them, without gradients. Query sets
are all that a user's support set leaves over unless ``tasks.query`` caps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from piaa_sdk.errors import DivergenceError, ModelFormatError
from piaa_sdk.finetune.adam import Adam, AdamSettings
from piaa_sdk.finetune.checks import NOT_NEGATIVE, POSITIVE, SHARE, check_settings
from piaa_sdk.finetune.full import seeded, squared_error
from piaa_sdk.finetune.network import Params, is_statistic, mode, part_with, predict
from training.learners.base import Decay, FineTunedLearner, MetaStep, finite, naming
from training.learners.outer import OuterStep
from training.network import learning_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from piaa_sdk.finetune.full import Examples
    from training.tasks import Task

LOG_LINEAR = "closed_form.log_linear"
"""log g, by the name it has among the tensors."""

LOG_NOISE = "closed_form.log_noise"
"""log n."""

LINEAR = "closed_form.linear"
"""(D,) weights of phi in a person's score; only adapted tensors have them."""

_BATCH = 64
"""Pictures that the backbone embeds at once where no gradients are wanted of it."""


@dataclass(frozen=True, slots=True)
class ClosedFormConfig:
    """Settings of the closed form.

    Attributes:
        backbone_rate: Learning rate of the convolutional layers; 0 asks them for no gradients.
        head_rate: Learning rate of the fully connected layers, of g and of n.
        adam: Constants of the outer optimizer.
        input_dropout: Share of the embedding's numbers left out while meta-training.
        offset_variance: c.
        linear: First g.
        noise: First n.
        ranking_weight: Of the ranking loss beside the squared error.
        ranking_sharpness: Times the difference of two scores in the ranking loss.
        decay: Of the rates.
    """

    backbone_rate: float = 0.0
    head_rate: float = 1e-3
    adam: AdamSettings = AdamSettings(second_decay=0.999, weight_decay=1e-4, bias_correction=True)
    input_dropout: float = 0.2
    offset_variance: float = 0.3
    linear: float = 1.0
    noise: float = 1.0
    ranking_weight: float = 0.1
    ranking_sharpness: float = 10.0
    decay: Decay = Decay()

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ModelFormatError: One of them does.
        """
        check_settings(
            self,
            backbone_rate=NOT_NEGATIVE,
            head_rate=NOT_NEGATIVE,
            input_dropout=SHARE,
            offset_variance=NOT_NEGATIVE,
            linear=POSITIVE,
            noise=POSITIVE,
            ranking_weight=NOT_NEGATIVE,
            ranking_sharpness=NOT_NEGATIVE,
        )


@dataclass(slots=True, eq=False)
class ClosedForm(FineTunedLearner):
    """A hidden layer meta-learned through the ridge solve; ``fine_tuning`` is not used.

    Attributes:
        config: Its constants.
    """

    config: ClosedFormConfig
    _outer: OuterStep = field(init=False)

    def __post_init__(self) -> None:
        """Make the outer optimizer.

        Raises:
            ModelFormatError: The network squashes its output: what is solved is linear.
        """
        if self.network.head.config.output != "linear":
            raise ModelFormatError("the closed form needs a network with output = 'linear'")
        self._outer = OuterStep("adam", Adam(self.config.adam))

    def first_prior(self, params: Params) -> Params:
        """Add g and n to the network's tensors, and begin with a prior that scores all pictures alike.

        A random prior would be noise that every solution has to take back.
        """
        like = params["head.output.bias"]
        return params | {
            "head.output.weight": torch.zeros_like(params["head.output.weight"]),
            "head.output.bias": torch.full_like(like, 0.5),
            LOG_LINEAR: like.new_tensor(math.log(self.config.linear)),
            LOG_NOISE: like.new_tensor(math.log(self.config.noise)),
        }

    def meta_step(self, prior: Params, tasks: Sequence[Task], iteration: int) -> MetaStep:
        """Do one step on the loss of the query sets after the solve on the support sets."""
        still = ("backbone.",) if self.config.backbone_rate == 0 else ()
        learned = [name for name in prior if not is_statistic(name) and not name.startswith(still)]
        gradients, support_losses, query_losses = [], [], []
        for task in tasks:
            params = dict(prior) | {name: prior[name].detach().requires_grad_() for name in learned}
            with naming(task, iteration), seeded(task.seed, task.support.inputs.device):
                adapted, support_loss = self._solve(params, task.support, self.config.input_dropout)
                scores = self._scores(adapted, task.query.inputs, self.config.input_dropout)
            error = squared_error(scores, task.query.ratings)
            ranking = ranking_loss(scores, task.query.ratings, self.config.ranking_sharpness)
            loss = error + self.config.ranking_weight * ranking
            found = torch.autograd.grad(loss, [params[name] for name in learned], allow_unused=True)
            gradients.append(
                {
                    name: torch.zeros_like(prior[name]) if gradient is None else gradient
                    for name, gradient in zip(learned, found, strict=True)
                }
            )
            support_losses.append(support_loss)
            with naming(task, iteration):
                query_losses.append(finite(error, "query loss"))
        factor = self.config.decay.at(iteration)
        rates = learning_rates(
            prior, backbone=self.config.backbone_rate * factor, head=self.config.head_rate * factor
        )
        # The output layer reads the units before the kernel divides them by sqrt(H).
        rates["head.output.weight"] /= math.sqrt(prior["head.output.weight"].shape[1])
        return MetaStep(
            self._outer.step(prior, self.average.mean(gradients), rates),
            self.average.mean_number(support_losses),
            self.average.mean_number(query_losses),
        )

    def adapt(
        self,
        prior: Params,
        support: Examples,
        *,
        seed: int = 0,
        on_epoch: Callable[[int, Params], None] | None = None,
    ) -> Params:
        """Solve for one user: one epoch; ``seed`` is not used, nothing is left to chance."""
        with torch.no_grad():
            adapted, _ = self._solve(prior, support, 0.0)
        if on_epoch is not None:
            on_epoch(1, adapted)
        return adapted

    def predict(self, params: Params, inputs: torch.Tensor) -> torch.Tensor:
        """Score inputs with the prior or with adapted tensors."""
        if LINEAR not in params:
            return predict(self.network, _without_own(params), inputs)
        with torch.no_grad():
            return torch.cat([self._scores(params, part, 0.0) for part in torch.split(inputs, 256)])

    def scores(self, params: Params, inputs: torch.Tensor) -> torch.Tensor:
        """Score inputs with the prior or with adapted tensors, with gradients."""
        if LINEAR not in params:
            return FineTunedLearner.scores(self, _without_own(params), inputs)
        return self._scores(params, inputs, 0.0)

    def state(self) -> Params:
        """Return the moments of the optimizer."""
        return self._outer.state()

    def load_state(self, state: Params) -> None:
        """Go on from what :meth:`state` returned."""
        self._outer.load_state(state)

    def _solve(self, params: Params, support: Examples, dropout: float) -> tuple[Params, float]:
        """Return adapted tensors and the prior's squared error on the support set.

        f(x) = k(x, support) a is linear in h and in phi, so what it adds to the score is added to the
        weights of the output layer, to its bias and to the weights of phi.

        Raises:
            DivergenceError: The covariance is not that of finite numbers.
        """
        units, embeddings = self._look(params, support.inputs, dropout)
        scores = units @ params["head.output.weight"][0] + params["head.output.bias"]
        linear = params[LOG_LINEAR].exp() / embeddings.shape[1]
        covariance = units @ units.T / units.shape[1] + self.config.offset_variance
        covariance = covariance + linear * embeddings @ embeddings.T
        covariance = covariance + params[LOG_NOISE].exp() * torch.eye(len(units)).to(units)
        try:
            factor = torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # a nan in it
            raise DivergenceError(
                "the covariance of the support set cannot be factored; lower the learning rates"
            ) from error
        solution = torch.cholesky_solve((support.ratings - scores)[:, None], factor).squeeze(1)
        adapted = params | {
            "head.output.weight": params["head.output.weight"] + (units.T @ solution) / units.shape[1],
            "head.output.bias": params["head.output.bias"] + self.config.offset_variance * solution.sum(),
            LINEAR: linear * (embeddings.T @ solution),
        }
        return adapted, float(squared_error(scores, support.ratings).detach())

    def _scores(self, params: Params, inputs: torch.Tensor, dropout: float) -> torch.Tensor:
        units, embeddings = self._look(params, inputs, dropout)
        score = units @ params["head.output.weight"][0] + params["head.output.bias"]
        return score + embeddings @ params[LINEAR]

    def _look(
        self, params: Params, inputs: torch.Tensor, dropout: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden units (N, H) and standardized embeddings (N, D).

        The dropout of the hidden units is off: left out for one picture and kept for another, a unit would
        not be one direction of the kernel.
        """
        own = _without_own(params)
        with mode(self.network, adapting=False):
            embeddings = self.network.head.standardize(self._embed(own, inputs))
            if dropout:
                embeddings = torch.nn.functional.dropout(embeddings, dropout)
            units = part_with(
                self.network, own, lambda network, part: network.head.hidden_units(part), embeddings
            )
        return units, embeddings

    def _embed(self, params: Params, inputs: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D), with gradients if the backbone learns or the inputs ask for them."""

        def embed(part: torch.Tensor) -> torch.Tensor:
            return part_with(self.network, params, lambda network, pixels: network.embed(pixels), part)

        if torch.is_grad_enabled() and (self.config.backbone_rate or inputs.requires_grad):
            return embed(inputs)
        with torch.no_grad():
            return torch.cat([embed(part) for part in torch.split(inputs, _BATCH)])


def ranking_loss(scores: torch.Tensor, ratings: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Return the mean logistic loss of the order of all pairs with different ratings; 0 if there is none."""
    higher, lower = torch.nonzero(ratings[:, None] > ratings[None, :], as_tuple=True)
    if not len(higher):
        return scores.sum() * 0
    return torch.nn.functional.softplus(-sharpness * (scores[higher] - scores[lower])).mean()


def _without_own(params: Params) -> Params:
    return {name: value for name, value in params.items() if not name.startswith("closed_form.")}
