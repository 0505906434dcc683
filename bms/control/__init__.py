"""The local Unix socket of a running node, for the command line and other programs of the same user.

    place       where the socket lies, its mode and its lock
    verbs       what can be asked: each verb is one call of the embedding API
    failures    errors across the socket
    server      `serve_control`: the node's end
    client      `open_control`: the other end

It speaks the frames of `wire`, with the messages command, result, item and failure (docs/reference/wire.cddl), which no
other link takes. A client of Mesh, nothing more: whatever can be done here can be done by a program that embeds a mesh.
"""

from .client import ControlClient, open_control
from .place import SOCKET_NAME
from .server import serve_control
from .verbs import Status

__all__ = ["SOCKET_NAME", "ControlClient", "Status", "open_control", "serve_control"]
