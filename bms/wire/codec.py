"""CBOR as `bms` writes and reads it (RFC 8949; docs/reference/formats.md, Conventions).

Written: the core deterministic encoding (section 4.2.1): shortest heads, definite lengths, map keys in bytewise order.

Read, everywhere: one item and nothing behind it; arrays and maps nested at most 16 deep; definite lengths; no tags; no
duplicate keys; valid UTF-8; no floats, arrays or maps as keys. Items are *plain*: null, false, true, integers of 64
bits, floats, byte strings, text, and arrays and maps of these; no undefined, no other simple values.

Two readers:

- `decode_untrusted` and `decode_body_untrusted` are a reader of this module's own, some 0.3 us an item. A body is what
  was signed or hashed: it must be an array and in the deterministic encoding, or one meaning would have two hashes.
- `decode_fields_untrusted` reads messages with cbor2, three times as fast. Map keys are strings there, and the caller
  checks every item that it uses.

Why not cbor2 for all: bodies have maps with numbers as keys, and if cbor2 (6.3) is not held to strings as keys it puts
arrays into a dict as tuples, whose hash has no secret: 280 KB of keys made to collide keep it busy for 3 s, and four
times the bytes for sixteen times as long. What else it leaves open, and what closes it here:

    bytes behind the item pass `loads`                     a decoder on a BytesIO, whose position must be the end
    known tags are decoded before `tag_hook` is asked      `semantic_decoders` answers every tag with a refusal
      (regular expressions, e-mail, cycles, big numbers)
    `undefined` and unassigned simple values               exact types in `fields`; `is_plain` where anything may stand
    error texts quote what was sent, at any length         cut, and escaped
    canonical map order is that of RFC 7049, which         `encode` takes maps whose keys are all text or all unsigned:
      differs where kinds of keys are mixed                  there both orders are the same

Declared lengths cost nothing in either: compared with what is there, or read in steps of 64 KiB at most. Items do cost:
a MiB of empty arrays keeps cbor2 busy for 0.2 s and takes 60 MB, the other reader for a second. What may be that long
goes through `check_items_untrusted` first, 0.05 us an item up to the first one too many. Deliberately absent: decoding
a stream, shared references, big numbers, what the fields of a body mean (`security`, `data`).
"""

from __future__ import annotations

import io
import struct
from typing import Any, NoReturn

import cbor2

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "DEPTH_MAX",
    "UINT_MAX",
    "check_items_untrusted",
    "decode_body_untrusted",
    "decode_fields_untrusted",
    "decode_untrusted",
    "encode",
    "encode_fields",
    "is_plain",
]

DEPTH_MAX = 16
UINT_MAX = 2**64 - 1

_ERROR_TEXT_MAX = 160
_UNCOUNTED_BYTES = 16 * 1024
_LEAST = {24: 24, 25: 2**8, 26: 2**16, 27: 2**32}  # the least argument that needs a head of this form
_CONSTANTS = {20: False, 21: True, 22: None}
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}


def _step_of(first: int) -> int:
    """How many bytes after an item's first one the next item begins; 0 where more than that byte must be looked at."""
    major, info = first >> 5, first & 31
    if info < 24:
        return 1 + (info if major in (2, 3) else 0)
    return 0 if major in (2, 3) or info > 27 else 1 + (1 << info - 24)


_STEPS = tuple(map(_step_of, range(256)))


class _NoTags(dict[int, Any]):
    """A mapping that has the same answer for every tag number."""

    def __missing__(self, tag: int) -> Any:
        return _refuse_tag


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not used")


_NO_TAGS = _NoTags()


def encode(item: object) -> bytes:
    """The deterministic encoding of a plain item; tuples are written as arrays.

    Raises `LocalProtocolError` for what readers would refuse (sets, dates, lone surrogates, integers beyond 64 bits,
    nesting beyond `DEPTH_MAX`) and for maps whose keys are neither all text nor all unsigned integers.
    """
    if not is_plain(item):
        raise LocalProtocolError(f"a {type(item).__name__} that holds what cannot be sent")
    return encode_fields(item)


def encode_fields(item: object) -> bytes:
    """Like `encode`, for callers that have checked what the item holds."""
    try:
        return cbor2.dumps(item, canonical=True)
    except (cbor2.CBOREncodeError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"cannot be sent: {str(error)[:_ERROR_TEXT_MAX]}") from error


def is_plain(item: object, depth: int = DEPTH_MAX, *, number_keys: bool = True) -> bool:
    """Whether `encode` takes an item, nested at most `depth` deep; without `number_keys` all keys must be text."""
    if item is None or isinstance(item, (str, bytes, float, bool)):
        return True
    if isinstance(item, int):
        return -UINT_MAX - 1 <= item <= UINT_MAX
    if isinstance(item, (list, tuple)):
        return depth > 0 and all(is_plain(part, depth - 1, number_keys=number_keys) for part in item)
    if isinstance(item, dict):
        one_kind = all(isinstance(key, str) for key in item) or (number_keys and all(_is_uint(key) for key in item))
        return (
            depth > 0 and one_kind and all(is_plain(part, depth - 1, number_keys=number_keys) for part in item.values())
        )
    return False


def check_items_untrusted(data: bytes, bytes_per_item: int) -> None:
    """Refuse more than 16 KiB that hold more items than one for each `bytes_per_item`. Raises `RemoteProtocolError`.

    Only counts: what is malformed is left to the readers, which find it at the same place.
    """
    size = len(data)
    if size <= _UNCOUNTED_BYTES:
        return
    at, steps = 0, _STEPS
    try:
        for _ in range(size // bytes_per_item):
            first = data[at]
            step = steps[first]
            if step:
                at += step
            elif (info := first & 31) == 24:
                at += 2 + data[at + 1]
            elif info < 28:
                head = 1 + (1 << info - 24)
                at += head + int.from_bytes(data[at + 1 : at + head], "big")
            else:
                return  # malformed
    except IndexError:
        return  # the end, or malformed: cut off
    if at < size:
        raise RemoteProtocolError(f"more than {size // bytes_per_item} items in {size} bytes")


def decode_untrusted(data: bytes) -> Any:
    """The one plain item that `data` encodes; arrays as lists, maps as dicts. Raises `RemoteProtocolError`."""
    return _Reader(data, deterministic=False).read_untrusted()


def decode_body_untrusted(data: bytes) -> list[Any]:
    """The array that `data` encodes deterministically. Raises `RemoteProtocolError`, also for other encodings of it."""
    item = _Reader(data, deterministic=True).read_untrusted()
    if type(item) is not list:
        raise RemoteProtocolError("a body is not an array")
    return item


def decode_fields_untrusted(data: bytes) -> list[Any]:
    """The array that `data` encodes, for callers that check each field they use by its exact type.

    Unlike `decode_untrusted` it lets simple values through, and no map keys but text and bytes. Raises
    `RemoteProtocolError`.
    """
    # A decoder of its own for each call: it is cheap (0.4 us), keeps no state from hostile input, and may run in any
    # thread. Its BytesIO shares the memory of `data`.
    stream = io.BytesIO(data)
    try:
        item = cbor2.CBORDecoder(
            stream,
            semantic_decoders=_NO_TAGS,
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except cbor2.CBORDecodeError as error:
        raise RemoteProtocolError(f"not CBOR as agreed: {str(error)[:_ERROR_TEXT_MAX]!a}") from error
    if stream.tell() != len(data):
        raise RemoteProtocolError(f"not CBOR as agreed: {len(data) - stream.tell()} bytes behind the item")
    if type(item) is not list:
        raise RemoteProtocolError("a message is not an array")
    return item


class _Reader:
    """Reads one item from `data`. A declared length is compared with the bytes that are left before it is believed."""

    def __init__(self, data: bytes, *, deterministic: bool) -> None:
        self._data = data
        self._at = 0
        self._deterministic = deterministic

    def read_untrusted(self) -> Any:
        """The item; nothing may follow it."""
        item = self._item_untrusted(DEPTH_MAX)
        if self._at != len(self._data):
            raise RemoteProtocolError(f"not CBOR as agreed: {len(self._data) - self._at} bytes behind the item")
        return item

    def _item_untrusted(self, depth: int) -> Any:
        start = self._at
        major, info, number = self._head_untrusted()
        if major == 0:
            return number
        if major == 1:
            return -1 - number
        if major == 7:
            return self._simple_untrusted(start, info)
        if major == 6:
            raise RemoteProtocolError("not CBOR as agreed: a tag")
        left = len(self._data) - self._at
        if number > (left // 2 if major == 5 else left):
            raise RemoteProtocolError(f"not CBOR as agreed: a length of {number} with {left} bytes left")
        if major >= 4:
            if depth == 0:
                raise RemoteProtocolError(f"not CBOR as agreed: nested deeper than {DEPTH_MAX}")
            if major == 5:
                return self._map_untrusted(number, depth - 1)
            return [self._item_untrusted(depth - 1) for _ in range(number)]
        content = self._data[self._at : self._at + number]
        self._at += number
        if major == 2:
            return content
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("not CBOR as agreed: text that is not UTF-8") from error

    def _head_untrusted(self) -> tuple[int, int, int]:
        """Major type, additional information and argument of the head at the position (RFC 8949 section 3)."""
        data, at = self._data, self._at + 1
        if at > len(data):
            raise RemoteProtocolError("not CBOR as agreed: cut off")
        major, info = data[at - 1] >> 5, data[at - 1] & 31
        if info < 24:
            self._at = at
            return major, info, info
        if info > 27:
            raise RemoteProtocolError("not CBOR as agreed: an indefinite length or a reserved head")
        self._at = at + (1 << info - 24)
        if self._at > len(data):
            raise RemoteProtocolError("not CBOR as agreed: cut off")
        number = int.from_bytes(data[at : self._at], "big")
        if self._deterministic and number < _LEAST[info] and major != 7:
            raise RemoteProtocolError("not in the deterministic encoding: a head could be shorter")
        return major, info, number

    def _map_untrusted(self, count: int, depth: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        previous = b""
        for _ in range(count):
            start = self._at
            # The kind is judged before the key is read: containers must not even be built, let alone hashed.
            if start < len(self._data) and self._data[start] >> 5 > 3:
                raise RemoteProtocolError("not CBOR as agreed: a map key that is no integer and no string")
            key = self._item_untrusted(0)
            if key in result:
                raise RemoteProtocolError("not CBOR as agreed: a duplicate key")
            if self._deterministic:
                encoded = self._data[start : self._at]
                if encoded < previous:
                    raise RemoteProtocolError("not in the deterministic encoding: map keys out of order")
                previous = encoded
            result[key] = self._item_untrusted(depth)
        return result

    def _simple_untrusted(self, start: int, info: int) -> float | bool | None:
        if 20 <= info <= 22:
            return _CONSTANTS[info]
        if info < 25:
            raise RemoteProtocolError("not CBOR as agreed: undefined, or a simple value without a meaning")
        encoded = self._data[start : self._at]
        value: float = struct.unpack(_FLOATS[info], encoded[1:])[0]
        if self._deterministic and cbor2.dumps(value, canonical=True) != encoded:
            raise RemoteProtocolError("not in the deterministic encoding: a float could be shorter")
        return value


def _is_uint(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= UINT_MAX
