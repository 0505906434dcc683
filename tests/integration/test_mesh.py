"""Whole nodes in one process: a mesh forms, talks, keeps data, stops and starts again, and refuses what it should."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

import bms
from helpers import cluster, until


async def test_the_program_of_the_readme_runs() -> None:
    async with bms.open_mesh(bms.Config(listen_address="127.0.0.1:0", dev_mode=True)) as mesh:
        await mesh.broadcast_message(b"Hello network!")
        assert mesh.collect_stats().counters["messaging.broadcast"] == 1
        assert [node.name for node in mesh.nodes()] == ["node"]
        assert mesh.is_running
        assert mesh.address is not None
        assert mesh.address.port > 0
    assert not mesh.is_running


async def test_dev_nodes_find_each_other_and_see_all_members() -> None:
    async with cluster(4) as meshes:
        for mesh in meshes:
            assert {node.name for node in mesh.nodes("alive")} == {"n1", "n2", "n3", "n4"}
            assert mesh.nodes()[0].node_id == mesh.node_id
            assert all(mesh.is_connected(other.node_id) for other in meshes)
        page = meshes[0].nodes(offset=1, limit=2)
        assert page == [meshes[0].node(node.node_id) for node in page] or len(page) == 2
        with pytest.raises(bms.NotFoundError):
            meshes[0].node("0" * 64)
        with pytest.raises(bms.LocalProtocolError):
            meshes[0].nodes("asleep")


async def test_a_newcomer_given_one_address_is_introduced_to_every_member() -> None:
    async with cluster(3, enable_discovery=True) as meshes:
        async with trio.open_nursery() as nursery:
            seed = str(meshes[1].address)
            newcomer = bms.init(dev_mode=True, node_name="new", enable_discovery=False, bootstrap_nodes=[seed])
            await newcomer.start(nursery)
            await until(lambda: len(newcomer.nodes("alive")) == 4)
            await until(lambda: all(len(mesh.nodes("alive")) == 4 for mesh in meshes))
            await newcomer.shutdown()
            await until(lambda: all(mesh.node(newcomer.node_id).state == "left" for mesh in meshes))


async def test_register_node_joins_by_address_and_says_why_it_cannot(tmp_path: Path) -> None:
    async with cluster(1) as (first,), trio.open_nursery() as nursery:
        other = bms.init(dev_mode=True, node_name="other", enable_discovery=False)
        await other.start(nursery)
        node = await other.register_node(str(first.address))
        assert node.node_id == first.node_id
        assert node.state == "alive"
        with pytest.raises(bms.UnreachableError, match=r"^127\.0\.0\.1:1: connection refused$"):
            await other.register_node("127.0.0.1:1")
        stranger = bms.init(found_mesh=True, persistence_path=tmp_path / "stranger", mesh_name="elsewhere")
        await stranger.start(nursery)
        with pytest.raises(bms.RefusedError):
            await stranger.register_node(str(first.address))
        assert [node.name for node in stranger.nodes()] == ["node"]
        assert not first.is_connected(stranger.node_id)
        await stranger.shutdown()
        await other.shutdown()


async def test_messages_requests_and_broadcasts_arrive() -> None:
    async with cluster(3) as (one, two, three):
        async with two.subscribe("a") as at_two, three.subscribe("a") as at_three:
            await one.send_message(two.node_id, b"direct", "a")
            message = await at_two.__anext__()
            assert isinstance(message, bms.Message)
            assert (message.sender, message.topic, message.body) == (one.node_id, "a", b"direct")
            assert await one.broadcast_message(b"all", "a") == 2
            for subscription in (at_two, at_three):
                got = await subscription.__anext__()
                assert isinstance(got, bms.Message)
                assert got.body == b"all"

        async def shout(message: bms.Message) -> bytes:
            if message.body == b"fail":
                raise ValueError("cannot")
            return message.body.upper()

        async with trio.open_nursery() as nursery:
            await nursery.start(two.serve_requests, "shout", shout)
            assert await one.request(two.node_id, b"hello", "shout") == b"HELLO"
            assert await two.request(two.node_id, b"self", "shout") == b"SELF"
            with pytest.raises(bms.RemoteError, match="cannot") as caught:
                await one.request(two.node_id, b"fail", "shout")
            assert caught.value.kind == "ValueError"
            with pytest.raises(bms.RemoteError, match="nobody serves"):
                await one.request(three.node_id, b"x", "shout")
            with pytest.raises(bms.NotFoundError):
                await one.request("0" * 64, b"x", "shout")
            nursery.cancel_scope.cancel()


async def test_a_message_before_its_subscriber_waits_and_the_bound_pushes_back() -> None:
    limits = {"inbox_messages_max": 3}
    async with cluster(2, limits=limits) as (one, two):
        for number in range(3):
            await one.send_message(two.node_id, bytes([number]), "later")
        with pytest.raises(bms.LimitError):
            await one.send_message(two.node_id, b"too many", "later", deadline_s=0.3)
        async with two.subscribe("later") as messages:
            bodies = [(await messages.__anext__()).body for _ in range(3)]
            assert bodies == [b"\x00", b"\x01", b"\x02"]
            await one.send_message(two.node_id, b"room again", "later")
            assert (await messages.__anext__()).body == b"room again"


async def test_data_written_anywhere_is_read_everywhere_and_deleted_everywhere() -> None:
    async with cluster(3) as meshes:
        one, two, three = meshes
        big = os.urandom(900_000)
        await one.store_data("small", b"1")
        await two.store_data("big", big)
        await three.store_data(b"\xff raw", b"bytes")
        await until(lambda: len({mesh.data_summary().fingerprint for mesh in meshes}) == 1)
        for mesh in meshes:
            assert (await mesh.retrieve_data("big")).value == big
            assert (await mesh.retrieve_data("small")).author == one.node_id
            async with mesh.scan() as keys:
                assert [info.key async for info in keys] == ["big", "small", "\udcff raw"]
            async with mesh.scan(b"\xff") as keys:
                assert [(info.key, info.size) async for info in keys] == [(b"\xff raw", 5)]
        await two.delete_data("small")
        await until(lambda: len({mesh.data_summary().fingerprint for mesh in meshes}) == 1)
        for mesh in meshes:
            with pytest.raises(bms.NotFoundError):
                await mesh.retrieve_data("small")
        report = await one.sync_with_peers()
        assert report.equal
        assert {peer.node_id for peer in report.peers} == {two.node_id, three.node_id}


async def test_what_was_written_while_a_node_was_away_reaches_it_when_it_returns() -> None:
    async with cluster(3) as meshes, trio.open_nursery() as nursery:
        one, two, three = meshes
        await one.store_data("before", b"1")
        await until(lambda: len({mesh.data_summary().fingerprint for mesh in meshes}) == 1)
        await three.stop()
        await until(lambda: one.node(three.node_id).state == "left")
        for number in range(50):
            await one.store_data(f"while/{number}", os.urandom(100 * number))
        await two.delete_data("before")
        await three.store_data("own", b"written while alone")
        await three.start(nursery)
        await until(lambda: len({mesh.data_summary().fingerprint for mesh in meshes}) == 1)
        assert (await one.retrieve_data("own")).value == b"written while alone"
        assert (await three.retrieve_data("while/49")).value == (await one.retrieve_data("while/49")).value
        await three.stop()


async def test_a_stopped_mesh_refuses_and_starts_again_and_a_shut_one_does_not() -> None:
    async with trio.open_nursery() as nursery:
        mesh = bms.init(dev_mode=True)
        with pytest.raises(bms.ClosedError):
            mesh.collect_stats()
        await mesh.start(nursery)
        with pytest.raises(bms.LocalProtocolError):
            await mesh.start(nursery)
        await mesh.store_data("k", b"v")
        await mesh.stop()
        await mesh.stop()
        assert (await mesh.retrieve_data("k")).value == b"v"
        await mesh.start(nursery)
        await mesh.shutdown()
        await mesh.shutdown()
        with pytest.raises(bms.ClosedError):
            await mesh.start(nursery)
        with pytest.raises(bms.ClosedError):
            await mesh.store_data("k", b"v")


async def test_the_bodys_own_exception_leaves_open_mesh_as_itself() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with bms.open_mesh(dev_mode=True):
            raise KeyError("mine")


async def test_cancelling_the_body_closes_quickly_and_leaves_nothing() -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.CancelScope() as scope:
        async with bms.open_mesh(dev_mode=True) as mesh:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not mesh.is_running
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_port_in_use_is_an_error_that_says_what_to_do_and_leaves_nothing_running() -> None:
    async with bms.open_mesh(dev_mode=True) as first:
        with pytest.raises(bms.UnreachableError, match="another address or port"):
            async with bms.open_mesh(dev_mode=True, listen_address=str(first.address)):
                raise AssertionError("it started")
        assert first.is_running


async def test_reconfigure_restarts_what_changed_and_keeps_connections() -> None:
    async with cluster(2) as (one, two):
        link = one._life.pool.link(two.node_id)
        before = one.address
        changes = await one.reconfigure(listen_address="127.0.0.1:0", max_connections=7)
        assert changes.restarted in ((), ("listener",))
        changes = await one.reconfigure(bootstrap_nodes=[str(two.address)])
        assert changes == bms.Changes(("bootstrap_nodes",), ("discovery",))
        assert one._life.pool.link(two.node_id) is link
        with pytest.raises(bms.ConfigError) as caught:
            await one.reconfigure(mesh_name="other")
        assert caught.value.field == "mesh_name"
        with pytest.raises(bms.ConfigError):
            await one.reconfigure(max_connections=0)
        assert one.config.max_connections == 7
        with pytest.raises(bms.UnreachableError):
            await one.reconfigure(listen_address=str(two.address))
        assert one.is_running
        assert before is not None
        await one.send_message(two.node_id, b"still here")


async def test_one_more_listener_takes_connections() -> None:
    async with cluster(1) as (one,), trio.open_nursery() as nursery:
        address = await one.listen_tcp("127.0.0.1:0")
        assert address != one.address
        other = bms.init(dev_mode=True, node_name="other", enable_discovery=False, bootstrap_nodes=[str(address)])
        await other.start(nursery)
        await until(lambda: other.is_connected(one.node_id))
        await other.shutdown()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this system lists no IPv6")
async def test_nodes_talk_over_ipv6() -> None:
    async with cluster(2, listen_address="[::1]:0") as (one, two):
        assert one.address is not None
        assert one.address.host == "::1"
        await one.send_message(two.node_id, b"six")


async def test_two_programs_on_one_data_folder_are_kept_apart(tmp_path: Path) -> None:
    async with bms.open_mesh(dev_mode=True, persistence_path=tmp_path / "data"):
        with pytest.raises(bms.StoreError, match=str(os.getpid())):
            bms.init(dev_mode=True, persistence_path=tmp_path / "data")
    async with bms.open_mesh(dev_mode=True) as one, bms.open_mesh(dev_mode=True) as two:
        assert [mesh.config.node_name for mesh in (one, two)] == ["node", "node-2"]


async def test_a_corrupt_data_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with bms.open_mesh(dev_mode=True, persistence_path=tmp_path / "data") as mesh:
        for number in range(100):
            await mesh.store_data(f"k{number}", os.urandom(4000))
    path = tmp_path / "data" / "data.sqlite"
    raw = bytearray(path.read_bytes())
    raw[8192:40960] = os.urandom(32768)
    path.write_bytes(raw)
    with pytest.raises(bms.CorruptionError, match="aside"):
        bms.init(dev_mode=True, persistence_path=tmp_path / "data")


async def test_a_folder_that_cannot_be_written_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(bms.StoreError):
        bms.init(dev_mode=True, persistence_path=tmp_path / "file")


async def test_a_node_in_memory_takes_part_and_leaves_nothing_on_disk(bms_home: Path) -> None:
    async with cluster(1) as (one,), trio.open_nursery() as nursery:
        light = bms.init(dev_mode=True, node_name="light", enable_persistence=False)
        await light.start(nursery)
        await until(lambda: light.is_connected(one.node_id))
        await light.store_data("k", b"v")
        await until(lambda: one.data_summary().entries == 1)
        await light.shutdown()
    assert not (bms_home / "default" / "light").exists()


async def test_without_encryption_dev_nodes_still_prove_themselves() -> None:
    async with cluster(2, enable_encryption=False) as (one, two):
        await one.send_message(two.node_id, b"plain")
    with pytest.raises(bms.ConfigError):
        bms.Config(enable_encryption=False)


async def test_stop_returns_in_time_while_a_peer_hangs() -> None:
    async with cluster(2) as (one, two):
        link = two._life.pool.link(one.node_id)
        assert link is not None

        async def hang() -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        link._channel.receive_some = hang
        for _ in range(1000):
            await one.broadcast_message(bytes(100_000))
        started = trio.current_time()
        await one.stop()
        assert trio.current_time() - started < one.config.limits.drain_timeout_s + 20


async def test_starting_a_mesh_lets_the_writing_thread_run() -> None:
    async with bms.open_mesh(dev_mode=True) as mesh:
        assert sys.getswitchinterval() <= 0.0005
        busy = True

        async def spin() -> None:
            while busy:
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spin)
            with trio.fail_after(30):
                for number in range(200):
                    await mesh.store_data(f"k{number}", b"v")
            busy = False


async def test_a_returning_node_fetches_each_missing_entry_from_one_peer_only() -> None:
    async with cluster(5) as meshes, trio.open_nursery() as nursery:
        writer, away = meshes[0], meshes[-1]
        await away.stop()
        for number in range(100):
            await writer.store_data(f"k{number}", os.urandom(6000))
        await until(lambda: len({mesh.data_summary().fingerprint for mesh in meshes[:-1]}) == 1)
        before = away.counters["net.bytes_received"]
        await away.start(nursery)
        await until(lambda: away.data_summary().fingerprint == writer.data_summary().fingerprint)
        await away.stop()
        received = away.counters["net.bytes_received"] - before
        assert 600_000 < received < 900_000, "four peers offer the same 600,000 bytes of values"


async def test_a_node_put_back_to_an_old_copy_that_writes_first_loses_nothing(tmp_path: Path) -> None:
    common: dict[str, Any] = {"sync_interval": 1.0}

    def restored_node() -> bms.Mesh:
        folder = tmp_path / "restored"
        return bms.init(dev_mode=True, node_name="restored", persistence_path=folder, enable_discovery=False, **common)

    async with cluster(2, **common) as peers, trio.open_nursery() as nursery:
        writer, seeds = restored_node(), [str(peer.address) for peer in peers]

        async def join(mesh: bms.Mesh) -> None:
            for seed in seeds:
                await mesh.register_node(seed)

        async def all_equal(mesh: bms.Mesh) -> None:
            await until(lambda: len({each.data_summary().fingerprint for each in (mesh, *peers)}) == 1)

        await writer.start(nursery)
        await join(writer)
        await writer.store_data("early", b"1")
        await all_equal(writer)
        await writer.stop()
        copies = {
            file: file.read_bytes() for file in (tmp_path / "restored").glob("data.sqlite*") if file.stat().st_size
        }
        assert {file.name for file in copies} >= {"data.sqlite", "data.sqlite-wal"}
        await writer.start(nursery)
        await join(writer)
        for number in range(8):
            await writer.store_data(f"later/{number}", os.urandom(1000 * number))
        await all_equal(writer)
        await writer.shutdown()
        for file in (tmp_path / "restored").glob("data.sqlite*"):
            file.unlink()
        for file, content in copies.items():
            if not file.name.endswith("-shm"):
                file.write_bytes(content)

        node = restored_node()
        await node.start(nursery)
        assert node.node_id == writer.node_id
        epoch = node.data_summary().epoch
        for number in range(5):
            await node.store_data(f"alone/{number}", os.urandom(2000 * number))
        assert node.data_summary().entries == 6
        assert [each.node_id for each in node.nodes("alive")] == [node.node_id]
        await join(node)
        await all_equal(node)
        assert node.data_summary().epoch != epoch
        names = {"early", *(f"later/{number}" for number in range(8)), *(f"alone/{number}" for number in range(5))}
        for mesh in (node, *peers):
            async with mesh.scan() as keys:
                assert {info.key async for info in keys} == names
            for number in range(5):
                key = f"alone/{number}"
                assert (await mesh.retrieve_data(key)).value == (await node.retrieve_data(key)).value
            assert mesh.counters["data.peers_at_fault"] == 0
            assert (await mesh.sync_with_peers()).equal
        await node.store_data("after", b"1")
        await all_equal(node)
        await node.shutdown()


async def test_a_clock_that_is_set_while_the_node_runs_does_not_move_its_stamps() -> None:
    ahead = 0.0
    async with cluster(1) as (one,), trio.open_nursery() as nursery:
        world = bms.World(wall_time=lambda: time.time() + ahead)
        two = bms.init(dev_mode=True, node_name="two", world=world)
        await two.start(nursery)
        await two.store_data("before", b"1")
        ahead = 3600.0
        await two.store_data("after", b"2")
        await until(lambda: one.data_summary().entries == 2)
        assert (await one.retrieve_data("after")).value == b"2", "seen at once, not in an hour"
        await two.shutdown()


@pytest.mark.parametrize("wrong_s", [3600.0, -3600.0])
async def test_a_node_whose_clock_is_wrong_stamps_its_first_write_with_the_meshs_time(wrong_s: float) -> None:
    async with cluster(2) as (one, _), trio.open_nursery() as nursery:
        wrong = bms.init(dev_mode=True, node_name="wrong", world=bms.World(wall_time=lambda: time.time() + wrong_s))
        await wrong.start(nursery)
        await wrong.store_data("k", b"first")
        await until(lambda: one.data_summary().fingerprint == wrong.data_summary().fingerprint)
        assert (await one.retrieve_data("k")).value == b"first"
        await one.store_data("k", b"second")
        await until(lambda: one.data_summary().fingerprint == wrong.data_summary().fingerprint)
        assert (await wrong.retrieve_data("k")).value == b"second"
        await wrong.shutdown()


def test_a_node_without_an_identity_is_refused_before_anything_is_made(bms_home: Path) -> None:
    with pytest.raises(bms.ConfigError, match=r"dev_mode.*cert_path.*ticket.*found_mesh"):
        bms.init()
    assert not bms_home.exists()
