"""What the control socket says of a node's health, and the login codes that it hands out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

import bms
from bms.control import SOCKET_NAME, ControlClient, open_control
from bms.control.server import serve_control
from helpers import cluster, until


@asynccontextmanager
async def serving(mesh: bms.Mesh) -> AsyncIterator[ControlClient]:
    """A client of that node's control socket."""
    assert mesh.folder is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, mesh, mesh.folder / SOCKET_NAME)
        async with open_control(mesh.folder / SOCKET_NAME) as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_health_is_what_the_node_says_itself() -> None:
    async with bms.open_mesh(dev_mode=True) as mesh, serving(mesh) as client:
        found = await client.health()
        assert found["status"] == mesh.check_health().status
        assert [check["name"] for check in found["checks"]] == [check.name for check in mesh.check_health().checks]


async def test_a_report_comes_in_each_form_and_in_no_other() -> None:
    async with bms.open_mesh(dev_mode=True, node_name="kitchen") as mesh, serving(mesh) as client:
        assert (await client.report()).lstrip().lower().startswith("<!doctype html")
        assert "kitchen" in await client.report("text")
        assert isinstance(json.loads(await client.report("json")), dict)
        with pytest.raises(bms.LocalProtocolError):
            await client.report("pdf")


async def test_settings_and_topology_are_those_of_the_node() -> None:
    async with cluster(2) as (one, two), serving(one) as client:
        config = await client.config()
        assert (config["node_name"], config["limits.topics_max"]) == ("n1", one.config.limits.topics_max)
        topology = await client.topology()
        assert [node["node_id"] for node in topology["nodes"]] == [one.node_id, two.node_id]
        assert [link["node_id"] for link in topology["links"]] == [two.node_id]


async def test_samples_come_again_and_again_until_they_are_left_or_the_mesh_stops() -> None:
    async with bms.open_mesh(dev_mode=True) as mesh, serving(mesh) as client:
        async with client.samples(0.1) as samples:
            first, second = await anext(samples), await anext(samples)
        assert set(first) == {"time", "stats", "nodes", "links", "health"}
        assert second["time"] - first["time"] >= 0.09
        assert first["stats"]["node_id"] == mesh.node_id
        assert first["health"]["status"] == mesh.check_health().status
        async with client.samples(0.1) as samples:
            await anext(samples)
            await mesh.stop()
            with pytest.raises(bms.ClosedError), trio.fail_after(60):
                _ = [sample async for sample in samples]


@pytest.mark.parametrize("interval_s", [0, -1, 1e9, float("nan")])
async def test_samples_cannot_be_asked_for_at_any_rate(interval_s: float) -> None:
    async with bms.open_mesh(dev_mode=True) as mesh, serving(mesh) as client, client.samples(interval_s) as samples:
        with pytest.raises(bms.LocalProtocolError):
            await anext(samples)


async def test_events_tell_who_comes_and_goes() -> None:
    async with cluster(2) as (one, two), serving(one) as client, client.events() as events:
        await two.stop()
        with trio.fail_after(60):
            event = await anext(events)
            while isinstance(event, bms.Missed) or event.what != "left":
                event = await anext(events)
        assert (event.node_id, event.name) == (two.node_id, "n2")


async def test_a_login_code_is_good_once_for_a_token_that_may_do_everything() -> None:
    async with bms.open_mesh(dev_mode=True, http_address="127.0.0.1:0") as mesh, serving(mesh) as client:
        found = await client.login()
        assert found["http_url"] == mesh.http_url
        assert (found["https_url"], found["expires_s"], found["folder"]) == (None, 60.0, str(mesh.folder))
        assert mesh.verify_token(await mesh.redeem_login(found["code"])).scopes == ("*",)
        with pytest.raises(bms.RefusedError):
            await mesh.redeem_login(found["code"])
        assert (await client.status()).http_url == mesh.http_url


async def test_without_http_there_is_no_login_and_the_error_says_how_to_switch_it_on() -> None:
    async with bms.open_mesh(dev_mode=True) as mesh, serving(mesh) as client:
        status = await client.status()
        assert (status.http_url, status.https_url) == (None, None)
        with pytest.raises(bms.ConfigError, match="--http") as caught:
            await client.login()
        assert caught.value.field == "http_address"
        await mesh.start_http_server("127.0.0.1:0")
        assert (await client.login())["http_url"] == mesh.http_url


async def test_a_status_of_an_older_node_is_understood() -> None:
    async with bms.open_mesh(dev_mode=True) as mesh, serving(mesh) as client:
        status = await client.status()
        older = {name: value for name, value in attrs.asdict(status).items() if not name.endswith("_url")}
        assert bms.control.answers.Status(**older) == status


async def test_many_who_watch_do_not_hold_each_other_up() -> None:
    async with bms.open_mesh(dev_mode=True) as mesh, serving(mesh) as client, trio.open_nursery() as nursery:
        counts = [0] * 4

        async def watch(number: int) -> None:
            async with client.samples(0.1) as samples:
                async for _ in samples:
                    counts[number] += 1

        for number in range(len(counts)):
            nursery.start_soon(watch, number)
        await until(lambda: min(counts) >= 3)
        nursery.cancel_scope.cancel()
