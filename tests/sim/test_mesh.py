"""Whole nodes in a simulated world: joining, faults, healing. The library is the real one, the rest is simulated."""

from __future__ import annotations

import pytest
import trio

from bms import DeliveryError, Message, NotFoundError, RemoteError, StoreError, UnreachableError
from bms.testing import Line, SimHost, SimWorld
from bms.testing.fixtures import MeshCluster


def names(host: object, state: str) -> list[str]:
    mesh = host.mesh  # type: ignore[attr-defined]
    return sorted(node.name for node in mesh.nodes(state))


@pytest.mark.sim_seeds(3)
async def test_five_nodes_join(mesh_cluster: MeshCluster) -> None:
    hosts = await mesh_cluster(5)
    assert trio.current_time() < 5
    assert all(names(host, "alive") == ["n1", "n2", "n3", "n4", "n5"] for host in hosts)


async def test_twenty_nodes_join_under_ten_percent_loss(mesh_cluster: MeshCluster) -> None:
    hosts = await mesh_cluster(20, loss=0.1, latency_s=0.02)
    assert trio.current_time() < 30
    assert hosts[0].sim.fired["loss"] > 100


async def test_both_sides_of_a_partition_go_on_and_are_equal_after_it(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    a, b, c, d = await mesh_cluster(4)
    label = sim_world.partition([a, b])
    await sim_world.until(lambda: names(a, "failed") == ["n3", "n4"] and names(d, "failed") == ["n1", "n2"])
    await a.mesh.store_data("left", b"1")
    await d.mesh.store_data("right", b"2")
    await sim_world.until(lambda: len({h.mesh.data_summary().fingerprint for h in (a, b)}) == 1)
    with pytest.raises(NotFoundError):
        await b.mesh.retrieve_data("right")
    sim_world.heal(label)
    await sim_world.until_joined()
    await sim_world.until(lambda: len({h.mesh.data_summary().fingerprint for h in (a, b, c, d)}) == 1)
    assert (await c.mesh.retrieve_data("left")).value == b"1"
    assert (await b.mesh.retrieve_data("right")).value == b"2"
    assert sim_world.fired[label] > 10


@pytest.mark.parametrize("power", [False, True], ids=["process", "machine"])
async def test_what_was_acknowledged_is_there_after_a_crash(
    mesh_cluster: MeshCluster, sim_world: SimWorld, power: bool
) -> None:
    a, b, c = await mesh_cluster(3)
    sim_world.partition([a])  # so that nobody else has it
    for number in range(20):
        await a.mesh.store_data(f"k{number}", b"v")
    assert await a.crash(power=power)
    assert not a.is_up
    sim_world.heal()
    await a.start()
    await sim_world.until_joined()
    await sim_world.until(lambda: len({h.mesh.data_summary().fingerprint for h in (a, b, c)}) == 1)
    assert (await c.mesh.retrieve_data("k19")).value == b"v"


async def test_a_crashed_machine_is_noticed_by_its_silence_and_a_killed_process_at_once(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    a, b, c = await mesh_cluster(3)
    await b.crash()
    assert await sim_world.until(lambda: names(a, "failed") == ["n2"]) < 2
    await c.crash(power=True)
    took = await sim_world.until(lambda: names(a, "failed") == ["n2", "n3"])
    assert 4 < took < 20


async def test_a_frozen_node_is_dropped_and_comes_back_when_it_goes_on(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    a, b, _ = await mesh_cluster(3)
    starts = b.starts
    b.freeze()
    await sim_world.until(lambda: "n2" not in names(a, "alive"))
    await trio.sleep(30)
    b.thaw()
    await sim_world.until_joined()
    assert b.starts == starts


async def test_a_clock_an_hour_behind_does_not_make_its_node_lose_every_conflict(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    a, b, c = await mesh_cluster(3)
    b.clock_offset_s = -3600
    await trio.sleep(5)  # its links have measured it
    await a.mesh.store_data("k", b"first")
    await trio.sleep(2)
    await b.mesh.store_data("k", b"second")
    await trio.sleep(2)
    assert (await c.mesh.retrieve_data("k")).value == b"second"


@pytest.mark.parametrize(("days", "certificate"), [(400, "failing"), (-400, "failing"), (1, "ok")])
async def test_a_clock_that_is_set_under_a_running_node_is_named_by_its_health_and_log(
    mesh_cluster: MeshCluster, caplog: pytest.LogCaptureFixture, days: int, certificate: str
) -> None:
    a, b = await mesh_cluster(2)
    await trio.sleep(10)
    assert b.mesh.check_health().status == "ok"
    b.clock_offset_s = days * 86_400
    await trio.sleep(60)
    for host, status in ((a, "ok"), (b, "degraded")):
        checks = {check.name: check for check in host.mesh.check_health().checks}
        assert checks["time"].status == status
    assert checks["certificate"].status == certificate
    assert ("ahead of" if days > 0 else "behind") in checks["time"].reason
    stats = b.mesh.collect_stats()
    assert stats.clock_offset_s == pytest.approx(-days * 86_400, abs=1)
    assert [peer.clock_offset_s for peer in stats.peers] == [pytest.approx(-days * 86_400, abs=1)]
    b.clock_offset_s = 0
    await trio.sleep(60)
    assert b.mesh.check_health().status == "ok"
    said = [record.getMessage() for record in caplog.records if "this machine's clock is" in record.getMessage()]
    assert len(said) == 1


async def test_a_machine_without_a_clock_takes_part(mesh_cluster: MeshCluster, sim_world: SimWorld) -> None:
    a, b, _ = await mesh_cluster(3)
    await b.crash(power=True)
    b.clock_absent = True
    await b.start()
    await sim_world.until_joined()
    await trio.sleep(5)
    await b.mesh.store_data("k", b"from 1970")
    await trio.sleep(2)
    assert (await a.mesh.retrieve_data("k")).value == b"from 1970"


async def test_a_full_disk_refuses_writes_and_takes_them_again(mesh_cluster: MeshCluster) -> None:
    a, b = await mesh_cluster(2)
    a.disk.is_full = True
    with pytest.raises(StoreError, match="full"):
        await a.mesh.store_data("k", b"v")
    a.disk.is_full = False
    await a.mesh.store_data("k", b"w")
    await trio.sleep(1)
    assert (await b.mesh.retrieve_data("k")).value == b"w"


async def test_a_drive_that_lies_about_flushing_loses_what_was_acknowledged(mesh_cluster: MeshCluster) -> None:
    (a,) = await mesh_cluster(1)
    a.disk.lies = True
    lost = 0
    for number in range(30):
        try:
            await a.mesh.store_data(f"k{number}", bytes(1000))
            await a.crash(power=True)
            await a.start()
            await a.mesh.retrieve_data(f"k{number}")
        except (NotFoundError, StoreError):
            lost += 1
            break
    assert lost  # so the power losses of the other tests mean something


async def test_a_message_over_a_bad_line_arrives_once(mesh_cluster: MeshCluster, sim_world: SimWorld) -> None:
    a, b = await mesh_cluster(2, loss=0.2, latency_s=0.05)
    got: list[bytes] = []

    async def listen() -> None:
        async with b.mesh.subscribe("news") as subscription:
            async for message in subscription:
                assert isinstance(message, Message)
                got.append(message.body)

    b.start_soon(listen)
    for number in range(20):
        await a.mesh.send_message(b.node_id, b"%d" % number, "news", deadline_s=30)
    sim_world.line(Line())
    await trio.sleep(1)
    assert got == [b"%d" % number for number in range(20)]
    sim_world.partition([a])
    with pytest.raises((UnreachableError, DeliveryError)):
        await a.mesh.send_message(b.node_id, b"never", "news", deadline_s=20)


@pytest.mark.sim_seeds(6)
async def test_what_is_sent_while_both_sides_dial_arrives_whichever_link_stays(sim_world: SimWorld) -> None:
    sim_world.line(Line(latency_s=0.05, jitter_s=0.05))
    hosts = [sim_world.add_host() for _ in range(4)]
    heard: dict[str, set[bytes]] = {host.name: set() for host in hosts}
    answers: list[bytes] = []

    async def answer(message: Message) -> bytes:
        await trio.sleep(0.05)
        return message.body

    async def program(host: SimHost) -> None:
        await trio.sleep(host.chance.random() * 0.3)
        mesh = await host.start()
        async with mesh.subscribe("news") as news, trio.open_nursery() as nursery:
            await nursery.start(mesh.serve_requests, "echo", answer)
            met: set[str] = set()
            while len(met) < len(hosts) - 1:
                for node in mesh.nodes("alive")[1:]:
                    # At once, while it is still open which of two links stays.
                    if node.node_id not in met and mesh.is_connected(node.node_id):
                        met.add(node.node_id)
                        nursery.start_soon(ask, host, node.node_id)
                await trio.sleep(0.001)
            assert await mesh.broadcast_message(host.name.encode(), "news") == len(hosts) - 1
            async for message in news:
                assert isinstance(message, Message)
                heard[host.name].add(message.body)

    async def ask(host: SimHost, node_id: str) -> None:
        with trio.move_on_after(5):
            while True:
                try:
                    answers.append(await host.mesh.request(node_id, b"x", "echo"))
                except RemoteError:
                    pass  # not served there yet
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(program, host)
        everybody = {host.name.encode() for host in hosts}
        await sim_world.until(lambda: all(names == everybody for names in heard.values()))
        await trio.sleep(10)
        assert len(answers) > 100
        nursery.cancel_scope.cancel()
