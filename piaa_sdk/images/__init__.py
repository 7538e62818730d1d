"""Find, open, orient, reduce, resize: any input -> (size, size, 3) uint8 sRGB pixels.

One bad picture is one ImageError, whatever is wrong with it; nothing of a library's own escapes.
"""

from piaa_sdk.images.files import find_images, read_bytes, refuse_photo_name
from piaa_sdk.images.formats import IMAGE_SUFFIXES, PHOTO_SUFFIXES, supported_formats
from piaa_sdk.images.loading import decode, load_image
from piaa_sdk.images.names import display_name, printable
from piaa_sdk.images.previews import PREVIEW_RULE

__all__ = [
    "IMAGE_SUFFIXES",
    "PHOTO_SUFFIXES",
    "PREVIEW_RULE",
    "decode",
    "display_name",
    "find_images",
    "load_image",
    "printable",
    "read_bytes",
    "refuse_photo_name",
    "supported_formats",
]
