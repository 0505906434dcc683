"""Frames: where one message of a stream ends and the next begins.

    0        4                4 + n
    | n: u32 | payload        |        n is big-endian, 1 to `frame_bytes_max`

A length of 0 is malformed (no CBOR item is empty). A length above the limit is refused as soon as its four bytes are
there, before any of the payload. `FrameReader` holds at most one unfinished frame, copies each byte a constant number
of times however the stream is cut, and reserves nothing for a length that is only declared.

Deliberately absent: what a payload means, and when a peer that stops in the middle of a frame is given up (`net`).
"""

from __future__ import annotations

from ..errors import LimitError, LocalProtocolError, RemoteProtocolError

__all__ = ["FRAME_BYTES_MAX", "LENGTH_BYTES", "FrameReader", "frame"]

FRAME_BYTES_MAX = 2**20
"""The limit unless both sides of a link say more (bytes of payload)."""

LENGTH_BYTES = 4
_LENGTH_MAX = 2**32 - 1


def frame(payload: bytes) -> bytes:
    """The payload with its length before it. Raises `LocalProtocolError` if it is empty, `LimitError` from 4 GiB up.

    Whether the peer takes a frame of this size is the link's to know.
    """
    if not payload:
        raise LocalProtocolError("a frame holds one CBOR item, and that is never empty")
    if len(payload) > _LENGTH_MAX:
        raise LimitError(f"a frame of {len(payload)} bytes; its length must fit into 32 bits")
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


class FrameReader:
    """Cuts a stream into payloads. One per direction of a link; not shared.

    `frame_bytes_max` (bytes of payload) may be raised while reading, as a link does once it knows its peer.
    After an error the reader stays at the offending length and refuses again; the frames before it in the same
    `feed` are dropped with the connection.
    """

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._rest = bytearray()  # the unfinished frame, from the first byte of its length
        self._wanted = LENGTH_BYTES  # as many bytes as `_rest` needs before it is worth looking at

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished frame have come; 0 at the end of a stream that was not cut off."""
        return len(self._rest)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take what arrived; return the payloads that it completes, in order.

        Raises `RemoteProtocolError` for an empty frame or one above the limit.
        """
        payloads: list[bytes] = []
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._wanted:
                return payloads
            if self._wanted > LENGTH_BYTES:  # a large frame's payload is copied out of `rest` only once
                with memoryview(rest) as held:
                    payloads.append(bytes(held[LENGTH_BYTES : self._wanted]))
                    data = bytes(held[self._wanted :])
            else:
                data = bytes(rest)
            rest.clear()
        elif type(data) is not bytes:
            data = bytes(data)
        start, end = 0, len(data)
        self._wanted = LENGTH_BYTES
        while end - start >= LENGTH_BYTES:
            body = start + LENGTH_BYTES
            size = int.from_bytes(data[start:body], "big")
            if not 0 < size <= self.frame_bytes_max:
                rest += data[start:body]
                raise RemoteProtocolError(self._fault(size), code=6 if size else 1)
            if end - body < size:
                self._wanted = LENGTH_BYTES + size
                break
            start = body + size
            payloads.append(data[body:start])
        if start < end:
            rest += data[start:]
        return payloads

    def _fault(self, size: int) -> str:
        return f"a frame of {size} bytes; the limit is {self.frame_bytes_max}" if size else "an empty frame"
