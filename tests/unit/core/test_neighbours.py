"""What peers say of their links: taken apart strictly. And whose the nodes' own topics are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bms.errors import LocalProtocolError, RemoteProtocolError
from bms.neighbours import LINKS_MAX, RESERVED, TopologyLink, check_topic, parse_links_untrusted
from bms.values import NodeId
from bms.wire.codec import encode

ROW: list[Any] = [b"\x01" * 32, 1500, 250_000, 2500, True]


def test_links_are_read_with_their_units() -> None:
    (link, other) = parse_links_untrusted(encode([ROW, [b"\x02" * 32, None, None, 0, False, "a field of later"]]))
    assert link == TopologyLink(NodeId.of(b"\x01" * 32), 0.0015, 0.25, 2.5, True)
    assert other == TopologyLink(NodeId.of(b"\x02" * 32), None, None, 0.0, False)
    assert parse_links_untrusted(encode([])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        None, {}, [1], [[]], [ROW[:4]], [[b"short", *ROW[1:]]], [["text", *ROW[1:]]], [[*ROW[:4], 1]],
        [[ROW[0], -1, *ROW[2:]]], [[ROW[0], 1.5, *ROW[2:]]], [[ROW[0], True, *ROW[2:]]], [[*ROW[:3], None, True]],
        [[ROW[0], 1 << 60, *ROW[2:]]], [ROW] * (LINKS_MAX + 1), [[*ROW, bytes(200)]] * (LINKS_MAX // 2 + 1),
        [[*ROW, *[0] * 100]] * 500,
    ],
)  # fmt: skip
def test_answers_that_are_no_links_are_the_peers_fault(wrong: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_links_untrusted(encode(wrong))


@given(st.binary(max_size=200))
def test_any_bytes_are_links_or_the_peers_fault(data: bytes) -> None:
    try:
        parse_links_untrusted(data)
    except RemoteProtocolError:
        pass


def test_topics_of_the_nodes_are_not_the_programs() -> None:
    with pytest.raises(LocalProtocolError):
        check_topic(RESERVED + "links")
    for topic in ("", "bms/links", "$bms", "x$bms/links"):
        check_topic(topic)
