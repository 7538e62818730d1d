"""The model card of a bundle: what it is, what it is not, and on what its figures rest.

What is not known is left out of a card or said to be unknown; nothing is claimed by default.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jinja2

from export.card_files import describe_files, describe_variants
from export.card_metadata import LIBRARY, TAGS, TASK, license_metadata, metadata_block, model_index, one_line
from export.card_story import Story
from export.citations import software_and_paper
from piaa_sdk.errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")

RELATIONS = ("adapter", "finetune", "merge", "quantized")
"""What a bundle can be to its base model, as the Hub names it."""

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


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
        repo_id: Where on the Hub the bundle is or will be, ``org/name``; empty if it is not known.
        base_model: Hub id of the network that the weights come from; empty if there is none.
        base_model_relation: What the bundle is to it; empty to take it from the run.
        datasets: Hub ids of what the weights and the prior were trained on, where the Hub has it.
        license_link: Where the licence's text is, if it is none that the Hub knows.
        is_embedded: Whether a copy comes with the package.
        taste: Whose taste the generic score holds: who rated, what they were asked, what they were shown.
        measured: Which model the figures are those of, where it is not this very one.
        limits: What it cannot do and where it is likely to be wrong, one sentence or more each.
        sources: Weights, ratings, pictures.
        commands: What makes the bundle again, line by line.
    """

    repo_id: str = ""
    base_model: str = ""
    base_model_relation: str = ""
    datasets: tuple[str, ...] = ()
    license_link: str = ""
    is_embedded: bool = False
    taste: str = ""
    measured: str = ""
    limits: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what the Hub would refuse.

        Raises:
            ModelFormatError: The repository's name or the relation is none that it knows.
        """
        if self.repo_id and not _REPO_ID.fullmatch(self.repo_id):
            raise ModelFormatError(f"repo_id is {self.repo_id!r:.200}, must be a name such as org/name")
        if self.base_model_relation and self.base_model_relation not in RELATIONS:
            raise ModelFormatError(
                f"base_model_relation is {self.base_model_relation!r:.80}, must be one of "
                f"{', '.join(RELATIONS)}"
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read facts from a JSON file.

        Raises:
            ModelFormatError: It cannot be read, or holds a name that is not one of the attributes.
        """
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ModelFormatError(f"{path} cannot be read as facts of a model card: {error}") from error
        return cls.of(data, str(path))

    @classmethod
    def of(cls, content: Any, source: str) -> Self:
        """Take facts from the content of a JSON file.

        Args:
            content: An object with the names of the attributes.
            source: Where it comes from, for messages.

        Raises:
            ModelFormatError: It is no such object, or holds a name that is not one of the attributes.
        """
        try:
            data: dict[str, Any] = {**content}  # of anything but an object this is a TypeError
            if unknown := sorted(data.keys() - {field.name for field in fields(cls)}):
                raise ModelFormatError(f"{source}: a card has no place for {unknown[0]!r}")
            sources = tuple(Source(**one) for one in data.pop("sources", ()))
            data |= {name: tuple(data.get(name, ())) for name in ("limits", "commands", "datasets")}
            return cls(sources=sources, **data)
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelFormatError(f"{source} cannot be read as facts of a model card: {error}") from error


def render_card(
    config: Mapping[str, Any],
    run: Mapping[str, Any],
    metrics: Mapping[str, Any],
    facts: CardFacts,
    *,
    preprocessing: Mapping[str, Any] | None = None,
) -> str:
    """Write the card: YAML that the Hub reads, then Markdown.

    Args:
        config: Content of ``config.json``; if it lists ``files``, the card describes these.
        run: Content of the ``run.json`` of what was trained; empty where it is lost, and the card says less.
        metrics: Content of ``metrics.json``.
        facts: What none of them tells.
        preprocessing: Content of ``preprocessor_config.json``; by default what the run says.

    Raises:
        ModelFormatError: The citation file of this repository cannot be read.
    """
    environment = jinja2.Environment(
        autoescape=False,  # Markdown
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "level": _level,
        "spread": _spread,
        "difference": _difference,
        "coverage": _coverage,
        "megabytes": lambda size: f"{size / 1e6:.1f} MB",
    }
    records = metrics.get("records", ())
    story = Story.of(config, run, preprocessing)
    low, high = config["rating_scale"]
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        config=config,
        records=records,
        measured=metrics.get("measured", ""),
        # Beside the closed form that the SDK fits, a run's own adaptation may have been judged.
        shows_methods=any(record.get("method", "closed form") != "closed form" for record in records),
        facts=facts,
        story=story,
        files=describe_files(config),
        variants=describe_variants(config),
        citation=software_and_paper(),
        low=f"{low:g}",
        high=f"{high:g}",
    )
    return metadata_block(_metadata(config, story, records, facts)) + "\n" + text


def plain(text: object) -> str:
    """Return text as Markdown that shows it and does nothing else: no line end, table, tag, link or code."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", one_line(text))


def _metadata(config: Mapping[str, Any], story: Story, records: Any, facts: CardFacts) -> dict[str, Any]:
    metadata: dict[str, Any] = license_metadata(one_line(config["license"]), facts.license_link)
    metadata |= {"library_name": LIBRARY, "pipeline_tag": TASK, "tags": [*TAGS, *story.tags]}
    if facts.datasets:
        metadata["datasets"] = list(facts.datasets)
    if facts.base_model:
        metadata["base_model"] = facts.base_model
        if relation := facts.base_model_relation or story.relation:
            metadata["base_model_relation"] = relation
    if index := model_index(one_line(config["bundle_id"]), records):
        metadata["model-index"] = index
    return metadata


def _level(figure: Mapping[str, Any]) -> str:
    return "not defined" if figure["mean"] is None else f"{figure['mean']:.3f} {_spread(figure)}"


def _spread(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    spread = "" if figure["std"] is None else f"± {figure['std']:.3f} "  # one repeat has none
    interval = "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
    return f"{spread}{interval}{_picture_error(figure)}"


def _difference(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "not defined"
    low, high = figure["interval"]
    interval = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{figure['mean']:+.3f}{interval}{_picture_error(figure)}"


def _coverage(result: Mapping[str, Any]) -> str:
    """Return the share of ratings inside 90 % intervals; a method without standard deviations has none."""
    share, quantiles = result.get("coverage"), result.get("coverage_quantiles") or ()
    if share is None:
        return "not defined"
    if not quantiles or None in quantiles:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.1f} % ({100 * quantiles[0]:.0f} to {100 * quantiles[-1]:.0f} %)"


def _picture_error(figure: Mapping[str, Any]) -> str:
    return "" if figure["picture_error"] is None else f" ({figure['picture_error']:.3f})"
