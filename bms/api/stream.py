"""The server's side of one TCP connection, plain or TLS, in which every wait is bounded or can be ended from outside.

One task reads, one task writes; `close` may be called by anybody at any time and wakes both. A read gives b"" at the
end. What is wrong with a connection is a `trio.BrokenResourceError`, whatever the operating system or OpenSSL call it.

Driven as links are (net.tls): a non-blocking socket and `trio.lowlevel`, at less than half the CPU of
`trio.SSLStream`. OpenSSL may want to write while it reads (a key update) or the reverse; a client for which that has to
wait does not read, and its connection is broken.

Each 64 KiB (`PIECE_BYTES`) that are sent have a deadline, so that a client that reads one byte a second is as slow as
one that reads none. `linger` says goodbye and reads what still comes for a moment: closing a socket with unread bytes
resets the connection, and takes from the client the answer that it has not read yet (RFC 9112, section 9.6).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import trio

__all__ = ["PIECE_BYTES", "ServerStream"]

PIECE_BYTES = 64 * 1024
LINGER_S = 1.0
LINGER_BYTES_MAX = 4 * 1024 * 1024
_TLS_HANDSHAKE = 0x16
_HINT = b"This port speaks HTTPS: the address begins with https://\n"
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_HINT), _HINT)
)


class ServerStream:
    """One accepted connection. Takes over the socket of a `trio.SocketStream`."""

    def __init__(self, accepted: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=accepted.socket.detach())
        self._read: Callable[[int], bytes] = self._socket.recv
        self.alpn: str | None = None
        self.client_certificate: bytes | None = None
        self.is_tls = False
        self.is_closed = False
        self._said_goodbye = False
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            self.local = self._socket.getsockname()
        except OSError as error:  # it is gone already
            self._socket.close()
            raise trio.BrokenResourceError(str(error)) from error

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6, of the socket."""
        return self._socket.family

    async def handshake(self, context: ssl.SSLContext) -> None:
        """Put TLS on it. BrokenResourceError if that fails; whoever speaks HTTP to us is told what is wrong."""
        try:
            await trio.lowlevel.wait_readable(self._socket)
            first = self._socket.recv(1, socket.MSG_PEEK)
            if first and first[0] != _TLS_HANDSHAKE:
                self._socket.send(_PLAIN_ANSWER)
                await self.linger()
                raise trio.BrokenResourceError("no TLS handshake")
            plain = self._socket
            self._socket = secure = context.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            while True:
                try:
                    secure.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(self._socket)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(self._socket)
            self._read = secure.read
            self.alpn = secure.selected_alpn_protocol()
            self.client_certificate = secure.getpeercert(True)
            self.is_tls = True
        except (OSError, ValueError) as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def receive(self, limit: int) -> bytes:
        """At least one byte and at most `limit`, or b"" at the end."""
        await trio.lowlevel.checkpoint()  # whoever always has more to say must not keep the others from running
        while True:
            try:
                return self._read(limit)
            except (BlockingIOError, ssl.SSLWantReadError):
                await trio.lowlevel.wait_readable(self._socket)
            except (OSError, ValueError) as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def send(self, data: bytes, piece_timeout_s: float) -> None:
        """Send all of it, each piece within the time. Cancelled, the stream can only be closed."""
        view = memoryview(data)
        await trio.lowlevel.checkpoint()
        while view:
            piece = view[:PIECE_BYTES]
            with trio.move_on_after(piece_timeout_s) as scope:
                while piece:
                    try:
                        sent = self._socket.send(piece)
                    except (BlockingIOError, ssl.SSLWantWriteError):
                        await trio.lowlevel.wait_writable(self._socket)
                        continue
                    except (OSError, ValueError) as error:
                        raise trio.BrokenResourceError(str(error)) from error
                    piece, view = piece[sent:], view[sent:]
            if scope.cancelled_caught:
                raise trio.BrokenResourceError(f"the client has not read {len(piece)} bytes in {piece_timeout_s:g} s")

    async def linger(self) -> None:
        """Say that nothing more comes, and read what the client still sends, for a moment."""
        self._say_goodbye()
        with trio.move_on_after(LINGER_S):
            for _ in range(LINGER_BYTES_MAX // PIECE_BYTES):
                try:
                    await trio.lowlevel.wait_readable(self._socket)
                    if not socket.socket.recv(self._socket, PIECE_BYTES):  # not decrypted: nobody wants to know
                        return
                except BlockingIOError:
                    continue
                except (OSError, ValueError, trio.ClosedResourceError):
                    return

    def close(self) -> None:
        """Close at once, waiting for nobody; whoever reads or writes is woken. Harmless when closed."""
        if not self.is_closed:
            self.is_closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _say_goodbye(self) -> None:
        if self._said_goodbye or self.is_closed:
            return
        self._said_goodbye = True
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.unwrap()
        except (OSError, ValueError):
            pass  # the client need not answer (SSLWantReadError), and a broken connection needs no goodbye
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
