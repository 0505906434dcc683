"""What waits for the program: one bounded queue a subscriber, and one a topic nobody has subscribed to yet.

A direct message is taken only if every subscriber of its topic has room; otherwise its sender is told to try again, so
a slow program pushes back. A broadcast never waits: a full subscriber loses it and finds a `Missed` in its place.
Direct messages for a topic without a subscriber are held, bounded, for the first who comes; broadcasts for it are
dropped.

Each queue is bounded by `limits.inbox_messages_max` and `limits.inbox_bytes_max`, and so is all that is held, in all
topics together, so that nobody fills the memory by inventing topics; those that hold something by `limits.topics_max`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ..config import Config
from ..counters import Counters
from ..errors import ClosedError
from ..values import Message, Missed

__all__ = ["Subscription", "Topics"]


class _Queue:
    """Messages in order, counted in number and bytes."""

    def __init__(self, config: Config) -> None:
        self.limits = config.limits
        self.items: deque[Message | Missed] = deque()
        self.messages = 0
        self.bytes = 0

    def has_room(self, message: Message) -> bool:
        limits = self.limits
        return self.messages < limits.inbox_messages_max and self.bytes + len(message.body) <= limits.inbox_bytes_max

    def push(self, message: Message) -> None:
        self.items.append(message)
        self.count(message)

    def count(self, message: Message) -> None:
        self.messages += 1
        self.bytes += len(message.body)

    def miss(self) -> None:
        last = self.items[-1] if self.items else None
        if isinstance(last, Missed):
            self.items[-1] = Missed(last.count + 1)
        else:
            self.items.append(Missed(1))

    def pop(self) -> Message | Missed:
        item = self.items.popleft()
        if isinstance(item, Message):
            self.messages -= 1
            self.bytes -= len(item.body)
        return item


class Subscription:
    """An async iterator of `Message` and `Missed`, live from the moment it is entered."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue
        self._arrived = trio.Event()
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[Message | Missed]:
        return self

    async def __anext__(self) -> Message | Missed:
        while not self._queue.items:
            if self._is_closed:
                raise StopAsyncIteration
            if self._arrived.is_set():  # otherwise another task waits for it, too
                self._arrived = trio.Event()
            await self._arrived.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._queue.pop()

    def _wake(self) -> None:
        self._arrived.set()

    def _close(self) -> None:
        self._is_closed = True
        self._arrived.set()


class Topics:
    """The subscribers and held messages of one node."""

    def __init__(self, config: Config, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self._subscribers: dict[str, list[Subscription]] = {}
        self._held: dict[str, _Queue] = {}
        self._held_total = _Queue(config)  # counts only: all topics together have the bounds of one queue
        self._is_closed = False

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[Subscription]:
        """Get what comes on `topic` from now on, first what was held for it. ClosedError after `close`."""
        if self._is_closed:
            raise ClosedError("the mesh is stopped")
        queue = None if self._subscribers.get(topic) else self._held.pop(topic, None)
        if queue is not None:
            self._held_total.messages -= queue.messages
            self._held_total.bytes -= queue.bytes
        subscription = Subscription(queue or _Queue(self._config))
        self._subscribers.setdefault(topic, []).append(subscription)
        try:
            yield subscription
        finally:
            subscribers = self._subscribers[topic]
            subscribers.remove(subscription)
            if not subscribers:
                del self._subscribers[topic]

    def offer(self, message: Message) -> bool:
        """Deliver a direct message; False if somebody's queue is full: then nobody got it."""
        subscribers = self._subscribers.get(message.topic)
        if subscribers is None:
            held = self._held.get(message.topic)
            if held is None and len(self._held) >= self._config.limits.topics_max:
                return False
            if not self._held_total.has_room(message):
                return False
            if held is None:
                held = self._held[message.topic] = _Queue(self._config)
            held.push(message)
            self._held_total.count(message)
            return True
        if not all(subscription._queue.has_room(message) for subscription in subscribers):
            return False
        for subscription in subscribers:
            subscription._queue.push(message)
            subscription._wake()
        return True

    def publish(self, message: Message) -> None:
        """Deliver a broadcast to those who have room."""
        for subscription in self._subscribers.get(message.topic, ()):
            if subscription._queue.has_room(message):
                subscription._queue.push(message)
            else:
                self._counters.add("messaging.broadcasts_dropped")
                subscription._queue.miss()
            subscription._wake()

    def waiting(self) -> int:
        """How many messages wait in all queues."""
        queues = [s._queue for subscribers in self._subscribers.values() for s in subscribers]
        return sum(queue.messages for queue in [*queues, *self._held.values()])

    def reconfigure(self, config: Config) -> None:
        """Use new limits at once; what waits already stays."""
        self._config = config
        subscribed = [s._queue for subscribers in self._subscribers.values() for s in subscribers]
        for queue in [self._held_total, *self._held.values(), *subscribed]:
            queue.limits = config.limits

    def open(self) -> None:
        """Take subscribers (again)."""
        self._is_closed = False

    def close(self) -> None:
        """End every subscription: its iterator stops after what is queued."""
        self._is_closed = True
        for subscribers in self._subscribers.values():
            for subscription in subscribers:
                subscription._close()
