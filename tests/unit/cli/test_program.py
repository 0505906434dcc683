"""The table of commands, what a start costs, and that the reference page leaves nothing out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click
import pytest
from click.testing import CliRunner

from bms.cli.program import COMMANDS, root
from helpers import PROCESS_S

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_commands_help_says(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").split("\n")[0] == COMMANDS[name][1]


def test_a_mistyped_command_is_met_with_a_guess() -> None:
    result = CliRunner().invoke(root, ["nodez"])
    assert result.exit_code == 2
    assert "'nodes'" in result.output


def bms(*arguments: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """The program itself, whose last resort is what these tests are about."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "bms", *arguments],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, check=False,
        timeout=PROCESS_S,
    )  # fmt: skip


@pytest.mark.parametrize("group", [[], ["config"], ["identity"]])
def test_a_group_by_itself_prints_its_help_as_it_is(group: list[str]) -> None:
    done = bms(*group)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[0] == " ".join(["Usage: bms", *group, "[OPTIONS] COMMAND [ARGS]..."])


def test_a_full_disk_behind_standard_output_is_said_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = bms("config", "show", stdout=full)
    assert (done.returncode, done.stderr) == (1, b"bms: No space left on device\n")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_are_as_the_null_device(closed: tuple[int, ...], tmp_path: Path) -> None:
    said = tmp_path / "said"
    line = " ".join(["exec", '"$@"', *(f"{number}>&-" for number in closed)])
    with open(said, "wb") as out:
        done = subprocess.run(
            ["/bin/sh", "-c", line, "sh", sys.executable, "-W", "error", "-m", "bms", "step", "experiment",
             "--dimensions", "2", "--limit", "100", "--pairs", "10", "--seed", "1"],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, check=False, timeout=PROCESS_S,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert (said.read_bytes() == b"") is (1 in closed)


def test_nothing_is_said_to_a_reader_who_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = bms("config", "show", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_node_without_an_identity_is_told_the_options_that_give_it_one(bms_home: Path) -> None:
    done = bms("up", "--no-found", "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert all(option in line for option in ("--identity", "--found", "--dev"))


def test_help_names_every_command_without_loading_it() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = ['--help']\n"
        "import bms; before = set(sys.modules)\n"
        "from bms.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'rich', 'trio', 'cryptography', 'apsw', 'cbor2', 'attr', 'logging'}, new\n"
        "assert not {name for name in sys.modules if name.startswith('bms.cli.')} - {'bms.cli.program'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(ROOT)],
        capture_output=True, text=True, check=False, timeout=PROCESS_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.MULTILINE), name


def _programs(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _programs(inner, f"{path} {name}")


def test_the_reference_page_has_every_command_with_each_of_its_options() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(bms[a-z ]*)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    common = set(re.findall(r"`(--?[a-z-]+)", page.partition("\n## `bms")[0]))
    for path, command in _programs(root, "bms"):
        if isinstance(command, click.Group):
            continue
        assert path in sections, f"{path} has no section"
        documented = common | set(re.findall(r"`(--?[a-z-]+)", sections[path]))
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        assert not [option.opts for option in options if not documented & set(option.opts)], path
    assert set(sections) <= {path for path, _ in _programs(root, "bms")}
