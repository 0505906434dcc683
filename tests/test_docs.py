"""The documents against the code: what is promised exists, what exists is written down, links lead somewhere.

Conventions that these tests read. In README.md the comment `<!-- ci -->` before a block says that the build runs just
these commands, and `<!-- run -->` that the Python block is a whole program, which is run here. In a reference page an
item counts as documented where its name stands in a heading, or in code marks anywhere on the page.
"""

from __future__ import annotations

import os
import re
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
PROGRAM_TIMEOUT_S = 60


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


PYTHON_BLOCKS = [block for block in blocks(README) if block.language == "python"]
each_python_block = pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: f"line-{block.line}")


@each_python_block
def test_python_in_the_readme_compiles(block: Block) -> None:
    compile(block.text, f"README.md:{block.line}", "exec", dont_inherit=True)


@pytest.mark.parametrize(
    "block", [block for block in PYTHON_BLOCKS if block.mark == "run"], ids=lambda block: f"line-{block.line}"
)
def test_programs_in_the_readme_run(block: Block, tmp_path: Path, bms_home: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={**os.environ, "BMS_HOME": str(bms_home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


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
