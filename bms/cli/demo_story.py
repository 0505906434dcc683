"""What happens in a demonstration, step by step.

    find        list the files
    start       the nodes come up, prove who they are, and all are linked with all
    store       every file is stored through the first node
    replicate   until every node holds the same
    verify      every value on every node against the files
    kill        the last node is ended with SIGKILL while values change through the others, which notice
    catch up    it starts again from its disk, until it holds what the others hold
    verify      everything once more

Files are only ever read: what changes is the mesh's data. Whether all went well is in the report; what makes going on
pointless (a node that dies by itself, a full disk) is raised.
"""

from __future__ import annotations

import random
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from ..config import Config
from ..errors import MeshError
from ..values import NodeState
from .dashboard import login_link
from .demo_fleet import Fleet, Member
from .demo_proof import Content, Proof, draw, flow
from .demo_report import Change, Killed, NodeRow, Phase, Report
from .demo_screen import Screen, file_count, size_text
from .demo_tree import LISTED_MAX, TOO_LARGE, UNREADABLE, File, Tree, read_file, scan
from .program import Failed

__all__ = ["play"]

_POLL_S = 0.03
_SAMPLE_S = 0.25
_LINKED_S = 60.0
_STALLED_S = 60.0
_NOTICED_S = 60.0
_LINK_S = 3600.0
_DISK_FACTOR = 2.2  # a value is in the database and, until the next checkpoint, in its log
_DISK_HEADROOM = 64 * 1024 * 1024
_CHANGED_MAX, _ADDED, _DELETED_MAX = 200, 100, 100

Operation = tuple[bytes, "Content | None", bytes]
"""A key, what it will hold (None: it is deleted), and the bytes."""


class _Story:
    """The parts of one demonstration while it runs."""

    def __init__(self, fleet: Fleet, report: Report, screen: Screen, nursery: trio.Nursery) -> None:
        self.fleet = fleet
        self.report = report
        self.screen = screen
        self.nursery = nursery
        self.proof = Proof(report)
        self.value_bytes_max = Config().limits.value_bytes_max
        report.nodes[:] = [NodeRow(member.name) for member in fleet.members]
        self.rows = {row.name: row for row in report.nodes}

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[Phase]:
        """Time one step."""
        phase = Phase(name, title)
        self.report.phases.append(phase)
        start = trio.current_time()
        self.screen.began(phase)
        yield phase
        phase.seconds = trio.current_time() - start
        self.screen.ended(phase)

    def up(self) -> list[Member]:
        """The nodes that can be asked."""
        return [member for member in self.fleet.members if member.is_up]

    # ------------------------------------------------------------------ numbers

    async def sample(self, member: Member) -> dict[str, Any]:
        """A node's statistics, put into its row."""
        stats = await member.watch.stats()
        row = self.rows[member.name]
        row.entries, row.bytes = stats["data"]["entries"], stats["data"]["bytes"]
        row.wire_bytes = row.wire_bytes_before + stats["bytes_sent"] + stats["bytes_received"]
        return stats

    async def sample_all(self) -> dict[str, dict[str, Any]]:
        """Those of all nodes that are up."""
        found: dict[str, dict[str, Any]] = {}

        async def one(member: Member) -> None:
            found[member.name] = await self.sample(member)

        async with trio.open_nursery() as nursery:
            for member in self.up():
                nursery.start_soon(one, member)
        return found

    async def sample_forever(self) -> None:
        """Keep the rows of the screen fresh."""
        while True:
            for member in self.up():
                try:
                    await self.sample(member)
                except MeshError:
                    pass  # it is being killed, or `guard` will say why it died
            await trio.sleep(_SAMPLE_S)

    # ------------------------------------------------------------------ find, start

    async def find(self, path: Path) -> Tree:
        """List the files."""
        with self.phase("find", "find the files") as phase:
            try:
                tree = await trio.to_thread.run_sync(scan, path, self.value_bytes_max, abandon_on_cancel=True)
            except OSError as error:
                raise Failed(f"{path} cannot be read ({error.strerror}): give a folder or a file that can") from error
            self.report.skipped = tree.skipped
            phase.detail = f"{file_count(len(tree.files))}, {size_text(tree.size)}"
            if tree.skipped:
                phase.detail += f"; skipped: {tree.skipped_text}"
        if not tree.files:
            skipped = f" ({tree.skipped_text})" if tree.skipped else ""
            raise Failed(f"there is nothing to store under {path}{skipped}: give a folder that has files")
        if len(tree.files) > LISTED_MAX:
            raise Failed(f"{path} has more than {LISTED_MAX:,} files: give a part of it")
        needed = int(len(self.fleet.members) * tree.size * _DISK_FACTOR) + _DISK_HEADROOM
        free = shutil.disk_usage(self.fleet.folder).free
        if free < needed:
            raise Failed(
                f"{self.fleet.folder.parent} has {size_text(free)} free and {size_text(needed)} may be needed: "
                "set TMPDIR to a larger disk, or give a smaller PATH"
            )
        return tree

    async def launch(self, member: Member) -> None:
        """Start one node and wait until it answers."""
        await self.nursery.start(self.fleet.serve, member)
        row = self.rows[member.name]
        row.node_id, row.state = member.ready["node_id"], "running"
        row.http_url = member.ready["http_url"]

    async def start(self) -> None:
        """Start all, and wait until each is linked with all others."""
        count = len(self.fleet.members)
        with self.phase("start", f"start {count} nodes") as phase:
            phase.total = count
            async with trio.open_nursery() as nursery:
                for member in self.fleet.members:
                    nursery.start_soon(self.launch, member)
            with trio.move_on_after(_LINKED_S) as patience:
                for member in self.fleet.members:
                    while (await member.watch.status()).connections < count - 1:  # noqa: ASYNC110 - another process
                        await trio.sleep(_POLL_S)
                    phase.done += 1
            if patience.cancelled_caught:
                words = self.fleet.last_words(self.fleet.members[phase.done])
                raise Failed(f"the nodes did not all find each other within {_LINKED_S:.0f} s; a log ends: {words}")
            phase.detail = f"{count} processes on loopback, every two linked by mutual TLS"
            await self.open_dashboard()

    async def open_dashboard(self) -> None:
        """Have a link to the dashboard of the first node shown."""
        found = await self.fleet.members[0].watch.login(ttl_s=_LINK_S)
        self.report.dashboard = login_link(found["http_url"], found["code"])
        home = shlex.quote(str(self.fleet.folder))
        self.screen.opened(self.report.dashboard, f"BMS_HOME={home} bms dashboard --node {self.fleet.members[0].name}")

    # ------------------------------------------------------------------ store, replicate

    async def store(self, tree: Tree) -> None:
        """Store every file through the first node."""
        first = self.fleet.members[0]
        with self.phase("store", f"store the files through {first.name}") as phase:
            phase.total = len(tree.files)

            async def put(file: File) -> None:
                phase.done += 1
                try:
                    found = await trio.to_thread.run_sync(
                        read_file, file.path, self.value_bytes_max, abandon_on_cancel=True
                    )
                except OSError:
                    tree.skip(UNREADABLE)
                    return
                if found is None:
                    tree.skip(TOO_LARGE)
                    return
                data, digest = found
                await first.data.put(file.key, data)
                self.proof.expected[file.key] = Content(len(data), digest, file.path)
                self.report.files += 1
                self.report.bytes += len(data)

            await flow(tree.files, lambda file: file.size, put)
            phase.detail = f"{file_count(self.report.files)}, {size_text(self.report.bytes)}"
            left_out = len(tree.files) - self.report.files
            if left_out:
                phase.detail += f"; {left_out} more could not be read"
        if not self.report.files:
            raise Failed(f"none of the files under {tree.root} can be read: give a folder whose files you may read")

    async def settle(self) -> dict[str, float | None]:
        """Wait until all nodes that are up hold the same; the moment at which each first did.

        None for a node that did not: when nothing has moved for a long time this gives up, and the proof says what is
        missing.
        """
        since: dict[str, tuple[str, float]] = {}
        moved = trio.current_time()
        while True:
            found = await self.sample_all()
            now = trio.current_time()
            states = {name: stats["data"]["fingerprint"] for name, stats in found.items()}
            for name, state in states.items():
                if name not in since or since[name][0] != state:
                    since[name] = (state, now)
                    moved = now
            is_settled = len(set(states.values())) == 1
            if is_settled or now - moved > _STALLED_S:
                goal = states[self.fleet.members[0].name]
                return {name: at if state == goal else None for name, (state, at) in since.items()}
            await trio.sleep(_POLL_S)

    async def replicate(self) -> None:
        """Wait until all hold what was stored."""
        with self.phase("replicate", "replicate to all") as phase:
            start = trio.current_time()
            for name, at in (await self.settle()).items():
                self.rows[name].seconds = None if at is None else max(0.0, at - start)
            slowest = max((row.seconds or 0.0 for row in self.report.nodes), default=0.0)
            phase.detail = f"the last node held all {slowest:.2f} s after the last file was stored"

    # ------------------------------------------------------------------ verify

    async def verify(self, name: str, title: str) -> None:
        """Compare everything on every node."""
        with self.phase(name, title) as phase:
            values, bytes_ = self.report.verified_values, self.report.verified_bytes
            for member, is_equal in (await self.proof.check(self.up(), phase)).items():
                self.rows[member].equal = is_equal
            phase.done = phase.total
            values, bytes_ = self.report.verified_values - values, self.report.verified_bytes - bytes_
            phase.detail = f"{values:,} values, {size_text(bytes_)} fetched and compared"
            wrong = [row.name for row in self.report.nodes if row.equal is False]
            if wrong:
                phase.detail += f"; not equal: {', '.join(wrong)}"
            if self.report.changed_meanwhile:
                changed = file_count(self.report.changed_meanwhile)
                phase.detail += f"; {changed} changed meanwhile, compared by digest"

    # ------------------------------------------------------------------ kill, catch up

    def plan(self) -> tuple[Change, list[Operation]]:
        """Which values will change, and how."""
        chance = random.Random(len(self.proof.expected))
        keys = sorted(self.proof.expected)
        changed = min(_CHANGED_MAX, (len(keys) + 1) // 2)
        deleted = min(_DELETED_MAX, len(keys) // 4)
        chosen = chance.sample(keys, changed + deleted)
        operations: list[Operation] = []
        prefix = b"bms-demo-added/"
        while any(key.startswith(prefix) for key in keys):
            prefix = b"+" + prefix
        for number, key in enumerate([*chosen[:changed], *(prefix + b"%03d" % n for n in range(_ADDED))]):
            data, content = draw(f"{number} {key.hex()}")
            operations.append((key, content, data))
        operations += [(key, None, b"") for key in chosen[changed:]]
        chance.shuffle(operations)
        return Change(changed, _ADDED, deleted), operations

    async def kill(self) -> Member:
        """End the last node with SIGKILL amid changes; each other notices."""
        victim, others = self.fleet.members[-1], self.fleet.members[:-1]
        self.report.changes, operations = self.plan()
        killed = self.report.killed = Killed(victim.name)
        with self.phase("kill", f"kill {victim.name} while values change") as phase:
            phase.total = len(operations)

            async def change(numbered: tuple[int, Operation]) -> None:
                number, (key, content, data) = numbered
                through = others[number % len(others)]
                if content is None:
                    await through.data.rm(key)
                    del self.proof.expected[key]
                else:
                    await through.data.put(key, data)
                    self.proof.expected[key] = content
                phase.done += 1

            third = len(operations) // 3
            numbered = list(enumerate(operations))
            await flow(numbered[:third], lambda item: len(item[1][2]), change)
            await self.sample(victim)
            self.strike(victim)
            struck = trio.current_time()
            async with trio.open_nursery() as nursery:
                for member in others:
                    nursery.start_soon(self.notice, member, victim, struck, killed)
                await flow(numbered[third:], lambda item: len(item[1][2]), change)
            noticed = [seconds for seconds in killed.noticed_s.values() if seconds is not None]
            phase.detail = f"{self.report.changes}; suspected by {len(noticed)} of {len(others)} nodes"
            if noticed:
                phase.detail += f" within {max(noticed):.2f} s"
        return victim

    def strike(self, victim: Member) -> None:
        """SIGKILL."""
        row = self.rows[victim.name]
        row.state, row.wire_bytes_before, row.equal = "killed", row.wire_bytes, None
        self.fleet.kill(victim)

    async def notice(self, member: Member, victim: Member, struck: float, killed: Killed) -> None:
        """Wait until a node shows that another is not there any more."""
        killed.noticed_s[member.name] = None
        with trio.move_on_after(_NOTICED_S):
            while True:
                for node in await member.watch.nodes():
                    is_victim = node.node_id == victim.ready["node_id"]
                    if is_victim and node.state in (NodeState.SUSPECT, NodeState.FAILED):
                        killed.noticed_s[member.name] = trio.current_time() - struck
                        return
                await trio.sleep(_POLL_S)
        self.report.problem(f"{member.name} did not notice within {_NOTICED_S:.0f} s that {victim.name} was killed")

    async def catch_up(self, victim: Member) -> None:
        """Start the killed node again; it takes what it missed."""
        killed = self.report.killed
        assert killed is not None
        row = self.rows[victim.name]
        with self.phase("catch up", f"{victim.name} restarts and catches up") as phase:
            row.state = "restarting"
            start = trio.current_time()
            await self.launch(victim)
            served = trio.current_time()
            row.state = "catching up"
            at = (await self.settle())[victim.name]
            killed.restarted_s = served - start
            killed.caught_up_s = None if at is None else max(0.0, at - served)
            killed.caught_up_bytes = row.wire_bytes - row.wire_bytes_before
            row.state = "running"
            phase.detail = f"serving after {killed.restarted_s:.2f} s"
            if killed.caught_up_s is not None:
                phase.detail += (
                    f", equal {killed.caught_up_s:.2f} s later; {size_text(killed.caught_up_bytes)} on the wire"
                )


async def play(path: Path, fleet: Fleet, report: Report, screen: Screen) -> None:
    """Run the whole demonstration; the nodes still run when it returns. Raises Failed or MeshError, also in groups."""
    async with trio.open_nursery() as nursery:
        story = _Story(fleet, report, screen, nursery)
        nursery.start_soon(screen.run)
        nursery.start_soon(fleet.guard)
        tree = await story.find(path)
        await story.start()
        nursery.start_soon(story.sample_forever)
        await story.store(tree)
        await story.replicate()
        await story.verify("verify", "verify every byte on every node")
        victim = await story.kill()
        await story.catch_up(victim)
        await story.verify("verify again", "verify everything again")
        await story.sample_all()
        nursery.cancel_scope.cancel()
