"""A founded mesh from fixed bytes, and one member of it: what most tests of this room begin with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import attrs
import pytest

from bms.security.authority import Authority
from bms.security.keys import BoxKey, NodeKey
from bms.security.records import Admission, NodeRecord
from bms.security.trust import Trust

NOW = 1_790_000_000.0


def _random_from(seed: str) -> Callable[[int], bytes]:
    """Endless "random" bytes that are the same in every run."""
    count = 0

    def token_bytes(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return token_bytes


@attrs.frozen
class Member:
    """A node with its keys, its admission and a first record."""

    node_key: NodeKey
    box_key: BoxKey
    admission: Admission
    record: NodeRecord

    @property
    def card(self) -> list[object]:
        """What it shows to others."""
        return [self.admission.signed, self.record.signed, self.record.details]


def _admit(authority: Authority, seed: str) -> Member:
    token_bytes = _random_from(seed)
    node_key, box_key = NodeKey.generate(token_bytes), BoxKey.generate(token_bytes)
    record = NodeRecord.sign(
        node_key,
        mesh_id=authority.mesh_id,
        boot=int(NOW * 1000),
        boot_id=token_bytes(16),
        incarnation=3,
        name=seed,
        addresses=[(0, "192.0.2.7", 7800), (1, "2001:db8::7", 7800)],
        box_keys=[box_key.public],
        versions=(1, 1),
        time=int(NOW * 1000),
        tags={"role": "camera"},
    )
    return Member(node_key, box_key, authority.issue_admission(node_key.node_id, now_ms=int(NOW * 1000)), record)


@pytest.fixture
def random_from() -> Callable[[str], Callable[[int], bytes]]:
    return _random_from


@pytest.fixture
def admit() -> Callable[[Authority, str], Member]:
    return _admit


@pytest.fixture
def now() -> float:
    return NOW


@pytest.fixture
def authority() -> Authority:
    return Authority.create(token_bytes=_random_from("mesh"), now=NOW)


@pytest.fixture
def trust(authority: Authority) -> Trust:
    return Trust(authority.bundle)


@pytest.fixture
def member(authority: Authority) -> Member:
    return _admit(authority, "alice")
