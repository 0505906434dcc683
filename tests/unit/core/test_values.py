"""Values read and print themselves, and say what is wrong with what is no value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bms.errors import LocalProtocolError
from bms.values import Address, NodeId, NodeState, key_bytes


@given(st.binary(min_size=32, max_size=32))
def test_a_node_id_is_text_and_gives_its_bytes_back(raw: bytes) -> None:
    node_id = NodeId.of(raw)
    assert node_id == raw.hex()
    assert node_id.raw == raw
    assert node_id.short == raw.hex()[:8]


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, " " + "0" * 63])
def test_what_is_no_node_id_is_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="64 lower-case"):
        NodeId(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:0", "::1", 0), ("a.example:65535", "a.example", 65535)],
)
def test_an_address_is_read_and_printed_alike(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address(host, port)) == text


@pytest.mark.parametrize("text", ["", ":80", "host", "host:", "host:x", "host:65536", "::1:80", "host:-1", "host:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        Address.parse(text)


def test_a_state_compares_and_prints_as_its_text() -> None:
    assert NodeState("alive") is NodeState.ALIVE
    assert {NodeState.ALIVE: 1}["alive"] == 1  # type: ignore[index]  # a dictionary of theirs takes our text
    assert f"{NodeState.LEFT}" == "left"


def test_keys_are_bytes_and_text_is_their_utf8() -> None:
    assert key_bytes("ä") == "ä".encode() == key_bytes("ä".encode())
    assert key_bytes(b"\xff".decode("utf-8", "surrogateescape")) == b"\xff"
    for bad in ("", b"", "x" * 1025):
        with pytest.raises(LocalProtocolError, match="1 to 1024"):
            key_bytes(bad)
