"""CBOR as bms reads and writes it: what RFC 8949 allows and formats.md does not is refused, by both readers."""

from __future__ import annotations

import datetime
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from bms.errors import LocalProtocolError, RemoteProtocolError
from bms.wire.codec import (
    DEPTH_MAX,
    check_items_untrusted,
    decode_body_untrusted,
    decode_fields_untrusted,
    decode_untrusted,
    encode,
    is_plain,
)

READERS = [decode_untrusted, decode_body_untrusted, decode_fields_untrusted]
each_reader = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)

# Each stands inside an array of one item, so that all three readers would otherwise take it.
REFUSED_EVERYWHERE = {
    "nothing": "",
    "a tag (date)": "c074323031332d30332d32315432303a30343a30305a",
    "a tag (big number)": "c249010000000000000000",
    "a tag (negative big number)": "c349010000000000000000",
    "a tag (regular expression)": "d8236161",
    "a tag (e-mail)": "d8246161",
    "a tag (shared value)": "d81c80",
    "a tag (reference to itself)": "d81c81d81d00",
    "a tag (string reference)": "d90100820061",
    "a tag (set)": "d9010280",
    "a tag (CBOR itself)": "d9d9f701",
    "a tag nobody knows": "d9270f01",
    "a tag of 64 bits": "dbffffffffffffffff01",
    "an indefinite array": "9fff",
    "an indefinite map": "bfff",
    "indefinite bytes": "5f4161ff",
    "indefinite text": "7f6161ff",
    "a break": "ff",
    "a duplicate text key": "a261610161" + "6102",
    "a duplicate bytes key": "a241610141" + "6102",
    "a float key": "a1f93c0001",
    "a NaN key": "a1f97e0001",
    "a bool key": "a1f501",
    "a null key": "a1f601",
    "an undefined key": "a1f701",
    "an array key": "a1800001",
    "a map key": "a1a00001",
    "a reserved head (integer)": "1c",
    "a reserved head (bytes)": "5d",
    "a reserved head (array)": "9e",
    "a reserved head (map)": "bc",
    "a reserved head (simple)": "fc",
    "a simple value in two bytes that has one": "f814",
    "a reserved simple value": "f818",
    "text that is not UTF-8": "61ff",
    "text with a lone surrogate": "63eda080",
    "text in an overlong form": "62c080",
    "a head cut off": "19ff",
    "bytes cut off": "426f",
    "text cut off": "626f",
    "an array cut off": "8201",
    "a map cut off": "a26161016162",
    "a float cut off": "fb3ff1",
}


@each_reader
@pytest.mark.parametrize("hostile", REFUSED_EVERYWHERE.values(), ids=REFUSED_EVERYWHERE.keys())
def test_what_formats_forbid_is_refused(read: Callable[[bytes], Any], hostile: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read(b"\x81" + bytes.fromhex(hostile))


@each_reader
def test_every_tag_is_refused_wherever_it_stands(read: Callable[[bytes], Any]) -> None:
    for tag in [*range(300), 1000, 1004, 43000, 55799, 2**16 - 1, 2**32, 2**64 - 1]:
        head = b"\xdb" + tag.to_bytes(8, "big")
        for content in (b"\x00", b"\x40", b"\x60", b"\x80", b"\xa0"):
            for place in (b"\x81%s", b"\x81\xa1\x60%s", b"\x81\xa1%s\x00", b"\x82\x80%s"):
                with pytest.raises(RemoteProtocolError):
                    read(place % (head + content))


@each_reader
@pytest.mark.parametrize("behind", [b"\x00", b"\x81\x00", b"\xff", b"x" * 70_000])
def test_bytes_behind_the_item_are_refused(read: Callable[[bytes], Any], behind: bytes) -> None:
    assert read(b"\x81\x05") == [5]
    with pytest.raises(RemoteProtocolError):
        read(b"\x81\x05" + behind)


@each_reader
@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x60"], ids=["arrays", "maps"])
def test_nesting_ends_at_sixteen(read: Callable[[bytes], Any], opening: bytes) -> None:
    read(b"\x81" + opening * (DEPTH_MAX - 1) + b"\x00")
    for depth in (DEPTH_MAX, 100_000):
        with pytest.raises(RemoteProtocolError):
            read(b"\x81" + opening * depth + b"\x00")


@each_reader
@pytest.mark.parametrize("size", [2**16, 2**31 - 1, 2**32, 2**60, 2**63, 2**64 - 1])
@pytest.mark.parametrize("major", [2, 3, 4, 5], ids=["bytes", "text", "array", "map"])
def test_a_length_that_is_only_declared_costs_nothing(read: Callable[[bytes], Any], major: int, size: int) -> None:
    data = bytes([major << 5 | 27]) + size.to_bytes(8, "big")
    for nested in (data, b"\x81" + data, data * 15):
        tracemalloc.start()
        try:
            with pytest.raises(RemoteProtocolError):
                read(nested)
            assert tracemalloc.get_traced_memory()[1] < 200_000
        finally:
            tracemalloc.stop()


@each_reader
def test_what_is_not_an_array_is_no_body_and_no_message(read: Callable[[bytes], Any]) -> None:
    for item in (1, "text", b"bytes", None, True, {"a": 1}):
        if read is decode_untrusted:
            assert read(encode(item)) == item
        else:
            with pytest.raises(RemoteProtocolError):
                read(encode(item))


@pytest.mark.parametrize("simple", ["f7", "e0", "f0", "f3", "f820", "f8ff"])
def test_undefined_and_simple_values_are_refused_but_where_the_caller_checks_types(simple: str) -> None:
    data = b"\x81" + bytes.fromhex(simple)
    for read in (decode_untrusted, decode_body_untrusted):
        with pytest.raises(RemoteProtocolError):
            read(data)
    assert not is_plain(decode_fields_untrusted(data))


def test_an_error_quotes_no_more_than_a_line_of_what_was_sent() -> None:
    key = cbor2.dumps("\x1b[2J\n" + "x" * 100_000)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_fields_untrusted(b"\x81\xa2" + key + b"\x00" + key + b"\x00")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


# --- the deterministic encoding (RFC 8949 section 4.2.1)

NOT_SHORTEST = {
    "a number in two bytes for one": "1817",
    "a number in three bytes for two": "1900ff",
    "a number in five bytes for three": "1a0000ffff",
    "a number in nine bytes for five": "1b00000000ffffffff",
    "a negative number": "3817",
    "a length of bytes": "580161",
    "a length of text": "780161",
    "a length of an array": "980100",
    "a length of a map": "b801616100",
    "a float of eight bytes for two": "fb3ff8000000000000",
    "a float of four bytes for two": "fa3fc00000",
    "a float of eight bytes for four": "fb40f86a0000000000",
    "a NaN of its own": "f97e01",
    "a NaN of eight bytes": "fb7ff8000000000000",
    "text keys out of order": "a26162006161" + "00",
    "a longer text key before a shorter one": "a2626161006162" + "00",
    "number keys out of order": "a202000100",
    "text before a number": "a26161000100",
    "RFC 7049's order of text and bytes": "a2616100426161" + "00",
}


@pytest.mark.parametrize("encoding", NOT_SHORTEST.values(), ids=NOT_SHORTEST.keys())
def test_a_body_in_any_other_encoding_is_refused_and_read_elsewhere(encoding: str) -> None:
    data = b"\x81" + bytes.fromhex(encoding)
    with pytest.raises(RemoteProtocolError):
        decode_body_untrusted(data)
    decode_untrusted(data)


@pytest.mark.parametrize(
    ("item", "encoding"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-(2**64), "3bffffffffffffffff"),
        (b"\x01\x02", "420102"),
        ("ü", "62c3bc"),
        ((1, [2]), "82018102"),
        ({"b": 1, "aa": 2, "a": 3}, "a3616103616201626161" + "02"),
        ({1000: 1, 0: 2, 24: 3}, "a300021818031903e801"),
        (False, "f4"),
        (True, "f5"),
        (None, "f6"),
        (1.5, "f93e00"),
        (100000.0, "fa47c35000"),
        (1.1, "fb3ff199999999999a"),
        (math.inf, "f97c00"),
        (-0.0, "f98000"),
        (math.nan, "f97e00"),
    ],
)
def test_encoding_is_the_deterministic_one(item: object, encoding: str) -> None:
    assert encode(item).hex() == encoding
    assert encode([item]) == b"\x81" + bytes.fromhex(encoding)
    decode_body_untrusted(encode([item]))


def test_a_body_may_have_maps_keyed_by_numbers() -> None:
    body = [1, "x", {0: b"a", 24: [1], 64: {"k": None}, 2**63: {}}]
    assert decode_body_untrusted(encode(body)) == body
    assert decode_untrusted(encode(body)) == body


def test_keys_of_several_kinds_are_read_in_bytewise_order() -> None:
    mixed = bytes.fromhex("a40100200042616100616100")
    assert decode_body_untrusted(b"\x81" + mixed) == [{1: 0, -1: 0, b"aa": 0, "a": 0}]


@pytest.mark.parametrize(
    "item",
    [
        2**64,
        -(2**64) - 1,
        "\ud800",
        {1, 2},
        frozenset(),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        bytearray(b"x"),
        1j,
        object(),
        cbor2.CBORTag(1, 1),
        cbor2.undefined,
        {1: 0, "a": 0},
        {-1: 0},
        {b"a": 0},
        {True: 0},
        {1.0: 0},
        {(1,): 0},
        {2**64: 0},
    ],
    ids=repr,
)
def test_what_readers_would_refuse_is_not_encoded(item: object) -> None:
    for holder in (item, [item], {"k": [item]}):
        with pytest.raises(LocalProtocolError):
            encode(holder)


def test_what_is_nested_too_deep_is_not_encoded() -> None:
    item: list[Any] = []
    for _ in range(DEPTH_MAX - 1):
        item = [item]
    assert decode_body_untrusted(encode(item)) == item
    with pytest.raises(LocalProtocolError):
        encode([item])
    with pytest.raises(LocalProtocolError):
        encode({"k": item})


# ---------------------------------------------------------------------- how many items

# One item of each kind and form, and what it takes.
FORMS = {
    "integers": [0, 23, 24, 300, 70_000, 2**40, -1, -300, -(2**63)],
    "bytes": [bytes(size) for size in (0, 1, 23, 24, 255, 256, 70_000)],
    "text": ["x" * size for size in (0, 1, 23, 24, 255, 256, 70_000)],
    "simple": [None, True, False, 0.5, 1.1, 1e300],
    "arrays": [[], [[]], [[1, 2], []], list(range(30)), list(range(300))],
    "maps": [{}, {"a": 1}, {"a": {"b": [1]}}, {str(number): number for number in range(300)}],
}


def count(item: object) -> int:
    if isinstance(item, list):
        return 1 + sum(map(count, item))
    if isinstance(item, dict):
        return 1 + sum(count(key) + count(value) for key, value in item.items())
    return 1


@pytest.mark.parametrize("parts", FORMS.values(), ids=FORMS)
def test_items_of_every_form_are_counted_as_what_they_are(parts: list[Any]) -> None:
    items = count([parts, b"", "end"])
    bare = len(encode([parts, bytes(70_000), "end"])) - 70_000
    each = (bare + 70_000) // items + 1
    exact = items * each - bare
    check_items_untrusted(encode([parts, bytes(exact), "end"]), each)
    with pytest.raises(RemoteProtocolError, match=f"more than {items - 1} items"):
        check_items_untrusted(encode([parts, bytes(exact - 1), "end"]), each)


def test_a_million_items_cost_little_before_they_are_refused() -> None:
    for head in (b"\x00", b"\x80", b"\xa0", b"\x60", b"\x41a", b"\xf6"):
        data = b"\x9a\x00\x0f\x00\x00" + head * 0xF0000
        tracemalloc.start()
        with pytest.raises(RemoteProtocolError, match="items"):
            check_items_untrusted(data, 16)
        assert tracemalloc.get_traced_memory()[1] < 100_000
        tracemalloc.stop()


def test_what_is_short_may_hold_as_many_as_it_likes() -> None:
    check_items_untrusted(encode([0] * 16_000), 16)


@pytest.mark.parametrize("end", ["ff", "1c", "58", "5b7fffffffffffffff", "5bffffffffffffffff", "9f", "9a00", ""])
def test_what_is_malformed_is_left_to_the_reader(end: str) -> None:
    data = b"\x83" + encode(bytes(20_000)) + bytes.fromhex(end)
    check_items_untrusted(data, 16)
    with pytest.raises(RemoteProtocolError, match="CBOR"):
        decode_fields_untrusted(data)
