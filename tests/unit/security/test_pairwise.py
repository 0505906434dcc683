"""Sealed packets by themselves: what the key is bound to, what a changed byte does, what is not even looked into."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nacl import bindings
from sealed import MESH_ID, Member

from bms.errors import RemoteProtocolError
from bms.security.keys import BoxKey
from bms.security.pairwise import (
    COUNTER_MAX,
    OVERHEAD_BYTES,
    PACKET_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    WINDOW,
    Drop,
    End,
    Header,
    ReplayWindow,
    derive_key,
    open_untrusted,
    read_header_untrusted,
    seal,
)

A, B = Member("a"), Member("b")
PAYLOAD = b"ping 7"

# All X25519 public keys of small order (RFC 7748 section 7; the list is libsodium's), those beyond 2^255-19 included.
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def end(member: Member) -> End:
    return End(member.node_id.raw, member.record.boot_id, member.box_keys[0].public)


def key_of(sender: Member, receiver: Member, own: BoxKey | None = None) -> bytes:
    return derive_key(MESH_ID, own or sender.box_keys[0], end(sender), end(receiver))


KEY = key_of(A, B)
PACKET = seal(KEY, end(A), 5, PAYLOAD)


def open_packet(key: bytes, packet: bytes) -> bytes | Drop | None:
    header = read_header_untrusted(packet)
    return header if isinstance(header, Drop) else open_untrusted(key, header.counter, packet)


def test_both_ends_derive_the_same_key_and_each_direction_has_its_own() -> None:
    assert key_of(A, B, own=B.box_keys[0]) == KEY
    assert key_of(B, A) == key_of(B, A, own=A.box_keys[0]) != KEY


def test_the_packet_is_as_the_format_says_by_other_libraries() -> None:
    shared = bindings.crypto_scalarmult(A.box_keys[0].private_key().private_bytes_raw(), B.box_keys[0].public)
    extracted = hmac.digest(A.record.boot_id + B.record.boot_id, shared, "sha256")
    info = b"bms-datagram-v1\x00" + MESH_ID + A.node_id.raw + B.node_id.raw
    info += A.box_keys[0].public + B.box_keys[0].public
    key = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    header = b"\x01" + A.node_id.raw + A.record.boot_id[:8] + (5).to_bytes(8, "big")
    cipher = Cipher(algorithms.AES(key), modes.GCM(bytes(4) + (5).to_bytes(8, "big"))).encryptor()
    cipher.authenticate_additional_data(header)
    assert header + cipher.update(PAYLOAD) + cipher.finalize() + cipher.tag == PACKET
    assert read_header_untrusted(PACKET) == Header(A.node_id.raw, A.record.boot_id[:8], 5)


@pytest.mark.parametrize("size", [0, 1, PAYLOAD_BYTES_MAX])
@pytest.mark.parametrize("counter", [1, 2**32, COUNTER_MAX])
def test_payloads_and_counters_come_through_up_to_their_bounds(size: int, counter: int) -> None:
    payload = bytes(range(256)) * 5
    packet = seal(KEY, end(A), counter, payload[:size])
    assert len(packet) == OVERHEAD_BYTES + size <= PACKET_BYTES_MAX
    assert open_packet(KEY, packet) == payload[:size]


def test_the_key_is_bound_to_everything_that_says_who_speaks_to_whom() -> None:
    own, a, b = A.box_keys[0], end(A), end(B)
    other = end(Member("c"))
    keys = [
        KEY,
        derive_key(hashlib.sha256(b"another mesh").digest(), own, a, b),
        derive_key(MESH_ID, own, b, a),
        derive_key(MESH_ID, own, a._replace(node_id=other.node_id), b),
        derive_key(MESH_ID, own, a._replace(boot_id=other.boot_id), b),
        derive_key(MESH_ID, own, a, b._replace(node_id=other.node_id)),
        derive_key(MESH_ID, own, a, b._replace(boot_id=other.boot_id)),
        derive_key(MESH_ID, own, a, b._replace(box_key=other.box_key)),
        derive_key(MESH_ID, Member("c").box_keys[0], a._replace(box_key=other.box_key), b),
    ]
    assert len(set(keys)) == len(keys)
    assert [open_packet(key, PACKET) for key in keys] == [PAYLOAD] + [None] * (len(keys) - 1)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_a_box_key_that_gives_no_secret_is_refused(point: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        derive_key(MESH_ID, A.box_keys[0], end(A), end(B)._replace(box_key=point))


def test_a_flipped_bit_in_any_byte_is_found() -> None:
    for place in range(len(PACKET)):
        for bit in range(8):
            changed = bytearray(PACKET)
            changed[place] ^= 1 << bit
            assert open_packet(KEY, bytes(changed)) in (None, Drop.VERSION, Drop.COUNTER), (place, bit)


def test_a_packet_cut_or_prolonged_anywhere_does_not_open() -> None:
    assert {open_packet(KEY, PACKET[:size]) for size in range(OVERHEAD_BYTES)} == {Drop.SHORT}
    assert {open_packet(KEY, PACKET[:size]) for size in range(OVERHEAD_BYTES, len(PACKET))} == {None}
    assert open_packet(KEY, PACKET + b"\x00") is None
    assert open_packet(KEY, PACKET + bytes(PACKET_BYTES_MAX)) is Drop.OVERSIZED


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_not_looked_into(version: int) -> None:
    assert open_packet(KEY, bytes([version]) + PACKET[1:]) is Drop.VERSION


@pytest.mark.parametrize("counter", [0, COUNTER_MAX + 1, 2**64 - 1])
def test_a_counter_that_no_sender_uses_is_not_looked_into(counter: int) -> None:
    assert open_packet(KEY, PACKET[:41] + counter.to_bytes(8, "big") + PACKET[49:]) is Drop.COUNTER


def test_the_window_made_with_a_highest_counter_takes_nothing_up_to_it() -> None:
    window = ReplayWindow(5000)
    assert not any(window.is_new(counter) for counter in (1, 5000 - WINDOW, 4999, 5000))
    assert window.is_new(5001)
    window.take(5001)
    assert not window.is_new(4990)
    window.take(5003)
    assert window.is_new(5002)
