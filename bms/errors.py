"""The error tree: one class for each thing a caller can do about a failure.

Facts are attributes, so that programs need not read prose. Each class says what it means for state. Errors of other
libraries are translated at the border where they appear, with `from`.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "ConfigError",
    "CorruptionError",
    "DeliveryError",
    "LimitError",
    "LocalProtocolError",
    "MeshError",
    "NotFoundError",
    "ProtocolError",
    "QuorumError",
    "RefusedError",
    "RemoteError",
    "RemoteProtocolError",
    "StoreError",
    "UnreachableError",
    "VersionConflictError",
]


class MeshError(Exception):
    """Everything that `bms` raises on purpose."""


class ConfigError(MeshError):
    """A setting must be changed. Nothing was started or changed.

    `field` is the setting's dotted name, `value` what it was, `why` what is wrong and what to do.
    """

    def __init__(self, field: str, value: object, why: str) -> None:
        self.field = field
        self.value = value
        self.why = why
        super().__init__(f"{field}: {why}")


class ClosedError(MeshError):
    """You closed it (or never started it). Nothing was done."""


class UnreachableError(MeshError):
    """The node could not be reached; nothing was sent. Trying again later may help."""


class DeliveryError(UnreachableError):
    """It was sent, but no answer came: whether it was delivered is unknown."""


class RefusedError(MeshError):
    """An identity, a token or a grant said no. Trying again without changing those does not help."""


class LimitError(MeshError):
    """A stated bound was met: too large, or too many at once. Nothing was done."""


class QuorumError(MeshError):
    """Fewer replicas than the level needs have acknowledged: `acked` of `needed`. The write may still spread."""

    def __init__(self, acked: int, needed: int) -> None:
        self.acked = acked
        self.needed = needed
        super().__init__(f"{acked} of the {needed} replicas needed have acknowledged")


class VersionConflictError(MeshError):
    """A compare-and-set lost. Nothing was written; `current` is the version in force and `value` its value."""

    def __init__(self, current: str | None, value: bytes | None = None) -> None:
        self.current = current
        self.value = value
        super().__init__(f"the version in force is {current or 'none'}")


class RemoteError(MeshError):
    """The other side's handler failed: `kind` is its exception's name, `text` its message."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text
        super().__init__(f"{kind}: {text}" if text else kind)


class NotFoundError(MeshError):
    """There is no such key, node, space or blob."""


class ProtocolError(MeshError):
    """Base of the two below; never raised itself."""


class LocalProtocolError(ProtocolError):
    """This program used the API in a way that cannot work. Nothing was done."""


class RemoteProtocolError(ProtocolError):
    """A peer sent what no correct peer sends. Its connection is dropped; nothing of it was taken.

    `code` is the close code sent to it (formats.md, wire.cddl).
    """

    def __init__(self, why: str, code: int = 1) -> None:
        self.code = code
        super().__init__(why)


class StoreError(MeshError):
    """The disk or the database said no (full, unwritable, in use). What was acknowledged before is safe."""


class CorruptionError(StoreError):
    """Stored bytes fail their checksum. They were not used and will not be spread."""
