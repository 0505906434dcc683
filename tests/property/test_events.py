"""The ring of events under any order of events, readings and restarts: a follower gets all it wants, in order and
without a gap, or is told before the next event that some are gone.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bms.monitor.events import Backlog, EventLog, parse_cursor

KINDS = ("node", "data", "log")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(KINDS), st.integers(0, 3000)),
        st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 5) | st.none()),
        st.tuples(st.just("restart")),
        st.tuples(st.just("shrink"), st.integers(1, 8)),
    ),
    max_size=80,
)


class Follower:
    """One who reads now and then, and checks what it is given against all that ever was."""

    def __init__(self, wanted: frozenset[str] | None) -> None:
        self.wanted = wanted
        self.cursor: str | None = None

    def read(self, log: EventLog, published: list[str], limit: int | None) -> None:
        backlog = log.after(self.cursor, self.wanted, limit=limit)
        begin, end = (self._place(log, cursor) for cursor in (backlog.begin, backlog.cursor))
        expected = [n for n in range(begin + 1, end + 1) if self._wants(published[n - 1])]
        assert [event.n for event in backlog.events] == expected
        if self.cursor is not None:
            self._check_missed(log, published, backlog, begin)
        if limit is None:
            assert end == log.last
        assert backlog.is_all == (end == log.last)
        self.cursor = backlog.cursor

    def _check_missed(self, log: EventLog, published: list[str], backlog: Backlog, begin: int) -> None:
        assert self.cursor is not None
        life, place = parse_cursor(self.cursor)
        if life != log.life:
            assert backlog.missed is None
            return
        gone = [n for n in range(place + 1, begin + 1) if self._wants(published[n - 1])]
        assert backlog.missed == (begin - place if gone else 0)
        assert backlog.missed >= len(gone)

    def _wants(self, kind: str) -> bool:
        return self.wanted is None or kind in self.wanted

    @staticmethod
    def _place(log: EventLog, cursor: str) -> int:
        life, place = parse_cursor(cursor)
        assert life == log.life
        return place


@given(steps)
def test_what_a_follower_sees_has_no_gap_that_it_was_not_told_of(steps: list[tuple[object, ...]]) -> None:
    lives = iter(range(1000))
    log, published = EventLog(f"life{next(lives)}", events_max=6, bytes_max=8000), list[str]()
    followers = [Follower(None), Follower(frozenset({"node"})), Follower(frozenset({"data", "log"}))]
    for step in steps:
        match step:
            case ("publish", str(kind), int(size)):
                log.publish(kind, {"text": "x" * size}, 0.0)
                published.append(kind)
            case ("read", int(who), limit):
                followers[who].read(log, published, limit)  # type: ignore[arg-type]
            case ("restart",):
                log, published = EventLog(f"life{next(lives)}", events_max=6, bytes_max=8000), []
            case ("shrink", int(most)):
                log.events_max = most
        assert len(log) <= 6
        assert log.bytes <= 8000
    for follower in followers:
        follower.read(log, published, None)
        assert follower.cursor == log.cursor
