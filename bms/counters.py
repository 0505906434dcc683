"""What every room counts and measures with. No exporter here, no clock, no lock.

    counter     `add`                a name and an integer that only grows; names are `room.what` in lower case
    labelled    `count`, `tally`     the same, told apart by labels: its total stands under the name alone
    level       `put`                an integer that goes up and down, such as the length of a queue
    histogram   `observe`            how many observations fell into each of a fixed row of buckets, and their sum

Buckets are on a logarithmic scale, 1-2-5 in each decade for durations, so one bisection and one addition is all that an
observation costs, two histograms are added by adding their buckets, and a quantile is known to within its bucket. A
bucket counts what is at most its bound (Prometheus' `le`). A name says its unit: `_s` seconds, `_bytes` bytes; anything
else is a number of things.

Labels are bounded: beyond `LABELS_MAX` combinations of one name all others are counted as "other", so that nothing that
comes from outside can grow memory.

Counting happens on the Trio thread; what other threads count they hand over with their results.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["BYTES", "LABELS_MAX", "NUMBERS", "OTHER", "SECONDS", "Counters", "Histogram", "SlowListener"]

SlowListener = Callable[[str, float, Mapping[str, object]], None]
"""Hears of a slow operation: what it was, how many seconds it took, and facts about it."""

SECONDS: tuple[float, ...] = tuple(
    float(f"{digit}e{power}") for power in range(-5, 3) for digit in (1, 2, 5) if (power, digit) != (2, 5)
)
"""10 µs to 200 s."""
BYTES: tuple[float, ...] = tuple(float(4**power) for power in range(3, 16))
"""64 B to 1 GiB."""
NUMBERS: tuple[float, ...] = tuple(float(2**power) for power in range(15))
"""1 to 16,384."""

LABELS_MAX = 256
OTHER = "other"


class Histogram:
    """Observations in buckets. `counts` has one more than `bounds`: what is above the last bound."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Their mean; None if there were none."""
        count = self.count
        return self.sum / count if count else None

    def add(self, other: Histogram) -> None:
        """Take in all observations of another with the same bounds."""
        assert self.bounds is other.bounds or self.bounds == other.bounds
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def copy(self) -> Histogram:
        """As it is now."""
        made = Histogram(self.bounds)
        made.counts, made.sum = list(self.counts), self.sum
        return made

    def since(self, earlier: Histogram | None) -> Histogram:
        """What has been observed since it was as `earlier`, a copy of it."""
        made = self.copy()
        if earlier is not None:
            made.counts = [now - then for now, then in zip(self.counts, earlier.counts, strict=True)]
            made.sum -= earlier.sum
        return made

    def quantile(self, share: float) -> float | None:
        """About the value that `share` (0 to 1) of all observations do not exceed; None if there were none.

        Interpolated inside its bucket, but for numbers of things, which are whole; what is above the last bound counts
        as being there.
        """
        return self.quantiles((share,))[0]

    def quantiles(self, shares: Sequence[float]) -> list[float | None]:
        """The same for several shares, in rising order, in one pass."""
        total = self.count
        if not total:
            return [None] * len(shares)
        found: list[float | None] = []
        below, place = 0, 0
        for share in shares:
            rank = share * total
            while below + self.counts[place] < rank and place < len(self.bounds):
                below += self.counts[place]
                place += 1
            if place == len(self.bounds):
                found.append(self.bounds[-1])
                continue
            if self.bounds is NUMBERS:
                found.append(self.bounds[place])
                continue
            inside = self.counts[place]
            low = self.bounds[place - 1] if place else 0.0
            found.append(low + (self.bounds[place] - low) * ((rank - below) / inside if inside else 0.0))
        return found


class Counters:
    """All that one node counts. `slow_s` is from when on an operation is worth a word to `on_slow`; see `slow`."""

    __slots__ = ("_histograms", "_labelled", "_levels", "_slow", "_tallies", "_values", "slow_s")

    def __init__(self) -> None:
        self._values: Counter[str] = Counter()
        self._levels: set[str] = set()
        self._labelled: dict[str, Counter[tuple[str, ...]]] = {}
        self._tallies: dict[str, list[int]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._slow: SlowListener | None = None
        self.slow_s = float("inf")

    # ------------------------------------------------------------------ counting

    def add(self, name: str, amount: int = 1) -> None:
        """Count `amount` more of `name`."""
        self._values[name] += amount

    def count(self, name: str, *labels: str, amount: int = 1) -> None:
        """Count `amount` more of `name`, told apart by `labels`: always as many for one name."""
        series = self._labelled.get(name)
        if series is None:
            series = self._labelled[name] = Counter()
        if labels not in series and len(series) >= LABELS_MAX:
            labels = (OTHER,) * len(labels)
        series[labels] += amount

    def tally(self, name: str, size: int) -> list[int]:
        """A row of `size` counters under one name, to be raised in place: the cheapest there is, for hot paths."""
        found = self._tallies.get(name)
        if found is None:
            found = self._tallies[name] = [0] * size
        return found

    def put(self, name: str, value: int) -> None:
        """Set the level `name`."""
        self._levels.add(name)
        self._values[name] = value

    def observe(self, name: str, value: float) -> None:
        """Count one observation of `name`, which says the unit."""
        found = self._histograms.get(name)
        if found is None:
            found = self.histogram(name)
        found.observe(value)

    def histogram(self, name: str) -> Histogram:
        """The histogram of that name, made if there is none yet: whoever observes much keeps it."""
        found = self._histograms.get(name)
        if found is None:
            bounds = SECONDS if name.endswith("_s") else BYTES if name.endswith("_bytes") else NUMBERS
            found = self._histograms[name] = Histogram(bounds)
        return found

    # ------------------------------------------------------------------ slow operations

    def on_slow(self, slow_s: float, listener: SlowListener) -> None:
        """From now on tell `listener` of operations that take `slow_s` and longer."""
        self.slow_s, self._slow = slow_s, listener

    def slow(self, what: str, seconds: float, facts: Mapping[str, object]) -> None:
        """Say that an operation was slow: for those who have compared `seconds` with `slow_s`."""
        if self._slow is not None:
            self._slow(what, seconds, facts)

    # ------------------------------------------------------------------ reading

    def __getitem__(self, name: str) -> int:
        series = self._labelled.get(name)
        total = self._values[name] if series is None else self._values[name] + series.total()
        row = self._tallies.get(name)
        return total if row is None else total + sum(row)

    def labelled(self, name: str) -> dict[tuple[str, ...], int]:
        """What was counted under `name` by labels."""
        return dict(self._labelled.get(name, {}))

    def tallied(self, name: str) -> dict[int, int]:
        """What a row of counters holds, by place, where it is not 0."""
        return {place: count for place, count in enumerate(self._tallies.get(name, ())) if count}

    def is_level(self, name: str) -> bool:
        """Whether `name` goes up and down."""
        return name in self._levels

    def histograms(self) -> dict[str, Histogram]:
        """All histograms by name. They go on: copy what is to stay."""
        return dict(sorted(self._histograms.items()))

    def names(self) -> Iterable[str]:
        """The names of all counters and levels."""
        return sorted({*self._values, *self._labelled, *self._tallies})

    def snapshot(self) -> dict[str, int]:
        """All counters and levels now, by name; labelled ones as their totals."""
        return {name: self[name] for name in self.names()}
