"""What a node answers to questions about itself. These are values alone; `verbs` and `monitor` fill them in.

Times in seconds, moments in Unix seconds, sizes in bytes. A field that was not measured is None.
"""

from __future__ import annotations

from typing import Any

import attrs

from .membership.candidates import Finding
from .supervisor import Condition
from .values import NodeId

__all__ = [
    "Changes",
    "Check",
    "DataSummary",
    "ErrorRecord",
    "Health",
    "PeerPerformance",
    "PeerStats",
    "Performance",
    "Quantiles",
    "Queues",
    "Rates",
    "Resources",
    "Sample",
    "SlowOperation",
    "Stats",
    "StoreStats",
]

OK, DEGRADED, FAILING = "ok", "degraded", "failing"


@attrs.frozen
class Changes:
    """What `reconfigure` did: the dotted names of the fields that changed, and the subsystems that were restarted.

    `certificate` says whether another certificate is in force.
    """

    fields: tuple[str, ...]
    restarted: tuple[str, ...]
    certificate: bool = False


@attrs.frozen
class DataSummary:
    """What the store holds: live `entries` with `bytes` of values, and what identifies its state.

    Two stores with equal `fingerprint` hold the same entries. `position` counts what this store has applied in `epoch`.
    """

    entries: int
    bytes: int
    tombstones: int
    position: int
    epoch: str
    fingerprint: str


@attrs.frozen
class Quantiles:
    """A distribution in short: how many, their mean, and what half, 90 % and 99 % of them do not exceed.

    Quantiles come from buckets of a logarithmic scale and are exact to within a bucket. None where there was nothing.
    """

    count: int = 0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


@attrs.frozen
class Rates:
    """What happened a second, over the last `seconds`; `cpu` is the share of one core that this process used."""

    seconds: float = 0.0
    messages_sent: float = 0.0
    messages_received: float = 0.0
    bytes_sent: float = 0.0
    bytes_received: float = 0.0
    delivered: float = 0.0
    writes: float = 0.0
    http_requests: float = 0.0
    cpu: float = 0.0


@attrs.frozen
class Resources:
    """What this process uses: CPU seconds since it began, resident memory, open handles of at most `handles_max`.

    `tasks` are Trio's, `scheduler_lag_s` is how late they get their turn.
    """

    cpu_s: float = 0.0
    rss_bytes: int | None = None
    handles: int | None = None
    handles_max: int | None = None
    disk_free_bytes: int | None = None
    tasks: int = 0
    scheduler_lag_s: Quantiles = Quantiles()


@attrs.frozen
class Queues:
    """What waits now: `link_…` to be sent, `inbox_messages` for this program, `store_…` for the writing thread.

    `…_full_share` is how full the fullest queue of that kind is, 0 to 1.
    """

    link_bytes: int = 0
    link_messages: int = 0
    link_full_share: float = 0.0
    inbox_messages: int = 0
    inbox_full_share: float = 0.0
    store_writes: int = 0
    store_bytes: int = 0
    store_full_share: float = 0.0


@attrs.frozen
class StoreStats:
    """The store: `commit_s` of one commit, `write_s` of one write from asking to being durable, waits included.

    `failing` says why nothing can be written, if so; `group` is how many writes shared a commit.
    """

    commits: int = 0
    failing: str | None = None
    commit_s: Quantiles = Quantiles()
    write_s: Quantiles = Quantiles()
    group: Quantiles = Quantiles()
    commit_bytes: Quantiles = Quantiles()


@attrs.frozen
class PeerStats:
    """One link: `rtt_s` smoothed, `reply_s` of all requests to that peer, what waits for it, its clock beside ours."""

    node_id: NodeId
    name: str
    rtt_s: float | None
    reply_s: Quantiles
    bytes_sent: int
    bytes_received: int
    queued_bytes: int
    queued_messages: int
    clock_offset_s: float | None
    age_s: float


@attrs.frozen
class Stats:
    """Statistics of a running node. `counters` are those of all rooms since `init`; times in seconds.

    `discovery` says where the node has looked for others, and what became of it. `messages` counts, for "sent" and
    "received", the messages of each kind on links; `refusals` what was refused, by reason; `latencies` what took how
    long; `peers` names the links that carried most; `clock_offset_s` is how far the mesh's clock is ahead of this one.
    """

    node_id: NodeId
    uptime_s: float
    connections: int
    nodes: dict[str, int]
    bytes_sent: int
    bytes_received: int
    messages_waiting: int
    data: DataSummary
    subsystems: dict[str, Condition]
    counters: dict[str, int]
    discovery: list[Finding]
    messages: dict[str, dict[str, int]] = attrs.field(factory=dict)
    rates: Rates = Rates()
    queues: Queues = Queues()
    latencies: dict[str, Quantiles] = attrs.field(factory=dict)
    peers: tuple[PeerStats, ...] = ()
    store: StoreStats = StoreStats()
    clock_offset_s: float = 0.0
    refusals: dict[str, int] = attrs.field(factory=dict)
    errors: dict[str, int] = attrs.field(factory=dict)
    resources: Resources = Resources()


@attrs.frozen
class Check:
    """One thing that was looked at: `status` is "ok", "degraded" or "failing", `reason` says why in words."""

    name: str
    status: str
    reason: str


@attrs.frozen
class Health:
    """How a node is: the worst `status` of its checks.

    "degraded": it serves, and something needs looking at. "failing": part of what it is for does not work.
    """

    status: str
    checks: tuple[Check, ...]

    @property
    def is_ready(self) -> bool:
        """Whether work may be given to it: nothing is failing."""
        return self.status != FAILING

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not "ok", in words."""
        return tuple(f"{check.name}: {check.reason}" for check in self.checks if check.status != OK)


@attrs.frozen
class PeerPerformance:
    """One peer as it was measured: round trips (None: it did not answer), and bytes a second towards it."""

    node_id: NodeId
    name: str
    rtt_s: Quantiles
    lost: int
    bytes_per_s: float | None


@attrs.frozen
class Performance:
    """What `measure_performance` found in `seconds`: `peers` (at most 32), durable writes, and the scheduler's lag."""

    seconds: float
    peers: tuple[PeerPerformance, ...]
    store_write_s: Quantiles
    store_error: str | None
    scheduler_lag_s: Quantiles


@attrs.frozen
class Sample:
    """One moment of a node's history: rates since the sample before, and levels.

    Latencies are those of what ended since then; `rtt_…_s` are the smoothed round trips to the linked peers.
    """

    time: float
    rates: Rates
    connections: int
    rss_bytes: int | None
    messages_waiting: int
    reply_p50_s: float | None
    reply_p99_s: float | None
    commit_p99_s: float | None
    scheduler_lag_p99_s: float | None
    rtt_median_s: float | None = None
    rtt_most_s: float | None = None


@attrs.frozen
class SlowOperation:
    """Something that took long: when it ended, what it was, how long, and facts about it."""

    time: float
    what: str
    seconds: float
    facts: dict[str, Any]


@attrs.frozen
class ErrorRecord:
    """An error that a program has reported: when, its class and text, and what it was about."""

    time: float
    error: str
    text: str
    context: dict[str, Any]
