"""What a service manager is told, on real datagram sockets."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from bms.cli.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A manager's socket, and its name as it stands in NOTIFY_SOCKET."""
    name = f"@bms-{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.setblocking(False)
        yield sock, name


def heard(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096))
        except BlockingIOError:
            return found


def test_each_state_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    notify = Notifier(name)
    notify("READY=1")
    notify("STOPPING=1")
    assert heard(sock) == [b"READY=1", b"STOPPING=1"]


async def test_the_watchdog_is_told_at_half_of_its_time(
    manager: tuple[socket.socket, str], mock_clock: trio.testing.MockClock
) -> None:
    sock, name = manager
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "OTHER": "x"}
    notify = Notifier.from_environment(environ)
    assert environ == {"OTHER": "x"}, "programs that are started from here do not speak for this one"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify.watchdog)
        await trio.testing.wait_all_tasks_blocked()
        assert heard(sock) == [b"WATCHDOG=1"]
        for _ in range(3):
            mock_clock.jump(1.4)
            await trio.testing.wait_all_tasks_blocked()
            assert heard(sock) == []
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked()
            assert heard(sock) == [b"WATCHDOG=1"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "{name}"},
        {"NOTIFY_SOCKET": "{name}", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "{name}", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "{name}", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
async def test_no_watchdog_is_told_where_none_is_meant_for_this_process(
    environ: dict[str, str], manager: tuple[socket.socket, str]
) -> None:
    sock, name = manager
    notify = Notifier.from_environment({key: value.format(name=name) for key, value in environ.items()})
    with trio.fail_after(60):
        await notify.watchdog()
    assert heard(sock) == []


def test_a_manager_that_is_not_there_or_does_not_read_harms_nobody(tmp_path: Path) -> None:
    Notifier(None)("READY=1")
    Notifier(str(tmp_path / "nowhere"))("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        for _ in range(2000):
            Notifier(str(tmp_path / "n"))("WATCHDOG=1")
