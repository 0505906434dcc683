"""Keys: the standards' own vectors, domains, libsodium's strictness, and nothing secret in what is printed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bms.security.keys import BoxKey, NodeKey, make_tls_key, private_pem, verify

RandomFrom = Callable[[str], Callable[[int], bytes]]

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture
def key(random_from: RandomFrom) -> NodeKey:
    return NodeKey.generate(random_from("key"))


def test_a_node_id_is_the_public_key_of_rfc_8032_section_7_1() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    expected = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert NodeKey.from_seed(seed).node_id == expected


def test_a_box_key_is_x25519_by_the_first_iteration_of_rfc_7748_section_5_2() -> None:
    expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert BoxKey(bytes([9]) + bytes(31)).public.hex() == expected


def test_a_signature_covers_domain_zero_byte_and_body(key: NodeKey) -> None:
    signature = key.sign("bms-test-v1", b"body")
    ed25519.Ed25519PublicKey.from_public_bytes(key.node_id.raw).verify(signature, b"bms-test-v1\x00body")


def test_a_signature_is_verified_only_under_its_own_domain_body_and_key(key: NodeKey, random_from: RandomFrom) -> None:
    signature = key.sign("bms-a-v1", b"body")
    assert verify(key.node_id.raw, "bms-a-v1", b"body", signature)
    assert not verify(key.node_id.raw, "bms-b-v1", b"body", signature)
    assert not verify(key.node_id.raw, "bms-a-v1", b"body2", signature)
    other = NodeKey.generate(random_from("other"))
    assert not verify(other.node_id.raw, "bms-a-v1", b"body", signature)


def test_what_moves_bytes_between_domain_and_body_is_no_longer_signed(key: NodeKey) -> None:
    assert not verify(key.node_id.raw, "bms-a", b"\x00body", key.sign("bms-a", b"body"))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_is_wrong(key: NodeKey, size: int) -> None:
    assert not verify(key.node_id.raw, "d", b"body", (key.sign("d", b"body") + bytes(1))[:size])


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_public_key_of_another_length_verifies_nothing(key: NodeKey, size: int) -> None:
    assert not verify((key.node_id.raw + bytes(1))[:size], "d", b"body", key.sign("d", b"body"))


def test_a_signature_with_s_above_the_order_is_wrong(key: NodeKey) -> None:
    signature = key.sign("d", b"body")
    larger = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    assert not verify(key.node_id.raw, "d", b"body", signature[:32] + larger.to_bytes(32, "little"))


def test_a_key_of_small_order_verifies_nothing() -> None:
    # With A and R the neutral element and S zero the bare equation S·B = R + k·A holds for every message.
    neutral = bytes([1]) + bytes(31)
    assert not verify(neutral, "d", b"anything", neutral + bytes(32))


def test_the_same_random_bytes_make_the_same_keys(random_from: RandomFrom) -> None:
    assert NodeKey.generate(random_from("x")).node_id == NodeKey.generate(random_from("x")).node_id
    assert BoxKey.generate(random_from("x")).public == BoxKey.generate(random_from("x")).public
    assert private_pem(make_tls_key(random_from("x"))) == private_pem(make_tls_key(random_from("x")))
    assert private_pem(make_tls_key(random_from("x"))) != private_pem(make_tls_key(random_from("y")))


@pytest.mark.parametrize("edge", [bytes(48), b"\xff" * 48])
def test_any_random_bytes_make_a_tls_key(edge: bytes) -> None:
    assert make_tls_key(lambda size: edge[:size]).key_size == 256


def test_secret_halves_do_not_show(key: NodeKey, random_from: RandomFrom) -> None:
    secret = random_from("box")(32)
    box = BoxKey(secret)
    shown = f"{key!r} {key} {box!r} {box}"
    assert key.private_key().private_bytes_raw().hex()[:8] not in shown
    assert secret.hex()[:8] not in shown
    assert key.node_id.short in shown


def test_private_keys_are_pkcs8_that_reads_back(key: NodeKey) -> None:
    text = private_pem(key.private_key())
    assert text.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    loaded = load_pem_private_key(text, None)
    assert isinstance(loaded, ed25519.Ed25519PrivateKey)
    assert NodeKey.from_seed(loaded.private_bytes_raw()).node_id == key.node_id
