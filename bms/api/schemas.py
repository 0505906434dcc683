"""What goes in and out of each route, as types: for checking bodies, for the OpenAPI document, for tests.

What comes in is a msgspec Struct: unknown fields are refused, and ranges stand with their fields. What goes out is the
API's own class where there is one (`Node`, `Stats`, `Health`, …), made plain as `bms … -o json` prints it, and
otherwise an attrs class here; `schema_of` says the JSON Schema (2020-12) of either, so there is one truth. Answers may
get more fields: clients ignore those that they do not know. Times are Unix seconds, durations end in `_s`.
"""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NewType, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..data.replication import LastSync
from ..monitor.logs import LogRecord
from ..neighbours import TopologyLink
from ..reports import Sample
from ..roster import Suspicion
from ..security.tokens import KNOWN, TTL_MAX_S, Claims
from ..values import Address, Node, NodeId

__all__ = [
    "AboutSetting",
    "Broadcast",
    "BroadcastDone",
    "ConfigPatch",
    "CrateStatus",
    "DataQuery",
    "Delivered",
    "History",
    "HistoryQuery",
    "Join",
    "Joined",
    "Key",
    "Keys",
    "LastSyncs",
    "LinkSeen",
    "Login",
    "LoginDone",
    "Logs",
    "LogsQuery",
    "Message",
    "Near",
    "Nearest",
    "NearestQuery",
    "NewToken",
    "NodePatch",
    "NodesPage",
    "NodesQuery",
    "PerformanceAsked",
    "Problem",
    "PutQuery",
    "ReadyQuery",
    "Register",
    "ReportQuery",
    "Settings",
    "Step",
    "StepDone",
    "StepQuery",
    "Sync",
    "TokenIssued",
    "Tokens",
    "TopologyQuery",
    "TopologyShown",
    "WhoAmI",
    "Written",
    "plane_step",
    "schema_of",
]

PAGE_MAX = 1000
STEP_DIMENSIONS_MAX = 1000

_Text = Annotated[str, Meta(max_length=1024)]
_Cursor = Annotated[str, Meta(max_length=4096, description="`next` of the page before.")]
_Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description="How many at most.")]
_SHOWN = r"^[^\u0000-\u001f\u007f-\u009f]*$"  # no control characters
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_NodeId = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="A node's id.")]
_Address = Annotated[str, Meta(pattern=r"^[^\u0000-\u0020\u007f-\u00a0]+:[0-9]{1,5}$", max_length=512)]


class _Asked(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a client sends."""


# ---------------------------------------------------------------------- nodes


class NodesQuery(_Asked):
    """Which nodes."""

    state: Literal["alive", "suspect", "failed", "left"] | None = None
    limit: _Limit = 100
    cursor: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="`next` of the page before.")] | None = None


@attrs.frozen
class NodesPage:
    """A page of nodes, this one first, then by id. `next` is the cursor of the page that follows, null at the end."""

    nodes: list[Node]
    next: str | None


class Register(_Asked):
    """Where a node lives: host:port, or [v6]:port."""

    address: _Address


class NodePatch(_Asked):
    """Tags to set, null to take one away."""

    tags: dict[
        Annotated[str, Meta(max_length=2048, pattern=_SHOWN)],
        Annotated[str, Meta(max_length=2048, pattern=_SHOWN)] | None,
    ]


class NearestQuery(_Asked):
    """Near to what, by which metric."""

    target: Annotated[_NodeId, Meta(description="A node's id; without it, the node that is asked.")] | None = None
    metric: Literal["rtt", "xor", "space"] = "rtt"
    count: Annotated[int, Meta(ge=0, le=PAGE_MAX)] = 3
    point: Annotated[_Text, Meta(description='With metric "space": numbers with commas between.')] | None = None


@attrs.frozen
class Near:
    """A node and how far it is: seconds of round trip, the XOR of ids as a number, or a distance in space."""

    node: Node
    distance: float


@attrs.frozen
class Nearest:
    """The nearest first."""

    nearest: list[Near]


class TopologyQuery(_Asked):
    """Whose view."""

    scope: Annotated[
        Literal["node", "mesh"], Meta(description="mesh: also the links that the linked nodes say they have.")
    ] = "node"


@attrs.frozen
class LinkSeen(TopologyLink):
    """A link of the node `by` to `node_id`, as `by` sees it."""

    by: NodeId = attrs.field(kw_only=True)


@attrs.frozen
class TopologyShown:
    """All nodes, links and suspicions as the node that is asked knows them.

    With scope=mesh, `asked` are the nodes that have given their links too; those that could not be asked in time are
    missing there.
    """

    nodes: list[Node]
    links: list[LinkSeen]
    suspicions: list[Suspicion]
    asked: list[NodeId]


# ---------------------------------------------------------------------- data


class DataQuery(_Asked):
    """Which keys."""

    prefix: Annotated[str, Meta(description="Keys that begin with these bytes, percent-encoded.")] = ""
    limit: _Limit = 100
    cursor: _Cursor | None = None


@attrs.frozen
class Key:
    """One key without its value. `key` is null where it is no UTF-8; `key_base64` has it then."""

    key: str | None
    key_base64: str | None
    size: int
    version: str
    author: NodeId


@attrs.frozen
class Keys:
    """A page of keys in byte order. `next` is the cursor of the page that follows, null at the end."""

    keys: list[Key]
    next: str | None


class PutQuery(_Asked):
    """How a value is stored."""

    ttl_s: Annotated[float, Meta(gt=0, le=1e12, description="Seconds until it reads as missing.")] | None = None


@attrs.frozen
class Written:
    """The version that was written (of a deletion too); it is the entity tag."""

    version: str


class Sync(_Asked):
    """With whom: node ids; all that are linked if it is missing."""

    peers: list[_NodeId] | None = None


# ---------------------------------------------------------------------- messages


class Broadcast(_Asked, kw_only=True):
    """A message's body as text (UTF-8) or in base64 (RFC 4648, with padding), one of them."""

    MORE: ClassVar[dict[str, Any]] = {"oneOf": [{"required": ["body"]}, {"required": ["body_base64"]}]}

    topic: Annotated[str, Meta(max_length=255, pattern=_SHOWN)] = ""
    body: str | UnsetType = UNSET
    body_base64: (
        Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64", "pattern": _BASE64})] | UnsetType
    ) = UNSET


class Message(Broadcast, kw_only=True):
    """A message to one node."""

    to: _NodeId
    deadline_s: Annotated[float, Meta(gt=0, le=25)] = 5.0


@attrs.frozen
class Delivered:
    """It is queued for that node's program, and acknowledged."""

    delivered: Literal[True] = True


@attrs.frozen
class BroadcastDone:
    """How many other nodes it was queued for; nobody acknowledges it."""

    queued_for: int


# ---------------------------------------------------------------------- status


class ReportQuery(_Asked):
    """As what."""

    format: Literal["html", "json", "text"] = "html"


class ReadyQuery(_Asked):
    """`?verbose` lists each check."""

    verbose: Annotated[str, Meta(max_length=16)] | None = None


class HistoryQuery(_Asked):
    """How far back."""

    seconds: Annotated[float, Meta(gt=0, le=86_400)] = 600.0


@attrs.frozen
class History:
    """Samples of a node's history, oldest first."""

    samples: list[Sample]


@attrs.frozen
class LastSyncs:
    """For each linked peer how the last reconciliation with it went; those that had none yet are left out."""

    peers: tuple[LastSync, ...]


class PerformanceAsked(_Asked):
    """How long to measure."""

    seconds: Annotated[float, Meta(gt=0, le=10)] = 1.0


class LogsQuery(_Asked):
    """Which records: those with a number above `since`, oldest first; without it the newest."""

    since: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    limit: _Limit = 200


@attrs.frozen
class Logs:
    """Records of the node's log. `next` is what to give as `since` for those that follow."""

    records: list[LogRecord]
    next: int


# ---------------------------------------------------------------------- settings, tokens


class ConfigPatch(_Asked):
    """Settings by dotted name, with the values that they shall have."""

    settings: dict[Annotated[str, Meta(max_length=100)], Any]


@attrs.frozen
class AboutSetting:
    """What a setting means, the values that it may have in words, and what a change does: `effect` is "live",
    "restarts" (what: the subsystem) or "refused" (what: why); `note` says how far it reaches.
    """

    meaning: str
    unit: str
    values: str
    default: Any
    effect: str
    what: str
    note: str


@attrs.frozen
class Settings:
    """All settings in force, by dotted name, and what each is."""

    settings: dict[str, Any]
    about: dict[str, AboutSetting]


_Scope = Annotated[
    str, Meta(description="A subject and an action; * stands for all.", extra_json_schema={"enum": KNOWN})
]


class NewToken(_Asked):
    """What a token shall allow, and for how long: no more and no longer than the token that asks for it.

    Without `ttl_s` it is good for 30 days, or as long as that one.
    """

    scopes: Annotated[list[_Scope], Meta(min_length=1, max_length=64)]
    ttl_s: Annotated[float, Meta(gt=0, le=TTL_MAX_S)] | None = None
    name: Annotated[str, Meta(max_length=64, pattern=_SHOWN)] = ""


@attrs.frozen
class TokenIssued:
    """The token, which is shown once, and what it allows."""

    token: str
    claims: Claims


@attrs.frozen
class Tokens:
    """The tokens in force at this node, without their secrets, oldest first."""

    tokens: list[Claims]


class Login(_Asked):
    """A one-time code, as `bms dashboard` makes it."""

    code: Annotated[str, Meta(min_length=1, max_length=128)]


@attrs.frozen
class LoginDone:
    """The token that the code was good for."""

    token: str
    expires_at: float
    scopes: list[str]


@attrs.frozen
class WhoAmI:
    """Whose token this is, and which node answers. `node_name` is for people; `name` is the token's."""

    token_id: str
    name: str
    scopes: list[str]
    issued_at: float
    expires_at: float
    issuer: str | None
    node_id: NodeId
    node_name: str
    mesh_name: str
    version: str


# ---------------------------------------------------------------------- the crate's, and the step


class Join(_Asked):
    """As the crate's POST /join: where a node lives."""

    address: _Address


@attrs.frozen
class Joined:
    """The node that answered there."""

    joined: NodeId
    node: Node


@attrs.frozen
class CrateStatus:
    """What the Rust crate's GET /status gives. Counts since this node's start; times are Unix seconds."""

    tcp_connections: int
    udp_packets_received: int
    http_requests: int
    https_requests: int
    active_nodes: int
    total_messages: int
    start_time: float
    last_sync: float | None


_Position = Annotated[list[float], Meta(min_length=1, max_length=STEP_DIMENSIONS_MAX)]


class Step(msgspec.Struct, kw_only=True):
    """One step of at most `limit` from `node0` towards `node1`."""

    node0: _Position
    node1: _Position
    limit: Annotated[float, Meta(ge=0)] = 75.0
    dimensions: Annotated[int, Meta(ge=1, le=STEP_DIMENSIONS_MAX)] | None = None
    auth: Any = None


@attrs.frozen
class StepDone:
    """Where it ends."""

    next_step: list[float]


def plane_step(names: Sequence[str]) -> tuple[type[msgspec.Struct], type[msgspec.Struct]]:
    """The types of a step between positions with coordinates of these names, and of its answer."""
    count = len(names)
    position = msgspec.defstruct(
        f"Position{count}d", [(name, float) for name in names], kw_only=True, forbid_unknown_fields=True
    )
    asked = msgspec.defstruct(
        f"Step{count}d", [("node0", position), ("node1", position), ("auth", Any, None)], kw_only=True
    )
    return asked, msgspec.defstruct(f"Step{count}dDone", [("next_step", position)], kw_only=True)


class StepQuery(_Asked):
    """How far at most."""

    limit: Annotated[float, Meta(ge=0)] = 75.0


@attrs.frozen
class Problem:
    """RFC 9457. `error` is the class in `bms.errors`; its facts stand beside it."""

    type: str
    title: str
    status: int
    detail: str
    error: str


# ---------------------------------------------------------------------- JSON Schema


_PLAIN: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    Any: {},
}


def schema_of(kind: Any, components: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of `plain(value)` for values of a type; schemas of classes are added to `components`."""
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, NewType):
        return schema_of(kind.__supertype__, components)
    if origin is Annotated:
        return schema_of(arguments[0], components)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, components) for one in arguments]}
    if origin in (list, tuple):
        items = arguments[0] if origin is list or arguments[1:] == (...,) else Union[arguments]  # noqa: UP007 - made here
        return {"type": "array", "items": schema_of(items, components)}
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {"type": "object", "additionalProperties": schema_of(arguments[1], components)}
    assert isinstance(kind, type), f"no JSON Schema for {kind!r}"
    if issubclass(kind, enum.Enum):
        return {"enum": [str(member.value) for member in kind]}
    if issubclass(kind, NodeId):
        return {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    if issubclass(kind, str | Address | Path):
        return {"type": "string"}
    return _component(kind, components)


def _component(kind: type[Any], components: dict[str, Any]) -> dict[str, Any]:
    """A class: defined once under its name, and referred to."""
    name = kind.__name__
    if name not in components:
        components[name] = {}  # while its fields are looked at, which may refer to it
        if issubclass(kind, msgspec.Struct):
            found, defined = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
            components |= defined
            components[name] |= getattr(kind, "MORE", {})
            return dict(found[0])
        hints = get_type_hints(kind)
        fields = {field.name: schema_of(hints[field.name], components) for field in attrs.fields(kind)}
        components[name] = {
            "type": "object",
            "description": inspect.cleandoc(kind.__doc__ or ""),
            "properties": fields,
            "required": list(fields),
        }
    return {"$ref": f"#/components/schemas/{name}"}
