"""The node processes of a demonstration and their folder: started, killed, kept or ended, and never left behind.

    FOLDER/                   bms-demo-*, BMS_HOME of all nodes, mode 0700
    FOLDER/demo.lock          held with flock(2) by all processes of the demonstration
    FOLDER/demo/NAME/         a node's folder
    FOLDER/NAME.log           what it wrote to standard error

Each node is `bms up --exit-with-stdin` in a session of its own, so that a terminal's interrupt or end does not reach
it. All of them read one pipe, the leash, whose other end only this process holds: when it ends, by SIGKILL too, the
nodes see the end of their input and end by themselves. Nodes that are to be kept get another holder of the leash, a
process that does nothing else and goes when they have gone.

A folder whose lock nobody holds is of a demonstration that was killed, with all of its processes gone: the next one
removes it. Nodes that are kept have no such lock any more, so that their folder stays until somebody removes it.

`close` ends and reaps every process and removes the folder; it runs under no event loop and raises nothing, so that it
can stand in a `finally` that signals, which only set flags here, cannot cut short.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import trio

from ..control import SOCKET_NAME, ControlClient, open_control
from .program import Failed

__all__ = ["MESH", "Fleet", "Member"]

MESH = "demo"

_READY_S = 120.0
_REAP_S = 10.0
_LOOK_S = 0.1
_PREFIX, _LOCK = "bms-demo-", "demo.lock"
_LOG_LINES = 3
_LOG_BYTES = 4096

_HOLDER = "import select, sys; p = select.poll(); p.register(int(sys.argv[1]), 0); p.poll()"
"""Waits until the pipe has no reader any more; needs nothing but an interpreter."""


@attrs.define(eq=False)
class Member:
    """One node. `data` is for values, `watch` for questions, which should not wait behind them; valid while `is_up`."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] = attrs.Factory(dict)
    is_up: bool = False
    expected: bool = False
    life: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _data: ControlClient | None = None
    _watch: ControlClient | None = None

    @property
    def data(self) -> ControlClient:
        """The connection for values."""
        assert self._data is not None
        return self._data

    @property
    def watch(self) -> ControlClient:
        """The connection for questions."""
        assert self._watch is not None
        return self._watch


class Fleet:
    """All nodes of one demonstration. Made before anything else, closed after everything else."""

    def __init__(self, count: int) -> None:
        try:
            _sweep(Path(tempfile.gettempdir()))
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
            self._lock = _take_lock(self.folder)
        except OSError as error:
            where = error.filename or tempfile.gettempdir()
            raise Failed(
                f"no folder can be made at {where} ({error.strerror}): set TMPDIR to a writable one"
            ) from error
        self.members = [Member(f"n{number}", self.folder / MESH / f"n{number}") for number in range(1, count + 1)]
        self._input, self._leash = os.pipe()
        self._holder: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------ starting

    def spawn(self, member: Member) -> int:
        """Start a node's process; returns the end of a pipe on which it will say that it is ready."""
        told, tell = os.pipe()
        command = [sys.executable, "-P", "-m", "bms", "up", "--dev", "--exit-with-stdin", "-o", "json"]
        command += ["--home", str(self.folder), "--mesh", MESH, "--name", member.name, "--http", "127.0.0.1:0"]
        try:
            with open(self.log_path(member), "ab") as log:
                member.process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                    command, stdin=self._input, stdout=tell, stderr=log, env=self._environment(),
                    pass_fds=(self._lock,), start_new_session=True,
                )  # fmt: skip
            member.expected = True
        except OSError as error:
            os.close(told)
            raise Failed(f"a node cannot be started: {error.strerror}: {error.filename or sys.executable}") from error
        finally:
            os.close(tell)
        return told

    def _environment(self) -> dict[str, str]:
        """This process's, without settings of the user's own nodes."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BMS_")}
        environment["BMS_HOME"] = str(self.folder)
        environment.pop("PYTHONWARNINGS", None)
        root = Path(__file__).parents[2]
        if root.name not in ("site-packages", "dist-packages"):  # run from a source tree
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
        return environment

    async def serve(self, member: Member, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start a node and hold its connections until its `life` is cancelled; started once it answers."""
        member.life = trio.CancelScope()
        with member.life:
            told = self.spawn(member)
            async with trio.lowlevel.FdStream(told) as stream:
                member.ready = await self._ready(member, stream)
            path = member.folder / SOCKET_NAME
            async with open_control(path) as data, open_control(path) as watch:
                member._data, member._watch, member.is_up = data, watch, True
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    member.is_up = False

    async def _ready(self, member: Member, stream: trio.lowlevel.FdStream) -> dict[str, Any]:
        text = b""
        with trio.move_on_after(_READY_S):
            while not text.endswith(b"\n"):
                part = await stream.receive_some(4096)
                if not part:
                    await self._raise_dead(member)
                text += part
            found: dict[str, Any] = json.loads(text)
            return found
        raise Failed(
            f"node {member.name} did not start within {_READY_S:.0f} s; its log ends: {self.last_words(member)}"
        )

    # ------------------------------------------------------------------ watching

    def log_path(self, member: Member) -> Path:
        """Where a node's log goes."""
        return self.folder / f"{member.name}.log"

    def last_words(self, member: Member) -> str:
        """The last lines of a node's log as one."""
        try:
            with open(self.log_path(member), "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_BYTES))
                lines = log.read().decode("utf-8", "backslashreplace").splitlines()
        except OSError as error:
            return f"(unreadable: {error.strerror})"
        return " | ".join(line.strip() for line in lines[-_LOG_LINES:]) or "(empty)"

    def dead(self) -> Member | None:
        """A node that has ended without being told to."""
        for member in self.members:
            if member.expected and member.process is not None and member.process.poll() is not None:
                return member
        return None

    def epitaph(self, member: Member) -> str:
        """What to say of a node that is dead."""
        assert member.process is not None
        status = member.process.returncode
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"node {member.name} {how}; its log ends: {self.last_words(member)}"

    async def _raise_dead(self, member: Member) -> None:
        with trio.move_on_after(_REAP_S):
            while member.process is not None and member.process.poll() is None:  # noqa: ASYNC110 - a process's end
                await trio.sleep(_LOOK_S / 10)
            raise Failed(self.epitaph(member))
        raise Failed(f"node {member.name} closed its output; its log ends: {self.last_words(member)}")

    async def guard(self) -> None:
        """Raise `Failed` as soon as a node has ended that should not have."""
        while True:
            found = self.dead()
            if found is not None:
                raise Failed(self.epitaph(found))
            await trio.sleep(_LOOK_S)

    # ------------------------------------------------------------------ ending

    def kill(self, member: Member) -> None:
        """End a node with SIGKILL, as a power cut would; its folder stays."""
        assert member.process is not None
        member.expected = False
        member.process.kill()
        member.process.wait()
        member.life.cancel()

    def keep(self) -> int:
        """Let the nodes outlive this process; returns the process whose end ends them all."""
        self._holder = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-S", "-c", _HOLDER, str(self._leash), str(self.folder)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(self._leash,), start_new_session=True, cwd="/",
        )  # fmt: skip
        (self.folder / _LOCK).unlink(missing_ok=True)
        return self._holder.pid

    def close(self, *, keep: bool = False) -> str | None:
        """End all processes and remove the folder, unless they are kept; what could not be done, if anything."""
        if keep and self._holder is not None:
            self._let_go()
            for process in self._processes():
                process.returncode = 0  # it goes on; nobody here waits for it any more
            return None
        for process in self._processes():
            process.kill()
        stuck = []
        for process in self._processes():
            try:
                process.wait(_REAP_S)
            except subprocess.TimeoutExpired:  # in the kernel, on a disk that does not answer
                stuck.append(process.pid)
        problem = f"processes that do not end: {', '.join(map(str, stuck))}" if stuck else None
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            problem = f"{self.folder} could not be removed ({error.strerror}): remove it"
        self._let_go()
        return problem

    def _let_go(self) -> None:
        for descriptor in (self._leash, self._input, self._lock):
            os.close(descriptor)

    def _processes(self) -> list[subprocess.Popen[bytes]]:
        started = [member.process for member in self.members] + [self._holder]
        return [process for process in started if process is not None]


def _take_lock(folder: Path) -> int:
    """Make and hold the lock of a folder; it has its name only once it is held."""
    scratch = folder / (_LOCK + ".new")
    try:
        descriptor = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(scratch, folder / _LOCK)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return descriptor


def _sweep(place: Path) -> None:
    """Remove what demonstrations that were killed have left there: only this user's, and only where all has ended."""
    for folder in place.glob(_PREFIX + "*"):
        try:
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                continue
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # without a lock: kept, or of somebody else
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        except OSError:
            continue  # in use, or cannot be removed: the demonstration at hand is not the one to say so
        finally:
            os.close(descriptor)
