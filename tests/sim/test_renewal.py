"""Certificates of nodes that keep nothing on disk, over months."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio

import bms
from bms.security.certificates import first_der
from bms.security.keys import BoxKey, NodeKey
from bms.testing import SimHost, SimWorld

DAY_S = 86_400.0
IN_MEMORY: dict[str, Any] = {
    "enable_persistence": False, "persistence_path": None, "cert_path": None, "key_path": None, "trust_path": None,
}  # fmt: skip


def shown_to(host: SimHost, other: SimHost) -> bytes | None:
    """The certificate that `other` has shown on the link that `host` has with it."""
    life = host.mesh._life
    assert life is not None
    return life.pool.links[other.mesh.node_id]._channel.peer_certificate


def admit(founder: bms.Mesh, host: SimHost) -> dict[str, Any]:
    """Files of a member of the founder's mesh, as its authority issues them; where they are."""
    authority, chance = founder._identity.authority, host.sim.chance("member")
    assert authority is not None
    keys = NodeKey.generate(chance.randbytes), BoxKey.generate(chance.randbytes)
    files = authority.issue_identity(*keys, now=host.wall_time()).files
    place: Path = host.folder / "member"
    place.mkdir()
    for name, content in files.items():
        (place / name).touch(mode=0o600)
        (place / name).write_bytes(content)
    return {f"{part}_path": place / f"{part}.pem" for part in ("key", "cert", "trust")}


async def test_a_founder_that_keeps_all_in_memory_renews_its_certificate_and_shows_it_on_new_links(
    sim_world: SimWorld,
) -> None:
    one, two = sim_world.add_host(**IN_MEMORY, found_mesh=True), sim_world.add_host()
    first = (await one.start(bootstrap_nodes=()))._identity
    for host in (one, two):
        host.clock_offset_s = 30 * DAY_S
    await trio.sleep(120)
    assert one.mesh._identity is first
    for host in (one, two):
        host.clock_offset_s = 70 * DAY_S
    await trio.sleep(120)
    second = one.mesh._identity
    assert second.not_after > first.not_after + 50 * DAY_S
    assert second.leaf_spki != first.leaf_spki
    assert (second.node_id, second.admission) == (first.node_id, first.admission)
    assert second.authority is first.authority
    await two.start(**admit(one.mesh, two))
    await sim_world.until(lambda: one.mesh.is_connected(two.mesh.node_id) and two.mesh.is_connected(one.mesh.node_id))
    assert shown_to(two, one) == first_der(second.cert_pem)
    await one.mesh.store_data("k", b"v")
    await sim_world.until(lambda: two.mesh.data_summary().entries == 1)


async def test_in_dev_mode_the_authority_of_this_machine_renews_it(sim_world: SimWorld) -> None:
    one = sim_world.add_host(**IN_MEMORY, dev_mode=True)
    first = (await one.start(bootstrap_nodes=()))._identity
    one.clock_offset_s = 70 * DAY_S
    await trio.sleep(120)
    assert one.mesh._identity.not_after > first.not_after + 50 * DAY_S
    assert one.mesh._identity.node_id == first.node_id


async def test_where_the_authority_is_gone_the_old_one_stays_and_that_is_said(
    sim_world: SimWorld, caplog: pytest.LogCaptureFixture
) -> None:
    one = sim_world.add_host(**IN_MEMORY, dev_mode=True)
    first = (await one.start(bootstrap_nodes=()))._identity
    (one.folder / "home" / "sim" / "dev-authority" / "issuer.pem").unlink()
    with caplog.at_level(logging.WARNING, "bms.security"):
        one.clock_offset_s = 70 * DAY_S
        await trio.sleep(120)
    assert one.mesh._identity is first
    assert "could not be renewed" in caplog.text
    await one.mesh.reconfigure(max_retries=9)
    assert one.mesh.config.max_retries == 9
