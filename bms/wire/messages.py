"""The messages of protocol version 1: one class for each rule of `docs/reference/wire.cddl`, and nothing else.

    payload = [type, id, field, ...]        one CBOR array

- `TYPE` is the class's number: 0-15 control, 16-31 join and leave, 32-63 data, 64-79 status; 80-95 only on the local
  control socket (`local=True`), elsewhere as unknown as any other. Who does not know a type from 128 up ignores it.
- A class has `id` as its first field where the schema has one; elsewhere the second item is 0, and must be.
- Fields stand in the schema's order under its names (hyphens become underscores, an unnamed array takes the plural of
  what it lists). Fields behind the last known one are ignored: that is how a newer version adds some.
- A field's annotation (`fields`) says what it may be, both ways: parsing refuses anything else as the peer's fault,
  encoding as ours.

Cards, batches and admissions stay what they are on the wire, nested lists of bytes and numbers in their right shape:
what they hold is signed, and only who verifies the signature may believe it.

Deliberately absent: which message may come in which state of a link, and who may send it (`net` and the rooms above).
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias, get_args, get_type_hints, overload

import attrs

from ..errors import LocalProtocolError, RemoteProtocolError
from .codec import UINT_MAX, check_items_untrusted, decode_fields_untrusted, encode_fields
from .fields import (
    Admissions,
    Batches,
    Bool,
    Bytes,
    Bytes16,
    Bytes32,
    Bytes64,
    Card,
    ChunkList,
    Epoch,
    Facts,
    Hashes,
    Kind,
    Name,
    Observed,
    Plain,
    Prose,
    Topic,
    Uint,
    Versions,
)
from .framing import frame

__all__ = [
    "IGNORABLE_TYPE_MIN",
    "AnyMessage",
    "Broadcast",
    "Chunks",
    "ChunksGet",
    "Close",
    "CloseCode",
    "Command",
    "Entries",
    "EntriesGet",
    "Error",
    "Failure",
    "Hello",
    "Ids",
    "IdsGet",
    "Item",
    "LocalMessage",
    "Note",
    "Ok",
    "Packet",
    "Ping",
    "Pong",
    "Proof",
    "Push",
    "Request",
    "Response",
    "Result",
    "Sync",
    "SyncState",
    "Welcome",
    "encode_message",
    "field_kinds",
    "frame_message",
    "parse_message_untrusted",
]

IGNORABLE_TYPE_MIN = 128

_BYTES_PER_ITEM = 16
"""Of what nodes say to each other an item takes more on average: half as much again where lists of entries are full."""


class CloseCode(enum.IntEnum):
    """Why a link is closed. A newer peer may send others: `Close.code` is any number."""

    GOING_AWAY = 0
    PROTOCOL_ERROR = 1
    REFUSED = 2
    DUPLICATE = 3
    OTHER_MESH = 4
    NO_COMMON_VERSION = 5
    AT_LIMIT = 6
    SILENT = 7
    REPLACED = 8
    COPIED_KEY = 9


# --- control


@attrs.frozen
class Hello:
    """The first frame from either side of a link: who, in which mesh, and its card."""

    TYPE: ClassVar[int] = 0
    versions: Versions
    mesh_id: Bytes32
    nonce: Bytes32
    card: Card
    frame_bytes_max: Uint
    time: Uint
    lane: Uint


@attrs.frozen
class Proof:
    """The node key's signature over both hellos and both certificates."""

    TYPE: ClassVar[int] = 1
    signature: Bytes64


@attrs.frozen
class Welcome:
    """The dialing node is in: the version that was chosen, and its address as seen from here."""

    TYPE: ClassVar[int] = 2
    version: Uint
    observed: Observed


@attrs.frozen
class Close:
    """The last frame of a link: a `CloseCode`, and the reason for people."""

    TYPE: ClassVar[int] = 3
    code: Uint = attrs.field(converter=int)
    reason: Prose


@attrs.frozen
class Ok:
    """Done, with nothing to say."""

    TYPE: ClassVar[int] = 6
    id: Uint


@attrs.frozen
class Error:
    """It failed: `kind` for programs, `text` for people."""

    TYPE: ClassVar[int] = 7
    id: Uint
    kind: Name
    text: Prose


# --- join and leave


@attrs.frozen
class Packet:
    """What the failure detector would say in a datagram, or what is too long for one (formats.md, "Packets")."""

    TYPE: ClassVar[int] = 16
    payload: Bytes


# --- data: entries


@attrs.frozen
class Push:
    """What the sender's store applied after one position, up to another."""

    TYPE: ClassVar[int] = 32
    epoch: Epoch
    after: Uint
    upto: Uint
    batches: Batches
    admissions: Admissions


@attrs.frozen
class Sync:
    """Where the sender's store stands; asks for the same."""

    TYPE: ClassVar[int] = 33
    id: Uint
    epoch: Epoch
    high: Uint
    fingerprint: Bytes16


@attrs.frozen
class SyncState:
    """Where the answering store stands."""

    TYPE: ClassVar[int] = 34
    id: Uint
    epoch: Epoch
    high: Uint
    fingerprint: Bytes16


@attrs.frozen
class IdsGet:
    """Asks for the ids that a store applied after a position, at most `limit`."""

    TYPE: ClassVar[int] = 35
    id: Uint
    epoch: Epoch
    after: Uint
    limit: Uint


@attrs.frozen
class Ids:
    """Entry ids up to a position; `done` if there are none behind it."""

    TYPE: ClassVar[int] = 36
    id: Uint
    epoch: Epoch
    hashes: Hashes
    upto: Uint
    done: Bool


@attrs.frozen
class EntriesGet:
    """Asks for entries by id."""

    TYPE: ClassVar[int] = 37
    id: Uint
    hashes: Hashes


@attrs.frozen
class Entries:
    """Answers the first `served` ids asked: entries in their batches, and the admissions of their authors."""

    TYPE: ClassVar[int] = 38
    id: Uint
    served: Uint
    batches: Batches
    admissions: Admissions


@attrs.frozen
class ChunksGet:
    """Asks for chunks or manifest nodes by hash."""

    TYPE: ClassVar[int] = 39
    id: Uint
    hashes: Hashes


@attrs.frozen
class Chunks:
    """Chunks in the order asked; None where this node has none; may be fewer."""

    TYPE: ClassVar[int] = 40
    id: Uint
    chunks: ChunkList


# --- data: messages of programs


@attrs.frozen
class Note:
    """A direct message; `boot` is the receiver's, (sender, `counter`) tells repetitions."""

    TYPE: ClassVar[int] = 48
    id: Uint
    boot: Uint
    counter: Uint
    topic: Topic
    body: Bytes
    sent_at: Uint


@attrs.frozen
class Request:
    """A call."""

    TYPE: ClassVar[int] = 49
    id: Uint
    boot: Uint
    counter: Uint
    topic: Topic
    body: Bytes


@attrs.frozen
class Response:
    """A call's result."""

    TYPE: ClassVar[int] = 50
    id: Uint
    body: Bytes


@attrs.frozen
class Broadcast:
    """A message to all who subscribed to its topic."""

    TYPE: ClassVar[int] = 51
    counter: Uint
    topic: Topic
    body: Bytes
    sent_at: Uint


# --- status


@attrs.frozen
class Ping:
    """Are you there? `time` is the sender's clock, in milliseconds."""

    TYPE: ClassVar[int] = 64
    id: Uint
    time: Uint


@attrs.frozen
class Pong:
    """I am; `time` is the answering clock."""

    TYPE: ClassVar[int] = 65
    id: Uint
    time: Uint


# --- local control socket only


@attrs.frozen
class Command:
    """Asks the node of this machine to do something."""

    TYPE: ClassVar[int] = 80
    id: Uint
    verb: Name
    arguments: Facts


@attrs.frozen
class Result:
    """A command's result; nothing follows it."""

    TYPE: ClassVar[int] = 81
    id: Uint
    value: Plain


@attrs.frozen
class Item:
    """One of a command's many results; more follow."""

    TYPE: ClassVar[int] = 82
    id: Uint
    value: Plain


@attrs.frozen
class Failure:
    """A command failed: the error's class, text and attributes."""

    TYPE: ClassVar[int] = 83
    id: Uint
    kind: Name
    text: Prose
    facts: Facts


AnyMessage: TypeAlias = (
    Hello | Proof | Welcome | Close | Ok | Error
    | Packet
    | Push | Sync | SyncState | IdsGet | Ids | EntriesGet | Entries | ChunksGet | Chunks
    | Note | Request | Response | Broadcast
    | Ping | Pong
)  # fmt: skip
"""What nodes say to each other."""

LocalMessage: TypeAlias = Command | Result | Item | Failure
"""What a node and the command line of its machine say besides."""


@attrs.frozen
class _Rule:
    """A message class, taken apart for the two loops below."""

    message_class: type[Any]
    names: tuple[str, ...]
    checks: tuple[Callable[[Any], bool], ...]
    head: tuple[int, ...]  # the items before the fields: the type, and a 0 in place of an id
    count: int  # items that must be there
    values: Callable[[Any], tuple[Any, ...]]

    def fault(self, values: list[Any] | tuple[Any, ...]) -> str:
        """Which of the values is not what its field may be."""
        for name, accepts, value in zip(self.names, self.checks, values, strict=True):
            if not accepts(value):
                return f"{self.message_class.__name__}: {name} is malformed or beyond its limit"
        raise AssertionError("a fault was reported where there is none")


def field_kinds(message_class: type) -> dict[str, Kind]:
    """The fields of a message class in order, each with what it may be."""
    hints = get_type_hints(message_class, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in attrs.fields(message_class)}


def _rule_of(message_class: Any) -> _Rule:
    kinds = field_kinds(message_class)
    names = tuple(kinds)
    head = (message_class.TYPE,) if names[0] == "id" else (message_class.TYPE, 0)
    pick = operator.attrgetter(*names)
    return _Rule(
        message_class=message_class,
        names=names,
        checks=tuple(kind.accepts for kind in kinds.values()),
        head=head,
        count=len(head) + len(names),
        values=pick if len(names) > 1 else lambda message: (pick(message),),
    )


_RULE_OF_CLASS = {cls: _rule_of(cls) for cls in (*get_args(AnyMessage), *get_args(LocalMessage))}
_RULE_OF_TYPE = {cls.TYPE: _RULE_OF_CLASS[cls] for cls in get_args(AnyMessage)}
_RULE_OF_LOCAL_TYPE = {cls.TYPE: rule for cls, rule in _RULE_OF_CLASS.items()}


def encode_message(message: AnyMessage | LocalMessage, message_id: int | None = None) -> bytes:
    """The payload that says `message`, with `message_id` in place of its own id if that is given.

    Raises `LocalProtocolError` if a field holds what the peer would refuse.
    """
    rule = _RULE_OF_CLASS[type(message)]
    values = rule.values(message)
    if message_id is not None:
        values = (message_id, *values[1:])
    for accepts, value in zip(rule.checks, values):  # noqa: B905 - of one length by construction; strict costs time
        if not accepts(value):
            raise LocalProtocolError(rule.fault(values))
    return encode_fields(rule.head + values)


def frame_message(message: AnyMessage | LocalMessage, message_id: int | None = None) -> bytes:
    """`encode_message`, with its length before it: ready to be sent."""
    return frame(encode_message(message, message_id))


@overload
def parse_message_untrusted(payload: bytes, *, local: Literal[False] = False) -> AnyMessage | None: ...
@overload
def parse_message_untrusted(payload: bytes, *, local: bool) -> AnyMessage | LocalMessage | None: ...
def parse_message_untrusted(payload: bytes, *, local: bool = False) -> AnyMessage | LocalMessage | None:
    """The message that a payload says; None for a type that may be ignored (128 and above).

    `local` lets the messages of the control socket in as well. Raises `RemoteProtocolError` for everything else.
    """
    if not local:
        check_items_untrusted(payload, _BYTES_PER_ITEM)
    items = decode_fields_untrusted(payload)
    if len(items) < 2:
        raise RemoteProtocolError("a message has a type and an id")
    number = items[0]
    if type(number) is not int or number < 0:
        raise RemoteProtocolError("a message type is an unsigned integer")
    rule = (_RULE_OF_LOCAL_TYPE if local else _RULE_OF_TYPE).get(number)
    if rule is None:
        _check_ignorable_untrusted(number, items[1])
        return None
    if len(items) < rule.count:
        raise RemoteProtocolError(f"a message of type {number} has {rule.count} items; this one has {len(items)}")
    first = len(rule.head)
    if first == 2 and (type(items[1]) is not int or items[1] != 0):
        raise RemoteProtocolError(f"a message of type {number} has an id other than 0")
    values = items[first : rule.count]
    for accepts, value in zip(rule.checks, values):  # noqa: B905 - as above
        if not accepts(value):
            raise RemoteProtocolError(rule.fault(values))
    message: AnyMessage | LocalMessage = rule.message_class(*values)
    return message


def _check_ignorable_untrusted(number: int, message_id: object) -> None:
    if number < IGNORABLE_TYPE_MIN:
        raise RemoteProtocolError(f"message type {number} is unknown")
    if type(message_id) is not int or not 0 <= message_id <= UINT_MAX:
        raise RemoteProtocolError("a message id is an unsigned integer")
