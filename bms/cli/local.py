"""Which of the nodes on this machine a command means, and a connection to it.

    home/MESH/NODE/control.sock       where nodes are looked for; home is --home, BMS_HOME or the user's data folder

`--node` is the name of a node or of its folder, a NodeId or the beginning of one, or the path of a folder elsewhere.
If exactly one node that fits answers, it is taken; otherwise the error lists those that do. One that takes the
connection and says nothing within `ANSWER_S` is left out where another fits, and waited for, up to `PATIENCE_S`, where
none does: its machine may stand still.

Commands that need no more than HTTP offers take `--url` as well (`any_node`, `open_node`): the node that is meant is
the one behind that, wherever it is (`remote`).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
import trio

from ..config import home as default_home
from ..control import SOCKET_NAME, ControlClient, Status, open_control
from ..errors import MeshError, NotFoundError, UnreachableError
from ..values import Node, NodeState
from .remote import TOKEN_VARIABLE, AnyNode, Remote, open_remote, read_token

__all__ = [
    "ANSWER_S",
    "PATIENCE_S",
    "Choice",
    "any_node",
    "any_node_options",
    "find_local",
    "local_node",
    "node_options",
    "open_local",
    "open_node",
    "resolve",
]

ANSWER_S, PATIENCE_S = 2.0, 10.0
_PREFIX_MIN = 4

F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class Choice:
    """What `--home`, `--mesh` and `--node` said; or `--url` and what goes with it."""

    home: Path
    mesh: str | None
    node: str | None
    remote: Remote | None = None

    def sockets(self) -> list[Path]:
        """Where nodes that fit may be answering, whether they do or not."""
        if self.node is not None and (os.sep in self.node or self.node in (".", "..")):
            return [Path(self.node) / SOCKET_NAME]
        found = []
        for mesh in _folders(self.home):
            if self.mesh is None or mesh.name == self.mesh:
                found += [node / SOCKET_NAME for node in _folders(mesh) if _is_socket(node / SOCKET_NAME)]
        return found

    def __str__(self) -> str:
        named = [f"{name} {value!r}" for name, value in (("mesh", self.mesh), ("node", self.node)) if value is not None]
        return " ".join([*named, "under", str(self.home)])


def node_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say which node is meant, as a `Choice` in the first argument."""

    @click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder of all nodes [BMS_HOME].")
    @click.option("--mesh", metavar="NAME", help="Which mesh, where nodes of several run here.")
    @click.option("--node", metavar="NODE", help="Which node of this machine: name, id, or folder.")
    @functools.wraps(function)
    def command(home: Path | None, mesh: str | None, node: str | None, **arguments: Any) -> None:
        function(Choice(home or default_home(), mesh, node), **arguments)

    return command


def any_node_options(function: Callable[..., None]) -> Callable[..., None]:
    """The same, and those that name a node by its URL."""

    @click.option("--url", metavar="URL", help="A node's HTTP interface, https://host:port, instead.")
    @click.option("--token", metavar="FILE", help=f"With --url: a file with its token, or '-' [{TOKEN_VARIABLE}].")
    @click.option("--fingerprint", metavar="HEX", help="With --url: the SHA-256 of its certificate.")
    @click.option(
        "--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="With --url: authorities to trust."
    )
    @node_options
    @functools.wraps(function)
    def command(
        choice: Choice, url: str | None, token: str | None, fingerprint: str | None, ca: Path | None, **arguments: Any
    ) -> None:
        if url is None:
            if (token, fingerprint, ca) != (None, None, None):
                raise click.UsageError("--token, --fingerprint and --ca go with --url")
        else:
            if (choice.mesh, choice.node) != (None, None):
                raise click.UsageError("--url says which node; leave out --mesh and --node")
            choice = attrs.evolve(choice, remote=Remote(url, read_token(token), fingerprint, ca))
        function(choice, **arguments)

    return command


def any_node(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a command of an async function whose first argument is the node that is meant, here or behind `--url`."""

    @any_node_options
    @functools.wraps(function)
    def command(choice: Choice, **arguments: Any) -> None:
        async def act() -> None:
            async with open_node(choice) as node:
                await function(node, **arguments)

        trio.run(act)

    return command


def local_node(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a command of an async function whose first argument is the `ControlClient` of the node that is meant."""

    @node_options
    @functools.wraps(function)
    def command(choice: Choice, **arguments: Any) -> None:
        async def act() -> None:
            async with open_local(choice) as client:
                await function(client, **arguments)

        trio.run(act)

    return command


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise click.UsageError(f"{place} cannot be read: {error.strerror}") from error


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except PermissionError:  # another user's node
        return False


async def _answering(
    sockets: Iterable[Path], fits: Callable[[Path, Status], bool] | None = None
) -> tuple[list[tuple[Path, Status]], list[Path]]:
    """The nodes that answer, and the sockets of those that took the connection and do not.

    `fits`: wait longer for one that fits, if none that answers does.
    """
    found: list[tuple[Path, Status]] = []
    silent = set(sockets)
    send, receive = trio.open_memory_channel[tuple[Path, Status | None]](math.inf)

    async def ask(path: Path) -> None:
        try:
            async with open_control(path) as client:
                status: Status | None = await client.status()
        except MeshError:
            status = None  # a dead process's socket, one that is just ending, or another user's
        send.send_nowait((path, status))

    def is_enough() -> bool:
        return fits is None or any(fits(*pair) for pair in found)

    async with trio.open_nursery() as nursery:
        for path in silent:
            nursery.start_soon(ask, path)
        for seconds, is_late in ((ANSWER_S, False), (PATIENCE_S - ANSWER_S, True)):
            with trio.move_on_after(seconds):
                while silent and not (is_late and is_enough()):
                    path, status = await receive.receive()
                    silent.remove(path)
                    found += [(path, status)] if status is not None else []
        nursery.cancel_scope.cancel()
    return sorted(found, key=lambda pair: pair[0]), sorted(silent)


def _fits(path: Path, status: Status, node: str | None) -> bool:
    if node is None or os.sep in node or node in (".", ".."):
        return True
    return node in (path.parent.name, status.name) or (len(node) >= _PREFIX_MIN and status.node_id.startswith(node))


def _listed(found: list[tuple[Path, Status]]) -> str:
    return ", ".join(f"{status.mesh_name}/{path.parent.name} ({status.node_id[:8]})" for path, status in found)


async def find_local(choice: Choice) -> tuple[Path | None, set[Path]]:
    """The socket of the one node that fits, None if there is none; and the folders of all that answer in the home.

    A usage error if several fit.
    """
    everywhere = attrs.evolve(choice, mesh=None, node=None).sockets()
    found, _ = await _answering(dict.fromkeys([*choice.sockets(), *everywhere]))
    fitting = [
        (path, status) for path, status in found if path in choice.sockets() and _fits(path, status, choice.node)
    ]
    if len(fitting) > 1:
        raise click.UsageError(f"several nodes fit; choose one with --node (and --mesh): {_listed(fitting)}")
    return (fitting[0][0] if fitting else None), {path.parent.resolve() for path, _ in found}


@asynccontextmanager
async def open_local(choice: Choice) -> AsyncIterator[ControlClient]:
    """A connection to the one node that fits; UnreachableError if there is none, a usage error if there are several."""
    found, silent = await _answering(choice.sockets(), lambda path, status: _fits(path, status, choice.node))
    fitting = [(path, status) for path, status in found if _fits(path, status, choice.node)]
    if not fitting and silent:
        places = ", ".join(str(path.parent) for path in silent)
        raise UnreachableError(f"there is a node in {places}, but it does not answer; `bms doctor` looks closer")
    if not fitting and found:
        raise UnreachableError(f"no {choice} is running; these are: {_listed(found)}")
    if not fitting:
        raise UnreachableError(f"no node is running ({choice}): start one with `bms up`")
    if len(fitting) > 1:
        raise click.UsageError(f"several nodes fit; choose one with --node (and --mesh): {_listed(fitting)}")
    async with open_control(fitting[0][0]) as client:
        yield client


@asynccontextmanager
async def open_node(choice: Choice) -> AsyncIterator[AnyNode]:
    """The node that is meant, here or behind `--url`."""
    if choice.remote is not None:
        async with open_remote(choice.remote) as remote:
            yield remote
    else:
        async with open_local(choice) as client:
            yield client


def resolve(nodes: list[Node], text: str) -> Node:
    """The node that `text` means: a NodeId, the beginning of one, or a name; the present ones go first.

    NotFoundError if there is none, a usage error if there are several.
    """
    found = [node for node in nodes if node.node_id == text]
    if not found:
        is_prefix = len(text) >= _PREFIX_MIN
        found = [node for node in nodes if node.name == text or (is_prefix and node.node_id.startswith(text))]
    present = [node for node in found if node.state in (NodeState.ALIVE, NodeState.SUSPECT)]
    found = present or found
    if not found:
        raise NotFoundError(f"no node {text!r} is known; `bms nodes` lists them")
    if len(found) > 1:
        listed = ", ".join(f"{node.name} ({node.node_id[:8]})" for node in found)
        raise click.UsageError(f"{text!r} fits several nodes: {listed}; give more of the id")
    return found[0]
