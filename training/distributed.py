"""Meta-training in several processes (``torchrun``): the tasks of a meta-batch are spread over the ranks.

Every rank holds the same prior, learns its share of the tasks, and the mean of eq. 8 goes over all of them by
one all-reduce. Draws and dropout follow from iteration and task alone, so the result is that of one process.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed

from piaa_sdk.errors import ModelFormatError
from training.learners.base import Average, total
from training.tasks import LEAST_RATINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from piaa_sdk.finetune.network import Params
    from training.meta_config import MetaConfig


_PATIENCE = datetime.timedelta(hours=6)
"""How long processes wait for one that reads many pictures, or asks validation users."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: From 0.
        count: Of all processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def share(self, *groups: Params) -> None:
        """Give all processes the first one's tensors, in place; each own ones may differ in the last bits."""
        if self.count == 1:
            return
        for tensor in (group[name] for group in groups for name in sorted(group)):
            sent = tensor.detach().contiguous()
            torch.distributed.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    def places(self, tasks: int) -> range:
        """Return which tasks of a meta-batch are this process's."""
        return range(self.rank, tasks, self.count)


class AverageOverRanks(Average):
    """Means over the tasks of all processes; every process must have at least one."""

    def mean(self, parts: Sequence[Params]) -> Params:
        """Return the mean over all tasks; all processes get the same."""
        sums = total(parts)
        device = next(iter(sums.values())).device
        count = torch.tensor(float(len(parts)), dtype=torch.float64, device=device)
        torch.distributed.all_reduce(count)
        by_type: dict[torch.dtype, list[str]] = {}
        for name, value in sums.items():
            by_type.setdefault(value.dtype, []).append(name)
        means: Params = {}
        for names in by_type.values():
            joined = torch.cat([sums[name].flatten() for name in names])
            torch.distributed.all_reduce(joined)
            joined = joined / count.to(joined.dtype)
            pieces = torch.split(joined, [sums[name].numel() for name in names])
            means |= {name: piece.view_as(sums[name]) for name, piece in zip(names, pieces, strict=True)}
        return {name: means[name] for name in sums}

    def mean_number(self, values: Sequence[float]) -> float:
        """Return the mean of one number per task over all processes."""
        device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
        pair = torch.tensor([sum(values), float(len(values))], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(pair)
        return float(pair[0] / pair[1])


@contextlib.contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started; a process started otherwise is alone."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def check_ranks(config: MetaConfig, ranks: Ranks, users: int) -> None:
    """Refuse what several processes cannot share.

    Args:
        config: All settings.
        ranks: How many processes there are.
        users: People with enough ratings to learn from; a meta-batch has at most one task of each.

    Raises:
        ModelFormatError: There are more processes than tasks, or one task builds on the one before.
    """
    if ranks.count == 1:
        return
    tasks = min(config.tasks.tasks, users)
    if ranks.count > tasks:
        raise ModelFormatError(
            f"{ranks.count} processes cannot share {tasks} tasks per meta-batch (tasks.tasks is "
            f"{config.tasks.tasks}, of {users} people with {LEAST_RATINGS} ratings or more); start at most "
            "as many, or raise tasks.tasks"
        )
    settings = config.to_dict()[config.learner]
    carried = [name for name in ("moments", "statistics") if settings.get(name) == "carried"]
    if carried or settings.get("outer_rule") == "sequential" or config.tasks.users == "shuffled":
        raise ModelFormatError(
            f"{config.title} goes from task to task or ends a round with fewer tasks; run it in one process"
        )
