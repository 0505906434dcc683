"""Where `bms up` serves what nobody has asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bms.cli.defaults import Wishes, is_loopback, up_config
from bms.values import Address


def wishes(**given: Any) -> tuple[str | None, str | None]:
    found = up_config(None, {}, given)[1]
    http, https = found.http, found.https
    return (None if http is None else str(http)), (None if https is None else str(https))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"listen_address": "[::]:7800"}, ("127.0.0.1:7801", "[::]:7802")),
        ({"listen_address": "0.0.0.0:9000"}, ("127.0.0.1:9001", "0.0.0.0:9002")),
        ({"listen_address": "192.0.2.7:9000"}, ("127.0.0.1:9001", "192.0.2.7:9002")),
        ({"listen_address": "[::]:7800", "tcp_port": 9000}, ("127.0.0.1:9001", "[::]:9002")),
        ({"listen_address": "[::]:0"}, ("127.0.0.1:7801", "[::]:7802")),
        ({"listen_address": "[::]:65535"}, ("127.0.0.1:7801", "[::]:7802")),
        ({"listen_address": "127.0.0.1:9000"}, ("127.0.0.1:9001", None)),
        ({"listen_address": "localhost:9000"}, ("127.0.0.1:9001", None)),
        ({"dev_mode": True}, ("127.0.0.1:7801", None)),
        ({"listen_address": "[::]:7800", "http_address": "127.0.0.1:1234"}, (None, "[::]:7802")),
        ({"listen_address": "[::]:7800", "https_address": None}, ("127.0.0.1:7801", None)),
    ],
    ids=str,
)
def test_plain_http_stays_on_this_machine_and_https_is_where_the_listener_is(
    given: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    assert wishes(**given) == expected


def test_what_somebody_has_said_stands_in_the_settings_and_is_no_wish(tmp_path: Path) -> None:
    path = tmp_path / "bms.toml"
    path.write_text('http_address = "127.0.0.1:7801"\n')
    config, found = up_config(path, {"BMS_HTTPS_ADDRESS": ""}, {})
    assert (config.http_address, config.https_address, found) == ("127.0.0.1:7801", None, Wishes())
    assert up_config(None, {}, {})[0].http_address is None


def test_without_http_there_is_neither() -> None:
    given = {"http_address": "127.0.0.1:1", "https_address": "127.0.0.1:2"}
    config, found = up_config(None, {}, given, serve_http=False)
    assert (config.http_address, config.https_address, found) == (None, None, Wishes())


def test_a_wish_is_never_for_plain_text_beyond_this_machine() -> None:
    for listen in ("[::]:7800", "0.0.0.0:1", "192.0.2.7:7800"):
        http = up_config(None, {}, {"listen_address": listen})[1].http
        assert isinstance(http, Address)
        assert is_loopback(http.host)


@pytest.mark.parametrize(
    ("host", "expected"), [("::1", True), ("127.9.9.9", True), ("localhost", True), ("::", False), ("a.example", False)]
)
def test_loopback_is_known_by_its_addresses_and_its_name(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
