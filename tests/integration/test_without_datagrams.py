"""A mesh behind firewalls that swallow every datagram without a word: slower, and not another one."""

from __future__ import annotations

import trio

import bms
from bms.life import Life
from bms.membership.claims import Effect
from bms.values import Address, NodeEvent
from bms.world import DatagramSocket, SystemNetwork, World
from helpers import cluster, until

QUICK = {"probe_interval_s": 0.2, "gossip_interval_s": 0.05}


class _Swallowing(DatagramSocket):
    """Takes everything, and nothing arrives."""

    def __init__(self, inner: DatagramSocket) -> None:
        self.address = inner.address
        self._inner = inner

    def send_nowait(self, data: bytes, to: Address) -> bool:
        return True

    async def receive(self) -> list[tuple[bytes, Address]]:
        return await self._inner.receive()

    def receive_nowait(self) -> list[tuple[bytes, Address]]:
        return []

    def close(self) -> None:
        self._inner.close()


class _Firewall(SystemNetwork):
    """Lets TCP through alone."""

    async def open_datagrams(self, address: Address) -> DatagramSocket:
        return _Swallowing(await super().open_datagrams(address))


def life_of(mesh: bms.Mesh) -> Life:
    assert mesh._life is not None
    return mesh._life


def suspect(mesh: bms.Mesh, other: bms.Mesh) -> None:
    """Let a node believe, by its own mistake, that another one does not answer."""
    effects: list[Effect] = []
    life = life_of(mesh)
    life.swim._suspect(other.node_id, trio.current_time(), effects)
    life.gossip._act(effects)


async def test_nobody_fails_and_who_is_suspected_by_mistake_takes_it_back_in_time() -> None:
    async with cluster(3, world=World(network=_Firewall()), gossip=QUICK) as meshes:
        one, two, three = meshes
        pairs = [(mesh, other) for mesh in meshes for other in meshes if mesh is not other]
        await until(lambda: all(life_of(mesh).swim.loss(other.node_id) == 1.0 for mesh, other in pairs))
        async with one.watch_nodes() as watch:
            before = one.node(two.node_id).incarnation
            suspect(one, two)
            assert one.node(two.node_id).state == "suspect"
            for mesh in (one, three):
                await until(lambda mesh=mesh: mesh.node(two.node_id).incarnation > before)  # type: ignore[misc]
                assert mesh.node(two.node_id).state == "alive"
            seen = [event.what for event in watch._events if isinstance(event, NodeEvent)]
        assert "failed" not in seen
        assert two.counters["membership.refuted"] >= 1
