"""Runs scenarios, judges them, and makes a failure small.

A run goes: the nodes start and join; workload and faults for `seconds`; then everything is repaired (partitions healed,
processes thawed, crashed nodes started, disks emptied), nothing new is begun, and within `calm_s` the checkers must be
content; what they still find then are the violations. A configured fault that never did anything, a checker that judged
nothing, and a node that cannot start or join are violations, too.

`shrink` looks for a smaller scenario in which the same checker finds something with the same seed: without one of the
faults, for half the time, with fewer nodes. What it finds is again a command.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import trio

from ..errors import MeshError
from .checkers import CHECKERS, Evidence, Violation, cursors_are_true
from .faults import FaultRun
from .scenario import Scenario
from .workload import WorkloadRun
from .world import SimHost, SimWorld, run_simulation

__all__ = ["Result", "Variant", "run_scenario", "shrink"]

_JOIN_S = 60.0
_TOLD_MAX = 5


@attrs.frozen(kw_only=True)
class Result:
    """What a run came to. `fired` counts what each fault, by its place and kind, really did; times in seconds."""

    scenario: str
    seed: int
    violations: tuple[Violation, ...]
    fired: dict[str, int]
    judged: dict[str, int]
    counts: dict[str, int]
    events: int
    digest: str
    virtual_s: float
    calm_s: float
    cpu_s: float
    lines: tuple[str, ...] = attrs.field(repr=False)

    @property
    def is_ok(self) -> bool:
        """Whether nothing was violated."""
        return not self.violations


class _Run:
    """One run in one world."""

    def __init__(self, sim: SimWorld, scenario: Scenario) -> None:
        self.sim = sim
        self.scenario = scenario
        self.work = WorkloadRun(sim, scenario.workload)
        self.faults = FaultRun(sim, scenario.faults, self.start)
        self.evidence = Evidence(sim, self.work.history, self.faults.gone)
        self.violations: list[Violation] = []
        self.calm_s = 0.0
        self._stores: object = None

    async def start(self, host: SimHost) -> None:
        """Start a node, and its part of the workload."""
        try:
            await host.start()
        except MeshError as error:
            self._violate("start", f"{host.name} cannot start: {error}")
        else:
            self.work.start(host)

    def _violate(self, checker: str, text: str) -> None:
        violation = Violation(checker, text)
        told = [other for other in self.violations if other.checker == checker]
        if violation not in told and len(told) < _TOLD_MAX:
            self.violations.append(violation)
            self.sim.trace.note(f"violation {checker} {text}")

    async def run(self) -> None:
        sim, scenario = self.sim, self.scenario
        sim.line(scenario.line)
        hosts = [sim.add_host(**scenario.config) for _ in range(scenario.nodes)]
        for host in hosts:
            host.disk.delay_s = scenario.commit_s
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(self.start, host)
        try:
            await sim.until_joined(_JOIN_S)
        except trio.TooSlowError:
            self._violate("join", f"not all of {scenario.nodes} nodes see each other after {_JOIN_S:g} s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_forever)
            async with trio.open_nursery() as both:
                both.start_soon(trio.sleep, scenario.seconds)
                both.start_soon(self.faults.run, scenario.seconds)
            await self._calm()
            nursery.cancel_scope.cancel()
        self._judge()

    async def _probe_forever(self) -> None:
        while True:
            await trio.sleep(self.scenario.probe_s)
            self._probe()

    def _probe(self) -> None:
        """Look at what must be true at every instant, where something has changed."""
        stores = [(host.name, host.mesh.data_summary()) for host in self.sim.up()]
        if stores != self._stores:
            self._stores = stores
            for text in cursors_are_true(self.evidence):
                self._violate("cursors_are_true", text)

    async def _calm(self) -> None:
        """Repair everything, and wait until the checkers are content."""
        sim = self.sim
        self.work.stop()
        sim.heal()
        for host in sim.hosts.values():
            host.thaw()
            if not host.is_up and host not in self.faults.gone:
                await self.start(host)
        begun = trio.current_time()
        await trio.sleep(self.scenario.workload.deadline_s)
        while trio.current_time() - begun < self.scenario.calm_s:
            if self._is_settled() and not any(self._findings()):
                break
            await trio.sleep(1.0)
        self.calm_s = trio.current_time() - begun

    def _is_settled(self) -> bool:
        prints = {host.mesh.data_summary().fingerprint for host in self.sim.up()}
        return len(prints) <= 1

    def _findings(self) -> Iterator[Violation]:
        self.evidence.read()
        self.evidence.judged = Counter(cursors_are_true=self.evidence.judged["cursors_are_true"])
        for name in self.scenario.checkers:
            for text in CHECKERS[name](self.evidence):
                yield Violation(name, text)

    def _judge(self) -> None:
        self._probe()
        for violation in self._findings():
            self._violate(violation.checker, violation.text)
        for name in self.scenario.checkers:
            if not self.evidence.judged[name] and _has_something_for(name, self.scenario):
                self._violate("judged", f"{name} judged nothing: the run proves nothing about it")
        for place, fault in enumerate(self.scenario.faults):
            if not self.faults.fired[place]:
                self._violate("fired", f"fault {place} ({fault.kind}) never did anything: the run proves nothing")


def _has_something_for(checker: str, scenario: Scenario) -> bool:
    writes, messages = scenario.workload.writes_per_s > 0, scenario.workload.messages_per_s > 0
    if scenario.nodes < 2:
        messages = False
    needs = {
        "acknowledged_is_kept": writes,
        "deleted_stays_deleted": False,  # whether a key ends deleted is left to chance
        "linearizable": scenario.workload.races_per_s > 0,
        "replicas_are_equal": writes and scenario.nodes > 1,
        "at_most_once": messages,
    }
    return needs.get(checker, True)


def run_scenario(scenario: Scenario, seed: int, *, trace_lines: int | None = 200) -> Result:
    """Run a scenario with a seed, on virtual time, and judge it."""
    begun = time.process_time()

    async def main(sim: SimWorld) -> Result:
        run = _Run(sim, scenario)
        await run.run()
        kinds = {f"{place} {fault.kind}": run.faults.fired[place] for place, fault in enumerate(scenario.faults)}
        return Result(
            scenario=scenario.name, seed=seed, violations=tuple(run.violations), fired=kinds,
            judged=dict(run.evidence.judged), counts=run.work.history.count(), events=sim.trace.events,
            digest=sim.trace.digest, virtual_s=trio.current_time(), calm_s=run.calm_s,
            cpu_s=time.process_time() - begun, lines=tuple(sim.trace.lines),
        )  # fmt: skip

    return run_simulation(main, seed=seed, trace_lines=trace_lines)


# --- making a failure small


@attrs.frozen(kw_only=True)
class Variant:
    """A scenario file with something changed, as the command line can say it."""

    path: Path
    nodes: int | None = None
    seconds: float | None = None
    dropped: tuple[int, ...] = ()

    def scenario(self) -> Scenario:
        """The scenario that it means."""
        scenario = Scenario.load(self.path)
        kept = tuple(fault for place, fault in enumerate(scenario.faults) if place not in self.dropped)
        nodes = scenario.nodes if self.nodes is None else self.nodes
        seconds = scenario.seconds if self.seconds is None else self.seconds
        return attrs.evolve(scenario, faults=kept, nodes=nodes, seconds=seconds)

    def command(self, seed: int) -> str:
        """The command that runs it with a seed."""
        words = ["python", "-m", "bms.testing", str(self.path), "--seed", str(seed)]
        words += [] if self.nodes is None else ["--nodes", str(self.nodes)]
        words += [] if self.seconds is None else ["--seconds", f"{self.seconds:g}"]
        for place in self.dropped:
            words += ["--drop", str(place)]
        return shlex.join(words)

    def smaller(self) -> Iterator[Variant]:
        """Those that are one step smaller."""
        scenario = Scenario.load(self.path)
        for place in range(len(scenario.faults)):
            if place not in self.dropped:
                yield attrs.evolve(self, dropped=tuple(sorted([*self.dropped, place])))
        nodes = scenario.nodes if self.nodes is None else self.nodes
        seconds = scenario.seconds if self.seconds is None else self.seconds
        if nodes > 2:
            yield attrs.evolve(self, nodes=max(2, nodes // 2))
            yield attrs.evolve(self, nodes=nodes - 1)
        if seconds > 2:
            yield attrs.evolve(self, seconds=seconds / 2)


def shrink(
    variant: Variant,
    failure: Result,
    *,
    runs_max: int = 60,
    run: Callable[[Scenario, int], Result] = run_scenario,
) -> tuple[Variant, Result]:
    """The smallest variant found, in at most `runs_max` runs, in which one of the same checkers finds something."""
    wanted = {violation.checker for violation in failure.violations}
    tried: set[Variant] = {variant}
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in variant.smaller():
            if candidate in tried or len(tried) > runs_max:
                continue
            tried.add(candidate)
            result = run(candidate.scenario(), failure.seed)
            if wanted & {violation.checker for violation in result.violations}:
                variant, failure, is_smaller = candidate, result, True
                break
    return variant, failure
