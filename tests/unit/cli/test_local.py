"""Which node a word means, among the members and among those of this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import pytest

from bms.cli.local import Choice, open_local, resolve
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


async def test_dead_sockets_are_no_nodes(tmp_path: Path) -> None:
    left_behind(tmp_path / "one" / "a" / "control.sock")
    with pytest.raises(UnreachableError, match="bms up"):
        async with open_local(Choice(tmp_path, None, None)):
            pass
