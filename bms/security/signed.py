"""Signed objects, `[body, signature]`, and the checks that their fields have in common.

A body is a CBOR array in core deterministic encoding whose first field is the format number, 1. Its reader takes
exactly the fields of that format, each of exactly its type: a CBOR `true` is no 1, a number is below 2^63 and a text
has at most 255 bytes unless a field says otherwise. The last field, `extra`, is a map of numbers to anything: keys
below 64 that a reader does not know mean something it must not miss, so it refuses the object; keys from 64 up it
ignores.

The checks raise RemoteProtocolError with what is wrong. Those who build an object run the same reader over their own
work and turn that error into a LocalProtocolError (`built`), so that nothing is signed that readers would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import LocalProtocolError, RemoteProtocolError
from ..wire.codec import decode_body_untrusted

__all__ = [
    "FORMAT",
    "TEXT_BYTES_MAX",
    "UINT_MAX",
    "array_untrusted",
    "body_untrusted",
    "built",
    "bytes_untrusted",
    "label_untrusted",
    "split_untrusted",
    "text_untrusted",
    "uint_untrusted",
]

FORMAT = 1
UINT_MAX = (1 << 63) - 1
TEXT_BYTES_MAX = 255
EXTRA_IGNORED_FROM = 64

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def split_untrusted(signed: object, what: str, body_bytes_max: int) -> tuple[bytes, bytes]:
    """The body and the signature of a signed object, which may be any decoded CBOR."""
    if not isinstance(signed, (list, tuple)) or len(signed) != 2:
        raise RemoteProtocolError(f"{what} is not an array of body and signature")
    body, signature = signed
    if type(body) is not bytes or type(signature) is not bytes:
        raise RemoteProtocolError(f"{what}: body and signature are not byte strings")
    if len(body) > body_bytes_max:
        raise RemoteProtocolError(f"{what} has {len(body)} bytes, more than {body_bytes_max}")
    return body, signature


def body_untrusted(body: bytes, what: str, fields: int) -> list[Any]:
    """The `fields` fields of a body of format 1, those between the format number and `extra`."""
    items = decode_body_untrusted(body)
    if not items or type(items[0]) is not int or items[0] != FORMAT:
        raise RemoteProtocolError(f"{what} is not of format {FORMAT}")
    if len(items) != fields + 2:
        raise RemoteProtocolError(f"{what} has {len(items)} fields instead of {fields + 2}")
    extra = items.pop()
    if not isinstance(extra, dict) or not all(type(key) is int and key >= 0 for key in extra):
        raise RemoteProtocolError(f"{what}: extra is not a map of numbers")
    if any(key < EXTRA_IGNORED_FROM for key in extra):
        raise RemoteProtocolError(f"{what} has an extra field that this version does not know")
    return items[1:]


def uint_untrusted(value: object, what: str, most: int = UINT_MAX) -> int:
    """`value`, if it is an unsigned number of at most `most`."""
    if type(value) is not int or not 0 <= value <= most:
        raise RemoteProtocolError(f"{what} is not a number from 0 to {most}")
    return value


def bytes_untrusted(value: object, what: str, size: int = 32) -> bytes:
    """`value`, if it is a byte string of `size` bytes."""
    if type(value) is not bytes or len(value) != size:
        raise RemoteProtocolError(f"{what} is not {size} bytes")
    return value


def text_untrusted(value: object, what: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """`value`, if it is a text of at most `bytes_max` bytes of UTF-8."""
    if type(value) is not str or len(value) > bytes_max or len(value.encode()) > bytes_max:
        raise RemoteProtocolError(f"{what} is not a text of at most {bytes_max} bytes")
    return value


def label_untrusted(value: object, what: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """`value`, if it is such a text without control characters, as names, topics and tags are."""
    text = text_untrusted(value, what, bytes_max)
    if _CONTROL.search(text):
        raise RemoteProtocolError(f"{what} has control characters")
    return text


def array_untrusted(value: object, what: str, least: int, most: int) -> list[Any]:
    """`value`, if it is an array of `least` to `most` items."""
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise RemoteProtocolError(f"{what} is not an array of {least} to {most} items")
    return value


@contextmanager
def built() -> Iterator[None]:
    """Around the building of an object of one's own: what its reader refuses is the builder's mistake."""
    try:
        yield
    except RemoteProtocolError as error:
        raise LocalProtocolError(str(error)) from error
