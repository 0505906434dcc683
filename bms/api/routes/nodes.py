"""Routes about nodes: who is there, who is near, how they are connected. See `bms.verbs.nodes`.

A page's cursor is the id of its last node, so that nodes which come or go meanwhile shift nothing; this node's own
comes first always.
"""

from __future__ import annotations

import attrs
import trio
from quart import Response

from ...errors import LocalProtocolError
from ...values import Node, NodeId
from ..routing import Call, Routes, json_response
from ..schemas import (
    LinkSeen,
    Near,
    Nearest,
    NearestQuery,
    NodePatch,
    NodesPage,
    NodesQuery,
    Register,
    TopologyQuery,
    TopologyShown,
)

__all__ = [
    "get_node",
    "list_nodes",
    "nearest_nodes",
    "register_node",
    "remove_node",
    "routes",
    "show_topology",
    "update_node",
]

routes = Routes("nodes")


@routes.add("GET", "/api/v1/nodes", scope="nodes:read", query=NodesQuery, answers={200: NodesPage})
async def list_nodes(call: Call) -> Response:
    """The nodes as this one sees them.

    This one comes first, then the others by id; long-failed ones are left out.
    """
    query: NodesQuery = call.query
    await trio.lowlevel.checkpoint()
    found = call.mesh.nodes(query.state)
    if query.cursor is not None:
        after = NodeId(query.cursor)
        me = call.mesh.node_id
        found = [node for node in found if node.node_id != me and (after == me or node.node_id > after)]
    page = found[: query.limit]
    return json_response(NodesPage(page, page[-1].node_id if len(found) > len(page) else None))


@routes.add(
    "POST", "/api/v1/nodes", scope="nodes:write", body=Register, answers={201: Node}, errors=(502, 504), deadline_s=30.0
)
async def register_node(call: Call) -> Response:
    """Connect to the node that lives at an address; the rest of its mesh is learned from it."""
    body: Register = call.body
    node = await call.mesh.register_node(body.address)
    return json_response(node, 201, {"Location": f"/api/v1/nodes/{node.node_id}"})


@routes.add(
    "GET", "/api/v1/nodes/nearest", scope="nodes:read", query=NearestQuery, answers={200: Nearest}, errors=(404,)
)
async def nearest_nodes(call: Call) -> Response:
    """The live nodes nearest to a node or a point, with their distances."""
    query: NearestQuery = call.query
    target: str | list[float] | None = query.target
    if query.metric == "space":
        if query.point is None or query.target is not None:
            raise LocalProtocolError("with metric=space the target is a point: point=1.5,2,3")
        try:
            target = [float(number) for number in query.point.split(",")]
        except ValueError:
            raise LocalProtocolError("a point is numbers with commas between") from None
    elif query.point is not None:
        raise LocalProtocolError(f"with metric={query.metric} the target is a node")
    found = await call.mesh.find_nearest_nodes(target, query.count, query.metric)
    return json_response(Nearest([Near(node, distance) for node, distance in found]))


@routes.add("GET", "/api/v1/nodes/<node_id>", scope="nodes:read", answers={200: Node}, errors=(404,))
async def get_node(call: Call) -> Response:
    """One node."""
    await trio.lowlevel.checkpoint()
    return json_response(call.mesh.node(call.path["node_id"]))


@routes.add("DELETE", "/api/v1/nodes/<node_id>", scope="nodes:write", answers={204: None}, errors=(404,))
async def remove_node(call: Call) -> Response:
    """Have all nodes forget one that failed or left."""
    node = call.mesh.node(call.path["node_id"])
    await call.mesh.remove_node(node)
    return Response(b"", status=204)


@routes.add("PATCH", "/api/v1/nodes/<node_id>", scope="nodes:write", body=NodePatch, answers={200: Node}, errors=(404,))
async def update_node(call: Call) -> Response:
    """Set tags of this node (null takes one away) and tell all; only its own."""
    body: NodePatch = call.body
    node = call.mesh.node(call.path["node_id"])
    if node.node_id != call.mesh.node_id:
        raise LocalProtocolError(f"the tags of node {node.node_id.short} are its own: ask that node")
    return json_response(await call.mesh.update_node(**body.tags))


@routes.add("GET", "/api/v1/topology", scope="nodes:read", query=TopologyQuery, answers={200: TopologyShown})
async def show_topology(call: Call) -> Response:
    """The nodes, the links between them, and who suspects whom."""
    query: TopologyQuery = call.query
    mesh = call.mesh
    await trio.lowlevel.checkpoint()
    topology = mesh.topology()
    links = [LinkSeen(**attrs.asdict(link, recurse=False), by=mesh.node_id) for link in topology.links]
    asked: list[NodeId] = []
    if query.scope == "mesh":
        for node_id, theirs in (await mesh.links_of_linked()).items():
            asked.append(node_id)
            links += [LinkSeen(**attrs.asdict(link, recurse=False), by=node_id) for link in theirs]
    return json_response(TopologyShown(list(topology.nodes), links, mesh.suspicions(), asked))
