"""What each setting does when it is changed while the node exists: the one table that `Mesh.reconfigure` goes by.

    live        the running parts use the new value at once; links, subscriptions and writes go on
    restarts    the named subsystem is run anew with it; the others go on, and no link ends
    refused     nothing changes: a `ConfigError` names the setting and says why

Invariants: every setting has one row (a test compares the table with `Config`), a change is either carried out whole or
not at all, and what the table calls live has an effect that a test has seen. docs/reference/reconfigure.md is printed
from it: `python -m bms.reconfiguration > docs/reference/reconfigure.md`.

Absent: changes that would need another identity or another store. A node is those two; make another node instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import attrs

from .config import Config, changes, setting_fields
from .errors import ConfigError

__all__ = ["EFFECTS", "Effect", "page", "plan"]


@attrs.frozen
class Effect:
    """What becomes of a changed setting: `kind` is "live", "restarts" or "refused", `what` the subsystem or the reason.

    `note` says how far it reaches.
    """

    kind: str
    what: str = ""
    note: str = ""


def _live(note: str) -> Effect:
    return Effect("live", "", note)


def _restarts(subsystem: str, note: str) -> Effect:
    return Effect("restarts", subsystem, note)


def _refused(why: str) -> Effect:
    return Effect("refused", why)


_STORE = "it says where the store is, which is open: shut the node down and init anew"
_ABSENT = "this version has nothing behind it"
_FILES = "new links show the new certificate, old ones go on; refused if the files are broken or another node's"
_CERTIFICATE = "for new connections of HTTPS; refused if the files are broken. They are read again when they change"
_MESSAGES = "queues that exist keep what they hold"

EFFECTS: dict[str, Effect] = {
    "mesh_name": _refused("it is the folder of the mesh on this machine: shut the node down and init anew"),
    "node_name": _refused("it is the folder of the node: shut the node down and init anew"),
    "found_mesh": _refused("it counts only when a node is made, and this one is"),
    "listen_address": _restarts("listener, datagrams", "if it cannot be bound, the old one is, as soon as it is free"),
    "tcp_port": _restarts("listener, datagrams", "as for `listen_address`"),
    "udp_port": _restarts("datagrams", "as for `listen_address`"),
    "advertise_address": _live("the node's record is signed anew and told to all"),
    "bootstrap_nodes": _restarts("discovery", "the new ones are dialed; links to old ones stay"),
    "enable_discovery": _restarts("discovery", "links stay"),
    "dev_mode": _refused("it decides whom the node trusts: shut it down and init anew"),
    "cert_path": _live(_FILES),
    "key_path": _live(_FILES),
    "trust_path": _live("as for `cert_path`; the bundle in it must be the one in force"),
    "enable_encryption": _refused("both sides of every link go by it: shut the node down and init anew"),
    "enable_persistence": _refused(_STORE),
    "persistence_path": _refused(_STORE),
    "tls_ciphers": _live("for new connections of HTTPS"),
    "db_url": _refused(_STORE),
    "enable_replication": _restarts("data", "when it comes on, each linked peer is reconciled at once"),
    "replication_factor": _refused(_ABSENT),
    "sync_interval": _live("the next round with each peer comes at once, those after it by the new pause"),
    "node_timeout": _live("for the next `nodes()`"),
    "max_connections": _live("for links made from now on; those above a lower bound stay"),
    "max_retries": _live("for messages under way, too"),
    "metrics_interval": _live("the next sample is taken after the new interval"),
    "http_address": _restarts("http", "on, off or elsewhere; open connections finish their request, then are closed"),
    "https_address": _restarts("https", "as for `http_address`"),
    "gossip.keepalive_interval_s": _live("on every link: the next ping goes out at once"),
    "gossip.keepalive_timeout_s": _live("on every link"),
    "gossip.dial_timeout_s": _live("for dials from now on"),
    "gossip.redial_interval_s": _live("from the next failed dial of a node on"),
    "gossip.redial_interval_max_s": _live("from the next failed dial of a node on"),
    "gossip.probe_interval_s": _live("from the next probe on"),
    "gossip.suspicion_alpha": _live("for nodes that become suspect from now on"),
    "gossip.gossip_interval_s": _live("from the next round on"),
    "limits.frame_bytes_max": _live("for links made from now on: on the others both sides have agreed"),
    "limits.handshakes_max": _live("for connections from now on"),
    "limits.handshake_timeout_s": _live("for handshakes from now on"),
    "limits.link_queue_bytes_max": _live("on every link; what is queued stays"),
    "limits.inbox_messages_max": _live(_MESSAGES),
    "limits.inbox_bytes_max": _live(_MESSAGES),
    "limits.topics_max": _live("for topics from now on"),
    "limits.body_bytes_max": _live("for messages from now on"),
    "limits.value_bytes_max": _live("for writes from now on; stored values stay"),
    "limits.drain_timeout_s": _live("for the next stop"),
    "store.queue_operations_max": _live("for writes from now on; what is queued stays"),
    "store.cache_bytes": _live("on both connections of SQLite"),
    "http.connections_max": _live("for connections from now on; those above a lower bound stay"),
    "http.connections_per_address_max": _live("as for `http.connections_max`"),
    "http.requests_per_s": _live("for requests from now on"),
    "http.header_timeout_s": _live("for requests from now on"),
    "http.body_timeout_s": _live("for requests from now on"),
    "http.send_timeout_s": _live("for what is sent from now on"),
    "http.idle_timeout_s": _live("for connections that fall idle from now on"),
    "http.header_bytes_max": _live("for connections from now on"),
    "http.body_bytes_max": _live("for requests from now on; for WebSockets from now on"),
    "http.cert_path": _live(_CERTIFICATE),
    "http.key_path": _live(_CERTIFICATE),
    "http.client_ca_path": _live(_CERTIFICATE),
    "http.allowed_hosts": _live("for requests from now on"),
    "http.allowed_origins": _live("for requests from now on"),
    "http.events_kept": _live("the oldest go first"),
    "log.level": _live("in `bms up`; a program that embeds a mesh sets up `logging` itself"),
    "log.format": _live("in `bms up`"),
    "log.slow_operation_s": _live("for operations that end from now on"),
    "log.traces": _live("for operations from now on; refused where OpenTelemetry is not installed"),
}


def plan(old: Config, new: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The settings that differ and the subsystems to restart for them, in order; ConfigError if one is refused."""
    changed = changes(old, new)
    for name in changed:
        effect = EFFECTS[name]
        if effect.kind == "refused":
            raise ConfigError(name, _value(new, name), f"cannot change while the node exists: {effect.what}")
    return changed, _subsystems(EFFECTS[name] for name in changed)


def _subsystems(effects: Iterable[Effect]) -> tuple[str, ...]:
    names = (effect.what.split(", ") for effect in effects if effect.kind == "restarts")
    return tuple(dict.fromkeys(name for group in names for name in group))


def _value(config: Config, name: str) -> Any:
    group, _, key = name.rpartition(".")
    return getattr(getattr(config, group) if group else config, key)


_INTRODUCTION = """\
# Changing settings of a running node

Printed by `python -m bms.reconfiguration > docs/reference/reconfigure.md`; do not edit.

`await mesh.reconfigure(max_connections=50)` changes single settings, `await mesh.reconfigure(config)` all that differ.
`bms up` reads its file, its environment and its options again on SIGHUP and does the same. The whole is checked first:
if one setting is refused, none is changed, and the error says which and why.

- *live*: the running parts use the new value at once.
- *restarts X*: the subsystem X is run anew. The others go on, and so does every link.
- *refused*: shut the node down and make it anew with the other value.

Every call also reads the identity's files again, so `await mesh.reconfigure()` alone takes up a new certificate; a node
also looks once a minute by itself. New links then show it, and links that are up go on with the old one. Files that are
broken, expired, of another node or of another mesh are refused as a whole, and the old identity stays in force. A
certificate that has lived two thirds of its life is renewed where the mesh's authority is at hand.

| setting | when it is changed | how far that reaches |
|---|---|---|
"""


def page() -> str:
    """The reference page, as Markdown."""
    rows = []
    for name in setting_fields():
        effect = EFFECTS[name]
        what = {"live": "live", "restarts": f"restarts {effect.what}", "refused": "refused"}[effect.kind]
        rows.append(f"| `{name}` | {what} | {effect.note or effect.what} |\n")
    return _INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(page())
