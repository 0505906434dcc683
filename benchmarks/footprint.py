"""What a node costs while nothing happens: importing the package, and idling in a mesh.

    import     `import bms` with all its names, in fresh interpreters: seconds, and memory beside the bare interpreter's
    node       each of the nodes of a mesh (five processes, persistence and mutual TLS 1.3 on), after it has settled;
               the median node of each run

`rss` is resident memory, `pss` the same with shared pages divided among those who share them (MiB). `cpu` is the
share of one core. `wakeups` are voluntary context switches of all threads. `wire` is what the node sends in frames;
TLS adds 22 bytes a record, TCP and IP their headers. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import common
import trio
from common import Child, Options, Row

from bms import open_mesh

__all__ = ["main"]

COLUMNS = ("what", "value", "unit", "low", "high", "target")
TARGETS = {"node rss": "≤ 60", "node cpu": "≤ 0.5"}
UNITS = {"seconds": "s", "rss": "MiB", "pss": "MiB", "cpu": "%", "wakeups": "a second", "wire": "B/s"}
_IMPORT = """
import sys, time
start = time.perf_counter()
if sys.argv[1]:
    module = __import__(sys.argv[1])
    for name in module.__all__:  # they load when first used
        getattr(module, name)
seconds = time.perf_counter() - start
sys.stdout.write(str(seconds) + chr(10))
sys.stdout.flush()
sys.stdin.read()
"""


def memory(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return {name.lower(): int(fields[name].split()[0]) / 1024 for name in ("Rss", "Pss")}


def wakeups(pid: int) -> int:
    """How often the threads of a process have gone to sleep and come back."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def measure_import(name: str) -> dict[str, float]:
    """Import a module (none: "") in a new interpreter."""
    command = [sys.executable, "-c", _IMPORT, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seconds = float(process.stdout.readline())
        return {"seconds": seconds, **memory(process.pid)}  # leaving the block ends its input, and it


def measure_imports(chosen: Options, found: dict[str, list[float]]) -> None:
    """The package and the bare interpreter, alternating."""
    for _ in range(chosen.runs):
        for label, name in (("interpreter", ""), ("import", "bms")):
            for what, value in measure_import(name).items():
                found[f"{label} {what}"].append(value)
    del found["interpreter seconds"]


# ---------------------------------------------------------------------- nodes


async def serve_node(place: Path, bootstrap: list[str]) -> None:
    """In a child: a node that does nothing but count."""
    async with open_mesh(common.node_config(place, bootstrap)) as mesh:

        async def answer(command: dict[str, Any]) -> dict[str, Any]:
            await common.linked(mesh, command["links"])
            return {"bytes": mesh.collect_stats().bytes_sent}

        await common.answer_commands({"address": str(mesh.address)}, answer)


def measure_nodes(chosen: Options, folder: Path, count: int, settle_s: float, watch_s: float) -> list[dict[str, float]]:
    """What each node of a mesh uses, in turn."""
    places = common.make_identities(folder, count)
    with Child.many([{"place": str(places[0]), "bootstrap": []}]) as first:
        bootstrap = [first[0][1]["address"]]
        with Child.many([{"place": str(place), "bootstrap": bootstrap} for place in places[1:]]) as rest:
            children = [child for child, _ in [*first, *rest]]
            for child in children:
                child.ask(links=count - 1)
            time.sleep(settle_s)
            sent = [child.ask(links=count - 1)["bytes"] for child in children]
            time.sleep(settle_s / 10)  # what asking has cost is not part of it
            begin = time.perf_counter()
            cpu = [common.cpu_of(child.pid) for child in children]
            woken = [wakeups(child.pid) for child in children]
            time.sleep(watch_s)
            wall = time.perf_counter() - begin
            cpu = [common.cpu_of(child.pid) - before for child, before in zip(children, cpu, strict=True)]
            woken = [wakeups(child.pid) - before for child, before in zip(children, woken, strict=True)]
            held = [memory(child.pid) for child in children]
            sent = [child.ask(links=count - 1)["bytes"] - before for child, before in zip(children, sent, strict=True)]
            wall_sent = time.perf_counter() - begin + settle_s / 10
    return [
        {**held[i], "cpu": 100 * cpu[i] / wall, "wakeups": woken[i] / wall, "wire": sent[i] / wall_sent}
        for i in range(count)
    ]


def main() -> None:
    """Measure, or be a child."""
    chosen = common.options(__doc__ or "", runs=7)
    if chosen.child is not None:
        trio.run(serve_node, Path(chosen.child["place"]), chosen.child["bootstrap"])
        return
    found: dict[str, list[float]] = defaultdict(list)
    measure_imports(chosen, found)
    count, settle_s, watch_s = (2, 0.1, 0.5) if chosen.quick else (5, 5.0, 20.0)
    with tempfile.TemporaryDirectory(prefix="bms-bench-") as folder:
        for node in measure_nodes(chosen, Path(folder), count, settle_s, watch_s):
            for what, value in node.items():
                found[f"node {what}"].append(value)
    rows: list[Row] = [
        {"what": what, **common.spread("value", values), "unit": UNITS[what.split()[1]], "target": TARGETS.get(what)}
        for what, values in found.items()
    ]
    common.write_result(common.Table("footprint", COLUMNS, rows), chosen)


if __name__ == "__main__":
    main()
