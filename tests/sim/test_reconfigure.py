"""Settings whose effect takes long, changed on a running mesh, on virtual time. The others: tests/integration."""

from __future__ import annotations

import pytest
import trio

from bms import DeliveryError, Message
from bms.net.link import Link
from bms.testing import Line, SimHost, SimWorld
from bms.testing.fixtures import MeshCluster


def attempts(sim: SimWorld, since: float) -> int:
    """How often n1 has dialed n2 since then and was refused."""
    found = [line.split(" ", 1) for line in sim.trace.lines]
    return sum(text == "n1>n2 refused" and float(time) > since for time, text in found)


def link_between(one: SimHost, two: SimHost) -> Link | None:
    life = one.mesh._life
    assert life is not None
    return life.pool.link(two.node_id)


async def test_a_lower_longest_redial_pause_knocks_more_often_at_what_is_down(sim_world: SimWorld) -> None:
    one, two = sim_world.add_host(), sim_world.add_host()
    await one.start(bootstrap_nodes=(str(two.address),))
    await trio.sleep(300)
    then = trio.current_time()
    await trio.sleep(100)
    assert attempts(sim_world, then) <= 5
    await one.mesh.reconfigure(gossip={"redial_interval_max_s": 2.0})
    await trio.sleep(60)  # the pause that had begun
    then = trio.current_time()
    await trio.sleep(100)
    assert attempts(sim_world, then) >= 30


async def test_a_shorter_first_redial_pause_holds_for_the_next_loss(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    one, two = await mesh_cluster(2, gossip={"redial_interval_s": 25.0, "redial_interval_max_s": 25.0})
    await one.mesh.reconfigure(bootstrap_nodes=())
    counts = []
    for _ in range(2):
        then = trio.current_time()
        await two.crash()
        await trio.sleep(15)
        counts.append(attempts(sim_world, then))
        await two.start()
        await sim_world.until_joined()
        await one.mesh.reconfigure(gossip={"redial_interval_s": 0.5})
    slow, quick = counts
    assert slow <= 2
    assert quick >= 4


async def test_more_retries_save_a_message_that_is_under_way_already(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    one, two = await mesh_cluster(2, max_retries=0)
    sim_world.line(Line(latency_s=0.5, jitter_s=0.0))
    got: list[bytes] = []
    outcomes: list[str] = []

    async def listen() -> None:
        async with two.mesh.subscribe("t") as messages:
            async for message in messages:
                assert isinstance(message, Message)
                got.append(message.body)

    async def send(body: bytes) -> None:
        try:
            await one.mesh.send_message(two.node_id, body, "t", deadline_s=300)
            outcomes.append("acknowledged")
        except DeliveryError:
            outcomes.append("unknown")

    async def break_link() -> None:
        """While the message, or its acknowledgement, is on its way."""
        await sim_world.until(lambda: link_between(one, two) is not None)
        await trio.sleep(0.7)
        link = link_between(one, two)
        assert link is not None
        link.end("broken", 0)
        await link.ended.wait()

    two.start_soon(listen)
    one.start_soon(send, b"first")
    await break_link()
    await sim_world.until(lambda: outcomes == ["unknown"])
    await sim_world.until(lambda: link_between(one, two) is not None)
    await trio.sleep(5)
    one.start_soon(send, b"second")
    await one.mesh.reconfigure(max_retries=2)
    await break_link()
    await break_link()
    await sim_world.until(lambda: outcomes == ["unknown", "acknowledged"])
    assert got.count(b"second") == 1
    await trio.sleep(5)
    await one.mesh.reconfigure(max_retries=0)
    one.start_soon(send, b"third")
    await break_link()
    await sim_world.until(lambda: outcomes == ["unknown", "acknowledged", "unknown"])


@pytest.mark.parametrize(("before_s", "after_s"), [(600.0, 3.0), (1.0, 60.0)])
async def test_another_drain_time_holds_for_the_next_stop(
    mesh_cluster: MeshCluster, before_s: float, after_s: float
) -> None:
    patient = {"keepalive_interval_s": 3000.0, "keepalive_timeout_s": 80_000.0}
    one, two = await mesh_cluster(2, limits={"drain_timeout_s": before_s}, gossip=patient)
    two.freeze()
    while await one.mesh.broadcast_message(bytes(100_000), "much"):
        await trio.lowlevel.checkpoint()
    await one.mesh.reconfigure(limits={"drain_timeout_s": after_s})
    then = trio.current_time()
    await one.stop()
    assert after_s <= trio.current_time() - then < after_s + 2
