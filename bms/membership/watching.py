"""Who follows what happens to members: bounded queues between the membership and the program's tasks.

A watcher that is too slow does not hold the membership up: beyond `EVENTS_MAX` waiting events new ones are dropped, and
a `Missed` with their number stands in their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ..errors import ClosedError
from ..values import Missed, NodeEvent

__all__ = ["NodeWatch", "Watches"]

EVENTS_MAX = 10_000


class NodeWatch:
    """An async iterator of `NodeEvent` and `Missed`, live from the moment it is entered; it ends with the mesh."""

    def __init__(self) -> None:
        self._events: deque[NodeEvent] = deque()
        self._missed = 0
        self._arrived = trio.Event()
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[NodeEvent | Missed]:
        return self

    async def __anext__(self) -> NodeEvent | Missed:
        while not (self._events or self._missed):
            if self._is_closed:
                raise StopAsyncIteration
            if self._arrived.is_set():  # otherwise another task waits for it, too
                self._arrived = trio.Event()
            await self._arrived.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._events:
            return self._events.popleft()
        missed, self._missed = self._missed, 0
        return Missed(missed)

    def _put(self, event: NodeEvent) -> None:
        if self._missed or len(self._events) >= EVENTS_MAX:
            self._missed += 1
        else:
            self._events.append(event)
        self._arrived.set()

    def _close(self) -> None:
        self._is_closed = True
        self._arrived.set()


class Watches:
    """The watchers of one life of a node."""

    def __init__(self) -> None:
        self._watches: list[NodeWatch] = []
        self._is_closed = False

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[NodeWatch]:
        """Follow what happens from now on. ClosedError after `close`."""
        if self._is_closed:
            raise ClosedError("the mesh is stopped")
        watch = NodeWatch()
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    def tell(self, event: NodeEvent) -> None:
        """Queue an event for each watcher."""
        for watch in self._watches:
            watch._put(event)

    def close(self) -> None:
        """Let every watcher end when it has read what waits."""
        self._is_closed = True
        for watch in self._watches:
            watch._close()
