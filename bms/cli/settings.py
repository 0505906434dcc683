"""`bms config check` and `bms config show`: settings without starting anything.

Both use the same reading and the same checks as `bms up`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..config import Config, load, parse_setting, setting_fields
from ..errors import ConfigError
from .output import json_option, print_json

__all__ = ["check", "config", "overrides", "set_option", "show"]

F = TypeVar("F", bound=Callable[..., Any])


def set_option(function: F) -> F:
    """The option `--set KEY=VALUE`, as the argument `pairs`."""
    return click.option(
        "--set",
        "pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any setting, as in limits.topics_max=10; may be repeated.",
    )(function)


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """What `--set` said, as keyword overrides of `Config.load`; usage errors for what cannot be read."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
        try:
            value = parse_setting(name.strip(), text)
        except ConfigError as error:
            raise click.BadParameter(str(error), param_hint="--set") from error
        group, dot, key = name.strip().rpartition(".")
        if dot:
            found.setdefault(group, {})[key] = value
        else:
            found[key] = value
    return found


@click.group()
def config() -> None:
    """Check and show settings."""


@config.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Say whether a file of settings is valid.

    The environment is left out of it.
    """
    Config.load(file, {})
    click.echo(f"{file}: valid")


@config.command()
@click.option("--config", "file", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file of settings.")
@set_option
@json_option
def show(file: Path | None, pairs: tuple[str, ...], form: str) -> None:
    """Print the settings that would be in force.

    From the file, the environment and --set; as TOML, which `bms up --config` takes.
    """
    found = load(file, os.environ, overrides(pairs))
    values = {name: _value(found, name) for name in setting_fields()}
    if form == "json":
        print_json(values)
        return
    group = ""
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        if table != group:
            click.echo(f"\n[{table}]")
            group = table
        click.echo(f"# {key} is not set" if value is None else f"{key} = {_toml(value)}")


def _value(found: Config, name: str) -> object:
    value: Any = found
    for part in name.split("."):
        value = getattr(value, part)
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        escaped = "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    return str(value)
