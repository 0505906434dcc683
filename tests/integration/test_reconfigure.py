"""Every setting through `reconfigure`: the table is complete, what it says happens, and nothing is lost meanwhile."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hostile import Raw, connect, context_of, open_member, siege

import bms
from bms.config import Config, setting_fields
from bms.life import Life
from bms.net.link import Link
from bms.reconfiguration import EFFECTS, page
from bms.values import Address, Message
from bms.world import SystemNetwork, World
from helpers import cluster, make_identity, make_record, until

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reconfigure.md"

# Another value of each setting that can change; several where coming back is a change of its own.
VALUES: dict[str, list[Any]] = {
    "listen_address": ["127.0.0.1:0", "localhost:0"],
    "tcp_port": [0, None],
    "udp_port": [0, None],
    "advertise_address": ["127.0.0.1:9", None],
    "bootstrap_nodes": [["127.0.0.1:9"], []],
    "enable_discovery": [False, True],
    "enable_replication": [False, True],
    "sync_interval": [0.2, 20.0],
    "node_timeout": [200.0],
    "max_connections": [5],
    "max_retries": [7],
    "metrics_interval": [30.0],
    "gossip.keepalive_interval_s": [0.3],
    "gossip.keepalive_timeout_s": [6.0],
    "gossip.dial_timeout_s": [4.0],
    "gossip.redial_interval_s": [0.5],
    "gossip.redial_interval_max_s": [20.0],
    "gossip.probe_interval_s": [0.9],
    "gossip.suspicion_alpha": [5.0],
    "gossip.gossip_interval_s": [0.3],
    "limits.frame_bytes_max": [2 << 20],
    "limits.handshakes_max": [20],
    "limits.handshake_timeout_s": [9.0],
    "limits.link_queue_bytes_max": [9 << 20],
    "limits.inbox_messages_max": [900],
    "limits.inbox_bytes_max": [15 << 20],
    "limits.topics_max": [900],
    "limits.body_bytes_max": [700 << 10],
    "limits.value_bytes_max": [60 << 20],
    "limits.drain_timeout_s": [4.0],
    "store.queue_operations_max": [1000],
    "store.cache_bytes": [4 << 20],
    "tls_ciphers": [["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], []],
    "http_address": ["127.0.0.1:0", None],
    "https_address": ["127.0.0.1:0", None],
    "http.connections_max": [100],
    "http.connections_per_address_max": [20],
    "http.requests_per_s": [50.0],
    "http.header_timeout_s": [9.0],
    "http.body_timeout_s": [29.0],
    "http.send_timeout_s": [19.0],
    "http.idle_timeout_s": [59.0],
    "http.header_bytes_max": [16 << 10],
    "http.body_bytes_max": [4 << 20],
    "http.allowed_hosts": [["mesh.example.org"]],
    "http.allowed_origins": [["https://dash.example.org"]],
    "http.events_kept": [100],
    "log.level": ["debug"],
    "log.format": ["json"],
    "log.slow_operation_s": [2.0],
    "log.traces": [True],
}
FILES = {"cert_path", "key_path", "trust_path"}
HTTPS_FILES = {"http.cert_path", "http.key_path", "http.client_ca_path"}  # test_http_serving.py
REFUSED: dict[str, Any] = {
    "mesh_name": "other", "node_name": "other", "found_mesh": True, "dev_mode": False,
    "enable_encryption": False, "enable_persistence": False, "persistence_path": "/elsewhere",
    "db_url": "sqlite:///elsewhere", "replication_factor": 2,
}  # fmt: skip


def life_of(mesh: bms.Mesh) -> Life:
    assert mesh._life is not None
    return mesh._life


def given(name: str, value: Any) -> dict[str, Any]:
    """One setting by its dotted name, as `reconfigure` takes it."""
    group, _, key = name.rpartition(".")
    return {group: {key: value}} if group else {name: value}


def link_between(one: bms.Mesh, two: bms.Mesh) -> Link:
    link = life_of(one).pool.link(two.node_id)
    assert link is not None
    return link


# ---------------------------------------------------------------------- the table


def test_the_table_has_every_setting_and_a_test_changes_each() -> None:
    assert list(EFFECTS) == list(setting_fields())
    refused = {name for name, effect in EFFECTS.items() if effect.kind == "refused"}
    assert refused == set(REFUSED)
    assert set(EFFECTS) - refused == set(VALUES) | FILES | HTTPS_FILES


def test_every_row_says_how_far_it_reaches_or_why_not() -> None:
    assert {effect.kind for effect in EFFECTS.values()} == {"live", "restarts", "refused"}
    assert all(effect.note or effect.kind == "refused" for effect in EFFECTS.values())
    assert all(bool(effect.what) == (effect.kind != "live") for effect in EFFECTS.values())


def test_the_reference_page_is_the_one_printed_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m bms.reconfiguration > docs/reference/reconfigure.md"


# ---------------------------------------------------------------------- every setting, while messages flow


class Traffic:
    """Messages both ways and writes on both sides, all the time; what was acknowledged, and what arrived."""

    def __init__(self, meshes: list[bms.Mesh]) -> None:
        self.meshes = meshes
        self.acknowledged: set[bytes] = set()
        self.arrived: list[bytes] = []
        self.written: set[str] = set()
        self._stop = False

    async def send(self, source: bms.Mesh, target: bms.Mesh) -> None:
        for number in itertools.count():
            body = b"%s %d" % (source.node_id.encode(), number)
            await source.send_message(target.node_id, body, "flow")
            self.acknowledged.add(body)
            if number % 8 == 0:
                key = f"{source.node_id}/{number}"
                await source.store_data(key, b"x" * 100)
                self.written.add(key)
            if self._stop:
                return
            await trio.sleep(0.001)

    async def take(self, mesh: bms.Mesh, *, task_status: trio.TaskStatus[None]) -> None:
        async with mesh.subscribe("flow") as messages:
            task_status.started()
            async for message in messages:
                assert isinstance(message, Message)
                self.arrived.append(message.body)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        one, two = self.meshes
        async with trio.open_nursery() as takers:
            for mesh in self.meshes:
                await takers.start(self.take, mesh)
            async with trio.open_nursery() as senders:
                senders.start_soon(self.send, one, two)
                senders.start_soon(self.send, two, one)
                yield
                self._stop = True
            await until(lambda: len(self.arrived) >= len(self.acknowledged))
            takers.cancel_scope.cancel()

    async def more(self) -> None:
        """Until something new was acknowledged."""
        count = len(self.acknowledged)
        await until(lambda: len(self.acknowledged) > count + 4)


async def test_every_setting_changes_while_messages_flow_and_nothing_is_lost(tmp_path: Path) -> None:
    async with cluster(2, listen_address="127.0.0.1:0") as meshes:
        one, two = meshes
        traffic = Traffic(meshes)
        link, boot = link_between(one, two), life_of(one).boot
        async with traffic.flowing():
            for name, values in VALUES.items():
                for value in values:
                    before = one.config
                    done = await one.reconfigure(**given(name, value))
                    if one.config == before:
                        continue  # it is the value in force
                    effect = EFFECTS[name]
                    assert done.fields == (name,)
                    assert done.restarted == (tuple(effect.what.split(", ")) if effect.kind == "restarts" else ())
                    await traffic.more()
                    assert link_between(one, two) is link, name
                    assert link.is_open
            assert one.folder is not None
            shutil.copytree(one.folder / "identity", tmp_path / "copy")
            done = await one.reconfigure(
                **{f"{part}_path": tmp_path / "copy" / f"{part}.pem" for part in ("key", "cert", "trust")}
            )
            assert set(done.fields) == FILES
            await traffic.more()
        assert link_between(one, two) is link
        assert life_of(one).boot == boot
        assert len(traffic.arrived) == len(set(traffic.arrived)), "delivered twice"
        assert set(traffic.arrived) == traffic.acknowledged
        assert len(traffic.acknowledged) > 4 * len(VALUES)
        await until(lambda: one.data_summary().fingerprint == two.data_summary().fingerprint)
        for key in traffic.written:
            assert (await two.retrieve_data(key)).value == b"x" * 100
        assert all(condition.crashes == 0 for condition in one.collect_stats().subsystems.values())


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_change_is_refused_with_the_reason_and_nothing_else_changes(name: str) -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as mesh:
        before, address = mesh.config, mesh.address
        with pytest.raises(bms.ConfigError) as caught:
            await mesh.reconfigure(**given(name, REFUSED[name]), max_connections=3)
        assert caught.value.field == name
        assert len(caught.value.why) > 10
        assert mesh.config is before
        assert mesh.address == address


async def test_a_node_that_does_not_run_takes_new_settings_for_its_next_life() -> None:
    mesh = bms.init(dev_mode=True, enable_discovery=False)
    done = await mesh.reconfigure(enable_replication=False, limits={"value_bytes_max": 2000})
    assert done == bms.Changes(("enable_replication", "limits.value_bytes_max"), ())
    async with trio.open_nursery() as nursery:
        await mesh.start(nursery)
        assert "data" not in mesh.collect_stats().subsystems
        with pytest.raises(bms.LimitError):
            await mesh.store_data("k", bytes(2001))
        await mesh.shutdown()


async def test_the_second_node_of_one_name_keeps_its_folders_name() -> None:
    async with bms.open_mesh(dev_mode=True), bms.open_mesh(dev_mode=True) as mesh:
        assert mesh.config.node_name == "node-2"
        await mesh.reconfigure(Config(dev_mode=True, max_retries=1))
        assert mesh.config.node_name == "node-2"
        assert mesh.config.max_retries == 1


# ---------------------------------------------------------------------- effects


@asynccontextmanager
async def with_silent_peer(tmp_path: Path, **fields: Any) -> AsyncIterator[tuple[bms.Mesh, Raw, Any]]:
    """A node, and one member linked to it that says nothing by itself and has no address."""
    async with siege(tmp_path, joined=True) as scene:
        make_identity(scene.authority, scene.folder, "watcher")
        async with open_member(scene.folder, "watcher", **fields) as mesh:
            assert mesh.address is not None
            raw = await connect(mesh.address, context_of(scene.folder, scene.attacker), receive_buffer=4096)
            await raw.join(scene.attacker)
            await until(lambda: mesh.is_connected(scene.attacker.node_id))
            try:
                yield mesh, raw, scene
            finally:
                with trio.CancelScope(shield=True):
                    await raw.cut()


async def test_a_shorter_keepalive_interval_pings_at_once() -> None:
    slow = {"keepalive_interval_s": 3600.0, "keepalive_timeout_s": 80_000.0}
    async with cluster(2, gossip=slow, sync_interval=3600.0) as (one, two):
        link = link_between(one, two)
        pings = -1
        with trio.fail_after(60):
            while link._last_id != pings:  # counted up by each ping, and by what is called while the nodes meet
                pings = link._last_id
                await trio.sleep(0.4)
        await one.reconfigure(gossip={"keepalive_interval_s": 0.05})
        await until(lambda: link._last_id > pings + 5, 60)
        assert link_between(one, two) is link


async def test_a_shorter_keepalive_timeout_ends_a_silent_link(tmp_path: Path) -> None:
    slow = {"keepalive_interval_s": 3600.0, "keepalive_timeout_s": 80_000.0}
    async with with_silent_peer(tmp_path, gossip=slow) as (mesh, _, scene):
        link = life_of(mesh).pool.link(scene.attacker.node_id)
        assert link is not None
        await mesh.reconfigure(gossip={"keepalive_interval_s": 0.1, "keepalive_timeout_s": 0.3})
        with trio.fail_after(60):
            await link.ended.wait()
        assert link.reason.startswith("silent")


class Nowhere(SystemNetwork):
    """Dials that are never answered."""

    async def dial(self, address: Address) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError


async def test_a_shorter_dial_time_out_holds_for_the_next_dial() -> None:
    async with bms.open_mesh(
        dev_mode=True, enable_discovery=False, gossip={"dial_timeout_s": 600.0}, world=World(network=Nowhere())
    ) as mesh:
        await mesh.reconfigure(gossip={"dial_timeout_s": 0.1})
        with trio.fail_after(60):
            with pytest.raises(bms.UnreachableError, match="does not answer"):
                await mesh.register_node("127.0.0.1:9")


async def test_a_shorter_probe_interval_asks_at_once_who_is_silent_and_a_shorter_node_timeout_hides_it(
    tmp_path: Path,
) -> None:
    slow = {"probe_interval_s": 60.0, "suspicion_alpha": 100.0}
    async with with_silent_peer(tmp_path, gossip=slow) as (mesh, raw, scene):
        await mesh.reconfigure(gossip={"probe_interval_s": 0.3})
        await until(lambda: mesh.node(scene.attacker.node_id).state == "suspect", 120)  # see `siege`
        await raw.cut()
        await mesh.reconfigure(gossip={"suspicion_alpha": 1.0})
        # The suspicion that there is goes by the old setting; its member takes it back, and the next one does not.
        record = make_record(scene.attacker, incarnation=2)
        await mesh.register_node(scene.address)
        again = await connect(mesh.address, context_of(scene.folder, scene.attacker))  # type: ignore[arg-type]
        await again.join(scene.attacker, record)
        await until(lambda: mesh.node(scene.attacker.node_id).state == "failed", 25)  # by the old setting: 30 s
        await again.cut()
        await mesh.reconfigure(node_timeout=1.0)
        await until(lambda: not mesh.nodes("failed"))


async def test_a_shorter_sync_interval_reconciles_at_once_and_again() -> None:
    async with cluster(2, sync_interval=3600.0) as (one, two):
        await until(lambda: one.counters["data.syncs"] + two.counters["data.syncs"] >= 1)
        before = one.counters["data.syncs"]
        await one.reconfigure(sync_interval=0.05)
        await until(lambda: one.counters["data.syncs"] >= before + 4)


async def test_replication_that_was_off_begins_with_what_was_missed_and_stops_again() -> None:
    async with cluster(2, enable_replication=False) as (one, two):
        await one.store_data("early", b"1")
        with pytest.raises(bms.LocalProtocolError):
            await one.sync_with_peers()
        for mesh in (one, two):
            await mesh.reconfigure(enable_replication=True)
        await until(lambda: two.data_summary().entries == 1, 20)
        assert (await one.sync_with_peers()).equal
        await two.reconfigure(enable_replication=False)
        await one.store_data("late", b"1")
        with pytest.raises(bms.LocalProtocolError):
            await two.sync_with_peers()
        assert two.data_summary().entries == 1
        await two.reconfigure(enable_replication=True)
        await until(lambda: two.data_summary().entries == 2, 20)


async def test_max_connections_holds_for_the_next_link_and_keeps_those_there_are() -> None:
    async with cluster(2) as (one, two):
        link = link_between(one, two)
        await one.reconfigure(max_connections=1, enable_discovery=False)
        await two.reconfigure(enable_discovery=False)
        async with bms.open_mesh(dev_mode=True, node_name="n3", enable_discovery=False) as three:
            assert one.address is not None
            with pytest.raises(bms.MeshError, match="1 connections"):
                await three.register_node(one.address)
            await one.reconfigure(max_connections=2)
            node = await three.register_node(one.address)
            assert node.node_id == one.node_id
        assert link_between(one, two) is link


async def test_a_smaller_inbox_holds_for_queues_that_exist() -> None:
    async with cluster(2) as (one, two):
        async with two.subscribe("t"):
            await one.send_message(two.node_id, b"1", "t")
            await two.reconfigure(limits={"inbox_messages_max": 1})
            with pytest.raises(bms.LimitError):
                await one.send_message(two.node_id, b"2", "t", deadline_s=0.2)
            await two.reconfigure(limits={"inbox_messages_max": 2})
            await one.send_message(two.node_id, b"2", "t")


async def test_a_larger_queue_holds_for_links_that_exist(tmp_path: Path) -> None:
    limits = {"link_queue_bytes_max": 1 << 20}
    async with with_silent_peer(tmp_path, limits=limits, gossip={"keepalive_timeout_s": 600.0}) as (mesh, _, _):
        while await mesh.broadcast_message(bytes(60_000), "fill"):
            await trio.lowlevel.checkpoint()
        await mesh.reconfigure(limits={"link_queue_bytes_max": 16 << 20})
        assert await mesh.broadcast_message(bytes(60_000), "fill") == 1


async def test_a_shorter_handshake_time_out_closes_who_says_nothing() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False, limits={"handshake_timeout_s": 600.0}) as mesh:
        await mesh.reconfigure(limits={"handshake_timeout_s": 0.2})
        assert mesh.address is not None
        stream = await trio.open_tcp_stream(mesh.address.host, mesh.address.port)
        async with stream:
            with trio.fail_after(60):
                assert await stream.receive_some(1) == b""


async def test_longer_frames_are_taken_on_the_links_made_after_it() -> None:
    async with cluster(2) as (one, two):
        for mesh in (one, two):
            await mesh.reconfigure(
                limits={"frame_bytes_max": 2 << 20, "body_bytes_max": 1 << 20, "inbox_bytes_max": 4 << 20}
            )
        with pytest.raises(bms.LimitError):
            await one.send_message(two.node_id, bytes(1 << 20), "t")
        link = link_between(one, two)
        link.end("made anew", 0)
        await link.ended.wait()
        await one.send_message(two.node_id, bytes(1 << 20), "t", deadline_s=60)


async def test_a_new_cache_is_that_of_both_connections() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as mesh:
        await mesh.reconfigure(store={"cache_bytes": 4 << 20, "queue_operations_max": 7})
        assert mesh._database.read("PRAGMA cache_size") == [(-4096,)]
        assert await mesh._database.write(lambda connection: connection.execute("PRAGMA cache_size").get) == -4096
        held = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mesh._database.write, lambda _: held.wait(60))
            for number in range(50):
                nursery.start_soon(mesh.store_data, f"{number}", b"v")
            await until(lambda: mesh._database._queued == 7)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert mesh._database._queued == 7
            held.set()
        assert mesh.data_summary().entries == 50


async def test_a_new_advertised_address_is_told_to_those_who_are_linked() -> None:
    async with cluster(2) as (one, two):
        await one.reconfigure(advertise_address="192.0.2.7:7800")
        await until(lambda: two.node(one.node_id).address == Address("192.0.2.7", 7800))


async def test_topics_and_bytes_that_may_be_held_change_at_once() -> None:
    async with cluster(2) as (one, two):

        async def send(topic: str, size: int = 1, deadline_s: float = 60) -> None:
            await one.send_message(two.node_id, bytes(size), topic, deadline_s=deadline_s)

        await two.reconfigure(limits={"topics_max": 2})
        await send("a")
        await send("b")
        with pytest.raises(bms.LimitError):
            await send("c", deadline_s=0.2)
        await two.reconfigure(limits={"topics_max": 3})
        await send("c")
        await two.reconfigure(limits={"body_bytes_max": 64 << 10, "inbox_bytes_max": 64 << 10})
        with pytest.raises(bms.LimitError):
            await send("a", 64 << 10, deadline_s=0.2)
        await two.reconfigure(limits={"inbox_bytes_max": 256 << 10})
        await send("a", 64 << 10)


async def test_the_bound_of_handshakes_holds_for_the_next_connection() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False, limits={"handshake_timeout_s": 600.0}) as mesh:
        address, pool = mesh.address, life_of(mesh).pool
        assert address is not None

        async def knock() -> trio.SocketStream:
            stream = await trio.open_tcp_stream(address.host, address.port)
            strangers.push_async_callback(trio.aclose_forcefully, stream)
            return stream

        async with contextlib.AsyncExitStack() as strangers:
            await mesh.reconfigure(limits={"handshakes_max": 2})
            first = await knock()
            await until(lambda: pool._handshakes.count == 1)
            await knock()
            await until(lambda: pool._handshakes.count == 2)
            await knock()
            with trio.fail_after(60):
                assert await first.receive_some(1) == b"", "the oldest gives way"
            assert mesh.counters["net.connections_over_limit"] == 1
            await mesh.reconfigure(limits={"handshakes_max": 64})
            await knock()
            await until(lambda: pool._handshakes.count == 3)
            assert mesh.counters["net.connections_over_limit"] == 1


async def test_a_listener_is_reached_at_its_new_address_and_not_at_the_old_one() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as one:
        async with bms.open_mesh(dev_mode=True, node_name="n2", enable_discovery=False) as two:
            first = one.address
            assert first is not None
            await one.reconfigure(listen_address="127.0.0.2:0")
            assert one.address is not None
            assert one.address.host == "127.0.0.2"
            with pytest.raises(bms.UnreachableError):
                await two.register_node(first)
            await one.reconfigure(tcp_port=first.port)
            assert one.address == Address("127.0.0.2", first.port)
            assert (await two.register_node(one.address)).node_id == one.node_id


async def test_new_bootstrap_nodes_are_dialed_at_once() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as one:
        async with bms.open_mesh(dev_mode=True, node_name="n2", enable_discovery=False) as two:
            assert not two.is_connected(one.node_id)
            await two.reconfigure(bootstrap_nodes=[str(one.address)])
            await until(lambda: two.is_connected(one.node_id))


async def test_discovery_that_comes_on_finds_the_others_on_this_machine() -> None:
    async with bms.open_mesh(dev_mode=True) as one:
        async with bms.open_mesh(dev_mode=True, node_name="n2", enable_discovery=False) as two:
            assert not two.is_connected(one.node_id)
            await two.reconfigure(enable_discovery=True)
            await until(lambda: two.is_connected(one.node_id))


class Taken(SystemNetwork):
    """A network on which, for a while, somebody else has every address."""

    is_taken = False

    async def listen(self, address: Address, backlog: int) -> Sequence[tuple[trio.SocketListener, Address]]:
        if self.is_taken:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return await super().listen(address, backlog)


async def test_an_old_address_that_somebody_took_meanwhile_is_tried_until_it_is_free() -> None:
    network = Taken()
    async with bms.open_mesh(dev_mode=True, enable_discovery=False, world=World(network=network)) as mesh:
        first, config = mesh.address, mesh.config
        assert first is not None
        network.is_taken = True
        for place in ("127.0.0.2:0", "127.0.0.3:0"):  # the second time there is nothing bound to come back to
            with pytest.raises(bms.UnreachableError, match=place):
                await mesh.reconfigure(listen_address=place)
            assert mesh.config is config
            assert mesh.address is None
            condition = mesh.collect_stats().subsystems["listener"]
            assert condition.state == "restarting"
            assert "already in use" in condition.reason
        assert mesh.check_health().status != "ok"
        network.is_taken = False
        await until(lambda: mesh.address == first)
        async with bms.open_mesh(dev_mode=True, node_name="n2", enable_discovery=False) as other:
            assert (await other.register_node(first)).node_id == mesh.node_id
        assert mesh.collect_stats().subsystems["listener"].state == "running"


async def test_only_a_change_of_what_the_record_says_makes_a_new_incarnation() -> None:
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as mesh:
        life = life_of(mesh)
        record = life.record
        await mesh.reconfigure(max_retries=9, bootstrap_nodes=["127.0.0.1:9"])
        await mesh.reconfigure()
        assert life.record is record
        await mesh.reconfigure(advertise_address="192.0.2.7:7800")
        assert life.record.incarnation == record.incarnation + 1
        assert life.record.addresses != record.addresses
