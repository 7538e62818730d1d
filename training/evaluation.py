"""How well a bundle learns people it has never met: the protocol behind every figure that is quoted.

For each person and repeat, M rated pictures at random are the support set and the rest is the query set. On
the same query set are judged: the generic prior (M = 0), the person's own head, and a control adapted to the
ratings of another person of the same group, on the same pictures where that person rated them. People share
taste, so the control can lie above the prior; own minus control is what is personal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.adaptation import adapt
from piaa_sdk.errors import RatingError
from piaa_sdk.metrics import srocc
from piaa_sdk.results import SupportSet
from training.intervals import Interval, bootstrap_over_users, jackknife_over_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.head import Prior
    from piaa_sdk.rating_scale import RatingScale
    from training.data.ratings import RatingTable

METHODS = ("prior", "personal", "shuffled")
_BLOCKS = 10
_SMALLEST_QUERY = 10
_Z90 = 1.6448536269514722
_COVERAGE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Figure:
    """One mean over users.

    Attributes:
        mean: Over repeats of the mean over users inside a repeat; undefined values are left out.
        std: Over repeats (the paper's +-).
        interval: 95 % bootstrap interval over users, stratified by group; conditional on these pictures.
        picture_error: Standard error of the mean by a jackknife over ten blocks of query pictures.
    """

    mean: float
    std: float
    interval: Interval
    picture_error: float


@dataclass(frozen=True, slots=True)
class ShotsResult:
    """What was found with M support pictures.

    Attributes:
        shots: M.
        users: People judged.
        left_out: People with too few ratings for M and a query set.
        uncontrolled: Tasks without a control: nobody else of the group has rated enough other pictures.
        undefined: Tasks whose query ratings are all equal: no rank correlation, left out of the means.
        constant_support: Tasks whose support ratings are all equal: judged by the prior.
        figures: By the names ``prior``, ``personal``, ``shuffled``, and the differences ``personal-prior``
            and ``personal-shuffled``.
        coverage: Share of left-out ratings inside the 90 % interval, mean over users and repeats.
        coverage_quantiles: 5, 25, 50, 75 and 95 % quantiles over users.
        calibration: Factor on the standard deviations that would put 90 % of all left-out ratings inside.
    """

    shots: int
    users: int
    left_out: int
    uncontrolled: int
    undefined: int
    constant_support: int
    figures: dict[str, Figure]
    coverage: float
    coverage_quantiles: tuple[float, ...]
    calibration: float


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """One task.

    ``correlations``: SROCC by method, (3, 1 + blocks), with all query pictures and without each block.
    ``errors``: (Q,) absolute errors of the personal scores in standard deviations; (0,) if judged by the
    prior.
    """

    correlations: FloatArray
    coverage: float
    errors: FloatArray
    has_control: bool


def evaluate(
    prior: Prior,
    table: RatingTable,
    embeddings: FloatArray,
    scale: RatingScale,
    *,
    shots: Sequence[int],
    repeats: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[ShotsResult]:
    """Run the protocol.

    Args:
        prior: What adaptation starts from.
        table: People and pictures that the prior has not met.
        embeddings: (N, D) of the table's images.
        scale: Units of the ratings.
        shots: Values of M.
        repeats: Random supports per person and M.
        seed: Of the supports, the controls and the blocks of pictures.
        progress: Called with the tasks done and all tasks.

    Raises:
        RatingError: Nobody has enough ratings for some M.
    """
    people = [(images, scale.to_unit(ratings)) for _, images, ratings in table.by_user()]
    longest = max(len(images) for images, _ in people)
    if max(shots) + _SMALLEST_QUERY > longest:
        raise RatingError(
            f"nobody has rated {max(shots)} pictures and {_SMALLEST_QUERY} more to judge by; "
            f"the most are {longest}"
        )
    blocks = np.random.default_rng(seed).permutation(len(table.images)) % _BLOCKS
    results = []
    for place, count in enumerate(shots):
        users = [user for user, (images, _) in enumerate(people) if len(images) >= count + _SMALLEST_QUERY]
        tasks = []
        for repeat in range(repeats):
            row = []
            for user in users:
                rng = np.random.default_rng([seed, count, repeat, user])
                other = _other_user(table.groups, users, user, rng)
                row.append(_judge(prior, embeddings, people, user, other, count, blocks, rng))
                if progress is not None:
                    done = place * repeats * len(users) + repeat * len(users) + len(row)
                    progress(done, len(shots) * repeats * len(users))
            tasks.append(row)
        groups = [table.groups[user] for user in users]
        results.append(_summarize(count, tasks, groups, len(people) - len(users), seed))
    return results


def _other_user(
    groups: Sequence[str], users: Sequence[int], user: int, rng: np.random.Generator
) -> int | None:
    others = [other for other in users if other != user and groups[other] == groups[user]]
    return int(rng.choice(others)) if others else None


def _judge(
    prior: Prior,
    embeddings: FloatArray,
    people: Sequence[tuple[npt.NDArray[np.intp], FloatArray]],
    user: int,
    other: int | None,
    shots: int,
    blocks: npt.NDArray[np.intp],
    rng: np.random.Generator,
) -> _Judged:
    images, ratings = people[user]
    order = rng.permutation(len(images))
    support, query = order[:shots], order[shots:]
    pictures = embeddings[images[query]]
    generic = prior.generic(pictures)
    personal, std = _adapted(prior, embeddings, images[support], ratings[support], pictures)
    control = np.full(len(query), np.nan)
    if other is not None:
        chosen, given = _ratings_of_other(people[other], images[support], images[query], shots, rng)
        if len(chosen) == shots:  # with fewer the control would be weaker than what it controls for
            control = _adapted(prior, embeddings, chosen, given, pictures)[0]
    errors = np.zeros(0) if std is None else np.abs(ratings[query] - personal) / std
    coverage = float(np.mean(errors <= _Z90)) if len(errors) else float("nan")
    masks = [np.ones(len(query), bool), *(blocks[images[query]] != block for block in range(_BLOCKS))]
    correlations = np.array(
        [
            [_correlation(ratings[query][mask], scores[mask]) for mask in masks]
            for scores in (generic, personal, control)
        ]
    )
    return _Judged(correlations, coverage, errors, bool(np.isfinite(control).all()))


def _adapted(
    prior: Prior,
    embeddings: FloatArray,
    images: npt.NDArray[np.intp],
    ratings: FloatArray,
    pictures: FloatArray,
) -> tuple[FloatArray, FloatArray | None]:
    """Score pictures after adaptation; by the prior, without deviations, where the ratings are all equal."""
    if len(images) < 2 or np.ptp(ratings) == 0:
        return prior.generic(pictures), None
    names = tuple(map(str, images))
    head = adapt(prior, SupportSet(embeddings[images], np.asarray(ratings, dtype=np.float64), names))
    mean, std, _ = head.predict(pictures)
    return mean, std


def _ratings_of_other(
    other: tuple[npt.NDArray[np.intp], FloatArray],
    support: npt.NDArray[np.intp],
    query: npt.NDArray[np.intp],
    shots: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Take M ratings of another person: of the same pictures first, never of the query pictures."""
    images, ratings = other
    order = rng.permutation(len(images))
    order = order[~np.isin(images[order], query)]
    order = order[np.argsort(~np.isin(images[order], support), kind="stable")][:shots]
    return images[order], ratings[order]


def _correlation(ratings: FloatArray, scores: FloatArray) -> float:
    if len(ratings) < 2 or not np.isfinite(scores).all():
        return float("nan")
    return srocc(ratings, scores)


def _summarize(
    shots: int, tasks: Sequence[Sequence[_Judged]], groups: Sequence[str], left_out: int, seed: int
) -> ShotsResult:
    # (repeats, users, methods, 1 + blocks)
    values = np.array([[task.correlations for task in row] for row in tasks])
    by_name = {name: values[:, :, index] for index, name in enumerate(METHODS)}
    by_name["personal-prior"] = by_name["personal"] - by_name["prior"]
    by_name["personal-shuffled"] = by_name["personal"] - by_name["shuffled"]
    coverage = np.array([[task.coverage for task in row] for row in tasks])
    known = ~np.isnan(coverage).all(axis=0)
    per_user = np.nanmean(coverage[:, known], axis=0) if known.any() else np.full(1, np.nan)
    errors = np.concatenate([task.errors for row in tasks for task in row])
    return ShotsResult(
        shots=shots,
        users=len(groups),
        left_out=left_out,
        uncontrolled=sum(not task.has_control for row in tasks for task in row),
        undefined=int(np.isnan(by_name["prior"][:, :, 0]).sum()),
        constant_support=sum(not len(task.errors) for row in tasks for task in row),
        figures={name: _figure(part, groups, seed) for name, part in by_name.items()},
        coverage=float(per_user.mean()),
        coverage_quantiles=tuple(float(value) for value in np.quantile(per_user, _COVERAGE_QUANTILES)),
        calibration=float(np.quantile(errors, 0.9) / _Z90) if len(errors) else float("nan"),
    )


def _figure(values: FloatArray, groups: Sequence[str], seed: int) -> Figure:
    """Summarize one method: values (repeats, users, 1 + blocks)."""
    whole = values[:, :, 0]
    is_known = ~np.isnan(whole)
    users = np.flatnonzero(is_known.any(axis=0)).tolist()
    if not users:
        nowhere = float("nan")
        return Figure(nowhere, nowhere, Interval(nowhere, nowhere), nowhere)
    per_repeat = np.nanmean(whole[is_known.any(axis=1)], axis=1)
    per_user = np.nanmean(whole[:, users], axis=0)
    strata = [groups[user] for user in users]
    return Figure(
        mean=float(per_repeat.mean()),
        std=float(per_repeat.std(ddof=1)) if len(per_repeat) > 1 else 0.0,
        interval=bootstrap_over_users(per_user, strata, seed=seed),
        picture_error=jackknife_over_blocks(
            _mean_of_known(values[:, :, block]) for block in range(1, values.shape[2])
        ),
    )


def _mean_of_known(values: FloatArray) -> float:
    is_known = ~np.isnan(values)
    return float(values[is_known].mean()) if is_known.any() else float("nan")


def check_unseen(bundle: ModelBundle, table: RatingTable) -> None:
    """Refuse people or pictures that a bundle was trained on.

    Raises:
        RatingError: Some of them were, how many is said; or the bundle does not say what it was trained on.
    """
    training = bundle.config.get("training")
    seen: Mapping[str, Any] = training if isinstance(training, dict) else {}
    if not (seen.get("people") and seen.get("pictures")):
        raise RatingError(
            f"{bundle.bundle_id} does not say which people and pictures it was trained on; make it again "
            "with this version, or, knowing that the figures may be too good, evaluate with --allow-seen"
        )
    people = set(table.person_digests()) & set(seen.get("people", ()))
    pictures = set(table.picture_digests()) & set(seen.get("pictures", ()))
    if people or pictures:
        raise RatingError(
            f"the bundle was trained on {len(people)} of these {len(table.users)} people and {len(pictures)} "
            f"of these {len(table.images)} pictures; evaluate on others (--groups), or, knowing that the "
            "figures will be too good, with --allow-seen"
        )


def to_json(results: Sequence[ShotsResult]) -> list[dict[str, Any]]:
    """Return results as what json can store; what could not be measured is None."""
    return [_without_nan(asdict(result)) for result in results]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def to_markdown(results: Sequence[ShotsResult]) -> str:
    """Return results as a table."""
    lines = [
        "| M | users | prior | personal | shuffled control | own - prior | own - shuffled "
        "| in 90 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = [str(result.shots), str(result.users)]
        cells += [_cell(result.figures[name]) for name in METHODS]
        cells += [_difference_cell(result.figures[name]) for name in ("personal-prior", "personal-shuffled")]
        low, high = result.coverage_quantiles[0], result.coverage_quantiles[-1]
        cells.append(f"{result.coverage:.1%} (users {low:.0%} to {high:.0%})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_LEGEND, *filter(None, map(_remark, results))])


_LEGEND = (
    "SROCC, mean over users; after ± its standard deviation over repeats; [95 % bootstrap interval over",
    "users, stratified by group, conditional on these pictures]; (standard error by a jackknife over ten",
    "blocks of query pictures). Behind the share of ratings inside 90 % intervals, 5 to 95 % of users.",
)


def _remark(result: ShotsResult) -> str:
    """Say what was left out of a row, if anything."""
    counts = {
        "users with too few ratings": result.left_out,
        "tasks without a control": result.uncontrolled,
        "tasks with equal query ratings, left out": result.undefined,
        "tasks with equal support ratings, judged by the prior": result.constant_support,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"M = {result.shots}: {', '.join(parts)}." if parts else ""


def _cell(figure: Figure) -> str:
    low, high = figure.interval
    return f"{figure.mean:.3f} ± {figure.std:.3f} [{low:.3f}, {high:.3f}] ({figure.picture_error:.3f})"


def _difference_cell(figure: Figure) -> str:
    low, high = figure.interval
    return f"{figure.mean:+.3f} [{low:+.3f}, {high:+.3f}] ({figure.picture_error:.3f})"
