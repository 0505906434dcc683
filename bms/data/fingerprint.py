"""Fingerprints of sets: LtHash over entry ids (formats.md; Bellare and Micciancio 1997; Lewi et al., ePrint 2019/227).

An id is expanded to 1,024 lanes of 16 bits; a set's sum is the lanes of all its ids added modulo 2^16 each. The order
does not matter, an id leaves by subtraction, and sums of disjoint sets add up. Finding two sets with one sum means
solving a lattice problem; XOR of hashes, in contrast, is forged by linear algebra in milliseconds.

A sum is one Python integer of 16,384 bits, lane i at bit 16·i. Lanes are added without carry into their neighbours: the
top bit of each is left out of the addition and put in by exclusive or (SIMD within a register). One update costs about
4 us.

Pure.
"""

from __future__ import annotations

from blake3 import blake3

__all__ = ["EMPTY", "SUM_BYTES", "add", "digest", "expand", "subtract", "sum_from_bytes", "sum_to_bytes"]

SUM_BYTES = 2048
EMPTY = 0

_CONTEXT = "bms fingerprint v1"
_DIGEST_BYTES = 16
_TOP = int.from_bytes(b"\x00\x80" * (SUM_BYTES // 2), "little")
_REST = int.from_bytes(b"\xff\x7f" * (SUM_BYTES // 2), "little")
_ALL = _TOP | _REST


def expand(entry_id: bytes) -> int:
    """The sum of the set that holds this id alone."""
    return int.from_bytes(blake3(entry_id, derive_key_context=_CONTEXT).digest(SUM_BYTES), "little")


def add(left: int, right: int) -> int:
    """The sum of both sets together."""
    return ((left & _REST) + (right & _REST)) ^ ((left ^ right) & _TOP)


def subtract(left: int, right: int) -> int:
    """The sum of the left set without the right one."""
    return ((left | _TOP) - (right & _REST)) ^ ((left ^ right ^ _ALL) & _TOP)


def sum_to_bytes(total: int) -> bytes:
    """A sum as it is stored."""
    return total.to_bytes(SUM_BYTES, "little")


def sum_from_bytes(data: bytes) -> int:
    """A stored sum."""
    return int.from_bytes(data, "little")


def digest(total: int) -> bytes:
    """What travels: 16 bytes by which equal sets are recognised."""
    return blake3(sum_to_bytes(total)).digest()[:_DIGEST_BYTES]
