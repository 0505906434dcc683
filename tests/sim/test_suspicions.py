"""Who suspects whom, and what linked nodes say of their links, seen from one node of a mesh that falls apart."""

from __future__ import annotations

import trio

from bms.testing import SimWorld
from bms.testing.fixtures import MeshCluster


async def test_a_silent_node_is_suspected_by_name_until_it_is_held_for_dead(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    a, b, c, d = await mesh_cluster(4)
    ids = {host.mesh.node_id for host in (a, b, c)}
    lost = d.mesh.node_id
    assert a.mesh.suspicions() == []
    await d.crash(power=True)
    await sim_world.until(a.mesh.suspicions)
    assert {one.node_id for one in a.mesh.suspicions()} == {lost}
    assert {one.by for one in a.mesh.suspicions()} <= ids
    # Others find it silent too, and say so: their words are listed beside the first.
    await sim_world.until(lambda: len(a.mesh.suspicions()) > 1 or a.mesh.node(lost).state == "failed")
    await sim_world.until(lambda: a.mesh.node(lost).state == "failed")
    assert a.mesh.suspicions() == []


async def test_asking_for_links_ends_in_time_when_a_node_is_silent(
    mesh_cluster: MeshCluster, sim_world: SimWorld
) -> None:
    a, b, c = await mesh_cluster(3)
    await sim_world.until(lambda: len(a.mesh.topology().links) == 2)
    sim_world.partition([c])
    began = trio.current_time()
    found = await a.mesh.links_of_linked()
    assert set(found) == {b.mesh.node_id}
    assert trio.current_time() - began < 2.5
    again = trio.current_time()
    assert await a.mesh.links_of_linked() == found  # asked once for however many want to know
    assert trio.current_time() == again
