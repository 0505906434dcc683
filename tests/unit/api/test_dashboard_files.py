"""The files of the dashboard, read as text: what its Content-Security-Policy would refuse is not in them, nothing is
loaded from elsewhere, each module says what it is for and stays small, and no file is missing or left over.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bms

STATIC = Path(bms.__file__).parent / "api" / "static"
MODULES = sorted(STATIC.rglob("*.js"))
LINES_MAX = 400

# What would make text of the mesh into markup or code, or needs 'unsafe-inline' or 'unsafe-eval'.
BANNED = re.compile(
    r"\.(?:inner|outer)HTML\s*[+]?=[^=]|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function|cssText"
    r"|setAttribute\(\s*[\"'](?:style|on\w+)|\bstyle:|set(?:Timeout|Interval)\(\s*[\"'`]"
)

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(STATIC).as_posix())


@each_module
def test_a_module_says_what_it_is_for_and_stays_small(module: Path) -> None:
    lines = module.read_text(encoding="utf-8").splitlines()
    assert re.match(r"// [A-Z].{30,}", lines[0])
    assert len(lines) < LINES_MAX


@each_module
def test_a_module_makes_nothing_out_of_text(module: Path) -> None:
    assert [line for line in module.read_text(encoding="utf-8").splitlines() if BANNED.search(line)] == []


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<style|<script(?![^>]*\bsrc=)|\s(?:on\w+|style)\s*=", page) == []
    everything = [
        page,
        *(path.read_text(encoding="utf-8") for path in STATIC.rglob("*") if path.suffix in (".js", ".css")),
    ]
    found = {url for text in everything for url in re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}", text)}
    assert found <= {"http://www.w3.org"}


def test_every_file_is_there_and_none_is_left_over() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    used = {STATIC / "index.html", *(STATIC / name for name in re.findall(r'"/static/([^"]+)"', page))}
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        used |= {(module.parent / name).resolve() for name in re.findall(r'from "(\.[^"]+)"', text)}
        used |= {STATIC / name for name in re.findall(r'"/static/([^"]+)"', text)}
    assert used == {path for path in STATIC.rglob("*") if path.is_file()}
