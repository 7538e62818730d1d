"""What figures mean, in words for whoever rated the photos."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from piaa_sdk.choices import Method
from piaa_sdk.fine_tuned import FINE_TUNED
from piaa_sdk.images import printable
from piaa_sdk.profiles import merge_ratings
from piaa_sdk.results import Verdict
from piaa_sdk.terminal import count_of

if TYPE_CHECKING:
    from piaa_sdk.profiles import UserProfile
    from piaa_sdk.results import Adaptation, Comparison

_NAMED = 5  # changed ratings that are named

_VERDICTS = {
    Verdict.LEARNED: "It has learned something of this taste that the generic score does not know.",
    Verdict.NOT_ENOUGH: (
        "Not enough ratings yet to be sure: where it is unsure, the closed form stays with the generic "
        "score. More ratings (piaa personalize with --add) narrow the interval down."
    ),
    Verdict.WORSE: (
        "The personal score orders these pairs less well than the generic one. Look for slips among the "
        "ratings, or rate more photos; until then, score without --user."
    ),
}


def describe_adaptation(adaptation: Adaptation, kind: str = "") -> list[str]:
    """Say how well a person's taste was learned, and how sure that is.

    Args:
        adaptation: What left-out pairs of ratings said.
        kind: Of the profile.

    Returns:
        Lines.
    """
    lines = []
    prior, personal = adaptation.prior_accuracy, adaptation.personal_accuracy
    if prior is None or personal is None:
        lines.append(f"Learned from {adaptation.shots} photos, too few to leave any out and check.")
    else:
        lines += [
            f"Checked on {adaptation.pairs:,} pairs of photos whose ratings were left out of the learning.",
            "Pairs put in the order of the ratings (50 % would be chance):",
            f"  generic score   {100 * prior:3.0f} %",
            f"  personal score  {100 * personal:3.0f} %",
        ]
        difference = f"  difference     {100 * (personal - prior):+4.0f} points"
        if adaptation.interval is not None:
            low, high = adaptation.interval
            difference += f" (90 % interval {100 * low:+.0f} to {100 * high:+.0f})"
        lines.append(difference)
    if kind == FINE_TUNED and adaptation.verdict is Verdict.NOT_ENOUGH:
        return [*lines, "Not enough ratings yet to be sure that the network has learned this taste."]
    return [*lines, _VERDICTS[adaptation.verdict]]


def describe_comparison(comparison: Comparison, method: Method, user: str) -> list[str]:
    """Say how the methods did on left-out ratings, which one is recommended and which one was stored.

    Args:
        comparison: What left-out pairs of ratings said.
        method: What was asked for.
        user: Whose.

    Returns:
        Lines.
    """
    lines = [
        f"Checked on {comparison.pairs:,} pairs of photos whose ratings were left out of fits and stopping.",
        "Pairs put in the order of the ratings (50 % would be chance):",
        f"  generic score   {100 * comparison.generic_accuracy:3.0f} %",
        f"  closed form     {100 * comparison.closed_form_accuracy:3.0f} %",
        f"  fine-tuned      {100 * comparison.fine_tuned_accuracy:3.0f} %",
    ]
    gained = 100 * (comparison.fine_tuned_accuracy - comparison.closed_form_accuracy)
    difference = f"  fine-tuned - closed form  {gained:+.0f} points"
    if comparison.interval is not None:
        low, high = comparison.interval
        difference += f" (90 % interval {100 * low:+.0f} to {100 * high:+.0f})"
    else:
        difference += " (too few pairs for an interval)"
    lines.append(difference)
    if comparison.recommended is Method.FINETUNE:
        return [*lines, "Recommended: the fine-tuned network, which is stored."]
    if method is Method.AUTO:
        return [*lines, "Recommended: the closed form, which is stored; nothing proves fine-tuning better."]
    return [
        *lines,
        "Recommended: the closed form, for nothing proves fine-tuning better. The fine-tuned network is "
        f"stored, as asked; to go back: piaa users refit {shlex.quote(user)}",
    ]


def describe_addition(before: UserProfile, after: UserProfile, given: int) -> str:
    """Say what adding ratings did to those that were stored.

    A photo that was moved since it was rated is still the same photo. A changed rating is named with both
    values.

    Args:
        before: What was stored.
        after: What is stored now.
        given: How many ratings were to be added.
    """
    support = after.support
    merged = merge_ratings(before, support.images, after.ratings, support.embeddings)
    old = dict(zip(before.support.images, before.ratings.tolist(), strict=True))
    new = dict(zip(support.images, after.ratings.tolist(), strict=True))
    changed = [
        f"{printable(name)} {f'{old[name]:g} ' if name in old else ''}-> {new[name]:g}"
        for name in merged.changed[:_NAMED]
    ]
    more = "; ..." if len(merged.changed) > _NAMED else ""
    named = f" ({'; '.join(changed)}{more})" if changed else ""
    repeated = given - merged.added - len(merged.changed)
    return (
        f"{count_of(len(support), 'rated photo')} in all: {merged.added} added, "
        f"{len(merged.changed)} changed{named}, {repeated} repeated"
    )
