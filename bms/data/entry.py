"""The entry: one write of one key, as it is hashed, signed over, stored and sent (formats.md, "Entry").

    body = [1, space_id, key, kind, flags, value, hlc, author, epoch, counter, expiry, context, extra]

- The entry id is `KDF("bms entry v1")` of the body: one meaning, one encoding, one id.
- (`author`, `epoch`, `counter`) is its dot: no two writes have the same.
- Under one key the entry with the higher (hlc, author, id) wins, deletions included; so any two stores that have seen
  the same entries hold the same ones, in whatever order they came.

What a newer version may write (another format number, kinds, flags, blob layouts, causal contexts, `extra` below 64) is
read as None: not wrong, but not to be taken by this version. Everything else that is not as written here is the
sender's fault.

Pure. Absent for now: typed spaces (kinds above 0) and causal contexts.
"""

from __future__ import annotations

from typing import Any

import attrs
from blake3 import blake3

from ..errors import RemoteProtocolError
from ..values import KEY_BYTES_MAX
from ..wire.codec import UINT_MAX, decode_body_untrusted, encode_fields
from .blob import LAYOUT, BlobReference, reference_untrusted

__all__ = [
    "BLOB",
    "BODY_BYTES_MAX",
    "EXPIRES",
    "INLINE_BYTES_MAX",
    "INTEGER_MAX",
    "TOMBSTONE",
    "Entry",
    "entry_id",
    "extra_untrusted",
    "make_entry",
    "parse_entry_untrusted",
    "slot",
]

TOMBSTONE, EXPIRES, BLOB = 1, 2, 4
INLINE_BYTES_MAX = 4096
BODY_BYTES_MAX = 16 * 1024
INTEGER_MAX = 2**63 - 1

_FORMAT = 1
_FIELDS = 13
_REGISTER = 0
_KNOWN_FLAGS = TOMBSTONE | EXPIRES | BLOB
_SLOTS = 1024
_ID = "bms entry v1"
_SLOT = "bms slot v1"


@attrs.frozen
class Entry:
    """A register entry. `value` is bytes, a blob reference, or None in a tombstone; `expiry` milliseconds or None."""

    space_id: bytes
    key: bytes
    flags: int
    value: bytes | BlobReference | None
    hlc: int
    author: bytes
    epoch: int
    counter: int
    expiry: int | None
    body: bytes = attrs.field(repr=False)
    id: bytes

    @property
    def order(self) -> tuple[int, bytes, bytes]:
        """Of two entries under one key the one with the greater order wins."""
        return self.hlc, self.author, self.id

    @property
    def size(self) -> int:
        """Bytes of the value, wherever they are."""
        if isinstance(self.value, BlobReference):
            return self.value.size
        return 0 if self.value is None else len(self.value)


def entry_id(body: bytes) -> bytes:
    """The id of the entry with this body."""
    return blake3(body, derive_key_context=_ID).digest()


def slot(space_id: bytes, key: bytes) -> int:
    """Which of the 1,024 slots of its space a key is in."""
    return int.from_bytes(blake3(space_id + key, derive_key_context=_SLOT).digest(2), "big") % _SLOTS


def make_entry(
    space_id: bytes,
    key: bytes,
    value: bytes | BlobReference | None,
    *,
    hlc: int,
    author: bytes,
    epoch: int,
    counter: int,
    expiry: int | None = None,
) -> Entry:
    """A new entry; a value of None deletes. The caller has checked sizes."""
    field: Any = value
    if value is None:
        flags = TOMBSTONE
    else:
        flags = EXPIRES if expiry is not None else 0
        if isinstance(value, BlobReference):
            flags |= BLOB
            field = value.field
    fields = [_FORMAT, space_id, key, _REGISTER, flags, field, hlc, author, epoch, counter, expiry, [], {}]
    body = encode_fields(fields)
    return Entry(space_id, key, flags, value, hlc, author, epoch, counter, expiry, body, entry_id(body))


def parse_entry_untrusted(body: bytes) -> Entry | None:
    """Read a body; None if a newer version may understand it. Raises `RemoteProtocolError`."""
    if len(body) > BODY_BYTES_MAX:
        raise RemoteProtocolError(f"an entry has {len(body)} bytes, more than {BODY_BYTES_MAX}")
    fields = decode_body_untrusted(body)
    if not fields or type(fields[0]) is not int:
        raise RemoteProtocolError("an entry has no format number")
    if fields[0] != _FORMAT:
        return None
    if len(fields) != _FIELDS:
        raise RemoteProtocolError(f"an entry has {len(fields)} fields instead of {_FIELDS}")
    _, space_id, key, kind, flags, value, hlc, author, epoch, counter, expiry, context, extra = fields
    _hash_untrusted(space_id, "space id")
    _hash_untrusted(author, "author")
    if type(key) is not bytes or not 0 < len(key) <= KEY_BYTES_MAX:
        raise RemoteProtocolError(f"an entry's key is not 1 to {KEY_BYTES_MAX} bytes")
    for number, most in (
        (kind, INTEGER_MAX),
        (flags, INTEGER_MAX),
        (hlc, UINT_MAX),
        (epoch, UINT_MAX),
        (counter, INTEGER_MAX),
    ):
        if type(number) is not int or not 0 <= number <= most:
            raise RemoteProtocolError("an entry's number is out of range")
    if type(context) is not list:
        raise RemoteProtocolError("an entry's context is not an array")
    if kind != _REGISTER or flags & ~_KNOWN_FLAGS or context or not extra_untrusted(extra):
        return None
    if counter == 0:
        raise RemoteProtocolError("an entry's counter counts from 1")
    _expiry_untrusted(flags, expiry)
    if flags & BLOB and type(value) is list and value[:1] != [LAYOUT]:
        return None
    held = _value_untrusted(flags, value)
    return Entry(space_id, key, flags, held, hlc, author, epoch, counter, expiry, body, entry_id(body))


def _hash_untrusted(value: Any, what: str) -> None:
    if type(value) is not bytes or len(value) != 32:
        raise RemoteProtocolError(f"an entry's {what} is not 32 bytes")


def _expiry_untrusted(flags: int, expiry: Any) -> None:
    if flags & EXPIRES:
        if type(expiry) is not int or not 0 < expiry <= INTEGER_MAX:
            raise RemoteProtocolError("an entry's expiry is out of range")
    elif expiry is not None:
        raise RemoteProtocolError("an entry has an expiry without its flag")


def _value_untrusted(flags: int, value: Any) -> bytes | BlobReference | None:
    if flags & TOMBSTONE:
        if flags != TOMBSTONE or value is not None:
            raise RemoteProtocolError("a tombstone holds something")
        return None
    if flags & BLOB:
        reference = reference_untrusted(value)
        if reference.size <= INLINE_BYTES_MAX:
            raise RemoteProtocolError("a short value is sent as a blob")
        return reference
    if type(value) is not bytes or len(value) > INLINE_BYTES_MAX:
        raise RemoteProtocolError(f"an entry's value is not at most {INLINE_BYTES_MAX} bytes")
    return value


def extra_untrusted(extra: Any) -> bool:
    """Whether this version may take an object with these extra fields: False where one below 64 is not known."""
    if type(extra) is not dict or any(type(key) is not int or key < 0 for key in extra):
        raise RemoteProtocolError("extra fields are not a map of numbers")
    return all(key >= 64 for key in extra)
