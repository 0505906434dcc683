"""What a node answers to questions about itself. These are values alone; `mesh` fills them in."""

from __future__ import annotations

import attrs

from .membership.candidates import Finding
from .supervisor import Condition
from .values import NodeId

__all__ = ["Changes", "DataSummary", "Stats"]


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
class Stats:
    """Statistics of a running node. `counters` are those of all rooms since `init`; times in seconds.

    `discovery` says where the node has looked for others, and what became of it.
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
