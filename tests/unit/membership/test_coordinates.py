"""Network coordinates: how accurate they become, what a liar can do, and what is refused.

The networks, cycles and thresholds of accuracy are those of hashicorp/serf, coordinate/performance_test.go: in each
cycle every node measures one other node, chosen at random. There one seed is judged; here the median of several is.
"""

from __future__ import annotations

import math
import random
import statistics
import struct
from collections.abc import Callable, Sequence

import attrs
import pytest

from bms.errors import RemoteProtocolError
from bms.membership.coordinates import (
    COORDINATE_BYTES,
    DIMENSIONS,
    ERROR_MAX,
    HEIGHT_S_MIN,
    PEERS_MAX,
    PLACE_S_MAX,
    RESIDUAL_S_MAX,
    STEP_S_MAX,
    Coordinate,
    Coordinates,
)
from bms.values import NodeId

Truth = list[list[float]]
SEEDS = 5


def truth(nodes: int, rtt_s: Callable[[int, int], float]) -> Truth:
    found = [[0.0] * nodes for _ in range(nodes)]
    for i in range(nodes):
        for j in range(i + 1, nodes):
            found[i][j] = found[j][i] = rtt_s(i, j)
    return found


def line() -> Truth:
    return truth(10, lambda i, j: (j - i) * 0.010)


def grid() -> Truth:
    return truth(25, lambda i, j: math.dist(divmod(i, 5), divmod(j, 5)) * 0.010)


def split() -> Truth:
    return truth(25, lambda i, j: 0.001 if (i <= 12) == (j <= 12) else 0.011)


def scattered() -> Truth:
    chance = random.Random(1)
    return truth(25, lambda i, j: chance.gauss(0.100, 0.010))


def peer(number: int) -> NodeId:
    return NodeId.of(number.to_bytes(32, "big"))


def make_nodes(count: int, seed: int, dimensions: int = DIMENSIONS) -> list[Coordinates]:
    return [Coordinates(random.Random(seed * 1000 + i), dimensions=dimensions) for i in range(count)]


def simulate(nodes: Sequence[Coordinates], rtts: Truth, cycles: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(cycles):
        for i, node in enumerate(nodes):
            j = chance.randrange(len(nodes))
            if j != i:
                assert node.update(peer(j), nodes[j].mine, rtts[i][j])


def errors(nodes: Sequence[Coordinates], rtts: Truth) -> list[float]:
    return [
        abs(nodes[i].mine.distance_s(nodes[j].mine) - rtts[i][j]) / rtts[i][j]
        for i in range(len(nodes))
        for j in range(i + 1, len(nodes))
    ]


@pytest.mark.parametrize(
    ("network", "mean_most", "most"),
    [(line, 0.0031, 0.013), (grid, 0.0016, 0.023), (split, 0.00006, 0.00048), (scattered, 0.075, 0.33)],
)
def test_estimates_are_as_accurate_as_serfs(network: Callable[[], Truth], mean_most: float, most: float) -> None:
    means, worst = [], []
    for seed in range(1, SEEDS + 1):
        rtts = network()
        nodes = make_nodes(len(rtts), seed)
        simulate(nodes, rtts, 1000, seed)
        found = errors(nodes, rtts)
        means.append(statistics.fmean(found))
        worst.append(max(found))
    assert statistics.median(means) <= mean_most
    assert statistics.median(worst) <= most


def test_gravity_brings_the_mesh_back_to_the_origin() -> None:
    side = 0.500
    corners = [(0.0, 0.0), (0.0, side), (side, side), (side, side)]  # the last is wrong on purpose
    rtts = truth(4, lambda i, j: side * (math.sqrt(2) if i % 2 == j % 2 == 0 else 1))
    nodes = [Coordinates(random.Random(i), dimensions=2, mine=Coordinate(place)) for i, place in enumerate(corners)]

    def off_centre() -> float:
        middles = [(min(xs) + max(xs)) / 2 for xs in zip(*(node.mine.vector for node in nodes), strict=True)]
        return math.hypot(*middles)

    simulate(nodes, rtts, 1000, 1)
    baseline = off_centre()
    simulate(nodes, rtts, 10_000, 1)
    assert off_centre() <= 0.8 * baseline


def test_a_node_that_is_equally_far_from_all_others_gets_height() -> None:
    # A circle of 24 nodes in a plane; the first stands above its middle, as behind a slow access link. A tenth of
    # serf's size, which a limit on each step would need ten times the cycles for.
    def place(i: int) -> tuple[float, float]:
        return math.cos(2 * math.pi * i / 25), math.sin(2 * math.pi * i / 25)

    rtts = truth(25, lambda i, j: 0.010 * (2 if i == 0 else math.dist(place(i), place(j))))
    nodes = make_nodes(25, 1, dimensions=2)
    simulate(nodes, rtts, 1000, 1)
    above, *others = [node.mine.height for node in nodes]
    assert above > 0.9 * 0.010
    assert max(others) < 0.1 * 0.010
    assert statistics.fmean(errors(nodes, rtts)) < 0.01


def test_a_newcomer_finds_its_place_in_a_mesh_that_spans_the_world() -> None:
    chance = random.Random(5)
    places = [(chance.uniform(0, 0.3), chance.uniform(0, 0.3)) for _ in range(25)]
    rtts = truth(25, lambda i, j: math.dist(places[i], places[j]) + 0.004)
    nodes = make_nodes(25, 1)
    simulate(nodes[:24], rtts, 2000, 1)
    for _ in range(300):
        j = chance.randrange(24)
        assert nodes[24].update(peer(j), nodes[j].mine, rtts[24][j])
    by_estimate = sorted(range(24), key=lambda j: nodes[24].mine.distance_s(nodes[j].mine))
    nearest = min(range(24), key=lambda j: rtts[24][j])
    assert nearest in by_estimate[:3]
    assert (
        statistics.median(abs(nodes[24].mine.distance_s(nodes[j].mine) - rtts[24][j]) / rtts[24][j] for j in range(24))
        < 0.02
    )


# ---------------------------------------------------------------------- samples


def distance(one: Coordinate, other: Coordinate) -> float:
    """How far apart two coordinates are in vector and height together."""
    return math.dist(one.vector, other.vector) + abs(one.height - other.height)


@pytest.mark.parametrize("rtt_s", [0.0, 1e-9, 0.05, 10.0])
@pytest.mark.parametrize("place", [0.0, 1e-7, 0.02, PLACE_S_MAX])
@pytest.mark.parametrize("height", [0.0, 0.5, PLACE_S_MAX])
def test_a_liar_moves_a_node_by_at_most_the_limit_a_sample(rtt_s: float, place: float, height: float) -> None:
    settled = Coordinate((0.01,) * DIMENSIONS, height=0.002, error=0.5)
    node = Coordinates(random.Random(1), mine=settled)
    lie = Coordinate((place,) * DIMENSIONS, height=height, error=0.0, adjustment=-RESIDUAL_S_MAX / 2)
    for number in range(100):
        before = node.mine
        assert node.update(peer(number), lie, rtt_s)
        gravity = (math.hypot(*before.vector) / 150) ** 2 + 1e-12
        assert distance(before, node.mine) <= STEP_S_MAX + 2 * gravity
        assert abs(node.mine.adjustment - before.adjustment) <= RESIDUAL_S_MAX / 20
        assert node.mine.is_sound()


@pytest.mark.parametrize("rtt_s", [math.nan, math.inf, -math.inf, -1e-9, 10.000001])
def test_an_impossible_round_trip_changes_nothing(rtt_s: float) -> None:
    node = Coordinates(random.Random(1))
    before = node.mine
    assert not node.update(peer(1), Coordinate((0.1,) * DIMENSIONS), rtt_s)
    assert node.mine is before


SOUND = Coordinate((0.1,) * DIMENSIONS, height=0.01, error=0.2, adjustment=-0.003)
UNSOUND = [
    Coordinate((0.1,) * 7),
    Coordinate(()),
    attrs.evolve(SOUND, vector=(math.nan, *SOUND.vector[1:])),
    attrs.evolve(SOUND, vector=(math.inf, *SOUND.vector[1:])),
    attrs.evolve(SOUND, vector=(10.1, *SOUND.vector[1:])),
    attrs.evolve(SOUND, height=-0.1),
    attrs.evolve(SOUND, height=math.nan),
    attrs.evolve(SOUND, error=-0.1),
    attrs.evolve(SOUND, error=1.6),
    attrs.evolve(SOUND, adjustment=0.1),
    attrs.evolve(SOUND, adjustment=math.nan),
]


@pytest.mark.parametrize("coordinate", UNSOUND)
def test_an_unsound_coordinate_changes_nothing_and_is_refused_when_it_comes(coordinate: Coordinate) -> None:
    node = Coordinates(random.Random(1))
    before = node.mine
    assert not node.update(peer(1), coordinate, 0.1)
    assert node.mine is before
    numbers = (*coordinate.vector, coordinate.height, coordinate.error, coordinate.adjustment)
    with pytest.raises(RemoteProtocolError):
        Coordinate.parse_untrusted(struct.pack(f">{len(numbers)}f", *numbers))


def test_a_coordinate_travels_in_44_bytes() -> None:
    raw = SOUND.encode()
    assert len(raw) == COORDINATE_BYTES == 44
    found = Coordinate.parse_untrusted(raw)
    assert found.vector == pytest.approx(SOUND.vector)
    assert (found.height, found.error, found.adjustment) == pytest.approx((0.01, 0.2, -0.003))
    assert found.encode() == raw


def test_whatever_a_node_has_become_others_can_read() -> None:
    outermost = Coordinate((-PLACE_S_MAX,) * DIMENSIONS, PLACE_S_MAX, ERROR_MAX, RESIDUAL_S_MAX / 2)
    for mine in (Coordinates(random.Random(1)).mine, outermost):
        assert Coordinate.parse_untrusted(mine.encode()).encode() == mine.encode()


@pytest.mark.parametrize("raw", [b"", SOUND.encode()[:-1], SOUND.encode() + b"\0", b"\xff" * 44])
def test_what_is_no_coordinate_is_the_peers_fault(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Coordinate.parse_untrusted(raw)


def test_one_late_answer_among_three_moves_nobody() -> None:
    calm, shaken = Coordinates(random.Random(1)), Coordinates(random.Random(1))
    other = Coordinate((0.01, *[0.0] * 7), error=0.1)
    for node, last in ((calm, 0.010), (shaken, 3.0)):
        for rtt_s in (0.010, 0.010, last):
            node.update(peer(1), other, rtt_s)
    assert calm.mine == shaken.mine


def test_what_is_forgotten_of_a_peer_no_longer_counts() -> None:
    node = Coordinates(random.Random(1), mine=SOUND)
    other = Coordinate((0.2,) * DIMENSIONS, error=0.1)
    for _ in range(3):
        node.update(peer(1), other, 9.0)
    kept, forgot = Coordinates(random.Random(1), mine=SOUND), node
    forgot.forget(peer(1))
    forgot.mine = SOUND
    forgot.update(peer(1), other, 0.1)
    kept.update(peer(1), other, 0.1)
    assert forgot.mine.vector == kept.mine.vector


def test_round_trips_of_so_many_peers_are_remembered_and_no_more() -> None:
    node = Coordinates(random.Random(1))
    for number in range(PEERS_MAX + 10):
        node.update(peer(number), SOUND, 0.1)
    assert len(node._round_trips) == PEERS_MAX
    assert peer(9) not in node._round_trips
    assert peer(10) in node._round_trips


def test_two_nodes_at_one_place_part_in_a_direction_of_chance() -> None:
    nodes = [Coordinates(random.Random(seed)) for seed in (1, 1, 2)]
    for node in nodes:
        node.update(peer(9), Coordinate((0.0,) * DIMENSIONS), 0.1)
    vectors = [node.mine.vector for node in nodes]
    assert vectors[0] == vectors[1] != vectors[2]
    assert math.hypot(*vectors[0]) == pytest.approx(STEP_S_MAX, rel=1e-6)


def test_a_node_pushed_out_of_bounds_begins_again() -> None:
    node = Coordinates(random.Random(1), mine=Coordinate((PLACE_S_MAX,) * DIMENSIONS))
    node.update(peer(1), Coordinate((PLACE_S_MAX - 0.1, *[PLACE_S_MAX] * 7), error=0.0), 10.0)
    assert node.resets == 1
    assert node.mine == Coordinate((0.0,) * DIMENSIONS)


def test_gravity_holds_a_node_within_bounds_against_any_push() -> None:
    node = Coordinates(random.Random(1), mine=Coordinate((5.8, *[0.0] * 7)))
    for number in range(500):
        node.update(peer(number), Coordinate((-1.0, *[0.0] * 7), error=0.0), 10.0)
    assert node.resets == 0
    assert 5.7 < math.hypot(*node.mine.vector) < 6


def test_an_adjustment_never_makes_a_distance_negative() -> None:
    near = Coordinate((0.0,) * DIMENSIONS, HEIGHT_S_MIN, 0.1, -0.03)
    assert near.distance_s(near) == pytest.approx(2 * HEIGHT_S_MIN)
    assert SOUND.distance_s(near) == near.distance_s(SOUND)
