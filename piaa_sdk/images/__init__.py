"""Find, open, orient, reduce, resize: any input -> (size, size, 3) uint8 sRGB pixels.

One bad picture is one ImageError, whatever is wrong with it; nothing of a library's own escapes.
"""

from piaa_sdk.images.files import refuse_photo_name
from piaa_sdk.images.formats import IMAGE_SUFFIXES, PHOTO_SUFFIXES, supported_formats
from piaa_sdk.images.loading import decode, load_image
from piaa_sdk.images.names import display_name, printable
from piaa_sdk.images.previews import PREVIEW_RULE
from piaa_sdk.images.remote import examine_remote, read_remote
from piaa_sdk.images.remote_clients import Calls, forget_clients
from piaa_sdk.images.remote_failures import StoppedError
from piaa_sdk.images.sources import find_images, read_bytes
from piaa_sdk.images.urls import (
    RemotePicture,
    hides_part,
    identity_of,
    is_remote,
    shown_hides_part,
    shown_url,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "PHOTO_SUFFIXES",
    "PREVIEW_RULE",
    "Calls",
    "RemotePicture",
    "StoppedError",
    "decode",
    "display_name",
    "examine_remote",
    "find_images",
    "forget_clients",
    "hides_part",
    "identity_of",
    "is_remote",
    "load_image",
    "printable",
    "read_bytes",
    "read_remote",
    "refuse_photo_name",
    "shown_hides_part",
    "shown_url",
    "supported_formats",
]
