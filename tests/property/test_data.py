"""Merge laws: in whatever order, repetition and parts entries arrive, stores that saw the same hold the same."""

from __future__ import annotations

import random
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bms.clock import HybridClock
from bms.data import blob, fingerprint
from bms.data.batch import Frontier, audit_path, path_root_untrusted, sign_head, tree_levels, tree_root
from bms.data.entries import Entries
from bms.data.entry import Entry, make_entry, parse_entry_untrusted
from bms.errors import RemoteProtocolError
from bms.security.authority import Authority
from bms.security.keys import NodeKey
from bms.security.trust import Trust
from bms.store.database import Database

NOW_MS = 1_800_000_000_000
AUTHORITY = Authority.create(token_bytes=random.Random(7).randbytes, now=NOW_MS / 1000)
KEYS = [NodeKey.from_seed(bytes([i]) * 32) for i in range(3)]
ADMISSIONS = [AUTHORITY.issue_admission(key.node_id, now_ms=NOW_MS) for key in KEYS]

# A write: who, which key, what (None deletes), and how far from now, in seconds: some lie ahead of the readers' clock.
writes = st.tuples(
    st.integers(0, 2),
    st.sampled_from([b"a", b"b", b"c"]),
    st.one_of(st.none(), st.binary(max_size=8)),
    st.integers(-3, 3).map(lambda s: s * 10),
)
batches_of_writes = st.lists(st.lists(writes, min_size=1, max_size=5), min_size=1, max_size=8)


def open_store(wall: list[float]) -> Entries:
    return Entries(
        Database(None),
        mesh_id=AUTHORITY.mesh_id,
        node_key=KEYS[0],
        admission=ADMISSIONS[0],
        trust=Trust(AUTHORITY.bundle),
        clock=HybridClock(),
        wall_time=lambda: wall[0],
        token_bytes=random.Random(1).randbytes,
    )


def sign_all(listed: list[list[tuple[int, bytes, bytes | None, int]]]) -> list[Any]:
    """Whole batches as they travel, one author each (that of its first write)."""
    signed: list[Any] = []
    counters, frontiers = [0, 0, 0], [Frontier(), Frontier(), Frontier()]
    for writes_ in listed:
        author = writes_[0][0]
        key, first, made = KEYS[author], counters[author] + 1, []
        for _, name, value, ahead in writes_:
            counters[author] += 1
            hlc = (NOW_MS + ahead * 1000) << 16 | counters[author]
            made.append(
                make_entry(
                    AUTHORITY.mesh_id, name, value, hlc=hlc, author=key.node_id.raw, epoch=7, counter=counters[author]
                )
            )
        head = sign_head(
            key, mesh_id=AUTHORITY.mesh_id, serial=ADMISSIONS[author].serial, epoch=7, frontier=frontiers[author],
            ids=[entry.id for entry in made], first=first,
        )  # fmt: skip
        frontiers[author] = frontiers[author].add(head.body)
        signed.append([head.signed, [[i, entry.body, []] for i, entry in enumerate(made)]])
    return signed


def cut(batch: Any, chance: random.Random) -> list[Any]:
    """The same entries in two parts with audit paths, or the whole batch."""
    signed, members = batch
    if len(members) == 1 or chance.random() < 0.4:
        return [batch]
    entries = [parse_entry_untrusted(body) for _, body, _ in members]
    levels = tree_levels([entry.id for entry in entries if entry is not None])
    proved = [[i, body, audit_path(levels, i)] for i, body, _ in members]
    place = chance.randrange(1, len(members))
    return [[signed, proved[:place]], [signed, proved[place:]]]


def expected(listed: list[Any], later_s: int) -> dict[bytes, Entry]:
    """What a reader sees who got everything now and looks `later_s` seconds later.

    Of each key a store holds the greatest entry that is due and the greatest that is not (formats.md, "Order").
    """
    held: dict[tuple[bytes, bool], Entry] = {}
    for _, members in listed:
        for _, body, _ in members:
            entry = parse_entry_untrusted(body)
            assert entry is not None
            place = entry.key, entry.hlc >> 16 <= NOW_MS + 500
            if place not in held or held[place].order < entry.order:
                held[place] = entry
    seen: dict[bytes, Entry] = {}
    for entry in sorted(held.values(), key=lambda entry: entry.order):
        if entry.hlc >> 16 <= NOW_MS + later_s * 1000 + 500:
            seen[entry.key] = entry
    return seen


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(batches_of_writes, st.integers(0, 2**32))
def test_any_order_repetition_and_cutting_gives_the_same_store(
    listed: list[list[tuple[int, bytes, bytes | None, int]]], seed: int
) -> None:
    chance = random.Random(seed)
    batches = sign_all(listed)
    signed = [admission.signed for admission in ADMISSIONS]

    async def fill(entries: Entries, stream: list[Any]) -> None:
        while stream:
            count = chance.randrange(1, 4)
            await entries.apply(stream[:count], signed)
            stream = stream[count:]

    async def main() -> None:
        wall = [NOW_MS / 1000]
        stores = [open_store(wall) for _ in range(3)]
        for store in stores:
            stream = [part for batch in batches for part in cut(batch, chance)]
            stream += chance.choices(stream, k=len(stream) // 2)
            chance.shuffle(stream)
            await fill(store, stream)
        for later in (0, 15, 100):
            wall[0] = NOW_MS / 1000 + later
            for store in stores:
                while await store.promote():
                    pass
            assert len({store.state().fingerprint for store in stores}) == 1
            wanted = expected(batches, later)
            for store in stores:
                held = {key: store.get_entry(key) for key in wanted}
                assert held == wanted
                assert [info.key for info in store.scan()] == sorted(
                    k for k, e in wanted.items() if e.value is not None
                )
        # Nothing is left of what was replaced: batches without entries are gone, and the sum is that of the ids.
        for store in stores:
            database = store._database
            total = fingerprint.EMPTY
            for (id_,) in database.read("SELECT id FROM entries"):
                total = fingerprint.add(total, fingerprint.expand(id_))
            assert fingerprint.digest(total) == store.state().fingerprint
            assert not database.read("SELECT 1 FROM batches WHERE batch NOT IN (SELECT batch FROM entries)")
            database.close()

    trio.run(main)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=64, unique=True), st.data())
def test_audit_paths_lead_to_the_root_only_from_their_own_leaf(ids: list[bytes], data: st.DataObject) -> None:
    levels, index = tree_levels(ids), data.draw(st.integers(0, len(ids) - 1))
    path = audit_path(levels, index)
    assert path_root_untrusted(ids[index], index, len(ids), path) == tree_root(ids)
    other = data.draw(st.integers(0, len(ids) - 1))
    if other != index:
        try:
            assert path_root_untrusted(ids[index], other, len(ids), path) != tree_root(ids)
        except RemoteProtocolError:
            pass  # its path has another length


@given(
    st.lists(st.binary(min_size=32, max_size=32), max_size=12),
    st.lists(st.binary(min_size=32, max_size=32), max_size=12),
)
def test_sums_of_sets_add_up_and_come_apart(left: list[bytes], right: list[bytes]) -> None:
    def sum_of(ids: list[bytes]) -> int:
        total = fingerprint.EMPTY
        for id_ in ids:
            total = fingerprint.add(total, fingerprint.expand(id_))
        return total

    both = fingerprint.add(sum_of(left), sum_of(right))
    assert both == sum_of(right + left)
    assert fingerprint.subtract(both, sum_of(right)) == sum_of(left)


@settings(max_examples=30)
@given(st.integers(4097, 1_500_000), st.integers(0, 255))
def test_blobs_of_any_size_are_cut_and_put_together(size: int, fill: int) -> None:
    value = random.Random(size).randbytes(size // 2) + bytes([fill]) * (size - size // 2)
    reference, pieces = blob.split(value)
    held = {piece.hash: piece.data for piece in pieces}
    walk = blob.walk_untrusted(reference, held.get, lambda h: len(held[h]))
    assert b"".join(held[hash_] for hash_ in walk.chunks) == value
    assert [len(walk.chunks), *([1] if walk.manifests else [])] == blob.shape(size)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_an_entry_or_the_senders_fault(data: bytes) -> None:
    try:
        parse_entry_untrusted(data)
    except RemoteProtocolError:
        pass


@given(st.integers(0, 300), st.binary(max_size=3))
def test_a_damaged_entry_is_never_taken_for_the_same(place: int, patch: bytes) -> None:
    entry = make_entry(
        AUTHORITY.mesh_id, b"key", b"v" * 200, hlc=NOW_MS << 16, author=KEYS[0].node_id.raw, epoch=7, counter=1
    )
    body = entry.body[:place] + patch + entry.body[place + len(patch) :]
    try:
        read = parse_entry_untrusted(body)
    except RemoteProtocolError:
        return
    assert read is None or (read.id == entry.id) == (body == entry.body)
