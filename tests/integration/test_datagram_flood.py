"""Datagrams of somebody who is no member, in masses: they are dropped, nothing is answered, nobody is suspected.

How many a second a node bears, and what that costs it, `benchmarks/flood.py` measures.
"""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio

import bms
from bms.security.keys import BoxKey, NodeKey
from bms.security.pairwise import End, derive_key, seal
from bms.values import Address, Message
from helpers import cluster, until

PACKETS = 20_000
BATCH = 64

Made = tuple[str, bytes]


def life_of(mesh: bms.Mesh) -> Any:
    assert mesh._life is not None
    return mesh._life


def captured(sender: bms.Mesh, receiver: bms.Mesh) -> bytes:
    """A packet that one member has sent to another, as somebody on the way sees it."""
    datagrams = life_of(sender).datagrams
    packet = datagrams._pairs.seal(receiver.node_id, b"\x80")
    assert isinstance(packet, bytes)
    assert datagrams._sockets[0].send_nowait(packet, life_of(receiver).listening_udp[0])
    return packet


def foreign(receiver: bms.Mesh, chance: random.Random) -> bytes:
    """A packet that a node of another mesh has sealed in order."""
    node_id = NodeKey.generate(chance.randbytes).node_id
    own, record = BoxKey.generate(chance.randbytes), life_of(receiver).record
    sender = End(node_id.raw, chance.randbytes(16), own.public)
    key = derive_key(chance.randbytes(32), own, sender, End(receiver.node_id.raw, record.boot_id, record.box_keys[0]))
    return seal(key, sender, 1, b"\x80")


def forgeries(member: bms.Mesh, target: bms.Mesh, chance: random.Random) -> Iterator[Made]:
    """Packets and what they are counted as, for ever."""
    seen = captured(member, target)
    own = life_of(target).record
    others = [foreign(target, chance) for _ in range(20)]
    while True:
        number = chance.randrange(2**40, 2**47).to_bytes(8, "big")
        yield "replayed", seen
        yield "unauthentic", seen[:41] + number + seen[49:]
        yield "unauthentic", seen[:41] + number + chance.randbytes(chance.randrange(16, 1000))
        yield "unknown_sender", chance.choice(others)
        yield "wrong_boot", seen[:33] + chance.randbytes(8) + seen[41:]
        yield "unknown_sender", seen[:1] + target.node_id.raw + own.boot_id[:8] + seen[41:]
        yield "short", seen[: chance.randrange(65)]
        yield "unauthentic", seen[:41] + number + seen[49:-1] + bytes([seen[-1] ^ 1])
        yield "version", bytes([chance.randrange(2, 256)]) + seen[1:]
        yield "oversized", seen + bytes(1201 - len(seen))


@asynccontextmanager
async def stranger() -> AsyncIterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


def replies(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(2048))
        except BlockingIOError:
            return found


async def pour(sock: socket.socket, to: Address, made: list[Made], target: bms.Mesh) -> None:
    """Send these as fast as they are read, so that none is lost to the system's buffer."""
    for start in range(0, len(made), BATCH):
        before = target.counters["datagrams.received"]
        batch = made[start : start + BATCH]
        for _, packet in batch:
            sock.sendto(packet, (to.host, to.port))
        await until(lambda before=before, batch=batch: target.counters["datagrams.received"] >= before + len(batch))  # type: ignore[misc]


async def test_twenty_thousand_forgeries_are_dropped_unanswered_and_nobody_is_suspected() -> None:
    chance = random.Random(4)
    async with cluster(3) as meshes, stranger() as sock, trio.open_nursery() as nursery:
        target, member, _ = meshes
        source = forgeries(member, target, chance)
        opened = target.counters["datagrams.bytes_received"]
        made = [next(source) for _ in range(PACKETS)]
        await until(lambda: target.counters["datagrams.bytes_received"] > opened)
        life_of(target).datagrams.receive_nowait()  # what was captured has been taken, whichever packet that was
        got: list[bytes] = []
        sent = 0

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            async with target.subscribe("honest") as messages:
                task_status.started()
                async for message in messages:
                    assert isinstance(message, Message)
                    got.append(message.body)

        await nursery.start(listen)
        before = {kind: target.counters[f"datagrams.{kind}"] for kind, _ in made}
        for start in range(0, PACKETS, PACKETS // 10):
            await pour(sock, life_of(target).listening_udp[0], made[start : start + PACKETS // 10], target)
            await member.send_message(target.node_id, str(sent).encode(), "honest")
            sent += 1
        await until(lambda: len(got) == sent)
        assert got == [str(number).encode() for number in range(sent)]
        assert replies(sock) == []
        for kind, count in Counter(kind for kind, _ in made).items():
            assert target.counters[f"datagrams.{kind}"] - before[kind] == count, kind
        for mesh in meshes:
            assert len(mesh.nodes("alive")) == 3
            for counter in ("suspected", "failed", "malformed_packets"):
                assert mesh.counters[f"membership.{counter}"] == 0
            assert mesh.counters["datagrams.handler_crashes"] == 0
        nursery.cancel_scope.cancel()


async def test_random_bytes_of_every_length_are_dropped_unanswered() -> None:
    chance = random.Random(5)
    async with cluster(2) as (target, _), stranger() as sock:
        made = [("", chance.randbytes(length)) for length in range(1, 1500, 2)]
        before = target.counters["datagrams.bytes_received"]
        await pour(sock, life_of(target).listening_udp[0], made, target)
        assert replies(sock) == []
        assert target.counters["datagrams.bytes_received"] - before < 10_000, "members' own, no more"
        assert len(target.nodes("alive")) == 2
