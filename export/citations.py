"""BibTeX for model cards, from the citation file of this repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

CITATION_FILE = Path(__file__).parents[1] / "CITATION.cff"
PAPER_DOI = "10.1109/TCYB.2020.2984670"
"""Of the BLG-PIAA paper."""

_SPECIAL = str.maketrans({sign: f"\\{sign}" for sign in "&%$#_{}"})


def software_and_paper(path: Path = CITATION_FILE) -> str:
    """Return BibTeX entries of this software and of the BLG-PIAA paper.

    Args:
        path: A citation file (CFF 1.2) that lists the paper among its references.

    Raises:
        ModelFormatError: It cannot be read, or does not list the paper.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        papers = [paper for paper in data["references"] if paper.get("doi") == PAPER_DOI]
        software = {
            "title": data["title"],
            "author": _authors(data["authors"]),
            "version": data["version"],
            "note": f"Licence: {data['license']}",
        }
        [paper] = papers
        article = {
            "title": paper["title"],
            "author": _authors(paper["authors"]),
            "journal": paper["journal"],
            "year": paper["year"],
            "doi": paper["doi"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ModelFormatError(f"{path} cannot be read as a citation file with the paper: {error}") from error
    return f"{_entry('software', 'piaa_sdk', software)}\n\n{_entry('article', 'blg_piaa', article)}"


def _authors(authors: list[Mapping[str, str]]) -> str:
    """Join authors; a group's name is kept whole by braces of its own."""
    return " and ".join(
        f"{author['family-names']}, {author['given-names']}"
        if "family-names" in author
        else f"{{{author['name']}}}"
        for author in authors
    )


def _entry(kind: str, key: str, fields: Mapping[str, Any]) -> str:
    lines = []
    for name, value in fields.items():
        # Braces around names were put there on purpose, and a DOI is taken as it is.
        text = str(value) if name in ("author", "doi") else str(value).translate(_SPECIAL)
        lines.append(f"  {name} = {{{text}}},")
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
