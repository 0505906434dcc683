"""Routes that send: to one node, acknowledged, and to all, not. See `bms.verbs.messages`.

A body is text or base64, so that any bytes can be sent from JSON. Receiving is a stream: `/api/v1/events`.
"""

from __future__ import annotations

import base64
import binascii

from msgspec import UNSET
from quart import Response

from ...errors import LocalProtocolError, RemoteProtocolError
from ..problems import ProblemError
from ..routing import Call, Routes, json_response
from ..schemas import Broadcast, BroadcastDone, Delivered, Message

__all__ = ["broadcast_message", "routes", "send_message"]

routes = Routes("messages")


def _body(message: Broadcast, limit: int) -> bytes:
    if (message.body is UNSET) == (message.body_base64 is UNSET):
        raise LocalProtocolError("a message has either body or body_base64")
    if message.body is not UNSET:
        raw = message.body.encode()
    else:
        assert message.body_base64 is not UNSET
        try:
            raw = base64.b64decode(message.body_base64, validate=True)
        except (ValueError, binascii.Error):
            raise LocalProtocolError("body_base64 is no base64") from None
    if len(raw) > limit:
        raise ProblemError(413, f"the body has {len(raw)} bytes; limits.body_bytes_max is {limit}")
    return raw


@routes.add(
    "POST", "/api/v1/messages", scope="messages:write", body=Message, body_bytes_max=None, answers={200: Delivered},
    errors=(404, 502, 504), limit_status=429,
)  # fmt: skip
async def send_message(call: Call) -> Response:
    """Send to one node; the answer comes when it is queued for that node's program, and acknowledged."""
    message: Message = call.body
    body = _body(message, call.mesh.config.limits.body_bytes_max)
    try:
        await call.mesh.send_message(message.to, body, message.topic, message.deadline_s)
    except RemoteProtocolError as error:
        raise ProblemError(502, str(error), RemoteProtocolError) from None
    return json_response(Delivered())


@routes.add(
    "POST", "/api/v1/broadcast", scope="messages:write", body=Broadcast, body_bytes_max=None,
    answers={200: BroadcastDone}, limit_status=429,
)  # fmt: skip
async def broadcast_message(call: Call) -> Response:
    """Send to every linked node, and this one; nobody acknowledges it."""
    message: Broadcast = call.body
    body = _body(message, call.mesh.config.limits.body_bytes_max)
    return json_response(BroadcastDone(await call.mesh.broadcast_message(body, message.topic)))
