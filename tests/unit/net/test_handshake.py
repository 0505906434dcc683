"""What the two sides' closes and broken connections mean to whoever dialed."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import trio

from bms.errors import RefusedError, RemoteProtocolError, UnreachableError
from bms.net.handshake import DuplicateLinkError, Introduction, close_error, shake_hands
from bms.security.trust import Trust
from bms.wire.framing import frame
from bms.wire.messages import Close, CloseCode, Welcome, encode_message
from helpers import make_authority, make_identity, make_record

MEANINGS = {
    CloseCode.GOING_AWAY: UnreachableError,
    CloseCode.PROTOCOL_ERROR: UnreachableError,
    CloseCode.REFUSED: RefusedError,
    CloseCode.DUPLICATE: DuplicateLinkError,
    CloseCode.OTHER_MESH: RefusedError,
    CloseCode.NO_COMMON_VERSION: RefusedError,
    CloseCode.AT_LIMIT: UnreachableError,
    CloseCode.SILENT: UnreachableError,
    CloseCode.REPLACED: UnreachableError,
    CloseCode.COPIED_KEY: RefusedError,
    99: UnreachableError,
}


@pytest.mark.parametrize(("code", "kind"), MEANINGS.items())
def test_every_close_code_has_one_meaning(code: int, kind: type[Exception]) -> None:
    assert set(CloseCode) <= set(MEANINGS)
    error = close_error(Close(code, "because"))
    assert type(error) is kind
    assert "because" in str(error)


class Gone:
    """A channel whose peer has closed; what it said before that can still be read."""

    peer_certificate: bytes | None = None

    def __init__(self, said: bytes) -> None:
        self._said = said

    def send_nowait(self, data: bytes) -> bool:
        raise BrokenPipeError("gone")

    async def flush(self) -> None:
        raise BrokenPipeError("gone")

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        said, self._said = self._said, b""
        return said

    async def aclose(self) -> None:
        pass


async def dial(folder: Path, channel: Gone) -> None:
    identity = make_identity(make_authority(), folder)
    me = Introduction(identity, make_record(identity), 2**20)
    await shake_hands(
        channel, me, Trust(identity.bundle), dialed=True, now_ms=0, token_bytes=secrets.token_bytes
    )  # fmt: skip


async def test_a_listener_that_refused_and_went_before_hello_was_sent_is_heard_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not you"):
        await dial(tmp_path, Gone(frame(encode_message(Close(CloseCode.REFUSED, "not you")))))


class Joined:
    """One end of a pair of channels on which what is sent at once arrives at once, as one read."""

    peer_certificate: bytes | None = None

    def __init__(self, sends: trio.MemorySendChannel[bytes], receives: trio.MemoryReceiveChannel[bytes]) -> None:
        self.sends, self.receives = sends, receives
        self.behind_welcome = b""

    def send_nowait(self, data: bytes) -> bool:
        is_welcome = data[4:].startswith(encode_message(Welcome(version=1, observed=None))[:2])
        self.sends.send_nowait(data + (self.behind_welcome if is_welcome else b""))
        return True

    async def flush(self) -> None:
        raise AssertionError("nothing waits")

    async def receive_some(self) -> bytes:
        return await self.receives.receive()

    async def aclose(self) -> None:
        pass


async def test_a_long_frame_right_behind_the_welcome_is_no_fault_of_the_handshake(tmp_path: Path) -> None:
    """The cards of a mesh of forty nodes are such a frame, and may come in one read with the welcome."""
    authority = make_authority()
    there, back = trio.open_memory_channel[bytes](9), trio.open_memory_channel[bytes](9)
    dialer, listener = Joined(there[0], back[1]), Joined(back[0], there[1])
    listener.behind_welcome = frame(bytes(60_000))
    waiting: list[bytes] = []

    async def shake(name: str, channel: Joined, dialed: bool) -> None:
        identity = make_identity(authority, tmp_path, name)
        me = Introduction(identity, make_record(identity), 2**20)
        _, _, behind = await shake_hands(
            channel, me, Trust(identity.bundle), dialed=dialed, now_ms=0, token_bytes=secrets.token_bytes
        )
        waiting.extend(behind)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, "a", dialer, True)
        nursery.start_soon(shake, "b", listener, False)
    assert waiting == [bytes(60_000)]


async def test_whoever_says_everything_but_hello_is_refused_soon(tmp_path: Path) -> None:
    class Polite(Gone):
        def send_nowait(self, data: bytes) -> bool:
            return True

    ignored = frame(b"\x83\x18\xff\x00\x00")
    hello_is_missing = pytest.raises(UnreachableError, match="closed the connection")
    with hello_is_missing:
        await dial(tmp_path / "few", Polite(ignored * 16))
    with pytest.raises(RemoteProtocolError, match="everything but"):
        await dial(tmp_path / "many", Polite(ignored * 17))


async def test_a_listener_that_went_without_a_word_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        await dial(tmp_path, Gone(b""))
