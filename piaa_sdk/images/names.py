"""What pictures are called in messages and results."""

from __future__ import annotations

import os
import unicodedata
from typing import TYPE_CHECKING

from piaa_sdk.images.urls import shown_name

if TYPE_CHECKING:
    from piaa_sdk.array_types import ImageInput

# They join emoji and shape Persian and Indic words: parts of a name, though Unicode calls them format.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """Make a name printable on one line.

    Args:
        text: Any text, for example a path with line breaks or with bytes that are not UTF-8.

    Returns:
        The text with control characters, direction marks and undecodable bytes written as escapes. Doing
        it twice changes nothing more.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_printable_character, text))


def display_name(image: ImageInput, index: int) -> str:
    """Name one picture of a call.

    Args:
        image: What was given.
        index: Its position in the call, counted from 0.

    Returns:
        The path exactly as it was given, an address without what gives access to it, or ``image 3`` for the
        third picture if it has no path.
    """
    return shown_name(image) if isinstance(image, (str, os.PathLike)) else f"image {index + 1}"


def _printable_character(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
