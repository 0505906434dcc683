"""The nearest nodes by round trip, by NodeId and by position."""

from __future__ import annotations

import random

import pytest

from bms.membership.coordinates import Coordinate
from bms.membership.nearest import by_rtt, by_space, by_xor, position_of
from bms.values import Node, NodeId, NodeState


def node(number: int, **tags: str) -> Node:
    return Node(NodeId.of(number.to_bytes(32, "big")), f"n{number}", None, NodeState.ALIVE, tags)


def at(x: float) -> Coordinate:
    return Coordinate((x, *[0.0] * 7), height=0.001)


def test_the_shortest_round_trip_comes_first_and_the_unknown_last() -> None:
    nodes = [node(1), node(2), node(3), node(4)]
    coordinates = {nodes[0].node_id: at(0.3), nodes[2].node_id: at(0.1), nodes[3].node_id: at(0.1)}
    found = by_rtt(at(0.0), nodes, coordinates, 4)
    assert [one.name for one, _ in found] == ["n3", "n4", "n1", "n2"]
    assert [distance for _, distance in found] == [pytest.approx(0.102)] * 2 + [pytest.approx(0.302), None]
    assert [one.name for one, _ in by_rtt(at(0.3), nodes, coordinates, 1)] == ["n1"]


def test_the_nearest_by_xor_are_those_of_a_sort_over_exact_numbers() -> None:
    chance = random.Random(3)
    nodes = [Node(NodeId.of(chance.randbytes(32)), str(i), None, NodeState.ALIVE) for i in range(200)]
    target = NodeId.of(chance.randbytes(32))
    exact = sorted(nodes, key=lambda one: bytes(a ^ b for a, b in zip(one.node_id.raw, target.raw, strict=True)))
    found = by_xor(target, nodes, 20)
    assert [one for one, _ in found] == exact[:20]
    assert found[0][1] == int(exact[0].node_id, 16) ^ int(target, 16)
    assert by_xor(nodes[7].node_id, nodes, 1) == [(nodes[7], 0)]


def test_numbers_that_differ_in_the_last_bit_alone_are_told_apart() -> None:
    high = 1 << 255
    assert [one.name for one, _ in by_xor(node(high).node_id, [node(3), node(2), node(1)])] == ["n1", "n2", "n3"]


def test_the_nearest_in_space_are_those_whose_tags_say_so() -> None:
    nodes = [
        node(1, position="0,0,0"),
        node(2, position="3, 4, 0"),
        node(3),
        node(4, position="1,1"),
        node(5, place="9,9"),
    ]
    assert [(one.name, distance) for one, distance in by_space((3, 4, 12), nodes, 5)] == [("n2", 12.0), ("n1", 13.0)]
    assert [one.name for one, _ in by_space((0, 0), nodes)] == ["n4"]
    assert [one.name for one, _ in by_space((0, 0), nodes, tag="place")] == ["n5"]
    assert by_space((0, 0), nodes, 0) == []


@pytest.mark.parametrize("text", ["", "here", "1,", "1,,2", "nan,0", "inf", "1;2", "1," * 400 + "1"])
def test_a_position_that_cannot_be_read_is_none(text: str) -> None:
    assert position_of(node(1, position=text)) is None


def test_a_point_without_numbers_is_refused() -> None:
    for point in ((), (float("nan"), 0.0), (float("inf"),)):
        with pytest.raises(ValueError):
            by_space(point, [])
