"""How a node is: what is looked at, and from when on it is not well. Plain: facts in, checks out.

    check           degraded                                        failing
    (a subsystem)   restarting after a crash                        the same, of one that the node cannot do without
    store                                                           its last commit failed
    disk            less than `DISK_LOW_BYTES` free                 less than `DISK_FULL_BYTES`
    certificate     less than a tenth of its life left              expired, or not valid yet
    time            more than `CLOCK_OFF_S` from the mesh's median
    peers           others are known or expected, none is linked
    queues          one is more than `QUEUE_FULL` full
    scheduler       a task waited `LAG_S` for its turn lately
    handles         more than `HANDLES_FULL` of what is allowed

"degraded" says that somebody should look; the node serves. "failing" says that part of what it is for does not work,
and that work should go elsewhere. A reason names the cause and, where there is one, what to do. Absent: what other
nodes think of this one (they say so themselves), and any action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ..reports import Check, Health
from ..supervisor import Condition

__all__ = ["DEGRADED", "DISK_FULL_BYTES", "FAILING", "OK", "ORDER", "Facts", "judge"]

OK, DEGRADED, FAILING = "ok", "degraded", "failing"
ORDER = (OK, DEGRADED, FAILING)
"""From best to worst."""

# Without these a node is none. The others come back by themselves, and it serves meanwhile.
_VITAL = ("links", "membership", "data", "listener")

DISK_LOW_BYTES = 64 * 1024 * 1024
DISK_FULL_BYTES = 1024 * 1024
CLOCK_OFF_S = 1.0
QUEUE_FULL = 0.9
LAG_S = 0.5
HANDLES_FULL = 0.9
PATIENCE_S = 15.0
"""So long after its start a node may still be looking for others."""
_LIFE_LEFT = 0.1
_HOUR_S, _DAY_S = 3600, 86_400


@attrs.frozen(kw_only=True)
class Facts:
    """What is known of the node now. Times in seconds; None: not known, or does not apply.

    `certificate_life_s` is from its beginning to its end, of which `certificate_left_s` are left by the wall clock, and
    that is `clock_offset_s` behind the mesh's. `peers_known` counts the members that should be there, `queues` how full
    each is (0 to 1), `lag_s` the longest wait for a turn lately.
    """

    subsystems: Mapping[str, Condition]
    uptime_s: float
    store_failing: str | None
    disk_free_bytes: int | None
    certificate_left_s: float
    certificate_life_s: float
    clock_offset_s: float
    peers_linked: int
    peers_known: int
    expects_peers: bool
    queues: Mapping[str, float]
    lag_s: float | None
    handles: int | None
    handles_max: int | None


def judge(facts: Facts) -> Health:
    """All checks, and the worst of them."""
    checks = (
        *_subsystems(facts.subsystems),
        _store(facts),
        _disk(facts),
        _certificate(facts),
        _time(facts),
        _peers(facts),
        _queues(facts),
        _scheduler(facts),
        _handles(facts),
    )
    return Health(_worst(checks), checks)


def _worst(checks: Sequence[Check]) -> str:
    return max((check.status for check in checks), key=ORDER.index, default=OK)


def _subsystems(conditions: Mapping[str, Condition]) -> list[Check]:
    found = []
    for name, condition in conditions.items():
        again = "" if not condition.crashes else f"; {condition.crashes} crashes so far, the last: {condition.reason}"
        if condition.state == "running":
            found.append(Check(name, OK, f"running{again}"))
        else:
            status = FAILING if name.split(" ")[0] in _VITAL else DEGRADED
            found.append(Check(name, status, f"{condition.state}{again}"))
    return found


def _store(facts: Facts) -> Check:
    if facts.store_failing is not None:
        return Check("store", FAILING, f"{facts.store_failing}; it is tried again, and nothing stored is lost")
    return Check("store", OK, "can be written")


def _disk(facts: Facts) -> Check:
    free = facts.disk_free_bytes
    if free is None:
        return Check("disk", OK, "not used")
    if free < DISK_LOW_BYTES:
        status = FAILING if free < DISK_FULL_BYTES else DEGRADED
        return Check("disk", status, f"{free // 1024:,} KiB are free: make room, or writes fail")
    return Check("disk", OK, f"{free // (1024 * 1024):,} MiB are free")


def _certificate(facts: Facts) -> Check:
    left = facts.certificate_left_s
    if left <= 0:
        why = f"expired {_days(-left)} ago: no new link can be made; have new files issued, or set this machine's clock"
        return Check("certificate", FAILING, why)
    if left > facts.certificate_life_s:
        why = f"not valid before {_days(left - facts.certificate_life_s)} from now: set this machine's clock"
        return Check("certificate", FAILING, f"{why}; no new link can be made")
    if left < facts.certificate_life_s * _LIFE_LEFT:
        return Check("certificate", DEGRADED, f"expires in {_days(left)}, and no authority has renewed it")
    return Check("certificate", OK, f"valid for {_days(left)}")


def _days(seconds: float) -> str:
    if seconds >= 2 * _DAY_S:
        return f"{seconds / _DAY_S:.0f} days"
    return f"{seconds / _HOUR_S:.1f} hours" if seconds >= _HOUR_S else f"{seconds:.0f} seconds"


def _time(facts: Facts) -> Check:
    offset = facts.clock_offset_s
    if abs(offset) > CLOCK_OFF_S:
        side = "behind" if offset > 0 else "ahead of"
        much = f"{abs(offset):.1f} s" if abs(offset) < _HOUR_S else _days(abs(offset))
        also = "; certificates go by it, so that links may be refused" if abs(offset) >= _HOUR_S else ""
        return Check("time", DEGRADED, f"{much} {side} the mesh's: set this machine's clock (NTP){also}")
    return Check("time", OK, f"{offset * 1000:+.0f} ms from the mesh's median")


def _peers(facts: Facts) -> Check:
    if facts.peers_linked:
        return Check("peers", OK, f"{facts.peers_linked} linked, {facts.peers_known} known to be there")
    if not facts.peers_known and not facts.expects_peers:
        return Check("peers", OK, "this node is the only one")
    if facts.uptime_s < PATIENCE_S:
        return Check("peers", OK, "looking for others")
    if facts.peers_known:
        return Check("peers", DEGRADED, f"{facts.peers_known} are known, and none is linked: is the network down?")
    return Check("peers", DEGRADED, "nobody can be reached of those that were named or found before")


def _queues(facts: Facts) -> Check:
    full = {name: share for name, share in facts.queues.items() if share > QUEUE_FULL}
    if full:
        listed = ", ".join(f"{name} {share:.0%}" for name, share in full.items())
        return Check("queues", DEGRADED, f"nearly full: {listed}; what does not fit is refused or waits")
    most = max(facts.queues.values(), default=0.0)
    return Check("queues", OK, f"the fullest is {most:.0%} full")


def _scheduler(facts: Facts) -> Check:
    if facts.lag_s is not None and facts.lag_s > LAG_S:
        why = f"tasks waited up to {facts.lag_s:.1f} s for their turn: the machine is overloaded, or something blocks"
        return Check("scheduler", DEGRADED, why)
    return Check("scheduler", OK, "not measured yet" if facts.lag_s is None else f"late by {facts.lag_s * 1000:.0f} ms")


def _handles(facts: Facts) -> Check:
    if facts.handles is None or facts.handles_max is None:
        return Check("handles", OK, "not limited")
    said = f"{facts.handles:,} of {facts.handles_max:,} are open"
    if facts.handles > facts.handles_max * HANDLES_FULL:
        return Check("handles", DEGRADED, f"{said}: raise `ulimit -n`, or lower max_connections")
    return Check("handles", OK, said)
