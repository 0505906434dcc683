"""Errors across the control socket: as class name, text and facts there, as the same class of `bms.errors` here.

    class                    facts
    ConfigError              field, value (as text), why
    QuorumError              acked, needed
    VersionConflictError     current, value
    RemoteError              kind, text
    RemoteProtocolError      code
    every other              none

A class that this side does not know (a newer node) becomes a `RemoteError` with its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import errors
from ..errors import (
    ConfigError,
    MeshError,
    QuorumError,
    RemoteError,
    RemoteProtocolError,
    VersionConflictError,
)
from ..wire.fields import NAME_BYTES_MAX, PROSE_BYTES_MAX, clip_text
from ..wire.messages import Failure

__all__ = ["error_untrusted", "failure"]

_FACTS: dict[type[MeshError], tuple[str, ...]] = {
    ConfigError: ("field", "value", "why"),
    QuorumError: ("acked", "needed"),
    VersionConflictError: ("current", "value"),
    RemoteError: ("kind", "text"),
    RemoteProtocolError: ("code",),
}

_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("field", "why", "kind", "text"), (str,)),
    **dict.fromkeys(("acked", "needed", "code"), (int,)),
    "current": (str, type(None)),
}

_BUILD: dict[str, Callable[[str, dict[str, Any]], MeshError]] = {
    "ConfigError": lambda text, facts: ConfigError(facts["field"], facts["value"], facts["why"]),
    "QuorumError": lambda text, facts: QuorumError(facts["acked"], facts["needed"]),
    "VersionConflictError": lambda text, facts: VersionConflictError(facts["current"], facts["value"]),
    "RemoteError": lambda text, facts: RemoteError(facts["kind"], facts["text"]),
    "RemoteProtocolError": lambda text, facts: RemoteProtocolError(text, facts["code"]),
}


def _fact(name: str, value: object) -> object:
    if name == "value" and not isinstance(value, bytes | None):
        return clip_text(str(value), PROSE_BYTES_MAX)
    return clip_text(value, PROSE_BYTES_MAX) if isinstance(value, str) else value


def failure(number: int, error: MeshError) -> Failure:
    """What is sent for `error`, in answer to command `number`."""
    kind = next(kind for kind in type(error).__mro__ if kind.__name__ in errors.__all__)
    facts = {name: _fact(name, getattr(error, name)) for name in _FACTS.get(kind, ())}
    return Failure(number, clip_text(kind.__name__, NAME_BYTES_MAX), clip_text(str(error), PROSE_BYTES_MAX), facts)


def error_untrusted(message: Failure) -> MeshError:
    """The error that a failure stands for. Raises `RemoteProtocolError` if its facts are not those of its class."""
    kind = getattr(errors, message.kind, None) if message.kind in errors.__all__ else None
    if kind is None:
        return RemoteError(message.kind, message.text)
    for name in _FACTS.get(kind, ()):
        if name not in message.facts or not isinstance(message.facts[name], _KINDS.get(name, object)):
            raise RemoteProtocolError(f"a {message.kind} without its {name}")
    if message.kind in _BUILD:
        return _BUILD[message.kind](message.text, message.facts)
    error: MeshError = kind(message.text)
    return error
