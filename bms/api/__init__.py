"""The HTTP, HTTPS and WebSocket interface of a node: a client of `Mesh` like any program that embeds one.

Rooms within: `limits` and `connection` and `serving` (sockets, deadlines, Hypercorn's protocols), `https`
(certificates), `context` (what all share), `app` and `routes` (what is served), `events` (streams). This package is
loaded only when HTTP is switched on; nothing below it imports quart, hypercorn, msgspec or prometheus_client.
"""

__all__: list[str] = []
