"""Places where nodes of the mesh may live, and what became of dialing them. A plain machine.

Sources of addresses (discovery.py lists them) offer candidates; each is a list of addresses that are tried in order
until one answers. Times are monotonic seconds, passed in.

    state     entered when                                  then
    waiting   offered; every address failed; its link       given out by `due` when its time has come and there is room
              ended (`lost`)
    dialing   given out by `due`                            `reached` or `failed` is owed
    there     `reached`; or its node is there by another    looked at again after a rest, or soon when `lost`
              way when its time has come

Invariants: at most `DIALS_MAX` dials are under way at once, and of one source at most `BOUNDS[source].dials`, with
`spacing_s` between their starts; an address or a node is not dialed twice at once; of one source at most
`BOUNDS[source].candidates` are kept. So what anybody can announce costs a stated number of dials and bytes. Whoever
waits for longest goes first, at one time in the order of `BOUNDS`, which begins with what a person has written down;
and no source that others can fill may have all the dials. So nobody is starved.

`Findings` is what a person can read of it: for each source and place the last outcome, and when it came.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

import attrs

from ..values import Address, NodeId

__all__ = ["BOUNDS", "DIALS_MAX", "SETTLED_S", "Bound", "Candidate", "Candidates", "Finding", "Findings"]

DIALS_MAX = 8
SETTLED_S = 30.0
ADDRESSES_MAX = 16
"""Addresses of one candidate; of more the first are kept."""
_FINDINGS_MAX = 64
_TEXT_MAX = 300


@attrs.frozen
class Bound:
    """What one source may cost: candidates kept, dials at once, seconds between the starts of two dials."""

    candidates: int
    dials: int
    spacing_s: float


BOUNDS: dict[str, Bound] = {
    "seeds": Bound(1000, DIALS_MAX, 0.0),
    "srv": Bound(100, DIALS_MAX, 0.0),
    "registry": Bound(1000, DIALS_MAX, 0.0),
    "mdns": Bound(64, 2, 0.5),
    "snapshot": Bound(1000, DIALS_MAX - 2, 0.0),
}
"""By source. What mDNS says comes from anybody on the network; what the snapshot says may be long out of date."""


@attrs.define(eq=False)
class Candidate:
    """One place. `node_id` is who lives there: as the source claims, later as a link has proven."""

    source: str
    label: str
    addresses: tuple[Address, ...]
    node_id: NodeId | None
    next_dial: float
    wait_s: float = 0.0
    is_dialing: bool = False
    is_watched: bool = False
    """Whether somebody waits for the end of the link to it, to call `lost`."""
    is_withdrawn: bool = False


class Candidates:
    """All places of one node. See the module's table."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._sources: dict[str, dict[str, Candidate]] = {source: {} for source in BOUNDS}
        self._next_start = dict.fromkeys(BOUNDS, float("-inf"))

    def __iter__(self) -> Iterator[Candidate]:
        for candidates in self._sources.values():
            yield from candidates.values()

    def labels(self, source: str) -> set[str]:
        """What a source has offered and not withdrawn."""
        return {label for label, candidate in self._sources[source].items() if not candidate.is_withdrawn}

    # ------------------------------------------------------------------ events

    def offer(
        self, source: str, label: str, addresses: Iterable[Address], now: float, node_id: NodeId | None = None
    ) -> bool:
        """Dial one of `addresses` as soon as there is room; what `label` had before is replaced. False: no place."""
        places = tuple(dict.fromkeys(addresses))[:ADDRESSES_MAX]
        mine = self._sources[source]
        known = mine.get(label)
        if known is not None:
            known.is_withdrawn = False
        if known is None:
            if len(mine) >= BOUNDS[source].candidates:
                return False
            mine[label] = Candidate(source, label, places, node_id, now)
        elif set(places) != set(known.addresses) or (node_id is not None and node_id != known.node_id):
            known.addresses, known.wait_s = places, 0.0
            known.node_id = node_id or known.node_id
            known.next_dial = now
        return True

    def withdraw(self, source: str, label: str) -> None:
        """Forget a candidate; one that is being dialed counts until that has ended."""
        candidate = self._sources[source].get(label)
        if candidate is not None:
            candidate.is_withdrawn = True
            self._drop(candidate)

    def reached(self, candidate: Candidate, node_id: NodeId, now: float) -> None:
        """A dial has led to `node_id`, or it is there already."""
        candidate.node_id = node_id
        candidate.is_dialing = False
        self._settle(candidate, now + SETTLED_S)
        self._drop(candidate)

    def failed(self, candidate: Candidate, now: float, wait_s: float, wait_max_s: float) -> None:
        """No address answered; the pause grows from `wait_s` by halves to `wait_max_s`, with jitter."""
        candidate.is_dialing = False
        candidate.wait_s = min(wait_max_s, max(wait_s, candidate.wait_s * 1.5))
        candidate.next_dial = now + candidate.wait_s * self._chance.uniform(0.75, 1.0)
        self._drop(candidate)

    def lost(self, candidate: Candidate, now: float, wait_s: float) -> None:
        """The link to a candidate's node has ended: it may have moved or left, and be back soon."""
        if not candidate.is_dialing:
            candidate.wait_s = wait_s
            candidate.next_dial = min(candidate.next_dial, now + wait_s * self._chance.uniform(0.5, 1.0))

    # ------------------------------------------------------------------ time

    def due(self, now: float, rest_s: Callable[[Candidate], float]) -> list[Candidate]:
        """What is to be dialed now. Those that are there are looked at again after `rest_s(candidate)`, if above 0."""
        chosen: list[Candidate] = []
        busy = [candidate for candidate in self if candidate.is_dialing]
        addresses = {address for candidate in busy for address in candidate.addresses}
        nodes = {candidate.node_id for candidate in busy}
        room = {
            source: bound.dials - sum(candidate.source == source for candidate in busy)
            for source, bound in BOUNDS.items()
        }
        # Whoever waits for longest goes first, or those that fail at once would keep others from being tried at all.
        waiting = sorted(
            (candidate for candidate in self if not candidate.is_dialing and candidate.next_dial <= now),
            key=lambda candidate: candidate.next_dial,
        )
        for candidate in waiting:
            source = candidate.source
            if len(busy) + len(chosen) >= DIALS_MAX:
                break
            if room[source] <= 0 or now < self._next_start[source]:
                continue
            if (rest := rest_s(candidate)) > 0:
                self._settle(candidate, now + rest)
            elif addresses.isdisjoint(candidate.addresses) and (
                candidate.node_id is None or candidate.node_id not in nodes
            ):
                candidate.is_dialing = True
                self._next_start[source] = now + BOUNDS[source].spacing_s
                room[source] -= 1
                chosen.append(candidate)
                addresses.update(candidate.addresses)
                nodes.add(candidate.node_id)
        return chosen

    def deadline(self, now: float) -> float | None:
        """When `due` may have something without a dial having ended, or None. Later than `now`."""
        times = (
            max(candidate.next_dial, self._next_start[candidate.source])
            for candidate in self
            if not candidate.is_dialing
        )
        return min((time for time in times if time > now), default=None)

    def _drop(self, candidate: Candidate) -> None:
        mine = self._sources[candidate.source]
        if candidate.is_withdrawn and not candidate.is_dialing and mine.get(candidate.label) is candidate:
            del mine[candidate.label]

    def _settle(self, candidate: Candidate, until: float) -> None:
        candidate.wait_s = 0.0
        candidate.next_dial = until


@attrs.frozen
class Finding:
    """What became of one place: the source that named it, its address or name, the outcome, Unix seconds."""

    source: str
    candidate: str
    outcome: str
    when: float


class Findings:
    """The last outcome of each place, for at most 64 places of each source; those not heard of for longest go."""

    def __init__(self) -> None:
        self._sources: dict[str, dict[str, Finding]] = {source: {} for source in BOUNDS}

    def note(self, source: str, candidate: str, outcome: str, when: float) -> bool:
        """Take note; whether it says something else than before."""
        mine = self._sources[source]
        outcome = outcome[:_TEXT_MAX]
        before = mine.pop(candidate, None)
        mine[candidate] = Finding(source, candidate, outcome, when)
        if len(mine) > _FINDINGS_MAX:
            del mine[next(iter(mine))]
        return before is None or before.outcome != outcome

    def forget(self, source: str, candidate: str) -> None:
        """Drop what is known of a place that is no longer named."""
        self._sources[source].pop(candidate, None)

    def all(self) -> list[Finding]:
        """Everything, in the order of the sources, the latest last."""
        return [finding for mine in self._sources.values() for finding in mine.values()]
