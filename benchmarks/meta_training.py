"""One iteration of Algorithm 1 on the whole network, against the plain way; and a thousand on embeddings.

Run it from the checkout: ``python -m benchmarks.meta_training``. The plain way is a script as one would write
it with torch alone: for each task a copy of the network and a new ``torch.optim.Adam``, pictures opened and
decoded whenever a set is needed, single precision, one task after the other; batch normalization is frozen on
both sides. The project's way takes pictures
from a packed store and keeps the parameters of tasks outside the network; it is measured as it is, with the
colours last in memory, and in bfloat16. Pictures and ratings are drawn: what is learned does not matter here,
only how long it takes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.pictures import make_pictures
from benchmarks.report import describe_machine, print_table, seconds, spread
from piaa_sdk import RatingScale
from piaa_sdk.finetune.network import AestheticNetwork, params_of
from training.data.ratings import RatingTable
from training.experiment import Hardware
from training.meta_config import MetaConfig
from training.network import make_network
from training.sources import EmbeddingSource, pack_images, packed_size
from training.tasks import TaskSampler

if TYPE_CHECKING:
    from collections.abc import Callable

SCALE = RatingScale(1, 5)
HEAD_ITERATIONS = 50
HEAD_DIMENSIONS = 1280


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meta_training", description=__doc__)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=160, help="edge of the pictures, pixels")
    parser.add_argument("--tasks", type=int, default=2, help="k; the paper has 4")
    parser.add_argument("--support", type=int, default=16, help="m_s; the paper has 80")
    parser.add_argument("--query", type=int, default=4, help="m_q; the paper has 20")
    parser.add_argument("--steps", type=int, default=2, help="S; the paper has 5")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = MetaConfig.load(
        "blg_as_paper",
        [
            f"network.backbone={options.backbone}",
            f"network.size={options.size}",
            f"tasks.tasks={options.tasks}",
            f"tasks.support=[{options.support}]",
            f"tasks.query={options.query}",
            f"tasks.pool={options.support + options.query}",
            f"blg.steps={options.steps}",
        ],
    )
    print(f"{describe_machine()}, {options.threads} threads, {options.device}\n")
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as workspace:
        times = measure_full(config, Path(workspace), options.rounds, options.device)
    plain = statistics.median(times["plain"])
    rows = [
        [name, spread(values, 2), f"{plain / statistics.median(values):.2f}"]
        for name, values in times.items()
    ]
    print_table(["one iteration, whole network", "s: median (lowest to highest)", "times as fast"], rows)
    head = measure_head(options.rounds)
    rows = [["BLG-PIAA, 1000 iterations", spread([value * 1000 / 60 for value in head], 2)]]
    print()
    print_table([f"head on embeddings ({HEAD_DIMENSIONS} numbers, all as in the paper)", "minutes"], rows)


def measure_full(config: MetaConfig, workspace: Path, rounds: int, device: str) -> dict[str, list[float]]:
    """Time one iteration each way, once per round."""
    size = packed_size(config.network.size) * 3
    table = make_table(make_pictures(workspace, 60, size=(size, size * 3 // 4)), users=config.tasks.tasks)
    source = pack_images(table, config.network.size, workspace / "packed")
    sampler = TaskSampler(table, SCALE, source, config.tasks, device=torch.device(device))
    plain = make_network(config.network, untrained=True).to(device)
    ways = {
        "plain": lambda: plain_iteration(plain, table, config, device),
        "this project": own(config, sampler, Hardware(device)),
        "this project, colours last": own(config, sampler, Hardware(device, channels_last=True)),
        "this project, colours last, bfloat16": own(config, sampler, Hardware(device, True, True)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            took = seconds(way)
            if turn:  # the first warms up
                times[name].append(took)
    return times


def own(config: MetaConfig, sampler: TaskSampler, hardware: Hardware) -> Callable[[], None]:
    """Return what does one iteration the way of this project."""
    network = hardware.place(make_network(config.network, untrained=True))
    learner = config.make_learner(network)
    prior = learner.first_prior(params_of(network))

    def iterate() -> None:
        learner.meta_step(prior, learner.tasks(sampler, 0), 0)
        if hardware.device == "cuda":
            torch.cuda.synchronize()

    return iterate


def plain_iteration(network: AestheticNetwork, table: RatingTable, config: MetaConfig, device: str) -> None:
    """Do one iteration of Algorithm 1 with copies of the network and torch's Adam."""
    people = list(table.by_user())
    steps = config.to_dict()["blg"]["steps"]
    results = []
    for place in range(config.tasks.tasks):
        _, images, ratings = people[place]
        adapted = copy.deepcopy(network).train()
        for module in adapted.modules():
            if isinstance(module, _BatchNorm):
                module.eval()  # frozen, as the configuration has it
        border = config.tasks.support[-1]
        for part in (slice(None, border), slice(border, border + config.tasks.query)):
            groups = [
                {"params": adapted.backbone.parameters(), "lr": 1e-4},  # type: ignore[union-attr]
                {"params": adapted.head.parameters(), "lr": 1e-3},
            ]
            optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), weight_decay=1e-5)
            inputs = decode([table.paths()[image] for image in images[part]], config.network.size).to(device)
            targets = torch.tensor(SCALE.to_unit(ratings[part]), dtype=torch.float32, device=device)
            for _ in range(steps):
                optimizer.zero_grad()
                (adapted(inputs) - targets).square().mean().backward()
                optimizer.step()
        results.append(adapted)
    with torch.no_grad():
        for own, *theirs in zip(
            network.parameters(), *(result.parameters() for result in results), strict=True
        ):
            own -= 0.01 * (own - torch.stack(theirs).mean(0))
    if device == "cuda":
        torch.cuda.synchronize()


def decode(paths: list[Path], size: int) -> torch.Tensor:
    """Open pictures, squash, mirror and crop them: (K, size, size, 3) uint8."""
    random = np.random.default_rng(0)
    large = packed_size(size)
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((large, large), Image.Resampling.BICUBIC))
        top, left = random.integers(0, large - size + 1, 2)
        crop = pixels[top : top + size, left : left + size]
        pictures.append(crop[:, ::-1] if random.random() < 0.5 else crop)
    return torch.from_numpy(np.stack(pictures))


def measure_head(rounds: int) -> list[float]:
    """Time an iteration of BLG-PIAA on embeddings, with all settings as the paper has them."""
    config = MetaConfig.load("blg_as_paper")
    random = np.random.default_rng(0)
    table = make_table([Path(f"{image}.jpg") for image in range(300)], users=20, ratings=120)
    vectors = random.standard_normal((300, HEAD_DIMENSIONS)).astype(np.float32)
    source = EmbeddingSource(torch.from_numpy(vectors))
    network = make_network(config.network, embedding_dim=HEAD_DIMENSIONS)
    learner = config.make_learner(network)
    sampler = TaskSampler(table, SCALE, source, config.tasks)
    prior = params_of(network)
    times = []
    for _ in range(rounds):

        def iterate() -> None:
            for iteration in range(HEAD_ITERATIONS):
                learner.meta_step(prior, learner.tasks(sampler, iteration), iteration)

        times.append(seconds(iterate) / HEAD_ITERATIONS)
    return times


def make_table(paths: list[Path], *, users: int, ratings: int | None = None) -> RatingTable:
    """Make users who rate pictures at random; all of them, or so many."""
    random = np.random.default_rng(0)
    count = ratings or len(paths)
    images = np.concatenate([np.sort(random.permutation(len(paths))[:count]) for _ in range(users)])
    user_index = np.repeat(np.arange(users), count)
    return RatingTable(
        folder=paths[0].parent,
        users=tuple(f"user {user:03}" for user in range(users)),
        groups=("all",) * users,
        images=tuple(path.name for path in paths),
        user_index=user_index,
        image_index=images,
        ratings=random.integers(1, 6, len(images)).astype(float),
    )


if __name__ == "__main__":
    main()
