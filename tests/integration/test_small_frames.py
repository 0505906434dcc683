"""A member that takes small frames only: what would be one long message reaches it in several, whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hostile import connect, context_of, open_member, packet

from bms.security.records import DEAD, Accusation
from bms.wire.codec import decode_untrusted, encode
from bms.wire.messages import Packet
from helpers import make_authority, make_identity, make_record, until

FRAME_BYTES = 16 * 1024
OTHERS = 400
"""More than a digest of 16 KiB can name."""


async def test_a_view_whose_digest_is_too_long_comes_as_cards_with_the_accusations(tmp_path: Path) -> None:
    authority = make_authority()
    make_identity(authority, tmp_path, "target")
    identity = make_identity(authority, tmp_path, "small")
    others = [make_identity(authority, tmp_path, f"other-{number}") for number in range(OTHERS)]
    record = make_record(identity, name="small")

    def pair(number: int) -> list[Any]:
        """What is said of one of the others; every tenth is held for dead."""
        other = others[number]
        word = make_record(other, name=f"other-{number}")
        accusation = Accusation.sign(
            identity.node_key, mesh_id=identity.mesh_id, node_id=other.node_id, boot=word.boot, incarnation=1, kind=DEAD
        )
        card = [other.admission.signed, word.signed, word.details]
        return [card, None if number % 10 else accusation.signed]

    gossip = {
        "probe_interval_s": 30.0,
        "keepalive_timeout_s": 600.0,
    }  # nobody else is suspected in the time of the test
    async with open_member(tmp_path, "target", enable_discovery=False, gossip=gossip) as target:
        raw = await connect(target.address, context_of(tmp_path, identity))
        await raw.join(identity, record, frame_bytes_max=FRAME_BYTES)
        await until(lambda: target.is_connected(identity.node_id))
        said = [pair(number) for number in range(OTHERS)]
        for start in range(0, OTHERS, 20):
            await raw.send(Packet(encode([[10, said[start : start + 20]]])))
        await until(lambda: len(target.nodes("failed")) == OTHERS // 10)
        await until(lambda: len(target.nodes()) == OTHERS + 2)
        await raw.send(packet([7, 1, OTHERS + 2]))
        expected = {bytes(card[1][0]): accusation for card, accusation in said}
        found: dict[bytes, Any] = {}
        while not expected.keys() <= found.keys():
            message = await raw.receive_a(Packet)
            assert len(message.payload) < FRAME_BYTES
            for item in decode_untrusted(message.payload):
                assert item[0] != 8
                if item[0] == 10:
                    found |= {bytes(card[1][0]): accusation for card, accusation in item[1]}
        assert {body: accusation for body, accusation in found.items() if body in expected} == expected
        assert len(found) > OTHERS, "itself, too"
        await raw.cut()
