"""Configurations: TOML files, read into frozen records that refuse what they do not know."""

from __future__ import annotations

import math
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from piaa_sdk.errors import ModelFormatError, PiaaError

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIG_FOLDER = Path(__file__).parent / "configs"

_EXTENDS = "extends"
_Record = TypeVar("_Record")


def read_toml(path: Path, overrides: Iterable[str] = (), *, _above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a TOML file, on top of the one that its key ``extends`` names.

    Args:
        path: The file.
        overrides: Settings ``section.name=value`` that are put on top, the value as TOML writes it; what is
            not TOML is taken as text.

    Raises:
        ModelFormatError: A file cannot be read, or an override has no ``=``.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path}: not a configuration ({error})") from error
    base = data.pop(_EXTENDS, None)
    if base is not None:
        above = (*_above, path.resolve())
        if not isinstance(base, str) or (path.parent / base).resolve() in above:
            raise ModelFormatError(
                f"{path}: extends must name another file that does not extend this one, found {base!r}"
            )
        data = _merged(read_toml(path.parent / base, _above=above), data)
    for override in overrides:
        data = _merged(data, _override(override))
    return data


def build(kind: type[_Record], values: object, where: str, *, complete: bool = False) -> _Record:
    """Make a record of a section of a file.

    Args:
        kind: A dataclass; its fields may be numbers, text, tuples, mappings and dataclasses.
        values: The section.
        where: What errors name.
        complete: Whether every field must be there, those with a default too.

    Raises:
        ModelFormatError: A setting is not known, missing, of another type or has a value that is not allowed.
    """
    if not isinstance(values, Mapping):
        raise ModelFormatError(f"{where}: expected a section of settings, found {values!r}")
    own = {part.name: part for part in fields(kind)}  # type: ignore[arg-type]
    needed = {name for name, part in own.items() if complete or _has_no_default(part)}
    check_names(own, values, where, needed=needed)
    hints = typing.get_type_hints(kind)
    made = {name: _value(hints[name], value, f"{where}.{name}", complete) for name, value in values.items()}
    try:
        return kind(**made)
    except PiaaError as error:
        raise ModelFormatError(f"{where}: {error}") from error


def check_names(
    known: Iterable[str], values: Mapping[str, Any], where: str, *, needed: Iterable[str] | None = None
) -> None:
    """Refuse names that are missing or not known.

    Raises:
        ModelFormatError: There are some.
    """
    known = set(known)
    missing = set(known if needed is None else needed) - values.keys()
    if odd := sorted(missing | (values.keys() - known)):
        raise ModelFormatError(
            f"{where}: missing or not known: {', '.join(odd)}; the names are {', '.join(sorted(known))}"
        )


def _has_no_default(part: Any) -> bool:
    return part.default is MISSING and part.default_factory is MISSING


def _value(hint: Any, value: Any, where: str, complete: bool) -> Any:
    """Check one value against the type of its field, and make lists tuples."""
    if is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where, complete=complete)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], item, where, complete) for item in value)
        if len(arguments) == len(value):
            pairs = zip(arguments, value, strict=True)
            return tuple(_value(argument, item, where, complete) for argument, item in pairs)
    if origin is Mapping and isinstance(value, dict):
        return {name: _value(arguments[1], item, where, complete) for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ModelFormatError(f"{where} is {value}, must be finite")
    if type(value) is hint:
        return value
    raise ModelFormatError(f"{where} is {value!r}, must be of the type {getattr(hint, '__name__', hint)}")


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    both = {name for name in top if isinstance(top[name], Mapping) and isinstance(base.get(name), Mapping)}
    return {**base, **top, **{name: _merged(base[name], top[name]) for name in both}}


def _override(text: str) -> dict[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ModelFormatError(f"{text!r} is not a setting; write section.name=value")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(name.strip().split(".")):
        parsed = {part: parsed}
    return typing.cast("dict[str, Any]", parsed)
