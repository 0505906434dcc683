"""The nearest nodes by coordinates beside a ping of everybody, on a simulated network of three regions."""

from __future__ import annotations

import math
import random
import statistics

import trio

from bms.testing import Line, SimHost, SimWorld, run_simulation

REGIONS = ((0.0, 0.0), (0.030, 0.0), (0.012, 0.028))  # seconds, one way, on a map
NODES = 15


async def _measured(sim: SimWorld) -> tuple[float, list[float], list[float]]:
    """How many of the nearest three by coordinates, and by coordinates and pings, are among the nearest three, and how
    much farther than those they are, all three together, as a ratio.
    """
    chance = random.Random(5)
    places = []
    for number in range(NODES):
        x, y = REGIONS[number % len(REGIONS)]
        places.append((x + chance.uniform(-0.006, 0.006), y + chance.uniform(-0.006, 0.006)))
    hosts = [sim.add_host(region=str(number)) for number in range(NODES)]
    for a, one in enumerate(places):
        for b, other in enumerate(places):
            sim.line(Line(latency_s=0.0005 + math.dist(one, other), jitter_s=0.0003), str(a), str(b))
    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(host.start)
    await sim.until_joined()
    await trio.sleep(400)
    names: dict[str, SimHost] = {host.node_id: host for host in hosts}

    def pinged(source: SimHost) -> list[tuple[float, str]]:
        """Everybody's measured round trip from a host."""
        rtts = {link.node_id: link.rtt_s for link in source.mesh.topology().links}
        return sorted((rtt, node_id) for node_id, rtt in rtts.items() if rtt is not None)

    shared, ratios, own_ratios = 0, [], []
    for number, host in enumerate(hosts):
        best = pinged(host)
        assert len(best) == NODES - 1
        truth = {node_id: rtt for rtt, node_id in best}
        asked = hosts[(number + 4) % NODES]  # somebody else, from coordinates alone
        by_others = [node.node_id for node, _ in await asked.mesh.find_nearest_nodes(host.node_id, 3)]
        shared += len(set(by_others) & {node_id for _, node_id in best[:3]})
        ideal = sum(rtt for rtt, _ in best[:3])
        ratios.append(sum(truth[node_id] for node_id in by_others) / ideal)
        own = [node.node_id for node, _ in await host.mesh.find_nearest_nodes(count=3)]
        own_ratios.append(sum(truth[node_id] for node_id in own) / ideal)
    assert set(names) == {host.node_id for host in hosts}
    return shared / (3 * NODES), ratios, own_ratios


def test_the_nearest_three_are_nearly_those_that_a_ping_of_all_finds() -> None:
    shared, ratios, own_ratios = run_simulation(_measured, seed=3)
    assert shared > 0.85
    assert statistics.median(ratios) < 1.1
    assert statistics.median(own_ratios) < 1.1
    assert max(ratios) < 2
