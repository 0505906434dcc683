"""PEM: round trips, what is ignored, what is refused, and agreement with another reader."""

from __future__ import annotations

import ssl

import pytest

from bms.security import pem


def test_blocks_come_back_in_order_with_their_labels() -> None:
    text = pem.dump("BMS ADMISSION", b"one") + pem.dump("CERTIFICATE", bytes(200)) + pem.dump("X", b"")
    assert pem.load(text) == [("BMS ADMISSION", b"one"), ("CERTIFICATE", bytes(200)), ("X", b"")]


def test_text_between_blocks_is_ignored() -> None:
    text = b"for node seven\n" + pem.dump("A", b"a") + b"\n# and\n" + pem.dump("B", b"b") + b"end"
    assert pem.load(text) == [("A", b"a"), ("B", b"b")]


def test_lines_may_end_as_on_windows() -> None:
    assert pem.load(pem.dump("A", bytes(100)).replace(b"\n", b"\r\n")) == [("A", bytes(100))]


@pytest.mark.parametrize("size", [1, 30, 60, 100, 150])
def test_a_block_that_is_cut_off_is_refused(size: int) -> None:
    whole = pem.dump("A", b"a")
    with pytest.raises(ValueError, match="cut off"):
        pem.load(whole + pem.dump("BMS ADMISSION", bytes(90))[: 11 + size])


def test_a_block_that_ends_under_another_label_is_refused() -> None:
    with pytest.raises(ValueError, match="cut off"):
        pem.load(b"-----BEGIN A-----\nAAAA\n-----END B-----\n")


def test_what_is_not_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="not base64"):
        pem.load(b"-----BEGIN A-----\nAA?A\n-----END A-----\n")


def test_it_writes_what_the_standard_library_writes() -> None:
    der = bytes(range(256)) * 3
    assert pem.dump(pem.CERTIFICATE, der).decode() == ssl.DER_cert_to_PEM_cert(der)
