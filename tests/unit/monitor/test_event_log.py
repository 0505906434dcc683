"""The ring of events: what is kept, what a cursor says, who is told what is gone."""

from __future__ import annotations

import json

import pytest

from bms.errors import LocalProtocolError
from bms.monitor.events import EVENT_BYTES, EventLog


def filled(count: int, events_max: int = 10, kind: str = "node") -> EventLog:
    log = EventLog("life1", events_max=events_max)
    for number in range(1, count + 1):
        log.publish(kind, {"number": number}, float(number))
    return log


def numbers(events: tuple[object, ...]) -> list[int]:
    return [event.n for event in events]  # type: ignore[attr-defined]


def test_an_event_is_one_json_object_with_its_type_and_cursor_first() -> None:
    event = EventLog("ab12").publish("data", {"key": "ü", "size": 3}, 12.5)
    assert event.text == '{"type":"data","cursor":"ab12-1","time":12.5,"key":"ü","size":3}'
    assert event.text is event.text, "it is made once"


def test_without_a_cursor_one_follows_from_now_on() -> None:
    log = filled(3)
    backlog = log.after(None)
    assert (backlog.events, backlog.missed, backlog.cursor) == ((), 0, "life1-3")
    log.publish("node", {}, 4.0)
    events, missed = log.after(backlog.cursor)
    assert (numbers(events), missed) == ([4], 0)


def test_behind_a_cursor_come_the_events_since_in_order() -> None:
    events, missed = filled(8).after("life1-5")
    assert (numbers(events), missed) == ([6, 7, 8], 0)


def test_whoever_was_away_too_long_gets_what_is_kept_and_is_told_how_much_is_gone() -> None:
    backlog = filled(25, events_max=10).after("life1-3")
    assert numbers(backlog.events) == list(range(16, 26))
    assert (backlog.missed, backlog.begin, backlog.cursor) == (12, "life1-15", "life1-25")


def test_the_cursor_at_the_edge_of_what_is_kept_has_missed_nothing() -> None:
    log = filled(25, events_max=10)
    assert log.after("life1-15").missed == 0
    assert log.after("life1-14").missed == 1


def test_a_cursor_of_another_life_gets_all_that_is_kept_and_nobody_knows_what_it_missed() -> None:
    log = filled(4)
    for cursor in ("life0-2", "life0-900", "life1-900"):
        events, missed = log.after(cursor)
        assert (numbers(events), missed) == ([1, 2, 3, 4], None)


def test_one_who_wants_few_kinds_misses_nothing_when_only_others_are_gone() -> None:
    log = EventLog("life1", events_max=5)
    log.publish("node", {}, 0.0)
    place = log.cursor
    for _ in range(20):
        log.publish("log", {}, 0.0)
    assert log.after(place, frozenset({"node"})).missed == 0
    assert log.after(place, frozenset({"log"})).missed == 15
    assert log.after("life1-0", frozenset({"node"})).missed == 16


def test_what_a_source_could_not_tell_is_told_to_those_who_want_its_kind() -> None:
    log = EventLog("life1")
    place = log.cursor
    log.publish_missed("data", 7, 1.0)
    assert log.after(place, frozenset({"node"})).events == ()
    (event,) = log.after(place, frozenset({"data"})).events
    assert json.loads(event.text) == {"type": "missed", "cursor": "life1-1", "time": 1.0, "count": 7}


def test_a_limit_leaves_the_rest_for_the_next_time() -> None:
    log = filled(9)
    backlog = log.after("life1-1", limit=3)
    assert (numbers(backlog.events), backlog.is_all) == ([2, 3, 4], False)
    backlog = log.after(backlog.cursor, limit=5)
    assert (numbers(backlog.events), backlog.is_all) == ([5, 6, 7, 8, 9], True)


def test_the_bytes_are_bounded_as_well_as_the_number() -> None:
    log = EventLog("life1", events_max=1000, bytes_max=20 * EVENT_BYTES)
    for _ in range(100):
        log.publish("message", {"body": "x" * EVENT_BYTES}, 0.0)  # with its JSON three times that
        assert log.bytes <= log.bytes_max
    assert len(log) == 6
    log.publish("message", {"body": "x" * 100 * EVENT_BYTES}, 0.0)
    assert (len(log), log.bytes) == (0, 0), "larger than the ring: gone at once"
    assert log.after("life1-100").missed == 1


def test_fewer_events_can_be_kept_while_it_is_used() -> None:
    log = filled(10)
    log.events_max = 3
    log.publish("node", {}, 0.0)
    assert numbers(log.after("life1-0").events) == [9, 10, 11]


def test_whoever_waits_is_woken_until_they_say_otherwise() -> None:
    log, woken = EventLog("life1"), []
    end = log.on_publish(lambda: woken.append(1))
    log.publish("node", {}, 0.0)
    log.wake()
    end()
    log.publish("node", {}, 0.0)
    assert woken == [1, 1]


@pytest.mark.parametrize(
    "text", ["", "life1", "life1-", "-3", "life1-x", "life1--1", "life1-²", "life1-1.0", "a" * 70 + "-1"]
)
def test_what_is_no_cursor_is_an_error(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        filled(2).after(text)


@pytest.mark.parametrize("life", ["", "a-b", "é", "x" * 40, "a b"])
def test_a_life_is_a_short_word(life: str) -> None:
    with pytest.raises(LocalProtocolError):
        EventLog(life)
