"""Starts, stops, changes and crashes that meet each other, and what they leave: nothing, and nobody waiting."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio
import trio.lowlevel
import trio.testing
from hostile import Raw, cards_in, connect, context_of, open_member, over, siege

import bms
from bms.config import Config
from bms.counters import Counters
from bms.errors import DeliveryError
from bms.life import Life
from bms.membership.registry import Registry
from bms.messaging.topics import Topics
from bms.net.link import Link
from bms.values import Address, Message, NodeId
from bms.wire.messages import CloseCode, Packet, Ping, Request
from bms.world import SystemNetwork, World
from helpers import cluster, make_authority, make_identity, open_party, until


def solo(**fields: Any) -> bms.Mesh:
    """A node alone."""
    return bms.init(**{"dev_mode": True, "enable_discovery": False, "listen_address": "127.0.0.1:0", **fields})


def taken_port() -> tuple[socket.socket, int]:
    """A port that nobody else can bind, for as long as the socket lives."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    return holder, holder.getsockname()[1]


def life_of(mesh: bms.Mesh) -> Life:
    assert mesh._life is not None
    return mesh._life


# ---------------------------------------------------------------------- starting and stopping


async def test_a_start_in_a_closed_nursery_fails_and_leaves_nothing_to_wait_for() -> None:
    mesh = solo()
    async with trio.open_nursery() as nursery:
        pass
    with trio.fail_after(60):
        with pytest.raises(RuntimeError, match="closed"):
            await mesh.start(nursery)
        assert not mesh.is_running
        await mesh.shutdown()


async def test_two_starts_at_once_make_one_life() -> None:
    mesh = solo()
    refused: list[bms.MeshError] = []

    async def start() -> None:
        try:
            await mesh.start(nursery)
        except bms.LocalProtocolError as error:
            refused.append(error)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as starters:
                starters.start_soon(start)
                starters.start_soon(start)
            assert len(refused) == 1
            await mesh.shutdown()


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21, 34])
async def test_a_shutdown_during_a_start_ends_both(steps: int) -> None:
    mesh = solo()
    outcomes: list[str] = []

    async def start() -> None:
        try:
            await mesh.start(nursery)
            outcomes.append("started")
        except bms.ClosedError:
            outcomes.append("refused")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await mesh.shutdown()
            assert not mesh.is_running
        assert len(outcomes) == 1
    with pytest.raises(bms.ClosedError):
        await mesh.store_data("k", b"v")


async def test_a_stop_during_a_stop_waits_for_it_and_a_start_comes_after_both() -> None:
    async with cluster(2) as (one, _):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as enders:
                for _ in range(2):
                    enders.start_soon(one.stop)
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                await one.start(nursery)
            async with one.subscribe("after") as messages:
                await one.send_message(one.node_id, b"x", "after")
                assert isinstance(await anext(messages), Message)
            await one.stop()
            assert not one.is_running


async def test_a_stop_that_is_cancelled_while_it_drains_ends_at_once_and_wholly(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, _node_with_a_deaf_peer(scene) as mesh:
        started = time.monotonic()
        with trio.move_on_after(0.2):
            await mesh.stop()
        assert time.monotonic() - started < 25
        assert not mesh.is_running


@asynccontextmanager
async def _node_with_a_deaf_peer(scene: Any) -> AsyncIterator[bms.Mesh]:
    """A node whose one peer has joined and reads nothing, and to which much is queued."""
    make_identity(scene.authority, scene.folder, "draining")
    async with open_member(scene.folder, "draining", limits={"drain_timeout_s": 30.0}) as mesh:
        raw = await _deaf_member(scene, mesh)
        await _fill(mesh)
        try:
            yield mesh
        finally:
            with trio.CancelScope(shield=True):
                await raw.cut()


async def _deaf_member(scene: Any, mesh: bms.Mesh) -> Raw:
    """The attacker as a member of `mesh`, with next to no room for what is sent to it."""
    assert mesh.address is not None
    raw = await connect(mesh.address, context_of(scene.folder, scene.attacker), receive_buffer=4096)
    await raw.join(scene.attacker)
    await until(lambda: mesh.is_connected(scene.attacker.node_id))
    return raw


async def _fill(mesh: bms.Mesh) -> None:
    """Broadcast until a link takes no more."""
    for _ in range(10_000):
        if not await mesh.broadcast_message(bytes(60_000), "fill"):
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("the link never became full")


# ---------------------------------------------------------------------- reconfigure and listeners


async def test_a_new_address_that_cannot_be_bound_leaves_the_old_one_and_all_others() -> None:
    holder, port = taken_port()
    mesh = solo()
    with holder, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await mesh.start(nursery)
            old = mesh.address
            extra = await mesh.listen_tcp("127.0.0.1:0")
            for name in ("listen_address", "http_address", "https_address"):
                fields: dict[str, Any] = {name: f"127.0.0.1:{port}"}
                with pytest.raises(bms.UnreachableError, match=f"^{name}: cannot listen at 127.0.0.1:{port}: "):
                    await mesh.reconfigure(**fields)
            with pytest.raises(bms.UnreachableError, match=f"^tcp_port: cannot listen at 127.0.0.1:{port}: "):
                await mesh.reconfigure(tcp_port=port)
            assert mesh.address == old
            assert life_of(mesh).listening == [old, extra]
            assert mesh.config.listen_address == "127.0.0.1:0"
            for address in (old, extra):
                assert address is not None
                stream = await trio.open_tcp_stream(address.host, address.port)
                await stream.aclose()
            await mesh.shutdown()


async def test_a_reconfigure_that_is_cancelled_leaves_a_listener() -> None:
    mesh = solo()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await mesh.start(nursery)
            holder, port = taken_port()
            holder.close()
            with trio.CancelScope() as scope:
                scope.cancel()
                await mesh.reconfigure(listen_address=f"127.0.0.1:{port}")
            async with trio.open_nursery() as changing:
                changing.start_soon(lambda: mesh.reconfigure(listen_address=f"127.0.0.1:{port}"))
                await trio.lowlevel.checkpoint()
                changing.cancel_scope.cancel()
            assert mesh.address is not None
            stream = await trio.open_tcp_stream("127.0.0.1", mesh.address.port)
            await stream.aclose()
            await mesh.shutdown()


async def test_listeners_that_cannot_be_bound_are_not_kept_and_do_not_keep_others_from_stopping() -> None:
    holder, port = taken_port()
    mesh = solo()
    with holder, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await mesh.start(nursery)
            before = set(mesh.collect_stats().subsystems)
            for _ in range(3):
                with pytest.raises(bms.UnreachableError):
                    await mesh.listen_tcp(f"127.0.0.1:{port}")
            assert set(mesh.collect_stats().subsystems) == before
            await mesh.listen_tcp("127.0.0.1:0")
            with pytest.raises(bms.UnreachableError):
                await mesh.reconfigure(listen_address=f"127.0.0.1:{port}")
            await mesh.listen_tcp("127.0.0.1:0")
            await mesh.listen_tcp("127.0.0.1:0")
            assert len(mesh.collect_stats().subsystems) == len(before) + 3
            await mesh.shutdown()


async def test_new_limits_hold_for_messages_and_values_at_once() -> None:
    mesh = solo()
    async with trio.open_nursery() as nursery:
        await mesh.start(nursery)
        await mesh.reconfigure(mesh.config.evolve(limits={"body_bytes_max": 2000, "value_bytes_max": 3000}))
        with pytest.raises(bms.LimitError):
            await mesh.broadcast_message(bytes(2001))
        with pytest.raises(bms.LimitError):
            await mesh.store_data("k", bytes(3001))
        await mesh.shutdown()


async def test_requests_are_served_again_after_a_stop_and_a_start() -> None:
    async with cluster(2) as (one, two):

        async def echo(message: Message) -> bytes:
            return message.body

        async with trio.open_nursery() as nursery:
            await nursery.start(two.serve_requests, "echo", echo)
            await two.stop()
            await two.start(nursery)
            await until(lambda: one.is_connected(two.node_id))
            assert await one.request(two.node_id, b"again", "echo") == b"again"
            await two.stop()
            nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- bugs of ours, and what they may cost


async def test_a_bug_in_telling_of_a_link_costs_that_link_and_not_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = make_authority()
    identities = [make_identity(authority, tmp_path, str(number)) for number in range(3)]
    async with open_party(identities[0]) as a, open_party(identities[1]) as b, open_party(identities[2]) as c:
        good = await b.pool.dial(a.address)

        def fail(link: Link) -> None:
            raise KeyError("a bug")

        a.pool._on_up = fail
        bad = await c.pool.dial(a.address)
        with trio.fail_after(60):
            await bad.ended.wait()
        assert good.is_open
        assert list(a.pool.links) == [identities[1].node_id]
        assert a.counters["net.handler_crashes"] == 1
        assert "a bug" in caplog.text


async def test_a_bug_in_telling_of_a_links_end_leaves_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    async with open_party(one) as a, open_party(two) as b:

        def fail(link: Link, last: bool) -> None:
            raise KeyError("a bug")

        a.pool._on_down = fail
        served = trio.Event()
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve() -> None:
            await a.pool.serve(theirs)
            served.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            link = await b.pool._adopt(await b.pool._shake(ours, "", dialed=True))
            assert link is not None
            link.end("over", CloseCode.GOING_AWAY)
            with trio.fail_after(60):
                await served.wait()
        assert not a.pool._all
        assert "a bug" in caplog.text


@pytest.mark.parametrize("steps", range(6))  # after one of them the pool's nursery is closed and `run` has not gone on
async def test_a_link_that_is_made_as_the_pool_ends_is_not_kept(steps: int, tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")

    async def link_as_it_ends() -> None:
        async with open_party(one) as a, open_party(two, listen=False) as b, trio.open_nursery() as nursery:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(a.pool.serve, theirs)
            link = await b.pool._shake(ours, "", dialed=True)
            assert b.pool._nursery is not None
            b.pool._nursery.cancel_scope.cancel()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await b.pool._adopt(link)
            await until(lambda: not b.pool._all)
            assert not link.is_open

    for _ in range(4):  # who goes first is chance
        await link_as_it_ends()


@pytest.mark.parametrize("name", ["pool", "gossip", "replication"])
async def test_a_subsystem_that_crashes_is_whole_again_soon(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with cluster(3) as meshes:
        one, two, three = meshes

        async def crash() -> None:
            raise KeyError("a bug")

        getattr(life_of(two), name)._nursery.start_soon(crash)
        await until(lambda: two.counters["supervisor.crashes"] >= 1)
        await one.store_data("meanwhile", b"written")
        await until(lambda: all(mesh.is_connected(other.node_id) for mesh in meshes for other in meshes))
        await until(lambda: all(mesh.data_summary().entries == 1 for mesh in meshes))
        async with two.subscribe("t") as messages:
            await three.send_message(two.node_id, b"x", "t", deadline_s=30)
            assert isinstance(await anext(messages), Message)
        await until(lambda: two.collect_stats().subsystems["listener"].state == "running")
        assert "a bug" in caplog.text


# ---------------------------------------------------------------------- links


async def test_a_replaced_link_ends_even_if_the_one_that_replaced_it_ends_first(tmp_path: Path) -> None:
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    routes: dict[type, Any] = {Request: lambda link, message: None}
    async with open_party(one, routes=routes) as a, open_party(two, routes=routes) as b:
        old = await a.pool.dial(b.address)
        await until(lambda: b.up)
        async with trio.open_nursery() as nursery:

            async def ask(link: Link) -> None:  # keeps the old link from retiring at once
                with pytest.raises(DeliveryError):
                    await link.call(Request(0, 1, 1, "t", b""))

            for link in (old, b.up[0]):
                nursery.start_soon(ask, link)
            await until(lambda: old._calls and b.up[0]._calls)
            new = await a.pool.dial(b.address)
            assert new is not old
            new.end("broken", CloseCode.GOING_AWAY)
            with trio.move_on_after(60):
                await until(lambda: not a.pool._all and not b.pool._all, 120)
            assert old.reason, "the old link is still open, and nobody knows it"
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _lockstep(tmp_path: Path, **fields: Any) -> AsyncIterator[tuple[Any, Raw, Any]]:
    """A pool and a raw member joined to it over a stream that holds nothing: what is not read is not sent."""
    authority = make_authority()
    one, two = make_identity(authority, tmp_path, "1"), make_identity(authority, tmp_path, "2")
    async with open_party(one, listen=False, **fields) as party, trio.open_nursery() as nursery:
        ours, theirs = trio.testing.lockstep_stream_pair()
        nursery.start_soon(party.pool.serve, theirs)
        raw = await over(ours, context_of(tmp_path, two))
        await raw.join(two)
        await until(lambda: party.up)
        yield party, raw, two
        nursery.cancel_scope.cancel()


async def _ping_forever(raw: Raw) -> None:
    for number in itertools.count(1):
        try:
            await raw.send(Ping(id=number, time=0))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await trio.sleep(0.5)


async def test_a_link_that_was_said_goodbye_ends_though_its_peer_talks_on_and_reads_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with _lockstep(tmp_path) as (party, raw, _), trio.open_nursery() as nursery:
        nursery.start_soon(_ping_forever, raw)
        link = party.up[0]
        assert link.send_nowait(Packet(b"\x80"))
        await trio.sleep(5)
        link.finish("replaced", CloseCode.DUPLICATE)
        with trio.move_on_after(30):
            await link.ended.wait()
        assert link.ended.is_set()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_talks_and_reads_nothing_is_given_up_after_a_minute(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with _lockstep(tmp_path) as (party, raw, _), trio.open_nursery() as nursery:
        nursery.start_soon(_ping_forever, raw)
        link = party.up[0]
        assert link.send_nowait(Packet(b"\x80"))
        with trio.move_on_after(100):
            await link.ended.wait()
        assert link.ended.is_set()
        assert "has not read" in link.reason
        nursery.cancel_scope.cancel()


async def test_a_peer_that_asks_and_does_not_read_fills_nothing(tmp_path: Path) -> None:
    limits = {"inbox_messages_max": 20, "link_queue_bytes_max": 1 << 20}
    gossip = {"keepalive_interval_s": 1.0, "keepalive_timeout_s": 6.0}
    async with siege(tmp_path, joined=True, limits=limits, gossip=gossip) as scene:
        raw = await _deaf_member(scene, scene.mesh)
        scene.raws.append(raw)

        async def long_answer(message: Message) -> bytes:
            return bytes(500_000)

        async with trio.open_nursery() as nursery:
            await nursery.start(scene.mesh.serve_requests, "long", long_answer)
            server = scene.mesh._servers["long"]
            boot = life_of(scene.mesh).boot
            for number in range(1, 201):
                await raw.send(Request(number, boot, number, "long", b""))
            await until(lambda: scene.count("messaging.requests_served") >= 20)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(server.nursery.child_tasks) <= 20
            await until(lambda: scene.count("messaging.answers_unsent") >= 5)
            nursery.cancel_scope.cancel()


async def test_a_card_that_a_full_link_could_not_take_comes_when_it_has_room(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene:
        raw = await _deaf_member(scene, scene.mesh)
        scene.raws.append(raw)
        await _fill(scene.mesh)
        await scene.mesh.update_node(role="new")
        assert scene.count("membership.cards_unsent") > 0
        seen = False
        with trio.fail_after(60):
            while not seen:
                for card in cards_in(await raw.receive_a(Packet)):
                    details = cbor2.loads(card[2])
                    seen |= _subject(card) == scene.mesh.node_id.raw and details[3] == {"role": "new"}
        await raw.cut()


def _subject(card: Any) -> bytes:
    return bytes(cbor2.loads(card[1][0])[2])


# ---------------------------------------------------------------------- waiting, twice


async def test_two_tasks_may_wait_on_one_subscription_and_both_are_woken() -> None:
    topics = Topics(Config(), Counters())
    got: list[Message] = []

    async def take() -> None:
        item = await anext(subscription)
        assert isinstance(item, Message)
        got.append(item)

    with trio.fail_after(60):
        async with topics.subscribe("t") as subscription, trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(2):
                assert topics.offer(Message(str(number), NodeId("a" * 64), "t", b"x", 0.0))
                await trio.testing.wait_all_tasks_blocked()
    assert len(got) == 2


# ---------------------------------------------------------------------- the registry, handles, clocks


async def test_a_registry_file_that_somebody_removed_comes_back(bms_home: Path) -> None:
    async with bms.open_mesh(dev_mode=True, listen_address="127.0.0.1:0", enable_discovery=True) as mesh:
        path = bms_home / mesh.config.mesh_name / "registry" / f"{mesh.node_id}.json"
        await until(path.exists)
        path.unlink()
        await until(path.exists)
        extra = await mesh.listen_tcp("127.0.0.1:0")
        await until(lambda: str(extra) in path.read_text())
    assert not path.exists()


def test_a_registry_knows_whether_its_file_is_its_own(tmp_path: Path) -> None:
    mine, node_id = [Address("127.0.0.1", 1)], NodeId("a" * 64)
    registry = Registry(tmp_path)
    assert not registry.is_published(mine)
    registry.publish(node_id, 1, mine)
    assert registry.is_published(mine)
    assert not registry.is_published([*mine, Address("127.0.0.1", 2)])
    path = tmp_path / f"{node_id}.json"
    path.rename(tmp_path / "moved")
    path.write_text("{}")
    assert not registry.is_published(mine)
    registry.withdraw()


async def test_a_node_without_file_handles_keeps_its_addresses() -> None:
    class Poor(SystemNetwork):
        """A network of a process that has run out of file handles."""

        is_poor = False

        def local_hosts(self) -> list[str]:
            if self.is_poor:
                raise OSError(24, "Too many open files")
            return ["192.0.2.7"]

    network = Poor()
    async with bms.open_mesh(
        dev_mode=True, enable_discovery=False, listen_address="0.0.0.0:0", world=World(network=network)
    ) as mesh:
        before = mesh.nodes()[0].address
        assert before is not None
        assert before.host == "192.0.2.7"
        network.is_poor = True
        assert mesh.nodes()[0].address == before


async def test_boots_and_stamps_rise_though_the_clock_starts_in_1970_once(tmp_path: Path) -> None:
    now = [0.0]
    world = World(wall_time=lambda: now[0])
    fields: dict[str, Any] = {
        "dev_mode": True,
        "enable_discovery": False,
        "listen_address": "127.0.0.1:0",
        "persistence_path": tmp_path / "n",
    }
    boots = []
    for time_s in (1_800_000_000.0, 5.0, 1_800_000_060.0):
        now[0] = time_s
        async with bms.open_mesh(world=world, **fields) as mesh:
            boots.append(life_of(mesh).boot)
            version = await mesh.store_data("k", str(time_s).encode())
            assert (await mesh.retrieve_data("k")).version == version
    assert boots == sorted(set(boots))
