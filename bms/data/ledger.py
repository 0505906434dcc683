"""The writing side of replicated data: it lives on the store's writing thread and takes part in every commit.

Where the store stands (epoch, position, counter, clock, history of batches, fingerprint) is written in the same
transaction as the entries it speaks of. Within a transaction it runs ahead in memory: an operation that fails is put
back to where it began, a commit that fails to where that began.

All own entries of a commit are signed together, at most 64 a batch, when every operation has run. A commit is told in
*runs*: own entries have no others' between them, so that a push that says "from position a to b" leaves nothing out.

    epoch     64 random bits, new with each new store. If a peer shows a batch of this node and epoch that this store
              never wrote, the store was put back to an earlier state: a new epoch begins, since numbers of the old one
              are in use. What it wrote meanwhile under such numbers, which others refuse, is written again under new
              ones, in the same transaction. The numbers are free then, and the batch that was shown is taken.
    due       a stamp up to the clock's high-water mark, or one that the clock adopts (formats.md, "Order"; clock.py)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from .. import failpoints
from ..clock import DRIFT_MS_MAX, HybridClock
from ..errors import NotFoundError, VersionConflictError
from ..security.keys import NodeKey
from ..security.records import Admission
from ..wire.codec import UINT_MAX
from . import fingerprint
from .batch import SIZE_MAX, BatchHead, Frontier, sign_head
from .blob import BlobReference, split
from .commits import Advance, Applied, Commit, CommittedBatch, StoreState
from .entry import BLOB, INLINE_BYTES_MAX, TOMBSTONE, Entry, entry_id, make_entry, parse_entry_untrusted
from .runs import Group, Run
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
        self._runs: list[Run] = []
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
        commits = [self._close_run(connection, run) for run in self._runs if run.groups or not run.local]
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

    def _close_run(self, connection: apsw.Connection, run: Run) -> Commit:
        keys = tuple(run.keys)
        if not run.local:
            return Commit(self._epoch, run.after, run.upto, False, keys)
        admission = self.own_admission
        assert admission is not None
        batches = []
        for i, group in enumerate(run.groups):
            upto = run.groups[i + 1].after if i + 1 < len(run.groups) else run.upto
            if group.is_gone:  # it may be of an epoch that has ended since
                batches.append(CommittedBatch(group.after, upto, None, 0))
                continue
            ids = [entry.id for entry in group.entries]
            head = sign_head(
                self._key, mesh_id=self._mesh_id, serial=admission.serial, epoch=self._epoch, frontier=self._frontier,
                ids=ids, first=group.first,
            )  # fmt: skip
            self._frontier = self._frontier.add(head.body)
            insert_batch(connection, group.batch, head, b"".join(ids))
            members = group.members()
            size = sum(len(body) + 32 * len(path) + 8 for _, body, path in members) + 256
            batches.append(CommittedBatch(group.after, upto, [head.signed, members], size))
        return Commit(self._epoch, run.after, run.upto, True, keys, tuple(batches), (admission.signed,))

    # ------------------------------------------------------------------ own writes

    def put(
        self,
        connection: apsw.Connection,
        key: bytes,
        value: bytes | None,
        expiry: int | None,
        condition: Callable[[str | None], bool] | None = None,
    ) -> bytes:
        """Write or (None) delete a key; the new entry's id. `NotFoundError` for deleting what is not there.

        `condition` is asked about the version that this store has in force (None: there is none), in the same
        transaction; `VersionConflictError` if it says no.
        """
        mark = self._mark()
        try:
            return self._put(connection, key, value, expiry, condition)
        except BaseException:
            self._reset(mark)
            raise

    def _put(
        self,
        connection: apsw.Connection,
        key: bytes,
        value: bytes | None,
        expiry: int | None,
        condition: Callable[[str | None], bool] | None,
    ) -> bytes:
        rows = rows_of(connection, key)
        wall_s = self._wall_time()
        current = next((row.id.hex() for row in rows if self._is_visible(row, wall_s)), None)
        if condition is not None and not condition(current):
            raise VersionConflictError(current)
        if value is None and current is None:
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
        losers = self._losers(entry, rows, True)
        assert losers is not None, "an own stamp is above all that are due"
        self._add_own(connection, entry, losers, True)
        self._mark_gone(losers)
        return entry.id

    def _add_own(self, connection: apsw.Connection, entry: Entry, losers: Sequence[Row], due: bool) -> None:
        """Place an entry that this transaction signs."""
        run = self._runs[-1] if self._runs and self._runs[-1].local else None
        group = run.groups[-1] if run is not None and run.groups else None
        if group is None or len(group.entries) == SIZE_MAX or group.size + len(entry.body) > _GROUP_BYTES_MAX:
            self._batch += 1
            group = Group(self._batch, entry.counter, self._high)
        self._place(connection, entry, losers, due, group.batch, len(group.entries), None)
        # From here on nothing fails.
        if run is None:
            run = Run(True, self._high - 1)
            self._runs.append(run)
        if not run.groups or run.groups[-1] is not group:
            run.groups.append(group)
        group.entries.append(entry)
        group.size += len(entry.body)
        run.upto = self._high
        run.keys.append(entry.key)
        self._is_changed = True

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
        mark, runs = self._mark(), list(self._runs)
        try:
            return self._apply(connection, checked, admissions, advances)
        except BaseException:
            self._reset(mark)
            self._runs = runs
            raise

    def _apply(
        self,
        connection: apsw.Connection,
        checked: Sequence[CheckedBatch | None],
        admissions: Sequence[Admission],
        advances: Sequence[Advance],
    ) -> Applied:
        wall_s = self._wall_time()
        tally = _Tally()
        for admission in admissions:
            values = (admission.node_id.raw, admission.serial, admission.body, admission.signature)
            connection.execute("INSERT OR IGNORE INTO admissions VALUES(?,?,?,?)", values)
        for batch in checked:
            if batch is not None and batch.head.author == self._author:
                self._look_back(connection, batch.head, tally)
        after = self._high  # what was written again is a run of its own
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
                run = Run(False, after)
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
        row = self._batch_of(connection, head)
        is_copy = row is not None and row[1] != head.body
        if row is not None and is_copy and connection.execute(QUERIES["in_batch"], row[:1]).fetchone() is None:
            connection.execute("DELETE FROM batches WHERE batch=?", row[:1])  # this transaction replaced all of it
            row, is_copy = None, False
        if is_copy and head.author != self._author:
            log.error("two batches of %s have one number: its key is in use twice", head.author.hex())
            self._count("data.copied_keys")
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
            elif is_copy:
                tally.refused += 1
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
        if row is not None and not is_copy and checked.leaves is not None and not row[2]:
            connection.execute("UPDATE batches SET leaves=? WHERE batch=?", (checked.leaves, batch))
        if failpoints.ARMED:
            failpoints.hit("data.in_apply")

    # ------------------------------------------------------------------ a store that was put back

    def _batch_of(self, connection: apsw.Connection, head: BatchHead) -> Any:
        """(batch, body, whether its leaves are known) of what is held under the number of `head`, or None."""
        return connection.execute(QUERIES["batch_of"], (head.author, to_sql(head.epoch), head.number)).fetchone()

    def _look_back(self, connection: apsw.Connection, head: BatchHead, tally: _Tally) -> None:
        """Begin a new epoch if an own batch shows that this store, or its key, has another life; and make way for it.

        A number that is in use twice is given up here: what this store holds under it goes into the new epoch, and
        with it whatever this store numbered later. Of an epoch that has ended already only the number itself is known
        to be in use twice.
        """
        row = self._batch_of(connection, head)
        is_copy = row is not None and row[1] != head.body
        if head.epoch == self._epoch and (is_copy or head.number > self._frontier.count):
            log.warning("a batch of this node came back that its store does not have: a new epoch begins")
            last = self._frontier.count
            unsigned = [group.batch for run in self._runs for group in run.groups]
            self._begin_epoch()
            self._is_changed = True
        elif is_copy:  # also if all that is shown is older: whoever shows it refuses what is held here
            last, unsigned = head.number, []
        else:
            return
        numbers = (head.author, to_sql(head.epoch), head.number, last)
        found: list[Any] = connection.execute(QUERIES["numbered"], numbers).fetchall()
        for batch in unsigned:
            found.extend(connection.execute(QUERIES["members"], (batch,)).fetchall())
        self._runs.append(Run(True, self._high))  # groups of the old epoch are not added to
        for (position,) in found:
            self._write_again(connection, position, tally)

    def _write_again(self, connection: apsw.Connection, position: int, tally: _Tally) -> None:
        """Write an own entry under the present epoch, with the stamp next to its own: it replaces the old one wherever
        that is, and takes its place in the order.
        """
        row: Any = connection.execute(QUERIES["at"], (position,)).fetchone()
        if row is None:  # just replaced by another of these
            return
        id_, due, body = row
        old = parse_entry_untrusted(body) if entry_id(body) == id_ else None  # damaged: it is dropped when asked for
        admission = self.own_admission
        assert admission is not None
        if old is None or old.hlc == UINT_MAX or not self._verifier.allows(admission, old):
            log.error("entry %s cannot be written again; others refuse it", id_.hex())
            return
        if due:
            self._clock.last = max(self._clock.last, old.hlc + 1)
        self._counter += 1
        entry = make_entry(
            self._mesh_id, old.key, old.value, hlc=old.hlc + 1, author=self._author, epoch=self._epoch,
            counter=self._counter, expiry=old.expiry,
        )  # fmt: skip
        losers = self._losers(entry, rows_of(connection, old.key), bool(due))
        assert losers is not None, "only the greatest of a key is held"
        self._add_own(connection, entry, losers, bool(due))
        tally.losers.extend(losers)

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
            run = Run(False, self._high)
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


def _advance(connection: apsw.Connection, advance: Advance) -> None:
    """Move a cursor if the claim joins on to it."""
    row = connection.execute(QUERIES["cursor"], (advance.node,)).fetchone()
    position = row[1] if row is not None and row[0] == to_sql(advance.epoch) else 0
    if advance.after <= position < advance.upto:
        if failpoints.ARMED:
            failpoints.hit("data.before_cursor")
        values = (advance.node, to_sql(advance.epoch), advance.upto)
        connection.execute("INSERT OR REPLACE INTO cursors VALUES(?,?,?)", values)
        if failpoints.ARMED:
            failpoints.hit("data.after_cursor")
