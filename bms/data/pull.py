"""Pulling from one peer: ids behind a position, the entries that are missing, the chunks that those need.

    IdsGet ──> Ids            a page of ids; pages go on up to the position that the peer named, or till it is done
    EntriesGet ──> Entries    in slices, which answer the first of what was asked; what they lack is gone (superseded)
    ChunksGet ──> Chunks      several requests under way, each piece verified before it is written

A peer that is wrong or lies costs a bounded amount and raises `RemoteProtocolError`:

- pages must be at least half full unless they are the last, and positions must rise;
- ids that are known here may be announced only as often as this store ever numbered something: no page comes twice;
- an id that was announced, asked for and called gone may not be announced again;
- entries and chunks that were not asked for, or do not verify, are not taken;
- a blob's tree has as many levels as its size says.

Everything may be cancelled between any two awaits: what was applied stays, the cursor tells how far it went.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import attrs
import trio

from .. import failpoints
from ..errors import MeshError, RemoteProtocolError
from ..values import NodeId
from ..wire.messages import AnyMessage, Chunks, ChunksGet, Entries, EntriesGet, Ids, IdsGet
from .commits import Advance, Applied
from .entries import Entries as Store
from .entry import entry_id

__all__ = ["CHUNKS_ASKED_MAX", "IDS_PAGE", "Claims", "PeerLink", "Puller", "Tally"]

IDS_PAGE = 8192
CHUNKS_ASKED_MAX = 32

_ENTRIES_ASKED = 256
_REQUESTS_UNDER_WAY = 8
_CALL_DEADLINE_S = 15.0
_TREE_LEVELS_MAX = 8
_CLAIM_WAIT_S = 2.0

M = TypeVar("M")


class PeerLink(Protocol):
    """What is needed of a link (`net.link.Link`)."""

    node_id: NodeId
    is_open: bool

    def send_nowait(self, message: Any) -> bool:
        """Queue a message; False if it was not taken."""

    async def send(self, message: Any) -> None:
        """Queue a message, waiting for room."""

    async def call(self, message: Any, deadline_s: float | None = None) -> AnyMessage:
        """Ask, and return the answer."""

    def abort(self, error: RemoteProtocolError) -> None:
        """End the link, because the peer broke the protocol."""


@attrs.define
class Tally:
    """What was exchanged with a peer. Bytes are those of ids, entries with proofs, and chunks."""

    entries_sent: int = 0
    entries_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Claims:
    """Which entries are being fetched, from whichever peer, so that two pulls do not fetch the same."""

    def __init__(self) -> None:
        self._ids: set[bytes] = set()
        self._changed = trio.Event()

    def unclaimed(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of `ids` that nobody fetches."""
        return [id_ for id_ in ids if id_ not in self._ids]

    @contextmanager
    def claim(self, ids: Sequence[bytes]) -> Iterator[None]:
        """Fetch these, for the body."""
        self._ids.update(ids)
        try:
            yield
        finally:
            self._ids.difference_update(ids)
            self._changed.set()
            self._changed = trio.Event()

    async def wait(self) -> None:
        """Until some claim ends, but not for ever: whoever holds it may have a slow peer."""
        with trio.move_on_after(_CLAIM_WAIT_S):
            await self._changed.wait()


class Puller:
    """Pulls from the peer at the other end of `link`; one pull at a time. `claims` is common to a node's pullers."""

    def __init__(self, store: Store, link: PeerLink, tally: Tally, claims: Claims) -> None:
        self._claims = claims
        self._store = store
        self._link = link
        self._tally = tally
        self._known = 0

    async def pull(self, epoch: int, after: int, high: int) -> bool:
        """Take what the peer numbered behind `after`, at least up to `high`; whether all of it is held now.

        Raises `RemoteProtocolError`, `UnreachableError`, `RemoteError` or `StoreError`; what was taken until then is
        kept.
        """
        position, is_complete = after, True
        self._known = 0
        while True:
            page = await self._page(epoch, position)
            missing = self._store.missing(page.hashes)
            self._known += len(page.hashes) - len(missing)
            if self._known > self._store.state().high + IDS_PAGE:
                raise RemoteProtocolError("more ids are announced than there can be")
            gone, is_taken = await self._fetch(missing)
            if gone:
                again = await self._page(epoch, position)
                if not gone.isdisjoint(again.hashes):
                    raise RemoteProtocolError("an entry is announced but not delivered")
            is_complete = is_complete and is_taken
            if is_complete:
                held = self._store.cursor(self._link.node_id)
                if held[0] != epoch or held[1] < page.upto:
                    await self._store.apply([], [], [Advance(self._link.node_id.raw, epoch, after, page.upto)])
            position = page.upto
            if page.done or position >= high:
                return is_complete

    async def _page(self, epoch: int, after: int) -> Ids:
        page = await self._ask(IdsGet(id=0, epoch=epoch, after=after, limit=IDS_PAGE), Ids)
        self._tally.bytes_received += 34 * len(page.hashes)
        count = len(page.hashes)
        if page.epoch != epoch or page.upto < after or count > IDS_PAGE or len(set(page.hashes)) < count:
            raise RemoteProtocolError("ids come from another place than was asked for")
        if not page.done and (count < IDS_PAGE // 2 or page.upto < after + count):
            raise RemoteProtocolError("a page of ids is neither full nor the last")
        return page

    async def _fetch(self, missing: Sequence[bytes]) -> tuple[set[bytes], bool]:
        """Take these entries; which are gone at the peer, and whether all others are held now."""
        gone: set[bytes] = set()
        todo, is_complete = list(missing), True
        while todo:
            asked = self._claims.unclaimed(todo)[:_ENTRIES_ASKED]
            if not asked:
                before = len(todo)
                await self._claims.wait()
                todo = self._store.missing(todo)
                if len(todo) < before or self._claims.unclaimed(todo):
                    continue
                asked = todo[:_ENTRIES_ASKED]  # the other pull is slow
            with self._claims.claim(asked):
                reply = await self._ask(EntriesGet(id=0, hashes=list(asked)), Entries)
                if not 0 < reply.served <= len(asked):
                    raise RemoteProtocolError("an answer says it answers nothing")
                answered = set(asked[: reply.served])
                delivered = {entry_id(body) for _, members in reply.batches for _, body, _ in members}
                if not delivered <= answered:
                    raise RemoteProtocolError("entries came that were not asked for")
                gone |= answered - delivered
                if delivered:
                    applied = await self.take(reply.batches, reply.admissions)
                    is_complete = is_complete and applied.is_complete
                todo = [id_ for id_ in todo if id_ not in answered]
        return gone, is_complete

    async def take(
        self, batches: Sequence[Any], admissions: Sequence[Any], advances: Sequence[Advance] = ()
    ) -> Applied:
        """Apply entries, fetching the chunks that they need. Raises as `pull` does."""
        self._tally.bytes_received += sum(len(body) + 34 * len(path) for _, ms in batches for _, body, path in ms)
        for _ in range(_TREE_LEVELS_MAX):
            applied = await self._store.apply(batches, admissions, advances)
            self._tally.entries_received += applied.new
            if not applied.wanted or not await self.fetch_chunks(applied.wanted):
                return applied
            if failpoints.ARMED:
                failpoints.hit("data.before_blob_entry")
        raise RemoteProtocolError("a blob's tree does not end")

    async def fetch_chunks(self, wanted: Sequence[bytes]) -> bool:
        """Fetch chunks and manifest nodes, several requests at a time; False if the peer does not have all of them."""
        todo = deque(wanted)
        absent: list[bytes] = []
        failures: list[MeshError] = []

        async def work() -> None:
            count = 4
            while todo:
                asked = [todo.popleft() for _ in range(min(count, len(todo)))]
                reply = await self._ask(ChunksGet(id=0, hashes=asked), Chunks)
                answered = len(reply.chunks)
                if not 0 < answered <= len(asked):
                    raise RemoteProtocolError("an answer has no chunks, or more than were asked for")
                todo.extendleft(reversed(asked[answered:]))
                count = min(2 * count, CHUNKS_ASKED_MAX) if answered == len(asked) else max(1, answered)
                pairs = list(zip(asked, reply.chunks, strict=False))
                absent.extend(hash_ for hash_, data in pairs if data is None)
                arrived = [(hash_, data) for hash_, data in pairs if data is not None]
                if arrived:
                    self._tally.bytes_received += sum(len(data) for _, data in arrived)
                    await self._store.put_chunks(arrived)

        async def guard(task: Callable[[], Any]) -> None:
            try:
                await task()
            except MeshError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(_REQUESTS_UNDER_WAY, len(wanted))):
                nursery.start_soon(guard, work)
        if failures:
            raise failures[0]
        return not absent

    async def _ask(self, message: AnyMessage, kind: type[M]) -> M:
        reply = await self._link.call(message, _CALL_DEADLINE_S)
        if not isinstance(reply, kind):
            raise RemoteProtocolError(f"{type(reply).__name__} is no answer to {type(message).__name__}")
        return reply
