"""Replication between whole stores over links that really encode and parse every message: push, sync, liars, slow
peers.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock as Clock

from bms.clock import HybridClock
from bms.config import Config
from bms.counters import Counters
from bms.data.entries import Entries
from bms.data.replication import Replication
from bms.errors import DeliveryError, NotFoundError, RemoteError, RemoteProtocolError, UnreachableError
from bms.security.authority import Authority
from bms.security.keys import NodeKey
from bms.security.trust import Trust
from bms.store.database import Database
from bms.values import NodeId
from bms.wire import messages as m
from bms.wire.messages import encode_message, parse_message_untrusted

NOW = 1_800_000_000.0
AUTHORITY = Authority.create(token_bytes=random.Random(7).randbytes, now=NOW)
REPLIES = (m.Error, m.SyncState, m.Ids, m.Entries, m.Chunks)


class TestLink:
    """One end of a link over memory channels. `forge` may change or drop (None) what this end sends."""

    __test__ = False

    def __init__(self, node_id: NodeId, routes: dict[type, Callable[[Any, Any], None]], queue: int) -> None:
        self.node_id = node_id
        self.is_open = True
        self.fault: RemoteProtocolError | None = None
        self.forge: Callable[[Any], Any] = lambda message: message
        self.bytes_sent = 0
        self.sent: list[type] = []
        self._routes = routes
        self._calls: dict[int, tuple[trio.Event, list[Any]]] = {}
        self._last_id = 0
        self._out, self.far_in = trio.open_memory_channel[bytes](queue)
        self.scope = trio.CancelScope()

    def send_nowait(self, message: Any) -> bool:
        message = self.forge(message)
        if message is None:
            return True
        try:
            payload = encode_message(message)
            self._out.send_nowait(payload)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        assert len(payload) <= 2**20
        self.bytes_sent += len(payload)
        self.sent.append(type(message))
        return True

    async def send(self, message: Any) -> None:
        while not self.send_nowait(message):
            if not self.is_open:
                raise UnreachableError("ended")
            await trio.sleep(0.01)

    async def call(self, message: Any, deadline_s: float | None = None) -> Any:
        self._last_id += 1
        number = self._last_id
        event, box = self._calls[number] = trio.Event(), []
        with trio.move_on_after(deadline_s or float("inf")):
            await self.send(attrs.evolve(message, id=number))
            await event.wait()
        del self._calls[number]
        if not box:
            raise DeliveryError("no answer")
        if isinstance(box[0], m.Error):
            raise RemoteError(box[0].kind, box[0].text)
        return box[0]

    def abort(self, error: RemoteProtocolError) -> None:
        self.fault = error
        self.end()

    def end(self) -> None:
        self.is_open = False
        self.scope.cancel()

    async def read(self, incoming: trio.MemoryReceiveChannel[bytes]) -> None:
        with self.scope:
            try:
                async for payload in incoming:
                    message = parse_message_untrusted(payload)
                    if isinstance(message, REPLIES):
                        if message.id in self._calls:
                            event, box = self._calls[message.id]
                            box.append(message)
                            event.set()
                    else:
                        self._routes[type(message)](self, message)
            except RemoteProtocolError as error:
                self.abort(error)
        self.is_open = False
        self._out.close()
        incoming.close()
        for event, _ in self._calls.values():
            event.set()


def monotonic() -> float:
    """Trio's clock; also on the writing thread, where Trio has none."""
    try:
        return trio.current_time()
    except RuntimeError:
        return 0.0


class Node:
    """One store and its replication."""

    def __init__(self, seed: int, path: Path | None = None, **config: Any) -> None:
        self.key = NodeKey.from_seed(random.Random(seed).randbytes(32))
        self.node_id = self.key.node_id
        self.admission = AUTHORITY.issue_admission(self.node_id, now_ms=int(NOW * 1000))
        self.database = Database(path, threads=path is not None)
        self.counters = Counters()
        self.ahead_s = 0.0
        self.entries = Entries(
            self.database,
            mesh_id=AUTHORITY.mesh_id,
            node_key=self.key,
            admission=self.admission,
            trust=Trust(AUTHORITY.bundle),
            clock=HybridClock(),
            wall_time=lambda: NOW + monotonic() % 1e6 + self.ahead_s,
            token_bytes=random.Random(seed + 1000).randbytes,
            counters=self.counters,
        )
        settings = Config(**{"sync_interval": 30.0, **config})
        self.replication = Replication(
            self.entries, config=settings, counters=self.counters, chance=random.Random(seed)
        )

    async def put(self, *keys: bytes, value: bytes | None = b"v") -> None:
        for key in keys:
            await self.entries.put(key, value)

    @property
    def fingerprint(self) -> bytes:
        return self.entries.state().fingerprint


class Mesh:
    """Nodes and the links between them; `until` waits on virtual time."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery

    async def run(self, *nodes: Node) -> None:
        for node in nodes:
            await self.nursery.start(node.replication.run)

    def link(self, left: Node, right: Node, queue: int = 10_000) -> tuple[TestLink, TestLink]:
        ends = (
            TestLink(right.node_id, left.replication.routes, queue),
            TestLink(left.node_id, right.replication.routes, queue),
        )
        for node, near, far in ((left, *ends), (right, *ends[::-1])):
            self.nursery.start_soon(self._hold, node, near, far)
        for node, end in zip((left, right), ends, strict=True):
            node.replication.link_up(end)
        return ends

    async def _hold(self, node: Node, near: TestLink, far: TestLink) -> None:
        await near.read(far.far_in)
        node.replication.link_down(near)

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - there is no event for every condition
                await trio.sleep(0.02)

    async def equal(self, *nodes: Node, seconds: float = 20.0) -> None:
        await self.until(lambda: len({node.fingerprint for node in nodes}) == 1, seconds)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with open_mesh() as mesh:
        yield mesh


@asynccontextmanager
async def open_mesh() -> AsyncIterator[Mesh]:
    async with trio.open_nursery() as nursery:
        yield Mesh(nursery)
        nursery.cancel_scope.cancel()


# --- what happens in peace


async def test_a_commit_reaches_every_linked_peer_at_once(mesh: Mesh, autojump_clock: Clock) -> None:
    nodes = a, b, c = Node(1), Node(2), Node(3)
    await mesh.run(*nodes)
    for left, right in ((a, b), (b, c), (a, c)):
        mesh.link(left, right)
    await mesh.equal(*nodes)
    await trio.sleep(1)
    start = trio.current_time()
    await a.put(b"from a")
    await b.put(b"from b", value=bytes(4096))
    await mesh.equal(*nodes, seconds=0.5)
    assert trio.current_time() - start < 0.1
    assert c.entries.get(b"from b").value == bytes(4096)
    await c.put(b"from a", value=None)
    await mesh.equal(*nodes, seconds=0.5)
    with pytest.raises(NotFoundError):
        a.entries.get(b"from a")


async def test_pushes_that_join_on_move_the_cursor(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await mesh.run(a, b)
    mesh.link(a, b)
    await trio.sleep(1)
    for i in range(10):
        await a.put(b"%d" % i)
    await mesh.equal(a, b)
    state = a.entries.state()
    await mesh.until(lambda: b.entries.cursor(a.node_id) == (state.epoch, state.high))


async def test_two_stores_that_meet_become_equal_in_both_directions(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await a.put(*(b"a%d" % i for i in range(300)))
    await b.put(*(b"b%d" % i for i in range(200)), b"a5")
    await a.put(b"a5", value=None)
    await mesh.run(a, b)
    mesh.link(a, b)
    await mesh.equal(a, b)
    assert a.entries.totals() == b.entries.totals()
    again = await a.replication.sync()
    (peer,) = again.peers
    assert again.equal
    assert (peer.node_id, peer.rounds, peer.error) == (b.node_id, 1, None)
    assert peer.entries_sent == peer.entries_received == peer.bytes_received == 0


async def test_a_sync_after_others_costs_only_what_is_new(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await a.put(*(b"a%d" % i for i in range(2000)))
    await mesh.run(a, b)
    near, far = mesh.link(a, b)
    await mesh.equal(a, b)
    await trio.sleep(1)
    near.forge = lambda message: None if isinstance(message, m.Push) else message
    await a.put(b"new")
    near.forge = lambda message: message
    before = near.bytes_sent + far.bytes_sent
    report = await b.replication.sync([a.node_id])
    assert report.equal
    assert report.peers[0].entries_received == 1
    assert near.bytes_sent + far.bytes_sent - before < 2000


async def test_values_of_several_chunks_arrive_by_push_and_by_sync(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b, c = Node(1), Node(2), Node(3)
    await mesh.run(a, b, c)
    mesh.link(a, b)
    await trio.sleep(1)
    values = {b"%d" % i: random.Random(i).randbytes(size) for i, size in enumerate((5000, 262_145, 3_000_000))}
    for key, value in values.items():
        await a.put(key, value=value)
    await mesh.equal(a, b)
    mesh.link(b, c)
    await mesh.equal(b, c)
    for key, value in values.items():
        assert c.entries.get(key).value == value
    assert not b.database.read("SELECT 1 FROM chunks WHERE refs<1")


async def test_three_nodes_that_all_write_under_the_same_keys_agree(mesh: Mesh, autojump_clock: Clock) -> None:
    nodes = [Node(i) for i in range(3)]
    await mesh.run(*nodes)
    for i in range(3):
        mesh.link(nodes[i], nodes[(i + 1) % 3])
    chance = random.Random(5)

    async def write(node: Node) -> None:
        for i in range(200):
            try:
                await node.put(b"%d" % chance.randrange(20), value=chance.choice([b"%d" % i, bytes(5000 + i), None]))
            except NotFoundError:
                pass
            await trio.sleep(chance.random() * 0.02)

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(write, node)
    await mesh.equal(*nodes, seconds=120)
    listed = [[(info.key, info.version) for info in node.entries.scan()] for node in nodes]
    assert listed[0] == listed[1] == listed[2]


async def test_a_waiting_entry_takes_part_everywhere_when_its_time_comes(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await mesh.run(a, b)
    mesh.link(a, b)
    await trio.sleep(1)
    await b.put(b"k", value=b"now")
    await mesh.equal(a, b)
    a.ahead_s = 10
    await a.put(b"k", value=b"ahead")
    await trio.sleep(5)
    assert b.entries.get(b"k").value == b"now"
    await trio.sleep(5.1)
    assert b.entries.get(b"k").value == b"ahead"
    await mesh.equal(a, b)


async def test_the_periodic_round_mends_what_was_lost(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1, sync_interval=5.0), Node(2, sync_interval=5.0)
    await mesh.run(a, b)
    near, _ = mesh.link(a, b)
    await trio.sleep(1)
    near.forge = lambda message: None if isinstance(message, m.Push) else message
    await a.put(b"lost")
    await mesh.equal(a, b, seconds=10)


async def test_a_full_queue_costs_the_push_and_is_mended_soon(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1, sync_interval=3600.0), Node(2, sync_interval=3600.0)
    await mesh.run(a, b)
    mesh.link(a, b, queue=3)
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        for i in range(100):
            nursery.start_soon(a.put, b"%d" % i)
    await mesh.equal(a, b, seconds=30)
    assert a.counters["data.pushes_missed"] > 0


async def test_a_full_inbox_drops_pushes_and_is_mended_soon(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1, sync_interval=3600.0), Node(2, sync_interval=3600.0)
    await mesh.run(a, b)
    near, far = mesh.link(a, b)
    await trio.sleep(1)
    await a.put(b"x")
    pushes: list[m.Push] = []
    near.forge = lambda message: pushes.append(message) if isinstance(message, m.Push) else message
    for i in range(300):
        await a.put(b"%d" % i)
    near.forge = lambda message: message
    for push in pushes:  # all at once, before the applier runs
        b.replication.handle(far, push)
    assert b.counters["data.pushes_dropped"] == 300 - 256
    await mesh.equal(a, b, seconds=30)


async def test_a_link_that_is_replaced_goes_on_where_the_old_one_ended(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await a.put(*(b"%d" % i for i in range(3000)))
    await mesh.run(a, b)
    for _ in range(5):
        near, _ = mesh.link(a, b)
        await trio.sleep(0.001)
        near.end()
        await trio.sleep(0.1)
    mesh.link(a, b)
    await mesh.equal(a, b)


async def test_wrong_cursors_are_found_out_by_the_fingerprint(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await a.put(*(b"a%d" % i for i in range(50)))
    await b.put(*(b"b%d" % i for i in range(50)))
    for one, other in ((a, b), (b, a)):
        state = other.entries.state()
        await one.entries.set_cursor(other.node_id, state.epoch, state.high)
    await mesh.run(a, b)
    mesh.link(a, b)
    await mesh.equal(a, b)
    assert a.counters["data.full_pulls"] + b.counters["data.full_pulls"] >= 2


async def test_stores_that_cannot_become_equal_compare_everything_only_once_an_interval(
    mesh: Mesh, autojump_clock: Clock
) -> None:
    a, b = Node(1, sync_interval=60.0), Node(2, sync_interval=60.0)
    await mesh.run(a, b)
    await b.entries.set_cursor(a.node_id, a.entries.state().epoch, 10**6)
    near, far = mesh.link(a, b)
    near.forge = lambda x: attrs.evolve(x, fingerprint=bytes(16)) if isinstance(x, (m.Sync, m.SyncState)) else x
    far.forge = lambda x: attrs.evolve(x, fingerprint=bytes(16)) if isinstance(x, (m.Sync, m.SyncState)) else x
    await a.put(b"x")
    for _ in range(10):
        assert not (await a.replication.sync()).equal
    assert a.counters["data.full_pulls"] + b.counters["data.full_pulls"] <= 3
    assert near.fault is far.fault is None


async def test_damage_is_mended_from_a_replica(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await mesh.run(a, b)
    mesh.link(a, b)
    value = random.Random(1).randbytes(600_000)
    await a.put(b"small", value=b"v" * 50)
    await a.put(b"large", value=value)
    await mesh.equal(a, b)

    def spoil(connection: Any) -> None:
        connection.execute("UPDATE entries SET body=zeroblob(length(body)) WHERE key=?", (b"small",))
        connection.execute("UPDATE chunk_data SET data=zeroblob(length(data)) WHERE length(data)=262144")

    await b.database.write(spoil)
    from bms.errors import CorruptionError

    for key in (b"small", b"large"):
        with pytest.raises(CorruptionError):
            b.entries.get(key)
    assert (await b.replication.sync()).equal
    assert b.entries.get(b"small").value == b"v" * 50
    assert b.entries.get(b"large").value == value


async def test_a_peer_that_does_not_answer_keeps_no_other_waiting(mesh: Mesh, autojump_clock: Clock) -> None:
    a, hung, good = Node(1), Node(2), Node(3)
    await mesh.run(a, hung, good)
    _, far = mesh.link(a, hung)
    mesh.link(a, good)
    await trio.sleep(1)
    far.forge = lambda message: None
    report = await a.replication.sync(deadline_s=5.0)
    by_node = {peer.node_id: peer for peer in report.peers}
    assert by_node[good.node_id].equal
    assert by_node[good.node_id].seconds < 1
    assert not by_node[hung.node_id].equal
    assert "5 s" in str(by_node[hung.node_id].error)
    await good.put(b"k")
    await mesh.equal(a, good, seconds=1)


async def test_a_sync_may_be_cancelled_at_any_moment(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await a.put(*(b"a%d" % i for i in range(200)))
    await a.put(b"large", value=random.Random(1).randbytes(2_000_000))
    await mesh.run(a, b)
    mesh.link(a, b)
    for turns in range(40):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.replication.sync)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    assert (await b.replication.sync()).equal
    assert not b.database.read("SELECT 1 FROM chunks WHERE refs<1")


async def test_who_is_not_linked_cannot_be_synced(mesh: Mesh, autojump_clock: Clock) -> None:
    a = Node(1)
    await mesh.run(a)
    with pytest.raises(NotFoundError):
        await a.replication.sync([Node(2).node_id])
    assert (await a.replication.sync()).peers == ()


async def test_a_peer_without_replication_says_so(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await mesh.run(a)
    mesh.link(a, b)
    (peer,) = (await a.replication.sync()).peers
    assert "does not run" in str(peer.error)


async def test_stores_on_disk_with_their_threads_agree_too(tmp_path: Path) -> None:
    async with open_mesh() as mesh:
        nodes = [Node(i, tmp_path / f"{i}") for i in range(3)]
        await mesh.run(*nodes)
        for i in range(3):
            mesh.link(nodes[i], nodes[(i + 1) % 3])
        async with trio.open_nursery() as nursery:
            for i in range(300):
                nursery.start_soon(nodes[i % 3].put, b"%d" % (i % 40))
        await nodes[0].put(b"large", value=bytes(1_000_000))
        await mesh.equal(*nodes, seconds=120)
        assert nodes[2].entries.get(b"large").value == bytes(1_000_000)
    for node in nodes:
        await node.database.aclose()


# --- liars


def lie(kind: type, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda message: change(message) if isinstance(message, kind) else message


LIES = {
    "ids it never delivers": lie(m.Ids, lambda x: attrs.evolve(x, hashes=[*x.hashes, b"?" * 32])),
    "positions that go back": lie(m.Ids, lambda x: attrs.evolve(x, upto=0, done=False)),
    "endless empty pages": lie(m.Ids, lambda x: attrs.evolve(x, hashes=[], upto=x.upto + 1, done=False)),
    "an id twice": lie(m.Ids, lambda x: attrs.evolve(x, hashes=[*x.hashes, x.hashes[0]])),
    "another epoch": lie(m.Ids, lambda x: attrs.evolve(x, epoch=x.epoch ^ 1)),
    "too many ids": lie(m.Ids, lambda x: attrs.evolve(x, hashes=(x.hashes * 400)[:8193])),
    "answers to nothing": lie(m.Entries, lambda x: attrs.evolve(x, served=0)),
    "more answers than questions": lie(m.Entries, lambda x: attrs.evolve(x, served=x.served + 1)),
    "bad signatures": lie(
        m.Entries, lambda x: attrs.evolve(x, batches=[[[head[0], bytes(64)], members] for head, members in x.batches])
    ),
    "no admissions": lie(m.Entries, lambda x: attrs.evolve(x, admissions=[])),
    "no entries": lie(m.Entries, lambda x: attrs.evolve(x, batches=[])),
    "wrong chunks": lie(m.Chunks, lambda x: attrs.evolve(x, chunks=[b"wrong"] * len(x.chunks))),
    "no chunks": lie(m.Chunks, lambda x: attrs.evolve(x, chunks=[])),
    "more chunks than asked": lie(m.Chunks, lambda x: attrs.evolve(x, chunks=[*x.chunks, None])),
    "another message": lie(m.Ids, lambda x: m.SyncState(x.id, 1, 1, bytes(16))),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_peer_that_lies_loses_its_link_and_costs_nobody_else(
    mesh: Mesh, autojump_clock: Clock, name: str
) -> None:
    honest, liar, reader = Node(1), Node(2), Node(3)
    await liar.put(*(b"%d" % i for i in range(20)))
    await liar.put(b"large", value=random.Random(1).randbytes(600_000))
    await mesh.run(honest, liar, reader)
    to_liar, from_liar = mesh.link(reader, liar)
    to_honest, _ = mesh.link(reader, honest)
    from_liar.forge = LIES[name]
    await honest.put(b"good")
    (peer,) = (await reader.replication.sync([liar.node_id])).peers
    assert peer.error is not None
    assert isinstance(to_liar.fault, RemoteProtocolError)
    assert (await reader.replication.sync()).peers[0].equal
    assert to_honest.fault is None
    assert reader.entries.get(b"good").value == b"v"


async def test_pages_of_known_ids_without_end_are_cut_short(mesh: Mesh, autojump_clock: Clock) -> None:
    liar, reader = Node(2), Node(3)
    await liar.put(*(b"%d" % i for i in range(5000)))
    await mesh.run(liar, reader)
    near, far = mesh.link(reader, liar)
    await mesh.equal(liar, reader)
    pages = 0

    def forge(message: Any) -> Any:
        nonlocal pages
        if isinstance(message, (m.Sync, m.SyncState)):
            return attrs.evolve(message, fingerprint=bytes(16), high=2**50)
        if isinstance(message, m.Ids):
            pages += 1
            ids = liar.entries.ids_after(0, 8192)[0]
            return attrs.evolve(message, hashes=ids, upto=pages * 10_000, done=False)
        return message

    far.forge = forge
    (peer,) = (await reader.replication.sync()).peers
    assert "more ids" in str(peer.error)
    assert near.fault is not None
    assert pages < 5


async def test_a_push_that_goes_back_or_does_not_verify_ends_the_link(mesh: Mesh, autojump_clock: Clock) -> None:
    for change in (
        lambda x: attrs.evolve(x, after=x.upto + 1),
        lambda x: attrs.evolve(x, batches=[[[head[0], bytes(64)], members] for head, members in x.batches]),
    ):
        a, b = Node(1), Node(2)
        await mesh.run(a, b)
        near, far = mesh.link(a, b)
        await trio.sleep(1)
        near.forge = lie(m.Push, change)
        await a.put(b"k")
        await mesh.until(lambda: far.fault is not None, seconds=5)  # noqa: B023
        with pytest.raises(NotFoundError):
            b.entries.get(b"k")


async def test_requests_beyond_their_bounds_end_the_link(mesh: Mesh, autojump_clock: Clock) -> None:
    asked = [
        m.IdsGet(id=1, epoch=0, after=0, limit=0),
        m.EntriesGet(id=1, hashes=[]),
        m.ChunksGet(id=1, hashes=[bytes(32)] * 33),
    ]
    for message in asked:
        a, b = Node(1), Node(2)
        await mesh.run(a, b)
        near, far = mesh.link(a, b)
        await trio.sleep(1)
        if isinstance(message, m.IdsGet):
            message = attrs.evolve(message, epoch=b.entries.state().epoch)  # noqa: PLW2901
        near.send_nowait(message)
        await mesh.until(lambda: far.fault is not None, seconds=5)  # noqa: B023


async def test_too_many_requests_at_once_are_refused_one_by_one(mesh: Mesh, autojump_clock: Clock) -> None:
    a, b = Node(1), Node(2)
    await mesh.run(a, b)
    near, far = mesh.link(a, b)
    await trio.sleep(1)
    epoch = b.entries.state().epoch
    for _ in range(100):  # all at once, before the server runs
        b.replication.handle(far, m.IdsGet(id=999, epoch=epoch, after=0, limit=10))
    assert far.sent.count(m.Error) == 36
    await trio.sleep(1)
    assert far.sent.count(m.Ids) >= 64
    assert far.fault is None
    assert near.fault is None
