"""Datagrams whose source address is forged, on real networks: whoever lives at that address is not flooded.

Two nodes, an attacker and a bystander, each a host of a network of namespaces. The attacker hears what passes it, and
sends what it likes with the bystander's address for its source. What comes there is counted at its interface.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from bms.control import ControlClient, open_control
from bms.testing.namespaces import NamespaceHost, NamespaceNetwork, available, open_network
from helpers import PROCESS_S, Program, bms_up, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(available() is not None, reason=f"no raw sockets in a namespace of their own: {available()}"),
]

SPOOFER = Path(__file__).with_name("spoofer.py")
PORT, BYSTANDERS_PORT = 7800, 5300
CHALLENGE_S = 1.0


@attrs.define
class Spoofer:
    """The process that hears and forges on one host."""

    program: Program
    address: str

    async def _ask(self, **command: Any) -> Any:
        assert self.program.process.stdin is not None
        await self.program.process.stdin.send_all(json.dumps(command).encode() + b"\n")
        return json.loads(await self.program.line())

    async def heard(self, source: str, to: str) -> list[bytes]:
        """The datagrams from one host to another that passed here since the last time."""
        found = (await self._ask(heard=True))["heard"]
        return [bytes.fromhex(data) for (by, _), (at, _), data in found if (by, at) == (source, to)]

    async def send_as(self, source: str, to: str, packets: list[bytes]) -> None:
        """Send a node these packets from a port of the host `source`, in portions that its buffer holds."""
        for start in range(0, len(packets), 100):
            portion = [packet.hex() for packet in packets[start : start + 100]]
            await self._ask(send=portion, source=[source, BYSTANDERS_PORT], to=[to, PORT])
            await trio.sleep(0.02)


@attrs.define
class Scene:
    """Node `a` is the target, node `b` the member in whose name the attacker speaks."""

    network: NamespaceNetwork
    controls: list[ControlClient]
    on_b: Spoofer
    attacker: Spoofer
    bystander: Spoofer

    async def captured(self, at: Spoofer, count: int) -> list[bytes]:
        """Packets of b to a, as they pass a host."""
        found: list[bytes] = []
        with trio.fail_after(PROCESS_S):
            while len(found) < count:
                found += await at.heard(self.network["b"].address, self.network["a"].address)
                await trio.sleep(0.1)
        return found

    async def is_well(self) -> None:
        """Wait until both nodes see both alive."""
        with trio.fail_after(PROCESS_S):
            for control in self.controls:
                while [member.state for member in await control.nodes()] != ["alive"] * 2:  # noqa: ASYNC110
                    await trio.sleep(0.1)


@asynccontextmanager
async def spoofer(host: NamespaceHost, folder: Path) -> AsyncIterator[Spoofer]:
    async with running(host.command([sys.executable, SPOOFER]), folder) as program:
        yield Spoofer(program, host.address)
        await program.end_input()
        await program.wait()


@asynccontextmanager
async def scene(home: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        network = await enter(open_network("a", "b", "attacker", "bystander"))
        others = [await enter(spoofer(network[name], home.parent)) for name in ("b", "attacker", "bystander")]
        controls = []
        for name in "ab":
            options = ["--dev", "--name", name, "--set", "enable_discovery=false"]
            options += ["--listen", f"{network[name].address}:{PORT}", "--bootstrap", f"{network['a'].address}:{PORT}"]
            program = await enter(bms_up(home.parent, *options, within=network[name].command))
            controls.append(await enter(open_control(program.control)))
        found = Scene(network, controls, *others)
        await found.is_well()
        yield found
        await found.is_well()


async def test_what_was_seen_before_or_is_forged_is_not_answered_at_a_forged_address(bms_home: Path) -> None:
    chance = random.Random(3)
    async with scene(bms_home) as s:
        a, bystander = s.network["a"].address, s.network["bystander"].address
        seen = await s.captured(s.on_b, 10)
        await s.bystander.heard(a, bystander)
        forged: list[bytes] = []
        for packet, _ in zip(itertools.cycle(seen), range(2000), strict=False):
            counter = chance.randrange(2**40, 2**47).to_bytes(8, "big")
            forged += [
                packet,
                packet[:41] + counter + packet[49:],
                packet[:41] + counter + chance.randbytes(200),
                packet[: chance.randrange(len(packet))],
                packet[:33] + chance.randbytes(8) + packet[41:],
            ]
        await s.attacker.send_as(bystander, a, forged)
        later = await s.captured(s.on_b, 3)  # the two go on with each other
        assert not set(later) & set(seen)
        assert await s.bystander.heard(a, bystander) == []


async def test_what_was_taken_off_the_way_earns_a_forged_address_a_few_packets_and_no_more_than_three_times_the_bytes(
    bms_home: Path,
) -> None:
    """The worst that can be made of a member's packets: they come first, and once, from where the attacker says."""
    async with scene(bms_home) as s:
        a, bystander = s.network["a"].address, s.network["bystander"].address
        await s.attacker.heard(a, bystander)
        s.network.cut_one_way(["b"], ["a"])  # to an Ethernet address that nobody has: the switch sends it to all
        withheld = await s.captured(s.attacker, 3)
        await s.bystander.heard(a, bystander)
        begin = trio.current_time()
        for _ in range(100):
            await s.attacker.send_as(bystander, a, withheld)
        got: list[bytes] = []
        with trio.fail_after(PROCESS_S):
            while not got:
                got += await s.bystander.heard(a, bystander)
        s.network.heal()
        await s.is_well()
        await s.captured(s.on_b, 10)
        got += await s.bystander.heard(a, bystander)
        assert len(got) <= min(len(withheld), 2 + (trio.current_time() - begin) / CHALLENGE_S)
        assert sum(map(len, got)) <= 3 * sum(map(len, withheld))
