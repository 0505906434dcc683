"""Histories that are known to be linearizable or not, from the papers and from what stores do wrong."""

from __future__ import annotations

import pytest

from bms.testing import Operation, check_keys, check_register
from bms.testing.linearizability import COMPARE_AND_SET, DELETE, LINEARIZABLE, NOT_LINEARIZABLE, READ, UNDECIDED, WRITE


def read(start: float, end: float | None, result: bytes | None, client: str = "r", key: str = "k") -> Operation:
    return Operation(client=client, kind=READ, invoked_at=start, returned_at=end, result=result, key=key)


def write(start: float, end: float | None, value: bytes, client: str = "w", key: str = "k") -> Operation:
    return Operation(client=client, kind=WRITE, invoked_at=start, returned_at=end, value=value, key=key)


def delete(start: float, end: float | None, result: bool | None = None, client: str = "d") -> Operation:
    return Operation(client=client, kind=DELETE, invoked_at=start, returned_at=end, result=result)


def swap(start: float, end: float | None, expected: bytes | None, value: bytes, result: bool | None) -> Operation:
    return Operation(
        client="s", kind=COMPARE_AND_SET, invoked_at=start, returned_at=end, expected=expected, value=value,
        result=result,
    )  # fmt: skip


GOOD: dict[str, list[Operation]] = {
    "nothing happened": [],
    "one after another": [read(0, 1, None), write(2, 3, b"a"), read(4, 5, b"a"), delete(6, 7, True), read(8, 9, None)],
    "a read during a write sees the old value": [write(0, 1, b"a"), write(2, 9, b"b"), read(3, 4, b"a")],
    "a read during a write sees the new value": [write(0, 1, b"a"), write(2, 9, b"b"), read(3, 4, b"b")],
    "two reads during a write, the old value first": [
        write(0, 9, b"a"), read(1, 2, None), read(3, 4, b"a"), read(5, 6, b"a"),
    ],
    "two writes at once in the order that a later read says": [
        write(0, 5, b"a"), write(1, 4, b"b"), read(6, 7, b"a"),
    ],
    "a write of unknown outcome that was seen much later": [
        write(0, 1, b"a"), write(2, None, b"b"), read(3, 4, b"a"), read(50, 51, b"b"),
    ],
    "a write of unknown outcome that was never seen": [write(0, 1, b"a"), write(2, None, b"b"), read(3, 4, b"a")],
    "a delete of unknown outcome": [write(0, 1, b"a"), delete(2, None), read(3, 4, b"a"), read(5, 6, None)],
    "a delete that found what only an unknown write can have put": [write(0, None, b"a"), delete(1, 2, True)],
    "compare-and-set from nothing": [swap(0, 1, None, b"a", True), swap(2, 3, None, b"b", False), read(4, 5, b"a")],
    "of two that compare at once one wins": [
        write(0, 1, b"a"), swap(2, 5, b"a", b"b", True), swap(3, 4, b"a", b"c", False), read(6, 7, b"b"),
    ],
    "events at one time are concurrent": [write(0, 1, b"a"), read(1, 2, None)],
}  # fmt: skip

BAD: dict[str, tuple[list[Operation], int]] = {
    # (the history, how many operations its smallest bad prefix has)
    "a value that nobody wrote": ([read(0, 1, b"a")], 1),
    "a stale read": ([write(0, 1, b"a"), write(2, 3, b"b"), read(4, 5, b"a"), read(6, 7, b"b")], 3),
    "an acknowledged write that is lost": ([write(0, 1, b"a"), read(2, 3, None)], 2),
    "two reads during a write, the new value first": (
        [write(0, 9, b"a"), read(1, 2, b"a"), read(3, 4, None), write(20, 21, b"c")], 3,
    ),
    "two readers see two writes in two orders": (
        [
            write(0, 9, b"a", "p"), write(0, 9, b"b", "q"),
            read(1, 2, b"a", "r"), read(3, 4, b"b", "r"), read(5, 6, b"a", "s"),
        ],
        5,
    ),
    "what was deleted is back": ([write(0, 1, b"a"), delete(2, 3, True), read(4, 5, b"a"), read(6, 7, None)], 3),
    "a delete that found nothing where something was": ([write(0, 1, b"a"), delete(2, 3, False)], 2),
    "two compare and both win": (
        [write(0, 1, b"a"), swap(2, 5, b"a", b"b", True), swap(2, 5, b"a", b"c", True), read(8, 9, b"b")], 3,
    ),
    "an unknown write seen, gone, and seen again": (
        [
            write(0, 1, b"a"), write(2, None, b"b"), read(3, 4, b"b"), write(5, 6, b"c"), read(7, 8, b"b"),
            read(9, 10, b"c"),
        ],
        5,
    ),
    "an unknown write seen before it was begun": ([read(0, 1, b"a"), write(2, None, b"a")], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_some_order_explains_is_linearizable(name: str) -> None:
    assert check_register(GOOD[name]).outcome == LINEARIZABLE


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_order_explains_is_not_and_its_smallest_prefix_is_shown(name: str) -> None:
    history, size = BAD[name]
    verdict = check_register(history)
    assert verdict.outcome == NOT_LINEARIZABLE
    assert len(verdict.prefix) == size
    assert verdict.culprit in verdict.prefix


def test_the_order_in_which_operations_are_given_does_not_matter() -> None:
    history, _ = BAD["a stale read"]
    assert check_register(reversed(history)) != check_register(GOOD["one after another"])
    assert str(check_register(reversed(history))) == str(check_register(history))


def test_a_failure_says_what_cannot_be_and_what_could_have_been() -> None:
    history = [write(0, 1, b"a"), write(2, None, b"b"), read(3, 4, b"x", "n1.0"), write(5, 6, b"later")]
    text = str(check_register(history))
    assert "no order explains these 3 operations" in text
    assert "it can have held b'a'" in text
    assert "3.000000 to 4.000000  n1.0: read -> b'x'   <- cannot be" in text
    assert "2.000000 to ?  w: write b'b' -> unknown" in text
    assert "later" not in text


def test_a_long_failure_is_shown_by_its_end_with_the_one_that_cannot_be() -> None:
    history = [write(2 * number, 2 * number + 1, b"%d" % number) for number in range(50)]
    slow = read(0.5, 200, b"never", "slow")
    lines = str(check_register([*history, slow])).splitlines()
    assert "these 51 operations (the last 12 of them); it can have held b'49'" in lines[0]
    assert len(lines) == 14
    assert "cannot be" in lines[1]


def test_keys_are_looked_at_one_by_one() -> None:
    stale = [write(0, 1, b"a", key="x"), write(2, 3, b"b", key="x"), read(4, 5, b"a", key="x")]
    fine = [write(0, 1, b"a", key="y"), read(4, 5, b"a", key="y")]
    verdicts = check_keys([*fine, *stale])
    assert [(key, verdict.outcome) for key, verdict in verdicts.items()] == [
        ("x", NOT_LINEARIZABLE),
        ("y", LINEARIZABLE),
    ]


def test_a_search_that_would_take_too_long_is_undecided_and_says_so() -> None:
    together = [write(0, 100, b"%d" % number) for number in range(14)]
    history = [*together, read(101, 102, b"none of these")]
    verdict = check_register(history, configurations_max=1000)
    assert verdict.outcome == UNDECIDED
    assert 1000 < verdict.configurations < 1100
    assert str(verdict).startswith("undecided (10")
    assert check_register(history[:8] + history[-1:]).outcome == NOT_LINEARIZABLE


def test_operations_of_unknown_outcome_do_not_double_the_work_each() -> None:
    lost = [write(0, None, b"lost %d" % number) for number in range(60)]
    reads = [read(10 * number, 10 * number + 1, b"lost %d" % number) for number in range(60)]
    verdict = check_register([*lost, *reads])
    assert verdict.outcome == LINEARIZABLE
    assert verdict.configurations < 10_000
