"""A node's life ends at each of its checkpoints in turn, in every way it can end, and leaves nothing behind.

The lives run over real sockets, TLS, SQLite and one linked partner. Each way to end is swept over all checkpoints that
the program's task passes (`checkpoints`). After each end no task, thread, socket or file handle is left that was not
there before, at the partner neither; the folder can be locked again, and everything that was acknowledged is in it.
`pytest -rP` shows how many checkpoints each phase has.

The steps of all tasks of the node are many more, and so are the checkpoints of a life with HTTP: here a sample of them
is cut, with SWEEP=full all of them, as `nox -s sim` does.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from checkpoints import ANY_TASK, CTRL_C, GOING_ON, WAITING, Blade, handles, threads

import bms
from bms.client import open_client
from bms.control import SOCKET_NAME, open_control
from bms.control.server import serve_control
from helpers import until

SECONDS = 60
SAMPLE = None if os.environ.get("SWEEP") == "full" else 30
COMMON: dict[str, Any] = {"dev_mode": True, "enable_discovery": False, "listen_address": "127.0.0.1:0"}

Program = Callable[["Stage"], Awaitable[None]]


class UsersError(Exception):
    """What a user's program raises."""


@attrs.define
class Stage:
    """A node that lives again and again, its partner, and what was acknowledged."""

    partner: bms.Mesh
    config: dict[str, Any]
    blade: Blade
    taken: str
    """An address that nobody can bind."""
    way: str
    in_body: str | None = None
    """Where the body alone is cut: what it does then, "return" or "raise"."""
    acknowledged: dict[str, bytes] = attrs.field(factory=dict)
    phases: dict[str, int] = attrs.field(factory=dict)
    lives: int = 0
    cut_at: int | None = None
    mesh: bms.Mesh | None = None
    is_closing: bool = False
    """The program does nothing more but close."""
    was_left: bool = False
    """The body returned before its end."""
    was_over: bool = False
    """At the cut the life was over, and only what is shielded was left: the store's closing."""

    def mark(self, phase: str) -> None:
        """A phase of the program has ended."""
        self.phases[phase] = self.blade.count

    def take(self, scope: trio.CancelScope) -> None:
        """Count from here."""
        self.phases.clear()
        self.blade.take(scope, self.cut_at, self.way, self.note)

    def note(self) -> None:
        """Remember how far the life has come."""
        self.was_over = self.is_closing and self.mesh is not None and not self.mesh.is_running

    @contextmanager
    def body(self) -> Iterator[trio.CancelScope]:
        """The scope of the body; where the body alone is cut, counting begins and ends with it."""
        with trio.CancelScope() as scope:
            if self.in_body is not None:
                self.take(scope)
            yield scope
        if self.in_body is not None:
            self.blade.rest()

    async def write(self, mesh: bms.Mesh) -> None:
        """Put, and note what was acknowledged."""
        for _ in range(2):
            key, value = f"{self.lives}/{len(self.acknowledged)}", os.urandom(20)
            await mesh.store_data(key, value)
            self.acknowledged[key] = value

    async def end_at(self, program: Program, cut_at: int | None) -> bool:
        """One life that is cut at a checkpoint (None: lives to its end), and what it left: nothing.

        Whether the program heard of the cut.
        """
        self.lives += 1
        self.cut_at, self.mesh = cut_at, None
        self.is_closing = self.was_left = self.was_over = False
        heard: list[BaseException] = []

        def now() -> object:
            return trio.lowlevel.current_statistics().tasks_living, threads(), handles()

        before = now()
        with trio.fail_after(SECONDS), trio.CancelScope() as scope:
            if self.in_body is None:
                self.take(scope)
            try:
                try:
                    await program(self)
                except UsersError as error:  # as itself, in no group
                    heard.append(error)
                finally:
                    self.blade.rest()
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()  # if Ctrl+C could not be told before
            except* KeyboardInterrupt as group:
                heard.append(group)
        assert self.blade.living <= {trio.lowlevel.current_task()}
        try:
            await until(lambda: now() == before, SECONDS)
        except trio.TooSlowError:
            raise AssertionError(f"cut at {cut_at}: there was {before}, there is {now()}") from None
        await self.look_into_the_store()
        return bool(heard) or scope.cancelled_caught or self.was_left

    async def look_into_the_store(self) -> None:
        """Open the folder as the next life would; everything acknowledged is there."""
        mesh = bms.init(**self.config)
        try:
            for key, value in self.acknowledged.items():
                assert (await mesh.retrieve_data(key)).value == value, key
        finally:
            await mesh.shutdown()


# ---------------------------------------------------------------------- the programs


async def opened(stage: Stage) -> None:
    """`open_mesh`, and in its body a link, writes, a message, the control socket and a client of it."""
    async with bms.open_mesh(**stage.config) as mesh:
        stage.mesh = mesh
        stage.mark("open_mesh")
        with stage.body() as scope:
            await mesh.register_node(str(stage.partner.address))
            stage.mark("register_node")
            await stage.write(mesh)
            await mesh.send_message(stage.partner.node_id, b"x", "t")
            stage.mark("writes and a message")
            assert mesh.folder is not None
            async with trio.open_nursery() as nursery:
                path = mesh.folder / SOCKET_NAME
                await nursery.start(serve_control, mesh, path)
                async with open_control(path) as client:
                    await client.put("by control", b"x")
                nursery.cancel_scope.cancel()
            stage.mark("control socket")
        if scope.cancelled_caught:
            if stage.in_body == "raise":
                raise UsersError
            stage.was_left = True
            return
        stage.is_closing = True
    if stage.in_body is None:
        stage.mark("close")


async def by_hand(stage: Stage) -> None:
    """`start`, `reconfigure` (one of them in vain), `stop`, `start`, `shutdown`."""
    stage.mesh = mesh = bms.init(**stage.config)
    try:
        async with trio.open_nursery() as nursery:
            await mesh.start(nursery)
            stage.mark("start")
            await mesh.register_node(str(stage.partner.address))
            await stage.write(mesh)
            stage.mark("link and writes")
            done = await mesh.reconfigure(
                listen_address="127.0.0.2:0", bootstrap_nodes=(str(stage.partner.address),),
                store={"cache_bytes": 1 << 20}, sync_interval=5.0,
            )  # fmt: skip
            assert {"listener", "discovery"} <= set(done.restarted)
            stage.mark("reconfigure")
            try:
                await mesh.reconfigure(listen_address=stage.taken, store={"cache_bytes": 1 << 21})
            except bms.UnreachableError:
                stage.mark("reconfigure in vain")
            await mesh.stop()
            stage.mark("stop")
            await mesh.start(nursery)
            stage.mark("start again")
            await stage.write(mesh)
            stage.mark("writes")
            stage.is_closing = True
            await mesh.shutdown()
            stage.mark("shutdown")
    finally:
        await mesh.shutdown()
    stage.mark("the end")


async def served(stage: Stage) -> None:
    """HTTP from the start, a client with a stream of events, HTTPS, a move, one in vain, `stop`, `start`."""
    stage.mesh = mesh = bms.init(**stage.config, http_address="127.0.0.1:0")
    try:
        async with trio.open_nursery() as nursery:
            await mesh.start(nursery)
            stage.mark("start")
            async with open_client(str(mesh.http_url), await mesh.issue_token(["*"])) as client:
                async with client.events(["data"]) as events:
                    await client.store_data("by http", b"x")
                    await anext(events)  # hello
                    assert (await anext(events))["key"] == "by http"
                stage.mark("a client")
                await mesh.start_https_server("127.0.0.1:0")
                stage.mark("https")
                await client.change_config({"http_address": "127.0.0.2:0"})  # the server that answers moves
                stage.mark("a move")
            try:
                await mesh.reconfigure(http_address=stage.taken, https_address=None)
            except bms.UnreachableError:
                stage.mark("a move in vain")
            assert mesh.http_url is not None
            assert mesh.https_url is not None
            await mesh.stop()
            stage.mark("stop")
            await mesh.start(nursery)
            stage.mark("start again")
            stage.is_closing = True
            await mesh.shutdown()
            stage.mark("shutdown")
    finally:
        await mesh.shutdown()
    stage.mark("the end")


# ---------------------------------------------------------------------- the sweep


@attrs.frozen
class Sweep:
    """What a sweep has counted: the checkpoints of a whole life by phase, and what became of the cuts."""

    phases: dict[str, int]
    cuts: int
    heard: int
    over: int
    """Cuts that the program did not hear of, since its life was over: what is shielded went on to its end."""
    uncut: int
    """The checkpoints of the last life, which ended before it could be cut."""


def sweep(folder: Path, program: Program, way: str, *, in_body: str | None = None, sample: int | None = None) -> Sweep:
    """End the program at each of its checkpoints in turn, or at a `sample` of them; the last life is not cut."""
    blade = Blade()

    async def main() -> Sweep:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            taken = f"127.0.0.1:{holder.getsockname()[1]}"
            async with bms.open_mesh(**COMMON, node_name="partner", enable_persistence=False) as partner:
                config = {**COMMON, "node_name": "cut", "persistence_path": folder / "cut"}
                async with partner.subscribe("t"):
                    stage = Stage(partner, config, blade, taken, way, in_body)
                    counted = await _sweep(stage, program, sample)
                assert partner.counters["supervisor.crashes"] == partner.counters["net.handler_crashes"] == 0
        return counted

    return trio.run(main, instruments=[blade])


async def _sweep(stage: Stage, program: Program, sample: int | None) -> Sweep:
    for _ in range(2):  # the first makes the identity
        assert not await stage.end_at(program, None)
    phases, start = {}, 0
    for phase, end in stage.phases.items():
        phases[phase], start = end - start, end
    cuts = heard = over = 0
    total = stage.blade.count
    last = 10 * total
    chosen: Iterable[int] = itertools.count(1)
    if sample is not None:
        some = random.Random(1).sample(range(1, total + 1), min(sample, total))
        chosen = [*sorted(some), last]
    for cut_at in chosen:
        is_heard = await stage.end_at(program, cut_at)
        if not stage.blade.has_cut and cut_at > total and (sample is None or cut_at == last):
            return Sweep(phases, cuts, heard, over, stage.blade.count)
        cuts += stage.blade.has_cut
        heard += is_heard
        over += not is_heard and stage.was_over
    raise AssertionError("a sweep ends past the last checkpoint")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Trio takes Ctrl+C from Python's own handler alone, which a job in the background starts without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def check(counted: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    """Every cut was heard of or came too late for that, and nothing went wrong behind the scenes."""
    sys.stdout.write(f"{counted}\n")
    assert counted.cuts >= 15
    assert counted.heard + counted.over == counted.cuts
    assert all(counted.phases.values())
    errors = [logging.Formatter().format(record) for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize("way", [WAITING, GOING_ON, CTRL_C])
@pytest.mark.parametrize("program", [opened, by_hand, served])
def test_a_life_may_end_at_any_checkpoint(
    program: Program, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sample = SAMPLE if program is served else None
    counted = sweep(tmp_path, program, way, sample=sample)
    check(counted, caplog)
    if sample is None:
        assert counted.uncut <= counted.cuts  # none was missed: the life that was not cut had come to no other


@pytest.mark.parametrize("way", [WAITING, GOING_ON])
@pytest.mark.parametrize("ending", ["return", "raise"])
def test_the_body_of_open_mesh_may_end_at_any_checkpoint(
    ending: str, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counted = sweep(tmp_path, opened, way, in_body=ending)
    check(counted, caplog)
    assert counted.uncut <= counted.cuts


@pytest.mark.parametrize("program", [opened, by_hand, served])
def test_a_life_may_end_at_any_step_of_any_of_its_tasks(
    program: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check(sweep(tmp_path, program, ANY_TASK, sample=SAMPLE), caplog)
