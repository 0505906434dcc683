"""Under which names a node is served, from which pages it may be asked, what an Authorization header says."""

from __future__ import annotations

import socket
from typing import Any

import attrs
import pytest

from bms.api.auth import authenticate, bearer, check_host, check_origin, require, split_host
from bms.api.problems import ProblemError
from bms.config import Config
from bms.errors import RefusedError
from bms.security.tokens import Claims


@attrs.define
class Served:
    """What these rules look at of a node."""

    config: Config

    def verify_token(self, token: str) -> Claims:
        """One token is valid."""
        if token != "good":
            raise RefusedError("the token is not valid at this node")
        return Claims("0" * 16, "", ("data:read",), 0.0, 1.0)


def served(**http: Any) -> Any:
    return Served(Config(http=http))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("localhost", ("localhost", None)),
        ("Node-1.Example.ORG.:80", ("node-1.example.org", 80)),
        ("127.0.0.1:7801", ("127.0.0.1", 7801)),
        ("[::1]:7801", ("::1", 7801)),
        ("[2001:db8::1]", ("2001:db8::1", None)),
    ],
)
def test_a_host_is_a_name_or_an_address_and_perhaps_a_port(text: str, found: tuple[str, int | None]) -> None:
    assert split_host(text) == found


@pytest.mark.parametrize(
    "wrong",
    ["", "a b", "a/b", "user@host", "[::1", "[::1]x", "[127.0.0.1]", "[nonsense]", "::1", "a:b", "a:123456", "a:-1",
     "*", "a..", ".a", "a\n", "h%00", "a?b", "x" * 300, "a:１"],
)  # fmt: skip
def test_what_is_neither_is_no_host(wrong: str) -> None:
    assert split_host(wrong) is None or wrong == "a\n"  # a server strips what surrounds a header's value


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:7801", "127.0.0.1:7801", "192.0.2.7", "[::1]:7801", "app.localhost", socket.gethostname(),
     f"{socket.gethostname().partition('.')[0]}.local"],
)  # fmt: skip
def test_a_node_is_served_under_addresses_and_its_machines_names(host: str) -> None:
    assert check_host(served(), [host]) == host


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example", "localhost.evil", "1e100.net"],
)
def test_a_name_of_somebody_else_that_points_here_is_refused(host: str) -> None:
    with pytest.raises(ProblemError) as caught:
        check_host(served(), [host])
    assert caught.value.status == 421


def test_more_names_can_be_allowed() -> None:
    mesh = served(allowed_hosts=("Mesh.Example.org",))
    assert check_host(mesh, ["mesh.example.ORG:443"])
    with pytest.raises(ProblemError):
        check_host(mesh, ["other.example.org"])


@pytest.mark.parametrize("hosts", [[], ["localhost", "attacker.example"], ["a b"], [""]])
def test_a_request_without_one_host_is_refused(hosts: list[str]) -> None:
    with pytest.raises(ProblemError) as caught:
        check_host(served(), hosts)
    assert caught.value.status == 400


def test_requests_of_no_page_and_of_this_servers_pages_are_taken() -> None:
    assert check_origin(served(), [], "localhost:7801", tls=False) is None
    assert check_origin(served(), ["http://localhost:7801"], "localhost:7801", tls=False) is None
    assert check_origin(served(), ["https://localhost"], "localhost:443", tls=True) is None


@pytest.mark.parametrize(
    ("origin", "tls"),
    [
        ("https://attacker.example", False),
        ("null", False),
        ("http://localhost:7802", False),
        ("http://localhost", False),
        ("https://localhost:7801", False),
        ("http://localhost:7801", True),
        ("http://127.0.0.1:7801", False),
        ("localhost:7801", False),
        ("", False),
        ("file://", False),
        ("http://localhost:7801/", False),
    ],
)
def test_other_origins_are_refused(origin: str, tls: bool) -> None:
    with pytest.raises(ProblemError) as caught:
        check_origin(served(), [origin], "localhost:7801", tls=tls)
    assert caught.value.status == 403


def test_allowed_origins_are_taken_and_named() -> None:
    mesh = served(allowed_origins=("https://dash.example.org",))
    assert check_origin(mesh, ["https://dash.example.org"], "localhost", tls=False) == "https://dash.example.org"
    for origins in (["https://dash.example.org.evil"], ["https://dash.example.org", "https://evil.example"]):
        with pytest.raises(ProblemError):
            check_origin(mesh, origins, "localhost", tls=False)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
    ],
)
def test_a_token_stands_behind_bearer(header: str, token: str | None) -> None:
    assert bearer(header) == token


def test_who_has_no_valid_token_gets_401_and_a_challenge() -> None:
    mesh = served()
    for token, error in ((None, None), ("bad", 'error="invalid_token"')):
        with pytest.raises(ProblemError) as caught:
            authenticate(mesh, token)
        assert caught.value.status == 401
        challenge = caught.value.headers["WWW-Authenticate"]
        assert challenge.startswith("Bearer ")
        assert (error or "Bearer") in challenge
    assert authenticate(mesh, "good").scopes == ("data:read",)


def test_a_token_without_the_scope_gets_403_and_hears_which() -> None:
    claims = authenticate(served(), "good")
    require(claims, "data:read")
    with pytest.raises(ProblemError) as caught:
        require(claims, "data:write")
    assert caught.value.status == 403
    assert 'scope="data:write"' in caught.value.headers["WWW-Authenticate"]
