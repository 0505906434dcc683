"""What a node says of itself over hours: samples, health as faults come and go, on virtual time."""

from __future__ import annotations

import itertools

import pytest
import trio

import bms
from bms.life import Life
from bms.monitor.sampling import PROBE_S, RECENT_MAX, RECENT_S, SAMPLES_MAX, TICK_S
from bms.testing import SimWorld
from bms.testing.fixtures import MeshCluster


def life_of(mesh: bms.Mesh) -> Life:
    assert mesh._life is not None
    return mesh._life


def check(mesh: bms.Mesh, name: str) -> bms.Check:
    (found,) = [one for one in mesh.check_health().checks if one.name == name]
    return found


async def test_a_young_node_samples_often_then_every_interval_and_keeps_a_bounded_number(sim_world: SimWorld) -> None:
    host = sim_world.add_host()
    mesh = await host.start(metrics_interval=10.0)
    started = host.wall_time()
    await trio.sleep(100)
    assert [sample.time - started for sample in mesh.history()[:6]] == pytest.approx([1, 3, 7, 15, 25, 35], abs=0.1)
    await mesh.reconfigure(metrics_interval=0.5)
    await trio.sleep(2)
    times = [sample.time for sample in mesh.history()[-3:]]
    assert times[2] - times[1] == pytest.approx(0.5, abs=0.01)
    await trio.sleep(SAMPLES_MAX)
    assert len(mesh.history()) == SAMPLES_MAX


async def test_the_last_ten_minutes_are_kept_finely_beside_the_long_history(mesh_cluster: MeshCluster) -> None:
    one, two = await mesh_cluster(2, metrics_interval=600.0)
    await trio.sleep(100)
    for _ in range(50):
        await one.mesh.send_message(two.mesh.node_id, b"x", "t")
    await trio.sleep(20)
    recent = one.mesh.history(recent=True)
    assert len(recent) == pytest.approx(120 / RECENT_S, abs=1)
    assert {round(after.time - before.time, 1) for before, after in itertools.pairwise(recent)} == {RECENT_S}
    busy = max(recent, key=lambda sample: sample.rates.messages_sent)
    assert busy.rates.messages_sent > 10
    assert recent[-1].rates.messages_sent < 2  # each is compared with the one before it
    trip = one.mesh.collect_stats().peers[0].rtt_s
    assert recent[-1].rtt_median_s == recent[-1].rtt_most_s == pytest.approx(trip, rel=0.3)
    await trio.sleep(RECENT_S * RECENT_MAX)
    assert len(one.mesh.history(recent=True)) == RECENT_MAX
    assert len(one.mesh.history()) <= 12


async def test_what_a_nodes_own_rounds_came_to_is_known_for_each_peer(mesh_cluster: MeshCluster) -> None:
    one, two, three = await mesh_cluster(3, sync_interval=5.0)
    await two.mesh.store_data("k", b"v")
    await trio.sleep(30)
    found = {last.outcome.node_id: last for last in one.mesh.last_syncs()}
    assert set(found) == {two.mesh.node_id, three.mesh.node_id}
    assert all(last.outcome.equal and last.outcome.error is None for last in found.values())
    assert all(0 <= one.mesh.now() - last.ended_at <= 6.5 for last in found.values())
    asked = (await one.mesh.sync_with_peers([two.mesh.node_id])).peers[0]
    assert asked in [last.outcome for last in one.mesh.last_syncs()]
    await two.mesh.shutdown()
    assert {last.outcome.node_id for last in one.mesh.last_syncs()} <= {three.mesh.node_id}


async def test_rates_are_those_of_the_time_between_two_samples(mesh_cluster: MeshCluster) -> None:
    one, two = await mesh_cluster(2, metrics_interval=10.0)
    await trio.sleep(60)
    async with two.mesh.subscribe("t"):
        for _ in range(100):
            await one.mesh.send_message(two.mesh.node_id, b"x", "t")
            await trio.sleep(0.1)
    await trio.sleep(10.5)
    samples = one.mesh.history()
    busy = max(sample.rates.messages_sent for sample in samples[-3:])
    assert 4 < busy < 15
    assert any(sample.reply_p50_s is not None and 0.001 < sample.reply_p50_s < 0.01 for sample in samples[-3:])
    await trio.sleep(30)
    assert one.mesh.collect_stats().rates.messages_sent < 2
    assert two.mesh.collect_stats().latencies["messaging.delivery_s"].count == 0


async def test_a_full_disk_fails_readiness_and_heals_by_itself_though_nobody_writes(sim_world: SimWorld) -> None:
    host = sim_world.add_host()
    mesh = await host.start()
    await mesh.store_data("kept", b"1")
    assert mesh.check_health().is_ready
    host.disk.is_full = True
    with pytest.raises(bms.StoreError):
        await mesh.store_data("lost", b"2")
    health = mesh.check_health()
    assert not health.is_ready
    assert check(mesh, "store").status == "failing"
    assert "full" in check(mesh, "store").reason
    await trio.sleep(10 * PROBE_S)
    assert check(mesh, "store").status == "failing"
    assert mesh.collect_stats().store.failing is not None
    assert 5 <= mesh.counters["monitor.store_probes_failed"] <= 10
    host.disk.is_full = False
    await trio.sleep(PROBE_S + 2 * TICK_S)
    assert mesh.check_health().status == "ok"
    assert (await mesh.retrieve_data("kept")).value == b"1"


async def test_a_node_whose_peers_are_all_gone_says_so_and_is_well_when_they_are_back(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    one, two = await mesh_cluster(2)
    await trio.sleep(20)
    assert one.mesh.check_health().status == "ok"
    two.freeze()
    await sim_world.until(lambda: check(one.mesh, "peers").status == "degraded", 120)
    assert one.mesh.check_health().is_ready
    two.thaw()
    await sim_world.until(lambda: check(one.mesh, "peers").status == "ok", 120)


async def test_a_node_whose_peers_have_all_said_goodbye_is_well_and_one_that_finds_nobody_again_is_not(
    sim_world: SimWorld,
) -> None:
    one, two = sim_world.add_host(), sim_world.add_host()
    mesh = await one.start(bootstrap_nodes=[])
    await two.start()
    await mesh.register_node(two.address)
    await trio.sleep(60)
    await two.stop()
    await trio.sleep(60)
    assert check(mesh, "peers") == bms.Check("peers", "ok", "this node is the only one")
    await one.stop()
    mesh = await one.start(bootstrap_nodes=[])
    await trio.sleep(60)
    assert check(mesh, "peers").status == "degraded"


async def test_a_node_that_is_not_running_is_not_ready(sim_world: SimWorld) -> None:
    host = sim_world.add_host()
    mesh = await host.start()
    assert mesh.check_health().is_ready
    await mesh.stop()
    health = mesh.check_health()
    assert not health.is_ready
    assert health.reasons == ("node: it is not running",)
    with pytest.raises(bms.ClosedError):
        mesh.collect_stats()
    with pytest.raises(bms.ClosedError):
        mesh.generate_report()


async def test_totals_never_go_back_when_links_end_and_the_same_peer_comes_again(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    one, two = await mesh_cluster(2)
    seen = [0, 0]
    for _ in range(3):
        await one.mesh.send_message(two.mesh.node_id, b"x" * 1000)
        two_life = life_of(two.mesh)
        for link in two_life.links():
            link.end("cut by the test", 0)
        for _ in range(200):
            stats = one.mesh.collect_stats()
            now = [stats.bytes_sent, stats.latencies["net.reply_s"].count]
            assert now >= seen, "a counter went back"
            assert all(new >= old for new, old in zip(now, seen, strict=True))
            seen = now
            await trio.sleep(0.01)
        await sim_world.until(lambda: one.mesh.is_connected(two.mesh.node_id))


async def test_what_takes_long_is_named_with_how_long_and_to_whom(
    mesh_cluster: MeshCluster, sim_world: SimWorld, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await mesh_cluster(2, latency_s=0.7)
    async with two.mesh.subscribe("slow"):
        await one.mesh.send_message(two.mesh.node_id, b"x" * 10, "slow")
        (slow,) = [slow for slow in one.mesh.slow_operations() if slow.what == "send"]
        assert 1.4 < slow.seconds < 3
        assert slow.facts == {"peer": two.mesh.node_id.short, "topic": "slow", "bytes": 10}
        assert any(record.name == "bms.slow" and "send took" in record.getMessage() for record in caplog.records)
        await one.mesh.reconfigure(log={"slow_operation_s": 5.0})
        await one.mesh.send_message(two.mesh.node_id, b"x" * 10, "slow")
        assert len([slow for slow in one.mesh.slow_operations() if slow.what == "send"]) == 1
    with pytest.raises(bms.RemoteError):
        await one.mesh.request(two.mesh.node_id, b"x", "nobody serves this")
    assert one.mesh.counters.labelled("messaging.failed") == {("request", "RemoteError"): 1}
    assert two.mesh.collect_stats().refusals["message.NotFoundError"] == 1
