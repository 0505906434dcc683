"""Errors and slow operations: counted, bounded, in the log, without secrets, and fit for JSON."""

from __future__ import annotations

import json
import logging

import attrs
import pytest

from bms.counters import Counters
from bms.monitor.journal import KEPT_MAX, Journal


class Clock:
    """A wall clock that is set by hand."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def journal(counters: Counters, clock: Clock) -> Journal:
    return Journal(counters, clock)


def test_an_error_is_kept_counted_by_class_and_logged_with_its_traceback(
    journal: Journal, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ValueError("no such colour")
    except ValueError as error:
        record = journal.failed(error, {"colour": "green", "tries": 3})
    assert (record.time, record.error, record.text) == (1_000.0, "ValueError", "no such colour")
    assert record.context == {"colour": "green", "tries": 3}
    assert counters.labelled("monitor.errors") == {("ValueError",): 1}
    (logged,) = caplog.records
    assert logged.levelno == logging.ERROR
    assert logged.exc_info is not None
    assert logged.getMessage() == "ValueError: no such colour (colour=green tries=3)"


def test_context_is_bounded_plain_and_without_tokens(journal: Journal) -> None:
    token = "bms_0123456789abcdef_" + "A" * 43
    context = {"token": token, "long": "x" * 10_000, "nan": float("nan"), "inf": float("inf"), "none": None, "o": {1}}
    record = journal.failed(RuntimeError(token), context | {f"more{n}": n for n in range(100)})
    text = json.dumps(attrs.asdict(record), allow_nan=False)
    assert token not in text
    assert len(text) < 3_000
    assert record.context["o"] == "{1}"
    assert "none" not in record.context
    assert len(record.context) <= 16


def test_only_the_last_are_kept(journal: Journal, counters: Counters) -> None:
    for number in range(KEPT_MAX + 10):
        journal.took_long("commit", 2.0, {"number": number})
        journal.failed(OSError(str(number)), {})
    assert [slow.facts["number"] for slow in journal.slow] == list(range(10, KEPT_MAX + 10))
    assert journal.errors[-1].text == str(KEPT_MAX + 9)
    assert len(journal.errors) == KEPT_MAX
    assert counters["monitor.slow_operations"] == KEPT_MAX + 10


def test_slow_operations_fill_the_log_with_one_line_a_second_of_each_kind(
    journal: Journal, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        journal.took_long("commit", 1.25, {"writes": 3})
        journal.took_long("send", 2.0, {"peer": "abc", "error": None})
    assert [record.getMessage() for record in caplog.records] == [
        "commit took 1.250 s: writes=3",
        "send took 2.000 s: peer=abc",
    ]
    clock.now += 1.0
    journal.took_long("commit", 1.25, {})
    assert len(caplog.records) == 3
    assert len(journal.slow) == 11
