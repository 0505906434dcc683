"""What counting costs: messages, requests, broadcasts and writes, counted and not, side by side in one process.

Two pairs of nodes live at once. In the one, `Counters` and histograms are as they are; in the other they do nothing
when called. Both do the same in turns of some 20 ms, so that what slows one slows the other. CPU is that of the whole
process: both ends of a pair, and the store's thread.

`cpu_us` is one operation with counting, `silent_us` without, `ratio` the median of each turn's own ratio. What the
silent pair still does are the readings of the clock that durations need: `clock_ns` is what those of one operation
cost, by their number. `share` is all of it, in per cent of an operation: ratio and clock. The goal is below 3.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import timeit
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import common
import trio
import trio.lowlevel
from common import Options, Row

import bms.mesh
import bms.net.link
from bms import Message, Missed, open_mesh
from bms.counters import Counters, Histogram
from bms.mesh import Mesh

__all__ = ["main"]

COLUMNS = ("what", "cpu_us", "low", "high", "silent_us", "ratio", "clock_ns", "share", "target")
BODY = b"x" * 100
TURN = {"send": 150, "request": 100, "broadcast": 1500, "put": 8}
"""Operations in one turn."""
CLOCKS = {"send": 3, "request": 5, "broadcast": 0, "put": 2}
"""Readings of the clock that an operation makes for its durations, on both sides together."""


class SilentHistogram(Histogram):
    """Observes nothing."""

    def observe(self, value: float) -> None:
        """Do nothing."""


class SilentCounters(Counters):
    """Counts nothing."""

    def add(self, name: str, amount: int = 1) -> None:
        """Do nothing."""

    def count(self, name: str, *labels: str, amount: int = 1) -> None:
        """Do nothing."""

    def observe(self, name: str, value: float) -> None:
        """Do nothing."""

    def histogram(self, name: str) -> Histogram:
        """One that observes nothing."""
        return SilentHistogram(super().histogram(name).bounds)


@attrs.define(eq=False)
class Pair:
    """Two linked nodes, one of which talks to the other."""

    one: Mesh
    two: Mesh
    arrived: int = 0

    async def send(self) -> None:
        """One message, acknowledged."""
        await self.one.send_message(self.two.node_id, BODY, "sink")

    async def request(self) -> None:
        """One request, answered."""
        await self.one.request(self.two.node_id, BODY, "echo")

    async def broadcast(self) -> None:
        """One broadcast."""
        await self.one.broadcast_message(BODY, "sink")

    async def put(self) -> None:
        """One durable write."""
        await self.one.store_data("key", BODY)

    async def consume(self, task_status: trio.TaskStatus[None]) -> None:
        """Take what comes."""
        async with self.two.subscribe("sink") as messages:
            task_status.started()
            async for message in messages:
                self.arrived += message.count if isinstance(message, Missed) else 1

    async def turn(self, what: str, operation: Callable[[], Awaitable[None]]) -> float:
        """CPU seconds of one operation, over a turn of them."""
        count, arrived = TURN[what], self.arrived
        begin = time.process_time()
        for _ in range(count):
            await operation()
        if what == "broadcast":
            while self.arrived < arrived + count:
                await trio.lowlevel.checkpoint()
        return (time.process_time() - begin) / count


async def echo(message: Message) -> bytes:
    """Answer with what was asked."""
    return message.body


@asynccontextmanager
async def open_pair(places: list[Path], kinds: tuple[type[Counters], type[Histogram]]) -> AsyncIterator[Pair]:
    """Two nodes that count with these."""
    bms.mesh.Counters, bms.net.link.Histogram = kinds  # type: ignore[attr-defined]
    limits = {"inbox_messages_max": 10_000, "link_queue_bytes_max": 32 * 1024 * 1024}
    async with open_mesh(common.node_config(places[0], limits=limits)) as one:
        async with open_mesh(common.node_config(places[1], [str(one.address)], limits=limits)) as two:
            await common.linked(one, 1)
            pair = Pair(one, two)
            async with trio.open_nursery() as nursery:
                await nursery.start(pair.consume)
                await nursery.start(two.serve_requests, "echo", echo)
                yield pair
                nursery.cancel_scope.cancel()


async def measure(chosen: Options) -> list[Row]:
    """All rows."""
    turns = 3 if chosen.quick else 40 * chosen.runs
    with tempfile.TemporaryDirectory() as folder:
        places = common.make_identities(Path(folder) / "counted", 2)
        others = common.make_identities(Path(folder) / "silent", 2)
        async with open_pair(places, (Counters, Histogram)) as counted:
            async with open_pair(others, (SilentCounters, SilentHistogram)) as silent:
                bms.mesh.Counters, bms.net.link.Histogram = Counters, Histogram  # type: ignore[attr-defined]
                clock_s = min(timeit.repeat(trio.current_time, number=10_000, repeat=5)) / 10_000
                return [await compare(what, counted, silent, turns, clock_s) for what in TURN]


async def compare(what: str, counted: Pair, silent: Pair, turns: int, clock_s: float) -> Row:
    """One row: both in turns, now the one first, now the other."""
    found: dict[Pair, list[float]] = {counted: [], silent: []}
    for number in range(turns + 2):
        for pair in (counted, silent) if number % 2 else (silent, counted):
            found[pair].append(await pair.turn(what, getattr(pair, what)))
    with_, without = found[counted][2:], found[silent][2:]  # the first two warm up
    ratio, clocks_s = common.ratio(with_, without), CLOCKS[what] * clock_s
    share = 1 - 1 / ratio + clocks_s / statistics.median(with_)
    return {
        "what": what,
        **common.spread("cpu_us", [value * 1e6 for value in with_]),
        "silent_us": statistics.median(without) * 1e6,
        "ratio": ratio,
        "clock_ns": clocks_s * 1e9,
        "share": f"{100 * share:.1f} %",
        "target": "share < 3 %",
    }


def main() -> None:
    """Run it."""
    chosen = common.options(__doc__ or "")
    common.write_result(common.Table("monitoring", COLUMNS, trio.run(measure, chosen)), chosen)


if __name__ == "__main__":
    main()
