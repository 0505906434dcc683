"""The subsystem that watches the node while it runs: samples over time, scheduler lag, and a store that recovers.

    every TICK_S            how late this task gets its turn (the scheduler's lag)
    every metrics_interval  a sample: rates since the one before, levels, latencies of what ended meanwhile; in the
                            first minutes more often (1, 2, 4, … s), so that a young node has a history, too
    every RECENT_S          a sample of the same kind for the last ten minutes: who opens the dashboard sees at once
                            how it went
    every PROBE_S, while    a write that changes nothing anybody reads: where nobody writes, nobody else would notice
    the store fails         that the disk has room again (and not before it has some)

At most `SAMPLES_MAX` samples are kept, twelve hours by the default interval, and `RECENT_MAX` recent ones; they end
with the life of the node. Each of the two rows has its own reading to compare with. What is counted, others count where
it happens; this reads. `rates` gives those since the last sample, for whoever asks between two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
import trio

from ..config import Config
from ..counters import Counters, Histogram
from ..errors import MeshError
from ..messaging.topics import Topics
from ..net.link import Link
from ..reports import PeerStats, Quantiles, Queues, Rates, Resources, Sample, StoreStats
from ..store.database import Database, Operation
from . import resources
from .health import DISK_FULL_BYTES
from .journal import Journal
from .logs import RecentLogs, collecting

__all__ = ["PEERS_MAX", "RECENT_MAX", "RECENT_S", "SAMPLES_MAX", "TICK_S", "Monitor", "quantiles", "touch"]

TICK_S = 1.0
PROBE_S = 5.0
SAMPLES_MAX = 720
RECENT_S = 5.0
RECENT_MAX = 120
PEERS_MAX = 64
LOGS_MAX = 200
_LATELY = 15
_FRESH_S = 0.5


def quantiles(histogram: Histogram) -> Quantiles:
    """A histogram in short."""
    p50, p90, p99 = histogram.quantiles((0.5, 0.9, 0.99))
    return Quantiles(histogram.count, histogram.mean, p50, p90, p99)


def touch(number: int) -> Operation[object]:
    """A write that changes a number in the database's header that nobody reads: it costs what any small write does."""
    return lambda connection: connection.execute(f"PRAGMA user_version={number % 2**31}")


@attrs.frozen
class _Reading:
    """All that rates are made of, at one moment."""

    at: float
    sums: tuple[float, ...]  # in the order of the fields of Rates, without `seconds`
    reply: Histogram
    commit: Histogram
    lag: Histogram


class Monitor:
    """The subsystem "monitor". Its life sets `links`: all that carry bytes, retired ones among them."""

    name = "monitor"

    def __init__(
        self,
        *,
        config: Config,
        counters: Counters,
        topics: Topics,
        database: Database,
        journal: Journal,
        wall_time: Callable[[], float],
        folder: Path | None,
    ) -> None:
        self.links: Callable[[], Iterable[Link]] = tuple
        self.logs = RecentLogs(LOGS_MAX)
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self.recent: deque[Sample] = deque(maxlen=RECENT_MAX)
        self.journal = journal
        self._config = config
        self._counters = counters
        self._topics = topics
        self._database = database
        self._wall_time = wall_time
        self._folder = folder
        self._lag = counters.histogram("monitor.scheduler_lag_s")
        self._lately: deque[float] = deque(maxlen=_LATELY)
        self._last: _Reading | None = None
        self._rates = Rates()
        self._retimed = trio.Event()
        self._probes = 0
        counters.on_slow(config.log.slow_operation_s, journal.took_long)

    # ------------------------------------------------------------------ the subsystem

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Watch until cancelled."""
        with collecting(self.logs):
            async with trio.open_nursery() as nursery:
                self._last = self._read()
                nursery.start_soon(self._tick_forever)
                nursery.start_soon(self._sample_forever)
                nursery.start_soon(self._sample_recent_forever, self._last)
                task_status.started()

    def reconfigure(self, config: Config) -> None:
        """Sample by another interval from now on; another bound of what is slow."""
        is_retimed = config.metrics_interval != self._config.metrics_interval
        self._config = config
        self._counters.on_slow(config.log.slow_operation_s, self.journal.took_long)
        if is_retimed:
            self._retimed.set()

    async def _tick_forever(self) -> None:
        probed_at = trio.current_time()
        while True:
            due = trio.current_time() + TICK_S
            await trio.sleep_until(due)
            lag = max(0.0, trio.current_time() - due)
            self._lag.observe(lag)
            self._lately.append(lag)
            if self._database.failing is not None and self._has_room() and trio.current_time() - probed_at >= PROBE_S:
                probed_at = trio.current_time()
                await self._try_store()

    def _has_room(self) -> bool:
        """Whether a write could do more than fit into what was left: it would say that all is well when it is not."""
        free = resources.disk_free_bytes(self._folder)
        return free is None or free >= DISK_FULL_BYTES

    async def _try_store(self) -> None:
        self._probes += 1
        try:
            await self._database.write(touch(self._probes))
        except MeshError:
            self._counters.add("monitor.store_probes_failed")  # health says why; the log has said it once

    async def _sample_forever(self) -> None:
        wait_s = TICK_S
        while True:
            self._retimed = trio.Event()
            with trio.move_on_after(min(wait_s, self._config.metrics_interval)):
                await self._retimed.wait()
                continue
            wait_s = min(wait_s * 2, self._config.metrics_interval)
            self._sample()

    async def _sample_recent_forever(self, last: _Reading) -> None:
        while True:
            await trio.sleep(RECENT_S)
            now = self._read()
            self.recent.append(self._sample_between(last, now))
            last = now

    def _sample(self) -> None:
        last, now = self._last, self._read()
        assert last is not None
        sample = self._sample_between(last, now)
        self._rates, self._last = sample.rates, now
        self.samples.append(sample)

    def _sample_between(self, last: _Reading, now: _Reading) -> Sample:
        reply, commit, lag = (
            after.since(before)
            for after, before in ((now.reply, last.reply), (now.commit, last.commit), (now.lag, last.lag))
        )
        links = list(self.links())
        trips = sorted(link.rtt_s for link in links if link.is_open and link.rtt_s is not None)
        return Sample(
            time=self._wall_time(),
            rates=_rates_between(last, now),
            connections=len(links),
            rss_bytes=resources.rss_bytes(),
            messages_waiting=self._topics.waiting(),
            reply_p50_s=reply.quantile(0.5),
            reply_p99_s=reply.quantile(0.99),
            commit_p99_s=commit.quantile(0.99),
            scheduler_lag_p99_s=lag.quantile(0.99),
            rtt_median_s=trips[len(trips) // 2] if trips else None,
            rtt_most_s=trips[-1] if trips else None,
        )

    def _read(self) -> _Reading:
        counters, (sent, received) = self._counters, self.bytes_moved()
        return _Reading(
            trio.current_time(),
            (
                counters["net.messages_sent"],
                counters["net.messages_received"],
                sent,
                received,
                counters["messaging.received"],
                counters.histogram("store.write_s").count,
                counters["http.requests"],
                resources.cpu_s(),
            ),
            self.replies(),
            counters.histogram("store.commit_s").copy(),
            self._lag.copy(),
        )

    # ------------------------------------------------------------------ what it can say

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes sent and received on links so far, those of ended ones included."""
        links = list(self.links())
        return (
            self._counters["net.bytes_sent"] + sum(link.bytes_sent for link in links),
            self._counters["net.bytes_received"] + sum(link.bytes_received for link in links),
        )

    def replies(self) -> Histogram:
        """How long replies took, over all links there were."""
        total = self._counters.histogram("net.reply_s").copy()
        for link in self.links():
            total.add(link.reply_s)
        return total

    def histograms(self) -> dict[str, Histogram]:
        """All histograms, complete."""
        return {**self._counters.histograms(), "net.reply_s": self.replies()}

    def rates(self) -> Rates:
        """What happened a second since the last sample; right after one, between the two before."""
        if self._last is None:
            return self._rates
        now = self._read()
        return _rates_between(self._last, now) if now.at - self._last.at >= _FRESH_S else self._rates

    def lag_lately_s(self) -> float | None:
        """The longest wait for a turn in the last quarter of a minute; None before the first measurement."""
        return max(self._lately, default=None)

    def resources(self) -> Resources:
        """What this process uses now."""
        return Resources(
            cpu_s=resources.cpu_s(),
            rss_bytes=resources.rss_bytes(),
            handles=resources.handles(),
            handles_max=resources.handles_max(),
            disk_free_bytes=resources.disk_free_bytes(self._folder),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            scheduler_lag_s=quantiles(self._lag),
        )

    def queues(self) -> Queues:
        """What waits now."""
        queued = [link.queued for link in self.links()]
        writes, write_bytes = self._database.queued
        bound = self._config.limits.link_queue_bytes_max
        return Queues(
            link_messages=sum(messages for messages, _ in queued),
            link_bytes=sum(size for _, size in queued),
            link_full_share=max((size for _, size in queued), default=0) / bound,
            inbox_messages=self._topics.waiting(),
            inbox_full_share=self._topics.full_share(),
            store_writes=writes,
            store_bytes=write_bytes,
            store_full_share=self._database.full_share,
        )

    def store(self) -> StoreStats:
        """The store's figures."""
        counters = self._counters
        return StoreStats(
            commits=self._database.commits,
            failing=self._database.failing,
            commit_s=quantiles(counters.histogram("store.commit_s")),
            write_s=quantiles(counters.histogram("store.write_s")),
            group=quantiles(counters.histogram("store.group")),
            commit_bytes=quantiles(counters.histogram("store.commit_bytes")),
        )

    def peers(self) -> tuple[PeerStats, ...]:
        """The links that carried most, at most `PEERS_MAX`."""
        now = trio.current_time()
        links = sorted(
            (link for link in self.links() if link.is_open), key=lambda link: -(link.bytes_sent + link.bytes_received)
        )
        found = []
        for link in links[:PEERS_MAX]:
            messages, size = link.queued
            found.append(
                PeerStats(
                    node_id=link.node_id,
                    name=link.peer.record.name,
                    rtt_s=link.rtt_s,
                    reply_s=quantiles(link.reply_s),
                    bytes_sent=link.bytes_sent,
                    bytes_received=link.bytes_received,
                    queued_bytes=size,
                    queued_messages=messages,
                    clock_offset_s=None if link.clock_offset_ms is None else link.clock_offset_ms / 1000,
                    age_s=now - link.since,
                )
            )
        return tuple(found)


def _rates_between(before: _Reading, after: _Reading) -> Rates:
    seconds = after.at - before.at
    if seconds <= 0:
        return Rates()
    return Rates(seconds, *((now - then) / seconds for now, then in zip(after.sums, before.sums, strict=True)))
