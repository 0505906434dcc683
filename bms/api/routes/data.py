"""Routes about data: keys and values as raw bytes. See `bms.verbs.data`.

A key is all of the path behind its space, percent-decoded once and never normalized, so that every key of the store has
a path; a client that normalizes paths itself must escape "/" and ".". The entity tag is the version; conditions hold
against this node's store, in the same transaction as the write, and not against the mesh: another node's write may win
later.
"""

from __future__ import annotations

import base64
import binascii

import trio
from quart import Response

from ...data.replication import SyncReport
from ...errors import LocalProtocolError
from ...values import KeyInfo, Value
from ..bodies import Condition
from ..problems import ProblemError
from ..routing import RAW, Call, Media, Routes, json_response
from ..schemas import DataQuery, Key, Keys, LastSyncs, PutQuery, Sync, Written

__all__ = ["delete_value", "get_syncs", "get_value", "list_keys", "put_value", "routes", "sync"]

routes = Routes("data")

KEY_PATH = "/api/v1/data/<space>/<key:key>"

_HEADERS = {"ETag": "the version, in quotes", "Bms-Version": "the version", "Bms-Author": "the node that wrote it"}


def _cursor(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def _key_of(cursor: str) -> bytes:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise LocalProtocolError("the cursor is none of this listing's") from None


@routes.add("GET", "/api/v1/data/<space>", scope="data:read", query=DataQuery, answers={200: Keys}, errors=(404,))
async def list_keys(call: Call) -> Response:
    """Keys of a space in byte order, a page at a time."""
    query: DataQuery = call.query
    prefix = query.prefix.encode("utf-8", "surrogateescape")
    after = None if query.cursor is None else _key_of(query.cursor)
    page: list[KeyInfo] = []
    async with call.mesh.scan(prefix, call.path["space"], after=after) as keys:
        async for info in keys:
            page.append(info)
            if len(page) > query.limit:
                break
    shown = [_shown(info) for info in page[: query.limit]]
    last = page[query.limit - 1].key if len(page) > query.limit else None
    return json_response(Keys(shown, _cursor(last) if isinstance(last, bytes) else None))


def _shown(info: KeyInfo) -> Key:
    assert isinstance(info.key, bytes)
    try:
        text, raw = info.key.decode(), None
    except UnicodeDecodeError:
        text, raw = None, base64.b64encode(info.key).decode()
    return Key(text, raw, info.size, info.version, info.author)


@routes.add(
    "GET", KEY_PATH, scope="data:read", conditions=True, errors=(404,),
    answers={200: Media(RAW, _HEADERS), 304: None, 412: None},
)  # fmt: skip
async def get_value(call: Call) -> Response:
    """The bytes of a value; 304 if its version is the one in If-None-Match."""
    found = await call.mesh.retrieve_data(call.path["key"], call.path["space"])
    condition = call.condition
    if not Condition(condition.match, condition.match_any).allows(found.version):
        raise ProblemError(412, "the version in force is another than If-Match says", None, _headers(found))
    if not condition.allows(found.version):
        return Response(b"", status=304, headers=_headers(found))
    return Response(found.value, headers=_headers(found), content_type=RAW)


def _headers(found: Value) -> dict[str, str]:
    return {"ETag": f'"{found.version}"', "Bms-Version": found.version, "Bms-Author": str(found.author)}


@routes.add(
    "PUT", KEY_PATH, scope="data:write", query=PutQuery, body=Media(RAW), body_bytes_max=None, conditions=True,
    answers={200: Written}, errors=(404, 412, 507),
)  # fmt: skip
async def put_value(call: Call) -> Response:
    """Write a value; it is on this node's disk when the answer comes, and on its way to the others."""
    query: PutQuery = call.query
    condition = call.condition
    version = await call.mesh.store_data(
        call.path["key"], call.body, call.path["space"], query.ttl_s,
        condition=condition.allows if condition.is_set else None,
    )  # fmt: skip
    headers = {"ETag": f'"{version}"', "Bms-Version": version, "Bms-Author": str(call.mesh.node_id)}
    return json_response(Written(version), 200, headers)


@routes.add("DELETE", KEY_PATH, scope="data:write", conditions=True, answers={200: Written}, errors=(404, 412, 507))
async def delete_value(call: Call) -> Response:
    """Delete a key everywhere; the deletion is on this node's disk when the answer comes."""
    condition = call.condition
    version = await call.mesh.delete_data(
        call.path["key"], call.path["space"], condition=condition.allows if condition.is_set else None
    )
    return json_response(Written(version), 200, {"Bms-Version": version})


@routes.add("GET", "/api/v1/sync", scope="status:read", answers={200: LastSyncs})
async def get_syncs(call: Call) -> Response:
    """How the last reconciliation with each linked peer went: the node's own rounds, and those asked for."""
    await trio.lowlevel.checkpoint()
    return json_response(LastSyncs(call.mesh.last_syncs()))


@routes.add(
    "POST", "/api/v1/sync", scope="data:write", body=Sync, body_is_optional=True, answers={200: SyncReport},
    errors=(404, 504), deadline_s=70.0,
)  # fmt: skip
async def sync(call: Call) -> Response:
    """Reconcile this node's store with its peers' now; what it took for each."""
    body: Sync = call.body
    return json_response(await call.mesh.sync_with_peers(body.peers))
