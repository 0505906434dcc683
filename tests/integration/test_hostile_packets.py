"""Packets of members that are malformed at their end or longer than anybody needs: they cost their sender alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cbor2
import pytest
from hostile import Siege, packet, siege

from bms.security.identity import Identity
from bms.security.records import ACCUSATION_DOMAIN, RECORD_DOMAIN, SUSPECT, Accusation, NodeRecord
from bms.wire.messages import CloseCode
from helpers import make_record, until


def filled_up(identity: Identity, domain: str, body: bytes, bytes_more: int) -> list[bytes]:
    """The same object with an extra field that readers ignore, of so many bytes."""
    fields = cbor2.loads(body)
    fields[-1] = {64: bytes(bytes_more)}
    longer = cbor2.dumps(fields, canonical=True)
    return [longer, identity.node_key.sign(domain, longer)]


def accused_by(identity: Identity, record: NodeRecord) -> Accusation:
    return Accusation.sign(
        identity.node_key,
        mesh_id=identity.mesh_id,
        node_id=record.node_id,
        boot=record.boot,
        incarnation=record.incarnation,
        kind=SUSPECT,
    )


async def in_and_linked(scene: Siege, record: NodeRecord | None = None) -> Any:
    raw = await scene.connect()
    await raw.join(scene.attacker, record)
    await until(lambda: scene.mesh.is_connected(scene.attacker.node_id))
    return raw


def view_of(scene: Siege, node_id: str) -> Any:
    assert scene.mesh._life is not None
    return scene.mesh._life.view.members[node_id]  # type: ignore[index]


@pytest.mark.parametrize(
    "last", [[1, 7, b"\xff" * 44], [1, 7, bytes(43)], [4, 5], [5, [b"", b""]]], ids=lambda item: str(item)[:12]
)
async def test_a_packet_that_is_malformed_at_its_end_has_said_nothing(tmp_path: Path, last: list[Any]) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness() as witness:
        await until(lambda: witness.node_id in [node.node_id for node in scene.mesh.nodes("alive")])
        raw = await in_and_linked(scene)
        accusation = accused_by(scene.attacker, view_of(scene, witness.node_id).record)
        async with scene.mesh.watch_nodes() as watch:
            await raw.send(packet([5, accusation.signed], last))
            close = await raw.fate()
            assert close is not None
            assert close.code in (CloseCode.PROTOCOL_ERROR, CloseCode.REFUSED)
            assert not [event for event in watch._events if event.node_id == witness.node_id]
        assert scene.mesh.node(witness.node_id).state == "alive"
        assert scene.mesh._life is not None
        assert scene.mesh._life.swim.state(witness.node_id) == "alive"  # the failure detector's own mind


async def test_a_word_that_fits_into_no_packet_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path, joined=True) as scene, scene.witness() as witness:
        await until(lambda: witness.node_id in [node.node_id for node in scene.mesh.nodes("alive")])
        body = accused_by(scene.attacker, view_of(scene, witness.node_id).record).body
        accusation = filled_up(scene.attacker, ACCUSATION_DOMAIN, body, 2000)
        own = make_record(scene.attacker, incarnation=2)
        record = filled_up(scene.attacker, RECORD_DOMAIN, own.body, 2000)
        for item in ([5, accusation], [6, [scene.attacker.admission.signed, record, own.details]], [4, record]):
            raw = await in_and_linked(scene)
            await raw.send(packet(item))
            close = await raw.fate()
            assert close is not None
            assert close.code == CloseCode.PROTOCOL_ERROR
            await until(lambda: not scene.mesh.is_connected(scene.attacker.node_id))
        assert scene.mesh.node(witness.node_id).state == "alive"


async def test_a_record_that_is_filled_up_is_passed_on_and_stops_no_answer(tmp_path: Path) -> None:
    """It goes with acks, too, whose datagrams then have next to no room left."""
    async with siege(tmp_path, joined=True, gossip={"probe_interval_s": 0.1}) as scene, scene.witness() as witness:
        await until(lambda: witness.node_id in [node.node_id for node in scene.mesh.nodes("alive")])
        await witness.reconfigure(gossip={"probe_interval_s": 0.05})
        raw = await in_and_linked(scene, make_record(scene.attacker, incarnation=1))
        for incarnation in range(2, 10):
            record = make_record(scene.attacker, incarnation=incarnation)
            signed = filled_up(scene.attacker, RECORD_DOMAIN, record.body, 507 - len(record.body) - incarnation % 4)
            await raw.send(packet([6, [scene.attacker.admission.signed, signed, record.details]]))
            before = witness.counters["datagrams.received"]
            await until(lambda before=before: witness.counters["datagrams.received"] > before + 2)  # type: ignore[misc]
        await until(lambda: scene.mesh.node(scene.attacker.node_id).incarnation == 9)
        # Not all get around: who says nothing else is soon accused, and the latest word about it is what travels.
        await until(lambda: witness.node(scene.attacker.node_id).incarnation > 1)
        assert witness.counters["net.handler_crashes"] == 0
        assert scene.count("datagrams.handler_crashes") + witness.counters["datagrams.handler_crashes"] == 0
