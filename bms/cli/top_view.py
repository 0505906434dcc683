"""What `bms top` knows: the last sample of a node, what happened since it looks, and whether the node still answers.

    no sample yet ──take──> live ──nothing for PATIENCE──> late ──take──> live
                             └──gone──> gone ──take──> live

Rates are differences of two samples of one life of the node; after a restart they begin anew. Nothing here waits, draws
or reads a clock: samples carry the node's time, and whoever calls says what time it is here (Trio's clock).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

__all__ = ["EVENTS_MAX", "PLOT_SAMPLES", "Flow", "Happening", "View"]

EVENTS_MAX = 200
PLOT_SAMPLES = 120
LATE_S = 3.0
"""Without a sample for so long, and three intervals, what is shown is old."""

_SORTS = ("as listed", "name", "rtt", "rate")


@attrs.frozen
class Flow:
    """What passed a second, between two samples."""

    bytes_in: float = 0.0
    bytes_out: float = 0.0
    messages_in: float = 0.0
    messages_out: float = 0.0
    writes: float = 0.0
    cpu: float | None = None
    peers: dict[str, tuple[float, float]] = attrs.field(factory=dict)
    """Bytes in and out by node id."""


@attrs.frozen
class Happening:
    """One line of the events: Unix seconds, and what happened."""

    time: float
    text: str


def _total(stats: dict[str, Any], way: str) -> float:
    return float(sum(stats["messages"].get(way, {}).values()))


def _flow(old: dict[str, Any], new: dict[str, Any]) -> Flow | None:
    """None where the two are not of one life of the node, or of one moment."""
    before, after = old["stats"], new["stats"]
    seconds = new["time"] - old["time"]
    if seconds <= 0 or before["node_id"] != after["node_id"] or before["uptime_s"] > after["uptime_s"]:
        return None

    def rate(first: float, second: float) -> float:
        return float(max(0.0, second - first) / seconds)

    links = {peer["node_id"]: peer for peer in before["peers"]}
    peers = {}
    for peer in after["peers"]:
        known = links.get(peer["node_id"])
        if known is not None and known["age_s"] <= peer["age_s"]:
            ways = ("bytes_received", "bytes_sent")
            peers[peer["node_id"]] = (rate(known[ways[0]], peer[ways[0]]), rate(known[ways[1]], peer[ways[1]]))
    return Flow(
        bytes_in=rate(before["bytes_received"], after["bytes_received"]),
        bytes_out=rate(before["bytes_sent"], after["bytes_sent"]),
        messages_in=rate(_total(before, "received"), _total(after, "received")),
        messages_out=rate(_total(before, "sent"), _total(after, "sent")),
        writes=rate(before["data"]["position"], after["data"]["position"]),
        cpu=rate(before["resources"]["cpu_s"], after["resources"]["cpu_s"]),
        peers=peers,
    )


class View:
    """Everything that is shown. `status` says which node it is; `sample` is the last one, None before the first."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.status: Any = None
        self.sample: dict[str, Any] | None = None
        self.flow: Flow | None = None
        self.plot_in: deque[float] = deque(maxlen=PLOT_SAMPLES)
        self.plot_out: deque[float] = deque(maxlen=PLOT_SAMPLES)
        self.happenings: deque[Happening] = deque(maxlen=EVENTS_MAX)
        self.is_paused = False
        self.sort = _SORTS[0]
        self.offset = 0
        self._taken_at = 0.0
        self._gone: tuple[float, str, str] | None = None

    def take(self, sample: dict[str, Any], now: float) -> None:
        """The node has answered. While it is paused nothing changes but that."""
        self._taken_at, self._gone = now, None
        if self.is_paused and self.sample is not None:
            return
        flow = None if self.sample is None else _flow(self.sample, sample)
        self.sample, self.flow = sample, flow
        if flow is not None:
            self.plot_in.append(flow.bytes_in)
            self.plot_out.append(flow.bytes_out)

    def note(self, time: float, text: str) -> None:
        """Something has happened."""
        self.happenings.append(Happening(time, text))

    def lose(self, why: str, now: float, how: str = "NOT RUNNING") -> None:
        """The node cannot be asked any more, and `how` that is; said again, the first moment counts."""
        self._gone = (now if self._gone is None else self._gone[0], how, why)

    def trouble(self, now: float) -> str | None:
        """Why what is shown is not what is now, if so."""
        if self._gone is not None:
            since, how, why = self._gone
            return f"{how} for {now - since:.0f} s ({why}); trying again"
        silence = now - self._taken_at
        if self.sample is not None and silence > max(LATE_S, 3 * self.interval_s):
            return f"NO ANSWER for {silence:.0f} s: the process hangs, is stopped, or is overloaded"
        return None

    def press(self, key: str) -> None:
        """A key that changes what is shown."""
        if key == "s":
            self.sort = _SORTS[(_SORTS.index(self.sort) + 1) % len(_SORTS)]
        elif key == "p":
            self.is_paused = not self.is_paused
        elif key in ("down", "j"):
            self.offset += 1
        elif key in ("up", "k"):
            self.offset = max(0, self.offset - 1)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes as they are to be listed, each with its link's `bytes_in`, `bytes_out`, `reply_p99_s`, `queued`."""
        if self.sample is None:
            return []
        links = {peer["node_id"]: peer for peer in self.sample["stats"]["peers"]}
        peers = {} if self.flow is None else self.flow.peers
        rows = []
        for node in self.sample["nodes"]:
            link = links.get(node["node_id"])
            bytes_in, bytes_out = peers.get(node["node_id"], (None, None))
            more = {
                "bytes_in": bytes_in,
                "bytes_out": bytes_out,
                "reply_p99_s": None if link is None else link["reply_s"]["p99"],
                "queued": None if link is None else link["queued_bytes"],
                "is_linked": link is not None,
            }
            rows.append({**node, **more})
        me, others = rows[:1], rows[1:]
        if self.sort == "name":
            others.sort(key=lambda row: row["name"])
        elif self.sort == "rtt":
            others.sort(key=lambda row: (row["rtt_s"] is None, row["rtt_s"] or 0.0))
        elif self.sort == "rate":
            others.sort(key=lambda row: -((row["bytes_in"] or 0.0) + (row["bytes_out"] or 0.0)))
        return me + others
