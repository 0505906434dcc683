"""The simulated network by itself: latency, loss, bandwidth, partitions, refusals, black holes, windows, resets."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from bms.testing.network import Line, NetHost, SimListener, SimNetwork, SimStream
from bms.testing.trace import Trace
from bms.values import Address

pytestmark = pytest.mark.usefixtures("sim_clock")


@asynccontextmanager
async def two_hosts(line: Line | None = None) -> AsyncIterator[tuple[SimNetwork, NetHost, NetHost]]:
    network = SimNetwork(random.Random(1), Trace())
    network.line = line or Line(latency_s=0.1, jitter_s=0.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network, network.add_host("a"), network.add_host("b")
        nursery.cancel_scope.cancel()


async def listen(host: NetHost, port: int = 80) -> SimListener:
    [(listener, address)] = await host.listen(Address(host.ip, port), 8)
    assert address == Address(host.ip, port)
    return listener


async def connect(a: NetHost, b: NetHost) -> tuple[SimStream, SimStream]:
    listener = await listen(b)
    near = await a.dial(Address(b.ip, 80))
    return near, await listener.accept()


async def receive(stream: SimStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.receive_some()
        assert part
        data += part
    return data


async def test_connecting_takes_a_round_trip_and_data_a_way() -> None:
    async with two_hosts() as (_, a, b):
        start = trio.current_time()
        near, far = await connect(a, b)
        assert trio.current_time() - start == pytest.approx(0.3)  # SYN, its answer, the last packet to the listener
        assert far.peer_address == near.address
        await near.send_all(b"hello")
        assert await far.receive_some() == b"hello"
        assert trio.current_time() - start == pytest.approx(0.4)
        await near.aclose()
        assert await far.receive_some() == b""


async def test_nobody_listening_is_refused_and_a_machine_that_is_off_never_answers() -> None:
    async with two_hosts() as (_, a, b):
        with pytest.raises(ConnectionRefusedError):
            await a.dial(Address(b.ip, 80))
        assert trio.current_time() == pytest.approx(0.2)
        b.power_off()
        with pytest.raises(OSError) as caught:
            await a.dial(Address(b.ip, 80))
        assert caught.value.errno == errno.ETIMEDOUT
        assert trio.current_time() == pytest.approx(127.2)
        with pytest.raises(OSError) as caught:
            await a.dial(Address("nowhere", 80))
        assert caught.value.errno == errno.EHOSTUNREACH


async def test_an_address_is_bound_once_and_only_at_its_host() -> None:
    async with two_hosts() as (_, a, b):
        listener = await listen(a)
        with pytest.raises(OSError, match="in use"):
            await a.listen(Address(a.ip, 80), 1)
        with pytest.raises(OSError, match="assign"):
            await a.listen(Address(b.ip, 81), 1)
        await listener.aclose()
        await (await listen(a)).aclose()


async def test_a_partition_holds_a_stream_up_and_after_healing_it_goes_on() -> None:
    async with two_hosts() as (network, a, b):
        near, far = await connect(a, b)
        network.block(a, b, "wall")
        network.block(b, a, "wall")
        await near.send_all(b"late")
        await trio.sleep(10)
        with trio.move_on_after(0):
            await far.receive_some()
            raise AssertionError("it came through")
        network.unblock("wall")
        healed = trio.current_time()
        assert await far.receive_some() == b"late"
        assert 0 < trio.current_time() - healed <= 12.8  # by the backoff of TCP, not at once
        assert network.fired["wall"] > 3


async def test_a_partition_one_way_lets_the_other_way_pass() -> None:
    async with two_hosts() as (network, a, b):
        near, far = await connect(a, b)
        network.block(a, b, "half")
        await near.send_all(b"lost for now")
        await far.send_all(b"arrives")
        assert await near.receive_some() == b"arrives"
        with trio.move_on_after(5) as scope:
            await far.receive_some()
        assert scope.cancelled_caught


async def test_loss_costs_time_and_nothing_else() -> None:
    async with two_hosts(Line(latency_s=0.01, jitter_s=0.0, loss=0.3)) as (network, a, b):
        near, far = await connect(a, b)
        sent = [bytes([number]) * 1000 for number in range(50)]
        for part in sent:
            await near.send_all(part)
        assert await receive(far, 50_000) == b"".join(sent)
        assert network.fired["loss"] > 5
        assert trio.current_time() > 0.4


async def test_bandwidth_delays_what_waits_behind() -> None:
    async with two_hosts(Line(latency_s=0.0, jitter_s=0.0, bytes_per_s=1000.0)) as (_, a, b):
        near, far = await connect(a, b)
        start = trio.current_time()
        await near.send_all(bytes(2000))
        await receive(far, 2000)
        assert trio.current_time() - start == pytest.approx(2.0)


async def test_a_receiver_that_does_not_read_stops_its_sender() -> None:
    async with two_hosts() as (_, a, b):
        near, far = await connect(a, b)
        with trio.move_on_after(5) as scope:
            await near.send_all(bytes(300_000))
        assert scope.cancelled_caught
        assert near.send_nowait(b"more") == 0
        await receive(far, 256 * 1024)
        assert near.send_nowait(b"more") == 4


async def test_closing_with_unread_data_resets_the_other_side() -> None:
    async with two_hosts() as (_, a, b):
        near, far = await connect(a, b)
        await near.send_all(b"unread")
        await trio.sleep(1)
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await near.receive_some()


async def test_a_killed_process_ends_its_connections_and_a_dead_machine_says_nothing() -> None:
    async with two_hosts() as (_, a, b):
        near, _ = await connect(a, b)
        b.end_process()
        assert await near.receive_some() == b""
        with pytest.raises(ConnectionRefusedError):
            await a.dial(Address(b.ip, 80))
        near, _ = await connect(a, b)
        b.power_off()
        with trio.move_on_after(60) as scope:
            await near.receive_some()
        assert scope.cancelled_caught
        b.power_on()
        await near.send_all(b"are you there?")
        with pytest.raises(trio.BrokenResourceError, match="reset"):  # it knows nothing of that connection
            await near.receive_some()
