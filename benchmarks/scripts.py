"""What people write who have no SDK: Pillow decodes in full, torch runs a network eagerly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageOps
from torchvision import models
from torchvision.transforms import functional

from training.backbone_weights import pretrained_statistics_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

SIZE = 224
BATCH = 8
WORKERS = 2
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

NAIVE = "(a) script: ResNet18, one by one"
FAIR = f"(b) careful script: ResNet18, {WORKERS} workers, batches of {BATCH}"
OWN_NETWORK = "script: EfficientNet-Lite0, one by one"


def scripts() -> dict[str, Callable[[Sequence[Path]], None]]:
    """Name what gets through all pictures once; the networks are made beforehand."""
    resnet = models.resnet18(weights=None).eval()  # random weights take as long as learned ones
    efficientnet = pretrained_statistics_network().backbone
    return {
        NAIVE: lambda paths: score_one_by_one(paths, resnet),
        FAIR: lambda paths: score_in_workers(paths, resnet),
        OWN_NETWORK: lambda paths: score_one_by_one(paths, efficientnet),
    }


@torch.inference_mode()
def score_one_by_one(paths: Sequence[Path], network: torch.nn.Module) -> None:
    """Do what a short script does: open, decode in full, resize, run the network on one picture at a time."""
    for path in paths:
        network(_read_in_full(path)[None])


def score_in_workers(paths: Sequence[Path], network: torch.nn.Module) -> None:
    """Do what a careful script does: workers that each decode in full and run a batch on one core."""
    chunks = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    spread_over(WORKERS, lambda chunk: _run_batch(chunk, network), chunks)


def spread_over(threads: int, work: Callable[..., object], items: Iterable[object]) -> None:
    """Work on all items in some threads."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


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
