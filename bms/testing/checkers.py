"""What must be true of a run, whatever its faults were. Each checker gives the violations it finds, as text.

    acknowledged_is_kept    what a write returned for is there afterwards, and nothing that nobody wrote; a write that
                            is durable at one node is not asked for if that node does not come back
    deleted_stays_deleted   a key whose last acknowledged change deleted it is not back
    linearizable            what the tasks of a host got from a key that they raced for, and what it holds afterwards,
                            is explained by one order of their operations, across crashes and restarts of the host
    replicas_are_equal      all stores have the same fingerprint, and the same keys with the same values
    at_most_once            no message arrives twice; one that failed ("never sent") does not arrive; one that was
                            acknowledged does, unless its receiver was started anew
    exactly_the_live        every node sees those alive that are, and no others
    cursors_are_true        a store holds everything, or something newer, up to the position that it says it holds of
                            another; must be true at every instant, so it is looked at during the run, too

A checker that has nothing to judge would be satisfied by anything: `judged` counts what each has looked at, and the
runner fails a run in which one that is asked for judged nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set

import attrs
import trio

from ..data.tables import from_sql
from ..errors import NotFoundError
from .history import ACKNOWLEDGED, FAILED, History, Write
from .linearizability import LINEARIZABLE, READ, Operation, check_keys
from .world import SimHost, SimWorld

__all__ = [
    "CHECKERS",
    "Evidence",
    "Violation",
    "acknowledged_is_kept",
    "at_most_once",
    "cursors_are_true",
    "deleted_stays_deleted",
    "exactly_the_live",
    "linearizable",
    "replicas_are_equal",
]

_SCAN = 100_000


@attrs.frozen
class Violation:
    """What was promised and not kept: the checker's name, and what it found."""

    checker: str
    text: str


@attrs.define
class Evidence:
    """What checkers look at. `contents` are each running host's keys and values, read when the run was over; `gone` are
    the hosts that were never to come back.
    """

    sim: SimWorld
    history: History
    gone: Set[SimHost] = frozenset()
    judged: Counter[str] = attrs.field(factory=Counter)
    contents: dict[str, dict[str, bytes]] = attrs.field(factory=dict)

    def counts(self, write: Write) -> bool:
        """Whether a write must be there: it was acknowledged, by a node that is not gone for good."""
        return write.outcome == ACKNOWLEDGED and self.sim.hosts[write.host] not in self.gone

    def read(self) -> None:
        """Read what every running host holds, through its own reads."""
        self.contents = {host.name: _contents(host) for host in self.sim.up()}


def _contents(host: SimHost) -> dict[str, bytes]:
    entries = host.mesh._entries
    found = {}
    for info in entries.scan(b"", None, _SCAN):
        assert isinstance(info.key, bytes)
        try:
            found[info.key.decode()] = entries.get(info.key).value
        except NotFoundError:
            continue
    return found


def _possible(evidence: Evidence, writes: list[Write]) -> set[bytes | None]:
    """The values that a key of one sequential writer may have: the last acknowledged one, or a later unknown one."""
    possible: set[bytes | None] = {None}
    for write in writes:
        if evidence.counts(write):
            possible = {write.value}
        elif write.outcome != FAILED:
            possible.add(write.value)
    return possible


def acknowledged_is_kept(evidence: Evidence) -> list[str]:
    """See the module."""
    found = []
    for key in evidence.history.written():
        writes = list(evidence.history.of_key(key))
        shared = key.startswith("all/")
        possible = (
            {write.value for write in writes if write.outcome != FAILED} if shared else _possible(evidence, writes)
        )
        if shared and not any(map(evidence.counts, writes)):
            possible.add(None)
        for host, contents in evidence.contents.items():
            evidence.judged["acknowledged_is_kept"] += 1
            value = contents.get(key)
            if value not in possible:
                found.append(
                    f"{host}: {key} is {value!r}; it was {[(w.host, w.value, w.outcome) for w in writes[-4:]]}"
                )
    tried = {*evidence.history.written(), *evidence.history.raced()}
    for host, contents in evidence.contents.items():
        found += [f"{host}: nobody wrote {key}" for key in sorted(set(contents) - tried)]
    return found


def deleted_stays_deleted(evidence: Evidence) -> list[str]:
    """See the module."""
    found = []
    for key in evidence.history.written():
        writes = list(evidence.history.of_key(key))
        if key.startswith("own/") and _possible(evidence, writes) == {None} and any(map(evidence.counts, writes)):
            for host, contents in evidence.contents.items():
                evidence.judged["deleted_stays_deleted"] += 1
                if key in contents:
                    found.append(f"{host}: {key} was deleted and is {contents[key]!r}")
    return found


def linearizable(evidence: Evidence) -> list[str]:
    """See the module. The last operation on each key is a read of it now, by the host that it belongs to."""
    history = evidence.history
    now = history.moment(trio.current_time())
    last = [
        Operation(
            client=f"{host} now", kind=READ, key=key, invoked_at=now, returned_at=now,
            result=evidence.contents[host].get(key),
        )
        for key in history.raced()
        if (host := key.split("/")[1]) in evidence.contents
    ]  # fmt: skip
    verdicts = check_keys([*history.operations, *last])
    evidence.judged["linearizable"] += len(verdicts)
    return [f"{key}: {verdict}" for key, verdict in verdicts.items() if verdict.outcome != LINEARIZABLE]


def replicas_are_equal(evidence: Evidence) -> list[str]:
    """See the module."""
    hosts = evidence.sim.up()
    found = []
    for host in hosts[1:]:
        evidence.judged["replicas_are_equal"] += 1
        first, other = evidence.contents[hosts[0].name], evidence.contents[host.name]
        differing = sorted(key for key in {*first, *other} if first.get(key) != other.get(key))
        if differing:
            found.append(f"{hosts[0].name} and {host.name} differ in {differing[:5]}")
        if host.mesh.data_summary().fingerprint != hosts[0].mesh.data_summary().fingerprint:
            found.append(f"{hosts[0].name} and {host.name} have different fingerprints")
    return found


def at_most_once(evidence: Evidence) -> list[str]:
    """See the module."""
    history, hosts = evidence.history, evidence.sim.hosts
    counts = Counter(delivery.body for delivery in history.deliveries)
    where = {delivery.body: delivery.host for delivery in history.deliveries}
    found = [f"{body!r} was delivered {count} times" for body, count in counts.items() if count > 1]
    sent = {sending.body: sending for sending in history.sendings}
    found += [f"nobody sent {body!r}" for body in counts if body not in sent]
    for body, sending in sent.items():
        evidence.judged["at_most_once"] += 1
        receiver = hosts[sending.to]
        if where.get(body, sending.to) != sending.to:
            found.append(f"{body!r} was delivered at {where[body]}, not {sending.to}")
        if sending.outcome == FAILED and counts[body]:
            found.append(f"{body!r} was delivered although sending it failed: {sending.error}")
        stayed = receiver.is_up and receiver.starts == sending.starts
        if sending.outcome == ACKNOWLEDGED and not counts[body] and stayed:
            found.append(f"{body!r} was acknowledged by {sending.to} and not delivered there")
    return found


def exactly_the_live(evidence: Evidence) -> list[str]:
    """See the module."""
    hosts = evidence.sim.up()
    live = {host.node_id: host.name for host in hosts}
    found = []
    for host in hosts:
        evidence.judged["exactly_the_live"] += 1
        seen = {node.node_id: node.name for node in host.mesh.nodes("alive")}
        missing = sorted(name for node_id, name in live.items() if node_id not in seen)
        extra = sorted(name for node_id, name in seen.items() if node_id not in live)
        if missing or extra:
            found.append(f"{host.name} misses {missing} and has {extra} too many")
    return found


CHECKERS: dict[str, Callable[[Evidence], list[str]]] = {
    checker.__name__: checker
    for checker in (
        acknowledged_is_kept, deleted_stays_deleted, linearizable, replicas_are_equal, at_most_once, exactly_the_live,
    )
}  # fmt: skip
"""The checkers of a finished run, by name."""

_ALL_ROWS = "SELECT position, hlc, author, id, key FROM entries"


class _Held:
    """What one store holds: its ids, the greatest order of each key, and its numbered entries."""

    def __init__(self, host: SimHost) -> None:
        entries = host.mesh._entries
        self.epoch = entries.state().epoch
        self.rows = [(row[0], (row[1], row[2], row[3]), row[4]) for row in entries._database.read(_ALL_ROWS)]
        self.greatest: dict[bytes, tuple[int, bytes, bytes]] = {}
        for _, order, key in self.rows:
            self.greatest[key] = max(order, self.greatest.get(key, order))
        self.cursors = {
            bytes(row[0]).hex(): (from_sql(row[1]), row[2])
            for row in entries._database.read("SELECT node, epoch, position FROM cursors")
        }


def cursors_are_true(evidence: Evidence) -> list[str]:
    """Every cursor of a running host against the store that it is about. See the module."""
    held = {host.node_id: (host.name, _Held(host)) for host in evidence.sim.up()}
    found = []
    for name, store in held.values():
        for node_id, (epoch, position) in store.cursors.items():
            other_name, other = held.get(node_id, ("", None))  # type: ignore[call-overload]
            if other is None or other.epoch != epoch:
                continue
            evidence.judged["cursors_are_true"] += 1
            for place, order, key in other.rows:
                if place <= position and store.greatest.get(key, (-(1 << 63), b"", b"")) < order:
                    found.append(f"{name} says it holds {other_name} up to {position}, but lacks {key!r} at {place}")
                    break
    return found
