"""`bms doctor`: what is wrong here, and what to do about it; with a running node and without one.

    doctor_finding   what is found, and what is examined
    doctor_machine   versions, disk, handles, locks, the clock's service
    doctor_identity  certificates
    doctor_network   ports, names, peers, clocks of others, firewall, mDNS

A running node is asked for its settings and what it knows; without one the settings are those that `bms up` would start
with here. Nothing is changed. Each check takes seconds at most, those on the network run at once.

    exit status    meaning
    0              no problem; warnings there may be
    1              at least one problem
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from ..config import Config
from ..control import open_control
from ..errors import ConfigError, MeshError
from ..log import printable
from . import doctor_identity, doctor_machine, doctor_network
from .defaults import up_config
from .doctor_finding import OK, PROBLEM, WARNING, Finding, Patient
from .local import Choice, find_local, node_options
from .output import json_option, print_json
from .program import EXIT_FAILED
from .settings import overrides, set_option

__all__ = ["doctor", "examine"]

_MARKS = {OK: ("ok", "green"), WARNING: ("warning", "yellow"), PROBLEM: ("PROBLEM", "red")}
_GRADES = {"ok": OK, "degraded": WARNING, "failing": PROBLEM}


def _settings(flat: dict[str, Any]) -> Config:
    """A Config of settings by dotted name; raises ConfigError where the node's version knows others."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        group, dot, key = name.rpartition(".")
        if value is not None:
            (nested.setdefault(group, {}) if dot else nested)[key] = value
    return Config(**nested)


async def _running(path: Path, home: Path) -> Patient:
    """A node as it describes itself."""
    async with open_control(path) as client:
        status = await client.status()
        try:
            config = _settings(await client.config())
        except (ConfigError, TypeError):
            config = Config()  # of another version, which `versions` says
        return Patient(
            config=config,
            home=home,
            folder=None if status.folder is None else Path(status.folder),
            status=status,
            stats=await client.stats(),
            topology=await client.topology(),
            health=await client.health(),
        )


def _stopped(file: Path | None, given: dict[str, Any], choice: Choice) -> Patient:
    """What `bms up` would start with."""
    named = {"mesh_name": choice.mesh, "node_name": choice.node}
    is_folder = choice.node is not None and os.sep in choice.node
    if is_folder:
        named = {"persistence_path": choice.node}
    wanted = {name: value for name, value in named.items() if value is not None}
    config, wishes = up_config(file, os.environ, {**given, **wanted})
    folder = config.persistence_path or choice.home / config.mesh_name / config.node_name
    if config.database_path is not None:
        folder = config.database_path.parent
    return Patient(config, choice.home, folder if config.enable_persistence else None, wishes)


def _health(patient: Patient) -> Iterable[Finding]:
    """What the node says of itself."""
    for check in patient.health.get("checks", []):
        if check["status"] != "ok":
            yield Finding("health", _GRADES[check["status"]], f"{check['name']}: {check['reason']}", "see `bms health`")
    if patient.health.get("status") == "ok":
        yield Finding("health", OK, "the node itself finds nothing wrong")


async def examine(patient: Patient, answering: set[Path]) -> list[Finding]:
    """Everything, in a fixed order."""
    slow: list[Callable[[Patient], AsyncIterator[Finding]]] = [
        doctor_network.ports, doctor_network.peers, doctor_network.names
    ]  # fmt: skip
    found: dict[int, list[Finding]] = {}

    async def look(number: int) -> None:
        found[number] = [finding async for finding in slow[number](patient)]

    async with trio.open_nursery() as nursery:
        for number in range(len(slow)):
            nursery.start_soon(look, number)
    ports, peers, names = (found[number] for number in range(len(slow)))
    return [
        *doctor_machine.versions(patient),
        *_health(patient),
        *ports,
        *peers,
        *doctor_network.firewall(patient),
        *names,
        *doctor_network.multicast(patient),
        *doctor_network.clocks(patient),
        *doctor_machine.clock_service(patient),
        *doctor_identity.certificates(patient),
        *doctor_machine.disk(patient),
        *doctor_machine.handles(patient),
        *doctor_machine.leftovers(patient, answering),
    ]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _show(found: list[Finding], patient: Patient) -> None:
    status = patient.status
    if status is None:
        click.echo("No such node is running; this is what `bms up` would find here.")
    else:
        click.echo(printable(f"Node {status.name} {status.node_id[:8]} of {status.mesh_name}, process {status.pid}."))
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for finding in found:
        word, colour = _MARKS[finding.status]
        mark = click.style(f"{word:<8}", fg=colour, bold=finding.status == PROBLEM) if colours else f"{word:<8}"
        click.echo(f"{mark} {finding.check:<13} {printable(finding.what)}")
        if finding.advice:
            click.echo(f"{'':<22} -> {printable(finding.advice)}")
    problems, warnings = (sum(finding.status == grade for finding in found) for grade in (PROBLEM, WARNING))
    click.echo(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}.")


@click.command()
@click.option(
    "--config", "file", type=click.Path(dir_okay=False, path_type=Path),
    help="The file that `bms up` would be given, where no node runs.",
)  # fmt: skip
@set_option
@json_option
@node_options
def doctor(choice: Choice, file: Path | None, pairs: tuple[str, ...], form: str) -> None:
    """Find out what is wrong here, and what to do about it.

    Looks at a running node, or where there is none at what `bms up` would start with. Exits 1 if there is a problem.
    """

    async def look() -> tuple[Patient, list[Finding]]:
        path, answering = await find_local(choice)
        patient = _stopped(file, overrides(pairs), choice)
        if path is not None:
            try:
                patient = await _running(path, choice.home)
            except MeshError as error:
                raise click.ClickException(f"the node ended while it was asked: {error}") from error
        return patient, await examine(patient, answering)

    patient, found = trio.run(look)
    if form == "json":
        print_json({"running": patient.is_running, "findings": [attrs.asdict(finding) for finding in found]})
    else:
        _show(found, patient)
    if any(finding.status == PROBLEM for finding in found):
        raise click.exceptions.Exit(EXIT_FAILED)
