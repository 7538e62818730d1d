"""Words that can be chosen on the command line; kept apart so that offering them costs no import."""

from __future__ import annotations

from enum import StrEnum


class ReportFormat(StrEnum):
    """What a report can be written as."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class Order(StrEnum):
    """How the rows of a report are ordered."""

    INPUT = "input"
    SCORE = "score"


class Method(StrEnum):
    """How a person's taste is learned."""

    CLOSED_FORM = "closed-form"
    FINETUNE = "finetune"
    AUTO = "auto"


class RunsOn(StrEnum):
    """What scoring runs on."""

    LOCAL = "local"
    RAY = "ray"
