"""`bms demo` as a user starts it: real processes, and what is left when it ends in whatever way."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240
GONE_S = 120
SEED = int(os.environ.get("DEMO_SEED") or random.randrange(2**32))

Demo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The system's temporary folder, as far as a demonstration can see."""
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with all that may lie in one."""
    root = tmp_path / "tree"
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("not ours")
    (root / "empty").write_bytes(b"")
    (root / "large").write_bytes(random.Random(1).randbytes(5_000_000))
    (root / os.fsdecode(b"not \xff text\x1b[31m")).write_bytes(b"odd name")
    for number in range(40):
        (root / "sub" / f"{number}.txt").write_bytes(random.Random(number).randbytes(number * 977))
    (tmp_path / "outside").write_text("secret")
    (root / "sub" / "link").symlink_to(tmp_path / "outside")
    (root / "sub" / "deeper" / "loop").symlink_to(root)
    os.mkfifo(root / "sub" / "pipe")
    return root


@pytest.fixture
def demo(place: Path) -> Iterator[Demo]:
    """Start `bms demo` with arguments; whatever a test leaves running is killed."""
    started = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "bms", "demo", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(place)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for pid in processes_of(place):
        os.kill(pid, signal.SIGKILL)


def processes_of(place: Path) -> list[int]:
    """Processes whose command line names a folder of a demonstration."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            if os.fsencode(place / "bms-demo-") in line:
                found.append(int(entry.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = GONE_S) -> None:
    """Look again and again until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def takes_signals(process: subprocess.Popen[str]) -> bool:
    """Whether the process has a handler for SIGTERM (proc(5), SigCgt), as demo has before it makes anything."""
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught & 1 << (signal.SIGTERM - 1))


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON object of a demonstration that went well."""
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def test_all_nodes_hold_every_byte_and_the_killed_one_catches_up(demo: Demo, tree: Path, place: Path) -> None:
    before = sorted((path, path.lstat().st_mtime_ns) for path in tree.rglob("*"))
    found = outcome(demo(tree, "-o", "json"))
    assert found["equal"] is True
    assert found["problems"] == []
    assert found["files"] == 43
    assert found["bytes"] == 5_000_000 + len("odd name") + sum(number * 977 for number in range(40))
    assert found["skipped_by_reason"] == {".git folders": 1, "special files": 1, "symbolic links": 2}
    assert found["skipped"] == 4
    assert [node["name"] for node in found["nodes"]] == ["n1", "n2", "n3", "n4", "n5"]
    assert len({node["node_id"] for node in found["nodes"]}) == 5
    entries = found["files"] + found["changes"]["added"] - found["changes"]["deleted"]
    for node in found["nodes"]:
        assert node["equal"] is True
        assert node["entries"] == entries
        assert node["bytes"] == found["nodes"][0]["bytes"]
        assert node["seconds"] >= 0
        assert node["wire_bytes"] > found["bytes"]
    assert found["verified_values"] == 5 * (43 + entries)
    assert [phase["name"] for phase in found["phases"]] == [
        *("find", "start", "store", "replicate", "verify", "kill", "catch up", "verify again")
    ]
    assert found["killed"]["name"] == "n5"
    assert sorted(found["killed"]["noticed_s"]) == ["n1", "n2", "n3", "n4"]
    assert all(seconds is not None for seconds in found["killed"]["noticed_s"].values())
    assert found["killed"]["caught_up_bytes"] > 0
    assert found["kept"] is None
    assert sorted((path, path.lstat().st_mtime_ns) for path in tree.rglob("*")) == before
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def test_in_a_pipe_there_is_a_line_a_phase_and_a_table(demo: Demo, tree: Path, place: Path) -> None:
    out, err = demo(tree, "--nodes", "3").communicate(timeout=DEADLINE_S)
    assert err == ""
    assert "\x1b" not in out
    lines = out.splitlines()
    titles = ("find", "start 3", "store", "replicate", "verify every", "kill n3", "n3 restarts", "verify everything")
    for line, title in zip(lines, titles, strict=False):
        assert f" s  {title}" in line
    assert re.search(r"; dashboard, while this runs: BMS_HOME=\S+ bms dashboard --node n1$", lines[1])
    assert "login" not in out  # a pipe may end in a log
    header = next(number for number, line in enumerate(lines) if line.startswith("NODE"))
    assert [line.split()[0] for line in lines[header + 1 : header + 4]] == ["n1", "n2", "n3"]
    assert "byte for byte" in lines[-1]
    assert list(place.iterdir()) == []


def test_without_a_path_the_program_stores_itself(demo: Demo) -> None:
    found = outcome(demo("-o", "json", "--nodes", "3"))
    assert found["path"] == str(ROOT / "bms")
    assert found["files"] > 50


@pytest.mark.parametrize("chance", [random.Random(SEED + number) for number in range(5)], ids=range(5))
def test_interrupted_at_any_moment_it_leaves_nothing(
    demo: Demo, tree: Path, place: Path, chance: random.Random
) -> None:
    moment_s = chance.uniform(0, 3)
    number = chance.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    print(f"DEMO_SEED={SEED}: {number.name} after {moment_s:.3f} s")  # noqa: T201 - shown when it fails
    process = demo(tree)
    wait_for(lambda: takes_signals(process))
    time.sleep(moment_s)
    process.send_signal(number)
    process.send_signal(number)  # a second one changes nothing
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode in (-number, 0)  # 0: it was done before
    assert "Traceback" not in err
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def test_interrupted_before_it_has_begun_it_leaves_nothing(demo: Demo, tree: Path, place: Path) -> None:
    moment_s = random.Random(SEED).uniform(0, 0.5)
    print(f"DEMO_SEED={SEED}: SIGINT after {moment_s:.3f} s")  # noqa: T201 - shown when it fails
    process = demo(tree)
    time.sleep(moment_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    # Python itself, interrupted in its first milliseconds, says so and ends with 1: nothing of ours has run by then.
    is_pythons = err.startswith(("Could not import runpy module", "Fatal Python error: init_import_site"))
    assert process.returncode == (1 if is_pythons else -signal.SIGINT)
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def test_killed_outright_its_nodes_end_by_themselves_and_the_next_one_removes_their_files(
    demo: Demo, tree: Path, place: Path
) -> None:
    process = demo(tree, "--stay")  # there are five some time, however long nobody looks
    wait_for(lambda: len(processes_of(place)) == 5)
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    wait_for(lambda: not processes_of(place))
    (left,) = place.iterdir()
    others = [place / "bms-demo-mine", place / "bms-demo-file", place / "bms-demo-link"]
    others[0].mkdir(0o700)
    others[1].touch(0o600)
    others[2].symlink_to(left)
    outcome(demo(tree, "-o", "json", "--nodes", "3"))
    assert sorted(place.iterdir()) == sorted(others)  # the next has removed what the killed one left, and nothing else


def test_a_path_that_is_not_there_is_one_line_that_says_so(demo: Demo, tmp_path: Path, place: Path) -> None:
    process = demo(tmp_path / "nowhere", "-o", "json")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "nowhere cannot be read" in err
    assert list(place.iterdir()) == []


def test_a_path_with_nothing_in_it_is_one_line_that_says_so(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "link").symlink_to("/etc/passwd")
    process = demo(tmp_path / "bare")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert "nothing to store" in err
    assert "1 symbolic links" in err


def test_a_node_that_dies_is_one_line_with_its_last_words(demo: Demo, tree: Path, place: Path) -> None:
    process = demo(tree)
    wait_for(lambda: len(processes_of(place)) == 5)
    os.kill(processes_of(place)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert "was ended by signal 9; its log ends: " in err
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def test_files_that_change_meanwhile_are_compared_as_they_were_stored(demo: Demo, tree: Path) -> None:
    changing = [tree / "sub" / f"{number}.txt" for number in range(20)]
    process = demo(tree, "-o", "json")
    rounds = 0
    while process.poll() is None:
        rounds += 1
        for path in changing:
            path.write_bytes(b"%d " % rounds * (rounds % 900))
        (tree / "sub" / f"{rounds % 20 + 20}.txt").unlink(missing_ok=True)
        time.sleep(0.005)
    found = outcome(process)
    assert found["equal"] is True
    assert found["changed_meanwhile"] >= 1  # how many is up to whoever gets the processor


def test_kept_nodes_outlive_it_and_end_when_their_holder_is_killed(demo: Demo, tree: Path, place: Path) -> None:
    kept = outcome(demo(tree, "--keep", "--nodes", "3", "-o", "json"))["kept"]
    home = Path(kept["home"])
    assert home.parent == place

    def states(name: str) -> list[str]:
        command = [sys.executable, "-m", "bms", "nodes", "--node", name, "-o", "json"]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "BMS_HOME": str(home)}, capture_output=True, text=True,
            check=False, timeout=GONE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [member["state"] for member in json.loads(done.stdout)]

    for node in kept["nodes"]:
        wait_for(lambda: states(node["name"]) == ["alive"] * 3)  # noqa: B023 - it is over before the next
    os.kill(kept["stop_pid"], signal.SIGTERM)
    wait_for(lambda: not processes_of(place))
    assert (home / "demo" / "n1" / "data.sqlite").is_file()


def test_a_demo_that_stays_can_be_looked_at_until_it_is_interrupted(demo: Demo, tree: Path, place: Path) -> None:
    process = demo(tree, "--stay", "--nodes", "3", "-o", "json")
    assert process.stdout is not None
    assert process.stderr is not None
    found = json.loads(process.stdout.readline())
    assert found["equal"] is True
    url, _, code = found["dashboard"].partition("/#login=")
    assert url == found["nodes"][0]["http_url"]
    with httpx.Client(base_url=url, trust_env=False, timeout=GONE_S) as client:
        token = client.post("/api/v1/login", json={"code": code}).json()["token"]
        answer = client.get("/api/v1/nodes", headers={"Authorization": f"Bearer {token}"})
        assert sorted(node["name"] for node in answer.json()["nodes"]) == ["n1", "n2", "n3"]
        assert client.post("/api/v1/login", json={"code": code}).is_client_error
    assert all(httpx.get(f"{node['http_url']}/livez", trust_env=False).is_success for node in found["nodes"])
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 0
    assert process.stderr.read() == ""
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def test_it_cannot_both_stay_and_leave_its_nodes_behind(demo: Demo, place: Path) -> None:
    process = demo("--stay", "--keep")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "--keep" in err
    assert list(place.iterdir()) == []


def test_a_reader_that_goes_away_ends_it_without_a_trace(demo: Demo, tree: Path, place: Path) -> None:
    process = demo(tree)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(DEADLINE_S)
    assert process.returncode == 1
    assert err == ""
    assert list(place.iterdir()) == []
    assert processes_of(place) == []
