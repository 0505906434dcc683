"""Whether what concurrent clients saw of registers can be explained by one order of their operations.

A history is linearizable (Herlihy and Wing 1990, TOPLAS 12(3)) if each operation can be given one instant between its
invocation and its return so that a sequential register, taking them in the order of those instants, gives the results
that were seen. A history of several keys is linearizable if that of each key is (locality, ibid. theorem 1).

    operation           result                                      the register holds afterwards
    read                the value, None where there is none         the same
    write               None                                        `value`
    delete              whether there was a value                   nothing
    compare-and-set     whether the value was `expected`            `value` if so, otherwise the same

An operation whose outcome is unknown (`returned_at` None: its client was killed) may have taken effect at any time
after its invocation, or never. One that is known not to have happened does not belong into a history.

The method is Wing and Gong's search (1993, JPDC 17) over configurations, (what the register holds, which operations
under way have taken effect), each looked at once, in Lowe's just-in-time order (2017, Concurrency and Computation
29(4), section 4): events are taken in order of time, and only when an operation returns that has not taken effect is
one chosen to take effect. One rule is added: of two configurations that differ in operations of unknown outcome alone,
the one in which fewer have taken effect can do all that the other can, so the other is dropped. Without it each crash
would double the work.

Deciding is NP-complete (Gibbons and Korach 1997), so the search is bounded: beyond `configurations_max` the answer is
"undecided", which is neither of the other two. A failure shows the smallest prefix of the history that cannot be
explained. Two events at one time count as concurrent. Absent: objects other than registers, and clocks: times are
numbers whose order is the order of events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import attrs

__all__ = [
    "COMPARE_AND_SET",
    "DELETE",
    "LINEARIZABLE",
    "NOT_LINEARIZABLE",
    "READ",
    "UNDECIDED",
    "WRITE",
    "Operation",
    "Verdict",
    "check_keys",
    "check_register",
]

READ, WRITE, DELETE, COMPARE_AND_SET = "read", "write", "delete", "compare-and-set"
LINEARIZABLE, NOT_LINEARIZABLE, UNDECIDED = "linearizable", "not linearizable", "undecided"

_SHOWN_MAX = 12
_CONFIGURATIONS_MAX = 100_000

State = bytes | None
Event = tuple[float, bool, int]
Configuration = tuple[State, int]
"""What the register holds, and the set of operations under way that have taken effect, as bits."""


@attrs.define(eq=False, kw_only=True)
class Operation:
    """One operation of one client on one key; see the module. `result` counts once `returned_at` is there."""

    client: str
    kind: str
    invoked_at: float
    returned_at: float | None = None
    key: str = ""
    value: bytes | None = None
    expected: bytes | None = None
    result: bytes | bool | None = None

    def __str__(self) -> str:
        span = f"{self.invoked_at:.6f} to {'?' if self.returned_at is None else f'{self.returned_at:.6f}'}"
        what = {
            READ: "read",
            WRITE: f"write {self.value!r}",
            DELETE: "delete",
            COMPARE_AND_SET: f"set {self.value!r} if it is {self.expected!r}",
        }[self.kind]
        outcome = "unknown" if self.returned_at is None else "done" if self.kind == WRITE else repr(self.result)
        return f"{span}  {self.client}: {what} -> {outcome}"


@attrs.frozen
class Verdict:
    """What came of looking at one key. `prefix` is the smallest that cannot be explained, in order of invocation; its
    last return is that of `culprit`, before which the key can have held one of `possible`.
    """

    outcome: str
    configurations: int
    prefix: tuple[Operation, ...] = ()
    culprit: Operation | None = None
    possible: tuple[State, ...] = ()

    def __str__(self) -> str:
        if self.culprit is None:
            return f"{self.outcome} ({self.configurations} configurations)"
        held = " or ".join("nothing" if state is None else repr(state) for state in self.possible)
        shown = self.prefix[-_SHOWN_MAX:]
        if self.culprit not in shown:
            shown = (self.culprit, *shown)
        lines = [f"    {operation}{'   <- cannot be' * (operation is self.culprit)}" for operation in shown]
        left_out = f" (the last {_SHOWN_MAX} of them)" * (len(self.prefix) > len(shown))
        return "\n".join(
            [f"no order explains these {len(self.prefix)} operations{left_out}; it can have held {held}", *lines]
        )


def check_keys(operations: Iterable[Operation], *, configurations_max: int = _CONFIGURATIONS_MAX) -> dict[str, Verdict]:
    """The verdict on each key, in order of the keys. The bound is that of each key."""
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    return {key: check_register(by_key[key], configurations_max=configurations_max) for key in sorted(by_key)}


def check_register(operations: Iterable[Operation], *, configurations_max: int = _CONFIGURATIONS_MAX) -> Verdict:
    """The verdict on operations on one register that holds nothing at first."""
    # A read that nobody got the result of explains nothing and changes nothing.
    history = [operation for operation in operations if operation.kind != READ or operation.returned_at is not None]
    history.sort(key=lambda operation: operation.invoked_at)
    events = _events(history)
    search = _Search(history, configurations_max)
    outcome = search.run(events)
    if outcome != NOT_LINEARIZABLE:
        return Verdict(outcome, search.configurations)
    return _smallest(history, events, configurations_max)


def _events(history: Sequence[Operation]) -> list[Event]:
    """Invocations and returns (True), in order of time; at one time the invocations first."""
    events = [(operation.invoked_at, False, number) for number, operation in enumerate(history)]
    for number, operation in enumerate(history):
        if operation.returned_at is not None:
            assert operation.returned_at >= operation.invoked_at, f"returns before it is invoked: {operation}"
            events.append((operation.returned_at, True, number))
    return sorted(events)


def _smallest(history: list[Operation], events: list[Event], configurations_max: int) -> Verdict:
    """The verdict on a history that is not linearizable: its first return that cannot be, by halving.

    What returns later than the end of a prefix has an unknown outcome in it. Every extension of a prefix that cannot be
    explained cannot be, either.
    """
    returns = [place for place, event in enumerate(events) if event[1]]

    def prefix(place: int) -> tuple[list[Operation], list[Event]]:
        kept = events[: place + 1]
        over = {number for _, is_return, number in kept if is_return}
        known = [
            operation if number in over else attrs.evolve(operation, returned_at=None, result=None)
            for number, operation in enumerate(history)
        ]
        return known, kept

    low, high = 0, len(returns) - 1
    while low < high:
        middle = (low + high) // 2
        known, kept = prefix(returns[middle])
        if _Search(known, configurations_max).run(kept) == NOT_LINEARIZABLE:
            high = middle
        else:
            low = middle + 1
    known, kept = prefix(returns[high])
    search = _Search(known, configurations_max)
    search.run(kept)
    culprit = known[kept[-1][2]]
    shown = tuple(known[number] for _, is_return, number in kept if not is_return)
    possible = sorted({state for state, _ in search.reached}, key=lambda state: (state is not None, state or b""))
    return Verdict(NOT_LINEARIZABLE, search.configurations, shown, culprit, tuple(possible))


class _Search:
    """One run over a history's events. `configurations` counts those looked at, `reached` are the last ones."""

    def __init__(self, history: Sequence[Operation], configurations_max: int) -> None:
        self.configurations = 0
        self.reached: set[Configuration] = {(None, 0)}
        self._history = history
        self._configurations_max = configurations_max
        self._under_way: dict[int, Operation] = {}
        self._unknown = sum(1 << number for number, operation in enumerate(history) if operation.returned_at is None)

    def run(self, events: Sequence[Event]) -> str:
        """One of the three outcomes."""
        for _, is_return, number in events:
            if not is_return:
                self._under_way[number] = self._history[number]
                continue
            found = self._take_effect(1 << number)
            if self.configurations > self._configurations_max:
                return UNDECIDED
            if not found:
                return NOT_LINEARIZABLE
            self.reached = {(state, done & ~(1 << number)) for state, done in found}
            del self._under_way[number]
        return LINEARIZABLE

    def _take_effect(self, bit: int) -> set[Configuration]:
        """The configurations that follow from those reached and in which this operation has taken effect."""
        found: set[Configuration] = set()
        least: dict[tuple[State, int], list[int]] = {}
        waiting = deque(configuration for configuration in self.reached if self._is_least(least, configuration))
        while waiting and self.configurations <= self._configurations_max:
            state, done = waiting.popleft()
            if done & bit:
                found.add((state, done))
                continue
            for number, operation in self._under_way.items():
                if not done & 1 << number and (new := _step(operation, state)) is not None:
                    configuration = (new[0], done | 1 << number)
                    if self._is_least(least, configuration):
                        waiting.append(configuration)
        return found

    def _is_least(self, least: dict[tuple[State, int], list[int]], configuration: Configuration) -> bool:
        """Whether no configuration looked at for this event can do all that this one can; counts it then."""
        state, done = configuration
        unknown = done & self._unknown
        others = least.setdefault((state, done & ~self._unknown), [])
        if any(other & unknown == other for other in others):
            return False
        others.append(unknown)
        self.configurations += 1
        return True


def _step(operation: Operation, state: State) -> tuple[State] | None:
    """What the register holds after the operation, in a tuple; None if it would have given another result."""
    result: bytes | bool | None
    match operation.kind:
        case "read":
            after, result = state, state
        case "write":
            after, result = operation.value, None
        case "delete":
            after, result = None, state is not None
        case "compare-and-set":
            result = state == operation.expected
            after = operation.value if result else state
        case _:
            raise AssertionError(f"no such operation: {operation.kind}")
    return (after,) if operation.returned_at is None or operation.result == result else None
