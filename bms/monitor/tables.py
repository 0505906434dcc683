"""What a report says, as tables of text, and numbers as people read them. The page and the text are made from it.

Texts stand here as they came, from whomever: whoever puts them somewhere escapes them for there. Tables are in the
order in which they are read, those with nothing in them are left out, and all are bounded.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..reports import ErrorRecord, Health, Quantiles, Sample, SlowOperation, Stats
from ..values import Node
from .logs import LogRecord

__all__ = ["Facts", "Table", "amount", "moment", "seconds", "sections", "size"]

_ROWS_MAX = 500

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A title, the heads of the columns, and the rows."""


@attrs.frozen(kw_only=True)
class Facts:
    """What goes into a report. `time` is when it was made, in Unix seconds."""

    mesh_name: str
    mesh_id: str
    node_name: str
    version: str
    time: float
    stats: Stats
    health: Health
    nodes: tuple[Node, ...]
    history: tuple[Sample, ...]
    slow: tuple[SlowOperation, ...]
    errors: tuple[ErrorRecord, ...]
    logs: tuple[LogRecord, ...]


# --- numbers for people


def seconds(value: float | None) -> str:
    """A duration in the unit that fits: "1.25 ms"."""
    if value is None:
        return "–"
    if value == 0:
        return "0 s"
    for factor, unit in ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86_400.0, "d")):
        limit = 120.0 if unit in ("s", "min", "h") else 1000.0
        if abs(value) < factor * limit or unit == "d":
            return f"{_digits(value / factor)} {unit}"
    return f"{value} s"


def size(value: float | None) -> str:
    """Bytes in the unit that fits: "3.4 MiB"."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{_digits(value)} {unit}"
        value /= 1024
    return f"{_digits(value)} TiB"


def amount(value: float | None) -> str:
    """A number: "12,345", "0.25"."""
    return "–" if value is None else _digits(value)


def moment(time: float) -> str:
    """A time of day, UTC."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _digits(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


# --- what stands in it


def sections(facts: Facts) -> list[Table]:
    """The tables, in order; those with nothing in them are left out."""
    stats = facts.stats
    tables: list[Table] = [
        ("Checks", ("check", "status", "reason"), [(c.name, c.status, c.reason) for c in facts.health.checks]),
        _now(stats),
        _latencies(stats.latencies),
        _messages(stats.messages),
        _nodes(facts.nodes),
        _peers(stats),
        ("Refused", ("what", "count"), _counts(stats.refusals)),
        _slow(facts.slow),
        ("Errors by class", ("error", "count"), _counts(stats.errors)),
        _errors(facts.errors),
        _subsystems(stats),
        (
            "Where others were looked for",
            ("source", "place", "outcome", "when"),
            [(f.source, f.candidate, f.outcome, moment(f.when)) for f in stats.discovery],
        ),
        ("Log", ("time", "level", "room", "text"), [(moment(r.time), r.level, r.logger, r.text) for r in facts.logs]),
        ("Counters", ("counter", "count"), _counts(stats.counters)),
    ]
    return [table for table in tables if table[2]]


def _counts(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    return [(name, f"{count:,}") for name, count in counts.items()]


def _now(stats: Stats) -> Table:
    rates, queues, resources = stats.rates, stats.queues, stats.resources
    rows = [
        ("up for", seconds(stats.uptime_s)),
        ("links", amount(stats.connections)),
        ("messages sent", f"{amount(rates.messages_sent)} a second"),
        ("messages received", f"{amount(rates.messages_received)} a second"),
        ("sent", f"{size(rates.bytes_sent)} a second, {size(stats.bytes_sent)} in all"),
        ("received", f"{size(rates.bytes_received)} a second, {size(stats.bytes_received)} in all"),
        ("writes", f"{amount(rates.writes)} a second"),
        ("HTTP requests", f"{amount(rates.http_requests)} a second"),
        ("waiting to be sent", f"{queues.link_messages:,} messages, {size(queues.link_bytes)}"),
        ("waiting for this program", f"{queues.inbox_messages:,} messages"),
        ("waiting to be written", f"{queues.store_writes:,} writes, {size(queues.store_bytes)}"),
        ("entries", f"{stats.data.entries:,} with {size(stats.data.bytes)}, {stats.data.tombstones:,} deleted"),
        ("data's fingerprint", stats.data.fingerprint),
        ("CPU", f"{rates.cpu:.1%} of a core, {seconds(resources.cpu_s)} in all"),
        ("memory", size(resources.rss_bytes)),
        ("handles", f"{amount(resources.handles)} of {amount(resources.handles_max)}"),
        ("free on disk", size(resources.disk_free_bytes)),
        ("clock", f"{stats.clock_offset_s * 1000:+.0f} ms from the mesh's"),
    ]
    return "Now", ("what", "how much"), rows


_NAMES = {
    "messaging.delivery_s": "message until acknowledged",
    "messaging.request_s": "request until answered",
    "messaging.serve_s": "answering a request",
    "net.reply_s": "reply on a link",
    "net.room_wait_s": "waiting for room on a link",
    "net.handshake_s": "handshake",
    "store.write_s": "write until durable",
    "store.commit_s": "commit",
    "store.group": "writes in a commit",
    "store.commit_bytes": "bytes in a commit",
    "data.sync_s": "reconciliation with a peer",
    "http.request_s": "HTTP request",
    "monitor.scheduler_lag_s": "scheduler lag",
}


def _latencies(latencies: Mapping[str, Quantiles]) -> Table:
    rows = []
    for name, found in latencies.items():
        if found.count:
            show = seconds if name.endswith("_s") else size if name.endswith("_bytes") else amount
            values = (show(value) for value in (found.mean, found.p50, found.p90, found.p99))
            rows.append((_NAMES.get(name, name), f"{found.count:,}", *values))
    return "How long it takes", ("what", "count", "mean", "half within", "90 % within", "99 % within"), rows


def _messages(messages: Mapping[str, Mapping[str, int]]) -> Table:
    sent, received = messages.get("sent", {}), messages.get("received", {})
    rows = [(kind, f"{sent.get(kind, 0):,}", f"{received.get(kind, 0):,}") for kind in sorted({*sent, *received})]
    return "Messages on links", ("type", "sent", "received"), rows


def _nodes(nodes: tuple[Node, ...]) -> Table:
    rows = [
        (
            node.name,
            node.node_id.short,
            str(node.state),
            "–" if node.address is None else str(node.address),
            seconds(node.rtt_s),
            "–" if node.last_seen is None else moment(node.last_seen),
        )
        for node in nodes[:_ROWS_MAX]
    ]
    return "Nodes", ("name", "id", "state", "address", "round trip", "last seen"), rows


def _peers(stats: Stats) -> Table:
    rows = [
        (
            peer.name,
            peer.node_id.short,
            seconds(peer.rtt_s),
            seconds(peer.reply_s.p50),
            seconds(peer.reply_s.p99),
            size(peer.bytes_sent),
            size(peer.bytes_received),
            size(peer.queued_bytes),
            "–" if peer.clock_offset_s is None else f"{peer.clock_offset_s * 1000:+.0f} ms",
            seconds(peer.age_s),
        )
        for peer in stats.peers
    ]
    heads = ("name", "id", "round trip", "reply p50", "p99", "sent", "received", "waiting", "clock", "up for")
    return "Links", heads, rows


def _slow(slow: tuple[SlowOperation, ...]) -> Table:
    rows = [(moment(s.time), s.what, seconds(s.seconds), _listed(s.facts)) for s in reversed(slow)]
    return "Slow operations", ("time", "what", "took", "about"), rows


def _errors(errors: tuple[ErrorRecord, ...]) -> Table:
    rows = [(moment(e.time), e.error, e.text, _listed(e.context)) for e in reversed(errors)]
    return "Reported errors", ("time", "error", "text", "about"), rows


def _subsystems(stats: Stats) -> Table:
    rows = [(name, unit.state, str(unit.crashes), unit.reason) for name, unit in stats.subsystems.items()]
    return "Subsystems", ("name", "state", "crashes", "last reason"), rows


def _listed(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in facts.items())
