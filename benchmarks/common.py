"""What the measurements share: options, child processes, CPU clocks, identities, medians, and how results are printed.

A measurement runs in real processes. The parent starts *children*: the same script with `--child`, which say one line
of JSON when they are ready, answer one line for each line they get, and end when their standard input ends, so that
none outlives its parent.

CPU time is that of whole processes, all threads, user and system, read through the kernel's clock of the process
(`clock_getcpuclockid(3)`), so that reading it costs the child nothing. Linux only.

A result is a table: `columns`, and `rows` with one cell for each. Numbers are medians over the runs; `low` and `high`
are the extremes, which say how quiet the machine was. Only ratios may be compared between machines. Absent:
assertions about speed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from bms.config import Config
from bms.mesh import Mesh
from bms.security.authority import Authority
from bms.security.keys import BoxKey, NodeKey

__all__ = [
    "Child",
    "Options",
    "Table",
    "answer_commands",
    "apart",
    "cpu_of",
    "linked",
    "make_identities",
    "node_config",
    "options",
    "quantile",
    "ratio",
    "spread",
    "until",
    "write_result",
]

Row = dict[str, Any]
Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_READY_S = 60


@attrs.frozen
class Options:
    """What the command line asked for. `seconds` is how long one measurement of one run lasts."""

    runs: int
    quick: bool
    as_json: bool
    place: str
    child: dict[str, Any] | None

    @property
    def seconds(self) -> float:
        """Long enough for thousands of operations; when quick, for some."""
        return 0.01 if self.quick else 0.4


def options(description: str, runs: int = 5) -> Options:
    """Read the command line of a measurement."""
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("-o", dest="output", choices=["table", "json"], default="table", help="how to print the result")
    parser.add_argument("--runs", type=int, help=f"runs to take the median of (default {runs})")
    parser.add_argument("--quick", action="store_true", help="only show that it works: the figures mean nothing")
    parser.add_argument(
        "--place", choices=["apart", "free"], default="apart", help="keep two processes on different cores (links only)"
    )
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.runs is not None and found.runs < 1:
        parser.error("--runs is 1 or more")
    return Options(
        found.runs or (1 if found.quick else runs), found.quick, found.output == "json", found.place, found.child
    )


# ---------------------------------------------------------------------- processes


def cpu_of(*pids: int) -> float:
    """CPU seconds that processes have used, together."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


@contextmanager
def apart(pids: Iterable[int]) -> Iterator[None]:
    """Keep this process on one core, and others on another; does nothing where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield
        return
    for pid, core in [(os.getpid(), cores[0]), *((pid, cores[1]) for pid in pids)]:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})
    try:
        yield
    finally:
        for task in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


class Child:
    """This script in another process. `ready` is what it said when it was ready."""

    def __init__(self, **settings: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(sys.argv[0]).resolve()), "--child", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def read(self) -> dict[str, Any]:
        """The next line it says; blocks."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child ended early, with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the answer; blocks."""
        self.tell(**command)
        return self.read()

    def tell(self, **command: Any) -> None:
        """Send a command whose answer is read later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Tell it to end, without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> None:
        """Wait for its end."""
        assert self._process.stdout is not None
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @staticmethod
    @contextmanager
    def many(settings: Iterable[dict[str, Any]]) -> Iterator[list[tuple[Child, dict[str, Any]]]]:
        """Start children at once; each with what it said when it was ready. They end with the body."""
        children: list[Child] = []
        try:
            children.extend(Child(**one) for one in settings)
            yield [(child, child.read()) for child in children]
        finally:
            for child in children:
                child.end()
            for child in children:
                child.close()


async def answer_commands(ready: dict[str, Any], command: Command | None = None) -> None:
    """In a child: say `ready`, answer each line with `command`, return when the input ends. Idle, it costs nothing."""
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    held = b""
    while True:
        await trio.lowlevel.wait_readable(0)
        data = os.read(0, 65536)
        if not data:
            return
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            assert command is not None
            sys.stdout.write(json.dumps(await command(json.loads(line))) + "\n")
            sys.stdout.flush()


# ---------------------------------------------------------------------- nodes


def make_identities(folder: Path, count: int) -> list[Path]:
    """Folders with the three files of `count` members of a new mesh."""
    authority = Authority.create(token_bytes=secrets.token_bytes, now=time.time())
    places = []
    for number in range(count):
        issued = authority.issue_identity(
            NodeKey.generate(secrets.token_bytes), BoxKey.generate(secrets.token_bytes), now=time.time()
        )
        place = folder / f"node-{number + 1}"
        place.mkdir(parents=True)
        for name, content in issued.files.items():
            (place / name).touch(mode=0o600)
            (place / name).write_bytes(content)
        places.append(place)
    return places


def node_config(place: Path | str, bootstrap: Sequence[str] = (), **fields: Any) -> Config:
    """The settings of a node with the identity in `place`, its store beside it, that dials `bootstrap` alone."""
    place = Path(place)
    return Config(
        node_name=place.name,
        key_path=place / "key.pem",
        cert_path=place / "cert.pem",
        trust_path=place / "trust.pem",
        persistence_path=place / "data",
        bootstrap_nodes=tuple(bootstrap),
        enable_discovery=False,
        **fields,
    )


async def linked(mesh: Mesh, count: int) -> list[str]:
    """Wait until `mesh` has links to `count` others; their ids."""
    with trio.fail_after(_READY_S):
        while True:
            others = [node.node_id for node in mesh.nodes("alive") if node.node_id != mesh.node_id]
            if len(others) >= count and all(mesh.is_connected(node_id) for node_id in others):
                return list(others)
            await trio.sleep(0.01)


# ---------------------------------------------------------------------- numbers


def until(end: float) -> Iterator[float]:
    """The time now, again and again until `end` (`time.perf_counter`); at least once, however busy the machine."""
    yield time.perf_counter()
    while (now := time.perf_counter()) < end:
        yield now


def quantile(values: Sequence[float], part: float = 0.5) -> float:
    """The value below which `part` of `values` lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def spread(name: str, values: Sequence[float]) -> Row:
    """Median and extremes, as cells named `name`, `low` and `high`."""
    return {name: statistics.median(values), "low": min(values), "high": max(values)}


def ratio(values: Sequence[float], beside: Sequence[float]) -> float:
    """The median of the runs' own ratios: what slows one run slows both of its sides."""
    return statistics.median([value / other for value, other in zip(values, beside, strict=True)])


# ---------------------------------------------------------------------- results


@attrs.frozen
class Table:
    """What a measurement found."""

    benchmark: str
    columns: tuple[str, ...]
    rows: list[Row]


def write_result(table: Table, chosen: Options) -> None:
    """Print a table, for people as Markdown or as JSON."""
    facts = {
        "benchmark": table.benchmark,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load": round(os.getloadavg()[0], 1),
        "place": chosen.place,
        "runs": chosen.runs,
        "quick": chosen.quick,
    }
    rows = [{column: row.get(column) for column in table.columns} for row in table.rows]
    if chosen.as_json:
        text = json.dumps({**facts, "columns": table.columns, "rows": rows}, indent=1)
    else:
        cells = [[_cell(value) for value in row.values()] for row in rows]
        cells = [list(table.columns), ["---"] * len(table.columns), *cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
        head = ", ".join(f"{name} {value}" for name, value in facts.items())
        text = "\n".join([head, "", *lines])
    sys.stdout.write(text + "\n")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}"
