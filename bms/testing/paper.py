"""The published experiments on failure detectors, repeated: `python -m bms.testing.paper`, `nox -s paper`.

Each experiment runs `Swarm` over a number of seeds and gives lines: what was measured, the target of this project, what
the paper or another implementation has, and the median. Everything is in virtual time, so it is the same on any
machine; docs/reference/membership-figures.md has a run's results and says in what the rigs differ.

    threshold     Dadgar, Phillips, Currey: "Lifeguard" (DSN-W 2018), section V: N = 128, C members blocked for 32.768 s
    crash         how soon one node of N is known to be dead: to the first, to all
    update        how soon all have heard what one node says of itself
    load          bytes a second a node sends when nothing happens
    join          2,000 nodes that know one other each, at once
    split         ten minutes in two halves
    sick          Suresh et al.: "Rapid" (ATC 2018), section 7: 80% loss, one-way losses that come and go, at 1% of N
    large         a crash among 10,000
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import attrs
import click

from ..membership.tuning import SWIM, Tuning
from ..values import NodeId, NodeState
from .swarm import Swarm, SwarmNode

__all__ = [
    "EXPERIMENTS",
    "Line",
    "crash",
    "join",
    "large",
    "load",
    "main",
    "sick",
    "split",
    "threshold",
    "update",
]

_BLOCK_S = 32.768
_BLOCKED = (1, 4, 8, 12, 16, 20, 24, 28, 32)


@attrs.frozen
class Line:
    """One row of the table."""

    what: str
    target: str
    published: str
    measured: str
    runs: int


def _calm(count: int, seed: int, tuning: Tuning, seconds: float = 5.0) -> Swarm:
    """Nodes that know each other and have run for a while."""
    swarm = Swarm(count, seed=seed, tuning=tuning)
    swarm.acquaint()
    swarm.run(seconds)
    return swarm


def _times(values: Iterable[float]) -> str:
    """Median and 99th percentile, in seconds."""
    ordered = sorted(values)
    return f"{statistics.median(ordered):.2f} s (99%: {ordered[math.ceil(0.99 * len(ordered)) - 1]:.2f})"


# ---------------------------------------------------------------------- Lifeguard


@attrs.define
class _Blocked:
    """What runs of the threshold rig with one tuning have given."""

    runs: int = 0
    first: list[float] = attrs.Factory(list)
    full: list[float] = attrs.Factory(list)
    wrong: int = 0
    wrong_at_healthy: int = 0
    packets: int = 0
    sent_bytes: int = 0
    undetected: int = 0

    def run(self, seed: int, count: int, tuning: Tuning) -> None:
        """Block `count` of 128 members, and wait until all is calm again."""
        swarm = _calm(128, seed, tuning)
        bad = swarm.chance.sample(swarm.nodes, count)
        packets, sent_bytes, start = sum(node.packets for node in swarm.nodes), swarm.bytes_sent(), swarm.heap.now
        for node in bad:
            swarm.block(node, _BLOCK_S)
        swarm.run(_BLOCK_S + 30)
        self.runs += 1
        self.packets += sum(node.packets for node in swarm.nodes) - packets
        self.sent_bytes += swarm.bytes_sent() - sent_bytes
        at: dict[NodeId, list[float]] = {node.node_id: [] for node in bad}
        for node in swarm.nodes:
            seen: set[NodeId] = set()
            for when, what, whom, _ in node.events:
                if what != "failed":
                    continue
                if whom not in at:
                    self.wrong += 1
                    self.wrong_at_healthy += node.node_id not in at
                elif node.node_id not in at and when <= start + _BLOCK_S and whom not in seen:
                    seen.add(whom)
                    at[whom].append(when - start)
        self.first += [min(times) for times in at.values() if times]
        self.full += [max(times) for times in at.values() if len(times) == 128 - count]
        self.undetected += sum(len(times) < 128 - count for times in at.values())


def threshold(seeds: int) -> Iterator[Line]:
    """Lifeguard's threshold experiment, and how often healthy members are held for dead meanwhile."""
    base = _Blocked()
    for name, tuning in (("SWIM", SWIM), ("α=4 β=6", Tuning()), ("α=3 β=6", Tuning(alpha=3.0))):
        result = base if tuning is SWIM else _Blocked()
        for seed in range(max(1, seeds // 3) if tuning is SWIM else seeds):
            for count in _BLOCKED:
                result.run(seed, count, tuning)
        yield from _threshold_lines(name, result, base)


def _threshold_lines(name: str, result: _Blocked, base: _Blocked) -> Iterator[Line]:
    targets = ("≤ 10.4 s", "≤ 10.9 s", "≤ 3.2%", "≤ 4.8%", "≤ 110%") if name.startswith("α=4") else ("",) * 5

    def share(mine: int, its: int) -> str:
        per_run = mine / result.runs
        return f"{100 * per_run * base.runs / its if its else 0:.3f}% of SWIM's, {per_run:.2f} a run"

    measured = (
        ("first detection", _times(result.first)),
        ("known to all healthy", f"{_times(result.full)}, {result.undetected} not in time"),
        ("false positives", share(result.wrong, base.wrong)),
        ("false positives at healthy", share(result.wrong_at_healthy, base.wrong_at_healthy)),
        ("datagrams", share(result.packets, base.packets)),
    )
    for (what, figure), target in zip(measured, targets, strict=True):
        yield Line(f"128 nodes, C blocked, {name}: {what}", target, "", figure, result.runs)


# ---------------------------------------------------------------------- one thing happens


def _crash(count: int, seed: int, tuning: Tuning) -> tuple[float, float, int]:
    """Until the first and the last other node hold a crashed one for dead; how many were held so wrongly."""
    swarm = _calm(count, seed, tuning)
    victim = swarm.chance.choice(swarm.nodes)
    start = swarm.heap.now
    swarm.crash(victim)
    others = [node for node in swarm.nodes if node is not victim]
    swarm.run_until(lambda: all(not node.swim.is_present(victim.node_id) for node in others), 120)
    events = [event for node in others for event in node.events if event[1] == "failed"]
    times = [when - start for when, _, whom, _ in events if whom == victim.node_id]
    return min(times), max(times), len(events) - len(times)


def crash(seeds: int) -> Iterator[Line]:
    """One node of 10, 100 and 1,000 crashes, with nobody linked to it."""
    for count, target in ((10, "4.7"), (100, "7.7"), (1000, "10.6")):
        for alpha in (3.0, 4.0):
            # When somebody's turn comes differs by a second from run to run: the median of 20 would err by 0.2 s.
            results = [_crash(count, seed, Tuning(alpha=alpha)) for seed in range(seeds * 5)]
            what = f"crash at N = {count}, α={alpha:g}"
            least = alpha * max(1.0, math.log10(count))
            yield Line(
                f"{what}: first", f"≤ {target}" if alpha == 3 else "", f"shortest suspicion {least:.1f} s",
                _times(first for first, _, _ in results), len(results),
            )  # fmt: skip
            wrong = sum(wrong for _, _, wrong in results)
            yield Line(f"{what}: all", "", "", f"{_times(last for _, last, _ in results)}, {wrong} wrong", len(results))


def _update(seed: int, loss: float) -> tuple[float, int, int]:
    """Until all have heard; how many had missed it when gossip was over, and after each has compared its view once."""
    swarm = _calm(1000, seed, Tuning(), 1.0)
    swarm.loss = loss
    word = swarm.update(swarm.chance.choice(swarm.nodes))
    subject, start = word.node_id, swarm.heap.now

    def missing() -> int:
        others = (node.swim.known[subject] for node in swarm.nodes if node.node_id != subject)
        return sum(held.point < word.point for held in others)

    while missing() and swarm.heap.now < start + 5:
        swarm.run(0.02)
    took, missed = swarm.heap.now - start, missing()
    if missed:
        swarm.loss = 0.0
        swarm.run(1.25 * swarm.tuning.sync_interval_s)
    return took, missed, missing()


def update(seeds: int) -> Iterator[Line]:
    """One node of 1,000 says something new."""
    for loss, target in ((0.0, "≤ 1.1 s"), (0.25, "≤ 1.4 s")):
        results = [_update(seed, loss) for seed in range(seeds)]
        missed, lost = sum(result[1] for result in results), sum(result[2] for result in results)
        measured = f"{_times(result[0] for result in results)}; {missed} missed by gossip, {lost} after one comparison"
        yield Line(f"update to all at N = 1000, {loss:.0%} loss", f"{target}, none missed", "", measured, len(results))


def load(seeds: int) -> Iterator[Line]:
    """What 1,000 nodes send while nothing happens."""
    rates = []
    for seed in range(seeds):
        swarm = _calm(1000, seed, Tuning())
        before = swarm.bytes_sent()
        swarm.run(30)
        rates.append((swarm.bytes_sent() - before) / 30 / 1000)
    measured = f"{statistics.median(rates) / 1000:.3f} KB/s"
    yield Line("load of a node at N = 1000", "≤ 0.64 KB/s", "", measured, len(rates))


# ---------------------------------------------------------------------- much happens


def _join(count: int, seed: int) -> float:
    swarm = Swarm(count, seed=seed)
    swarm.start(swarm.nodes[0])
    for node in swarm.nodes[1:]:
        swarm.heap.after(swarm.chance.random(), swarm.join, node, swarm.nodes[0])
    return swarm.run_until(lambda: all(node.swim.present == count - 1 for node in swarm.nodes), 300, step_s=0.5)


def join(seeds: int) -> Iterator[Line]:
    """2,000 nodes join within a second through one."""
    times = [_join(2000, seed) for seed in range(seeds)]
    yield Line("join storm of 2,000", "≤ 40 s", "memberlist 95 s", _times(times), len(times))


def _split(seed: int) -> float:
    swarm = _calm(100, seed, Tuning())
    for node in swarm.nodes[50:]:
        node.group = 1
    swarm.run(600)
    for node in swarm.nodes:
        node.group = 0
    return swarm.run_until(swarm.views_right, 600, step_s=0.5)


def split(seeds: int) -> Iterator[Line]:
    """Two halves of 100 do not hear each other for ten minutes; how long until all see all again."""
    times = [_split(seed) for seed in range(seeds)]
    yield Line("split of ten minutes at N = 100 heals", "≤ 60 s", "memberlist never", _times(times), len(times))


def _flip(swarm: Swarm, node: SwarmNode) -> None:
    node.loss_in = 1.0 - node.loss_in
    swarm.heap.after(20.0, _flip, swarm, node)


def _sick(count: int, seed: int, flips: bool) -> tuple[float, float, float, int]:
    """Until the sick are gone for good; the part of views that have them at the end; returns by view; wrongly gone."""
    swarm = _calm(count, seed, Tuning())
    sick = {node.node_id: node for node in swarm.chance.sample(swarm.nodes, count // 100)}
    start = swarm.heap.now
    for node in sick.values():
        if flips:
            _flip(swarm, node)
        else:
            node.loss_out = 0.8
    swarm.run(600)
    healthy = [node for node in swarm.nodes if node.node_id not in sick]
    removed, returns, wrong = start, 0, 0
    for node in healthy:
        gone: set[NodeId] = set()
        for when, what, whom, _ in node.events:
            if what == "failed" and whom in sick:
                removed = max(removed, when)
                gone.add(whom)
            elif what == "joined" and whom in gone:
                returns += 1
            wrong += what == "failed" and whom not in sick
    views = [node.swim.state(node_id) for node in healthy for node_id in sick]
    there = sum(state is not NodeState.FAILED for state in views) / len(views)
    return removed - start, there, returns / len(views), wrong


def sick(seeds: int) -> Iterator[Line]:
    """1% of 500 nodes lose 80% of what they send, or hear nothing for 20 of every 40 s, for ten minutes."""
    for name, flips in (("80% of what they send lost", False), ("all that arrives lost for 20 of 40 s", True)):
        results = [_sick(500, seed, flips) for seed in range(seeds)]
        removed = _times(result[0] for result in results)
        there, returns = max(result[1] for result in results), statistics.mean(result[2] for result in results)
        wrong = sum(result[3] for result in results)
        measured = f"gone for good after {removed}, {returns:.2f} returns before; {there:.1%} at the end; {wrong} wrong"
        yield Line(
            f"1% of 500 nodes: {name}", "removed, no oscillation", "Rapid removes them, memberlist oscillates",
            measured, len(results),
        )  # fmt: skip


def large(seeds: int) -> Iterator[Line]:
    """One node of 10,000 crashes."""
    started, results = time.process_time(), []
    for seed in range(seeds):
        results.append(_crash(10_000, seed, Tuning()))
        gc.collect()  # 3.9 GB of nodes that refer to one another
    spent = (time.process_time() - started) / seeds
    firsts, lasts = _times(first for first, _, _ in results), _times(last for _, last, _ in results)
    wrong = sum(wrong for _, _, wrong in results)
    measured = f"first {firsts}, all {lasts}, {wrong} wrong; {spent:.0f} s of CPU each"
    yield Line("crash at N = 10,000, α=4", "runs", "", measured, len(results))


EXPERIMENTS: dict[str, Callable[[int], Iterator[Line]]] = {
    "threshold": threshold,
    "crash": crash,
    "update": update,
    "load": load,
    "join": join,
    "split": split,
    "sick": sick,
    "large": large,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(EXPERIMENTS)))
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Runs of each; a third of the plain protocol, five times as many crashes.",
)
def main(names: tuple[str, ...], seeds: int) -> None:
    """Repeat the published experiments and print each figure beside its target, as a table in Markdown."""
    click.echo("| measured | target | published | median | runs |\n|---|---|---|---|---|")
    for name in names or EXPERIMENTS:
        for line in EXPERIMENTS[name](seeds):
            click.echo(f"| {line.what} | {line.target} | {line.published} | {line.measured} | {line.runs} |")


if __name__ == "__main__":
    main()
