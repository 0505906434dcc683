"""The verbs about messages: to one node, to all, requests, subscriptions. At most once each, always bounded.

What waits where, and what happens when it is full, is in docs/concepts/messages.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import trio

from ..errors import RefusedError
from ..messaging.topics import Subscription, Tap
from ..neighbours import check_topic
from ..security.trust import READ
from ..values import Message, Node
from .core import Core

__all__ = ["MessageVerbs"]

_BROADCASTS_A_TURN = 32


class MessageVerbs(Core):
    """See the module."""

    _broadcasts: int

    async def send_message(self, to: str | Node, body: bytes, topic: str = "", deadline_s: float = 5.0) -> None:
        """Send to one node; returns when it is queued for that node's program and acknowledged.

        Retried on a broken link without ever being delivered twice. Raises NotFoundError (no such node),
        UnreachableError (never sent), DeliveryError (sent, outcome unknown), LimitError (too large, or the receiver had
        no room), RefusedError (no grant).
        """
        check_topic(topic)
        courier, node_id = self._running().courier, self._known(to)
        if self._tracer is None:
            await courier.send(node_id, bytes(body), topic, deadline_s)
            return
        with self._tracer.span("bms.send", peer=node_id.short, topic=topic, bytes=len(body)):
            await courier.send(node_id, bytes(body), topic, deadline_s)

    async def request(self, to: str | Node, body: bytes, topic: str = "", deadline_s: float = 5.0) -> bytes:
        """Ask one node and return its handler's answer. Errors as for `send_message`; a handler's error is a
        RemoteError.
        """
        check_topic(topic)
        courier, node_id = self._running().courier, self._known(to)
        if self._tracer is None:
            return await courier.request(node_id, bytes(body), topic, deadline_s)
        with self._tracer.span("bms.request", peer=node_id.short, topic=topic, bytes=len(body)):
            return await courier.request(node_id, bytes(body), topic, deadline_s)

    async def serve_requests(
        self,
        topic: str,
        handler: Callable[[Message], Awaitable[bytes]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer requests on `topic` with `await handler(message)`, many at once, until cancelled.

        LocalProtocolError if the topic is served already.
        """
        check_topic(topic)
        await self._running().courier.serve_requests(topic, handler, task_status=task_status)

    async def broadcast_message(self, body: bytes, topic: str = "") -> int:
        """Send to every node that is linked now, and this one, at most once each; how many others it was queued for.

        It is not acknowledged; a node that is too slow loses it and sees `Missed`.
        """
        # A full checkpoint costs more than the rest of this; one in a few calls is enough to let the others run.
        self._broadcasts += 1
        if self._broadcasts % _BROADCASTS_A_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        check_topic(topic)
        if self._tracer is None:
            return self._running().courier.broadcast(bytes(body), topic)
        with self._tracer.span("bms.broadcast", topic=topic, bytes=len(body)):
            return self._running().courier.broadcast(bytes(body), topic)

    def subscribe(self, topic: str = "") -> AbstractAsyncContextManager[Subscription]:
        """An async context manager giving an async iterator of `Message` and `Missed` on `topic`.

        Live from the moment it is entered; ends when the mesh stops.
        """
        self._may_read(topic)
        return self._topics.subscribe(topic)

    def tap_messages(self, tap: Tap) -> Callable[[], None]:
        """Show every message that passes to this node's program to `tap(message, is_held)`, without taking any.

        Called at once, on the Trio thread; must be plain, quick, and not raise. Returns what ends it.
        """
        return self._topics.tap(tap)

    def attend_topic(self, topic: str) -> AbstractContextManager[None]:
        """A context manager: meanwhile this node counts as a subscriber of `topic` that keeps nothing, for taps."""
        self._may_read(topic)
        return self._topics.attend(topic)

    def _may_read(self, topic: str) -> None:
        check_topic(topic)
        self._running()
        if not self._trust.allows(self._identity.admission, f"topic:{topic}", READ):
            raise RefusedError(f"this node's admission does not allow topic {topic!r}")
