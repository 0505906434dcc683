"""`bms.log`: what a record looks like on standard error."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bms.log import ConsoleFormatter, JsonFormatter, configure, printable


def record(message: str, *arguments: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("bms.net").makeRecord("bms.net", level, "x.py", 1, message, arguments, None, extra=extra)
    made.created, made.msecs = 1_900_000_000.25, 250.0
    return made


def failed_record() -> logging.LogRecord:
    made = record("it failed", level=logging.ERROR)
    try:
        raise ValueError("first\nsecond \x1b[31m")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("bms")
    handlers, level = list(root.handlers), ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


def test_a_console_line_has_time_level_room_and_message() -> None:
    line = ConsoleFormatter().format(record("joined %s", "abc"))
    moment, rest = line.split(" ", 1)
    assert moment.endswith(".250")
    assert rest == "info    net: joined abc"


def test_colours_mark_the_level_alone() -> None:
    line = ConsoleFormatter(colours=True).format(record("careful", level=logging.WARNING))
    assert "\x1b[33mwarning\x1b[0m net: careful" in line
    assert "\x1b" not in ConsoleFormatter(colours=True).format(record("calm"))


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x1b[2J", "\x00", "\x9b31m", "\u202egnp.exe", "\u2028"])
def test_what_a_peer_sent_cannot_fake_a_line_or_steer_the_terminal(text: str) -> None:
    line = ConsoleFormatter().format(record("name %s", text))
    assert line.isprintable()
    assert json.loads(JsonFormatter().format(record("name %s", text)))["message"] == f"name {text}"
    assert "\n" not in JsonFormatter().format(record("name %s", text))


def test_ordinary_text_of_any_language_is_left_alone() -> None:
    assert printable("Küche 台所 🍳") == "Küche 台所 🍳"
    assert printable("a\tb\\") == "a\\tb\\"


def test_a_traceback_follows_indented_on_the_console() -> None:
    first, *others = ConsoleFormatter().format(failed_record()).split("\n")
    assert first.endswith("it failed")
    assert others
    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert any("ValueError: first" in line for line in others)


def test_a_json_record_is_one_object_with_its_extras_and_error() -> None:
    text = JsonFormatter().format(failed_record())
    fields = json.loads(text)
    assert fields["time"] == "2030-03-17T17:46:40.250Z"
    assert (fields["level"], fields["logger"], fields["message"]) == ("error", "bms.net", "it failed")
    assert "ValueError: first" in fields["error"]
    fields = json.loads(JsonFormatter().format(record("x", peer="abc", thing=object)))
    assert fields["peer"] == "abc"
    assert fields["thing"] == str(object)


@pytest.mark.usefixtures("untouched_logging")
def test_configuring_writes_ours_from_the_level_up_and_warnings_of_others() -> None:
    stream = io.StringIO()
    configure("debug", "console", stream)
    logging.getLogger("bms.net").debug("ours")
    logging.getLogger("other").warning("theirs")
    logging.getLogger("other").info("not theirs")
    lines = stream.getvalue().splitlines()
    assert [line.split(" ", 1)[1].split(None, 1)[1] for line in lines] == ["net: ours", "other: theirs"]


@pytest.mark.usefixtures("untouched_logging")
def test_configuring_again_replaces_what_was_there() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("info", "console", first)
    configure("warning", "json", second)
    logging.getLogger("bms.net").info("quiet")
    logging.getLogger("bms.net").warning("loud")
    assert first.getvalue() == ""
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["loud"]


@pytest.mark.usefixtures("untouched_logging")
def test_a_reader_that_is_gone_costs_nothing_but_the_line() -> None:
    stream = io.StringIO()
    configure("info", "console", stream)
    stream.close()
    logging.getLogger("bms.net").info("nobody hears this")
