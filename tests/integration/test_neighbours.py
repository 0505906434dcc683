"""Nodes ask each other about their links, on topics that no program can use."""

from __future__ import annotations

import pytest

import bms
from bms.neighbours import RESERVED
from helpers import cluster, until


async def test_linked_nodes_say_what_links_they_have() -> None:
    async with cluster(3, enable_persistence=False) as meshes:
        one, ids = meshes[0], {mesh.node_id for mesh in meshes}
        await until(lambda: all(mesh.is_connected(node_id) for mesh in meshes for node_id in ids))
        found = await one.links_of_linked()
        assert set(found) == ids - {one.node_id}
        for node_id, links in found.items():
            assert {link.node_id for link in links} == ids - {node_id}
            assert all(link.age_s >= 0 and (link.rtt_s is None or link.rtt_s > 0) for link in links)


async def test_a_node_alone_asks_nobody() -> None:
    async with bms.open_mesh(dev_mode=True, enable_persistence=False, enable_discovery=False) as mesh:
        assert await mesh.links_of_linked() == {}
        assert mesh.suspicions() == []


async def test_no_program_can_use_the_nodes_own_topics() -> None:
    async with bms.open_mesh(dev_mode=True, enable_persistence=False, enable_discovery=False) as mesh:
        topic = RESERVED + "links"

        async def answer(message: bms.Message) -> bytes:
            return b""

        with pytest.raises(bms.LocalProtocolError):
            await mesh.send_message(mesh.node_id, b"", topic)
        with pytest.raises(bms.LocalProtocolError):
            await mesh.request(mesh.node_id, b"", topic)
        with pytest.raises(bms.LocalProtocolError):
            await mesh.broadcast_message(b"", topic)
        with pytest.raises(bms.LocalProtocolError):
            await mesh.serve_requests(topic, answer)
        with pytest.raises(bms.LocalProtocolError):
            mesh.subscribe(topic)
        with pytest.raises(bms.LocalProtocolError):
            mesh.attend_topic(topic)
