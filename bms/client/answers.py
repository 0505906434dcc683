"""What a node's HTTP answers mean: values, and errors as the node has raised them.

An error comes as a problem object (RFC 9457) that names the class of `bms.errors` and has its facts. Something between
here and the node may answer in its place: then the status alone says what it means.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from ..control.failures import error_untrusted
from ..errors import (
    DeliveryError,
    LimitError,
    LocalProtocolError,
    MeshError,
    NotFoundError,
    RefusedError,
    RemoteError,
    RemoteProtocolError,
    UnreachableError,
)
from ..values import KeyInfo, NodeId, Version
from ..wire.messages import Failure

if TYPE_CHECKING:
    import httpx

__all__ = ["error_of", "json_of", "key_info"]

_BY_STATUS: dict[int, type[MeshError]] = {
    **dict.fromkeys((401, 403, 421), RefusedError),
    404: NotFoundError,
    **dict.fromkeys((408, 413, 414, 429, 431), LimitError),
    **dict.fromkeys((502, 503), UnreachableError),
    504: DeliveryError,
}
"""What a status means by itself, where something in between has answered."""


def json_of(answer: httpx.Response) -> Any:
    """The value that an answer holds; RemoteProtocolError if it is no JSON."""
    try:
        return answer.json()
    except ValueError as error:
        raise RemoteProtocolError("the answer is no JSON: is this the address of a node?") from error


def error_of(status: int, body: bytes) -> MeshError:
    """The error that an answer with this status stands for."""
    try:
        problem = json.loads(body)
        kind, text = problem["error"], problem.get("detail", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        kind, text = None, ""
    if not (isinstance(kind, str) and isinstance(text, str)):
        fallback = _BY_STATUS.get(status, LocalProtocolError if status < 500 else None)
        detail = text or f"the answer's status is {status}"
        return RemoteError(str(status), detail) if fallback is None else fallback(detail)
    if kind == "MeshError":
        return RemoteError(kind, text)
    return error_untrusted(Failure(0, kind, text, {"value": None, **problem}))


def key_info(fields: dict[str, Any]) -> KeyInfo:
    """A `KeyInfo` from its fields, with the key as bytes."""
    encoded = fields.get("key_base64")
    key = fields["key"].encode() if encoded is None else base64.b64decode(encoded)
    return KeyInfo(key, Version(fields["version"]), fields["size"], NodeId(fields["author"]))
