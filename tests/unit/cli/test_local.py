"""Which node a word means, among the members and among those of this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import attrs
import click
import pytest
import trio

import bms
from bms.cli import local
from bms.cli.local import Choice, find_local, open_local, resolve
from bms.control import SOCKET_NAME
from bms.control.place import listening
from bms.control.server import serve_control
from bms.errors import NotFoundError, UnreachableError
from bms.values import Node, NodeId, NodeState


def member(digit: str, name: str, state: NodeState = NodeState.ALIVE) -> Node:
    return Node(NodeId(digit.ljust(64, "0")), name, None, state)


NODES = [
    member("aaaa1", "kitchen"),
    member("aaaa2", "cellar"),
    member("bbbb", "attic"),
    member("cccc", "attic"),
    member("dddd", "twin", NodeState.LEFT),
    member("eeee", "twin"),
    member("ffff", "gone", NodeState.FAILED),
    member("abcd", "bbbb2"),
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("kitchen", NODES[0]),
        ("aaaa1", NODES[0]),
        (NODES[1].node_id, NODES[1]),
        ("bbbb", NODES[2]),
        ("twin", NODES[5]),
        ("dddd", NODES[4]),
        ("gone", NODES[6]),
        ("bbbb2", NODES[7]),
    ],
)
def test_a_node_is_named_by_its_id_the_beginning_of_one_or_its_name(text: str, found: Node) -> None:
    assert resolve(NODES, text) is found


def test_a_word_that_fits_several_present_nodes_lists_them() -> None:
    with pytest.raises(click.UsageError, match=r"attic \(bbbb0000\), attic \(cccc0000\)"):
        resolve(NODES, "attic")
    with pytest.raises(click.UsageError):
        resolve(NODES, "aaaa")


@pytest.mark.parametrize("text", ["nobody", "aaa", "", "aaaa3"])
def test_a_word_that_fits_nobody_says_where_to_look(text: str) -> None:
    with pytest.raises(NotFoundError, match="bms nodes"):
        resolve(NODES, text)


def left_behind(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_nodes_are_looked_for_in_each_mesh_of_the_home(tmp_path: Path) -> None:
    for place in ("one/a", "one/b", "two/a"):
        left_behind(tmp_path / place / "control.sock")
    (tmp_path / "one" / "c").mkdir()
    (tmp_path / "file").write_text("")

    def found(mesh: str | None) -> list[str]:
        return [path.parent.relative_to(tmp_path).as_posix() for path in Choice(tmp_path, mesh, None).sockets()]

    assert found(None) == ["one/a", "one/b", "two/a"]
    assert found("two") == ["two/a"]
    assert found("*") == []
    assert Choice(tmp_path / "none", None, None).sockets() == []


def test_a_folder_is_named_by_its_path(tmp_path: Path) -> None:
    assert Choice(tmp_path, None, "/else/where").sockets() == [Path("/else/where/control.sock")]
    assert Choice(tmp_path, None, ".").sockets() == [Path("control.sock")]


async def test_a_node_that_answers_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ANSWER_S", 0.0)
    async with bms.open_mesh(dev_mode=True, enable_discovery=False) as mesh, trio.open_nursery() as nursery:
        assert mesh.folder is not None
        await nursery.start(serve_control, mesh, mesh.folder / SOCKET_NAME)
        choice = Choice(mesh.folder.parent.parent, None, None)
        async with open_local(choice) as client:
            assert (await client.status()).node_id == mesh.node_id
        with pytest.raises(UnreachableError, match="these are: default/"):
            async with open_local(attrs.evolve(choice, node="nobody")):
                pass
        nursery.cancel_scope.cancel()


async def test_a_node_that_never_answers_is_not_said_to_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ANSWER_S", 0.01)
    monkeypatch.setattr(local, "PATIENCE_S", 0.05)
    path = tmp_path / "one" / "a" / "control.sock"
    left_behind(tmp_path / "one" / "b" / "control.sock")
    with listening(path):
        with pytest.raises(UnreachableError, match=r"one/a, but it does not answer; `bms doctor`"):
            async with open_local(Choice(tmp_path, None, None)):
                pass
        assert await find_local(Choice(tmp_path, None, None)) == (None, set())


async def test_dead_sockets_are_no_nodes(tmp_path: Path) -> None:
    left_behind(tmp_path / "one" / "a" / "control.sock")
    with pytest.raises(UnreachableError, match="bms up"):
        async with open_local(Choice(tmp_path, None, None)):
            pass
