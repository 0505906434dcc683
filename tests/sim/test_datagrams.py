"""Datagrams of the simulated network, and the packet service on it: addresses, allowances, isolation."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
from sealed import Club, Member, Service, open_service

from bms.errors import LimitError, UnreachableError
from bms.net.datagrams import SOURCES_MAX, Datagrams
from bms.security.pairwise import OVERHEAD_BYTES, PAYLOAD_BYTES_MAX
from bms.security.records import TCP
from bms.testing import Line
from bms.testing.network import NetHost, SimNetwork
from bms.testing.trace import Trace
from bms.values import Address
from bms.world import DATAGRAM_BYTES_MAX, DRAIN_MAX, DatagramSocket, World

pytestmark = pytest.mark.usefixtures("sim_clock")

QUIET = Line(latency_s=0.1, jitter_s=0.0)


@asynccontextmanager
async def open_network(line: Line = QUIET, hosts: int = 2) -> AsyncIterator[tuple[SimNetwork, list[NetHost]]]:
    network = SimNetwork(random.Random(1), Trace())
    network.line = line
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network, [network.add_host(f"h{number}") for number in range(hosts)]
        nursery.cancel_scope.cancel()


async def sockets(a: NetHost, b: NetHost) -> tuple[DatagramSocket, DatagramSocket]:
    return await a.open_datagrams(Address(a.ip, 0)), await b.open_datagrams(Address("::", 53))


async def drain(bound: DatagramSocket, seconds: float = 5.0) -> list[bytes]:
    """Whatever comes within some virtual time."""
    found: list[bytes] = []
    with trio.move_on_after(seconds):
        while True:
            found += [data for data, _ in await bound.receive()]
    return found


async def send_all(near: DatagramSocket, far: DatagramSocket, to: Address, count: int) -> list[int]:
    """Send numbers, one in a millisecond; those that come, in order."""
    found: list[bytes] = []
    for number in range(count):
        assert near.send_nowait(number.to_bytes(4, "big"), to)
        await trio.sleep(0.001)
        found += [data for data, _ in far.receive_nowait()]
    return numbers(found + await drain(far))


def numbers(found: list[bytes]) -> list[int]:
    return [int.from_bytes(data, "big") for data in found]


# --- the network


async def test_a_packet_takes_the_lines_latency_and_names_its_source() -> None:
    async with open_network() as (_, [a, b]):
        near, far = await sockets(a, b)
        assert near.send_nowait(b"hello", Address(b.ip, 53))
        assert await far.receive() == [(b"hello", Address(a.ip, near.address.port))]
        assert trio.current_time() == pytest.approx(0.1)
        assert far.receive_nowait() == []


async def test_nobody_there_is_silence_and_what_has_no_way_is_said() -> None:
    async with open_network() as (_, [a, b]):
        near, far = await sockets(a, b)
        assert near.send_nowait(b"x", Address(b.ip, 99))
        b.power_off()
        assert near.send_nowait(b"x", Address(b.ip, 53))
        for host in (b.name, "10.9.9.9", "localhost"):
            assert not near.send_nowait(b"x", Address(host, 53))
        assert not near.send_nowait(bytes(70_000), Address(b.ip, 53))
        assert await drain(near) == []
        with pytest.raises(trio.ClosedResourceError):
            await far.receive()
        near.close()
        near.close()
        assert not near.send_nowait(b"x", Address(b.ip, 53))


async def test_a_port_is_bound_once_and_freed_with_its_process() -> None:
    async with open_network() as (_, [a, b]):
        await b.open_datagrams(Address(b.ip, 53))
        with pytest.raises(OSError, match="in use"):
            await b.open_datagrams(Address("::", 53))
        with pytest.raises(OSError, match="assign"):
            await b.open_datagrams(Address(a.ip, 54))
        await b.listen(Address(b.ip, 53), 1)  # streams have ports of their own
        b.end_process()
        await b.open_datagrams(Address(b.ip, 53))


async def test_jitter_alone_does_not_reorder() -> None:
    async with open_network(Line(latency_s=0.01, jitter_s=0.05)) as (network, [a, b]):
        near, far = await sockets(a, b)
        assert await send_all(near, far, Address(b.ip, 53), 200) == list(range(200))
        assert not network.fired


async def test_lost_doubled_and_overtaken_packets_are_those_that_were_counted() -> None:
    line = Line(latency_s=0.01, jitter_s=0.001, loss=0.1, duplication=0.1, reordering=0.1)
    async with open_network(line) as (network, [a, b]):
        near, far = await sockets(a, b)
        found = await send_all(near, far, Address(b.ip, 53), 1000)
    fired = network.fired
    assert 50 < fired["loss"] == 1000 - len(set(found))
    assert 50 < fired["duplication"] == len(found) - len(set(found))
    late = sum(number < max(found[:place]) for place, number in enumerate(found) if place)
    assert 50 < fired["reordering"] == late


async def test_a_partition_swallows_packets_and_counts_them() -> None:
    async with open_network() as (network, [a, b]):
        near, far = await sockets(a, b)
        network.block(a, b, "half")
        assert near.send_nowait(b"lost", Address(b.ip, 53))
        assert far.send_nowait(b"passes", Address(a.ip, near.address.port))
        assert (await drain(near), await drain(far)) == ([b"passes"], [])
        assert network.fired["half"] == 1


async def test_a_narrow_line_delays_packets_and_refuses_what_would_wait_too_long() -> None:
    async with open_network(Line(latency_s=0.0, jitter_s=0.0, bytes_per_s=10_000.0)) as (_, [a, b]):
        near, far = await sockets(a, b)
        sent = [near.send_nowait(bytes(1000), Address(b.ip, 53)) for _ in range(5)]
        assert sent == [True, True, True, False, False]
        assert len(await drain(far)) == 3
        assert near.send_nowait(b"x", Address(b.ip, 53))


async def test_the_receive_buffer_is_bounded_and_long_packets_are_dropped() -> None:
    async with open_network() as (network, [a, b]):
        near, far = await sockets(a, b)
        assert near.send_nowait(bytes(DATAGRAM_BYTES_MAX + 1), Address(b.ip, 53))
        for _ in range(1000):
            assert near.send_nowait(bytes(1000), Address(b.ip, 53))
        await trio.sleep(1)
        burst = await far.receive()
        assert len(burst) < DRAIN_MAX
        assert {len(data) for data, _ in burst} == {1000}
        assert network.fired["datagram_overflow"] == 1000 - len(burst) > 500
        assert near.send_nowait(b"room again", Address(b.ip, 53))
        assert await drain(far) == [b"room again"]


# --- the service


@asynccontextmanager
async def open_pair(line: Line = QUIET) -> AsyncIterator[tuple[SimNetwork, Service, Service, Club]]:
    a, b = Member("a"), Member("b")
    club = Club(a, b)
    async with open_network(line, 3) as (network, [one, two, _]):
        async with (
            open_service(a, club, World(network=one), Address(one.ip, 7800)) as first,
            open_service(b, club, World(network=two), Address(two.ip, 7800)) as second,
        ):
            yield network, first, second, club


async def test_a_payload_comes_with_its_sender_and_its_source() -> None:
    async with open_pair() as (_, a, b, _club):
        assert a.datagrams.send(b.member.node_id, b"ping")
        await trio.sleep(1)
        assert b.received == [(a.member.node_id, b"ping", a.bound[0])]
        assert (a.counted(), b.counted()) == ({}, {})
        assert a.counters["datagrams.bytes_sent"] == b.counters["datagrams.bytes_received"] == OVERHEAD_BYTES + 4
        assert a.datagrams.payload_max == PAYLOAD_BYTES_MAX == 1135
        with pytest.raises(LimitError):
            a.datagrams.send(b.member.node_id, bytes(PAYLOAD_BYTES_MAX + 1))


async def test_copies_are_dropped_and_what_was_overtaken_is_taken() -> None:
    line = Line(latency_s=0.01, jitter_s=0.0, loss=0.1, duplication=0.2, reordering=0.2)
    async with open_pair(line) as (network, a, b, _):
        for number in range(1000):
            assert a.datagrams.send(b.member.node_id, number.to_bytes(4, "big"))
            await trio.sleep(0.001)
        await trio.sleep(1)
        got = numbers([payload for _, payload, _ in b.received])
        assert len(got) == len(set(got)) == 1000 - network.fired["loss"]
        assert got != sorted(got)
        assert b.counted() == {"replayed": network.fired["duplication"]}
        assert all(network.fired[kind] > 50 for kind in ("loss", "duplication", "reordering"))


async def test_what_came_is_handled_before_timers_fire_even_if_the_listener_had_no_turn() -> None:
    async with open_pair(Line(latency_s=0.0, jitter_s=0.0)) as (network, a, b, _):
        for _ in range(100):
            a.datagrams.send(b.member.node_id, b"x")
        await trio.sleep(1)
        b.received.clear()
        socket = network.hosts["h1"].datagrams[7800]
        for packet in _sealed(a, b, 400):
            assert socket.push(packet, a.bound[0]) or len(socket._waiting) > DRAIN_MAX
        taken = len(socket._waiting)
        assert taken > DRAIN_MAX
        b.datagrams.receive_nowait()
        assert len(b.received) == taken


def _sealed(a: Service, b: Service, count: int) -> list[bytes]:
    packets = [a.datagrams._pairs.seal(b.member.node_id, b"") for _ in range(count)]
    return [packet for packet in packets if packet is not None]


async def test_a_bug_in_handling_costs_that_packet_and_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_pair() as (_, a, b, _club):
        b.fails_on = b"bad"
        with caplog.at_level(logging.ERROR, "bms.net"):
            for wait_s in (0.0, 0.0, 10.0, 61.0):
                await trio.sleep(wait_s)
                a.datagrams.send(b.member.node_id, b"bad")
                a.datagrams.send(b.member.node_id, b"good")
                await trio.sleep(1)
        assert len(b.received) == 4
        assert b.counted() == {"handler_crashes": 4}
        assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_where_a_peer_is_reached_follows_its_record_and_its_packets() -> None:
    async with open_pair() as (network, a, b, club):
        spare = await network.hosts["h1"].open_datagrams(Address("::", 7900))
        b.member.move(b.bound[0], Address(b.bound[0].host, 7900))
        club.learn(b.member)
        for _ in range(4):
            assert a.datagrams.send(b.member.node_id, b"x")  # nothing has come: its addresses take turns
        await trio.sleep(1)
        assert (len(b.received), len(spare.receive_nowait())) == (2, 2)
        b.datagrams.send(a.member.node_id, b"here")
        await trio.sleep(1)
        for _ in range(4):
            a.datagrams.send(b.member.node_id, b"x")
        await trio.sleep(1)
        assert (len(b.received), spare.receive_nowait()) == (6, [])
        b.member.move(Address(b.bound[0].host, 7900))  # it has moved, and says so
        club.learn(b.member)
        a.datagrams.send(b.member.node_id, b"x")
        await trio.sleep(1)
        assert (len(b.received), len(spare.receive_nowait())) == (6, 1)


async def test_without_an_address_or_a_member_nothing_goes_out_and_it_is_counted() -> None:
    async with open_pair() as (_, a, b, club):
        b.member.move(Address(b.bound[0].host, 7800), kind=TCP)
        club.learn(b.member)
        assert not a.datagrams.send(b.member.node_id, b"x")
        b.member.move(Address("name.example", 7800))
        club.learn(b.member)
        assert not a.datagrams.send(b.member.node_id, b"x")
        assert not a.datagrams.send(Member("nobody").node_id, b"x")
        assert not a.datagrams.send(a.member.node_id, b"x")
        assert a.counted() == {"unsent": 2, "unknown_receiver": 1, "unsealed": 1}
        nobody = Member("nobody").node_id
        assert a.datagrams.room(nobody, b.bound[0], 1000) == 0
        assert not a.datagrams.is_validated(nobody, b.bound[0])
        assert a.datagrams.challenge(nobody, b.bound[0]) is None
        a.datagrams.confirm(nobody, b.bound[0], 0)
        a.datagrams.forget(nobody)


def answer_challenge(here: Service, there: Service, source: Address) -> int | None:
    """Let the peer send back what `here` would send to `source`, if it would send something."""
    number = here.datagrams.challenge(there.member.node_id, source)
    if number is not None:
        here.datagrams.confirm(there.member.node_id, source, number)
    return number


async def test_an_address_is_validated_by_its_own_challenge_alone() -> None:
    async with open_pair() as (network, a, b, _):
        peer = b.member.node_id
        one, other = [await network.hosts["h2"].open_datagrams(Address("::", port)) for port in (9, 10)]
        sources = [Address(network.hosts["h2"].ip, port) for port in (9, 10)]
        [first, second] = _sealed(b, a, 2)
        assert a.datagrams.challenge(peer, sources[0]) is None, "nothing has come from there"
        one.send_nowait(first, a.bound[0])
        other.send_nowait(second, a.bound[0])
        await trio.sleep(1)
        number = a.datagrams.challenge(peer, sources[0])
        assert number
        assert a.datagrams.challenge(peer, sources[0]) is None, "one a second"
        assert a.datagrams.challenge(peer, sources[1]) is None, "for each member"
        a.datagrams.confirm(peer, sources[1], 0)
        await trio.sleep(1)
        assert a.datagrams.challenge(peer, sources[0]) == number, "an answer may be late"
        for source, wrong in ((sources[0], number + 1), (sources[0], 0), (sources[1], number), (sources[1], 0)):
            a.datagrams.confirm(peer, source, wrong)
            assert not a.datagrams.is_validated(peer, source)
        a.datagrams.confirm(a.member.node_id, sources[0], number)
        assert not a.datagrams.is_validated(peer, sources[0])
        a.datagrams.confirm(peer, sources[0], number)
        assert [a.datagrams.is_validated(peer, source) for source in sources] == [True, False]
        await trio.sleep(1)
        assert a.datagrams.challenge(peer, sources[0]) is None, "it is validated"
        assert a.datagrams.challenge(peer, b.bound[0]) is None, "it is in the record"
        assert a.datagrams.challenge(peer, sources[1]) not in (None, number)


async def test_an_address_that_is_not_validated_gets_no_more_than_three_times_what_came_from_there() -> None:
    async with open_pair() as (network, a, b, _):
        elsewhere = await network.hosts["h2"].open_datagrams(Address("::", 9))
        source = Address(network.hosts["h2"].ip, 9)
        [first, second] = _sealed(b, a, 2)
        assert not a.datagrams.send(b.member.node_id, b"", source)  # nothing has come from there
        elsewhere.send_nowait(first, a.bound[0])
        await trio.sleep(1)
        assert a.received[-1] == (b.member.node_id, b"", source)
        assert not a.datagrams.is_validated(b.member.node_id, source)
        room = a.datagrams.room(b.member.node_id, source, 0)
        assert room + OVERHEAD_BYTES == 3 * len(first)
        assert not a.datagrams.send(b.member.node_id, bytes(room + 1), source)
        assert a.datagrams.send(b.member.node_id, bytes(room), source)
        assert not a.datagrams.send(b.member.node_id, b"", source)
        assert a.counted() == {"over_allowance": 3}
        elsewhere.send_nowait(second, a.bound[0])
        await trio.sleep(1)
        assert [len(data) for data, _ in elsewhere.receive_nowait()] == [3 * len(first)]
        assert a.datagrams.send(b.member.node_id, b"to where it is known to be")
        await trio.sleep(1)
        assert len(b.received) == 1
        assert answer_challenge(a, b, source)
        assert a.datagrams.is_validated(b.member.node_id, source)
        assert a.datagrams.room(b.member.node_id, source, 0) == PAYLOAD_BYTES_MAX
        for _ in range(5):
            assert a.datagrams.send(b.member.node_id, bytes(PAYLOAD_BYTES_MAX))
        await trio.sleep(1)
        assert len(elsewhere.receive_nowait()) == 5
        assert a.datagrams.is_validated(b.member.node_id, b.bound[0])


async def test_a_replayed_packet_earns_nothing_and_validates_nothing() -> None:
    async with open_pair() as (network, a, b, _):
        elsewhere = await network.hosts["h2"].open_datagrams(Address("::", 9))
        [packet] = _sealed(b, a, 1)
        for _ in range(100):
            elsewhere.send_nowait(packet, a.bound[0])
        await trio.sleep(1)
        assert (len(a.received), a.counted()) == (1, {"replayed": 99})
        assert a.datagrams.room(b.member.node_id, Address(network.hosts["h2"].ip, 9), 1000) == 3 * len(packet) - 65


async def test_a_new_boot_a_moved_record_and_forgetting_end_what_was_confirmed() -> None:
    async with open_pair() as (network, a, b, club):
        elsewhere = await network.hosts["h2"].open_datagrams(Address("::", 9))
        source = Address(network.hosts["h2"].ip, 9)

        async def confirm() -> None:
            [packet] = _sealed(b, a, 1)
            elsewhere.send_nowait(packet, a.bound[0])
            await trio.sleep(1)
            assert answer_challenge(a, b, source)
            assert a.datagrams.is_validated(b.member.node_id, source)

        await confirm()
        b.member.move(b.bound[0])
        club.learn(b.member)
        assert a.datagrams.is_validated(b.member.node_id, source)  # of the same boot
        await trio.sleep(1)
        b.member.reboot()
        club.learn(b.member)
        assert not a.datagrams.is_validated(b.member.node_id, source)
        await confirm()
        a.datagrams.forget(b.member.node_id)
        assert not a.datagrams.is_validated(b.member.node_id, source)
        assert a.datagrams.send(b.member.node_id, b"x")
        await trio.sleep(1)
        assert (len(b.received), elsewhere.receive_nowait()) == (1, [])


async def test_a_member_that_speaks_from_many_addresses_takes_no_more_memory() -> None:
    async with open_pair() as (network, a, b, _):
        for packet in _sealed(b, a, 10 * SOURCES_MAX):
            bound = await network.hosts["h2"].open_datagrams(Address("::", 0))
            bound.send_nowait(packet, a.bound[0])
        await trio.sleep(1)
        assert len(a.received) == 10 * SOURCES_MAX
        assert len(a.datagrams._routes[b.member.node_id].sources) == SOURCES_MAX


async def test_replies_leave_by_the_socket_that_was_spoken_to() -> None:
    a, b = Member("a"), Member("b")
    club = Club(a, b)
    async with open_network(QUIET) as (_, [one, two]):
        async with (
            open_service(a, club, World(network=one), Address(one.ip, 1), Address(one.ip, 2)) as first,
            open_service(b, club, World(network=two), Address(two.ip, 1)) as second,
        ):
            for port in (1, 2, 1):
                second.datagrams.send(a.node_id, b"question", Address(one.ip, port))
                await trio.sleep(1)
                assert first.datagrams.send(b.node_id, b"answer")
                await trio.sleep(1)
                assert second.received[-1] == (a.node_id, b"answer", Address(one.ip, port))


async def test_a_listener_that_ends_frees_its_address_and_the_others_go_on() -> None:
    a, b = Member("a"), Member("b")
    club = Club(a, b)
    async with open_network(QUIET) as (_, [one, two]):
        async with open_service(b, club, World(network=two), Address(two.ip, 1)) as far:
            service = Service(a, club, World(network=one))
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as inner:
                    stays = await nursery.start(service.datagrams.listen, Address(one.ip, 1))
                    ends = await inner.start(service.datagrams.listen, Address(one.ip, 2))
                    with pytest.raises(ExceptionGroup) as caught:
                        await _listen_in_vain(service.datagrams, ends)
                    assert caught.group_contains(UnreachableError, match="choose another address or port")
                    inner.cancel_scope.cancel()
                a.move(stays)
                club.learn(a)
                assert far.datagrams.send(a.node_id, b"x")
                await trio.sleep(1)
                assert [payload for _, payload, _ in service.received] == [b"x"]
                assert service.datagrams.send(b.node_id, b"y")
                (await one.open_datagrams(ends)).close()
                nursery.cancel_scope.cancel()


async def _listen_in_vain(datagrams: Datagrams, address: Address) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(datagrams.listen, address)
