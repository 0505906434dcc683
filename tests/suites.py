"""Checks that others wrote, against running nodes of this version: schemathesis, promtool, Prometheus, Autobahn.

    python tests/suites.py                                  all but Autobahn, of what is installed
    python tests/suites.py schemathesis [-- ARGUMENTS]      every check on every operation, with a token and without
    python tests/suites.py promtool                         the format and the names of the metrics
    python tests/suites.py prometheus [--seconds 60]        three nodes under a real Prometheus, with bearer tokens
    python tests/suites.py echo --port 9101                 an echo for Autobahn's fuzzingclient, under the same server
    python tests/suites.py tls --port 9102                  HTTPS for a scanner

They are not part of the tests: they draw at random, need programs that not everybody has, and take minutes. How they
are run and what they have found is in docs/reference/conformance.md. Nodes are in memory; all is on loopback.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

import bms
from bms.api.serving import Servers
from helpers import until

NO_BOUNDS: dict[str, Any] = {"requests_per_s": 1e6, "connections_max": 5000, "connections_per_address_max": 5000}
MEMORY: dict[str, Any] = {"dev_mode": True, "enable_persistence": False, "enable_discovery": False}


@attrs.frozen
class Asked:
    """What the command line asked for."""

    seconds: float
    port: int
    more: tuple[str, ...]


def say(text: str) -> None:
    """One line for who watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def run(*command: str, stdin: bytes = b"") -> int:
    """Run a program to its end, with its output where this one's goes."""
    say(f"$ {' '.join('…' if 'Bearer' in word else word for word in command)}")
    done = await trio.run_process(list(command), stdin=stdin, check=False)
    return done.returncode


@asynccontextmanager
async def served(**fields: Any) -> AsyncIterator[bms.Mesh]:
    """A node with HTTP and some content."""
    config = {**MEMORY, "http_address": "127.0.0.1:0", "http": NO_BOUNDS, **fields}
    async with bms.open_mesh(**config) as mesh:
        for number in range(10):
            await mesh.store_data(f"key/{number}", b"%d" % number)
        yield mesh


# --- schemathesis


async def schemathesis(asked: Asked) -> bool:
    """Every check: with a token that may do everything, on names that are there too, and with no token."""
    program = shutil.which("st", path=str(Path(sys.executable).parent)) or "st"
    fine = True
    for what, scopes in (("a token", ["*"]), ("a token, on names that are there", ["*"]), ("no token", [])):
        async with served() as mesh:
            place = Path(tempfile.mkdtemp(prefix="bms-schemathesis-"))
            try:
                names = {"path.node_id": str(mesh.node_id), "path.key": "key/1"} if "names" in what else {}
                known = (Path(__file__).parent / "schemathesis.toml").read_text()
                lines = [f'"{name}" = "{value}"' for name, value in names.items()]
                (place / "schemathesis.toml").write_text("\n".join([known, "[parameters]", *lines, ""]))
                headers = ["-H", f"Authorization: Bearer {await mesh.issue_token(scopes)}"] if scopes else []
                say(f"--- schemathesis, {what}")
                status = await run(
                    *(program, "--config-file", str(place / "schemathesis.toml"), "run"),
                    *(f"{mesh.http_url}/openapi.json", *headers),
                    *("--report-dir", str(place), *asked.more),
                )
            finally:
                shutil.rmtree(place)
            crashes = mesh.counters["http.crashes"] + mesh.counters["http.errors"]
            say(f"--- the node counted {crashes} crashes")
            fine = fine and status == 0 and crashes == 0
    return fine


# --- promtool and Prometheus


async def promtool(asked: Asked) -> bool:
    """Format and names of the metrics."""
    async with served() as mesh:
        text = await scrape(mesh)
        say(f"--- promtool, {len(text.splitlines())} lines")
        return await run("promtool", "check", "metrics", stdin=text) == 0


async def scrape(mesh: bms.Mesh) -> bytes:
    """The metrics in Prometheus' older text format: promtool reads no other (of OpenMetrics it misses each counter's
    help, which stands under the name without `_total`). Reading them is strict, and so a check of its own.
    """
    headers = {"Authorization": f"Bearer {await mesh.issue_token(['status:read'])}"}
    async with httpx.AsyncClient(base_url=mesh.http_url or "") as client:
        answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(text_string_to_metric_families(answer.text))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(_Read(families))
    return generate_latest(registry)


class _Read(Collector):
    """Metrics that were read."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> Iterable[Any]:
        """All of them."""
        return self._families


async def prometheus(asked: Asked) -> bool:
    """Three nodes that work, scraped for some time by a real Prometheus."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bms-prometheus-")))
        meshes: list[bms.Mesh] = []
        for number in range(3):
            first = [str(meshes[0].address)] if meshes else []
            more = {"node_name": f"node{number + 1}", "bootstrap_nodes": first}
            meshes.append(await stack.enter_async_context(served(**more)))
        await until(lambda: all(len(mesh.nodes("alive")) == 3 for mesh in meshes))
        (folder / "prometheus.yml").write_text(await configuration(meshes, folder))
        nursery = await stack.enter_async_context(trio.open_nursery())
        place = f"127.0.0.1:{asked.port}"
        command = [
            *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            *(f"--web.listen-address={place}", "--log.level=warn"),
        ]
        process = await nursery.start(partial(trio.run_process, command, check=False))
        assert isinstance(process, trio.Process)
        try:
            with trio.move_on_after(asked.seconds):
                await work(meshes)
            async with httpx.AsyncClient(base_url=f"http://{place}", timeout=10) as client:
                return await judge(client, asked.seconds)
        finally:
            process.terminate()


async def configuration(meshes: Sequence[bms.Mesh], folder: Path) -> str:
    """Prometheus' configuration, in JSON, which is YAML."""
    jobs = []
    for number, mesh in enumerate(meshes, 1):
        token = folder / f"token{number}"
        token.write_text(await mesh.issue_token(["status:read"], name="prometheus"))
        target = (mesh.http_url or "").removeprefix("http://")
        jobs.append(
            {
                "job_name": f"bms{number}",
                "authorization": {"type": "Bearer", "credentials_file": str(token)},
                "static_configs": [{"targets": [target]}],
            }
        )
    return json.dumps({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs})


async def work(meshes: Sequence[bms.Mesh]) -> None:
    """Give the metrics something to count, until cancelled."""
    number = 0
    while True:
        number += 1
        await meshes[number % 3].store_data(f"work/{number % 100}", b"x" * number)
        await meshes[number % 3].broadcast_message(b"hello")
        await trio.sleep(0.02)


REFUSED = (
    *("exceeded_body_size_limit", "exceeded_sample_limit", "sample_duplicate_timestamp", "sample_out_of_bounds"),
    *("sample_out_of_order", "exemplar_out_of_order", "cache_flush_forced"),
)


async def judge(client: httpx.AsyncClient, seconds: float) -> bool:
    """Ask Prometheus how it went."""

    async def ask(query: str) -> list[dict[str, Any]]:
        found = (await client.get("/api/v1/query", params={"query": query})).json()
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    targets = (await client.get("/api/v1/targets")).json()["data"]["activeTargets"]
    for target in targets:
        say(f"{target['scrapeUrl']}: {target['health']} {target['lastError']}")
    fine = [target["health"] for target in targets] == ["up"] * 3
    window = f"[{int(seconds)}s]"
    for row in await ask(f"min_over_time(up{window})"):
        say(f"{row['metric']['job']}: lowest `up` {row['value'][1]}")
        fine = fine and row["value"][1] == "1"
    for row in await ask("scrape_samples_scraped"):
        say(f"{row['metric']['job']}: {row['value'][1]} samples a scrape")
    text = (await client.get("/metrics")).text
    for name in REFUSED:
        lines = [line for line in text.splitlines() if line.startswith(f"prometheus_target_scrapes_{name}_total ")]
        say(lines[0] if lines else f"prometheus_target_scrapes_{name}_total is not there")
        fine = fine and all(line.endswith(" 0") for line in lines)
    metadata = (await client.get("/api/v1/metadata")).json()["data"]
    names = [name for name in metadata if name.startswith("bms_")]
    say(f"{len(names)} metrics of this program, of types {sorted({metadata[name][0]['type'] for name in names})}")
    untold = [name for name in names if not metadata[name][0]["help"] or metadata[name][0]["type"] == "unknown"]
    say(f"without help or type: {untold}")
    return fine and bool(names) and not untold


# --- for suites that are started by hand


async def echo_application(scope: Any, receive: Any, send: Any) -> None:
    """Send every WebSocket message back."""
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "bytes" if message.get("text") is None else "text"
        await send({"type": "websocket.send", kind: message[kind]})


async def echo(asked: Asked) -> bool:
    """Serve an echo under the server of the HTTP interface, until interrupted."""
    async with bms.open_mesh(**MEMORY) as mesh:
        assert mesh._life is not None
        servers = Servers(mesh, mesh._world, mesh._life, lambda context: echo_application)
        bounds = {**NO_BOUNDS, "body_bytes_max": 32 << 20}
        await servers.apply(mesh.config.evolve(http_address=f"127.0.0.1:{asked.port}", http=bounds))
        # Autobahn's client answers a ping in the middle of a frame that it is sending, and so breaks its own frame.
        servers._server_config().websocket_ping_interval = None
        say(f"ws://127.0.0.1:{asked.port}")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await servers.drain("the end", 0)


async def tls(asked: Asked) -> bool:
    """Serve HTTPS until interrupted."""
    async with served(https_address=f"127.0.0.1:{asked.port}") as mesh:
        say(str(mesh.https_url))
        await trio.sleep_forever()


SUITES: dict[str, tuple[Callable[[Asked], Any], str]] = {
    "schemathesis": (schemathesis, "st"),
    "promtool": (promtool, "promtool"),
    "prometheus": (prometheus, "prometheus"),
}
BY_HAND: dict[str, Callable[[Asked], Any]] = {"echo": echo, "tls": tls}


def main() -> None:
    """Run what the command line names; the exit status is 1 if something was found."""
    logging.basicConfig(level=logging.ERROR)
    words = sys.argv[1:]
    more = words[words.index("--") + 1 :] if "--" in words else []
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("suite", nargs="*", choices=[[], *SUITES, *BY_HAND])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=9101)
    found = parser.parse_args(words[: len(words) - len(more) - ("--" in words)])
    asked = Asked(found.seconds, found.port, tuple(more))
    fine = True
    for name in found.suite or SUITES:
        if name in BY_HAND:
            try:
                trio.run(BY_HAND[name], asked)
            except KeyboardInterrupt:
                return
        suite, program = SUITES[name]
        if shutil.which(program, path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin") is None:
            say(f"--- {name}: {program} is not installed")
            continue
        done = trio.run(suite, asked)
        say(f"--- {name}: {'nothing found' if done else 'FINDINGS'}")
        fine = fine and done
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
