"""The routes' records and types: what each says of itself, as JSON Schema."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
import pytest

from bms.api.problems import STATUSES
from bms.api.routes import ROUTES
from bms.api.routing import Media, Route
from bms.api.schemas import Message, schema_of
from bms.security.tokens import SCOPES
from bms.values import Node

each_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)


def test_no_operation_and_no_name_stands_there_twice() -> None:
    for found in (Counter(route.operation for route in ROUTES), Counter(route.name for route in ROUTES)):
        assert [name for name, count in found.items() if count > 1] == []


@each_route
def test_a_route_says_its_scope_and_what_it_does(route: Route) -> None:
    assert route.scope in {None, "", *SCOPES}
    assert route.view.__doc__
    assert any(200 <= status < 300 for status in route.answers)
    assert route.deadline_s <= 120


@each_route
def test_a_route_that_changes_something_needs_a_writing_scope(route: Route) -> None:
    if route.method == "GET":
        assert not (route.scope or "").endswith(":write")
    elif route.tag != "step":
        assert route.scope is None or route.scope.endswith(":write") or route.name == "measure_performance"


@each_route
def test_every_type_of_a_route_has_a_schema_without_dangling_references(route: Route) -> None:
    components: dict[str, object] = {}
    for kind in (route.query, route.body, *route.answers.values()):
        if kind is not None and not isinstance(kind, Media):
            schema_of(kind, components)
    named = set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(components).decode()))
    assert named <= set(components)


def test_requests_refuse_what_they_do_not_know_and_answers_may_grow() -> None:
    components: dict[str, dict[str, object]] = {}
    schema_of(Message, components)
    schema_of(Node, components)
    assert components["Message"]["additionalProperties"] is False
    assert "additionalProperties" not in components["Node"]
    assert components["Node"]["required"] == list(components["Node"]["properties"])  # type: ignore[call-overload]


def test_statuses_of_errors_are_errors() -> None:
    assert all(400 <= status < 600 for status in STATUSES.values())
