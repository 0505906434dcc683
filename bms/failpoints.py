"""Named places at which a test can kill, stop or fail the process. Off unless BMS_FAILPOINTS says otherwise.

    BMS_FAILPOINTS="store.after_commit=kill@20,data.in_apply=raise"

    kill     SIGKILL to this process: nothing is flushed, no handler runs
    pause    SIGSTOP to this process: it is frozen until SIGCONT
    raise    a StoreError, as if the disk had refused; only where the table allows it

`@N` acts at the N-th time that the place is come by, and not before it; without it at the first. `raise` then goes on
raising. The variable is read once, when this module is imported; a wrong one ends the import, so that no test passes
because of a misspelled name.

What it costs when it is off: `if failpoints.ARMED:` at each place, an empty dictionary. Not for production: whoever can
set the environment of a process can stop it anyhow. docs/reference/failpoints.md lists the names.
"""

from __future__ import annotations

import os
import signal

from .errors import LocalProtocolError, StoreError

__all__ = ["ARMED", "POINTS", "hit", "parse"]

POINTS: dict[str, tuple[str, bool]] = {
    "store.before_commit": ("every operation of a group has run, COMMIT has not", True),
    "store.after_commit": ("COMMIT has returned, nobody has been told yet", False),
    "store.before_checkpoint": ("closing: all writes are done, the log is not yet copied into the database", False),
    "store.after_checkpoint": ("closing: the log is copied and gone, the lock is still held", False),
    "data.before_push": ("an own commit is on disk, no peer has been sent it, its writers have not returned", False),
    "data.in_apply": ("one batch of another node's entries is written, the transaction is open", True),
    "data.before_blob_entry": ("the chunks of another node's value are on disk, its entry is not", True),
    "data.before_cursor": ("entries of a push are written, the cursor has not moved", True),
    "data.after_cursor": ("the cursor has moved, the transaction is open", True),
    "data.before_sync_cursor": ("a sync found the stores equal, the cursor has not moved to there", True),
    "data.after_sync_cursor": ("it has, the transaction is open", True),
    "identity.before_rename": ("a new identity or authority is on disk under its scratch name", True),
    "identity.written": ("it is in its place", False),
    "identity.before_commit": ("a renewed certificate and its key are on disk under a scratch name", True),
    "identity.committed": ("they are the ones that count, and none of both is in its place yet", True),
    "identity.moved": ("one of both is in its place", True),
    "registry.published": ("the file that tells other nodes of this machine where this one is has been written", False),
    "snapshot.written": ("a new peer snapshot is on disk under its scratch name", True),
    "snapshot.renamed": ("it is in the place of the old one, the folder is not yet flushed", True),
}
"""Each name: where it is, and whether `raise` is allowed there, since something in that place can fail."""

_ACTIONS = ("kill", "pause", "raise")


def parse(text: str) -> dict[str, list[str | int]]:
    """What BMS_FAILPOINTS asks for: by name, the action and how often the place is still passed by."""
    armed: dict[str, list[str | int]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = part.partition("=")
        action, _, number = rest.partition("@")
        if name not in POINTS or action not in _ACTIONS or not (number or "1").isdecimal():
            raise LocalProtocolError(f"BMS_FAILPOINTS: {part!r} is not NAME=kill|pause|raise[@N] with a known name")
        if action == "raise" and not POINTS[name][1]:
            raise LocalProtocolError(f"BMS_FAILPOINTS: nothing can fail at {name}; kill or pause there")
        armed[name] = [action, int(number or 1)]
    return armed


ARMED = parse(os.environ.get("BMS_FAILPOINTS", ""))


def hit(name: str) -> None:
    """Act, if this place is armed and its turn has come. Call it only `if ARMED`."""
    assert name in POINTS, name
    armed = ARMED.get(name)
    if armed is None:
        return
    action, left = armed[0], int(armed[1])
    if left > 1:
        armed[1] = left - 1
        return
    if action == "raise":
        raise StoreError(f"the failpoint {name} was hit")
    if action == "pause":
        armed[1] = 1 << 62
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
