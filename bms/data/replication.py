"""Replication: every commit is pushed to every linked peer, and what a push missed is reconciled.

    push     after a commit, its own entries and the positions that they take up. Nobody waits for an answer. A peer
             whose queue is full misses the push and is reconciled soon.
    sync     when a link comes up (the lower node id begins at once), after a missed push, every `sync_interval`, and on
             demand:

        A ── Sync(epoch, high, fingerprint) ──> B     equal to B's? then B's cursor for A is at `high`
                                                      otherwise B pulls from A what follows its cursor for A
        A <── SyncState(…) ── B                       equal to A's? done. Otherwise A pulls from B likewise; another
                                                      round, also when equal now, so that B hears of it

Cursors make a round cost what is new, not what there is. They are a shortcut, the fingerprint decides: when both sides
have pulled all that their cursors leave, nothing changes any more, and the fingerprints still differ, the next pull
starts at position 0, at most once in `sync_interval` with each peer.

Every link has its own tasks and bounded queues, so that a slow, broken or lying peer delays and ends only itself:

    applier     pushes received, in order; several that wait go into one commit; too many are dropped and reconciled
    server      answers ids, entries and chunks
    answerer    answers Sync, which takes a pull
    syncer      begins rounds

Faults of the peer end the link (`abort`). Faults of the disk or the network leave the rest to a later round. Absent for
now: fingerprints by slot and sketches, which make the first meeting of two large stores cheaper.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
import trio

from .. import failpoints
from ..config import Config
from ..counters import Counters
from ..errors import LimitError, MeshError, NotFoundError, RemoteProtocolError, StoreError, UnreachableError
from ..values import NodeId
from ..wire.messages import (
    Chunks,
    ChunksGet,
    Entries,
    EntriesGet,
    Error,
    Ids,
    IdsGet,
    Push,
    Sync,
    SyncState,
)  # fmt: skip
from .commits import Advance, Commit
from .entries import Entries as Store
from .pull import CHUNKS_ASKED_MAX, IDS_PAGE, Claims, PeerLink, Puller, Tally

__all__ = ["LastSync", "PeerSync", "Replication", "SyncReport"]

log = logging.getLogger("bms.data")

_PUSH_BYTES_MAX = 256 * 1024
_ENTRIES_BYTES_MAX = 512 * 1024
_CHUNKS_BYTES_MAX = 768 * 1024
_INBOX_MESSAGES_MAX = 256
_INBOX_BYTES_MAX = 8 * 1024 * 1024
_REQUESTS_MAX = 64
_ROUNDS_MAX = 5
_SYNC_DEADLINE_S = 60.0
_ANSWER_DEADLINE_S = 50.0  # below the other side's: better a state that is not reached than no answer
_PAUSE_S = 0.5
_WAIT_S_MAX = 60.0


@attrs.frozen
class PeerSync:
    """What reconciling with one peer took. `equal`: both held the same at its end. `error`: why it ended early."""

    node_id: NodeId
    rounds: int
    bytes_sent: int
    bytes_received: int
    entries_sent: int
    entries_received: int
    seconds: float
    equal: bool
    error: str | None = None


@attrs.frozen
class SyncReport:
    """One `PeerSync` for each peer."""

    peers: tuple[PeerSync, ...]

    @property
    def equal(self) -> bool:
        """Whether all peers held the same as this node."""
        return all(peer.equal for peer in self.peers)


@attrs.frozen
class LastSync:
    """How the last reconciliation with a linked peer went, whoever asked for it: `ended_at` in Unix seconds."""

    ended_at: float
    outcome: PeerSync


class _Peer:
    """One link: its queues, and what is known of the store behind it."""

    def __init__(self, link: PeerLink, store: Store, claims: Claims) -> None:
        self.link = link
        self.scope = trio.CancelScope()
        self.tally = Tally()
        self.puller = Puller(store, link, self.tally, claims)
        self.pull_lock = trio.Lock()
        self.sync_lock = trio.Lock()
        self.pushes: deque[tuple[Push, int]] = deque()
        self.pushes_bytes = 0
        self.requests: deque[IdsGet | EntriesGet | ChunksGet] = deque()
        self.sync: Sync | None = None
        self.is_answering = False
        self.needs_sync = False
        self.wake = {name: trio.Event() for name in ("applier", "server", "answerer", "syncer")}
        self.stuck: tuple[Any, ...] | None = None
        self.full_at = float("-inf")
        self.last: tuple[float, PeerSync] | None = None

    def rouse(self, name: str) -> None:
        self.wake[name].set()

    async def wait(self, name: str) -> None:
        await self.wake[name].wait()
        self.wake[name] = trio.Event()


class Replication:
    """The flow of entries over links. `routes` are the messages that links hand in."""

    def __init__(self, entries: Store, *, config: Config, counters: Counters, chance: random.Random) -> None:
        self._store = entries
        self._config = config
        self._counters = counters
        self._chance = chance
        self._peers: dict[PeerLink, _Peer] = {}
        self._claims = Claims()
        self._nursery: trio.Nursery | None = None
        self._waiting_changed = trio.Event()
        self.synced_at: float | None = None
        """When a reconciliation has last come to its end, by Trio's clock."""
        kinds = (Push, Sync, IdsGet, EntriesGet, ChunksGet)
        self.routes: dict[type, Callable[[Any, Any], None]] = dict.fromkeys(kinds, self.handle)

    def reconfigure(self, config: Config) -> None:
        """Use a new interval from now on: the next round with each peer comes at once."""
        is_new, self._config = config.sync_interval != self._config.sync_interval, config
        for peer in self._peers.values() if is_new else ():
            self._need_sync(peer)

    # ------------------------------------------------------------------ links come, speak and go

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve all links until cancelled."""
        stop = self._store.on_commit(self._committed)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for link in list(self._peers):  # what an earlier run left half done is begun anew
                    self.link_up(link)
                    self._need_sync(self._peers[link])  # pushes that came meanwhile are lost
                nursery.start_soon(self._promote_forever)
                task_status.started()
        finally:
            self._nursery = None
            stop()

    def link_up(self, link: PeerLink, *, stays: bool = True) -> None:
        """A link can be used. Of two to one node the later is, unless it is known that it does not stay."""
        peer = _Peer(link, self._store, self._claims)
        self._peers = {**self._peers, link: peer} if stays else {link: peer, **self._peers}
        if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:  # otherwise the next run does
            self._nursery.start_soon(self._serve, peer)

    def link_down(self, link: PeerLink) -> None:
        """A link has ended. Harmless for one that was never up."""
        peer = self._peers.pop(link, None)
        if peer is not None:
            peer.scope.cancel()

    def handle(self, link: PeerLink, message: Push | Sync | IdsGet | EntriesGet | ChunksGet) -> None:
        """Take a message in; what it asks for is done by the link's tasks. Raises `RemoteProtocolError`."""
        peer = self._peers.get(link)
        if peer is None or self._nursery is None:  # it came as the link went, or replication does not run here
            if not isinstance(message, Push):
                link.send_nowait(Error(id=message.id, kind="NotFoundError", text="replication does not run here"))
            return
        if isinstance(message, Push):
            self._receive_push(peer, message)
        elif isinstance(message, Sync):
            if peer.is_answering:
                link.send_nowait(Error(id=message.id, kind="LimitError", text="a sync is under way"))
            else:
                peer.is_answering = True
                peer.sync = message
                peer.rouse("answerer")
        elif len(peer.requests) >= _REQUESTS_MAX:
            link.send_nowait(Error(id=message.id, kind="LimitError", text="too many requests at once"))
        else:
            peer.requests.append(message)
            peer.rouse("server")

    def _receive_push(self, peer: _Peer, push: Push) -> None:
        if push.upto < push.after:
            raise RemoteProtocolError("a push goes back")
        size = 256 + sum(len(body) + 34 * len(path) for _, members in push.batches for _, body, path in members)
        if len(peer.pushes) >= _INBOX_MESSAGES_MAX or peer.pushes_bytes + size > _INBOX_BYTES_MAX:
            self._counters.add("data.pushes_dropped")
            self._need_sync(peer)
            return
        peer.pushes.append((push, size))
        peer.pushes_bytes += size
        peer.rouse("applier")

    async def _serve(self, peer: _Peer) -> None:
        with peer.scope:
            async with trio.open_nursery() as nursery:
                for task in (self._apply_forever, self._answer_forever, self._serve_forever, self._sync_forever):
                    nursery.start_soon(self._guard, peer, task)

    async def _guard(self, peer: _Peer, task: Callable[[_Peer], Awaitable[None]]) -> None:
        try:
            await task(peer)
        except RemoteProtocolError as error:
            self._blame(peer, error)

    def _blame(self, peer: _Peer, error: RemoteProtocolError) -> None:
        self._counters.add("data.peers_at_fault")
        peer.link.abort(error)
        peer.scope.cancel()

    def _need_sync(self, peer: _Peer) -> None:
        peer.needs_sync = True
        peer.rouse("syncer")

    # ------------------------------------------------------------------ pushing

    def _committed(self, commit: Commit) -> None:
        """Push an own commit to every peer; runs right after it is on disk."""
        if not commit.local:
            self._waiting_changed.set()
            return
        if failpoints.ARMED:
            failpoints.hit("data.before_push")
        links = {peer.link.node_id: peer for peer in self._peers.values() if peer.link.is_open}
        if not links:
            return
        part: list[Any] = []
        after, size = commit.after, 0
        for i, batch in enumerate(commit.batches):
            if batch.batch is not None:
                part.append(batch.batch)
                size += batch.size
            is_last = i + 1 == len(commit.batches)
            if is_last or size + commit.batches[i + 1].size > _PUSH_BYTES_MAX:
                admissions = list(commit.admissions) if part else []
                push = Push(epoch=commit.epoch, after=after, upto=batch.upto, batches=part, admissions=admissions)
                for peer in links.values():
                    self._push(peer, push, size)
                part, after, size = [], batch.upto, 0

    def _push(self, peer: _Peer, push: Push, size: int) -> None:
        try:
            is_taken = peer.link.send_nowait(push)
        except LimitError:  # larger than the frames this peer takes: it asks for less at a time
            is_taken = False
        if is_taken:
            peer.tally.entries_sent += sum(len(members) for _, members in push.batches)
            peer.tally.bytes_sent += size
            self._counters.add("data.pushes_sent")
        else:
            self._counters.add("data.pushes_missed")
            self._need_sync(peer)

    async def _apply_forever(self, peer: _Peer) -> None:
        node = peer.link.node_id.raw
        while True:
            await peer.wait("applier")
            while peer.pushes:
                taken: list[Push] = []
                size = 0
                while peer.pushes and (not taken or size + peer.pushes[0][1] <= _PUSH_BYTES_MAX):
                    push, bytes_ = peer.pushes.popleft()
                    peer.pushes_bytes -= bytes_
                    size += bytes_
                    taken.append(push)
                batches = [batch for push in taken for batch in push.batches]
                admissions = [admission for push in taken for admission in push.admissions]
                advances = [Advance(node, push.epoch, push.after, push.upto) for push in taken]
                shown = list({tuple(admission): admission for admission in admissions}.values())
                try:
                    async with peer.pull_lock:
                        await peer.puller.take(batches, shown, advances)
                except RemoteProtocolError:
                    raise
                except MeshError as error:
                    log.info("a push of %s could not be taken: %s", peer.link.node_id.short, error)
                    self._need_sync(peer)

    # ------------------------------------------------------------------ answering

    async def _serve_forever(self, peer: _Peer) -> None:
        while True:
            await peer.wait("server")
            while peer.requests:
                await trio.lowlevel.checkpoint()
                try:
                    await self._serve_one(peer, peer.requests.popleft())
                except UnreachableError:
                    return  # the link has ended

    async def _serve_one(self, peer: _Peer, message: IdsGet | EntriesGet | ChunksGet) -> None:
        scale = 1
        while True:
            try:
                reply = self._reply_untrusted(peer, message, scale)
                await peer.link.send(reply)
                return
            except LimitError as error:  # larger than the frames this peer takes
                scale *= 2
                if scale > 1024:
                    await peer.link.send(Error(id=message.id, kind="LimitError", text=str(error)))
                    return
            except StoreError as error:
                log.error("a request of %s cannot be answered: %s", peer.link.node_id.short, error)
                await peer.link.send(Error(id=message.id, kind=type(error).__name__, text=str(error)))
                return

    def _reply_untrusted(
        self, peer: _Peer, message: IdsGet | EntriesGet | ChunksGet, scale: int
    ) -> Ids | Entries | Chunks | Error:
        if isinstance(message, IdsGet):
            state = self._store.state()
            if message.epoch != state.epoch:
                return Error(id=message.id, kind="NotFoundError", text="this store has another epoch")
            if not 0 < message.limit <= IDS_PAGE:
                raise RemoteProtocolError(f"a page of ids has 1 to {IDS_PAGE}")
            ids, upto, done = self._store.ids_after(message.after, message.limit)
            peer.tally.bytes_sent += 34 * len(ids)
            return Ids(id=message.id, epoch=state.epoch, hashes=ids, upto=upto, done=done)
        if isinstance(message, EntriesGet):
            if not 0 < len(message.hashes) <= IDS_PAGE:
                raise RemoteProtocolError(f"1 to {IDS_PAGE} entries can be asked for")
            batches, admissions, served = self._store.batches_of(message.hashes, _ENTRIES_BYTES_MAX // scale)
            bodies = [body for _, members in batches for _, body, _ in members]
            peer.tally.entries_sent += len(bodies)
            peer.tally.bytes_sent += sum(map(len, bodies))
            return Entries(id=message.id, served=served, batches=batches, admissions=admissions)
        if not 0 < len(message.hashes) <= CHUNKS_ASKED_MAX:
            raise RemoteProtocolError(f"1 to {CHUNKS_ASKED_MAX} chunks can be asked for")
        chunks = self._store.chunks(message.hashes, _CHUNKS_BYTES_MAX // scale)
        peer.tally.bytes_sent += sum(len(chunk) for chunk in chunks if chunk is not None)
        return Chunks(id=message.id, chunks=chunks)

    async def _answer_forever(self, peer: _Peer) -> None:
        while True:
            await peer.wait("answerer")
            message = peer.sync
            assert message is not None
            try:
                with trio.move_on_after(_ANSWER_DEADLINE_S):
                    await self._approach(peer, message)
                state = self._store.state()
                reply: SyncState | Error = SyncState(
                    id=message.id, epoch=state.epoch, high=state.high, fingerprint=state.fingerprint
                )
            except RemoteProtocolError:
                raise
            except MeshError as error:
                reply = Error(id=message.id, kind=type(error).__name__, text=str(error)[:500])
            peer.is_answering = False
            try:
                await peer.link.send(reply)
            except UnreachableError:
                return

    # ------------------------------------------------------------------ reconciling

    async def _approach(self, peer: _Peer, theirs: Sync | SyncState) -> bool:
        """Pull from a peer that told its state, unless it is this store's; whether fingerprints are equal now."""
        async with peer.pull_lock:
            mine = self._store.state()
            if mine.fingerprint != theirs.fingerprint:
                await self._pull(peer, theirs)
                mine = self._store.state()
            is_equal = mine.fingerprint == theirs.fingerprint
            node_id = peer.link.node_id
            if is_equal and self._store.cursor(node_id) != (theirs.epoch, theirs.high):
                await self._store.set_cursor(node_id, theirs.epoch, theirs.high)
            peer.stuck = None if is_equal else (theirs.epoch, theirs.high, theirs.fingerprint, mine.fingerprint)
            return is_equal

    async def _pull(self, peer: _Peer, theirs: Sync | SyncState) -> None:
        epoch, position = self._store.cursor(peer.link.node_id)
        if epoch != theirs.epoch:
            position = 0
        now = (theirs.epoch, theirs.high, theirs.fingerprint, self._store.state().fingerprint)
        if position > theirs.high or (position and now == peer.stuck):
            if trio.current_time() < peer.full_at + self._config.sync_interval:
                return
            peer.full_at = trio.current_time()
            self._counters.add("data.full_pulls")
            log.info("cursors do not explain how %s differs: comparing everything", peer.link.node_id.short)
            position = 0
        if position < theirs.high:
            await peer.puller.pull(theirs.epoch, position, theirs.high)

    async def _rounds(self, peer: _Peer) -> tuple[int, bool]:
        """Rounds with one peer until fingerprints are equal or nothing changes; how many, and whether equal."""
        await self._store.quarantine()
        before: tuple[Any, ...] | None = None
        rounds, is_equal = 0, False
        while rounds < _ROUNDS_MAX:
            rounds += 1
            state, full_at = self._store.state(), peer.full_at
            message = Sync(id=0, epoch=state.epoch, high=state.high, fingerprint=state.fingerprint)
            reply = await peer.link.call(message, _SYNC_DEADLINE_S)
            if not isinstance(reply, SyncState):
                raise RemoteProtocolError(f"{type(reply).__name__} is no answer to Sync")
            is_equal = await self._approach(peer, reply)
            now = (state, reply.epoch, reply.high, reply.fingerprint, self._store.state())
            if is_equal and state.fingerprint == reply.fingerprint:
                break  # and the peer knows it: had it become equal by this pull, its cursor would not move
            if now == before and peer.full_at == full_at:
                break
            before = now
        if self._store.damaged_chunks:
            async with peer.pull_lock:
                await peer.puller.fetch_chunks(sorted(self._store.damaged_chunks))
        if not any(other.pull_lock.locked() for other in self._peers.values()):
            await self._store.sweep()
        return rounds, is_equal

    async def _sync_peer(self, peer: _Peer, deadline_s: float) -> PeerSync:
        """Reconcile with one peer; says what came of it, and raises nothing."""
        tally, start = attrs.evolve(peer.tally), trio.current_time()
        rounds, is_equal = 0, False
        error: str | None = f"no end within {deadline_s:g} s"
        with trio.move_on_after(deadline_s):
            try:
                async with peer.sync_lock:
                    peer.needs_sync = False
                    rounds, is_equal = await self._rounds(peer)
                error = None
            except RemoteProtocolError as fault:
                error = str(fault)
                self._blame(peer, fault)
            except MeshError as fault:
                error = str(fault)
        self._counters.add("data.syncs" if error is None else "data.syncs_failed")
        if error is None:
            self.synced_at = trio.current_time()
        done = PeerSync(
            node_id=peer.link.node_id,
            rounds=rounds,
            bytes_sent=peer.tally.bytes_sent - tally.bytes_sent,
            bytes_received=peer.tally.bytes_received - tally.bytes_received,
            entries_sent=peer.tally.entries_sent - tally.entries_sent,
            entries_received=peer.tally.entries_received - tally.entries_received,
            seconds=trio.current_time() - start,
            equal=is_equal,
            error=error,
        )
        self._count(done)
        peer.last = (trio.current_time(), done)
        return done

    def last_syncs(self) -> list[tuple[float, PeerSync]]:
        """The last reconciliation over each open link that had one: when it ended by Trio's clock, and its outcome."""
        found = {
            peer.link.node_id: peer.last for peer in self._peers.values() if peer.link.is_open and peer.last is not None
        }
        return list(found.values())

    def _count(self, done: PeerSync) -> None:
        counters = self._counters
        counters.add("data.sync_rounds", done.rounds)
        counters.add("data.sync_bytes_sent", done.bytes_sent)
        counters.add("data.sync_bytes_received", done.bytes_received)
        counters.add("data.sync_entries_sent", done.entries_sent)
        counters.add("data.sync_entries_received", done.entries_received)
        counters.observe("data.sync_s", done.seconds)
        if done.seconds >= counters.slow_s:
            facts = {
                "peer": done.node_id.short,
                "rounds": done.rounds,
                "bytes": done.bytes_received,
                "error": done.error,
            }
            counters.slow("sync", done.seconds, facts)

    async def _sync_forever(self, peer: _Peer) -> None:
        interval = self._config.sync_interval
        # Of two that meet, one begins; the other would only repeat it.
        delay = 0.0 if self._store.node_id < peer.link.node_id else interval * self._chance.uniform(0.9, 1.1)
        backoff = min(1.0, interval)
        while True:
            with trio.move_on_after(delay):
                await peer.wait("syncer")
            if delay:
                await trio.sleep(min(_PAUSE_S, interval) * self._chance.uniform(0.0, 1.0))
            done = await self._sync_peer(peer, _SYNC_DEADLINE_S)
            interval = self._config.sync_interval
            if done.error is None and not peer.needs_sync:
                backoff = min(1.0, interval)
                delay = interval * self._chance.uniform(0.9, 1.1)
            else:
                log.debug("sync with %s: %s", peer.link.node_id.short, done.error)
                delay = backoff * self._chance.uniform(0.5, 1.5)
                backoff = min(2 * backoff, interval)

    async def sync(self, peers: Iterable[NodeId] | None = None, deadline_s: float = _SYNC_DEADLINE_S) -> SyncReport:
        """Reconcile with these peers now (None: all that are linked), side by side, each for at most `deadline_s`.

        Raises `NotFoundError` for one that is not linked; then nothing was done.
        """
        linked = {peer.link.node_id: peer for peer in self._peers.values() if peer.link.is_open}
        chosen = list(linked) if peers is None else list(dict.fromkeys(peers))
        for node_id in chosen:
            if node_id not in linked:
                raise NotFoundError(f"there is no link to {node_id}")
        reports: dict[NodeId, PeerSync] = {}

        async def one(node_id: NodeId) -> None:
            reports[node_id] = await self._sync_peer(linked[node_id], deadline_s)

        async with trio.open_nursery() as nursery:
            for node_id in chosen:
                nursery.start_soon(one, node_id)
        return SyncReport(tuple(reports[node_id] for node_id in chosen))

    # ------------------------------------------------------------------ waiting entries

    async def _promote_forever(self) -> None:
        """Let entries that lie ahead of the clock take part when their time comes; clocks may be set, so look now and
        then.
        """
        while True:
            self._waiting_changed = trio.Event()
            try:
                due_s = self._store.next_due()
                if due_s is not None and due_s <= 0:
                    await self._store.promote()
                    continue
            except StoreError as error:
                log.error("waiting entries cannot be promoted: %s", error)
                due_s = 1.0
            with trio.move_on_after(_WAIT_S_MAX if due_s is None else min(due_s, _WAIT_S_MAX)):
                await self._waiting_changed.wait()
