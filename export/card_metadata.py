"""The YAML at the top of a model card: what the Hugging Face Hub sorts, filters and shows by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIBRARY = "piaa-sdk"
TASK = "image-classification"
"""The Hub has no task for one number per picture; repositories of aesthetic models use this one."""

TAGS = ("onnx", "image-aesthetics", "personalized", "few-shot")

HUB_LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0
    eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa
    odbl odc-by ofl-1.1 openrail osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
    """.split()  # noqa: SIM905  a list of a hundred lines would say no more
)
"""Identifiers that the Hub knows; a card with another one is refused there."""

OTHER_LICENSE = "other"


def metadata_block(metadata: Mapping[str, Any]) -> str:
    """Write metadata as the YAML between the two lines of dashes.

    Names of bundles, data and methods are data: whatever they hold, they come out as the strings they are.
    """
    text = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{text}---\n"


def license_metadata(name: str, link: str) -> dict[str, str]:
    """Return what says the licence in a way that the Hub takes.

    Args:
        name: As ``config.json`` says it.
        link: Where its text is; empty if that is not known.
    """
    if name in HUB_LICENSES:
        return {"license": name}
    found = {"license": OTHER_LICENSE, "license_name": name}
    return found | ({"license_link": link} if link else {})


def model_index(name: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the results of evaluations by which the Hub compares models; what is undefined is left out.

    Args:
        name: Of the model.
        records: As ``metrics.json`` holds them.
    """
    results = [
        entry
        for record in records
        for result in record["results"]
        if (entry := _result(record, result)) is not None
    ]
    return [{"name": name, "results": results}] if results else []


def one_line(text: object) -> str:
    """Return text without what no line of a card can hold: line ends, control characters, half characters."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text)).strip()


def _result(record: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any] | None:
    if not (metrics := list(_metrics(record, result))):
        return None
    data = one_line(record["data"]) or "unknown"
    groups = " ".join(map(one_line, record["groups"]))
    return {
        "task": {"type": TASK, "name": f"Aesthetic ranking for one person, {result['shots']} ratings"},
        "dataset": {
            "type": data,
            "name": f"{data}, groups {groups}" if groups else data,
            # Readers take results of one dataset and config for one: without it, figures of several M merge.
            "config": f"{groups or 'everybody'}, {result['shots']} ratings per person",
        },
        "metrics": metrics,
    }


def _metrics(record: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    titles = {
        "personal": "SROCC, personal (mean over people, photographs left over)",
        "prior": "SROCC, generic (mean over people, photographs left over)",
    }
    for figure, title in titles.items():
        found = result["figures"].get(figure, {})
        if (mean := found.get("mean")) is None or not math.isfinite(mean):
            continue
        protocol: dict[str, Any] = {
            "ratings": result["shots"],
            "people": result["users"],
            "repeats": record["repeats"],
        }
        interval = found.get("interval")
        if interval and None not in interval:
            protocol["interval_95"] = [round(float(end), 4) for end in interval]
        yield {"type": "spearmanr", "name": title, "value": round(float(mean), 4), "args": protocol}
