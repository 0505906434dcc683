"""What happens at a node, put into its ring of events while HTTP is on: one task for each source, none of them waits
for a client.

    type      from                                 fields
    node      mesh.watch_nodes                     what, node_id, name, by
    data      each commit's keys, and expiry       space, key, key_base64?, version, size, author, deleted
    message   a tap on all that passes to the      id, sender, topic, body or body_base64, sent_at, size,
              node's program                       truncated?, held?
    health    mesh.check_health, once a second     status, reasons; when the status of a check has changed
    log       the recent records of the log        level, logger, text
    missed    any of these, where it was too slow  count; null for what happened between a crash here and the new start

- A data event says what a key holds when it is made: of several writes in quick succession it may show the last alone.
  An expired key is one that is deleted, told within `EXPIRY_S`.
- Bodies are shown up to `BODY_BYTES_MAX` bytes: `size` is the whole body's, `truncated` says that this is not all.
- A direct message that nobody has subscribed to yet is `held`, and shown again, without that, when somebody takes it.
- Bytes that are no UTF-8 (keys, bodies) come as base64; `key` is null then.

The ring is bounded (`monitor.events`), and so is what waits to be put into it. Who reads it is in `followers`.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import trio

from ..data.commits import Head
from ..errors import StoreError
from ..membership.watching import NodeWatch
from ..values import Message, Missed

if TYPE_CHECKING:
    from .context import Context

__all__ = ["BODY_BYTES_MAX", "Bell", "data_fields", "feed", "message_fields"]

BODY_BYTES_MAX = 8 * 1024
EXPIRY_S = 1.0
HEALTH_S = 1.0

_LOST = ("node", "data", "message", "log")  # what happens while this does not run; health is told as it is then
_KEYS_WAITING_MAX = 10_000
_KEYS_A_TURN = 64
_RECORDS_A_TURN = 200
_UTF8_TAIL = 3  # bytes that a character may lack at its end


async def feed(context: Context, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Fill `context.events` until cancelled; started once nothing that happens from then on is lost."""
    source = _Feed(context)
    mesh = context.mesh
    async with mesh.watch_nodes() as nodes, trio.open_nursery() as nursery:
        with ExitStack() as ends:
            ends.callback(mesh.tap_data(source.keys_changed))
            ends.callback(mesh.tap_messages(source.message_came))
            ends.enter_context(_heard(source))
            source.begin()
            nursery.start_soon(source.tell_nodes, nodes)
            nursery.start_soon(source.tell_data)
            nursery.start_soon(source.tell_expiry)
            nursery.start_soon(source.tell_health)
            nursery.start_soon(source.tell_records)
            nursery.start_soon(source.wake_at_end)
            task_status.started()
            await trio.sleep_forever()


def _heard(source: _Feed) -> ExitStack:
    """Hear of log records while this is entered. They come from any thread."""
    token, logs = trio.lowlevel.current_trio_token(), source.context.logs
    earlier = logs.on_record

    def heard(record: Any) -> None:
        if earlier is not None:
            earlier(record)
        try:
            token.run_sync_soon(source.records_came.ring, idempotent=True)
        except trio.RunFinishedError:
            pass  # a thread that logs after the end

    ends = ExitStack()
    logs.on_record = heard
    ends.callback(setattr, logs, "on_record", earlier)
    return ends


class _Feed:
    """The sources of one node's events."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.records_came = Bell()
        self._log = context.events
        self._mesh = context.mesh
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self._keys_missed = 0
        self._keys_came = Bell()
        self._records_upto = context.logs.last

    def begin(self) -> None:
        """Say that there is a gap, if this begins anew after a crash."""
        if self.context.was_fed:
            for kind in _LOST:
                self._publish_missed(kind, None)
        self.context.was_fed = True

    def _publish(self, kind: str, fields: dict[str, Any]) -> None:
        self._log.publish(kind, fields, self._mesh.now())

    def _publish_missed(self, kind: str, count: int | None) -> None:
        self._log.publish_missed(kind, count, self._mesh.now())

    # ---------------------------------------------------------------- nodes

    async def tell_nodes(self, nodes: NodeWatch) -> None:
        """Until the node stops."""
        async for event in nodes:
            if isinstance(event, Missed):
                self._publish_missed("node", event.count)
                continue
            fields = {"what": event.what, "node_id": event.node_id, "name": event.name, "by": event.by}
            self._publish("node", fields)

    # ---------------------------------------------------------------- data

    def keys_changed(self, keys: Sequence[bytes]) -> None:
        """A commit is on disk. What the keys hold is read later: nobody who writes waits for it."""
        waiting = self._keys
        for key in keys:
            waiting[key] = None
        while len(waiting) > _KEYS_WAITING_MAX:  # the ring holds no more than about that many events anyway
            waiting.popitem(last=False)
            self._keys_missed += 1
        self._keys_came.ring()

    async def tell_data(self) -> None:
        """Whenever keys have changed."""
        while True:
            await self._keys_came.wait()
            while self._keys or self._keys_missed:
                if self._keys_missed:
                    self._publish_missed("data", self._keys_missed)
                    self._keys_missed = 0
                turn = [self._keys.popitem(last=False)[0] for _ in range(min(len(self._keys), _KEYS_A_TURN))]
                try:
                    heads = self._mesh.key_heads(turn)
                except StoreError:  # the disk says no; health says so, too
                    self._keys_missed += len(turn)
                    await trio.sleep(HEALTH_S)
                    continue
                for head in heads:
                    self._publish("data", data_fields(head))
                await trio.lowlevel.checkpoint()

    async def tell_expiry(self) -> None:
        """Look for what has expired since the last look."""
        upto: int | None = None
        while True:
            try:
                heads, upto = self._mesh.expired_keys(upto)
            except StoreError:
                heads = []  # looked for again the next time
            for head in heads:
                self._publish("data", data_fields(head))
            await trio.sleep(EXPIRY_S)

    # ---------------------------------------------------------------- messages

    def message_came(self, message: Message, is_held: bool) -> None:
        """A message reached the node's program, or has to wait for it."""
        self._publish("message", message_fields(message, is_held))

    # ---------------------------------------------------------------- health

    async def tell_health(self) -> None:
        """At first, and whenever a check has changed its mind; texts with numbers in them may change more often."""
        known: object = None
        while True:
            health = self._mesh.check_health()
            found = (health.status, [(check.name, check.status) for check in health.checks])
            if found != known:
                known = found
                reasons = [f"{check.name}: {check.reason}" for check in health.checks if check.status != "ok"]
                self._publish("health", {"status": health.status, "reasons": [_clean(text) for text in reasons]})
            await trio.sleep(HEALTH_S)

    # ---------------------------------------------------------------- log

    async def tell_records(self) -> None:
        """Whenever something was logged."""
        logs, upto = self.context.logs, self._records_upto
        while True:
            await self.records_came.wait()
            while records := logs.after(upto, _RECORDS_A_TURN):
                if gone := records[0].n - upto - 1:
                    self._publish_missed("log", gone)
                for record in records:
                    fields = {"level": record.level, "logger": record.logger, "text": _clean(record.text)}
                    self._log.publish("log", fields, record.time)
                upto = records[-1].n
                await trio.lowlevel.checkpoint()

    # ---------------------------------------------------------------- the end

    async def wake_at_end(self) -> None:
        """Wake the streams when the servers drain, so that they say why and end."""
        await self.context.closing.wait()
        self._log.wake()


class Bell:
    """Wakes one task once, however often it was rung since."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake it, or let its next `wait` return at once."""
        self._event.set()

    async def wait(self) -> None:
        """Until it was rung since the last time."""
        await self._event.wait()
        self._event = trio.Event()


# -------------------------------------------------------------------- fields


def data_fields(head: Head) -> dict[str, Any]:
    """A key's state as an event carries it."""
    fields: dict[str, Any] = {"space": "default", "key": None}
    try:
        fields["key"] = head.key.decode()
    except UnicodeDecodeError:
        fields["key_base64"] = base64.b64encode(head.key).decode()
    return fields | {"version": head.version, "size": head.size, "author": head.author, "deleted": head.deleted}


def message_fields(message: Message, is_held: bool) -> dict[str, Any]:
    """A message as an event carries it, with as much of its body as is shown."""
    body, size = message.body, len(message.body)
    fields: dict[str, Any] = {"id": message.id, "sender": message.sender, "topic": message.topic}
    fields |= _body(body) if size <= BODY_BYTES_MAX else _body(body[:BODY_BYTES_MAX], cut=True) | {"truncated": True}
    fields |= {"sent_at": message.sent_at, "size": size}
    if is_held:
        fields["held"] = True
    return fields


def _body(body: bytes, cut: bool = False) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError as error:
        if cut and error.start >= len(body) - _UTF8_TAIL:  # a character that was cut in two
            return {"body": body[: error.start].decode()}
    return {"body_base64": base64.b64encode(body).decode()}


def _clean(text: str) -> str:
    """Text that UTF-8 can hold: file names in it may hold what is none."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
