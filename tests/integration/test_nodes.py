"""What a node says of the others: tags, events, who is near, how they are connected."""

from __future__ import annotations

import errno

import pytest
import trio

import bms
from bms.config import GossipConfig
from bms.membership.watching import EVENTS_MAX, Watches
from bms.values import Address
from bms.world import SystemNetwork, World
from helpers import cluster, until


async def test_tags_are_told_to_all_and_taken_away_again() -> None:
    async with cluster(3) as (one, two, three):
        shown = await one.update_node(role="arm", position="1,2")
        assert shown.tags == {"role": "arm", "position": "1,2"}
        for mesh in (two, three):
            await until(lambda mesh=mesh: mesh.node(one.node_id).tags == shown.tags)  # type: ignore[misc]
        await one.update_node(role=None)
        for mesh in (two, three):
            await until(lambda mesh=mesh: mesh.node(one.node_id).tags == {"position": "1,2"})  # type: ignore[misc]
        await one.stop()
        async with trio.open_nursery() as nursery:
            await one.start(nursery)
            await until(lambda: two.node(one.node_id).state == "alive")
            assert two.node(one.node_id).tags == {"position": "1,2"}
            await one.stop()


async def test_tags_beyond_the_limit_are_refused_and_change_nothing() -> None:
    async with cluster(1) as (one,):
        before = await one.update_node(a="1")
        for tags in ({"b": "x" * 3000}, {f"t{number}": "" for number in range(70)}, {"c": "a\nb"}):
            with pytest.raises(bms.LocalProtocolError):
                await one.update_node(**tags)
        assert one.nodes()[0].tags == before.tags == {"a": "1"}
        assert (await one.update_node(b="2")).tags == {"a": "1", "b": "2"}


async def test_a_watcher_sees_who_comes_changes_and_goes() -> None:
    async with cluster(1) as (one,):
        async with one.watch_nodes() as watch:
            async with bms.open_mesh(dev_mode=True, node_name="guest") as guest:
                seen = [await _next(watch)]
                await guest.update_node(role="guest")
                while seen[-1].what != "updated" or one.node(guest.node_id).tags != {"role": "guest"}:
                    seen.append(await _next(watch))
            while seen[-1].what != "left":
                seen.append(await _next(watch))
            assert seen[0].what == "joined"
            assert {(event.node_id, event.name) for event in seen} == {(guest.node_id, "guest")}
            await one.stop()
            assert [event async for event in watch] == []
        with pytest.raises(bms.ClosedError):
            one.watch_nodes()


async def _next(watch: bms.NodeWatch) -> bms.NodeEvent:
    with trio.fail_after(30):
        event = await anext(watch)
    assert isinstance(event, bms.NodeEvent)
    return event


async def test_a_watcher_that_does_not_read_is_told_how_many_events_it_missed() -> None:
    watches = Watches()
    async with watches.watch() as watch:
        event = bms.NodeEvent("updated", bms.NodeId("a" * 64))
        for _ in range(EVENTS_MAX + 7):
            watches.tell(event)
        watches.close()
        items = [item async for item in watch]
        assert items == [event] * EVENTS_MAX + [bms.Missed(7)]


async def test_the_nearest_nodes_by_each_measure() -> None:
    async with cluster(3) as (one, two, three):
        await two.update_node(position="3,4")
        await three.update_node(position="30,40")
        await until(lambda: all(one.node(mesh.node_id).tags for mesh in (two, three)))
        by_space = await one.find_nearest_nodes((0, 0), metric="space")
        assert [(node.node_id, distance) for node, distance in by_space] == [(two.node_id, 5.0), (three.node_id, 50.0)]
        assert len(await one.find_nearest_nodes((0, 0), 1, "space")) == 1
        by_xor = await one.find_nearest_nodes(one.node_id, metric="xor")
        distances = {mesh.node_id: int(mesh.node_id, 16) ^ int(one.node_id, 16) for mesh in (two, three)}
        assert {node.node_id: distance for node, distance in by_xor} == distances
        assert sorted(distances.values()) == [distance for _, distance in by_xor]
        # Coordinates come with the answers to probes: one a second, in turn.
        for mesh in (one, two):
            assert mesh._life is not None
            positions = mesh._life.gossip.positions
            await until(lambda positions=positions: len(positions) == 2, 30)  # type: ignore[misc]
        assert len(await two.find_nearest_nodes(three.node_id)) == 2
        by_rtt = await one.find_nearest_nodes()
        assert [distance for _, distance in by_rtt] == sorted(distance for _, distance in by_rtt)
        assert all(0 < distance < 5 for _, distance in by_rtt)


@pytest.mark.parametrize(
    ("target", "metric", "error"),
    [
        (None, "speed", bms.LocalProtocolError),
        (None, "space", bms.LocalProtocolError),
        ((), "space", bms.LocalProtocolError),
        ((float("nan"),), "space", bms.LocalProtocolError),
        ((1, 2), "rtt", bms.LocalProtocolError),
        ("a" * 64, "rtt", bms.NotFoundError),
        ("nobody", "xor", bms.LocalProtocolError),
    ],
)
async def test_what_is_no_target_is_refused(target: object, metric: str, error: type[Exception]) -> None:
    async with cluster(1) as (one,):
        with pytest.raises(error):
            await one.find_nearest_nodes(target, metric=metric)


async def test_the_topology_lists_all_nodes_and_the_links_of_this_one() -> None:
    async with cluster(3) as (one, two, three):
        await until(lambda: all(link.loss is not None for link in one.topology().links), 30)
        seen = one.topology()
        assert {node.node_id for node in seen.nodes} == {mesh.node_id for mesh in (one, two, three)}
        assert [link.node_id for link in seen.links] == sorted([two.node_id, three.node_id])
        for link in seen.links:
            assert link.rtt_s is not None
            assert link.loss is not None
            assert 0 <= link.loss <= 1
            assert link.age_s > 0


async def test_datagrams_are_taken_at_one_more_address() -> None:
    async with cluster(2) as (one, two):
        bound = await one.listen_udp("127.0.0.1:0")
        assert bound.port != 0
        assert one._life is not None
        assert (1, bound.host, bound.port) in one._life.record.addresses
        with pytest.raises(bms.UnreachableError):
            await one.listen_udp(bound)
        await until(lambda: two.node(one.node_id).incarnation == one.nodes()[0].incarnation)


async def test_a_node_that_is_gone_is_forgotten_by_all_and_comes_back_by_itself() -> None:
    async with cluster(3) as (one, two, three):
        with pytest.raises(bms.LocalProtocolError, match="is there"):
            await one.remove_node(three.node_id)
        with pytest.raises(bms.LocalProtocolError, match="is there"):
            await one.remove_node(one.node_id)
        with pytest.raises(bms.NotFoundError):
            await one.remove_node("a" * 64)
        await three.stop()
        for mesh in (one, two):
            await until(lambda mesh=mesh: mesh.node(three.node_id).state == "left")  # type: ignore[misc]
        async with two.watch_nodes() as watch:
            await one.remove_node(three.node_id)
            while (event := await _next(watch)).what != "forgotten":
                pass
            assert (event.node_id, event.by) == (three.node_id, one.node_id)
        for mesh in (one, two):
            assert three.node_id not in [node.node_id for node in mesh.nodes()]
        async with trio.open_nursery() as nursery:
            await three.start(nursery)
            for mesh in (one, two):
                await until(lambda mesh=mesh: three.node_id in [node.node_id for node in mesh.nodes("alive")])  # type: ignore[misc]
            await three.stop()


class _Elsewhere(SystemNetwork):
    """No way leads to 127.0.0.2: what the address of a container's network is to other machines."""

    async def dial(self, address: Address) -> trio.SocketStream:
        if address.host == "127.0.0.2":
            raise OSError(errno.ENETUNREACH, "network is unreachable")
        return await super().dial(address)


async def test_the_host_of_the_last_link_alone_says_that_a_node_is_gone() -> None:
    patient = GossipConfig(suspicion_alpha=100)  # a suspicion that nobody cuts lasts for 100 s
    async with (
        bms.open_mesh(dev_mode=True, node_name="one", world=World(network=_Elsewhere()), gossip=patient) as one,
        one.watch_nodes() as watch,
    ):
        with trio.CancelScope() as life:
            async with bms.open_mesh(dev_mode=True, node_name="guest") as guest:
                await until(lambda: one.is_connected(guest.node_id))
                before = one.node(guest.node_id).incarnation
                await guest.listen_tcp("127.0.0.2:0")
                await until(lambda: one.node(guest.node_id).incarnation > before)
                life.cancel()  # it says nothing, as if it was killed
                await trio.sleep_forever()
        while (event := await _next(watch)).what != "failed":
            assert event.what in ("joined", "updated", "suspected")
        assert event.node_id == guest.node_id
