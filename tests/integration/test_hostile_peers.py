"""Strangers at the door of a real listening node: none gets in, each is counted, and honest members are served.

What every test asserts after its attack stands in `hostile.siege`.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import struct
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hostile import Raw, Siege, connect, hello_of, leaf_of, plain, serve_hostile, siege

from bms.config import Config
from bms.errors import MeshError, RefusedError, RemoteProtocolError, UnreachableError
from bms.security.certificates import spki_sha256
from bms.security.identity import Identity
from bms.wire.framing import frame
from bms.wire.messages import Close, CloseCode, Hello, Note, Ping, Proof, Push, Welcome
from helpers import forge_leaf, hostile_context, make_authority, make_identity, make_record, open_party, until


def with_leaf(identity: Identity, chain: bytes, key: bytes) -> Identity:
    """The same member with another certificate."""
    changed = attrs.evolve(identity, cert_pem=chain, key_pem=key)
    return attrs.evolve(changed, leaf_spki=spki_sha256(leaf_of(changed)))


async def refused_dial(scene: Siege, identity: Identity) -> MeshError:
    """What the pool of an attacker with this identity is told when it dials the node."""
    async with open_party(identity, listen=False) as party:
        with pytest.raises(MeshError) as caught:
            await party.pool.dial(scene.address)
        assert not party.pool.links
        assert not party.up
    return caught.value


# ---------------------------------------------------------------------- certificates

UNTRUSTED = {
    "expired": {"days": -1},
}
UNFIT = {
    "an authority itself": {"ca": True},
    "two names": {"uris": ["spiffe://{mesh}/node/{node}", "spiffe://{mesh}/node/" + "0" * 64]},
    "a name in another mesh": {"uris": ["spiffe://" + "a" * 64 + "/node/{node}"]},
    "another node's name": {"uris": ["spiffe://{mesh}/node/" + "b" * 64]},
    "no name": {"uris": []},
    "a name of another kind": {"uris": ["https://{mesh}/node/{node}"]},
}


def forged(scene: Siege, wrong: dict[str, Any]) -> Identity:
    """The attacker with a certificate of the mesh's own issuer that is wrong as described."""
    names = wrong.get("uris", ["spiffe://{mesh}/node/{node}"])
    identity = scene.attacker
    uris = [name.format(mesh=identity.mesh_id.hex(), node=identity.node_id) for name in names]
    chain, key = forge_leaf(scene.authority, uris, **{name: wrong[name] for name in wrong if name != "uris"})
    return with_leaf(identity, chain, key)


@pytest.mark.parametrize("wrong", UNTRUSTED.values(), ids=UNTRUSTED)
async def test_a_certificate_that_tls_does_not_trust_ends_the_tls_handshake(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    async with siege(tmp_path) as scene:
        error = await refused_dial(scene, forged(scene, wrong))
        assert isinstance(error, RefusedError)
        await until(lambda: scene.count("net.handshakes_failed") == 1)


@pytest.mark.parametrize("wrong", UNFIT.values(), ids=UNFIT)
async def test_a_certificate_of_the_right_issuer_but_the_wrong_shape_is_refused_with_a_close(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    async with siege(tmp_path) as scene:
        error = await refused_dial(scene, forged(scene, wrong))
        assert isinstance(error, RefusedError)
        assert "certificate" in str(error)
        await until(lambda: scene.refusals == 1)


async def test_a_peer_without_a_certificate_gets_no_further_than_tls(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        raw = await connect(scene.address, hostile_context(tmp_path))
        # A TLS 1.3 client hears of its refusal only when it reads.
        with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            await raw.stream.receive_some(100)
        await raw.cut()
        await until(lambda: scene.count("net.handshakes_failed") == 1)


async def test_strangers_that_come_again_and_again_are_all_counted_and_fill_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bms.net")
    unfit = {"uris": ["spiffe://{mesh}/node/" + "b" * 64]}
    async with siege(tmp_path) as scene:
        liar = forged(scene, unfit)
        for number in range(1, 21):
            assert isinstance(await refused_dial(scene, liar), RefusedError)
            raw = await connect(scene.address, hostile_context(tmp_path))
            await raw.fate()
            await until(lambda number=number: scene.refusals == 2 * number)  # type: ignore[misc]
        lines = [record.getMessage() for record in caplog.records]
    assert 1 <= sum("refused a connection" in line for line in lines) <= 6  # one in ten seconds
    assert 1 <= sum("no link with" in line for line in lines) <= 6


async def test_a_member_of_another_mesh_is_refused_and_refuses(tmp_path: Path) -> None:
    stranger = make_identity(make_authority(), tmp_path, "stranger")
    async with siege(tmp_path) as scene:
        assert isinstance(await refused_dial(scene, stranger), RefusedError)
        await until(lambda: scene.refusals == 1)


async def test_the_certificate_of_one_mesh_does_not_carry_the_card_of_another(tmp_path: Path) -> None:
    stranger = make_identity(make_authority(), tmp_path, "stranger")
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.send(hello_of(stranger, mesh_id=scene.attacker.mesh_id))
        close = await raw.fate()
        assert close is not None
        assert close.code == CloseCode.REFUSED
        await until(lambda: scene.count("net.handshakes_refused") == 1)


@pytest.mark.parametrize("alpn", ["h2", None])
async def test_a_peer_that_does_not_agree_on_the_protocol_is_cut_off(tmp_path: Path, alpn: str | None) -> None:
    async with siege(tmp_path) as scene:
        try:
            raw = await connect(scene.address, scene.context(alpn=alpn))
            assert await raw.fate() is None
        except (ssl.SSLError, trio.BrokenResourceError):
            pass  # OpenSSL refuses another protocol by itself, and lets none at all through
        await until(lambda: scene.refusals == 1)


async def test_tls_1_2_is_not_spoken(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            await connect(scene.address, scene.context(version=ssl.TLSVersion.TLSv1_2))
        await until(lambda: scene.count("net.handshakes_failed") == 1)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 5000, frame(b"\x80"), secrets.token_bytes(3000)]
)
async def test_what_is_not_tls_is_cut_off(tmp_path: Path, data: bytes) -> None:
    async with siege(tmp_path) as scene:
        stream = await trio.open_tcp_stream(scene.address.host, scene.address.port)
        try:
            with trio.fail_after(60):
                await stream.send_all(data)
                while await stream.receive_some():
                    pass
        except trio.BrokenResourceError:
            pass  # reset: some of it was never read
        await stream.aclose()
        await until(lambda: scene.count("net.handshakes_failed") == 1)


async def test_connections_that_are_reset_at_once_leave_nothing(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        for _ in range(20):
            stream = await trio.open_tcp_stream(scene.address.host, scene.address.port)
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        await until(lambda: scene.refusals == 20)


# ---------------------------------------------------------------------- hello

BAD_HELLOS: dict[str, tuple[dict[str, Any], CloseCode]] = {
    "another mesh": ({"mesh_id": bytes(32)}, CloseCode.OTHER_MESH),
    "only newer versions": ({"versions": [2, 9]}, CloseCode.NO_COMMON_VERSION),
    "only older versions": ({"versions": [0, 0]}, CloseCode.NO_COMMON_VERSION),
    "versions upside down": ({"versions": [9, 1]}, CloseCode.NO_COMMON_VERSION),
    "lane 7": ({"lane": 7}, CloseCode.REFUSED),
}


@pytest.mark.parametrize(("wrong", "code"), BAD_HELLOS.values(), ids=BAD_HELLOS)
async def test_a_hello_that_does_not_fit_is_answered_with_its_close_code(
    tmp_path: Path, wrong: dict[str, Any], code: CloseCode
) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.send(hello_of(scene.attacker, **wrong))
        close = await raw.fate()
        assert close is not None
        assert close.code == code
        await until(lambda: scene.count("net.handshakes_refused") == 1)


async def test_a_right_certificate_with_another_members_card_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        victim = make_identity(scene.authority, tmp_path, "victim")
        raw = await scene.connect()
        await raw.send(hello_of(victim))
        close = await raw.fate()
        assert close is not None
        assert close.code == CloseCode.REFUSED
        assert victim.node_id not in [node.node_id for node in scene.mesh.nodes()]


async def test_a_card_made_of_two_members_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        victim = make_identity(scene.authority, tmp_path, "victim")
        record = make_record(scene.attacker)
        raw = await scene.connect()
        await raw.send(hello_of(scene.attacker, card=[victim.admission.signed, record.signed, record.details]))
        close = await raw.fate()
        assert close is not None
        assert close.code == CloseCode.REFUSED


async def test_a_card_with_a_broken_signature_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        record = make_record(scene.attacker)
        for card in (
            [scene.attacker.admission.signed, [record.body, bytes(64)], record.details],
            [[scene.attacker.admission.body, bytes(64)], record.signed, record.details],
            [scene.attacker.admission.signed, record.signed, record.details + b"\x00"],
        ):
            raw = await scene.connect()
            await raw.send(hello_of(scene.attacker, card=card))
            close = await raw.fate()
            assert close is not None
            assert close.code == CloseCode.REFUSED
        assert scene.count("net.handshakes_refused") == 3


async def test_the_nodes_own_key_in_other_hands_is_called_copied(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        own = scene.mesh._identity
        assert isinstance(await refused_dial(scene, own), RefusedError)
        await until(lambda: scene.count("net.handshakes_refused") == 1)


# ---------------------------------------------------------------------- proof


async def refused_proof(raw: Raw, proof: Proof) -> None:
    await raw.send(proof)
    close = await raw.fate()
    assert close is not None
    assert close.code == CloseCode.REFUSED
    assert "proof" in close.reason


async def test_a_proof_from_an_earlier_connection_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        hello = hello_of(scene.attacker)
        first = await scene.connect()
        await first.introduce(hello)
        old = first.proof(scene.attacker)
        await first.cut()
        second = await scene.connect()
        await second.introduce(hello)  # the same hello, nonce and all: the listener's nonce is another
        await refused_proof(second, old)


async def test_the_listeners_own_proof_reflected_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        _, theirs = await raw.introduce(hello_of(scene.attacker))
        await refused_proof(raw, theirs)


async def test_a_proof_in_the_listeners_role_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.introduce(hello_of(scene.attacker))
        await refused_proof(raw, raw.proof(scene.attacker, role=1))


async def test_a_proof_for_other_hellos_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.introduce(hello_of(scene.attacker))
        altered = [raw.hellos[0][:-1] + b"\x01", raw.hellos[1]]
        await refused_proof(raw, raw.proof(scene.attacker, hellos=altered))


async def test_a_proof_by_another_key_is_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        other = make_identity(scene.authority, tmp_path, "other")
        raw = await scene.connect()
        await raw.introduce(hello_of(scene.attacker))
        mixed = attrs.evolve(scene.attacker, node_key=other.node_key)
        await refused_proof(raw, raw.proof(mixed))


async def test_a_proof_relayed_from_another_channel_is_refused(tmp_path: Path) -> None:
    """A man in the middle with a certificate of his own: the hellos are the member's, the channel is not."""
    async with siege(tmp_path) as scene:
        member = make_identity(scene.authority, tmp_path, "member")
        outside = hostile_context(
            tmp_path, chain=scene.attacker.cert_pem, key=scene.attacker.key_pem, server=True,
            ca=scene.attacker.trust_pem,
        )  # fmt: skip

        async def relay(victim: Raw) -> None:
            node = await scene.connect()
            hello = await victim.receive_a(Hello)
            await node.send(hello)
            close = await node.fate()
            assert close is not None
            codes.append(close.code)

        codes: list[int] = []
        async with serve_hostile(outside, relay) as address, open_party(member, listen=False) as party:
            with pytest.raises(MeshError):
                await party.pool.dial(address)
            await until(lambda: codes)
            assert codes == [CloseCode.REFUSED]
        assert member.node_id not in [node.node_id for node in scene.mesh.nodes()]


# ---------------------------------------------------------------------- order

EARLY: dict[str, Any] = {
    "note": Note(1, 1, 1, "t", b"", 0),
    "ping": Ping(1, 0),
    "entries": Push(1, 0, 1, [], []),
    "welcome": Welcome(1, None),
    "proof": Proof(bytes(64)),
}


@pytest.mark.parametrize("message", EARLY.values(), ids=EARLY)
async def test_what_comes_before_hello_ends_the_handshake(tmp_path: Path, message: Any) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.send(message)
        close = await raw.fate()
        assert close is not None
        assert close.code == CloseCode.PROTOCOL_ERROR
        await until(lambda: scene.count("net.handshakes_refused") == 1)


@pytest.mark.parametrize("kind", ["note", "entries", "welcome", "hello"])
async def test_what_comes_between_hello_and_proof_ends_the_handshake(tmp_path: Path, kind: str) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        hello = hello_of(scene.attacker)
        await raw.introduce(hello)
        await raw.send(hello if kind == "hello" else EARLY[kind])
        close = await raw.fate()
        assert close is not None
        assert close.code == CloseCode.PROTOCOL_ERROR
        assert scene.mesh.data_summary().position == 0


async def test_entries_sent_with_a_wrong_proof_are_never_looked_at(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.introduce(hello_of(scene.attacker))
        await raw.send(Proof(bytes(64)), EARLY["entries"], EARLY["note"])
        await raw.fate()
        await until(lambda: scene.count("net.handshakes_refused") == 1)
        assert scene.count("net.messages_received") == 0


BAD_FRAMES = {
    "a length of 4 GiB": b"\xff\xff\xff\xff",
    "one byte above the handshake's limit": (16 * 1024 + 1).to_bytes(4, "big"),
    "empty": bytes(4),
    "no CBOR": frame(b"\xff" * 40),
    "nested": frame(b"\x81" * 9000 + b"\x00"),
    "a declared length without content": frame(b"\x9b\x00\xff\xff\xff\xff\xff\xff\xff"),
    "a declared string without content": frame(b"\x82\x00\x5b\x00\x00\x00\xff\xff\xff\xff\xff"),
    "duplicate keys": frame(b"\x82\x00\xa2\x61a\x01\x61a\x02"),
    "a tag": frame(b"\x82\x00\xc2\x41\x01"),
    "a shared reference": frame(b"\x82\x00\xd8\x1c\x80"),
    "bytes behind the item": frame(b"\x82\x00\x00\x00"),
    "a NaN key": frame(b"\x82\x00\xa1\xf9\x7e\x00\x01"),
    "an indefinite array": frame(b"\x9f\x00\x00\xff"),
    "no array": frame(b"\xa0"),
    "an unknown type": frame(b"\x82\x0a\x00"),
}


@pytest.mark.parametrize("data", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_malformed_frame_ends_the_handshake_at_once(tmp_path: Path, data: bytes) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.send(data)
        close = await raw.fate()
        assert close is not None
        assert close.code in (CloseCode.PROTOCOL_ERROR, CloseCode.AT_LIMIT)
        await until(lambda: scene.count("net.handshakes_refused") == 1)


async def test_a_message_of_a_type_that_may_be_ignored_is_passed_over_during_the_handshake(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        raw = await scene.connect()
        await raw.send(frame(b"\x82\x18\x80\x00") * 3 + frame(b"\x82\x0a\x00"))
        close = await raw.fate()
        assert close is not None
        assert "type 10" in close.reason, "what came before was passed over"


# ---------------------------------------------------------------------- crowds


@pytest.mark.parametrize("sources", [["127.0.0.9"], [f"127.0.0.{10 + number}" for number in range(12)], ["127.0.0.1"]])
async def test_idle_connections_keep_nobody_out_not_even_from_their_own_address(
    tmp_path: Path, sources: list[str]
) -> None:
    async with siege(tmp_path, limits={"handshake_timeout_s": 120.0}) as scene, scene.witness():
        streams = [await plain(scene.address, source=sources[number % len(sources)]) for number in range(120)]
        await until(lambda: scene.pool._handshakes.count + scene.count("net.connections_over_limit") == 120)
        assert scene.pool._handshakes.count == 64
        await scene.serves_an_honest_member()
        assert scene.count("net.connections_over_limit") > 120 - 64, "one has given way to the newcomer"
        for stream in streams:
            await stream.aclose()


async def test_fifty_members_of_one_address_that_come_at_once_are_all_taken_in(tmp_path: Path) -> None:
    config = Config(limits={"handshake_timeout_s": 120.0})
    authority = make_authority()
    members = [make_identity(authority, tmp_path, f"member{number}") for number in range(50)]
    async with open_party(make_identity(authority, tmp_path, "target"), config=config) as target:

        async def come(identity: Identity) -> None:
            async with open_party(identity, config=config, listen=False) as party:
                await party.pool.dial(target.address, timeout_s=120)
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(come, member)
            await until(lambda: len(target.up) == len(members))
            assert target.counters["net.connections_over_limit"] == 0
            nursery.cancel_scope.cancel()


async def test_many_half_finished_handshakes_are_all_given_back(tmp_path: Path) -> None:
    async with siege(tmp_path, limits={"handshake_timeout_s": 120.0}) as scene:
        raws = [await scene.connect(source=f"127.0.0.{10 + number}") for number in range(12)]
        for raw in raws:
            await raw.introduce(hello_of(scene.attacker))
        assert scene.pool._handshakes.count == 12
        await scene.serves_an_honest_member()
        for raw in raws:
            await raw.cut()
        await until(lambda: scene.count("net.handshakes_failed") == 12)


# ---------------------------------------------------------------------- the node as the dialer


async def hostile_server(scene: Siege, script: Any, **wrong: Any) -> MeshError:
    """What `register_node` raises when somebody hostile lives at that address."""
    options = {"chain": scene.attacker.cert_pem, "key": scene.attacker.key_pem, "server": True, **wrong}
    async with serve_hostile(hostile_context(scene.folder, **options), script) as address:
        with pytest.raises(MeshError) as caught, trio.fail_after(15):
            await scene.mesh.register_node(address)
    return caught.value


async def nothing(raw: Raw) -> None:
    await raw.fate()


@pytest.mark.parametrize("code", [CloseCode.REFUSED, CloseCode.OTHER_MESH, CloseCode.COPIED_KEY])
async def test_a_server_that_refuses_is_a_refused_error(tmp_path: Path, code: CloseCode) -> None:
    async def refuse(raw: Raw) -> None:
        await raw.receive_a(Hello)
        await raw.send(Close(code, "not you"))

    async with siege(tmp_path) as scene:
        error = await hostile_server(scene, refuse)
        assert isinstance(error, RefusedError)
        assert "not you" in str(error)


async def test_a_server_that_trusts_another_authority_is_a_refused_error(tmp_path: Path) -> None:
    other = make_identity(make_authority(), tmp_path, "other")
    async with siege(tmp_path) as scene, open_party(attrs.evolve(scene.attacker, trust_pem=other.trust_pem)) as party:
        for _ in range(10):
            with pytest.raises(RefusedError):
                await scene.mesh.register_node(party.address)
        assert not party.up


async def test_a_server_without_our_mesh_behind_it_is_a_refused_error(tmp_path: Path) -> None:
    other = make_identity(make_authority(), tmp_path, "other")
    async with siege(tmp_path) as scene:
        error = await hostile_server(scene, nothing, chain=other.cert_pem, key=other.key_pem)
        assert isinstance(error, RefusedError)


async def test_a_server_that_speaks_another_protocol_is_not_joined(tmp_path: Path) -> None:
    async with siege(tmp_path) as scene:
        error = await hostile_server(scene, nothing, alpn=None)
        assert isinstance(error, RemoteProtocolError)


async def test_a_server_that_goes_away_after_hello_is_unreachable(tmp_path: Path) -> None:
    async def leave(raw: Raw) -> None:
        await raw.receive_a(Hello)

    async with siege(tmp_path) as scene:
        assert isinstance(await hostile_server(scene, leave), UnreachableError)


async def test_a_server_with_a_proof_that_is_not_its_own_is_told_and_not_joined(tmp_path: Path) -> None:
    told: list[Close] = []

    async def pretend(raw: Raw) -> None:
        await raw.receive_a(Hello)
        await raw.send(hello_of(scene.attacker), Proof(bytes(64)))
        close = await raw.fate()
        assert close is not None
        told.append(close)

    async with siege(tmp_path) as scene:
        error = await hostile_server(scene, pretend)
        assert isinstance(error, RemoteProtocolError)
        assert error.code == CloseCode.REFUSED
        assert [close.code for close in told] == [CloseCode.REFUSED]


async def test_a_server_that_says_welcome_in_another_version_is_not_joined(tmp_path: Path) -> None:
    async def downgrade(raw: Raw) -> None:
        await raw.admit(scene.attacker, Welcome(0, None))
        await raw.fate()

    async with siege(tmp_path) as scene:
        error = await hostile_server(scene, downgrade, ca=scene.attacker.trust_pem)
        assert isinstance(error, RemoteProtocolError)
        assert "welcome" in str(error)
