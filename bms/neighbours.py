"""What linked nodes say of their own links, for whoever looks at the mesh as a whole: a map of it shows more than one
node's part.

Each node answers requests on the topic `LINKS`; topics that begin with `RESERVED` belong to the nodes themselves, and
no program can send on them, serve or read them. The answer is a CBOR array of `[node id, rtt in µs or null, loss in
ppm or null, age in ms, dialed]`, at most `LINKS_MAX`. A peer's word is what it says and not what is so: it is shown as
that peer's, and nothing is decided by it.

Asking is bounded: `ASKED_MAX` nodes at once, `DEADLINE_S` for all of them, and an answer is good for `FRESH_S`, however
many ask. Nodes that do not answer, or do not let this one ask (grants), are missing in what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import trio

from .errors import LocalProtocolError, MeshError, RemoteProtocolError
from .messaging.courier import Courier
from .net.link import Link
from .values import Message, NodeId
from .wire.codec import check_items_untrusted, decode_untrusted, encode

__all__ = ["RESERVED", "Neighbours", "TopologyLink", "check_topic", "parse_links_untrusted"]

RESERVED = "$bms/"
LINKS = RESERVED + "links"
LINKS_MAX = 1000
ASKED_MAX = 64
DEADLINE_S = 2.0
FRESH_S = 1.0

_ID_BYTES = 32
_ROW = 5
_ROW_BYTES_MAX = 100
_BYTES_PER_ITEM = 6


@attrs.frozen
class TopologyLink:
    """One link of a node: `rtt_s` seconds (None: not measured yet), `loss` the share of probes that were not answered
    in time (0 to 1, smoothed; None: none was sent), `age_s` since when it is up, `dialed` by that node.
    """

    node_id: NodeId
    rtt_s: float | None
    loss: float | None
    age_s: float
    dialed: bool


def check_topic(topic: str) -> None:
    """Raise LocalProtocolError for topics that no program may use."""
    if topic.startswith(RESERVED):
        raise LocalProtocolError(f"topics that begin with {RESERVED!r} are the nodes' own")


def parse_links_untrusted(data: bytes) -> list[TopologyLink]:
    """What a peer has answered."""
    if len(data) > LINKS_MAX * _ROW_BYTES_MAX:
        raise RemoteProtocolError("links are not that long")
    check_items_untrusted(data, _BYTES_PER_ITEM)
    rows = decode_untrusted(data)
    if not isinstance(rows, list) or len(rows) > LINKS_MAX:
        raise RemoteProtocolError("links are a list, and not too long")
    return [_parse_link_untrusted(row) for row in rows]


def _parse_link_untrusted(row: object) -> TopologyLink:
    if not isinstance(row, list) or len(row) < _ROW:
        raise RemoteProtocolError("a link without all of its fields")
    raw, rtt, loss, age, dialed = row[:_ROW]
    if not isinstance(raw, bytes) or len(raw) != _ID_BYTES or not isinstance(dialed, bool):
        raise RemoteProtocolError("a link to something that is no node")
    for number in (rtt, loss, age):
        if not (number is None or (type(number) is int and 0 <= number < 1 << 53)) or age is None:
            raise RemoteProtocolError("a link with numbers that cannot be")
    return TopologyLink(
        NodeId.of(raw),
        None if rtt is None else rtt / 1e6,
        None if loss is None else min(1.0, loss / 1e6),
        age / 1e3,
        dialed,
    )


class Neighbours:
    """The subsystem that answers for this node, and asks the others."""

    name = "neighbours"

    def __init__(
        self,
        courier: Courier,
        links: Callable[[], Iterable[Link]],
        rtt_s: Callable[[NodeId], float | None],
        loss: Callable[[NodeId], float | None],
    ) -> None:
        self._courier = courier
        self._links = links
        self._rtt_s = rtt_s
        self._loss = loss
        self._asking = trio.Lock()
        self._found: dict[NodeId, list[TopologyLink]] = {}
        self._found_at = float("-inf")

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Answer until cancelled."""
        await self._courier.serve_requests(LINKS, self._answer, task_status=task_status)

    def mine(self) -> list[TopologyLink]:
        """This node's links, by the id of the other end."""
        now = trio.current_time()
        return [
            TopologyLink(
                link.node_id, self._rtt_s(link.node_id), self._loss(link.node_id), now - link.since, link.dialed
            )
            for link in sorted(self._links(), key=lambda link: link.node_id)
        ]

    async def _answer(self, message: Message) -> bytes:
        await trio.lowlevel.checkpoint()
        return encode(
            [
                [
                    link.node_id.raw,
                    None if link.rtt_s is None else round(link.rtt_s * 1e6),
                    None if link.loss is None else round(link.loss * 1e6),
                    round(link.age_s * 1e3),
                    link.dialed,
                ]
                for link in self.mine()[:LINKS_MAX]
            ]
        )

    async def ask(self) -> dict[NodeId, list[TopologyLink]]:
        """What the linked nodes say of theirs; those that could not be asked in time are left out."""
        async with self._asking:
            if trio.current_time() - self._found_at >= FRESH_S:
                found: dict[NodeId, list[TopologyLink]] = {}
                with trio.move_on_after(DEADLINE_S):
                    async with trio.open_nursery() as nursery:
                        for link in sorted(self._links(), key=lambda link: link.node_id)[:ASKED_MAX]:
                            nursery.start_soon(self._ask_one, link.node_id, found)
                self._found, self._found_at = dict(sorted(found.items())), trio.current_time()
            return self._found

    async def _ask_one(self, node_id: NodeId, found: dict[NodeId, list[TopologyLink]]) -> None:
        try:
            found[node_id] = parse_links_untrusted(await self._courier.request(node_id, b"", LINKS, DEADLINE_S))
        except MeshError:
            pass  # it has gone, is of another version, or does not let this node ask: it is missing in the answer
