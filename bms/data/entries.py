"""Replicated data of the space "default", as the rest of the program uses it.

Writes go to the store's writing thread (`ledger`) and are on disk when they return; reads run here, on the last commit.
What was read is compared with its hash: damaged bytes are never returned nor sent. A damaged entry or chunk raises
`CorruptionError`, is counted, and treated as not here, so that a replica gives it again: `damaged_chunks` says which
chunks to ask for, and `quarantine` drops damaged entries so that the fingerprint shows what is missing.

For reconciliation it serves ids by position, entries with their proofs, and chunks; `apply` takes others' in.

Absent for now: other spaces, conflict kinds, collecting tombstones, reading at a level.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import cbor2

from .. import failpoints
from ..clock import DRIFT_MS_MAX, HybridClock, stamp_ms
from ..counters import Counters
from ..errors import (
    CorruptionError,
    LimitError,
    LocalProtocolError,
    NotFoundError,
    RefusedError,
    RemoteProtocolError,
)  # fmt: skip
from ..security.keys import NodeKey
from ..security.records import Admission
from ..security.trust import DELETE, WRITE, Trust
from ..store.database import Database
from ..values import KeyInfo, NodeId, Value, Version, key_bytes
from .batch import audit_path, tree_levels
from .blob import CHUNK, BlobReference, Piece, chunk_hash, kind_of_untrusted, manifest_hash, shape, walk_untrusted
from .commits import Advance, Applied, Commit, Head, StoreState
from .entry import BLOB, INTEGER_MAX, TOMBSTONE, Entry, entry_id, parse_entry_untrusted
from .ledger import Ledger
from .tables import MANY, QUERIES, STEPS, add_pieces, drop_loose, from_sql, to_sql
from .verification import SPACE, Verifier

__all__ = ["Entries", "Totals"]

log = logging.getLogger("bms.data")

_PATH_BYTES = 7 * 34


@attrs.frozen
class Totals:
    """What is held: keys with a value (`entries`, expired ones too), the bytes of their values, and deleted keys."""

    entries: int
    bytes: int
    tombstones: int


class Entries:
    """The entries of one node. Owns its tables in `database`; `clock` is its own from now on."""

    def __init__(
        self,
        database: Database,
        *,
        mesh_id: bytes,
        node_key: NodeKey,
        admission: Admission,
        trust: Trust,
        clock: HybridClock,
        wall_time: Callable[[], float],
        token_bytes: Callable[[int], bytes],
        value_bytes_max: int = 64 * 1024 * 1024,
        counters: Counters | None = None,
    ) -> None:
        self.counters = Counters() if counters is None else counters
        self.damaged_chunks: set[bytes] = set()
        self._database = database
        self._mesh_id = mesh_id
        self._node_id = node_key.node_id
        self._trust = trust
        self._clock = clock
        self._wall_time = wall_time
        self.value_bytes_max = value_bytes_max
        self._damaged_entries: set[int] = set()
        self._callbacks: list[Callable[[Commit], None]] = []
        self._admissions: dict[tuple[bytes, int], Admission] = {}
        self._names: dict[bytes, NodeId] = {}
        self._ledger = Ledger(
            mesh_id=mesh_id, node_key=node_key, clock=clock, wall_time=wall_time, token_bytes=token_bytes,
            verifier=Verifier(mesh_id, trust, self._admissions), deliver=self._deliver,
        )  # fmt: skip
        database.prepare("data", STEPS)
        for signed in database.read("SELECT body, signature FROM admissions"):
            try:
                self._remember(trust.check_admission_untrusted(list(signed)))
            except RemoteProtocolError as error:
                log.info("a stored admission does not count any more: %s", error)
        self._state = self._ledger.state
        database.join(self._ledger)
        self.renew(admission)
        database.write_now(self._open)
        self._state = self._ledger.state

    def _open(self, connection: Any) -> None:
        self._ledger.load(connection)
        admission = self._ledger.own_admission
        assert admission is not None
        values = (admission.node_id.raw, admission.serial, admission.body, admission.signature)
        connection.execute("INSERT OR IGNORE INTO admissions VALUES(?,?,?,?)", values)
        while self._ledger.promote(connection):
            pass

    @property
    def node_id(self) -> NodeId:
        """Whose store this is."""
        return self._node_id

    @property
    def clock(self) -> HybridClock:
        """The clock that stamps writes; others may set its `offset_ms`."""
        return self._clock

    def renew(self, admission: Admission) -> None:
        """Write under this admission from now on."""
        self._ledger.own_admission = admission
        self._remember(admission)

    async def next_boot(self, now_ms: int) -> int:
        """The number of the boot that begins: above all before it, and the time where that is higher (formats.md)."""

        def operation(connection: Any) -> int:
            last = connection.execute("SELECT boot FROM boots WHERE one=1").get or 0
            boot = max(last + 1, now_ms)
            connection.execute("INSERT OR REPLACE INTO boots VALUES(1,?)", (boot,))
            return boot

        return await self._database.write(operation)

    def _remember(self, admission: Admission) -> None:
        self._admissions[admission.node_id.raw, admission.serial] = admission

    def on_commit(self, callback: Callable[[Commit], None]) -> Callable[[], None]:
        """Call `callback` on the Trio thread for every commit that added entries, in order, once they are on disk.

        Returns what ends it.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def _deliver(self, commits: list[Commit], state: StoreState, counts: dict[str, int]) -> None:
        self._state = state
        for name, amount in counts.items():
            self.counters.add(name, amount)
        for commit in commits:
            for callback in tuple(self._callbacks):
                callback(commit)

    # ------------------------------------------------------------------ writing and reading

    async def put(
        self,
        key: bytes,
        value: bytes | None,
        *,
        expiry_ms: int | None = None,
        condition: Callable[[str | None], bool] | None = None,
    ) -> Version:
        """Write `value` under `key`, or delete it (None); on disk when this returns. Reads here see it at once.

        `expiry_ms` is Unix milliseconds, after which it reads as missing. `condition` is asked, on the writing thread
        and within the write, about the version in force here (None: there is none). Raises `NotFoundError` (deleting
        what is not there), `VersionConflictError` (the condition said no), `LimitError` (too large), `RefusedError` (no
        grant), `StoreError`: then nothing was written. Cancelled: it may have been.
        """
        key = key_bytes(key)
        if value is not None and len(value) > self.value_bytes_max:
            raise LimitError(f"the value has {len(value)} bytes, more than {self.value_bytes_max}")
        if expiry_ms is not None and (value is None or not 0 < expiry_ms <= INTEGER_MAX):
            raise LocalProtocolError("an expiry is a positive number of milliseconds, for a value that is written")
        admission = self._ledger.own_admission
        if admission is None or not self._trust.allows(admission, SPACE, DELETE if value is None else WRITE):
            raise RefusedError(
                f"this node's admission does not let it {'delete' if value is None else 'write'} in {SPACE}"
            )
        size = len(key) + (0 if value is None else len(value))
        id_ = await self._database.write(
            lambda connection: self._ledger.put(connection, key, value, expiry_ms, condition), size
        )
        return Version(id_.hex())

    def get(self, key: bytes) -> Value:
        """The value of a key. `NotFoundError` if it is missing, deleted or expired; `CorruptionError` if it is
        damaged.
        """
        rows = self._database.read(QUERIES["get"], (key,))
        if not rows:
            raise NotFoundError(f"there is no key {key!r}")
        id_, author, flags, expiry, body = rows[0]
        if flags & TOMBSTONE or (expiry is not None and expiry <= self._now_ms()):
            raise NotFoundError(f"there is no key {key!r}")
        if flags & BLOB:
            return self._get_blob(key)
        if entry_id(body) != id_:
            self._found_damage(id_)
        return Value(cbor2.loads(body)[5], Version(id_.hex()), self._name(author))

    def _get_blob(self, key: bytes) -> Value:
        with self._database.snapshot():
            entry = self.get_entry(key)
            if not isinstance(entry.value, BlobReference):  # rewritten since
                held = b"" if entry.value is None else entry.value
                if entry.flags & TOMBSTONE:
                    raise NotFoundError(f"there is no key {key!r}")
            else:
                held = self._blob(entry.value)
        return Value(held, Version(entry.id.hex()), self._name(entry.author))

    def get_entry(self, key: bytes) -> Entry:
        """The entry in force under a key, tombstones and expired ones too. `NotFoundError`, `CorruptionError`."""
        rows = self._database.read(QUERIES["get"], (key,))
        if not rows:
            raise NotFoundError(f"there is no key {key!r}")
        id_, body = rows[0][0], rows[0][4]
        if entry_id(body) != id_:
            self._found_damage(id_)
        entry = parse_entry_untrusted(body)
        assert entry is not None, "what is stored was understood"
        return entry

    def scan(self, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> list[KeyInfo]:
        """The keys that begin with `prefix` and follow `after`, in order, at most `limit`. Values are not loaded."""
        start = prefix if after is None else max(prefix, after + b"\x00")
        stem = prefix.rstrip(b"\xff")
        if stem:
            end = stem[:-1] + bytes([stem[-1] + 1])
            rows = self._database.read(QUERIES["scan"], (start, end, self._now_ms(), limit))
        else:  # nothing follows 0xff…: up to the last key
            rows = self._database.read(QUERIES["scan_rest"], (start, self._now_ms(), limit))
            rows = [row for row in rows if row[0].startswith(prefix)]
        return [KeyInfo(key, Version(id_.hex()), size, self._name(author)) for key, id_, author, size in rows]

    def heads(self, keys: Sequence[bytes]) -> list[Head]:
        """What is in force under these keys, in their order; a key that nothing is known of is left out."""
        found: dict[bytes, Head] = {}
        for start in range(0, len(keys), MANY):
            part = list(keys[start : start + MANY])
            part.extend([b""] * (MANY - len(part)))
            for row in self._database.read(QUERIES["heads"], part):
                found[row[0]] = self._head(row)
        return [found[key] for key in dict.fromkeys(keys) if key in found]

    def expired(self, after_ms: int | None, limit: int = 1000) -> tuple[list[Head], int]:
        """The keys that have expired behind `after_ms` (Unix milliseconds; None: now), in that order, at most `limit`;
        and up to when that is, to go on from. Several that expire within the same millisecond come together.
        """
        now = self._now_ms()
        if after_ms is None:
            return [], now
        rows = self._database.read(QUERIES["expired"], (after_ms, now, limit))
        if len(rows) == limit:
            now = rows[-1][4]
            rows = self._database.read(QUERIES["expired"], (after_ms, now, -1))
        return [self._head(row) for row in rows], max(after_ms, now)

    def _head(self, row: Sequence[Any]) -> Head:
        key, id_, author, flags, expiry, size = row
        deleted = bool(flags & TOMBSTONE) or (expiry is not None and expiry <= self._now_ms())
        return Head(key, Version(id_.hex()), self._name(author), 0 if deleted else size, deleted)

    def _now_ms(self) -> int:
        return self._clock.physical_ms(self._wall_time())

    def _name(self, author: bytes) -> NodeId:
        name = self._names.get(author)
        if name is None:
            name = self._names[author] = NodeId.of(author)
        return name

    # ------------------------------------------------------------------ damage

    def _found_damage(self, id_: bytes) -> None:
        for row in self._database.read(QUERIES["by_id"], (id_,)):
            self._damaged_entries.add(row[0])
        self.counters.add("data.damage_found")
        raise CorruptionError(f"entry {id_.hex()} is damaged on disk; it is asked for again from the other nodes")

    def _piece(self, hash_: bytes) -> bytes | None:
        """The bytes of a chunk or manifest node; None if they are not here or damaged."""
        rows = self._database.read(QUERIES["chunk_data"], (hash_,))
        if not rows:
            return None
        kind, data = rows[0]
        if (chunk_hash if kind == CHUNK else manifest_hash)(data) == hash_:
            return bytes(data)
        if hash_ not in self.damaged_chunks:
            log.error("chunk %s is damaged on disk; replicas are asked for it", hash_.hex())
            self.damaged_chunks.add(hash_)
            self.counters.add("data.damage_found")
        return None

    def _blob(self, reference: BlobReference) -> bytes:
        chunks: dict[bytes, bytes] = {}

        def length(hash_: bytes) -> int | None:
            data = chunks.get(hash_)
            if data is None and (data := self._piece(hash_)) is not None:
                chunks[hash_] = data
            return None if data is None else len(data)

        walk = walk_untrusted(reference, self._piece, length)
        if walk.missing:
            self.damaged_chunks.update(walk.missing)
            raise CorruptionError(
                f"{len(walk.missing)} of the {sum(shape(reference.size))} pieces of a value are damaged on disk;"
                " they are asked for again from the other nodes"
            )
        return b"".join([chunks[hash_] for hash_ in walk.chunks])

    async def quarantine(self) -> int:
        """Drop entries that were found damaged, so that they are fetched again; returns how many."""
        positions = sorted(self._damaged_entries)
        if not positions:
            return 0
        count = await self._database.write(lambda connection: self._ledger.quarantine(connection, positions))
        self._damaged_entries.difference_update(positions)
        return count

    async def sweep(self) -> int:
        """Delete chunks that arrived for entries that never did; call when none are being fetched."""
        if not self._database.read(QUERIES["loose"] + " LIMIT 1"):
            return 0
        return await self._database.write(drop_loose)

    # ------------------------------------------------------------------ waiting entries

    def next_due(self) -> float | None:
        """Seconds until the first waiting entry's time comes (0: it has), None if none waits."""
        rows = self._database.read(QUERIES["waiting"])
        if not rows:
            return None
        stamp = from_sql(rows[0][0])
        if stamp <= self._clock.last:
            return 0.0
        return max(0.0, (stamp_ms(stamp) - DRIFT_MS_MAX - self._now_ms()) / 1000)

    async def promote(self) -> int:
        """Let waiting entries whose time has come take part; returns how many keys that concerned."""
        return await self._database.write(self._ledger.promote)

    # ------------------------------------------------------------------ for reconciliation

    def totals(self) -> Totals:
        """How much is held, without looking at it."""
        return Totals(*self._state.totals)

    def state(self) -> StoreState:
        """Where the store stood after the last commit that was told here."""
        return self._state

    def ids_after(self, position: int, limit: int) -> tuple[list[bytes], int, bool]:
        """Ids of held entries behind a position, in order; up to which position they reach; whether that is all."""
        high = self._state.high
        rows = self._database.read(QUERIES["ids_after"], (min(position, INTEGER_MAX), limit))
        done = len(rows) < limit
        upto = rows[-1][0] if rows else position
        if done:
            upto = max(upto, high)
        return [id_ for row, id_ in rows if row not in self._damaged_entries], upto, done

    def missing(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of the ids that are not held here, in order, each once."""
        held: set[bytes] = set()
        for start in range(0, len(ids), MANY):
            part = list(ids[start : start + MANY])
            part.extend([b""] * (MANY - len(part)))
            held.update(row[0] for row in self._database.read(QUERIES["have"], part))
        return [id_ for id_ in dict.fromkeys(ids) if id_ not in held]

    def batches_of(self, ids: Sequence[bytes], bytes_max: int) -> tuple[list[list[Any]], list[list[bytes]], int]:
        """Entries with their proofs, the admissions of their authors, and how many of the ids this answers.

        Answers ids in order until `bytes_max` is reached, at least one. Those not among the entries are not held here.
        """
        with self._database.snapshot():  # an entry and its batch go together
            return self._batches_of(ids, bytes_max)

    def _batches_of(self, ids: Sequence[bytes], bytes_max: int) -> tuple[list[list[Any]], list[list[bytes]], int]:
        found: dict[int, list[tuple[int, bytes | None, bytes]]] = {}
        size = served = 0
        seen: set[int] = set()
        for id_ in ids:
            rows = self._database.read(QUERIES["by_id"], (id_,))
            if rows:
                position, batch, leaf, path, body = rows[0]
                if entry_id(body) != id_:
                    self._damaged_entries.add(position)
                    self.counters.add("data.damage_found")
                elif position not in seen:
                    size += len(body) + _PATH_BYTES
                    if batch not in found:
                        size += 600  # its head, and perhaps an admission
                    if size > bytes_max and served:
                        break
                    seen.add(position)
                    found.setdefault(batch, []).append((leaf, path, body))
            served += 1
        batches, admissions = [], {}
        for batch, members in found.items():
            author, serial, count, head, signature, leaves = self._database.read(QUERIES["batch"], (batch,))[0]
            batches.append([[head, signature], _prove(sorted(members), count, leaves)])
            if (author, serial) not in admissions:
                admissions[author, serial] = self._database.read(QUERIES["admission"], (author, serial))
        return batches, [list(rows[0]) for rows in admissions.values()], served

    async def apply(
        self, batches: Sequence[Any], admissions: Sequence[Any], advances: Iterable[Advance] = ()
    ) -> Applied:
        """Take in entries from elsewhere, verifying everything; on disk when this returns.

        `advances` move cursors in the same transaction if all of the call is held now, or something newer. Raises
        `RemoteProtocolError` or `StoreError`: then nothing of this call was stored.
        """
        shown = [self._trust.check_admission_untrusted(signed) for signed in admissions]
        fresh = [admission for admission in shown if (admission.node_id.raw, admission.serial) not in self._admissions]
        for admission in fresh:
            self._remember(admission)
        moves = list(advances)
        size = sum(len(member[1]) + 100 for batch in batches for member in batch[1])
        return await self._database.write(
            lambda connection: self._ledger.apply(connection, batches, shown, moves), size
        )

    def chunks(self, hashes: Sequence[bytes], bytes_max: int) -> list[bytes | None]:
        """Chunks and manifest nodes in the order asked, None for what is not here; fewer if `bytes_max` is reached,
        not none.
        """
        found: list[bytes | None] = []
        size = 0
        for hash_ in hashes:
            data = self._piece(hash_)
            size += 8 if data is None else len(data) + 8
            if size > bytes_max and found:
                break
            found.append(data)
        return found

    async def put_chunks(self, chunks: Sequence[tuple[bytes, bytes]]) -> None:
        """Store chunks and manifest nodes, each with its hash, before their entries. `RemoteProtocolError`: none was
        stored.
        """
        damaged = frozenset(self.damaged_chunks)

        def operation(connection: Any) -> None:
            add_pieces(
                connection, [Piece(hash_, kind_of_untrusted(hash_, data), data) for hash_, data in chunks], damaged
            )

        await self._database.write(operation, sum(len(data) for _, data in chunks))
        self.damaged_chunks.difference_update(hash_ for hash_, _ in chunks)

    def cursor(self, node_id: NodeId) -> tuple[int, int]:
        """(epoch, position) up to which this node holds what another's store numbered; (0, 0) if it never met it."""
        rows = self._database.read(QUERIES["cursor"], (node_id.raw,))
        return (from_sql(rows[0][0]), rows[0][1]) if rows else (0, 0)

    async def set_cursor(self, node_id: NodeId, epoch: int, position: int) -> None:
        """Keep a cursor; it may go back, too."""
        values = (node_id.raw, to_sql(epoch), position)

        def operation(connection: Any) -> None:
            if failpoints.ARMED:
                failpoints.hit("data.before_sync_cursor")
            connection.execute("INSERT OR REPLACE INTO cursors VALUES(?,?,?)", values)
            if failpoints.ARMED:
                failpoints.hit("data.after_sync_cursor")

        await self._database.write(operation)


def _prove(members: Sequence[tuple[int, bytes | None, bytes]], size: int, leaves: bytes | None) -> list[list[Any]]:
    """Members of a batch as they travel: without paths if all are there, otherwise from the leaves or their stored
    paths.
    """
    if len(members) == size:
        return [[leaf, body, []] for leaf, _, body in members]
    if leaves is not None:
        levels = tree_levels(leaves[i : i + 32] for i in range(0, len(leaves), 32))
        return [[leaf, body, audit_path(levels, leaf)] for leaf, _, body in members]
    split = [(leaf, body, path or b"") for leaf, path, body in members]
    return [[leaf, body, [path[i : i + 32] for i in range(0, len(path), 32)]] for leaf, body, path in split]
