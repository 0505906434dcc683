"""What nodes count, measure and report of themselves, on real sockets and disks, and how others read it."""

from __future__ import annotations

import ast
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

import bms
from bms.monitor.catalog import CATALOG, page
from bms.monitor.metrics import CLASSIC, OPENMETRICS, exposition
from helpers import cluster, until

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e</style><img src=x onerror=y>"
HOSTILE_NAME = "<img src=x onerror=alert(1)>\"'&"
TOKEN = "bms_0123456789abcdef_" + "A" * 43


def parse_openmetrics(body: bytes) -> list[Metric]:
    """The families of an exposition; raises where it is not one."""
    return list(openmetrics.text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]


async def talk(one: bms.Mesh, two: bms.Mesh, count: int = 20) -> None:
    """Some of everything."""

    async def echo(message: bms.Message) -> bytes:
        return message.body

    async with trio.open_nursery() as nursery, two.subscribe("t") as messages:
        await nursery.start(two.serve_requests, "echo", echo)
        for number in range(count):
            await one.send_message(two.node_id, b"x" * 100, "t")
            await one.request(two.node_id, b"y", "echo")
            await one.store_data(f"key {number}", b"v" * 100)
        await one.broadcast_message(b"z", "t")
        received = 0
        async for _ in messages:
            received += 1
            if received == count + 1:
                break
        nursery.cancel_scope.cancel()


async def test_a_clock_that_is_set_does_not_change_how_long_a_node_has_been_up() -> None:
    now = [1_000.0]
    world = bms.World(wall_time=lambda: now[0])
    async with bms.open_mesh(
        world=world, dev_mode=True, enable_persistence=False, enable_discovery=False
    ) as mesh:  # fmt: skip
        for now[0] in (1_900_000_000.0, 5.0):
            assert 0 <= mesh.collect_stats().uptime_s < 1_000


async def test_what_two_nodes_did_stands_in_their_statistics() -> None:
    async with cluster(2) as (one, two):
        await talk(one, two)
        await until(lambda: two.collect_stats().data.entries == 20)
        await one.sync_with_peers()
        await until(lambda: one.collect_stats().rates.seconds > 0)
        stats, other = one.collect_stats(), two.collect_stats()
    assert stats.messages["sent"]["note"] == other.messages["received"]["note"] == 20
    assert stats.messages["received"]["ok"] == 20
    assert stats.messages["sent"]["request"] == stats.messages["received"]["response"] == 20
    assert stats.counters["net.messages_sent"] == sum(stats.messages["sent"].values())
    assert other.counters["messaging.received"] == 21
    assert stats.latencies["messaging.delivery_s"].count == stats.latencies["messaging.request_s"].count == 20
    assert other.latencies["messaging.serve_s"].count == 20
    assert stats.latencies["net.reply_s"].count >= 40
    assert stats.latencies["data.sync_s"].count >= 1
    (peer,) = stats.peers
    assert (peer.node_id, peer.name) == (two.node_id, "n2")
    assert peer.reply_s.p50 is not None
    assert 0 < peer.reply_s.p50 <= (peer.reply_s.p99 or 0) < 60
    assert peer.bytes_sent > 2000
    assert stats.store.commits >= 20
    assert stats.store.write_s.count >= 20
    assert stats.store.commit_s.p50 is not None
    assert stats.store.failing is None
    assert stats.resources.rss_bytes is not None
    assert stats.resources.rss_bytes > 10 << 20
    assert stats.resources.handles is not None
    assert 5 < stats.resources.handles <= (stats.resources.handles_max or 0)
    assert stats.resources.cpu_s > 0
    assert stats.resources.tasks > 5
    assert stats.rates.seconds > 0
    assert stats.queues.store_writes == 0


async def test_the_scheduler_that_stood_still_is_noticed() -> None:
    async with cluster(1) as (mesh,):
        await until(lambda: mesh.collect_stats().resources.scheduler_lag_s.count >= 1)

        def stand_still() -> None:
            end = trio.current_time() + 1.8
            while trio.current_time() < end:
                pass

        stand_still()
        await until(lambda: mesh.check_health().status == "degraded")
        (reason,) = mesh.check_health().reasons
        assert reason.startswith("scheduler: tasks waited up to")
        assert mesh.check_health().is_ready


async def test_a_node_on_a_full_disk_is_not_ready_until_there_is_room_again_though_nobody_writes(
    small_disk: Path,
) -> None:
    ballast = small_disk / "ballast"
    async with cluster(1, persistence_path=small_disk / "node") as (mesh,):
        assert mesh.check_health().is_ready
        await mesh.store_data("kept", b"1")
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free // 4096 * 4096))
        with pytest.raises(bms.StoreError):
            await mesh.store_data("large", bytes(200_000))
        health = mesh.check_health()
        assert {check.name for check in health.checks if check.status == "failing"} == {"store", "disk"}
        assert not health.is_ready
        assert mesh.collect_stats().store.failing is not None
        ballast.unlink()
        await until(lambda: mesh.check_health().is_ready)
        assert mesh.collect_stats().store.failing is None
        assert (await mesh.retrieve_data("kept")).value == b"1"


@pytest.mark.parametrize("what", ["three", "alone"])
async def test_a_measurement_has_every_peer_the_disk_and_the_lag_in_its_time(what: str) -> None:
    async with cluster(3 if what == "three" else 1) as meshes:
        mesh = meshes[0]
        started = trio.current_time()
        found = await mesh.measure_performance(0.8)
        took = trio.current_time() - started
    assert took < 30
    assert {peer.node_id for peer in found.peers} == {other.node_id for other in meshes[1:]}
    for peer in found.peers:
        assert peer.lost == 0
        assert peer.rtt_s.count >= 1
        assert peer.rtt_s.p50 is not None
        assert peer.bytes_per_s is None or peer.bytes_per_s > 1e5
    assert found.store_write_s.count >= 1
    assert found.store_error is None
    assert found.scheduler_lag_s.count >= 1


async def test_a_measurement_lets_messages_through_and_leaves_the_links_as_they_were() -> None:
    async with cluster(2) as (one, two), trio.open_nursery() as nursery:
        nursery.start_soon(one.measure_performance, 1.0)
        for _ in range(20):
            await talk(one, two, 1)
        assert one.counters["net.links_closed"] == two.counters["net.links_closed"] == 0
        await until(lambda: two.counters["net.messages_ignored"] > 0)
        assert two.counters["net.protocol_errors"] == 0


@pytest.mark.parametrize("seconds", [0, -1, 61, float("nan"), float("inf")])
async def test_a_measurement_has_a_sensible_time(seconds: float) -> None:
    async with cluster(1) as (mesh,):
        with pytest.raises(bms.LocalProtocolError):
            await mesh.measure_performance(seconds)


# ---------------------------------------------------------------------- metrics


async def test_metrics_are_openmetrics_and_prometheus_text_and_each_stands_in_the_catalog() -> None:
    async with cluster(2) as (one, two):
        await talk(one, two)
        with pytest.raises(bms.RemoteError):
            await one.request(two.node_id, b"", "nobody")
        one.log_error(ValueError("x"), a=1)
        kind, body = exposition(one)
        older_kind, older = exposition(one, "text/plain")
        assert exposition(one, "*/*")[0] == OPENMETRICS
    assert (kind, older_kind) == (OPENMETRICS, CLASSIC)
    families = parse_openmetrics(body)
    assert body.endswith(b"# EOF\n")
    rows = {row.name: row for row in CATALOG}
    for family in families:
        row = rows[family.name]
        assert (family.type, family.documentation) == (row.kind, row.meaning)
        assert family.unit == row.unit
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(row.labels)
        series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(series) == len(set(series)), "one series twice"
    names = {family.name for family in families}
    assert {"bms_build_info", "bms_links", "bms_message_delivery_seconds", "bms_store_commit_seconds"} <= names
    assert {sample.name for family in parse_classic(older.decode()) for sample in family.samples} == {
        sample.name for family in families for sample in family.samples
    }
    samples = [sample for family in families for sample in family.samples]
    values = {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}
    assert values["bms_link_messages_sent_total", "note"] == 20
    assert values["bms_messages_failed_total", "RemoteError", "request"] == 1
    assert values["bms_errors_total", "ValueError"] == 1
    assert (
        values["bms_message_delivery_seconds_bucket", "+Inf"] == values[("bms_message_delivery_seconds_count",)] == 20
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_of() -> None:
    async def run() -> bytes:
        async with cluster(2) as (one, two):
            await talk(one, two, 3)
            return exposition(one, "text/plain")[1]

    body = trio.run(run)
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_prometheus_gets_what_it_accepts_over_http() -> None:
    httpx = pytest.importorskip("httpx")
    async with cluster(1) as (mesh,):
        url = await mesh.start_http_server("127.0.0.1:0")
        bearer = {"Authorization": f"Bearer {await mesh.issue_token(['status:read'])}"}
        async with httpx.AsyncClient(base_url=url, trust_env=False, headers=bearer) as client:
            modern = await client.get(
                "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,*/*;q=0.1"}
            )
            older = await client.get("/metrics", headers={"Accept": "text/plain;version=0.0.4"})
            assert (await client.get("/readyz")).status_code == 200
    assert (modern.status_code, modern.headers["content-type"]) == (200, OPENMETRICS)
    assert (older.status_code, older.headers["content-type"]) == (200, CLASSIC)
    assert "bms_links" in {family.name for family in parse_openmetrics(modern.content)}
    found = {family.name: family.samples for family in parse_classic(older.text)}
    (first,) = found["bms_http_requests"]
    assert (first.labels, first.value) == ({"scheme": "http", "method": "GET", "status": "200"}, 1)


async def test_names_of_peers_cannot_break_the_text() -> None:
    name = 'a"b\\c{}=\u00e4'.replace("\\", "")
    async with cluster(1, mesh_name="m") as (one,):
        other = bms.init(dev_mode=True, mesh_name="m", node_name=name)
        async with trio.open_nursery() as nursery:
            await other.start(nursery)
            await until(lambda: one.is_connected(other.node_id) and one.collect_stats().peers[0].rtt_s)
            families = {family.name: family for family in parse_openmetrics(exposition(one)[1])}
            await other.shutdown()
    (sample,) = families["bms_peer_rtt_seconds"].samples
    assert sample.labels["name"] == name


def test_the_reference_page_is_the_one_printed_from_the_catalog() -> None:
    printed = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert printed == page(), "python -m bms.monitor.catalog > docs/reference/metrics.md"


def _counted() -> set[str]:
    """Every name that the package counts under, where it is written as a text; `{}` for what is put into one."""
    found = set()
    for path in (ROOT / "bms").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            method = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if method not in ("add", "count", "_count", "observe", "tally", "histogram", "put"):
                continue
            name = node.args[0]
            for part in (name.body, name.orelse) if isinstance(name, ast.IfExp) else (name,):
                if isinstance(part, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(part.value)):
                    found.add(str(part.value))
                elif isinstance(part, ast.JoinedStr):
                    text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in part.values)
                    if re.fullmatch(r"[a-z]+\.[a-z_{}]+", text):
                        found.add(text)
    return found


def test_whatever_is_counted_stands_in_the_catalog_and_nothing_else() -> None:
    shown: set[str] = set()
    for row in CATALOG:
        if isinstance(row.source, str):
            shown.add(row.source)
        elif row.source is not None:
            shown |= {name for name, _ in row.source}
    counted = _counted()
    assert len(counted) > 60
    patterns = {name: re.compile(re.escape(name).replace(r"\{\}", "[a-z_]+")) for name in counted}
    silent = {name for name, pattern in patterns.items() if not any(pattern.fullmatch(known) for known in shown)}
    # Byte counts of ended links: shown together with those of open ones.
    assert silent == {"net.bytes_sent", "net.bytes_received"}, "say in bms/monitor/catalog.py what these mean"
    assert {name for name in shown if not any(pattern.fullmatch(name) for pattern in patterns.values())} == set()


def test_names_of_metrics_follow_the_rules_of_prometheus() -> None:
    names = [row.name for row in CATALOG]
    assert len(names) == len(set(names))
    for row in CATALOG:
        assert re.fullmatch(r"bms_[a-z0-9_]+", row.name)
        assert not row.name.endswith(("_total", "_count", "_sum", "_bucket", "_milliseconds", "_ms"))
        assert row.meaning.endswith(".")
        assert row.group
        assert not row.unit or row.name.endswith(row.unit)


# ---------------------------------------------------------------------- reports


class Page(html.parser.HTMLParser):
    """What stands in a page: tags, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


async def report_of_a_hostile_mesh(form: str) -> str:
    """The names of a node, topics, errors, log records, all hostile."""
    async with cluster(1, metrics_interval=0.2) as (one,), trio.open_nursery() as nursery:
        two = bms.init(dev_mode=True, node_name=HOSTILE_NAME)
        await two.start(nursery)
        await until(lambda: one.is_connected(two.node_id))
        await talk(one, two, 5)
        one.log_error(ValueError(HOSTILE), topic=HOSTILE, token=TOKEN)
        await one.reconfigure(log={"slow_operation_s": 0.001})
        async with two.subscribe(HOSTILE_NAME):
            while not any(slow.what == "send" for slow in one.slow_operations()):
                await one.send_message(two.node_id, b"x" * 500_000, HOSTILE_NAME)
        await until(lambda: len(one.history()) >= 3)
        report: str = one.generate_report(form)
        await two.shutdown()
    return report


async def test_the_page_has_plots_and_tables_and_needs_nothing_and_runs_nothing() -> None:
    text = await report_of_a_hostile_mesh("html")
    found = Page(text)
    assert found.tags.count("svg") >= 4
    assert found.tags.count("table") >= 6
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image"} & set(found.tags)
    names = {name for name, _ in found.attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"src", "href", "srcset", "style", "action", "data", "xlink:href", "background"}
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert text.count("<style>") == text.count("</style>") == 1
    assert found.tags.count("main") == 1
    assert HOSTILE not in text
    assert HOSTILE_NAME not in text
    assert "\x1b" not in text
    shown = "".join(found.text)
    assert shown.count("<script>alert(1)</script>") >= 3, "errors are shown, as text"
    assert shown.count(HOSTILE_NAME) >= 3, "names and topics are shown, as text"
    assert all(attribute[1] in ("row", "col") for attribute in found.attributes if attribute[0] == "scope")
    assert TOKEN not in text


async def test_the_report_as_json_is_json_and_as_text_steers_no_terminal() -> None:
    found: dict[str, Any] = json.loads(await report_of_a_hostile_mesh("json"))
    assert found["health"]["status"] in ("ok", "degraded")
    assert found["stats"]["messages"]["sent"]["request"] == 5
    assert len(found["history"]) >= 3
    assert found["errors"][0]["error"] == "ValueError"
    text = await report_of_a_hostile_mesh("text")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "Checks\n------\n" in text
    assert TOKEN not in text
    assert TOKEN not in json.dumps(found)


async def test_a_report_has_one_of_three_forms() -> None:
    async with cluster(1) as (mesh,):
        with pytest.raises(bms.LocalProtocolError):
            mesh.generate_report("pdf")
        assert "nothing measured yet" in mesh.generate_report()


def test_nothing_secret_stands_in_a_report(tmp_path: Path) -> None:
    async def run() -> tuple[list[str], bytes]:
        async with bms.open_mesh(found_mesh=True, persistence_path=tmp_path, enable_discovery=False) as mesh:
            token = await mesh.issue_token(["status:read"])
            return [mesh.generate_report(form) for form in ("html", "json", "text")] + [token], mesh._identity.key_pem

    found, key_pem = trio.run(run)
    *texts, token = found
    for line in [token, *key_pem.decode().splitlines()]:
        if len(line) > 30 and not line.startswith("-----"):
            assert not [text for text in texts if line in text]
