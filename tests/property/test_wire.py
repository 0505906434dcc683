"""The wire border under arbitrary bytes: only RemoteProtocolError, one reading whatever the cuts, round trips."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bms.errors import LocalProtocolError, RemoteProtocolError
from bms.wire import messages as m
from bms.wire.codec import decode_body_untrusted, decode_fields_untrusted, decode_untrusted, encode, is_plain
from bms.wire.fields import clip_text
from bms.wire.framing import FrameReader, frame

VECTORS = [
    bytes.fromhex(json.loads(path.read_text(encoding="utf-8"))["hex"])
    for path in sorted((Path(__file__).parents[1] / "vectors" / "messages").glob("*.json"))
]
PARSERS: list[Callable[[bytes], Any]] = [
    decode_untrusted,
    decode_body_untrusted,
    decode_fields_untrusted,
    m.parse_message_untrusted,
    lambda data: m.parse_message_untrusted(data, local=True),
]

INTEGERS = st.integers(-(2**64), 2**64 - 1)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | st.binary() | st.text()
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.dictionaries(st.integers(0, 2**64 - 1), inner, max_size=4)
    ),
    max_leaves=12,
)
# Bytes that are nearly CBOR: heads of every kind with arguments that now and then fit.
HEADS = st.builds(
    lambda major, info, argument: bytes([major << 5 | info]) + argument,
    st.integers(0, 7),
    st.sampled_from([*range(6), 20, 21, 22, 23, 24, 25, 26, 27, 28, 31]),
    st.binary(max_size=8),
)
NEARLY_CBOR = st.lists(HEADS, max_size=12).map(b"".join)


def outcome(parse: Callable[[bytes], Any], data: bytes) -> Any:
    """What a parser returns, or RemoteProtocolError; everything else it raises fails the test."""
    try:
        return parse(data)
    except RemoteProtocolError:
        return RemoteProtocolError


@given(st.binary() | NEARLY_CBOR | NEARLY_CBOR.map(lambda data: b"\x86\x18\x30" + data))
def test_arbitrary_bytes_raise_nothing_but_the_peers_error(data: bytes) -> None:
    for parse in PARSERS:
        outcome(parse, data)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid message with some bytes changed, inserted, cut out or doubled."""
    data = bytearray(draw(st.sampled_from(VECTORS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                data[at:at] = draw(HEADS)
            case 2:
                del data[at : at + draw(st.integers(1, 9))]
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 9))]
    return bytes(data)


@given(damaged())
def test_a_damaged_message_is_refused_or_is_another_that_can_be_sent(data: bytes) -> None:
    for parse in PARSERS[:3]:
        outcome(parse, data)
    message = outcome(PARSERS[4], data)
    if message not in (None, RemoteProtocolError):
        again = m.encode_message(message)
        assert m.encode_message(m.parse_message_untrusted(again, local=True)) == again  # type: ignore[arg-type]


@pytest.mark.parametrize("data", VECTORS, ids=bytes.hex)
def test_a_message_cut_off_anywhere_is_refused(data: bytes) -> None:
    for size in range(len(data)):
        assert outcome(PARSERS[4], data[:size]) is RemoteProtocolError


@given(PLAIN)
def test_a_plain_item_survives_its_encoding(item: Any) -> None:
    data = encode(item)
    assert same(decode_untrusted(data), item)
    assert same(decode_body_untrusted(encode([item])), [item])


@given(PLAIN | st.recursive(SCALARS | st.just(object()), lambda inner: st.dictionaries(SCALARS, inner, max_size=2)))
def test_an_item_is_encoded_exactly_if_it_is_plain(item: Any) -> None:
    try:
        data = encode(item)
    except LocalProtocolError:
        assert not is_plain(item)
    else:
        assert is_plain(item)
        decode_untrusted(data)


def same(one: Any, other: Any) -> bool:
    """Equal with equal types, all the way down; NaN is NaN and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(part, other[key]) for key, part in one.items())
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    return bool(one == other)


def with_text_keys_only(item: Any) -> bool:
    return is_plain(item, number_keys=False)


@given(NEARLY_CBOR.map(lambda data: b"\x83" + data) | damaged() | PLAIN.map(lambda item: cbor2.dumps([item])))
@example(b"\x81\xa2\x61b\x00\x61a\x00")
def test_both_readers_read_the_same(data: bytes) -> None:
    mine, fast = outcome(decode_untrusted, data), outcome(decode_fields_untrusted, data)
    if fast is not RemoteProtocolError and with_text_keys_only(fast):
        assert same(mine, fast)
    if mine is not RemoteProtocolError and type(mine) is list and with_text_keys_only(mine):
        assert same(fast, mine)


@given(NEARLY_CBOR.map(lambda data: b"\x83" + data) | PLAIN.map(lambda item: cbor2.dumps([item])) | damaged())
def test_a_body_has_one_encoding(data: bytes) -> None:
    body, item = outcome(decode_body_untrusted, data), outcome(decode_untrusted, data)
    if body is not RemoteProtocolError:
        assert same(body, item)
    if item is not RemoteProtocolError and type(item) is list and is_plain(item):
        assert (body is not RemoteProtocolError) == (encode(item) == data)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=12), st.data())
def test_frames_are_the_same_however_the_stream_is_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = FrameReader(frame_bytes_max=300)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
        assert reader.held_bytes < 304
    assert found == payloads
    assert reader.held_bytes == 0


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_arbitrary_streams_give_payloads_within_the_limit_or_end(pieces: list[bytes]) -> None:
    reader = FrameReader(frame_bytes_max=16)
    for piece in pieces:
        found = outcome(reader.feed, piece)
        if found is RemoteProtocolError:
            assert outcome(reader.feed, b"\x00") is RemoteProtocolError
            return
        assert all(0 < len(payload) <= 16 for payload in found)
        assert reader.held_bytes < 20


@given(st.text(st.characters()) | st.text(), st.integers(0, 60))
def test_clipped_text_fits_and_is_a_beginning(text: str, bytes_max: int) -> None:
    clipped = clip_text(text, bytes_max)
    assert len(clipped.encode()) <= bytes_max
    whole = text.encode("utf-8", "replace").decode()
    assert whole.startswith(clipped)
    assert clipped == whole or len(whole[: len(clipped) + 1].encode()) > bytes_max
