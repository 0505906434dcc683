"""The peer snapshot: the file, what is ignored, and who is remembered."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path

import blake3
import pytest

from bms.membership.snapshot import BYTES_MAX, FILE_NAME, PEERS_MAX, Peer, Snapshot, pack, remembered, unpack
from bms.values import Address, NodeId

MESH, OTHER_MESH = b"m" * 32, b"o" * 32


def peer(number: int, seen: float = 1_800_000_000.0, addresses: int = 1) -> Peer:
    places = tuple(Address(f"node-{number}.example", 7800 + index) for index in range(addresses))
    return Peer(NodeId(f"{number:064x}"), places, seen)


PEERS = [peer(1, addresses=3), Peer(NodeId("a" * 64), (Address("2001:db8::1", 7800),), 1_800_000_001.5)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path, MESH)
    snapshot.write(PEERS)
    assert snapshot.read() == PEERS
    snapshot.write(PEERS[:1])
    assert snapshot.read() == PEERS[:1]
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Snapshot(tmp_path, MESH).write(PEERS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_without_a_file_nobody_is_remembered_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Snapshot(tmp_path, MESH).read() == []
    assert not caplog.records


GOOD = pack(MESH, PEERS)
BODY = GOOD.partition(b"\n")[2]


def forged(body: bytes) -> bytes:
    return f"bms-peers 1 {blake3.blake3(body).hexdigest()}\n".encode() + body


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no snapshot"),
        (b"\xff\xfe\x00", "no snapshot"),
        (b"bms-peers", "format"),
        (GOOD.replace(b"peers 1", b"peers 2"), "format"),
        (GOOD[:-1], "checksum"),
        (GOOD[: len(GOOD) // 2], "checksum"),
        (GOOD.replace(b"7801", b"7901"), "checksum"),
        (GOOD + b"x", "checksum"),
        (pack(OTHER_MESH, PEERS), "another mesh"),
        (forged(b""), ""),
        (forged(b"\xff"), ""),
        (forged(b"[]\n"), "another mesh"),
        (forged(BODY + b"[]\n"), "a line"),
        (forged(BODY + b"{}\n"), "a line"),
        (forged(BODY + b'{"node": "x", "addresses": [], "seen": 1}\n'), "a line"),
        (forged(BODY + b'{"node": "' + b"a" * 64 + b'", "addresses": [5], "seen": 1}\n'), "a line"),
        (forged(BODY + b'{"node": "' + b"a" * 64 + b'", "addresses": ["x"], "seen": 1}\n'), "a line"),
        (forged(BODY + b'{"node": "' + b"a" * 64 + b'", "addresses": [], "seen": "now"}\n'), "a line"),
        (forged(BODY + b"nonsense\n"), ""),
        (b"x" * (BYTES_MAX + 1), "more than"),
    ],
)
def test_an_unreadable_file_is_ignored_with_a_warning(
    content: bytes, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    snapshot = Snapshot(tmp_path, MESH)
    assert snapshot.read() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "is ignored" in record.getMessage()
    assert why in record.getMessage()
    snapshot.write(PEERS)
    assert snapshot.read() == PEERS


def test_a_folder_in_its_place_is_ignored_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).mkdir()
    assert Snapshot(tmp_path, MESH).read() == []
    assert os.strerror(errno.EISDIR) in caplog.text


def test_what_a_killed_process_left_half_written_does_no_harm(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path, MESH)
    snapshot.write(PEERS)
    (tmp_path / f".{FILE_NAME}.new").write_bytes(GOOD[:50])
    assert snapshot.read() == PEERS
    snapshot.write(PEERS[:1])
    assert snapshot.read() == PEERS[:1]


def test_the_file_stays_within_its_bounds() -> None:
    long = [
        Peer(NodeId(f"{number:064x}"), tuple(Address("h" * 250, port) for port in range(1, 9)), 0.0)
        for number in range(PEERS_MAX)
    ]
    content = pack(MESH, long)
    assert len(content) <= BYTES_MAX
    assert unpack(content, MESH) == long[: len(unpack(content, MESH))] != []
    usual = [peer(number, addresses=4) for number in range(PEERS_MAX)]
    assert unpack(pack(MESH, usual), MESH) == usual


def test_more_lines_than_a_snapshot_has_are_left_out() -> None:
    line = json.dumps({"node": "a" * 64, "addresses": ["h:1"], "seen": 1}).encode() + b"\n"
    content = forged(BODY.splitlines(keepends=True)[0] + line * (PEERS_MAX + 5))
    assert len(unpack(content, MESH)) == PEERS_MAX


def test_those_seen_last_are_remembered_and_the_old_go() -> None:
    now = 1_800_000_000.0
    old = [peer(number, seen=now - number) for number in range(PEERS_MAX + 10)]
    kept = remembered(reversed(old), {}, now=0.0, wall=now, keep_s=500.5)
    assert [one.node_id for one in kept] == [one.node_id for one in old[:501]]
    assert len(remembered(old, {}, now=0.0, wall=now, keep_s=1e6)) == PEERS_MAX


def test_what_a_machine_without_a_clock_wrote_down_is_kept() -> None:
    old = [peer(1, seen=30.0)]
    assert remembered(old, {}, now=0.0, wall=1_800_000_000.0, keep_s=500.0) == old
