"""Faults that datagrams meet in a simulated world: they fire, are counted and end; the same seed gives the same run."""

from __future__ import annotations

import attrs
import trio

from bms.testing import Fault, Line, Scenario, SimHost, SimWorld, run_simulation
from bms.testing.faults import FaultRun
from bms.values import Address
from bms.world import DatagramSocket


def test_a_frozen_process_finds_what_came_meanwhile_and_a_crash_loses_it() -> None:
    got: list[bytes] = []

    async def listen(host: SimHost) -> None:
        bound = await host.net.open_datagrams(Address(host.net.ip, 53))
        while True:
            got.extend(data for data, _ in await bound.receive())

    async def main(sim: SimWorld) -> None:
        a, b = await sim.start_nodes(2)
        near = await a.net.open_datagrams(Address(a.net.ip, 0))
        b.start_soon(listen, b)
        await trio.sleep(1)
        b.freeze()
        await _send(near, b, 20)
        await trio.sleep(5)
        assert got == []
        b.thaw()
        await trio.sleep(1)
        assert [int.from_bytes(data) for data in got] == list(range(20))
        b.freeze()
        await _send(near, b, 20)
        await trio.sleep(1)
        await b.crash()
        await _send(near, b, 20)
        await b.start()
        await trio.sleep(1)
        assert len(got) == 20

    run_simulation(main, seed=2)


async def _send(bound: DatagramSocket, to: SimHost, count: int) -> None:
    for number in range(count):
        assert bound.send_nowait(number.to_bytes(4, "big"), Address(to.net.ip, 53))
        await trio.sleep(0.001)


async def _chatter(sim: SimWorld, count: int = 3, seconds: float = 20.0) -> list[bytes]:
    """Hosts without nodes that send each other packets all the time; all that came."""
    hosts = [sim.add_host() for _ in range(count)]
    got: list[bytes] = []

    async def listen(bound: DatagramSocket) -> None:
        while True:
            got.extend(data for data, _ in await bound.receive())

    async def speak(host: SimHost, bound: DatagramSocket) -> None:
        while True:
            for other in hosts:
                bound.send_nowait(host.chance.randbytes(20), Address(other.net.ip, 53))
            await trio.sleep(0.01)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for host in hosts:
                bound = await host.net.open_datagrams(Address(host.net.ip, 53))
                nursery.start_soon(listen, bound)
                nursery.start_soon(speak, host, bound)
    return got


async def _restart(host: SimHost) -> None:
    raise AssertionError(f"nothing crashes here, {host} neither")


FAULTS = (
    Fault(kind="duplication", amount=0.2, between=(1, 2), lasts_s=(2, 8)),
    Fault(kind="reordering", amount=0.2, between=(1, 3), lasts_s=(2, 8)),
    Fault(kind="loss", amount=0.2, count=2, between=(1, 4), lasts_s=(2, 8)),
    Fault(kind="partition", between=(1, 4), lasts_s=(2, 4)),
)


def _run_with_faults(seed: int, faults: tuple[Fault, ...], chat: bool = True) -> tuple[list[int], SimWorld, int]:
    async def main(sim: SimWorld) -> tuple[list[int], SimWorld, int]:
        sim.line(Line(latency_s=0.01, jitter_s=0.005))
        before = sim.network.line
        run = FaultRun(sim, faults, _restart)
        got: list[bytes] = []

        async def chatter() -> None:
            got.extend(await _chatter(sim))

        async with trio.open_nursery() as nursery:
            if chat:
                nursery.start_soon(chatter)
                await trio.lowlevel.checkpoint()
            await run.run(20.0)
        assert sim.network.line == before, "a fault left something behind"
        return [run.fired[place] for place in range(len(faults))], sim, len(got)

    return run_simulation(main, seed=seed)


def test_faults_of_datagrams_fire_are_counted_and_end() -> None:
    fired, sim, got = _run_with_faults(1, FAULTS)
    assert fired == [1, 1, 2, 1]
    assert all(sim.fired[kind] > 20 for kind in ("duplication", "reordering", "loss"))
    assert got > 10_000


def test_faults_that_met_no_datagram_did_not_fire() -> None:
    fired, _, _ = _run_with_faults(1, FAULTS[:3], chat=False)
    assert fired == [0, 0, 0]


def test_the_same_seed_gives_the_same_packets_and_another_others() -> None:
    first, again, other = (_run_with_faults(seed, FAULTS)[1] for seed in (3, 3, 4))
    assert first.trace.events > 10_000
    assert (first.trace.digest, first.fired) == (again.trace.digest, again.fired)
    assert first.trace.digest != other.trace.digest


def test_a_line_with_every_field_can_be_written_in_a_scenario() -> None:
    line = {"duplication": 0.1, "reordering": 0.2, "overtaken_s": 0.3}
    faults = [{"kind": "duplication", "amount": 0.1}, {"kind": "reordering", "amount": 0.1}]
    scenario = Scenario.parse({"name": "x", "line": line, "faults": faults})
    assert attrs.evolve(Line(), duplication=0.1, reordering=0.2, overtaken_s=0.3) == scenario.line
    assert [fault.kind for fault in scenario.faults] == ["duplication", "reordering"]
