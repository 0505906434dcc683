"""TLS 1.3 channels: what a link needs of an encrypted stream, and nothing else.

`SocketChannel` drives a non-blocking `ssl.SSLSocket` and waits with `trio.lowlevel`, which costs less than half the CPU
of `trio.SSLStream`; `StreamChannel` puts `trio.SSLStream` on any other stream. Both authenticate both sides by
certificate (CERT_REQUIRED), speak TLS 1.3 only, issue no session tickets (a ticket would resume around a revocation)
and refuse a peer that did not agree on the ALPN protocol (OpenSSL does not).

Rules of a channel:
- One task receives, one task sends. `send_nowait` hands bytes over: either all of them are in the kernel (True), or the
  channel keeps them (False) and `flush` must finish before the next send. OpenSSL wants a write that would have blocked
  to be repeated with the same bytes; keeping them here makes that certain.
- A finished TLS 1.3 handshake says nothing to a *client* about the server's verdict on its certificate: only the
  link's welcome does.

References: RFC 8446 (TLS 1.3), RFC 7301 (ALPN). Absent: renegotiation, resumption, TLS 1.2, hostname checks (the
certificate names a node, not a host).
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
import tempfile
from typing import Protocol

import attrs
import trio

from ..errors import RemoteProtocolError
from ..security.identity import Identity

__all__ = [
    "ALPN",
    "STALL_S",
    "Channel",
    "SocketChannel",
    "StreamChannel",
    "TlsContexts",
    "TlsSocket",
    "load_chain",
    "make_contexts",
    "open_channel",
]

ALPN = "bms/1"
STALL_S = 60.0
_RECEIVE_BYTES = 64 * 1024
_IMMEDIATE_READS_MAX = 16
_SHORT_BYTES = 4096


class Channel(Protocol):
    """A stream for one link. `peer_certificate` is the DER that the peer has shown; None where there is no TLS
    underneath.
    """

    peer_certificate: bytes | None

    def send_nowait(self, data: bytes) -> bool:
        """Send without waiting; False if the channel keeps `data` and `flush` must follow. OSError if it is broken."""
        ...

    async def flush(self) -> None:
        """Wait until what `send_nowait` kept has gone out; broken when the peer takes nothing for `STALL_S`."""
        ...

    async def receive_some(self) -> bytes:
        """At least one byte, or b"" at the end."""
        ...

    async def aclose(self) -> None:
        """Close at once, waiting for nobody; harmless when closed, and works under cancellation."""
        ...


@attrs.frozen
class TlsContexts:
    """The two contexts of one identity."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class TlsSocket(ssl.SSLSocket):
    """`ssl.SSLSocket`, which reads once if the peer went away while it was being made, and stays open if that fails:
    nobody holds it then. A channel reads with `read`, so this is the only use of `recv`.
    """

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See the class."""
        try:
            return super().recv(buflen, flags)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EINVAL):
                self.close()
            raise


def load_chain(context: ssl.SSLContext, cert_pem: bytes, key_pem: bytes) -> None:
    """Load a chain from memory. OpenSSL's loader takes only paths: an unnamed file is the path where there is one."""
    if sys.platform == "linux":
        fd = os.memfd_create("bms-identity", os.MFD_CLOEXEC)
        try:
            os.write(fd, key_pem + b"\n" + cert_pem)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    else:
        with tempfile.TemporaryDirectory(prefix="bms-") as folder:
            path = os.path.join(folder, "identity.pem")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(key_pem + b"\n" + cert_pem)
            context.load_cert_chain(path)


def make_contexts(identity: Identity) -> TlsContexts:
    """Server and client context for `identity`: its chain shown, its mesh's roots trusted."""
    contexts = []
    roots = identity.trust_pem.decode("ascii")
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=roots)
        context.set_alpn_protocols([ALPN])
        context.sslsocket_class = TlsSocket
        load_chain(context, identity.cert_pem, identity.key_pem)
        contexts.append(context)
    contexts[0].num_tickets = 0
    return TlsContexts(*contexts)


def _checked_certificate(alpn: str | None, certificate: bytes | None) -> bytes:
    if alpn != ALPN:
        raise RemoteProtocolError(
            f"the peer does not speak {ALPN} (it offered {alpn or 'no protocol we know'})", code=5
        )
    if not certificate:
        raise RemoteProtocolError("the peer showed no certificate", code=2)
    return certificate


class SocketChannel:
    """A channel over a TCP socket."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._unsent: bytes | memoryview = b""
        self._reads = 0
        self._is_drained = False
        self._is_closed = False
        self.peer_certificate: bytes | None = None

    @classmethod
    async def open(cls, stream: trio.SocketStream, contexts: TlsContexts, *, server_side: bool) -> SocketChannel:
        """Take over the stream's socket and shake hands. OSError (ssl.SSLError) or RemoteProtocolError; closed then."""
        raw = socket.socket(fileno=stream.socket.detach())
        try:
            raw.setblocking(False)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = contexts.server if server_side else contexts.client
            sock = context.wrap_socket(
                raw, server_side=server_side, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
        except BaseException:
            raw.close()
            raise
        channel = cls(sock)
        try:
            while True:
                try:
                    sock.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(sock)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(sock)
            channel.peer_certificate = _checked_certificate(sock.selected_alpn_protocol(), sock.getpeercert(True))
        except BaseException:
            channel._close_now()
            raise
        return channel

    def send_nowait(self, data: bytes) -> bool:
        """See `Channel`."""
        assert not self._unsent, "flush() comes first"
        try:
            sent = self._sock.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._unsent = data
            return False
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            return False
        return True

    async def flush(self) -> None:
        """See `Channel`."""
        while self._unsent:
            with trio.move_on_after(STALL_S) as scope:
                await trio.lowlevel.wait_writable(self._sock)
            if scope.cancelled_caught:
                raise trio.BrokenResourceError(f"the peer has read nothing for {STALL_S:g} s")
            try:
                sent = self._sock.send(self._unsent)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                continue
            self._unsent = memoryview(self._unsent)[sent:]

    async def receive_some(self) -> bytes:
        """See `Channel`."""
        # After a short read nothing is likely to be there: asking costs an exception, so wait first.
        if self._is_drained and not self._sock.pending():
            await trio.lowlevel.wait_readable(self._sock)
            self._reads = 0
        while True:
            try:
                data = self._sock.read(_RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                self._reads = 0
                await trio.lowlevel.wait_readable(self._sock)
                continue
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._sock)
                continue
            # A peer that always has more to say must not keep the other tasks from running.
            self._is_drained = len(data) < _SHORT_BYTES
            self._reads += 1
            if self._reads >= _IMMEDIATE_READS_MAX:
                self._reads = 0
                await trio.lowlevel.checkpoint()
            return data

    async def aclose(self) -> None:
        """See `Channel`. Says goodbye (close_notify) if that needs no waiting."""
        self._close_now()

    def _close_now(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        trio.lowlevel.notify_closing(self._sock)
        if not self._unsent:
            try:
                self._sock.unwrap()
            except (OSError, ValueError):
                pass  # the peer need not answer, and a broken connection needs no goodbye
        self._sock.close()


class StreamChannel:
    """A channel over any Trio stream; without TLS if it is made directly (`enable_encryption = false`, in dev_mode
    alone).
    """

    def __init__(self, stream: trio.abc.Stream, transport: trio.abc.Stream) -> None:
        self._stream = stream
        self._transport = transport
        self._unsent = b""
        self.peer_certificate: bytes | None = None

    @classmethod
    async def open(cls, transport: trio.abc.Stream, contexts: TlsContexts, *, server_side: bool) -> StreamChannel:
        """Shake hands on `transport`, which is closed if that fails: OSError, trio.BrokenResourceError or
        RemoteProtocolError.
        """
        context = contexts.server if server_side else contexts.client
        stream = trio.SSLStream(transport, context, server_side=server_side, https_compatible=True)
        channel = cls(stream, transport)
        try:
            await stream.do_handshake()
            channel.peer_certificate = _checked_certificate(stream.selected_alpn_protocol(), stream.getpeercert(True))
        except BaseException:
            await trio.aclose_forcefully(transport)
            raise
        return channel

    def send_nowait(self, data: bytes) -> bool:
        """See `Channel`; always kept for `flush`, since such a stream cannot be asked to send without waiting."""
        assert not self._unsent, "flush() comes first"
        self._unsent = data
        return not data

    async def flush(self) -> None:
        """See `Channel`."""
        if self._unsent:
            with trio.move_on_after(STALL_S) as scope:
                await self._stream.send_all(self._unsent)
            if scope.cancelled_caught:
                raise trio.BrokenResourceError(f"the peer has not read {len(self._unsent)} bytes in {STALL_S:g} s")
            self._unsent = b""

    async def receive_some(self) -> bytes:
        """See `Channel`."""
        return bytes(await self._stream.receive_some(_RECEIVE_BYTES))

    async def aclose(self) -> None:
        """See `Channel`."""
        await trio.aclose_forcefully(self._transport)


async def open_channel(stream: trio.abc.Stream, contexts: TlsContexts, *, server_side: bool) -> Channel:
    """Put TLS on `stream` and own it from now on.

    Raises OSError (ssl.SSLError among them), trio.BrokenResourceError or RemoteProtocolError; the stream is closed
    then.
    """
    if isinstance(stream, trio.SocketStream):
        return await SocketChannel.open(stream, contexts, server_side=server_side)
    return await StreamChannel.open(stream, contexts, server_side=server_side)
