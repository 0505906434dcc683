"""The faults of a scenario: each chooses its time and its victims from the seed, strikes, and ends.

    kind                what it does                                                   proof that it fired
    partition           splits the hosts in two                                        it held something up
    partition_one_way   nothing passes from one half to the other                      it held something up
    crash               kills a process, and starts it again                           a node ran there
    power_loss          takes a machine's power; unflushed writes may be lost          a node ran there
    leave               a node leaves as programs do, and comes back                   a node ran there
    freeze              stops a process, and lets it go on                             it wanted to run meanwhile
    clock_skew          sets a clock wrong by up to `amount` s, from the start on      the node read it
    clock_step          sets a clock wrong by up to `amount` s; later back             the node read it
    clock_absent        starts a machine anew with a clock that begins in 1970         the node read it
    disk_full           files cannot grow                                              a write was refused
    disk_slow           every commit takes `amount` s                                  a commit waited
    loss                loses packets on every line with the chance `amount`           a packet was lost
    duplication         lets datagrams arrive twice, with the chance `amount`          a second copy was taken
    reordering          holds datagrams back for the line's `overtaken_s`, likewise    one came behind a later one

`lasts_s` of a fault is how long it lasts; with `stays` it is there until the end: a crashed node does not come back.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from .world import SimHost, SimWorld

__all__ = ["KINDS", "Fault", "FaultRun"]

Restart = Callable[[SimHost], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Fault:
    """`count` faults of one kind, each beginning at a time in `between` and lasting for a time in `lasts_s`, in
    virtual seconds.
    """

    kind: str
    count: int = 1
    between: tuple[float, float] = (0.0, 0.0)
    lasts_s: tuple[float, float] = (1.0, 5.0)
    amount: float = 0.0
    stays: bool = False


class FaultRun:
    """The faults of one run. `fired` says how often each, by its place in the list, really did something."""

    def __init__(self, sim: SimWorld, faults: tuple[Fault, ...], restart: Restart) -> None:
        self.fired: Counter[int] = Counter()
        self.gone: set[SimHost] = set()
        """Hosts that are to stay down."""
        self._sim = sim
        self._faults = faults
        self._restart = restart
        self._busy: set[SimHost] = set()
        self._lines = sim.network.line, dict(sim.network.lines)
        self._spoiling: list[Fault] = []

    async def run(self, seconds: float) -> None:
        """Let all of them happen; returns when the last has ended. Times beyond `seconds` are moved before it."""
        async with trio.open_nursery() as nursery:
            for place, fault in enumerate(self._faults):
                chance = self._sim.chance(f"fault {place}")
                for _ in range(fault.count):
                    begin, end = (min(time, seconds) for time in fault.between)
                    nursery.start_soon(self._strike, place, fault, chance.uniform(begin, end), chance)

    async def _strike(self, place: int, fault: Fault, at: float, chance: random.Random) -> None:
        await trio.sleep(at)
        if fault.kind in LINE_KINDS:
            return await self._spoil(place, fault, chance)
        if fault.kind.startswith("partition"):
            return await self._partition(place, fault, chance)
        host = await self._victim(chance)
        try:
            await KINDS[fault.kind](self, place, fault, host, chance)
        finally:
            self._busy.discard(host)
        return None

    async def _victim(self, chance: random.Random) -> SimHost:
        """A running host that no other fault has."""
        while True:
            hosts = [host for host in self._sim.up() if host not in self._busy]
            if hosts:
                host = chance.choice(hosts)
                self._busy.add(host)
                return host
            await trio.sleep(0.1)

    async def _last(self, fault: Fault, chance: random.Random) -> None:
        await trio.sleep(chance.uniform(*fault.lasts_s))

    # ------------------------------------------------------------------ the network's

    async def _partition(self, place: int, fault: Fault, chance: random.Random) -> None:
        hosts = list(self._sim.hosts.values())
        chance.shuffle(hosts)
        cut = chance.randint(1, max(1, len(hosts) // 2))
        if fault.kind == "partition":
            label = self._sim.partition(hosts[:cut])
        else:
            sides = [hosts[:cut], hosts[cut:]]
            chance.shuffle(sides)
            label = self._sim.partition_one_way(*sides)
        await self._last(fault, chance)
        self._sim.heal(label)
        self.fired[place] += self._sim.fired[label] > 0

    async def _spoil(self, place: int, fault: Fault, chance: random.Random) -> None:
        before = self._sim.fired[fault.kind]
        if not self._spoiling:
            self._lines = self._sim.network.line, dict(self._sim.network.lines)
        self._spoiling.append(fault)
        self._use_lines()
        await self._last(fault, chance)
        self._spoiling.remove(fault)
        self._use_lines()
        self.fired[place] += self._sim.fired[fault.kind] > before

    def _use_lines(self) -> None:
        """The lines as they were before, with what the faults under way do to them."""
        spoilt: dict[str, Any] = {fault.kind: fault.amount for fault in self._spoiling}
        line, lines = self._lines
        self._sim.network.line = attrs.evolve(line, **spoilt)
        self._sim.network.lines = {pair: attrs.evolve(other, **spoilt) for pair, other in lines.items()}

    # ------------------------------------------------------------------ processes and machines

    async def _down(self, place: int, fault: Fault, host: SimHost, chance: random.Random) -> None:
        if fault.kind == "leave":
            await host.stop()
            done = True
        else:
            done = await host.crash(power=fault.kind == "power_loss")
        self.fired[place] += done
        if fault.stays:
            self.gone.add(host)
            return
        await self._last(fault, chance)
        await self._restart(host)

    async def _freeze(self, place: int, fault: Fault, host: SimHost, chance: random.Random) -> None:
        held = self._sim.freezer.held
        if host.freeze():
            await self._last(fault, chance)
            host.thaw()
            self.fired[place] += self._sim.freezer.held > held

    async def _clock(self, place: int, fault: Fault, host: SimHost, chance: random.Random) -> None:
        read = self._sim.fired["clock_offset"] + self._sim.fired["clock_absent"]
        before = host.clock_offset_s
        if fault.kind == "clock_absent":
            await host.crash(power=True)
            host.clock_absent = True
            await self._last(fault, chance)
            await self._restart(host)
        else:
            host.clock_offset_s += chance.uniform(-fault.amount, fault.amount)
        await self._last(fault, chance)
        if fault.kind == "clock_step":
            host.clock_offset_s = before
        self.fired[place] += self._sim.fired["clock_offset"] + self._sim.fired["clock_absent"] > read

    # ------------------------------------------------------------------ disks

    async def _disk(self, place: int, fault: Fault, host: SimHost, chance: random.Random) -> None:
        disk, before = host.disk, self._sim.fired[fault.kind]
        usual = disk.delay_s
        if fault.kind == "disk_full":
            disk.is_full = True
        else:
            disk.is_slow, disk.delay_s = True, (fault.amount, fault.amount)
        await self._last(fault, chance)
        disk.is_full = disk.is_slow = False
        disk.delay_s = usual
        self.fired[place] += self._sim.fired[fault.kind] > before


KINDS: dict[str, Callable[[FaultRun, int, Fault, SimHost, random.Random], Awaitable[None]]] = {
    "crash": FaultRun._down,
    "power_loss": FaultRun._down,
    "leave": FaultRun._down,
    "freeze": FaultRun._freeze,
    "clock_skew": FaultRun._clock,
    "clock_step": FaultRun._clock,
    "clock_absent": FaultRun._clock,
    "disk_full": FaultRun._disk,
    "disk_slow": FaultRun._disk,
}
"""Faults of one host, by name; beside them there are those of `NETWORK_KINDS`."""

LINE_KINDS = ("loss", "duplication", "reordering")
"""Faults that are a field of `Line`."""

NETWORK_KINDS = ("partition", "partition_one_way", *LINE_KINDS)
