"""What the HTTP interface costs a node, what it carries, and what the mesh notices of it, attacked or not.

`requests` are those that one CPU-second of the node's process answers, over 8 connections that stay; `ratio` compares
with a bare ASGI application ("hello world") under the same server code, in the same run:

    bare, livez, nodes, get data, put data      (values of 200 bytes; a put is on disk before it is answered)

`events` are changes of data that one node tells 100 WebSocket clients: deliveries a second, as many as it can, with the
node's CPU for each; and at 20 changes a second how long each takes from the write to the client, median and 99th
percentile.

`mesh` is a request between two nodes, one of which serves HTTP, every 10 ms: median and 99th percentile while nobody
asks that node anything, while 8 connections ask it for /api/v1/nodes as fast as they can (`load`; `limited load` with
the default bound of requests a second), and under each attack of `clients`; with it the CPU of that node in percent of
a core, and how many requests were answered and connections opened a second. That node has one core; its attackers and
the other node share the second one, where the attackers give way: as if they were on machines of their own.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clients
import common
import trio
from clients import ATTACKS, Target
from common import Child, Options, Row

from bms.api.serving import Servers
from bms.mesh import Mesh, open_mesh
from bms.values import Message, NodeId

COLUMNS = ("what", "value", "low", "high", "unit", "ratio")
CONNECTIONS = 8
WATCHERS = 100
CALM_S = 4.0  # after which an address has its whole budget of requests again
VALUE = b"v" * 200
LARGE = b"x" * (1 << 20)
NO_LIMITS: dict[str, Any] = {"requests_per_s": 1e6, "connections_max": 2000, "connections_per_address_max": 2000}
EVENTS = "/api/v1/events?types=data&prefix=t/"
WAYS = ("quiet", "limited load", "load", *ATTACKS)


# ---------------------------------------------------------------------- nodes


async def serve_node(settings: dict[str, Any]) -> None:
    """In a child: a node, with the HTTP interface if it is to have it, that writes and asks when it is told to."""
    logging.getLogger("bms").addHandler(logging.NullHandler())  # what attackers do is logged, and not looked at here
    http = settings.get("http")
    fields: dict[str, Any] = {} if http is None else {"http_address": "127.0.0.1:0", "http": http}
    config = common.node_config(settings["place"], settings["bootstrap"], **fields)
    async with open_mesh(config) as mesh, trio.open_nursery() as nursery:
        ready: dict[str, Any] = {"address": str(mesh.address), "id": mesh.node_id}
        if http is not None:
            await mesh.store_data("large", LARGE)
            await mesh.store_data("small", VALUE)
            secure = await mesh.start_https_server("127.0.0.1:0")
            ready |= {"url": mesh.http_url, "https": secure, "token": await mesh.issue_token(["*"])}
        nursery.start_soon(mesh.serve_requests, "echo", echo)
        await common.answer_commands(ready, lambda command: do(mesh, command))
        nursery.cancel_scope.cancel()


async def do(mesh: Mesh, command: dict[str, Any]) -> dict[str, Any]:
    """One command of the parent."""
    if "links" in command:
        return {"ids": await common.linked(mesh, command["links"])}
    if "ask" in command:
        return {"ms": await ask(mesh, NodeId(command["ask"]), command["seconds"])}
    return {"writes": await write(mesh, command["rate"], command["seconds"])}


async def echo(message: Message) -> bytes:
    """Answer with what was asked."""
    return message.body


async def ask(mesh: Mesh, node_id: NodeId, seconds: float) -> list[float]:
    """The times of requests to another member, one after the other, in milliseconds."""
    found = []
    for begin in common.until(time.perf_counter() + seconds):
        await mesh.request(node_id, b"x" * 100, "echo", 60)
        found.append(1000 * (time.perf_counter() - begin))
        await trio.sleep(0.01)
    return found


async def write(mesh: Mesh, rate: float, seconds: float) -> int:
    """Change data whose keys say when, so many times a second (0: as fast as it goes); how often."""
    count = 0
    begin = time.perf_counter()
    for now in common.until(begin + seconds):
        await mesh.store_data(f"t/{time.perf_counter_ns()}", b"")
        count += 1
        if rate:
            await trio.sleep(max(0.0, begin + count / rate - now))
    return count


async def serve_bare(place: str) -> None:
    """In a child: "hello world" under the server code of the interface."""
    async with open_mesh(common.node_config(place)) as mesh:
        assert mesh._life is not None
        servers = Servers(mesh, mesh._world, mesh._life, lambda context: hello)
        await servers.apply(mesh.config.evolve(http_address="127.0.0.1:0", http=NO_LIMITS))
        await common.answer_commands({"url": servers.url("http")})
        await servers.drain("the end", 0)


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """As little as an ASGI application can do."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"12")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello world\n"})


# ---------------------------------------------------------------------- clients


async def serve_client() -> None:
    """In a child: asks, watches and attacks when it is told to."""
    async with trio.open_nursery() as nursery:
        watching: list[float] = []

        async def answer(command: dict[str, Any]) -> dict[str, Any]:
            target, seconds = Target(command["url"], command.get("token", "")), command.get("seconds", 0)
            if "attack" in command:
                return await clients.attack(target, command["attack"], seconds)
            if "watch" in command:
                nonlocal watching
                watching = await nursery.start(clients.watch, target, EVENTS, command["watch"])
                return {}
            if "seen" in command:
                found = list(watching)
                watching.clear()
                return {"ms": found}
            body = VALUE if command["method"] == "PUT" else b""
            length = [f"Content-Length: {len(body)}"] if body else []
            head = target.head(command["method"], command["path"], *length)
            return await clients.load(target, head + body, CONNECTIONS, seconds)

        await common.answer_commands({}, answer)
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- measuring


REQUESTS = {
    "livez": ("GET", "/livez"),
    "nodes": ("GET", "/api/v1/nodes"),
    "get data": ("GET", "/api/v1/data/default/small"),
    "put data": ("PUT", "/api/v1/data/default/written"),
}


def measure_requests(folder: Path, chosen: Options) -> list[Row]:
    """Answers a CPU-second of the node, beside a bare application."""
    places = common.make_identities(folder, 2)
    found: dict[str, list[float]] = defaultdict(list)
    slow: dict[str, list[float]] = defaultdict(list)
    settings: list[dict[str, Any]] = [
        {"place": str(places[0]), "bootstrap": [], "http": NO_LIMITS},
        {"bare": str(places[1])},
        {"client": True},
    ]
    with Child.many(settings) as [(node, said), (bare, there), (asker, _)]:
        for _ in range(chosen.runs):
            for what, (method, path) in {"bare": ("GET", "/"), **REQUESTS}.items():
                server, url = (bare, there["url"]) if what == "bare" else (node, said["url"])
                command = {"url": url, "token": said["token"], "method": method, "path": path}
                asker.ask(**command, seconds=chosen.seconds / 10)  # once to warm up
                cpu = common.cpu_of(server.pid)
                done = asker.ask(**command, seconds=chosen.seconds * 5)
                cpu = common.cpu_of(server.pid) - cpu
                assert set(done["statuses"]) <= {"200", "201", "204"}, done["statuses"]
                found[what].append(done["answers"] / cpu)
                slow[what].append(common.quantile(done["ms"], 0.99))
    rows: list[Row] = []
    for what, values in found.items():
        ratio = common.ratio(values, found["bare"])
        rows.append({"what": f"{what} requests", **common.spread("value", values), "unit": "1/CPU-s", "ratio": ratio})
        rows.append({"what": f"{what} p99", **common.spread("value", slow[what]), "unit": "ms"})
    return rows


def measure_events(folder: Path, chosen: Options) -> list[Row]:
    """Changes told to many WebSockets."""
    [place] = common.make_identities(folder, 1)
    watchers = 5 if chosen.quick else WATCHERS
    found: dict[str, list[float]] = defaultdict(list)
    settings: list[dict[str, Any]] = [{"place": str(place), "bootstrap": [], "http": NO_LIMITS}, {"client": True}]
    with Child.many(settings) as [(node, said), (watcher, _)]:
        at = {"url": said["url"], "token": said["token"]}
        watcher.ask(**at, watch=watchers)
        for _ in range(chosen.runs):
            for rate in (20, 0):
                cpu, begin = common.cpu_of(node.pid), time.perf_counter()
                writes = node.ask(rate=rate, seconds=chosen.seconds * 10)["writes"]
                seen: list[float] = []
                limit = time.perf_counter() + 20
                while len(seen) < writes * watchers and time.perf_counter() < limit:
                    seen += watcher.ask(**at, seen=True)["ms"]
                spent, cpu = time.perf_counter() - begin, common.cpu_of(node.pid) - cpu
                if rate:
                    found["paced p50"].append(common.quantile(seen))
                    found["paced p99"].append(common.quantile(seen, 0.99))
                    found["paced missing"].append(writes * watchers - len(seen))
                else:
                    found["deliveries"].append(len(seen) / spent)
                    found["cpu"].append(1e6 * cpu / max(1, len(seen)))
                    found["missing"].append(100 - 100 * len(seen) / (writes * watchers))
    units = {"deliveries": "1/s", "cpu": "us each", "missing": "%", "paced missing": "events"}
    return [
        {"what": f"events {what}", **common.spread("value", values), "unit": units.get(what, "ms")}
        for what, values in found.items()
    ]


@contextmanager
def cores(node: int, others: list[int], hostile: int) -> Iterator[None]:
    """The node on one core, the others on a second one, where the hostile one gives way. One core: only the latter."""
    have = sorted(os.sched_getaffinity(0))
    os.setpriority(os.PRIO_PROCESS, hostile, 10)
    if len(have) > 1:
        for pid, core in [(node, have[0]), *((pid, have[1]) for pid in [*others, hostile])]:
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
    yield


def measure_mesh(folder: Path, chosen: Options) -> list[Row]:
    """Requests between two nodes, while one of them is asked or attacked over HTTP."""
    places = common.make_identities(folder, 3)
    found: dict[str, list[float]] = defaultdict(list)
    seconds = 0.3 if chosen.quick else 5.0
    nodes = [
        {"place": str(place), "bootstrap": [], "http": http}
        for place, http in zip(places, ({}, NO_LIMITS), strict=False)
    ]
    with Child.many(nodes) as [(node, said), (open_node, open_said)]:
        bootstrap = [said["address"], open_said["address"]]
        settings: list[dict[str, Any]] = [{"place": str(places[2]), "bootstrap": bootstrap}, {"client": True}]
        with Child.many(settings) as [(asker, _), (hostile, _)]:
            asker.ask(links=2)
            for _ in range(chosen.runs):
                for way in WAYS:
                    child, there = (open_node, open_said) if way == "load" else (node, said)
                    time.sleep(0 if chosen.quick else CALM_S)
                    with cores(child.pid, [asker.pid], hostile.pid):
                        measure_way(way, child, there, asker, hostile, seconds, found)
    units = {"p50": "ms", "p99": "ms", "cpu": "%", "opened": "1/s", "answers": "1/s"}
    return [
        {"what": f"mesh {what}", **common.spread("value", values), "unit": units[what.rpartition(" ")[2]]}
        for what, values in found.items()
    ]


def measure_way(
    way: str, node: Child, said: dict[str, Any], asker: Child, hostile: Child, seconds: float,
    found: dict[str, list[float]],
) -> None:  # fmt: skip
    """One way to be asked, once."""
    url = said["https"] if way in ("rapid reset", "continuation") else said["url"]
    command = {"url": url, "token": said["token"], "seconds": seconds + 0.3}
    begin, cpu = time.perf_counter(), common.cpu_of(node.pid)
    if way in ATTACKS:
        hostile.tell(**command, attack=way)
    elif way != "quiet":
        hostile.tell(**command, method="GET", path="/api/v1/nodes")
    time.sleep(0.2)  # until it has begun
    asked = asker.ask(ask=said["id"], seconds=seconds)["ms"]
    cpu, spent = common.cpu_of(node.pid) - cpu, time.perf_counter() - begin
    if way != "quiet":
        done = hostile.read()
        found[f"{way} {'opened' if way in ATTACKS else 'answers'}"].append(
            done["opened" if way in ATTACKS else "answers"] / command["seconds"]
        )
    found[f"{way} p50"].append(common.quantile(asked))
    found[f"{way} p99"].append(common.quantile(asked, 0.99))
    found[f"{way} cpu"].append(100 * cpu / spent)


def main() -> None:
    """Measure, or be a child."""
    chosen = common.options(__doc__ or "", runs=3)
    if chosen.child is not None:
        if "place" in chosen.child:
            trio.run(serve_node, chosen.child)
        elif "bare" in chosen.child:
            trio.run(serve_bare, chosen.child["bare"])
        else:
            trio.run(serve_client)
        return
    rows: list[Row] = []
    for measure in (measure_requests, measure_events, measure_mesh):
        with tempfile.TemporaryDirectory(prefix="bms-bench-") as folder:
            rows += measure(Path(folder), chosen)
    common.write_result(common.Table("httpapi", COLUMNS, rows), chosen)


if __name__ == "__main__":
    main()
