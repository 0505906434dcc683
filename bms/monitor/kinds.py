"""Names for what is counted by number, and one list of what was refused out of what several rooms count.

A message's kind is the name of its class in `wire.messages`, in snake case. Refusals are `room.reason`; their reasons
are few and ours, never a text of a peer.
"""

from __future__ import annotations

import re
from typing import get_args

from ..counters import Counters
from ..wire.messages import AnyMessage

__all__ = ["KINDS", "message_kinds", "refusals"]

KINDS: dict[int, str] = {
    cls.TYPE: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower() for cls in get_args(AnyMessage)
}
"""The messages of links by their number."""

_BY_REASON = {
    "net.handshakes_refused": "handshake",
    "net.handshakes_failed": "handshake",
    "messaging.refusals": "message",
    "http.refused": "http",
}
_ALONE = {
    "net.connections_over_limit": "connection.over_limit",
    "net.protocol_errors": "link.protocol",
    "messaging.broadcasts_dropped": "broadcast.full",
    "data.entries_refused": "entry.refused",
    "data.pushes_dropped": "push.full",
    "membership.malformed_packets": "packet.malformed",
    "discovery.candidates_over_limit": "candidate.over_limit",
}


def message_kinds(counters: Counters, name: str) -> dict[str, int]:
    """A row of counters by message type, by name."""
    return {KINDS.get(number, str(number)): count for number, count in counters.tallied(name).items()}


def refusals(counters: Counters) -> dict[str, int]:
    """What this node has refused to take, by reason."""
    found: dict[str, int] = {}
    for name, subject in _BY_REASON.items():
        for labels, count in counters.labelled(name).items():
            found[f"{subject}.{labels[-1]}"] = count
    found |= {reason: counters[name] for name, reason in _ALONE.items() if counters[name]}
    return dict(sorted(found.items()))
