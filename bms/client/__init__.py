"""A remote node's HTTP interface, from Python: the verbs of a `Mesh` with the same names where both have them.

    async with bms.open_client("https://10.0.0.5:7802", token, fingerprint="9f86…") as node:
        await node.store_data("greeting", b"hello")
        async with node.events(["data", "message"]) as events:
            async for event in events: ...

Errors are those of `bms.errors`, also where the node has raised them. What was sent and not answered is a
`DeliveryError`: the outcome is unknown. Reads are asked once more if their connection ends under them; nothing else is.

TLS is always checked: by the system's authorities, by those in the file `ca`, or by the SHA-256 of the node's
certificate, `fingerprint`, where it has made its own (`bms up` logs it). The token is sent to nobody else: not before
that check, not to where a redirect leads, not through a proxy of the environment, and in clear to this machine alone
(`allow_plain=True` takes that back).

`events` reconnects by itself and goes on behind the last event it has given; see `EventFeed`. Deliberately absent:
caches, and choosing another node when one is gone.

    place      where a node is and how it is known to be it      answers    what its answers mean
    node       the client                                        feed       its events
    exchange   one request and its answer, over httpx: loaded when a client is opened
"""

from .feed import EventFeed
from .node import Client, open_client

__all__ = ["Client", "EventFeed", "open_client"]
