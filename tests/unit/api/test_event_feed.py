"""How data, messages and health look in an event, whatever they are made of."""

from __future__ import annotations

import base64

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bms.api.context import Context
from bms.api.events import BODY_BYTES_MAX, _Feed, data_fields, message_fields
from bms.data.commits import Head
from bms.monitor.events import EventLog
from bms.monitor.logs import RecentLogs
from bms.reports import Check, Health
from bms.values import Message, NodeId, Version

NODE = NodeId("a" * 64)


def fields_of(body: bytes, is_held: bool = False) -> dict[str, object]:
    return message_fields(Message("1", NODE, "t", body, 5.0), is_held)


def test_a_body_is_text_where_it_is_utf_8_and_base64_elsewhere() -> None:
    assert fields_of("grüße".encode()) == {
        "id": "1", "sender": NODE, "topic": "t", "body": "grüße", "sent_at": 5.0, "size": 7,
    }  # fmt: skip
    found = fields_of(b"\xff")
    assert (found["body_base64"], "body" in found) == ("/w==", False)
    assert fields_of(b"", is_held=True)["held"] is True


@pytest.mark.parametrize("character", ["x", "ü", "€", "😀"])
@pytest.mark.parametrize("shift", range(4))
def test_a_long_text_is_cut_between_two_characters(character: str, shift: int) -> None:
    text = "x" * shift + character * (BODY_BYTES_MAX + 1)
    found = fields_of(text.encode())
    assert isinstance(found["body"], str)
    assert text.startswith(found["body"])
    assert BODY_BYTES_MAX - 4 < len(found["body"].encode()) <= BODY_BYTES_MAX
    assert (found["truncated"], found["size"]) == (True, len(text.encode()))


@given(st.binary(max_size=200), st.integers(0, 1))
def test_what_is_shown_is_where_the_body_begins(tail: bytes, more: int) -> None:
    body = b"a" * (BODY_BYTES_MAX - 100 * more) + tail
    found = fields_of(body)
    encoded = found.get("body_base64")
    shown = str(found["body"]).encode() if encoded is None else base64.b64decode(str(encoded))
    assert body.startswith(shown)
    assert len(body) - len(shown) <= max(0, len(body) - BODY_BYTES_MAX) + 3
    assert ("truncated" in found) == (len(body) > BODY_BYTES_MAX)


class Patient:
    """A node, as far as its health is looked at: each look finds the next of what it was given."""

    def __init__(self, *found: Health) -> None:
        self.left = list(found)

    def check_health(self) -> Health:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    def now(self) -> float:
        return 0.0


def health(status: str, **reasons: str) -> Health:
    return Health(status, tuple(Check(name, status, reason) for name, reason in reasons.items()))


async def test_health_is_told_at_first_and_when_a_check_has_changed_its_mind(
    autojump_clock: trio.testing.MockClock,
) -> None:
    patient = Patient(
        health("ok", disk="12% full"), health("ok", disk="13% full"), health("degraded", disk="91% full"),
        health("degraded", disk="92% full"), health("degraded", disk="93% full", clock="\udcff"),
        health("ok", disk="1%"),
    )  # fmt: skip
    log = EventLog("x")
    feed = _Feed(Context(patient, log, RecentLogs()))  # type: ignore[arg-type]
    with trio.move_on_after(10):
        await feed.tell_health()
    events, _ = log.after("x-0")
    assert [(event.fields["status"], event.fields["reasons"]) for event in events] == [
        ("ok", []),
        ("degraded", ["disk: 91% full"]),
        ("degraded", ["disk: 93% full", "clock: \\udcff"]),
        ("ok", []),
    ]


@given(st.binary(min_size=1, max_size=20))
def test_a_key_is_told_without_loss(key: bytes) -> None:
    found = data_fields(Head(key, Version("v"), NODE, 3, False))
    assert (found["key"] is None) == ("key_base64" in found)
    told = base64.b64decode(found["key_base64"]) if found["key"] is None else found["key"].encode()
    assert told == key
