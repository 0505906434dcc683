"""The one door to everything that is checked: `nox` runs lint, types, tests and e2e, as `.ci/run` does.

A check belongs here and nowhere else, so that a contributor's machine and the build machine cannot disagree. Arguments
after `--` go to the program that is run: `nox -s tests -- tests/unit/wire -k frame`. Another interpreter:
`nox -s tests --force-python 3.13`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "venv"  # in every Python; nothing else to install
nox.options.reuse_venv = "never" if os.environ.get("CI") else "yes"  # what an earlier run left decides no build
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests", "e2e"]

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")


def install(session: nox.Session, *groups: str, package: str | None = ".") -> None:
    """Install dependency groups, and the package as users get it (a wheel): a file missing from it is noticed."""
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install("--quiet", *requirements, *([package] if package else []))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely bugs (ruff); `nox -s lint -- --fix` repairs what can be repaired."""
    install(session, "lint", package=None)
    session.run("ruff", "check", *session.posargs, ".")
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, in the package, the tests and this file (mypy)."""
    install(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that runs in one process: unit, paper, property, sim, integration, the house and the docs."""
    install(session, "test")
    session.run("pytest", "-m", "not e2e", *session.posargs)


@nox.session
def sim(session: nox.Session) -> None:
    """Simulated meshes with faults, 20 seeds each, to stay below a quarter of an hour of one core.

    One run: `nox -s sim -- tests/sim/scenarios/storm.toml --seed 7`; more: the same with `--seeds 100`.
    Without arguments also a node's life, ended at every step of every task.
    """
    install(session, "test")
    if not session.posargs:
        session.run("pytest", "-rP", "tests/integration/test_checkpoints.py", env={"SWEEP": "full"})
    scenarios = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "sim" / "scenarios").glob("*.toml"))
    session.run("python", "-W", "error", "-m", "bms.testing", *(session.posargs or [*scenarios, "--seeds", "20"]))


@nox.session
def paper(session: nox.Session) -> None:
    """The published experiments on membership, beside their targets: 75 minutes. One: `nox -s paper -- crash`."""
    install(session, "test")
    session.run("python", "-W", "error", "-m", "bms.testing.paper", *session.posargs)


@nox.session
def e2e(session: nox.Session) -> None:
    """Real processes and the command line, as a user starts them."""
    install(session, "test")
    session.run("pytest", "-m", "e2e", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with each dependency at its lower bound: keeps the bounds in pyproject.toml true."""
    exact = [re.sub(">=", "==", requirement, count=1) for requirement in PYPROJECT["project"]["dependencies"]]
    install(session, "test")
    session.install("--quiet", *exact)
    session.run("pytest", "-m", "not e2e", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation against the code: links, settings, errors, commands, examples."""
    install(session, "test")
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The measurements in benchmarks/, one after another, or those named after `--`. Not a check: they take minutes."""
    install(session, "test")
    wanted = session.posargs or ["links", "store", "footprint"]
    for name in wanted:
        session.run("python", f"benchmarks/{name}.py")


@nox.session
def suites(session: nox.Session) -> None:
    """Checks that others wrote (docs/reference/conformance.md): schemathesis, promtool, Prometheus.

    What is not installed is left out. They draw at random and take minutes: not among the default sessions.
    `nox -s suites -- promtool` runs one.
    """
    install(session, "test")
    session.install("--quiet", "schemathesis>=4.32")
    session.run("python", "tests/suites.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """The source and binary distributions, into dist/."""
    session.install("--quiet", "build>=1.2")
    session.run("python", "-m", "build", *session.posargs)
