"""How soon a mesh notices what happens to a node, and what noticing costs while nothing happens.

    killed    SIGKILL: until the first of the others holds it for failed, and until all do
    stalled   SIGSTOP for 3 s, then SIGCONT: how many hold it for suspect and for failed, and how many of the others it
              holds for failed itself. It must be nobody: a stall is no death
    frozen    SIGSTOP for 60 s: until the first and until all hold it for failed; from SIGCONT on until all see it alive
    idle      each node of a mesh that has settled, over 30 s; the median node of each run

Real processes with mutual TLS 1.3 and persistence, each node linked to each. Times are the kernel's monotonic clock,
which all processes of a machine share: a node notes when it learns something, so that asking for it later changes
nothing. `alpha` is `gossip.suspicion_alpha`. `udp` and `links` are bytes that a node sends, in sealed datagrams and in
frames; below them come UDP or TLS and TCP, and IP. `rss`, `cpu` and `wakeups` as in `footprint.py`. Linux only.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import common
import footprint
import trio
from common import Child, Options, Row

from bms import NodeEvent, open_mesh
from bms.config import GossipConfig

__all__ = ["main"]

COLUMNS = ("what", "nodes", "alpha", "value", "unit", "low", "high", "target")
TARGETS = {
    ("killed, all know", 10, 4): "≤ 2",
    ("stalled, held for failed", 10, 4): "0",
    ("stalled, holds for failed", 10, 4): "0",
    ("frozen, all know", 10, 3): "≤ 5",
    ("idle rss", 5, 4): "≤ 60",
    ("idle cpu", 5, 4): "≤ 0.5",
}
UNITS = {"rss": "MiB", "cpu": "%", "wakeups": "a second", "udp": "B/s", "links": "B/s"}
_PATIENCE_S = 180.0
Found = dict[tuple[str, int, int], list[float]]


@attrs.frozen
class Times:
    """How many nodes, and for how long each thing is done."""

    nodes: int = 10
    idle_nodes: tuple[int, ...] = (5, 10)
    probe_interval_s: float = 1.0
    settle_s: float = 5.0
    stall_s: float = 3.0
    after_stall_s: float = 10.0
    freeze_s: float = 60.0
    idle_s: float = 30.0


_QUICK = Times(
    nodes=3,
    idle_nodes=(2,),
    probe_interval_s=0.1,
    settle_s=0.1,
    stall_s=0.2,
    after_stall_s=0.5,
    freeze_s=1.0,
    idle_s=0.5,
)

# ---------------------------------------------------------------------- in a child


async def serve_node(place: Path, bootstrap: list[str], alpha: float, probe_interval_s: float) -> None:
    """A node that remembers when it learned what about whom."""
    gossip = GossipConfig(suspicion_alpha=alpha, probe_interval_s=probe_interval_s)
    events: list[tuple[float, str, str]] = []

    async with open_mesh(common.node_config(place, bootstrap, gossip=gossip)) as mesh, trio.open_nursery() as nursery:

        async def note(*, task_status: trio.TaskStatus[None]) -> None:
            async with mesh.watch_nodes() as watch:
                task_status.started()
                async for event in watch:
                    assert isinstance(event, NodeEvent)  # and not that some were missed
                    events.append((time.monotonic(), event.what, event.node_id))

        async def answer(command: dict[str, Any]) -> dict[str, Any]:
            match command["do"]:
                case "links":
                    return {"others": await common.linked(mesh, command["count"])}
                case "events":
                    return {"events": [event for event in events if event[0] >= command["since"]]}
                case "first":
                    return {"at": await first(command["what"], command["node_id"], command["since"])}
                case _:
                    stats = mesh.collect_stats()
                    return {"udp": stats.counters.get("datagrams.bytes_sent", 0), "links": stats.bytes_sent}

        async def first(what: str, node_id: str, since: float) -> float:
            with trio.fail_after(_PATIENCE_S):
                while True:
                    for at, said, about in events:
                        if at >= since and (said, about) == (what, node_id):
                            return at
                    await trio.sleep(0.05)

        await nursery.start(note)
        await common.answer_commands({"address": str(mesh.address), "node_id": mesh.node_id}, answer)
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- a mesh


class Nodes:
    """A mesh of children, each linked to each. Made by `running`."""

    def __init__(self, folder: Path, count: int, alpha: int, probe_interval_s: float) -> None:
        self.count, self.alpha = count, alpha
        self.ids: list[str] = []
        self.children: list[Child] = []
        self._places = common.make_identities(folder, count)
        self._bootstrap: list[str] = []
        self._settings = {"alpha": alpha, "probe_interval_s": probe_interval_s}

    @classmethod
    @contextmanager
    def running(cls, count: int, alpha: int, times: Times) -> Iterator[Nodes]:
        """Start a mesh, and end every process of it."""
        with tempfile.TemporaryDirectory(prefix="bms-bench-") as folder:
            nodes = cls(Path(folder), count, alpha, times.probe_interval_s)
            try:
                nodes._start_all()
                time.sleep(times.settle_s)
                yield nodes
            finally:
                for child in nodes.children:
                    child.end()
                for child in nodes.children:
                    child.close()

    def _start_all(self) -> None:
        for number in range(self.count):
            self.children.append(self._child(number))
            if number == 0:
                self._note(0)
        for number in range(1, self.count):
            self._note(number)
        self.link_all()

    def _child(self, number: int) -> Child:
        return Child(place=str(self._places[number]), bootstrap=self._bootstrap, **self._settings)

    def _note(self, number: int) -> None:
        ready = self.children[number].read()
        self.ids[number : number + 1] = [ready["node_id"]]
        if number == 0:
            self._bootstrap = [ready["address"]]

    def link_all(self) -> None:
        """Wait until each node has links to all others."""
        for child in self.children:
            child.ask(do="links", count=self.count - 1)

    def others(self, number: int) -> list[Child]:
        """All children but one."""
        return [child for i, child in enumerate(self.children) if i != number]

    def replace(self, number: int) -> None:
        """Start a killed node again, and wait until it is part of the mesh."""
        old = self.children[number]
        old.end()
        old.close()
        self.children[number] = self._child(number)
        self._note(number)
        self.link_all()

    def told(self, what: str, number: int, since: float) -> list[float]:
        """How long after `since` each of the others learned that about a node; waits for the last."""
        asked = {"do": "first", "what": what, "node_id": self.ids[number], "since": since}
        return [child.ask(**asked)["at"] - since for child in self.others(number)]


def events(child: Child, since: float) -> list[tuple[str, str]]:
    """What a node has learned about whom."""
    return [(what, about) for _, what, about in child.ask(do="events", since=since)["events"]]


@contextmanager
def stopped(children: list[Child]) -> Iterator[float]:
    """Stop processes for the body, and say when; they go on in any case, or they could not end."""
    since = time.monotonic()
    try:
        for child in children:
            os.kill(child.pid, signal.SIGSTOP)
        yield since
    finally:
        for child in children:
            os.kill(child.pid, signal.SIGCONT)


# ---------------------------------------------------------------------- measurements


def measure_killed(nodes: Nodes, number: int, found: Found) -> None:
    """Kill a node, and start it again for what comes next."""
    since = time.monotonic()
    os.kill(nodes.children[number].pid, signal.SIGKILL)
    waits = nodes.told("failed", number, since)
    found["killed, first knows", nodes.count, nodes.alpha].append(min(waits))
    found["killed, all know", nodes.count, nodes.alpha].append(max(waits))
    nodes.replace(number)


def measure_stalled(nodes: Nodes, number: int, times: Times, found: Found) -> None:
    """Stop a node for less than it takes to be held for failed."""
    me = nodes.ids[number]
    with stopped([nodes.children[number]]) as since:
        time.sleep(times.stall_s)
    time.sleep(times.after_stall_s)
    said = [set(events(child, since)) for child in nodes.others(number)]
    mine = events(nodes.children[number], since)
    for label, count in {
        "stalled, held for suspect": sum(("suspected", me) in one for one in said),
        "stalled, held for failed": sum(("failed", me) in one for one in said),
        "stalled, holds for failed": sum(what == "failed" for what, _ in mine),
    }.items():
        found[label, nodes.count, nodes.alpha].append(count)


def measure_frozen(meshes: list[Nodes], number: int, times: Times, found: Found) -> None:
    """Stop one node of each mesh for long, at the same time: the others have nothing to do but notice it."""
    with stopped([nodes.children[number] for nodes in meshes]) as since:
        for nodes in meshes:
            waits = nodes.told("failed", number, since)
            found["frozen, first knows", nodes.count, nodes.alpha].append(min(waits))
            found["frozen, all know", nodes.count, nodes.alpha].append(max(waits))
        time.sleep(max(0.0, since + times.freeze_s - time.monotonic()))
        resumed = time.monotonic()
    for nodes in meshes:
        found["frozen, back with all", nodes.count, nodes.alpha].append(max(nodes.told("joined", number, resumed)))
        nodes.link_all()


def measure_idle(nodes: Nodes, times: Times, found: Found) -> None:
    """What each node uses while nothing happens."""
    children = nodes.children
    begin = time.monotonic()
    sent = [child.ask(do="sent") for child in children]
    time.sleep(times.settle_s / 10)  # what asking has cost is not part of it
    before = time.monotonic()
    cpu = [common.cpu_of(child.pid) for child in children]
    woken = [footprint.wakeups(child.pid) for child in children]
    time.sleep(times.idle_s)
    wall = time.monotonic() - before
    cpu = [common.cpu_of(child.pid) - used for child, used in zip(children, cpu, strict=True)]
    woken = [footprint.wakeups(child.pid) - count for child, count in zip(children, woken, strict=True)]
    held = [footprint.memory(child.pid)["rss"] for child in children]
    wall_sent = time.monotonic() - begin
    more = [child.ask(do="sent") for child in children]
    each = {
        "rss": held,
        "cpu": [100 * used / wall for used in cpu],
        "wakeups": [count / wall for count in woken],
        **{
            what: [(m[what] - s[what]) / wall_sent for s, m in zip(sent, more, strict=True)]
            for what in ("udp", "links")
        },
    }
    for what, values in each.items():
        found[f"idle {what}", nodes.count, nodes.alpha].append(common.quantile(values))


def main() -> None:
    """Measure, or be a child."""
    chosen = common.options(__doc__ or "", runs=5)
    if chosen.child is not None:
        settings = chosen.child
        trio.run(
            serve_node,
            Path(settings["place"]),
            settings["bootstrap"],
            settings["alpha"],
            settings["probe_interval_s"],
        )
        return
    found = measure(chosen, _QUICK if chosen.quick else Times())
    common.write_result(
        common.Table("membership", COLUMNS, [row(*key, values) for key, values in found.items()]), chosen
    )


def measure(chosen: Options, times: Times) -> Found:
    """All of it, `runs` times; another node is hit each time."""
    found: Found = defaultdict(list)
    for count in times.idle_nodes:
        with Nodes.running(count, 4, times) as nodes:
            for _ in range(chosen.runs):
                measure_idle(nodes, times, found)
    with ExitStack() as stack:
        meshes = [stack.enter_context(Nodes.running(times.nodes, alpha, times)) for alpha in (4, 3)]
        for run in range(chosen.runs):
            number = 1 + run % (times.nodes - 1)
            measure_killed(meshes[0], number, found)
            time.sleep(times.settle_s)
            measure_stalled(meshes[0], number, times, found)
            measure_frozen(meshes, number, times, found)
            time.sleep(times.settle_s)
    return found


def row(what: str, nodes: int, alpha: int, values: list[float]) -> Row:
    """The row of one thing that was measured in each run."""
    unit = UNITS.get(what.removeprefix("idle "), "nodes" if what.startswith("stalled") else "s")
    known = {"what": what, "nodes": nodes, "alpha": alpha, "unit": unit, "target": TARGETS.get((what, nodes, alpha))}
    return {**known, **common.spread("value", values)}


if __name__ == "__main__":
    main()
