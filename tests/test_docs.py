"""The documents against the code: what is promised exists, what exists is written down, links lead somewhere.

Conventions that these tests read, in a comment before a block:

    <!-- ci -->                 the build runs just these commands
    <!-- run -->                a whole program, or a script of the shell, that is run here
    <!-- run twice -->          a program, two of which are run at once and must see each other
    <!-- run as a b c -->       a program that is run with each of these arguments, all at once

In a reference page an item counts as documented where its name stands in a heading, or in code marks anywhere on the
page.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_type_hints

import attrs
import click
import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROGRAM_TIMEOUT_S = 120


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the HTML comment right above it, if any."""

    language: str
    text: str
    mark: str | None
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, those inside lists included."""
    text = page.read_text(encoding="utf-8")
    pattern = r"(?:<!-- *(?P<mark>[^>]*?) *-->\s*\n)?^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```"
    for found in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        indent = len(found["indent"])
        body = "".join(line[indent:] or "\n" for line in found["text"].splitlines(keepends=True))
        yield Block(found["language"], body, found["mark"], text[: found.start()].count("\n") + 1)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def documented(page: Path) -> set[str]:
    """Every text in code marks, whole and word by word, and every heading."""
    text = prose(page)
    marked = re.findall(r"`([^`\n]+)`", text)
    headings = [heading.strip("# `") for heading in re.findall(r"^#+ .*$", text, re.MULTILINE)]
    return {*marked, *headings, *(word for code in marked for word in re.split(r"[^\w.\-]+", code))}


def anchors(page: Path) -> set[str]:
    """The names that headings of a page can be linked by (GitHub's rule)."""
    headings = re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- README


README = ROOT / "README.md"


def _commands(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_the_readme_says_how_to_run_the_tests_and_the_build_does_just_that() -> None:
    promised = [command for block in blocks(README) if block.mark == "ci" for command in _commands(block.text)]
    run = _commands((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert promised, "README.md has no block marked <!-- ci -->"
    assert [command for command in promised if command not in run] == []


# --- programs


def _python_blocks(mark: str) -> list[tuple[Path, Block]]:
    found = [(page, block) for page in PAGES for block in blocks(page) if block.language == "python"]
    return [pair for pair in found if re.fullmatch(mark, pair[1].mark or "")]


def _place(pair: tuple[Path, Block]) -> str:
    return f"{pair[0].name}-line-{pair[1].line}"


class Programs:
    """Runs programs of pages in a folder of their own, with warnings as errors."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        command = bin_folder / "bms"
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bms "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        self._environ = {**os.environ, "BMS_HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": path}
        self._environ["PYTHONUNBUFFERED"] = "1"  # so that what was said before a failure is seen

    def start(self, block: Block, *arguments: str) -> subprocess.Popen[str]:
        """Start a block: Python or shell."""
        program = self._folder / f"line{block.line}"
        if not program.exists():  # otherwise it may just be read: it would be found empty
            program.write_text(block.text, encoding="utf-8")
        command = [sys.executable, "-W", "error"] if block.language == "python" else ["sh", "-e"]
        return self.popen([*command, str(program), *arguments])

    def popen(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            command, cwd=self._folder, env=self._environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def outputs(self, *processes: subprocess.Popen[str]) -> list[str]:
        """What each has printed when it has ended, as it must without an error."""
        try:
            for process in processes:
                process.communicate(timeout=PROGRAM_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass  # it is killed; one that failed may be why
        finally:
            for process in processes:
                process.kill()
        ended = [process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), ended
        return [output for output, _ in ended]


@pytest.fixture
def programs(tmp_path: Path, bms_home: Path) -> Programs:
    return Programs(tmp_path, bms_home)


@pytest.mark.parametrize("place", _python_blocks(".*"), ids=_place)
def test_python_in_the_pages_compiles(place: tuple[Path, Block]) -> None:
    page, block = place
    compile(block.text, f"{page.name}:{block.line}", "exec", dont_inherit=True)


@pytest.mark.parametrize("place", _python_blocks("run"), ids=_place)
def test_programs_in_the_pages_run_and_run_again(place: tuple[Path, Block], programs: Programs) -> None:
    for _ in range(2):
        assert programs.outputs(programs.start(place[1]))[0]


@pytest.mark.parametrize("place", _python_blocks("run twice"), ids=_place)
def test_programs_that_are_started_twice_see_each_other(place: tuple[Path, Block], programs: Programs) -> None:
    for output in programs.outputs(programs.start(place[1]), programs.start(place[1])):
        assert re.search(r"^robot(-2)? says Hello network!$", output, re.MULTILINE)
        assert "known: ['position/robot', 'position/robot-2']" in output


TUTORIAL = ROOT / "docs" / "tutorial.md"


def test_the_tutorial_does_what_it_says(programs: Programs) -> None:
    (block,) = [block for block in blocks(TUTORIAL) if (block.mark or "").startswith("run as")]
    (script,) = [block for block in blocks(TUTORIAL) if block.language == "sh" and block.mark == "run"]
    names = str(block.mark).split()[2:]
    (desk_line,) = [line for line in commands(TUTORIAL) if line.startswith("bms up")]
    desk = programs.popen(shlex.split(desk_line))
    try:
        assert desk.stdout is not None
        assert desk.stdout.readline().startswith("ready ")
        outputs = programs.outputs(*(programs.start(block, name) for name in names))
        (shown,) = programs.outputs(programs.start(script))
    finally:
        desk.terminate()
        desk.communicate(timeout=PROGRAM_TIMEOUT_S)
    said = re.search(r"^ +north sees.*?(?=^\S)", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert said is not None
    promised = sorted(line.strip() for line in said[0].strip().splitlines())
    assert sorted(outputs[names.index("north")].splitlines()) == promised
    assert re.findall(r"^(\w+) .* (alive|left) ", shown, re.MULTILINE).count(("desk", "alive")) == 1
    assert [name for name in names if re.search(rf"^{name} .* left ", shown, re.MULTILINE)] == names
    assert shown.endswith("4.5")


# --- commands and settings


def commands(page: Path) -> list[str]:
    """The commands of `bms` in a page's shell blocks, without what stands before and behind them on the line."""
    from bms.cli.program import COMMANDS

    lines = [line for block in blocks(page) if block.language == "sh" for line in _commands(block.text)]
    found = [re.search(r"\bbms (?!.*\bbms ).*", re.sub(r"\s+#.*$", "", line)) for line in lines]
    return [line[0] for line in found if line is not None and line[0].split()[1] in COMMANDS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_pages_are_understood(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bms.cli.program import root

    monkeypatch.chdir(tmp_path)
    (tmp_path / "robot").mkdir()
    (tmp_path / "colour.txt").touch()
    for line in commands(page):
        _, *words = shlex.split(line)
        command: click.Command | None = root
        while isinstance(command, click.Group):
            with click.Context(command) as context:
                command = command.get_command(context, words.pop(0))
        assert command is not None, line
        command.make_context(line, words).close()  # raises a usage error otherwise


@pytest.mark.parametrize(
    "place",
    [(page, block) for page in PAGES for block in blocks(page) if block.language == "toml"],
    ids=_place,
)
def test_settings_in_the_pages_are_valid(place: tuple[Path, Block], tmp_path: Path) -> None:
    import bms

    file = tmp_path / "node.toml"
    file.write_text(place[1].text, encoding="utf-8")
    assert bms.Config.load(file, {}).mesh_name == "home"


# --- reference pages


def _settings(kind: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(kind)  # attrs.resolve_types would change the class for all other tests
    for field in attrs.fields(kind):
        group = hints[field.name]
        if isinstance(group, type) and attrs.has(group):
            yield from _settings(group, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_setting_is_documented() -> None:
    import bms

    assert sorted(set(_settings(bms.Config)) - documented(REFERENCE / "config.md")) == []


def test_every_scope_of_a_token_is_documented_with_what_it_allows() -> None:
    from bms.security.tokens import SCOPES

    rows = re.findall(r"^\| `(\w+:\w+)` \| (.+) \|$", prose(ROOT / "docs" / "how-to" / "tokens.md"), re.MULTILINE)
    assert dict(rows) == SCOPES


def test_every_route_is_documented_with_its_scope_and_every_error_with_its_status() -> None:
    from bms.api.problems import STATUSES
    from bms.api.routes import ROUTES

    page = prose(REFERENCE / "http.md")
    rows = dict(re.findall(r"^\| `([A-Z]+ /[^`]*)` \| ([\w:-]+) \|", page, re.MULTILINE))
    shown = {None: "-", "": "any"}
    routes = {route.operation: shown.get(route.scope, route.scope) for route in ROUTES}
    streams = {"GET /api/v1/events": "any", "GET /api/v1/events/stream": "any"}
    in_one_row = {f"POST /api/Bellande_Step/bellande_step_{n}d": "-" for n in range(3, 11)}
    assert {**rows, **in_one_row} == {**routes, **streams}
    statuses = re.findall(r"^\| `(\w+Error)` \| (\d+) \|", page, re.MULTILINE)
    assert dict(statuses) == {kind.__name__: str(status) for kind, status in STATUSES.items()}


def test_every_error_is_documented_under_a_heading_of_its_own() -> None:
    from bms import errors

    headings = re.findall(r"^#+ `?(\w+)`?", prose(REFERENCE / "errors.md"), re.MULTILINE)
    assert sorted(set(errors.__all__) - set(headings)) == []
    named = {heading for heading in headings if heading.endswith("Error")}
    assert sorted(named - set(errors.__all__)) == [], "documented, but there is no such error"


def _programs(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below `command`, with what one types; `bms.cli` loads each when it is asked for."""
    yield path, command
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from _programs(inner, f"{path} {name}")


def test_every_command_and_each_of_its_options_is_documented() -> None:
    from bms.cli.program import root

    known = documented(REFERENCE / "cli.md")
    missing = []
    for path, command in _programs(root, "bms"):
        if not any(text == path or text.startswith(path + " ") for text in known):
            missing.append(path)
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        missing += [f"{path} {option.opts[-1]}" for option in options if not known & set(option.opts)]
    assert missing == []


def test_the_api_page_is_what_the_docstrings_say() -> None:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    page = (REFERENCE / "api.md").read_text(encoding="utf-8")
    assert page == make_api.page(), "python docs/make_api.py > docs/reference/api.md"


# --- all pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", prose(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue  # the web and mail; not looked up here
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        inside = place == ROOT or ROOT in place.parents
        if not inside or not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


def test_every_page_of_the_documentation_can_be_reached_from_its_index() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#:]+)[^)]*\)", prose(page))
        todo += [(page.parent / link).resolve() for link in links]
    assert sorted(set((ROOT / "docs").rglob("*.md")) - seen) == []


def test_the_changelog_has_the_version_that_is_built() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version[1] in headings
    assert headings[0] == "Unreleased"
