"""Every metric: its name, kind, unit, labels, meaning, and the counter it comes from. One table, and the document.

Names follow Prometheus' rules: `bms_`, then what, then the base unit (seconds, bytes), and `_total` for what only
grows. Labels have few values, all of them ours: message types, reasons, names of subsystems; of peers at most
`sampling.PEERS_MAX` at a time. A test holds this table to what the rooms count: a counter without a row here fails it.

    Series   (counter, values of the labels)        one counter becomes one series
    "name"   a counter with labels of its own       its labels become those of the metric, in their order
    None     computed when asked (`metrics`)

docs/reference/metrics.md is printed from it: `python -m bms.monitor.catalog > docs/reference/metrics.md`.
"""

from __future__ import annotations

import sys

import attrs

from ..counters import BYTES, NUMBERS, SECONDS

__all__ = ["CATALOG", "COUNTER", "GAUGE", "HISTOGRAM", "Metric", "page"]

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Series = tuple[tuple[str, tuple[str, ...]], ...]


@attrs.frozen
class Metric:
    """One family. `name` is without `_total`; `unit` its last word, if it has one; see the module for `source`."""

    name: str
    kind: str
    meaning: str
    source: str | Series | None = None
    labels: tuple[str, ...] = ()
    unit: str = ""
    group: str = ""

    @property
    def shown(self) -> str:
        """The name as a query writes it."""
        return f"{self.name}_total" if self.kind == COUNTER else self.name


def _unit(name: str) -> str:
    return next((unit for unit in ("seconds", "bytes", "ratio") if name.endswith(f"_{unit}")), "")


def _counter(name: str, source: str | Series | None, meaning: str, *labels: str) -> Metric:
    if isinstance(source, str) and not labels:
        source = ((source, ()),)
    return Metric(name, COUNTER, meaning, source, labels, _unit(name))


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, GAUGE, meaning, None, labels, _unit(name))


def _histogram(name: str, source: str, meaning: str) -> Metric:
    return Metric(name, HISTOGRAM, meaning, source, (), _unit(name))


def _each(room: str, label_of: dict[str, str]) -> Series:
    return tuple((f"{room}.{what}", (label,)) for what, label in label_of.items())


def _same(room: str, *whats: str) -> Series:
    return _each(room, dict(zip(whats, whats, strict=True)))


_NODE = (
    _gauge("bms_build_info", "1; the labels say what runs.", "version", "python", "mesh", "node_id", "node_name"),
    _gauge("bms_uptime_seconds", "Since this life of the node began."),
    _gauge("bms_health_status", "The worst of all checks: 0 ok, 1 degraded, 2 failing."),
    _gauge("bms_health_check_status", "One check: 0 ok, 1 degraded, 2 failing.", "check"),
    _gauge("bms_subsystem_up", "1 while the subsystem serves, 0 while it is restarted.", "subsystem"),
    _counter("bms_subsystem_crashes", "supervisor.crashes", "Crashes of subsystems; each is restarted."),
    _gauge("bms_certificate_expiry_timestamp_seconds", "When this node's certificate expires (Unix time)."),
    _gauge("bms_clock_offset_seconds", "How far the mesh's median clock is ahead of this machine's."),
    _counter("bms_errors", "monitor.errors", "Errors that the program reported by `log_error`.", "error"),
    _counter("bms_slow_operations", "monitor.slow_operations", "What took longer than the setting.", "operation"),
)

_LINKS = (
    _gauge("bms_links", "Links that are up."),
    _counter("bms_links_opened", "net.links_opened", "Links that came up."),
    _counter("bms_links_closed", "net.links_closed", "Links that ended."),
    _counter("bms_link_sent_bytes", None, "Bytes sent on links, before TLS."),
    _counter("bms_link_received_bytes", None, "Bytes received on links, before TLS."),
    _counter("bms_link_messages_sent", "net.messages_sent", "Messages queued for links, by type.", "type"),
    _counter("bms_link_messages_received", "net.messages_received", "Messages read from links, by type.", "type"),
    _counter("bms_link_messages_ignored", "net.messages_ignored", "Messages of a newer version, which were ignored."),
    _gauge("bms_link_queue_bytes", "What waits to be sent on all links."),
    _gauge("bms_link_queue_messages", "Messages that wait to be sent on all links."),
    _histogram("bms_link_reply_seconds", "net.reply_s", "From asking a peer to its reply, on the link."),
    _histogram("bms_link_room_wait_seconds", "net.room_wait_s", "How long senders waited for room in a link's queue."),
    _counter("bms_connections_accepted", "net.connections_accepted", "Incoming connections."),
    _counter("bms_connections_over_limit", "net.connections_over_limit", "Incoming connections closed: too many came."),
    _counter("bms_dials", "net.dials", "Attempts to connect to another node."),
    _counter("bms_dials_failed", "net.dials_failed", "Those that became no link, by class of error.", "error"),
    _histogram("bms_handshake_seconds", "net.handshake_s", "TLS and the proofs of both sides, of links that came up."),
    _counter("bms_handshakes_refused", "net.handshakes_refused", "Incoming handshakes refused, by reason.", "reason"),
    _counter("bms_handshakes_failed", "net.handshakes_failed", "Incoming handshakes that broke off.", "error"),
    _counter("bms_link_rests", "net.rests", "Pauses of a link's reader that had taken its share of the loop."),
    _counter("bms_protocol_errors", "net.protocol_errors", "Links ended because the peer broke the protocol."),
    _counter(
        "bms_handler_crashes",
        (("net.handler_crashes", ("link",)), ("datagrams.handler_crashes", ("datagram",))),
        "Errors of this program's own in taking a message in.",
        "of",
    ),
    _gauge(
        "bms_peer_rtt_seconds",
        "Smoothed round trip on the link to a peer.",
        "peer",
        "name",
    ),
    _gauge("bms_peer_reply_p99_seconds", "What 99 % of that peer's replies did not exceed.", "peer", "name"),
)

_MESSAGES = (
    _counter("bms_messages_sent", "messaging.sent", "Direct messages acknowledged by the receiver."),
    _counter("bms_messages_received", "messaging.received", "Messages taken in for this program, broadcasts too."),
    _counter("bms_messages_duplicate", "messaging.duplicates", "Messages that had come before; delivered once."),
    _counter("bms_messages_failed", "messaging.failed", "Sends and requests that failed.", "operation", "error"),
    _counter("bms_messages_refused", "messaging.refusals", "Messages and requests not taken, by reason.", "reason"),
    _counter("bms_messages_without_grant", "messaging.refused", "Of those, with broadcasts: no grant for the topic."),
    _counter("bms_message_retries", "messaging.retries", "Attempts repeated because a link broke."),
    _counter("bms_message_push_backs", "messaging.pushed_back", "Attempts repeated because the receiver was full."),
    _histogram("bms_message_delivery_seconds", "messaging.delivery_s", "A direct message until it is acknowledged."),
    _histogram("bms_request_seconds", "messaging.request_s", "A request until its answer."),
    _histogram("bms_request_serve_seconds", "messaging.serve_s", "How long this program's handlers took."),
    _counter("bms_requests_served", "messaging.requests_served", "Requests that this program has answered."),
    _counter("bms_request_handler_errors", "messaging.handler_errors", "Requests whose handler raised an error."),
    _counter("bms_request_answers_unsent", "messaging.answers_unsent", "Answers that were not taken in time."),
    _counter("bms_broadcasts_sent", "messaging.broadcast", "Broadcasts of this node."),
    _counter("bms_broadcasts_unsent", "messaging.broadcasts_unsent", "Broadcasts a link had no room for."),
    _counter("bms_broadcasts_dropped", "messaging.broadcasts_dropped", "Broadcasts a subscriber had no room for."),
    _gauge("bms_inbox_messages", "Messages that wait for this program."),
)

_STORE = (
    _gauge("bms_store_failing", "1 while the store cannot be written."),
    _histogram("bms_store_write_seconds", "store.write_s", "A write from asking until it is durable."),
    _histogram("bms_store_commit_seconds", "store.commit_s", "One commit."),
    _histogram("bms_store_commit_writes", "store.group", "Writes that shared a commit."),
    _histogram("bms_store_commit_bytes", "store.commit_bytes", "Bytes of values in a commit."),
    _counter("bms_store_writes_failed", "store.writes_failed", "Writes that raised an error; they changed nothing."),
    _counter("bms_store_probes_failed", "monitor.store_probes_failed", "Attempts to write while it was failing."),
    _gauge("bms_store_queue_writes", "Writes that wait for the writing thread."),
    _gauge("bms_store_queue_bytes", "About what they hold."),
    _gauge("bms_data_entries", "Live entries."),
    _gauge("bms_data_bytes", "Bytes of their values."),
    _gauge("bms_data_tombstones", "Deletions that are kept."),
    _counter("bms_data_damage_found", "data.damage_found", "Entries and chunks whose bytes were damaged."),
    _counter("bms_data_entries_damaged", "data.entries_damaged", "Entries taken out for damage, to be fetched again."),
)

_SYNC = (
    _counter(
        "bms_sync_reconciliations",
        (("data.syncs", ("ok",)), ("data.syncs_failed", ("failed",))),
        "Reconciliations with a peer.",
        "result",
    ),
    _counter("bms_sync_rounds", "data.sync_rounds", "Rounds that they took."),
    _histogram("bms_sync_seconds", "data.sync_s", "One reconciliation with a peer."),
    _counter("bms_sync_sent_bytes", "data.sync_bytes_sent", "Bytes of entries sent while reconciling."),
    _counter("bms_sync_received_bytes", "data.sync_bytes_received", "Bytes of entries received while reconciling."),
    _counter("bms_sync_sent_entries", "data.sync_entries_sent", "Entries sent while reconciling."),
    _counter("bms_sync_received_entries", "data.sync_entries_received", "Entries received while reconciling."),
    _counter(
        "bms_sync_entries_applied",
        _each("data", {f"entries_{what}": what for what in ("new", "already", "superseded", "refused")}),
        "Entries of others, by what became of them.",
        "result",
    ),
    _counter(
        "bms_sync_pushes",
        _each("data", {"pushes_sent": "sent", "pushes_missed": "missed", "pushes_dropped": "dropped"}),
        "Own commits told to a peer at once: sent; missed, since its link was full; dropped here, since too many came.",
        "result",
    ),
    _counter("bms_sync_full_comparisons", "data.full_pulls", "Comparisons of everything that there is."),
    _counter("bms_sync_peers_at_fault", "data.peers_at_fault", "Links ended because a peer's entries were wrong."),
    _counter("bms_sync_copied_keys", "data.copied_keys", "Batches that show that a node's key is in use twice."),
)

_MEMBERSHIP = (
    _gauge("bms_nodes", "Members by state, this node included.", "state"),
    _counter(
        "bms_member_events",
        _same("membership", "joined", "suspected", "failed", "left", "updated", "forgotten", "refuted"),
        "What happened to members, and suspicions of this node that it refuted.",
        "event",
    ),
    _counter(
        "bms_member_complaints",
        _same("membership", "malformed_packets", "words_over_limit", "cards_unsent", "copied_key"),
        "What members did that they should not, or asked beyond their share.",
        "what",
    ),
    _counter("bms_datagrams_sent", "datagrams.sent", "Datagrams sent."),
    _counter("bms_datagrams_sent_bytes", "datagrams.bytes_sent", "Their bytes."),
    _counter("bms_datagrams_received", "datagrams.received", "Datagrams received, whoever sent them."),
    _counter("bms_datagrams_received_bytes", "datagrams.bytes_received", "Bytes of those that were taken."),
    _counter(
        "bms_datagrams_unsent",
        _each("datagrams", {"unknown_receiver": "unknown_receiver", "over_allowance": "over_allowance",
                            "unsealed": "unsealed", "unsent": "network"}),
        "Datagrams that could not be sent.",
        "reason",
    ),
    _counter(
        "bms_datagrams_dropped",
        _same("datagrams", "short", "oversized", "version", "counter", "own", "unknown_sender", "wrong_boot",
              "replayed", "weak_key", "unauthentic"),
        "Datagrams not taken, by reason.",
        "reason",
    ),
    _counter(
        "bms_discovery_failures",
        _each("discovery", {f"{source}_failed": source for source in ("seeds", "srv", "registry", "snapshot", "mdns")}),
        "First addresses where nobody of this mesh answered, by where they came from.",
        "source",
    ),
    _counter(
        "bms_discovery_complaints",
        _same("discovery", "srv_unresolved", "candidates_over_limit", "snapshots_unwritten"),
        "What went wrong in looking for others.",
        "what",
    ),
)  # fmt: skip

_HTTP = (
    _counter("bms_http_requests", "http.requests", "Requests, by how they ended.", "scheme", "method", "status"),
    _counter(
        "bms_http_route_requests", "http.routes", "Requests that reached a route, by how they ended.", "route", "status"
    ),
    _histogram("bms_http_request_seconds", "http.request_s", "A request until its answer was handed over."),
    _counter("bms_http_connections", "http.connections", "Connections accepted."),
    _counter(
        "bms_http_refused",
        _each("http", {"refused_connections": "connections", "refused_rate": "rate", "refused_size": "size"}),
        "Connections and requests refused, by the bound that they met.",
        "bound",
    ),
    _counter(
        "bms_http_slow_clients",
        _each("http", {"slow_handshakes": "handshake", "slow_bodies": "body", "slow_readers": "answer"}),
        "Connections ended because the client was too slow, by what it was slow at.",
        "at",
    ),
    _counter("bms_http_timeouts", "http.timeouts", "Connections ended because nothing came.", "state"),
    _counter("bms_http_evicted", "http.evicted", "Idle connections that gave way to new ones."),
    _counter("bms_http_floods", "http.floods", "Connections ended for what they sent too much of.", "what"),
    _counter("bms_http_handshakes_failed", "http.handshakes_failed", "TLS handshakes that broke off."),
    _counter("bms_http_broken", "http.broken", "Connections that broke."),
    _counter(
        "bms_http_crashes",
        (("http.errors", ("connection",)), ("http.crashes", ("request",))),
        "Errors of this program's own in serving.",
        "of",
    ),
)

_PROCESS = (
    _counter("bms_process_cpu_seconds", None, "CPU time of the whole process."),
    _gauge("bms_process_resident_memory_bytes", "Its memory."),
    _gauge("bms_process_open_handles", "Its open file handles."),
    _gauge("bms_process_max_handles", "How many it may have."),
    _gauge("bms_process_tasks", "Trio's tasks."),
    _gauge("bms_disk_free_bytes", "Free where the node keeps its data."),
    _gauge("bms_queue_full_ratio", "How full the fullest queue of a kind is, 0 to 1.", "queue"),
    _histogram("bms_scheduler_lag_seconds", "monitor.scheduler_lag_s", "How late a task got its turn, once a second."),
)

_GROUPS = {
    "The node": _NODE,
    "Links": _LINKS,
    "Messages": _MESSAGES,
    "Store": _STORE,
    "Synchronization": _SYNC,
    "Membership": _MEMBERSHIP,
    "HTTP": _HTTP,
    "Process": _PROCESS,
}

CATALOG: tuple[Metric, ...] = tuple(
    attrs.evolve(metric, group=group) for group, metrics in _GROUPS.items() for metric in metrics
)
"""All of them, in the order of the document."""

_INTRODUCTION = """\
# Metrics

Printed by `python -m bms.monitor.catalog > docs/reference/metrics.md`; do not edit. How to scrape them, and which to
watch, is in [monitoring](../how-to/monitoring.md).

`GET /metrics` gives all of them, in OpenMetrics or in Prometheus' older text format, as the `Accept` field asks.
Counters only grow, from the making of the node on (`init`), across `stop` and `start`; a new process begins at 0. Times
are in seconds, sizes in bytes. A metric without anything to count is left out, or 0.

A histogram has fixed buckets: times {seconds}; sizes {sizes}; numbers {numbers}. So histograms of several nodes can be
added, and a quantile is known to within its bucket.

Labels have few values. What comes from outside never becomes one, but for the names of peers, of which at most 64 are
shown at a time.
"""


def _span(bounds: tuple[float, ...], unit: str) -> str:
    return f"{len(bounds)} from {bounds[0]:g}{unit} to {bounds[-1]:g}{unit}"


def page() -> str:
    """The reference page, as Markdown."""
    parts = [_INTRODUCTION.format(seconds=_span(SECONDS, " s"), sizes=_span(BYTES, " B"), numbers=_span(NUMBERS, ""))]
    for group, metrics in _GROUPS.items():
        if not metrics:
            continue
        parts.append(f"\n## {group}\n\n| metric | kind | labels | unit | meaning |\n|---|---|---|---|---|\n")
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            parts.append(f"| `{metric.shown}` | {metric.kind} | {labels} | {metric.unit} | {metric.meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
