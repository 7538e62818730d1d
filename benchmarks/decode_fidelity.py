"""What reduced decoding of JPEGs gains and costs, against decoding in full with the same antialiased resize.

Run it from the checkout: ``python -m benchmarks.decode_fidelity``. Decoding in full is the same code with a
limit that no photo reaches, so that the reduction is the only difference. Times are of one thread, methods
interleaved. Score shifts are in standard deviations of the scores of these very pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pictures import find_or_make
from benchmarks.report import describe_machine, print_table, seconds, spread
from piaa_sdk.bundle import DECODING_RULE, Preprocessing
from piaa_sdk.images import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from piaa_sdk import Scorer
    from piaa_sdk.array_types import FloatArray, PixelArray

FULL = 64
"""A draft factor that no photo is large enough for."""

MEAN_SHIFT, MOST_SHIFT = 0.02, 0.06
"""Promised for the bundle's own draft factor: mean of the shifts, and 95 % of them, standard deviations."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """One way to decode all pictures.

    Attributes:
        factor: The draft factor.
        pixels: (N, size, size, 3) uint8.
        milliseconds: Per photo, median over the pictures, one number per round.
    """

    factor: int
    pixels: PixelArray
    milliseconds: list[float]


def main() -> None:
    """Measure and print the table."""
    options = _parse_options()
    scorer = None if options.pixels_only else _open_scorer(options.model)
    preprocessing = scorer.bundle.preprocessing if scorer else _plain_preprocessing(options.resample)
    own = preprocessing.draft_factor
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as workspace:
        pictures = find_or_make(options.folder, options.photos, Path(workspace))
        print(f"{describe_machine()}\n{pictures.description}; {options.rounds} rounds, methods interleaved")
        size = preprocessing.size
        print(f"{size} x {size} pixels, {preprocessing.resample} with antialiasing\n")
        factors = [FULL, *sorted({1, own, 2 * own}, reverse=True)]
        decodings = measure(pictures.paths, preprocessing, factors, options.rounds)
    _print_results(decodings, scorer, own)


def measure(
    paths: Sequence[Path], preprocessing: Preprocessing, factors: Sequence[int], rounds: int
) -> list[Decoding]:
    """Decode every picture in every way, taking turns picture by picture.

    Args:
        paths: JPEG files.
        preprocessing: Size and filter.
        factors: Draft factors to compare.
        rounds: How often to measure.

    Returns:
        One result per factor, in their order.
    """
    ways = [replace(preprocessing, draft_factor=factor) for factor in factors]
    pixels = np.zeros((len(ways), len(paths), preprocessing.size, preprocessing.size, 3), dtype=np.uint8)
    times = np.zeros((len(ways), rounds, len(paths)))
    for number in range(rounds):
        for index, path in enumerate(paths):
            data = path.read_bytes()
            for turn in range(len(ways)):
                way = (turn + number + index) % len(ways)  # nobody always comes first

                def decode_once(way: int = way, index: int = index, data: bytes = data) -> None:
                    pixels[way, index] = decode(data, ways[way], str(index))

                times[way, number, index] = seconds(decode_once) * 1000
    medians = np.median(times, axis=2).tolist()
    return [Decoding(factor, pixels[way], medians[way]) for way, factor in enumerate(factors)]


def score_shifts(scorer: Scorer, full: PixelArray, reduced: PixelArray) -> FloatArray:
    """Measure how far scores move.

    Args:
        scorer: Opened without a cache.
        full: Pixels of pictures decoded in full, (N, size, size, 3) uint8.
        reduced: Pixels of the same pictures decoded reduced.

    Returns:
        Absolute differences, (N,), standard deviations of the scores of the pictures decoded in full.
    """
    before = scorer.score_embeddings(scorer.embed(list(full)))
    after = scorer.score_embeddings(scorer.embed(list(reduced)))
    shifts: FloatArray = np.abs(after - before) / np.std(before, ddof=1)
    return shifts


def _print_results(decodings: Sequence[Decoding], scorer: Scorer | None, own: int) -> None:
    full = decodings[0]
    rows = [["full", spread(full.milliseconds), "1.0", "0", "0", "0"]]
    verdict = ""
    for decoding in decodings[1:]:
        difference = np.abs(decoding.pixels.astype(np.int16) - full.pixels.astype(np.int16)).mean()
        faster = np.median(full.milliseconds) / np.median(decoding.milliseconds)
        mean, most = "-", "-"
        if scorer is not None:
            shifts = score_shifts(scorer, full.pixels, decoding.pixels)
            mean, most = f"{shifts.mean():.3f}", f"{np.quantile(shifts, 0.95):.3f}"
            if decoding.factor == own:
                is_kept = shifts.mean() <= MEAN_SHIFT and np.quantile(shifts, 0.95) <= MOST_SHIFT
                verdict = "kept" if is_kept else "NOT kept"
        name = f"at least {decoding.factor} x the size{' (ours)' if decoding.factor == own else ''}"
        rows.append([name, spread(decoding.milliseconds), f"{faster:.1f}", f"{difference:.2f}", mean, most])
    header = (
        "decoding",
        "ms per photo",
        "times as fast",
        "pixel difference",
        "score shift: mean",
        "95 % below",
    )
    print_table(header, rows)
    if verdict:
        print(f"\nPromise for ours, {MEAN_SHIFT} on average and {MOST_SHIFT} for 95 %: {verdict}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_fidelity", description=__doc__)
    parser.add_argument("--folder", type=Path, help="decode your own JPEGs instead of made ones")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="folder of a bundle (default: the embedded one)")
    parser.add_argument("--pixels-only", action="store_true", help="leave the scores out, need no bundle")
    parser.add_argument("--resample", default="bicubic", help="filter where there is no bundle to name one")
    return parser.parse_args()


def _open_scorer(model: Path | None) -> Scorer:
    from piaa_sdk import Scorer

    return Scorer.from_pretrained(model, cache=False, device="cpu")


def _plain_preprocessing(resample: str) -> Preprocessing:
    return Preprocessing(
        size=224,
        fit="squash",
        resample=resample,
        draft_factor=2,
        background=(255, 255, 255),
        decoding_rule=DECODING_RULE,
    )


if __name__ == "__main__":
    main()
