"""Measures a running node actively, in a given time: round trips and throughput to peers, durable writes, lag.

    the whole time      how late a task gets its turn, every 10 ms
    the first half      pings to each peer, all peers side by side; durable writes one after another
    the second half     throughput: each peer in turn gets up to `FILLER_BYTES` that it ignores, then a ping

Bounded: `PEERS_MAX` peers, `PINGS_MAX` pings each, `WRITES_MAX` writes, and the time. Throughput is that of one
direction as TLS, the network and the peer's reading give it, with what else is on the link; a peer whose turn did not
come has none. It loads the mesh while it runs, so nothing here runs by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from ..counters import Histogram
from ..errors import MeshError, UnreachableError
from ..net.link import Link
from ..reports import PeerPerformance, Performance
from ..store.database import Database
from .sampling import quantiles, touch

__all__ = ["FILLER_BYTES", "PEERS_MAX", "measure"]

PEERS_MAX = 32
PINGS_MAX = 20
WRITES_MAX = 50
FILLER_BYTES = 4 * 1024 * 1024
_TICK_S = 0.01
_FIRST_BYTES = 64 * 1024


@attrs.define(eq=False)
class _Peer:
    link: Link
    rtt_s: Histogram = attrs.field(factory=Histogram)
    lost: int = 0
    bytes_per_s: float | None = None


async def measure(links: Sequence[Link], database: Database, seconds: float) -> Performance:
    """Measure for about `seconds`; see the module."""
    peers = [_Peer(link) for link in sorted(links, key=lambda link: link.node_id)[:PEERS_MAX]]
    lag, writes, failed = Histogram(), Histogram(), [""]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tick, lag)
        with trio.move_on_after(seconds):
            half = began + seconds / 2
            async with trio.open_nursery() as first:
                first.start_soon(_write, database, writes, failed, half)
                for peer in peers:
                    first.start_soon(_ping, peer, half)
            for number, peer in enumerate(peers):
                left = began + seconds - trio.current_time()
                with trio.move_on_after(left / (len(peers) - number)):
                    await _fill(peer)
        nursery.cancel_scope.cancel()
    return Performance(
        seconds=trio.current_time() - began,
        peers=tuple(
            PeerPerformance(p.link.node_id, p.link.peer.record.name, quantiles(p.rtt_s), p.lost, p.bytes_per_s)
            for p in peers
        ),
        store_write_s=quantiles(writes),
        store_error=failed[0] or None,
        scheduler_lag_s=quantiles(lag),
    )


async def _tick(lag: Histogram) -> None:
    while True:
        due = trio.current_time() + _TICK_S
        await trio.sleep_until(due)
        lag.observe(max(0.0, trio.current_time() - due))


async def _ping(peer: _Peer, until: float) -> None:
    pause_s = max(0.0, until - trio.current_time()) / PINGS_MAX
    for _ in range(PINGS_MAX):
        with trio.move_on_at(until) as scope:
            try:
                peer.rtt_s.observe(await peer.link.probe())
            except UnreachableError:
                peer.lost += 1
                return
            await trio.sleep(pause_s)
        if scope.cancelled_caught:
            if not peer.rtt_s.count:
                peer.lost += 1
            return


async def _write(database: Database, writes: Histogram, failed: list[str], until: float) -> None:
    with trio.move_on_at(until):
        for number in range(WRITES_MAX):
            began = trio.current_time()
            try:
                await database.write(touch(number))
            except MeshError as error:
                failed[0] = str(error)
                return
            writes.observe(trio.current_time() - began)


async def _fill(peer: _Peer) -> None:
    """Doubling, so that a slow link shows a figure, too, before its time is up."""
    size = _FIRST_BYTES
    try:
        while size <= FILLER_BYTES:
            rtt_s = await peer.link.probe()
            took_s = await peer.link.probe(size)
            peer.bytes_per_s = size / max(took_s - rtt_s, took_s / 10, 1e-6)
            size *= 2
    except UnreachableError:
        pass  # it has gone meanwhile; what was measured counts
