"""A process killed with -9 at any step of making, completing, renewing or issuing leaves the old state or the new one.

A child process performs the work and is killed at the n-th time that it opens, creates, renames or removes something
(audit hooks see those), for every n until one child comes through. What each leaves is judged here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bms.config
from bms.config import Config
from bms.errors import ConfigError
from bms.security.identity import Identity, issue_files, load_identity_files, load_or_make_identity

NOW = 1_790_000_000.0
LATER = NOW + 80 * 86_400
NAMES = ("key.pem", "cert.pem", "trust.pem")

PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from bms.config import Config
from bms.security.authority import Authority
from bms.security.identity import issue_files, load_or_make_identity

NOW, LATER = float(sys.argv[3]), float(sys.argv[4])
EVENTS = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.listdir", "fcntl.flock"}

def start(place, now, **fields):
    load_or_make_identity(
        Config(**fields), place / "node", home=place, token_bytes=os.urandom, wall_time=lambda: now
    )

def restore(place):
    Authority.create(token_bytes=os.urandom, now=NOW).save(place / "node" / "identity" / "authority")

def issue(place):
    issue_files(place / "node", place / "out", node_name="x", token_bytes=os.urandom, wall_time=lambda: NOW)

SCENARIOS = {  # what is there before, and what is cut
    "found": (lambda place: None, lambda place: start(place, NOW, found_mesh=True)),
    "dev": (lambda place: None, lambda place: start(place, NOW, dev_mode=True)),
    "complete": (restore, lambda place: start(place, NOW, found_mesh=True)),
    "renew": (lambda place: start(place, NOW, found_mesh=True), lambda place: start(place, LATER)),
    "issue": (lambda place: start(place, NOW, found_mesh=True), issue),
}
prepare, work = SCENARIOS[sys.argv[1]]

def cut_at(step, place):
    count = 0
    def hook(event, args):
        nonlocal count
        if event in EVENTS and not str(args[0]).endswith((".py", ".pyc")):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    work(place)

statuses = []
while not statuses or os.WIFSIGNALED(statuses[-1]):
    place = Path(sys.argv[2]) / str(len(statuses) + 1)
    place.mkdir()
    prepare(place)
    child = os.fork()
    if child == 0:
        try:
            cut_at(len(statuses) + 1, place)
        except BaseException as error:
            sys.stderr.write(repr(error))
            os._exit(1)
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
print(json.dumps(statuses))
"""


@pytest.fixture
def cut(tmp_path: Path) -> Callable[[str, int], list[Path]]:
    """Do the work, cut at each step; the places it was done in, the last of them uncut."""

    def run(scenario: str, steps_min: int) -> list[Path]:
        root = str(Path(bms.config.__file__).parent.parent.parent)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, root])}
        command = [sys.executable, "-W", "error", "-c", PROGRAM, scenario, str(tmp_path), str(NOW), str(LATER)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        statuses = json.loads(done.stdout)
        assert statuses[-1] == 0, done.stderr
        assert {os.WTERMSIG(status) for status in statuses[:-1]} == {signal.SIGKILL}
        assert len(statuses) > steps_min, "the cuts did not happen"
        return [tmp_path / str(number + 1) for number in range(len(statuses))]

    return run


def start(place: Path, now: float = NOW, config: Config | None = None) -> Identity:
    return load_or_make_identity(
        config or Config(), place / "node", home=place, token_bytes=os.urandom, wall_time=lambda: now
    )


def present(folder: Path) -> set[str]:
    return {name for name in NAMES if (folder / name).exists()}


def leftovers(place: Path) -> list[str]:
    return [path.name for path in place.rglob("*") if path.name.endswith(".new") or path.name == "pending"]


@pytest.mark.parametrize("scenario", ["found", "dev"])
def test_a_cut_while_an_identity_is_made_leaves_none_or_a_whole_one(
    cut: Callable[[str, int], list[Path]], scenario: str
) -> None:
    config = Config(found_mesh=True) if scenario == "found" else Config(dev_mode=True)
    whole = 0
    places = cut(scenario, 15)
    for place in places:
        folder = place / "node" / "identity"
        before: str | None = None
        if folder.exists():
            assert present(folder) == set(NAMES)
            before = start(place).node_id
            whole += 1
        else:
            with pytest.raises(ConfigError, match="no identity yet"):
                start(place)
        identity = start(place, config=config)
        assert before in (None, identity.node_id)
        assert (identity.authority is not None) == (scenario == "found")
        assert leftovers(place) == []
    assert 0 < whole < len(places)


def test_a_cut_while_an_authority_is_given_its_node_leaves_the_authority_and_none_or_a_whole_identity(
    cut: Callable[[str, int], list[Path]],
) -> None:
    for place in cut("complete", 15):
        folder = place / "node" / "identity"
        mesh = (folder / "authority" / "issuer.pem").read_bytes()
        try:
            before: str | None = start(place).node_id
        except ConfigError as error:
            assert "no identity yet" in error.why  # noqa: PT017
            before = None
        identity = start(place, config=Config(found_mesh=True))
        assert before in (None, identity.node_id)
        assert (folder / "authority" / "issuer.pem").read_bytes() == mesh
        assert present(folder) == set(NAMES)
        assert leftovers(place) == []


def test_a_cut_while_a_certificate_is_renewed_leaves_the_old_or_the_new_one_whole(
    cut: Callable[[str, int], list[Path]],
) -> None:
    outcomes = set()
    for place in cut("renew", 20):
        identity = start(place, NOW)  # at this time nothing would be renewed: it is what the cut left
        outcomes.add(identity.not_before == NOW - 86_400)
        renewed = start(place, LATER)
        assert renewed.node_id == identity.node_id
        assert renewed.not_before == LATER - 86_400
        assert renewed.authority is not None
        assert leftovers(place) == []
    assert outcomes == {True, False}


def test_a_cut_while_files_are_issued_leaves_none_or_all_three(cut: Callable[[str, int], list[Path]]) -> None:
    outcomes = set()
    for place in cut("issue", 10):
        outcomes.add((place / "out").exists())
        if (place / "out").exists():
            assert present(place / "out") == set(NAMES)
            key, cert, trust = (place / "out" / name for name in NAMES)
            assert load_identity_files(key, cert, trust, NOW)
        else:
            issue_files(place / "node", place / "out", node_name="x", token_bytes=os.urandom, wall_time=lambda: NOW)
        assert leftovers(place) == []
        assert start(place).authority is not None
    assert outcomes == {True, False}
