"""What a request carries, taken apart strictly: paths, queries, JSON, conditions. Nothing is normalized or guessed.

- A path is split at "/" as it came over the wire and each part percent-decoded once. A part that is no UTF-8, or holds
  a "/" or a control character, is no part of any route. A key is everything behind its space, as bytes: "a/../b",
  "%2F", "%00" and what is no UTF-8 are keys like any other.
- A query names each parameter once; unknown ones and bad percent signs are errors.
- JSON (RFC 8259) is UTF-8 without a byte order mark, without duplicate names, NaN, infinities, lone surrogates; at most
  `JSON_BYTES_MAX` (messages: as large as bodies may be), `JSON_DEPTH_MAX` deep, with `JSON_VALUES_MAX` values. Numbers
  have at most `NUMBER_DIGITS_MAX` digits, so that none takes long to read.
- Conditions are those of RFC 9110, section 13.1, with strong comparison: a weak tag fits nothing.

Functions that end in `_untrusted` raise `RemoteProtocolError` alone, which callers turn into a 400.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import attrs
import msgspec

from ..errors import RemoteProtocolError

__all__ = [
    "JSON_BYTES_MAX",
    "JSON_DEPTH_MAX",
    "JSON_VALUES_MAX",
    "NUMBER_DIGITS_MAX",
    "Condition",
    "convert_untrusted",
    "parse_condition_untrusted",
    "parse_json_untrusted",
    "parse_query_untrusted",
    "split_path_untrusted",
    "unquote_untrusted",
]

JSON_BYTES_MAX = 1024 * 1024
JSON_DEPTH_MAX = 32
JSON_VALUES_MAX = 100_000
NUMBER_DIGITS_MAX = 400
"""More than any float has; Python itself takes quadratic time for whole numbers of very many."""

_PARAMETERS_MAX = 64

T = TypeVar("T")

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_TAG = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def unquote_untrusted(raw: bytes) -> bytes:
    """Percent-encoded bytes (RFC 3986, section 2.1) as what they stand for."""
    if b"%" not in raw:
        return raw
    if _PERCENT.search(raw):
        raise RemoteProtocolError("a percent sign without two hexadecimal digits behind it")
    head, *rest = raw.split(b"%")
    return head + b"".join(bytes((int(part[:2], 16),)) + part[2:] for part in rest)


def split_path_untrusted(raw: bytes) -> list[str]:
    """The parts of a path between its slashes, the first behind the leading one."""
    parts = []
    for part in raw.split(b"/")[1:]:
        try:
            text = unquote_untrusted(part).decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("a path that is no UTF-8") from None
        if "/" in text or "\\" in text or _CONTROL.search(text):
            raise RemoteProtocolError("a path with a slash or a control character inside one of its parts")
        parts.append(text)
    return parts


def parse_query_untrusted(raw: bytes) -> dict[str, str]:
    """The parameters of a query by name; bytes that are no UTF-8 as lone surrogates (`surrogateescape`)."""
    found: dict[str, str] = {}
    pairs = raw.split(b"&", _PARAMETERS_MAX) if raw else []
    if len(pairs) > _PARAMETERS_MAX:
        raise RemoteProtocolError(f"a query has at most {_PARAMETERS_MAX} parameters")
    for pair in pairs:
        if not pair:
            continue
        name, _, value = (unquote_untrusted(side.replace(b"+", b" ")) for side in pair.partition(b"="))
        text = name.decode("utf-8", "replace")
        if text in found:
            raise RemoteProtocolError(f"the parameter {text!r:.80} stands there twice")
        found[text] = value.decode("utf-8", "surrogateescape")
    return found


# ---------------------------------------------------------------------- JSON


def parse_json_untrusted(data: bytes) -> Any:
    """A JSON text within the bounds of this module; how large it may be is its reader's to say."""
    _check_shape_untrusted(data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("the body is no UTF-8") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_whole, parse_float=_fraction
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RemoteProtocolError("a text in the body has a surrogate without its pair") from None
    except ValueError as error:
        raise RemoteProtocolError(f"the body is no JSON: {error}"[:200]) from None
    return value


def _check_shape_untrusted(data: bytes) -> None:
    """Depth and number of values, before anything is built."""
    openers = data.count(b"[") + data.count(b"{")
    if openers <= JSON_DEPTH_MAX and openers + data.count(b",") <= JSON_VALUES_MAX:
        return
    depth = values = 0
    for found in _TOKEN.finditer(data):
        mark = data[found.start()]
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
        values += mark in b"[{,"
        if depth > JSON_DEPTH_MAX:
            raise RemoteProtocolError(f"the body is nested more than {JSON_DEPTH_MAX} deep")
        if values > JSON_VALUES_MAX:
            raise RemoteProtocolError(f"the body has more than {JSON_VALUES_MAX} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _whole(text: str) -> int | float:
    if len(text) > NUMBER_DIGITS_MAX:
        raise ValueError(f"a number has more than {NUMBER_DIGITS_MAX} digits")
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > NUMBER_DIGITS_MAX:
        raise ValueError(f"a number has more than {NUMBER_DIGITS_MAX} digits")
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is beyond what a float can hold")
    return number


def convert_untrusted(value: Any, kind: type[T], *, strict: bool = True) -> T:
    """`value` as an object of `kind`; not `strict` reads numbers and truth values from text, as queries have them."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(str(error).encode("utf-8", "backslashreplace").decode()[:300]) from None
    except (UnicodeEncodeError, OverflowError):
        raise RemoteProtocolError("a value cannot be read") from None


# ---------------------------------------------------------------------- conditions


@attrs.frozen
class Condition:
    """What must be in force for a request to be carried out: tags that must, or must not, be the current one.

    None: that was not asked; an empty `match` with `match_any` false fits nothing.
    """

    match: frozenset[str] | None = None
    match_any: bool = False
    none_match: frozenset[str] | None = None
    none_match_any: bool = False

    @property
    def is_set(self) -> bool:
        """Whether anything was asked."""
        return self.match is not None or self.none_match is not None

    def allows(self, current: str | None) -> bool:
        """Whether it holds where `current` is the version in force (None: there is none)."""
        if self.match is not None and (current is None or not (self.match_any or current in self.match)):
            return False
        if self.none_match is None or current is None:
            return True
        return not (self.none_match_any or current in self.none_match)


def parse_condition_untrusted(match: str | None, none_match: str | None) -> Condition:
    """If-Match and If-None-Match as a condition."""
    tags, any_tag = (None, False) if match is None else _tags_untrusted(match, weak=False)
    none_tags, none_any = (None, False) if none_match is None else _tags_untrusted(none_match, weak=True)
    return Condition(tags, any_tag, none_tags, none_any)


def _tags_untrusted(header: str, *, weak: bool) -> tuple[frozenset[str], bool]:
    """The tags of a header, and whether it is "*". Weak ones count where `weak` (If-None-Match compares weakly)."""
    if header.strip(" \t") == "*":
        return frozenset(), True
    tags, place, count = set(), 0, 0
    while place < len(header):
        found = _TAG.match(header, place)
        count += 1
        if found is None or header[found.end() : found.end() + 1] not in ("", ","):
            raise RemoteProtocolError("entity tags are quoted, with commas between, or one *")
        if weak or found[1] is None:
            tags.add(found[2])
        place = found.end() + 1
    if not tags and not count:
        raise RemoteProtocolError("a condition without an entity tag")
    return frozenset(tags), False
