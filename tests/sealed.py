"""Verbs for tests of datagrams: members that know each other's records, without authority or links; their services."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from bms.counters import Counters
from bms.net.datagrams import Datagrams
from bms.security.keys import BoxKey, NodeKey
from bms.security.pairs import Pairs
from bms.security.records import TCP, UDP, NodeRecord
from bms.values import Address, NodeId
from bms.world import World

__all__ = ["MESH_ID", "Club", "Member", "Service", "open_service", "random_from"]

MESH_ID = hashlib.sha256(b"mesh").digest()


def random_from(seed: str) -> Callable[[int], bytes]:
    """Endless "random" bytes that are the same in every run."""
    count = 0

    def token_bytes(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return token_bytes


class Member:
    """A node with its keys and its record in force."""

    def __init__(self, name: str, mesh_id: bytes = MESH_ID) -> None:
        self._random = random_from(name)
        self._mesh_id = mesh_id
        self._boot, self._incarnation = 1_790_000_000_000, 0
        self._boot_id = self._random(16)
        self._listed: tuple[bytes, ...] = ()
        self.addresses: list[tuple[int, str, int]] = []
        self.node_key = NodeKey.generate(self._random)
        self.box_keys = [BoxKey.generate(self._random)]
        self.publish(self.box_keys)

    @property
    def node_id(self) -> NodeId:
        return self.node_key.node_id

    def publish(self, box_keys: Sequence[BoxKey]) -> None:
        """A new record, which lists these keys."""
        self._listed = tuple(key.public for key in box_keys)
        self._sign()

    def list_raw(self, box_key: bytes) -> None:
        """A new record, which lists a key that may be anything."""
        self._listed = (box_key,)
        self._sign()

    def move(self, *addresses: Address, kind: int = UDP) -> None:
        """A new record, which lists these addresses, behind one of TCP."""
        self.addresses = [(TCP, "127.0.0.1", 9), *((kind, address.host, address.port) for address in addresses)]
        self._sign()

    def reboot(self) -> None:
        """A new record, of a new boot."""
        self._boot, self._incarnation = self._boot + 1, 0
        self._boot_id = self._random(16)
        self._sign()

    def new_box_key(self) -> BoxKey:
        """One more key that it holds, its newest; not published yet."""
        self.box_keys.insert(0, BoxKey.generate(self._random))
        return self.box_keys[0]

    def _sign(self) -> None:
        self._incarnation += 1
        self.record = NodeRecord.sign(
            self.node_key, mesh_id=self._mesh_id, boot=self._boot, boot_id=self._boot_id, time=0,
            incarnation=self._incarnation, name="n", addresses=self.addresses, box_keys=self._listed, versions=(1, 1),
        )  # fmt: skip


class Club:
    """Members, and the records of them that are known here; `learn` takes up a new one."""

    def __init__(self, *members: Member) -> None:
        self.known: dict[NodeId, NodeRecord] = {}
        self.learn(*members)

    def learn(self, *members: Member) -> None:
        for member in members:
            self.known[member.node_id] = member.record

    def pairs(self, member: Member, **bounds: int) -> Pairs:
        """The sealed packets of a member, which goes by the records known here."""
        return Pairs(
            box_keys=lambda: member.box_keys, my_record=lambda: member.record, record_of=self.known.get, **bounds
        )


class Service:
    """A member's running packet service. `received` are the packets that came, with their senders and sources; the
    handler fails on the payload `fails_on`.
    """

    def __init__(self, member: Member, club: Club, world: World) -> None:
        self.member = member
        self.counters = Counters()
        self.received: list[tuple[NodeId, bytes, Address]] = []
        self.fails_on: bytes | None = None
        self.bound: list[Address] = []
        self.datagrams = Datagrams(
            box_keys=lambda: member.box_keys, my_record=lambda: member.record, record_of=club.known.get,
            on_packet=self._take, counters=self.counters, world=world,
        )  # fmt: skip

    def _take(self, sender: NodeId, payload: bytes, source: Address) -> None:
        if payload == self.fails_on:
            raise LookupError("a bug")
        self.received.append((sender, payload, source))

    def counted(self) -> dict[str, int]:
        """What was dropped or went wrong, by name."""
        usual = {"received", "bytes_received", "sent", "bytes_sent"}
        found = {name.partition(".")[2]: count for name, count in self.counters.snapshot().items() if count}
        return {name: count for name, count in found.items() if name not in usual}


@asynccontextmanager
async def open_service(member: Member, club: Club, world: World, *addresses: Address) -> AsyncIterator[Service]:
    """Run a member's service at these addresses, which its record then lists and the club knows."""
    service = Service(member, club, world)
    async with trio.open_nursery() as nursery:
        for address in addresses:
            service.bound.append(await nursery.start(service.datagrams.listen, address))
        member.move(*service.bound)
        club.learn(member)
        yield service
        nursery.cancel_scope.cancel()
