"""Replication beside a store that cannot be read for a while."""

from __future__ import annotations

import random
import secrets
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from bms.clock import HybridClock
from bms.config import Config
from bms.counters import Counters
from bms.data.entries import Entries
from bms.data.replication import Replication
from bms.security.trust import Trust
from bms.store.database import Database
from helpers import make_authority, make_identity


async def test_a_store_that_cannot_be_read_does_not_end_replication(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    identity = make_identity(make_authority(), tmp_path)
    database = Database(tmp_path / "data.sqlite", threads=False)
    entries = Entries(
        database,
        mesh_id=identity.mesh_id,
        node_key=identity.node_key,
        admission=identity.admission,
        trust=Trust(identity.bundle),
        clock=HybridClock(),
        wall_time=time.time,
        token_bytes=secrets.token_bytes,
    )
    replication = Replication(entries, config=Config(), counters=Counters(), chance=random.Random(1))
    database._reader.close()
    async with trio.open_nursery() as nursery:
        await nursery.start(replication.run)
        await trio.sleep(10)
        assert "cannot be promoted" in caplog.text
        nursery.cancel_scope.cancel()
    await database.aclose()
