"""The writing side of replicated data: it lives on the store's writing thread and takes part in every commit.

Where the store stands (epoch, position, counter, clock, history of batches, fingerprint) is written in the same
transaction as the entries it speaks of. Within a transaction it runs ahead in memory: an operation that fails is put
back to where it began, a commit that fails to where that began.

All own entries of a commit are signed together, at most 64 a batch, when every operation has run. A commit is told in
*runs*: own entries have no others' between them, so that a push that says "from position a to b" leaves nothing out.

    epoch     64 random bits, new with each new store. If a peer shows a batch of this node and epoch that this store
              never wrote, the store was put back to an earlier state: a new epoch begins, since numbers of the old one
              are in use.
    due       a stamp up to the clock's high-water mark, or one that the clock adopts (formats.md, "Order"; clock.py)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from ..clock import DRIFT_MS_MAX, HybridClock
from ..errors import NotFoundError
from ..security.keys import NodeKey
from ..security.records import Admission
from . import fingerprint
from .batch import SIZE_MAX, Frontier, audit_path, sign_head, tree_levels
from .blob import BlobReference, split
from .commits import Advance, Applied, Commit, CommittedBatch, StoreState
from .entry import BLOB, INLINE_BYTES_MAX, TOMBSTONE, Entry, make_entry, parse_entry_untrusted
from .tables import (
    QUERIES,
    Row,
    add_pieces,
    drop_loose,
    from_sql,
    hold_blob,
    insert_batch,
    insert_entry,
    release_blob,
    rows_of,
    to_sql,
    walk,
)  # fmt: skip
from .verification import CheckedBatch, CheckedEntry, Verifier

__all__ = ["Ledger"]

log = logging.getLogger("bms.data")

_GROUP_BYTES_MAX = 160 * 1024


class _Group:
    """Own entries that will be signed together."""

    def __init__(self, batch: int, first: int, after: int) -> None:
        self.batch = batch
        self.first = first
        self.after = after
        self.entries: list[Entry] = []
        self.gone: set[int] = set()
        self.size = 0


class _Run:
    """Consecutive positions of own or of others' entries."""

    def __init__(self, local: bool, after: int) -> None:
        self.local = local
        self.after = after
        self.upto = after
        self.groups: list[_Group] = []
        self.keys: list[bytes] = []


class Ledger:
    """State and operations of the writing thread. `deliver(commits, state, counts)` runs on the Trio thread after each
    commit.
    """

    def __init__(
        self,
        *,
        mesh_id: bytes,
        node_key: NodeKey,
        clock: HybridClock,
        wall_time: Callable[[], float],
        token_bytes: Callable[[int], bytes],
        verifier: Verifier,
        deliver: Callable[[list[Commit], StoreState, dict[str, int]], None],
    ) -> None:
        self.own_admission: Admission | None = None
        self._mesh_id = mesh_id
        self._key = node_key
        self._author = node_key.node_id.raw
        self._clock = clock
        self._wall_time = wall_time
        self._token_bytes = token_bytes
        self._verifier = verifier
        self._deliver = deliver
        self._epoch = self._high = self._counter = self._batch = 0
        self._frontier = Frontier()
        self._sum = fingerprint.EMPTY
        self._totals = (0, 0, 0)
        self._runs: list[_Run] = []
        self._touched: set[int] = set()
        self._counts: dict[str, int] = {}
        self._is_changed = False
        self._saved = self._mark()

    @property
    def state(self) -> StoreState:
        """Where the store stands, on the writing thread or before it runs."""
        return StoreState(self._epoch, self._high, fingerprint.digest(self._sum), self._totals)

    # ------------------------------------------------------------------ taking part in commits

    def load(self, connection: apsw.Connection) -> None:
        """Take up where the last life ended, or begin an epoch; drop pieces whose entries never came."""
        row = connection.execute(QUERIES["ledger"]).fetchone()
        if row is None:
            self._begin_epoch()
        else:
            epoch, self._high, self._counter, hlc, count, *totals, roots, total = row
            self._totals = (totals[0], totals[1], totals[2])
            self._epoch = from_sql(epoch)
            self._clock.last = max(self._clock.last, from_sql(hlc))
            self._frontier = Frontier(count, tuple(roots[i : i + 32] for i in range(0, len(roots), 32)))
            self._sum = fingerprint.sum_from_bytes(total)
        self._batch = connection.execute(QUERIES["last_batch"]).get or 0
        dropped = drop_loose(connection)
        self._is_changed = row is None or dropped > 0  # on a full disk a store still opens, to be read

    def _begin_epoch(self) -> None:
        self._epoch = int.from_bytes(self._token_bytes(8), "big")
        self._counter = 0
        self._frontier = Frontier()

    def _mark(self) -> tuple[Any, ...]:
        return self._epoch, self._high, self._counter, self._batch, self._frontier, self._sum, self._totals

    def _reset(self, mark: tuple[Any, ...]) -> None:
        self._epoch, self._high, self._counter, self._batch, self._frontier, self._sum, self._totals = mark

    def _count(self, name: str, amount: int = 1) -> None:
        self._counts[name] = self._counts.get(name, 0) + amount

    def begin(self) -> None:
        """A transaction starts."""
        self._saved = self._mark()
        self._runs, self._touched, self._counts = [], set(), {}
        self._is_changed = False

    def abandon(self) -> None:
        """The transaction was undone."""
        self._reset(self._saved)

    def finish(self, connection: apsw.Connection) -> Callable[[], None] | None:
        """Sign what is new and write down where the store stands."""
        if not self._is_changed:
            state, counts = self.state, self._counts
            return (lambda: self._deliver([], state, counts)) if counts else None
        commits = [self._close_run(connection, run) for run in self._runs]
        for batch in self._touched:
            if connection.execute(QUERIES["in_batch"], (batch,)).fetchone() is None:
                connection.execute("DELETE FROM batches WHERE batch=?", (batch,))
        connection.execute(
            "INSERT OR REPLACE INTO ledger VALUES(1,?,?,?,?,?,?,?,?,?,?)",
            (
                *(to_sql(self._epoch), self._high, self._counter, to_sql(self._clock.last), self._frontier.count),
                *self._totals,
                *(b"".join(self._frontier.roots), fingerprint.sum_to_bytes(self._sum)),
            ),
        )
        state, counts = self.state, self._counts
        return lambda: self._deliver(commits, state, counts)

    def _close_run(self, connection: apsw.Connection, run: _Run) -> Commit:
        keys = tuple(run.keys)
        if not run.local:
            return Commit(self._epoch, run.after, run.upto, False, keys)
        admission = self.own_admission
        assert admission is not None
        batches = []
        for i, group in enumerate(run.groups):
            ids = [entry.id for entry in group.entries]
            head = sign_head(
                self._key, mesh_id=self._mesh_id, serial=admission.serial, epoch=self._epoch, frontier=self._frontier,
                ids=ids, first=group.first,
            )  # fmt: skip
            self._frontier = self._frontier.add(head.body)
            insert_batch(connection, group.batch, head, b"".join(ids))
            upto = run.groups[i + 1].after if i + 1 < len(run.groups) else run.upto
            members = _members(group)
            size = sum(len(body) + 32 * len(path) + 8 for _, body, path in members) + 256
            batches.append(CommittedBatch(group.after, upto, [head.signed, members] if members else None, size))
        return Commit(self._epoch, run.after, run.upto, True, keys, tuple(batches), (admission.signed,))

    # ------------------------------------------------------------------ own writes

    def put(self, connection: apsw.Connection, key: bytes, value: bytes | None, expiry: int | None) -> bytes:
        """Write or (None) delete a key; the new entry's id. `NotFoundError` for deleting what is not there."""
        mark = self._mark()
        try:
            return self._put(connection, key, value, expiry)
        except BaseException:
            self._reset(mark)
            raise

    def _put(self, connection: apsw.Connection, key: bytes, value: bytes | None, expiry: int | None) -> bytes:
        rows = rows_of(connection, key)
        wall_s = self._wall_time()
        if value is None and not any(self._is_visible(row, wall_s) for row in rows):
            raise NotFoundError(f"there is no key {key!r}")
        held: bytes | BlobReference | None = value
        if value is not None and len(value) > INLINE_BYTES_MAX:
            held, pieces = split(value)
            add_pieces(connection, pieces)
        self._counter += 1
        entry = make_entry(
            self._mesh_id, key, held, hlc=self._clock.now(wall_s), author=self._author, epoch=self._epoch,
            counter=self._counter, expiry=expiry,
        )  # fmt: skip
        run = self._runs[-1] if self._runs and self._runs[-1].local else None
        group = run.groups[-1] if run is not None else None
        if group is None or len(group.entries) == SIZE_MAX or group.size + len(entry.body) > _GROUP_BYTES_MAX:
            self._batch += 1
            group = _Group(self._batch, self._counter, self._high)
        losers = self._losers(entry, rows, True)
        assert losers is not None, "an own stamp is above all that are due"
        self._place(connection, entry, losers, True, group.batch, len(group.entries), None)
        # From here on nothing fails.
        if run is None:
            run = _Run(True, self._high - 1)
            self._runs.append(run)
        if not run.groups or run.groups[-1] is not group:
            run.groups.append(group)
        group.entries.append(entry)
        group.size += len(entry.body)
        run.upto = self._high
        run.keys.append(key)
        self._mark_gone(losers)
        self._is_changed = True
        return entry.id

    def _is_visible(self, row: Row, wall_s: float) -> bool:
        alive = row.expiry is None or row.expiry > self._clock.physical_ms(wall_s)
        return row.due and not row.flags & TOMBSTONE and alive

    def _mark_gone(self, losers: Sequence[Row]) -> None:
        for row in losers:
            self._touched.add(row.batch)
            for run in self._runs:
                for group in run.groups:
                    if group.batch == row.batch:
                        group.gone.add(row.leaf)

    # ------------------------------------------------------------------ what is held

    def _losers(self, entry: Entry, rows: Sequence[Row], due: bool) -> list[Row] | None:
        """The rows that `entry` replaces; None if one of them stands above it."""
        losers = []
        for row in rows:
            if row.order > entry.order:
                if row.due or not due:
                    return None
            elif due or not row.due:
                losers.append(row)
        return losers

    def _place(
        self,
        connection: apsw.Connection,
        entry: Entry,
        losers: Sequence[Row],
        due: bool,
        batch: int,
        leaf: int,
        path: bytes | None,
    ) -> None:
        if isinstance(entry.value, BlobReference):
            hold_blob(connection, walk(connection, entry.value))
        for row in losers:
            self._remove(connection, row)
        self._high += 1
        insert_entry(connection, self._high, due, entry, batch, leaf, path)
        self._sum = fingerprint.add(self._sum, fingerprint.expand(entry.id))
        if due:
            self._weigh(entry.flags, entry.size, 1)

    def _remove(self, connection: apsw.Connection, row: Row) -> None:
        connection.execute("DELETE FROM entries WHERE position=?", (row.position,))
        self._sum = fingerprint.subtract(self._sum, fingerprint.expand(row.id))
        if row.due:
            self._weigh(row.flags, row.size, -1)
        if row.flags & BLOB and row.body is not None:
            old = parse_entry_untrusted(row.body)
            if old is not None and isinstance(old.value, BlobReference):
                release_blob(connection, old.value)

    def _weigh(self, flags: int, size: int, sign: int) -> None:
        entries, total, tombstones = self._totals
        if flags & TOMBSTONE:
            self._totals = entries, total, tombstones + sign
        else:
            self._totals = entries + sign, total + sign * size, tombstones

    def _is_due(self, stamp: int, wall_s: float) -> bool:
        return stamp <= self._clock.last or self._clock.observe(stamp, wall_s)

    # ------------------------------------------------------------------ others' writes

    def apply(
        self,
        connection: apsw.Connection,
        batches: Sequence[Any],
        admissions: Sequence[Admission],
        advances: Sequence[Advance],
    ) -> Applied:
        """Check everything, then store what is new. Raises `RemoteProtocolError`; then nothing was stored."""
        checked = [self._verifier.check_untrusted(batch) for batch in batches]
        mark = self._mark()
        try:
            return self._apply(connection, checked, admissions, advances)
        except BaseException:
            self._reset(mark)
            raise

    def _apply(
        self,
        connection: apsw.Connection,
        checked: Sequence[CheckedBatch | None],
        admissions: Sequence[Admission],
        advances: Sequence[Advance],
    ) -> Applied:
        after, wall_s = self._high, self._wall_time()
        tally = _Tally()
        for admission in admissions:
            values = (admission.node_id.raw, admission.serial, admission.body, admission.signature)
            connection.execute("INSERT OR IGNORE INTO admissions VALUES(?,?,?,?)", values)
        for batch in checked:
            if batch is None:
                tally.refused += 1
            else:
                self._apply_batch(connection, batch, wall_s, tally)
        applied = Applied(tally.new, tally.already, tally.superseded, tally.refused, tuple(tally.wanted))
        if applied.is_complete:
            for advance in advances:
                _advance(connection, advance)
        if tally.new:
            run = self._runs[-1] if self._runs and not self._runs[-1].local else None
            if run is None:
                run = _Run(False, after)
                self._runs.append(run)
            run.upto = self._high
            run.keys.extend(tally.keys)
            self._is_changed = True
        self._mark_gone(tally.losers)
        for name in ("new", "already", "superseded", "refused"):
            if getattr(applied, name):
                self._count(f"data.entries_{name}", getattr(applied, name))
        return applied

    def _apply_batch(self, connection: apsw.Connection, checked: CheckedBatch, wall_s: float, tally: _Tally) -> None:
        head = checked.head
        key = (head.author, to_sql(head.epoch), head.number)
        row = connection.execute(QUERIES["batch_of"], key).fetchone()
        is_copy = row is not None and row[1] != head.body
        if head.author == self._author and head.epoch == self._epoch:
            self._look_back(head.number, is_copy)
        if is_copy:
            log.error("two batches of %s have one number: its key is in use twice", head.author.hex())
            self._count("data.copied_keys")
            tally.refused += len(checked.entries) + checked.refused
            return
        tally.refused += checked.refused
        batch = None if row is None else row[0]
        for item in checked.entries:
            rows = rows_of(connection, item.entry.key)
            if any(held.id == item.entry.id for held in rows):
                tally.already += 1
                continue
            due = self._is_due(item.entry.hlc, wall_s)
            losers = self._losers(item.entry, rows, due)
            if losers is None:
                tally.superseded += 1
            elif not self._is_missing(connection, item, tally):
                if batch is None:
                    self._batch += 1
                    batch = self._batch
                    insert_batch(connection, batch, head, checked.leaves)
                self._place(connection, item.entry, losers, due, batch, item.leaf, item.path)
                tally.new += 1
                tally.losers.extend(losers)
                if due:
                    tally.keys.append(item.entry.key)
        if row is not None and checked.leaves is not None and not row[2]:
            connection.execute("UPDATE batches SET leaves=? WHERE batch=?", (checked.leaves, batch))

    def _look_back(self, number: int, is_copy: bool) -> None:
        """Begin a new epoch if a batch of this one shows that the store, or its key, has another life."""
        if (number > self._frontier.count or is_copy) and not any(run.local for run in self._runs):
            log.warning("a batch of this node came back that its store does not have: a new epoch begins")
            self._begin_epoch()
            self._is_changed = True

    def _is_missing(self, connection: apsw.Connection, item: CheckedEntry, tally: _Tally) -> bool:
        """Whether pieces of the entry's blob are not here; they are added to what is wanted."""
        if not isinstance(item.entry.value, BlobReference):
            return False
        missing = walk(connection, item.entry.value).missing
        tally.wanted.update(dict.fromkeys(missing))
        return bool(missing)

    # ------------------------------------------------------------------ as time goes by

    def promote(self, connection: apsw.Connection) -> int:
        """Let waiting entries whose time has come take part; returns how many keys were looked at."""
        wall_s = self._wall_time()
        horizon = max(self._clock.last, (self._clock.physical_ms(wall_s) + DRIFT_MS_MAX) << 16 | 0xFFFF)
        keys = [key for (key,) in connection.execute(QUERIES["waiting_upto"], (to_sql(horizon),))]
        mark, losers = self._mark(), []
        try:
            for key in keys:
                rows = sorted(rows_of(connection, key), key=lambda row: row.order)
                self._clock.observe(max(row.order[0] for row in rows if not row.due), wall_s)
                for row in rows[:-1]:
                    self._remove(connection, row)
                    losers.append(row)
                if not rows[-1].due:
                    connection.execute("UPDATE entries SET due=1 WHERE position=?", (rows[-1].position,))
                    self._weigh(rows[-1].flags, rows[-1].size, 1)
        except BaseException:
            self._reset(mark)
            raise
        if keys:
            self._mark_gone(losers)
            run = _Run(False, self._high)
            run.keys.extend(keys)
            self._runs.append(run)
            self._is_changed = True
        return len(keys)

    def quarantine(self, connection: apsw.Connection, positions: Sequence[int]) -> int:
        """Forget entries whose bytes are damaged, so that replicas are asked for them again; returns how many there
        were.
        """
        mark, gone = self._mark(), []
        try:
            for position in positions:
                found = connection.execute(
                    "SELECT id, batch, due, flags, size FROM entries WHERE position=?", (position,)
                ).fetchone()
                if found is not None:
                    connection.execute("DELETE FROM entries WHERE position=?", (position,))
                    self._sum = fingerprint.subtract(self._sum, fingerprint.expand(found[0]))
                    if found[2]:
                        self._weigh(found[3], found[4], -1)
                    gone.append(found[:2])
        except BaseException:
            self._reset(mark)
            raise
        for id_, batch in gone:
            log.error("entry %s was damaged on disk and is dropped; replicas have it", id_.hex())
            self._touched.add(batch)
        self._count("data.entries_damaged", len(gone))
        self._is_changed = True
        return len(gone)


class _Tally:
    """What an apply has found so far."""

    def __init__(self) -> None:
        self.new = self.already = self.superseded = self.refused = 0
        self.wanted: dict[bytes, None] = {}
        self.keys: list[bytes] = []
        self.losers: list[Row] = []


def _members(group: _Group) -> list[list[Any]]:
    """The entries of a group that are still held, as they travel: with audit paths unless all are."""
    if not group.gone:
        return [[i, entry.body, []] for i, entry in enumerate(group.entries)]
    levels = tree_levels(entry.id for entry in group.entries)
    held = (i for i in range(len(group.entries)) if i not in group.gone)
    return [[i, group.entries[i].body, audit_path(levels, i)] for i in held]


def _advance(connection: apsw.Connection, advance: Advance) -> None:
    """Move a cursor if the claim joins on to it."""
    row = connection.execute(QUERIES["cursor"], (advance.node,)).fetchone()
    position = row[1] if row is not None and row[0] == to_sql(advance.epoch) else 0
    if advance.after <= position < advance.upto:
        values = (advance.node, to_sql(advance.epoch), advance.upto)
        connection.execute("INSERT OR REPLACE INTO cursors VALUES(?,?,?)", values)
