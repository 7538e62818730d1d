"""The model card of a bundle: what it is, what it is not, and on what its figures rest."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jinja2

from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")


@dataclass(frozen=True, slots=True)
class Source:
    """Something that the model was made from.

    Attributes:
        role: What it was used for.
        citation: Authors, year, title, where.
        link: DOI or address; empty if there is none.
        license: Its licence, as its owners state it.
    """

    role: str
    citation: str
    link: str
    license: str


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card tells that neither checkpoint nor metrics know.

    Attributes:
        base_model: Hub id of the network that the weights come from; empty if there is none.
        taste: Whose taste the generic score holds: who rated, what they were asked, what they were shown.
        measured: Which model the figures are those of, where it is not this very one.
        limits: What it cannot do and where it is likely to be wrong, one sentence or more each.
        sources: Weights, ratings, pictures.
        commands: What makes the bundle again, line by line.
    """

    base_model: str = ""
    taste: str = ""
    measured: str = ""
    limits: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    commands: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read facts from a JSON file.

        Raises:
            ModelFormatError: It cannot be read, or holds a name that is not one of the attributes.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_bytes())
            if unknown := sorted(data.keys() - {field.name for field in fields(cls)}):
                raise ModelFormatError(f"{path}: a card has no place for {unknown[0]!r}")
            sources = tuple(Source(**source) for source in data.pop("sources", ()))
            data |= {name: tuple(data.get(name, ())) for name in ("limits", "commands")}
            return cls(sources=sources, **data)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelFormatError(f"{path} cannot be read as facts of a model card: {error}") from error


def render_card(
    config: Mapping[str, Any], run: Mapping[str, Any], metrics: Mapping[str, Any], facts: CardFacts
) -> str:
    """Write the card: YAML that the Hub reads, then Markdown.

    Args:
        config: Content of ``config.json``.
        run: Content of the checkpoint's ``run.json``.
        metrics: Content of ``metrics.json``.
        facts: What neither of them tells.
    """
    environment = jinja2.Environment(
        autoescape=False,  # Markdown
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "json": lambda value: json.dumps(value, ensure_ascii=False),
        "level": _level,
        "spread": _spread,
        "difference": _difference,
    }
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    low, high = config["rating_scale"]
    return template.render(
        config=config,
        run=run,
        metrics=metrics,
        records=metrics.get("records", ()),
        facts=facts,
        low=f"{low:g}",
        high=f"{high:g}",
        people=len(config["training"]["people"]),
        pictures=len(config["training"]["pictures"]),
    )


def _level(figure: Mapping[str, Any]) -> str:
    return "not defined" if figure["mean"] is None else f"{figure['mean']:.3f} {_spread(figure)}"


def _spread(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    spread = "" if figure["std"] is None else f"± {figure['std']:.3f} "  # one repeat has none
    return f"{spread}[{low:.3f}, {high:.3f}]{_picture_error(figure)}"


def _difference(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "not defined"
    low, high = figure["interval"]
    return f"{figure['mean']:+.3f} [{low:+.3f}, {high:+.3f}]{_picture_error(figure)}"


def _picture_error(figure: Mapping[str, Any]) -> str:
    return "" if figure["picture_error"] is None else f" ({figure['picture_error']:.3f})"
