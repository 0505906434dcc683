"""Frames: found however the stream is cut, refused as early as possible, never paid for in advance."""

from __future__ import annotations

import tracemalloc

import pytest

from bms.errors import LimitError, LocalProtocolError, RemoteProtocolError
from bms.wire.framing import FRAME_BYTES_MAX, FrameReader, frame


def test_a_frame_is_its_length_and_its_payload() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x03abc"
    assert frame(bytes(258))[:4] == b"\x00\x00\x01\x02"


def test_a_frame_cannot_be_empty() -> None:
    with pytest.raises(LocalProtocolError):
        frame(b"")


def test_a_frame_whose_length_does_not_fit_is_a_limit() -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return 2**32

    with pytest.raises(LimitError):
        frame(Large(b"x"))


def test_many_frames_come_out_of_one_read_in_order() -> None:
    payloads = [bytes([n]) * (n + 1) for n in range(200)]
    reader = FrameReader()
    assert reader.feed(b"".join(map(frame, payloads))) == payloads
    assert reader.held_bytes == 0


def test_frames_come_out_of_a_stream_that_arrives_byte_by_byte() -> None:
    reader = FrameReader()
    stream = frame(b"first") + frame(b"x" * 300) + frame(b"last")
    found = [(at, payload) for at, byte in enumerate(stream) for payload in reader.feed(bytes([byte]))]
    assert found == [(8, b"first"), (312, b"x" * 300), (320, b"last")]


def test_a_frame_of_a_mebibyte_may_arrive_byte_by_byte() -> None:
    # Copying what is held for each byte would be 500 GB.
    payload = bytes(range(256)) * (FRAME_BYTES_MAX // 256)
    reader = FrameReader()
    *before, last = [reader.feed(bytes([byte])) for byte in frame(payload)]
    assert not any(before)
    assert last == [payload]


def test_one_read_may_end_a_large_frame_and_hold_others_and_the_start_of_one_more() -> None:
    reader = FrameReader()
    stream = frame(b"l" * 100_000) + frame(b"a") + frame(b"b") + frame(b"cc")[:5]
    assert reader.feed(stream[:99_000]) == []
    assert reader.held_bytes == 99_000
    assert reader.feed(stream[99_000:]) == [b"l" * 100_000, b"a", b"b"]
    assert reader.held_bytes == 5
    assert reader.feed(b"c") == [b"cc"]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_payloads_are_bytes_of_their_own_whatever_was_fed(kind: type) -> None:
    buffer = bytearray(frame(b"one") + frame(b"two")[:5])
    reader = FrameReader()
    (payload,) = reader.feed(kind(buffer))
    buffer[:] = bytes(len(buffer))
    assert type(payload) is bytes
    assert payload == b"one"
    assert reader.feed(kind(b"wo")) == [b"two"]


def test_a_frame_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    reader = FrameReader(frame_bytes_max=10)
    assert reader.feed(frame(b"x" * 10)) == [b"x" * 10]
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed(frame(b"x" * 11)[:4])
    assert caught.value.code == 6


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_a_length_of_four_gibibytes_is_refused_with_its_fourth_byte_and_costs_nothing(cut: int) -> None:
    reader = FrameReader()
    length = b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        assert cut in (0, 4) or reader.feed(length[:cut]) == []
        with pytest.raises(RemoteProtocolError):
            reader.feed(length[cut % 4 :])
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        FrameReader().feed(b"\x00\x00\x00\x00")
    assert caught.value.code == 1


def test_a_declared_length_reserves_nothing() -> None:
    reader = FrameReader(frame_bytes_max=2**31)
    tracemalloc.start()
    try:
        assert reader.feed(b"\x7f\xff\xff\xff" + b"x" * 100) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_after_an_error_the_reader_stays_where_it_was() -> None:
    reader = FrameReader(frame_bytes_max=10)
    with pytest.raises(RemoteProtocolError):
        reader.feed(frame(b"fine") + b"\x00\x00\x00\x0b")
    for more in (b"", frame(b"fine")):
        with pytest.raises(RemoteProtocolError):
            reader.feed(more or b"\x00")


def test_the_limit_may_be_raised_once_the_peer_is_known() -> None:
    reader = FrameReader(frame_bytes_max=8)
    assert reader.feed(frame(b"hello")) == [b"hello"]
    reader.frame_bytes_max = 100
    assert reader.feed(frame(b"x" * 100)) == [b"x" * 100]


def test_an_empty_read_changes_nothing() -> None:
    reader = FrameReader()
    assert reader.feed(b"") == []
    assert reader.feed(frame(b"abc")[:6]) == []
    assert reader.feed(b"") == []
    assert reader.feed(b"c") == [b"abc"]
