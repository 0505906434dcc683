"""What a channel does before there is a link on it."""

from __future__ import annotations

import gc
import socket
import struct
import sys
from pathlib import Path

import pytest
import trio

from bms.net.tls import SocketChannel, make_contexts
from helpers import make_authority, make_identity


async def test_a_connection_that_was_reset_before_tls_began_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contexts = make_contexts(make_identity(make_authority(), tmp_path))
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as server:
            stream = await trio.open_tcp_stream(*server.getsockname())
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()  # resets
        await trio.lowlevel.wait_readable(stream.socket)
        with pytest.raises(OSError):
            await SocketChannel.open(stream, contexts, server_side=False)
    gc.collect()
    assert not unraisable
