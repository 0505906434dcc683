"""All metrics of a node as text: OpenMetrics 1.0, or Prometheus' older format 0.0.4. What they mean is in `catalog`.

Collected anew for each question from what is counted anyway, so nothing is kept here and nothing runs in between. This
module imports prometheus_client: it is loaded by whoever serves `/metrics`, not by a node.

Invariants: every family of the answer stands in the catalog; a label's value is a word of ours, or the id or name of
one of at most `sampling.PEERS_MAX` peers, escaped by the library.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.exposition import generate_latest as classic
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as modern
from prometheus_client.utils import floatToGoString

from ..config import Config
from ..counters import Counters, Histogram
from ..reports import Health, Stats
from .catalog import CATALOG, COUNTER, GAUGE
from .catalog import Metric as Row
from .health import ORDER
from .kinds import message_kinds
from .resources import version

__all__ = ["CLASSIC", "OPENMETRICS", "Source", "exposition"]

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CLASSIC = "text/plain; version=0.0.4; charset=utf-8"

_MESSAGES = ("net.messages_sent", "net.messages_received")

Points = Iterable[tuple[tuple[str, ...], float]]


class Source(Protocol):
    """The node that is asked: a `Mesh`."""

    counters: Counters

    @property
    def config(self) -> Config:
        """Its configuration."""
        ...

    @property
    def mesh_id(self) -> str:
        """Its mesh."""
        ...

    @property
    def certificate_expires_at(self) -> float:
        """When its certificate expires."""
        ...

    def collect_stats(self) -> Stats:
        """Its statistics."""
        ...

    def check_health(self) -> Health:
        """How it is."""
        ...

    def histograms(self) -> dict[str, Histogram]:
        """All its histograms, complete."""
        ...


def exposition(mesh: Source, accept: str | None = None) -> tuple[str, bytes]:
    """The content type and the text of all metrics. ClosedError if the node is not running.

    OpenMetrics, unless `accept` (the field of that name) names "text/plain" and not OpenMetrics: then the older format.
    """
    registry = _Families(mesh)
    wanted = (accept or "").lower()
    if "text/plain" in wanted and "application/openmetrics-text" not in wanted:
        return CLASSIC, classic(registry)
    return OPENMETRICS, modern(registry)  # type: ignore[no-untyped-call]


class _Families:
    """What prometheus_client takes for a registry: something that can be collected."""

    def __init__(self, mesh: Source) -> None:
        self._counters = mesh.counters
        self._histograms = mesh.histograms()
        self._computed = _computed(mesh)

    def collect(self) -> Iterator[Metric]:
        """One family for each row of the catalog that there is something to say of."""
        for row in CATALOG:
            if row.kind not in (COUNTER, GAUGE):
                histogram = self._histograms.get(str(row.source))
                if histogram is not None:
                    yield _histogram(row, histogram)
                continue
            kind = CounterMetricFamily if row.kind == COUNTER else GaugeMetricFamily
            family = kind(row.name, row.meaning, labels=row.labels, unit=row.unit)
            for labels, value in self._points(row):
                family.add_metric(labels, value)
            if family.samples:
                yield family

    def _points(self, row: Row) -> Points:
        if row.source is None:
            return self._computed.get(row.name, ())
        if not isinstance(row.source, str):
            return ((labels, self._counters[name]) for name, labels in row.source)
        if row.source in _MESSAGES:
            return (((kind,), count) for kind, count in message_kinds(self._counters, row.source).items())
        return self._counters.labelled(row.source).items()


def _histogram(row: Row, histogram: Histogram) -> Metric:
    sums = itertools.accumulate(histogram.counts)
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    family = HistogramMetricFamily(row.name, row.meaning, unit=row.unit)
    family.add_metric((), list(zip(bounds, sums, strict=True)), histogram.sum)
    return family


def _computed(mesh: Source) -> dict[str, Points]:
    """What no counter says: levels, and figures of the process."""
    stats, health, config = mesh.collect_stats(), mesh.check_health(), mesh.config
    queues, resources = stats.queues, stats.resources
    node = (version(), platform.python_version(), config.mesh_name, str(stats.node_id), config.node_name)
    single: dict[str, float | None] = {
        "bms_uptime_seconds": stats.uptime_s,
        "bms_health_status": ORDER.index(health.status),
        "bms_certificate_expiry_timestamp_seconds": mesh.certificate_expires_at,
        "bms_clock_offset_seconds": stats.clock_offset_s,
        "bms_links": stats.connections,
        "bms_link_sent_bytes": stats.bytes_sent,
        "bms_link_received_bytes": stats.bytes_received,
        "bms_link_queue_bytes": queues.link_bytes,
        "bms_link_queue_messages": queues.link_messages,
        "bms_inbox_messages": queues.inbox_messages,
        "bms_store_failing": stats.store.failing is not None,
        "bms_store_queue_writes": queues.store_writes,
        "bms_store_queue_bytes": queues.store_bytes,
        "bms_data_entries": stats.data.entries,
        "bms_data_bytes": stats.data.bytes,
        "bms_data_tombstones": stats.data.tombstones,
        "bms_process_cpu_seconds": resources.cpu_s,
        "bms_process_resident_memory_bytes": resources.rss_bytes,
        "bms_process_open_handles": resources.handles,
        "bms_process_max_handles": resources.handles_max,
        "bms_process_tasks": resources.tasks,
        "bms_disk_free_bytes": resources.disk_free_bytes,
    }
    found: dict[str, Points] = {name: [((), float(value))] for name, value in single.items() if value is not None}
    peers = [((peer.node_id.short, peer.name), peer) for peer in stats.peers]
    return found | {
        "bms_build_info": [(node, 1.0)],
        "bms_health_check_status": [((check.name,), float(ORDER.index(check.status))) for check in health.checks],
        "bms_subsystem_up": [((name,), float(unit.state == "running")) for name, unit in stats.subsystems.items()],
        "bms_nodes": [((state,), float(count)) for state, count in stats.nodes.items()],
        "bms_queue_full_ratio": [
            (("link",), queues.link_full_share),
            (("inbox",), queues.inbox_full_share),
            (("store",), queues.store_full_share),
        ],
        "bms_peer_rtt_seconds": [(labels, peer.rtt_s) for labels, peer in peers if peer.rtt_s is not None],
        "bms_peer_reply_p99_seconds": [
            (labels, peer.reply_s.p99) for labels, peer in peers if peer.reply_s.p99 is not None
        ],
    }
