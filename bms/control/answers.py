"""What both ends of the control socket know: the shape of answers, and a connection's bound.

Apart from the server, so that a client loads no mesh to talk to one: commands of a shell should start quickly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from ..config import Config, setting_fields
from ..values import Address

__all__ = ["CANCEL", "COMMANDS_MAX", "Status", "plain", "settings"]

CANCEL = "cancel"
COMMANDS_MAX = 64
"""Commands under way at once on one connection."""


@attrs.frozen
class Status:
    """A running node in short. `nodes` counts members by state; `bytes` are those of all values; times in seconds.

    Two nodes with equal `fingerprint` hold the same data. `position` counts what this store has applied in `epoch`.
    `discovery` lists where it has looked for others: source, candidate, outcome, when (Unix seconds). `http_url` and
    `https_url` are where its API and dashboard are on this machine, None where they are off; `http_address` is what was
    asked for, by which others may reach it in clear text.
    """

    node_id: str
    name: str
    mesh_id: str
    mesh_name: str
    address: str | None
    folder: str | None
    version: str
    pid: int
    uptime_s: float
    nodes: dict[str, int]
    connections: int
    entries: int
    bytes: int
    tombstones: int
    position: int
    epoch: str
    fingerprint: str
    discovery: list[dict[str, Any]]
    http_url: str | None = None
    https_url: str | None = None
    http_address: str | None = None


def plain(value: Any) -> Any:
    """A value of the API as the socket and JSON carry it: objects become maps of their fields, addresses text."""
    if isinstance(value, Address | Path):
        return str(value)
    if attrs.has(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def settings(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name, as `plain` values."""
    found: dict[str, Any] = {}
    for name in setting_fields():
        group, _, key = name.rpartition(".")
        found[name] = plain(getattr(getattr(config, group) if group else config, key))
    return found
