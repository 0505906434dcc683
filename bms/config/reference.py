"""The page docs/reference/config.md, printed from the settings' own metadata, so that the two cannot differ.

A test holds the file to what is printed here. Only the introduction is written by hand.
"""

from __future__ import annotations

import inspect
from typing import Any

import attrs

from .fields import KINDS, range_text
from .settings import GROUPS, Config

__all__ = ["reference"]

_INTRODUCTION = """\
# Settings

Printed by `python -m bms.config > docs/reference/config.md`; do not edit.

From code, `bms.Config(listen_address="0.0.0.0:7800", limits={"value_bytes_max": 1 << 20})` reads nothing else.
`bms.Config.load("bms.toml")` takes, each over the one before it: the defaults below, the file, the environment,
keyword arguments. `bms up --config bms.toml --set limits.value_bytes_max=1048576` does the same; `bms config check
bms.toml` reads the file and says what is wrong with it, `bms config show` prints what would be in force.

- In the file a group is a table: `[limits]`. Relative paths are relative to the folder of the file.
- In the environment a setting is `BMS_` and its name in capitals, `BMS_LIMITS_VALUE_BYTES_MAX`. Lists are separated by
  commas, flags are `true`, `false`, `1`, `0`, `yes` or `no`, and an empty text is "none" where that is allowed.
- `BMS_HOME` is not a setting: it is the folder of all nodes. Without it that is `$XDG_DATA_HOME/bms` or
  `~/.local/share/bms` (macOS: `~/Library/Application Support/bms`, Windows: `%LOCALAPPDATA%\\bms`).
- A name that is not on this page, a value of the wrong type and one out of its range are refused with a `ConfigError`
  that names the setting and the place where it stood.
- Durations are in seconds, sizes in bytes. "Later" marks what this version knows by name alone: only the default is
  accepted.
"""


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _row(name: str, field: attrs.Attribute[Any]) -> str:
    rules = field.metadata
    kind = str(field.type).partition(" | ")[0]
    words = range_text(field) or (f"{KINDS[kind][0]}, {rules['unit']}" if rules["unit"] else KINDS[kind][0])
    said = rules["meaning"]
    if rules["trade_off"]:
        said += f" *{rules['trade_off'][0].upper()}{rules['trade_off'][1:]}.*"
    if rules["absent"]:
        said += f" Later: this version does not have {rules['absent']}."
    return f"| `{name}` | {_shown(field.default)} | {words} | {said} |"


def _table(kind: type[Any], prefix: str = "") -> list[str]:
    rows = [_row(prefix + field.name, field) for field in attrs.fields(kind) if "meaning" in field.metadata]
    return ["| setting | default | values | meaning, *trade-off* |", "|---|---|---|---|", *rows]


def reference() -> str:
    """The whole page, as Markdown."""
    parts = [_INTRODUCTION, "## The node and its mesh\n", *_table(Config)]
    for name, kind in GROUPS.items():
        parts += [f"\n## {name}\n", inspect.cleandoc(kind.__doc__ or "") + "\n", *_table(kind, f"{name}.")]
    return "\n".join(parts) + "\n"
