"""Bytes to messages and back: the border where a peer's bytes become typed values.

    bytes of a stream  --framing-->  payloads  --codec-->  plain items  --messages-->  typed messages

- `framing`: a 4-byte big-endian length before each payload; a reader that any split of the stream leaves unmoved.
- `codec`: deterministic CBOR out, strict CBOR in (RFC 8949).
- `fields`: what one field of a message may be, as an annotation that also checks.
- `messages`: one class for each rule of `docs/reference/wire.cddl`.

Invariants:

- Whatever bytes arrive, the functions ending in `_untrusted` and `FrameReader.feed` return or raise
  `RemoteProtocolError`, nothing else. What they return has the types its annotations name, all the way down, apart
  from fields behind the known ones, which nobody reads.
- What a message cannot say on the wire, encoding refuses with `LocalProtocolError`: no message of ours ends a link
  because the peer must refuse it.
- `docs/reference/wire.cddl` and the classes say the same (`tests/unit/wire/test_cddl.py`); so do `tests/vectors/`.
- A length that a peer declares reserves nothing. A reader holds at most one unfinished frame. Decoding n bytes can
  take some 90 n bytes of memory for a moment (a frame of nothing but empty maps), so links read their first frames,
  before they know who is there, under a much smaller limit.

Pure: no sockets, no clock, no threads. Deliberately absent: signatures and what signed bodies hold (`security`,
`data`), negotiation and out-of-state messages (`net`), datagrams.
"""

from .codec import decode_body_untrusted, decode_untrusted, encode
from .framing import FrameReader, frame
from .messages import AnyMessage, CloseCode, LocalMessage, encode_message, frame_message, parse_message_untrusted

__all__ = [
    "AnyMessage",
    "CloseCode",
    "FrameReader",
    "LocalMessage",
    "decode_body_untrusted",
    "decode_untrusted",
    "encode",
    "encode_message",
    "frame",
    "frame_message",
    "parse_message_untrusted",
]
