"""Errors as problem objects: the status of each class, its facts, and that unexpected ones say nothing."""

from __future__ import annotations

import json

import pytest

from bms import errors
from bms.api.problems import STATUSES, ProblemError, http_problem, problem_of, unexpected

CASES: list[tuple[errors.MeshError, int, dict[str, object]]] = [
    (errors.ConfigError("limits.x", 5, "is too low"), 422, {"field": "limits.x", "why": "is too low"}),
    (errors.ClosedError("it stops"), 503, {}),
    (errors.UnreachableError("nobody there"), 502, {}),
    (errors.DeliveryError("no answer"), 504, {}),
    (errors.RefusedError("no grant"), 403, {}),
    (errors.LimitError("too large"), 413, {}),
    (errors.QuorumError(1, 2), 503, {"acked": 1, "needed": 2}),
    (errors.VersionConflictError("v2"), 412, {"current": "v2"}),
    (errors.RemoteError("ValueError", "no"), 502, {"kind": "ValueError", "text": "no"}),
    (errors.NotFoundError("no such key"), 404, {}),
    (errors.LocalProtocolError("not so"), 400, {}),
    (errors.RemoteProtocolError("nonsense", 7), 502, {"code": 7}),
    (errors.StoreError("the disk is full"), 507, {}),
    (errors.CorruptionError("damaged"), 500, {}),
]


@pytest.mark.parametrize(("error", "status", "facts"), CASES, ids=lambda value: getattr(type(value), "__name__", ""))
def test_each_error_has_its_status_and_keeps_its_facts(
    error: errors.MeshError, status: int, facts: dict[str, object]
) -> None:
    problem = problem_of(error)
    body = json.loads(problem.encode())
    assert problem.status == body["status"] == status
    assert body["error"] == type(error).__name__
    assert body["detail"] == str(error)
    assert {name: body[name] for name in facts} == facts
    assert {"type", "title"} <= set(body)


def test_every_error_that_is_raised_stands_in_the_table() -> None:
    never_raised = {"ProtocolError"}
    assert {getattr(errors, name) for name in set(errors.__all__) - never_raised} == set(STATUSES)
    assert {type(error) for error, _, _ in CASES} | {errors.MeshError} == set(STATUSES)


def test_a_limit_may_mean_too_many_at_once_and_says_when_to_come_again() -> None:
    problem = problem_of(errors.LimitError("the queue is full"), 429)
    assert problem.status == 429
    assert "Retry-After" in problem.headers


def test_a_lost_condition_names_the_version_in_force() -> None:
    assert problem_of(errors.VersionConflictError("v2")).headers["ETag"] == '"v2"'
    assert "ETag" not in problem_of(errors.VersionConflictError(None)).headers


def test_a_refusal_of_the_http_layer_keeps_its_status_headers_and_class() -> None:
    problem = problem_of(ProblemError(421, "not here"))
    assert (problem.status, problem.body["error"]) == (421, "RefusedError")
    problem = problem_of(ProblemError(401, "who?", None, {"WWW-Authenticate": "Bearer"}))
    assert problem.headers["WWW-Authenticate"] == "Bearer"
    assert http_problem(405, "no", {"Allow": "GET"}).headers["Allow"] == "GET"


def test_text_that_is_no_utf8_is_shown_all_the_same() -> None:
    assert b"udcff" in problem_of(errors.NotFoundError("no key \udcff")).encode()


def test_what_is_unexpected_says_nothing_of_itself() -> None:
    assert unexpected().status == 500
    assert unexpected().body["detail"] == "an unexpected error; the node's log says more"
