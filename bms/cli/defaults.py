"""What `bms up` does where no file, variable or option says otherwise. `bms doctor` looks at the same.

    listen_address   [::]:7800; with dev_mode 127.0.0.1:0
    found_mesh       true where nothing says how to get into a mesh
    HTTP             127.0.0.1, at the port above the listener's: 7801. Plain text stays on this machine
    HTTPS            the listener's interfaces, at the port above that: 7802. Off where the listener is on loopback

The two ports are wishes: a node starts as well where another program has them. Addresses that somebody has asked for
are no wishes; they stand in the configuration, and what cannot be bound there is an error.

Kept apart from `up`, since that loads the whole node.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..config import Config, load
from ..values import Address

__all__ = ["PORT", "Wishes", "is_loopback", "up_config"]

PORT = 7800

_UNSAID = "unsaid.invalid:0"
"""An address that nobody means: where it is found, no source has said anything."""


@attrs.frozen
class Wishes:
    """Where HTTP and HTTPS are to be served, if that can be; None: not at all, or somebody has said where."""

    http: Address | None = None
    https: Address | None = None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _wishes(config: Config, *, http: bool, https: bool) -> Wishes:
    listen = config.tcp_address
    base = listen.port if 0 < listen.port < (1 << 16) - 2 else PORT
    is_inside = is_loopback(listen.host)
    return Wishes(
        http=Address("127.0.0.1", base + 1) if http else None,
        https=Address(listen.host, base + 2) if https and not is_inside else None,
    )


def up_config(
    file: Path | None, environ: Mapping[str, str], given: Mapping[str, Any], *, serve_http: bool = True
) -> tuple[Config, Wishes]:
    """The settings of `bms up`, and what it will try beside them. Raises ConfigError."""
    everywhere = f"[::]:{PORT}" if socket.has_dualstack_ipv6() else f"0.0.0.0:{PORT}"
    unsaid = {"listen_address": everywhere, "http_address": _UNSAID, "https_address": _UNSAID}
    first = load(file, environ, given, unsaid)
    defaults: dict[str, Any] = {"listen_address": everywhere}
    if first.dev_mode:
        defaults["listen_address"] = "127.0.0.1:0"
    else:
        defaults["found_mesh"] = not (first.cert_path is not None or first.bootstrap_nodes)
    config = load(file, environ, given, defaults)
    if not serve_http:
        return config.evolve(http_address=None, https_address=None), Wishes()
    return config, _wishes(config, http=first.http_address == _UNSAID, https=first.https_address == _UNSAID)
