"""What can go wrong inside a decoding library, and the one line a user gets for it."""

from __future__ import annotations

import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image

from piaa_sdk.errors import ImageError
from piaa_sdk.images.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    # What Pillow's readers raise on damaged data by design.
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    # What they let through where a damaged number takes them somewhere unforeseen.
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    LookupError,
    RuntimeError,
    TypeError,
    # A warning that the host has turned into an error.
    Warning,
)

_DETAIL_LENGTH = 120


@contextmanager
def failures_as_image_errors(source: str, format_name: str) -> Iterator[None]:
    """Turn whatever a decoding library raises inside the block into an ImageError.

    Args:
        source: What the picture was given as, printable.
        format_name: Its format, for the message.

    Raises:
        ImageError: The library failed.
    """
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(source, f"not enough memory to decode this {format_name}") from _bare(error)
    except Image.DecompressionBombError as error:
        raise ImageError(source, f"too large: {one_line(error)}") from _bare(error)
    except LIBRARY_ERRORS as error:
        raise ImageError(source, f"damaged or truncated {format_name} ({one_line(error)})") from _bare(error)


def one_line(error: BaseException) -> str:
    """Shorten what a library says to one printable line."""
    said = error.args[0] if error.args else ""
    said = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(error)
    text = " ".join(said.split()).rstrip(".") or type(error).__name__
    return printable(text if len(text) <= _DETAIL_LENGTH else f"{text[:_DETAIL_LENGTH]}...")


def _bare(error: Exception) -> Exception:
    """Drop the traceback: it would keep the whole file in memory for as long as the error is kept."""
    return error.with_traceback(None)
