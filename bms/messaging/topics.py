"""What waits for the program: one bounded queue a subscriber, and a shelf a sender for topics nobody subscribed to yet.

A direct message is taken only if every subscriber of its topic has room; otherwise its sender is told to try again, so
a slow program pushes back. A broadcast never waits: a full subscriber loses it and finds a `Missed` in its place.
Direct messages for a topic without a subscriber are held, bounded, for the first who comes; broadcasts for it are
dropped.

Each queue is bounded by `limits.inbox_messages_max` and `limits.inbox_bytes_max`. So is all that is held of one sender,
in all topics together, of which it may use `limits.topics_max`: nobody fills the memory by inventing topics, or takes
another's room.

Who only looks on (`tap`) is shown each message when it reaches subscribers, or would have: broadcasts when they come,
direct messages when they are taken. One that has to wait on a shelf is shown as `held` when it comes, and again when
somebody takes it. `attend` counts as a subscriber that takes everything at once and keeps nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from ..config import Config
from ..counters import Counters
from ..errors import ClosedError
from ..values import Message, Missed, NodeId

__all__ = ["Subscription", "Tap", "Topics"]

Tap = Callable[[Message, bool], None]
"""Is shown a message, and whether it is `held` on a shelf. Must not raise, nor keep the body if that is large."""


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


class _Shelf:
    """What is held of one sender, by topic; all of it together has the bounds of one queue."""

    def __init__(self, config: Config) -> None:
        self.limits = config.limits
        self.all = _Queue(config)
        self.topics: dict[str, list[Message]] = {}

    def put(self, message: Message) -> bool:
        if message.topic not in self.topics and len(self.topics) >= self.limits.topics_max:
            return False
        if not self.all.has_room(message):
            return False
        self.topics.setdefault(message.topic, []).append(message)
        self.all.count(message)
        return True

    def take(self, topic: str, queue: _Queue) -> None:
        for message in self.topics.pop(topic, ()):
            queue.push(message)
            self.all.messages -= 1
            self.all.bytes -= len(message.body)


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
        self._attended: Counter[str] = Counter()
        self._shelves: dict[NodeId, _Shelf] = {}
        self._taps: list[Tap] = []
        self._is_closed = False

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[Subscription]:
        """Get what comes on `topic` from now on, first what was held for it. ClosedError after `close`."""
        if self._is_closed:
            raise ClosedError("the mesh is stopped")
        queue = _Queue(self._config)
        self._unshelve(topic, queue)
        subscription = Subscription(queue)
        self._subscribers.setdefault(topic, []).append(subscription)
        try:
            yield subscription
        finally:
            subscribers = self._subscribers[topic]
            subscribers.remove(subscription)
            if not subscribers:
                del self._subscribers[topic]

    @contextmanager
    def attend(self, topic: str) -> Iterator[None]:
        """Take what comes on `topic` for those who tap, first what was held for it. ClosedError after `close`."""
        if self._is_closed:
            raise ClosedError("the mesh is stopped")
        self._unshelve(topic, _Queue(self._config))
        self._attended[topic] += 1
        try:
            yield
        finally:
            self._attended[topic] -= 1
            if not self._attended[topic]:
                del self._attended[topic]

    def _unshelve(self, topic: str, queue: _Queue) -> None:
        """Move what was held for `topic` to a queue. Nothing is held of a topic that has subscribers."""
        for sender, shelf in list(self._shelves.items()):
            shelf.take(topic, queue)
            if not shelf.topics:
                del self._shelves[sender]
        if self._taps:
            for message in queue.items:
                assert isinstance(message, Message)
                self._show(message, False)

    def tap(self, tap: Tap) -> Callable[[], None]:
        """Show each message to `tap` from now on (see the module); returns what ends it."""
        self._taps.append(tap)
        return lambda: self._taps.remove(tap)

    def _show(self, message: Message, is_held: bool) -> None:
        for tap in self._taps:
            tap(message, is_held)

    def offer(self, message: Message) -> bool:
        """Deliver a direct message; False if somebody's queue is full: then nobody got it."""
        subscribers = self._subscribers.get(message.topic)
        if subscribers is None and message.topic not in self._attended:
            return self._shelve(message)
        if subscribers is None:
            subscribers = []
        if not all(subscription._queue.has_room(message) for subscription in subscribers):
            return False
        for subscription in subscribers:
            subscription._queue.push(message)
            subscription._wake()
        if self._taps:
            self._show(message, False)
        return True

    def _shelve(self, message: Message) -> bool:
        shelf = self._shelves.get(message.sender)
        if shelf is None:
            shelf = self._shelves[message.sender] = _Shelf(self._config)
        is_taken = shelf.put(message)
        if is_taken and self._taps:
            self._show(message, True)
        return is_taken

    def publish(self, message: Message) -> None:
        """Deliver a broadcast to those who have room."""
        for subscription in self._subscribers.get(message.topic, ()):
            if subscription._queue.has_room(message):
                subscription._queue.push(message)
            else:
                self._counters.add("messaging.broadcasts_dropped")
                subscription._queue.miss()
            subscription._wake()
        if self._taps:
            self._show(message, False)

    def waiting(self) -> int:
        """How many messages wait in all queues."""
        queues = [s._queue for subscribers in self._subscribers.values() for s in subscribers]
        return sum(queue.messages for queue in queues) + sum(shelf.all.messages for shelf in self._shelves.values())

    def full_share(self) -> float:
        """How full the fullest queue is, in messages or bytes, 0 to 1."""
        queues = [s._queue for subscribers in self._subscribers.values() for s in subscribers]
        queues += [shelf.all for shelf in self._shelves.values()]
        limits = self._config.limits
        most = [max(q.messages / limits.inbox_messages_max, q.bytes / limits.inbox_bytes_max) for q in queues]
        return max(most, default=0.0)

    def reconfigure(self, config: Config) -> None:
        """Use new limits at once; what waits already stays."""
        self._config = config
        for shelf in self._shelves.values():
            shelf.limits = shelf.all.limits = config.limits
        for subscribers in self._subscribers.values():
            for subscription in subscribers:
                subscription._queue.limits = config.limits

    def open(self) -> None:
        """Take subscribers (again)."""
        self._is_closed = False

    def close(self) -> None:
        """End every subscription: its iterator stops after what is queued."""
        self._is_closed = True
        for subscribers in self._subscribers.values():
            for subscription in subscribers:
                subscription._close()
