"""What keeping data costs: durable writes, reads, taking in others' entries, and writes that are on three nodes.

Values have 200 bytes. One process, on disk, with every write fsynced before it counts:

    put            `Mesh.store_data`, by so many writers at once
    get, scan      `Mesh.retrieve_data` and `Mesh.scan`; `read` is the store's own lookup, without the API's checkpoint
    remote apply   another author's signed entries, checked and fsynced, as they are pushed (up to 16 or 64 a batch)

Three processes, linked by mutual TLS 1.3, all fsyncing: a `put on three` ends when the entry is committed on all of
them. The other two say so with one broadcast a commit; that message is part of the cost.

Beside them, in every run, on the same disk: single-row commits of bare SQLite (apsw, WAL, synchronous=FULL), and one
fsync of 200 appended bytes. `ratio` is the value over that of bare SQLite; `to_fsync` counts in fsyncs: below 1,
several writes share one.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import attrs
import common
import trio
from common import Child, Options, Row

from bms import Message, open_mesh
from bms.data.commits import Commit
from bms.data.entries import Entries
from bms.mesh import Mesh

__all__ = ["main"]

COLUMNS = ("what", "writers", "value", "unit", "low", "high", "cpu_us", "p50_ms", "ratio", "to_fsync", "target")
TARGETS = {
    ("put", 16): "≥ 10,000",
    ("get", None): "≥ 50,000",
    ("remote apply", 16): "≥ 7,000",
    ("put on three", 1): "p50_ms ≤ 1.6",
    ("put on three", 16): "≥ 10,000, p50_ms ≤ 1.6",
}
VALUE = bytes(range(200))
_KEY_BYTES = 8
_PUSH_BATCHES = 8


@attrs.frozen
class Cost:
    """Operations a second, CPU seconds an operation, and the median latency where there is one."""

    rate: float
    cpu_s: float
    p50_s: float | None = None


Found = dict[tuple[str, int | None], list[Cost]]
_numbers = itertools.count(1)


def next_key() -> bytes:
    """A key that was not used before, spread over the store as hashes are."""
    return (next(_numbers) * 0x9E3779B97F4A7C15 % 2**64).to_bytes(_KEY_BYTES, "big")


# ---------------------------------------------------------------------- beside


def measure_fsync(folder: Path, seconds: float) -> Cost:
    """Append 200 bytes and fsync, again and again."""
    fd = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:

        def append() -> None:
            os.write(fd, VALUE)
            os.fsync(fd)

        return _repeat(append, seconds)
    finally:
        os.close(fd)


def measure_sqlite(folder: Path, seconds: float) -> Cost:
    """Commit rows one by one."""
    connection = apsw.Connection(str(folder / "bare.sqlite"))
    try:
        connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS rows(key BLOB PRIMARY KEY, value BLOB)")
        return _repeat(lambda: connection.execute("INSERT INTO rows VALUES(?,?)", (next_key(), VALUE)), seconds)
    finally:
        connection.close()


def _repeat(act: Callable[[], object], seconds: float) -> Cost:
    times = []
    act()
    cpu, begin = common.cpu_of(os.getpid()), time.perf_counter()
    for start in common.until(begin + seconds):
        act()
        times.append(time.perf_counter() - start)
    wall = time.perf_counter() - begin
    return Cost(len(times) / wall, (common.cpu_of(os.getpid()) - cpu) / len(times), common.quantile(times))


# ---------------------------------------------------------------------- one process


async def measure_writers(put: Callable[[], Awaitable[object]], writers: int, seconds: float, *pids: int) -> Cost:
    """So many tasks that put one after another."""
    times: list[float] = []

    async def work() -> None:
        for start in common.until(begin + seconds):
            await put()
            times.append(time.perf_counter() - start)

    cpu, begin = common.cpu_of(*pids), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(writers):
            nursery.start_soon(work)
    wall = time.perf_counter() - begin
    return Cost(len(times) / wall, (common.cpu_of(*pids) - cpu) / len(times), common.quantile(times))


async def measure_reads(mesh: Mesh, keys: list[bytes], seconds: float, found: Found) -> None:
    """Gets through the API, the store's own lookups, and a scan of everything."""
    entries = store_of(mesh)
    pick = itertools.cycle(keys[:: max(1, len(keys) // 5000)])

    async def get() -> int:
        for _ in range(100):
            await mesh.retrieve_data(next(pick))
        return 100

    async def read() -> int:
        for _ in range(100):
            entries.get(next(pick))
        return 100

    async def scan() -> int:
        async with mesh.scan(b"") as infos:
            return len([info async for info in infos])

    reads: dict[str, Callable[[], Awaitable[int]]] = {"get": get, "read": read, "scan": scan}
    for what, act in reads.items():
        count, cpu, begin = 0, common.cpu_of(os.getpid()), time.perf_counter()
        for _ in common.until(begin + seconds):
            count += await act()
        wall = time.perf_counter() - begin
        found[what, None].append(Cost(count / wall, (common.cpu_of(os.getpid()) - cpu) / count))


def store_of(mesh: Mesh) -> Entries:
    """The store below the API."""
    return mesh._entries


async def measure_apply(source: Mesh, place: Path, seconds: float, found: Found) -> None:
    """Write with so many writers on one node, and let a second take in what was pushed, several pushes a commit."""
    for writers in (16, 64):
        commits: list[Commit] = []
        stop = store_of(source).on_commit(commits.append)
        await measure_writers(lambda: source.store_data(next_key(), VALUE), writers, seconds)
        stop()
        batches = [part.batch for commit in commits for part in commit.batches if part.batch is not None]
        admissions = list(commits[0].admissions)
        async with open_mesh(common.node_config(place, enable_replication=False)) as target:
            count, cpu, begin = 0, common.cpu_of(os.getpid()), time.perf_counter()
            for i in range(0, len(batches), _PUSH_BATCHES):
                applied = await store_of(target).apply(batches[i : i + _PUSH_BATCHES], admissions)
                assert applied.is_complete
                count += applied.new
            wall = time.perf_counter() - begin
            found["remote apply", writers].append(Cost(count / wall, (common.cpu_of(os.getpid()) - cpu) / count))


async def measure_local(chosen: Options, folder: Path, found: Found) -> None:
    """Everything that one process does."""
    me = os.getpid()
    for run in range(chosen.runs):
        one, two = common.make_identities(folder / str(run), 2)
        async with open_mesh(common.node_config(one)) as mesh:
            keys: list[bytes] = []

            async def put(mesh: Mesh = mesh, keys: list[bytes] = keys) -> None:
                key = next_key()
                await mesh.store_data(key, VALUE)
                keys.append(key)

            await put()
            found["fsync", None].append(measure_fsync(folder, chosen.seconds))
            for writers in (1, 16, 256):
                found["bare SQLite", None].append(measure_sqlite(folder, chosen.seconds))
                found["put", writers].append(await measure_writers(put, writers, chosen.seconds, me))
            await measure_reads(mesh, keys, chosen.seconds, found)
            await measure_apply(mesh, two, chosen.seconds, found)


# ---------------------------------------------------------------------- three processes


async def serve_node(place: Path) -> None:
    """In a child: a node that says, with one message a commit, which keys it has on disk."""
    async with open_mesh(common.node_config(place)) as mesh:

        def tell(commit: Commit) -> None:
            life = mesh._life
            if not commit.local and life is not None:
                life.courier.broadcast(b"".join(commit.keys), "on disk")

        store_of(mesh).on_commit(tell)
        await common.answer_commands({"address": str(mesh.address)})


class Acknowledged:
    """Puts that end when the other nodes have said that they have the key."""

    def __init__(self, mesh: Mesh, others: int) -> None:
        self._mesh = mesh
        self._others = others
        self._missing: dict[bytes, int] = {}
        self._complete: dict[bytes, trio.Event] = {}

    async def listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Take what the others say."""
        async with self._mesh.subscribe("on disk") as messages:
            task_status.started()
            async for message in messages:
                assert isinstance(message, Message), "messages of commits are few: none is missed"
                for start in range(0, len(message.body), _KEY_BYTES):
                    key = message.body[start : start + _KEY_BYTES]
                    self._missing[key] -= 1
                    if not self._missing[key]:
                        del self._missing[key]
                        self._complete.pop(key).set()

    async def put(self) -> None:
        """One write, on the disks of all when it returns."""
        key = next_key()
        event = self._complete[key] = trio.Event()
        self._missing[key] = self._others
        await self._mesh.store_data(key, VALUE)
        await event.wait()


async def measure_three(chosen: Options, folder: Path, found: Found) -> None:
    """Puts on one of three nodes."""
    places = common.make_identities(folder, 3)
    with Child.many([{"place": str(place)} for place in places[1:]]) as children:
        addresses = [ready["address"] for _, ready in children]
        pids = (os.getpid(), *(child.pid for child, _ in children))
        async with open_mesh(common.node_config(places[0], addresses)) as mesh, trio.open_nursery() as nursery:
            await common.linked(mesh, 2)
            writes = Acknowledged(mesh, 2)
            await nursery.start(writes.listen)
            with trio.fail_after(30):
                await writes.put()
            for _ in range(chosen.runs):
                for writers in (1, 16, 64):
                    with trio.fail_after(60):
                        cost = await measure_writers(writes.put, writers, chosen.seconds, *pids)
                    found["put on three", writers].append(cost)
            nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- results


def _row(key: tuple[str, int | None], found: Found) -> Row:
    what, writers = key
    costs = found[key]
    rates = [cost.rate for cost in costs]
    row: Row = {
        "what": what,
        "writers": writers,
        **common.spread("value", rates),
        "unit": "keys/s" if what == "scan" else "a second",
        "cpu_us": common.quantile([cost.cpu_s * 1e6 for cost in costs]),
        "target": TARGETS.get(key),
    }
    if costs[0].p50_s is not None:
        row["p50_ms"] = common.quantile([cost.p50_s * 1e3 for cost in costs if cost.p50_s is not None])
    if what in ("put", "put on three", "remote apply"):
        row["ratio"] = row["value"] / common.quantile([cost.rate for cost in found["bare SQLite", None]])
        row["to_fsync"] = common.quantile([cost.rate for cost in found["fsync", None]]) / row["value"]
    return row


def main() -> None:
    """Measure, or be a child."""
    chosen = common.options(__doc__ or "", runs=3)
    if chosen.child is not None:
        trio.run(serve_node, Path(chosen.child["place"]))
        return
    found: dict[Any, list[Cost]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bms-bench-") as folder:
        trio.run(measure_local, chosen, Path(folder), found)
        trio.run(measure_three, chosen, Path(folder) / "three", found)
    common.write_result(common.Table("store", COLUMNS, [_row(key, found) for key in found]), chosen)


if __name__ == "__main__":
    main()
