"""Messages, progress and words, on terminals of any width and encoding."""

from __future__ import annotations

import io
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

from piaa_sdk.errors import PiaaWarning
from piaa_sdk.explanations import describe_adaptation
from piaa_sdk.results import Adaptation, Verdict
from piaa_sdk.terminal import (
    Console,
    can_show,
    count_of,
    display_width,
    duration,
    progress_text,
    shorten,
    size,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    """A stream that says it is a terminal; it has no file behind it, so it is as wide as COLUMNS says."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def screen(written: str) -> list[str]:
    """Return what a terminal shows after text with carriage returns was written to it."""
    lines = [""]
    column = 0
    for character in written:
        if character == "\n":
            lines.append("")
            column = 0
        elif character == "\r":
            column = 0
        else:
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + character + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "40")
    return Terminal()


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("写真", 4), ("e\u0301", 1), ("a\u200db", 2), ("🙂", 2)]
)
def test_width_counts_columns_not_characters(text: str, width: int) -> None:
    assert display_width(text) == width


@pytest.mark.parametrize("width", range(1, 14))
def test_what_is_shortened_fits_and_keeps_its_end(width: int) -> None:
    text = "ab写真cd.jpg"
    short = shorten(text, width)
    assert display_width(short) <= width
    assert text.endswith(short.removeprefix("…"))


def test_encodings_are_asked_not_guessed() -> None:
    assert can_show(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), "★")
    assert not can_show(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"), "★")
    assert not can_show(io.StringIO(), "★")


def test_progress_is_wiped_before_messages_and_at_the_end(terminal: Terminal) -> None:
    console = Console(terminal)
    for item in console.track(range(5), 5):
        if item == 2:
            console.say("a message that is shorter")
    console.say("done")
    assert "\r1 of 5 photos" in terminal.getvalue()
    assert screen(terminal.getvalue()) == ["a message that is shorter", "done", ""]


def test_progress_is_wiped_when_the_run_is_stopped(terminal: Terminal) -> None:
    def stopped() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    console = Console(terminal)
    with pytest.raises(KeyboardInterrupt):
        list(console.track(stopped(), None))
    assert screen(terminal.getvalue()) == [""]


def test_progress_never_wraps(terminal: Terminal) -> None:
    console = Console(terminal)
    list(console.track(range(1), 1, "photographs of a very long holiday by the sea"))
    assert max(len(part) for part in terminal.getvalue().split("\r")) == 39


def test_no_progress_without_a_terminal() -> None:
    stream = io.StringIO()
    assert list(Console(stream).track(range(3), 3)) == [0, 1, 2]
    assert stream.getvalue() == ""


def test_messages_of_many_threads_stay_whole(terminal: Terminal) -> None:
    console = Console(terminal)

    def chatter(name: str) -> None:
        for _ in range(50):
            console.say(name * 20)

    threads = [threading.Thread(target=chatter, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    list(console.track(range(500), 500))
    for thread in threads:
        thread.join()
    lines = screen(terminal.getvalue())
    assert sorted(lines) == sorted(["", *[name * 20 for name in "abcd"] * 50])


def test_our_warnings_are_said_once_and_those_of_libraries_never() -> None:
    stream = io.StringIO()
    with Console(stream).captured_warnings():
        for _ in range(2):
            warnings.warn("the cache is damaged", PiaaWarning, stacklevel=1)
            warnings.warn("a library mumbles", UserWarning, stacklevel=1)
            warnings.warn("and so does another", DeprecationWarning, stacklevel=1)
    assert stream.getvalue() == "warning: the cache is damaged\n"


def test_a_forecast_needs_some_seconds_and_a_total() -> None:
    assert progress_text(3, 100, 1.0, "photos") == "3 of 100 photos"
    assert progress_text(1500, 3000, 60.0, "photos") == "1,500 of 3,000 photos, 25.0 per second, 1:00 left"
    assert progress_text(1500, None, 60.0, "photos") == "1,500 photos, 25.0 per second"
    assert progress_text(12, 10, 60.0, "photos").endswith("0:00 left"), (
        "photos may come while the run goes on"
    )


def test_words_for_numbers() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 3599, 36000)] == [
        "0:00",
        "1:00",
        "59:59",
        "10:00:00",
    ]
    assert [size(count) for count in (999, 1000, 999_949, 999_950, 5_000_000_000)] == [
        "999 bytes",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "5.0 GB",
    ]
    assert [count_of(count, "photo") for count in (0, 1, 2000)] == ["0 photos", "1 photo", "2,000 photos"]


def test_what_was_learned_is_said_in_words_and_figures() -> None:
    lines = describe_adaptation(Adaptation(57, 312, 0.61, 0.742, (0.05, 0.213), Verdict.LEARNED))
    text = "\n".join(lines)
    assert "312 pairs" in text
    assert "generic score    61 %" in text
    assert "personal score   74 %" in text
    assert "difference      +13 points (90 % interval +5 to +21)" in text
    assert lines[-1].startswith("It has learned")


def test_too_little_to_judge_is_said_plainly() -> None:
    few = describe_adaptation(Adaptation(3, 0, None, None, None, Verdict.NOT_ENOUGH))
    assert few[0] == "Learned from 3 photos, too few to leave any out and check."
    assert few[-1].startswith("Not enough ratings yet")
    worse = describe_adaptation(Adaptation(30, 90, 0.7, 0.6, (-0.2, -0.01), Verdict.WORSE))
    assert "-10 points (90 % interval -20 to -1)" in "\n".join(worse)
    assert "less well than the generic one" in worse[-1]
