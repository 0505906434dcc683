"""SRV records: the order in which targets are tried (RFC 2782)."""

from __future__ import annotations

import random
from collections import Counter

from bms.membership.srv import order
from bms.values import Address


def test_lower_priorities_come_first_whatever_the_weights() -> None:
    records = [(20, 65_535, 1, "late"), (10, 0, 1, "first"), (30, 0, 1, "last")]
    for seed in range(50):
        assert [address.host for address in order(records, random.Random(seed))] == ["first", "late", "last"]


def test_among_equal_priorities_weights_decide_how_often_a_target_is_first() -> None:
    records = [(0, 10, 1, "small"), (0, 30, 1, "large"), (0, 0, 1, "hardly")]
    chance = random.Random(7)
    first = Counter(order(records, chance)[0].host for _ in range(8000))
    assert 0.70 <= first["large"] / 8000 <= 0.78
    assert 0.20 <= first["small"] / 8000 <= 0.28
    assert 0 < first["hardly"] / 8000 <= 0.05


def test_every_target_is_in_the_order_once() -> None:
    records = [(priority, weight, 7800, f"n{priority}{weight}") for priority in range(3) for weight in range(4)]
    assert sorted(order(records, random.Random(3))) == sorted(Address(record[3], 7800) for record in records)


def test_a_service_that_is_decidedly_not_there_has_no_targets() -> None:
    assert order([(0, 0, 0, ".")], random.Random(1)) == []
    assert order([], random.Random(1)) == []
