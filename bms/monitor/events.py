"""The last events of a node in one bounded ring, each with a number; whoever follows is a position in it.

An event is a kind ("node", "data", "message", "health", "log") with plain fields that JSON can carry. They are numbered
1, 2, … in one sequence, whatever their kind. Where a source was too slow to tell everything, an event of type "missed"
stands for those of its kind (`publish_missed`). A cursor is text, `<life>-<n>`: the position behind event n of the ring
with that life; a client treats it as opaque. The ring holds at most `events_max` events of at most `bytes_max` bytes
(as `Event.size` estimates them); the oldest go first.

What a follower gets with `after(cursor)` is the gapless sequence of events behind its cursor, or is told first that
some are gone:

    cursor                              events                      missed
    None                                none: from now on           0
    this life, all kept                 those behind it             0
    this life, some wanted ones gone    all that is kept            how many numbers are gone, of all kinds: what the
                                                                    follower missed is at most that, and at least one
    another life, or never given        all that is kept            None: nobody knows

So a follower that is slow or away costs nothing here, and one that asks for few kinds misses nothing when only others
have gone. Plain: the time is passed in; who waits for events is woken by the callbacks of `on_publish`, which must
not raise. Deliberately absent: filters by what is in an event (the streams' own), and any kept text on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from ..errors import LocalProtocolError

__all__ = ["Backlog", "Event", "EventLog", "parse_cursor"]

CURSOR_CHARACTERS_MAX = 64
EVENT_BYTES = 512
"""What an event is taken to need beside its texts: itself, its fields, and its place in the ring."""


@attrs.define(eq=False)
class Event:
    """One thing that happened. `time` is Unix seconds; `fields` are not changed after it was published."""

    cursor: str
    n: int
    kind: str
    type: str
    """As followers see it: the kind, or "missed"."""
    time: float
    fields: Mapping[str, Any]
    size: int
    """Bytes that it is taken to need in memory, with its JSON once somebody has asked for that."""
    _text: str | None = None

    @property
    def text(self) -> str:
        """As one JSON object; made once, for however many followers."""
        if self._text is None:
            whole = {"type": self.type, "cursor": self.cursor, "time": self.time, **self.fields}
            self._text = json.dumps(whole, separators=(",", ":"), ensure_ascii=False)
        return self._text


@attrs.frozen
class Backlog:
    """What `after` found: `missed` as in the table above, events in order, and the cursor to go on from, which lies
    behind all that was looked at, of whatever kind.
    """

    events: tuple[Event, ...]
    missed: int | None
    begin: str
    """The cursor to which what is missed reaches, and behind which the events are."""
    cursor: str
    is_all: bool = True
    """False if `limit` left some for the next time."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.events, self.missed))


class EventLog:
    """The ring of one node. `life` tells it from every other ring that this node has had."""

    def __init__(self, life: str, *, events_max: int = 10_000, bytes_max: int = 16 * 1024 * 1024) -> None:
        if not life or len(life) > CURSOR_CHARACTERS_MAX // 2 or not (life.isascii() and life.isalnum()):
            raise LocalProtocolError(f"a life is a short ASCII word of letters and digits, not {life[:80]!r}")
        self.life = life
        self.events_max = events_max
        self.bytes_max = bytes_max
        self.last = 0
        """The number of the newest event; 0 before the first."""
        self.bytes = 0
        self._first = 1
        self._kept: dict[int, Event] = {}
        self._gone: dict[str, int] = {}
        self._callbacks: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def cursor(self) -> str:
        """The position behind the newest event."""
        return f"{self.life}-{self.last}"

    def publish(self, kind: str, fields: Mapping[str, Any], time: float) -> Event:
        """Add an event that happened at `time` (Unix seconds) and wake the followers; the oldest make room."""
        return self._add(kind, kind, fields, time)

    def publish_missed(self, kind: str, count: int | None, time: float) -> Event:
        """Say that `count` events of this kind (None: nobody knows how many) were not told, to those who want it."""
        return self._add(kind, "missed", {"count": count}, time)

    def _add(self, kind: str, shown: str, fields: Mapping[str, Any], time: float) -> Event:
        self.last += 1
        event = Event(self.cursor, self.last, kind, shown, time, fields, _size(fields))
        self._kept[event.n] = event
        self.bytes += event.size
        while len(self._kept) > self.events_max or self.bytes > self.bytes_max:
            self._drop_oldest()
        self.wake()
        return event

    def wake(self) -> None:
        """Wake the followers, for another reason than an event."""
        for callback in tuple(self._callbacks):
            callback()

    def _drop_oldest(self) -> None:
        event = self._kept.pop(self._first)
        self.bytes -= event.size
        self._gone[event.kind] = event.n
        self._first += 1

    def on_publish(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever an event was added; returns what ends it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def after(self, cursor: str | None, kinds: frozenset[str] | None = None, *, limit: int | None = None) -> Backlog:
        """The events behind `cursor`, of the wanted `kinds` (None: of all), and how many are gone; see the module.

        At most `limit` events are looked at. Raises LocalProtocolError if the text is no cursor at all.
        """
        if cursor is None:
            return Backlog((), 0, self.cursor, self.cursor)
        life, n = parse_cursor(cursor)
        missed: int | None = 0
        if life != self.life or n > self.last:
            n, missed = self._first - 1, None
        elif n < self._first - 1:
            if any(gone > n for kind, gone in self._gone.items() if kinds is None or kind in kinds):
                missed = self._first - 1 - n
            n = self._first - 1
        end = self.last if limit is None else min(self.last, n + limit)
        found = (self._kept[number] for number in range(n + 1, end + 1))
        events = tuple(event for event in found if kinds is None or event.kind in kinds)
        return Backlog(events, missed, f"{self.life}-{n}", f"{self.life}-{end}", end == self.last)


def parse_cursor(text: str) -> tuple[str, int]:
    """The life and the number of a cursor; LocalProtocolError if it is none."""
    life, dash, number = text.rpartition("-")
    is_fine = text.isascii() and life.isalnum() and number.isdigit() and len(text) <= CURSOR_CHARACTERS_MAX
    if not (dash and is_fine):
        raise LocalProtocolError(f"this is no cursor of an event: {text[:80]!r}")
    return life, int(number)


def _size(fields: Mapping[str, Any]) -> int:
    # Each text counts as it stands here and once more in the JSON; what is not ASCII has up to 4 bytes a character.
    total = EVENT_BYTES
    for value in fields.values():
        if isinstance(value, str):
            total += len(value) * (2 if value.isascii() else 8)
        elif isinstance(value, list | tuple):
            total += sum(2 * len(item) for item in value if isinstance(item, str))
    return total
