"""Networks of network namespaces: real processes on hosts of their own, on one machine, with links that can be cut.

Each host is a Linux network namespace with one interface, `eth0`, and an address in 10.203.0.0/24; a bridge in a
namespace of its own is the switch between them. Nothing of it is in the machine's own network, and nothing leads out.
Files are shared: a Unix socket of a program in a host can be used from outside.

    if reason := available(): pytest.skip(reason)
    async with open_network("a", "b", "c") as network:
        process = await network["a"].open_process(["bms", "up", "--listen", f"{network['a'].address}:7800"])
        network.cut(["a"])                         # from all others, both ways, silently
        network.heal()

A cut is a false entry in the sender's neighbour table: packets leave for an Ethernet address that nobody has. Neither
side gets an error, connections stay, and TCP goes on by itself after `heal`. `cut_one_way` is the
same in one direction.

However the block ends, the processes in its namespaces are killed and the namespaces removed. If the program itself was
killed, the next `open_network` removes what it left: the names hold the process id. Needs root, Linux and iproute2.
Deliberately absent: loss and delay (netem is not in every kernel; a proxy makes them), IPv6, routers.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import trio

from ..security.disk import locked

__all__ = ["NamespaceHost", "NamespaceNetwork", "available", "open_network"]

HOSTS_MAX = 200

_PREFIX = "bmsnet"
_LOCK = Path("/run/bmsnet.lock")
_SUBNET = "10.203.0"
_NOBODY = "02:00:00:00:de:ad"
_END_S = 10.0
_numbers = itertools.count()


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


@cache
def available() -> str | None:
    """Why there can be no namespaces here, or None if there can: tried once, and undone."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "the command ip is missing (Debian: apt-get install iproute2)"
    name = f"{_PREFIX}-{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "br0", "type", "bridge")
            _ip("-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        finally:
            _ip("netns", "delete", name)
    except OSError as error:
        return f"this machine does not let network namespaces be made: {error}"
    return None


@attrs.frozen
class NamespaceHost:
    """One host: its name, its namespace's, and its address."""

    name: str
    namespace: str
    address: str

    def command(self, command: Sequence[str | os.PathLike[str]]) -> list[str]:
        """A command line that runs `command` on this host; the process is `command` itself, not a child."""
        return ["ip", "netns", "exec", self.namespace, *(os.fspath(part) for part in command)]

    async def open_process(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> trio.Process:
        """Start a process on this host; options as in `trio.lowlevel.open_process`."""
        return await trio.lowlevel.open_process(self.command(command), **options)

    def pids(self) -> list[int]:
        """The processes on this host."""
        return [int(line) for line in _ip("netns", "pids", self.namespace).split()]


class NamespaceNetwork:
    """Hosts on one switch; made by `open_network`."""

    def __init__(self, names: Sequence[str]) -> None:
        mark = f"{_PREFIX}-{os.getpid()}-{next(_numbers)}"
        self._switch = f"{mark}-switch"
        self._hosts = {
            name: NamespaceHost(name, f"{mark}-h{number}", f"{_SUBNET}.{number}")
            for number, name in enumerate(names, 1)
        }
        self._cuts: set[tuple[str, str]] = set()

    def __getitem__(self, name: str) -> NamespaceHost:
        return self._hosts[name]

    def __iter__(self) -> Iterator[NamespaceHost]:
        return iter(self._hosts.values())

    def cut(self, side: Iterable[str], other: Iterable[str] | None = None) -> None:
        """Let nothing pass between the two sides; without `other`, between `side` and all the rest."""
        side = list(side)
        other = [name for name in self._hosts if name not in side] if other is None else list(other)
        self.cut_one_way(side, other)
        self.cut_one_way(other, side)

    def cut_one_way(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Let nothing pass from `senders` to `receivers`."""
        for pair in itertools.product(list(senders), list(receivers)):
            source, target = (self._hosts[name] for name in pair)
            if source != target and pair not in self._cuts:
                _ip(
                    *("-n", source.namespace, "neighbour", "replace", target.address),
                    *("lladdr", _NOBODY, "nud", "permanent", "dev", "eth0"),
                )
                self._cuts.add(pair)

    def heal(self) -> None:
        """Undo every cut."""
        for pair in sorted(self._cuts):
            source, target = (self._hosts[name] for name in pair)
            _ip("-n", source.namespace, "neighbour", "delete", target.address, "dev", "eth0")
            self._cuts.discard(pair)

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for number, host in enumerate(self, 1):
            port = f"port{number}"
            _ip("netns", "add", host.namespace)
            _ip(
                *("-n", self._switch, "link", "add", port, "type", "veth"),
                *("peer", "name", "eth0", "netns", host.namespace),
            )
            _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")


def _existing() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.startswith(f"{_PREFIX}-")]


def _remove(names: Sequence[str]) -> None:
    """Kill what runs in these namespaces and remove them; goes on where one does not let itself be removed."""
    problems = []
    for name in names:
        try:
            _kill_all(name)
            _ip("netns", "delete", name)
        except OSError as error:
            problems.append(str(error))
    if problems:
        raise OSError("; ".join(problems))


def _kill_all(name: str) -> None:
    end = time.monotonic() + _END_S
    while pids := [int(line) for line in _ip("netns", "pids", name).split()]:
        for pid in pids:
            if not _is_zombie(pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has just ended
        if all(map(_is_zombie, pids)) or time.monotonic() > end:
            return
        time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended, and waits to be asked about by its parent or is gone altogether."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _left_over() -> list[str]:
    """The namespaces of programs that no longer run."""
    return [name for name in _existing() if not Path("/proc", name.split("-")[1]).exists()]


@asynccontextmanager
async def open_network(*names: str) -> AsyncIterator[NamespaceNetwork]:
    """Make a host for each name, all on one switch; removed at the end, with whatever runs in them.

    Raises OSError where that cannot be done: ask `available` first.
    """
    if len(set(names)) != len(names) or not 0 < len(names) <= HOSTS_MAX:
        raise ValueError(f"hosts need names of their own, 1 to {HOSTS_MAX} of them")
    await trio.lowlevel.checkpoint()
    with locked(_LOCK):  # what one program removes is no longer there for another that does the same
        _remove(_left_over())
    network = NamespaceNetwork(names)
    try:
        network._make()
        yield network
    finally:
        own = {network._switch, *(host.namespace for host in network)}
        _remove([name for name in _existing() if name in own])
