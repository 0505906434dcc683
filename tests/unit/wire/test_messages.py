"""Messages: what each field is bounded to, which types are known where, and that we send only what peers take."""

from __future__ import annotations

from typing import Any

import attrs
import cbor2
import pytest

from bms.errors import LocalProtocolError, RemoteProtocolError
from bms.wire import messages as m
from bms.wire.fields import clip_text, is_topic

SIGNED = [b"body", b"signature"]
CARD = [SIGNED, SIGNED, b"details"]


def payload(*items: object) -> bytes:
    return cbor2.dumps(list(items), canonical=True)


def refused(*items: object, local: bool = False) -> bool:
    try:
        m.parse_message_untrusted(payload(*items), local=local)
    except RemoteProtocolError:
        return True
    return False


def test_a_note_says_what_it_is_on_the_wire() -> None:
    note = m.Note(id=1, boot=2, counter=3, topic="t", body=b"b", sent_at=4)
    assert m.encode_message(note) == payload(48, 1, 2, 3, "t", b"b", 4)
    assert m.frame_message(note) == b"\x00\x00\x00\x0b" + m.encode_message(note)
    assert m.parse_message_untrusted(m.encode_message(note)) == note


def test_messages_are_frozen_and_small() -> None:
    note = m.Ping(1, 2)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        note.time = 3  # type: ignore[misc]
    assert not hasattr(note, "__dict__")


def test_fields_behind_the_known_ones_are_ignored() -> None:
    assert m.parse_message_untrusted(payload(64, 1, 2, "new", [b"x"], {"k": None})) == m.Ping(1, 2)
    assert m.parse_message_untrusted(payload(1, 0, b"s" * 64, 7)) == m.Proof(b"s" * 64)


def test_a_field_that_is_missing_is_refused() -> None:
    assert refused(64, 1)
    assert refused(6)
    assert refused()


@pytest.mark.parametrize("wrong", [1, 2**64 - 1, -1, False, None, "0", b"", 0.0, []])
def test_where_no_id_is_expected_it_is_zero(wrong: object) -> None:
    assert not refused(16, 0, b"")
    assert refused(16, wrong, b"")


@pytest.mark.parametrize("number", [4, 5, 8, 15, 17, 31, 41, 47, 52, 63, 66, 79, 84, 95, 96, 127])
def test_an_unknown_type_below_128_is_refused(number: int) -> None:
    assert refused(number, 0)
    assert refused(number, 0, local=True)


@pytest.mark.parametrize("number", [128, 129, 255, 256, 2**64 - 1])
def test_an_unknown_type_from_128_up_is_ignored(number: int) -> None:
    for items in ([number, 0], [number, 2**64 - 1, "anything", [[]]]):
        assert m.parse_message_untrusted(payload(*items)) is None
        assert m.parse_message_untrusted(payload(*items), local=True) is None
    assert refused(number)
    wrong_ids: list[object] = [-1, True, None, "1", []]
    for wrong in wrong_ids:
        assert refused(number, wrong)


@pytest.mark.parametrize("number", [-1, -128, True, None, 64.0, "64", b"\x40", [64], {}, cbor2.undefined])
def test_a_type_is_an_unsigned_integer(number: object) -> None:
    assert refused(number, 1, 2)


@pytest.mark.parametrize("item", [None, 64, "ping", b"\x40", {}, {"type": 64}])
def test_a_message_is_an_array(item: object) -> None:
    with pytest.raises(RemoteProtocolError):
        m.parse_message_untrusted(cbor2.dumps(item))


def test_an_empty_payload_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        m.parse_message_untrusted(b"")


def test_messages_of_the_control_socket_are_unknown_on_a_link() -> None:
    for message in (
        m.Command(1, "nodes", {"a": [1, None]}),
        m.Result(1, {"k": -1.5}),
        m.Item(1, "line"),
        m.Failure(1, "ConfigError", "why", {"field": "port"}),
    ):
        data = m.encode_message(message)
        assert m.parse_message_untrusted(data, local=True) == message
        with pytest.raises(RemoteProtocolError):
            m.parse_message_untrusted(data)
        with pytest.raises(RemoteProtocolError):
            m.parse_message_untrusted(data, local=False)


def test_the_control_socket_knows_the_messages_of_links_too() -> None:
    assert m.parse_message_untrusted(m.encode_message(m.Ok(3)), local=True) == m.Ok(3)


# --- bounds: (message, field, fits, does not fit)

NOTE = m.Note(1, 2, 3, "topic", b"", 4)
REQUEST = m.Request(1, 2, 3, "topic", b"")
BROADCAST = m.Broadcast(1, "topic", b"", 4)
WELCOME = m.Welcome(1, None)
HELLO = m.Hello([1, 1], bytes(32), bytes(32), CARD, 1, 2, 0)
TOPIC_FITS = ["", "a" * 255, "ü" * 127, "a/b c", "€" * 85]
TOPIC_BEYOND = ["a" * 256, "ü" * 128, "€" * 86, "a\nb", "\x00", "\x7f", "a\x85", "a*"]

BOUNDS: list[tuple[Any, str, list[Any], list[Any]]] = [
    (NOTE, "topic", TOPIC_FITS, TOPIC_BEYOND),
    (REQUEST, "topic", TOPIC_FITS, TOPIC_BEYOND),
    (BROADCAST, "topic", TOPIC_FITS, TOPIC_BEYOND),
    (NOTE, "id", [0, 2**63 - 1], [-1, 2**63, 2**64 - 1, True, 1.0]),
    (NOTE, "counter", [0, 2**63 - 1], [-1, 2**63]),
    (NOTE, "body", [b"", b"x" * 100_000], ["text", [1], None]),
    (m.Sync(1, 2, 3, bytes(16)), "epoch", [0, 2**64 - 1], [-1]),
    (m.Sync(1, 2, 3, bytes(16)), "high", [0, 2**63 - 1], [-1, 2**63]),
    (m.Sync(1, 2, 3, bytes(16)), "fingerprint", [b"f" * 16], [b"f" * 15, b"f" * 17, b""]),
    (m.Error(1, "k", "t"), "kind", ["k" * 128, "ü" * 64], ["k" * 129, "ü" * 65, "a\x1bb"]),
    (m.Error(1, "k", "t"), "text", ["t" * 4096, "ü" * 2048, "two\nlines"], ["t" * 4097, "ü" * 2049]),
    (m.Close(1, "r"), "reason", ["", "r" * 4096], ["r" * 4097, "ü" * 2049]),
    (m.Close(1, "r"), "code", [0, 9, 10, 2**63 - 1], [-1, 2**63]),
    (m.Failure(1, "k", "t", {}), "kind", ["k" * 128], ["k" * 129]),
    (m.Failure(1, "k", "t", {}), "text", ["t" * 4096], ["t" * 4097]),
    (m.Failure(1, "k", "t", {}), "facts", [{"a": {"b": [1.5]}}], [{1: 2}, {b"a": 1}, [], None, {"a": {1: 2}}]),
    (m.Command(1, "v", {}), "verb", ["v" * 128], ["v" * 129, "\n"]),
    (m.Result(1, 2), "value", [None, -(2**64), 2**64 - 1, 0.5, "ü", {"a": []}], [{1: 2}, [{b"": 0}]]),
    (WELCOME, "observed", [None, ["h" * 255, 65535], ["::1", 0]], [["h" * 256, 1], ["ü" * 128, 1], ["h", 65536]]),
    (WELCOME, "observed", [["h", 1]], [["h"], ["h", 1, 2], [1, "h"], ["h", True], ["h\n", 1], "h", []]),
    (HELLO, "versions", [[0, 2**63 - 1]], [[1], [1, 2, 3], [1, -1], [True, True], None]),
    (HELLO, "mesh_id", [b"m" * 32], [b"m" * 31, b"m" * 33]),
    (HELLO, "card", [[[b"", b""], [b"", b""], b""]], [[SIGNED, SIGNED], [*CARD, b""], [SIGNED, b"", SIGNED], []]),
    (m.Proof(bytes(64)), "signature", [b"s" * 64], [b"s" * 63, b"s" * 65, None]),
    (m.Packet(b""), "payload", [b"x" * 1000], [None, "x", []]),
    (m.IdsGet(1, 2, 3, 4), "limit", [0, 2**63 - 1], [2**63]),
    (m.Ids(1, 2, [], 3, True), "done", [False], [0, 1, None]),
    (m.Ids(1, 2, [], 3, True), "hashes", [[b"h" * 32] * 1000], [[b"h" * 31], ["h" * 32], b"h" * 32, [None]]),
    (m.Chunks(1, []), "chunks", [[None, b"", b"c" * 300_000]], [[1], ["c"], [[b""]], b"", None]),
    (m.Entries(1, 0, [], []), "served", [5], [-1, None]),
    (m.Entries(1, 0, [], []), "admissions", [[SIGNED]], [[[b"", b"", b""]], [[b""]], [["", b""]], SIGNED]),
    (
        m.Push(1, 2, 3, [], []),
        "batches",
        [[[SIGNED, [[0, b"e", [b"h" * 32]]]]], [[SIGNED, [[5, b"", []], [4, b"", []]]]]],
        [
            [[SIGNED, []]],
            [[SIGNED]],
            [[SIGNED, [[0, b"e", []]], 1]],
            [[SIGNED, [[0, b"e"]]]],
            [[SIGNED, [[0, b"e", [], 1]]]],
            [[SIGNED, [[-1, b"e", []]]]],
            [[SIGNED, [[True, b"e", []]]]],
            [[SIGNED, [[0, "e", []]]]],
            [[SIGNED, [[0, b"e", [b"h" * 31]]]]],
            [[SIGNED, [[0, b"e", None]]]],
            [[[b""], [[0, b"e", []]]]],
            [SIGNED],
        ],
    ),
]


@pytest.mark.parametrize(
    ("message", "field", "fits", "beyond"), BOUNDS, ids=[f"{type(b[0]).__name__}.{b[1]}" for b in BOUNDS]
)
def test_a_field_is_taken_up_to_its_bound_and_refused_beyond_it(
    message: Any, field: str, fits: list[Any], beyond: list[Any]
) -> None:
    head = [message.TYPE] if hasattr(message, "id") else [message.TYPE, 0]
    for value in fits:
        good = attrs.evolve(message, **{field: value})
        assert m.parse_message_untrusted(m.encode_message(good), local=True) == good
    for value in beyond:
        # Past the constructor, which may convert: what matters is what reaches the wire and what comes from it.
        fields = {**attrs.asdict(message, recurse=False), field: value}
        assert refused(*head, *fields.values(), local=True), value
        bad = attrs.evolve(message)
        object.__setattr__(bad, field, value)
        with pytest.raises(LocalProtocolError):
            m.encode_message(bad)


@pytest.mark.parametrize("text", ["\ud800", "ok \udcff"])
def test_text_with_lone_surrogates_is_not_sent(text: str) -> None:
    for message in (attrs.evolve(NOTE, topic=text), m.Error(1, "k", text), m.Result(1, text), m.Result(1, {text: 1})):
        with pytest.raises(LocalProtocolError):
            m.encode_message(message)


def test_values_of_the_control_socket_may_be_as_deep_as_frames_allow() -> None:
    deepest: Any = 0
    for _ in range(15):
        deepest = [deepest]
    good = m.Result(1, deepest)
    assert m.parse_message_untrusted(m.encode_message(good), local=True) == good
    with pytest.raises(LocalProtocolError):
        m.encode_message(m.Result(1, [deepest]))
    assert refused(81, 1, [deepest], local=True)


def test_undefined_is_no_value_on_the_control_socket() -> None:
    assert not refused(81, 1, None, local=True)
    for value in (cbor2.undefined, [cbor2.CBORSimpleValue(5)], {"k": cbor2.undefined}):
        assert refused(81, 1, value, local=True)


def test_a_close_code_is_a_number_and_compares_with_its_name() -> None:
    close = m.parse_message_untrusted(m.encode_message(m.Close(m.CloseCode.REFUSED, "")))
    assert isinstance(close, m.Close)
    assert close.code == m.CloseCode.REFUSED
    assert type(m.Close(m.CloseCode.AT_LIMIT, "").code) is int


def test_an_error_names_the_message_and_the_field() -> None:
    with pytest.raises(RemoteProtocolError, match=r"Note: topic"):
        m.parse_message_untrusted(payload(48, 1, 2, 3, "t" * 256, b"", 4))
    with pytest.raises(LocalProtocolError, match=r"Note: topic"):
        m.encode_message(attrs.evolve(NOTE, topic="t" * 256))


def test_text_is_clipped_in_whole_characters() -> None:
    assert clip_text("short", 10) == "short"
    assert clip_text("€€€", 8) == "€€"
    assert clip_text("a\ud800b", 10) == "a?b"
    for size in range(12):
        assert len(clip_text("aü€😀z", size).encode()) <= size


def test_a_topic_can_be_checked_before_it_is_sent() -> None:
    assert all(map(is_topic, TOPIC_FITS))
    assert not any(map(is_topic, [*TOPIC_BEYOND, "\ud800"]))
