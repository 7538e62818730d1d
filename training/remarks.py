"""What has to be said under a table of methods: what flatters its figures, what a method lacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from training.evaluation_record import Evaluation

_LEAK = "Trained with --keep-leak: on pictures of the test users too, so these figures are too good."
_SEEN = "Judged on people or pictures of the training too, so these figures are too good."
_NO_PERSONALITY = (
    "PA_IAA had no images with personality labels (--personality): its personality head learned nothing of "
    "its own before a user's ratings."
)


def remarks_on(evaluations: Iterable[Evaluation]) -> list[str]:
    """Return a sentence for each thing that a reader of these evaluations has to know."""
    facts = [evaluation.facts for evaluation in evaluations]
    sources = sorted({str(fact["attributes"]) for fact in facts if "attributes" in fact})
    remarks = [f"Attributes of the compared systems: {', '.join(sources)}."] if sources else []
    if any(fact.get("system") == "pa_iaa" and fact.get("personality") is None for fact in facts):
        remarks.append(_NO_PERSONALITY)
    if any(fact.get("leak_kept") for fact in facts):
        remarks.append(_LEAK)
    if any(fact.get("seen_people") or fact.get("seen_pictures") for fact in facts):
        remarks.append(_SEEN)
    return remarks
