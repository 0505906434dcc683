"""One link: a proven peer, frames both ways, requests matched with replies.

One writer task owns waiting for the channel; nobody else ever waits on a send. What is queued goes out in one send,
control and replies first, then messages and requests, then bulk; none starves. A request on a link with none under way
is sent at once from its caller, and the replies to what one read brought go out in one send by the reader: sleeping and
waking is what costs.

The queue is bounded in bytes: `send_nowait` says False when it is full, `send` and `call` wait for room. Reading never
waits for the application: handlers are plain functions that put work elsewhere.

A link ends when its peer closes it, breaks the protocol, goes silent for `keepalive_timeout_s`, or when it is retired
or closed here. Then every call under way raises DeliveryError: whether the peer acted on it is unknown.

Decoding and handling cannot be interrupted, and what a peer sends may cost more than it looks. So a link's reader that
has kept the loop busy for `_TURN_S` rests for as long as it did: others have at least half of the time, however much
comes. Where they left a rest unused (by the thread's CPU time) the next turn is twice as long, up to `_TURN_S_MAX`, so
that a transfer to a node with nothing else to do loses a ninth. What is not read meanwhile waits with its sender.

Why a link ended stands in `reason` and `fault`; its owner logs it. Counted for all links together: messages each way by
type, how long replies took, and how long senders waited for room. RTT is smoothed as in RFC 6298 from pings, which also
measure the difference of the two wall clocks (NTP's way, RFC 5905 §8).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import outcome
import trio

from ..config import Config
from ..counters import Counters, Histogram
from ..errors import DeliveryError, LimitError, RemoteError, RemoteProtocolError, UnreachableError
from ..values import NodeId
from ..wire.codec import encode_fields
from ..wire.fields import clip_text
from ..wire.framing import FrameReader, frame
from ..wire.messages import (
    AnyMessage,
    Chunks,
    Close,
    CloseCode,
    Entries,
    Error,
    Ids,
    Ok,
    Ping,
    Pong,
    Response,
    SyncState,
    frame_message,
    parse_message_untrusted,
)  # fmt: skip
from .handshake import Peer
from .tls import Channel

__all__ = ["Handler", "Link"]

Handler = Callable[["Link", Any], None]

_REPLIES = (Ok, Error, Response, SyncState, Ids, Entries, Chunks)
_SEND_BYTES = 64 * 1024
_LINGER_S = 1.0
_FAREWELL_S = 0.1
_REASON_BYTES = 1000
_PROGRESS_BYTES = 512
_TURN_S, _TURN_S_MAX = 0.005, 0.04
_REST_S_MAX = 0.25
_UNUSED = 0.05
_BULK_TYPES = range(32, 48)
_TYPES = 128
"""Message types that links count one by one."""

# A message of a type that means nothing: whoever gets it ignores it. It fills a link whose throughput is measured.
_FILLER_BYTES = 32 * 1024
_FILLER = frame(encode_fields((255, 0, bytes(_FILLER_BYTES))))


class Link:
    """One proven peer. `node_id`, `boot` and `peer` say who; `is_open` whether it can still be used."""

    cpu_time: Callable[[], float] = staticmethod(time.thread_time)
    """What this thread has used, in seconds; tests have their own."""

    def __init__(
        self,
        channel: Channel,
        peer: Peer,
        reader: FrameReader,
        waiting: list[bytes],
        *,
        dialed: bool,
        config: Config,
        counters: Counters,
        routes: Mapping[type, Handler],
        wall_time: Callable[[], float],
    ) -> None:
        self.peer = peer
        self.node_id: NodeId = peer.node_id
        self.boot = peer.boot
        self.dialed = dialed
        self.is_open = True
        self.since = trio.current_time()
        self.ended = trio.Event()
        self.reason = ""
        self.fault: Exception | None = None
        """What the peer did wrong if that ended it, or this program: then it is no RemoteProtocolError."""
        self.host = ""
        """Where the peer is as this side sees it, in digits, where a network knows that."""
        self.rtt_s: float | None = None
        self.rtt_variance_s = 0.0
        self.clock_offset_ms: int | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.reply_s = Histogram()
        """How long this peer took for replies; added to those of all links when this one has ended."""
        self._channel = channel
        self._reader = reader
        self._waiting = waiting
        self._config = config
        self._counters = counters
        self._sent = counters.tally("net.messages_sent", _TYPES)
        self._received = counters.tally("net.messages_received", _TYPES)
        self._routes = routes
        self._wall_time = wall_time
        self._scope = trio.CancelScope()
        self._queues: tuple[deque[bytes], ...] = (deque(), deque(), deque())
        self._queued_bytes = 0
        self._is_blocked = False
        self._is_corked = False
        self._wake = trio.Event()
        self._room = trio.Event()
        self._calls: dict[int, trio.lowlevel.Task] = {}
        self._probes: dict[int, trio.Event] = {}
        # Callers that were answered by one read ask again together: their requests go out together, by the writer.
        self._answered_together = 0
        self._last_id = 0
        self._farewell: Close | None = None
        self._last_words: bytes | None = None
        self._heard_at = 0.0
        self._retimed = trio.Event()
        self._ping: tuple[int, float, float] | None = None
        reader.frame_bytes_max = config.limits.frame_bytes_max

    def __repr__(self) -> str:
        return f"<Link {self.node_id.short} {'open' if self.is_open else 'closed: ' + self.reason}>"

    def reconfigure(self, config: Config) -> None:
        """Use new time-outs and queue bounds at once. The longest frame stays: both sides have agreed on it."""
        old, self._config = self._config, config
        if config.gossip != old.gossip:
            self._retimed.set()
        if config.limits.link_queue_bytes_max > old.limits.link_queue_bytes_max:
            self._room.set()

    @property
    def queued(self) -> tuple[int, int]:
        """What waits to be sent: messages and bytes."""
        return sum(map(len, self._queues)), self._queued_bytes

    # ------------------------------------------------------------------ sending

    def send_nowait(self, message: AnyMessage) -> bool:
        """Queue a message; False if the queue is full or the link has ended: then it was not taken."""
        if not self.is_open or self._queued_bytes > self._config.limits.link_queue_bytes_max:
            return False
        self._enqueue(message)
        if not self._is_corked:
            self._wake.set()
        return True

    async def send(self, message: AnyMessage) -> None:
        """Queue a message, waiting for room; UnreachableError if the link ended first."""
        while not self.send_nowait(message):
            await self._wait_room()

    async def call(self, message: AnyMessage, deadline_s: float | None = None) -> AnyMessage:
        """Send a request (its id is chosen here) and return the reply to it.

        Raises UnreachableError (the link had ended: nothing was sent), DeliveryError (it ended, or `deadline_s` passed,
        before the reply), RemoteError (the reply was an error).
        """
        if deadline_s is not None:
            with trio.move_on_after(deadline_s):
                return await self.call(message)
            raise DeliveryError(f"no answer from {self.node_id.short} within {deadline_s:g} s")
        while self.is_open and self._queued_bytes > self._config.limits.link_queue_bytes_max:
            await self._wait_room()
        if not self.is_open:
            raise UnreachableError(f"the link to {self.node_id.short} has ended: {self.reason}")
        self._last_id += 1
        request_id = self._last_id
        self._enqueue(message, request_id)
        self._calls[request_id] = trio.lowlevel.current_task()
        began = trio.current_time()
        if len(self._calls) == 1 and self._answered_together < 2:
            self._flush_nowait()
        else:
            self._wake.set()

        def abort(raise_cancel: Any) -> trio.lowlevel.Abort:
            self._calls.pop(request_id, None)
            return trio.lowlevel.Abort.SUCCEEDED

        reply: AnyMessage = await trio.lowlevel.wait_task_rescheduled(abort)
        self.reply_s.observe(self._heard_at - began)  # what was read at once has one time
        if isinstance(reply, Error):
            raise RemoteError(reply.kind, reply.text)
        return reply

    async def probe(self, filler_bytes: int = 0) -> float:
        """Seconds until the peer answers a ping that goes out behind `filler_bytes`, which it ignores.

        What is queued already goes out first. Raises UnreachableError if the link ends before the answer.
        """
        self._last_id += 1
        answered = self._probes[self._last_id] = trio.Event()
        ping = frame_message(Ping(id=self._last_id, time=int(self._wall_time() * 1000)))
        began = trio.current_time()
        try:
            for _ in range(-(-filler_bytes // _FILLER_BYTES)):
                self._put_bulk(_FILLER)
                while self.is_open and self._queued_bytes > self._config.limits.link_queue_bytes_max:
                    await self._wait_room()
            self._put_bulk(ping)
            self._sent[Ping.TYPE] += 1
            await answered.wait()
        finally:
            self._probes = {number: event for number, event in self._probes.items() if event is not answered}
        if not self.is_open:
            raise UnreachableError(f"the link to {self.node_id.short} has ended: {self.reason}")
        return trio.current_time() - began

    def _put_bulk(self, data: bytes) -> None:
        if not self.is_open:
            raise UnreachableError(f"the link to {self.node_id.short} has ended: {self.reason}")
        self._queues[2].append(data)
        self._queued_bytes += len(data)
        self._wake.set()

    async def _wait_room(self) -> None:
        if not self.is_open:
            raise UnreachableError(f"the link to {self.node_id.short} has ended: {self.reason}")
        self._room = trio.Event() if self._room.is_set() else self._room
        began = trio.current_time()
        await self._room.wait()
        self._counters.observe("net.room_wait_s", trio.current_time() - began)

    def _enqueue(self, message: AnyMessage, request_id: int | None = None) -> None:
        data = frame_message(message, request_id)
        if len(data) - 4 > self.peer.frame_bytes_max:
            raise LimitError(f"a message of {len(data) - 4} bytes; the peer takes {self.peer.frame_bytes_max}")
        kind = message.TYPE
        lane = 2 if kind in _BULK_TYPES else 1 if 48 <= kind < 64 and kind != Response.TYPE else 0
        self._queues[lane].append(data)
        self._queued_bytes += len(data)
        self._sent[kind] += 1

    def _take(self) -> bytes:
        """The next bytes for the channel: about 64 KiB, the urgent first, and something of every lane."""
        parts: list[bytes] = []
        size = 0
        for queue in self._queues:
            taken = 0
            while queue and (size < _SEND_BYTES or not taken):
                parts.append(queue.popleft())
                taken += len(parts[-1])
                size += len(parts[-1])
        self._queued_bytes -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _flush_nowait(self) -> None:
        """Hand what is queued to the channel while it takes it without waiting; otherwise wake the writer."""
        try:
            while self._queued_bytes and not self._is_blocked:
                data = self._take()
                self.bytes_sent += len(data)
                if not self._channel.send_nowait(data):
                    self._is_blocked = True
                    self._wake.set()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.end(f"the connection broke: {error}")

    async def _write_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self._flush_nowait()
            while self._is_blocked:
                await self._channel.flush()
                self._is_blocked = False
                self._flush_nowait()
            if self._queued_bytes <= self._config.limits.link_queue_bytes_max:
                self._room.set()
            if self._last_words is not None and not self._queued_bytes:
                if not self._channel.send_nowait(self._last_words):
                    await self._channel.flush()
                # The peer closes when it has read that. Closing first would reset the connection if it has sent
                # something meanwhile, and take what it has not read yet away from it.
                await trio.sleep(_LINGER_S)
                self.end(self.reason)

    # ------------------------------------------------------------------ receiving

    async def _read_forever(self) -> None:
        progress = 0
        busy_s, turn_s = 0.0, _TURN_S
        done = trio.current_time()
        while True:
            if self._waiting:
                now = trio.current_time()
                payloads, self._waiting = self._waiting, []
            else:
                data = await self._channel.receive_some()
                now = trio.current_time()
                if not data:
                    self.end("the peer ended the connection")
                    return
                self.bytes_received += len(data)
                progress += len(data)
                payloads = self._reader.feed(data)
            if payloads or progress >= _PROGRESS_BYTES:
                self._heard_at = now
                progress = 0
            # Replies to all that came together go out together.
            self._is_corked = True
            self._answered_together = 0
            try:
                for payload in payloads:
                    self._receive_untrusted(payload)
                    if self._scope.cancel_called:
                        return  # what stands behind a close is not looked at
            finally:
                self._is_corked = False
            if self._queued_bytes and not self._is_blocked:
                self._flush_nowait()
            # What was left to others since the last batch pays for as much.
            busy_s -= now - done
            if busy_s < 0.0:
                busy_s = 0.0
            done = trio.current_time()
            busy_s += done - now
            if busy_s > turn_s:
                turn_s = await self._rest(busy_s, turn_s)
                busy_s = 0.0
                done = trio.current_time()

    async def _rest(self, busy_s: float, turn_s: float) -> float:
        """Leave the loop to others after a turn; how long the next one is."""
        self._counters.add("net.rests")
        rest_s, used_s = min(busy_s * _TURN_S / turn_s, _REST_S_MAX), self.cpu_time()
        await trio.sleep(rest_s)
        was_used = self.cpu_time() - used_s > _UNUSED * rest_s
        return _TURN_S if was_used else min(2 * turn_s, _TURN_S_MAX)

    def _receive_untrusted(self, payload: bytes) -> None:
        message = parse_message_untrusted(payload)
        if message is None:
            self._counters.add("net.messages_ignored")
            return
        self._received[message.TYPE] += 1
        if isinstance(message, _REPLIES):
            task = self._calls.pop(message.id, None)
            self._answered_together += 1
            if task is not None:  # otherwise its caller has given up
                trio.lowlevel.reschedule(task, outcome.Value(message))
        elif isinstance(message, Ping):
            self.send_nowait(Pong(id=message.id, time=int(self._wall_time() * 1000)))
        elif isinstance(message, Pong):
            probe = self._probes.get(message.id)
            if probe is None:
                self._measure(message)
            else:
                probe.set()
        elif isinstance(message, Close):
            self._farewell = None
            self.end(f"the peer closed it: {message.reason}")
        else:
            handler = self._routes.get(type(message))
            if handler is None:
                raise RemoteProtocolError(f"{type(message).__name__} came out of state")
            handler(self, message)

    def _measure(self, pong: Pong) -> None:
        if self._ping is None or self._ping[0] != pong.id:
            return
        sample = max(0.0, trio.current_time() - self._ping[1])
        if self.rtt_s is None:
            self.rtt_s, self.rtt_variance_s = sample, sample / 2
        else:
            self.rtt_variance_s += (abs(self.rtt_s - sample) - self.rtt_variance_s) / 4
            self.rtt_s += (sample - self.rtt_s) / 8
        self.clock_offset_ms = pong.time - int((self._ping[2] + sample / 2) * 1000)
        self._ping = None

    async def _keep_alive(self) -> None:
        while True:
            gossip = self._config.gossip
            self._last_id += 1
            now = trio.current_time()
            # One that was answered late or never is measured anew.
            if self._ping is None or now - self._ping[1] > gossip.keepalive_timeout_s:
                self._ping = (self._last_id, now, self._wall_time())
                if self.is_open and self._queued_bytes <= self._config.limits.link_queue_bytes_max:
                    self._enqueue(Ping(id=self._last_id, time=int(self._ping[2] * 1000)))
                    self._flush_nowait()  # from here: waking the writer would cost more than the ping
            self._retimed = trio.Event()
            silent_at = self._heard_at + gossip.keepalive_timeout_s
            with trio.move_on_at(min(now + gossip.keepalive_interval_s, max(silent_at, now))):
                await self._retimed.wait()
            gossip = self._config.gossip
            if not self.is_open:  # what is queued goes out within one more time-out, or not at all
                await trio.sleep(gossip.keepalive_timeout_s)
                self.end(self.reason)
                return
            if trio.current_time() >= self._heard_at + gossip.keepalive_timeout_s:
                await trio.lowlevel.checkpoint()  # after a stall of this process the reader may not have had its turn
            now = trio.current_time()
            if now >= self._heard_at + gossip.keepalive_timeout_s:
                self.end(f"silent for {now - self._heard_at:.1f} s", CloseCode.SILENT)
                return

    # ------------------------------------------------------------------ ending

    def end(self, reason: str, code: int | None = None) -> None:
        """End at once; with a code the peer is told, if that needs no long wait. Harmless when it has ended."""
        if self.is_open:
            self.is_open = False
            self.reason = reason
            if code is not None:
                self._farewell = Close(code=code, reason=clip_text(reason, _REASON_BYTES))
        self._scope.cancel()

    def abort(self, error: RemoteProtocolError) -> None:
        """End because the peer broke the protocol."""
        if self.is_open:
            self._counters.add("net.protocol_errors")
            self.fault = error
        self.end(str(error), error.code)

    def finish(self, reason: str, code: int) -> None:
        """End after what is queued has gone out, then a close with `reason`. New sends are refused from now on."""
        if self.is_open:
            self.is_open = False
            self.reason = reason
            self._last_words = frame_message(Close(code=code, reason=clip_text(reason, _REASON_BYTES)))
            self._wake.set()

    async def retire(self) -> None:
        """Finish after a while: another link serves this peer now. Until then calls under way may end, those of the
        peer as well, which may not yet know of the other link. A peer that needs longer would count as silent.
        """
        await trio.sleep(self._config.gossip.keepalive_timeout_s)
        self.finish("another link to this node stays", CloseCode.DUPLICATE)

    async def run(self) -> None:
        """Serve the link until it ends; never raises for what the peer or the network did."""
        self._heard_at = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guard, self._write_forever)
                    nursery.start_soon(self._keep_alive)
                    await self._guard(self._read_forever)
        finally:
            self.end("cancelled", CloseCode.GOING_AWAY)
            if self._farewell is not None and not self._is_blocked:
                try:
                    if not self._channel.send_nowait(frame_message(self._farewell)):
                        with trio.move_on_after(_FAREWELL_S, shield=True):
                            await self._channel.flush()
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # it is gone; the close was a courtesy
            self._room.set()
            # Callers wait for a reply that cannot come any more.
            for task in self._calls.values():
                error = DeliveryError(f"the link to {self.node_id.short} ended before the answer: {self.reason}")
                trio.lowlevel.reschedule(task, outcome.Error(error))
            self._calls.clear()
            for probe in self._probes.values():
                probe.set()
            await self._channel.aclose()

    async def _guard(self, task: Callable[[], Any]) -> None:
        try:
            await task()
        except RemoteProtocolError as error:
            self.abort(error)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.end(f"the connection broke: {error}")
        except Exception as error:
            # A bug of ours in a handler costs this link, not the node.
            self._counters.add("net.handler_crashes")
            self.fault = error
            self.end("internal error", CloseCode.GOING_AWAY)
