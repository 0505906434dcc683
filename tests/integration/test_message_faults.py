"""Messages of programs that are slow, fail or restart, over links that break: at most once, acknowledged, in bounds.

Whole nodes on memory streams and virtual time.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hostile import Pipes, piped
from trio.testing import MockClock

import bms
from bms.errors import DeliveryError, LimitError, NotFoundError, RemoteError, UnreachableError
from bms.values import Message, Missed
from helpers import until


async def collect(
    mesh: bms.Mesh, topic: str, into: list[bytes], *, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    """Append each message's body, until the mesh stops."""
    async with mesh.subscribe(topic) as messages:
        task_status.started()
        async for message in messages:
            assert isinstance(message, Message)
            into.append(message.body)


# ---------------------------------------------------------------------- slow programs


async def test_a_full_inbox_pushes_back_until_the_deadline_and_nothing_is_lost_or_doubled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path, limits={"inbox_messages_max": 5}) as (_, [a, b]):
        for number in range(5):
            await a.send_message(b.node_id, b"%d" % number, "t")
        started = trio.current_time()
        with pytest.raises(LimitError):
            await a.send_message(b.node_id, b"too many", "t", deadline_s=2)
        assert trio.current_time() - started == pytest.approx(2, abs=0.01)
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(collect, b, "t", got)
            await a.send_message(b.node_id, b"5", "t")
            await until(lambda: len(got) == 6)
            nursery.cancel_scope.cancel()
        assert got == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_a_slow_program_gets_every_message_of_one_sender_in_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path, limits={"inbox_messages_max": 3}) as (_, [a, b]):
        got: list[bytes] = []

        async def read_slowly() -> None:
            async with b.subscribe("t") as messages:
                async for message in messages:
                    got.append(message.body)  # type: ignore[union-attr]
                    await trio.sleep(0.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(30):
                await a.send_message(b.node_id, b"%d" % number, "t", deadline_s=10)
            await until(lambda: len(got) == 30)
            nursery.cancel_scope.cancel()
        assert got == [b"%d" % number for number in range(30)]
        assert a.counters["messaging.pushed_back"] > 0


async def test_many_senders_to_a_slow_program_are_all_served_exactly_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path, limits={"inbox_messages_max": 2}) as (_, [a, b]):
        got: list[bytes] = []

        async def read_slowly() -> None:
            async with b.subscribe("t") as messages:
                async for message in messages:
                    got.append(message.body)  # type: ignore[union-attr]
                    await trio.sleep(0.05)

        async with trio.open_nursery() as readers:
            readers.start_soon(read_slowly)
            async with trio.open_nursery() as senders:
                for number in range(100):
                    senders.start_soon(a.send_message, b.node_id, b"%d" % number, "t", 60.0)
            await until(lambda: len(got) == 100)
            readers.cancel_scope.cancel()
        assert Counter(got) == Counter({b"%d" % number: 1 for number in range(100)})


async def test_a_subscriber_that_stops_reading_is_told_exactly_how_many_broadcasts_it_missed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path, limits={"inbox_messages_max": 10}) as (_, [a, b]):
        async with b.subscribe("news") as news:
            for number in range(100):
                assert await a.broadcast_message(b"%d" % number, "news") == 1
            await until(lambda: b.counters["messaging.received"] == 100)
            assert [(await anext(news)).body for _ in range(10)] == [b"%d" % n for n in range(10)]  # type: ignore[union-attr]
            assert await anext(news) == Missed(90)
            await a.broadcast_message(b"again", "news")
            assert (await anext(news)).body == b"again"  # type: ignore[union-attr]


async def test_a_subscriber_that_stops_reading_broadcasts_stops_no_direct_messages_of_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path, limits={"inbox_messages_max": 10}) as (_, [a, b]):
        async with b.subscribe("news"), b.subscribe("mail") as mail:
            for _ in range(50):
                await a.broadcast_message(b"x", "news")
            await a.send_message(b.node_id, b"letter", "mail", deadline_s=1)
            assert (await anext(mail)).body == b"letter"  # type: ignore[union-attr]


# ---------------------------------------------------------------------- failing handlers


class OddError(Exception):
    """An error of a program."""


async def handle(message: Message) -> bytes:
    match message.body:
        case b"raise":
            raise OddError("it does not work: é \udcff")
        case b"long":
            raise OddError("x" * 100_000)
        case b"hang":
            await trio.sleep_forever()
        case b"none":
            return None  # type: ignore[return-value]
        case b"large":
            return bytes(2**20)
    return message.body[::-1]


async def test_what_a_handler_raises_arrives_with_kind_and_text_and_the_next_request_works(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path) as (_, [a, b]), trio.open_nursery() as nursery:
        await nursery.start(b.serve_requests, "t", handle)
        for body, kind, text in (
            (b"raise", "OddError", "it does not work: é ?"),
            (b"long", "OddError", "xxx"),
            (b"none", "TypeError", ""),
            (b"large", "LimitError", "limits.body_bytes_max"),
        ):
            with pytest.raises(RemoteError) as caught:
                await a.request(b.node_id, body, "t")
            assert caught.value.kind == kind
            assert text in caught.value.text
            assert await a.request(b.node_id, b"abc", "t") == b"cba"
        nursery.cancel_scope.cancel()


async def test_a_handler_that_hangs_costs_its_caller_the_deadline_and_nobody_else_anything(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path) as (_, [a, b]), trio.open_nursery() as nursery:
        await nursery.start(b.serve_requests, "t", handle)

        async def wait_in_vain() -> None:
            with pytest.raises(DeliveryError):
                await a.request(b.node_id, b"hang", "t", deadline_s=3)

        async with trio.open_nursery() as callers:
            for _ in range(5):
                callers.start_soon(wait_in_vain)
            for number in range(20):
                assert await a.request(b.node_id, b"%02d" % number, "t", deadline_s=1) == (b"%02d" % number)[::-1]
        nursery.cancel_scope.cancel()


async def test_more_requests_than_may_be_under_way_wait_and_then_say_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path, limits={"inbox_messages_max": 3}) as (_, [a, b]), trio.open_nursery() as nursery:
        await nursery.start(b.serve_requests, "t", handle)
        for _ in range(3):
            nursery.start_soon(_ignore_delivery, a, b)
        await trio.sleep(0.1)
        with pytest.raises(LimitError):
            await a.request(b.node_id, b"abc", "t", deadline_s=1)
        nursery.cancel_scope.cancel()


async def _ignore_delivery(a: bms.Mesh, b: bms.Mesh) -> None:
    with pytest.raises(DeliveryError):
        await a.request(b.node_id, b"hang", "t", deadline_s=30)


async def test_a_topic_nobody_serves_is_not_found_and_served_when_somebody_does(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path) as (_, [a, b]), trio.open_nursery() as nursery:
        with pytest.raises((NotFoundError, RemoteError)):
            await a.request(b.node_id, b"abc", "t")
        await nursery.start(b.serve_requests, "t", handle)
        assert await a.request(b.node_id, b"abc", "t") == b"cba"
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- links that break


async def test_every_acknowledged_message_is_delivered_exactly_once_over_links_that_break(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path) as (pipes, [a, b]):
        got: list[bytes] = []
        acknowledged: list[bytes] = []
        cuts = 0

        async def send(number: int) -> None:
            body = b"%d" % number
            await a.send_message(b.node_id, body, "t", deadline_s=300)
            acknowledged.append(body)

        async with trio.open_nursery() as nursery:
            await nursery.start(collect, b, "t", got)
            async with trio.open_nursery() as senders:
                for round_ in range(50):
                    for number in range(10):
                        senders.start_soon(send, round_ * 10 + number)
                    # Somewhere in the exchange: after so many turns of the scheduler.
                    for _ in range(round_ % 13):
                        await trio.lowlevel.checkpoint()
                    cuts += await pipes.cut() > 0
                    await until(lambda: a.is_connected(b.node_id) and b.is_connected(a.node_id))
            await until(lambda: len(got) >= 500)
            nursery.cancel_scope.cancel()
        assert cuts == 50
        assert len(acknowledged) == 500
        assert Counter(got) == Counter(acknowledged)
        assert a.counters["messaging.retries"] > 0
        assert b.counters["messaging.duplicates"] > 0, "no cut came between a delivery and its acknowledgement"


async def test_requests_are_never_run_twice_over_links_that_break(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with piped(tmp_path) as (pipes, [a, b]), trio.open_nursery() as nursery:
        runs: Counter[bytes] = Counter()
        outcomes: Counter[str] = Counter()

        async def count(message: Message) -> bytes:
            runs[message.body] += 1
            await trio.sleep(0.01)
            return message.body

        async def ask(number: int) -> None:
            try:
                assert await a.request(b.node_id, b"%d" % number, "t", deadline_s=60) == b"%d" % number
                outcomes["answered"] += 1
            except DeliveryError:
                outcomes["unknown"] += 1

        await nursery.start(b.serve_requests, "t", count)
        async with trio.open_nursery() as callers:
            for round_ in range(20):
                for number in range(5):
                    callers.start_soon(ask, round_ * 5 + number)
                await trio.sleep(0.003 * (round_ % 6))
                await pipes.cut()
                await until(lambda: a.is_connected(b.node_id) and b.is_connected(a.node_id))
        assert max(runs.values()) == 1
        assert outcomes.total() == 100
        assert outcomes["answered"] > 0
        assert outcomes["unknown"] > 0
        nursery.cancel_scope.cancel()


async def restart(pipes: Pipes, mesh: bms.Mesh, nursery: trio.Nursery, away_s: float) -> None:
    """The node dies, its connections with it, and comes back as another boot under the same address."""
    port = pipes.port_of(mesh)
    del pipes.serve[port]
    await pipes.cut()  # first, so that nobody hears it leave
    await mesh._close_quickly()
    await trio.sleep(away_s)
    await mesh.start(nursery)
    pipes.serve[port] = mesh.handle_connection


async def test_a_receiver_that_restarts_gets_each_message_once_or_its_sender_an_error(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path) as (pipes, [a, b]), trio.open_nursery() as nursery:
        outcomes: dict[bytes, str] = {}

        async def send(number: int, after_s: float) -> None:
            await trio.sleep(after_s)
            body = b"%d" % number
            try:
                await a.send_message(b.node_id, body, "t", deadline_s=8)
                outcomes[body] = "acknowledged"
            except DeliveryError:
                outcomes[body] = "unknown"
            except UnreachableError:
                outcomes[body] = "never sent"

        async with trio.open_nursery() as senders:
            for number in range(300):
                senders.start_soon(send, number, number * 0.02)
            for away_s in (0.0, 0.5, 1.0):
                await trio.sleep(1)
                await restart(pipes, b, nursery, away_s)
        got: Counter[bytes] = Counter()
        async with b.subscribe("t") as messages:
            while b._topics.waiting():
                got[(await anext(messages)).body] += 1  # type: ignore[union-attr]
        assert len(outcomes) == 300
        assert max(got.values()) == 1
        for body, outcome in outcomes.items():
            if outcome == "acknowledged":
                assert got[body] == 1
            elif outcome == "never sent":
                assert got[body] == 0
        assert Counter(outcomes.values())["acknowledged"] > 200
        await b.stop()
        nursery.cancel_scope.cancel()


async def test_a_message_that_was_sent_and_not_answered_has_an_unknown_outcome(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path) as (pipes, [a, b]):

        async def swallow(data: object) -> None:
            """The network loses everything from now on."""

        for stream in pipes.streams:
            stream.send_stream.send_all = swallow
        started = trio.current_time()
        with pytest.raises(DeliveryError):
            await a.send_message(b.node_id, b"x", "t", deadline_s=2)
        with pytest.raises(DeliveryError):
            await a.request(b.node_id, b"x", "t", deadline_s=2)
        assert trio.current_time() - started < 4.1


async def test_a_message_to_a_node_that_is_gone_was_never_sent(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with piped(tmp_path) as (_, [a, b]):
        await b.stop()
        await until(lambda: not a.is_connected(b.node_id))
        with pytest.raises(UnreachableError) as caught:
            await a.send_message(b.node_id, b"x", "t", deadline_s=1)
        assert not isinstance(caught.value, DeliveryError)
        with pytest.raises(UnreachableError) as caught:
            await a.request(b.node_id, b"x", "t", deadline_s=1)
        assert not isinstance(caught.value, DeliveryError)


async def test_a_message_that_waits_for_a_link_is_sent_when_there_is_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with piped(tmp_path) as (pipes, [a, b]), trio.open_nursery() as nursery:
        async with b.subscribe("t") as messages:
            await pipes.cut()
            await a.send_message(b.node_id, b"x", "t", deadline_s=30)
            assert (await anext(messages)).body == b"x"  # type: ignore[union-attr]
        nursery.cancel_scope.cancel()


async def test_an_answer_larger_than_the_askers_frames_is_an_error_and_not_silence(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    small = {"limits": {"frame_bytes_max": 65536, "body_bytes_max": 32768}}
    async with piped(tmp_path, small, {}) as (_, [a, b]), trio.open_nursery() as nursery:

        async def enlarge(message: Message) -> bytes:
            return bytes(200_000)

        await nursery.start(b.serve_requests, "t", enlarge)
        with pytest.raises(RemoteError) as caught:
            await a.request(b.node_id, b"abc", "t", deadline_s=2)
        assert caught.value.kind == "LimitError"
        nursery.cancel_scope.cancel()


async def test_a_crash_of_membership_forgets_no_dial(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with piped(tmp_path) as (pipes, [a, b]):
        ports = dict(pipes.serve)

        async def hang(stream: trio.abc.Stream) -> None:
            await trio.sleep_forever()

        async def crash() -> None:
            raise ZeroDivisionError("a bug")

        pipes.serve = dict.fromkeys(ports, hang)
        await pipes.cut()
        await until(lambda: a.node(b.node_id).state == "suspect" and b.node(a.node_id).state == "suspect")
        await trio.sleep(0.1)
        pipes.serve = ports
        for mesh in (a, b):
            assert mesh._life is not None
            assert mesh._life.gossip._nursery is not None
            mesh._life.gossip._nursery.start_soon(crash)
        await until(lambda: a.is_connected(b.node_id) and b.is_connected(a.node_id), 60)
        assert a.counters["supervisor.crashes"] == b.counters["supervisor.crashes"] == 1
