"""What a setting is: its metadata, the forms it accepts, and the check that holds a value to them.

The meaning and the rules of a setting stand once, in its field's attrs metadata: `meaning`; `trade_off` (what is paid
for more or less of it, or where the number comes from); `unit`; `low` and `high` (the range, both inclusive);
`choices`; `absent` (this version knows the name but has nothing behind it: only the default is accepted); `check` (a
function of the value that gives what is wrong with it, or None). The documentation is printed from the same metadata.

A field's type is read from its annotation; `KINDS` lists those there are.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigError

__all__ = [
    "GIB",
    "KIB",
    "KINDS",
    "MIB",
    "about",
    "amount",
    "check_fields",
    "count",
    "least",
    "nearest",
    "number",
    "range_text",
    "seconds",
    "setting",
    "to_float",
    "to_path",
    "to_texts",
]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("text", (str,)),
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (float,)),
    "Path": ("a path", (Path,)),
    "tuple[str, ...]": ("a list of texts", (tuple,)),
}
"""What a field accepts, by its annotation: the words for an error, the Python types."""


def about(
    meaning: str,
    trade_off: str = "",
    *,
    unit: str = "",
    span: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    absent: str = "",
    check: Callable[[Any], str | None] | None = None,
) -> dict[str, Any]:
    """The metadata of one field."""
    low, high = span or (None, None)
    return {
        "meaning": meaning,
        "trade_off": trade_off,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "absent": absent,
        "check": check,
    }


def setting(default: Any, meaning: str, trade_off: str = "", **more: Any) -> Any:
    """A field that is stored as it is given."""
    return attrs.field(default=default, metadata=about(meaning, trade_off, **more))


def seconds(numbers: tuple[float, float, float], meaning: str, trade_off: str) -> Any:
    """A duration; `numbers` are its default, lowest and highest value."""
    default, *span = numbers
    return attrs.field(
        default=default, converter=to_float, metadata=about(meaning, trade_off, unit="s", span=(span[0], span[1]))
    )


def amount(numbers: tuple[int, int, int], meaning: str, trade_off: str) -> Any:
    """A number of bytes; `numbers` are its default, lowest and highest value."""
    default, *span = numbers
    return setting(default, meaning, trade_off, unit="bytes", span=(span[0], span[1]))


def count(numbers: tuple[int, int, int], meaning: str, trade_off: str) -> Any:
    """A number of things; `numbers` are its default, lowest and highest value."""
    default, *span = numbers
    return setting(default, meaning, trade_off, span=(span[0], span[1]))


def number(numbers: tuple[float, float, float], meaning: str, trade_off: str) -> Any:
    """A number without a unit; `numbers` are its default, lowest and highest value."""
    default, *span = numbers
    return attrs.field(default=default, converter=to_float, metadata=about(meaning, trade_off, span=(span[0], span[1])))


# Converters bring the few convenient forms to the stored one, and leave everything else for the check to refuse.


def to_path(value: str | os.PathLike[str] | None) -> Path | None:
    """A path from its text."""
    wrong: Any = value
    return Path(value) if isinstance(value, (str, os.PathLike)) else wrong


def to_float(value: Any) -> Any:
    """A float from a whole number."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def to_texts(value: Any) -> Any:
    """A tuple from a list."""
    return tuple(value) if isinstance(value, list) else value


def _quantity(number: float, unit: str) -> str:
    if unit == "bytes":
        for factor, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if number >= factor and number % factor == 0:
                return f"{number // factor:g} {name}"
    return f"{number:,} {unit}".strip() if isinstance(number, int) else f"{number:g} {unit}".strip()


def range_text(field: attrs.Attribute[Any]) -> str:
    """The values a field may have, in words; empty where its type says it all."""
    rules = field.metadata
    if rules["choices"]:
        return ", ".join(f'"{choice}"' for choice in rules["choices"])
    if rules["low"] is None:
        return ""
    unit = rules["unit"]
    return f"{_quantity(rules['low'], unit if unit == 'bytes' else '')} to {_quantity(rules['high'], unit)}"


def _wrong(field: attrs.Attribute[Any], value: Any) -> str | None:
    """What is wrong with `value` for this field, or None."""
    rules = field.metadata
    kind, _, optional = str(field.type).partition(" | ")
    if value is None and optional:
        return None
    expected, types = KINDS[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return f"expected {expected}{' or nothing' if optional else ''}, not {value!r} ({type(value).__name__})"
    if rules["absent"] and value != field.default:
        return f"this version does not have {rules['absent']}; leave the setting out"
    if rules["low"] is not None and not rules["low"] <= value <= rules["high"]:  # NaN fails this too
        return f"{value!r} is not within {range_text(field)}"
    if rules["choices"] and value not in rules["choices"]:
        return f"expected one of {range_text(field)}, not {value!r}"
    if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
        return f"expected a list of texts, not {value!r}"
    return rules["check"](value) if rules["check"] is not None else None


def check_fields(group: Any, prefix: str = "") -> None:
    """Hold every field of an attrs object that has metadata to it; raises `ConfigError` named `prefix` + field."""
    for field in attrs.fields(type(group)):
        value = getattr(group, field.name)
        if "meaning" in field.metadata:
            wrong = _wrong(field, value)
            if wrong is not None:
                raise ConfigError(prefix + field.name, value, wrong)
        elif not attrs.has(type(value)) or type(value).__name__ != field.type:
            raise ConfigError(prefix + field.name, value, f"expected a table of settings, not {value!r}")


def least(group: Any, prefix: str, name: str, other: str, words: str, *, strictly: bool = False) -> None:
    """Raise `ConfigError` if field `name` is below field `other` (or, `strictly`, equal to it)."""
    value, floor = getattr(group, name), getattr(group, other)
    if value < floor or (strictly and value == floor):
        unit = attrs.fields_dict(type(group))[other].metadata["unit"]
        raise ConfigError(prefix + name, value, f"must {words} {prefix}{other}, which is {_quantity(floor, unit)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean …?" with the known name most like `name`, or nothing."""
    names = sorted(known)
    group, dot, _ = name.rpartition(".")
    if inside := [full for full in names if dot and full.startswith(group + dot)]:
        names = inside  # of a group that there is, its own, and not the group
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close and "." not in name:  # a setting of a group, named without it
        close = [full for full in names if full.endswith("." + name)][:1]
    return f"; did you mean {close[0]}?" if close else ""
