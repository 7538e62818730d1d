"""What each process of ``test_distributed.py`` runs: one outer step of every learner, in float64.

Started as a program it joins the processes that torchrun started and writes what its rank holds afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from piaa_sdk.finetune.network import params_of
from piaa_sdk.rating_scale import RatingScale
from training.data.ratings import RatingTable
from training.distributed import AverageOverRanks, Ranks, joined_ranks
from training.meta_config import MetaConfig
from training.network import make_network
from training.sources import EmbeddingSource
from training.tasks import TaskSampler

NAMES = ("blg_as_paper", "maml", "maml_first_order", "reptile", "ba", "closed_form")
TASKS = (2, 3)
"""k: the same share for each of two processes, and not the same."""

USERS, IMAGES, EACH, DIM = 6, 30, 15, 5


def outer_steps(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Do two iterations of every learner: the tensors of the prior after each, and the losses."""
    results = _shared(ranks)
    for name in NAMES:
        for tasks in TASKS:
            results |= {
                f"{name}, k = {tasks}: {key}": value for key, value in _run(name, tasks, ranks).items()
            }
    return results


def _shared(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Make tensors that differ by rank, of several types and orders in memory, and share the first one's."""
    own = {
        "shared numbers": torch.arange(6.0).reshape(2, 3).T + ranks.rank,
        "shared count": torch.tensor(7 + ranks.rank),
        "shared weight": torch.full((2,), float(ranks.rank), dtype=torch.float64).requires_grad_(),
    }
    ranks.share(own)
    return {name: value.detach().clone().contiguous() for name, value in own.items()}


def _run(name: str, tasks: int, ranks: Ranks) -> dict[str, torch.Tensor]:
    config = MetaConfig.load(
        name, [f"tasks.tasks={tasks}", "tasks.support=[8]", "tasks.pool=0", "network.head.hidden=[4]"]
    )
    rng = np.random.default_rng(0)
    table = RatingTable(
        folder=Path(),
        users=tuple(f"user {user}" for user in range(USERS)),
        groups=("all",) * USERS,
        images=tuple(f"{image:02}.jpg" for image in range(IMAGES)),
        user_index=np.repeat(np.arange(USERS), EACH),
        image_index=np.concatenate([np.sort(rng.permutation(IMAGES)[:EACH]) for _ in range(USERS)]),
        ratings=rng.integers(1, 6, USERS * EACH).astype(np.float64),
    ).keep(np.ones(USERS * EACH, dtype=np.bool_))
    source = EmbeddingSource(torch.from_numpy(rng.normal(size=(IMAGES, DIM))))
    network = make_network(config.network, embedding_dim=DIM, seed=1).double()
    learner = config.make_learner(network)
    if ranks.count > 1:
        learner.average = AverageOverRanks()
    sampler = TaskSampler(table, RatingScale(1, 5), source, config.tasks, dtype=torch.float64)
    prior = learner.first_prior(params_of(network))
    results: dict[str, torch.Tensor] = {}
    for iteration in range(2):
        step = learner.meta_step(prior, learner.tasks(sampler, iteration, ranks.places(tasks)), iteration)
        prior = step.prior
        results |= {f"{iteration} {key}": value.detach().clone() for key, value in prior.items()}
        results[f"{iteration} support loss"] = torch.tensor(step.support_loss, dtype=torch.float64)
        results[f"{iteration} query loss"] = torch.tensor(step.query_loss, dtype=torch.float64)
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined_ranks(torch.device("cpu")) as own:
        safetensors.torch.save_file(outer_steps(own), Path(sys.argv[1]) / f"{own.rank}-of-{own.count}")
