"""One remote node: `open_client`, and a `Client` with a coroutine for each thing that can be asked of it.

What was sent and not answered is a `DeliveryError`: the outcome is unknown. Reads are asked once more if their
connection ends under them; nothing else is repeated. Keys go into paths with every byte escaped that anybody on the way
could take for something else.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import attrs
import trio

from ..control.answers import Status
from ..control.parsing import parse_claims, parse_node, parse_status, understood
from ..errors import DeliveryError, LocalProtocolError, RemoteProtocolError
from ..nursery import open_body_nursery
from ..security.tokens import Claims
from ..values import KeyInfo, Node, NodeId, Value, Version, key_bytes
from .answers import error_of, json_of, key_info
from .feed import EventFeed, EventSocket
from .place import Place, place_of

if TYPE_CHECKING:
    import httpx

    from .exchange import Exchange

__all__ = ["Client", "open_client"]

TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 65 << 20  # a value of the longest that a node takes unless it is told otherwise, and a little
SYNC_S = 90.0
PAGE = 500

_PATH_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")

Key = str | bytes


@asynccontextmanager
async def open_client(
    url: str,
    token: str,
    *,
    ca: str | Path | None = None,
    fingerprint: str | None = None,
    allow_plain: bool = False,
    timeout_s: float = TIMEOUT_S,
    answer_bytes_max: int = ANSWER_BYTES_MAX,
) -> AsyncIterator[Client]:
    """A client of the node at `url`; connects when it is first used.

    `ca`: a file of authorities (PEM) in place of the system's. `fingerprint`: the SHA-256 of the node's certificate, 64
    hexadecimal digits. `timeout_s`: how long each step of a request may take. `answer_bytes_max`: the longest answer
    that is taken, a value for example; LimitError beyond it. Raises LocalProtocolError (the arguments; also http:// to
    another machine without `allow_plain`).
    """
    place = place_of(url, ca, fingerprint, allow_plain)
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise LocalProtocolError("this is no token: it is one word, as `bms token` prints it")
    from .exchange import open_exchange  # httpx

    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
    async with open_exchange(place, headers, timeout_s, answer_bytes_max) as http, open_body_nursery() as nursery:
        yield Client(http, place, headers, nursery)


class Client:
    """One remote node. Made by `open_client`; may be used by several tasks at once."""

    def __init__(self, http: Exchange, place: Place, headers: Mapping[str, str], nursery: trio.Nursery) -> None:
        self._http = http
        self._place = place
        self._headers = headers
        self._nursery = nursery

    # ------------------------------------------------------------------ the node

    async def status(self) -> Status:
        """The node in short."""
        return cast(Status, await self._get("/status", parse_status))

    async def stats(self) -> dict[str, Any]:
        """Statistics as they are now; fields as in `bms.Stats`."""
        return cast(dict[str, Any], await self._get("/stats"))

    async def health(self) -> dict[str, Any]:
        """How the node is: `status`, and `checks` with name, status and reason."""
        return cast(dict[str, Any], await self._get("/health"))

    async def report(self, format: str = "html") -> str:  # noqa: A002 - as the verb of `Mesh` has it
        """All that the node says of itself, as "html", "json" or "text"."""
        return (await self._call("GET", "/report", params={"format": format})).text

    async def performance(self, seconds: float = 1.0) -> dict[str, Any]:
        """Have the node measure round trips, throughput, durable writes and lag; fields as in `bms.Performance`."""
        answer = await self._call("POST", "/performance", json={"seconds": seconds})
        return cast(dict[str, Any], json_of(answer))

    async def logs(self, since: int | None = None, limit: int = 200) -> dict[str, Any]:
        """`records` of the node's log behind number `since`, or the newest, and `next` to go on from."""
        return cast(dict[str, Any], await self._get("/logs", since=since, limit=limit))

    async def config(self) -> dict[str, Any]:
        """The settings in force, by dotted name."""
        return cast(dict[str, Any], await self._get("/config", lambda found: dict(found["settings"])))

    async def change_config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Put settings in force, by dotted name, all or none: `fields` that changed, subsystems `restarted`."""
        answer = await self._call("PATCH", "/config", json={"settings": dict(settings)}, timeout=SYNC_S)
        return cast(dict[str, Any], json_of(answer))

    # ------------------------------------------------------------------ nodes

    async def nodes(self, state: str | None = None) -> list[Node]:
        """The members as that node sees them, itself first; `state` keeps those in one state alone."""
        found: list[Node] = []
        cursor: str | None = None
        while True:
            page, cursor = await self._get(
                "/nodes", lambda fields: ([parse_node(node) for node in fields["nodes"]], fields["next"]),
                state=state, limit=PAGE, cursor=cursor,
            )  # fmt: skip
            found += page
            if cursor is None:
                return found

    async def node(self, node_id: str) -> Node:
        """One member; NotFoundError if that node knows none of that id."""
        return cast(Node, await self._get(f"/nodes/{quote(node_id, safe='')}", parse_node))

    async def nearest(
        self, target: str | Node | Sequence[float] | None = None, count: int = 3, metric: str = "rtt"
    ) -> list[tuple[Node, float]]:
        """The live nodes nearest to a node, that one (None) or a point; see `Mesh.find_nearest_nodes`."""
        asked: dict[str, Any] = {"count": count, "metric": metric}
        if isinstance(target, (str, Node)):
            asked["target"] = target.node_id if isinstance(target, Node) else target
        elif target is not None:
            asked["point"] = ",".join(repr(float(number)) for number in target)
        found = await self._get(
            "/nodes/nearest",
            lambda fields: [(parse_node(one["node"]), float(one["distance"])) for one in fields["nearest"]],
            **asked,
        )
        return cast(list[tuple[Node, float]], found)

    async def topology(self, scope: str = "node") -> dict[str, Any]:
        """`nodes`, `links` and `suspicions` as that node knows them; scope "mesh": its neighbours' links, too."""
        return cast(dict[str, Any], await self._get("/topology", scope=scope))

    async def register_node(self, address: str) -> Node:
        """Have that node connect to whoever lives at `address`."""
        answer = await self._call("POST", "/nodes", json={"address": str(address)}, timeout=SYNC_S)
        with understood():
            return parse_node(json_of(answer))

    async def remove_node(self, node_id: str) -> None:
        """Have all nodes forget one that failed or left."""
        await self._call("DELETE", f"/nodes/{quote(node_id, safe='')}")

    async def sync(self, peers: Iterable[str] | None = None) -> dict[str, Any]:
        """Have that node reconcile with `peers`, or all that are linked, now; the report."""
        asked = {} if peers is None else {"peers": [str(peer) for peer in peers]}
        return cast(dict[str, Any], json_of(await self._call("POST", "/sync", json=asked, timeout=SYNC_S)))

    # ------------------------------------------------------------------ data

    async def store_data(
        self, key: Key, value: bytes, space: str = "default", ttl_s: float | None = None, *,
        if_version: str | None = None,
    ) -> Version:  # fmt: skip
        """Write a value; on that node's disk when this returns, and on its way to the others.

        `if_version`: only if that node holds this version now (VersionConflictError otherwise); another node's write
        may win later.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if if_version is not None:
            headers["If-Match"] = f'"{if_version}"'
        answer = await self._call(
            "PUT", _data_path(space, key), params={"ttl_s": ttl_s}, content=bytes(value), headers=headers
        )
        with understood():
            return Version(json_of(answer)["version"])

    async def retrieve_data(self, key: Key, space: str = "default") -> Value:
        """Read a value; NotFoundError if there is none."""
        answer = await self._call("GET", _data_path(space, key))
        with understood():
            headers = answer.headers
            return Value(answer.content, Version(headers["Bms-Version"]), NodeId(headers["Bms-Author"]))

    async def delete_data(self, key: Key, space: str = "default") -> Version:
        """Delete a key everywhere; NotFoundError if there is none."""
        answer = await self._call("DELETE", _data_path(space, key))
        with understood():
            return Version(json_of(answer)["version"])

    @asynccontextmanager
    async def scan(self, prefix: Key = "", space: str = "default") -> AsyncIterator[AsyncIterator[KeyInfo]]:
        """List keys in byte order, as the type of `prefix`, with sizes, versions and authors."""
        is_text = isinstance(prefix, str)
        raw = prefix.encode("utf-8", "surrogateescape") if isinstance(prefix, str) else bytes(prefix)

        async def pages() -> AsyncIterator[KeyInfo]:
            cursor: str | None = None
            while True:
                page, cursor = await self._get(
                    f"/data/{quote(space, safe='')}", lambda found: ([key_info(one) for one in found["keys"]],
                    found["next"]), prefix=raw, limit=PAGE, cursor=cursor,
                )  # fmt: skip
                for info in page:
                    text = info.key.decode("utf-8", "surrogateescape")
                    yield attrs.evolve(info, key=text) if is_text else info
                if cursor is None:
                    return

        keys = pages()
        try:
            yield keys
        finally:
            await keys.aclose()  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ messages

    async def send_message(self, to: str | Node, body: bytes, topic: str = "", deadline_s: float = 5.0) -> None:
        """Send to one node, by its whole id; returns when that node's program has it."""
        node_id = to.node_id if isinstance(to, Node) else to
        asked = {"to": node_id, "topic": topic, "deadline_s": deadline_s, "body_base64": _base64(body)}
        await self._call("POST", "/messages", json=asked, timeout=deadline_s + TIMEOUT_S)

    async def broadcast_message(self, body: bytes, topic: str = "") -> int:
        """Send to every live node; how many others it was queued for."""
        answer = await self._call("POST", "/broadcast", json={"topic": topic, "body_base64": _base64(body)})
        with understood():
            return int(json_of(answer)["queued_for"])

    @asynccontextmanager
    async def events(
        self, types: Iterable[str] | None = None, *, prefix: str = "", topics: Iterable[str] | None = None,
        take: bool = False, since: str | None = None,
    ) -> AsyncIterator[EventFeed]:  # fmt: skip
        """Follow what happens at that node, live from the moment this is entered.

        `types`: of "node", "data", "message", "health", "log", "stats"; None: the first four, as far as the token
        allows. `prefix`: data events of keys that begin with it. `topics`: messages on these. `take`: take those away
        from that node's program, which is their subscriber meanwhile (scope messages:take). `since`: the `cursor` of a
        feed that has ended, to go on behind it. Raises RefusedError, UnreachableError.
        """
        asked: dict[str, str] = {}
        if types is not None:
            asked["types"] = ",".join(types)
        if prefix:
            asked["prefix"] = prefix
        if topics is not None:
            chosen = list(topics)
            if any("," in topic for topic in chosen):
                raise LocalProtocolError("topics with a comma in their name cannot be chosen here")
            asked["topics"] = ",".join(chosen)
        if take:
            asked["take"] = "true"
        feed = EventFeed(lambda since: self._open_socket(asked, since), since)
        try:
            await feed._begin()
            yield feed
        finally:
            await feed._close()

    # ------------------------------------------------------------------ tokens

    async def whoami(self) -> dict[str, Any]:
        """Whose token this is, what it allows, and which node answers."""
        return cast(dict[str, Any], await self._get("/whoami"))

    async def tokens(self) -> list[Claims]:
        """The tokens in force at that node, without their secrets."""
        found = await self._get("/tokens", lambda fields: [parse_claims(one) for one in fields["tokens"]])
        return cast(list[Claims], found)

    async def issue_token(
        self, scopes: Iterable[str], ttl_s: float | None = None, name: str = ""
    ) -> tuple[str, Claims]:
        """A new token of that node, and its claims: allowed no more than this one, good no longer, ended with it."""
        asked = {"scopes": list(scopes), "name": name, **({} if ttl_s is None else {"ttl_s": ttl_s})}
        answer = json_of(await self._call("POST", "/tokens", json=asked))
        with understood():
            return answer["token"], parse_claims(answer["claims"])

    async def revoke(self, token_id: str) -> None:
        """End a token, by its id."""
        await self._call("DELETE", f"/tokens/{quote(token_id, safe='')}")

    # ------------------------------------------------------------------ inside

    async def _get(self, path: str, parse: Callable[[Any], Any] = lambda fields: fields, **params: Any) -> Any:
        answer = json_of(await self._call("GET", path, params=params))
        with understood():
            return parse(answer)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **body: Any,
    ) -> httpx.Response:
        query = urlencode({name: value for name, value in (params or {}).items() if value not in (None, b"")})
        target = f"/api/v1{path}{'?' if query else ''}{query}"
        try:
            answer = await self._http.ask(method, target, timeout, **body)
        except DeliveryError:
            if method != "GET":
                raise
            answer = await self._http.ask(method, target, timeout, **body)
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer.content)
        if answer.status_code >= 300:
            raise RemoteProtocolError(f"status {answer.status_code}: is this the address of a node?")
        return answer

    async def _open_socket(self, asked: Mapping[str, str], since: str | None) -> EventSocket:
        query = urlencode({**asked, **({} if since is None else {"since": since})}, errors="surrogateescape")
        return await EventSocket.open(self._nursery, self._place, f"/api/v1/events?{query}", self._headers)


def _data_path(space: str, key: Key) -> str:
    return f"/data/{_escaped(space.encode())}/{_escaped(key_bytes(key))}"


def _escaped(raw: bytes) -> str:
    """Percent-encoded, dots and slashes too, so that nobody on the way normalizes them."""
    return "".join(chr(byte) if byte in _PATH_SAFE else f"%{byte:02X}" for byte in raw)


def _base64(body: bytes) -> str:
    return base64.b64encode(bytes(body)).decode()
