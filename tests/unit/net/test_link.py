"""One link on a channel of the test's own: order, bounds, replies, and what follows an end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bms.config import Config
from bms.counters import Counters
from bms.errors import DeliveryError, LimitError, RemoteError, UnreachableError
from bms.net.handshake import Peer
from bms.net.link import Link
from bms.values import NodeId
from bms.wire.framing import FrameReader, frame
from bms.wire.messages import (
    AnyMessage,
    Close,
    CloseCode,
    Error,
    Note,
    Ok,
    Ping,
    Pong,
    Push,
    Request,
    Response,
    encode_message,
    parse_message_untrusted,
)

PEER = NodeId("a" * 64)


class Wire:
    """A channel whose other end is the test: what was sent is `sent`, and `hear` is what the peer says."""

    peer_certificate: bytes | None = None

    def __init__(self) -> None:
        self.is_full = False
        self.is_closed = False
        self.room = trio.Event()
        self._kept = b""
        self._reader = FrameReader(2**24)
        self._sent: list[AnyMessage | None] = []
        self._in, self._out = trio.open_memory_channel[bytes](1000)

    def send_nowait(self, data: bytes) -> bool:
        assert not self._kept, "flush() comes first"
        assert not self.is_closed
        if self.is_full:
            self._kept = data
            return False
        self._deliver(data)
        return True

    async def flush(self) -> None:
        await self.room.wait()
        self._deliver(self._kept)
        self._kept = b""

    async def receive_some(self) -> bytes:
        return await self._out.receive()

    async def aclose(self) -> None:
        self.is_closed = True

    def _deliver(self, data: bytes) -> None:
        self._sent += [parse_message_untrusted(payload) for payload in self._reader.feed(data)]

    @property
    def sent(self) -> list[AnyMessage | None]:
        """What the link has said, without its own pings."""
        return [message for message in self._sent if not isinstance(message, Ping)]

    def hear(self, *messages: AnyMessage | bytes) -> None:
        parts = [part if isinstance(part, bytes) else frame(encode_message(part)) for part in messages]
        self._in.send_nowait(b"".join(parts))

    def unblock(self) -> None:
        """The peer reads again."""
        self.is_full = False
        self.room.set()


@asynccontextmanager
async def open_link(
    routes: dict[type, Callable[[Link, Any], None]] | None = None,
    peer_takes: int = 2**20,
    limits: dict[str, int] | None = None,
    others: float = 1.0,
) -> AsyncIterator[tuple[Link, Wire, Counters]]:
    """A link on a wire by hand; `others` is the share of the time that others use the CPU."""
    wire, counters = Wire(), Counters()
    peer = Peer(
        node_id=PEER,
        boot=1,
        admission=None,  # type: ignore[arg-type]  # a link does not look at it
        record=None,  # type: ignore[arg-type]
        frame_bytes_max=peer_takes,
        version=1,
        observed=None,
    )
    config = Config(limits=limits or {})
    link = Link(
        wire,
        peer,
        FrameReader(16384),
        [],
        dialed=True,
        config=config,
        counters=counters,
        routes=routes or {},
        wall_time=lambda: 1000.0,
    )
    link.cpu_time = lambda: others * trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.testing.wait_all_tasks_blocked()
        yield link, wire, counters
        nursery.cancel_scope.cancel()


def note(counter: int, size: int = 10) -> Note:
    return Note(0, 1, counter, "t", bytes(size), 0)


SMALL = {"link_queue_bytes_max": 65536, "frame_bytes_max": 65536, "body_bytes_max": 32768}


async def test_what_is_urgent_overtakes_and_nothing_starves(autojump_clock: MockClock) -> None:
    async with open_link() as (link, wire, _):
        wire.is_full = True
        link.send_nowait(note(0))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 40):
            link.send_nowait(Push(1, number, number, [], []))
            link.send_nowait(note(number, 5000))
        link.send_nowait(Ok(9))
        wire.unblock()
        await trio.testing.wait_all_tasks_blocked()
        kinds = [type(message) for message in wire.sent]
        assert kinds[:2] == [Note, Ok]
        first_push = kinds.index(Push)
        assert first_push < len(kinds) - 30, "bulk goes out while messages still wait"
        assert [m.counter for m in wire.sent if isinstance(m, Note)] == list(range(40))
        assert [m.upto for m in wire.sent if isinstance(m, Push)] == list(range(1, 40))


async def test_a_full_queue_refuses_and_what_waits_for_room_goes_on(autojump_clock: MockClock) -> None:
    async with open_link(limits=SMALL) as (link, wire, _):
        wire.is_full = True
        link.send_nowait(note(0))
        await trio.testing.wait_all_tasks_blocked()
        count = 1
        while link.send_nowait(note(count, 10_000)):
            count += 1
            assert count < 100
        with trio.move_on_after(1) as waited:
            await link.send(note(1000))
        assert waited.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.send, note(count))
            await trio.testing.wait_all_tasks_blocked()
            wire.unblock()
        await trio.testing.wait_all_tasks_blocked()
        assert [m.counter for m in wire.sent if isinstance(m, Note)] == list(range(count + 1))


class Toil:
    """A handler that keeps the loop busy for `seconds` with each message, and notes when it began."""

    def __init__(self, clock: MockClock, seconds: float) -> None:
        self.began: list[float] = []
        self.seconds = seconds
        self._clock = clock

    def __call__(self, link: Link, message: Any) -> None:
        self.began.append(trio.current_time())
        self._clock.jump(self.seconds)


@pytest.mark.parametrize("seconds", [0.002, 0.05])
async def test_what_takes_long_to_handle_leaves_half_of_the_time_to_others(
    autojump_clock: MockClock, seconds: float
) -> None:
    toil = Toil(autojump_clock, seconds)
    async with open_link({Note: toil}) as (link, wire, counters):
        for number in range(100):
            wire.hear(note(number))  # each is a read of its own
        await trio.sleep(100 * seconds - 0.001)  # others run meanwhile, although there is always more to read
        assert len(toil.began) < 60
        await trio.sleep(200 * seconds)
        assert len(toil.began) == 100
        assert toil.began[-1] - toil.began[0] >= 2 * 99 * seconds - 0.1
        assert counters["net.rests"] >= 10
        assert link.is_open


async def test_a_link_whose_rests_nobody_uses_rests_less(autojump_clock: MockClock) -> None:
    toil = Toil(autojump_clock, 0.002)
    async with open_link({Note: toil}, others=0.01) as (_, wire, counters):
        for number in range(1000):
            wire.hear(note(number))
        await trio.sleep(2.4)
        assert len(toil.began) == 1000
        assert toil.began[-1] - toil.began[0] < 2.0 * 1.2, "two seconds of work, a ninth of it in rests"
        assert counters["net.rests"] >= 40


async def test_a_link_that_leaves_time_to_others_anyway_never_rests(autojump_clock: MockClock) -> None:
    toil = Toil(autojump_clock, 0.003)
    async with open_link({Note: toil}) as (_, wire, counters):
        for number in range(100):
            wire.hear(note(number))
            await trio.sleep(0.007)
        assert len(toil.began) == 100
        assert counters["net.rests"] == 0


async def test_a_process_that_stood_still_does_not_rest_for_as_long(autojump_clock: MockClock) -> None:
    toil = Toil(autojump_clock, 10.0)
    async with open_link({Note: toil}) as (link, wire, _):
        wire.hear(note(1))
        wire.hear(note(2))
        await trio.sleep(21)
        assert len(toil.began) == 2
        assert toil.began[1] - toil.began[0] < 11
        assert link.is_open


async def test_pings_of_a_peer_that_does_not_read_fill_no_memory(autojump_clock: MockClock) -> None:
    async with open_link(limits=SMALL) as (link, wire, _):
        wire.is_full = True
        for start in range(0, 100_000, 1000):
            wire.hear(*(Ping(number, 0) for number in range(start, start + 1000)))
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < link._queued_bytes <= 65536 + 100
        assert link.is_open


async def test_replies_reach_their_callers_in_any_order_and_others_nobody(autojump_clock: MockClock) -> None:
    async with open_link() as (link, wire, _):
        answers: dict[int, object] = {}

        async def ask(number: int) -> None:
            try:
                reply = await link.call(Request(0, 1, number, "t", b"%d" % number))
                assert isinstance(reply, Response)
                answers[number] = reply.body
            except RemoteError as error:
                answers[number] = error.kind

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            asked = [message for message in wire.sent if isinstance(message, Request)]
            assert len({request.id for request in asked}) == 10
            wire.hear(Response(10**9, b"nobody"), Error(10**9, "busy", ""), Pong(10**9, 0))
            for request in reversed(asked):
                odd = request.counter % 2
                wire.hear(Error(request.id, "Odd", "") if odd else Response(request.id, request.body))
                wire.hear(Response(request.id, b"a second answer"))
        assert answers == {number: "Odd" if number % 2 else b"%d" % number for number in range(10)}
        assert link.is_open


async def test_nothing_behind_a_close_is_looked_at(autojump_clock: MockClock) -> None:
    seen: list[Any] = []
    async with open_link({Note: lambda link, message: seen.append(message)}) as (link, wire, counters):
        wire.hear(note(1), Close(CloseCode.GOING_AWAY, "bye"), note(2), b"\xff\xff\xff")
        await trio.testing.wait_all_tasks_blocked()
        assert [message.counter for message in seen] == [1]
        assert not link.is_open
        assert link.reason == "the peer closed it: bye"
        assert wire.is_closed
        assert counters["net.protocol_errors"] == 0


async def test_an_end_raises_at_every_caller_and_refuses_later_ones(autojump_clock: MockClock) -> None:
    async with open_link() as (link, _, _):
        raised: list[Exception] = []

        async def ask() -> None:
            try:
                await link.call(Request(0, 1, 1, "t", b""))
            except UnreachableError as error:
                raised.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            link.end("the test says so")
        assert [type(error) for error in raised] == [DeliveryError] * 3
        await ask()
        assert type(raised[-1]) is UnreachableError
        assert not link.send_nowait(note(1))
        with pytest.raises(UnreachableError):
            await link.send(note(1))


async def test_a_call_that_was_given_up_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with open_link() as (link, wire, _):
        with pytest.raises(DeliveryError):
            await link.call(Request(0, 1, 1, "t", b""), deadline_s=1)
        assert not link._calls
        (request,) = (message for message in wire.sent if isinstance(message, Request))
        wire.hear(Response(request.id, b"late"))
        await trio.testing.wait_all_tasks_blocked()
        assert link.is_open


async def test_a_frame_the_peer_does_not_take_is_refused_and_costs_nothing_else(autojump_clock: MockClock) -> None:
    async with open_link(peer_takes=16384) as (link, wire, _):
        with pytest.raises(LimitError):
            link.send_nowait(note(1, 20_000))
        with pytest.raises(LimitError):
            await link.call(note(1, 20_000))
        assert link._queued_bytes == 0
        assert not link._calls
        link.send_nowait(note(2))
        await trio.testing.wait_all_tasks_blocked()
        assert [m.counter for m in wire.sent if isinstance(m, Note)] == [2]


async def test_the_last_words_are_last_even_if_the_peer_reads_late(autojump_clock: MockClock) -> None:
    async with open_link() as (link, wire, counters):
        wire.is_full = True
        link.send_nowait(note(1))
        await trio.testing.wait_all_tasks_blocked()
        link.send_nowait(note(2))
        link.finish("bye", CloseCode.GOING_AWAY)
        wire.hear(Ping(1, 0), note(3))
        wire.unblock()
        await trio.testing.wait_all_tasks_blocked(0.01)
        sent = [message for message in wire.sent if not isinstance(message, Pong)]
        assert [type(message) for message in sent] == [Note, Note, Close]
        assert counters["net.handler_crashes"] == 0


async def test_a_peer_that_speaks_while_the_last_words_wait_breaks_nothing(autojump_clock: MockClock) -> None:
    async with open_link() as (link, wire, counters):
        wire.is_full = True
        link.finish("bye", CloseCode.GOING_AWAY)
        await trio.testing.wait_all_tasks_blocked()
        wire.hear(Ping(1, 0), Ping(2, 0))
        await trio.testing.wait_all_tasks_blocked()
        wire.unblock()
        await trio.sleep(5)
        assert wire.is_closed
        assert counters["net.handler_crashes"] == 0
        assert any(isinstance(message, Close) for message in wire.sent)


async def test_a_handler_that_fails_costs_the_link_alone_and_is_counted(autojump_clock: MockClock) -> None:
    def fail(link: Link, message: Note) -> None:
        raise ZeroDivisionError("a bug")

    async with open_link({Note: fail}) as (link, wire, counters):
        wire.hear(note(1))
        await trio.testing.wait_all_tasks_blocked()
        assert not link.is_open
        assert counters["net.handler_crashes"] == 1
        assert isinstance(wire.sent[-1], Close)


async def test_the_round_trip_and_the_clocks_difference_come_from_pings(autojump_clock: MockClock) -> None:
    async with open_link() as (link, wire, _):
        ping = next(message for message in wire._sent if isinstance(message, Ping))
        await trio.sleep(0.2)
        wire.hear(Pong(ping.id + 50, 0), Pong(ping.id, 1_000_000 + 100 + 700))
        await trio.testing.wait_all_tasks_blocked()
        assert link.rtt_s == pytest.approx(0.2)
        assert link.clock_offset_ms == 700
