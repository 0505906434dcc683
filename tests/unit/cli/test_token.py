"""What `bms token` understands before it asks a node."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from bms.cli.token import token
from bms.errors import UnreachableError


def invoke(*arguments: str) -> click.testing.Result:
    return CliRunner().invoke(token, arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["issue"], "Missing option '--scope'"),
        (["issue", "--scope", "data:raed"], "did you mean 'data:read'?"),
        (["issue", "--scope", "data:read,nodes:reed"], "did you mean 'nodes:read'?"),
        (["issue", "--scope", ","], "at least one scope"),
        (["issue", "--scope", "*", "--ttl", "soon"], "like 12h or 30d"),
        (["issue", "--scope", "*", "--ttl", "0"], "above 0"),
        (["revoke"], "Missing argument"),
        (["issue", "--json"], "Did you mean '-o json'?"),
        (["list", "--json"], "Did you mean '-o json'?"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error_that_says_what_can(arguments: list[str], text: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert text in result.output


def test_scopes_come_by_commas_or_one_by_one_and_then_a_node_is_looked_for() -> None:
    for scopes in (["--scope", "data:read,nodes:*"], ["--scope", "data:read", "--scope", "nodes:*"]):
        assert isinstance(invoke("issue", *scopes, "--ttl", "12h").exception, UnreachableError)


def test_the_help_says_what_each_scope_allows() -> None:
    output = invoke("issue", "--help").output
    assert "data:write      write and delete values, reconcile now" in output
