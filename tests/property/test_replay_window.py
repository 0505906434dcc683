"""The window against replays, beside a set that remembers everything."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bms.security.pairwise import COUNTER_MAX, WINDOW, ReplayWindow


class WindowBesideASet(RuleBasedStateMachine):
    """Packets come in any order, again, and from far ahead; forged ones are looked at and not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow()
        self.came: set[int] = set()

    @property
    def high(self) -> int:
        return max(self.came, default=0)

    def arrive(self, counter: int) -> None:
        counter = max(1, min(counter, COUNTER_MAX))
        expected = counter not in self.came and counter > self.high - WINDOW
        assert self.window.is_new(counter) == expected
        if expected:
            self.window.take(counter)
            self.came.add(counter)

    @rule(ahead=st.integers(1, 3 * WINDOW))
    def ahead(self, ahead: int) -> None:
        self.arrive(self.high + ahead)

    @rule(behind=st.integers(0, 2 * WINDOW))
    def behind(self, behind: int) -> None:
        self.arrive(self.high - behind)

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        if self.came:
            self.arrive(data.draw(st.sampled_from(sorted(self.came))))

    @rule(counter=st.integers(1, COUNTER_MAX))
    def anywhere(self, counter: int) -> None:
        self.arrive(counter)

    @rule(counter=st.integers(1, COUNTER_MAX))
    def forged(self, counter: int) -> None:
        before = self.window.is_new(counter)
        assert self.window.is_new(counter) == before

    @rule()
    def burst_backwards(self) -> None:
        start = self.high
        for counter in range(start + 40, start, -1):
            self.arrive(counter)

    @invariant()
    def the_highest_and_its_memory_are_bounded(self) -> None:
        assert self.window.high == self.high
        assert self.window._bits.bit_length() <= WINDOW


TestWindowBesideASet = WindowBesideASet.TestCase
