"""Bugs planted on purpose, in simulated worlds alone, to see that the checkers find them.

Each is what a plausible mistake in the library would be, and is taken back with the test's `monkeypatch`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import apsw
import attrs
import pytest

from bms.data.entries import Entries
from bms.data.entry import TOMBSTONE, parse_entry_untrusted
from bms.messaging.window import DeliveryWindow, Verdict
from bms.store import database, folder
from bms.values import Value

__all__ = ["PLANTED", "Plant"]


def early_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit returns before its bytes are flushed, so that a write is acknowledged that a power loss takes."""
    original = folder.open_connection

    def hasty(path: Path, *, writer: bool, **options: Any) -> apsw.Connection:
        connection = original(path, writer=writer, **options)
        if writer:
            connection.execute("PRAGMA synchronous=OFF")
        return connection

    monkeypatch.setattr(database, "open_connection", hasty)


def lost_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor moves past a push whose entries were not stored."""
    original = Entries.apply
    calls = [0]

    async def careless(self: Entries, batches: Any, admissions: Any, advances: Any = ()) -> Any:
        calls[0] += 1
        if calls[0] % 50 == 0 and advances:
            batches = []
        return await original(self, batches, admissions, advances)

    monkeypatch.setattr(Entries, "apply", careless)


def dropped_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletes are left out of what is taken from others."""
    original = Entries.apply

    def deletes(batch: Any) -> bool:
        entries = [parse_entry_untrusted(body) for _, body, _ in batch[1]]
        return any(entry is not None and entry.flags & TOMBSTONE for entry in entries)

    async def forgetful(self: Entries, batches: Any, admissions: Any, advances: Any = ()) -> Any:
        return await original(self, [batch for batch in batches if not deletes(batch)], admissions, advances)

    monkeypatch.setattr(Entries, "apply", forgetful)


def stale_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads go through a cache from which a write takes its key when it begins: a read meanwhile puts the old value
    back, and it stays.
    """
    get, put, apply = Entries.get, Entries.put, Entries.apply
    caches: WeakKeyDictionary[Entries, dict[bytes, Value]] = WeakKeyDictionary()

    def cached_get(self: Entries, key: bytes) -> Value:
        cache = caches.setdefault(self, {})
        if key not in cache:
            cache[key] = get(self, key)
        return cache[key]

    async def hasty_put(self: Entries, key: bytes, value: bytes | None, **options: Any) -> Any:
        caches.setdefault(self, {}).pop(key, None)
        return await put(self, key, value, **options)

    async def careful_apply(self: Entries, *arguments: Any) -> Any:
        done = await apply(self, *arguments)
        caches.setdefault(self, {}).clear()
        return done

    monkeypatch.setattr(Entries, "get", cached_get)
    monkeypatch.setattr(Entries, "put", hasty_put)
    monkeypatch.setattr(Entries, "apply", careful_apply)


def double_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is sent again, because the answer was lost, is taken for a new one."""
    monkeypatch.setattr(DeliveryWindow, "check", lambda self, counter: Verdict.NEW)


@attrs.frozen
class Plant:
    """A bug, the scenario in which it shows, and the checkers of which one must find it."""

    plant: Callable[[pytest.MonkeyPatch], None]
    scenario: str
    found_by: frozenset[str]


PLANTED = {
    "early acknowledgement": Plant(early_acknowledgement, "disks", frozenset({"acknowledged_is_kept", "start"})),
    "early acknowledgement, raced for": Plant(early_acknowledgement, "races", frozenset({"linearizable"})),
    "stale read": Plant(stale_read, "races", frozenset({"linearizable"})),
    "lost cursor": Plant(lost_cursor, "storm", frozenset({"cursors_are_true"})),
    "dropped delete": Plant(dropped_delete, "calm", frozenset({"deleted_stays_deleted", "replicas_are_equal"})),
    "double delivery": Plant(double_delivery, "storm", frozenset({"at_most_once"})),
}
