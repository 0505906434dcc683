"""The HTTP interface over a real socket: what every route answers, what it refuses, and with which headers.

Each answer is held to what the OpenAPI document of the same application says of it.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
from quart import Response

import bms
from bms.api import app
from bms.api.routes import ROUTES
from bms.api.routing import Call, Route
from helpers import ROOT, until

ELSEWHERE = "0" * 64
DATA = "/api/v1/data/default"


@attrs.define
class Api:
    """One node with its HTTP interface, and a client of it with a token for everything."""

    mesh: bms.Mesh
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, status: int = 200, **more: Any) -> httpx.Response:
        """An answer of that status."""
        answer = await self.client.request(method, path, **more)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer

    async def problem(self, method: str, path: str, status: int, error: str, **more: Any) -> dict[str, Any]:
        """A refusal of that status and class."""
        answer = await self.ask(method, path, status, **more)
        assert answer.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = answer.json()
        assert (found["status"], found["error"]) == (status, error)
        assert {"type", "title", "detail"} <= set(found)
        return found

    async def raw(
        self, head: str | bytes, body: bytes = b"", *, token: bool = True
    ) -> tuple[int, dict[str, str], bytes]:
        """Send bytes as they are: status, headers and body of the answer. No client's idea of a URL stands between."""
        port = self.client.base_url.port
        assert port is not None
        head = head if isinstance(head, bytes) else head.encode("latin-1")
        first, _, rest = head.partition(b"\r\n")
        lines = [first, *([rest] if rest else []), b"Connection: close"]
        if b"host:" not in head.lower():
            lines.append(b"Host: localhost")
        if token:
            lines.append(b"Authorization: " + self.client.headers["Authorization"].encode())
        if body and b"transfer-encoding" not in head.lower():
            lines.append(b"Content-Length: %d" % len(body))
        with trio.fail_after(60):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                try:
                    await stream.send_all(b"\r\n".join(lines) + b"\r\n\r\n" + body)
                except trio.BrokenResourceError:
                    pass  # refused before it was read to the end
                whole = b""
                try:
                    async for part in stream:
                        whole += part
                except trio.BrokenResourceError:
                    pass
        answer, _, content = whole.partition(b"\r\n\r\n")
        status, *fields = answer.decode("latin-1").split("\r\n")
        return int(status.split()[1]), dict(field.lower().split(": ", 1) for field in fields), content


@asynccontextmanager
async def served(name: str = "n1", **fields: Any) -> AsyncIterator[Api]:
    """A node alone with its API."""
    http = {"requests_per_s": 100_000.0, **fields.pop("http", {})}
    fields = {"enable_persistence": False, "enable_discovery": False, **fields}
    async with bms.open_mesh(dev_mode=True, node_name=name, http_address="127.0.0.1:0", http=http, **fields) as mesh:
        token = await mesh.issue_token(["*"], name="all")
        assert mesh.http_url is not None
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=mesh.http_url, headers=headers, timeout=60, trust_env=False) as client:
            yield Api(mesh, client)


async def until_answer(ask: Callable[[], Awaitable[httpx.Response]], status: int) -> None:
    """Ask until the answer has that status."""
    with trio.fail_after(60):
        while (await ask()).status_code != status:  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)


# ---------------------------------------------------------------------- every route


KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
    "array": (list,), "object": (dict,),
}  # fmt: skip


def _problems(value: Any, schema: dict[str, Any], document: dict[str, Any], place: str = "$") -> list[str]:
    """Where a value is not what its JSON Schema says: as much of JSON Schema as the document uses for answers."""
    if "$ref" in schema:
        part: Any = document
        for name in schema["$ref"].removeprefix("#/").split("/"):
            part = part[name]
        return _problems(value, part, document, place)
    if "anyOf" in schema:
        tried = [_problems(value, one, document, place) for one in schema["anyOf"]]
        return [] if [] in tried else [problem for one in tried for problem in one]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{place}: {value!r} is none of {schema['enum']}"]
    kind = schema.get("type")
    if kind is None:
        return []
    if type(value) not in KINDS[kind]:
        return [f"{place}: {value!r} is no {kind}"]
    found = []
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{place}: {value!r} does not fit {schema['pattern']}")
    if kind == "array":
        for number, item in enumerate(value):
            found += _problems(item, schema.get("items", {}), document, f"{place}[{number}]")
    if kind == "object":
        properties = schema.get("properties", {})
        found += [f"{place}: {name} is missing" for name in schema.get("required", ()) if name not in value]
        found += [f"{place}: {name} is not described" for name in value if properties and name not in properties]
        for name, item in value.items():
            inner = properties.get(name, schema.get("additionalProperties", {}))
            found += _problems(item, inner if isinstance(inner, dict) else {}, document, f"{place}.{name}")
    return found


# What each operation is asked for, so that it succeeds: path, status, and what goes along.
Asked = tuple[str, int, dict[str, Any]]


def requests_of(api: Api, other: bms.Mesh, gone: str) -> dict[str, Asked]:
    me, there = api.mesh.node_id, other.node_id
    point = {name: float(number) for number, name in enumerate("xyzwvutsrq")}
    steps: dict[str, Asked] = {
        f"POST /api/Bellande_Step/bellande_step_{n}d": (
            f"/api/Bellande_Step/bellande_step_{n}d?limit=1", 200,
            {"json": {"node0": dict.fromkeys("xyzwvutsrq"[:n], 0), "node1": dict(list(point.items())[:n])}},
        )
        for n in range(2, 11)
    }  # fmt: skip
    return {
        "GET /api/v1/status": ("/api/v1/status", 200, {}),
        "GET /api/v1/stats": ("/api/v1/stats", 200, {}),
        "GET /api/v1/history": ("/api/v1/history?seconds=3600", 200, {}),
        "GET /api/v1/health": ("/api/v1/health", 200, {}),
        "POST /api/v1/performance": ("/api/v1/performance", 200, {"json": {"seconds": 0.05}}),
        "GET /api/v1/report": ("/api/v1/report?format=html", 200, {}),
        "GET /api/v1/logs": ("/api/v1/logs?limit=5", 200, {}),
        "GET /metrics": ("/metrics", 200, {}),
        "GET /livez": ("/livez", 200, {}),
        "GET /readyz": ("/readyz?verbose", 200, {}),
        "GET /api/v1/nodes": ("/api/v1/nodes?state=alive", 200, {}),
        "POST /api/v1/nodes": ("/api/v1/nodes", 201, {"json": {"address": str(other.address)}}),
        "GET /api/v1/nodes/nearest": ("/api/v1/nodes/nearest?metric=xor&count=2", 200, {}),
        "GET /api/v1/nodes/{node_id}": (f"/api/v1/nodes/{there}", 200, {}),
        "PATCH /api/v1/nodes/{node_id}": (f"/api/v1/nodes/{me}", 200, {"json": {"tags": {"rack": "7"}}}),
        "DELETE /api/v1/nodes/{node_id}": (f"/api/v1/nodes/{gone}", 204, {}),
        "GET /api/v1/topology": ("/api/v1/topology?scope=mesh", 200, {}),
        "PUT /api/v1/data/{space}/{key}": (f"{DATA}/k?ttl_s=60", 200, {"content": b"v"}),
        "GET /api/v1/data/{space}": (f"{DATA}?prefix=k", 200, {}),
        "GET /api/v1/data/{space}/{key}": (f"{DATA}/k", 200, {}),
        "DELETE /api/v1/data/{space}/{key}": (f"{DATA}/k", 200, {}),
        "GET /api/v1/sync": ("/api/v1/sync", 200, {}),
        "POST /api/v1/sync": ("/api/v1/sync", 200, {"json": {"peers": [there]}}),
        "POST /api/v1/messages": ("/api/v1/messages", 200, {"json": {"to": there, "topic": "t", "body": "hello"}}),
        "POST /api/v1/broadcast": ("/api/v1/broadcast", 200, {"json": {"body_base64": "AP8="}}),
        "GET /api/v1/config": ("/api/v1/config", 200, {}),
        "PATCH /api/v1/config": ("/api/v1/config", 200, {"json": {"settings": {"sync_interval": 7}}}),
        "GET /api/v1/tokens": ("/api/v1/tokens", 200, {}),
        "POST /api/v1/tokens": ("/api/v1/tokens", 201, {"json": {"scopes": ["data:*"], "ttl_s": 60, "name": "made"}}),
        "DELETE /api/v1/tokens/{token_id}": ("/api/v1/tokens/" + api.mesh.tokens()[-1].token_id, 204, {}),
        "POST /api/v1/login": ("/api/v1/login", 200, {"json": {"code": api.mesh.issue_login()}}),
        "GET /api/v1/whoami": ("/api/v1/whoami", 200, {}),
        "GET /": ("/", 200, {}),
        "GET /static/{name}": ("/static/icon.svg", 200, {}),
        "GET /docs": ("/docs", 200, {}),
        "GET /docs/{name}": ("/docs/reference.js", 200, {}),
        "GET /openapi.json": ("/openapi.json", 200, {}),
        "GET /status": ("/status", 200, {}),
        "POST /join": ("/join", 200, {"json": {"address": str(other.address)}}),
        "POST /api/Bellande_Step/bellande_step_nd": (
            "/api/Bellande_Step/bellande_step_nd", 200,
            {"json": {"node0": [0, 0, 0], "node1": [100, 100, 100], "limit": 75, "dimensions": 3}},
        ),
        **steps,
    }  # fmt: skip


async def test_every_route_answers_what_its_description_says() -> None:
    async with served() as api, bms.open_mesh(
        dev_mode=True, node_name="n2", enable_persistence=False, enable_discovery=False,
        bootstrap_nodes=[str(api.mesh.address)],
    ) as other:  # fmt: skip
        async with bms.open_mesh(
            dev_mode=True, node_name="n3", enable_persistence=False, enable_discovery=False,
            bootstrap_nodes=[str(api.mesh.address)],
        ) as third:  # fmt: skip
            gone = third.node_id
            await until(lambda: len(api.mesh.nodes("alive")) == 3)
        await until(lambda: api.mesh.node(gone).state == "left")
        await until(lambda: api.mesh.is_connected(other.node_id))
        await api.mesh.issue_token(["data:read"], name="to be ended")
        document = (await api.ask("GET", "/openapi.json")).json()
        asked = requests_of(api, other, gone)
        assert set(asked) == {route.operation for route in ROUTES}
        wrong = []
        async with other.subscribe("t"):
            for operation, (path, status, more) in asked.items():
                method = operation.split()[0]
                answer = await api.ask(method, path, status, **more)
                said = document["paths"][operation.split()[1]][method.lower()]["responses"][str(status)]
                kind = answer.headers.get("content-type", "")
                if "content" not in said:
                    assert answer.content == b"", operation
                elif "application/json" in said["content"] and kind == "application/json":
                    schema = said["content"]["application/json"]["schema"]
                    wrong += [f"{operation} {problem}" for problem in _problems(answer.json(), schema, document)]
                else:
                    assert {kind, "*/*"} & set(said["content"]), (operation, kind)
                missing = [name for name in said.get("headers", {}) if name.lower() not in answer.headers]
                assert not missing, (operation, missing)
        assert wrong == []


async def test_the_document_describes_every_route_and_no_other() -> None:
    async with served() as api:
        answer = await api.ask("GET", "/openapi.json")
        document = answer.json()
        assert document["openapi"].startswith("3.1")
        described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
        streams = {"GET /api/v1/events", "GET /api/v1/events/stream"}
        assert described == {route.operation for route in ROUTES} | streams
        names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
        assert len(names) == len(set(names))
        text = answer.text
        for reference in set(re.findall(r'"#/components/(\w+)/(\w+)"', text)):
            assert reference[1] in document["components"][reference[0]], reference
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                placed = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
                assert placed == set(re.findall(r"{(\w+)}", path)), (method, path)
        assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


# ---------------------------------------------------------------------- data: keys, tags, pages


KEYS = [
    b"a", b"a/b", b"/a", b"a//b", b"//", b"/", b".", b"..", b"../..", b"a/../b", b"./a", b"a/.", b"%2F", b"%", b"a%00b",
    b"\x00", b"\x00\xff", b"\xff\xfe", b"\xc3\x28", b"a\nb\rc", "schlüssel/日本".encode(), b"a b+c?d#e&f=g",
    b"nodes/nearest",
    b"\\..\\x", b"a;b", b"~", b"'\"<script>", b"k" * 1024, bytes(range(256)), b"/" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("escape", ["all", "needed"])
async def test_every_key_has_a_path_and_comes_back_byte_for_byte(escape: str) -> None:
    def path_of(key: bytes) -> bytes:
        plain = b"abcdefghijklmnopqrstuvwxyz0123456789./-_~:@!$&'()*+,;=" if escape == "needed" else b""
        return b"".join(bytes((byte,)) if byte in plain else b"%%%02x" % byte for byte in key)

    async with served() as api:
        for number, key in enumerate(KEYS):
            head = b"PUT /api/v1/data/default/" + path_of(key) + b" HTTP/1.1"
            status, headers, _ = await api.raw(head, b"value %d" % number)
            assert (status, key) == (200, key)
            found = await api.mesh.retrieve_data(key)
            assert (found.value, headers["etag"]) == (b"value %d" % number, f'"{found.version}"')
        for number, key in enumerate(KEYS):
            status, _, value = await api.raw(b"GET /api/v1/data/default/" + path_of(key) + b" HTTP/1.1")
            assert (status, value) == (200, b"value %d" % number), key
        assert api.mesh.data_summary().entries == len(KEYS)
        listed = (await api.ask("GET", f"{DATA}?limit=1000")).json()["keys"]
        shown = [base64.b64decode(one["key_base64"]) if one["key"] is None else one["key"].encode() for one in listed]
        assert shown == sorted(KEYS)
        assert all((one["key"] is None) != (one["key_base64"] is None) for one in listed)
        for key in KEYS:
            status, _, _ = await api.raw(b"DELETE /api/v1/data/default/" + path_of(key) + b" HTTP/1.1")
            assert status == 200
        assert api.mesh.data_summary().entries == 0


async def test_keys_that_cannot_be_are_refused() -> None:
    async with served() as api:
        too_long = "k" * 1025
        await api.problem("PUT", f"{DATA}/{too_long}", 400, "LocalProtocolError", content=b"v")
        await api.problem("PUT", f"{DATA}/", 404, "NotFoundError", content=b"v")
        await api.problem("PUT", "/api/v1/data/nowhere/k", 404, "NotFoundError", content=b"v")
        await api.problem("GET", "/api/v1/data/nowhere", 404, "NotFoundError")
        status, _, body = await api.raw("PUT /api/v1/data/default/a%zz HTTP/1.1", b"v")
        assert (status, json.loads(body)["error"]) == (400, "LocalProtocolError")


async def test_keys_are_listed_a_page_at_a_time_with_a_prefix_of_any_bytes() -> None:
    async with served() as api:
        keys = [b"a/%d" % n for n in range(7)] + [b"b", b"\xff\x01", b"\xff\x02", b"\xff\xff"]
        for key in keys:
            await api.mesh.store_data(key, b"v")
        found, cursor, pages = [], None, 0
        while True:
            query = {"prefix": "a/", "limit": "3", **({} if cursor is None else {"cursor": cursor})}
            page = (await api.ask("GET", DATA, params=query)).json()
            found += [one["key"] for one in page["keys"]]
            pages, cursor = pages + 1, page["next"]
            assert len(page["keys"]) <= 3
            if cursor is None:
                break
        assert (found, pages) == ([f"a/{n}" for n in range(7)], 3)
        page = (await api.ask("GET", f"{DATA}?prefix=%ff")).json()
        assert [base64.b64decode(one["key_base64"]) for one in page["keys"]] == keys[-3:]
        for wrong in ("limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "cursor=%21", "nonsense=1", "prefix=%"):
            await api.problem("GET", f"{DATA}?{wrong}", 400, "LocalProtocolError")


async def test_a_value_keeps_its_bytes_whatever_its_type_is_called() -> None:
    async with served() as api:
        value = bytes(range(256)) * 5000  # in chunks in the store
        for kind in (
            "application/json",
            "multipart/form-data; boundary=x",
            "text/html",
            "application/x-www-form-urlencoded",
        ):
            await api.ask("PUT", f"{DATA}/k", content=value, headers={"Content-Type": kind})
            answer = await api.ask("GET", f"{DATA}/k")
            assert (answer.content, answer.headers["content-type"]) == (value, "application/octet-stream")
        await api.ask("PUT", f"{DATA}/empty")
        assert (await api.ask("GET", f"{DATA}/empty")).content == b""
        assert answer.headers["bms-author"] == api.mesh.node_id


async def test_a_version_is_the_entity_tag_and_conditions_hold() -> None:
    async with served() as api:
        first = await api.ask("PUT", f"{DATA}/k", content=b"1", headers={"If-None-Match": "*"})
        tag = first.headers["etag"]
        assert tag == f'"{first.json()["version"]}"' == f'"{first.headers["bms-version"]}"'
        problem = await api.problem(
            "PUT", f"{DATA}/k", 412, "VersionConflictError", content=b"2", headers={"If-None-Match": "*"}
        )
        assert f'"{problem["current"]}"' == tag
        second = await api.ask("PUT", f"{DATA}/k", content=b"2", headers={"If-Match": f'"x", {tag}'})
        stale = {"If-Match": tag}
        await api.problem("PUT", f"{DATA}/k", 412, "VersionConflictError", content=b"3", headers=stale)
        await api.problem("DELETE", f"{DATA}/k", 412, "VersionConflictError", headers=stale)
        assert (await api.ask("GET", f"{DATA}/k")).content == b"2"

        tag = second.headers["etag"]
        unchanged = await api.ask("GET", f"{DATA}/k", 304, headers={"If-None-Match": tag})
        assert (unchanged.content, unchanged.headers["etag"]) == (b"", tag)
        await api.ask("GET", f"{DATA}/k", 304, headers={"If-None-Match": f"W/{tag}"})
        await api.ask("GET", f"{DATA}/k", headers={"If-None-Match": '"other"', "If-Match": tag})
        await api.ask("GET", f"{DATA}/k", 412, headers={"If-Match": '"other"'})
        await api.problem("GET", f"{DATA}/k", 400, "LocalProtocolError", headers={"If-Match": "no tag"})

        await api.ask("DELETE", f"{DATA}/k", headers={"If-Match": tag})
        await api.problem("GET", f"{DATA}/k", 404, "NotFoundError")
        await api.problem("DELETE", f"{DATA}/k", 404, "NotFoundError")
        await api.problem("DELETE", f"{DATA}/k", 412, "VersionConflictError", headers={"If-Match": "*"})
        await api.ask("PUT", f"{DATA}/k", content=b"4", headers={"If-None-Match": "*"})


@pytest.mark.parametrize("persistent", [False, True])
async def test_of_many_that_create_a_key_at_once_one_does(persistent: bool) -> None:
    async with served(enable_persistence=persistent) as api:
        statuses: list[int] = []

        async def create(number: int) -> None:
            answer = await api.client.put(f"{DATA}/lock", content=b"%d" % number, headers={"If-None-Match": "*"})
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                assert (await api.mesh.retrieve_data("lock")).value == b"%d" % number

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(create, number)
        assert sorted(statuses) == [200] + 19 * [412]


async def test_counting_with_if_match_loses_nothing() -> None:
    async with served(enable_persistence=True) as api:
        await api.ask("PUT", f"{DATA}/n", content=b"0")

        async def count() -> None:
            done = 0
            while done < 5:
                now = await api.ask("GET", f"{DATA}/n")
                more = b"%d" % (int(now.content) + 1)
                tag = now.headers["etag"]
                done += (await api.client.put(f"{DATA}/n", content=more, headers={"If-Match": tag})).status_code == 200

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(count)
        assert (await api.mesh.retrieve_data("n")).value == b"30"


async def test_a_value_can_end_by_itself() -> None:
    async with served() as api:
        await api.ask("PUT", f"{DATA}/k?ttl_s=0.05", content=b"v")
        await until_answer(lambda: api.client.get(f"{DATA}/k"), 404)
        await api.ask("PUT", f"{DATA}/k", content=b"v", headers={"If-None-Match": "*"})
        for wrong in ("0", "-1", "nan", "inf", "x"):
            await api.problem("PUT", f"{DATA}/k?ttl_s={wrong}", 400, "LocalProtocolError", content=b"v")


# ---------------------------------------------------------------------- what is refused


async def test_paths_that_are_none_are_problems_and_nothing_is_redirected() -> None:
    async with served() as api:
        for path in ("/nope", "/api", "/api/v1/nope", "/api/v1//nodes", "//api/v1/nodes", "/api/v1/nodes/", "/static",
                     "/static/nope.js", "/API/v1/nodes", "/x" * 500):  # fmt: skip
            status, headers, body = await api.raw(f"GET {path} HTTP/1.1")
            assert (path, status, headers["content-type"]) == (path, 404, "application/problem+json")
            assert json.loads(body)["error"] == "NotFoundError"


TRICKS = [
    "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/.",
    "/static/%2fetc%2fpasswd", "/static/..\\app.py", "/static/%5c..%5capp.py", "/static/index.html%00.js",
    "/static/./index.html", "/docs/../static/index.html", "/docs/..", "/static/..;/app.py", "/static/",
]  # fmt: skip


async def test_no_path_leads_out_of_the_static_files() -> None:
    async with served() as api:
        for path in TRICKS:
            status, _, body = await api.raw(f"GET {path} HTTP/1.1", token=False)
            assert status in (400, 404), path
            assert b"make_app" not in body
            assert b"root:" not in body


async def test_methods_that_are_none_say_which_there_are() -> None:
    async with served() as api:
        answer = await api.ask("DELETE", "/api/v1/nodes", 405)
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
        await api.problem("BREW", f"{DATA}/k", 405, "LocalProtocolError")
        answer = await api.ask("OPTIONS", f"{DATA}/k", 204)
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PUT"
        answer = await api.ask("OPTIONS", "/livez", 204)
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
        assert api.mesh.data_summary().entries == 0


async def test_head_is_get_without_its_body() -> None:
    async with served() as api:
        await api.mesh.store_data("k", b"value")
        for path in ("/livez", "/api/v1/nodes", f"{DATA}/k", "/", "/openapi.json"):
            head, whole = await api.ask("HEAD", path), await api.ask("GET", path)
            assert head.content == b""
            same = {"content-type", "etag", "bms-version"}
            assert {name: head.headers.get(name) for name in same} == {name: whole.headers.get(name) for name in same}
        assert head.headers["content-length"] == str(len(whole.content))


async def test_bodies_that_are_no_strict_json_are_refused_and_do_nothing() -> None:
    async with served() as api:
        path, json_type = "/api/v1/broadcast", {"Content-Type": "application/json"}
        before = api.mesh.counters["messaging.broadcast"]
        wrong = [
            b"", b"{", b"[" * 100_000, b'{"body":"' + b"\xff" + b'"}', b'{"body":"a","body":"b"}', b'{"body":NaN}',
                 b'{"body":"a","other":1}', b'{"body":1}', b"[]", b"null", b'{"body":"\\ud800"}', b'{"body":"a"} x',
                 b'{"topic":"t"}', b'{"body":"a","body_base64":"YQ=="}', b'{"body_base64":"%%%"}', b"9" * 5000,
                 b'{"a":' * 500 + b"1" + b"}" * 500, b'{"topic":"$bms/links","body":"x"}',
            b'{"topic":"*","body":"x"}',
        ]  # fmt: skip
        for body in wrong:
            await api.problem("POST", path, 400, "LocalProtocolError", content=body, headers=json_type)
        for kind in ("", "text/plain", "application/xml", "application/json; charset=utf-16"):
            headers = {"Content-Type": kind} if kind else {}
            await api.problem("POST", path, 415, "LocalProtocolError", content=b'{"body":"a"}', headers=headers)
        for coding in ("gzip", "deflate, br", "x"):
            headers = {**json_type, "Content-Encoding": coding}
            await api.problem("POST", path, 415, "LocalProtocolError", content=b'{"body":"a"}', headers=headers)
            await api.problem(
                "PUT", f"{DATA}/k", 415, "LocalProtocolError", content=b"v", headers={"Content-Encoding": coding}
            )
        assert api.mesh.counters["messaging.broadcast"] == before
        assert api.mesh.data_summary().entries == 0
        await api.ask("POST", path, json={"body": "a"}, headers={"Content-Encoding": "identity"})


async def test_bodies_have_a_bounded_size_declared_or_not() -> None:
    async with served(http={"body_bytes_max": 64 * 1024}) as api:
        big = b"x" * (64 * 1024 + 1)
        chunked = b"".join(b"2710\r\n" + big[:10_000] + b"\r\n" for _ in range(7)) + b"0\r\n\r\n"
        for header, body in (("", big), ("\r\nTransfer-Encoding: chunked", chunked)):
            status, headers, _ = await api.raw(f"PUT {DATA}/k HTTP/1.1{header}", body)
            assert (status, headers["content-type"]) == (413, "application/problem+json")
        await api.ask("PUT", f"{DATA}/k", content=big[1:])
        step = {"node0": [0] * 40_000, "node1": [1] * 40_000}
        for token in (True, False):
            body = json.dumps(step).encode()[: 64 * 1024 + 1]
            status, _, _ = await api.raw(
                "POST /api/Bellande_Step/bellande_step_nd HTTP/1.1\r\nContent-Type: application/json", body, token=token
            )
            assert status == 413
        await api.problem("POST", "/api/v1/login", 413, "LimitError", json={"code": "x" * 5000})


async def test_values_above_the_nodes_limit_are_refused() -> None:
    async with served(limits={"value_bytes_max": 65536}) as api:
        await api.problem("PUT", f"{DATA}/k", 413, "LimitError", content=b"x" * 65537)
        await api.ask("PUT", f"{DATA}/k", content=b"x" * 65536)


# ---------------------------------------------------------------------- tokens, hosts, origins


async def test_a_token_comes_before_everything_else() -> None:
    async with served() as api:
        bare = {"Authorization": ""}
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/api/v1/nodes?nonsense=1", {}),
            ("GET", "/api/v1/nope", {}),
            ("BREW", "/api/v1/nodes", {}),
            ("OPTIONS", "/api/v1/nodes", {}),
            ("PUT", f"{DATA}/k", {"content": b"v", "headers": {"Content-Encoding": "gzip"}}),
            ("POST", "/api/v1/messages", {"content": b"nonsense"}),
            ("GET", "/metrics", {}),
            ("GET", "/status", {}),
            ("POST", "/join", {"content": b"nonsense"}),
        ]
        for method, path, more in asked:
            answer = await api.ask(method, path, 401, **{**more, "headers": {**more.get("headers", {}), **bare}})
            assert answer.headers["www-authenticate"].startswith('Bearer realm="bms"')
            assert answer.json()["error"] == "RefusedError"
        for wrong in ("Bearer nonsense", "Bearer bms_0000000000000000_" + "a" * 43, "Basic YTpi", "Bearer"):
            await api.ask("GET", "/api/v1/whoami", 401, headers={"Authorization": wrong})


async def test_a_token_that_has_ended_opens_nothing() -> None:
    async with served() as api:
        token = await api.mesh.issue_token(["*"], ttl_s=0.05)
        brief = {"Authorization": f"Bearer {token}"}
        await until_answer(lambda: api.client.get("/api/v1/whoami", headers=brief), 401)
        issued = (await api.ask("POST", "/api/v1/tokens", 201, json={"scopes": ["*"]})).json()
        headers = {"Authorization": f"Bearer {issued['token']}"}
        assert (await api.ask("GET", "/api/v1/whoami", headers=headers)).json()["scopes"] == ["*"]
        await api.ask("DELETE", f"/api/v1/tokens/{issued['claims']['token_id']}", 204)
        await api.ask("GET", "/api/v1/whoami", 401, headers=headers)
        await api.problem("DELETE", f"/api/v1/tokens/{issued['claims']['token_id']}", 404, "NotFoundError")


async def test_nobody_gets_or_ends_more_than_they_have() -> None:
    async with served() as api:
        token = await api.mesh.issue_token(["tokens:*", "data:read"])
        mine = {"Authorization": f"Bearer {token}"}
        await api.ask("POST", "/api/v1/tokens", 201, json={"scopes": ["data:read"]}, headers=mine)
        for scopes in (["*"], ["data:*"], ["data:read", "config:write"], ["*:read"]):
            await api.problem("POST", "/api/v1/tokens", 403, "RefusedError", json={"scopes": scopes}, headers=mine)
        everything = api.mesh.tokens()[0].token_id
        await api.problem("DELETE", f"/api/v1/tokens/{everything}", 403, "RefusedError", headers=mine)
        await api.problem("POST", "/api/v1/tokens", 400, "LocalProtocolError", json={"scopes": ["nope"]})
        me = (await api.ask("GET", "/api/v1/whoami", headers=mine)).json()["token_id"]
        await api.ask("DELETE", f"/api/v1/tokens/{me}", 204, headers=mine)


async def test_a_login_code_is_good_once_whatever_others_of_the_same_address_have_tried() -> None:
    async with served() as api:
        code = api.mesh.issue_login(["status:read"])
        bare = {"Authorization": ""}
        for _ in range(20):
            await api.problem("POST", "/api/v1/login", 403, "RefusedError", json={"code": "x"}, headers=bare)
        found = (await api.ask("POST", "/api/v1/login", json={"code": code}, headers=bare)).json()
        assert found["scopes"] == ["status:read"]
        headers = {"Authorization": f"Bearer {found['token']}"}
        await api.ask("GET", "/api/v1/status", headers=headers)
        await api.problem("POST", "/api/v1/login", 403, "RefusedError", json={"code": code}, headers=bare)


async def test_only_the_nodes_names_and_origins_get_an_answer() -> None:
    async with served(http={"allowed_hosts": ["mesh.example.org"]}) as api:
        for host in ("localhost", "127.0.0.1:1234", "[::1]:80", "mesh.example.org", "MESH.example.org.:443"):
            status, _, _ = await api.raw(f"GET /livez HTTP/1.1\r\nHost: {host}")
            assert (host, status) == (host, 200)
        for path in ("/livez", "/", "/api/v1/nodes", "/openapi.json"):
            status, headers, body = await api.raw(f"GET {path} HTTP/1.1\r\nHost: attacker.example")
            assert (status, headers["content-type"]) == (421, "application/problem+json")
            assert json.loads(body)["error"] == "RefusedError"
        port = api.client.base_url.port
        for method in ("GET", "POST", "OPTIONS"):
            head = f"{method} /api/v1/nodes HTTP/1.1\r\nOrigin: https://attacker.example"
            status, headers, _ = await api.raw(f"{head}\r\nAccess-Control-Request-Method: GET")
            assert (method, status) == (method, 403)
            assert not [name for name in headers if name.startswith("access-control")]
        own = f"Host: localhost:{port}\r\nOrigin: http://localhost:{port}"
        status, headers, _ = await api.raw(f"GET /api/v1/nodes HTTP/1.1\r\n{own}")
        assert (status, "access-control-allow-origin" in headers) == (200, False)
        for target, host, said in (
            ("http://localhost/livez", "localhost", 200),
            ("HTTP://127.0.0.1:7801/livez", "attacker.example", 200),  # RFC 9112, section 3.2.2
            ("http://attacker.example/livez", "localhost", 421),
            ("https://attacker.example/livez", "localhost", 421),
            ("http://localhost@attacker.example/livez", "localhost", 400),
            ("http:///livez", "localhost", 400),
            ("ftp://localhost/livez", "localhost", 400),
        ):
            status, _, _ = await api.raw(f"GET {target} HTTP/1.1\r\nHost: {host}")
            assert (target, status) == (target, said)
        status, _, _ = await api.raw("GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\nHost: other")
        assert status == 400
        status, _, _ = await api.raw(
            f"POST http://localhost:{port}/livez HTTP/1.1\r\nHost: attacker.example\r\nOrigin: http://attacker.example"
        )
        assert status == 403
        status, _, _ = await api.raw("GET /livez HTTP/1.0")
        assert status == 200


async def test_pages_of_allowed_origins_may_ask_and_read() -> None:
    async with served(http={"allowed_origins": ["https://dash.example.org"]}) as api:
        origin = {"Origin": "https://dash.example.org"}
        asks = {**origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
        answer = await api.ask("OPTIONS", f"{DATA}/k", 204, headers={**asks, "Authorization": ""})
        assert answer.headers["access-control-allow-origin"] == "https://dash.example.org"
        assert "PUT" in answer.headers["access-control-allow-methods"]
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        answer = await api.ask("GET", "/api/v1/nodes", headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://dash.example.org"
        assert answer.headers["vary"] == "Origin"
        assert "ETag" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        await api.problem("GET", "/api/v1/nodes", 403, "RefusedError", headers={"Origin": "https://other.example.org"})
        answer = await api.ask("GET", "/api/v1/nodes")
        assert "access-control-allow-origin" not in answer.headers


async def test_every_answer_carries_the_headers_that_keep_browsers_honest() -> None:
    async with served() as api:
        for path, status in (("/", 200), ("/livez", 200), ("/api/v1/nodes", 200), ("/nope", 404), (f"{DATA}/x", 404),
                             ("/static/icon.svg", 200), ("/api/v1/report", 200), ("/docs", 200)):  # fmt: skip
            headers = (await api.ask("GET", path, status)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            policy = headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert "default-src 'none'" in policy or "default-src 'self'" in policy
            assert "script-src 'unsafe" not in policy
            assert headers["cache-control"] == (
                "no-cache" if path in ("/", "/docs", "/static/icon.svg") else "no-store"
            )
            assert "server" not in headers


# ---------------------------------------------------------------------- nodes, messages, settings


async def test_nodes_are_listed_a_page_at_a_time_this_one_first() -> None:
    async with served() as api:
        async with bms.open_mesh(
            dev_mode=True, node_name="n2", enable_persistence=False, enable_discovery=False,
            bootstrap_nodes=[str(api.mesh.address)],
        ) as other:  # fmt: skip
            await until(lambda: len(api.mesh.nodes("alive")) == len(other.nodes("alive")) == 2)
            first = (await api.ask("GET", "/api/v1/nodes?limit=1")).json()
            assert [node["node_id"] for node in first["nodes"]] == [api.mesh.node_id]
            second = (await api.ask("GET", f"/api/v1/nodes?limit=1&cursor={first['next']}")).json()
            assert [node["node_id"] for node in second["nodes"]] == [other.node_id]
            assert second["next"] is None
            await api.problem("GET", "/api/v1/nodes?cursor=nonsense", 400, "LocalProtocolError")
            await api.problem("GET", "/api/v1/nodes?state=undead", 400, "LocalProtocolError")
            await api.problem("GET", f"/api/v1/nodes/{ELSEWHERE}", 404, "NotFoundError")
            await api.problem("DELETE", f"/api/v1/nodes/{other.node_id}", 400, "LocalProtocolError")
            tags: dict[str, Any] = {"json": {"tags": {"a": "b"}}}
            await api.problem("PATCH", f"/api/v1/nodes/{other.node_id}", 400, "LocalProtocolError", **tags)
            assert (await api.ask("PATCH", f"/api/v1/nodes/{api.mesh.node_id}", **tags)).json()["tags"] == {"a": "b"}
            cleared = await api.ask("PATCH", f"/api/v1/nodes/{api.mesh.node_id}", json={"tags": {"a": None}})
            assert cleared.json()["tags"] == {}


async def test_the_whole_topology_has_the_links_that_the_others_say_they_have() -> None:
    async with served() as api:
        first = str(api.mesh.address)
        quiet: dict[str, Any] = {"enable_persistence": False, "enable_discovery": False, "bootstrap_nodes": [first]}
        async with (
            bms.open_mesh(dev_mode=True, node_name="n2", **quiet) as two,
            bms.open_mesh(dev_mode=True, node_name="n3", **quiet) as three,
        ):
            ids = {api.mesh.node_id, two.node_id, three.node_id}

            async def seen() -> set[tuple[str, str]]:
                found = (await api.ask("GET", "/api/v1/topology?scope=mesh")).json()
                assert set(found["asked"]) <= ids - {api.mesh.node_id}
                return {(link["by"], link["node_id"]) for link in found["links"]}

            with trio.fail_after(60):
                while await seen() != {(a, b) for a in ids for b in ids if a != b}:  # noqa: ASYNC110 - no event
                    await trio.sleep(0.1)
            mine = (await api.ask("GET", "/api/v1/topology")).json()
            assert {link["by"] for link in mine["links"]} == {api.mesh.node_id}
            assert mine["asked"] == []


async def test_messages_arrive_as_text_or_bytes_and_failures_have_their_status() -> None:
    async with served() as api:
        async with api.mesh.subscribe("t") as messages:
            me = api.mesh.node_id
            await api.ask("POST", "/api/v1/messages", json={"to": me, "topic": "t", "body": "grüße"})
            raw = base64.b64encode(b"\x00\xff").decode()
            await api.ask("POST", "/api/v1/messages", json={"to": me, "topic": "t", "body_base64": raw})
            bodies = []
            with trio.fail_after(30):
                async for message in messages:
                    assert isinstance(message, bms.Message)
                    bodies.append(message.body)
                    if len(bodies) == 2:
                        break
            assert bodies == ["grüße".encode(), b"\x00\xff"]
        unknown = {"to": ELSEWHERE, "body": "x"}
        await api.problem("POST", "/api/v1/messages", 404, "NotFoundError", json=unknown)
        await api.problem("POST", "/api/v1/messages", 400, "LocalProtocolError", json={"to": "x", "body": "x"})
        large = {"to": me, "body": "x" * (api.mesh.config.limits.body_bytes_max + 1)}
        await api.problem("POST", "/api/v1/messages", 413, "LimitError", json=large)
        await api.problem("POST", "/api/v1/nodes", 502, "UnreachableError", json={"address": "127.0.0.1:1"})
        await api.problem("POST", "/join", 400, "LocalProtocolError", json={"address": "nonsense"})


async def test_a_full_queue_is_too_many_requests() -> None:
    async with served(limits={"inbox_messages_max": 2}) as api:
        message = {"to": api.mesh.node_id, "topic": "nobody", "body": "x"}
        for _ in range(2):
            await api.ask("POST", "/api/v1/messages", json=message)
        problem = await api.ask("POST", "/api/v1/messages", 429, json={**message, "deadline_s": 0.05})
        assert problem.json()["error"] == "LimitError"
        assert "retry-after" in problem.headers


async def test_settings_change_all_or_nothing() -> None:
    async with served() as api:
        settings = {"gossip.keepalive_interval_s": 3.0, "sync_interval": 11}
        changes = (await api.ask("PATCH", "/api/v1/config", json={"settings": settings})).json()
        assert set(changes["fields"]) == set(settings)
        shown = (await api.ask("GET", "/api/v1/config")).json()["settings"]
        assert (shown["gossip.keepalive_interval_s"], shown["sync_interval"]) == (3.0, 11)
        for wrong in (
            {"nope": 1}, {"gossip.nope": 1}, {"nope.x": 1}, {"sync_interval": "x"}, {"sync_interval": -1},
            {"mesh_name": "other"}, {"http.cert_path": "/etc/passwd"}, {"persistence_path": "/tmp"},
            {"http": {"cert_path": "/etc/passwd", "key_path": "/etc/passwd"}}, {"http": {"requests_per_s": 5}},
            {"http": "x", "http.requests_per_s": 5}, {"config": "x"}, {"config": None}, {"self": 1}, {"": 1},
        ):  # fmt: skip
            mixed = {"settings": {"sync_interval": 12, **wrong}}
            problem = await api.problem("PATCH", "/api/v1/config", 422, "ConfigError", json=mixed)
            assert problem["field"] in {*wrong, "nope"}
        assert api.mesh.config.sync_interval == 11


async def test_an_address_that_cannot_be_listened_at_changes_nothing() -> None:
    async with served() as api:
        before = api.mesh.http_url
        for name in ("http_address", "listen_address"):
            asked = {"settings": {name: "a" * 70 + ":1"}}  # longer than a part of a host name can be
            once = {"Connection": "close"}  # the server that was to move closes those that there are
            await api.problem("PATCH", "/api/v1/config", 502, "UnreachableError", json=asked, headers=once)
        assert api.mesh.http_url == before
        await api.ask("GET", "/api/v1/status")


async def test_a_tag_may_have_any_name() -> None:
    async with served() as api:
        path = f"/api/v1/nodes/{api.mesh.node_id}"
        assert (await api.ask("PATCH", path, json={"tags": {"self": "x"}})).json()["tags"] == {"self": "x"}


async def test_the_server_can_be_moved_by_a_request_to_itself() -> None:
    async with served() as api:
        before = api.mesh.http_url
        with trio.fail_after(60):
            await api.ask("PATCH", "/api/v1/config", json={"settings": {"http_address": "[::1]:0"}})
        assert api.mesh.http_url not in (before, None)
        token = api.client.headers["Authorization"]
        assert api.mesh.http_url is not None
        async with httpx.AsyncClient(base_url=api.mesh.http_url, trust_env=False) as client:
            answer = await client.get("/api/v1/whoami", headers={"Authorization": token})
        assert answer.status_code == 200


async def test_the_log_is_read_from_where_one_was() -> None:
    async with served() as api:
        logger = logging.getLogger("bms.test")
        start = (await api.ask("GET", "/api/v1/logs")).json()["next"]
        for number in range(3):
            logger.warning("line %d \udcff", number)
        first = (await api.ask("GET", f"/api/v1/logs?since={start}&limit=2")).json()
        mine = [record for record in first["records"] if record["logger"] == "bms.test"]
        assert [record["text"][:6] for record in mine] == ["line 0", "line 1"]
        rest = (await api.ask("GET", f"/api/v1/logs?since={first['next']}")).json()
        assert [record["text"][:6] for record in rest["records"] if record["logger"] == "bms.test"] == ["line 2"]


# ---------------------------------------------------------------------- the step, health, crashes


@pytest.mark.parametrize("form", ["html", "json", "text"])
async def test_the_report_has_the_log_for_those_who_may_read_the_log(form: str) -> None:
    async with served() as api:
        logging.getLogger("bms.store").warning("only for readers of the log")
        path = f"/api/v1/report?format={form}"
        for scopes, has_it in ((["status:read"], False), (["status:read", "logs:read"], True)):
            headers = {"Authorization": f"Bearer {await api.mesh.issue_token(scopes)}"}
            assert ("only for readers of the log" in (await api.ask("GET", path, headers=headers)).text) == has_it


async def test_statistics_show_no_keys_nodes_topics_or_errors_to_who_may_not_read_those() -> None:
    secrets = ("patients", "orders", "of the program", "a-rack")
    async with served() as api:
        mesh = api.mesh
        mesh.counters.slow_s = 0.0  # whatever is done is slow
        await mesh.update_node(rack="a-rack")
        await mesh.send_message(mesh.node_id, b"x", "orders")
        mesh.log_error(ValueError("of the program"))
        await api.ask("PUT", "/api/v1/data/default/patients/alice", 200, content=b"x")
        await until(lambda: any("PUT" in str(slow.facts.get("route")) for slow in mesh.slow_operations()))
        bare = {"Authorization": f"Bearer {await mesh.issue_token(['status:read'])}"}
        for path in ("report?format=json", "report?format=html", "stats", "history", "health", "sync", "status"):
            text = (await api.ask("GET", f"/api/v1/{path}", headers=bare)).text
            assert [secret for secret in secrets if secret in text] == [], path
        assert (await api.ask("GET", "/api/v1/report?format=json", headers=bare)).json()["nodes"] == []
        text = (await api.ask("GET", "/api/v1/report?format=json")).text
        assert [secret for secret in secrets if secret in text] == ["orders", "of the program", "a-rack"]


async def test_there_is_one_measurement_at_a_time() -> None:
    asked: dict[str, Any] = {"json": {"seconds": 10}}
    async with served() as api, bms.open_mesh(dev_mode=True, node_name="n2", enable_discovery=False) as other:
        await api.mesh.register_node(str(other.address))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(api.mesh.measure_performance, 10))
            await until(lambda: api.mesh._is_measuring)
            await api.problem("POST", "/api/v1/performance", 429, "LimitError", **asked)
            nursery.cancel_scope.cancel()
        await api.ask("POST", "/api/v1/performance", json={"seconds": 0.01})


async def test_the_step_is_that_of_the_public_service() -> None:
    async with served() as api:
        path, bare = "/api/Bellande_Step/bellande_step_", {"Authorization": "nonsense"}
        body: dict[str, Any] = {"node0": [0, 0, 0], "node1": [100, 100, 100], "limit": 75, "dimensions": 3, "auth": 5}
        found = (await api.ask("POST", f"{path}nd", json=body, headers=bare)).json()["next_step"]
        assert found == pytest.approx([43.301270189] * 3)
        plane = {"node0": {"x": 0, "y": 0}, "node1": {"x": 5, "y": 5}, "auth": "anything"}
        found = (await api.ask("POST", f"{path}2d?limit=3", json=plane, headers=bare)).json()["next_step"]
        assert found == pytest.approx({"x": 2.1213203, "y": 2.1213203})
        large = {"node0": [0] * 1001, "node1": [0] * 1001, "dimensions": None}
        wrongs: list[dict[str, Any]] = [
            {"node1": [1, 2]}, {"node1": [1, 2, None]}, {"limit": -1}, {"dimensions": 4}, {"node0": []},
            {"node0": ["1", "2", "3"]}, large,
        ]  # fmt: skip
        for wrong in wrongs:
            await api.problem("POST", f"{path}nd", 400, "LocalProtocolError", json={**body, **wrong})
        huge = b'{"node0":[0,0],"node1":[1,1e400],"limit":1}'
        await api.problem(
            "POST", f"{path}nd", 400, "LocalProtocolError", content=huge, headers={"Content-Type": "application/json"}
        )
        for wrong in ({"node1": {"x": 5}}, {"node1": {"x": 1, "y": 1, "z": 1}}, {"node1": {"x": 1, "z": 1}}):
            await api.problem("POST", f"{path}2d", 400, "LocalProtocolError", json={**plane, **wrong})
        await api.problem("POST", f"{path}2d?limit=nan", 400, "LocalProtocolError", json=plane)
        await api.problem("POST", f"{path}11d", 404, "NotFoundError", json=plane)


async def test_health_needs_no_token_and_tells_strangers_no_reasons() -> None:
    async with served() as api:
        bare = {"Authorization": ""}
        assert (await api.ask("GET", "/livez", headers=bare)).text == "ok\n"
        assert (await api.ask("GET", "/readyz", headers=bare)).text == "ready\n"
        brief = (await api.ask("GET", "/readyz?verbose", headers=bare)).text
        whole = (await api.ask("GET", "/readyz?verbose")).text
        assert "[+] links ok\n" in brief
        assert "[+] links ok: running\n" in whole


async def test_files_are_sent_once_and_then_confirmed() -> None:
    async with served() as api:
        kinds = {
            "/": "text/html; charset=utf-8",
            "/static/icon.svg": "image/svg+xml",
            "/docs": "text/html; charset=utf-8",
            "/docs/reference.js": "text/javascript; charset=utf-8",
            "/docs/reference.css": "text/css; charset=utf-8",
            "/openapi.json": "application/json",
        }
        for path, kind in kinds.items():
            answer = await api.ask("GET", path, headers={"Authorization": ""})
            assert answer.headers["content-type"] == kind
            again = await api.ask("GET", path, 304, headers={"If-None-Match": answer.headers["etag"]})
            assert again.content == b""
            await api.ask("GET", path, headers={"If-None-Match": '"other"'})


def test_no_page_holds_script_or_style_that_its_policy_forbids() -> None:
    for folder in ("static", "docs"):
        pages = sorted((ROOT / "bms" / "api" / folder).rglob("*.html"))
        assert pages
        for page in pages:
            text = page.read_text(encoding="utf-8")
            assert not re.search(r"<script(?![^>]*\bsrc=)", text), page
            assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text), page
            assert not re.search(r'(?:src|href)="(?:https?:)?//', text), page


async def test_a_bug_costs_one_request_and_says_nothing_of_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(call: Call) -> Response:
        """Fail as no view should."""
        async with trio.open_nursery():
            raise RuntimeError("secret detail")

    monkeypatch.setattr(app, "ROUTES", (*ROUTES, Route("GET", "/broken", broken, "status", None, answers={200: None})))
    async with served() as api:
        problem = await api.problem("GET", "/broken", 500, "MeshError")
        assert "secret" not in json.dumps(problem)
        assert "RuntimeError: secret detail" in caplog.text
        assert api.mesh.counters["http.crashes"] == 1
        await api.ask("GET", "/livez")


async def test_requests_are_counted_by_route_and_status() -> None:
    async with served() as api:
        for _ in range(3):
            await api.ask("GET", "/api/v1/nodes")
        await api.ask("GET", f"{DATA}/one", 404)
        await api.ask("GET", f"{DATA}/two", 404)
        await api.ask("GET", "/nope", 404)
        counted = api.mesh.counters.labelled("http.routes")
        assert counted["GET /api/v1/nodes", "200"] == 3
        assert counted["GET /api/v1/data/{space}/{key}", "404"] == 2
        assert counted["none", "404"] == 1


async def test_a_request_that_takes_too_long_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = trio.Event()

    async def endless(call: Call) -> Response:
        """Wait for what never comes."""
        try:
            return await trio.sleep_forever()
        finally:
            ended.set()

    route = Route("GET", "/endless", endless, "status", None, answers={200: None}, deadline_s=0.05)
    monkeypatch.setattr(app, "ROUTES", (*ROUTES, route))
    async with served() as api:
        await api.problem("GET", "/endless", 504, "DeliveryError")
        assert ended.is_set()
