"""Where settings come from: a TOML file, `BMS_*` environment variables, keyword overrides, each over the one before it.

Every value is remembered with its place ("bms.toml, line 3"), so that an error found later can say where to mend it. A
key that nobody knows is an error that names the nearest known one: a mistyped setting must not look like one that is in
force.

    BMS_LISTEN_ADDRESS           listen_address
    BMS_LIMITS_FRAME_BYTES_MAX   limits.frame_bytes_max
    BMS_HOME                     no setting: the folder of all nodes (`home`)
    BMS_TOKEN                    no setting: what commands show to a node behind `--url`
    BMS_FAILPOINTS               no setting: faults for tests (`bms.failpoints`)

In the environment a list is separated by commas, a flag is true, false, 1, 0, yes or no, and an empty text stands for
"none" where a setting may be that. Relative paths in a file are relative to the folder of the file, elsewhere to the
working directory; "~" is the user's home.

Deliberately absent: includes, interpolation, profiles, and line numbers inside multi-line TOML values.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigError
from .fields import KINDS, nearest

__all__ = ["Fields", "Gathered", "gather", "home", "parse_text", "require_known"]

Fields = Mapping[str, "attrs.Attribute[Any]"]
"""Every known setting by its dotted name."""

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SECTION = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"' -]+?)\s*=")


@attrs.frozen
class Gathered:
    """`values`, nested as `Config` takes them, and the `places` where they stood, by dotted name."""

    values: dict[str, Any] = attrs.field(factory=dict)
    places: dict[str, str] = attrs.field(factory=dict)

    def put(self, name: str, value: object, place: str) -> None:
        """Let `value` be in force for the setting `name`."""
        group, dot, key = name.rpartition(".")
        table = self.values
        if dot:
            if not isinstance(table.get(group), dict):
                table[group] = {}
            table = table[group]
        table[key] = value
        self.places[name] = place


def home(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """The folder of all nodes of this user: `BMS_HOME`, otherwise "bms" in the user's data folder.

    That is `XDG_DATA_HOME` or ~/.local/share (XDG Base Directory Specification 0.8), ~/Library/Application Support on
    macOS, `LOCALAPPDATA` on Windows. The folder need not exist.
    """
    if environ.get("BMS_HOME"):
        return Path(environ["BMS_HOME"]).expanduser().absolute()
    user = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if platform == "darwin":
        return user / "Library" / "Application Support" / "bms"
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or user / "AppData" / "Local") / "bms"
    data = Path(environ.get("XDG_DATA_HOME") or "")
    return (data if data.is_absolute() else user / ".local" / "share") / "bms"


def require_known(fields: Fields, name: str, value: object, place: str = "") -> None:
    """Raise `ConfigError` unless `name` is a setting or a group of settings."""
    groups = {known.partition(".")[0] for known in fields if "." in known}
    if name in fields or name in groups:
        return
    suffix = f" ({place})" if place else ""
    raise ConfigError(name, value, f"there is no such setting{nearest(name, [*fields, *groups])}{suffix}")


def parse_text(fields: Fields, name: str, text: str, place: str = "") -> object:
    """The value of a setting written as text, for the environment and command lines. Raises `ConfigError`."""
    require_known(fields, name, text, place)
    suffix = f" ({place})" if place else ""
    if name not in fields:
        raise ConfigError(name, text, f"is a group; name one of its settings, as in {name}.…{suffix}")
    kind, _, optional = str(fields[name].type).partition(" | ")
    if optional and not text:
        return None
    if kind == "bool" and text.strip().lower() in _FLAGS:
        return _FLAGS[text.strip().lower()]
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind == "str":
        return text
    if kind == "Path" and text:
        return Path(text).expanduser()
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except ValueError:
        pass
    expected = KINDS[kind][0] if kind != "bool" else "true, false, 1, 0, yes or no"
    raise ConfigError(name, text, f"expected {expected}, not {text!r}{suffix}")


def _lines(text: str) -> dict[str, int]:
    """The line of each key and section of a TOML text, by dotted name; the first of several."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _SECTION.match(line):
            section = re.sub(r"[\s\"']", "", match[1])
            lines.setdefault(section, number)
        elif match := _KEY.match(line):
            key = re.sub(r"[\s\"']", "", match[1])
            lines.setdefault(f"{section}.{key}" if section else key, number)
    return lines


def _take_file(found: Gathered, fields: Fields, path: Path) -> None:
    try:
        text = path.read_bytes().decode("utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(str(path), None, f"cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(path), None, f"is not TOML: {error}") from error
    lines = _lines(text)

    def take(name: str, value: object) -> None:
        line = lines.get(name) or lines.get(name.rpartition(".")[0])
        place = f"in {path}, line {line}" if line else f"in {path}"
        require_known(fields, name, value, place)
        if isinstance(value, dict) and name not in fields:
            for key, item in value.items():
                take(f"{name}.{key}", item)
            return
        if name in fields and str(fields[name].type).startswith("Path") and isinstance(value, str):
            value = path.parent / Path(value).expanduser()
        found.put(name, value, place)

    for key, value in tables.items():
        take(key, value)


def _take_environment(found: Gathered, fields: Fields, environ: Mapping[str, str]) -> None:
    variables = {"BMS_" + name.upper().replace(".", "_"): name for name in fields}
    for variable in sorted(environ):
        if not variable.startswith("BMS_") or variable in ("BMS_HOME", "BMS_TOKEN", "BMS_FAILPOINTS"):
            continue
        place = f"in the environment variable {variable}"
        if variable not in variables:
            hint = nearest(variable, [*variables, "BMS_HOME"])
            raise ConfigError(variable, environ[variable], f"no setting has this environment variable{hint}")
        name = variables[variable]
        found.put(name, parse_text(fields, name, environ[variable], place), place)


def _take_overrides(found: Gathered, fields: Fields, overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        require_known(fields, name, value, "given as an argument")
        if isinstance(value, Mapping) and name not in fields:
            for key, item in value.items():
                require_known(fields, f"{name}.{key}", item, "given as an argument")
                found.put(f"{name}.{key}", item, "given as an argument")
        else:
            found.put(name, value, "given as an argument")


def gather(
    fields: Fields,
    path: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
) -> Gathered:
    """Read all sources. Values are of the right form where they were text; nothing is checked further here."""
    found = Gathered()
    if path is not None:
        _take_file(found, fields, Path(path))
    _take_environment(found, fields, environ)
    _take_overrides(found, fields, overrides)
    return found
