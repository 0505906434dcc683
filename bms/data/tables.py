"""The tables of replicated data, and every query on them, so that a test can look at each one's plan.

    entries     what this store holds: of each key the greatest entry that is due and the greatest that is not
                (formats.md, "Order"). `position` numbers what was applied, from 1, and is what cursors refer to.
                `path` is an audit path, where the batch was never whole here.
    batches     signed heads of held entries; `leaves` are the ids of all entries of a batch that was whole here once
    admissions  of the authors of held batches
    cursors     up to where this node holds what another store numbered
    chunks      chunks and manifest nodes with their number of references; 0: arrived, but their entry has not
    chunk_data  their bytes, apart, so that counting does not rewrite them
    ledger      one row, written with every commit: where the store stands
    boots       one row, the last boot of this node

64-bit unsigned numbers (hlc, epoch) are stored less 2^63, which keeps their order in SQLite's signed integers. Spaces
are numbered; 1 is "default".
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from .batch import BatchHead
from .blob import CHUNK, MANIFEST, BlobReference, Piece, Walk, manifest_hash, walk_untrusted
from .entry import Entry

__all__ = [
    "MANY",
    "QUERIES",
    "STEPS",
    "Row",
    "add_pieces",
    "drop_loose",
    "from_sql",
    "hold_blob",
    "insert_batch",
    "insert_entry",
    "release_blob",
    "rows_of",
    "to_sql",
    "walk",
]

_OFFSET = 1 << 63

STEPS = (
    """
    CREATE TABLE entries(position INTEGER PRIMARY KEY, space INTEGER NOT NULL, due INTEGER NOT NULL, hlc INTEGER NOT
    NULL,
        author BLOB NOT NULL, id BLOB NOT NULL, flags INTEGER NOT NULL, expiry INTEGER, size INTEGER NOT NULL,
        batch INTEGER NOT NULL, leaf INTEGER NOT NULL, key BLOB NOT NULL, path BLOB, body BLOB NOT NULL);
    CREATE UNIQUE INDEX entries_key ON entries(space, due, key);
    CREATE UNIQUE INDEX entries_id ON entries(id);
    CREATE INDEX entries_batch ON entries(batch);
    CREATE INDEX entries_waiting ON entries(hlc) WHERE due=0;
    CREATE TABLE batches(batch INTEGER PRIMARY KEY, author BLOB NOT NULL, epoch INTEGER NOT NULL, number INTEGER NOT
    NULL,
        serial INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL, leaves BLOB);
    CREATE UNIQUE INDEX batches_number ON batches(author, epoch, number);
    CREATE TABLE admissions(author BLOB NOT NULL, serial INTEGER NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL,
        PRIMARY KEY(author, serial));
    CREATE TABLE cursors(node BLOB PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL);
    CREATE TABLE chunks(chunk INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL, size INTEGER NOT
    NULL,
        refs INTEGER NOT NULL);
    CREATE INDEX chunks_loose ON chunks(chunk) WHERE refs=0;
    CREATE TABLE chunk_data(chunk INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE ledger(one INTEGER PRIMARY KEY CHECK(one=1), epoch INTEGER NOT NULL, high INTEGER NOT NULL, counter
    INTEGER NOT NULL,
        hlc INTEGER NOT NULL, batches INTEGER NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL, tombstones
        INTEGER NOT NULL,
        frontier BLOB NOT NULL, fingerprint BLOB NOT NULL);
    CREATE TABLE boots(one INTEGER PRIMARY KEY CHECK(one=1), boot INTEGER NOT NULL);
    """,
    """
    CREATE INDEX entries_expiry ON entries(expiry) WHERE expiry IS NOT NULL;
    """,
)

# The space "default" is number 1 in all of these. Lists of ids are asked for 64 at a time, filled up with empty ones.
MANY = 64
QUERIES = {
    "get": "SELECT id, author, flags, expiry, body FROM entries WHERE space=1 AND due=1 AND key=?",
    "entry": "SELECT body FROM entries WHERE space=1 AND due=1 AND key=?",
    "rows": "SELECT position, due, hlc, author, id, flags, expiry, size, batch, leaf, CASE WHEN flags & 4 THEN body END"
    " FROM entries WHERE space=1 AND due IN (0,1) AND key=?",
    "scan": "SELECT key, id, author, size FROM entries WHERE space=1 AND due=1 AND key>=? AND key<?"
    " AND flags & 1 = 0 AND (expiry IS NULL OR expiry>?) ORDER BY key LIMIT ?",
    "scan_rest": "SELECT key, id, author, size FROM entries WHERE space=1 AND due=1 AND key>=?"
    " AND flags & 1 = 0 AND (expiry IS NULL OR expiry>?) ORDER BY key LIMIT ?",
    "heads": "SELECT key, id, author, flags, expiry, size FROM entries WHERE space=1 AND due=1"
    f" AND key IN ({','.join('?' * MANY)})",
    "expired": "SELECT key, id, author, flags, expiry, size FROM entries INDEXED BY entries_expiry"
    " WHERE expiry>? AND expiry<=? AND space=1 AND due=1 ORDER BY expiry LIMIT ?",
    "ids_after": "SELECT position, id FROM entries WHERE position>? ORDER BY position LIMIT ?",
    "have": f"SELECT id FROM entries WHERE id IN ({','.join('?' * MANY)})",
    "by_id": "SELECT position, batch, leaf, path, body FROM entries WHERE id=?",
    "waiting": "SELECT hlc FROM entries WHERE due=0 ORDER BY hlc LIMIT 1",
    "waiting_upto": "SELECT key FROM entries WHERE due=0 AND hlc<=? ORDER BY hlc LIMIT 1000",
    "batch": "SELECT author, serial, size, body, signature, leaves FROM batches WHERE batch=?",
    "batch_of": "SELECT batch, body, leaves IS NOT NULL FROM batches WHERE author=? AND epoch=? AND number=?",
    "in_batch": "SELECT 1 FROM entries WHERE batch=? LIMIT 1",
    "members": "SELECT position FROM entries WHERE batch=?",
    "numbered": "SELECT e.position FROM batches b JOIN entries e ON e.batch=b.batch"
    " WHERE b.author=? AND b.epoch=? AND b.number BETWEEN ? AND ?",
    "at": "SELECT id, due, body FROM entries WHERE position=?",
    "admission": "SELECT body, signature FROM admissions WHERE author=? AND serial=?",
    "cursor": "SELECT epoch, position FROM cursors WHERE node=?",
    "chunk": "SELECT chunk, kind, size FROM chunks WHERE hash=?",
    "chunk_data": "SELECT c.kind, d.data FROM chunks c JOIN chunk_data d USING(chunk) WHERE c.hash=?",
    "loose": "SELECT chunk FROM chunks WHERE refs=0",
    "last_batch": "SELECT max(batch) FROM batches",
    "last_position": "SELECT max(position) FROM entries",
    "ledger": "SELECT epoch, high, counter, hlc, batches, entries, bytes, tombstones, frontier, fingerprint"
    " FROM ledger WHERE one=1",
}


def to_sql(number: int) -> int:
    """A 64-bit unsigned number as SQLite holds it."""
    return number - _OFFSET


def from_sql(number: int) -> int:
    """Back again."""
    return number + _OFFSET


class Row:
    """An entry in the table, as far as deciding about it needs; `body` only where it refers to a blob."""

    __slots__ = ("batch", "body", "due", "expiry", "flags", "id", "leaf", "order", "position", "size")

    def __init__(
        self,
        position: int,
        due: int,
        hlc: int,
        author: bytes,
        entry_id: bytes,
        flags: int,
        expiry: int | None,
        size: int,
        batch: int,
        leaf: int,
        body: bytes | None,
    ) -> None:
        self.position = position
        self.due = bool(due)
        self.order = (hlc + _OFFSET, author, entry_id)
        self.id = entry_id
        self.flags = flags
        self.expiry = expiry
        self.size = size
        self.batch = batch
        self.leaf = leaf
        self.body = body


def rows_of(connection: apsw.Connection, key: bytes) -> list[Row]:
    """What is held of a key: at most one entry that is due and one that is not."""
    return [Row(*row) for row in connection.execute(QUERIES["rows"], (key,))]


def insert_entry(
    connection: apsw.Connection, position: int, due: bool, entry: Entry, batch: int, leaf: int, path: bytes | None
) -> None:
    """Add an entry; whatever it replaces has been deleted."""
    connection.execute(
        "INSERT INTO entries VALUES(?,1,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            *(position, int(due), entry.hlc - _OFFSET, entry.author, entry.id, entry.flags, entry.expiry, entry.size),
            *(batch, leaf, entry.key, path, entry.body),
        ),
    )


def insert_batch(connection: apsw.Connection, batch: int, head: BatchHead, leaves: bytes | None) -> None:
    """Add a batch's head, with the ids of all its entries if they are known."""
    values = (
        batch,
        head.author,
        head.epoch - _OFFSET,
        head.number,
        head.serial,
        head.size,
        head.body,
        head.signature,
        leaves,
    )
    connection.execute("INSERT INTO batches VALUES(?,?,?,?,?,?,?,?,?)", values)


def walk(connection: apsw.Connection, reference: BlobReference) -> Walk:
    """The tree of a blob as far as it is stored. Raises `RemoteProtocolError` if reference and tree do not fit."""

    def manifest(hash_: bytes) -> bytes | None:
        row = connection.execute(QUERIES["chunk_data"], (hash_,)).fetchone()
        if row is None:
            return None
        if row[0] != MANIFEST:
            return b""  # fits no size
        return row[1] if manifest_hash(row[1]) == hash_ else None  # damaged here is as good as missing

    def chunk_size(hash_: bytes) -> int | None:
        row = connection.execute(QUERIES["chunk"], (hash_,)).fetchone()
        return None if row is None else row[2] if row[1] == CHUNK else 0

    return walk_untrusted(reference, manifest, chunk_size)


def add_pieces(connection: apsw.Connection, pieces: Sequence[Piece], damaged: frozenset[bytes] = frozenset()) -> None:
    """Store pieces that are not here yet, without references; those known as `damaged` get their bytes back."""
    for piece in pieces:
        row = connection.execute(QUERIES["chunk"], (piece.hash,)).fetchone()
        if row is None:
            values = (piece.hash, piece.kind, len(piece.data))
            connection.execute("INSERT INTO chunks(hash, kind, size, refs) VALUES(?,?,?,0)", values)
            connection.execute("INSERT INTO chunk_data VALUES(last_insert_rowid(),?)", (piece.data,))
        elif piece.hash in damaged:
            connection.execute("INSERT OR REPLACE INTO chunk_data VALUES(?,?)", (row[0], piece.data))


def hold_blob(connection: apsw.Connection, tree: Walk) -> None:
    """Count one reference more to every piece of a blob."""
    connection.executemany("UPDATE chunks SET refs=refs+1 WHERE hash=?", _hashes(tree))


def release_blob(connection: apsw.Connection, reference: BlobReference) -> None:
    """Count one reference less to every piece of a blob; the pieces that nobody refers to any more go."""
    hashes = _hashes(walk(connection, reference))
    connection.executemany("UPDATE chunks SET refs=refs-1 WHERE hash=?", hashes)
    connection.executemany(
        "DELETE FROM chunk_data WHERE chunk=(SELECT chunk FROM chunks WHERE hash=? AND refs<=0)", hashes
    )
    connection.executemany("DELETE FROM chunks WHERE hash=? AND refs<=0", hashes)


def _hashes(tree: Walk) -> list[tuple[bytes]]:
    return [(hash_,) for hash_ in (*tree.manifests, *tree.chunks)]


def drop_loose(connection: apsw.Connection) -> int:
    """Delete pieces without references; returns how many."""
    loose = [row[:1] for row in connection.execute(QUERIES["loose"])]
    connection.executemany("DELETE FROM chunk_data WHERE chunk=?", loose)
    connection.executemany("DELETE FROM chunks WHERE chunk=?", loose)
    return len(loose)
