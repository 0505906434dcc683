"""The verbs about the node itself: statistics, health, measurements, errors, reports. Reading changes nothing.

All but `measure_performance` are plain and quick: they put together what has been counted. What the figures mean is in
docs/reference/metrics.md, what to watch in docs/how-to/monitoring.md.
"""

from __future__ import annotations

import math

import attrs

from ..counters import Histogram
from ..errors import LimitError, LocalProtocolError
from ..monitor import health, performance
from ..monitor.kinds import message_kinds, refusals
from ..monitor.resources import version
from ..monitor.sampling import quantiles
from ..reports import Check, ErrorRecord, Health, PeerStats, Performance, Sample, SlowOperation, Stats
from ..values import NodeState
from .data import DataVerbs

__all__ = ["MonitoringVerbs"]

_MEASURE_S_MAX = 60.0


def _beside(peers: tuple[PeerStats, ...], ahead_s: float) -> tuple[PeerStats, ...]:
    """The links, with their clocks beside a wall clock that is `ahead_s` of what they were compared with."""
    if not ahead_s:
        return peers
    return tuple(
        peer if peer.clock_offset_s is None else attrs.evolve(peer, clock_offset_s=peer.clock_offset_s - ahead_s)
        for peer in peers
    )


class MonitoringVerbs(DataVerbs):
    """See the module."""

    _is_measuring = False

    def collect_stats(self) -> Stats:
        """Statistics as they are now. ClosedError when it is not running."""
        life = self._running()
        monitor = life.monitor
        states = [node.state for node in self._all_nodes()]
        sent, received = monitor.bytes_moved()
        return Stats(
            node_id=self.node_id,
            uptime_s=self._world.monotonic() - life.started_at,
            connections=len(life.links()),
            nodes={str(state): states.count(state) for state in NodeState},
            bytes_sent=sent,
            bytes_received=received,
            messages_waiting=self._topics.waiting(),
            data=self.data_summary(),
            subsystems=life.health(),
            counters=self.counters.snapshot(),
            discovery=life.found(),
            messages={way: message_kinds(self.counters, f"net.messages_{way}") for way in ("sent", "received")},
            rates=monitor.rates(),
            queues=monitor.queues(),
            latencies={name: quantiles(histogram) for name, histogram in monitor.histograms().items()},
            peers=_beside(monitor.peers(), self._time.ahead_s),
            store=monitor.store(),
            clock_offset_s=self._behind_s(),
            refusals=refusals(self.counters),
            errors={labels[0]: count for labels, count in self.counters.labelled("monitor.errors").items()},
            resources=monitor.resources(),
        )

    def check_health(self) -> Health:
        """How this node is, with a reason for everything that is not well. Also while it is not running."""
        life = self._life
        if life is None:
            return Health(health.FAILING, (Check("node", health.FAILING, "it is not running"),))
        resources, queues = life.monitor.resources(), life.monitor.queues()
        now = self._time.wall()  # as OpenSSL, which goes by nothing else
        facts = health.Facts(
            subsystems=life.health(),
            uptime_s=self._world.monotonic() - life.started_at,
            store_failing=self._database.failing,
            disk_free_bytes=resources.disk_free_bytes,
            certificate_left_s=self._identity.not_after - now,
            certificate_life_s=self._identity.not_after - self._identity.not_before,
            clock_offset_s=self._behind_s(),
            peers_linked=len(life.links()),
            peers_known=life.swim.present,
            expects_peers=life.expects_peers(),
            queues={
                "a link": queues.link_full_share,
                "this program's inbox": queues.inbox_full_share,
                "writes": queues.store_full_share,
            },
            lag_s=life.monitor.lag_lately_s(),
            handles=resources.handles,
            handles_max=resources.handles_max,
        )
        return health.judge(facts)

    def history(self, *, recent: bool = False) -> tuple[Sample, ...]:
        """Samples of this life, oldest first, one every `metrics_interval` and more in the first minutes.

        `recent`: those of the last ten minutes, one every 5 s.
        """
        monitor = self._running().monitor
        return tuple(monitor.recent if recent else monitor.samples)

    def histograms(self) -> dict[str, Histogram]:
        """All histograms as they are now; empty while it is not running."""
        return {} if self._life is None else self._life.monitor.histograms()

    @property
    def certificate_expires_at(self) -> float:
        """When this node's certificate expires, in Unix seconds."""
        return self._identity.not_after

    def slow_operations(self) -> tuple[SlowOperation, ...]:
        """The last operations that took `log.slow_operation_s` or longer, oldest first, at most 100."""
        return tuple(self._journal.slow)

    def errors(self) -> tuple[ErrorRecord, ...]:
        """The last errors given to `log_error`, oldest first, at most 100."""
        return tuple(self._journal.errors)

    def log_error(self, error: BaseException, **context: object) -> None:
        """Record an error of the program's: counted by its class, written to the log, shown in the report.

        `context` says what it was about: names and short values, no secrets.
        """
        self._journal.failed(error, context)

    async def measure_performance(self, seconds: float = 1.0) -> Performance:
        """Measure round trips and throughput to at most 32 peers, durable writes, and lag, for about `seconds` (to 60).

        It loads the links while it runs, so there is one at a time. Raises ClosedError, LimitError (one is under way),
        LocalProtocolError (no such time).
        """
        life = self._running()
        if not (math.isfinite(seconds) and 0 < seconds <= _MEASURE_S_MAX):
            raise LocalProtocolError(f"seconds is above 0 and at most {_MEASURE_S_MAX:g}, not {seconds!r}")
        if self._is_measuring:  # several would measure each other, and what is for reading would load the mesh
            raise LimitError("a measurement is under way: ask again when it is done")
        self._is_measuring = True
        try:
            return await performance.measure(life.links(), self._database, seconds)
        finally:
            self._is_measuring = False

    def generate_report(
        self,
        format: str = "html",  # noqa: A002 - the promised name
        *,
        with_log: bool = True,
        with_nodes: bool = True,
    ) -> str:
        """All of this as one document: "html" (a page with plots that needs nothing else), "json" or "text".

        `with_log`: with what the log says: its last records, the errors that were reported, what slow operations were
        about. `with_nodes`: with the nodes, their addresses and tags. Both are for those who may read these elsewhere.
        """
        from ..monitor import report  # what nobody asks for need not be loaded

        if format not in report.FORMATS:
            raise LocalProtocolError(f"a report's format is one of {', '.join(report.FORMATS)}, not {format!r}")
        monitor = self._running().monitor
        return report.write(
            report.Facts(
                mesh_name=self._config.mesh_name,
                mesh_id=self._identity.mesh_id.hex(),
                node_name=self._config.node_name,
                version=version(),
                time=self._world.wall_time(),
                stats=self.collect_stats(),
                health=self.check_health(),
                nodes=tuple(self._all_nodes()) if with_nodes else (),
                history=tuple(monitor.samples),
                slow=tuple(slow if with_log else attrs.evolve(slow, facts={}) for slow in self._journal.slow),
                errors=tuple(self._journal.errors) if with_log else (),
                logs=tuple(monitor.logs.newest(100)) if with_log else (),
            ),
            format,
        )
