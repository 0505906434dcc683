"""The two routes of the Rust crate, for programs that know it: `GET /status` and `POST /join`, with its field names.

Their tokens and scopes are ours: the crate asks for none, which is no example to follow.
"""

from __future__ import annotations

import trio
from quart import Response

from ...values import NodeState
from ..routing import Call, Routes, json_response
from ..schemas import CrateStatus, Join, Joined

__all__ = ["crate_join", "crate_status", "routes"]

routes = Routes("crate")


@routes.add("GET", "/status", scope="status:read", answers={200: CrateStatus})
async def crate_status(call: Call) -> Response:
    """Statistics by the names of the crate."""
    await trio.lowlevel.checkpoint()
    stats = call.mesh.collect_stats()
    counters = call.mesh.counters
    requests = counters.labelled("http.requests")
    secure = sum(count for labels, count in requests.items() if labels[0] in ("https", "wss"))
    now = call.mesh.now()
    return json_response(
        CrateStatus(
            tcp_connections=stats.connections,
            udp_packets_received=counters["datagrams.received"],
            http_requests=counters["http.requests"] - secure,
            https_requests=secure,
            active_nodes=stats.nodes.get(NodeState.ALIVE, 0),
            total_messages=sum(counters[f"messaging.{name}"] for name in ("sent", "received", "broadcast")),
            start_time=now - stats.uptime_s,
            last_sync=call.mesh.last_sync,
        )
    )


@routes.add("POST", "/join", scope="nodes:write", body=Join, answers={200: Joined}, errors=(502, 504), deadline_s=30.0)
async def crate_join(call: Call) -> Response:
    """Connect to the node that lives at an address."""
    body: Join = call.body
    node = await call.mesh.register_node(body.address)
    return json_response(Joined(node.node_id, node))
