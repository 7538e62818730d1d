"""Learning one person from embeddings that are in the cache already.

Run it from the checkout: ``python -m benchmarks.personalize``. The embeddings are those of parts of the
photographs that scikit-image and scikit-learn carry; the ratings are drawn: the generic score, a taste of its
own and noise.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.pictures import make_pictures
from benchmarks.report import describe_machine, print_table, seconds, spread
from piaa_sdk import RatingScale, Scorer, SupportSet
from piaa_sdk.adaptation import adapt, judge
from piaa_sdk.head import Prior

MILLISECONDS = 1000


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.personalize", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of another model than the one in the package")
    parser.add_argument("--shots", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piaa-benchmark-") as workspace:
        times = measure(Path(workspace), options.model, options.shots, options.rounds)
    print(f"{describe_machine()}\n{options.shots} rated photos; {options.rounds} rounds\n")
    rows = [[name, spread([value * MILLISECONDS for value in values])] for name, values in times.items()]
    print_table(["step", "ms: median (lowest to highest)"], rows)


def measure(workspace: Path, model: Path | None, shots: int, rounds: int) -> dict[str, list[float]]:
    """Time each step once per round."""
    paths = make_pictures(workspace, shots, size=(480, 360))
    scorer = Scorer.from_pretrained(model, cache=workspace / "embeddings.sqlite", device="cpu")
    embeddings = scorer.embed(paths)
    ratings = draw_ratings(scorer, embeddings)
    scale = RatingScale(1, 5)
    support = SupportSet(embeddings, scale.to_unit(ratings), tuple(map(str, paths)))
    prior = Prior.load(scorer.bundle.prior_path)
    rated = {str(path): float(rating) for path, rating in zip(paths, ratings, strict=True)}
    steps = {
        "adapt: the personal head from the embeddings": lambda: adapt(prior, support),
        "judge: the report on left-out pairs": lambda: judge(prior, support),
        "scorer.personalize: look the photos up in the cache and adapt": lambda: scorer.personalize(
            rated, scale=(scale.low, scale.high)
        ),
    }
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def draw_ratings(scorer: Scorer, embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw a person's ratings of N pictures: generic score, own taste and noise; (N,), 1 to 5."""
    random = np.random.default_rng(seed)
    generic = _standardize(np.asarray(scorer.score_embeddings(embeddings)))
    taste = _standardize(embeddings @ random.standard_normal(embeddings.shape[1]))
    mixed = 0.5 * generic + 0.3 * taste + 0.4 * random.standard_normal(len(embeddings))
    return np.clip(np.rint(3 + 1.2 * _standardize(mixed)), 1, 5)


def _standardize(values: np.ndarray) -> np.ndarray:
    standardized: np.ndarray = (values - values.mean()) / (values.std() or 1)
    return standardized


if __name__ == "__main__":
    main()
