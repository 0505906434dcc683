"""Real nodes on bad networks: cut off in network namespaces, frozen, and linked through a proxy that stalls and cuts.

Each test shows that its fault was met: a node that nobody missed was not cut off.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from bms.control import ControlClient, open_control
from bms.errors import DeliveryError, UnreachableError
from bms.testing.namespaces import NamespaceHost, available, open_network
from bms.testing.network import Line
from bms.testing.proxy import TcpProxy, open_proxy
from bms.values import Message, key_bytes
from helpers import PROCESS_S, ROOT, bms_up

pytestmark = pytest.mark.e2e

SEED = int(os.environ.get("BAD_NETWORK_SEED", "7"))

needs_namespaces = pytest.mark.skipif(available() is not None, reason=str(available()))


@attrs.define(eq=False)
class Node:
    """A `bms up` and the way to ask it."""

    name: str
    process: trio.Process
    control: ControlClient
    node_id: str
    address: str


async def until(condition: Callable[[], Awaitable[bool]]) -> float:
    """Ask again and again until the awaited answer is true; the seconds it took."""
    begin = trio.current_time()
    with trio.fail_after(PROCESS_S):
        while not await condition():  # noqa: ASYNC110 - it is known by asking
            await trio.sleep(0.05)
    return trio.current_time() - begin


@asynccontextmanager
async def running(
    home: Path, name: str, arguments: Sequence[str], host: NamespaceHost | None = None
) -> AsyncIterator[Node]:
    """Run a development node for the body; it must still be well at the end, and leave by itself."""
    options = ("--dev", "--name", name, "--set", "enable_discovery=false", *arguments)
    within = list if host is None else host.command
    async with bms_up(home.parent, *options, within=within) as program, open_control(program.control) as control:
        yield Node(name, program.process, control, program.ready["node_id"], program.ready["address"])


def say(text: str) -> None:
    """What was measured; pytest shows it with -s, and when the test fails."""
    print(text)  # noqa: T201


async def sees(node: Node, other: Node) -> str | None:
    """The state in which a node sees another."""
    found = [member.state for member in await node.control.nodes() if member.node_id == other.node_id]
    return str(found[0]) if found else None


async def all_alive(nodes: Sequence[Node]) -> bool:
    """Whether each sees each alive."""
    return all([await sees(node, other) == "alive" for node in nodes for other in nodes])


async def are_equal(nodes: Sequence[Node]) -> bool:
    """Whether all hold the same."""
    return len({(await node.control.status()).fingerprint for node in nodes}) == 1


async def content(node: Node) -> dict[str, bytes]:
    """Every key and value that a node holds."""
    found = {}
    async with node.control.ls() as rows:
        keys = [key_bytes(row.key) async for row in rows]
    for key in keys:
        found[key.decode()] = (await node.control.get(key)).value
    return found


async def write(node: Node, prefix: str, seconds: float, written: dict[str, bytes], at_least: int = 0) -> None:
    """Put one numbered key after another, so many `at_least`; what was acknowledged is noted."""
    begin, number = trio.current_time(), 0
    with trio.fail_after(PROCESS_S):
        while number < at_least or trio.current_time() < begin + seconds:
            key, value = f"{prefix}/{node.name}/{number}", f"{number} of {node.name}".encode() * (number % 50)
            await node.control.put(key, value)
            written[key] = value
            number += 1
            await trio.sleep(0.05)


@asynccontextmanager
async def three_on_a_switch(
    home: Path,
) -> AsyncIterator[tuple[list[Node], Callable[[list[str]], None], Callable[[], None]]]:
    """Three nodes in namespaces, all linked; how to cut some off, and how to heal."""
    names = ["a", "b", "c"]
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(open_network(*names))
        nodes = []
        for name in names:
            others = [f"{host.address}:7800" for host in network if host.name != name]
            arguments = ["--listen", f"{network[name].address}:7800"]
            arguments += [part for other in others for part in ("--bootstrap", other)]
            nodes.append(await stack.enter_async_context(running(home, name, arguments, network[name])))
        await until(lambda: all_alive(nodes))
        yield nodes, network.cut, network.heal


@needs_namespaces
async def test_a_node_that_was_cut_off_while_all_write_becomes_equal_again(bms_home: Path) -> None:
    written: dict[str, bytes] = {}
    async with three_on_a_switch(bms_home) as (nodes, cut, heal):
        a, b, c = nodes
        cut(["c"])
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(write, node, "apart", 6.0, written)
        await until(lambda: missed(a, c))
        await until(lambda: missed(c, b))
        await until(lambda: all_alive([a, b]))
        assert not await are_equal([a, c])
        heal()
        equal_s = await until(lambda: are_equal(nodes))
        alive_s = await until(lambda: all_alive(nodes))
        say(f"healed: equal after {equal_s:.1f} s, all alive {alive_s:.1f} s later; {len(written)} writes")
        for node in nodes:
            assert await content(node) == written


@needs_namespaces
async def test_a_node_that_nobody_hears_is_missed_though_it_hears_all(bms_home: Path) -> None:
    async with open_network("a", "b") as network:
        async with AsyncExitStack() as stack:
            nodes = []
            for name, other in (("a", "b"), ("b", "a")):
                arguments = (
                    "--listen",
                    f"{network[name].address}:7800",
                    "--bootstrap",
                    f"{network[other].address}:7800",
                )
                nodes.append(await stack.enter_async_context(running(bms_home, name, arguments, network[name])))
            a, b = nodes
            await until(lambda: all_alive(nodes))
            network.cut_one_way(["b"], ["a"])
            await until(lambda: missed(a, b))
            await a.control.put("k", b"v")
            network.heal()
            equal_s = await until(lambda: are_equal(nodes))
            alive_s = await until(lambda: all_alive(nodes))
            say(f"healed: equal after {equal_s:.1f} s, both alive {alive_s:.1f} s later")


async def missed(node: Node, other: Node) -> bool:
    """Whether a node no longer sees another alive."""
    return await sees(node, other) != "alive"


async def test_a_frozen_node_is_missed_and_comes_back_equal(bms_home: Path) -> None:
    written: dict[str, bytes] = {}
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for name in ("a", "b", "c"):
            bootstrap = [
                part for node in nodes for part in ("--bootstrap", (await node.control.status()).address or "")
            ]
            nodes.append(await stack.enter_async_context(running(bms_home, name, bootstrap)))
        a, b, c = nodes
        await until(lambda: all_alive(nodes))
        await write(c, "before", 0.5, written)
        c.process.send_signal(signal.SIGSTOP)
        frozen_at = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                for node in (a, b):
                    nursery.start_soon(write, node, "frozen", 7.0, written)
                missed_s = await until(lambda: missed(a, c))
                await until(lambda: missed(b, c))
            await trio.sleep_until(frozen_at + 8)
            await until(lambda: all_alive([a, b]))
        finally:
            c.process.send_signal(signal.SIGCONT)
        equal_s = await until(lambda: are_equal(nodes))
        alive_s = await until(lambda: all_alive(nodes))
        say(f"frozen: missed after {missed_s:.1f} s; thawed: equal after {equal_s:.1f} s, alive {alive_s:.1f} s later")
        for node in nodes:
            assert await content(node) == written


MESSAGES = 300
PUTS = 200
CUTS_S = 10.0


@attrs.define
class Mail:
    """What one node sent to another: numbers by what became of them, and those that arrived, in order."""

    acknowledged: set[int] = attrs.field(factory=set)
    unknown: set[int] = attrs.field(factory=set)
    unsent: set[int] = attrs.field(factory=set)
    arrived: list[int] = attrs.field(factory=list)


async def send_all(node: Node, to: Node, mail: Mail, count: int) -> None:
    """Send numbered messages, a few at once, over the time of the cuts."""

    async def send(number: int) -> None:
        try:
            await node.control.send(to.node_id, str(number).encode(), "numbers", deadline_s=20.0)
        except DeliveryError:
            mail.unknown.add(number)
        except UnreachableError:
            mail.unsent.add(number)
        else:
            mail.acknowledged.add(number)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(send, number)
            await trio.sleep(CUTS_S / count)


async def hear_all(node: Node, mail: Mail, task_status: trio.TaskStatus[None]) -> None:
    """Take down what arrives."""
    async with node.control.listen("numbers") as messages:
        task_status.started()
        async for message in messages:
            assert isinstance(message, Message)
            mail.arrived.append(int(message.body))


async def cut_often(proxies: Sequence[TcpProxy]) -> int:
    """Cut every two seconds, each time in another way; how many connections were cut."""
    cuts = 0
    for tell in ("both", "nobody", "client", "both", "target"):
        await trio.sleep(CUTS_S / 5)
        cuts += sum(proxy.cut(tell) for proxy in proxies)
    return cuts


@asynccontextmanager
async def pair_through_proxies(home: Path) -> AsyncIterator[tuple[list[Node], list[TcpProxy]]]:
    """Two nodes that know each other only by the addresses of proxies, and soon give a silent link up."""
    brisk = ["--set", "gossip.keepalive_interval_s=0.5", "--set", "gossip.keepalive_timeout_s=2"]
    line = Line(latency_s=0.05, jitter_s=0.01, loss=0.01)
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(open_proxy(None, seed=SEED + n, line=line)) for n in range(2)]
        nodes = []
        for name, own, other in (("a", proxies[0], proxies[1]), ("b", proxies[1], proxies[0])):
            arguments = ["--set", f"advertise_address={own.address}", "--bootstrap", str(other.address), *brisk]
            node = await stack.enter_async_context(running(home, name, arguments))
            own.target = node.address
            nodes.append(node)
        await until(lambda: all_alive(nodes))
        yield nodes, proxies


async def test_through_stalls_and_cuts_each_acknowledged_message_arrives_once_and_all_become_equal(
    bms_home: Path,
) -> None:
    written: dict[str, bytes] = {}
    mails = [Mail(), Mail()]
    async with pair_through_proxies(bms_home) as ((a, b), proxies):
        async with trio.open_nursery() as hearing:
            await hearing.start(hear_all, b, mails[0])
            await hearing.start(hear_all, a, mails[1])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut_often, proxies)
                for node, to, mail in ((a, b, mails[0]), (b, a, mails[1])):
                    nursery.start_soon(send_all, node, to, mail, MESSAGES // 2)
                    nursery.start_soon(write, node, "cut", CUTS_S, written, PUTS // 2)
            equal_s = await until(lambda: are_equal([a, b]))
            alive_s = await until(lambda: all_alive([a, b]))

            async def all_heard() -> bool:
                await trio.lowlevel.checkpoint()
                return all(mail.acknowledged <= set(mail.arrived) for mail in mails)

            await until(all_heard)
            hearing.cancel_scope.cancel()
        fired = proxies[0].fired + proxies[1].fired
        say(f"seed {SEED}: {dict(fired)}; equal after {equal_s:.1f} s, alive {alive_s:.1f} s later")
        for mail in mails:
            say(f"acknowledged {len(mail.acknowledged)}, unknown {sorted(mail.unknown)}, unsent {sorted(mail.unsent)}")
            assert len(mail.arrived) == len(set(mail.arrived)), "a message arrived twice"
            assert mail.acknowledged <= set(mail.arrived) <= mail.acknowledged | mail.unknown
            assert len(mail.acknowledged) >= MESSAGES // 4
        assert fired["cut"] >= 3
        assert fired["stall"] >= 1
        for node in (a, b):
            assert await content(node) == written


@needs_namespaces
async def test_nothing_of_a_network_is_left_however_it_ends() -> None:
    ended: list[trio.Process] = []
    made: set[str] = set()

    async def fail() -> None:
        async with open_network("a", "b") as network:
            ended.extend([await host.open_process(["sleep", "600"]) for host in network])
            made.update(host.namespace for host in network)
            assert made <= namespaces()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not namespaces() & made
    for process in ended:
        assert await process.wait() == -signal.SIGKILL


@needs_namespaces
async def test_what_a_killed_program_left_is_removed_by_the_next_one() -> None:
    program = (
        "import os, signal, subprocess, trio\n"
        "from bms.testing.namespaces import open_network\n"
        "async def main():\n"
        "    async with open_network('a') as network:\n"
        "        await network['a'].open_process(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
        "        while not network['a'].pids(): await trio.sleep(0.01)\n"
        "        print(network['a'].namespace, *network['a'].pids(), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-c", program]
    done = await trio.run_process(
        command, capture_stdout=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    name, *pids = done.stdout.decode().split()
    assert done.returncode == -signal.SIGKILL  # it left them: or else another run of these tests is the next one
    async with open_network("a"):
        assert name not in namespaces()
    assert pids
    assert not [pid for pid in pids if is_running(int(pid))]


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def namespaces() -> set[str]:
    """The network namespaces of this machine that have names."""
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in found.splitlines()}
