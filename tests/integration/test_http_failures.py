"""What becomes of HTTP when a part of it crashes, when Ctrl+C comes in the middle of a change, when no handle is left.

Crashes are bugs that do not exist: they are planted into what the part calls.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from checkpoints import CTRL_C, Blade
from web import get

import bms
from bms import supervisor
from bms.api.app import make_app
from bms.api.https import LIFE, Certificates
from bms.client import Client, EventFeed, open_client
from bms.monitor.logs import RecentLogs
from bms.values import Address
from helpers import until

DEADLINE_S = 60
ALONE: dict[str, Any] = {"dev_mode": True, "enable_persistence": False, "enable_discovery": False}


@asynccontextmanager
async def open_node(**fields: Any) -> AsyncIterator[bms.Mesh]:
    """A node by itself, in memory, with HTTP."""
    with trio.fail_after(DEADLINE_S):
        async with bms.open_mesh(**{**ALONE, "http_address": "127.0.0.1:0", **fields}) as mesh:
            yield mesh


@asynccontextmanager
async def open_both() -> AsyncIterator[tuple[bms.Mesh, Client]]:
    """The same, and its client."""
    async with open_node() as mesh, open_client(str(mesh.http_url), await mesh.issue_token(["*"])) as client:
        yield mesh, client


def web(mesh: bms.Mesh) -> Any:
    """The servers of a node."""
    return mesh._web


async def boom() -> None:
    """A bug."""
    raise ValueError("planted")


async def crashed(mesh: bms.Mesh, name: str) -> None:
    """Until a subsystem has crashed once, and runs again."""

    def is_back() -> bool:
        condition = mesh.collect_stats().subsystems[name]
        return condition.crashes == 1 and condition.state == "running"

    await until(is_back, DEADLINE_S)


def crashes(mesh: bms.Mesh) -> dict[str, int]:
    """What has crashed how often."""
    return {name: found.crashes for name, found in mesh.collect_stats().subsystems.items() if found.crashes}


def keepers() -> int:
    """How many listen to the log for clients and reports."""
    return sum(isinstance(handler, RecentLogs) for handler in logging.getLogger("bms").handlers)


async def is_live(url: str | None) -> bool:
    """Whether HTTP is answered there."""
    address = Address.parse(str(url).removeprefix("http://"))
    return (await get(address, "/livez")).status == 200


async def until_event(feed: EventFeed, type_: str) -> dict[str, Any]:
    """The next event of that type."""
    while True:
        event = await anext(feed)
        if event["type"] == type_:
            return event


# ---------------------------------------------------------------------- crashes


async def test_a_crash_of_what_holds_the_connections_costs_those_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", 3.0)  # the request comes before it runs again
    async with open_both() as (mesh, client):
        heard = keepers()
        web(mesh)._nursery.start_soon(boom)
        await until(lambda: crashes(mesh) == {"api": 1}, DEADLINE_S)
        with pytest.raises(bms.MeshError):
            await client.change_config({"metrics_interval": 7.0})  # nobody is there to serve it: not left waiting
        await crashed(mesh, "api")
        for _ in range(3):
            assert await is_live(mesh.http_url)
        assert crashes(mesh) == {"api": 1}
        assert keepers() == heard
        async with client.events(["log"]) as feed:
            assert (await anext(feed))["type"] == "hello"
            logging.getLogger("bms.test").warning("heard once")
            assert (await until_event(feed, "log"))["text"] == "heard once"
            logging.getLogger("bms.test").warning("heard again")
            assert (await until_event(feed, "log"))["text"] == "heard again"


async def test_what_happened_while_the_feed_of_events_was_down_is_told_as_missed() -> None:
    async with open_both() as (mesh, client), client.events(["node", "data", "message", "log"]) as feed:
        assert (await anext(feed))["type"] == "hello"
        shown = web(mesh).context.events.after(f"{web(mesh).context.events.life}-0").events
        assert "missed" not in [event.type for event in shown]  # nobody was told of a gap when the node started

        def bug() -> None:
            raise ValueError("planted")

        end = web(mesh).context.events.on_publish(bug)
        logging.getLogger("bms.test").warning("the last straw")
        await until(lambda: crashes(mesh) == {"events": 1}, DEADLINE_S)
        end()
        await mesh.store_data("meanwhile", b"x")
        await crashed(mesh, "events")
        kinds = []
        for _ in range(4):
            event = await until_event(feed, "missed")
            assert event["count"] is None
            kinds.append(event["cursor"])
        assert len(set(kinds)) == 4  # one for each kind that may have happened
        await mesh.store_data("afterwards", b"x")
        assert (await until_event(feed, "data"))["key"] == "afterwards"
        async with client.events(["health"], since=feed.cursor) as other:
            assert (await anext(other))["type"] == "hello"


async def test_who_reads_one_kind_of_events_hears_once_that_some_were_missed() -> None:
    async with open_both() as (mesh, client), client.events(["data"]) as feed:
        await anext(feed)

        def bug() -> None:
            raise ValueError("planted")

        end = web(mesh).context.events.on_publish(bug)
        logging.getLogger("bms.test").warning("the last straw")
        await until(lambda: crashes(mesh) == {"events": 1}, DEADLINE_S)
        end()
        await crashed(mesh, "events")
        await mesh.store_data("afterwards", b"x")
        found = [await anext(feed), await anext(feed)]
        assert [(event["type"], event.get("count")) for event in found] == [("missed", None), ("data", None)]


@pytest.mark.parametrize("has_sent_all", [True, False])
async def test_a_client_that_goes_before_its_answer_is_no_error(
    has_sent_all: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_node() as mesh:
        asked: list[Any] = []
        token, written = await mesh.issue_token(["*"]), trio.Event()
        mesh.tap_data(lambda keys: written.set())

        async def receive() -> Any:
            if asked:
                return asked.pop()
            if has_sent_all:
                await written.wait()  # from here to the answer there is one pause, at which nothing is cancelled
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()

        path = "/api/v1/data/default/key"
        headers = [(b"host", b"localhost"), (b"authorization", b"Bearer " + token.encode())]
        scope = {
            "type": "http", "http_version": "1.1", "method": "PUT", "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": b"", "headers": headers, "extensions": {},
        }  # fmt: skip
        for _ in range(20):  # which of Quart's two tasks is first is chance
            asked = [{"type": "http.request", "body": b"x", "more_body": not has_sent_all}]
            await make_app(web(mesh).context)(scope, receive, send)
        assert written.is_set() == has_sent_all
        assert mesh.counters["http.crashes"] == 0
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# ---------------------------------------------------------------------- Ctrl+C


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Trio takes Ctrl+C from Python's own handler alone, which a job in the background starts without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def changed(mesh: bms.Mesh, blade: Blade, cut_at: int, **fields: Any) -> bool:
    """Reconfigure, interrupted at a checkpoint; whether it was."""
    try:
        with trio.CancelScope() as scope:
            blade.take(scope, cut_at, CTRL_C)
            try:
                await mesh.reconfigure(**fields)
            finally:
                blade.rest()
            await trio.lowlevel.checkpoint()
    except* KeyboardInterrupt:
        pass
    return blade.has_cut


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("before", [None, "127.0.0.1:0"])
def test_a_change_that_ctrl_c_interrupts_leaves_a_node_that_serves(before: str | None) -> None:
    blade = Blade()

    async def main() -> int:
        for cut_at in itertools.count(1):
            async with open_node(http_address=before) as mesh:
                was_cut = await changed(mesh, blade, cut_at, http_address="127.0.0.2:0")
                if mesh.config.http_address is None:
                    assert mesh.http_url is None
                    await mesh.start_http_server("127.0.0.1:0")
                assert await is_live(mesh.http_url), cut_at
                async with open_client(str(mesh.http_url), await mesh.issue_token(["*"])) as client:
                    async with client.events(["data"]) as feed:
                        await anext(feed)
                        await mesh.store_data("key", b"x")
                        assert (await anext(feed))["key"] == "key", cut_at
                assert crashes(mesh) == {}
            if not was_cut:
                return cut_at - 1
        raise AssertionError

    assert trio.run(main, instruments=[blade]) > 1


# ---------------------------------------------------------------------- no handles


def test_a_certificate_that_must_be_made_without_handles_names_less() -> None:
    now = [time.time()]

    def hosts() -> list[str]:
        raise OSError(errno.EMFILE, "no handles")

    async def main() -> None:
        certificates = Certificates(bms.Config(https_address="0.0.0.0:0"), None, hosts, lambda: now[0])
        before = certificates.context()
        now[0] += LIFE.total_seconds()
        await trio.sleep(2)
        assert certificates.context() is not before

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def no_handles() -> Iterator[None]:
    """Nothing more can be opened by this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="open files"):
            os.open("/", os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_node_without_handles_still_says_how_it_is(tmp_path: Path) -> None:
    fields = {"persistence_path": tmp_path / "node", "enable_persistence": True, "enable_discovery": True}
    async with open_node(**fields) as mesh:
        with no_handles():
            assert mesh.check_health().status in ("ok", "degraded", "failing")
