"""Curves of adaptation and gradient maps as they are drawn: what stands where, and the files."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from piaa_sdk.errors import ModelFormatError
from training import __main__ as program
from training.adaptation_trace import AdaptationTrace, UserTrace
from training.evaluation_record import Conditions
from training.figures.gradients import draw_gradients
from training.figures.losses import draw_losses
from training.gradient_record import GradientMaps, MappedNetwork

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure as Drawing

SIZE = 12
CONDITIONS = Conditions(
    data="made up",
    groups=("all",),
    users=2,
    pictures=3,
    ratings=6,
    table="0" * 64,
    rating_scale=(1.0, 5.0),
    shots=(10,),
    repeats=1,
    seed=0,
    drawn_users=2,
    curve=False,
)


def make_trace(users: int, epochs: int = 10) -> AdaptationTrace:
    """User u's support error is (u + 1) 0.9^epoch / 10, the query's 0.1 more; correlations are 1 - error."""
    found = []
    for user in range(users):
        error = (user + 1) * 0.9 ** np.arange(epochs + 1) / 10
        found.append(UserTrace(f"{user:064}", "all", 20, error, error + 0.1, 1 - error, 0.9 - error))
    return AdaptationTrace("MAML", CONDITIONS, tuple(found), {})


def make_maps(*, kind: str = "plain") -> GradientMaps:
    """Map r of picture n is 0 but for a block of height 1e-3 (r + 1) (n + 1) at its own place."""
    networks = [MappedNetwork(None, "prior", 0)]
    for user in range(2):
        networks += [MappedNetwork(user, "prior", 5), MappedNetwork(user, "scratch", 0)]
        networks.append(MappedNetwork(user, "scratch", 5))
    maps = np.zeros((len(networks), 3, SIZE, SIZE), np.float32)
    for network in range(len(networks)):
        for picture in range(3):
            maps[network, picture, network : network + 4, picture : picture + 4] = (
                1e-3 * (network + 1) * (picture + 1)
            )
    return GradientMaps(
        method="MAML",
        kind=kind,
        conditions=CONDITIONS,
        people=("a" * 64, "b" * 64),
        epochs=(0, 5),
        networks=tuple(networks),
        pictures=np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8),
        maps=maps,
        scores=np.arange(len(networks) * 3).reshape(-1, 3) / 100,
        ratings=np.array([[0.0, 0.25, np.nan], [1.0, np.nan, 0.5]]),
        facts={},
    )


def _lines(drawing: Drawing) -> list[list[Any]]:
    return [[line for line in axes.lines if len(line.get_xdata()) > 1] for axes in drawing.axes]


@pytest.mark.parametrize("measure", ["error", "srocc"])
def test_few_users_have_a_panel_each(measure: str) -> None:
    """With the user's two curves in it, over the epochs 0 to P."""
    trace = make_trace(3)
    panels = [lines for lines in _lines(draw_losses(trace, measure)) if lines]
    assert len(panels) == 3
    for user, lines in zip(trace.users, panels, strict=True):
        assert [line.get_label() for line in lines] == ["support", "query"]
        for line, name in zip(lines, ("support", "query"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(11))
            np.testing.assert_array_equal(line.get_ydata(), getattr(user, f"{name}_{measure}"))


def test_many_users_are_faint_under_their_mean() -> None:
    """Ten curves of each set and the mean, which leaves out what is not known of a user."""
    trace = make_trace(10)
    broken = trace.users[0].query_error.copy()
    broken[4:] = np.nan
    users = (replace(trace.users[0], query_error=broken), *trace.users[1:])
    support, query = _lines(draw_losses(replace(trace, users=users)))
    assert len(support) == len(query) == 11
    # The mean of u + 1 over u = 0..9 is 5.5, over u = 1..9 it is 6.
    decay = 0.9 ** np.arange(11) / 10
    np.testing.assert_allclose(support[-1].get_ydata(), 5.5 * decay)
    factor = np.where(np.arange(11) < 4, 5.5, 6.0)
    np.testing.assert_allclose(query[-1].get_ydata(), factor * decay + 0.1)
    assert support[-1].get_linewidth() > 2 * support[0].get_linewidth()


def _images(drawing: Drawing) -> list[Any]:
    return [np.asarray(axes.images[0].get_array()) for axes in drawing.axes if axes.images]


def _texts(drawing: Drawing) -> list[str]:
    return [axes.get_xlabel() for axes in drawing.axes if axes.images]


def test_pictures_stand_above_the_epochs_of_one_user() -> None:
    """Rows: pictures, prior, epoch 5; all maps on one scale, in the power of ten that the bar tells.

    The bar ends at the 99th percentile of all maps shown.
    """
    stored = make_maps()
    drawing = draw_gradients(stored, "pictures", user=2)
    images = _images(drawing)
    assert len(images) == 9
    for image, picture in zip(images[:3], stored.pictures, strict=True):
        np.testing.assert_array_equal(image, picture)
    expected = np.concatenate([stored.maps[0], stored.maps[stored.find(1, "prior", 5)]])
    unit = 10.0 ** _exponent(drawing)
    for image, found in zip(images[3:], expected, strict=True):
        np.testing.assert_allclose(image * unit, found, rtol=1e-5)
    for low, high in _ends(drawing)[3:]:
        assert (low, high * unit) == (0, pytest.approx(np.percentile(expected, 99)))
    # Ratings of [0, 1] on a scale of 1 to 5; the second picture is not rated by the second user.
    assert _texts(drawing)[:3] == ["rated 5.0", "", "rated 3.0"]
    row = stored.scores[stored.find(1, "prior", 5)]
    assert _texts(drawing)[6:] == [f"{1 + 4 * score:.2f}" for score in row]


def _exponent(drawing: Drawing) -> int:
    [label] = [axes.get_xlabel() for axes in drawing.axes if "largest |gradient|" in axes.get_xlabel()]
    [found] = re.findall(r"per level, in \$10\^\{(-?\d+)\}\$", label)
    return int(found)


def _ends(drawing: Drawing) -> list[Any]:
    """The numbers at the ends of the colours of each image."""
    return [axes.images[0].get_clim() for axes in drawing.axes if axes.images]


def test_users_stand_beside_each_other() -> None:
    stored = make_maps()
    images = _images(draw_gradients(stored, "users", picture=3))
    assert len(images) == 6
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[2], images[3])  # the prior is everybody's
    for image, user in zip(images[4:], range(2), strict=True):
        place = stored.maps[stored.find(user, "prior", 5), 2] > 0
        np.testing.assert_array_equal(image > 0, place)


def test_from_scratch_stands_below_from_the_prior() -> None:
    """Each map divided by its own 99th percentile, so that they are all as bright, if not asked otherwise."""
    stored = make_maps()
    drawing = draw_gradients(stored, "scratch", picture=1)
    images = _images(drawing)
    assert len(images) == 6
    assert set(_ends(drawing)[2:]) == {(0, 1)}
    for start, row in (("prior", images[2:4]), ("scratch", images[4:6])):
        for user, image in enumerate(row):
            place = stored.maps[stored.find(user, start, 5), 0] > 0
            np.testing.assert_allclose(image, place.astype(float), rtol=1e-5)
    shared = draw_gradients(stored, "scratch", picture=1, scaling="shared")
    found = stored.maps[stored.find(1, "scratch", 5), 0]
    np.testing.assert_allclose(_images(shared)[5] * 10.0 ** _exponent(shared), found, rtol=1e-5)


def test_maps_without_a_gradient_can_be_drawn() -> None:
    stored = make_maps()
    blank = replace(stored, maps=np.zeros_like(stored.maps))
    for scaling in ("shared", "each"):
        assert all((image == 0).all() for image in _images(draw_gradients(blank, scaling=scaling))[3:])


def test_large_maps_are_averaged_over_squares() -> None:
    """A map of 224 pixels is drawn as 74 by 74 means over 3 by 3; 2 pixels are left over at the end."""
    stored = make_maps()
    maps = np.random.default_rng(0).random((len(stored.networks), 3, 224, 224))
    large = replace(stored, maps=maps, pictures=np.zeros((3, 224, 224, 3), np.uint8))
    image = _images(draw_gradients(large))[3]
    assert image.shape == (74, 74)
    found = image[5, 7] / image[0, 0]
    assert found == pytest.approx(maps[0, 0, 15:18, 21:24].mean() / maps[0, 0, :3, :3].mean())


def test_what_cannot_be_drawn_is_refused() -> None:
    stored = make_maps()
    for wanted, said in (
        ({"layout": "rows"}, "layout is 'rows', must be one of pictures, users, scratch"),
        ({"scaling": "none"}, "scaling is 'none'"),
        ({"user": 3}, "user is 3, must be 1 to 2"),
        ({"layout": "users", "picture": 4}, "picture is 4, must be 1 to 3"),
    ):
        with pytest.raises(ModelFormatError, match=said):
            draw_gradients(stored, **wanted)  # type: ignore[arg-type]
    plain = replace(stored, people=stored.people[:1], networks=stored.networks[:2])
    with pytest.raises(ModelFormatError, match="no maps of user 1 from scratch at epoch 5"):
        draw_gradients(plain, "scratch")
    with pytest.raises(ModelFormatError, match="measure is 'loss', must be error or srocc"):
        draw_losses(make_trace(1), "loss")


def test_the_commands_write_png_and_svg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a page wide, with what the axes and colours mean as text."""
    (tmp_path / "trace.json").write_text(json.dumps(make_trace(4).to_json()))
    make_maps(kind="guided").save(tmp_path / "maps.safetensors")
    losses = ["squared error on [0, 1]", "epochs of fine-tuning", "user 4", "support", "query"]
    maps = ["prior", "epoch 5", "picture 3", "rated 1.0", "guided gradients"]
    scratch = ["from scratch,", "user 2", "share of each map's 99th percentile"]
    for arguments, labels in (
        (["losses", "trace.json"], losses),
        (["gradients", "maps.safetensors"], maps),
        (["gradients", "maps.safetensors", "--layout", "scratch", "--scaling", "each"], scratch),
    ):
        name, stored, *more = arguments
        _run(monkeypatch, "figure", name, str(tmp_path / stored), str(tmp_path / "one"), *more)
        text = "".join(ET.fromstring((tmp_path / "one.svg").read_bytes()).itertext())
        assert [label for label in labels if label not in text] == []
        with Image.open(tmp_path / "one.png") as image:
            assert image.width == 3.4 * 300


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert not stop.value.code
