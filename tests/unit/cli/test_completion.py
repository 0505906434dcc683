"""Completion in the shells themselves: their own parsers run the script and ask for words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bms.cli.completion import VARIABLE
from bms.cli.program import COMMANDS, root

ROOT = Path(__file__).parents[3]

CASES = [
    ("bms he", {"health"}),
    ("bms st", {"status", "step"}),
    ("bms config ", {"check", "show"}),
    ("bms nodes --sta", {"--state"}),
    ("bms nodes --state ", {"alive", "suspect", "failed", "left"}),
    ("bms report --format h", {"html"}),
    ("bms completion z", {"zsh"}),
    ("bms step e", {"experiment"}),
    ("bms nosuch --x", set()),
]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which `bms` is this tree's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "bms"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -W error -m bms "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path), "TERM": "dumb",
    }  # fmt: skip


def answered(shell: str, script: str, environ: dict[str, str]) -> list[str]:
    """What a script of a shell prints; it must not complain."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [path, *plain, "-c", script], env=environ, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_bash_completes(line: str, words: set[str], environ: dict[str, str]) -> None:
    split = line.split() + ([""] if line.endswith(" ") else [])
    script = f"""
        eval "$(bms completion bash)"
        complete -p bms | grep -q -- '-F _bms_completion' || echo not registered
        COMP_WORDS=({" ".join(repr(word) for word in split)}); COMP_CWORD={len(split) - 1}; COMP_LINE={line!r}
        _bms_completion bms "" ""
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert set(answered("bash", script, environ)) == words


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_fish_completes(line: str, words: set[str], environ: dict[str, str]) -> None:
    script = f"""
        bms completion fish | source
        complete --do-complete {line!r} | string split -f1 \\t
    """
    assert set(answered("fish", script, environ)) == words


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_zsh_completes(line: str, words: set[str], environ: dict[str, str]) -> None:
    # `compadd` and `_describe` are what a completion function answers with; here they print.
    split = line.split() + ([""] if line.endswith(" ") else [])
    script = f"""
        autoload -Uz compinit && compinit -u -D
        eval "$(bms completion zsh)"
        [[ ${{_comps[bms]}} == _bms_completion ]] || echo not registered
        compadd() {{ print -l -- $completions }}
        _describe() {{ for found in $completions_with_descriptions; do print -- ${{found%%:*}}; done }}
        words=({" ".join(repr(word) for word in split)}); CURRENT={len(split)}
        _bms_completion
    """
    assert set(answered("zsh", script, environ)) == words


@pytest.mark.parametrize("line", ["bms ", "bms --v"])
def test_the_first_word_is_completed_without_loading_a_command(line: str) -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "from bms.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        "assert not {name for name in sys.modules if name.startswith('bms.cli.')} - {'bms.cli.program'}\n"
        "assert not {'rich', 'trio', 'cryptography', 'attr'} & {name.partition('.')[0] for name in sys.modules}\n"
    )
    words = line.split()
    environ = {**os.environ, VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(max(1, len(words) - 1))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    offered = {row.partition(",")[2] for row in done.stdout.splitlines()}
    assert offered == ({name for name in COMMANDS if " " not in name} if line == "bms " else {"--version"})


def test_a_shell_that_is_not_known_is_a_usage_error() -> None:
    result = CliRunner().invoke(root, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.output
