"""Every route and method of the running application, taken from its own OpenAPI document, without the token it needs.

The table `SCOPES_OF` says what each operation needs. It stands here a second time on purpose: a route that is new, has
gone, or needs something else than before fails a test until somebody has said so here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio

import bms
from bms.security.tokens import SCOPES
from helpers import until

PUBLIC, ANY_TOKEN = None, ""
ID = "0" * 64

SCOPES_OF: dict[str, str | None] = {
    "GET /livez": PUBLIC,
    "GET /readyz": PUBLIC,
    "GET /openapi.json": PUBLIC,
    "GET /docs": PUBLIC,
    "GET /docs/{name}": PUBLIC,
    "GET /": PUBLIC,
    "GET /static/{name}": PUBLIC,
    "POST /api/v1/login": PUBLIC,
    "POST /api/Bellande_Step/bellande_step_nd": PUBLIC,
    **{f"POST /api/Bellande_Step/bellande_step_{number}d": PUBLIC for number in range(2, 11)},
    "GET /api/v1/whoami": ANY_TOKEN,
    "GET /metrics": "status:read",
    "GET /status": "status:read",
    "GET /api/v1/status": "status:read",
    "GET /api/v1/stats": "status:read",
    "GET /api/v1/health": "status:read",
    "GET /api/v1/history": "status:read",
    "GET /api/v1/report": "status:read",
    "POST /api/v1/performance": "status:read",
    "GET /api/v1/topology": "nodes:read",
    "GET /api/v1/nodes": "nodes:read",
    "GET /api/v1/nodes/nearest": "nodes:read",
    "GET /api/v1/nodes/{node_id}": "nodes:read",
    "POST /api/v1/nodes": "nodes:write",
    "POST /join": "nodes:write",
    "DELETE /api/v1/nodes/{node_id}": "nodes:write",
    "PATCH /api/v1/nodes/{node_id}": "nodes:write",
    "GET /api/v1/data/{space}": "data:read",
    "GET /api/v1/data/{space}/{key}": "data:read",
    "PUT /api/v1/data/{space}/{key}": "data:write",
    "DELETE /api/v1/data/{space}/{key}": "data:write",
    "GET /api/v1/sync": "status:read",
    "POST /api/v1/sync": "data:write",
    "POST /api/v1/messages": "messages:write",
    "POST /api/v1/broadcast": "messages:write",
    "GET /api/v1/config": "config:read",
    "PATCH /api/v1/config": "config:write",
    "GET /api/v1/logs": "logs:read",
    "GET /api/v1/tokens": "tokens:read",
    "POST /api/v1/tokens": "tokens:write",
    "DELETE /api/v1/tokens/{token_id}": "tokens:write",
    # What it shows depends on the scopes; see below.
    "GET /api/v1/events": ANY_TOKEN,
    "GET /api/v1/events/stream": ANY_TOKEN,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
STREAMS = {"GET /api/v1/events", "GET /api/v1/events/stream"}
EVENTS = {
    "node": "nodes:read",
    "data": "data:read",
    "message": "messages:read",
    "health": "status:read",
    "stats": "status:read",
    "log": "logs:read",
}


@attrs.frozen
class Served:
    """A node with its interface, and a client that shows no token by itself."""

    mesh: bms.Mesh
    url: str
    http: httpx.AsyncClient

    async def ask(self, operation: str, token: str | None = None, **more: Any) -> httpx.Response:
        """One request for an operation, with what the token of `Bearer` is."""
        method, path = operation.split(" ")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        names = {"{node_id}": ID, "{space}": "default", "{key}": "kept", "{token_id}": "0" * 16, "{name}": "x.css"}
        for name, value in names.items():
            path = path.replace(name, value)
        assert "{" not in path, f"{operation}: a parameter that is new here"
        return await self.http.request(method, path, headers={**headers, **more.pop("headers", {})}, **more)

    async def say(self, line: str, *fields: str) -> tuple[int, str]:
        """A request as it is written here, over a connection of its own; the status and the rest of the answer."""
        place = httpx.URL(self.url)
        assert place.port is not None
        head = "\r\n".join([f"{line} HTTP/1.1", f"Host: {place.netloc.decode()}", *fields, "", ""])
        async with await trio.open_tcp_stream(place.host, place.port) as stream:
            await stream.send_all(head.encode("latin-1"))
            answer = b""
            with trio.fail_after(30):
                while data := await stream.receive_some():
                    answer += data
                    begun, _, body = answer.decode("latin-1").partition("\r\n\r\n")
                    is_whole = f"content-length: {len(body)}\r\n" in begun.lower() + "\r\n"
                    if is_whole or (" 101 " in begun and ('"hello"' in body or "\x88" in body)):
                        break  # a WebSocket says hello or goodbye; a ping may come before that
        return int(answer[9:12]), answer[13:].decode("latin-1")

    async def operations(self) -> dict[str, dict[str, Any]]:
        """Every operation of the document: "GET /livez" and what is said of it."""
        paths = (await self.ask("GET /openapi.json")).json()["paths"]
        return {
            f"{method.upper()} {path}": said
            for path, methods in paths.items()
            for method, said in methods.items()
            if method.upper() in METHODS
        }

    async def state(self) -> Any:
        """What a request could have changed."""
        mesh = self.mesh
        return (
            *(mesh.config, mesh.tokens(), mesh.data_summary(), (await mesh.retrieve_data("kept")).value),
            [(node.node_id, node.tags, node.state) for node in mesh.nodes()],
            {name: count for name, count in mesh.collect_stats().counters.items() if name.startswith("messages")},
        )


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    """A node that takes as many requests as a test has."""
    config: dict[str, Any] = {"dev_mode": True, "enable_discovery": False, "enable_persistence": False}
    bounds = {"requests_per_s": 1e6, "connections_per_address_max": 1000}
    async with bms.open_mesh(**config, http_address="127.0.0.1:0", http=bounds) as mesh:
        await mesh.store_data("kept", b"as it was")
        assert mesh.http_url is not None
        async with httpx.AsyncClient(base_url=mesh.http_url, timeout=30) as http:
            yield Served(mesh, mesh.http_url, http)


def protected() -> list[str]:
    return [operation for operation, scope in SCOPES_OF.items() if scope is not PUBLIC]


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that an answer is; all are of one shape."""
    place = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:200]}"
    assert answer.status_code == status, place
    assert answer.headers["Content-Type"].startswith("application/problem+json"), place
    assert answer.headers["WWW-Authenticate"].startswith("Bearer"), place
    found: dict[str, Any] = answer.json()
    assert set(found) == {"type", "title", "status", "detail", "error"}, place
    assert (found["status"], found["error"]) == (status, "RefusedError"), place
    return found


# --- the table


async def test_every_operation_of_the_document_is_in_the_table_and_the_reverse() -> None:
    async with served() as node:
        found = await node.operations()
        assert set(found) - set(SCOPES_OF) == set(), "new operations: say above which scope each needs"
        assert set(SCOPES_OF) - set(found) <= {"GET /openapi.json"}, "operations that have gone"


async def test_the_document_says_of_each_operation_whether_it_needs_a_token() -> None:
    async with served() as node:
        document = (await node.ask("GET /openapi.json")).json()
        for operation, said in (await node.operations()).items():
            security = said.get("security", document.get("security", []))
            is_public = not security or {} in security
            assert is_public == (SCOPES_OF[operation] is PUBLIC), operation


# --- what is refused


async def bad_tokens(node: Served) -> dict[str, str | None]:
    """Tokens that nobody should get in with; for some, what they once were."""
    mesh = node.mesh
    good = await mesh.issue_token(["*"], name="good")
    revoked = await mesh.issue_token(["*"], name="revoked")
    await mesh.revoke(mesh.verify_token(revoked).token_id)
    async with bms.open_mesh(
        dev_mode=True, enable_discovery=False, enable_persistence=False, node_name="other"
    ) as other:
        foreign = await other.issue_token(["*"])
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    return {
        "none": None,
        "empty": "",
        "wrong": wrong,
        "cut": good[:-1],
        "longer": good + "A",
        "twice": f"{good}, {good}",
        "upper": good.upper(),
        "id alone": good.split("_")[1],
        "revoked": revoked,
        "of another node": foreign,
        "a login code": mesh.issue_login(),
        "garbage": "\\'\"; DROP TABLE tokens; --",
        "long": "bms_" + "a" * 8000,
        "high bytes": "b\xfcms_\xff",
    }


async def test_whoever_has_no_valid_token_gets_the_same_answer_everywhere_and_changes_nothing() -> None:
    async with served() as node:
        tokens = await bad_tokens(node)
        before = await node.state()
        details: dict[str, set[str]] = {}
        for operation in protected():
            for what, token in tokens.items():
                headers = {} if token is None else {"Authorization": f"Bearer {token}".strip().encode("latin-1")}
                problem = problem_of(await node.ask(operation, headers=headers), 401)
                details.setdefault(what, set()).add(json.dumps(problem))
        assert await node.state() == before
        assert {what: len(said) for what, said in details.items()} == dict.fromkeys(tokens, 1)
        assert details["wrong"] == details["revoked"] == details["of another node"] == details["garbage"]


@pytest.mark.parametrize("scheme", ["", "Basic ", "Token ", "bearer", "Bearer\t\t", "Digest ", "BearerX "])
async def test_a_good_token_under_another_scheme_is_none(scheme: str) -> None:
    async with served() as node:
        token = await node.mesh.issue_token(["*"])
        for operation in protected():
            problem_of(await node.ask(operation, headers={"Authorization": scheme + token}), 401)


async def test_a_good_token_in_the_query_a_cookie_or_the_body_is_none() -> None:
    async with served() as node:
        token = await node.mesh.issue_token(["*"])
        before = await node.state()
        for operation in protected():
            for name in ("token", "access_token", "Authorization", "authorization", "bearer", "api_key"):
                for value in (token, f"Bearer {token}"):
                    problem_of(await node.ask(operation, params={name: value}), 401)
            problem_of(await node.ask(operation, headers={"Cookie": f"token={token}; access_token={token}"}), 401)
            problem_of(await node.ask(operation, headers={"X-Auth-Token": token, "X-Api-Key": token}), 401)
            if not operation.startswith("GET"):
                problem_of(await node.ask(operation, json={"token": token, "access_token": token}), 401)
                problem_of(await node.ask(operation, data={"access_token": token}), 401)
        assert await node.state() == before


async def test_an_expired_token_is_told_so_and_gets_nothing() -> None:
    async with served() as node:
        token = await node.mesh.issue_token(["*"], ttl_s=0.05)
        await until(lambda: not node.mesh.tokens())
        for operation in protected():
            assert problem_of(await node.ask(operation, token), 401)["detail"] == "the token has expired"


async def test_a_token_without_the_scope_is_refused_and_told_which_it_lacks() -> None:
    async with served() as node:
        mesh = node.mesh
        lacking = {
            needed: await mesh.issue_token([scope for scope in SCOPES if scope != needed], name=needed)
            for needed in SCOPES
        }
        before = await node.state()
        for operation, needed in SCOPES_OF.items():
            if needed and operation not in STREAMS:
                answer = await node.ask(operation, lacking[needed])
                assert needed in problem_of(answer, 403)["detail"], operation
                assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]
        assert await node.state() == before


async def test_a_token_with_the_scope_alone_is_let_through() -> None:
    async with served() as node:
        tokens = {scope: await node.mesh.issue_token([scope]) for scope in SCOPES}
        for operation, needed in SCOPES_OF.items():
            if needed is not PUBLIC and operation not in STREAMS:
                answer = await node.ask(operation, tokens[needed or "logs:read"])
                assert answer.status_code not in (401, 403), f"{operation}: {answer.text}"


async def test_a_token_that_is_revoked_is_refused_by_the_next_request_on_the_same_connection() -> None:
    async with served() as node:
        token = await node.mesh.issue_token(["*"])
        assert (await node.ask("GET /api/v1/whoami", token)).status_code == 200
        await node.mesh.revoke(node.mesh.verify_token(token).token_id)
        problem_of(await node.ask("GET /api/v1/whoami", token), 401)


async def test_methods_that_are_not_offered_do_nothing_without_a_token() -> None:
    async with served() as node:
        offered = set(await node.operations())
        before = await node.state()
        for path in {operation.split(" ")[1] for operation in SCOPES_OF}:
            for method in (*METHODS, "BREW", "CONNECT"):
                if f"{method} {path}" in offered:
                    continue
                is_head = method == "HEAD" and SCOPES_OF.get(f"GET {path}", "") is PUBLIC
                answer = await node.ask(f"{method} {path}")
                allowed = {200, 204} if is_head or method == "OPTIONS" else set()
                assert answer.status_code in {400, 401, 403, 404, 405, 501, *allowed}, f"{method} {path}"
        assert await node.state() == before


async def test_paths_are_not_talked_into_being_public() -> None:
    tricks = [
        *(
            "/livez/../api/v1/nodes",
            "/livez/%2e%2e/api/v1/nodes",
            "/static/../api/v1/nodes",
            "/static/..%2fapi/v1/nodes",
        ),
        *(
            "//api/v1/nodes",
            "/api/v1/nodes/",
            "/api/v1//nodes",
            "/API/v1/nodes",
            "/api/v1/nodes;/livez",
            "/api/v1/nodes%00",
        ),
        *(
            "/api/v1/nodes%2f",
            "/api/v1/./nodes",
            "/api/v1/nodes?x=/livez",
            "/api/v1/nodes#/livez",
            "/metrics/",
            "/metrics%20",
        ),
    ]
    async with served() as node:
        node_id = node.mesh.node_id
        for path in tricks:
            status, said = await node.say(f"GET {path}")
            assert status in (301, 308, 400, 401, 404), path
            assert node_id not in said


async def test_headers_do_not_change_which_operation_is_asked_for() -> None:
    async with served() as node:
        before = await node.state()
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
            for operation in ("POST /api/v1/login", "GET /livez"):
                await node.ask(operation, headers={name: "DELETE"}, params={"_method": "DELETE"})
        for name in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix"):
            answer = await node.ask("GET /livez", headers={name: "/api/v1/nodes"})
            assert node.mesh.node_id not in answer.text
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-User", "X-Remote-User"):
            problem_of(await node.ask("GET /api/v1/nodes", headers={name: "127.0.0.1"}), 401)
        assert await node.state() == before


# --- more than one's own


async def test_nobody_gives_a_token_more_than_they_have_or_ends_a_greater_one() -> None:
    async with served() as node:
        clerk = await node.mesh.issue_token(["tokens:*", "data:read"], name="clerk")
        for scopes in (["*"], ["data:*"], ["data:write"], ["*:read"], ["data:read", "nodes:read"]):
            body = {"scopes": scopes, "ttl_s": 60, "name": "more"}
            assert (await node.ask("POST /api/v1/tokens", clerk, json=body)).status_code == 403
        made = await node.ask("POST /api/v1/tokens", clerk, json={"scopes": ["data:read"], "ttl_s": 60, "name": "less"})
        assert made.status_code == 201
        claims = node.mesh.verify_token(made.json()["token"])
        assert claims.scopes == ("data:read",)
        great = node.mesh.verify_token(await node.mesh.issue_token(["*"]))
        names = {"{token_id}": great.token_id}
        path = f"/api/v1/tokens/{names['{token_id}']}"
        assert (await node.ask(f"DELETE {path}", clerk)).status_code == 403
        assert (await node.ask(f"DELETE /api/v1/tokens/{claims.token_id}", clerk)).status_code == 204
        assert [one.name for one in node.mesh.tokens()] == ["clerk", ""]


async def test_a_token_makes_none_that_outlives_it_and_takes_its_own_along() -> None:
    async with served() as node:
        clerk = await node.mesh.issue_token(["tokens:*", "data:read"], ttl_s=600, name="clerk")
        body = {"scopes": ["data:read", "tokens:write"], "name": "lasting"}
        refused = await node.ask("POST /api/v1/tokens", clerk, json={**body, "ttl_s": 660})
        assert (refused.status_code, refused.json()["error"]) == (403, "RefusedError")
        assert "after the one that asks" in refused.json()["detail"]
        made = (await node.ask("POST /api/v1/tokens", clerk, json=body)).json()
        clerk_claims = node.mesh.verify_token(clerk)
        claims = node.mesh.verify_token(made["token"])
        assert (claims.expires_at, claims.issuer) == (clerk_claims.expires_at, clerk_claims.token_id)
        assert made["claims"]["issuer"] == clerk_claims.token_id
        assert (await node.ask("GET /api/v1/whoami", made["token"])).json()["issuer"] == clerk_claims.token_id
        further = await node.ask("POST /api/v1/tokens", made["token"], json={"scopes": ["data:read"]})
        assert further.status_code == 201
        assert (await node.ask(f"DELETE /api/v1/tokens/{clerk_claims.token_id}", clerk)).status_code == 204
        assert node.mesh.tokens() == []
        problem_of(await node.ask("GET /api/v1/whoami", made["token"]), 401)


# --- streams


async def test_event_streams_ask_for_the_scope_of_each_type() -> None:
    async with served() as node:
        for kind, needed in EVENTS.items():
            lacking = await node.mesh.issue_token([scope for scope in SCOPES if scope != needed])
            answer = await node.ask("GET /api/v1/events/stream", lacking, params={"types": kind})
            assert answer.status_code == 403, kind
            alone = await node.mesh.issue_token([needed])
            request = node.http.stream(
                "GET", "/api/v1/events/stream", params={"types": kind}, headers={"Authorization": f"Bearer {alone}"}
            )
            async with request as stream:
                assert stream.status_code == 200, kind


UPGRADE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def test_a_websocket_is_opened_to_whoever_has_a_good_token_alone() -> None:
    async with served() as node:
        good = await node.mesh.issue_token(["*"])
        path = "GET /api/v1/events?types=node"
        for fields in (
            [f"Authorization: Bearer {good}"],
            [f"Sec-WebSocket-Protocol: bms.events.v1, bms.token.{good}"],
        ):
            status, said = await node.say(path, *UPGRADE, *fields)
            assert status == 101
            assert good not in said  # the protocol that is chosen is never the token
        bad = await bad_tokens(node)
        del bad["twice"]  # in a list of subprotocols that is a good one and something else
        for what, token in bad.items():
            offered = "bms.events.v1" if token is None else f"bms.events.v1, bms.token.{token}"
            shown = "" if token is None else f"Bearer {token}"
            for fields in ([f"Sec-WebSocket-Protocol: {offered}"], [f"Authorization: {shown}"]):
                status, said = await node.say(path, *UPGRADE, *fields)
                is_text = fields[0].isascii() or fields[0].startswith("Auth")
                assert (status, node.mesh.node_id in said) == (401 if is_text else 400, False), what
        for query in ("token", "access_token", "bms.token"):
            assert (await node.say(f"{path}&{query}={good}", *UPGRADE))[0] in (400, 401)
        for field in (f"Cookie: token={good}", f"X-Auth-Token: {good}", f"Sec-WebSocket-Protocol: {good}"):
            assert (await node.say(path, *UPGRADE, field))[0] == 401
        for kind, needed in EVENTS.items():
            lacking = await node.mesh.issue_token([scope for scope in SCOPES if scope != needed])
            status, said = await node.say(
                f"GET /api/v1/events?types={kind}", *UPGRADE, f"Authorization: Bearer {lacking}"
            )
            said = said.partition("\r\n\r\n")[2].removeprefix(
                "\x89\0"
            )  # opened, so that a page can read why, and closed
            assert (status, said[0], said[2:4]) == (101, "\x88", (1008).to_bytes(2, "big").decode("latin-1")), kind
            assert needed in said
