"""What scoring by embedded previews gains and costs, against reading the photos themselves.

Run it from the checkout: ``python -m benchmarks.previews --folder PHOTOS`` with JPEGs or HEICs of your
camera; only those with a preview that is taken count. Without a folder, photographs are enlarged as for the
other benchmarks, and get a preview as cameras make one: the photo itself, reduced and compressed once more,
as the large thumbnail of a Multi-Picture index, or, with ``--heic``, as the thumbnail of a HEIC. No camera's
own rendering of its preview is in those figures.

Photos per second are those of a whole run without a cache, the two ways in turn. Score shifts are in standard
deviations of the scores of these very photos, read in full.
"""

from __future__ import annotations

import argparse
import io
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.pictures import SUFFIXES, enlarge, load_photographs
from benchmarks.report import describe_machine, print_table, seconds, spread
from piaa_sdk import Scorer
from piaa_sdk.images import decode, find_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.bundle import Preprocessing

FULL_HD = 0x010002
WAYS = (False, True)
"""Without and with previews."""


def main() -> None:
    """Measure and print the tables."""
    options = _parse_options()
    scorers = [_open_scorer(options.model, options.user, previews=previews) for previews in WAYS]
    preprocessing = scorers[0].bundle.preprocessing
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as workspace:
        found, description = _pictures(options, Path(workspace))
        paths = [path for path in found if has_preview(path, preprocessing)]
        print(f"{describe_machine()}\n{description}")
        print(f"{len(paths)} of {len(found)} have a preview that is taken; {options.rounds} rounds\n")
        if len(paths) < 2:
            raise SystemExit("at least two such photos are needed")
        milliseconds = decode_times(paths[: options.decoded], preprocessing)
        rates, scores = run_times(scorers, paths, options.rounds)
    _print_results(milliseconds, rates, scores, scorers[0].user)


def has_preview(path: Path, preprocessing: Preprocessing) -> bool:
    """Whether a photo comes out otherwise when its preview may be read."""
    data = path.read_bytes()
    ways = [decode(data, preprocessing, path.name, previews=way) for way in WAYS]
    return bool((ways[0] != ways[1]).any())


def decode_times(paths: Sequence[Path], preprocessing: Preprocessing) -> list[list[float]]:
    """Decode every photo both ways in one thread, in turn; return milliseconds per photo for each way."""
    times: list[list[float]] = [[], []]
    for number, path in enumerate(paths):
        data = path.read_bytes()
        for turn in WAYS:
            way = turn != bool(number % 2)  # nobody always comes first

            def decode_once(way: bool = way, data: bytes = data) -> None:
                decode(data, preprocessing, "photo", previews=way)

            times[way].append(seconds(decode_once) * 1000)
    return times


def run_times(
    scorers: Sequence[Scorer], paths: Sequence[Path], rounds: int
) -> tuple[list[list[float]], list[dict[str, FloatArray]]]:
    """Score all photos both ways, in turn.

    Args:
        scorers: Without and with previews, both without a cache.
        paths: The photos.
        rounds: How often.

    Returns:
        Photos per second, one number per round for each way; and for each way the scores, (N,) in rating
        units, by ``generic`` and ``personal``.
    """
    rates: list[list[float]] = [[], []]
    scores: list[dict[str, FloatArray]] = [{}, {}]
    for number in range(rounds):
        for turn in WAYS:
            way = turn != bool(number % 2)

            def score_once(way: bool = way) -> None:
                results = list(scorers[way].iter_scores(paths))
                for name in ("generic", "personal"):
                    values = [getattr(score, name) for score in results]
                    if None not in values:
                        scores[way][name] = np.array(values)

            rates[way].append(len(paths) / seconds(score_once))
    return rates, scores


def with_preview(photo: bytes, long_side: int, quality: int) -> bytes:
    """Put a preview into a JPEG as cameras do.

    Args:
        photo: A JPEG without Multi-Picture index and Exif.
        long_side: Of the preview, pixels.
        quality: Of its compression, as Pillow counts.
    """
    with Image.open(io.BytesIO(photo)) as image:
        size = tuple(round(side * long_side / max(image.size)) for side in image.size)
        stream = io.BytesIO()
        image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BOX).save(
            stream, "JPEG", quality=quality
        )
    preview = stream.getvalue()
    length = 8 + 2 + 12 + 4 + 2 * 16  # header, number of tags, one tag, end of the directory, two entries
    head = 2 + 2 + 2 + 4  # start of the photo; marker, length and name of the segment
    whole = len(photo) + head - 2 + length
    entries = struct.pack("<LLLHH", 0x030000, whole, 0, 0, 0)
    entries += struct.pack("<LLLHH", FULL_HD, len(preview), whole - head, 0, 0)
    index = struct.pack("<2sHLHHHLL", b"II", 42, 8, 1, 0xB002, 7, len(entries), 26) + bytes(4) + entries
    return photo[:2] + b"\xff\xe2" + struct.pack(">H", 6 + length) + b"MPF\0" + index + photo[2:] + preview


def heic_with_preview(photo: bytes, long_side: int) -> bytes:
    """Turn a JPEG into a HEIC with a thumbnail, both at the encoder's default quality.

    Args:
        photo: A JPEG.
        long_side: Of the preview, pixels.
    """
    import pillow_heif

    stream = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as image:
        pillow_heif.from_pillow(image).save(stream, thumbnails=[long_side])
    return stream.getvalue()


def _pictures(options: argparse.Namespace, workspace: Path) -> tuple[list[Path], str]:
    if options.folder is not None:
        found = [path for path in find_images([options.folder]) if isinstance(path, Path)]
        return found[: options.photos], f"photos of {options.folder}"
    if options.source is None:
        photographs, origin = load_photographs(), "photographs of scikit-image and scikit-learn"
    else:
        named = sorted(path for path in options.source.rglob("*") if path.suffix.lower() in SUFFIXES)
        photographs = [Image.open(path).convert("RGB") for path in named[: options.photos]]
        origin = f"photographs of {options.source}"
    megabytes = []
    paths = []
    for number in range(options.photos):
        base = photographs[number % len(photographs)]
        photo = enlarge(base, (4000, 3000), np.random.default_rng([0, number]))
        if options.heic:
            data = heic_with_preview(photo, options.long_side)
        else:
            data = with_preview(photo, options.long_side, options.quality)
        paths.append(workspace / f"picture-{number:04}.{'heic' if options.heic else 'jpg'}")
        paths[-1].write_bytes(data)
        megabytes.append(len(data) / 1e6)
    kind = "HEIC" if options.heic else f"JPEG (quality {options.quality})"
    return paths, (
        f"{origin}, 4000 x 3000 with sensor noise: {options.photos}; median "
        f"{np.median(megabytes):.1f} MB, with a {kind} preview of {options.long_side} pixels"
    )


def _print_results(
    milliseconds: Sequence[Sequence[float]],
    rates: Sequence[Sequence[float]],
    scores: Sequence[dict[str, FloatArray]],
    user: str | None,
) -> None:
    names = ("the photo", "its preview")
    medians = [float(np.median(way)) for way in milliseconds]
    print_table(
        ("what is read", "decoding, ms per photo", "photos per second", "times as fast"),
        [
            [name, f"{middle:.1f}", spread(way), f"{np.median(way) / np.median(rates[0]):.1f}"]
            for name, middle, way in zip(names, medians, rates, strict=True)
        ],
    )
    print()
    rows = []
    for name, before in scores[0].items():
        shifts = np.abs(scores[1][name] - before) / np.std(before, ddof=1)
        whose = "generic" if name == "generic" else f"of {user}"
        most = np.quantile(shifts, 0.95)
        rows.append([whose, f"{shifts.mean():.3f}", f"{most:.3f}", f"{shifts.max():.3f}"])
    print_table(("score", "shift: mean", "95 % below", "largest"), rows)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.previews", description=__doc__)
    parser.add_argument("--folder", type=Path, help="photos of your camera instead of made ones")
    parser.add_argument("--source", type=Path, help="photographs to enlarge instead of the packages' own")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decoded", type=int, default=40, help="photos for the decoding times")
    parser.add_argument("--long-side", type=int, default=1620, help="of made previews, pixels")
    parser.add_argument("--quality", type=int, default=83, help="of made previews")
    parser.add_argument("--heic", action="store_true", help="make HEICs, half a minute each (extra photos)")
    parser.add_argument("--model", type=Path, help="folder of a bundle (default: the embedded one)")
    parser.add_argument("--user", help="also measure the scores of this stored person")
    return parser.parse_args()


def _open_scorer(model: Path | None, user: str | None, *, previews: bool) -> Scorer:
    return Scorer.from_pretrained(model, user=user, cache=False, device="cpu", previews=previews)


if __name__ == "__main__":
    main()
