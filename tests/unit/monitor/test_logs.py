"""The last records of the log: numbered, bounded, without secrets; a program without logging still hears warnings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from bms.monitor.logs import TEXT_MAX, LogRecord, RecentLogs, collecting

log = logging.getLogger("bms.test_logs")


@pytest.fixture
def logs() -> Iterator[RecentLogs]:
    log.setLevel(logging.DEBUG)
    with collecting(RecentLogs(4)) as found:
        yield found
    log.setLevel(logging.NOTSET)


def test_records_are_numbered_and_asked_for_by_number(logs: RecentLogs) -> None:
    for number in range(3):
        log.info("record %d", number)
    assert [(record.n, record.text, record.level, record.logger) for record in logs.after()] == [
        (number + 1, f"record {number}", "info", "bms.test_logs") for number in range(3)
    ]
    assert [record.n for record in logs.after(1)] == [2, 3]
    assert [record.n for record in logs.after(1, limit=1)] == [2]
    assert logs.after(3) == []
    assert logs.last == 3


def test_only_the_last_are_kept_and_the_numbers_show_what_is_gone(logs: RecentLogs) -> None:
    for number in range(10):
        log.warning("%d", number)
    assert [record.n for record in logs.after(2)] == [7, 8, 9, 10]
    assert [record.n for record in logs.newest(2)] == [9, 10]
    assert logs.newest(0) == []


def test_a_traceback_is_part_of_its_record_and_long_texts_are_cut(logs: RecentLogs) -> None:
    try:
        raise ValueError("of all things")
    except ValueError:
        log.exception("it failed")
    log.error("x" * TEXT_MAX * 2)
    first, second = logs.after()
    assert first.text.startswith("it failed\nTraceback")
    assert "of all things" in first.text
    assert len(second.text) == TEXT_MAX


def test_tokens_and_codes_are_left_out(logs: RecentLogs) -> None:
    token = "bms_0123456789abcdef_" + "A" * 43
    code = "bmsc_" + "A" * 43
    log.warning("the token %s, Authorization: Bearer %s, %s, http://x/#login=abcDEF123", token, "sesame", code)
    (record,) = logs.after()
    assert record.text == "the token [secret], Authorization: Bearer [secret], [secret], http://x/#login=[secret]"


def test_a_record_whose_arguments_do_not_fit_is_kept_as_it_is(logs: RecentLogs) -> None:
    logs.handle(logging.LogRecord("bms.x", logging.INFO, "", 0, "%d of %d", ("one",), None))
    assert [record.text for record in logs.after()] == ["%d of %d"]


def test_whoever_follows_hears_of_each_record_from_any_thread() -> None:
    heard: list[LogRecord] = []

    def speak() -> None:
        for _ in range(50):
            log.warning("x")

    with collecting(RecentLogs(1000, heard.append)) as logs:
        threads = [threading.Thread(target=speak) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(record.n for record in heard) == list(range(1, 201))
    assert [record.n for record in logs.after()] == list(range(1, 201))


def test_without_another_handler_warnings_still_reach_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Last(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    monkeypatch.setattr(logging, "lastResort", Last(logging.WARNING))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with collecting(RecentLogs()), collecting(RecentLogs()):
        log.info("quiet")
        log.warning("loud")
        assert told == ["loud"]
        other = logging.NullHandler()
        log.addHandler(other)
        log.warning("handled")
        log.removeHandler(other)
    assert told == ["loud"]
