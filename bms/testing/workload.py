"""What the nodes of a scenario do meanwhile: write, overwrite and delete keys, and send each other messages.

Four sorts of keys, each with what can be said about it for certain afterwards:

    once/HOST/N     written once, by one host            acknowledged: it is there
    own/HOST/N      written and deleted by one host,     it is as the last acknowledged change left it,
                    one change after another             or as a later one that nobody was told about did
    all/N           written by every host                it has a value that somebody wrote; all see the same one
    race/HOST/N     read, written and deleted by         each got what some one order of all of them explains
                    several tasks of one host at once

A host's program runs beside its node: it is killed with it, and begun anew when the node starts again.
"""

from __future__ import annotations

import random

import attrs
import trio

from ..errors import DeliveryError, MeshError, NotFoundError, StoreError
from ..values import Message
from .history import ACKNOWLEDGED, FAILED, UNKNOWN, Delivery, History, Sending, Write
from .linearizability import DELETE, READ, WRITE, Operation
from .world import SimHost, SimWorld

__all__ = ["Workload", "WorkloadRun"]

TOPIC = "workload"
_OWN_KEYS = 4
_SHARED_KEYS = 3
_RACE_KEYS = 2
_RACE_TASKS = (2, 5)
_RACE_S = 0.01
_UNDER_WAY_MAX = 16


@attrs.frozen(kw_only=True)
class Workload:
    """How much each node does: changes and messages a second, the share of changes that delete, bytes of a value, races
    a second. In a race a few tasks use one key within the time of a few commits.
    """

    writes_per_s: float = 2.0
    deletes: float = 0.2
    messages_per_s: float = 2.0
    value_bytes: int = 32
    races_per_s: float = 0.5
    deadline_s: float = 8.0


class WorkloadRun:
    """One run of a workload in one world. `stop` ends it; `history` is what came of it."""

    def __init__(self, sim: SimWorld, workload: Workload) -> None:
        self.history = History()
        self._sim = sim
        self._workload = workload
        self._is_over = False
        self._count = 0
        self._once = 0
        self._present: dict[str, bool] = {}

    def start(self, host: SimHost) -> None:
        """Let a host take part; again after each start of its node."""
        host.start_soon(self._receive, host)
        if not self._is_over:
            host.start_soon(self._write_forever, host, self._sim.chance(f"writes {host.name} {host.starts}"))
            host.start_soon(self._send_forever, host, self._sim.chance(f"messages {host.name} {host.starts}"))
            host.start_soon(self._race_forever, host, self._sim.chance(f"races {host.name} {host.starts}"))

    def stop(self) -> None:
        """Begin nothing new; what is under way ends by itself."""
        self._is_over = True

    def _over(self) -> bool:
        return self._is_over

    def _unique(self, host: SimHost) -> bytes:
        self._count += 1
        return f"{host.name}:{self._count}:".encode().ljust(self._workload.value_bytes, b".")

    # ------------------------------------------------------------------ writing

    async def _write_forever(self, host: SimHost, chance: random.Random) -> None:
        if not self._workload.writes_per_s:
            return
        while not self._is_over:
            await trio.sleep(chance.expovariate(self._workload.writes_per_s))
            if not self._is_over:
                await self._write(host, self._next_write(host, chance))

    def _next_write(self, host: SimHost, chance: random.Random) -> Write:
        kind = chance.random()
        value: bytes | None = self._unique(host)
        if kind < 0.4:
            self._once += 1
            key = f"once/{host.name}/{self._once}"
        elif kind < 0.8:
            key = f"own/{host.name}/{chance.randrange(_OWN_KEYS)}"
            if chance.random() < 2 * self._workload.deletes and self._present.get(key, False):
                value = None
        else:
            key = f"all/{chance.randrange(_SHARED_KEYS)}"
        return Write(key, value, host.name, trio.current_time())

    async def _write(self, host: SimHost, write: Write) -> None:
        self.history.writes.append(write)
        try:
            if write.value is None:
                await host.mesh.delete_data(write.key)
            else:
                await host.mesh.store_data(write.key, write.value)
            write.outcome = ACKNOWLEDGED
            self._present[write.key] = write.value is not None
        except (StoreError, NotFoundError) as error:
            write.outcome, write.error = FAILED, str(error)
        except MeshError as error:
            write.outcome, write.error = UNKNOWN, str(error)
        write.done_at = trio.current_time()
        self._sim.trace.note(f"write {host.name} {write.key} {write.outcome}", write.value or b"")

    # ------------------------------------------------------------------ races

    async def _race_forever(self, host: SimHost, chance: random.Random) -> None:
        if not self._workload.races_per_s:
            return
        while not self._is_over:
            await trio.sleep(chance.expovariate(self._workload.races_per_s))
            if self._over():
                return
            key = f"race/{host.name}/{chance.randrange(_RACE_KEYS)}"
            async with trio.open_nursery() as nursery:
                for number in range(chance.randint(*_RACE_TASKS)):
                    nursery.start_soon(self._race, host, key, f"{host.name}.{number}", random.Random(chance.random()))

    async def _race(self, host: SimHost, key: str, client: str, chance: random.Random) -> None:
        """One task of a race: a few operations, one after another, overlapping with those of the others."""
        for _ in range(2):
            await trio.sleep(chance.uniform(0, _RACE_S))
            kind = chance.choices([READ, WRITE, DELETE], [0.5, 0.35, 0.15])[0]
            value = self._unique(host).rstrip(b".") if kind == WRITE else None
            await self._operate(host, Operation(client=client, kind=kind, invoked_at=0.0, key=key, value=value))

    async def _operate(self, host: SimHost, operation: Operation) -> None:
        history = self.history
        operation.invoked_at = history.moment(trio.current_time())
        history.operations.append(operation)
        try:
            if operation.kind == WRITE:
                assert operation.value is not None
                await host.mesh.store_data(operation.key, operation.value)
            elif operation.kind == DELETE:
                operation.result = await _deleted(host, operation.key)
            else:
                operation.result = await _read(host, operation.key)
        except StoreError:
            history.operations.remove(operation)  # it did not happen, and is no part of the history
        except MeshError:
            return  # the node was stopped meanwhile
        else:
            operation.returned_at = history.moment(trio.current_time())
        result = operation.result if isinstance(operation.result, bytes) else str(operation.result).encode()
        self._sim.trace.note(f"{operation.kind} {operation.client} {operation.key}", result)

    # ------------------------------------------------------------------ messages

    async def _send_forever(self, host: SimHost, chance: random.Random) -> None:
        if not self._workload.messages_per_s:
            return
        limit = trio.CapacityLimiter(_UNDER_WAY_MAX)
        async with trio.open_nursery() as nursery:
            while not self._is_over:
                await trio.sleep(chance.expovariate(self._workload.messages_per_s))
                others = [other for other in self._sim.hosts.values() if other is not host]
                if others and limit.available_tokens and not self._over():
                    nursery.start_soon(self._send, host, chance.choice(others), limit)

    async def _send(self, host: SimHost, to: SimHost, limit: trio.CapacityLimiter) -> None:
        sending = Sending(self._unique(host), host.name, to.name, trio.current_time())
        self.history.sendings.append(sending)
        async with limit:
            try:
                await host.mesh.send_message(to.node_id, sending.body, TOPIC, self._workload.deadline_s)
                sending.outcome, sending.starts = ACKNOWLEDGED, to.starts
            except DeliveryError as error:
                sending.outcome, sending.error = UNKNOWN, str(error)
            except MeshError as error:
                sending.outcome, sending.error = FAILED, str(error)
        self._sim.trace.note(f"message {host.name} {to.name} {sending.outcome}", sending.body)

    async def _receive(self, host: SimHost) -> None:
        starts = host.starts
        async with host.mesh.subscribe(TOPIC) as subscription:
            async for item in subscription:
                assert isinstance(item, Message), "direct messages are never missed"
                self.history.deliveries.append(Delivery(item.body, host.name, starts, trio.current_time()))


async def _deleted(host: SimHost, key: str) -> bool:
    """Delete a key; whether there was one."""
    try:
        await host.mesh.delete_data(key)
    except NotFoundError:
        return False
    return True


async def _read(host: SimHost, key: str) -> bytes | None:
    """The value of a key, None where there is none."""
    try:
        return (await host.mesh.retrieve_data(key)).value
    except NotFoundError:
        return None
