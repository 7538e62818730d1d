"""Plain gradient descent on one user's support set, through which gradients may flow (MAML, Reptile)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from piaa_sdk.finetune.full import first_of, squared_error
from piaa_sdk.finetune.network import Params, is_statistic, mode, scores_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piaa_sdk.finetune.full import Examples
    from piaa_sdk.finetune.network import AestheticNetwork


def descend_sgd(
    network: AestheticNetwork,
    start: Params,
    examples: Examples,
    steps: int,
    rates: Mapping[str, float],
    *,
    batch_norm: str = "frozen",
    keep_graph: bool = False,
) -> tuple[Params, float]:
    """Take steps theta <- theta - alpha grad L(theta) on the same examples.

    Args:
        network: f_theta.
        start: Where from; not changed. With ``keep_graph`` the gradient of the result with respect to it can
            be taken, second derivatives included.
        examples: All of them are one batch in every step.
        steps: S.
        rates: Learning rate by name.
        batch_norm: See :func:`piaa_sdk.finetune.network.mode`.
        keep_graph: Whether the steps stay in the graph.

    Returns:
        The tensors after the last step and the loss before the first (nan without steps).

    Raises:
        DivergenceError: A loss is not finite.
    """
    params = dict(start)
    learned = [name for name in params if not is_statistic(name)]
    losses = []
    with mode(network, adapting=True, batch_norm=batch_norm):
        for _ in range(steps):
            if not keep_graph:
                params |= {name: params[name].detach().requires_grad_() for name in learned}
            loss = loss_of(network, params, examples)
            losses.append(loss.detach())
            gradients = torch.autograd.grad(loss, [params[name] for name in learned], create_graph=keep_graph)
            params |= {
                name: params[name] - rates[name] * gradient
                for name, gradient in zip(learned, gradients, strict=True)
            }
    adapted = params if keep_graph else {name: value.detach() for name, value in params.items()}
    return adapted, first_of(losses)


def loss_of(network: AestheticNetwork, params: Params, examples: Examples) -> torch.Tensor:
    """Return the squared error of examples (eq. 2), in the mode that the network is in.

    Running statistics that batch normalization moves are replaced in ``params``, not changed in place,
    because the graph of an earlier step may still need them.
    """
    params |= {name: value.clone() for name, value in params.items() if is_statistic(name)}
    return squared_error(scores_of(network, params, examples.inputs), examples.ratings)
