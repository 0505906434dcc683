"""Bellande Mesh Sync: nodes that find each other, prove who they are, talk over TLS, and keep data in sync.

    async with bms.open_mesh(bms.Config(dev_mode=True)) as mesh:
        await mesh.broadcast_message(b"Hello network!")

Everything a program needs is importable from here.

A name is loaded when it is first used, so that `bms --help` and an interrupted start cost no more than they must.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client, EventFeed, open_client
    from .config import Config
    from .data.replication import LastSync, PeerSync, SyncReport
    from .errors import (
        ClosedError,
        ConfigError,
        CorruptionError,
        DeliveryError,
        LimitError,
        LocalProtocolError,
        MeshError,
        NotFoundError,
        ProtocolError,
        QuorumError,
        RefusedError,
        RemoteError,
        RemoteProtocolError,
        StoreError,
        UnreachableError,
        VersionConflictError,
    )
    from .geometry import bellande_path, bellande_step
    from .membership.watching import NodeWatch
    from .mesh import Mesh, init, open_mesh
    from .messaging.topics import Subscription
    from .neighbours import TopologyLink
    from .reports import (
        Changes,
        Check,
        DataSummary,
        Health,
        PeerPerformance,
        PeerStats,
        Performance,
        Quantiles,
        Queues,
        Rates,
        Resources,
        Sample,
        Stats,
        StoreStats,
    )
    from .roster import Topology
    from .security.tokens import Claims
    from .supervisor import Condition
    from .values import Address, KeyInfo, Message, Missed, Node, NodeEvent, NodeId, NodeState, Value, Version
    from .world import World

__all__ = [
    "Address",
    "Changes",
    "Check",
    "Claims",
    "Client",
    "ClosedError",
    "Condition",
    "Config",
    "ConfigError",
    "CorruptionError",
    "DataSummary",
    "DeliveryError",
    "EventFeed",
    "Health",
    "KeyInfo",
    "LastSync",
    "LimitError",
    "LocalProtocolError",
    "Mesh",
    "MeshError",
    "Message",
    "Missed",
    "Node",
    "NodeEvent",
    "NodeId",
    "NodeState",
    "NodeWatch",
    "NotFoundError",
    "PeerPerformance",
    "PeerStats",
    "PeerSync",
    "Performance",
    "ProtocolError",
    "Quantiles",
    "Queues",
    "QuorumError",
    "Rates",
    "RefusedError",
    "RemoteError",
    "RemoteProtocolError",
    "Resources",
    "Sample",
    "Stats",
    "StoreError",
    "StoreStats",
    "Subscription",
    "SyncReport",
    "Topology",
    "TopologyLink",
    "UnreachableError",
    "Value",
    "Version",
    "VersionConflictError",
    "World",
    "bellande_path",
    "bellande_step",
    "init",
    "open_client",
    "open_mesh",
]

__version__ = "0.1.0"

# Where names are looked for, the cheap rooms first.
_ROOMS = (
    *(".errors", ".values", ".config", ".geometry", ".world"),
    *(".data.replication", ".messaging.topics", ".supervisor"),
    ".security.tokens",
    *(".membership.watching", ".reports", ".roster", ".mesh"),
)
# What no node needs: it brings an HTTP client along.
_CLIENT = ("Client", "EventFeed", "open_client")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in (".client",) if name in _CLIENT else _ROOMS:
            module = importlib.import_module(room, __name__)
            if hasattr(module, name):
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
