"""A node is cancelled at many moments of its life, from its first step to its last, and leaves nothing behind.

The moments are counted in task steps of the node's own tasks, so that they fall between any two awaits of any of them.
What must hold after each: no task, thread, socket or file handle is left; the store opens again and holds everything
that was acknowledged; no message was delivered twice; and nothing crashed at the partner.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import trio

import bms
from helpers import until

POINTS_A_PHASE = 18
CLOSE_S = 60.0  # it takes 0.2 s on a machine that has nothing else to do


class Knife(trio.abc.Instrument):
    """Cancels a scope when the tasks under one root have made so many steps."""

    def __init__(self) -> None:
        self.living: set[trio.lowlevel.Task] = set()
        self.steps = 0
        self.cut_at: int | None = None
        self.scope = trio.CancelScope()

    def take(self, root: trio.lowlevel.Task, scope: trio.CancelScope, cut_at: int | None) -> None:
        """Count the steps of `root` and whatever it starts; cancel `scope` before step `cut_at`."""
        self.living = {root}
        self.steps = 0
        self.scope, self.cut_at = scope, cut_at

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.parent_nursery is not None and task.parent_nursery.parent_task in self.living:
            self.living.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.living.discard(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task in self.living:
            self.steps += 1
            if self.steps == self.cut_at:
                self.scope.cancel()


def handles() -> list[str]:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the handle of this very listing
    return found


def threads() -> list[str]:
    """The threads of this process but Trio's spare ones, which it keeps for ten seconds."""
    return sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread"))


@attrs.define
class Stage:
    """A node that is cut again and again, its partner, and what both have seen."""

    partner: bms.Mesh
    config: dict[str, Any]
    knife: Knife
    acknowledged: dict[str, bytes] = attrs.field(factory=dict)
    received: Counter[bytes] = attrs.field(factory=Counter)
    phases: dict[str, int] = attrs.field(factory=dict)
    run_number: int = 0
    cuts: int = 0

    async def live(self) -> None:
        """One life: start, link, work, end."""
        run = self.run_number
        async with bms.open_mesh(**self.config) as mesh:
            self.phases["start"] = self.knife.steps
            await mesh.register_node(str(self.partner.address))
            self.phases["link"] = self.knife.steps
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.write, mesh, f"{run}")
                nursery.start_soon(self.send, mesh, self.partner, f"{run}-there")
                nursery.start_soon(self.send, self.partner, mesh, f"{run}-back")
                nursery.start_soon(self.ask, mesh)
            self.phases["work"] = self.knife.steps
            await mesh.stop()
            self.phases["stop"] = self.knife.steps
            async with trio.open_nursery() as nursery:
                await mesh.start(nursery)
                self.phases["start again"] = self.knife.steps
                await self.write(mesh, f"{run} again")
                await mesh.shutdown()
        self.phases["shutdown"] = self.knife.steps

    async def write(self, mesh: bms.Mesh, name: str) -> None:
        """Put, and note what was acknowledged; one value is large."""
        for number in range(6):
            key, value = f"{name}/{number}", os.urandom(150_000 if number == 3 else 50)
            await mesh.store_data(key, value)
            self.acknowledged[key] = value

    async def send(self, sender: bms.Mesh, receiver: bms.Mesh, name: str) -> None:
        """Send to a subscriber; none may come twice."""
        async with receiver.subscribe(name) as messages:
            for number in range(4):
                body = f"{name}-{number}".encode()
                await sender.send_message(receiver.node_id, body, name)
                message = await anext(messages)
                assert isinstance(message, bms.Message)
                self.received[message.body] += 1
            with trio.move_on_after(0.001):
                self.received[(await anext(messages)).body] += 1  # type: ignore[union-attr]

    async def ask(self, mesh: bms.Mesh) -> None:
        """Ask the partner, and reconcile with it."""
        for number in range(3):
            assert await mesh.request(self.partner.node_id, bytes([number]), "echo") == bytes([number])
        await mesh.sync_with_peers()

    async def cut(self, cut_at: int | None) -> None:
        """One life that ends at a step (None: by itself), and what it may leave: nothing."""
        self.run_number += 1
        before = len(handles()), threads(), trio.lowlevel.current_statistics().tasks_living

        async def run() -> None:
            with trio.CancelScope() as scope:
                self.knife.take(trio.lowlevel.current_task(), scope, cut_at)
                await self.live()
            self.cuts += scope.cancelled_caught

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
        assert not self.knife.living, self.knife.living
        await until(lambda: not self.partner.is_connected(self.mesh_id), CLOSE_S)
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before[2], CLOSE_S)
        await until(lambda: len(handles()) <= before[0], CLOSE_S)
        assert threads() == before[1]
        await self.look_into_the_store()
        assert max(self.received.values(), default=1) == 1

    @property
    def mesh_id(self) -> str:
        """The node's id (the same in all its lives)."""
        others = [node.node_id for node in self.partner.nodes() if node.node_id != self.partner.node_id]
        return others[0] if others else self.partner.node_id

    async def look_into_the_store(self) -> None:
        """Open the store as the next life would; everything acknowledged is there."""
        mesh = bms.init(**self.config)
        try:
            for key, value in self.acknowledged.items():
                assert (await mesh.retrieve_data(key)).value == value, key
        finally:
            await mesh.shutdown()


def moments(phases: dict[str, int], count: int) -> list[int]:
    """Steps spread evenly over each phase, so that a short one is met as often as a long one."""
    found: list[int] = []
    start = 0
    for end in phases.values():
        found += [start + 1 + (end - start) * number // count for number in range(count)]
        start = end
    return sorted(set(found))


async def test_a_node_that_is_cancelled_at_any_moment_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    knife = Knife()

    async def echo(message: bms.Message) -> bytes:
        return message.body

    common: dict[str, Any] = {"dev_mode": True, "enable_discovery": False, "listen_address": "127.0.0.1:0"}
    async with (
        bms.open_mesh(**common, node_name="partner", enable_persistence=False) as partner,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(partner.serve_requests, "echo", echo)
        stage = Stage(partner, {**common, "node_name": "cut", "persistence_path": tmp_path / "cut"}, knife)
        trio.lowlevel.add_instrument(knife)
        try:
            for _ in range(2):  # the first makes the identity, and either may begin with a step more
                await stage.cut(None)
            points = moments(dict(stage.phases), POINTS_A_PHASE)
            assert len(points) >= 60
            for point in points:
                await stage.cut(point)
            await stage.cut(None)
        finally:
            trio.lowlevel.remove_instrument(knife)
        # A life may take some steps fewer than the measured one, and be over before it is cut.
        assert stage.cuts >= 60
        assert stage.acknowledged
        assert partner.counters["supervisor.crashes"] == partner.counters["net.handler_crashes"] == 0
        nursery.cancel_scope.cancel()
