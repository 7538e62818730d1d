"""What has to be said under a table of methods: what flatters its figures, what a method lacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.evaluation_record import Evaluation

_FEW_USERS = 10
_LEAK = "Trained with --keep-leak: on pictures of the test users too, so these figures are too good."
_SEEN = "Judged on people or pictures of the training too, so these figures are too good."
_NO_PERSONALITY = (
    "PA_IAA had no images with personality labels (--personality): its personality head learned nothing of "
    "its own before a user's ratings."
)


def remarks_on(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return a sentence for each thing that a reader of these evaluations has to know."""
    facts = [evaluation.facts for evaluation in evaluations]
    remarks = list(dict.fromkeys(map(_who_was_judged, evaluations)))
    sources = sorted({str(fact["attributes"]) for fact in facts if "attributes" in fact})
    if sources:
        remarks.append(f"Attributes of the compared systems: {', '.join(sources)}.")
    labels = sorted({str(fact["personality"])[:8] for fact in facts if fact.get("personality") is not None})
    if labels:
        remarks.append(f"Personality labels of PA_IAA: those with the digest {', '.join(labels)}.")
    if any(fact.get("system") == "pa_iaa" and fact.get("personality") is None for fact in facts):
        remarks.append(_NO_PERSONALITY)
    if any(fact.get("leak_kept") for fact in facts):
        remarks.append(_LEAK)
    if any(fact.get("seen_people") or fact.get("seen_pictures") for fact in facts):
        remarks.append(_SEEN)
    return remarks


def _who_was_judged(evaluation: Evaluation) -> str:
    """Say on whom figures were measured; of each M, where not all have rated enough for all."""
    conditions = evaluation.conditions
    counts = {result.shots: result.users for result in evaluation.results}
    users = f"{max(counts.values(), default=0)} users"
    if len(set(counts.values())) > 1:
        users = ", ".join(f"{count} users for M = {shots}" for shots, count in counts.items())
    drawn = "" if conditions.drawn_users is None else f" drawn from {conditions.users}"
    few = min(counts.values(), default=0)
    caution = f" Intervals over {few} users say little." if few < _FEW_USERS else ""
    return (
        f"Judged on {conditions.data}: {users}{drawn}, {conditions.pictures} pictures; repeats "
        f"{conditions.repeats}, seed {conditions.seed}.{caution}"
    )
