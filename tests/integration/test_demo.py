"""The proof that `bms demo` gives, on nodes that really differ; and how it lists and reads files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import blake3
import pytest
import trio

import bms
from bms.cli.demo_fleet import Fleet, Member
from bms.cli.demo_proof import Content, Proof, draw
from bms.cli.demo_report import PROBLEMS_MAX, NodeRow, Phase, Report
from bms.cli.demo_tree import read_file, scan
from bms.control import open_control
from bms.control.server import serve_control
from helpers import cluster

LIMIT = 1000


@asynccontextmanager
async def lonely_members(folder: Path, count: int) -> AsyncIterator[list[Member]]:
    """Nodes that exchange no data, so that they can be made to differ, behind their control sockets."""
    async with AsyncExitStack() as stack:
        meshes: list[bms.Mesh] = await stack.enter_async_context(cluster(count, enable_replication=False))
        nursery = await stack.enter_async_context(trio.open_nursery())
        members = []
        for number, mesh in enumerate(meshes, 1):
            path = folder / f"{number}.sock"
            await nursery.start(serve_control, mesh, path)
            client = await stack.enter_async_context(open_control(path))
            members.append(Member(f"n{number}", folder, data=client, watch=client))
        yield members
        nursery.cancel_scope.cancel()


async def test_each_way_in_which_a_node_can_differ_is_found_and_named(tmp_path: Path) -> None:
    report = Report("here", nodes=[NodeRow("n1"), NodeRow("n2")])
    proof = Proof(report)
    (tmp_path / "file").write_bytes(b"stored")
    proof.expected[b"file"] = Content(6, blake3.blake3(b"stored").digest(), os.fsencode(tmp_path / "file"))
    data, proof.expected[b"drawn"] = draw("a seed")
    async with lonely_members(tmp_path, 2) as members:
        for member in members:
            await member.data.put("file", b"stored")
            await member.data.put("drawn", data)
        assert await proof.check(members, Phase("verify", "")) == {"n1": True, "n2": True}
        assert report.verified_values == 4
        await members[1].data.put("drawn", data[:-1] + bytes([data[-1] ^ 1]))
        await members[1].data.put("extra", b"")
        await members[1].data.rm("file")
        assert await proof.check(members, Phase("verify", "")) == {"n1": True, "n2": False}
    found = {(*problem.split(":")[:2],) for problem in report.problems}
    assert {("n2", " drawn has another digest"), ("n2", " drawn has other bytes")} <= found
    assert {("n2", " extra should not be there"), ("n2", " file is missing")} <= found
    assert not [problem for problem in report.problems if not problem.startswith("n2:")]


async def test_a_file_that_changed_since_is_compared_by_digest_and_counted(tmp_path: Path) -> None:
    report = Report("here")
    proof = Proof(report)
    path = tmp_path / "file"
    path.write_bytes(b"now another")
    proof.expected[b"file"] = Content(6, blake3.blake3(b"stored").digest(), os.fsencode(path))
    async with lonely_members(tmp_path, 2) as members:
        await members[0].data.put("file", b"stored")
        await members[1].data.put("file", b"now another")
        assert await proof.check(members, Phase("verify", "")) == {"n1": True, "n2": False}
    assert report.changed_meanwhile == 1


def test_a_report_is_good_only_if_nothing_at_all_is_wrong() -> None:
    assert not Report("here").is_good
    assert not Report("here", nodes=[NodeRow("n1", equal=True), NodeRow("n2", equal=None)]).is_good
    report = Report("here", nodes=[NodeRow("n1", equal=True), NodeRow("n2", equal=True)])
    good = report.is_good
    for number in range(PROBLEMS_MAX + 3):
        report.problem(str(number))
    assert (good, report.is_good) == (True, False)
    assert (len(report.problems), report.problems_more) == (PROBLEMS_MAX, 3)


def test_files_above_the_limits_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "fits").write_bytes(b"x" * LIMIT)
    (tmp_path / "large").write_bytes(b"x" * (LIMIT + 1))
    deep = tmp_path
    for _ in range(5):
        deep = deep / ("d" * 250)
        deep.mkdir()
    (deep / "file").touch()
    tree = scan(tmp_path, LIMIT)
    assert [file.key for file in tree.files] == [b"fits"]
    assert dict(tree.skipped) == {"too large": 1, "path too long": 1}


def test_a_file_that_grew_or_became_a_link_or_a_pipe_since_it_was_listed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * LIMIT)
    data, digest = read_file(os.fsencode(path), LIMIT) or (b"", b"")
    assert data == b"x" * LIMIT
    assert digest == blake3.blake3(data).digest()
    path.write_bytes(b"x" * (LIMIT + 1))
    assert read_file(os.fsencode(path), LIMIT) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        read_file(os.fsencode(path), LIMIT)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError):
        read_file(os.fsencode(path), LIMIT)


def test_listing_one_file_gives_its_name_as_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    tree = scan(tmp_path / "file", LIMIT)
    assert [(file.key, file.size) for file in tree.files] == [(b"file", 1)]


def test_a_demonstration_leaves_another_ones_files_alone_while_it_runs_and_where_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    at_work, kept = Fleet(0), Fleet(0)
    holder = kept.keep()
    kept.close(keep=True)
    os.waitpid(holder, 0)  # it has ended: there are no nodes whose leash it would hold
    assert Fleet(0).close() is None
    assert sorted(tmp_path.iterdir()) == sorted([at_work.folder, kept.folder])
    assert at_work.close() is None
    assert list(tmp_path.iterdir()) == [kept.folder]
