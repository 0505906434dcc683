"""Carries messages over links: at most once, acknowledged, pushed back, retried on a new link.

A direct message has an id (sender, the sender's boot, counter). It is retried with the same counter on a new link until
it is acknowledged or its deadline passes; the receiver's window makes sure that it is delivered once. It is bound to
the receiver's boot of the first try, because a restarted receiver has forgotten its window. "Busy" says for certain
that it was not taken, so the next try has a new counter and old ones do not fall out of the window. A request is sent
once: when its link breaks, its outcome is unknown.

The receiver checks, in this order: the sender's grant for the topic, the boot, the window, room. The sender's grant is
that of the highest admission known of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable

import attrs
import trio

from ..config import Config
from ..counters import Counters
from ..errors import (
    DeliveryError,
    LimitError,
    LocalProtocolError,
    MeshError,
    RefusedError,
    RemoteError,
    UnreachableError,
)  # fmt: skip
from ..net.link import Handler, Link
from ..security.records import Admission
from ..security.trust import READ, WRITE, Trust
from ..values import Message, NodeId
from ..wire.fields import NAME_BYTES_MAX, TOPIC_BYTES_MAX, clip_text, is_topic
from ..wire.messages import AnyMessage, Broadcast, Error, Note, Ok, Request, Response
from .topics import Topics
from .window import DeliveryWindow, Verdict

__all__ = ["Courier", "RequestHandler", "RequestServer"]

log = logging.getLogger("bms.messaging")

RequestHandler = Callable[[Message], Awaitable[bytes]]

_BUSY_WAIT_S = 0.01
_BUSY_WAIT_MAX_S = 0.25
_ERROR_TEXT_BYTES = 1000


@attrs.define
class RequestServer:
    """Who answers requests on a topic."""

    nursery: trio.Nursery
    handler: RequestHandler
    under_way: int = 0


class Courier:
    """Sends and receives the messages of one node."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        boot: int,
        admission: Admission,
        trust: Trust,
        topics: Topics,
        config: Config,
        counters: Counters,
        wall_time: Callable[[], float],
        link: Callable[[NodeId], Link | None],
        links: Callable[[], Iterable[Link]],
        servers: dict[str, RequestServer] | None = None,
    ) -> None:
        self.boot = boot
        self._node_id = node_id
        self._admission = admission
        self._trust = trust
        self._topics = topics
        self._config = config
        self._counters = counters
        self._wall_time = wall_time
        self._link = link
        self._links = links
        self._counter = 0
        self._windows: dict[NodeId, tuple[int, DeliveryWindow]] = {}
        self._servers: dict[str, RequestServer] = {} if servers is None else servers
        """Who serves which topic. They outlive this courier: a program serves until it is cancelled."""
        self._sent = counters.tally("messaging.sent", 1)
        self._received = counters.tally("messaging.received", 1)
        self._broadcasts = counters.tally("messaging.broadcast", 1)
        self._served = counters.tally("messaging.requests_served", 1)
        self._delivery_s = counters.histogram("messaging.delivery_s")
        self._request_s = counters.histogram("messaging.request_s")
        self._serve_s = counters.histogram("messaging.serve_s")
        self._link_came = trio.Event()
        self.routes: dict[type, Handler] = {
            Note: self._receive_note,
            Broadcast: self._receive_broadcast,
            Request: self._receive_request,
        }

    def reconfigure(self, config: Config) -> None:
        """Use new limits from now on."""
        self._config = config

    def use(self, admission: Admission) -> None:
        """Send under this admission from now on."""
        self._admission = admission

    def link_up(self, link: Link) -> None:
        """A link came up: those who wait for one look again."""
        self._link_came.set()
        self._link_came = trio.Event()

    # ------------------------------------------------------------------ sending

    async def send(self, to: NodeId, body: bytes, topic: str, deadline_s: float) -> None:
        """Deliver one message; see `Mesh.send_message`."""
        began = trio.current_time()
        try:
            self._check(body, topic, deadline_s)
            state = _Try()
            with trio.move_on_after(deadline_s):
                if to == self._node_id:
                    await self._deliver_here(body, topic, state)
                else:
                    await self._deliver(to, body, topic, state)
                self._sent[0] += 1
                seconds = trio.current_time() - began
                self._delivery_s.observe(seconds)
                if seconds >= self._counters.slow_s:
                    self._slow("send", seconds, to, topic, body)
                return
            raise state.failure(to, deadline_s)
        except MeshError as error:
            self._failed("send", began, to, topic, body, error)
            raise

    async def _deliver(self, to: NodeId, body: bytes, topic: str, state: _Try) -> None:
        counter = self._next()
        boot: int | None = None
        sent_at = int(self._wall_time() * 1000)
        wait_s = _BUSY_WAIT_S
        broken = 0
        while True:
            link = await self._link_to(to)
            if boot is not None and boot != link.boot:
                if state.sent:
                    raise DeliveryError(f"{to.short} has restarted; whether it had the message is unknown")
                boot = None
            boot = boot or link.boot
            # From here to an answer it may have been delivered, also when the deadline ends the call.
            earlier, state.sent, state.busy = state.sent, True, False
            try:
                await link.call(Note(0, boot, counter, topic, body, sent_at))
                return
            except DeliveryError:
                broken += 1
                if broken > self._config.max_retries:
                    raise
                self._counters.add("messaging.retries")
            except UnreachableError:
                state.sent = earlier
                self._counters.add("messaging.retries")
            except RemoteError as error:
                state.sent = earlier
                # Too old at the first try: thousands of others overtook it while it waited for a link.
                if error.kind != "busy" and (error.kind != "too_old" or earlier):
                    raise _refusal(error) from None
                state.busy = error.kind == "busy"
                if not state.sent:
                    counter = self._next()
                self._counters.add("messaging.pushed_back")
                await trio.sleep(wait_s)
                wait_s = min(_BUSY_WAIT_MAX_S, wait_s * 2)

    async def _deliver_here(self, body: bytes, topic: str, state: _Try) -> None:
        await trio.lowlevel.checkpoint()
        message = self._message(self._node_id, self.boot, self._next(), topic, body, int(self._wall_time() * 1000))
        wait_s = _BUSY_WAIT_S
        while not self._topics.offer(message):
            state.busy = True
            await trio.sleep(wait_s)
            wait_s = min(_BUSY_WAIT_MAX_S, wait_s * 2)

    async def request(self, to: NodeId, body: bytes, topic: str, deadline_s: float) -> bytes:
        """Ask and return the answer; see `Mesh.request`."""
        began = trio.current_time()
        try:
            self._check(body, topic, deadline_s)
            state = _Try()
            with trio.move_on_after(deadline_s):
                wait_s = _BUSY_WAIT_S
                while True:
                    try:
                        answer = await self._ask(to, body, topic, state)
                    except DeliveryError:
                        raise
                    except UnreachableError:
                        state.sent = False  # the link had ended before that: wait for the next
                        continue
                    except RemoteError as error:
                        if error.kind != "busy":
                            raise _refusal(error) from None
                    else:
                        seconds = trio.current_time() - began
                        self._request_s.observe(seconds)
                        if seconds >= self._counters.slow_s:
                            self._slow("request", seconds, to, topic, body)
                        return answer
                    state.busy, state.sent = True, False
                    self._counters.add("messaging.pushed_back")
                    await trio.sleep(wait_s)
                    wait_s = min(_BUSY_WAIT_MAX_S, wait_s * 2)
            raise state.failure(to, deadline_s)
        except MeshError as error:
            self._failed("request", began, to, topic, body, error)
            raise

    async def _ask(self, to: NodeId, body: bytes, topic: str, state: _Try) -> bytes:
        if to == self._node_id:
            server = self._servers.get(topic)
            if server is None:
                raise RemoteError("NotFoundError", f"nobody serves requests on topic {topic!r} at this node")
            await trio.lowlevel.checkpoint()
            message = self._message(to, self.boot, self._next(), topic, body, int(self._wall_time() * 1000))
            try:
                return bytes(await server.handler(message))
            except Exception as error:
                raise RemoteError(type(error).__name__, str(error)) from error
        link = await self._link_to(to)
        state.sent, state.busy = True, False
        reply = await link.call(Request(0, link.boot, self._next(), topic, body))
        if not isinstance(reply, Response):
            raise RemoteError("RemoteProtocolError", f"a request was answered with {type(reply).__name__}")
        return reply.body

    def broadcast(self, body: bytes, topic: str) -> int:
        """Queue a message for every linked node, and deliver it here; returns how many nodes it was queued for.

        A link whose queue is full loses it; that is counted.
        """
        self._check(body, topic, 0)
        counter = self._next()
        message = Broadcast(counter, topic, body, int(self._wall_time() * 1000))
        count = 0
        for link in self._links():
            try:
                taken = link.send_nowait(message)
            except LimitError:
                taken = False  # larger than the frames of that one peer
            count += taken
            if not taken:
                self._counters.add("messaging.broadcasts_unsent")
        self._topics.publish(self._message(self._node_id, self.boot, counter, topic, body, message.sent_at))
        self._broadcasts[0] += 1
        return count

    def _slow(
        self, what: str, seconds: float, peer: NodeId, topic: str, body: bytes, error: MeshError | None = None
    ) -> None:
        facts: dict[str, object] = {"peer": peer.short, "topic": topic, "bytes": len(body)}
        if error is not None:
            facts["error"] = type(error).__name__
        self._counters.slow(what, seconds, facts)

    def _failed(self, what: str, began: float, to: NodeId, topic: str, body: bytes, error: MeshError) -> None:
        self._counters.count("messaging.failed", what, type(error).__name__)
        seconds = trio.current_time() - began
        if seconds >= self._counters.slow_s:
            self._slow(what, seconds, to, topic, body, error)

    def _check(self, body: bytes, topic: str, deadline_s: float) -> None:
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise LocalProtocolError(f"a message's body is bytes, not {type(body).__name__}")
        if len(body) > self._config.limits.body_bytes_max:
            raise LimitError(
                f"the body has {len(body)} bytes; limits.body_bytes_max is {self._config.limits.body_bytes_max}"
            )
        if not is_topic(topic):
            raise LocalProtocolError(
                f"a topic is at most {TOPIC_BYTES_MAX} bytes of text without control characters and '*', "
                f"not {topic[:80]!r}"
            )
        if not (math.isfinite(deadline_s) and deadline_s >= 0):
            raise LocalProtocolError(f"a deadline is a number of seconds from 0, not {deadline_s!r}")
        if not self._trust.allows(self._admission, f"topic:{topic}", WRITE):
            raise RefusedError(f"this node's admission does not allow sending on topic {topic!r}")

    def _next(self) -> int:
        self._counter += 1
        return self._counter

    async def _link_to(self, to: NodeId) -> Link:
        while True:
            link = self._link(to)
            if link is not None:
                return link
            await self._link_came.wait()

    # ------------------------------------------------------------------ receiving

    def _message(self, sender: NodeId, boot: int, counter: int, topic: str, body: bytes, sent_ms: int) -> Message:
        return Message(f"{sender}-{boot}-{counter}", sender, topic, body, sent_ms / 1000)

    def _window(self, link: Link) -> DeliveryWindow | None:
        """The window of the peer's boot; None for an older boot than one that was heard, whose window is gone."""
        boot, window = self._windows.get(link.node_id, (0, None))
        if window is None or boot < link.boot:
            window = DeliveryWindow()
            self._windows[link.node_id] = (link.boot, window)
        elif boot > link.boot:
            return None
        return window

    def _may_send(self, link: Link, topic: str) -> bool:
        admission = self._trust.in_force(link.node_id) or link.peer.admission
        allowed = self._trust.allows(admission, f"topic:{topic}", WRITE)
        allowed = allowed and self._trust.allows(self._admission, f"topic:{topic}", READ)
        if not allowed:
            self._counters.add("messaging.refused")
        return allowed

    def _receive_note(self, link: Link, note: Note) -> None:
        link.send_nowait(self._accept_note(link, note))

    def _refuse(self, message_id: int, kind: str, text: str) -> Error:
        self._counters.count("messaging.refusals", kind)
        return Error(message_id, kind, text)

    def _accept_note(self, link: Link, note: Note) -> AnyMessage:
        if not self._may_send(link, note.topic):
            return self._refuse(note.id, "refused", f"no grant for topic {note.topic!r}")
        if note.boot != self.boot:
            return self._refuse(note.id, "other_boot", "this node has restarted since")
        window = self._window(link)
        verdict = Verdict.TOO_OLD if window is None else window.check(note.counter)
        if window is None or verdict is Verdict.TOO_OLD:
            return self._refuse(note.id, "too_old", "whether this message was delivered is not remembered")
        if verdict is Verdict.NEW:
            message = self._message(link.node_id, link.boot, note.counter, note.topic, note.body, note.sent_at)
            if not self._topics.offer(message):
                return self._refuse(note.id, "busy", "the receiver's queue is full")
            window.take(note.counter)
            self._received[0] += 1
        else:
            self._counters.add("messaging.duplicates")
        return Ok(note.id)

    def _receive_broadcast(self, link: Link, message: Broadcast) -> None:
        if not self._may_send(link, message.topic):
            return
        window = self._window(link)
        if window is not None and window.check(message.counter) is Verdict.NEW:
            window.take(message.counter)
            self._received[0] += 1
            self._topics.publish(
                self._message(link.node_id, link.boot, message.counter, message.topic, message.body, message.sent_at)
            )

    def _receive_request(self, link: Link, request: Request) -> None:
        server = self._servers.get(request.topic)
        if not self._may_send(link, request.topic):
            link.send_nowait(self._refuse(request.id, "refused", f"no grant for topic {request.topic!r}"))
        elif request.boot != self.boot:
            link.send_nowait(self._refuse(request.id, "other_boot", "this node has restarted since"))
        elif server is None:
            text = f"nobody serves requests on topic {request.topic!r} at this node"
            link.send_nowait(self._refuse(request.id, "NotFoundError", text))
        elif server.under_way >= self._config.limits.inbox_messages_max:
            link.send_nowait(self._refuse(request.id, "busy", "too many requests are under way"))
        else:
            server.under_way += 1
            server.nursery.start_soon(self._serve_request, server, link, request)

    async def _serve_request(self, server: RequestServer, link: Link, request: Request) -> None:
        try:
            await self._answer(server, link, request)
        finally:
            server.under_way -= 1

    async def _answer(self, server: RequestServer, link: Link, request: Request) -> None:
        sent_ms = int(self._wall_time() * 1000)
        message = self._message(link.node_id, link.boot, request.counter, request.topic, request.body, sent_ms)
        began = trio.current_time()
        try:
            body = bytes(await server.handler(message))
            if len(body) > self._config.limits.body_bytes_max:
                raise LimitError(f"the answer has {len(body)} bytes, above limits.body_bytes_max")
            reply: AnyMessage = Response(request.id, body)
            self._served[0] += 1
            seconds = trio.current_time() - began
            self._serve_s.observe(seconds)
            if seconds >= self._counters.slow_s:
                self._slow("serve", seconds, link.node_id, request.topic, request.body)
        except Exception as error:
            # The program's handler failed: its caller is told, and other requests go on.
            self._counters.add("messaging.handler_errors")
            log.warning("the handler of topic %r failed for %s", request.topic, link.node_id.short, exc_info=True)
            text = clip_text(str(error), _ERROR_TEXT_BYTES)
            reply = Error(request.id, clip_text(type(error).__name__, NAME_BYTES_MAX), text)
        # A peer that asks and does not read loses its answers, rather than filling this node with them.
        with trio.move_on_after(self._config.gossip.keepalive_timeout_s):
            try:
                try:
                    await link.send(reply)
                except LimitError as error:  # the peer takes smaller frames than this node
                    await link.send(Error(request.id, "LimitError", str(error)))
                return
            except UnreachableError:
                pass
        self._counters.add("messaging.answers_unsent")

    async def serve_requests(
        self,
        topic: str,
        handler: RequestHandler,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer requests on `topic` until cancelled; see `Mesh.serve_requests`."""
        if topic in self._servers:
            raise LocalProtocolError(f"topic {topic!r} is served already")
        try:
            async with trio.open_nursery() as nursery:
                self._servers[topic] = RequestServer(nursery, handler)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._servers.pop(topic, None)


@attrs.define
class _Try:
    """How far an attempt has come, for the error if its deadline passes."""

    sent: bool = False
    busy: bool = False

    def failure(self, to: NodeId, deadline_s: float) -> MeshError:
        if self.busy and not self.sent:
            return LimitError(f"{to.short} had no room for the message within {deadline_s:g} s; nothing was delivered")
        if self.sent:
            return DeliveryError(f"{to.short} did not acknowledge within {deadline_s:g} s; the outcome is unknown")
        return UnreachableError(f"{to.short} could not be reached within {deadline_s:g} s; nothing was sent")


def _refusal(error: RemoteError) -> MeshError:
    if error.kind == "refused":
        return RefusedError(error.text)
    if error.kind in ("other_boot", "too_old"):
        return DeliveryError(error.text)
    return error
