"""One line in the log for many like it."""

from __future__ import annotations

import logging

import pytest

from bms.seldom import Seldom


def test_the_first_is_said_at_once_and_then_one_in_each_interval_with_the_number() -> None:
    seldom = Seldom(60.0)
    said = [(step / 10, count) for step in range(1500) if (count := seldom.note(("a", "lies"), step / 10))]
    assert said == [(0.0, 1), (60.0, 600), (120.0, 600)]
    assert seldom.note(("a", "floods"), 1.0) == seldom.note(("b", "lies"), 1.0) == 1
    seldom.forget("a")
    assert seldom.note(("a", "lies"), 150.0) == 1
    assert seldom.note(("b", "lies"), 2.0) == 0


def test_kinds_take_bounded_room() -> None:
    seldom = Seldom(60.0)
    for number in range(10_000):
        assert seldom.note((number,), 0.0) == 1
    assert len(seldom._said) <= 4096


def test_a_line_says_how_many_were_not_said(caplog: pytest.LogCaptureFixture) -> None:
    seldom, log = Seldom(10.0), logging.getLogger("bms.test")
    for now in range(12):
        seldom.log(log, logging.WARNING, ("refused",), now, "refused %s", now)
    seldom.log(log, logging.ERROR, ("crashed",), 0.0, "it failed", error=ValueError("why"))
    assert [record.getMessage() for record in caplog.records] == [
        "refused 0",
        "refused 10 (10 times since this was said)",
        "it failed",
    ]
    assert caplog.records[-1].exc_info is not None
    assert "ValueError: why" in caplog.text
