"""The node's end of the control socket: takes commands, runs them on the mesh, answers.

    state of a connection    what ends it
    open                     end of stream; bytes that are no frame or no command; a reply left unread for `SEND_S`
    too many                 `CONNECTIONS_MAX` are open: one `LimitError` is sent and it is closed

Each connection has a reader, a writer and a task for each command under way, and is isolated: what goes wrong on it is
logged and ends it alone. Bounds: connections, commands at once on each (`COMMANDS_MAX`, beyond it a `LimitError`), the
length of a frame (the longest value and a little), and one reply in the socket at a time. Only a connection that
streams may stay unread: its stream waits, and the subscription behind it is bounded and says what it dropped.

The user who may connect may also stop the process and read its files; bounds are for mistakes, not for enemies.

Deliberately absent: authentication (the file's mode is it), commands from other machines.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import trio

from ..errors import LimitError, MeshError, RemoteError, RemoteProtocolError
from ..mesh import Mesh
from ..wire import FrameReader, frame_message, parse_message_untrusted
from ..wire.messages import Command, Item, Result
from .answers import CANCEL, COMMANDS_MAX
from .failures import failure
from .place import listening
from .verbs import STREAMS, VERBS, Arguments, Host

__all__ = ["CONNECTIONS_MAX", "SEND_S", "serve_control"]

log = logging.getLogger("bms.control")

CONNECTIONS_MAX = 32
SEND_S = 60.0

_FRAME_HEADROOM = 1 << 20
_READ_BYTES = 1 << 16


class _Connection:
    """One client: a reader (`serve`), a writer, and the commands under way."""

    def __init__(self, stream: trio.SocketStream, host: Host) -> None:
        self._stream = stream
        self._host = host
        self._commands: dict[int, trio.CancelScope] = {}
        self._streams = 0
        # Without a buffer: who answers waits until the writer takes it, and a cancelled command never cuts a frame.
        self._replies, self._written = trio.open_memory_channel[bytes](0)

    async def serve(self) -> None:
        """Answer commands until the client goes, and then end what it had begun."""
        reader = FrameReader(self._host.mesh.config.limits.value_bytes_max + _FRAME_HEADROOM)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            while data := await self._stream.receive_some(_READ_BYTES):
                for payload in reader.feed(data):
                    message = parse_message_untrusted(payload, local=True)
                    if isinstance(message, Command):
                        await self._take(message, nursery)
                    elif message is not None:
                        raise RemoteProtocolError(f"a client sends commands, not {type(message).__name__}")
            nursery.cancel_scope.cancel()

    async def _write(self, connection: trio.CancelScope) -> None:
        async for data in self._written:
            with trio.move_on_after(math.inf if self._streams else SEND_S) as patience:
                await self._stream.send_all(data)
            if patience.cancelled_caught:
                log.warning("a client did not read its reply for %g s; its connection is closed", SEND_S)
                connection.cancel()
                return

    async def _take(self, command: Command, nursery: trio.Nursery) -> None:
        if command.verb == CANCEL:
            number = command.arguments.get("id")
            if isinstance(number, int) and number in self._commands:
                self._commands[number].cancel()
        elif command.id in self._commands:
            raise RemoteProtocolError(f"command {command.id} is still under way")
        elif len(self._commands) >= COMMANDS_MAX:
            error = LimitError(f"{COMMANDS_MAX} commands are under way on this connection")
            await self._replies.send(frame_message(failure(command.id, error)))
        else:
            self._commands[command.id] = trio.CancelScope()
            nursery.start_soon(self._run, command)

    async def _run(self, command: Command) -> None:
        is_stream = command.verb in STREAMS
        self._streams += is_stream
        try:
            with self._commands[command.id]:
                await self._replies.send(await self._answer(command))
        finally:
            self._streams -= is_stream
            del self._commands[command.id]

    async def _answer(self, command: Command) -> bytes:
        """Run the command; its last reply, framed."""
        arguments = Arguments(command.verb, command.arguments)

        async def put(value: object) -> None:
            await self._replies.send(frame_message(Item(command.id, value)))

        try:
            if command.verb in STREAMS:
                await STREAMS[command.verb](self._host, arguments, put)
                return frame_message(Result(command.id, None))
            if command.verb in VERBS:
                return frame_message(Result(command.id, await VERBS[command.verb](self._host, arguments)))
            raise arguments.misuse("this node knows no such command; is it of another version?")
        except MeshError as error:
            return frame_message(failure(command.id, error))
        except Exception as error:
            log.exception("the command %s failed", command.verb)
            return frame_message(failure(command.id, RemoteError(type(error).__name__, str(error))))


async def serve_control(
    mesh: Mesh,
    path: Path,
    *,
    on_stop: Callable[[], None] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the commands of this machine's command line at `path` until cancelled.

    `on_stop` is what the command `stop` calls: it asks the process to drain and end, and returns at once; None refuses
    the command. Raises `StoreError` if the socket cannot be made.
    """
    host = Host(mesh, on_stop, trio.current_time())
    open_now = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal open_now
        open_now += 1
        try:
            async with stream:
                if open_now > CONNECTIONS_MAX:
                    error = LimitError(f"{CONNECTIONS_MAX} connections to this node are open")
                    await stream.send_all(frame_message(failure(0, error)))
                else:
                    await _Connection(stream, host).serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away
        except* RemoteProtocolError as group:
            log.warning("a client of the control socket was dropped: %s", group.exceptions[0])
        except* Exception:
            log.exception("a connection of the control socket failed")
        finally:
            open_now -= 1

    with listening(path) as bound:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, [listener])
            log.info("commands are taken at %s", path)
            task_status.started()
