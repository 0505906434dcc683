"""The packet service on real UDP sockets: two members, and a flood of packets that are not what they should be."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from sealed import Club, Member, Service, open_service

from bms.errors import UnreachableError
from bms.security.pairwise import Drop
from bms.values import Address
from bms.world import DatagramSocket, SystemNetwork, World
from helpers import until

BURST = 100
FLOOD = 20_000
CPU_S_MAX = 0.0005  # for a bad packet; it is some microseconds, and the machine may be slow


@asynccontextmanager
async def closed_at_the_end(bound: DatagramSocket) -> AsyncIterator[None]:
    try:
        yield
    finally:
        bound.close()


@pytest.mark.parametrize(
    ("here", "there"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::"), ("::", "127.0.0.1"), ("::", "::1")],
)
async def test_thousands_of_packets_go_both_ways_and_none_is_lost_or_dropped(here: str, there: str) -> None:
    a, b = Member("a"), Member("b")
    club = Club(a, b)
    async with (
        open_service(a, club, World(), Address(here, 0)) as first,
        open_service(b, club, World(), Address(there, 0)) as second,
    ):
        loopback = {
            "127.0.0.1": "127.0.0.1",
            "::1": "::1",
            "::": "127.0.0.1" if "127.0.0.1" in (here, there) else "::1",
        }
        for member, service, host in ((a, first, here), (b, second, there)):
            member.move(Address(loopback[host], service.bound[0].port))
            club.learn(member)
        for start in range(0, 3000, BURST):
            for number in range(start, start + BURST):
                payload = number.to_bytes(2, "big") * (number % 500)
                assert first.datagrams.send(b.node_id, payload)
                assert second.datagrams.send(a.node_id, payload)
            await until(lambda end=start + BURST: min(len(first.received), len(second.received)) == end)  # type: ignore[misc]
        expected = [number.to_bytes(2, "big") * (number % 500) for number in range(3000)]
        for service, peer in ((first, second), (second, first)):
            assert [payload for _, payload, _ in service.received] == expected
            source = Address(loopback[peer.bound[0].host], peer.bound[0].port)
            assert {(sender, at) for sender, _, at in service.received} == {(peer.member.node_id, source)}
            assert service.datagrams.is_validated(peer.member.node_id, source)
            assert service.counted() == {}


async def test_an_address_that_is_taken_is_refused_with_what_to_do() -> None:
    a, b = Member("a"), Member("b")
    async with open_service(a, Club(a), World(), Address("127.0.0.1", 0)) as service:
        with pytest.raises(ExceptionGroup) as caught:
            async with open_service(b, Club(b), World(), service.bound[0]):
                raise AssertionError("bound twice")
        assert caught.group_contains(UnreachableError, match="choose another address or port")


def _bad_packets(victim: Member, friend: Member, taken: bytes, fresh: bytes) -> Iterator[tuple[str, bytes]]:
    """Endless packets that must be dropped, each with the reason; `taken` came before, `fresh` did not."""
    chance = random.Random(7)
    stranger, foreign = Member("stranger"), Member(friend.node_id[:1], mesh_id=bytes(32))
    foreign.node_key, foreign.box_keys = friend.node_key, friend.box_keys
    foreign.publish(foreign.box_keys)
    known = Club(victim, stranger)
    unknown = known.pairs(stranger).seal(victim.node_id, b"let me in")
    other_mesh = Club(victim, foreign).pairs(foreign).seal(victim.node_id, b"from another mesh")
    assert unknown is not None
    assert other_mesh is not None
    while True:
        forged = fresh[:41] + chance.randint(1, 2**48).to_bytes(8, "big") + chance.randbytes(100)
        yield Drop.UNAUTHENTIC, forged
        yield Drop.UNAUTHENTIC, fresh[:-1] + bytes([fresh[-1] ^ 1])
        yield Drop.UNAUTHENTIC, fresh[: chance.randint(65, len(fresh) - 1)]
        yield Drop.REPLAYED, taken
        yield Drop.SHORT, fresh[: chance.randrange(65)]
        yield Drop.UNKNOWN_SENDER, unknown
        yield Drop.UNKNOWN_SENDER, fresh[:1] + chance.randbytes(40) + fresh[41:]
        yield Drop.WRONG_BOOT, other_mesh
        yield Drop.UNAUTHENTIC, other_mesh[:33] + fresh[33:49] + other_mesh[49:]
        yield Drop.VERSION, b"\x02" + chance.randbytes(200)
        yield Drop.OVERSIZED, fresh + bytes(1201 - len(fresh))
        yield Drop.COUNTER, fresh[:41] + b"\xff" * 8 + fresh[49:]
        yield Drop.OWN, b"\x01" + victim.node_id.raw + victim.record.boot_id[:8] + fresh[41:]


async def _flood(
    attacker: DatagramSocket, to: Service, packets: Iterator[tuple[str, bytes]]
) -> tuple[Counter[str], float]:
    """Send the whole flood, as fast as it is taken; what was sent for which reason, and the CPU for taking it."""
    sent: Counter[str] = Counter()
    cpu_s = 0.0
    while sent.total() < FLOOD:
        for _, (reason, packet) in zip(range(BURST), packets, strict=False):
            if attacker.send_nowait(packet, to.bound[0]):
                sent[reason] += 1
        before = time.process_time()
        to.datagrams.receive_nowait()
        cpu_s += time.process_time() - before
        await trio.lowlevel.checkpoint()
    return sent, cpu_s


async def test_a_flood_gets_no_answer_costs_little_and_stops_nothing() -> None:
    victim, friend = Member("victim"), Member("friend")
    club = Club(victim, friend)
    attacker = await SystemNetwork().open_datagrams(Address("127.0.0.1", 0))
    async with (
        closed_at_the_end(attacker),
        open_service(victim, club, World(), Address("127.0.0.1", 0)) as service,
        open_service(friend, club, World(), Address("127.0.0.1", 0)) as other,
    ):
        pairs = other.datagrams._pairs
        taken, fresh = pairs.seal(victim.node_id, b"taken"), pairs.seal(victim.node_id, b"fresh" * 10)
        assert taken is not None
        assert fresh is not None
        attacker.send_nowait(taken, service.bound[0])  # somebody on the way may pass a packet on, and keep it
        await until(lambda: len(service.received) == 1)
        sent, cpu_s = await _flood(attacker, service, _bad_packets(victim, friend, taken, fresh))
        await until(lambda: service.counters["datagrams.received"] == sent.total() + 1)
        assert service.counted() == sent
        assert set(sent) == set(Drop) - {Drop.WEAK_KEY}
        assert min(sent.values()) > 1000
        assert cpu_s / sent.total() < CPU_S_MAX
        assert attacker.receive_nowait() == []
        assert service.counters["datagrams.sent"] == 0
        assert len(service.datagrams._pairs._peers) == 1
        attacker.send_nowait(fresh, service.bound[0])  # what was forged all the time is taken, the true one
        other.datagrams.send(victim.node_id, b"still here?")
        await until(lambda: len(service.received) == 3)
        assert service.datagrams.send(friend.node_id, b"still here")
        await until(lambda: len(other.received) == 1)


async def test_a_flood_leaves_other_tasks_their_turns() -> None:
    victim, friend = Member("victim"), Member("friend")
    club = Club(victim, friend)
    attacker = await SystemNetwork().open_datagrams(Address("127.0.0.1", 0))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def attack() -> None:
        while True:
            for _ in range(1000):
                attacker.send_nowait(bytes(100), service.bound[0])
            await trio.lowlevel.checkpoint()

    async with (
        closed_at_the_end(attacker),
        open_service(victim, club, World(), Address("127.0.0.1", 0)) as service,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attack)
            nursery.start_soon(count_turns)
            await until(lambda: service.counters["datagrams.received"] > FLOOD)
            nursery.cancel_scope.cancel()
        assert turns > FLOOD / 1000
        assert service.counted() == {"version": service.counters["datagrams.received"]}
