"""What a node's answers hold, back as the values of the API: for the control socket and for HTTP alike.

The answers are plain maps, as `answers.plain` makes them. A node of another version may answer what this one does not
understand: fields that it does not know are left out, and around the parsing `understood` turns whatever goes wrong
into one error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from ..errors import LocalProtocolError, RemoteProtocolError
from ..security.tokens import Claims
from ..values import Address, Node, NodeId, NodeState
from .answers import Status

__all__ = ["parse_claims", "parse_node", "parse_status", "understood"]


@contextmanager
def understood() -> Iterator[None]:
    """Around taking an answer apart; RemoteProtocolError for what is not understood."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, LocalProtocolError) as error:
        raise RemoteProtocolError("the node's answer is not understood; is it of another version?") from error


def parse_node(fields: dict[str, Any]) -> Node:
    """A `Node` from its fields."""
    address = fields["address"]
    typed = {
        "node_id": NodeId(fields["node_id"]),
        "address": None if address is None else Address.parse(address),
        "state": NodeState(fields["state"]),
    }
    known = attrs.fields_dict(Node)
    return Node(**{name: value for name, value in {**fields, **typed}.items() if name in known})


def parse_claims(fields: dict[str, Any]) -> Claims:
    """`Claims` from their fields."""
    known = attrs.fields_dict(Claims)
    return Claims(
        **{name: value for name, value in {**fields, "scopes": tuple(fields["scopes"])}.items() if name in known}
    )


def parse_status(fields: dict[str, Any]) -> Status:
    """A `Status` from its fields."""
    return Status(**{name: fields[name] for name in attrs.fields_dict(Status) if name in fields})
