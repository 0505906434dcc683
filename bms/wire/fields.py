"""What one field of a message may be.

Each name here is a type annotation that carries its check: `topic: Topic` reads as `str` to a type checker and as
"text of at most 255 bytes of UTF-8" to `messages`. A `Kind` holds the check and the same thing in CDDL, with
all names resolved, so that a test can hold it to `docs/reference/wire.cddl`.

    annotation     CDDL                    besides
    Uint           uint                    below 2^63, so that it fits every database; a bool is no number
    Epoch          uint                    all 64 bits
    Bool           bool
    Bytes          bstr                    bounded by the frame
    Bytes16/32/64  bstr .size 16/32/64
    Topic          tstr                    255 bytes of UTF-8; no control characters, no "*" (grants use it)
    Name           tstr                    128: an error's kind, a verb; no control characters
    Prose          tstr                    4,096: a reason, an error's text
    Versions       [uint, uint]
    Observed       null / [tstr, uint]     host of at most 255 bytes, no control characters; port at most 65,535
    Hashes         [* bstr .size 32]
    ChunkList      [* (bstr / null)]
    Card, Admissions, Batches       nested arrays of byte strings (and, in batches, indices)
    Plain          any                     plain (codec), with one level of nesting spent on the message
    Facts          {* tstr => any}         the same

Arrays are lists, as they are decoded; their number of items is bounded by the frame. Checks look at exact shapes and
never at meaning: signatures, indices in order and ranges of versions are judged where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import attrs

from .codec import DEPTH_MAX, UINT_MAX, is_plain

__all__ = [
    "HOST_BYTES_MAX",
    "NAME_BYTES_MAX",
    "PROSE_BYTES_MAX",
    "TOPIC_BYTES_MAX",
    "Admissions",
    "Batch",
    "Batches",
    "Bool",
    "Bytes",
    "Bytes16",
    "Bytes32",
    "Bytes64",
    "Card",
    "ChunkList",
    "Epoch",
    "Facts",
    "Hashes",
    "Kind",
    "Name",
    "Observed",
    "Plain",
    "Prose",
    "Signed",
    "Topic",
    "Uint",
    "Versions",
    "clip_text",
    "is_topic",
]

TOPIC_BYTES_MAX = 255
HOST_BYTES_MAX = 255
NAME_BYTES_MAX = 128
PROSE_BYTES_MAX = 4096

_HASH_BYTES = 32
_PORT_MAX = 2**16 - 1
_NUMBER_MAX = 2**63 - 1
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_CONTROL_OR_STAR = re.compile("[\x00-\x1f\x7f-\x9f*]")


@attrs.frozen
class Kind:
    """`accepts` decides about a value; `cddl` says the same in the schema's terms; the others bound it."""

    cddl: str
    accepts: Callable[[Any], bool]
    most: int | None = None
    bytes_max: int | None = None


def clip_text(text: str, bytes_max: int) -> str:
    """As much of `text` as fits into `bytes_max` bytes of UTF-8, in whole characters; lone surrogates become "?"."""
    return text[:bytes_max].encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")


def is_topic(text: str) -> bool:
    """Whether a topic can be sent: at most 255 bytes of UTF-8, no control characters, no "*", no lone surrogates."""
    return _is_topic(text)


def _is_uint(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _NUMBER_MAX


def _is_epoch(value: Any) -> bool:
    return type(value) is int and 0 <= value <= UINT_MAX


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes)


def _is_bytes_of(size: int) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        return isinstance(value, bytes) and len(value) == size

    return accepts


def _is_text_up_to(bytes_max: int, banned: re.Pattern[str] | None = None) -> Callable[[Any], bool]:
    search = banned.search if banned else None

    def accepts(value: Any) -> bool:
        if not isinstance(value, str) or len(value) > bytes_max or (search is not None and search(value)):
            return False
        if value.isascii():
            return True
        try:
            return len(value.encode()) <= bytes_max
        except UnicodeEncodeError:  # a lone surrogate: only of our own making, the decoder refuses them
            return False

    return accepts


_is_topic = _is_text_up_to(TOPIC_BYTES_MAX, _CONTROL_OR_STAR)
_is_host = _is_text_up_to(HOST_BYTES_MAX, _CONTROL)
_is_name = _is_text_up_to(NAME_BYTES_MAX, _CONTROL)
_is_prose = _is_text_up_to(PROSE_BYTES_MAX)


def _is_versions(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_uint(value[0]) and _is_uint(value[1])


def _is_observed(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_host(value[0])
        and _is_uint(value[1])
        and bool(value[1] <= _PORT_MAX)
    )


def _is_hashes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, bytes) and len(part) == _HASH_BYTES for part in value)


def _is_chunks(value: Any) -> bool:
    return isinstance(value, list) and all(part is None or isinstance(part, bytes) for part in value)


def _is_signed(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], bytes) and isinstance(value[1], bytes)


def _is_card(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and _is_signed(value[0])
        and _is_signed(value[1])
        and isinstance(value[2], bytes)
    )


def _is_member(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and _is_uint(value[0])
        and isinstance(value[1], bytes)
        and _is_hashes(value[2])
    )


def _is_batch(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not _is_signed(value[0]):
        return False
    members = value[1]
    return isinstance(members, list) and bool(members) and all(map(_is_member, members))


def _is_list_of(accepts_part: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        return isinstance(value, list) and all(map(accepts_part, value))

    return accepts


def _is_plain_field(value: Any) -> bool:
    return is_plain(value, DEPTH_MAX - 1, number_keys=False)


def _is_facts(value: Any) -> bool:
    return isinstance(value, dict) and is_plain(value, DEPTH_MAX - 1, number_keys=False)


_SIGNED = "[bstr, bstr]"
_CARD = f"[{_SIGNED}, {_SIGNED}, bstr]"
_BATCH = f"[{_SIGNED}, [+ [uint, bstr, [* bstr .size 32]]]]"

Uint = Annotated[int, Kind("uint", _is_uint, most=_NUMBER_MAX)]
Epoch = Annotated[int, Kind("uint", _is_epoch, most=UINT_MAX)]
Bool = Annotated[bool, Kind("bool", _is_bool)]
Bytes = Annotated[bytes, Kind("bstr", _is_bytes)]
Bytes16 = Annotated[bytes, Kind("bstr .size 16", _is_bytes_of(16))]
Bytes32 = Annotated[bytes, Kind("bstr .size 32", _is_bytes_of(32))]
Bytes64 = Annotated[bytes, Kind("bstr .size 64", _is_bytes_of(64))]
Topic = Annotated[str, Kind("tstr", _is_topic, bytes_max=TOPIC_BYTES_MAX)]
Name = Annotated[str, Kind("tstr", _is_name, bytes_max=NAME_BYTES_MAX)]
Prose = Annotated[str, Kind("tstr", _is_prose, bytes_max=PROSE_BYTES_MAX)]
Versions = Annotated[list[int], Kind("[uint, uint]", _is_versions)]
Observed = Annotated[
    list[Any] | None, Kind("null / [tstr, uint]", _is_observed, most=_PORT_MAX, bytes_max=HOST_BYTES_MAX)
]
Hashes = Annotated[list[bytes], Kind("[* bstr .size 32]", _is_hashes)]
ChunkList = Annotated[list[bytes | None], Kind("[* (bstr / null)]", _is_chunks)]
Plain = Annotated[Any, Kind("any", _is_plain_field)]
Facts = Annotated[dict[str, Any], Kind("{* tstr => any}", _is_facts)]

Signed = list[bytes]
"""`[body, signature]`."""
Batch = list[Any]
"""`[head, [[index, entry, path], ...]]` with a signed head."""
Card = Annotated[list[Any], Kind(_CARD, _is_card)]
"""`[admission, record, details]`: two signed objects and the bytes of the details."""
Admissions = Annotated[list[Signed], Kind(f"[* {_SIGNED}]", _is_list_of(_is_signed))]
Batches = Annotated[list[Batch], Kind(f"[* {_BATCH}]", _is_list_of(_is_batch))]
