"""Embedded previews: taken only where asked for, and only one that shows the photo as far as headers tell."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from camera_jpeg import (
    DISPARITY,
    FULL_HD,
    GAIN_MAP,
    PRIMARY,
    UNDEFINED,
    VGA,
    Exif,
    Stored,
    flat,
    index_segment,
    save_jpeg,
    with_index,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from piaa_sdk.bundle import Preprocessing
from piaa_sdk.errors import ImageError
from piaa_sdk.images import decode
from piaa_sdk.images.pixels import square_pixels

if TYPE_CHECKING:
    from piaa_sdk.array_types import PixelArray

SETTINGS = Preprocessing(
    size=16, fit="squash", resample="bilinear", draft_factor=2, background=(255, 255, 255), decoding_rule=1
)
WIDTH, HEIGHT = 192, 128
GREEN, GRAY = (20, 200, 20), (120, 120, 120)
BLUE, RED = (20, 20, 220), (220, 20, 20)


def photo(size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> bytes:
    """A photo of green above gray: what is decoded without previews."""
    return save_jpeg(flat(size, GREEN, GRAY), **options)


def preview(size: tuple[int, int] = (96, 64), **options: Any) -> bytes:
    """A preview of blue above red, so that one sees which of the two was decoded."""
    return save_jpeg(flat(size, BLUE, RED), **options)


def is_preview(data: bytes) -> bool:
    """Whether the preview's colours come out, and not the photo's."""
    pixels = decode(data, SETTINGS, "x.jpg", previews=True).astype(int)
    colours = pixels.reshape(-1, 3)
    blue_and_red = np.abs(colours[:, None] - [BLUE, RED]).max(axis=2).min(axis=1)
    green_and_gray = np.abs(colours[:, None] - [GREEN, GRAY]).max(axis=2).min(axis=1)
    assert (np.median(blue_and_red) < 30) != (np.median(green_and_gray) < 30)
    return bool(np.median(blue_and_red) < 30)


def same_as_without(data: bytes) -> bool:
    with_previews = decode(data, SETTINGS, "x.jpg", previews=True)
    return bool((with_previews == decode(data, SETTINGS, "x.jpg")).all())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [VGA, FULL_HD, 0x010003, 0x40000000 | FULL_HD])
def test_a_large_thumbnail_is_taken_where_it_is_asked_for(order: str, kind: int) -> None:
    data = with_index(photo(), Stored(preview(), kind), order=order)
    assert is_preview(data)
    assert (decode(data, SETTINGS, "x.jpg") == decode(photo(), SETTINGS, "x.jpg")).all()


def test_the_smallest_that_is_large_enough_is_taken() -> None:
    small = save_jpeg(flat((30, 20), GRAY, GRAY))
    large = save_jpeg(flat((144, 96), GRAY, GRAY))
    data = with_index(photo(), Stored(small, VGA), Stored(large), Stored(preview()))
    assert is_preview(data)


def test_photos_without_previews_are_decoded_as_ever() -> None:
    for data in (photo(), photo(progressive=True), with_index(photo()), photo((40, 30))):
        assert same_as_without(data)


REFUSED = {
    "too small": Stored(preview((45, 30))),
    "black bars": Stored(preview((96, 72))),
    "cropped": Stored(preview((96, 60))),
    "turned": Stored(preview((64, 96))),
    "larger than the photo": Stored(preview((384, 256), quality=5)),
    "of more bytes than the photo": Stored(preview() + photo() * 2),
    "of one colour": Stored(save_jpeg(flat((96, 64), BLUE, RED).convert("L"))),
    "turned by its own Exif": Stored(preview(exif=Exif(orientation=6).to_bytes())),
    "undefined": Stored(preview(), UNDEFINED),
    "gain map": Stored(preview(), GAIN_MAP),
    "original": Stored(preview(), 0x040000),
    "no JPEG": Stored(preview(), 0x01000000 | FULL_HD),
    "no JPEG either": Stored(b"\x89PNG" + bytes(500)),
    "of no size": Stored(preview(), size=0),
    "cut short by the index": Stored(preview(), size=300),
    "of a gigabyte": Stored(preview(), size=1_000_000_000),
    "of all bytes that can be said": Stored(preview(), size=2**32 - 1),
    "beyond the end": Stored(preview(), offset=2**32 - 1),
    "the photo itself": Stored(preview(), offset=0),
    "damaged": Stored(preview()[:-400] + bytes(400)),
    "lies about its size": Stored(preview().replace(b"\0\x40\0\x60", b"\xff\xdc\xff\xdc", 1)),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_pictures_in_the_index_are_not_taken(name: str) -> None:
    """Some are no previews, some not of this frame, some lies: the photo comes out as if without them."""
    assert same_as_without(with_index(photo(), REFUSED[name]))


def test_a_photo_among_several_has_no_preview() -> None:
    """In a 3D picture nobody says whose the thumbnail is."""
    other = Stored(photo(), DISPARITY)
    assert same_as_without(with_index(photo(), other, Stored(preview())))


def test_a_colour_profile_must_be_the_same() -> None:
    """Else its numbers would be read as other colours."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    photo_with, same = photo(icc_profile=profile), Stored(preview(icc_profile=profile))
    assert is_preview(with_index(photo_with, same))
    assert not is_preview(with_index(photo_with, Stored(preview(icc_profile=other))))
    assert not is_preview(with_index(photo_with, Stored(preview())))
    assert not is_preview(with_index(photo(), same))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stated", [True, False])
def test_the_preview_is_turned_as_the_photo_is(orientation: int, stated: bool) -> None:
    exif = Exif(orientation=orientation).to_bytes()
    own: dict[str, Any] = {"exif": exif} if stated else {}
    taken = decode(with_index(photo(exif=exif), Stored(preview(**own))), SETTINGS, "x", previews=True)
    expected = decode(preview(exif=exif), SETTINGS, "x")
    np.testing.assert_array_equal(taken, expected)


DAY, NEXT = "2026:05:01 10:00:00", "2026:05:02 09:30:00"


@pytest.mark.parametrize(
    ("exif", "taken"),
    [
        (Exif(changed=DAY, taken=DAY, size=(WIDTH, HEIGHT)), True),
        (Exif(changed=DAY, taken=DAY, size=(WIDTH, HEIGHT), order=">"), True),
        (Exif(changed=DAY), True),
        (Exif(taken=DAY), True),
        (Exif(size=(0, 0)), True),
        (Exif(changed=NEXT, taken=DAY, size=(WIDTH, HEIGHT)), False),
        (Exif(changed=NEXT, taken=DAY, order=">"), False),
        (Exif(size=(WIDTH * 2, HEIGHT)), False),
        (Exif(size=(WIDTH, HEIGHT + 8)), False),
    ],
)
def test_a_photo_that_says_it_was_changed_has_no_preview(exif: Exif, taken: bool) -> None:
    """Programs that crop and paint often leave the old preview where it was."""
    assert is_preview(with_index(photo(exif=exif.to_bytes()), Stored(preview()))) == taken


def test_an_index_that_was_left_over_is_not_believed() -> None:
    """The photo was saved again, longer or shorter: it does not end where the index says."""
    for end in (0, 100, len(photo()) - 40, len(photo()) + 5000, 2**32 - 1):
        assert same_as_without(with_index(photo(), Stored(preview()), end=end))


def test_the_preview_must_lie_behind_the_photo() -> None:
    """Here it is a comment in the photo: whoever wrote that index did not mean a camera's preview."""
    data = with_index(photo(comment=preview()), Stored(b"", size=len(preview()), offset=0))
    position = data.index(preview()) - data.index(b"MPF\0") - 4
    inside = with_index(photo(comment=preview()), Stored(b"", size=len(preview()), offset=position))
    assert inside[data.index(b"MPF\0") + 4 + position :].startswith(preview())
    assert same_as_without(inside)


def test_the_index_must_be_that_of_the_first_picture() -> None:
    """Each picture of several may hold an index; the first entry is the photo at the start of the file."""
    data = bytearray(with_index(photo(), Stored(preview())))
    first_offset = data.index(b"MPF\0") + 4 + 8 + 2 + 36 + 4 + 8
    assert is_preview(bytes(data))
    data[first_offset] = 1
    assert same_as_without(bytes(data))


def test_padding_behind_the_photo_is_no_obstacle() -> None:
    padded = photo() + bytes(64)
    assert is_preview(with_index(padded, Stored(preview())))
    assert not is_preview(with_index(photo() + b"a film" * 9, Stored(preview())))


def test_a_file_that_was_cut_off_is_no_picture() -> None:
    """Its missing part is where the preview would be; with an Exif thumbnail it is in the photo."""
    whole = with_index(photo(), Stored(preview()))
    thumbnail = photo(exif=Exif(thumbnail=preview()).to_bytes())
    for data in (whole[: len(photo()) // 2], thumbnail[: len(thumbnail) - len(photo()) // 2]):
        with pytest.raises(ImageError, match="truncated"):
            decode(data, SETTINGS, "x.jpg", previews=True)
    assert not is_preview(whole[:-500])


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_exif_thumbnail_of_the_frame_is_taken_if_large_enough(order: str) -> None:
    assert is_preview(photo(exif=Exif(thumbnail=preview(), order=order).to_bytes()))
    assert not is_preview(photo(exif=Exif(thumbnail=preview((45, 30)), order=order).to_bytes()))
    assert not is_preview(photo(exif=Exif(thumbnail=preview((80, 60)), order=order).to_bytes()))


def test_directories_in_a_circle_end() -> None:
    """The second directory of this Exif block is the first, and its Exif directory, too."""
    exif = bytearray(Exif(orientation=1, thumbnail=preview()).to_bytes())
    first = 6 + 8
    exif[first + 2 + 24 : first + 2 + 28] = (8).to_bytes(4, "little")
    exif[first + 2 + 20 : first + 2 + 24] = (8).to_bytes(4, "little")
    assert same_as_without(photo(exif=bytes(exif)))


def test_an_index_of_thousands_is_read_at_once() -> None:
    """Each entry is a claim that would have to be looked at; few are."""
    at = photo().index(b"\xff\xdb")
    whole = len(photo()) + len(index_segment("<", [(0, 0, 0)] * 4000))
    one = preview((45, 30))
    entries = [(PRIMARY, whole, 0), *[(FULL_HD, len(one), whole - at - 8)] * 3999]
    data = photo()[:at] + index_segment("<", entries) + photo()[at:] + one
    assert same_as_without(data)


@cache
def heic(side: int | None = 96, orientation: int = 1) -> bytes:
    """Write a HEIC of noise and a thumbnail, which pillow-heif makes from it: smoother, so one can tell."""
    pillow_heif = pytest.importorskip("pillow_heif")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    sides = [] if side is None else [side]
    pillow_heif.from_pillow(image).save(stream, quality=40, thumbnails=sides, exif=exif.tobytes())
    return stream.getvalue()


def stored_thumbnail(data: bytes) -> PixelArray:
    """Decode the thumbnail by itself, as it lies in the file."""
    pillow_heif = pytest.importorskip("pillow_heif")
    return square_pixels(
        pillow_heif.open_heif(io.BytesIO(data))[0].get_thumbnail(0).to_pillow(), SETTINGS, "x"
    )


@pytest.fixture
def _reads_heic_previews() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    if not hasattr(pillow_heif, "HeifThumbnail"):
        pytest.skip("this pillow-heif cannot decode previews")


@pytest.mark.usefixtures("_reads_heic_previews")
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_preview_of_a_heic_is_taken_where_it_is_asked_for(orientation: int) -> None:
    data = heic(orientation=orientation)
    full, taken = decode(data, SETTINGS, "x"), decode(data, SETTINGS, "x", previews=True)
    np.testing.assert_array_equal(taken, stored_thumbnail(data))
    difference = np.abs(full.astype(int) - taken).mean()
    assert 0 < difference < 12  # the same picture, the same way up, not the same bits


@pytest.mark.parametrize("side", [None, 32, 45])
def test_a_heic_without_a_large_preview_is_decoded_as_ever(side: int | None) -> None:
    assert same_as_without(heic(side))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_heic_that_was_cut_off_is_what_it_is_without_previews(share: float) -> None:
    """The photo may be whole and its preview cut off, or, in files of others, the other way round."""
    data = heic()[: int(len(heic()) * share)]
    try:
        decode(data, SETTINGS, "x")
    except ImageError:
        with pytest.raises(ImageError):
            decode(data, SETTINGS, "x", previews=True)
    else:
        assert same_as_without(data)


@pytest.mark.usefixtures("_reads_heic_previews")
def test_a_heic_whose_end_is_missing_is_not_shown_by_its_preview() -> None:
    """The sizes of its boxes tell: what is missing here are bytes that nobody needs."""
    whole = heic() + (24).to_bytes(4, "big") + b"free" + bytes(16)
    assert not same_as_without(whole)
    assert same_as_without(whole[:-1])


@pytest.mark.usefixtures("_reads_heic_previews")
def test_a_heic_with_a_damaged_preview_is_decoded_in_full() -> None:
    data, without = heic(), heic(None)
    start = data.index(b"mdat") + 4
    damaged = []
    for at in range(start, len(data) - 64, 64):
        one = data[:at] + bytes(64) + data[at + 64 :]
        try:
            damaged.append(same_as_without(one))
        except ImageError:  # the photo itself is hit
            continue
    assert len(data) > len(without)
    assert any(damaged)


def is_picture_or_image_error(data: bytes) -> None:
    try:
        pixels = decode(data, SETTINGS, "any\nthing", previews=True)
    except ImageError as error:
        message = str(error)
    else:
        message = ""
        assert pixels.shape == (16, 16, 3)
    assert message.isprintable()


@cache
def samples() -> tuple[bytes, ...]:
    exif = Exif(orientation=6, changed=DAY, taken=DAY, size=(WIDTH, HEIGHT), thumbnail=preview()).to_bytes()
    return (
        with_index(photo(), Stored(preview())),
        with_index(photo(), Stored(preview(), VGA), Stored(preview()), order=">"),
        photo(exif=exif),
        heic(),
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_gives_a_picture_or_an_image_error(data: st.DataObject) -> None:
    """Half of the damage goes where the index and the tags are, at the start of the file."""
    picture = bytearray(data.draw(st.sampled_from(samples())))
    ends = st.sampled_from([min(400, len(picture)) - 1, len(picture) - 1])
    places = ends.flatmap(lambda last: st.integers(0, last))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        picture[place] = value
    is_picture_or_image_error(bytes(picture[: data.draw(st.sampled_from([len(picture), len(picture) // 2]))]))


NUMBERS = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 20_000), st.just(0))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([PRIMARY, FULL_HD, VGA, 0, 2**32 - 1]), NUMBERS, NUMBERS), max_size=6),
    st.sampled_from("<>"),
)
def test_any_index_gives_the_photo_or_a_preview(entries: list[tuple[int, int, int]], order: str) -> None:
    """An index may say anything: the photo is whole, so there always is a picture."""
    at = photo().index(b"\xff\xdb")
    data = photo()[:at] + index_segment(order, entries) + photo()[at:] + preview()
    assert decode(data, SETTINGS, "x", previews=True).shape == (16, 16, 3)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_exif_gives_the_photo(exif: bytes) -> None:
    for start in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        data = photo(exif=b"Exif\0\0" + start + exif)
        assert same_as_without(data)


def test_samples_hold_previews() -> None:
    """The properties above would prove nothing with files whose previews nobody takes; a HEIC's are above."""
    for data in samples()[:3]:
        assert not same_as_without(data)
