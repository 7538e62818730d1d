"""Cold scoring of camera-sized JPEGs: the SDK against a script of Pillow and torch, round by round.

Run it from the checkout: ``python -m benchmarks.scoring``. The SDK's time holds loading and checking the
bundle and opening its session anew each round; the scripts' networks are made beforehand. The embedding cache
is off. The operating system has read the files before, for all methods alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import models
from torchvision.transforms import functional

from benchmarks.pictures import find_or_make
from benchmarks.report import describe_machine, print_table, seconds, spread
from piaa_sdk import Scorer
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.devices import cpu_count
from piaa_sdk.hub import resolve_folder
from piaa_sdk.images import load_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 224
BATCH = 8
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SDK, BASELINE = "piaa-sdk", "script: ResNet18, one by one"
DECODING, NETWORK = "bound: the SDK's decoding alone", "bound: the SDK's network alone"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.add_argument("--folder", type=Path, help="score your own JPEGs instead of made ones")
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="workers of the SDK (default: as many as cores)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as workspace:
        pictures = find_or_make(options.folder, options.photos, Path(workspace))
        print(f"{describe_machine()}\n{pictures.description}; {options.rounds} rounds, methods interleaved\n")
        measured = measure(methods(pictures.paths, options.model, options.workers), options.rounds)
    print_results(measured, options.photos)


def methods(
    paths: Sequence[Path], model: Path | None, workers: int | None
) -> dict[str, Callable[[], object]]:
    """Name the ways to get through all pictures once."""
    resnet = models.resnet18(weights=None).eval()  # random weights take as long as learned ones
    efficientnet = _efficientnet_lite0()
    pool = cpu_count()
    bundle = ModelBundle.load(resolve_folder(model))
    backbone = Backbone(bundle, device="cpu")
    pixels = np.stack([load_image(path, bundle.preprocessing) for path in paths[:BATCH]])
    batches = [pixels] * -(-len(paths) // BATCH)
    return {
        SDK: lambda: score_with_sdk(paths, model, workers),
        BASELINE: lambda: score_one_by_one(paths, resnet),
        "script: EfficientNet-Lite0, one by one": lambda: score_one_by_one(paths, efficientnet),
        f"careful script: ResNet18, {pool} threads, batches of {BATCH}": lambda: score_in_threads(
            paths, resnet
        ),
        DECODING: lambda: _spread_over(pool, lambda path: load_image(path, bundle.preprocessing), paths),
        NETWORK: lambda: _spread_over(pool, backbone.embed, batches),
    }


def score_with_sdk(paths: Sequence[Path], model: Path | None, workers: int | None) -> None:
    """Score all pictures from nothing, and make sure that all were."""
    scorer = Scorer.from_pretrained(model, cache=False, device="cpu", workers=workers)
    scores = scorer.score(list(paths))
    if any(score.error for score in scores) or len(scores) != len(paths):
        raise SystemExit("some pictures could not be scored; the figures would mean nothing")


@torch.inference_mode()
def score_one_by_one(paths: Sequence[Path], network: torch.nn.Module) -> None:
    """Do what a short script does: open, decode in full, resize, run the network on one picture at a time."""
    for path in paths:
        network(_read_in_full(path)[None])


def score_in_threads(paths: Sequence[Path], network: torch.nn.Module) -> None:
    """Do what a careful script does: threads that each decode in full and run a batch on one core."""
    chunks = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    _spread_over(cpu_count(), lambda chunk: _run_batch(chunk, network), chunks)


@torch.inference_mode()
def _run_batch(paths: Sequence[Path], network: torch.nn.Module) -> None:
    torch.set_num_threads(1)  # holds for the calling thread alone
    network(torch.stack([_read_in_full(path) for path in paths]))


def _read_in_full(path: Path) -> torch.Tensor:
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    scaled: torch.Tensor = functional.normalize(functional.to_tensor(small), IMAGENET_MEAN, IMAGENET_STD)
    return scaled


def _efficientnet_lite0() -> torch.nn.Module:
    from training.backbone_weights import pretrained_statistics_network

    return pretrained_statistics_network().backbone


def _spread_over(threads: int, work: Callable[..., object], items: Sequence[object]) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


def measure(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every action once per round, each round beginning with another, after one that does not count."""
    names = list(actions)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        actions[name]()
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            times[name].append(seconds(actions[name]))
    return times


def print_results(times: dict[str, list[float]], photos: int) -> None:
    """Print photos per second and, within each round, how many times as fast as the script."""
    rows = []
    for name, values in times.items():
        ratios = [script / value for script, value in zip(times[BASELINE], values, strict=True)]
        rows.append([name, spread([photos / value for value in values]), spread(ratios)])
    print_table(["method", "photos/s: median (lowest to highest)", "times the script"], rows)
    bound = statistics.median(times[DECODING]) + statistics.median(times[NETWORK])
    reached = bound / statistics.median(times[SDK])
    print(f"\nboth bounds together: {photos / bound:.1f} photos/s; the SDK reaches {reached:.0%} of that")


if __name__ == "__main__":
    main()
