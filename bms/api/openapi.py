"""The OpenAPI 3.1 document, from the records of the routes: quart-schema walks the application, this fills in the rest.

quart-schema writes what goes in and out as JSON. What it leaves out stands here: bodies that are not JSON, headers,
which problem each route may answer, the scope that it needs (named beside the security scheme, as OpenAPI 3.1 allows
for any scheme), and the two streams of events, which are no routes of Quart's.

The document is the same for every node of a version: it is made once, on first use.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from quart import current_app
from quart_schema import HttpSecurityScheme, Info, OpenAPIProvider, QuartSchema, Tag
from quart_schema.openapi import License
from quart_trio import QuartTrio
from werkzeug.routing import Rule

from ..control.verbs import version
from ..security.tokens import SCOPES
from .problems import PROBLEM_TYPE
from .routing import ANY_TOKEN, JSON, PUBLIC, Media, Route
from .schemas import Problem, schema_of

__all__ = ["document", "install", "operation_of"]

_TAGS = {
    "status": "How the node is: numbers, health, metrics, reports, the log.",
    "nodes": "Who is there, who is near, how they are connected.",
    "data": "Keys and values, as bytes.",
    "messages": "Sending; receiving is a stream of events.",
    "events": "What happens, as it happens.",
    "config": "The settings in force.",
    "tokens": "Who may ask for what.",
    "crate": "The routes of the Rust crate, by its names.",
    "step": "The Bellande step: pure, open to everybody.",
    "pages": "Files: the dashboard, and this.",
}
_ALWAYS = (400, 421, 429, 500, 503, 504)
_WITH_TOKEN = (401, 403)
_WITH_BODY = (408, 413, 415)
_TOO_LONG = {
    "431": {"description": "The header is longer than http.header_bytes_max: no body, and the connection ends."}
}
_PARAMETERS = {
    "node_id": ("A node's id: 64 hexadecimal digits.", {"type": "string", "pattern": "^[0-9a-f]{64}$"}),
    "token_id": ("A token's id: 16 hexadecimal digits.", {"type": "string", "pattern": "^[0-9a-f]{16}$"}),
    "space": ("A space of keys; there is `default`.", {"type": "string", "const": "default"}),
    "key": (
        "The key: all of the path behind the space, percent-decoded once, never normalized.",
        {"type": "string", "minLength": 1, "maxLength": 1024},
    ),
    "name": ("The name of a file.", {"type": "string"}),
}
_CONDITIONS = {
    "If-Match": "Versions in quotes with commas between, or *: one of them must be in force, otherwise 412.",
    "If-None-Match": "The same: none of them may be in force; * with PUT: there must be no value yet.",
}


def operation_of(route: Route) -> tuple[str, str]:
    """The path and method of a route as the document has them."""
    method, _, path = route.operation.partition(" ")
    return path, method.lower()


class _Provider(OpenAPIProvider):
    """quart-schema's walk over the application, with what the records say."""

    def schema(self) -> dict[str, Any]:
        """The document."""
        found = super().schema()
        components = found["components"]
        schema_of(Problem, components["schemas"])
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        components["responses"] = {
            f"Problem{status}": {
                "description": HTTPStatus(status).phrase,
                "content": {PROBLEM_TYPE: problem},
                **_problem_headers(status),
            }
            for status in sorted({*_ALWAYS, *_WITH_TOKEN, *_WITH_BODY, 404, 405, 412, 422, 426, 502, 507})
        }
        found["paths"].update(_event_paths())
        found["paths"] = {path: dict(sorted(found["paths"][path].items())) for path in sorted(found["paths"])}
        components["schemas"] = dict(sorted(components["schemas"].items()))
        return found

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """One rule: one method of one path."""
        route: Route = self._app.extensions["bms"].routes[rule.endpoint]
        components: dict[str, Any] = {}
        path, method = operation_of(route)
        summary, _, more = inspect.cleandoc(route.view.__doc__ or route.name).partition("\n")
        operation: dict[str, Any] = {"operationId": route.name, "summary": summary, "tags": [route.tag]}
        scope = _scope_text(route.scope)
        operation["description"] = "\n\n".join(part for part in (" ".join(more.split()), scope) if part)
        operation["security"] = [] if route.scope is PUBLIC else [{"token": [route.scope] if route.scope else []}]
        if parameters := [*_path_parameters(path), *_query_parameters(route, components), *_condition_headers(route)]:
            operation["parameters"] = parameters
        if route.body is not None:
            operation["requestBody"] = _request_body(route, components)
        answers = {str(status): _response(status, answer, components) for status, answer in route.answers.items()}
        problems = {str(status): _problem(status) for status in _statuses(route) if str(status) not in answers}
        operation["responses"] = dict(sorted({**answers, **problems, **_TOO_LONG}.items()))
        return {path: {method: operation}}, components


def _scope_text(scope: str | None) -> str:
    if scope is PUBLIC:
        return "Needs no token."
    return "Needs a token, whatever its scopes." if scope == ANY_TOKEN else f"Needs the scope `{scope}`."


def _statuses(route: Route) -> Iterable[int]:
    found = {*_ALWAYS, *route.errors}
    if route.scope is not PUBLIC:
        found |= set(_WITH_TOKEN)
    elif route.body is not None:
        found.add(403)
    elif route.name == "get_ready":
        found.add(401)  # where a token is shown that is none
    if route.body is not None:
        found |= set(_WITH_BODY)
    return found | {403, 415}


def _problem(status: int) -> dict[str, Any]:
    return {"$ref": f"#/components/responses/Problem{status}"}


def _problem_headers(status: int) -> dict[str, Any]:
    said = {401: ("WWW-Authenticate", "RFC 6750"), 405: ("Allow", "What is answered"), 429: ("Retry-After", "Seconds")}
    if status not in said:
        return {}
    name, text = said[status]
    return {"headers": {name: {"description": text, "schema": {"type": "string"}}}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    found = []
    for part in path.split("/"):
        if part.startswith("{"):
            name = part[1:-1]
            text, schema = _PARAMETERS[name]
            found.append({"name": name, "in": "path", "required": True, "description": text, "schema": schema})
    return found


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    defined: dict[str, Any] = {}
    schema_of(route.query, defined)
    model = defined.pop(route.query.__name__)
    components |= defined
    found = []
    for name, schema in model["properties"].items():
        inner = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
        shown = dict(inner[0]) if len(inner) == 1 else dict(schema)
        if schema.get("default") is not None:
            shown.setdefault("default", schema["default"])
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": False, "schema": shown}
        if "description" in shown:
            parameter["description"] = shown.pop("description")
        found.append(parameter)
    return found


def _condition_headers(route: Route) -> list[dict[str, Any]]:
    if not route.conditions:
        return []
    schema = {"type": "string", "pattern": r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$'}
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, text in _CONDITIONS.items()
    ]


def _content(kind: Any, components: dict[str, Any]) -> dict[str, Any]:
    if isinstance(kind, Media):
        return {name: {"schema": _schema_of_media(name)} for name in (kind.type, *kind.others)}
    return {JSON: {"schema": schema_of(kind, components)}}


def _schema_of_media(name: str) -> dict[str, Any]:
    return {"type": "string"} if name.startswith("text/") else {}


def _request_body(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    if isinstance(route.body, Media):
        return {"required": False, "description": "The bytes.", "content": _content(route.body, components)}
    return {"required": not route.body_is_optional, "content": _content(route.body, components)}


def _response(status: int, answer: Any, components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status == 412:
        return _problem(status)
    if answer is None:
        return found
    headers: Mapping[str, str] = answer.headers if isinstance(answer, Media) else {}
    if headers:
        found["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in sorted(headers.items())
        }
    return {**found, "content": _content(answer, components)}


def _event_paths() -> dict[str, Any]:
    """The two streams (`bms.api.followers`)."""
    kinds = "(node|data|message|health|log|stats)"
    asked = {
        "types": ("Comma-separated; what the token may read without it.", f"^({kinds}(,{kinds})*)?$"),
        "prefix": ("Data events of keys that begin with it.", None),
        "topics": ("Comma-separated: messages on these topics alone; goes with the type message.", None),
        "take": ("Take those messages away from the node's program: needs messages:take.", "^(true|false)$"),
        "since": ("A cursor: go on behind it.", "^([0-9A-Za-z]+-[0-9]{1,40})?$"),
    }
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": text,
            "schema": {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern},
        }
        for name, (text, pattern) in asked.items()
    ]
    refusals = {str(status): _problem(status) for status in (400, 401, 403, 421, 429, 500, 503)} | _TOO_LONG
    shared: dict[str, Any] = {"tags": ["events"], "security": [{"token": []}], "parameters": parameters}
    upgrade = {"description": "A WebSocket, subprotocol bms.events.v1: one JSON object a text frame."}
    stream: dict[str, Any] = {"description": "Events", "content": {"text/event-stream": {}}}
    text = "Each type needs the scope of what it is about: docs/how-to/events.md."
    return {
        "/api/v1/events": {
            "get": {
                "operationId": "follow_events",
                "summary": "Events over a WebSocket.",
                "description": f"{text} A request that asks for no WebSocket gets 426.",
                **shared,
                "responses": {"101": upgrade, "426": _problem(426), **refusals},
            }
        },
        "/api/v1/events/stream": {
            "get": {
                "operationId": "stream_events",
                "summary": "Events as server-sent events.",
                "description": text,
                **shared,
                "responses": {"200": stream, **refusals},
            }
        },
    }


# ---------------------------------------------------------------------- one document


_INFO = (
    "The HTTP interface of a bms node. Errors are problem objects (RFC 9457) that name the class in `bms.errors`. "
    "Times are Unix seconds, durations end in _s, versions and cursors are opaque. Every request must name this node "
    "in Host; one with an Origin must come from this server itself or http.allowed_origins."
)


def install(app: QuartTrio) -> None:
    """Let quart-schema know the application, without pages of its own."""
    schemes = HttpSecurityScheme(scheme="bearer", bearer_format="bms_<id>_<secret>")
    schemes.description = "A token of this node (`bms token issue`). Scopes: " + "; ".join(
        f"{scope}: {meaning}" for scope, meaning in SCOPES.items()
    )
    QuartSchema(
        app,
        openapi_path=None,
        redoc_ui_path=None,
        scalar_ui_path=None,
        swagger_ui_path=None,
        info=Info(
            title="bms", version=version(), description=_INFO, license=License("GPL-3.0-or-later", "GPL-3.0-or-later")
        ),
        tags=[Tag(name, text) for name, text in _TAGS.items()],
        security_schemes={"token": schemes},
        conversion_preference="msgspec",
        openapi_provider_class=_Provider,
    )


_made: list[tuple[bytes, str]] = []


def document() -> tuple[bytes, str]:
    """The document as JSON, and its entity tag."""
    if not _made:
        provider = current_app.extensions["QUART_SCHEMA"].openapi_provider
        content = json.dumps(provider.schema(), indent=1, default=msgspec.to_builtins).encode()
        _made.append((content, hashlib.sha256(content).hexdigest()[:32]))
    return _made[0]
