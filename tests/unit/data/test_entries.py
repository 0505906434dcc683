"""The store of entries: writing, reading, merging, waiting, blobs, damage, and what a peer may bring."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bms.clock import HybridClock
from bms.data import fingerprint
from bms.data.batch import Frontier, sign_head
from bms.data.blob import BlobReference, split
from bms.data.commits import Advance, Commit
from bms.data.entries import Entries
from bms.data.entry import make_entry
from bms.data.tables import MANY, QUERIES
from bms.errors import CorruptionError, LimitError, LocalProtocolError, NotFoundError, RefusedError, RemoteProtocolError
from bms.security.authority import Authority
from bms.security.keys import NodeKey
from bms.security.trust import WRITE, Trust
from bms.store.database import Database

NOW = 1_800_000_000.0
NOW_MS = int(NOW * 1000)
AUTHORITY = Authority.create(token_bytes=random.Random(7).randbytes, now=NOW)


class Wall:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Node:
    """One store with its key, its clock, and the commits that it told."""

    def __init__(self, seed: int = 1, path: Path | None = None, wall: Wall | None = None, **options: Any) -> None:
        self.chance = random.Random(seed)
        self.key = NodeKey.from_seed(random.Random(seed).randbytes(32))
        grants = options.pop("grants", [("*", 15)])
        self.admission = AUTHORITY.issue_admission(self.key.node_id, now_ms=int(NOW * 1000), grants=grants)
        self.wall = wall or Wall()
        self.commits: list[Commit] = []
        self.database = Database(path, threads=False)
        self.entries = Entries(
            self.database,
            mesh_id=AUTHORITY.mesh_id,
            node_key=self.key,
            admission=self.admission,
            trust=Trust(AUTHORITY.bundle),
            clock=HybridClock(),
            wall_time=self.wall,
            token_bytes=self.chance.randbytes,
            **options,
        )
        self.entries.on_commit(self.commits.append)

    def batches(self) -> list[Any]:
        """All batches that this node committed, as they travel."""
        return [b.batch for commit in self.commits for b in commit.batches if b.batch is not None]

    async def gives(self, other: Node) -> Any:
        """Everything this node wrote, applied at another, chunks too."""
        applied = await other.entries.apply(self.batches(), [self.admission.signed])
        while applied.wanted:
            chunks = self.entries.chunks(applied.wanted, 10**9)
            await other.entries.put_chunks(
                [(h, c) for h, c in zip(applied.wanted, chunks, strict=True) if c is not None]
            )
            applied = await other.entries.apply(self.batches(), [self.admission.signed])
        return applied

    def batch(
        self, *made: Any, frontier: Frontier | None = None, serial: int | None = None, first: int = 1
    ) -> list[Any]:
        """A whole batch of these entries, signed by this node, outside of its store."""
        head = sign_head(
            self.key,
            mesh_id=AUTHORITY.mesh_id,
            serial=self.admission.serial if serial is None else serial,
            epoch=5,
            frontier=frontier or Frontier(),
            ids=[entry.id for entry in made],
            first=first,
        )
        return [head.signed, [[i, entry.body, []] for i, entry in enumerate(made)]]

    def entry(self, key: bytes, value: bytes | None, at_s: float = NOW, counter: int = 1, **changes: Any) -> Any:
        """An entry by this node, outside of its store."""
        fields: dict[str, Any] = {
            "hlc": int(at_s * 1000) << 16, "author": self.key.node_id.raw, "epoch": 5, "counter": counter,
        }  # fmt: skip
        return make_entry(AUTHORITY.mesh_id, key, value, **{**fields, **changes})


def recount(node: Node) -> bytes:
    """The fingerprint, from the entries themselves."""
    total = fingerprint.EMPTY
    for (id_,) in node.database.read("SELECT id FROM entries"):
        total = fingerprint.add(total, fingerprint.expand(id_))
    return fingerprint.digest(total)


# --- writing and reading


async def test_what_is_put_is_got_until_it_is_deleted() -> None:
    node = Node()
    version = await node.entries.put(b"k", b"one")
    value = node.entries.get(b"k")
    assert (value.value, value.version, value.author) == (b"one", version, node.key.node_id)
    assert await node.entries.put(b"k", b"two") != version
    assert node.entries.get(b"k").value == b"two"
    await node.entries.put(b"k", None)
    with pytest.raises(NotFoundError):
        node.entries.get(b"k")
    assert node.entries.get_entry(b"k").value is None
    assert (node.entries.totals().entries, node.entries.totals().tombstones) == (0, 1)
    assert node.entries.state().fingerprint == recount(node)


async def test_deleting_what_is_not_there_writes_nothing() -> None:
    node = Node()
    await node.entries.put(b"gone", b"x")
    await node.entries.put(b"gone", None)
    await node.entries.put(b"old", b"x", expiry_ms=int(NOW * 1000) + 1)
    node.wall.now += 1
    before = node.entries.state()
    for key in (b"never", b"gone", b"old"):
        with pytest.raises(NotFoundError):
            await node.entries.put(key, None)
    assert node.entries.state() == before


async def test_a_key_that_has_expired_reads_as_missing_but_stays_in_the_set() -> None:
    node = Node()
    await node.entries.put(b"k", b"v", expiry_ms=int(NOW * 1000) + 1000)
    assert node.entries.get(b"k").value == b"v"
    held = node.entries.state().fingerprint
    node.wall.now += 1
    with pytest.raises(NotFoundError):
        node.entries.get(b"k")
    assert node.entries.scan() == []
    assert node.entries.state().fingerprint == held


@pytest.mark.parametrize("key", [b"", b"k" * 1025])
async def test_a_key_of_a_wrong_length_is_refused(key: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        await Node().entries.put(key, b"v")


async def test_a_value_above_the_limit_is_refused() -> None:
    node = Node(value_bytes_max=10_000)
    await node.entries.put(b"k", bytes(10_000))
    with pytest.raises(LimitError):
        await node.entries.put(b"k", bytes(10_001))


async def test_what_no_grant_allows_is_refused_to_oneself_too() -> None:
    node = Node(grants=[("space:default", WRITE)])
    await node.entries.put(b"k", b"v")
    with pytest.raises(RefusedError):
        await node.entries.put(b"k", None)


async def test_scan_lists_a_range_in_order_with_sizes_and_no_values() -> None:
    node = Node()
    for key, value in {
        b"a": b"",
        b"b/1": b"x",
        b"b/2": bytes(300_000),
        b"b/3": b"gone",
        b"b\xff": b"xyz",
        b"c": b"c",
    }.items():
        await node.entries.put(key, value)
    await node.entries.put(b"b/3", None)
    assert [(info.key, info.size) for info in node.entries.scan(b"b/")] == [(b"b/1", 1), (b"b/2", 300_000)]
    assert [info.key for info in node.entries.scan(b"b", after=b"b/1", limit=2)] == [b"b/2", b"b\xff"]
    assert [info.key for info in node.entries.scan(b"", limit=3)] == [b"a", b"b/1", b"b/2"]
    assert [info.key for info in node.entries.scan(b"", after=b"b\xff")] == [b"c"]
    await node.entries.put(b"\xff\xff", b"last")
    assert [info.key for info in node.entries.scan(b"\xff")] == [b"\xff\xff"]


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_no_query_reads_a_whole_table(name: str) -> None:
    node = Node()
    marks = QUERIES[name].count("?")
    plan = [row[3] for row in node.database.read("EXPLAIN QUERY PLAN " + QUERIES[name], [b"x"] * marks)]
    allowed = {
        "loose": "SCAN chunks USING COVERING INDEX chunks_loose",
        "waiting": "SCAN entries USING COVERING INDEX entries_waiting",
    }
    for step in plan:
        assert step.startswith("SEARCH") or step == allowed.get(name), plan


async def test_boots_rise_also_when_the_clock_went_back(tmp_path: Path) -> None:
    node = Node(path=tmp_path / "d")
    assert await node.entries.next_boot(1000) == 1000
    assert await node.entries.next_boot(10) == 1001
    node.database.close()
    assert await Node(path=tmp_path / "d").entries.next_boot(10) == 1002


async def test_a_store_goes_on_where_it_ended(tmp_path: Path) -> None:
    first = Node(path=tmp_path / "d")
    for i in range(5):
        await first.entries.put(b"%d" % i, b"v")
    await first.entries.put(b"0", None)
    state = first.entries.state()
    first.database.close()
    second = Node(path=tmp_path / "d", wall=Wall())
    second.wall.now -= 3600  # the clock went back meanwhile
    assert second.entries.state() == state
    assert second.entries.totals() == first.entries.totals()
    version = await second.entries.put(b"1", b"new")
    assert second.entries.get(b"1").version == version
    assert second.entries.get(b"1").value == b"new"
    other = Node(2)
    other.commits = first.commits + second.commits
    receiver = Node(3)
    await receiver.entries.apply(other.batches(), [first.admission.signed])
    assert receiver.entries.state().fingerprint == second.entries.state().fingerprint


# --- commits


async def test_puts_of_one_commit_are_signed_together_and_pushed_without_gaps() -> None:
    node = Node()

    def many(connection: Any) -> None:
        for i in range(150):
            node.entries._ledger.put(connection, b"%d" % i, b"v", None)

    await node.database.write(many)
    (commit,) = node.commits
    assert (commit.after, commit.upto, commit.local) == (0, 150, True)
    assert [(b.after, b.upto) for b in commit.batches] == [(0, 64), (64, 128), (128, 150)]
    receiver = Node(2)
    applied = await node.gives(receiver)
    assert (applied.new, applied.superseded) == (150, 0)
    assert receiver.entries.state().fingerprint == node.entries.state().fingerprint


async def test_a_key_written_twice_in_one_commit_travels_once_with_its_path() -> None:
    node, receiver = Node(), Node(2)

    def twice(connection: Any) -> None:
        for value in (bytes(5000), b"two", b"three"):
            node.entries._ledger.put(connection, b"k", value, None)

    await node.database.write(twice)
    ((_, members),) = node.batches()
    assert [index for index, _, _ in members] == [2]
    applied = await node.gives(receiver)
    assert applied.new == 1
    assert receiver.entries.get(b"k").value == b"three"
    assert receiver.entries.state().fingerprint == node.entries.state().fingerprint


async def test_an_operation_that_fails_leaves_no_trace_in_what_is_signed() -> None:
    node, receiver = Node(), Node(2)

    async def attempt(connection_work: Callable[[Any], None]) -> None:
        try:
            await node.database.write(connection_work)
        except NotFoundError:
            pass

    def fails(connection: Any) -> None:
        node.entries._ledger.put(connection, b"missing", None, None)

    await node.entries.put(b"a", b"1")
    await attempt(fails)
    await node.entries.put(b"b", b"2")
    assert node.entries.state().high == 2
    assert (await node.gives(receiver)).new == 2
    assert receiver.entries.state().fingerprint == node.entries.state().fingerprint == recount(node)


async def test_heads_carry_the_history_of_their_epoch() -> None:
    node = Node()
    frontier = Frontier()
    for i in range(10):
        await node.entries.put(b"%d" % i, b"v")
    from bms.data.batch import parse_head_untrusted

    for number, (signed, _) in enumerate(node.batches(), 1):
        head = parse_head_untrusted(signed, AUTHORITY.mesh_id)
        assert head is not None
        assert (head.number, head.history) == (number, frontier.root)
        frontier = frontier.add(head.body)


# --- merging


async def test_the_greater_entry_wins_whichever_comes_first() -> None:
    left, right = Node(1), Node(2)
    await left.entries.put(b"k", b"left")
    right.wall.now += 0.1
    await right.entries.put(b"k", b"right")
    assert (await left.gives(right)).superseded == 1
    assert (await right.gives(left)).new == 1
    assert left.entries.get(b"k").value == right.entries.get(b"k").value == b"right"
    assert left.entries.state().fingerprint == right.entries.state().fingerprint


async def test_what_is_applied_twice_is_counted_and_changes_nothing() -> None:
    left, right = Node(1), Node(2)
    await left.entries.put(b"k", b"v")
    await left.gives(right)
    before = right.entries.state()
    assert (await left.gives(right)).already == 1
    assert right.entries.state() == before


async def test_a_write_here_follows_every_write_seen() -> None:
    ahead, behind = Node(1), Node(2)
    ahead.wall.now += 0.4
    await ahead.entries.put(b"k", b"ahead")
    await ahead.gives(behind)
    await behind.entries.put(b"k", b"behind, but later")
    await behind.gives(ahead)
    assert ahead.entries.get(b"k").value == b"behind, but later"


async def test_an_entry_ahead_of_the_clock_waits_spreads_and_takes_part_in_its_time() -> None:
    author, reader, third = Node(1), Node(2), Node(3)
    await reader.entries.put(b"k", b"now")
    author.wall.now += 60
    await author.entries.put(b"k", b"from the future")
    await author.entries.put(b"new", b"too")
    assert (await author.gives(reader)).new == 2
    assert reader.entries.get(b"k").value == b"now"
    with pytest.raises(NotFoundError):
        reader.entries.get(b"new")
    assert reader.entries.state().fingerprint == recount(reader)
    ids, _, done = reader.entries.ids_after(0, 100)
    assert (len(ids), done) == (3, True)
    batches, admissions, served = reader.entries.batches_of(ids, 10**6)
    assert served == 3
    assert (await third.entries.apply(batches, admissions)).new == 3
    assert third.entries.state().fingerprint == reader.entries.state().fingerprint
    assert await reader.entries.put(b"k", b"still now")
    assert reader.entries.next_due() == pytest.approx(59.5, abs=0.01)
    assert await reader.entries.promote() == 0
    reader.wall.now += 59.6
    assert reader.entries.next_due() == 0.0
    assert await reader.entries.promote() == 2
    assert reader.entries.next_due() is None
    assert reader.entries.get(b"k").value == b"from the future"
    assert reader.entries.get(b"new").value == b"too"
    assert reader.commits[-1].keys == (b"k", b"new")
    assert reader.entries.state().fingerprint == recount(reader)
    assert reader.entries.totals().entries == 2
    await reader.entries.put(b"k", b"after")
    assert reader.entries.get(b"k").value == b"after"


async def test_of_waiting_entries_under_one_key_the_greatest_is_kept() -> None:
    reader, author = Node(1), Node(2)
    first = author.entry(b"k", b"1", NOW + 10)
    second = author.entry(b"k", b"2", NOW + 20)
    await reader.entries.apply([author.batch(second)], [author.admission.signed])
    later = author.batch(first, frontier=Frontier().add(b""))
    assert (await reader.entries.apply([later], [author.admission.signed])).superseded == 1
    assert reader.entries.state().fingerprint == recount(reader)


async def test_waiting_entries_whose_time_came_while_the_node_was_off_are_seen_at_once(tmp_path: Path) -> None:
    author, reader = Node(1), Node(2, tmp_path / "d")
    author.wall.now += 60
    await author.entries.put(b"k", b"v")
    await author.gives(reader)
    reader.database.close()
    wall = Wall()
    wall.now += 100
    assert Node(2, tmp_path / "d", wall).entries.get(b"k").value == b"v"


async def test_a_node_whose_clock_went_far_back_still_reads_its_own_writes(tmp_path: Path) -> None:
    node = Node(path=tmp_path / "d")
    await node.entries.put(b"k", b"1")
    node.wall.now = 0.0
    await node.entries.put(b"k", b"2")
    assert node.entries.get(b"k").value == b"2"
    node.database.close()
    wall = Wall()
    wall.now = 0.0
    again = Node(path=tmp_path / "d", wall=wall)
    await again.entries.put(b"k", b"3")
    assert again.entries.get(b"k").value == b"3"


# --- what a peer may bring


async def refused(reader: Node, batch: Any, admissions: list[Any], match: str) -> None:
    before = reader.entries.state(), reader.database.read("SELECT count(*) FROM entries, batches, admissions")
    with pytest.raises(RemoteProtocolError, match=match):
        await reader.entries.apply([batch], admissions)
    assert before == (reader.entries.state(), reader.database.read("SELECT count(*) FROM entries, batches, admissions"))


async def test_a_batch_that_does_not_prove_itself_is_refused_whole() -> None:
    reader, author, thief = Node(1), Node(2), Node(3)
    good, other = author.entry(b"a", b"1"), author.entry(b"b", b"2", counter=2)
    known = [author.admission.signed, thief.admission.signed]
    batch = author.batch(good, other)
    head, members = batch
    forged = author.entry(b"a", b"forged")
    await refused(reader, batch, [], "admission")
    await refused(reader, author.batch(good, serial=1), known, "admission")
    await refused(reader, [head, [[0, forged.body, []], members[1]]], known, "not those")
    await refused(reader, [head, [members[0]]], known, "short")
    await refused(reader, [head, [[0, good.body, [bytes(32)]]]], known, "not of its batch")
    await refused(reader, [head, members[::-1]], known, "order")
    await refused(reader, [head, [members[0], members[0]]], known, "order")
    await refused(reader, [head, [[2, good.body, []]]], known, "order")
    await refused(reader, [[head[0], bytes(64)], members], known, "signed")
    await refused(reader, thief.batch(good), known, "dot")
    await refused(reader, author.batch(other), known, "dot")
    await refused(reader, author.batch(author.entry(b"a", b"1", epoch=6)), known, "dot")
    assert (await reader.entries.apply([batch], known)).new == 2


async def test_one_bad_batch_keeps_out_all_others_of_its_call() -> None:
    reader, author = Node(1), Node(2)
    good = author.batch(author.entry(b"a", b"1"))
    bad = [[good[0][0], bytes(64)], good[1]]
    with pytest.raises(RemoteProtocolError):
        await reader.entries.apply([good, bad], [author.admission.signed])
    assert reader.entries.state().high == 0


async def test_what_an_author_had_no_grant_for_is_refused() -> None:
    reader, author = Node(1), Node(2, grants=[("space:default", WRITE), ("topic:*", 31)])
    known = [author.admission.signed]
    await refused(reader, author.batch(author.entry(b"k", None)), known, "grant")
    stranger = Node(3, grants=[("space:other", 31)])
    await refused(reader, stranger.batch(stranger.entry(b"k", b"v")), [stranger.admission.signed], "grant")


async def test_an_admission_of_another_mesh_is_refused() -> None:
    reader, author = Node(1), Node(2)
    other = Authority.create(token_bytes=random.Random(8).randbytes, now=NOW)
    admission = other.issue_admission(author.key.node_id, now_ms=author.admission.serial)
    await refused(reader, author.batch(author.entry(b"k", b"v")), [admission.signed], "mesh")


async def test_unknown_spaces_and_formats_are_left_out_and_stop_the_cursor() -> None:
    reader, author = Node(1), Node(2)
    foreign = make_entry(bytes(32), b"k", b"v", hlc=1, author=author.key.node_id.raw, epoch=5, counter=1)
    mine = author.entry(b"k", b"v", counter=2)
    advance = Advance(author.key.node_id.raw, 5, 0, 2)
    applied = await reader.entries.apply([author.batch(foreign, mine)], [author.admission.signed], [advance])
    assert (applied.new, applied.refused, applied.is_complete) == (1, 1, False)
    assert reader.entries.cursor(author.key.node_id) == (0, 0)


async def test_two_batches_under_one_number_show_a_copied_key() -> None:
    reader, author = Node(1), Node(2)
    known = [author.admission.signed]
    await reader.entries.apply([author.batch(author.entry(b"a", b"1"))], known)
    applied = await reader.entries.apply([author.batch(author.entry(b"b", b"2"))], known)
    assert (applied.new, applied.refused) == (0, 1)
    assert reader.entries.counters["data.copied_keys"] == 1


async def test_a_store_put_back_to_an_earlier_state_begins_a_new_epoch(tmp_path: Path) -> None:
    node, peer = Node(1, tmp_path / "d"), Node(2)
    await node.entries.put(b"a", b"1")
    node.database.close()
    backup = (tmp_path / "d").read_bytes()
    node = Node(1, tmp_path / "d")
    old = node.entries.state().epoch
    await node.entries.put(b"b", b"2")
    await node.gives(peer)
    node.database.close()
    (tmp_path / "d").write_bytes(backup)
    node = Node(11, tmp_path / "d")
    node.database.close()
    restored = Node(1, tmp_path / "d")
    assert restored.entries.state().epoch == old
    batches, admissions, _ = peer.entries.batches_of(peer.entries.ids_after(0, 10)[0], 10**6)
    restored.entries._ledger._token_bytes = random.Random(99).randbytes
    assert (await restored.entries.apply(batches, admissions)).new == 1
    assert restored.entries.state().epoch != old
    await restored.entries.put(b"c", b"3")
    assert (await restored.gives(peer)).new == 1


class Restored:
    """A node with "a", which then wrote "later", and was put back to where it had not; `life` tells the two apart."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "d"
        self.life = 0
        self.first = Node(1, self.path)

    def open(self) -> Node:
        """The store as it is on disk, with chance that has not been before."""
        self.life += 1
        node = Node(1, self.path)
        node.entries._ledger._token_bytes = random.Random(1000 + self.life).randbytes
        return node

    async def put_back(self, later: Callable[[Node], Any]) -> tuple[Node, Node]:
        """Let `later` happen and be forgotten; the node as it is then, and its first life."""
        await self.first.entries.put(b"a", b"1")
        self.first.database.close()
        backup = self.path.read_bytes()
        lost = Node(1, self.path)
        await later(lost)
        lost.database.close()
        self.path.write_bytes(backup)
        lost.commits = self.first.commits + lost.commits
        return self.open(), lost


async def shows(teller: Node, other: Node) -> Any:
    """All that one store holds, shown to another, with its chunks."""
    ids, _, done = teller.entries.ids_after(0, 10_000)
    assert done
    batches, admissions, _ = teller.entries.batches_of(other.entries.missing(ids), 10**9)
    applied = await other.entries.apply(batches, admissions)
    while applied.wanted:
        chunks = teller.entries.chunks(applied.wanted, 10**9)
        await other.entries.put_chunks([(h, c) for h, c in zip(applied.wanted, chunks, strict=True) if c is not None])
        applied = await other.entries.apply(batches, admissions)
    return applied


async def three_keys(node: Node) -> None:
    for key in (b"later/1", b"later/2", b"later/3"):
        await node.entries.put(key, b"lost")


async def test_a_store_put_back_that_wrote_first_writes_again_what_clashes(tmp_path: Path) -> None:
    restored, lost = await Restored(tmp_path).put_back(three_keys)
    peer = Node(2)
    await lost.gives(peer)
    old = restored.entries.state().epoch
    blob = random.Random(3).randbytes(300_000)
    await restored.entries.put(b"x", b"replaced at once")
    await restored.entries.put(b"x", b"text")
    await restored.entries.put(b"blob", blob)
    await restored.entries.put(b"brief", b"v", expiry_ms=int(NOW * 1000) + 9000)
    await restored.entries.put(b"a", None)
    for _ in range(2):
        assert (await shows(restored, peer)).refused > 0
        assert peer.entries.counters["data.copied_keys"] > 0
        assert peer.entries.totals().entries == 4
    applied = await shows(peer, restored)
    assert (applied.new, applied.refused) == (3, 0)
    assert restored.entries.state().epoch != old
    assert restored.entries.counters["data.copied_keys"] == 0
    assert (await shows(restored, peer)).is_complete
    for node in (restored, peer):
        assert [info.key for info in node.entries.scan()] == [
            b"blob", b"brief", b"later/1", b"later/2", b"later/3", b"x",
        ]  # fmt: skip
        assert node.entries.get(b"x").value == b"text"
        assert node.entries.get(b"blob").value == blob
        assert node.entries.get_entry(b"brief").expiry == int(NOW * 1000) + 9000
        assert node.entries.get_entry(b"a").value is None
        assert node.entries.state().fingerprint == recount(node) == restored.entries.state().fingerprint
    epochs = {restored.entries.get_entry(key).epoch for key in (b"x", b"blob", b"brief", b"a")}
    assert epochs == {restored.entries.state().epoch}
    assert restored.database.read("SELECT DISTINCT refs FROM chunks") == [(1,)]
    state = restored.entries.state()
    restored.database.close()
    again = Node(1, tmp_path / "d")
    assert again.entries.state() == state
    await again.entries.put(b"b", b"goes on")
    assert (await shows(again, peer)).new == 1


async def test_what_is_written_again_keeps_its_place_in_the_order(tmp_path: Path) -> None:
    restored, lost = await Restored(tmp_path).put_back(three_keys)
    peer, other = Node(2), Node(3)
    await lost.gives(peer)
    await restored.entries.put(b"k", b"before")
    await restored.entries.put(b"later/1", b"of the second life")
    other.wall.now += 0.2
    await other.entries.put(b"k", b"after")
    restored.wall.now += 0.4
    await shows(peer, restored)
    await shows(other, restored)
    assert restored.entries.get(b"k").value == b"after"
    assert restored.entries.get(b"later/1").value == b"of the second life"


async def test_two_that_took_different_batches_of_one_number_become_equal(tmp_path: Path) -> None:
    restored, lost = await Restored(tmp_path).put_back(three_keys)
    knows_lost, knows_new = Node(2), Node(3)
    await lost.gives(knows_lost)
    for number in range(5):
        await restored.entries.put(b"%d" % number, b"new")
    await shows(restored, knows_new)
    for _ in range(2):
        assert (await shows(knows_lost, knows_new)).refused == 3
        assert (await shows(knows_new, knows_lost)).refused == 3
    everyone = (restored, knows_lost, knows_new)
    await shows(knows_lost, restored)
    epoch = restored.entries.state().epoch
    assert (await shows(knows_new, restored)).superseded == 5
    for _ in range(2):
        for teller in everyone:
            for other in everyone:
                await shows(teller, other)
    assert len({node.entries.state().fingerprint for node in everyone}) == 1
    assert len(knows_new.entries.scan()) == 9
    assert restored.entries.state().epoch == epoch


async def test_a_clash_of_an_epoch_that_has_ended_is_resolved_too(tmp_path: Path) -> None:
    restored, lost = await Restored(tmp_path).put_back(three_keys)
    peer = Node(2)
    await lost.gives(peer)
    await restored.entries.put(b"x", b"second")  # its number is that of later/1
    ids = [peer.entries.get_entry(key).id for key in (b"later/3", b"later/1")]
    await restored.entries.apply(*peer.entries.batches_of(ids[:1], 10**6)[:2])
    epoch, before = restored.entries.state().epoch, restored.entries.get_entry(b"x")
    assert before.epoch != epoch
    assert (await restored.entries.apply(*peer.entries.batches_of(ids[1:], 10**6)[:2])).new == 1
    assert restored.entries.state().epoch == epoch == restored.entries.get_entry(b"x").epoch
    await shows(peer, restored)
    await shows(restored, peer)
    assert restored.entries.state().fingerprint == peer.entries.state().fingerprint


async def test_an_older_batch_of_the_same_number_does_not_keep_its_holder_apart(tmp_path: Path) -> None:
    async def one_key(node: Node) -> None:
        await node.entries.put(b"k", b"lost")

    restored, lost = await Restored(tmp_path).put_back(one_key)
    peer = Node(2)
    await lost.gives(peer)
    restored.wall.now += 0.1

    def one_batch(connection: Any) -> None:
        for key in (b"k", b"x"):
            restored.entries._ledger.put(connection, key, b"new", None)

    await restored.database.write(one_batch)
    assert (await shows(restored, peer)).refused == 2
    assert (await shows(peer, restored)).superseded == 1
    assert (await shows(restored, peer)).new == 2
    assert peer.entries.state().fingerprint == restored.entries.state().fingerprint
    assert peer.entries.get(b"k").value == peer.entries.get(b"x").value == b"new"


async def test_writes_in_the_commit_that_finds_a_clash_go_into_the_new_epoch(tmp_path: Path) -> None:
    restored, lost = await Restored(tmp_path).put_back(three_keys)
    peer, reader = Node(2), Node(3)
    await lost.gives(peer)
    await restored.entries.put(b"x", b"1")
    batches, _, _ = peer.entries.batches_of(peer.entries.ids_after(0, 10)[0], 10**6)
    before = restored.entries.state().high
    restored.commits.clear()

    def one_commit(connection: Any) -> None:
        ledger = restored.entries._ledger
        ledger.put(connection, b"x", b"2", None)
        ledger.put(connection, b"y", b"2", None)
        ledger.apply(connection, batches, [], [])
        ledger.put(connection, b"z", b"2", None)

    await restored.database.write(one_commit)
    positions = [(commit.after, commit.upto) for commit in restored.commits]
    assert [after for after, _ in positions] == [before] + [upto for _, upto in positions[:-1]]
    epoch = restored.entries.state().epoch
    assert {restored.entries.get_entry(key).epoch for key in (b"x", b"y", b"z")} == {epoch}
    assert (await reader.entries.apply(restored.batches(), [restored.admission.signed])).new == 3
    await shows(restored, peer)
    assert peer.entries.state().fingerprint == restored.entries.state().fingerprint == recount(restored)


async def test_a_clash_in_a_call_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    restored, lost = await Restored(tmp_path).put_back(three_keys)
    peer, thief = Node(2), Node(3)
    await lost.gives(peer)
    await restored.entries.put(b"x", b"1")
    state = restored.entries.state()
    restored.commits.clear()
    batches, admissions, _ = peer.entries.batches_of(peer.entries.ids_after(0, 10)[0], 10**6)
    (manifest,) = split(bytes(700_000))[1][-1:]
    await restored.entries.put_chunks([(manifest.hash, manifest.data)])
    wrong = thief.batch(thief.entry(b"blob", BlobReference(2 * 10**8, manifest.hash)))  # type: ignore[arg-type]

    def failing(connection: Any) -> None:
        ledger = restored.entries._ledger
        ledger.put(connection, b"own", b"2", None)
        try:
            with connection:
                ledger.apply(connection, [*batches, wrong], [thief.admission], [])
        except RemoteProtocolError:
            return
        raise AssertionError("a tree that does not fit was taken")

    restored.entries._remember(thief.admission)
    await restored.database.write(failing)
    assert restored.entries.state().epoch == state.epoch
    assert [commit.upto for commit in restored.commits] == [state.high + 1]
    assert (await restored.entries.apply(batches, admissions)).new == 3
    await shows(restored, peer)
    assert peer.entries.state().fingerprint == restored.entries.state().fingerprint == recount(restored)


async def test_what_may_not_be_written_any_more_is_not_written_again(tmp_path: Path) -> None:
    restored, lost = await Restored(tmp_path).put_back(three_keys)
    peer, reader = Node(2), Node(3)
    await lost.gives(peer)
    await restored.entries.put(b"x", b"1")
    stamp = int(NOW * 1000) + 1
    less = AUTHORITY.issue_admission(restored.key.node_id, now_ms=stamp, grants=[("topic:*", 31)])
    restored.entries.renew(less)
    restored.commits.clear()
    assert (await shows(peer, restored)).refused == 1
    assert restored.batches() == []
    assert restored.entries.get(b"x").value == b"1"
    assert (await shows(restored, reader)).refused == 0


async def test_cursors_move_only_where_claims_join_on() -> None:
    reader, author = Node(1), Node(2)
    node, node_id = author.key.node_id.raw, author.key.node_id

    async def claim(epoch: int, after: int, upto: int) -> tuple[int, int]:
        await reader.entries.apply([], [], [Advance(node, epoch, after, upto)])
        return reader.entries.cursor(node_id)

    assert await claim(9, 0, 5) == (9, 5)
    assert await claim(9, 6, 8) == (9, 5)
    assert await claim(9, 3, 7) == (9, 7)
    assert await claim(9, 0, 4) == (9, 7)
    assert await claim(2**64 - 1, 3, 4) == (9, 7)
    assert await claim(2**64 - 1, 0, 2) == (2**64 - 1, 2)
    await reader.entries.set_cursor(node_id, 9, 1)
    assert reader.entries.cursor(node_id) == (9, 1)


# --- serving


async def test_pages_of_ids_cover_everything_once() -> None:
    node = Node()
    for i in range(25):
        await node.entries.put(b"%d" % (i % 20), b"%d" % i)
    seen, position, done = [], 0, False
    while not done:
        ids, position, done = node.entries.ids_after(position, 7)
        seen += ids
    assert len(seen) == len(set(seen)) == 20
    assert position == 25
    assert node.entries.missing([*seen, b"x" * 32, b"x" * 32]) == [b"x" * 32]
    assert node.entries.ids_after(2**64 - 1, 5) == ([], 2**63 - 1, True) or node.entries.ids_after(25, 5) == (
        [],
        25,
        True,
    )


async def test_parts_of_batches_travel_with_paths_through_any_number_of_hands() -> None:
    author, relay, last = Node(1), Node(2), Node(3)

    def many(connection: Any) -> None:
        for i in range(64):
            author.entries._ledger.put(connection, b"%d" % i, b"v" * 100, None)

    await author.database.write(many)
    ids = author.entries.ids_after(0, 100)[0]
    part = ids[5:9] + ids[60:]
    batches, admissions, served = author.entries.batches_of(part, 10**6)
    assert served == 8
    assert (await relay.entries.apply(batches, admissions)).new == 8
    again, admissions, served = relay.entries.batches_of([*part, b"?" * 32], 10**6)
    assert served == 9
    assert (await last.entries.apply(again, admissions)).new == 8
    whole, admissions, _ = author.entries.batches_of(ids, 10**6)
    assert not any(path for _, _, path in whole[0][1])
    assert (await last.entries.apply(whole, admissions)).new == 56
    assert last.entries.state().fingerprint == author.entries.state().fingerprint
    rest, admissions, _ = last.entries.batches_of(ids[20:30], 10**6)
    assert (await relay.entries.apply(rest, admissions)).new == 10


async def test_answers_are_bounded_in_bytes_but_never_empty() -> None:
    node = Node()
    for i in range(20):
        await node.entries.put(b"%d" % i, bytes(1000))
    ids = node.entries.ids_after(0, 100)[0]
    assert node.entries.batches_of(ids, 1)[2] == 1
    assert 2 < node.entries.batches_of(ids, 10_000)[2] < 8


# --- blobs


@pytest.mark.parametrize("size", [4096, 4097, 262_144, 262_145, 1_000_000])
async def test_a_value_of_any_size_arrives_whole(size: int) -> None:
    author, reader = Node(1), Node(2)
    value = random.Random(size).randbytes(size)
    await author.entries.put(b"k", value)
    assert author.entries.get(b"k").value == value
    await author.gives(reader)
    assert reader.entries.get(b"k").value == value
    assert reader.entries.state().fingerprint == author.entries.state().fingerprint


async def test_an_entry_whose_chunks_are_not_here_is_not_held() -> None:
    author, reader = Node(1), Node(2)
    await author.entries.put(b"k", random.Random(1).randbytes(600_000))
    reference = author.entries.get_entry(b"k").value
    advance = Advance(author.key.node_id.raw, author.entries.state().epoch, 0, 1)
    call = (author.batches(), [author.admission.signed], [advance])
    applied = await reader.entries.apply(*call)
    assert (applied.new, applied.wanted) == (0, (reference.root,))  # type: ignore[union-attr]
    (manifest,) = author.entries.chunks(applied.wanted, 10**6)
    assert manifest is not None
    await reader.entries.put_chunks([(applied.wanted[0], manifest)])
    applied = await reader.entries.apply(*call)
    assert (applied.new, len(applied.wanted)) == (0, 3)
    assert reader.entries.state().high == 0
    assert reader.entries.cursor(author.key.node_id) == (0, 0)
    assert len(author.entries.chunks(applied.wanted, 300_000)) == 1
    assert author.entries.chunks([b"?" * 32], 100) == [None]
    chunks = author.entries.chunks(applied.wanted, 10**6)
    with pytest.raises(RemoteProtocolError):
        await reader.entries.put_chunks([(applied.wanted[0], b"wrong")])
    await reader.entries.put_chunks([(h, c) for h, c in zip(applied.wanted, chunks, strict=True) if c is not None])
    assert (await reader.entries.apply(*call)).new == 1
    assert reader.entries.cursor(author.key.node_id) == (author.entries.state().epoch, 1)


async def test_chunks_are_shared_and_go_with_their_last_entry(tmp_path: Path) -> None:
    node = Node(path=tmp_path / "d")

    def pieces() -> int:
        (count,) = node.database.read("SELECT count(*) FROM chunks")[0]
        assert node.database.read("SELECT count(*) FROM chunk_data") == [(count,)]
        return int(count)

    value = bytes(262_144) * 3 + b"end"  # equal chunks are one
    await node.entries.put(b"a", value)
    assert pieces() == 3
    await node.entries.put(b"b", value)
    await node.entries.put(b"a", b"small")
    assert pieces() == 3
    assert node.entries.get(b"b").value == value
    await node.entries.put(b"b", None)
    assert pieces() == 0
    await node.entries.put_chunks([(blob_hash(b"loose"), b"loose")])
    assert pieces() == 1
    node.database.close()
    node = Node(path=tmp_path / "d")
    assert pieces() == 0
    await node.entries.put_chunks([(blob_hash(b"loose"), b"loose")])
    assert await node.entries.sweep() == 1
    assert pieces() == 0


def blob_hash(data: bytes) -> bytes:
    from bms.data.blob import chunk_hash

    return chunk_hash(data)


# --- damage


async def test_a_damaged_chunk_is_never_returned_nor_sent_and_can_be_given_again() -> None:
    author, reader = Node(1), Node(2)
    value = random.Random(1).randbytes(300_000)
    await author.entries.put(b"k", value)
    await author.gives(reader)
    await reader.database.write(
        lambda connection: connection.execute(
            "UPDATE chunk_data SET data=zeroblob(length(data)) WHERE length(data)=262144"
        )
    )
    with pytest.raises(CorruptionError):
        reader.entries.get(b"k")
    (damaged,) = reader.entries.damaged_chunks
    assert reader.entries.chunks([damaged], 10**6) == [None]
    assert reader.entries.counters["data.damage_found"] == 1
    (chunk,) = author.entries.chunks([damaged], 10**6)
    assert chunk is not None
    await reader.entries.put_chunks([(damaged, chunk)])
    assert reader.entries.get(b"k").value == value
    assert not reader.entries.damaged_chunks


async def test_a_damaged_entry_is_never_returned_nor_sent_and_comes_back_from_a_replica() -> None:
    author, reader = Node(1), Node(2)
    await author.entries.put(b"k", b"v" * 100)
    await author.gives(reader)
    (id_,) = reader.entries.ids_after(0, 10)[0]
    await reader.database.write(lambda connection: connection.execute("UPDATE entries SET body=zeroblob(length(body))"))
    with pytest.raises(CorruptionError):
        reader.entries.get(b"k")
    assert reader.entries.batches_of([id_], 10**6)[0] == []
    assert reader.entries.ids_after(0, 10)[0] == []
    assert await reader.entries.quarantine() == 1
    assert reader.entries.state().fingerprint == recount(reader) != author.entries.state().fingerprint
    assert (await author.gives(reader)).new == 1
    assert reader.entries.get(b"k").value == b"v" * 100
    assert reader.entries.state().fingerprint == author.entries.state().fingerprint


# ---------------------------------------------------------------------- for those who tell others


async def test_heads_are_what_is_in_force_in_the_order_of_the_keys_asked() -> None:
    node = Node()
    first = await node.entries.put(b"a", b"12345")
    await node.entries.put(b"b", b"x")
    deleted = await node.entries.put(b"b", None)
    large = await node.entries.put(b"c", bytes(300_000))
    heads = node.entries.heads([b"c", b"missing", b"b", b"a", b"a"])
    assert [(head.key, head.version, head.size, head.deleted) for head in heads] == [
        (b"c", large, 300_000, False),
        (b"b", deleted, 0, True),
        (b"a", first, 5, False),
    ]
    assert {head.author for head in heads} == {node.key.node_id}


async def test_heads_of_very_many_keys_are_read_in_parts() -> None:
    node = Node()
    keys = [f"{number:03}".encode() for number in range(2 * MANY + 3)]
    for key in keys:
        await node.entries.put(key, b"")
    assert [head.key for head in node.entries.heads(keys)] == keys
    assert node.entries.heads([]) == []


async def test_what_has_expired_since_a_moment_is_told_once_in_its_order() -> None:
    node = Node()
    assert node.entries.expired(None) == ([], NOW_MS)
    for key, seconds in ((b"late", 30), (b"soon", 10), (b"next", 20), (b"never", None)):
        await node.entries.put(key, b"x", expiry_ms=None if seconds is None else NOW_MS + 1000 * seconds)
    await node.entries.put(b"gone", b"x", expiry_ms=NOW_MS + 5000)
    await node.entries.put(b"gone", b"kept after all")
    assert node.entries.expired(NOW_MS)[0] == []
    node.wall.now += 20
    heads, upto = node.entries.expired(NOW_MS)
    assert [(head.key, head.deleted, head.size) for head in heads] == [(b"soon", True, 0), (b"next", True, 0)]
    assert node.entries.expired(upto)[0] == []
    node.wall.now += 10
    assert [head.key for head in node.entries.expired(upto)[0]] == [b"late"]
    assert [head.deleted for head in node.entries.heads([b"late", b"never"])] == [True, False]


async def test_many_that_expire_in_one_millisecond_come_together_although_they_are_beyond_the_limit() -> None:
    node = Node()
    for number in range(5):
        await node.entries.put(f"k{number}".encode(), b"", expiry_ms=NOW_MS + 1)
    await node.entries.put(b"later", b"", expiry_ms=NOW_MS + 2)
    node.wall.now += 1
    heads, upto = node.entries.expired(NOW_MS, limit=3)
    assert ([head.key for head in heads], upto) == ([f"k{number}".encode() for number in range(5)], NOW_MS + 1)
    heads, upto = node.entries.expired(upto, limit=3)
    assert ([head.key for head in heads], upto) == ([b"later"], NOW_MS + 1000)
