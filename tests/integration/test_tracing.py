"""Traces: off, nothing is imported and made; on, each operation is a span, with its error where it has failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import bms
from helpers import PROCESS_S, cluster

ROOT_PROGRAM = """
import sys, trio, bms
async def main():
    async with bms.open_mesh(dev_mode=True, enable_persistence=False, enable_discovery=False) as mesh:
        await mesh.store_data("a", b"1")
trio.run(main)
assert not [name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "prometheus_client", "quart")]
"""


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The spans that were ended, kept in memory."""
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


async def test_each_operation_is_a_span_and_the_next_one_its_child(spans: Any) -> None:
    async with cluster(2, log={"traces": True}) as (one, two), trio.open_nursery() as nursery:

        async def relay(message: bms.Message) -> bytes:
            await two.store_data("from a request", message.body)
            return b"done"

        await nursery.start(two.serve_requests, "relay", relay)
        with one.span("a program's own", colour="green"):
            await one.send_message(two.node_id, b"12345", "t")
        await one.request(two.node_id, b"x", "relay")
        await one.broadcast_message(b"x", "t")
        version = await one.store_data("k", b"v")
        assert version
        await one.delete_data("k")
        await one.sync_with_peers()
        with pytest.raises(bms.RemoteError):
            await one.request(two.node_id, b"x", "nobody")
        nursery.cancel_scope.cancel()
    found = {span.name: span for span in spans.get_finished_spans()}
    assert {"bms.send", "bms.request", "bms.broadcast", "bms.store", "bms.delete", "bms.sync"} <= set(found)
    send, outer = found["bms.send"], found["a program's own"]
    assert send.parent.span_id == outer.context.span_id
    assert dict(send.attributes) == {"bms.peer": two.node_id.short, "bms.topic": "t", "bms.bytes": 5, "bms.node": "n1"}
    assert dict(outer.attributes) == {"bms.colour": "green", "bms.node": "n1"}
    failed = [span for span in spans.get_finished_spans() if span.name == "bms.request" and not span.status.is_ok]
    (span,) = failed
    assert "RemoteError" in span.status.description
    assert not [span for span in spans.get_finished_spans() if "12345" in str(dict(span.attributes))]


async def test_traces_can_be_put_on_and_off_while_the_node_runs(spans: Any) -> None:
    async with cluster(1) as (mesh,):
        await mesh.store_data("k", b"1")
        assert spans.get_finished_spans() == ()
        await mesh.reconfigure(log={"traces": True})
        await mesh.store_data("k", b"2")
        await mesh.reconfigure(log={"traces": False})
        await mesh.store_data("k", b"3")
    assert [span.name for span in spans.get_finished_spans()] == ["bms.store"]


async def test_an_http_request_is_a_span_around_what_it_does(spans: Any) -> None:
    httpx = pytest.importorskip("httpx")
    async with cluster(1, log={"traces": True}) as (mesh,):
        url = await mesh.start_http_server("127.0.0.1:0")
        bearer = {"Authorization": f"Bearer {await mesh.issue_token(['data:write'])}"}
        async with httpx.AsyncClient(base_url=url, trust_env=False, headers=bearer) as client:
            assert (await client.put("/api/v1/data/default/k", content=b"v")).is_success
    found = {span.name: span for span in spans.get_finished_spans()}
    assert found["bms.http"].attributes["bms.method"] == "PUT"
    assert found["bms.http"].attributes["bms.route"].startswith("/api/v1/data/")
    assert found["bms.store"].parent.span_id == found["bms.http"].context.span_id


async def test_traces_without_the_package_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(bms.ConfigError) as caught:
        bms.init(dev_mode=True, log={"traces": True})
    assert caught.value.field == "log.traces"
    assert "bellande-mesh-sync[otel]" in caught.value.why
    async with cluster(1) as (mesh,):
        with pytest.raises(bms.ConfigError):
            await mesh.reconfigure(log={"traces": True})
        assert not mesh.config.log.traces
        await mesh.store_data("k", b"v")


def test_a_node_that_does_not_trace_or_serve_metrics_imports_nothing_of_either() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ROOT_PROGRAM],
        capture_output=True, text=True, check=False, timeout=PROCESS_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
