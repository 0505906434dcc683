"""The search for one order against a real register, and against trying every order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import attrs
from hypothesis import assume, event, given
from hypothesis import strategies as st

from bms.testing import Operation, check_register
from bms.testing.linearizability import COMPARE_AND_SET, DELETE, LINEARIZABLE, NOT_LINEARIZABLE, READ, WRITE

VALUES = [b"a", b"b", b"c"]


def apply(state: bytes | None, operation: Operation) -> tuple[bytes | None, bytes | bool | None]:
    """What a sequential register holds afterwards, and what it returns: written apart from the checker's own."""
    if operation.kind == READ:
        return state, state
    if operation.kind == WRITE:
        return operation.value, None
    if operation.kind == DELETE:
        return None, state is not None
    assert operation.kind == COMPARE_AND_SET
    return (operation.value, True) if state == operation.expected else (state, False)


def run_register(seed: int, clients: int, count: int, crashes: float) -> list[Operation]:
    """Clients that use one real register at once. Each operation takes effect at one instant of its span, or, where its
    client is killed meanwhile, perhaps never or long afterwards.
    """
    chance = random.Random(seed)
    history: list[Operation] = []
    effects: list[tuple[float, Operation]] = []
    free = [0.0] * clients
    for _ in range(count):
        client = chance.randrange(clients)
        start = free[client] + chance.random()
        end = free[client] = start + chance.uniform(0, 3)
        operation = Operation(
            client=f"c{client}",
            kind=chance.choice([READ, READ, WRITE, WRITE, DELETE, COMPARE_AND_SET]),
            invoked_at=start,
            returned_at=end,
            value=chance.choice(VALUES),
            expected=chance.choice([None, *VALUES]),
        )
        history.append(operation)
        if chance.random() >= crashes:
            effects.append((chance.uniform(start, end), operation))
            continue
        operation.returned_at = None
        if chance.random() < 0.5:
            effects.append((start + chance.expovariate(0.2), operation))
    state: bytes | None = None
    for _, operation in sorted(effects, key=lambda effect: effect[0]):
        state, result = apply(state, operation)
        if operation.returned_at is not None:
            operation.result = result
    return history


def explained_by(order: Sequence[Operation]) -> bool:
    """Whether this order respects time and gives every known result."""
    state: bytes | None = None
    for place, operation in enumerate(order):
        if any(after.returned_at is not None and after.returned_at < operation.invoked_at for after in order[place:]):
            return False
        state, result = apply(state, operation)
        if operation.returned_at is not None and result != operation.result:
            return False
    return True


def is_linearizable(history: Sequence[Operation]) -> bool:
    """By trying every order of every choice of those whose outcome is unknown."""
    known = [operation for operation in history if operation.returned_at is not None]
    unknown = [operation for operation in history if operation.returned_at is None]
    return any(
        explained_by(order)
        for count in range(len(unknown) + 1)
        for chosen in itertools.combinations(unknown, count)
        for order in itertools.permutations([*known, *chosen])
    )


@given(st.integers(), st.integers(1, 6), st.integers(0, 80), st.sampled_from([0.0, 0.1, 0.3]))
def test_what_a_real_register_gave_is_always_linearizable(seed: int, clients: int, count: int, crashes: float) -> None:
    verdict = check_register(run_register(seed, clients, count, crashes))
    assert verdict.outcome == LINEARIZABLE, str(verdict)


@given(st.integers(), st.integers(1, 4), st.integers(1, 6), st.sampled_from([0.0, 0.3]), st.data())
def test_a_changed_history_is_judged_as_by_trying_every_order(
    seed: int, clients: int, count: int, crashes: float, data: st.DataObject
) -> None:
    history = run_register(seed, clients, count, crashes)
    for _ in range(data.draw(st.integers(1, 2))):
        operation = data.draw(st.sampled_from(history))
        if operation.kind == READ:
            operation.result = data.draw(st.sampled_from([None, *VALUES]))
        elif operation.kind == WRITE:
            operation.value = data.draw(st.sampled_from(VALUES))
        else:
            operation.result = data.draw(st.booleans())
    expected = is_linearizable(history)
    event(f"linearizable: {expected}")
    verdict = check_register(history)
    assert verdict.outcome == (LINEARIZABLE if expected else NOT_LINEARIZABLE), history


@given(st.integers(), st.integers(1, 4), st.integers(2, 6), st.sampled_from([0.0, 0.3]), st.data())
def test_the_prefix_that_is_shown_is_bad_and_is_good_without_its_last_return(
    seed: int, clients: int, count: int, crashes: float, data: st.DataObject
) -> None:
    history = run_register(seed, clients, count, crashes)
    operation = data.draw(st.sampled_from(history))
    results: list[bytes | bool | None] = [b"a", b"d", True]
    operation.result = data.draw(st.sampled_from(results))
    verdict = check_register(history)
    assume(verdict.outcome == NOT_LINEARIZABLE)
    assert not is_linearizable(verdict.prefix)
    assert verdict.culprit is not None
    shorter = [
        attrs.evolve(operation, returned_at=None, result=None) if operation is verdict.culprit else operation
        for operation in verdict.prefix
    ]
    assert is_linearizable(shorter)
