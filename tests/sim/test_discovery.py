"""Finding the mesh over hours and days of virtual time: when names are asked again, places are dialed again, who is
remembered."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
import trio

from bms.membership import discovery
from bms.membership.discovery import SRV_SCHEME
from bms.membership.snapshot import FILE_NAME
from bms.testing import SimWorld
from bms.testing.world import SimHost

NAME = "_bms._tcp.sim.example"


@attrs.define
class Names:
    """DNS of the simulated world: one name, and when it was asked for."""

    records: list[tuple[int, int, int, str]]
    ttl_s: float
    asked: list[float] = attrs.field(factory=list)

    async def resolve(self, name: str) -> tuple[Sequence[tuple[int, int, int, str]], float]:
        await trio.sleep(0.01)
        assert name == NAME
        self.asked.append(trio.current_time())
        return self.records, self.ttl_s

    def use(self, host: SimHost) -> None:
        """Let the node of a host ask here."""
        real = host.world
        host.world = lambda: attrs.evolve(real(), resolve_srv=self.resolve)  # type: ignore[method-assign]

    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked, self.asked[1:], strict=False)]


@pytest.mark.parametrize(("ttl_s", "pause_s"), [(0.0, 30.0), (1.0, 30.0), (300.0, 300.0), (86_400.0, 3600.0)])
async def test_a_name_is_asked_again_when_its_records_have_run_out_within_bounds(
    sim_world: SimWorld, ttl_s: float, pause_s: float
) -> None:
    host = sim_world.add_host(bootstrap_nodes=(SRV_SCHEME + NAME,))
    names = Names([(0, 0, host.address.port, host.address.host)], ttl_s)
    names.use(host)
    mesh = await host.start()
    await sim_world.until(lambda: len(names.asked) > 3, 4 * pause_s + 60, pause_s / 5)
    assert "this node itself" in [found.outcome for found in mesh.collect_stats().discovery]
    assert names.pauses() == pytest.approx([pause_s] * len(names.pauses()), abs=0.5)


async def test_a_node_follows_records_that_move_to_other_nodes(sim_world: SimWorld) -> None:
    one, two, three = (sim_world.add_host(bootstrap_nodes=(), enable_discovery=False) for _ in range(3))
    names = Names([(0, 0, one.address.port, one.address.host)], 60.0)
    names.use(three)
    await three.start(bootstrap_nodes=(SRV_SCHEME + NAME,))  # nobody is there yet
    await two.start()
    names.records = [(0, 0, two.address.port, two.address.host)]
    await sim_world.until_joined(100.0)


async def test_without_a_resolver_a_simulated_world_has_no_names(sim_world: SimWorld) -> None:
    host = sim_world.add_host(bootstrap_nodes=(SRV_SCHEME + NAME,))
    mesh = await host.start()
    await sim_world.until(lambda: mesh.collect_stats().discovery)
    (found,) = mesh.collect_stats().discovery
    assert (found.source, found.candidate) == ("srv", SRV_SCHEME + NAME)
    assert "no DNS in this world" in found.outcome


async def test_seeds_are_dialed_every_half_minute_without_end_and_found_when_they_come(sim_world: SimWorld) -> None:
    seed = sim_world.add_host(bootstrap_nodes=(), enable_discovery=False)
    host = sim_world.add_host(bootstrap_nodes=(str(seed.address),), enable_discovery=False)
    seed.net.power_on()  # the machine is there and refuses
    mesh = await host.start()
    await trio.sleep(3600)
    before = mesh.counters["discovery.seeds_failed"]
    await trio.sleep(3600)
    assert 120 <= mesh.counters["discovery.seeds_failed"] - before <= 160
    await trio.sleep(6 * 3600)
    await seed.start()
    assert await sim_world.until(lambda: mesh.is_connected(seed.node_id), 60) <= 31


async def test_fifty_seeds_that_do_not_answer_are_dialed_eight_at_a_time(sim_world: SimWorld) -> None:
    alive = sim_world.add_host(bootstrap_nodes=(), enable_discovery=False)
    silent = [sim_world.add_host() for _ in range(50)]
    for host in silent:
        host.net.power_off()
    await alive.start()
    joining = sim_world.add_host(
        bootstrap_nodes=tuple(str(host.address) for host in [*silent, alive]), enable_discovery=False
    )
    mesh = await joining.start(gossip={"dial_timeout_s": 5.0})
    took = await sim_world.until(lambda: mesh.is_connected(alive.node_id), 120)
    assert 25 <= took <= 45  # one by one it would be 250 s, all at once 0


async def test_a_mesh_that_was_off_for_a_weekend_finds_itself_without_seeds(sim_world: SimWorld) -> None:
    hosts = await sim_world.start_nodes(5)
    await sim_world.until_joined()
    await trio.sleep(10)  # it is written down every few seconds
    for host in hosts:
        await host.crash(power=True)
    await trio.sleep(3 * 86_400)
    for host in hosts:
        assert (host.disk.folder / FILE_NAME).exists()
        await host.start(bootstrap_nodes=())
    await sim_world.until_joined(60)


async def test_remembered_places_are_dialed_for_so_long_and_then_left_alone(
    sim_world: SimWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_SNAPSHOT_DIAL_S", 7200.0)  # a day takes as long as its dials
    one, two = await sim_world.start_nodes(2)
    await sim_world.until_joined()
    await trio.sleep(10)
    await two.crash()
    await one.crash()
    mesh = await one.start(bootstrap_nodes=())
    await trio.sleep(6800)
    before = mesh.counters["discovery.snapshot_failed"]
    assert before > 200
    await trio.sleep(500)
    after = mesh.counters["discovery.snapshot_failed"]
    assert after - before < 40
    await trio.sleep(500)
    assert mesh.counters["discovery.snapshot_failed"] == after
