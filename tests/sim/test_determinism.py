"""The same seed gives the same run: in one process, in another with other hashes, and whatever Trio's names are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from bms.testing import Fault, Scenario, SimWorld, run_deterministic, run_scenario, run_simulation
from bms.testing.determinism import Freezer, check_trio

ROOT = Path(__file__).parents[2]
STORM = ROOT / "tests" / "sim" / "scenarios" / "storm.toml"
SHORT = attrs.evolve(
    Scenario.load(STORM),
    seconds=8.0,
    nodes=4,
    faults=(
        Fault(kind="crash", between=(1, 4), lasts_s=(1, 2)),
        Fault(kind="partition", between=(1, 4), lasts_s=(1, 3)),
        Fault(kind="freeze", between=(1, 4), lasts_s=(1, 3)),
        Fault(kind="power_loss", between=(1, 4), lasts_s=(1, 2)),
    ),
)


def test_trio_still_has_the_names_that_are_its_own() -> None:
    check_trio()

    async def inside() -> None:
        check_trio()

    run_deterministic(inside, seed=1)


def _order(seed: int) -> list[int]:
    seen: list[int] = []

    async def note(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            seen.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(note, number)

    run_deterministic(main, seed=seed)
    return seen


def test_the_order_of_tasks_follows_from_the_seed_and_from_it_alone() -> None:
    assert _order(1) == _order(1)
    assert len({tuple(_order(seed)) for seed in range(5)}) > 1


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    first, again, other = (run_scenario(SHORT, seed) for seed in (3, 3, 4))
    assert first.events > 500
    assert (first.digest, first.lines, first.counts) == (again.digest, again.lines, again.counts)
    assert other.digest != first.digest


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_another_process_with_other_hashes_has_the_same_trace(hash_seed: str) -> None:
    program = (
        "import attrs, pathlib; from bms.testing import *\n"
        f"s = attrs.evolve(Scenario.load(pathlib.Path({str(STORM)!r})), seconds=6.0, nodes=4)\n"
        "print(run_scenario(s, 5).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = run_scenario(attrs.evolve(Scenario.load(STORM), seconds=6.0, nodes=4), 5).digest
    assert done.stdout.split()[-1] == here


def test_a_frozen_task_does_not_run_and_afterwards_does() -> None:
    times: list[float] = []

    async def tick() -> None:
        while True:
            await trio.sleep(1)
            times.append(trio.current_time())

    async def process(*, task_status: trio.TaskStatus[trio.lowlevel.Task]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            task_status.started(trio.lowlevel.current_task())

    async def main() -> None:
        freezer = Freezer()
        async with trio.open_nursery() as nursery:
            root = await nursery.start(process)
            await trio.sleep(2.5)
            freezer.freeze(root)
            await trio.sleep(10)
            assert times == [1, 2]
            freezer.thaw(root)
            await trio.sleep(0.1)
            assert times == [1, 2, 12.5]  # the timer that had run out meanwhile
            await trio.sleep(1)
            assert times == [1, 2, 12.5, 13.5]
            assert freezer.held == 1
            nursery.cancel_scope.cancel()

    run_deterministic(main, seed=0)


def test_a_frozen_task_that_is_cancelled_ends_once_it_runs_again() -> None:
    async def process(*, task_status: trio.TaskStatus[trio.lowlevel.Task]) -> None:
        task_status.started(trio.lowlevel.current_task())
        await trio.sleep_forever()

    async def main() -> float:
        freezer = Freezer()
        async with trio.open_nursery() as nursery:
            root = await nursery.start(process)
            freezer.freeze(root)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            freezer.thaw(root)
        return trio.current_time()

    assert run_deterministic(main, seed=0) == 5


def test_what_a_simulation_returns_and_raises_comes_out() -> None:
    async def returns(sim: SimWorld) -> int:
        return sim.seed

    async def raises(sim: SimWorld) -> None:
        await sim.start_nodes(1)
        raise LookupError("mine")

    assert run_simulation(returns, seed=9) == 9
    with pytest.raises(ExceptionGroup) as caught:
        run_simulation(raises)
    assert caught.group_contains(LookupError)


def test_what_a_program_on_a_host_raises_comes_out_and_keeps_nobody_waiting() -> None:
    async def program() -> None:
        raise LookupError("its own")

    async def main(sim: SimWorld) -> None:
        a, _ = await sim.start_nodes(2)
        a.start_soon(program)
        await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        run_simulation(main)
    assert caught.group_contains(LookupError)
