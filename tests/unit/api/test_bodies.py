"""Paths, queries, JSON and conditions of requests: what is read, byte for byte, and what is refused."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bms.api.bodies import (
    JSON_DEPTH_MAX,
    JSON_VALUES_MAX,
    NUMBER_DIGITS_MAX,
    Condition,
    convert_untrusted,
    parse_condition_untrusted,
    parse_json_untrusted,
    parse_query_untrusted,
    split_path_untrusted,
    unquote_untrusted,
)
from bms.errors import RemoteProtocolError

# ---------------------------------------------------------------------- paths and queries


@given(st.binary(max_size=64))
def test_percent_encoded_bytes_come_back_as_they_were(raw: bytes) -> None:
    assert unquote_untrusted(b"".join(b"%%%02X" % byte for byte in raw)) == raw


@pytest.mark.parametrize("wrong", [b"%", b"a%2", b"%zz", b"%%41", b"%+1", b"% 1"])
def test_a_percent_sign_without_two_digits_is_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unquote_untrusted(wrong)


def test_a_path_is_split_before_it_is_decoded() -> None:
    assert split_path_untrusted(b"/api/v1/a%20b/..") == ["api", "v1", "a b", ".."]
    assert split_path_untrusted(b"//x/") == ["", "x", ""]


@pytest.mark.parametrize("wrong", [b"/a%2Fb", b"/a%5cb", b"/%00", b"/%ff", b"/a%0a", b"/%c0%af"])
def test_a_part_of_a_path_holds_no_slash_control_character_or_broken_utf8(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        split_path_untrusted(wrong)


def test_a_query_keeps_bytes_that_are_no_utf8() -> None:
    found = parse_query_untrusted(b"prefix=%ff%00a+b&limit=5&empty")
    assert found["prefix"].encode("utf-8", "surrogateescape") == b"\xff\x00a b"
    assert found["limit"] == "5"
    assert found["empty"] == ""


@pytest.mark.parametrize("wrong", [b"a=1&a=2", b"a=%", b"&".join(b"p%d=1" % n for n in range(65))])
def test_a_query_with_a_doubled_name_a_bad_escape_or_too_many_parameters_is_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_query_untrusted(wrong)


# ---------------------------------------------------------------------- JSON


_texts = st.text(st.characters(exclude_categories=["Cs"]))
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_texts, inner),
    max_leaves=20,
)  # fmt: skip


@given(_values, st.booleans())
def test_any_json_value_is_read_as_it_was_written(value: object, ascii_only: bool) -> None:
    assert parse_json_untrusted(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    "wrong",
    [
        b"", b"{", b"nul", b"[1,]", b'{"a":1,"a":2}', b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b'"\xff"',
        b"\xef\xbb\xbf{}", b'"\\ud800"', b'"\\udc00"', b'["\\uDFFF"]', b'{"\\udfff\\ud800":1}',
        b"1" * (NUMBER_DIGITS_MAX + 1), b"0." + b"1" * (NUMBER_DIGITS_MAX + 1), b"[1] [2]",
        "\ufeff{}".encode("utf-16"), b"{'a':1}",
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_json_untrusted(wrong)


@pytest.mark.parametrize("opener", [b"[", b'{"a":'])
def test_json_has_a_bounded_depth(opener: bytes) -> None:
    closer = b"]" if opener == b"[" else b"}"
    assert parse_json_untrusted(opener * JSON_DEPTH_MAX + b"1" + closer * JSON_DEPTH_MAX) is not None
    for depth in (JSON_DEPTH_MAX + 1, 200_000):
        with pytest.raises(RemoteProtocolError, match="deep"):
            parse_json_untrusted(opener * depth + b"1" + closer * depth)
        with pytest.raises(RemoteProtocolError):
            parse_json_untrusted(opener * depth)


def test_brackets_inside_texts_are_no_depth() -> None:
    text = '[{"\\' * 1000
    assert parse_json_untrusted(json.dumps([text, text]).encode()) == [text, text]


def test_json_has_a_bounded_number_of_values() -> None:
    with pytest.raises(RemoteProtocolError, match="values"):
        parse_json_untrusted(b"[" + b"[]," * JSON_VALUES_MAX + b"1]")
    with pytest.raises(RemoteProtocolError, match="values"):
        parse_json_untrusted(b"[" + b"1," * JSON_VALUES_MAX + b"1]")


@pytest.mark.parametrize(
    "heavy",
    [b'"' + b"\\n" * 4_000_000, b'["' + b'\\"' * 4_000_000 + b'"' + b"]" * 40, b"[" * 8_000_000, b"9" * 8_000_000],
    ids=["escapes", "quotes", "brackets", "digits"],
)
def test_no_body_of_8_mib_takes_long_to_read(heavy: bytes) -> None:
    began = time.process_time()
    with pytest.raises(RemoteProtocolError):
        parse_json_untrusted(heavy)
    assert time.process_time() - began < 5


class _Shape(msgspec.Struct, forbid_unknown_fields=True):
    number: float = 1.0
    text: str | None = None


def test_values_are_converted_by_their_type() -> None:
    assert convert_untrusted({"number": 2}, _Shape).number == 2.0
    assert convert_untrusted({"number": "2.5"}, _Shape, strict=False).number == 2.5


@pytest.mark.parametrize(
    "wrong", [{"number": "2"}, {"other": 1}, [1], {"number": True}, {"number": 10**400}, {"text": 5}, None]
)
def test_what_does_not_fit_its_type_is_refused(wrong: object) -> None:
    with pytest.raises(RemoteProtocolError):
        convert_untrusted(wrong, _Shape)


# ---------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("match", "none_match", "current", "allowed"),
    [
        (None, None, "v1", True),
        (None, None, None, True),
        ('"v1"', None, "v1", True),
        ('"v1"', None, "v2", False),
        ('"v1"', None, None, False),
        ('"v0", "v1"', None, "v1", True),
        ("*", None, "v1", True),
        ("*", None, None, False),
        ('W/"v1"', None, "v1", False),
        (None, "*", "v1", False),
        (None, "*", None, True),
        (None, '"v1"', "v1", False),
        (None, 'W/"v1"', "v1", False),
        (None, '"v1"', "v2", True),
        ('"v1"', '"v2"', "v1", True),
        ('"v1"', '"v1"', "v1", False),
    ],
)
def test_conditions_follow_rfc_9110(
    match: str | None, none_match: str | None, current: str | None, allowed: bool
) -> None:
    assert parse_condition_untrusted(match, none_match).allows(current) is allowed


def test_a_request_without_conditions_sets_none() -> None:
    assert not parse_condition_untrusted(None, None).is_set
    assert Condition(match=frozenset(), match_any=True).is_set


@pytest.mark.parametrize("wrong", ["v1", '"v1', '"v1" "v2"', "", '"a",,"b"', "*,*", '"v1"x'])
def test_a_condition_that_is_no_list_of_tags_is_refused(wrong: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_condition_untrusted(wrong, None)
